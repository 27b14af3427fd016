/* SPDX-License-Identifier: Apache-2.0
 *
 * The table as text: a file that loads back, and a help for a terminal.
 */
#include "common/config/config_internal.h"

#include "common/base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 96,
    INDENT = 2,
    HELP_INDENT = 8
};

static const char blanks[] = "                                ";

static shoal_status put(shoal_buf *buf, const char *text)
{
    return shoal_buf_append(buf, text, strlen(text));
}

static shoal_status put_indent(shoal_buf *buf, size_t n)
{
    return shoal_buf_append(buf, blanks, SHOAL_MIN(n, sizeof blanks - 1));
}

/* Words of text over as many lines as they need, each begun by the indent and the lead ("# "). */
static shoal_status put_wrapped(shoal_buf *buf, size_t indent, const char *lead, const char *text)
{
    size_t start = indent + strlen(lead);
    size_t column = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        bool fits = column > 0 && column + 1 + n <= WIDTH;
        if (fits) {
            SHOAL_TRY(put(buf, " "));
            column++;
        } else {
            SHOAL_TRY(put(buf, column > 0 ? "\n" : ""));
            SHOAL_TRY(put_indent(buf, indent));
            SHOAL_TRY(put(buf, lead));
            column = start;
        }
        SHOAL_TRY(shoal_buf_append(buf, text, n));
        column += n;
        text += n;
        text += strspn(text, " ");
    }
    return put(buf, "\n");
}

/* What a value may be: "whole number, 16 to 1024". */
static shoal_status put_kind(shoal_buf *buf, const shoal_config_key *key)
{
    char low[SHOAL_CONFIG_NUMBER_MAX];
    char high[SHOAL_CONFIG_NUMBER_MAX];
    switch (key->type) {
    case SHOAL_CONFIG_INT:
    case SHOAL_CONFIG_REAL:
        return shoal_buf_appendf(
            buf, "%s, %s to %s", key->type == SHOAL_CONFIG_INT ? "whole number" : "number",
            shoal_config_number(key->min, low), shoal_config_number(key->max, high));
    case SHOAL_CONFIG_BOOL:
        return put(buf, "true or false");
    case SHOAL_CONFIG_STRING:
        if (key->min > 0) {
            return shoal_buf_appendf(buf, "text, %.0f to %zu bytes", key->min,
                                     shoal_config_string_max(key));
        }
        return shoal_buf_appendf(buf, "text, at most %zu bytes", shoal_config_string_max(key));
    case SHOAL_CONFIG_CHOICE:
        break;
    }
    SHOAL_TRY(put(buf, "one of"));
    for (const char *p = key->choices; *p;) {
        size_t n = strcspn(p, "|");
        SHOAL_TRY(shoal_buf_appendf(buf, "%s %.*s", p == key->choices ? "" : ",", (int)n, p));
        p += n + (p[n] == '|');
    }
    return SHOAL_OK;
}

/* Help, kind and default as one paragraph. A default with newlines is left to the value line. */
static shoal_status describe(shoal_buf *text, const shoal_config_key *key)
{
    shoal_buf_reset(text);
    size_t n = strlen(key->help);
    SHOAL_TRY(shoal_buf_appendf(text, "%s%s ", key->help, key->help[n - 1] == '.' ? "" : "."));
    SHOAL_TRY(put_kind(text, key));
    if (key->fallback[0] == '\0') {
        SHOAL_TRY(put(text, "; default: empty"));
    } else if (!strpbrk(key->fallback, "\n\t")) {
        SHOAL_TRY(shoal_buf_appendf(text, "; default: %s", key->fallback));
    }
    return put(text, key->reload ? "; taken over on reload." : "; needs a restart.");
}

/* YAML 1.1 calls these not printable, or breaks lines at them. */
static bool needs_code(uint32_t code)
{
    return (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029 || code == 0xFEFF ||
           code == 0xFFFE || code == 0xFFFF;
}

static shoal_status put_quoted(shoal_buf *buf, const char *text)
{
    size_t left = strlen(text);
    SHOAL_TRY(put(buf, "\""));
    while (left > 0) {
        uint32_t code = 0;
        size_t step = shoal_utf8_step(text, left, &code);
        SHOAL_ASSERT(step > 0);
        if (code == '"' || code == '\\') {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\%c", (int)code));
        } else if (code == '\n' || code == '\t') {
            SHOAL_TRY(put(buf, code == '\n' ? "\\n" : "\\t"));
        } else if (needs_code(code)) {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\u%04X", (unsigned)code));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, text, step));
        }
        text += step;
        left -= step;
    }
    return put(buf, "\"");
}

static shoal_status put_value(shoal_buf *buf, const shoal_config_key *key,
                              const shoal_config_value *value)
{
    char number[SHOAL_CONFIG_NUMBER_MAX];
    switch (key->type) {
    case SHOAL_CONFIG_INT:
        return shoal_buf_appendf(buf, "%" PRId64, value->integer);
    case SHOAL_CONFIG_REAL:
        return put(buf, shoal_config_number(value->real, number));
    case SHOAL_CONFIG_BOOL:
        return put(buf, value->truth ? "true" : "false");
    case SHOAL_CONFIG_STRING:
    case SHOAL_CONFIG_CHOICE:
        return put_quoted(buf, value->text);
    }
    return SHOAL_E_INTERNAL;
}

/* Behind its value, so that an operator who asks why finds the file. A path may hold any bytes:
 * what would end the comment is shown as "?". */
static shoal_status put_origin(shoal_buf *buf, const shoal_config_value *value)
{
    if (!value->origin) {
        return put(buf, "\n");
    }
    SHOAL_TRY(put(buf, " # "));
    const char *p = value->origin;
    for (size_t left = strlen(p); left > 0;) {
        uint32_t code = 0;
        size_t step = shoal_utf8_step(p, left, &code);
        bool ok = step > 0 && code >= 0x20 && !needs_code(code);
        step = SHOAL_MAX(step, (size_t)1);
        SHOAL_TRY(shoal_buf_append(buf, ok ? p : "?", ok ? step : 1));
        p += step;
        left -= step;
    }
    return put(buf, "\n");
}

/* Opens the sections of name that the key before it (or "") did not have open. Returns through
 * *ret_depth how deep the leaf stands and through *ret_leaf its own part. */
static shoal_status open_sections(shoal_buf *buf, const char *before, const char *name,
                                  size_t *ret_depth, const char **ret_leaf)
{
    size_t depth = 0;
    bool same = true;
    for (;;) {
        size_t n = strcspn(name, ".");
        if (name[n] == '\0') {
            break;
        }
        same = same && strncmp(before, name, n + 1) == 0;
        if (!same) {
            SHOAL_TRY(put_indent(buf, depth * INDENT));
            SHOAL_TRY(shoal_buf_appendf(buf, "%.*s:\n", (int)n, name));
        } else {
            before += n + 1;
        }
        name += n + 1;
        depth++;
    }
    *ret_depth = depth;
    *ret_leaf = name;
    return SHOAL_OK;
}

shoal_status shoal_config_dump(const shoal_config *config, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const char *before = "";
    for (size_t at = 0; at < config->n_keys; at++) {
        size_t i = config->order[at];
        const shoal_config_key *key = &config->keys[i];
        size_t depth = 0;
        const char *leaf = NULL;
        SHOAL_TRY(open_sections(buf, before, key->name, &depth, &leaf));
        SHOAL_TRY(describe(&text, key));
        SHOAL_TRY(put_wrapped(buf, depth * INDENT, "# ", text.data));
        SHOAL_TRY(put_indent(buf, depth * INDENT));
        SHOAL_TRY(shoal_buf_appendf(buf, "%s: ", leaf));
        SHOAL_TRY(put_value(buf, key, &config->values[i]));
        SHOAL_TRY(put_origin(buf, &config->values[i]));
        before = key->name;
    }
    return SHOAL_OK;
}

shoal_status shoal_config_help(const shoal_config *config, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    for (size_t at = 0; at < config->n_keys; at++) {
        const shoal_config_key *key = &config->keys[config->order[at]];
        char env[SHOAL_CONFIG_ENV_MAX];
        shoal_config_env_name(key->name, env);
        SHOAL_TRY(shoal_buf_appendf(buf, "  %s  (%s)\n", key->name, env));
        SHOAL_TRY(describe(&text, key));
        SHOAL_TRY(put_wrapped(buf, HELP_INDENT, "", text.data));
    }
    return SHOAL_OK;
}
