/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "common/spec/spec.h"

#include <string.h>

enum {
    VOCAB = 40,
    SPAN = 6,
    END = 39
};

static int is_end(const void *ctx, int32_t id)
{
    (void)ctx;
    return id == END;
}

typedef struct fixture {
    shoal_kernels kernels;
    shoal_sampler *sampler;
    float rows[SPAN + 1][VOCAB];
    const float *logits[SPAN + 1];
    int32_t history[16 + SPAN];
    int32_t own[SPAN + 1]; /* what the verifier would sample along its own path */
    shoal_sampling sampling;
} fixture;

/* Random rows; own[] by sampling one after the other, which is what verification must reproduce. */
static void fill(fixture *f, uint64_t seed, float temperature)
{
    uint64_t rng = seed;
    f->sampling = shoal_sampling_default();
    f->sampling.temperature = temperature;
    f->sampling.seed = seed;
    f->sampling.repetition_penalty = 1.1F;
    for (size_t i = 0; i <= SPAN; i++) {
        f->logits[i] = f->rows[i];
        for (size_t t = 0; t < VOCAB; t++) {
            f->rows[i][t] = (float)(shoal_rng_next(&rng) % 1000) / 100.0F;
        }
        f->rows[i][END] = -100;
    }
    for (size_t i = 0; i < 16; i++) {
        f->history[i] = (int32_t)(shoal_rng_next(&rng) % VOCAB);
    }
    for (size_t i = 0; i <= SPAN; i++) {
        shoal_sampled s;
        shoal_sample(f->sampler, &f->sampling, f->rows[i], f->history, 16 + i, &s);
        f->own[i] = s.id;
        if (i < SPAN) {
            f->history[16 + i] = s.id;
        }
    }
}

static int setup(void **state)
{
    static fixture f;
    memset(&f, 0, sizeof f);
    shoal_kernels_init(&f.kernels, 0);
    assert_int_equal(shoal_sampler_new(VOCAB, &f.kernels, &f.sampler), SHOAL_OK);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    shoal_sampler_free(((fixture *)*state)->sampler);
    return 0;
}

static void verify(fixture *f, size_t n, shoal_verdict *ret_v)
{
    assert_int_equal(shoal_spec_verify(f->sampler, &f->sampling, NULL, f->logits, f->history, 16, n,
                                       is_end, NULL, ret_v),
                     SHOAL_OK);
}

static void test_verify_right_drafts_accepts_all_and_gives_the_bonus(void **state)
{
    fixture *f = *state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        fill(f, seed, seed % 2 ? 0.9F : 0);
        for (size_t n = 0; n <= SPAN; n++) {
            shoal_verdict v;
            verify(f, n, &v);
            assert_int_equal(v.n_accepted, n);
            assert_int_equal(v.next.id, f->own[n]);
        }
    }
}

static void test_verify_wrong_draft_at_each_place_corrects_it(void **state)
{
    fixture *f = *state;
    for (size_t wrong = 0; wrong < SPAN; wrong++) {
        fill(f, 100 + wrong, 1.0F);
        f->history[16 + wrong] = (f->own[wrong] + 1) % (VOCAB - 1);
        shoal_verdict v;
        verify(f, SPAN, &v);
        assert_int_equal(v.n_accepted, wrong);
        assert_int_equal(v.next.id, f->own[wrong]);
    }
}

static void test_verify_end_token_accepted_ends_the_span(void **state)
{
    fixture *f = *state;
    fill(f, 7, 0);
    f->rows[2][END] = 1000;
    f->history[18] = END;
    shoal_verdict v;
    verify(f, SPAN, &v);
    assert_int_equal(v.n_accepted, 3);
    assert_int_equal(v.next.id, -1);
    assert_true(v.confidences[2] > 0.99F);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_verify_right_drafts_accepts_all_and_gives_the_bonus,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_verify_wrong_draft_at_each_place_corrects_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_verify_end_token_accepted_ends_the_span, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
