/* SPDX-License-Identifier: Apache-2.0
 *
 * With X of no more rows than columns: A = X X^T, B = b A + c A A, X <- a X + B X. A and A A are
 * symmetric, so one triangle of each is computed and B is never mirrored.
 */
#include "common/train/muon.h"

#include <cblas.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    NEWTON_STEPS = 5,
    TILE = 16
};

/* Of the source: they bring singular values from 1e-3 up into about [0.7, 1.2] in five steps. */
static const float newton_a = 3.4445F;
static const float newton_b = -4.7750F;
static const float newton_c = 2.0315F;

void shoal_muon_begin(void)
{
    openblas_set_num_threads(1);
}

size_t shoal_muon_scratch_floats(size_t n_rows, size_t n_cols)
{
    size_t small = n_rows < n_cols ? n_rows : n_cols;
    return 2 * n_rows * n_cols + 2 * small * small;
}

static void transpose(size_t n_rows, size_t n_cols, const float *x, float *out)
{
    for (size_t i = 0; i < n_rows; i += TILE) {
        for (size_t j = 0; j < n_cols; j += TILE) {
            for (size_t r = i; r < n_rows && r < i + TILE; r++) {
                for (size_t c = j; c < n_cols && c < j + TILE; c++) {
                    out[c * n_rows + r] = x[r * n_cols + c];
                }
            }
        }
    }
}

static double norm_of(size_t n, const float *x)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum);
}

static void newton_step(size_t n_rows, size_t n_cols, float *x, float *scratch)
{
    int r = (int)n_rows;
    int c = (int)n_cols;
    float *a = scratch;
    float *b = a + n_rows * n_rows;
    float *old = b + n_rows * n_rows;
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, r, c, 1.0F, x, c, 0.0F, a, r);
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < i; j++) {
            a[j * n_rows + i] = a[i * n_rows + j];
        }
    }
    memcpy(b, a, n_rows * n_rows * sizeof *b);
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, r, r, newton_c, a, r, newton_b, b, r);
    memcpy(old, x, n_rows * n_cols * sizeof *old);
    cblas_ssymm(CblasRowMajor, CblasLeft, CblasLower, r, c, 1.0F, b, r, old, c, newton_a, x, c);
}

void shoal_muon_orthogonalise(size_t n_rows, size_t n_cols, float *x, float *scratch)
{
    size_t n = n_rows * n_cols;
    float scale = (float)(1.0 / (norm_of(n, x) + 1e-7));
    for (size_t i = 0; i < n; i++) {
        x[i] *= scale;
    }
    for (int i = 0; i < NEWTON_STEPS; i++) {
        newton_step(n_rows, n_cols, x, scratch);
    }
}

void shoal_muon_step(size_t n_rows, size_t n_cols, const shoal_muon *muon, const float *grad,
                     float *moment, float *weights, float *scratch)
{
    size_t n = n_rows * n_cols;
    bool tall = n_rows > n_cols;
    size_t small = tall ? n_cols : n_rows;
    float *x = scratch;
    float *rest = scratch + n;
    float *ahead = tall ? rest : x; /* rest holds n floats and more */
    float keep = muon->momentum;
    for (size_t i = 0; i < n; i++) {
        moment[i] = keep * moment[i] + (1.0F - keep) * grad[i];
        ahead[i] = keep * moment[i] + (1.0F - keep) * grad[i];
    }
    if (tall) {
        transpose(n_rows, n_cols, ahead, x);
    }
    shoal_muon_orthogonalise(small, tall ? n_rows : n_cols, x, rest);
    if (tall) {
        transpose(n_cols, n_rows, x, rest);
    }
    const float *update = tall ? rest : x;
    float rate = muon->rate * sqrtf(tall ? (float)n_rows / (float)n_cols : 1.0F);
    for (size_t i = 0; i < n; i++) {
        weights[i] -= muon->decay * weights[i] + rate * update[i];
    }
}
