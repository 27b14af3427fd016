/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to jansson that reads profiles.
 */
#include "cloud/forge/profile.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum {
    THREADS_MAX = 4096,
    CPUS_MAX = 65536
};

static const double most = 1e9; /* of any figure: what is larger is no machine's */

static void json_cleanup(json_t **p)
{
    json_decref(*p);
}

static shoal_status refuse(const char *key, const char *what, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "\"%s\" %s", key, what);
}

static shoal_status get_text(const json_t *object, const char *key, char *ret_text, size_t n_text,
                             shoal_err *err)
{
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) >= n_text || strlen(text) != json_string_length(value)) {
        return refuse(key, "is missing, no string or too long", err);
    }
    memcpy(ret_text, text, strlen(text) + 1);
    return SHOAL_OK;
}

static shoal_status get_number(const json_t *object, const char *key, double least, double *ret,
                               shoal_err *err)
{
    const json_t *value = json_object_get(object, key);
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= least && x <= most)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "\"%s\" is no number from %g to %g", key, least,
                             most);
    }
    *ret = x;
    return SHOAL_OK;
}

/* What was not measured is null, and 0. */
static shoal_status get_measured(const json_t *object, const char *key, double *ret, shoal_err *err)
{
    const double least = 1e-9;
    *ret = 0;
    return json_is_null(json_object_get(object, key)) ? SHOAL_OK
                                                      : get_number(object, key, least, ret, err);
}

static shoal_status get_count(const json_t *object, const char *key, size_t n_max, size_t *ret,
                              shoal_err *err)
{
    const json_t *value = json_object_get(object, key);
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 1 || (uint64_t)n > n_max) {
        return shoal_err_set(err, SHOAL_E_INVALID, "\"%s\" is no whole number from 1 to %zu", key,
                             n_max);
    }
    *ret = (size_t)n;
    return SHOAL_OK;
}

/* --- rates ------------------------------------------------------------------------------------ */

static shoal_status get_rates(const json_t *list, const char *name, shoal_rate *ret_rates,
                              shoal_err *err)
{
    const double least = 1e-9;
    if (json_array_size(list) != FORGE_PROFILE_WIDTHS) {
        return refuse(name, "has no rate for each of two widths", err);
    }
    for (size_t w = 0; w < FORGE_PROFILE_WIDTHS; w++) {
        const json_t *rate = json_array_get(list, w);
        size_t width = 0;
        shoal_status status = get_count(rate, "width", SHOAL_RATE_COLS_MAX, &width, err);
        if (status == SHOAL_OK && width != shoal_forge_profile_widths[w]) {
            status = shoal_err_set(err, SHOAL_E_INVALID, "width %zu stands where %zu should", width,
                                   shoal_forge_profile_widths[w]);
        }
        if (status == SHOAL_OK) {
            status = get_number(rate, "fixed_us", 0, &ret_rates[w].fixed_us, err);
        }
        if (status == SHOAL_OK) {
            status = get_number(rate, "gb_s", least, &ret_rates[w].gb_s, err);
        }
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "\"%s\"", name);
            return status;
        }
    }
    return SHOAL_OK;
}

static bool find_type(const char *name, uint32_t *ret_type)
{
    for (uint32_t t = 0; t < SHOAL_TYPES_END; t++) {
        const char *known = shoal_forge_profile_type(t);
        if (known && strcmp(known, name) == 0) {
            *ret_type = t;
            return true;
        }
    }
    return false;
}

static shoal_status get_run(json_t *object, forge_profile_run *ret, shoal_err *err)
{
    const char *name = NULL;
    json_t *list = NULL;
    json_t *rates = json_object_get(object, "rates");
    SHOAL_TRY(get_count(object, "threads", THREADS_MAX, &ret->n_threads, err));
    SHOAL_TRY(get_measured(object, "read_gb_s", &ret->read_gb_s, err));
    SHOAL_TRY(get_measured(object, "int8_gop_s", &ret->int8_gop_s, err));
    SHOAL_TRY(get_measured(object, "float_gop_s", &ret->float_gop_s, err));
    SHOAL_TRY(get_measured(object, "step_ms", &ret->step_ms, err));
    if (!json_is_object(rates)) {
        return refuse("rates", "is missing or no object", err);
    }
    json_object_foreach(rates, name, list)
    {
        uint32_t type = 0;
        if (!find_type(name, &type)) {
            return shoal_err_set(err, SHOAL_E_INVALID, "rates: \"%.32s\" is no type of weights",
                                 name);
        }
        SHOAL_TRY(get_rates(list, name, ret->rates[type], err));
    }
    return SHOAL_OK;
}

/* --- the file --------------------------------------------------------------------------------- */

static shoal_status get_runs(const json_t *root, forge_profile *ret, shoal_err *err)
{
    json_t *runs = json_object_get(root, "runs");
    size_t n = json_array_size(runs);
    if (n < 1 || n > FORGE_PROFILE_RUNS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "\"runs\" is no list of 1 to %d",
                             (int)FORGE_PROFILE_RUNS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        shoal_status status = get_run(json_array_get(runs, i), &ret->runs[i], err);
        if (status == SHOAL_OK && i > 0 && ret->runs[i].n_threads <= ret->runs[i - 1].n_threads) {
            status = shoal_err_set(err, SHOAL_E_INVALID, "%zu threads do not follow %zu",
                                   ret->runs[i].n_threads, ret->runs[i - 1].n_threads);
        }
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "run %zu", i);
            return status;
        }
    }
    ret->n_runs = n;
    return SHOAL_OK;
}

static shoal_status get_model(const json_t *root, char ret_model[SHOAL_HASH_HEX], shoal_err *err)
{
    if (json_is_null(json_object_get(root, "model"))) {
        ret_model[0] = '\0';
        return SHOAL_OK;
    }
    SHOAL_TRY(get_text(root, "model", ret_model, SHOAL_HASH_HEX, err));
    return strlen(ret_model) == SHOAL_HASH_HEX - 1 &&
                   strspn(ret_model, "0123456789abcdef") == SHOAL_HASH_HEX - 1
               ? SHOAL_OK
               : refuse("model", "is no hash", err);
}

static shoal_status get_profile(const json_t *root, forge_profile *ret, shoal_err *err)
{
    const json_t *version = json_object_get(root, "shoal_device");
    if (!json_is_integer(version)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no profile of shoal-forge device");
    }
    if (json_integer_value(version) != FORGE_PROFILE_VERSION) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "a profile of version %lld, this program reads %d: run device again",
                             (long long)json_integer_value(version), FORGE_PROFILE_VERSION);
    }
    SHOAL_TRY(get_text(root, "cpu", ret->cpu, sizeof ret->cpu, err));
    SHOAL_TRY(get_text(root, "tier", ret->tier, sizeof ret->tier, err));
    SHOAL_TRY(get_count(root, "n_cpus", CPUS_MAX, &ret->n_cpus, err));
    SHOAL_TRY(get_number(root, "set_mib", 1e-3, &ret->set_mib, err));
    SHOAL_TRY(get_measured(root, "flash_gb_s", &ret->flash_gb_s, err));
    SHOAL_TRY(get_model(root, ret->model, err));
    return get_runs(root, ret, err);
}

shoal_status shoal_forge_profile_parse(const char *source, const char *text, size_t n,
                                       forge_profile *ret_profile, shoal_err *err)
{
    json_error_t why;
    *ret_profile = (forge_profile){.n_runs = 0};
    if (n > FORGE_PROFILE_FILE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: %zu bytes, a profile has at most %d", source,
                             n, (int)FORGE_PROFILE_FILE_MAX);
    }
    SHOAL_CLEANUP(json_cleanup) json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    shoal_status status = root ? get_profile(root, ret_profile, err)
                               : shoal_err_set(err, SHOAL_E_INVALID, "no JSON: %.100s", why.text);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", source);
    }
    return status;
}

shoal_status shoal_forge_profile_load(const char *path, forge_profile **ret_profile, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read(path, FORGE_PROFILE_FILE_MAX, &text, err));
    SHOAL_CLEANUP(shoal_free_cleanup) forge_profile *p = shoal_calloc(1, sizeof *p);
    if (!p) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", path);
    }
    SHOAL_TRY(shoal_forge_profile_parse(path, text.data ? text.data : "", text.length, p, err));
    *ret_profile = p;
    p = NULL;
    return SHOAL_OK;
}
