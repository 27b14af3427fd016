/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a stored block of KV: no crash, a refusal has words, and what is taken and sealed
 * anew has the same bytes. The same bytes with their checksums put right reach the fields behind.
 */
#include "cloud/store/block.h"

#include "common/base/crc32c.h"

#include <string.h>

enum {
    HEADER = SHOAL_BLOCK_HEADER_BYTES,
    AT_PAYLOAD_CRC = 28,
    AT_HEADER_CRC = 252
};

static void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static void check(const uint8_t *bytes, size_t n)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_block_id id;
    if (shoal_block_parse(bytes, n, &id, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    shoal_block *block = NULL;
    if (shoal_block_copy(bytes, n, &block) != SHOAL_OK) {
        return; /* out of memory */
    }
    SHOAL_ASSERT(shoal_block_check(block, &id, &err) == SHOAL_OK);
    shoal_block_seal(block, &id);
    SHOAL_ASSERT(memcmp(shoal_block_bytes(block), bytes, n) == 0);
    id.name.bytes[7] ^= 1;
    SHOAL_ASSERT(shoal_block_check(block, &id, &err) == SHOAL_E_MISMATCH);
    shoal_block_free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    shoal_block *block = NULL;
    if (size <= HEADER || shoal_block_copy(data, size, &block) != SHOAL_OK) {
        return 0;
    }
    uint8_t *bytes = shoal_block_bytes_mut(block);
    put_u32(bytes + AT_PAYLOAD_CRC, shoal_crc32c(0, bytes + HEADER, size - HEADER));
    put_u32(bytes + AT_HEADER_CRC, shoal_crc32c(0, bytes, AT_HEADER_CRC));
    check(bytes, size);
    shoal_block_free(block);
    return 0;
}
