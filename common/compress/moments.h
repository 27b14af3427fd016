/* SPDX-License-Identifier: Apache-2.0
 *
 * What linear layers are fed: for each of their inputs the second moments, the sum of x x^T over
 * the tokens of a text, and the largest magnitude of each element. Layers that read one input (q,
 * k, v; gate, up) share them. Kept as a GGUF of architecture "shoal-moments" that names the model
 * by its content hash (R9) and carries a digest of its own numbers.
 *
 * Products go to OpenBLAS on the calling thread. An object is used by one thread at a time; what
 * was opened is immutable.
 */
#ifndef SHOAL_COMPRESS_MOMENTS_H
#define SHOAL_COMPRESS_MOMENTS_H

#include "common/base/hash.h"
#include "common/tensor/gguf.h"

enum {
    SHOAL_MOMENTS_WIDTH_MAX = 32768, /* elements of an input */
    SHOAL_MOMENTS_LAYERS_MAX = 32768
};

/* One input. moment and max are borrowed from the object. */
typedef struct shoal_moments_input {
    size_t k;            /* elements, 1 to SHOAL_MOMENTS_WIDTH_MAX */
    uint64_t n;          /* tokens it was seen for */
    const float *moment; /* (k, k) sum of x x^T; while collecting the lower triangle alone */
    const float *max;    /* (k) */
} shoal_moments_input;

/* Rows of a tensor that are one linear layer: all of them, or a part of a fused or stacked one. */
typedef struct shoal_moments_layer {
    char name[SHOAL_GGUF_NAME_MAX];
    size_t row;
    size_t n_rows;
    size_t input;
} shoal_moments_layer;

typedef struct shoal_moments shoal_moments;

/* Empty, for the model of this hash. limit_bytes: of all moments together. */
shoal_status shoal_moments_new(const shoal_hash *model, uint64_t limit_bytes,
                               shoal_moments **ret_moments) SHOAL_MUST_CHECK;
void shoal_moments_free(shoal_moments *moments);
SHOAL_DEFINE_CLEANUP(shoal_moments, shoal_moments_free)

/* Adds x, [n][stride] of k used elements, to the input of rows [row, row + n_rows) of a tensor.
 * again: x is what the call before was given, for another layer, so the two share an input.
 * SHOAL_E_LIMIT past limit_bytes or a limit above. */
shoal_status shoal_moments_add(shoal_moments *moments, const char *name, size_t row, size_t n_rows,
                               bool again, size_t k, size_t n, const float *x, size_t stride,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* Completes the triangles, and writes the file. Nothing may be added afterwards. SHOAL_E_INVALID
 * where nothing was added or a moment is not finite. */
shoal_status shoal_moments_write(shoal_moments *moments, const char *path,
                                 shoal_err *err) SHOAL_MUST_CHECK;

/* What there is so far, to go on with after an interruption; more may be added. run names what is
 * being collected (text, settings) and done how far it is. A file of its own kind:
 * shoal_moments_open takes it for moments of the tokens so far. */
shoal_status shoal_moments_save(shoal_moments *moments, const shoal_hash *run, uint32_t done,
                                const char *path, shoal_err *err) SHOAL_MUST_CHECK;
/* Goes on where such a file ends: what is then added gives the same bits as without the
 * interruption. Checked like an opened file. SHOAL_E_MISMATCH for another model or another run,
 * SHOAL_E_LIMIT past limit_bytes. */
shoal_status shoal_moments_resume(const char *path, const shoal_hash *model, const shoal_hash *run,
                                  uint64_t limit_bytes, shoal_moments **ret_moments,
                                  uint32_t *ret_done, shoal_err *err) SHOAL_MUST_CHECK;

/* Maps a file and checks all of it: shapes, finiteness, symmetry, the diagonal, the digest; and
 * that it is of this model (SHOAL_E_MISMATCH). */
shoal_status shoal_moments_open(const char *path, const shoal_hash *model,
                                shoal_moments **ret_moments, shoal_err *err) SHOAL_MUST_CHECK;

size_t shoal_moments_n_layers(const shoal_moments *moments);
const shoal_moments_layer *shoal_moments_layer_at(const shoal_moments *moments, size_t i);
size_t shoal_moments_n_inputs(const shoal_moments *moments);
shoal_moments_input shoal_moments_input_at(const shoal_moments *moments, size_t i);

/* Layer layer_i of a model that has lost groups (structure.h): its rows are [row, row + n_rows)
 * now, and of its input's elements those that cols [n_cols] names are left, ascending; cols NULL:
 * all. An input that several layers share is cut for all of them. Before others look at the object.
 * SHOAL_E_NOMEM. */
shoal_status shoal_moments_cut(shoal_moments *moments, size_t layer_i, size_t row, size_t n_rows,
                               const size_t *cols, size_t n_cols) SHOAL_MUST_CHECK;

#endif
