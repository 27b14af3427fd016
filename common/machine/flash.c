/* SPDX-License-Identifier: Apache-2.0 */
#include "common/machine/flash.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    PATH_BYTES = 4096
};

static shoal_status refuse(const char *folder, const char *what, shoal_err *err)
{
    char space[128];
    return shoal_err_set(err, SHOAL_E_IO, "%s: cannot %s a file to measure with: %s", folder, what,
                         strerror_r(errno, space, sizeof space));
}

/* What is written is no run of zeros, which a device may not store at all. */
static void fill(uint64_t *piece, uint64_t seed)
{
    for (size_t i = 0; i < SHOAL_FLASH_PIECE / sizeof *piece; i++) {
        piece[i] = (seed * SHOAL_FLASH_PIECE + i) * 0x9E3779B97F4A7C15U;
    }
}

static bool move(int fd, bool out, uint8_t *piece)
{
    for (size_t at = 0; at < SHOAL_FLASH_PIECE;) {
        ssize_t n = out ? write(fd, piece + at, SHOAL_FLASH_PIECE - at)
                        : read(fd, piece + at, SHOAL_FLASH_PIECE - at);
        if (n == 0) {
            errno = EIO; /* somebody cut it */
        }
        if (n <= 0 && errno != EINTR) {
            return false;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    return true;
}

static shoal_status measure(int fd, const char *folder, size_t n_pieces, double *ret_s,
                            shoal_err *err)
{
    const shoal_clock clock = shoal_clock_real();
    SHOAL_CLEANUP(shoal_free_cleanup) uint64_t *piece = shoal_calloc_aligned(SHOAL_FLASH_PIECE, 1);
    if (!piece) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to write a file with");
    }
    for (size_t i = 0; i < n_pieces; i++) {
        fill(piece, i);
        if (!move(fd, true, (uint8_t *)piece)) {
            return refuse(folder, "write", err);
        }
    }
    if (fsync(fd) != 0 || lseek(fd, 0, SEEK_SET) != 0) {
        return refuse(folder, "write", err);
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    uint64_t begin = shoal_clock_now_ns(&clock);
    for (size_t i = 0; i < n_pieces; i++) {
        if (!move(fd, false, (uint8_t *)piece)) {
            return refuse(folder, "read", err);
        }
    }
    *ret_s = (double)SHOAL_MAX(shoal_clock_now_ns(&clock) - begin, (uint64_t)1) * 1e-9;
    return SHOAL_OK;
}

shoal_status shoal_flash_measure(const char *folder, size_t n_bytes, double *ret_gb_s,
                                 shoal_err *err)
{
    char path[PATH_BYTES];
    double seconds = 0;
    SHOAL_ASSERT(n_bytes > 0 && n_bytes % SHOAL_FLASH_PIECE == 0);
    int n = snprintf(path, sizeof path, "%s/.shoal-flash-XXXXXX", folder);
    if (n < 0 || n >= (int)sizeof path) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%.64s...: the path is too long", folder);
    }
    int fd = mkstemp(path);
    if (fd < 0) {
        return refuse(folder, "make", err);
    }
    (void)unlink(path); /* nothing stays behind, whatever happens */
    shoal_status status = measure(fd, folder, n_bytes / SHOAL_FLASH_PIECE, &seconds, err);
    (void)close(fd);
    if (status == SHOAL_OK) {
        *ret_gb_s = (double)n_bytes * 1e-9 / seconds;
    }
    return status;
}
