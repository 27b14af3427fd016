/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF versions 2 and 3, little-endian: a reader over bytes (it never touches a file) and a
 * writer. Every count, length and offset is hostile until checked; each limit below has a name
 * and its own error text. The reader borrows the bytes for its life. Immutable after open.
 */
#ifndef SHOAL_TENSOR_GGUF_H
#define SHOAL_TENSOR_GGUF_H

#include "common/base/buf.h"
#include "common/base/macros.h"
#include "common/tensor/type.h"

#include <stdbool.h>

enum {
    SHOAL_GGUF_DIMS_MAX = 4,
    SHOAL_GGUF_NAME_MAX = 128,        /* bytes of a tensor name */
    SHOAL_GGUF_KEY_MAX = 1024,        /* bytes of a metadata key */
    SHOAL_GGUF_KV_MAX = 65536,        /* metadata pairs */
    SHOAL_GGUF_TENSORS_MAX = 65536,   /* tensors */
    SHOAL_GGUF_STRING_MAX = 16 << 20, /* bytes of a string value */
    SHOAL_GGUF_ARRAY_MAX = 16 << 20,  /* elements of an array */
    SHOAL_GGUF_ALIGNMENT_MAX = 65536  /* general.alignment, a power of two, at least 8 */
};

/* Types of our own are no GGUF types. A file holds such a tensor as I8, dims[0] the bytes of a row,
 * and two arrays of strings say which those are: the names of the tensors, and of their types.
 * Reader and writer translate: above them a tensor has its type and the shape of its elements. */
#define SHOAL_GGUF_OWN_NAMES "shoal.codes.names"
#define SHOAL_GGUF_OWN_TYPES "shoal.codes.types"

typedef enum shoal_gguf_kind {
    SHOAL_GGUF_U8 = 0,
    SHOAL_GGUF_I8,
    SHOAL_GGUF_U16,
    SHOAL_GGUF_I16,
    SHOAL_GGUF_U32,
    SHOAL_GGUF_I32,
    SHOAL_GGUF_F32,
    SHOAL_GGUF_BOOL,
    SHOAL_GGUF_STRING,
    SHOAL_GGUF_ARRAY,
    SHOAL_GGUF_U64,
    SHOAL_GGUF_I64,
    SHOAL_GGUF_F64
} shoal_gguf_kind;

/* A string inside the file: not NUL-terminated. */
typedef struct shoal_str {
    const char *data;
    size_t length;
} shoal_str;

typedef struct shoal_gguf_tensor {
    shoal_str name;
    shoal_type type;
    uint32_t n_dims;
    uint64_t dims[SHOAL_GGUF_DIMS_MAX]; /* dims[0] is the contiguous one; unused are 1 */
    const uint8_t *data;                /* inside the file's bytes, aligned as the file says */
    uint64_t size_bytes;
    uint64_t offset; /* from the start of the data section */
    bool packed;     /* data is panels of a packed file (common/weight/pack.h): type and dims are */
                     /* those of the matrix in them */
    bool mapped;     /* data lies in a file mapping, see shoal_gguf_set_mapped */
} shoal_gguf_tensor;

typedef struct shoal_gguf shoal_gguf;

/* Parses and validates everything but tensor contents. On error nothing is kept; the error names
 * the key or tensor, the value and the limit, and a file cut short is called that. */
shoal_status shoal_gguf_open(const uint8_t *data, size_t size, shoal_gguf **ret_gguf,
                             shoal_err *err) SHOAL_MUST_CHECK;
void shoal_gguf_close(shoal_gguf *gguf);
SHOAL_DEFINE_CLEANUP(shoal_gguf, shoal_gguf_close)

/* Before the reader is shared. The bytes are a read-only mapping of a file (shoal_map): who has
 * read a tensor may let its pages go. */
void shoal_gguf_set_mapped(shoal_gguf *gguf);
/* Before the reader is shared. Tensor i is to be seen as this one: same name and bytes. */
void shoal_gguf_set_tensor(shoal_gguf *gguf, size_t i, const shoal_gguf_tensor *tensor);

uint32_t shoal_gguf_version(const shoal_gguf *gguf);
size_t shoal_gguf_n_tensors(const shoal_gguf *gguf);
const shoal_gguf_tensor *shoal_gguf_tensor_at(const shoal_gguf *gguf, size_t i);
/* NULL when absent; constant time. */
const shoal_gguf_tensor *shoal_gguf_find_tensor(const shoal_gguf *gguf, const char *name);

size_t shoal_gguf_n_kv(const shoal_gguf *gguf);
shoal_str shoal_gguf_key_at(const shoal_gguf *gguf, size_t i);
/* Kind of value i; for an array *ret_element is the element kind and *ret_n its length (else 1). */
shoal_gguf_kind shoal_gguf_kind_at(const shoal_gguf *gguf, size_t i, shoal_gguf_kind *ret_element,
                                   size_t *ret_n);
/* Renders value i for people, arrays cut after eight elements. */
shoal_status shoal_gguf_render_at(const shoal_gguf *gguf, size_t i,
                                  shoal_buf *buf) SHOAL_MUST_CHECK;
/* The raw bytes of pair i (key and value) as in the file: for copying into a writer and hashing. */
shoal_str shoal_gguf_raw_at(const shoal_gguf *gguf, size_t i);

/* Typed look-ups. SHOAL_E_NOTFOUND when absent; SHOAL_E_INVALID when of another kind or out of
 * range. Integers of any width convert when the value fits. */
shoal_status shoal_gguf_get_u64(const shoal_gguf *gguf, const char *key, uint64_t *ret_value,
                                shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_get_f64(const shoal_gguf *gguf, const char *key, double *ret_value,
                                shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_get_bool(const shoal_gguf *gguf, const char *key, bool *ret_value,
                                 shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_get_str(const shoal_gguf *gguf, const char *key, shoal_str *ret_value,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* Array length and elements. Strings are indexed at open: element access is constant time. */
shoal_status shoal_gguf_get_array(const shoal_gguf *gguf, const char *key,
                                  shoal_gguf_kind *ret_element, size_t *ret_n,
                                  shoal_err *err) SHOAL_MUST_CHECK;
/* key's array must have been checked by shoal_gguf_get_array; asserts on a wrong kind or index. */
shoal_str shoal_gguf_array_str(const shoal_gguf *gguf, const char *key, size_t i);
double shoal_gguf_array_f64(const shoal_gguf *gguf, const char *key, size_t i);
int64_t shoal_gguf_array_i64(const shoal_gguf *gguf, const char *key, size_t i);
/* Elements [begin, begin + n) at the cost of one look-up of the key; asserts like those above. */
void shoal_gguf_array_strs(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           shoal_str *ret_values);
void shoal_gguf_array_f64s(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           double *ret_values);
void shoal_gguf_array_i64s(const shoal_gguf *gguf, const char *key, size_t begin, size_t n,
                           int64_t *ret_values);
/* The elements' bytes as they lie in the file, for hashing. */
shoal_str shoal_gguf_array_bytes(const shoal_gguf *gguf, const char *key);

/* --- writer ------------------------------------------------------------------------------- */

typedef struct shoal_gguf_writer shoal_gguf_writer;

shoal_status shoal_gguf_writer_new(shoal_gguf_writer **ret_writer) SHOAL_MUST_CHECK;
void shoal_gguf_writer_free(shoal_gguf_writer *writer);
SHOAL_DEFINE_CLEANUP(shoal_gguf_writer, shoal_gguf_writer_free)

/* A later pair of the same key replaces the earlier one. Pairs that say which tensors have a type
 * of our own are the writer's affair: copies of them are dropped. */
shoal_status shoal_gguf_put_raw(shoal_gguf_writer *writer, shoal_str key,
                                shoal_str raw_pair) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_u32(shoal_gguf_writer *writer, const char *key,
                                uint32_t value) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_f32(shoal_gguf_writer *writer, const char *key,
                                float value) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_bool(shoal_gguf_writer *writer, const char *key,
                                 bool value) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_str(shoal_gguf_writer *writer, const char *key,
                                const char *value) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_str_array(shoal_gguf_writer *writer, const char *key,
                                      const shoal_str *values, size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_f32_array(shoal_gguf_writer *writer, const char *key,
                                      const float *values, size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_gguf_put_i32_array(shoal_gguf_writer *writer, const char *key,
                                      const int32_t *values, size_t n) SHOAL_MUST_CHECK;
/* Where tensors begin, a power of two from 32 (the default) to SHOAL_GGUF_ALIGNMENT_MAX. */
shoal_status shoal_gguf_writer_align(shoal_gguf_writer *writer,
                                     uint32_t alignment) SHOAL_MUST_CHECK;
/* data is borrowed until finish, and may be NULL for shoal_gguf_writer_head; size follows from type
 * and dims. */
shoal_status shoal_gguf_put_tensor(shoal_gguf_writer *writer, const char *name, shoal_type type,
                                   const uint64_t *dims, uint32_t n_dims,
                                   const void *data) SHOAL_MUST_CHECK;
/* Version 3, appended to buf; reads back with shoal_gguf_open. */
shoal_status shoal_gguf_writer_finish(shoal_gguf_writer *writer, shoal_buf *buf,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* The same without the tensors' bytes, for files larger than memory: the caller writes those after
 * it, in the order of put_tensor, each followed by its padding. */
shoal_status shoal_gguf_writer_head(const shoal_gguf_writer *writer, shoal_buf *buf,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* Zero bytes that must follow n bytes of a tensor. */
size_t shoal_gguf_writer_padding(const shoal_gguf_writer *writer, uint64_t n);

#endif
