/* SPDX-License-Identifier: Apache-2.0
 *
 * From text to a value within bounds, with the words for what is wrong with it.
 */
#include "common/config/config_internal.h"

#include "common/base/mem.h"
#include "common/base/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A value as shown in an error: short, on one line, without bytes that drive a terminal. */
enum {
    SHOWN_MAX = 48
};

static const char *shown(const char *text, size_t n, char out[SHOWN_MAX])
{
    static const char mark[] = "...";
    size_t used = 0;
    size_t i = 0;
    while (i < n) {
        uint32_t code = 0;
        size_t step = shoal_utf8_step(text + i, n - i, &code);
        bool printable = step > 0 && code >= 0x20 && (code < 0x7F || code >= 0xA0);
        size_t length = printable ? step : 1;
        if (used + length + sizeof mark > SHOWN_MAX) {
            memcpy(out + used, mark, sizeof mark);
            return out;
        }
        memcpy(out + used, printable ? text + i : "?", length);
        used += length;
        i += step ? step : 1;
    }
    out[used] = '\0';
    return used ? out : "an empty value";
}

const char *shoal_config_number(double value, char out[SHOAL_CONFIG_NUMBER_MAX])
{
    (void)snprintf(out, SHOAL_CONFIG_NUMBER_MAX, "%.15g", value);
    if (strtod(out, NULL) < value || strtod(out, NULL) > value) {
        (void)snprintf(out, SHOAL_CONFIG_NUMBER_MAX, "%.17g", value);
    }
    return out;
}

size_t shoal_config_string_max(const shoal_config_key *key)
{
    return key->max > 0 ? (size_t)key->max : (size_t)SHOAL_CONFIG_SCALAR_MAX;
}

static shoal_status check_bounds(const shoal_config_key *key, const char *where, const char *text,
                                 size_t n, double value, shoal_err *err)
{
    char show[SHOWN_MAX];
    char bound[SHOAL_CONFIG_NUMBER_MAX];
    if (value > key->max) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is more than %s", where, key->name,
                             shown(text, n, show), shoal_config_number(key->max, bound));
    }
    if (value < key->min) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is less than %s", where, key->name,
                             shown(text, n, show), shoal_config_number(key->min, bound));
    }
    return SHOAL_OK;
}

/* text[0..n) has only bytes of the set, and a length a number can have. The conversions below then
 * see neither blanks nor hexadecimal nor "inf" and never a NUL before the end. */
static bool made_of(const char *text, size_t n, const char *set)
{
    return n > 0 && n < SHOAL_CONFIG_SCALAR_MAX && strspn(text, set) == n;
}

static shoal_status parse_int(const shoal_config_key *key, const char *where, const char *text,
                              size_t n, shoal_config_value *ret_value, shoal_err *err)
{
    char show[SHOWN_MAX];
    char *end = NULL;
    errno = 0;
    long long value = made_of(text, n, "+-0123456789") ? strtoll(text, &end, 10) : 0;
    if (end != text + n) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is not a whole number", where,
                             key->name, shown(text, n, show));
    }
    /* Bounds lie within 2^53, so one step beyond is enough to tell a value past them, and is still
     * exact as a double where the value itself need not be. */
    static const long long beyond = (1LL << 53) + 2;
    long long judged = SHOAL_MAX(SHOAL_MIN(value, beyond), -beyond);
    judged += judged == (1LL << 53) + 1;
    judged -= judged == -(1LL << 53) - 1;
    SHOAL_TRY(check_bounds(key, where, text, n, (double)judged, err));
    ret_value->integer = value;
    return SHOAL_OK;
}

static shoal_status parse_real(const shoal_config_key *key, const char *where, const char *text,
                               size_t n, shoal_config_value *ret_value, shoal_err *err)
{
    char show[SHOWN_MAX];
    char *end = NULL;
    double value = made_of(text, n, "+-0123456789.eE") ? strtod(text, &end) : 0;
    if (end != text + n || !isfinite(value)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is not a number", where, key->name,
                             shown(text, n, show));
    }
    SHOAL_TRY(check_bounds(key, where, text, n, value, err));
    ret_value->real = value;
    return SHOAL_OK;
}

static shoal_status parse_bool(const shoal_config_key *key, const char *where, const char *text,
                               size_t n, shoal_config_value *ret_value, shoal_err *err)
{
    static const char yes[] = "true|on|yes";
    static const char no[] = "false|off|no";
    char show[SHOWN_MAX];
    bool truth = shoal_config_choice_ok(yes, text, n);
    if (!truth && !shoal_config_choice_ok(no, text, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is not true or false", where,
                             key->name, shown(text, n, show));
    }
    ret_value->truth = truth;
    return SHOAL_OK;
}

/* Tabs and newlines are text; other controls are a mistake or an attack on a terminal. */
static bool is_clean(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
            return false;
        }
    }
    return shoal_utf8_valid(text, n);
}

static shoal_status parse_string(const shoal_config_key *key, const char *where, const char *text,
                                 size_t n, shoal_err *err)
{
    size_t most = shoal_config_string_max(key);
    if (n > most) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %zu bytes are more than %zu", where,
                             key->name, n, most);
    }
    if ((double)n < key->min) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %zu bytes are less than %.0f", where,
                             key->name, n, key->min);
    }
    if (!is_clean(text, n)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: %s: the text has control characters or is not UTF-8", where,
                             key->name);
    }
    return SHOAL_OK;
}

bool shoal_config_choice_ok(const char *choices, const char *text, size_t n)
{
    const char *p = choices;
    while (*p) {
        size_t length = strcspn(p, "|");
        if (length == n && memcmp(p, text, n) == 0) {
            return true;
        }
        p += length + (p[length] == '|');
    }
    return false;
}

static shoal_status parse_choice(const shoal_config_key *key, const char *where, const char *text,
                                 size_t n, shoal_err *err)
{
    if (shoal_config_choice_ok(key->choices, text, n)) {
        return SHOAL_OK;
    }
    char show[SHOWN_MAX];
    char words[SHOAL_ERR_TEXT_MAX];
    size_t used = 0;
    for (const char *p = key->choices; *p && used + 3 < sizeof words; p++) {
        if (*p == '|') {
            words[used++] = ',';
            words[used++] = ' ';
        } else {
            words[used++] = *p;
        }
    }
    words[used] = '\0';
    return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: %s is not one of %s", where, key->name,
                         shown(text, n, show), words);
}

shoal_status shoal_config_value_parse(const shoal_config_key *key, const char *where,
                                      const char *text, size_t n, shoal_config_value *ret_value,
                                      shoal_err *err)
{
    shoal_config_value value = {0};
    switch (key->type) {
    case SHOAL_CONFIG_INT:
        SHOAL_TRY(parse_int(key, where, text, n, &value, err));
        break;
    case SHOAL_CONFIG_REAL:
        SHOAL_TRY(parse_real(key, where, text, n, &value, err));
        break;
    case SHOAL_CONFIG_BOOL:
        SHOAL_TRY(parse_bool(key, where, text, n, &value, err));
        break;
    case SHOAL_CONFIG_STRING:
        SHOAL_TRY(parse_string(key, where, text, n, err));
        break;
    case SHOAL_CONFIG_CHOICE:
        SHOAL_TRY(parse_choice(key, where, text, n, err));
        break;
    }
    if (key->type == SHOAL_CONFIG_STRING || key->type == SHOAL_CONFIG_CHOICE) {
        value.text = shoal_strndup(text, n);
        if (!value.text) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "%s: %s: out of memory", where, key->name);
        }
    }
    value.origin = shoal_strdup(where);
    if (!value.origin) {
        shoal_config_value_fini(&value);
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: %s: out of memory", where, key->name);
    }
    *ret_value = value;
    return SHOAL_OK;
}

void shoal_config_value_fini(shoal_config_value *value)
{
    shoal_free(value->text);
    shoal_free(value->origin);
    value->text = NULL;
    value->origin = NULL;
}
