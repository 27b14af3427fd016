/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the splitting rules cut. The pieces were derived by hand from the published expressions;
 * '|' stands between them and is no part of the text.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/vocab.h"

#include <string.h>

#define JAPANESE      "\xE6\x97\xA5\xE6\x9C\xAC"         /* U+65E5 U+672C */
#define KANA          "\xE3\x81\xA7\xE3\x81\x99"         /* U+3067 U+3059 */
#define KOREAN        "\xED\x95\x9C\xEA\xB5\xAD"         /* U+D55C U+AD6D */
#define RUSSIAN       "\xD0\x94\xD0\xB0"                 /* U+0414 U+0430 */
#define ARABIC_DIGITS "\xD9\xA1\xD9\xA2\xD9\xA3\xD9\xA4" /* U+0661 to U+0664 */
#define SMILE         "\xF0\x9F\x98\x80"                 /* U+1F600, So */
#define ACUTE         "\xCC\x81"                         /* U+0301, Mn */
#define JOINER        "\xE2\x80\x8D"                     /* U+200D, Cf */
#define HEART         "\xE2\x9D\xA4"                     /* U+2764, So */
#define VARIANT       "\xEF\xB8\x8F"                     /* U+FE0F, Mn */
#define COMMA         "\xEF\xBC\x8C"                     /* U+FF0C, Po */
#define STOP          "\xE3\x80\x82"                     /* U+3002, Po */
#define E_ACUTE       "\xC3\xA9"                         /* U+00E9 */
#define HALF          "\xC2\xBD"                         /* U+00BD, No */
#define NBSP          "\xC2\xA0"                         /* U+00A0, Zs */

static const char *const all_rules[] = {"gpt-2",      "phi-2",        "mpt",
                                        "olmo",       "default",      "smollm",
                                        "starcoder",  "refact",       "command-r",
                                        "llama-bpe",  "llama3",       "llama-v3",
                                        "falcon3",    "dbrx",         "qwen2",
                                        "gpt-4o",     "llama4",       "deepseek-r1-qwen",
                                        "tekken",     "deepseek-llm", "deepseek-coder",
                                        "deepseek-v3"};

typedef struct splitter {
    shoal_bpe_split *split;
    shoal_bpe_match *match;
    shoal_bpe_traits traits;
} splitter;

static void splitter_open(splitter *s, const char *pre)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_bpe_split_new((shoal_str){.data = pre, .length = strlen(pre)}, &s->split, &s->traits,
                            &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_bpe_match_new(s->split, &s->match), 0);
}

static void splitter_close(splitter *s)
{
    shoal_bpe_match_free(s->match);
    shoal_bpe_split_free(s->split);
}

/* The pieces with '|' between them. */
static void pieces_of(splitter *s, const char *text, size_t n, shoal_buf *buf)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_buf_append(buf, "", 0), 0);
    for (size_t at = 0; at < n;) {
        size_t length = 0;
        if (shoal_bpe_split_next(s->split, s->match, (shoal_str){.data = text, .length = n}, at,
                                 &length, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        assert_true(length > 0 && length <= n - at);
        assert_int_equal(shoal_buf_append(buf, "|", at > 0 ? 1 : 0), 0);
        assert_int_equal(shoal_buf_append(buf, text + at, length), 0);
        at += length;
    }
}

static void expect(const char *pre, const char *const *cases)
{
    splitter s;
    splitter_open(&s, pre);
    for (size_t i = 0; cases[i]; i++) {
        char text[256];
        size_t n = 0;
        for (const char *c = cases[i]; *c; c++) {
            if (*c != '|') {
                assert_true(n < sizeof(text));
                text[n++] = *c;
            }
        }
        shoal_buf got = {.data = NULL};
        pieces_of(&s, text, n, &got);
        if (strcmp(got.data, cases[i]) != 0) {
            fail_msg("%s: got \"%s\", want \"%s\"", pre, got.data, cases[i]);
        }
        shoal_buf_fini(&got);
    }
    splitter_close(&s);
}

#define CASES(...) ((const char *const[]){"", __VA_ARGS__, NULL})

static void test_gpt2(void **state)
{
    (void)state;
    expect("gpt-2", CASES("I|'m| fine", "we|'ll|'ve", "I|'|M", "12345| 67", HALF "1", " | two",
                          "a|  ", " ", "\n", "a|\n\n|\n|b", "x|\t|\t|y", JAPANESE "|123",
                          "ab" RUSSIAN JAPANESE, "hi|" SMILE "!", "hi| " SMILE, "e|" ACUTE "|x",
                          "a|" JOINER "|b", "(|x|)", " $|5| %", NBSP "|x", "a| ?!| b"));
}

static void test_default(void **state)
{
    (void)state;
    expect("default", CASES("a|$|b", "'|s", "123|45", " |123", ARABIC_DIGITS, "a| |...|b",
                            JAPANESE "|12", "hi|" SMILE "|!", "  |!"));
}

static void test_smollm(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm", "starcoder", "refact", "command-r"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        expect(names[i], CASES("1|2| ab", " |1|2", "a|1|b", "x|  |3", "x| | y", "I|'m|1", HALF "|1",
                               JAPANESE "|1|2", "a|\n|\n|b"));
    }
}

static void test_llama3(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        expect(names[i],
               CASES("I|'M| I|'ll|'Ve", "123|45", " |123", "x| |1", "$abc", " $|5", "a|\r\n\r\n|b",
                     "a| \n| b", "!!\n\n|x", " !!\r\n|x", JAPANESE "| |12", SMILE "| hi",
                     SMILE "hi", "\t|\tx", "  | x", "x|   ", "e|" ACUTE "x", "ab" RUSSIAN JAPANESE,
                     "x|\n\n\n", "\n\n| x", "  \n|  | x", "a|" NBSP "b", "123|" HALF "4", "(x|)"));
    }
}

static void test_qwen2(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen2", "deepseek-r1-qwen"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        expect(names[i], CASES("1|2|3", "I|'ll|'ve", " |1|2", "a|1|b", "!!\n\n|x", "a| \n| b",
                               JAPANESE "|1"));
    }
}

static void test_gpt4o(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-4o", "llama4"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        expect(names[i],
               CASES("Hello|World", "HTTPServer", "hello|WORLD", "don't", "DON'T", "don't|'ve| x",
                     "123|4", "a|/b", "//\n/|x", JAPANESE KANA, "e" ACUTE "x", " Hello", "  | x",
                     "x|\n\n|y", "X|1", SMILE "x", SMILE "!", RUSSIAN "|" RUSSIAN));
    }
}

static void test_tekken(void **state)
{
    (void)state;
    expect("tekken", CASES("don|'t", "1|2|3", "Hello|World", "a|/b", "e" ACUTE "x", " |1",
                           "x|\n\n|y", "...\n|x", JAPANESE "|1"));
}

static void test_deepseek_v3(void **state)
{
    (void)state;
    expect("deepseek-v3",
           CASES("123|45", " |12", JAPANESE KANA, "abc|" JAPANESE, JAPANESE "|abc", KOREAN,
                 "!Hello", " Hello|!", "(x|)", "$|5", "a|\n\n|b", "...\n\n|x", "I|'m",
                 "e" ACUTE "x", "a|" JOINER "b", "a|" JOINER "|1", SMILE "|hi", "  |" JAPANESE,
                 "x| | y", HEART "|" VARIANT, "x|  ", "\t|1", " ?!|1", "a|!!|1",
                 JOINER "|" JOINER "x"));
}

static void test_deepseek_coder(void **state)
{
    (void)state;
    expect("deepseek-coder", CASES("a|\n|\n|b", " Hello| |1|2", "(|x|)", " | if", JAPANESE KANA,
                                   "ab|" JAPANESE, KOREAN, "$+|1", "I|'|m", SMILE, "e|" ACUTE "|x",
                                   "a|;|\r|\n", "x|  ", "a| ...|b", COMMA "|" STOP, "  |1"));
}

static void test_deepseek_llm(void **state)
{
    (void)state;
    expect("deepseek-llm", CASES("a|\n|\n|b", "Hello| world", "I|'|m", "hi| |123", "hi|  ", " | hi",
                                 JAPANESE "| ab", "ab|" JAPANESE, E_ACUTE "|t|" E_ACUTE,
                                 COMMA "|" STOP, KOREAN, RUSSIAN, "x|  " SMILE, "a| +|1", "  |1"));
}

static void test_rules_bring_their_traits(void **state)
{
    (void)state;
    static const char *const whole[] = {"llama-bpe", "llama3", "llama-v3", "falcon3", "tekken"};
    for (size_t i = 0; i < SHOAL_COUNT(all_rules); i++) {
        bool want = false;
        for (size_t k = 0; k < SHOAL_COUNT(whole); k++) {
            want |= strcmp(all_rules[i], whole[k]) == 0;
        }
        fixture f;
        fixture_init_bpe(&f);
        int32_t word = fixture_add(&f, "xyz", 3, 0, 1);
        f.pre = all_rules[i];
        shoal_tokenizer *tokenizer = fixture_load_ok(&f);
        assert_true(shoal_tokenizer_adds_bos(tokenizer) == want);
        int32_t *ids = NULL;
        size_t n = 0;
        shoal_encode_flags flags = {.add_bos = false};
        assert_int_equal(shoal_tokenizer_encode(tokenizer, "xyz", 3, flags, &ids, &n, NULL), 0);
        assert_int_equal(n, want ? 1 : 3);
        assert_true(!want || ids[0] == word);
        shoal_free(ids);
        shoal_tokenizer_free(tokenizer);
        f.add_bos = 0;
        tokenizer = fixture_load_ok(&f);
        assert_false(shoal_tokenizer_adds_bos(tokenizer));
        shoal_tokenizer_free(tokenizer);
        fixture_fini(&f);
    }
}

/* Long runs of one kind, and a run that an odd character ends: nothing may be walked twice. */
static void test_long_runs_take_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {" ",   "\n",  "a",      "A",         "1",           "!",
                                        "'",   "\t ", JAPANESE, ("a" ACUTE), SMILE,         JOINER,
                                        " \n", "$",   "aA",     KOREAN,      ARABIC_DIGITS, "/"};
    enum {
        SIZE = 1 << 16
    };
    char *text = shoal_calloc(SIZE + 16, 1);
    assert_non_null(text);
    for (size_t i = 0; i < SHOAL_COUNT(all_rules); i++) {
        splitter s;
        splitter_open(&s, all_rules[i]);
        bool another_name = s.traits.name.length != strlen(all_rules[i]) ||
                            memcmp(s.traits.name.data, all_rules[i], s.traits.name.length) != 0;
        for (size_t u = another_name ? 2 * SHOAL_COUNT(units) : 0; u < 2 * SHOAL_COUNT(units);
             u++) {
            size_t n_unit = strlen(units[u / 2]);
            size_t n = 0;
            for (; n + n_unit <= SIZE; n += n_unit) {
                memcpy(text + n, units[u / 2], n_unit);
            }
            text[n++] = u % 2 ? 'x' : '\x01';
            shoal_buf got = {.data = NULL};
            pieces_of(&s, text, n, &got);
            assert_true(got.length >= n);
            shoal_buf_fini(&got);
        }
        splitter_close(&s);
    }
    shoal_free(text);
}

static void test_failing_allocation(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(all_rules); i++) {
        shoal_status status = SHOAL_E_NOMEM;
        for (uint64_t k = 0; status != SHOAL_OK; k++) {
            assert_true(k < 100);
            SHOAL_CLEANUP(shoal_bpe_split_freep) shoal_bpe_split *split = NULL;
            SHOAL_CLEANUP(shoal_bpe_match_freep) shoal_bpe_match *match = NULL;
            shoal_bpe_traits traits;
            shoal_mem_fail_at(k);
            status = shoal_bpe_split_new(
                (shoal_str){.data = all_rules[i], .length = strlen(all_rules[i])}, &split, &traits,
                NULL);
            if (status == SHOAL_OK) {
                status = shoal_bpe_match_new(split, &match);
            }
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        }
    }
}

/* The fuzz targets take their rules from there. */
static void test_the_table_names_every_rule(void **state)
{
    (void)state;
    size_t n = 0;
    for (size_t rule = 0; rule < shoal_bpe_n_rules(); rule++) {
        for (size_t i = 0; shoal_bpe_rule_name(rule, i).length > 0; i++) {
            shoal_str name = shoal_bpe_rule_name(rule, i);
            bool known = false;
            for (size_t k = 0; k < SHOAL_COUNT(all_rules); k++) {
                known |= strlen(all_rules[k]) == name.length &&
                         memcmp(all_rules[k], name.data, name.length) == 0;
            }
            assert_true(known);
            n++;
        }
        assert_int_equal(shoal_bpe_rule_name(rule, 99).length, 0);
    }
    assert_int_equal(n, SHOAL_COUNT(all_rules));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_smollm),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_gpt4o),
        cmocka_unit_test(test_tekken),
        cmocka_unit_test(test_deepseek_v3),
        cmocka_unit_test(test_deepseek_coder),
        cmocka_unit_test(test_deepseek_llm),
        cmocka_unit_test(test_rules_bring_their_traits),
        cmocka_unit_test(test_the_table_names_every_rule),
        cmocka_unit_test(test_long_runs_take_linear_time),
        cmocka_unit_test(test_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
