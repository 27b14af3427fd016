/* SPDX-License-Identifier: Apache-2.0
 *
 * What the cloud's tests share: a tiny real model with engine and batch, the plain decode that is
 * the truth, and an edge in miniature that plays the protocol and keeps what it was told.
 */
#ifndef SHOAL_TESTS_UNIT_CLOUD_RIG_H
#define SHOAL_TESTS_UNIT_CLOUD_RIG_H

#include "cloud/server/batch.h"
#include "cloud/server/session.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    RIG_TEXT_MAX = 512
};

typedef struct rig_settings {
    uint64_t seed;
    const char *variant; /* of tiny_arch.h, NULL: the tiny model */
    size_t n_pages;      /* room for 32 tokens each, 0: plenty */
    size_t n_rows_max;   /* 0: 64 */
    size_t n_logits_max; /* 0: 16 */
    unsigned prefix_percent;
    size_t prefill_chunk;      /* 0: 8 */
    size_t n_threads;          /* 0: 1 */
    shoal_kv_type kv;          /* 0: the engine's own choice */
    shoal_store *store;        /* NULL: none */
    uint8_t store_secret;      /* a byte of it */
    const shoal_clock *timing; /* of steps that the batch times when it is made; NULL: none */
    uint64_t step_time_us;     /* 0: no limit */
} rig_settings;

typedef struct rig {
    shoal_model *model;
    shoal_engine *engine;
    shoal_sampler *sampler;
    shoal_form_words *words;
    shoal_batch *batch;
    const char *tenant;          /* of the edges that are made next */
    shoal_cloud_metrics metrics; /* counts nothing */
    shoal_describe *describe;    /* rig_fini frees it */
    uint64_t now_ns;             /* the clock stands still until a test moves it */
    shoal_clock clock;
} rig;

void rig_init(rig *r, const rig_settings *settings);
void rig_fini(rig *r);
shoal_model *rig_model_new(uint64_t seed);

/* A prompt of n tokens, the begin token and ordinary ones drawn from seed. */
void rig_prompt(uint64_t seed, int32_t *text, size_t n);

/* Plain decode: text[0..n_prompt) is the prompt; fills up to n_max tokens in all and returns the
 * length, less than n_max when an end token was drawn. */
size_t rig_decode(rig *r, const shoal_sampling *sampling, int32_t *text, size_t n_prompt,
                  size_t n_max);

/* The same of a text held to a form from n_prompt on. */
size_t rig_decode_form(rig *r, const shoal_form *form, const shoal_sampling *sampling,
                       int32_t *text, size_t n_prompt, size_t n_max);

/* One generation seen from the edge. */
typedef struct edge {
    rig *rig;
    shoal_session *session;
    int32_t text[RIG_TEXT_MAX]; /* confirmed tokens, then drafts that were sent */
    size_t n_confirmed;
    size_t n_sent; /* confirmed and drafts */
    uint32_t epoch;
    size_t n_verdicts;
    size_t n_told; /* ids in verdicts */
    size_t n_messages;
    shoal_msg_form form; /* what edge_open gives; zeroed: none */
    bool careless;       /* keeps no books: for peers that break the rules */
    bool rolled_back;    /* a verdict contradicted what was sent, since the flag was cleared */
    bool opened;
    bool whole; /* as told in Opened */
    bool has_finished_message;
    shoal_msg_finished finished;
    bool has_error;
    char error[SHOAL_WIRE_TEXT_MAX];
    bool done;
    shoal_rpc_status status;
    uint8_t shares[RIG_TEXT_MAX]; /* confidences as told */
    shoal_msg_cost cost;          /* the last one told */
    size_t n_costs;
    uint32_t n_cached; /* the last one told */
    size_t n_cached_told;
} edge;

/* Makes the session and adds it to the batch; nothing is pushed. */
void edge_init(edge *e, rig *r);
void edge_fini(edge *e);
/* Fails unless truth[0..n) is what is confirmed, no more and no less. */
void edge_expect_text(const edge *e, const int32_t *truth, size_t n);
shoal_msg_open edge_open_message(const rig *r, const shoal_sampling *sampling, size_t n_max);
void edge_open(edge *e, const shoal_sampling *sampling, size_t n_max);
void edge_tokens(edge *e, shoal_token_kind kind, size_t position, const int32_t *ids, size_t n);
/* Sends text[n_confirmed..] anew from truth, a prompt for instance. */
void edge_prompt(edge *e, const int32_t *ids, size_t n);
/* Drafts ids from n_sent on. */
void edge_draft(edge *e, const int32_t *ids, size_t n);
void edge_continue(edge *e, size_t position, size_t n_max);
void edge_simple(edge *e, shoal_edge_msg_kind kind);

/* Steps until the batch has no work; the clock moves when it waits for pages. Returns the number
 * of steps, and fails the test past 100000. */
size_t rig_settle(rig *r);

#endif
