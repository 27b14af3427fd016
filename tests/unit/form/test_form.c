/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/form/form.h"
#include "common/model/model.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    MASK = SHOAL_TINY_VOCAB / 32 + 1
};

static shoal_model *model;
static shoal_form_words *words;

static int setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    shoal_gguf_close(gguf);
    return shoal_form_words_new(model->tokenizer, SHOAL_TINY_VOCAB, &words) == SHOAL_OK ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    shoal_form_words_free(words);
    shoal_model_free(model);
    return 0;
}

/* ret_grammar: the form's, for as long as it lives; NULL: not wanted. */
static shoal_form *make_form(const char *opening, const shoal_grammar **ret_grammar)
{
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = NULL;
    shoal_form *form = NULL;
    uint32_t node = 0;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_map(g, SHOAL_GRAMMAR_ANY, &node), SHOAL_OK);
    shoal_grammar_set_root(g, node);
    assert_int_equal(shoal_form_new(g, opening, &form), SHOAL_OK);
    const shoal_grammar *taken = SHOAL_STEAL(g);
    if (ret_grammar) {
        *ret_grammar = taken;
    }
    return form;
}

static int32_t id_of(char byte)
{
    return (int32_t)(SHOAL_TINY_FIRST_BYTE + (unsigned char)byte);
}

static bool push_text(const shoal_form *form, shoal_form_state *at, const char *text)
{
    bool kept = true;
    for (; *text && kept; text++) {
        kept = shoal_form_push(form, words, at, id_of(*text));
    }
    return kept;
}

static bool is_in(const uint32_t *allowed, int32_t id)
{
    return allowed[id / 32] >> (id % 32) & 1;
}

static void test_allowed_is_what_push_takes(void **state)
{
    (void)state;
    const shoal_grammar *grammar = NULL;
    SHOAL_CLEANUP(shoal_form_freep) shoal_form *form = make_form(NULL, &grammar);
    uint32_t allowed[MASK];
    uint64_t rng = 11;
    size_t n_ended = 0;
    for (size_t walk = 0; walk < 40; walk++) {
        shoal_form_state at;
        shoal_form_start(form, &at);
        assert_int_equal(at.phase, SHOAL_FORM_HELD);
        for (size_t k = 0; k < 60; k++) {
            size_t n = shoal_form_allow(form, words, &at, allowed);
            size_t n_takes = 0;
            for (int32_t id = 0; id < SHOAL_TINY_VOCAB; id++) {
                shoal_form_state one = at;
                bool end = shoal_tokenizer_is_end(model->tokenizer, id);
                bool takes = end ? is_in(allowed, id) : shoal_form_push(form, words, &one, id);
                assert_int_equal(takes, is_in(allowed, id));
                n_takes += takes;
            }
            assert_int_equal(n, n_takes);
            assert_true(n > 0);
            /* It may end where the object is whole, and there alone. */
            bool whole = shoal_grammar_may_end(grammar, &at.followed);
            assert_int_equal(is_in(allowed, SHOAL_TINY_EOS), whole);
            n_ended += whole;
            int32_t id = 0;
            do {
                id = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
            } while (!is_in(allowed, id));
            assert_true(shoal_form_push(form, words, &at, id));
            if (id == SHOAL_TINY_EOS) {
                break;
            }
        }
    }
    assert_true(n_ended > 0);
}

static void test_opening_begins_the_form_or_frees_the_text(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_form_freep) shoal_form *form = make_form("<c>", NULL);
    assert_string_equal(shoal_form_opening(form), "<c>");
    uint32_t allowed[MASK] = {7};
    shoal_form_state at;
    shoal_form_start(form, &at);
    assert_int_equal(at.phase, SHOAL_FORM_OPENING);
    assert_true(shoal_form_allow(form, words, &at, allowed) == SHOAL_FORM_ALL);
    assert_int_equal(allowed[0], 7);
    assert_true(push_text(form, &at, "<c"));
    assert_int_equal(at.phase, SHOAL_FORM_OPENING);
    shoal_form_state other = at;
    assert_true(push_text(form, &at, ">"));
    assert_int_equal(at.phase, SHOAL_FORM_HELD);
    assert_true(push_text(form, &at, " {\"a\": 1}"));
    shoal_form_state broken = at;
    assert_false(push_text(form, &broken, "x"));
    assert_true(shoal_form_push(form, words, &at, SHOAL_TINY_EOS));
    assert_int_equal(shoal_form_allow(form, words, &at, allowed), 1);
    assert_true(is_in(allowed, SHOAL_TINY_EOS));
    /* Begun otherwise it is free, whatever comes. */
    assert_true(push_text(form, &other, "d"));
    assert_int_equal(other.phase, SHOAL_FORM_LEFT);
    assert_true(push_text(form, &other, "}}}"));
    assert_true(shoal_form_allow(form, words, &other, allowed) == SHOAL_FORM_ALL);
    /* So is a text that begins with a token that has no text. */
    shoal_form_start(form, &other);
    assert_true(shoal_form_push(form, words, &other, SHOAL_TINY_BOS));
    assert_int_equal(other.phase, SHOAL_FORM_LEFT);
}

static void test_openings_end_at_their_limit(void **state)
{
    (void)state;
    char opening[SHOAL_FORM_OPENING_MAX + 2];
    for (size_t n = SHOAL_FORM_OPENING_MAX; n <= SHOAL_FORM_OPENING_MAX + 1; n++) {
        shoal_grammar *g = NULL;
        shoal_form *form = NULL;
        memset(opening, 'o', n);
        opening[n] = '\0';
        assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
        shoal_grammar_set_root(g, SHOAL_GRAMMAR_ANY);
        bool fits = n <= SHOAL_FORM_OPENING_MAX;
        assert_int_equal(shoal_form_new(g, opening, &form), fits ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_form_free(form);
        if (!fits) {
            shoal_grammar_free(g); /* was not taken */
        }
    }
}

static void test_failing_memory_makes_no_words(void **state)
{
    (void)state;
    shoal_status status = SHOAL_E_NOMEM;
    size_t n_failed = 0;
    for (uint64_t n = 0; status != SHOAL_OK; n++) {
        shoal_form_words *made = NULL;
        shoal_mem_fail_at(n);
        status = shoal_form_words_new(model->tokenizer, SHOAL_TINY_VOCAB, &made);
        shoal_mem_fail_at(UINT64_MAX);
        assert_int_equal(status == SHOAL_OK, made != NULL);
        shoal_form_words_free(made);
        n_failed += status != SHOAL_OK;
    }
    assert_true(n_failed > 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allowed_is_what_push_takes),
        cmocka_unit_test(test_opening_begins_the_form_or_frees_the_text),
        cmocka_unit_test(test_openings_end_at_their_limit),
        cmocka_unit_test(test_failing_memory_makes_no_words),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
