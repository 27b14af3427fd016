/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-edge: parses, wires, runs, unwinds.
 */
#include "edge/daemon/config_keys.h"
#include "edge/daemon/deck.h"
#include "edge/daemon/ledger.h"
#include "common/obs/notify.h"

#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/config/program.h"
#include "common/obs/log.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    EXIT_REFUSED = 1,
    EXIT_USAGE = 2,
    GOODBYE_MS = 1000, /* for cut answers to say so */
    TURN_MS = 30000,   /* an engine that is at one turn for so long hangs */
    EXPIRY_WARN_S = 14 * 86400
};

static const char purpose[] =
    "Runs a small model at the edge behind an OpenAI-compatible HTTP API, and borrows the cloud's\n"
    "where it must.";

static shoal_program program(void)
{
    return (shoal_program){
        .name = "shoal-edge",
        .version = SHOAL_VERSION,
        .purpose = purpose,
        .keys = shoal_edge_config_keys,
        .n_keys = shoal_edge_n_config_keys,
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

/* --- running ------------------------------------------------------------------------------------
 */

typedef struct daemon_state {
    const shoal_program_options *opts;
    shoal_config *config;
    shoal_deck *deck;       /* in use */
    shoal_deck *decks;      /* all that are not freed, and that one first */
    shoal_updater *updater; /* NULL: no bundles are taken */
    shoal_wake *swap;       /* a deck waits */
    pthread_mutex_t deck_lock;
    shoal_deck *next_deck; /* under the lock: made, to be used */
    shoal_metrics *metrics;
    shoal_traffic *traffic; /* of the link, all decks'; NULL: no cloud, or nobody tells */
    shoal_loop *loop;
    shoal_timer *grace;
    shoal_timer *watchdog;
    shoal_timer *look; /* at what of the budgets is used */
    shoal_ledger ledger;
    uint64_t watchdog_ms; /* 0: nobody watches */
    shoal_metric *reload_failures;
    shoal_metric *expiry;      /* of the API's certificate, where it has one */
    shoal_metric *link_expiry; /* of the link's */
    char model_name[128];
    shoal_api *api;
    shoal_redact_rules *redact;
    shoal_http_handler handler;
    shoal_http_server *server;
    bool draining;
    bool cutting;
} daemon_state;

static void unwind(daemon_state *d)
{
    if (d->server) {
        shoal_http_server_free(d->server);
    }
    if (d->updater) {
        shoal_updater_stop(d->updater);
    }
    for (shoal_deck *deck = d->decks; deck; deck = deck->next) {
        shoal_coop_stop(deck->coop, 0);
    }
    if (d->api) {
        shoal_api_set_watch(d->api, &(shoal_api_watch){0});
        shoal_api_free(d->api);
    }
    while (d->decks) {
        shoal_deck *next = d->decks->next;
        shoal_deck_free(d->decks);
        d->decks = next;
    }
    shoal_deck_free(d->next_deck);
    shoal_updater_free(d->updater);
    shoal_traffic_free(d->traffic);
    if (d->swap) {
        shoal_wake_free(d->swap);
    }
    shoal_redact_rules_free(d->redact);
    if (d->grace) {
        shoal_timer_free(d->grace);
    }
    if (d->watchdog) {
        shoal_timer_free(d->watchdog);
    }
    if (d->look) {
        shoal_timer_free(d->look);
    }
    if (d->loop) {
        shoal_loop_free(d->loop);
    }
    shoal_metrics_free(d->metrics);
    (void)pthread_mutex_destroy(&d->deck_lock);
    shoal_config_free(d->config);
}

static void on_drained(void *ctx)
{
    daemon_state *d = ctx;
    shoal_loop_stop(d->loop);
}

static void on_grace_over(void *ctx)
{
    daemon_state *d = ctx;
    if (d->cutting) {
        shoal_loop_stop(d->loop);
        return;
    }
    d->cutting = true;
    shoal_log(SHOAL_LOG_WARN, "drain time is over, %zu generations are cut",
              shoal_api_n_calls(d->api));
    shoal_api_cancel_all(d->api);
    shoal_timer_start(d->grace, GOODBYE_MS);
}

/* From the loop and only while the engine turns, so that either of them hanging is seen to. */
static void on_watchdog(void *ctx)
{
    daemon_state *d = ctx;
    if (shoal_coop_turn_ms(d->deck->coop) < TURN_MS) {
        shoal_notify("WATCHDOG=1");
    }
    shoal_timer_start(d->watchdog, d->watchdog_ms);
}

static void on_look(void *ctx)
{
    daemon_state *d = ctx;
    shoal_ledger_keep(&d->ledger, d->deck->coop);
    shoal_timer_start(d->look, SHOAL_LEDGER_MS);
}

/* The first one drains, the second ends at once. */
static void on_terminate(void *ctx, int number)
{
    daemon_state *d = ctx;
    if (d->draining) {
        shoal_log_stop();
        _exit(0);
    }
    d->draining = true;
    shoal_notify("STOPPING=1");
    shoal_log(SHOAL_LOG_INFO, "signal %d: draining, %zu generations are open", number,
              shoal_api_n_calls(d->api));
    shoal_timer_start(d->grace, (uint64_t)shoal_config_int(d->config, "drain.grace_ms"));
    shoal_api_drain(d->api);
    shoal_http_server_drain(d->server);
}

static void tell_expiry(shoal_metric *expiry, const char *of, const char *key, int64_t end_s)
{
    shoal_metric_set(expiry, (double)end_s);
    int64_t left_s = end_s - (int64_t)time(NULL);
    if (left_s < EXPIRY_WARN_S) {
        shoal_log(SHOAL_LOG_WARN,
                  "certificate of the %s ends soon hours=%lld; replace the file of %s and send "
                  "SIGHUP",
                  of, (long long)(left_s / 3600), key);
    }
}

/* Where the link to the cloud is secured. */
static bool has_link_tls(const daemon_state *d)
{
    return shoal_config_string(d->config, "cloud.target")[0] &&
           shoal_edge_cloud_tls(d->config).cert;
}

static void read_expiry(daemon_state *d)
{
    int64_t end_s = shoal_http_server_tls_end_s(d->server);
    if (end_s != 0) {
        tell_expiry(d->expiry, "API", "api.tls_cert", end_s);
    }
    const shoal_rpc_tls tls = shoal_edge_cloud_tls(d->config);
    if (has_link_tls(d) && shoal_rpc_tls_expiry(&tls, &end_s, NULL) == SHOAL_OK) {
        tell_expiry(d->link_expiry, "link", "cloud.cert", end_s);
    }
}

/* Of the link to the cloud, of all decks in use; one that is being made meanwhile is seen to when
 * it comes into use. */
static shoal_status renew_link(daemon_state *d, shoal_err *err)
{
    shoal_err why = SHOAL_ERR_INIT;
    for (shoal_deck *deck = d->decks; deck; deck = deck->next) {
        shoal_status status = shoal_coop_renew_tls(deck->coop, &why);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status,
                                 "cloud.ca, cloud.cert and cloud.key: %s; the link keeps what it "
                                 "has, put the files right and send SIGHUP again",
                                 why.text);
        }
    }
    return SHOAL_OK;
}

/* What can fail comes before what is taken over. */
static shoal_status reload(daemon_state *d, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    const shoal_program self = program();
    SHOAL_TRY(shoal_program_load(&self, d->opts, environ, &config, err));
    const char *conflict = shoal_config_reload_conflict(d->config, config);
    if (conflict) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s needs a restart", conflict);
    }
    SHOAL_TRY(shoal_http_tls_check(shoal_config_string(config, "api.tls_cert"),
                                   shoal_config_string(config, "api.tls_key"), err));
    SHOAL_TRY(renew_link(d, err));
    SHOAL_TRY(shoal_http_server_set_tls(d->server, shoal_config_string(config, "api.tls_cert"),
                                        shoal_config_string(config, "api.tls_key"), err));
    read_expiry(d);
    apply_log(config);
    return SHOAL_OK;
}

/* A reload that is refused leaves everything as it was. */
static void on_hangup(void *ctx, int number)
{
    (void)number;
    daemon_state *d = ctx;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_notify_reloading();
    if (reload(d, &err) == SHOAL_OK) {
        shoal_log(SHOAL_LOG_INFO, "reloaded log.level and the files of api.tls_* and of cloud.ca, "
                                  "cloud.cert and cloud.key; every other key needs a restart");
    } else {
        shoal_log(SHOAL_LOG_ERROR, "reload refused: %s", err.text);
        shoal_metric_add(d->reload_failures, 1);
    }
    shoal_notify("READY=1");
}

static shoal_status make_metrics(daemon_state *d, shoal_err *err)
{
    static const shoal_metric_def build = {"shoal_build_info",
                                           "Always 1; the labels say what runs.",
                                           "program=\"shoal-edge\",version=\"" SHOAL_VERSION "\"",
                                           SHOAL_METRIC_GAUGE,
                                           NULL,
                                           0};
    static const shoal_metric_def failures = {"shoal_config_reload_failures_total",
                                              "Reloads that were refused.",
                                              "",
                                              SHOAL_METRIC_COUNTER,
                                              NULL,
                                              0};
    static const shoal_metric_def expiry[2] = {
        {"shoal_certificate_expiry_timestamp_seconds",
         "When the certificate of the HTTP API ends, and that of the link to the cloud.", "",
         SHOAL_METRIC_GAUGE, NULL, 0},
        {"shoal_certificate_expiry_timestamp_seconds",
         "When the certificate of the HTTP API ends, and that of the link to the cloud.",
         "use=\"cloud\"", SHOAL_METRIC_GAUGE, NULL, 0}};
    bool has_tls = shoal_config_string(d->config, "api.tls_cert")[0] != '\0';
    shoal_metric *info = NULL;
    if (shoal_metrics_new(&d->metrics) != SHOAL_OK ||
        shoal_metrics_add(d->metrics, &build, &info) != SHOAL_OK ||
        shoal_metrics_add(d->metrics, &failures, &d->reload_failures) != SHOAL_OK ||
        (has_tls && shoal_metrics_add(d->metrics, &expiry[0], &d->expiry) != SHOAL_OK) ||
        (has_link_tls(d) &&
         shoal_metrics_add(d->metrics, &expiry[1], &d->link_expiry) != SHOAL_OK)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for metrics");
    }
    shoal_metric_set(info, 1);
    return SHOAL_OK;
}

/* --- bundles ------------------------------------------------------------------------------------
 */

/* The updater's thread. */
static shoal_status prepare_deck(void *ctx, const char *folder, const shoal_bundle *bundle,
                                 void **ret_deck, shoal_err *err)
{
    const daemon_state *d = ctx;
    shoal_deck *deck = NULL;
    SHOAL_TRY(shoal_deck_new(d->config, folder, bundle, d->traffic, d->metrics, &deck, err));
    *ret_deck = deck;
    return SHOAL_OK;
}

static void use_deck(void *ctx, void *take_deck)
{
    daemon_state *d = ctx;
    (void)pthread_mutex_lock(&d->deck_lock);
    shoal_deck *skipped = d->next_deck; /* the loop has not come to it */
    d->next_deck = take_deck;
    (void)pthread_mutex_unlock(&d->deck_lock);
    shoal_deck_free(skipped);
    shoal_wake_send(d->swap);
}

/* The updater's thread, which alone frees decks while the loop turns. */
static void retire_deck(void *ctx, void *take_deck)
{
    daemon_state *d = ctx;
    shoal_deck *deck = take_deck;
    shoal_coop_stop(deck->coop, 0);
    (void)pthread_mutex_lock(&d->deck_lock);
    shoal_deck_carry(deck, d->deck, false);
    (void)pthread_mutex_unlock(&d->deck_lock);
    shoal_deck_free(deck);
}

/* The loop: between two requests. */
static void on_swap(void *ctx)
{
    daemon_state *d = ctx;
    char hex[SHOAL_HASH_HEX];
    shoal_err err = SHOAL_ERR_INIT;
    (void)pthread_mutex_lock(&d->deck_lock);
    shoal_deck *deck = SHOAL_STEAL(d->next_deck);
    shoal_deck *last = d->deck;
    d->deck = deck ? deck : last;
    (void)pthread_mutex_unlock(&d->deck_lock);
    if (!deck) {
        return;
    }
    deck->next = d->decks;
    d->decks = deck;
    /* SIGHUP may have come while the deck was made, or waited. */
    if (shoal_coop_renew_tls(deck->coop, &err) != SHOAL_OK) {
        shoal_log(SHOAL_LOG_WARN,
                  "the link keeps the certificates it was made with: %s; put the files right and "
                  "send SIGHUP",
                  err.text);
    }
    shoal_deck_carry(last, deck, true);
    shoal_hash_hex(&deck->model->hash, hex);
    if (shoal_api_use(d->api, deck->coop, deck->model,
                      shoal_edge_mode(d->config, deck->calibrated)) != SHOAL_OK) {
        shoal_log(SHOAL_LOG_ERROR, "no memory to use model hash=%.12s: restart", hex);
        (void)pthread_mutex_lock(&d->deck_lock);
        d->deck = last;
        (void)pthread_mutex_unlock(&d->deck_lock);
        return;
    }
    shoal_log(SHOAL_LOG_INFO, "requests from now on are of model=\"%s\" hash=%.12s",
              deck->model->hp.name, hex);
}

static void on_answer(void *ctx, const shoal_coop *coop, shoal_status status)
{
    daemon_state *d = ctx;
    /* What is nobody's fault, or the link's, says nothing about the model. */
    bool other = status == SHOAL_E_UNAVAILABLE || status == SHOAL_E_DEADLINE ||
                 status == SHOAL_E_CANCELLED || status == SHOAL_BUSY;
    (void)pthread_mutex_lock(&d->deck_lock);
    /* While another deck waits to be used, a trial is that deck's. */
    bool current = coop == d->deck->coop && !d->next_deck;
    (void)pthread_mutex_unlock(&d->deck_lock);
    if (current && !other) {
        shoal_updater_answered(d->updater, status != SHOAL_OK);
    }
}

static void on_unused(void *ctx, const shoal_coop *coop)
{
    daemon_state *d = ctx;
    shoal_deck **at = &d->decks;
    while (*at && (*at)->coop != coop) {
        at = &(*at)->next;
    }
    shoal_deck *deck = *at;
    if (!deck || deck == d->deck) {
        return;
    }
    *at = deck->next;
    if (shoal_updater_retire(d->updater, deck) != SHOAL_OK) {
        deck->next = d->decks; /* freed with the rest, at the end */
        d->decks = deck;
    }
}

static shoal_status put_bundle(void *ctx, shoal_buf *buf)
{
    return shoal_updater_put_status(((daemon_state *)ctx)->updater, buf);
}

/* The bundle that ran last, the one before where that one cannot be used, or model.path. */
static shoal_status first_deck(daemon_state *d, shoal_err *err)
{
    while (d->updater) {
        SHOAL_CLEANUP(shoal_free_cleanup) char *folder = NULL;
        SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
        shoal_err why = SHOAL_ERR_INIT;
        SHOAL_TRY(shoal_updater_first(d->updater, &folder, &bundle, err));
        if (!bundle) {
            break;
        }
        if (shoal_deck_new(d->config, folder, bundle, d->traffic, d->metrics, &d->deck, &why) ==
            SHOAL_OK) {
            return SHOAL_OK;
        }
        SHOAL_TRY(shoal_updater_first_failed(d->updater, &why, err));
    }
    return shoal_deck_new(d->config, NULL, NULL, d->traffic, d->metrics, &d->deck, err);
}

static shoal_status start_updater(daemon_state *d, shoal_err *err)
{
    const shoal_updater_hooks hooks = {
        .prepare = prepare_deck, .use = use_deck, .retire = retire_deck, .ctx = d};
    const shoal_api_watch watch = {
        .on_answer = on_answer, .on_unused = on_unused, .put_bundle = put_bundle, .ctx = d};
    if (!d->updater) {
        return SHOAL_OK;
    }
    shoal_api_set_watch(d->api, &watch);
    return shoal_updater_start(d->updater, &hooks, err);
}

/* Where nobody tells, messages are what counts. */
static shoal_status count_traffic(daemon_state *d, shoal_err *err)
{
    const char *target = shoal_config_string(d->config, "cloud.target");
    if (!target[0]) {
        return SHOAL_OK;
    }
    shoal_status status = shoal_traffic_new(target, &d->traffic, err);
    if (status == SHOAL_E_UNSUPPORTED) {
        shoal_log(SHOAL_LOG_WARN, "%s: budgets count the bytes of messages alone", err->text);
        shoal_err_clear(err);
        return SHOAL_OK;
    }
    return status;
}

static shoal_status wire_engine(daemon_state *d, shoal_err *err)
{
    shoal_updater_settings fleet;
    SHOAL_TRY(shoal_edge_check_exposure(d->config, err));
    SHOAL_TRY(shoal_edge_redact_rules(d->config, &d->redact, err));
    SHOAL_TRY(shoal_edge_updater_settings(d->config, &fleet, err));
    SHOAL_TRY(make_metrics(d, err));
    if (fleet.folder[0]) {
        SHOAL_TRY(shoal_updater_new(&fleet, d->metrics, &d->updater, err));
    }
    SHOAL_TRY(count_traffic(d, err));
    SHOAL_TRY(first_deck(d, err));
    d->decks = d->deck;
    const shoal_spend_limits limits = shoal_edge_spend_limits(d->config);
    shoal_ledger_open(&d->ledger, shoal_config_string(d->config, "budget.file"), &limits,
                      d->deck->coop);
    return SHOAL_OK;
}

static shoal_status wire_http(daemon_state *d, shoal_err *err)
{
    SHOAL_TRY(shoal_loop_new(&d->loop, err));
    bool ok = shoal_wake_new(d->loop, on_swap, d, &d->swap) == SHOAL_OK &&
              shoal_timer_new(d->loop, on_grace_over, d, &d->grace) == SHOAL_OK &&
              shoal_timer_new(d->loop, on_watchdog, d, &d->watchdog) == SHOAL_OK &&
              shoal_timer_new(d->loop, on_look, d, &d->look) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGTERM, on_terminate, d) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGINT, on_terminate, d) == SHOAL_OK &&
              shoal_loop_on_signal(d->loop, SIGHUP, on_hangup, d) == SHOAL_OK;
    if (!ok) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the event loop");
    }
    shoal_api_settings api =
        shoal_edge_api_settings(d->config, d->deck->model, d->deck->calibrated, d->model_name);
    shoal_http_settings http = shoal_edge_http_settings(d->config);
    api.redact = d->redact;
    SHOAL_TRY(
        shoal_api_new(d->loop, d->deck->coop, d->deck->model, d->metrics, &api, &d->api, err));
    shoal_api_set_on_drained(d->api, on_drained, d);
    d->handler = shoal_api_handler(d->api);
    SHOAL_TRY(shoal_http_server_new(d->loop, &http, &d->handler, d->metrics, &d->server, err));
    read_expiry(d);
    return SHOAL_OK;
}

static shoal_status run(daemon_state *d, shoal_err *err)
{
    SHOAL_TRY(wire_engine(d, err));
    SHOAL_TRY(wire_http(d, err));
    SHOAL_TRY(start_updater(d, err));
    const char *target = shoal_config_string(d->config, "cloud.target");
    shoal_log(SHOAL_LOG_INFO, "model=\"%s\" params=%.1fM context=%zu cloud=%s",
              d->deck->model->hp.name, (double)d->deck->model->n_params / 1e6,
              shoal_coop_n_ctx(d->deck->coop), target[0] ? target : "none");
    const char *address = shoal_http_server_address(d->server);
    if (address[0]) {
        bool tls = shoal_http_server_tls_end_s(d->server) != 0;
        (void)printf("http: %s://%s\n", tls ? "https" : "http", address);
    } else {
        (void)printf("http: unix:%s\n", shoal_config_string(d->config, "listen.unix"));
    }
    (void)fflush(stdout);
    shoal_notify("READY=1");
    d->watchdog_ms = shoal_notify_watchdog_ms();
    if (d->watchdog_ms > 0) {
        shoal_timer_start(d->watchdog, 0);
    }
    if (d->ledger.path[0]) {
        shoal_timer_start(d->look, SHOAL_LEDGER_MS);
    }
    shoal_loop_run(d->loop);
    shoal_ledger_wait(&d->ledger); /* so that the last word is the last that is written */
    shoal_ledger_keep(&d->ledger, d->deck->coop);
    shoal_ledger_wait(&d->ledger);
    shoal_log(SHOAL_LOG_INFO, "stopped");
    return SHOAL_OK;
}

static int refused(const shoal_err *err, shoal_status status)
{
    (void)fprintf(stderr, "shoal-edge: %s\n", err->text[0] ? err->text : shoal_status_text(status));
    return EXIT_REFUSED;
}

static shoal_status check(const shoal_config *config, shoal_err *err)
{
    shoal_coop_settings settings;
    shoal_updater_settings fleet;
    shoal_redact_rules *redact = NULL;
    SHOAL_TRY(shoal_edge_coop_settings(config, &settings, err));
    SHOAL_TRY(shoal_edge_updater_settings(config, &fleet, err));
    SHOAL_TRY(shoal_edge_redact_rules(config, &redact, err));
    shoal_redact_rules_free(redact);
    SHOAL_TRY(shoal_http_tls_check(shoal_config_string(config, "api.tls_cert"),
                                   shoal_config_string(config, "api.tls_key"), err));
    return shoal_edge_check_exposure(config, err);
}

int main(int argc, char **argv)
{
    const shoal_program self = program();
    shoal_program_options opts;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_log_set_program(self.name);
    if (shoal_program_parse(&self, argc, argv, &opts, &err) != SHOAL_OK) {
        (void)refused(&err, SHOAL_E_INVALID);
        return EXIT_USAGE;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    daemon_state d = {.opts = &opts};
    (void)pthread_mutex_init(&d.deck_lock, NULL);
    shoal_status status = shoal_program_load(&self, &opts, environ, &d.config, &err);
    if (status == SHOAL_OK && opts.action == SHOAL_PROGRAM_RUN) {
        apply_log(d.config);
        shoal_log_start();
        status = run(&d, &err);
    } else if (status == SHOAL_OK && opts.action == SHOAL_PROGRAM_CHECK) {
        status = check(d.config, &err);
    } else if (status == SHOAL_OK) {
        status = print_text(opts.action, d.config);
    }
    unwind(&d);
    shoal_log_stop();
    return status == SHOAL_OK ? 0 : refused(&err, status);
}
