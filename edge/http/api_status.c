/* SPDX-License-Identifier: Apache-2.0
 *
 * The routes that generate nothing: all answer from copies, in constant time.
 */
#include "edge/http/api_internal.h"
#include "protocol/http/json_out.h"

#include "common/base/clock.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void respond_json(shoal_http_exchange *exchange, int status, const shoal_buf *body)
{
    shoal_http_respond(exchange, status, "application/json",
                       status == 503 ? "Retry-After: 1\r\nCache-Control: no-store\r\n"
                                     : "Cache-Control: no-store\r\n",
                       body->data, body->length);
}

static void respond_or_fail(shoal_http_exchange *exchange, shoal_status status,
                            const shoal_buf *body)
{
    if (status == SHOAL_OK) {
        respond_json(exchange, 200, body);
        return;
    }
    shoal_http_error error = {0};
    (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory for the answer");
    shoal_http_fail(exchange, &error);
}

void shoal_api_answer_health(shoal_api *api, shoal_http_exchange *exchange)
{
    (void)api;
    static const char body[] = "{\"status\":\"ok\"}";
    shoal_http_respond(exchange, 200, "application/json", "Cache-Control: no-store\r\n", body,
                       sizeof body - 1);
}

/* The word for /ready and the status: ready, draining or full. */
static const char *readiness(shoal_api *api, const shoal_coop_state *state)
{
    if (api->draining) {
        return "draining";
    }
    bool full =
        api->n_calls >= api->settings.n_calls_max ||
        (api->settings.n_waiting_max > 0 && state->n_waiting >= api->settings.n_waiting_max);
    return full ? "full" : "ready";
}

void shoal_api_answer_ready(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(api->deck->coop, &state);
    const char *word = readiness(api, &state);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    if (shoal_buf_appendf(&body, "{\"status\":\"%s\"}", word) != SHOAL_OK) {
        respond_or_fail(exchange, SHOAL_E_NOMEM, &body);
        return;
    }
    respond_json(exchange, strcmp(word, "ready") == 0 ? 200 : 503, &body);
}

void shoal_api_answer_metrics(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(api->deck->coop, &state);
    shoal_metric_set(api->link_up, state.link == SHOAL_RPC_LINK_READY || state.link_rests ? 1 : 0);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    shoal_status status = api->registry ? shoal_metrics_render(api->registry, &body) : SHOAL_OK;
    if (status != SHOAL_OK) {
        respond_or_fail(exchange, status, &body);
        return;
    }
    shoal_http_respond(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", NULL,
                       body.data ? body.data : "", body.length);
}

/* An adapter's parent is the model: what vLLM tells of them, too. */
static shoal_status put_model(shoal_buf *buf, const shoal_api *api, const char *id)
{
    const char *model_id = api->deck->context.model_id;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"id\":"));
    SHOAL_TRY(shoal_json_put_text(buf, id));
    if (strcmp(id, model_id) != 0) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"parent\":"));
        SHOAL_TRY(shoal_json_put_text(buf, model_id));
    }
    return shoal_buf_appendf(buf,
                             ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"shoal\","
                             "\"context_length\":%zu}",
                             (long long)api->created, api->deck->context.n_room);
}

void shoal_api_answer_models(shoal_api *api, shoal_http_exchange *exchange)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    shoal_status status = shoal_buf_appendf(&body, "{\"object\":\"list\",\"data\":[");
    if (status == SHOAL_OK) {
        status = put_model(&body, api, api->deck->context.model_id);
    }
    for (size_t i = 0; status == SHOAL_OK && i < api->deck->context.n_adapters; i++) {
        status = shoal_buf_append(&body, ",", 1);
        if (status == SHOAL_OK) {
            status = put_model(&body, api, api->deck->context.adapters[i].name);
        }
    }
    if (status == SHOAL_OK) {
        status = shoal_buf_appendf(&body, "]}");
    }
    respond_or_fail(exchange, status, &body);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Whether the %XX-encoded text means name. */
static bool same_name(const char *encoded, const char *name)
{
    while (*encoded != '\0' && *name != '\0') {
        char c = *encoded++;
        if (c == '%') {
            int high = hex_digit(encoded[0]);
            int low = high >= 0 ? hex_digit(encoded[1]) : -1;
            if (low < 0) {
                return false;
            }
            c = (char)(high * 16 + low);
            encoded += 2;
        }
        if (c != *name++) {
            return false;
        }
    }
    return *encoded == '\0' && *name == '\0';
}

void shoal_api_answer_model(shoal_api *api, shoal_http_exchange *exchange)
{
    const char *name = shoal_http_path(exchange) + strlen("/v1/models/");
    const shoal_api_context *context = &api->deck->context;
    const size_t n_adapters = context->n_adapters;
    const char *found = same_name(name, context->model_id) ? context->model_id : NULL;
    for (size_t i = 0; !found && i < n_adapters; i++) {
        found = same_name(name, context->adapters[i].name) ? context->adapters[i].name : NULL;
    }
    if (!found) {
        shoal_http_error error = {0};
        (void)shoal_api_no_model(context, name, &error);
        shoal_http_fail(exchange, &error);
        return;
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    respond_or_fail(exchange, put_model(&body, api, found), &body);
}

/* --- status ----------------------------------------------------------------------------------- */

static const char *link_name(shoal_rpc_link link)
{
    switch (link) {
    case SHOAL_RPC_LINK_IDLE:
        return "idle";
    case SHOAL_RPC_LINK_CONNECTING:
        return "connecting";
    case SHOAL_RPC_LINK_READY:
        return "ready";
    case SHOAL_RPC_LINK_DOWN:
        return "down";
    }
    return "unknown";
}

static shoal_status put_hash(shoal_buf *buf, const char *name, const shoal_hash *hash)
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(hash, hex);
    return shoal_buf_appendf(buf, ",\"%s\":\"%s\"", name, hex);
}

static shoal_status put_own_model(shoal_buf *buf, const shoal_api *api)
{
    const shoal_model *model = api->deck->context.model;
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"model\":{\"id\":"));
    SHOAL_TRY(shoal_json_put_text(buf, api->deck->context.model_id));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"name\":"));
    SHOAL_TRY(shoal_json_put_text(buf, model->hp.name));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                ",\"arch\":\"%s\",\"params\":%" PRIu64 ",\"bytes\":%" PRIu64
                                ",\"layers\":%zu,\"vocab\":%zu,\"context\":%zu,\"template\":",
                                model->hp.arch, model->n_params, model->file_bytes,
                                model->hp.n_layers, model->hp.n_vocab, api->deck->context.n_room));
    SHOAL_TRY(shoal_json_put_text(buf, shoal_chat_template_name(model->tokenizer)));
    SHOAL_TRY(put_hash(buf, "hash", &model->hash));
    SHOAL_TRY(put_hash(buf, "tokenizer", shoal_tokenizer_hash(model->tokenizer)));
    return shoal_buf_appendf(buf, "}");
}

static shoal_status put_cloud(shoal_buf *buf, const shoal_api *api, const shoal_coop_state *state)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"cloud\":{\"configured\":%s,\"link\":",
                                state->cloud_configured ? "true" : "false"));
    SHOAL_TRY(shoal_json_put_text(buf, state->cloud_configured ? link_name(state->link) : NULL));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"switch\":%s,\"cut\":%s,\"round_trip_ms\":",
                                api->settings.link_switch ? "true" : "false",
                                state->link_cut ? "true" : "false"));
    SHOAL_TRY(state->round_trip_ms > 0
                  ? shoal_json_put_real(buf, round(state->round_trip_ms * 100) / 100, 9)
                  : shoal_json_put_text(buf, NULL));
    SHOAL_TRY(shoal_buf_appendf(
        buf, ",\"given_up\":%s,\"trouble\":", state->cloud_given_up ? "true" : "false"));
    SHOAL_TRY(shoal_json_put_text(buf, state->cloud_trouble[0] ? state->cloud_trouble : NULL));
    if (state->cloud_described) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"name\":"));
        SHOAL_TRY(shoal_json_put_text(buf, state->cloud.name));
        SHOAL_TRY(put_hash(buf, "model", &state->cloud.model));
        SHOAL_TRY(put_hash(buf, "tokenizer", &state->cloud.tokenizer));
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"vocab\":%" PRIu32 ",\"context\":%" PRIu32,
                                    state->cloud.n_vocab, state->cloud.n_ctx));
        bool named = state->cloud.backend[0] != '\0';
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"backend\":"));
        SHOAL_TRY(shoal_json_put_text(buf, named ? state->cloud.backend : "native"));
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"verify\":\"%s\",\"adapters\":[",
                                    shoal_verify_name(state->cloud.verify)));
        for (size_t i = 0; i < state->cloud.n_adapters; i++) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%s", i > 0 ? "," : ""));
            SHOAL_TRY(shoal_json_put_text(buf, state->cloud.adapters[i].name));
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "]"));
    }
    return shoal_buf_appendf(buf, "}");
}

/* A measured number, null before it was measured. */
static shoal_status put_measured(shoal_buf *buf, const char *name, double x)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"%s\":", name));
    return x > 0 ? shoal_json_put_real(buf, round(x * 1000) / 1000, 9)
                 : shoal_json_put_text(buf, NULL);
}

static shoal_status put_speculation(shoal_buf *buf, const shoal_coop_speculation *s)
{
    SHOAL_TRY(shoal_buf_appendf(buf,
                                ",\"speculation\":{\"draft\":\"%s\",\"draft_tokens\":%zu"
                                ",\"window_tokens\":%zu,\"acceptance\":",
                                s->fixed ? "fixed" : "auto", s->n_draft, s->n_window));
    SHOAL_TRY(shoal_json_put_real(buf, round(s->acceptance * 1000) / 1000, 9));
    SHOAL_TRY(put_measured(buf, "edge_token_ms", s->edge_token_ms));
    SHOAL_TRY(put_measured(buf, "cloud_step_ms", s->cloud_step_ms));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"price\":"));
    SHOAL_TRY(shoal_json_put_real(buf, round(s->price * 1000) / 1000, 9));
    return shoal_buf_appendf(buf, "}");
}

/* What mode assist goes by, and what the budgets leave of it. */
static shoal_status put_assist(shoal_buf *buf, const shoal_coop_state *state)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"assist\":{\"unsure\":"));
    SHOAL_TRY(shoal_json_put_real(buf, state->unsure, 4));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"budget_level\":"));
    SHOAL_TRY(shoal_json_put_real(buf, state->spend_level, 4));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"budgets\":["));
    bool first = true;
    for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
        for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
            uint64_t limit = state->spend.limits.most[k][p];
            if (limit > 0) {
                SHOAL_TRY(
                    shoal_buf_appendf(buf,
                                      "%s{\"what\":\"%s\",\"per\":\"%s\",\"limit\":%" PRIu64
                                      ",\"used\":%" PRIu64 ",\"ends_in_s\":%" PRIu64 "}",
                                      first ? "" : ",", shoal_spend_kind_name((shoal_spend_kind)k),
                                      shoal_spend_period_name((shoal_spend_period)p), limit,
                                      state->spend.used[k][p], state->spend_left_ms[p] / 1000));
                first = false;
            }
        }
    }
    return shoal_buf_appendf(buf, "]}");
}

/* What answers cost this device; only with a meter. null: not known. */
static shoal_status put_energy(shoal_buf *buf, const shoal_coop_state *state)
{
    const shoal_coop_energy_state *e = &state->energy;
    const shoal_coop_totals *t = &state->totals;
    if (e->kind == SHOAL_POWER_NONE) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"energy\":{\"meter\":\"%s\",\"up\":%s",
                                shoal_power_kind_name(e->kind), e->up ? "true" : "false"));
    SHOAL_TRY(put_measured(buf, "computing_w", e->costs.computing_w));
    SHOAL_TRY(put_measured(buf, "waiting_w", e->costs.waiting_w));
    SHOAL_TRY(put_measured(buf, "edge_token_mj", e->costs.here_uj / 1e3));
    SHOAL_TRY(put_measured(buf, "cloud_token_mj", e->costs.cloud_uj / 1e3));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"budget_level\":"));
    SHOAL_TRY(shoal_json_put_real(buf, e->level, 4));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"used_j\":%.6f,\"cloud_only_j\":%.6f,\"saved_j\":%.6f",
                                (double)t->energy_uj / 1e6, (double)t->energy_cloud_only_uj / 1e6,
                                ((double)t->energy_cloud_only_uj - (double)t->energy_uj) / 1e6));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"trouble\":"));
    SHOAL_TRY(shoal_json_put_text(buf, e->trouble[0] ? e->trouble : NULL));
    return shoal_buf_appendf(buf, "}");
}

/* What a fetch of a prompt's KV is weighed by; null: not measured. */
static shoal_status put_fetch(shoal_buf *buf, const shoal_coop_fetch_state *s)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"fetch\":{\"quarantined\":%s",
                                s->quarantined ? "true" : "false"));
    SHOAL_TRY(put_measured(buf, "prefill_token_ms", s->prefill_us / 1e3));
    SHOAL_TRY(put_measured(buf, "cloud_prefill_token_ms", s->peer_prefill_us / 1e3));
    SHOAL_TRY(put_measured(buf, "down_kb_s", s->down_bytes_s / 1e3));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"trouble\":"));
    SHOAL_TRY(shoal_json_put_text(buf, s->trouble[0] ? s->trouble : NULL));
    return shoal_buf_appendf(buf, "}");
}

static shoal_status put_totals(shoal_buf *buf, uint64_t n_requests, const shoal_coop_totals *t)
{
    return shoal_buf_appendf(
        buf,
        ",\"totals\":{\"requests\":%" PRIu64 ",\"prompt_tokens\":%" PRIu64
        ",\"tokens\":{\"exit\":%" PRIu64 ",\"edge\":%" PRIu64 ",\"cloud\":%" PRIu64
        "},\"unassisted\":%" PRIu64 ",\"drafted\":%" PRIu64 ",\"accepted\":%" PRIu64
        ",\"rounds\":%" PRIu64 ",\"cloud_steps\":%" PRIu64 ",\"edge_steps\":%" PRIu64
        ",\"edge_layers\":%" PRIu64 ",\"exit_checked\":%" PRIu64 ",\"exit_agreed\":%" PRIu64
        ",\"saved\":%" PRIu64 ",\"reconnects\":%" PRIu64 ",\"bytes_up\":%" PRIu64
        ",\"bytes_down\":%" PRIu64 ",\"packet_bytes_up\":%" PRIu64 ",\"packet_bytes_down\":%" PRIu64
        "}",
        n_requests, t->n_prompt, t->n_by_tier[SHOAL_TIER_EXIT], t->n_by_tier[SHOAL_TIER_EDGE],
        t->n_by_tier[SHOAL_TIER_CLOUD], t->n_unassisted, t->n_drafted, t->n_accepted, t->n_rounds,
        t->n_cloud_steps, t->n_steps, t->n_layers, t->n_exit_checked, t->n_exit_agreed, t->n_saved,
        t->n_reconnects, t->bytes_up, t->bytes_down, t->packet_bytes_up, t->packet_bytes_down);
}

static shoal_status put_status(shoal_buf *buf, shoal_api *api, const shoal_coop_state *state)
{
    shoal_clock clock = shoal_clock_real();
    uint64_t up_s = (shoal_clock_now_ns(&clock) - api->started_ns) / 1000000000u;
    SHOAL_TRY(
        shoal_buf_appendf(buf,
                          "{\"program\":\"shoal-edge\",\"version\":\"%s\",\"uptime_s\":%" PRIu64
                          ",\"status\":\"%s\",\"mode\":\"%s\"",
                          api->settings.version, up_s, readiness(api, state),
                          shoal_mode_name(api->deck->context.mode_default)));
    SHOAL_TRY(put_own_model(buf, api));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                ",\"requests\":{\"active\":%zu,\"waiting\":%zu,\"open\":%zu},"
                                "\"kv\":{\"pages_used\":%zu,\"pages\":%zu}",
                                state->n_active, state->n_waiting, api->n_calls,
                                state->kv_pages_used, state->kv_pages));
    SHOAL_TRY(put_cloud(buf, api, state));
    SHOAL_TRY(put_speculation(buf, &state->speculation));
    SHOAL_TRY(put_assist(buf, state));
    SHOAL_TRY(put_energy(buf, state));
    SHOAL_TRY(put_fetch(buf, &state->fetch));
    SHOAL_TRY(put_totals(buf, api->n_requests, &state->totals));
    if (api->watch.put_bundle) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\"bundle\":"));
        SHOAL_TRY(api->watch.put_bundle(api->watch.ctx, buf));
    }
    return shoal_buf_appendf(buf, "}");
}

void shoal_api_answer_status(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(api->deck->coop, &state);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    respond_or_fail(exchange, put_status(&body, api, &state), &body);
}
