/* SPDX-License-Identifier: Apache-2.0
 *
 * Computes prompts with the model that edges run, and ships their KV (SPEC.md, section 11): a slow
 * edge then answers without computing them. One thread owns an engine of its own beside the node's;
 * requests come from any thread, answers leave through each one's peer table, on that thread. It
 * knows no gRPC, so a test can be the peer.
 *
 * A call that is cut leaves its text's KV here for a while, promised to whoever of the tenant asks
 * for the same text again, from any record of the blob; where it is gone, it is computed again.
 *
 * Blocks leave as they fill: the first are on their way while the next are computed. What was
 * computed is kept for the next prompt that begins alike, of the same tenant (R10). A shipment
 * costs nobody else a wrong token: it reads no session and none reads it.
 *
 * Where the operator gave a basis, an edge of the same one may ask for archived blocks (KVWIRE.md):
 * they are coded as they leave, on the ship's thread; what is kept here stays exact.
 */
#ifndef SHOAL_CLOUD_SHIP_SHIP_H
#define SHOAL_CLOUD_SHIP_SHIP_H

#include "common/base/clock.h"
#include "common/engine/engine.h"
#include "common/obs/metrics.h"
#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

enum {
    SHOAL_SHIP_JOBS_MAX = 256
};

/* For tests: what happens to one part of each blob. */
typedef enum shoal_ship_fault {
    SHOAL_SHIP_FAULT_NONE,
    SHOAL_SHIP_FAULT_DROP,   /* it does not leave */
    SHOAL_SHIP_FAULT_REPEAT, /* it leaves twice */
    SHOAL_SHIP_FAULT_CUT,    /* half of its bytes leave */
    SHOAL_SHIP_FAULT_END,    /* the call ends behind it as if that were all */
    SHOAL_SHIP_FAULT_LOSE    /* the call ends behind it as if this node were gone */
} shoal_ship_fault;

typedef struct shoal_ship_settings {
    shoal_engine_settings engine; /* n_rows_max and n_logits_max are set here */
    const char *archive_path; /* basis for edges that ask for archived KV, borrowed for the making;
                               * NULL: none */
    size_t n_jobs_max;        /* shipments at once, 1..SHOAL_SHIP_JOBS_MAX, default 8 */
    uint64_t lease_ms;        /* what a cut call had is kept for so long; 0: not; default 10000 */
    unsigned prefix_percent;  /* of the KV that earlier texts may keep, 0..100, default 50 */
    uint64_t fault_flip_at;   /* for tests: a bit of this byte of each blob, 1 the first; 0: none */
    shoal_ship_fault fault;
    uint64_t fault_part; /* the so-manieth part, 1 the first; a blob of fewer has none */
    shoal_clock clock;   /* default real */
} shoal_ship_settings;
shoal_ship_settings shoal_ship_settings_default(void);

typedef struct shoal_ship shoal_ship;
typedef struct shoal_shipment shoal_shipment;

/* How a request is answered. None may block or call back into the ship. */
typedef struct shoal_ship_peer {
    /* SHOAL_OK; SHOAL_BUSY: taken, but send no more until shoal_shipment_drained; else not taken,
     * and the shipment is over. */
    shoal_status (*send)(void *ctx, const shoal_msg_kv_part *part);
    void (*finish)(void *ctx, shoal_rpc_status status, const char *text); /* once */
    void (*release)(void *ctx); /* last, after shoal_shipment_gone */
    void *ctx;
    char tenant[128]; /* identity of the authenticated peer, "" otherwise */
} shoal_ship_peer;

/* model is borrowed for the ship's life. registry may be NULL. Starts the thread. SHOAL_E_INVALID:
 * a number out of range; SHOAL_E_UNSUPPORTED: a model of which not all KV stays (windows), or a
 * basis for KV that is not f16; else a basis fails as shoal_archive_open says. */
shoal_status shoal_ship_new(const shoal_model *model, const shoal_ship_settings *settings,
                            shoal_metrics *registry, shoal_ship **ret_ship,
                            shoal_err *err) SHOAL_MUST_CHECK;
/* Every shipment is gone by then. */
void shoal_ship_free(shoal_ship *ship);
SHOAL_DEFINE_CLEANUP(shoal_ship, shoal_ship_free)

/* What Describe tells of it. Any thread. */
shoal_edge_kv shoal_ship_describe(const shoal_ship *ship);
size_t shoal_ship_n_vocab(const shoal_ship *ship); /* bounds ids: for decoding */

/* Any thread. The request is taken with SHOAL_OK, peer is copied; what is wrong with it is said by
 * finish. SHOAL_BUSY: n_jobs_max are under way, or half of them, at least one, of this tenant;
 * SHOAL_E_NOMEM. From here on the caller must end with shoal_shipment_gone. */
shoal_status shoal_ship_accept(shoal_ship *ship, const shoal_ship_peer *peer,
                               shoal_msg_kv_request *take_request,
                               shoal_shipment **ret_shipment) SHOAL_MUST_CHECK;
/* The peer reads again after send said SHOAL_BUSY. Any thread. */
void shoal_shipment_drained(shoal_shipment *shipment);
/* The call is over, once, last: it must not be used after. Any thread. */
void shoal_shipment_gone(shoal_shipment *shipment);
/* Shipments that are not gone. Any thread. */
size_t shoal_ship_n_jobs(shoal_ship *ship);
/* Cut ones whose KV is held. Any thread. */
size_t shoal_ship_n_held(const shoal_ship *ship);

#endif
