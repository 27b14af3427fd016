/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the vector tiers: attention's walk through the blocks, which is the same for all of
 * them. A line is one head of one row: a query, an output, a running maximum and sum. The walk says
 * which lines see which tokens of a block and makes tiles of them; a tier says what a tile does
 * with a block. Pure, any thread; the lines' state is on the stack.
 */
#ifndef SHOAL_KERNELS_ATTEND_WALK_H
#define SHOAL_KERNELS_ATTEND_WALK_H

#include "common/kernels/kernels.h"

#include <stdalign.h>
#include <stdbool.h>

enum {
    SHOAL_ATTEND_CACHE_LINE = 64 /* bytes that one prefetch brings */
};

typedef struct shoal_attend_line {
    const float *q;
    float *out;
    float max;
    float sum;
    float correction;
    float base; /* sealed values: the minima's part of every channel */
    bool begun;
    uint8_t t0, t1; /* tokens of the block at hand that it sees, unless all lines see all */
    alignas(32) float weights[SHOAL_KV_BLOCK]; /* dots, then p_t times the scale of the value */
} shoal_attend_line;

/* One block, the next one ahead (the last one's next is itself). */
typedef struct shoal_attend_step {
    const shoal_attend *a;
    const uint8_t *k, *v;
    const uint8_t *next_k, *next_v;
    bool all;    /* every line of this step sees all 32 tokens */
    bool sealed; /* this block is */
} shoal_attend_step;

/* Tokens [t0, t1) of a block of values for some lines, after the correction where it is due. */
typedef struct shoal_attend_span {
    const uint8_t *v;     /* its scales left behind */
    const uint8_t *next;  /* the next block's, to bring nearer */
    shoal_kv_level level; /* of sealed values */
    size_t v_dim;
    size_t t0, t1;
    bool correct;
} shoal_attend_span;

/* What a tier does for one stored form, for 1 to tile lines. */
typedef struct shoal_attend_form {
    size_t tile;
    size_t scales; /* bytes in front of a block, 0: no scales */
    /* Scores and softmax of a block: maximum, correction, sum and weights of every line. */
    void (*weigh)(const shoal_attend_step *step, shoal_attend_line *lines, size_t n);
    /* out = out * correction, then out = fma(weight_t, v_t, out) for t ascending. */
    void (*add)(const shoal_attend_span *span, shoal_attend_line *lines, size_t n);
    /* The same for sealed blocks, whose correction is out = fma(out, correction, base); NULL: the
     * form has none. */
    void (*weigh_sealed)(const shoal_attend_step *step, shoal_attend_line *lines, size_t n);
    void (*add_sealed)(const shoal_attend_span *span, shoal_attend_line *lines, size_t n);
} shoal_attend_form;

void shoal_attend_walk(const shoal_attend *a, const shoal_attend_form *form);

/* Runs fn over lines with the level and the codes of sealed blocks as constants, so that it is
 * compiled for each. */
#define SHOAL_ATTEND_BY_LEVEL(level, fn, s, lines, n, q8, q4, q3)                                  \
    switch (level) {                                                                               \
    case SHOAL_KV_LEVEL_Q8:                                                                        \
        fn(s, lines, n, SHOAL_KV_LEVEL_Q8, q8);                                                    \
        break;                                                                                     \
    case SHOAL_KV_LEVEL_Q4:                                                                        \
        fn(s, lines, n, SHOAL_KV_LEVEL_Q4, q4);                                                    \
        break;                                                                                     \
    case SHOAL_KV_LEVEL_Q3:                                                                        \
        fn(s, lines, n, SHOAL_KV_LEVEL_Q3, q3);                                                    \
        break;                                                                                     \
    }

#endif
