/* SPDX-License-Identifier: Apache-2.0
 *
 * Names that outsiders give (sessions, requests, adapters, files of bundles): ASCII letters,
 * digits,
 * '.', '_' and '-', which mean nothing in a log line, a URL or a shell. What a path would make of a
 * leading '.' is its user's affair. Pure, any thread.
 */
#ifndef SHOAL_BASE_NAME_H
#define SHOAL_BASE_NAME_H

#include <stdbool.h>
#include <stddef.h>

/* Leading bytes of text[0..n) that a name may have. */
static inline size_t shoal_name_span(const void *text, size_t n)
{
    const unsigned char *c = text;
    size_t i = 0;
    while (i < n && ((c[i] >= 'a' && c[i] <= 'z') || (c[i] >= 'A' && c[i] <= 'Z') ||
                     (c[i] >= '0' && c[i] <= '9') || c[i] == '.' || c[i] == '_' || c[i] == '-')) {
        i++;
    }
    return i;
}

/* 1 to n_max such bytes and no other. */
static inline bool shoal_name_ok(const void *text, size_t n, size_t n_max)
{
    return n >= 1 && n <= n_max && shoal_name_span(text, n) == n;
}

#endif
