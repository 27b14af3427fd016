/* SPDX-License-Identifier: Apache-2.0
 *
 * The picture of compare-passes: the error of each layer's output at equal bytes, one line for each
 * kind, on a logarithmic axis; readable on light and on dark ground, every line with its own dashes
 * and its name.
 */
#include "cloud/forge/compare.h"

#include <math.h>

enum {
    WIDTH = 860,
    HEIGHT = 456,
    LEFT = 72,
    RIGHT = 700,
    TOP = 44,
    BOTTOM = 400,
    ROW = 24 /* of the list of names */
};

#define ERROR_LEAST 1e-9 /* what is less is drawn here */

static const struct {
    compare_column column;
    const char *color;
    const char *dashes;
} lines[] = {{COMPARE_EQUAL_SPARSE, "#b95ad6", "9 3 2 3"},
             {COMPARE_EQUAL_LOW_RANK, "#1f9d6b", "2 4"},
             {COMPARE_EQUAL_QUANTISED, "#d9730d", "7 4"},
             {COMPARE_EQUAL_REFINED, "#c94f4f", "4 2"},
             {COMPARE_EQUAL_JOINT, "#2f81f7", "none"}};

typedef struct axes {
    double low; /* powers of ten */
    double high;
    size_t n;
} axes;

static double at_x(const axes *a, size_t i)
{
    return LEFT + (RIGHT - LEFT) * ((double)i + 0.5) / (double)a->n;
}

static double at_y(const axes *a, double error)
{
    double power = log10(fmax(error, ERROR_LEAST));
    return BOTTOM - (BOTTOM - TOP) * (power - a->low) / (a->high - a->low);
}

static axes fit(const compare_row *rows, size_t n)
{
    axes a = {.low = 9, .high = -9, .n = n};
    for (size_t i = 0; i < n; i++) {
        for (size_t l = 0; l < SHOAL_COUNT(lines); l++) {
            const compare_cell *cell = &rows[i].cells[lines[l].column];
            if (!cell->none) {
                a.low = fmin(a.low, floor(log10(fmax(cell->error, ERROR_LEAST))));
                a.high = fmax(a.high, ceil(log10(fmax(cell->error, ERROR_LEAST))));
            }
        }
    }
    a.low = fmin(a.low, a.high - 1);
    a.high = fmax(a.high, a.low + 1);
    return a;
}

static shoal_status put_head(shoal_buf *buf)
{
    return shoal_buf_appendf(
        buf,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
        "height=\"%d\" role=\"img\">\n<title>Error of each layer at equal bytes</title>\n<style>\n"
        "text { font: 13px system-ui, sans-serif; fill: #24292f }\n"
        ".title { font-weight: 600; font-size: 15px }\n"
        ".axis { stroke: #57606a; fill: none }\n"
        ".grid { stroke: #8c959f; stroke-opacity: .3 }\n"
        ".ground { fill: #ffffff }\n"
        "@media (prefers-color-scheme: dark) {\n"
        "text { fill: #e6edf3 } .axis { stroke: #9198a1 } .ground { fill: #0d1117 } }\n"
        "</style>\n<rect class=\"ground\" width=\"100%%\" height=\"100%%\"/>\n"
        "<text class=\"title\" x=\"%d\" y=\"26\">Error of each layer's output at equal bytes"
        "</text>\n",
        WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
}

static shoal_status put_axes(const axes *a, shoal_buf *buf)
{
    for (int i = 0; i <= (int)(a->high - a->low); i++) {
        double power = a->low + i;
        double y = BOTTOM - (BOTTOM - TOP) * (power - a->low) / (a->high - a->low);
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" "
                                    "y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                                    LEFT, y, RIGHT, LEFT - 8, y + 4, pow(10, power)));
    }
    return shoal_buf_appendf(buf,
                             "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n"
                             "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%zu layers, in the "
                             "order of the model</text>\n",
                             LEFT, TOP, BOTTOM, RIGHT, (LEFT + RIGHT) / 2, BOTTOM + 32, a->n);
}

static shoal_status put_line(const axes *a, const compare_row *rows, size_t l, shoal_buf *buf)
{
    bool open = false;
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "<path fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\" "
                                "stroke-dasharray=\"%s\" d=\"",
                                lines[l].color, lines[l].dashes));
    for (size_t i = 0; i < a->n; i++) {
        const compare_cell *cell = &rows[i].cells[lines[l].column];
        if (!cell->none) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%s%.1f %.1f", open ? "L" : "M", at_x(a, i),
                                        at_y(a, cell->error)));
        }
        open = !cell->none;
    }
    double y = TOP + 10.0 + ROW * (double)l;
    return shoal_buf_appendf(buf,
                             "\"/>\n<path stroke-width=\"1.8\" stroke=\"%s\" stroke-dasharray="
                             "\"%s\" d=\"M%d %.1fh30\"/><text x=\"%d\" y=\"%.1f\">%s</text>\n",
                             lines[l].color, lines[l].dashes, RIGHT + 16, y, RIGHT + 54, y + 4,
                             shoal_forge_compare_name(lines[l].column) + 1); /* without "=" */
}

shoal_status shoal_forge_compare_plot(const compare_row *rows, size_t n, shoal_buf *buf)
{
    const axes a = fit(rows, n);
    SHOAL_TRY(put_head(buf));
    SHOAL_TRY(put_axes(&a, buf));
    for (size_t l = 0; l < SHOAL_COUNT(lines); l++) {
        SHOAL_TRY(put_line(&a, rows, l, buf));
    }
    return shoal_buf_appendf(buf, "</svg>\n");
}
