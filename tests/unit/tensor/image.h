/* SPDX-License-Identifier: Apache-2.0
 *
 * A GGUF put together byte by byte, without the writer under test, and a note of where each field
 * lies, so that a test can spoil exactly one. Failures are test failures.
 */
#ifndef SHOAL_TESTS_UNIT_TENSOR_IMAGE_H
#define SHOAL_TESTS_UNIT_TENSOR_IMAGE_H

#include "common/base/buf.h"
#include "common/tensor/gguf.h"

enum {
    IMAGE_PAIRS = 24,
    IMAGE_TENSORS = 8
};

typedef struct image {
    shoal_buf bytes;
    uint64_t alignment; /* for the data section; 0: 32 */
    uint64_t n_pairs;
    uint64_t n_tensors;
    struct {
        size_t key; /* the key's length field; the key follows */
        size_t kind;
        size_t value;
    } pairs[IMAGE_PAIRS];
    struct {
        size_t name; /* the name's length field */
        size_t n_dims;
        size_t dims;
        size_t type;
        size_t offset;
    } tensors[IMAGE_TENSORS];
    size_t data; /* where the data section begins */
    uint64_t data_bytes;
} image;

/* Header of a version; counts are filled in by image_end. */
void image_begin(image *im, uint32_t version);
void image_put(image *im, uint64_t x, size_t bytes);
void image_text(image *im, const char *text, size_t n);
/* Key and kind; the caller puts the value. */
void image_pair(image *im, const char *key, shoal_gguf_kind kind);
void image_array(image *im, const char *key, shoal_gguf_kind element, uint64_t n);
/* Describes a tensor and gives it the next aligned offset. */
void image_tensor(image *im, const char *name, shoal_type type, uint32_t n_dims,
                  const uint64_t *dims);
/* Counts, padding and data (byte i of the section is i * 7 + 1). */
void image_end(image *im);
void image_fini(image *im);

/* The good file of most tests: see image.c. */
void image_good(image *im, uint32_t version);
enum {
    GOOD_ARCHITECTURE,
    GOOD_ALIGNMENT,
    GOOD_U8,
    GOOD_I8,
    GOOD_U16,
    GOOD_I16,
    GOOD_U32,
    GOOD_I32,
    GOOD_F32,
    GOOD_BOOL,
    GOOD_U64,
    GOOD_I64,
    GOOD_F64,
    GOOD_STRINGS,
    GOOD_FLOATS,
    GOOD_BOOLS,
    GOOD_EMPTY,
    GOOD_PAIRS
};

/* Opens a copy in memory of exactly its size; the copy lives until image_close. */
typedef struct opened {
    uint8_t *bytes;
    shoal_gguf *gguf;
    shoal_err err;
    shoal_status status;
} opened;
void image_open(const void *bytes, size_t n, opened *ret_opened);
void image_close(opened *o);

#endif
