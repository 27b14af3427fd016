/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/weight: the kinds of codes, and 32 columns of one row as words (codes.h).
 */
#ifndef SHOAL_WEIGHT_CODES_INTERNAL_H
#define SHOAL_WEIGHT_CODES_INTERNAL_H

#include "common/kernels/panel.h"
#include "common/weight/codes.h"

typedef struct shoal_codes_kind {
    shoal_type type;
    size_t bits;
    size_t group;
    shoal_codes_mask mask;
    size_t n_words; /* of 32 columns */
    int low;
    int high;
} shoal_codes_kind;

/* NULL for other types. */
const shoal_codes_kind *shoal_codes_kind_of(shoal_type type);

/* What 32 columns hold: codes, and a bit for each that is kept. */
typedef struct shoal_codes_run {
    int8_t code[SHOAL_QBLOCK];
    uint32_t kept;
} shoal_codes_run;

/* Two of four: at most two bits of every four are set; the places of others are filled. */
void shoal_codes_put(const shoal_codes_kind *kind, const shoal_codes_run *run, uint8_t *ret_words);
/* Word w lies at words + w * stride. False when the places of two in four do not ascend: they are
 * read all the same, codes of one place added. */
bool shoal_codes_get(const shoal_codes_kind *kind, const uint8_t *words, size_t stride,
                     shoal_codes_run *ret_run);

#endif
