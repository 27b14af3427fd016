/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/compress: what moments are made of.
 */
#ifndef SHOAL_COMPRESS_MOMENTS_INTERNAL_H
#define SHOAL_COMPRESS_MOMENTS_INTERNAL_H

#include "common/base/file.h"
#include "common/compress/moments.h"

#define MOMENTS_ARCHITECTURE "shoal-moments"
enum {
    MOMENTS_VERSION = 1
};

typedef struct moments_input {
    size_t k;
    uint64_t n;
    float *own;          /* (k, k) while collecting; NULL in an open file */
    float *own_max;      /* (k) */
    const float *moment; /* own, or in the file */
    const float *max;
} moments_input;

struct shoal_moments {
    shoal_hash model;
    uint64_t limit_bytes;
    uint64_t n_bytes;
    bool finished;
    size_t last; /* layer of the call before; SIZE_MAX: none */
    size_t n_layers;
    size_t n_layers_max;
    shoal_moments_layer *layers;
    size_t n_inputs;
    size_t n_inputs_max;
    moments_input *inputs;
    shoal_map map; /* of an open file */
    shoal_gguf *gguf;
};

/* Room for one more layer and one more input. */
shoal_status shoal_moments_grow(shoal_moments *m) SHOAL_MUST_CHECK;
/* Over everything that matters, layer by layer and input by input. */
shoal_status shoal_moments_digest(const shoal_moments *m, shoal_hash *ret_digest) SHOAL_MUST_CHECK;

#endif
