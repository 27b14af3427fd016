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
    ARCHIVE_VERSION = 2, /* of a basis and of what is made by it: 1 had nothing near */
    ARCHIVE_TOKENS = SHOAL_KV_BLOCK,
    ARCHIVE_STATES = 4, /* of rANS, of which each takes every fourth token */
    ARCHIVE_SCALE_BITS = 12,
    ARCHIVE_SCALE = 1 << ARCHIVE_SCALE_BITS,
    /* Words that one component can read at most: a symbol and two bytes behind an escape. */
    ARCHIVE_WORDS_MAX = 3 * ARCHIVE_TOKENS,
    ARCHIVE_PARTS = 16,              /* of a step, in which decoded components are whole numbers */
    ARCHIVE_MAGIC_UNIT = 0x32414B53, /* "SKA2" */
    ARCHIVE_MAGIC_NEAR = 0x314E4B53, /* "SKN1" */
    ARCHIVE_HEADER_BYTES = 20,
    ARCHIVE_ROWS = 64 /* of a product at once, so that its sums stay in the first cache */
};

/* One table of frequencies, for both directions. */
typedef struct archive_table {
    uint16_t freq[SHOAL_ARCHIVE_SYMBOLS];
    uint16_t start[SHOAL_ARCHIVE_SYMBOLS]; /* sums of the frequencies before */
    /* x / freq is the upper half of x times this, but one less where freq is 1; put_symbol. */
    uint64_t inverse[SHOAL_ARCHIVE_SYMBOLS];
    uint32_t slots[ARCHIVE_SCALE];         /* symbol << 24 | (slot - start) << 12 | frequency */
    int16_t values[SHOAL_ARCHIVE_SYMBOLS]; /* in parts of a step; that of the escape is not used */
} archive_table;

typedef struct archive_group {
    shoal_archive_group info;
    /* Rows of whole numbers (kernels.h, mul_whole), what 1 counts in each, and such that no sum
     * leaves 32 bits, whatever was read. */
    size_t analysis_stride;
    size_t synthesis_stride;
    int16_t *analysis;     /* (n_kept, analysis_stride) */
    int16_t *synthesis;    /* (n_channels, synthesis_stride) */
    float *analysis_unit;  /* (n_kept) steps, of channels in units of their token */
    float *synthesis_unit; /* (n_channels), of components in parts of a step */
    float *mean;           /* (n_channels) */
    uint8_t *table;        /* (n_kept) */
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
    double *turns;    /* (SHOAL_ARCHIVE_ROPES, n_rot / 2, 2, 32): cosines and sines of a block */
    uint8_t *rope_of; /* (n_layers) */
    size_t n_groups;
    archive_group *groups;
    size_t n_tables;
    archive_table *tables;
    size_t n_channels_max; /* of a group */
    size_t n_kept_max;
    shoal_hash hash;
};

/* Tokens lie side by side everywhere, as they do in blocks of keys. */
struct shoal_archive_work {
    float *x;       /* (n_channels_max + 1, 32) */
    int16_t *whole; /* ((n_channels_max + 1) / 2, 32, 2) what is multiplied */
    int32_t *sums;  /* (ARCHIVE_ROWS, 32) */
    int16_t *codes; /* (n_kept_max, 32) */
    uint8_t *bytes; /* of codes that are decoded, and room to read past them */
    float *cosine;  /* (SHOAL_ARCHIVE_ROPES, n_rot / 2, 32) */
    float *sine;
    uint8_t *sealed; /* one head's keys or values of the newest tokens */
};

/* Bytes of work->sealed. */
size_t shoal_archive_near_room(const shoal_archive *archive);

/* Of both kinds of unit: what says where one belongs, and the checksum over all of it. */
void shoal_archive_header_put(const shoal_archive *archive, uint32_t magic, size_t group,
                              size_t position, uint8_t *unit, size_t n);
/* Whether n bytes, of which there must be n_least to n_most, begin so: as shoal_archive_decode. */
shoal_status shoal_archive_header_check(const shoal_archive *archive, uint32_t magic, size_t group,
                                        size_t position, const uint8_t *unit, size_t n,
                                        size_t n_least, size_t n_most, shoal_err *err);

/* Codes of n_kept components, [n_kept][32], to little-endian words behind the four states. Returns
 * bytes; the room is archive_codes_bytes(n_kept). */
size_t shoal_archive_codes_bytes(size_t n_kept);
size_t shoal_archive_codes_put(const shoal_archive *archive, const archive_group *group,
                               const int16_t *codes, uint8_t *ret_bytes);
/* And back, as values in parts of a step, (n_kept / 2 rounded up, 32, 2), with zeros where n_kept
 * is odd. bytes can be read for 2 * ARCHIVE_WORDS_MAX bytes past n. False: no coder wrote these. */
bool shoal_archive_codes_get(const shoal_archive *archive, const archive_group *group,
                             const uint8_t *bytes, size_t n, int16_t *ret_values);

#endif
