/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole files: read into memory, mapped read-only, written by write-then-rename; secrets. Any
 * thread.
 */
#ifndef SHOAL_BASE_FILE_H
#define SHOAL_BASE_FILE_H

#include "common/base/buf.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Reads all of path, at most limit bytes, appended to buf. Errors name the path and the reason. */
shoal_status shoal_file_read(const char *path, size_t limit, shoal_buf *buf,
                             shoal_err *err) SHOAL_MUST_CHECK;

/* PATH or PATH=NUMBER, as options and settings name a file with its strength or share: without a
 * number behind its last '=' the whole text is the path. A number is what strtod takes, "nan" and
 * "inf" too; without one it is 0. The path is the caller's (shoal_free). SHOAL_E_NOMEM. */
shoal_status shoal_path_numbered(const char *text, char **ret_path, double *ret_number,
                                 bool *ret_has_number, shoal_err *err) SHOAL_MUST_CHECK;

enum {
    SHOAL_SECRET_MAX = 4096 /* bytes of a secret */
};

/* A key or a password: the first line of path, 1 to SHOAL_SECRET_MAX visible ASCII characters.
 * Nothing else of the file is looked at, and no copy stays behind. Errors name the setting and the
 * path. */
shoal_status shoal_file_read_secret(const char *setting, const char *path,
                                    char ret_secret[SHOAL_SECRET_MAX + 1],
                                    shoal_err *err) SHOAL_MUST_CHECK;

/* A read-only private mapping of a regular file. */
typedef struct shoal_map {
    const uint8_t *data;
    size_t size;
} shoal_map;
shoal_status shoal_map_open(const char *path, shoal_map *ret_map, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_map_close(shoal_map *map);
/* Part of a mapping has been read and will not be for a while: its whole pages leave this process,
 * and come back from the file when they are touched. */
void shoal_map_forget(const void *data, size_t n);
/* Puts a private copy in huge pages, as far as the kernel has them, where the file's pages are
 * mapped: what is read whole again and again costs fewer misses of the TLB then. Addresses and
 * content stay; threads may read meanwhile. The copy no longer follows the file, is not shared with
 * other processes and cannot be dropped under pressure. False: left as it was, wholly or from some
 * place on, because memory or huge pages are missing, or *stop came true; NULL: it never does. */
bool shoal_map_use_huge_pages(const shoal_map *map, const atomic_bool *stop);

/* Writes path.tmp, syncs, renames: readers see the old content or the new, never a part. */
shoal_status shoal_file_write(const char *path, const void *data, size_t n,
                              shoal_err *err) SHOAL_MUST_CHECK;

/* The same in pieces, for what is too large for memory. Nothing is at path before commit. */
typedef struct shoal_file_out shoal_file_out;
shoal_status shoal_file_out_open(const char *path, shoal_file_out **ret_out,
                                 shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_file_out_write(shoal_file_out *out, const void *data, size_t n,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* Syncs and renames. */
shoal_status shoal_file_out_commit(shoal_file_out *out, shoal_err *err) SHOAL_MUST_CHECK;
/* Forgets what was not committed. Accepts NULL. */
void shoal_file_out_close(shoal_file_out *out);
SHOAL_DEFINE_CLEANUP(shoal_file_out, shoal_file_out_close)

#endif
