/* SPDX-License-Identifier: Apache-2.0
 *
 * Laws are found again in points drawn from them, and what is chosen is what trying all finds.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/plan.h"
#include "cloud/forge/scaling.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    POINTS = 5
};

/* loss = 3 exp(-bits / 0.7), ms = 0.5 + 0.25 bits with one thread, half with two. */
static void draw(forge_scaling_point points[POINTS])
{
    for (size_t i = 0; i < POINTS; i++) {
        double bits = 2.5 + (double)i / 2;
        double ms = 0.5 + bits / 4;
        points[i] =
            (forge_scaling_point){.bits = bits, .loss = 3 * exp(-bits / 0.7), .ms = {ms, ms / 2}};
    }
}

static void test_a_law_is_found_in_its_points(void **state)
{
    (void)state;
    forge_scaling_point points[POINTS];
    forge_scaling_law law;
    draw(points);
    assert_true(shoal_forge_scaling_fit(points, POINTS, 2, &law));
    assert_true(fabs(law.gamma - 0.7) < 1e-9 && fabs(exp(law.log_c) - 3) < 1e-9);
    assert_true(fabs(law.bits_min - 2.5) < 1e-12 && fabs(law.bits_max - 4.5) < 1e-12);
    assert_true(law.spread < 1e-9);
    assert_true(fabs(shoal_forge_scaling_loss(&law, 3.2) - 3 * exp(-3.2 / 0.7)) < 1e-9);
    assert_true(fabs(shoal_forge_scaling_ms(&law, 0, 3.2) - 1.3) < 1e-9);
    assert_true(fabs(shoal_forge_scaling_ms(&law, 1, 3.2) - 0.65) < 1e-9);
}

static void test_a_promise_holds_for_every_point(void **state)
{
    (void)state;
    uint64_t rng = 5;
    for (size_t round = 0; round < 200; round++) {
        forge_scaling_point points[POINTS];
        forge_scaling_law law;
        draw(points);
        for (size_t i = 0; i < POINTS; i++) {
            points[i].loss *= exp(0.3 * (double)test_signed(&rng));
            points[i].ms[0] *= 1 + 0.1 * (double)test_signed(&rng);
        }
        assert_true(shoal_forge_scaling_fit(points, POINTS, 2, &law));
        double before = (double)INFINITY;
        for (double bits = law.bits_min; bits <= law.bits_max; bits += 0.01) {
            double loss = shoal_forge_scaling_loss(&law, bits);
            assert_true(loss < before); /* more bits are never worse */
            before = loss;
        }
        for (size_t i = 0; i < POINTS; i++) {
            assert_true(shoal_forge_scaling_loss(&law, points[i].bits) >= points[i].loss);
            assert_true(shoal_forge_scaling_ms(&law, 0, points[i].bits) >= points[i].ms[0]);
        }
    }
}

static void test_what_has_no_law_says_so(void **state)
{
    (void)state;
    forge_scaling_point points[POINTS];
    forge_scaling_law law;
    draw(points);
    assert_false(shoal_forge_scaling_fit(points, 0, 2, &law));
    assert_false(shoal_forge_scaling_fit(points, FORGE_SCALING_POINTS_MIN - 1, 2, &law));
    assert_true(shoal_forge_scaling_fit(points, FORGE_SCALING_POINTS_MIN, 2, &law));
    points[1].bits = points[0].bits; /* three points, two sizes */
    assert_false(shoal_forge_scaling_fit(points, 3, 2, &law));
    draw(points);
    points[2].loss = 0; /* as the full model: no logarithm */
    assert_false(shoal_forge_scaling_fit(points, 3, 2, &law));
    assert_true(shoal_forge_scaling_fit(points, 4, 2, &law));
    for (size_t i = 0; i < POINTS; i++) {
        points[i].loss = 0.1 * (double)(i + 1); /* it rises */
    }
    assert_false(shoal_forge_scaling_fit(points, POINTS, 2, &law));
    draw(points);
    points[3].ms[1] = 0; /* not known once, not known at all */
    assert_true(shoal_forge_scaling_fit(points, POINTS, 2, &law));
    assert_true(shoal_forge_scaling_ms(&law, 0, 3) > 0);
    assert_true(!(shoal_forge_scaling_ms(&law, 1, 3) > 0));
}

static forge_choice random_choice(uint64_t *rng)
{
    return (forge_choice){.thread_i = test_unit(rng) < 0.5F ? 0 : 1,
                          .bits = floor(8 * (double)test_unit(rng)),
                          .ram_mib = 1 + floor(8 * (double)test_unit(rng)),
                          .ms = 1 + floor(8 * (double)test_unit(rng)),
                          .quality = (1 + floor(8 * (double)test_unit(rng))) / 8};
}

static bool meets(const forge_choice *c, const forge_limits *l)
{
    return c->ram_mib <= l->ram_mib && c->ms <= l->ms && c->quality >= l->quality;
}

static void test_the_best_that_meets_all_is_chosen(void **state)
{
    (void)state;
    uint64_t rng = 9;
    size_t n_met = 0;
    for (size_t round = 0; round < 3000; round++) {
        forge_choice choices[12];
        const forge_choice limit = random_choice(&rng);
        const forge_limits limits = {limit.ram_mib, limit.ms, limit.quality};
        double best = -1;
        double least = (double)INFINITY;
        bool met = false;
        for (size_t i = 0; i < SHOAL_COUNT(choices); i++) {
            choices[i] = random_choice(&rng);
            best = meets(&choices[i], &limits) ? fmax(best, choices[i].quality) : best;
            least = fmin(least, shoal_forge_choice_miss(&choices[i], &limits));
        }
        const forge_choice *c =
            &choices[shoal_forge_choose(choices, SHOAL_COUNT(choices), &limits, &met)];
        assert_int_equal(met, best > 0);
        assert_int_equal(met, meets(c, &limits));
        if (met) {
            assert_true(!(c->quality < best));
            for (size_t i = 0; i < SHOAL_COUNT(choices); i++) { /* of equals the smallest */
                const forge_choice *o = &choices[i];
                assert_false(meets(o, &limits) && !(o->quality < best) && o->bits < c->bits);
            }
            n_met++;
        } else {
            assert_true(!(shoal_forge_choice_miss(c, &limits) > least));
        }
        /* a looser limit never takes anything away */
        const forge_limits loose = {2 * limits.ram_mib, 0, limits.quality / 2};
        bool still = false;
        size_t at = shoal_forge_choose(choices, SHOAL_COUNT(choices), &loose, &still);
        assert_true(!met || (still && !(choices[at].quality < c->quality)));
    }
    assert_true(n_met > 100 && n_met < 2900);
}

static void test_what_is_not_known_meets_nothing(void **state)
{
    (void)state;
    const forge_choice c = {.ram_mib = 1, .quality = 1};
    assert_true(isinf(shoal_forge_choice_miss(&c, &(forge_limits){.ms = 1})));
    assert_true(!(shoal_forge_choice_miss(&c, &(forge_limits){.ram_mib = 1}) > 0));
    assert_true(!(shoal_forge_choice_miss(&c, &(forge_limits){0}) > 0));
}

/* --- reports ---------------------------------------------------------------------------------- */

static const char good[] =
    "{\"model\": \"ab\", \"bytes_in\": 9, \"bytes_out\": 1000, \"recipe\": \"r.yaml\", "
    "\"target_bytes\": 1200, \"text\": {\"divergence\": 0.5, \"kv\": "
    "\"f16\"}, \"time\": {\"threads\": 2, \"measured_ms\": 3, \"runs\": [{\"threads\": 1, "
    "\"predicted_ms\": 4}, {\"threads\": 2, \"predicted_ms\": 2}]}}";

static shoal_status parse(const char *text, plan_report *ret, shoal_err *err)
{
    return shoal_forge_plan_parse("r.json", text, strlen(text), ret, err);
}

static void test_a_report_is_read(void **state)
{
    (void)state;
    plan_report r;
    assert_int_equal(parse(good, &r, NULL), SHOAL_OK);
    assert_true(r.n_bytes == 1000 && r.sized && r.n_runs == 2 && r.measured_threads == 2);
    assert_true(fabs(r.loss - 0.5) < 1e-12 && fabs(r.ms[1] - 2) < 1e-12);
    assert_string_equal(r.kv, "f16");
    assert_string_equal(r.path, "r.json");
}

static void test_a_report_that_was_changed_is_refused(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"\"bytes_out\": 1000", "\"bytes_out\": 0"},
        {"\"bytes_out\": 1000", "\"bytes_out\": 1e30"},
        {"\"bytes_out\": 1000", "\"bytes_out\": \"1000\""},
        {"\"recipe\": \"r.yaml\", ", ""},
        {"\"kv\": \"f16\"", "\"kv\": \"0123456789012345678901234567890123456789\""},
        {"\"divergence\": 0.5", "\"divergence\": -0.5"},
        {"\"divergence\": 0.5", "\"divergence\": 1e4"},
        {"\"divergence\": 0.5", "\"divergence\": null"},
        {"\"text\"", "\"words\""},
        {"\"threads\": 2, \"measured", "\"threads\": 4097, \"measured"},
        {"\"threads\": 2, \"measured", "\"threads\": 1.5, \"measured"},
        {"\"measured_ms\": 3", "\"measured_ms\": 0"},
        {"\"predicted_ms\": 4", "\"predicted_ms\": 0"},
        {"{\"threads\": 1", "{\"threads\": 2"},
        {"\"runs\": [", "\"runs\": [], \"others\": ["},
        {"\"model\": \"ab\"", "\"model\": \"ab\", \"model\": \"ab\""},
    };
    plan_report r;
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        char text[1024];
        const char *at = strstr(good, rows[i][0]);
        shoal_err err = SHOAL_ERR_INIT;
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, rows[i][1],
                       at + strlen(rows[i][0]));
        if (parse(text, &r, &err) == SHOAL_OK) {
            fail_msg("taken: %s", rows[i][1]);
        }
        assert_memory_equal(err.text, "r.json: ", 8);
    }
    for (size_t n = 0; n < strlen(good); n++) {
        assert_int_not_equal(shoal_forge_plan_parse("r.json", good, n, &r, NULL), SHOAL_OK);
    }
    assert_int_not_equal(parse("[]", &r, NULL), SHOAL_OK);
    assert_int_not_equal(shoal_forge_plan_read("/nonexistent/r.json", &r, NULL), SHOAL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_law_is_found_in_its_points),
        cmocka_unit_test(test_a_promise_holds_for_every_point),
        cmocka_unit_test(test_what_has_no_law_says_so),
        cmocka_unit_test(test_the_best_that_meets_all_is_chosen),
        cmocka_unit_test(test_what_is_not_known_meets_nothing),
        cmocka_unit_test(test_a_report_is_read),
        cmocka_unit_test(test_a_report_that_was_changed_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
