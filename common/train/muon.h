/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the optimiser: one step of Muon for one matrix (Jordan et al., "Muon: an optimizer for
 * hidden layers in neural networks", 2024). The momentum's singular values are brought near one by
 * five Newton-Schulz steps of an odd polynomial, so that every direction of the matrix is moved by
 * about the same amount. The update is scaled by sqrt(max(1, rows / cols)), the form of that
 * source: a step then moves the layer's output by an amount that does not depend on its shape.
 * Pure but for its arguments, any thread; products run on the calling thread.
 */
#ifndef SHOAL_TRAIN_MUON_H
#define SHOAL_TRAIN_MUON_H

#include <stddef.h>

typedef struct shoal_muon {
    float rate;
    float momentum; /* Nesterov */
    float decay;    /* share of the weights taken away beside the update */
} shoal_muon;

/* Keeps OpenBLAS on the calling thread, for the whole process. Any thread, before the steps. */
void shoal_muon_begin(void);
size_t shoal_muon_scratch_floats(size_t n_rows, size_t n_cols);
/* moment and weights are stepped in place; grad is read. */
void shoal_muon_step(size_t n_rows, size_t n_cols, const shoal_muon *muon, const float *grad,
                     float *moment, float *weights, float *scratch);
/* x (n_rows, n_cols), n_rows <= n_cols, becomes near to the orthogonal factor of its polar
 * decomposition. scratch as above. */
void shoal_muon_orthogonalise(size_t n_rows, size_t n_cols, float *x, float *scratch);

#endif
