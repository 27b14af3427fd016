/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/type.h"

#include <string.h>
#include <strings.h>

static const shoal_type_info infos[] = {
    {SHOAL_TYPE_F32, "F32", 1, 4},
    {SHOAL_TYPE_F16, "F16", 1, 2},
    {SHOAL_TYPE_Q4_0, "Q4_0", 32, 18},
    {SHOAL_TYPE_Q4_1, "Q4_1", 32, 20},
    {SHOAL_TYPE_Q5_0, "Q5_0", 32, 22},
    {SHOAL_TYPE_Q5_1, "Q5_1", 32, 24},
    {SHOAL_TYPE_Q8_0, "Q8_0", 32, 34},
    {SHOAL_TYPE_Q2_K, "Q2_K", 256, 84},
    {SHOAL_TYPE_Q3_K, "Q3_K", 256, 110},
    {SHOAL_TYPE_Q4_K, "Q4_K", 256, 144},
    {SHOAL_TYPE_Q5_K, "Q5_K", 256, 176},
    {SHOAL_TYPE_Q6_K, "Q6_K", 256, 210},
    {SHOAL_TYPE_IQ4_NL, "IQ4_NL", 32, 18},
    {SHOAL_TYPE_I8, "I8", 1, 1},
    {SHOAL_TYPE_I32, "I32", 1, 4},
    {SHOAL_TYPE_BF16, "BF16", 1, 2},
    {SHOAL_TYPE_C2_32, "C2_32", 32, 10},
    {SHOAL_TYPE_C2_64, "C2_64", 64, 18},
    {SHOAL_TYPE_C2_128, "C2_128", 128, 34},
    {SHOAL_TYPE_C3_32, "C3_32", 32, 14},
    {SHOAL_TYPE_C3_64, "C3_64", 64, 26},
    {SHOAL_TYPE_C3_128, "C3_128", 128, 50},
    {SHOAL_TYPE_C4_64, "C4_64", 64, 34},
    {SHOAL_TYPE_C4_128, "C4_128", 128, 66},
    {SHOAL_TYPE_S4_32, "S4_32", 32, 14},
    {SHOAL_TYPE_S4_64, "S4_64", 64, 26},
    {SHOAL_TYPE_S4_128, "S4_128", 128, 50},
    {SHOAL_TYPE_N3_32, "N3_32", 32, 14},
    {SHOAL_TYPE_N3_64, "N3_64", 64, 26},
    {SHOAL_TYPE_N3_128, "N3_128", 128, 50},
    {SHOAL_TYPE_N4_32, "N4_32", 32, 18},
    {SHOAL_TYPE_N4_64, "N4_64", 64, 34},
    {SHOAL_TYPE_N4_128, "N4_128", 128, 66},
    {SHOAL_TYPE_S8_32, "S8_32", 32, 22},
    {SHOAL_TYPE_S8_64, "S8_64", 64, 42},
    {SHOAL_TYPE_S8_128, "S8_128", 128, 82},
    {SHOAL_TYPE_B16_32, "B16_32", 32, 14},
    {SHOAL_TYPE_B16_64, "B16_64", 64, 26},
    {SHOAL_TYPE_B16_128, "B16_128", 128, 50},
    {SHOAL_TYPE_B8_32, "B8_32", 32, 10},
    {SHOAL_TYPE_B8_64, "B8_64", 64, 18},
    {SHOAL_TYPE_B8_128, "B8_128", 128, 34},
};

const shoal_type_info *shoal_type_find(uint32_t type)
{
    for (size_t i = 0; i < sizeof infos / sizeof infos[0]; i++) {
        if ((uint32_t)infos[i].type == type) {
            return &infos[i];
        }
    }
    return NULL;
}

const shoal_type_info *shoal_type_find_name(const char *name)
{
    for (size_t i = 0; i < sizeof infos / sizeof infos[0]; i++) {
        if (strcasecmp(infos[i].name, name) == 0) {
            return &infos[i];
        }
    }
    return NULL;
}

const char *shoal_type_names(void)
{
    return "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, "
           "I8, I32";
}

const char *shoal_type_own_names(void)
{
    return "C2, C3, S4, N3, N4, S8, B16, B8 with _32, _64 or _128, C4 with _64 or _128";
}

bool shoal_type_is_own(shoal_type type)
{
    return type >= SHOAL_TYPE_OWN && type < SHOAL_TYPES_END;
}

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

float shoal_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1Fu;
    uint32_t mantissa = half & 0x3FFu;
    if (exponent == 0x1F) {
        /* Infinity, or NaN made quiet as the hardware conversion does. */
        uint32_t quiet = mantissa ? 0x400000u : 0;
        return float_of(sign | 0x7F800000u | quiet | mantissa << 13);
    }
    if (exponent == 0) {
        /* Zero and subnormals: mantissa * 2^-24, exact in binary32. */
        float magnitude = (float)mantissa * 0x1p-24F;
        return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t shoal_f32_to_f16(float x)
{
    uint32_t bits = bits_of(x);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    }
    if (magnitude >= 0x477FF000u) {
        return (uint16_t)(sign | 0x7C00u); /* rounds to 65536 or more */
    }
    if (magnitude < 0x38800000u) {
        /* Subnormal result: adding 0.5 puts the rounded multiple of 2^-24 into the low bits. */
        float shifted = float_of(magnitude) + 0.5F;
        return (uint16_t)(sign | (bits_of(shifted) - 0x3F000000u));
    }
    uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - 0x38000000u) >> 13);
}

float shoal_bf16_to_f32(uint16_t half)
{
    return float_of((uint32_t)half << 16);
}

uint16_t shoal_f32_to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

float shoal_e4m3_to_f32(uint8_t code)
{
    uint32_t sign = (code & 0x80u) << 24;
    uint32_t magnitude = code & 0x7Fu;
    if (magnitude == 0x7F) {
        return float_of(sign | 0x7FC00000u);
    }
    if (magnitude < 8) {
        return float_of(sign | bits_of((float)magnitude * 0x1p-9F));
    }
    return float_of(sign | ((magnitude << 20) + (120u << 23)));
}

uint8_t shoal_f32_to_e4m3(float x)
{
    uint32_t bits = bits_of(x);
    uint32_t sign = bits >> 24 & 0x80u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        return (uint8_t)(sign | 0x7Fu);
    }
    if (magnitude >= 0x43E00000u) {
        return (uint8_t)(sign | 0x7Eu); /* 448 and more */
    }
    if (magnitude < 0x3C800000u) {
        /* Below 2^-6: adding 2^14 leaves the multiple of 2^-9, ties to even, in the low bits. */
        return (uint8_t)(sign | (bits_of(float_of(magnitude) + 0x1p+14F) - 0x46800000u));
    }
    uint32_t rounded = magnitude + 0x7FFFFu + (magnitude >> 20 & 1u);
    uint32_t code = (rounded >> 20) - (120u << 3);
    return (uint8_t)(sign | (code > 0x7Eu ? 0x7Eu : code));
}
