/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/utf8.h"

/* The range of the second byte depends on the first: that is what shuts out overlong forms (E0,
 * F0), surrogates (ED) and code points beyond the last (F4). */
static bool second_ok(uint8_t first, uint8_t second)
{
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (first == 0xE0) {
        low = 0xA0;
    } else if (first == 0xED) {
        high = 0x9F;
    } else if (first == 0xF0) {
        low = 0x90;
    } else if (first == 0xF4) {
        high = 0x8F;
    }
    return second >= low && second <= high;
}

size_t shoal_utf8_step(const void *p, size_t n, uint32_t *ret_code)
{
    const uint8_t *bytes = p;
    if (n == 0) {
        return 0;
    }
    uint8_t first = bytes[0];
    size_t length = 0;
    uint32_t code = 0;
    if (first < 0x80) {
        length = 1;
        code = first;
    } else if (first < 0xC2 || first > 0xF4) {
        return 0;
    } else if (first < 0xE0) {
        length = 2;
        code = first & 0x1Fu;
    } else if (first < 0xF0) {
        length = 3;
        code = first & 0x0Fu;
    } else {
        length = 4;
        code = first & 0x07u;
    }
    if (length > n || (length > 1 && !second_ok(first, bytes[1]))) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xC0u) != 0x80) {
            return 0;
        }
        code = code << 6 | (bytes[i] & 0x3Fu);
    }
    if (ret_code) {
        *ret_code = code;
    }
    return length;
}

bool shoal_utf8_valid(const void *text, size_t n)
{
    const uint8_t *p = text;
    size_t i = 0;
    while (i < n) {
        size_t step = shoal_utf8_step(p + i, n - i, NULL);
        if (step == 0) {
            return false;
        }
        i += step;
    }
    return true;
}
