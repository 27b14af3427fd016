/* SPDX-License-Identifier: Apache-2.0
 *
 * FP8 E4M3 with tile scales: every code, the error of an element and of a product, the size, ragged
 * tiles, and what is refused about a tensor and its scales.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TILE = SHOAL_FP8_TILE,
    ROWS_MAX = 300,
    K_MAX = 1024,
    COLS = 8
};

static void normal(uint64_t *rng, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double r = sqrt(-2 * log(test_open_unit(rng)));
        x[i] = (float)(r * cos(6.283185307179586 * test_open_unit(rng)));
    }
}

static void test_every_code_is_the_published_number_and_comes_back(void **state)
{
    (void)state;
    char path[512];
    const char *root = getenv("SHOAL_SOURCE_DIR");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    (void)snprintf(path, sizeof path, "%s/tests/golden/data/codec-E4M3.txt", root ? root : ".");
    assert_int_equal(shoal_file_read(path, 1 << 16, &text, NULL), SHOAL_OK);
    assert_int_equal(text.length, 256 * 12);
    for (unsigned long code = 0; code < 256; code++) {
        char *line = text.data + 12 * code;
        float want = 0;
        uint32_t bits = (uint32_t)strtoul(line + 3, NULL, 16);
        memcpy(&want, &bits, 4);
        assert_int_equal(strtoul(line, NULL, 16), code);
        float got = shoal_e4m3_to_f32((uint8_t)code);
        if (code % 128 == 127) {
            assert_true(isnan(got) && isnan(want));
            assert_int_equal(shoal_f32_to_e4m3(got) % 128, 127);
        } else {
            assert_memory_equal(&got, &want, 4);
            assert_int_equal(shoal_f32_to_e4m3(got), code);
        }
    }
}

static void test_rounding_is_to_the_nearest_even_code(void **state)
{
    (void)state;
    for (uint8_t code = 0; code < 126; code++) {
        float low = shoal_e4m3_to_f32(code);
        float high = shoal_e4m3_to_f32((uint8_t)(code + 1));
        float middle = (low + high) / 2;
        uint8_t even = (uint8_t)(code + code % 2);
        assert_int_equal(shoal_f32_to_e4m3(middle), even);
        assert_int_equal(shoal_f32_to_e4m3(-middle), even | 128);
        assert_int_equal(shoal_f32_to_e4m3(nextafterf(middle, 0)), code);
        assert_int_equal(shoal_f32_to_e4m3(nextafterf(middle, 1e9f)), code + 1);
    }
    assert_int_equal(shoal_f32_to_e4m3(1e30f), 126);
    assert_int_equal(shoal_f32_to_e4m3(-INFINITY), 254);
}

/* A matrix as codes and scales, as a file would hold them. */
typedef struct matrix {
    size_t n_rows, k;
    float *x;
    uint8_t *codes;
    float *scales;
    shoal_gguf_tensor tensor, scale_tensor;
} matrix;

static size_t tiles(size_t n)
{
    return (n + TILE - 1) / TILE;
}

static void matrix_new(matrix *m, size_t n_rows, size_t k, uint64_t seed)
{
    *m = (matrix){.n_rows = n_rows, .k = k};
    m->x = shoal_calloc(n_rows * k, sizeof(float));
    m->codes = shoal_calloc(n_rows, k);
    m->scales = shoal_calloc(tiles(n_rows) * tiles(k), sizeof(float));
    assert_true(m->x && m->codes && m->scales);
    normal(&seed, m->x, n_rows * k);
    for (size_t row = 0; row < n_rows; row += TILE) {
        assert_int_equal(shoal_fp8_encode(m->x + row * k, SHOAL_MIN(n_rows - row, (size_t)TILE), k,
                                          m->codes + row * k, m->scales + row / TILE * tiles(k)),
                         SHOAL_OK);
    }
    m->tensor = (shoal_gguf_tensor){.name = {"a.weight", 8},
                                    .type = SHOAL_TYPE_I8,
                                    .n_dims = 2,
                                    .dims = {k, n_rows, 1, 1},
                                    .data = m->codes,
                                    .size_bytes = n_rows * k};
    m->scale_tensor = (shoal_gguf_tensor){.name = {"a.weight_scale", 14},
                                          .type = SHOAL_TYPE_F32,
                                          .n_dims = 2,
                                          .dims = {tiles(k), tiles(n_rows), 1, 1},
                                          .data = (const uint8_t *)m->scales,
                                          .size_bytes = tiles(n_rows) * tiles(k) * 4};
}

static void matrix_free(matrix *m)
{
    shoal_free(m->x);
    shoal_free(m->codes);
    shoal_free(m->scales);
}

static void test_element_error_is_a_sixteenth_at_most(void **state)
{
    (void)state;
    matrix m;
    matrix_new(&m, 200, 300, 1);
    for (size_t r = 0; r < m.n_rows; r++) {
        float row[300];
        const float *scales = m.scales + r / TILE * tiles(m.k);
        shoal_fp8_decode(m.codes + r * m.k, scales, m.k, row);
        for (size_t i = 0; i < m.k; i++) {
            double x = (double)m.x[r * m.k + i];
            double unit = (double)scales[i / TILE];
            /* Below 2^-6 of the scale numbers are subnormal and have an absolute error instead. */
            double limit = fmax(fabs(x) * 0x1p-4, unit * 0x1p-10);
            assert_true(fabs((double)row[i] - x) <= limit * (1 + 0x1p-20));
        }
    }
    matrix_free(&m);
}

static void test_rows_of_a_weight_are_scale_times_code_for_ragged_shapes(void **state)
{
    (void)state;
    const size_t ns[] = {1, 15, 16, 17, 127, 128, 129, 256, 257};
    const size_t ks[] = {1, 31, 127, 128, 129, 255, 257};
    for (size_t a = 0; a < SHOAL_COUNT(ns) * SHOAL_COUNT(ks); a++) {
        matrix m;
        shoal_weight *w = NULL;
        matrix_new(&m, ns[a / SHOAL_COUNT(ks)], ks[a % SHOAL_COUNT(ks)], a);
        assert_int_equal(shoal_weight_new_scaled(&m.tensor, &m.scale_tensor, &w, NULL), SHOAL_OK);
        assert_int_equal(shoal_weight_bytes(w), (m.n_rows + 15) / 16 * tiles(m.k) * 2112);
        for (size_t r = 0; r < m.n_rows; r++) {
            float got[K_MAX];
            float want[K_MAX];
            shoal_weight_row(w, r, got);
            shoal_fp8_decode(m.codes + r * m.k, m.scales + r / TILE * tiles(m.k), m.k, want);
            assert_memory_equal(got, want, m.k * sizeof(float));
        }
        shoal_weight_free(w);
        matrix_free(&m);
    }
}

/* Relative L2 error of y = W x in FP8 against float64 of the unrounded numbers. */
static double product_error(const matrix *m, const float *exact_x, const float *x)
{
    static float y[COLS * ROWS_MAX];
    shoal_weight *w = NULL;
    shoal_acts *acts = NULL;
    shoal_pool *pool = NULL;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    assert_int_equal(shoal_weight_new_scaled(&m->tensor, &m->scale_tensor, &w, NULL), SHOAL_OK);
    assert_int_equal(shoal_acts_new(COLS, m->k, &acts), SHOAL_OK);
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    shoal_acts_set(acts, x, COLS, m->k, m->k);
    shoal_weight_matmul(w, &kernels, pool, acts, y, ROWS_MAX);
    double error = 0;
    double size = 0;
    for (size_t c = 0; c < COLS; c++) {
        for (size_t r = 0; r < m->n_rows; r++) {
            double want = 0;
            for (size_t i = 0; i < m->k; i++) {
                want += (double)m->x[r * m->k + i] * (double)exact_x[c * m->k + i];
            }
            double d = (double)y[c * ROWS_MAX + r] - want;
            error += d * d;
            size += want * want;
        }
    }
    shoal_weight_free(w);
    shoal_acts_free(acts);
    shoal_pool_free(pool);
    return sqrt(error / size);
}

static void test_product_error_is_3_percent_and_4_with_both_operands(void **state)
{
    (void)state;
    static float x[COLS * K_MAX];
    static float rounded[COLS * K_MAX];
    matrix m;
    uint64_t rng = 5;
    matrix_new(&m, ROWS_MAX, K_MAX, 3);
    normal(&rng, x, COLS * K_MAX);
    for (size_t c = 0; c < COLS; c++) {
        /* Activations have a scale for each tile of 1 x 128: a band of one row. */
        uint8_t codes[K_MAX];
        float scales[K_MAX / TILE];
        assert_int_equal(shoal_fp8_encode(x + c * K_MAX, 1, K_MAX, codes, scales), SHOAL_OK);
        shoal_fp8_decode(codes, scales, K_MAX, rounded + c * K_MAX);
    }
    double one = product_error(&m, x, x);
    double both = product_error(&m, x, rounded);
    print_message("relative L2 error: weights %.4f, both operands %.4f\n", one, both);
    assert_true(one <= 0.03);
    assert_true(both <= 0.04);
    matrix_free(&m);
}

static void test_encode_takes_zeros_subnormals_and_refuses_what_is_not_finite(void **state)
{
    (void)state;
    float x[130] = {0};
    float y[130];
    uint8_t codes[130];
    float scales[2];
    const float values[] = {0.0f, 1e-45f, -1e-44f, 1e-38f, 3e38f};
    for (size_t v = 0; v < SHOAL_COUNT(values); v++) {
        x[129] = values[v];
        assert_int_equal(shoal_fp8_encode(x, 1, 130, codes, scales), SHOAL_OK);
        shoal_fp8_decode(codes, scales, 130, y);
        assert_true(isfinite(y[129]) && codes[129] % 128 != 127);
        assert_true(fabsf(y[129] - values[v]) <= fabsf(values[v]) * 0.0626f + 1e-43f);
        assert_true(y[0] == 0.0f);
    }
    x[129] = NAN;
    assert_int_equal(shoal_fp8_encode(x, 1, 130, codes, scales), SHOAL_E_INVALID);
    x[129] = -INFINITY;
    assert_int_equal(shoal_fp8_encode(x, 1, 130, codes, scales), SHOAL_E_INVALID);
}

/* --- files ----------------------------------------------------------------------------------- */

/* Opens a GGUF of the matrix's two tensors, changed by the caller, and loads the weight. */
static shoal_status load(const matrix *m, const char *format, const char *scale_name,
                         shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    if (format) {
        SHOAL_TRY(shoal_gguf_put_str(writer, SHOAL_FP8_KEY, format));
    }
    const shoal_gguf_tensor *s = &m->scale_tensor;
    SHOAL_TRY(shoal_gguf_put_tensor(writer, "a.weight", SHOAL_TYPE_I8, m->tensor.dims, 2,
                                    m->tensor.data));
    SHOAL_TRY(shoal_gguf_put_tensor(writer, scale_name, s->type, s->dims, 2, s->data));
    SHOAL_TRY(shoal_gguf_writer_finish(writer, &buf, NULL));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL));
    shoal_weight *w = NULL;
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, "a.weight");
    shoal_status status = shoal_weight_load(gguf, t, 0, (size_t)t->dims[1], NULL, &w, err);
    assert_true((status == SHOAL_OK) == (w != NULL));
    shoal_weight_free(w);
    return status;
}

static void expect_refused(const matrix *m, const char *format, const char *scale_name,
                           shoal_status status, const char *word)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load(m, format, scale_name, &err), status);
    assert_non_null(strstr(err.text, word));
}

static void test_load_finds_the_scales_and_refuses_what_does_not_fit(void **state)
{
    (void)state;
    const char *name = "a.weight_scale";
    matrix m;
    matrix_new(&m, 130, 140, 9);
    assert_int_equal(load(&m, "e4m3", name, NULL), SHOAL_OK);
    expect_refused(&m, NULL, name, SHOAL_E_UNSUPPORTED, "shoal.fp8.format");
    expect_refused(&m, "e5m2", name, SHOAL_E_UNSUPPORTED, "shoal.fp8.format");
    expect_refused(&m, "e4m3", "b.weight_scale", SHOAL_E_NOTFOUND, "missing");
    for (int d = 0; d < 2; d++) {
        m.scale_tensor.dims[d]--;
        expect_refused(&m, "e4m3", name, SHOAL_E_INVALID, "2 x 2");
        m.scale_tensor.dims[d]++;
    }
    m.scale_tensor.type = SHOAL_TYPE_F16;
    expect_refused(&m, "e4m3", name, SHOAL_E_INVALID, "F32");
    m.scale_tensor.type = SHOAL_TYPE_F32;
    m.scales[3] = INFINITY;
    expect_refused(&m, "e4m3", name, SHOAL_E_INVALID, "not finite");
    m.scales[3] = 1.0f;
    const uint8_t nans[] = {0x7f, 0xff};
    for (size_t i = 0; i < 2; i++) {
        uint8_t before = m.codes[129 * 140 + 139];
        m.codes[129 * 140 + 139] = nans[i];
        expect_refused(&m, "e4m3", name, SHOAL_E_INVALID, "row 129");
        m.codes[129 * 140 + 139] = before;
    }
    shoal_weight *w = NULL;
    assert_int_equal(shoal_weight_new(&m.tensor, &w, NULL), SHOAL_E_UNSUPPORTED);
    matrix_free(&m);
}

static void test_size_is_half_of_f16(void **state)
{
    (void)state;
    /* The shapes of a 1B model's matrices, and of a small one's. */
    const size_t shapes[][2] = {{2048, 2048}, {512, 2048}, {8192, 2048}, {2048, 8192}, {288, 768}};
    for (size_t i = 0; i < SHOAL_COUNT(shapes); i++) {
        size_t n = shapes[i][0] * shapes[i][1];
        size_t bytes = n + 4 * tiles(shapes[i][0]) * tiles(shapes[i][1]);
        assert_true((double)bytes <= 0.52 * 2 * (double)n);
    }
}

static void test_scale_name_is_bounded(void **state)
{
    (void)state;
    char name[SHOAL_GGUF_NAME_MAX + 1];
    char text[SHOAL_GGUF_NAME_MAX + 1];
    memset(text, 'x', sizeof text);
    const size_t fits = SHOAL_GGUF_NAME_MAX - 6;
    for (size_t n = fits - 1; n <= fits + 1; n++) {
        memcpy(text + n - 7, ".weight", 7);
        assert_int_equal(shoal_fp8_scale_name((shoal_str){text, n}, name), n <= fits);
        memset(text, 'x', sizeof text);
    }
    assert_true(shoal_fp8_scale_name((shoal_str){"a.weight", 8}, name));
    assert_string_equal(name, "a.weight_scale");
    assert_false(shoal_fp8_scale_name((shoal_str){"weight", 6}, name));
    assert_false(shoal_fp8_scale_name((shoal_str){"a.bias", 6}, name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_is_the_published_number_and_comes_back),
        cmocka_unit_test(test_rounding_is_to_the_nearest_even_code),
        cmocka_unit_test(test_element_error_is_a_sixteenth_at_most),
        cmocka_unit_test(test_rows_of_a_weight_are_scale_times_code_for_ragged_shapes),
        cmocka_unit_test(test_product_error_is_3_percent_and_4_with_both_operands),
        cmocka_unit_test(test_encode_takes_zeros_subnormals_and_refuses_what_is_not_finite),
        cmocka_unit_test(test_load_finds_the_scales_and_refuses_what_does_not_fit),
        cmocka_unit_test(test_size_is_half_of_f16),
        cmocka_unit_test(test_scale_name_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
