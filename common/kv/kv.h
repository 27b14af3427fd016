/* SPDX-License-Identifier: Apache-2.0
 *
 * KV pages: what attention remembers, in blocks of 32 tokens. A page holds 32 positions of one
 * sequence for one layer and all its KV heads, K transposed (lanes are tokens), V plain (lanes are
 * channels). The stored form is the canonical one (R4): attention reads nothing else. The pool is
 * sized once and never grows (R6). Engine-only.
 *
 * A layer that sees all positions keeps all pages. A layer with a window keeps a ring of pages,
 * long enough for the longest window plus a slack: the tokens of one step, which are all stored
 * before any of them attends, or the tokens that may be rolled back. All pages have one size, so
 * full and windowed layers share one pool and a sequence takes what its layers need.
 *
 * Of a sealed type a page is a block of codes, of one layer. What is f16 takes several pages: block
 * 0, and two blocks that are open, the newest and the one before it, so that going back by up to
 * 32 tokens finds f16 as it was. A step that fills more blocks than that has them open in memory of
 * the pool's own, one layer at a time.
 *
 * Layers may be sealed at levels of their own (shoal_kv_shape.types): attention dispatches by
 * layer, and a block of a layer takes as many pages as its codes fill, each with whole heads.
 *
 * Where KV is evicted (evict.h), a head holds as many tokens as the budget says: a further token
 * takes the place of one, each head's policy says whose. A sequence of any length then takes no
 * more pages than the budget, positions go on, and keys keep the rotation of their own. What was
 * evicted is gone: such a sequence cannot be shared, kept or moved, and of going back see truncate.
 */
#ifndef SHOAL_KV_KV_H
#define SHOAL_KV_KV_H

#include "common/base/macros.h"
#include "common/kernels/kernels.h"
#include "common/kv/evict.h"

#include <stdbool.h>
#include <stdint.h>

/* The last nine are sealed: keys at one level and values at one (kv_block.h), so that a block is
 * read as codes once it is full. A token at position p reads f16 of block 0 and of its own block,
 * p / 32, and codes of every other one: what it sees follows from positions alone (R2). */
typedef enum shoal_kv_type {
    SHOAL_KV_F32,
    SHOAL_KV_F16,
    SHOAL_KV_Q8T, /* codes of 8 bits as a token is stored, one f16 scale for each token and head */
    SHOAL_KV_K8V8,
    SHOAL_KV_K8V4,
    SHOAL_KV_K8V3,
    SHOAL_KV_K4V8,
    SHOAL_KV_K4V4,
    SHOAL_KV_K4V3,
    SHOAL_KV_K3V8,
    SHOAL_KV_K3V4,
    SHOAL_KV_K3V3
} shoal_kv_type;

enum {
    SHOAL_KV_TYPES = SHOAL_KV_K3V3 + 1,
    SHOAL_KV_TYPES_BYTES = 96 /* of shoal_kv_types_text, its end included */
};

/* "f32", "f16", "q8t"; "q8", "q4", "q3" with keys and values at one level, "k8v4" and so on. */
const char *shoal_kv_type_name(shoal_kv_type type);
/* Negative for an unknown name. */
int shoal_kv_type_parse(const char *name, shoal_kv_type *ret_type);
/* Whether the type is sealed, and at which levels. */
bool shoal_kv_type_sealed(shoal_kv_type type, shoal_kv_level *ret_k, shoal_kv_level *ret_v);
/* Sealed types by layer, of words: "q8*2,k4v3,q4" is q8 in layers 0 and 1, k4v3 in 2, and q4 in all
 * that follow. SHOAL_E_INVALID names the word: no sealed type, or more layers than there are. */
shoal_status shoal_kv_types_parse(const char *words, size_t n_layers, shoal_kv_type *ret_types,
                                  shoal_err *err) SHOAL_MUST_CHECK;

typedef struct shoal_kv_shape {
    size_t n_layers;
    size_t n_kv_heads;
    size_t k_dim; /* channels of a key, even */
    size_t v_dim; /* channels of a value, even */
    shoal_kv_type type;
    /* (n_layers) sealed types, type being the first of them; NULL: every layer has type. Borrowed
     * for a call; a pool keeps a copy. */
    const shoal_kv_type *types;
    /* (n_layers) positions a layer's attention sees, its own included; 0: all. NULL: every layer
     * sees all. Borrowed for a call; a pool keeps a copy. */
    const size_t *windows;
    /* NULL: nothing is evicted. For f32 and f16 without windows. */
    const shoal_kv_evict_policy *evict;
    size_t budget; /* tokens of a head that are held, a multiple of 32; 0 without a policy */
    /* Whoever stores and attends has multiplied keys, values and queries by the Hadamard matrix of
     * their size (shoal_kernels), and so does with what attention gives. Both sizes are powers of
     * two then. */
    bool hadamard;
} shoal_kv_shape;

#define SHOAL_KV_NO_PAGE UINT32_MAX

typedef struct shoal_kv_pool shoal_kv_pool;
typedef struct shoal_kv_seq shoal_kv_seq; /* one sequence's page table */

/* n_pages pages shared by all sequences; n_ctx_max tokens at most per sequence; slack as above, at
 * least 1. Where the type is sealed, slack bounds the tokens that all steps under way store
 * together. */
shoal_status shoal_kv_pool_new(const shoal_kv_shape *shape, size_t n_pages, size_t n_ctx_max,
                               size_t slack, shoal_kv_pool **ret_pool,
                               shoal_err *err) SHOAL_MUST_CHECK;
void shoal_kv_pool_free(shoal_kv_pool *pool);
size_t shoal_kv_page_bytes(const shoal_kv_shape *shape);
/* The types of all layers in words: that of all, or as shoal_kv_types_parse reads them, each with
 * its count; equal for equal types alone. False: they change so often that it has no room. */
bool shoal_kv_types_text(const shoal_kv_shape *shape, char ret_text[SHOAL_KV_TYPES_BYTES]);
/* Of that layer. */
shoal_kv_type shoal_kv_layer_type(const shoal_kv_shape *shape, size_t layer);
/* Bytes of one head's K and V of a full block of a layer as it is kept: block 0 of a sealed type is
 * f16. */
void shoal_kv_part_bytes(const shoal_kv_shape *shape, size_t layer, size_t block, size_t *ret_k,
                         size_t *ret_v);
/* Pages of one sequence of n_tokens, over all layers. */
size_t shoal_kv_pages_for(const shoal_kv_shape *shape, size_t slack, size_t n_tokens);
size_t shoal_kv_pool_n_pages(const shoal_kv_pool *pool);
size_t shoal_kv_pool_n_free(const shoal_kv_pool *pool);
/* shoal_kv_pages_for of this pool. */
size_t shoal_kv_pool_pages_for(const shoal_kv_pool *pool, size_t n_tokens);
/* The longest sequence the pool holds when nothing else is in it, at most n_ctx_max. */
size_t shoal_kv_pool_tokens_max(const shoal_kv_pool *pool);
const shoal_kv_shape *shoal_kv_pool_shape(const shoal_kv_pool *pool);

/* The page table for n_ctx_max is allocated here, pages come from reserve. */
shoal_status shoal_kv_seq_new(shoal_kv_pool *pool, shoal_kv_seq **ret_seq) SHOAL_MUST_CHECK;
void shoal_kv_seq_free(shoal_kv_seq *seq);

const shoal_kv_shape *shoal_kv_seq_shape(const shoal_kv_seq *seq);
/* Positions [0, length) are valid; a windowed layer remembers the last of them. */
size_t shoal_kv_seq_length(const shoal_kv_seq *seq);
/* Of these, [0, whole) are there in every layer; the others wait in deeper layers, for whoever
 * advanced the sequence by parts. */
size_t shoal_kv_seq_whole(const shoal_kv_seq *seq);
/* Makes room for positions [0, n_tokens). SHOAL_BUSY: the pool has not enough free pages, nothing
 * changed. SHOAL_E_LIMIT: past n_ctx_max, or more than slack tokens that some layer lacks where one
 * has a window or the type is sealed, nothing changed. Does not change length. */
shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens) SHOAL_MUST_CHECK;
/* After a step wrote positions [length, n_tokens). Whoever stores must advance past it before the
 * next truncation. */
void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens);
/* The same after a step whose last tokens did not go through all layers: [0, n_whole) did. Never
 * fewer than before. */
void shoal_kv_seq_advance_part(shoal_kv_seq *seq, size_t n_tokens, size_t n_whole);
/* The same for whole blocks that were not stored but came as they are kept. */
void shoal_kv_seq_advance_blocks(shoal_kv_seq *seq, size_t n_tokens);
/* Forgets positions >= n_tokens and gives back whole pages. Returns the new length: that of before
 * or n_tokens, whichever is less; but
 * - the start of n_tokens' block where that block is sealed and no longer open. Going back by up to
 *   32 tokens from the greatest length since the sequence last went back never comes to that;
 * - 0 where a windowed layer no longer has what a sequence of that length sees. Going back by up to
 *   slack tokens from the greatest length since the sequence was empty never comes to that;
 * - 0 where something has been evicted, or the policy goes by attention, which later tokens have
 *   paid too.
 * What is then missing has to be fed again. */
size_t shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens);
/* The lowest length above 0 that truncation can leave; 0 when it can leave any. */
size_t shoal_kv_seq_floor(const shoal_kv_seq *seq);

/* What more rows of a sequence take, and what dropping it gives. */
typedef struct shoal_kv_need {
    size_t n_rows_held;   /* rows that fit into the pages it has */
    size_t n_pages_copy;  /* pages its next row takes because others hold them too */
    size_t n_pages_block; /* pages that each further block of 32 rows takes at most */
    size_t n_pages_given; /* pages that truncation to 0 would leave free, or only kept */
    size_t n_pages_held;  /* all pages it has, shared ones too */
} shoal_kv_need;
shoal_kv_need shoal_kv_seq_need(const shoal_kv_seq *seq);

/* Sharing. A page may be held by several sequences, and by one keeper of blocks besides. Reserve
 * gives a sequence pages of its own before they are written (copy on write): the tokens of a
 * partial block are copied, a ring's page that is overwritten anew is only replaced. So windowed
 * layers are shared as full ones are, and no sequence ever sees another's tokens. Never between a
 * reserve and its advance. */

/* Another sequence with the first n_tokens of seq. Takes no page. SHOAL_E_LIMIT: more than
 * every layer has of it, what truncation would not leave, or any where KV is evicted;
 * SHOAL_E_NOMEM. */
shoal_status shoal_kv_seq_fork(const shoal_kv_seq *seq, size_t n_tokens,
                               shoal_kv_seq **ret_seq) SHOAL_MUST_CHECK;

/* What a kept block takes in a table of them: pages, some of which may be SHOAL_KV_NO_PAGE. */
size_t shoal_kv_pool_block_entries(const shoal_kv_pool *pool);
/* Keeps the pages of tokens [32 * block, 32 * block + 32) beyond the life of seq, those of all
 * layers: [shoal_kv_pool_block_entries] into ret_pages. SHOAL_E_LIMIT: the block is not full, a
 * windowed layer no longer has it, or KV is evicted. Each page is kept at most once: the caller
 * knows what it keeps. */
shoal_status shoal_kv_block_keep(shoal_kv_seq *seq, size_t block,
                                 uint32_t *ret_pages) SHOAL_MUST_CHECK;
void shoal_kv_block_drop(shoal_kv_pool *pool, const uint32_t *pages);
/* Whether no sequence holds any of the block's pages. */
bool shoal_kv_block_idle(const shoal_kv_pool *pool, const uint32_t *pages);
/* Makes an empty sequence begin with kept blocks, [n_blocks][entries], of the tokens from 0 on.
 * Takes no page. SHOAL_E_LIMIT: past n_ctx_max, or KV is evicted. */
shoal_status shoal_kv_seq_adopt(shoal_kv_seq *seq, const uint32_t *pages,
                                size_t n_blocks) SHOAL_MUST_CHECK;
/* Pages that are kept and that no sequence holds: free once their blocks are dropped. */
size_t shoal_kv_pool_n_kept(const shoal_kv_pool *pool);

/* Whether the sequence has all of tokens [32 * block, 32 * block + 32), in windowed layers too;
 * never where KV is evicted. */
bool shoal_kv_seq_has_block(const shoal_kv_seq *seq, size_t block);
/* One head's part of a full block as it is kept, shoal_kv_part_bytes each. For moving blocks
 * (kv_move.h): written only between a reserve and its advance. */
typedef struct shoal_kv_part {
    uint8_t *k, *v;
} shoal_kv_part;
shoal_kv_part shoal_kv_block_part(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head);

/* A step goes through a layer in this order: rows that are to be stored are opened, each sequence
 * at its first; all are stored; all are sealed; then they attend. Opening is for one thread. */
void shoal_kv_open(shoal_kv_seq *seq, size_t layer, size_t first_position);
/* Writes one token's K and V, [n_kv_heads][k_dim] and [n_kv_heads][v_dim] (K already rotated), at a
 * reserved position. Different (layer, position) may be written by different compute threads at
 * once. */
void shoal_kv_store(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position,
                    const float *k, const float *v);
/* Whether a stored position is the last of a block that is to be sealed. */
bool shoal_kv_fills(const shoal_kv_seq *seq, size_t position);
/* Seals its block: different (layer, position) at once, as storing. */
void shoal_kv_seal(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position);
/* The first position that a token sees in this layer, when its own is the last of n_tokens. */
size_t shoal_kv_first(const shoal_kv_seq *seq, size_t layer, size_t n_tokens);
/* How many of n_rows rows from a position on may attend in one call. */
size_t shoal_kv_rows_together(const shoal_kv_seq *seq, size_t position, size_t n_rows);
/* Block tables of one layer and KV head for shoal_attend: the blocks of positions [first,
 * n_tokens), from the one that holds first; ceil(n_tokens / 32) - first / 32 pointers each. Of a
 * sealed type the last one is open: rows of that block attend. */
void shoal_kv_blocks(const shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t first,
                     size_t n_tokens, const void **ret_k_blocks, const void **ret_v_blocks);
/* Runs a in the stored form of the layer, over the block tables from that of position first on.
 * Fills in which blocks are sealed, and how. */
void shoal_kv_attend(const shoal_kernels *kernels, const shoal_kv_seq *seq, size_t layer,
                     size_t first, shoal_attend *a);

/* Where KV is evicted, storing and attending are one, row after row of a sequence: each token
 * attends to what the one before it left, so chunks cannot change a bit (R2). */
bool shoal_kv_evicts(const shoal_kv_seq *seq);
/* Tokens of a head that are held once there are n_tokens. */
size_t shoal_kv_n_held(const shoal_kv_seq *seq, size_t n_tokens);
/* Stores one head's k (k_dim) and v (v_dim), evicting first where the budget is used up, runs a
 * over what is then held, and books what attention that got. Fills in the tokens and blocks of a,
 * which has one row; block tables and shares are the caller's scratch: ceil(budget / 32) pointers
 * each, [a->n_heads][budget]. Positions in order, each once in each layer and head; different
 * (layer, head) on different compute threads at once. */
void shoal_kv_attend_evicting(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer,
                              size_t kv_head, size_t position, const float *k, const float *v,
                              const void **k_blocks, const void **v_blocks, float *shares,
                              shoal_attend *a);

#endif
