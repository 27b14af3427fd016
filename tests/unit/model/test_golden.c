/* SPDX-License-Identifier: Apache-2.0
 *
 * Logits against an independent float64 reference (tests/golden/reference.py made the files in
 * tests/golden/data). Models beside the checkout are skipped where absent.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_sides.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    IDS_MAX = 256,
    BUDGET = 32
};

/* Float weights are widened exactly and summed in binary32: 1e-5. Quantised weights meet
 * activations rounded to 8 bits in blocks of 32, which the reference does not round: a step of amax
 * / 127 gives about 0.3 % noise per product, averaged down by the sum and up by the layers. */
typedef struct golden {
    const char *file;  /* in tests/golden/data */
    const char *model; /* beside the checkout, or NULL: the tiny model */
    const char *arch;  /* a variant of tiny_arch.h, or NULL */
    shoal_type type;
    double budget;
    bool sides; /* beside the matrices of the tiny model */
} golden;

static const golden goldens[] = {
    {"tiny-F32.txt", NULL, NULL, SHOAL_TYPE_F32, 1e-5, false},
    {"tiny-F16.txt", NULL, NULL, SHOAL_TYPE_F16, 1e-5, false},
    {"tiny-BF16.txt", NULL, NULL, SHOAL_TYPE_BF16, 1e-5, false},
    {"tiny-Q8_0.txt", NULL, NULL, SHOAL_TYPE_Q8_0, 3e-2, false},
    {"tiny-Q4_0.txt", NULL, NULL, SHOAL_TYPE_Q4_0, 3e-2, false},
    {"sides-F32.txt", NULL, NULL, SHOAL_TYPE_F32, 3e-2, true},
    {"sides-Q8_0.txt", NULL, NULL, SHOAL_TYPE_Q8_0, 3e-2, true},
    {"stories260K.txt", "stories260K.gguf", NULL, SHOAL_TYPE_F32, 1e-5, false},
    {"stories3M.txt", "stories3M-f32.gguf", NULL, SHOAL_TYPE_F32, 1e-5, false},
};

static const char *source_dir(void)
{
    const char *dir = getenv("SHOAL_SOURCE_DIR");
    return dir ? dir : ".";
}

static shoal_model *load_model(const golden *g)
{
    shoal_buf buf = {0};
    shoal_buf more = {0};
    shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    if (g->model) {
        char path[4096];
        (void)snprintf(path, sizeof path, "%s/../shared/models/%s", source_dir(), g->model);
        return shoal_model_load(path, &model, NULL) == SHOAL_OK ? model : NULL;
    }
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(g->arch ? shoal_tiny_arch_gguf(g->arch, 31, g->type, &buf)
                             : shoal_tiny_model_gguf(21, g->type, &buf),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    if (g->sides) {
        assert_int_equal(shoal_tiny_sides_gguf(gguf, 21, 0, &more), SHOAL_OK);
        shoal_gguf_close(gguf);
        assert_int_equal(shoal_gguf_open((const uint8_t *)more.data, more.length, &gguf, NULL),
                         SHOAL_OK);
    }
    if (shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s: %s", g->file, err.text);
    }
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    shoal_buf_fini(&more);
    return model;
}

static double *read_golden(const golden *g, int32_t *ids, size_t *ret_n_ids, size_t *ret_n)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/tests/golden/data/%s", source_dir(), g->file);
    shoal_buf text = {0};
    assert_int_equal(shoal_file_read(path, (size_t)16 << 20, &text, NULL), SHOAL_OK);
    char *at = strchr(text.data, '\n') + 1;
    *ret_n_ids = strtoul(at, &at, 10);
    *ret_n = strtoul(at, &at, 10);
    assert_true(*ret_n_ids >= 1 && *ret_n_ids <= IDS_MAX);
    for (size_t i = 0; i < *ret_n_ids; i++) {
        ids[i] = (int32_t)strtol(at, &at, 10);
    }
    double *logits = shoal_calloc(*ret_n, sizeof *logits);
    for (size_t i = 0; i < *ret_n; i++) {
        logits[i] = strtod(at, &at);
    }
    shoal_buf_fini(&text);
    return logits;
}

/* evict: a policy, whose budget is BUDGET; NULL: none */
static void check(const golden *g, const shoal_model *model, uint32_t mask, const char *evict)
{
    int32_t ids[IDS_MAX];
    size_t n_ids = 0;
    size_t n = 0;
    double *want = read_golden(g, ids, &n_ids, &n);
    assert_int_equal(n, model->hp.n_vocab);
    shoal_engine_settings s = shoal_engine_settings_default();
    s.cpu_mask = mask;
    s.kv_type = SHOAL_KV_F32;
    s.kv_evict = evict ? shoal_kv_evict_find(evict) : NULL;
    s.kv_budget = evict ? BUDGET : 0;
    shoal_engine *engine = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    shoal_span span = {.seq = seq, .ids = ids, .n_ids = n_ids, .n_logits = 1};
    assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    const float *got = shoal_engine_logits(engine, span.logits_i);
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += want[i] * want[i];
    }
    double relative = sqrt(error / norm);
    print_message("%-16s %-7s relative L2 error %.2e (budget %.0e)\n", g->file,
                  shoal_engine_kernels(engine)->tier, relative, g->budget);
    assert_true(relative <= g->budget);
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
    shoal_free(want);
}

static void test_logits_match_the_reference_on_every_tier(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(goldens); i++) {
        shoal_model *model = load_model(&goldens[i]);
        if (!model) {
            print_message("%-16s skipped: the model is not beside the checkout\n", goldens[i].file);
            continue;
        }
        check(&goldens[i], model, 0, NULL);
        check(&goldens[i], model, SHOAL_CPU_AVX2, NULL);
        check(&goldens[i], model, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, NULL);
        shoal_model_free(model);
    }
}

static void test_logits_of_every_architecture_match_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < shoal_tiny_archs_n; i++) {
        char file[64];
        (void)snprintf(file, sizeof file, "arch-%s.txt", shoal_tiny_archs[i]);
        golden g = {file, NULL, shoal_tiny_archs[i], SHOAL_TYPE_F32, 1e-5, false};
        shoal_model *model = load_model(&g);
        check(&g, model, 0, NULL);
        check(&g, model, SHOAL_CPU_AVX2, NULL);
        check(&g, model, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, NULL);
        shoal_model_free(model);
    }
}

/* Tokens that are held keep the rotation of their own positions, and the text goes on counting:
 * no way of computing it in the engine (tests/unit/engine) would tell it from another that is wrong
 * everywhere. */
static void test_logits_behind_evictions_match_the_reference(void **state)
{
    (void)state;
    static const char *const variants[] = {"llama3", "qwen2"};
    static const char *const policies[] = {"window", "h2o", "diverse", "a2sf"};
    for (size_t i = 0; i < SHOAL_COUNT(variants) * SHOAL_COUNT(policies); i++) {
        const char *variant = variants[i / SHOAL_COUNT(policies)];
        const char *policy = policies[i % SHOAL_COUNT(policies)];
        char file[64];
        (void)snprintf(file, sizeof file, "evict-%s-%s.txt", variant, policy);
        golden g = {file, NULL, variant, SHOAL_TYPE_F32, 1e-5, false};
        shoal_model *model = load_model(&g);
        check(&g, model, 0, policy);
        check(&g, model, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, policy);
        shoal_model_free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_of_every_architecture_match_the_reference),
        cmocka_unit_test(test_logits_match_the_reference_on_every_tier),
        cmocka_unit_test(test_logits_behind_evictions_match_the_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
