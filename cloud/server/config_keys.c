/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/config_keys.h"

#include <string.h>

#define INT(name, fallback, min, max, help)                                                        \
    {                                                                                              \
        name, SHOAL_CONFIG_INT, fallback, min, max, NULL, false, help                              \
    }
#define STRING(name, fallback, help)                                                               \
    {                                                                                              \
        name, SHOAL_CONFIG_STRING, fallback, 0, 0, NULL, false, help                               \
    }

const shoal_config_key shoal_cloud_config_keys[] = {
    STRING("listen.address", "127.0.0.1:7443",
           "Address and port of the gRPC service; port 0 picks one."),
    INT("listen.keepalive_ms", "300000", 1000, 3600000,
        "How often a silent connection is asked, by a ping, whether its edge is still there, in "
        "ms: edges pay for the answer, and ask by themselves (cloud.keepalive_ms). One that does "
        "not answer for 10 s is closed."),
    {"backend", SHOAL_CONFIG_CHOICE, "native", 0, 0, "native|upstream", false,
     "What computes: this program, or another engine with OpenAI's API (upstream.*)."},
    STRING("model.path", "",
           "GGUF file of the model to serve; with an upstream its vocabulary is enough."),
    STRING("model.name", "", "Name told to edges; empty: the one in the file."),
    STRING("model.adapters", "",
           "LoRA adapters of the model, NAME=FILE or NAME=FILE=STRENGTH, separated by commas: an "
           "edge whose request chose NAME is served with that one. They share the model and may be "
           "in one batch. Equal on all nodes."),
    INT("model.threads", "2", 1, SHOAL_POOL_THREADS_MAX, "Compute threads."),
    {"model.pin_threads", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Keep each compute thread on a CPU of its own: for machines that do nothing else."},
    {"model.huge_pages", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false,
     "Copy a packed model from the file's pages into huge ones of its own, behind the first "
     "answers: faster steps; false: share the file's pages with other programs."},
    STRING("cpu.mask", "native",
           "CPU tiers allowed: native, scalar, or a comma list of avx2, avx512; same results."),
    INT("context.max", "0", 0, SHOAL_MODEL_CTX_MAX,
        "Most tokens of one session, prompt included; 0: what the model was trained for."),
    INT("kv.max_mib", "1024", 1, 1 << 20, "Memory for the KV of all sessions, MiB."),
    {"kv.type", SHOAL_CONFIG_CHOICE, "auto", 0, 0,
     "auto|f16|f32|q8t|q8|q4|q3|k8v4|k8v3|k4v8|k4v3|k3v8|k3v4", false,
     "Stored form of the KV; auto: f32 for an F32 model, else f16; q8 to k3v4: blocks of 32 "
     "tokens in 8, 4 or 3 bits once they are full, k8v4 means keys in 8 and values in 4; q8t: "
     "tokens in 8 bits. Changes results: equal on all "
     "nodes."},
    STRING(
        "kv.levels", "",
        "Stored form by layer, instead of kv.type: sealed ones in order, NAME*COUNT for several, "
        "the last for all that follow, as in q8*2,k4v3,q4; empty: kv.type. Equal on all nodes."),
    {"kv.hadamard", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Keep keys and values of a head in Hadamard's basis, which spreads outliers of values over "
     "all channels before they are rounded (QuaRot): for heads of a power of two channels, not for "
     "latent attention (MLA). Changes results: equal on all nodes."},
    INT("sessions.max", "256", 1, SHOAL_NODE_SESSIONS_MAX,
        "Concurrent generations; more are refused with a retry time."),
    {"admit.wait_max_ms", SHOAL_CONFIG_INT, "30000", 0, 3600000, NULL, true,
     "Longest predicted wait in ms for the first token of a generation, or its deadline where that "
     "is shorter; longer ones are refused with a retry time; 0: the deadline alone."},
    {"tenants.sessions_max", SHOAL_CONFIG_INT, "0", 0, 65536, NULL, true,
     "Concurrent generations of one tenant, by the identity in its certificate; 0: no limit but "
     "sessions.max."},
    {"tenants.tokens_per_s", SHOAL_CONFIG_INT, "0", 0, 100000000, NULL, true,
     "Tokens in and out per second of one tenant, prompts and drafts included; 0: no limit."},
    {"tenants.tokens_burst", SHOAL_CONFIG_INT, "0", 0, 1000000000, NULL, true,
     "Tokens that a tenant may use at once after a pause; 0: ten seconds' worth."},
    {"tenants.kv_mib", SHOAL_CONFIG_INT, "0", 0, 1 << 20, NULL, true,
     "KV in MiB of one tenant's generations at the length they ask for; 0: no limit."},
    {"tenants.overrides", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true,
     "Other values for some tenants, entries divided by ';' or line ends: \"spiffe://site-7/* "
     "sessions=8 tokens_per_s=500 tokens_burst=5000 kv_mib=64\"; a name may end in *."},
    INT("sessions.idle_ms", "300000", 1000, 86400000,
        "A generation whose edge says nothing and that has no work ends after this many ms."),
    INT("sessions.inbox_kib", "256", 4, 65536,
        "Waiting messages of one generation, KiB, from which its edge is held back."),
    INT("step.rows_max", "512", 16, 65536, "Tokens computed in one engine step."),
    INT("step.logits_max", "64", 1, 4096, "Tokens sampled in one engine step."),
    INT("prefill.chunk", "128", 1, 32768,
        "Prompt tokens of one engine step, at most half of step.rows_max."),
    INT("step.time_ms", "200", 0, 60000,
        "Time in ms that one engine step should take at most, by the cost of those before it: who "
        "waits for a verification waits no longer behind a prompt; 0: no limit."),
    INT("prefix.percent", "50", 0, 100,
        "Share of kv.max_mib that texts of ended or running generations may keep for later ones of "
        "the same tenant; given up before any generation loses its KV; 0: none."),
    STRING("prefix.public", "",
           "Files with system prompts that all tenants share, divided by ';': their KV is computed "
           "once for all, so it can be told by the clock that somebody used one. Needs a restart."),
    {"store.kind", SHOAL_CONFIG_CHOICE, "none", 0, 0, "none|memory|disk|redis", false,
     "Where KV of texts is kept beyond kv.max_mib: in memory, in a folder, or in a Redis or Valkey "
     "that nodes share; equal model, kv.type and secret on all of them."},
    STRING("store.folder", "", "Folder of a store on disk, of this process alone."),
    STRING("store.address", "", "Redis: host:port, or the path of a Unix socket."),
    STRING("store.user", "", "Redis: user; empty: the default one."),
    STRING("store.password_file", "", "Redis: file whose first line is the password; empty: none."),
    {"store.plaintext", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Allow a Redis beyond loopback: no TLS is spoken to it, and it holds texts and KV."},
    STRING("store.secret_file", "",
           "File whose first line goes into the names of blocks: nodes with the same one share; "
           "empty: nodes of one model share."),
    INT("store.max_mib", "1024", 1, 1 << 24,
        "Blocks kept in memory or on disk, MiB; a Redis has its own maxmemory."),
    INT("store.ttl_s", "3600", 1, SHOAL_STORE_TTL_S_MAX,
        "Redis: a block lives so many seconds since it was last read."),
    INT("store.timeout_ms", "500", 1, SHOAL_STORE_TIMEOUT_MS_MAX,
        "Redis: time in ms to connect, and of silence in an answer."),
    INT("store.lease_ms", "2000", 1, SHOAL_STORE_LEASE_MS_MAX,
        "For how many ms others leave a block to the node that makes it."),
    INT("store.wait_ms", "250", 1, 60000,
        "Longest time in ms that a generation waits for blocks of the store; what has not come is "
        "computed."),
    INT("store.inflight_mib", "64", 1, 65536,
        "Blocks on their way to or from the store, MiB; past that they are computed, or dropped."),
    {"store.always", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Fetch even where computing is measured to be faster."},
    INT("kv.hold_ms", "1000", 0, 600000,
        "Silence in ms after which a generation's KV may be dropped when memory is short."),
    STRING(
        "edge_model.path", "",
        "GGUF file of the model that edges run: prompts are computed with it for slow edges, and "
        "their KV is shipped; empty: none are."),
    INT("edge_model.threads", "1", 1, SHOAL_POOL_THREADS_MAX, "Compute threads of it."),
    INT("edge_model.kv_max_mib", "256", 1, 1 << 20,
        "Memory for the KV of prompts that are shipped and of those before them, MiB."),
    {"edge_model.kv_type", SHOAL_CONFIG_CHOICE, "auto", 0, 0,
     "auto|f16|f32|q8t|q8|q4|q3|k8v4|k8v3|k4v8|k4v3|k3v8|k3v4", false,
     "Stored form of its KV: the edges' kv.type, or they do not take it."},
    STRING("edge_model.kv_levels", "",
           "Its form by layer: the edges' kv.levels; empty: of one type."),
    {"edge_model.kv_hadamard", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "The edges' kv.hadamard, or they do not take it."},
    STRING("edge_model.archive", "",
           "File with the basis by which KV is archived for edges that ask for it (their "
           "fetch.archive), made for this model by shoal-forge kv-calibrate; empty: none. For "
           "edge_model.kv_type f16."),
    INT("edge_model.shipments_max", "8", 1, SHOAL_SHIP_JOBS_MAX,
        "Prompts that are shipped at once, half of them of one tenant; more are refused."),
    INT("edge_model.lease_s", "10", 0, 600,
        "Seconds for which the KV of a shipment whose call was cut is kept for who asks again."),
    STRING("fleet.folder", "",
           "Folder of signed bundles for edges, with a file rollout that says which devices have "
           "which, read again on SIGHUP; empty: none are served."),
    INT("fleet.calls_max", "64", 1, SHOAL_FLEET_CALLS_MAX,
        "Calls of edges about bundles at once, half of them of one identity; more are refused."),
    INT("fault.ship_flip_at", "0", 0, 1 << 30,
        "For tests: each shipped KV has a bit flipped in its so-manieth byte; 0: none."),
    {"fault.ship", SHOAL_CONFIG_CHOICE, "none", 0, 0, "none|drop|repeat|cut|end|lose", false,
     "For tests, what happens to part fault.ship_part of each shipped KV: it does not leave, "
     "leaves twice, is cut in half; or the call ends behind it, as if that were all or as lost."},
    INT("fault.ship_part", "1", 1, 1 << 20, "For tests: the so-manieth part, see fault.ship."),
    STRING("upstream.url", "",
           "Address of the engine: vLLM, SGLang, TensorRT-LLM, llama-server or shoal-edge."),
    STRING("upstream.model", "", "Model as the engine names it; empty: the first it lists."),
    STRING("upstream.tokenizer", "",
           "GGUF file with the engine's vocabulary and chat template; empty: model.path."),
    STRING("upstream.api_key_file", "", "File whose first line is the engine's key; empty: none."),
    STRING("upstream.ca", "",
           "PEM file of the authority of an https engine; empty: the system's authorities."),
    INT("upstream.connections_max", "64", 1, SHOAL_UPSTREAM_CALLS_MAX,
        "Requests to the engine at once; sessions beyond wait."),
    INT("upstream.connect_ms", "5000", 1, 600000, "Time in ms to connect to the engine."),
    INT("upstream.silence_ms", "120000", 100, 3600000,
        "An answer silent for longer, the first token included, is given up and asked again."),
    INT("upstream.start_ms", "30000", 0, 3600000,
        "How long to wait in ms at start for an engine that is not up yet."),
    INT("upstream.retries_max", "3", 0, SHOAL_RELAY_RETRIES_MAX,
        "New tries of a session without a token between them before it fails."),
    {"upstream.verify", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false,
     "Judge drafts of greedy decoding by log-probabilities of the prompt, if the engine tells "
     "any."},
    {"tls.ca", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true,
     "PEM file of the authority that signs edges; all three empty: plaintext on loopback. SIGHUP "
     "reads all three again."},
    {"tls.cert", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true,
     "PEM file of this node's certificate chain."},
    {"tls.key", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true, "PEM file of this node's private key."},
    STRING("http.address", "",
           "Address and port of /healthz, /readyz and /metrics, such as 127.0.0.1:9443; port 0 "
           "picks one; empty: none."),
    STRING("http.hosts", "", "More names that the Host header may have there, comma-separated."),
    INT("http.connections_max", "64", 1, 1024, "Open connections there."),
    STRING("node.name", "", "Name of this node told to edges; empty: the host's."),
    {"drain.grace_ms", SHOAL_CONFIG_INT, "30000", 0, 3600000, NULL, true,
     "Time in ms that open generations get after SIGTERM."},
    {"log.level", SHOAL_CONFIG_CHOICE, "info", 0, 0, "debug|info|warn|error", true,
     "Least severe level that is logged."},
    {"log.journald", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, true,
     "Begin log lines with <N> priorities for journald."},
};
const size_t shoal_cloud_n_config_keys = SHOAL_COUNT(shoal_cloud_config_keys);

static const char *path_or_null(const shoal_config *config, const char *key)
{
    const char *value = shoal_config_string(config, key);
    return value[0] == '\0' ? NULL : value;
}

static int kv_type_of(const char *name)
{
    shoal_kv_type type = SHOAL_KV_F32;
    return shoal_kv_type_parse(name, &type) == 0 ? (int)type : -1;
}

static shoal_ship_fault ship_fault_of(const char *name)
{
    static const char *const names[] = {
        [SHOAL_SHIP_FAULT_NONE] = "none",     [SHOAL_SHIP_FAULT_DROP] = "drop",
        [SHOAL_SHIP_FAULT_REPEAT] = "repeat", [SHOAL_SHIP_FAULT_CUT] = "cut",
        [SHOAL_SHIP_FAULT_END] = "end",       [SHOAL_SHIP_FAULT_LOSE] = "lose"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return (shoal_ship_fault)i;
        }
    }
    return SHOAL_SHIP_FAULT_NONE;
}

static shoal_status tls_from(const shoal_config *config, shoal_rpc_tls *ret_tls, shoal_err *err)
{
    *ret_tls = (shoal_rpc_tls){.ca = path_or_null(config, "tls.ca"),
                               .cert = path_or_null(config, "tls.cert"),
                               .key = path_or_null(config, "tls.key")};
    bool some = ret_tls->ca != NULL || ret_tls->cert != NULL || ret_tls->key != NULL;
    bool all = ret_tls->ca != NULL && ret_tls->cert != NULL && ret_tls->key != NULL;
    return some && !all ? shoal_err_set(err, SHOAL_E_INVALID,
                                        "tls.ca, tls.cert and tls.key must be set together: edges "
                                        "are always authenticated")
                        : SHOAL_OK;
}

shoal_status shoal_cloud_quotas_from(const shoal_config *config, shoal_admit_quotas **ret_quotas,
                                     shoal_err *err)
{
    shoal_admit_quota fallback = {
        .n_sessions = (uint32_t)shoal_config_int(config, "tenants.sessions_max"),
        .tokens_per_s = (uint32_t)shoal_config_int(config, "tenants.tokens_per_s"),
        .tokens_burst = (uint32_t)shoal_config_int(config, "tenants.tokens_burst"),
        .kv_bytes = (uint64_t)shoal_config_int(config, "tenants.kv_mib") << 20};
    return shoal_admit_quotas_new(&fallback, shoal_config_string(config, "tenants.overrides"),
                                  ret_quotas, err);
}

static shoal_status check_adapters(const shoal_cloud_settings *s, shoal_err *err)
{
    return s->is_upstream && s->adapters[0] != '\0'
               ? shoal_err_set(err, SHOAL_E_INVALID,
                               "model.adapters needs backend native: with an upstream engine, name "
                               "its adapter in upstream.model")
               : SHOAL_OK;
}

static void upstream_from(const shoal_config *config, shoal_cloud_settings *s)
{
    s->is_upstream = strcmp(shoal_config_string(config, "backend"), "upstream") == 0;
    s->upstream = shoal_upstream_settings_default();
    s->upstream.url = shoal_config_string(config, "upstream.url");
    s->upstream.model = shoal_config_string(config, "upstream.model");
    s->upstream.api_key_file = shoal_config_string(config, "upstream.api_key_file");
    s->upstream.ca_file = shoal_config_string(config, "upstream.ca");
    s->upstream.n_calls_max = (size_t)shoal_config_int(config, "upstream.connections_max");
    s->upstream.connect_ms = (uint64_t)shoal_config_int(config, "upstream.connect_ms");
    s->upstream.silence_ms = (uint64_t)shoal_config_int(config, "upstream.silence_ms");
    s->upstream.start_ms = (uint64_t)shoal_config_int(config, "upstream.start_ms");
    s->upstream.verify = shoal_config_bool(config, "upstream.verify");
    s->node.n_retries = (size_t)shoal_config_int(config, "upstream.retries_max");
    s->tokenizer_path = shoal_config_string(config, "upstream.tokenizer");
    if (s->tokenizer_path[0] == '\0') {
        s->tokenizer_path = shoal_config_string(config, "model.path");
    }
}

static void ship_from(const shoal_config *config, shoal_cloud_settings *s)
{
    s->edge_model_path = shoal_config_string(config, "edge_model.path");
    s->ship = shoal_ship_settings_default();
    s->ship.engine.n_threads = (size_t)shoal_config_int(config, "edge_model.threads");
    s->ship.engine.cpu_mask = s->node.engine.cpu_mask;
    s->ship.engine.kv_bytes = (size_t)shoal_config_int(config, "edge_model.kv_max_mib") << 20;
    s->ship.engine.kv_type = kv_type_of(shoal_config_string(config, "edge_model.kv_type"));
    s->ship.engine.kv_levels = shoal_config_string(config, "edge_model.kv_levels");
    s->ship.engine.kv_hadamard = shoal_config_bool(config, "edge_model.kv_hadamard");
    s->ship.fault_flip_at = (uint64_t)shoal_config_int(config, "fault.ship_flip_at");
    s->ship.fault = ship_fault_of(shoal_config_string(config, "fault.ship"));
    s->ship.fault_part = (uint64_t)shoal_config_int(config, "fault.ship_part");
    s->ship.lease_ms = (uint64_t)shoal_config_int(config, "edge_model.lease_s") * 1000;
    s->ship.n_jobs_max = (size_t)shoal_config_int(config, "edge_model.shipments_max");
    const char *basis = shoal_config_string(config, "edge_model.archive");
    s->ship.archive_path = basis[0] != '\0' ? basis : NULL;
}

static shoal_status store_from(const shoal_config *config, shoal_cloud_settings *s, shoal_err *err)
{
    const char *kind = shoal_config_string(config, "store.kind");
    shoal_store_settings *store = &s->store;
    *store = shoal_store_settings_default();
    s->is_shared = shoal_store_kind_parse(kind, &store->kind) == 0;
    store->folder = path_or_null(config, "store.folder");
    store->address = path_or_null(config, "store.address");
    store->user = path_or_null(config, "store.user");
    store->plaintext = shoal_config_bool(config, "store.plaintext");
    store->bytes_max = (size_t)shoal_config_int(config, "store.max_mib") << 20;
    store->inflight_bytes_max = (size_t)shoal_config_int(config, "store.inflight_mib") << 20;
    store->ttl_s = (uint32_t)shoal_config_int(config, "store.ttl_s");
    store->timeout_ms = (uint32_t)shoal_config_int(config, "store.timeout_ms");
    store->lease_ms = (uint32_t)shoal_config_int(config, "store.lease_ms");
    s->store_password_file = path_or_null(config, "store.password_file");
    s->store_secret_file = path_or_null(config, "store.secret_file");
    s->node.store_wait_ms = (uint64_t)shoal_config_int(config, "store.wait_ms");
    s->node.store_always = shoal_config_bool(config, "store.always");
    s->node.public_files = shoal_config_string(config, "prefix.public");
    if (s->node.public_files[0] != '\0' && (s->is_upstream || s->node.prefix_percent == 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "prefix.public needs backend native and prefix.percent above 0");
    }
    if (!s->is_shared) {
        return SHOAL_OK;
    }
    const char *lacks = store->kind == SHOAL_STORE_DISK && store->folder == NULL ? "store.folder"
                        : store->kind == SHOAL_STORE_REDIS && store->address == NULL
                            ? "store.address"
                            : NULL;
    if (lacks != NULL) {
        return shoal_err_set(err, SHOAL_E_INVALID, "store.kind %s needs %s", kind, lacks);
    }
    return s->is_upstream ? shoal_err_set(err, SHOAL_E_INVALID,
                                          "store.kind %s needs backend native: an upstream engine "
                                          "keeps its own KV",
                                          kind)
                          : SHOAL_OK;
}

shoal_status shoal_cloud_settings_from(const shoal_config *config,
                                       shoal_cloud_settings *ret_settings, shoal_err *err)
{
    shoal_cloud_settings s = {.node = shoal_node_settings_default(),
                              .rpc = shoal_rpc_limits_default()};
    SHOAL_TRY(tls_from(config, &s.service.tls, err));
    const char *mask = shoal_config_string(config, "cpu.mask");
    if (shoal_cpu_mask_parse(mask, &s.node.engine.cpu_mask) < 0) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "cpu.mask \"%s\" is not native, scalar or a comma list of avx2, avx512", mask);
    }
    shoal_engine_settings *engine = &s.node.engine;
    engine->n_threads = (size_t)shoal_config_int(config, "model.threads");
    engine->pin_threads = shoal_config_bool(config, "model.pin_threads");
    engine->n_ctx = (size_t)shoal_config_int(config, "context.max");
    engine->kv_bytes = (size_t)shoal_config_int(config, "kv.max_mib") << 20;
    engine->kv_type = kv_type_of(shoal_config_string(config, "kv.type"));
    engine->kv_levels = shoal_config_string(config, "kv.levels");
    engine->kv_hadamard = shoal_config_bool(config, "kv.hadamard");
    engine->n_rows_max = (size_t)shoal_config_int(config, "step.rows_max");
    engine->n_logits_max = (size_t)shoal_config_int(config, "step.logits_max");
    if (engine->n_logits_max > engine->n_rows_max) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "step.logits_max (%zu) is above step.rows_max (%zu)",
                             engine->n_logits_max, engine->n_rows_max);
    }
    s.adapters = shoal_config_string(config, "model.adapters");
    s.node.model_name = shoal_config_string(config, "model.name");
    s.node.node_name = shoal_config_string(config, "node.name");
    s.node.n_sessions_max = (size_t)shoal_config_int(config, "sessions.max");
    s.node.inbox_bytes_max = (size_t)shoal_config_int(config, "sessions.inbox_kib") << 10;
    s.node.prefill_chunk = (size_t)shoal_config_int(config, "prefill.chunk");
    s.node.prefix_percent = (unsigned)shoal_config_int(config, "prefix.percent");
    s.node.step_time_ms = (uint64_t)shoal_config_int(config, "step.time_ms");
    s.node.idle_ms = (uint64_t)shoal_config_int(config, "sessions.idle_ms");
    s.node.kv_hold_ms = (uint64_t)shoal_config_int(config, "kv.hold_ms");
    s.rpc.message_max = SHOAL_WIRE_MESSAGE_MAX;
    s.rpc.keepalive_ms = (uint32_t)shoal_config_int(config, "listen.keepalive_ms");
    upstream_from(config, &s);
    SHOAL_TRY(check_adapters(&s, err));
    ship_from(config, &s);
    s.fleet.folder = shoal_config_string(config, "fleet.folder");
    s.fleet.n_calls_max = (size_t)shoal_config_int(config, "fleet.calls_max");
    /* Health checks, Describe and refused calls need room beside them. */
    s.rpc.calls_max = (uint32_t)(s.node.n_sessions_max + s.ship.n_jobs_max + s.fleet.n_calls_max) +
                      64 + SHOAL_NODE_ENDED_MAX;
    SHOAL_TRY(store_from(config, &s, err));
    s.service.address = shoal_config_string(config, "listen.address");
    s.service.wait_max_ms = (uint64_t)shoal_config_int(config, "admit.wait_max_ms");
    s.ops.address = shoal_config_string(config, "http.address");
    s.ops.hosts = shoal_config_string(config, "http.hosts");
    s.ops.n_connections_max = (size_t)shoal_config_int(config, "http.connections_max");
    s.model_path = shoal_config_string(config, "model.path");
    s.huge_pages = shoal_config_bool(config, "model.huge_pages");
    s.drain_grace_ms = (uint64_t)shoal_config_int(config, "drain.grace_ms");
    *ret_settings = s;
    return SHOAL_OK;
}
