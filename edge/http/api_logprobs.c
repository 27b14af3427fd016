/* SPDX-License-Identifier: Apache-2.0
 *
 * The prompt told again, and log-probabilities in OpenAI's two forms: completions have parallel
 * lists of tokens, their logprobs, the likeliest tokens of each place, and where each begins in the
 * text; chats have one object for each token.
 */
#include "edge/http/api_internal.h"
#include "protocol/http/json_out.h"

#include "common/base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";

static const shoal_tokenizer *tokenizer_of(const shoal_api_call *call)
{
    return call->deck->context.model->tokenizer;
}

shoal_status shoal_api_put_prompt_text(shoal_buf *buf, const shoal_api_call *call)
{
    shoal_detok detok = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    for (size_t i = 0; i < call->request->n_ids; i++) {
        SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &detok, call->request->ids[i], &text));
    }
    if (!call->request->redacted) {
        return shoal_buf_append(buf, text.data ? text.data : "", text.length);
    }
    shoal_redact_restorer restorer = {.n_held = 0};
    SHOAL_TRY(
        shoal_redact_restore(call->request->redacted, &restorer, text.data, text.length, buf));
    return shoal_redact_restore_end(&restorer, buf);
}

/* A token's own text; half a character becomes U+FFFD. */
static shoal_status text_of(const shoal_api_call *call, int32_t id, shoal_buf *text)
{
    shoal_detok detok = {.started = true};
    shoal_buf_reset(text);
    SHOAL_TRY(shoal_buf_append(text, "", 0));
    SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &detok, id, text));
    return shoal_detok_finish(&detok, text);
}

/* A token's own text, or its id where that was asked for. */
static shoal_status put_name(shoal_buf *buf, const shoal_api_call *call, int32_t id)
{
    if (call->request->tell_names) {
        return shoal_buf_appendf(buf, "\"token_id:%" PRId32 "\"", id);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(text_of(call, id, &text));
    return shoal_json_put_string(buf, text.data, text.length);
}

static shoal_status put_logprob(shoal_buf *buf, float logprob)
{
    /* A token of no weight at all has a logprob that JSON cannot say. */
    return shoal_json_put_real(buf, isfinite(logprob) ? (double)logprob : -9999.0, 7);
}

/* --- completions ------------------------------------------------------------------------------ */

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

/* The likeliest tokens by name; of several with one name the likeliest stands for all. */
static shoal_status put_top_names(shoal_buf *buf, const shoal_api_call *call, size_t i)
{
    const shoal_coop_top *tops = call->tops + i * call->request->n_tops;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf name = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf told = {0}; /* names, each between two NULs */
    for (size_t k = 0; k < call->request->n_tops; k++) {
        shoal_buf_reset(&name);
        SHOAL_TRY(shoal_buf_append(&name, "", 1));
        SHOAL_TRY(put_name(&name, call, tops[k].id));
        if (k > 0 && memmem(told.data, told.length, name.data, name.length + 1)) {
            continue;
        }
        SHOAL_TRY(shoal_buf_append(&told, name.data, name.length + 1));
        SHOAL_TRY(shoal_buf_appendf(buf, "%s%s:", k > 0 ? "," : "", name.data + 1));
        SHOAL_TRY(put_logprob(buf, tops[k].logprob));
    }
    return SHOAL_OK;
}

static shoal_status put_tops(shoal_buf *buf, const shoal_api_call *call, size_t from, size_t to)
{
    if (call->request->n_tops == 0) {
        return shoal_buf_appendf(buf, ",\"top_logprobs\":null");
    }
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"top_logprobs\":["));
    for (size_t i = from; i < to; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        if (call->scores[i].top_id < 0) {
            SHOAL_TRY(shoal_buf_appendf(buf, "null"));
            continue;
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "{"));
        SHOAL_TRY(put_top_names(buf, call, i));
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
static shoal_status put_offsets(shoal_buf *buf, const shoal_api_call *call, shoal_api_told *told,
                                size_t from, size_t to)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"text_offset\":["));
    for (size_t i = from; i < to; i++) {
        SHOAL_TRY(shoal_buf_append(buf, ",", i > from ? 1 : 0));
        SHOAL_TRY(shoal_buf_appendf(buf, "%zu", told->n_characters));
        shoal_buf_reset(&text);
        SHOAL_TRY(shoal_detok_push(tokenizer_of(call), &told->detok, call->scores[i].id, &text));
        told->n_characters += text.length > 0 ? n_characters(text.data, text.length) : 0;
    }
    return shoal_buf_appendf(buf, "]}");
}

static shoal_status put_lists(shoal_buf *buf, const shoal_api_call *call, shoal_api_told *told,
                              size_t from, size_t to)
{
    SHOAL_TRY(put_tokens(buf, call, from, to));
    SHOAL_TRY(put_tops(buf, call, from, to));
    return put_offsets(buf, call, told, from, to);
}

/* --- chats ------------------------------------------------------------------------------------ */

/* {"token":..,"logprob":..,"bytes":[..]: the bytes that the token adds to what detok has seen. Null
 * where they are no part of a character. */
static shoal_status put_one(shoal_buf *buf, const shoal_api_call *call, shoal_detok *detok,
                            int32_t id, float logprob)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    size_t n_before = detok->n_pending;
    SHOAL_TRY(text_of(call, id, &text));
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"token\":"));
    SHOAL_TRY(shoal_json_put_string(buf, text.data, text.length));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"logprob\":"));
    SHOAL_TRY(put_logprob(buf, logprob));
    shoal_buf_reset(&text);
    SHOAL_TRY(shoal_buf_append(&text, "", 0));
    SHOAL_TRY(shoal_detok_push(tokenizer_of(call), detok, id, &text));
    SHOAL_TRY(shoal_buf_append(&text, detok->pending, detok->n_pending));
    if (text.length < n_before || memmem(text.data, text.length, replacement, 3)) {
        return shoal_buf_appendf(buf, ",\"bytes\":null");
    }
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"bytes\":["));
    for (size_t i = n_before; i < text.length; i++) {
        SHOAL_TRY(
            shoal_buf_appendf(buf, "%s%u", i > n_before ? "," : "", (unsigned char)text.data[i]));
    }
    return shoal_buf_appendf(buf, "]");
}

/* What ends an answer has no text and is not told. */
static shoal_status put_content(shoal_buf *buf, const shoal_api_call *call, shoal_api_told *told,
                                size_t from, size_t to)
{
    bool any = false;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"content\":["));
    for (size_t i = from; i < to; i++) {
        const shoal_coop_score *score = &call->scores[i];
        if (shoal_tokenizer_is_end(tokenizer_of(call), score->id)) {
            continue;
        }
        SHOAL_TRY(shoal_buf_append(buf, ",", any ? 1 : 0));
        any = true;
        const shoal_detok before = told->detok;
        SHOAL_TRY(put_one(buf, call, &told->detok, score->id, score->logprob));
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"top_logprobs\":["));
        for (size_t k = 0; k < call->request->n_tops; k++) {
            const shoal_coop_top *top = &call->tops[i * call->request->n_tops + k];
            shoal_detok detok = before;
            SHOAL_TRY(shoal_buf_append(buf, ",", k > 0 ? 1 : 0));
            SHOAL_TRY(put_one(buf, call, &detok, top->id, top->logprob));
            SHOAL_TRY(shoal_buf_append(buf, "}", 1));
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "]}"));
    }
    return shoal_buf_appendf(buf, "],\"refusal\":null}");
}

/* --- either ----------------------------------------------------------------------------------- */

static shoal_status put(shoal_buf *buf, const shoal_api_call *call, shoal_api_told *told,
                        size_t from, size_t to)
{
    if (!call->scores) {
        return shoal_buf_appendf(buf, "null");
    }
    return call->kind == SHOAL_API_CHAT ? put_content(buf, call, told, from, to)
                                        : put_lists(buf, call, told, from, to);
}

shoal_status shoal_api_put_logprobs(shoal_buf *buf, const shoal_api_call *call)
{
    size_t n_prompt = call->request->n_ids;
    size_t from = call->request->echo ? 0 : n_prompt;
    shoal_api_told told = {.detok.started = from > 0};
    return put(buf, call, &told, from, n_prompt + call->usage.n_generated);
}

shoal_status shoal_api_put_next_logprobs(shoal_buf *buf, shoal_api_call *call)
{
    size_t at = call->request->n_ids + call->told.n_tokens++;
    return put(buf, call, &call->told, at, at + 1);
}
