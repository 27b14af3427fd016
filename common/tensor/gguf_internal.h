/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: the name index, the reader's inside, and a few helpers.
 * Nobody else includes it.
 */
#ifndef SHOAL_TENSOR_GGUF_INTERNAL_H
#define SHOAL_TENSOR_GGUF_INTERNAL_H

#include "common/tensor/gguf.h"

/* --- names: bytes -> number, open addressing at most half full ------------------------------ */

/* Hashes are keyed with a random key per table (SipHash-2-4), so that a file cannot be made of
 * names that all collide. Names are borrowed. Zeroed memory is an empty table. */
typedef struct shoal_name_slot {
    uint64_t hash;
    shoal_str name;
    size_t number_plus_one; /* 0: free */
} shoal_name_slot;

typedef struct shoal_names {
    shoal_name_slot *slots;
    size_t n_slots; /* a power of two, or 0 */
    size_t n_used;
    uint64_t key[2];
} shoal_names;

/* SHOAL_OK, SHOAL_E_NOMEM, or SHOAL_BUSY when the name is there already. */
shoal_status shoal_names_put(shoal_names *names, shoal_str name, size_t number) SHOAL_MUST_CHECK;
bool shoal_names_find(const shoal_names *names, shoal_str name, size_t *ret_number);
void shoal_names_fini(shoal_names *names);
/* SipHash-2-4 of Aumasson and Bernstein (Indocrypt 2012), 64-bit output. */
uint64_t shoal_siphash(const uint64_t key[2], const void *data, size_t n);

/* --- the reader ------------------------------------------------------------------------------ */

/* One metadata pair. n is 1 for a plain value; value points at the first element (for a plain
 * string at its length). offsets exists for arrays of strings: where each length field lies. */
typedef struct shoal_gguf_pair {
    shoal_str key;
    shoal_str raw;
    shoal_gguf_kind kind;
    shoal_gguf_kind element; /* == kind unless kind is an array */
    size_t n;
    const uint8_t *value;
    size_t *offsets;
} shoal_gguf_pair;

struct shoal_gguf {
    const uint8_t *data;
    size_t size;
    uint32_t version;
    uint64_t alignment;
    size_t data_start;
    shoal_gguf_pair *pairs;
    size_t n_pairs;
    shoal_names pair_names;
    shoal_gguf_tensor *tensors;
    size_t n_tensors;
    shoal_names tensor_names;
};

/* Bytes of one element, 0 for strings and arrays. */
size_t shoal_gguf_kind_bytes(shoal_gguf_kind kind);
const char *shoal_gguf_kind_name(shoal_gguf_kind kind);
/* NULL when absent. */
const shoal_gguf_pair *shoal_gguf_find_pair(const shoal_gguf *gguf, const char *key);

/* A name from a file made fit for a message: cut, with '?' for what is not printable ASCII. */
enum {
    SHOAL_GGUF_SHOWN = 72
};
const char *shoal_gguf_shown(shoal_str name, char text[SHOAL_GGUF_SHOWN]);
/* True when a key or tensor name is well-formed UTF-8 without control characters. */
bool shoal_gguf_name_ok(shoal_str name);
/* Gives tensors that the metadata names their type of our own and the shape of their elements. */
shoal_status shoal_gguf_take_own(shoal_gguf *gguf, shoal_err *err) SHOAL_MUST_CHECK;
bool shoal_gguf_is_own_key(shoal_str key);
/* Bytes of a tensor of this type and shape; false when a dimension is 0, the product wraps, or
 * dims[0] is not a multiple of the type's block. */
bool shoal_gguf_tensor_bytes(const shoal_type_info *info, const uint64_t *dims, uint32_t n_dims,
                             uint64_t *ret_bytes);

#endif
