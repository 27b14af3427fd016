/* SPDX-License-Identifier: Apache-2.0
 *
 * An Open that brings what would follow it, and a session that ends with its text (SPEC.md, section
 * 14), against plain decode.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N_PROMPT = 21
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

/* The prompt of a seed, and behind it what plain decode makes of it; returns the length. */
static size_t tell(uint64_t seed, const shoal_sampling *sampling, int32_t *text, size_t n_max)
{
    rig_prompt(seed, text, N_PROMPT);
    return rig_decode(&shared, sampling, text, N_PROMPT, n_max);
}

/* Opens with the prompt, n_drafts of truth behind it of which the n_right-th is wrong, and the rest
 * to be decoded. shares: how sure the edge is of its drafts; NULL: it does not say. */
static void open_weighed(edge *e, const shoal_sampling *sampling, const int32_t *truth,
                         size_t n_drafts, size_t n_right, size_t n_max, const uint8_t *shares)
{
    edge_init(e, &shared);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, sampling, n_max)};
    int32_t ids[RIG_TEXT_MAX];
    memcpy(ids, truth, n_max * sizeof *ids);
    if (n_right < n_drafts) {
        ids[N_PROMPT + n_right] ^= 1;
    }
    msg.body.open.prompt = ids;
    msg.body.open.n_prompt = N_PROMPT;
    msg.body.open.drafts = ids + N_PROMPT;
    msg.body.open.n_drafts = n_drafts;
    msg.body.open.confidences = shares;
    msg.body.open.n_continue = (uint32_t)(n_max - N_PROMPT);
    msg.body.open.ends = true;
    memcpy(e->text, ids, (N_PROMPT + n_drafts) * sizeof *ids);
    e->n_confirmed = N_PROMPT;
    e->n_sent = N_PROMPT + n_drafts;
    shoal_session_push(e->session, &msg, 1000);
}

static void open_whole(edge *e, const shoal_sampling *sampling, const int32_t *truth,
                       size_t n_drafts, size_t n_right, size_t n_max)
{
    open_weighed(e, sampling, truth, n_drafts, n_right, n_max, NULL);
}

static void test_open_that_brings_all_equals_decode(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX] = {0};
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0F;
    size_t n = tell(12, &sampling, truth, 34);
    assert_int_equal(n, 34);
    static const size_t drafts[][2] = {{0, 0}, {1, 1}, {7, 7}, {7, 0}, {7, 3}, {12, 12}, {12, 11}};
    for (size_t i = 0; i < SHOAL_COUNT(drafts); i++) {
        edge e;
        open_whole(&e, &sampling, truth, drafts[i][0], drafts[i][1], n);
        assert_true(e.opened && e.whole);
        rig_settle(&shared);
        edge_expect_text(&e, truth, n);
        const shoal_session_stats *stats = shoal_session_stats_get(e.session);
        assert_int_equal(stats->n_accepted, drafts[i][1]);
        assert_int_equal(stats->n_rounds, drafts[i][0] > 0);
        /* The last tokens do not end it, since its KV may still be shared; the next look does. */
        assert_false(e.done);
        shoal_session_tick(e.session, 1001);
        assert_true(e.done && e.has_finished_message);
        assert_int_equal(e.status, SHOAL_RPC_OK);
        edge_fini(&e);
    }
}

/* Steps of an answer of N_ANSWER tokens, drafted to its end, of which the n_right-th is wrong. */
enum {
    N_ANSWER = 12
};
static size_t n_steps(const shoal_sampling *sampling, const int32_t *truth, size_t n_right,
                      const uint8_t *shares, uint32_t n_guessed, uint32_t n_guessed_right)
{
    edge e;
    open_weighed(&e, sampling, truth, N_ANSWER, n_right, N_PROMPT + N_ANSWER, shares);
    size_t n = rig_settle(&shared);
    edge_expect_text(&e, truth, N_PROMPT + N_ANSWER);
    const shoal_session_stats *stats = shoal_session_stats_get(e.session);
    assert_int_equal(stats->n_accepted, n_right);
    assert_int_equal(stats->n_generated, N_ANSWER - n_right);
    assert_int_equal(stats->n_guessed, n_guessed);
    assert_int_equal(stats->n_guessed_right, n_guessed_right);
    edge_fini(&e);
    return n;
}

static void test_drafts_behind_a_refused_one_are_guesses(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX] = {0};
    uint8_t shares[N_ANSWER];
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0F;
    assert_int_equal(tell(12, &sampling, truth, N_PROMPT + N_ANSWER), N_PROMPT + N_ANSWER);
    memset(shares, 255, sizeof shares);
    size_t decoded = n_steps(&sampling, truth, 3, NULL, 0, 0);
    size_t guessed = n_steps(&sampling, truth, 3, shares, N_ANSWER - 4, N_ANSWER - 4);
    assert_true(guessed + 4 < decoded);
    /* Not of what the edge was less than sure, and that of no more than one after the other. */
    memset(shares + 4, 254, N_ANSWER - 4);
    assert_int_equal(n_steps(&sampling, truth, 3, shares, 0, 0), decoded);
    shares[6] = 255;
    assert_int_equal(n_steps(&sampling, truth, 3, shares, 1, 1), decoded - 1);
    /* The first one wrong, and the last: nothing is behind it. */
    memset(shares, 255, sizeof shares);
    assert_true(n_steps(&sampling, truth, 0, shares, N_ANSWER - 1, N_ANSWER - 1) + 4 <
                n_steps(&sampling, truth, 0, NULL, 0, 0));
    assert_int_equal(n_steps(&sampling, truth, N_ANSWER - 1, shares, 0, 0),
                     n_steps(&sampling, truth, N_ANSWER - 1, NULL, 0, 0));
}

static void test_guesses_that_are_wrong_change_nothing_but_their_number(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX] = {0};
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.8F;
    sampling.top_p = 0.95F;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        sampling.seed = seed;
        size_t n = tell(seed, &sampling, truth, 60);
        int32_t ids[RIG_TEXT_MAX];
        uint8_t shares[24];
        memcpy(ids, truth, sizeof ids);
        memset(shares, 255, sizeof shares);
        size_t n_drafts = SHOAL_MIN(n - N_PROMPT, sizeof shares);
        for (size_t i = 0; i < n_drafts; i++) {
            ids[N_PROMPT + i] ^= (int32_t)((seed * 2654435761U) >> i & 1U);
        }
        edge e;
        edge_init(&e, &shared);
        shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                              .body.open = edge_open_message(&shared, &sampling, 60)};
        msg.body.open.prompt = ids;
        msg.body.open.n_prompt = N_PROMPT;
        msg.body.open.drafts = ids + N_PROMPT;
        msg.body.open.n_drafts = n_drafts;
        msg.body.open.confidences = shares;
        msg.body.open.n_continue = 60 - N_PROMPT;
        memcpy(e.text, ids, (N_PROMPT + n_drafts) * sizeof *ids);
        e.n_confirmed = N_PROMPT;
        e.n_sent = N_PROMPT + n_drafts;
        shoal_session_push(e.session, &msg, 1000);
        rig_settle(&shared);
        edge_expect_text(&e, truth, n);
        edge_fini(&e);
    }
}

/* A Continue that ends within the guesses, or behind them, is fulfilled, and not by more. */
static void test_guesses_end_with_the_continue(void **state)
{
    (void)state;
    enum {
        N_ALL = N_PROMPT + N_ANSWER + 2
    };
    int32_t truth[RIG_TEXT_MAX] = {0};
    uint8_t shares[N_ANSWER];
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0F;
    assert_int_equal(tell(12, &sampling, truth, N_ALL), N_ALL);
    memset(shares, 255, sizeof shares);
    for (size_t n_max = 3; n_max <= N_ANSWER + 2; n_max++) {
        edge e;
        edge_init(&e, &shared);
        shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                              .body.open = edge_open_message(&shared, &sampling, N_ALL)};
        int32_t ids[RIG_TEXT_MAX];
        memcpy(ids, truth, sizeof ids);
        ids[N_PROMPT + 2] ^= 1;
        msg.body.open.prompt = ids;
        msg.body.open.n_prompt = N_PROMPT;
        msg.body.open.drafts = ids + N_PROMPT;
        msg.body.open.n_drafts = N_ANSWER;
        msg.body.open.confidences = shares;
        msg.body.open.n_continue = (uint32_t)n_max;
        memcpy(e.text, ids, (N_PROMPT + N_ANSWER) * sizeof *ids);
        e.n_confirmed = N_PROMPT;
        e.n_sent = N_PROMPT + N_ANSWER;
        shoal_session_push(e.session, &msg, 1000);
        rig_settle(&shared);
        edge_expect_text(&e, truth, N_PROMPT + n_max);
        const shoal_session_stats *stats = shoal_session_stats_get(e.session);
        size_t n_guessed = SHOAL_MIN(n_max, (size_t)N_ANSWER) - 3;
        assert_int_equal(stats->n_guessed, n_guessed);
        assert_int_equal(stats->n_guessed_right, n_guessed);
        /* The edge speaks again: what was guessed is forgotten. */
        if (n_max < N_ANSWER) {
            edge_draft(&e, truth + N_PROMPT + n_max, 1);
            rig_settle(&shared);
            assert_int_equal(stats->n_accepted, 3);
            edge_continue(&e, e.n_confirmed, N_ALL - e.n_confirmed);
            rig_settle(&shared);
            edge_expect_text(&e, truth, N_ALL);
            assert_int_equal(stats->n_guessed, n_guessed);
        }
        edge_fini(&e);
    }
}

static void test_session_that_ends_with_its_text_waits_for_the_text(void **state)
{
    (void)state;
    int32_t truth[RIG_TEXT_MAX] = {0};
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0F;
    size_t n = tell(12, &sampling, truth, 40);
    edge e;
    edge_init(&e, &shared);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, &sampling, n)};
    msg.body.open.ends = true;
    shoal_session_push(e.session, &msg, 1000);
    shoal_session_tick(e.session, 1000);
    edge_prompt(&e, truth, N_PROMPT);
    edge_continue(&e, N_PROMPT, n - N_PROMPT - 1);
    rig_settle(&shared);
    shoal_session_tick(e.session, 1000);
    assert_false(e.done); /* one token short */
    edge_continue(&e, n - 1, 1);
    rig_settle(&shared);
    shoal_session_tick(e.session, 1000);
    assert_true(e.done && e.has_finished_message);
    edge_expect_text(&e, truth, n);
    edge_fini(&e);
}

static void test_session_that_ends_with_its_text_ends_at_an_end_token(void **state)
{
    (void)state;
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 3.0F;
    size_t n_ended = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {
        int32_t truth[RIG_TEXT_MAX] = {0};
        sampling.seed = seed;
        size_t n = tell(seed, &sampling, truth, 200);
        if (n == 200) {
            continue;
        }
        n_ended++;
        /* Decoded, and as a draft. */
        for (size_t n_drafts = 0; n_drafts <= SHOAL_MIN(n - N_PROMPT, 12u); n_drafts += 6) {
            edge e;
            open_whole(&e, &sampling, truth, n_drafts, n_drafts, 200);
            rig_settle(&shared);
            edge_expect_text(&e, truth, n);
            assert_false(e.done);
            shoal_session_tick(e.session, 1001);
            assert_true(e.done);
            assert_int_equal(e.status, SHOAL_RPC_OK);
            edge_fini(&e);
        }
    }
    assert_true(n_ended > 0);
}

static void test_open_that_brings_too_much_is_refused(void **state)
{
    (void)state;
    int32_t ids[RIG_TEXT_MAX] = {SHOAL_TINY_BOS};
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0F;
    for (size_t n_drafts = 2; n_drafts <= 3; n_drafts++) {
        edge e;
        edge_init(&e, &shared);
        shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                              .body.open = edge_open_message(&shared, &sampling, N_PROMPT + 2)};
        msg.body.open.prompt = ids;
        msg.body.open.n_prompt = N_PROMPT;
        msg.body.open.drafts = ids;
        msg.body.open.n_drafts = n_drafts;
        msg.body.open.n_continue = 1;
        e.careless = true;
        shoal_session_push(e.session, &msg, 1000);
        assert_true(e.opened);
        assert_int_equal(e.done, n_drafts == 3);
        if (e.done) {
            assert_int_equal(e.status, SHOAL_RPC_INVALID_ARGUMENT);
            assert_non_null(strstr(e.error, "open.n_tokens_max"));
        }
        edge_fini(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_that_brings_all_equals_decode),
        cmocka_unit_test(test_drafts_behind_a_refused_one_are_guesses),
        cmocka_unit_test(test_guesses_that_are_wrong_change_nothing_but_their_number),
        cmocka_unit_test(test_guesses_end_with_the_continue),
        cmocka_unit_test(test_session_that_ends_with_its_text_waits_for_the_text),
        cmocka_unit_test(test_session_that_ends_with_its_text_ends_at_an_end_token),
        cmocka_unit_test(test_open_that_brings_too_much_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
