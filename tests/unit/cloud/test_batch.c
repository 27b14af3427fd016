/* SPDX-License-Identifier: Apache-2.0
 *
 * Many sessions in one batch: each gets the tokens it would get alone, prompts do not stop the
 * others, and too little KV memory costs time, never tokens and never a standstill.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "common/base/rng.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N_EDGES = 8
};

typedef struct party {
    edge edges[N_EDGES];
    shoal_sampling sampling[N_EDGES];
    int32_t truth[N_EDGES][RIG_TEXT_MAX];
    size_t n_prompt[N_EDGES];
    size_t n_truth[N_EDGES];
    uint64_t rng;
} party;

static party shared_party;

static uint64_t pick(party *p, uint64_t n)
{
    return shoal_rng_next(&p->rng) % n;
}

/* n generations with prompts between 5 and 40 tokens, each decoded alone on an empty rig. */
static void party_init(party *p, rig *r, size_t n, size_t n_max, uint64_t seed)
{
    memset(p, 0, sizeof(*p));
    p->rng = seed;
    for (size_t i = 0; i < n; i++) {
        p->n_prompt[i] = 5 + pick(p, 36);
        for (size_t t = 0; t < p->n_prompt[i]; t++) {
            p->truth[i][t] = (int32_t)(3 + pick(p, SHOAL_TINY_VOCAB - 3));
        }
        p->sampling[i] = shoal_sampling_default();
        p->sampling[i].temperature = i % 3 == 0 ? 0.0f : 0.9f;
        p->sampling[i].seed = seed * 100 + i;
        p->n_truth[i] = rig_decode(r, &p->sampling[i], p->truth[i], p->n_prompt[i], n_max);
    }
    for (size_t i = 0; i < n; i++) {
        edge_init(&p->edges[i], r);
        edge_open(&p->edges[i], &p->sampling[i], n_max);
        edge_prompt(&p->edges[i], p->truth[i], p->n_prompt[i]);
    }
}

static void party_fini(party *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        edge_fini(&p->edges[i]);
    }
}

/* A move of edge i: drafts with some wrong ids, or a Continue. */
static void party_move(party *p, size_t i)
{
    edge *e = &p->edges[i];
    if (e->done) {
        fail_msg("edge %zu: %s", i, e->error);
    }
    if (e->n_confirmed >= p->n_truth[i]) {
        return;
    }
    if (i % 4 == 3) {
        edge_continue(e, e->n_confirmed, 1 + pick(p, 30));
        return;
    }
    int32_t ids[8];
    size_t n_wish = 1 + pick(p, 8);
    size_t n = SHOAL_MIN(n_wish, p->n_truth[i] - e->n_sent);
    for (size_t k = 0; k < n; k++) {
        bool wrong = pick(p, 100) < 15;
        ids[k] = wrong ? (int32_t)pick(p, SHOAL_TINY_VOCAB) : p->truth[i][e->n_sent + k];
    }
    if (n > 0) {
        edge_draft(e, ids, n);
    }
}

static bool party_done(const party *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p->edges[i].n_confirmed < p->n_truth[i]) {
            return false;
        }
    }
    return true;
}

/* Moves and steps at random until all have their text. Returns the evictions. */
static size_t party_run(party *p, rig *r, size_t n)
{
    for (size_t round = 0; !party_done(p, n); round++) {
        if (round > 50000) {
            fail_msg("no end after %zu rounds", round);
        }
        for (size_t i = 0; i < n; i++) {
            if (pick(p, 3) == 0) {
                party_move(p, i);
            }
        }
        shoal_status status = shoal_batch_step(r->batch, &r->clock);
        assert_true(status >= 0);
        r->now_ns += 5000000;
    }
    rig_settle(r);
    size_t n_evictions = 0;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(p->edges[i].n_confirmed, p->n_truth[i]);
        assert_memory_equal(p->edges[i].text, p->truth[i], p->n_truth[i] * sizeof(int32_t));
        n_evictions += shoal_session_stats_get(p->edges[i].session)->n_evictions;
    }
    return n_evictions;
}

static void test_many_sessions_equal_alone(void **state)
{
    (void)state;
    const rig_settings settings[] = {
        {.seed = 7},
        {.seed = 7, .n_threads = 2, .n_rows_max = 40, .n_logits_max = 5, .prefill_chunk = 3},
        {.seed = 7, .n_rows_max = 16, .n_logits_max = 1, .prefill_chunk = 64},
        {.seed = 7, .prefix_percent = 100},
    };
    for (size_t s = 0; s < SHOAL_COUNT(settings); s++) {
        rig r;
        rig_init(&r, &settings[s]);
        party_init(&shared_party, &r, N_EDGES, 80, s + 1);
        assert_int_equal(party_run(&shared_party, &r, N_EDGES), 0);
        party_fini(&shared_party, N_EDGES);
        const shoal_kv_pool *pool = shoal_engine_kv(r.engine);
        assert_int_equal(shoal_kv_pool_n_free(pool) + shoal_kv_pool_n_kept(pool),
                         shoal_kv_pool_n_pages(pool));
        rig_fini(&r);
    }
}

static void test_pool_too_small_for_all_evicts_and_loses_nothing(void **state)
{
    (void)state;
    /* A session of 80 tokens needs 3 pages; 8 of them 24. With a cache, who loses its KV finds it
     * there and holds it again: that must end, too. */
    for (size_t i = 0; i < 8; i++) {
        size_t n_pages = 3 + i / 2 * 3;
        rig r;
        rig_init(&r, &(rig_settings){.seed = 7, .n_pages = n_pages, .prefix_percent = i % 2 * 100});
        party_init(&shared_party, &r, N_EDGES, 80, n_pages);
        assert_true(party_run(&shared_party, &r, N_EDGES) > 0);
        party_fini(&shared_party, N_EDGES);
        const shoal_kv_pool *pool = shoal_engine_kv(r.engine);
        assert_int_equal(shoal_kv_pool_n_free(pool) + shoal_kv_pool_n_kept(pool),
                         shoal_kv_pool_n_pages(pool));
        rig_fini(&r);
    }
}

/* Brings a session to n tokens of KV. */
static void fill(edge *e, rig *r, size_t n)
{
    int32_t ids[RIG_TEXT_MAX];
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(10 + i % 200);
    }
    edge_init(e, r);
    edge_open(e, &sampling, 96);
    edge_prompt(e, ids, n);
    rig_settle(r);
}

static void test_silent_older_session_keeps_kv_for_the_hold_time(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .n_pages = 4});
    static edge older;
    static edge younger;
    fill(&older, &r, 90);
    assert_int_equal(shoal_session_kv_length(older.session), 89);
    edge_init(&younger, &r);
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    edge_open(&younger, &sampling, 96);
    edge_prompt(&younger, older.text, 60);
    edge_continue(&younger, 60, 1);
    shoal_status status = SHOAL_OK;
    while ((status = shoal_batch_step(r.batch, &r.clock)) == SHOAL_OK) {
    }
    assert_int_equal(status, SHOAL_BUSY);
    assert_int_equal(shoal_session_kv_length(older.session), 89);
    r.now_ns += 990000000u;
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_BUSY);
    r.now_ns += 10000000u;
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
    assert_int_equal(shoal_session_kv_length(older.session), 0);
    rig_settle(&r);
    assert_int_equal(younger.n_confirmed, 61);
    /* The older one comes back: the younger is silent now and gives way at once. */
    edge_continue(&older, 90, 1);
    uint64_t before_ns = r.now_ns;
    while ((status = shoal_batch_step(r.batch, &r.clock)) == SHOAL_OK) {
    }
    assert_int_equal(status, SHOAL_EOF);
    assert_true(r.now_ns == before_ns);
    assert_int_equal(older.n_confirmed, 91);
    edge_fini(&older);
    edge_fini(&younger);
    rig_fini(&r);
}

static void test_long_prompt_does_not_stop_decoding(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .prefill_chunk = 4});
    static edge talker;
    static edge reader;
    fill(&talker, &r, 8);
    int32_t ids[60];
    for (size_t i = 0; i < 60; i++) {
        ids[i] = (int32_t)(20 + i);
    }
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    edge_init(&reader, &r);
    edge_open(&reader, &sampling, 96);
    edge_prompt(&reader, ids, 60);
    edge_continue(&reader, 60, 1);
    edge_continue(&talker, 8, 12);
    for (size_t step = 1; step <= 12; step++) {
        assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
        assert_int_equal(talker.n_confirmed, 8 + step);
    }
    assert_int_equal(shoal_session_kv_length(reader.session), 48);
    rig_settle(&r);
    assert_int_equal(reader.n_confirmed, 61);
    edge_fini(&talker);
    edge_fini(&reader);
    rig_fini(&r);
}

static void test_verification_does_not_stop_a_prompt(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .n_rows_max = 16, .prefill_chunk = 64});
    for (size_t i = 0; i < N_EDGES; i++) {
        fill(&shared_party.edges[i], &r, 8);
    }
    static edge reader;
    shoal_sampling sampling = shoal_sampling_default();
    int32_t ids[60];
    for (size_t i = 0; i < 60; i++) {
        ids[i] = (int32_t)(20 + i);
    }
    edge_init(&reader, &r);
    edge_open(&reader, &sampling, 96);
    edge_prompt(&reader, ids, 60);
    for (size_t step = 1; step <= 7; step++) {
        for (size_t i = 0; i < N_EDGES; i++) {
            /* More drafts than rows, every time; that they are wrong keeps them coming. */
            edge_draft(&shared_party.edges[i], ids, 10);
        }
        assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
        assert_int_equal(shoal_session_kv_length(reader.session), 8 * step);
    }
    rig_settle(&r);
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_fini(&shared_party.edges[i]);
    }
    edge_fini(&reader);
    rig_fini(&r);
}

static void test_scarce_logits_are_shared_in_turn(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .n_logits_max = 2});
    for (size_t i = 0; i < N_EDGES; i++) {
        fill(&shared_party.edges[i], &r, 8);
    }
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_continue(&shared_party.edges[i], 8, 80);
    }
    for (size_t step = 0; step < 70; step++) {
        assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
    }
    /* The oldest gets one of the two places, the other one goes round. */
    for (size_t i = 1; i < N_EDGES; i++) {
        size_t n = shared_party.edges[i].n_confirmed - 8;
        assert_true(n >= 9 && n <= 11);
    }
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_fini(&shared_party.edges[i]);
    }
    rig_fini(&r);
}

static void test_tenants_share_scarce_logits(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .n_logits_max = 2});
    r.tenant = "greedy";
    for (size_t i = 0; i < N_EDGES; i++) {
        if (i == N_EDGES - 1) {
            r.tenant = "modest";
        }
        fill(&shared_party.edges[i], &r, 8);
    }
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_continue(&shared_party.edges[i], 8, 80);
    }
    for (size_t step = 0; step < 40; step++) {
        assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
    }
    /* One of two places in each step, against seven sessions of another tenant. */
    assert_int_equal(shared_party.edges[N_EDGES - 1].n_confirmed, 48);
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_fini(&shared_party.edges[i]);
    }
    rig_fini(&r);
}

/* Rows of a session with its prompt of n tokens and one token behind it. */
static size_t rows_of(rig *r, edge *e, const int32_t *ids, size_t n)
{
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    edge_init(e, r);
    edge_open(e, &sampling, 96);
    edge_prompt(e, ids, n);
    edge_continue(e, n, 4);
    size_t n_had = 0;
    size_t n_rows = 0;
    while (shoal_batch_step(r->batch, &r->clock) == SHOAL_OK) {
        size_t n_has = shoal_session_kv_length(e->session);
        n_rows += n_has - n_had - (n_has - n_had >= 64 ? 64 : 0); /* two blocks were cached */
        n_had = n_has;
    }
    assert_int_equal(e->n_confirmed, n + 4);
    return n_rows;
}

static void test_common_prefix_is_computed_once_for_each_tenant(void **state)
{
    (void)state;
    rig r;
    int32_t ids[RIG_TEXT_MAX];
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = 50});
    for (size_t i = 0; i < 80; i++) {
        ids[i] = (int32_t)(10 + i * 7 % 200);
    }
    (void)rig_decode(&r, &sampling, ids, 80, 84);
    static edge edges[4];
    r.tenant = "a";
    assert_int_equal(rows_of(&r, &edges[0], ids, 80), 83);
    assert_int_equal(rows_of(&r, &edges[1], ids, 80), 83 - 64);
    r.tenant = "b";
    assert_int_equal(rows_of(&r, &edges[2], ids, 80), 83);
    assert_int_equal(rows_of(&r, &edges[3], ids, 80), 83 - 64);
    for (size_t i = 0; i < 4; i++) {
        assert_memory_equal(edges[i].text, ids, 84 * sizeof(int32_t));
        edge_fini(&edges[i]);
    }
    rig_fini(&r);
}

/* Before a step is run it is known what a session still waits for, and of prompts as long how much
 * is found. */
static void test_look_finds_a_prompt_without_a_step(void **state)
{
    (void)state;
    static int32_t ids[RIG_TEXT_MAX];
    static edge edges[24];
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = 50});
    for (size_t i = 0; i < 80; i++) {
        ids[i] = (int32_t)(10 + i * 7 % 200);
    }
    assert_true(shoal_batch_found(r.batch) == 0.0);
    (void)rows_of(&r, &edges[0], ids, 80);
    assert_true(shoal_batch_found(r.batch) == 0.0);
    const shoal_sampling sampling = shoal_sampling_default();
    double before = 0.0;
    for (size_t i = 1; i < SHOAL_COUNT(edges); i++) {
        edge_init(&edges[i], &r);
        edge_open(&edges[i], &sampling, 96);
        edge_prompt(&edges[i], ids, 80);
        assert_int_equal(shoal_session_kv_length(edges[i].session), 0);
        shoal_batch_look(r.batch, &r.clock);
        assert_int_equal(shoal_session_kv_length(edges[i].session), 64);
        shoal_batch_look(r.batch, &r.clock);
        double found = shoal_batch_found(r.batch);
        assert_true(found > before && found < 0.8);
        before = found;
    }
    assert_true(before > 0.7);
    rig_settle(&r);
    /* Nothing of another text is there. */
    edge other;
    for (size_t i = 0; i < 80; i++) {
        ids[i] = (int32_t)(11 + i * 5 % 200);
    }
    (void)rows_of(&r, &other, ids, 80);
    assert_true(shoal_batch_found(r.batch) < before);
    edge_fini(&other);
    for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
        edge_fini(&edges[i]);
    }
    rig_fini(&r);
}

enum {
    N_CROWD = 64,
    N_CROWD_SHARED = 448, /* of a system prompt */
    N_CROWD_OWN = 16,
    N_CROWD_TEXT = N_CROWD_SHARED + N_CROWD_OWN + 4
};

/* All at once, drawn with different seeds: each as alone, and what is common computed once. */
static void test_crowd_with_one_long_prompt_computes_it_once(void **state)
{
    (void)state;
    static edge edges[N_CROWD];
    static int32_t truth[N_CROWD][RIG_TEXT_MAX];
    size_t n_truth[N_CROWD];
    size_t n_computed = 0;
    size_t n_own = 0;
    rig r;
    rig_init(
        &r, &(rig_settings){.seed = 7, .prefix_percent = 50, .n_pages = 4096, .prefill_chunk = 32});
    for (size_t i = 0; i < N_CROWD; i++) {
        shoal_sampling sampling = shoal_sampling_default();
        sampling.seed = i;
        for (size_t k = 0; k < N_CROWD_SHARED + N_CROWD_OWN; k++) {
            truth[i][k] = (int32_t)(10 + (k * 7 + (k < N_CROWD_SHARED ? 0 : i * 3)) % 200);
        }
        n_truth[i] =
            rig_decode(&r, &sampling, truth[i], N_CROWD_SHARED + N_CROWD_OWN, N_CROWD_TEXT);
        edge_init(&edges[i], &r);
        edge_open(&edges[i], &sampling, N_CROWD_TEXT);
        edge_prompt(&edges[i], truth[i], N_CROWD_SHARED + N_CROWD_OWN);
        edge_continue(&edges[i], N_CROWD_SHARED + N_CROWD_OWN, 4);
    }
    rig_settle(&r);
    for (size_t i = 0; i < N_CROWD; i++) {
        assert_int_equal(edges[i].n_confirmed, n_truth[i]);
        assert_memory_equal(edges[i].text, truth[i], n_truth[i] * sizeof(int32_t));
        size_t n_cached = shoal_session_stats_get(edges[i].session)->n_cached;
        assert_int_equal(edges[i].n_cached, n_cached);
        assert_int_equal(edges[i].n_cached_told, n_cached > 0);
        n_computed += n_truth[i] - 1 - n_cached;
        n_own += n_truth[i] - 1 - N_CROWD_SHARED;
        edge_fini(&edges[i]);
    }
    assert_int_equal(n_computed, N_CROWD_SHARED + n_own);
    rig_fini(&r);
}

/* What was found once is told once: not again when it was dropped and found again. */
static void test_text_found_again_after_eviction_is_not_counted(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    const shoal_sampling sampling = shoal_sampling_default();
    rig r;
    edge e;
    rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = 50});
    for (size_t i = 0; i < 80; i++) {
        truth[i] = (int32_t)(10 + i * 7 % 200);
    }
    size_t n = rig_decode(&r, &sampling, truth, 80, 84);
    edge_init(&e, &r);
    edge_open(&e, &sampling, 84);
    edge_prompt(&e, truth, 80);
    rig_settle(&r);
    shoal_session_evict(e.session);
    edge_continue(&e, 80, 4);
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
    assert_in_range(shoal_session_kv_length(e.session), 65, 80);
    rig_settle(&r);
    assert_memory_equal(e.text, truth, n * sizeof(int32_t));
    assert_int_equal(shoal_session_stats_get(e.session)->n_evictions, 1);
    assert_int_equal(shoal_session_stats_get(e.session)->n_cached, 0);
    edge_fini(&e);
    rig_fini(&r);
}

/* A millisecond passes whenever it is looked at. */
static uint64_t tick(void *ctx)
{
    uint64_t *now_ns = ctx;
    *now_ns += 1000000u;
    return *now_ns;
}

/* A step takes 1 ms and what follows it 2: of one session no more than 3 can be told, of several
 * the samples of all. */
static void test_edges_hear_what_work_costs(void **state)
{
    (void)state;
    static edge edges[N_EDGES];
    const shoal_sampling sampling = shoal_sampling_default();
    int32_t prompt[40];
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7});
    r.clock = (shoal_clock){.now_ns = tick, .ctx = &r.now_ns};
    for (size_t i = 0; i < SHOAL_COUNT(prompt); i++) {
        prompt[i] = (int32_t)(10 + i * 7 % 200);
    }
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_init(&edges[i], &r);
        edge_open(&edges[i], &sampling, 60);
        assert_int_equal(edges[i].n_costs, i == 0 ? 0 : 1); /* at once, where it is known */
        edge_prompt(&edges[i], prompt, SHOAL_COUNT(prompt));
        edge_continue(&edges[i], SHOAL_COUNT(prompt), 8);
        if (i == 0) {
            rig_settle(&r);
            assert_true(edges[0].n_costs > 0);
            assert_in_range(edges[0].cost.step_us, 1000, 3000);
            /* One row at a time: a draft is taken to be free until there was one. */
            assert_true(edges[0].cost.row_us < edges[0].cost.step_us);
            assert_true(edges[0].cost.price < SHOAL_WIRE_PRICE_ONE);
            /* Both are what the node computed for it. */
            const shoal_session_stats *stats = shoal_session_stats_get(edges[0].session);
            uint64_t before_us = stats->compute_us;
            edge_continue(&edges[0], edges[0].n_confirmed, 1);
            assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
            assert_int_equal(stats->compute_us - before_us, 3000);
        }
    }
    rig_settle(&r);
    assert_in_range(edges[N_EDGES - 1].cost.step_us, 3001, 1000000);
    assert_true(edges[N_EDGES - 1].cost.price <= SHOAL_WIRE_PRICE_ONE);
    for (size_t i = 0; i < N_EDGES; i++) {
        edge_fini(&edges[i]);
    }
    rig_fini(&r);
}

static void test_held_session_gets_no_work(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7});
    static edge e;
    fill(&e, &r, 8);
    edge_continue(&e, 8, 3);
    shoal_batch_hold(r.batch, e.session, true);
    assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_EOF);
    shoal_batch_hold(r.batch, e.session, false);
    double n_learnt = shoal_batch_cost(r.batch)->n;
    assert_int_equal(rig_settle(&r), 3);
    assert_true(shoal_batch_cost(r.batch)->n > n_learnt);
    assert_int_equal(e.n_confirmed, 11);
    edge_fini(&e);
    rig_fini(&r);
}

static void test_add_past_limit_is_busy(void **state)
{
    (void)state;
    rig r;
    rig_init(&r, &(rig_settings){.seed = 7});
    static edge edges[64];
    for (size_t i = 0; i < 64; i++) {
        edge_init(&edges[i], &r);
    }
    assert_int_equal(shoal_batch_add(r.batch, edges[0].session, 0), SHOAL_BUSY);
    edge_fini(&edges[63]);
    edge_init(&edges[63], &r);
    for (size_t i = 0; i < 64; i++) {
        edge_fini(&edges[i]);
    }
    rig_fini(&r);
}

/* Before the first session: from nothing but steps of its own, which leave nothing behind. */
static void test_steps_are_timed_before_there_is_work(void **state)
{
    (void)state;
    uint64_t stands_ns = 5;
    const shoal_clock real = shoal_clock_real();
    const shoal_clock stands = shoal_clock_virtual(&stands_ns);
    const struct {
        const shoal_clock *timing;
        size_t n_rows_max;
        bool known;
    } rows[] = {{&real, 64, true},
                {&real, 8, true},
                {&real, 7, false},
                {&stands, 64, false},
                {NULL, 64, false}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        rig r;
        rig_init(&r, &(rig_settings){.seed = 1,
                                     .timing = rows[i].timing,
                                     .n_rows_max = rows[i].n_rows_max,
                                     .n_logits_max = 4});
        const shoal_sched_cost *cost = shoal_batch_cost(r.batch);
        const shoal_kv_pool *pool = shoal_engine_kv(r.engine);
        assert_int_equal(shoal_sched_cost_us(cost, 1) > 0.0, rows[i].known);
        assert_int_equal(cost->known_fixed_us > 0.0, rows[i].known);
        assert_true(cost->n <= 0.0);
        assert_int_equal(shoal_kv_pool_n_free(pool), shoal_kv_pool_n_pages(pool));
        rig_fini(&r);
    }
}

/* --- what admission is told ------------------------------------------------------------------- */

/* A clock for the steps that are timed first: of each it is asked whether there is time, when it
 * begins and when it ends; three of 1 row, three of 8, three of 32, each 1 ms and 0.1 ms a row. */
static uint64_t read_timed(void *ctx)
{
    static const uint64_t us[] = {1100, 1800, 4200};
    uint64_t *n_reads = ctx;
    uint64_t now_us = 0;
    uint64_t n = (*n_reads)++;
    for (uint64_t i = 1; i <= n; i++) {
        /* The first read is of when to stop; after it every third is the end of a step. */
        now_us += i % 3 == 0 && i <= 27 ? us[(i / 3 - 1) / 3] : 0;
    }
    return now_us * 1000;
}

/* Sessions that decode take their rows of a step, the time limit cuts it, half of it at least is
 * the prompts': as many rows as admission is told are then run. */
static void test_load_is_what_a_step_runs(void **state)
{
    (void)state;
    static edge edges[12];
    static int32_t prompt[400];
    const struct {
        size_t n_decoding;
        size_t n_rows_max;
        size_t chunk;
        uint64_t step_time_us;
        size_t n_rows; /* of the prompt in the first step */
        size_t n_samples;
    } rows[] = {
        {0, 64, 1000, 0, 32, 16},    {0, 64, 31, 0, 31, 16},     {11, 64, 1000, 0, 32, 16},
        {0, 64, 1000, 2050, 10, 16}, {3, 64, 1000, 2050, 7, 16}, {11, 64, 1000, 2050, 5, 16},
        {0, 2, 1000, 0, 1, 2},       {1, 2, 1000, 0, 1, 2},
    };
    const shoal_sampling sampling = shoal_sampling_default();
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        uint64_t n_reads = 0;
        const shoal_clock timing = {.now_ns = read_timed, .ctx = &n_reads};
        rig r;
        rig_init(&r, &(rig_settings){.seed = 7,
                                     .timing = &timing,
                                     .n_rows_max = rows[i].n_rows_max,
                                     .n_logits_max = rows[i].n_samples,
                                     .prefill_chunk = rows[i].chunk,
                                     .step_time_us = rows[i].step_time_us});
        size_t n = rows[i].n_decoding;
        for (size_t k = 0; k < n; k++) {
            edge_init(&edges[k], &r);
            edge_open(&edges[k], &sampling, 96);
            rig_prompt(1, prompt, 1);
            edge_prompt(&edges[k], prompt, 1);
            edge_continue(&edges[k], 1, 50);
        }
        edge *reader = &edges[n];
        edge_init(reader, &r);
        edge_open(reader, &sampling, RIG_TEXT_MAX);
        rig_prompt(1, prompt, SHOAL_COUNT(prompt));
        edge_prompt(reader, prompt, SHOAL_COUNT(prompt));
        shoal_admit_load load = {.n_decoding = n};
        shoal_batch_load(r.batch, &load);
        assert_int_equal(load.n_samples_step, rows[i].n_samples);
        assert_int_equal(load.n_rows_step, rows[i].n_rows);
        assert_int_equal(shoal_session_kv_length(reader->session), 0);
        assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_OK);
        assert_int_equal(shoal_session_kv_length(reader->session), rows[i].n_rows);
        for (size_t k = 0; k <= n; k++) {
            edge_fini(&edges[k]);
        }
        rig_fini(&r);
    }
}

/* Pages of a common beginning count once for each session but the first. */
static void test_load_tells_the_pages_that_are_shared(void **state)
{
    (void)state;
    static int32_t ids[RIG_TEXT_MAX];
    static edge edges[3];
    for (unsigned percent = 0; percent <= 50; percent += 50) {
        rig r;
        rig_init(&r, &(rig_settings){.seed = 7, .prefix_percent = percent});
        size_t n_layers = shoal_kv_pool_shape(shoal_engine_kv(r.engine))->n_layers;
        for (size_t i = 0; i < 80; i++) {
            ids[i] = (int32_t)(10 + i * 7 % 200);
        }
        shoal_admit_load load = {.n_decoding = 0};
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            (void)rows_of(&r, &edges[i], ids, 80);
            shoal_batch_load(r.batch, &load);
            assert_int_equal(load.n_pages_shared, percent == 0 ? 0 : i * 2 * n_layers);
        }
        for (size_t i = 0; i < SHOAL_COUNT(edges); i++) {
            edge_fini(&edges[i]);
            assert_int_equal(shoal_batch_step(r.batch, &r.clock), SHOAL_EOF);
            shoal_batch_load(r.batch, &load);
            assert_int_equal(load.n_pages_shared,
                             percent == 0 || i == 2 ? 0 : (1 - i) * 2 * n_layers);
        }
        rig_fini(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_sessions_equal_alone),
        cmocka_unit_test(test_pool_too_small_for_all_evicts_and_loses_nothing),
        cmocka_unit_test(test_silent_older_session_keeps_kv_for_the_hold_time),
        cmocka_unit_test(test_long_prompt_does_not_stop_decoding),
        cmocka_unit_test(test_verification_does_not_stop_a_prompt),
        cmocka_unit_test(test_scarce_logits_are_shared_in_turn),
        cmocka_unit_test(test_tenants_share_scarce_logits),
        cmocka_unit_test(test_common_prefix_is_computed_once_for_each_tenant),
        cmocka_unit_test(test_look_finds_a_prompt_without_a_step),
        cmocka_unit_test(test_crowd_with_one_long_prompt_computes_it_once),
        cmocka_unit_test(test_text_found_again_after_eviction_is_not_counted),
        cmocka_unit_test(test_edges_hear_what_work_costs),
        cmocka_unit_test(test_steps_are_timed_before_there_is_work),
        cmocka_unit_test(test_held_session_gets_no_work),
        cmocka_unit_test(test_add_past_limit_is_busy),
        cmocka_unit_test(test_load_is_what_a_step_runs),
        cmocka_unit_test(test_load_tells_the_pages_that_are_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
