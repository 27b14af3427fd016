/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/progress.h"

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    BAR = 20,
    TERMINAL_MS = 200,
    LINE_MS = 10000,
    CSV_MAX = 1 << 30
};

static uint64_t now_ns(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

/* Bytes of a CSV up to the row of a step, with the seconds of that row. */
static size_t rows_until(const shoal_buf *csv, uint64_t step, double *ret_seconds)
{
    size_t kept = 0;
    for (size_t at = 0; at < csv->length;) {
        const char *line = csv->data + at;
        const char *end = memchr(line, '\n', csv->length - at);
        unsigned long long row = 0;
        double seconds = 0;
        bool is_row = sscanf(line, "%llu,%lf", &row, &seconds) == 2;
        if (!end || (is_row && row > step) || (!is_row && at > 0)) {
            break; /* half a line, a step to come, or not ours */
        }
        *ret_seconds = is_row ? seconds : *ret_seconds;
        at += (size_t)(end - line) + 1;
        kept = at;
    }
    return kept;
}

static void write_head(FILE *file, size_t n_exits)
{
    (void)fprintf(file, "step,seconds,tokens,targets,loss");
    for (size_t i = 0; i < n_exits; i++) {
        (void)fprintf(file, ",exit_%zu", i);
    }
    (void)fprintf(file, ",gradient_norm,operations\n");
}

static shoal_status open_csv(const char *path, size_t n_exits, uint64_t begin_step, FILE **ret_file,
                             double *ret_seconds, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf before = {0};
    size_t kept = 0;
    if (begin_step > 0 && access(path, F_OK) == 0) {
        SHOAL_TRY(shoal_file_read(path, CSV_MAX, &before, err));
        kept = rows_until(&before, begin_step, ret_seconds);
    }
    FILE *file = fopen(path, "we");
    if (!file) {
        char space[128];
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot open: %s", path,
                             strerror_r(errno, space, sizeof space));
    }
    if (kept > 0) {
        (void)fwrite(before.data, 1, kept, file);
    } else {
        write_head(file, n_exits);
    }
    *ret_file = file;
    return SHOAL_OK;
}

shoal_status shoal_forge_progress_open(FILE *to, const char *csv_path, size_t n_exits,
                                       uint64_t begin_step, uint64_t n_steps,
                                       shoal_forge_progress *ret_progress, shoal_err *err)
{
    FILE *csv = NULL;
    double seconds = 0;
    if (csv_path) {
        SHOAL_TRY(open_csv(csv_path, n_exits, begin_step, &csv, &seconds, err));
    }
    uint64_t now = now_ns();
    *ret_progress = (shoal_forge_progress){.to = to,
                                           .csv = csv,
                                           .terminal = to && isatty(fileno(to)) == 1,
                                           .n_exits = n_exits,
                                           .n_steps = n_steps,
                                           .begin_step = begin_step,
                                           .begin_ns = now,
                                           .seconds_before = seconds,
                                           .shown_ns = now};
    return SHOAL_OK;
}

double shoal_forge_progress_seconds(const shoal_forge_progress *progress)
{
    return (double)(now_ns() - progress->begin_ns) * 1e-9;
}

static void draw_bar(const shoal_forge_progress *p, uint64_t step)
{
    char bar[BAR + 1];
    uint64_t done = p->n_steps ? step * BAR / p->n_steps : 0;
    for (uint64_t i = 0; i < BAR; i++) {
        bar[i] = i < done ? '=' : '.';
    }
    bar[BAR] = '\0';
    (void)fprintf(p->to, "\r[%s] ", bar);
}

/* "2h05m", "3m07s" or "12s". */
static void draw_time(FILE *to, double seconds)
{
    unsigned long s = (unsigned long)(seconds + 0.5);
    if (s >= 3600) {
        (void)fprintf(to, "%luh%02lum", s / 3600, s / 60 % 60);
    } else if (s >= 60) {
        (void)fprintf(to, "%lum%02lus", s / 60, s % 60);
    } else {
        (void)fprintf(to, "%lus", s);
    }
}

static void draw(shoal_forge_progress *p, uint64_t step)
{
    double seconds = shoal_forge_progress_seconds(p);
    double done = (double)(step - p->begin_step);
    if (p->terminal) {
        draw_bar(p, step);
    }
    (void)fprintf(p->to, "step %llu/%llu  loss %.4f", (unsigned long long)step,
                  (unsigned long long)p->n_steps, p->loss_sum / (double)p->n_losses);
    for (size_t i = 0; i < p->n_exits; i++) {
        (void)fprintf(p->to, "%s%.4f", i ? " " : "  exits ", p->exit_sum[i] / (double)p->n_losses);
    }
    (void)fprintf(p->to, "  %.0f tok/s  %.1f GFLOP/s  ", (double)p->n_tokens / seconds,
                  (double)p->flops / seconds * 1e-9);
    draw_time(p->to, seconds / done * (double)(p->n_steps - step));
    (void)fprintf(p->to, " left%s", p->terminal ? "\033[K" : "\n");
    (void)fflush(p->to);
    p->loss_sum = 0;
    memset(p->exit_sum, 0, sizeof p->exit_sum);
    p->n_losses = 0;
}

static void write_row(const shoal_forge_progress *p, const shoal_train_stats *s)
{
    (void)fprintf(p->csv, "%llu,%.3f,%llu,%llu,%.6f", (unsigned long long)s->step,
                  p->seconds_before + shoal_forge_progress_seconds(p),
                  (unsigned long long)s->n_tokens, (unsigned long long)s->n_targets, s->loss);
    for (size_t i = 0; i < p->n_exits; i++) {
        (void)fprintf(p->csv, ",%.6f", s->exit_loss[i]);
    }
    (void)fprintf(p->csv, ",%.6g,%llu\n", s->grad_norm, (unsigned long long)s->flops);
}

void shoal_forge_progress_step(shoal_forge_progress *progress, const shoal_train_stats *stats)
{
    shoal_forge_progress *p = progress;
    p->n_tokens += stats->n_tokens;
    p->flops += stats->flops;
    p->loss_sum += stats->loss;
    for (size_t i = 0; i < p->n_exits; i++) {
        p->exit_sum[i] += stats->exit_loss[i];
    }
    p->n_losses++;
    if (p->csv) {
        write_row(p, stats);
    }
    uint64_t now = now_ns();
    uint64_t wait_ms = p->terminal ? TERMINAL_MS : LINE_MS;
    if (p->to && (now - p->shown_ns >= wait_ms * 1000000u || stats->step == p->n_steps)) {
        draw(p, stats->step);
        p->shown_ns = now;
    }
}

void shoal_forge_progress_close(shoal_forge_progress *progress)
{
    if (progress->to && progress->terminal) {
        (void)fprintf(progress->to, "\n");
    }
    if (progress->csv) {
        (void)fclose(progress->csv);
    }
    *progress = (shoal_forge_progress){0};
}
