/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity over windows of --ctx tokens, each begun anew: exp of the mean negative log likelihood
 * of every token but a window's first. Sums are in double. With --seal every block of 32 tokens but
 * a window's first is sealed when it is full, before the first token past it is computed: what a
 * token sees of it depends on the two positions alone.
 */
#include "cloud/forge/forge.h"
#include "cloud/forge/metrics.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    CHUNK = 64
};

/* What --seal says. */
typedef struct sealing {
    bool on;
    shoal_kv_level k, v;
    shoal_kernels kernels;
} sealing;

static bool parse_level(const char *text, size_t n, shoal_kv_level *ret_level)
{
    static const char *const names[SHOAL_KV_LEVELS] = {"q8", "q4", "q3"};
    for (size_t i = 0; i < SHOAL_KV_LEVELS; i++) {
        if (n == 2 && memcmp(text, names[i], 2) == 0) {
            *ret_level = (shoal_kv_level)i;
            return true;
        }
    }
    return false;
}

/* "q4", or "q8k-q4v". */
static shoal_status parse_sealing(const char *text, sealing *ret, shoal_err *err)
{
    sealing s = {.on = text != NULL};
    if (!text) {
        *ret = s;
        return SHOAL_OK;
    }
    size_t n = strlen(text);
    bool apart = n == 7 && text[2] == 'k' && text[3] == '-' && text[6] == 'v';
    bool ok = apart ? parse_level(text, 2, &s.k) && parse_level(text + 4, 2, &s.v)
                    : parse_level(text, n, &s.k) && parse_level(text, n, &s.v);
    if (!ok) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--seal %s: known are q8, q4, q3, and keys and values apart, as "
                             "q8k-q4v",
                             text);
    }
    shoal_kernels_init(&s.kernels, UINT32_MAX);
    *ret = s;
    return SHOAL_OK;
}

/* Bits of an element of K and V, on average. */
static double kv_bits(const sealing *s, const shoal_kv_shape *shape)
{
    size_t n = SHOAL_KV_BLOCK * (shape->k_dim + shape->v_dim);
    size_t bytes = s->on ? shoal_kv_sealed_bytes(s->k, shape->k_dim, SHOAL_KV_BLOCK) +
                               shoal_kv_sealed_bytes(s->v, SHOAL_KV_BLOCK, shape->v_dim)
                         : shoal_kv_page_bytes(shape) / shape->n_kv_heads;
    return 8 * (double)bytes / (double)n;
}

/* One window: adds to *inout_sum and *inout_n. */
static shoal_status window(forge_session *s, const sealing *seal, const int32_t *ids, size_t n,
                           double *inout_sum, size_t *inout_n)
{
    size_t chunk = seal->on ? SHOAL_KV_BLOCK : CHUNK;
    (void)shoal_kv_seq_truncate(s->seq, 0);
    for (size_t at = 0; at + 1 < n; at += chunk) {
        size_t n_now = SHOAL_MIN(n - 1 - at, chunk);
        shoal_span span = {
            .seq = s->seq, .ids = ids + at, .n_ids = n_now, .n_logits = n_now, .lora = s->lora};
        SHOAL_TRY(shoal_engine_step(s->engine, &span, 1));
        for (size_t i = 0; i < n_now; i++) {
            const float *logits = shoal_engine_logits(s->engine, span.logits_i + i);
            *inout_sum += shoal_forge_judge(logits, s->model->hp.n_vocab, ids[at + i + 1]).nll;
            (*inout_n)++;
        }
        if (seal->on && at > 0 && n_now == SHOAL_KV_BLOCK) {
            shoal_kv_seal_loss(&seal->kernels, s->seq, at / SHOAL_KV_BLOCK, seal->k, seal->v);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_perplexity(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    sealing seal;
    SHOAL_TRY(parse_sealing(args->seal, &seal, err));
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_forge_session_open(args, CHUNK, CHUNK, 0, &s, err));
    SHOAL_TRY(shoal_file_read(args->file, SHOAL_TEXT_MAX, &text, err));
    shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    SHOAL_TRY(shoal_tokenizer_encode(s.model->tokenizer, text.data ? text.data : "", text.length,
                                     flags, &ids, &n, err));
    const shoal_kv_shape *shape = shoal_kv_seq_shape(s.seq);
    if (seal.on && shape->type != SHOAL_KV_F16) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--seal needs --kv f16, this is %s",
                             shoal_kv_type_name(shape->type));
    }
    size_t n_ctx = shoal_engine_n_ctx(s.engine);
    double sum = 0;
    size_t n_judged = 0;
    for (size_t at = 0; at + 1 < n; at += n_ctx) {
        SHOAL_TRY(window(&s, &seal, ids + at, SHOAL_MIN(n - at, n_ctx), &sum, &n_judged));
    }
    if (n_judged == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: at least two tokens are needed",
                             args->file);
    }
    double ppl = shoal_forge_perplexity_of(sum, n_judged);
    (void)printf(args->json ? "{\"ppl\": %.8g, \"tokens\": %zu, \"kv_bits\": %.4g}\n"
                            : "perplexity %.6g over %zu tokens, KV of %.4g bits\n",
                 ppl, n_judged, kv_bits(&seal, shape));
    return SHOAL_OK;
}
