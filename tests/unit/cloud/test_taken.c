/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions of a back end without an engine: what to find out comes out of them, what was found out
 * goes in, and the edge hears the same as from an engine.
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
    N_PROMPT = 9,
    N_TEXT = 48
};

static rig engine; /* makes the truth */
static rig blind;  /* the same without its engine */
static int32_t truth[RIG_TEXT_MAX];
static size_t n_truth;
static shoal_sampling greedy;

static int setup(void **state)
{
    (void)state;
    rig_init(&engine, &(rig_settings){.seed = 7});
    blind = engine;
    blind.engine = NULL;
    greedy = shoal_sampling_default();
    greedy.temperature = 0.0f;
    greedy.seed = 3;
    rig_prompt(5, truth, N_PROMPT);
    n_truth = rig_decode(&engine, &greedy, truth, N_PROMPT, N_TEXT);
    assert_true(n_truth > N_PROMPT + 12);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_fini(&engine);
    return 0;
}

/* Judges what waits, at most n_max drafts of it, as a verifier that knows the truth. */
static void serve(edge *e, size_t n_max)
{
    shoal_session_work work;
    while (shoal_session_work_get(e->session, &work)) {
        shoal_verdict verdict = {.n_accepted = 0};
        size_t n = SHOAL_MIN(work.n_drafts, n_max);
        assert_memory_equal(work.ids, truth, work.n_ids * sizeof(*truth));
        while (verdict.n_accepted < n && work.ids[work.n_ids + verdict.n_accepted] ==
                                             truth[work.n_ids + verdict.n_accepted]) {
            verdict.confidences[verdict.n_accepted++] = 1.0f;
        }
        size_t at = work.n_ids + verdict.n_accepted;
        assert_true(at < n_truth);
        verdict.next = (shoal_sampled){.id = truth[at], .confidence = 0.5f};
        shoal_session_take(e->session, &verdict, 1000);
    }
}

static void test_taken_continue_tells_every_token(void **state)
{
    (void)state;
    edge e;
    edge_init(&e, &blind);
    edge_open(&e, &greedy, N_TEXT);
    edge_prompt(&e, truth, N_PROMPT);
    assert_int_equal(shoal_session_wants(e.session, 0), SHOAL_WANT_NOTHING);
    edge_continue(&e, N_PROMPT, 10);
    shoal_session_work work;
    assert_true(shoal_session_work_get(e.session, &work));
    assert_int_equal(work.n_ids, N_PROMPT);
    assert_int_equal(work.n_drafts, 0);
    assert_int_equal(work.decode_to, N_PROMPT + 10);
    serve(&e, 0);
    assert_int_equal(e.n_confirmed, N_PROMPT + 10);
    assert_memory_equal(e.text, truth, e.n_confirmed * sizeof(*truth));
    edge_simple(&e, SHOAL_EDGE_CLOSE);
    assert_true(e.has_finished_message);
    assert_int_equal(e.finished.n_generated, 10);
    edge_fini(&e);
}

/* Right and wrong drafts, judged all at once or one by one: the text is the truth. */
static void test_taken_drafts_equal_truth_however_judged(void **state)
{
    (void)state;
    for (size_t n_max = 0; n_max < 5; n_max++) {
        edge e;
        edge_init(&e, &blind);
        edge_open(&e, &greedy, N_TEXT);
        edge_prompt(&e, truth, N_PROMPT);
        while (e.n_confirmed + 6 < n_truth) {
            int32_t drafts[4];
            memcpy(drafts, truth + e.n_confirmed, sizeof(drafts));
            if (e.n_confirmed % 3 == 0) {
                drafts[2] = drafts[2] == 5 ? 6 : 5;
            }
            size_t before = e.n_confirmed;
            edge_draft(&e, drafts, 4);
            serve(&e, n_max);
            assert_true(e.n_confirmed > before);
            assert_memory_equal(e.text, truth, e.n_confirmed * sizeof(*truth));
        }
        assert_false(e.done);
        edge_fini(&e);
    }
}

static void open_with(shoal_verify verify, shoal_mode mode, const shoal_sampling *sampling,
                      const char *word)
{
    rig r = blind;
    shoal_describe other = *blind.describe;
    r.describe = &other;
    other.verify = verify;
    edge e;
    edge_init(&e, &r);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&r, sampling, N_TEXT)};
    msg.body.open.mode = mode;
    shoal_session_push(e.session, &msg, 1000);
    assert_int_equal(e.done, word != NULL);
    if (word != NULL) {
        assert_int_equal(e.status, SHOAL_RPC_FAILED_PRECONDITION);
        assert_non_null(strstr(e.error, word));
    }
    edge_fini(&e);
}

static void test_open_exact_where_nobody_verifies_is_refused(void **state)
{
    (void)state;
    shoal_sampling warm = greedy;
    warm.temperature = 0.7f;
    open_with(SHOAL_VERIFY_ALL, SHOAL_MODE_EXACT, &warm, NULL);
    open_with(SHOAL_VERIFY_GREEDY, SHOAL_MODE_EXACT, &greedy, NULL);
    open_with(SHOAL_VERIFY_GREEDY, SHOAL_MODE_EXACT, &warm, "temperature 0");
    open_with(SHOAL_VERIFY_GREEDY, SHOAL_MODE_CLOUD, &warm, NULL);
    open_with(SHOAL_VERIFY_NONE, SHOAL_MODE_EXACT, &greedy, "cannot verify");
    open_with(SHOAL_VERIFY_NONE, SHOAL_MODE_ASSIST, &warm, NULL);
    open_with(SHOAL_VERIFY_NONE, SHOAL_MODE_CLOUD, &greedy, NULL);
}

static void test_open_without_engine_is_held_to_the_described_context(void **state)
{
    (void)state;
    for (uint32_t n_ctx = N_TEXT - 1; n_ctx <= N_TEXT + 1; n_ctx++) {
        rig r = blind;
        shoal_describe other = *blind.describe;
        r.describe = &other;
        other.n_ctx = n_ctx;
        edge e;
        edge_init(&e, &r);
        edge_open(&e, &greedy, N_TEXT);
        assert_int_equal(e.done, n_ctx < N_TEXT);
        edge_fini(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken_continue_tells_every_token),
        cmocka_unit_test(test_taken_drafts_equal_truth_however_judged),
        cmocka_unit_test(test_open_exact_where_nobody_verifies_is_refused),
        cmocka_unit_test(test_open_without_engine_is_held_to_the_described_context),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
