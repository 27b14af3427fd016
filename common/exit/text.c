/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of the numbers of every kind drives printing, parsing and checking.
 */
#include "common/exit/exit.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[SHOAL_EXIT_KINDS] = {"fixed",  "margin",     "entropy",
                                                    "linear", "percentile", "risk"};

#define ONLY(kind) (1U << (kind))
#define ANY        (ONLY(SHOAL_EXIT_KINDS) - 1U)

typedef struct number {
    const char *key;
    uint32_t kinds; /* that have it */
    size_t offset;
    double min;
    double max;
    double standard; /* when left out; NaN: it must be there */
} number;

#define AT(field) offsetof(shoal_exit_policy, field)

static const number numbers[] = {
    {"threshold", ANY & ~ONLY(SHOAL_EXIT_ENTROPY) & ~ONLY(SHOAL_EXIT_PERCENTILE), AT(threshold), 0,
     2, (double)NAN},
    {"threshold", ONLY(SHOAL_EXIT_ENTROPY), AT(threshold), -1, 64, (double)NAN},
    {"threshold", ONLY(SHOAL_EXIT_PERCENTILE), AT(threshold), 0, 2, 0.9},
    {"bias", ONLY(SHOAL_EXIT_LINEAR), AT(bias), -1e6, 1e6, (double)NAN},
    {"top", ONLY(SHOAL_EXIT_LINEAR), AT(w_top), -1e6, 1e6, (double)NAN},
    {"gap", ONLY(SHOAL_EXIT_LINEAR), AT(w_gap), -1e6, 1e6, (double)NAN},
    {"depth", ONLY(SHOAL_EXIT_LINEAR), AT(w_depth), -1e6, 1e6, 0},
    {"rate", ONLY(SHOAL_EXIT_PERCENTILE), AT(rate), 0, 1, (double)NAN},
    {"risk", ONLY(SHOAL_EXIT_RISK), AT(risk), 1e-6, 0.5, (double)NAN},
    {"delta", ONLY(SHOAL_EXIT_RISK), AT(delta), 1e-6, 0.5, (double)NAN},
    {"window", ONLY(SHOAL_EXIT_PERCENTILE), AT(window), SHOAL_EXIT_WINDOW_MIN,
     SHOAL_EXIT_WINDOW_MAX, 512},
};

const char *shoal_exit_kind_name(shoal_exit_kind kind)
{
    return names[kind];
}

static shoal_status parse_kind(const char *name, size_t length, shoal_exit_kind *ret_kind)
{
    for (size_t i = 0; i < SHOAL_EXIT_KINDS; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0) {
            *ret_kind = (shoal_exit_kind)i;
            return SHOAL_OK;
        }
    }
    return SHOAL_E_NOTFOUND;
}

shoal_status shoal_exit_kind_parse(const char *name, shoal_exit_kind *ret_kind)
{
    return parse_kind(name, strlen(name), ret_kind);
}

static bool is_of(const number *n, shoal_exit_kind kind)
{
    return (n->kinds & ONLY(kind)) != 0;
}

static bool is_count(const number *n)
{
    return n->offset == AT(window);
}

static double get(const shoal_exit_policy *p, const number *n)
{
    float value = 0;
    memcpy(&value, (const char *)p + n->offset, sizeof value);
    return is_count(n) ? (double)p->window : (double)value;
}

static void set(shoal_exit_policy *p, const number *n, double x)
{
    float value = (float)x;
    if (is_count(n)) {
        p->window = (uint32_t)x;
    } else {
        memcpy((char *)p + n->offset, &value, sizeof value);
    }
}

void shoal_exit_policy_print(const shoal_exit_policy *policy, char ret_text[SHOAL_EXIT_TEXT_MAX])
{
    int at = snprintf(ret_text, SHOAL_EXIT_TEXT_MAX, "%s", names[policy->kind]);
    char before = ':';
    for (size_t i = 0; i < SHOAL_COUNT(numbers); i++) {
        if (is_of(&numbers[i], policy->kind)) {
            at += snprintf(ret_text + at, SHOAL_EXIT_TEXT_MAX - (size_t)at, "%c%s=%.9g", before,
                           numbers[i].key, get(policy, &numbers[i]));
            before = ',';
        }
    }
}

static bool in_range(const number *n, double x)
{
    double rounded = (double)(float)x; /* as it will be kept */
    return rounded >= (double)(float)n->min && rounded <= (double)(float)n->max;
}

shoal_status shoal_exit_policy_check(const shoal_exit_policy *policy, shoal_err *err)
{
    for (size_t i = 0; i < SHOAL_COUNT(numbers); i++) {
        const number *n = &numbers[i];
        if (is_of(n, policy->kind) && !in_range(n, get(policy, n))) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "%s: %s %g is outside %g to %g",
                                 names[policy->kind], n->key, get(policy, n), n->min, n->max);
        }
    }
    return SHOAL_OK;
}

static const number *find(shoal_exit_kind kind, const char *key, size_t length)
{
    for (size_t i = 0; i < SHOAL_COUNT(numbers); i++) {
        if (is_of(&numbers[i], kind) && strlen(numbers[i].key) == length &&
            memcmp(numbers[i].key, key, length) == 0) {
            return &numbers[i];
        }
    }
    return NULL;
}

/* One "key=value"; *inout_at goes behind it. */
static shoal_status parse_pair(const char **inout_at, shoal_exit_policy *p, uint32_t *inout_seen,
                               shoal_err *err)
{
    const char *at = *inout_at;
    size_t n = strcspn(at, "=,");
    const number *row = find(p->kind, at, n);
    if (!row || at[n] != '=') {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: \"%.40s\" begins with no key of it",
                             names[p->kind], at);
    }
    uint32_t bit = 1U << (row - numbers);
    char *end = NULL;
    double value = strtod(at + n + 1, &end);
    bool ends = end != at + n + 1 && (*end == ',' || *end == 0);
    bool whole = ends && (!is_count(row) || floor(value) == value);
    if (!whole || !in_range(row, value) || (*inout_seen & bit)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: %s wants a number from %g to %g, once, not \"%.40s\"",
                             names[p->kind], row->key, row->min, row->max, at + n + 1);
    }
    set(p, row, value);
    *inout_seen |= bit;
    *inout_at = *end == ',' ? end + 1 : end;
    if (*end == ',' && end[1] == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: nothing follows the last comma",
                             names[p->kind]);
    }
    return SHOAL_OK;
}

shoal_status shoal_exit_policy_parse(const char *text, shoal_exit_policy *ret_policy,
                                     shoal_err *err)
{
    shoal_exit_policy p = {0};
    uint32_t seen = 0;
    size_t n = strcspn(text, ":");
    if (strnlen(text, SHOAL_EXIT_TEXT_MAX) == SHOAL_EXIT_TEXT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "an exit policy of more than %d bytes",
                             (int)SHOAL_EXIT_TEXT_MAX - 1);
    }
    if (parse_kind(text, n, &p.kind) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "exit policy \"%.40s\": known are fixed, margin, entropy, linear, "
                             "percentile and risk",
                             text);
    }
    const char *at = text[n] == ':' ? text + n + 1 : text + n;
    while (*at) {
        SHOAL_TRY(parse_pair(&at, &p, &seen, err));
    }
    for (size_t i = 0; i < SHOAL_COUNT(numbers); i++) {
        if (!is_of(&numbers[i], p.kind) || (seen & (1U << i))) {
            continue;
        }
        if (isnan(numbers[i].standard)) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s=NUMBER is missing", names[p.kind],
                                 numbers[i].key);
        }
        set(&p, &numbers[i], numbers[i].standard);
    }
    *ret_policy = p;
    return SHOAL_OK;
}
