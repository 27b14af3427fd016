/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    PAGES_MAX = 1 << 24
};

struct shoal_kv_pool {
    shoal_kv_shape shape;
    size_t n_pages;
    size_t n_ctx_max;
    size_t page_bytes;
    size_t block_bytes;  /* one K or V block of one layer and head */
    uint8_t *pages;      /* [n_pages][page_bytes], zero pages until touched */
    uint32_t *free_list; /* [n_free] indices of free pages, last in, first out */
    size_t n_free;
};

struct shoal_kv_seq {
    shoal_kv_pool *pool; /* borrowed: the pool outlives its sequences */
    size_t length;       /* valid positions */
    size_t n_pages;      /* pages held, covers at least length */
    uint32_t *pages;     /* [ceil(n_ctx_max / 32)] */
};

static size_t element_bytes(shoal_kv_type type)
{
    return type == SHOAL_KV_F32 ? sizeof(float) : sizeof(uint16_t);
}

static size_t pages_for(size_t n_tokens)
{
    return (n_tokens + BLOCK - 1) / BLOCK;
}

size_t shoal_kv_page_bytes(const shoal_kv_shape *shape)
{
    return 2 * shape->n_layers * shape->n_kv_heads * shape->head_dim * BLOCK *
           element_bytes(shape->type);
}

static bool shape_ok(const shoal_kv_shape *shape)
{
    /* The product stays far below 2^63, so page sizes cannot overflow. */
    return shape->n_layers >= 1 && shape->n_layers <= 4096 && shape->n_kv_heads >= 1 &&
           shape->n_kv_heads <= 4096 && shape->head_dim >= 2 && shape->head_dim % 2 == 0 &&
           shape->head_dim <= SHOAL_HEAD_DIM_MAX;
}

shoal_status shoal_kv_pool_new(const shoal_kv_shape *shape, size_t n_pages, size_t n_ctx_max,
                               shoal_kv_pool **ret_pool, shoal_err *err)
{
    if (!shape_ok(shape)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV shape of %zu layers, %zu heads of %zu channels is not supported",
                             shape->n_layers, shape->n_kv_heads, shape->head_dim);
    }
    if (n_pages < 1 || n_pages > PAGES_MAX || n_ctx_max < 1) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a KV pool of %zu pages is not possible: take 1 to %d pages of %zu "
                             "bytes (32 tokens each)",
                             n_pages, (int)PAGES_MAX, shoal_kv_page_bytes(shape));
    }
    shoal_kv_pool *pool = shoal_calloc(1, sizeof *pool);
    if (!pool) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the KV pool");
    }
    pool->shape = *shape;
    pool->n_pages = n_pages;
    pool->n_ctx_max = n_ctx_max;
    pool->page_bytes = shoal_kv_page_bytes(shape);
    pool->block_bytes = shape->head_dim * BLOCK * element_bytes(shape->type);
    pool->free_list = shoal_calloc(n_pages, sizeof *pool->free_list);
    size_t bytes = 0;
    if (!pool->free_list || !shoal_mul_size(n_pages, pool->page_bytes, &bytes)) {
        shoal_kv_pool_free(pool);
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu KV pages", n_pages);
    }
    /* Anonymous pages cost nothing until the first token is written into them. */
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        shoal_kv_pool_free(pool);
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a KV pool of %zu MiB", bytes >> 20);
    }
    pool->pages = map;
    for (size_t i = 0; i < n_pages; i++) {
        pool->free_list[i] = (uint32_t)(n_pages - 1 - i);
    }
    pool->n_free = n_pages;
    *ret_pool = pool;
    return SHOAL_OK;
}

void shoal_kv_pool_free(shoal_kv_pool *pool)
{
    if (!pool) {
        return;
    }
    if (pool->pages) {
        SHOAL_ASSERT(pool->n_free == pool->n_pages); /* a sequence outlived its pool */
        (void)munmap(pool->pages, pool->n_pages * pool->page_bytes);
    }
    shoal_free(pool->free_list);
    shoal_free(pool);
}

size_t shoal_kv_pool_n_pages(const shoal_kv_pool *pool)
{
    return pool->n_pages;
}

size_t shoal_kv_pool_n_free(const shoal_kv_pool *pool)
{
    return pool->n_free;
}

const shoal_kv_shape *shoal_kv_pool_shape(const shoal_kv_pool *pool)
{
    return &pool->shape;
}

shoal_status shoal_kv_seq_new(shoal_kv_pool *pool, shoal_kv_seq **ret_seq)
{
    shoal_kv_seq *seq = shoal_calloc(1, sizeof *seq);
    if (!seq) {
        return SHOAL_E_NOMEM;
    }
    seq->pages = shoal_calloc(pages_for(pool->n_ctx_max), sizeof *seq->pages);
    if (!seq->pages) {
        shoal_free(seq);
        return SHOAL_E_NOMEM;
    }
    seq->pool = pool;
    *ret_seq = seq;
    return SHOAL_OK;
}

void shoal_kv_seq_free(shoal_kv_seq *seq)
{
    if (!seq) {
        return;
    }
    shoal_kv_seq_truncate(seq, 0);
    shoal_free(seq->pages);
    shoal_free(seq);
}

const shoal_kv_shape *shoal_kv_seq_shape(const shoal_kv_seq *seq)
{
    return &seq->pool->shape;
}

size_t shoal_kv_seq_length(const shoal_kv_seq *seq)
{
    return seq->length;
}

shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_pool *pool = seq->pool;
    if (n_tokens > pool->n_ctx_max) {
        return SHOAL_E_LIMIT;
    }
    size_t n_want = pages_for(n_tokens);
    if (n_want <= seq->n_pages) {
        return SHOAL_OK;
    }
    if (n_want - seq->n_pages > pool->n_free) {
        return SHOAL_BUSY;
    }
    while (seq->n_pages < n_want) {
        seq->pages[seq->n_pages++] = pool->free_list[--pool->n_free];
    }
    return SHOAL_OK;
}

void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens)
{
    SHOAL_ASSERT(n_tokens >= seq->length && pages_for(n_tokens) <= seq->n_pages);
    seq->length = n_tokens;
}

void shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens)
{
    seq->length = SHOAL_MIN(seq->length, n_tokens);
    size_t n_keep = pages_for(n_tokens);
    while (seq->n_pages > n_keep) {
        seq->pool->free_list[seq->pool->n_free++] = seq->pages[--seq->n_pages];
    }
}

/* The K block of (page, layer, head); its V block follows. */
static uint8_t *k_block(const shoal_kv_seq *seq, size_t page_i, size_t layer, size_t head)
{
    const shoal_kv_pool *pool = seq->pool;
    return pool->pages + seq->pages[page_i] * pool->page_bytes +
           (layer * pool->shape.n_kv_heads + head) * 2 * pool->block_bytes;
}

void shoal_kv_store(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position,
                    const float *k, const float *v)
{
    const shoal_kv_pool *pool = seq->pool;
    SHOAL_ASSERT(position / BLOCK < seq->n_pages && layer < pool->shape.n_layers);
    size_t head_dim = pool->shape.head_dim;
    for (size_t head = 0; head < pool->shape.n_kv_heads; head++) {
        uint8_t *block = k_block(seq, position / BLOCK, layer, head);
        const float *kh = k + head * head_dim;
        const float *vh = v + head * head_dim;
        if (pool->shape.type == SHOAL_KV_F32) {
            kernels->kv_store_f32(head_dim, kh, vh, position % BLOCK, block,
                                  block + pool->block_bytes);
        } else {
            kernels->kv_store_f16(head_dim, kh, vh, position % BLOCK, block,
                                  block + pool->block_bytes);
        }
    }
}

void shoal_kv_blocks(const shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t n_tokens,
                     const void **ret_k_blocks, const void **ret_v_blocks)
{
    size_t n = pages_for(n_tokens);
    SHOAL_ASSERT(n <= seq->n_pages);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *block = k_block(seq, i, layer, kv_head);
        ret_k_blocks[i] = block;
        ret_v_blocks[i] = block + seq->pool->block_bytes;
    }
}
