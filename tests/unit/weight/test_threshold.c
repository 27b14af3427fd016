/* SPDX-License-Identifier: Apache-2.0
 *
 * Bases that skip inputs below a threshold: the bits of the same base without one on an input in
 * which those are 0; of every column what it gives alone, for any threads, batch, tier and range of
 * rows, from plain and packed files; rows; several thresholds over one input; what is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

#define NAME "blk.0.ffn_up.weight"

enum {
    POISON = 0x7b,
    COLS_MAX = 9,
    K_MAX = 320,
    ROWS_MAX = 1100,
    IMAGE_BYTES = 4 << 20
};

/* A file in memory at a multiple of 64 bytes. */
typedef struct image {
    uint8_t *data;
    size_t n;
} image;

/* What lies beside the base. */
typedef struct beside {
    bool column_scales;
    float threshold; /* 0: none */
    shoal_type type; /* of it; 0 is F32 */
    uint64_t more;   /* elements of it past one */
} beside;

static float x[COLS_MAX * K_MAX];
static float fires[COLS_MAX * K_MAX]; /* x without what is below the threshold */
static float want[COLS_MAX * ROWS_MAX];
static float got[COLS_MAX * ROWS_MAX];
static uint64_t rng = 20261129;

static shoal_status append(void *ctx, const void *data, size_t n, shoal_err *err)
{
    image *im = ctx;
    if (n > IMAGE_BYTES - im->n) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the image is full");
    }
    memcpy(im->data + im->n, data, n);
    im->n += n;
    return SHOAL_OK;
}

static image image_new(void)
{
    image im = {.data = shoal_calloc_aligned(IMAGE_BYTES, 1)};
    assert_non_null(im.data);
    return im;
}

/* The same base, whatever lies beside it, for the same seed. */
static image make_file(shoal_type type, size_t n_rows, size_t k, const beside *b, uint64_t seed)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) float *w = shoal_calloc(n_rows * k, sizeof *w);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *blocks = shoal_calloc(n_rows * k, sizeof *w);
    uint16_t scales[K_MAX];
    const uint64_t dims[2] = {k, n_rows};
    const uint64_t one[1] = {1 + b->more};
    const float thresholds[2] = {b->threshold, b->threshold};
    assert_true(w && blocks);
    for (size_t i = 0; i < n_rows * k; i++) {
        w[i] = test_signed(&seed);
    }
    for (size_t i = 0; i < k; i++) {
        scales[i] = shoal_f32_to_f16(test_between(&seed, 0.25F, 4.0F));
    }
    assert_int_equal(shoal_weight_encode(type, w, n_rows * k, blocks, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_str(writer, SHOAL_SIDES_KEY, SHOAL_SIDES_FORMAT), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_tensor(writer, NAME, type, dims, 2, blocks), SHOAL_OK);
    if (b->column_scales) {
        assert_int_equal(
            shoal_gguf_put_tensor(writer, NAME "_column_scale", SHOAL_TYPE_F16, dims, 1, scales),
            SHOAL_OK);
    }
    if (b->threshold != 0) {
        assert_int_equal(
            shoal_gguf_put_tensor(writer, NAME "_threshold", b->type, one, 1, thresholds),
            SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    image im = image_new();
    assert_int_equal(append(&im, buf.data, buf.length, NULL), SHOAL_OK);
    return im;
}

static image packed(const image *plain, shoal_pool *pool)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    image im = image_new();
    size_t n = 0;
    assert_int_equal(shoal_gguf_open(plain->data, plain->n, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_pack_write(gguf, pool, append, &im, &n, NULL), SHOAL_OK);
    assert_int_equal(n, 1);
    return im;
}

static shoal_status load(const image *im, size_t row, size_t n_rows, shoal_pool *pool,
                         shoal_weight **ret_weight, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_pack_open(im->data, im->n, &gguf, err));
    return shoal_weight_load(gguf, shoal_gguf_find_tensor(gguf, NAME), row, n_rows, pool,
                             ret_weight, err);
}

static shoal_weight *load_good(const image *im, size_t row, size_t n_rows, shoal_pool *pool)
{
    shoal_weight *w = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (load(im, row, n_rows, pool, &w, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return w;
}

static void fill_inputs(size_t k, float threshold)
{
    for (size_t i = 0; i < COLS_MAX * k; i++) {
        x[i] = test_awkward(&rng);
        if (threshold > 0 && i % 7 == 0) {
            x[i] = i % 2 == 0 ? threshold : -threshold; /* the least that fires */
        }
        fires[i] = fabsf(x[i]) < threshold ? 0.0F : x[i];
    }
}

static void multiply(const shoal_weight *w, const float *input, size_t n_cols, uint32_t mask,
                     shoal_pool *pool, float *y)
{
    shoal_acts *acts = NULL;
    shoal_side_needs needs = {0};
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, mask);
    shoal_weight_raise_needs(w, &needs);
    assert_int_equal(shoal_acts_new(COLS_MAX, K_MAX, &acts), SHOAL_OK);
    assert_int_equal(shoal_acts_reserve(acts, &needs), SHOAL_OK);
    shoal_acts_set(acts, input, n_cols, shoal_weight_k(w), shoal_weight_k(w));
    shoal_weight_matmul(w, &kernels, pool, acts, y, shoal_weight_n_rows(w));
    shoal_acts_free(acts);
}

/* All columns at once and each alone, by few threads and many, in scalar and in what there is. */
static void compare(const shoal_weight *skips, const shoal_weight *plain, shoal_pool *pools[2])
{
    const size_t n_rows = shoal_weight_n_rows(plain);
    const size_t k = shoal_weight_k(plain);
    multiply(plain, fires, COLS_MAX, 0, pools[0], want);
    for (size_t i = 0; i < 4; i++) {
        const uint32_t mask = i % 2 ? shoal_cpu_detect() : 0;
        memset(got, POISON, sizeof got);
        multiply(skips, x, COLS_MAX, mask, pools[i / 2], got);
        assert_memory_equal(got, want, COLS_MAX * n_rows * sizeof *got);
        for (size_t c = 0; c < COLS_MAX; c += 4) {
            memset(got, POISON, sizeof got);
            multiply(skips, x + c * k, 1, mask, pools[i / 2], got);
            assert_memory_equal(got, want + c * n_rows, n_rows * sizeof *got);
        }
    }
}

static void compare_rows(const shoal_weight *skips, const shoal_weight *plain)
{
    float rows[2][K_MAX];
    for (size_t r = 0; r < shoal_weight_n_rows(plain); r++) {
        shoal_weight_row(skips, r, rows[0]);
        shoal_weight_row(plain, r, rows[1]);
        assert_memory_equal(rows[0], rows[1], shoal_weight_k(plain) * sizeof(float));
    }
}

static void check(shoal_type type, size_t n_rows, size_t k, bool column_scales)
{
    const float threshold = 0.4F;
    const beside none = {.column_scales = column_scales};
    const beside some = {.column_scales = column_scales, .threshold = threshold};
    const uint64_t seed = shoal_rng_next(&rng);
    shoal_pool *pools[2] = {0};
    assert_int_equal(shoal_pool_new(1, &pools[0]), SHOAL_OK);
    assert_int_equal(shoal_pool_new(3, &pools[1]), SHOAL_OK);
    image plain = make_file(type, n_rows, k, &none, seed);
    image files[2] = {make_file(type, n_rows, k, &some, seed)};
    files[1] = packed(&files[0], pools[1]);
    fill_inputs(k, threshold);
    for (size_t i = 0; i < 4; i++) {
        size_t row = i / 2 ? n_rows / 3 : 0;
        shoal_weight *a = load_good(&files[i % 2], row, n_rows - row, i % 2 ? pools[1] : NULL);
        shoal_weight *b = load_good(&plain, row, n_rows - row, NULL);
        assert_true(shoal_weight_skips(a));
        assert_false(shoal_weight_skips(b));
        compare(a, b, pools);
        compare_rows(a, b);
        shoal_weight_free(a);
        shoal_weight_free(b);
    }
    shoal_free(plain.data);
    shoal_free(files[0].data);
    shoal_free(files[1].data);
    shoal_pool_free(pools[0]);
    shoal_pool_free(pools[1]);
}

static void test_what_is_skipped_is_zero(void **state)
{
    (void)state;
    static const shoal_type types[] = {SHOAL_TYPE_Q4_0, SHOAL_TYPE_Q8_0, SHOAL_TYPE_F16};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        check(types[i], 40, 64, false);
        check(types[i], 133, 96, true);
    }
    check(SHOAL_TYPE_Q4_0, ROWS_MAX, 32, false);
    check(SHOAL_TYPE_Q4_0, 257, K_MAX, false);
}

/* As many thresholds as weights that read one input, each its own. */
static void test_thresholds_over_one_input_stay_apart(void **state)
{
    (void)state;
    enum {
        N = SHOAL_PRODUCTS_MAX,
        ROWS = 70,
        K = 64
    };
    shoal_kernels kernels;
    shoal_pool *pool = NULL;
    shoal_acts *acts = NULL;
    shoal_side_needs needs = {0};
    shoal_product products[N];
    static float apart[N][COLS_MAX * ROWS];
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    assert_int_equal(shoal_acts_new(COLS_MAX, K, &acts), SHOAL_OK);
    fill_inputs(K, 0);
    for (size_t i = 0; i < N; i++) {
        const beside b = {.threshold = 0.2F * (float)i};
        image im = make_file(SHOAL_TYPE_Q4_0, ROWS, K, &b, i);
        shoal_weight *w = load_good(&im, 0, ROWS, NULL);
        products[i] = (shoal_product){.weight = w, .y = apart[i], .y_stride = ROWS};
        shoal_weight_raise_needs(w, &needs);
        shoal_free(im.data);
    }
    assert_int_equal(shoal_acts_reserve(acts, &needs), SHOAL_OK);
    for (size_t round = 0; round < 2; round++) {
        shoal_acts_set(acts, x, COLS_MAX, K, K);
        shoal_weight_matmuls(products, N, &kernels, pool, acts);
        for (size_t i = 0; i < N; i++) {
            multiply(products[i].weight, x, COLS_MAX, 0, pool, want);
            assert_memory_equal(apart[i], want, sizeof apart[i]);
        }
    }
    for (size_t i = 0; i < N; i++) {
        shoal_weight_free((shoal_weight *)(uintptr_t)products[i].weight);
    }
    shoal_acts_free(acts);
    shoal_pool_free(pool);
}

static void test_bad_thresholds_are_refused(void **state)
{
    (void)state;
    const struct {
        beside beside;
        const char *want;
    } bad[] = {
        {{.threshold = -0.5F}, "not finite and above 0"},
        {{.threshold = INFINITY}, "not finite and above 0"},
        {{.threshold = NAN}, "not finite and above 0"},
        {{.threshold = 1, .more = 1}, "F32 of 1 x 1 is expected"},
        {{.threshold = 1, .type = SHOAL_TYPE_I32}, "F32 of 1 x 1 is expected"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        image im = make_file(SHOAL_TYPE_Q4_0, 16, 32, &bad[i].beside, 1);
        shoal_weight *w = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_not_equal(load(&im, 0, 16, NULL, &w, &err), SHOAL_OK);
        assert_non_null(strstr(err.text, bad[i].want));
        shoal_free(im.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_skipped_is_zero),
        cmocka_unit_test(test_thresholds_over_one_input_stay_apart),
        cmocka_unit_test(test_bad_thresholds_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
