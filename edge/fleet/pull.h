/* SPDX-License-Identifier: Apache-2.0
 *
 * The edge's side of FetchBundle (SPEC.md, section 12), on a connection that lives as long as one
 * look at the cloud. Blocks: for a thread of its own.
 */
#ifndef SHOAL_EDGE_FLEET_PULL_H
#define SHOAL_EDGE_FLEET_PULL_H

#include "protocol/bundle/bundle.h"
#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

typedef struct shoal_pull shoal_pull;

/* target and tls are borrowed for the pull's life; stop ends what waits, seen within a moment. */
shoal_status shoal_pull_new(const char *target, const shoal_rpc_tls *tls, const atomic_bool *stop,
                            shoal_pull **ret_pull, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_pull_free(shoal_pull *pull);
SHOAL_DEFINE_CLEANUP(shoal_pull, shoal_pull_free)

/* One call. fn takes each part, in order; what it fails with ends the call and is returned. The
 * statuses of a call that the cloud ended: SHOAL_E_NOTFOUND, SHOAL_E_AUTH (not for this device),
 * SHOAL_E_UNSUPPORTED (it serves no bundles), SHOAL_E_UNAVAILABLE for all that may be better later;
 * SHOAL_E_DEADLINE when nothing came for a minute; SHOAL_E_CANCELLED: stopped. */
shoal_status shoal_pull_run(shoal_pull *pull, const shoal_msg_bundle_request *request,
                            shoal_status (*fn)(void *ctx, const shoal_msg_bundle_part *part,
                                               shoal_err *err),
                            void *ctx, shoal_err *err) SHOAL_MUST_CHECK;

/* What is missing of a file, behind the n bytes that path has, appended and synced. *inout_bytes
 * (may be NULL) grows by what came. SHOAL_E_EXHAUSTED: the disk is full. */
shoal_status shoal_pull_file(shoal_pull *pull, const shoal_msg_bundle_request *request,
                             const char *path, const shoal_bundle_file *file, uint64_t *inout_bytes,
                             shoal_err *err) SHOAL_MUST_CHECK;

#endif
