/* SPDX-License-Identifier: Apache-2.0
 *
 * C2, C3, C4, S4, S8, B16, B8, N3 and N4 with groups of 32, 64 and 128: blocks of a group, an f16
 * scale and words of four bytes (codes.h). A panel block is the same of 16 rows: their scales, then
 * word by word the rows side by side (common/kernels/panel.h).
 */
#include "common/weight/codes_internal.h"
#include "common/weight/format.h"
#include "common/weight/matrix_internal.h"
#include "common/weight/search_internal.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    N = SHOAL_QBLOCK,
    WORD = 4,
    SCALE = 2,        /* bytes */
    LEVEL_SHARES = 12 /* scales that are tried, of either sign */
};

typedef shoal_codes_kind kind;

static size_t block_words(const kind *k)
{
    return k->group / N * k->n_words;
}

static size_t block_bytes(const kind *k)
{
    return SCALE + block_words(k) * WORD;
}

static void pack_blocks(const kind *k, const uint8_t *blocks, size_t n, size_t r, uint8_t *panel)
{
    for (size_t b = 0; b < n / k->group; b++) {
        memcpy(panel + SCALE * r, blocks, SCALE);
        panel += SCALE * ROWS;
        blocks += SCALE;
        for (size_t w = 0; w < block_words(k); w++) {
            memcpy(panel + WORD * r, blocks, WORD);
            panel += WORD * ROWS;
            blocks += WORD;
        }
    }
}

static void restore_blocks(const kind *k, const uint8_t *panel, size_t n, size_t r,
                           uint8_t *ret_blocks)
{
    for (size_t b = 0; b < n / k->group; b++) {
        memcpy(ret_blocks, panel + SCALE * r, SCALE);
        panel += SCALE * ROWS;
        ret_blocks += SCALE;
        for (size_t w = 0; w < block_words(k); w++) {
            memcpy(ret_blocks, panel + WORD * r, WORD);
            panel += WORD * ROWS;
            ret_blocks += WORD;
        }
    }
}

/* What codes stand for, from the least code on; NULL: for themselves. */
static const int8_t *levels_of(const kind *k)
{
    const shoal_format *format = k->mask == SHOAL_CODES_LEVELS ? shoal_format_find(k->type) : NULL;
    return format ? shoal_panel_levels(format->panel) : NULL;
}

static void values_of(const kind *k, const int8_t *levels, float d, const uint8_t *words,
                      size_t stride, float *ret_x)
{
    for (size_t i = 0; i < k->group; i += N, words += k->n_words * stride) {
        shoal_codes_run run;
        (void)shoal_codes_get(k, words, stride, &run);
        for (size_t j = 0; j < N; j++) {
            int code = run.code[j];
            ret_x[i + j] = d * (float)(levels ? levels[code - k->low] : code);
        }
    }
}

static void unpack_blocks(const kind *k, const int8_t *levels, const uint8_t *panel, size_t n,
                          size_t r, float *ret_row)
{
    for (size_t b = 0; b < n / k->group; b++) {
        float d = shoal_f16_to_f32(shoal_format_u16(panel + SCALE * r));
        values_of(k, levels, d, panel + SCALE * ROWS + WORD * r, WORD * ROWS,
                  ret_row + b * k->group);
        panel += block_bytes(k) * ROWS;
    }
}

static void decode_blocks(const kind *k, const uint8_t *blocks, size_t n, float *ret_x)
{
    const int8_t *levels = levels_of(k);
    for (size_t b = 0; b < n / k->group; b++, blocks += block_bytes(k)) {
        values_of(k, levels, shoal_f16_to_f32(shoal_format_u16(blocks)), blocks + SCALE, WORD,
                  ret_x + b * k->group);
    }
}

/* Scales are finite, the places of two in four ascend, and bitmaps have room. */
static bool sound_blocks(const kind *k, const uint8_t *blocks, size_t n)
{
    bool chosen = k->mask != SHOAL_CODES_ALL && k->mask != SHOAL_CODES_LEVELS;
    for (size_t b = 0; b < n / k->group; b++, blocks += block_bytes(k)) {
        bool good = shoal_format_half_finite(shoal_format_u16(blocks));
        for (size_t i = 0; chosen && i < k->group / N; i++) {
            shoal_codes_run run;
            good = good && shoal_codes_get(k, blocks + SCALE + i * k->n_words * WORD, WORD, &run);
        }
        if (!good) {
            return false;
        }
    }
    return true;
}

/* --- encoding: round to nearest, the largest of those that may be kept
 * -----------------------------
 */

/* Clears all but so many of largest magnitude in every `step`; of equals the first stay. */
static void keep_largest(const float *x, size_t n, size_t step, size_t n_keep, float *ret)
{
    for (size_t i = 0; i < n; i++) {
        size_t n_larger = 0;
        size_t begin = i / step * step;
        for (size_t j = begin; j < begin + step; j++) {
            n_larger += fabsf(x[j]) > fabsf(x[i]) || (j < i && fabsf(x[j]) == fabsf(x[i]));
        }
        ret[i] = n_larger < n_keep ? x[i] : 0;
    }
}

static void choose(const kind *k, const float *x, float *ret)
{
    if (k->mask == SHOAL_CODES_TWO_FOUR) {
        keep_largest(x, k->group, 4, 2, ret);
    } else if (k->mask == SHOAL_CODES_HALF || k->mask == SHOAL_CODES_QUARTER) {
        keep_largest(x, k->group, N, k->mask == SHOAL_CODES_HALF ? N / 2 : N / 4, ret);
    } else {
        memcpy(ret, x, k->group * sizeof *x);
    }
}

/* Which of the levels, which ascend, is nearest. */
static int nearest_level(const kind *k, const int8_t *levels, double v)
{
    int at = 0;
    while (at < k->high - k->low && v > ((double)levels[at] + (double)levels[at + 1]) / 2) {
        at++;
    }
    return at;
}

/* Squared error under a scale; *ret_fitted is the one that least squares gives for its levels. */
static double try_level_scale(const kind *k, const int8_t *levels, const float *x, double scale,
                              double *ret_fitted)
{
    double error = 0;
    double xl = 0;
    double ll = 0;
    for (size_t i = 0; i < k->group; i++) {
        double v = scale != 0 ? (double)x[i] / scale : 0;
        double level = (double)levels[nearest_level(k, levels, v)];
        error += ((double)x[i] - scale * level) * ((double)x[i] - scale * level);
        xl += (double)x[i] * level;
        ll += level * level;
    }
    *ret_fitted = ll > 0 ? xl / ll : scale;
    return error;
}

/* Of the largest magnitude's scale and smaller ones, of either sign, each fitted once. */
static uint16_t search_level_scale(const kind *k, const int8_t *levels, const float *x)
{
    double most = 0;
    for (size_t i = 0; i < k->group; i++) {
        most = fmax(most, fabs((double)x[i]));
    }
    uint16_t best = shoal_f32_to_f16((float)(most / 127)); /* infinite where no half will do */
    double best_error = (double)INFINITY;
    for (size_t i = 0; i < 2 * LEVEL_SHARES; i++) {
        double scale = (i % 2 ? -1 : 1) * (1.05 - 0.05 * (double)(i / 2)) * most / 127;
        double fitted = scale;
        (void)try_level_scale(k, levels, x, scale, &fitted);
        uint16_t half = shoal_f32_to_f16((float)fitted);
        double error = try_level_scale(k, levels, x, (double)shoal_f16_to_f32(half), &scale);
        if (error < best_error) {
            best_error = error;
            best = half;
        }
    }
    return best;
}

static void encode_levels(const kind *k, const float *x, uint8_t *ret_block)
{
    const int8_t *levels = levels_of(k);
    uint16_t half = search_level_scale(k, levels, x);
    double d = (double)shoal_f16_to_f32(half);
    shoal_format_put_u16(ret_block, half);
    for (size_t i = 0; i < k->group; i += N) {
        shoal_codes_run run = {.kept = UINT32_MAX};
        for (size_t j = 0; j < N; j++) {
            double v = d != 0 ? (double)x[i + j] / d : 0;
            run.code[j] = (int8_t)(nearest_level(k, levels, v) + k->low);
        }
        shoal_codes_put(k, &run, ret_block + SCALE + i / N * k->n_words * WORD);
    }
}

static void encode_group(const kind *k, const float *x, uint8_t *ret_block)
{
    if (k->mask == SHOAL_CODES_LEVELS) {
        encode_levels(k, x, ret_block);
        return;
    }
    float kept[SHOAL_CODES_GROUP_MAX];
    double weights[SHOAL_CODES_GROUP_MAX];
    choose(k, x, kept);
    shoal_search_weights(kept, k->group, weights);
    float scale = (float)shoal_search_scale(kept, weights, k->group, k->low, k->high);
    uint16_t half = shoal_f32_to_f16(scale);
    double d = (double)shoal_f16_to_f32(half);
    shoal_format_put_u16(ret_block, half);
    for (size_t i = 0; i < k->group; i += N) {
        shoal_codes_run run = {.kept = 0};
        for (size_t j = 0; j < N; j++) {
            double v = d != 0 ? (double)kept[i + j] / d : 0;
            run.code[j] = (int8_t)shoal_search_round(v, k->low, k->high);
            run.kept |= (kept[i + j] != 0 ? 1u : 0u) << j;
        }
        shoal_codes_put(k, &run, ret_block + SCALE + i / N * k->n_words * WORD);
    }
}

static void encode_blocks(const kind *k, const float *x, size_t n, uint8_t *ret_blocks)
{
    for (size_t b = 0; b < n / k->group; b++) {
        encode_group(k, x + b * k->group, ret_blocks + b * block_bytes(k));
    }
}

/* --- formats ------------------------------------------------------------------------------------
 */

/* A format's functions bind its kind. */
#define FORMAT(name, NAME, ...)                                                                    \
    static void pack_##name(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)             \
    {                                                                                              \
        pack_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), blocks, k, r, panel);                  \
    }                                                                                              \
    static void restore_##name(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)      \
    {                                                                                              \
        restore_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), panel, k, r, ret_blocks);           \
    }                                                                                              \
    static void unpack_##name(const uint8_t *panel, size_t k, size_t r, float *ret_row)            \
    {                                                                                              \
        const kind *kind_of = shoal_codes_kind_of(SHOAL_TYPE_##NAME);                              \
        unpack_blocks(kind_of, levels_of(kind_of), panel, k, r, ret_row);                          \
    }                                                                                              \
    static void encode_##name(const float *x, size_t n, uint8_t *ret_blocks)                       \
    {                                                                                              \
        encode_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), x, n, ret_blocks);                   \
    }                                                                                              \
    static void decode_##name(const uint8_t *blocks, size_t n, float *ret_x)                       \
    {                                                                                              \
        decode_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), blocks, n, ret_x);                   \
    }                                                                                              \
    static bool sound_##name(const uint8_t *blocks, size_t n)                                      \
    {                                                                                              \
        return sound_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), blocks, n);                    \
    }                                                                                              \
    const shoal_format shoal_format_##name = {.type = SHOAL_TYPE_##NAME,                           \
                                              .panel = SHOAL_PANEL_##NAME,                         \
                                              .pack_row = pack_##name,                             \
                                              .restore_row = restore_##name,                       \
                                              .unpack_row = unpack_##name,                         \
                                              .encode = encode_##name,                             \
                                              .decode = decode_##name,                             \
                                              .finite = sound_##name,                              \
                                              __VA_ARGS__};

/* One whose levels may be a matrix's own. */
#define LEVELS(name, NAME, n)                                                                      \
    static void levels_##name(const uint8_t *panel, size_t k, size_t r, const int8_t *levels,      \
                              float *ret_row)                                                      \
    {                                                                                              \
        unpack_blocks(shoal_codes_kind_of(SHOAL_TYPE_##NAME), levels, panel, k, r, ret_row);       \
    }                                                                                              \
    FORMAT(name, NAME, .n_levels = (n), .unpack_levels = levels_##name)

FORMAT(c2_32, C2_32, .n_levels = 0)
FORMAT(c2_64, C2_64, .n_levels = 0)
FORMAT(c2_128, C2_128, .n_levels = 0)
FORMAT(c3_32, C3_32, .n_levels = 0)
FORMAT(c3_64, C3_64, .n_levels = 0)
FORMAT(c3_128, C3_128, .n_levels = 0)
FORMAT(c4_64, C4_64, .n_levels = 0)
FORMAT(c4_128, C4_128, .n_levels = 0)
FORMAT(s4_32, S4_32, .n_levels = 0)
FORMAT(s4_64, S4_64, .n_levels = 0)
FORMAT(s4_128, S4_128, .n_levels = 0)
FORMAT(s8_32, S8_32, .n_levels = 0)
FORMAT(s8_64, S8_64, .n_levels = 0)
FORMAT(s8_128, S8_128, .n_levels = 0)
FORMAT(b16_32, B16_32, .n_levels = 0)
FORMAT(b16_64, B16_64, .n_levels = 0)
FORMAT(b16_128, B16_128, .n_levels = 0)
FORMAT(b8_32, B8_32, .n_levels = 0)
FORMAT(b8_64, B8_64, .n_levels = 0)
FORMAT(b8_128, B8_128, .n_levels = 0)
LEVELS(n3_32, N3_32, 8)
LEVELS(n3_64, N3_64, 8)
LEVELS(n3_128, N3_128, 8)
LEVELS(n4_32, N4_32, 16)
LEVELS(n4_64, N4_64, 16)
LEVELS(n4_128, N4_128, 16)
