/* SPDX-License-Identifier: Apache-2.0
 *
 * The public face: making, submitting, stopping. The engine's loop is in loop.c.
 */
#include "edge/coop/loop.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>
#include <time.h>

shoal_coop_settings shoal_coop_settings_default(void)
{
    return (shoal_coop_settings){
        .cloud_target = NULL,
        .keepalive_ms = 30000,
        .rest_ms = 900000,
        .n_threads = 2,
        .cpu_mask = SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512,
        .kv_bytes_max = (size_t)64 << 20,
        .n_ctx_max = 0,
        .kv_type = -1,
        .n_active_max = 8,
        .n_waiting_max = 32,
        .n_draft = 0,
        .n_window = 0,
        .plain_gain = 1,
        .spare_share = 0.05,
        .reconnect_ms = 10000,
        .open_ms = 5000,
        .retry_burst = 64,
        .retries_per_s = 20,
        .exit_policy = "off",
        .n_exit_waiting = 16,
        .fault_flip_ratio = 0,
        .route = shoal_route_settings_default(),
        .patience_ms = 2000,
        .n_sessions_max = 8,
        .session_percent_max = 50,
        .fetching = SHOAL_COOP_FETCH_EXACT,
        .fetch_ms = 30000,
        .fetch_quarantine_ms = 600000,
    };
}

static shoal_status check_settings(const shoal_coop_settings *s, shoal_err *err)
{
    const struct {
        const char *name;
        size_t value;
        size_t min;
        size_t max;
    } rows[] = {
        {"active requests", s->n_active_max, 1, 256},
        {"waiting requests", s->n_waiting_max, 0, 65536},
        {"tokens that wait for their depth", s->n_exit_waiting, 1, SHOAL_DEPTH_WAITING_MAX},
        {"adapters", s->n_adapters, 0, SHOAL_ADAPTERS_MAX},
        {"draft tokens", s->n_draft, 0, SHOAL_PACE_DRAFT_MAX},
        {"kept sessions", s->n_sessions_max, 0, SHOAL_SESSIONS_MAX},
        {"percent of the KV for kept sessions", s->session_percent_max, 0, 100},
        {"window tokens", s->n_window, s->n_window > 0 ? s->n_draft : 0, SHOAL_PACE_WINDOW_MAX},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].value < rows[i].min || rows[i].value > rows[i].max) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: %zu is outside %zu to %zu",
                                 rows[i].name, rows[i].value, rows[i].min, rows[i].max);
        }
    }
    if (s->patience_ms < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "patience for the cloud must be at least 1 ms");
    }
    if (s->open_ms < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "time for Opened must be at least 1 ms");
    }
    if (s->fetch_ms < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "time for a fetch must be at least 1 ms");
    }
    if (!(s->energy.idle_w >= 0 && s->energy.radio_nj >= 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "idle watts and nJ per byte must not be below 0");
    }
    if (!(s->plain_gain >= 1)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "plain gain must be at least 1");
    }
    if (!(s->spare_share >= 0 && s->spare_share <= 1)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "spare share must lie in 0 to 1");
    }
    if (!(s->fault_flip_ratio >= 0 && s->fault_flip_ratio <= 1)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "fault flip ratio must lie in 0 to 1");
    }
    return SHOAL_OK;
}

static size_t lora_rank_max(const shoal_coop_settings *s)
{
    return SHOAL_MAX(s->lora ? shoal_lora_rank(s->lora) : 0,
                     shoal_adapters_rank_max(s->adapters, s->n_adapters));
}

static shoal_status make_engine(shoal_coop *coop, shoal_err *err)
{
    shoal_engine_settings es = shoal_engine_settings_default();
    es.n_threads = coop->settings.n_threads;
    es.pin_threads = coop->settings.pin_threads;
    es.cpu_mask = coop->settings.cpu_mask;
    es.n_ctx = coop->settings.n_ctx_max;
    es.kv_bytes = coop->settings.kv_bytes_max;
    es.kv_type = coop->settings.kv_type;
    es.kv_levels = coop->settings.kv_levels;
    es.kv_evict = coop->settings.kv_evict;
    es.kv_budget = coop->settings.kv_budget;
    es.kv_hadamard = coop->settings.kv_hadamard;
    es.n_rows_max = COOP_ROWS_MAX;
    es.n_loras_max = coop->settings.n_adapters + (coop->settings.lora != NULL);
    es.lora_rank_max = SHOAL_MAX(lora_rank_max(&coop->settings), (size_t)1);
    es.n_logits_max = coop->settings.n_active_max + COOP_SCORE_ROWS;
    es.n_logits_max += coop->model->hp.n_exits > 0 ? COOP_CHECK_ROWS : 0;
    SHOAL_TRY(shoal_engine_new(coop->model, &es, &coop->engine, err));
    if (shoal_sampler_new(coop->model->hp.n_vocab, shoal_engine_kernels(coop->engine),
                          &coop->sampler) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sampler");
    }
    coop->spans = shoal_calloc(coop->settings.n_active_max, sizeof *coop->spans);
    coop->span_gens = shoal_calloc(coop->settings.n_active_max, sizeof(gen *));
    if (!coop->spans || !coop->span_gens) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the batch");
    }
    size_t n_pages = shoal_kv_pool_n_pages(shoal_engine_kv(coop->engine));
    if (coop->settings.n_sessions_max > 0 &&
        shoal_keep_new(coop->settings.n_sessions_max,
                       n_pages * coop->settings.session_percent_max / 100,
                       &coop->keep) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for kept sessions");
    }
    SHOAL_TRY(shoal_session_open_archive(coop, err));
    return shoal_session_identify(coop) == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the form of the KV");
}

/* A coop after another goes on with its metrics: nothing is added while they are read. */
static shoal_status take_metric(shoal_metrics *registry, const shoal_metric_def *def,
                                shoal_metric **slot)
{
    *slot = shoal_metrics_find(registry, def->name, def->labels);
    return *slot ? SHOAL_OK : shoal_metrics_add(registry, def, slot);
}

/* Of the budgets that are set. */
static shoal_status make_spend_metrics(shoal_coop *coop, shoal_metrics *registry, shoal_err *err)
{
    static const char *const labels[SHOAL_SPEND_KINDS][SHOAL_SPEND_PERIODS] = {
        {"what=\"cloud_tokens\",per=\"hour\"", "what=\"cloud_tokens\",per=\"day\"",
         "what=\"cloud_tokens\",per=\"month\""},
        {"what=\"uplink_bytes\",per=\"hour\"", "what=\"uplink_bytes\",per=\"day\"",
         "what=\"uplink_bytes\",per=\"month\""},
        {"what=\"energy_uj\",per=\"hour\"", "what=\"energy_uj\",per=\"day\"",
         "what=\"energy_uj\",per=\"month\""}};
    for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
        for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
            const shoal_metric_def def = {"shoal_budget_used_ratio",
                                          "Share of a budget that is used in its present period.",
                                          labels[k][p],
                                          SHOAL_METRIC_GAUGE,
                                          NULL,
                                          0};
            if (coop->settings.spend.most[k][p] > 0 &&
                take_metric(registry, &def, &coop->metrics.spend[k][p]) != SHOAL_OK) {
                return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for metrics");
            }
        }
    }
    return SHOAL_OK;
}

static const double first_token_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                            0.25,  0.5,    1,     2.5,  5,     10};

#define AT(member) offsetof(shoal_coop, metrics.member)

typedef struct metric_row {
    size_t at; /* of a shoal_metric * in shoal_coop */
    shoal_metric_def def;
} metric_row;

static const metric_row metric_rows[] = {
    {AT(tokens[SHOAL_TIER_EXIT]),
     {"shoal_tokens_total", "Generated tokens by the tier that produced them.",
      "kind=\"generated\",place=\"exit\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(tokens[SHOAL_TIER_EDGE]),
     {"shoal_tokens_total", "Generated tokens by the tier that produced them.",
      "kind=\"generated\",place=\"edge\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(tokens[SHOAL_TIER_CLOUD]),
     {"shoal_tokens_total", "Generated tokens by the tier that produced them.",
      "kind=\"generated\",place=\"cloud\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(unassisted[SHOAL_UNASSISTED_AWAY]),
     {"shoal_unassisted_tokens_total",
      "Tokens that the edge said although they were the cloud's to say, by why.", "reason=\"away\"",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(unassisted[SHOAL_UNASSISTED_BUDGET]),
     {"shoal_unassisted_tokens_total",
      "Tokens that the edge said although they were the cloud's to say, by why.",
      "reason=\"budget\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(requests),
     {"shoal_generations_total", "Generations begun.", "", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(running),
     {"shoal_requests_running", "Generations under way.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(waiting),
     {"shoal_requests_waiting", "Generations waiting to begin.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(drafted),
     {"shoal_draft_tokens_total", "Draft tokens the cloud judged.", "", SHOAL_METRIC_COUNTER, NULL,
      0}},
    {AT(accepted),
     {"shoal_accepted_tokens_total", "Draft tokens the cloud accepted.", "", SHOAL_METRIC_COUNTER,
      NULL, 0}},
    {AT(steps),
     {"shoal_edge_steps_total", "Steps of the edge's model that gave a token.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(layers),
     {"shoal_edge_layers_total", "Layers those steps went through; exits make them fewer.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(exit_checked),
     {"shoal_exit_checked_total", "Tokens that left early and were computed in full later.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(exit_agreed),
     {"shoal_exit_agreed_total", "Of those, tokens that the full depth says too.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(reconnects),
     {"shoal_link_reconnects_total", "Streams to the cloud that were cut and opened again.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(bytes_up),
     {"shoal_link_bytes_total", "Message bytes over the link, above TLS.", "dir=\"up\"",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(bytes_down),
     {"shoal_link_bytes_total", "Message bytes over the link, above TLS.", "dir=\"down\"",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(kv_usage),
     {"shoal_kv_cache_usage_ratio", "Share of the KV pool in use.", "", SHOAL_METRIC_GAUGE, NULL,
      0}},
    {AT(saved),
     {"shoal_saved_tokens_total",
      "Generated tokens for which no step of the cloud's model was waited for.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fed),
     {"shoal_edge_prompt_tokens_total", "Prompt tokens that the edge's model computed.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(kept_tokens),
     {"shoal_session_reused_tokens_total",
      "Prompt tokens whose KV was kept of their session, and not computed again.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(prefix_tokens),
     {"shoal_prefix_reused_tokens_total",
      "Prompt tokens whose KV came with the model, as a prefix of its bundle.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(sessions),
     {"shoal_sessions_kept", "Sessions whose KV is kept.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(given_up),
     {"shoal_cloud_given_up", "1 while mode assist goes on without the cloud.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(first_token),
     {"shoal_time_to_first_token_seconds", "From submission to the first token shown.", "",
      SHOAL_METRIC_HISTOGRAM, first_token_bounds, SHOAL_COUNT(first_token_bounds)}},
    {AT(draft_tokens),
     {"shoal_draft_length_tokens", "Draft tokens of a round; 0: the cloud decodes alone.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(draft_window),
     {"shoal_draft_window_tokens", "Unverified draft tokens in flight at most.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(draft_acceptance),
     {"shoal_draft_acceptance_ratio", "Share of recent drafts that the cloud accepted.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(cloud_step),
     {"shoal_cloud_step_seconds", "A step of the cloud, as it says; 0: it has not.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(cloud_price),
     {"shoal_cloud_draft_price_ratio", "What a draft costs the cloud, in tokens, as it says.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(fetch_taken),
     {"shoal_kv_fetches_total", "Prompts whose KV was asked of the cloud, by what came of it.",
      "result=\"taken\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_lost),
     {"shoal_kv_fetches_total", "Prompts whose KV was asked of the cloud, by what came of it.",
      "result=\"late\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_failed),
     {"shoal_kv_fetches_total", "Prompts whose KV was asked of the cloud, by what came of it.",
      "result=\"failed\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_bad),
     {"shoal_kv_fetches_total", "Prompts whose KV was asked of the cloud, by what came of it.",
      "result=\"bad\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_resumed),
     {"shoal_kv_fetches_resumed_total", "Calls for KV that went on where one was cut.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetched_tokens),
     {"shoal_kv_fetched_tokens_total", "Prompt tokens whose KV came from the cloud.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetched_archived),
     {"shoal_kv_fetched_archived_tokens_total",
      "Of those, tokens whose KV was archived on its way.", "", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_bytes),
     {"shoal_kv_fetched_bytes_total", "Bytes of KV that came from the cloud.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(fetch_quarantined),
     {"shoal_kv_fetch_quarantined", "1 while nothing is fetched because what came was no KV.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
};

/* With traffic. */
static const metric_row traffic_rows[] = {
    {AT(packet_bytes_up),
     {"shoal_link_packet_bytes_total",
      "Bytes of IP packets over the link: messages, TLS, headers, pings, what was sent again.",
      "dir=\"up\"", SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(packet_bytes_down),
     {"shoal_link_packet_bytes_total",
      "Bytes of IP packets over the link: messages, TLS, headers, pings, what was sent again.",
      "dir=\"down\"", SHOAL_METRIC_COUNTER, NULL, 0}},
};

/* With a meter. */
static const metric_row energy_rows[] = {
    {AT(energy),
     {"shoal_energy_joules_total", "Energy that answers have cost this device.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(energy_cloud_only),
     {"shoal_energy_cloud_only_joules_total",
      "What they would have cost it, had the cloud made all their tokens, as measured.", "",
      SHOAL_METRIC_COUNTER, NULL, 0}},
    {AT(energy_up),
     {"shoal_energy_meter_up", "1 while the meter of energy tells something.", "",
      SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(energy_edge_token),
     {"shoal_energy_token_joules", "What a token costs this device, by where it is made.",
      "place=\"edge\"", SHOAL_METRIC_GAUGE, NULL, 0}},
    {AT(energy_cloud_token),
     {"shoal_energy_token_joules", "What a token costs this device, by where it is made.",
      "place=\"cloud\"", SHOAL_METRIC_GAUGE, NULL, 0}},
};

static shoal_status make_rows(shoal_coop *coop, const metric_row *rows, size_t n_rows,
                              shoal_metrics *registry, shoal_err *err)
{
    for (size_t i = 0; i < n_rows; i++) {
        shoal_metric **slot = (void *)((char *)coop + rows[i].at);
        if (take_metric(registry, &rows[i].def, slot) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for metrics");
        }
    }
    return SHOAL_OK;
}

static shoal_status make_metrics(shoal_coop *coop, shoal_metrics *registry, shoal_err *err)
{
    if (!registry) {
        return SHOAL_OK;
    }
    SHOAL_TRY(make_rows(coop, metric_rows, SHOAL_COUNT(metric_rows), registry, err));
    if (coop->settings.traffic) {
        SHOAL_TRY(make_rows(coop, traffic_rows, SHOAL_COUNT(traffic_rows), registry, err));
    }
    if (coop->charge.meter) {
        SHOAL_TRY(make_rows(coop, energy_rows, SHOAL_COUNT(energy_rows), registry, err));
    }
    return make_spend_metrics(coop, registry, err);
}

static shoal_status make_meter(shoal_coop *coop, shoal_err *err)
{
    const shoal_coop_settings *s = &coop->settings;
    shoal_energy_init(&coop->charge.energy, &s->energy);
    if (s->power_kind == SHOAL_POWER_NONE) {
        for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
            if (s->spend.most[SHOAL_SPEND_ENERGY][p] > 0) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "budget.energy_j_per_%s needs a meter: set energy.meter",
                                     shoal_spend_period_name((shoal_spend_period)p));
            }
        }
        return SHOAL_OK;
    }
    shoal_err inner = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_power_open(s->power_kind, s->power_path, &coop->charge.meter, &inner);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "energy.meter: %s", inner.text);
    }
    coop->charge.up = true;
    coop->state.energy = (shoal_coop_energy_state){.kind = s->power_kind, .up = true, .level = 1};
    coop->settings.power_path = NULL;
    return SHOAL_OK;
}

shoal_status shoal_coop_new(const shoal_model *model, const shoal_coop_settings *settings,
                            shoal_metrics *metrics, shoal_coop **ret_coop, shoal_err *err)
{
    SHOAL_TRY(check_settings(settings, err));
    shoal_exit_rule rules[SHOAL_MODEL_EXITS_MAX];
    SHOAL_TRY(
        shoal_exit_rules_choose(&settings->exits, settings->exit_policy, (float)NAN, rules, err));
    shoal_coop *coop = shoal_calloc(1, sizeof *coop);
    if (!coop) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the generation service");
    }
    coop->model = model;
    coop->settings = *settings;
    coop->settings.prefixes = NULL; /* looked at below, and gone when this returns */
    coop->clock = shoal_clock_real();
    const shoal_pace_settings pace = {.n_draft = settings->n_draft,
                                      .n_window = settings->n_window,
                                      .plain_gain = settings->plain_gain,
                                      .spare_share = settings->spare_share};
    shoal_pace_init(&coop->pace, &pace);
    if (shoal_mailbox_init(&coop->box) != SHOAL_OK ||
        pthread_mutex_init(&coop->state_mutex, NULL) != 0 ||
        pthread_mutex_init(&coop->channel_mutex, NULL) != 0) {
        shoal_free(coop);
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the mailbox");
    }
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    shoal_breaker_init(&coop->breaker, COOP_PAUSE_MS_MIN, COOP_PAUSE_MS_MAX, now_ms);
    shoal_breaker_init(&coop->fetches, COOP_PAUSE_MS_MIN, COOP_PAUSE_MS_MAX, now_ms + 1);
    shoal_spend_init(&coop->spend, &settings->spend, now_ms);
    shoal_status status = shoal_route_init(&coop->route, &settings->route,
                                           settings->has_escalation ? &settings->escalation : NULL,
                                           &settings->risks, err);
    if (status == SHOAL_OK) {
        status = make_meter(coop, err);
    }
    if (status == SHOAL_OK) {
        status = make_engine(coop, err);
    }
    for (size_t i = 0; i < settings->n_prefixes && status == SHOAL_OK; i++) {
        status = shoal_prefix_load(coop, &settings->prefixes[i], err);
    }
    if (status == SHOAL_OK) {
        status = make_metrics(coop, metrics, err);
    }
    if (status == SHOAL_OK) {
        status = shoal_channel_init(coop, err);
    }
    if (status == SHOAL_OK) {
        coop->state.cloud_configured = coop->target != NULL;
        coop->state.kv_pages = shoal_kv_pool_n_pages(shoal_engine_kv(coop->engine));
        coop->state.kv_tokens_max = shoal_kv_pool_tokens_max(shoal_engine_kv(coop->engine));
        shoal_retry_bucket_init(&coop->retries, settings->retry_burst, settings->retries_per_s,
                                shoal_clock_now_ms(&coop->clock));
        status = shoal_thread_start(SHOAL_ROLE_ENGINE, "shoal-engine", shoal_coop_loop, coop,
                                    &coop->thread);
        if (status != SHOAL_OK) {
            (void)shoal_err_set(err, status, "cannot start the engine thread");
        }
    }
    if (status != SHOAL_OK) {
        shoal_coop_free(coop);
        return status;
    }
    *ret_coop = coop;
    return SHOAL_OK;
}

void shoal_coop_stop(shoal_coop *coop, uint64_t grace_ms)
{
    if (!coop->thread) {
        return;
    }
    atomic_store(&coop->stop_at_ms, shoal_clock_now_ms(&coop->clock) + grace_ms);
    atomic_store(&coop->stopping, true);
    shoal_mailbox_wake(&coop->box);
    shoal_thread_join(coop->thread);
    coop->thread = NULL;
}

void shoal_coop_free(shoal_coop *coop)
{
    if (!coop) {
        return;
    }
    shoal_coop_stop(coop, 0);
    shoal_link_sweep(coop, 0, true);
    shoal_coop_describe_end(coop);
    while (atomic_load(&coop->n_calls) > 0) {
        /* Cancelled calls close within moments. */
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    shoal_channel_fini(coop);
    shoal_mailbox_fini(&coop->box);
    shoal_sampler_free(coop->sampler);
    shoal_form_words_free(coop->words);
    shoal_keep_free(coop->keep); /* before the pool of its sequences */
    while (shoal_prefix_drop(coop)) {
    }
    shoal_engine_free(coop->engine);
    shoal_power_close(coop->charge.meter);
    shoal_archive_free(coop->archive);
    shoal_free(coop->spans);
    shoal_free(coop->span_gens);
    (void)pthread_mutex_destroy(&coop->channel_mutex);
    (void)pthread_mutex_destroy(&coop->state_mutex);
    shoal_free(coop);
}

uint64_t shoal_coop_turn_ms(const shoal_coop *coop)
{
    uint64_t since_ms = atomic_load(&coop->turn_since_ms);
    uint64_t now_ms = shoal_clock_now_ms(&coop->clock);
    return since_ms == 0 || now_ms < since_ms ? 0 : now_ms - since_ms;
}

const shoal_adapter *shoal_coop_adapters(const shoal_coop *coop, size_t *ret_n)
{
    *ret_n = coop->settings.n_adapters;
    return coop->settings.adapters;
}

size_t shoal_coop_n_ctx(const shoal_coop *coop)
{
    return shoal_engine_n_ctx(coop->engine);
}

shoal_status shoal_coop_check_session(const shoal_coop *coop, const char *session, shoal_mode mode,
                                      shoal_err *err)
{
    if (!coop->keep) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "this edge keeps no sessions: set session.max");
    }
    if (mode == SHOAL_MODE_CLOUD) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "a session keeps what the edge's model has computed, and in mode "
                             "\"cloud\" it computes nothing: use another mode");
    }
    if (!shoal_session_name_ok(session, strlen(session))) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the name of a session is 1 to %d letters, digits, '.', '_' and '-'",
                             SHOAL_SESSION_NAME_MAX);
    }
    return SHOAL_OK;
}

static shoal_status check_request(const shoal_coop *coop, const shoal_coop_request *request,
                                  shoal_err *err)
{
    bool is_assist = request->mode == SHOAL_MODE_ASSIST;
    if (is_assist && request->risk != 0) {
        SHOAL_TRY(shoal_route_check_risk(&coop->route, request->risk, err));
    }
    if (request->mode != SHOAL_MODE_LOCAL && !is_assist && !coop->target) {
        return shoal_err_set(err, SHOAL_E_UNAVAILABLE,
                             "mode \"%s\" needs a cloud and none is configured: set cloud.target, "
                             "or use mode \"local\"",
                             shoal_mode_name(request->mode));
    }
    if (request->scores && request->mode != SHOAL_MODE_LOCAL) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "log-probabilities are told in mode \"local\" alone: in others the "
                             "cloud says what the text is");
    }
    if (request->priority > (uint32_t)SHOAL_WIRE_PRIORITY_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a priority is 0 to %d",
                             SHOAL_WIRE_PRIORITY_MAX);
    }
    if (request->grammar_opening && strlen(request->grammar_opening) > SHOAL_COOP_OPENING_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the opening of a form has at most %d bytes",
                             SHOAL_COOP_OPENING_MAX);
    }
    if (request->session) {
        SHOAL_TRY(shoal_coop_check_session(coop, request->session, request->mode, err));
    }
    SHOAL_TRY(shoal_sampling_check(&request->sampling, coop->model->hp.n_vocab, err));
    if (request->n_ids < 1 || request->n_tokens_max < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a request needs a prompt and room for a token");
    }
    size_t most = shoal_kv_pool_tokens_max(shoal_engine_kv(coop->engine));
    if (request->n_ids >= most || request->n_tokens_max > most - request->n_ids) {
        return shoal_err_set(
            err, SHOAL_E_LIMIT,
            "the prompt has %zu tokens and %zu are to be generated; %s takes %zu in "
            "all. Shorten the prompt or ask for fewer tokens",
            request->n_ids, request->n_tokens_max, coop->model->hp.name, most);
    }
    for (size_t i = 0; i < request->n_ids; i++) {
        if (request->ids[i] < 0 || (size_t)request->ids[i] >= coop->model->hp.n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "prompt token %zu: id %d is outside the vocabulary of %zu", i,
                                 (int)request->ids[i], coop->model->hp.n_vocab);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_coop_submit(shoal_coop *coop, const shoal_coop_request *request,
                               uint64_t *ret_id, shoal_err *err)
{
    if (atomic_load(&coop->stopping)) {
        return shoal_err_set(err, SHOAL_E_UNAVAILABLE, "the edge is shutting down");
    }
    SHOAL_TRY(check_request(coop, request, err));
    size_t n_before = atomic_fetch_add(&coop->n_waiting, 1);
    if (n_before >= coop->settings.n_waiting_max + coop->settings.n_active_max) {
        atomic_fetch_sub(&coop->n_waiting, 1);
        (void)shoal_err_set(err, SHOAL_BUSY, "%zu requests are waiting already: try again later",
                            n_before);
        return SHOAL_BUSY;
    }
    mail *m = shoal_mail_new(MAIL_SUBMIT);
    shoal_status status = m ? shoal_gen_new(coop, request, &m->generation, err) : SHOAL_E_NOMEM;
    if (status != SHOAL_OK) {
        shoal_mail_free(m);
        atomic_fetch_sub(&coop->n_waiting, 1);
        return shoal_err_set(err, status, "no memory for a request");
    }
    *ret_id = m->generation->id;
    shoal_mailbox_push(&coop->box, m);
    return SHOAL_OK;
}

shoal_status shoal_coop_carry(shoal_coop *coop, const shoal_coop_totals *totals,
                              const shoal_spend *spend)
{
    mail *m = shoal_mail_new(MAIL_CARRY);
    carried *what = m ? shoal_calloc(1, sizeof *what) : NULL;
    if (!what) {
        shoal_mail_free(m);
        return SHOAL_E_NOMEM;
    }
    what->totals = *totals;
    what->has_spend = spend != NULL;
    if (spend) {
        what->spend = *spend;
    }
    m->carried = what;
    shoal_mailbox_push(&coop->box, m);
    return SHOAL_OK;
}

void shoal_coop_cancel(shoal_coop *coop, uint64_t id)
{
    mail *m = shoal_mail_new(MAIL_CANCEL);
    if (m) {
        m->id = id;
        shoal_mailbox_push(&coop->box, m);
    }
}

void shoal_coop_cut_link(shoal_coop *coop, bool cut)
{
    atomic_store(&coop->link_cut, cut);
    shoal_mailbox_wake(&coop->box);
}

void shoal_coop_state_get(shoal_coop *coop, shoal_coop_state *ret_state)
{
    (void)pthread_mutex_lock(&coop->state_mutex);
    *ret_state = coop->state;
    (void)pthread_mutex_unlock(&coop->state_mutex);
    ret_state->link_cut = atomic_load(&coop->link_cut);
    ret_state->link = shoal_channel_link(coop, &ret_state->link_rests);
    if (ret_state->link_cut) {
        ret_state->link = SHOAL_RPC_LINK_DOWN;
    }
    if (coop->settings.traffic) {
        shoal_mailbox_wake(&coop->box); /* an idle edge is told what its pings have cost, next */
    }
}
