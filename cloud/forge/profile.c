/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/profile.h"

#include "cloud/forge/forge.h"

#include <string.h>

const size_t shoal_forge_profile_widths[FORGE_PROFILE_WIDTHS] = {1, 5};

const char *shoal_forge_profile_type(uint32_t type)
{
    const shoal_type_info *info = shoal_type_find(type);
    if (!info || type == SHOAL_TYPE_I32 || type >= SHOAL_TYPES_END) {
        return NULL;
    }
    return type == SHOAL_TYPE_I8 ? "FP8" : info->name;
}

const forge_profile_run *shoal_forge_profile_run(const forge_profile *profile, size_t n_threads)
{
    for (size_t i = 0; i < profile->n_runs; i++) {
        if (profile->runs[i].n_threads == n_threads) {
            return &profile->runs[i];
        }
    }
    return NULL;
}

static shoal_status put_or_null(shoal_buf *buf, double value)
{
    return value > 0 ? shoal_buf_appendf(buf, "%.9g", value) : shoal_buf_appendf(buf, "null");
}

static shoal_status put_rates(const forge_profile_run *run, shoal_buf *buf)
{
    bool first = true;
    for (uint32_t t = 0; t < SHOAL_TYPES_END; t++) {
        const shoal_rate *rates = run->rates[t];
        if (!shoal_forge_profile_type(t) || !(rates[0].gb_s > 0)) {
            continue;
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\n    \"%s\": [", first ? "" : ",",
                                    shoal_forge_profile_type(t)));
        for (size_t w = 0; w < FORGE_PROFILE_WIDTHS; w++) {
            SHOAL_TRY(shoal_buf_appendf(
                buf, "%s{\"width\": %zu, \"fixed_us\": %.9g, \"gb_s\": %.9g}", w ? ", " : "",
                shoal_forge_profile_widths[w], rates[w].fixed_us, rates[w].gb_s));
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "]"));
        first = false;
    }
    return SHOAL_OK;
}

static shoal_status put_run(const forge_profile_run *run, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"threads\": %zu, \"read_gb_s\": ", run->n_threads));
    SHOAL_TRY(put_or_null(buf, run->read_gb_s));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"int8_gop_s\": "));
    SHOAL_TRY(put_or_null(buf, run->int8_gop_s));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"float_gop_s\": "));
    SHOAL_TRY(put_or_null(buf, run->float_gop_s));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"step_ms\": "));
    SHOAL_TRY(put_or_null(buf, run->step_ms));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\n   \"rates\": {"));
    SHOAL_TRY(put_rates(run, buf));
    return shoal_buf_appendf(buf, "}}");
}

shoal_status shoal_forge_profile_json(const forge_profile *p, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"shoal_device\": %d, \"cpu\": ", FORGE_PROFILE_VERSION));
    SHOAL_TRY(shoal_forge_json_string(buf, p->cpu, strlen(p->cpu)));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"n_cpus\": %zu, \"tier\": \"%s\", \"set_mib\": %.9g",
                                p->n_cpus, p->tier, p->set_mib));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"flash_gb_s\": "));
    SHOAL_TRY(put_or_null(buf, p->flash_gb_s));
    SHOAL_TRY(*p->model ? shoal_buf_appendf(buf, ", \"model\": \"%s\"", p->model)
                        : shoal_buf_appendf(buf, ", \"model\": null"));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\n \"runs\": ["));
    for (size_t i = 0; i < p->n_runs; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\n  ", i ? "," : ""));
        SHOAL_TRY(put_run(&p->runs[i], buf));
    }
    return shoal_buf_appendf(buf, "]}\n");
}
