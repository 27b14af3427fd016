/* SPDX-License-Identifier: Apache-2.0
 *
 * The session against plain decode: whatever is drafted, however it is grouped, cut and resent,
 * the tokens are the same (R1, R3).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kv/kv_move.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <string.h>

enum {
    N_PROMPT = 21,
    N_TEXT = 96
};

static rig shared;

static int setup(void **state)
{
    (void)state;
    rig_init(&shared, &(rig_settings){.seed = 7});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_fini(&shared);
    return 0;
}

static shoal_sampling sampling_of(float temperature, uint64_t seed)
{
    shoal_sampling s = shoal_sampling_default();
    s.temperature = temperature;
    s.seed = seed;
    return s;
}

/* --- Continue --------------------------------------------------------------------------------- */

static void test_continue_any_split_equals_decode(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(1, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(1.0f, 5);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    for (size_t part = 1; part < 20; part += 6) {
        edge e;
        edge_init(&e, &shared);
        edge_open(&e, &sampling, N_TEXT);
        assert_true(e.opened);
        edge_prompt(&e, truth, N_PROMPT);
        while (e.n_confirmed < n) {
            size_t before = e.n_confirmed;
            edge_continue(&e, before, part);
            rig_settle(&shared);
            assert_int_equal(e.n_confirmed, SHOAL_MIN(n, before + part));
        }
        edge_expect_text(&e, truth, n);
        /* Asked again from the middle: the same tokens come once more and nothing is computed. */
        size_t n_messages = e.n_messages;
        edge_continue(&e, N_PROMPT, 5);
        assert_int_equal(rig_settle(&shared), 0);
        assert_true(e.n_messages > n_messages);
        edge_expect_text(&e, truth, n);
        edge_simple(&e, SHOAL_EDGE_CLOSE);
        assert_true(e.done && e.has_finished_message);
        assert_int_equal(e.status, SHOAL_RPC_OK);
        assert_int_equal(e.finished.n_prompt, N_PROMPT);
        assert_int_equal(e.finished.n_generated, n - N_PROMPT);
        edge_fini(&e);
    }
}

static void test_continue_at_end_token_and_limits_stops(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(3.0f, 0);
    bool seen_end = false;
    /* At a high temperature some seed draws the end token early. */
    for (uint64_t seed = 0; seed < 12; seed++) {
        int32_t truth[RIG_TEXT_MAX];
        rig_prompt(seed, truth, 5);
        sampling.seed = seed;
        size_t n = rig_decode(&shared, &sampling, truth, 5, 200);
        seen_end = seen_end || n < 200;
        edge e;
        edge_init(&e, &shared);
        edge_open(&e, &sampling, 200);
        edge_prompt(&e, truth, 5);
        edge_continue(&e, 5, 100000);
        rig_settle(&shared);
        edge_expect_text(&e, truth, n);
        edge_continue(&e, n, 10);
        assert_int_equal(rig_settle(&shared), 0);
        /* A draft beyond the end is answered by where the text ends. */
        if (n < 199) {
            size_t n_verdicts = e.n_verdicts;
            edge_draft(&e, truth, 1);
            assert_int_equal(rig_settle(&shared), 0);
            assert_int_equal(e.n_verdicts, n_verdicts + 1);
        }
        edge_fini(&e);
    }
    assert_true(seen_end);
}

/* --- drafts ----------------------------------------------------------------------------------- */

typedef struct play {
    uint64_t rng;
    const int32_t *truth;
    size_t n_truth; /* with the end token, if one was drawn */
    size_t n_max;
    unsigned wrong_percent;
    bool bump; /* the edge raises the epoch itself when told that it was wrong */
} play;

static uint64_t pick(play *p, uint64_t n)
{
    return shoal_rng_next(&p->rng) % n;
}

/* Sends between 1 and 20 drafts in one to three messages, true ones corrupted now and then. */
static void send_drafts(edge *e, play *p)
{
    size_t n_messages = 1 + pick(p, 3);
    for (size_t m = 0; m < n_messages && !e->done; m++) {
        int32_t ids[20];
        size_t n_wish = 1 + pick(p, 20);
        size_t n = SHOAL_MIN(n_wish, p->n_max - e->n_sent);
        for (size_t i = 0; i < n; i++) {
            size_t position = e->n_sent + i;
            bool wrong = position >= p->n_truth || pick(p, 100) < p->wrong_percent;
            ids[i] = wrong ? (int32_t)pick(p, SHOAL_TINY_VOCAB) : p->truth[position];
        }
        if (n > 0) {
            edge_draft(e, ids, n);
        }
    }
}

/* One move of the edge; steps of the engine fall anywhere in between. */
static void move(edge *e, play *p)
{
    if (e->rolled_back) {
        e->rolled_back = false;
        if (p->bump) {
            e->epoch++;
        }
    }
    if (e->n_sent < p->n_max && pick(p, 4) != 0) {
        send_drafts(e, p);
    } else if (e->n_sent > e->n_confirmed && pick(p, 4) == 0) {
        /* Idempotence: what is not confirmed is sent once more. */
        size_t n = SHOAL_MIN(e->n_sent - e->n_confirmed, (size_t)SHOAL_WIRE_DRAFT_MAX);
        edge_tokens(e, SHOAL_TOKENS_DRAFT, e->n_confirmed, e->text + e->n_confirmed, n);
    } else if (pick(p, 6) == 0) {
        edge_continue(e, e->n_confirmed, 1 + pick(p, 4));
    }
}

static void play_to_the_end(rig *r, uint64_t seed)
{
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(seed + 40, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(seed % 3 == 0 ? 0.0f : 1.2f, seed);
    sampling.top_k = seed % 2 == 0 ? 0 : 40;
    sampling.repetition_penalty = seed % 4 == 1 ? 1.1f : 1.0f;
    size_t n = rig_decode(r, &sampling, truth, N_PROMPT, N_TEXT);
    play p = {.rng = seed * 977 + 1,
              .truth = truth,
              .n_truth = n,
              .n_max = N_TEXT,
              .wrong_percent = (unsigned)(seed % 5) * 12,
              .bump = seed % 2 == 0};
    edge e;
    edge_init(&e, r);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    for (size_t round = 0; e.n_confirmed < n && !e.done; round++) {
        assert_true(round < 5000);
        move(&e, &p);
        for (uint64_t steps = pick(&p, 4); steps > 0; steps--) {
            shoal_status status = shoal_batch_step(r->batch, &r->clock);
            assert_true(status == SHOAL_OK || status == SHOAL_EOF);
        }
    }
    if (e.done) {
        fail_msg("seed %u: %s", (unsigned)seed, e.error);
    }
    rig_settle(r);
    edge_expect_text(&e, truth, n);
    edge_fini(&e);
}

static void test_draft_any_grouping_equals_decode(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        play_to_the_end(&shared, seed);
    }
}

/* Ring and slack are made so that no session rolls back deeper than a ring remembers. To see that
 * a session stands it all the same, every other rollback is answered as by a ring that forgot. */
static bool forgetful;
static size_t n_rollbacks;
size_t __real_shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens);
size_t __wrap_shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens);

size_t __wrap_shoal_kv_seq_truncate(shoal_kv_seq *seq, size_t n_tokens)
{
    bool rollback = n_tokens > 0 && n_tokens < shoal_kv_seq_length(seq);
    n_rollbacks += rollback ? 1 : 0;
    bool forget = forgetful && rollback && n_rollbacks % 2 == 1;
    return __real_shoal_kv_seq_truncate(seq, forget ? 0 : n_tokens);
}

static void test_draft_on_a_ring_that_forgets_equals_decode(void **state)
{
    (void)state;
    /* A window of 12 and steps of 16 rows: the ring is 64 tokens long, the text 96. */
    rig windowed;
    rig_init(&windowed, &(rig_settings){.seed = 7, .variant = "gemma3", .n_rows_max = 16});
    for (size_t forgets = 0; forgets < 2; forgets++) {
        forgetful = forgets > 0;
        n_rollbacks = 0;
        for (uint64_t seed = 0; seed < 10; seed++) {
            play_to_the_end(&windowed, seed);
        }
        assert_true(n_rollbacks > 10);
    }
    forgetful = false;
    rig_fini(&windowed);
}

/* Between the first answer, however long, and the last there are the tokens that came after it. A
 * step takes a millisecond here. */
static void test_tokens_after_the_first_answer_are_timed(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    assert_true(n > N_PROMPT + 10);
    edge e;
    edge_init(&e, &shared);
    const shoal_session_stats *stats = shoal_session_stats_get(e.session);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_draft(&e, truth + N_PROMPT, 3);
    rig_settle(&shared);
    assert_int_equal(e.n_confirmed, N_PROMPT + 4);
    assert_int_equal(stats->n_next, 0);
    assert_int_equal(stats->last_token_ms, stats->first_token_ms);
    shared.now_ns += 40000000;
    edge_continue(&e, e.n_confirmed, 4);
    rig_settle(&shared);
    assert_int_equal(stats->n_next, 4);
    assert_int_equal(stats->last_token_ms - stats->first_token_ms, 1 + 40 + 3);
    shared.now_ns += 2000000;
    edge_draft(&e, truth + e.n_confirmed, 1);
    rig_settle(&shared);
    assert_int_equal(stats->n_next, 6); /* the draft stands, and there is one behind it */
    assert_int_equal(stats->last_token_ms - stats->first_token_ms, 1 + 40 + 4 + 2);
    edge_fini(&e);
}

static void test_draft_all_true_gives_bonus_and_confidences(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    assert_true(n > N_PROMPT + 9);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_draft(&e, truth + N_PROMPT, 8);
    rig_settle(&shared);
    assert_int_equal(e.n_verdicts, 1);
    assert_int_equal(e.epoch, 0);
    edge_expect_text(&e, truth, N_PROMPT + 9);
    size_t n_confident = 0;
    for (size_t i = N_PROMPT; i < N_PROMPT + 9; i++) {
        n_confident += e.shares[i] > 0 ? 1 : 0;
    }
    assert_true(n_confident > 0);
    const shoal_session_stats *stats = shoal_session_stats_get(e.session);
    assert_int_equal(stats->n_verified, 8);
    assert_int_equal(stats->n_accepted, 8);
    assert_int_equal(stats->n_generated, 1);
    edge_fini(&e);
}

static void test_draft_wrong_raises_epoch_and_drops_stale(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    int32_t drafts[8];
    memcpy(drafts, truth + N_PROMPT, sizeof(drafts));
    drafts[3] = (drafts[3] + 1) % SHOAL_TINY_VOCAB;
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_draft(&e, drafts, 8);
    rig_settle(&shared);
    assert_int_equal(e.epoch, 1);
    edge_expect_text(&e, truth, N_PROMPT + 4);
    /* Anything of epoch 0 is dropped without a word, even with a gap. */
    size_t n_messages = e.n_messages;
    e.epoch = 0;
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT + 8, drafts, 8);
    edge_continue(&e, N_PROMPT + 30, 4);
    rig_settle(&shared);
    assert_int_equal(e.n_messages, n_messages);
    assert_false(e.done);
    /* But a Continue that was sent behind the drafts asks to go on from what has become of them. */
    edge_continue(&e, N_PROMPT, 6);
    rig_settle(&shared);
    assert_int_equal(e.epoch, 1);
    edge_expect_text(&e, truth, N_PROMPT + 6);
    /* A newer epoch is adopted; a draft that contradicts H is judged by H alone. */
    e.epoch = 9;
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT, drafts, 8);
    assert_int_equal(e.epoch, 10);
    edge_expect_text(&e, truth, N_PROMPT + 6);
    const shoal_session_stats *stats = shoal_session_stats_get(e.session);
    assert_int_equal(stats->n_accepted, 6);
    assert_int_equal(stats->n_verified, 8);
    edge_fini(&e);
}

static void test_draft_longer_than_a_step_is_judged_in_parts(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_draft(&e, truth + N_PROMPT, 20);
    edge_draft(&e, truth + N_PROMPT + 20, 20);
    rig_settle(&shared);
    edge_expect_text(&e, truth, N_PROMPT + 41);
    /* A step has 16 rows of logits. What one part's own token confirms is a draft that stands, and
     * only the last one is news. */
    assert_int_equal(e.n_verdicts, 3);
    assert_int_equal(e.n_told, 1);
    assert_int_equal(shoal_session_stats_get(e.session)->n_accepted, 40);
    edge_fini(&e);
}

static void test_trusted_replaces_queued_drafts(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    int32_t wrong[6] = {9, 9, 9, 9, 9, 9};
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    rig_decode(&shared, &sampling, truth, N_PROMPT, N_TEXT);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT, wrong, 6);
    edge_tokens(&e, SHOAL_TOKENS_TRUSTED, N_PROMPT, truth + N_PROMPT, 3);
    rig_settle(&shared);
    assert_int_equal(e.n_verdicts, 0);
    edge_continue(&e, N_PROMPT, 10);
    rig_settle(&shared);
    edge_expect_text(&e, truth, N_PROMPT + 10);
    edge_fini(&e);
}

static void test_draft_up_to_last_position_gives_no_bonus(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 0);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, N_PROMPT + 10);
    assert_int_equal(n, N_PROMPT + 10);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, n);
    edge_prompt(&e, truth, N_PROMPT);
    edge_draft(&e, truth + N_PROMPT, 10);
    rig_settle(&shared);
    edge_expect_text(&e, truth, n);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, n, truth, 1);
    assert_int_equal(e.status, SHOAL_RPC_INVALID_ARGUMENT);
    edge_fini(&e);
}

/* --- recovery --------------------------------------------------------------------------------- */

static void test_reopen_at_any_position_gives_same_tokens(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(11, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.9f, 77);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, 70);
    for (size_t cut = N_PROMPT; cut < n; cut += 3) {
        edge e;
        edge_init(&e, &shared);
        edge_open(&e, &sampling, 70);
        edge_prompt(&e, truth, N_PROMPT);
        memcpy(e.text, truth, cut * sizeof(*truth));
        e.n_confirmed = cut;
        e.n_sent = cut;
        e.epoch = (uint32_t)cut;
        edge_tokens(&e, SHOAL_TOKENS_TRUSTED, N_PROMPT, truth + N_PROMPT, cut - N_PROMPT);
        if (cut % 2 == 0) {
            edge_draft(&e, truth + cut, SHOAL_MIN((size_t)6, n - cut));
        }
        rig_settle(&shared);
        edge_continue(&e, cut, 70);
        rig_settle(&shared);
        assert_false(e.done);
        edge_expect_text(&e, truth, n);
        edge_fini(&e);
    }
}

static void test_evict_between_steps_changes_nothing(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(12, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.9f, 3);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, 50);
    size_t n_free = shoal_kv_pool_n_free(shoal_engine_kv(shared.engine));
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, 50);
    edge_prompt(&e, truth, N_PROMPT);
    edge_continue(&e, N_PROMPT, 50);
    uint64_t rng = 4;
    while (e.n_confirmed < n) {
        assert_int_equal(shoal_batch_step(shared.batch, &shared.clock), SHOAL_OK);
        if (shoal_rng_next(&rng) % 8 == 0) {
            shoal_session_evict(e.session);
            assert_int_equal(shoal_session_kv_length(e.session), 0);
        }
    }
    edge_expect_text(&e, truth, n);
    /* An evicted session that has nothing to do does not compute its KV anew. */
    shoal_session_evict(e.session);
    assert_int_equal(rig_settle(&shared), 0);
    assert_int_equal(shoal_kv_pool_n_free(shoal_engine_kv(shared.engine)), n_free);
    edge_fini(&e);
}

/* --- ends ------------------------------------------------------------------------------------- */

static void test_cancel_stops_and_leaves_session_open(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(12, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 3);
    size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, 60);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, 60);
    edge_prompt(&e, truth, N_PROMPT);
    edge_continue(&e, N_PROMPT, 60);
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(shoal_batch_step(shared.batch, &shared.clock), SHOAL_OK);
    }
    edge_simple(&e, SHOAL_EDGE_CANCEL);
    assert_int_equal(rig_settle(&shared), 0);
    assert_false(e.done);
    edge_continue(&e, e.n_confirmed, 60);
    rig_settle(&shared);
    edge_expect_text(&e, truth, n);
    edge_fini(&e);
}

static void test_half_close_finishes_after_the_work(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(12, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(0.0f, 3);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, 60);
    edge_prompt(&e, truth, N_PROMPT);
    edge_continue(&e, N_PROMPT, 5);
    shoal_session_half_close(e.session);
    assert_false(e.done);
    rig_settle(&shared);
    assert_true(e.done && e.has_finished_message);
    assert_int_equal(e.n_confirmed, N_PROMPT + 5);
    edge_fini(&e);
    /* And at once where there is none. */
    edge_init(&e, &shared);
    shoal_session_half_close(e.session);
    assert_true(e.done && e.has_finished_message);
    edge_fini(&e);
}

static void test_deadline_passed_ends_session(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(0.0f, 3);
    int32_t prompt[N_PROMPT];
    rig_prompt(1, prompt, N_PROMPT);
    edge e;
    edge_init(&e, &shared);
    assert_true(shoal_session_deadline_ms(e.session) == UINT64_MAX);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, &sampling, 60)};
    msg.body.open.deadline_ms = 250;
    uint64_t now_ms = shared.now_ns / 1000000u;
    shoal_session_push(e.session, &msg, now_ms);
    assert_true(shoal_session_deadline_ms(e.session) == now_ms + 250);
    shoal_session_tick(e.session, now_ms + 249);
    assert_false(e.done);
    edge_prompt(&e, prompt, N_PROMPT);
    shoal_session_tick(e.session, now_ms + 250);
    assert_true(e.done);
    assert_int_equal(e.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    assert_int_equal(rig_settle(&shared), 0);
    /* Messages after the end are ignored. */
    edge_continue(&e, N_PROMPT, 5);
    shoal_session_half_close(e.session);
    shoal_session_fail(e.session, SHOAL_RPC_INTERNAL, "late");
    edge_fini(&e);
}

/* --- Open ------------------------------------------------------------------------------------- */

static void open_refused(const shoal_msg_open *open, shoal_rpc_status status, const char *text)
{
    edge e;
    edge_init(&e, &shared);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN, .body.open = *open};
    shoal_session_push(e.session, &msg, 1000);
    assert_true(e.done && e.has_error && !e.opened);
    assert_int_equal(e.status, status);
    if (strstr(e.error, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", e.error, text);
    }
    edge_fini(&e);
}

static void test_open_other_identity_is_refused_with_both_hashes(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(0.0f, 3);
    char ours[SHOAL_HASH_HEX];
    shoal_hash_hex(&shared.describe->model, ours);
    ours[12] = '\0';
    shoal_msg_open open = edge_open_message(&shared, &sampling, 60);
    memset(open.model.bytes, 0xab, sizeof(open.model.bytes));
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "model mismatch");
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "abababababab");
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, ours);
    open = edge_open_message(&shared, &sampling, 60);
    open.tokenizer.bytes[31] ^= 1;
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "tokenizer mismatch");
    open = edge_open_message(&shared, &sampling, 60);
    open.chat_template.bytes[0] ^= 1;
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "chat template mismatch");
    open = edge_open_message(&shared, &sampling, 60);
    open.protocol = 2;
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "version 2");
    open = edge_open_message(&shared, &sampling, 60);
    open.has_adapter = true; /* this node has none */
    memset(open.adapter.bytes, 0xcd, sizeof(open.adapter.bytes));
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "adapter mismatch");
    open_refused(&open, SHOAL_RPC_FAILED_PRECONDITION, "cdcdcdcdcdcd");
}

static void test_open_limits_are_kept(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(0.0f, 3);
    shoal_msg_open open = edge_open_message(&shared, &sampling, 0);
    open_refused(&open, SHOAL_RPC_INVALID_ARGUMENT, "n_tokens_max");
    open = edge_open_message(&shared, &sampling, RIG_TEXT_MAX + 1);
    open_refused(&open, SHOAL_RPC_RESOURCE_EXHAUSTED, "at most 512");
    open = edge_open_message(&shared, &sampling, 60);
    open.sampling.temperature = 11.0f;
    open_refused(&open, SHOAL_RPC_INVALID_ARGUMENT, "temperature");
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, RIG_TEXT_MAX);
    assert_true(e.opened);
    edge_open(&e, &sampling, RIG_TEXT_MAX);
    assert_int_equal(e.status, SHOAL_RPC_INVALID_ARGUMENT);
    edge_fini(&e);
    /* A pool that is smaller than the context bounds a session as well. */
    rig small;
    rig_init(&small, &(rig_settings){.seed = 7, .n_pages = 2});
    edge_init(&e, &small);
    edge_open(&e, &sampling, 65);
    assert_int_equal(e.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    edge_fini(&e);
    edge_init(&e, &small);
    edge_open(&e, &sampling, 64);
    assert_true(e.opened);
    edge_fini(&e);
    rig_fini(&small);
}

static void test_open_out_of_memory_is_refused_without_leak(void **state)
{
    (void)state;
    shoal_logit_bias biases[2] = {{5, 1.0f}, {6, -1.0f}};
    shoal_sampling sampling = sampling_of(0.0f, 3);
    sampling.biases = biases;
    sampling.n_biases = 2;
    size_t n_failed = 0;
    for (uint64_t i = 0;; i++) {
        edge e;
        edge_init(&e, &shared);
        shoal_mem_fail_at(i);
        edge_open(&e, &sampling, 60);
        shoal_mem_fail_at(UINT64_MAX);
        bool opened = e.opened;
        assert_true(opened != (e.status == SHOAL_RPC_RESOURCE_EXHAUSTED));
        edge_fini(&e);
        if (opened) {
            break;
        }
        n_failed++;
    }
    assert_true(n_failed >= 4);
}

/* --- hostile peers ---------------------------------------------------------------------------- */

static void begin(edge *e, const int32_t *prompt)
{
    shoal_sampling sampling = sampling_of(0.0f, 0);
    edge_init(e, &shared);
    edge_open(e, &sampling, 60);
    edge_prompt(e, prompt, N_PROMPT);
}

static void ends_invalid(edge *e, const char *text)
{
    assert_true(e->done);
    assert_int_equal(e->status, SHOAL_RPC_INVALID_ARGUMENT);
    if (strstr(e->error, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", e->error, text);
    }
    assert_int_equal(rig_settle(&shared), 0);
    edge_fini(e);
}

static void test_message_out_of_place_is_refused(void **state)
{
    (void)state;
    int32_t ids[N_PROMPT];
    rig_prompt(1, ids, N_PROMPT);
    edge e;
    edge_init(&e, &shared);
    edge_continue(&e, 0, 1);
    ends_invalid(&e, "first message must be open");
    shoal_sampling sampling = sampling_of(0.0f, 0);
    edge_init(&e, &shared);
    edge_open(&e, &sampling, 60);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, 0, ids, 3);
    ends_invalid(&e, "before any prompt");
    edge_init(&e, &shared);
    edge_open(&e, &sampling, 60);
    edge_continue(&e, 0, 3);
    ends_invalid(&e, "continue.position");
    begin(&e, ids);
    edge_continue(&e, N_PROMPT + 1, 3);
    ends_invalid(&e, "continue.position");
    begin(&e, ids);
    edge_tokens(&e, SHOAL_TOKENS_TRUSTED, N_PROMPT + 1, ids, 3);
    ends_invalid(&e, "gap");
    begin(&e, ids);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT + 1, ids, 3);
    ends_invalid(&e, "gap");
    begin(&e, ids);
    edge_tokens(&e, SHOAL_TOKENS_PROMPT, 1, ids, 3);
    ends_invalid(&e, "differ");
    begin(&e, ids);
    edge_tokens(&e, (shoal_token_kind)9, N_PROMPT, ids, 3);
    ends_invalid(&e, "kind");
    begin(&e, ids);
    edge_simple(&e, (shoal_edge_msg_kind)77);
    ends_invalid(&e, "kind");
    begin(&e, ids);
    e.epoch = UINT32_MAX;
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT, ids, 3);
    ends_invalid(&e, "epoch");
}

static void test_tokens_at_capacity_end_exactly(void **state)
{
    (void)state;
    int32_t ids[61];
    rig_prompt(1, ids, 61);
    for (size_t n = 59; n <= 61; n++) {
        shoal_sampling sampling = sampling_of(0.0f, 0);
        edge e;
        edge_init(&e, &shared);
        edge_open(&e, &sampling, 60);
        edge_tokens(&e, SHOAL_TOKENS_PROMPT, 0, ids, n);
        assert_int_equal(e.done, n > 60);
        edge_fini(&e);
    }
    edge e;
    begin(&e, ids);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, UINT32_MAX - 2, ids, 3);
    ends_invalid(&e, "n_tokens_max");
    begin(&e, ids);
    edge_tokens(&e, SHOAL_TOKENS_DRAFT, N_PROMPT, ids, 0);
    assert_false(e.done);
    edge_fini(&e);
}

/* Random messages of every kind: the session may refuse, it must not crash, leak or lie. */
static void test_random_messages_keep_invariants(void **state)
{
    (void)state;
    int32_t ids[80];
    uint64_t rng = 99;
    for (size_t run = 0; run < 300; run++) {
        edge e;
        rig_prompt(run % 3, ids, 80);
        begin(&e, ids);
        e.careless = true;
        for (size_t i = 0; i < 30 && !e.done; i++) {
            uint64_t r = shoal_rng_next(&rng);
            size_t position = (size_t)(r >> 8) % 64;
            size_t n = (size_t)(r >> 16) % 20;
            size_t n_ids = 0;
            uint32_t epoch = e.epoch;
            e.epoch += (uint32_t)(r >> 24) % 16 == 0 ? 1 : 0;
            if (r % 16 < 10) {
                /* Near the truth often enough to get somewhere. */
                shoal_session_ids(e.session, &n_ids);
                position = r % 16 < 7 ? n_ids - (r >> 32) % 3 : position;
                edge_tokens(&e, (shoal_token_kind)(r % 16 < 9 ? 3 : 2), position, ids + n, n);
            } else if (r % 16 < 13) {
                shoal_session_ids(e.session, &n_ids);
                edge_continue(&e, n_ids - (r >> 32) % 4, n);
            } else if (r % 16 < 15) {
                shoal_status status = shoal_batch_step(shared.batch, &shared.clock);
                assert_true(status == SHOAL_OK || status == SHOAL_EOF);
            } else {
                shoal_session_evict(e.session);
            }
            e.epoch = SHOAL_MAX(e.epoch, epoch);
            shoal_session_ids(e.session, &n_ids);
            assert_true(n_ids <= 60);
            assert_true(e.done || shoal_session_kv_length(e.session) < n_ids);
        }
        edge_fini(&e);
    }
}

static void test_step_allocates_nothing(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX];
    rig_prompt(3, truth, N_PROMPT);
    shoal_sampling sampling = sampling_of(1.0f, 0);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    edge_continue(&e, N_PROMPT, 20);
    uint64_t count = shoal_mem_count();
    rig_settle(&shared);
    assert_true(shoal_mem_count() == count);
    edge_fini(&e);
}

/* Once at the beginning, then when a number has changed by an eighth, with the next answer. */
static void test_cost_is_told_when_it_changes(void **state)
{
    (void)state;
    int32_t text[N_TEXT];
    rig_prompt(91, text, N_PROMPT);
    const shoal_sampling sampling = sampling_of(0, 1);
    shoal_msg_cost cost = {.step_us = 8000, .row_us = 400, .price = 50};
    edge e;
    edge_init(&e, &shared);
    shoal_session_set_cost(e.session, &cost);
    edge_open(&e, &sampling, N_TEXT);
    assert_int_equal(e.n_costs, 1);
    assert_memory_equal(&e.cost, &cost, sizeof(cost));
    edge_prompt(&e, text, N_PROMPT);
    edge_continue(&e, N_PROMPT, 4);
    rig_settle(&shared);
    assert_int_equal(e.n_costs, 1);
    static const shoal_msg_cost costs[] = {{9000, 400, 50}, {9001, 400, 50}, {9001, 450, 60},
                                           {9001, 451, 60}, {9001, 451, 71}, {8000, 451, 71}};
    static const size_t n_told[] = {1, 2, 2, 3, 4, 4};
    for (size_t i = 0; i < SHOAL_COUNT(costs); i++) {
        cost = costs[i];
        size_t at = e.n_confirmed;
        if (i % 2 == 0) {
            edge_continue(&e, at, 1);
        } else {
            const int32_t draft = 5;
            edge_draft(&e, &draft, 1);
        }
        rig_settle(&shared);
        assert_true(e.n_confirmed > at);
        assert_int_equal(e.n_costs, n_told[i]);
    }
    cost.step_us = 0; /* nobody knows any more: what was told stays */
    edge_continue(&e, e.n_confirmed, 1);
    rig_settle(&shared);
    assert_int_equal(e.n_costs, 4);
    edge_fini(&e);
}

/* Blocks can be taken over where the KV ends with one, and only before the last token. */
static void test_blocks_are_missing_where_the_kv_ends_with_one(void **state)
{
    (void)state;
    int32_t text[N_TEXT];
    const shoal_sampling sampling = sampling_of(0, 1);
    static const size_t n_prompts[] = {32, 33, 64, 65};
    for (size_t i = 0; i < SHOAL_COUNT(n_prompts); i++) {
        size_t n = n_prompts[i];
        edge e;
        rig_prompt(93 + i, text, n);
        edge_init(&e, &shared);
        assert_int_equal(shoal_session_blocks_missing(e.session), 0);
        edge_open(&e, &sampling, N_TEXT);
        edge_prompt(&e, text, n);
        assert_int_equal(shoal_session_blocks_missing(e.session), (n - 1) / 32);
        while (shoal_batch_step(shared.batch, &shared.clock) == SHOAL_OK) {
            size_t length = shoal_session_kv_length(e.session);
            size_t left = length < n ? (n - 1 - length) / 32 : 0;
            assert_int_equal(shoal_session_blocks_missing(e.session), length % 32 ? 0 : left);
        }
        assert_int_equal(shoal_session_blocks_missing(e.session), 0);
        edge_fini(&e);
    }
}

/* Tokens whose KV was found, not computed, are told with the next answer, and not again. */
static void test_found_tokens_are_told_once(void **state)
{
    (void)state;
    enum {
        N_FOUND = 32,
        N_LONG = 2 * N_FOUND + 1
    };
    int32_t text[N_TEXT];
    const shoal_sampling sampling = sampling_of(0, 1);
    edge edges[2];
    rig_prompt(97, text, N_LONG);
    size_t n_bytes = shoal_kv_block_bytes(shoal_kv_pool_shape(shoal_engine_kv(shared.engine)), 0);
    uint8_t *bytes = shoal_calloc(n_bytes, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < 2; i++) {
        edge_init(&edges[i], &shared);
        edge_open(&edges[i], &sampling, N_TEXT);
        edge_prompt(&edges[i], text, N_LONG);
        if (i == 0) {
            edge_continue(&edges[i], N_LONG, 1);
            rig_settle(&shared);
            assert_int_equal(shoal_session_export(edges[0].session, 0, bytes), SHOAL_OK);
            continue;
        }
        assert_int_equal(shoal_session_import(edges[1].session, bytes, n_bytes), SHOAL_OK);
        for (size_t n = 0; n < 3; n++) {
            edge_continue(&edges[1], N_LONG + n, 1);
            rig_settle(&shared);
            assert_int_equal(edges[1].n_cached, N_FOUND);
            assert_int_equal(edges[1].n_cached_told, 1);
        }
    }
    assert_int_equal(edges[0].n_cached_told, 0);
    shoal_free(bytes);
    edge_fini(&edges[0]);
    edge_fini(&edges[1]);
}

/* So an edge learns how far the cloud is, while the cloud decodes. */
static void test_draft_of_the_known_leaves_a_continue_alone(void **state)
{
    (void)state;
    int32_t text[N_TEXT];
    rig_prompt(92, text, N_PROMPT);
    const shoal_sampling sampling = sampling_of(0.9F, 6);
    size_t n = rig_decode(&shared, &sampling, text, N_PROMPT, N_TEXT);
    edge e;
    edge_init(&e, &shared);
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, text, N_PROMPT);
    edge_continue(&e, N_PROMPT, N_TEXT - N_PROMPT);
    for (size_t i = 0; e.n_confirmed < n; i++) {
        size_t n_verdicts = e.n_verdicts;
        assert_true(i < N_TEXT);
        edge_tokens(&e, SHOAL_TOKENS_DRAFT, e.n_confirmed - 1, e.text + e.n_confirmed - 1, 1);
        assert_int_equal(e.n_verdicts, n_verdicts + 1);
        assert_int_equal(e.epoch, 0);
        assert_true(shoal_batch_step(shared.batch, &shared.clock) >= 0);
    }
    edge_expect_text(&e, text, n);
    edge_fini(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continue_any_split_equals_decode),
        cmocka_unit_test(test_cost_is_told_when_it_changes),
        cmocka_unit_test(test_blocks_are_missing_where_the_kv_ends_with_one),
        cmocka_unit_test(test_found_tokens_are_told_once),
        cmocka_unit_test(test_draft_of_the_known_leaves_a_continue_alone),
        cmocka_unit_test(test_continue_at_end_token_and_limits_stops),
        cmocka_unit_test(test_draft_any_grouping_equals_decode),
        cmocka_unit_test(test_draft_on_a_ring_that_forgets_equals_decode),
        cmocka_unit_test(test_tokens_after_the_first_answer_are_timed),
        cmocka_unit_test(test_draft_all_true_gives_bonus_and_confidences),
        cmocka_unit_test(test_draft_wrong_raises_epoch_and_drops_stale),
        cmocka_unit_test(test_draft_longer_than_a_step_is_judged_in_parts),
        cmocka_unit_test(test_trusted_replaces_queued_drafts),
        cmocka_unit_test(test_draft_up_to_last_position_gives_no_bonus),
        cmocka_unit_test(test_reopen_at_any_position_gives_same_tokens),
        cmocka_unit_test(test_evict_between_steps_changes_nothing),
        cmocka_unit_test(test_cancel_stops_and_leaves_session_open),
        cmocka_unit_test(test_half_close_finishes_after_the_work),
        cmocka_unit_test(test_deadline_passed_ends_session),
        cmocka_unit_test(test_open_other_identity_is_refused_with_both_hashes),
        cmocka_unit_test(test_open_limits_are_kept),
        cmocka_unit_test(test_open_out_of_memory_is_refused_without_leak),
        cmocka_unit_test(test_message_out_of_place_is_refused),
        cmocka_unit_test(test_tokens_at_capacity_end_exactly),
        cmocka_unit_test(test_random_messages_keep_invariants),
        cmocka_unit_test(test_step_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
