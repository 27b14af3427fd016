/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli, reflected polynomial 0x82F63B78; RFC 3720, appendix B.4): finds what storage
 * and links do to bytes by accident. It is no proof against intent. Pure, any thread; the
 * processor's instruction where it has one, the same numbers without.
 */
#ifndef SHOAL_BASE_CRC32C_H
#define SHOAL_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of n more bytes after those that gave crc; crc is 0 at the start. */
uint32_t shoal_crc32c(uint32_t crc, const void *data, size_t n);
/* The same from tables alone, for comparison. */
uint32_t shoal_crc32c_portable(uint32_t crc, const void *data, size_t n);

#endif
