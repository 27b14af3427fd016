/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/kv_internal.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

#include <string.h>
#include <sys/mman.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    TYPICAL_BLOCKS = 31, /* of codes, in a text of 1024 tokens */
    OPEN_BLOCKS = 3,     /* that a sequence has open: block 0, the newest one, the one before */
    PAGES_MAX = 1 << 24,
    TOKENS_MAX = 1 << 30, /* of a window, of the slack, of a context */
    BUDGET_MAX = 1 << 16
};

/* --- shapes ----------------------------------------------------------------------------------- */

static size_t f16_bytes(size_t dim)
{
    return dim * BLOCK * sizeof(uint16_t);
}

/* One head's K or V of a layer's block as a page has it. */
static size_t block_bytes(const shoal_kv_shape *shape, size_t layer, bool is_v)
{
    shoal_kv_type type = shoal_kv_layer_type(shape, layer);
    size_t dim = is_v ? shape->v_dim : shape->k_dim;
    shoal_kv_level k = SHOAL_KV_LEVEL_Q8;
    shoal_kv_level v = SHOAL_KV_LEVEL_Q8;
    if (shoal_kv_type_sealed(type, &k, &v)) {
        return is_v ? shoal_kv_sealed_bytes(v, BLOCK, dim) : shoal_kv_sealed_bytes(k, dim, BLOCK);
    }
    if (type == SHOAL_KV_F32) {
        return dim * BLOCK * sizeof(float);
    }
    return type == SHOAL_KV_F16 ? f16_bytes(dim) : SHOAL_KV_Q8_SCALES + dim * BLOCK;
}

static bool is_sealed(const shoal_kv_shape *shape)
{
    shoal_kv_level level = SHOAL_KV_LEVEL_Q8;
    return shoal_kv_type_sealed(shape->type, &level, &level);
}

/* Of a sealed type. */
static size_t item_bytes(const shoal_kv_shape *shape)
{
    return f16_bytes(SHOAL_MAX(shape->k_dim, shape->v_dim));
}

static size_t blocks_for(size_t n_tokens)
{
    return n_tokens / BLOCK + (n_tokens % BLOCK > 0);
}

size_t shoal_kv_held_of(const shoal_kv_shape *shape, size_t n_tokens)
{
    return shape->evict ? SHOAL_MIN(n_tokens, shape->budget) : n_tokens;
}

/* Blocks that a sequence of n tokens holds in a full layer. */
static size_t held_blocks(const shoal_kv_shape *shape, size_t n_tokens)
{
    return blocks_for(shoal_kv_held_of(shape, n_tokens));
}

static size_t head_bytes(const shoal_kv_shape *shape, size_t layer)
{
    return block_bytes(shape, layer, false) + block_bytes(shape, layer, true);
}

/* Heads of a layer's block that a page has, and how many pages that takes. */
static size_t page_heads(const shoal_kv_shape *shape, size_t layer, size_t page_bytes)
{
    const size_t bytes = head_bytes(shape, layer);
    SHOAL_ASSERT(bytes > 0 && bytes <= page_bytes);
    return SHOAL_MIN(page_bytes / bytes, shape->n_kv_heads);
}

static size_t block_pages(const shoal_kv_shape *shape, size_t layer, size_t page_bytes)
{
    size_t n_heads = page_heads(shape, layer, page_bytes);
    SHOAL_ASSERT(n_heads > 0);
    return (shape->n_kv_heads + n_heads - 1) / n_heads;
}

/* Of an open block of one layer, of a sealed type. */
static size_t open_pages_of(const shoal_kv_shape *shape, size_t page_bytes)
{
    size_t n_items = page_bytes / item_bytes(shape);
    return (2 * shape->n_kv_heads + n_items - 1) / n_items;
}

/* What a text of TYPICAL_BLOCKS takes in pages of that size. */
static size_t typical_bytes(const shoal_kv_shape *shape, size_t page_bytes)
{
    size_t n = OPEN_BLOCKS * shape->n_layers * open_pages_of(shape, page_bytes);
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        n += TYPICAL_BLOCKS * block_pages(shape, layer, page_bytes);
    }
    return n * page_bytes;
}

/* Where layers differ, a page fits so many heads of one of them, by which a text takes least. */
static size_t mixed_page_bytes(const shoal_kv_shape *shape)
{
    size_t least = item_bytes(shape);
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        least = SHOAL_MAX(least, head_bytes(shape, layer));
    }
    bool seen[SHOAL_KV_TYPES] = {false};
    size_t best = least;
    size_t best_total = typical_bytes(shape, least);
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        shoal_kv_type type = shape->types[layer];
        for (size_t n = 1; n <= shape->n_kv_heads && !seen[type]; n++) {
            size_t bytes = SHOAL_MAX(n * head_bytes(shape, layer), least);
            size_t total = typical_bytes(shape, bytes);
            if (total < best_total || (total == best_total && bytes > best)) {
                best = bytes;
                best_total = total;
            }
        }
        seen[type] = true;
    }
    return best;
}

size_t shoal_kv_page_bytes(const shoal_kv_shape *shape)
{
    if (shape->types) {
        return mixed_page_bytes(shape);
    }
    size_t bytes = shape->n_kv_heads * head_bytes(shape, 0);
    return is_sealed(shape) ? SHOAL_MAX(bytes, item_bytes(shape)) : bytes;
}

void shoal_kv_part_bytes(const shoal_kv_shape *shape, size_t layer, size_t block, size_t *ret_k,
                         size_t *ret_v)
{
    bool open = is_sealed(shape) && block == 0;
    *ret_k = open ? f16_bytes(shape->k_dim) : block_bytes(shape, layer, false);
    *ret_v = open ? f16_bytes(shape->v_dim) : block_bytes(shape, layer, true);
}

/* Pages of an open block of one layer; 0 where there are none. */
static size_t open_pages(const shoal_kv_shape *shape)
{
    return is_sealed(shape) ? open_pages_of(shape, shoal_kv_page_bytes(shape)) : 0;
}

static size_t window_of(const shoal_kv_shape *shape, size_t layer)
{
    return shape->windows ? shape->windows[layer] : 0;
}

/* Pages of one block in all layers that see all, and in those that have a window; the longest. */
static void count_pages(const shoal_kv_shape *shape, size_t *ret_full, size_t *ret_windowed,
                        size_t *ret_longest)
{
    size_t page_bytes = shoal_kv_page_bytes(shape);
    *ret_full = *ret_windowed = *ret_longest = 0;
    for (size_t i = 0; i < shape->n_layers; i++) {
        size_t window = window_of(shape, i);
        *(window > 0 ? ret_windowed : ret_full) += block_pages(shape, i, page_bytes);
        *ret_longest = SHOAL_MAX(*ret_longest, window);
    }
}

/* A window and the slack before it touch at most one block more than they fill. */
static size_t ring_blocks(size_t window, size_t slack)
{
    return blocks_for(window + slack) + 1;
}

/* A sequence of so many blocks, which take n_full and n_windowed pages each; n_open pages of one
 * open block of all layers, 0: the type has none. */
static size_t pages_for(size_t n_full, size_t n_windowed, size_t ring, size_t n_open,
                        size_t n_blocks)
{
    size_t n_paged = n_blocks - (n_open > 0 && n_blocks > 0);
    size_t n_opened = n_blocks > 0 ? OPEN_BLOCKS * n_open : 0;
    return n_opened + n_full * n_paged + n_windowed * SHOAL_MIN(n_paged, ring);
}

size_t shoal_kv_pages_for(const shoal_kv_shape *shape, size_t slack, size_t n_tokens)
{
    size_t window = 0;
    size_t n_full = 0;
    size_t n_windowed = 0;
    count_pages(shape, &n_full, &n_windowed, &window);
    return pages_for(n_full, n_windowed, ring_blocks(window, slack),
                     open_pages(shape) * shape->n_layers, held_blocks(shape, n_tokens));
}

static bool dim_ok(size_t dim)
{
    return dim >= 2 && dim % 2 == 0 && dim <= SHOAL_HEAD_DIM_MAX;
}

static bool shape_ok(const shoal_kv_shape *shape)
{
    /* The product stays far below 2^63, so page sizes cannot overflow. */
    return shape->n_layers >= 1 && shape->n_layers <= SHOAL_KV_LAYERS_MAX &&
           shape->n_kv_heads >= 1 && shape->n_kv_heads <= 4096 && dim_ok(shape->k_dim) &&
           dim_ok(shape->v_dim);
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
    if (!shoal_kv_types_ok(shape)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV levels by layer have to be sealed types (q8, q4, q3, k8v4 and so "
                             "on) that change so seldom that %d characters say them",
                             SHOAL_KV_TYPES_BYTES - 1);
    }
    if (n_pages < 1 || n_pages > PAGES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a KV pool of %zu pages is not possible: take 1 to %d pages of %zu "
                             "bytes (32 tokens of one layer each)",
                             n_pages, (int)PAGES_MAX, shoal_kv_page_bytes(shape));
    }
    if (!shoal_kv_basis_ok(shape)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV of heads of %zu and %zu channels cannot be multiplied by Hadamard "
                             "matrices, which are for powers of two: run this model without",
                             shape->k_dim, shape->v_dim);
    }
    size_t window = 0;
    size_t n_full = 0;
    size_t n_windowed = 0;
    count_pages(shape, &n_full, &n_windowed, &window);
    if (shape->evict && (n_windowed > 0 || shape->type > SHOAL_KV_F16)) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "KV cannot be evicted (%s) from %s: take f16 or f32, and a model whose "
            "layers all see every token",
            shape->evict->name,
            n_windowed > 0 ? "layers that have a window" : shoal_kv_type_name(shape->type));
    }
    if (shape->evict
            ? shape->budget < BLOCK || shape->budget > BUDGET_MAX || shape->budget % BLOCK != 0
            : shape->budget != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a KV budget of %zu tokens is not possible: take a multiple of %d up "
                             "to %d, and a policy (%s)",
                             shape->budget, (int)BLOCK, (int)BUDGET_MAX, shoal_kv_evict_names());
    }
    if (n_ctx_max < 1 || n_ctx_max > TOKENS_MAX || slack < 1 || slack > TOKENS_MAX ||
        window > TOKENS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "KV for a context of %zu tokens, a window of %zu and steps of %zu is "
                             "not possible: each is at most %d",
                             n_ctx_max, window, slack, (int)TOKENS_MAX);
    }
    return SHOAL_OK;
}

static shoal_kv_table table_of(const shoal_kv_pool *pool, size_t layer)
{
    const shoal_kv_shape *shape = &pool->shape;
    shoal_kv_table table = {.window = window_of(shape, layer),
                            .n_pages = block_pages(shape, layer, pool->page_bytes),
                            .n_heads = page_heads(shape, layer, pool->page_bytes),
                            .k_bytes = block_bytes(shape, layer, false),
                            .v_bytes = block_bytes(shape, layer, true)};
    (void)shoal_kv_type_sealed(shoal_kv_layer_type(shape, layer), &table.k_level, &table.v_level);
    return table;
}

/* Copies windows and types and lays out the table of a sequence. */
static bool make_layers(shoal_kv_pool *pool, const shoal_kv_shape *from)
{
    const shoal_kv_shape *shape = &pool->shape;
    size_t *windows = shoal_calloc(shape->n_layers, sizeof *windows);
    pool->shape.windows = windows;
    pool->layers = shoal_calloc(shape->n_layers, sizeof *pool->layers);
    shoal_kv_type *types = from->types ? shoal_calloc(shape->n_layers, sizeof *types) : NULL;
    pool->shape.types = types;
    if (!windows || !pool->layers || (from->types && !types)) {
        return false;
    }
    if (from->windows) {
        memcpy(windows, from->windows, shape->n_layers * sizeof *windows);
    }
    if (types) {
        memcpy(types, from->types, shape->n_layers * sizeof *types);
    }
    count_pages(shape, &pool->n_pages_full, &pool->n_pages_windowed, &pool->window);
    size_t blocks = held_blocks(shape, pool->n_ctx_max);
    pool->ring = SHOAL_MIN(ring_blocks(pool->window, pool->slack), blocks);
    for (size_t i = 0; i < shape->n_layers; i++) {
        pool->layers[i] = table_of(pool, i);
        pool->layers[i].at = pool->n_entries;
        pool->n_entries += (windows[i] > 0 ? pool->ring : blocks) * pool->layers[i].n_pages;
        pool->layers[i].open = pool->n_entries;
        pool->n_entries += OPEN_BLOCKS * pool->n_open;
    }
    return true;
}

/* What a sealed type needs besides. */
static bool make_open(shoal_kv_pool *pool)
{
    const shoal_kv_shape *shape = &pool->shape;
    if (!is_sealed(shape)) {
        return true;
    }
    pool->n_sink = 1;
    pool->item_bytes = item_bytes(shape);
    pool->n_items = pool->page_bytes / pool->item_bytes;
    pool->n_open = open_pages_of(shape, pool->page_bytes);
    /* A step that fills blocks b + 1 to c - 1 has stored at least 32 tokens in each of these, and
     * as many of b to c are neither the newest nor the one before. */
    pool->n_staged_max = pool->slack / BLOCK;
    pool->staged =
        shoal_calloc_aligned(pool->n_staged_max, 2 * shape->n_kv_heads * pool->item_bytes);
    return pool->staged;
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
    pool->shape.types = NULL;
    pool->n_pages = n_pages;
    pool->n_ctx_max = n_ctx_max;
    pool->slack = slack;
    pool->page_bytes = shoal_kv_page_bytes(shape);
    pool->free_list = shoal_calloc(n_pages, sizeof *pool->free_list);
    pool->refs = shoal_calloc(n_pages, sizeof *pool->refs);
    pool->kept = shoal_calloc(n_pages, sizeof *pool->kept);
    if (!pool->free_list || !pool->refs || !pool->kept || !make_open(pool) ||
        !make_layers(pool, shape) || !map_pages(pool)) {
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
    shoal_kv_type *types = NULL;
    memcpy(&windows, &pool->shape.windows, sizeof windows); /* ours, const for readers only */
    memcpy((void *)&types, (const void *)&pool->shape.types, sizeof types);
    shoal_free(windows);
    shoal_free(types);
    shoal_free(pool->layers);
    shoal_free(pool->free_list);
    shoal_free(pool->refs);
    shoal_free(pool->kept);
    shoal_free(pool->staged);
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
    return pages_for(pool->n_pages_full, pool->n_pages_windowed, pool->ring,
                     pool->n_open * pool->shape.n_layers, n_blocks);
}

size_t shoal_kv_pool_pages_for(const shoal_kv_pool *pool, size_t n_tokens)
{
    return pool_pages_for(pool, held_blocks(&pool->shape, n_tokens));
}

size_t shoal_kv_pool_tokens_max(const shoal_kv_pool *pool)
{
    size_t fits = 0;
    size_t too_many = blocks_for(pool->n_ctx_max) + 1;
    while (too_many - fits > 1) {
        size_t middle = fits + (too_many - fits) / 2;
        if (shoal_kv_pool_pages_for(pool, middle * BLOCK) <= pool->n_pages) {
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
    const shoal_kv_shape *shape = &pool->shape;
    size_t n_slots = shape->n_layers * shape->n_kv_heads * shape->budget;
    bool by_mass = shape->evict && shape->evict->by_mass;
    seq->pool = pool;
    seq->pages = shoal_calloc(pool->n_entries, sizeof *seq->pages);
    seq->held_positions = shape->evict ? shoal_calloc(n_slots, sizeof *seq->held_positions) : NULL;
    seq->held_mass = by_mass ? shoal_calloc(n_slots, sizeof *seq->held_mass) : NULL;
    if (!seq->pages || (shape->evict && !seq->held_positions) || (by_mass && !seq->held_mass)) {
        shoal_kv_seq_free(seq);
        return SHOAL_E_NOMEM;
    }
    *ret_seq = seq;
    return SHOAL_OK;
}

void shoal_kv_seq_free(shoal_kv_seq *seq)
{
    if (!seq) {
        return;
    }
    if (seq->pages) {
        (void)shoal_kv_seq_truncate(seq, 0);
    }
    shoal_free(seq->pages);
    shoal_free(seq->held_positions);
    shoal_free(seq->held_mass);
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

/* Blocks of n that have a page in a full layer. */
static size_t paged(const shoal_kv_pool *pool, size_t n_blocks)
{
    return n_blocks - SHOAL_MIN(n_blocks, pool->n_sink);
}

/* Pages of a sequence's table, one after the other. */
typedef struct run {
    uint32_t *pages;
    size_t n;
} run;

/* What a layer holds: by block, and open. */
static void runs_of(const shoal_kv_seq *seq, size_t layer, run ret_runs[2])
{
    const shoal_kv_table *table = &seq->pool->layers[layer];
    ret_runs[0].pages = seq->pages + table->at;
    ret_runs[0].n =
        (table->window > 0 ? seq->n_ring : paged(seq->pool, seq->n_blocks)) * table->n_pages;
    ret_runs[1].pages = seq->pages + table->open;
    ret_runs[1].n = seq->n_open;
}

/* Grows or shrinks every layer to so many blocks; the pool has been asked. */
static void hold(shoal_kv_seq *seq, size_t n_blocks, size_t n_ring, size_t n_open)
{
    shoal_kv_pool *pool = seq->pool;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        const shoal_kv_table *table = &pool->layers[layer];
        size_t n_held = table->window > 0 ? n_ring : paged(pool, n_blocks);
        const size_t n_want[] = {n_held * table->n_pages, n_open};
        run have[2];
        runs_of(seq, layer, have);
        for (size_t r = 0; r < SHOAL_COUNT(have); r++) {
            for (size_t i = have[r].n; i < n_want[r]; i++) {
                have[r].pages[i] = page_take(pool);
            }
            for (size_t i = have[r].n; i > n_want[r]; i--) {
                page_unref(pool, have[r].pages[i - 1]);
            }
        }
    }
    seq->n_blocks = n_blocks;
    seq->n_ring = n_ring;
    seq->n_open = n_open;
}

uint32_t *shoal_kv_page_at(const shoal_kv_seq *seq, size_t layer, size_t block)
{
    const shoal_kv_pool *pool = seq->pool;
    const shoal_kv_table *table = &pool->layers[layer];
    if (block < pool->n_sink) {
        return NULL;
    }
    size_t i = block - pool->n_sink;
    i = table->window > 0 ? i % pool->ring : i;
    size_t n = table->window > 0 ? seq->n_ring : paged(pool, seq->n_blocks);
    return i < n ? &seq->pages[table->at + i * table->n_pages] : NULL;
}

/* The open pages among those held that are written where blocks [from, to) are: those of block 0,
 * and of the last two blocks. */
static bool is_written(const shoal_kv_pool *pool, size_t open_i, size_t from, size_t to)
{
    SHOAL_ASSERT(pool->n_open > 0);
    size_t which = open_i / pool->n_open;
    if (which == 0) {
        return from == 0;
    }
    for (size_t back = 1; back <= 2 && to >= from + back && to - back > 0; back++) {
        if ((to - back) % 2 == which - 1) {
            return true;
        }
    }
    return false;
}

/* Pages of the blocks [from, to) that others hold too: a new one is needed before they are written.
 * These are fewer blocks than a ring has, so none is counted twice. */
static size_t count_shared(const shoal_kv_seq *seq, size_t from, size_t to)
{
    size_t n = 0;
    for (size_t layer = 0; layer < seq->pool->shape.n_layers; layer++) {
        for (size_t block = from; block < to; block++) {
            const uint32_t *pages = shoal_kv_page_at(seq, layer, block);
            for (size_t i = 0; pages && i < seq->pool->layers[layer].n_pages; i++) {
                n += seq->pool->refs[pages[i]] > 1;
            }
        }
    }
    return n;
}

/* The same of open pages. */
static size_t count_shared_open(const shoal_kv_seq *seq, size_t from, size_t to)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t n = 0;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        const uint32_t *pages = seq->pages + pool->layers[layer].open;
        for (size_t i = 0; i < seq->n_open; i++) {
            n += is_written(pool, i, from, to) && pool->refs[pages[i]] > 1;
        }
    }
    return n;
}

/* Makes a page the sequence's own, with what it holds where that is wanted. */
static void unshare_page(shoal_kv_pool *pool, uint32_t *page, bool copy)
{
    if (pool->refs[*page] == 1) {
        return;
    }
    uint32_t own = page_take(pool);
    if (copy) {
        memcpy(pool->pages + own * pool->page_bytes, pool->pages + *page * pool->page_bytes,
               pool->page_bytes);
    }
    page_unref(pool, *page);
    *page = own;
}

/* Gives the sequence pages of its own for the blocks [from, to), with the tokens below length. */
static void unshare(shoal_kv_seq *seq, size_t from, size_t to)
{
    shoal_kv_pool *pool = seq->pool;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        for (size_t block = from; block < to; block++) {
            uint32_t *pages = shoal_kv_page_at(seq, layer, block);
            for (size_t i = 0; pages && i < pool->layers[layer].n_pages; i++) {
                unshare_page(pool, &pages[i], block * BLOCK < seq->length);
            }
        }
        for (size_t i = 0; i < seq->n_open; i++) {
            if (is_written(pool, i, from, to)) {
                unshare_page(pool, &seq->pages[pool->layers[layer].open + i], true);
            }
        }
    }
}

/* Gives back staged memory. */
static void unstage(shoal_kv_seq *seq)
{
    shoal_kv_pool *pool = seq->pool;
    pool->n_staged -= seq->n_staged;
    if (pool->n_staged == 0) {
        pool->staged_end = 0;
    }
    seq->n_staged = 0;
}

/* Blocks of a step's that are neither the newest nor the one before. */
static size_t count_staged(const shoal_kv_pool *pool, size_t from, size_t to)
{
    return pool->n_open > 0 && to > from + 2 ? to - from - 2 : 0;
}

/* The pool has been asked. */
static void stage(shoal_kv_seq *seq, size_t from, size_t to)
{
    shoal_kv_pool *pool = seq->pool;
    seq->staged_block = from;
    seq->n_staged = count_staged(pool, from, to);
    seq->staged_at = pool->staged_end;
    pool->n_staged += seq->n_staged;
    pool->staged_end += seq->n_staged;
}

shoal_status shoal_kv_seq_reserve(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_pool *pool = seq->pool;
    bool slack_counts = pool->window > 0 || pool->n_open > 0;
    if (n_tokens > pool->n_ctx_max ||
        (slack_counts && n_tokens > seq->whole && n_tokens - seq->whole > pool->slack)) {
        return SHOAL_E_LIMIT;
    }
    size_t n_blocks = SHOAL_MAX(held_blocks(&pool->shape, n_tokens), seq->n_blocks);
    size_t n_ring = SHOAL_MIN(paged(pool, n_blocks), pool->ring);
    n_ring = SHOAL_MAX(n_ring, seq->n_ring);
    size_t n_open = n_blocks > 0 ? OPEN_BLOCKS * pool->n_open : 0;
    size_t n_new = (paged(pool, n_blocks) - paged(pool, seq->n_blocks)) * pool->n_pages_full +
                   (n_ring - seq->n_ring) * pool->n_pages_windowed +
                   (n_open - seq->n_open) * pool->shape.n_layers;
    size_t from = seq->whole / BLOCK;
    size_t to = SHOAL_MAX(blocks_for(n_tokens), from);
    size_t staged_end = pool->n_staged == seq->n_staged ? 0 : pool->staged_end;
    if (staged_end + count_staged(pool, from, to) > pool->n_staged_max) {
        return SHOAL_E_LIMIT;
    }
    if (n_new + count_shared(seq, from, to) + count_shared_open(seq, from, to) > pool->n_free) {
        return SHOAL_BUSY;
    }
    unshare(seq, from, to);
    hold(seq, n_blocks, n_ring, n_open);
    unstage(seq);
    stage(seq, from, to);
    return SHOAL_OK;
}

void shoal_kv_seq_advance(shoal_kv_seq *seq, size_t n_tokens)
{
    shoal_kv_seq_advance_part(seq, n_tokens, n_tokens);
}

void shoal_kv_seq_advance_part(shoal_kv_seq *seq, size_t n_tokens, size_t n_whole)
{
    SHOAL_ASSERT(n_tokens >= seq->length &&
                 held_blocks(&seq->pool->shape, n_tokens) <= seq->n_blocks);
    SHOAL_ASSERT(n_whole >= seq->whole && n_whole <= n_tokens);
    seq->length = n_tokens;
    seq->whole = n_whole;
    seq->high = SHOAL_MAX(seq->high, n_tokens);
    size_t n_blocks = blocks_for(n_tokens);
    seq->open_from = SHOAL_MAX(seq->open_from, n_blocks - SHOAL_MIN(n_blocks, (size_t)2));
    unstage(seq);
}

void shoal_kv_seq_advance_blocks(shoal_kv_seq *seq, size_t n_tokens)
{
    SHOAL_ASSERT(n_tokens % BLOCK == 0);
    shoal_kv_seq_advance(seq, n_tokens);
    seq->open_from = n_tokens / BLOCK;
}

size_t shoal_kv_seq_floor(const shoal_kv_seq *seq)
{
    const shoal_kv_pool *pool = seq->pool;
    size_t n_written = blocks_for(seq->high);
    if (pool->shape.evict) {
        /* A slot's next token and attention cannot be taken back. */
        return pool->shape.evict->by_mass || seq->high > pool->shape.budget ? seq->high : 0;
    }
    if (pool->window == 0 || paged(pool, n_written) <= pool->ring) {
        return 0;
    }
    /* Blocks below n_written - ring are overwritten. The token at position n sees from
     * n + 1 - window on. */
    return (n_written - pool->ring) * BLOCK + pool->window - 1;
}

/* The length that is left when a sequence is cut to n_tokens, at most its length, but for rings:
 * codes of a part of a block cannot be gone on from. */
static size_t cut_at(const shoal_kv_seq *seq, size_t n_tokens)
{
    size_t block = n_tokens / BLOCK;
    bool open = seq->pool->n_open == 0 || block == 0 || block >= seq->open_from;
    return open ? n_tokens : block * BLOCK;
}

size_t shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens)
{
    unstage(seq);
    if (n_tokens < seq->length) {
        n_tokens = cut_at(seq, n_tokens);
        seq->length = n_tokens;
        seq->open_from = SHOAL_MIN(seq->open_from, n_tokens / BLOCK);
    }
    if (seq->length < shoal_kv_seq_floor(seq)) {
        seq->length = 0;
        n_tokens = 0;
    }
    if (seq->length == 0) {
        seq->high = 0;
        seq->open_from = 0;
    }
    seq->whole = SHOAL_MIN(seq->whole, seq->length);
    size_t n_keep = SHOAL_MIN(blocks_for(n_tokens), seq->n_blocks);
    /* A ring that has gone round holds needed blocks anywhere. */
    bool round = paged(seq->pool, blocks_for(seq->high)) > seq->pool->ring;
    hold(seq, n_keep, round ? seq->n_ring : SHOAL_MIN(paged(seq->pool, n_keep), seq->n_ring),
         n_keep > 0 ? seq->n_open : 0);
    return seq->length;
}

/* --- sharing ---------------------------------------------------------------------------------- */

shoal_status shoal_kv_seq_fork(const shoal_kv_seq *seq, size_t n_tokens, shoal_kv_seq **ret_seq)
{
    shoal_kv_pool *pool = seq->pool;
    if (n_tokens > seq->whole || (n_tokens > 0 && pool->shape.evict) ||
        (n_tokens > 0 && n_tokens < shoal_kv_seq_floor(seq)) || cut_at(seq, n_tokens) != n_tokens) {
        return SHOAL_E_LIMIT;
    }
    shoal_kv_seq *fork = NULL;
    SHOAL_TRY(shoal_kv_seq_new(pool, &fork));
    fork->length = seq->length;
    fork->whole = seq->whole;
    fork->high = seq->high;
    fork->n_blocks = seq->n_blocks;
    fork->n_ring = seq->n_ring;
    fork->n_open = seq->n_open;
    fork->open_from = seq->open_from;
    memcpy(fork->pages, seq->pages, pool->n_entries * sizeof *fork->pages);
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        run held[2];
        runs_of(fork, layer, held);
        for (size_t r = 0; r < SHOAL_COUNT(held); r++) {
            for (size_t i = 0; i < held[r].n; i++) {
                page_ref(pool, held[r].pages[i]);
            }
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
    bool overwritten = pool->window > 0 && block >= pool->n_sink && n_written > pool->ring + block;
    return block < seq->whole / BLOCK && !overwritten && !pool->shape.evict;
}

/* Of a layer, the same for all, so that their places do not depend on their types. */
static size_t layer_entries(const shoal_kv_pool *pool)
{
    size_t n = SHOAL_MAX(pool->n_open, (size_t)1);
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        n = SHOAL_MAX(n, pool->layers[layer].n_pages);
    }
    return n;
}

size_t shoal_kv_pool_block_entries(const shoal_kv_pool *pool)
{
    return pool->shape.n_layers * layer_entries(pool);
}

/* Where a layer has what is kept of a block, and how many pages that is. */
static run kept_run(const shoal_kv_seq *seq, size_t layer, size_t block)
{
    if (block < seq->pool->n_sink) {
        return (run){seq->pages + seq->pool->layers[layer].open, seq->pool->n_open};
    }
    return (run){shoal_kv_page_at(seq, layer, block), seq->pool->layers[layer].n_pages};
}

shoal_status shoal_kv_block_keep(shoal_kv_seq *seq, size_t block, uint32_t *ret_pages)
{
    shoal_kv_pool *pool = seq->pool;
    size_t n_each = layer_entries(pool);
    if (!shoal_kv_seq_has_block(seq, block)) {
        return SHOAL_E_LIMIT;
    }
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        run held = kept_run(seq, layer, block);
        for (size_t i = 0; i < n_each; i++) {
            uint32_t page = i < held.n ? held.pages[i] : SHOAL_KV_NO_PAGE;
            if (page != SHOAL_KV_NO_PAGE) {
                SHOAL_ASSERT(!pool->kept[page]);
                page_ref(pool, page);
                pool->kept[page] = true;
            }
            ret_pages[layer * n_each + i] = page;
        }
    }
    return SHOAL_OK;
}

void shoal_kv_block_drop(shoal_kv_pool *pool, const uint32_t *pages)
{
    for (size_t i = 0; i < shoal_kv_pool_block_entries(pool); i++) {
        uint32_t page = pages[i];
        if (page == SHOAL_KV_NO_PAGE) {
            continue;
        }
        SHOAL_ASSERT(pool->kept[page]);
        pool->n_kept_only -= pool->refs[page] == 1;
        pool->kept[page] = false;
        page_unref(pool, page);
    }
}

bool shoal_kv_block_idle(const shoal_kv_pool *pool, const uint32_t *pages)
{
    for (size_t i = 0; i < shoal_kv_pool_block_entries(pool); i++) {
        if (pages[i] != SHOAL_KV_NO_PAGE && pool->refs[pages[i]] > 1) {
            return false;
        }
    }
    return true;
}

shoal_status shoal_kv_seq_adopt(shoal_kv_seq *seq, const uint32_t *pages, size_t n_blocks)
{
    shoal_kv_pool *pool = seq->pool;
    size_t n_each = layer_entries(pool);
    SHOAL_ASSERT(seq->length == 0);
    if (n_blocks > pool->n_ctx_max / BLOCK || (n_blocks > 0 && pool->shape.evict)) {
        return SHOAL_E_LIMIT;
    }
    (void)shoal_kv_seq_truncate(seq, 0);
    seq->n_blocks = n_blocks;
    seq->n_ring = SHOAL_MIN(paged(pool, n_blocks), pool->ring);
    seq->n_open = n_blocks > 0 ? pool->n_open : 0;
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        bool is_windowed = pool->layers[layer].window > 0;
        for (size_t b = 0; b < n_blocks; b++) {
            if (is_windowed && b >= pool->n_sink && b < n_blocks - seq->n_ring) {
                continue;
            }
            run held = kept_run(seq, layer, b);
            for (size_t i = 0; i < held.n; i++) {
                held.pages[i] = pages[b * shoal_kv_pool_block_entries(pool) + layer * n_each + i];
                page_ref(pool, held.pages[i]);
            }
        }
    }
    shoal_kv_seq_advance_blocks(seq, n_blocks * BLOCK);
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
    size_t n_fit = seq->n_blocks * BLOCK;
    if (pool->shape.evict && n_fit == pool->shape.budget) {
        n_fit = pool->n_ctx_max;
    }
    shoal_kv_need need = {.n_rows_held = n_fit - seq->length};
    size_t from = seq->whole / BLOCK;
    size_t end = SHOAL_MIN(seq->length / BLOCK + 1, seq->n_blocks);
    /* Rows of a second block write the other open one. */
    need.n_pages_copy = count_shared(seq, from, end) + count_shared_open(seq, from, from + 3) +
                        (OPEN_BLOCKS * pool->n_open - seq->n_open) * pool->shape.n_layers;
    need.n_pages_block = pool->n_pages_full;
    if (seq->n_ring < pool->ring) {
        need.n_pages_block = pool->n_pages_full + pool->n_pages_windowed;
    }
    for (size_t i = 0; i < seq->n_open; i++) {
        need.n_pages_given +=
            pool->shape.n_layers * held_alone(pool, seq->pages[pool->layers[0].open + i]);
    }
    need.n_pages_held = pool->shape.n_layers * seq->n_open;
    /* All full layers share the same blocks, and all windowed ones do: one of each is looked at. */
    bool seen[2] = {false, false};
    for (size_t layer = 0; layer < pool->shape.n_layers; layer++) {
        bool is_windowed = pool->layers[layer].window > 0;
        if (seen[is_windowed]) {
            continue;
        }
        seen[is_windowed] = true;
        const uint32_t *pages = seq->pages + pool->layers[layer].at;
        size_t stride = pool->layers[layer].n_pages; /* a block's pages are held by the same */
        size_t n = is_windowed ? seq->n_ring : paged(pool, seq->n_blocks);
        size_t n_like = is_windowed ? pool->n_pages_windowed : pool->n_pages_full;
        size_t n_alone = 0;
        bool shared = false;
        for (size_t i = 0; i < n; i++) {
            n_alone += held_alone(pool, pages[i * stride]);
            shared = shared || pool->refs[pages[i * stride]] > 1;
        }
        need.n_pages_given += n_alone * n_like;
        need.n_pages_held += n * n_like;
        if (is_windowed && shared) {
            /* Where the ring goes round, a shared page is replaced. */
            need.n_pages_block = pool->n_pages_full + pool->n_pages_windowed;
        }
    }
    return need;
}
