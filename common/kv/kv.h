/* SPDX-License-Identifier: Apache-2.0
 *
 * KV pages: what attention remembers, in blocks of 32 tokens. A page holds 32 positions of one
 * sequence for every layer and KV head, K transposed (lanes are tokens), V plain (lanes are
 * channels). The stored form is the canonical one (R4): attention reads nothing else. The pool is
 * sized once and never grows (R6). Engine-only.
 */
#ifndef SHOAL_KV_KV_H
#define SHOAL_KV_KV_H

#include "common/base/macros.h"
#include "common/kernels/kernels.h"

#include <stdint.h>

typedef enum shoal_kv_type {
    SHOAL_KV_F32,
    SHOAL_KV_F16
} shoal_kv_type;

typedef struct shoal_kv_shape {
    size_t n_layers;
    size_t n_kv_heads;
    size_t head_dim;
    shoal_kv_type type;
} shoal_kv_shape;

typedef struct shoal_kv_pool shoal_kv_pool;
typedef struct shoal_kv_seq shoal_kv_seq; /* one sequence's page table */

/* n_pages pages shared by all sequences; n_ctx_max tokens at most per sequence. */
shoal_status shoal_kv_pool_new(const shoal_kv_shape *shape, size_t n_pages, size_t n_ctx_max,
                               shoal_kv_pool **ret_pool, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_kv_pool_free(shoal_kv_pool *pool);
size_t shoal_kv_page_bytes(const shoal_kv_shape *shape);
size_t shoal_kv_pool_n_pages(const shoal_kv_pool *pool);
size_t shoal_kv_pool_n_free(const shoal_kv_pool *pool);
const shoal_kv_shape *shoal_kv_pool_shape(const shoal_kv_pool *pool);

/* The page table for n_ctx_max is allocated here, pages come from reserve. */
shoal_status shoal_kv_seq_new(shoal_kv_pool *pool, shoal_kv_seq **ret_seq) SHOAL_MUST_CHECK;
void shoal_kv_seq_free(shoal_kv_seq *seq);

const shoal_kv_shape *shoal_kv_seq_shape(const shoal_kv_seq *seq);
/* Positions [0, length) are valid. */
size_t shoal_kv_seq_length(const shoal_kv_seq *seq);
/* Makes room for positions [0, n_tokens). SHOAL_BUSY: the pool has not enough free pages, nothing
 * changed. SHOAL_E_LIMIT: past n_ctx_max. Does not change length. */
shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens) SHOAL_MUST_CHECK;
/* After a step wrote positions [length, n_tokens). */
void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens);
/* Forgets positions >= n_tokens and gives back whole pages. */
void shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens);

/* Writes one token's K and V, [n_kv_heads][head_dim] each (K already rotated), at a reserved
 * position. Different (layer, position) may be written by different compute threads at once. */
void shoal_kv_store(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position,
                    const float *k, const float *v);
/* Block tables of one layer and KV head for shoal_attend: ceil(n_tokens / 32) pointers each. */
void shoal_kv_blocks(const shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t n_tokens,
                     const void **ret_k_blocks, const void **ret_v_blocks);

#endif
