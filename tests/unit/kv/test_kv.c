/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv.h"

#include <stdio.h>
#include <string.h>

enum {
    N_CTX = 200,
    SLACK = 20,
    N_LAYERS = 2,
    N_PAGES = 5 * N_LAYERS
};

static const shoal_kv_shape shape = {
    .n_layers = 2, .n_kv_heads = 3, .k_dim = 8, .v_dim = 8, .type = SHOAL_KV_F32};

static int setup(void **state)
{
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, N_PAGES, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    *state = pool;
    return 0;
}

static int teardown(void **state)
{
    shoal_kv_pool_free(*state);
    return 0;
}

static void test_reserve_at_page_borders_takes_whole_pages(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    const struct {
        size_t n_tokens;
        size_t n_used;
    } rows[] = {{0, 0}, {1, 1}, {31, 1}, {32, 1}, {33, 2}, {64, 2}, {65, 3}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        assert_int_equal(shoal_kv_seq_reserve(seq, rows[i].n_tokens), SHOAL_OK);
        assert_int_equal(N_PAGES - shoal_kv_pool_n_free(pool), N_LAYERS * rows[i].n_used);
    }
    shoal_kv_seq_free(seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
}

static void test_reserve_beyond_the_pool_is_busy_and_changes_nothing(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kv_seq *a = NULL;
    shoal_kv_seq *b = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &a), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &b), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(a, 100), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(b, 32), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_n_free(pool), 0);
    assert_int_equal(shoal_kv_seq_reserve(b, 33), SHOAL_BUSY);
    assert_int_equal(shoal_kv_seq_reserve(b, 32), SHOAL_OK);
    (void)shoal_kv_seq_truncate(a, 64);
    assert_int_equal(shoal_kv_pool_n_free(pool), 2 * N_LAYERS);
    assert_int_equal(shoal_kv_seq_reserve(b, 33), SHOAL_OK);
    shoal_kv_seq_free(a);
    shoal_kv_seq_free(b);
}

static void test_reserve_at_the_context_limit_is_refused_past_it(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, 64, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX - 1), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX + 1), SHOAL_E_LIMIT);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
}

/* Every position's K and V is found where the layout says, and in no other place. */
static void test_store_then_blocks_finds_each_value(void **state)
{
    shoal_kv_pool *pool = *state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    enum {
        N = 70
    };
    assert_int_equal(shoal_kv_seq_reserve(seq, N), SHOAL_OK);
    float k[3 * 8];
    float v[3 * 8];
    for (size_t layer = 0; layer < 2; layer++) {
        for (size_t p = 0; p < N; p++) {
            for (size_t i = 0; i < 24; i++) {
                k[i] = (float)(layer * 100000 + p * 100 + i);
                v[i] = -k[i];
            }
            shoal_kv_store(&kernels, seq, layer, p, k, v);
        }
    }
    shoal_kv_seq_advance(seq, N);
    const void *kb[3];
    const void *vb[3];
    for (size_t layer = 0; layer < 2; layer++) {
        for (size_t head = 0; head < 3; head++) {
            shoal_kv_blocks(seq, layer, head, 0, N, kb, vb);
            for (size_t p = 0; p < N; p++) {
                for (size_t d = 0; d < 8; d++) {
                    float want = (float)(layer * 100000 + p * 100 + head * 8 + d);
                    assert_true(((const float *)kb[p / 32])[d * 32 + p % 32] == want);
                    assert_true(((const float *)vb[p / 32])[p % 32 * 8 + d] == -want);
                }
            }
        }
    }
    (void)shoal_kv_seq_truncate(seq, 33);
    assert_int_equal(shoal_kv_seq_length(seq), 33);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES - 2 * N_LAYERS);
    shoal_kv_seq_free(seq);
}

static void test_new_with_odd_shapes_or_no_pages_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_kv_shape odd = shape;
    odd.k_dim = 7;
    assert_int_equal(shoal_kv_pool_new(&odd, 4, 64, SLACK, &pool, &err), SHOAL_E_INVALID);
    odd.k_dim = 8;
    odd.v_dim = SHOAL_HEAD_DIM_MAX + 2;
    assert_int_equal(shoal_kv_pool_new(&odd, 4, 64, SLACK, &pool, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_kv_pool_new(&shape, 0, 64, SLACK, &pool, NULL), SHOAL_E_LIMIT);
    assert_null(pool);
}

static void test_hadamard_is_for_powers_of_two(void **state)
{
    (void)state;
    static const size_t dims[] = {2, 4, 6, 24, 62, 64, 66, 256, 512, 576};
    for (size_t i = 0; i < SHOAL_COUNT(dims); i++) {
        for (size_t is_v = 0; is_v < 2; is_v++) {
            shoal_kv_pool *pool = NULL;
            shoal_err err = SHOAL_ERR_INIT;
            shoal_kv_shape of = {.n_layers = 1,
                                 .n_kv_heads = 1,
                                 .k_dim = is_v ? 8 : dims[i],
                                 .v_dim = is_v ? dims[i] : 8,
                                 .type = SHOAL_KV_K4V4};
            assert_int_equal(shoal_kv_pool_new(&of, 4, 64, SLACK, &pool, NULL), SHOAL_OK);
            shoal_kv_pool_free(pool);
            pool = NULL;
            of.hadamard = true;
            if (__builtin_popcountll(dims[i]) == 1) {
                assert_int_equal(shoal_kv_pool_new(&of, 4, 64, SLACK, &pool, NULL), SHOAL_OK);
                assert_true(shoal_kv_pool_shape(pool)->hadamard);
                shoal_kv_pool_free(pool);
                continue;
            }
            char want[64];
            (void)snprintf(want, sizeof want, "heads of %zu and %zu channels", of.k_dim, of.v_dim);
            assert_int_equal(shoal_kv_pool_new(&of, 4, 64, SLACK, &pool, &err), SHOAL_E_INVALID);
            assert_non_null(strstr(err.text, want));
            assert_null(pool);
        }
    }
}

/* A pool and a sequence, the n-th allocation failing first; how many there are. */
static uint64_t count_allocations(const shoal_kv_shape *of)
{
    for (uint64_t i = 0;; i++) {
        shoal_kv_pool *pool = NULL;
        shoal_kv_seq *seq = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_kv_pool_new(of, 64, 128, 4 * SHOAL_KV_BLOCK, &pool, NULL);
        if (status == SHOAL_OK) {
            status = shoal_kv_seq_new(pool, &seq);
        }
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(pool != NULL || status != SHOAL_OK);
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
        if (status == SHOAL_OK) {
            return i;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    shoal_kv_shape sealed = shape;
    sealed.type = SHOAL_KV_K4V3;
    uint64_t n_plain = count_allocations(&shape);
    assert_true(n_plain >= 4);
    /* Open blocks of a step that fills several have memory of their own. */
    assert_int_equal(count_allocations(&sealed), n_plain + 1);
}

/* --- windows ---------------------------------------------------------------------------------- */

enum {
    WINDOW = 40,
    RING = 3, /* ceil((WINDOW + SLACK) / 32) + 1 */
    W_CTX = 700
};

static const size_t windows[] = {0, WINDOW, 10};
static const shoal_kv_shape windowed = {.n_layers = 3,
                                        .n_kv_heads = 1,
                                        .k_dim = 2,
                                        .v_dim = 4,
                                        .type = SHOAL_KV_F32,
                                        .windows = windows};

static void test_windowed_layers_hold_a_ring_and_no_more(void **state)
{
    (void)state;
    const struct {
        size_t n_tokens;
        size_t n_pages;
    } rows[] = {{1, 3}, {32, 3}, {33, 6}, {96, 9}, {97, 4 + 2 * RING}, {W_CTX, 22 + 2 * RING}};
    shoal_kv_pool *pool = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_pool_new(&windowed, 28, W_CTX, SLACK, &pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_tokens_max(pool), W_CTX);
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    size_t n = 0;
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        while (n < rows[i].n_tokens) {
            n = SHOAL_MIN(n + SLACK, rows[i].n_tokens);
            assert_int_equal(shoal_kv_seq_reserve(seq, n), SHOAL_OK);
            shoal_kv_seq_advance(seq, n);
        }
        assert_int_equal(28 - shoal_kv_pool_n_free(pool), rows[i].n_pages);
        assert_int_equal(shoal_kv_pool_pages_for(pool, n), rows[i].n_pages);
        assert_int_equal(shoal_kv_pages_for(&windowed, SLACK, n), rows[i].n_pages);
    }
    assert_int_equal(shoal_kv_seq_truncate(seq, 0), 0);
    assert_int_equal(shoal_kv_pool_n_free(pool), 28);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
    assert_int_equal(shoal_kv_pool_new(&windowed, 27, W_CTX, SLACK, &pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_pool_tokens_max(pool), 21 * 32);
    shoal_kv_pool_free(pool);
}

static void test_reserve_of_more_than_the_slack_is_refused_with_a_window(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_pool_new(&windowed, 64, W_CTX, SLACK, &pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, SLACK - 1), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, SLACK), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, SLACK + 1), SHOAL_E_LIMIT);
    /* What some layer lacks counts as new until it has it. */
    shoal_kv_seq_advance_part(seq, SLACK, SLACK - 5);
    assert_int_equal(shoal_kv_seq_reserve(seq, 2 * SLACK - 5), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, 2 * SLACK - 4), SHOAL_E_LIMIT);
    shoal_kv_seq_advance(seq, SLACK);
    assert_int_equal(shoal_kv_seq_whole(seq), SLACK);
    assert_int_equal(shoal_kv_seq_reserve(seq, 2 * SLACK), SHOAL_OK);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
}

/* A sequence whose every position knows which text it belongs to. */
typedef struct walker {
    shoal_kernels kernels;
    shoal_kv_seq *seq;
    size_t length;
    size_t high; /* greatest length since empty */
    size_t version;
    size_t versions[W_CTX];
} walker;

static void store_rows(walker *w, size_t n)
{
    assert_int_equal(shoal_kv_seq_reserve(w->seq, w->length + n), SHOAL_OK);
    w->version++;
    for (size_t p = w->length; p < w->length + n; p++) {
        w->versions[p] = w->version;
        for (size_t layer = 0; layer < windowed.n_layers; layer++) {
            float k[2] = {(float)w->version, (float)p};
            float v[4] = {(float)w->version, (float)layer, (float)p, 0};
            shoal_kv_store(&w->kernels, w->seq, layer, p, k, v);
        }
    }
}

/* Every row of a step finds all it sees after all of them were stored. */
static void check_rows(const walker *w, size_t n)
{
    const void *kb[W_CTX / 32 + 1];
    const void *vb[W_CTX / 32 + 1];
    for (size_t layer = 0; layer < windowed.n_layers; layer++) {
        for (size_t end = w->length + 1; end <= w->length + n; end++) {
            size_t first = shoal_kv_first(w->seq, layer, end);
            assert_int_equal(end - first, windows[layer] ? SHOAL_MIN(end, windows[layer]) : end);
            shoal_kv_blocks(w->seq, layer, 0, first, end, kb, vb);
            for (size_t p = first; p < end; p++) {
                const float *k = kb[p / 32 - first / 32];
                const float *v = vb[p / 32 - first / 32];
                assert_true(k[p % 32] == (float)w->versions[p] && k[32 + p % 32] == (float)p);
                v += p % 32 * 4;
                assert_true(v[0] == (float)w->versions[p] && v[1] == (float)layer);
            }
        }
    }
}

/* Back to n tokens, which is exact within the slack, and else exact or nothing, as floor says. */
static void walk_back(walker *w, size_t n)
{
    size_t floor = shoal_kv_seq_floor(w->seq);
    size_t left = shoal_kv_seq_truncate(w->seq, n);
    assert_int_equal(left, n >= floor ? n : 0);
    assert_true(left == n || w->high - n > SLACK);
    assert_int_equal(shoal_kv_seq_length(w->seq), left);
    w->length = left;
    w->high = left == 0 ? 0 : w->high;
}

static void test_ring_keeps_what_every_row_sees_on_a_random_walk(void **state)
{
    (void)state;
    shoal_kv_pool *pool = NULL;
    static walker w;
    shoal_kernels_init(&w.kernels, 0);
    assert_int_equal(shoal_kv_pool_new(&windowed, 28, W_CTX, SLACK, &pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &w.seq), SHOAL_OK);
    uint64_t rng = 20261125;
    size_t n_lost = 0;
    for (size_t step = 0; step < 1500; step++) {
        size_t n = 1 + shoal_rng_next(&rng) % SLACK;
        if (w.length + n > W_CTX) {
            walk_back(&w, 0);
        }
        store_rows(&w, n);
        check_rows(&w, n);
        w.length += n;
        shoal_kv_seq_advance(w.seq, w.length);
        w.high = SHOAL_MAX(w.high, w.length);
        uint64_t kind = shoal_rng_next(&rng) % 16;
        if (kind < 6) {
            size_t least = w.high > SLACK ? w.high - SLACK : 0;
            walk_back(&w, w.length -
                              shoal_rng_next(&rng) % (w.length - SHOAL_MIN(least, w.length) + 1));
        } else if (kind == 6) {
            size_t to = shoal_rng_next(&rng) % (w.length + 1);
            n_lost += to > 0;
            walk_back(&w, to);
            n_lost -= to > 0 && w.length > 0;
        }
    }
    assert_true(n_lost > 10);
    shoal_kv_seq_free(w.seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), 28);
    shoal_kv_pool_free(pool);
}

static void test_truncate_at_the_floor_is_exact_and_below_it_leaves_nothing(void **state)
{
    (void)state;
    for (size_t below = 0; below < 2; below++) {
        shoal_kv_pool *pool = NULL;
        shoal_kv_seq *seq = NULL;
        assert_int_equal(shoal_kv_pool_new(&windowed, 28, W_CTX, SLACK, &pool, NULL), SHOAL_OK);
        assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
        for (size_t n = SLACK; n <= 200; n += SLACK) {
            assert_true(n > 100 || shoal_kv_seq_floor(seq) == 0);
            assert_int_equal(shoal_kv_seq_reserve(seq, n), SHOAL_OK);
            shoal_kv_seq_advance(seq, n);
        }
        /* 200 tokens are 7 blocks, the ring has the last 3: from position 128 on. */
        assert_int_equal(shoal_kv_seq_floor(seq), 128 + WINDOW - 1);
        size_t to = shoal_kv_seq_floor(seq) - below;
        assert_int_equal(shoal_kv_seq_truncate(seq, to), below ? 0 : to);
        assert_int_equal(shoal_kv_pool_n_free(pool), below ? 28 : 28 - 6 - 2 * RING);
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

static void test_types_have_names_and_sizes(void **state)
{
    (void)state;
    static const size_t bytes[] = {3 * 2 * 8 * 32 * 4,
                                   3 * 2 * 8 * 32 * 2,
                                   3 * 2 * (64 + 8 * 32),
                                   3 * (64 + 8 * 32 + 128 + 32 * 32), /* q8: a row of V is padded */
                                   3 * (64 + 8 * 32 + 128 + 32 * 16), /* k8v4 */
                                   3 * (64 + 8 * 32 + 128 + 32 * 12)}; /* k8v3 */
    shoal_kv_shape s = shape;
    for (size_t i = 0; i < SHOAL_COUNT(bytes); i++) {
        shoal_kv_type type = SHOAL_KV_F32;
        assert_int_equal(shoal_kv_type_parse(shoal_kv_type_name((shoal_kv_type)i), &type), 0);
        assert_int_equal(type, i);
        s.type = type;
        assert_int_equal(shoal_kv_page_bytes(&s), bytes[i]);
    }
    shoal_kv_type type = SHOAL_KV_F16;
    assert_true(shoal_kv_type_parse("k4v4", &type) < 0 && shoal_kv_type_parse("", &type) < 0);
    assert_int_equal(type, SHOAL_KV_F16);
}

static void test_levels_by_layer_are_words_with_counts(void **state)
{
    (void)state;
    static const struct {
        const char *words, *text; /* text NULL: they are refused */
    } rows[] = {{"q8", "q8*6"},
                {"q8,q4", "q8*1,q4*5"},
                {"q8*2,k4v3,q4", "q8*2,k4v3*1,q4*3"},
                {"q8*6", "q8*6"},
                {"q8*5,q3", "q8*5,q3*1"},
                {"q8*2", "q8*6"},
                {"q8*7", NULL},
                {"q8*6,q4", NULL},
                {"q8*5,q4*2", NULL},
                {"", NULL},
                {",", NULL},
                {"q8,", NULL},
                {"q8*", NULL},
                {"q8*0", NULL},
                {"q8*-1", NULL},
                {"q8*2x", NULL},
                {"*2", NULL},
                {"f16", NULL},
                {"q8t", NULL},
                {"q8,f32", NULL},
                {"q5", NULL},
                {"q8 ,q4", NULL},
                {"q8*99999999999999999999", NULL},
                {"q8*18446744073709551617", NULL}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_kv_type types[6];
        char text[SHOAL_KV_TYPES_BYTES];
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = shoal_kv_types_parse(rows[i].words, 6, types, &err);
        assert_int_equal(status, rows[i].text ? SHOAL_OK : SHOAL_E_INVALID);
        assert_true(rows[i].text || strstr(err.text, "KV levels"));
        if (rows[i].text) {
            const shoal_kv_shape s = {.n_layers = 6, .type = types[0], .types = types};
            assert_true(shoal_kv_types_text(&s, text));
            assert_string_equal(text, rows[i].text);
        }
    }
}

/* Words for so many changes have no room in a form, and such a pool is refused. */
static void test_levels_that_change_too_often_are_refused(void **state)
{
    (void)state;
    shoal_kv_type types[40];
    for (size_t n = 15; n <= 17; n++) { /* "q8*1," and "q4*1," are 5 characters */
        shoal_kv_pool *pool = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        for (size_t i = 0; i < n + 4; i++) {
            types[i] = i % 2 ? SHOAL_KV_K8V8 : SHOAL_KV_K4V4;
        }
        const shoal_kv_shape s = {.n_layers = n + 3,
                                  .n_kv_heads = 2,
                                  .k_dim = 8,
                                  .v_dim = 8,
                                  .type = types[0],
                                  .types = types};
        bool fits = 5 * (n + 3) <= SHOAL_KV_TYPES_BYTES;
        assert_int_equal(shoal_kv_pool_new(&s, 4000, 64, SLACK, &pool, &err),
                         fits ? SHOAL_OK : SHOAL_E_INVALID);
        assert_true(fits || strstr(err.text, "KV levels"));
        shoal_kv_pool_free(pool);
    }
    const shoal_kv_shape open = {.n_layers = 1,
                                 .n_kv_heads = 2,
                                 .k_dim = 8,
                                 .v_dim = 8,
                                 .type = SHOAL_KV_F16,
                                 .types = (const shoal_kv_type[]){SHOAL_KV_F16}};
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&open, 64, 64, SLACK, &pool, NULL), SHOAL_E_INVALID);
}

/* Layers of fewer bits are what a mixed pool is for: a text takes hardly more than its codes and
 * open blocks do, whatever the mixture. */
static void test_mixed_levels_waste_few_bytes(void **state)
{
    (void)state;
    static const char *const words[] = {"q8*4,q4", "q8*2,q3", "q4*8,q3", "k8v4*3,q4,q3", "q3,q8"};
    for (size_t i = 0; i < SHOAL_COUNT(words); i++) {
        shoal_kv_type types[16];
        assert_int_equal(shoal_kv_types_parse(words[i], 16, types, NULL), SHOAL_OK);
        const shoal_kv_shape s = {.n_layers = 16,
                                  .n_kv_heads = 8,
                                  .k_dim = 64,
                                  .v_dim = 64,
                                  .type = types[0],
                                  .types = types};
        size_t n_open = (size_t)3 * 16 * 8 * 2 * 64 * 32 * 2;
        size_t n_codes = 0;
        for (size_t layer = 0; layer < 16; layer++) {
            size_t n_k = 0;
            size_t n_v = 0;
            shoal_kv_part_bytes(&s, layer, 1, &n_k, &n_v);
            n_codes += 31 * 8 * (n_k + n_v);
        }
        size_t n = shoal_kv_pages_for(&s, SLACK, 1024) * shoal_kv_page_bytes(&s);
        if (!(n >= n_open + n_codes && (double)n <= 1.15 * (double)(n_open + n_codes))) {
            fail_msg("%s: %zu bytes, codes and open blocks are %zu", words[i], n, n_open + n_codes);
        }
    }
}

/* As many sequences of 1000 tokens as the sizes say, and not one more. */
static size_t count_held(shoal_kv_type type)
{
    enum {
        BYTES = 16 << 20,
        N = 1000,
        MOST = 64
    };
    const shoal_kv_shape real = {
        .n_layers = 2, .n_kv_heads = 8, .k_dim = 64, .v_dim = 64, .type = type};
    size_t n_pages = BYTES / shoal_kv_page_bytes(&real);
    shoal_kv_pool *pool = NULL;
    shoal_kv_seq *seqs[MOST];
    size_t n = 0;
    assert_int_equal(shoal_kv_pool_new(&real, n_pages, 1024, N, &pool, NULL), SHOAL_OK);
    while (n < MOST && shoal_kv_seq_new(pool, &seqs[n]) == SHOAL_OK &&
           shoal_kv_seq_reserve(seqs[n], N) == SHOAL_OK) {
        shoal_kv_seq_advance(seqs[n++], N);
    }
    assert_true(n < MOST);
    assert_int_equal(n, n_pages / shoal_kv_pages_for(&real, N, N));
    for (size_t i = 0; i <= n; i++) {
        shoal_kv_seq_free(seqs[i]);
    }
    assert_int_equal(shoal_kv_pool_n_free(pool), n_pages);
    shoal_kv_pool_free(pool);
    return n;
}

static void test_sealed_pools_hold_more_sequences(void **state)
{
    (void)state;
    size_t n_f16 = count_held(SHOAL_KV_F16);
    size_t n_q8 = count_held(SHOAL_KV_K8V8);
    size_t n_q4 = count_held(SHOAL_KV_K4V4);
    size_t n_q3 = count_held(SHOAL_KV_K3V3);
    print_message("16 MiB hold %zu sequences in f16, %zu in q8, %zu in q4, %zu in q3\n", n_f16,
                  n_q8, n_q4, n_q3);
    assert_true(2 * n_q8 >= 3 * n_f16 && 4 * n_q4 >= 9 * n_f16 && n_q3 >= n_q4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_by_layer_are_words_with_counts),
        cmocka_unit_test(test_levels_that_change_too_often_are_refused),
        cmocka_unit_test(test_mixed_levels_waste_few_bytes),
        cmocka_unit_test_setup_teardown(test_reserve_at_page_borders_takes_whole_pages, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_reserve_beyond_the_pool_is_busy_and_changes_nothing,
                                        setup, teardown),
        cmocka_unit_test(test_reserve_at_the_context_limit_is_refused_past_it),
        cmocka_unit_test_setup_teardown(test_store_then_blocks_finds_each_value, setup, teardown),
        cmocka_unit_test(test_new_with_odd_shapes_or_no_pages_is_refused),
        cmocka_unit_test(test_hadamard_is_for_powers_of_two),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
        cmocka_unit_test(test_windowed_layers_hold_a_ring_and_no_more),
        cmocka_unit_test(test_reserve_of_more_than_the_slack_is_refused_with_a_window),
        cmocka_unit_test(test_ring_keeps_what_every_row_sees_on_a_random_walk),
        cmocka_unit_test(test_truncate_at_the_floor_is_exact_and_below_it_leaves_nothing),
        cmocka_unit_test(test_types_have_names_and_sizes),
        cmocka_unit_test(test_sealed_pools_hold_more_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
