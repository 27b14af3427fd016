/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/arena.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

#include <string.h>

#if defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define ARENA_POISONS 1
#    endif
#elif defined(__SANITIZE_ADDRESS__)
#    define ARENA_POISONS 1
#endif

#ifdef ARENA_POISONS
#    include <sanitizer/asan_interface.h>
#    define POISON(p, n)   ASAN_POISON_MEMORY_REGION((p), (n))
#    define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#    define POISON(p, n)   ((void)(p), (void)(n))
#    define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

enum {
    ARENA_ALIGN = 64
};

struct shoal_arena {
    uint8_t *data;
    size_t size;
    size_t used; /* always a multiple of ARENA_ALIGN, or size */
};

shoal_status shoal_arena_new(size_t size_bytes, shoal_arena **ret_arena)
{
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = shoal_calloc(1, sizeof *arena);
    if (!arena) {
        return SHOAL_E_NOMEM;
    }
    arena->data = shoal_calloc_aligned(size_bytes, 1);
    if (!arena->data) {
        return SHOAL_E_NOMEM;
    }
    arena->size = size_bytes;
    POISON(arena->data, arena->size);
    *ret_arena = SHOAL_STEAL(arena);
    return SHOAL_OK;
}

void shoal_arena_free(shoal_arena *arena)
{
    if (!arena) {
        return;
    }
    if (arena->data) {
        UNPOISON(arena->data, arena->size);
    }
    shoal_free(arena->data);
    shoal_free(arena);
}

void *shoal_arena_take(shoal_arena *arena, size_t n, size_t size)
{
    size_t bytes = 0;
    if (!shoal_mul_size(n, size, &bytes)) {
        return NULL;
    }
    /* An empty piece still takes a place, so that no two pieces have one address. */
    size_t room = arena->size - arena->used;
    size_t place = bytes ? bytes : 1;
    if (place > room) {
        return NULL;
    }
    uint8_t *piece = arena->data + arena->used;
    /* The padding up to the next piece stays poisoned: an overrun by one byte is seen. */
    UNPOISON(piece, bytes);
    memset(piece, 0, bytes);
    size_t step = (place + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    arena->used += place > SIZE_MAX - ARENA_ALIGN || step > room ? room : step;
    return piece;
}

void shoal_arena_reset(shoal_arena *arena)
{
    arena->used = 0;
    POISON(arena->data, arena->size);
}

size_t shoal_arena_used(const shoal_arena *arena)
{
    return arena->used;
}

size_t shoal_arena_size(const shoal_arena *arena)
{
    return arena->size;
}
