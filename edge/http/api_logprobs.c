/* SPDX-License-Identifier: Apache-2.0
 *
 * The prompt told again, and log-probabilities, as OpenAI's completions have them: parallel lists
 * of tokens, their logprobs, the likeliest token of each place, and where each begins in the text.
 */
#include "edge/http/api_internal.h"
#include "protocol/http/json_out.h"

#include "common/base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const shoal_tokenizer *tokenizer_of(const shoal_api_call *call)
{
    return call->api->context.model->tokenizer;
}

shoal_status shoal_api_put_prompt_text(shoal_buf *buf, const shoal_api_call *call)
{
    shoal_detok detok = {0};
    for (size_t i = 0; i < call->request->n_ids; i++) {
        SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &detok, call->request->ids[i], buf));
    }
    return SHOAL_OK;
}

/* The tokens told: first and one past the last of call->scores. */
static void range_of(const shoal_api_call *call, size_t *ret_from, size_t *ret_to)
{
    *ret_from = call->request->echo ? 0 : call->request->n_ids;
    *ret_to = call->request->n_ids + call->usage.n_generated;
}

/* A token's own text, or its id where that was asked for. */
static shoal_status put_name(shoal_buf *buf, const shoal_api_call *call, int32_t id)
{
    if (call->request->tell_names) {
        return shoal_buf_appendf(buf, "\"token_id:%" PRId32 "\"", id);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_detok detok = {.started = true};
    SHOAL_TRY(shoal_buf_append(&text, "", 0));
    SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &detok, id, &text));
    SHOAL_TRY(shoal_detok_finish(&detok, &text));
    return shoal_json_put_string(buf, text.data, text.length);
}

static shoal_status put_logprob(shoal_buf *buf, float logprob)
{
    /* A token of no weight at all has a logprob that JSON cannot say. */
    return shoal_json_put_real(buf, isfinite(logprob) ? (double)logprob : -9999.0, 7);
}

static shoal_status put_tokens(shoal_buf *buf, const shoal_api_call *call, size_t from, size_t to)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"tokens\":["));
    for (size_t i = from; i < to; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        SHOAL_TRY(put_name(buf, call, call->scores[i].id));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "],\"token_logprobs\":["));
    for (size_t i = from; i < to; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        SHOAL_TRY(call->scores[i].top_id < 0 ? shoal_buf_appendf(buf, "null")
                                             : put_logprob(buf, call->scores[i].logprob));
    }
    return shoal_buf_appendf(buf, "]");
}

static shoal_status put_tops(shoal_buf *buf, const shoal_api_call *call, size_t from, size_t to)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"top_logprobs\":["));
    for (size_t i = from; i < to; i++) {
        const shoal_coop_score *score = &call->scores[i];
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        if (score->top_id < 0) {
            SHOAL_TRY(shoal_buf_appendf(buf, "null"));
            continue;
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "{"));
        SHOAL_TRY(put_name(buf, call, score->top_id));
        SHOAL_TRY(shoal_buf_appendf(buf, ":"));
        SHOAL_TRY(put_logprob(buf, score->top_logprob));
        SHOAL_TRY(shoal_buf_appendf(buf, "}"));
    }
    return shoal_buf_appendf(buf, "]");
}

static size_t n_characters(const char *text, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        count += ((unsigned char)text[i] & 0xc0) != 0x80;
    }
    return count;
}

/* Characters of the told text before each token. */
static shoal_status put_offsets(shoal_buf *buf, const shoal_api_call *call, size_t from, size_t to)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_detok detok = {.started = from > 0};
    size_t offset = 0;
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"text_offset\":["));
    for (size_t i = from; i < to; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        SHOAL_TRY(shoal_buf_appendf(buf, "%zu", offset));
        shoal_buf_reset(&text);
        SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &detok, call->scores[i].id, &text));
        offset += text.length > 0 ? n_characters(text.data, text.length) : 0;
    }
    return shoal_buf_appendf(buf, "]}");
}

shoal_status shoal_api_put_logprobs(shoal_buf *buf, const shoal_api_call *call)
{
    size_t from = 0;
    size_t to = 0;
    range_of(call, &from, &to);
    SHOAL_TRY(put_tokens(buf, call, from, to));
    SHOAL_TRY(put_tops(buf, call, from, to));
    return put_offsets(buf, call, from, to);
}
