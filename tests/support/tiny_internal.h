/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the tiny models: a GGUF under way. The writer borrows every tensor until it has
 * finished, so they are collected here.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_INTERNAL_H
#define SHOAL_TESTS_SUPPORT_TINY_INTERNAL_H

#include "common/base/buf.h"
#include "common/tensor/gguf.h"

#include <stdint.h>

enum {
    TINY_TENSORS_MAX = 640
};

typedef struct tiny {
    shoal_gguf_writer *writer;
    shoal_type type; /* of matrices */
    void *data[TINY_TENSORS_MAX];
    size_t n_data;
    uint64_t rng;
    uint64_t noise_rng; /* 0: no noise */
    float noise;
} tiny;

/* Random matrices [n][n_rows][k] whose products keep about the scale of their input, times gain.
 * Those whose rows are no whole blocks of the type are F32. */
shoal_status shoal_tiny_put_matrices(tiny *t, const char *name, uint64_t k, uint64_t n_rows,
                                     uint64_t n, float gain) SHOAL_MUST_CHECK;
/* F32 numbers within mean - spread and mean + spread. */
shoal_status shoal_tiny_put_vector(tiny *t, const char *name, uint64_t n, float mean,
                                   float spread) SHOAL_MUST_CHECK;
/* The vocabulary of all tiny models; template may be NULL. */
shoal_status shoal_tiny_put_vocabulary(tiny *t, const char *template) SHOAL_MUST_CHECK;
/* Writes the file to buf, unless status says that something failed before, and frees everything. */
shoal_status shoal_tiny_finish(tiny *t, shoal_status status, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
