/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers held to a form on the cloud: whatever is drafted, cut and resent, the tokens are those of
 * plain decoding under the same form (R1, R3), and no bytes of an edge do more than end its
 * session.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N_PROMPT = 9,
    N_TEXT = 70
};

static rig shared;
static shoal_buf bytes; /* of the form */
static shoal_form *form;

static int setup(void **state)
{
    (void)state;
    shoal_grammar *g = NULL;
    uint32_t number = 0;
    uint32_t text = 0;
    uint32_t list = 0;
    uint32_t root = 0;
    rig_init(&shared, &(rig_settings){.seed = 7});
    shared.describe->forms = true;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_number(g, true, &number), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_string(g, 1, 12, &text), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_array(g, text, 1, 3, &list), SHOAL_OK);
    const shoal_grammar_member members[] = {
        {"\"ab\"", number, true}, {"\"cd\"", list, false}, {"\"ef\"", text, true}};
    assert_int_equal(shoal_grammar_add_object(g, members, 3, &root), SHOAL_OK);
    shoal_grammar_set_root(g, root);
    assert_int_equal(shoal_grammar_encode(g, &bytes), SHOAL_OK);
    assert_int_equal(shoal_form_new(g, NULL, &form), SHOAL_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_form_free(form);
    shoal_buf_fini(&bytes);
    rig_fini(&shared);
    return 0;
}

static shoal_sampling sampling_of(uint64_t seed)
{
    shoal_sampling s = shoal_sampling_default();
    s.temperature = seed % 3 == 0 ? 0.0f : 1.3f;
    s.top_p = seed % 2 == 0 ? 0.7f : 1.0f;
    s.repetition_penalty = seed % 4 == 1 ? 1.1f : 1.0f;
    s.seed = seed;
    return s;
}

static void open_with_form(edge *e, const shoal_sampling *sampling)
{
    edge_init(e, &shared);
    e->form = (shoal_msg_form){
        .grammar = (const uint8_t *)bytes.data, .n_grammar = bytes.length, .position = N_PROMPT};
    edge_open(e, sampling, N_TEXT);
}

static void test_continue_in_parts_and_on_new_streams_keeps_the_form(void **state)
{
    (void)state;
    size_t n_whole = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        int32_t truth[RIG_TEXT_MAX];
        int32_t freed[RIG_TEXT_MAX];
        shoal_sampling sampling = sampling_of(seed);
        rig_prompt(seed, truth, N_PROMPT);
        memcpy(freed, truth, sizeof truth);
        size_t n = rig_decode_form(&shared, form, &sampling, truth, N_PROMPT, N_TEXT);
        (void)rig_decode(&shared, &sampling, freed, N_PROMPT, N_TEXT);
        assert_true(memcmp(truth, freed, n * sizeof *truth) != 0); /* the form says something */
        n_whole += n < N_TEXT;
        edge e;
        open_with_form(&e, &sampling);
        edge_prompt(&e, truth, N_PROMPT);
        while (e.n_confirmed < n) {
            if (e.n_confirmed % 3 == 0) { /* a new node knows the tokens alone */
                size_t n_known = e.n_confirmed;
                edge_fini(&e);
                open_with_form(&e, &sampling);
                edge_prompt(&e, truth, n_known);
            }
            edge_continue(&e, e.n_confirmed, 1 + seed);
            rig_settle(&shared);
            assert_false(e.done);
        }
        edge_expect_text(&e, truth, n);
        edge_fini(&e);
    }
    assert_true(n_whole > 0); /* some end where their object does */
}

static void test_drafts_right_and_wrong_give_the_same_text(void **state)
{
    (void)state;
    uint64_t rng = 5;
    size_t n_accepted = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        int32_t truth[RIG_TEXT_MAX];
        shoal_sampling sampling = sampling_of(seed);
        rig_prompt(seed, truth, N_PROMPT);
        size_t n = rig_decode_form(&shared, form, &sampling, truth, N_PROMPT, N_TEXT);
        edge e;
        open_with_form(&e, &sampling);
        edge_prompt(&e, truth, N_PROMPT);
        while (e.n_confirmed < n) {
            int32_t ids[12];
            size_t n_wish = 1 + shoal_rng_next(&rng) % 12;
            size_t n_ids = SHOAL_MIN(n_wish, N_TEXT - e.n_sent);
            for (size_t i = 0; i < n_ids; i++) {
                bool wrong = e.n_sent + i >= n || shoal_rng_next(&rng) % 8 == 0;
                ids[i] = wrong ? (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB)
                               : truth[e.n_sent + i];
            }
            if (n_ids > 0) {
                edge_draft(&e, ids, n_ids);
            }
            rig_settle(&shared);
            assert_false(e.done);
        }
        edge_expect_text(&e, truth, n);
        n_accepted += shoal_session_stats_get(e.session)->n_accepted;
        edge_fini(&e);
    }
    assert_true(n_accepted > 50);
}

static void expect_end(edge *e, shoal_rpc_status status, const char *word)
{
    assert_true(e->done);
    if (e->status != status || !strstr(e->error, word)) {
        fail_msg("wanted %d and '%s', got %d '%s'", (int)status, word, (int)e->status, e->error);
    }
    edge_fini(e);
}

static void test_what_cannot_be_kept_is_refused_by_name(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(1);
    int32_t prompt[N_PROMPT];
    rig_prompt(1, prompt, N_PROMPT);
    edge e;
    /* A node without words: another engine stands behind it. */
    shoal_form_words *words = SHOAL_STEAL(shared.words);
    memcpy(shared.describe->backend, "upstream", 9);
    open_with_form(&e, &sampling);
    expect_end(&e, SHOAL_RPC_FAILED_PRECONDITION, "upstream");
    shared.words = words;
    memset(shared.describe->backend, 0, sizeof shared.describe->backend);
    /* The version that does not know of forms. */
    edge_init(&e, &shared);
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, &sampling, N_TEXT)};
    msg.body.open.form = (shoal_msg_form){
        .grammar = (const uint8_t *)bytes.data, .n_grammar = bytes.length, .position = N_PROMPT};
    shoal_session_push(e.session, &msg, 1);
    expect_end(&e, SHOAL_RPC_FAILED_PRECONDITION, "version");
    /* Bytes that are no grammar. */
    edge_init(&e, &shared);
    e.form = (shoal_msg_form){.grammar = (const uint8_t *)"\1\7", .n_grammar = 2, .position = 1};
    edge_open(&e, &sampling, N_TEXT);
    expect_end(&e, SHOAL_RPC_INVALID_ARGUMENT, "open.form: byte 2");
    /* Tokens of the edge's own that break it. */
    open_with_form(&e, &sampling);
    edge_prompt(&e, prompt, N_PROMPT);
    int32_t id = SHOAL_TINY_FIRST_BYTE + ']';
    edge_tokens(&e, SHOAL_TOKENS_TRUSTED, N_PROMPT, &id, 1);
    expect_end(&e, SHOAL_RPC_INVALID_ARGUMENT, "position 9 breaks the form");
    /* A text that is not there yet. */
    open_with_form(&e, &sampling);
    edge_prompt(&e, prompt, N_PROMPT - 1);
    edge_continue(&e, N_PROMPT - 1, 4);
    rig_settle(&shared);
    expect_end(&e, SHOAL_RPC_INVALID_ARGUMENT, "form.position");
}

/* A list of one text that no token spells: nothing can be said. */
static void test_form_without_a_token_ends_in_words(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(1);
    int32_t prompt[N_PROMPT];
    static const uint8_t cut_character[] = "\1\1\3\1\1\xC3\6"; /* half of one */
    rig_prompt(1, prompt, N_PROMPT);
    edge e;
    edge_init(&e, &shared);
    e.form = (shoal_msg_form){
        .grammar = cut_character, .n_grammar = sizeof cut_character - 1, .position = N_PROMPT};
    edge_open(&e, &sampling, N_TEXT);
    edge_prompt(&e, prompt, N_PROMPT);
    edge_continue(&e, N_PROMPT, 40); /* blanks may stand before a value, but not for ever */
    rig_settle(&shared);
    assert_int_equal(e.n_confirmed, N_PROMPT + SHOAL_GRAMMAR_BLANKS_MAX);
    expect_end(&e, SHOAL_RPC_INVALID_ARGUMENT, "no token");
}

static void test_failing_memory_ends_the_session_as_busy(void **state)
{
    (void)state;
    shoal_sampling sampling = sampling_of(1);
    bool opened = false;
    for (uint64_t n = 0; !opened; n++) {
        edge e;
        edge_init(&e, &shared);
        e.form = (shoal_msg_form){.grammar = (const uint8_t *)bytes.data,
                                  .n_grammar = bytes.length,
                                  .position = N_PROMPT};
        shoal_mem_fail_at(n);
        edge_open(&e, &sampling, N_TEXT);
        shoal_mem_fail_at(UINT64_MAX);
        opened = e.opened;
        assert_int_equal(opened, !e.done);
        assert_true(opened || e.status == SHOAL_RPC_RESOURCE_EXHAUSTED);
        assert_true(n < 200);
        edge_fini(&e);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continue_in_parts_and_on_new_streams_keeps_the_form),
        cmocka_unit_test(test_drafts_right_and_wrong_give_the_same_text),
        cmocka_unit_test(test_what_cannot_be_kept_is_refused_by_name),
        cmocka_unit_test(test_form_without_a_token_ends_in_words),
        cmocka_unit_test(test_failing_memory_ends_the_session_as_busy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
