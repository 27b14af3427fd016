/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded random sides (common/weight/sides.h) for a model in memory: its matrices take turns with
 * every combination of low rank, single elements and column scales, and with none. Pure, any
 * thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_SIDES_H
#define SHOAL_TESTS_SUPPORT_TINY_SIDES_H

#include "common/base/buf.h"
#include "common/tensor/gguf.h"

#include <stdint.h>

/* Appends base with sides beside every matrix that may have them: stacks have none, and rows that
 * are no multiple of 32 have no factors. A rank above 0: factors of this rank beside all of them,
 * and nothing else. */
shoal_status shoal_tiny_sides_gguf(const shoal_gguf *base, uint64_t seed, uint32_t rank,
                                   shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
