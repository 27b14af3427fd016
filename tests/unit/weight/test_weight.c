/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing and products: every type, ragged shapes, against float64; the same bits for any number
 * of threads, any batch and any tier; what is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "every_type.h"

#include "common/base/mem.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    POISON = 0x7b,
    COLS_MAX = 9,
    K_MAX = 512,
    ROWS_MAX = 300
};

static bool is_quantised(shoal_type type)
{
    return type != SHOAL_TYPE_F32 && type != SHOAL_TYPE_F16 && type != SHOAL_TYPE_BF16;
}

static size_t block_of(shoal_type type)
{
    return shoal_type_find((uint32_t)type)->block;
}

/* A matrix as a reader would describe it, its bytes and its exact values. */
typedef struct matrix {
    shoal_gguf_tensor tensor;
    uint8_t *bytes;
    float *values; /* [n_rows][k], decoded */
} matrix;

static void matrix_new(matrix *m, shoal_type type, size_t n_rows, size_t k, uint64_t seed)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    size_t n = n_rows * k;
    uint64_t rng = seed;
    memset(m, 0, sizeof(*m));
    m->values = shoal_calloc(n, sizeof(*m->values));
    m->bytes = shoal_calloc(n / info->block, info->block_bytes);
    assert_non_null(m->values);
    assert_non_null(m->bytes);
    for (size_t i = 0; i < n; i++) {
        m->values[i] = test_signed(&rng);
    }
    assert_int_equal(shoal_weight_encode(type, m->values, n, m->bytes, NULL), SHOAL_OK);
    shoal_weight_decode(type, m->bytes, n, m->values);
    m->tensor = (shoal_gguf_tensor){.name = {"blk.0.attn_q.weight", 19},
                                    .type = type,
                                    .n_dims = 2,
                                    .dims = {k, n_rows, 1, 1},
                                    .data = m->bytes,
                                    .size_bytes = n / info->block * info->block_bytes};
}

static void matrix_free(matrix *m)
{
    shoal_free(m->values);
    shoal_free(m->bytes);
}

static shoal_weight *weight_of(const matrix *m)
{
    shoal_weight *weight = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_weight_new(&m->tensor, &weight, &err), SHOAL_OK);
    assert_string_equal(err.text, "");
    return weight;
}

/* Pools, kernels and one random input batch, shared by the tests below. */
typedef struct rig {
    shoal_pool *pools[3]; /* 1, 2 and 5 threads */
    shoal_kernels scalar;
    shoal_kernels native;
    shoal_acts *acts;
    float x[COLS_MAX][K_MAX + 3];
} rig;

static int setup(void **state)
{
    rig *r = shoal_calloc(1, sizeof(*r));
    assert_non_null(r);
    const size_t n_threads[] = {1, 2, 5};
    for (size_t i = 0; i < SHOAL_COUNT(r->pools); i++) {
        assert_int_equal(shoal_pool_new(n_threads[i], &r->pools[i]), SHOAL_OK);
    }
    shoal_kernels_init(&r->scalar, 0);
    shoal_kernels_init(&r->native, shoal_cpu_detect());
    assert_int_equal(shoal_acts_new(COLS_MAX, K_MAX, &r->acts), SHOAL_OK);
    uint64_t rng = 99;
    for (size_t c = 0; c < COLS_MAX; c++) {
        for (size_t i = 0; i < K_MAX + 3; i++) {
            r->x[c][i] = test_signed(&rng);
        }
    }
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    rig *r = *state;
    for (size_t i = 0; i < SHOAL_COUNT(r->pools); i++) {
        shoal_pool_free(r->pools[i]);
    }
    shoal_acts_free(r->acts);
    shoal_free(r);
    return 0;
}

/* y = W x over the first n_cols columns, in poisoned memory. */
static void product(rig *r, const shoal_weight *w, const shoal_kernels *kernels, shoal_pool *pool,
                    size_t n_cols, float *y, size_t y_stride)
{
    size_t k = shoal_weight_k(w);
    memset(y, POISON, n_cols * y_stride * sizeof(*y));
    shoal_acts_set(r->acts, &r->x[0][0], n_cols, k, K_MAX + 3);
    shoal_weight_matmul(w, kernels, pool, r->acts, y, y_stride);
}

/* What a column's product must be in float64, and the sum of magnitudes for its error bound. For
 * quantised types the input is its 8-bit form, as the contract says. */
static double exact(const rig *r, const matrix *m, size_t row, size_t c, double *ret_magnitude)
{
    size_t k = (size_t)m->tensor.dims[0];
    float x[K_MAX];
    memcpy(x, r->x[c], k * sizeof(*x));
    if (is_quantised(m->tensor.type)) {
        int8_t codes[K_MAX];
        shoal_act_block blocks[K_MAX / SHOAL_QBLOCK];
        r->scalar.quantize_q8(k, r->x[c], codes, blocks);
        for (size_t i = 0; i < k; i++) {
            x[i] = (float)codes[i] * blocks[i / SHOAL_QBLOCK].scale;
        }
    }
    double sum = 0.0;
    *ret_magnitude = 0.0;
    for (size_t i = 0; i < k; i++) {
        double term = (double)m->values[row * k + i] * (double)x[i];
        sum += term;
        *ret_magnitude += fabs(term);
    }
    return sum;
}

static void check_product(const rig *r, const matrix *m, size_t n_cols, const float *y,
                          size_t y_stride)
{
    size_t n_rows = (size_t)m->tensor.dims[1];
    float poison = 0.0f;
    memset(&poison, POISON, sizeof(poison));
    for (size_t c = 0; c < n_cols; c++) {
        for (size_t row = 0; row < n_rows; row++) {
            double magnitude = 0.0;
            double want = exact(r, m, row, c, &magnitude);
            /* k roundings of 2^-24 each; 512 of them stay below 2^-15. Where a floor is taken off
             * the parts are larger than the whole, less than eight times here. */
            double limit = magnitude * (is_quantised(m->tensor.type) ? 0x1p-12 : 0x1p-15);
            assert_true(fabs((double)y[c * y_stride + row] - want) <= limit);
        }
        for (size_t row = n_rows; row < y_stride; row++) {
            assert_memory_equal(&y[c * y_stride + row], &poison, sizeof(poison));
        }
    }
}

static const size_t row_counts[] = {1, 15, 16, 17, 64, 65, 130, ROWS_MAX};

static void test_matmul_matches_float64_in_every_shape(void **state)
{
    rig *r = *state;
    static float y[COLS_MAX * (ROWS_MAX + 5)];
    const size_t all_ks[] = {256, 512, 32, 96, 192, 1, 33, 191};
    const size_t cols[] = {1, 3, COLS_MAX};
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        size_t block = block_of(types[t]);
        const size_t *ks = all_ks;
        size_t n_ks = block > 32 ? 2 : block == 32 ? 5 : SHOAL_COUNT(all_ks);
        for (size_t i = 0; i < SHOAL_COUNT(row_counts) * n_ks; i++) {
            size_t n_rows = row_counts[i / n_ks];
            matrix m;
            matrix_new(&m, types[t], n_rows, ks[i % n_ks], i + 1);
            shoal_weight *w = weight_of(&m);
            assert_int_equal(shoal_weight_n_rows(w), n_rows);
            assert_int_equal(shoal_weight_k(w), ks[i % n_ks]);
            size_t n_cols = cols[i % SHOAL_COUNT(cols)];
            product(r, w, &r->native, r->pools[1], n_cols, y, n_rows + 5);
            check_product(r, &m, n_cols, y, n_rows + 5);
            shoal_weight_free(w);
            matrix_free(&m);
        }
    }
}

static void test_matmul_bits_do_not_depend_on_threads_batch_or_tier(void **state)
{
    rig *r = *state;
    static float want[COLS_MAX * ROWS_MAX];
    static float got[COLS_MAX * ROWS_MAX];
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        matrix m;
        matrix_new(&m, types[t], ROWS_MAX, K_MAX, 7);
        shoal_weight *w = weight_of(&m);
        product(r, w, &r->scalar, r->pools[0], COLS_MAX, want, ROWS_MAX);
        for (size_t p = 0; p < SHOAL_COUNT(r->pools); p++) {
            for (size_t n_cols = 1; n_cols <= COLS_MAX; n_cols++) {
                product(r, w, &r->native, r->pools[p], n_cols, got, ROWS_MAX);
                assert_memory_equal(got, want, n_cols * ROWS_MAX * sizeof(*got));
            }
        }
        shoal_weight_free(w);
        matrix_free(&m);
    }
}

static void test_row_gives_what_the_file_says(void **state)
{
    (void)state;
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        for (size_t i = 0; i < SHOAL_COUNT(row_counts); i++) {
            matrix m;
            float row[K_MAX];
            size_t k = block_of(types[t]) > 32 ? 256 : 96;
            matrix_new(&m, types[t], row_counts[i], k, i + 50);
            shoal_weight *w = weight_of(&m);
            for (size_t n = 0; n < row_counts[i]; n++) {
                shoal_weight_row(w, n, row);
                assert_memory_equal(row, m.values + n * k, k * sizeof(float));
            }
            shoal_weight_free(w);
            matrix_free(&m);
        }
    }
}

static void test_bytes_are_those_of_whole_panels(void **state)
{
    (void)state;
    /* Of one panel of rows of 256. */
    const size_t want[] = {16384, 8192, 8192, 4352, 2304, 2560, 2816, 3072, 1344, 1824,
                           2368,  2880, 3360, 2304, 1280, 1152, 1088, 1792, 1664, 1600,
                           2176,  2112, 1792, 1664, 1600, 1792, 1664, 1600, 2304, 2176,
                           2112,  2816, 2688, 2624, 1792, 1664, 1600, 1280, 1152, 1088};
    assert_int_equal(SHOAL_COUNT(want), SHOAL_COUNT(types));
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        matrix m;
        matrix_new(&m, types[t], 17, 256, 1);
        shoal_weight *w = weight_of(&m);
        assert_int_equal(shoal_weight_bytes(w), 2 * want[t]);
        shoal_weight_free(w);
        matrix_free(&m);
    }
}

/* --- input batches --------------------------------------------------------------------------- */

/* Several weights as one job: each gives the bits it gives alone, whatever part a thread takes. */
static void test_products_of_one_job_equal_each_alone(void **state)
{
    rig *r = *state;
    static const size_t rows[SHOAL_PRODUCTS_MAX] = {17, 200, 1, 64};
    static const shoal_type kinds[SHOAL_PRODUCTS_MAX] = {SHOAL_TYPE_Q8_0, SHOAL_TYPE_F32,
                                                         SHOAL_TYPE_Q4_0, SHOAL_TYPE_Q8_0};
    static float alone[SHOAL_PRODUCTS_MAX][3 * 208];
    static float together[SHOAL_PRODUCTS_MAX][3 * 208];
    shoal_weight *weights[SHOAL_PRODUCTS_MAX];
    matrix m[SHOAL_PRODUCTS_MAX];
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        matrix_new(&m[i], kinds[i], rows[i], 64, i + 1);
        weights[i] = weight_of(&m[i]);
        product(r, weights[i], &r->scalar, r->pools[0], 3, alone[i], 208);
    }
    for (size_t pool = 0; pool < SHOAL_COUNT(r->pools); pool++) {
        for (size_t n = 1; n <= SHOAL_PRODUCTS_MAX; n++) {
            shoal_product products[SHOAL_PRODUCTS_MAX] = {{0}};
            memset(together, POISON, sizeof(together));
            for (size_t i = 0; i < n; i++) {
                products[i] = (shoal_product){weights[i], together[i], 208};
            }
            shoal_acts_set(r->acts, &r->x[0][0], 3, 64, K_MAX + 3);
            shoal_weight_matmuls(products, n, &r->scalar, r->pools[pool], r->acts);
            for (size_t i = 0; i < n; i++) {
                assert_memory_equal(alone[i], together[i], sizeof(alone[i]));
            }
        }
    }
    for (size_t i = 0; i < SHOAL_PRODUCTS_MAX; i++) {
        shoal_weight_free(weights[i]);
        matrix_free(&m[i]);
    }
}

static size_t n_quantised;
static void (*real_quantize)(size_t, const float *, int8_t *, shoal_act_block *);

static void counting_quantize(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    n_quantised++;
    real_quantize(k, x, q, blocks);
}

static void test_acts_are_quantised_once_for_all_weights_and_again_when_set(void **state)
{
    rig *r = *state;
    static float y[COLS_MAX * 64];
    shoal_kernels counting = r->scalar;
    real_quantize = counting.quantize_q8;
    counting.quantize_q8 = counting_quantize;
    matrix a;
    matrix b;
    matrix f;
    matrix_new(&a, SHOAL_TYPE_Q8_0, 64, 64, 1);
    matrix_new(&b, SHOAL_TYPE_Q4_0, 64, 64, 2);
    matrix_new(&f, SHOAL_TYPE_F32, 64, 64, 3);
    shoal_weight *weights[] = {weight_of(&f), weight_of(&a), weight_of(&b), weight_of(&a)};
    const size_t want[] = {0, 3, 3, 3};
    uint64_t n_allocations = shoal_mem_count();
    n_quantised = 0;
    shoal_acts_set(r->acts, &r->x[0][0], 3, 64, K_MAX + 3);
    for (size_t i = 0; i < SHOAL_COUNT(weights); i++) {
        shoal_weight_matmul(weights[i], &counting, r->pools[0], r->acts, y, 64);
        assert_int_equal(n_quantised, want[i]);
    }
    shoal_acts_set(r->acts, &r->x[0][0], 2, 64, K_MAX + 3);
    shoal_weight_matmul(weights[1], &counting, r->pools[0], r->acts, y, 64);
    assert_int_equal(n_quantised, 5);
    /* A step allocates nothing. */
    assert_true(shoal_mem_count() == n_allocations);
    for (size_t i = 0; i < SHOAL_COUNT(weights); i++) {
        shoal_weight_free(weights[i]);
    }
    matrix_free(&a);
    matrix_free(&b);
    matrix_free(&f);
}

/* Where a job's parts begin to read, in order. */
static const uint8_t *begun[64];
static atomic_size_t n_begun;
static shoal_gemm_fn *real_gemm;
static size_t noted_bytes; /* of a panel of 64 columns */

static void noting_gemm(const shoal_gemm *g, size_t p0, size_t p1)
{
    begun[atomic_fetch_add(&n_begun, 1)] = (const uint8_t *)g->panels + p0 * noted_bytes;
    real_gemm(g, p0, p1);
}

/* What threads are told to expect is what the next job's parts read, whatever shape it has. Pools
 * that have run nothing yet share out everything. */
static void test_threads_expect_what_the_next_job_begins_with(void **state)
{
    rig *r = *state;
    static const size_t rows[][3] = {{200, 3, 200}, {16, 1, 1}, {1000, 64, 500}, {17, 1000, 32}};
    static float y[3][1008];
    shoal_kernels noting = r->scalar;
    real_gemm = noting.gemm[SHOAL_PANEL_F32];
    noting.gemm[SHOAL_PANEL_F32] = noting_gemm;
    for (size_t v = 0; v < SHOAL_COUNT(rows) * 3; v++) {
        matrix m[3];
        shoal_weight *w[3];
        shoal_product products[3] = {{0}};
        size_t n = 1 + v % 3;
        for (size_t i = 0; i < 3; i++) {
            matrix_new(&m[i], SHOAL_TYPE_F32, rows[v / 3][i], 64, v + i);
            w[i] = weight_of(&m[i]);
            products[i] = (shoal_product){w[i], y[i], 1008};
        }
        noted_bytes = SHOAL_PANEL_ROWS * 64 * sizeof(float);
        shoal_acts_set(r->acts, &r->x[0][0], 1, 64, K_MAX + 3);
        for (size_t p = 0; p < SHOAL_COUNT(r->pools); p++) {
            shoal_pool *pool = NULL;
            assert_int_equal(shoal_pool_new(shoal_pool_n_threads(r->pools[p]), &pool), SHOAL_OK);
            shoal_weight_set_next(w[2], (const shoal_weight *const *)w, n);
            shoal_weight_matmul(w[2], &r->scalar, pool, r->acts, y[2], 1008);
            const uint8_t *even = shoal_pool_expected(pool, false);
            const uint8_t *odd = shoal_pool_expected(pool, true);
            atomic_store(&n_begun, 0);
            shoal_weight_matmuls(products, n, &noting, pool, r->acts);
            bool found[2] = {false, odd == NULL};
            for (size_t i = 0; i < n_begun; i++) {
                found[0] = found[0] || begun[i] == even;
                found[1] = found[1] || begun[i] == odd;
            }
            assert_ptr_equal(even, shoal_weight_panels(w[0], &(size_t){0}));
            assert_true(found[0] && found[1]);
            assert_int_equal(odd == NULL, shoal_pool_odd_part(pool, n_begun) == n_begun);
            shoal_pool_free(pool);
        }
        shoal_weight_set_next(w[2], NULL, 0);
        shoal_weight_matmul(w[2], &r->scalar, r->pools[1], r->acts, y[2], 1008);
        assert_null(shoal_pool_expected(r->pools[1], false));
        assert_null(shoal_pool_expected(r->pools[1], true));
        for (size_t i = 0; i < 3; i++) {
            shoal_weight_free(w[i]);
            matrix_free(&m[i]);
        }
    }
}

/* What the caller will read alone, other threads leave where it is. */
static void test_threads_expect_nothing_of_small_jobs(void **state)
{
    rig *r = *state;
    static float y[64];
    matrix m;
    matrix_new(&m, SHOAL_TYPE_F32, 64, 64, 1);
    shoal_weight *w = weight_of(&m);
    shoal_weight_set_next(w, (const shoal_weight *const *)&w, 1);
    shoal_acts_set(r->acts, &r->x[0][0], 1, 64, K_MAX + 3);
    const void *panels = shoal_weight_panels(w, &(size_t){0});
    bool left = false;
    for (size_t i = 0; i < 100000 && !left; i++) { /* until the pool knows how small it is */
        shoal_weight_matmul(w, &r->native, r->pools[1], r->acts, y, 64);
        left = !shoal_pool_expected(r->pools[1], true);
        assert_ptr_equal(shoal_pool_expected(r->pools[1], false), panels);
    }
    assert_true(left);
    shoal_weight_free(w);
    matrix_free(&m);
}

static void test_matmul_of_no_columns_writes_nothing(void **state)
{
    rig *r = *state;
    float y[16];
    float before[16];
    matrix m;
    matrix_new(&m, SHOAL_TYPE_Q8_0, 16, 32, 1);
    shoal_weight *w = weight_of(&m);
    memset(y, POISON, sizeof(y));
    memcpy(before, y, sizeof(y));
    shoal_acts_set(r->acts, &r->x[0][0], 0, 32, K_MAX + 3);
    shoal_weight_matmul(w, &r->native, r->pools[1], r->acts, y, 16);
    assert_memory_equal(y, before, sizeof(y));
    shoal_weight_free(w);
    matrix_free(&m);
}

/* --- refusals -------------------------------------------------------------------------------- */

static void expect_refused(const matrix *m, shoal_status status, const char *word)
{
    shoal_weight *weight = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_weight_new(&m->tensor, &weight, &err), status);
    assert_null(weight);
    assert_int_equal(err.code, status);
    assert_non_null(strstr(err.text, "blk.0.attn_q.weight"));
    assert_non_null(strstr(err.text, word));
}

/* Where a block's f16 scale stands. */
static size_t scale_at(shoal_type type)
{
    size_t last = shoal_type_find((uint32_t)type)->block_bytes - 2;
    bool behind = type == SHOAL_TYPE_Q2_K || type == SHOAL_TYPE_Q3_K || type == SHOAL_TYPE_Q6_K;
    return behind ? last : 0;
}

static void test_new_refuses_numbers_that_are_not_finite_by_row(void **state)
{
    (void)state;
    const uint32_t f32_bad[] = {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u};
    const uint16_t f16_bad[] = {0x7c00, 0xfc00, 0x7e00, 0x7c01};
    const uint16_t bf16_bad[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81};
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        const shoal_type_info *info = shoal_type_find((uint32_t)types[t]);
        for (size_t v = 0; v < 4; v++) {
            matrix m;
            char word[24];
            matrix_new(&m, types[t], 21, 256, v);
            /* The last block of row 19, then of row 20. */
            size_t row = 19 + v % 2;
            size_t row_bytes = 256 / info->block * info->block_bytes;
            uint8_t *p = m.bytes + (row + 1) * row_bytes - info->block_bytes + scale_at(types[t]);
            if (types[t] == SHOAL_TYPE_F32) {
                memcpy(p, &f32_bad[v], 4);
            } else {
                memcpy(p, types[t] == SHOAL_TYPE_BF16 ? &bf16_bad[v] : &f16_bad[v], 2);
            }
            (void)snprintf(word, sizeof(word), "row %zu ", row);
            expect_refused(&m, SHOAL_E_INVALID, word);
            matrix_free(&m);
        }
    }
}

static void test_new_refuses_shapes_that_have_no_product(void **state)
{
    (void)state;
    matrix m;
    matrix_new(&m, SHOAL_TYPE_Q8_0, 4, 64, 1);
    m.tensor.dims[0] = 48;
    expect_refused(&m, SHOAL_E_INVALID, "whole blocks of 32");
    m.tensor.dims[0] = 64;
    m.tensor.dims[1] = 2;
    m.tensor.dims[2] = 2;
    m.tensor.n_dims = 3;
    expect_refused(&m, SHOAL_E_INVALID, "a matrix is expected");
    m.tensor.dims[2] = 1;
    m.tensor.type = (shoal_type)4;
    expect_refused(&m, SHOAL_E_UNSUPPORTED, "type 4");
    matrix_free(&m);
}

static void test_new_survives_every_failing_allocation(void **state)
{
    (void)state;
    matrix m;
    matrix_new(&m, SHOAL_TYPE_Q4_0, 20, 64, 1);
    shoal_status status = SHOAL_E_NOMEM;
    uint64_t i = 0;
    for (; status != SHOAL_OK; i++) {
        shoal_weight *weight = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(i);
        status = shoal_weight_new(&m.tensor, &weight, &err);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || (status == SHOAL_E_NOMEM && err.code == SHOAL_E_NOMEM));
        shoal_weight_free(weight);
    }
    assert_true(i > 2);
    matrix_free(&m);
    status = SHOAL_E_NOMEM;
    for (i = 0; status != SHOAL_OK; i++) {
        shoal_acts *acts = NULL;
        shoal_mem_fail_at(i);
        status = shoal_acts_new(4, 100, &acts);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || (status == SHOAL_E_NOMEM && acts == NULL));
        shoal_acts_free(acts);
    }
    assert_true(i > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_matches_float64_in_every_shape),
        cmocka_unit_test(test_matmul_bits_do_not_depend_on_threads_batch_or_tier),
        cmocka_unit_test(test_row_gives_what_the_file_says),
        cmocka_unit_test(test_bytes_are_those_of_whole_panels),
        cmocka_unit_test(test_products_of_one_job_equal_each_alone),
        cmocka_unit_test(test_acts_are_quantised_once_for_all_weights_and_again_when_set),
        cmocka_unit_test(test_threads_expect_what_the_next_job_begins_with),
        cmocka_unit_test(test_threads_expect_nothing_of_small_jobs),
        cmocka_unit_test(test_matmul_of_no_columns_writes_nothing),
        cmocka_unit_test(test_new_refuses_numbers_that_are_not_finite_by_row),
        cmocka_unit_test(test_new_refuses_shapes_that_have_no_product),
        cmocka_unit_test(test_new_survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
