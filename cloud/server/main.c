/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-cloud: parses, wires, runs, unwinds.
 */
#include "cloud/server/config_keys.h"
#include "cloud/server/ops.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/base/trim.h"
#include "common/config/program.h"
#include "common/obs/log.h"
#include "common/obs/notify.h"
#include "protocol/http/loop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2,
    TICK_MS = 1000,
    SPARE_BYTES = 16 << 20, /* free pages that are not worth giving back */
    BEAT_MS = 30000,        /* an engine that has not turned for so long hangs */
    EXPIRY_WARN_S = 14 * 86400
};

static const char purpose[] = "Serves a model to edges over gRPC.";

static shoal_program program(void)
{
    return (shoal_program){
        .name = "shoal-cloud",
        .version = SHOAL_VERSION,
        .purpose = purpose,
        .keys = shoal_cloud_config_keys,
        .n_keys = shoal_cloud_n_config_keys,
    };
}

static void apply_log(const shoal_config *config)
{
    shoal_log_level level = SHOAL_LOG_INFO;
    if (shoal_log_level_parse(shoal_config_string(config, "log.level"), &level) == SHOAL_OK) {
        shoal_log_set_level(level);
    }
    shoal_log_set_journald(shoal_config_bool(config, "log.journald"));
}

static shoal_status print_text(shoal_program_action action, const shoal_config *config)
{
    const shoal_program self = program();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = 1 << 20};
    SHOAL_TRY(shoal_program_text(&self, action, config, &buf));
    if (buf.length > 0) {
        (void)fwrite(buf.data, 1, buf.length, stdout);
    }
    return fflush(stdout) == 0 ? SHOAL_OK : SHOAL_E_IO;
}

/* --- running ---------------------------------------------------------------------------------- */

/* Everything but the drain lives on the main thread's loop. */
typedef struct daemon_state {
    const shoal_program_options *opts;
    const shoal_config *first; /* settings point into it */
    shoal_config *latest;      /* of a reload, NULL: none yet */
    shoal_cloud_settings settings;
    shoal_model *model;         /* of a native back end */
    shoal_adapters *adapters;   /* of model */
    shoal_tokenizer *tokenizer; /* of an upstream's model */
    shoal_model *edge_model;    /* whose KV is shipped; these two NULL: none */
    shoal_ship *ship;
    shoal_fleet *fleet; /* NULL: no bundles are served */
    shoal_loop *loop;
    shoal_timer *tick;
    shoal_trim trim;
    shoal_timer *watchdog;
    uint64_t watchdog_ms; /* 0: nobody watches */
    shoal_wake *drained;
    shoal_thread *drain;
    bool draining;
    bool ending; /* told to end before it was ready */
    shoal_metrics *registry;
    shoal_metric *reload_failures;
    shoal_metric *reloads;
    shoal_metric *expiry;
    shoal_metric *resident;
    shoal_metric *used;
    shoal_rpc *rpc;
    shoal_node *node;
    shoal_service *service;
    shoal_ops *ops;
    int port;
} daemon_state;

static const shoal_config *running_config(const daemon_state *d)
{
    return d->latest != NULL ? d->latest : d->first;
}

/* --- what probes hear ------------------------------------------------------------------------- */

static const char *unhealthy(void *ctx)
{
    const daemon_state *d = ctx;
    shoal_clock clock = shoal_clock_real();
    uint64_t now_ms = shoal_clock_now_ms(&clock);
    uint64_t beat_ms = shoal_node_beat_ms(d->node);
    return now_ms - SHOAL_MIN(beat_ms, now_ms) < BEAT_MS ? NULL
                                                         : "the engine has not turned for 30 s";
}

static const char *unready(void *ctx)
{
    const daemon_state *d = ctx;
    return d->draining ? "draining" : unhealthy(ctx);
}

/* Pages of the process, from the second number of /proc/self/statm (proc(5)). */
static double resident_bytes(void)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = 4096};
    if (shoal_file_read("/proc/self/statm", 4096, &text, NULL) != SHOAL_OK || text.length == 0) {
        return 0;
    }
    const char *second = strchr(text.data, ' ');
    return second == NULL ? 0 : (double)strtoull(second, NULL, 10) * (double)sysconf(_SC_PAGESIZE);
}

static void refresh(void *ctx)
{
    const daemon_state *d = ctx;
    shoal_service_sweep(d->service); /* the predicted wait */
    shoal_metric_set(d->resident, resident_bytes());
    shoal_metric_set(d->used, (double)shoal_trim_used_bytes());
}

static void read_expiry(daemon_state *d, const shoal_rpc_tls *tls)
{
    int64_t end = 0;
    if (tls->cert == NULL || shoal_rpc_tls_expiry(tls, &end, NULL) != SHOAL_OK) {
        return;
    }
    shoal_metric_set(d->expiry, (double)end);
    int64_t left_s = end - (int64_t)time(NULL);
    if (left_s < EXPIRY_WARN_S) {
        shoal_log(SHOAL_LOG_WARN,
                  "certificate ends soon file=%s hours=%lld; replace it and send "
                  "SIGHUP",
                  tls->cert, (long long)(left_s / 3600));
    }
}

/* --- reload ----------------------------------------------------------------------------------- */

/* All of it or nothing: what can fail comes before what is taken over. */
static shoal_status reload(daemon_state *d, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *next = NULL;
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *quotas = NULL;
    SHOAL_CLEANUP(shoal_catalogue_unrefp) shoal_catalogue *catalogue = NULL;
    const shoal_program self = program();
    SHOAL_TRY(shoal_program_load(&self, d->opts, environ, &next, err));
    const char *conflict = shoal_config_reload_conflict(running_config(d), next);
    if (conflict != NULL) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s needs a restart", conflict);
    }
    shoal_cloud_settings settings;
    SHOAL_TRY(shoal_cloud_settings_from(next, &settings, err));
    SHOAL_TRY(shoal_cloud_quotas_from(next, &quotas, err));
    if (d->fleet != NULL) {
        SHOAL_TRY(shoal_catalogue_read(settings.fleet.folder, &catalogue, err));
    }
    const shoal_service_settings *service = &settings.service;
    SHOAL_TRY(
        shoal_service_configure(d->service, &service->tls, service->wait_max_ms, quotas, err));
    quotas = NULL; /* taken */
    if (d->fleet != NULL) {
        shoal_fleet_use(d->fleet, SHOAL_STEAL(catalogue));
    }
    apply_log(next);
    d->settings.drain_grace_ms = settings.drain_grace_ms;
    read_expiry(d, &service->tls);
    shoal_config_free(d->latest);
    d->latest = SHOAL_STEAL(next);
    return SHOAL_OK;
}

static void on_hangup(void *ctx, int number)
{
    (void)number;
    daemon_state *d = ctx;
    shoal_err err = SHOAL_ERR_INIT;
    if (d->draining || d->service == NULL) {
        return;
    }
    shoal_notify_reloading();
    if (reload(d, &err) == SHOAL_OK) {
        shoal_metric_add(d->reloads, 1);
        shoal_log(SHOAL_LOG_INFO, "reloaded");
    } else {
        shoal_metric_add(d->reload_failures, 1);
        shoal_log(SHOAL_LOG_ERROR, "reload refused, everything stays as it was: %s", err.text);
    }
    shoal_notify("READY=1");
}

/* --- the end ---------------------------------------------------------------------------------- */

static void on_drained(void *ctx)
{
    daemon_state *d = ctx;
    shoal_loop_stop(d->loop);
}

/* A thread of its own, since it waits for streams while the loop answers probes. */
static void drain_main(void *ctx)
{
    daemon_state *d = ctx;
    shoal_service_drain(d->service, d->settings.drain_grace_ms);
    shoal_wake_send(d->drained);
}

/* The first one drains, the second ends the process at once. */
static void on_terminate(void *ctx, int number)
{
    daemon_state *d = ctx;
    if (d->service == NULL) {
        d->ending = true;
        return;
    }
    if (d->draining) {
        shoal_log(SHOAL_LOG_WARN, "second signal: open sessions are cut");
        shoal_log_stop();
        _exit(EXIT_SUCCESS);
    }
    d->draining = true;
    shoal_service_set_serving(d->service, false); /* from this moment, not from the thread's */
    shoal_notify("STOPPING=1");
    shoal_log(SHOAL_LOG_INFO, "draining signal=%d sessions=%zu grace_ms=%llu", number,
              shoal_node_n_conns(d->node), (unsigned long long)d->settings.drain_grace_ms);
    if (shoal_thread_start(SHOAL_ROLE_NONE, "shoal-drain", drain_main, d, &d->drain) != SHOAL_OK) {
        drain_main(d);
    }
}

/* --- wiring ----------------------------------------------------------------------------------- */

static void on_tick(void *ctx)
{
    daemon_state *d = ctx;
    shoal_service_sweep(d->service);
    size_t back = shoal_trim_memory(&d->trim, SPARE_BYTES);
    if (back >= SPARE_BYTES) {
        shoal_log(SHOAL_LOG_INFO, "gave memory back that a burst left mib=%zu", back >> 20);
    }
    shoal_timer_start(d->tick, TICK_MS);
}

/* From the loop and only while the engine turns, so that either of them hanging is seen to. */
static void on_watchdog(void *ctx)
{
    daemon_state *d = ctx;
    if (unhealthy(d) == NULL) {
        shoal_notify("WATCHDOG=1");
    }
    shoal_timer_start(d->watchdog, d->watchdog_ms);
}

static shoal_status make_loop(daemon_state *d, shoal_err *err)
{
    SHOAL_TRY(shoal_loop_new(&d->loop, err));
    bool ok = shoal_timer_new(d->loop, on_tick, d, &d->tick) == SHOAL_OK &&
              shoal_timer_new(d->loop, on_watchdog, d, &d->watchdog) == SHOAL_OK &&
              shoal_wake_new(d->loop, on_drained, d, &d->drained) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGTERM, on_terminate, d) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGINT, on_terminate, d) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGHUP, on_hangup, d) == SHOAL_OK;
    return ok ? SHOAL_OK : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the event loop");
}

static shoal_status make_metrics(daemon_state *d, shoal_err *err)
{
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&d->reloads,
         {"shoal_config_reloads_total", "Reloads that were taken.", "", SHOAL_METRIC_COUNTER, NULL,
          0}},
        {&d->reload_failures,
         {"shoal_config_reload_failures_total", "Reloads that were refused.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&d->resident,
         {"process_resident_memory_bytes", "Resident memory.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
        {&d->used,
         {"shoal_memory_used_bytes",
          "Memory that the allocator has handed out; KV and mapped models are not in it.", "",
          SHOAL_METRIC_GAUGE, NULL, 0}},
    };
    static const shoal_metric_def build = {"shoal_build_info",
                                           "Always 1; the labels say what runs.",
                                           "program=\"shoal-cloud\",version=\"" SHOAL_VERSION "\"",
                                           SHOAL_METRIC_GAUGE,
                                           NULL,
                                           0};
    static const shoal_metric_def expiry = {"shoal_certificate_expiry_timestamp_seconds",
                                            "When this node's certificate ends.",
                                            "",
                                            SHOAL_METRIC_GAUGE,
                                            NULL,
                                            0};
    shoal_metric *info = NULL;
    shoal_status status = shoal_metrics_new(&d->registry);
    for (size_t i = 0; i < SHOAL_COUNT(rows) && status == SHOAL_OK; i++) {
        status = shoal_metrics_add(d->registry, &rows[i].def, rows[i].slot);
    }
    if (status == SHOAL_OK && d->settings.service.tls.cert != NULL) {
        status = shoal_metrics_add(d->registry, &expiry, &d->expiry);
    }
    if (status == SHOAL_OK) {
        status = shoal_metrics_add(d->registry, &build, &info);
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "no memory for metrics");
    }
    shoal_metric_set(info, 1);
    return SHOAL_OK;
}

static void announce(const daemon_state *d)
{
    const shoal_describe *describe = shoal_node_describe(d->node);
    const char *address = d->settings.service.address;
    char hex[SHOAL_HASH_HEX];
    char name[4 * SHOAL_WIRE_TEXT_MAX];
    shoal_hash_hex(&describe->model, hex);
    shoal_log(SHOAL_LOG_INFO, "ready model=%s hash=%.12s kv=%s context=%u port=%d http=%s",
              shoal_log_escape(describe->name, name, sizeof(name)), hex, describe->kv_form,
              describe->n_ctx, d->port, d->ops == NULL ? "-" : shoal_ops_address(d->ops));
    const char *colon = strrchr(address, ':');
    int n_host = colon == NULL ? 0 : (int)(colon - address);
    printf("grpc: %.*s:%d\n", n_host, address, d->port);
    if (d->ops != NULL) {
        printf("http: http://%s\n", shoal_ops_address(d->ops));
    }
    fflush(stdout);
    shoal_notify("READY=1");
}

static void announce_upstream(const shoal_upstream *upstream)
{
    static const char *const ids[] = {"text", "plain", "return_token_ids", "token_names",
                                      "logprobs"};
    static const char *const scores[] = {"none", "prompt_logprobs", "echo"};
    const shoal_upstream_abilities *a = shoal_upstream_abilities_get(upstream);
    char name[4 * SHOAL_REPLY_NAME_MAX];
    shoal_log(SHOAL_LOG_INFO, "upstream url=%s model=%s prompts=%s ids=%s scores=%s",
              shoal_upstream_url(upstream), shoal_log_escape(a->model.id, name, sizeof(name)),
              a->token_prompts ? "ids" : "text", ids[a->ids], scores[a->scores]);
}

static shoal_status load_model(daemon_state *d, shoal_err *err)
{
    SHOAL_TRY(shoal_model_load(d->settings.model_path, &d->model, err));
    d->adapters = shoal_calloc(1, sizeof(*d->adapters));
    if (d->adapters == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for adapters");
    }
    SHOAL_TRY(shoal_adapters_load(d->settings.adapters, d->model, d->adapters, err));
    d->settings.node.adapters = d->adapters;
    if (d->settings.huge_pages) {
        shoal_model_start_huge_pages(d->model);
    }
    return SHOAL_OK;
}

static bool told_to_end(void *ctx)
{
    daemon_state *d = ctx;
    shoal_loop_turn(d->loop);
    return d->ending;
}

/* The model, or the vocabulary of one that another engine serves. */
static shoal_status open_model(daemon_state *d, shoal_err *err)
{
    shoal_cloud_settings *s = &d->settings;
    if (!s->is_upstream) {
        return load_model(d, err);
    }
    SHOAL_TRY(
        shoal_relay_open_tokenizer(s->tokenizer_path, &d->tokenizer, &s->node.n_ctx_trained, err));
    s->upstream.give_up = told_to_end;
    s->upstream.give_up_ctx = d;
    SHOAL_TRY(shoal_upstream_new(&s->upstream, d->tokenizer, &s->node.take_upstream, err));
    announce_upstream(s->node.take_upstream);
    return SHOAL_OK;
}

/* The node copies what it needs of them. */
typedef struct secrets {
    char password[SHOAL_SECRET_MAX + 1];
    char secret[SHOAL_SECRET_MAX + 1];
} secrets;

static shoal_status read_secrets(daemon_state *d, secrets *s, shoal_err *err)
{
    shoal_cloud_settings *set = &d->settings;
    if (set->store_password_file != NULL) {
        SHOAL_TRY(shoal_file_read_secret("store.password_file", set->store_password_file,
                                         s->password, err));
        set->store.password = s->password;
    }
    if (set->store_secret_file != NULL) {
        SHOAL_TRY(
            shoal_file_read_secret("store.secret_file", set->store_secret_file, s->secret, err));
        SHOAL_TRY(shoal_hash_of(s->secret, strlen(s->secret), &set->node.store_secret));
    }
    return SHOAL_OK;
}

static shoal_status make_node(daemon_state *d, shoal_err *err)
{
    secrets read;
    shoal_status status = SHOAL_OK;
    if (d->settings.is_shared) {
        d->settings.node.store = &d->settings.store;
        status = read_secrets(d, &read, err);
    }
    if (status == SHOAL_OK) {
        shoal_node_settings settings = d->settings.node;
        d->settings.node.take_upstream = NULL;
        status = shoal_node_new(d->model, &settings, d->registry, &d->node, err);
    }
    explicit_bzero(&read, sizeof(read));
    d->settings.store.password = NULL;
    return status;
}

static shoal_status make_ship(daemon_state *d, shoal_err *err)
{
    if (d->settings.edge_model_path[0] == '\0') {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_model_load(d->settings.edge_model_path, &d->edge_model, err));
    SHOAL_TRY(shoal_ship_new(d->edge_model, &d->settings.ship, d->registry, &d->ship, err));
    char hex[SHOAL_HASH_HEX];
    shoal_edge_kv kv = shoal_ship_describe(d->ship);
    shoal_hash_hex(&kv.model, hex);
    shoal_log(SHOAL_LOG_INFO, "ships KV of edge_model=%.12s tokens_max=%u", hex, kv.n_tokens);
    d->settings.service.ship = d->ship;
    return SHOAL_OK;
}

static shoal_status make_fleet(daemon_state *d, shoal_err *err)
{
    if (d->settings.fleet.folder[0] == '\0') {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_fleet_new(&d->settings.fleet, d->registry, &d->fleet, err));
    shoal_log(SHOAL_LOG_INFO, "serves bundles=%zu of folder=%s", shoal_fleet_n_bundles(d->fleet),
              d->settings.fleet.folder);
    d->settings.service.fleet = d->fleet;
    return SHOAL_OK;
}

static shoal_status serve(daemon_state *d, shoal_err *err)
{
    const shoal_ops_view view = {
        .unhealthy = unhealthy, .unready = unready, .refresh = refresh, .ctx = d};
    SHOAL_TRY(make_loop(d, err)); /* signals are heard from here on, and handled once it turns */
    SHOAL_TRY(open_model(d, err));
    SHOAL_TRY(make_metrics(d, err));
    SHOAL_TRY(shoal_rpc_new(&d->settings.rpc, &d->rpc, err));
    SHOAL_TRY(make_node(d, err));
    SHOAL_TRY(make_ship(d, err));
    SHOAL_TRY(make_fleet(d, err));
    if (d->settings.ops.address[0] != '\0') {
        SHOAL_TRY(shoal_ops_new(d->loop, &d->settings.ops, &view, d->registry, &d->ops, err));
    }
    SHOAL_TRY(shoal_cloud_quotas_from(d->first, &d->settings.service.take_quotas, err));
    SHOAL_TRY(shoal_service_new(d->rpc, d->node, &d->settings.service, &d->service, &d->port, err));
    shoal_service_set_serving(d->service, true);
    read_expiry(d, &d->settings.service.tls);
    announce(d);
    d->watchdog_ms = shoal_notify_watchdog_ms();
    if (d->watchdog_ms > 0) {
        shoal_timer_start(d->watchdog, 0);
    }
    shoal_timer_start(d->tick, TICK_MS);
    shoal_loop_run(d->loop);
    return SHOAL_OK;
}

/* Calls end with the service, what they held with the node, the poller with rpc. */
static void unwind(daemon_state *d)
{
    if (d->drain != NULL) {
        shoal_thread_join(d->drain);
    }
    shoal_ops_free(d->ops);
    shoal_service_free(d->service);
    shoal_ship_free(d->ship);
    shoal_fleet_free(d->fleet);
    shoal_node_free(d->node);
    if (d->rpc != NULL) {
        shoal_rpc_free(d->rpc);
    }
    shoal_metrics_free(d->registry);
    shoal_timer_free(d->tick);
    shoal_timer_free(d->watchdog);
    shoal_wake_free(d->drained);
    shoal_loop_free(d->loop);
    shoal_upstream_free(d->settings.node.take_upstream); /* where no node came to be */
    shoal_tokenizer_free(d->tokenizer);
    if (d->adapters != NULL) {
        shoal_adapters_fini(d->adapters);
        shoal_free(d->adapters);
    }
    shoal_model_free(d->model);
    shoal_model_free(d->edge_model);
    shoal_config_free(d->latest);
}

static shoal_status run(const shoal_program_options *opts, const shoal_config *config,
                        shoal_err *err)
{
    daemon_state d = {.opts = opts, .first = config};
    SHOAL_TRY(shoal_cloud_settings_from(config, &d.settings, err));
    if (opts->action == SHOAL_PROGRAM_CHECK) {
        SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *quotas = NULL;
        return shoal_cloud_quotas_from(config, &quotas, err);
    }
    apply_log(config);
    if (d.settings.is_upstream && d.settings.tokenizer_path[0] == '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "upstream.tokenizer is empty; name a GGUF file with the engine's "
                             "vocabulary");
    }
    if (!d.settings.is_upstream && d.settings.model_path[0] == '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "model.path is empty; name a GGUF file with --set model.path=FILE");
    }
    (void)signal(SIGPIPE, SIG_IGN);
    shoal_status status = serve(&d, err);
    unwind(&d);
    if (d.ending && status == SHOAL_E_CANCELLED) {
        shoal_log(SHOAL_LOG_INFO, "ended before it was ready: %s", err->text);
        shoal_err_clear(err);
        return SHOAL_OK;
    }
    return status;
}

int main(int argc, char **argv)
{
    const shoal_program self = program();
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    shoal_program_options opts;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_log_set_program(self.name);
    if (shoal_program_parse(&self, argc, argv, &opts, &err) != SHOAL_OK) {
        (void)fprintf(stderr, "%s: %s\n", self.name, err.text);
        return EXIT_USAGE;
    }
    shoal_status status = shoal_program_load(&self, &opts, environ, &config, &err);
    if (status == SHOAL_OK) {
        bool runs = opts.action == SHOAL_PROGRAM_RUN || opts.action == SHOAL_PROGRAM_CHECK;
        if (runs) {
            shoal_log_start();
        }
        status = runs ? run(&opts, config, &err) : print_text(opts.action, config);
        shoal_log_stop();
    }
    if (status != SHOAL_OK) {
        (void)fprintf(stderr, "%s: %s\n", self.name,
                      err.text[0] != '\0' ? err.text : shoal_status_text(status));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
