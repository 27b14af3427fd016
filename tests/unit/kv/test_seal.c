/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv.h"
#include "tests/support/random.h"

#include <stdbool.h>
#include <string.h>

enum {
    N = 3 * SHOAL_KV_BLOCK,
    HEADS = 2,
    K_DIM = 70, /* no whole number of the rows that are sealed together, nor of groups */
    V_DIM = 34
};

static const shoal_kv_shape shape = {
    .n_layers = 2, .n_kv_heads = HEADS, .k_dim = K_DIM, .v_dim = V_DIM, .type = SHOAL_KV_F16};

static void store_all(const shoal_kernels *kernels, shoal_kv_seq *seq)
{
    uint64_t rng = 7;
    float k[HEADS * K_DIM];
    float v[HEADS * V_DIM];
    for (size_t i = 0; i < shape.n_layers * N; i++) {
        for (size_t j = 0; j < SHOAL_COUNT(k); j++) {
            k[j] = test_signed(&rng);
            v[j % SHOAL_COUNT(v)] = test_signed(&rng);
        }
        shoal_kv_store(kernels, seq, i / N, i % N, k, v);
    }
    shoal_kv_seq_advance(seq, N);
}

static const void *block_of(const shoal_kv_seq *seq, size_t layer, size_t head, size_t block,
                            bool values)
{
    const void *k[N / SHOAL_KV_BLOCK];
    const void *v[N / SHOAL_KV_BLOCK];
    shoal_kv_blocks(seq, layer, head, 0, N, k, v);
    return values ? v[block] : k[block];
}

/* The one block becomes what opening it sealed as a whole gives; no other changes. */
static void test_seal_loss_changes_one_block_to_what_sealing_keeps(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    shoal_kv_pool *pool = NULL;
    shoal_kv_seq *seqs[2] = {NULL, NULL};
    assert_int_equal(shoal_kv_pool_new(&shape, 12, N, 1, &pool, NULL), SHOAL_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(shoal_kv_seq_new(pool, &seqs[i]), SHOAL_OK);
        assert_int_equal(shoal_kv_seq_reserve(seqs[i], N), SHOAL_OK);
        store_all(&kernels, seqs[i]);
    }
    shoal_kv_seal_loss(&kernels, seqs[0], 1, SHOAL_KV_LEVEL_Q8, SHOAL_KV_LEVEL_Q3);
    for (size_t i = 0; i < shape.n_layers * HEADS * 3 * 2; i++) {
        size_t layer = i / 12 % 2;
        size_t block = i / 2 % 3;
        bool values = i % 2 == 1;
        size_t n_rows = values ? SHOAL_KV_BLOCK : K_DIM;
        size_t n = values ? V_DIM : SHOAL_KV_BLOCK;
        shoal_kv_level level = values ? SHOAL_KV_LEVEL_Q3 : SHOAL_KV_LEVEL_Q8;
        uint8_t sealed[4096];
        uint16_t want[K_DIM * SHOAL_KV_BLOCK];
        memcpy(want, block_of(seqs[1], layer, i / 6 % 2, block, values), n_rows * n * 2);
        if (block == 1) {
            assert_true(shoal_kv_sealed_bytes(level, n_rows, n) <= sizeof sealed);
            kernels.kv_seal(level, n_rows, n, want, sealed);
            kernels.kv_unseal(level, n_rows, n, sealed, want);
        }
        assert_memory_equal(block_of(seqs[0], layer, i / 6 % 2, block, values), want,
                            n_rows * n * 2);
    }
    shoal_kv_seq_free(seqs[0]);
    shoal_kv_seq_free(seqs[1]);
    shoal_kv_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seal_loss_changes_one_block_to_what_sealing_keeps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
