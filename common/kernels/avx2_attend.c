/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention with AVX2, for the tiles that attend_walk.c makes. A block's keys are read once for up
 * to six lines (tokens are the lanes of a register), then its values (channels are the lanes).
 */
#include "common/kernels/tiers_internal.h"

#include "common/kernels/attend_walk.h"
#include "common/kernels/avx2_codes.h"
#include "common/kernels/avx2_math.h"

#include <math.h>
#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    TILE = 6,  /* lines whose sums of two registers fit the register file */
    WIDE = 4,  /* registers of lanes at a time where the lines are few */
    CHUNK = 64 /* channels of sealed keys at a time */
};

typedef shoal_attend_line line_state;
typedef shoal_attend_step step;
typedef shoal_attend_span token_span;

/* One stored form. */
typedef struct form {
    size_t element; /* bytes */
    size_t scales;  /* bytes in front of a block, 0: no scales */
    __m256 (*load)(const void *p);
    float (*load_one)(const void *p);
    bool sealed;
} form;

/* One level of sealed blocks: codes 16 * half to 16 * half + 15 of a group. */
typedef void codes_fn(const uint8_t *group, size_t half, __m256 ret[2]);

/* --- scores ---------------------------------------------------------------------------------- */

/* Dots of n_l lines with the 32 keys, n_w registers of tokens at a time; lanes that a line does not
 * see are masked later. Brings the next block's keys nearer on the way. */
SHOAL_INLINE void score_tile(size_t k_dim, line_state *lines, const uint8_t *k, const uint8_t *next,
                             form f, size_t n_l, size_t n_w)
{
    const float *q[TILE];
    for (size_t l = 0; l < n_l; l++) {
        q[l] = lines[l].q;
    }
    for (size_t t = 0; t < TOKENS; t += 8 * n_w) {
        __m256 acc[TILE][WIDE];
        for (size_t l = 0; l < n_l; l++) {
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = _mm256_setzero_ps();
            }
        }
        const uint8_t *row = k + t * f.element;
        const uint8_t *ahead = next + 2 * t * f.element;
        for (size_t d = 0; d < k_dim; d++) {
            _mm_prefetch(ahead, _MM_HINT_T0);
            __m256 keys[WIDE];
            for (size_t w = 0; w < n_w; w++) {
                keys[w] = f.load(row + 8 * w * f.element);
            }
            for (size_t l = 0; l < n_l; l++) {
                __m256 qd = _mm256_broadcast_ss(q[l] + d);
                for (size_t w = 0; w < n_w; w++) {
                    acc[l][w] = _mm256_fmadd_ps(qd, keys[w], acc[l][w]);
                }
            }
            row += TOKENS * f.element;
            ahead += TOKENS * f.element;
        }
        for (size_t l = 0; l < n_l; l++) {
            for (size_t w = 0; w < n_w; w++) {
                _mm256_store_ps(lines[l].weights + t + 8 * w, acc[l][w]);
            }
        }
    }
}

/* --- scores of sealed keys ------------------------------------------------------------------- */

/* Eight halves or floats, or the n that there are and zeros. */
SHOAL_INLINE __m256 load_f16_of(const uint16_t *p, size_t n)
{
    uint16_t some[8] = {0};
    if (n < 8) {
        memcpy(some, p, n * sizeof *p);
        p = some;
    }
    return avx2_load_f16(p);
}

SHOAL_INLINE __m256 load_f32_of(const float *p, size_t n)
{
    float some[8] = {0};
    if (n < 8) {
        memcpy(some, p, n * sizeof *p);
        p = some;
    }
    return avx2_load_f32(p);
}

/* Takes n channels into the dots, which begin at 0 with the first. */
SHOAL_INLINE void score_channels(line_state *lines, const uint8_t *row, float scaled[TILE][CHUNK],
                                 size_t n, bool first, size_t group, codes_fn *codes, size_t n_l,
                                 size_t n_w)
{
    for (size_t t = 0; t < TOKENS; t += 8 * n_w) {
        __m256 acc[TILE][WIDE];
        for (size_t l = 0; l < n_l; l++) {
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] =
                    first ? _mm256_setzero_ps() : _mm256_load_ps(lines[l].weights + t + 8 * w);
            }
        }
        for (size_t d = 0; d < n; d++) {
            __m256 keys[WIDE];
            for (size_t w = 0; w < n_w; w += 2) {
                codes(row + d * group, (t + 8 * w) / 16, keys + w);
            }
            for (size_t l = 0; l < n_l; l++) {
                __m256 qd = _mm256_broadcast_ss(&scaled[l][d]);
                for (size_t w = 0; w < n_w; w++) {
                    acc[l][w] = _mm256_fmadd_ps(qd, keys[w], acc[l][w]);
                }
            }
        }
        for (size_t l = 0; l < n_l; l++) {
            for (size_t w = 0; w < n_w; w++) {
                _mm256_store_ps(lines[l].weights + t + 8 * w, acc[l][w]);
            }
        }
    }
}

/* Asks for n bytes of the next block. */
SHOAL_INLINE void bring(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch(p + i, _MM_HINT_T0);
    }
}

SHOAL_INLINE void score_sealed(const step *s, line_state *lines, shoal_kv_level level,
                               codes_fn *codes, size_t n_l, size_t n_w)
{
    const size_t k_dim = s->a->k_dim;
    const size_t group = shoal_kv_group_bytes(level);
    const uint16_t *scale = (const uint16_t *)(const void *)s->k;
    __m256 mins[TILE][2];
    for (size_t l = 0; l < n_l; l++) {
        mins[l][0] = _mm256_setzero_ps();
        mins[l][1] = _mm256_setzero_ps();
    }
    bring(s->next_k, shoal_kv_head_bytes(k_dim));
    bring(s->next_v, shoal_kv_head_bytes(TOKENS));
    for (size_t d = 0; d < k_dim; d += CHUNK) {
        alignas(32) float scaled[TILE][CHUNK];
        size_t n = k_dim - d < CHUNK ? k_dim - d : CHUNK;
        size_t at = shoal_kv_head_bytes(k_dim) + d * group;
        for (size_t i = 0; i < n; i += 8) {
            __m256 some = load_f16_of(scale + d + i, n - i);
            __m256 min = load_f16_of(scale + k_dim + d + i, n - i);
            for (size_t l = 0; l < n_l; l++) {
                __m256 q = load_f32_of(lines[l].q + d + i, n - i);
                mins[l][i / 8 % 2] = _mm256_fmadd_ps(q, min, mins[l][i / 8 % 2]);
                _mm256_store_ps(scaled[l] + i, _mm256_mul_ps(q, some));
            }
        }
        bring(s->next_k + at, n * group);
        score_channels(lines, s->k + at, scaled, n, d == 0, group, codes, n_l, n_w);
    }
    for (size_t l = 0; l < n_l; l++) {
        __m256 base = _mm256_set1_ps(avx2_tree16(mins[l][0], mins[l][1]));
        for (size_t i = 0; i < 4; i++) {
            __m256 dots = _mm256_load_ps(lines[l].weights + 8 * i);
            _mm256_store_ps(lines[l].weights + 8 * i, _mm256_add_ps(dots, base));
        }
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

/* shoal_expf for x that is not above 0: what is not flushed to 0 is a normal number, so one factor
 * 2^n is as exact as two. */
SHOAL_INLINE __m256 exp_of_negative(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(0x1.8p+23F);
    __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0F), magic);
    __m256 n = _mm256_sub_ps(shifted, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e400p-1F), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20F), r);
    __m256 p = _mm256_fmadd_ps(r, _mm256_set1_ps(0x1.6850e4p-10F), _mm256_set1_ps(0x1.123bccp-7F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555b98p-5F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.55548ep-3F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffff8p-2F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0F));
    /* The low bits of shifted are n. */
    __m256i power = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    power = _mm256_add_epi32(power, _mm256_set1_epi32(127 << 23));
    __m256 y = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-87.3F), _CMP_LE_OQ), y);
}

/* Lanes i * 8 to i * 8 + 7 of those from t0 to t1. */
SHOAL_INLINE __m256 seen(const line_state *line, size_t i)
{
    __m256i t = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                 _mm256_set1_epi32((int)(8 * i)));
    __m256i from = _mm256_cmpgt_epi32(t, _mm256_set1_epi32((int)line->t0 - 1));
    __m256i to = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)line->t1), t);
    return _mm256_castsi256_ps(_mm256_and_si256(from, to));
}

/* Dots become scores. */
SHOAL_INLINE void scale_line(const shoal_attend *a, line_state *line, const uint8_t *k, form f)
{
    for (size_t i = 0; i < 4; i++) {
        __m256 s = _mm256_load_ps(line->weights + 8 * i);
        if (f.scales) {
            s = _mm256_mul_ps(avx2_load_f16(k + 16 * i), s);
        }
        s = _mm256_mul_ps(s, _mm256_set1_ps(a->scale));
        _mm256_store_ps(line->weights + 8 * i, s);
    }
}

static void cap_line(const shoal_attend *a, line_state *line)
{
    __m256 cap = _mm256_set1_ps(a->softcap);
    for (size_t i = 0; i < 4; i++) {
        __m256 s = _mm256_load_ps(line->weights + 8 * i);
        s = _mm256_mul_ps(cap, avx2_tanh(_mm256_div_ps(s, cap)));
        _mm256_store_ps(line->weights + 8 * i, s);
    }
}

/* Takes the scores into the line's maximum. Returns the step from the old one to the new one. */
SHOAL_INLINE float raise_line(line_state *line, bool all)
{
    /* max(a, b) is a > b ? a : b, so a NaN score never becomes the maximum. */
    __m256 max = _mm256_set1_ps(-INFINITY);
    for (size_t i = 0; i < 4; i++) {
        __m256 s = _mm256_load_ps(line->weights + 8 * i);
        s = all ? s : _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s, seen(line, i));
        max = _mm256_max_ps(s, max);
    }
    __m128 old_max = _mm_set_ss(line->max);
    __m128 new_max = _mm_max_ss(_mm_set_ss(avx2_max8(max)), old_max);
    line->max = _mm_cvtss_f32(new_max);
    return _mm_cvtss_f32(_mm_sub_ss(old_max, new_max));
}

/* Scales and minima of a block's values, where it has them. */
typedef struct value_heads {
    __m256 scale[4], min[4];
} value_heads;

SHOAL_INLINE value_heads heads_of(const uint8_t *v, form f)
{
    value_heads h;
    for (size_t i = 0; i < 4; i++) {
        h.scale[i] = f.scales || f.sealed ? avx2_load_f16(v + 16 * i) : _mm256_setzero_ps();
        h.min[i] = f.sealed ? avx2_load_f16(v + 2 * TOKENS + 16 * i) : h.scale[i];
    }
    return h;
}

/* Scores become weights. Returns the sum of the line's p_t down to the tree's last four lanes. */
SHOAL_INLINE __m128 weigh_line(line_state *line, const value_heads *h, form f, bool all)
{
    __m256 max = _mm256_broadcast_ss(&line->max);
    __m256 p[4];
    for (size_t i = 0; i < 4; i++) {
        __m256 s = _mm256_load_ps(line->weights + 8 * i);
        p[i] = exp_of_negative(_mm256_sub_ps(s, max));
        p[i] = all ? p[i] : _mm256_and_ps(p[i], seen(line, i));
        bool scaled = f.scales || f.sealed;
        __m256 weight = scaled ? _mm256_mul_ps(p[i], h->scale[i]) : p[i];
        _mm256_store_ps(line->weights + 8 * i, weight);
    }
    if (f.sealed) {
        __m256 mins[4];
        for (size_t i = 0; i < 4; i++) {
            mins[i] = _mm256_mul_ps(p[i], h->min[i]);
            mins[i] = all ? mins[i] : _mm256_and_ps(mins[i], seen(line, i));
        }
        line->base = avx2_tree16(_mm256_add_ps(mins[0], mins[2]), _mm256_add_ps(mins[1], mins[3]));
    }
    __m256 eight = _mm256_add_ps(_mm256_add_ps(p[0], p[2]), _mm256_add_ps(p[1], p[3]));
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

/* All lines of a tile take each step together: a line alone would wait for its own results. */
SHOAL_INLINE void softmax_tile(const step *s, line_state *lines, size_t n_l, form f)
{
    alignas(32) float steps[8] = {0};
    __m128 fours[8];
    for (size_t l = 0; l < n_l; l++) {
        scale_line(s->a, &lines[l], s->k, f);
        if (s->a->softcap != 0) {
            cap_line(s->a, &lines[l]);
        }
        steps[l] = raise_line(&lines[l], s->all);
    }
    _mm256_store_ps(steps, exp_of_negative(_mm256_load_ps(steps)));
    value_heads h = heads_of(s->v, f);
    for (size_t l = 0; l < n_l; l++) {
        fours[l] = weigh_line(&lines[l], &h, f, s->all);
    }
    for (size_t l = 0; l < n_l; l++) {
        __m128 two = _mm_add_ps(fours[l], _mm_movehl_ps(fours[l], fours[l]));
        float sum = _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
        lines[l].correction = lines[l].begun ? steps[l] : 0.0F;
        lines[l].begun = true;
        lines[l].sum = fmaf(lines[l].sum, lines[l].correction, sum);
    }
}

/* --- values ---------------------------------------------------------------------------------- */

/* out = out * correction, then out = fma(p_t, v_t, out) for t ascending, in n_w registers of
 * channels from d. */
SHOAL_INLINE void add_channels(const token_span *s, line_state *lines, size_t d, form f, size_t n_l,
                               size_t n_w)
{
    __m256 acc[TILE][WIDE];
    for (size_t l = 0; l < n_l; l++) {
        __m256 correction = _mm256_set1_ps(s->correct ? lines[l].correction : 1.0F);
        for (size_t w = 0; w < n_w; w++) {
            acc[l][w] = _mm256_mul_ps(_mm256_loadu_ps(lines[l].out + d + 8 * w), correction);
        }
    }
    const size_t stride = s->v_dim * f.element;
    const uint8_t *row = s->v + s->t0 * stride + d * f.element;
    /* Channels are read in pieces of a row; each piece brings one line of cache of the next rows.
     */
    const uint8_t *ahead = s->next + s->t0 * stride + d * f.element;
    for (size_t t = s->t0; t < s->t1; t++) {
        _mm_prefetch(ahead, _MM_HINT_T0);
        __m256 values[WIDE];
        for (size_t w = 0; w < n_w; w++) {
            values[w] = f.load(row + 8 * w * f.element);
        }
        for (size_t l = 0; l < n_l; l++) {
            __m256 weight = _mm256_broadcast_ss(&lines[l].weights[t]);
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = _mm256_fmadd_ps(weight, values[w], acc[l][w]);
            }
        }
        row += stride;
        ahead += stride;
    }
    for (size_t l = 0; l < n_l; l++) {
        for (size_t w = 0; w < n_w; w++) {
            _mm256_storeu_ps(lines[l].out + d + 8 * w, acc[l][w]);
        }
    }
}

/* The same for one channel past the last full register. */
SHOAL_INLINE void add_channel(const token_span *s, line_state *line, size_t d, form f)
{
    float acc = line->out[d] * (s->correct ? line->correction : 1.0F);
    for (size_t t = s->t0; t < s->t1; t++) {
        acc = fmaf(line->weights[t], f.load_one(s->v + (t * s->v_dim + d) * f.element), acc);
    }
    line->out[d] = acc;
}

SHOAL_INLINE void add_tile(const token_span *s, line_state *lines, form f, size_t n_l, size_t n_w)
{
    size_t d = 0;
    for (; d + 8 * n_w <= s->v_dim; d += 8 * n_w) {
        add_channels(s, lines, d, f, n_l, n_w);
    }
    for (; d + 8 <= s->v_dim; d += 8) {
        add_channels(s, lines, d, f, n_l, 1);
    }
    for (; d < s->v_dim; d++) {
        for (size_t l = 0; l < n_l; l++) {
            add_channel(s, &lines[l], d, f);
        }
    }
}

/* --- sealed values --------------------------------------------------------------------------- */

/* Half or all of a group of channels, from d; those past the row's end go to and fro in some. */
SHOAL_INLINE void add_codes(const token_span *s, line_state *lines, size_t d, shoal_kv_level level,
                            codes_fn *codes, size_t n_l, size_t n_w)
{
    const size_t stride = shoal_kv_row_bytes(level, s->v_dim);
    const size_t group = d / SHOAL_KV_GROUP * shoal_kv_group_bytes(level);
    const size_t n = s->v_dim - d < 8 * n_w ? s->v_dim - d : 8 * n_w;
    alignas(32) float some[8 * WIDE] = {0};
    __m256 acc[TILE][WIDE];
    for (size_t l = 0; l < n_l; l++) {
        const float *from = lines[l].out + d;
        if (n < 8 * n_w) {
            memcpy(some, from, n * sizeof *some);
            from = some;
        }
        for (size_t w = 0; w < n_w; w++) {
            __m256 out = _mm256_loadu_ps(from + 8 * w);
            acc[l][w] = s->correct ? _mm256_fmadd_ps(out, _mm256_set1_ps(lines[l].correction),
                                                     _mm256_set1_ps(lines[l].base))
                                   : out;
        }
    }
    const uint8_t *row = s->v + s->t0 * stride + group;
    const uint8_t *ahead = s->next + s->t0 * stride + group;
    for (size_t t = s->t0; t < s->t1; t++) {
        _mm_prefetch(ahead, _MM_HINT_T0);
        __m256 values[WIDE];
        for (size_t w = 0; w < n_w; w += 2) {
            codes(row, (d + 8 * w) / 16 % 2, values + w);
        }
        for (size_t l = 0; l < n_l; l++) {
            __m256 weight = _mm256_broadcast_ss(&lines[l].weights[t]);
            for (size_t w = 0; w < n_w; w++) {
                acc[l][w] = _mm256_fmadd_ps(weight, values[w], acc[l][w]);
            }
        }
        row += stride;
        ahead += stride;
    }
    for (size_t l = 0; l < n_l; l++) {
        float *to = n < 8 * n_w ? some : lines[l].out + d;
        for (size_t w = 0; w < n_w; w++) {
            _mm256_storeu_ps(to + 8 * w, acc[l][w]);
        }
        if (to == some) {
            memcpy(lines[l].out + d, some, n * sizeof *some);
        }
    }
}

SHOAL_INLINE void add_sealed_tile(const token_span *s, line_state *lines, shoal_kv_level level,
                                  codes_fn *codes, size_t n_l, size_t n_w)
{
    for (size_t d = 0; d < s->v_dim; d += 8 * n_w) {
        add_codes(s, lines, d, level, codes, n_l, n_w);
    }
}

/* --- tiles ----------------------------------------------------------------------------------- */

SHOAL_INLINE void score_lines(const step *s, line_state *lines, size_t n_l, form f)
{
    const uint8_t *k = s->k + f.scales;
    switch (n_l) {
    case 1:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 1, 4);
        break;
    case 2:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 2, 4);
        break;
    case 3:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 3, 4);
        break;
    case 4:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 4, 2);
        break;
    case 5:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 5, 2);
        break;
    default:
        score_tile(s->a->k_dim, lines, k, s->next_k, f, 6, 2);
        break;
    }
}

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
        add_tile(s, lines, f, 4, 2);
        break;
    case 5:
        add_tile(s, lines, f, 5, 2);
        break;
    default:
        add_tile(s, lines, f, 6, 2);
        break;
    }
}

SHOAL_INLINE void weigh_lines(const step *s, line_state *lines, size_t n_l, form f)
{
    score_lines(s, lines, n_l, f);
    softmax_tile(s, lines, n_l, f);
}

SHOAL_INLINE void score_sealed_lines(const step *s, line_state *lines, size_t n_l,
                                     shoal_kv_level level, codes_fn *codes)
{
    switch (n_l) {
    case 1:
        score_sealed(s, lines, level, codes, 1, 4);
        break;
    case 2:
        score_sealed(s, lines, level, codes, 2, 4);
        break;
    case 3:
        score_sealed(s, lines, level, codes, 3, 2);
        break;
    case 4:
        score_sealed(s, lines, level, codes, 4, 2);
        break;
    case 5:
        score_sealed(s, lines, level, codes, 5, 2);
        break;
    default:
        score_sealed(s, lines, level, codes, 6, 2);
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
        add_sealed_tile(s, lines, level, codes, 3, 2);
        break;
    case 4:
        add_sealed_tile(s, lines, level, codes, 4, 2);
        break;
    case 5:
        add_sealed_tile(s, lines, level, codes, 5, 2);
        break;
    default:
        add_sealed_tile(s, lines, level, codes, 6, 2);
        break;
    }
}

/* --- stored forms ---------------------------------------------------------------------------- */

SHOAL_INLINE float one_f32(const void *p)
{
    return *(const float *)p;
}

SHOAL_INLINE float one_f16(const void *p)
{
    uint16_t half = 0;
    memcpy(&half, p, sizeof half);
    return _cvtsh_ss(half);
}

SHOAL_INLINE float one_q8(const void *p)
{
    return (float)*(const int8_t *)p;
}

SHOAL_INLINE __m256 load_q8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static const form f32 = {4, 0, avx2_load_f32, one_f32, false};
static const form f16 = {2, 0, avx2_load_f16, one_f16, false};
static const form q8 = {1, SHOAL_KV_Q8_SCALES, load_q8, one_q8, false};
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
    SHOAL_ATTEND_BY_LEVEL(s->a->k_level, score_sealed_lines, s, lines, n, avx2_codes_q8,
                          avx2_codes_q4, avx2_codes_q3)
    softmax_tile(s, lines, n, sealed);
}

static void add_sealed(const token_span *s, line_state *lines, size_t n)
{
    SHOAL_ATTEND_BY_LEVEL(s->level, add_sealed_lines, s, lines, n, avx2_codes_q8, avx2_codes_q4,
                          avx2_codes_q3)
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

void shoal_kernels_avx2_attend(shoal_kernels *kernels)
{
    kernels->attend_f32 = attend_f32;
    kernels->attend_f16 = attend_f16;
    kernels->attend_q8 = attend_q8;
    kernels->attend_sealed = attend_sealed;
}
