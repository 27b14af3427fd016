/* SPDX-License-Identifier: Apache-2.0
 *
 * Little-endian numbers in bytes, at any address. Pure, any thread.
 */
#ifndef SHOAL_BASE_LE_H
#define SHOAL_BASE_LE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t shoal_le_u32(const uint8_t *at)
{
    uint32_t x = 0;
    memcpy(&x, at, sizeof x);
    return le32toh(x);
}

static inline uint64_t shoal_le_u64(const uint8_t *at)
{
    uint64_t x = 0;
    memcpy(&x, at, sizeof x);
    return le64toh(x);
}

static inline void shoal_le_put_u32(uint8_t *at, uint32_t value)
{
    uint32_t x = htole32(value);
    memcpy(at, &x, sizeof x);
}

static inline void shoal_le_put_u64(uint8_t *at, uint64_t value)
{
    uint64_t x = htole64(value);
    memcpy(at, &x, sizeof x);
}

#endif
