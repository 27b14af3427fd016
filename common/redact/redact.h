/* SPDX-License-Identifier: Apache-2.0
 *
 * Private words that stay on the device: what looks like an e-mail address, a telephone or card
 * number, a key, is a name of a list or matches a pattern of the operator's, becomes a placeholder
 * ("[EMAIL_1]") before a text leaves,
 * and the placeholder becomes the word again in what comes back. Found by form alone, so that some
 * are missed and some harmless words are taken; nothing here understands a text. Pure; one pass
 * over the text with bounded look-ahead.
 */
#ifndef SHOAL_REDACT_REDACT_H
#define SHOAL_REDACT_REDACT_H

#include "common/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_REDACT_NAMES_MAX = 1024,      /* names of one list */
    SHOAL_REDACT_NAME_BYTES_MAX = 128,  /* of one name */
    SHOAL_REDACT_WORDS_MAX = 1024,      /* different words of one conversation */
    SHOAL_REDACT_BYTES_MAX = 256 << 10, /* of these words together */
    SHOAL_REDACT_PATTERNS_MAX = 8,      /* patterns of one list */
    SHOAL_REDACT_PLACES_MAX = 63,       /* characters that one may match */
    SHOAL_REDACT_LABEL_MAX = 16,        /* bytes of its name */
    SHOAL_REDACT_PLACEHOLDER_MAX = 32   /* bytes of a placeholder, with its NUL */
};

typedef enum shoal_redact_kind {
    SHOAL_REDACT_EMAIL, /* local@domain.tld */
    SHOAL_REDACT_PHONE, /* +49 30 123456, 030/123456789, (212) 555-0123, 212-555-0123 */
    SHOAL_REDACT_CARD,  /* 13 to 19 digits with a right check digit (Luhn), in groups or not */
    SHOAL_REDACT_KEY,   /* sk-..., ghp_..., AKIA..., eyJ..., or 32 letters and digits in a row */
    SHOAL_REDACT_NAME,  /* of the list */
    SHOAL_REDACT_KINDS
} shoal_redact_kind;

/* Immutable; any number of threads. */
typedef struct shoal_redact_rules shoal_redact_rules;

typedef struct shoal_redact_settings {
    bool kinds[SHOAL_REDACT_KINDS]; /* NAME: where there are names */
    const char *names; /* comma-separated, whole words, case of ASCII letters ignored; NULL: none */
    /* "CUSTOMER=CU-[0-9]{6}; PLATE=[A-Z]{1,3}-[A-Z]{2} ?[0-9]{1,4}": a name of capitals and digits,
     * and a regular expression of characters, [classes], ., \d, \w, \s, ? and {counts}; it matches
     * whole words, of bytes. Nothing repeats for ever, so that a byte of text costs at most
     * PATTERNS_MAX * PLACES_MAX steps, whatever the patterns and the text. NULL: none */
    const char *patterns;
} shoal_redact_settings;

/* Errors name the entry of names or patterns, and the limit. */
shoal_status shoal_redact_rules_new(const shoal_redact_settings *settings,
                                    shoal_redact_rules **ret_rules,
                                    shoal_err *err) SHOAL_MUST_CHECK;
void shoal_redact_rules_free(shoal_redact_rules *rules);

/* The words taken out of one conversation. One thread at a time. */
typedef struct shoal_redact_map shoal_redact_map;

/* rules are borrowed for the map's life. */
shoal_status shoal_redact_map_new(const shoal_redact_rules *rules,
                                  shoal_redact_map **ret_map) SHOAL_MUST_CHECK;
void shoal_redact_map_free(shoal_redact_map *map);
size_t shoal_redact_map_n(const shoal_redact_map *map);
/* Before the first of shoal_redact_text, for every text of the conversation: a placeholder that
 * stands in it already will not be used for another word. */
void shoal_redact_reserve(shoal_redact_map *map, const char *text, size_t n);
/* Appends text to out with placeholders; the same word is the same placeholder throughout.
 * SHOAL_E_LIMIT: more words than the limits above, or the text has a placeholder of the last
 * number, 999999999. */
shoal_status shoal_redact_text(shoal_redact_map *map, const char *text, size_t n,
                               shoal_buf *out) SHOAL_MUST_CHECK;

/* Puts words back into a text that comes in pieces of any size. Zeroed memory is the start. */
typedef struct shoal_redact_restorer {
    char held[SHOAL_REDACT_PLACEHOLDER_MAX]; /* may become a placeholder */
    size_t n_held;
} shoal_redact_restorer;

/* Appends what is certain; the beginning of a placeholder waits for the next piece. */
shoal_status shoal_redact_restore(const shoal_redact_map *map, shoal_redact_restorer *restorer,
                                  const char *text, size_t n, shoal_buf *out) SHOAL_MUST_CHECK;
/* At the end: what waits is text. */
shoal_status shoal_redact_restore_end(shoal_redact_restorer *restorer,
                                      shoal_buf *out) SHOAL_MUST_CHECK;

#endif
