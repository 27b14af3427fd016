/* SPDX-License-Identifier: Apache-2.0
 *
 * Polynomials and exact reductions only: no libm call but fma, which is one instruction or glibc's
 * exact emulation of it.
 */
#include "common/kernels/math.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static float float_of(uint32_t bits)
{
    float x = 0;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits = 0;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double x = 0;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint64_t bits_of_double(double x)
{
    uint64_t bits = 0;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* n = round(x / ln 2) by the 1.5 * 2^23 trick, r = x - n ln 2 in two pieces, then a polynomial of
 * degree 6 on |r| <= ln 2 / 2, scaled by 2^n. SIMD tiers repeat these steps lane by lane. */
float shoal_expf(float x)
{
    if (!(x > -87.3F)) {
        return x != x ? x : 0.0F;
    }
    if (x > 0x1.62e42ep+6F) {
        return INFINITY;
    }
    float shifted = fmaf(x, 0x1.715476p+0F, 0x1.8p+23F);
    float n = shifted - 0x1.8p+23F;
    float r = fmaf(n, -0x1.62e400p-1F, x);
    r = fmaf(n, -0x1.7f7d1cp-20F, r);
    float p = fmaf(r, 0x1.6850e4p-10F, 0x1.123bccp-7F);
    p = fmaf(p, r, 0x1.555b98p-5F);
    p = fmaf(p, r, 0x1.55548ep-3F);
    p = fmaf(p, r, 0x1.fffff8p-2F);
    p = fmaf(p, r, 1.0F);
    p = fmaf(p, r, 1.0F);
    /* 2^n in two factors, so that n = 128 does not overflow before the product does. */
    int32_t exponent = (int32_t)(bits_of(shifted) - 0x4B400000u);
    int32_t half = exponent >> 1;
    float scale_a = float_of((uint32_t)(half + 127) << 23);
    float scale_b = float_of((uint32_t)(exponent - half + 127) << 23);
    return p * scale_a * scale_b;
}

/* x = 2^e * m with m in [sqrt(1/2), sqrt(2)); log m = f - f^2/2 + f^3 P(f) with f = m - 1 (the
 * minimax polynomial published in Cephes' logf). */
float shoal_logf(float x)
{
    if (!(x > 0)) {
        return x == 0 ? -INFINITY : NAN;
    }
    uint32_t bits = bits_of(x);
    if (bits >= 0x7F800000u) {
        return x;
    }
    int32_t e = (int32_t)(bits >> 23) - 126;
    float m = float_of((bits & 0x7FFFFFu) | 0x3F000000u); /* [0.5, 1) */
    if (m < 0x1.6a09e6p-1F) {
        m = m + m;
        e = e - 1;
    }
    float f = m - 1.0F;
    float z = f * f;
    float p = 7.0376836292E-2F;
    p = fmaf(p, f, -1.1514610310E-1F);
    p = fmaf(p, f, 1.1676998740E-1F);
    p = fmaf(p, f, -1.2420140846E-1F);
    p = fmaf(p, f, 1.4249322787E-1F);
    p = fmaf(p, f, -1.6668057665E-1F);
    p = fmaf(p, f, 2.0000714765E-1F);
    p = fmaf(p, f, -2.4999993993E-1F);
    p = fmaf(p, f, 3.3333331174E-1F);
    float tail = f * z * p;
    tail = fmaf((float)e, -2.12194440e-4F, tail);
    tail = fmaf(-0.5F, z, tail);
    return fmaf((float)e, 0.693359375F, f + tail);
}

/* Below 5/8 an odd polynomial (a least-squares fit of tanh x = x + x^3 P(x^2)), where the form with
 * exponentials would cancel; above it (1 - e) / (1 + e) with e = exp(-2 |x|). */
float shoal_tanhf(float x)
{
    float a = fabsf(x);
    float e = shoal_expf(-2.0F * a);
    float large = (1.0F - e) / (1.0F + e);
    float z = a * a;
    float p = fmaf(z, 0x1.19414cp-9F, -0x1.0c1102p-7F);
    p = fmaf(p, z, 0x1.639184p-6F);
    p = fmaf(p, z, -0x1.b9ef30p-5F);
    p = fmaf(p, z, 0x1.11106ap-3F);
    p = fmaf(p, z, -0x1.555554p-2F);
    float small = fmaf(a * z, p, a);
    return copysignf(a < 0.625F ? small : large, x);
}

float shoal_geluf(float x)
{
    float u = x * fmaf(x * x, SHOAL_GELU_CUBIC, SHOAL_GELU_LINEAR);
    return x / (1.0F + shoal_expf(-2.0F * u));
}

/* Taylor series of e^r on |r| <= ln 2 / 2; degree 13 leaves less than 1e-17. */
double shoal_expd(double x)
{
    if (!(x > -700.0)) {
        return x != x ? x : 0.0;
    }
    if (x > 709.0) {
        return (double)INFINITY;
    }
    double shifted = fma(x, 0x1.71547652b82fep+0, 0x1.8p+52);
    double n = shifted - 0x1.8p+52;
    double r = fma(n, -0x1.62e42fefa39efp-1, x);
    r = fma(n, -0x1.abc9e3b39803fp-56, r);
    double p = 1.0 / 6227020800.0;
    static const double factorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040,
                                        720,       120,      24,      6,      2,     1};
    for (int i = 0; i < 12; i++) {
        p = fma(p, r, 1.0 / factorials[i]);
    }
    p = fma(p, r, 1.0);
    int64_t exponent = (int64_t)(bits_of_double(shifted) - 0x4338000000000000u);
    int64_t half = exponent / 2;
    return p * double_of((uint64_t)(half + 1023) << 52) *
           double_of((uint64_t)(exponent - half + 1023) << 52);
}

/* log m by the series of atanh: s = (m - 1) / (m + 1), log m = 2 (s + s^3/3 + s^5/5 + ...); |s| is
 * at most 0.172, so s^23 / 23 ends it. */
double shoal_logd(double x)
{
    if (!(x > 0)) {
        return x == 0 ? (double)-INFINITY : (double)NAN;
    }
    int64_t e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p+54;
        e = -54;
    }
    uint64_t bits = bits_of_double(x);
    if (bits >= 0x7FF0000000000000u) {
        return x;
    }
    e += (int64_t)(bits >> 52) - 1022;
    double m = double_of((bits & 0xFFFFFFFFFFFFFu) | 0x3FE0000000000000u);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m = m + m;
        e = e - 1;
    }
    double s = (m - 1.0) / (m + 1.0);
    double z = s * s;
    double p = 1.0 / 23.0;
    for (int k = 21; k >= 3; k -= 2) {
        p = fma(p, z, 1.0 / (double)k);
    }
    double series = fma(s * z, p, s);
    return fma((double)e, 0x1.62e42fefa39efp-1,
               fma((double)e, 0x1.abc9e3b39803fp-56, 2.0 * series));
}

/* Taylor series on |r| <= pi / 4 after taking away quarter turns in three pieces (Cody and Waite).
 */
void shoal_sincosd(double x, double *ret_sin, double *ret_cos)
{
    double shifted = fma(x, 0x1.45f306dc9c883p-1, 0x1.8p+52);
    double n = shifted - 0x1.8p+52;
    double r = fma(n, -0x1.921fb54442d18p+0, x);
    r = fma(n, -0x1.1a62633145c07p-54, r);
    r = fma(n, 0x1.f1976b7ed8fbcp-110, r);
    double z = r * r;
    double s = -1.0 / 1307674368000.0;
    static const double odd[] = {6227020800.0, -39916800.0, 362880.0, -5040.0, 120.0, -6.0};
    for (int i = 0; i < 6; i++) {
        s = fma(s, z, 1.0 / odd[i]);
    }
    double sine = fma(r * z, s, r);
    double c = 1.0 / 20922789888000.0;
    static const double even[] = {-87178291200.0, 479001600.0, -3628800.0, 40320.0, -720.0, 24.0};
    for (int i = 0; i < 6; i++) {
        c = fma(c, z, 1.0 / even[i]);
    }
    double cosine = fma(z * z, c, fma(-0.5, z, 1.0));
    switch (bits_of_double(shifted) & 3u) {
    case 0:
        *ret_sin = sine;
        *ret_cos = cosine;
        break;
    case 1:
        *ret_sin = cosine;
        *ret_cos = -sine;
        break;
    case 2:
        *ret_sin = -sine;
        *ret_cos = -cosine;
        break;
    default:
        *ret_sin = -cosine;
        *ret_cos = sine;
        break;
    }
}
