/* SPDX-License-Identifier: Apache-2.0
 *
 * Well-formed UTF-8 and nothing else (The Unicode Standard, table 3-7): no overlong forms, no
 * surrogates, nothing above U+10FFFF. Pure, any thread.
 */
#ifndef SHOAL_BASE_UTF8_H
#define SHOAL_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the sequence that begins at p, within n bytes; 0 when none is well-formed there. The
 * code point goes to *ret_code unless NULL. */
size_t shoal_utf8_step(const void *p, size_t n, uint32_t *ret_code);

bool shoal_utf8_valid(const void *text, size_t n);

#endif
