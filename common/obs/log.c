/* SPDX-License-Identifier: Apache-2.0 */
#include "common/obs/log.h"

#include "common/base/thread.h"
#include "common/base/utf8.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A line stays below PIPE_BUF (4096), so that one write is one line even when several processes
 * share the pipe to the journal. */
enum {
    LINE_MAX_BYTES = 3072,
    TEXT_MAX_BYTES = 2048,
    UNIT_MAX_BYTES = 4,
    RING_BYTES = 64 << 10,
    STOP_MS = 2000
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

/* Writes the escaped form of what stands at p (n bytes are left) to unit, its length to *ret_n;
 * returns the bytes of input used. C0 and C1 controls, DEL and broken UTF-8 become \xNN: none can
 * drive a terminal or start a line. */
static size_t escape_unit(const char *p, size_t n, char unit[4 * UNIT_MAX_BYTES], size_t *ret_n)
{
    static const char digits[] = "0123456789ABCDEF";
    uint32_t code = 0;
    size_t step = shoal_utf8_step(p, n, &code);
    bool is_control = code < 0x20 || (code >= 0x7F && code < 0xA0);
    if (step > 0 && !is_control) {
        memcpy(unit, p, step);
        *ret_n = step;
        return step;
    }
    step = step == 0 ? 1 : step;
    size_t length = 0;
    for (size_t i = 0; i < step; i++) {
        unsigned byte = (unsigned char)p[i];
        unit[length++] = '\\';
        unit[length++] = 'x';
        unit[length++] = digits[byte >> 4];
        unit[length++] = digits[byte & 15u];
    }
    *ret_n = length;
    return step;
}

/* Appends the escaped text to out, which holds used bytes, as far as whole units fit below end;
 * *ret_all says whether everything did. Returns the bytes used then. */
static size_t add_escaped(char *out, size_t used, size_t end, const char *text, bool *ret_all)
{
    size_t left = strlen(text);
    while (left > 0) {
        char unit[4 * UNIT_MAX_BYTES];
        size_t length = 0;
        size_t step = escape_unit(text, left, unit, &length);
        if (length > end - used) {
            break;
        }
        memcpy(out + used, unit, length);
        used += length;
        text += step;
        left -= step;
    }
    *ret_all = left == 0;
    return used;
}

const char *shoal_log_escape(const char *text, char *out, size_t n)
{
    if (n == 0) {
        return "";
    }
    bool all = false;
    size_t used = add_escaped(out, 0, n - 1, text, &all);
    out[used] = '\0';
    return out;
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

/* --- the thread that writes ------------------------------------------------------------------- */

/* Lines on their way to the thread. */
static struct {
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t changed;
    shoal_thread *thread; /* NULL: lines are written where they are made */
    bool stopping;
    bool over; /* the thread writes no more */
    uint64_t n_lost;
    size_t begin;
    size_t n; /* bytes, whole lines */
    char ring[RING_BYTES];
} behind = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Under the lock. False: it does not fit. */
static bool put_behind(const char *line, size_t n)
{
    if (n > RING_BYTES - behind.n) {
        return false;
    }
    size_t at = (behind.begin + behind.n) % RING_BYTES;
    size_t n_first = SHOAL_MIN(n, RING_BYTES - at);
    memcpy(behind.ring + at, line, n_first);
    memcpy(behind.ring, line + n_first, n - n_first);
    behind.n += n;
    return true;
}

/* Under the lock, with something there: the oldest line. */
static size_t take_behind(char line[LINE_MAX_BYTES])
{
    size_t n = 0;
    do {
        line[n] = behind.ring[behind.begin];
        behind.begin = (behind.begin + 1) % RING_BYTES;
        behind.n--;
    } while (line[n++] != '\n' && behind.n > 0 && n < LINE_MAX_BYTES);
    return n;
}

static size_t print_head(shoal_log_level level, char *head, size_t n)
{
    char priority[8] = "";
    if (atomic_load_explicit(&for_journald, memory_order_relaxed)) {
        (void)snprintf(priority, sizeof priority, "<%d>", levels[level].priority);
    }
    const char *name = atomic_load_explicit(&program, memory_order_acquire);
    int length = snprintf(head, n, "%s%.64s%s%s ", priority, name ? name : "", name ? ": " : "",
                          levels[level].name);
    return length > 0 ? (size_t)length : 0;
}

/* What is lost is told when there is room for it, behind what came before. */
static size_t print_lost(char line[LINE_MAX_BYTES], uint64_t n_lost)
{
    size_t used = print_head(SHOAL_LOG_WARN, line, LINE_MAX_BYTES);
    int length = snprintf(line + used, LINE_MAX_BYTES - used,
                          "lines of the log were lost n=%llu: it is not taken as fast as it is "
                          "written\n",
                          (unsigned long long)n_lost);
    return used + (length > 0 ? (size_t)length : 0);
}

static void write_behind(void *ctx)
{
    (void)ctx;
    char line[LINE_MAX_BYTES];
    (void)pthread_mutex_lock(&behind.lock);
    while (!behind.stopping || behind.n > 0 || behind.n_lost > 0) {
        size_t n = 0;
        if (behind.n > 0) {
            n = take_behind(line);
        } else if (behind.n_lost > 0) {
            n = print_lost(line, behind.n_lost);
            behind.n_lost = 0;
        } else {
            (void)pthread_cond_wait(&behind.changed, &behind.lock);
        }
        if (n > 0) {
            (void)pthread_mutex_unlock(&behind.lock);
            write_line(line, n);
            (void)pthread_mutex_lock(&behind.lock);
        }
    }
    behind.over = true;
    (void)pthread_cond_broadcast(&behind.changed);
    (void)pthread_mutex_unlock(&behind.lock);
}

void shoal_log_start(void)
{
    pthread_condattr_t attr;
    shoal_thread *thread = NULL;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&behind.changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    behind.stopping = false;
    behind.over = false;
    if (rc != 0 ||
        shoal_thread_start(SHOAL_ROLE_IO, "shoal-log", write_behind, NULL, &thread) != SHOAL_OK) {
        return;
    }
    (void)pthread_mutex_lock(&behind.lock);
    behind.thread = thread;
    (void)pthread_mutex_unlock(&behind.lock);
}

void shoal_log_stop(void)
{
    struct timespec until;
    int rc = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += STOP_MS / 1000;
    (void)pthread_mutex_lock(&behind.lock);
    shoal_thread *thread = behind.thread;
    behind.stopping = true;
    (void)pthread_cond_broadcast(&behind.changed);
    while (thread && !behind.over && rc == 0) {
        rc = pthread_cond_timedwait(&behind.changed, &behind.lock, &until);
    }
    bool over = behind.over;
    behind.thread = over ? NULL : thread;
    (void)pthread_mutex_unlock(&behind.lock);
    if (over) { /* else it stands in a write, and ends with the program */
        shoal_thread_join(thread);
    }
}

static void put_line(const char *line, size_t n)
{
    (void)pthread_mutex_lock(&behind.lock);
    bool here = !behind.thread;
    if (!here && put_behind(line, n)) {
        (void)pthread_cond_signal(&behind.changed);
    } else if (!here) {
        behind.n_lost++;
    }
    (void)pthread_mutex_unlock(&behind.lock);
    if (here) {
        write_line(line, n);
    }
}

/* --- lines ------------------------------------------------------------------------------------ */

void shoal_log(shoal_log_level level, const char *format, ...)
{
    static const char mark[] = "...";
    if ((int)level < atomic_load_explicit(&lowest_level, memory_order_relaxed)) {
        return;
    }
    int saved_errno = errno;
    char text[TEXT_MAX_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bool whole = length >= 0 && (size_t)length < sizeof text;
    char head[128];
    (void)print_head(level, head, sizeof head);
    char line[LINE_MAX_BYTES];
    bool all = false;
    size_t end = sizeof line - sizeof mark;
    size_t used = add_escaped(line, 0, end, head, &all);
    used =
        add_escaped(line, used, end, length >= 0 ? text : "a message could not be formatted", &all);
    if (!all || !whole) {
        memcpy(line + used, mark, sizeof mark - 1);
        used += sizeof mark - 1;
    }
    line[used++] = '\n';
    put_line(line, used);
    errno = saved_errno;
}
