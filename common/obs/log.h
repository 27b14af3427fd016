/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of daemons and tools: one line per event on stderr, structured as `level message
 * key=value ...`. Libraries do not log above debug. Newlines and control bytes in values are
 * escaped. Locked by itself.
 */
#ifndef SHOAL_OBS_LOG_H
#define SHOAL_OBS_LOG_H

#include "common/base/macros.h"

#include <stdbool.h>

typedef enum shoal_log_level {
    SHOAL_LOG_DEBUG,
    SHOAL_LOG_INFO,
    SHOAL_LOG_WARN,
    SHOAL_LOG_ERROR
} shoal_log_level;

void shoal_log_set_level(shoal_log_level level);
/* Program name shown before each line; static string. */
void shoal_log_set_program(const char *name);
/* true: lines begin with <N> priorities for journald. */
void shoal_log_set_journald(bool on);
/* "debug", "info", "warn", "error"; SHOAL_E_INVALID otherwise. */
shoal_status shoal_log_level_parse(const char *name, shoal_log_level *ret_level) SHOAL_MUST_CHECK;

/* From now on a thread writes the lines, so that no other waits for a slow disk or for whoever
 * reads the other end of a pipe. Up to 64 KiB of them wait; what does not fit is lost, and a line
 * says how much was. Without memory, or a thread, for it, lines are written as before. Not twice;
 * from main.
 */
void shoal_log_start(void);
/* Writes what waits, for two seconds at most. Nothing is logged afterwards. */
void shoal_log_stop(void);

void shoal_log(shoal_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Copies text into out (n bytes with NUL), control bytes as \xNN: for values from outside. */
const char *shoal_log_escape(const char *text, char *out, size_t n);

#endif
