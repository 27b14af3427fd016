/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages that several sequences hold: forks, blocks kept outside sequences, copy on write. At the
 * end random moves against a model in which every sequence has a memory of its own.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv.h"

#include <stdalign.h>
#include <string.h>

enum {
    N_CTX = 400,
    SLACK = 100, /* of a step, and of a ring */
    K_DIM = 4,
    V_DIM = 32,
    HEADS = 4,
    N_SEQS = 6,
    N_KEPT = 8,
    ENTRIES_MAX = 32 /* pages of a kept block */
};

/* Each layer has a type of its own. */
#define MIXED ((shoal_kv_type)SHOAL_KV_TYPES)

static const size_t no_windows[] = {0, 0};
static const size_t some_windows[] = {0, 50, 20};
/* Of the first a block takes two pages, so that of the second need not waste half of one. */
static const shoal_kv_type mixed[] = {SHOAL_KV_K8V8, SHOAL_KV_K3V3, SHOAL_KV_K4V8};

static shoal_kv_shape shape_of(bool windowed, shoal_kv_type type)
{
    return (shoal_kv_shape){.n_layers = windowed ? 3 : 2,
                            .n_kv_heads = HEADS,
                            .k_dim = K_DIM,
                            .v_dim = V_DIM,
                            .type = type == MIXED ? mixed[0] : type,
                            .types = type == MIXED ? mixed : NULL,
                            .windows = windowed ? some_windows : no_windows};
}

static shoal_kv_pool *pool_of(bool windowed, shoal_kv_type type, size_t n_pages, size_t slack)
{
    shoal_kv_shape shape = shape_of(windowed, type);
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, n_pages, N_CTX, slack, &pool, NULL), SHOAL_OK);
    return pool;
}

static shoal_kv_pool *pool_new(bool windowed, size_t n_pages)
{
    return pool_of(windowed, SHOAL_KV_F32, n_pages, 40);
}

static shoal_kernels the_kernels;

/* A sequence, and what it should hold: the stamp of each token. */
typedef struct twin {
    shoal_kv_seq *seq;
    size_t n;
    bool own; /* its last 33 tokens were stored by one step */
    uint32_t stamps[N_CTX];
} twin;

/* Eleven bits of noise: what f16 holds. */
static float value_of(uint32_t stamp, size_t layer, size_t i)
{
    uint64_t rng = (uint64_t)stamp << 32 | layer << 16 | i;
    return (float)(shoal_rng_next(&rng) % 2048) / 1024.0F - 1.0F;
}

/* One head's K and V of a token. */
static void fill(uint32_t stamp, size_t layer, size_t head, float *ret_k, float *ret_v)
{
    for (size_t i = 0; i < K_DIM; i++) {
        ret_k[i] = value_of(stamp, layer, head * K_DIM + i);
    }
    for (size_t i = 0; i < V_DIM; i++) {
        ret_v[i] = value_of(stamp, layer, 1000 + head * V_DIM + i);
    }
}

/* Appends tokens with stamps from stamp on, a layer after the other as a step does. */
static shoal_status append(twin *t, size_t n, uint32_t stamp)
{
    const size_t n_layers = shoal_kv_seq_shape(t->seq)->n_layers;
    SHOAL_TRY(shoal_kv_seq_reserve(t->seq, t->n + n));
    for (size_t layer = 0; layer < n_layers; layer++) {
        shoal_kv_open(t->seq, layer, t->n);
        for (size_t p = t->n; p < t->n + n; p++) {
            float k[HEADS * K_DIM];
            float v[HEADS * V_DIM];
            t->stamps[p] = stamp + (uint32_t)(p - t->n);
            for (size_t head = 0; head < HEADS; head++) {
                fill(t->stamps[p], layer, head, k + head * K_DIM, v + head * V_DIM);
            }
            shoal_kv_store(&the_kernels, t->seq, layer, p, k, v);
        }
        for (size_t p = t->n; p < t->n + n; p++) {
            if (shoal_kv_fills(t->seq, p)) {
                shoal_kv_seal(&the_kernels, t->seq, layer, p);
            }
        }
    }
    t->n += n;
    t->own = n > 32;
    shoal_kv_seq_advance(t->seq, t->n);
    return SHOAL_OK;
}

/* Bytes of a block in which its first n tokens are stored, by nothing but kernels. */
typedef struct image {
    alignas(64) uint8_t k[K_DIM * 32 * 4], v[V_DIM * 32 * 4];
} image;

static void draw_image(const twin *t, size_t layer, size_t head, size_t block, size_t n, image *ret)
{
    const shoal_kv_type type = shoal_kv_seq_shape(t->seq)->type;
    memset(ret, 0, sizeof(*ret));
    for (size_t slot = 0; slot < n; slot++) {
        float k[K_DIM];
        float v[V_DIM];
        fill(t->stamps[block * 32 + slot], layer, head, k, v);
        (type == SHOAL_KV_F32 ? the_kernels.kv_store_f32
                              : the_kernels.kv_store_f16)(K_DIM, V_DIM, k, v, slot, ret->k, ret->v);
    }
}

/* A full block as it is kept: of a sealed type codes, but for the first. */
static void check_full(const twin *t, size_t layer, size_t head, size_t block)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(t->seq);
    image want;
    image codes = {.k = {0}};
    shoal_kv_level k_level = SHOAL_KV_LEVEL_Q8;
    shoal_kv_level v_level = SHOAL_KV_LEVEL_Q8;
    size_t n_k = 0;
    size_t n_v = 0;
    draw_image(t, layer, head, block, 32, &want);
    shoal_kv_type type = shoal_kv_layer_type(shape, layer);
    if (shoal_kv_type_sealed(type, &k_level, &v_level) && block > 0) {
        the_kernels.kv_seal(k_level, K_DIM, 32, (const uint16_t *)(const void *)want.k, codes.k);
        the_kernels.kv_seal(v_level, 32, V_DIM, (const uint16_t *)(const void *)want.v, codes.v);
        want = codes;
    }
    shoal_kv_part_bytes(shape, layer, block, &n_k, &n_v);
    assert_true(n_k <= sizeof(want.k) && n_v <= sizeof(want.v));
    shoal_kv_part have = shoal_kv_block_part(t->seq, layer, block, head);
    assert_memory_equal(have.k, want.k, n_k);
    assert_memory_equal(have.v, want.v, n_v);
}

/* The tokens of the block under way. */
static void check_open(const twin *t, size_t layer, size_t head, const uint8_t *k, const uint8_t *v)
{
    image want;
    size_t n = t->n % 32;
    size_t size = shoal_kv_seq_shape(t->seq)->type == SHOAL_KV_F32 ? 4 : 2;
    draw_image(t, layer, head, t->n / 32, n, &want);
    for (size_t d = 0; d < K_DIM; d++) {
        assert_memory_equal(k + d * 32 * size, want.k + d * 32 * size, n * size);
    }
    assert_memory_equal(v, want.v, n * V_DIM * size);
}

/* Everything the next row sees is what was stored, byte for byte. */
static void check(const twin *t)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(t->seq);
    const void *kb[N_CTX / 32 + 1];
    const void *vb[N_CTX / 32 + 1];
    assert_int_equal(shoal_kv_seq_length(t->seq), t->n);
    for (size_t layer = 0; layer < shape->n_layers && t->n > 0; layer++) {
        size_t first = shoal_kv_first(t->seq, layer, t->n + 1);
        for (size_t head = 0; head < HEADS; head++) {
            for (size_t block = first / 32; block < t->n / 32; block++) {
                check_full(t, layer, head, block);
            }
            if (t->n % 32 > 0) {
                shoal_kv_blocks(t->seq, layer, head, first, t->n, kb, vb);
                size_t last = t->n / 32 - first / 32;
                check_open(t, layer, head, kb[last], vb[last]);
            }
        }
    }
}

static void fork_to(const twin *from, size_t n, twin *to)
{
    *to = *from;
    to->n = n;
    assert_int_equal(shoal_kv_seq_fork(from->seq, n, &to->seq), SHOAL_OK);
}

static void test_fork_at_block_borders_takes_a_page_when_written(void **state)
{
    (void)state;
    for (size_t n = 31; n <= 33; n++) {
        shoal_kv_pool *pool = pool_new(false, 20);
        twin a = {.n = 0};
        twin b;
        assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
        assert_int_equal(append(&a, 40, 1), SHOAL_OK);
        fork_to(&a, n, &b);
        assert_int_equal(shoal_kv_pool_n_free(pool), 16);
        check(&b);
        shoal_kv_need need = shoal_kv_seq_need(b.seq);
        assert_int_equal(need.n_rows_held, n == 31 ? 1 : n == 32 ? 0 : 31);
        assert_int_equal(need.n_pages_copy, n == 32 ? 0 : 2);
        assert_int_equal(need.n_pages_block, 2);
        assert_int_equal(need.n_pages_given, 0);
        /* One row: the block of it is copied where it is begun, else new. */
        assert_int_equal(append(&b, 1, 100), SHOAL_OK);
        assert_int_equal(shoal_kv_pool_n_free(pool), 14);
        assert_int_equal(shoal_kv_seq_need(b.seq).n_pages_given, 2);
        check(&a);
        check(&b);
        /* The first one writes its last block: since the fork has its own or none, in place; but
         * at 33 tokens it is the fork's copy that left it alone. */
        assert_int_equal(append(&a, 1, 200), SHOAL_OK);
        assert_int_equal(shoal_kv_pool_n_free(pool), 14);
        check(&a);
        check(&b);
        shoal_kv_seq_free(a.seq);
        check(&b);
        shoal_kv_seq_free(b.seq);
        assert_int_equal(shoal_kv_pool_n_free(pool), 20);
        shoal_kv_pool_free(pool);
    }
}

static void test_copy_without_a_free_page_is_busy_and_changes_nothing(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false, 5);
    twin a = {.n = 0};
    twin b;
    assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
    assert_int_equal(append(&a, 40, 1), SHOAL_OK);
    fork_to(&a, 40, &b);
    assert_int_equal(append(&b, 1, 100), SHOAL_BUSY);
    assert_int_equal(shoal_kv_pool_n_free(pool), 1);
    check(&a);
    check(&b);
    shoal_kv_seq_free(a.seq);
    assert_int_equal(append(&b, 1, 100), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_n_free(pool), 1);
    check(&b);
    shoal_kv_seq_free(b.seq);
    shoal_kv_pool_free(pool);
}

static void test_fork_past_its_limits_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(true, 40);
    twin a = {.n = 0};
    twin b;
    assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(append(&a, 40, 1 + i * 40), SHOAL_OK);
    }
    size_t floor = shoal_kv_seq_floor(a.seq);
    assert_true(floor > 0 && floor <= 280);
    assert_int_equal(shoal_kv_seq_fork(a.seq, 321, &b.seq), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_fork(a.seq, floor - 1, &b.seq), SHOAL_E_LIMIT);
    fork_to(&a, floor, &b);
    check(&b);
    /* Both go on over the same ring. */
    assert_int_equal(append(&b, 40, 1000), SHOAL_OK);
    assert_int_equal(append(&a, 40, 2000), SHOAL_OK);
    assert_int_equal(append(&b, 40, 3000), SHOAL_OK);
    check(&a);
    check(&b);
    shoal_kv_seq_free(a.seq);
    shoal_kv_seq_free(b.seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), 40);
    shoal_kv_pool_free(pool);
}

static void test_kept_blocks_outlive_and_begin_sequences(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false, 12);
    twin a = {.n = 0};
    twin b = {.n = 0};
    uint32_t pages[2][2];
    assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
    assert_int_equal(append(&a, 40, 1), SHOAL_OK);
    assert_int_equal(append(&a, 23, 41), SHOAL_OK);
    assert_int_equal(shoal_kv_block_keep(a.seq, 0, pages[0]), SHOAL_OK);
    assert_int_equal(shoal_kv_block_keep(a.seq, 1, pages[1]), SHOAL_E_LIMIT); /* 63 tokens */
    assert_int_equal(append(&a, 1, 64), SHOAL_OK);
    assert_int_equal(shoal_kv_block_keep(a.seq, 1, pages[1]), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_need(a.seq).n_pages_given, 4);
    assert_int_equal(shoal_kv_pool_n_kept(pool), 0);
    b.n = 64;
    memcpy(b.stamps, a.stamps, sizeof(b.stamps));
    shoal_kv_seq_free(a.seq);
    assert_int_equal(shoal_kv_pool_n_kept(pool), 4);
    assert_int_equal(shoal_kv_pool_n_free(pool), 8);
    assert_int_equal(shoal_kv_seq_new(pool, &b.seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_adopt(b.seq, pages[0], N_CTX / 32 + 1), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_adopt(b.seq, pages[0], 2), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_n_kept(pool), 0);
    assert_int_equal(shoal_kv_pool_n_free(pool), 8);
    check(&b);
    /* Written anew from within the kept block: that stays as it is. */
    b.n = 50;
    assert_int_equal(shoal_kv_seq_truncate(b.seq, 50), 50);
    assert_int_equal(append(&b, 20, 500), SHOAL_OK);
    check(&b);
    twin c = {.n = 0};
    assert_int_equal(shoal_kv_seq_new(pool, &c.seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_adopt(c.seq, pages[0], 2), SHOAL_OK);
    c.n = 64;
    for (uint32_t i = 0; i < 64; i++) {
        c.stamps[i] = 1 + i;
    }
    check(&c);
    shoal_kv_block_drop(pool, pages[0]);
    shoal_kv_block_drop(pool, pages[1]);
    check(&b);
    check(&c);
    shoal_kv_seq_free(b.seq);
    shoal_kv_seq_free(c.seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), 12);
    assert_int_equal(shoal_kv_pool_n_kept(pool), 0);
    shoal_kv_pool_free(pool);
}

/* What one step may open, all its sequences together, is the pool's slack. */
static void test_blocks_opened_at_once_are_bounded(void **state)
{
    (void)state;
    enum {
        N_BLOCKS = 3 /* of the slack */
    };
    shoal_kv_pool *pool = pool_of(false, SHOAL_KV_K8V8, 512, 32 * N_BLOCKS);
    twin a = {.n = 0};
    twin b = {.n = 0};
    assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &b.seq), SHOAL_OK);
    /* From the middle of a block on: four blocks, all but the newest and the one before it count.
     */
    assert_int_equal(append(&a, 16, 1), SHOAL_OK);
    assert_int_equal(append(&b, 16, 1000), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(a.seq, 16 + 32 * N_BLOCKS), SHOAL_OK);
    size_t n_free = shoal_kv_pool_n_free(pool);
    assert_int_equal(shoal_kv_seq_reserve(b.seq, 16 + 32 * N_BLOCKS), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_pool_n_free(pool), n_free);
    assert_int_equal(append(&a, 32 * N_BLOCKS, 2), SHOAL_OK);
    /* That step is over: there is room again, and just enough for three blocks. */
    assert_int_equal(append(&b, 32 * N_BLOCKS, 1001), SHOAL_OK);
    check_full(&a, 0, 0, 1);
    check_full(&b, 0, 0, 1);
    assert_int_equal(shoal_kv_seq_reserve(a.seq, a.n + 32 * N_BLOCKS), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(b.seq, b.n + 32 * N_BLOCKS), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_reserve(b.seq, b.n + 32 * (N_BLOCKS - 1)), SHOAL_OK);
    shoal_kv_seq_free(a.seq);
    shoal_kv_seq_free(b.seq);
    shoal_kv_pool_free(pool);
}

static void test_failing_allocations_of_a_fork(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false, 12);
    twin a = {.n = 0};
    assert_int_equal(shoal_kv_seq_new(pool, &a.seq), SHOAL_OK);
    assert_int_equal(append(&a, 40, 1), SHOAL_OK);
    for (uint64_t i = 0; i < 2; i++) {
        shoal_kv_seq *seq = NULL;
        shoal_mem_fail_at(i);
        assert_int_equal(shoal_kv_seq_fork(a.seq, 40, &seq), SHOAL_E_NOMEM);
        shoal_mem_fail_at(UINT64_MAX);
        assert_null(seq);
        assert_int_equal(shoal_kv_seq_need(a.seq).n_pages_given, 4);
    }
    shoal_kv_seq_free(a.seq);
    shoal_kv_pool_free(pool);
}

/* --- random moves ----------------------------------------------------------------------------- */

/* A chain of kept blocks from position 0 on. */
typedef struct keeper {
    uint32_t pages[N_KEPT][ENTRIES_MAX];
    uint32_t stamps[N_KEPT * 32];
    size_t n;
} keeper;

typedef struct world {
    shoal_kv_pool *pool;
    size_t n_layers;
    size_t n_entries; /* of a kept block's pages */
    bool sealed;
    twin twins[N_SEQS];
    keeper kept;
    uint32_t stamp;
    uint64_t rng;
} world;

static size_t draw(world *w, size_t n)
{
    return (size_t)(shoal_rng_next(&w->rng) % n);
}

/* Extends the kept chain from a sequence that continues it in pages not kept yet. */
static void move_keep(world *w, const twin *t)
{
    keeper *k = &w->kept;
    if (k->n == N_KEPT || t->n < (k->n + 1) * 32 ||
        memcmp(k->stamps, t->stamps, k->n * 32 * sizeof(uint32_t)) != 0) {
        return;
    }
    uint32_t pages[ENTRIES_MAX];
    shoal_status status = shoal_kv_block_keep(t->seq, k->n, pages);
    if (status == SHOAL_OK) {
        memcpy(k->pages[k->n], pages, sizeof(pages));
        memcpy(k->stamps + k->n * 32, t->stamps + k->n * 32, 32 * sizeof(uint32_t));
        k->n++;
    } else {
        assert_int_equal(status, SHOAL_E_LIMIT);
        assert_int_equal(w->n_layers, 3);
    }
}

static void move_drop(world *w)
{
    if (w->kept.n > 0) {
        shoal_kv_block_drop(w->pool, w->kept.pages[--w->kept.n]);
    }
}

static void move_adopt(world *w, twin *t)
{
    uint32_t pages[N_KEPT * ENTRIES_MAX];
    size_t n = draw(w, w->kept.n + 1);
    (void)shoal_kv_seq_truncate(t->seq, 0);
    for (size_t b = 0; b < n; b++) {
        memcpy(pages + b * w->n_entries, w->kept.pages[b], w->n_entries * sizeof(uint32_t));
    }
    assert_int_equal(shoal_kv_seq_adopt(t->seq, pages, n), SHOAL_OK);
    memcpy(t->stamps, w->kept.stamps, n * 32 * sizeof(uint32_t));
    t->n = n * 32;
    t->own = false;
}

static void move_fork(world *w, const twin *from, twin *to)
{
    size_t n = draw(w, from->n + 1);
    shoal_kv_seq *seq = NULL;
    if (from == to) {
        return;
    }
    shoal_status status = shoal_kv_seq_fork(from->seq, n, &seq);
    if (status != SHOAL_OK) {
        assert_int_equal(status, SHOAL_E_LIMIT);
        assert_true(n < shoal_kv_seq_floor(from->seq) || (w->sealed && n % 32 > 0));
        return;
    }
    shoal_kv_seq_free(to->seq);
    *to = *from;
    to->seq = seq;
    to->own = to->own && to->n == n;
    to->n = n;
}

static void move_append(world *w, twin *t)
{
    size_t n = 1 + draw(w, SLACK);
    n = SHOAL_MIN(n, N_CTX - t->n);
    shoal_kv_need need = shoal_kv_seq_need(t->seq);
    size_t n_free = shoal_kv_pool_n_free(w->pool);
    size_t beyond = n - SHOAL_MIN(n, need.n_rows_held);
    size_t n_most = need.n_pages_copy + (beyond + 31) / 32 * need.n_pages_block;
    shoal_status status = append(t, n, w->stamp);
    w->stamp += 50;
    if (status == SHOAL_OK) {
        assert_true(n_free - shoal_kv_pool_n_free(w->pool) <= n_most);
    } else {
        assert_int_equal(status, SHOAL_BUSY);
        assert_true(n_most > n_free);
        assert_int_equal(shoal_kv_pool_n_free(w->pool), n_free);
    }
}

static void move_truncate(world *w, twin *t)
{
    size_t n = draw(w, 3) == 0 ? draw(w, t->n + 1) : t->n - draw(w, SHOAL_MIN(t->n, 40u) + 1);
    bool is_open = !w->sealed || n % 32 == 0 || n < 32 || (t->own && t->n - n <= 32);
    t->own = false;
    t->n = shoal_kv_seq_truncate(t->seq, n);
    assert_true(t->n == n || (t->n == 0 && w->n_layers == 3) || (t->n == n / 32 * 32 && !is_open));
}

/* Given up by a sequence: what becomes free or only kept is what was promised. */
static void move_empty(world *w, twin *t)
{
    size_t n_given = shoal_kv_seq_need(t->seq).n_pages_given;
    size_t n_before = shoal_kv_pool_n_free(w->pool) + shoal_kv_pool_n_kept(w->pool);
    t->n = shoal_kv_seq_truncate(t->seq, 0);
    assert_int_equal(t->n, 0);
    size_t n_after = shoal_kv_pool_n_free(w->pool) + shoal_kv_pool_n_kept(w->pool);
    assert_int_equal(n_after - n_before, n_given);
}

static void walk(uint64_t seed, bool windowed, shoal_kv_type type, size_t n_pages)
{
    static world w;
    memset(&w, 0, sizeof(w));
    w.rng = seed;
    w.stamp = 1;
    w.n_layers = windowed ? 3 : 2;
    w.pool = pool_of(windowed, type, n_pages, SLACK);
    w.n_entries = shoal_kv_pool_block_entries(w.pool);
    w.sealed = type >= SHOAL_KV_K8V8;
    assert_true(w.n_entries <= ENTRIES_MAX);
    for (size_t i = 0; i < N_SEQS; i++) {
        assert_int_equal(shoal_kv_seq_new(w.pool, &w.twins[i].seq), SHOAL_OK);
    }
    size_t n_each = shoal_kv_seq_need(w.twins[0].seq).n_pages_block;
    assert_true(type == MIXED ? n_each > w.n_layers : n_each == w.n_layers);
    for (size_t s = 0; s < 1000; s++) {
        twin *t = &w.twins[draw(&w, N_SEQS)];
        size_t move = draw(&w, 20);
        if (move < 9) {
            move_append(&w, t);
        } else if (move < 12) {
            move_truncate(&w, t);
        } else if (move < 14) {
            move_fork(&w, t, &w.twins[draw(&w, N_SEQS)]);
        } else if (move < 17) {
            move_keep(&w, t);
        } else if (move == 17) {
            move_drop(&w);
        } else if (move == 18) {
            move_adopt(&w, t);
        } else {
            move_empty(&w, t);
        }
        check(t);
        check(&w.twins[draw(&w, N_SEQS)]);
    }
    for (size_t i = 0; i < N_SEQS; i++) {
        check(&w.twins[i]);
        shoal_kv_seq_free(w.twins[i].seq);
    }
    size_t n_kept = w.kept.n * n_each;
    n_kept += w.kept.n > 0 ? w.n_entries - n_each : 0; /* the first block may be larger */
    assert_int_equal(shoal_kv_pool_n_kept(w.pool), n_kept);
    while (w.kept.n > 0) {
        move_drop(&w);
    }
    assert_int_equal(shoal_kv_pool_n_free(w.pool), n_pages);
    shoal_kv_pool_free(w.pool);
}

static void test_random_moves_keep_every_sequence_apart(void **state)
{
    (void)state;
    static const shoal_kv_type sealed[] = {SHOAL_KV_K4V4, SHOAL_KV_K8V8, SHOAL_KV_K3V8};
    for (uint64_t seed = 1; seed <= 14; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        walk(seed, seed % 2 == 0, SHOAL_KV_F32, 60);
        walk(seed, seed % 2 == 0, sealed[seed % SHOAL_COUNT(sealed)], 250);
        walk(seed, seed % 2 == 0, MIXED, 450);
    }
}

int main(void)
{
    shoal_kernels_init(&the_kernels, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork_at_block_borders_takes_a_page_when_written),
        cmocka_unit_test(test_copy_without_a_free_page_is_busy_and_changes_nothing),
        cmocka_unit_test(test_fork_past_its_limits_is_refused),
        cmocka_unit_test(test_kept_blocks_outlive_and_begin_sequences),
        cmocka_unit_test(test_blocks_opened_at_once_are_bounded),
        cmocka_unit_test(test_failing_allocations_of_a_fork),
        cmocka_unit_test(test_random_moves_keep_every_sequence_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
