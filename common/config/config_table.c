/* SPDX-License-Identifier: Apache-2.0
 *
 * The table is ours, but a wrong row must show at the first start of any program that has it, with
 * words, and not when somebody sets the key.
 */
#include "common/config/config_internal.h"

#include <math.h>
#include <string.h>

/* Whole numbers a double holds exactly lie within this, so bounds on INT stay exact. */
#define WHOLE_MAX 9007199254740992.0

static bool is_low(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_tail(char c)
{
    return is_low(c) || (c >= '0' && c <= '9') || c == '_';
}

/* part(.part)*, a part being [a-z][a-z0-9_]*. */
static bool name_ok(const char *name)
{
    size_t n = strnlen(name, SHOAL_CONFIG_NAME_MAX + 1);
    if (n == 0 || n > SHOAL_CONFIG_NAME_MAX) {
        return false;
    }
    size_t n_parts = 1;
    for (size_t i = 0; i < n; i++) {
        bool begins = i == 0 || name[i - 1] == '.';
        if (name[i] == '.' && !begins) {
            n_parts++;
        } else if (begins ? !is_low(name[i]) : !is_tail(name[i])) {
            return false;
        }
    }
    return name[n - 1] != '.' && n_parts <= SHOAL_CONFIG_DEPTH_MAX;
}

/* Words of [A-Za-z0-9_.+-] between single bars. */
static bool choices_ok(const char *choices)
{
    size_t n = strlen(choices);
    bool begins = true;
    for (size_t i = 0; i < n; i++) {
        char c = choices[i];
        bool is_word = is_tail(c) || (c >= 'A' && c <= 'Z') || c == '.' || c == '+' || c == '-';
        if (!is_word && (c != '|' || begins)) {
            return false;
        }
        begins = c == '|';
    }
    return n > 0 && n <= SHOAL_CONFIG_SCALAR_MAX && !begins;
}

static bool bounds_ok(const shoal_config_key *key)
{
    if (!isfinite(key->min) || !isfinite(key->max)) {
        return false;
    }
    switch (key->type) {
    case SHOAL_CONFIG_INT:
        return key->min <= key->max && key->min >= -WHOLE_MAX && key->max <= WHOLE_MAX &&
               !(floor(key->min) < key->min) && !(floor(key->max) < key->max);
    case SHOAL_CONFIG_REAL:
        return key->min <= key->max;
    case SHOAL_CONFIG_STRING:
        return key->min >= 0 && key->max >= 0 && key->max <= SHOAL_CONFIG_SCALAR_MAX &&
               key->min <= (double)shoal_config_string_max(key);
    case SHOAL_CONFIG_BOOL:
    case SHOAL_CONFIG_CHOICE:
        return true;
    }
    return false;
}

static bool help_ok(const char *help)
{
    if (!help || help[0] == '\0') {
        return false;
    }
    for (; *help; help++) {
        if ((unsigned char)*help < 0x20) {
            return false;
        }
    }
    return true;
}

static shoal_status check_key(const shoal_config_key *key, size_t i, shoal_err *err)
{
    if (!key->name || !name_ok(key->name)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "configuration table: row %zu has no name of the form part.part", i);
    }
    const char *wrong = NULL;
    if (!bounds_ok(key)) {
        wrong = "the bounds are not in order or not exact";
    } else if (key->type == SHOAL_CONFIG_CHOICE && (!key->choices || !choices_ok(key->choices))) {
        wrong = "the choices are not of the form a|b|c";
    } else if (!help_ok(key->help)) {
        wrong = "the help is missing or has control characters";
    } else if (!key->fallback || strlen(key->fallback) > SHOAL_CONFIG_SCALAR_MAX) {
        wrong = "the default is missing or too long";
    }
    if (wrong) {
        return shoal_err_set(err, SHOAL_E_INVALID, "configuration table: %s: %s", key->name, wrong);
    }
    return SHOAL_OK;
}

/* Two keys clash when one is the other's section, or when both have one name in the environment
 * (a.b_c and a.b.c do), which covers being the same. */
static bool clash(const char *a, const char *b)
{
    size_t n_a = strlen(a);
    size_t n_b = strlen(b);
    size_t n = SHOAL_MIN(n_a, n_b);
    if (memcmp(a, b, n) == 0 && n_a != n_b && (n_a > n_b ? a : b)[n] == '.') {
        return true;
    }
    char env_a[SHOAL_CONFIG_ENV_MAX];
    char env_b[SHOAL_CONFIG_ENV_MAX];
    shoal_config_env_name(a, env_a);
    shoal_config_env_name(b, env_b);
    return strcmp(env_a, env_b) == 0;
}

shoal_status shoal_config_table_check(const shoal_config_key *keys, size_t n_keys, shoal_err *err)
{
    if (n_keys > SHOAL_CONFIG_KEYS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "configuration table: %zu keys are more than %d",
                             n_keys, SHOAL_CONFIG_KEYS_MAX);
    }
    for (size_t i = 0; i < n_keys; i++) {
        SHOAL_TRY(check_key(&keys[i], i, err));
        for (size_t j = 0; j < i; j++) {
            if (clash(keys[i].name, keys[j].name)) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "configuration table: %s clashes with %s", keys[i].name,
                                     keys[j].name);
            }
        }
    }
    return SHOAL_OK;
}
