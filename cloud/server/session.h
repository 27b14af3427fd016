/* SPDX-License-Identifier: Apache-2.0
 *
 * One generation on the cloud as a state machine without I/O: decoded messages and step results go
 * in, work for the engine and messages for the edge come out. It holds the confirmed tokens H
 * (prompt and generated), the drafts that wait behind them, and a KV sequence that is only a cache
 * of H (R3): it may be dropped at any time between steps and is computed again. What the tokens
 * are depends on H and the sampling parameters alone, never on drafts, batches or time (R1).
 *
 * Guesses. What the edge drafted behind a draft that fell was made for another text, but of what it
 * was sure of most stands all the same: a sentence with another word in it. Where we are to
 * continue, such tokens are judged in our own steps as drafts would be; what stands is our own, and
 * spares a step.
 *
 * The rules (protocol/SPEC.md): messages of an epoch below ours are dropped, a higher epoch is
 * adopted, and a draft that contradicts H or our own sample raises the epoch by one. Engine-only.
 */
#ifndef SHOAL_CLOUD_SERVER_SESSION_H
#define SHOAL_CLOUD_SERVER_SESSION_H

#include "cloud/prefix/prefix.h"
#include "common/engine/engine.h"
#include "common/form/form.h"
#include "common/model/adapters.h"
#include "common/sample/sample.h"
#include "common/spec/spec.h"
#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

#include <stdbool.h>
#include <stdint.h>

/* What all sessions of a node share; borrowed for their lives. Without an engine, samples come from
 * elsewhere, by shoal_session_take. */
typedef struct shoal_session_env {
    shoal_engine *engine;             /* NULL: the back end has none */
    shoal_sampler *sampler;           /* NULL without an engine */
    const shoal_tokenizer *tokenizer; /* without an engine; else the engine's model's counts */
    shoal_form_words *words;          /* of the engine's model; NULL: no answer is held to a form */
    const shoal_adapters *adapters; /* of the engine's model, which Open chooses from; NULL: none */
    const shoal_describe *describe; /* what this node serves: Open is held against it */
    const char *tenant;             /* whose session it is; NULL: nobody's in particular */
    const char *node;               /* name told in Opened, at most SHOAL_WIRE_TEXT_MAX - 1 bytes */
} shoal_session_env;

/* Where a session's answers go; called from inside push, tick and result, and not re-entrantly:
 * a callback must not call the session. */
typedef struct shoal_session_out {
    /* msg is borrowed for the call. */
    void (*emit)(void *ctx, const shoal_cloud_msg *msg);
    /* Exactly once, after it nothing is emitted. text is "" with SHOAL_RPC_OK. */
    void (*finish)(void *ctx, shoal_rpc_status status, const char *text);
    void *ctx;
} shoal_session_out;

typedef struct shoal_session_stats {
    char request_id[65];      /* from Open, "" before */
    shoal_mode mode;          /* from Open */
    uint32_t n_prompt;        /* ids taken from PROMPT and TRUSTED messages */
    uint32_t n_generated;     /* ids sampled here: decoded, corrections and bonuses */
    uint32_t n_verified;      /* drafts judged */
    uint32_t n_accepted;      /* of those, equal to our own sample */
    uint32_t n_guessed;       /* refused drafts compared with a later token of our own */
    uint32_t n_guessed_right; /* of those, equal to it */
    uint32_t n_rounds;        /* verdicts sent */
    uint32_t n_evictions;     /* times the KV was dropped */
    uint32_t n_cached;        /* tokens of the text whose KV was found, not computed */
    uint64_t compute_us;      /* this node computed for it: its part of steps, samples, answers */
    uint64_t opened_ms;       /* when the session was made */
    uint64_t first_token_ms;  /* when the first own token or verdict left, 0: not yet */
    uint64_t last_token_ms;   /* when tokens were confirmed last */
    uint32_t n_next;          /* tokens confirmed after the first answer, drafts that stood too */
} shoal_session_stats;

typedef struct shoal_session shoal_session;

/* env and out are copied; what they point to is borrowed. */
shoal_status shoal_session_new(const shoal_session_env *env, const shoal_session_out *out,
                               uint64_t now_ms, shoal_session **ret_session) SHOAL_MUST_CHECK;
void shoal_session_free(shoal_session *session);
SHOAL_DEFINE_CLEANUP(shoal_session, shoal_session_free)

/* What work costs the node, told to the edge with the answers when it has changed by an eighth.
 * Borrowed until another is set; NULL, or a step of 0 us: nobody knows. */
void shoal_session_set_cost(shoal_session *session, const shoal_msg_cost *cost);
/* Takes one message of the peer; anything wrong with it ends the session. After the end messages
 * are ignored. */
void shoal_session_push(shoal_session *session, const shoal_edge_msg *msg, uint64_t now_ms);
/* The peer will say no more: once no work is left, the session ends as by Close. */
void shoal_session_half_close(shoal_session *session);
/* Ends the session when its deadline has passed, and where its Open said so when its text is over:
 * at an end token, or as long as it may become. */
void shoal_session_tick(shoal_session *session, uint64_t now_ms);
/* When tick has to be called at the latest; UINT64_MAX: never. */
uint64_t shoal_session_deadline_ms(const shoal_session *session);
/* Ends the session from outside with an Error message. */
void shoal_session_fail(shoal_session *session, shoal_rpc_status status, const char *text);
/* The one that its Open chose of the node's, NULL: none; the same from Open to the end. */
const shoal_lora *shoal_session_lora(const shoal_session *session);
/* From env; "" for NULL. */
const char *shoal_session_tenant(const shoal_session *session);
bool shoal_session_done(const shoal_session *session);

enum {
    SHOAL_SESSION_DRAFTS_MAX = SHOAL_WIRE_DRAFT_MAX - 1 /* judged in one span */
};

typedef enum shoal_session_want {
    SHOAL_WANT_NOTHING,
    SHOAL_WANT_PREFILL, /* more than max_rows rows are missing before anything can be sampled */
    SHOAL_WANT_TOKENS   /* a verification or a decode step is due */
} shoal_session_want;

/* What the session could do now, were max_rows rows of context catch-up allowed in one span. */
shoal_session_want shoal_session_wants(const shoal_session *session, size_t max_rows);
/* What it could do now, for the scheduler; no rows and no sample: nothing. */
typedef struct shoal_session_due {
    size_t n_prefill;    /* rows missing before the row that is sampled from */
    bool sample;         /* a verification or a decode step is due */
    size_t n_drafts;     /* that wait to be judged, guesses among them */
    const uint8_t *odds; /* [n_drafts] that each stands, in 255ths; NULL: nobody says. Valid until
                          * the session changes */
    double guessed;      /* they are guesses, and that share of such stands; 0: drafts */
    unsigned priority;   /* from Open */
} shoal_session_due;
shoal_session_due shoal_session_due_get(const shoal_session *session);
/* Fills span with at most n_rows rows and n_logits logits. False when there is nothing to do in
 * that budget. A span that was offered is either run and given back by result, or forgotten; the
 * session must not change in between. */
bool shoal_session_offer(const shoal_session *session, size_t n_rows, size_t n_logits,
                         shoal_span *ret_span);
/* After the engine's step that held span. compute_us is the session's share of it. */
void shoal_session_result(shoal_session *session, const shoal_span *span, uint64_t compute_us,
                          uint64_t now_ms);
/* Its share of what came after that: samples, answers. A session that this ended has told its edge
 * the time without it. */
void shoal_session_computed(shoal_session *session, uint64_t compute_us);

/* What a back end without an engine has to find out: the likeliest token, or the sample, after the
 * text and after each of its drafts. Valid until the session changes. */
typedef struct shoal_session_work {
    const int32_t *ids; /* [n_ids + n_drafts]: the confirmed tokens, then the drafts that wait */
    size_t n_ids;       /* at least 1 */
    size_t n_drafts;    /* 0: tokens are to be added until n_ids is decode_to */
    size_t decode_to;
    const shoal_sampling *sampling;
} shoal_session_work;

/* False when nothing is due. */
bool shoal_session_work_get(const shoal_session *session, shoal_session_work *ret_work);
/* Takes what was found out about that work: the leading drafts that stand, at most n_drafts and
 * fewer than that when next contradicts one, and the verifier's own token after them (-1: the last
 * of the drafts that stand is an end token). Only while work is due. */
void shoal_session_take(shoal_session *session, const shoal_verdict *verdict, uint64_t now_ms);

/* Begins the KV with what is cached of the text, when that is more than it has and there is work.
 * Returns the tokens gained. Not between offer and result. */
size_t shoal_session_take_prefix(shoal_session *session, shoal_prefix *prefix,
                                 const shoal_prefix_owner *owner);
/* Gives the cache the full blocks of the KV, all of confirmed tokens. Not between offer and
 * result. */
void shoal_session_publish(shoal_session *session, shoal_prefix *prefix,
                           const shoal_prefix_owner *owner);

/* Full blocks of 32 confirmed tokens that the KV lacks before the last token, from the block where
 * it ends; 0 without work, or when it ends within a block. */
size_t shoal_session_blocks_missing(const shoal_session *session);
/* Appends a block of another node that computed the same text, and takes one out for others: as
 * shoal_kv_block_import and _export. Not between offer and result; import only while blocks are
 * missing. */
shoal_status shoal_session_import(shoal_session *session, const uint8_t *bytes,
                                  size_t n) SHOAL_MUST_CHECK;
shoal_status shoal_session_export(const shoal_session *session, size_t block,
                                  uint8_t *ret_bytes) SHOAL_MUST_CHECK;

/* Tokens whose KV is held. */
size_t shoal_session_kv_length(const shoal_session *session);
/* What its KV takes and gives; all 0 before Open and after the end. */
shoal_kv_need shoal_session_kv_need(const shoal_session *session);
/* Drops the KV; it is computed again when needed. Not between offer and result. */
void shoal_session_evict(shoal_session *session);

const shoal_session_stats *shoal_session_stats_get(const shoal_session *session);
/* The confirmed tokens, for tests. */
const int32_t *shoal_session_ids(const shoal_session *session, size_t *ret_n);

#endif
