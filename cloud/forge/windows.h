/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: a text through a model in windows that do not see each other, for
 * commands that look at what layers are fed (shoal_net_observe). Memory is the model in F32 and one
 * window.
 */
#ifndef SHOAL_FORGE_WINDOWS_H
#define SHOAL_FORGE_WINDOWS_H

#include "common/train/net.h"

typedef struct forge_windows {
    shoal_params *params;
    shoal_net *net;
    size_t n_max;       /* tokens of a window */
    size_t *targets;    /* (n_max) every token */
    int32_t *positions; /* (n_max) */
    shoal_batch batch;  /* the last window: the net looks at it as long as it is asked for more */
    size_t segments[2];
} forge_windows;

/* n_max: at least 1. After an error too, fini frees what there is. */
shoal_status shoal_forge_windows_init(forge_windows *w, const shoal_model *model, size_t n_max,
                                      shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_windows_fini(forge_windows *w);

/* One window of n ids, 1 to n_max, which stay as they are while the net is asked for its logits. */
void shoal_forge_windows_run(forge_windows *w, const int32_t *ids, size_t n);
/* The same, and adds to grads, a block of the parameters' layout, the gradients of the
 * cross-entropy of the tokens that follow: next [n], each times its weight, weights [n]. */
void shoal_forge_windows_learn(forge_windows *w, const int32_t *ids, size_t n, const int32_t *next,
                               const float *weights, float *grads);

#endif
