/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/sample/sample.h"
#include "tests/support/random.h"

enum {
    N_VOCAB = 53,
    N_DRAWS = 100000
};

static shoal_kernels kernels;
static int32_t zeros[N_DRAWS + 1]; /* a history of any length wanted */

static shoal_sampler *make(size_t n_vocab)
{
    shoal_sampler *sampler = NULL;
    assert_int_equal(shoal_sampler_new(n_vocab, &kernels, &sampler), SHOAL_OK);
    return sampler;
}

static int32_t draw(shoal_sampler *sampler, const shoal_sampling *s, const float *logits,
                    size_t position)
{
    shoal_sampled sampled;
    shoal_sample(sampler, s, logits, zeros, position, &sampled);
    return sampled.id;
}

/* --- the distribution ------------------------------------------------------------------------ */

/* Target probabilities by the definition of the filters, in double. */
static void target(const float *logits, const shoal_sampling *s, double *ret_p)
{
    bool keep[N_VOCAB];
    double max = -HUGE_VAL;
    for (size_t i = 0; i < N_VOCAB; i++) {
        max = fmax(max, (double)logits[i]);
    }
    for (size_t i = 0; i < N_VOCAB; i++) {
        size_t ahead = 0;
        for (size_t j = 0; j < N_VOCAB; j++) {
            ahead += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
        }
        ret_p[i] = exp(((double)logits[i] - max) / (double)s->temperature);
        keep[i] = s->top_k == 0 || ahead < s->top_k;
    }
    double sum = 0.0;
    for (size_t i = 0; i < N_VOCAB; i++) {
        sum += keep[i] ? ret_p[i] : 0.0;
    }
    bool final[N_VOCAB];
    double left = 0.0;
    for (size_t i = 0; i < N_VOCAB; i++) {
        double ahead = 0.0;
        for (size_t j = 0; j < N_VOCAB; j++) {
            bool first = logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
            ahead += first && keep[j] ? ret_p[j] : 0.0;
        }
        final[i] = keep[i] && ahead < (double)s->top_p * sum && ret_p[i] >= (double)s->min_p;
        left += final[i] ? ret_p[i] : 0.0;
    }
    for (size_t i = 0; i < N_VOCAB; i++) {
        ret_p[i] = final[i] ? ret_p[i] / left : 0.0;
    }
}

static void check_distribution(const shoal_sampling *s)
{
    uint64_t rng = 99;
    float logits[N_VOCAB];
    for (size_t i = 0; i < N_VOCAB; i++) {
        logits[i] = test_between(&rng, -2.0f, 2.0f);
    }
    double p[N_VOCAB];
    target(logits, s, p);
    size_t counts[N_VOCAB] = {0};
    shoal_sampler *sampler = make(N_VOCAB);
    for (size_t position = 0; position < N_DRAWS; position++) {
        counts[draw(sampler, s, logits, position)]++;
    }
    shoal_sampler_free(sampler);
    double chi = 0.0;
    int freedom = -1;
    for (size_t i = 0; i < N_VOCAB; i++) {
        if (p[i] == 0.0) {
            assert_int_equal(counts[i], 0);
            continue;
        }
        double wanted = p[i] * N_DRAWS;
        chi += ((double)counts[i] - wanted) * ((double)counts[i] - wanted) / wanted;
        freedom++;
    }
    /* The seed is fixed, so this cannot flake; five sigma tells a wrong law from a rare draw. */
    assert_true(chi < freedom + 5.0 * sqrt(2.0 * freedom + 1.0));
}

static void test_sample_distribution_plain(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    s.seed = 1234567890123u;
    check_distribution(&s);
}

static void test_sample_distribution_temperatures(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    s.temperature = 0.4f;
    check_distribution(&s);
    s.temperature = 3.0f;
    s.seed = UINT64_MAX;
    check_distribution(&s);
}

static void test_sample_distribution_filters(void **state)
{
    (void)state;
    shoal_sampling s = shoal_sampling_default();
    s.top_k = 10;
    check_distribution(&s);
    s.top_k = 0;
    s.top_p = 0.8f;
    check_distribution(&s);
    s.top_p = 1.0f;
    s.min_p = 0.2f;
    check_distribution(&s);
    s = (shoal_sampling){.temperature = 0.9f,
                         .top_k = 16,
                         .top_p = 0.9f,
                         .min_p = 0.05f,
                         .repetition_penalty = 1.0f,
                         .seed = 5};
    check_distribution(&s);
}

/* --- exactness ------------------------------------------------------------------------------- */

/* n_vocab around the groups of noise. */
static void check_pruning(size_t n, size_t n_positions, const shoal_kernels *tier)
{
    enum {
        N_MAX = 257
    };
    uint64_t rng = 3 + n;
    shoal_sampler *sampler = NULL;
    assert_int_equal(shoal_sampler_new(n, tier, &sampler), SHOAL_OK);
    for (size_t position = 0; position < n_positions; position++) {
        float logits[N_MAX];
        float spread = test_between(&rng, 0.0f, 30.0f);
        for (size_t i = 0; i < n; i++) {
            logits[i] = test_between(&rng, -spread, spread);
        }
        shoal_sampling s = shoal_sampling_default();
        s.seed = shoal_rng_next(&rng);
        s.temperature = test_between(&rng, 0.2f, 4.0f);
        float max = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            max = fmaxf(max, logits[i]);
        }
        int32_t wanted = -1;
        float best = -INFINITY;
        for (size_t i = 0; i < n; i++) {
            float score = (logits[i] - max) * (1.0f / s.temperature) +
                          shoal_sample_gumbel(s.seed, position, (int32_t)i);
            if (score > best) {
                best = score;
                wanted = (int32_t)i;
            }
        }
        assert_int_equal(draw(sampler, &s, logits, position), wanted);
        /* Filters that remove nothing take the other path to the same answer. */
        s.min_p = 1e-38f;
        assert_int_equal(draw(sampler, &s, logits, position), wanted);
        s.min_p = 0.0f;
        s.top_p = 0.99999994f;
        shoal_sampled first;
        shoal_sample(sampler, &s, logits, zeros, position, &first);
        assert_in_range(first.id, 0, n - 1);
    }
    shoal_sampler_free(sampler);
}

static void test_sample_pruning_never_changes_the_winner(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 3, 63, 64, 65, 127, 128, 129};
    const uint32_t masks[] = {0, SHOAL_CPU_AVX2, UINT32_MAX};
    check_pruning(257, 2000, &kernels);
    for (size_t i = 0; i < SHOAL_COUNT(sizes); i++) {
        for (size_t k = 0; k < SHOAL_COUNT(masks); k++) {
            shoal_kernels tier;
            shoal_kernels_init(&tier, masks[k] & shoal_cpu_detect());
            check_pruning(sizes[i], 200, &tier);
        }
    }
}

static void test_sample_equal_inputs_give_equal_bits(void **state)
{
    (void)state;
    uint64_t rng = 4;
    shoal_sampler *one = make(N_VOCAB);
    shoal_sampler *other = make(N_VOCAB);
    int32_t history[100];
    for (size_t i = 0; i < SHOAL_COUNT(history); i++) {
        history[i] = (int32_t)(shoal_rng_next(&rng) % N_VOCAB);
    }
    const shoal_logit_bias bias = {.id = 3, .bias = 4.0f};
    for (int round = 0; round < 500; round++) {
        float logits[N_VOCAB];
        float copy[N_VOCAB];
        for (size_t i = 0; i < N_VOCAB; i++) {
            logits[i] = test_between(&rng, -4.0f, 4.0f);
        }
        memcpy(copy, logits, sizeof copy);
        shoal_sampling s = shoal_sampling_default();
        s.temperature = test_between(&rng, 0.0f, 2.0f);
        s.top_k = (uint32_t)(shoal_rng_next(&rng) % 30);
        s.top_p = test_between(&rng, 0.3f, 1.0f);
        s.repetition_penalty = 1.3f;
        s.frequency_penalty = 0.3f;
        s.biases = &bias;
        s.n_biases = 1;
        s.seed = (uint64_t)round;
        shoal_sampled a;
        shoal_sampled b;
        uint64_t allocations = shoal_mem_count();
        shoal_sample(one, &s, logits, history, SHOAL_COUNT(history), &a);
        assert_int_equal(shoal_mem_count(), allocations);
        assert_memory_equal(logits, copy, sizeof copy);
        /* The other sampler has another past. */
        draw(other, &s, logits, (size_t)round % 7);
        draw(other, &s, logits, (size_t)round % 5);
        shoal_sample(other, &s, logits, history, SHOAL_COUNT(history), &b);
        assert_memory_equal(&a, &b, sizeof a);
    }
    shoal_sampler_free(one);
    shoal_sampler_free(other);
}

static void test_sample_ties_go_to_the_lowest_id(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(6);
    const float logits[6] = {0.0f, 2.0f, 1.0f, 2.0f, 2.0f, -1.0f};
    shoal_sampling s = shoal_sampling_default();
    s.temperature = 0.0f;
    assert_int_equal(draw(sampler, &s, logits, 0), 1);
    /* top-k = 1 and a tiny nucleus keep exactly the first of equals, at any temperature. */
    s.temperature = 5.0f;
    for (size_t position = 0; position < 50; position++) {
        s.top_k = 1;
        s.top_p = 1.0f;
        assert_int_equal(draw(sampler, &s, logits, position), 1);
        s.top_k = 0;
        s.top_p = 1e-6f;
        assert_int_equal(draw(sampler, &s, logits, position), 1);
    }
    shoal_sampler_free(sampler);
}

/* --- odd logits ------------------------------------------------------------------------------ */

static void test_sample_nan_and_masked_never_win(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(5);
    const float logits[5] = {NAN, -INFINITY, -3.0f, -NAN, -2.0f};
    const float temperatures[] = {0.0f, 1e-30f, 1.0f, 10.0f};
    size_t seen[5] = {0};
    for (size_t t = 0; t < SHOAL_COUNT(temperatures); t++) {
        for (size_t filter = 0; filter < 4; filter++) {
            shoal_sampling s = shoal_sampling_default();
            s.temperature = temperatures[t];
            s.top_k = filter == 1 ? 4 : 0;
            s.top_p = filter == 2 ? 0.999f : 1.0f;
            s.min_p = filter == 3 ? 1e-30f : 0.0f;
            for (size_t position = 0; position < 200; position++) {
                shoal_sampled sampled;
                shoal_sample(sampler, &s, logits, zeros, position, &sampled);
                seen[sampled.id]++;
                double wanted = sampled.id == 4 ? 0.7310585786 : 0.2689414214;
                assert_true(fabs((double)sampled.confidence - wanted) < 1e-6);
                assert_true(fabs((double)sampled.top_gap - 0.4621171573) < 1e-6);
            }
        }
    }
    assert_int_equal(seen[0] + seen[1] + seen[3], 0);
    assert_true(seen[2] > 0 && seen[4] > seen[2]);
    shoal_sampler_free(sampler);
}

static void test_sample_nothing_to_choose_gives_id_zero(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(3);
    const float all_nan[3] = {NAN, NAN, NAN};
    const float all_masked[3] = {-INFINITY, -INFINITY, -INFINITY};
    const float *cases[] = {all_nan, all_masked};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_sampling s = shoal_sampling_default();
        for (int filter = 0; filter < 3; filter++) {
            s.top_k = filter == 1 ? 2 : 0;
            s.top_p = filter == 2 ? 0.5f : 1.0f;
            shoal_sampled sampled;
            shoal_sample(sampler, &s, cases[i], zeros, 9, &sampled);
            assert_int_equal(sampled.id, 0);
            assert_true(sampled.confidence == 0.0f && sampled.top_gap == 0.0f);
        }
    }
    shoal_sampler_free(sampler);
}

static void test_sample_infinite_and_huge_logits_win_without_nan(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(4);
    const float cases[][4] = {{0.0f, INFINITY, 5.0f, -FLT_MAX},
                              {-FLT_MAX, FLT_MAX, 0.0f, -INFINITY}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_sampling s = shoal_sampling_default();
        s.repetition_penalty = 0.1f;
        s.penalty_window = 1;
        const int32_t history[] = {1};
        for (int t = 0; t < 3; t++) {
            s.temperature = t == 0 ? 0.0f : t == 1 ? 1e-38f : 10.0f;
            shoal_sampled sampled;
            shoal_sample(sampler, &s, cases[i], history, 1, &sampled);
            assert_int_equal(sampled.id, 1);
            assert_true(sampled.confidence == 1.0f && sampled.top_gap == 1.0f);
        }
    }
    shoal_sampler_free(sampler);
}

static void test_sample_confidence_is_of_the_raw_logits(void **state)
{
    (void)state;
    uint64_t rng = 6;
    shoal_sampler *sampler = make(N_VOCAB);
    for (int round = 0; round < 200; round++) {
        float logits[N_VOCAB];
        double sum = 0.0;
        float first = -INFINITY;
        float second = -INFINITY;
        for (size_t i = 0; i < N_VOCAB; i++) {
            float x = test_between(&rng, -5.0f, 5.0f);
            logits[i] = x;
            sum += exp((double)x);
            second = x > first ? first : fmaxf(second, x);
            first = fmaxf(first, x);
        }
        const shoal_logit_bias bias = {.id = (int32_t)(round % N_VOCAB), .bias = 100.0f};
        shoal_sampling s = shoal_sampling_default();
        s.biases = &bias;
        s.n_biases = 1;
        s.temperature = 0.3f;
        s.seed = (uint64_t)round;
        shoal_sampled sampled;
        shoal_sample(sampler, &s, logits, zeros, 3, &sampled);
        assert_int_equal(sampled.id, bias.id);
        assert_true(fabs((double)sampled.confidence - exp((double)logits[bias.id]) / sum) < 1e-6);
        double gap = (exp((double)first) - exp((double)second)) / sum;
        assert_true(fabs((double)sampled.top_gap - gap) < 1e-6);
    }
    shoal_sampler_free(sampler);
}

static void test_sample_one_token_vocabulary(void **state)
{
    (void)state;
    shoal_sampler *sampler = make(1);
    const float logit = -7.0f;
    shoal_sampling s = shoal_sampling_default();
    shoal_sampled sampled;
    shoal_sample(sampler, &s, &logit, NULL, 0, &sampled);
    assert_int_equal(sampled.id, 0);
    assert_true(sampled.confidence == 1.0f && sampled.top_gap == 1.0f);
    shoal_sampler_free(sampler);
}

/* --- coupling -------------------------------------------------------------------------------- */

static void check_coupling(float noise, uint64_t seed)
{
    uint64_t rng = seed;
    float p_logits[N_VOCAB];
    float q_logits[N_VOCAB];
    double p_sum = 0.0;
    double q_sum = 0.0;
    for (size_t i = 0; i < N_VOCAB; i++) {
        p_logits[i] = test_between(&rng, -3.0f, 3.0f);
        q_logits[i] = p_logits[i] + test_between(&rng, -noise, noise);
        p_sum += exp((double)p_logits[i]);
        q_sum += exp((double)q_logits[i]);
    }
    double tv = 0.0;
    for (size_t i = 0; i < N_VOCAB; i++) {
        tv += 0.5 * fabs(exp((double)p_logits[i]) / p_sum - exp((double)q_logits[i]) / q_sum);
    }
    shoal_sampler *sampler = make(N_VOCAB);
    shoal_sampling s = shoal_sampling_default();
    s.seed = seed;
    const size_t n = 10000;
    size_t equal = 0;
    for (size_t position = 0; position < n; position++) {
        equal += draw(sampler, &s, p_logits, position) == draw(sampler, &s, q_logits, position);
    }
    shoal_sampler_free(sampler);
    double accepted = (double)equal / (double)n;
    double sigma = sqrt(0.25 / (double)n);
    /* Daliri, Musco, Suresh, "Coupling without communication" (2024): the floor; and no coupling
     * whatever agrees more often than 1 - TV. */
    assert_true(accepted >= (1.0 - tv) / (1.0 + tv) - 4.0 * sigma);
    assert_true(accepted <= 1.0 - tv + 4.0 * sigma);
}

static void test_sample_shared_noise_couples_close_distributions(void **state)
{
    (void)state;
    check_coupling(0.1f, 21);
    check_coupling(0.5f, 22);
    check_coupling(2.0f, 23);
}

/* --- construction ---------------------------------------------------------------------------- */

static void test_sampler_new_refuses_impossible_vocabularies(void **state)
{
    (void)state;
    shoal_sampler *sampler = NULL;
    assert_int_equal(shoal_sampler_new(0, &kernels, &sampler), SHOAL_E_INVALID);
    assert_int_equal(shoal_sampler_new((size_t)INT32_MAX + 1, &kernels, &sampler), SHOAL_E_LIMIT);
    assert_null(sampler);
    shoal_sampler_free(NULL);
}

static void test_sampler_new_survives_every_failed_allocation(void **state)
{
    (void)state;
    shoal_sampler *sampler = NULL;
    uint64_t n_failed = 0;
    for (;; n_failed++) {
        shoal_mem_fail_at(n_failed);
        shoal_status status = shoal_sampler_new(64, &kernels, &sampler);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(sampler);
    }
    assert_int_equal(n_failed, 4);
    shoal_sampler_free(sampler);
}

int main(void)
{
    shoal_kernels_init(&kernels, shoal_cpu_detect());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_distribution_plain),
        cmocka_unit_test(test_sample_distribution_temperatures),
        cmocka_unit_test(test_sample_distribution_filters),
        cmocka_unit_test(test_sample_pruning_never_changes_the_winner),
        cmocka_unit_test(test_sample_equal_inputs_give_equal_bits),
        cmocka_unit_test(test_sample_ties_go_to_the_lowest_id),
        cmocka_unit_test(test_sample_nan_and_masked_never_win),
        cmocka_unit_test(test_sample_nothing_to_choose_gives_id_zero),
        cmocka_unit_test(test_sample_infinite_and_huge_logits_win_without_nan),
        cmocka_unit_test(test_sample_confidence_is_of_the_raw_logits),
        cmocka_unit_test(test_sample_one_token_vocabulary),
        cmocka_unit_test(test_sample_shared_noise_couples_close_distributions),
        cmocka_unit_test(test_sampler_new_refuses_impossible_vocabularies),
        cmocka_unit_test(test_sampler_new_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
