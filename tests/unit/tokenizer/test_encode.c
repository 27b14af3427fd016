/* SPDX-License-Identifier: Apache-2.0
 *
 * Text to ids with vocabularies of the test's own: words, fall-back to bytes, special tokens,
 * the merge engine against a plain one, limits, failing allocations, several threads.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/vocab.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Encodes and compares with a list that -1 ends. */
static void expect(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                   shoal_encode_flags flags, const int32_t *want)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_tokenizer_encode(tokenizer, text, n, flags, &ids, &n_ids, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    for (size_t i = 0; i < n_ids || want[i] >= 0; i++) {
        assert_true(i < n_ids);
        if (ids[i] != want[i]) {
            fail_msg("\"%.*s\": id %zu is %d, not %d", (int)n, text, i, ids[i], want[i]);
        }
    }
    shoal_free(ids);
}

static const shoal_encode_flags plain = {.add_bos = false, .parse_special = false};
static const shoal_encode_flags special = {.add_bos = false, .parse_special = true};
static const shoal_encode_flags with_bos = {.add_bos = true, .parse_special = false};

static void test_spm_words_merge_by_score(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t hello[] = {fixture_id(&f, "\xE2\x96\x81hello"),
                             fixture_id(&f, "\xE2\x96\x81world"), -1};
    expect(tokenizer, "hello world", 11, plain, hello);
    const int32_t bos[] = {1, fixture_id(&f, "\xE2\x96\x81hello"), -1};
    expect(tokenizer, "hello", 5, with_bos, bos);
    const int32_t spaces[] = {fixture_id(&f, "\xE2\x96\x81\xE2\x96\x81"),
                              fixture_id(&f, "\xE2\x96\x81hello"), -1};
    expect(tokenizer, "  hello", 7, plain, spaces);
    const int32_t nothing[] = {-1};
    expect(tokenizer, "", 0, plain, nothing);
    const int32_t only_bos[] = {1, -1};
    expect(tokenizer, "", 0, with_bos, only_bos);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_spm_unknown_characters_become_bytes(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.add_space_prefix = 0;
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t euro[] = {3 + 0xE2, 3 + 0x82, 3 + 0xAC, fixture_id(&f, "\xC3\xA9"), -1};
    expect(tokenizer, "\xE2\x82\xAC\xC3\xA9", 5, plain, euro);
    const int32_t broken[] = {3 + 0xE2, 3 + 0x82, fixture_id(&f, "a"), 3 + 0xFF, 3, -1};
    expect(tokenizer,
           "\xE2\x82"
           "a\xFF",
           5, plain, broken);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_spm_missing_byte_gives_unknown(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.add_space_prefix = 0;
    f.types[3 + 0x82] = 1; /* <0x82> is only a text now */
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t euro[] = {0, -1};
    expect(tokenizer, "\xE2\x82\xAC", 3, plain, euro);
    shoal_tokenizer_free(tokenizer);
    f.unknown = -1;
    f.types[0] = 1;
    fixture_refused(&f, SHOAL_E_INVALID, "byte 0x82");
    fixture_fini(&f);
}

static void test_plain_text_never_becomes_control_token(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    f.add_space_prefix = 0;
    /* Pieces from which merging could build the text of </s>. */
    (void)fixture_add(&f, "<", 1, -1, 1);
    (void)fixture_add(&f, "/", 1, -1, 1);
    (void)fixture_add(&f, ">", 1, -1, 1);
    (void)fixture_add(&f, "</", 2, -1, 1);
    (void)fixture_add(&f, "s>", 2, -1, 1);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t pieces[] = {fixture_id(&f, "</"), fixture_id(&f, "s>"), -1};
    expect(tokenizer, "</s>", 4, plain, pieces);
    const int32_t control[] = {2, -1};
    expect(tokenizer, "</s>", 4, special, control);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_bpe_words_merge_by_rank(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t want[] = {fixture_id(&f, "hello"), fixture_id(&f, "\xC4\xA0world"), '!', -1};
    expect(tokenizer, "hello world!", 12, plain, want);
    const int32_t accent[] = {fixture_id(&f, "\xC3\x83\xC2\xA9"), 0xFF, 0xE2, 0x82, -1};
    expect(tokenizer, "\xC3\xA9\xFF\xE2\x82", 5, plain, accent);
    /* GPT-2 has a BOS, but no wish to begin with it unless the file says so. */
    expect(tokenizer, "hello world!", 12, with_bos, want);
    assert_false(shoal_tokenizer_adds_bos(tokenizer));
    shoal_tokenizer_free(tokenizer);
    f.add_bos = 1;
    tokenizer = fixture_load_ok(&f);
    const int32_t begun[] = {(int32_t)f.bos, want[0], -1};
    expect(tokenizer, "hello", 5, with_bos, begun);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_bpe_numbers_split_as_the_rule_says(void **state)
{
    (void)state;
    static const struct {
        const char *pre;
        const char *text;
        const char *tokens[8]; /* texts of the tokens, NULL ends */
    } cases[] = {
        {"gpt-2", "1231", {"123", "1", NULL}},
        {"qwen2", "1231", {"1", "2", "3", "1", NULL}},
        {"smollm", " 12", {"\xC4\xA0", "1", "2", NULL}},
        {"llama-bpe", "12312", {"123", "12", NULL}},
        {"default", "12312", {"123", "12", NULL}},
        {"default", " 123", {"\xC4\xA0", "123", NULL}},
        {"default", "'s ", {"'", "s", "\xC4\xA0", NULL}},
        {"gpt-2", "  hello", {"\xC4\xA0", "\xC4\xA0hello", NULL}},
        {"llama-bpe", "  hello", {"\xC4\xA0", "\xC4\xA0hello", NULL}},
        {"llama-bpe", "  \n hello", {"\xC4\xA0\xC4\xA0", "\xC4\x8A", "\xC4\xA0hello", NULL}},
        {"default", "  !", {"\xC4\xA0\xC4\xA0", "!", NULL}},
        {"gpt-2", "  !", {"\xC4\xA0", "\xC4\xA0", "!", NULL}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        fixture f;
        fixture_init_bpe(&f);
        f.pre = cases[i].pre;
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        int32_t want[9];
        size_t n = 0;
        for (; cases[i].tokens[n]; n++) {
            want[n] = fixture_id(&f, cases[i].tokens[n]);
        }
        want[n] = -1;
        expect(tokenizer, cases[i].text, strlen(cases[i].text), plain, want);
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

static void test_bpe_whole_word_token_needs_no_merges(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    int32_t word = fixture_add(&f, "xyz", 3, 0, 1);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t letters[] = {'x', 'y', 'z', -1};
    expect(tokenizer, "xyz", 3, plain, letters);
    shoal_tokenizer_free(tokenizer);
    f.pre = "llama-bpe"; /* Llama 3 looks for the whole piece first */
    tokenizer = fixture_load_ok(&f);
    const int32_t whole[] = {word, -1};
    expect(tokenizer, "xyz", 3, plain, whole);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_special_longest_text_wins(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    int32_t a = fixture_add(&f, "<|a|>", 5, 0, 3);
    int32_t ab = fixture_add(&f, "<|a|>b", 6, 0, 3);
    int32_t user = fixture_add(&f, "<tool>", 6, 0, 4);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t both[] = {'x', ab, a, 'c', user, '<', -1};
    expect(tokenizer, "x<|a|>b<|a|>c<tool><", 20, special, both);
    /* User-defined tokens are part of the plain vocabulary, control tokens are not. */
    const int32_t only_user[] = {'<', '|', 'a', '|', '>', user, -1};
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(shoal_tokenizer_encode(tokenizer, "<|a|><tool>", 11, plain, &ids, &n, NULL),
                     0);
    assert_int_equal(n, 6);
    assert_memory_equal(ids, only_user, sizeof(only_user) - sizeof(only_user[0]));
    shoal_free(ids);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

/* A user-defined token is written as it is, all others by bytes: of the same characters, they mean
 * other texts. */
static void test_bpe_user_token_is_no_word_of_the_same_characters(void **state)
{
    static const char *const families[] = {"gpt-2", "llama-bpe"}; /* the latter skips its rules */
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(families); i++) {
        fixture f;
        fixture_init_bpe(&f);
        f.pre = families[i];
        int32_t user = fixture_add(&f, "\xC4\xA0h", 3, 0, 4);
        int32_t letter = fixture_add(&f, "\xC4\xA0", 2, 0, 4); /* as the byte of a space is */
        int32_t word = fixture_add(&f, "ho", 2, 0, 4);
        fixture_add_merge(&f, "\xC4\xA0 h", 4);
        fixture_add_merge(&f, "h o", 3);
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        const int32_t want[] = {word, ' ', 'h', word, user, -1};
        expect(tokenizer, "ho hho\xC4\xA0h", 9, plain, want);
        fixture_round_trip(tokenizer, "ho hho\xC4\xA0h", 9);
        fixture_round_trip(tokenizer, " h", 2);
        const int32_t alone[] = {letter, 'x', -1};
        expect(tokenizer, "\xC4\xA0x", 3, plain, alone);
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

/* The same text twice: a word of the vocabulary is not hidden by the token that means another. */
static void test_bpe_word_beside_a_user_token_of_its_characters(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    (void)fixture_add(&f, "\xC4\xA0h", 3, 0, 4);
    int32_t word = fixture_add(&f, "\xC4\xA0h", 3, 0, 1);
    fixture_add_merge(&f, "\xC4\xA0 h", 4);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t want[] = {word, 'x', -1};
    expect(tokenizer, " hx", 3, plain, want);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_spm_user_token_with_spaces_comes_back(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    int32_t spaces = fixture_add(&f, "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81", 9, 5, 4);
    int32_t lines = fixture_add(&f, "\n\n\n", 3, 5, 4);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    int32_t hello = fixture_id(&f, "\xE2\x96\x81hello");
    const int32_t want[] = {hello, spaces, hello, lines, -1};
    expect(tokenizer, "hello    hello\n\n\n", 17, plain, want);
    fixture_round_trip(tokenizer, "hello    hello\n\n\n he", 20);
    fixture_round_trip(tokenizer, "   hello", 8);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

/* A symbol of the plain engine: bytes [begin, end). */
typedef struct span {
    size_t begin;
    size_t end;
} span;

/* Merges the best pair, the leftmost of equals, looking at every pair each time. priority gives
 * the urgency of a joined text, lowest first, or UINT64_MAX. */
static size_t merge_plainly(const char *text, span *spans, size_t n,
                            uint64_t (*priority)(const fixture *, const char *, span, span),
                            const fixture *f)
{
    for (;;) {
        uint64_t best = UINT64_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint64_t p = priority(f, text, spans[i], spans[i + 1]);
            if (p < best) {
                best = p;
                at = i;
            }
        }
        if (best == UINT64_MAX) {
            return n;
        }
        spans[at].end = spans[at + 1].end;
        memmove(&spans[at + 1], &spans[at + 2], (n - at - 2) * sizeof(spans[0]));
        n--;
    }
}

static size_t find_text(const fixture *f, const char *p, size_t n)
{
    for (size_t id = 259; id < f->n_tokens; id++) {
        if (f->tokens[id].length == n && memcmp(f->tokens[id].data, p, n) == 0) {
            return id;
        }
    }
    return SIZE_MAX;
}

static uint64_t by_score(const fixture *f, const char *text, span left, span right)
{
    size_t id = find_text(f, text + left.begin, right.end - left.begin);
    return id == SIZE_MAX ? UINT64_MAX : (uint64_t)(1000 - (int)f->scores[id]);
}

static uint64_t by_rank(const fixture *f, const char *text, span left, span right)
{
    char rule[64];
    int n = snprintf(rule, sizeof(rule), "%.*s %.*s", (int)(left.end - left.begin),
                     text + left.begin, (int)(right.end - right.begin), text + right.begin);
    for (size_t i = 0; i < f->n_merges; i++) {
        if (f->merges[i].length == (size_t)n && memcmp(f->merges[i].data, rule, (size_t)n) == 0) {
            return i;
        }
    }
    return UINT64_MAX;
}

static void compare_with_plain_engine(const fixture *f, bool spm, uint64_t *seed)
{
    shoal_tokenizer *tokenizer = fixture_load_ok(f);
    for (size_t round = 0; round < 60; round++) {
        char text[100];
        span spans[100];
        size_t n = fixture_random(seed) % sizeof(text);
        for (size_t i = 0; i < n; i++) {
            text[i] = "aaabc"[fixture_random(seed) % 5];
            spans[i] = (span){.begin = i, .end = i + 1};
        }
        size_t n_want = merge_plainly(text, spans, n, spm ? by_score : by_rank, f);
        int32_t want[101];
        for (size_t i = 0; i < n_want; i++) {
            size_t length = spans[i].end - spans[i].begin;
            want[i] = length == 1 && !spm ? text[spans[i].begin]
                                          : (int32_t)find_text(f, text + spans[i].begin, length);
        }
        want[n_want] = -1;
        expect(tokenizer, text, n, plain, want);
    }
    shoal_tokenizer_free(tokenizer);
}

static void test_merge_engine_agrees_with_plain_one_spm(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (size_t vocab = 0; vocab < 10; vocab++) {
        fixture f;
        fixture_init_spm(&f);
        f.add_space_prefix = 0;
        for (size_t i = 0; i < 40; i++) {
            char text[6];
            size_t n = 2 + fixture_random(&seed) % 5;
            for (size_t k = 0; k < n; k++) {
                text[k] = "aab"[fixture_random(&seed) % 3];
            }
            /* Few scores, so that equals are common. */
            if (find_text(&f, text, n) == SIZE_MAX) {
                (void)fixture_add(&f, text, n, (float)(fixture_random(&seed) % 4), 1);
            }
        }
        compare_with_plain_engine(&f, true, &seed);
        fixture_fini(&f);
    }
}

static void test_merge_engine_agrees_with_plain_one_bpe(void **state)
{
    (void)state;
    uint64_t seed = 11;
    for (size_t vocab = 0; vocab < 10; vocab++) {
        fixture f;
        fixture_init_bpe(&f);
        fixture_truncate(&f, 256); /* the words and their rules go */
        f.bos = -1;
        f.eos = -1;
        (void)fixture_add(&f, "0", 1, 0, 1);
        (void)fixture_add(&f, "0", 1, 0, 1);
        (void)fixture_add(&f, "0", 1, 0, 1); /* words begin at 259, as in the other kind */
        for (size_t i = 0; i < 40; i++) {
            /* Join two of what is there: a letter or an earlier word. */
            char rule[64];
            char text[64];
            shoal_str side[2];
            for (size_t k = 0; k < 2; k++) {
                size_t n_words = f.n_tokens - 259;
                uint64_t pick = fixture_random(&seed) % (n_words + 3);
                side[k] = pick < 3 ? f.tokens[(uint8_t) "abc"[pick]] : f.tokens[259 + pick - 3];
            }
            if (side[0].length + side[1].length > 12) {
                continue;
            }
            int n = snprintf(text, sizeof(text), "%.*s%.*s", (int)side[0].length, side[0].data,
                             (int)side[1].length, side[1].data);
            if (find_text(&f, text, (size_t)n) == SIZE_MAX) {
                (void)fixture_add(&f, text, (size_t)n, 0, 1);
            }
            n = snprintf(rule, sizeof(rule), "%.*s %.*s", (int)side[0].length, side[0].data,
                         (int)side[1].length, side[1].data);
            fixture_add_merge(&f, rule, (size_t)n);
        }
        compare_with_plain_engine(&f, false, &seed);
        fixture_fini(&f);
    }
}

static void random_text(uint64_t *seed, char *text, size_t n)
{
    static const char *const parts[] = {
        " ",  "hello",        " world", "\xC3\xA9", "\xF0\x9F\x98\x80", "\n",
        "12", "\xE4\xBD\xA0", "'s",     "\t",       "<0x41>",           "."};
    size_t at = 0;
    while (at < n) {
        const char *part = parts[fixture_random(seed) % SHOAL_COUNT(parts)];
        size_t length = SHOAL_MIN(strlen(part), n - at); /* the last may be cut: invalid UTF-8 */
        memcpy(text + at, part, length);
        at += length;
    }
}

static void test_any_text_comes_back(void **state)
{
    (void)state;
    static const char *const rules[] = {NULL,           "gpt-2",          "default",    "smollm",
                                        "llama-bpe",    "qwen2",          "gpt-4o",     "tekken",
                                        "deepseek-llm", "deepseek-coder", "deepseek-v3"};
    for (size_t i = 0; i < SHOAL_COUNT(rules); i++) {
        fixture f;
        uint64_t seed = 99 + i;
        if (rules[i]) {
            fixture_init_bpe(&f);
            f.pre = rules[i];
        } else {
            fixture_init_spm(&f);
        }
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        for (size_t round = 0; round < 200; round++) {
            char text[200];
            size_t n = fixture_random(&seed) % sizeof(text);
            random_text(&seed, text, n);
            fixture_round_trip(tokenizer, text, n);
            for (size_t k = 0; k < n; k++) {
                text[k] = (char)fixture_random(&seed);
            }
            fixture_round_trip(tokenizer, text, n);
        }
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

/* Texts built to make merging or matching quadratic, at a size where that would not end. */
static void test_adversarial_text_takes_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {"a",    " ",     "h", "\n ", "\xE4\xBD\xA0",
                                        "\xFF", "hello", "<|"};
    enum {
        SIZE = 1 << 20
    };
    char *text = shoal_calloc(SIZE, 1);
    assert_non_null(text);
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
            (void)fixture_add(&f, "aa", 2, -5, 1);
            (void)fixture_add(&f, "aaaa", 4, -6, 1);
        } else {
            fixture_init_bpe(&f);
            (void)fixture_add(&f, "aa", 2, 0, 1);
            (void)fixture_add(&f, "aaaa", 4, 0, 1);
            fixture_add_merge(&f, "a a", 3);
            fixture_add_merge(&f, "aa aa", 5);
        }
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        for (size_t i = 0; i < SHOAL_COUNT(units); i++) {
            size_t n_unit = strlen(units[i]);
            size_t size = SIZE / 8;
            for (size_t at = 0; at < size; at++) {
                text[at] = units[i][at % n_unit];
            }
            fixture_round_trip(tokenizer, text, size);
        }
        memset(text, 'a', SIZE);
        fixture_round_trip(tokenizer, text, SHOAL_SEGMENT_MAX - 1);
        fixture_round_trip(tokenizer, text, SHOAL_SEGMENT_MAX);
        fixture_round_trip(tokenizer, text, SHOAL_SEGMENT_MAX + 1);
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
    shoal_free(text);
}

static void test_text_limit_holds(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    char token[SHOAL_SPECIAL_TEXT_MAX];
    memset(token, 'Q', sizeof(token));
    int32_t id = fixture_add(&f, token, sizeof(token), 0, 3);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    char *text = shoal_calloc(SHOAL_TEXT_MAX, 1);
    assert_non_null(text);
    memset(text, 'Q', SHOAL_TEXT_MAX);
    for (size_t less = 0; less < 2; less++) {
        int32_t *ids = NULL;
        size_t n = 0;
        size_t whole = SHOAL_TEXT_MAX / SHOAL_SPECIAL_TEXT_MAX - less;
        assert_int_equal(
            shoal_tokenizer_encode(tokenizer, text, SHOAL_TEXT_MAX - less, special, &ids, &n, NULL),
            0);
        assert_int_equal(n, whole + less * (SHOAL_SPECIAL_TEXT_MAX - 1));
        assert_int_equal(ids[whole - 1], id);
        shoal_free(ids);
    }
    int32_t *ids = NULL;
    size_t n = 0;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_tokenizer_encode(tokenizer, text, (size_t)SHOAL_TEXT_MAX + 1, special,
                                            &ids, &n, &err),
                     SHOAL_E_LIMIT);
    assert_null(ids);
    assert_non_null(strstr(err.text, "16777216"));
    shoal_free(text);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_encode_failing_allocation_gives_nomem(void **state)
{
    (void)state;
    char text[300];
    uint64_t seed = 3;
    random_text(&seed, text, 200);
    memset(text + 200, 'h', 100); /* long enough for the heap */
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
        } else {
            fixture_init_bpe(&f);
        }
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        shoal_status status = SHOAL_E_NOMEM;
        for (uint64_t i = 0; status != SHOAL_OK; i++) {
            assert_true(i < 200);
            int32_t *ids = NULL;
            size_t n = 0;
            shoal_err err = SHOAL_ERR_INIT;
            shoal_mem_fail_at(i);
            status =
                shoal_tokenizer_encode(tokenizer, text, sizeof(text), with_bos, &ids, &n, &err);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            assert_true((status == SHOAL_OK) == (ids != NULL));
            assert_int_equal(err.code, status);
            shoal_free(ids);
        }
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

static void *encode_often(void *ctx)
{
    const shoal_tokenizer *tokenizer = ctx;
    for (int i = 0; i < 200; i++) {
        int32_t *ids = NULL;
        size_t n = 0;
        if (shoal_tokenizer_encode(tokenizer, "hello world 123", 15, plain, &ids, &n, NULL) !=
            SHOAL_OK) {
            return NULL;
        }
        shoal_free(ids);
    }
    return ctx;
}

static void test_one_tokenizer_serves_threads(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        fixture f;
        if (kind == 0) {
            fixture_init_spm(&f);
        } else {
            fixture_init_bpe(&f);
        }
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        pthread_t threads[4];
        for (size_t i = 0; i < SHOAL_COUNT(threads); i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, encode_often, tokenizer), 0);
        }
        for (size_t i = 0; i < SHOAL_COUNT(threads); i++) {
            void *done = NULL;
            assert_int_equal(pthread_join(threads[i], &done), 0);
            assert_ptr_equal(done, tokenizer);
        }
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spm_words_merge_by_score),
        cmocka_unit_test(test_spm_unknown_characters_become_bytes),
        cmocka_unit_test(test_spm_missing_byte_gives_unknown),
        cmocka_unit_test(test_plain_text_never_becomes_control_token),
        cmocka_unit_test(test_bpe_words_merge_by_rank),
        cmocka_unit_test(test_bpe_numbers_split_as_the_rule_says),
        cmocka_unit_test(test_bpe_whole_word_token_needs_no_merges),
        cmocka_unit_test(test_special_longest_text_wins),
        cmocka_unit_test(test_bpe_user_token_is_no_word_of_the_same_characters),
        cmocka_unit_test(test_bpe_word_beside_a_user_token_of_its_characters),
        cmocka_unit_test(test_spm_user_token_with_spaces_comes_back),
        cmocka_unit_test(test_merge_engine_agrees_with_plain_one_spm),
        cmocka_unit_test(test_merge_engine_agrees_with_plain_one_bpe),
        cmocka_unit_test(test_any_text_comes_back),
        cmocka_unit_test(test_adversarial_text_takes_linear_time),
        cmocka_unit_test(test_text_limit_holds),
        cmocka_unit_test(test_encode_failing_allocation_gives_nomem),
        cmocka_unit_test(test_one_tokenizer_serves_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
