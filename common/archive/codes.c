/* SPDX-License-Identifier: Apache-2.0
 *
 * rANS (Duda, 1311.2540) with states of 32 bits, words of 16 and frequencies of 12. Components come
 * one after the other, so that a table stays in the first cache; token t is in state t % 4, so that
 * four chains run side by side. Encoding goes backwards, so that decoding goes forwards.
 */
#include "common/archive/archive_internal.h"

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

typedef struct writer {
    uint32_t states[ARCHIVE_STATES];
    uint8_t *at; /* words are put in front of it */
} writer;

static inline void put_symbol(writer *w, size_t lane, uint32_t start, uint32_t freq)
{
    uint32_t x = w->states[lane];
    if (x >> (32 - ARCHIVE_SCALE_BITS) >= freq) {
        w->at -= 2;
        w->at[0] = (uint8_t)x;
        w->at[1] = (uint8_t)(x >> 8);
        x >>= 16;
    }
    w->states[lane] = (x / freq << ARCHIVE_SCALE_BITS) + x % freq + start;
}

static inline void put_code(writer *w, const archive_table *table, size_t lane, int code)
{
    bool small = code >= -SHOAL_ARCHIVE_CODE_MAX && code <= SHOAL_ARCHIVE_CODE_MAX;
    size_t symbol = small ? (size_t)(code + SHOAL_ARCHIVE_CODE_MAX) : SHOAL_ARCHIVE_ESCAPE;
    if (table->freq[symbol] == 0 || !small) {
        uint32_t bits = (uint16_t)code;
        put_symbol(w, lane, (bits & 255) * BYTE_FREQ, BYTE_FREQ);
        put_symbol(w, lane, (bits >> 8) * BYTE_FREQ, BYTE_FREQ);
        symbol = SHOAL_ARCHIVE_ESCAPE;
    }
    put_symbol(w, lane, table->start[symbol], table->freq[symbol]);
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
        for (size_t b = 0; b < 4; b++) {
            ret_bytes[4 * i + b] = (uint8_t)(w.states[i] >> (8 * b));
        }
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

/* The value of one code in steps. */
static inline float get_value(const archive_table *table, uint32_t *inout_x, const uint8_t **at)
{
    uint32_t slot = table->slots[*inout_x % ARCHIVE_SCALE];
    uint32_t symbol = slot >> 24;
    *inout_x = refill((slot & 0xFFF) * (*inout_x / ARCHIVE_SCALE) + (slot >> 12 & 0xFFF), at);
    if (__builtin_expect(symbol != SHOAL_ARCHIVE_ESCAPE, 1)) {
        return table->values[symbol];
    }
    uint32_t bits = get_byte(inout_x, at) << 8;
    bits |= get_byte(inout_x, at);
    return (float)((int)(bits ^ 0x8000) - 0x8000);
}

bool shoal_archive_codes_get(const shoal_archive *archive, const archive_group *group,
                             const uint8_t *bytes, size_t n, size_t stride, float *ret_values)
{
    if (n < STATES_BYTES) {
        return false;
    }
    uint32_t x[ARCHIVE_STATES];
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        x[i] = 0;
        for (size_t b = 0; b < 4; b++) {
            x[i] |= (uint32_t)bytes[4 * i + b] << (8 * b);
        }
        if (x[i] < STATE_LOW) {
            return false;
        }
    }
    const uint8_t *at = bytes + STATES_BYTES;
    const uint8_t *end = bytes + n;
    for (size_t c = 0; c < group->info.n_kept; c++) {
        const archive_table *table = &archive->tables[group->table[c]];
        float step = group->step[c];
        float *to = ret_values + c;
        for (size_t t = 0; t < ARCHIVE_TOKENS; t += ARCHIVE_STATES) {
            for (size_t i = 0; i < ARCHIVE_STATES; i++) {
                to[(t + i) * stride] = get_value(table, &x[i], &at) * step;
            }
        }
        if (at > end) {
            return false;
        }
    }
    bool whole = at == end;
    for (size_t i = 0; i < ARCHIVE_STATES; i++) {
        whole = whole && x[i] == STATE_LOW;
    }
    return whole;
}
