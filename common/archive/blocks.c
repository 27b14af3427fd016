/* SPDX-License-Identifier: Apache-2.0
 *
 * A block of all layers as its groups' units, one after the other: what a blob carries.
 */
#include "common/archive/archive_internal.h"

#include "common/base/le.h"
#include "common/base/mem.h"

#include <math.h>

enum {
    UNIT_HEAD = 4, /* bytes of the unit's length */
    STATES_BYTES = 4 * ARCHIVE_STATES,
    N_MEASURED = 2 /* blocks: the first finds cold memory */
};

size_t shoal_archive_block_bytes(const shoal_archive *archive)
{
    size_t n = 0;
    for (size_t g = 0; g < archive->n_groups; g++) {
        n += UNIT_HEAD +
             SHOAL_MAX(archive->groups[g].info.unit_bytes, shoal_archive_near_bytes(archive, g));
    }
    return n;
}

size_t shoal_archive_block_bytes_near(const shoal_archive *archive)
{
    size_t n = 0;
    for (size_t g = 0; g < archive->n_groups; g++) {
        n += UNIT_HEAD + shoal_archive_near_bytes(archive, g);
    }
    return n;
}

/* Bits of one code: the entropy of its table, and the two bytes behind an escape. */
static double code_bits(const archive_table *table)
{
    double bits = 0;
    for (size_t i = 0; i < SHOAL_ARCHIVE_SYMBOLS; i++) {
        double share = (double)table->freq[i] / ARCHIVE_SCALE;
        bits += share > 0 ? -share * log2(share) : 0;
    }
    return bits + 16.0 * table->freq[SHOAL_ARCHIVE_ESCAPE] / ARCHIVE_SCALE;
}

double shoal_archive_block_bytes_likely(const shoal_archive *archive)
{
    double n = 0;
    for (size_t g = 0; g < archive->n_groups; g++) {
        const archive_group *group = &archive->groups[g];
        double bits = 0;
        for (size_t i = 0; i < group->info.n_kept; i++) {
            bits += ARCHIVE_TOKENS * code_bits(&archive->tables[group->table[i]]);
        }
        n += UNIT_HEAD + ARCHIVE_HEADER_BYTES + STATES_BYTES + bits / 8;
    }
    return n;
}

shoal_status shoal_archive_block_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                        shoal_archive_work *work, size_t block, bool near,
                                        const uint8_t *pages, uint8_t *ret_bytes, size_t *ret_n)
{
    size_t n = 0;
    size_t position = block * ARCHIVE_TOKENS;
    for (size_t g = 0; g < archive->n_groups; g++) {
        uint8_t *unit = ret_bytes + n + UNIT_HEAD;
        size_t n_unit = shoal_archive_near_bytes(archive, g);
        SHOAL_TRY(
            near ? shoal_archive_near_encode(archive, kernels, work, g, position, pages, unit)
                 : shoal_archive_encode(archive, kernels, work, g, position, pages, unit, &n_unit));
        shoal_le_put_u32(ret_bytes + n, (uint32_t)n_unit);
        n += UNIT_HEAD + n_unit;
        pages += archive->groups[g].info.page_bytes;
    }
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_archive_block_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                        shoal_archive_work *work, size_t block, bool near,
                                        const uint8_t *bytes, size_t n, uint8_t *ret_pages,
                                        shoal_err *err)
{
    size_t at = 0;
    size_t position = block * ARCHIVE_TOKENS;
    for (size_t g = 0; g < archive->n_groups; g++) {
        size_t n_left = n - at;
        size_t n_unit = n_left < UNIT_HEAD ? 0 : shoal_le_u32(bytes + at);
        if (n_left < UNIT_HEAD || n_unit > n_left - UNIT_HEAD) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "archived block %zu: group %zu has %zu bytes, its unit ends "
                                 "behind them",
                                 block, g, n_left);
        }
        const uint8_t *unit = bytes + at + UNIT_HEAD;
        SHOAL_TRY(near ? shoal_archive_near_decode(archive, kernels, work, g, position, unit,
                                                   n_unit, ret_pages, err)
                       : shoal_archive_decode(archive, kernels, work, g, position, unit, n_unit,
                                              ret_pages, err));
        at += UNIT_HEAD + n_unit;
        ret_pages += archive->groups[g].info.page_bytes;
    }
    return at == n ? SHOAL_OK
                   : shoal_err_set(err, SHOAL_E_INVALID,
                                   "archived block %zu: %zu bytes follow its last group", block,
                                   n - at);
}

shoal_status shoal_archive_measure(const shoal_archive *archive, const shoal_kernels *kernels,
                                   const shoal_clock *clock, double *ret_encode_us,
                                   double *ret_decode_us)
{
    size_t page_bytes = 0;
    for (size_t g = 0; g < archive->n_groups; g++) {
        page_bytes += archive->groups[g].info.page_bytes;
    }
    SHOAL_CLEANUP(shoal_archive_work_freep) shoal_archive_work *work = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *pages = shoal_calloc_aligned(page_bytes, 1);
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *bytes = shoal_calloc(shoal_archive_block_bytes(archive), 1);
    if (!pages || !bytes) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(shoal_archive_work_new(archive, &work));
    for (size_t i = 0; i < N_MEASURED; i++) {
        size_t n = 0;
        uint64_t start_ns = shoal_clock_now_ns(clock);
        SHOAL_TRY(shoal_archive_block_encode(archive, kernels, work, 1, false, pages, bytes, &n));
        uint64_t middle_ns = shoal_clock_now_ns(clock);
        SHOAL_TRY(
            shoal_archive_block_decode(archive, kernels, work, 1, false, bytes, n, pages, NULL));
        uint64_t end_ns = shoal_clock_now_ns(clock);
        *ret_encode_us = (double)(middle_ns - start_ns) / 1e3 / ARCHIVE_TOKENS;
        *ret_decode_us = (double)(end_ns - middle_ns) / 1e3 / ARCHIVE_TOKENS;
    }
    return SHOAL_OK;
}
