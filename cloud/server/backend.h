/* SPDX-License-Identifier: Apache-2.0
 *
 * What finds out the next tokens of a node's sessions: `native`, this repository's engine behind
 * the batch, or `upstream`, another engine over HTTP. The node owns sessions and calls; a back end
 * is told of sessions and, in step, gives each the tokens it waits for. Nothing here may block
 * longer than one engine step. Engine-only.
 */
#ifndef SHOAL_CLOUD_SERVER_BACKEND_H
#define SHOAL_CLOUD_SERVER_BACKEND_H

#include "cloud/admit/admit.h"
#include "cloud/server/session.h"
#include "common/base/clock.h"

typedef struct shoal_backend_ops {
    const char *name; /* told in Describe: "native", "upstream" */
    /* Fills all that depends on the model, verify included; name, backend and protocol are the
     * node's. */
    void (*describe)(const void *ctx, shoal_describe *ret_describe);
    /* Sessions are borrowed until removed; age counts from here. SHOAL_BUSY: no place. */
    shoal_status (*add)(void *ctx, shoal_session *session, uint64_t now_ms);
    void (*remove)(void *ctx, shoal_session *session);
    /* The session has heard from its edge. */
    void (*touch)(void *ctx, const shoal_session *session, uint64_t now_ms);
    /* A held session gets no work: its edge does not read fast enough. */
    void (*hold)(void *ctx, const shoal_session *session, bool hold);
    /* Begins texts with what is there of them, so that it is known what sessions wait for; step
     * does it too where this was not called. NULL: nothing is there. */
    void (*look)(void *ctx, const shoal_clock *clock);
    /* SHOAL_OK: something was done, call again. SHOAL_EOF: nothing to do until a message or a wake.
     * SHOAL_BUSY: nothing can be done now, try again a little later. A failure that is a session's
     * ends that session, and the step is SHOAL_OK. */
    shoal_status (*step)(void *ctx, const shoal_clock *clock);
    /* What admission must know of it, as of the last step. io_load has the tokens that sessions
     * wait for and how many sessions decode; it puts in what of that it can do in a step, and what
     * such a step costs and holds. */
    void (*load)(const void *ctx, shoal_admit_load *io_load);
    /* Share of the tokens of prompts that need not be computed, as of the last ones, 0..1. */
    double (*found)(const void *ctx);
    void (*free)(void *ctx);
} shoal_backend_ops;

/* A zeroed back end is none. */
typedef struct shoal_backend {
    const shoal_backend_ops *ops;
    void *ctx;
    shoal_engine *engine; /* these five as in shoal_session_env */
    shoal_sampler *sampler;
    shoal_form_words *words;
    const shoal_adapters *adapters;
    const shoal_tokenizer *tokenizer;
} shoal_backend;

#endif
