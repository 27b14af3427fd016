/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes the disk below some folders fail or take its time: a library for LD_PRELOAD. Calls on files
 * whose path begins with one of the folders in SHOAL_AILING_FOLDERS (divided by ':') fail with an
 * errno, or wait first; sockets, pipes and all other files are let through. What fails and how is
 * in the file that SHOAL_AILING names, which a test sees and sets while the program runs. What
 * libraries read and write inside of libc, such as stdio, is not seen, but for fopen. Any thread.
 */
#undef _FORTIFY_SOURCE /* its headers have bodies of their own for what is defined here */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <dlfcn.h>

/* Kinds of calls, as bits of what fails and what waits. */
enum {
    AILING_OPEN = 1,
    AILING_READ = 2,
    AILING_WRITE = 4,
    AILING_SYNC = 8,
    AILING_RENAME = 16
};

/* The file: integers of 64 bits, in the machine's order. */
typedef struct shoal_ailing {
    atomic_int_fast64_t fails;    /* bits */
    atomic_int_fast64_t number;   /* errno of those */
    atomic_int_fast64_t waits;    /* bits */
    atomic_int_fast64_t wait_us;  /* of those */
    atomic_int_fast64_t n_calls;  /* on these folders since the start */
    atomic_int_fast64_t n_failed; /* of them */
    atomic_int_fast64_t n_waited;
} shoal_ailing;

enum {
    FDS_MAX = 4096 /* descriptors from this one on are let through */
};
static shoal_ailing *ailing;
static const char *folders;
static atomic_bool below[FDS_MAX]; /* descriptors of plain files below one of the folders */

#define EXPORT __attribute__((visibility("default")))

static bool is_below(const char *path)
{
    const char *at = folders;
    while (at && *at) {
        const char *end = strchr(at, ':');
        size_t n = end ? (size_t)(end - at) : strlen(at);
        if (n > 0 && strncmp(path, at, n) == 0 && (path[n] == '/' || path[n] == '\0')) {
            return true;
        }
        at = end ? end + 1 : NULL;
    }
    return false;
}

/* Of a descriptor, by the name that the kernel has for it. */
static bool is_fd_below(int fd)
{
    char name[64];
    char path[PATH_MAX];
    (void)snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, name, path, sizeof path - 1);
    if (n <= 0) {
        return false;
    }
    path[n] = '\0';
    return is_below(path);
}

static bool is_path_below(int dir, const char *path)
{
    return ailing && (path[0] == '/' ? is_below(path) : dir >= 0 && is_fd_below(dir));
}

static bool is_marked(int fd)
{
    return ailing && fd >= 0 && fd < FDS_MAX && atomic_load(&below[fd]);
}

static void mark(int fd, bool on)
{
    if (fd >= 0 && fd < FDS_MAX) {
        atomic_store(&below[fd], on);
    }
}

/* Before a call on one of the folders: true when it fails, with errno set. */
static bool suffer(int kind)
{
    atomic_fetch_add(&ailing->n_calls, 1);
    if ((atomic_load(&ailing->waits) & kind) != 0) {
        int64_t us = atomic_load(&ailing->wait_us);
        struct timespec rest = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
        atomic_fetch_add(&ailing->n_waited, 1);
        (void)syscall(SYS_nanosleep, &rest, NULL);
    }
    if ((atomic_load(&ailing->fails) & kind) == 0) {
        return false;
    }
    atomic_fetch_add(&ailing->n_failed, 1);
    errno = (int)atomic_load(&ailing->number);
    return true;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SHOAL_AILING");
    folders = getenv("SHOAL_AILING_FOLDERS");
    int fd = path && folders ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) {
        return;
    }
    void *p = mmap(NULL, sizeof *ailing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    (void)syscall(SYS_close, fd);
    if (p == MAP_FAILED) {
        return;
    }
    ailing = p; /* before the program's main and its threads */
    for (fd = 0; fd <= STDERR_FILENO; fd++) {
        mark(fd, is_fd_below(fd)); /* a log */
    }
}

/* --- descriptors --------------------------------------------------------------------------------
 */

static int open_at(int dir, const char *path, int flags, mode_t mode)
{
    bool sick = is_path_below(dir, path);
    if (sick && suffer(AILING_OPEN)) {
        return -1;
    }
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    /* Folders are closed inside of libc, unseen, and their numbers used again. */
    mark(fd, sick && (flags & O_DIRECTORY) == 0);
    return fd;
}

static mode_t mode_of(int flags, va_list args)
{
    return (flags & (O_CREAT | __O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
}

#define OPEN(name)                                                                                 \
    EXPORT int name(const char *path, int flags, ...)                                              \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        return open_at(AT_FDCWD, path, flags, mode);                                               \
    }
#define OPENAT(name)                                                                               \
    EXPORT int name(int dir, const char *path, int flags, ...)                                     \
    {                                                                                              \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t mode = mode_of(flags, args);                                                        \
        va_end(args);                                                                              \
        return open_at(dir, path, flags, mode);                                                    \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

EXPORT int close(int fd)
{
    mark(fd, false);
    return (int)syscall(SYS_close, fd);
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
    FILE *(*next)(const char *, const char *) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "fopen");
    memcpy(&next, &symbol, sizeof next);
    if (!next || (is_path_below(AT_FDCWD, path) && suffer(AILING_OPEN))) {
        return NULL;
    }
    return next(path, mode);
}

/* --- data ---------------------------------------------------------------------------------------
 */

EXPORT ssize_t read(int fd, void *data, size_t n)
{
    return is_marked(fd) && suffer(AILING_READ) ? -1 : syscall(SYS_read, fd, data, n);
}

EXPORT ssize_t pread(int fd, void *data, size_t n, off_t at)
{
    return is_marked(fd) && suffer(AILING_READ) ? -1 : syscall(SYS_pread64, fd, data, n, at);
}

EXPORT ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{
    return is_marked(fd) && suffer(AILING_READ) ? -1 : syscall(SYS_pread64, fd, data, n, at);
}

EXPORT ssize_t write(int fd, const void *data, size_t n)
{
    return is_marked(fd) && suffer(AILING_WRITE) ? -1 : syscall(SYS_write, fd, data, n);
}

/* fsync is asked of folders too, which are not marked. */
EXPORT int fsync(int fd)
{
    bool sick = is_marked(fd) || (ailing && is_fd_below(fd));
    return sick && suffer(AILING_SYNC) ? -1 : (int)syscall(SYS_fsync, fd);
}

EXPORT int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    bool sick = is_path_below(from_dir, from) || is_path_below(to_dir, to);
    return sick && suffer(AILING_RENAME)
               ? -1
               : (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

EXPORT int rename(const char *from, const char *to)
{
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
