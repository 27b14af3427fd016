/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a unit of archived KV: no crash, a refusal has words, and what is taken decodes to
 * finite numbers, twice the same, and is refused for another place. The same bytes with header and
 * checksum put right reach the codes behind; and as a block of all groups they are refused or
 * taken. The first byte chooses group, position and kind of unit.
 */
#include "common/archive/archive.h"

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "tests/support/tiny_archive.h"

#include <string.h>

enum {
    HEADER = 20,
    AT_CRC = 16,
    PAGES_MAX = SHOAL_TINY_ARCHIVE_CHANNELS * SHOAL_KV_BLOCK
};

static const shoal_archive *archive;
static shoal_archive_work *work;
static shoal_kernels kernels;
/* As the encoder writes them: others would refuse all that is mended. */
static uint8_t magics[2][4];

static void open_once(void)
{
    static shoal_tiny_archive tiny;
    static shoal_archive *opened;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    if (archive) {
        return;
    }
    shoal_kernels_init(&kernels, UINT32_MAX);
    shoal_tiny_archive_init(&tiny, 1, 9, 0.05F);
    SHOAL_ASSERT(shoal_archive_plan_write(&tiny.plan, &file, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_archive_open((const uint8_t *)file.data, file.length, &tiny.plan.model,
                                    &tiny.plan.shape, &opened, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_archive_work_new(opened, &work) == SHOAL_OK);
    static const uint16_t zeros[PAGES_MAX];
    size_t n = 0;
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *bytes = shoal_calloc(shoal_archive_block_bytes(opened), 1);
    SHOAL_ASSERT(bytes && shoal_archive_encode(opened, &kernels, work, 0, 32,
                                               (const uint8_t *)zeros, bytes, &n) == SHOAL_OK);
    memcpy(magics[0], bytes, sizeof magics[0]);
    SHOAL_ASSERT(shoal_archive_near_encode(opened, &kernels, work, 0, 32, (const uint8_t *)zeros,
                                           bytes) == SHOAL_OK);
    memcpy(magics[1], bytes, sizeof magics[1]);
    archive = opened;
}

static shoal_status decode(bool near, size_t group, size_t position, const uint8_t *unit, size_t n,
                           uint16_t *ret_pages, shoal_err *err)
{
    uint8_t *pages = (uint8_t *)ret_pages;
    return near ? shoal_archive_near_decode(archive, &kernels, work, group, position, unit, n,
                                            pages, err)
                : shoal_archive_decode(archive, &kernels, work, group, position, unit, n, pages,
                                       err);
}

static void check(bool near, size_t group, size_t position, const uint8_t *unit, size_t n)
{
    static uint16_t pages[2][PAGES_MAX];
    shoal_archive_group info = shoal_archive_group_at(archive, group);
    shoal_err err = SHOAL_ERR_INIT;
    memset(pages, 0xFF, sizeof pages);
    if (decode(near, group, position, unit, n, pages[0], &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0' && pages[0][0] == 0xFFFF);
        return;
    }
    for (size_t i = 0; i < info.page_bytes / 2; i++) {
        SHOAL_ASSERT((pages[0][i] & 0x7C00) != 0x7C00);
    }
    SHOAL_ASSERT(decode(near, group, position, unit, n, pages[1], NULL) == SHOAL_OK);
    SHOAL_ASSERT(memcmp(pages[0], pages[1], info.page_bytes) == 0);
    SHOAL_ASSERT(decode(near, group, position + 32, unit, n, pages[1], NULL) != SHOAL_OK);
    SHOAL_ASSERT(decode(!near, group, position, unit, n, pages[1], NULL) != SHOAL_OK);
}

/* Of all groups: the units' lengths are hostile too. */
static void check_block(bool near, size_t block, const uint8_t *bytes, size_t n)
{
    static uint16_t pages[SHOAL_TINY_ARCHIVE_GROUPS * PAGES_MAX];
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_archive_block_decode(archive, &kernels, work, block, near, bytes, n,
                                                     (uint8_t *)pages, &err);
    SHOAL_ASSERT(status == SHOAL_OK || err.text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    open_once();
    if (size == 0) {
        return 0;
    }
    size_t group = data[0] & 1;
    size_t position = (data[0] >> 1 & 3) * 32;
    bool near = data[0] >> 3 & 1;
    check(near, group, position, data + 1, size - 1);
    check_block(near, position / 32, data + 1, size - 1);
    /* A near unit has one length: what lacks are zeros. */
    size_t n = near ? shoal_archive_near_bytes(archive, group) : size - 1 + HEADER;
    size_t n_data = SHOAL_MIN(size - 1, n - HEADER);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *unit = shoal_calloc(n, 1);
    if (!unit) {
        return 0;
    }
    memcpy(unit, magics[near], sizeof magics[near]);
    memcpy(unit + 4, shoal_archive_hash(archive)->bytes, 4);
    shoal_le_put_u32(unit + 8, (uint32_t)position);
    shoal_le_put_u32(unit + 12, (uint32_t)group);
    memcpy(unit + HEADER, data + 1, n_data);
    shoal_le_put_u32(unit + AT_CRC,
                     shoal_crc32c(shoal_crc32c(0, unit, AT_CRC), unit + HEADER, n - HEADER));
    check(near, group, position, unit, n);
    return 0;
}
