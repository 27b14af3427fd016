/* SPDX-License-Identifier: Apache-2.0
 *
 * Answers as JSON, in OpenAI's shape, with what Shoal adds under "shoal".
 */
#include "edge/http/api_internal.h"
#include "protocol/http/json_out.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static bool is_chat(const shoal_api_call *call)
{
    return call->kind == SHOAL_API_CHAT;
}

shoal_status shoal_api_put_envelope(shoal_api_call *call)
{
    uint64_t random[2] = {0, 0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        random[0] = call->started_ns; /* an id must differ, not be secret */
    }
    (void)snprintf(call->random, sizeof call->random, "%016" PRIx64 "%08" PRIx64, random[0],
                   random[1] >> 32);
    char hash[SHOAL_HASH_HEX];
    shoal_hash_hex(&call->deck->context.model->hash, hash);
    SHOAL_TRY(shoal_buf_appendf(&call->envelope,
                                "\"id\":\"%s-%s\",\"created\":%lld,"
                                "\"system_fingerprint\":\"fp_%.10s\",\"model\":",
                                is_chat(call) ? "chatcmpl" : "cmpl", call->random,
                                (long long)time(NULL), hash));
    const shoal_adapter *adapter = call->request->adapter;
    return shoal_json_put_text(&call->envelope,
                               adapter ? adapter->name : call->deck->context.model_id);
}

void shoal_api_rewind(shoal_api_call *call, size_t n_seen)
{
    call->event_first = is_chat(call) ? 0 : 1; /* number 0 is the role's; tokens begin at 1 */
    call->event_i = call->event_first;
    call->n_seen = n_seen;
    call->told = (shoal_api_told){.detok.started = true}; /* an answer goes on behind its prompt */
    call->restorer = (shoal_redact_restorer){.n_held = 0};
    shoal_api_tools_start(&call->tools, call->request);
}

shoal_status shoal_api_begin_event(shoal_buf *buf, shoal_api_call *call)
{
    call->event_at = buf->length;
    return call->resumable ? shoal_buf_appendf(buf, "id: %s:%zu\n", call->random, call->event_i)
                           : SHOAL_OK;
}

shoal_status shoal_api_end_event(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_TRY(shoal_buf_append(buf, "\n\n", 2));
    if (call->event_i++ < call->n_seen) {
        buf->length = call->event_at;
        buf->data[buf->length] = '\0';
    }
    return SHOAL_OK;
}

static shoal_status put_start(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_TRY(shoal_api_begin_event(buf, call));
    return shoal_buf_appendf(buf, "data: {%s,\"object\":\"%s\"", call->envelope.data,
                             is_chat(call) ? "chat.completion.chunk" : "text_completion");
}

/* usage stays null until the chunk that carries it, for those who asked for it. */
static shoal_status put_null_usage(shoal_buf *buf, const shoal_api_call *call)
{
    return call->request->include_usage ? shoal_buf_appendf(buf, ",\"usage\":null") : SHOAL_OK;
}

shoal_status shoal_api_put_role(shoal_buf *buf, shoal_api_call *call)
{
    if (!is_chat(call)) {
        return SHOAL_OK;
    }
    SHOAL_TRY(put_start(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                                     "\"content\":\"\"},\"logprobs\":null,"
                                     "\"finish_reason\":null}]"));
    SHOAL_TRY(put_null_usage(buf, call));
    SHOAL_TRY(shoal_buf_append(buf, "}", 1));
    return shoal_api_end_event(buf, call);
}

shoal_status shoal_api_restore(const shoal_api_message *m, shoal_str *ret_text)
{
    shoal_api_call *call = m->call;
    const shoal_redact_map *map = call->request->redacted;
    *ret_text = (shoal_str){.data = m->text, .length = m->n_text};
    if (!map) {
        return SHOAL_OK;
    }
    shoal_buf_reset(&call->restored);
    SHOAL_TRY(shoal_buf_append(&call->restored, "", 0));
    SHOAL_TRY(shoal_redact_restore(map, &call->restorer, m->text, m->n_text, &call->restored));
    *ret_text = (shoal_str){.data = call->restored.data, .length = call->restored.length};
    return SHOAL_OK;
}

/* What began like a placeholder and was none, at the end; nothing comes twice. */
static shoal_status restore_end(shoal_api_call *call)
{
    shoal_buf_reset(&call->restored);
    return shoal_redact_restore_end(&call->restorer, &call->restored);
}

shoal_status shoal_api_put_token(shoal_buf *buf, const shoal_api_message *m, shoal_str text)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"id\":%" PRId32 ",\"text\":", m->id));
    SHOAL_TRY(shoal_json_put_string(buf, text.data, text.length));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"tier\":\"%s\",\"confidence\":", shoal_tier_name(m->tier)));
    SHOAL_TRY(shoal_json_put_real(buf, (double)m->confidence, 4));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"round\":%" PRIu32 ",\"ms\":", m->round));
    SHOAL_TRY(shoal_json_put_real(buf, round(m->ms * 100) / 100, 9));
    if (m->unassisted != SHOAL_UNASSISTED_NOT) {
        SHOAL_TRY(
            shoal_buf_appendf(buf, ",\"unassisted\":\"%s\"", shoal_unassisted_name(m->unassisted)));
    }
    return shoal_buf_appendf(buf, "}");
}

shoal_status shoal_api_put_chunk(shoal_buf *buf, const shoal_api_message *m)
{
    shoal_api_call *call = m->call;
    shoal_str text;
    SHOAL_TRY(shoal_api_restore(m, &text));
    SHOAL_TRY(put_start(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"choices\":[{\"index\":0,%s",
                                is_chat(call) ? "\"delta\":{" : "\"text\":"));
    SHOAL_TRY(is_chat(call) ? shoal_api_put_delta(buf, call, text.data, text.length)
                            : shoal_json_put_string(buf, text.data, text.length));
    SHOAL_TRY(shoal_buf_appendf(buf, "%s,\"logprobs\":", is_chat(call) ? "}" : ""));
    SHOAL_TRY(shoal_api_put_next_logprobs(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"finish_reason\":null}]"));
    SHOAL_TRY(put_null_usage(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"shoal\":{\"tokens\":["));
    SHOAL_TRY(shoal_api_put_token(buf, m, text));
    SHOAL_TRY(shoal_buf_append(buf, "]}}", 3));
    return shoal_api_end_event(buf, call);
}

static const char *finish_name(const shoal_api_call *call)
{
    return call->tools.phase == SHOAL_API_CALLED ? "tool_calls"
           : call->finish == SHOAL_FINISH_LENGTH ? "length"
                                                 : "stop";
}

/* Tokens after the first one per second; the first one waits for the prompt. */
static double rate(const shoal_usage *u)
{
    double ms = u->total_ms - u->first_token_ms;
    return u->n_generated > 1 && ms > 0 ? 1000.0 * (double)(u->n_generated - 1) / ms : 0;
}

static shoal_status put_usage(shoal_buf *buf, const shoal_usage *u)
{
    SHOAL_TRY(
        shoal_buf_appendf(buf,
                          "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                          "\"prompt_tokens_details\":{\"cached_tokens\":%zu},",
                          u->n_prompt, u->n_generated, u->n_prompt + u->n_generated,
                          SHOAL_MAX(u->n_cached, u->n_kept)));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "\"shoal\":{\"tiers\":{\"exit\":%zu,\"edge\":%zu,\"cloud\":%zu},",
                                u->n_by_tier[SHOAL_TIER_EXIT], u->n_by_tier[SHOAL_TIER_EDGE],
                                u->n_by_tier[SHOAL_TIER_CLOUD]));
    SHOAL_TRY(shoal_buf_appendf(
        buf, "\"unassisted\":%zu,\"kept_tokens\":%zu,\"prefilled_tokens\":%zu,",
        u->n_unassisted[SHOAL_UNASSISTED_AWAY] + u->n_unassisted[SHOAL_UNASSISTED_BUDGET],
        u->n_kept, u->n_fed));
    SHOAL_TRY(shoal_buf_appendf(buf, "\"fetched_tokens\":%zu,\"archived_tokens\":%zu,\"fetch_ms\":",
                                u->n_fetched, u->n_archived));
    SHOAL_TRY(shoal_json_put_real(buf, round(u->fetch_ms * 100) / 100, 9));
    SHOAL_TRY(shoal_buf_append(buf, ",", 1));
    SHOAL_TRY(shoal_buf_appendf(buf, "\"edge_steps\":%zu,\"edge_layers\":%zu,\"layers_per_token\":",
                                u->n_steps, u->n_layers));
    double layers = u->n_steps > 0 ? (double)u->n_layers / (double)u->n_steps : 0;
    SHOAL_TRY(shoal_json_put_real(buf, round(layers * 1000) / 1000, 9));
    SHOAL_TRY(shoal_buf_append(buf, ",", 1));
    SHOAL_TRY(shoal_buf_appendf(buf, "\"exit_checked\":%zu,\"exit_agreed\":%zu,", u->n_exit_checked,
                                u->n_exit_agreed));
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "\"drafted\":%zu,\"accepted\":%zu,\"rounds\":%zu,"
        "\"bytes_up\":%" PRIu64 ",\"bytes_down\":%" PRIu64 ",\"round_up_max\":%" PRIu32
        ",\"round_down_max\":%" PRIu32 ",\"reconnects\":%" PRIu32 ",\"first_token_ms\":",
        u->n_drafted, u->n_accepted, u->n_rounds, u->bytes_up, u->bytes_down, u->round_up_max,
        u->round_down_max, u->n_reconnects));
    SHOAL_TRY(shoal_json_put_real(buf, round(u->first_token_ms * 100) / 100, 9));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"tokens_per_s\":"));
    SHOAL_TRY(shoal_json_put_real(buf, rate(u), 5));
    return shoal_buf_appendf(buf, "}}");
}

/* What the last chunk says: the text that was held until now, most often none. */
static shoal_status put_rest(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_TRY(restore_end(call));
    if (is_chat(call) && call->restored.length == 0) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"delta\":{"));
        return shoal_api_put_last_delta(buf, call);
    }
    SHOAL_TRY(shoal_buf_appendf(buf, is_chat(call) ? "\"delta\":{\"content\":" : "\"text\":"));
    return shoal_json_put_string(buf, call->restored.data ? call->restored.data : "",
                                 call->restored.length);
}

shoal_status shoal_api_put_finish(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_TRY(put_start(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"choices\":[{\"index\":0,"));
    SHOAL_TRY(put_rest(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, "%s,\"logprobs\":null,\"finish_reason\":\"%s\"}]",
                                is_chat(call) ? "}" : "", finish_name(call)));
    SHOAL_TRY(put_null_usage(buf, call));
    SHOAL_TRY(shoal_buf_append(buf, "}", 1));
    SHOAL_TRY(shoal_api_end_event(buf, call));
    if (call->request->include_usage) {
        SHOAL_TRY(put_start(buf, call));
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"choices\":[],\"usage\":"));
        SHOAL_TRY(put_usage(buf, &call->usage));
        SHOAL_TRY(shoal_buf_append(buf, "}", 1));
        SHOAL_TRY(shoal_api_end_event(buf, call));
    }
    SHOAL_TRY(shoal_api_begin_event(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, "data: [DONE]"));
    return shoal_api_end_event(buf, call);
}

shoal_status shoal_api_put_answer(shoal_buf *buf, shoal_api_call *call)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = SHOAL_API_ANSWER_MAX};
    if (call->request->echo) {
        SHOAL_TRY(shoal_api_put_prompt_text(&text, call));
    }
    SHOAL_TRY(restore_end(call));
    SHOAL_TRY(shoal_buf_append(&text, call->text.data ? call->text.data : "", call->text.length));
    SHOAL_TRY(shoal_buf_append(&text, call->restored.data ? call->restored.data : "",
                               call->restored.length));
    SHOAL_TRY(shoal_buf_appendf(
        buf, "{%s,\"object\":\"%s\",\"choices\":[{\"index\":0,\"%s\":", call->envelope.data,
        is_chat(call) ? "chat.completion" : "text_completion", is_chat(call) ? "message" : "text"));
    SHOAL_TRY(is_chat(call) ? shoal_api_put_message(buf, call, &text)
                            : shoal_json_put_string(buf, text.data, text.length));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"logprobs\":"));
    SHOAL_TRY(shoal_api_put_logprobs(buf, call));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"finish_reason\":\"%s\"}],\"usage\":", finish_name(call)));
    SHOAL_TRY(put_usage(buf, &call->usage));
    if (call->request->tell_tokens) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"shoal\":{\"tokens\":["));
        SHOAL_TRY(
            shoal_buf_append(buf, call->tokens.data ? call->tokens.data : "", call->tokens.length));
        SHOAL_TRY(shoal_buf_appendf(buf, "]}"));
    }
    return shoal_buf_appendf(buf, "}");
}
