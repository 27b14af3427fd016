/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-bench-load: parses, connects, records what is right, offers the load, reports.
 */
#include "common/base/mem.h"
#include "tests/bench/load/options.h"
#include "tests/bench/load/report.h"
#include "tests/bench/load/timing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    EXIT_USAGE = 2,
    DESCRIBE_MS = 20000
};

static const double apart_p = 0.01; /* below it the tenants' times differ */
static const uint64_t second_ns = 1000000000U;
static const uint64_t recording_ns = 86400ULL * 1000000000U;

/* Each prompt alone: the answers every load is held against. */
static shoal_status record(const load_options *o, load_link *link, load_truth *truth,
                           shoal_err *err)
{
    load_plan plan = {.edge = {.mode = SHOAL_MODE_CLOUD, .span = 1, .ahead = 1, .record = true},
                      .n_sessions = o->truth.n_items,
                      .width = o->record_width,
                      .end_ns = recording_ns,
                      .shares = {1},
                      .n_tenants = 1,
                      .seed = o->plan.seed};
    load_result result;
    shoal_status status = load_run(link, truth, &plan, &result, err);
    load_result_fini(&result);
    SHOAL_TRY(status);
    return o->recording ? load_truth_write(truth, o->recording, err) : SHOAL_OK;
}

static shoal_status know_truth(const load_options *o, load_link *link, load_truth *truth,
                               shoal_err *err)
{
    if (o->recording) {
        shoal_err missing = SHOAL_ERR_INIT;
        shoal_status status = load_truth_read(truth, o->recording, &missing);
        if (status == SHOAL_OK) {
            return SHOAL_OK;
        }
        if (status != SHOAL_E_NOTFOUND) {
            *err = missing;
            return status;
        }
    }
    return record(o, link, truth, err);
}

static shoal_status json_line(const load_options *o, const load_plan *plan, load_result *result,
                              shoal_err *err)
{
    if (!o->json) {
        return SHOAL_OK;
    }
    FILE *file = fopen(o->json, "a");
    if (!file) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: %s", o->json, strerror(errno));
    }
    load_report_json(file, o->label, plan, result);
    return fclose(file) == 0 ? SHOAL_OK
                             : shoal_err_set(err, SHOAL_E_IO, "%s: not written", o->json);
}

static load_plan plan_of(const load_options *o, size_t point)
{
    load_plan plan = o->plan;
    if (o->at_once) {
        plan.n_sessions = (size_t)o->points[point] * o->times;
        plan.width = o->times > 1 ? (size_t)o->points[point] : 0;
        plan.end_ns = plan.drain_ns; /* the window is the whole run */
        plan.drain_ns = 0;
        return plan;
    }
    plan.rate = o->points[point];
    plan.n_sessions = SHOAL_MAX(load_plan_n_arrivals(&plan, o->seconds), (size_t)1);
    plan.warm_ns = (uint64_t)(o->warmup * (double)second_ns);
    plan.end_ns = (uint64_t)(o->seconds * (double)second_ns);
    return plan;
}

/* *ret_n_bad counts sessions that ended as none may. */
static shoal_status offer_all(const load_options *o, load_link *link, load_truth *truth,
                              size_t *ret_n_bad, shoal_err *err)
{
    /* One point after another, so that the later ones know what the first has learnt. */
    const shoal_pace_settings chosen = {.n_draft = 0};
    shoal_pace pace;
    shoal_pace_init(&pace, &chosen);
    *ret_n_bad = 0;
    if (!o->rows) {
        load_report_header(stdout);
    }
    for (size_t i = 0; i < o->n_points; i++) {
        load_plan plan = plan_of(o, i);
        plan.pace = &pace;
        load_result result;
        shoal_status status = load_run(link, truth, &plan, &result, err);
        if (status == SHOAL_OK) {
            load_report_row(stdout, o->label, &plan, &result);
            load_report_bad(stderr, &result);
            *ret_n_bad += load_result_n_bad(&result);
            status = json_line(o, &plan, &result, err);
        }
        load_result_fini(&result);
        SHOAL_TRY(status);
    }
    return SHOAL_OK;
}

static void print_times(const char *what, load_samples *samples)
{
    (void)printf("%-44s %8.3f %8.3f %8.3f\n", what, 1e3 * load_samples_quantile(samples, 0.1),
                 1e3 * load_samples_quantile(samples, 0.5),
                 1e3 * load_samples_quantile(samples, 0.9));
}

static shoal_status compare_tenants(const load_options *o, load_link *link, load_truth *truth,
                                    size_t *ret_n_bad, shoal_err *err)
{
    load_timing t = {0};
    shoal_status status = load_timing_run(link, truth, o->n_probes, o->plan.seed, &t, err);
    if (status == SHOAL_OK) {
        (void)printf("# first token, ms, of %zu questions each         p10      p50      p90\n",
                     o->n_probes);
        print_times("second tenant, prompt the first has asked", &t.primed);
        print_times("second tenant, prompt nobody has asked", &t.fresh);
        print_times("first tenant, its own prompt again", &t.own);
        (void)printf("tenants apart: p = %.4g (share %.3f); own prompt against a new one: p = %.4g "
                     "(share %.3f)\n",
                     t.apart.p, t.apart.share, t.power.p, t.power.share);
        *ret_n_bad = t.apart.p <= apart_p;
    }
    load_timing_fini(&t);
    return status;
}

static shoal_status run(load_options *o, size_t *ret_n_bad, shoal_err *err)
{
    SHOAL_CLEANUP(load_link_freep) load_link *link = NULL;
    SHOAL_CLEANUP(load_truth_freep) load_truth *truth = NULL;
    shoal_describe describe;
    SHOAL_TRY(load_link_new(&o->link, &link, err));
    SHOAL_TRY(load_link_describe(link, DESCRIBE_MS, &describe, err));
    if (o->timing) {
        o->truth.n_items = 2 * o->n_probes;
        o->truth.out = (load_range){1, 1};
    }
    SHOAL_TRY(load_truth_new(&o->truth, &describe, &truth, err));
    if (o->timing) {
        return compare_tenants(o, link, truth, ret_n_bad, err);
    }
    SHOAL_TRY(know_truth(o, link, truth, err));
    return offer_all(o, link, truth, ret_n_bad, err);
}

int main(int argc, char **argv)
{
    load_options o;
    shoal_err err = SHOAL_ERR_INIT;
    size_t n_bad = 0;
    if (load_options_parse(argc, argv, &o, &err) != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-bench-load: %s\n", err.text);
        return EXIT_USAGE;
    }
    if (o.help) {
        load_options_help();
        return EXIT_SUCCESS;
    }
    shoal_status status = run(&o, &n_bad, &err);
    if (status != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-bench-load: %s\n",
                      err.text[0] != '\0' ? err.text : shoal_status_text(status));
        return EXIT_FAILURE;
    }
    return n_bad == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
