/* SPDX-License-Identifier: Apache-2.0
 *
 * One unit out and in. Bytes, all little-endian:
 *   0   u32  "SKA1"
 *   4   u32  the first bytes of the basis' hash
 *   8   u32  position of the first token
 *   12  u32  group
 *   16  u32  CRC-32C of all other bytes
 *   20  of position 0 alone: the first 4 tokens, [4][n_channels] f16, rotated as they were
 *   ..  four states, then words (codes.c)
 */
#include "common/archive/archive_internal.h"

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/kernels/math.h"
#include "common/kv/kv_move.h"

#include <string.h>

enum {
    MAGIC = 0x31414B53, /* "SKA1" */
    AT_BASIS = 4,
    AT_POSITION = 8,
    AT_GROUP = 12,
    AT_CRC = 16,
    TOKENS = ARCHIVE_TOKENS
};

struct shoal_archive_work {
    float *x;       /* (32, n_channels_max + 1) tokens */
    float *y;       /* (32, n_kept_max + 1) components */
    int16_t *codes; /* (n_kept_max, 32) */
    uint8_t *bytes; /* of codes that are decoded, and room to read past them */
    float *cosine;  /* (32, n_rot / 2) */
    float *sine;
};

shoal_status shoal_archive_work_new(const shoal_archive *archive, shoal_archive_work **ret_work)
{
    SHOAL_CLEANUP(shoal_archive_work_freep)
    shoal_archive_work *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        return SHOAL_E_NOMEM;
    }
    size_t n_codes = shoal_archive_codes_bytes(archive->n_kept_max);
    w->x = shoal_calloc_aligned(TOKENS * (archive->n_channels_max + 1), sizeof *w->x);
    w->y = shoal_calloc_aligned(TOKENS * (archive->n_kept_max + 1), sizeof *w->y);
    w->codes = shoal_calloc_aligned(TOKENS * archive->n_kept_max, sizeof *w->codes);
    w->bytes = shoal_calloc(n_codes + 2 * ARCHIVE_WORDS_MAX, 1);
    w->cosine = shoal_calloc(TOKENS * archive->n_rot / 2, sizeof *w->cosine);
    w->sine = shoal_calloc(TOKENS * archive->n_rot / 2, sizeof *w->sine);
    if (!w->x || !w->y || !w->codes || !w->bytes || !w->cosine || !w->sine) {
        return SHOAL_E_NOMEM;
    }
    *ret_work = SHOAL_STEAL(w);
    return SHOAL_OK;
}

void shoal_archive_work_free(shoal_archive_work *work)
{
    if (work) {
        shoal_free(work->x);
        shoal_free(work->y);
        shoal_free(work->codes);
        shoal_free(work->bytes);
        shoal_free(work->cosine);
        shoal_free(work->sine);
        shoal_free(work);
    }
}

static uint32_t unit_crc(const uint8_t *unit, size_t n)
{
    return shoal_crc32c(shoal_crc32c(0, unit, AT_CRC), unit + ARCHIVE_HEADER_BYTES,
                        n - ARCHIVE_HEADER_BYTES);
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

/* Pages to rows: a token's heads one after the other, each its key and its value. */
static void rows_of_pages(const shoal_archive *a, const shoal_archive_group *info,
                          const uint8_t *pages, size_t stride, float *x)
{
    const uint16_t *page = (const uint16_t *)(const void *)pages;
    for (size_t head = 0; head < info->n_layers * a->n_heads; head++) {
        float *to = x + head * (a->k_dim + a->v_dim);
        for (size_t t = 0; t < TOKENS; t++) {
            for (size_t d = 0; d < a->k_dim; d++) {
                to[t * stride + d] = widen(page[d * TOKENS + t]);
            }
        }
        page += a->k_dim * TOKENS;
        for (size_t t = 0; t < TOKENS; t++) {
            for (size_t d = 0; d < a->v_dim; d++) {
                to[t * stride + a->k_dim + d] = widen(page[t * a->v_dim + d]);
            }
        }
        page += a->v_dim * TOKENS;
    }
}

static void pages_of_rows(const shoal_archive *a, const shoal_kernels *kernels,
                          const shoal_archive_group *info, size_t stride, const float *x,
                          uint8_t *pages)
{
    size_t head_bytes = (a->k_dim + a->v_dim) * TOKENS * sizeof(uint16_t);
    for (size_t head = 0; head < info->n_layers * a->n_heads; head++) {
        const float *from = x + head * (a->k_dim + a->v_dim);
        uint8_t *to = pages + head * head_bytes;
        for (size_t t = 0; t < TOKENS; t++) {
            kernels->kv_store_f16(a->k_dim, a->v_dim, from + t * stride,
                                  from + t * stride + a->k_dim, t, to,
                                  to + a->k_dim * TOKENS * sizeof(uint16_t));
        }
    }
}

/* Cosines and sines of the block's positions under one rotation; sign -1 turns back. */
static void turn_tables(const shoal_archive *a, shoal_archive_work *w, size_t rope, size_t position,
                        double sign)
{
    size_t pairs = a->n_rot / 2;
    const double *turns = a->turns + rope * TOKENS * pairs * 2;
    for (size_t i = 0; i < pairs; i++) {
        double s = 0;
        double c = 0;
        shoal_sincosd(a->freq[rope * pairs + i] * (double)position, &s, &c);
        for (size_t t = 0; t < TOKENS; t++) {
            double ct = turns[2 * (t * pairs + i)];
            double st = turns[2 * (t * pairs + i) + 1];
            w->cosine[t * pairs + i] = (float)(c * ct - s * st);
            w->sine[t * pairs + i] = (float)(sign * (s * ct + c * st));
        }
    }
}

/* Turns the keys of all tokens by their positions, or back. */
static void rotate(const shoal_archive *a, const shoal_kernels *kernels, shoal_archive_work *w,
                   const shoal_archive_group *info, size_t position, double sign, size_t stride)
{
    size_t pairs = a->n_rot / 2;
    size_t head_size = a->k_dim + a->v_dim;
    for (size_t rope = 0; pairs > 0 && rope < SHOAL_ARCHIVE_ROPES; rope++) {
        bool made = false;
        for (size_t layer = 0; layer < info->n_layers; layer++) {
            if (a->rope_of[info->first_layer + layer] != rope) {
                continue;
            }
            if (!made) {
                turn_tables(a, w, rope, position, sign);
                made = true;
            }
            for (size_t t = 0; t < TOKENS; t++) {
                float *x = w->x + t * stride + layer * a->n_heads * head_size + a->rot_at;
                (a->halves ? kernels->rope_halves : kernels->rope)(
                    a->n_heads, head_size, a->n_rot, w->cosine + t * pairs, w->sine + t * pairs, x);
            }
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

static void product(const shoal_kernels *kernels, const float *panels, size_t n_rows, size_t k,
                    const float *x, size_t x_stride, float *y, size_t y_stride)
{
    shoal_gemm g = {.panels = panels,
                    .n_rows = n_rows,
                    .k = k,
                    .n_cols = TOKENS,
                    .x = x,
                    .x_stride = x_stride,
                    .y = y,
                    .y_stride = y_stride};
    kernels->gemm[SHOAL_PANEL_F32](&g, 0, (n_rows + SHOAL_PANEL_ROWS - 1) / SHOAL_PANEL_ROWS);
}

/* Components to codes, a component's tokens side by side. Tokens before `from` say nothing. */
static void quantise(const archive_group *g, size_t from, const float *y, size_t stride,
                     int16_t *codes)
{
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t c = 0; c < g->info.n_kept; c++) {
            float v = t < from ? 0 : y[t * stride + c] * g->inverse[c];
            float size = (v < 0 ? -v : v) + SHOAL_ARCHIVE_ROUND;
            int code = (int)(size < 32767 ? size : 32767);
            codes[c * TOKENS + t] = (int16_t)(v < 0 ? -code : code);
        }
    }
}

shoal_status shoal_archive_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *pages, uint8_t *ret_unit, size_t *ret_n)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const archive_group *g = &archive->groups[group];
    const shoal_archive_group *info = &g->info;
    size_t stride = info->n_channels + 1;
    size_t n_first = first_bytes(info, position);
    if (!shoal_kv_finite_f16(pages, info->n_channels * TOKENS)) {
        return SHOAL_E_INVALID;
    }
    rows_of_pages(archive, info, pages, stride, work->x);
    rotate(archive, kernels, work, info, position, -1, stride);
    for (size_t t = 0; t < TOKENS; t++) {
        work->x[t * stride + info->n_channels] = 1;
    }
    product(kernels, g->analysis, info->n_kept, stride, work->x, stride, work->y, info->n_kept);
    quantise(g, n_first ? SHOAL_ARCHIVE_FIRST : 0, work->y, info->n_kept, work->codes);
    shoal_le_put_u32(ret_unit, MAGIC);
    memcpy(ret_unit + AT_BASIS, archive->hash.bytes, 4);
    shoal_le_put_u32(ret_unit + AT_POSITION, (uint32_t)position);
    shoal_le_put_u32(ret_unit + AT_GROUP, (uint32_t)group);
    if (n_first) {
        copy_first(archive, info, pages, ret_unit + ARCHIVE_HEADER_BYTES);
    }
    size_t n = ARCHIVE_HEADER_BYTES + n_first;
    n += shoal_archive_codes_put(archive, g, work->codes, ret_unit + n);
    shoal_le_put_u32(ret_unit + AT_CRC, unit_crc(ret_unit, n));
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status check_header(const shoal_archive *archive, size_t group, size_t position,
                                 const uint8_t *unit, size_t n, shoal_err *err)
{
    const shoal_archive_group *info = &archive->groups[group].info;
    size_t least = ARCHIVE_HEADER_BYTES + first_bytes(info, position);
    if (n < least || n > info->unit_bytes) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: %zu bytes, a unit of this group has %zu to %zu", n,
                             least, info->unit_bytes);
    }
    if (shoal_le_u32(unit) != MAGIC || shoal_le_u32(unit + AT_CRC) != unit_crc(unit, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "archived KV: %s",
                             shoal_le_u32(unit) != MAGIC
                                 ? "these bytes do not begin as a unit does"
                                 : "the checksum is wrong: bytes have changed");
    }
    if (memcmp(unit + AT_BASIS, archive->hash.bytes, 4) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "archived KV: coded with basis %02x%02x%02x%02x, this one is "
                             "%02x%02x%02x%02x",
                             unit[4], unit[5], unit[6], unit[7], archive->hash.bytes[0],
                             archive->hash.bytes[1], archive->hash.bytes[2],
                             archive->hash.bytes[3]);
    }
    if (shoal_le_u32(unit + AT_POSITION) != position || shoal_le_u32(unit + AT_GROUP) != group) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "archived KV: a unit of group %u at token %u, wanted is group %zu at "
                             "token %zu",
                             shoal_le_u32(unit + AT_GROUP), shoal_le_u32(unit + AT_POSITION), group,
                             position);
    }
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

shoal_status shoal_archive_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                  shoal_archive_work *work, size_t group, size_t position,
                                  const uint8_t *unit, size_t n, uint8_t *ret_pages, shoal_err *err)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const archive_group *g = &archive->groups[group];
    const shoal_archive_group *info = &g->info;
    size_t n_first = first_bytes(info, position);
    size_t k = info->n_kept + 1;
    SHOAL_TRY(check_header(archive, group, position, unit, n, err));
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
    if (!shoal_archive_codes_get(archive, g, work->bytes, n_codes, k, work->y)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: the codes do not end where the bytes do");
    }
    for (size_t t = 0; t < TOKENS; t++) {
        work->y[t * k + info->n_kept] = 1;
    }
    product(kernels, g->synthesis, info->n_channels, k, work->y, k, work->x, info->n_channels);
    clamp(TOKENS * info->n_channels, work->x);
    rotate(archive, kernels, work, info, position, 1, info->n_channels);
    clamp(TOKENS * info->n_channels, work->x);
    pages_of_rows(archive, kernels, info, info->n_channels, work->x, ret_pages);
    if (n_first) {
        restore_first(archive, info, first, ret_pages);
    }
    return SHOAL_OK;
}
