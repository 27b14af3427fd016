/* SPDX-License-Identifier: Apache-2.0
 *
 * What looks private. Every look-ahead is bounded, so a text costs a constant for each byte.
 */
#include "common/redact/redact_internal.h"

#include <string.h>

enum {
    LOCAL_MAX = 64, /* of an e-mail address (RFC 5321) */
    DOMAIN_MAX = 255,
    CARD_MIN = 13,
    CARD_MAX = 19,
    PHONE_MIN = 8,
    PHONE_PLAIN_MIN = 9, /* without a country's plus */
    PHONE_MAX = 15,      /* E.164 */
    KEY_MIN = 32,        /* of a key without a known beginning */
    KEY_TAIL_MIN = 16,   /* of one with it */
    KEY_MAX = 4096
};

static bool is_digit(char c)
{
    return shoal_redact_is_digit(c);
}

static bool is_letter(char c)
{
    char low = (char)(c | 0x20);
    return low >= 'a' && low <= 'z';
}

static bool is_word(char c)
{
    return shoal_redact_is_word(c);
}

/* Letters of other alphabets too: a name may be of any. */
static bool is_name(char c)
{
    return is_word(c) || (unsigned char)c >= 0x80;
}

/* --- e-mail ----------------------------------------------------------------------------------- */

static bool is_local(char c)
{
    return is_digit(c) || is_letter(c) || (c != '\0' && strchr("._%+-", c));
}

static size_t find_email(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && i <= LOCAL_MAX && is_local(p[i])) {
        i++;
    }
    if (i < 1 || i > LOCAL_MAX || i >= n || p[i] != '@') {
        return 0;
    }
    size_t begin = ++i;
    size_t dot = 0; /* behind the last one */
    while (i < n && i - begin < DOMAIN_MAX &&
           (is_digit(p[i]) || is_letter(p[i]) || p[i] == '-' || p[i] == '.')) {
        dot = p[i] == '.' && i + 1 < n && is_letter(p[i + 1]) ? i + 1 : dot;
        i++;
    }
    size_t end = dot;
    while (dot > 0 && end < i && is_letter(p[end])) {
        end++;
    }
    return dot > begin + 1 && end - dot >= 2 ? end : 0;
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* Digits with at most one separator, or a bracket and one, between them. */
typedef struct number {
    char digits[CARD_MAX];
    size_t n_digits;
    size_t n_groups;
    size_t total[CARD_MAX]; /* digits up to the end of each group */
    size_t end[CARD_MAX];   /* bytes up to there */
} number;

static void read_number(const char *p, size_t n, const char *separators, number *ret_number)
{
    *ret_number = (number){0};
    size_t gap = 0;
    for (size_t i = 0; i < n && gap <= 2; i++) {
        if (is_digit(p[i])) {
            if (ret_number->n_digits == CARD_MAX) {
                ret_number->n_digits++; /* too many to be one */
                return;
            }
            bool opens = ret_number->n_groups == 0 || gap > 0;
            ret_number->n_groups += opens;
            ret_number->digits[ret_number->n_digits++] = p[i];
            ret_number->total[ret_number->n_groups - 1] = ret_number->n_digits;
            ret_number->end[ret_number->n_groups - 1] = i + 1;
            gap = 0;
        } else if (p[i] != '\0' && strchr(separators, p[i])) {
            gap++;
        } else {
            return;
        }
    }
}

static bool luhn(const char *digits, size_t n)
{
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned digit = (unsigned)(digits[n - 1 - i] - '0');
        digit = i % 2 == 0 ? digit : digit * 2 > 9 ? digit * 2 - 9 : digit * 2;
        sum += digit;
    }
    return sum % 10 == 0;
}

/* Groups that are whole: the last of too many digits is not. What follows a number may be another,
 * so the most groups that make one are taken. */
static size_t n_whole(const number *x)
{
    return x->n_digits > CARD_MAX && x->n_groups > 0 ? x->n_groups - 1 : x->n_groups;
}

static size_t find_card(const char *p, size_t n)
{
    number x;
    if (!is_digit(p[0])) {
        return 0;
    }
    read_number(p, n, " -", &x);
    for (size_t g = n_whole(&x); g > 0; g--) {
        if (x.total[g - 1] >= CARD_MIN && luhn(x.digits, x.total[g - 1])) {
            return x.end[g - 1];
        }
    }
    return 0;
}

/* A plus and a country, or a leading zero or bracket, or America's groups of 3, 3 and 4. Dates,
 * addresses of the internet and plain numbers are none of these. */
static size_t find_phone(const char *p, size_t n)
{
    number x;
    bool plus = p[0] == '+';
    bool bracket = p[0] == '(';
    size_t skip = plus || bracket ? 1 : 0;
    if (skip >= n || (!is_digit(p[skip]) && p[skip] != '(')) {
        return 0;
    }
    read_number(p + skip, n - skip, " -./()", &x);
    size_t least = plus ? PHONE_MIN : PHONE_PLAIN_MIN;
    bool american = x.n_groups >= 3 && x.total[0] == 3 && x.total[1] == 6 && x.total[2] == 10;
    bool form = plus || bracket || (x.n_digits > 0 && x.digits[0] == '0');
    if (!form) {
        return american ? skip + x.end[2] : 0;
    }
    size_t n_groups = n_whole(&x);
    for (size_t g = 1; g < n_groups; g++) {
        if (x.total[g - 1] >= least && x.digits[x.total[g - 1]] == '0') {
            n_groups = g; /* with a zero the next one begins */
        }
    }
    for (size_t g = n_groups; g > 0; g--) {
        if (x.total[g - 1] >= least && x.total[g - 1] <= PHONE_MAX) {
            return skip + x.end[g - 1];
        }
    }
    return 0;
}

/* --- keys ------------------------------------------------------------------------------------- */

static bool is_key(char c)
{
    return is_digit(c) || is_letter(c) || c == '_' || c == '-';
}

static size_t find_key(const char *p, size_t n)
{
    static const char *const beginnings[] = {"sk-",         "ghp_",   "gho_",  "ghs_",
                                             "github_pat_", "glpat-", "xoxb-", "xoxp-",
                                             "AKIA",        "AIza",   "eyJ"};
    bool known = false;
    size_t length = 0;
    size_t n_digits = 0;
    size_t n_letters = 0;
    for (size_t i = 0; i < SHOAL_COUNT(beginnings); i++) {
        size_t m = strlen(beginnings[i]);
        known = known || (n > m && memcmp(p, beginnings[i], m) == 0);
    }
    bool token = n > 3 && memcmp(p, "eyJ", 3) == 0; /* of three parts with dots between */
    while (length < n && length < KEY_MAX && (is_key(p[length]) || (token && p[length] == '.'))) {
        n_digits += is_digit(p[length]);
        n_letters += is_letter(p[length]);
        length++;
    }
    while (length > 0 && p[length - 1] == '.') {
        length--;
    }
    bool mixed = n_digits > 0 && n_letters > 0;
    return mixed && length >= (known ? KEY_TAIL_MIN : KEY_MIN) ? length : 0;
}

/* --- names ------------------------------------------------------------------------------------ */

static size_t find_name(const shoal_redact_rules *rules, const char *p, size_t n)
{
    const char *name = rules->names;
    size_t best = 0;
    for (size_t i = 0; i < rules->n_names; i++) {
        size_t m = strlen(name);
        bool same = m <= n && (m == n || !is_name(p[m]));
        for (size_t k = 0; same && k < m; k++) {
            char c = p[k] >= 'A' && p[k] <= 'Z' ? (char)(p[k] | 0x20) : p[k];
            same = c == name[k];
        }
        best = same && m > best ? m : best;
        name += m + 1;
    }
    return best;
}

static size_t find_kind(const shoal_redact_rules *rules, const char *p, char before, size_t n,
                        size_t *ret_label)
{
    /* A key may hold numbers and an address a key, so the longer forms come first. */
    static const struct {
        shoal_redact_kind kind;
        size_t (*find)(const char *p, size_t n);
    } rows[] = {{SHOAL_REDACT_EMAIL, find_email},
                {SHOAL_REDACT_KEY, find_key},
                {SHOAL_REDACT_CARD, find_card},
                {SHOAL_REDACT_PHONE, find_phone}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        /* What goes on before it is part of something else. */
        bool inside =
            rows[i].kind == SHOAL_REDACT_EMAIL ? is_local(before) : before == '-' || before == '+';
        size_t length = rules->kinds[rows[i].kind] && !inside ? rows[i].find(p, n) : 0;
        if (length > 0 && (length == n || !is_word(p[length]))) {
            *ret_label = rows[i].kind;
            return length;
        }
    }
    *ret_label = SHOAL_REDACT_NAME;
    return rules->kinds[SHOAL_REDACT_NAME] && !is_name(before) ? find_name(rules, p, n) : 0;
}

/* Of all that begin there the longest, so that no part of one is left; of equals the operator's. */
size_t shoal_redact_find(const shoal_redact_rules *rules, const char *text, size_t at, size_t n,
                         size_t *ret_label)
{
    char before = at > 0 ? text[at - 1] : ' ';
    size_t own = 0;
    if (is_word(before)) {
        return 0;
    }
    size_t length = find_kind(rules, text + at, before, n - at, ret_label);
    for (size_t i = 0; i < rules->n_patterns; i++) {
        size_t m = shoal_redact_pattern_find(&rules->patterns[i], text + at, n - at);
        if (m > own && m >= length) {
            own = length = m;
            *ret_label = SHOAL_REDACT_KINDS + i;
        }
    }
    return length;
}
