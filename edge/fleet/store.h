/* SPDX-License-Identifier: Apache-2.0
 *
 * The bundles of an edge on its flash, and what is known of them: which one runs, which one ran
 * before, which one is to be tried, the highest serial it has ever had. Every change is written,
 * synced and renamed before it counts, so a power cut leaves the state before or after.
 *
 *   FOLDER/state         what is known, as text
 *   FOLDER/incoming/     a bundle on its way: its manifest, and files as far as they have come
 *   FOLDER/bundles/7/    a bundle whose every byte was checked
 *
 * Blocks on files; one thread at a time.
 */
#ifndef SHOAL_EDGE_FLEET_STORE_H
#define SHOAL_EDGE_FLEET_STORE_H

#include "protocol/bundle/bundle.h"

enum {
    SHOAL_STORE_TRIES_MAX = 3 /* starts of a bundle that did not come to an end */
};

/* Serials; 0: none, or the model of model.path. */
typedef struct shoal_store_state {
    uint64_t current;  /* runs */
    uint64_t previous; /* ran before it */
    uint64_t highest;  /* greatest that was ever whole here: nothing up to it is taken again */
    uint64_t trying;   /* whole, and not yet known to run */
    uint64_t tries;    /* how often that was begun */
    uint64_t trial;    /* starts since current came to run, while it is on trial; 0: it is not */
    uint64_t failed;   /* the last that was given up */
} shoal_store_state;

typedef struct shoal_store shoal_store;

/* Makes what is missing of the folder. A state that cannot be read is begun anew with the highest
 * serial that lies there, *ret_lost (may be NULL) is then true. */
shoal_status shoal_store_open(const char *folder, shoal_store **ret_store, bool *ret_lost,
                              shoal_err *err) SHOAL_MUST_CHECK;
void shoal_store_free(shoal_store *store);
SHOAL_DEFINE_CLEANUP(shoal_store, shoal_store_free)

const shoal_store_state *shoal_store_state_of(const shoal_store *store);
/* Writes it; on failure the state is as before. */
shoal_status shoal_store_put(shoal_store *store, const shoal_store_state *state,
                             shoal_err *err) SHOAL_MUST_CHECK;
/* FOLDER/bundles/SERIAL, for shoal_free; NULL: no memory. */
char *shoal_store_bundle_path(const shoal_store *store, uint64_t serial);
const char *shoal_store_incoming(const shoal_store *store);

/* Signature, text, and every file's content. The path is shoal_store_bundle_path's. */
shoal_status shoal_store_check(const char *path, const shoal_bundle_keys *keys, uint64_t serial,
                               const atomic_bool *stop, shoal_bundle **ret_bundle,
                               shoal_err *err) SHOAL_MUST_CHECK;

/* Makes incoming the place of this manifest: what lies there of another is removed. */
shoal_status shoal_store_begin(shoal_store *store, const void *manifest, size_t n_manifest,
                               const void *signature, size_t n_signature,
                               shoal_err *err) SHOAL_MUST_CHECK;
/* Bytes of a file that have come; more than it has are none. */
shoal_status shoal_store_have(const shoal_store *store, const shoal_bundle_file *file,
                              uint64_t *ret_n, shoal_err *err) SHOAL_MUST_CHECK;
/* Whether the folder has room for n more bytes and a little. SHOAL_E_EXHAUSTED says what it has. */
shoal_status shoal_store_check_room(const shoal_store *store, uint64_t n,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* Incoming is whole and was checked: it becomes a bundle, to be tried. */
shoal_status shoal_store_commit(shoal_store *store, const shoal_bundle *bundle,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* Forgets what has come. */
void shoal_store_drop_incoming(shoal_store *store);
/* Removes bundles that are neither current, previous nor to be tried. */
void shoal_store_tidy(shoal_store *store);

#endif
