/* SPDX-License-Identifier: Apache-2.0
 *
 * A client of one OpenAI-compatible engine (vLLM, SGLang, TensorRT-LLM, llama-server, shoal-edge):
 * token ids in, token ids out, over /v1/completions. What the engine can do is found out at start:
 * whether it takes ids, tells ids, tells log-probabilities of a prompt. It is not a scheduler and
 * keeps no session: a call is one HTTP request, and who calls decides what to do when it fails.
 *
 * One thread of its own owns every socket (libcurl's multi interface). Calls are made, cancelled
 * and heard of by one other thread, the engine thread; nothing there waits for the network. No text
 * of a prompt and no key reaches an error that is not the caller's own.
 */
#ifndef SHOAL_UPSTREAM_UPSTREAM_H
#define SHOAL_UPSTREAM_UPSTREAM_H

#include "cloud/upstream/reply.h"
#include "common/sample/sample.h"
#include "common/spec/spec.h"

enum {
    SHOAL_UPSTREAM_CALLS_MAX = 4096,
    SHOAL_UPSTREAM_EVENT_IDS = 64 /* ids of one event */
};

typedef struct shoal_upstream_settings {
    const char *url;            /* "http://host:8000", with or without "/v1" */
    const char *model;          /* as the engine names it; "": the first it has */
    const char *api_key_file;   /* its first line is the key; "": none */
    const char *ca_file;        /* PEM of the authority for https; "": the system's */
    size_t n_calls_max;         /* at once, 1..SHOAL_UPSTREAM_CALLS_MAX; default 64 */
    uint64_t connect_ms;        /* until a connection stands; default 5000 */
    uint64_t silence_ms;        /* longest silence of an answer, the first token included; 120000 */
    uint64_t start_ms;          /* how long to wait for an engine that is not up yet; 30000 */
    bool (*give_up)(void *ctx); /* asked while start is waiting, every second; NULL: never */
    void *give_up_ctx;
    bool verify; /* use log-probabilities of prompts where there are any; default true */
} shoal_upstream_settings;
shoal_upstream_settings shoal_upstream_settings_default(void);

/* How the engine tells the ids of what it generates. */
typedef enum shoal_upstream_ids {
    SHOAL_UPSTREAM_IDS_NONE,    /* text alone, made into ids by shoal_retoken_encode */
    SHOAL_UPSTREAM_IDS_PLAIN,   /* without being asked: shoal-edge */
    SHOAL_UPSTREAM_IDS_RETURN,  /* "return_token_ids": vLLM */
    SHOAL_UPSTREAM_IDS_NAMES,   /* "return_tokens_as_token_ids": older vLLM */
    SHOAL_UPSTREAM_IDS_LOGPROBS /* "logprobs": llama-server */
} shoal_upstream_ids;

/* What was found out at start. */
typedef struct shoal_upstream_abilities {
    shoal_reply_model model;
    bool token_prompts; /* prompts go as ids; else as text */
    shoal_upstream_ids ids;
    shoal_reply_scores_kind scores;
} shoal_upstream_abilities;

typedef struct shoal_upstream shoal_upstream;
typedef struct shoal_upstream_call shoal_upstream_call;

/* Asks the engine what it can do and starts the thread. Blocks up to start_ms while the engine is
 * not up; SHOAL_E_CANCELLED: give_up said so. tokenizer is the engine's, borrowed for the client's
 * life. Errors name the URL and the remedy; SHOAL_E_MISMATCH: the engine's tokens are not this
 * tokenizer's. */
shoal_status shoal_upstream_new(const shoal_upstream_settings *settings,
                                const shoal_tokenizer *tokenizer, shoal_upstream **ret_upstream,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* Aborts what is under way. Every call must have been dropped. */
void shoal_upstream_free(shoal_upstream *upstream);
SHOAL_DEFINE_CLEANUP(shoal_upstream, shoal_upstream_free)

const shoal_upstream_abilities *shoal_upstream_abilities_get(const shoal_upstream *upstream);
const shoal_tokenizer *shoal_upstream_tokenizer(const shoal_upstream *upstream);
/* For people: without a trailing slash. */
const char *shoal_upstream_url(const shoal_upstream *upstream);
/* Called from the client's thread when there is something to pop or a place is free. Set before the
 * first call. */
void shoal_upstream_set_wake(shoal_upstream *upstream, void (*wake)(void *ctx), void *ctx);

typedef struct shoal_upstream_ask {
    const int32_t *ids; /* the text, then the drafts; copied */
    size_t n_ids;       /* without the drafts, at least 1 */
    size_t n_drafts;    /* 0: continue the text; else judge them, up to SHOAL_SPEC_SPAN_MAX - 1 */
    size_t n_max;       /* tokens to continue with, at least 1 */
    const shoal_sampling *sampling;
    uint64_t delay_ms; /* before the request is sent */
    void *user;
} shoal_upstream_ask;

/* Drafts can be judged where the abilities have scores, the sampling is greedy, and the answer will
 * be within its limit. */
bool shoal_upstream_can_judge(const shoal_upstream *upstream, const shoal_upstream_ask *ask);
size_t shoal_upstream_n_calls_max(const shoal_upstream *upstream);
/* Calls that start takes now: n_calls_max but for those that are under way, dropped ones included
 * until they are gone. Only start makes it less. */
size_t shoal_upstream_n_free(const shoal_upstream *upstream);
/* SHOAL_BUSY: n_calls_max are under way. Otherwise the caller must drop the call some day. */
shoal_status shoal_upstream_start(shoal_upstream *upstream, const shoal_upstream_ask *ask,
                                  shoal_upstream_call **ret_call, shoal_err *err) SHOAL_MUST_CHECK;
/* Aborts the request if it still runs; no event of the call is popped after this. */
void shoal_upstream_drop(shoal_upstream_call *call);

typedef enum shoal_upstream_event_kind {
    SHOAL_UPSTREAM_TOKENS,
    SHOAL_UPSTREAM_VERDICT,
    SHOAL_UPSTREAM_END, /* of a continuation: all of it was told. The last event, as is FAILED */
    SHOAL_UPSTREAM_FAILED
} shoal_upstream_event_kind;

/* Why a call failed, as far as it decides what to do. */
typedef enum shoal_upstream_failure {
    SHOAL_UPSTREAM_FAIL_LINK,    /* no connection, cut, silent, answered nonsense, 5xx: try again */
    SHOAL_UPSTREAM_FAIL_BUSY,    /* 429 or 503: try again, not before retry_after_ms */
    SHOAL_UPSTREAM_FAIL_REQUEST, /* 400, 413, 422: it refuses this text or these parameters */
    SHOAL_UPSTREAM_FAIL_SETUP    /* 401, 403, 404: key, model or address are wrong */
} shoal_upstream_failure;

typedef struct shoal_upstream_event {
    struct shoal_upstream_event *next;
    shoal_upstream_event_kind kind;
    shoal_upstream_call *call;
    void *user;
    size_t n_ids; /* TOKENS: at least 1 */
    shoal_sampled tokens[SHOAL_UPSTREAM_EVENT_IDS];
    shoal_verdict verdict; /* VERDICT, the last event too */
    shoal_upstream_failure failure;
    uint64_t retry_after_ms;       /* BUSY: 0 when the engine did not say */
    char text[SHOAL_ERR_TEXT_MAX]; /* FAILED: for the caller's peer; may quote the engine */
} shoal_upstream_event;

/* The oldest event, for shoal_upstream_event_free; NULL: none. */
shoal_upstream_event *shoal_upstream_pop(shoal_upstream *upstream);
void shoal_upstream_event_free(shoal_upstream_event *event);

#endif
