/* SPDX-License-Identifier: Apache-2.0
 *
 * A model with what generates with it: of the file that model.path names, or of a bundle, whose
 * tests are asked first. One is in use; another may be made beside it, and takes its place between
 * two requests (shoal_api_use).
 */
#ifndef SHOAL_EDGE_DAEMON_DECK_H
#define SHOAL_EDGE_DAEMON_DECK_H

#include "common/config/config.h"
#include "edge/coop/coop.h"
#include "protocol/bundle/bundle.h"

typedef struct shoal_deck {
    struct shoal_deck *next; /* of those that are not freed; the owner's */
    shoal_model *model;
    shoal_lora *lora;        /* a bundle's, of all requests; NULL: none */
    shoal_adapters adapters; /* of which requests may choose; none with a bundle */
    shoal_coop *coop;
    bool calibrated;           /* the model's file says when to ask the cloud */
    shoal_coop_totals carried; /* of coop's totals, what the next one has been told */
} shoal_deck;

/* Any thread; blocks. folder and bundle NULL: of model.path; traffic as in shoal_coop_settings. A
 * prefix that is not of this edge's
 * form of KV is left out, and a log line says so. SHOAL_E_INVALID: a test is answered otherwise. */
shoal_status shoal_deck_new(const shoal_config *config, const char *folder,
                            const shoal_bundle *bundle, shoal_traffic *traffic,
                            shoal_metrics *metrics, shoal_deck **ret_deck,
                            shoal_err *err) SHOAL_MUST_CHECK;
/* Stops what generates, if it has not been; blocks. NULL is allowed. */
void shoal_deck_free(shoal_deck *deck);
SHOAL_DEFINE_CLEANUP(shoal_deck, shoal_deck_free)

/* What from has generated and spent since it last carried counts as to's own; first: with what of
 * the budgets is used. */
void shoal_deck_carry(shoal_deck *from, shoal_deck *to, bool first);

#endif
