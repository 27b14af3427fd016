/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    LINE_BYTES = 64,
    HUGE_BYTES = 2 << 20,
    LAZY_BYTES = 256 << 10 /* from here on zeroing by the kernel beats writing zeros */
};

static atomic_uint_fast64_t n_allocations;
static atomic_uint_fast64_t fail_at = UINT64_MAX;
static _Thread_local uint64_t fail_here_at = UINT64_MAX;

/* Counts one allocation; true when this one is to fail. */
static bool must_fail(void)
{
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    if (fail_here_at != UINT64_MAX && fail_here_at-- == 0) {
        return true;
    }
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

/* The kernel rounds what it is told up to its own pages, which are of 16 or 64 KiB on some ARM
 * machines: rounding to smaller ones would give away memory of others. */
static size_t page_bytes(void)
{
    long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (size_t)n : LAZY_BYTES;
}

/* Gives whole pages inside [p, p + bytes) back to the kernel, which hands out zeroed ones when they
 * are touched, and zeroes the rest. */
static void zero_lazily(uint8_t *p, size_t bytes)
{
    if (bytes >= LAZY_BYTES) {
        const size_t page = page_bytes();
        size_t head = (size_t)(-(uintptr_t)p % page);
        size_t pages = head < bytes ? (bytes - head) / page * page : 0;
        if (pages > 0 && madvise(p + head, pages, MADV_DONTNEED) == 0) {
            memset(p, 0, head);
            memset(p + head + pages, 0, bytes - head - pages);
            return;
        }
    }
    memset(p, 0, bytes);
}

static void *calloc_at(size_t align, size_t n, size_t size)
{
    size_t bytes = 0;
    if (must_fail() || __builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - align) {
        return NULL;
    }
    bytes = (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    bytes = bytes ? bytes : LINE_BYTES;
    void *p = NULL;
    if (posix_memalign(&p, align, bytes) != 0) {
        return NULL;
    }
    if (align == HUGE_BYTES) {
        (void)madvise(p, bytes, MADV_HUGEPAGE);
    }
    zero_lazily(p, bytes);
    return p;
}

void *shoal_calloc_aligned(size_t n, size_t size)
{
    return calloc_at(LINE_BYTES, n, size);
}

void *shoal_calloc_huge(size_t n, size_t size)
{
    size_t bytes = 0;
    bool small = __builtin_mul_overflow(n, size, &bytes) || bytes < HUGE_BYTES;
    return calloc_at(small ? LINE_BYTES : HUGE_BYTES, n, size);
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

void shoal_mem_fail_here_at(uint64_t n)
{
    fail_here_at = n;
}
