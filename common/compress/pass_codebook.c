/* SPDX-License-Identifier: Apache-2.0
 *
 * Levels of the layer's own instead of evenly spaced codes: k-means weighted by how much the output
 * minds a column, H_jj, as SqueezeLLM weights by sensitivity (2306.07629, equation 2). Its tables
 * are a row's; here one serves all rows, because groups have scales, and costs 8 or 16 bytes.
 * Values are then put by the walk of GPTQ with these levels.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    ROUNDS = 6,
    MOST = 127, /* of a level */
    LEVELS_MAX = 16
};

/* Where k-means begins: levels of a normal distribution. */
static void begin(shoal_compressed *c)
{
    const int8_t *normal =
        shoal_panel_levels(c->form.bits == 3 ? SHOAL_PANEL_N3_32 : SHOAL_PANEL_N4_32);
    memcpy(c->levels, normal, (size_t)1 << c->form.bits);
}

/* The sum over all elements of H_jj (w - w')^2. */
static double weighted_error(const shoal_problem *p, const shoal_compressed *c)
{
    double sum = 0;
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        size_t col = i % p->n_cols;
        double d = p->w[i] - shoal_values_get(c, i / p->n_cols, col);
        sum += p->h[col * p->n_cols + col] * d * d;
    }
    return sum;
}

/* Every level to where its elements have least error with the scales that they have. Levels stay
 * in order; one that nobody has stays where it is. */
static void move_levels(const shoal_problem *p, shoal_compressed *c)
{
    double xl[LEVELS_MAX] = {0};
    double ll[LEVELS_MAX] = {0};
    const int n = 1 << c->form.bits;
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        size_t col = i % p->n_cols;
        size_t group = i / p->n_cols * c->n_groups + col / c->form.group;
        double scale = (double)shoal_f16_to_f32(c->scales[group]);
        double weight = p->h[col * p->n_cols + col];
        int at = c->codes[i] + n / 2;
        xl[at] += weight * scale * p->w[i];
        ll[at] += weight * scale * scale;
    }
    double least = -MOST;
    for (int i = 0; i < n; i++) {
        double level = ll[i] > 0 ? nearbyint(xl[i] / ll[i]) : (double)c->levels[i];
        least = fmin(fmax(level, least), MOST);
        c->levels[i] = (int8_t)least;
    }
}

shoal_status shoal_pass_codebook(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    int8_t best[LEVELS_MAX] = {0};
    double best_error = (double)INFINITY;
    SHOAL_CLEANUP(shoal_free_cleanup) double *w = shoal_calloc(n, sizeof *w);
    out->levels = shoal_calloc(LEVELS_MAX, sizeof *out->levels);
    if (!w || !out->levels) {
        return SHOAL_E_NOMEM;
    }
    begin(out);
    for (size_t round = 0; round < ROUNDS; round++) {
        shoal_values_put_all(out, p->w);
        double error = weighted_error(p, out);
        if (error < best_error) {
            best_error = error;
            memcpy(best, out->levels, sizeof best);
        }
        move_levels(p, out);
    }
    memcpy(out->levels, best, sizeof best);
    memcpy(w, p->w, n * sizeof *w);
    return shoal_walk(p, out, w, true);
}
