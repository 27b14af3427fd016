/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/model/forward.h"
#include "tests/support/tiny_model.h"

enum {
    N_TOKENS = 3
};

/* What products read first, held against what the pool was told before. */
static shoal_pool *watched;
static shoal_gemm_fn *real_gemm;
static const void *told; /* with the job that runs: of the one after it */
static size_t n_jobs;
static size_t n_foretold;

static void watching_gemm(const shoal_gemm *g, size_t p0, size_t p1)
{
    const void *now = shoal_pool_expected(watched, false);
    assert_non_null(now);
    if (n_jobs == 0 || now != told) {
        assert_int_equal(p0, 0);
        n_foretold += n_jobs > 0 && g->panels == told;
        n_jobs++;
        told = now;
    }
    real_gemm(g, p0, p1);
}

static shoal_model *tiny(void)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return model;
}

/* Every job but the first is foretold by the one before it, from token to token too. */
static void test_each_product_tells_what_comes_next(void **state)
{
    (void)state;
    shoal_model *model = tiny();
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    real_gemm = kernels.gemm[SHOAL_PANEL_F32];
    kernels.gemm[SHOAL_PANEL_F32] = watching_gemm;
    assert_int_equal(shoal_pool_new(1, &watched), SHOAL_OK);
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32);
    shoal_kv_pool *kv = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, shoal_kv_pages_for(&shape, N_TOKENS, N_TOKENS),
                                       SHOAL_KV_BLOCK, N_TOKENS, &kv, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(kv, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_TOKENS), SHOAL_OK);
    const shoal_forward_shape s = {.n_rows_max = 1, .n_logits_max = 1, .n_ctx_max = SHOAL_KV_BLOCK};
    shoal_forward *forward = NULL;
    assert_int_equal(shoal_forward_new(model, &kernels, watched, &s, &forward), SHOAL_OK);
    for (size_t i = 0; i < N_TOKENS; i++) {
        const shoal_row row = {.seq = seq, .id = 5, .position = i};
        shoal_forward_layers(forward, &row, 1, 0, model->hp.n_layers, NULL, 0);
        shoal_forward_logits(forward);
    }
    assert_int_equal(n_jobs, N_TOKENS * (4 * model->hp.n_layers + 1));
    assert_int_equal(n_foretold, n_jobs - 1);
    shoal_forward_free(forward);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(kv);
    shoal_pool_free(watched);
    shoal_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_product_tells_what_comes_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
