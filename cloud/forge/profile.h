/* SPDX-License-Identifier: Apache-2.0
 *
 * What `device` measured of a machine, as a JSON file that `compress` and `plan` choose by:
 *
 *   {"shoal_device": 1, "cpu": "...", "n_cpus": 8, "tier": "avx2", "set_mib": 96,
 *    "flash_gb_s": 1.9 or null, "model": "hash" or null,
 *    "runs": [{"threads": 2, "read_gb_s": 21.5, "int8_gop_s": 812, "float_gop_s": 96,
 *              "step_ms": 4.1 or null,
 *              "rates": {"Q4_0": [{"width": 1, "fixed_us": 2.5, "gb_s": 17.1}, ...], ...}}, ...]}
 *
 * A rate is common/machine/rate.h's. step_ms is a token of `model`, decoded alone: what of it the
 * products do not explain is the rest of a step. A file may come from anywhere and is checked:
 * every number is finite and in range, every name known, every run there once.
 */
#ifndef SHOAL_FORGE_PROFILE_H
#define SHOAL_FORGE_PROFILE_H

#include "common/base/buf.h"
#include "common/base/hash.h"
#include "common/machine/about.h"
#include "common/machine/rate.h"

enum {
    FORGE_PROFILE_VERSION = 1,
    FORGE_PROFILE_FILE_MAX = 1 << 20, /* bytes */
    FORGE_PROFILE_RUNS_MAX = 8,
    FORGE_PROFILE_TIER_MAX = 32,
    FORGE_PROFILE_WIDTHS = 2 /* shoal_forge_profile_widths */
};

/* A token alone, and a draft of four with the token before it. */
extern const size_t shoal_forge_profile_widths[FORGE_PROFILE_WIDTHS];

/* Of one number of threads. Rates are in GB/s or Gop/s; 0: not known. */
typedef struct forge_profile_run {
    size_t n_threads;
    double read_gb_s;
    double int8_gop_s;
    double float_gop_s;
    double step_ms;                                          /* of the profile's model; 0: none */
    shoal_rate rates[SHOAL_TYPES_END][FORGE_PROFILE_WIDTHS]; /* gb_s 0: not measured */
} forge_profile_run;

typedef struct forge_profile {
    char cpu[SHOAL_MACHINE_NAME_MAX];
    char tier[FORGE_PROFILE_TIER_MAX];
    char model[SHOAL_HASH_HEX]; /* "": none */
    size_t n_cpus;
    double set_mib;                                 /* read in turn by each figure */
    double flash_gb_s;                              /* 0: not measured */
    forge_profile_run runs[FORGE_PROFILE_RUNS_MAX]; /* ascending in threads */
    size_t n_runs;
} forge_profile;

/* Its name in a profile; NULL for what is no type of weights. FP8 is SHOAL_TYPE_I8. */
const char *shoal_forge_profile_type(uint32_t type);

shoal_status shoal_forge_profile_json(const forge_profile *profile,
                                      shoal_buf *buf) SHOAL_MUST_CHECK;

/* ret_profile is the caller's, some 30 KiB. source is the text's name in errors. */
shoal_status shoal_forge_profile_parse(const char *source, const char *text, size_t n,
                                       forge_profile *ret_profile, shoal_err *err) SHOAL_MUST_CHECK;
/* One for shoal_free. */
shoal_status shoal_forge_profile_load(const char *path, forge_profile **ret_profile,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* The run of so many threads, or NULL. */
const forge_profile_run *shoal_forge_profile_run(const forge_profile *profile, size_t n_threads);

#endif
