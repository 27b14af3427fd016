/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast a folder's device is read: a file is written there, written through, dropped from the
 * page cache and read once in order. Any thread; blocks.
 */
#ifndef SHOAL_MACHINE_FLASH_H
#define SHOAL_MACHINE_FLASH_H

#include "common/base/macros.h"

#include <stddef.h>

enum {
    SHOAL_FLASH_PIECE = 1 << 20 /* bytes of one read */
};

/* GB/s of the wall over n_bytes, a multiple of SHOAL_FLASH_PIECE above 0. The file is gone
 * afterwards. A file system that has no device (tmpfs) gives the speed of memory. Errors name the
 * folder and the reason. */
shoal_status shoal_flash_measure(const char *folder, size_t n_bytes, double *ret_gb_s,
                                 shoal_err *err) SHOAL_MUST_CHECK;

#endif
