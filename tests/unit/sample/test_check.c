/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "common/sample/sample.h"

enum {
    N_VOCAB = 5000
};

static void expect_ok(const shoal_sampling *sampling)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_sampling_check(sampling, N_VOCAB, &err), SHOAL_OK);
    assert_int_equal(err.code, SHOAL_OK);
}

static void expect_error(const shoal_sampling *sampling, const char *field)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_sampling_check(sampling, N_VOCAB, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, field));
    assert_int_equal(shoal_sampling_check(sampling, N_VOCAB, NULL), SHOAL_E_INVALID);
}

static void test_check_default_is_valid(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    expect_ok(&s);
    assert_true(s.temperature == 1.0f && s.top_p == 1.0f && s.min_p == 0.0f && s.top_k == 0);
    assert_true(s.repetition_penalty == 1.0f && s.presence_penalty == 0.0f);
    assert_true(s.frequency_penalty == 0.0f && s.penalty_window == 64 && s.seed == 0);
}

static void test_greedy_is_what_no_history_changes(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    assert_false(shoal_sampling_is_greedy(&s));
    s.top_k = 1;
    assert_true(shoal_sampling_is_greedy(&s));
    s.top_k = 2;
    assert_false(shoal_sampling_is_greedy(&s));
    s.temperature = 0.0f;
    s.top_p = 0.5f;
    s.min_p = 0.5f;
    assert_true(shoal_sampling_is_greedy(&s));
    float *const penalties[] = {&s.repetition_penalty, &s.presence_penalty, &s.frequency_penalty};
    for (size_t i = 0; i < SHOAL_COUNT(penalties); i++) {
        float off = *penalties[i];
        *penalties[i] = nextafterf(off, 2.0f);
        assert_false(shoal_sampling_is_greedy(&s));
        *penalties[i] = nextafterf(off, -2.0f);
        assert_false(shoal_sampling_is_greedy(&s));
        *penalties[i] = off;
    }
    shoal_logit_bias bias = {.id = 3, .bias = 0.0f};
    s.biases = &bias;
    s.n_biases = 1;
    assert_true(shoal_sampling_is_greedy(&s));
    bias.bias = -1.0f;
    assert_false(shoal_sampling_is_greedy(&s));
}

/* One float field: the last value inside and the first outside at both ends, and what no range
 * holds. */
typedef struct float_case {
    const char *name;
    size_t offset;
    float low_in, low_out, high_in, high_out;
} float_case;

static void test_check_float_fields_at_their_limits(void **state)
{
    (void)state;
    const float_case cases[] = {
        {"temperature", offsetof(shoal_sampling, temperature), 0.0f, nextafterf(0.0f, -1.0f), 10.0f,
         nextafterf(10.0f, 11.0f)},
        {"top_p", offsetof(shoal_sampling, top_p), nextafterf(0.0f, 1.0f), 0.0f, 1.0f,
         nextafterf(1.0f, 2.0f)},
        {"min_p", offsetof(shoal_sampling, min_p), 0.0f, nextafterf(0.0f, -1.0f),
         nextafterf(1.0f, 0.0f), 1.0f},
        {"repetition_penalty", offsetof(shoal_sampling, repetition_penalty), 0.1f,
         nextafterf(0.1f, 0.0f), 10.0f, nextafterf(10.0f, 11.0f)},
        {"presence_penalty", offsetof(shoal_sampling, presence_penalty), -2.0f,
         nextafterf(-2.0f, -3.0f), 2.0f, nextafterf(2.0f, 3.0f)},
        {"frequency_penalty", offsetof(shoal_sampling, frequency_penalty), -2.0f,
         nextafterf(-2.0f, -3.0f), 2.0f, nextafterf(2.0f, 3.0f)},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_sampling s = shoal_sampling_default();
        float *field = (float *)(void *)((char *)&s + cases[i].offset);
        const float inside[] = {cases[i].low_in, cases[i].high_in};
        const float outside[] = {cases[i].low_out, cases[i].high_out, NAN, INFINITY, -INFINITY};
        for (size_t j = 0; j < SHOAL_COUNT(inside); j++) {
            *field = inside[j];
            expect_ok(&s);
        }
        for (size_t j = 0; j < SHOAL_COUNT(outside); j++) {
            *field = outside[j];
            expect_error(&s, cases[i].name);
        }
    }
}

static void test_check_penalty_window_at_its_limit(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    s.penalty_window = SHOAL_PENALTY_WINDOW_MAX - 1;
    expect_ok(&s);
    s.penalty_window = SHOAL_PENALTY_WINDOW_MAX;
    expect_ok(&s);
    s.penalty_window = SHOAL_PENALTY_WINDOW_MAX + 1;
    expect_error(&s, "penalty_window");
}

static void test_check_biases_at_their_limits(void **state)
{
    (void)state;
    static shoal_logit_bias biases[SHOAL_BIAS_MAX + 1];
    for (int32_t i = 0; i < SHOAL_BIAS_MAX + 1; i++) {
        biases[i] = (shoal_logit_bias){.id = N_VOCAB - 1 - i, .bias = 1.0f};
    }
    shoal_sampling s = shoal_sampling_default();
    s.biases = biases;
    s.n_biases = SHOAL_BIAS_MAX - 1;
    expect_ok(&s);
    s.n_biases = SHOAL_BIAS_MAX;
    expect_ok(&s);
    s.n_biases = SHOAL_BIAS_MAX + 1;
    expect_error(&s, "logit_bias");
    s.n_biases = 1;
    s.biases = NULL;
    expect_error(&s, "logit_bias");
}

static void test_check_bias_entries_bad_is_refused(void **state)
{
    (void)state;
    shoal_logit_bias biases[3] = {
        {.id = 0, .bias = -100.0f}, {.id = N_VOCAB - 1, .bias = 100.0f}, {.id = 7, .bias = 0.0f}};
    shoal_sampling s = shoal_sampling_default();
    s.biases = biases;
    s.n_biases = SHOAL_COUNT(biases);
    expect_ok(&s);
    const int32_t bad_ids[] = {-1, N_VOCAB, INT32_MIN, INT32_MAX, 0 /* a second time */};
    for (size_t i = 0; i < SHOAL_COUNT(bad_ids); i++) {
        biases[2].id = bad_ids[i];
        expect_error(&s, "token");
    }
    biases[2].id = 7;
    const float bad[] = {nextafterf(100.0f, 101.0f), nextafterf(-100.0f, -101.0f), NAN, INFINITY};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        biases[2].bias = bad[i];
        expect_error(&s, "token 7");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_check_default_is_valid),
        cmocka_unit_test(test_greedy_is_what_no_history_changes),
        cmocka_unit_test(test_check_float_fields_at_their_limits),
        cmocka_unit_test(test_check_penalty_window_at_its_limit),
        cmocka_unit_test(test_check_biases_at_their_limits),
        cmocka_unit_test(test_check_bias_entries_bad_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
