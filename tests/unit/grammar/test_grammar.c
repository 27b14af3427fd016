/* SPDX-License-Identifier: Apache-2.0
 *
 * What a grammar takes and refuses, its limits, and walks of random tokens whose every text must be
 * JSON to another parser.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/grammar/grammar.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum {
    TOOK_ALL,
    MORE,
    REFUSED_TEXT
};

/* Whether text is whole, the beginning of a whole one, or neither. Byte by byte gives the same. */
static int judge(const shoal_grammar *g, const char *text)
{
    shoal_grammar_state at_once;
    shoal_grammar_state state;
    shoal_grammar_start(g, &at_once);
    shoal_grammar_start(g, &state);
    bool taken = shoal_grammar_push(g, &at_once, text, strlen(text));
    for (size_t i = 0; text[i]; i++) {
        if (!shoal_grammar_push(g, &state, text + i, 1)) {
            assert_false(taken);
            return REFUSED_TEXT;
        }
    }
    assert_true(taken);
    return shoal_grammar_may_end(g, &state) ? TOOK_ALL : MORE;
}

typedef struct row {
    const char *text;
    int result;
} row;

static void check_rows(const shoal_grammar *g, const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int result = judge(g, rows[i].text);
        if (result != rows[i].result) {
            fail_msg("%s: %d, not %d", rows[i].text, result, rows[i].result);
        }
        json_t *json = json_loads(rows[i].text, JSON_DECODE_ANY, NULL);
        if (result == TOOK_ALL && !json) {
            fail_msg("%s was taken and is no JSON", rows[i].text);
        }
        json_decref(json);
    }
}

static void test_any_value_is_json_and_nothing_else(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = NULL;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    shoal_grammar_set_root(g, SHOAL_GRAMMAR_ANY);
    static const row rows[] = {
        {"", MORE},
        {" \n", MORE},
        {"tru", MORE},
        {"true", TOOK_ALL},
        {"truer", REFUSED_TEXT},
        {"nul", MORE},
        {"True", REFUSED_TEXT},
        {"0", TOOK_ALL},
        {"-", MORE},
        {"-0.5e-1", TOOK_ALL},
        {"01", REFUSED_TEXT},
        {"1.", MORE},
        {"1.e", REFUSED_TEXT},
        {"1e99", TOOK_ALL},
        {"1e999", REFUSED_TEXT},
        {"+1", REFUSED_TEXT},
        {"123456789012345", TOOK_ALL},
        {"1234567890123456", REFUSED_TEXT},
        {"\"a", MORE},
        {"\"a\\\"b\\u00e9\xC3\xA9\"", TOOK_ALL},
        {"\"\\x\"", REFUSED_TEXT},
        {"\"\\u12g", REFUSED_TEXT},
        {"\"\\ud7ff\\ue000\"", TOOK_ALL},
        {"\"\\ud8", REFUSED_TEXT},
        {"\"\\uDF", REFUSED_TEXT},
        {"\"line\n", REFUSED_TEXT},
        {"[]", TOOK_ALL},
        {"[1,]", REFUSED_TEXT},
        {"[1 ,\t[null , {} ]", MORE},
        {"[1 2", REFUSED_TEXT},
        {"{\"a\":1,\"b\" ", REFUSED_TEXT},
        {"{\"a\": 1, \"b\": [true]}", TOOK_ALL},
        {"{\"a\":1,}", REFUSED_TEXT},
        {"{a:1}", REFUSED_TEXT},
        {"{}x", REFUSED_TEXT},
        {"{} ", REFUSED_TEXT},
        {"1 ", REFUSED_TEXT},
        {"]", REFUSED_TEXT},
    };
    check_rows(g, rows, SHOAL_COUNT(rows));
}

static void test_blanks_and_depth_end_at_their_limits(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = NULL;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    shoal_grammar_set_root(g, SHOAL_GRAMMAR_ANY);
    char text[128];
    for (int n = SHOAL_GRAMMAR_BLANKS_MAX - 1; n <= SHOAL_GRAMMAR_BLANKS_MAX + 1; n++) {
        (void)snprintf(text, sizeof text, "[1,%*s2,%*s3]", n, "", n, "");
        assert_int_equal(judge(g, text), n <= SHOAL_GRAMMAR_BLANKS_MAX ? TOOK_ALL : REFUSED_TEXT);
    }
    for (size_t n = SHOAL_GRAMMAR_DEPTH_MAX - 1; n <= SHOAL_GRAMMAR_DEPTH_MAX + 1; n++) {
        memset(text, '[', n);
        memset(text + n, ']', n);
        text[2 * n] = '\0';
        assert_int_equal(judge(g, text), n <= SHOAL_GRAMMAR_DEPTH_MAX ? TOOK_ALL : REFUSED_TEXT);
    }
}

/* {"id": integer, "kind"?: "cat" | "catfish" | 1 | 12, "tags"?: [string of 1 to 3, 1 to 2 of them],
 * "note": string or null} */
static shoal_grammar *make_form(void)
{
    static const char *const kinds[] = {"\"cat\"", "\"catfish\"", "1", "12"};
    static const char *const nothing[] = {"null"};
    shoal_grammar *g = NULL;
    uint32_t id = 0;
    uint32_t kind = 0;
    uint32_t tag = 0;
    uint32_t tags = 0;
    uint32_t text = 0;
    uint32_t null = 0;
    uint32_t note = 0;
    uint32_t root = 0;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_number(g, true, &id), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_texts(g, kinds, 4, &kind), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_string(g, 1, 3, &tag), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_array(g, tag, 1, 2, &tags), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_string(g, 0, UINT32_MAX, &text), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_texts(g, nothing, 1, &null), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_union(g, (const uint32_t[]){text, null}, 2, &note),
                     SHOAL_OK);
    const shoal_grammar_member members[] = {{"\"id\"", id, true},
                                            {"\"kind\"", kind, false},
                                            {"\"tags\"", tags, false},
                                            {"\"note\"", note, true}};
    assert_int_equal(shoal_grammar_add_object(g, members, 4, &root), SHOAL_OK);
    shoal_grammar_set_root(g, root);
    return g;
}

static void test_form_holds_names_order_and_bounds(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = make_form();
    static const row rows[] = {
        {"{\"id\":7,\"note\":null}", TOOK_ALL},
        {"{\"id\": -7, \"kind\": \"cat\", \"tags\": [\"abc\", \"d\"], \"note\": \"\"}", TOOK_ALL},
        {"{\"id\":7,\"kind\":12,\"note\":\"x\"}", TOOK_ALL},
        {"{\"id\":7,\"kind\":1,\"note\":\"x\"}", TOOK_ALL},
        {"{\"id\":7,\"kind\":\"catfish\"", MORE},
        {"{\"id\":7,\"kind\":\"catf\"", REFUSED_TEXT},
        {"{\"id\":7,\"kind\":123", REFUSED_TEXT},
        {"{\"id\":7.5", REFUSED_TEXT},
        {"{\"id\":7}", REFUSED_TEXT},
        {"{}", REFUSED_TEXT},
        {"{\"kind\"", REFUSED_TEXT},
        {"{\"id\":7,\"tags\":[]", REFUSED_TEXT},
        {"{\"id\":7,\"tags\":[\"\"", REFUSED_TEXT},
        {"{\"id\":7,\"tags\":[\"abcd", REFUSED_TEXT},
        {"{\"id\":7,\"tags\":[\"\xC3\xA9\xC3\xA9\xC3\xA9\"]", MORE},
        {"{\"id\":7,\"tags\":[\"a\",\"b\",", REFUSED_TEXT},
        {"{\"id\":7,\"tags\":[\"a\"],\"kind\"", REFUSED_TEXT},
        {"{\"id\":7,\"note\":null,", REFUSED_TEXT},
        {"{\"id\":7,\"note\":1", REFUSED_TEXT},
        {"[]", REFUSED_TEXT},
    };
    check_rows(g, rows, SHOAL_COUNT(rows));
}

/* {"id": integer} or {"note": any map}. */
static shoal_grammar *make_cases(void)
{
    shoal_grammar *g = NULL;
    uint32_t id = 0;
    uint32_t note = 0;
    uint32_t root = 0;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_number(g, true, &id), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_map(g, SHOAL_GRAMMAR_ANY, &note), SHOAL_OK);
    const shoal_grammar_case cases[] = {{"{\"id\": ", id}, {"{\"note\": ", note}};
    assert_int_equal(shoal_grammar_add_cases(g, cases, 2, "}", &root), SHOAL_OK);
    shoal_grammar_set_root(g, root);
    return g;
}

static void test_text_of_a_case_chooses_its_value(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = make_cases();
    static const row rows[] = {
        {"{\"id\": 12}", TOOK_ALL},
        {"\n{\"id\":  12}", TOOK_ALL},
        {"{\"id\": 12", MORE},
        {"{\"id\": 12 }", REFUSED_TEXT},
        {"{\"id\":12", REFUSED_TEXT},
        {"{ \"id\"", REFUSED_TEXT},
        {"{\"id\": {", REFUSED_TEXT},
        {"{\"note\": {\"a\": [1]}}", TOOK_ALL},
        {"{\"note\": 1", REFUSED_TEXT},
        {"{\"note\": {}} ", REFUSED_TEXT},
        {"{\"not", MORE},
        {"{\"no\"", REFUSED_TEXT},
    };
    check_rows(g, rows, SHOAL_COUNT(rows));
    uint32_t node = 0;
    const shoal_grammar_case same[] = {{"ab", 0}, {"a", 0}};
    assert_int_equal(shoal_grammar_add_cases(g, same, 2, "}", &node), SHOAL_E_UNSUPPORTED);
    assert_int_equal(shoal_grammar_add_cases(g, same, 1, "", &node), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_cases(g, same, 0, "}", &node), SHOAL_E_INVALID);
    const shoal_grammar_case nowhere = {"a", 100000};
    assert_int_equal(shoal_grammar_add_cases(g, &nowhere, 1, "}", &node), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_cases(g, same, 1, "}", &node), SHOAL_OK);
}

static void test_builder_refuses_what_it_cannot_hold(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = NULL;
    assert_int_equal(shoal_grammar_new(&g), SHOAL_OK);
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t node = 0;
    assert_int_equal(shoal_grammar_add_string(g, 2, 1, &a), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_array(g, 10000, 0, 1, &a), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_map(g, 10000, &a), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_number(g, true, &a), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_number(g, false, &b), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_union(g, (const uint32_t[]){a, b}, 2, &node),
                     SHOAL_E_UNSUPPORTED);
    assert_int_equal(shoal_grammar_add_union(g, (const uint32_t[]){a, SHOAL_GRAMMAR_ANY}, 2, &node),
                     SHOAL_E_UNSUPPORTED);
    assert_int_equal(shoal_grammar_add_union(g, NULL, 0, &node), SHOAL_E_INVALID);
    const char *texts[SHOAL_GRAMMAR_CHOICES_MAX + 1];
    for (size_t i = 0; i <= SHOAL_GRAMMAR_CHOICES_MAX; i++) {
        texts[i] = "1";
    }
    assert_int_equal(shoal_grammar_add_texts(g, texts, 0, &node), SHOAL_E_INVALID);
    assert_int_equal(shoal_grammar_add_texts(g, texts, SHOAL_GRAMMAR_CHOICES_MAX, &node), SHOAL_OK);
    assert_int_equal(shoal_grammar_add_texts(g, texts, SHOAL_GRAMMAR_CHOICES_MAX + 1, &node),
                     SHOAL_E_LIMIT);
    char long_text[SHOAL_GRAMMAR_TEXT_MAX + 2];
    memset(long_text, 'x', sizeof long_text);
    long_text[SHOAL_GRAMMAR_TEXT_MAX + 1] = '\0';
    texts[0] = long_text;
    assert_int_equal(shoal_grammar_add_texts(g, texts, 1, &node), SHOAL_E_LIMIT);
    long_text[SHOAL_GRAMMAR_TEXT_MAX] = '\0';
    assert_int_equal(shoal_grammar_add_texts(g, texts, 1, &node), SHOAL_OK);
    shoal_status status = SHOAL_OK;
    size_t n = 0;
    while ((status = shoal_grammar_add_number(g, true, &node)) == SHOAL_OK) {
        n++;
    }
    assert_int_equal(status, SHOAL_E_LIMIT);
    assert_int_equal(node, SHOAL_GRAMMAR_NODES_MAX - 1);
    assert_true(n > 900);
}

/* --- tokens ----------------------------------------------------------------------------------- */

static const char *const vocabulary[] = {
    "\"",         "}",
    "]",          ":",
    ",",          "{",
    "[",          "id",
    "\"id\"",     "\"id\":",
    "\"kind\": ", "cat",
    "\"cat\"",    "fish",
    "1",          "2",
    "12",         "-",
    ".",          "e",
    "0",          "true",
    "null",       "nul",
    "l",          " ",
    "  ",         "\n",
    "a",          "\xC3\xA9",
    "\\",         "\\n",
    "u",          "00e9",
    "t",          "f",
    "{\"",        "\"}",
    "\"]",        "\",",
    "\": ",       ", \"",
    "\"note\"",   "note",
    "g",          "s",
    "k",          "i",
    "n",          "d",
    "o",          "c",
    "h",          "r",
    "\"tags\"",   "tags",
    "",           "a long token that is longer than sixty-four bytes and so never allowed",
};

static size_t spell(void *ctx, int32_t id, const char **ret_text)
{
    (void)ctx;
    *ret_text = vocabulary[id];
    return strlen(vocabulary[id]);
}

static bool is_allowed(const uint32_t *allowed, size_t id)
{
    return allowed[id / 32] >> (id % 32) & 1;
}

/* The walk's next token, -1: the text ends here. Long walks take what closes, where they can. */
static int choose(const uint32_t *allowed, bool may_end, size_t n_steps, uint64_t *rng)
{
    if (may_end && (n_steps > 60 || shoal_rng_next(rng) % 4 == 0)) {
        return -1;
    }
    for (size_t id = 0; n_steps > 60 && id < 3; id++) {
        if (is_allowed(allowed, id)) {
            return (int)id;
        }
    }
    for (;;) {
        size_t id = shoal_rng_next(rng) % SHOAL_COUNT(vocabulary);
        if (is_allowed(allowed, id)) {
            return (int)id;
        }
    }
}

static void walk(shoal_grammar_vocab *vocab, const shoal_grammar *g, uint64_t seed)
{
    uint64_t rng = seed;
    uint32_t allowed[SHOAL_COUNT(vocabulary) / 32 + 1];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_grammar_state state;
    shoal_grammar_start(g, &state);
    for (size_t n_steps = 0;; n_steps++) {
        size_t n = shoal_grammar_allow(vocab, g, &state, allowed);
        size_t n_brute = 0;
        for (size_t id = 0; id < SHOAL_COUNT(vocabulary); id++) {
            shoal_grammar_state one = state;
            size_t n_bytes = strlen(vocabulary[id]);
            bool ok = n_bytes >= 1 && n_bytes <= SHOAL_GRAMMAR_TOKEN_BYTES_MAX &&
                      shoal_grammar_push(g, &one, vocabulary[id], n_bytes);
            assert_int_equal(ok, is_allowed(allowed, id));
            n_brute += ok;
        }
        assert_int_equal(n, n_brute);
        bool may_end = shoal_grammar_may_end(g, &state);
        if (n == 0 && !may_end) {
            fail_msg("seed %llu: nothing may follow %s", (unsigned long long)seed, text.data);
        }
        int id = n == 0 ? -1 : choose(allowed, may_end, n_steps, &rng);
        if (id < 0) {
            break;
        }
        assert_true(shoal_grammar_push(g, &state, vocabulary[id], strlen(vocabulary[id])));
        assert_int_equal(shoal_buf_append(&text, vocabulary[id], strlen(vocabulary[id])), SHOAL_OK);
        assert_true(n_steps < 5000);
    }
    json_error_t why;
    json_t *json = json_loads(text.data, JSON_DECODE_ANY, &why);
    if (!json) {
        fail_msg("seed %llu: %s: %s", (unsigned long long)seed, why.text, text.data);
    }
    json_decref(json);
}

static void test_every_walk_ends_in_json(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *any = NULL;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *form = make_form();
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *cases = make_cases();
    shoal_grammar_vocab *vocab = NULL;
    assert_int_equal(shoal_grammar_new(&any), SHOAL_OK);
    shoal_grammar_set_root(any, SHOAL_GRAMMAR_ANY);
    assert_int_equal(shoal_grammar_vocab_new(SHOAL_COUNT(vocabulary), spell, NULL, &vocab),
                     SHOAL_OK);
    for (uint64_t seed = 1; seed <= 600; seed++) {
        walk(vocab, any, seed);
        walk(vocab, form, seed);
        walk(vocab, cases, seed);
    }
    shoal_grammar_vocab_free(vocab);
}

/* --- as bytes --------------------------------------------------------------------------------- */

static shoal_status decode(const shoal_buf *bytes, size_t n, shoal_grammar **ret_grammar)
{
    /* Memory of exactly its size, so that reading beyond it is seen. */
    shoal_err err = SHOAL_ERR_INIT;
    uint8_t *exact = shoal_calloc(n + 1, 1);
    assert_non_null(exact);
    memcpy(exact + 1, bytes->data, n);
    shoal_status status = shoal_grammar_decode(exact + 1, n, ret_grammar, &err);
    shoal_free(exact);
    assert_int_equal(status == SHOAL_E_PROTOCOL, err.text[0] != '\0');
    return status;
}

static void test_bytes_make_the_same_grammar(void **state)
{
    (void)state;
    shoal_grammar *made[] = {make_form(), make_cases(), NULL};
    assert_int_equal(shoal_grammar_new(&made[2]), SHOAL_OK);
    shoal_grammar_set_root(made[2], SHOAL_GRAMMAR_ANY);
    shoal_grammar_vocab *vocab = NULL;
    assert_int_equal(shoal_grammar_vocab_new(SHOAL_COUNT(vocabulary), spell, NULL, &vocab),
                     SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(made); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
        SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *back = NULL;
        assert_int_equal(shoal_grammar_encode(made[i], &bytes), SHOAL_OK);
        assert_int_equal(decode(&bytes, bytes.length, &back), SHOAL_OK);
        assert_int_equal(shoal_grammar_encode(back, &again), SHOAL_OK);
        assert_int_equal(again.length, bytes.length);
        assert_memory_equal(again.data, bytes.data, bytes.length);
        for (uint64_t seed = 1; seed <= 60; seed++) {
            walk(vocab, back, seed);
        }
        /* Cut anywhere it is none. */
        for (size_t n = 0; n < bytes.length; n++) {
            shoal_grammar *none = NULL;
            assert_int_equal(decode(&bytes, n, &none), SHOAL_E_PROTOCOL);
            assert_null(none);
        }
        shoal_grammar_free(made[i]);
    }
    shoal_grammar_vocab_free(vocab);
}

static void test_texts_are_told(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = make_form();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    assert_int_equal(shoal_grammar_put_texts(g, &text), SHOAL_OK);
    assert_non_null(strstr(text.data, "\"catfish\"\n1\n"));
    assert_non_null(strstr(text.data, "\"tags\"\n"));
}

/* Whatever the bytes say: refused in words, or a grammar that can be followed and written. */
static void test_spoilt_bytes_are_refused_or_a_grammar(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = make_form();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
    assert_int_equal(shoal_grammar_encode(g, &bytes), SHOAL_OK);
    shoal_grammar_vocab *vocab = NULL;
    assert_int_equal(shoal_grammar_vocab_new(SHOAL_COUNT(vocabulary), spell, NULL, &vocab),
                     SHOAL_OK);
    uint32_t allowed[SHOAL_COUNT(vocabulary) / 32 + 1];
    uint64_t rng = 4;
    size_t n_taken = 0;
    for (size_t i = 0; i < 20000; i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf spoilt = {0};
        SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *back = NULL;
        assert_int_equal(shoal_buf_append(&spoilt, bytes.data, bytes.length), SHOAL_OK);
        for (size_t k = 0; k <= i % 3; k++) {
            spoilt.data[shoal_rng_next(&rng) % bytes.length] = (char)shoal_rng_next(&rng);
        }
        shoal_status status = decode(&spoilt, spoilt.length, &back);
        if (status != SHOAL_OK) {
            assert_int_equal(status, SHOAL_E_PROTOCOL);
            continue;
        }
        shoal_grammar_state at;
        shoal_grammar_start(back, &at);
        for (size_t k = 0; k < 40 && shoal_grammar_allow(vocab, back, &at, allowed) > 0; k++) {
            int id = choose(allowed, false, k, &rng);
            assert_true(shoal_grammar_push(back, &at, vocabulary[id], strlen(vocabulary[id])));
        }
        n_taken++;
    }
    assert_true(n_taken > 100); /* a name or a bound was spoilt, say */
    shoal_grammar_vocab_free(vocab);
}

static void test_bytes_at_their_limits(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t n;
        bool ok;
    } rows[] = {
        {"\1\0\0", 3, true},                             /* any value */
        {"\2\0\0", 3, false},                            /* another format */
        {"\1\0\6", 3, false},                            /* no such root */
        {"\1\1\2\6", 4, true},                           /* an integer */
        {"\1\1\11\6", 4, false},                         /* no such kind */
        {"\1\1\0\1\1\6", 6, true},                       /* a string of one character */
        {"\1\1\0\2\1\6", 6, false},                      /* of 2 at least, 1 at most */
        {"\1\1\0\0\377\377\377\377\17\6", 10, true},     /* of 2^32 - 1 at most */
        {"\1\1\0\0\377\377\377\377\20\6", 10, false},    /* of 2^32 at most */
        {"\1\1\0\0\377\377\377\377\200\0\6", 11, false}, /* six bytes of a number */
        {"\1\1\3\1\1x\6", 7, true},                      /* a text */
        {"\1\1\3\1\1\0\6", 7, false},                    /* of a NUL */
        {"\1\1\3\1\0\6", 6, false},                      /* of nothing */
        {"\1\1\3\0\6", 5, false},                        /* an empty list */
        {"\1\1\3\101\6", 5, false},                      /* 65 texts */
        {"\1\1\3\1\201\10x\6", 8, false},                /* a text of 1025 bytes */
        {"\1\1\6\6\6", 5, false},                        /* a map of itself */
        {"\1\1\5\1\1\"\0\2\6", 8, false},                /* required 2 */
        {"\1\1\7\2\1\1\6", 7, false},                    /* parts that begin alike */
        {"\1\1\7\2\1\0\6", 7, false},                    /* again, inside any value */
        {"\1\372\7\6", 4, false},                        /* 1018 nodes, none there */
        {"\1\373\7\6", 4, false},                        /* 1019 nodes */
        {"\1\0\0\0", 4, false},                          /* something behind it */
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
        SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = NULL;
        assert_int_equal(shoal_buf_append(&bytes, rows[i].data, rows[i].n), SHOAL_OK);
        if ((decode(&bytes, rows[i].n, &g) == SHOAL_OK) != rows[i].ok) {
            fail_msg("row %zu", i);
        }
    }
}

static void test_failing_memory_leaves_nothing(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *g = make_cases();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
    assert_int_equal(shoal_grammar_encode(g, &bytes), SHOAL_OK);
    shoal_status status = SHOAL_E_NOMEM;
    for (uint64_t n = 0; status != SHOAL_OK; n++) {
        shoal_grammar *back = NULL;
        shoal_mem_fail_at(n);
        status = shoal_grammar_decode((const uint8_t *)bytes.data, bytes.length, &back, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        assert_int_equal(status == SHOAL_OK, back != NULL);
        shoal_grammar_free(back);
        assert_true(n < 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_value_is_json_and_nothing_else),
        cmocka_unit_test(test_blanks_and_depth_end_at_their_limits),
        cmocka_unit_test(test_form_holds_names_order_and_bounds),
        cmocka_unit_test(test_text_of_a_case_chooses_its_value),
        cmocka_unit_test(test_builder_refuses_what_it_cannot_hold),
        cmocka_unit_test(test_every_walk_ends_in_json),
        cmocka_unit_test(test_bytes_make_the_same_grammar),
        cmocka_unit_test(test_texts_are_told),
        cmocka_unit_test(test_spoilt_bytes_are_refused_or_a_grammar),
        cmocka_unit_test(test_bytes_at_their_limits),
        cmocka_unit_test(test_failing_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
