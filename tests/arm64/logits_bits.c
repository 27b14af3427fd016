/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-logits-bits FILE...: a line for the seeded model of every architecture, under each stored
 * form of KV, for two with tensors beside their matrices and for each model file under its own,
 * with a SHA-256 over the bits of the logits of a fixed run of tokens. Scalar and the best tier
 * here must give the same; two machines compare by comparing lines.
 */
#include "common/base/hash.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_sides.h"

#include <stdio.h>
#include <string.h>

enum {
    N_IDS = 75,
    N_CTX = 96,
    SEED = 7
};

/* Prompt, a single token, a few drafts to verify, across a border of KV blocks; then far enough for
 * a block to be sealed and read as codes, which the first never is. */
static const size_t spans[] = {19, 1, 4, 11, 36, 1, 3};

static shoal_status run(shoal_engine *engine, const shoal_model *model, shoal_kv_seq *seq,
                        shoal_hasher *hasher)
{
    uint64_t rng = SEED;
    int32_t ids[N_IDS];
    for (size_t i = 0; i < N_IDS; i++) {
        ids[i] = (int32_t)(shoal_rng_next(&rng) % model->hp.n_vocab);
    }
    size_t at = 0;
    for (size_t i = 0; i < SHOAL_COUNT(spans); i++) {
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = spans[i], .n_logits = spans[i]};
        SHOAL_TRY(shoal_engine_step(engine, &span, 1));
        for (size_t row = 0; row < spans[i]; row++) {
            shoal_hasher_update(hasher, shoal_engine_logits(engine, span.logits_i + row),
                                model->hp.n_vocab * sizeof(float));
        }
        at += spans[i];
    }
    return SHOAL_OK;
}

/* Adds the logits under one form of KV. */
static shoal_status hash_form(const shoal_model *model, uint32_t mask, int kv_type, bool hadamard,
                              shoal_hasher *hasher, shoal_err *err)
{
    shoal_engine_settings settings = shoal_engine_settings_default();
    settings.cpu_mask = mask;
    settings.n_ctx = N_CTX;
    settings.kv_bytes = (size_t)8 << 20;
    settings.kv_type = kv_type;
    settings.kv_hadamard = hadamard;
    SHOAL_CLEANUP(shoal_engine_freep) shoal_engine *engine = NULL;
    SHOAL_TRY(shoal_engine_new(model, &settings, &engine, err));
    shoal_kv_seq *seq = NULL;
    SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(engine), &seq));
    shoal_status status = run(engine, model, seq, hasher);
    shoal_kv_seq_free(seq);
    return status;
}

/* The model's own form first. Sealed ones are taken in turn, so that each level is keys and values
 * of some architectures, also in Hadamard's basis where there are heads. */
static const int forms[] = {-1, SHOAL_KV_F32, SHOAL_KV_Q8T};
static const int sealed[] = {SHOAL_KV_K8V4, SHOAL_KV_K4V3, SHOAL_KV_K3V8};

/* sealed_form negative: none. */
static shoal_status hash_logits(const shoal_model *model, uint32_t mask, size_t n_forms,
                                int sealed_form, char ret[SHOAL_HASH_HEX], shoal_err *err)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    for (size_t i = 0; i < n_forms; i++) {
        SHOAL_TRY(hash_form(model, mask, forms[i], false, hasher, err));
    }
    if (sealed_form >= 0) {
        SHOAL_TRY(hash_form(model, mask, sealed_form, false, hasher, err));
    }
    if (sealed_form >= 0 && model->hp.mla.rank == 0) {
        SHOAL_TRY(hash_form(model, mask, sealed_form, true, hasher, err));
    }
    shoal_hash hash;
    shoal_hasher_finish(hasher, &hash);
    shoal_hash_hex(&hash, ret);
    return SHOAL_OK;
}

/* Scalar and the best tier; those between are compared kernel by kernel elsewhere. */
static shoal_status print_line(const char *name, const shoal_model *model, size_t n_forms,
                               int sealed_form, shoal_err *err)
{
    char scalar[SHOAL_HASH_HEX];
    char best[SHOAL_HASH_HEX];
    SHOAL_TRY(hash_logits(model, 0, n_forms, sealed_form, scalar, err));
    SHOAL_TRY(hash_logits(model, shoal_cpu_detect(), n_forms, sealed_form, best, err));
    if (strcmp(best, scalar) != 0) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "the best tier here differs from scalar");
    }
    printf("%s %s\n", name, scalar);
    return SHOAL_OK;
}

static shoal_status print_arch(const char *variant, int sealed_form, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_TRY(shoal_tiny_arch_gguf(variant, SEED, SHOAL_TYPE_F16, &buf));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, err));
    SHOAL_TRY(shoal_model_new(gguf, &model, err));
    return print_line(variant, model, SHOAL_COUNT(forms), sealed_form, err);
}

/* The tiny model with tensors beside its matrices. */
static shoal_status print_sides(shoal_type type, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf base = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *plain = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    char name[32];
    (void)snprintf(name, sizeof name, "sides-%s", shoal_type_find((uint32_t)type)->name);
    SHOAL_TRY(shoal_tiny_model_gguf(SEED, type, &base));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)base.data, base.length, &plain, err));
    SHOAL_TRY(shoal_tiny_sides_gguf(plain, SEED, 0, &buf));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, err));
    SHOAL_TRY(shoal_model_new(gguf, &model, err));
    return print_line(name, model, 1, -1, err);
}

static shoal_status print_file(const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_TRY(shoal_model_load(path, &model, err));
    const char *slash = strrchr(path, '/');
    return print_line(slash ? slash + 1 : path, model, 1, -1, err);
}

static int failed(const char *what, const shoal_err *err)
{
    (void)fprintf(stderr, "shoal-logits-bits: %s: %s\n", what, err->text[0] ? err->text : "failed");
    return 1;
}

int main(int argc, char **argv)
{
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    (void)fprintf(stderr, "best tier here: %s\n", kernels.tier);
    shoal_err err = SHOAL_ERR_INIT;
    for (size_t i = 0; i < shoal_tiny_archs_n; i++) {
        if (print_arch(shoal_tiny_archs[i], sealed[i % SHOAL_COUNT(sealed)], &err) != SHOAL_OK) {
            return failed(shoal_tiny_archs[i], &err);
        }
    }
    if (print_sides(SHOAL_TYPE_F16, &err) != SHOAL_OK ||
        print_sides(SHOAL_TYPE_Q4_0, &err) != SHOAL_OK) {
        return failed("sides", &err);
    }
    for (int i = 1; i < argc; i++) {
        if (print_file(argv[i], &err) != SHOAL_OK) {
            return failed(argv[i], &err);
        }
    }
    return 0;
}
