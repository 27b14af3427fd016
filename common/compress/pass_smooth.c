/* SPDX-License-Identifier: Apache-2.0
 *
 * SmoothQuant (2211.10438): an input is rounded to 8 bits too, in blocks of 32 of one scale
 * (kernels/panel.h), so an element far larger than its neighbours takes their bits. It is divided
 * by s_j = max |x_j|^a / max |w_j|^(1 - a) (equation 4), and what it was larger by goes into the
 * weight. The paper folds s into the norm in front; here it stands beside the matrix, as AWQ's does
 * (weight/sides.h says why), and is divided by where the input is rounded anyway.
 *
 * The power a is searched, which the paper leaves to a person. What is judged is the error of the
 * weights with what rounding the input adds, which no other pass looks at: a step is max |x_j /
 * s_j| / 127, its error even over a step, so a row's output gets a twelfth of the step's square
 * times the sum of its (s_j w_j)^2. Of a block the mean of the largest square is taken for the root
 * of the sum of its elements' squared second moments: exact where one is far larger than all
 * others, and 5.7 instead of 4.9 for 32 normal ones of one size. Without scales is tried too.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"

#include <math.h>

enum {
    STEPS = 10 /* of the power */
};

typedef struct smooth {
    const shoal_problem *p;
    shoal_compressed *out;
    double *scratch; /* twice (n_rows, n_cols) */
    double *s;       /* (n_cols) */
    double *most;    /* (n_cols) largest magnitudes of the weight's columns */
} smooth;

static void set_most(smooth *k)
{
    const shoal_problem *p = k->p;
    for (size_t i = 0; i < p->n_rows * p->n_cols; i++) {
        k->most[i % p->n_cols] = fmax(k->most[i % p->n_cols], fabs(p->w[i]));
    }
}

/* power below 0: no scales, all ones. */
static void put(const smooth *k, double power)
{
    const shoal_problem *p = k->p;
    for (size_t j = 0; j < p->n_cols; j++) {
        bool used = p->most[j] > 0 && k->most[j] > 0 && power >= 0;
        k->s[j] = used ? pow(p->most[j], power) / pow(k->most[j], 1 - power) : 0;
    }
    shoal_columns_centre(p->n_cols, k->s, k->out->column_scales);
    shoal_columns_put(p, k->s, k->out, k->scratch);
}

/* Squared error of all outputs along the text that comes of rounding the input. */
static double input_error(const smooth *k)
{
    const shoal_problem *p = k->p;
    double sum = 0;
    for (size_t from = 0; from < p->n_cols; from += SHOAL_QBLOCK) {
        size_t to = SHOAL_MIN(from + SHOAL_QBLOCK, p->n_cols);
        double squares = 0;
        double gain = 0;
        for (size_t j = from; j < to; j++) {
            double moment = p->h[j * p->n_cols + j] / (k->s[j] * k->s[j]);
            squares += moment * moment;
            for (size_t row = 0; row < p->n_rows; row++) {
                double w = k->s[j] * p->w[row * p->n_cols + j];
                gain += w * w;
            }
        }
        sum += sqrt(squares) / (127.0 * 127.0) / 12 * gain;
    }
    return sum;
}

static double error_of(const smooth *k)
{
    const shoal_problem *p = k->p;
    double weights = shoal_residual(p, k->out, k->scratch, k->scratch + p->n_rows * p->n_cols);
    return weights + input_error(k);
}

shoal_status shoal_pass_smooth(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *scratch = shoal_calloc(2 * n + 2 * p->n_cols, sizeof *scratch);
    out->column_scales = shoal_calloc(p->n_cols, sizeof *out->column_scales);
    if (!scratch || !out->column_scales) {
        return SHOAL_E_NOMEM;
    }
    smooth k = {.p = p,
                .out = out,
                .scratch = scratch,
                .s = scratch + 2 * n,
                .most = scratch + 2 * n + p->n_cols};
    set_most(&k);
    put(&k, -1);
    double best_power = -1;
    double best_error = error_of(&k);
    for (size_t i = 0; i <= STEPS; i++) {
        put(&k, (double)i / STEPS);
        double error = error_of(&k);
        if (error < best_error) {
            best_error = error;
            best_power = (double)i / STEPS;
        }
    }
    put(&k, best_power);
    if (best_power < 0) {
        shoal_free(out->column_scales);
        out->column_scales = NULL;
    }
    return SHOAL_OK;
}
