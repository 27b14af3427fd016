/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/archive: what a basis is in memory, and the entropy coder.
 */
#ifndef SHOAL_ARCHIVE_ARCHIVE_INTERNAL_H
#define SHOAL_ARCHIVE_ARCHIVE_INTERNAL_H

#include "common/archive/archive.h"
#include "common/archive/plan.h"

#define ARCHIVE_ARCHITECTURE "shoal-kv-archive"

enum {
    ARCHIVE_VERSION = 1,
    ARCHIVE_TOKENS = SHOAL_KV_BLOCK,
    ARCHIVE_STATES = 4, /* of rANS, of which each takes every fourth token */
    ARCHIVE_SCALE_BITS = 12,
    ARCHIVE_SCALE = 1 << ARCHIVE_SCALE_BITS,
    /* Words that one component can read at most: a symbol and two bytes behind an escape. */
    ARCHIVE_WORDS_MAX = 3 * ARCHIVE_TOKENS,
    ARCHIVE_HEADER_BYTES = 20
};

/* One table of frequencies, for both directions. */
typedef struct archive_table {
    uint16_t freq[SHOAL_ARCHIVE_SYMBOLS];
    uint16_t start[SHOAL_ARCHIVE_SYMBOLS]; /* sums of the frequencies before */
    uint32_t slots[ARCHIVE_SCALE];         /* symbol << 24 | (slot - start) << 12 | frequency */
    float values[SHOAL_ARCHIVE_SYMBOLS];   /* in steps; that of the escape is not used */
} archive_table;

typedef struct archive_group {
    shoal_archive_group info;
    float *analysis;  /* panels (n_kept, n_channels + 1): the last column takes the mean off */
    float *synthesis; /* panels (n_channels, n_kept + 1): the last column is the mean */
    float *step;      /* (n_kept) */
    float *inverse;   /* (n_kept) 1 / step */
    uint8_t *table;   /* (n_kept) */
} archive_group;

struct shoal_archive {
    size_t n_layers;
    size_t n_heads;
    size_t k_dim;
    size_t v_dim;
    size_t n_rot;  /* rotated channels of a key */
    size_t rot_at; /* the first of them */
    bool halves;
    double *freq;     /* (SHOAL_ARCHIVE_ROPES, n_rot / 2) */
    double *turns;    /* (SHOAL_ARCHIVE_ROPES, 32, n_rot / 2, 2): cosine and sine of a block */
    uint8_t *rope_of; /* (n_layers) */
    size_t n_groups;
    archive_group *groups;
    size_t n_tables;
    archive_table *tables;
    size_t n_channels_max; /* of a group */
    size_t n_kept_max;
    shoal_hash hash;
};

/* Codes of n_kept components, [n_kept][32], to little-endian words behind the four states. Returns
 * bytes; the room is archive_codes_bytes(n_kept). */
size_t shoal_archive_codes_bytes(size_t n_kept);
size_t shoal_archive_codes_put(const shoal_archive *archive, const archive_group *group,
                               const int16_t *codes, uint8_t *ret_bytes);
/* And back, as values times steps, into ret_values[t * stride + c]. bytes can be read for
 * 2 * ARCHIVE_WORDS_MAX bytes past n. False: no coder wrote these. */
bool shoal_archive_codes_get(const shoal_archive *archive, const archive_group *group,
                             const uint8_t *bytes, size_t n, size_t stride, float *ret_values);

#endif
