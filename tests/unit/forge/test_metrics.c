/* SPDX-License-Identifier: Apache-2.0
 *
 * Every metric against numbers computed by hand; the computation stands beside each.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cloud/forge/metrics.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

enum {
    N_VOCAB = 2048
};

static void near(double value, double expected, double tolerance)
{
    if (!(fabs(value - expected) <= tolerance)) {
        fail_msg("%.12g is not %.12g within %g", value, expected, tolerance);
    }
}

/* --- counts and means ---------------------------------------------------------------------------
 */

/* With z = 1.959963984540054, z^2 = 3.841458820694124 and p = 8/10:
 * middle = 0.8 + z^2/20 = 0.992072941; half = z sqrt(0.16/10 + z^2/400) = 0.313616575;
 * 1 + z^2/10 = 1.384145882; (middle -+ half) / 1.384145882 = 0.490162472, 0.943317849. */
static void test_wilson_eight_of_ten(void **state)
{
    (void)state;
    forge_interval w = shoal_forge_wilson(8, 10);
    near(w.value, 0.8, 1e-15);
    near(w.low, 0.4901624715, 1e-9);
    near(w.high, 0.9433178485, 1e-9);
}

/* p = 0: middle = half, so low is 0 and high = z^2/n / (1 + z^2/n) = 0.3841458821 / 1.3841458821;
 * p = 1 mirrors it. */
static void test_wilson_ends_stay_within_zero_and_one(void **state)
{
    (void)state;
    forge_interval none = shoal_forge_wilson(0, 10);
    forge_interval all = shoal_forge_wilson(10, 10);
    assert_true(none.value == 0 && none.low == 0 && all.value == 1 && all.high == 1);
    near(none.high, 0.2775327999, 1e-9);
    near(all.low, 0.7224672001, 1e-9);
    forge_interval nothing = shoal_forge_wilson(0, 0);
    assert_true(nothing.value == 0 && nothing.low == 0 && nothing.high == 1);
}

/* Weights 3, 1, 1 on 1, 0, 1: mean 4/5. w (x - mean) = 0.6, -0.8, 0.2; squares sum to 1.04;
 * sqrt(3/2 * 1.04) / 5 = 0.249799920; times z: 0.489598847. */
static void test_weighted_mean_of_three(void **state)
{
    (void)state;
    const double values[] = {1, 0, 1, 7};
    const double weights[] = {3, 1, 1, 0};
    for (size_t n = 3; n <= 4; n++) { /* a value of no weight changes nothing */
        forge_interval m = shoal_forge_weighted_mean(values, weights, n);
        near(m.value, 0.8, 1e-15);
        near(m.low, 0.8 - 0.489598847, 1e-8);
        near(m.high, 0.8 + 0.489598847, 1e-8);
    }
    forge_interval one = shoal_forge_weighted_mean(values, weights, 1);
    assert_true(one.value == 1 && isinf(one.low) && isinf(one.high));
    assert_true(shoal_forge_weighted_mean(values, weights, 0).value == 0);
}

/* Equal weights: the plain mean, with the usual standard error: 2, 4, 6 have mean 4 and sample
 * variance 4, so half the interval is z sqrt(4/3) = 2.263171468. */
static void test_weighted_mean_equal_weights_is_the_plain_one(void **state)
{
    (void)state;
    const double values[] = {2, 4, 6};
    const double weights[] = {5, 5, 5};
    forge_interval m = shoal_forge_weighted_mean(values, weights, 3);
    near(m.value, 4, 1e-15);
    near(m.high, 4 + 2.263171468, 1e-7);
}

/* --- logits -------------------------------------------------------------------------------------
 */

/* Logits ln 1, ln 1, ln 2 are probabilities 1/4, 1/4, 1/2, and ln 2, ln 1, ln 1 are 1/2, 1/4, 1/4:
 * the distance is (1/4 + 0 + 1/4) / 2 = 1/4, the bound (3/4) / (5/4) = 3/5. At temperature 1/2 the
 * probabilities are squared and rescaled: 1/6, 1/6, 4/6: distance 3/6. */
static void test_total_variation_and_bound(void **state)
{
    (void)state;
    const float a[] = {0, 0, 0.69314718F};
    const float b[] = {0.69314718F, 0, 0};
    double work[6];
    near(shoal_forge_total_variation(a, b, 3, 1, work), 0.25, 1e-7);
    near(shoal_forge_total_variation(a, b, 3, 0.5, work), 0.5, 1e-7);
    near(shoal_forge_total_variation(a, a, 3, 1, work), 0, 0);
    near(shoal_forge_coupling_bound(0.25), 0.6, 1e-15);
    near(shoal_forge_coupling_bound(0), 1, 0);
    near(shoal_forge_coupling_bound(1), 0, 0);
}

/* The same logits as above: -log of 1/2 and of 1/4, and a tie goes to the lowest id. */
static void test_judge_three_logits(void **state)
{
    (void)state;
    const float a[] = {0, 0, 0.69314718F};
    forge_judged right = shoal_forge_judge(a, 3, 2);
    forge_judged wrong = shoal_forge_judge(a, 3, 0);
    assert_true(right.argmax == 2 && wrong.argmax == 2);
    near(right.nll, 0.6931471806, 1e-7);
    near(wrong.nll, 1.3862943611, 1e-7);
    near(right.top, 0.5, 1e-7);
    assert_int_equal(shoal_forge_judge(a, 2, 1).argmax, 0);
    assert_true(shoal_forge_judge(a, 1, 0).nll == 0 && shoal_forge_judge(a, 1, 0).top == 1);
    const float bad[] = {NAN, 1, 2, NAN};
    assert_int_equal(shoal_forge_judge(bad, 4, 1).argmax, 2);
    assert_true(isnan(shoal_forge_judge(bad, 4, 1).nll));
}

/* Against the C library in long double, over rows with narrow and wide logits. */
static void test_perplexity_equals_a_reference_within_1e_6(void **state)
{
    (void)state;
    uint64_t rng = 42;
    print_message("seed 42\n");
    static float row[N_VOCAB];
    double sum = 0;
    long double reference = 0;
    size_t n = 500;
    for (size_t r = 0; r < n; r++) {
        float width = 0.01F * (float)(1 + r);
        for (size_t i = 0; i < N_VOCAB; i++) {
            row[i] = width * ((float)(shoal_rng_next(&rng) >> 40) * 0x1p-23F - 1);
        }
        int32_t target = (int32_t)(shoal_rng_next(&rng) % N_VOCAB);
        sum += shoal_forge_judge(row, N_VOCAB, target).nll;
        long double z = 0;
        for (size_t i = 0; i < N_VOCAB; i++) {
            z += expl((long double)row[i]);
        }
        reference += logl(z) - (long double)row[target];
    }
    double ppl = shoal_forge_perplexity_of(sum, n);
    double expected = (double)expl(reference / (long double)n);
    near(ppl / expected, 1, 1e-12);
    near(ppl, expected, 1e-6);
    /* Two tokens at 1/2 and 1/8: sqrt(2 * 8) = 4. */
    near(shoal_forge_perplexity_of(log(2) + log(8), 2), 4, 1e-12);
    near(shoal_forge_perplexity_of(0, 0), 0, 0);
}

/* --- F1 -----------------------------------------------------------------------------------------
 */

static double f1(const char *reference, const char *answer)
{
    double value = -1;
    assert_int_equal(shoal_forge_token_f1(reference, answer, &value), SHOAL_OK);
    return value;
}

static void test_f1_by_hand(void **state)
{
    (void)state;
    /* {inlet is blocked clean strainer} and {clean strainer inlet blocked}: P = 4/4, R = 4/5,
     * 2 P R / (P + R) = 1.6 / 1.8. */
    near(f1("The inlet is blocked: clean the strainer.", "clean strainer, Inlet blocked"), 8.0 / 9,
         1e-15);
    /* {x x y} and {x y y y}: x once, y once in common; P = 2/4, R = 2/3, F1 = 4/7. */
    near(f1("x x y", "x y y y"), 4.0 / 7, 1e-15);
    near(f1("pump", "valve"), 0, 0);
    near(f1("same words", "words same"), 1, 0);
}

static void test_f1_normalises_as_squad(void **state)
{
    (void)state;
    near(f1("The U.S. pump", "us  PUMP\n"), 1, 0); /* punctuation is deleted, not a space */
    near(f1("the", "a... an"), 1, 0);              /* nothing is left of either */
    near(f1("", ""), 1, 0);
    near(f1("", "x"), 0, 0);
    near(f1("x", "the"), 0, 0);
    near(f1("then", "n"), 0, 0); /* articles are whole words */
    near(f1("an-the", "anthe"), 1, 0);
    near(f1("a b", "b a the"), 1, 0);
    near(f1("\xC3\xA4 x", "\xC3\xA4\tx"), 1, 0); /* other bytes are letters */
}

/* --- BLEU ---------------------------------------------------------------------------------------
 */

static double bleu(const char *reference, const char *answer, forge_bleu *inout_sums)
{
    assert_int_equal(shoal_forge_bleu_add(inout_sums, reference, answer), SHOAL_OK);
    return shoal_forge_bleu_score(inout_sums);
}

/* The clipping example of the paper: "the" stands twice in the reference, so 2 of 7 count; no
 * bigram matches, and without smoothing the score is 0. */
static void test_bleu_clips_counts(void **state)
{
    (void)state;
    forge_bleu sums = {0};
    near(bleu("the cat is on the mat", "the the the the the the the", &sums), 0, 0);
    assert_true(sums.n_matches[0] == 2 && sums.n_grams[0] == 7);
    assert_true(sums.n_matches[1] == 0 && sums.n_grams[1] == 6);
}

/* Precisions 5/6, 3/5, 2/4, 1/3, lengths equal: (1/12)^(1/4) = 0.537284966. A second answer
 * "a b c d" to "a b c d e" adds 4/4, 3/3, 2/2, 1/1: 9/10, 6/8, 4/6, 2/4 have the product 0.225,
 * its fourth root is 0.688725; lengths 10 and 11 cost exp(1 - 11/10) = 0.904837418. */
static void test_bleu_corpus_by_hand(void **state)
{
    (void)state;
    forge_bleu sums = {0};
    near(bleu("the cat is on the mat", "the cat is on a mat", &sums), 0.5372849659, 1e-9);
    near(bleu("a b c d e", "a b c d", &sums), sqrt(sqrt(0.225)) * 0.9048374180, 1e-9);
}

/* All n-grams match; 4 words for 5 cost exp(1 - 5/4), 5 for 4 cost precision alone:
 * 4/5 * 3/4 * 2/3 * 1/2 = 1/5. */
static void test_bleu_brevity_penalty(void **state)
{
    (void)state;
    forge_bleu shorter = {0};
    forge_bleu longer = {0};
    near(bleu("a b c d e", "a b c d", &shorter), 0.7788007831, 1e-9);
    near(bleu("a b c d", "a b c d e", &longer), sqrt(sqrt(0.2)), 1e-9);
}

static void test_bleu_of_answers_shorter_than_four_words(void **state)
{
    (void)state;
    forge_bleu one = {0};
    near(bleu("yes", "yes", &one), 1, 0); /* there are no longer n-grams to judge */
    forge_bleu two = {0};
    near(bleu("set pump", "set valve", &two), 0, 0);
    forge_bleu none = {0};
    near(shoal_forge_bleu_score(&none), 0, 0);
    near(bleu("yes", "", &none), 0, 0);
}

static void test_bleu_words_are_split_at_punctuation(void **state)
{
    (void)state;
    forge_bleu sums = {0};
    near(bleu("{\"set\":\"On\"}", "{ \"set\": \"On\" }", &sums), 1, 0);
    assert_int_equal(sums.n_answer, 9);                         /* { " set " : " On " } */
    near(bleu("On", "on", &sums), sqrt(sqrt(9.0 / 10)), 1e-12); /* case counts */
}

/* --- limits -------------------------------------------------------------------------------------
 */

static void test_texts_of_words_up_to_the_limit(void **state)
{
    (void)state;
    /* One word in the reference, n - 1 in the answer. */
    for (size_t n = FORGE_WORDS_MAX - 1; n <= FORGE_WORDS_MAX + 1; n++) {
        char *text = malloc(2 * n);
        assert_non_null(text);
        for (size_t i = 0; i + 1 < n; i++) {
            memcpy(text + 2 * i, "x ", 2);
        }
        text[2 * (n - 1)] = 0;
        forge_bleu sums = {0};
        double value = 0;
        shoal_status expected = n > FORGE_WORDS_MAX ? SHOAL_E_LIMIT : SHOAL_OK;
        assert_int_equal(shoal_forge_bleu_add(&sums, "x", text), expected);
        assert_int_equal(sums.n_answer, expected ? 0 : n - 1);
        assert_int_equal(shoal_forge_token_f1("x", text, &value), expected);
        assert_int_equal(shoal_forge_token_f1(text, "x", &value), expected);
        free(text);
    }
}

static void test_failing_allocations_are_reported(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < 5; at++) {
        forge_bleu sums = {0};
        double value = -1;
        shoal_mem_fail_at(at);
        assert_int_equal(shoal_forge_token_f1("a b", "b c", &value), SHOAL_E_NOMEM);
        assert_true(value == -1);
        shoal_mem_fail_at(at % 3);
        assert_int_equal(shoal_forge_bleu_add(&sums, "a b", "b c"), SHOAL_E_NOMEM);
        assert_int_equal(sums.n_answer, 0);
        shoal_mem_fail_at(UINT64_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wilson_eight_of_ten),
        cmocka_unit_test(test_wilson_ends_stay_within_zero_and_one),
        cmocka_unit_test(test_weighted_mean_of_three),
        cmocka_unit_test(test_weighted_mean_equal_weights_is_the_plain_one),
        cmocka_unit_test(test_total_variation_and_bound),
        cmocka_unit_test(test_judge_three_logits),
        cmocka_unit_test(test_perplexity_equals_a_reference_within_1e_6),
        cmocka_unit_test(test_f1_by_hand),
        cmocka_unit_test(test_f1_normalises_as_squad),
        cmocka_unit_test(test_bleu_clips_counts),
        cmocka_unit_test(test_bleu_corpus_by_hand),
        cmocka_unit_test(test_bleu_brevity_penalty),
        cmocka_unit_test(test_bleu_of_answers_shorter_than_four_words),
        cmocka_unit_test(test_bleu_words_are_split_at_punctuation),
        cmocka_unit_test(test_texts_of_words_up_to_the_limit),
        cmocka_unit_test(test_failing_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
