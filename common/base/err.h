/* SPDX-License-Identifier: Apache-2.0
 *
 * The error object: what went wrong, in words for the person who can act. It belongs to a request
 * or a command, never to a thread, because work hops threads. Every function takes it last and
 * may be given NULL. The first error set wins until it is cleared.
 */
#ifndef SHOAL_BASE_ERR_H
#define SHOAL_BASE_ERR_H

#include "common/base/status.h"

enum { SHOAL_ERR_TEXT_MAX = 256 };

typedef struct shoal_err {
    shoal_status code; /* SHOAL_OK while nothing is set */
    int line;          /* origin in our source */
    const char *file;  /* static string */
    char text[SHOAL_ERR_TEXT_MAX];
} shoal_err;

#define SHOAL_ERR_INIT {.code = SHOAL_OK, .line = 0, .file = "", .text = ""}

/* Records code and a printf-formatted text (cut at 255 bytes, control characters become '?', so
 * that whatever is quoted the text is one line); returns code, so that
 * `return shoal_err_set(err, SHOAL_E_INVALID, "...", ...)` reads as one thought. */
#ifndef __clang_analyzer__
#define shoal_err_set(err, code, ...)                                                              \
    shoal_err_set_at((err), (code), __FILE__, __LINE__, __VA_ARGS__)
#else /* clang-tidy looks into one file at a time: it is told what comes back */
#define shoal_err_set(err, code, ...)                                                              \
    ((void)shoal_err_set_at((err), (code), __FILE__, __LINE__, __VA_ARGS__), (code))
#endif

shoal_status shoal_err_set_at(shoal_err *err, shoal_status code, const char *file, int line,
                              const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Puts "prefix: " (printf-formatted) before the text of an error already set; no-op when unset. */
void shoal_err_prefix(shoal_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void shoal_err_clear(shoal_err *err);

#endif
