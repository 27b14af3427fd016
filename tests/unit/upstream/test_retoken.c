/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to ids in pieces and back: the text is never changed, whatever the pieces and the
 * vocabulary.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "vocab.h"

#include "cloud/upstream/retoken.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <string.h>

static shoal_tokenizer *vocabs[2];

static int setup(void **state)
{
    (void)state;
    vocabs[0] = vocab_family();
    vocabs[1] = vocab_tiny();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_tokenizer_free(vocabs[0]);
    shoal_tokenizer_free(vocabs[1]);
    return 0;
}

static const char *const pieces[] = {" the", "the", " ",       "\n",      "\n\n", "  a",  ".",
                                     "1",    ",",   " H40",    "\t",      "é",    "日本", "😀",
                                     "x",    "<s>", "<|end|>", "\u2581a", " \n ", "'s",   "\r\n"};

static size_t random_text(uint64_t *rng, char *text, size_t n_max)
{
    size_t n = 0;
    size_t n_pieces = 1 + shoal_rng_next(rng) % 12;
    for (size_t i = 0; i < n_pieces; i++) {
        const char *piece = pieces[shoal_rng_next(rng) % SHOAL_COUNT(pieces)];
        assert_true(n + strlen(piece) < n_max);
        memcpy(text + n, piece, strlen(piece));
        n += strlen(piece);
    }
    text[n] = '\0';
    return n;
}

/* The marker of SentencePiece cannot be told from a space by any reader. */
static bool is_expressible(size_t vocab_i, const char *text)
{
    return vocab_i == 0 || strstr(text, "\u2581") == NULL;
}

static void decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n,
                   shoal_detok *detok, shoal_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(shoal_detok_push(tokenizer, detok, ids[i], out), SHOAL_OK);
    }
}

static void test_encode_continuation_decodes_to_its_text(void **state)
{
    (void)state;
    uint64_t rng = 11;
    for (size_t round = 0; round < 1500; round++) {
        char text[256];
        size_t n = random_text(&rng, text, sizeof(text));
        for (size_t v = 0; v < SHOAL_COUNT(vocabs); v++) {
            int32_t *ids = NULL;
            size_t n_ids = 0;
            if (!is_expressible(v, text)) {
                continue;
            }
            shoal_err err = SHOAL_ERR_INIT;
            if (shoal_retoken_encode(vocabs[v], text, n, &ids, &n_ids, &err) != SHOAL_OK) {
                fail_msg("\"%s\" in vocabulary %zu: %s", text, v, err.text);
            }
            SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
            shoal_detok detok = {.started = true};
            decode(vocabs[v], ids, n_ids, &detok, &out);
            assert_int_equal(shoal_detok_finish(&detok, &out), SHOAL_OK);
            assert_string_equal(out.data, text);
            shoal_free(ids);
        }
    }
}

/* As an answer comes: pieces are held back, encoded where they may, and the rest at the end. */
static void test_pieces_of_an_answer_make_its_text(void **state)
{
    (void)state;
    uint64_t rng = 12;
    for (size_t round = 0; round < 300; round++) {
        size_t v = round % SHOAL_COUNT(vocabs);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf held = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_detok detok = {.started = true};
        for (size_t i = 0; i <= 8; i++) {
            char text[256];
            size_t n = random_text(&rng, text, sizeof(text));
            if (is_expressible(v, text)) {
                assert_int_equal(shoal_buf_append(&whole, text, n), SHOAL_OK);
                assert_int_equal(shoal_buf_append(&held, text, n), SHOAL_OK);
            }
            size_t ready = i == 8 ? held.length : shoal_retoken_ready(held.data, held.length);
            assert_true(ready <= held.length && held.length - ready <= SHOAL_RETOKEN_HELD_MAX);
            if (ready == 0) {
                continue;
            }
            int32_t *ids = NULL;
            size_t n_ids = 0;
            assert_int_equal(shoal_retoken_encode(vocabs[v], held.data, ready, &ids, &n_ids, NULL),
                             SHOAL_OK);
            decode(vocabs[v], ids, n_ids, &detok, &out);
            shoal_free(ids);
            shoal_buf_consume(&held, ready);
        }
        assert_int_equal(shoal_detok_finish(&detok, &out), SHOAL_OK);
        assert_int_equal(out.length, whole.length);
        assert_memory_equal(out.data, whole.data, whole.length);
    }
}

static void test_ready_holds_the_last_word(void **state)
{
    (void)state;
    const struct {
        const char *text;
        size_t n;
    } rows[] = {{"", 0},       {"word", 0},  {" word", 0},  {"a word", 1}, {"a b ", 3},
                {"a b  c", 3}, {"a\n\n", 1}, {"a\n\nb", 1}, {"  ", 0},     {"a b\tc d", 5}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        assert_int_equal(shoal_retoken_ready(rows[i].text, strlen(rows[i].text)), rows[i].n);
    }
    char long_word[SHOAL_RETOKEN_HELD_MAX + 1];
    memset(long_word, 'x', sizeof(long_word));
    assert_int_equal(shoal_retoken_ready(long_word, SHOAL_RETOKEN_HELD_MAX - 1), 0);
    assert_int_equal(shoal_retoken_ready(long_word, SHOAL_RETOKEN_HELD_MAX), 0);
    assert_int_equal(shoal_retoken_ready(long_word, SHOAL_RETOKEN_HELD_MAX + 1),
                     SHOAL_RETOKEN_HELD_MAX + 1);
}

static void test_prompt_names_control_tokens_and_leaves_bos_out(void **state)
{
    (void)state;
    for (size_t v = 0; v < SHOAL_COUNT(vocabs); v++) {
        const shoal_chat_message message = {.role = "user", .content = "What does H40 mean?"};
        int32_t *ids = NULL;
        size_t n = 0;
        assert_int_equal(shoal_chat_encode(vocabs[v], &message, 1, &ids, &n, NULL), SHOAL_OK);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
        assert_int_equal(shoal_retoken_prompt(vocabs[v], ids, n, &text, NULL), SHOAL_OK);
        /* What an engine makes of the text, BOS included, is what we hold. */
        int32_t *again = NULL;
        size_t n_again = 0;
        shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
        assert_int_equal(shoal_tokenizer_encode(vocabs[v], text.data, text.length, flags, &again,
                                                &n_again, NULL),
                         SHOAL_OK);
        assert_int_equal(n_again, n);
        assert_memory_equal(again, ids, n * sizeof(*ids));
        shoal_free(ids);
        shoal_free(again);
    }
}

static void test_prompt_that_ends_within_a_character_is_refused(void **state)
{
    (void)state;
    int32_t *ids = NULL;
    size_t n = 0;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_retoken_encode(vocabs[1], "a\u00e9", 3, &ids, &n, NULL), SHOAL_OK);
    assert_true(n >= 3);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_int_equal(shoal_retoken_prompt(vocabs[1], ids, n, &text, &err), SHOAL_OK);
    assert_int_equal(shoal_retoken_prompt(vocabs[1], ids, n - 1, &text, &err), SHOAL_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "within a character"));
    shoal_free(ids);
}

static void test_single_and_end_ids(void **state)
{
    (void)state;
    for (size_t v = 0; v < SHOAL_COUNT(vocabs); v++) {
        int32_t end = shoal_retoken_end_id(vocabs[v]);
        assert_true(shoal_tokenizer_is_end(vocabs[v], end));
        assert_true(shoal_retoken_single_id(vocabs[v], "\n", 1) >= 0);
        assert_int_equal(shoal_retoken_single_id(vocabs[v], "", 0), -1);
        assert_int_equal(shoal_retoken_single_id(vocabs[v], "one two three", 13), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode_continuation_decodes_to_its_text),
        cmocka_unit_test(test_pieces_of_an_answer_make_its_text),
        cmocka_unit_test(test_ready_holds_the_last_word),
        cmocka_unit_test(test_prompt_names_control_tokens_and_leaves_bos_out),
        cmocka_unit_test(test_prompt_that_ends_within_a_character_is_refused),
        cmocka_unit_test(test_single_and_end_ids),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
