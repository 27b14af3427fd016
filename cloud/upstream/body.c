/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON of a request. Only what differs from an engine's own default is said beyond the fields
 * that OpenAI defines: an engine that does not know a field may refuse it.
 */
#include "cloud/upstream/upstream_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int put_bytes(const char *bytes, size_t n, void *ctx)
{
    return shoal_buf_append(ctx, bytes, n) == SHOAL_OK ? 0 : -1;
}

static shoal_status put_string(shoal_buf *buf, const char *text, size_t n)
{
    json_t *json = json_stringn(text, n);
    if (json == NULL) {
        return SHOAL_E_INVALID; /* no UTF-8, or out of memory */
    }
    int bad = json_dump_callback(json, put_bytes, buf, JSON_ENCODE_ANY);
    json_decref(json);
    return bad == 0 ? SHOAL_OK : SHOAL_E_NOMEM;
}

static shoal_status put_prompt(const upstream_site *site, const upstream_body *body, shoal_buf *buf,
                               shoal_err *err)
{
    if (site->abilities.token_prompts) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"prompt\":["));
        for (size_t i = 0; i < body->n_ids; i++) {
            SHOAL_TRY(shoal_buf_appendf(buf, i == 0 ? "%" PRId32 : ",%" PRId32, body->ids[i]));
        }
        return shoal_buf_appendf(buf, "]");
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_retoken_prompt(site->tokenizer, body->ids, body->n_ids, &text, err));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"prompt\":"));
    shoal_status status = put_string(buf, text.length > 0 ? text.data : "", text.length);
    return status == SHOAL_E_INVALID
               ? shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                               "a prompt of %zu tokens is no UTF-8, and the upstream takes text "
                               "alone; use an engine that takes token ids",
                               body->n_ids)
               : status;
}

static shoal_status put_real(shoal_buf *buf, const char *name, float x)
{
    return shoal_buf_appendf(buf, ",\"%s\":%.9g", name, (double)x);
}

static bool differs(float x, float usual)
{
    return x < usual || x > usual;
}

/* Engines that filter by default, their own or the model's: what is off must be said to them. */
static bool has_defaults(const char *owner)
{
    return strcmp(owner, "vllm") == 0 || strcmp(owner, "sglang") == 0 ||
           strcmp(owner, "llamacpp") == 0;
}

static shoal_status put_filters(const char *owner, const shoal_sampling *s, shoal_buf *buf)
{
    bool all = has_defaults(owner);
    bool llama = strcmp(owner, "llamacpp") == 0;
    if (all || differs(s->top_p, 1.0f)) {
        SHOAL_TRY(put_real(buf, "top_p", s->top_p));
    }
    if (all || differs(s->min_p, 0.0f)) {
        SHOAL_TRY(put_real(buf, "min_p", s->min_p));
    }
    if (all || s->top_k > 0) {
        int64_t k = s->top_k > 0 ? (int64_t)s->top_k : (llama ? 0 : -1);
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"top_k\":%" PRId64, k));
    }
    if (all || differs(s->repetition_penalty, 1.0f)) {
        SHOAL_TRY(
            put_real(buf, llama ? "repeat_penalty" : "repetition_penalty", s->repetition_penalty));
    }
    return llama ? shoal_buf_appendf(buf, ",\"repeat_last_n\":%" PRIu32, s->penalty_window)
                 : SHOAL_OK;
}

static shoal_status put_sampling(const upstream_site *site, const shoal_sampling *s, shoal_buf *buf)
{
    SHOAL_TRY(put_real(buf, "temperature", s->temperature));
    if (s->temperature > 0.0f) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"seed\":%" PRIu64, s->seed & INT64_MAX));
    }
    SHOAL_TRY(put_filters(site->abilities.model.owner, s, buf));
    if (differs(s->presence_penalty, 0.0f)) {
        SHOAL_TRY(put_real(buf, "presence_penalty", s->presence_penalty));
    }
    if (differs(s->frequency_penalty, 0.0f)) {
        SHOAL_TRY(put_real(buf, "frequency_penalty", s->frequency_penalty));
    }
    for (size_t i = 0; i < s->n_biases; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\"%" PRId32 "\":%.9g",
                                    i == 0 ? ",\"logit_bias\":{" : ",", s->biases[i].id,
                                    (double)s->biases[i].bias));
    }
    return s->n_biases > 0 ? shoal_buf_appendf(buf, "}") : SHOAL_OK;
}

static const char *ids_fields(const upstream_site *site, shoal_reply_scores_kind scores)
{
    switch (site->abilities.ids) {
    case SHOAL_UPSTREAM_IDS_RETURN:
        return ",\"return_token_ids\":true";
    case SHOAL_UPSTREAM_IDS_NAMES:
        return scores == SHOAL_SCORES_ECHO ? ",\"return_tokens_as_token_ids\":true"
                                           : ",\"logprobs\":1,\"return_tokens_as_token_ids\":true";
    case SHOAL_UPSTREAM_IDS_LOGPROBS:
        return scores == SHOAL_SCORES_ECHO ? "" : ",\"logprobs\":1";
    case SHOAL_UPSTREAM_IDS_PLAIN:
        return scores == SHOAL_SCORES_ECHO ? ",\"return_tokens_as_token_ids\":true" : "";
    case SHOAL_UPSTREAM_IDS_NONE:
    default:
        return "";
    }
}

shoal_status shoal_upstream_body_put(const upstream_site *site, const upstream_body *body,
                                     shoal_buf *buf, shoal_err *err)
{
    const char *model = site->abilities.model.id;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"model\":"));
    SHOAL_TRY(put_string(buf, model, strlen(model)));
    SHOAL_TRY(put_prompt(site, body, buf, err));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"max_tokens\":%zu,\"stream\":%s%s", body->n_max,
                                body->stream ? "true" : "false", ids_fields(site, body->scores)));
    switch (body->scores) {
    case SHOAL_SCORES_PROMPT:
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"prompt_logprobs\":1"));
        break;
    case SHOAL_SCORES_ECHO:
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"echo\":true,\"logprobs\":1"));
        break;
    case SHOAL_SCORES_NONE:
    default:
        break;
    }
    SHOAL_TRY(put_sampling(site, body->sampling, buf));
    return shoal_buf_appendf(buf, "}");
}
