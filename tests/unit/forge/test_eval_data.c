/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions from files: what is read, what is refused and how that is said; the plot's file.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/eval.h"
#include "cloud/forge/plot.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/shoal-test-eval-XXXXXX";
static shoal_tokenizer *tokenizer;

static int group_setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && close(fd) == 0);
    assert_int_equal(shoal_tiny_model_gguf(1, SHOAL_TYPE_F32, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_tokenizer_new(gguf, &tokenizer, NULL), SHOAL_OK);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_tokenizer_free(tokenizer);
    return unlink(path);
}

static shoal_status read_text(const char *text, const char *split, size_t n_max, eval_quiz *quiz,
                              shoal_err *err)
{
    memset(quiz, 0, sizeof *quiz);
    assert_int_equal(shoal_file_write(path, text, strlen(text), NULL), SHOAL_OK);
    return shoal_forge_quiz_add_jsonl(quiz, tokenizer, path, split, n_max, err);
}

static void refuses(const char *text, shoal_status code, const char *word)
{
    eval_quiz quiz;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(read_text(text, "test", 0, &quiz, &err), code);
    if (!strstr(err.text, word)) {
        fail_msg("\"%s\" does not name \"%s\"", err.text, word);
    }
    shoal_forge_quiz_fini(&quiz);
}

#define LINE(kind, more)                                                                           \
    "{\"kind\": \"" kind "\", \"prompt\": \"what is\", \"answer\": \"a pump\"" more "}\n"

static void test_questions_become_tokens(void **state)
{
    (void)state;
    eval_quiz quiz;
    assert_int_equal(read_text(LINE("fact", "") "\n  \n" LINE("command", ", \"weight\": 2.5")
                                   LINE("fact", ", \"split\": \"dev\""),
                               "test", 0, &quiz, NULL),
                     SHOAL_OK);
    assert_true(quiz.n == 2 && quiz.n_kinds == 2 && quiz.weighted);
    assert_string_equal(quiz.kinds[1], "command");
    const eval_question *q = &quiz.questions[1];
    assert_true(q->kind == 1 && q->weight == 2.5);
    assert_string_equal(q->answer, "a pump");
    /* The prompt as a chat writes it, then the answer as text and an end. */
    const shoal_chat_message message = {.role = "user", .content = "what is"};
    const shoal_encode_flags plain = {.add_bos = false};
    int32_t *prompt = NULL;
    int32_t *answer = NULL;
    size_t n_prompt = 0;
    size_t n_answer = 0;
    assert_int_equal(shoal_chat_encode(tokenizer, &message, 1, &prompt, &n_prompt, NULL), SHOAL_OK);
    assert_int_equal(
        shoal_tokenizer_encode(tokenizer, "a pump", 6, plain, &answer, &n_answer, NULL), SHOAL_OK);
    assert_true(q->n_prompt == n_prompt && q->n_answer == n_answer + 1);
    const int32_t *ids = quiz.ids + q->first;
    assert_memory_equal(ids, prompt, n_prompt * sizeof *ids);
    assert_memory_equal(ids + n_prompt, answer, n_answer * sizeof *ids);
    assert_int_equal(ids[n_prompt + n_answer], SHOAL_TINY_EOS);
    assert_true(q->said_i == n_answer + 1 && quiz.n_said == 2 * (n_answer + 1));
    shoal_free(prompt);
    shoal_free(answer);
    shoal_forge_quiz_fini(&quiz);
}

static void test_splits_and_numbers_are_kept_apart(void **state)
{
    (void)state;
    const char *text = LINE("a", "") LINE("a", ", \"split\": \"dev\"") LINE("a", "") LINE("a", "");
    eval_quiz quiz;
    assert_int_equal(read_text(text, "dev", 0, &quiz, NULL), SHOAL_OK);
    assert_int_equal(quiz.n, 1);
    shoal_forge_quiz_fini(&quiz);
    for (size_t n = 1; n <= 4; n++) {
        assert_int_equal(read_text(text, "test", n, &quiz, NULL), SHOAL_OK);
        assert_int_equal(quiz.n, SHOAL_MIN(n, (size_t)3));
        assert_false(quiz.weighted);
        shoal_forge_quiz_fini(&quiz);
    }
    assert_int_equal(read_text("", "test", 0, &quiz, NULL), SHOAL_OK);
    assert_int_equal(quiz.n, 0);
}

static void test_what_is_no_question_is_refused_with_its_line(void **state)
{
    (void)state;
    refuses(LINE("a", "") "{\n", SHOAL_E_INVALID, ":2: no JSON");
    refuses("[1, 2]\n", SHOAL_E_INVALID, "\"kind\"");
    refuses("7\n", SHOAL_E_INVALID, ":1:");
    refuses("{\"kind\": 1, \"prompt\": \"a\", \"answer\": \"b\"}\n", SHOAL_E_INVALID, "\"kind\"");
    refuses("{\"kind\": \"k\", \"answer\": \"b\"}\n", SHOAL_E_INVALID, "\"prompt\"");
    refuses("{\"kind\": \"k\", \"prompt\": \"a\", \"answer\": null}\n", SHOAL_E_INVALID,
            "\"answer\"");
    refuses(LINE("a", ", \"kind\": \"b\""), SHOAL_E_INVALID, "no JSON");
    refuses(LINE("a", ", \"weight\": 0"), SHOAL_E_INVALID, "\"weight\"");
    refuses(LINE("a", ", \"weight\": -1"), SHOAL_E_INVALID, "\"weight\"");
    refuses(LINE("a", ", \"weight\": \"2\""), SHOAL_E_INVALID, "\"weight\"");
    refuses(LINE("a", ", \"split\": 3"), SHOAL_E_INVALID, "\"split\"");
    refuses("{\"kind\": \"a\\u0000b\", \"prompt\": \"a\", \"answer\": \"b\"}\n", SHOAL_E_INVALID,
            "no JSON");
    refuses("\xff\xfe\n", SHOAL_E_INVALID, "no JSON");
}

static void test_kinds_up_to_the_limit(void **state)
{
    (void)state;
    eval_quiz quiz = {0};
    shoal_err err = SHOAL_ERR_INIT;
    char name[EVAL_KIND_NAME_MAX + 2];
    for (size_t i = 0; i <= EVAL_KINDS_MAX; i++) {
        (void)snprintf(name, sizeof name, "kind %zu", i);
        shoal_status expected = i < EVAL_KINDS_MAX ? SHOAL_OK : SHOAL_E_LIMIT;
        assert_int_equal(shoal_forge_quiz_add(&quiz, tokenizer, name, "a", "b", 1, &err), expected);
    }
    assert_true(quiz.n_kinds == EVAL_KINDS_MAX && quiz.n == EVAL_KINDS_MAX);
    assert_non_null(strstr(err.text, "kind 32"));
    assert_int_equal(shoal_forge_quiz_add(&quiz, tokenizer, "kind 3", "a", "b", 1, NULL), SHOAL_OK);
    shoal_forge_quiz_fini(&quiz);
    for (size_t n = EVAL_KIND_NAME_MAX - 2; n <= EVAL_KIND_NAME_MAX; n++) {
        memset(name, 'k', n);
        name[n] = 0;
        shoal_status expected = n < EVAL_KIND_NAME_MAX ? SHOAL_OK : SHOAL_E_LIMIT;
        assert_int_equal(shoal_forge_quiz_add(&quiz, tokenizer, name, "a", "b", 1, NULL), expected);
    }
    assert_int_equal(shoal_forge_quiz_add(&quiz, tokenizer, "", "a", "b", 1, NULL), SHOAL_E_LIMIT);
    shoal_forge_quiz_fini(&quiz);
}

static void test_texts_up_to_the_limit(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_free_cleanup) char *prompt = shoal_calloc(EVAL_TEXT_MAX + 2, 1);
    assert_non_null(prompt);
    memset(prompt, 'x', EVAL_TEXT_MAX - 1);
    for (size_t n = EVAL_TEXT_MAX - 1; n <= EVAL_TEXT_MAX + 1; n++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf line = {0};
        eval_quiz quiz;
        prompt[n - 1] = 'x';
        assert_int_equal(
            shoal_buf_appendf(&line, "{\"kind\": \"k\", \"prompt\": \"%s\", \"answer\": \"\"}",
                              prompt),
            SHOAL_OK);
        assert_int_equal(read_text(line.data, "test", 0, &quiz, NULL),
                         n > EVAL_TEXT_MAX ? SHOAL_E_LIMIT : SHOAL_OK);
        shoal_forge_quiz_fini(&quiz);
    }
}

static void test_failing_allocations_leave_a_whole_quiz(void **state)
{
    (void)state;
    eval_quiz quiz = {0};
    shoal_status status = SHOAL_E_NOMEM;
    uint64_t n = 0;
    for (; status != SHOAL_OK; n++) {
        shoal_mem_fail_at(n);
        status = shoal_forge_quiz_add(&quiz, tokenizer, "k", "a prompt", "an answer", 1, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        assert_int_equal(quiz.n, status == SHOAL_OK);
    }
    assert_true(n > 3);
    shoal_forge_quiz_fini(&quiz);
}

/* --- the plot -----------------------------------------------------------------------------------
 */

static void test_plot_within_limits(void **state)
{
    (void)state;
    const forge_plot_point points[] = {{0, 0.5}, {0.1, 0.9}, {1, 0.98}};
    forge_plot_curve curves[FORGE_PLOT_CURVES_MAX + 1];
    for (size_t i = 0; i <= FORGE_PLOT_CURVES_MAX; i++) {
        curves[i] = (forge_plot_curve){.name = "a<b&\"c\"\x1b",
                                       .points = points,
                                       .n = 3,
                                       .full = 0.98,
                                       .has_chosen = true,
                                       .chosen = {0.1, 0.9}};
    }
    for (size_t n = 0; n <= FORGE_PLOT_CURVES_MAX + 1; n++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_status expected = n == 0                      ? SHOAL_E_INVALID
                                : n > FORGE_PLOT_CURVES_MAX ? SHOAL_E_LIMIT
                                                            : SHOAL_OK;
        assert_int_equal(shoal_forge_plot("<title>", curves, n, &buf), expected);
        if (expected == SHOAL_OK) {
            assert_non_null(strstr(buf.data, "a&#60;b&#38;&#34;c&#34;&#32;"));
            assert_null(strstr(buf.data, "a<b"));
            assert_string_equal(buf.data + buf.length - 7, "</svg>\n");
        }
    }
}

static void test_plot_refuses_what_is_no_share(void **state)
{
    (void)state;
    const double bad[] = {-0.1, 1.1, (double)__builtin_nanf(""), (double)__builtin_inff()};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        forge_plot_point point = {0, 0.5};
        forge_plot_curve curve = {.name = "n", .points = &point, .n = 1, .full = bad[i]};
        assert_int_equal(shoal_forge_plot("t", &curve, 1, &buf), SHOAL_E_INVALID);
        curve.full = 1;
        point.y = bad[i];
        assert_int_equal(shoal_forge_plot("t", &curve, 1, &buf), SHOAL_E_INVALID);
        point = (forge_plot_point){bad[i], 0};
        assert_int_equal(shoal_forge_plot("t", &curve, 1, &buf), SHOAL_E_INVALID);
        point.x = 0;
        assert_int_equal(shoal_forge_plot("t", &curve, 1, &buf), SHOAL_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_questions_become_tokens),
        cmocka_unit_test(test_splits_and_numbers_are_kept_apart),
        cmocka_unit_test(test_what_is_no_question_is_refused_with_its_line),
        cmocka_unit_test(test_kinds_up_to_the_limit),
        cmocka_unit_test(test_texts_up_to_the_limit),
        cmocka_unit_test(test_failing_allocations_leave_a_whole_quiz),
        cmocka_unit_test(test_plot_within_limits),
        cmocka_unit_test(test_plot_refuses_what_is_no_share),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
