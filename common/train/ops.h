/* SPDX-License-Identifier: Apache-2.0
 *
 * The small operations of the passes over a row or a small matrix, forward and backward beside
 * each other, in tiers as in common/kernels/kernels.h. Unlike there, sums may run in any order
 * that depends on the tier and the shape alone: a run repeats its bits on one machine. Gates and
 * caps of the forward pass come from shoal_kernels. Pure, any thread.
 */
#ifndef SHOAL_TRAIN_OPS_H
#define SHOAL_TRAIN_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_OPS_PAD = 16 /* rows of scores are padded to a multiple of this */
};

typedef struct shoal_ops {
    const char *tier; /* "base", "avx2", "avx512" */

    /* y = x * w * r with the result r = 1 / sqrt(mean(x^2) + eps). y may be x. */
    float (*rmsnorm)(size_t n, const float *x, const float *w, float eps, float *y);
    /* From dy: dw += dy x r (unless NULL), and dx = to + what x gets; to may be dx, NULL is zero.
     * dx may be dy. */
    void (*rmsnorm_back)(size_t n, const float *x, const float *w, float r, const float *dy,
                         const float *to, float *dx, float *dw);

    /* Rotates heads of the row at x as shoal_kernels does; with the sines negated, back. */
    void (*rope)(size_t n_heads, size_t stride, size_t n_rot, const float *cos, const float *sin,
                 float *x);
    void (*rope_halves)(size_t n_heads, size_t stride, size_t n_rot, const float *cos,
                        const float *sin, float *x);

    /* y = act(gate) * up: gate and up become their gradients from dy. */
    void (*swiglu_back)(size_t n, const float *dy, float *gate, float *up);
    void (*geglu_back)(size_t n, const float *dy, float *gate, float *up);
    /* y = cap tanh(x / cap): dy becomes dx. */
    void (*softcap_back)(size_t n, float cap, const float *y, float *dy);

    void (*add)(size_t n, const float *x, float *y);                 /* y += x */
    void (*add_scaled)(size_t n, float s, const float *x, float *y); /* y += s x */
    float (*dot)(size_t n, const float *x, const float *y);

    /* s [end] are raw scores, end a multiple of SHOAL_OPS_PAD: those in [low, high) become their
     * softmax after cap(scale s), the others 0. The result is the logarithm of the sum. cap 0:
     * none. */
    float (*softmax)(size_t low, size_t high, size_t end, float scale, float cap, float *s);
    /* s are the same raw scores again and dp the gradients of the probabilities: s becomes the
     * probabilities, dp the gradients of the raw scores. dot is the row's sum of p dp. */
    void (*softmax_back)(size_t low, size_t high, size_t end, float scale, float cap, float log_sum,
                         float dot, float *s, float *dp);

    /* c [m][n] = a [m][k] b [k][n], or += it. Element (i, l) of a lies at a[i * a_row + l * a_col];
     * rows of b and c are contiguous. For matrices too small for a library. */
    void (*product)(size_t m, size_t n, size_t k, const float *a, size_t a_row, size_t a_col,
                    const float *b, size_t b_row, bool add, float *c, size_t c_row);
    /* y [n_cols][y_row] = x [n_rows][x_row] transposed; columns up to n_pad are zeroed. */
    void (*transpose)(size_t n_rows, size_t n_cols, const float *x, size_t x_row, size_t n_pad,
                      float *y, size_t y_row);
} shoal_ops;

/* The best tier of those in mask that this machine has (bits of shoal_cpu_tier). */
void shoal_ops_init(shoal_ops *ops, uint32_t mask);

#endif
