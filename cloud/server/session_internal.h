/* SPDX-License-Identifier: Apache-2.0
 *
 * A session's own parts, for session.c and session_open.c alone.
 */
#ifndef SHOAL_CLOUD_SERVER_SESSION_INTERNAL_H
#define SHOAL_CLOUD_SERVER_SESSION_INTERNAL_H

#include "cloud/server/session.h"

typedef enum session_state {
    SESSION_NEW, /* waits for Open */
    SESSION_OPEN,
    SESSION_DONE
} session_state;

struct shoal_session {
    shoal_session_env env;
    shoal_session_out out;
    session_state state;
    bool ended;       /* the last of H is an end token we sampled or accepted */
    bool half_closed; /* the peer will send no more */
    bool ends;        /* the session is over with its text */
    uint32_t epoch;
    int32_t *ids;     /* [capacity]: H, then the queued drafts */
    uint8_t *shares;  /* [capacity]: our confidence in each own or accepted token of H, behind H
                       * the edge's in the drafts, in 255ths */
    size_t capacity;  /* n_tokens_max of Open */
    size_t n_ids;     /* length of H */
    size_t n_drafts;  /* drafts of this epoch at [n_ids, n_ids + n_drafts) */
    size_t n_guesses; /* without drafts: tokens there that may turn out to be our own */
    bool weighed;     /* the edge has said how sure it is of its drafts */
    size_t decode_to; /* decode until H is this long */
    uint64_t deadline_ms;
    unsigned priority;
    size_t n_published; /* tokens of the KV that the prefix cache was shown */
    shoal_kv_seq *seq;  /* KV of H[0..length), length at most n_ids - 1 between steps; NULL without
                         * an engine */
    const shoal_lora *lora; /* the node's, of all its rows; NULL: none */
    shoal_sampling sampling;
    shoal_logit_bias *biases;
    shoal_form *form;           /* NULL: free text */
    shoal_form_state *held;     /* [2] with a form: after H[..n_followed), and scratch for a span */
    uint32_t *allowed;          /* with a form: what may be next */
    size_t n_followed;          /* the answer's first position, until H is longer */
    const shoal_msg_cost *cost; /* what work costs; NULL: nobody knows */
    shoal_msg_cost told;        /* of it to the edge */
    uint32_t told_cached;       /* of stats.n_cached */
    shoal_session_stats stats;
};

/* As shoal_session_fail. */
__attribute__((format(printf, 3, 4))) void
shoal_session_failf(shoal_session *session, shoal_rpc_status status, const char *format, ...);

/* False: the session has ended, and its edge knows why. */
bool shoal_session_open_agrees(shoal_session *session, const shoal_msg_open *open);
/* SHOAL_E_PROTOCOL: err says what of the form is wrong; SHOAL_E_NOMEM. */
shoal_status shoal_session_open_form(shoal_session *session, const shoal_msg_form *form,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* After the form. SHOAL_E_NOMEM. */
shoal_status shoal_session_open_allocate(shoal_session *session,
                                         const shoal_msg_open *open) SHOAL_MUST_CHECK;

#endif
