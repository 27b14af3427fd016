/* SPDX-License-Identifier: Apache-2.0
 *
 * One step through bytes that may or may not be UTF-8 (RFC 3629). Unlike common/base/utf8.h it
 * tells a character that the input cuts off from bytes that can never become one, which a stream
 * must know. Private to the tokenizer. Pure functions, any thread.
 */
#ifndef SHOAL_TOKENIZER_UTF8_H
#define SHOAL_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum shoal_utf8_state {
    SHOAL_UTF8_VALID,     /* a whole character */
    SHOAL_UTF8_INVALID,   /* bytes that no continuation could make a character */
    SHOAL_UTF8_UNFINISHED /* the input ends inside what may still become a character */
} shoal_utf8_state;

typedef struct shoal_utf8_part {
    shoal_utf8_state state;
    size_t length; /* bytes of the character, or of the longest beginning of one; at least 1 */
} shoal_utf8_part;

/* Looks at the first character of p; n is at least 1. */
shoal_utf8_part shoal_utf8_next(const char *p, size_t n);

#endif
