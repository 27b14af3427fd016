/* SPDX-License-Identifier: Apache-2.0
 *
 * The full model and the compressed one along one text, step by step: what each expects, how often
 * they expect the same, and how fast each decodes.
 */
#include "cloud/forge/compress.h"
#include "cloud/forge/metrics.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 64,
    FULL = 0,
    SMALL = 1
};

typedef struct judging {
    forge_session sessions[2];
    const int32_t *ids;
    size_t n;
    double nll[2];
    size_t n_same;
    double acceptance;
    double divergence;
    size_t n_judged;
} judging;

static void judging_close(judging *j)
{
    shoal_forge_session_close(&j->sessions[FULL]);
    shoal_forge_session_close(&j->sessions[SMALL]);
}

/* log of the sum of exponentials. */
static double log_sum(const float *x, size_t n)
{
    double most = (double)x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++) {
        most = fmax(most, (double)x[i]);
    }
    for (size_t i = 0; i < n; i++) {
        sum += exp((double)x[i] - most);
    }
    return most + log(sum);
}

static void judge_row(judging *j, const float *const logits[2], size_t n_vocab, int32_t next)
{
    double sums[2] = {log_sum(logits[FULL], n_vocab), log_sum(logits[SMALL], n_vocab)};
    double tv = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        double log_p = (double)logits[FULL][i] - sums[FULL];
        double log_q = (double)logits[SMALL][i] - sums[SMALL];
        double p = exp(log_p);
        tv += fabs(p - exp(log_q)) / 2;
        j->divergence += p * (log_p - log_q);
    }
    forge_judged full = shoal_forge_judge(logits[FULL], n_vocab, next);
    forge_judged small = shoal_forge_judge(logits[SMALL], n_vocab, next);
    j->nll[FULL] += full.nll;
    j->nll[SMALL] += small.nll;
    j->n_same += full.argmax == small.argmax;
    j->acceptance += shoal_forge_coupling_bound(fmin(tv, 1));
    j->n_judged++;
}

static shoal_status step(forge_session *s, const int32_t *ids, size_t n, size_t n_logits,
                         size_t *ret_logits_i)
{
    shoal_span span = {.seq = s->seq, .ids = ids, .n_ids = n, .n_logits = n_logits};
    SHOAL_TRY(shoal_engine_step(s->engine, &span, 1));
    *ret_logits_i = span.logits_i;
    return SHOAL_OK;
}

static shoal_status judge_window(judging *j, size_t at, size_t end)
{
    size_t n_vocab = j->sessions[FULL].model->hp.n_vocab;
    (void)shoal_kv_seq_truncate(j->sessions[FULL].seq, 0);
    (void)shoal_kv_seq_truncate(j->sessions[SMALL].seq, 0);
    for (; at + 1 < end; at += CHUNK) {
        size_t n = SHOAL_MIN(end - 1 - at, (size_t)CHUNK);
        size_t first[2] = {0};
        SHOAL_TRY(step(&j->sessions[FULL], j->ids + at, n, n, &first[FULL]));
        SHOAL_TRY(step(&j->sessions[SMALL], j->ids + at, n, n, &first[SMALL]));
        for (size_t i = 0; i < n; i++) {
            const float *const logits[2] = {
                shoal_engine_logits(j->sessions[FULL].engine, first[FULL] + i),
                shoal_engine_logits(j->sessions[SMALL].engine, first[SMALL] + i)};
            judge_row(j, logits, n_vocab, j->ids[at + i + 1]);
        }
    }
    return SHOAL_OK;
}

static shoal_status open_sessions(const forge_args *args, const char *compressed, judging *j,
                                  shoal_err *err)
{
    const char *const paths[2] = {args->model, compressed};
    for (size_t i = 0; i < 2; i++) {
        forge_args one = *args;
        one.model = paths[i];
        one.kv = i == FULL ? NULL : args->kv; /* what a level costs is the small one's */
        SHOAL_TRY(shoal_forge_session_open(&one, CHUNK, CHUNK, 0, &j->sessions[i], err));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_judge(const forge_args *args, const char *compressed,
                                        compress_verdict *ret_verdict, shoal_err *err)
{
    SHOAL_CLEANUP(judging_close) judging j = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    const shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    compress_verdict v = {0};
    SHOAL_TRY(shoal_file_read(args->compress.text, SHOAL_TEXT_MAX, &text, err));
    SHOAL_TRY(open_sessions(args, compressed, &j, err));
    SHOAL_TRY(shoal_tokenizer_encode(j.sessions[FULL].model->tokenizer, text.data ? text.data : "",
                                     text.length, flags, &ids, &j.n, err));
    j.ids = ids;
    j.n = SHOAL_MIN(j.n, (size_t)args->compress.tokens);
    size_t n_ctx = shoal_engine_n_ctx(j.sessions[FULL].engine);
    for (size_t at = 0; at + 1 < j.n; at += n_ctx) {
        SHOAL_TRY(judge_window(&j, at, SHOAL_MIN(j.n, at + n_ctx)));
    }
    if (j.n_judged == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: at least two tokens are needed",
                             args->compress.text);
    }
    double ms[2] = {0};
    SHOAL_TRY(shoal_forge_step_ms(&j.sessions[FULL], ids, j.n, &ms[FULL]));
    SHOAL_TRY(shoal_forge_step_ms(&j.sessions[SMALL], ids, j.n, &ms[SMALL]));
    v.full_tok_s = 1e3 / ms[FULL];
    v.tok_s = 1e3 / ms[SMALL];
    SHOAL_TRY(shoal_forge_peak_mib(&v.peak_mib, err));
    v.n_tokens = j.n_judged;
    (void)snprintf(v.kv, sizeof v.kv, "%s", shoal_engine_kv_form(j.sessions[SMALL].engine));
    v.ppl_full = shoal_forge_perplexity_of(j.nll[FULL], j.n_judged);
    v.ppl = shoal_forge_perplexity_of(j.nll[SMALL], j.n_judged);
    v.agreement = (double)j.n_same / (double)j.n_judged;
    v.acceptance = j.acceptance / (double)j.n_judged;
    v.divergence = j.divergence / (double)j.n_judged;
    v.full_bytes_per_token = shoal_model_bytes_per_token(j.sessions[FULL].model);
    v.bytes_per_token = shoal_model_bytes_per_token(j.sessions[SMALL].model);
    *ret_verdict = v;
    return SHOAL_OK;
}
