/* SPDX-License-Identifier: Apache-2.0
 *
 * Routes, keys, and the wiring of queues and threads.
 */
#include "edge/http/api_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

shoal_api_settings shoal_api_settings_default(void)
{
    return (shoal_api_settings){
        .model_id = "",
        .version = "0",
        .mode_default = SHOAL_MODE_LOCAL,
        .n_tokens_default = 512,
        .n_calls_max = 512,
        .n_waiting_max = 32,
        .inline_bytes_max = 64 << 10,
        .deadline_ms = 600000,
        .replay_ms = 10000,
        .replay_bytes_max = 8 << 20,
        .n_detached_max = 4,
        .session_bytes_max = 64 << 20,
    };
}

/* --- routes ----------------------------------------------------------------------------------- */

static void answer_completion(shoal_api *api, shoal_http_exchange *exchange)
{
    if (shoal_api_resume(api, exchange)) {
        return;
    }
    shoal_api_call_begin(api, exchange, SHOAL_API_COMPLETION);
}

static void answer_chat(shoal_api *api, shoal_http_exchange *exchange)
{
    if (shoal_api_resume(api, exchange)) {
        return;
    }
    shoal_api_call_begin(api, exchange, SHOAL_API_CHAT);
}

typedef struct route {
    const char *path; /* ends in '/': a prefix */
    const char *allow;
    bool open; /* needs no key */
    void (*answer)(shoal_api *api, shoal_http_exchange *exchange);
} route;

static const route routes[] = {
    {"/v1/completions", "POST", false, answer_completion},
    {"/v1/chat/completions", "POST", false, answer_chat},
    {"/v1/models", "GET, HEAD", false, shoal_api_answer_models},
    {"/v1/models/", "GET, HEAD", false, shoal_api_answer_model},
    {"/v1/shoal/status", "GET, HEAD", false, shoal_api_answer_status},
    {"/v1/shoal/sessions", "GET", false, shoal_api_answer_sessions},
    {"/v1/shoal/sessions/", "GET, PUT, DELETE", false, shoal_api_answer_session},
    {"/v1/shoal/link", "POST", false, shoal_api_answer_link},
    {"/v1/shoal/streams/", "GET, DELETE", false, shoal_api_answer_stream},
    {"/health", "GET, HEAD", true, shoal_api_answer_health},
    {"/ready", "GET, HEAD", true, shoal_api_answer_ready},
    {"/metrics", "GET, HEAD", false, shoal_api_answer_metrics},
    {"/", "GET, HEAD", true, shoal_api_answer_page}, /* without a key: it holds no secret */
    {"/page/", "GET, HEAD", true, shoal_api_answer_page},
};

static const route *find_route(const char *path)
{
    for (size_t i = 0; i < SHOAL_COUNT(routes); i++) {
        size_t n = strlen(routes[i].path);
        bool prefix = n > 1 && routes[i].path[n - 1] == '/';
        if (prefix ? strncmp(path, routes[i].path, n) == 0 && path[n] != '\0'
                   : strcmp(path, routes[i].path) == 0) {
            return &routes[i];
        }
    }
    return NULL;
}

static bool method_ok(const route *r, const char *method)
{
    size_t n = strlen(method);
    for (const char *at = r->allow; *at; at += strspn(at, ", ")) {
        size_t n_one = strcspn(at, ",");
        if (n_one == n && strncmp(at, method, n) == 0) {
            return true;
        }
        at += n_one;
    }
    return false;
}

/* Takes the same time wherever the first difference is; only the length shows. */
static bool same_key(const char *a, const char *b)
{
    size_t n = strlen(a);
    if (n != strlen(b)) {
        return false;
    }
    unsigned char difference = 0;
    for (size_t i = 0; i < n; i++) {
        difference = (unsigned char)(difference | ((unsigned char)a[i] ^ (unsigned char)b[i]));
    }
    return difference == 0;
}

static bool key_ok(const shoal_api *api, const shoal_http_exchange *exchange)
{
    const char *given = shoal_http_header(exchange, "authorization");
    if (!given || strncasecmp(given, "bearer ", 7) != 0) {
        return false;
    }
    given += 7;
    return same_key(given + strspn(given, " "), api->api_key);
}

static void on_head(void *ctx, shoal_http_exchange *exchange, shoal_http_error *error)
{
    shoal_api *api = ctx;
    const char *path = shoal_http_path(exchange);
    const route *r = find_route(path);
    if (api->api_key && !(r && r->open) && !key_ok(api, exchange)) {
        (void)shoal_http_error_set(error, 401, NULL, "invalid_api_key",
                                   "this edge wants its key as \"Authorization: Bearer ...\"");
        return;
    }
    if (!r && strcmp(path, "/v1/embeddings") == 0) {
        (void)shoal_http_error_set(error, 404, NULL, "not_found",
                                   "this edge makes no embeddings: its models generate text");
        return;
    }
    if (!r) {
        (void)shoal_http_error_set(error, 404, NULL, "not_found",
                                   "there is nothing at %.200s; the API is at /v1/completions, "
                                   "/v1/chat/completions, /v1/models",
                                   path);
        return;
    }
    if (!method_ok(r, shoal_http_method(exchange))) {
        (void)shoal_http_error_set(error, 405, NULL, "method_not_allowed", "%s takes %s, not %s",
                                   r->path, r->allow, shoal_http_method(exchange));
        error->allow = r->allow;
    }
}

static void on_request(void *ctx, shoal_http_exchange *exchange)
{
    const route *r = find_route(shoal_http_path(exchange));
    SHOAL_ASSERT(r != NULL); /* on_head let it through */
    r->answer(ctx, exchange);
}

static void on_gone(void *ctx, shoal_http_exchange *exchange)
{
    shoal_api_call *call = shoal_http_user(exchange);
    if (!shoal_api_transfer_gone(ctx, exchange) && call) {
        shoal_api_call_gone(call);
    }
}

static void on_room(void *ctx, shoal_http_exchange *exchange)
{
    (void)exchange;
    const shoal_api *api = ctx;
    if (api->transfers) {
        shoal_wake_send(api->wake); /* not from within the server */
    }
}

/* A session is larger than any question. */
static size_t body_max(void *ctx, const shoal_http_exchange *exchange, const char **ret_key)
{
    const shoal_api *api = ctx;
    const route *r = find_route(shoal_http_path(exchange));
    if (!r || r->answer != shoal_api_answer_session) {
        return 0;
    }
    *ret_key = "session.body_max_kib";
    return api->settings.session_bytes_max;
}

static void on_drained(void *ctx)
{
    shoal_api *api = ctx;
    if (api->on_drained) {
        api->on_drained(api->on_drained_ctx);
    }
}

shoal_http_handler shoal_api_handler(shoal_api *api)
{
    return (shoal_http_handler){.ctx = api,
                                .on_head = on_head,
                                .body_max = body_max,
                                .on_room = on_room,
                                .on_request = on_request,
                                .on_gone = on_gone,
                                .on_drained = on_drained};
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status make_metrics(shoal_api *api)
{
    static const double seconds[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300};
    static const double each[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                  0.05,   0.1,   0.25,   0.5,   1};
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&api->duration,
         {"shoal_request_duration_seconds",
          "From the first byte of a generation's request to its "
          "end.",
          "", SHOAL_METRIC_HISTOGRAM, seconds, SHOAL_COUNT(seconds)}},
        {&api->per_token,
         {"shoal_time_per_output_token_seconds", "Mean time between tokens of one answer.", "",
          SHOAL_METRIC_HISTOGRAM, each, SHOAL_COUNT(each)}},
        {&api->prompt_tokens,
         {"shoal_prompt_tokens_total", "Prompt tokens of finished generations.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&api->link_up,
         {"shoal_link_up", "1 while the link to the cloud is ready, or rests and was.", "",
          SHOAL_METRIC_GAUGE, NULL, 0}},
    };
    for (size_t i = 0; api->registry && i < SHOAL_COUNT(rows); i++) {
        SHOAL_TRY(shoal_metrics_add(api->registry, &rows[i].def, rows[i].slot));
    }
    return SHOAL_OK;
}

static shoal_status start(shoal_api *api)
{
    size_t n_calls = api->settings.n_calls_max;
    SHOAL_TRY(make_metrics(api));
    SHOAL_TRY(shoal_wake_new(api->loop, shoal_api_drain_inbox, api, &api->wake));
    SHOAL_TRY(shoal_timer_new(api->loop, shoal_api_expire, api, &api->expiry));
    /* Each call has at most one fixed message of either kind under way, a transfer has one. */
    SHOAL_TRY(shoal_queue_new(SHOAL_API_TOKENS_QUEUED_MAX + 2 * n_calls + SHOAL_API_TRANSFERS_MAX,
                              &api->inbox));
    shoal_queue_set_wake(api->inbox, shoal_wake_send, api->wake);
    SHOAL_TRY(shoal_queue_new(SHOAL_API_JOBS_MAX, &api->jobs));
    return shoal_thread_start(SHOAL_ROLE_IO, "shoal-parse", shoal_api_work, api, &api->worker);
}

static size_t room_of(shoal_coop *coop)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(coop, &state);
    size_t room = shoal_coop_n_ctx(coop);
    return state.kv_tokens_max > 0 ? SHOAL_MIN(room, state.kv_tokens_max) : room;
}

shoal_api_deck *shoal_api_deck_ref(shoal_api_deck *deck)
{
    deck->refs++;
    return deck;
}

void shoal_api_deck_unref(shoal_api *api, shoal_api_deck *deck)
{
    if (!deck || --deck->refs > 0) {
        return;
    }
    const shoal_coop *coop = deck->coop;
    shoal_free(deck);
    if (api->watch.on_unused) {
        api->watch.on_unused(api->watch.ctx, coop);
    }
}

static shoal_api_deck *make_deck(const shoal_api_settings *settings, shoal_coop *coop,
                                 const shoal_model *model, shoal_mode mode_default,
                                 const char *model_id)
{
    shoal_api_deck *deck = shoal_calloc(1, sizeof *deck);
    if (deck) {
        deck->refs = 1;
        deck->coop = coop;
        deck->context.model = model;
        deck->context.mode_default = mode_default;
        deck->context.cancel_on_gone = settings->cancel_on_gone;
        deck->context.priority = settings->priority;
        deck->context.redact = settings->redact;
        deck->context.n_tokens_default = SHOAL_MAX(settings->n_tokens_default, (size_t)1);
        deck->context.n_room = room_of(coop);
        deck->context.adapters = shoal_coop_adapters(coop, &deck->context.n_adapters);
        (void)snprintf(deck->context.model_id, sizeof deck->context.model_id, "%s", model_id);
    }
    return deck;
}

shoal_status shoal_api_use(shoal_api *api, shoal_coop *coop, const shoal_model *model,
                           shoal_mode mode_default)
{
    shoal_api_deck *last = api->deck;
    shoal_api_deck *deck =
        make_deck(&api->settings, coop, model, mode_default, last->context.model_id);
    if (!deck) {
        return SHOAL_E_NOMEM;
    }
    shoal_coop_state state = {0};
    shoal_coop_state_get(last->coop, &state);
    if (state.link_cut) {
        shoal_coop_cut_link(coop, true);
    }
    api->deck = deck;
    shoal_api_deck_unref(api, last);
    return SHOAL_OK;
}

void shoal_api_set_watch(shoal_api *api, const shoal_api_watch *watch)
{
    api->watch = *watch;
}

shoal_status shoal_api_new(shoal_loop *loop, shoal_coop *coop, const shoal_model *model,
                           shoal_metrics *metrics, const shoal_api_settings *settings,
                           shoal_api **ret_api, shoal_err *err)
{
    if (strlen(settings->model_id) < 1 || strlen(settings->model_id) >= SHOAL_API_MODEL_ID_MAX ||
        settings->n_calls_max < 1 || settings->n_calls_max > 65536) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the API needs a model name of 1 to %d bytes and 1 to 65536 calls",
                             SHOAL_API_MODEL_ID_MAX - 1);
    }
    size_t n_adapters = 0;
    const shoal_adapter *adapters = shoal_coop_adapters(coop, &n_adapters);
    for (size_t i = 0; i < n_adapters; i++) {
        if (strcmp(adapters[i].name, settings->model_id) == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "model.adapters: \"%s\" is what the model itself is called: give "
                                 "the adapter another name, or set model.name",
                                 adapters[i].name);
        }
    }
    shoal_api *api = shoal_calloc(1, sizeof *api);
    if (!api) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the API");
    }
    shoal_clock clock = shoal_clock_real();
    shoal_api_json_init();
    api->loop = loop;
    api->registry = metrics;
    api->settings = *settings;
    api->started_ns = shoal_clock_now_ns(&clock);
    api->created = (int64_t)time(NULL);
    api->deck = make_deck(settings, coop, model, settings->mode_default, settings->model_id);
    shoal_status status = api->deck ? SHOAL_OK : SHOAL_E_NOMEM;
    if (status == SHOAL_OK && settings->api_key && settings->api_key[0]) {
        api->api_key = shoal_strdup(settings->api_key);
        status = api->api_key ? SHOAL_OK : SHOAL_E_NOMEM;
    }
    if (status == SHOAL_OK) {
        status = start(api);
    }
    if (status != SHOAL_OK) {
        shoal_api_free(api);
        return shoal_err_set(err, status, "cannot start the API: %s%s", shoal_status_text(status),
                             status == SHOAL_E_NOMEM ? ", or of threads" : "");
    }
    *ret_api = api;
    return SHOAL_OK;
}

void shoal_api_set_on_drained(shoal_api *api, void (*fn)(void *ctx), void *ctx)
{
    api->on_drained = fn;
    api->on_drained_ctx = ctx;
}

void shoal_api_drain(shoal_api *api)
{
    api->draining = true;
}

void shoal_api_cancel_all(shoal_api *api)
{
    for (shoal_api_call *call = api->calls; call; call = call->next) {
        if (call->submitted) {
            shoal_coop_cancel(call->deck->coop, call->generation);
        }
    }
}

size_t shoal_api_n_calls(const shoal_api *api)
{
    return api->n_calls;
}

static void drop_inbox(shoal_api *api)
{
    for (;;) {
        shoal_api_fixed_message *item = shoal_queue_pop(api->inbox);
        if (!item) {
            return;
        }
        if (item->kind == SHOAL_API_TOKEN) {
            shoal_free(item);
        }
    }
}

void shoal_api_free(shoal_api *api)
{
    if (!api) {
        return;
    }
    if (api->worker) {
        shoal_queue_close(api->jobs);
        shoal_thread_join(api->worker);
    }
    if (api->inbox) {
        drop_inbox(api);
    }
    while (api->calls) {
        shoal_api_call_free(api->calls);
    }
    shoal_api_transfers_free(api);
    shoal_queue_free(api->jobs);
    shoal_queue_free(api->inbox);
    shoal_wake_free(api->wake);
    if (api->expiry) {
        shoal_timer_free(api->expiry);
    }
    shoal_buf_fini(&api->scratch);
    shoal_api_deck_unref(api, api->deck);
    shoal_free(api->api_key);
    shoal_free(api);
}
