/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/utf8.h"

#include <string.h>

void fixture_init_empty(fixture *f, const char *model)
{
    memset(f, 0, sizeof(*f));
    f->model = model;
    f->n_scores = SIZE_MAX;
    f->n_types = SIZE_MAX;
    f->bos = -1;
    f->eos = -1;
    f->eot = -1;
    f->unknown = -1;
    f->add_space_prefix = -1;
    f->add_bos = -1;
    f->add_eos = -1;
    f->squeeze = -1;
}

void fixture_truncate(fixture *f, size_t n)
{
    while (f->n_tokens > n) {
        f->n_tokens--;
        shoal_free((void *)(uintptr_t)f->tokens[f->n_tokens].data);
    }
    while (f->n_merges > 0) {
        f->n_merges--;
        shoal_free((void *)(uintptr_t)f->merges[f->n_merges].data);
    }
}

void fixture_fini(fixture *f)
{
    fixture_truncate(f, 0);
    shoal_free(f->tokens);
    shoal_free(f->scores);
    shoal_free(f->types);
    shoal_free(f->merges);
}

static shoal_str copy(const char *text, size_t n)
{
    char *data = shoal_calloc(n + 1, 1);
    assert_non_null(data);
    if (n > 0) {
        memcpy(data, text, n);
    }
    return (shoal_str){.data = data, .length = n};
}

int32_t fixture_add(fixture *f, const char *text, size_t n, float score, int32_t type)
{
    if (f->n_tokens == f->capacity) {
        size_t capacity = f->capacity ? f->capacity * 2 : 512;
        f->tokens = shoal_realloc(f->tokens, capacity, sizeof(f->tokens[0]));
        f->scores = shoal_realloc(f->scores, capacity, sizeof(f->scores[0]));
        f->types = shoal_realloc(f->types, capacity, sizeof(f->types[0]));
        assert_true(f->tokens && f->scores && f->types);
        f->capacity = capacity;
    }
    size_t id = f->n_tokens++;
    f->tokens[id] = copy(text, n);
    f->scores[id] = score;
    f->types[id] = type;
    return (int32_t)id;
}

void fixture_add_merge(fixture *f, const char *rule, size_t n)
{
    if (f->n_merges == f->merges_capacity) {
        size_t capacity = f->merges_capacity ? f->merges_capacity * 2 : 64;
        f->merges = shoal_realloc(f->merges, capacity, sizeof(f->merges[0]));
        assert_non_null(f->merges);
        f->merges_capacity = capacity;
    }
    f->merges[f->n_merges++] = copy(rule, n);
}

int32_t fixture_id(const fixture *f, const char *text)
{
    size_t n = strlen(text);
    for (size_t id = 0; id < f->n_tokens; id++) {
        if (f->tokens[id].length == n && memcmp(f->tokens[id].data, text, n) == 0) {
            return (int32_t)id;
        }
    }
    fail_msg("no token \"%s\"", text);
    return -1;
}

static void add_text(fixture *f, const char *text, float score, int32_t type)
{
    (void)fixture_add(f, text, strlen(text), score, type);
}

void fixture_init_spm(fixture *f)
{
    static const char *const words[] = {
        "\xE2\x96\x81",
        "\xE2\x96\x81\xE2\x96\x81",
        "ll",
        "he",
        "or",
        "ld",
        "\xE2\x96\x81he",
        "\xE2\x96\x81hell",
        "\xE2\x96\x81hello",
        "\xE2\x96\x81w",
        "\xE2\x96\x81wor",
        "\xE2\x96\x81world",
        "\xE2\x96\x81t",
        "\xE2\x96\x81the",
        "th",
        "in",
        "\xC3\xA9",
        "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81",
        "\xF0\x9F\x98\x80",
        "\n\n",
        "\n",
    };
    fixture_init_empty(f, "llama");
    f->unknown = 0;
    f->bos = 1;
    f->eos = 2;
    add_text(f, "<unk>", 0, 2);
    add_text(f, "<s>", 0, 3);
    add_text(f, "</s>", 0, 3);
    for (unsigned byte = 0; byte < 256; byte++) {
        static const char digits[] = "0123456789ABCDEF";
        char text[] = {'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>', '\0'};
        add_text(f, text, 0, 6);
    }
    for (size_t i = 0; i < SHOAL_COUNT(words); i++) {
        add_text(f, words[i], -(float)i, 1);
    }
    for (char c = 'a'; c <= 'z'; c++) {
        (void)fixture_add(f, &c, 1, -100.0f - (float)c, 1);
    }
}

void fixture_byte_char(unsigned byte, char ret_text[3])
{
    /* Written from the description in GPT-2's encoder.py, apart from the code under test. */
    unsigned code_point = 256;
    if ((byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE) {
        code_point = byte;
    } else {
        for (unsigned i = 0; i < byte; i++) {
            code_point += !((i >= '!' && i <= '~') || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE);
        }
    }
    if (code_point < 128) {
        ret_text[0] = (char)code_point;
        ret_text[1] = '\0';
    } else {
        ret_text[0] = (char)(0xC0 | code_point >> 6);
        ret_text[1] = (char)(0x80 | (code_point & 63));
        ret_text[2] = '\0';
    }
}

void fixture_init_bpe(fixture *f)
{
    static const char *const rules[] = {"h e",
                                        "l l",
                                        "he ll",
                                        "hell o",
                                        "\xC4\xA0 hello",
                                        "\xC4\xA0 w",
                                        "o r",
                                        "\xC4\xA0w or",
                                        "l d",
                                        "\xC4\xA0wor ld",
                                        "\xC4\xA0 \xC4\xA0",
                                        "1 2",
                                        "12 3",
                                        "\xC3\x83 \xC2\xA9"};
    fixture_init_empty(f, "gpt2");
    f->pre = "gpt-2";
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[3];
        fixture_byte_char(byte, text);
        add_text(f, text, 0, 1);
    }
    for (size_t i = 0; i < SHOAL_COUNT(rules); i++) {
        char merged[32];
        size_t n = strlen(rules[i]);
        size_t left = strcspn(rules[i], " ");
        memcpy(merged, rules[i], left);
        memcpy(merged + left, rules[i] + left + 1, n - left - 1);
        (void)fixture_add(f, merged, n - 1, 0, 1);
        fixture_add_merge(f, rules[i], n);
    }
    f->bos = fixture_add(f, "<|endoftext|>", 13, 0, 3);
    f->eos = f->bos;
}

static void write_ids(const fixture *f, shoal_gguf_writer *writer)
{
    const struct {
        const char *key;
        int64_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", f->bos},
               {"tokenizer.ggml.eos_token_id", f->eos},
               {"tokenizer.ggml.eot_token_id", f->eot},
               {"tokenizer.ggml.unknown_token_id", f->unknown}};
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        if (ids[i].id >= 0) {
            assert_int_equal(shoal_gguf_put_u32(writer, ids[i].key, (uint32_t)ids[i].id), 0);
        }
    }
    const struct {
        const char *key;
        int value;
    } flags[] = {{"tokenizer.ggml.add_space_prefix", f->add_space_prefix},
                 {"tokenizer.ggml.add_bos_token", f->add_bos},
                 {"tokenizer.ggml.add_eos_token", f->add_eos},
                 {"tokenizer.ggml.remove_extra_whitespaces", f->squeeze}};
    for (size_t i = 0; i < SHOAL_COUNT(flags); i++) {
        if (flags[i].value >= 0) {
            assert_int_equal(shoal_gguf_put_bool(writer, flags[i].key, flags[i].value != 0), 0);
        }
    }
}

static void write_arrays(const fixture *f, shoal_gguf_writer *writer)
{
    size_t n_scores = f->n_scores == SIZE_MAX ? f->n_tokens : f->n_scores;
    size_t n_types = f->n_types == SIZE_MAX ? f->n_tokens : f->n_types;
    assert_int_equal(
        shoal_gguf_put_str_array(writer, "tokenizer.ggml.tokens", f->tokens, f->n_tokens), 0);
    if (!f->no_scores && strcmp(f->model, "llama") == 0) {
        assert_int_equal(
            shoal_gguf_put_f32_array(writer, "tokenizer.ggml.scores", f->scores, n_scores), 0);
    }
    if (n_types > 0) {
        assert_int_equal(
            shoal_gguf_put_i32_array(writer, "tokenizer.ggml.token_type", f->types, n_types), 0);
    }
    if (!f->no_merges && strcmp(f->model, "gpt2") == 0) {
        assert_int_equal(
            shoal_gguf_put_str_array(writer, "tokenizer.ggml.merges", f->merges, f->n_merges), 0);
    }
}

shoal_gguf *fixture_open(const fixture *f, shoal_buf *bytes)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_gguf_writer *writer = NULL;
    assert_int_equal(shoal_gguf_writer_new(&writer), 0);
    assert_int_equal(shoal_gguf_put_str(writer, "general.architecture", "llama"), 0);
    assert_int_equal(shoal_gguf_put_str(writer, "tokenizer.ggml.model", f->model), 0);
    if (f->pre) {
        assert_int_equal(shoal_gguf_put_str(writer, "tokenizer.ggml.pre", f->pre), 0);
    }
    if (f->chat_template) {
        assert_int_equal(shoal_gguf_put_str(writer, "tokenizer.chat_template", f->chat_template),
                         0);
    }
    write_arrays(f, writer);
    write_ids(f, writer);
    assert_int_equal(shoal_gguf_writer_finish(writer, bytes, &err), 0);
    shoal_gguf_writer_free(writer);
    shoal_gguf *gguf = NULL;
    if (shoal_gguf_open((const uint8_t *)bytes->data, bytes->length, &gguf, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return gguf;
}

shoal_status fixture_load(const fixture *f, shoal_tokenizer **ret_tokenizer, shoal_err *err)
{
    shoal_buf bytes = {.data = NULL};
    shoal_gguf *gguf = fixture_open(f, &bytes);
    shoal_status status = shoal_tokenizer_new(gguf, ret_tokenizer, err);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&bytes); /* everything must have been copied out */
    return status;
}

shoal_tokenizer *fixture_load_ok(const fixture *f)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_tokenizer *tokenizer = NULL;
    if (fixture_load(f, &tokenizer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_non_null(tokenizer);
    return tokenizer;
}

void fixture_refused(const fixture *f, shoal_status status, const char *text)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_tokenizer *tokenizer = NULL;
    assert_int_equal(fixture_load(f, &tokenizer, &err), status);
    assert_null(tokenizer);
    assert_int_equal(err.code, status);
    if (!strstr(err.text, text)) {
        fail_msg("\"%s\" does not name \"%s\"", err.text, text);
    }
}

void fixture_decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n, shoal_buf *buf)
{
    shoal_detok state = {.n_pending = 0};
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(shoal_detok_push(tokenizer, &state, ids[i], buf), 0);
    }
    assert_int_equal(shoal_detok_finish(&state, buf), 0);
}

void fixture_lossy(const char *text, size_t n, shoal_buf *buf)
{
    for (size_t at = 0; at < n;) {
        shoal_utf8_part part = shoal_utf8_next(text + at, n - at);
        bool valid = part.state == SHOAL_UTF8_VALID;
        assert_int_equal(
            shoal_buf_append(buf, valid ? text + at : "\xEF\xBF\xBD", valid ? part.length : 3), 0);
        at += part.length;
    }
}

void fixture_round_trip(const shoal_tokenizer *tokenizer, const char *text, size_t n)
{
    shoal_err err = SHOAL_ERR_INIT;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    shoal_buf got = {.data = NULL};
    shoal_buf want = {.data = NULL};
    shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    if (shoal_tokenizer_encode(tokenizer, text, n, flags, &ids, &n_ids, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    for (size_t i = 0; i < n_ids; i++) {
        assert_true(ids[i] >= 0 && (size_t)ids[i] < shoal_tokenizer_n_vocab(tokenizer));
    }
    fixture_decode(tokenizer, ids, n_ids, &got);
    fixture_lossy(text, n, &want);
    assert_int_equal(got.length, want.length);
    if (want.length > 0) {
        assert_memory_equal(got.data, want.data, want.length);
    }
    shoal_free(ids);
    shoal_buf_fini(&got);
    shoal_buf_fini(&want);
}

uint64_t fixture_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}
