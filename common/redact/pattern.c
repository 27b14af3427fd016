/* SPDX-License-Identifier: Apache-2.0
 *
 * Patterns of the operator's own. A subset of regular expressions without anything that repeats for
 * ever or nests: a row of at most 63 places, each with the bytes that may stand there, some of
 * which may be left out. All ways to match are followed at once, as bits of one word, so that no
 * pattern and no text costs more than a step for each place.
 */
#include "common/redact/redact_internal.h"

#include <string.h>

typedef struct reader {
    const char *name; /* for errors */
    const char *at;
    const char *end;
} reader;

/* Bytes that may stand at a place. */
typedef struct byte_set {
    bool has[256];
} byte_set;

static shoal_status refuse(const reader *r, const char *why, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "redact.patterns: %s: %s", r->name, why);
}

static void add_range(byte_set *set, unsigned char from, unsigned char to)
{
    for (unsigned c = from; c <= to; c++) {
        set->has[c] = true;
    }
}

/* Behind a backslash: \d, \w, \s, or a sign that would mean something else. */
static shoal_status read_escape(reader *r, byte_set *set, shoal_err *err)
{
    char c = r->at < r->end ? *r->at++ : '\0';
    if (c == 'd' || c == 'w') {
        add_range(set, '0', '9');
    }
    if (c == 'w') {
        add_range(set, 'a', 'z');
        add_range(set, 'A', 'Z');
        set->has['_'] = true;
    }
    if (c == 's') {
        set->has[' '] = set->has['\t'] = true;
    }
    if (c == 'd' || c == 'w' || c == 's') {
        return SHOAL_OK;
    }
    if (c == '\0' || shoal_redact_is_word(c) || (unsigned char)c >= 0x80) {
        return refuse(r, "a backslash stands before d, w, s or a sign, and before nothing else",
                      err);
    }
    set->has[(unsigned char)c] = true;
    return SHOAL_OK;
}

/* Behind its bracket. */
static shoal_status read_class(reader *r, byte_set *set, shoal_err *err)
{
    bool negated = r->at < r->end && *r->at == '^';
    r->at += negated;
    for (bool first = true; r->at < r->end && (*r->at != ']' || first); first = false) {
        char c = *r->at++;
        if ((unsigned char)c >= 0x80 || (c == '[' && r->at < r->end && *r->at == ':')) {
            return refuse(r, "between brackets stand ASCII characters, ranges and \\d, \\w, \\s",
                          err);
        }
        if (c == '\\') {
            SHOAL_TRY(read_escape(r, set, err));
            continue;
        }
        char to = c;
        if (r->end - r->at >= 2 && r->at[0] == '-' && r->at[1] != ']') {
            to = r->at[1];
            r->at += 2;
        }
        if (to < c) {
            return refuse(r, "a range between brackets is backwards", err);
        }
        add_range(set, (unsigned char)c, (unsigned char)to);
    }
    if (r->at == r->end) {
        return refuse(r, "a bracket is not closed", err);
    }
    r->at++;
    for (unsigned c = 0; c < 256 && negated; c++) {
        set->has[c] = !set->has[c];
    }
    set->has['\n'] = set->has['\n'] && !negated; /* a word ends with its line */
    return SHOAL_OK;
}

static shoal_status read_place(reader *r, byte_set *set, shoal_err *err)
{
    char c = *r->at++;
    if (c == '[') {
        return read_class(r, set, err);
    }
    if (c == '\\') {
        return read_escape(r, set, err);
    }
    if (c == '*' || c == '+') {
        return refuse(r, "* and + have no most: write {1,20}, or how many there are", err);
    }
    if (strchr("(){}|^$?]", c)) {
        return refuse(r,
                      "there are no groups, alternatives and anchors: write another pattern, or a "
                      "backslash before the sign",
                      err);
    }
    if (c == '.') {
        add_range(set, 0, 255);
        set->has['\n'] = false;
    } else {
        set->has[(unsigned char)c] = true;
    }
    return SHOAL_OK;
}

/* Up to three digits, -1: none. */
static int read_count(reader *r)
{
    int n = -1;
    for (int i = 0; i < 3 && r->at < r->end && shoal_redact_is_digit(*r->at); i++) {
        n = SHOAL_MAX(n, 0) * 10 + (*r->at++ - '0');
    }
    return n;
}

/* How often the place stands: ?, {2}, {1,3}, or once. */
static shoal_status read_times(reader *r, int *ret_least, int *ret_most, shoal_err *err)
{
    *ret_least = *ret_most = 1;
    if (r->at < r->end && *r->at == '?') {
        r->at++;
        *ret_least = 0;
    } else if (r->at < r->end && *r->at == '{') {
        r->at++;
        *ret_least = *ret_most = read_count(r);
        if (r->at < r->end && *r->at == ',') {
            r->at++;
            *ret_most = read_count(r);
        }
        bool closed = r->at < r->end && *r->at == '}';
        r->at += closed;
        if (!closed || *ret_least < 0 || *ret_most < 1 || *ret_most < *ret_least) {
            return refuse(r, "a count is {3} or {1,3}, the least first", err);
        }
    }
    return SHOAL_OK;
}

/* Runs of places that may be left out, for spread. */
static void mark_runs(redact_pattern *p)
{
    for (size_t i = 0; i < p->n; i++) {
        uint64_t bit = UINT64_C(1) << i;
        if ((p->optional & bit) != 0) {
            p->run_begins |= (p->optional & (bit >> 1)) == 0 ? bit : 0;
            p->run_ends |= (p->optional & (bit << 1)) == 0 ? bit << 1 : 0;
        }
    }
}

shoal_status shoal_redact_pattern_read(redact_pattern *p, const char *text, size_t n,
                                       shoal_err *err)
{
    reader r = {.name = p->label, .at = text, .end = text + n};
    while (r.at < r.end) {
        byte_set set = {{false}};
        int least = 1;
        int most = 1;
        bool beyond = (unsigned char)*r.at >= 0x80;
        SHOAL_TRY(read_place(&r, &set, err));
        if (beyond && r.at < r.end && (*r.at == '?' || *r.at == '{')) {
            return refuse(&r, "a count behind a character beyond ASCII would be of its last byte",
                          err);
        }
        SHOAL_TRY(read_times(&r, &least, &most, err));
        if (p->n + (size_t)most > SHOAL_REDACT_PLACES_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "redact.patterns: %s: it is longer than %d characters", p->label,
                                 SHOAL_REDACT_PLACES_MAX);
        }
        for (int i = 0; i < most; i++) {
            uint64_t bit = UINT64_C(1) << p->n++;
            p->optional |= i >= least ? bit : 0;
            for (size_t c = 0; c < 256; c++) {
                p->accepts[c] |= set.has[c] ? bit : 0;
            }
        }
    }
    if (p->optional + 1 == UINT64_C(1) << p->n) {
        return refuse(&r, "it is empty, or may be: one character at least must stand", err);
    }
    mark_runs(p);
    return SHOAL_OK;
}

/* With what is reached by leaving places out: in each run everything above the lowest bit, which a
 * subtraction finds (Navarro and Raffinot, Flexible Pattern Matching in Strings, section 4.2). */
static uint64_t spread(const redact_pattern *p, uint64_t reached)
{
    uint64_t closed = reached | p->run_ends;
    return reached | ((p->optional << 1) & ~((closed - p->run_begins) ^ closed));
}

/* Inside a character of several bytes: no word begins or ends there. */
static bool is_inside(char c)
{
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t shoal_redact_pattern_find(const redact_pattern *p, const char *text, size_t n)
{
    size_t length = 0;
    uint64_t reached = n > 0 && is_inside(text[0]) ? 0 : spread(p, 1);
    for (size_t i = 0; i < n && reached != 0; i++) {
        reached = spread(p, (reached & p->accepts[(unsigned char)text[i]]) << 1);
        bool matches = ((reached >> p->n) & 1) != 0;
        bool whole = i + 1 == n || (!shoal_redact_is_word(text[i + 1]) && !is_inside(text[i + 1]));
        length = matches && whole ? i + 1 : length;
    }
    return length;
}
