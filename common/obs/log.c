/* SPDX-License-Identifier: Apache-2.0 */
#include "common/obs/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A line stays below PIPE_BUF (4096), so that one write is one line even when several processes
 * share the pipe to the journal. */
enum {
    LINE_MAX_BYTES = 3072,
    TEXT_MAX_BYTES = 2048,
    UNIT_MAX_BYTES = 4
};

/* Names as written in lines and configuration, with the syslog priority journald wants. */
static const struct {
    const char *name;
    int priority;
} levels[] = {
    [SHOAL_LOG_DEBUG] = {"debug", 7},
    [SHOAL_LOG_INFO] = {"info", 6},
    [SHOAL_LOG_WARN] = {"warn", 4},
    [SHOAL_LOG_ERROR] = {"error", 3},
};

static atomic_int lowest_level = SHOAL_LOG_INFO;
static _Atomic(const char *) program;
static atomic_bool for_journald;

void shoal_log_set_level(shoal_log_level level)
{
    atomic_store_explicit(&lowest_level, (int)level, memory_order_relaxed);
}

void shoal_log_set_program(const char *name)
{
    atomic_store_explicit(&program, name, memory_order_release);
}

void shoal_log_set_journald(bool on)
{
    atomic_store_explicit(&for_journald, on, memory_order_relaxed);
}

shoal_status shoal_log_level_parse(const char *name, shoal_log_level *ret_level)
{
    for (size_t i = 0; i < SHOAL_COUNT(levels); i++) {
        if (strcmp(name, levels[i].name) == 0) {
            *ret_level = (shoal_log_level)i;
            return SHOAL_OK;
        }
    }
    return SHOAL_E_INVALID;
}

/* Length of the well-formed UTF-8 sequence at p (The Unicode Standard, table 3-7), or 0 for a byte
 * that begins none. Reading stops at the NUL because it is no continuation byte. */
static size_t utf8_length(const unsigned char *p)
{
    unsigned first = p[0];
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    size_t n = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < n; i++) {
        if ((p[i] & 0xC0u) != 0x80) {
            return 0;
        }
    }
    return n;
}

/* Writes the escaped form of what stands at p to unit, its length to *ret_n; returns the bytes of
 * input used. C0 and C1 controls, DEL and broken UTF-8 become \xNN: none can drive a terminal or
 * start a line. */
static size_t escape_unit(const unsigned char *p, char unit[2 * UNIT_MAX_BYTES + 1], size_t *ret_n)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = utf8_length(p);
    bool is_c1 = n == 2 && p[0] == 0xC2 && p[1] < 0xA0;
    bool is_control = n == 0 || is_c1 || (n == 1 && (p[0] < 0x20 || p[0] == 0x7F));
    if (!is_control) {
        memcpy(unit, p, n);
        *ret_n = n;
        return n;
    }
    n = n == 0 ? 1 : n;
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        unit[length++] = '\\';
        unit[length++] = 'x';
        unit[length++] = digits[p[i] >> 4];
        unit[length++] = digits[p[i] & 15u];
    }
    *ret_n = length;
    return n;
}

const char *shoal_log_escape(const char *text, char *out, size_t n)
{
    if (n == 0) {
        return "";
    }
    const unsigned char *p = (const unsigned char *)text;
    size_t used = 0;
    while (*p) {
        char unit[2 * UNIT_MAX_BYTES + 1];
        size_t length = 0;
        size_t step = escape_unit(p, unit, &length);
        if (length > n - 1 - used) {
            break;
        }
        memcpy(out + used, unit, length);
        used += length;
        p += step;
    }
    out[used] = '\0';
    return out;
}

/* Adds the escaped text, with "..." where it does not all fit; room is kept for the newline. */
static size_t add_escaped(char *line, size_t used, const char *text)
{
    static const char mark[] = "...";
    const unsigned char *p = (const unsigned char *)text;
    size_t room = LINE_MAX_BYTES - 1 - (sizeof mark - 1);
    while (*p) {
        char unit[2 * UNIT_MAX_BYTES + 1];
        size_t length = 0;
        size_t step = escape_unit(p, unit, &length);
        if (length > room - used) {
            memcpy(line + used, mark, sizeof mark - 1);
            return used + sizeof mark - 1;
        }
        memcpy(line + used, unit, length);
        used += length;
        p += step;
    }
    return used;
}

/* A log that cannot be written has no one left to tell: errors end the attempt. */
static void write_line(const char *line, size_t n)
{
    while (n > 0) {
        ssize_t done = write(STDERR_FILENO, line, n);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return;
        }
        line += done;
        n -= (size_t)done;
    }
}

void shoal_log(shoal_log_level level, const char *format, ...)
{
    if ((int)level < atomic_load_explicit(&lowest_level, memory_order_relaxed)) {
        return;
    }
    int saved_errno = errno;
    char text[TEXT_MAX_BYTES + 4];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, TEXT_MAX_BYTES, format, args);
    va_end(args);
    if (length < 0) {
        (void)snprintf(text, sizeof text, "a log message could not be formatted");
    } else if (length >= TEXT_MAX_BYTES) {
        memcpy(text + TEXT_MAX_BYTES - 1, "...", sizeof "...");
    }
    char line[LINE_MAX_BYTES];
    const char *name = atomic_load_explicit(&program, memory_order_acquire);
    size_t used = 0;
    char head[128];
    if (atomic_load_explicit(&for_journald, memory_order_relaxed)) {
        (void)snprintf(head, sizeof head, "<%d>", levels[level].priority);
        used = add_escaped(line, used, head);
    }
    (void)snprintf(head, sizeof head, "%.64s%s%s ", name ? name : "", name ? ": " : "",
                   levels[level].name);
    used = add_escaped(line, used, head);
    used = add_escaped(line, used, text);
    line[used++] = '\n';
    write_line(line, used);
    errno = saved_errno;
}
