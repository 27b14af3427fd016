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
 * to be decoded. */
static void open_whole(edge *e, const shoal_sampling *sampling, const int32_t *truth,
                       size_t n_drafts, size_t n_right, size_t n_max)
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
    msg.body.open.n_continue = (uint32_t)(n_max - N_PROMPT);
    msg.body.open.ends = true;
    memcpy(e->text, ids, (N_PROMPT + n_drafts) * sizeof *ids);
    e->n_confirmed = N_PROMPT;
    e->n_sent = N_PROMPT + n_drafts;
    shoal_session_push(e->session, &msg, 1000);
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
        cmocka_unit_test(test_session_that_ends_with_its_text_waits_for_the_text),
        cmocka_unit_test(test_session_that_ends_with_its_text_ends_at_an_end_token),
        cmocka_unit_test(test_open_that_brings_too_much_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
