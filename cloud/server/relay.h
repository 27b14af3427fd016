/* SPDX-License-Identifier: Apache-2.0
 *
 * The back end `upstream`: sessions served by another engine over HTTP (cloud/upstream). Each
 * session with work has at most one call under way: a continuation, whose tokens it takes as they
 * come, or the judgement of its drafts. A call that no longer fits its session (the edge rolled
 * back, cancelled, or does not read) is dropped, and begun anew from the session's confirmed
 * tokens: nothing else is remembered (R3). Engine-only.
 *
 * When calls are short, cloud/sched says whose turn it is, as of the samples of a step: shares of
 * tenants, and within one priority, deadline and waiting. A tenant is charged for the tokens that
 * come. How long a session will have to wait is predicted from how long calls take, which is
 * measured: the time that calls were under way, those included that are still, by those that
 * ended.
 */
#ifndef SHOAL_CLOUD_SERVER_RELAY_H
#define SHOAL_CLOUD_SERVER_RELAY_H

#include "cloud/server/backend.h"
#include "cloud/server/metrics.h"
#include "cloud/upstream/upstream.h"

typedef struct shoal_relay_settings {
    size_t n_sessions_max; /* at least 1 */
    size_t n_ctx; /* tokens of one session, prompt included; 0: what the engine says, else */
    size_t n_ctx_trained; /* this; 0: not known */
    size_t n_retries; /* failures in a row, without a token between them, before a session ends */
} shoal_relay_settings;

enum {
    SHOAL_RELAY_RETRIES_MAX = 100,
    SHOAL_RELAY_RETRY_MS_MIN = 100,  /* before the first new try; doubled each time */
    SHOAL_RELAY_RETRY_MS_MAX = 10000 /* also when the engine asks for more */
};

/* Takes the client in any case. metrics is borrowed for the back end's life. wake is called from
 * any thread when a step could do something, until the back end is freed. SHOAL_E_INVALID: no
 * context length is known. */
shoal_status shoal_relay_new(shoal_upstream *take_upstream, const shoal_relay_settings *settings,
                             const shoal_cloud_metrics *metrics, void (*wake)(void *ctx),
                             void *wake_ctx, shoal_backend *ret_backend,
                             shoal_err *err) SHOAL_MUST_CHECK;

/* The vocabulary of a GGUF, with or without tensors, and the context length it was trained for (0:
 * it does not say). */
shoal_status shoal_relay_open_tokenizer(const char *path, shoal_tokenizer **ret_tokenizer,
                                        size_t *ret_n_ctx, shoal_err *err) SHOAL_MUST_CHECK;

#endif
