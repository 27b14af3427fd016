/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/obs/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

SHOAL_DEFINE_CLEANUP(shoal_metrics, shoal_metrics_free)

static shoal_metrics *make(void)
{
    shoal_metrics *metrics = NULL;
    assert_int_equal(shoal_metrics_new(&metrics), SHOAL_OK);
    return metrics;
}

static shoal_metric *add(shoal_metrics *metrics, const char *name, const char *labels,
                         shoal_metric_kind kind)
{
    static const double bounds[] = {0.1, 1, 2.5};
    bool is_histogram = kind == SHOAL_METRIC_HISTOGRAM;
    const shoal_metric_def def = {.name = name,
                                  .help = "A thing.",
                                  .labels = labels,
                                  .kind = kind,
                                  .bounds = is_histogram ? bounds : NULL,
                                  .n_bounds = is_histogram ? SHOAL_COUNT(bounds) : 0};
    shoal_metric *metric = NULL;
    assert_int_equal(shoal_metrics_add(metrics, &def, &metric), SHOAL_OK);
    return metric;
}

static void test_find_needs_name_and_labels(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    shoal_metric *edge = add(metrics, "shoal_tokens_total", "tier=\"edge\"", SHOAL_METRIC_COUNTER);
    shoal_metric *ratio = add(metrics, "shoal_kv_ratio", "", SHOAL_METRIC_GAUGE);
    assert_ptr_equal(shoal_metrics_find(metrics, "shoal_tokens_total", "tier=\"edge\""), edge);
    assert_ptr_equal(shoal_metrics_find(metrics, "shoal_kv_ratio", ""), ratio);
    assert_null(shoal_metrics_find(metrics, "shoal_tokens_total", ""));
    assert_null(shoal_metrics_find(metrics, "shoal_tokens", "tier=\"edge\""));
}

static void test_render_groups_by_name_and_matches_the_format(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    shoal_metric *edge = add(metrics, "shoal_tokens_total", "tier=\"edge\"", SHOAL_METRIC_COUNTER);
    shoal_metric *wait = add(metrics, "shoal_wait_seconds", "", SHOAL_METRIC_HISTOGRAM);
    shoal_metric *ratio = add(metrics, "shoal_kv_ratio", "", SHOAL_METRIC_GAUGE);
    shoal_metric *cloud =
        add(metrics, "shoal_tokens_total", "tier=\"cloud\"", SHOAL_METRIC_COUNTER);
    shoal_metric_add(edge, 2);
    shoal_metric_add(edge, 1);
    shoal_metric_add(cloud, 1e15);
    shoal_metric_set(ratio, 0.1);
    shoal_metric_add(ratio, -0.05);
    shoal_metric_observe(wait, 0.1);
    shoal_metric_observe(wait, 0.25);
    shoal_metric_observe(wait, 1000);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_metrics_render(metrics, &buf), SHOAL_OK);
    assert_string_equal(buf.data, "# HELP shoal_tokens_total A thing.\n"
                                  "# TYPE shoal_tokens_total counter\n"
                                  "shoal_tokens_total{tier=\"edge\"} 3\n"
                                  "shoal_tokens_total{tier=\"cloud\"} 1e+15\n"
                                  "# HELP shoal_wait_seconds A thing.\n"
                                  "# TYPE shoal_wait_seconds histogram\n"
                                  "shoal_wait_seconds_bucket{le=\"0.1\"} 1\n"
                                  "shoal_wait_seconds_bucket{le=\"1\"} 2\n"
                                  "shoal_wait_seconds_bucket{le=\"2.5\"} 2\n"
                                  "shoal_wait_seconds_bucket{le=\"+Inf\"} 3\n"
                                  "shoal_wait_seconds_sum 1000.35\n"
                                  "shoal_wait_seconds_count 3\n"
                                  "# HELP shoal_kv_ratio A thing.\n"
                                  "# TYPE shoal_kv_ratio gauge\n"
                                  "shoal_kv_ratio 0.05\n");
}

static void test_help_and_labels_are_escaped(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    const shoal_metric_def def = {.name = "shoal_x",
                                  .help = "a\\b\nc \"d\"",
                                  .labels = "p=\"q\\\"\\\\\\n\nr,s=\",t=\"\"",
                                  .kind = SHOAL_METRIC_GAUGE};
    shoal_metric *metric = NULL;
    assert_int_equal(shoal_metrics_add(metrics, &def, &metric), SHOAL_OK);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_metrics_render(metrics, &buf), SHOAL_OK);
    assert_string_equal(buf.data, "# HELP shoal_x a\\\\b\\nc \"d\"\n"
                                  "# TYPE shoal_x gauge\n"
                                  "shoal_x{p=\"q\\\"\\\\\\n\\nr,s=\",t=\"\"} 0\n");
}

static void test_numbers_read_back_and_specials_are_named(void **state)
{
    (void)state;
    static const double values[] = {0.1, 1.0 / 3, 1e300, -2.5e-7, 123456789012345678.0};
    for (size_t i = 0; i < SHOAL_COUNT(values); i++) {
        SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
        shoal_metric_set(add(metrics, "shoal_x", "", SHOAL_METRIC_GAUGE), values[i]);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        assert_int_equal(shoal_metrics_render(metrics, &buf), SHOAL_OK);
        double back = 0;
        assert_int_equal(sscanf(strrchr(buf.data, ' '), "%lf", &back), 1);
        assert_memory_equal(&back, &values[i], sizeof back);
    }
    static const struct {
        double value;
        const char *text;
    } specials[] = {
        {(double)INFINITY, " +Inf\n"}, {-(double)INFINITY, " -Inf\n"}, {(double)NAN, " NaN\n"}};
    for (size_t i = 0; i < SHOAL_COUNT(specials); i++) {
        SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
        shoal_metric_set(add(metrics, "shoal_x", "", SHOAL_METRIC_GAUGE), specials[i].value);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        assert_int_equal(shoal_metrics_render(metrics, &buf), SHOAL_OK);
        assert_string_equal(strrchr(buf.data, ' '), specials[i].text);
    }
}

static void test_names_and_labels_outside_the_grammar_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *labels;
        shoal_metric_kind kind;
    } cases[] = {
        {"", "", SHOAL_METRIC_GAUGE},
        {"1x", "", SHOAL_METRIC_GAUGE},
        {"a b", "", SHOAL_METRIC_GAUGE},
        {"a\n", "", SHOAL_METRIC_GAUGE},
        {"x_total", "", SHOAL_METRIC_GAUGE},
        {"x", "", SHOAL_METRIC_COUNTER},
        {"x_count", "", SHOAL_METRIC_GAUGE},
        {"x_sum", "", SHOAL_METRIC_GAUGE},
        {"x_bucket", "", SHOAL_METRIC_GAUGE},
        {"x", "a", SHOAL_METRIC_GAUGE},
        {"x", "a=", SHOAL_METRIC_GAUGE},
        {"x", "a=\"", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b\\", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b\\x\"", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b\",", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b\" ", SHOAL_METRIC_GAUGE},
        {"x", "a=\"b\",a=\"c\"", SHOAL_METRIC_GAUGE},
        {"x", "le=\"1\"", SHOAL_METRIC_GAUGE},
        {"x", "__a=\"1\"", SHOAL_METRIC_GAUGE},
        {"x", "", SHOAL_METRIC_HISTOGRAM},
    };
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        const shoal_metric_def def = {
            .name = cases[i].name, .help = "h", .labels = cases[i].labels, .kind = cases[i].kind};
        shoal_metric *metric = NULL;
        assert_int_equal(shoal_metrics_add(metrics, &def, &metric), SHOAL_E_INVALID);
        assert_null(metric);
    }
}

static void test_family_shares_kind_and_help_and_differs_in_labels(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    (void)add(metrics, "shoal_x", "a=\"1\"", SHOAL_METRIC_GAUGE);
    static const double bounds[] = {1};
    const shoal_metric_def wrong[] = {
        {.name = "shoal_x", .help = "A thing.", .labels = "a=\"1\"", .kind = SHOAL_METRIC_GAUGE},
        {.name = "shoal_x", .help = "Other.", .labels = "a=\"2\"", .kind = SHOAL_METRIC_GAUGE},
        {.name = "shoal_x",
         .help = "A thing.",
         .labels = "a=\"2\"",
         .kind = SHOAL_METRIC_HISTOGRAM,
         .bounds = bounds,
         .n_bounds = 1},
    };
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        shoal_metric *metric = NULL;
        assert_int_equal(shoal_metrics_add(metrics, &wrong[i], &metric), SHOAL_E_INVALID);
    }
    (void)add(metrics, "shoal_x", "a=\"2\"", SHOAL_METRIC_GAUGE);
}

static void test_bounds_at_32_are_taken_and_odd_ones_refused(void **state)
{
    (void)state;
    static double bounds[33];
    for (size_t i = 0; i < SHOAL_COUNT(bounds); i++) {
        bounds[i] = (double)i;
    }
    static const double falling[] = {2, 1};
    static const double same[] = {1, 1};
    const double endless[] = {1, (double)INFINITY};
    const struct {
        const double *bounds;
        size_t n;
        shoal_status expected;
    } cases[] = {
        {bounds, 1, SHOAL_OK},         {bounds, 31, SHOAL_OK},        {bounds, 32, SHOAL_OK},
        {bounds, 33, SHOAL_E_INVALID}, {bounds, 0, SHOAL_E_INVALID},  {falling, 2, SHOAL_E_INVALID},
        {same, 2, SHOAL_E_INVALID},    {endless, 2, SHOAL_E_INVALID}, {NULL, 1, SHOAL_E_INVALID}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
        const shoal_metric_def def = {.name = "shoal_x",
                                      .help = "h",
                                      .labels = NULL,
                                      .kind = SHOAL_METRIC_HISTOGRAM,
                                      .bounds = cases[i].bounds,
                                      .n_bounds = cases[i].n};
        shoal_metric *metric = NULL;
        assert_int_equal(shoal_metrics_add(metrics, &def, &metric), cases[i].expected);
    }
}

static void test_registry_is_full_at_1024(void **state)
{
    (void)state;
    static char names[1025][16];
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    for (size_t i = 0; i < 1025; i++) {
        (void)snprintf(names[i], sizeof names[i], "shoal_%zu", i);
        const shoal_metric_def def = {
            .name = names[i], .help = "h", .labels = "", .kind = SHOAL_METRIC_GAUGE};
        shoal_metric *metric = NULL;
        assert_int_equal(shoal_metrics_add(metrics, &def, &metric),
                         i < 1024 ? SHOAL_OK : SHOAL_E_LIMIT);
    }
}

static void test_odd_updates_change_nothing(void **state)
{
    (void)state;
    shoal_metric_add(NULL, 1);
    shoal_metric_set(NULL, 1);
    shoal_metric_observe(NULL, 1);
    assert_true(!(shoal_metric_value(NULL) > 0));
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    shoal_metric *counter = add(metrics, "shoal_x_total", "", SHOAL_METRIC_COUNTER);
    shoal_metric_add(counter, 5);
    shoal_metric_add(counter, -1);
    shoal_metric_add(counter, (double)NAN);
    shoal_metric_add(counter, (double)INFINITY);
    assert_int_equal((int)shoal_metric_value(counter), 5);
    shoal_metric *histogram = add(metrics, "shoal_y", "", SHOAL_METRIC_HISTOGRAM);
    shoal_metric_observe(histogram, (double)NAN);
    shoal_metric_observe(histogram, 3);
    assert_int_equal((int)shoal_metric_value(histogram), 1);
}

enum {
    N_THREADS = 4,
    N_EACH = 5000
};

typedef struct shared {
    shoal_metric *counter;
    shoal_metric *histogram;
} shared;

static void count(void *ctx)
{
    const shared *s = ctx;
    for (int i = 0; i < N_EACH; i++) {
        shoal_metric_add(s->counter, 1);
        shoal_metric_observe(s->histogram, i % 4);
    }
}

static void test_updates_from_many_threads_are_all_counted(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_metrics_freep) shoal_metrics *metrics = make();
    shared s = {.counter = add(metrics, "shoal_x_total", "", SHOAL_METRIC_COUNTER),
                .histogram = add(metrics, "shoal_y", "", SHOAL_METRIC_HISTOGRAM)};
    shoal_thread *threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(shoal_thread_start(SHOAL_ROLE_IO, "count", count, &s, &threads[i]),
                         SHOAL_OK);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_metrics_render(metrics, &buf), SHOAL_OK);
    for (int i = 0; i < N_THREADS; i++) {
        shoal_thread_join(threads[i]);
    }
    assert_int_equal((int)shoal_metric_value(s.counter), N_THREADS * N_EACH);
    assert_int_equal((int)shoal_metric_value(s.histogram), N_THREADS * N_EACH);
}

static void test_failing_allocations_give_nomem(void **state)
{
    (void)state;
    for (uint64_t i = 0;; i++) {
        shoal_mem_fail_at(i);
        shoal_metrics *metrics = NULL;
        shoal_metric *metric = NULL;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        const shoal_metric_def def = {
            .name = "shoal_x", .help = "h", .labels = "", .kind = SHOAL_METRIC_GAUGE};
        shoal_status status = shoal_metrics_new(&metrics);
        if (status == SHOAL_OK) {
            status = shoal_metrics_add(metrics, &def, &metric);
        }
        if (status == SHOAL_OK) {
            status = shoal_metrics_render(metrics, &buf);
        }
        shoal_mem_fail_at(UINT64_MAX);
        shoal_metrics_free(metrics);
        if (status == SHOAL_OK) {
            assert_true(i >= 3);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_needs_name_and_labels),
        cmocka_unit_test(test_render_groups_by_name_and_matches_the_format),
        cmocka_unit_test(test_help_and_labels_are_escaped),
        cmocka_unit_test(test_numbers_read_back_and_specials_are_named),
        cmocka_unit_test(test_names_and_labels_outside_the_grammar_are_refused),
        cmocka_unit_test(test_family_shares_kind_and_help_and_differs_in_labels),
        cmocka_unit_test(test_bounds_at_32_are_taken_and_odd_ones_refused),
        cmocka_unit_test(test_registry_is_full_at_1024),
        cmocka_unit_test(test_odd_updates_change_nothing),
        cmocka_unit_test(test_updates_from_many_threads_are_all_counted),
        cmocka_unit_test(test_failing_allocations_give_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
