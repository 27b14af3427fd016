/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

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
    uint32_t *refs;     /* [n_pages] sequences that hold the page, and one more when it is kept */
    bool *kept;         /* [n_pages] as part of a block outside sequences */
    size_t n_kept_only; /* pages that no sequence holds */
};

struct shoal_kv_seq {
    shoal_kv_pool *pool; /* borrowed: the pool outlives its sequences */
    size_t length;       /* valid positions */
    size_t whole;        /* of them, those that every layer has; at most length */
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
    pool->refs = shoal_calloc(n_pages, sizeof *pool->refs);
    pool->kept = shoal_calloc(n_pages, sizeof *pool->kept);
    if (!pool->free_list || !pool->refs || !pool->kept || !make_layers(pool, shape->windows) ||
        !map_pages(pool)) {
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
        SHOAL_ASSERT(pool->n_free == pool->n_pages); /* a sequence or block outlived its pool */
        (void)munmap(pool->pages, pool->n_pages * pool->page_bytes);
    }
    size_t *windows = NULL;
    memcpy(&windows, &pool->shape.windows, sizeof windows); /* ours, const for readers only */
    shoal_free(windows);
    shoal_free(pool->layers);
    shoal_free(pool->free_list);
    shoal_free(pool->refs);
    shoal_free(pool->kept);
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

size_t shoal_kv_pool_n_kept(const shoal_kv_pool *pool)
{
    return pool->n_kept_only;
}

/* The pool has been asked. */
static uint32_t page_take(shoal_kv_pool *pool)
{
    uint32_t page = pool->free_list[--pool->n_free];
    pool->refs[page] = 1;
    return page;
}

static void page_ref(shoal_kv_pool *pool, uint32_t page)
{
    pool->n_kept_only -= pool->kept[page] && pool->refs[page] == 1;
    pool->refs[page]++;
}

static void page_unref(shoal_kv_pool *pool, uint32_t page)
{
    SHOAL_ASSERT(pool->refs[page] > 0);
    pool->refs[page]--;
    if (pool->refs[page] == 0) {
        pool->free_list[pool->n_free++] = page;
    }
    pool->n_kept_only += pool->kept[page] && pool->refs[page] == 1;
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

size_t shoal_kv_seq_whole(const shoal_kv_seq *seq)
{
    return seq->whole;
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
            pages[i] = page_take(pool);
        }
        for (size_t i = n_have; i > n_want; i--) {
            page_unref(pool, pages[i - 1]);
        }
    }
    seq->n_blocks = n_blocks;
    seq->n_ring = n_ring;
}

/* The page of a block that a layer holds, whether or not it still has that block's tokens; NULL: it
 * holds none. */
static uint32_t *page_at(const shoal_kv_seq *seq, size_t layer, size_t block)
{
    const shoal_kv_pool *pool = seq->pool;
    const layer_table *table = &pool->layers[layer];
    size_t i = table->window > 0 ? block % pool->ring : block;
    size_t n = table->window > 0 ? seq->n_ring : seq->n_blocks;
    return i < n ? &seq->pages[table->at + i] : NULL;
}

/* Pages of the blocks [from, to) that others hold too: a new one is needed before they are written.
 * These are fewer blocks than a ring has, so none is counted twice. */
static size_t count_shared(const shoal_kv_seq *seq, size_t from, size_t to)
{
    size_t n = 0;
    for (size_t layer = 0; layer < seq->pool->shape.n_layers; layer++) {
        for (size_t block = from; block < to; block++) {
            const uint32_t *page = page_at(seq, layer, block);
            n += page && seq->pool->refs[*page] > 1;
        }
    }
    return n;
}

/* Gives the sequence pages of its own for the blocks [from, to), with the tokens below length. */
static void unshare(shoal_kv_seq *seq, size_t from, size_t to)
{
    shoal_kv_pool *pool = seq->pool;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        for (size_t block = from; block < to; block++) {
            uint32_t *page = page_at(seq, layer, block);
            if (!page || pool->refs[*page] == 1) {
                continue;
            }
            uint32_t own = page_take(pool);
            if (block * BLOCK < seq->length) {
                memcpy(pool->pages + own * pool->page_bytes, pool->pages + *page * pool->page_bytes,
                       pool->page_bytes);
            }
            page_unref(pool, *page);
            *page = own;
        }
    }
}

shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_pool *pool = seq->pool;
    if (n_tokens > pool->n_ctx_max ||
        (pool->window > 0 && n_tokens > seq->whole && n_tokens - seq->whole > pool->slack)) {
        return SHOAL_E_LIMIT;
    }
    size_t n_blocks = SHOAL_MAX(blocks_for(n_tokens), seq->n_blocks);
    size_t n_ring = SHOAL_MIN(n_blocks, pool->ring);
    n_ring = SHOAL_MAX(n_ring, seq->n_ring);
    size_t n_new = (n_blocks - seq->n_blocks) * (pool->shape.n_layers - pool->n_windowed) +
                   (n_ring - seq->n_ring) * pool->n_windowed;
    size_t from = seq->whole / BLOCK;
    size_t to = SHOAL_MAX(blocks_for(n_tokens), from);
    if (n_new + count_shared(seq, from, to) > pool->n_free) {
        return SHOAL_BUSY;
    }
    unshare(seq, from, to);
    hold(seq, n_blocks, n_ring);
    return SHOAL_OK;
}

void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_seq_advance_part(seq, n_tokens, n_tokens);
}

void shoal_kv_seq_advance_part(shoal_kv_seq *seq, size_t n_tokens, size_t n_whole)
{
    SHOAL_ASSERT(n_tokens >= seq->length && blocks_for(n_tokens) <= seq->n_blocks);
    SHOAL_ASSERT(n_whole >= seq->whole && n_whole <= n_tokens);
    seq->length = n_tokens;
    seq->whole = n_whole;
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
    seq->whole = SHOAL_MIN(seq->whole, seq->length);
    size_t n_keep = SHOAL_MIN(blocks_for(n_tokens), seq->n_blocks);
    /* A ring that has gone round holds needed blocks anywhere. */
    bool round = blocks_for(seq->high) > seq->pool->ring;
    hold(seq, n_keep, round ? seq->n_ring : SHOAL_MIN(n_keep, seq->n_ring));
    return seq->length;
}

/* --- sharing ---------------------------------------------------------------------------------- */

shoal_status shoal_kv_seq_fork(const shoal_kv_seq *seq, size_t n_tokens, shoal_kv_seq **ret_seq)
{
    shoal_kv_pool *pool = seq->pool;
    if (n_tokens > seq->whole || (n_tokens > 0 && n_tokens < shoal_kv_seq_floor(seq))) {
        return SHOAL_E_LIMIT;
    }
    shoal_kv_seq *fork = NULL;
    SHOAL_TRY(shoal_kv_seq_new(pool, &fork));
    fork->length = seq->length;
    fork->whole = seq->whole;
    fork->high = seq->high;
    fork->n_blocks = seq->n_blocks;
    fork->n_ring = seq->n_ring;
    memcpy(fork->pages, seq->pages, pool->n_entries * sizeof *fork->pages);
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        size_t n = pool->layers[layer].window > 0 ? seq->n_ring : seq->n_blocks;
        for (size_t i = 0; i < n; i++) {
            page_ref(pool, fork->pages[pool->layers[layer].at + i]);
        }
    }
    (void)shoal_kv_seq_truncate(fork, n_tokens);
    *ret_seq = fork;
    return SHOAL_OK;
}

bool shoal_kv_seq_has_block(const shoal_kv_seq *seq, size_t block)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t n_written = blocks_for(seq->high);
    bool overwritten = pool->window > 0 && n_written > pool->ring + block;
    return block < seq->whole / BLOCK && !overwritten;
}

shoal_status shoal_kv_block_keep(shoal_kv_seq *seq, size_t block, uint32_t *ret_pages)
{
    shoal_kv_pool *pool = seq->pool;
    if (!shoal_kv_seq_has_block(seq, block)) {
        return SHOAL_E_LIMIT;
    }
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        uint32_t page = *page_at(seq, layer, block);
        SHOAL_ASSERT(!pool->kept[page]);
        page_ref(pool, page);
        pool->kept[page] = true;
        ret_pages[layer] = page;
    }
    return SHOAL_OK;
}

void shoal_kv_block_drop(shoal_kv_pool *pool, const uint32_t *pages)
{
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        uint32_t page = pages[layer];
        SHOAL_ASSERT(pool->kept[page]);
        pool->n_kept_only -= pool->refs[page] == 1;
        pool->kept[page] = false;
        page_unref(pool, page);
    }
}

bool shoal_kv_block_idle(const shoal_kv_pool *pool, const uint32_t *pages)
{
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        if (pool->refs[pages[layer]] > 1) {
            return false;
        }
    }
    return true;
}

shoal_status shoal_kv_seq_adopt(shoal_kv_seq *seq, const uint32_t *pages, size_t n_blocks)
{
    shoal_kv_pool *pool = seq->pool;
    SHOAL_ASSERT(seq->length == 0);
    if (n_blocks > pool->n_ctx_max / BLOCK) {
        return SHOAL_E_LIMIT;
    }
    (void)shoal_kv_seq_truncate(seq, 0);
    seq->n_blocks = n_blocks;
    seq->n_ring = SHOAL_MIN(n_blocks, pool->ring);
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        bool is_windowed = pool->layers[layer].window > 0;
        for (size_t b = is_windowed ? n_blocks - seq->n_ring : 0; b < n_blocks; b++) {
            uint32_t page = pages[b * pool->shape.n_layers + layer];
            page_ref(pool, page);
            *page_at(seq, layer, b) = page;
        }
    }
    shoal_kv_seq_advance(seq, n_blocks * BLOCK);
    return SHOAL_OK;
}

/* Whether a page would be free, or only kept, without this sequence. */
static bool held_alone(const shoal_kv_pool *pool, uint32_t page)
{
    return pool->refs[page] == 1U + pool->kept[page];
}

shoal_kv_need shoal_kv_seq_need(const shoal_kv_seq *seq)
{
    const shoal_kv_pool *pool = seq->pool;
    shoal_kv_need need = {.n_rows_held = seq->n_blocks * BLOCK - seq->length};
    size_t end = SHOAL_MIN(seq->length / BLOCK + 1, seq->n_blocks);
    need.n_pages_copy = count_shared(seq, seq->whole / BLOCK, end);
    need.n_pages_block = pool->shape.n_layers - pool->n_windowed;
    if (seq->n_ring < pool->ring) {
        need.n_pages_block = pool->shape.n_layers;
    }
    /* All full layers share the same blocks, and all windowed ones do: one of each is looked at. */
    bool seen[2] = {false, false};
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        bool is_windowed = pool->layers[layer].window > 0;
        if (seen[is_windowed]) {
            continue;
        }
        seen[is_windowed] = true;
        const uint32_t *pages = seq->pages + pool->layers[layer].at;
        size_t n = is_windowed ? seq->n_ring : seq->n_blocks;
        size_t n_like = is_windowed ? pool->n_windowed : pool->shape.n_layers - pool->n_windowed;
        size_t n_alone = 0;
        bool shared = false;
        for (size_t i = 0; i < n; i++) {
            n_alone += held_alone(pool, pages[i]);
            shared = shared || pool->refs[pages[i]] > 1;
        }
        need.n_pages_given += n_alone * n_like;
        need.n_pages_held += n * n_like;
        if (is_windowed && shared) {
            /* Where the ring goes round, a shared page is replaced. */
            need.n_pages_block = pool->shape.n_layers;
        }
    }
    return need;
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

uint8_t *shoal_kv_block_page(const shoal_kv_seq *seq, size_t layer, size_t block)
{
    SHOAL_ASSERT(block < seq->n_blocks && layer < seq->pool->shape.n_layers);
    return k_block(seq, layer, block, 0);
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

/* Of one head's K or V, some rows at a time: a row is sealed alone. */
static void lose(const shoal_kernels *kernels, shoal_kv_level level, size_t n_rows, size_t n,
                 uint8_t *block)
{
    enum {
        SOME = 8
    };
    uint8_t sealed[64 + SOME * SHOAL_HEAD_DIM_MAX];
    uint16_t *x = (uint16_t *)(void *)block;
    for (size_t r = 0; r < n_rows; r += SOME) {
        size_t n_some = SHOAL_MIN(n_rows - r, (size_t)SOME);
        kernels->kv_seal(level, n_some, n, x + r * n, sealed);
        kernels->kv_unseal(level, n_some, n, sealed, x + r * n);
    }
}

void shoal_kv_seal_loss(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t block,
                        shoal_kv_level k_level, shoal_kv_level v_level)
{
    const shoal_kv_pool *pool = seq->pool;
    const shoal_kv_shape *shape = &pool->shape;
    SHOAL_ASSERT(shape->type == SHOAL_KV_F16 && block < seq->whole / BLOCK);
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        for (size_t head = 0; head < shape->n_kv_heads; head++) {
            uint8_t *at = k_block(seq, layer, block, head);
            lose(kernels, k_level, shape->k_dim, BLOCK, at);
            lose(kernels, v_level, BLOCK, shape->v_dim, at + pool->k_bytes);
        }
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
