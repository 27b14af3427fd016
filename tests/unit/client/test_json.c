/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "edge/client/client_internal.h"

/* The text is copied so that ASan sees any step outside it. */
static int parse_n(shoal_client_json *json, const char *text, size_t n, char **ret_copy)
{
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    int code = shoal_client_json_parse(json, copy, n);
    *ret_copy = copy;
    return code;
}

static void test_json_values_are_read(void **state)
{
    (void)state;
    char text[] = " {\"a\":[1,-2.5e2,true,false,null,\"x\\n\\u20ac\\ud83d\\ude00\\/\"],\"b\":{},"
                  "\"c\":{\"a\":0.93},\"\":[],\"d\":18446744073709551616} ";
    shoal_client_json json = {.nodes = NULL};
    assert_int_equal(shoal_client_json_parse(&json, text, strlen(text)), SHOAL_CLIENT_OK);
    const shoal_client_json_node *root = json.nodes;
    const shoal_client_json_node *a = shoal_client_json_get(&json, root, "a");
    assert_int_equal(a->kind, SHOAL_CLIENT_JSON_ARRAY);
    assert_int_equal(shoal_client_json_u64(shoal_client_json_at(&json, a, 0), 9), 1);
    assert_true(shoal_client_json_double(shoal_client_json_at(&json, a, 1), 0.0) == -250.0);
    assert_int_equal(shoal_client_json_u64(shoal_client_json_at(&json, a, 1), 9), 9);
    assert_int_equal(shoal_client_json_at(&json, a, 2)->kind, SHOAL_CLIENT_JSON_TRUE);
    assert_int_equal(shoal_client_json_at(&json, a, 3)->kind, SHOAL_CLIENT_JSON_FALSE);
    assert_int_equal(shoal_client_json_at(&json, a, 4)->kind, SHOAL_CLIENT_JSON_NULL);
    assert_string_equal(shoal_client_json_text(shoal_client_json_at(&json, a, 5)),
                        "x\n\xE2\x82\xAC\xF0\x9F\x98\x80/");
    assert_null(shoal_client_json_at(&json, a, 6));
    assert_null(shoal_client_json_at(&json, root, 0));
    const shoal_client_json_node *c = shoal_client_json_get(&json, root, "c");
    assert_true(fabs(shoal_client_json_double(shoal_client_json_get(&json, c, "a"), 0) - 0.93) <
                1e-15);
    assert_int_equal(shoal_client_json_get(&json, root, "b")->kind, SHOAL_CLIENT_JSON_OBJECT);
    assert_int_equal(shoal_client_json_get(&json, root, "")->kind, SHOAL_CLIENT_JSON_ARRAY);
    assert_int_equal(shoal_client_json_u64(shoal_client_json_get(&json, root, "d"), 7), 7);
    assert_null(shoal_client_json_get(&json, root, "absent"));
    assert_null(shoal_client_json_get(&json, a, "a"));
    assert_null(shoal_client_json_get(&json, NULL, "a"));
    assert_string_equal(shoal_client_json_text(a), "");
    shoal_client_json_fini(&json);
}

static void test_json_numbers_equal_strtod(void **state)
{
    (void)state;
    const char *cases[] = {"0",       "-0",    "1e3",    "1E+2",
                           "12.5e-1", "1e308", "1e-320", "123456789012345678901234567890",
                           "0.1",     "1e999", "2e-999", "3.141592653589793238462643383279"};
    shoal_client_json json = {.nodes = NULL};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *copy = NULL;
        assert_int_equal(parse_n(&json, cases[i], strlen(cases[i]), &copy), SHOAL_CLIENT_OK);
        double wanted = strtod(cases[i], NULL);
        double got = shoal_client_json_double(json.nodes, -1.0);
        assert_true(got == wanted || fabs(got - wanted) <= 1e-13 * fabs(wanted) ||
                    fabs(got - wanted) < 1e-300);
        free(copy);
    }
    shoal_client_json_fini(&json);
}

static void test_json_malformed_texts_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "[1}",
        "{\"a\":1]",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\\u12\"",
        "\"a\nb\"",
        "tru",
        "nul",
        "truee",
        "01",
        "-",
        "-a",
        "1.",
        ".5",
        "1e",
        "1e+",
        "+1",
        "0x1",
        "NaN",
        "1 2",
        "{} x",
        "'a'",
        "\"\x80\"",
        "\"\xC0\xAF\"",
        "\"\xED\xA0\x80\"",
        "\"\xF4\x90\x80\x80\"",
        "\"\xE2\x82\"",
        "\"\\ud800\\u",
        "/*x*/1",
    };
    shoal_client_json json = {.nodes = NULL};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *copy = NULL;
        assert_int_equal(parse_n(&json, cases[i], strlen(cases[i]), &copy),
                         SHOAL_CLIENT_E_PROTOCOL);
        free(copy);
    }
    shoal_client_json_fini(&json);
}

static void test_json_every_prefix_of_a_text_is_refused(void **state)
{
    (void)state;
    const char text[] = "{\"a\":[1.5e1,true,null,\"\\u20ac\xE2\x82\xAC\"],\"b\":{\"c\":[[],{}]}}";
    shoal_client_json json = {.nodes = NULL};
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = NULL;
        assert_int_equal(parse_n(&json, text, n, &copy), SHOAL_CLIENT_E_PROTOCOL);
        free(copy);
    }
    shoal_client_json_fini(&json);
}

static void test_json_lone_surrogates_become_replacement(void **state)
{
    (void)state;
    char text[] = "[\"\\ud800\",\"\\udc00x\",\"\\ud800\\u0041\",\"a\\u0000b\"]";
    const char wanted[][8] = {"\xEF\xBF\xBD", "\xEF\xBF\xBDx", "\xEF\xBF\xBD\x41", "a"};
    shoal_client_json json = {.nodes = NULL};
    assert_int_equal(shoal_client_json_parse(&json, text, strlen(text)), SHOAL_CLIENT_OK);
    for (size_t i = 0; i < 4; i++) {
        const shoal_client_json_node *node = shoal_client_json_at(&json, json.nodes, i);
        assert_string_equal(shoal_client_json_text(node), wanted[i]);
    }
    assert_int_equal(shoal_client_json_at(&json, json.nodes, 3)->length, 3);
    shoal_client_json_fini(&json);
}

static int parse_nested(size_t depth)
{
    char text[2 * SHOAL_CLIENT_JSON_DEPTH_MAX + 8];
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, 2 * depth);
    shoal_client_json_fini(&json);
    return code;
}

static int parse_values(size_t n)
{
    /* n nodes: the array and n - 1 numbers. */
    size_t length = 2 * (n - 1) + 1;
    char *text = malloc(length);
    assert_non_null(text);
    for (size_t i = 0; i < length; i++) {
        text[i] = i % 2 ? '7' : ',';
    }
    text[0] = '[';
    text[length - 1] = ']';
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, length);
    shoal_client_json_fini(&json);
    free(text);
    return code;
}

static void test_json_limits_of_depth_and_nodes(void **state)
{
    (void)state;
    assert_int_equal(parse_nested(SHOAL_CLIENT_JSON_DEPTH_MAX - 1), SHOAL_CLIENT_OK);
    assert_int_equal(parse_nested(SHOAL_CLIENT_JSON_DEPTH_MAX), SHOAL_CLIENT_OK);
    assert_int_equal(parse_nested(SHOAL_CLIENT_JSON_DEPTH_MAX + 1), SHOAL_CLIENT_E_LIMIT);
    assert_int_equal(parse_values(SHOAL_CLIENT_JSON_NODES_MAX - 1), SHOAL_CLIENT_OK);
    assert_int_equal(parse_values(SHOAL_CLIENT_JSON_NODES_MAX), SHOAL_CLIENT_OK);
    assert_int_equal(parse_values(SHOAL_CLIENT_JSON_NODES_MAX + 1), SHOAL_CLIENT_E_LIMIT);
}

static void test_json_written_strings_read_back(void **state)
{
    (void)state;
    char all[128];
    for (size_t i = 0; i < sizeof all; i++) {
        all[i] = (char)i;
    }
    shoal_client_buf buf = {.limit = 4096};
    assert_int_equal(shoal_client_json_put_string(&buf, all, sizeof all), SHOAL_CLIENT_OK);
    shoal_client_json json = {.nodes = NULL};
    assert_int_equal(shoal_client_json_parse(&json, buf.data, buf.length), SHOAL_CLIENT_OK);
    assert_int_equal(json.nodes->length, sizeof all);
    assert_memory_equal(json.nodes->text, all, sizeof all);
    shoal_client_json_fini(&json);
    assert_int_equal(shoal_client_json_put_string(&buf, "\xFF", 1), SHOAL_CLIENT_E_INVALID);
    shoal_client_buf_fini(&buf);
}

static void test_json_numbers_do_not_depend_on_the_locale(void **state)
{
    (void)state;
    const char *locales[] = {"C", "de_DE.UTF-8", "fr_FR.UTF-8"};
    for (size_t i = 0; i < 3; i++) {
        if (!setlocale(LC_NUMERIC, locales[i])) {
            continue; /* not installed here */
        }
        shoal_client_buf buf = {.limit = 4096};
        assert_int_equal(shoal_client_json_put_double(&buf, 0.25), SHOAL_CLIENT_OK);
        assert_int_equal(shoal_client_buf_text(&buf, " "), SHOAL_CLIENT_OK);
        assert_int_equal(shoal_client_json_put_double(&buf, 1e-7), SHOAL_CLIENT_OK);
        assert_int_equal(shoal_client_buf_text(&buf, " "), SHOAL_CLIENT_OK);
        assert_int_equal(shoal_client_json_put_double(&buf, (double)INFINITY), SHOAL_CLIENT_OK);
        assert_string_equal(buf.data, "0.25 1e-07 null");
        shoal_client_buf_fini(&buf);
    }
    (void)setlocale(LC_NUMERIC, "C");
}

static void test_json_random_damage_never_breaks_it(void **state)
{
    (void)state;
    const char seed[] =
        "{\"choices\":[{\"delta\":{\"content\":\"\\u20ac \\\"x\\\"\"},\"i\":-1.5e3}],"
        "\"n\":null,\"t\":[true,false,{}]}";
    uint64_t rng = 88172645463325252u;
    shoal_client_json json = {.nodes = NULL};
    for (int round = 0; round < 30000; round++) {
        char bytes[sizeof seed];
        memcpy(bytes, seed, sizeof seed);
        for (int i = 0; i < 3; i++) {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            bytes[rng % (sizeof seed - 1)] = "{}[]\",:\\u0e-tfn x\x80\xE2"[(rng >> 32) % 19];
        }
        char *copy = NULL;
        int code = parse_n(&json, bytes, sizeof seed - 1, &copy);
        assert_true(code == SHOAL_CLIENT_OK || code == SHOAL_CLIENT_E_PROTOCOL);
        for (size_t i = 0; code == SHOAL_CLIENT_OK && i < json.n_nodes; i++) {
            assert_true(json.nodes[i].next > i && json.nodes[i].next <= json.n_nodes);
        }
        free(copy);
    }
    shoal_client_json_fini(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_values_are_read),
        cmocka_unit_test(test_json_numbers_equal_strtod),
        cmocka_unit_test(test_json_malformed_texts_are_refused),
        cmocka_unit_test(test_json_every_prefix_of_a_text_is_refused),
        cmocka_unit_test(test_json_lone_surrogates_become_replacement),
        cmocka_unit_test(test_json_limits_of_depth_and_nodes),
        cmocka_unit_test(test_json_written_strings_read_back),
        cmocka_unit_test(test_json_numbers_do_not_depend_on_the_locale),
        cmocka_unit_test(test_json_random_damage_never_breaks_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
