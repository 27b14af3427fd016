/* SPDX-License-Identifier: Apache-2.0 */
#include "common/engine/probe.h"

#include <math.h>

enum {
    ROWS = 64 /* of the prompt in one step */
};

static shoal_status make_engine(const shoal_model *model, const shoal_lora *lora, uint32_t cpu_mask,
                                size_t n_tokens, shoal_engine **ret_engine, shoal_err *err)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32); /* at most that */
    s.n_threads = 1;
    s.cpu_mask = cpu_mask;
    s.n_ctx = n_tokens;
    s.kv_bytes = shoal_kv_pages_for(&shape, ROWS, n_tokens) * shoal_kv_page_bytes(&shape);
    s.n_rows_max = ROWS;
    s.n_logits_max = 1;
    s.n_loras_max = lora ? 1 : 0;
    s.lora_rank_max = lora ? shoal_lora_rank(lora) : s.lora_rank_max;
    return shoal_engine_new(model, &s, ret_engine, err);
}

/* The index of the greatest; negative where one is no number. */
static int32_t likeliest(const float *logits, size_t n)
{
    int32_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite((double)logits[i])) {
            return -1;
        }
        best = logits[i] > logits[best] ? (int32_t)i : best;
    }
    return best;
}

static shoal_status feed(shoal_engine *engine, shoal_kv_seq *seq, const shoal_lora *lora,
                         const int32_t *ids, size_t n_ids, int32_t *ret_next, shoal_err *err)
{
    size_t n_vocab = shoal_engine_model(engine)->hp.n_vocab;
    for (size_t at = 0; at < n_ids; at += ROWS) {
        size_t n = SHOAL_MIN((size_t)ROWS, n_ids - at);
        shoal_span span = {.seq = seq,
                           .ids = ids + at,
                           .n_ids = n,
                           .n_logits = at + n == n_ids ? 1 : 0,
                           .lora = lora};
        shoal_status status = shoal_engine_step(engine, &span, 1);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "no room for the tokens of a probe");
        }
    }
    *ret_next = likeliest(shoal_engine_logits(engine, 0), n_vocab);
    return *ret_next >= 0 ? SHOAL_OK
                          : shoal_err_set(err, SHOAL_E_INVALID,
                                          "the model's logits are no numbers: it is damaged");
}

shoal_status shoal_probe_greedy(const shoal_model *model, const shoal_lora *lora, uint32_t cpu_mask,
                                const int32_t *ids, size_t n_ids, int32_t *ret_answer, size_t n,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_engine_freep) shoal_engine *engine = NULL;
    for (size_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= model->hp.n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID, "token %d is outside the vocabulary of %zu",
                                 (int)ids[i], model->hp.n_vocab);
        }
    }
    if (n_ids < 1 || n < 1 || n_ids + n > model->hp.n_ctx) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%zu tokens and %zu to follow: the context takes %zu", n_ids, n,
                             model->hp.n_ctx);
    }
    SHOAL_TRY(make_engine(model, lora, cpu_mask, n_ids + n, &engine, err));
    shoal_kv_seq *seq = NULL;
    if (shoal_kv_seq_new(shoal_engine_kv(engine), &seq) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a probe");
    }
    shoal_status status = feed(engine, seq, lora, ids, n_ids, &ret_answer[0], err);
    for (size_t i = 1; i < n && status == SHOAL_OK; i++) {
        status = feed(engine, seq, lora, &ret_answer[i - 1], 1, &ret_answer[i], err);
    }
    shoal_kv_seq_free(seq);
    return status;
}
