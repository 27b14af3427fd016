/* SPDX-License-Identifier: Apache-2.0
 *
 * A set is matrices of a few encoded rows, repeated: what is in them does not matter to time, and
 * encoding every row by search would take longer than all measuring.
 */
#include "common/machine/rate.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/machine/timing.h"

#include <math.h>
#include <string.h>

enum {
    K = SHOAL_RATE_K,
    ROWS = 16,        /* that are encoded */
    SMALL_ROWS = 256, /* enough that all threads have a part in it */
    LARGE_BYTES = 4 << 20,
    WEIGHTS_MAX = 1 << 14,
    TILE = 128 /* rows and columns that share a scale of FP8 */
};

/* Matrices of one size. */
typedef struct set {
    const shoal_rate_settings *settings;
    shoal_weight **weights;
    size_t n;
    size_t n_rows;
    shoal_acts *acts;
    float *x;
    float *y;
    size_t n_cols;
} set;

static void set_fini(set *s)
{
    for (size_t i = 0; s->weights && i < s->n; i++) {
        shoal_weight_free(s->weights[i]);
    }
    shoal_free(s->weights);
    shoal_acts_free(s->acts);
    shoal_free(s->x);
    shoal_free(s->y);
}

/* --- matrices --------------------------------------------------------------------------------- */

static size_t row_bytes_of(shoal_type type)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    return K / info->block * info->block_bytes;
}

static void draw(float *x, size_t n)
{
    uint64_t rng = 1;
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)(shoal_rng_next(&rng) >> 11) * 0x1p-52 - 1.0);
    }
}

/* Rows of a matrix, the first encoded, the others the same again. */
static shoal_status encode(shoal_type type, size_t row_bytes, size_t n_rows, uint8_t *rows,
                           shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc((size_t)ROWS * K, sizeof *x);
    float scales[K / TILE];
    if (!x) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for rows to measure with");
    }
    draw(x, (size_t)ROWS * K);
    if (type == SHOAL_TYPE_I8) {
        SHOAL_TRY(shoal_fp8_encode(x, ROWS, K, rows, scales));
    } else {
        SHOAL_TRY(shoal_weight_encode(type, x, (size_t)ROWS * K, rows, err));
    }
    for (size_t at = ROWS; at < n_rows; at += ROWS) {
        memcpy(rows + at * row_bytes, rows, ROWS * row_bytes);
    }
    return SHOAL_OK;
}

static shoal_status build(set *s, shoal_type type, const uint8_t *rows, size_t row_bytes,
                          shoal_err *err)
{
    uint64_t bands = (s->n_rows + TILE - 1) / TILE;
    SHOAL_CLEANUP(shoal_free_cleanup)
    float *scales = shoal_calloc((size_t)bands * (K / TILE), sizeof *scales);
    if (!scales) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for scales");
    }
    for (size_t i = 0; i < bands * (K / TILE); i++) {
        scales[i] = 0x1p-9F;
    }
    const shoal_gguf_tensor of_scales = {.name = {.data = "rate.weight_scale", .length = 17},
                                         .type = SHOAL_TYPE_F32,
                                         .n_dims = 2,
                                         .dims = {K / TILE, bands, 1, 1},
                                         .data = (const uint8_t *)scales,
                                         .size_bytes = bands * (K / TILE) * sizeof *scales};
    const shoal_gguf_tensor tensor = {.name = {.data = "rate.weight", .length = 11},
                                      .type = type,
                                      .n_dims = 2,
                                      .dims = {K, s->n_rows, 1, 1},
                                      .data = rows,
                                      .size_bytes = s->n_rows * row_bytes};
    for (size_t i = 0; i < s->n; i++) {
        SHOAL_TRY(shoal_weight_new_scaled(&tensor, type == SHOAL_TYPE_I8 ? &of_scales : NULL,
                                          &s->weights[i], err));
    }
    return SHOAL_OK;
}

static shoal_status set_init(set *s, shoal_type type, size_t matrix_bytes, shoal_err *err)
{
    size_t row_bytes = row_bytes_of(type);
    size_t set_bytes = s->settings->set_bytes;
    s->n_rows = SHOAL_MAX(SHOAL_MIN(matrix_bytes, set_bytes) / row_bytes / ROWS * ROWS, ROWS);
    s->n = SHOAL_MIN(SHOAL_MAX(set_bytes / (s->n_rows * row_bytes), 1), (size_t)WEIGHTS_MAX);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *rows = shoal_calloc(s->n_rows, row_bytes);
    s->weights = shoal_calloc(s->n, sizeof(shoal_weight *));
    s->x = shoal_calloc((size_t)SHOAL_RATE_COLS_MAX * K, sizeof *s->x);
    s->y = shoal_calloc(SHOAL_RATE_COLS_MAX * s->n_rows, sizeof *s->y);
    if (!rows || !s->weights || !s->x || !s->y ||
        shoal_acts_new(SHOAL_RATE_COLS_MAX, K, &s->acts) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu bytes of weights", set_bytes);
    }
    draw(s->x, (size_t)SHOAL_RATE_COLS_MAX * K);
    SHOAL_TRY(encode(type, row_bytes, s->n_rows, rows, err));
    return build(s, type, rows, row_bytes, err);
}

/* --- time ------------------------------------------------------------------------------------- */

/* Every matrix once, each with an input of its own to quantise. */
static void run_set(void *context)
{
    set *s = context;
    for (size_t i = 0; i < s->n; i++) {
        shoal_acts_set(s->acts, s->x, s->n_cols, K, K);
        shoal_weight_matmul(s->weights[i], s->settings->kernels, s->settings->pool, s->acts, s->y,
                            s->n_rows);
    }
}

static double time_set(set *s, size_t n_cols)
{
    const shoal_timing_settings settings = {.total_s = s->settings->seconds,
                                            .batch_s = s->settings->seconds / 8,
                                            .n_repeats_min = 1,
                                            .n_repeats_max = SHOAL_TIMING_REPEATS_MAX,
                                            .wall = true};
    s->n_cols = n_cols;
    return shoal_timing_measure(&settings, run_set, s).p10_s / (double)s->n;
}

double shoal_rate_seconds(const shoal_rate *rate, double bytes)
{
    return rate->fixed_us * 1e-6 + bytes / (rate->gb_s * 1e9);
}

shoal_rate shoal_rate_fit(const double bytes[2], const double seconds[2])
{
    const double least = 1e-12; /* of a product that the clock does not see */
    double steep = (seconds[1] - seconds[0]) / (bytes[1] - bytes[0]);
    double fixed = seconds[0] - steep * bytes[0];
    if (!(bytes[1] > bytes[0]) || !(steep > 0) || fixed < 0) {
        fixed = 0;
        steep = fmax(seconds[1], least) / bytes[1];
    }
    return (shoal_rate){.fixed_us = fixed * 1e6, .gb_s = 1e-9 / steep};
}

shoal_status shoal_rate_measure(const shoal_rate_settings *settings, shoal_type type,
                                const size_t *widths, size_t n_widths, shoal_rate *ret_rates,
                                shoal_err *err)
{
    SHOAL_CLEANUP(set_fini) set small = {.settings = settings};
    SHOAL_CLEANUP(set_fini) set large = {.settings = settings};
    SHOAL_ASSERT(settings->set_bytes >= SHOAL_RATE_SET_MIN);
    SHOAL_TRY(set_init(&small, type, SMALL_ROWS * row_bytes_of(type), err));
    SHOAL_TRY(set_init(&large, type, LARGE_BYTES, err));
    const double bytes[2] = {(double)(small.n_rows * row_bytes_of(type)),
                             (double)(large.n_rows * row_bytes_of(type))};
    for (size_t i = 0; i < n_widths; i++) {
        SHOAL_ASSERT(widths[i] >= 1 && widths[i] <= SHOAL_RATE_COLS_MAX);
        const double seconds[2] = {time_set(&small, widths[i]), time_set(&large, widths[i])};
        ret_rates[i] = shoal_rate_fit(bytes, seconds);
    }
    return SHOAL_OK;
}
