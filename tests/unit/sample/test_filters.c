/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/sample/sample_internal.h"
#include "tests/support/random.h"

enum {
    N_VOCAB = 301
};

static shoal_kernels kernels;

static shoal_sampler *make(size_t n_vocab)
{
    shoal_sampler *sampler = NULL;
    assert_int_equal(shoal_sampler_new(n_vocab, &kernels, &sampler), SHOAL_OK);
    return sampler;
}

/* --- the reference: sort everything, sum in double ------------------------------------------- */

typedef struct ranked {
    double logit;
    int32_t id;
} ranked;

static int compare_ranked(const void *pa, const void *pb)
{
    const ranked *a = pa;
    const ranked *b = pb;
    if (a->logit != b->logit) {
        return a->logit > b->logit ? -1 : 1;
    }
    return a->id < b->id ? -1 : a->id > b->id;
}

/* How many candidates the filters keep; *ret_low and *ret_high when rounding may move it. */
static size_t reference_count(const ranked *sorted, size_t n, const shoal_sampling *s,
                              size_t *ret_low, size_t *ret_high)
{
    double t = (double)s->temperature;
    size_t k = s->top_k == 0 || s->top_k > n ? n : s->top_k;
    double sum = 0.0;
    for (size_t i = 0; i < k; i++) {
        sum += exp((sorted[i].logit - sorted[0].logit) / t);
    }
    const double slack[3] = {-2e-6, 0.0, 2e-6};
    size_t counts[3];
    for (int j = 0; j < 3; j++) {
        size_t keep = k;
        double have = 0.0;
        for (size_t i = 0; i < k && s->top_p < 1.0f; i++) {
            have += exp((sorted[i].logit - sorted[0].logit) / t);
            if (have >= ((double)s->top_p + slack[j]) * sum) {
                keep = i + 1;
                break;
            }
        }
        size_t alive = 0;
        for (size_t i = 0; i < keep; i++) {
            double ratio = exp((sorted[i].logit - sorted[0].logit) / t);
            alive += ratio >= (double)s->min_p * (1.0 + slack[2 - j]);
        }
        counts[j] = alive;
    }
    *ret_low = counts[0];
    *ret_high = counts[2];
    return counts[1];
}

/* Runs the filters on random logits and checks that what is kept is a prefix of the reference's
 * order with the reference's length. */
static void check_against_reference(const shoal_sampling *s, size_t n, uint64_t *rng, float steps)
{
    shoal_sampler *sampler = make(n);
    ranked sorted[N_VOCAB];
    float max = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        float logit = test_between(rng, -8.0f, 8.0f);
        /* Coarse steps make ties. */
        logit = steps > 0.0f ? floorf(logit * steps) / steps : logit;
        sampler->work[i] = logit;
        sorted[i] = (ranked){.logit = (double)logit, .id = (int32_t)i};
        max = fmaxf(max, logit);
    }
    qsort(sorted, n, sizeof sorted[0], compare_ranked);
    size_t low = 0;
    size_t high = 0;
    reference_count(sorted, n, s, &low, &high);
    const shoal_candidate *kept = NULL;
    size_t n_kept = shoal_filter_select(sampler, s, max, 1.0f / s->temperature, &kept);
    assert_in_range(n_kept, low, high);
    bool seen[N_VOCAB] = {false};
    for (size_t i = 0; i < n_kept; i++) {
        assert_false(seen[kept[i].id]);
        seen[kept[i].id] = true;
        assert_true(kept[i].logit == sampler->work[kept[i].id]);
    }
    for (size_t i = 0; i < n_kept; i++) {
        assert_true(seen[sorted[i].id]);
    }
    shoal_sampler_free(sampler);
}

static void test_filters_random_settings_equal_reference(void **state)
{
    (void)state;
    uint64_t rng = 11;
    for (int round = 0; round < 2000; round++) {
        shoal_sampling s = shoal_sampling_default();
        uint64_t pick = shoal_rng_next(&rng);
        size_t n = 1 + shoal_rng_next(&rng) % N_VOCAB;
        s.temperature = test_between(&rng, 0.1f, 3.0f);
        s.top_k = pick & 1 ? (uint32_t)(shoal_rng_next(&rng) % (n + 3)) : 0;
        s.top_p = pick & 2 ? test_between(&rng, 0.01f, 0.999f) : 1.0f;
        s.min_p = pick & 4 ? test_between(&rng, 0.0f, 0.5f) : 0.0f;
        check_against_reference(&s, n, &rng, pick & 8 ? 2.0f : 0.0f);
    }
}

static void test_filters_top_k_at_its_limits(void **state)
{
    (void)state;
    uint64_t rng = 12;
    const uint32_t ks[] = {1, 2, N_VOCAB - 1, N_VOCAB, N_VOCAB + 1, UINT32_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(ks); i++) {
        shoal_sampling s = shoal_sampling_default();
        s.top_k = ks[i];
        check_against_reference(&s, N_VOCAB, &rng, 4.0f);
        shoal_sampler *sampler = make(N_VOCAB);
        assert_int_equal(shoal_filter_is_on(sampler, &s), ks[i] < N_VOCAB);
        shoal_sampler_free(sampler);
    }
}

static void test_filters_extreme_settings_keep_at_least_the_best(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(N_VOCAB);
    const float ps[] = {1e-38f, 1e-3f, nextafterf(1.0f, 0.0f)};
    const float temperatures[] = {1e-6f, 0.5f, 10.0f};
    for (size_t i = 0; i < SHOAL_COUNT(ps); i++) {
        for (size_t j = 0; j < SHOAL_COUNT(temperatures); j++) {
            for (int which = 0; which < 3; which++) {
                shoal_sampling s = shoal_sampling_default();
                s.temperature = temperatures[j];
                s.top_p = which != 1 ? ps[i] : 1.0f;
                s.min_p = which != 0 ? ps[i] : 0.0f;
                for (size_t v = 0; v < N_VOCAB; v++) {
                    sampler->work[v] = v == 200 ? 1.0f : v % 3 ? -FLT_MAX : -INFINITY;
                }
                const shoal_candidate *kept = NULL;
                size_t n = shoal_filter_select(sampler, &s, 1.0f, 1.0f / s.temperature, &kept);
                assert_true(n >= 1);
                bool found = false;
                for (size_t v = 0; v < n; v++) {
                    found = found || kept[v].id == 200;
                }
                assert_true(found);
            }
        }
    }
    shoal_sampler_free(sampler);
}

static void test_filters_penalties_equal_reference(void **state)
{
    (void)state;
    uint64_t rng = 13;
    shoal_sampler *sampler = make(N_VOCAB);
    static int32_t history[SHOAL_PENALTY_WINDOW_MAX + 10];
    for (int round = 0; round < 200; round++) {
        size_t n_history = shoal_rng_next(&rng) % SHOAL_COUNT(history);
        for (size_t i = 0; i < n_history; i++) {
            /* Some ids lie outside the vocabulary on both sides. */
            history[i] = (int32_t)(shoal_rng_next(&rng) % (N_VOCAB + 10)) - 5;
        }
        shoal_sampling s = shoal_sampling_default();
        s.repetition_penalty = test_between(&rng, 0.1f, 10.0f);
        s.presence_penalty = test_between(&rng, -2.0f, 2.0f);
        s.frequency_penalty = test_between(&rng, -2.0f, 2.0f);
        const uint32_t windows[] = {0, 1, 64, 100, SHOAL_PENALTY_WINDOW_MAX};
        s.penalty_window = windows[shoal_rng_next(&rng) % SHOAL_COUNT(windows)];
        float before[N_VOCAB];
        for (size_t i = 0; i < N_VOCAB; i++) {
            before[i] = sampler->work[i] = test_between(&rng, -20.0f, 20.0f);
        }
        shoal_filter_penalties(sampler, &s, history, n_history);
        size_t start = n_history > s.penalty_window ? n_history - s.penalty_window : 0;
        for (int32_t id = 0; id < N_VOCAB; id++) {
            int count = 0;
            for (size_t i = start; i < n_history; i++) {
                count += history[i] == id;
            }
            double wanted = (double)before[id];
            if (count > 0) {
                double r = (double)s.repetition_penalty;
                wanted = wanted > 0.0 ? wanted / r : wanted * r;
                wanted -= (double)s.presence_penalty + (double)s.frequency_penalty * count;
            }
            assert_true(fabs((double)sampler->work[id] - wanted) < 1e-3);
            assert_int_equal(sampler->counts[id], 0);
        }
    }
    shoal_sampler_free(sampler);
}

static void test_filters_penalties_off_change_nothing(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(4);
    const float logits[4] = {1.0f, -2.0f, 0.0f, 3.0f};
    memcpy(sampler->work, logits, sizeof logits);
    shoal_sampling s = shoal_sampling_default();
    const int32_t history[] = {0, 1, 2, 3};
    shoal_filter_penalties(sampler, &s, history, 4);
    assert_memory_equal(sampler->work, logits, sizeof logits);
    s.repetition_penalty = 2.0f;
    shoal_filter_penalties(sampler, &s, NULL, 0);
    assert_memory_equal(sampler->work, logits, sizeof logits);
    shoal_sampler_free(sampler);
}

static void test_filters_bias_is_added_and_bounded(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(4);
    const shoal_logit_bias biases[] = {{.id = 0, .bias = 2.5f},
                                       {.id = 3, .bias = -100.0f},
                                       {.id = 4, .bias = 1.0f},
                                       {.id = -1, .bias = 1.0f},
                                       {.id = INT32_MAX, .bias = 1.0f}};
    shoal_sampling s = shoal_sampling_default();
    s.biases = biases;
    s.n_biases = SHOAL_COUNT(biases);
    shoal_filter_bias(sampler, &s);
    const float wanted[4] = {2.5f, 0.0f, 0.0f, -100.0f};
    assert_memory_equal(sampler->work, wanted, sizeof wanted);
    shoal_sampler_free(sampler);
}

int main(void)
{
    shoal_kernels_init(&kernels, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filters_random_settings_equal_reference),
        cmocka_unit_test(test_filters_top_k_at_its_limits),
        cmocka_unit_test(test_filters_extreme_settings_keep_at_least_the_best),
        cmocka_unit_test(test_filters_penalties_equal_reference),
        cmocka_unit_test(test_filters_penalties_off_change_nothing),
        cmocka_unit_test(test_filters_bias_is_added_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
