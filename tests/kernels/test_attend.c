/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention and its stored forms: scalar against a naive float64 computation over what is stored,
 * every tier against scalar by memcmp, several rows in one call against one call for each row.
 * Blocks are exactly as long as they need to be and hold NaN where nothing was stored.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "common/tensor/type.h"
#include "tests/support/random.h"
#include "tests/support/attend_reference.h"
#include "tests/support/tiers.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    TOKENS_MAX = 240,
    BLOCKS_MAX = (TOKENS_MAX + BLOCK - 1) / BLOCK,
    PAD = 5 /* floats between rows, not to be written */
};

static shoal_kernels scalar;
static shoal_kernels tiers[TIERS_MAX];
static size_t n_tiers;
static uint64_t rng = 20261125;

static int group_setup(void **state)
{
    (void)state;
    n_tiers = test_tiers(&scalar, tiers);
    return 0;
}

static const void *const nowhere = (const void *)64; /* no program has memory there */

static size_t below(size_t n)
{
    return shoal_rng_next(&rng) % n;
}

/* --- stored forms ------------------------------------------------------------------------------
 */

typedef void attend_fn(const shoal_attend *a);
typedef void store_fn(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                      void *kblock, void *vblock);

typedef struct form {
    const char *name;
    size_t element;
    size_t scales; /* bytes in front of a block */
    size_t store;  /* offsets of the slots */
    size_t attend;
    double budget; /* of an output for values in [-1, 1], against what was given to store */
} form;

static const form forms[] = {
    {"f32", 4, 0, offsetof(shoal_kernels, kv_store_f32), offsetof(shoal_kernels, attend_f32), 1e-5},
    {"f16", 2, 0, offsetof(shoal_kernels, kv_store_f16), offsetof(shoal_kernels, attend_f16), 3e-3},
    {"q8", 1, SHOAL_KV_Q8_SCALES, offsetof(shoal_kernels, kv_store_q8),
     offsetof(shoal_kernels, attend_q8), 3e-2},
};

enum {
    N_FORMS = sizeof forms / sizeof forms[0]
};

static store_fn *store_of(const shoal_kernels *kernels, const form *f)
{
    store_fn *fn = NULL;
    memcpy(&fn, (const char *)kernels + f->store, sizeof fn);
    return fn;
}

static attend_fn *attend_of(const shoal_kernels *kernels, const form *f)
{
    attend_fn *fn = NULL;
    memcpy(&fn, (const char *)kernels + f->attend, sizeof fn);
    return fn;
}

static size_t block_bytes(const form *f, size_t dim)
{
    return f->scales + dim * BLOCK * f->element;
}

/* Element i of a block, whose token is t, by the layout of kernels.h alone. */
static double element_at(const form *f, const uint8_t *block, size_t i, size_t t)
{
    const uint8_t *at = block + f->scales + i * f->element;
    uint16_t half = 0;
    if (f->element == 4) {
        float x = 0;
        memcpy(&x, at, sizeof x);
        return (double)x;
    }
    if (f->element == 2) {
        memcpy(&half, at, sizeof half);
        return (double)shoal_f16_to_f32(half);
    }
    int8_t code = 0;
    memcpy(&code, at, sizeof code);
    memcpy(&half, block + 2 * t, sizeof half);
    return (double)shoal_f16_to_f32(half) * code;
}

/* --- one case ----------------------------------------------------------------------------------
 */

typedef struct shape {
    size_t k_dim, v_dim, n_heads, n_rows, n_tokens, window;
    float softcap;
} shape;

typedef struct operands {
    const form *form;
    shoal_attend a;
    uint8_t *blocks[2][BLOCKS_MAX]; /* K, V */
    const void *k[BLOCKS_MAX];
    const void *v[BLOCKS_MAX];
    float *keys;   /* [tokens][k_dim], as given to store */
    float *values; /* [tokens][v_dim] */
    float *q;
    float *out[2];
    size_t out_bytes;
} operands;

static float *floats(size_t n)
{
    float *x = shoal_calloc_aligned(n, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        x[i] = test_signed(&rng);
    }
    return x;
}

/* Stores what some row sees; all else stays NaN. */
static void operands_new(operands *o, const form *f, const shape *s)
{
    memset(o, 0, sizeof *o);
    o->form = f;
    size_t n_tokens = s->n_tokens + s->n_rows - 1;
    assert_true(n_tokens <= TOKENS_MAX);
    size_t q_stride = s->n_heads * s->k_dim + PAD;
    size_t out_stride = s->n_heads * s->v_dim + PAD;
    o->keys = floats(n_tokens * s->k_dim);
    o->values = floats(n_tokens * s->v_dim);
    o->q = floats(s->n_rows * q_stride);
    for (size_t i = 0; i < s->n_rows * q_stride; i++) {
        o->q[i] *= 3;
    }
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
        .ahead = nowhere, /* may be gone: nothing is read there */
        .ahead_bytes = below(4 * (size_t)SHOAL_ATTEND_AHEAD),
    };
    for (size_t b = 0; b * BLOCK < n_tokens; b++) {
        o->blocks[0][b] = shoal_calloc_aligned(block_bytes(f, s->k_dim), 1);
        o->blocks[1][b] = shoal_calloc_aligned(block_bytes(f, s->v_dim), 1);
        memset(o->blocks[0][b], 0xFF, block_bytes(f, s->k_dim));
        memset(o->blocks[1][b], 0xFF, block_bytes(f, s->v_dim));
        o->k[b] = o->blocks[0][b];
        o->v[b] = o->blocks[1][b];
    }
    for (size_t t = attend_reference_first(&o->a, 0); t < n_tokens; t++) {
        store_of(&scalar, f)(s->k_dim, s->v_dim, o->keys + t * s->k_dim, o->values + t * s->v_dim,
                             t % BLOCK, o->blocks[0][t / BLOCK], o->blocks[1][t / BLOCK]);
    }
}

static void operands_free(operands *o)
{
    for (size_t b = 0; b < BLOCKS_MAX; b++) {
        shoal_free(o->blocks[0][b]);
        shoal_free(o->blocks[1][b]);
    }
    shoal_free(o->keys);
    shoal_free(o->values);
    shoal_free(o->q);
    shoal_free(o->out[0]);
    shoal_free(o->out[1]);
}

static double stored_key(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    return element_at(o->form, o->blocks[0][t / BLOCK], d * BLOCK + t % BLOCK, t % BLOCK);
}

static double stored_value(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    return element_at(o->form, o->blocks[1][t / BLOCK], t % BLOCK * o->a.v_dim + d, t % BLOCK);
}

static double given_key(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    return (double)o->keys[t * o->a.k_dim + d];
}

static double given_value(const void *ctx, size_t t, size_t d)
{
    const operands *o = ctx;
    return (double)o->values[t * o->a.v_dim + d];
}

/* --- attention ---------------------------------------------------------------------------------
 */

static void check_float64(const operands *o)
{
    for (size_t row = 0; row < o->a.n_rows; row++) {
        for (size_t head = 0; head < o->a.n_heads; head++) {
            double stored =
                attend_reference_distance(&o->a, row, head, stored_key, stored_value, o);
            double given = attend_reference_distance(&o->a, row, head, given_key, given_value, o);
            if (!(stored < 1e-5) || !(given < o->form->budget)) {
                fail_msg("%s row %zu head %zu: %.2e from what is stored, %.2e from what was given",
                         o->form->name, row, head, stored, given);
            }
        }
    }
}

static void compare(operands *o, const shape *s, const shoal_kernels *kernels)
{
    memset(o->out[1], 0xA5, o->out_bytes);
    o->a.out = o->out[1];
    attend_of(kernels, o->form)(&o->a);
    o->a.out = o->out[0];
    if (memcmp(o->out[0], o->out[1], o->out_bytes) != 0) {
        fail_msg("attend_%s of %s differs: dims %zu %zu, %zu heads, %zu rows, %zu tokens, window "
                 "%zu, softcap %g",
                 o->form->name, kernels->tier, s->k_dim, s->v_dim, s->n_heads, s->n_rows,
                 s->n_tokens, s->window, (double)s->softcap);
    }
}

static void check(const form *f, const shape *s, bool float64)
{
    operands o;
    operands_new(&o, f, s);
    memset(o.out[0], 0xA5, o.out_bytes);
    attend_of(&scalar, f)(&o.a);
    if (float64) {
        check_float64(&o);
    }
    for (size_t t = 0; t < n_tiers; t++) {
        compare(&o, s, &tiers[t]);
    }
    operands_free(&o);
}

static void test_attend_around_block_borders_equals_float64_and_scalar(void **state)
{
    (void)state;
    static const size_t dims[] = {2, 6, 8, 16, 18, 32, 64, 80};
    for (size_t n = 1; n <= 100; n += n > 66 ? 7 : 1) {
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
            for (size_t f = 0; f < N_FORMS; f++) {
                shape s = {.k_dim = dims[i],
                           .v_dim = dims[(i + f) % 8],
                           .n_heads = 1 + (n + i + f) % 9,
                           .n_rows = 1,
                           .n_tokens = n};
                check(&forms[f], &s, n < 4 || n % BLOCK < 2 || n % BLOCK == 31);
            }
        }
    }
}

static void test_attend_with_every_group_and_rows_equals_scalar(void **state)
{
    (void)state;
    for (size_t heads = 1; heads <= 13; heads++) {
        for (size_t rows = 1; rows <= 9; rows++) {
            shape s = {.k_dim = 16,
                       .v_dim = 24,
                       .n_heads = heads,
                       .n_rows = rows,
                       .n_tokens = 1 + below(80)};
            check(&forms[(heads + rows) % N_FORMS], &s, false);
        }
    }
}

static void test_attend_with_windows_and_softcap_equals_float64_and_scalar(void **state)
{
    (void)state;
    static const size_t windows[] = {0, 1, 2, 31, 32, 33, 40, 64, 100};
    static const float caps[] = {0, 0.5F, 50};
    for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
        for (size_t round = 0; round < 18; round++) {
            shape s = {.k_dim = 2 * (1 + below(24)),
                       .v_dim = 2 * (1 + below(24)),
                       .n_heads = 1 + below(6),
                       .n_rows = 1 + below(round % 2 ? 40 : 4),
                       .n_tokens = 1 + below(150),
                       .window = windows[w],
                       .softcap = caps[round % 3]};
            check(&forms[round % N_FORMS], &s, true);
        }
    }
}

static void test_attend_with_the_widest_heads_equals_scalar(void **state)
{
    (void)state;
    static const size_t dims[][2] = {{96, 96}, {128, 128}, {256, 256}, {576, 512}, {192, 128}};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        for (size_t f = 0; f < N_FORMS; f++) {
            shape s = {.k_dim = dims[i][0],
                       .v_dim = dims[i][1],
                       .n_heads = 1 + below(16),
                       .n_rows = 1 + below(3),
                       .n_tokens = 33 + below(40)};
            check(&forms[f], &s, i == 3);
        }
    }
}

/* A row's bits do not depend on the rows beside it (R2). */
static void test_attend_of_many_rows_equals_one_row_at_a_time(void **state)
{
    (void)state;
    for (size_t round = 0; round < 60; round++) {
        shape s = {.k_dim = 16,
                   .v_dim = 16,
                   .n_heads = 1 + below(5),
                   .n_rows = 1 + below(70),
                   .n_tokens = 1 + below(120),
                   .window = round % 3 ? 0 : 1 + below(90)};
        operands o;
        operands_new(&o, &forms[round % N_FORMS], &s);
        for (size_t t = 0; t <= n_tiers; t++) {
            const shoal_kernels *kernels = t < n_tiers ? &tiers[t] : &scalar;
            memset(o.out[0], 0xA5, o.out_bytes);
            memset(o.out[1], 0xA5, o.out_bytes);
            attend_of(kernels, o.form)(&o.a);
            for (size_t row = 0; row < s.n_rows; row++) {
                size_t skip = attend_reference_first(&o.a, row) / BLOCK;
                shoal_attend one = o.a;
                one.n_rows = 1;
                one.n_tokens = s.n_tokens + row - skip * BLOCK;
                one.k_blocks += skip;
                one.v_blocks += skip;
                one.q += row * one.q_stride;
                one.out = o.out[1] + row * one.out_stride;
                attend_of(kernels, o.form)(&one);
            }
            assert_memory_equal(o.out[0], o.out[1], o.out_bytes);
        }
        operands_free(&o);
    }
}

/* Shares leave the output alone, are the same bits in every tier, and are those of a plain softmax.
 */
static void test_attend_shares_equal_float64_and_scalar(void **state)
{
    (void)state;
    for (size_t round = 0; round < 60; round++) {
        const form *f = &forms[round % 2]; /* f32, f16 */
        shape s = {.k_dim = 16,
                   .v_dim = 8,
                   .n_heads = round % 5 ? 1 + below(6) : 49 + below(3),
                   .n_rows = 1,
                   .n_tokens = 1 + below(150),
                   .softcap = round % 3 ? 0 : 20};
        operands o;
        operands_new(&o, f, &s);
        size_t stride = s.n_tokens + PAD;
        float *shares[2] = {floats(s.n_heads * stride), floats(s.n_heads * stride)};
        size_t bytes = s.n_heads * stride * sizeof(float);
        memset(o.out[0], 0xA5, o.out_bytes);
        attend_of(&scalar, f)(&o.a);
        for (size_t t = 0; t <= n_tiers; t++) {
            o.a.shares = shares[t > 0];
            o.a.shares_stride = stride;
            memset(o.a.shares, 0xA5, bytes);
            compare(&o, &s, t > 0 ? &tiers[t - 1] : &scalar);
            assert_memory_equal(shares[0], o.a.shares, bytes);
        }
        for (size_t head = 0; head < s.n_heads; head++) {
            double scores[TOKENS_MAX];
            double sum = 0;
            for (size_t t = 0; t < s.n_tokens; t++) {
                double dot = 0;
                for (size_t d = 0; d < s.k_dim; d++) {
                    dot += (double)o.q[head * s.k_dim + d] * stored_key(&o, t, d);
                }
                dot *= (double)o.a.scale;
                double cap = (double)s.softcap;
                scores[t] = exp(cap > 0 ? cap * tanh(dot / cap) : dot);
                sum += scores[t];
            }
            for (size_t t = 0; t < s.n_tokens; t++) {
                assert_true(fabs((double)shares[0][head * stride + t] - scores[t] / sum) < 1e-6);
            }
        }
        shoal_free(shares[0]);
        shoal_free(shares[1]);
        operands_free(&o);
    }
}

/* Scores far apart, equal scores, scores that are not finite: NaN may differ in sign and payload,
 * anything else not in a bit. */
static void test_attend_with_odd_scores_equals_scalar(void **state)
{
    (void)state;
    static const float odd[] = {0, -0.0F, 1e30F, -1e30F, 3e4F, 1e-30F, INFINITY, NAN};
    shape s = {.k_dim = 8, .v_dim = 8, .n_heads = 4, .n_rows = 3, .n_tokens = 70};
    for (size_t round = 0; round < 64; round++) {
        operands o;
        s.softcap = round % 2 ? 30 : 0;
        operands_new(&o, &forms[round % N_FORMS], &s);
        for (size_t i = 0; i < 6; i++) {
            o.q[below(s.n_rows * o.a.q_stride)] = odd[(round / 8 + i * (round % 2)) % 8];
        }
        attend_of(&scalar, o.form)(&o.a);
        for (size_t t = 0; t < n_tiers; t++) {
            memcpy(o.out[1], o.out[0], o.out_bytes);
            o.a.out = o.out[1];
            attend_of(&tiers[t], o.form)(&o.a);
            o.a.out = o.out[0];
            for (size_t i = 0; i < o.out_bytes / sizeof(float); i++) {
                bool same = memcmp(&o.out[0][i], &o.out[1][i], sizeof(float)) == 0;
                assert_true(same || (isnan(o.out[0][i]) && isnan(o.out[1][i])));
            }
        }
        operands_free(&o);
    }
}

/* --- storing -----------------------------------------------------------------------------------
 */

static float awkward(size_t round)
{
    static const float odd[] = {NAN, INFINITY, FLT_MAX, 65504, 1e7F, 1e-41F, 1e-7F, 1e-5F};
    switch (below(16)) {
    case 0:
        return 0.0F;
    case 1:
        return -0.0F;
    case 2:
        return round % 4 == 0 ? odd[round / 4 % 8] : test_signed(&rng);
    default:
        return round % 8 == 1 ? test_signed(&rng) * 1e-6F : test_signed(&rng);
    }
}

static void test_store_of_every_form_equals_scalar(void **state)
{
    (void)state;
    enum {
        K = 66,
        V = 42,
        BYTES = K * BLOCK * 4 + 64
    };
    uint8_t *blocks[2][2];
    for (size_t i = 0; i < 4; i++) {
        blocks[i / 2][i % 2] = shoal_calloc_aligned(BYTES, 1);
    }
    for (size_t round = 0; round < 256; round++) {
        float k[K];
        float v[V];
        for (size_t i = 0; i < K; i++) {
            k[i] = round % 16 == 2 ? 0 : awkward(round);
            v[i % V] = awkward(round);
        }
        for (size_t i = 0; i < N_FORMS * n_tiers; i++) {
            const form *f = &forms[i % N_FORMS];
            for (size_t b = 0; b < 4; b++) {
                memset(blocks[b / 2][b % 2], 0xA5, BYTES);
            }
            store_of(&scalar, f)(K, V, k, v, round % BLOCK, blocks[0][0], blocks[0][1]);
            store_of(&tiers[i / N_FORMS], f)(K, V, k, v, round % BLOCK, blocks[1][0], blocks[1][1]);
            assert_memory_equal(blocks[0][0], blocks[1][0], BYTES);
            assert_memory_equal(blocks[0][1], blocks[1][1], BYTES);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        shoal_free(blocks[i / 2][i % 2]);
    }
}

static void test_store_q8_keeps_half_a_step_and_marks_what_it_cannot_hold(void **state)
{
    (void)state;
    uint8_t *k = shoal_calloc_aligned(SHOAL_KV_Q8_SCALES + 8 * BLOCK, 1);
    uint8_t *v = shoal_calloc_aligned(SHOAL_KV_Q8_SCALES + 8 * BLOCK, 1);
    const form *f = &forms[2];
    for (size_t round = 0; round < 1000; round++) {
        float x[8];
        double amax = 0;
        for (size_t i = 0; i < 8; i++) {
            x[i] = test_signed(&rng) * (round % 2 ? 1.0F : 1e3F);
            amax = fmax(amax, fabs((double)x[i]));
        }
        scalar.kv_store_q8(8, 8, x, x, 5, k, v);
        for (size_t i = 0; i < 8; i++) {
            /* Half a step, and the scale's own rounding at the largest code. */
            double most = amax / 127 * 0.5 + amax * 0x1p-11;
            assert_true(fabs(element_at(f, k, i * BLOCK + 5, 5) - (double)x[i]) <= most * 1.0001);
            assert_true(fabs(element_at(f, v, 5 * 8 + i, 5) - (double)x[i]) <= most * 1.0001);
        }
    }
    const struct {
        float x;
        bool holds;
    } rows[] = {
        {127 * 65504.0F, true}, {127 * 65536.0F, false}, {INFINITY, false}, {0, true}, {NAN, true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        float x[8] = {0};
        x[3] = rows[i].x;
        scalar.kv_store_q8(8, 8, x, x, 31, k, v);
        uint16_t half = 0;
        memcpy(&half, k + 62, sizeof half);
        assert_true((half == 0x7E00) == !rows[i].holds);
        int8_t code = 0;
        memcpy(&code, v + SHOAL_KV_Q8_SCALES + 31 * 8 + 3, 1);
        assert_int_equal(code, rows[i].holds && rows[i].x > 0 ? 127 : 0);
    }
    shoal_free(k);
    shoal_free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attend_around_block_borders_equals_float64_and_scalar),
        cmocka_unit_test(test_attend_with_every_group_and_rows_equals_scalar),
        cmocka_unit_test(test_attend_with_windows_and_softcap_equals_float64_and_scalar),
        cmocka_unit_test(test_attend_with_the_widest_heads_equals_scalar),
        cmocka_unit_test(test_attend_of_many_rows_equals_one_row_at_a_time),
        cmocka_unit_test(test_attend_shares_equal_float64_and_scalar),
        cmocka_unit_test(test_attend_with_odd_scores_equals_scalar),
        cmocka_unit_test(test_store_of_every_form_equals_scalar),
        cmocka_unit_test(test_store_q8_keeps_half_a_step_and_marks_what_it_cannot_hold),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
