/* SPDX-License-Identifier: Apache-2.0
 *
 * The back end `native`: this repository's engine, its sampler, and the batch over both.
 */
#ifndef SHOAL_CLOUD_SERVER_NATIVE_H
#define SHOAL_CLOUD_SERVER_NATIVE_H

#include "cloud/server/backend.h"
#include "cloud/server/batch.h"

/* model, adapters (NULL: none) and metrics are borrowed for the back end's life; engine's room for
 * adapters is made by them. public_files as in shoal_public_read. */
shoal_status shoal_native_new(const shoal_model *model, const shoal_adapters *adapters,
                              const shoal_engine_settings *engine,
                              const shoal_batch_settings *batch, const char *public_files,
                              const shoal_cloud_metrics *metrics, shoal_backend *ret_backend,
                              shoal_err *err) SHOAL_MUST_CHECK;

#endif
