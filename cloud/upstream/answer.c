/* SPDX-License-Identifier: Apache-2.0
 *
 * An answer's bytes become tokens and verdicts. No I/O.
 */
#include "cloud/upstream/upstream_internal.h"

#include "common/base/mem.h"

#include <string.h>

shoal_status shoal_upstream_stream_init(upstream_stream *stream, const upstream_site *site,
                                        size_t n_max, upstream_sink sink)
{
    *stream =
        (upstream_stream){.site = site, .sink = sink, .n_max = n_max, .error = SHOAL_ERR_INIT};
    shoal_sse_init(&stream->sse);
    stream->chunk = shoal_calloc(1, sizeof(*stream->chunk));
    return stream->chunk != NULL ? SHOAL_OK : SHOAL_E_NOMEM;
}

void shoal_upstream_stream_fini(upstream_stream *stream)
{
    shoal_sse_fini(&stream->sse);
    shoal_buf_fini(&stream->held);
    if (stream->chunk != NULL) {
        shoal_reply_chunk_fini(stream->chunk);
        shoal_free(stream->chunk);
        stream->chunk = NULL;
    }
}

/* Tells ids up to the first end token; behind it nothing counts. */
static shoal_status tell(upstream_stream *stream, const int32_t *ids, const float *confidences,
                         size_t n)
{
    shoal_sampled tokens[SHOAL_UPSTREAM_EVENT_IDS];
    for (size_t i = 0; i < n && !stream->told_end;) {
        size_t k = 0;
        while (k < SHOAL_UPSTREAM_EVENT_IDS && i < n && !stream->told_end) {
            tokens[k++] = (shoal_sampled){
                .id = ids[i], .confidence = confidences != NULL ? confidences[i] : 0.0f};
            stream->told_end = shoal_tokenizer_is_end(stream->site->tokenizer, ids[i]);
            i++;
        }
        stream->n_told += k;
        SHOAL_TRY(stream->sink.on_tokens(stream->sink.ctx, tokens, k));
    }
    return SHOAL_OK;
}

/* Text without ids: as much of it as may be encoded now, or all of it. */
static shoal_status tell_held(upstream_stream *stream, bool all)
{
    shoal_buf *held = &stream->held;
    size_t n = all ? held->length : shoal_retoken_ready(held->data, held->length);
    if (n == 0) {
        return SHOAL_OK;
    }
    int32_t *ids = NULL;
    size_t n_ids = 0;
    SHOAL_TRY(
        shoal_retoken_encode(stream->site->tokenizer, held->data, n, &ids, &n_ids, &stream->error));
    shoal_status status = tell(stream, ids, NULL, n_ids);
    shoal_free(ids);
    shoal_buf_consume(held, n);
    return status;
}

static shoal_status take_chunk(upstream_stream *stream, const shoal_reply_chunk *chunk)
{
    shoal_err *err = &stream->error;
    if (stream->finished && (chunk->n_ids > 0 || chunk->text.length > 0)) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "text after the end of the completion");
    }
    if (stream->site->abilities.ids == SHOAL_UPSTREAM_IDS_NONE) {
        SHOAL_TRY(shoal_buf_append(&stream->held, chunk->text.data, chunk->text.length));
        SHOAL_TRY(tell_held(stream, false));
    } else if (chunk->has_ids) {
        if (chunk->n_ids > stream->n_max - stream->n_told) {
            return shoal_err_set(err, SHOAL_E_PROTOCOL, "more tokens than max_tokens (%zu)",
                                 stream->n_max);
        }
        stream->n_ids += chunk->n_ids;
        SHOAL_TRY(tell(stream, chunk->ids, chunk->confidences, chunk->n_ids));
    } else if (chunk->text.length > 0) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "text without the token ids it told at start");
    }
    if (chunk->finish == SHOAL_REPLY_GOES_ON) {
        return SHOAL_OK;
    }
    stream->finished = true;
    SHOAL_TRY(tell_held(stream, true));
    if (chunk->finish == SHOAL_REPLY_STOP && !stream->told_end && stream->site->end_id >= 0) {
        return tell(stream, &stream->site->end_id, NULL, 1);
    }
    return SHOAL_OK;
}

static shoal_status on_event(void *ctx, const char *data, size_t n, bool is_error)
{
    upstream_stream *stream = ctx;
    if (stream->done) {
        return SHOAL_OK;
    }
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        stream->done = true;
        return SHOAL_OK;
    }
    if (is_error) {
        char text[161];
        shoal_reply_error_text(data, n, text, sizeof(text));
        return shoal_err_set(&stream->error, SHOAL_E_UNAVAILABLE, "the engine says: %s",
                             text[0] != '\0' ? text : "an error without words");
    }
    SHOAL_TRY(shoal_reply_chunk_read(data, n, shoal_tokenizer_n_vocab(stream->site->tokenizer),
                                     stream->chunk, &stream->error));
    return take_chunk(stream, stream->chunk);
}

shoal_status shoal_upstream_stream_push(upstream_stream *stream, const char *bytes, size_t n)
{
    shoal_status status = shoal_sse_push(&stream->sse, bytes, n, on_event, stream);
    if (status != SHOAL_OK && stream->error.code == SHOAL_OK) {
        (void)shoal_err_set(&stream->error, status,
                            status == SHOAL_E_LIMIT ? "an event of more than %d bytes"
                                                    : "out of memory for an event (of at most %d "
                                                      "bytes)",
                            (int)SHOAL_SSE_EVENT_MAX);
    }
    return status;
}

shoal_status shoal_upstream_stream_finish(upstream_stream *stream)
{
    if (stream->finished) {
        return SHOAL_OK;
    }
    return shoal_err_set(&stream->error, SHOAL_E_UNAVAILABLE,
                         "the answer was cut after %zu of at most %zu tokens", stream->n_told,
                         stream->n_max);
}

shoal_status shoal_upstream_judge(const shoal_tokenizer *tokenizer, const int32_t *drafts,
                                  size_t n_drafts, const shoal_reply_score *scores,
                                  shoal_verdict *ret_verdict, shoal_err *err)
{
    shoal_verdict verdict = {.next = {.id = -1}};
    SHOAL_ASSERT(n_drafts < SHOAL_SPEC_SPAN_MAX);
    while (verdict.n_accepted < n_drafts && scores[verdict.n_accepted].same) {
        size_t i = verdict.n_accepted++;
        verdict.confidences[i] = scores[i].confidence;
        if (shoal_tokenizer_is_end(tokenizer, drafts[i])) {
            *ret_verdict = verdict;
            return SHOAL_OK;
        }
    }
    const shoal_reply_score *next = &scores[verdict.n_accepted];
    if (next->id < 0) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "the engine's own token has no id; set upstream.verify to false");
    }
    verdict.next = (shoal_sampled){.id = next->id, .confidence = next->confidence};
    *ret_verdict = verdict;
    return SHOAL_OK;
}
