/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-cloud: parses, wires, runs, unwinds.
 */
#include "cloud/server/config_keys.h"
#include "common/base/thread.h"
#include "common/config/program.h"
#include "common/obs/log.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    EXIT_USAGE = 2
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

/* Every thread is started with these blocked, so that only those who wait for them hear them. */
static void block_signals(sigset_t *ret_set)
{
    sigemptyset(ret_set);
    sigaddset(ret_set, SIGTERM);
    sigaddset(ret_set, SIGINT);
    sigaddset(ret_set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, ret_set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* A reload that cannot be read leaves everything as it was. */
static void reload(const shoal_program_options *opts)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_program self = program();
    if (shoal_program_load(&self, opts, environ, &config, &err) != SHOAL_OK) {
        shoal_log(SHOAL_LOG_ERROR, "reload refused reason=\"%s\"", err.text);
        return;
    }
    apply_log(config);
    shoal_log(SHOAL_LOG_INFO, "reloaded log.level; other keys need a restart");
}

static int wait_for_stop(const sigset_t *set, const shoal_program_options *opts)
{
    for (;;) {
        int signal_number = 0;
        if (sigwait(set, &signal_number) != 0) {
            continue;
        }
        if (signal_number != SIGHUP) {
            return signal_number;
        }
        reload(opts);
    }
}

typedef struct second_signal {
    const sigset_t *set;
    atomic_bool drained;
} second_signal;

/* The second TERM or INT ends the process at once, whatever the drain still waits for. */
static void watch_second_signal(void *ctx)
{
    second_signal *second = ctx;
    while (!atomic_load(&second->drained)) {
        int signal_number = 0;
        if (sigwait(second->set, &signal_number) == 0 && signal_number != SIGHUP) {
            shoal_log(SHOAL_LOG_WARN, "second signal: open sessions are cut");
            _exit(EXIT_SUCCESS);
        }
    }
}

/* Draining blocks, so another thread listens; without one the drain is just not cut short. */
static void drain(shoal_service *service, const sigset_t *set, uint64_t grace_ms)
{
    second_signal second = {.set = set};
    shoal_thread *watcher = NULL;
    shoal_status status =
        shoal_thread_start(SHOAL_ROLE_NONE, "shoal-signal", watch_second_signal, &second, &watcher);
    shoal_service_drain(service, grace_ms);
    if (status == SHOAL_OK) {
        atomic_store(&second.drained, true);
        kill(getpid(), SIGHUP); /* wakes the watcher, which alone waits for it */
        shoal_thread_join(watcher);
    }
}

static void announce(const shoal_node *node, const char *address, int port)
{
    const shoal_describe *describe = shoal_node_describe(node);
    char hex[SHOAL_HASH_HEX];
    char name[4 * SHOAL_WIRE_TEXT_MAX];
    shoal_hash_hex(&describe->model, hex);
    shoal_log(SHOAL_LOG_INFO, "ready model=%s hash=%.12s kv=%s context=%u port=%d",
              shoal_log_escape(describe->name, name, sizeof(name)), hex, describe->kv_form,
              describe->n_ctx, port);
    const char *colon = strrchr(address, ':');
    int n_host = colon == NULL ? 0 : (int)(colon - address);
    printf("grpc: %.*s:%d\n", n_host, address, port);
    fflush(stdout);
}

static shoal_status serve(const shoal_cloud_settings *settings, const shoal_model *model,
                          const sigset_t *set, const shoal_program_options *opts, shoal_err *err)
{
    shoal_rpc *rpc = NULL;
    shoal_metrics *metrics = NULL;
    shoal_node *node = NULL;
    shoal_service *service = NULL;
    int port = 0;
    shoal_status status = shoal_metrics_new(&metrics);
    if (status == SHOAL_OK) {
        status = shoal_rpc_new(&settings->rpc, &rpc, err);
    }
    if (status == SHOAL_OK) {
        status = shoal_node_new(model, &settings->node, metrics, &node, err);
    }
    if (status == SHOAL_OK) {
        status = shoal_service_new(rpc, node, &settings->service, &service, &port, err);
    }
    if (status == SHOAL_OK) {
        shoal_service_set_serving(service, true);
        announce(node, settings->service.address, port);
        int signal_number = wait_for_stop(set, opts);
        shoal_log(SHOAL_LOG_INFO, "draining signal=%d sessions=%zu grace_ms=%llu", signal_number,
                  shoal_node_n_conns(node), (unsigned long long)settings->drain_grace_ms);
        drain(service, set, settings->drain_grace_ms);
    }
    /* Calls end with the service, what they held with the node, the poller with rpc. */
    shoal_service_free(service);
    shoal_node_free(node);
    if (rpc != NULL) {
        shoal_rpc_free(rpc);
    }
    shoal_metrics_free(metrics);
    return status;
}

static shoal_status run(const shoal_program_options *opts, const shoal_config *config,
                        shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_cloud_settings settings;
    SHOAL_TRY(shoal_cloud_settings_from(config, &settings, err));
    if (opts->action == SHOAL_PROGRAM_CHECK) {
        return SHOAL_OK;
    }
    apply_log(config);
    if (settings.model_path[0] == '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "model.path is empty; name a GGUF file with --set model.path=FILE");
    }
    sigset_t set;
    block_signals(&set);
    SHOAL_TRY(shoal_model_load(settings.model_path, &model, err));
    return serve(&settings, model, &set, opts, err);
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
        status = runs ? run(&opts, config, &err) : print_text(opts.action, config);
    }
    if (status != SHOAL_OK) {
        (void)fprintf(stderr, "%s: %s\n", self.name,
                      err.text[0] != '\0' ? err.text : shoal_status_text(status));
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
