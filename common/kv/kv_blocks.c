/* SPDX-License-Identifier: Apache-2.0
 *
 * Where tokens are in their blocks: storing, sealing, and the tables that attention reads.
 */
#include "common/kv/kv_internal.h"

#include <string.h>

enum {
    BLOCK = SHOAL_KV_BLOCK
};

/* One head's part of a block's page. */
static uint8_t *page_of(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    const shoal_kv_pool *pool = seq->pool;
    const shoal_kv_table *table = &pool->layers[layer];
    const uint32_t *pages = shoal_kv_page_at(seq, layer, block);
    SHOAL_ASSERT(pages);
    return pool->pages + pages[head / table->n_heads] * pool->page_bytes +
           head % table->n_heads * (table->k_bytes + table->v_bytes);
}

static shoal_kv_part paged_block(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    uint8_t *at = page_of(seq, layer, block, head);
    return (shoal_kv_part){at, at + seq->pool->layers[layer].k_bytes};
}

static bool is_staged(const shoal_kv_seq *seq, size_t block)
{
    return block > 0 && block >= seq->staged_block && block - seq->staged_block < seq->n_staged;
}

static shoal_kv_part staged_block(const shoal_kv_seq *seq, size_t block, size_t head)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t i = seq->staged_at + block - seq->staged_block;
    uint8_t *at = pool->staged + 2 * (i * pool->shape.n_kv_heads + head) * pool->item_bytes;
    return (shoal_kv_part){at, at + pool->item_bytes};
}

static uint8_t *open_item(const shoal_kv_seq *seq, size_t layer, size_t block, size_t item)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t which = block == 0 ? 0 : 1 + block % 2;
    size_t i = which * pool->n_open + item / pool->n_items;
    SHOAL_ASSERT(i < seq->n_open);
    return pool->pages + seq->pages[pool->layers[layer].open + i] * pool->page_bytes +
           item % pool->n_items * pool->item_bytes;
}

/* In pages, where an open block is after the step. */
static shoal_kv_part open_block(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    return (shoal_kv_part){open_item(seq, layer, block, 2 * head),
                           open_item(seq, layer, block, 2 * head + 1)};
}

/* Where a block's tokens are stored now. */
static shoal_kv_part stored_block(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    if (seq->pool->n_open == 0) {
        return paged_block(seq, layer, block, head);
    }
    return is_staged(seq, block) ? staged_block(seq, block, head)
                                 : open_block(seq, layer, block, head);
}

shoal_kv_part shoal_kv_block_part(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    const shoal_kv_pool *pool = seq->pool;
    SHOAL_ASSERT(block < seq->n_blocks && layer < pool->shape.n_layers &&
                 head < pool->shape.n_kv_heads);
    return block < pool->n_sink ? open_block(seq, layer, block, head)
                                : paged_block(seq, layer, block, head);
}

/* --- storing ---------------------------------------------------------------------------------- */

void shoal_kv_open(shoal_kv_seq *seq, size_t layer, size_t first_position)
{
    size_t block = first_position / BLOCK;
    if (first_position % BLOCK == 0 || !is_staged(seq, block)) {
        return;
    }
    /* What is there of the block lies where a later block of this step will. */
    for (size_t head = 0; head < seq->pool->shape.n_kv_heads; head++) {
        shoal_kv_part from = open_block(seq, layer, block, head);
        shoal_kv_part to = staged_block(seq, block, head);
        memcpy(to.k, from.k, seq->pool->item_bytes);
        memcpy(to.v, from.v, seq->pool->item_bytes);
    }
}

void shoal_kv_store_slot(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t head,
                         size_t slot, const float *k, const float *v)
{
    const shoal_kv_shape *shape = &seq->pool->shape;
    SHOAL_ASSERT(slot / BLOCK < seq->n_blocks && layer < shape->n_layers);
    void (*store)(size_t, size_t, const float *, const float *, size_t, void *, void *) =
        kernels->kv_store_f16;
    if (shape->type == SHOAL_KV_F32) {
        store = kernels->kv_store_f32;
    } else if (shape->type == SHOAL_KV_Q8T) {
        store = kernels->kv_store_q8;
    }
    shoal_kv_part block = stored_block(seq, layer, slot / BLOCK, head);
    store(shape->k_dim, shape->v_dim, k, v, slot % BLOCK, block.k, block.v);
}

void shoal_kv_store(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position,
                    const float *k, const float *v)
{
    const shoal_kv_shape *shape = &seq->pool->shape;
    SHOAL_ASSERT(!shape->evict);
    for (size_t head = 0; head < shape->n_kv_heads; head++) {
        shoal_kv_store_slot(kernels, seq, layer, head, position, k + head * shape->k_dim,
                            v + head * shape->v_dim);
    }
}

bool shoal_kv_fills(const shoal_kv_seq *seq, size_t position)
{
    return seq->pool->n_open > 0 && position >= BLOCK && position % BLOCK == BLOCK - 1;
}

void shoal_kv_seal(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position)
{
    const shoal_kv_pool *pool = seq->pool;
    const shoal_kv_shape *shape = &pool->shape;
    SHOAL_ASSERT(shoal_kv_fills(seq, position));
    for (size_t head = 0; head < shape->n_kv_heads; head++) {
        shoal_kv_part from = stored_block(seq, layer, position / BLOCK, head);
        shoal_kv_part to = paged_block(seq, layer, position / BLOCK, head);
        kernels->kv_seal(pool->layers[layer].k_level, shape->k_dim, BLOCK,
                         (const uint16_t *)(const void *)from.k, to.k);
        kernels->kv_seal(pool->layers[layer].v_level, BLOCK, shape->v_dim,
                         (const uint16_t *)(const void *)from.v, to.v);
    }
}

/* --- attention -------------------------------------------------------------------------------- */

size_t shoal_kv_first(const shoal_kv_seq *seq, size_t layer, size_t n_tokens)
{
    size_t window = seq->pool->layers[layer].window;
    return window > 0 && n_tokens > window ? n_tokens - window : 0;
}

size_t shoal_kv_rows_together(const shoal_kv_seq *seq, size_t position, size_t n_rows)
{
    return seq->pool->n_open == 0 ? n_rows : SHOAL_MIN(n_rows, BLOCK - position % BLOCK);
}

void shoal_kv_blocks(const shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t first,
                     size_t n_tokens, const void **ret_k_blocks, const void **ret_v_blocks)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t end = n_tokens / BLOCK + (n_tokens % BLOCK > 0);
    SHOAL_ASSERT(end <= seq->n_blocks && layer < pool->shape.n_layers);
    for (size_t b = first / BLOCK; b < end; b++) {
        bool sealed = pool->n_open > 0 && b >= pool->n_sink && b + 1 < end;
        shoal_kv_part block =
            sealed ? paged_block(seq, layer, b, kv_head) : stored_block(seq, layer, b, kv_head);
        *ret_k_blocks++ = block.k;
        *ret_v_blocks++ = block.v;
    }
}

void shoal_kv_attend(const shoal_kernels *kernels, const shoal_kv_seq *seq, size_t layer,
                     size_t first, shoal_attend *a)
{
    const shoal_kv_pool *pool = seq->pool;
    if (pool->shape.type == SHOAL_KV_F32) {
        kernels->attend_f32(a);
    } else if (pool->shape.type == SHOAL_KV_F16) {
        kernels->attend_f16(a);
    } else if (pool->shape.type == SHOAL_KV_Q8T) {
        kernels->attend_q8(a);
    } else {
        a->sealed_from = first < BLOCK ? 1 : 0;
        a->sealed_to = (a->n_tokens + a->n_rows - 2) / BLOCK;
        a->k_level = pool->layers[layer].k_level;
        a->v_level = pool->layers[layer].v_level;
        kernels->attend_sealed(a);
    }
}
