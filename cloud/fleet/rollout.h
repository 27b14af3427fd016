/* SPDX-License-Identifier: Apache-2.0
 *
 * Which devices are to have which bundle: a text of lines "FOLDER PERCENT [IDENTITY]", read anew
 * when it changed. A device is in a share by a hash of its identity and the bundle's serial: the
 * same on every node and at every time, another set of devices for each bundle, and a share that
 * grows keeps those it has. Pure, any thread.
 */
#ifndef SHOAL_CLOUD_FLEET_ROLLOUT_H
#define SHOAL_CLOUD_FLEET_ROLLOUT_H

#include "common/base/macros.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_ROLLOUT_LINES_MAX = 256,
    SHOAL_ROLLOUT_TEXT_MAX = 64 << 10, /* bytes */
    SHOAL_ROLLOUT_NAME_MAX = 64,       /* bytes of a folder's name */
    SHOAL_ROLLOUT_IDENTITY_MAX = 127,  /* bytes of an identity */
    SHOAL_ROLLOUT_ALL = 10000          /* a share of 100 percent */
};

typedef struct shoal_rollout_line {
    char folder[SHOAL_ROLLOUT_NAME_MAX + 1];       /* [A-Za-z0-9._-], not beginning with '.' */
    uint32_t share;                                /* 0..SHOAL_ROLLOUT_ALL */
    char identity[SHOAL_ROLLOUT_IDENTITY_MAX + 1]; /* whole, or with '*' at its end; "": every */
} shoal_rollout_line;

typedef struct shoal_rollout {
    shoal_rollout_line lines[SHOAL_ROLLOUT_LINES_MAX];
    size_t n_lines;
} shoal_rollout;

/* Empty lines and what follows a '#' do not count. SHOAL_E_INVALID names the line; SHOAL_E_NOMEM.
 */
shoal_status shoal_rollout_parse(const char *text, size_t n, shoal_rollout **ret_rollout,
                                 shoal_err *err) SHOAL_MUST_CHECK;
void shoal_rollout_free(shoal_rollout *rollout);
SHOAL_DEFINE_CLEANUP(shoal_rollout, shoal_rollout_free)

/* A device's place among SHOAL_ROLLOUT_ALL, for one bundle. */
uint32_t shoal_rollout_place(const char *identity, uint64_t serial);
/* Whether a device has the bundle of this folder: the first line of the folder whose identity is
 * the device's says with which share. */
bool shoal_rollout_has(const shoal_rollout *rollout, const char *folder, uint64_t serial,
                       const char *identity);

#endif
