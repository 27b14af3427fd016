/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge kv-calibrate: the KV of a model along a text, and a basis of the archive
 * level fitted to it.
 */
#ifndef SHOAL_FORGE_KV_FIT_H
#define SHOAL_FORGE_KV_FIT_H

#include "cloud/forge/forge.h"
#include "common/archive/plan.h"

enum {
    KV_FIT_BYTES_MAX = 1 << 30 /* of rows */
};

/* What a model remembers of a text: a row for each token, its keys with their rotation taken back.
 * Zeroed memory is none. */
typedef struct kv_rows {
    size_t n;
    size_t n_channels; /* of all layers; a layer's heads one after the other, key and value each */
    float *x;          /* (n, n_channels) */
    double *weights;   /* (n_layers, 2) what an error of one costs: keys, values */
} kv_rows;

/* The session has KV in f32 and rows and logits for 64 tokens. alike: what an error costs is not
 * measured, all cost 1. Says how far it is on stderr. */
shoal_status shoal_forge_kv_collect(forge_session *s, const int32_t *ids, size_t n_ids, bool alike,
                                    const shoal_archive_plan *plan, kv_rows *ret_rows,
                                    shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_kv_rows_fini(kv_rows *rows);

/* Fills plan's groups and tables; its model, shape, rotation, bits and the groups' n_layers are
 * set. The rows become components. */
shoal_status shoal_forge_kv_fit(kv_rows *rows, shoal_archive_plan *plan,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* What fit allocated. */
void shoal_forge_kv_plan_fini(shoal_archive_plan *plan);

#endif
