/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    PAGES_MAX = 1 << 24,
    TOKENS_MAX = 1 << 30 /* of a window, of the slack, of a context */
};

/* Where a layer's pages are in a sequence's table. */
typedef struct layer_table {
    size_t at;
    size_t window; /* 0: all */
} layer_table;

struct shoal_kv_pool {
    shoal_kv_shape shape; /* its windows are ours */
    size_t n_ctx_max;
    size_t slack;
    size_t n_pages;
    size_t page_bytes;
    size_t k_bytes;      /* one K block */
    size_t v_bytes;      /* one V block */
    size_t window;       /* the longest of any layer; 0: none has one */
    size_t ring;         /* blocks a windowed layer keeps */
    size_t n_windowed;   /* layers */
    size_t n_entries;    /* of a sequence's table */
    layer_table *layers; /* (n_layers) */
    uint8_t *pages;      /* [n_pages][page_bytes], zero pages until touched */
    uint32_t *free_list; /* [n_free] indices of free pages, last in, first out */
    size_t n_free;
};

struct shoal_kv_seq {
    shoal_kv_pool *pool; /* borrowed: the pool outlives its sequences */
    size_t length;       /* valid positions */
    size_t high;         /* greatest length since the sequence was empty */
    size_t n_blocks;     /* blocks held in each full layer, covers at least length */
    size_t n_ring;       /* blocks held in each windowed layer, at most the ring */
    uint32_t *pages;     /* [n_entries] of the pool, per layer from its table's start */
};

/* --- shapes ----------------------------------------------------------------------------------- */

static const char *const type_names[] = {
    [SHOAL_KV_F32] = "f32", [SHOAL_KV_F16] = "f16", [SHOAL_KV_Q8] = "q8"};

const char *shoal_kv_type_name(shoal_kv_type type)
{
    SHOAL_ASSERT((size_t)type < SHOAL_COUNT(type_names));
    return type_names[type];
}

int shoal_kv_type_parse(const char *name, shoal_kv_type *ret_type)
{
    for (size_t i = 0; i < SHOAL_COUNT(type_names); i++) {
        if (strcmp(name, type_names[i]) == 0) {
            *ret_type = (shoal_kv_type)i;
            return 0;
        }
    }
    return -1;
}

static size_t block_bytes(shoal_kv_type type, size_t dim)
{
    switch (type) {
    case SHOAL_KV_F32:
        return dim * BLOCK * sizeof(float);
    case SHOAL_KV_F16:
        return dim * BLOCK * sizeof(uint16_t);
    case SHOAL_KV_Q8:
        break;
    }
    return SHOAL_KV_Q8_SCALES + dim * BLOCK;
}

static size_t blocks_for(size_t n_tokens)
{
    return n_tokens / BLOCK + (n_tokens % BLOCK > 0);
}

size_t shoal_kv_page_bytes(const shoal_kv_shape *shape)
{
    return shape->n_kv_heads *
           (block_bytes(shape->type, shape->k_dim) + block_bytes(shape->type, shape->v_dim));
}

static size_t window_of(const shoal_kv_shape *shape, size_t layer)
{
    return shape->windows ? shape->windows[layer] : 0;
}

static size_t count_windowed(const shoal_kv_shape *shape, size_t *ret_longest)
{
    size_t n = 0;
    *ret_longest = 0;
    for (size_t i = 0; i < shape->n_layers; i++) {
        size_t window = window_of(shape, i);
        n += window > 0;
        *ret_longest = SHOAL_MAX(*ret_longest, window);
    }
    return n;
}

/* A window and the slack before it touch at most one block more than they fill. */
static size_t ring_blocks(size_t window, size_t slack)
{
    return blocks_for(window + slack) + 1;
}

static size_t pages_for(size_t n_layers, size_t n_windowed, size_t ring, size_t n_blocks)
{
    return (n_layers - n_windowed) * n_blocks + n_windowed * SHOAL_MIN(n_blocks, ring);
}

size_t shoal_kv_pages_for(const shoal_kv_shape *shape, size_t slack, size_t n_tokens)
{
    size_t window = 0;
    size_t n_windowed = count_windowed(shape, &window);
    return pages_for(shape->n_layers, n_windowed, ring_blocks(window, slack), blocks_for(n_tokens));
}

static bool dim_ok(size_t dim)
{
    return dim >= 2 && dim % 2 == 0 && dim <= SHOAL_HEAD_DIM_MAX;
}

static bool shape_ok(const shoal_kv_shape *shape)
{
    /* The product stays far below 2^63, so page sizes cannot overflow. */
    return shape->n_layers >= 1 && shape->n_layers <= 4096 && shape->n_kv_heads >= 1 &&
           shape->n_kv_heads <= 4096 && dim_ok(shape->k_dim) && dim_ok(shape->v_dim);
}

/* --- the pool --------------------------------------------------------------------------------- */

static shoal_status check(const shoal_kv_shape *shape, size_t n_pages, size_t n_ctx_max,
                          size_t slack, shoal_err *err)
{
    if (!shape_ok(shape)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV shape of %zu layers, %zu heads of %zu and %zu channels is not "
                             "supported",
                             shape->n_layers, shape->n_kv_heads, shape->k_dim, shape->v_dim);
    }
    if (n_pages < 1 || n_pages > PAGES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a KV pool of %zu pages is not possible: take 1 to %d pages of %zu "
                             "bytes (32 tokens of one layer each)",
                             n_pages, (int)PAGES_MAX, shoal_kv_page_bytes(shape));
    }
    size_t window = 0;
    (void)count_windowed(shape, &window);
    if (n_ctx_max < 1 || n_ctx_max > TOKENS_MAX || slack < 1 || slack > TOKENS_MAX ||
        window > TOKENS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "KV for a context of %zu tokens, a window of %zu and steps of %zu is "
                             "not possible: each is at most %d",
                             n_ctx_max, window, slack, (int)TOKENS_MAX);
    }
    return SHOAL_OK;
}

/* Copies the windows and lays out the table of a sequence. */
static bool make_layers(shoal_kv_pool *pool, const size_t *windows)
{
    const shoal_kv_shape *shape = &pool->shape;
    size_t *copy = shoal_calloc(shape->n_layers, sizeof *copy);
    pool->shape.windows = copy;
    pool->layers = shoal_calloc(shape->n_layers, sizeof *pool->layers);
    if (!copy || !pool->layers) {
        return false;
    }
    if (windows) {
        memcpy(copy, windows, shape->n_layers * sizeof *copy);
    }
    pool->n_windowed = count_windowed(shape, &pool->window);
    size_t blocks = blocks_for(pool->n_ctx_max);
    pool->ring = SHOAL_MIN(ring_blocks(pool->window, pool->slack), blocks);
    for (size_t i = 0; i < shape->n_layers; i++) {
        pool->layers[i] = (layer_table){.at = pool->n_entries, .window = copy[i]};
        pool->n_entries += copy[i] > 0 ? pool->ring : blocks;
    }
    return true;
}

/* Anonymous pages cost nothing until the first token is written into them. */
static bool map_pages(shoal_kv_pool *pool)
{
    size_t bytes = 0;
    if (!shoal_mul_size(pool->n_pages, pool->page_bytes, &bytes)) {
        return false;
    }
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return false;
    }
    /* Attention jumps from block to block: with small pages of memory each jump would miss the TLB.
     * Advice only, a kernel without huge pages has refused it and nothing changes. */
    (void)madvise(map, bytes, MADV_HUGEPAGE);
    pool->pages = map;
    return true;
}

shoal_status shoal_kv_pool_new(const shoal_kv_shape *shape, size_t n_pages, size_t n_ctx_max,
                               size_t slack, shoal_kv_pool **ret_pool, shoal_err *err)
{
    SHOAL_TRY(check(shape, n_pages, n_ctx_max, slack, err));
    shoal_kv_pool *pool = shoal_calloc(1, sizeof *pool);
    if (!pool) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the KV pool");
    }
    pool->shape = *shape;
    pool->shape.windows = NULL;
    pool->n_pages = n_pages;
    pool->n_ctx_max = n_ctx_max;
    pool->slack = slack;
    pool->page_bytes = shoal_kv_page_bytes(shape);
    pool->k_bytes = block_bytes(shape->type, shape->k_dim);
    pool->v_bytes = block_bytes(shape->type, shape->v_dim);
    pool->free_list = shoal_calloc(n_pages, sizeof *pool->free_list);
    if (!pool->free_list || !make_layers(pool, shape->windows) || !map_pages(pool)) {
        shoal_kv_pool_free(pool);
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu KV pages of %zu bytes", n_pages,
                             shoal_kv_page_bytes(shape));
    }
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
    size_t *windows = NULL;
    memcpy(&windows, &pool->shape.windows, sizeof windows); /* ours, const for readers only */
    shoal_free(windows);
    shoal_free(pool->layers);
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

static size_t pool_pages_for(const shoal_kv_pool *pool, size_t n_blocks)
{
    return pages_for(pool->shape.n_layers, pool->n_windowed, pool->ring, n_blocks);
}

size_t shoal_kv_pool_pages_for(const shoal_kv_pool *pool, size_t n_tokens)
{
    return pool_pages_for(pool, blocks_for(n_tokens));
}

size_t shoal_kv_pool_tokens_max(const shoal_kv_pool *pool)
{
    size_t fits = 0;
    size_t too_many = blocks_for(pool->n_ctx_max) + 1;
    while (too_many - fits > 1) {
        size_t middle = fits + (too_many - fits) / 2;
        if (pool_pages_for(pool, middle) <= pool->n_pages) {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    return SHOAL_MIN(fits * (size_t)BLOCK, pool->n_ctx_max);
}

const shoal_kv_shape *shoal_kv_pool_shape(const shoal_kv_pool *pool)
{
    return &pool->shape;
}

/* --- sequences -------------------------------------------------------------------------------- */

shoal_status shoal_kv_seq_new(shoal_kv_pool *pool, shoal_kv_seq **ret_seq)
{
    shoal_kv_seq *seq = shoal_calloc(1, sizeof *seq);
    if (!seq) {
        return SHOAL_E_NOMEM;
    }
    seq->pages = shoal_calloc(pool->n_entries, sizeof *seq->pages);
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
    (void)shoal_kv_seq_truncate(seq, 0);
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

/* Grows or shrinks every layer to so many blocks; the pool has been asked. */
static void hold(shoal_kv_seq *seq, size_t n_blocks, size_t n_ring)
{
    shoal_kv_pool *pool = seq->pool;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        bool windowed = pool->layers[layer].window > 0;
        uint32_t *pages = seq->pages + pool->layers[layer].at;
        size_t n_have = windowed ? seq->n_ring : seq->n_blocks;
        size_t n_want = windowed ? n_ring : n_blocks;
        for (size_t i = n_have; i < n_want; i++) {
            pages[i] = pool->free_list[--pool->n_free];
        }
        for (size_t i = n_have; i > n_want; i--) {
            pool->free_list[pool->n_free++] = pages[i - 1];
        }
    }
    seq->n_blocks = n_blocks;
    seq->n_ring = n_ring;
}

shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_pool *pool = seq->pool;
    if (n_tokens > pool->n_ctx_max ||
        (pool->window > 0 && n_tokens > seq->length && n_tokens - seq->length > pool->slack)) {
        return SHOAL_E_LIMIT;
    }
    size_t n_blocks = SHOAL_MAX(blocks_for(n_tokens), seq->n_blocks);
    size_t n_ring = SHOAL_MIN(n_blocks, pool->ring);
    n_ring = SHOAL_MAX(n_ring, seq->n_ring);
    size_t n_new = (n_blocks - seq->n_blocks) * (pool->shape.n_layers - pool->n_windowed) +
                   (n_ring - seq->n_ring) * pool->n_windowed;
    if (n_new > pool->n_free) {
        return SHOAL_BUSY;
    }
    hold(seq, n_blocks, n_ring);
    return SHOAL_OK;
}

void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens)
{
    SHOAL_ASSERT(n_tokens >= seq->length && blocks_for(n_tokens) <= seq->n_blocks);
    seq->length = n_tokens;
    seq->high = SHOAL_MAX(seq->high, n_tokens);
}

size_t shoal_kv_seq_floor(const shoal_kv_seq *seq)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t n_written = blocks_for(seq->high);
    if (pool->window == 0 || n_written <= pool->ring) {
        return 0;
    }
    /* Blocks below n_written - ring are overwritten. The token at position n sees from
     * n + 1 - window on. */
    return (n_written - pool->ring) * BLOCK + pool->window - 1;
}

size_t shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens)
{
    seq->length = SHOAL_MIN(seq->length, n_tokens);
    if (seq->length < shoal_kv_seq_floor(seq)) {
        seq->length = 0;
        n_tokens = 0;
    }
    if (seq->length == 0) {
        seq->high = 0;
    }
    size_t n_keep = SHOAL_MIN(blocks_for(n_tokens), seq->n_blocks);
    /* A ring that has gone round holds needed blocks anywhere. */
    bool round = blocks_for(seq->high) > seq->pool->ring;
    hold(seq, n_keep, round ? seq->n_ring : SHOAL_MIN(n_keep, seq->n_ring));
    return seq->length;
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* The K block of (layer, block, head); its V block follows. */
static uint8_t *k_block(const shoal_kv_seq *seq, size_t layer, size_t block, size_t head)
{
    const shoal_kv_pool *pool = seq->pool;
    const layer_table *table = &pool->layers[layer];
    size_t page = seq->pages[table->at + (table->window > 0 ? block % pool->ring : block)];
    return pool->pages + page * pool->page_bytes + head * (pool->k_bytes + pool->v_bytes);
}

void shoal_kv_store(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer, size_t position,
                    const float *k, const float *v)
{
    const shoal_kv_pool *pool = seq->pool;
    const shoal_kv_shape *shape = &pool->shape;
    SHOAL_ASSERT(position / BLOCK < seq->n_blocks && layer < shape->n_layers);
    void (*store)(size_t, size_t, const float *, const float *, size_t, void *, void *) =
        kernels->kv_store_f32;
    if (shape->type == SHOAL_KV_F16) {
        store = kernels->kv_store_f16;
    } else if (shape->type == SHOAL_KV_Q8) {
        store = kernels->kv_store_q8;
    }
    for (size_t head = 0; head < shape->n_kv_heads; head++) {
        uint8_t *block = k_block(seq, layer, position / BLOCK, head);
        store(shape->k_dim, shape->v_dim, k + head * shape->k_dim, v + head * shape->v_dim,
              position % BLOCK, block, block + pool->k_bytes);
    }
}

size_t shoal_kv_first(const shoal_kv_seq *seq, size_t layer, size_t n_tokens)
{
    size_t window = seq->pool->layers[layer].window;
    return window > 0 && n_tokens > window ? n_tokens - window : 0;
}

void shoal_kv_blocks(const shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t first,
                     size_t n_tokens, const void **ret_k_blocks, const void **ret_v_blocks)
{
    size_t end = blocks_for(n_tokens);
    SHOAL_ASSERT(end <= seq->n_blocks && layer < seq->pool->shape.n_layers);
    for (size_t b = first / BLOCK; b < end; b++) {
        const uint8_t *block = k_block(seq, layer, b, kv_head);
        *ret_k_blocks++ = block;
        *ret_v_blocks++ = block + seq->pool->k_bytes;
    }
}

void shoal_kv_attend(const shoal_kernels *kernels, const shoal_kv_seq *seq, const shoal_attend *a)
{
    switch (seq->pool->shape.type) {
    case SHOAL_KV_F32:
        kernels->attend_f32(a);
        break;
    case SHOAL_KV_F16:
        kernels->attend_f16(a);
        break;
    case SHOAL_KV_Q8:
        kernels->attend_q8(a);
        break;
    }
}
