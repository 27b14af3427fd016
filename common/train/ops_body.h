/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations of ops.h in vectors of SHOAL_OPS_LANES floats: the compiler's vector types, so
 * one text serves every tier. Included once by each tier's file, which sets the macros; its flags
 * let a product and a sum become one fma. No loop depends on where memory lies, so neither do sums.
 */
#include "common/kernels/math.h"
#include "common/train/ops_tiers.h"

#include <math.h>
#include <string.h>

#define OPS_INLINE static inline __attribute__((always_inline))
#define LANES      ((size_t)SHOAL_OPS_LANES)

typedef float vec __attribute__((vector_size(4 * SHOAL_OPS_LANES)));
typedef int32_t ints __attribute__((vector_size(4 * SHOAL_OPS_LANES)));
/* The same anywhere in memory. */
typedef float vec_at __attribute__((vector_size(4 * SHOAL_OPS_LANES), aligned(4), may_alias));

OPS_INLINE vec load(const float *p)
{
    return *(const vec_at *)p;
}

OPS_INLINE void store(float *p, vec x)
{
    *(vec_at *)p = x;
}

OPS_INLINE vec all(float x)
{
    return x - (vec){0};
}

OPS_INLINE vec choose(ints mask, vec yes, vec no)
{
    return (vec)((mask & (ints)yes) | (~mask & (ints)no));
}

OPS_INLINE float sum_of(vec x)
{
    float sum = 0;
    for (size_t i = 0; i < LANES; i++) {
        sum += x[i];
    }
    return sum;
}

/* --- e^x, tanh ------------------------------------------------------------------------------- */

/* The steps of shoal_expf; x is first brought into [-87, 87], where no scale overflows. NaN stays.
 */
OPS_INLINE vec exp_of(vec x)
{
    x = choose(x < all(-87.0F), all(-87.0F), x);
    x = choose(x > all(87.0F), all(87.0F), x);
    vec shifted = x * 0x1.715476p+0F + 0x1.8p+23F;
    vec n = shifted - 0x1.8p+23F;
    vec r = n * -0x1.62e400p-1F + x;
    r = n * -0x1.7f7d1cp-20F + r;
    vec p = r * 0x1.6850e4p-10F + 0x1.123bccp-7F;
    p = p * r + 0x1.555b98p-5F;
    p = p * r + 0x1.55548ep-3F;
    p = p * r + 0x1.fffff8p-2F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    ints exponent = (ints)shifted - 0x4B400000;
    return p * (vec)((exponent + 127) << 23);
}

/* 1 - 2 / (e^2x + 1), and the series x - x^3 / 3 + 2 x^5 / 15 - 17 x^7 / 315 where that would
 * cancel. */
OPS_INLINE vec tanh_of(vec x)
{
    vec z = x * x;
    vec p = z * -0x1.ba1ba2p-5F + 0x1.111112p-3F;
    p = p * z - 0x1.555556p-2F;
    vec large = 1.0F - 2.0F / (exp_of(2.0F * x) + 1.0F);
    return choose(z < all(0x1p-4F), x + x * z * p, large);
}

/* What does not fill a vector goes through a padded copy. */
#define COPY_IN(to, from, n)  memcpy(&(to), from, (n) * sizeof(float))
#define COPY_OUT(to, from, n) memcpy(to, &(from), (n) * sizeof(float))

/* --- norms ----------------------------------------------------------------------------------- */

static float dot(size_t n, const float *x, const float *y)
{
    vec a = {0};
    vec b = {0};
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        a = load(x + i) * load(y + i) + a;
        b = load(x + i + LANES) * load(y + i + LANES) + b;
    }
    float sum = sum_of(a + b);
    for (; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

static float rmsnorm(size_t n, const float *x, const float *w, float eps, float *y)
{
    float r = 1.0F / sqrtf(dot(n, x, x) / (float)n + eps);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        store(y + i, load(x + i) * r * load(w + i));
    }
    for (; i < n; i++) {
        y[i] = x[i] * r * w[i];
    }
    return r;
}

static float dot3(size_t n, const float *x, const float *y, const float *z)
{
    vec a = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        a = load(x + i) * load(y + i) * load(z + i) + a;
    }
    float sum = sum_of(a);
    for (; i < n; i++) {
        sum += x[i] * y[i] * z[i];
    }
    return sum;
}

/* y_i = x_i r w_i and r = (mean x^2 + eps)^(-1/2): dx_i = r w_i dy_i - x_i r^3 / n sum_j w_j dy_j
 * x_j. */
static void rmsnorm_back(size_t n, const float *x, const float *w, float r, const float *dy,
                         const float *to, float *dx, float *dw)
{
    float pull = dot3(n, x, w, dy) * r * r * r / (float)n;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec g = load(dy + i);
        vec at = load(x + i);
        if (dw) {
            store(dw + i, load(dw + i) + g * at * r);
        }
        vec base = to ? load(to + i) : (vec){0};
        store(dx + i, base + (g * load(w + i) * r - at * pull));
    }
    for (; i < n; i++) {
        float g = dy[i];
        if (dw) {
            dw[i] += g * x[i] * r;
        }
        dx[i] = (to ? to[i] : 0) + (g * w[i] * r - x[i] * pull);
    }
}

/* --- rotation -------------------------------------------------------------------------------- */

static void rope(size_t n_heads, size_t stride, size_t n_rot, const float *restrict cos,
                 const float *restrict sin, float *restrict x)
{
    for (size_t head = 0; head < n_heads; head++) {
        float *restrict at = x + head * stride;
        for (size_t i = 0; i < n_rot / 2; i++) {
            float x0 = at[2 * i];
            float x1 = at[2 * i + 1];
            at[2 * i] = x0 * cos[i] - x1 * sin[i];
            at[2 * i + 1] = x0 * sin[i] + x1 * cos[i];
        }
    }
}

static void rope_halves(size_t n_heads, size_t stride, size_t n_rot, const float *restrict cos,
                        const float *restrict sin, float *restrict x)
{
    size_t half = n_rot / 2;
    for (size_t head = 0; head < n_heads; head++) {
        float *low = x + head * stride;
        float *high = low + half;
        size_t i = 0;
        for (; i + LANES <= half; i += LANES) {
            vec c = load(cos + i);
            vec s = load(sin + i);
            vec x0 = load(low + i);
            vec x1 = load(high + i);
            store(low + i, x0 * c - x1 * s);
            store(high + i, x0 * s + x1 * c);
        }
        for (; i < half; i++) {
            float x0 = low[i];
            float x1 = high[i];
            low[i] = x0 * cos[i] - x1 * sin[i];
            high[i] = x0 * sin[i] + x1 * cos[i];
        }
    }
}

/* --- gates and caps -------------------------------------------------------------------------- */

/* silu(g) = g s with s = 1 / (1 + e^-g); its derivative is s (1 + g (1 - s)). */
OPS_INLINE void swiglu_back_at(vec dy, vec *gate, vec *up)
{
    vec g = *gate;
    vec s = 1.0F / (1.0F + exp_of(-g));
    *gate = dy * *up * (s * (1.0F + g * (1.0F - s)));
    *up = dy * g * s;
}

/* gelu(g) = g s with s = 1 / (1 + e^-2u), u = g (l + c g^2); ds/dg = 2 s (1 - s) (l + 3 c g^2). */
OPS_INLINE void geglu_back_at(vec dy, vec *gate, vec *up)
{
    vec g = *gate;
    vec z = g * g;
    vec u = g * (z * SHOAL_GELU_CUBIC + SHOAL_GELU_LINEAR);
    vec s = 1.0F / (1.0F + exp_of(-2.0F * u));
    vec slope = z * (3.0F * SHOAL_GELU_CUBIC) + SHOAL_GELU_LINEAR;
    *gate = dy * *up * (s + g * 2.0F * s * (1.0F - s) * slope);
    *up = dy * g * s;
}

#define DEFINE_GATE_BACK(name)                                                                     \
    static void name(size_t n, const float *dy, float *gate, float *up)                            \
    {                                                                                              \
        size_t i = 0;                                                                              \
        for (; i + LANES <= n; i += LANES) {                                                       \
            vec g = load(gate + i);                                                                \
            vec u = load(up + i);                                                                  \
            name##_at(load(dy + i), &g, &u);                                                       \
            store(gate + i, g);                                                                    \
            store(up + i, u);                                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            vec d = {0};                                                                           \
            vec g = {0};                                                                           \
            vec u = {0};                                                                           \
            COPY_IN(d, dy + i, n - i);                                                             \
            COPY_IN(g, gate + i, n - i);                                                           \
            COPY_IN(u, up + i, n - i);                                                             \
            name##_at(d, &g, &u);                                                                  \
            COPY_OUT(gate + i, g, n - i);                                                          \
            COPY_OUT(up + i, u, n - i);                                                            \
        }                                                                                          \
    }
DEFINE_GATE_BACK(swiglu_back)
DEFINE_GATE_BACK(geglu_back)

/* The derivative of cap tanh(x / cap) is 1 - (y / cap)^2. */
static void softcap_back(size_t n, float cap, const float *y, float *dy)
{
    float inverse = 1.0F / cap;
    for (size_t i = 0; i < n; i++) {
        float t = y[i] * inverse;
        dy[i] *= 1.0F - t * t;
    }
}

static void add(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void add_scaled(size_t n, float s, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i] += s * x[i];
    }
}

/* --- softmax --------------------------------------------------------------------------------- */

OPS_INLINE vec capped(vec s, float scale, float cap)
{
    s *= scale;
    return cap > 0 ? cap * tanh_of(s * (1.0F / cap)) : s;
}

/* Lanes whose place at + lane is in [low, high). */
OPS_INLINE ints within(size_t at, size_t low, size_t high)
{
    ints place;
    for (size_t j = 0; j < LANES; j++) {
        place[j] = (int32_t)(at + j);
    }
    return (place >= (int32_t)low) & (place < (int32_t)high);
}

OPS_INLINE vec larger(vec x, vec y)
{
    return choose(x > y, x, y);
}

static float softmax(size_t low, size_t high, size_t end, float scale, float cap, float *s)
{
    size_t first = low / LANES * LANES;
    vec max = all(-INFINITY);
    memset(s, 0, first * sizeof *s);
    for (size_t i = first; i < end; i += LANES) {
        vec x = choose(within(i, low, high), capped(load(s + i), scale, cap), all(-INFINITY));
        store(s + i, x);
        max = larger(x, max);
    }
    float top = max[0];
    for (size_t j = 1; j < LANES; j++) {
        top = max[j] > top ? max[j] : top;
    }
    vec sums = {0};
    for (size_t i = first; i < end; i += LANES) {
        vec x = choose(within(i, low, high), exp_of(load(s + i) - top), all(0));
        store(s + i, x);
        sums += x;
    }
    float sum = sum_of(sums);
    float inverse = 1.0F / sum;
    for (size_t i = first; i < end; i += LANES) {
        store(s + i, load(s + i) * inverse);
    }
    return top + shoal_logf(sum);
}

static void softmax_back(size_t low, size_t high, size_t end, float scale, float cap, float log_sum,
                         float dot_p, float *s, float *dp)
{
    size_t first = low / LANES * LANES;
    float inverse = cap > 0 ? 1.0F / cap : 0.0F;
    memset(s, 0, first * sizeof *s);
    memset(dp, 0, first * sizeof *dp);
    for (size_t i = first; i < end; i += LANES) {
        ints in = within(i, low, high);
        vec y = capped(load(s + i), scale, cap);
        vec p = choose(in, exp_of(y - log_sum), all(0));
        vec t = y * inverse;
        vec d = choose(in, load(dp + i) - dot_p, all(0));
        store(s + i, p);
        store(dp + i, p * d * (1.0F - t * t) * scale);
    }
}

/* --- small products -------------------------------------------------------------------------- */

/* rows x (vectors of) columns of c in registers. */
OPS_INLINE void tile(size_t rows, size_t vectors, size_t k, const float *a, size_t a_row,
                     size_t a_col, const float *b, size_t b_row, bool more, float *c, size_t c_row)
{
    vec sum[4][2];
#pragma GCC unroll 4
    for (size_t i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (size_t j = 0; j < vectors; j++) {
            sum[i][j] = more ? load(c + i * c_row + j * LANES) : (vec){0};
        }
    }
    for (size_t l = 0; l < k; l++) {
#pragma GCC unroll 2
        for (size_t j = 0; j < vectors; j++) {
            vec right = load(b + l * b_row + j * LANES);
#pragma GCC unroll 4
            for (size_t i = 0; i < rows; i++) {
                sum[i][j] = a[i * a_row + l * a_col] * right + sum[i][j];
            }
        }
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < rows; i++) {
#pragma GCC unroll 2
        for (size_t j = 0; j < vectors; j++) {
            store(c + i * c_row + j * LANES, sum[i][j]);
        }
    }
}

/* All columns of some rows. */
OPS_INLINE void strip(size_t rows, size_t n, size_t k, const float *a, size_t a_row, size_t a_col,
                      const float *b, size_t b_row, bool more, float *c, size_t c_row)
{
    size_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES) {
        tile(rows, 2, k, a, a_row, a_col, b + j, b_row, more, c + j, c_row);
    }
    for (; j + LANES <= n; j += LANES) {
        tile(rows, 1, k, a, a_row, a_col, b + j, b_row, more, c + j, c_row);
    }
    for (; j < n; j++) {
        for (size_t i = 0; i < rows; i++) {
            float sum = more ? c[i * c_row + j] : 0;
            for (size_t l = 0; l < k; l++) {
                sum += a[i * a_row + l * a_col] * b[l * b_row + j];
            }
            c[i * c_row + j] = sum;
        }
    }
}

static void product(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_col,
                    const float *b, size_t b_row, bool more, float *c, size_t c_row)
{
    size_t i = 0;
    for (; i + 4 <= m; i += 4) {
        strip(4, n, k, a + i * a_row, a_row, a_col, b, b_row, more, c + i * c_row, c_row);
    }
    for (; i < m; i++) {
        strip(1, n, k, a + i * a_row, a_row, a_col, b, b_row, more, c + i * c_row, c_row);
    }
}

static void transpose(size_t n_rows, size_t n_cols, const float *x, size_t x_row, size_t n_pad,
                      float *y, size_t y_row)
{
    for (size_t c = 0; c < n_cols; c++) {
        for (size_t r = 0; r < n_rows; r++) {
            y[c * y_row + r] = x[r * x_row + c];
        }
        for (size_t r = n_rows; r < n_pad; r++) {
            y[c * y_row + r] = 0;
        }
    }
}

void SHOAL_OPS_INIT(shoal_ops *ops)
{
    *ops = (shoal_ops){
        .tier = SHOAL_OPS_TIER,
        .rmsnorm = rmsnorm,
        .rmsnorm_back = rmsnorm_back,
        .rope = rope,
        .rope_halves = rope_halves,
        .swiglu_back = swiglu_back,
        .geglu_back = geglu_back,
        .softcap_back = softcap_back,
        .add = add,
        .add_scaled = add_scaled,
        .dot = dot,
        .softmax = softmax,
        .softmax_back = softmax_back,
        .product = product,
        .transpose = transpose,
    };
}
