/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/loss_plot.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 760,
    HEIGHT = 400,
    LEFT = 72,
    RIGHT = 730,
    TOP = 44,
    BOTTOM = 350,
    MEANS = 50,   /* a mean is of the run's length over this */
    POINTS = 1000 /* of the pale line at most */
};

shoal_status shoal_forge_loss_rows(const char *csv, size_t n_bytes, forge_loss **ret_rows,
                                   size_t *ret_n)
{
    size_t n_lines = 1;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        n_lines += csv[i] == '\n';
    }
    forge_loss *rows = shoal_calloc(n_lines, sizeof *rows);
    if (!rows) {
        return SHOAL_E_NOMEM;
    }
    for (size_t at = 0; at < n_bytes;) {
        const char *end = memchr(csv + at, '\n', n_bytes - at);
        unsigned long long step = 0;
        double loss = 0;
        if (!end) {
            break;
        }
        if (sscanf(csv + at, "%llu,%*f,%*u,%*u,%lf", &step, &loss) == 2) {
            rows[n++] = (forge_loss){.step = step, .loss = loss};
        }
        at = (size_t)(end - csv) + 1;
    }
    *ret_rows = rows;
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_forge_loss_json(const forge_loss *rows, size_t n, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_append(buf, "[", 1));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s[%llu, %.6f]", i ? ", " : "",
                                    (unsigned long long)rows[i].step, rows[i].loss));
    }
    return shoal_buf_append(buf, "]", 1);
}

/* --- the picture -------------------------------------------------------------------------------
 */

typedef struct axes {
    double last; /* step */
    double low;  /* logarithms */
    double high;
} axes;

static double at_x(const axes *a, double step)
{
    return LEFT + (RIGHT - LEFT) * step / a->last;
}

static double at_y(const axes *a, double loss)
{
    return BOTTOM - (BOTTOM - TOP) * (log(loss) - a->low) / (a->high - a->low);
}

static shoal_status put_ticks(const axes *a, shoal_buf *buf)
{
    static const double digits[] = {1, 2, 5};
    for (double power = floor(a->low / log(10)); power <= a->high / log(10); power++) {
        for (size_t i = 0; i < SHOAL_COUNT(digits); i++) {
            double loss = digits[i] * pow(10, power);
            if (log(loss) < a->low || log(loss) > a->high) {
                continue;
            }
            SHOAL_TRY(shoal_buf_appendf(buf,
                                        "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" "
                                        "y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                                        LEFT, at_y(a, loss), RIGHT, LEFT - 8, at_y(a, loss) + 4,
                                        loss));
        }
    }
    return shoal_buf_appendf(buf,
                             "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n<text x=\"%d\" y=\"%d\" "
                             "text-anchor=\"end\">step %.0f</text>\n",
                             LEFT, TOP, BOTTOM, RIGHT, RIGHT, BOTTOM + 20, a->last);
}

/* Means of `width` rows each. */
static shoal_status put_line(const axes *a, const forge_loss *rows, size_t n, size_t width,
                             const char *look, shoal_buf *buf)
{
    const char *to = "M";
    SHOAL_TRY(shoal_buf_appendf(buf, "<path fill=\"none\" stroke=\"#2f81f7\" %s d=\"", look));
    for (size_t i = 0; i < n; i += width) {
        size_t end = SHOAL_MIN(i + width, n);
        double loss = 0;
        double step = 0;
        for (size_t j = i; j < end; j++) {
            loss += rows[j].loss / (double)(end - i);
            step += (double)rows[j].step / (double)(end - i);
        }
        if (loss > 0 && isfinite(loss)) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%s%.1f %.1f", to, at_x(a, step), at_y(a, loss)));
            to = "L";
        }
    }
    return shoal_buf_appendf(buf, "\"/>\n");
}

shoal_status shoal_forge_loss_plot(const char *title, const forge_loss *rows, size_t n,
                                   shoal_buf *buf)
{
    axes a = {.last = 1, .low = (double)INFINITY, .high = -(double)INFINITY};
    for (size_t i = 0; i < n; i++) {
        a.last = fmax(a.last, (double)rows[i].step);
        if (rows[i].loss > 0 && isfinite(rows[i].loss)) {
            a.low = fmin(a.low, log(rows[i].loss));
            a.high = fmax(a.high, log(rows[i].loss));
        }
    }
    a.low = isfinite(a.low) ? a.low - 0.05 : 0;
    a.high = isfinite(a.high) ? a.high + 0.05 : 1;
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
        "height=\"%d\" role=\"img\">\n<title>%s</title>\n<style>\n"
        "text { font: 13px system-ui, sans-serif; fill: #24292f }\n"
        ".axis { stroke: #57606a; fill: none } .grid { stroke: #8c959f; stroke-opacity: .3 }\n"
        ".ground { fill: #ffffff }\n@media (prefers-color-scheme: dark) {\n"
        "text { fill: #e6edf3 } .axis { stroke: #9198a1 } .ground { fill: #0d1117 } }\n"
        "</style>\n<rect class=\"ground\" width=\"100%%\" height=\"100%%\"/>\n"
        "<text x=\"%d\" y=\"26\">%s</text>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT, title, LEFT, title));
    SHOAL_TRY(put_ticks(&a, buf));
    SHOAL_TRY(put_line(&a, rows, n, n / POINTS + 1, "stroke-opacity=\".35\"", buf));
    SHOAL_TRY(put_line(&a, rows, n, n / MEANS + 1, "stroke-width=\"2\"", buf));
    return shoal_buf_appendf(buf, "</svg>\n");
}
