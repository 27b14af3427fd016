/* SPDX-License-Identifier: Apache-2.0
 *
 * The report as one HTML page that loads nothing else. Two rows of bars, bytes and error of every
 * matrix, the error on a logarithmic axis; below them the same as a table. Readable on light and on
 * dark ground, and without colours: every bar has its name as a title.
 */
#include "cloud/forge/compress_structure.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    BARS_WIDTH = 960,
    BARS_LEFT = 64,
    BARS_HEIGHT = 150,
    DECADES_MAX = 6 /* of errors that are drawn, below the largest */
};

static shoal_status put_text(shoal_buf *buf, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '<' || c == '>' || c == '&' || c == '"' || c < 0x20 || c > 0x7E) {
            SHOAL_TRY(shoal_buf_appendf(buf, "&#%u;", c < 0x20 || c > 0x7E ? 0x20U : c));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, &text[i], 1));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_head(shoal_buf *buf)
{
    return shoal_buf_appendf(
        buf, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
             "<title>shoal-forge compress</title>\n<style>\n"
             ":root { color-scheme: light dark; --ink: #24292f; --ground: #ffffff; --line: #8c959f;"
             " --bytes: #2f81f7; --error: #d9730d }\n"
             "@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --ground: #0d1117 } }\n"
             "body { font: 14px system-ui, sans-serif; color: var(--ink); background: "
             "var(--ground); max-width: 1000px; margin: 2em auto; padding: 0 1em }\n"
             "table { border-collapse: collapse; width: 100%% }\n"
             "th, td { text-align: left; padding: .25em .6em; border-bottom: 1px solid var(--line) "
             "}\ntd.n, th.n { text-align: right; font-variant-numeric: tabular-nums }\n"
             "svg { width: 100%%; height: auto } svg text { fill: var(--ink); font-size: 12px }\n"
             ".axis { stroke: var(--line) } .bytes { fill: var(--bytes) } .error { fill: "
             "var(--error) }\n</style>\n</head>\n<body>\n");
}

/* --- bars ------------------------------------------------------------------------------------- */

/* Height of a bar in [0, 1]. */
typedef double height_fn(const compress_job *job, double most);

static double height_of_bytes(const compress_job *job, double most)
{
    return most > 0 ? (double)job->made.bytes / most : 0;
}

static double height_of_error(const compress_job *job, double most)
{
    double decades = job->made.error > 0 ? log10(most / job->made.error) : DECADES_MAX;
    return fmax(0, 1 - decades / DECADES_MAX);
}

static shoal_status put_title(const compress_job *job, shoal_buf *buf)
{
    char form[COMPRESS_LABEL_MAX];
    shoal_forge_recipe_describe(&job->forms[job->chosen], form, sizeof form);
    SHOAL_TRY(shoal_buf_appendf(buf, "<title>"));
    SHOAL_TRY(put_text(buf, job->tensor->name.data, job->tensor->name.length));
    return shoal_buf_appendf(buf, ": %s, %" PRIu64 " bytes, error %.3g</title>", form,
                             job->made.bytes, job->made.error);
}

static shoal_status put_bars(const compress_run *run, const char *what, const char *kind,
                             double most, height_fn *height, const char *top, const char *bottom,
                             shoal_buf *buf)
{
    double step = (double)(BARS_WIDTH - BARS_LEFT) / (double)SHOAL_MAX(run->n_jobs, (size_t)1);
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "<h2>%s</h2>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" "
                                "aria-label=\"%s of each matrix\">\n"
                                "<text x=\"0\" y=\"22\">%s</text><text x=\"0\" y=\"%d\">%s</text>\n"
                                "<line class=\"axis\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n",
                                what, BARS_WIDTH, BARS_HEIGHT + 24, what, top, BARS_HEIGHT + 10,
                                bottom, BARS_LEFT, BARS_HEIGHT + 10, BARS_WIDTH, BARS_HEIGHT + 10));
    for (size_t i = 0; i < run->n_jobs; i++) {
        double h = height(&run->jobs[i], most) * BARS_HEIGHT;
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "<rect class=\"%s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
                                    "height=\"%.2f\">",
                                    kind, BARS_LEFT + step * (double)i, BARS_HEIGHT + 10 - h,
                                    step * 0.8, h));
        SHOAL_TRY(put_title(&run->jobs[i], buf));
        SHOAL_TRY(shoal_buf_appendf(buf, "</rect>\n"));
    }
    return shoal_buf_appendf(buf, "</svg>\n");
}

static shoal_status put_pictures(const compress_run *run, shoal_buf *buf)
{
    double bytes = 0;
    double error = 0;
    char top[2][32];
    char bottom[32];
    for (size_t i = 0; i < run->n_jobs; i++) {
        bytes = fmax(bytes, (double)run->jobs[i].made.bytes);
        error = fmax(error, run->jobs[i].made.error);
    }
    (void)snprintf(top[0], sizeof top[0], "%.0f", bytes);
    (void)snprintf(top[1], sizeof top[1], "%.2g", error);
    (void)snprintf(bottom, sizeof bottom, "%.2g", error * pow(10, -DECADES_MAX));
    SHOAL_TRY(put_bars(run, "Bytes", "bytes", bytes, height_of_bytes, top[0], "0", buf));
    return put_bars(run, "Error of the output", "error", error, height_of_error, top[1], bottom,
                    buf);
}

/* --- tables ----------------------------------------------------------------------------------- */

static shoal_status put_row(const char *what, double full, double small, shoal_buf *buf)
{
    return shoal_buf_appendf(
        buf, "<tr><td>%s</td><td class=\"n\">%.6g</td><td class=\"n\">%.6g</td></tr>\n", what, full,
        small);
}

static shoal_status put_whole(compress_run *run, const compress_verdict *v, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "<h1>"));
    SHOAL_TRY(put_text(buf, run->args->output, strlen(run->args->output)));
    SHOAL_TRY(shoal_buf_appendf(buf, "</h1>\n<table>\n<tr><th></th><th class=\"n\">full</th>"
                                     "<th class=\"n\">compressed</th></tr>\n"));
    SHOAL_TRY(put_row("bytes of the file", (double)run->map.size, (double)run->n_bytes, buf));
    if (v) {
        SHOAL_TRY(put_row("perplexity", v->ppl_full, v->ppl, buf));
        SHOAL_TRY(put_row("same most likely next token", 1, v->agreement, buf));
        SHOAL_TRY(put_row("coupled samples agree, at least", 1, v->acceptance, buf));
        SHOAL_TRY(put_row("divergence, nats", 0, v->divergence, buf));
        SHOAL_TRY(put_row("tokens a second", v->full_tok_s, v->tok_s, buf));
        SHOAL_TRY(put_row("bytes of weights a token", (double)v->full_bytes_per_token,
                          (double)v->bytes_per_token, buf));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "</table>\n<p>"));
    if (v) {
        SHOAL_TRY(shoal_buf_appendf(
            buf, "Judged at %zu positions of a text; both models in memory took %.1f MiB. ",
            v->n_tokens, v->peak_mib));
    }
    if (run->structure) {
        const compress_structure *s = run->structure;
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "Every layer has %zu of %zu neurons, %zu of %zu heads and %zu "
                                    "of %zu KV heads. ",
                                    s->ffn, s->hp.ffn, s->n_heads, s->hp.n_heads, s->n_kv_heads,
                                    s->hp.n_kv_heads));
    }
    if (run->target_bytes > 0) {
        SHOAL_TRY(shoal_buf_appendf(
            buf, "Forms were chosen for at most %" PRIu64 " bytes: the sum of errors is %.4g%s. ",
            run->target_bytes, run->allocation.error,
            run->allocation.exact ? ", the least there is" : ""));
    }
    if (run->target_ms > 0) {
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "Forms were chosen for at most %.4g ms a token by the "
                                    "machine's profile: the sum of errors is %.4g%s. ",
                                    run->target_ms, run->allocation.error,
                                    run->allocation.exact ? ", the least there is" : ""));
    }
    if (run->profile) {
        compress_time time;
        SHOAL_TRY(shoal_forge_compress_predict(run, run->rates, &time, NULL));
        SHOAL_TRY(shoal_buf_appendf(
            buf, "A token takes %.4g ms by the profile, and took %.4g ms with %zu threads. ",
            time.ms, run->measured_ms, time.n_threads));
    }
    return shoal_buf_appendf(buf, "%zu matrices by the recipe, in %.1f s.</p>\n", run->n_jobs,
                             run->seconds);
}

static shoal_status put_table(const compress_run *run, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(
        buf, "<h2>Matrices</h2>\n<table>\n<tr><th>name</th><th>rule</th><th>form</th>"
             "<th class=\"n\">bytes</th><th class=\"n\">bits a weight</th>"
             "<th class=\"n\">error</th></tr>\n"));
    for (size_t i = 0; i < run->n_jobs; i++) {
        const compress_job *job = &run->jobs[i];
        char form[COMPRESS_LABEL_MAX];
        shoal_forge_recipe_describe(&job->forms[job->chosen], form, sizeof form);
        SHOAL_TRY(shoal_buf_appendf(buf, "<tr><td>"));
        SHOAL_TRY(put_text(buf, job->tensor->name.data, job->tensor->name.length));
        SHOAL_TRY(shoal_buf_appendf(buf, "</td><td>"));
        SHOAL_TRY(put_text(buf, job->rule->name, strlen(job->rule->name)));
        SHOAL_TRY(shoal_buf_appendf(
            buf,
            "</td><td>%s</td><td class=\"n\">%" PRIu64 "</td><td class=\"n\">%.3f</td>"
            "<td class=\"n\">%.3g%s</td></tr>\n",
            form, job->made.bytes,
            8 * (double)job->made.bytes / ((double)job->n_rows * (double)job->k), job->made.error,
            job->calibrated ? "" : " (of the weights)"));
    }
    return shoal_buf_appendf(buf, "</table>\n</body>\n</html>\n");
}

shoal_status shoal_forge_compress_page(compress_run *run, const compress_verdict *verdict,
                                       shoal_buf *buf)
{
    SHOAL_TRY(put_head(buf));
    SHOAL_TRY(put_whole(run, verdict, buf));
    SHOAL_TRY(put_pictures(run, buf));
    return put_table(run, buf);
}
