/* SPDX-License-Identifier: Apache-2.0
 *
 * The OpenAI-compatible API over the generation service: routes, requests, streams, status. It is
 * the handler of a shoal_http_server. Loop-only; events of the engine thread come in through a
 * bounded queue, and large bodies are read by a worker of its own, so the loop never computes.
 */
#ifndef SHOAL_HTTP_API_H
#define SHOAL_HTTP_API_H

#include "common/redact/redact.h"
#include "edge/coop/coop.h"
#include "protocol/http/server.h"

typedef struct shoal_api_settings {
    const char *model_id;    /* what clients call the model, copied; at most 127 bytes */
    const char *version;     /* of the program, static */
    const char *api_key;     /* bearer token all but /health and /ready need; NULL or "": none */
    shoal_mode mode_default; /* when a request does not say */
    size_t n_tokens_default; /* answer length of a chat that does not say; default 512 */
    size_t n_calls_max;      /* generations the API keeps books for; default 512 */
    size_t n_waiting_max;    /* of the generation service: full means not ready; default 32 */
    size_t inline_bytes_max; /* bodies up to this are read on the loop; default 64 KiB */
    uint64_t deadline_ms;    /* of one generation, 0: none; default 600000 */
    uint32_t priority;  /* when a request does not say, 0..SHOAL_WIRE_PRIORITY_MAX; default 0 */
    uint64_t replay_ms; /* how long a stream is held for a client that comes back, after its
                         * end or its client's; 0: not at all; default 10000 */
    size_t replay_bytes_max; /* tokens held of all streams; default 8 MiB */
    size_t n_detached_max;   /* generations that go on without a client; for one more the one that
                              * is given up soonest ends. 0: none goes on; default 4 */
    bool cancel_on_gone;     /* a client that leaves cancels, unless its request says otherwise;
                              * default false: it has replay_ms to come back */
    const shoal_redact_rules *redact; /* what leaves in no mode but local; borrowed; NULL: nothing
                                       * is held back */
    size_t session_bytes_max;         /* of a session that is loaded; default 64 MiB */
    bool link_switch;                 /* POST /v1/shoal/link may cut the cloud; default false */
} shoal_api_settings;
shoal_api_settings shoal_api_settings_default(void);

typedef struct shoal_api shoal_api;

/* What somebody is told of answers and of what gave them; on the loop. Each may be NULL. */
typedef struct shoal_api_watch {
    /* A generation of coop has ended, with SHOAL_OK or with why it failed. */
    void (*on_answer)(void *ctx, const shoal_coop *coop, shoal_status status);
    /* No call knows coop any more, and it is not used for new ones. */
    void (*on_unused)(void *ctx, const shoal_coop *coop);
    /* Appends a JSON value of what keeps the model up to date, to the status. */
    shoal_status (*put_bundle)(void *ctx, shoal_buf *buf);
    void *ctx;
} shoal_api_watch;

/* loop and metrics are borrowed for the API's life, coop and model until they are unused; metrics
 * may be NULL. on_drained (may be NULL) runs when the server has sent everything while draining. */
shoal_status shoal_api_new(shoal_loop *loop, shoal_coop *coop, const shoal_model *model,
                           shoal_metrics *metrics, const shoal_api_settings *settings,
                           shoal_api **ret_api, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_api_set_on_drained(shoal_api *api, void (*fn)(void *ctx), void *ctx);
void shoal_api_set_watch(shoal_api *api, const shoal_api_watch *watch);
/* Calls that begin from now on are of this model; those under way stay with theirs to their end,
 * and so does what a client reads again. What clients call the model stays. Borrowed as above.
 * SHOAL_E_NOMEM: nothing has changed. */
shoal_status shoal_api_use(shoal_api *api, shoal_coop *coop, const shoal_model *model,
                           shoal_mode mode_default) SHOAL_MUST_CHECK;
shoal_http_handler shoal_api_handler(shoal_api *api);
/* Not ready, and no new generations, from now on. */
void shoal_api_drain(shoal_api *api);
/* Ends every generation; their clients are told why. */
void shoal_api_cancel_all(shoal_api *api);
/* Generations whose books are open. */
size_t shoal_api_n_calls(const shoal_api *api);
/* The server is freed and coop has stopped before: no event comes any more. */
void shoal_api_free(shoal_api *api);

#endif
