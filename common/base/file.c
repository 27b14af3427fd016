/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/file.h"

#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    READ_CHUNK_BYTES = 8192
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
}

/* Words for errno, with the status a caller can act on. */
static shoal_status fail_errno(const char *path, const char *what, shoal_err *err)
{
    int number = errno;
    char space[128];
    const char *reason = strerror_r(number, space, sizeof space);
    shoal_status status = SHOAL_E_IO;
    if (number == ENOENT) {
        status = SHOAL_E_NOTFOUND;
    } else if (number == ENOMEM) {
        status = SHOAL_E_NOMEM;
    }
    return shoal_err_set(err, status, "%s: cannot %s: %s", path, what, reason);
}

static shoal_status open_for_reading(const char *path, int *ret_fd, shoal_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        return fail_errno(path, "open", err);
    }
    *ret_fd = fd;
    return SHOAL_OK;
}

static shoal_status read_all(int fd, const char *path, size_t limit, shoal_buf *buf, shoal_err *err)
{
    char chunk[READ_CHUNK_BYTES];
    size_t total = 0;
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_errno(path, "read", err);
        }
        if (n == 0) {
            /* Even an empty file leaves a terminated string behind. */
            return shoal_buf_append(buf, "", 0);
        }
        if ((size_t)n > limit - total) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "%s: longer than the limit of %zu bytes", path,
                                 limit);
        }
        total += (size_t)n;
        shoal_status status = shoal_buf_append(buf, chunk, (size_t)n);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "%s: %s after %zu bytes", path,
                                 shoal_status_text(status), total);
        }
    }
}

shoal_status shoal_file_read(const char *path, size_t limit, shoal_buf *buf, shoal_err *err)
{
    SHOAL_CLEANUP(close_fd) int fd = -1;
    SHOAL_TRY(open_for_reading(path, &fd, err));
    size_t before = buf->length;
    shoal_status status = read_all(fd, path, limit, buf, err);
    if (status != SHOAL_OK && buf->data) {
        buf->length = before;
        buf->data[before] = '\0';
    }
    return status;
}

/* The first bytes, at most n. */
static shoal_status read_head(int fd, const char *path, char *head, size_t n, size_t *ret_n,
                              shoal_err *err)
{
    size_t total = 0;
    while (total < n) {
        ssize_t got = read(fd, head + total, n - total);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_errno(path, "read", err);
        }
        if (got == 0) {
            break;
        }
        total += (size_t)got;
    }
    *ret_n = total;
    return SHOAL_OK;
}

shoal_status shoal_path_numbered(const char *text, char **ret_path, double *ret_number,
                                 bool *ret_has_number, shoal_err *err)
{
    const char *sign = strrchr(text, '=');
    char *end = NULL;
    double number = sign ? strtod(sign + 1, &end) : 0;
    bool numbered = sign && end != sign + 1 && *end == '\0';
    char *path = numbered ? shoal_strndup(text, (size_t)(sign - text)) : shoal_strdup(text);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the path of %s", text);
    }
    *ret_path = path;
    *ret_number = numbered ? number : 0;
    *ret_has_number = numbered;
    return SHOAL_OK;
}

shoal_status shoal_file_read_secret(const char *setting, const char *path,
                                    char ret_secret[SHOAL_SECRET_MAX + 1], shoal_err *err)
{
    SHOAL_CLEANUP(close_fd) int fd = -1;
    char head[SHOAL_SECRET_MAX + 1] = {0}; /* a line of the greatest length and what ends it */
    size_t n_head = 0;
    size_t n = 0;
    shoal_status status = open_for_reading(path, &fd, err);
    if (status == SHOAL_OK) {
        status = read_head(fd, path, head, sizeof head, &n_head, err);
    }
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", setting);
    }
    while (n < n_head && head[n] > ' ' && head[n] < 0x7f) {
        n++;
    }
    bool ends = n == n_head || head[n] == '\n' || head[n] == '\r';
    if (status == SHOAL_OK && (n < 1 || n > SHOAL_SECRET_MAX || !ends)) {
        status = shoal_err_set(err, SHOAL_E_INVALID,
                               "%s %.200s: its first line must be 1 to %d visible ASCII characters",
                               setting, path, (int)SHOAL_SECRET_MAX);
    }
    if (status == SHOAL_OK) {
        memcpy(ret_secret, head, n);
        ret_secret[n] = '\0';
    }
    explicit_bzero(head, sizeof head);
    return status;
}

shoal_status shoal_map_open(const char *path, shoal_map *ret_map, shoal_err *err)
{
    static const uint8_t nothing[1];
    SHOAL_CLEANUP(close_fd) int fd = -1;
    SHOAL_TRY(open_for_reading(path, &fd, err));
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return fail_errno(path, "stat", err);
    }
    if (!S_ISREG(st.st_mode)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: not a regular file, cannot be mapped",
                             path);
    }
    if (st.st_size == 0) {
        /* The kernel refuses an empty mapping; callers get an address they may not read. */
        *ret_map = (shoal_map){.data = nothing, .size = 0};
        return SHOAL_OK;
    }
    if ((uintmax_t)st.st_size > SIZE_MAX / 2) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: too large for this machine's addresses",
                             path);
    }
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        return fail_errno(path, "map", err);
    }
    *ret_map = (shoal_map){.data = data, .size = (size_t)st.st_size};
    return SHOAL_OK;
}

void shoal_map_close(shoal_map *map)
{
    if (map->size > 0) {
        int rc = munmap((void *)(uintptr_t)map->data, map->size);
        SHOAL_ASSERT(rc == 0);
    }
    map->data = NULL;
    map->size = 0;
}

void shoal_map_forget(const void *data, size_t n)
{
    long size = sysconf(_SC_PAGESIZE);
    uintptr_t page = size > 0 ? (uintptr_t)size : 65536;
    uintptr_t start = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)data + n) / page * page;
    if (start < end) {
        (void)madvise((void *)start, end - start, MADV_DONTNEED);
    }
}

enum {
    HUGE_BYTES = 2 << 20,
    PIECE_BYTES = 8 << 20 /* copied and put in place at once: this much is held twice */
};

/* Memory that starts at a huge page: taken with a page too much, the rest given back. */
static uint8_t *map_huge(size_t n)
{
    uint8_t *all =
        mmap(NULL, n + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        return NULL;
    }
    size_t head = (size_t)(-(uintptr_t)all % HUGE_BYTES);
    if (head > 0) {
        (void)munmap(all, head);
    }
    if (head < HUGE_BYTES) {
        (void)munmap(all + head + n, HUGE_BYTES - head);
    }
    if (madvise(all + head, n, MADV_HUGEPAGE) != 0) {
        (void)munmap(all + head, n);
        return NULL;
    }
    return all + head;
}

static bool use_huge_pages_in(const uint8_t *at, size_t n)
{
    uint8_t *copy = map_huge(n);
    if (!copy) {
        return false;
    }
    memcpy(copy, at, n);
    (void)mprotect(copy, n, PROT_READ);
    /* One step for every reader: a fault waits until the new pages stand. */
    if (mremap(copy, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)at) == MAP_FAILED) {
        (void)munmap(copy, n);
        return false;
    }
    return true;
}

bool shoal_map_use_huge_pages(const shoal_map *map, const atomic_bool *stop)
{
    size_t at = (size_t)(-(uintptr_t)map->data % HUGE_BYTES);
    while (map->size >= HUGE_BYTES && at <= map->size - HUGE_BYTES) {
        size_t n = SHOAL_MIN((size_t)PIECE_BYTES, (map->size - at) / HUGE_BYTES * HUGE_BYTES);
        if ((stop && atomic_load(stop)) || !use_huge_pages_in(map->data + at, n)) {
            return false;
        }
        at += n;
    }
    return true;
}

static bool write_all(int fd, const uint8_t *data, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, data, SHOAL_MIN(n, (size_t)SSIZE_MAX));
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return false;
        }
        data += done;
        n -= (size_t)done;
    }
    return true;
}

/* Syncs the folder of path, so that the rename itself survives a power cut. Some file systems
 * cannot sync a folder and say EINVAL: then there is nothing to wait for. */
static shoal_status sync_folder(const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(close_fd) int fd = -1;
    const char *slash = strrchr(path, '/');
    char *folder = NULL;
    if (!slash) {
        folder = shoal_strdup(".");
    } else {
        folder = shoal_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    }
    if (!folder) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    fd = open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    shoal_free(folder);
    if (fd < 0) {
        return errno == EACCES ? SHOAL_OK : fail_errno(path, "open the folder of", err);
    }
    if (fsync(fd) != 0 && errno != EINVAL) {
        return fail_errno(path, "sync the folder of", err);
    }
    return SHOAL_OK;
}

struct shoal_file_out {
    char *path;
    char *tmp;
    int fd;
    bool made; /* tmp is there and ours */
};

static shoal_status create_tmp(shoal_file_out *out, shoal_err *err)
{
    /* A leftover of a crash goes away first; O_EXCL then refuses a link planted in between. */
    (void)unlink(out->tmp);
    out->fd = open(out->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (out->fd < 0) {
        return fail_errno(out->tmp, "create", err);
    }
    out->made = true;
    struct stat st;
    if (stat(out->path, &st) == 0 && fchmod(out->fd, st.st_mode & 0777) != 0) {
        return fail_errno(out->tmp, "set the mode of", err);
    }
    return SHOAL_OK;
}

shoal_status shoal_file_out_open(const char *path, shoal_file_out **ret_out, shoal_err *err)
{
    size_t length = strlen(path);
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = shoal_calloc(1, sizeof *out);
    if (!out) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    out->fd = -1;
    out->path = shoal_strdup(path);
    out->tmp = shoal_calloc(length + sizeof ".tmp", 1);
    if (!out->path || !out->tmp) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    memcpy(out->tmp, path, length);
    memcpy(out->tmp + length, ".tmp", sizeof ".tmp");
    SHOAL_TRY(create_tmp(out, err));
    *ret_out = SHOAL_STEAL(out);
    return SHOAL_OK;
}

shoal_status shoal_file_out_write(shoal_file_out *out, const void *data, size_t n, shoal_err *err)
{
    return write_all(out->fd, data, n) ? SHOAL_OK : fail_errno(out->tmp, "write", err);
}

shoal_status shoal_file_out_commit(shoal_file_out *out, shoal_err *err)
{
    if (fsync(out->fd) != 0) {
        return fail_errno(out->tmp, "sync", err);
    }
    if (rename(out->tmp, out->path) != 0) {
        return fail_errno(out->path, "rename into", err);
    }
    out->made = false;
    return sync_folder(out->path, err);
}

void shoal_file_out_close(shoal_file_out *out)
{
    if (!out) {
        return;
    }
    close_fd(&out->fd);
    if (out->made) {
        (void)unlink(out->tmp);
    }
    shoal_free(out->path);
    shoal_free(out->tmp);
    shoal_free(out);
}

shoal_status shoal_file_write(const char *path, const void *data, size_t n, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_TRY(shoal_file_out_open(path, &out, err));
    SHOAL_TRY(shoal_file_out_write(out, data, n, err));
    return shoal_file_out_commit(out, err);
}
