/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/plot.h"

#include <math.h>

enum {
    WIDTH = 760,
    HEIGHT = 456,
    LEFT = 64,
    RIGHT = 548, /* names of curves stand to the right of it */
    TOP = 44,
    BOTTOM = 380,
    ROW = 58 /* of the list of names */
};

/* Middle tones, at least 3:1 against white and against near black. */
static const struct {
    const char *color;
    const char *dashes;
} looks[FORGE_PLOT_CURVES_MAX] = {{"#2f81f7", "none"},    {"#d9730d", "7 4"}, {"#1f9d6b", "2 4"},
                                  {"#b95ad6", "9 3 2 3"}, {"#c94f4f", "4 2"}, {"#8a7f2d", "1 3"}};

typedef struct axes {
    double x_max;
    double y_min;
    double y_max;
    double x_step;
    double y_step;
} axes;

static double at_x(const axes *a, double x)
{
    return LEFT + (RIGHT - LEFT) * x / a->x_max;
}

static double at_y(const axes *a, double y)
{
    return BOTTOM - (BOTTOM - TOP) * (y - a->y_min) / (a->y_max - a->y_min);
}

/* Both axes in steps of 1, 2 or 5 percent times a power of ten, about five of them. */
static double step_for(double range)
{
    static const double steps[] = {0.01, 0.02, 0.05, 0.1};
    for (size_t i = 0; i < SHOAL_COUNT(steps); i++) {
        if (range / steps[i] <= 7) {
            return steps[i];
        }
    }
    return 0.2;
}

/* The whole height of every curve; of the width, what comes before the last curve is within a
 * half a percent of its end: the rest is flat. */
static axes fit(const forge_plot_curve *curves, size_t n)
{
    double low = 1;
    double high = 0;
    double x = 0.15;
    for (size_t i = 0; i < n; i++) {
        const forge_plot_curve *c = &curves[i];
        low = fmin(low, c->full);
        high = fmax(high, c->full);
        bool rising = false;
        for (size_t j = c->n; j-- > 0;) {
            low = fmin(low, c->points[j].y);
            high = fmax(high, c->points[j].y);
            if (!rising && fabs(c->points[j].y - c->points[c->n - 1].y) > 5e-3) {
                rising = true;
                x = fmax(x, c->points[SHOAL_MIN(j + 1, c->n - 1)].x);
            }
        }
        x = c->has_chosen ? fmax(x, c->chosen.x) : x;
    }
    low = fmin(low, high - 0.1); /* less would make much of noise */
    axes a = {.y_step = step_for(high - low)};
    a.y_min = fmax(0, floor(low / a.y_step - 0.25) * a.y_step);
    a.y_max = fmin(1, ceil(high / a.y_step + 0.25) * a.y_step);
    a.x_step = step_for(x);
    a.x_max = fmin(1, ceil(x / a.x_step) * a.x_step);
    return a;
}

static shoal_status put_text(shoal_buf *buf, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '<' || c == '>' || c == '&' || c == '"' || c < 0x20 || c == 0x7F) {
            SHOAL_TRY(shoal_buf_appendf(buf, "&#%u;", c < 0x20 || c == 0x7F ? 0x20U : c));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, text, 1));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_head(const char *title, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
        "height=\"%d\" role=\"img\">\n<title>",
        WIDTH, HEIGHT, WIDTH, HEIGHT));
    SHOAL_TRY(put_text(buf, title));
    return shoal_buf_appendf(
        buf, "</title>\n<style>\n"
             "text { font: 13px system-ui, sans-serif; fill: #24292f }\n"
             ".title { font-weight: 600; font-size: 15px }\n.small { font-size: 12px }\n"
             ".axis { stroke: #57606a; fill: none }\n"
             ".grid { stroke: #8c959f; stroke-opacity: .3 }\n"
             ".ground { fill: #ffffff }\n"
             "@media (prefers-color-scheme: dark) {\n"
             "text { fill: #e6edf3 } .axis { stroke: #9198a1 } .ground { fill: #0d1117 } }\n"
             "</style>\n<rect class=\"ground\" width=\"100%%\" height=\"100%%\"/>\n");
}

static shoal_status put_axes(const axes *a, const char *title, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "<text class=\"title\" x=\"%d\" y=\"26\">", LEFT));
    SHOAL_TRY(put_text(buf, title));
    SHOAL_TRY(shoal_buf_appendf(buf, "</text>\n"));
    for (double y = a->y_min; y <= a->y_max + 1e-9; y += a->y_step) {
        SHOAL_TRY(
            shoal_buf_appendf(buf,
                              "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
                              "text-anchor=\"end\">%.0f %%</text>\n",
                              LEFT, at_y(a, y), RIGHT, LEFT - 8, at_y(a, y) + 4, 100 * y));
    }
    for (double x = 0; x <= a->x_max + 1e-9; x += a->x_step) {
        SHOAL_TRY(
            shoal_buf_appendf(buf,
                              "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
                              "text-anchor=\"middle\">%.0f %%</text>\n",
                              at_x(a, x), TOP, BOTTOM, at_x(a, x), BOTTOM + 20, 100 * x));
    }
    return shoal_buf_appendf(
        buf,
        "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n"
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">tokens from the cloud</text>\n"
        "<text transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">"
        "answers exactly right</text>\n",
        LEFT, TOP, BOTTOM, RIGHT, (LEFT + RIGHT) / 2, BOTTOM + 42, (TOP + BOTTOM) / 2);
}

static shoal_status put_curve(const axes *a, const forge_plot_curve *c, size_t look, shoal_buf *buf)
{
    const char *color = looks[look].color;
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "<path d=\"M%d %.1fH%d\" stroke=\"%s\" stroke-opacity=\".5\" fill=\"none\"/>\n"
        "<path clip-path=\"url(#area)\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" "
        "stroke-dasharray=\"%s\" d=\"",
        LEFT, at_y(a, c->full), RIGHT, color, color, looks[look].dashes));
    for (size_t i = 0; i < c->n; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s%.1f %.1f", i ? "L" : "M", at_x(a, c->points[i].x),
                                    at_y(a, c->points[i].y)));
    }
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "\"/>\n<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n",
                                at_x(a, c->points[0].x), at_y(a, c->points[0].y), color));
    if (c->has_chosen) {
        double x = at_x(a, c->chosen.x);
        double y = at_y(a, c->chosen.y);
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "<path class=\"ground\" stroke=\"%s\" stroke-width=\"2\" "
                                    "d=\"M%.1f %.1fl6 6l-6 6l-6 -6z\"/>\n",
                                    color, x, y - 6));
    }
    return SHOAL_OK;
}

/* Name, look and the figures of a curve. */
static shoal_status put_name(const forge_plot_curve *c, size_t i, shoal_buf *buf)
{
    int x = RIGHT + 18;
    int y = TOP + 12 + (int)i * ROW;
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "<path d=\"M%d %dh28\" stroke=\"%s\" stroke-width=\"2\" "
                                "stroke-dasharray=\"%s\"/><text x=\"%d\" y=\"%d\">",
                                x, y - 4, looks[i].color, looks[i].dashes, x + 36, y));
    SHOAL_TRY(put_text(buf, c->name));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "</text>\n<text class=\"small\" x=\"%d\" y=\"%d\">full %.1f %%, "
                                "edge %.1f %%</text>\n",
                                x, y + 17, 100 * c->full, 100 * c->points[0].y));
    if (c->has_chosen) {
        SHOAL_TRY(shoal_buf_appendf(
            buf, "<text class=\"small\" x=\"%d\" y=\"%d\">chosen: %.1f %% at %.1f %%</text>\n", x,
            y + 33, 100 * c->chosen.y, 100 * c->chosen.x));
    }
    return SHOAL_OK;
}

static bool is_share(double x)
{
    return x >= 0 && x <= 1;
}

static shoal_status check(const forge_plot_curve *curves, size_t n)
{
    if (n > FORGE_PLOT_CURVES_MAX) {
        return SHOAL_E_LIMIT;
    }
    bool fine = n > 0;
    for (size_t i = 0; i < n; i++) {
        const forge_plot_curve *c = &curves[i];
        fine = fine && c->n > 0 && is_share(c->full);
        fine = fine && (!c->has_chosen || (is_share(c->chosen.x) && is_share(c->chosen.y)));
        for (size_t j = 0; j < c->n; j++) {
            fine = fine && is_share(c->points[j].x) && is_share(c->points[j].y);
        }
    }
    return fine ? SHOAL_OK : SHOAL_E_INVALID;
}

shoal_status shoal_forge_plot(const char *title, const forge_plot_curve *curves, size_t n,
                              shoal_buf *buf)
{
    SHOAL_TRY(check(curves, n));
    axes a = fit(curves, n);
    SHOAL_TRY(put_head(title, buf));
    SHOAL_TRY(put_axes(&a, title, buf));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "<clipPath id=\"area\"><rect x=\"%d\" y=\"%d\" width=\"%d\" "
                                "height=\"%d\"/></clipPath>\n",
                                LEFT, TOP - 4, RIGHT - LEFT, BOTTOM - TOP + 8));
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(put_curve(&a, &curves[i], i, buf));
        SHOAL_TRY(put_name(&curves[i], i, buf));
    }
    return shoal_buf_appendf(buf,
                             "<text class=\"small\" x=\"%d\" y=\"%d\">thin line: the full model "
                             "alone; dot: the edge alone; diamond: chosen</text>\n</svg>\n",
                             LEFT, BOTTOM + 66);
}
