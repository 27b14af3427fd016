/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes allocations of a whole program fail: a library for LD_PRELOAD. It counts and fails what the
 * program itself asks for, and what jansson and protobuf-c ask for, which get their memory from the
 * program; gRPC, libuv and OpenSSL, which end a process that is out of memory or are not ours to
 * test, are let through. A test sees and sets the counters in the file that SHOAL_SCARCE names.
 * Any thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The file: five integers of 64 bits, in the machine's order. */
typedef struct shoal_scarce {
    atomic_int_fast64_t wait;   /* so many allocations succeed from now on ... */
    atomic_int_fast64_t left;   /* ... then so many fail, in a row */
    atomic_int_fast64_t count;  /* allocations since the start */
    atomic_int_fast64_t failed; /* of them, failed */
    atomic_int_fast64_t where;  /* who asked for the one that failed last: an address in its file */
} shoal_scarce;

enum {
    RANGES_MAX = 8
};
typedef struct code_range {
    uintptr_t begin, end, base;
} code_range;

static shoal_scarce *scarce;
static code_range ranges[RANGES_MAX];
static size_t n_ranges;

/* What glibc's functions of these names are called inside of it. */
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static int note_code(struct dl_phdr_info *info, size_t size, void *user)
{
    (void)size;
    size_t *n_seen = user;
    bool ours = (*n_seen)++ == 0 || strstr(info->dlpi_name, "/libjansson.") ||
                strstr(info->dlpi_name, "/libprotobuf-c.");
    for (size_t i = 0; ours && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0 && n_ranges < RANGES_MAX) {
            uintptr_t begin = info->dlpi_addr + part->p_vaddr;
            ranges[n_ranges++] = (code_range){begin, begin + part->p_memsz, info->dlpi_addr};
        }
    }
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SHOAL_SCARCE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    void *p = mmap(NULL, sizeof *scarce, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (p == MAP_FAILED) {
        return;
    }
    size_t n_seen = 0;
    (void)dl_iterate_phdr(note_code, &n_seen);
    scarce = p; /* before the program's main and its threads */
}

static bool must_fail(const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    for (size_t i = 0; scarce && i < n_ranges; i++) {
        if (at < ranges[i].begin || at >= ranges[i].end) {
            continue;
        }
        atomic_fetch_add(&scarce->count, 1);
        if (atomic_load(&scarce->left) <= 0 || atomic_fetch_sub(&scarce->wait, 1) > 0 ||
            atomic_fetch_sub(&scarce->left, 1) <= 0) {
            return false;
        }
        atomic_fetch_add(&scarce->failed, 1);
        atomic_store(&scarce->where, (int_fast64_t)(at - ranges[i].base));
        return true;
    }
    return false;
}

#define EXPORT __attribute__((visibility("default")))

EXPORT void *calloc(size_t n, size_t size)
{
    if (must_fail(__builtin_return_address(0))) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(n, size);
}

EXPORT void *realloc(void *p, size_t size)
{
    if (must_fail(__builtin_return_address(0))) {
        errno = ENOMEM;
        return NULL;
    }
    return __libc_realloc(p, size);
}

EXPORT int posix_memalign(void **ret_p, size_t align, size_t size)
{
    void *p = must_fail(__builtin_return_address(0)) ? NULL : __libc_memalign(align, size);
    if (!p) {
        return ENOMEM;
    }
    *ret_p = p;
    return 0;
}
