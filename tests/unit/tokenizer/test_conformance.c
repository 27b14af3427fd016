/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids of 47 strings for a GPT-2 and a Llama vocabulary, against the lists published with them
 * (ggerganov/llama.cpp, models/; Llama's equal those of sentencepiece).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Path of a file of the shared data; skips the test when it is not there. */
static void find(const char *vocab, const char *suffix, char ret_path[4096])
{
    const char *source = getenv("SHOAL_SOURCE_DIR");
    (void)snprintf(ret_path, 4096, "%s/../shared/tokenizers/ggml-vocab-%s.gguf%s",
                   source ? source : ".", vocab, suffix);
    FILE *file = fopen(ret_path, "rb");
    if (!file) {
        skip();
    }
    assert_int_equal(fclose(file), 0);
}

static shoal_tokenizer *load(const char *vocab)
{
    char path[4096];
    shoal_err err = SHOAL_ERR_INIT;
    shoal_map map = {.data = NULL, .size = 0};
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    find(vocab, "", path);
    assert_int_equal(shoal_map_open(path, &map, &err), 0);
    assert_int_equal(shoal_gguf_open(map.data, map.size, &gguf, &err), 0);
    if (shoal_tokenizer_new(gguf, &tokenizer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_gguf_close(gguf);
    shoal_map_close(&map);
    return tokenizer;
}

static void check_string(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                         const char *expected, size_t n_expected)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_buf rendered = {.data = NULL};
    shoal_buf decoded = {.data = NULL};
    shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
    assert_int_equal(shoal_tokenizer_encode(tokenizer, text, n, flags, &ids, &n_ids, &err), 0);
    assert_int_equal(shoal_buf_append(&rendered, "", 0), 0);
    for (size_t i = 0; i < n_ids; i++) {
        assert_int_equal(shoal_buf_appendf(&rendered, " %d", (int)ids[i]), 0);
    }
    if (rendered.length != n_expected || strncmp(rendered.data, expected, n_expected) != 0) {
        fail_msg("\"%.*s\": got%s, want%.*s", (int)n, text, rendered.data, (int)n_expected,
                 expected);
    }
    fixture_decode(tokenizer, ids, n_ids, &decoded);
    assert_int_equal(decoded.length, n);
    if (n > 0) {
        assert_memory_equal(decoded.data, text, n);
    }
    shoal_free(ids);
    shoal_buf_fini(&rendered);
    shoal_buf_fini(&decoded);
}

/* Strings stand between lines that say __ggml_vocab_test__ and hold newlines of their own; the
 * last one, after the last such line, is empty. Ids stand one string a line. */
static void check_vocab(const char *vocab)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    shoal_tokenizer *tokenizer = load(vocab);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_buf texts = {.data = NULL};
    shoal_buf expected = {.data = NULL};
    char path[4096];
    find(vocab, ".inp", path);
    assert_int_equal(shoal_file_read(path, 1 << 20, &texts, &err), 0);
    find(vocab, ".out", path);
    assert_int_equal(shoal_file_read(path, 1 << 20, &expected, &err), 0);
    size_t n_strings = 0;
    const char *line = expected.data;
    for (const char *text = texts.data; text;) {
        const char *end = strstr(text, separator);
        size_t n = end ? (size_t)(end - text) : strlen(text);
        size_t n_line = strcspn(line, "\n");
        check_string(tokenizer, text, n, line, n_line);
        line += n_line + (line[n_line] != '\0');
        text = end ? end + strlen(separator) : NULL;
        n_strings++;
    }
    assert_int_equal(n_strings, 47);
    assert_int_equal(*line, '\0');
    shoal_buf_fini(&texts);
    shoal_buf_fini(&expected);
    shoal_tokenizer_free(tokenizer);
}

static void test_gpt2_all_strings_as_published(void **state)
{
    (void)state;
    check_vocab("gpt-2");
}

static void test_llama_spm_all_strings_as_published(void **state)
{
    (void)state;
    check_vocab("llama-spm");
}

static void test_real_vocabularies_random_text_comes_back(void **state)
{
    (void)state;
    static const char *const vocabs[] = {"gpt-2", "llama-spm"};
    for (size_t v = 0; v < SHOAL_COUNT(vocabs); v++) {
        shoal_tokenizer *tokenizer = load(vocabs[v]);
        uint64_t seed = 20240501;
        for (size_t round = 0; round < 300; round++) {
            char text[64];
            size_t n = fixture_random(&seed) % sizeof(text);
            for (size_t i = 0; i < n; i++) {
                uint64_t r = fixture_random(&seed);
                text[i] = r % 4 == 0 ? (char)(r >> 8) : " ae\n't1s.Z"[(r >> 8) % 10];
            }
            fixture_round_trip(tokenizer, text, n);
        }
        shoal_tokenizer_free(tokenizer);
    }
}

static void test_llama_spm_special_texts_become_tokens(void **state)
{
    (void)state;
    static const char text[] = "<s>Hello</s>world";
    static const int32_t want[] = {1, 1, 15043, 2, 3186};
    shoal_tokenizer *tokenizer = load("llama-spm");
    int32_t *ids = NULL;
    size_t n = 0;
    shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    assert_int_equal(shoal_tokenizer_encode(tokenizer, text, strlen(text), flags, &ids, &n, NULL),
                     0);
    assert_int_equal(n, SHOAL_COUNT(want));
    assert_memory_equal(ids, want, sizeof(want));
    assert_true(shoal_tokenizer_is_end(tokenizer, 2));
    assert_false(shoal_tokenizer_is_end(tokenizer, 1));
    shoal_buf decoded = {.data = NULL};
    fixture_decode(tokenizer, ids, n, &decoded);
    assert_string_equal(decoded.data, "Helloworld");
    shoal_free(ids);
    shoal_buf_fini(&decoded);
    shoal_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_all_strings_as_published),
        cmocka_unit_test(test_llama_spm_all_strings_as_published),
        cmocka_unit_test(test_real_vocabularies_random_text_comes_back),
        cmocka_unit_test(test_llama_spm_special_texts_become_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
