/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/fleet/rollout.h"

#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/name.h"

#include <stdio.h>
#include <string.h>

enum {
    WORDS_MAX = 3
};

typedef struct word {
    const char *at;
    size_t n;
} word;

/* Words of a line up to a '#'; one more than WORDS_MAX when there are more. */
static size_t split(const char *at, const char *end, word words[WORDS_MAX])
{
    size_t n = 0;
    while (at < end && *at != '#') {
        if (*at == ' ' || *at == '\t' || *at == '\r') {
            at++;
            continue;
        }
        const char *start = at;
        while (at < end && *at != ' ' && *at != '\t' && *at != '\r' && *at != '#') {
            at++;
        }
        if (n == WORDS_MAX) {
            return WORDS_MAX + 1;
        }
        words[n++] = (word){start, (size_t)(at - start)};
    }
    return n;
}

static bool take_folder(word w, char *ret_folder)
{
    if (!shoal_name_ok(w.at, w.n, SHOAL_ROLLOUT_NAME_MAX) || w.at[0] == '.') {
        return false;
    }
    memcpy(ret_folder, w.at, w.n);
    return true;
}

/* "12", "0.5", "12.25": hundredths of a percent. */
static bool take_share(word w, uint32_t *ret_share)
{
    uint32_t share = 0;
    size_t n_behind = 0; /* digits behind the point, with it */
    for (size_t i = 0; i < w.n; i++) {
        if (w.at[i] == '.' && n_behind == 0 && i > 0) {
            n_behind = 1;
            continue;
        }
        if (w.at[i] < '0' || w.at[i] > '9' || n_behind == 3 || share > SHOAL_ROLLOUT_ALL) {
            return false;
        }
        share = share * 10 + (uint32_t)(w.at[i] - '0');
        n_behind += n_behind > 0 ? 1 : 0;
    }
    for (size_t i = n_behind > 0 ? n_behind - 1 : 0; i < 2; i++) {
        share = share * 10;
    }
    *ret_share = share;
    return n_behind != 1 && share <= SHOAL_ROLLOUT_ALL;
}

static bool take_identity(word w, char *ret_identity)
{
    if (w.n > SHOAL_ROLLOUT_IDENTITY_MAX) {
        return false;
    }
    for (size_t i = 0; i < w.n; i++) {
        if (w.at[i] <= ' ' || w.at[i] > '~' || (w.at[i] == '*' && i + 1 < w.n)) {
            return false;
        }
    }
    memcpy(ret_identity, w.at, w.n);
    return true;
}

static shoal_status take_line(const word *words, size_t n, size_t line, shoal_rollout_line *l,
                              shoal_err *err)
{
    if (n < 2 || n > WORDS_MAX || !take_folder(words[0], l->folder)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rollout line %zu: \"FOLDER PERCENT [IDENTITY]\" is expected, the "
                             "folder of at most 64 letters, digits, '.', '_' and '-'",
                             line);
    }
    if (!take_share(words[1], &l->share)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rollout line %zu: a percentage from 0 to 100 is expected, with at "
                             "most two digits behind the point",
                             line);
    }
    if (n == 3 && !take_identity(words[2], l->identity)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rollout line %zu: an identity of at most 127 visible characters is "
                             "expected, with '*' at its end alone",
                             line);
    }
    return SHOAL_OK;
}

static shoal_status take_lines(const char *text, size_t n, shoal_rollout *r, shoal_err *err)
{
    const char *end = text + n;
    size_t line = 0;
    for (const char *at = text; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        word words[WORDS_MAX];
        stop = stop ? stop : end;
        size_t n_words = split(at, stop, words);
        line++;
        at = stop + 1;
        if (n_words == 0) {
            continue;
        }
        if (r->n_lines == SHOAL_ROLLOUT_LINES_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "rollout line %zu: at most %d lines", line,
                                 (int)SHOAL_ROLLOUT_LINES_MAX);
        }
        SHOAL_TRY(take_line(words, n_words, line, &r->lines[r->n_lines], err));
        r->n_lines++;
    }
    return SHOAL_OK;
}

shoal_status shoal_rollout_parse(const char *text, size_t n, shoal_rollout **ret_rollout,
                                 shoal_err *err)
{
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the rollout");
    }
    SHOAL_TRY(take_lines(text, n, r, err));
    *ret_rollout = SHOAL_STEAL(r);
    return SHOAL_OK;
}

void shoal_rollout_free(shoal_rollout *rollout)
{
    shoal_free(rollout);
}

uint32_t shoal_rollout_place(const char *identity, uint64_t serial)
{
    char text[SHOAL_ROLLOUT_IDENTITY_MAX + 32];
    shoal_hash hash;
    int n = snprintf(text, sizeof text, "%llu %s", (unsigned long long)serial, identity);
    if (shoal_hash_of(text, SHOAL_MIN((size_t)n, sizeof text - 1), &hash) != SHOAL_OK) {
        return SHOAL_ROLLOUT_ALL; /* in no share: it asks again */
    }
    uint64_t x = 0;
    for (size_t i = 0; i < 8; i++) {
        x = x << 8 | hash.bytes[i];
    }
    return (uint32_t)(x % SHOAL_ROLLOUT_ALL);
}

static bool is_of(const char *pattern, const char *identity)
{
    size_t n = strlen(pattern);
    if (n == 0) {
        return true;
    }
    return pattern[n - 1] == '*' ? strncmp(pattern, identity, n - 1) == 0
                                 : strcmp(pattern, identity) == 0;
}

bool shoal_rollout_has(const shoal_rollout *rollout, const char *folder, uint64_t serial,
                       const char *identity)
{
    for (size_t i = 0; i < rollout->n_lines; i++) {
        const shoal_rollout_line *l = &rollout->lines[i];
        if (strcmp(l->folder, folder) == 0 && is_of(l->identity, identity)) {
            return l->share == SHOAL_ROLLOUT_ALL ||
                   shoal_rollout_place(identity, serial) < l->share;
        }
    }
    return false;
}
