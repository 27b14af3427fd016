/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as an adapter of models of four kinds: fused, with experts, with latents, plain. A
 * refusal has a code and one line of words. What is taken says the same when it is read again, and
 * a step computes with it: the row beside it, which has no adapter, has the bits it has alone, and
 * an adapted row has in a batch those that it has alone.
 */
#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <string.h>

enum {
    BASES = 4,
    CTX = 4,
    ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct base {
    shoal_model *model;
    shoal_engine *engine;
    float plain[SHOAL_TINY_VOCAB]; /* logits of a row without an adapter */
} base;

static base bases[BASES];
static const int32_t ids[2] = {SHOAL_TINY_BOS, SHOAL_TINY_VOCAB - 1};

static shoal_kv_seq *sequence(const base *b)
{
    shoal_kv_seq *seq = NULL;
    SHOAL_ASSERT(shoal_kv_seq_new(shoal_engine_kv(b->engine), &seq) == SHOAL_OK);
    return seq;
}

static void base_open(base *b, const char *variant)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_ASSERT(shoal_tiny_arch_gguf(variant, 7, SHOAL_TYPE_Q8_0, &file) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_model_new(gguf, &b->model, NULL) == SHOAL_OK);
    shoal_engine_settings s = shoal_engine_settings_default();
    shoal_kv_shape shape = shoal_model_kv_shape(&b->model->hp, SHOAL_KV_F16);
    s.n_threads = 1;
    s.n_ctx = CTX;
    s.n_rows_max = 4;
    s.n_logits_max = 2;
    s.kv_type = SHOAL_KV_F16;
    s.kv_bytes = 4 * shape.n_layers * shoal_kv_page_bytes(&shape);
    s.n_loras_max = 1;
    s.lora_rank_max = SHOAL_LORA_RANK_MAX;
    SHOAL_ASSERT(shoal_engine_new(b->model, &s, &b->engine, NULL) == SHOAL_OK);
    shoal_span span = {.seq = sequence(b), .ids = ids, .n_ids = 1, .n_logits = 1};
    SHOAL_ASSERT(shoal_engine_step(b->engine, &span, 1) == SHOAL_OK);
    memcpy(b->plain, shoal_engine_logits(b->engine, span.logits_i), ROW_BYTES);
    shoal_kv_seq_free(span.seq);
}

static void open_once(void)
{
    static const char *const variants[BASES] = {"llama-linear", "phi3", "qwen2moe", "deepseek2"};
    for (size_t i = 0; i < BASES && !bases[i].engine; i++) {
        base_open(&bases[i], variants[i]);
    }
}

/* Two adapted rows behind a plain one, then the same two alone. */
static void apply(const base *b, const shoal_lora *lora)
{
    static float beside[SHOAL_TINY_VOCAB];
    shoal_span both[2] = {{.seq = sequence(b), .ids = ids, .n_ids = 1, .n_logits = 1},
                          {.seq = sequence(b), .ids = ids, .n_ids = 2, .n_logits = 1}};
    both[1].lora = lora;
    SHOAL_ASSERT(shoal_engine_step(b->engine, both, 2) == SHOAL_OK);
    const float *logits = shoal_engine_logits(b->engine, both[0].logits_i);
    SHOAL_ASSERT(memcmp(logits, b->plain, ROW_BYTES) == 0);
    memcpy(beside, shoal_engine_logits(b->engine, both[1].logits_i), ROW_BYTES);
    shoal_kv_seq_free(both[0].seq);
    shoal_kv_seq_free(both[1].seq);

    shoal_span alone = {.seq = sequence(b), .ids = ids, .n_ids = 2, .n_logits = 1, .lora = lora};
    SHOAL_ASSERT(shoal_engine_step(b->engine, &alone, 1) == SHOAL_OK);
    logits = shoal_engine_logits(b->engine, alone.logits_i);
    for (size_t i = 0; i < SHOAL_TINY_VOCAB; i++) {
        /* Sums may overflow, and NaN has many forms. */
        SHOAL_ASSERT(isnan(beside[i]) ? isnan(logits[i])
                                      : memcmp(&beside[i], &logits[i], sizeof beside[i]) == 0);
    }
    shoal_kv_seq_free(alone.seq);
}

static void check(const base *b, const shoal_gguf *gguf)
{
    SHOAL_CLEANUP(shoal_lora_freep) shoal_lora *lora = NULL;
    SHOAL_CLEANUP(shoal_lora_freep) shoal_lora *again = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_lora_new(b->model, gguf, 1, &lora, &err);
    if (status != SHOAL_OK) {
        SHOAL_ASSERT(!lora && err.code == status && err.text[0] != '\0');
        SHOAL_ASSERT(strchr(err.text, '\n') == NULL);
        return;
    }
    SHOAL_ASSERT(shoal_lora_n_pairs(lora) > 0 && shoal_lora_rank(lora) > 0 &&
                 shoal_lora_rank(lora) <= SHOAL_LORA_RANK_MAX);
    SHOAL_ASSERT(shoal_lora_new(b->model, gguf, 1, &again, NULL) == SHOAL_OK);
    shoal_hash hashes[2] = {shoal_lora_hash(lora), shoal_lora_hash(again)};
    SHOAL_ASSERT(memcmp(&hashes[0], &hashes[1], sizeof hashes[0]) == 0);
    apply(b, lora);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_once();
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_gguf_open(data, size, &gguf, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < BASES; i++) {
        check(&bases[i], gguf);
    }
    return 0;
}
