/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to common/kv: the pool and a sequence's table of pages.
 */
#ifndef SHOAL_KV_KV_INTERNAL_H
#define SHOAL_KV_KV_INTERNAL_H

#include "common/kv/kv.h"

enum {
    SHOAL_KV_LAYERS_MAX = 4096 /* of a shape */
};

/* Where a layer's pages are in a sequence's table. */
typedef struct shoal_kv_table {
    size_t at;
    size_t
        open; /* of a sealed type: [3][n_open] block 0, then open blocks of even and odd number */
    size_t window;                   /* 0: all */
    size_t n_pages;                  /* of one block, 1 where all layers are of one type */
    size_t n_heads;                  /* that a page of them has */
    size_t k_bytes;                  /* one K block in a page */
    size_t v_bytes;                  /* one V block */
    shoal_kv_level k_level, v_level; /* of a sealed type */
} shoal_kv_table;

struct shoal_kv_pool {
    shoal_kv_shape shape; /* its windows and types are ours */
    size_t n_ctx_max;
    size_t slack;
    size_t n_pages;
    size_t page_bytes;
    size_t window;           /* the longest of any layer; 0: none has one */
    size_t ring;             /* pages a windowed layer keeps */
    size_t n_pages_full;     /* of one block in all layers that see all */
    size_t n_pages_windowed; /* and in those that have a window */
    size_t n_entries;        /* of a sequence's table */
    shoal_kv_table *layers;  /* (n_layers) */
    uint8_t *pages;          /* [n_pages][page_bytes], zero pages until touched */
    uint32_t *free_list;     /* [n_free] indices of free pages, last in, first out */
    size_t n_free;
    uint32_t *refs;     /* [n_pages] sequences that hold the page, and one more when it is kept */
    bool *kept;         /* [n_pages] as part of a block outside sequences */
    size_t n_kept_only; /* pages that no sequence holds */

    /* Of a sealed type, else zero. An item is one head's K or V of a block in f16. */
    size_t n_sink;     /* blocks without a page of codes: block 0 */
    size_t item_bytes; /* of the wider of both */
    size_t n_items;    /* items that a page holds */
    size_t n_open;     /* pages of one open block */
    uint8_t *staged;   /* [n_staged_max][n_kv_heads][2][item_bytes] of the layer under way */
    size_t n_staged_max;
    size_t n_staged;   /* blocks that sequences have */
    size_t staged_end; /* blocks from here on are free; 0 when all are */
};

struct shoal_kv_seq {
    shoal_kv_pool *pool; /* borrowed: the pool outlives its sequences */
    size_t length;       /* valid positions */
    size_t whole;        /* of them, those that every layer has; at most length */
    size_t high;         /* greatest length since the sequence was empty */
    size_t n_blocks;     /* blocks held in each full layer, covers at least length */
    size_t n_ring;       /* pages held in each windowed layer, at most the ring */
    size_t n_open;       /* open pages held in each layer: 0, those of block 0, or all */
    size_t open_from;    /* blocks from here on, and block 0, are open with all their tokens */
    size_t staged_block; /* blocks from here on are open in staged memory until the next advance */
    size_t n_staged;
    size_t staged_at;
    uint32_t *pages; /* [n_entries] of the pool, per layer from its table's start */

    /* Where KV is evicted, [n_layers][n_kv_heads][budget] of slots: whose they are, and the
     * attention that they got, NULL where no policy asks. Meaningless before a slot is first taken.
     */
    uint32_t *held_positions;
    float *held_mass;
};

/* Whether layers that differ are sealed ones that have words. */
bool shoal_kv_types_ok(const shoal_kv_shape *shape);
/* Whether there are Hadamard matrices of its heads' size, where they are wanted. */
bool shoal_kv_basis_ok(const shoal_kv_shape *shape);
/* The pages of a block that a layer holds, whether or not it still has that block's tokens, as many
 * as its table says; NULL: it holds none, or the block has none. */
uint32_t *shoal_kv_page_at(const shoal_kv_seq *seq, size_t layer, size_t block);
/* Tokens that are held of n. */
size_t shoal_kv_held_of(const shoal_kv_shape *shape, size_t n_tokens);
/* One head's part of shoal_kv_store. */
void shoal_kv_store_slot(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t head,
                         size_t slot, const float *k, const float *v);

#endif
