/* SPDX-License-Identifier: Apache-2.0
 *
 * The header of units, and units of a text's newest tokens. Bytes, all little-endian:
 *   0   u32  "SKN1", of what is archived "SKA2" (block.c)
 *   4   u32  the first bytes of the basis' hash
 *   8   u32  position of the first token
 *   12  u32  group
 *   16  u32  CRC-32C of all other bytes
 *   20  of each layer and head in order its keys, then its values, sealed in 8 bits
 *       (kernels/kv_block.h), without what fills up groups there: each row's scale, each row's
 *       minimum, then [n_rows][n] codes. As many bytes in every unit of a group
 */
#include "common/archive/archive_internal.h"

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/kv/kv_move.h"

#include <string.h>

enum {
    AT_BASIS = 4,
    AT_POSITION = 8,
    AT_GROUP = 12,
    AT_CRC = 16,
    TOKENS = ARCHIVE_TOKENS
};

static const shoal_kv_level level = SHOAL_KV_LEVEL_Q8;

/* --- header ----------------------------------------------------------------------------------- */

static uint32_t unit_crc(const uint8_t *unit, size_t n)
{
    return shoal_crc32c(shoal_crc32c(0, unit, AT_CRC), unit + ARCHIVE_HEADER_BYTES,
                        n - ARCHIVE_HEADER_BYTES);
}

void shoal_archive_header_put(const shoal_archive *archive, uint32_t magic, size_t group,
                              size_t position, uint8_t *unit, size_t n)
{
    shoal_le_put_u32(unit, magic);
    memcpy(unit + AT_BASIS, archive->hash.bytes, 4);
    shoal_le_put_u32(unit + AT_POSITION, (uint32_t)position);
    shoal_le_put_u32(unit + AT_GROUP, (uint32_t)group);
    shoal_le_put_u32(unit + AT_CRC, unit_crc(unit, n));
}

shoal_status shoal_archive_header_check(const shoal_archive *archive, uint32_t magic, size_t group,
                                        size_t position, const uint8_t *unit, size_t n,
                                        size_t n_least, size_t n_most, shoal_err *err)
{
    if (n < n_least || n > n_most) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "archived KV: %zu bytes, a unit of this group has %zu to %zu", n,
                             n_least, n_most);
    }
    if (shoal_le_u32(unit) != magic || shoal_le_u32(unit + AT_CRC) != unit_crc(unit, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "archived KV: %s",
                             shoal_le_u32(unit) != magic
                                 ? "these bytes do not begin as a unit does"
                                 : "the checksum is wrong: bytes have changed");
    }
    if (memcmp(unit + AT_BASIS, archive->hash.bytes, 4) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "archived KV: coded with basis %02x%02x%02x%02x, this one is "
                             "%02x%02x%02x%02x",
                             unit[4], unit[5], unit[6], unit[7], archive->hash.bytes[0],
                             archive->hash.bytes[1], archive->hash.bytes[2],
                             archive->hash.bytes[3]);
    }
    if (shoal_le_u32(unit + AT_POSITION) != position || shoal_le_u32(unit + AT_GROUP) != group) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "archived KV: a unit of group %u at token %u, wanted is group %zu at "
                             "token %zu",
                             shoal_le_u32(unit + AT_GROUP), shoal_le_u32(unit + AT_POSITION), group,
                             position);
    }
    return SHOAL_OK;
}

/* --- newest tokens ---------------------------------------------------------------------------- */

/* A head's keys, then its values, as rows of elements: in a unit, and in a page. */
typedef struct part {
    size_t n_rows;
    size_t n;
    size_t bytes;
} part;

static part part_of(const shoal_archive *a, size_t i)
{
    part p = {.n_rows = i % 2 ? TOKENS : a->k_dim, .n = i % 2 ? a->v_dim : TOKENS};
    p.bytes = p.n_rows * (4 + p.n);
    return p;
}

/* Between a sealed part and its bytes in a unit. */
static void take_out(const part *p, const uint8_t *sealed, uint8_t *to)
{
    const uint8_t *codes = sealed + shoal_kv_head_bytes(p->n_rows);
    memcpy(to, sealed, 4 * p->n_rows);
    for (size_t i = 0; i < p->n_rows; i++) {
        memcpy(to + 4 * p->n_rows + i * p->n, codes + i * shoal_kv_row_bytes(level, p->n), p->n);
    }
}

static void put_in(const part *p, const uint8_t *from, uint8_t *sealed)
{
    uint8_t *codes = sealed + shoal_kv_head_bytes(p->n_rows);
    memcpy(sealed, from, 4 * p->n_rows);
    for (size_t i = 0; i < p->n_rows; i++) {
        memcpy(codes + i * shoal_kv_row_bytes(level, p->n), from + 4 * p->n_rows + i * p->n, p->n);
    }
}

static size_t n_parts(const shoal_archive *a, const shoal_archive_group *info)
{
    return 2 * info->n_layers * a->n_heads;
}

size_t shoal_archive_near_bytes(const shoal_archive *archive, size_t group)
{
    SHOAL_ASSERT(group < archive->n_groups);
    return ARCHIVE_HEADER_BYTES + archive->groups[group].info.n_layers * archive->n_heads *
                                      (part_of(archive, 0).bytes + part_of(archive, 1).bytes);
}

size_t shoal_archive_near_room(const shoal_archive *archive)
{
    return SHOAL_MAX(shoal_kv_sealed_bytes(level, archive->k_dim, TOKENS),
                     shoal_kv_sealed_bytes(level, TOKENS, archive->v_dim));
}

shoal_status shoal_archive_near_encode(const shoal_archive *archive, const shoal_kernels *kernels,
                                       shoal_archive_work *work, size_t group, size_t position,
                                       const uint8_t *pages, uint8_t *ret_unit)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const shoal_archive_group *info = &archive->groups[group].info;
    if (!shoal_kv_finite_f16(pages, info->n_channels * TOKENS)) {
        return SHOAL_E_INVALID;
    }
    const uint16_t *x = (const uint16_t *)(const void *)pages;
    uint8_t *at = ret_unit + ARCHIVE_HEADER_BYTES;
    for (size_t i = 0; i < n_parts(archive, info); i++) {
        part p = part_of(archive, i);
        kernels->kv_seal(level, p.n_rows, p.n, x, work->sealed);
        take_out(&p, work->sealed, at);
        x += p.n_rows * p.n;
        at += p.bytes;
    }
    shoal_archive_header_put(archive, ARCHIVE_MAGIC_NEAR, group, position, ret_unit,
                             (size_t)(at - ret_unit));
    return SHOAL_OK;
}

/* With minima that are finite, and scales that are so and not below zero, all that is opened is:
 * it is at least the minimum, and opening ends at what f16 holds. */
static bool sound(const part *p, const uint8_t *scales)
{
    unsigned below = 0;
    for (size_t i = 0; i < p->n_rows; i++) {
        below |= scales[2 * i + 1] & 0x80U;
    }
    return !below && shoal_kv_finite_f16(scales, 2 * p->n_rows);
}

shoal_status shoal_archive_near_decode(const shoal_archive *archive, const shoal_kernels *kernels,
                                       shoal_archive_work *work, size_t group, size_t position,
                                       const uint8_t *unit, size_t n, uint8_t *ret_pages,
                                       shoal_err *err)
{
    SHOAL_ASSERT(group < archive->n_groups && position % TOKENS == 0 && position >> 31 == 0);
    const shoal_archive_group *info = &archive->groups[group].info;
    size_t n_unit = shoal_archive_near_bytes(archive, group);
    SHOAL_TRY(shoal_archive_header_check(archive, ARCHIVE_MAGIC_NEAR, group, position, unit, n,
                                         n_unit, n_unit, err));
    const uint8_t *at = unit + ARCHIVE_HEADER_BYTES;
    for (size_t i = 0; i < n_parts(archive, info); i++) {
        part p = part_of(archive, i);
        if (!sound(&p, at)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "archived KV: a scale or a minimum of the newest tokens is no "
                                 "number, or below zero");
        }
        at += p.bytes;
    }
    uint16_t *x = (uint16_t *)(void *)ret_pages;
    at = unit + ARCHIVE_HEADER_BYTES;
    for (size_t i = 0; i < n_parts(archive, info); i++) {
        part p = part_of(archive, i);
        put_in(&p, at, work->sealed);
        kernels->kv_unseal(level, p.n_rows, p.n, work->sealed, x);
        x += p.n_rows * p.n;
        at += p.bytes;
    }
    return SHOAL_OK;
}
