/* SPDX-License-Identifier: Apache-2.0
 *
 * A token sequence through a model, heard at every depth: logits of each position at every exit
 * and at the full depth. For those who measure and fit (calibrate, eval), not for serving: it
 * computes every head of every position. One thread at a time.
 */
#ifndef SHOAL_FORGE_DEPTHS_H
#define SHOAL_FORGE_DEPTHS_H

#include "cloud/forge/forge.h"

enum {
    FORGE_DEPTHS_ROWS = 64 /* positions that go through a layer together */
};

typedef struct forge_depths forge_depths;

/* Scratch for the session's model. The session is borrowed, its sequence is used; it was opened for
 * steps of at least FORGE_DEPTHS_ROWS rows, and its adapter, if any, is in every position. */
shoal_status shoal_forge_depths_new(const forge_session *session, size_t n_threads,
                                    forge_depths **ret_depths, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_depths_free(forge_depths *depths);
SHOAL_DEFINE_CLEANUP(forge_depths, shoal_forge_depths_free)

/* Exits of the model and the full depth: heads are 0 .. n_exits - 1 in ascending depth, then the
 * full one. */
size_t shoal_forge_depths_n_heads(const forge_depths *depths);
/* Layers below a head as a share of all, in (0, 1]; 1 is the full depth. */
float shoal_forge_depths_share(const forge_depths *depths, size_t head);

/* Hears the logits (n_vocab, borrowed for the call) that follow ids[position]: they speak of
 * ids[position + 1]. What is not SHOAL_OK ends the run. */
typedef shoal_status forge_depths_fn(void *ctx, size_t position, size_t head, const float *logits);

/* Runs ids from position 0 on anew and tells fn every position from first_position on at every
 * head: per head positions ascend; heads of one position ascend, but other positions (of the same
 * FORGE_DEPTHS_ROWS) may lie between. ids in [0, n_vocab), n at most the context. The bits are
 * those of shoal_engine_step at the full depth, whatever the chunks are. */
shoal_status shoal_forge_depths_run(forge_depths *depths, const int32_t *ids, size_t n,
                                    size_t first_position, forge_depths_fn *fn, void *ctx,
                                    shoal_err *err) SHOAL_MUST_CHECK;

#endif
