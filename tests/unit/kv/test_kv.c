/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/kv/kv.h"

#include <string.h>

enum {
    N_CTX = 200,
    SLACK = 20,
    N_LAYERS = 2,
    N_PAGES = 5 * N_LAYERS
};

static const shoal_kv_shape shape = {
    .n_layers = 2, .n_kv_heads = 3, .k_dim = 8, .v_dim = 8, .type = SHOAL_KV_F32};

static int setup(void **state)
{
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, N_PAGES, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    *state = pool;
    return 0;
}

static int teardown(void **state)
{
    shoal_kv_pool_free(*state);
    return 0;
}

static void test_reserve_at_page_borders_takes_whole_pages(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    const struct {
        size_t n_tokens;
        size_t n_used;
    } rows[] = {{0, 0}, {1, 1}, {31, 1}, {32, 1}, {33, 2}, {64, 2}, {65, 3}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        assert_int_equal(shoal_kv_seq_reserve(seq, rows[i].n_tokens), SHOAL_OK);
        assert_int_equal(N_PAGES - shoal_kv_pool_n_free(pool), N_LAYERS * rows[i].n_used);
    }
    shoal_kv_seq_free(seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
}

static void test_reserve_beyond_the_pool_is_busy_and_changes_nothing(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kv_seq *a = NULL;
    shoal_kv_seq *b = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &a), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &b), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(a, 100), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(b, 32), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_n_free(pool), 0);
    assert_int_equal(shoal_kv_seq_reserve(b, 33), SHOAL_BUSY);
    assert_int_equal(shoal_kv_seq_reserve(b, 32), SHOAL_OK);
    (void)shoal_kv_seq_truncate(a, 64);
    assert_int_equal(shoal_kv_pool_n_free(pool), 2 * N_LAYERS);
    assert_int_equal(shoal_kv_seq_reserve(b, 33), SHOAL_OK);
    shoal_kv_seq_free(a);
    shoal_kv_seq_free(b);
}

static void test_reserve_at_the_context_limit_is_refused_past_it(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, 64, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX - 1), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX + 1), SHOAL_E_LIMIT);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
}

/* Every position's K and V is found where the layout says, and in no other place. */
static void test_store_then_blocks_finds_each_value(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    enum {
        N = 70
    };
    assert_int_equal(shoal_kv_seq_reserve(seq, N), SHOAL_OK);
    float k[3 * 8];
    float v[3 * 8];
    for (size_t layer = 0; layer < 2; layer++) {
        for (size_t p = 0; p < N; p++) {
            for (size_t i = 0; i < 24; i++) {
                k[i] = (float)(layer * 100000 + p * 100 + i);
                v[i] = -k[i];
            }
            shoal_kv_store(&kernels, seq, layer, p, k, v);
        }
    }
    shoal_kv_seq_advance(seq, N);
    const void *kb[3];
    const void *vb[3];
    for (size_t layer = 0; layer < 2; layer++) {
        for (size_t head = 0; head < 3; head++) {
            shoal_kv_blocks(seq, layer, head, 0, N, kb, vb);
            for (size_t p = 0; p < N; p++) {
                for (size_t d = 0; d < 8; d++) {
                    float want = (float)(layer * 100000 + p * 100 + head * 8 + d);
                    assert_true(((const float *)kb[p / 32])[d * 32 + p % 32] == want);
                    assert_true(((const float *)vb[p / 32])[p % 32 * 8 + d] == -want);
                }
            }
        }
    }
    (void)shoal_kv_seq_truncate(seq, 33);
    assert_int_equal(shoal_kv_seq_length(seq), 33);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES - 2 * N_LAYERS);
    shoal_kv_seq_free(seq);
}

static void test_new_with_odd_shapes_or_no_pages_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_kv_shape odd = shape;
    odd.k_dim = 7;
    assert_int_equal(shoal_kv_pool_new(&odd, 4, 64, SLACK, &pool, &err), SHOAL_E_INVALID);
    odd.k_dim = 8;
    odd.v_dim = SHOAL_HEAD_DIM_MAX + 2;
    assert_int_equal(shoal_kv_pool_new(&odd, 4, 64, SLACK, &pool, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_kv_pool_new(&shape, 0, 64, SLACK, &pool, NULL), SHOAL_E_LIMIT);
    assert_null(pool);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t i = 0;; i++) {
        shoal_kv_pool *pool = NULL;
        shoal_kv_seq *seq = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_kv_pool_new(&shape, 4, 64, SLACK, &pool, NULL);
        if (status == SHOAL_OK) {
            status = shoal_kv_seq_new(pool, &seq);
        }
        shoal_mem_fail_at(UINT64_MAX);
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
        if (status == SHOAL_OK) {
            assert_true(i >= 4);
            return;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reserve_at_page_borders_takes_whole_pages, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_reserve_beyond_the_pool_is_busy_and_changes_nothing,
                                        setup, teardown),
        cmocka_unit_test(test_reserve_at_the_context_limit_is_refused_past_it),
        cmocka_unit_test_setup_teardown(test_store_then_blocks_finds_each_value, setup, teardown),
        cmocka_unit_test(test_new_with_odd_shapes_or_no_pages_is_refused),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
