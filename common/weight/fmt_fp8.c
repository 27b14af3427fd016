/* SPDX-License-Identifier: Apache-2.0
 *
 * FP8 E4M3 with a scale for each tile of 128 x 128: codes are an I8 tensor, scales a tensor beside
 * it (weight.h). A panel block is 128 elements of 16 rows: their scales, then [128][16] codes.
 */
#include "common/weight/format.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = SHOAL_PANEL_ROWS,
    TILE = SHOAL_FP8_TILE,
    PANEL_BLOCK = 64 + TILE * ROWS
};

static const float largest = 448.0F; /* of E4M3 */

static size_t n_tiles(size_t n)
{
    return (n + TILE - 1) / TILE;
}

/* --- tiles ----------------------------------------------------------------------------------- */

static shoal_status encode_tile(const float *x, size_t n_rows, size_t n_cols, size_t stride,
                                uint8_t *ret_codes, float *ret_scale)
{
    float amax = 0;
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < n_cols; i++) {
            float magnitude = fabsf(x[r * stride + i]);
            if (!isfinite(magnitude)) {
                return SHOAL_E_INVALID;
            }
            amax = fmaxf(amax, magnitude);
        }
    }
    float scale = amax / largest;
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t i = 0; i < n_cols; i++) {
            float v = scale > 0 ? x[r * stride + i] / scale : 0;
            ret_codes[r * stride + i] = shoal_f32_to_e4m3(v);
        }
    }
    *ret_scale = scale;
    return SHOAL_OK;
}

shoal_status shoal_fp8_encode(const float *x, size_t n_rows, size_t k, uint8_t *ret_codes,
                              float *ret_scales)
{
    SHOAL_ASSERT(n_rows <= TILE);
    for (size_t t = 0; t < n_tiles(k); t++) {
        size_t at = t * TILE;
        SHOAL_TRY(encode_tile(x + at, n_rows, SHOAL_MIN(k - at, (size_t)TILE), k, ret_codes + at,
                              &ret_scales[t]));
    }
    return SHOAL_OK;
}

void shoal_fp8_decode(const uint8_t *codes, const float *scales, size_t k, float *ret_x)
{
    for (size_t i = 0; i < k; i++) {
        ret_x[i] = scales[i / TILE] * shoal_e4m3_to_f32(codes[i]);
    }
}

/* --- the scales' tensor ---------------------------------------------------------------------- */

bool shoal_fp8_scale_name(shoal_str name, char ret_name[SHOAL_GGUF_NAME_MAX + 1])
{
    static const char end[] = ".weight";
    static const char more[] = "_scale";
    size_t n = name.length;
    if (n < sizeof end - 1 || n + sizeof more - 1 > SHOAL_GGUF_NAME_MAX ||
        memcmp(name.data + n - (sizeof end - 1), end, sizeof end - 1) != 0) {
        return false;
    }
    memcpy(ret_name, name.data, n);
    memcpy(ret_name + n, more, sizeof more);
    return true;
}

/* Names in errors come from the file: cut. */
#define NAME_ARGS(t) (int)SHOAL_MIN((t)->name.length, (size_t)64), (t)->name.data

static shoal_status check_scales(const shoal_gguf_tensor *t, const shoal_gguf_tensor *s,
                                 shoal_err *err)
{
    if (s->type != SHOAL_TYPE_F32 || s->packed || s->dims[0] != n_tiles((size_t)t->dims[0]) ||
        s->dims[1] != n_tiles((size_t)t->dims[1]) || s->dims[2] != t->dims[2] ||
        s->dims[3] != t->dims[3]) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %.*s: F32 of %zu x %zu is expected, a scale for each tile of "
                             "128 x 128 of its matrix",
                             NAME_ARGS(s), n_tiles((size_t)t->dims[0]),
                             n_tiles((size_t)t->dims[1]));
    }
    if (!shoal_format_f32.finite(s->data, (size_t)s->size_bytes / sizeof(float))) {
        return shoal_err_set(err, SHOAL_E_INVALID, "tensor %.*s: a scale is not finite",
                             NAME_ARGS(s));
    }
    return SHOAL_OK;
}

shoal_status shoal_fp8_scales(const shoal_gguf *gguf, const shoal_gguf_tensor *tensor,
                              const shoal_gguf_tensor **ret_scales, shoal_err *err)
{
    shoal_str format = {0};
    char name[SHOAL_GGUF_NAME_MAX + 1];
    if (shoal_gguf_get_str(gguf, SHOAL_FP8_KEY, &format, NULL) != SHOAL_OK ||
        format.length != strlen(SHOAL_FP8_FORMAT) ||
        memcmp(format.data, SHOAL_FP8_FORMAT, format.length) != 0) {
        return shoal_err_set(
            err, SHOAL_E_UNSUPPORTED,
            "tensor %.*s: I8 is known as FP8 codes only, and metadata " SHOAL_FP8_KEY
            " = " SHOAL_FP8_FORMAT " does not say so",
            NAME_ARGS(tensor));
    }
    bool named = shoal_fp8_scale_name(tensor->name, name);
    const shoal_gguf_tensor *scales = named ? shoal_gguf_find_tensor(gguf, name) : NULL;
    if (!scales) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %.*s: the F32 tensor of its scales, named ..weight_scale, is "
                             "missing",
                             NAME_ARGS(tensor));
    }
    SHOAL_TRY(check_scales(tensor, scales, err));
    *ret_scales = scales;
    return SHOAL_OK;
}

/* --- the format ------------------------------------------------------------------------------ */

static void pack_row(const uint8_t *blocks, size_t k, size_t r, uint8_t *panel)
{
    for (size_t i = 0; i < k; i++) {
        panel[i / TILE * PANEL_BLOCK + 64 + i % TILE * ROWS + r] = blocks[i];
    }
}

static void pack_scales(const uint8_t *scales, size_t k, size_t r, uint8_t *panel)
{
    for (size_t t = 0; t < n_tiles(k); t++) {
        memcpy(panel + t * PANEL_BLOCK + 4 * r, scales + 4 * t, 4);
    }
}

static void restore_row(const uint8_t *panel, size_t k, size_t r, uint8_t *ret_blocks)
{
    for (size_t i = 0; i < k; i++) {
        ret_blocks[i] = panel[i / TILE * PANEL_BLOCK + 64 + i % TILE * ROWS + r];
    }
}

static void unpack_row(const uint8_t *panel, size_t k, size_t r, float *ret_row)
{
    for (size_t i = 0; i < k; i++) {
        const uint8_t *block = panel + i / TILE * PANEL_BLOCK;
        float scale = 0;
        memcpy(&scale, block + 4 * r, 4);
        ret_row[i] = scale * shoal_e4m3_to_f32(block[64 + i % TILE * ROWS + r]);
    }
}

static bool finite_all(const uint8_t *blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((blocks[i] & 0x7F) == 0x7F) {
            return false;
        }
    }
    return true;
}

const shoal_format shoal_format_fp8 = {
    .type = SHOAL_TYPE_I8,
    .panel = SHOAL_PANEL_FP8,
    .pack_row = pack_row,
    .pack_scales = pack_scales,
    .restore_row = restore_row,
    .unpack_row = unpack_row,
    .finite = finite_all,
};
