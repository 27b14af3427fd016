/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealed KV blocks: the scalar codec against the layout and the error that kv_block.h states,
 * attention over them against float64, every tier against scalar by memcmp, rows together against
 * rows alone. Blocks are exactly as long as they need to be; f16 blocks hold NaN where nothing was
 * stored, and whole blocks that no row sees are NaN.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/attend_reference.h"
#include "tests/support/tiers.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    TOKENS_MAX = 224,
    BLOCKS_MAX = TOKENS_MAX / BLOCK,
    PAD = 5 /* floats between rows, not to be written */
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261128;
static const char *const names[SHOAL_KV_LEVELS] = {"q8", "q4", "q3"};
static const size_t bits_of[SHOAL_KV_LEVELS] = {8, 4, 3};

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    return 0;
}

static size_t below(size_t n)
{
    return shoal_rng_next(&rng) % n;
}

/* --- the layout, a second time ---------------------------------------------------------------- */

static size_t sealed_bytes(size_t level, size_t n_rows, size_t n)
{
    size_t codes = n_rows * ((n + 31) / 32) * 4 * bits_of[level];
    return (n_rows * 4 + 63) / 64 * 64 + (codes + 63) / 64 * 64;
}

/* Bit b of code i of a row. */
static unsigned code_bit(size_t level, const uint8_t *row, size_t i, size_t b)
{
    const uint8_t *group = row + i / 32 * 4 * bits_of[level];
    size_t j = i % 32;
    switch (level) {
    case 0:
        return group[j] >> b & 1U;
    case 1:
        return group[j & 15] >> (b + (j >= 16 ? 4 : 0)) & 1U;
    default:
        return b == 2 ? (unsigned)group[8 + (j >> 3)] >> (j & 7) & 1U
                      : (unsigned)group[j & 7] >> (2 * (j >> 3) + b) & 1U;
    }
}

/* Element i of row r. */
static double element_at(size_t level, const uint8_t *block, size_t n_rows, size_t n, size_t r,
                         size_t i)
{
    uint16_t scale = 0;
    uint16_t min = 0;
    memcpy(&scale, block + 2 * r, 2);
    memcpy(&min, block + 2 * (n_rows + r), 2);
    const uint8_t *row =
        block + (n_rows * 4 + 63) / 64 * 64 + r * ((n + 31) / 32) * 4 * bits_of[level];
    unsigned code = 0;
    for (size_t b = 0; b < bits_of[level]; b++) {
        code |= code_bit(level, row, i, b) << b;
    }
    return (double)shoal_f16_to_f32(min) + (double)shoal_f16_to_f32(scale) * code;
}

/* --- sealing ---------------------------------------------------------------------------------- */

typedef struct sealed {
    size_t level, n_rows, n, n_bytes;
    uint16_t *x;      /* [n_rows][n] */
    uint16_t *opened; /* [n_rows][n] */
    uint8_t *block;
} sealed;

static void sealed_new(sealed *s, size_t level, size_t n_rows, size_t n)
{
    *s = (sealed){.level = level, .n_rows = n_rows, .n = n};
    s->n_bytes = sealed_bytes(level, n_rows, n);
    assert_int_equal(s->n_bytes, shoal_kv_sealed_bytes((shoal_kv_level)level, n_rows, n));
    s->x = shoal_calloc(n_rows * n, sizeof *s->x);
    s->opened = shoal_calloc(n_rows * n, sizeof *s->opened);
    s->block = shoal_calloc_aligned(s->n_bytes, 1);
    assert_true(s->x && s->opened && s->block);
}

static void sealed_free(sealed *s)
{
    shoal_free(s->x);
    shoal_free(s->opened);
    shoal_free(s->block);
}

static void run(sealed *s, const shoal_kernels *kernels)
{
    memset(s->block, 0xA5, s->n_bytes);
    memset(s->opened, 0xA5, s->n_rows * s->n * sizeof *s->opened);
    kernels->kv_seal((shoal_kv_level)s->level, s->n_rows, s->n, s->x, s->block);
    kernels->kv_unseal((shoal_kv_level)s->level, s->n_rows, s->n, s->block, s->opened);
}

/* Of one row: the stated error of what the layout says, and opening is that rounded. */
static void check_row(const sealed *s, size_t r)
{
    double lo = (double)INFINITY;
    double hi = -lo;
    for (size_t i = 0; i < s->n; i++) {
        double x = (double)shoal_f16_to_f32(s->x[r * s->n + i]);
        lo = fmin(lo, x);
        hi = fmax(hi, x);
    }
    double steps = (double)((1U << bits_of[s->level]) - 1);
    double scale = (hi - lo) / steps;
    double most = scale < 0x1p-25 ? hi - lo : scale / 2 + steps * fmax(scale * 0x1p-11, 0x1p-25);
    for (size_t i = 0; i < s->n; i++) {
        double x = (double)shoal_f16_to_f32(s->x[r * s->n + i]);
        double kept = element_at(s->level, s->block, s->n_rows, s->n, r, i);
        if (!(fabs(kept - x) <= most * 1.00001)) {
            fail_msg("%s, row %zu of %zu: %g of [%g, %g] became %g", names[s->level], r, s->n, x,
                     lo, hi, kept);
        }
        uint16_t half = shoal_f32_to_f16((float)fmin(kept, 65504));
        assert_int_equal(half & 0x7FFF ? half : 0, s->opened[r * s->n + i]);
    }
}

static void test_seal_keeps_the_stated_error_in_the_stated_layout(void **state)
{
    (void)state;
    static const float sizes[] = {1, 1e-3F, 1e-6F, 6e4F, 100};
    for (size_t round = 0; round < 300; round++) {
        sealed s;
        sealed_new(&s, round % 3, 1 + below(70), 1 + below(100));
        for (size_t r = 0; r < s.n_rows; r++) {
            float middle = test_signed(&rng) * (r % 3 == 0 ? 4.0F : 0.0F);
            for (size_t i = 0; i < s.n; i++) {
                float x = test_signed(&rng) * sizes[(round / 3 + r) % 5];
                s.x[r * s.n + i] = shoal_f32_to_f16(r % 7 == 6 ? middle : x + middle);
            }
        }
        run(&s, &scalar);
        for (size_t r = 0; r < s.n_rows; r++) {
            check_row(&s, r);
        }
        sealed_free(&s);
    }
}

/* The ends of f16, rows of one number, and rows with what is no number. */
static void test_seal_of_rows_it_cannot_hold_marks_them(void **state)
{
    (void)state;
    enum {
        N = 32
    };
    static const uint16_t odd[] = {0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01, 0xFFFF};
    for (size_t level = 0; level < SHOAL_KV_LEVELS; level++) {
        sealed s;
        sealed_new(&s, level, SHOAL_COUNT(odd) + 3, N);
        for (size_t r = 0; r < SHOAL_COUNT(odd); r++) {
            s.x[r * N + below(N)] = odd[r];
        }
        size_t r = SHOAL_COUNT(odd);
        s.x[r * N + 3] = 0x7BFF; /* from one end of f16 to the other */
        s.x[r * N + 30] = 0xFBFF;
        for (size_t i = 0; i < N; i++) {
            s.x[(r + 1) * N + i] = 0x8000; /* -0 */
            s.x[(r + 2) * N + i] = 0x0001; /* the least number */
        }
        run(&s, &scalar);
        for (size_t i = 0; i < N; i++) {
            assert_true(isnan(element_at(level, s.block, s.n_rows, N, i % r, i)));
            assert_int_equal(s.opened[i % r * N + i], SHOAL_KV_F16_NAN);
            assert_int_equal(s.opened[(r + 1) * N + i], 0);
            assert_int_equal(s.opened[(r + 2) * N + i], 1);
        }
        check_row(&s, r);
        sealed_free(&s);
    }
}

static void test_seal_in_every_tier_equals_scalar(void **state)
{
    (void)state;
    static const size_t rows[] = {1, 2, 7, 8, 9, 15, 16, 32, 64, 66, 80, 576};
    static const size_t ns[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 80, 96, 100, 576};
    for (size_t round = 0; round < SHOAL_COUNT(rows) * SHOAL_COUNT(ns); round++) {
        for (size_t level = 0; level < SHOAL_KV_LEVELS; level++) {
            sealed want;
            sealed have;
            size_t n_rows = rows[round % SHOAL_COUNT(rows)];
            size_t n = n_rows == 576 ? 32 : ns[round / SHOAL_COUNT(rows)];
            sealed_new(&want, level, n_rows, n);
            sealed_new(&have, level, n_rows, n);
            for (size_t i = 0; i < n_rows * n; i++) {
                uint16_t bits = (uint16_t)shoal_rng_next(&rng); /* any half, now and then */
                bool finite = (bits & 0x7C00) != 0x7C00 || round % 8 == 0;
                want.x[i] = i / n % 4 == 3 && finite ? bits : shoal_f32_to_f16(test_awkward(&rng));
                have.x[i] = want.x[i];
            }
            run(&want, &scalar);
            for (size_t t = 0; t < n_tiers; t++) {
                run(&have, &tiers[t]);
                if (memcmp(want.block, have.block, want.n_bytes) != 0 ||
                    memcmp(want.opened, have.opened, n_rows * n * 2) != 0) {
                    fail_msg("%s of %s: %zu rows of %zu differ", names[level], tiers[t].tier,
                             n_rows, n);
                }
            }
            sealed_free(&want);
            sealed_free(&have);
        }
    }
}

/* --- attention -------------------------------------------------------------------------------- */

typedef struct shape {
    size_t k_dim, v_dim, n_heads, n_rows, n_tokens, window;
    float softcap;
} shape;

typedef struct operands {
    shoal_attend a;
    uint8_t *blocks[2][BLOCKS_MAX]; /* K, V */
    const void *k[BLOCKS_MAX];
    const void *v[BLOCKS_MAX];
    float *q;
    float *out[2];
    size_t out_bytes;
} operands;

static bool is_sealed(const shoal_attend *a, size_t b)
{
    return b >= a->sealed_from && b < a->sealed_to;
}

/* An f16 block of n elements, as the store slots leave it, or what is sealed of it. */
static uint8_t *block_new(bool seal, shoal_kv_level level, size_t n_rows, size_t n,
                          const uint16_t *x)
{
    size_t n_bytes = seal ? shoal_kv_sealed_bytes(level, n_rows, n) : n_rows * n * sizeof *x;
    uint8_t *block = shoal_calloc_aligned(n_bytes, 1);
    assert_non_null(block);
    if (seal) {
        scalar.kv_seal(level, n_rows, n, x, block);
    } else {
        memcpy(block, x, n_bytes);
    }
    return block;
}

/* Tokens that some row sees are numbers; the rest of a sealed block too, since sealing it is only
 * possible when it is full, unless no row sees any of it. */
static void fill_block(operands *o, size_t b)
{
    shoal_attend *a = &o->a;
    static uint16_t k[SHOAL_HEAD_DIM_MAX * BLOCK];
    static uint16_t v[SHOAL_HEAD_DIM_MAX * BLOCK];
    size_t first = attend_reference_first(a, 0);
    size_t end = a->n_tokens + a->n_rows - 1;
    bool seal = is_sealed(a, b);
    bool visible = (b + 1) * BLOCK > first;
    memset(k, 0xFF, sizeof k);
    memset(v, 0xFF, sizeof v);
    for (size_t t = 0; t < BLOCK; t++) {
        size_t at = b * BLOCK + t;
        if ((!seal && (at < first || at >= end)) || !visible) {
            continue;
        }
        for (size_t d = 0; d < a->k_dim; d++) {
            k[d * BLOCK + t] = shoal_f32_to_f16(test_signed(&rng) * (d % 5 == 1 ? 3.0F : 1.0F));
        }
        for (size_t d = 0; d < a->v_dim; d++) {
            v[t * a->v_dim + d] = shoal_f32_to_f16(test_signed(&rng));
        }
    }
    o->blocks[0][b] = block_new(seal, a->k_level, a->k_dim, BLOCK, k);
    o->blocks[1][b] = block_new(seal, a->v_level, BLOCK, a->v_dim, v);
    o->k[b] = o->blocks[0][b];
    o->v[b] = o->blocks[1][b];
}

static float *floats(size_t n)
{
    float *x = shoal_calloc_aligned(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        x[i] = test_signed(&rng) * 3;
    }
    return x;
}

/* Blocks that are full are sealed or not, as it comes. */
static void operands_new(operands *o, const shape *s, size_t levels)
{
    memset(o, 0, sizeof *o);
    size_t n_full = s->n_tokens / BLOCK;
    size_t from = below(n_full + 1);
    size_t q_stride = s->n_heads * s->k_dim + PAD;
    size_t out_stride = s->n_heads * s->v_dim + PAD;
    o->q = floats(s->n_rows * q_stride);
    o->out_bytes = s->n_rows * out_stride * sizeof(float);
    o->out[0] = floats(s->n_rows * out_stride);
    o->out[1] = floats(s->n_rows * out_stride);
    o->a = (shoal_attend){
        .n_rows = s->n_rows,
        .n_heads = s->n_heads,
        .k_dim = s->k_dim,
        .v_dim = s->v_dim,
        .n_tokens = s->n_tokens,
        .window = s->window,
        .scale = 1.0F / sqrtf((float)s->k_dim),
        .softcap = s->softcap,
        .q = o->q,
        .q_stride = q_stride,
        .k_blocks = o->k,
        .v_blocks = o->v,
        .out = o->out[0],
        .out_stride = out_stride,
        .sealed_from = from,
        .sealed_to = from + below(n_full - from + 1),
        .k_level = (shoal_kv_level)(levels % 3),
        .v_level = (shoal_kv_level)(levels / 3 % 3),
    };
    assert_true(s->n_tokens + s->n_rows - 1 <= TOKENS_MAX);
    for (size_t b = 0; b * BLOCK < s->n_tokens + s->n_rows - 1; b++) {
        fill_block(o, b);
    }
}

static void operands_free(operands *o)
{
    for (size_t b = 0; b < BLOCKS_MAX; b++) {
        shoal_free(o->blocks[0][b]);
        shoal_free(o->blocks[1][b]);
    }
    shoal_free(o->q);
    shoal_free(o->out[0]);
    shoal_free(o->out[1]);
}

static double half_at(const uint8_t *block, size_t i)
{
    uint16_t half = 0;
    memcpy(&half, block + 2 * i, sizeof half);
    return (double)shoal_f16_to_f32(half);
}

static double key_at(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    size_t b = t / BLOCK;
    return is_sealed(&o->a, b)
               ? element_at(o->a.k_level, o->blocks[0][b], o->a.k_dim, BLOCK, d, t % BLOCK)
               : half_at(o->blocks[0][b], d * BLOCK + t % BLOCK);
}

static double value_at(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    size_t b = t / BLOCK;
    return is_sealed(&o->a, b)
               ? element_at(o->a.v_level, o->blocks[1][b], BLOCK, o->a.v_dim, t % BLOCK, d)
               : half_at(o->blocks[1][b], t % BLOCK * o->a.v_dim + d);
}

static void check(const shape *s, size_t levels, bool float64)
{
    operands o;
    operands_new(&o, s, levels);
    memset(o.out[0], 0xA5, o.out_bytes);
    scalar.attend_sealed(&o.a);
    for (size_t row = 0; float64 && row < s->n_rows; row++) {
        for (size_t head = 0; head < s->n_heads; head++) {
            double off = attend_reference_distance(&o.a, row, head, key_at, value_at, &o);
            if (!(off < 2e-5)) {
                fail_msg("%s keys, %s values, row %zu head %zu: off by %.2e", names[o.a.k_level],
                         names[o.a.v_level], row, head, off);
            }
        }
    }
    for (size_t t = 0; t < n_tiers; t++) {
        memset(o.out[1], 0xA5, o.out_bytes);
        o.a.out = o.out[1];
        tiers[t].attend_sealed(&o.a);
        o.a.out = o.out[0];
        if (memcmp(o.out[0], o.out[1], o.out_bytes) != 0) {
            fail_msg("attend_sealed of %s differs: %s %s, dims %zu %zu, %zu heads, %zu rows, %zu "
                     "tokens, window %zu, sealed %zu to %zu",
                     tiers[t].tier, names[o.a.k_level], names[o.a.v_level], s->k_dim, s->v_dim,
                     s->n_heads, s->n_rows, s->n_tokens, s->window, o.a.sealed_from, o.a.sealed_to);
        }
    }
    operands_free(&o);
}

static void test_attend_of_every_dim_and_group_equals_float64_and_scalar(void **state)
{
    (void)state;
    static const size_t dims[] = {2, 6, 8, 16, 18, 32, 48, 64, 66, 80};
    for (size_t round = 0; round < 360; round++) {
        shape s = {.k_dim = dims[round % 10],
                   .v_dim = dims[(round + round / 10) % 10],
                   .n_heads = 1 + round % 13,
                   .n_rows = 1 + (round % 5 == 4 ? below(30) : 0),
                   .n_tokens = 64 + below(100)};
        check(&s, round, round % 6 == 0);
    }
}

static void test_attend_with_windows_and_softcap_equals_float64_and_scalar(void **state)
{
    (void)state;
    static const size_t windows[] = {1, 2, 31, 32, 33, 40, 64, 100};
    for (size_t round = 0; round < 90; round++) {
        shape s = {.k_dim = 2 * (1 + below(24)),
                   .v_dim = 2 * (1 + below(40)),
                   .n_heads = 1 + below(6),
                   .n_rows = 1 + below(round % 2 ? 40 : 4),
                   .n_tokens = 40 + below(140),
                   .window = windows[round % 8],
                   .softcap = round % 3 ? 0 : 5};
        check(&s, round / 2, round % 4 == 0);
    }
}

static void test_attend_with_the_widest_heads_equals_scalar(void **state)
{
    (void)state;
    static const size_t dims[][2] = {{96, 96}, {128, 128}, {256, 256}, {576, 512}, {192, 128}};
    for (size_t i = 0; i < 9; i++) {
        shape s = {.k_dim = dims[i % 5][0],
                   .v_dim = dims[i % 5][1],
                   .n_heads = 1 + below(16),
                   .n_rows = 1 + below(3),
                   .n_tokens = 96 + below(40)};
        check(&s, i, i == 3);
    }
}

/* A row's bits do not depend on the rows beside it (R2). */
static void test_attend_of_many_rows_equals_one_row_at_a_time(void **state)
{
    (void)state;
    for (size_t round = 0; round < 36; round++) {
        shape s = {.k_dim = 16,
                   .v_dim = 34,
                   .n_heads = 1 + below(5),
                   .n_rows = 1 + below(60),
                   .n_tokens = 64 + below(90),
                   .window = round % 3 ? 0 : 1 + below(90)};
        operands o;
        operands_new(&o, &s, round);
        for (size_t t = 0; t <= n_tiers; t++) {
            const shoal_kernels *kernels = t < n_tiers ? &tiers[t] : &scalar;
            memset(o.out[0], 0xA5, o.out_bytes);
            memset(o.out[1], 0xA5, o.out_bytes);
            kernels->attend_sealed(&o.a);
            for (size_t row = 0; row < s.n_rows; row++) {
                size_t skip = attend_reference_first(&o.a, row) / BLOCK;
                shoal_attend one = o.a;
                one.n_rows = 1;
                one.n_tokens = s.n_tokens + row - skip * BLOCK;
                one.k_blocks += skip;
                one.v_blocks += skip;
                one.sealed_from -= SHOAL_MIN(skip, one.sealed_from);
                one.sealed_to -= SHOAL_MIN(skip, one.sealed_to);
                one.q += row * one.q_stride;
                one.out = o.out[1] + row * one.out_stride;
                kernels->attend_sealed(&one);
            }
            assert_memory_equal(o.out[0], o.out[1], o.out_bytes);
        }
        operands_free(&o);
    }
}

/* Scores far apart, and queries that are not finite: NaN may differ in sign and payload. */
static void test_attend_with_odd_scores_equals_scalar(void **state)
{
    (void)state;
    static const float odd[] = {0, -0.0F, 1e30F, -1e30F, 3e4F, 1e-30F, INFINITY, NAN};
    shape s = {.k_dim = 8, .v_dim = 8, .n_heads = 4, .n_rows = 3, .n_tokens = 100};
    for (size_t round = 0; round < 54; round++) {
        operands o;
        s.softcap = round % 2 ? 30 : 0;
        operands_new(&o, &s, round);
        for (size_t i = 0; i < 6; i++) {
            o.q[below(s.n_rows * o.a.q_stride)] = odd[(round / 8 + i * (round % 2)) % 8];
        }
        scalar.attend_sealed(&o.a);
        for (size_t t = 0; t < n_tiers; t++) {
            memcpy(o.out[1], o.out[0], o.out_bytes);
            o.a.out = o.out[1];
            tiers[t].attend_sealed(&o.a);
            o.a.out = o.out[0];
            for (size_t i = 0; i < o.out_bytes / sizeof(float); i++) {
                bool same = memcmp(&o.out[0][i], &o.out[1][i], sizeof(float)) == 0;
                assert_true(same || (isnan(o.out[0][i]) && isnan(o.out[1][i])));
            }
        }
        operands_free(&o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seal_keeps_the_stated_error_in_the_stated_layout),
        cmocka_unit_test(test_seal_of_rows_it_cannot_hold_marks_them),
        cmocka_unit_test(test_seal_in_every_tier_equals_scalar),
        cmocka_unit_test(test_attend_of_every_dim_and_group_equals_float64_and_scalar),
        cmocka_unit_test(test_attend_with_windows_and_softcap_equals_float64_and_scalar),
        cmocka_unit_test(test_attend_with_the_widest_heads_equals_scalar),
        cmocka_unit_test(test_attend_of_many_rows_equals_one_row_at_a_time),
        cmocka_unit_test(test_attend_with_odd_scores_equals_scalar),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
