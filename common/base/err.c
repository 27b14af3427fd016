/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A text quotes names from files and peers, which may hold anything: it stays one line, and moves
 * no terminal's cursor. */
static void keep_one_line(char *text)
{
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            *c = '?';
        }
    }
}

shoal_status shoal_err_set_at(shoal_err *err, shoal_status code, const char *file, int line,
                              const char *format, ...)
{
    if (!err || err->code != SHOAL_OK) {
        return code;
    }
    err->code = code;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    keep_one_line(err->text);
    return code;
}

void shoal_err_prefix(shoal_err *err, const char *format, ...)
{
    if (!err || err->code == SHOAL_OK) {
        return;
    }
    char prefix[SHOAL_ERR_TEXT_MAX];
    char text[SHOAL_ERR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    keep_one_line(prefix);
    memcpy(text, err->text, sizeof text);
    size_t n = strlen(prefix);
    if (n + 3 > sizeof err->text) {
        return;
    }
    memcpy(err->text, prefix, n);
    err->text[n] = ':';
    err->text[n + 1] = ' ';
    size_t room = sizeof err->text - n - 3;
    size_t keep = strnlen(text, room);
    memcpy(err->text + n + 2, text, keep);
    err->text[n + 2 + keep] = '\0';
}

void shoal_err_clear(shoal_err *err)
{
    if (err) {
        *err = (shoal_err)SHOAL_ERR_INIT;
    }
}
