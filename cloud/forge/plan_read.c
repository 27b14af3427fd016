/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to jansson that reads reports.
 */
#include "cloud/forge/plan.h"

#include "common/base/file.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

static void json_cleanup(json_t **p)
{
    json_decref(*p);
}

static shoal_status refuse(const char *key, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "\"%s\" is missing or out of range", key);
}

static shoal_status get_text(const json_t *object, const char *key, char *ret_text, size_t n_text,
                             shoal_err *err)
{
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) >= n_text || strlen(text) != json_string_length(value)) {
        return refuse(key, err);
    }
    memcpy(ret_text, text, strlen(text) + 1);
    return SHOAL_OK;
}

/* Above 0, at most `most`. */
static shoal_status get_number(const json_t *object, const char *key, double most, double *ret,
                               shoal_err *err)
{
    double x = json_number_value(json_object_get(object, key));
    if (!(x > 0 && x <= most)) {
        return refuse(key, err);
    }
    *ret = x;
    return SHOAL_OK;
}

static shoal_status get_count(const json_t *object, const char *key, size_t *ret, shoal_err *err)
{
    const double most = 4096;
    double n = 0;
    SHOAL_TRY(get_number(object, key, most, &n, err));
    if (!json_is_integer(json_object_get(object, key))) {
        return refuse(key, err);
    }
    *ret = (size_t)n;
    return SHOAL_OK;
}

static shoal_status get_times(const json_t *root, plan_report *ret, shoal_err *err)
{
    const double most = 1e9;
    const json_t *time = json_object_get(root, "time");
    const json_t *runs = json_object_get(time, "runs");
    if (!time) {
        return SHOAL_OK;
    }
    SHOAL_TRY(get_count(time, "threads", &ret->measured_threads, err));
    SHOAL_TRY(get_number(time, "measured_ms", most, &ret->measured_ms, err));
    ret->n_runs = json_array_size(runs);
    if (ret->n_runs < 1 || ret->n_runs > FORGE_SCALING_THREADS_MAX) {
        return refuse("runs", err);
    }
    for (size_t i = 0; i < ret->n_runs; i++) {
        const json_t *run = json_array_get(runs, i);
        SHOAL_TRY(get_count(run, "threads", &ret->threads[i], err));
        SHOAL_TRY(get_number(run, "predicted_ms", most, &ret->ms[i], err));
        if (i > 0 && ret->threads[i] <= ret->threads[i - 1]) {
            return refuse("threads", err);
        }
    }
    return SHOAL_OK;
}

/* A model against itself may lie below 0 by rounding. */
static shoal_status get_loss(const json_t *root, plan_report *ret, shoal_err *err)
{
    const double least = -1e-3;
    const double most = 1e3;
    const json_t *text = json_object_get(root, "text");
    const json_t *loss = json_object_get(text, "divergence");
    double x = json_number_value(loss);
    if (!text) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "it judges no text: run compress with --text for the plan");
    }
    if (!json_is_number(loss) || !(x >= least && x <= most)) {
        return refuse("divergence", err);
    }
    ret->loss = fmax(0, x);
    return get_text(text, "kv", ret->kv, sizeof ret->kv, err);
}

static shoal_status get_report(const json_t *root, plan_report *ret, shoal_err *err)
{
    const double most = 0x1p53;
    double n_bytes = 0;
    if (!json_is_object(root)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no report of shoal-forge compress");
    }
    SHOAL_TRY(get_text(root, "model", ret->model, sizeof ret->model, err));
    SHOAL_TRY(get_text(root, "recipe", ret->recipe, sizeof ret->recipe, err));
    SHOAL_TRY(get_number(root, "bytes_out", most, &n_bytes, err));
    ret->n_bytes = (uint64_t)n_bytes;
    ret->sized = json_object_get(root, "target_bytes") || json_object_get(root, "target_ms");
    SHOAL_TRY(get_loss(root, ret, err));
    return get_times(root, ret, err);
}

shoal_status shoal_forge_plan_parse(const char *path, const char *text, size_t n,
                                    plan_report *ret_report, shoal_err *err)
{
    json_error_t why;
    plan_report report = {.path = path};
    SHOAL_CLEANUP(json_cleanup) json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    shoal_status status = root ? get_report(root, &report, err)
                               : shoal_err_set(err, SHOAL_E_INVALID, "no JSON: %.100s", why.text);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", path);
        return status;
    }
    *ret_report = report;
    return SHOAL_OK;
}

shoal_status shoal_forge_plan_read(const char *path, plan_report *ret_report, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read(path, PLAN_REPORT_BYTES_MAX, &text, err));
    return shoal_forge_plan_parse(path, text.data ? text.data : "", text.length, ret_report, err);
}
