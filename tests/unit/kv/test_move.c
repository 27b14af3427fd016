/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks that leave one pool and enter another are, page for page, what a sequence that computed
 * them holds, with windows and without, in every type.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv_move.h"

#include <math.h>
#include <string.h>

enum {
    N_CTX = 320,
    SLACK = 40,
    N_PAGES = 64
};

/* Each layer has a type of its own. */
#define MIXED ((shoal_kv_type)SHOAL_KV_TYPES)

static const size_t windows[] = {0, 50, 20};
static const shoal_kv_type types[] = {SHOAL_KV_F32,  SHOAL_KV_F16,  SHOAL_KV_Q8T, SHOAL_KV_K8V8,
                                      SHOAL_KV_K4V3, SHOAL_KV_K3V8, MIXED};
static const shoal_kv_type mixed[] = {SHOAL_KV_K8V8, SHOAL_KV_K3V3, SHOAL_KV_K4V8};

static shoal_kernels the_kernels;

static shoal_kv_pool *pool_new(shoal_kv_type type, bool windowed, size_t n_pages, size_t slack)
{
    const shoal_kv_shape shape = {.n_layers = 3,
                                  .n_kv_heads = 2,
                                  .k_dim = 4,
                                  .v_dim = 6,
                                  .type = type == MIXED ? mixed[0] : type,
                                  .types = type == MIXED ? mixed : NULL,
                                  .windows = windowed ? windows : NULL};
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, n_pages, N_CTX, slack, &pool, NULL), SHOAL_OK);
    return pool;
}

static shoal_kv_seq *seq_new(shoal_kv_pool *pool)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    return seq;
}

/* Values that follow from layer and position. */
static void append(shoal_kv_seq *seq, size_t n)
{
    size_t from = shoal_kv_seq_length(seq);
    assert_int_equal(shoal_kv_seq_reserve(seq, from + n), SHOAL_OK);
    for (size_t layer = 0; layer < 3; layer++) {
        shoal_kv_open(seq, layer, from);
        for (size_t p = from; p < from + n; p++) {
            uint64_t rng = p * 3 + layer;
            float kv[20];
            for (size_t i = 0; i < SHOAL_COUNT(kv); i++) {
                kv[i] = (float)(shoal_rng_next(&rng) % 2000) / 1000.0f - 1.0f;
            }
            shoal_kv_store(&the_kernels, seq, layer, p, kv, kv + 8);
        }
        for (size_t p = from; p < from + n; p++) {
            if (shoal_kv_fills(seq, p)) {
                shoal_kv_seal(&the_kernels, seq, layer, p);
            }
        }
    }
    shoal_kv_seq_advance(seq, from + n);
}

static void assert_same_blocks(const shoal_kv_seq *a, const shoal_kv_seq *b)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(a);
    assert_int_equal(shoal_kv_seq_length(a), shoal_kv_seq_length(b));
    for (size_t block = 0; block < shoal_kv_seq_length(a) / 32; block++) {
        assert_int_equal(shoal_kv_seq_has_block(a, block), shoal_kv_seq_has_block(b, block));
        for (size_t i = 0; i < 6 && shoal_kv_seq_has_block(a, block); i++) {
            size_t n_k = 0;
            size_t n_v = 0;
            shoal_kv_part_bytes(shape, i / 2, block, &n_k, &n_v);
            shoal_kv_part of_a = shoal_kv_block_part(a, i / 2, block, i % 2);
            shoal_kv_part of_b = shoal_kv_block_part(b, i / 2, block, i % 2);
            assert_memory_equal(of_a.k, of_b.k, n_k);
            assert_memory_equal(of_a.v, of_b.v, n_v);
        }
    }
}

static void test_moved_blocks_are_computed_ones_in_every_form(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * SHOAL_COUNT(types); i++) {
        shoal_kv_pool *pool = pool_new(types[i / 2], i % 2, N_PAGES, SLACK);
        shoal_kv_pool *other = pool_new(types[i / 2], i % 2, N_PAGES, SLACK);
        shoal_kv_seq *from = seq_new(pool);
        shoal_kv_seq *to = seq_new(other);
        const shoal_kv_shape *shape = shoal_kv_pool_shape(pool);
        uint8_t *bytes = shoal_calloc(
            SHOAL_MAX(shoal_kv_block_bytes(shape, 0), shoal_kv_block_bytes(shape, 1)), 1);
        assert_non_null(bytes);
        /* Each as soon as it is full, so that rings still have it. */
        for (size_t block = 0; block < 8; block++) {
            append(from, 31);
            assert_int_equal(shoal_kv_block_export(from, block, bytes), SHOAL_E_LIMIT);
            append(from, 1);
            assert_int_equal(shoal_kv_block_export(from, block, bytes), SHOAL_OK);
            size_t n_bytes = shoal_kv_block_bytes(shape, block);
            assert_int_equal(shoal_kv_block_import(to, bytes, n_bytes), SHOAL_OK);
            assert_same_blocks(from, to);
        }
        /* What a ring has lost, unless it is f16 beside sealed blocks. */
        bool lost = i % 2 && types[i / 2] < SHOAL_KV_K8V8;
        assert_int_equal(shoal_kv_block_export(from, 0, bytes), lost ? SHOAL_E_LIMIT : SHOAL_OK);
        assert_int_equal(shoal_kv_block_export(from, 1, bytes), i % 2 ? SHOAL_E_LIMIT : SHOAL_OK);
        assert_int_equal(shoal_kv_block_export(from, 8, bytes), SHOAL_E_LIMIT);
        append(from, 17);
        append(to, 17);
        assert_same_blocks(from, to);
        shoal_free(bytes);
        shoal_kv_seq_free(from);
        shoal_kv_seq_free(to);
        assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
        assert_int_equal(shoal_kv_pool_n_free(other), N_PAGES);
        shoal_kv_pool_free(pool);
        shoal_kv_pool_free(other);
    }
}

static void test_import_never_writes_what_others_hold(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F32, true, N_PAGES, SLACK);
    shoal_kv_seq *a = seq_new(pool);
    shoal_kv_seq *plain = seq_new(pool);
    size_t n_bytes = shoal_kv_block_bytes(shoal_kv_pool_shape(pool), 0);
    uint8_t *bytes = shoal_calloc(n_bytes, 1);
    append(a, 32);
    append(a, 32);
    append(plain, 32);
    append(plain, 32);
    shoal_kv_seq *fork = NULL;
    assert_int_equal(shoal_kv_seq_fork(a, 64, &fork), SHOAL_OK);
    for (size_t i = 0; i < 4; i++) { /* once round the ring */
        assert_int_equal(shoal_kv_block_import(fork, bytes, n_bytes), SHOAL_OK);
    }
    assert_same_blocks(a, plain);
    shoal_free(bytes);
    shoal_kv_seq_free(a);
    shoal_kv_seq_free(plain);
    shoal_kv_seq_free(fork);
    shoal_kv_pool_free(pool);
}

static void test_limits_leave_the_sequence_as_it_was(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F16, false, 3, SLACK); /* one block */
    shoal_kv_seq *seq = seq_new(pool);
    size_t n = shoal_kv_block_bytes(shoal_kv_pool_shape(pool), 0);
    uint8_t *bytes = shoal_calloc(n + 1, 1);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n - 1), SHOAL_E_INVALID);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n + 1), SHOAL_E_INVALID);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_OK);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_BUSY);
    assert_int_equal(shoal_kv_seq_length(seq), 32);
    assert_int_equal(shoal_kv_seq_truncate(seq, 31), 31);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_length(seq), 31);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
    /* The context's end, and steps shorter than a block. */
    pool = pool_new(SHOAL_KV_F16, false, N_PAGES, SLACK);
    seq = seq_new(pool);
    for (size_t i = 0; i < N_CTX / 32; i++) {
        assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_OK);
    }
    assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_E_LIMIT);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
    pool = pool_new(SHOAL_KV_F16, true, N_PAGES, 31);
    seq = seq_new(pool);
    assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_E_LIMIT);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
    shoal_free(bytes);
}

/* Where a number stands in the last head's V of a block: of codes, the last scale or minimum. */
static size_t last_number(const shoal_kv_shape *shape, size_t block)
{
    shoal_kv_level level = SHOAL_KV_LEVEL_Q8;
    size_t n_k = 0;
    size_t n_v = 0;
    shoal_kv_part_bytes(shape, 2, block, &n_k, &n_v);
    size_t n_codes = sizeof(uint16_t);
    if (shape->type == SHOAL_KV_Q8T) {
        n_codes = (size_t)6 * 32 + 2;
    } else if (block > 0 && shoal_kv_type_sealed(shoal_kv_layer_type(shape, 2), &level, &level)) {
        n_codes = n_v - 4 * 32 + 2;
    }
    return n_v - n_codes;
}

static void test_numbers_that_are_none_are_refused_both_ways(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * SHOAL_COUNT(types); i++) {
        shoal_kv_pool *pool = pool_new(types[i / 2], false, N_PAGES, SLACK);
        shoal_kv_seq *seq = seq_new(pool);
        const shoal_kv_shape *shape = shoal_kv_pool_shape(pool);
        bool wide = shape->type == SHOAL_KV_F32;
        size_t block = i % 2;
        size_t n = shoal_kv_block_bytes(shape, block);
        size_t n_k = 0;
        size_t n_v = 0;
        uint8_t *bytes = shoal_calloc(n, 1);
        shoal_kv_seq *full = seq_new(pool);
        for (size_t b = 0; b <= block; b++) {
            append(full, 32);
        }
        append(seq, block == 0 ? 1 : 32);
        (void)shoal_kv_seq_truncate(seq, block * 32);
        assert_int_equal(shoal_kv_block_export(full, block, bytes), SHOAL_OK);
        shoal_kv_part_bytes(shape, 2, block, &n_k, &n_v);
        size_t at = n - n_v + last_number(shape, block);
        const uint8_t bad[] = {0x00, 0x7C, 0x01, 0x7E, 0x00, 0xFC, 0x80, 0x7F};
        const uint8_t infinity[] = {0x80, 0x7F};
        for (size_t k = 0; k < 3; k++) {
            uint8_t good[2];
            memcpy(good, bytes + at, sizeof good);
            memcpy(bytes + at, wide ? infinity : bad + 2 * k, sizeof good);
            assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_E_INVALID);
            assert_int_equal(shoal_kv_seq_length(seq), block * 32);
            memcpy(bytes + at, good, sizeof good);
        }
        assert_int_equal(shoal_kv_block_import(seq, bytes, n), SHOAL_OK);
        assert_same_blocks(seq, full);
        shoal_kv_part part = shoal_kv_block_part(seq, 2, block, 1);
        memcpy(part.v + last_number(shape, block), wide ? infinity : bad, 2);
        assert_int_equal(shoal_kv_block_export(seq, block, bytes), SHOAL_E_INVALID);
        shoal_free(bytes);
        shoal_kv_seq_free(seq);
        shoal_kv_seq_free(full);
        shoal_kv_pool_free(pool);
    }
}

static void test_form_names_type_and_shape(void **state)
{
    (void)state;
    shoal_kv_shape shape = {
        .n_layers = 4096, .n_kv_heads = 4096, .k_dim = 512, .v_dim = 512, .type = SHOAL_KV_F16};
    char form[SHOAL_KV_FORM_BYTES];
    char other[SHOAL_KV_FORM_BYTES];
    shoal_kv_form(&shape, form);
    assert_non_null(strstr(form, "f16 layers=4096 heads=4096 k=512 v=512"));
    shape.type = SHOAL_KV_Q8T;
    shoal_kv_form(&shape, other);
    assert_string_not_equal(form, other);
    shape.hadamard = true;
    shoal_kv_form(&shape, form);
    assert_memory_equal(form, other, strlen(other));
    assert_string_equal(form + strlen(other), " hadamard");
}

/* Which layer has which type is said whole, and forms of different ones differ. */
static void test_form_names_the_types_of_all_layers(void **state)
{
    (void)state;
    static const char *const words[] = {"q8,q4", "q4,q8", "q8*2,q4", "q8,q4*2,q8", "q8*4", "k8v4"};
    char forms[SHOAL_COUNT(words)][SHOAL_KV_FORM_BYTES];
    for (size_t i = 0; i < SHOAL_COUNT(words); i++) {
        shoal_kv_type layers[4];
        assert_int_equal(shoal_kv_types_parse(words[i], 4, layers, NULL), SHOAL_OK);
        const shoal_kv_shape shape = {.n_layers = 4,
                                      .n_kv_heads = 2,
                                      .k_dim = 4,
                                      .v_dim = 6,
                                      .type = layers[0],
                                      .types = layers};
        assert_int_equal(shoal_kv_form_layers(&shape), 1);
        shoal_kv_form(&shape, forms[i]);
        for (size_t k = 0; k < i; k++) {
            assert_string_not_equal(forms[i], forms[k]);
        }
    }
    assert_non_null(strstr(forms[0], "q8*1,q4*3 layers=4"));
    assert_non_null(strstr(forms[3], "q8*1,q4*2,q8*1 layers=4"));
}

int main(void)
{
    shoal_kernels_init(&the_kernels, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moved_blocks_are_computed_ones_in_every_form),
        cmocka_unit_test(test_import_never_writes_what_others_hold),
        cmocka_unit_test(test_limits_leave_the_sequence_as_it_was),
        cmocka_unit_test(test_numbers_that_are_none_are_refused_both_ways),
        cmocka_unit_test(test_form_names_type_and_shape),
        cmocka_unit_test(test_form_names_the_types_of_all_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
