/* SPDX-License-Identifier: Apache-2.0
 *
 * Recipes: what they say, every limit, and files that say it wrong, each with its line.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/recipe.h"
#include "common/base/buf.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static shoal_status parse(const char *text, forge_recipe **ret, shoal_err *err)
{
    return shoal_forge_recipe_parse("r.yaml", text, strlen(text), ret, err);
}

static void expect_refused(const char *text, const char *words)
{
    forge_recipe *r = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(parse(text, &r, &err), SHOAL_E_INVALID);
    if (!strstr(err.text, words)) {
        fail_msg("\"%s\" says \"%s\", not \"%s\"", text, err.text, words);
    }
}

static const char *rule_of(const forge_recipe *r, const char *name)
{
    const shoal_str s = {.data = name, .length = strlen(name)};
    const forge_recipe_rule *rule = shoal_forge_recipe_find(r, s);
    return rule ? rule->name : "none";
}

static void test_first_rule_that_fits_takes_a_matrix(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
    assert_int_equal(parse("embedding: Q8_0\n"
                           "output: keep\n"
                           "rest: f16\n"
                           "rules:\n"
                           "  first:\n"
                           "    layers: blk.0.*, blk.1?.attn_q.weight\n"
                           "    type: keep\n"
                           "  all: {layers: \"*.weight\", pass: gptq, bits: 4}\n",
                           &r, NULL),
                     SHOAL_OK);
    assert_true(r->embedding.typed && r->embedding.type == SHOAL_TYPE_Q8_0);
    assert_true(r->output.keep && r->rest.typed && r->rest.type == SHOAL_TYPE_F16);
    assert_int_equal(r->n_rules, 2);
    assert_string_equal(rule_of(r, "blk.0.ffn_up.weight"), "first");
    assert_string_equal(rule_of(r, "blk.12.attn_q.weight"), "first");
    assert_string_equal(rule_of(r, "blk.1.attn_q.weight"), "all");
    assert_string_equal(rule_of(r, "blk.123.attn_q.weight"), "all");
    assert_string_equal(rule_of(r, "blk.1.attn_q.bias"), "none");
    assert_string_equal(rule_of(r, ""), "none");
    const forge_recipe_rule *all = &r->rules[1];
    assert_int_equal(all->n_forms, 1);
    assert_true(all->forms[0].pass == SHOAL_PASS_GPTQ && all->forms[0].form.bits == 4);
    assert_true(all->forms[0].form.group == 32 && all->forms[0].form.mask == SHOAL_MASK_ALL);
    assert_true(all->sensitivity >= 1 && all->sensitivity <= 1 && all->line == 8);
}

/* Stars that could each match anywhere cost a walk along the name each, not a tree of them. */
static void test_patterns_of_many_stars_end(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
    char name[SHOAL_GGUF_NAME_MAX + 1];
    memset(name, 'a', sizeof name);
    name[sizeof name - 1] = 0;
    assert_int_equal(parse("rules: {a: {layers: \"*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b\", "
                           "type: Q8_0}}\n",
                           &r, NULL),
                     SHOAL_OK);
    assert_string_equal(rule_of(r, name), "none");
    name[sizeof name - 2] = 'b';
    assert_string_equal(rule_of(r, name), "a");
}

static void test_values_combine_to_the_forms_that_passes_take(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
    assert_int_equal(parse("rules:\n"
                           "  a:\n"
                           "    layers: a\n"
                           "    pass: gptq , joint,2:4+wrp\n"
                           "    type: Q4_K, Q6_K\n"
                           "    bits: 3, 4, 16\n"
                           "    group: 32, 64\n"
                           "    mask: all, bitmap\n"
                           "    density: 0.5, 0.7\n"
                           "    rank: 8, fill\n"
                           "    recover: 0.05\n"
                           "    within_bits: 3.5\n"
                           "    sensitivity: 2.5\n",
                           &r, NULL),
                     SHOAL_OK);
    const forge_recipe_rule *rule = &r->rules[0];
    /* gptq: 2 bits x 2 groups; joint: those and f16, 5 of 3 kinds of values x 2 ranks; wrp: 5. */
    assert_int_equal(rule->n_forms, 4 + 5 * 3 * 2 + 5 + 2);
    assert_true(rule->within_bits > 3.4 && rule->within_bits < 3.6 && rule->sensitivity > 2.4);
    size_t n_fill = 0;
    for (size_t i = 0; i < rule->n_forms; i++) {
        n_fill += rule->forms[i].fill;
        assert_true(!rule->forms[i].fill || rule->forms[i].pass == SHOAL_PASS_JOINT);
    }
    assert_int_equal(n_fill, 15);
    char text[96];
    shoal_forge_recipe_describe(&rule->forms[0], text, sizeof text);
    assert_string_equal(text, "gptq 3 bits/32");
    shoal_forge_recipe_describe(&rule->forms[rule->n_forms - 1], text, sizeof text);
    assert_string_equal(text, "Q6_K");
    bool seen = false;
    for (size_t i = 0; i < rule->n_forms; i++) {
        shoal_forge_recipe_describe(&rule->forms[i], text, sizeof text);
        seen = seen || strcmp(text, "joint 4 bits/64 bitmap 0.7 rank 8") == 0;
    }
    assert_true(seen);
}

static void test_wrong_keys_and_values_are_told_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *words;
    } cases[] = {
        {"embeding: Q8_0\n", "r.yaml:1: embeding: unknown key"},
        {"rules:\n  a:\n    layers: x\n    bitz: 4\n", "r.yaml:4: rules.a.bitz: unknown key"},
        {"rules:\n  a: 4\n", "r.yaml:2: rules.a: unknown key"},
        {"rules: 4\n", "r.yaml:1: rules: unknown key"},
        {"output: I8\n", "r.yaml:1: output: expected keep or a tensor type"},
        {"output: Q4_0, Q8_0\n", "output: expected one type"},
        {"output: Q4_0\noutput: Q8_0\n", "r.yaml:2: output: is set twice"},
        {"rules: {a: {layers: x}}\n", "rules.a.pass: is missing"},
        {"rules: {a: {pass: rtn, bits: 4}}\n", "rules.a.layers: is missing"},
        {"rules: {a: {layers: ' ,', type: Q8_0}}\n", "names no layers"},
        {"rules: {a: {layers: \"\\u00e9\", type: Q8_0}}\n", "printable ASCII"},
        {"rules: {a: {layers: x, pass: gtpq, bits: 4}}\n", "pass: expected rtn, awq"},
        {"rules: {a: {layers: x, pass: rtn}}\n", "rules.a.bits: this pass needs it"},
        {"rules: {a: {layers: x, pass: svd}}\n", "rules.a.rank: this pass needs it"},
        {"rules: {a: {layers: x, pass: rtn, bits: 1}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: 9}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: 16}}\n", "its passes make 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: 4.5}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: nan}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: 0x4}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: \"4,\"}}\n", "bits: expected 2 to 8"},
        {"rules: {a: {layers: x, pass: rtn, bits: [4]}}\n", "lists are not supported"},
        {"rules: {a: {layers: x, pass: rtn, bits: 4, group: 48}}\n", "group: expected 16, 32"},
        {"rules: {a: {layers: x, pass: rtn, bits: 4, rank: 4}}\n", "rank: no pass of this rule"},
        {"rules: {a: {layers: x, type: Q8_0, bits: 4}}\n", "bits: no pass of this rule"},
        {"rules: {a: {layers: x, pass: wanda, bits: 4}}\n", "density: a bitmap needs it"},
        {"rules: {a: {layers: x, pass: wanda, bits: 4, mask: all}}\n", "a pass that prunes"},
        {"rules: {a: {layers: x, pass: wanda, bits: 4, density: 1.01}}\n", "a share from 0 to 1"},
        {"rules: {a: {layers: x, pass: joint, bits: 4, rank: fill}}\n", "fill needs within_bits"},
        {"rules: {a: {layers: x, pass: joint, bits: 4, rank: 32769}}\n", "from 0 to 32768"},
        {"rules: {a: {layers: x, type: Q8_0, within_bits: 3, within_bytes: 3}}\n", "one of them"},
        {"rules: {a: {layers: x, type: Q8_0, within_bits: 3, 4}}\n", ""},
        {"rules: {a: {layers: x, type: Q8_0, within_bits: \"3, 4\"}}\n", "more than 1 values"},
        {"rules: {a: {layers: x, type: Q8_0, sensitivity: -1}}\n", "a number from 0 on"},
        {"rules:\n  a:\n    layers: x\n    type: Q8_0\n    type: Q4_0\n",
         "r.yaml:5: rules.a.type: already set on line 4"},
        {"a: &x 1\n", "anchors are not supported"},
        {"rules: {a: {layers: *x, type: Q8_0}}\n", "aliases are not supported"},
        {"rules:\n\t- x\n", "not valid YAML"},
        {"- x\n", "lists are not supported"},
        {"\x01\n", "not valid YAML"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        expect_refused(cases[i].text, cases[i].words);
    }
}

static void append(shoal_buf *buf, const char *text)
{
    assert_int_equal(shoal_buf_append(buf, text, strlen(text)), SHOAL_OK);
}

static void expect_status(const shoal_buf *buf, shoal_status want, const char *words)
{
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_forge_recipe_parse("r.yaml", buf->data, buf->length, &r, &err);
    assert_int_equal(status, want);
    assert_true(want == SHOAL_OK || strstr(err.text, words));
}

static void rules(shoal_buf *buf, size_t n)
{
    append(buf, "rules:\n");
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(shoal_buf_appendf(buf, "  r%zu: {layers: blk.%zu.*, type: Q8_0}\n", i, i),
                         SHOAL_OK);
    }
}

static void test_structure_says_what_goes(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *none = NULL;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *some = NULL;
    SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *all = NULL;
    assert_int_equal(parse("embedding: Q8_0\n", &none, NULL), SHOAL_OK);
    assert_false(shoal_forge_recipe_prunes(none));
    assert_int_equal(parse("structure: {neurons: 0.2}\n", &some, NULL), SHOAL_OK);
    const forge_recipe_structure *s = &some->structure;
    assert_true(shoal_forge_recipe_prunes(some) && !s->gradient && s->refit);
    assert_true(s->multiple == 32 && s->groups <= 0 && s->queries <= 0);
    assert_true(fabs(s->neurons - 0.2) < 1e-12);
    assert_int_equal(parse("structure:\n  queries: 0.95\n  by: gradient\n  refit: false\n"
                           "  multiple: 256\n",
                           &all, NULL),
                     SHOAL_OK);
    s = &all->structure;
    assert_true(shoal_forge_recipe_prunes(all) && s->gradient && !s->refit);
    assert_true(s->multiple == 256 && s->neurons <= 0 && s->queries > 0.94);
    expect_refused("structure: {neurons: 0.96}\n", "r.yaml:1: structure.neurons: expected a share");
    expect_refused("structure: {neurons: -0.1}\n", "expected a share from 0 to 0.95");
    expect_refused("structure: {groups: 0.1, neurons: 0.1, neurons: 0.2}\n",
                   "structure.neurons: already set on line 1");
    expect_refused("structure:\n  by: output\n  neurons: 0\n", "r.yaml:3: structure: nothing goes");
    expect_refused("structure: {groups: 0.1, queries: 0.1}\n", "groups is set too");
    expect_refused("structure: {neurons: 0.1, by: chance}\n", "expected output or gradient");
    expect_refused("structure: {neurons: 0.1, refit: 1}\n", "expected true or false");
    expect_refused("structure: {neurons: 0.1, multiple: 0}\n", "expected a whole number from 1");
    expect_refused("structure: {neurons: 0.1, multiple: 257}\n", "expected a whole number from 1");
    expect_refused("structure: {neurons: '0.1, 0.2'}\n", "expected a share");
    expect_refused("structure: {layers: 3}\n", "a structure has neurons");
}

static void test_limits_of_rules_names_patterns_values_forms(void **state)
{
    (void)state;
    for (size_t more = 0; more < 2; more++) {
        shoal_status want = more ? SHOAL_E_INVALID : SHOAL_OK;
        char long_text[FORGE_RECIPE_PATTERNS_MAX + 1];
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf many = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf name = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf patterns = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf values = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf forms = {0};
        rules(&many, FORGE_RECIPE_RULES_MAX + more);
        expect_status(&many, want, "more than 64 rules");
        memset(long_text, 'x', sizeof long_text);
        assert_int_equal(shoal_buf_appendf(&name, "rules: {%.*s: {layers: a, type: Q8_0}}\n",
                                           (int)(FORGE_RECIPE_NAME_MAX - 1 + more), long_text),
                         SHOAL_OK);
        expect_status(&name, want, "1 to 63 bytes");
        assert_int_equal(shoal_buf_appendf(&patterns, "rules: {a: {layers: %.*s, type: Q8_0}}\n",
                                           (int)(FORGE_RECIPE_PATTERNS_MAX - 1 + more), long_text),
                         SHOAL_OK);
        expect_status(&patterns, want, "longer than 511 bytes");
        append(&values, "rules: {a: {layers: a, type: \"Q8_0");
        for (size_t i = 1; i < FORGE_RECIPE_VALUES_MAX + more; i++) {
            append(&values, ", Q8_0");
        }
        append(&values, "\"}}\n");
        expect_status(&values, want, "more than 16 values");
        /* 16 ranks x 16 densities are as many forms as a rule may have */
        append(&forms, "rules: {a: {layers: a, pass: joint, bits: 4, mask: \"bitmap");
        append(&forms, more ? ", all\"" : "\"");
        append(&forms, ", density: \"0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,"
                       "0.1\", rank: \"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\"}}\n");
        expect_status(&forms, want, "more than 256 forms");
    }
}

static void test_memory_that_fails_is_told(void **state)
{
    (void)state;
    static const char text[] = "rules: {a: {layers: a, type: Q8_0}, b: {layers: b, type: Q8_0}}\n";
    size_t n_failed = 0;
    for (uint64_t at = 0;; at++) {
        SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
        shoal_mem_fail_at(at);
        shoal_status status = parse(text, &r, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        n_failed++;
    }
    assert_true(n_failed >= 5);
}

/* Whatever bytes a recipe's text is changed to, parsing ends with a recipe or an error. */
static void test_damaged_texts_never_get_further_than_an_error(void **state)
{
    (void)state;
    static const char text[] = "output: Q8_0\nrules:\n  a:\n    layers: blk.*.weight\n"
                               "    pass: joint\n    bits: 3, 4\n    rank: 8\n";
    static const char bytes[] = {0, '\n', ':', '*', '&', '{', '\t', ',', '-', '"', '9', (char)255};
    for (size_t i = 0; i < sizeof text - 1; i++) {
        for (size_t b = 0; b < sizeof bytes; b++) {
            SHOAL_CLEANUP(shoal_forge_recipe_freep) forge_recipe *r = NULL;
            shoal_err err = SHOAL_ERR_INIT;
            char copy[sizeof text];
            memcpy(copy, text, sizeof text);
            copy[i] = bytes[b];
            shoal_status status =
                shoal_forge_recipe_parse("r.yaml", copy, sizeof copy - 1, &r, &err);
            assert_true(status == SHOAL_OK ? r != NULL : err.text[0] != 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_rule_that_fits_takes_a_matrix),
        cmocka_unit_test(test_patterns_of_many_stars_end),
        cmocka_unit_test(test_values_combine_to_the_forms_that_passes_take),
        cmocka_unit_test(test_wrong_keys_and_values_are_told_with_their_line),
        cmocka_unit_test(test_structure_says_what_goes),
        cmocka_unit_test(test_limits_of_rules_names_patterns_values_forms),
        cmocka_unit_test(test_memory_that_fails_is_told),
        cmocka_unit_test(test_damaged_texts_never_get_further_than_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
