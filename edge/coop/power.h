/* SPDX-License-Identifier: Apache-2.0
 *
 * A meter of what the device draws: a counter of energy or a reading of power that the kernel, or
 * whoever knows, keeps in a file. Intervals are measured from one look at it to the next; what is
 * done with them is edge/coop/energy.h. Every look opens the file anew, so that one that is
 * replaced or comes back is found. One thread; a look reads files, some microseconds where they are
 * the kernel's own.
 */
#ifndef SHOAL_COOP_POWER_H
#define SHOAL_COOP_POWER_H

#include "common/base/err.h"
#include "common/base/macros.h"

#include <stdint.h>

typedef enum shoal_power_kind {
    SHOAL_POWER_NONE,
    SHOAL_POWER_RAPL, /* a folder with intel-rapl:N/{energy_uj,max_energy_range_uj}, all packages
                       * added up; counters go round */
    SHOAL_POWER_ENERGY_UJ, /* a file with a counter of microjoules: hwmon's energyN_input */
    SHOAL_POWER_UW, /* a file with microwatts: hwmon's powerN_input, power_supply's power_now */
    SHOAL_POWER_W,  /* a file with watts, "3.25" */
    SHOAL_POWER_KINDS
} shoal_power_kind;

enum {
    SHOAL_POWER_ZONES_MAX = 16, /* packages of SHOAL_POWER_RAPL */
    SHOAL_POWER_TEXT_MAX = 31,  /* bytes of a file, its newline included */
    SHOAL_POWER_PATH_MAX = 255  /* bytes of a path */
};

/* Where Linux keeps RAPL. */
#define SHOAL_POWER_RAPL_PATH "/sys/class/powercap"

/* More than that is no device's: the reading is refused. Watts. */
#define SHOAL_POWER_W_MAX 10000.0

typedef struct shoal_power shoal_power;

/* "none", "rapl", "energy_uj", "power_uw", "power_w". */
const char *shoal_power_kind_name(shoal_power_kind kind);
shoal_status shoal_power_kind_parse(const char *name, shoal_power_kind *ret_kind) SHOAL_MUST_CHECK;

/* Looks once, so that a meter that is not there is told at once. path NULL or "": RAPL's own.
 * SHOAL_E_NOTFOUND, SHOAL_E_IO, SHOAL_E_INVALID, SHOAL_E_LIMIT name the file and what helps. */
shoal_status shoal_power_open(shoal_power_kind kind, const char *path, shoal_power **ret_power,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* Accepts NULL. */
void shoal_power_close(shoal_power *power);

/* Ends an interval and begins the next one. SHOAL_OK: so many microjoules were drawn in it, from
 * counters their difference, from power the mean of its two ends times its length. SHOAL_MORE: one
 * begins here, of what was before nothing is known: the first look, one after a failure, or a
 * counter that went back without going round. Failures as by shoal_power_open: the file is gone or
 * holds no such number; the next look that succeeds begins anew. */
shoal_status shoal_power_take(shoal_power *power, uint64_t now_ns, double *ret_uj,
                              shoal_err *err) SHOAL_MUST_CHECK;
/* The next look begins anew: between two times that are measured. */
void shoal_power_skip(shoal_power *power);

#endif
