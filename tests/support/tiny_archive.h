/* SPDX-License-Identifier: Apache-2.0
 *
 * A small basis of the archive level with random components, for tests that need no model: three
 * layers in groups of two and one, the middle one with a rotation of its own. Pure, any thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_ARCHIVE_H
#define SHOAL_TESTS_SUPPORT_TINY_ARCHIVE_H

#include "common/archive/plan.h"

enum {
    SHOAL_TINY_ARCHIVE_LAYERS = 3,
    SHOAL_TINY_ARCHIVE_HEADS = 2,
    SHOAL_TINY_ARCHIVE_K = 12,
    SHOAL_TINY_ARCHIVE_V = 6,
    SHOAL_TINY_ARCHIVE_CHANNELS = 72, /* of the larger group */
    SHOAL_TINY_ARCHIVE_GROUPS = 2,
    SHOAL_TINY_ARCHIVE_TABLES = 3 /* the last knows the code 0 alone */
};

/* What a plan points to. */
typedef struct shoal_tiny_archive {
    shoal_archive_plan plan;
    shoal_archive_plan_group groups[SHOAL_TINY_ARCHIVE_GROUPS];
    float numbers[SHOAL_TINY_ARCHIVE_GROUPS][2 * SHOAL_TINY_ARCHIVE_CHANNELS + 2]
                 [SHOAL_TINY_ARCHIVE_CHANNELS];
    int32_t tables[SHOAL_TINY_ARCHIVE_GROUPS][SHOAL_TINY_ARCHIVE_CHANNELS];
    float freq[SHOAL_ARCHIVE_ROPES * 4];
    int32_t rope_of[SHOAL_TINY_ARCHIVE_LAYERS];
    int32_t freqs[SHOAL_TINY_ARCHIVE_TABLES * SHOAL_ARCHIVE_SYMBOLS];
    float values[SHOAL_TINY_ARCHIVE_TABLES * SHOAL_ARCHIVE_SYMBOLS];
} shoal_tiny_archive;

/* Orthonormal components, `missing` of them left out in each group, all with this step. */
void shoal_tiny_archive_init(shoal_tiny_archive *tiny, uint64_t seed, size_t missing, float step);

#endif
