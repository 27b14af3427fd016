/* SPDX-License-Identifier: Apache-2.0
 *
 * rANS (Duda, 1311.2540) with states of 32 bits, words of 16 and frequencies of 12. Components come
 * one after the other, so that a table stays in the first cache; token t is in state t % 4, so that
 * four chains run side by side. Encoding goes backwards, so that decoding goes forwards.
 */
#include "common/archive/archive_internal.h"

#include "common/base/le.h"

#include <string.h>

enum {
    STATE_LOW = 1 << 16, /* states are in [2^16, 2^32) between symbols; they begin and end here */
    BYTE_FREQ = ARCHIVE_SCALE / 256,
    STATES_BYTES = 4 * ARCHIVE_STATES
};

size_t shoal_archive_codes_bytes(size_t n_kept)
{
    return STATES_BYTES + 2 * ARCHIVE_WORDS_MAX * n_kept;
}

/* --- out -------------------------------------------------------------------------------------- */

__extension__ typedef unsigned __int128 u128;

typedef struct writer {
    uint32_t states[ARCHIVE_STATES];
    uint8_t *at; /* words are put in front of it */
} writer;

static inline void put_symbol(writer *w, size_t lane, uint32_t start, uint32_t freq,
                              uint64_t inverse)
{
    uint32_t x = w->states[lane];
    /* Which is the case cannot be guessed, so a word is written in any case. */
    bool full = x >> (32 - ARCHIVE_SCALE_BITS) >= freq;
    w->at[-2] = (uint8_t)x;
    w->at[-1] = (uint8_t)(x >> 8);
    w->at -= full ? 2 : 0;
    x = full ? x >> 16 : x;
    /* That is x / freq * SCALE + x % freq + start; of 1 the quotient here is one less. */
    uint32_t quotient = (uint32_t)((u128)x * inverse >> 64);
    start += freq == 1 ? ARCHIVE_SCALE - 1 : 0;
    w->states[lane] = x + start + quotient * (ARCHIVE_SCALE - freq);
}

static inline void put_code(writer *w, const archive_table *table, size_t lane, int code)
{
    bool small = code >= -SHOAL_ARCHIVE_CODE_MAX && code <= SHOAL_ARCHIVE_CODE_MAX;
    size_t symbol = small ? (size_t)(code + SHOAL_ARCHIVE_CODE_MAX) : SHOAL_ARCHIVE_ESCAPE;
    if (table->freq[symbol] == 0 || !small) {
        uint32_t bits = (uint16_t)code;
        put_symbol(w, lane, (bits & 255) * BYTE_FREQ, BYTE_FREQ, UINT64_MAX / BYTE_FREQ + 1);
        put_symbol(w, lane, (bits >> 8) * BYTE_FREQ, BYTE_FREQ, UINT64_MAX / BYTE_FREQ + 1);
        symbol = SHOAL_ARCHIVE_ESCAPE;
    }
    put_symbol(w, lane, table->start[symbol], table->freq[symbol], table->inverse[symbol]);
}

size_t shoal_archive_codes_put(const shoal_archive *archive, const archive_group *group,
                               const int16_t *codes, uint8_t *ret_bytes)
{
    uint8_t *end = ret_bytes + shoal_archive_codes_bytes(group->info.n_kept);
    writer w = {.at = end};
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        w.states[i] = STATE_LOW;
    }
    for (size_t c = group->info.n_kept; c-- > 0;) {
        const archive_table *table = &archive->tables[group->table[c]];
        for (size_t t = ARCHIVE_TOKENS; t-- > 0;) {
            put_code(&w, table, t % ARCHIVE_STATES, codes[c * ARCHIVE_TOKENS + t]);
        }
    }
    size_t n = (size_t)(end - w.at);
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        shoal_le_put_u32(ret_bytes + 4 * i, w.states[i]);
    }
    memmove(ret_bytes + STATES_BYTES, w.at, n);
    return STATES_BYTES + n;
}

/* --- in --------------------------------------------------------------------------------------- */

static inline uint32_t refill(uint32_t x, const uint8_t **at)
{
    uint32_t more = x << 16 | (uint32_t)(*at)[0] | (uint32_t)(*at)[1] << 8;
    bool low = x < STATE_LOW;
    *at += low ? 2 : 0;
    return low ? more : x;
}

static uint32_t get_byte(uint32_t *inout_x, const uint8_t **at)
{
    uint32_t slot = *inout_x % ARCHIVE_SCALE;
    *inout_x = refill(BYTE_FREQ * (*inout_x / ARCHIVE_SCALE) + slot % BYTE_FREQ, at);
    return slot / BYTE_FREQ;
}

/* The value of one code in parts of a step. */
static inline int16_t get_value(const archive_table *table, uint32_t *inout_x, const uint8_t **at)
{
    uint32_t slot = table->slots[*inout_x % ARCHIVE_SCALE];
    uint32_t symbol = slot >> 24;
    *inout_x = refill((slot & 0xFFF) * (*inout_x / ARCHIVE_SCALE) + (slot >> 12 & 0xFFF), at);
    if (__builtin_expect(symbol != SHOAL_ARCHIVE_ESCAPE, 1)) {
        return table->values[symbol];
    }
    uint32_t bits = get_byte(inout_x, at) << 8;
    bits |= get_byte(inout_x, at);
    int code = (int)(bits ^ 0x8000) - 0x8000;
    code = SHOAL_MAX(SHOAL_MIN(code, (int)SHOAL_ARCHIVE_CODE_FAR), -(int)SHOAL_ARCHIVE_CODE_FAR);
    return (int16_t)(code * ARCHIVE_PARTS);
}

static bool get_states(const uint8_t *bytes, uint32_t *ret_x)
{
    bool fine = true;
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        ret_x[i] = shoal_le_u32(bytes + 4 * i);
        fine = fine && ret_x[i] >= STATE_LOW;
    }
    return fine;
}

bool shoal_archive_codes_get(const shoal_archive *archive, const archive_group *group,
                             const uint8_t *bytes, size_t n, int16_t *ret_values)
{
    uint32_t x[ARCHIVE_STATES];
    size_t n_kept = group->info.n_kept;
    if (n < STATES_BYTES || !get_states(bytes, x)) {
        return false;
    }
    const uint8_t *at = bytes + STATES_BYTES;
    const uint8_t *end = bytes + n;
    for (size_t c = 0; c < n_kept; c++) {
        const archive_table *table = &archive->tables[group->table[c]];
        int16_t *to = ret_values + c / 2 * 2 * ARCHIVE_TOKENS + c % 2;
        for (size_t t = 0; t < ARCHIVE_TOKENS; t += ARCHIVE_STATES) {
            for (size_t i = 0; i < ARCHIVE_STATES; i++) {
                to[2 * (t + i)] = get_value(table, &x[i], &at);
            }
        }
        if (at > end) {
            return false;
        }
    }
    for (size_t t = 0; n_kept % 2 == 1 && t < ARCHIVE_TOKENS; t++) {
        ret_values[(n_kept - 1) * ARCHIVE_TOKENS + 2 * t + 1] = 0;
    }
    bool whole = at == end;
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        whole = whole && x[i] == STATE_LOW;
    }
    return whole;
}
