/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to cloud/upstream: settings as they are used, the bodies of requests, how an answer is
 * read, and the probes.
 */
#ifndef SHOAL_UPSTREAM_UPSTREAM_INTERNAL_H
#define SHOAL_UPSTREAM_UPSTREAM_INTERNAL_H

#include "cloud/upstream/retoken.h"
#include "cloud/upstream/sse.h"
#include "cloud/upstream/upstream.h"

#include <curl/curl.h>

/* What every request needs; immutable after the probes. */
typedef struct upstream_site {
    shoal_upstream_settings settings; /* strings point below */
    char *url;                        /* without a trailing slash and "/v1" */
    char *completions;                /* the whole address */
    char *models;
    char *model; /* as asked for, "" */
    char *ca_file;
    struct curl_slist *headers; /* of a POST, key included */
    const shoal_tokenizer *tokenizer;
    int32_t end_id; /* -1: the vocabulary has none */
    shoal_upstream_abilities abilities;
} upstream_site;

shoal_status shoal_upstream_site_init(upstream_site *site, const shoal_upstream_settings *settings,
                                      const shoal_tokenizer *tokenizer,
                                      shoal_err *err) SHOAL_MUST_CHECK;
void shoal_upstream_site_fini(upstream_site *site);
/* A handle with everything set but the body and where the answer goes. url is one of the site's. */
CURL *shoal_upstream_handle(const upstream_site *site, const char *url);

/* Fills site->abilities by asking the engine. */
shoal_status shoal_upstream_probe(upstream_site *site, shoal_err *err) SHOAL_MUST_CHECK;

/* --- bodies (body.c) ---------------------------------------------------------------------------
 */

typedef struct upstream_body {
    const int32_t *ids;
    size_t n_ids; /* drafts included */
    size_t n_max;
    const shoal_sampling *sampling;
    bool stream;
    shoal_reply_scores_kind scores;
} upstream_body;

shoal_status shoal_upstream_body_put(const upstream_site *site, const upstream_body *body,
                                     shoal_buf *buf, shoal_err *err) SHOAL_MUST_CHECK;

/* --- answers (answer.c): a state machine without I/O -------------------------------------------
 */

/* What an answer's bytes become. tokens: n ids with their confidences, in order. */
typedef struct upstream_sink {
    shoal_status (*on_tokens)(void *ctx, const shoal_sampled *tokens, size_t n);
    void *ctx;
} upstream_sink;

/* A streamed continuation, fed with bytes in any pieces. */
typedef struct upstream_stream {
    const upstream_site *site;
    upstream_sink sink;
    shoal_sse sse;
    shoal_reply_chunk *chunk;
    shoal_buf held; /* text without ids, not yet told */
    size_t n_max;   /* tokens asked for */
    size_t n_told;
    size_t n_ids;    /* of them by the engine itself, not made of its text or its end */
    bool done;       /* [DONE] has come */
    bool finished;   /* a finish_reason has come */
    bool told_end;   /* an end token was told */
    shoal_err error; /* why push failed */
} upstream_stream;

shoal_status shoal_upstream_stream_init(upstream_stream *stream, const upstream_site *site,
                                        size_t n_max, upstream_sink sink) SHOAL_MUST_CHECK;
void shoal_upstream_stream_fini(upstream_stream *stream);
/* A failure sets stream->error, and nothing may be pushed after it. */
shoal_status shoal_upstream_stream_push(upstream_stream *stream, const char *bytes,
                                        size_t n) SHOAL_MUST_CHECK;
/* The answer is over: SHOAL_OK when it was whole. */
shoal_status shoal_upstream_stream_finish(upstream_stream *stream) SHOAL_MUST_CHECK;

/* Drafts against scores: the verdict as shoal_spec_verify would give it. SHOAL_E_PROTOCOL when the
 * token that corrects or follows has no id. scores: [n_drafts + 1]. */
shoal_status shoal_upstream_judge(const shoal_tokenizer *tokenizer, const int32_t *drafts,
                                  size_t n_drafts, const shoal_reply_score *scores,
                                  shoal_verdict *ret_verdict, shoal_err *err) SHOAL_MUST_CHECK;

#endif
