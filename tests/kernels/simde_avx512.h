/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 intrinsics of common/kernels/avx512_*.c on portable code: SIMDe, and below, one lane
 * at a time from their description in Intel's guide, what SIMDe 0.7.4 lacks. Its fused
 * multiply-add rounds twice where the target has no fma, so that is replaced too.
 */
#ifndef SHOAL_TESTS_KERNELS_SIMDE_AVX512_H
#define SHOAL_TESTS_KERNELS_SIMDE_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((always_inline, unused))
/* What occurs many times in every kernel: as calls these compile ten times faster. */
#define EMULATED_CALL static __attribute__((noinline, unused))

/* Names that SIMDe does not alias where the compiler has no header of its own for them. */
#define __mmask16 simde__mmask16
#define __mmask32 simde__mmask32
#ifndef _MM_FROUND_NO_EXC
#    define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#endif
#ifndef _MM_FROUND_TO_NEAREST_INT
#    define _MM_FROUND_TO_NEAREST_INT SIMDE_MM_FROUND_TO_NEAREST_INT
#endif

/* What SIMDe has under these names, if anything, is not wanted. */
#undef _mm512_fmadd_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtps_ph
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu8_epi16
#undef _mm512_cmpeq_epi16_mask
#undef _mm512_dpbusd_epi32
#undef _mm512_dpwssd_epi32
#undef _mm512_srai_epi32
#undef _mm512_extractf32x8_ps
#undef _mm512_reduce_add_epi32
#undef _mm512_maskz_loadu_ps
#undef _mm512_mask_storeu_ps
#undef _mm_maskz_loadu_epi8
#undef _mm256_maskz_loadu_epi16
#undef _mm256_mask_storeu_epi16
#undef _mm512_i32gather_ps
#undef _mm512_cvtepi32_epi8
#undef _mm512_maskz_compress_epi32
#undef _mm512_test_epi32_mask
#define _mm512_fmadd_ps             emulated_fmadd_ps
#define _mm512_cvtph_ps             emulated_cvtph_ps
#define _mm512_cvtps_ph(a, how)     emulated_cvtps_ph(a)
#define _mm512_cvtepi32_ps          emulated_cvtepi32_ps
#define _mm512_cvtps_epi32          emulated_cvtps_epi32
#define _mm512_cvtepu16_epi32       emulated_cvtepu16_epi32
#define _mm512_cvtepu8_epi32        emulated_cvtepu8_epi32
#define _mm512_cvtepi8_epi32        emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi16        emulated_cvtepu8_epi16
#define _mm512_cmpeq_epi16_mask     emulated_cmpeq_epi16_mask
#define _mm512_dpbusd_epi32         emulated_dpbusd_epi32
#define _mm512_dpwssd_epi32         emulated_dpwssd_epi32
#define _mm512_srai_epi32           emulated_srai_epi32
#define _mm512_extractf32x8_ps      emulated_extractf32x8_ps
#define _mm512_reduce_add_epi32     emulated_reduce_add_epi32
#define _mm512_maskz_loadu_ps       emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps       emulated_mask_storeu_ps
#define _mm_maskz_loadu_epi8        emulated_maskz_loadu_epi8
#define _mm256_maskz_loadu_epi16    emulated_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16    emulated_mask_storeu_epi16
#define _mm512_i32gather_ps         emulated_i32gather_ps
#define _mm512_cvtepi32_epi8        emulated_cvtepi32_epi8
#define _mm512_maskz_compress_epi32 emulated_maskz_compress_epi32
#define _mm512_test_epi32_mask      emulated_test_epi32_mask

/* Sixteen lanes in memory. */
typedef union emulated_lanes {
    float f[16];
    int32_t i[16];
    uint16_t h[32];
    int16_t s[32];
    uint8_t b[64];
    int8_t c[64];
} emulated_lanes;

EMULATED emulated_lanes emulated_floats(__m512 a)
{
    emulated_lanes lanes;
    memcpy(&lanes, &a, sizeof a);
    return lanes;
}

EMULATED emulated_lanes emulated_ints(__m512i a)
{
    emulated_lanes lanes;
    memcpy(&lanes, &a, sizeof a);
    return lanes;
}

EMULATED __m512 emulated_to_floats(const emulated_lanes *lanes)
{
    __m512 ret;
    memcpy(&ret, lanes, sizeof ret);
    return ret;
}

EMULATED __m512i emulated_to_ints(const emulated_lanes *lanes)
{
    __m512i ret;
    memcpy(&ret, lanes, sizeof ret);
    return ret;
}

EMULATED __m512 emulated_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    emulated_lanes x = emulated_floats(a);
    emulated_lanes y = emulated_floats(b);
    emulated_lanes z = emulated_floats(c);
    for (int i = 0; i < 16; i++) {
        z.f[i] = fmaf(x.f[i], y.f[i], z.f[i]);
    }
    return emulated_to_floats(&z);
}

EMULATED __m512 emulated_cvtph_ps(__m256i a)
{
    __m128i half[2];
    memcpy(half, &a, sizeof a);
    __m256 wide[2] = {_mm256_cvtph_ps(half[0]), _mm256_cvtph_ps(half[1])};
    __m512 ret;
    memcpy(&ret, wide, sizeof ret);
    return ret;
}

/* Always to nearest even, the only way it is used. */
EMULATED __m256i emulated_cvtps_ph(__m512 a)
{
    __m256 wide[2];
    memcpy(wide, &a, sizeof a);
    __m128i half[2] = {_mm256_cvtps_ph(wide[0], 0), _mm256_cvtps_ph(wide[1], 0)};
    __m256i ret;
    memcpy(&ret, half, sizeof ret);
    return ret;
}

EMULATED __m512 emulated_cvtepi32_ps(__m512i a)
{
    emulated_lanes x = emulated_ints(a);
    for (int i = 0; i < 16; i++) {
        x.f[i] = (float)x.i[i];
    }
    return emulated_to_floats(&x);
}

/* To nearest even; the indefinite integer for what does not fit. */
EMULATED __m512i emulated_cvtps_epi32(__m512 a)
{
    emulated_lanes x = emulated_floats(a);
    for (int i = 0; i < 16; i++) {
        x.i[i] = fabsf(x.f[i]) < 0x1p+31F ? (int32_t)nearbyintf(x.f[i]) : INT32_MIN;
    }
    return emulated_to_ints(&x);
}

EMULATED __m512i emulated_cvtepu16_epi32(__m256i a)
{
    uint16_t narrow[16];
    emulated_lanes x;
    memcpy(narrow, &a, sizeof a);
    for (int i = 0; i < 16; i++) {
        x.i[i] = narrow[i];
    }
    return emulated_to_ints(&x);
}

EMULATED __m512i emulated_cvtepu8_epi32(__m128i a)
{
    uint8_t narrow[16];
    emulated_lanes x;
    memcpy(narrow, &a, sizeof a);
    for (int i = 0; i < 16; i++) {
        x.i[i] = narrow[i];
    }
    return emulated_to_ints(&x);
}

EMULATED __m512i emulated_cvtepi8_epi32(__m128i a)
{
    int8_t narrow[16];
    emulated_lanes x;
    memcpy(narrow, &a, sizeof a);
    for (int i = 0; i < 16; i++) {
        x.i[i] = narrow[i];
    }
    return emulated_to_ints(&x);
}

EMULATED __m512i emulated_cvtepu8_epi16(__m256i a)
{
    uint8_t narrow[32];
    emulated_lanes x;
    memcpy(narrow, &a, sizeof a);
    for (int i = 0; i < 32; i++) {
        x.h[i] = narrow[i];
    }
    return emulated_to_ints(&x);
}

EMULATED __mmask32 emulated_cmpeq_epi16_mask(__m512i a, __m512i b)
{
    emulated_lanes x = emulated_ints(a);
    emulated_lanes y = emulated_ints(b);
    uint32_t mask = 0;
    for (int i = 0; i < 32; i++) {
        mask |= (uint32_t)(x.h[i] == y.h[i]) << i;
    }
    return mask;
}

/* Sums of four products, unsigned by signed, onto 32 bits that wrap. */
EMULATED_CALL __m512i emulated_dpbusd_epi32(__m512i sum, __m512i a, __m512i b)
{
    emulated_lanes s = emulated_ints(sum);
    emulated_lanes x = emulated_ints(a);
    emulated_lanes y = emulated_ints(b);
    for (int i = 0; i < 64; i++) {
        s.i[i / 4] = (int32_t)((uint32_t)s.i[i / 4] + (uint32_t)(x.b[i] * y.c[i]));
    }
    return emulated_to_ints(&s);
}

/* Sums of two products, signed, likewise. */
EMULATED_CALL __m512i emulated_dpwssd_epi32(__m512i sum, __m512i a, __m512i b)
{
    emulated_lanes s = emulated_ints(sum);
    emulated_lanes x = emulated_ints(a);
    emulated_lanes y = emulated_ints(b);
    for (int i = 0; i < 32; i++) {
        s.i[i / 2] = (int32_t)((uint32_t)s.i[i / 2] + (uint32_t)(x.s[i] * y.s[i]));
    }
    return emulated_to_ints(&s);
}

EMULATED __m512i emulated_srai_epi32(__m512i a, unsigned by)
{
    emulated_lanes x = emulated_ints(a);
    for (int i = 0; i < 16; i++) {
        x.i[i] >>= by;
    }
    return emulated_to_ints(&x);
}

EMULATED __m128i emulated_cvtepi32_epi8(__m512i a)
{
    emulated_lanes x = emulated_ints(a);
    uint8_t narrow[16];
    for (int i = 0; i < 16; i++) {
        narrow[i] = (uint8_t)x.i[i];
    }
    __m128i ret;
    memcpy(&ret, narrow, sizeof ret);
    return ret;
}

EMULATED __m512i emulated_maskz_compress_epi32(__mmask16 mask, __m512i a)
{
    emulated_lanes x = emulated_ints(a);
    emulated_lanes y = {{0}};
    int n = 0;
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            y.i[n++] = x.i[i];
        }
    }
    return emulated_to_ints(&y);
}

EMULATED __mmask16 emulated_test_epi32_mask(__m512i a, __m512i b)
{
    emulated_lanes x = emulated_ints(a);
    emulated_lanes y = emulated_ints(b);
    uint32_t mask = 0;
    for (int i = 0; i < 16; i++) {
        mask |= (uint32_t)((x.i[i] & y.i[i]) != 0) << i;
    }
    return (__mmask16)mask;
}

EMULATED __m256 emulated_extractf32x8_ps(__m512 a, int which)
{
    __m256 halves[2];
    memcpy(halves, &a, sizeof a);
    return halves[which & 1];
}

EMULATED int32_t emulated_reduce_add_epi32(__m512i a)
{
    emulated_lanes x = emulated_ints(a);
    uint32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        sum += (uint32_t)x.i[i];
    }
    return (int32_t)sum;
}

EMULATED __m512 emulated_i32gather_ps(__m512i places, const void *from, int scale)
{
    emulated_lanes x = emulated_ints(places);
    for (int i = 0; i < 16; i++) {
        memcpy(&x.f[i], (const char *)from + (ptrdiff_t)x.i[i] * scale, 4);
    }
    return emulated_to_floats(&x);
}

/* The masked moves touch no byte outside their mask: sanitizers see it. */
EMULATED __m512 emulated_maskz_loadu_ps(__mmask16 mask, const void *from)
{
    emulated_lanes x = {{0}};
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            memcpy(&x.f[i], (const char *)from + 4 * i, 4);
        }
    }
    return emulated_to_floats(&x);
}

EMULATED void emulated_mask_storeu_ps(void *to, __mmask16 mask, __m512 a)
{
    emulated_lanes x = emulated_floats(a);
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            memcpy((char *)to + 4 * i, &x.f[i], 4);
        }
    }
}

EMULATED __m128i emulated_maskz_loadu_epi8(__mmask16 mask, const void *from)
{
    int8_t x[16] = {0};
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            memcpy(&x[i], (const char *)from + i, 1);
        }
    }
    __m128i ret;
    memcpy(&ret, x, sizeof ret);
    return ret;
}

EMULATED __m256i emulated_maskz_loadu_epi16(__mmask16 mask, const void *from)
{
    uint16_t x[16] = {0};
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            memcpy(&x[i], (const char *)from + 2 * i, 2);
        }
    }
    __m256i ret;
    memcpy(&ret, x, sizeof ret);
    return ret;
}

EMULATED void emulated_mask_storeu_epi16(void *to, __mmask16 mask, __m256i a)
{
    uint16_t x[16];
    memcpy(x, &a, sizeof a);
    for (int i = 0; i < 16; i++) {
        if (mask >> i & 1) {
            memcpy((char *)to + 2 * i, &x[i], 2);
        }
    }
}

#endif
