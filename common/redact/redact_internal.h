/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/redact: the list of names, patterns, and what finds words.
 */
#ifndef SHOAL_REDACT_REDACT_INTERNAL_H
#define SHOAL_REDACT_REDACT_INTERNAL_H

#include "common/redact/redact.h"

enum {
    REDACT_LABELS_MAX = SHOAL_REDACT_KINDS + SHOAL_REDACT_PATTERNS_MAX
};

/* What stands at each of its places. */
typedef struct redact_pattern {
    char label[SHOAL_REDACT_LABEL_MAX + 1];
    uint64_t accepts[256]; /* of a byte: bit i, it may stand at place i */
    uint64_t optional;     /* bit i: place i may be left out */
    uint64_t run_begins;   /* bit i: the first of a run of such places */
    uint64_t run_ends;     /* bit i + 1: the last of one */
    size_t n;              /* places, 1..SHOAL_REDACT_PLACES_MAX */
} redact_pattern;

struct shoal_redact_rules {
    bool kinds[SHOAL_REDACT_KINDS];
    char *names; /* each with a NUL, in lower case; owned */
    size_t n_names;
    redact_pattern *patterns; /* [n_patterns], owned */
    size_t n_patterns;
};

static inline bool shoal_redact_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Letters of other alphabets do not count: where words stand without blanks between them, an
 * address still ends. */
static inline bool shoal_redact_is_word(char c)
{
    char low = (char)(c | 0x20);
    return shoal_redact_is_digit(c) || (low >= 'a' && low <= 'z') || c == '_';
}

/* Into a pattern that has its label alone. */
shoal_status shoal_redact_pattern_read(redact_pattern *p, const char *text, size_t n,
                                       shoal_err *err);
/* Length of the longest whole word of it that begins at text, 0: none does. */
size_t shoal_redact_pattern_find(const redact_pattern *p, const char *text, size_t n);

/* Length of the word which begins at text + at, 0: none does. *ret_label: its kind, or
 * SHOAL_REDACT_KINDS and the number of its pattern. */
size_t shoal_redact_find(const shoal_redact_rules *rules, const char *text, size_t at, size_t n,
                         size_t *ret_label);

#endif
