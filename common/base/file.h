/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole files: read into memory, mapped read-only, written by write-then-rename. Any thread.
 */
#ifndef SHOAL_BASE_FILE_H
#define SHOAL_BASE_FILE_H

#include "common/base/buf.h"

#include <stdint.h>

/* Reads all of path, at most limit bytes, appended to buf. Errors name the path and the reason. */
shoal_status shoal_file_read(const char *path, size_t limit, shoal_buf *buf,
                             shoal_err *err) SHOAL_MUST_CHECK;

/* A read-only private mapping of a regular file. */
typedef struct shoal_map {
    const uint8_t *data;
    size_t size;
} shoal_map;
shoal_status shoal_map_open(const char *path, shoal_map *ret_map, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_map_close(shoal_map *map);

/* Writes path.tmp, syncs, renames: readers see the old content or the new, never a part. */
shoal_status shoal_file_write(const char *path, const void *data, size_t n,
                              shoal_err *err) SHOAL_MUST_CHECK;

#endif
