/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static atomic_uint_fast64_t n_allocations;
static atomic_uint_fast64_t fail_at = UINT64_MAX;

/* Counts one allocation; true when this one is to fail. */
static bool must_fail(void)
{
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (at == UINT64_MAX) {
        return false;
    }
    return atomic_fetch_sub_explicit(&fail_at, 1, memory_order_relaxed) == 0;
}

void *shoal_calloc(size_t n, size_t size)
{
    if (must_fail()) {
        return NULL;
    }
    return calloc(n ? n : 1, size ? size : 1);
}

void *shoal_calloc_aligned(size_t n, size_t size)
{
    size_t bytes = 0;
    if (must_fail() || __builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - 64) {
        return NULL;
    }
    bytes = (bytes + 63) / 64 * 64;
    bytes = bytes ? bytes : 64;
    void *p = aligned_alloc(64, bytes);
    if (p) {
        memset(p, 0, bytes);
    }
    return p;
}

void *shoal_realloc(void *p, size_t n, size_t size)
{
    size_t bytes = 0;
    if (must_fail() || __builtin_mul_overflow(n, size, &bytes)) {
        return NULL;
    }
    return realloc(p, bytes ? bytes : 1);
}

char *shoal_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = shoal_calloc(len + 1, 1);
    if (copy) {
        memcpy(copy, s, len);
    }
    return copy;
}

char *shoal_strdup(const char *s)
{
    return shoal_strndup(s, SIZE_MAX - 1);
}

void shoal_free(void *p)
{
    free(p);
}

uint64_t shoal_mem_count(void)
{
    return atomic_load_explicit(&n_allocations, memory_order_relaxed);
}

void shoal_mem_fail_at(uint64_t n)
{
    atomic_store_explicit(&fail_at, n, memory_order_relaxed);
}
