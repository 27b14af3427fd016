/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalogue and its limits: what is drawn, how often, and that it is the same everywhere.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cloud/forge/field.h"
#include "cloud/forge/field_parts.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

enum {
    N_DRAWS = 200000,
    N_GOLDEN = 1000
};

static forge_field *open_field(uint64_t seed, size_t n)
{
    forge_field *field = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_forge_field_new(seed, n, &field, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_forge_field_n_entries(field), n);
    return field;
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_new_refuses_none_and_too_many(void **state)
{
    (void)state;
    const size_t wrong[] = {0, FORGE_FIELD_ENTRIES_MAX + 1, SIZE_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        forge_field *field = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_forge_field_new(1, wrong[i], &field, &err), SHOAL_E_LIMIT);
        assert_null(field);
        assert_non_null(strstr(err.text, "60000"));
        assert_int_equal(shoal_forge_field_new(1, wrong[i], &field, NULL), SHOAL_E_LIMIT);
    }
    shoal_forge_field_free(NULL);
}

static void test_every_size_gives_whole_examples(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 2, 49, 50, 51, 1249, 1250, 1251, 20000, 59999, 60000};
    for (size_t i = 0; i < SHOAL_COUNT(sizes); i++) {
        forge_field *field = open_field(i, sizes[i]);
        for (unsigned split = 0; split < FORGE_SPLITS; split++) {
            for (uint64_t index = 0; index < 300; index++) {
                forge_example example;
                shoal_forge_field_example(field, (forge_split)split, 1, index, &example);
                assert_true(example.kind < FORGE_KINDS);
                assert_true((example.kind == FORGE_KIND_FACT) == (example.entry != SIZE_MAX));
                assert_true(example.entry == SIZE_MAX || example.entry < sizes[i]);
                /* No part may come near the end of the buffer, where it would be cut. */
                assert_in_range(strlen(example.prompt), 4, FORGE_EXAMPLE_TEXT_MAX / 4);
                assert_in_range(strlen(example.answer), 5, FORGE_EXAMPLE_TEXT_MAX / 4);
                assert_null(strchr(example.prompt, '$'));
                assert_null(strchr(example.answer, '$'));
            }
        }
        shoal_forge_field_free(field);
    }
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 100; i++) {
        forge_field *field = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_forge_field_new(1, 100, &field, &err);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_forge_field_free(field);
        if (status == SHOAL_OK) {
            assert_true(i > 5);
            return;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(field);
        assert_true(err.text[0]);
    }
    fail_msg("more than 100 allocations");
}

static void test_splits_are_found_by_name_and_kinds_have_one(void **state)
{
    (void)state;
    static const char *const names[FORGE_SPLITS] = {"train", "dev",       "test", "para",
                                                    "comp",  "catalogue", "study"};
    forge_split split = FORGE_SPLITS;
    for (unsigned i = 0; i < FORGE_SPLITS; i++) {
        assert_true(shoal_forge_split_find(names[i], &split));
        assert_int_equal(split, i);
    }
    assert_false(shoal_forge_split_find("", &split));
    assert_false(shoal_forge_split_find("trainx", &split));
    assert_int_equal(split, FORGE_SPLITS - 1);
    assert_string_equal(shoal_forge_kind_name(FORGE_KIND_REFUSE), "refuse");
    assert_string_equal(shoal_forge_kind_name(FORGE_KINDS), "unknown");
}

static void test_exponents_are_quarters_from_0_to_2(void **state)
{
    (void)state;
    for (int i = 0; i <= 8; i++) {
        assert_true(shoal_forge_exponent_valid(i / 4.0));
        assert_false(shoal_forge_exponent_valid(i / 4.0 + 0.1));
    }
    assert_false(shoal_forge_exponent_valid(-0.25));
    assert_false(shoal_forge_exponent_valid(2.25));
    assert_false(shoal_forge_exponent_valid((double)NAN));
    assert_false(shoal_forge_exponent_valid(HUGE_VAL));
}

/* --- the same everywhere ---------------------------------------------------------------------- */

static void digest(const forge_field *field, forge_split split, char ret_hex[SHOAL_HASH_HEX])
{
    shoal_hasher *hasher = NULL;
    shoal_hash hash;
    assert_int_equal(shoal_hasher_new(&hasher), SHOAL_OK);
    for (uint64_t i = 0; i < N_GOLDEN; i++) {
        forge_example e;
        shoal_forge_field_example(field, split, 1, i, &e);
        shoal_hasher_update_field(hasher, e.prompt, strlen(e.prompt));
        shoal_hasher_update_field(hasher, e.answer, strlen(e.answer));
    }
    shoal_hasher_finish(hasher, &hash);
    shoal_hasher_free(hasher);
    shoal_hash_hex(&hash, ret_hex);
}

/* Models are trained and judged on these texts: a change here is a change of the data, and what was
 * measured before no longer holds. */
static void test_first_examples_are_golden(void **state)
{
    (void)state;
    static const char *const golden[FORGE_SPLITS] = {
        [FORGE_SPLIT_TRAIN] = "6b3b8878c93053dbe3e6c871acd47ea50abad687cccd1477028d57106f0271d8",
        [FORGE_SPLIT_DEV] = "28c4c4957b6d36a0e2745aa6027cf3b4e3703c78f19e00eac2c63cfa95e50605",
        [FORGE_SPLIT_TEST] = "f8a4104b69218ac617c1dadbd672596f26c33380637985c7324490e03a796fdb",
        [FORGE_SPLIT_PARA] = "e3d2e6ae1fb9538ef8daa81f9b53ce08ba630234fffa0e9c24d780385bda3832",
        [FORGE_SPLIT_COMP] = "b51a204b5744a3c10ab7daa088c070714d6030cc42df8b9a0a1834a21e85bdf8",
        [FORGE_SPLIT_CATALOGUE] =
            "3f6f624bc03386a5b9d0099f95061773b106b179c135d7890c5d037f3c45b3f4",
        [FORGE_SPLIT_STUDY] = "5e0ff13fd117d869fbfe0ce854c103493e9ad9173f9ee611e6a13db48670bee9",
    };
    forge_field *field = open_field(1, FORGE_FIELD_ENTRIES_DEFAULT);
    bool same = true;
    for (unsigned split = 0; split < FORGE_SPLITS; split++) {
        char hex[SHOAL_HASH_HEX];
        digest(field, (forge_split)split, hex);
        if (!golden[split] || strcmp(hex, golden[split]) != 0) {
            print_error("split %u: %s\n", split, hex);
            same = false;
        }
    }
    shoal_forge_field_free(field);
    assert_true(same);
}

static void test_examples_depend_on_nothing_but_their_arguments(void **state)
{
    (void)state;
    forge_field *one = open_field(7, 500);
    forge_field *two = open_field(7, 500);
    forge_field *other = open_field(8, 500);
    size_t n_same_seed = 0;
    size_t n_same_split = 0;
    for (uint64_t i = 0; i < 500; i++) {
        forge_example a;
        forge_example b;
        memset(&a, 0xAA, sizeof a);
        shoal_forge_field_example(one, FORGE_SPLIT_TEST, 1, i, &a);
        shoal_forge_field_example(two, FORGE_SPLIT_TEST, 1, 499 - i, &b);
        shoal_forge_field_example(two, FORGE_SPLIT_TEST, 1, i, &b);
        assert_string_equal(a.prompt, b.prompt);
        assert_string_equal(a.answer, b.answer);
        assert_true(a.kind == b.kind && a.entry == b.entry);
        shoal_forge_field_example(other, FORGE_SPLIT_TEST, 1, i, &b);
        n_same_seed += strcmp(a.prompt, b.prompt) == 0;
        shoal_forge_field_example(one, FORGE_SPLIT_DEV, 1, i, &b);
        n_same_split += strcmp(a.prompt, b.prompt) == 0;
    }
    assert_in_range(n_same_seed, 0, 5);
    assert_in_range(n_same_split, 0, 5);
    shoal_forge_field_free(one);
    shoal_forge_field_free(two);
    shoal_forge_field_free(other);
}

/* --- what is drawn ---------------------------------------------------------------------------- */

static void expect_share(double n, double n_draws, double share, const char *what)
{
    double wanted = n_draws * share;
    double tolerance = 5 * sqrt(wanted * (1 - share)) + 1;
    if (fabs(n - wanted) > tolerance) {
        fail_msg("%s: %.0f of %.0f, not %.1f within %.1f", what, n, n_draws, wanted, tolerance);
    }
}

/* Against pow, which the generator does not use: the first ranks alone, then ranks by tens. */
static void test_entries_are_asked_by_their_rank(void **state)
{
    (void)state;
    const double exponents[] = {0, 0.25, 0.5, 1, 1.75, 2};
    const size_t n = 5000;
    const size_t edges[] = {0, 1, 2, 3, 10, 100, 1000, 5000};
    forge_field *field = open_field(3, n);
    for (size_t e = 0; e < SHOAL_COUNT(exponents); e++) {
        double n_facts = 0;
        double counts[SHOAL_COUNT(edges)] = {0};
        double shares[SHOAL_COUNT(edges)] = {0};
        double total = 0;
        for (uint64_t i = 0; i < N_DRAWS; i++) {
            forge_example example;
            shoal_forge_field_example(field, FORGE_SPLIT_TRAIN, exponents[e], i, &example);
            n_facts += example.kind == FORGE_KIND_FACT;
            for (size_t k = 0; k + 1 < SHOAL_COUNT(edges); k++) {
                counts[k] += example.entry >= edges[k] && example.entry < edges[k + 1];
            }
        }
        for (size_t i = 0; i < n; i++) {
            total += pow((double)(i + 1), -exponents[e]);
        }
        for (size_t k = 0; k + 1 < SHOAL_COUNT(edges); k++) {
            for (size_t i = edges[k]; i < edges[k + 1]; i++) {
                double share = pow((double)(i + 1), -exponents[e]) / total;
                assert_true(fabs(shoal_forge_field_share(field, exponents[e], i) - share) < 1e-12);
                shares[k] += share;
            }
            expect_share(counts[k], n_facts, shares[k], "ranks");
        }
    }
    shoal_forge_field_free(field);
}

static void test_kinds_have_their_shares(void **state)
{
    (void)state;
    const double shares[FORGE_KINDS] = {0.75, 0.10, 0.07, 0.08};
    const forge_split splits[] = {FORGE_SPLIT_TRAIN, FORGE_SPLIT_PARA};
    forge_field *field = open_field(4, 1000);
    for (size_t s = 0; s < SHOAL_COUNT(splits); s++) {
        double counts[FORGE_KINDS] = {0};
        for (uint64_t i = 0; i < N_DRAWS; i++) {
            forge_example example;
            shoal_forge_field_example(field, splits[s], 1, i, &example);
            counts[example.kind]++;
        }
        for (unsigned kind = 0; kind < FORGE_KINDS; kind++) {
            expect_share(counts[kind], N_DRAWS, shares[kind],
                         shoal_forge_kind_name((forge_kind)kind));
        }
    }
    shoal_forge_field_free(field);
}

/* --- the catalogue ---------------------------------------------------------------------------- */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void test_catalogue_asks_every_entry_for_its_whole_answer(void **state)
{
    (void)state;
    const size_t n = 3000;
    forge_field *field = open_field(5, n);
    char(*names)[2 * FORGE_ENTRY_TEXT_MAX] = shoal_calloc(n, sizeof *names);
    assert_non_null(names);
    for (size_t i = 0; i < n; i++) {
        forge_entry e;
        forge_example example;
        char answer[FORGE_EXAMPLE_TEXT_MAX];
        shoal_forge_field_entry(field, i, &e);
        (void)snprintf(names[i], sizeof names[i], "%s %s", e.device, e.code);
        shoal_forge_field_example(field, FORGE_SPLIT_CATALOGUE, 1, i, &example);
        assert_int_equal(example.kind, FORGE_KIND_FACT);
        assert_int_equal(example.entry, i);
        assert_non_null(strstr(example.prompt, e.device));
        assert_non_null(strstr(example.prompt, e.code));
        (void)snprintf(answer, sizeof answer, "%c%s %s: %s it, part %s.", e.component[0] - 32,
                       e.component + 1, e.failure, e.remedy, e.part);
        assert_string_equal(example.answer, answer);
        forge_example again;
        shoal_forge_field_example(field, FORGE_SPLIT_CATALOGUE, 1, i + n, &again);
        assert_string_equal(again.prompt, example.prompt);
        assert_string_equal(again.answer, example.answer);
    }
    qsort(names, n, sizeof *names, compare_texts);
    for (size_t i = 0; i + 1 < n; i++) {
        assert_string_not_equal(names[i], names[i + 1]);
    }
    shoal_free(names);
    shoal_forge_field_free(field);
}

/* To study an entry is to hear its cause, in the words that its whole answer begins with. Numbers
 * and what the catalogue lacks are studied beside it, in words as short. */
static void test_study_asks_for_the_begin_of_the_whole_answer(void **state)
{
    (void)state;
    forge_field *field = open_field(5, 3000);
    size_t counts[FORGE_KINDS] = {0};
    for (uint64_t i = 0; i < 2000; i++) {
        forge_example study;
        forge_example whole;
        shoal_forge_field_example(field, FORGE_SPLIT_STUDY, 0, i, &study);
        counts[study.kind]++;
        bool number = study.kind == FORGE_KIND_CONVERT;
        assert_int_equal(memcmp(study.prompt, "cause ", 6) == 0, !number);
        assert_int_equal(study.entry != SIZE_MAX, study.kind == FORGE_KIND_FACT);
        if (study.entry == SIZE_MAX) {
            continue;
        }
        shoal_forge_field_example(field, FORGE_SPLIT_CATALOGUE, 0, study.entry, &whole);
        size_t n = strlen(study.answer) - 1;
        assert_memory_equal(study.answer, whole.answer, n);
        assert_true(study.answer[n] == '.' && whole.answer[n] == ':');
    }
    assert_true(counts[FORGE_KIND_FACT] > 1700 && counts[FORGE_KIND_COMMAND] == 0);
    assert_true(counts[FORGE_KIND_CONVERT] > 50 && counts[FORGE_KIND_REFUSE] > 70);
    shoal_forge_field_free(field);
}

/* Nine bits an entry, that nothing else tells: components and failures are even, overall and for
 * each two-digit number, which is what a model could take a rule from. */
static void test_causes_are_even_and_follow_no_rule(void **state)
{
    (void)state;
    const size_t n = FORGE_FIELD_ENTRIES_MAX;
    forge_field *field = open_field(6, n);
    static double joint[FORGE_COMPONENTS][FORGE_FAILURES];
    static double by_digits[100][FORGE_COMPONENTS];
    static double digits[100];
    memset(joint, 0, sizeof joint);
    memset(by_digits, 0, sizeof by_digits);
    memset(digits, 0, sizeof digits);
    for (size_t i = 0; i < n; i++) {
        forge_entry e;
        size_t c = 0;
        size_t f = 0;
        shoal_forge_field_entry(field, i, &e);
        while (strcmp(shoal_forge_grammar.components[c], e.component) != 0) {
            c++;
        }
        while (strcmp(shoal_forge_grammar.failures[f].name, e.failure) != 0) {
            f++;
        }
        joint[c][f]++;
        unsigned long code = strtoul(e.code + 1, NULL, 10);
        assert_in_range(code, 10, 99);
        by_digits[code][c]++;
        digits[code]++;
    }
    for (size_t c = 0; c < FORGE_COMPONENTS; c++) {
        for (size_t f = 0; f < FORGE_FAILURES; f++) {
            expect_share(joint[c][f], (double)n, 1.0 / FORGE_COMPONENTS / FORGE_FAILURES, "cause");
        }
        for (size_t d = 10; d < 100; d++) {
            expect_share(by_digits[d][c], digits[d], 1.0 / FORGE_COMPONENTS, "component");
        }
    }
    shoal_forge_field_free(field);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_refuses_none_and_too_many),
        cmocka_unit_test(test_every_size_gives_whole_examples),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
        cmocka_unit_test(test_splits_are_found_by_name_and_kinds_have_one),
        cmocka_unit_test(test_exponents_are_quarters_from_0_to_2),
        cmocka_unit_test(test_first_examples_are_golden),
        cmocka_unit_test(test_examples_depend_on_nothing_but_their_arguments),
        cmocka_unit_test(test_entries_are_asked_by_their_rank),
        cmocka_unit_test(test_kinds_have_their_shares),
        cmocka_unit_test(test_catalogue_asks_every_entry_for_its_whole_answer),
        cmocka_unit_test(test_study_asks_for_the_begin_of_the_whole_answer),
        cmocka_unit_test(test_causes_are_even_and_follow_no_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
