/* SPDX-License-Identifier: Apache-2.0
 *
 * The prefix cache alone: what is found, for whom, what goes first, and that a sequence that begins
 * with cached blocks holds the bytes it would have computed. A token's K and V here are a function
 * of all tokens up to it, as a model's are.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/prefix/prefix.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <string.h>

enum {
    N_CTX = 320,
    SLACK = 320,
    N_PAGES = 80
};

static const size_t windows[] = {0, 40};

typedef struct rig {
    shoal_kv_pool *pool;
    shoal_prefix *prefix;
    shoal_kernels kernels;
    shoal_prefix_owner a; /* two tenants */
    shoal_prefix_owner b;
} rig;

static void rig_init(rig *r, size_t n_blocks_max)
{
    memset(r, 0, sizeof(*r));
    shoal_kv_shape shape = {.n_layers = 2,
                            .n_kv_heads = 1,
                            .k_dim = 2,
                            .v_dim = 2,
                            .type = SHOAL_KV_F32,
                            .windows = windows};
    shoal_prefix_settings settings = {.n_blocks_max = n_blocks_max, .secret = 77};
    assert_int_equal(shoal_kv_pool_new(&shape, N_PAGES, N_CTX, SLACK, &r->pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_prefix_new(r->pool, &settings, &r->prefix), SHOAL_OK);
    shoal_kernels_init(&r->kernels, 0);
    assert_int_equal(shoal_prefix_owner_of(r->prefix, "a", NULL, &r->a), SHOAL_OK);
    assert_int_equal(shoal_prefix_owner_of(r->prefix, "b", NULL, &r->b), SHOAL_OK);
}

static void rig_fini(rig *r)
{
    shoal_prefix_free(r->prefix);
    assert_int_equal(shoal_kv_pool_n_free(r->pool), N_PAGES);
    shoal_kv_pool_free(r->pool);
}

static float state_after(const int32_t *ids, size_t n)
{
    uint32_t h = 17;
    for (size_t i = 0; i < n; i++) {
        h = h * 31 + (uint32_t)ids[i] + 1;
    }
    return (float)(h % 1000003);
}

/* Computes what the sequence lacks of the text. Returns the rows it took. */
static size_t compute(rig *r, const int32_t *ids, size_t n, shoal_kv_seq *seq)
{
    size_t from = shoal_kv_seq_length(seq);
    assert_int_equal(shoal_kv_seq_reserve(seq, n), SHOAL_OK);
    for (size_t p = from; p < n; p++) {
        for (size_t layer = 0; layer < 2; layer++) {
            float x = state_after(ids, p + 1) + (float)layer;
            shoal_kv_store(&r->kernels, seq, layer, p, (float[]){x, -x}, (float[]){x, 2 * x});
        }
    }
    shoal_kv_seq_advance(seq, n);
    return n - from;
}

static void check(const int32_t *ids, const shoal_kv_seq *seq)
{
    const void *k[N_CTX / 32 + 1];
    const void *v[N_CTX / 32 + 1];
    size_t n = shoal_kv_seq_length(seq);
    for (size_t layer = 0; layer < 2 && n > 0; layer++) {
        size_t first = shoal_kv_first(seq, layer, n + 1);
        shoal_kv_blocks(seq, layer, 0, first, n, k, v);
        for (size_t p = first; p < n; p++) {
            float x = state_after(ids, p + 1) + (float)layer;
            const float *have = (const float *)k[p / 32 - first / 32] + p % 32;
            const float *have_v = (const float *)v[p / 32 - first / 32] + p % 32 * 2;
            assert_true(have[0] == x && have[32] == -x);
            assert_true(have_v[0] == x && have_v[1] == 2 * x);
        }
    }
}

/* One session: takes what there is, computes the rest, publishes, ends. Returns the rows. */
static size_t session(rig *r, const shoal_prefix_owner *owner, const int32_t *ids, size_t n)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(r->pool, &seq), SHOAL_OK);
    size_t n_took = shoal_prefix_take(r->prefix, owner, ids, n, seq);
    assert_int_equal(n_took, shoal_kv_seq_length(seq));
    size_t n_rows = compute(r, ids, n, seq);
    check(ids, seq);
    shoal_prefix_publish(r->prefix, owner, ids, seq);
    shoal_kv_seq_free(seq);
    return n_rows;
}

static void text(int32_t *ids, size_t n, int32_t first)
{
    for (size_t i = 0; i < n; i++) {
        ids[i] = first + (int32_t)i;
    }
}

static void test_full_blocks_are_found_again(void **state)
{
    (void)state;
    for (size_t n = 31; n <= 65; n++) {
        rig r;
        int32_t ids[N_CTX];
        rig_init(&r, 16);
        text(ids, N_CTX, 1);
        assert_int_equal(session(&r, &r.a, ids, n), n);
        assert_int_equal(shoal_prefix_n_blocks(r.prefix), n / 32);
        assert_int_equal(shoal_kv_pool_n_kept(r.pool), n / 32 * 2);
        assert_int_equal(session(&r, &r.a, ids, n), n % 32);
        assert_int_equal(session(&r, &r.a, ids, 200), 200 - n / 32 * 32);
        rig_fini(&r);
    }
}

static void test_tokens_are_compared_not_hashes(void **state)
{
    (void)state;
    rig r;
    int32_t ids[64];
    /* One bucket: every look-up meets every node. */
    rig_init(&r, 1);
    text(ids, 64, 1);
    assert_int_equal(session(&r, &r.a, ids, 64), 64);
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 1);
    assert_int_equal(session(&r, &r.b, ids, 32), 32);
    rig_fini(&r);
    rig_init(&r, 16);
    for (size_t i = 0; i < 64; i++) {
        text(ids, 64, 1);
        ids[i] ^= 1 << 30;
        assert_int_equal(session(&r, &r.a, ids, 64), i < 32 ? 64 : 32);
        while (shoal_prefix_n_blocks(r.prefix) > 1) {
            assert_true(shoal_prefix_evict(r.prefix));
        }
        text(ids, 64, 1);
        (void)session(&r, &r.a, ids, 32);
    }
    rig_fini(&r);
}

static void test_tenants_and_models_are_apart(void **state)
{
    (void)state;
    rig r;
    int32_t ids[100];
    rig_init(&r, 16);
    text(ids, 100, 1);
    assert_int_equal(session(&r, &r.a, ids, 100), 100);
    assert_int_equal(session(&r, &r.b, ids, 100), 100);
    assert_int_equal(session(&r, &r.a, ids, 100), 4);
    shoal_prefix *other = NULL;
    shoal_prefix_settings settings = {.n_blocks_max = 1, .model.bytes = {1}};
    shoal_prefix_owner owner;
    assert_int_equal(shoal_prefix_new(r.pool, &settings, &other), SHOAL_OK);
    assert_int_equal(shoal_prefix_owner_of(other, "a", NULL, &owner), SHOAL_OK);
    assert_memory_not_equal(&owner.salt, &r.a.salt, sizeof(owner.salt));
    shoal_prefix_free(other);
    rig_fini(&r);
}

static void test_adapters_are_apart_and_nothing_public_is_theirs(void **state)
{
    (void)state;
    rig r;
    int32_t ids[100];
    const shoal_hash one = {{1}};
    const shoal_hash two = {{2}};
    shoal_prefix_owner with_one;
    shoal_prefix_owner with_two;
    rig_init(&r, 16);
    text(ids, 100, 1);
    assert_int_equal(shoal_prefix_owner_of(r.prefix, "a", &one, &with_one), SHOAL_OK);
    assert_int_equal(shoal_prefix_owner_of(r.prefix, "a", &two, &with_two), SHOAL_OK);
    assert_int_equal(shoal_prefix_add_public(r.prefix, ids, 32), SHOAL_OK);
    assert_int_equal(session(&r, &r.a, ids, 100), 100);
    assert_int_equal(session(&r, &with_one, ids, 100), 100);
    assert_int_equal(session(&r, &with_two, ids, 100), 100);
    assert_int_equal(session(&r, &r.a, ids, 100), 4);
    assert_int_equal(session(&r, &with_one, ids, 100), 4);
    assert_int_equal(session(&r, &r.b, ids, 100), 68); /* the public block is b's, too */
    rig_fini(&r);
}

static void test_public_prefix_is_shared_and_nothing_behind_it(void **state)
{
    (void)state;
    rig r;
    int32_t ids[160];
    rig_init(&r, 16);
    text(ids, 160, 1);
    /* Two blocks and a half are marked: two are everybody's. */
    assert_int_equal(shoal_prefix_add_public(r.prefix, ids, 80), SHOAL_OK);
    assert_int_equal(shoal_prefix_add_public(r.prefix, ids, 80), SHOAL_OK);
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 0);
    assert_int_equal(shoal_prefix_n_public(r.prefix, ids, 160), 2);
    assert_int_equal(shoal_prefix_n_public(r.prefix, ids, 63), 1);
    assert_int_equal(shoal_prefix_n_public(r.prefix, ids + 1, 159), 0);
    assert_int_equal(session(&r, &r.a, ids, 160), 160);
    assert_int_equal(shoal_prefix_n_public(r.prefix, ids, 160), 2); /* a tenant's are not */
    assert_int_equal(session(&r, &r.b, ids, 160), 96);
    assert_int_equal(session(&r, &r.a, ids, 160), 0);
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 8);
    /* Its place outlives its pages. */
    while (shoal_prefix_evict(r.prefix)) {
    }
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 0);
    assert_int_equal(session(&r, &r.b, ids, 160), 160);
    assert_int_equal(session(&r, &r.a, ids, 160), 96);
    rig_fini(&r);
}

static void test_marks_beyond_the_places_are_refused(void **state)
{
    (void)state;
    rig r;
    int32_t ids[160];
    text(ids, 160, 1);
    for (size_t n = 1; n <= 5; n++) {
        rig_init(&r, 4);
        assert_int_equal(shoal_prefix_add_public(r.prefix, ids, n * 32),
                         n <= 4 ? SHOAL_OK : SHOAL_BUSY);
        assert_int_equal(session(&r, &r.a, ids + 1, 64), 64); /* no place: nothing is kept */
        assert_int_equal(shoal_prefix_n_blocks(r.prefix), SHOAL_MIN(4 - SHOAL_MIN(n, 4u), 2u));
        rig_fini(&r);
    }
}

static void test_longest_unused_leaf_goes_first(void **state)
{
    (void)state;
    rig r;
    int32_t one[64];
    int32_t two[64];
    int32_t three[64];
    rig_init(&r, 4);
    text(one, 64, 1000);
    text(two, 64, 2000);
    text(three, 64, 3000);
    (void)session(&r, &r.a, one, 64);
    (void)session(&r, &r.a, two, 64);
    assert_int_equal(session(&r, &r.a, one, 64), 0); /* used again: two is older now */
    (void)session(&r, &r.a, three, 64);
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 4);
    assert_int_equal(session(&r, &r.a, one, 64), 0);
    assert_int_equal(session(&r, &r.a, three, 64), 0);
    assert_int_equal(session(&r, &r.a, two, 64), 64);
    rig_fini(&r);
}

static void test_blocks_in_use_are_evicted_last_and_stay_with_their_users(void **state)
{
    (void)state;
    rig r;
    int32_t one[64];
    int32_t two[64];
    rig_init(&r, 8);
    text(one, 64, 1000);
    text(two, 64, 2000);
    (void)session(&r, &r.a, one, 64);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(r.pool, &seq), SHOAL_OK);
    assert_int_equal(shoal_prefix_take(r.prefix, &r.a, one, 64, seq), 64);
    (void)session(&r, &r.a, two, 64);
    assert_int_equal(shoal_kv_pool_n_kept(r.pool), 4);
    assert_true(shoal_prefix_evict(r.prefix));
    assert_true(shoal_prefix_evict(r.prefix));
    assert_int_equal(shoal_kv_pool_n_kept(r.pool), 0);
    assert_int_equal(shoal_prefix_n_blocks(r.prefix), 2);
    assert_true(shoal_prefix_evict(r.prefix));
    assert_true(shoal_prefix_evict(r.prefix));
    assert_false(shoal_prefix_evict(r.prefix));
    check(one, seq);
    /* Gone from the tree, not from the session: it can be published again. */
    shoal_prefix_publish(r.prefix, &r.a, one, seq);
    shoal_kv_seq_free(seq);
    assert_int_equal(session(&r, &r.a, one, 64), 0);
    rig_fini(&r);
}

static void test_longer_chain_replaces_what_a_sequence_has(void **state)
{
    (void)state;
    rig r;
    int32_t ids[200];
    rig_init(&r, 8);
    text(ids, 200, 1);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(r.pool, &seq), SHOAL_OK);
    (void)compute(&r, ids, 40, seq);
    assert_int_equal(shoal_prefix_take(r.prefix, &r.a, ids, 200, seq), 0);
    (void)session(&r, &r.a, ids, 63);
    assert_int_equal(shoal_prefix_take(r.prefix, &r.a, ids, 200, seq), 0);
    (void)session(&r, &r.a, ids, 200);
    assert_int_equal(shoal_prefix_take(r.prefix, &r.a, ids, 191, seq), 160 - 40);
    check(ids, seq);
    assert_int_equal(shoal_prefix_take(r.prefix, &r.a, ids, 192, seq), 32);
    check(ids, seq);
    shoal_kv_seq_free(seq);
    rig_fini(&r);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, 1);
    for (uint64_t i = 0;; i++) {
        shoal_prefix *prefix = NULL;
        shoal_prefix_settings settings = {.n_blocks_max = 5};
        shoal_mem_fail_at(i);
        shoal_status status = shoal_prefix_new(r.pool, &settings, &prefix);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i >= 6);
            shoal_prefix_free(prefix);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
    shoal_prefix *prefix = NULL;
    shoal_prefix_settings settings = {.n_blocks_max = 0};
    assert_int_equal(shoal_prefix_new(r.pool, &settings, &prefix), SHOAL_E_INVALID);
    settings.n_blocks_max = SHOAL_PREFIX_BLOCKS_MAX + 1;
    assert_int_equal(shoal_prefix_new(r.pool, &settings, &prefix), SHOAL_E_INVALID);
    rig_fini(&r);
}

/* --- random sessions -------------------------------------------------------------------------- */

enum {
    N_LIVE = 4,
    N_SEEN = 4096
};

typedef struct live {
    shoal_kv_seq *seq;
    int32_t ids[N_CTX];
    size_t n;
    bool is_b;
} live;

/* Chains of blocks that a tenant has published, by the state after them. */
typedef struct seen {
    float states[2][N_SEEN];
    size_t n[2];
} seen;

static bool was_seen(const seen *s, bool is_b, float state)
{
    for (size_t i = 0; i < s->n[is_b]; i++) {
        if (s->states[is_b][i] == state) {
            return true;
        }
    }
    return false;
}

static void note(seen *s, const live *l)
{
    for (size_t n = 32; n <= shoal_kv_seq_length(l->seq); n += 32) {
        float state = state_after(l->ids, n);
        if (!was_seen(s, l->is_b, state)) {
            assert_true(s->n[l->is_b] < N_SEEN);
            s->states[l->is_b][s->n[l->is_b]++] = state;
        }
    }
}

static void walk(uint64_t seed)
{
    static rig r;
    static live lives[N_LIVE];
    static seen s;
    uint64_t rng = seed;
    rig_init(&r, 1 + seed % 20);
    memset(lives, 0, sizeof(lives));
    memset(&s, 0, sizeof(s));
    for (size_t i = 0; i < N_LIVE; i++) {
        assert_int_equal(shoal_kv_seq_new(r.pool, &lives[i].seq), SHOAL_OK);
    }
    for (size_t step = 0; step < 400; step++) {
        live *l = &lives[shoal_rng_next(&rng) % N_LIVE];
        const shoal_prefix_owner *owner = l->is_b ? &r.b : &r.a;
        switch (shoal_rng_next(&rng) % 6) {
        case 0: /* another session: three kinds of each block */
            (void)shoal_kv_seq_truncate(l->seq, 0);
            l->is_b = shoal_rng_next(&rng) % 2 == 0;
            l->n = 1 + shoal_rng_next(&rng) % (N_CTX - 1);
            for (size_t i = 0; i < l->n; i += 32) {
                text(l->ids + i, SHOAL_MIN(l->n - i, 32u), (int32_t)(shoal_rng_next(&rng) % 3));
            }
            break;
        case 1:
        case 2: {
            size_t n = shoal_prefix_take(r.prefix, owner, l->ids, l->n, l->seq);
            if (n > 0) {
                float state = state_after(l->ids, shoal_kv_seq_length(l->seq));
                assert_true(was_seen(&s, l->is_b, state));
            }
            break;
        }
        case 3: {
            size_t n = SHOAL_MIN(l->n, shoal_kv_seq_length(l->seq) + shoal_rng_next(&rng) % 100);
            shoal_kv_need need = shoal_kv_seq_need(l->seq);
            size_t n_pages = need.n_pages_copy + (n / 32 + 1) * need.n_pages_block;
            while (shoal_kv_pool_n_free(r.pool) < n_pages && shoal_prefix_evict(r.prefix)) {
            }
            if (shoal_kv_pool_n_free(r.pool) >= n_pages && n >= shoal_kv_seq_length(l->seq)) {
                (void)compute(&r, l->ids, n, l->seq);
            }
            break;
        }
        case 4:
            shoal_prefix_publish(r.prefix, owner, l->ids, l->seq);
            note(&s, l);
            break;
        default:
            (void)shoal_prefix_evict(r.prefix);
            break;
        }
        check(l->ids, l->seq);
        assert_true(shoal_prefix_n_blocks(r.prefix) <= 1 + seed % 20);
    }
    for (size_t i = 0; i < N_LIVE; i++) {
        check(lives[i].ids, lives[i].seq);
        shoal_kv_seq_free(lives[i].seq);
    }
    assert_int_equal(shoal_kv_pool_n_kept(r.pool), 2 * shoal_prefix_n_blocks(r.prefix));
    rig_fini(&r);
}

static void test_random_sessions_get_their_own_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        walk(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_blocks_are_found_again),
        cmocka_unit_test(test_tokens_are_compared_not_hashes),
        cmocka_unit_test(test_tenants_and_models_are_apart),
        cmocka_unit_test(test_adapters_are_apart_and_nothing_public_is_theirs),
        cmocka_unit_test(test_public_prefix_is_shared_and_nothing_behind_it),
        cmocka_unit_test(test_marks_beyond_the_places_are_refused),
        cmocka_unit_test(test_longest_unused_leaf_goes_first),
        cmocka_unit_test(test_blocks_in_use_are_evicted_last_and_stay_with_their_users),
        cmocka_unit_test(test_longer_chain_replaces_what_a_sequence_has),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
        cmocka_unit_test(test_random_sessions_get_their_own_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
