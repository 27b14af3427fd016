/* SPDX-License-Identifier: Apache-2.0
 *
 * Logistic regression by iteratively reweighted least squares: Newton's method on the likelihood
 * with a ridge. Four weights, sums in double in the order of the rows.
 */
#include "common/exit/fit.h"

#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

enum {
    N = 4, /* 1, top, gap, depth */
    STEPS_MAX = 50
};

#define RIDGE     1e-3
#define STEP_DONE 1e-9

typedef struct system {
    double gradient[N];
    double hessian[N][N]; /* symmetric, positive definite by the ridge */
} system;

static void features_of(const shoal_exit_features *f, double x[N])
{
    x[0] = 1;
    x[1] = (double)f->top;
    x[2] = (double)f->gap;
    x[3] = (double)f->depth;
}

/* Clamped where e^-x would leave a double; the curve is flat there anyway. */
static double sigmoid(double x)
{
    return 1 / (1 + shoal_expd(-SHOAL_MAX(-500, SHOAL_MIN(500, x))));
}

/* Of the penalised negative log-likelihood at w. Also its value, to hold steps back by. */
static double build(const shoal_exit_samples *s, const double w[N], system *ret)
{
    double value = 0;
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < s->n; i++) {
        if (!s->rows[i].features.sound) {
            continue;
        }
        double x[N];
        features_of(&s->rows[i].features, x);
        double z = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
        double p = sigmoid(z);
        double y = s->rows[i].agrees ? 1 : 0;
        value -= shoal_logd(SHOAL_MAX(y > 0 ? p : 1 - p, 1e-300));
        for (size_t a = 0; a < N; a++) {
            ret->gradient[a] += (p - y) * x[a];
            for (size_t b = 0; b <= a; b++) {
                ret->hessian[a][b] += p * (1 - p) * x[a] * x[b];
            }
        }
    }
    for (size_t a = 0; a < N; a++) {
        value += RIDGE / 2 * w[a] * w[a];
        ret->gradient[a] += RIDGE * w[a];
        ret->hessian[a][a] += RIDGE;
    }
    return value;
}

/* step = hessian^-1 gradient by Cholesky, in place. */
static void solve(system *s, double step[N])
{
    double(*l)[N] = s->hessian;
    for (size_t a = 0; a < N; a++) {
        for (size_t b = 0; b <= a; b++) {
            double sum = l[a][b];
            for (size_t k = 0; k < b; k++) {
                sum -= l[a][k] * l[b][k];
            }
            l[a][b] = a == b ? sqrt(SHOAL_MAX(sum, 1e-12)) : sum / l[b][b];
        }
    }
    for (size_t a = 0; a < N; a++) {
        double sum = s->gradient[a];
        for (size_t k = 0; k < a; k++) {
            sum -= l[a][k] * step[k];
        }
        step[a] = sum / l[a][a];
    }
    for (size_t a = N; a-- > 0;) {
        double sum = step[a];
        for (size_t k = a + 1; k < N; k++) {
            sum -= l[k][a] * step[k];
        }
        step[a] = sum / l[a][a];
    }
}

void shoal_exit_fit_logistic(const shoal_exit_samples *samples, shoal_exit_policy *inout_policy)
{
    double w[N] = {0};
    system s;
    double value = build(samples, w, &s);
    for (size_t i = 0; i < STEPS_MAX; i++) {
        double step[N] = {0};
        double next[N];
        double size = 0;
        solve(&s, step);
        /* Half a step as long as a whole one would lead uphill. */
        double better = value;
        for (double share = 1; share > 1e-6; share /= 2) {
            size = 0;
            for (size_t a = 0; a < N; a++) {
                next[a] = w[a] - share * step[a];
                size = SHOAL_MAX(size, fabs(share * step[a]));
            }
            better = build(samples, next, &s);
            if (better <= value) {
                break;
            }
        }
        if (better > value) {
            break;
        }
        memcpy(w, next, sizeof w);
        value = better;
        if (size < STEP_DONE) {
            break;
        }
    }
    inout_policy->bias = (float)w[0];
    inout_policy->w_top = (float)w[1];
    inout_policy->w_gap = (float)w[2];
    inout_policy->w_depth = (float)w[3];
}
