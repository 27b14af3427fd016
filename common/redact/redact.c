/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules, the words of a conversation, and the way there and back.
 */
#include "common/redact/redact_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

typedef struct word {
    size_t label;
    char placeholder[SHOAL_REDACT_PLACEHOLDER_MAX];
    char *text;
    size_t n;
} word;

struct shoal_redact_map {
    const shoal_redact_rules *rules;
    word *words; /* [SHOAL_REDACT_WORDS_MAX] */
    size_t n_words;
    size_t n_bytes;
    uint32_t last[REDACT_LABELS_MAX]; /* highest number used, or seen in a text */
};

static const char *const labels[SHOAL_REDACT_KINDS] = {"EMAIL", "PHONE", "CARD", "KEY", "NAME"};

static const char *label_of(const shoal_redact_rules *rules, size_t label)
{
    return label < SHOAL_REDACT_KINDS ? labels[label]
                                      : rules->patterns[label - SHOAL_REDACT_KINDS].label;
}

enum {
    NUMBER_DIGITS = 9, /* of a placeholder; what has more is none */
    NUMBER_MAX = 999999999
};

/* --- rules ------------------------------------------------------------------------------------ */

static shoal_status add_name(shoal_redact_rules *rules, shoal_buf *names, const char *name,
                             size_t n, shoal_err *err)
{
    if (n > SHOAL_REDACT_NAME_BYTES_MAX || rules->n_names >= SHOAL_REDACT_NAMES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "redact.names: \"%.*s\" is too much: at most %d names of %d bytes",
                             (int)SHOAL_MIN(n, (size_t)40), name, SHOAL_REDACT_NAMES_MAX,
                             SHOAL_REDACT_NAME_BYTES_MAX);
    }
    SHOAL_TRY(shoal_buf_append(names, name, n));
    SHOAL_TRY(shoal_buf_append(names, "", 1));
    rules->n_names++;
    return SHOAL_OK;
}

static shoal_status read_names(shoal_redact_rules *rules, const char *list, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf names = {0};
    SHOAL_TRY(shoal_buf_append(&names, "", 0));
    while (*list) {
        list += strspn(list, ", \t");
        size_t n = strcspn(list, ",");
        const char *next = list + n;
        while (n > 0 && (list[n - 1] == ' ' || list[n - 1] == '\t')) {
            n--;
        }
        if (n > 0) {
            SHOAL_TRY(add_name(rules, &names, list, n, err));
        }
        list = next;
    }
    for (size_t i = 0; i < names.length; i++) {
        char c = names.data[i];
        names.data[i] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
    }
    rules->names = SHOAL_STEAL(names.data);
    return SHOAL_OK;
}

/* Of a placeholder: no two alike. */
static bool label_ok(const shoal_redact_rules *rules, const char *label, size_t n)
{
    static const char signs[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    bool ok = n >= 1 && n <= SHOAL_REDACT_LABEL_MAX && strspn(label, signs) >= n &&
              !shoal_redact_is_digit(label[0]);
    for (size_t i = 0; ok && i < SHOAL_REDACT_KINDS + rules->n_patterns; i++) {
        const char *taken = label_of(rules, i);
        ok = strlen(taken) != n || memcmp(taken, label, n) != 0;
    }
    return ok;
}

static shoal_status add_pattern(shoal_redact_rules *rules, const char *entry, size_t n,
                                shoal_err *err)
{
    const char *equals = memchr(entry, '=', n);
    size_t n_label = equals ? (size_t)(equals - entry) : 0;
    if (!label_ok(rules, entry, n_label)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "redact.patterns: \"%.*s\" does not begin with a name and =: at most "
                             "%d capitals and digits, a capital first, none twice and none of "
                             "EMAIL, PHONE, CARD, KEY, NAME",
                             (int)SHOAL_MIN(n, (size_t)40), entry, SHOAL_REDACT_LABEL_MAX);
    }
    if (rules->n_patterns >= SHOAL_REDACT_PATTERNS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "redact.patterns: \"%.*s\" is too much: at most %d patterns",
                             (int)n_label, entry, SHOAL_REDACT_PATTERNS_MAX);
    }
    redact_pattern *p = &rules->patterns[rules->n_patterns];
    memcpy(p->label, entry, n_label);
    SHOAL_TRY(shoal_redact_pattern_read(p, equals + 1, n - n_label - 1, err));
    rules->n_patterns++;
    return SHOAL_OK;
}

/* Entries end at a semicolon without a backslash before it. */
static shoal_status read_patterns(shoal_redact_rules *rules, const char *list, shoal_err *err)
{
    rules->patterns = shoal_calloc(SHOAL_REDACT_PATTERNS_MAX, sizeof *rules->patterns);
    if (!rules->patterns) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the patterns of redaction");
    }
    while (*list) {
        list += strspn(list, " \t");
        size_t n = 0;
        while (list[n] && list[n] != ';') {
            n += list[n] == '\\' && list[n + 1] ? 2 : 1;
        }
        const char *next = list + n + (list[n] == ';');
        while (n > 0 && (list[n - 1] == ' ' || list[n - 1] == '\t')) {
            n--;
        }
        if (n > 0) {
            SHOAL_TRY(add_pattern(rules, list, n, err));
        }
        list = next;
    }
    return SHOAL_OK;
}

shoal_status shoal_redact_rules_new(const shoal_redact_settings *settings,
                                    shoal_redact_rules **ret_rules, shoal_err *err)
{
    shoal_redact_rules *rules = shoal_calloc(1, sizeof *rules);
    if (!rules) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the rules of redaction");
    }
    memcpy(rules->kinds, settings->kinds, sizeof rules->kinds);
    shoal_status status = read_names(rules, settings->names ? settings->names : "", err);
    if (status == SHOAL_OK && settings->patterns && settings->patterns[0]) {
        status = read_patterns(rules, settings->patterns, err);
    }
    if (status != SHOAL_OK) {
        shoal_redact_rules_free(rules);
        return status;
    }
    *ret_rules = rules;
    return SHOAL_OK;
}

void shoal_redact_rules_free(shoal_redact_rules *rules)
{
    if (rules) {
        shoal_free(rules->names);
        shoal_free(rules->patterns);
        shoal_free(rules);
    }
}

/* --- words ------------------------------------------------------------------------------------ */

shoal_status shoal_redact_map_new(const shoal_redact_rules *rules, shoal_redact_map **ret_map)
{
    shoal_redact_map *map = shoal_calloc(1, sizeof *map);
    word *words = shoal_calloc(SHOAL_REDACT_WORDS_MAX, sizeof *words);
    if (!map || !words) {
        shoal_free(map);
        shoal_free(words);
        return SHOAL_E_NOMEM;
    }
    map->rules = rules;
    map->words = words;
    *ret_map = map;
    return SHOAL_OK;
}

void shoal_redact_map_free(shoal_redact_map *map)
{
    if (!map) {
        return;
    }
    for (size_t i = 0; i < map->n_words; i++) {
        shoal_free(map->words[i].text);
    }
    shoal_free(map->words);
    shoal_free(map);
}

size_t shoal_redact_map_n(const shoal_redact_map *map)
{
    return map->n_words;
}

/* "[KIND_123]" at p: its number, 0: something else. */
static uint32_t read_placeholder(const shoal_redact_rules *rules, const char *p, size_t n,
                                 size_t *ret_label)
{
    for (size_t label = 0; label < SHOAL_REDACT_KINDS + rules->n_patterns; label++) {
        const char *name = label_of(rules, label);
        size_t m = strlen(name);
        if (n < m + 4 || memcmp(p + 1, name, m) != 0 || p[m + 1] != '_') {
            continue;
        }
        uint32_t number = 0;
        size_t at = m + 2;
        while (at < n && at < m + 2 + NUMBER_DIGITS && p[at] >= '0' && p[at] <= '9') {
            number = number * 10 + (uint32_t)(p[at++] - '0');
        }
        *ret_label = label;
        return at < n && p[at] == ']' ? number : 0;
    }
    return 0;
}

void shoal_redact_reserve(shoal_redact_map *map, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t label = 0;
        uint32_t number =
            text[i] == '[' ? read_placeholder(map->rules, text + i, n - i, &label) : 0;
        if (number > 0) {
            map->last[label] = SHOAL_MAX(map->last[label], number);
        }
    }
}

static shoal_status put_word(shoal_redact_map *map, size_t label, const char *text, size_t n,
                             shoal_buf *out)
{
    for (size_t i = 0; i < map->n_words; i++) {
        const word *w = &map->words[i];
        if (w->label == label && w->n == n && memcmp(w->text, text, n) == 0) {
            return shoal_buf_append(out, w->placeholder, strlen(w->placeholder));
        }
    }
    if (map->n_words >= SHOAL_REDACT_WORDS_MAX || n > SHOAL_REDACT_BYTES_MAX - map->n_bytes ||
        map->last[label] >= NUMBER_MAX) {
        return SHOAL_E_LIMIT;
    }
    word *w = &map->words[map->n_words];
    char *copy = shoal_strndup(text, n);
    if (!copy) {
        return SHOAL_E_NOMEM;
    }
    *w = (word){.label = label, .text = copy, .n = n};
    (void)snprintf(w->placeholder, sizeof w->placeholder, "[%s_%u]", label_of(map->rules, label),
                   (unsigned)++map->last[label]);
    map->n_words++;
    map->n_bytes += n;
    return shoal_buf_append(out, w->placeholder, strlen(w->placeholder));
}

shoal_status shoal_redact_text(shoal_redact_map *map, const char *text, size_t n, shoal_buf *out)
{
    size_t from = 0;
    SHOAL_TRY(shoal_buf_append(out, "", 0));
    for (size_t i = 0; i < n;) {
        size_t label = 0;
        size_t length = shoal_redact_find(map->rules, text, i, n, &label);
        if (length == 0) {
            i++;
            continue;
        }
        SHOAL_TRY(shoal_buf_append(out, text + from, i - from));
        SHOAL_TRY(put_word(map, label, text + i, length, out));
        i += length;
        from = i;
    }
    return shoal_buf_append(out, text + from, n - from);
}

/* --- and back --------------------------------------------------------------------------------- */

/* The word that held is the placeholder of; *ret_begins: or the beginning of one. */
static const word *match(const shoal_redact_map *map, const shoal_redact_restorer *r,
                         bool *ret_begins)
{
    *ret_begins = false;
    for (size_t i = 0; i < map->n_words; i++) {
        const word *w = &map->words[i];
        if (strncmp(w->placeholder, r->held, r->n_held) == 0) {
            if (w->placeholder[r->n_held] == '\0') {
                return w;
            }
            *ret_begins = true;
        }
    }
    return NULL;
}

shoal_status shoal_redact_restore(const shoal_redact_map *map, shoal_redact_restorer *r,
                                  const char *text, size_t n, shoal_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        bool begins = false;
        if (text[i] == '[' && r->n_held > 0) { /* stands only where a placeholder begins */
            SHOAL_TRY(shoal_redact_restore_end(r, out));
        }
        if (text[i] != '[' && r->n_held == 0) {
            SHOAL_TRY(shoal_buf_append(out, text + i, 1));
            continue;
        }
        r->held[r->n_held++] = text[i];
        const word *w = match(map, r, &begins);
        if (w) {
            r->n_held = 0;
            SHOAL_TRY(shoal_buf_append(out, w->text, w->n));
        } else if (!begins) {
            SHOAL_TRY(shoal_redact_restore_end(r, out));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_redact_restore_end(shoal_redact_restorer *r, shoal_buf *out)
{
    size_t n = r->n_held;
    r->n_held = 0;
    return shoal_buf_append(out, r->held, n);
}
