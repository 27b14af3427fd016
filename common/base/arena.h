/* SPDX-License-Identifier: Apache-2.0
 *
 * Bump allocation with one life: model, request or step. Everything goes at reset or free. Under
 * ASan freed space is poisoned. One thread at a time.
 */
#ifndef SHOAL_BASE_ARENA_H
#define SHOAL_BASE_ARENA_H

#include "common/base/macros.h"

typedef struct shoal_arena shoal_arena;

/* All of size_bytes is taken now: an arena never grows (R6). */
shoal_status shoal_arena_new(size_t size_bytes, shoal_arena **ret_arena) SHOAL_MUST_CHECK;
void shoal_arena_free(shoal_arena *arena);
SHOAL_DEFINE_CLEANUP(shoal_arena, shoal_arena_free)

/* n * size zeroed bytes aligned to 64, or NULL when it does not fit. */
void *shoal_arena_take(shoal_arena *arena, size_t n, size_t size);
void shoal_arena_reset(shoal_arena *arena);
size_t shoal_arena_used(const shoal_arena *arena);
size_t shoal_arena_size(const shoal_arena *arena);

#endif
