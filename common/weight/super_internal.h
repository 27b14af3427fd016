/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: the five types of 256 elements ("K" types), which share one idea. A
 * super-block has an f16 scale d, and f16 dmin where it has floors; every sub-block of 16 or 32
 * elements has a small integer scale, and a small integer floor. They differ in widths and in how
 * a file squeezes them into bytes. Everything is read into one plain form, from which values,
 * panels and files are made:
 *   value = (d * sc) * (code - zero) - dmin * mn
 * Both products are exact in binary32 and the difference rounds once, as the types demand.
 */
#ifndef SHOAL_WEIGHT_SUPER_INTERNAL_H
#define SHOAL_WEIGHT_SUPER_INTERNAL_H

#include "common/weight/format.h"

enum {
    SHOAL_SUPER = SHOAL_QSUPER,
    SHOAL_SUPER_SUBS = 16 /* halves of 16 elements; a scale per 32 stands twice */
};

typedef struct shoal_super {
    uint16_t d;
    uint16_t dmin;
    int8_t sc[SHOAL_SUPER_SUBS];
    uint8_t mn[SHOAL_SUPER_SUBS];
    uint8_t code[SHOAL_SUPER];
} shoal_super;

typedef struct shoal_super_kind {
    shoal_panel panel;
    size_t block;   /* bytes in a file */
    size_t d_at;    /* where d stands in a file's block */
    size_t dmin_at; /* where dmin stands; 0: no floors */
    unsigned bits;  /* of a code */
    int zero;       /* the code that stands for 0 */
    int sub;        /* elements of a sub-block, 16 or 32 */
    int sc_low;     /* range of a sub-block's scale; floors go from 0 to sc_high */
    int sc_high;
    /* Everything but d and dmin. */
    void (*read)(const uint8_t *block, shoal_super *ret);
    void (*write)(const shoal_super *s, uint8_t *ret_block);
} shoal_super_kind;

extern const shoal_super_kind shoal_super_q2_k;
extern const shoal_super_kind shoal_super_q3_k;
extern const shoal_super_kind shoal_super_q4_k;
extern const shoal_super_kind shoal_super_q5_k;
extern const shoal_super_kind shoal_super_q6_k;

/* One block of a file; it is written into zeros. */
void shoal_super_read(const shoal_super_kind *kind, const uint8_t *block, shoal_super *ret);
void shoal_super_write(const shoal_super_kind *kind, const shoal_super *s, uint8_t *ret_block);

/* Searches scales and codes for 256 elements. */
void shoal_super_search(const shoal_super_kind *kind, const float *x, shoal_super *ret);

#endif
