/* SPDX-License-Identifier: Apache-2.0
 *
 * The bundles of a folder as they were when it was read: those that its file `rollout` names, with
 * manifests and signatures as bytes. What is signed is for the edges to judge; that the files are
 * there with their sizes is looked at here, so that a half-copied folder is refused by its owner.
 * Immutable and counted; any thread.
 */
#ifndef SHOAL_CLOUD_FLEET_CATALOGUE_H
#define SHOAL_CLOUD_FLEET_CATALOGUE_H

#include "cloud/fleet/rollout.h"
#include "protocol/bundle/bundle.h"

#define SHOAL_FLEET_ROLLOUT "rollout" /* file of the folder */

typedef struct shoal_fleet_entry {
    char *path; /* of the bundle's folder */
    const char *name;
    shoal_bundle *bundle;
    shoal_buf manifest;
    shoal_buf signature;
} shoal_fleet_entry;

typedef struct shoal_catalogue {
    atomic_int refs;
    shoal_rollout *rollout;
    shoal_fleet_entry *entries; /* [n_entries], the greatest serial first */
    size_t n_entries;
} shoal_catalogue;

/* Errors name the file; two bundles of one family with one serial are one too many. */
shoal_status shoal_catalogue_read(const char *folder, shoal_catalogue **ret_catalogue,
                                  shoal_err *err) SHOAL_MUST_CHECK;
shoal_catalogue *shoal_catalogue_ref(shoal_catalogue *catalogue);
void shoal_catalogue_unref(shoal_catalogue *catalogue);
SHOAL_DEFINE_CLEANUP(shoal_catalogue, shoal_catalogue_unref)

/* The newest bundle of a family ("": any) that is for this device; serial 0: whichever, else that
 * one. NULL: there is none. */
const shoal_fleet_entry *shoal_catalogue_find(const shoal_catalogue *catalogue, const char *family,
                                              uint64_t serial, const char *identity);

#endif
