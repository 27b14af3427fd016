/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic on sizes that come from outside: true means the result fits and was written.
 */
#ifndef SHOAL_BASE_CHECKED_H
#define SHOAL_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool shoal_add_u64(uint64_t a, uint64_t b, uint64_t *ret_sum)
{
    return !__builtin_add_overflow(a, b, ret_sum);
}

static inline bool shoal_mul_u64(uint64_t a, uint64_t b, uint64_t *ret_product)
{
    return !__builtin_mul_overflow(a, b, ret_product);
}

static inline bool shoal_add_size(size_t a, size_t b, size_t *ret_sum)
{
    return !__builtin_add_overflow(a, b, ret_sum);
}

static inline bool shoal_mul_size(size_t a, size_t b, size_t *ret_product)
{
    return !__builtin_mul_overflow(a, b, ret_product);
}

/* Rounds up to a multiple of align (a power of two, at least 1). */
static inline bool shoal_align_u64(uint64_t x, uint64_t align, uint64_t *ret_aligned)
{
    uint64_t sum = 0;
    if (!shoal_add_u64(x, align - 1, &sum)) {
        return false;
    }
    *ret_aligned = sum & ~(align - 1);
    return true;
}

/* True when [offset, offset + length) lies within [0, total). */
static inline bool shoal_range_ok(uint64_t offset, uint64_t length, uint64_t total)
{
    return offset <= total && length <= total - offset;
}

#endif
