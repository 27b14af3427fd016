/* SPDX-License-Identifier: Apache-2.0
 *
 * Clipping as OmniQuant learns it (2308.13137, section 3.1), by search instead of gradients: the
 * share of a group's range that its codes span, judged by the output's error with all other groups
 * as they are now. Values are rounded to nearest, and no error is handed on. It starts from plain
 * rounding and keeps what gains, so it is never worse.
 */
#include "common/compress/compress_internal.h"

#include "common/base/mem.h"
#include "common/tensor/type.h"

#include <math.h>
#include <string.h>

enum {
    SWEEPS = 3,
    SHARES = 13 /* 1 down to 0.4 */
};

typedef struct clip {
    const shoal_problem *p;
    shoal_compressed *c;
    double *g; /* (n_rows, n_cols) (W - W') H */
} clip;

/* Rounds a group's values under a scale; d[n] is what they move by. Returns by how much the error
 * falls. */
static double try_scale(const clip *k, size_t row, size_t col, size_t n, const double *now,
                        double *d)
{
    size_t n_cols = k->p->n_cols;
    double gain = 0;
    for (size_t i = 0; i < n; i++) {
        d[i] = shoal_values_put(k->c, row, col + i, k->p->w[row * n_cols + col + i]) - now[i];
    }
    for (size_t i = 0; i < n; i++) {
        const double *h = k->p->h + (col + i) * n_cols + col;
        double hd = 0;
        for (size_t t = 0; t < n; t++) {
            hd += h[t] * d[t];
        }
        gain += d[i] * (2 * k->g[row * n_cols + col + i] - hd);
    }
    return gain;
}

/* The best of a group's scales; d as above for it. Returns its gain, 0 when it stays as it is. */
static double search(const clip *k, size_t row, size_t col, size_t n, double *d)
{
    shoal_compressed *c = k->c;
    int8_t *codes = c->codes + row * c->n_cols + col;
    uint16_t *scale = &c->scales[row * c->n_groups + col / c->form.group];
    int8_t best_codes[SHOAL_COMPRESS_GROUP_MAX];
    double now[SHOAL_COMPRESS_GROUP_MAX];
    double tried[SHOAL_COMPRESS_GROUP_MAX];
    uint16_t best_scale = *scale;
    double best = 0;
    double most = 0;
    memcpy(best_codes, codes, n * sizeof *codes);
    for (size_t i = 0; i < n; i++) {
        now[i] = shoal_values_get(c, row, col + i);
        most = fmax(most, fabs(k->p->w[row * c->n_cols + col + i]));
    }
    for (size_t i = 0; i < 2 * SHARES; i++) {
        double share = (1 - 0.05 * (double)(i / 2)) * (i % 2 ? -1 : 1);
        (void)shoal_half(share * most / (double)(1 << (c->form.bits - 1)), scale);
        double gain = try_scale(k, row, col, n, now, tried);
        if (gain > best) {
            best = gain;
            best_scale = *scale;
            memcpy(best_codes, codes, n * sizeof *codes);
            memcpy(d, tried, n * sizeof *d);
        }
    }
    *scale = best_scale;
    memcpy(codes, best_codes, n * sizeof *codes);
    return best;
}

/* Groups outermost: their rows of H stay in a cache while all rows of the layer pass by. */
static void sweep(const clip *k)
{
    size_t n_cols = k->p->n_cols;
    double d[SHOAL_COMPRESS_GROUP_MAX];
    for (size_t col = 0; col < n_cols; col += k->c->form.group) {
        size_t n = SHOAL_MIN(k->c->form.group, n_cols - col);
        for (size_t row = 0; row < k->p->n_rows; row++) {
            if (!(search(k, row, col, n, d) > 0)) {
                continue;
            }
            for (size_t i = 0; i < n; i++) {
                const double *h = k->p->h + (col + i) * n_cols;
                for (size_t t = 0; d[i] != 0 && t < n_cols; t++) {
                    k->g[row * n_cols + t] -= d[i] * h[t];
                }
            }
        }
    }
}

shoal_status shoal_pass_clip(const shoal_problem *p, shoal_compressed *out)
{
    size_t n = p->n_rows * p->n_cols;
    SHOAL_CLEANUP(shoal_free_cleanup) double *scratch = shoal_calloc(2 * n, sizeof *scratch);
    if (!scratch) {
        return SHOAL_E_NOMEM;
    }
    const clip k = {.p = p, .c = out, .g = scratch};
    shoal_values_put_all(out, p->w);
    (void)shoal_residual(p, out, scratch + n, k.g);
    for (size_t i = 0; i < SWEEPS; i++) {
        sweep(&k);
    }
    return SHOAL_OK;
}
