/* SPDX-License-Identifier: Apache-2.0
 *
 * Eviction: policies against brute force, and what a sequence whose KV is evicted takes of its
 * pool and refuses. What it computes is tested on the engine (tests/unit/engine/test_evict.c).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv.h"
#include "common/kv/kv_move.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    SMALL = 8, /* a budget that all subsets can be tried with */
    BUDGET = 64,
    N_CTX = 400,
    N_LAYERS = 2,
    N_HEADS = 2,
    DIM = 8,
    N_PAGES = 40
};

static uint64_t rng = 68;

static size_t below(size_t n)
{
    return shoal_rng_next(&rng) % n;
}

static const shoal_kv_evict_policy *policy(const char *name)
{
    const shoal_kv_evict_policy *found = shoal_kv_evict_find(name);
    assert_non_null(found);
    assert_non_null(strstr(shoal_kv_evict_names(), name));
    return found;
}

/* --- policies ----------------------------------------------------------------------------------
 */

static void test_find_knows_its_names_and_no_other(void **state)
{
    (void)state;
    assert_false(policy("window")->by_mass);
    assert_true(policy("h2o")->by_mass);
    assert_false(policy("h2o")->by_keys);
    assert_true(policy("diverse")->by_mass && policy("diverse")->by_keys);
    assert_true(policy("a2sf")->by_mass && !policy("a2sf")->by_keys);
    assert_null(shoal_kv_evict_find("h2"));
    assert_null(shoal_kv_evict_find(""));
}

/* A text goes through one head: what is held after every token. */
static void test_window_holds_the_sinks_and_the_newest(void **state)
{
    (void)state;
    uint32_t positions[SMALL + 3];
    for (size_t n = SHOAL_KV_SINKS + 1; n <= SHOAL_COUNT(positions); n++) {
        for (size_t p = 0; p < 60; p++) {
            const shoal_kv_held held = {.n = n, .positions = positions};
            size_t slot = p < n ? p : policy("window")->victim(&held, p);
            assert_true(slot < n);
            positions[slot] = (uint32_t)p;
            bool seen[60] = {false};
            size_t n_held = SHOAL_MIN(p + 1, n);
            for (size_t i = 0; i < n_held; i++) {
                seen[positions[i]] = true;
            }
            for (size_t q = 0; q <= p; q++) {
                bool want = p < n || q < SHOAL_KV_SINKS || q + n > p + SHOAL_KV_SINKS;
                assert_int_equal(seen[q], want);
            }
        }
    }
}

/* The paper's step: of the tokens held and the one that comes, the set of n that has most mass, as
 * all subsets are tried, with the newest half in it. Of several the one without the earliest. */
static void test_h2o_keeps_the_best_of_all_subsets(void **state)
{
    (void)state;
    for (size_t round = 0; round < 3000; round++) {
        uint32_t positions[SMALL];
        float mass[SMALL];
        size_t position = SMALL + below(200);
        /* Different positions before this one, the newest half among them, in any order. */
        size_t n_recent = SMALL / 2 - 1;
        for (size_t i = 0; i < n_recent; i++) {
            positions[i] = (uint32_t)(position - 1 - i);
        }
        for (size_t i = n_recent, from = 0; i < SMALL; i++) {
            size_t left = position - n_recent - from - (SMALL - i) + 1;
            positions[i] = (uint32_t)(from + below(left));
            from = positions[i] + 1;
        }
        for (size_t i = 0; i < SMALL; i++) {
            size_t j = i + below(SMALL - i);
            uint32_t t = positions[i];
            positions[i] = positions[j];
            positions[j] = t;
            /* Small integers, so that sums are exact and ties happen. */
            mass[i] = (float)below(round % 2 ? 4 : 1000);
        }
        float best = -1;
        size_t want = SMALL;
        for (unsigned set = 0; set < 1U << SMALL; set++) {
            float sum = 0;
            size_t out = SMALL;
            size_t n = 0;
            bool legal = true;
            for (size_t i = 0; i < SMALL; i++) {
                bool in = set >> i & 1;
                n += in;
                sum += in ? mass[i] : 0;
                out = in ? out : i;
                legal = legal && (in || positions[i] + SMALL / 2 <= position);
            }
            if (n != SMALL - 1 || !legal) {
                continue;
            }
            if (sum > best || (sum == best && positions[out] < positions[want])) {
                best = sum;
                want = out;
            }
        }
        const shoal_kv_held held = {.n = SMALL, .positions = positions, .mass = mass};
        assert_int_equal(policy("h2o")->victim(&held, position), want);
    }
}

static void test_h2o_takes_no_number_for_no_mass(void **state)
{
    (void)state;
    const uint32_t positions[SMALL] = {0, 1, 2, 3, 4, 5, 6, 7};
    float mass[SMALL] = {1, 1, NAN, 1, 1, 0, 0, 0};
    const shoal_kv_held held = {.n = SMALL, .positions = positions, .mass = mass};
    assert_int_equal(policy("h2o")->victim(&held, 8), 2);
    memset(mass, 0xFF, sizeof mass);
    assert_int_equal(policy("h2o")->victim(&held, 8), 0);
}

/* Tokens with a cosine for each pair: those of a set stand for all of n. */
typedef struct kin {
    size_t n;
    float mass[2 * SMALL];
    float cosine[2 * SMALL][2 * SMALL];
    size_t tokens[2 * SMALL]; /* of the held ones, in their order */
    size_t n_held;
} kin;

static void kin_nearest(const void *ctx, const size_t *tokens, size_t n_tokens, float *ret_nearest)
{
    const kin *k = ctx;
    for (size_t i = 0; i < n_tokens; i++) {
        ret_nearest[i] = 0;
        for (size_t j = 0; j < k->n_held; j++) {
            float c = k->cosine[k->tokens[tokens[i]]][k->tokens[j]];
            ret_nearest[i] = j != tokens[i] && c > ret_nearest[i] ? c : ret_nearest[i];
        }
    }
}

/* Facility location: what of all mass a set stands for. */
static double stands_for(const kin *k, unsigned set)
{
    double sum = 0;
    for (size_t i = 0; i < k->n; i++) {
        float best = 0;
        for (size_t j = 0; j < k->n; j++) {
            best = set >> j & 1 && k->cosine[i][j] > best ? k->cosine[i][j] : best;
        }
        sum += (double)k->mass[i] * (double)best;
    }
    return sum;
}

/* Keys in a plane of a few directions, so that some stand for others. */
static void kin_init(kin *k, size_t n)
{
    double angle[2 * SMALL];
    *k = (kin){.n = n, .n_held = n};
    for (size_t i = 0; i < n; i++) {
        angle[i] = (double)below(3) + 0.3 * (double)test_signed(&rng);
        k->mass[i] = (float)(1 + below(100));
        k->tokens[i] = i;
        for (size_t j = 0; j <= i; j++) {
            k->cosine[i][j] = k->cosine[j][i] =
                (float)(i == j ? 1 : cos(2 * (angle[i] - angle[j])));
        }
    }
}

/* Of all sets of one token less that keep the newest half, and so few that all are looked at, the
 * one that is left stands for most. */
static void test_diverse_leaves_what_stands_for_most(void **state)
{
    (void)state;
    size_t n_other = 0;
    for (size_t round = 0; round < 2000; round++) {
        const uint32_t positions[SMALL] = {0, 1, 2, 3, 4, 5, 6, 7};
        kin k;
        kin_init(&k, SMALL);
        const shoal_kv_held held = {
            .n = SMALL, .positions = positions, .mass = k.mass, .nearest = kin_nearest, .ctx = &k};
        size_t victim = policy("diverse")->victim(&held, SMALL);
        unsigned all = (1U << SMALL) - 1;
        double best = 0;
        for (size_t i = 0; i <= SMALL / 2; i++) {
            best = fmax(best, stands_for(&k, all & ~(1U << i)));
        }
        assert_true(victim <= SMALL / 2);
        assert_true(stands_for(&k, all & ~(1U << victim)) >= best * (1 - 1e-6));
        n_other += victim != policy("h2o")->victim(&held, SMALL);
    }
    assert_true(n_other > 500); /* what another stands for is not what is lightest */
}

static void only_the_last_has_a_twin(const void *ctx, const size_t *tokens, size_t n_tokens,
                                     float *ret_nearest)
{
    (void)ctx;
    (void)tokens;
    assert_int_equal(n_tokens, SHOAL_KV_LIGHTEST);
    for (size_t i = 0; i < n_tokens; i++) {
        ret_nearest[i] = i + 1 == n_tokens;
    }
}

/* The lightest are looked at, of tokens as light the earliest, and none of the newest half. */
static void test_diverse_looks_at_the_lightest_alone(void **state)
{
    (void)state;
    enum {
        N = 4 * SHOAL_KV_LIGHTEST
    };
    for (size_t round = 0; round < 500; round++) {
        uint32_t positions[N];
        float mass[N];
        for (size_t i = 0; i < N; i++) {
            positions[i] = (uint32_t)(N - 1 - i);
            mass[i] = (float)(1 + below(round % 2 ? 3 : 1000));
        }
        const shoal_kv_held held = {
            .n = N, .positions = positions, .mass = mass, .nearest = only_the_last_has_a_twin};
        size_t victim = policy("diverse")->victim(&held, N);
        size_t n_before = 0;
        for (size_t i = 0; i < N; i++) {
            n_before += positions[i] <= N / 2 &&
                        (mass[i] < mass[victim] ||
                         (mass[i] == mass[victim] && positions[i] < positions[victim]));
        }
        assert_true(positions[victim] <= N / 2);
        assert_int_equal(n_before, SHOAL_KV_LIGHTEST - 1);
    }
}

/* Sets of n_left tokens with all of `fixed` in them: the most that any stands for, and what the
 * greedy algorithm finds, which takes the token that adds most until there are so many. */
static double best_of_sets(const kin *k, unsigned fixed, size_t n_left)
{
    double best = 0;
    for (unsigned set = 0; set < 1U << k->n; set++) {
        if ((set & fixed) == fixed && (size_t)__builtin_popcount(set) == n_left) {
            best = fmax(best, stands_for(k, set));
        }
    }
    return best;
}

static double greedy_set(const kin *k, size_t n_left)
{
    unsigned set = 0;
    double value = 0;
    for (size_t n = 0; n < n_left; n++) {
        unsigned next = set;
        for (size_t i = 0; i < k->n; i++) {
            double with = set >> i & 1 ? 0 : stands_for(k, set | 1U << i);
            if (next == set || with > value) {
                next = set >> i & 1 ? next : set | 1U << i;
                value = with > value ? with : value;
            }
        }
        set = next;
    }
    return stands_for(k, set);
}

/* Nemhauser, Wolsey and Fisher (1978): of a monotone submodular function the greedy set has at
 * least 1 - 1/e of the optimum. The function that "diverse" serves is one, which is tested first;
 * and its own steps, which take out instead of in, stay above that bound too. */
static void test_greedy_sets_have_their_share_of_the_optimum(void **state)
{
    (void)state;
    enum {
        N = 10
    };
    const double share = 1 - exp(-1);
    double worst = 1;
    for (size_t round = 0; round < 60; round++) {
        kin k;
        kin_init(&k, N);
        for (size_t i = 0; i < 50; i++) {
            unsigned a = (unsigned)below(1U << N);
            unsigned b = a | (unsigned)below(1U << N);
            unsigned x = 1U << below(N);
            double more_of_few = stands_for(&k, a | x) - stands_for(&k, a);
            double more_of_many = stands_for(&k, b | x) - stands_for(&k, b);
            assert_true(more_of_many >= -1e-9 && more_of_few >= more_of_many - 1e-9);
        }
        for (size_t n_left = 3; n_left <= 6; n_left++) {
            assert_true(greedy_set(&k, n_left) >= share * best_of_sets(&k, 0, n_left) - 1e-9);
        }
        uint32_t positions[N];
        float mass[N];
        for (size_t i = 0; i < N; i++) {
            positions[i] = (uint32_t)i;
            mass[i] = k.mass[i];
        }
        while (k.n_held > N / 2 + 1) {
            const shoal_kv_held held = {.n = k.n_held,
                                        .positions = positions,
                                        .mass = mass,
                                        .nearest = kin_nearest,
                                        .ctx = &k};
            size_t out = policy("diverse")->victim(&held, N);
            k.n_held--;
            memmove(k.tokens + out, k.tokens + out + 1, (k.n_held - out) * sizeof *k.tokens);
            memmove(positions + out, positions + out + 1, (k.n_held - out) * sizeof *positions);
            memmove(mass + out, mass + out + 1, (k.n_held - out) * sizeof *mass);
        }
        unsigned set = 0;
        for (size_t i = 0; i < k.n_held; i++) {
            set |= 1U << k.tokens[i];
        }
        unsigned newest = 3U << (N - 2); /* of the newest half of every step */
        assert_int_equal(set & newest, newest);
        worst = fmin(worst, stands_for(&k, set) / best_of_sets(&k, newest, k.n_held));
    }
    assert_true(worst >= share);
}

/* --- pools -------------------------------------------------------------------------------------
 */

static shoal_kv_shape shape_of(const char *name)
{
    return (shoal_kv_shape){.n_layers = N_LAYERS,
                            .n_kv_heads = N_HEADS,
                            .k_dim = DIM,
                            .v_dim = DIM,
                            .type = SHOAL_KV_F16,
                            .evict = policy(name),
                            .budget = BUDGET};
}

static shoal_kv_pool *pool_of(const shoal_kv_shape *shape)
{
    shoal_kv_pool *pool = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_kv_pool_new(shape, N_PAGES, N_CTX, 20, &pool, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return pool;
}

static shoal_kv_seq *seq_of(shoal_kv_pool *pool)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    return seq;
}

/* One more token, with keys and values from a seed, in every layer. */
static void feed(const shoal_kernels *kernels, shoal_kv_seq *seq, uint64_t seed)
{
    size_t position = shoal_kv_seq_length(seq);
    float shares[3 * BUDGET];
    const void *k_blocks[BUDGET / 32];
    const void *v_blocks[BUDGET / 32];
    assert_int_equal(shoal_kv_seq_reserve(seq, position + 1), SHOAL_OK);
    for (size_t i = 0; i < N_LAYERS * N_HEADS; i++) {
        float x[5][DIM];
        float out[3][DIM];
        uint64_t noise = seed + 100 * position + i;
        for (size_t j = 0; j < 5 * DIM; j++) {
            x[j / DIM][j % DIM] = 2 * test_signed(&noise);
        }
        shoal_attend a = {.n_rows = 1,
                          .n_heads = 3,
                          .k_dim = DIM,
                          .v_dim = DIM,
                          .scale = 1,
                          .q = x[2],
                          .q_stride = (size_t)3 * DIM,
                          .out = out[0],
                          .out_stride = (size_t)3 * DIM};
        shoal_kv_attend_evicting(kernels, seq, i / N_HEADS, i % N_HEADS, position, x[0], x[1],
                                 k_blocks, v_blocks, shares, &a);
        assert_int_equal(a.n_tokens, SHOAL_MIN(position + 1, (size_t)BUDGET));
        if (shoal_kv_seq_shape(seq)->evict->by_mass) {
            for (size_t h = 0; h < 3; h++) {
                double sum = 0;
                for (size_t t = 0; t < a.n_tokens; t++) {
                    sum += (double)shares[h * BUDGET + t];
                }
                assert_true(fabs(sum - 1) < 1e-5);
            }
        }
    }
    shoal_kv_seq_advance(seq, position + 1);
}

/* One row of one head, unscaled. */
static shoal_attend one_row(const float *q, float *out)
{
    return (shoal_attend){.n_rows = 1,
                          .n_heads = 1,
                          .k_dim = DIM,
                          .v_dim = DIM,
                          .scale = 1,
                          .q = q,
                          .q_stride = DIM,
                          .out = out,
                          .out_stride = DIM};
}

/* Keys are 0, so all that is held has the same share; a value says its position. The mean of values
 * is then that of what should be held: of the heavy half of "h2o", as all tokens get the same from
 * each row, the first that came. */
static void test_attention_reads_what_is_held_and_no_more(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, UINT32_MAX);
    const struct {
        const char *name;
        size_t n_first; /* tokens that stay from the start */
    } rows[] = {{"window", SHOAL_KV_SINKS}, {"h2o", BUDGET / 2}, {"diverse", BUDGET / 2}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_kv_shape shape = shape_of(rows[i].name);
        shape.type = SHOAL_KV_F32;
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        for (size_t p = 0; p < N_CTX; p++) {
            float shares[BUDGET];
            const void *k_blocks[BUDGET / 32];
            const void *v_blocks[BUDGET / 32];
            float k[DIM] = {0};
            float v[DIM] = {(float)p, 1};
            float out[DIM];
            assert_int_equal(shoal_kv_seq_reserve(seq, p + 1), SHOAL_OK);
            shoal_attend a = one_row(v, out);
            shoal_kv_attend_evicting(&kernels, seq, 1, 1, p, k, v, k_blocks, v_blocks, shares, &a);
            shoal_kv_seq_advance(seq, p + 1);
            double sum = 0;
            for (size_t q = 0; q <= p; q++) {
                bool stays = q < rows[i].n_first || q + BUDGET > p + rows[i].n_first;
                sum += stays ? (double)q : 0;
            }
            size_t n = SHOAL_MIN(p + 1, (size_t)BUDGET);
            assert_true(fabs((double)out[0] - sum / (double)n) < 1e-3);
            assert_true(fabs((double)out[1] - 1) < 1e-5);
        }
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

/* A token that only one of the query heads cares for stays, whichever head it is. To the others all
 * tokens are alike, so without that head it would go. */
static void test_h2o_counts_the_attention_of_every_head(void **state)
{
    (void)state;
    enum {
        HEADS = 3,
        DEAR = BUDGET / 2 + 8 /* behind those that stay anyway */
    };
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, UINT32_MAX);
    for (size_t fond = 0; fond <= HEADS; fond++) { /* HEADS: none */
        shoal_kv_shape shape = shape_of("h2o");
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        float out[HEADS][DIM];
        for (size_t p = 0; p < N_CTX; p++) {
            float shares[HEADS * BUDGET];
            const void *k_blocks[BUDGET / 32];
            const void *v_blocks[BUDGET / 32];
            float q[HEADS][DIM] = {{0}};
            float x[DIM] = {p == DEAR ? 1 : 0}; /* key and value */
            if (fond < HEADS) {
                q[fond][0] = 20;
            }
            assert_int_equal(shoal_kv_seq_reserve(seq, p + 1), SHOAL_OK);
            shoal_attend a = {.n_rows = 1,
                              .n_heads = HEADS,
                              .k_dim = DIM,
                              .v_dim = DIM,
                              .scale = 1,
                              .q = q[0],
                              .q_stride = (size_t)HEADS * DIM,
                              .out = out[0],
                              .out_stride = (size_t)HEADS * DIM};
            shoal_kv_attend_evicting(&kernels, seq, 0, 0, p, x, x, k_blocks, v_blocks, shares, &a);
            shoal_kv_seq_advance(seq, p + 1);
        }
        for (size_t head = 0; head < HEADS; head++) {
            assert_true(fond < HEADS ? out[head][0] > 0 : out[head][0] == 0);
        }
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

/* Two tokens behind those that stay have less attention than all others. The lighter one has a key
 * that no other has, the other one's is as good as its neighbour's: "h2o" gives up the former,
 * "diverse" the latter, in both stored types. */
static void test_diverse_compares_the_keys_that_are_held(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, UINT32_MAX);
    static const shoal_kv_type types[] = {SHOAL_KV_F16, SHOAL_KV_F32};
    static const char *const names[] = {"h2o", "diverse"};
    enum {
        LONE = 3,
        TWIN = 7
    };
    for (size_t i = 0; i < 4; i++) {
        shoal_kv_shape shape = shape_of(names[i / 2]);
        shape.type = types[i % 2];
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        float out[DIM] = {0};
        for (size_t p = 0; p <= BUDGET; p++) {
            float shares[BUDGET];
            const void *k_blocks[BUDGET / 32];
            const void *v_blocks[BUDGET / 32];
            float q[DIM] = {1, 0, 0, 0, 0.5F};
            float k[DIM] = {2, p % 2 ? 3.0F : -3.0F, 3.0F * sinf((float)(p / 2)),
                            3.0F * cosf((float)(p / 2))};
            float v[DIM] = {p == LONE, p == TWIN};
            if (p == LONE) {
                memcpy(k, (float[DIM]){-2, 0, 0, 0, -2}, sizeof k);
            } else if (p == TWIN || p == TWIN + 1) {
                memcpy(k, (float[DIM]){p == TWIN ? -1.9F : -1.8F, 0, 0, 0, 0, 3}, sizeof k);
            }
            assert_int_equal(shoal_kv_seq_reserve(seq, p + 1), SHOAL_OK);
            shoal_attend a = one_row(q, out);
            shoal_kv_attend_evicting(&kernels, seq, 1, 0, p, k, v, k_blocks, v_blocks, shares, &a);
            shoal_kv_seq_advance(seq, p + 1);
        }
        assert_true((out[0] == 0) == (i / 2 == 0)); /* LONE's value is gone */
        assert_true((out[1] == 0) == (i / 2 == 1));
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

/* The first rows pay nearly all to one token, the many behind them nothing to it: its sum stays the
 * greatest, but not where what was paid long ago counts less. */
static void test_a2sf_forgets_what_was_paid_long_ago(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, UINT32_MAX);
    static const char *const names[] = {"h2o", "a2sf"};
    enum {
        DEAR = 7
    };
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        shoal_kv_shape shape = shape_of(names[i]);
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        for (size_t p = 0; p < N_CTX; p++) {
            float shares[BUDGET];
            const void *k_blocks[BUDGET / 32];
            const void *v_blocks[BUDGET / 32];
            float q[DIM] = {p < BUDGET ? 1 : -1};
            float k[DIM] = {p == DEAR ? 9 : 0};
            float v[DIM] = {p == DEAR ? 1 : 0};
            float out[DIM];
            assert_int_equal(shoal_kv_seq_reserve(seq, p + 1), SHOAL_OK);
            shoal_attend a = one_row(q, out);
            shoal_kv_attend_evicting(&kernels, seq, 1, 0, p, k, v, k_blocks, v_blocks, shares, &a);
            shoal_kv_seq_advance(seq, p + 1);
            if (p == DEAR || p == (size_t)BUDGET + 30 || p + 1 == N_CTX) {
                bool held = i == 0 || p + 1 < N_CTX;
                assert_true(held ? out[0] > 0 : out[0] == 0); /* nobody else has such a value */
            }
        }
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

static void test_pages_never_exceed_the_budget(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    const char *const names[] = {"window", "h2o", "diverse", "a2sf"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        shoal_kv_shape shape = shape_of(names[i]);
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        assert_int_equal(shoal_kv_pool_pages_for(pool, 33), N_LAYERS * 2);
        assert_int_equal(shoal_kv_pool_pages_for(pool, N_CTX), N_LAYERS * BUDGET / 32);
        assert_int_equal(shoal_kv_pages_for(&shape, 20, N_CTX), N_LAYERS * BUDGET / 32);
        assert_int_equal(shoal_kv_pool_tokens_max(pool), N_CTX);
        for (size_t n = 1; n <= N_CTX; n++) {
            feed(&kernels, seq, i);
            size_t n_held = SHOAL_MIN(n, (size_t)BUDGET);
            assert_int_equal(shoal_kv_n_held(seq, n), n_held);
            assert_int_equal(shoal_kv_seq_length(seq), n);
            assert_int_equal(N_PAGES - shoal_kv_pool_n_free(pool), N_LAYERS * ((n_held + 31) / 32));
        }
        shoal_kv_need need = shoal_kv_seq_need(seq);
        assert_int_equal(need.n_pages_held, N_LAYERS * BUDGET / 32);
        assert_int_equal(need.n_pages_given, N_LAYERS * BUDGET / 32);
        assert_int_equal(need.n_rows_held, 0);
        assert_int_equal(shoal_kv_seq_reserve(seq, N_CTX + 1), SHOAL_E_LIMIT);
        shoal_kv_seq_free(seq);
        assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
        shoal_kv_pool_free(pool);
    }
}

/* Once the budget is there, nothing more is needed: another sequence may have all the rest. */
static void test_a_full_sequence_goes_on_in_a_full_pool(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    shoal_kv_shape shape = shape_of("h2o");
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, N_LAYERS * BUDGET / 32, N_CTX, 20, &pool, NULL),
                     SHOAL_OK);
    shoal_kv_seq *seq = seq_of(pool);
    shoal_kv_seq *other = seq_of(pool);
    for (size_t n = 0; n < BUDGET - 31; n++) {
        feed(&kernels, seq, 1);
    }
    assert_int_equal(shoal_kv_pool_n_free(pool), 0);
    assert_int_equal(shoal_kv_seq_reserve(other, 1), SHOAL_BUSY);
    assert_int_equal(shoal_kv_seq_need(seq).n_rows_held, N_CTX - (BUDGET - 31));
    while (shoal_kv_seq_length(seq) < N_CTX) {
        feed(&kernels, seq, 1);
    }
    shoal_kv_seq_free(other);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(pool);
}

static void test_truncate_leaves_what_is_exact_or_nothing(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    const struct {
        const char *name;
        size_t n, cut, left;
    } rows[] = {
        {"window", BUDGET, BUDGET, BUDGET},
        {"window", BUDGET, BUDGET - 1, BUDGET - 1},
        {"window", BUDGET, 1, 1},
        {"window", BUDGET + 1, BUDGET + 1, BUDGET + 1},
        {"window", BUDGET + 1, BUDGET, 0},
        {"window", N_CTX, N_CTX - 1, 0},
        {"h2o", 20, 20, 20},
        {"h2o", 20, 19, 0},
        {"h2o", BUDGET + 9, BUDGET + 9, BUDGET + 9},
        {"h2o", BUDGET + 9, BUDGET + 8, 0},
        {"diverse", BUDGET + 9, BUDGET + 9, BUDGET + 9},
        {"diverse", 20, 19, 0},
        {"a2sf", BUDGET + 9, BUDGET + 9, BUDGET + 9},
        {"a2sf", 20, 19, 0},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_kv_shape shape = shape_of(rows[i].name);
        shoal_kv_pool *pool = pool_of(&shape);
        shoal_kv_seq *seq = seq_of(pool);
        for (size_t n = 0; n < rows[i].n; n++) {
            feed(&kernels, seq, 2);
        }
        assert_int_equal(shoal_kv_seq_truncate(seq, rows[i].cut), rows[i].left);
        assert_int_equal(shoal_kv_seq_length(seq), rows[i].left);
        if (rows[i].left == 0) {
            assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
        }
        feed(&kernels, seq, 2);
        shoal_kv_seq_free(seq);
        shoal_kv_pool_free(pool);
    }
}

static void test_sharing_and_moving_are_refused(void **state)
{
    (void)state;
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    shoal_kv_shape shape = shape_of("window");
    shoal_kv_pool *pool = pool_of(&shape);
    shoal_kv_seq *seq = seq_of(pool);
    shoal_kv_seq *fork = NULL;
    uint32_t pages[N_LAYERS] = {0};
    size_t n_bytes = shoal_kv_block_bytes(&shape, 0);
    uint8_t *bytes = shoal_calloc(n_bytes, 1);
    for (size_t n = 0; n < 40; n++) {
        feed(&kernels, seq, 3);
    }
    assert_false(shoal_kv_seq_has_block(seq, 0));
    assert_int_equal(shoal_kv_block_keep(seq, 0, pages), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_block_export(seq, 0, bytes), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_fork(seq, 40, &fork), SHOAL_E_LIMIT);
    assert_null(fork);
    assert_int_equal(shoal_kv_seq_fork(seq, 0, &fork), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_adopt(fork, pages, 1), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_block_import(fork, bytes, n_bytes), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_length(fork), 0);
    feed(&kernels, fork, 4);
    shoal_kv_seq_free(fork);
    shoal_kv_seq_free(seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_kv_pool_free(pool);
    shoal_free(bytes);
}

static void test_shapes_that_cannot_be_evicted_are_refused_by_name(void **state)
{
    (void)state;
    static const size_t windows[N_LAYERS] = {0, 50};
    const struct {
        shoal_kv_type type;
        const size_t *windows;
        size_t budget;
        bool none;
        const char *why;
    } rows[] = {
        {SHOAL_KV_Q8T, NULL, BUDGET, false, "from q8t: take f16 or f32"},
        {SHOAL_KV_K4V4, NULL, BUDGET, false, "from q4: take f16 or f32"},
        {SHOAL_KV_F16, windows, BUDGET, false, "from layers that have a window"},
        {SHOAL_KV_F16, NULL, 0, false, "budget of 0 tokens"},
        {SHOAL_KV_F16, NULL, 31, false, "budget of 31 tokens"},
        {SHOAL_KV_F16, NULL, 33, false, "budget of 33 tokens"},
        {SHOAL_KV_F16, NULL, 65536 + 32, false, "a multiple of 32 up to 65536"},
        {SHOAL_KV_F16, NULL, BUDGET, true, "a policy (window, h2o, diverse, a2sf)"},
        {SHOAL_KV_F16, NULL, 32, false, NULL},
        {SHOAL_KV_F32, NULL, 65536, false, NULL},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_kv_shape shape = shape_of("h2o");
        shoal_kv_pool *pool = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shape.type = rows[i].type;
        shape.windows = rows[i].windows;
        shape.budget = rows[i].budget;
        shape.evict = rows[i].none ? NULL : shape.evict;
        shoal_status status = shoal_kv_pool_new(&shape, N_PAGES, N_CTX, 20, &pool, &err);
        assert_int_equal(status, rows[i].why ? SHOAL_E_INVALID : SHOAL_OK);
        if (rows[i].why && !strstr(err.text, rows[i].why)) {
            fail_msg("\"%s\" is not in \"%s\"", rows[i].why, err.text);
        }
        shoal_kv_pool_free(pool);
    }
}

static void test_form_says_what_is_evicted(void **state)
{
    (void)state;
    const shoal_kv_shape shapes[] = {shape_of("window"), shape_of("h2o"), shape_of("h2o"),
                                     shape_of("h2o")};
    char forms[SHOAL_COUNT(shapes)][SHOAL_KV_FORM_BYTES];
    for (size_t i = 0; i < SHOAL_COUNT(shapes); i++) {
        shoal_kv_shape shape = shapes[i];
        shape.budget = i == 2 ? 32 : shape.budget;
        shape.evict = i == 3 ? NULL : shape.evict;
        shoal_kv_form(&shape, forms[i]);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(forms[i], forms[j]);
        }
    }
    assert_non_null(strstr(forms[1], "evict=h2o budget=64"));
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    shoal_kv_shape shape = shape_of("h2o");
    shoal_kv_pool *pool = pool_of(&shape);
    size_t n_failed = 0;
    for (uint64_t i = 0; i < 10; i++) {
        shoal_kv_seq *seq = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_kv_seq_new(pool, &seq);
        shoal_mem_fail_at(UINT64_MAX);
        n_failed += status == SHOAL_E_NOMEM;
        assert_true((status == SHOAL_OK) == (seq != NULL));
        shoal_kv_seq_free(seq);
    }
    assert_int_equal(n_failed, 4); /* the sequence, its pages, positions and mass */
    shoal_kv_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_knows_its_names_and_no_other),
        cmocka_unit_test(test_window_holds_the_sinks_and_the_newest),
        cmocka_unit_test(test_h2o_keeps_the_best_of_all_subsets),
        cmocka_unit_test(test_h2o_takes_no_number_for_no_mass),
        cmocka_unit_test(test_diverse_leaves_what_stands_for_most),
        cmocka_unit_test(test_diverse_looks_at_the_lightest_alone),
        cmocka_unit_test(test_greedy_sets_have_their_share_of_the_optimum),
        cmocka_unit_test(test_attention_reads_what_is_held_and_no_more),
        cmocka_unit_test(test_h2o_counts_the_attention_of_every_head),
        cmocka_unit_test(test_diverse_compares_the_keys_that_are_held),
        cmocka_unit_test(test_a2sf_forgets_what_was_paid_long_ago),
        cmocka_unit_test(test_pages_never_exceed_the_budget),
        cmocka_unit_test(test_a_full_sequence_goes_on_in_a_full_pool),
        cmocka_unit_test(test_truncate_leaves_what_is_exact_or_nothing),
        cmocka_unit_test(test_sharing_and_moving_are_refused),
        cmocka_unit_test(test_shapes_that_cannot_be_evicted_are_refused_by_name),
        cmocka_unit_test(test_form_says_what_is_evicted),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
