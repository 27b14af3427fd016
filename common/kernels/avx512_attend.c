/* SPDX-License-Identifier: Apache-2.0
 *
 * KV blocks and attention with AVX-512, for the tiles that attend_walk.c makes. A block's 32 keys
 * are two registers (tokens are the lanes), read once for up to eight lines; then its values
 * (channels are the lanes), whose last piece goes under a mask.
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/attend_walk.h"
#include "common/kernels/avx512_math.h"

#include <math.h>
#include <string.h>

/* Each count of lines gets its own registers. Emulated or instrumented there are none to gain, and
 * the compiler would take minutes over the copies. */
#if defined(SHOAL_SIMD_EMULATED) || defined(__SANITIZE_ADDRESS__)
#    define TILE_INLINE static
#else
#    define TILE_INLINE SHOAL_INLINE
#endif

enum {
    TOKENS = SHOAL_KV_BLOCK,
    LANES = 16,
    N_KEYS = TOKENS / LANES, /* registers of a channel's keys */
    TILE = 8,                /* lines together */
    WIDE = 4,                /* registers of channels at a time */
    CHUNK = 64,              /* channels of sealed keys at a time */
    NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC
};

typedef shoal_attend_line line_state;
typedef shoal_attend_step step;
typedef shoal_attend_span token_span;

/* One stored form. */
typedef struct form {
    size_t element; /* bytes */
    size_t scales;  /* bytes in front of a block, 0: no scales */
    __m512 (*load)(const void *p);
    __m512 (*load_some)(const void *p, __mmask16 mask);
    bool sealed;
} form;

/* One level of sealed blocks: codes 16 * half to 16 * half + 15 of a group. */
typedef __m512 codes_fn(const uint8_t *group, size_t half);

/* --- storing --------------------------------------------------------------------------------- */

/* A channel's keys lie a block apart, so only the rounding is done sixteen at a time. */
static void kv_store_f16(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                         void *kblock, void *vblock)
{
    uint16_t *keys = kblock;
    uint16_t *values = vblock;
    for (size_t d = 0; d < k_dim; d += LANES) {
        size_t n = k_dim - d < LANES ? k_dim - d : LANES;
        uint16_t half[LANES];
        __m512 x = _mm512_maskz_loadu_ps(avx512_first(n), k + d);
        _mm256_storeu_si256((__m256i *)(void *)half, _mm512_cvtps_ph(x, NEAREST));
        for (size_t i = 0; i < n; i++) {
            keys[(d + i) * TOKENS + slot] = half[i];
        }
    }
    for (size_t d = 0; d < v_dim; d += LANES) {
        __mmask16 mask = avx512_first(v_dim - d);
        __m256i rounded = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(mask, v + d), NEAREST);
        _mm256_mask_storeu_epi16(values + slot * v_dim + d, mask, rounded);
    }
}

/* --- scores ---------------------------------------------------------------------------------- */

/* Asks for n bytes of the next block. */
SHOAL_INLINE void bring(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += SHOAL_ATTEND_CACHE_LINE) {
        __builtin_prefetch(p + i, 0, 3);
    }
}

/* Dots of n_l lines with the 32 keys; lanes that a line does not see are masked later. */
TILE_INLINE void score_tile(const step *s, line_state *lines, form f, size_t n_l)
{
    __m512 acc[TILE][N_KEYS];
    for (size_t l = 0; l < n_l; l++) {
        acc[l][0] = _mm512_setzero_ps();
        acc[l][1] = _mm512_setzero_ps();
    }
    const size_t stride = TOKENS * f.element;
    const uint8_t *row = s->k + f.scales;
    const uint8_t *ahead = s->next_k;
    for (size_t d = 0; d < s->a->k_dim; d++) {
        bring(ahead, stride);
        __m512 low = f.load(row);
        __m512 high = f.load(row + LANES * f.element);
        for (size_t l = 0; l < n_l; l++) {
            __m512 q = _mm512_set1_ps(lines[l].q[d]);
            acc[l][0] = _mm512_fmadd_ps(q, low, acc[l][0]);
            acc[l][1] = _mm512_fmadd_ps(q, high, acc[l][1]);
        }
        row += stride;
        ahead += stride;
    }
    for (size_t l = 0; l < n_l; l++) {
        _mm512_storeu_ps(lines[l].weights, acc[l][0]);
        _mm512_storeu_ps(lines[l].weights + LANES, acc[l][1]);
    }
}

/* --- codes of sealed blocks ------------------------------------------------------------------ */

SHOAL_INLINE __m512 codes_q8(const uint8_t *group, size_t half)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(group + LANES * half));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

/* A lookup by the low four bits of a lane is the code as a float. */
SHOAL_INLINE __m512 codes_q4(const uint8_t *group, size_t half)
{
    const __m512 floats = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)group);
    __m512i codes = _mm512_cvtepu8_epi32(bytes);
    codes = half ? _mm512_srli_epi32(codes, 4) : codes;
    return _mm512_permutexvar_ps(codes, floats);
}

/* The low two bits by lookup, which ignores the two bits above them; the third is worth 4. */
SHOAL_INLINE __m512 codes_q3(const uint8_t *group, size_t half)
{
    const __m512 floats = _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512i shifts = half ? _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 6, 6, 6, 6, 6, 6, 6, 6)
                                : _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    uint32_t third = 0;
    memcpy(&third, group + 8, sizeof third);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)group);
    __m512i codes = _mm512_cvtepu8_epi32(_mm_unpacklo_epi64(bytes, bytes));
    __m512 low = _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), floats);
    __mmask16 high = (__mmask16)(third >> (LANES * half) & 0xFFFF);
    return _mm512_mask_add_ps(low, high, low, _mm512_set1_ps(4));
}

/* --- scores of sealed keys ------------------------------------------------------------------- */

/* Takes n channels into the dots, which begin at 0 with the first, and brings the same channels of
 * the next block, line by line: many at once would wait for each other. */
TILE_INLINE void score_channels(line_state *lines, const uint8_t *row, const uint8_t *ahead,
                                float scaled[TILE][CHUNK], size_t n, bool first, size_t group,
                                codes_fn *codes, size_t n_l)
{
    __m512 acc[TILE][N_KEYS];
    for (size_t l = 0; l < n_l; l++) {
        for (size_t i = 0; i < N_KEYS; i++) {
            acc[l][i] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(lines[l].weights + LANES * i);
        }
    }
    for (size_t d = 0; d < n; d++) {
        if (d * group % SHOAL_ATTEND_CACHE_LINE < group) {
            bring(ahead + d * group, 1);
        }
        __m512 low = codes(row + d * group, 0);
        __m512 high = codes(row + d * group, 1);
        for (size_t l = 0; l < n_l; l++) {
            __m512 q = _mm512_set1_ps(scaled[l][d]);
            acc[l][0] = _mm512_fmadd_ps(q, low, acc[l][0]);
            acc[l][1] = _mm512_fmadd_ps(q, high, acc[l][1]);
        }
    }
    for (size_t l = 0; l < n_l; l++) {
        for (size_t i = 0; i < N_KEYS; i++) {
            _mm512_storeu_ps(lines[l].weights + LANES * i, acc[l][i]);
        }
    }
}

TILE_INLINE void score_sealed(const step *s, line_state *lines, shoal_kv_level level,
                              codes_fn *codes, size_t n_l)
{
    const size_t k_dim = s->a->k_dim;
    const size_t group = shoal_kv_group_bytes(level);
    const uint16_t *scale = (const uint16_t *)(const void *)s->k;
    __m512 mins[TILE];
    for (size_t l = 0; l < n_l; l++) {
        mins[l] = _mm512_setzero_ps();
    }
    bring(s->next_k, shoal_kv_head_bytes(k_dim));
    bring(s->next_v, shoal_kv_head_bytes(TOKENS));
    for (size_t d = 0; d < k_dim; d += CHUNK) {
        float scaled[TILE][CHUNK];
        size_t n = k_dim - d < CHUNK ? k_dim - d : CHUNK;
        size_t at = shoal_kv_head_bytes(k_dim) + d * group;
        for (size_t i = 0; i < n; i += LANES) {
            __mmask16 mask = avx512_first(n - i);
            __m512 some = avx512_load_some_f16(scale + d + i, mask);
            __m512 min = avx512_load_some_f16(scale + k_dim + d + i, mask);
            for (size_t l = 0; l < n_l; l++) {
                __m512 q = avx512_load_some_f32(lines[l].q + d + i, mask);
                mins[l] = _mm512_fmadd_ps(q, min, mins[l]);
                _mm512_storeu_ps(scaled[l] + i, _mm512_mul_ps(q, some));
            }
        }
        score_channels(lines, s->k + at, s->next_k + at, scaled, n, d == 0, group, codes, n_l);
    }
    for (size_t l = 0; l < n_l; l++) {
        __m512 base = _mm512_set1_ps(avx512_tree16(mins[l]));
        for (size_t i = 0; i < N_KEYS; i++) {
            __m512 dots = _mm512_loadu_ps(lines[l].weights + LANES * i);
            _mm512_storeu_ps(lines[l].weights + LANES * i, _mm512_add_ps(dots, base));
        }
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

/* shoal_expf for x that is not above 0: what is not flushed to 0 is a normal number, so one factor
 * 2^n is as exact as two. */
SHOAL_INLINE __m512 exp_of_negative(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(0x1.8p+23F);
    __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p+0F), magic);
    __m512 n = _mm512_sub_ps(shifted, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e400p-1F), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20F), r);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0x1.6850e4p-10F), _mm512_set1_ps(0x1.123bccp-7F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.555b98p-5F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.55548ep-3F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.fffff8p-2F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0F));
    /* The low bits of shifted are n. */
    __m512i power = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    power = _mm512_add_epi32(power, _mm512_set1_epi32(127 << 23));
    __m512 y = _mm512_mul_ps(p, _mm512_castsi512_ps(power));
    __mmask16 low = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3F), _CMP_LE_OQ);
    return _mm512_mask_mov_ps(y, low, _mm512_setzero_ps());
}

/* The tokens that a line sees, 16 * i to 16 * i + 15 of them. */
SHOAL_INLINE __mmask16 seen(const step *s, const line_state *line, size_t i)
{
    if (s->all) {
        return 0xFFFF;
    }
    uint64_t bits = ((uint64_t)1 << line->t1) - ((uint64_t)1 << line->t0);
    return (__mmask16)(bits >> (LANES * i) & 0xFFFF);
}

/* Dots become scores and are taken into the line's maximum. Returns the step from the old one to
 * the new one. */
SHOAL_INLINE float raise_line(const step *s, line_state *line, form f)
{
    __m512 max = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < N_KEYS; i++) {
        __m512 x = _mm512_loadu_ps(line->weights + LANES * i);
        if (f.scales) {
            x = _mm512_mul_ps(avx512_load_f16(s->k + 2 * LANES * i), x);
        }
        x = _mm512_mul_ps(x, _mm512_set1_ps(s->a->scale));
        if (s->a->softcap != 0) {
            __m512 cap = _mm512_set1_ps(s->a->softcap);
            x = _mm512_mul_ps(cap, avx512_tanh(_mm512_div_ps(x, cap)));
        }
        _mm512_storeu_ps(line->weights + LANES * i, x);
        /* A NaN score never becomes the maximum. */
        __mmask16 above = _mm512_cmp_ps_mask(x, max, _CMP_GT_OQ);
        max = _mm512_mask_mov_ps(max, (__mmask16)(above & seen(s, line, i)), x);
    }
    float old_max = line->max;
    float new_max = avx512_max16(max);
    line->max = new_max > old_max ? new_max : old_max;
    return old_max - line->max;
}

/* Scales and minima of a block's values, where it has them. */
typedef struct value_heads {
    __m512 scale[N_KEYS], min[N_KEYS];
} value_heads;

SHOAL_INLINE value_heads heads_of(const uint8_t *v, form f)
{
    value_heads h;
    for (size_t i = 0; i < N_KEYS; i++) {
        bool scaled = f.scales || f.sealed;
        h.scale[i] = scaled ? avx512_load_f16(v + 2 * LANES * i) : _mm512_setzero_ps();
        h.min[i] = f.sealed ? avx512_load_f16(v + 2 * TOKENS + 2 * LANES * i) : h.scale[i];
    }
    return h;
}

/* Scores become weights. Returns the sum of the line's p_t down to the tree's 16 lanes. */
SHOAL_INLINE __m512 weigh_line(const step *s, line_state *line, const value_heads *h, form f)
{
    __m512 max = _mm512_set1_ps(line->max);
    __m512 p[N_KEYS];
    __m512 mins[N_KEYS];
    for (size_t i = 0; i < N_KEYS; i++) {
        __m512 x = _mm512_loadu_ps(line->weights + LANES * i);
        p[i] = _mm512_maskz_mov_ps(seen(s, line, i), exp_of_negative(_mm512_sub_ps(x, max)));
        __m512 weight = p[i];
        if (f.scales || f.sealed) {
            weight = _mm512_mul_ps(weight, h->scale[i]);
        }
        _mm512_storeu_ps(line->weights + LANES * i, weight);
        if (f.sealed) {
            mins[i] = _mm512_maskz_mov_ps(seen(s, line, i), _mm512_mul_ps(p[i], h->min[i]));
        }
    }
    if (f.sealed) {
        line->base = avx512_tree16(_mm512_add_ps(mins[0], mins[1]));
    }
    return _mm512_add_ps(p[0], p[1]);
}

/* All lines of a tile take each step together: a line alone would wait for its own results. */
TILE_INLINE void softmax_tile(const step *s, line_state *lines, form f, size_t n_l)
{
    float steps[LANES] = {0};
    __m512 sums[TILE];
    for (size_t l = 0; l < n_l; l++) {
        steps[l] = raise_line(s, &lines[l], f);
    }
    _mm512_storeu_ps(steps, exp_of_negative(_mm512_loadu_ps(steps)));
    value_heads h = heads_of(s->v, f);
    for (size_t l = 0; l < n_l; l++) {
        sums[l] = weigh_line(s, &lines[l], &h, f);
    }
    for (size_t l = 0; l < n_l; l++) {
        lines[l].correction = lines[l].begun ? steps[l] : 0.0F;
        lines[l].begun = true;
        lines[l].sum = fmaf(lines[l].sum, lines[l].correction, avx512_tree16(sums[l]));
    }
}

/* --- values ---------------------------------------------------------------------------------- */

/* The channels of n_w registers from d; where it is one register, those of the mask. */
TILE_INLINE void add_channels(const token_span *s, line_state *lines, size_t d, __mmask16 mask,
                              form f, size_t n_l, size_t n_w)
{
    __m512 acc[TILE][WIDE];
    for (size_t l = 0; l < n_l; l++) {
        __m512 correction = _mm512_set1_ps(s->correct ? lines[l].correction : 1.0F);
        for (size_t w = 0; w < n_w; w++) {
            __m512 out = _mm512_maskz_loadu_ps(mask, lines[l].out + d + LANES * w);
            acc[l][w] = _mm512_mul_ps(out, correction);
        }
    }
    const size_t stride = s->v_dim * f.element;
    const uint8_t *row = s->v + s->t0 * stride + d * f.element;
    /* Each piece of a row brings the same piece of the next block. */
    const uint8_t *ahead = s->next + s->t0 * stride + d * f.element;
    for (size_t t = s->t0; t < s->t1; t++) {
        bring(ahead, LANES * n_w * f.element);
        __m512 values[WIDE];
        for (size_t w = 0; w < n_w; w++) {
            const uint8_t *at = row + LANES * w * f.element;
            values[w] = n_w > 1 ? f.load(at) : f.load_some(at, mask);
        }
        for (size_t l = 0; l < n_l; l++) {
            __m512 weight = _mm512_set1_ps(lines[l].weights[t]);
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = _mm512_fmadd_ps(weight, values[w], acc[l][w]);
            }
        }
        row += stride;
        ahead += stride;
    }
    for (size_t l = 0; l < n_l; l++) {
        for (size_t w = 0; w < n_w; w++) {
            _mm512_mask_storeu_ps(lines[l].out + d + LANES * w, mask, acc[l][w]);
        }
    }
}

TILE_INLINE void add_tile(const token_span *s, line_state *lines, form f, size_t n_l, size_t n_w)
{
    size_t d = 0;
    for (; d + LANES * n_w <= s->v_dim; d += LANES * n_w) {
        add_channels(s, lines, d, 0xFFFF, f, n_l, n_w);
    }
    for (; d < s->v_dim; d += LANES) {
        add_channels(s, lines, d, avx512_first(s->v_dim - d), f, n_l, 1);
    }
}

/* --- sealed values --------------------------------------------------------------------------- */

/* The channels of n_w / 2 groups from d; those past the row's end are left alone. */
TILE_INLINE void add_codes(const token_span *s, line_state *lines, size_t d, shoal_kv_level level,
                           codes_fn *codes, size_t n_l, size_t n_w)
{
    const size_t bytes = shoal_kv_group_bytes(level);
    const size_t stride = shoal_kv_row_bytes(level, s->v_dim);
    __m512 acc[TILE][WIDE];
    __mmask16 masks[WIDE];
    for (size_t w = 0; w < n_w; w++) {
        size_t at = d + LANES * w;
        masks[w] = avx512_first(at < s->v_dim ? s->v_dim - at : 0);
    }
    for (size_t l = 0; l < n_l; l++) {
        __m512 correction = _mm512_set1_ps(lines[l].correction);
        __m512 base = _mm512_set1_ps(lines[l].base);
        for (size_t w = 0; w < n_w; w++) {
            __m512 out = _mm512_maskz_loadu_ps(masks[w], lines[l].out + d + LANES * w);
            acc[l][w] = s->correct ? _mm512_fmadd_ps(out, correction, base) : out;
        }
    }
    const uint8_t *row = s->v + s->t0 * stride + d / SHOAL_KV_GROUP * bytes;
    const uint8_t *ahead = s->next + s->t0 * stride + d / SHOAL_KV_GROUP * bytes;
    for (size_t t = s->t0; t < s->t1; t++) {
        bring(ahead, n_w / 2 * bytes);
        __m512 values[WIDE];
        for (size_t w = 0; w < n_w; w++) {
            values[w] = codes(row + w / 2 * bytes, w % 2);
        }
        for (size_t l = 0; l < n_l; l++) {
            __m512 weight = _mm512_set1_ps(lines[l].weights[t]);
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = _mm512_fmadd_ps(weight, values[w], acc[l][w]);
            }
        }
        row += stride;
        ahead += stride;
    }
    for (size_t l = 0; l < n_l; l++) {
        for (size_t w = 0; w < n_w; w++) {
            _mm512_mask_storeu_ps(lines[l].out + d + LANES * w, masks[w], acc[l][w]);
        }
    }
}

TILE_INLINE void add_sealed_tile(const token_span *s, line_state *lines, shoal_kv_level level,
                                 codes_fn *codes, size_t n_l, size_t n_w)
{
    size_t d = 0;
    for (; d + LANES * n_w <= s->v_dim; d += LANES * n_w) {
        add_codes(s, lines, d, level, codes, n_l, n_w);
    }
    for (; d < s->v_dim; d += SHOAL_KV_GROUP) {
        add_codes(s, lines, d, level, codes, n_l, 2);
    }
}

/* --- tiles ----------------------------------------------------------------------------------- */

SHOAL_INLINE void weigh_lines(const step *s, line_state *lines, size_t n_l, form f)
{
    switch (n_l) {
    case 1:
        score_tile(s, lines, f, 1);
        break;
    case 2:
        score_tile(s, lines, f, 2);
        break;
    case 3:
        score_tile(s, lines, f, 3);
        break;
    case 4:
        score_tile(s, lines, f, 4);
        break;
    case 5:
        score_tile(s, lines, f, 5);
        break;
    case 6:
        score_tile(s, lines, f, 6);
        break;
    case 7:
        score_tile(s, lines, f, 7);
        break;
    default:
        score_tile(s, lines, f, 8);
        break;
    }
    softmax_tile(s, lines, f, n_l);
}

/* Six lines of four registers of sums, the values and a weight fill the register file. */
SHOAL_INLINE void add_lines(const token_span *s, line_state *lines, size_t n_l, form f)
{
    switch (n_l) {
    case 1:
        add_tile(s, lines, f, 1, 4);
        break;
    case 2:
        add_tile(s, lines, f, 2, 4);
        break;
    case 3:
        add_tile(s, lines, f, 3, 4);
        break;
    case 4:
        add_tile(s, lines, f, 4, 4);
        break;
    case 5:
        add_tile(s, lines, f, 5, 4);
        break;
    case 6:
        add_tile(s, lines, f, 6, 4);
        break;
    case 7:
        add_tile(s, lines, f, 7, 2);
        break;
    default:
        add_tile(s, lines, f, 8, 2);
        break;
    }
}

SHOAL_INLINE void score_sealed_lines(const step *s, line_state *lines, size_t n_l,
                                     shoal_kv_level level, codes_fn *codes)
{
    switch (n_l) {
    case 1:
        score_sealed(s, lines, level, codes, 1);
        break;
    case 2:
        score_sealed(s, lines, level, codes, 2);
        break;
    case 3:
        score_sealed(s, lines, level, codes, 3);
        break;
    case 4:
        score_sealed(s, lines, level, codes, 4);
        break;
    case 5:
        score_sealed(s, lines, level, codes, 5);
        break;
    case 6:
        score_sealed(s, lines, level, codes, 6);
        break;
    case 7:
        score_sealed(s, lines, level, codes, 7);
        break;
    default:
        score_sealed(s, lines, level, codes, 8);
        break;
    }
}

SHOAL_INLINE void add_sealed_lines(const token_span *s, line_state *lines, size_t n_l,
                                   shoal_kv_level level, codes_fn *codes)
{
    switch (n_l) {
    case 1:
        add_sealed_tile(s, lines, level, codes, 1, 4);
        break;
    case 2:
        add_sealed_tile(s, lines, level, codes, 2, 4);
        break;
    case 3:
        add_sealed_tile(s, lines, level, codes, 3, 4);
        break;
    case 4:
        add_sealed_tile(s, lines, level, codes, 4, 4);
        break;
    case 5:
        add_sealed_tile(s, lines, level, codes, 5, 4);
        break;
    case 6:
        add_sealed_tile(s, lines, level, codes, 6, 4);
        break;
    case 7:
        add_sealed_tile(s, lines, level, codes, 7, 2);
        break;
    default:
        add_sealed_tile(s, lines, level, codes, 8, 2);
        break;
    }
}

/* --- stored forms ---------------------------------------------------------------------------- */

SHOAL_INLINE __m512 load_q8(const void *p)
{
    __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

SHOAL_INLINE __m512 load_some_q8(const void *p, __mmask16 mask)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, p)));
}

static const form f32 = {4, 0, avx512_load_f32, avx512_load_some_f32, false};
static const form f16 = {2, 0, avx512_load_f16, avx512_load_some_f16, false};
static const form q8 = {1, SHOAL_KV_Q8_SCALES, load_q8, load_some_q8, false};
static const form sealed = {.sealed = true};

static void weigh_f32(const step *s, line_state *lines, size_t n)
{
    weigh_lines(s, lines, n, f32);
}

static void add_f32(const token_span *s, line_state *lines, size_t n)
{
    add_lines(s, lines, n, f32);
}

static void attend_f32(const shoal_attend *a)
{
    shoal_attend_walk(a, &(shoal_attend_form){.tile = TILE, .weigh = weigh_f32, .add = add_f32});
}

static void weigh_f16(const step *s, line_state *lines, size_t n)
{
    weigh_lines(s, lines, n, f16);
}

static void add_f16(const token_span *s, line_state *lines, size_t n)
{
    add_lines(s, lines, n, f16);
}

static void attend_f16(const shoal_attend *a)
{
    shoal_attend_walk(a, &(shoal_attend_form){.tile = TILE, .weigh = weigh_f16, .add = add_f16});
}

static void weigh_q8(const step *s, line_state *lines, size_t n)
{
    weigh_lines(s, lines, n, q8);
}

static void add_q8(const token_span *s, line_state *lines, size_t n)
{
    add_lines(s, lines, n, q8);
}

static void attend_q8(const shoal_attend *a)
{
    const shoal_attend_form how = {
        .tile = TILE, .scales = SHOAL_KV_Q8_SCALES, .weigh = weigh_q8, .add = add_q8};
    shoal_attend_walk(a, &how);
}

static void weigh_sealed(const step *s, line_state *lines, size_t n)
{
    SHOAL_ATTEND_BY_LEVEL(s->a->k_level, score_sealed_lines, s, lines, n, codes_q8, codes_q4,
                          codes_q3)
    softmax_tile(s, lines, sealed, n);
}

static void add_sealed(const token_span *s, line_state *lines, size_t n)
{
    SHOAL_ATTEND_BY_LEVEL(s->level, add_sealed_lines, s, lines, n, codes_q8, codes_q4, codes_q3)
}

static void attend_sealed(const shoal_attend *a)
{
    const shoal_attend_form how = {.tile = TILE,
                                   .weigh = weigh_f16,
                                   .add = add_f16,
                                   .weigh_sealed = weigh_sealed,
                                   .add_sealed = add_sealed};
    shoal_attend_walk(a, &how);
}

void shoal_kernels_avx512_attend(shoal_kernels *kernels)
{
    kernels->kv_store_f16 = kv_store_f16;
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->attend_q8 = attend_q8;
    kernels->attend_sealed = attend_sealed;
}
