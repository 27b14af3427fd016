/* SPDX-License-Identifier: Apache-2.0
 *
 * `device`: what the machine it runs on can do, measured once and written as a profile by which
 * `compress` and `plan` choose (profile.h).
 */
#include "cloud/forge/profile.h"

#include "cloud/forge/forge.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/machine/flash.h"
#include "common/machine/peak.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MIB = 1 << 20,
    SET_MIB = 96, /* more than the last caches of the machines it was made for */
    PEAKS = 3
};

#define AT(field) offsetof(forge_args, device.field)

static const forge_option options[] = {
    {0, "model", 'm', FORGE_OPTION_TEXT, offsetof(forge_args, model), 0, 0, "FILE",
     "a model whose step is timed too, and as large as which the sets are"},
    {0, "mib", 0, FORGE_OPTION_INT, AT(mib), 1, 4096, "N",
     "MiB of weights that each figure reads in turn (default: the model's, or 96)"},
    {0, "seconds", 0, FORGE_OPTION_REAL, AT(seconds), 0, 60, "S",
     "of measuring each figure, at least one turn (default 0.1; there are some hundred)"},
    {0, "flash-mib", 0, FORGE_OPTION_INT, AT(flash_mib), 0, 65536, "N",
     "MiB written beside the output and read back, 0: none (default 64)"},
};

const forge_own shoal_forge_device_own = {
    .run = shoal_forge_device,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2, .device = {.seconds = 0.1, .flash_mib = 64}},
};

typedef struct measuring {
    const forge_args *args;
    shoal_kernels kernels;
    forge_profile *profile;
} measuring;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* --- one number of threads -------------------------------------------------------------------- */

static shoal_status measure_peaks(shoal_pool *pool, forge_profile_run *run, shoal_err *err)
{
    double rates[PEAKS];
    SHOAL_CLEANUP(shoal_peak_freep) shoal_peak *peak = shoal_peak_new(pool);
    if (!peak) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to measure the bandwidth");
    }
    for (size_t i = 0; i < PEAKS; i++) {
        rates[i] = shoal_peak_read(peak);
    }
    qsort(rates, PEAKS, sizeof *rates, by_value);
    run->read_gb_s = rates[PEAKS / 2];
    run->int8_gop_s = shoal_peak_int8(peak);
    run->float_gop_s = shoal_peak_float(peak);
    return SHOAL_OK;
}

static shoal_status measure_rates(const measuring *m, shoal_pool *pool, forge_profile_run *run,
                                  shoal_err *err)
{
    const shoal_rate_settings settings = {.kernels = &m->kernels,
                                          .pool = pool,
                                          .set_bytes = (size_t)(m->profile->set_mib * MIB),
                                          .seconds = m->args->device.seconds};
    bool terminal = isatty(STDERR_FILENO) == 1;
    for (uint32_t t = 0; t < SHOAL_TYPES_END; t++) {
        const char *name = shoal_forge_profile_type(t);
        if (!name) {
            continue;
        }
        if (terminal) {
            (void)fprintf(stderr, "\rdevice: %zu threads, %s\033[K", run->n_threads, name);
        }
        shoal_status status =
            shoal_rate_measure(&settings, (shoal_type)t, shoal_forge_profile_widths,
                               FORGE_PROFILE_WIDTHS, run->rates[t], err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%s", name);
            return status;
        }
    }
    if (terminal) {
        (void)fprintf(stderr, "\r\033[K");
    }
    return SHOAL_OK;
}

static shoal_status measure_step(const measuring *m, forge_profile_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    forge_args args = *m->args;
    args.threads = (long)run->n_threads;
    SHOAL_TRY(shoal_forge_session_open(&args, 1, 1, FORGE_STEPS + 1, &s, err));
    shoal_hash_hex(&s.model->hash, m->profile->model);
    return shoal_forge_step_ms(&s, NULL, 0, &run->step_ms);
}

static shoal_status measure_run(const measuring *m, size_t n_threads, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    forge_profile_run *run = &m->profile->runs[m->profile->n_runs++];
    run->n_threads = n_threads;
    if (shoal_pool_new(n_threads, &pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu threads", n_threads);
    }
    SHOAL_TRY(measure_peaks(pool, run, err));
    SHOAL_TRY(measure_rates(m, pool, run, err));
    return m->args->model ? measure_step(m, run, err) : SHOAL_OK;
}

/* --- the machine ------------------------------------------------------------------------------ */

/* As large as the model's products of a token, so that its weights lie where the model's will. */
static shoal_status find_set(measuring *m, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    m->profile->set_mib = m->args->device.mib > 0 ? (double)m->args->device.mib : SET_MIB;
    if (m->args->model && m->args->device.mib == 0) {
        SHOAL_TRY(shoal_model_load(m->args->model, &model, err));
        double bytes = (double)shoal_model_bytes_per_token(model);
        m->profile->set_mib = SHOAL_MAX(SHOAL_MIN(bytes / MIB, 4096), 0.0625);
    }
    return SHOAL_OK;
}

static shoal_status measure_flash(const measuring *m, shoal_err *err)
{
    const char *path = m->args->output ? m->args->output : "";
    const char *slash = strrchr(path, '/');
    SHOAL_CLEANUP(shoal_free_cleanup)
    char *folder = slash ? shoal_strndup(path, (size_t)(slash - path) + 1) : shoal_strdup(".");
    if (m->args->device.flash_mib == 0) {
        return SHOAL_OK;
    }
    if (!folder) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the folder's name");
    }
    return shoal_flash_measure(folder, (size_t)m->args->device.flash_mib * MIB,
                               &m->profile->flash_gb_s, err);
}

static shoal_status measure(measuring *m, shoal_err *err)
{
    forge_profile *p = m->profile;
    uint32_t mask = shoal_cpu_detect();
    if (m->args->cpu_mask && shoal_cpu_mask_parse(m->args->cpu_mask, &mask) < 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--cpu-mask %s: known are scalar, avx2, avx512, native",
                             m->args->cpu_mask);
    }
    shoal_kernels_init(&m->kernels, mask);
    shoal_machine_cpu_name(p->cpu);
    (void)snprintf(p->tier, sizeof p->tier, "%s", m->kernels.tier);
    p->n_cpus = (size_t)SHOAL_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L);
    SHOAL_TRY(find_set(m, err));
    SHOAL_TRY(measure_flash(m, err));
    if (m->args->threads > 1) {
        SHOAL_TRY(measure_run(m, 1, err));
    }
    return measure_run(m, (size_t)m->args->threads, err);
}

shoal_status shoal_forge_device(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) forge_profile *p = shoal_calloc(1, sizeof *p);
    measuring m = {.args = args, .profile = p};
    if (!p) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a profile");
    }
    SHOAL_TRY(measure(&m, err));
    if (shoal_forge_profile_json(p, &out) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a profile");
    }
    return args->output ? shoal_file_write(args->output, out.data, out.length, err)
                        : shoal_forge_print(&out, err);
}
