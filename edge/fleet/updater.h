/* SPDX-License-Identifier: Apache-2.0
 *
 * Keeps an edge at the bundle that its cloud has for it: asks from time to time, fetches, checks
 * every byte, has the model made and asked its tests beside the one that runs, gives it to those
 * who generate, watches it for a while, and goes back where it fails. A thread of its own does all
 * that blocks. It knows no engine: what is made of a bundle is its owner's, behind hooks.
 *
 * What failed is never tried again: a serial that was whole here once is not taken a second time.
 */
#ifndef SHOAL_EDGE_FLEET_UPDATER_H
#define SHOAL_EDGE_FLEET_UPDATER_H

#include "common/base/buf.h"
#include "common/obs/metrics.h"
#include "protocol/bundle/bundle.h"
#include "protocol/rpc/rpc.h"

typedef struct shoal_updater_settings {
    const char *folder;   /* of shoal_store */
    const char *key_path; /* PEM file of the public keys that are trusted */
    const char *family;   /* of bundles that are taken */
    const char *target;   /* of the cloud; strings are borrowed for the updater's life */
    shoal_rpc_tls tls;
    uint64_t poll_ms;    /* between two looks at the cloud, a quarter more or less; at least 1 */
    uint32_t program[3]; /* our version */
    uint32_t n_failures; /* failed answers in a row that end a trial; at least 1 */
    uint32_t n_answers;  /* good ones that a trial takes; at least 1 */
} shoal_updater_settings;

/* On the updater's thread; may block. */
typedef struct shoal_updater_hooks {
    /* Makes what generates, of the bundle in this folder (NULL: of the model it was installed
     * with), and asks it the bundle's tests. */
    shoal_status (*prepare)(void *ctx, const char *folder, const shoal_bundle *bundle,
                            void **ret_deck, shoal_err *err);
    /* Answers that begin from now on are of it. */
    void (*use)(void *ctx, void *take_deck);
    /* Nobody knows it any more. */
    void (*retire)(void *ctx, void *take_deck);
    void *ctx;
} shoal_updater_hooks;

typedef struct shoal_updater shoal_updater;

/* Reads keys and state. metrics may be NULL. */
shoal_status shoal_updater_new(const shoal_updater_settings *settings, shoal_metrics *metrics,
                               shoal_updater **ret_updater, shoal_err *err) SHOAL_MUST_CHECK;
/* Before start: what to begin with, *ret_folder (for shoal_free) and *ret_bundle, checked; both
 * NULL: the installed model. */
shoal_status shoal_updater_first(shoal_updater *updater, char **ret_folder,
                                 shoal_bundle **ret_bundle, shoal_err *err) SHOAL_MUST_CHECK;
/* Before start: that one cannot be used; ask again for another. */
shoal_status shoal_updater_first_failed(shoal_updater *updater, const shoal_err *why,
                                        shoal_err *err) SHOAL_MUST_CHECK;
/* Starts the thread. */
shoal_status shoal_updater_start(shoal_updater *updater, const shoal_updater_hooks *hooks,
                                 shoal_err *err) SHOAL_MUST_CHECK;
/* Ends the thread, retiring what waits for it. */
void shoal_updater_stop(shoal_updater *updater);
void shoal_updater_free(shoal_updater *updater);

/* Any thread. An answer of what is in use has ended. */
void shoal_updater_answered(shoal_updater *updater, bool failed);
/* Any thread. Has the deck retired on the updater's thread. SHOAL_E_NOMEM: it is the caller's. */
shoal_status shoal_updater_retire(shoal_updater *updater, void *take_deck) SHOAL_MUST_CHECK;
/* Any thread. Appends a JSON object of what is known. */
shoal_status shoal_updater_put_status(shoal_updater *updater, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
