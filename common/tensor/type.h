/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor element types as GGUF numbers them, with block geometry, and half-precision conversion.
 * A type that this table does not name is refused by the reader. Pure, any thread.
 */
#ifndef SHOAL_TENSOR_TYPE_H
#define SHOAL_TENSOR_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum shoal_type {
    SHOAL_TYPE_F32 = 0,
    SHOAL_TYPE_F16 = 1,
    SHOAL_TYPE_Q4_0 = 2,
    SHOAL_TYPE_Q4_1 = 3,
    SHOAL_TYPE_Q5_0 = 6,
    SHOAL_TYPE_Q5_1 = 7,
    SHOAL_TYPE_Q8_0 = 8,
    SHOAL_TYPE_Q2_K = 10,
    SHOAL_TYPE_Q3_K = 11,
    SHOAL_TYPE_Q4_K = 12,
    SHOAL_TYPE_Q5_K = 13,
    SHOAL_TYPE_Q6_K = 14,
    SHOAL_TYPE_IQ4_NL = 20,
    SHOAL_TYPE_I8 = 24,  /* raw bytes: a matrix only with the scales beside it (weight.h, FP8) */
    SHOAL_TYPE_I32 = 26, /* counts and places (weight/sides.h), never a matrix */
    SHOAL_TYPE_BF16 = 30,
    /* Types of our own, which a file holds as I8 (gguf.h): codes of 2, 3 and 4 bits with an f16
     * scale for each group of 32, 64 or 128, in S4 two of every four, in S8 the same of 8 bits, in
     * B16 and B8 at most 16 and 8 of every 32, in N3 and N4 indices of levels
     * (common/weight/codes.h). */
    SHOAL_TYPE_OWN = 128, /* none itself: they begin here, */
    SHOAL_TYPE_C2_32 = SHOAL_TYPE_OWN,
    SHOAL_TYPE_C2_64,
    SHOAL_TYPE_C2_128,
    SHOAL_TYPE_C3_32,
    SHOAL_TYPE_C3_64,
    SHOAL_TYPE_C3_128,
    SHOAL_TYPE_C4_64,
    SHOAL_TYPE_C4_128,
    SHOAL_TYPE_S4_32,
    SHOAL_TYPE_S4_64,
    SHOAL_TYPE_S4_128,
    SHOAL_TYPE_N3_32,
    SHOAL_TYPE_N3_64,
    SHOAL_TYPE_N3_128,
    SHOAL_TYPE_N4_32,
    SHOAL_TYPE_N4_64,
    SHOAL_TYPE_N4_128,
    SHOAL_TYPE_S8_32,
    SHOAL_TYPE_S8_64,
    SHOAL_TYPE_S8_128,
    SHOAL_TYPE_B16_32,
    SHOAL_TYPE_B16_64,
    SHOAL_TYPE_B16_128,
    SHOAL_TYPE_B8_32,
    SHOAL_TYPE_B8_64,
    SHOAL_TYPE_B8_128,
    SHOAL_TYPES_END /* and end before this */
} shoal_type;

typedef struct shoal_type_info {
    shoal_type type;
    const char *name; /* "Q8_0" */
    uint32_t block;   /* elements per block */
    uint32_t block_bytes;
} shoal_type_info;

/* NULL when the type is not one of ours. */
const shoal_type_info *shoal_type_find(uint32_t type);
const shoal_type_info *shoal_type_find_name(const char *name); /* case-insensitive */
/* The types for error texts: "F32, F16, ..." without our own; our own by families and sizes. */
const char *shoal_type_names(void);
const char *shoal_type_own_names(void);
/* Whether a type is one of ours, of which GGUF knows nothing. */
bool shoal_type_is_own(shoal_type type);

/* IEEE 754 binary16, round to nearest even; NaN stays NaN, overflow becomes infinity. */
float shoal_f16_to_f32(uint16_t half);
uint16_t shoal_f32_to_f16(float x);
/* bfloat16, round to nearest even; NaN stays NaN. */
float shoal_bf16_to_f32(uint16_t half);
uint16_t shoal_f32_to_bf16(float x);
/* FP8 E4M3 (Micikevicius et al., 2209.05433): no infinity, 0x7F and 0xFF are NaN, largest 448.
 * Encoding rounds to nearest even and saturates; NaN stays NaN. */
float shoal_e4m3_to_f32(uint8_t code);
uint8_t shoal_f32_to_e4m3(float x);

#endif
