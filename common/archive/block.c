/* SPDX-License-Identifier: Apache-2.0
 *
 * One unit out and in. Bytes, all little-endian:
 *   0   "SKA2" and the rest of the header (near.c)
 *   20  of position 0 alone: the first 4 tokens, [4][n_channels] f16, rotated as they were
 *   ..  four states, then words (codes.c)
 */
#include "common/archive/archive_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"
#include "common/kv/kv_move.h"

#include <string.h>

enum {
    TOKENS = ARCHIVE_TOKENS,
    ROWS = ARCHIVE_ROWS,
    TURNED = 4, /* channels whose values change places with tokens at once */
    CHANNEL_MAX = 4095
};

shoal_status shoal_archive_work_new(const shoal_archive *archive, shoal_archive_work **ret_work)
{
    SHOAL_CLEANUP(shoal_archive_work_freep)
    shoal_archive_work *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return SHOAL_E_NOMEM;
    }
    size_t n_codes = shoal_archive_codes_bytes(archive->n_kept_max);
    size_t n_pairs = (archive->n_channels_max + 1) / 2;
    size_t n_turns = SHOAL_ARCHIVE_ROPES * TOKENS * archive->n_rot / 2;
    w->x = shoal_calloc_aligned(TOKENS * (archive->n_channels_max + 1), sizeof *w->x);
    w->whole = shoal_calloc_aligned(TOKENS * 2 * n_pairs, sizeof *w->whole);
    w->sums = shoal_calloc_aligned(TOKENS * ROWS, sizeof *w->sums);
    w->codes = shoal_calloc_aligned(TOKENS * archive->n_kept_max, sizeof *w->codes);
    w->bytes = shoal_calloc(n_codes + 2 * ARCHIVE_WORDS_MAX, 1);
    w->cosine = shoal_calloc(n_turns, sizeof *w->cosine);
    w->sine = shoal_calloc(n_turns, sizeof *w->sine);
    w->sealed = shoal_calloc_aligned(shoal_archive_near_room(archive), 1);
    if (!w->x || !w->whole || !w->sums || !w->codes || !w->bytes || !w->cosine || !w->sine ||
        !w->sealed) {
        return SHOAL_E_NOMEM;
    }
    *ret_work = SHOAL_STEAL(w);
    return SHOAL_OK;
}

void shoal_archive_work_free(shoal_archive_work *work)
{
    if (work) {
        shoal_free(work->x);
        shoal_free(work->whole);
        shoal_free(work->sums);
        shoal_free(work->codes);
        shoal_free(work->bytes);
        shoal_free(work->cosine);
        shoal_free(work->sine);
        shoal_free(work->sealed);
        shoal_free(work);
    }
}

/* --- tokens and pages ------------------------------------------------------------------------- */

/* Exact for every finite number; loops of it become vectors. */
static inline float widen(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x7FFF) << 13;
    float value = 0;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112F;
    memcpy(&bits, &value, sizeof bits);
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest even, of at most 65504; loops of it become vectors. */
static inline uint16_t narrow(float value)
{
    uint32_t bits = 0;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    uint32_t normal = (bits - (112U << 23) + 0xFFF + (bits >> 13 & 1)) >> 13;
    /* Beside 0.5 a float's last place is that of a subnormal half. */
    float small = 0;
    memcpy(&small, &bits, sizeof small);
    small += 0.5F;
    uint32_t subnormal = 0;
    memcpy(&subnormal, &small, sizeof subnormal);
    subnormal -= 0x3F000000;
    uint32_t tiny = 0U - ((bits - (113U << 23)) >> 31);
    return (uint16_t)(sign | (subnormal & tiny) | (normal & ~tiny));
}

static void narrow_row(const float *x, uint16_t *ret)
{
    for (size_t t = 0; t < TOKENS; t++) {
        ret[t] = narrow(x[t]);
    }
}

static void rows_of_pages(const shoal_archive *a, const shoal_archive_group *info,
                          const uint8_t *pages, float *x)
{
    const uint16_t *page = (const uint16_t *)(const void *)pages;
    for (size_t head = 0; head < info->n_layers * a->n_heads; head++) {
        for (size_t i = 0; i < a->k_dim * TOKENS; i++) {
            x[i] = widen(page[i]);
        }
        x += a->k_dim * TOKENS;
        page += a->k_dim * TOKENS;
        for (size_t d = 0; d < a->v_dim; d++) {
            for (size_t t = 0; t < TOKENS; t++) {
                x[d * TOKENS + t] = widen(page[t * a->v_dim + d]);
            }
        }
        x += a->v_dim * TOKENS;
        page += a->v_dim * TOKENS;
    }
}

/* One head's rows to its part of a page. */
static void page_of_rows(const shoal_archive *a, const float *x, uint16_t *page)
{
    for (size_t d = 0; d < a->k_dim; d++) {
        narrow_row(x + d * TOKENS, page + d * TOKENS);
    }
    x += a->k_dim * TOKENS;
    page += a->k_dim * TOKENS;
    for (size_t d = 0; d < a->v_dim; d += TURNED) {
        /* Four channels at once, so that a token's are written together. */
        uint16_t rows[TURNED][TOKENS];
        uint16_t some[TOKENS][TURNED];
        size_t n = SHOAL_MIN(a->v_dim - d, (size_t)TURNED);
        memset(rows, 0, sizeof rows);
        for (size_t i = 0; i < n; i++) {
            narrow_row(x + (d + i) * TOKENS, rows[i]);
        }
        for (size_t t = 0; t < TOKENS; t++) {
            some[t][0] = rows[0][t];
            some[t][1] = rows[1][t];
            some[t][2] = rows[2][t];
            some[t][3] = rows[3][t];
        }
        for (size_t t = 0; t < TOKENS; t++) {
            if (n == TURNED) {
                memcpy(page + t * a->v_dim + d, some[t], sizeof some[t]);
            } else {
                memcpy(page + t * a->v_dim + d, some[t], n * sizeof some[t][0]);
            }
        }
    }
}

/* Cosines and sines of the block's positions under the rotations of a group; sign -1 turns back. */
static void turn_tables(const shoal_archive *a, shoal_archive_work *w,
                        const shoal_archive_group *info, size_t position, double sign)
{
    size_t pairs = a->n_rot / 2;
    bool wanted[SHOAL_ARCHIVE_ROPES] = {false};
    for (size_t layer = 0; layer < info->n_layers; layer++) {
        wanted[a->rope_of[info->first_layer + layer]] = true;
    }
    for (size_t i = 0; i < SHOAL_ARCHIVE_ROPES * pairs; i++) {
        double s = 0;
        double c = 0;
        if (!wanted[i / pairs]) {
            continue;
        }
        shoal_sincosd(a->freq[i] * (double)position, &s, &c);
        const double *ct = a->turns + i * 2 * TOKENS;
        const double *st = ct + TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            w->cosine[i * TOKENS + t] = (float)(c * ct[t] - s * st[t]);
            w->sine[i * TOKENS + t] = (float)(sign * (s * ct[t] + c * st[t]));
        }
    }
}

/* Turns one head's keys of all tokens. */
static void rotate(const shoal_archive *a, const shoal_archive_work *w, size_t layer, float *x)
{
    size_t pairs = a->n_rot / 2;
    size_t first = a->rope_of[layer] * pairs;
    x += a->rot_at * TOKENS;
    for (size_t i = 0; i < pairs; i++) {
        const float *c = w->cosine + (first + i) * TOKENS;
        const float *s = w->sine + (first + i) * TOKENS;
        float *p = x + (a->halves ? i : 2 * i) * TOKENS;
        float *q = p + (a->halves ? pairs : 1) * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            float one = p[t];
            float other = q[t];
            p[t] = one * c[t] - other * s[t];
            q[t] = one * s[t] + other * c[t];
        }
    }
}

/* --- first tokens ----------------------------------------------------------------------------- */

static size_t first_bytes(const shoal_archive_group *info, size_t position)
{
    return position == 0 ? SHOAL_ARCHIVE_FIRST * sizeof(uint16_t) * info->n_channels : 0;
}

/* Element i of token t in the pages. */
static size_t page_at(const shoal_archive *a, size_t t, size_t i)
{
    size_t head_size = a->k_dim + a->v_dim;
    size_t d = i % head_size;
    size_t at = i / head_size * head_size * TOKENS;
    return at + (d < a->k_dim ? d * TOKENS + t : a->k_dim * TOKENS + t * a->v_dim + (d - a->k_dim));
}

static void copy_first(const shoal_archive *a, const shoal_archive_group *info,
                       const uint8_t *pages, uint8_t *to)
{
    for (size_t i = 0; i < SHOAL_ARCHIVE_FIRST * info->n_channels; i++) {
        size_t at = page_at(a, i / info->n_channels, i % info->n_channels);
        memcpy(to + 2 * i, pages + 2 * at, 2);
    }
}

static void restore_first(const shoal_archive *a, const shoal_archive_group *info,
                          const uint8_t *from, uint8_t *pages)
{
    for (size_t i = 0; i < SHOAL_ARCHIVE_FIRST * info->n_channels; i++) {
        size_t at = page_at(a, i / info->n_channels, i % info->n_channels);
        memcpy(pages + 2 * at, from + 2 * i, 2);
    }
}

/* --- units ------------------------------------------------------------------------------------ */

/* Takes the mean off, and what is left to whole numbers: each token has a unit of its own. */
static void whole_channels(const archive_group *g, shoal_archive_work *w, float ret_unit[TOKENS])
{
    size_t n = g->info.n_channels;
    float most[TOKENS] = {0};
    float inverse[TOKENS];
    for (size_t i = 0; i < n; i++) {
        float *x = w->x + i * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            x[t] -= g->mean[i];
            float size = x[t] < 0 ? -x[t] : x[t];
            most[t] = size > most[t] ? size : most[t];
        }
    }
    for (size_t t = 0; t < TOKENS; t++) {
        bool none = most[t] < 1e-30F;
        ret_unit[t] = none ? 0 : most[t] / CHANNEL_MAX;
        inverse[t] = none ? 0 : CHANNEL_MAX / most[t];
    }
    memset(w->x + n * TOKENS, 0, TOKENS * sizeof *w->x);
    for (size_t i = 0; i < n; i += 2) {
        const float *x = w->x + i * TOKENS;
        int16_t *to = w->whole + i * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            float a = x[t] * inverse[t];
            float b = x[TOKENS + t] * inverse[t];
            to[2 * t] = (int16_t)(int)(a + (a < 0 ? -0.5F : 0.5F));
            to[2 * t + 1] = (int16_t)(int)(b + (b < 0 ? -0.5F : 0.5F));
        }
    }
}

/* Channels to codes. Tokens before `from` say nothing. */
static void make_codes(const archive_group *g, const shoal_kernels *kernels, shoal_archive_work *w,
                       size_t from)
{
    float unit[TOKENS];
    size_t n = g->info.n_kept;
    whole_channels(g, w, unit);
    for (size_t c = 0; c < n; c++) {
        if (c % ROWS == 0) {
            kernels->mul_whole(SHOAL_MIN(n - c, (size_t)ROWS), (g->info.n_channels + 1) / 2,
                               g->analysis + c * g->analysis_stride, g->analysis_stride, w->whole,
                               w->sums);
        }
        const int32_t *sums = w->sums + c % ROWS * TOKENS;
        int16_t *codes = w->codes + c * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            float v = (float)sums[t] * (g->analysis_unit[c] * unit[t]);
            float size = (v < 0 ? -v : v) + SHOAL_ARCHIVE_ROUND;
            size = size < SHOAL_ARCHIVE_CODE_FAR ? size : SHOAL_ARCHIVE_CODE_FAR;
            codes[t] = (int16_t)(int)(v < 0 ? -size : size);
        }
        memset(codes, 0, from * sizeof *codes);
    }
}

shoal_status shoal_archive_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *pages, uint8_t *ret_unit, size_t *ret_n)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const archive_group *g = &archive->groups[group];
    const shoal_archive_group *info = &g->info;
    size_t head_floats = (archive->k_dim + archive->v_dim) * TOKENS;
    size_t n_first = first_bytes(info, position);
    if (!shoal_kv_finite_f16(pages, info->n_channels * TOKENS)) {
        return SHOAL_E_INVALID;
    }
    rows_of_pages(archive, info, pages, work->x);
    turn_tables(archive, work, info, position, -1);
    for (size_t head = 0; head < info->n_layers * archive->n_heads; head++) {
        rotate(archive, work, info->first_layer + head / archive->n_heads,
               work->x + head * head_floats);
    }
    make_codes(g, kernels, work, n_first ? SHOAL_ARCHIVE_FIRST : 0);
    if (n_first) {
        copy_first(archive, info, pages, ret_unit + ARCHIVE_HEADER_BYTES);
    }
    size_t n = ARCHIVE_HEADER_BYTES + n_first;
    n += shoal_archive_codes_put(archive, g, work->codes, ret_unit + n);
    shoal_archive_header_put(archive, ARCHIVE_MAGIC_UNIT, group, position, ret_unit, n);
    *ret_n = n;
    return SHOAL_OK;
}

/* What f16 holds; a token's rows are finite, see basis.c. */
static void clamp(size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] < 65504 ? x[i] : 65504;
        x[i] = v > -65504 ? v : -65504;
    }
}

/* Components to channels [first, first + n). */
static void make_channels(const archive_group *g, const shoal_kernels *kernels,
                          shoal_archive_work *w, size_t first, size_t n, float *x)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = first + i;
        if (i % ROWS == 0) {
            kernels->mul_whole(SHOAL_MIN(n - i, (size_t)ROWS), (g->info.n_kept + 1) / 2,
                               g->synthesis + at * g->synthesis_stride, g->synthesis_stride,
                               w->whole, w->sums);
        }
        const int32_t *sums = w->sums + i % ROWS * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            x[i * TOKENS + t] = (float)sums[t] * g->synthesis_unit[at] + g->mean[at];
        }
    }
    clamp(n * TOKENS, x);
}

shoal_status shoal_archive_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *unit, size_t n, uint8_t *ret_pages, shoal_err *err)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const archive_group *g = &archive->groups[group];
    const shoal_archive_group *info = &g->info;
    size_t n_first = first_bytes(info, position);
    size_t head_size = archive->k_dim + archive->v_dim;
    SHOAL_TRY(shoal_archive_header_check(archive, ARCHIVE_MAGIC_UNIT, group, position, unit, n,
                                         ARCHIVE_HEADER_BYTES + n_first, info->unit_bytes, err));
    const uint8_t *first = unit + ARCHIVE_HEADER_BYTES;
    size_t n_codes = n - ARCHIVE_HEADER_BYTES - n_first;
    if (n_first && !shoal_kv_finite_f16(first, n_first / 2)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: the first tokens hold what is no number");
    }
    if (n_codes > shoal_archive_codes_bytes(info->n_kept)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: %zu bytes of codes, at most %zu are possible", n_codes,
                             shoal_archive_codes_bytes(info->n_kept));
    }
    memcpy(work->bytes, first + n_first, n_codes);
    if (!shoal_archive_codes_get(archive, g, work->bytes, n_codes, work->whole)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: the codes do not end where the bytes do");
    }
    turn_tables(archive, work, info, position, 1);
    for (size_t head = 0; head < info->n_layers * archive->n_heads; head++) {
        make_channels(g, kernels, work, head * head_size, head_size, work->x);
        rotate(archive, work, info->first_layer + head / archive->n_heads, work->x);
        clamp(archive->k_dim * TOKENS, work->x);
        page_of_rows(archive, work->x, (uint16_t *)(void *)ret_pages + head * head_size * TOKENS);
    }
    if (n_first) {
        restore_first(archive, info, first, ret_pages);
    }
    return SHOAL_OK;
}
