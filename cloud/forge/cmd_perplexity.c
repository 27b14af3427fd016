/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity over windows of --ctx tokens, each begun anew: exp of the mean negative log likelihood
 * of every token but a window's first. Sums are in double.
 */
#include "cloud/forge/forge.h"
#include "cloud/forge/metrics.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>

enum {
    CHUNK = 64
};

/* One window: adds to *inout_sum and *inout_n. */
static shoal_status window(forge_session *s, const int32_t *ids, size_t n, double *inout_sum,
                           size_t *inout_n)
{
    (void)shoal_kv_seq_truncate(s->seq, 0);
    for (size_t at = 0; at + 1 < n; at += CHUNK) {
        size_t n_now = SHOAL_MIN(n - 1 - at, (size_t)CHUNK);
        shoal_span span = {
            .seq = s->seq, .ids = ids + at, .n_ids = n_now, .n_logits = n_now, .lora = s->lora};
        SHOAL_TRY(shoal_engine_step(s->engine, &span, 1));
        for (size_t i = 0; i < n_now; i++) {
            const float *logits = shoal_engine_logits(s->engine, span.logits_i + i);
            *inout_sum += shoal_forge_judge(logits, s->model->hp.n_vocab, ids[at + i + 1]).nll;
            (*inout_n)++;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_perplexity(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_forge_session_open(args, CHUNK, CHUNK, 0, &s, err));
    SHOAL_TRY(shoal_file_read(args->file, SHOAL_TEXT_MAX, &text, err));
    shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    SHOAL_TRY(shoal_tokenizer_encode(s.model->tokenizer, text.data ? text.data : "", text.length,
                                     flags, &ids, &n, err));
    size_t n_ctx = shoal_engine_n_ctx(s.engine);
    double sum = 0;
    size_t n_judged = 0;
    for (size_t at = 0; at + 1 < n; at += n_ctx) {
        SHOAL_TRY(window(&s, ids + at, SHOAL_MIN(n - at, n_ctx), &sum, &n_judged));
    }
    if (n_judged == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: at least two tokens are needed",
                             args->file);
    }
    double ppl = shoal_forge_perplexity_of(sum, n_judged);
    (void)printf(args->json ? "{\"ppl\": %.8g, \"tokens\": %zu}\n"
                            : "perplexity %.6g over %zu tokens\n",
                 ppl, n_judged);
    return SHOAL_OK;
}
