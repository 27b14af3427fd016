/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside a weight: products and rows against float64 for every kind of base, ranks and
 * single elements at their limits; the same bits for any threads, batch and tier; an input
 * quantised once for each column scale that differs; packed files; what is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/weight/codes.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"
#include "common/weight/weight.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define NAME "blk.0.attn_q.weight"

enum {
    POISON = 0x7b,
    COLS_MAX = 9,
    K_MAX = 320,
    ROWS_MAX = 100,
    RANK_MAX = 40,
    STRIDE = K_MAX + 3
};

typedef enum singles {
    NO_SINGLES,
    ONE_SINGLE, /* in the last row and column */
    SOME_SINGLES,
    ALL_SINGLES /* of every row and column */
} singles;

/* A layer: its base as a tensor type has it, its sides, and what all add up to. */
typedef struct layer {
    shoal_type type;
    size_t n_rows;
    size_t k;
    float *base; /* [n_rows][k], decoded */
    uint8_t *blocks;
    size_t n_bytes;
    shoal_side_parts parts;
    int8_t *codes[2]; /* left, right */
    uint16_t *scales[2];
    uint16_t *column_scales;
    uint32_t *begin;
    uint32_t *cols;
    uint16_t *values;
    int8_t levels[16]; /* of N3 and N4 */
} layer;

/* Which layer to make. */
typedef struct make {
    shoal_type type;
    size_t n_rows;
    size_t k;
    size_t rank;
    singles singles;
    bool column_scales;
} make;

static size_t blocks_of(size_t n)
{
    return (n + 31) / 32;
}

static void make_base(layer *l, uint64_t *rng)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)l->type);
    size_t n = l->n_rows * l->k;
    l->base = shoal_calloc(n, sizeof *l->base);
    l->n_bytes = n / info->block * info->block_bytes;
    l->blocks = shoal_calloc(l->n_bytes, 1);
    assert_true(l->base && l->blocks);
    for (size_t i = 0; i < n; i++) {
        l->base[i] = test_signed(rng);
    }
    assert_int_equal(shoal_weight_encode(l->type, l->base, n, l->blocks, NULL), SHOAL_OK);
    shoal_weight_decode(l->type, l->blocks, n, l->base);
}

/* Codes that are indices have levels beside them, and the base is what these make of it. */
static void make_levels(layer *l, uint64_t *rng)
{
    int low = 0;
    int high = 0;
    int8_t codes[K_MAX];
    uint16_t scales[K_MAX / 32];
    const shoal_type_info *info = shoal_type_find((uint32_t)l->type);
    if (l->type != SHOAL_TYPE_N3_32 && l->type != SHOAL_TYPE_N4_64) {
        return;
    }
    shoal_codes_range(l->type, &low, &high);
    l->parts.levels = l->levels;
    l->parts.n_levels = (size_t)(high - low + 1);
    for (size_t i = 0; i < l->parts.n_levels; i++) {
        l->levels[i] = (int8_t)((int)(shoal_rng_next(rng) % 255) - 127);
    }
    for (size_t row = 0; row < l->n_rows; row++) {
        shoal_codes_unpack(l->type, l->blocks + row * l->n_bytes / l->n_rows, l->k, codes, scales,
                           NULL);
        for (size_t i = 0; i < l->k; i++) {
            float scale = shoal_f16_to_f32(scales[i / info->block]);
            l->base[row * l->k + i] = scale * (float)l->levels[codes[i] - low];
        }
    }
}

static void make_factors(layer *l, size_t rank, uint64_t *rng)
{
    const size_t widths[2] = {l->n_rows, l->k};
    for (size_t f = 0; f < 2; f++) {
        size_t n = rank * blocks_of(widths[f]);
        l->codes[f] = shoal_calloc(n, 32);
        l->scales[f] = shoal_calloc(n, sizeof **l->scales);
        assert_true(l->codes[f] && l->scales[f]);
        for (size_t i = 0; i < n * 32; i++) {
            l->codes[f][i] = (int8_t)(shoal_rng_next(rng) % 255 - 127);
        }
        for (size_t i = 0; i < n; i++) {
            l->scales[f][i] = shoal_f32_to_f16(test_between(rng, -0.004F, 0.004F));
        }
    }
}

static bool is_single(singles which, const layer *l, size_t row, size_t col, uint64_t *rng)
{
    switch (which) {
    case ONE_SINGLE:
        return row + 1 == l->n_rows && col + 1 == l->k;
    case SOME_SINGLES:
        return row % 5 != 3 && shoal_rng_next(rng) % 50 < row % 5;
    case ALL_SINGLES:
        return true;
    case NO_SINGLES:
        break;
    }
    return false;
}

static void make_singles(layer *l, singles which, uint64_t *rng)
{
    size_t n = 0;
    l->begin = shoal_calloc(l->n_rows + 1, sizeof *l->begin);
    l->cols = shoal_calloc(l->n_rows * l->k, sizeof *l->cols);
    l->values = shoal_calloc(l->n_rows * l->k, sizeof *l->values);
    assert_true(l->begin && l->cols && l->values);
    for (size_t row = 0; row < l->n_rows; row++) {
        for (size_t col = 0; col < l->k; col++) {
            if (is_single(which, l, row, col, rng)) {
                l->cols[n] = (uint32_t)col;
                l->values[n++] = shoal_f32_to_f16(test_signed(rng) * 3);
            }
        }
        l->begin[row + 1] = (uint32_t)n;
    }
}

static void layer_new(layer *l, const make *m, uint64_t seed)
{
    uint64_t rng = seed;
    *l = (layer){.type = m->type, .n_rows = m->n_rows, .k = m->k};
    make_base(l, &rng);
    make_factors(l, m->rank, &rng);
    make_singles(l, m->singles, &rng);
    l->column_scales = shoal_calloc(m->k, sizeof *l->column_scales);
    assert_non_null(l->column_scales);
    for (size_t i = 0; i < m->k; i++) {
        l->column_scales[i] = shoal_f32_to_f16(test_between(&rng, 0.25F, 4.0F));
    }
    l->parts = (shoal_side_parts){.n_rows = m->n_rows,
                                  .k = m->k,
                                  .rank = m->rank,
                                  .left_codes = l->codes[0],
                                  .left_scales = l->scales[0],
                                  .right_codes = l->codes[1],
                                  .right_scales = l->scales[1],
                                  .column_scales = m->column_scales ? l->column_scales : NULL,
                                  .single_begin = l->begin,
                                  .single_cols = l->cols,
                                  .single_values = l->values};
    make_levels(l, &rng);
}

static void layer_free(layer *l)
{
    void *all[] = {l->base,      l->blocks,        l->codes[0], l->codes[1], l->scales[0],
                   l->scales[1], l->column_scales, l->begin,    l->cols,     l->values};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        shoal_free(all[i]);
    }
}

/* --- files ----------------------------------------------------------------------------------- */

/* What may be wrong with a file. */
typedef struct lie {
    shoal_side side; /* this tensor is put otherwise */
    bool omit;
    const char *format; /* of the metadata; "": none */
    shoal_type type;    /* its own where F32 */
    int64_t more[2];    /* added to its dimensions */
    size_t at;          /* byte of it from which on n_bytes are others */
    const char *bytes;
    size_t n_bytes;
    uint64_t n_stacked; /* matrices of the base */
    const char *want;   /* in the error */
} lie;

/* A file in memory at a multiple of 64 bytes. */
typedef struct image {
    uint8_t *data;
    size_t n;
    size_t capacity;
} image;

static shoal_status append(void *ctx, const void *data, size_t n, shoal_err *err)
{
    image *im = ctx;
    if (n > im->capacity - im->n) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the image is full");
    }
    memcpy(im->data + im->n, data, n);
    im->n += n;
    return SHOAL_OK;
}

static void put_side(shoal_gguf_writer *writer, const layer *l, const shoal_side_shape *shape,
                     const lie *wrong, void **owned)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    shoal_type type = shape->type;
    uint64_t dims[2] = {shape->dims[0], shape->dims[1]};
    uint8_t *bytes = shoal_calloc(2 * shape->n_bytes + 65536, 4);
    assert_non_null(bytes);
    *owned = bytes;
    shoal_sides_encode(&l->parts, shape, bytes);
    if (wrong && wrong->side == shape->side) {
        if (wrong->omit) {
            return;
        }
        type = wrong->type == SHOAL_TYPE_F32 ? type : wrong->type;
        dims[0] += (uint64_t)wrong->more[0];
        dims[1] += (uint64_t)wrong->more[1];
        if (wrong->n_bytes > 0) {
            memcpy(bytes + wrong->at, wrong->bytes, wrong->n_bytes);
        }
    }
    assert_true(shoal_side_name((shoal_str){NAME, strlen(NAME)}, shape->side, name));
    assert_int_equal(shoal_gguf_put_tensor(writer, name, type, dims, shape->n_dims, bytes),
                     SHOAL_OK);
}

static image image_of(const layer *l, const lie *wrong)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_side_shape shapes[SHOAL_SIDES];
    void *owned[SHOAL_SIDES] = {0};
    const char *format = wrong && wrong->format ? wrong->format : SHOAL_SIDES_FORMAT;
    const uint64_t stacked = wrong && wrong->n_stacked ? wrong->n_stacked : 1;
    const uint64_t dims[3] = {l->k, l->n_rows / stacked, stacked};
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_str(writer, "general.name", "sides"), SHOAL_OK);
    if (format[0]) {
        assert_int_equal(shoal_gguf_put_str(writer, SHOAL_SIDES_KEY, format), SHOAL_OK);
    }
    assert_int_equal(
        shoal_gguf_put_tensor(writer, NAME, l->type, dims, stacked > 1 ? 3 : 2, l->blocks),
        SHOAL_OK);
    size_t n = shoal_sides_shapes(&l->parts, shapes);
    for (size_t i = 0; i < n; i++) {
        put_side(writer, l, &shapes[i], wrong, &owned[i]);
    }
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    image im = {.data = shoal_calloc_aligned(buf.length, 1), .capacity = buf.length};
    assert_int_equal(append(&im, buf.data, buf.length, NULL), SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        shoal_free(owned[i]);
    }
    return im;
}

static image packed_image(const image *plain, shoal_pool *pool)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    size_t n = 0;
    image im = {.capacity = 4 * plain->n + 65536};
    im.data = shoal_calloc_aligned(im.capacity, 1);
    assert_int_equal(shoal_gguf_open(plain->data, plain->n, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_pack_write(gguf, pool, append, &im, &n, NULL), SHOAL_OK);
    return im;
}

static shoal_status load(const image *im, size_t row, size_t n_rows, shoal_pool *pool,
                         shoal_weight **ret_weight, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_pack_open(im->data, im->n, &gguf, err));
    SHOAL_TRY(shoal_pack_check(gguf, pool, err));
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, NAME);
    return shoal_weight_load(gguf, t, row, n_rows, pool, ret_weight, err);
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

/* --- the sum in float64 ---------------------------------------------------------------------- */

static double value_of(uint16_t half)
{
    return (double)shoal_f16_to_f32(half);
}

static double factor_at(const layer *l, size_t f, size_t r, size_t i)
{
    size_t blocks = blocks_of(f == 0 ? l->n_rows : l->k);
    return value_of(l->scales[f][r * blocks + i / 32]) * l->codes[f][(r * blocks) * 32 + i];
}

/* What a product of one row must be, given the input as the base, as R and as X read it; and the
 * sum of magnitudes for its error bound. */
static double exact(const layer *l, size_t row, const double *base_x, const double *low_x,
                    const float *x, double *ret_magnitude)
{
    double sum = 0;
    *ret_magnitude = 0;
    for (size_t i = 0; i < l->k; i++) {
        double term = (double)l->base[row * l->k + i] * base_x[i];
        sum += term;
        *ret_magnitude += fabs(term);
    }
    for (size_t r = 0; r < l->parts.rank; r++) {
        double left = factor_at(l, 0, r, row);
        for (size_t i = 0; i < l->k; i++) {
            double term = left * factor_at(l, 1, r, i) * low_x[i];
            sum += term;
            *ret_magnitude += fabs(term);
        }
    }
    for (size_t j = l->begin[row]; j < l->begin[row + 1]; j++) {
        double term = value_of(l->values[j]) * (double)x[l->cols[j]];
        sum += term;
        *ret_magnitude += fabs(term);
    }
    return sum;
}

/* --- products -------------------------------------------------------------------------------- */

typedef struct rig {
    shoal_pool *pools[3]; /* 1, 2 and 5 threads */
    shoal_kernels scalar;
    shoal_kernels native;
    shoal_acts *acts;
    float x[COLS_MAX][STRIDE];
} rig;

static int setup(void **state)
{
    rig *r = shoal_calloc(1, sizeof *r);
    assert_non_null(r);
    const size_t n_threads[] = {1, 2, 5};
    const shoal_side_needs needs = {.rank = RANK_MAX, .k_codes = K_MAX, .k_floats = K_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(r->pools); i++) {
        assert_int_equal(shoal_pool_new(n_threads[i], &r->pools[i]), SHOAL_OK);
    }
    shoal_kernels_init(&r->scalar, 0);
    shoal_kernels_init(&r->native, shoal_cpu_detect());
    assert_int_equal(shoal_acts_new(COLS_MAX, K_MAX, &r->acts), SHOAL_OK);
    assert_int_equal(shoal_acts_reserve(r->acts, &needs), SHOAL_OK);
    uint64_t rng = 99;
    for (size_t i = 0; i < (size_t)COLS_MAX * STRIDE; i++) {
        r->x[i / STRIDE][i % STRIDE] = test_signed(&rng);
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

static void product(rig *r, const shoal_weight *w, const shoal_kernels *kernels, shoal_pool *pool,
                    size_t n_cols, float *y, size_t y_stride)
{
    memset(y, POISON, n_cols * y_stride * sizeof *y);
    shoal_acts_set(r->acts, &r->x[0][0], n_cols, shoal_weight_k(w), STRIDE);
    shoal_weight_matmul(w, kernels, pool, r->acts, y, y_stride);
}

/* The input's 8-bit form. */
static void rounded(const rig *r, const float *x, size_t k, double *ret_x)
{
    int8_t codes[K_MAX];
    shoal_act_block blocks[K_MAX / SHOAL_QBLOCK];
    r->scalar.quantize_q8(k, x, codes, blocks);
    for (size_t i = 0; i < k; i++) {
        ret_x[i] = (double)codes[i] * (double)blocks[i / SHOAL_QBLOCK].scale;
    }
}

static void check_column(const rig *r, const layer *l, size_t c, const float *y, size_t n_rows)
{
    bool codes = l->type != SHOAL_TYPE_F32 && l->type != SHOAL_TYPE_F16;
    float scaled[K_MAX];
    double base_x[K_MAX];
    double low_x[K_MAX];
    for (size_t i = 0; i < l->k; i++) {
        float inverse = 1.0F / shoal_f16_to_f32(l->column_scales[i]);
        scaled[i] = l->parts.column_scales ? r->x[c][i] * inverse : r->x[c][i];
        base_x[i] = (double)scaled[i];
    }
    if (codes) {
        rounded(r, scaled, l->k, base_x);
    }
    if (l->parts.rank > 0) {
        rounded(r, r->x[c], l->k, low_x);
    }
    for (size_t row = 0; row < n_rows; row++) {
        double magnitude = 0;
        double want = exact(l, row, base_x, low_x, r->x[c], &magnitude);
        assert_true(fabs((double)y[row] - want) <= magnitude * 0x1p-14);
    }
}

static const make makes[] = {
    {SHOAL_TYPE_Q4_0, 48, 64, 1, NO_SINGLES, false},
    {SHOAL_TYPE_Q4_0, 37, 64, 31, ONE_SINGLE, false},
    {SHOAL_TYPE_Q4_0, 100, 320, 32, SOME_SINGLES, true},
    {SHOAL_TYPE_Q8_0, 65, 96, 33, NO_SINGLES, true},
    {SHOAL_TYPE_Q8_0, 17, 320, 0, SOME_SINGLES, false},
    {SHOAL_TYPE_Q8_0, 1, 32, 0, ONE_SINGLE, true},
    {SHOAL_TYPE_Q8_0, 20, 64, 16, ALL_SINGLES, true},
    {SHOAL_TYPE_F32, 33, 64, 17, SOME_SINGLES, true},
    {SHOAL_TYPE_F32, 33, 61, 0, ALL_SINGLES, true},
    {SHOAL_TYPE_F16, 80, 96, RANK_MAX, SOME_SINGLES, true},
    {SHOAL_TYPE_F16, 31, 33, 0, NO_SINGLES, true},
    {SHOAL_TYPE_Q4_0, 16, 32, 0, NO_SINGLES, false}, /* no sides at all */
    {SHOAL_TYPE_N4_64, 37, 192, 0, NO_SINGLES, false},
    {SHOAL_TYPE_N3_32, 100, 96, 5, SOME_SINGLES, true},
};

static void test_matmul_matches_float64_with_every_side(void **state)
{
    rig *r = *state;
    static float y[COLS_MAX * (ROWS_MAX + 5)];
    const size_t cols[] = {1, 3, COLS_MAX};
    float poison = 0;
    memset(&poison, POISON, sizeof poison);
    for (size_t i = 0; i < SHOAL_COUNT(makes); i++) {
        layer l;
        layer_new(&l, &makes[i], i + 1);
        image im = image_of(&l, NULL);
        shoal_weight *w = load_good(&im, 0, l.n_rows, r->pools[1]);
        size_t stride = l.n_rows + 5;
        size_t n_cols = cols[i % SHOAL_COUNT(cols)];
        product(r, w, &r->native, r->pools[1], n_cols, y, stride);
        for (size_t c = 0; c < n_cols; c++) {
            check_column(r, &l, c, y + c * stride, l.n_rows);
            for (size_t row = l.n_rows; row < stride; row++) {
                assert_memory_equal(&y[c * stride + row], &poison, sizeof poison);
            }
        }
        shoal_weight_free(w);
        shoal_free(im.data);
        layer_free(&l);
    }
}

static void test_bits_do_not_depend_on_threads_batch_tier_or_packing(void **state)
{
    rig *r = *state;
    static float want[COLS_MAX * ROWS_MAX];
    static float got[COLS_MAX * ROWS_MAX];
    for (size_t i = 0; i < SHOAL_COUNT(makes); i++) {
        layer l;
        layer_new(&l, &makes[i], i + 31);
        image plain = image_of(&l, NULL);
        image packed = packed_image(&plain, r->pools[1]);
        shoal_weight *ws[] = {load_good(&plain, 0, l.n_rows, r->pools[2]),
                              load_good(&packed, 0, l.n_rows, r->pools[0])};
        assert_int_equal(shoal_weight_bytes(ws[0]), shoal_weight_bytes(ws[1]));
        product(r, ws[0], &r->scalar, r->pools[0], COLS_MAX, want, ROWS_MAX);
        for (size_t p = 0; p < SHOAL_COUNT(r->pools); p++) {
            for (size_t n_cols = 1; n_cols <= COLS_MAX; n_cols++) {
                product(r, ws[n_cols % 2], &r->native, r->pools[p], n_cols, got, ROWS_MAX);
                assert_memory_equal(got, want, n_cols * ROWS_MAX * sizeof *got);
            }
        }
        shoal_weight_free(ws[0]);
        shoal_weight_free(ws[1]);
        shoal_free(plain.data);
        shoal_free(packed.data);
        layer_free(&l);
    }
}

static void test_rows_are_expanded(void **state)
{
    rig *r = *state;
    for (size_t i = 0; i < SHOAL_COUNT(makes); i++) {
        layer l;
        float row[K_MAX];
        layer_new(&l, &makes[i], i + 61);
        image im = image_of(&l, NULL);
        shoal_weight *w = load_good(&im, 0, l.n_rows, r->pools[0]);
        for (size_t n = 0; n < l.n_rows; n++) {
            shoal_weight_row(w, n, row);
            for (size_t col = 0; col < l.k; col++) {
                float unit[K_MAX] = {0};
                double base_x[K_MAX] = {0};
                double low_x[K_MAX] = {0};
                double magnitude = 0;
                unit[col] = 1;
                low_x[col] = 1;
                base_x[col] = l.parts.column_scales ? 1 / value_of(l.column_scales[col]) : 1;
                double want = exact(&l, n, base_x, low_x, unit, &magnitude);
                assert_true(fabs((double)row[col] - want) <= magnitude * 0x1p-20);
            }
        }
        shoal_weight_free(w);
        shoal_free(im.data);
        layer_free(&l);
    }
}

/* Parts of a fused tensor: rows of a range are those of the whole. */
static void test_row_ranges_have_the_rows_of_the_whole(void **state)
{
    rig *r = *state;
    static float want[COLS_MAX * ROWS_MAX];
    static float got[COLS_MAX * ROWS_MAX];
    static const size_t ranges[][2] = {{0, 16}, {16, 32}, {48, 52}, {96, 4}};
    static const shoal_type types[] = {SHOAL_TYPE_Q4_0, SHOAL_TYPE_F16, SHOAL_TYPE_N3_32};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        const make m = {types[i], 100, 96, 5, SOME_SINGLES, true};
        layer l;
        layer_new(&l, &m, 5);
        image plain = image_of(&l, NULL);
        image packed = packed_image(&plain, r->pools[1]);
        shoal_weight *whole = load_good(&plain, 0, l.n_rows, r->pools[0]);
        product(r, whole, &r->native, r->pools[1], 4, want, ROWS_MAX);
        for (size_t j = 0; j < SHOAL_COUNT(ranges); j++) {
            shoal_weight *w =
                load_good(j % 2 ? &packed : &plain, ranges[j][0], ranges[j][1], r->pools[1]);
            product(r, w, &r->native, r->pools[1], 4, got, ROWS_MAX);
            for (size_t c = 0; c < 4; c++) {
                assert_memory_equal(got + c * ROWS_MAX, want + c * ROWS_MAX + ranges[j][0],
                                    ranges[j][1] * sizeof *got);
            }
            shoal_weight_free(w);
        }
        shoal_weight *w = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(load(&plain, 8, 16, r->pools[0], &w, &err), SHOAL_E_UNSUPPORTED);
        assert_non_null(strstr(err.text, "begins at row 8"));
        shoal_weight_free(whole);
        shoal_free(plain.data);
        shoal_free(packed.data);
        layer_free(&l);
    }
}

/* --- one input, several column scales -------------------------------------------------------- */

static size_t n_elements; /* quantised so far */
static void (*real_quantize)(size_t, const float *, int8_t *, shoal_act_block *);

static void counting_quantize(size_t k, const float *x, int8_t *q, shoal_act_block *blocks)
{
    n_elements += k;
    real_quantize(k, x, q, blocks);
}

static void test_input_is_quantised_once_for_each_scale_that_differs(void **state)
{
    rig *r = *state;
    enum {
        N = 6,
        K = 320,
        ROWS = 16
    };
    static float y[4][ROWS];
    static float want[N][ROWS];
    shoal_kernels counting = r->scalar;
    real_quantize = counting.quantize_q8;
    counting.quantize_q8 = counting_quantize;
    layer l[N];
    image im[N];
    shoal_weight *w[N];
    for (size_t i = 0; i < N; i++) {
        const make m = {SHOAL_TYPE_Q8_0, ROWS, K, i == 2 ? 3 : 0, NO_SINGLES, i != 1};
        layer_new(&l[i], &m, 70 + i);
        if (i == 3) { /* the scales of layer 0, in a place of its own */
            memcpy(l[3].column_scales, l[0].column_scales, K * sizeof(uint16_t));
        }
        im[i] = image_of(&l[i], NULL);
        w[i] = load_good(&im[i], 0, ROWS, r->pools[0]);
        product(r, w[i], &r->scalar, r->pools[0], 1, want[i], ROWS);
    }
    /* 0 and 3 share; 1 has none; 2 has its own, and its R reads the plain form that 1 reads. */
    const shoal_product products[] = {
        {w[0], y[0], ROWS}, {w[1], y[1], ROWS}, {w[2], y[2], ROWS}, {w[3], y[3], ROWS}};
    uint64_t n_allocations = shoal_mem_count();
    n_elements = 0;
    shoal_acts_set(r->acts, &r->x[0][0], 1, K, STRIDE);
    for (size_t round = 0; round < 2; round++) {
        memset(y, POISON, sizeof y);
        shoal_weight_matmuls(products, 4, &counting, r->pools[0], r->acts);
        assert_int_equal(n_elements, 3 * K);
        assert_memory_equal(y, want, sizeof y);
    }
    /* More scales than are kept at once: the last of them push out others, and all are right. */
    for (size_t i = 0; i < 3 * N; i++) {
        shoal_weight_matmul(w[i % N], &counting, r->pools[0], r->acts, y[0], ROWS);
        assert_memory_equal(y[0], want[i % N], sizeof y[0]);
    }
    shoal_acts_set(r->acts, &r->x[1][0], 1, K, STRIDE);
    n_elements = 0;
    shoal_weight_matmul(w[0], &counting, r->pools[0], r->acts, y[0], ROWS);
    assert_int_equal(n_elements, K);
    assert_true(memcmp(y[0], want[0], sizeof y[0]) != 0);
    assert_true(shoal_mem_count() == n_allocations);
    for (size_t i = 0; i < N; i++) {
        shoal_weight_free(w[i]);
        shoal_free(im[i].data);
        layer_free(&l[i]);
    }
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void test_bytes_and_flops_count_the_sides(void **state)
{
    rig *r = *state;
    const make m = {SHOAL_TYPE_Q4_0, 20, 64, 5, ONE_SINGLE, true};
    layer l;
    layer_new(&l, &m, 1);
    image im = image_of(&l, NULL);
    shoal_weight *w = load_good(&im, 0, 20, r->pools[0]);
    /* Base of two panels; L of two, R one of 16 rows, s, and one step with its counts. */
    size_t want = 2 * 2 * 288 + 2 * 5 * 18 + 2 * 544 + 64 * 4 + (3 * 4 + 32 * 4 + 16 * 4);
    assert_int_equal(shoal_weight_bytes(w), want);
    assert_int_equal(shoal_weight_flops(w), 2 * 20 * 64 + 2 * 5 * (20 + 64) + 2 + 64);
    shoal_weight_free(w);
    shoal_free(im.data);
    layer_free(&l);
}

/* --- names ----------------------------------------------------------------------------------- */

static void test_names_are_made_and_read(void **state)
{
    (void)state;
    char name[SHOAL_GGUF_NAME_MAX + 1];
    shoal_side side = SHOAL_SIDES;
    shoal_str weight = {0};
    for (size_t i = 0; i < SHOAL_SIDES; i++) {
        assert_true(shoal_side_name((shoal_str){NAME, strlen(NAME)}, (shoal_side)i, name));
        assert_true(shoal_side_parse((shoal_str){name, strlen(name)}, &side, &weight));
        assert_int_equal(side, i);
        assert_int_equal(weight.length, strlen(NAME));
    }
    static const char *const others[] = {NAME,
                                         "",
                                         "low_left",
                                         "_low_left",
                                         "a.bias_low_left",
                                         "a.weight_low",
                                         ".weight_low_lef",
                                         "a.weight_scale"};
    for (size_t i = 0; i < SHOAL_COUNT(others); i++) {
        assert_false(shoal_side_parse((shoal_str){others[i], strlen(others[i])}, &side, &weight));
    }
    char longest[SHOAL_GGUF_NAME_MAX + 1];
    size_t fits = SHOAL_GGUF_NAME_MAX - strlen("_low_left");
    memset(longest, 'a', sizeof longest);
    memcpy(longest + fits - strlen(".weight"), ".weight", strlen(".weight"));
    assert_true(shoal_side_name((shoal_str){longest, fits}, SHOAL_SIDE_LOW_LEFT, name));
    assert_false(shoal_side_name((shoal_str){longest, fits}, SHOAL_SIDE_LOW_RIGHT, name));
    assert_false(shoal_side_name((shoal_str){"a.bias", 6}, SHOAL_SIDE_LOW_LEFT, name));
}

/* --- hostile files --------------------------------------------------------------------------- */

#define BYTES(text) .bytes = (text), .n_bytes = sizeof(text) - 1

static void test_hostile_sides_are_refused(void **state)
{
    rig *r = *state;
    const make m = {SHOAL_TYPE_Q8_0, 40, 64, 3, SOME_SINGLES, true};
    layer l;
    layer_new(&l, &m, 3);
    size_t row = 2; /* has two elements at least */
    assert_true(l.begin[row + 1] >= l.begin[row] + 2);
    size_t second = 4 * ((size_t)l.begin[row] + 1);
    size_t last = 4 * ((size_t)l.begin[m.n_rows] - 1); /* of its row, so that no other follows */
    const char first_col[] = {(char)l.cols[l.begin[row]], '\0'};
    const lie lies[] = {
        {.side = SHOAL_SIDES, .format = "", .want = "shoal.sides.format = 1"},
        {.side = SHOAL_SIDES, .format = "2", .want = "compress the model with this version"},
        {.side = SHOAL_SIDES, .format = "11", .want = "shoal.sides.format = 1"},
        {.side = SHOAL_SIDES, .n_stacked = 2, .want = "a stack of matrices"},
        {.side = SHOAL_SIDE_LOW_LEFT, .omit = true, .want = "_low_left, is missing"},
        {.side = SHOAL_SIDE_LOW_RIGHT, .omit = true, .want = "_low_right, is missing"},
        {.side = SHOAL_SIDE_LOW_LEFT, .more = {32, 0}, .want = "Q8_0 of 64 x 3 is expected"},
        {.side = SHOAL_SIDE_LOW_LEFT, .more = {-32, 0}, .want = "Q8_0 of 64 x 3 is expected"},
        {.side = SHOAL_SIDE_LOW_RIGHT, .more = {0, 1}, .want = "Q8_0 of 64 x 3 is expected"},
        {.side = SHOAL_SIDE_LOW_RIGHT, .more = {0, -1}, .want = "Q8_0 of 64 x 3 is expected"},
        {.side = SHOAL_SIDE_LOW_LEFT, .type = SHOAL_TYPE_Q4_0, .want = "Q8_0 of 64 x 3"},
        {.side = SHOAL_SIDE_LOW_RIGHT, .type = SHOAL_TYPE_F16, .want = "Q8_0 of 64 x 3"},
        {.side = SHOAL_SIDE_LOW_LEFT, .at = 34, BYTES("\0\x7C"), .want = "not finite"},
        {.side = SHOAL_SIDE_LOW_RIGHT, .at = 34, BYTES("\1\xFC"), .want = "not finite"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .more = {1, 0}, .want = "F16 of 64 x 1 is expected"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .type = SHOAL_TYPE_BF16, .want = "F16 of 64 x 1"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .at = 126, BYTES("\0\0"), .want = "above 0"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .at = 0, BYTES("\0\x80"), .want = "above 0"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .at = 2, BYTES("\0\xBC"), .want = "above 0"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .at = 2, BYTES("\0\x7C"), .want = "above 0"},
        {.side = SHOAL_SIDE_COLUMN_SCALE, .at = 2, BYTES("\1\x7E"), .want = "above 0"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .omit = true, .want = "one is missing"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .omit = true, .want = "one is missing"},
        {.side = SHOAL_SIDE_SINGLE_VALUES, .omit = true, .want = "one is missing"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .more = {1, 0}, .want = "I32 of 41 x 1 is expected"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .more = {-1, 0}, .want = "I32 of 41 x 1 is expected"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .type = SHOAL_TYPE_F16, .want = "I32 of 41 x 1"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .at = 0, BYTES("\1"), .want = "must go from 0"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .at = 160, BYTES("\0\0"), .want = "must go from 0"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .at = 8, BYTES("\xFF\xFF"), .want = "before it begins"},
        {.side = SHOAL_SIDE_SINGLE_BEGIN, .at = 11, BYTES("\x80"), .want = "before it begins"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .more = {1, 0}, .want = "F16 of"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .more = {-1, 0}, .want = "is expected"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .type = SHOAL_TYPE_F16, .want = "I32 of"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .at = second, BYTES("\0\0\0\0"), .want = "do not ascend"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .at = second, BYTES(first_col), .want = "do not ascend"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .at = last, BYTES("\x40"), .want = "below 64"},
        {.side = SHOAL_SIDE_SINGLE_COLS, .at = second + 3, BYTES("\xFF"), .want = "below 64"},
        {.side = SHOAL_SIDE_SINGLE_VALUES, .more = {1, 0}, .want = "F16 of"},
        {.side = SHOAL_SIDE_SINGLE_VALUES, .type = SHOAL_TYPE_I32, .want = "F16 of"},
        {.side = SHOAL_SIDE_SINGLE_VALUES, .at = 2, BYTES("\0\x7C"), .want = "not finite"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(lies); i++) {
        image im = image_of(&l, &lies[i]);
        shoal_weight *w = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        size_t n_rows = l.n_rows / (lies[i].n_stacked ? lies[i].n_stacked : 1);
        assert_true(load(&im, 0, n_rows, r->pools[0], &w, &err) < 0);
        if (!strstr(err.text, lies[i].want) || !strstr(err.text, "tensor " NAME)) {
            fail_msg("lie %zu: \"%s\" does not say \"%s\"", i, err.text, lies[i].want);
        }
        shoal_free(im.data);
    }
    layer_free(&l);
}

static void test_hostile_levels_are_refused(void **state)
{
    rig *r = *state;
    const make m = {SHOAL_TYPE_N3_32, 17, 64, 0, NO_SINGLES, false};
    const lie lies[] = {
        {.side = SHOAL_SIDE_LEVELS, .more = {1, 0}, .want = "I8 of 8 x 1 is expected"},
        {.side = SHOAL_SIDE_LEVELS, .more = {-1, 0}, .want = "I8 of 8 x 1 is expected"},
        {.side = SHOAL_SIDE_LEVELS, .more = {8, 0}, .want = "I8 of 8 x 1 is expected"},
        {.side = SHOAL_SIDE_LEVELS, .type = SHOAL_TYPE_F16, .want = "I8 of 8 x 1 is expected"},
        {.side = SHOAL_SIDE_LEVELS, .at = 7, BYTES("\x80"), .want = "below -127"},
        {.side = SHOAL_SIDE_LEVELS, .at = 0, BYTES("\x80"), .want = "below -127"},
    };
    layer l;
    layer_new(&l, &m, 3);
    for (size_t i = 0; i <= SHOAL_COUNT(lies); i++) {
        bool other = i == SHOAL_COUNT(lies); /* levels beside codes that need none */
        l.type = other ? SHOAL_TYPE_C3_32 : m.type;
        image im = image_of(&l, other ? NULL : &lies[i]);
        shoal_weight *w = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(load(&im, 0, l.n_rows, r->pools[0], &w, &err) < 0);
        const char *want = other ? "no indices of levels" : lies[i].want;
        if (!strstr(err.text, want) || !strstr(err.text, "tensor " NAME)) {
            fail_msg("lie %zu: \"%s\" does not say \"%s\"", i, err.text, want);
        }
        shoal_free(im.data);
    }
    layer_free(&l);
}

static void expect_refused(const make *m, const char *want)
{
    layer l;
    layer_new(&l, m, 3);
    image im = image_of(&l, NULL);
    shoal_weight *w = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_true(load(&im, 0, l.n_rows, NULL, &w, &err) < 0);
    if (!strstr(err.text, want)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, want);
    }
    shoal_free(im.data);
    layer_free(&l);
}

static void test_limits_are_those_that_are_told(void **state)
{
    rig *r = *state;
    const make wide = {SHOAL_TYPE_F16, 1, SHOAL_SIDES_SINGLES_K_MAX, 0, ONE_SINGLE, false};
    const make wider = {SHOAL_TYPE_F16, 1, SHOAL_SIDES_SINGLES_K_MAX + 1, 0, ONE_SINGLE, false};
    const make deep = {SHOAL_TYPE_F16, 1, 32, SHOAL_SIDES_RANK_MAX, NO_SINGLES, false};
    const make deeper = {SHOAL_TYPE_F16, 1, 32, SHOAL_SIDES_RANK_MAX + 1, NO_SINGLES, false};
    const make *good[] = {&wide, &deep};
    for (size_t i = 0; i < SHOAL_COUNT(good); i++) {
        layer l;
        layer_new(&l, good[i], 3);
        image im = image_of(&l, NULL);
        shoal_weight_free(load_good(&im, 0, 1, r->pools[0]));
        shoal_free(im.data);
        layer_free(&l);
    }
    expect_refused(&wider, "more than the 65536");
    expect_refused(&deeper, "rank 1025 is more than 1024");
}

/* --- memory ---------------------------------------------------------------------------------- */

static shoal_status whole_life(const image *im, rig *r)
{
    shoal_weight *w = NULL;
    shoal_acts *acts = NULL;
    shoal_side_needs needs = {0};
    SHOAL_TRY(load(im, 0, 40, r->pools[0], &w, NULL));
    shoal_weight_raise_needs(w, &needs);
    assert_int_equal(needs.rank, 3);
    assert_int_equal(needs.k_codes, 64);
    shoal_weight_free(w);
    SHOAL_TRY(shoal_acts_new(2, 64, &acts));
    needs.k_floats = 32;
    shoal_status status = shoal_acts_reserve(acts, &needs);
    shoal_acts_free(acts);
    return status;
}

static void test_every_failing_allocation_is_survived(void **state)
{
    rig *r = *state;
    const make m = {SHOAL_TYPE_Q8_0, 40, 64, 3, SOME_SINGLES, true};
    layer l;
    layer_new(&l, &m, 3);
    image im = image_of(&l, NULL);
    for (uint64_t i = 0;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = whole_life(&im, r);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i > 20);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
    shoal_free(im.data);
    layer_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_matches_float64_with_every_side),
        cmocka_unit_test(test_bits_do_not_depend_on_threads_batch_tier_or_packing),
        cmocka_unit_test(test_rows_are_expanded),
        cmocka_unit_test(test_row_ranges_have_the_rows_of_the_whole),
        cmocka_unit_test(test_input_is_quantised_once_for_each_scale_that_differs),
        cmocka_unit_test(test_bytes_and_flops_count_the_sides),
        cmocka_unit_test(test_names_are_made_and_read),
        cmocka_unit_test(test_hostile_sides_are_refused),
        cmocka_unit_test(test_hostile_levels_are_refused),
        cmocka_unit_test(test_limits_are_those_that_are_told),
        cmocka_unit_test(test_every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
