/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a product, of every tier against scalar by memcmp and against float64: ranks
 * around each tier's step, rows with no, one and all of a panel's elements, ragged rows, any part
 * of the panels, poisoned padding.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/tiers.h"

#include <math.h>
#include <string.h>

enum {
    POISON = 0xA5,
    ROWS = SHOAL_PANEL_ROWS,
    PANELS_MAX = 7,
    RANK_MAX = 70,
    COLS_MAX = 19,
    K = 65536, /* what a place can name */
    STEPS_MAX = PANELS_MAX * 12,
    STRIDE = PANELS_MAX * ROWS + 3
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261129;

/* What a product left in y, the same with sides by scalar, and by a tier. */
static float before[COLS_MAX * STRIDE];
static float want[COLS_MAX * STRIDE];
static float got[COLS_MAX * STRIDE];

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    return 0;
}

static void fill_outputs(size_t n_rows, size_t n_cols)
{
    memset(before, POISON, sizeof before);
    for (size_t c = 0; c < n_cols; c++) {
        for (size_t row = 0; row < n_rows; row++) {
            before[c * STRIDE + row] = test_awkward(&rng);
        }
    }
}

static void check_value(double value, double size, size_t row, size_t c)
{
    double is = (double)want[c * STRIDE + row];
    if (!(fabs(is - value) <= 8e-6 * size + 1e-30)) {
        fail_msg("(%zu, %zu): %g, float64 gives %g", row, c, is, value);
    }
}

/* --- low rank -------------------------------------------------------------------------------- */

static uint8_t low_panels[PANELS_MAX * RANK_MAX * 18];
static float t[COLS_MAX * (RANK_MAX + 3)];

static double half_at(const uint8_t *p)
{
    uint16_t half = 0;
    memcpy(&half, p, 2);
    return (double)shoal_f16_to_f32(half);
}

static void check_low(const shoal_low *low)
{
    for (size_t c = 0; c < low->n_cols; c++) {
        for (size_t row = 0; row < low->n_rows; row++) {
            const uint8_t *d = low->panels + row / ROWS * shoal_low_bytes(low->rank);
            double sum = (double)before[c * STRIDE + row];
            double size = fabs(sum);
            for (size_t r = 0; r < low->rank; r++) {
                double code = (int8_t)d[2 * low->rank + r * ROWS + row % ROWS];
                double term = half_at(d + 2 * r) * code * (double)low->t[c * low->t_stride + r];
                sum += term;
                size += fabs(term);
            }
            check_value(sum, size, row, c);
        }
    }
}

static void compare_low(size_t n_rows, size_t rank, size_t n_cols)
{
    size_t n_panels = (n_rows + ROWS - 1) / ROWS;
    for (size_t i = 0; i < n_panels * shoal_low_bytes(rank); i++) {
        low_panels[i] = (uint8_t)shoal_rng_next(&rng);
    }
    for (size_t i = 0; i < n_panels * rank; i++) {
        uint16_t half = shoal_f32_to_f16(test_awkward(&rng));
        memcpy(low_panels + i / rank * shoal_low_bytes(rank) + i % rank * 2, &half, 2);
    }
    for (size_t i = 0; i < n_cols * (rank + 3); i++) {
        t[i] = test_awkward(&rng);
    }
    fill_outputs(n_rows, n_cols);
    shoal_low low = {.panels = low_panels,
                     .n_rows = n_rows,
                     .rank = rank,
                     .n_cols = n_cols,
                     .t = t,
                     .t_stride = rank + 3,
                     .y = want,
                     .y_stride = STRIDE};
    memcpy(want, before, sizeof want);
    scalar.add_low(&low, 0, n_panels);
    check_low(&low);
    low.y = got;
    for (size_t i = 0; i < n_tiers; i++) {
        size_t middle = n_panels / 3;
        memcpy(got, before, sizeof got);
        tiers[i].add_low(&low, middle, n_panels);
        tiers[i].add_low(&low, 0, middle);
        assert_memory_equal(got, want, sizeof got);
    }
}

static void test_low_rank_of_every_tier_equals_scalar(void **state)
{
    (void)state;
    static const size_t ranks[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, RANK_MAX};
    static const size_t rows[] = {1, 15, 16, 17, 64, 79, PANELS_MAX * ROWS};
    for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
        for (size_t n_cols = 1; n_cols <= COLS_MAX; n_cols++) {
            compare_low(rows[(i + n_cols) % (sizeof rows / sizeof rows[0])], ranks[i], n_cols);
        }
    }
}

/* --- single elements ------------------------------------------------------------------------- */

static uint32_t begin[PANELS_MAX + 1];
static uint32_t counts[PANELS_MAX * ROWS];
static uint16_t cols[STEPS_MAX * ROWS];
static uint16_t values[STEPS_MAX * ROWS];
static float *x; /* [COLS_MAX][K] */

/* Of each panel: nothing, one element, every element of every step, or what falls. What is not
 * there has values that would be seen. */
static void fill_singles(size_t n_rows)
{
    size_t n_panels = (n_rows + ROWS - 1) / ROWS;
    for (size_t p = 0; p < n_panels; p++) {
        size_t kind = shoal_rng_next(&rng) % 4;
        uint32_t steps = kind == 0 ? 0 : kind == 1 ? 1 : (uint32_t)(1 + shoal_rng_next(&rng) % 12);
        begin[p + 1] = begin[p] + steps;
        for (size_t i = 0; i < ROWS; i++) {
            bool there = p * ROWS + i < n_rows && kind != 0 && (kind != 1 || i == 5);
            uint32_t n = kind == 3 ? (uint32_t)(shoal_rng_next(&rng) % (steps + 1)) : steps;
            counts[p * ROWS + i] = there ? n : 0;
            for (uint32_t j = 0; j < steps; j++) {
                size_t at = (size_t)(begin[p] + j) * ROWS + i;
                uint16_t col =
                    (uint16_t)(shoal_rng_next(&rng) % 5 == 0 ? K - 1
                                                             : 1 + shoal_rng_next(&rng) % (K - 1));
                cols[at] = j < counts[p * ROWS + i] ? col : 0;
                values[at] = shoal_f32_to_f16(test_awkward(&rng));
            }
        }
    }
}

static void check_singles(const shoal_singles *s)
{
    for (size_t c = 0; c < s->n_cols; c++) {
        for (size_t row = 0; row < s->n_rows; row++) {
            double sum = (double)before[c * STRIDE + row];
            double size = fabs(sum);
            for (size_t j = 0; j < counts[row]; j++) {
                size_t at = (begin[row / ROWS] + j) * ROWS + row % ROWS;
                double term =
                    (double)shoal_f16_to_f32(values[at]) * (double)s->x[c * s->x_stride + cols[at]];
                sum += term;
                size += fabs(term);
            }
            check_value(sum, size, row, c);
        }
    }
}

static void test_single_elements_of_every_tier_equal_scalar(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 15, 16, 17, 64, 79, PANELS_MAX * ROWS};
    x = shoal_calloc_aligned((size_t)COLS_MAX * K, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)COLS_MAX * K; i++) {
        x[i] = test_awkward(&rng);
    }
    x[0] = INFINITY; /* of padding, which is passed over */
    for (size_t round = 0; round < 20 * COLS_MAX; round++) {
        size_t n_rows = rows[round % (sizeof rows / sizeof rows[0])];
        size_t n_cols = 1 + round % COLS_MAX;
        size_t n_panels = (n_rows + ROWS - 1) / ROWS;
        fill_singles(n_rows);
        fill_outputs(n_rows, n_cols);
        shoal_singles s = {.begin = begin,
                           .counts = counts,
                           .cols = cols,
                           .values = values,
                           .n_rows = n_rows,
                           .n_cols = n_cols,
                           .x = x,
                           .x_stride = K,
                           .y = want,
                           .y_stride = STRIDE};
        memcpy(want, before, sizeof want);
        scalar.add_singles(&s, 0, n_panels);
        check_singles(&s);
        s.y = got;
        for (size_t i = 0; i < n_tiers; i++) {
            size_t middle = n_panels / 3;
            memcpy(got, before, sizeof got);
            tiers[i].add_singles(&s, middle, n_panels);
            tiers[i].add_singles(&s, 0, middle);
            assert_memory_equal(got, want, sizeof got);
        }
    }
    shoal_free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_low_rank_of_every_tier_equals_scalar),
        cmocka_unit_test(test_single_elements_of_every_tier_equal_scalar),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
