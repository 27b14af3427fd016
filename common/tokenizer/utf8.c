/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tokenizer/utf8.h"

typedef struct lead {
    size_t length; /* bytes of the character, 0: cannot begin one */
    uint8_t low;   /* range of the second byte, which shuts out overlong forms, surrogates */
    uint8_t high;  /* and code points past U+10FFFF (RFC 3629, section 4) */
} lead;

static lead lead_of(uint8_t first)
{
    if (first < 0x80) {
        return (lead){.length = 1, .low = 0, .high = 0};
    }
    if (first < 0xC2 || first > 0xF4) {
        return (lead){.length = 0, .low = 0, .high = 0};
    }
    if (first < 0xE0) {
        return (lead){.length = 2, .low = 0x80, .high = 0xBF};
    }
    if (first < 0xF0) {
        return (lead){
            .length = 3, .low = first == 0xE0 ? 0xA0 : 0x80, .high = first == 0xED ? 0x9F : 0xBF};
    }
    return (lead){
        .length = 4, .low = first == 0xF0 ? 0x90 : 0x80, .high = first == 0xF4 ? 0x8F : 0xBF};
}

shoal_utf8_part shoal_utf8_next(const char *p, size_t n)
{
    lead want = lead_of((uint8_t)p[0]);
    if (want.length == 0) {
        return (shoal_utf8_part){.state = SHOAL_UTF8_INVALID, .length = 1};
    }
    for (size_t i = 1; i < want.length; i++) {
        if (i == n) {
            return (shoal_utf8_part){.state = SHOAL_UTF8_UNFINISHED, .length = n};
        }
        uint8_t byte = (uint8_t)p[i];
        uint8_t low = i == 1 ? want.low : 0x80;
        uint8_t high = i == 1 ? want.high : 0xBF;
        if (byte < low || byte > high) {
            return (shoal_utf8_part){.state = SHOAL_UTF8_INVALID, .length = i};
        }
    }
    return (shoal_utf8_part){.state = SHOAL_UTF8_VALID, .length = want.length};
}
