/* SPDX-License-Identifier: Apache-2.0
 *
 * A basis as numbers, for who makes one, and as the file that keeps it: a GGUF of architecture
 * "shoal-kv-archive" that holds nothing else. And the dynamic program that spends its bits.
 * Pure, any thread.
 */
#ifndef SHOAL_ARCHIVE_PLAN_H
#define SHOAL_ARCHIVE_PLAN_H

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/kv/kv.h"

#include <stdbool.h>

enum {
    SHOAL_ARCHIVE_SYMBOLS = 64,    /* of a table: codes -31 to 31, and an escape */
    SHOAL_ARCHIVE_CODE_MAX = 31,   /* greatest that has a symbol */
    SHOAL_ARCHIVE_ESCAPE = 63,     /* two bytes follow it */
    SHOAL_ARCHIVE_CODE_FAR = 2047, /* greatest of all: what is farther off becomes this */
    SHOAL_ARCHIVE_TABLES_MAX = 32,
    SHOAL_ARCHIVE_ROPES = 2,              /* rotations of a model */
    SHOAL_ARCHIVE_CHANNELS_MAX = 1 << 14, /* of a group */
    SHOAL_ARCHIVE_GROUPS_MAX = 512,
    SHOAL_ARCHIVE_TOTAL = 4096 /* what the frequencies of a table add up to */
};

/* Zero's neighbourhood is wider than that of other codes: a coefficient c becomes the integer part
 * of |c| / step + this. */
#define SHOAL_ARCHIVE_ROUND 0.4F

/* One group of layers. A token's vector x is, layer by layer and head by head, a key whose rotation
 * is taken back and a value. Components are c = analysis (x - mean), x' = mean + synthesis c. */
typedef struct shoal_archive_plan_group {
    size_t n_layers;
    size_t n_kept;    /* components, 1 to n_channels */
    float *mean;      /* (n_channels) */
    float *analysis;  /* (n_kept, n_channels) */
    float *synthesis; /* (n_kept, n_channels): column c of the matrix is row c here */
    float *step;      /* (n_kept) positive */
    int32_t *table;   /* (n_kept) */
} shoal_archive_plan_group;

typedef struct shoal_archive_plan {
    shoal_hash model;
    shoal_kv_shape shape; /* windows are not looked at */
    size_t n_rot;         /* rotated channels of a key, even; 0: none */
    size_t rot_at;        /* the first of them */
    bool halves;          /* pairs are (i, i + n_rot / 2), else neighbours */
    float *freq;          /* (SHOAL_ARCHIVE_ROPES, n_rot / 2) radians per position */
    int32_t *rope_of;     /* (n_layers) which of them */
    size_t n_groups;
    shoal_archive_plan_group *groups;
    size_t n_tables;
    int32_t *freqs; /* (n_tables, SHOAL_ARCHIVE_SYMBOLS): sum TOTAL, the escape's not 0 */
    float *values;  /* (n_tables, SHOAL_ARCHIVE_SYMBOLS): where a code is decoded, in steps */
    float bits;     /* of an element that were aimed at; for people */
} shoal_archive_plan;

/* Channels of a token in one layer. */
static inline size_t shoal_archive_layer_channels(const shoal_kv_shape *shape)
{
    return shape->n_kv_heads * (shape->k_dim + shape->v_dim);
}

/* Appends the file. */
shoal_status shoal_archive_plan_write(const shoal_archive_plan *plan, shoal_buf *buf,
                                      shoal_err *err) SHOAL_MUST_CHECK;

/* Choices for n things: thing i costs rates[i][c] units and harms by harms[i][c] under choice c,
 * where choice 0 costs nothing. Finds the choices with the least sum of harms whose rates sum to
 * budget at most: exactly, by dynamic programming over (thing, units spent). Time n * n_choices *
 * budget, memory n * budget bytes. n_choices is at most 255. SHOAL_E_NOMEM. */
shoal_status shoal_archive_allocate(size_t n, size_t n_choices, const uint32_t *rates,
                                    const double *harms, size_t budget,
                                    uint8_t *ret_choices) SHOAL_MUST_CHECK;
/* Counts of symbols to frequencies that add up to SHOAL_ARCHIVE_TOTAL: what was seen, the code 0
 * and the escape have at least one. */
void shoal_archive_frequencies(const uint64_t *counts, int32_t *ret_freqs);

#endif
