/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding against vectors from an independent program (tests/golden/blocks.py): random blocks of
 * every quantised type, the exact bits of their floats. The same blocks come back from panels of
 * ragged row counts, and hostile blocks decode to something without harm.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/weight/weight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N = 1024, /* elements of every vector file */
    RAW_MAX = 1536
};

static const shoal_type types[] = {SHOAL_TYPE_Q4_0, SHOAL_TYPE_Q4_1,  SHOAL_TYPE_Q5_0,
                                   SHOAL_TYPE_Q5_1, SHOAL_TYPE_Q8_0,  SHOAL_TYPE_Q2_K,
                                   SHOAL_TYPE_Q3_K, SHOAL_TYPE_Q4_K,  SHOAL_TYPE_Q5_K,
                                   SHOAL_TYPE_Q6_K, SHOAL_TYPE_IQ4_NL};

/* A vector file: n blocks and the bits of their floats. */
typedef struct vectors {
    const shoal_type_info *info;
    size_t n_blocks;
    uint8_t raw[RAW_MAX];
    uint32_t bits[N];
} vectors;

static unsigned digit(char c)
{
    const char *at = strchr("0123456789abcdef", c);
    assert_true(c != '\0' && at != NULL);
    return (unsigned)(at - "0123456789abcdef");
}

static const char *read_hex(const char *p, uint8_t *ret, size_t n)
{
    for (size_t i = 0; i < n; i++, p += 2) {
        ret[i] = (uint8_t)(digit(p[0]) << 4 | digit(p[1]));
    }
    return p;
}

static void load(shoal_type type, vectors *v)
{
    char path[512];
    const char *root = getenv("SHOAL_SOURCE_DIR");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    v->info = shoal_type_find((uint32_t)type);
    v->n_blocks = N / v->info->block;
    (void)snprintf(path, sizeof path, "%s/tests/golden/data/codec-%s.txt", root ? root : ".",
                   v->info->name);
    assert_int_equal(shoal_file_read(path, 1 << 20, &text, NULL), SHOAL_OK);
    const char *p = text.data;
    for (size_t b = 0; b < v->n_blocks; b++) {
        p = read_hex(p, v->raw + b * v->info->block_bytes, v->info->block_bytes);
        assert_int_equal(*p++, ' ');
        for (size_t i = 0; i < v->info->block; i++) {
            uint8_t bytes[4];
            p = read_hex(p, bytes, 4);
            v->bits[b * v->info->block + i] = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 |
                                              (uint32_t)bytes[2] << 8 | bytes[3];
        }
        assert_int_equal(*p++, '\n');
    }
    assert_int_equal(*p, '\0');
}

static void test_decode_gives_the_published_bits(void **state)
{
    (void)state;
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        vectors v;
        float x[N];
        load(types[t], &v);
        shoal_weight_decode(types[t], v.raw, N, x);
        for (size_t i = 0; i < N; i++) {
            uint32_t bits = 0;
            memcpy(&bits, &x[i], 4);
            if (bits != v.bits[i]) {
                fail_msg("%s element %zu: %08x, expected %08x", v.info->name, i, bits, v.bits[i]);
            }
        }
    }
}

/* Rows of the vectors' blocks, in another order for each row. */
static void test_rows_of_a_panel_are_the_blocks_bits(void **state)
{
    (void)state;
    const size_t row_counts[] = {1, 2, 15, 16, 17, 31, 32, 33};
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        vectors v;
        load(types[t], &v);
        size_t row_bytes = v.n_blocks * v.info->block_bytes;
        for (size_t c = 0; c < SHOAL_COUNT(row_counts); c++) {
            size_t n_rows = row_counts[c];
            uint8_t *raw = shoal_calloc(n_rows, row_bytes);
            assert_non_null(raw);
            for (size_t r = 0; r < n_rows; r++) {
                for (size_t b = 0; b < v.n_blocks; b++) {
                    memcpy(raw + r * row_bytes + b * v.info->block_bytes,
                           v.raw + (b + r) % v.n_blocks * v.info->block_bytes, v.info->block_bytes);
                }
            }
            shoal_gguf_tensor tensor = {.name = {"t", 1},
                                        .type = types[t],
                                        .n_dims = 2,
                                        .dims = {N, n_rows, 1, 1},
                                        .data = raw,
                                        .size_bytes = n_rows * row_bytes};
            shoal_weight *w = NULL;
            assert_int_equal(shoal_weight_new(&tensor, &w, NULL), SHOAL_OK);
            for (size_t r = 0; r < n_rows; r++) {
                float got[N];
                float want[N];
                shoal_weight_row(w, r, got);
                shoal_weight_decode(types[t], raw + r * row_bytes, N, want);
                assert_memory_equal(got, want, sizeof got);
            }
            shoal_weight_free(w);
            shoal_free(raw);
        }
    }
}

/* Whatever the bytes, decoding ends in numbers; loading refuses the block whose scale, or floor, is
 * no number, and only that. */
static void test_hostile_blocks_do_no_harm(void **state)
{
    (void)state;
    uint64_t rng = 17;
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        const shoal_type_info *info = shoal_type_find((uint32_t)types[t]);
        for (size_t round = 0; round < 400; round++) {
            uint8_t raw[RAW_MAX];
            float x[256];
            size_t bytes = 256 / info->block * info->block_bytes;
            for (size_t i = 0; i < bytes; i++) {
                raw[i] = round == 0 ? 0xff : round == 1 ? 0 : (uint8_t)shoal_rng_next(&rng);
            }
            shoal_weight_decode(types[t], raw, 256, x);
            bool finite = true;
            for (size_t i = 0; i < 256; i++) {
                finite = finite && isfinite(x[i]);
            }
            shoal_gguf_tensor tensor = {.name = {"t", 1},
                                        .type = types[t],
                                        .n_dims = 2,
                                        .dims = {256, 1, 1, 1},
                                        .data = raw,
                                        .size_bytes = bytes};
            shoal_weight *w = NULL;
            shoal_status status = shoal_weight_new(&tensor, &w, NULL);
            assert_true(status == SHOAL_OK || status == SHOAL_E_INVALID);
            /* An infinite scale times a code of 0 is NaN, so a bad scale always shows. */
            assert_int_equal(status == SHOAL_OK, finite);
            assert_true(round != 0 || status == SHOAL_E_INVALID);
            shoal_weight_free(w);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_gives_the_published_bits),
        cmocka_unit_test(test_rows_of_a_panel_are_the_blocks_bits),
        cmocka_unit_test(test_hostile_blocks_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
