/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention with NEON. A line is one head of one row: a query, an output, a running maximum and
 * sum. Up to four lines walk through the blocks together, so that each key (tokens are the lanes)
 * and each value (channels are the lanes) is loaded and widened once for all of them. Read
 * attend_tile first.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/attend_share.h"
#include "common/kernels/math.h"
#include "common/kernels/neon_kv_codes.h"
#include "common/kernels/neon_math.h"

#include <math.h>
#include <stdbool.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    TILE = 4,             /* lines */
    WIDE = 4,             /* vectors of lanes at a time: with four lines sixteen sums */
    VECTORS = TOKENS / 4, /* of the tokens of a block */
    LANES = 4 * WIDE,
    CHUNK = 64 /* channels of sealed keys at a time */
};

/* One stored form. */
typedef struct form {
    size_t element; /* bytes */
    size_t scales;  /* bytes in front of a block, 0: no scales */
    void (*load_wide)(const uint8_t *p, float32x4_t v[WIDE]);
    float32x4_t (*load)(const uint8_t *p);
    float (*load_one)(const uint8_t *p);
    bool sealed; /* the blocks that the call says are */
} form;

/* One level of sealed blocks: codes 16 * half to 16 * half + 15 of a group. */
typedef void codes_fn(const uint8_t *group, size_t half, float32x4_t ret[WIDE]);

typedef struct line_state {
    const float *q;
    float *out;
    size_t first, end; /* positions it sees */
    size_t t0, t1;     /* tokens of the block at hand that it sees */
    float max;
    float sum;
    float correction;
    float base; /* sealed values: the minima's part of every channel */
    bool begun;
    float weights[TOKENS]; /* dots, then p_t times the scale of the value */
} line_state;

/* A block's keys and values. */
typedef struct block_pair {
    const uint8_t *k;
    const uint8_t *v;
    bool sealed;
} block_pair;

/* --- scores ---------------------------------------------------------------------------------- */

/* Dots of n_l lines with the 32 keys; lanes that a line does not see are left out later. */
SHOAL_INLINE void score(size_t k_dim, line_state *lines, const uint8_t *k, form f, size_t n_l)
{
    for (size_t t = 0; t < TOKENS; t += LANES) {
        float32x4_t acc[TILE][WIDE];
        for (size_t i = 0; i < n_l * WIDE; i++) {
            acc[i / WIDE][i % WIDE] = vdupq_n_f32(0.0F);
        }
        const uint8_t *row = k + t * f.element;
        for (size_t d = 0; d < k_dim; d++, row += TOKENS * f.element) {
            float32x4_t keys[WIDE];
            f.load_wide(row, keys);
            for (size_t l = 0; l < n_l; l++) {
                float32x4_t q = vld1q_dup_f32(lines[l].q + d);
                for (size_t w = 0; w < WIDE; w++) {
                    acc[l][w] = vfmaq_f32(acc[l][w], q, keys[w]);
                }
            }
        }
        for (size_t l = 0; l < n_l; l++) {
            for (size_t w = 0; w < WIDE; w++) {
                vst1q_f32(lines[l].weights + t + 4 * w, acc[l][w]);
            }
        }
    }
}

/* --- scores of sealed keys ------------------------------------------------------------------- */

/* Four halves or floats, or the n that there are and zeros. */
SHOAL_INLINE float32x4_t load_f16_of(const uint16_t *p, size_t n)
{
    uint16_t some[4] = {0};
    if (n < 4) {
        memcpy(some, p, n * sizeof *p);
        p = some;
    }
    return neon_load_f16(p);
}

SHOAL_INLINE float32x4_t load_f32_of(const float *p, size_t n)
{
    float some[4] = {0};
    if (n < 4) {
        memcpy(some, p, n * sizeof *p);
        p = some;
    }
    return neon_load_f32(p);
}

/* Takes n channels into the dots, which begin at 0 with the first. */
SHOAL_INLINE void score_channels(line_state *lines, const uint8_t *row, float scaled[TILE][CHUNK],
                                 size_t n, bool first, size_t group, codes_fn *codes, size_t n_l)
{
    for (size_t t = 0; t < TOKENS; t += LANES) {
        float32x4_t acc[TILE][WIDE];
        for (size_t i = 0; i < n_l * WIDE; i++) {
            const float *dots = lines[i / WIDE].weights + t + 4 * (i % WIDE);
            acc[i / WIDE][i % WIDE] = first ? vdupq_n_f32(0.0F) : vld1q_f32(dots);
        }
        for (size_t d = 0; d < n; d++) {
            float32x4_t keys[WIDE];
            codes(row + d * group, t / LANES, keys);
            for (size_t l = 0; l < n_l; l++) {
                float32x4_t q = vld1q_dup_f32(&scaled[l][d]);
                for (size_t w = 0; w < WIDE; w++) {
                    acc[l][w] = vfmaq_f32(acc[l][w], q, keys[w]);
                }
            }
        }
        for (size_t i = 0; i < n_l * WIDE; i++) {
            vst1q_f32(lines[i / WIDE].weights + t + 4 * (i % WIDE), acc[i / WIDE][i % WIDE]);
        }
    }
}

SHOAL_INLINE void score_sealed(size_t k_dim, line_state *lines, const uint8_t *k,
                               shoal_kv_level level, codes_fn *codes, size_t n_l)
{
    const size_t group = shoal_kv_group_bytes(level);
    const uint16_t *scale = (const uint16_t *)(const void *)k;
    const uint8_t *rows = k + shoal_kv_head_bytes(k_dim);
    float32x4_t mins[TILE][4];
    for (size_t i = 0; i < n_l * 4; i++) {
        mins[i / 4][i % 4] = vdupq_n_f32(0.0F);
    }
    for (size_t d = 0; d < k_dim; d += CHUNK) {
        float scaled[TILE][CHUNK];
        size_t n = k_dim - d < CHUNK ? k_dim - d : CHUNK;
        for (size_t i = 0; i < n; i += 4) {
            float32x4_t some = load_f16_of(scale + d + i, n - i);
            float32x4_t min = load_f16_of(scale + k_dim + d + i, n - i);
            for (size_t l = 0; l < n_l; l++) {
                float32x4_t q = load_f32_of(lines[l].q + d + i, n - i);
                mins[l][i / 4 % 4] = vfmaq_f32(mins[l][i / 4 % 4], q, min);
                vst1q_f32(scaled[l] + i, vmulq_f32(q, some));
            }
        }
        score_channels(lines, rows + d * group, scaled, n, d == 0, group, codes, n_l);
    }
    for (size_t l = 0; l < n_l; l++) {
        float32x4_t base = vdupq_n_f32(neon_tree16(mins[l]));
        for (size_t t = 0; t < TOKENS; t += 4) {
            vst1q_f32(lines[l].weights + t, vaddq_f32(vld1q_f32(lines[l].weights + t), base));
        }
    }
}

SHOAL_INLINE void score_level(const shoal_attend *a, line_state *lines, const uint8_t *k,
                              size_t n_l)
{
    switch (a->k_level) {
    case SHOAL_KV_LEVEL_Q8:
        score_sealed(a->k_dim, lines, k, SHOAL_KV_LEVEL_Q8, neon_kv_codes_q8, n_l);
        break;
    case SHOAL_KV_LEVEL_Q4:
        score_sealed(a->k_dim, lines, k, SHOAL_KV_LEVEL_Q4, neon_kv_codes_q4, n_l);
        break;
    case SHOAL_KV_LEVEL_Q3:
        score_sealed(a->k_dim, lines, k, SHOAL_KV_LEVEL_Q3, neon_kv_codes_q3, n_l);
        break;
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

/* Lanes of vector i whose tokens the line sees. */
SHOAL_INLINE uint32x4_t seen(const line_state *line, size_t i)
{
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    uint32x4_t t = vaddq_u32(vld1q_u32(lanes), vdupq_n_u32((uint32_t)(4 * i)));
    uint32x4_t from = vcgeq_u32(t, vdupq_n_u32((uint32_t)line->t0));
    return vandq_u32(from, vcltq_u32(t, vdupq_n_u32((uint32_t)line->t1)));
}

/* Scores from the dots of vector i. */
SHOAL_INLINE float32x4_t scores(const shoal_attend *a, const line_state *line, const uint8_t *k,
                                form f, size_t i)
{
    float32x4_t s = vld1q_f32(line->weights + 4 * i);
    if (f.scales) {
        s = vmulq_f32(neon_load_f16(k + 8 * i), s);
    }
    s = vmulq_f32(s, vdupq_n_f32(a->scale));
    if (a->softcap != 0) {
        float32x4_t cap = vdupq_n_f32(a->softcap);
        s = vmulq_f32(cap, neon_tanh(vdivq_f32(s, cap)));
    }
    return s;
}

/* Dots become weights, and the line's maximum and sum go on. */
SHOAL_INLINE void softmax_line(const shoal_attend *a, line_state *line, block_pair b, form f)
{
    float32x4_t s[VECTORS];
    float32x4_t max = vdupq_n_f32(line->max);
    for (size_t i = 0; i < VECTORS; i++) {
        s[i] = scores(a, line, b.k, f, i);
        /* A NaN never becomes the maximum. */
        uint32x4_t more = vandq_u32(seen(line, i), vcgtq_f32(s[i], max));
        max = vbslq_f32(more, s[i], max);
    }
    float new_max = vmaxvq_f32(max);
    line->correction = line->begun ? shoal_expf(line->max - new_max) : 0.0F;
    for (size_t i = 0; i < VECTORS; i++) {
        float32x4_t p = neon_exp(vsubq_f32(s[i], vdupq_n_f32(new_max)));
        s[i] = vbslq_f32(seen(line, i), p, vdupq_n_f32(0.0F));
        bool scaled = f.scales || b.sealed;
        float32x4_t weight = scaled ? vmulq_f32(s[i], neon_load_f16(b.v + 8 * i)) : s[i];
        vst1q_f32(line->weights + 4 * i, weight);
    }
    if (b.sealed) {
        float32x4_t mins[VECTORS];
        for (size_t i = 0; i < VECTORS; i++) {
            mins[i] = vmulq_f32(s[i], neon_load_f16(b.v + 2 * TOKENS + 8 * i));
            mins[i] = vbslq_f32(seen(line, i), mins[i], vdupq_n_f32(0.0F));
        }
        for (size_t i = 0; i < 4; i++) {
            mins[i] = vaddq_f32(mins[i], mins[i + 4]);
        }
        line->base = neon_tree16(mins);
    }
    float32x4_t lanes[4];
    for (size_t i = 0; i < 4; i++) {
        lanes[i] = vaddq_f32(s[i], s[i + 4]);
    }
    line->sum = fmaf(line->sum, line->correction, neon_tree16(lanes));
    line->max = new_max;
    line->begun = true;
}

/* --- values ---------------------------------------------------------------------------------- */

/* out = out * correction, then out = fma(p_t, v_t, out) for t ascending, in n_w vectors of channels
 * from d. All lines see the same tokens. */
SHOAL_INLINE void add_channels(line_state *lines, const uint8_t *v, size_t v_dim, size_t d, form f,
                               size_t n_l, size_t n_w)
{
    float32x4_t acc[TILE][WIDE];
    for (size_t l = 0; l < n_l; l++) {
        float32x4_t correction = vdupq_n_f32(lines[l].correction);
        for (size_t w = 0; w < n_w; w++) {
            acc[l][w] = vmulq_f32(vld1q_f32(lines[l].out + d + 4 * w), correction);
        }
    }
    for (size_t t = lines[0].t0; t < lines[0].t1; t++) {
        const uint8_t *row = v + (t * v_dim + d) * f.element;
        float32x4_t values[WIDE];
        if (n_w == WIDE) {
            f.load_wide(row, values);
        } else {
            values[0] = f.load(row);
        }
        for (size_t l = 0; l < n_l; l++) {
            float32x4_t p = vld1q_dup_f32(lines[l].weights + t);
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = vfmaq_f32(acc[l][w], p, values[w]);
            }
        }
    }
    for (size_t l = 0; l < n_l; l++) {
        for (size_t w = 0; w < n_w; w++) {
            vst1q_f32(lines[l].out + d + 4 * w, acc[l][w]);
        }
    }
}

SHOAL_INLINE void add_values(line_state *lines, const uint8_t *v, size_t v_dim, form f, size_t n_l)
{
    size_t d = 0;
    for (; d + LANES <= v_dim; d += LANES) {
        add_channels(lines, v, v_dim, d, f, n_l, WIDE);
    }
    for (; d + 4 <= v_dim; d += 4) {
        add_channels(lines, v, v_dim, d, f, n_l, 1);
    }
    for (; d < v_dim; d++) {
        for (size_t l = 0; l < n_l; l++) {
            float acc = lines[l].out[d] * lines[l].correction;
            for (size_t t = lines[l].t0; t < lines[l].t1; t++) {
                float value = f.load_one(v + (t * v_dim + d) * f.element);
                acc = fmaf(lines[l].weights[t], value, acc);
            }
            lines[l].out[d] = acc;
        }
    }
}

/* --- sealed values --------------------------------------------------------------------------- */

/* Half a group of channels, from d; those past the row's end go to and fro in some. */
SHOAL_INLINE void add_codes(line_state *lines, const uint8_t *v, size_t v_dim, size_t d,
                            shoal_kv_level level, codes_fn *codes, size_t n_l)
{
    const size_t stride = shoal_kv_row_bytes(level, v_dim);
    const size_t n = v_dim - d < LANES ? v_dim - d : LANES;
    float some[LANES] = {0};
    float32x4_t acc[TILE][WIDE];
    v += d / SHOAL_KV_GROUP * shoal_kv_group_bytes(level);
    for (size_t l = 0; l < n_l; l++) {
        const float *from = lines[l].out + d;
        if (n < LANES) {
            memcpy(some, from, n * sizeof *some);
            from = some;
        }
        for (size_t w = 0; w < WIDE; w++) {
            acc[l][w] = vfmaq_f32(vdupq_n_f32(lines[l].base), vld1q_f32(from + 4 * w),
                                  vdupq_n_f32(lines[l].correction));
        }
    }
    for (size_t t = lines[0].t0; t < lines[0].t1; t++) {
        float32x4_t values[WIDE];
        codes(v + t * stride, d / LANES % 2, values);
        for (size_t l = 0; l < n_l; l++) {
            float32x4_t p = vld1q_dup_f32(lines[l].weights + t);
            for (size_t w = 0; w < WIDE; w++) {
                acc[l][w] = vfmaq_f32(acc[l][w], p, values[w]);
            }
        }
    }
    for (size_t l = 0; l < n_l; l++) {
        float *to = n < LANES ? some : lines[l].out + d;
        for (size_t w = 0; w < WIDE; w++) {
            vst1q_f32(to + 4 * w, acc[l][w]);
        }
        if (to == some) {
            memcpy(lines[l].out + d, some, n * sizeof *some);
        }
    }
}

SHOAL_INLINE void add_level(const shoal_attend *a, line_state *lines, const uint8_t *v, size_t n_l)
{
    v += shoal_kv_head_bytes(TOKENS);
    for (size_t d = 0; d < a->v_dim; d += LANES) {
        switch (a->v_level) {
        case SHOAL_KV_LEVEL_Q8:
            add_codes(lines, v, a->v_dim, d, SHOAL_KV_LEVEL_Q8, neon_kv_codes_q8, n_l);
            break;
        case SHOAL_KV_LEVEL_Q4:
            add_codes(lines, v, a->v_dim, d, SHOAL_KV_LEVEL_Q4, neon_kv_codes_q4, n_l);
            break;
        case SHOAL_KV_LEVEL_Q3:
            add_codes(lines, v, a->v_dim, d, SHOAL_KV_LEVEL_Q3, neon_kv_codes_q3, n_l);
            break;
        }
    }
}

/* --- tiles ----------------------------------------------------------------------------------- */

SHOAL_INLINE void add_block(const shoal_attend *a, line_state *lines, block_pair b, form f,
                            size_t n_l)
{
    if (b.sealed) {
        add_level(a, lines, b.v, n_l);
    } else {
        add_values(lines, b.v + f.scales, a->v_dim, f, n_l);
    }
}

/* One block for the n_l lines that see some of it. Values are shared where all see the same tokens,
 * which is everywhere but at the ends of different rows. */
SHOAL_INLINE void attend_block(const shoal_attend *a, line_state *lines, block_pair b, form f,
                               size_t n_l)
{
    if (b.sealed) {
        score_level(a, lines, b.k, n_l);
    } else {
        score(a->k_dim, lines, b.k + f.scales, f, n_l);
    }
    bool same = true;
    for (size_t l = 0; l < n_l; l++) {
        softmax_line(a, &lines[l], b, f);
        same = same && lines[l].t0 == lines[0].t0 && lines[l].t1 == lines[0].t1;
    }
    if (same) {
        add_block(a, lines, b, f, n_l);
        return;
    }
    for (size_t l = 0; l < n_l; l++) {
        add_block(a, &lines[l], b, f, 1);
    }
}

static size_t first_of(const shoal_attend *a, size_t row)
{
    size_t end = a->n_tokens + row;
    return a->window > 0 && end > a->window ? end - a->window : 0;
}

/* Lines n0 to n0 + n - 1, counted over rows and the heads of each. */
static void begin_lines(const shoal_attend *a, size_t n0, size_t n, line_state *lines)
{
    for (size_t l = 0; l < n; l++) {
        size_t row = (n0 + l) / a->n_heads;
        size_t head = (n0 + l) % a->n_heads;
        lines[l].first = first_of(a, row);
        lines[l].end = a->n_tokens + row;
        lines[l].q = a->q + row * a->q_stride + head * a->k_dim;
        lines[l].out = a->out + row * a->out_stride + head * a->v_dim;
        lines[l].max = -INFINITY;
        lines[l].sum = 0;
        lines[l].begun = false;
        memset(lines[l].out, 0, a->v_dim * sizeof(float));
    }
}

/* The lines that see something of the block at position `at`; rows see ever later positions, so
 * they are neighbours. Returns the first. */
static size_t lines_of_block(size_t at, size_t n, line_state *lines, size_t *ret_n)
{
    size_t from = n;
    size_t to = n;
    for (size_t l = 0; l < n; l++) {
        line_state *line = &lines[l];
        if (line->first < at + TOKENS && line->end > at) {
            line->t0 = line->first > at ? line->first - at : 0;
            line->t1 = line->end - at < TOKENS ? line->end - at : TOKENS;
            from = from < n ? from : l;
            to = l + 1;
        }
    }
    *ret_n = to - from;
    return from;
}

SHOAL_INLINE void attend_tile(const shoal_attend *a, size_t n0, size_t n, form f)
{
    line_state lines[TILE];
    begin_lines(a, n0, n, lines);
    size_t end = a->n_tokens + (n0 + n - 1) / a->n_heads;
    for (size_t b = first_of(a, n0 / a->n_heads) / TOKENS; b * TOKENS < end; b++) {
        block_pair block = {a->k_blocks[b], a->v_blocks[b],
                            f.sealed && b >= a->sealed_from && b < a->sealed_to};
        size_t n_l = 0;
        size_t from = lines_of_block(b * TOKENS, n, lines, &n_l);
        switch (n_l) {
        case 4:
            attend_block(a, lines + from, block, f, 4);
            break;
        case 3:
            attend_block(a, lines + from, block, f, 3);
            break;
        case 2:
            attend_block(a, lines + from, block, f, 2);
            break;
        default: /* one: the windows of neighbouring rows touch, so no block is without a line */
            attend_block(a, lines + from, block, f, 1);
            break;
        }
        for (size_t l = 0; a->shares && l < n; l++) {
            shoal_attend_share(a, n0 + l, b * TOKENS, lines[l].t1, lines[l].correction,
                               lines[l].weights);
        }
    }
    for (size_t l = 0; l < n; l++) {
        for (size_t d = 0; d < a->v_dim; d++) {
            lines[l].out[d] = lines[l].out[d] / lines[l].sum;
        }
        if (a->shares) {
            shoal_attend_share_end(a, n0 + l, lines[l].sum);
        }
    }
}

SHOAL_INLINE void attend(const shoal_attend *a, form f)
{
    size_t n = a->n_rows * a->n_heads;
    for (size_t at = 0; at < n; at += TILE) {
        attend_tile(a, at, n - at < TILE ? n - at : TILE, f);
    }
}

/* --- forms ----------------------------------------------------------------------------------- */

SHOAL_INLINE float32x4_t load_f32(const uint8_t *p)
{
    return neon_load_f32(p);
}

SHOAL_INLINE float32x4_t load_f16(const uint8_t *p)
{
    return neon_load_f16(p);
}

SHOAL_INLINE float32x4_t load_q8(const uint8_t *p)
{
    uint32_t four = 0;
    memcpy(&four, p, sizeof four);
    int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

SHOAL_INLINE void wide_f32(const uint8_t *p, float32x4_t v[WIDE])
{
    for (size_t w = 0; w < WIDE; w++) {
        v[w] = neon_load_f32(p + 16 * w);
    }
}

SHOAL_INLINE void wide_f16(const uint8_t *p, float32x4_t v[WIDE])
{
    for (size_t w = 0; w < WIDE; w++) {
        v[w] = neon_load_f16(p + 8 * w);
    }
}

SHOAL_INLINE void wide_q8(const uint8_t *p, float32x4_t v[WIDE])
{
    int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t low = vmovl_s8(vget_low_s8(codes));
    int16x8_t high = vmovl_high_s8(codes);
    v[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    v[1] = vcvtq_f32_s32(vmovl_high_s16(low));
    v[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    v[3] = vcvtq_f32_s32(vmovl_high_s16(high));
}

SHOAL_INLINE float one_f32(const uint8_t *p)
{
    float x = 0;
    memcpy(&x, p, sizeof x);
    return x;
}

SHOAL_INLINE float one_f16(const uint8_t *p)
{
    uint16_t half = 0;
    memcpy(&half, p, sizeof half);
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

SHOAL_INLINE float one_q8(const uint8_t *p)
{
    return (float)(int8_t)*p;
}

static void attend_f32(const shoal_attend *a)
{
    attend(a, (form){4, 0, wide_f32, load_f32, one_f32, false});
}

static void attend_f16(const shoal_attend *a)
{
    attend(a, (form){2, 0, wide_f16, load_f16, one_f16, false});
}

static void attend_q8(const shoal_attend *a)
{
    attend(a, (form){1, SHOAL_KV_Q8_SCALES, wide_q8, load_q8, one_q8, false});
}

static void attend_sealed(const shoal_attend *a)
{
    attend(a, (form){2, 0, wide_f16, load_f16, one_f16, true});
}

/* --- storing --------------------------------------------------------------------------------- */

SHOAL_INLINE uint16_t half_of(float x)
{
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}

static void kv_store_f16(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = (uint16_t *)vblock + slot * v_dim;
    for (size_t d = 0; d < k_dim; d++) {
        keys[d * TOKENS + slot] = half_of(k[d]);
    }
    size_t d = 0;
    for (; d + 4 <= v_dim; d += 4) {
        vst1_u16(values + d, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(v + d))));
    }
    for (; d < v_dim; d++) {
        values[d] = half_of(v[d]);
    }
}

void shoal_kernels_neon_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f16 = kv_store_f16;
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->attend_q8 = attend_q8;
    kernels->attend_sealed = attend_sealed;
}
