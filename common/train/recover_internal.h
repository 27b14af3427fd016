/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to recovery: how each parameter follows from the numbers behind it.
 */
#ifndef SHOAL_TRAIN_RECOVER_INTERNAL_H
#define SHOAL_TRAIN_RECOVER_INTERNAL_H

#include "common/train/recover.h"
#include "common/weight/codes.h"

typedef enum shoal_recover_form {
    SHOAL_RECOVER_CODES,
    SHOAL_RECOVER_TYPE,  /* rounded as its type does */
    SHOAL_RECOVER_VECTOR /* F32 of the file, or a norm of its metadata */
} shoal_recover_form;

typedef struct shoal_recover_item {
    shoal_recover_form form;
    const shoal_param *value;        /* of the model's parameters */
    const shoal_param *number;       /* u */
    const shoal_param *scale;        /* t, of codes */
    const shoal_gguf_tensor *tensor; /* NULL: an exit's norm */
    size_t bits;                     /* these six of codes */
    size_t group;
    shoal_codes_mask mask;
    int low;
    int high;
    uint8_t *kept; /* [n_rows][ceil(k / 8)] of two of four, else NULL */
    float *begin;  /* s0 [n_rows][k / group], or w0 [n_rows][k] */
    float unit;    /* codes or values that one of u is */
} shoal_recover_item;

struct shoal_recover {
    shoal_params *model;
    shoal_params *numbers;
    const shoal_gguf *small;
    shoal_recover_item *items;
    size_t n_items;
    shoal_hash begin;
    /* The job under way. */
    const float *in;
    float *out;
};

/* Row `row` of a matrix of codes as it is stored: codes[k], scales[k / group] f16. */
void shoal_recover_codes_of(const shoal_recover *recover, const shoal_recover_item *item,
                            size_t row, int8_t *ret_codes, uint16_t *ret_scales);
/* Values [begin, begin + n) of the other forms, before they are rounded. */
void shoal_recover_plain_values(const shoal_recover *recover, const shoal_recover_item *item,
                                size_t begin, size_t n, float *ret_w);

#endif
