/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/crc32c.h"

#include <pthread.h>
#include <string.h>

enum {
    SLICES = 8
};

static const uint32_t polynomial = 0x82F63B78u;
static uint32_t tables[SLICES][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

/* tables[s][b]: the remainder of byte b followed by s zero bytes. */
static void make_tables(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) ? polynomial : 0);
        }
        tables[0][b] = crc;
    }
    for (uint32_t b = 0; b < 256; b++) {
        for (size_t s = 1; s < SLICES; s++) {
            uint32_t before = tables[s - 1][b];
            tables[s][b] = (before >> 8) ^ tables[0][before & 255u];
        }
    }
}

uint32_t shoal_crc32c_portable(uint32_t crc, const void *data, size_t n)
{
    (void)pthread_once(&tables_once, make_tables);
    const uint8_t *p = data;
    crc = ~crc;
    for (; n >= SLICES; n -= SLICES, p += SLICES) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                              (uint32_t)p[3] << 24);
        crc = tables[7][low & 255u] ^ tables[6][(low >> 8) & 255u] ^ tables[5][(low >> 16) & 255u] ^
              tables[4][low >> 24] ^ tables[3][p[4]] ^ tables[2][p[5]] ^ tables[1][p[6]] ^
              tables[0][p[7]];
    }
    for (; n > 0; n--, p++) {
        crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 255u];
    }
    return ~crc;
}

#if defined(__x86_64__)
#    include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t with_sse42(uint32_t crc, const uint8_t *p,
                                                             size_t n)
{
    uint64_t wide = ~crc;
    for (; n >= sizeof wide; n -= sizeof wide, p += sizeof wide) {
        uint64_t word = 0;
        memcpy(&word, p, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    uint32_t narrow = (uint32_t)wide;
    for (; n > 0; n--, p++) {
        narrow = _mm_crc32_u8(narrow, *p);
    }
    return ~narrow;
}

uint32_t shoal_crc32c(uint32_t crc, const void *data, size_t n)
{
    return __builtin_cpu_supports("sse4.2") ? with_sse42(crc, data, n)
                                            : shoal_crc32c_portable(crc, data, n);
}
#else
uint32_t shoal_crc32c(uint32_t crc, const void *data, size_t n)
{
    return shoal_crc32c_portable(crc, data, n);
}
#endif
