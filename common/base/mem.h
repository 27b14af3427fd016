/* SPDX-License-Identifier: Apache-2.0
 *
 * Heap memory: the only door to the allocator, so that tests can count allocations and make the
 * n-th one fail. Sizes are checked; memory comes zeroed. Any thread.
 */
#ifndef SHOAL_BASE_MEM_H
#define SHOAL_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* n * size zeroed bytes, or NULL when out of memory or when the product overflows. n = 0 gives a
 * valid pointer. Free with shoal_free. */
void *shoal_calloc(size_t n, size_t size);

/* Same, aligned to 64 bytes. Large blocks take up memory as they are touched. Free with shoal_free.
 */
void *shoal_calloc_aligned(size_t n, size_t size);

/* Same, on huge pages where the kernel has them: for large blocks that are read over and over. */
void *shoal_calloc_huge(size_t n, size_t size);

/* Grows or shrinks to n * size bytes; new bytes are NOT zeroed. On NULL the old block is intact. */
void *shoal_realloc(void *p, size_t n, size_t size);

char *shoal_strndup(const char *s, size_t n);
char *shoal_strdup(const char *s);
void shoal_free(void *p);
static inline void shoal_free_cleanup(void *pp)
{
    shoal_free(*(void **)pp);
}

/* Tests: allocations since start (all threads); fail the n-th from now on (0: the next), once, of
 * all threads or of the calling one alone, whatever others allocate meanwhile. UINT64_MAX turns
 * failing off. */
uint64_t shoal_mem_count(void);
void shoal_mem_fail_at(uint64_t n);
void shoal_mem_fail_here_at(uint64_t n);

#endif
