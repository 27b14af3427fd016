/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/config_keys.h"

#include "common/base/file.h"
#include "common/kv/evict.h"
#include "common/kv/kv.h"

#include <string.h>

#define INT(name, fallback, min, max, help)                                                        \
    {                                                                                              \
        name, SHOAL_CONFIG_INT, fallback, min, max, NULL, false, help                              \
    }
#define STRING(name, fallback, help)                                                               \
    {                                                                                              \
        name, SHOAL_CONFIG_STRING, fallback, 0, 0, NULL, false, help                               \
    }
#define LIMIT(name, help)                                                                          \
    {                                                                                              \
        name, SHOAL_CONFIG_INT, "0", 0, 1 << 30, NULL, false, help                                 \
    }

const shoal_config_key shoal_edge_config_keys[] = {
    STRING("listen.address", "127.0.0.1:8088",
           "Address and port of the HTTP API; port 0 picks one; empty: no TCP."),
    STRING("listen.unix", "", "Path of a Unix socket for the HTTP API; empty: none."),
    STRING(
        "listen.hosts", "",
        "More names that the Host header may carry, comma-separated; loopback is always allowed."),
    STRING("api.key", "", "Bearer token that every request needs; needed beyond loopback."),
    {"api.tls_cert", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true,
     "PEM file of a certificate chain: listen.address speaks https; empty: http. Read again on "
     "SIGHUP."},
    {"api.tls_key", SHOAL_CONFIG_STRING, "", 0, 0, NULL, true,
     "PEM file of its private key, without a password."},
    {"api.anonymous", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Answer without a key beyond loopback too: anyone who reaches the address may generate."},
    {"api.link_switch", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Let POST /v1/shoal/link cut the link to the cloud, for demonstrations: it does so for every "
     "client. With api.key for who has it, else from this machine alone."},
    {"api.on_disconnect", SHOAL_CONFIG_CHOICE, "continue", 0, 0, "continue|cancel", false,
     "What a stream whose client leaves does, when its request does not say: go on for "
     "api.replay_ms, so that the client can come back, or end at once."},
    INT("api.replay_ms", "10000", 0, 600000,
        "Time in ms for which a stream can be resumed after its end or its client's; 0: never."),
    INT("api.replay_kib", "8192", 1, 1 << 20,
        "Tokens held of all streams, to be resumed, KiB; the oldest go first."),
    INT("api.detached_max", "4", 0, 512,
        "Answers that go on without their client at a time; for one more the one whose client has "
        "been away the longest is cancelled. 0: none goes on."),
    STRING("api.cors_origins", "",
           "Origins whose web pages may call, comma-separated, as https://app.example:8443; \"*\": "
           "any, without api.key only."),
    {"redact.enabled", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Put placeholders in place of private words before anything leaves the device, and the words "
     "back into the answer. They are found by form: some are missed."},
    {"redact.email", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false, "E-mail addresses."},
    {"redact.phone", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false, "Telephone numbers."},
    {"redact.card", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false,
     "Card numbers whose check digit is right."},
    {"redact.key", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false, "Keys and tokens of services."},
    STRING("redact.names", "",
           "Names and words, comma-separated; found as whole words, in any case of ASCII letters."),
    STRING("redact.patterns", "",
           "Patterns of your own, as CUSTOMER=CU-[0-9]{6}; PLATE=[A-Z]{1,3}-[A-Z]{2} [0-9]{1,4}: "
           "name and regular expression, without groups, alternatives, * and +."),
    STRING("model.path", "", "GGUF file of the edge model."),
    STRING("model.name", "", "Name of the model in the API; empty: the one in the file."),
    STRING(
        "model.adapters", "",
        "LoRA adapters of the model of model.path, NAME=FILE or NAME=FILE=STRENGTH, separated by "
        "commas: a request whose model is NAME is answered with that one, and the cloud answers "
        "with its own of that name. They share the model and may be in one batch."),
    INT("model.threads", "2", 1, SHOAL_POOL_THREADS_MAX, "Compute threads."),
    {"model.pin_threads", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Keep each compute thread on a CPU of its own: for machines that do nothing else."},
    {"model.huge_pages", SHOAL_CONFIG_BOOL, "true", 0, 0, NULL, false,
     "Copy a packed model from the file's pages into huge ones of its own, behind the first "
     "answers: faster steps; false: share the file's pages with other programs."},
    STRING("cpu.mask", "native",
           "CPU tiers allowed: native, scalar, or a comma list of avx2, avx512; same results."),
    INT("context.max", "0", 0, SHOAL_MODEL_CTX_MAX,
        "Most tokens of one request, prompt included; 0: what the model was trained for."),
    INT("kv.max_mib", "64", 1, 1 << 20, "Memory for the KV of all requests, MiB."),
    {"kv.type", SHOAL_CONFIG_CHOICE, "auto", 0, 0,
     "auto|f16|f32|q8t|q8|q4|q3|k8v4|k8v3|k4v8|k4v3|k3v8|k3v4", false,
     "Stored form of the KV; auto: f32 for an F32 model, else f16; q8 to k3v4: blocks of 32 "
     "tokens in 8, 4 or 3 bits once they are full, k8v4 means keys in 8 and values in 4; q8t: "
     "tokens in 8 bits."},
    STRING(
        "kv.levels", "",
        "Stored form by layer, instead of kv.type: sealed ones in order, NAME*COUNT for several, "
        "the last for all that follow, as in q8*2,k4v3,q4; empty: kv.type."),
    {"kv.hadamard", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Keep keys and values of a head in Hadamard's basis, which spreads outliers of values over "
     "all channels before they are rounded (QuaRot): for heads of a power of two channels, not for "
     "latent attention (MLA) nor kv.archive. Answers change a little."},
    {"kv.evict", SHOAL_CONFIG_CHOICE, "none", 0, 0, "none|window|h2o|diverse|a2sf", false,
     "What a text longer than kv.budget gives up, so that its memory does not grow: window: all "
     "but the first 4 tokens and the newest; h2o: those with least attention that are not of the "
     "newest half; diverse: of those first the ones whose keys others have; a2sf: as h2o, but what "
     "was paid long ago counts less. Answers of long texts change. For kv.type f16 or f32; drafts "
     "that the cloud refuses make the edge read such a text again."},
    INT("kv.budget", "1024", 32, 65536,
        "Tokens of a text whose KV is held when kv.evict names a policy, a multiple of 32."),
    INT("session.max", "8", 0, SHOAL_SESSIONS_MAX,
        "Sessions whose KV is kept between requests, the last used; 0: none. Requests name one by "
        "\"shoal\": {\"session\": \"NAME\"}."),
    INT("session.kv_percent", "50", 0, 100,
        "Share of the KV memory that kept sessions may hold while no request wants it."),
    STRING("kv.archive", "",
           "File with the basis by which sessions and fetched KV may be archived, made for this "
           "model by shoal-forge kv-calibrate; empty: none, and what is archived is refused. For "
           "kv.type f16."),
    {"session.level", SHOAL_CONFIG_CHOICE, "exact", 0, 0, "exact|archive", false,
     "How a session is saved; exact: as it is; archive: by kv.archive, about a tenth, its last 128 "
     "tokens about a half; answers after a load are then near those without, not the same."},
    INT("session.body_max_kib", "65536", 1, 1 << 22, "Largest session that is loaded, KiB."),
    STRING("session.secret_file", "",
           "File whose first line is known to the edges that load each other's sessions: one saved "
           "under another is refused; empty: any of the model is taken."),
    STRING("cloud.target", "", "host:port of the cloud, or a comma list; empty: no cloud."),
    STRING("cloud.ca", "",
           "PEM file of the authority that signs the cloud; SIGHUP reads the files of the three "
           "again."),
    STRING("cloud.cert", "",
           "PEM file of this edge's certificate chain; SIGHUP reads the file again."),
    STRING("cloud.key", "", "PEM file of this edge's private key; SIGHUP reads the file again."),
    STRING("cloud.name_override", "",
           "Name expected in the cloud's certificate when the target is an address."),
    INT("cloud.keepalive_ms", "30000", 1000, 3600000,
        "How often an idle link is asked, by a ping, whether it stands, in ms: some 150 bytes each "
        "way. A link that went silent while the cloud had the word is noticed after as long, and "
        "10 s more."),
    INT("cloud.rest_ms", "900000", 0, 86400000,
        "When nothing has wanted the cloud for so many ms, the connection is let go: nothing wakes "
        "the processor and nothing is sent. The next request that needs the cloud connects, two "
        "to three round trips; 0: never."),
    STRING("cloud.model_hash", "",
           "Content hash of the cloud model to insist on, 64 hex digits; empty: any."),
    {"mode.default", SHOAL_CONFIG_CHOICE, "auto", 0, 0, "auto|local|assist|exact|cloud", false,
     "Mode of requests that name none; auto: local without a cloud, else assist where the model "
     "was calibrated for it (shoal-forge calibrate), else exact."},
    STRING("exit.policy", "off",
           "When a token may leave the edge model early: off, a policy fitted to the model (risk, "
           "fixed, margin, entropy, linear, percentile), or one with its numbers, "
           "fixed:threshold=0.98."),
    INT("exit.waiting_max", "16", 1, 64,
        "Tokens of one request that wait for the layers above their exit at most."),
    INT("coop.draft_tokens", "0", 0, 32,
        "Draft tokens of one verification round; 0: chosen from round trip, acceptance and load."),
    INT("coop.window_tokens", "0", 0, 64,
        "Unverified draft tokens in flight at most; 0: chosen, or three rounds of a fixed length."),
    {"coop.plain_gain", SHOAL_CONFIG_REAL, "1", 1, 1000, NULL, false,
     "With a chosen length: how many times faster an idle cloud must be without drafts before they "
     "are left; above 1 spares the cloud."},
    {"coop.spare_share", SHOAL_CONFIG_REAL, "0.05", 0, 1, NULL, false,
     "With a chosen length: where the cloud decodes it first judges drafts of an answer's "
     "beginning, which spares it steps, if the answer waits no longer for them than this share of "
     "a round trip; 0: never."},
    INT("coop.reconnect_ms", "10000", 0, 3600000,
        "How long a cut stream is tried again, in ms, before the request fails or degrades."),
    INT("coop.open_ms", "5000", 1, 600000,
        "Time in ms a node may take to say that a stream is open; then another is tried. Longer "
        "than the cloud's slowest step."),
    INT("coop.retry_burst", "64", 1, 65536,
        "Retries of all requests together that may reach the cloud at once."),
    {"coop.retries_per_s", SHOAL_CONFIG_REAL, "20", 0.1, 65536, NULL, false,
     "Retries per second from then on; more wait in line, or fail when that takes too long."},
    {"fetch.modes", SHOAL_CONFIG_CHOICE, "exact", 0, 0, "off|exact|all", false,
     "Modes in which a prompt's KV is fetched from a cloud that ships it (its edge_model.path), "
     "where that is sooner than computing: exact, whose prompts the cloud hears in any case; all: "
     "assist too, and the cloud hears every prompt for which it is; local never is."},
    {"fetch.archive", SHOAL_CONFIG_CHOICE, "off", 0, 0, "off|exact|all", false,
     "Modes in which what is fetched may be archived by kv.archive, where that is sooner: about a "
     "tenth of the bytes, but not exact; exact: the cloud judges every token, so no answer "
     "changes; all: assist too, and what the edge says itself may differ."},
    {"fetch.always", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Fetch, and wait for it, even where computing is measured to be faster."},
    INT("fetch.timeout_ms", "30000", 1, 600000,
        "Longest time in ms of one fetch; the edge computes long before, where it is slower."),
    INT("fetch.quarantine_s", "600", 0, 86400,
        "Seconds in which nothing is fetched after the cloud has sent what was no KV."),
    {"assist.rate", SHOAL_CONFIG_REAL, "0.1", 0.001, 0.999, NULL, false,
     "Mode assist: share of tokens at which the cloud is asked, where the edge is least sure."},
    {"assist.risk", SHOAL_CONFIG_REAL, "0", 0, 0.5, NULL, false,
     "Mode assist, instead of the rate: share of tokens kept that differ from the cloud's, at "
     "most; not below what the model was calibrated for (shoal-forge inspect). 0: the rate."},
    INT("assist.span_tokens", "8", 1, SHOAL_ROUTE_SPAN_MAX,
        "Mode assist: most tokens of one hand-over; 1, 1, 2, 4 and so on while the edge stays "
        "unsure."),
    {"assist.prompt_entropy", SHOAL_CONFIG_REAL, "0", 0, 30, NULL, false,
     "Mode assist: a prompt whose last 16 rows have a greater mean entropy, in nats, is the "
     "cloud's as a whole; 0: none is."},
    INT("assist.patience_ms", "2000", 1, 600000,
        "Mode assist: time in ms the cloud may take before the edge goes on alone."),
    STRING("budget.file", "",
           "File in which it stands what of the budgets was used, so that a restart does not give "
           "it again; written once a minute where something was, and at the end. Empty: budgets "
           "begin anew with the daemon."),
    LIMIT("budget.cloud_tokens_per_hour", "Tokens the cloud may make in an hour; 0: no limit."),
    LIMIT("budget.cloud_tokens_per_day", "In a day."),
    LIMIT("budget.cloud_tokens_per_month", "In 30 days."),
    LIMIT("budget.uplink_kib_per_hour", "KiB sent to the cloud in an hour; 0: no limit."),
    LIMIT("budget.uplink_kib_per_day", "In a day."),
    LIMIT("budget.uplink_kib_per_month", "In 30 days, each counted from the daemon's start."),
    LIMIT("budget.energy_j_per_hour",
          "Joules that answers may cost this device in an hour, those of mode local too; 0: no "
          "limit. Needs energy.meter."),
    LIMIT("budget.energy_j_per_day", "In a day."),
    LIMIT("budget.energy_j_per_month", "In 30 days."),
    {"energy.meter", SHOAL_CONFIG_CHOICE, "none", 0, 0, "none|rapl|energy_uj|power_uw|power_w",
     false,
     "What tells the energy that answers cost: the processor's own counters (rapl), or a file with "
     "microjoules that add up, with microwatts, or with watts."},
    STRING("energy.path", "",
           "That file, as /sys/class/hwmon/hwmon1/power1_input; for rapl its folder, empty: "
           "/sys/class/powercap."),
    {"energy.idle_w", SHOAL_CONFIG_REAL, "0", 0, 10000, NULL, false,
     "Watts that the device draws with nothing to do as well, and that are not charged."},
    {"energy.radio_nj_per_byte", SHOAL_CONFIG_REAL, "0", 0, 1e9, NULL, false,
     "Nanojoules charged for a byte sent or received, where the meter does not see the radio."},
    STRING("bundle.folder", "",
           "Folder for signed bundles that the cloud has for this edge: they are fetched, checked, "
           "and run in place of model.path; empty: model.path alone. Needs bundle.trust."),
    STRING("bundle.trust", "",
           "PEM file of the Ed25519 public keys whose bundles are taken; several, while one "
           "follows another."),
    STRING("bundle.family", "edge",
           "Family of bundles that are taken; also the model's name in the API where model.name is "
           "empty and bundle.folder is not, so that it stays when a model follows another."),
    INT("bundle.poll_s", "3600", 1, 30 * 86400,
        "Seconds between two questions for a newer bundle, a quarter more or less."),
    INT("bundle.trial_failures", "3", 1, 1000,
        "Answers that fail one after the other in a new bundle's trial, and the one before runs "
        "again."),
    INT("bundle.trial_answers", "20", 1, 100000, "Good answers that end a new bundle's trial."),
    INT("fault.cut_at", "0", 0, 1 << 20,
        "For tests: each answer loses its stream once, before its so-manieth message; 0: never."),
    {"fault.flip_ratio", SHOAL_CONFIG_REAL, "0", 0, 1, NULL, false,
     "For tests: share of drafts replaced by a random token; texts do not change."},
    INT("requests.active_max", "8", 1, 256, "Requests generating at once."),
    INT("requests.waiting_max", "32", 0, 65536, "Requests waiting; more get 429."),
    INT("requests.deadline_ms", "600000", 0, 86400000,
        "Time in ms one generation may take; 0: no limit."),
    INT("requests.priority", "0", 0, SHOAL_WIRE_PRIORITY_MAX,
        "Priority in the cloud of requests that name none: orders the work of one tenant's edges, "
        "7 first; a level is worth a second of waiting."),
    INT("requests.tokens_default", "512", 1, 1 << 20,
        "Answer length in tokens of a chat that does not say."),
    INT("http.connections_max", "1024", 1, 65536, "Open connections."),
    INT("http.body_max_kib", "4096", 1, 1 << 20, "Largest request body, KiB."),
    INT("http.header_ms", "10000", 100, 600000, "Time in ms for a request's headers to arrive."),
    INT("http.body_ms", "30000", 100, 3600000, "Time in ms for a request's body to arrive."),
    INT("http.idle_ms", "60000", 100, 3600000, "Time in ms between two requests of a connection."),
    INT("http.stall_ms", "30000", 100, 3600000,
        "Time in ms after which a reader that takes nothing is cut."),
    INT("drain.grace_ms", "10000", 0, 3600000, "Time in ms that open requests get after SIGTERM."),
    {"log.level", SHOAL_CONFIG_CHOICE, "info", 0, 0, "debug|info|warn|error", true,
     "Least severe level that is logged."},
    {"log.journald", SHOAL_CONFIG_BOOL, "false", 0, 0, NULL, false,
     "Begin log lines with <N> priorities for journald."},
};
const size_t shoal_edge_n_config_keys = SHOAL_COUNT(shoal_edge_config_keys);

static const char *text_or_null(const shoal_config *config, const char *key)
{
    const char *value = shoal_config_string(config, key);
    return value[0] ? value : NULL;
}

shoal_rpc_tls shoal_edge_cloud_tls(const shoal_config *config)
{
    return (shoal_rpc_tls){
        .ca = text_or_null(config, "cloud.ca"),
        .cert = text_or_null(config, "cloud.cert"),
        .key = text_or_null(config, "cloud.key"),
        .name_override = text_or_null(config, "cloud.name_override"),
    };
}

static shoal_status parse_hash(const char *text, shoal_hash *ret_hash, shoal_err *err)
{
    memset(ret_hash, 0, sizeof *ret_hash);
    size_t n = strlen(text);
    if (n == 0) {
        return SHOAL_OK;
    }
    if (n != SHOAL_HASH_HEX - 1 || strspn(text, "0123456789abcdefABCDEF") != n) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "cloud.model_hash: 64 hexadecimal digits are expected; shoal-forge "
                             "inspect prints them");
    }
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        int digit = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
        ret_hash->bytes[i / 2] = (uint8_t)(ret_hash->bytes[i / 2] << 4 | digit);
    }
    return SHOAL_OK;
}

static shoal_status read_secret(const char *path, shoal_coop_settings *s, shoal_err *err)
{
    char secret[SHOAL_SECRET_MAX + 1];
    if (!path[0]) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_file_read_secret("session.secret_file", path, secret, err));
    shoal_hash hash;
    shoal_status status = shoal_hash_of(secret, strlen(secret), &hash);
    explicit_bzero(secret, sizeof secret);
    SHOAL_TRY(status);
    memcpy(s->session_secret, hash.bytes, sizeof s->session_secret);
    s->has_session_secret = true;
    return SHOAL_OK;
}

static shoal_coop_fetching fetching(const shoal_config *config, const char *key)
{
    const char *modes = shoal_config_string(config, key);
    return strcmp(modes, "all") == 0     ? SHOAL_COOP_FETCH_ALL
           : strcmp(modes, "exact") == 0 ? SHOAL_COOP_FETCH_EXACT
                                         : SHOAL_COOP_FETCH_OFF;
}

static int kv_type(const shoal_config *config)
{
    shoal_kv_type type = SHOAL_KV_F32;
    return shoal_kv_type_parse(shoal_config_string(config, "kv.type"), &type) == 0 ? (int)type : -1;
}

shoal_spend_limits shoal_edge_spend_limits(const shoal_config *config)
{
    static const char *const keys[SHOAL_SPEND_KINDS][SHOAL_SPEND_PERIODS] = {
        {"budget.cloud_tokens_per_hour", "budget.cloud_tokens_per_day",
         "budget.cloud_tokens_per_month"},
        {"budget.uplink_kib_per_hour", "budget.uplink_kib_per_day", "budget.uplink_kib_per_month"},
        {"budget.energy_j_per_hour", "budget.energy_j_per_day", "budget.energy_j_per_month"}};
    static const uint64_t units[SHOAL_SPEND_KINDS] = {1, 1024, 1000000};
    shoal_spend_limits limits = {0};
    for (size_t k = 0; k < SHOAL_SPEND_KINDS; k++) {
        for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
            limits.most[k][p] = (uint64_t)shoal_config_int(config, keys[k][p]) * units[k];
        }
    }
    return limits;
}

static void set_energy(const shoal_config *config, shoal_coop_settings *s)
{
    const char *meter = shoal_config_string(config, "energy.meter");
    if (shoal_power_kind_parse(meter, &s->power_kind) != SHOAL_OK) {
        s->power_kind = SHOAL_POWER_NONE; /* the key's choices are all there is */
    }
    s->power_path = shoal_config_string(config, "energy.path");
    s->energy.idle_w = shoal_config_real(config, "energy.idle_w");
    s->energy.radio_nj = shoal_config_real(config, "energy.radio_nj_per_byte");
}

shoal_status shoal_edge_coop_settings(const shoal_config *config, shoal_coop_settings *ret_settings,
                                      shoal_err *err)
{
    shoal_coop_settings s = shoal_coop_settings_default();
    const char *mask = shoal_config_string(config, "cpu.mask");
    if (shoal_cpu_mask_parse(mask, &s.cpu_mask) < 0) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "cpu.mask: \"%s\" is not known; known are native, scalar, avx2, avx512", mask);
    }
    SHOAL_TRY(parse_hash(shoal_config_string(config, "cloud.model_hash"), &s.model_pin, err));
    s.cloud_target = text_or_null(config, "cloud.target");
    s.tls = shoal_edge_cloud_tls(config);
    s.keepalive_ms = (uint32_t)shoal_config_int(config, "cloud.keepalive_ms");
    s.rest_ms = (uint32_t)shoal_config_int(config, "cloud.rest_ms");
    s.n_threads = (uint32_t)shoal_config_int(config, "model.threads");
    s.pin_threads = shoal_config_bool(config, "model.pin_threads");
    s.kv_bytes_max = (size_t)shoal_config_int(config, "kv.max_mib") << 20;
    s.n_ctx_max = (size_t)shoal_config_int(config, "context.max");
    s.kv_type = kv_type(config);
    s.kv_levels = shoal_config_string(config, "kv.levels");
    s.kv_hadamard = shoal_config_bool(config, "kv.hadamard");
    s.kv_evict = shoal_kv_evict_find(shoal_config_string(config, "kv.evict"));
    s.kv_budget = s.kv_evict ? (size_t)shoal_config_int(config, "kv.budget") : 0;
    SHOAL_TRY(read_secret(shoal_config_string(config, "session.secret_file"), &s, err));
    s.n_sessions_max = (size_t)shoal_config_int(config, "session.max");
    s.archive_path = text_or_null(config, "kv.archive");
    s.archive_sessions = strcmp(shoal_config_string(config, "session.level"), "archive") == 0;
    s.session_percent_max = (size_t)shoal_config_int(config, "session.kv_percent");
    s.fetching = fetching(config, "fetch.modes");
    s.fetch_archived = fetching(config, "fetch.archive");
    s.fetch_always = shoal_config_bool(config, "fetch.always");
    s.fetch_ms = (uint64_t)shoal_config_int(config, "fetch.timeout_ms");
    s.fetch_quarantine_ms = (uint64_t)shoal_config_int(config, "fetch.quarantine_s") * 1000;
    s.n_active_max = (size_t)shoal_config_int(config, "requests.active_max");
    s.n_waiting_max = (size_t)shoal_config_int(config, "requests.waiting_max");
    s.exit_policy = shoal_config_string(config, "exit.policy");
    s.n_exit_waiting = (size_t)shoal_config_int(config, "exit.waiting_max");
    s.n_draft = (size_t)shoal_config_int(config, "coop.draft_tokens");
    s.n_window = (size_t)shoal_config_int(config, "coop.window_tokens");
    s.n_window = s.n_window > 0 ? SHOAL_MAX(s.n_window, s.n_draft) : 0;
    s.plain_gain = shoal_config_real(config, "coop.plain_gain");
    s.spare_share = shoal_config_real(config, "coop.spare_share");
    s.reconnect_ms = (uint64_t)shoal_config_int(config, "coop.reconnect_ms");
    s.open_ms = (uint64_t)shoal_config_int(config, "coop.open_ms");
    s.retry_burst = (double)shoal_config_int(config, "coop.retry_burst");
    s.retries_per_s = shoal_config_real(config, "coop.retries_per_s");
    s.fault_flip_ratio = shoal_config_real(config, "fault.flip_ratio");
    s.fault_cut_at = (uint32_t)shoal_config_int(config, "fault.cut_at");
    s.route.rate = shoal_config_real(config, "assist.rate");
    s.route.risk = shoal_config_real(config, "assist.risk");
    s.route.n_span_max = (size_t)shoal_config_int(config, "assist.span_tokens");
    s.route.prompt_entropy = shoal_config_real(config, "assist.prompt_entropy");
    s.patience_ms = (uint64_t)shoal_config_int(config, "assist.patience_ms");
    s.spend = shoal_edge_spend_limits(config);
    set_energy(config, &s);
    *ret_settings = s;
    return SHOAL_OK;
}

static size_t session_bytes(const shoal_config *config)
{
    return (size_t)shoal_config_int(config, "session.body_max_kib") << 10;
}

shoal_http_settings shoal_edge_http_settings(const shoal_config *config)
{
    shoal_http_settings s = shoal_http_settings_default();
    s.address = shoal_config_string(config, "listen.address");
    s.unix_path = shoal_config_string(config, "listen.unix");
    s.hosts = shoal_config_string(config, "listen.hosts");
    s.origins = shoal_config_string(config, "api.cors_origins");
    s.tls_cert = shoal_config_string(config, "api.tls_cert");
    s.tls_key = shoal_config_string(config, "api.tls_key");
    s.n_connections_max = (size_t)shoal_config_int(config, "http.connections_max");
    s.body_bytes_max = (size_t)shoal_config_int(config, "http.body_max_kib") << 10;
    s.body_bytes_total_max = SHOAL_MAX(s.body_bytes_total_max, s.body_bytes_max);
    s.body_bytes_total_max = SHOAL_MAX(s.body_bytes_total_max, session_bytes(config));
    s.header_ms = (uint32_t)shoal_config_int(config, "http.header_ms");
    s.body_ms = (uint32_t)shoal_config_int(config, "http.body_ms");
    s.idle_ms = (uint32_t)shoal_config_int(config, "http.idle_ms");
    s.stall_ms = (uint32_t)shoal_config_int(config, "http.stall_ms");
    return s;
}

shoal_status shoal_edge_check_exposure(const shoal_config *config, shoal_err *err)
{
    static const char *const loopback[] = {"127.", "[::1]:", "localhost:"};
    const char *address = shoal_config_string(config, "listen.address");
    const char *origins = shoal_config_string(config, "api.cors_origins");
    SHOAL_TRY(shoal_http_origins_check(origins, err));
    if (strcmp(origins, "*") == 0 && shoal_config_string(config, "api.key")[0]) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "api.cors_origins: \"*\" beside api.key would let any web page try "
                             "keys: name the origins, or leave api.key empty");
    }
    bool inside = address[0] == '\0' || shoal_config_string(config, "api.key")[0] != '\0' ||
                  shoal_config_bool(config, "api.anonymous");
    for (size_t i = 0; i < SHOAL_COUNT(loopback); i++) {
        inside = inside || strncmp(address, loopback[i], strlen(loopback[i])) == 0;
    }
    if (inside) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "listen.address: %.64s can be reached from other machines and api.key is "
                         "not set. Set a key, listen on 127.0.0.1, or set api.anonymous: true",
                         address);
}

/* "models/minnow.gguf" is "minnow". */
static void name_from_path(const char *path, char name[128])
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    size_t n = strlen(base);
    if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) {
        n -= 5;
    }
    n = SHOAL_MIN(n, (size_t)127);
    memcpy(name, base, n);
    name[n] = '\0';
}

shoal_api_settings shoal_edge_api_settings(const shoal_config *config, const shoal_model *model,
                                           bool calibrated, char name[128])
{
    shoal_api_settings s = shoal_api_settings_default();
    const char *given = text_or_null(config, "model.name");
    if (!given && shoal_config_string(config, "bundle.folder")[0]) {
        given = text_or_null(config, "bundle.family");
    }
    name_from_path(shoal_config_string(config, "model.path"), name);
    s.model_id = given ? given : model->hp.name[0] ? model->hp.name : name;
    s.version = SHOAL_VERSION;
    s.api_key = text_or_null(config, "api.key");
    s.n_waiting_max = (size_t)shoal_config_int(config, "requests.waiting_max");
    s.n_tokens_default = (size_t)shoal_config_int(config, "requests.tokens_default");
    s.deadline_ms = (uint64_t)shoal_config_int(config, "requests.deadline_ms");
    s.priority = (uint32_t)shoal_config_int(config, "requests.priority");
    s.session_bytes_max = session_bytes(config);
    s.link_switch = shoal_config_bool(config, "api.link_switch");
    s.replay_ms = (uint64_t)shoal_config_int(config, "api.replay_ms");
    s.replay_bytes_max = (size_t)shoal_config_int(config, "api.replay_kib") << 10;
    s.n_detached_max = (size_t)shoal_config_int(config, "api.detached_max");
    s.cancel_on_gone = strcmp(shoal_config_string(config, "api.on_disconnect"), "cancel") == 0;
    s.mode_default = shoal_edge_mode(config, calibrated);
    return s;
}

shoal_mode shoal_edge_mode(const shoal_config *config, bool calibrated)
{
    shoal_mode mode = SHOAL_MODE_LOCAL;
    if (shoal_mode_parse(shoal_config_string(config, "mode.default"), &mode) == SHOAL_OK) {
        return mode;
    }
    return !shoal_config_string(config, "cloud.target")[0] ? SHOAL_MODE_LOCAL
           : calibrated                                    ? SHOAL_MODE_ASSIST
                                                           : SHOAL_MODE_EXACT;
}

shoal_status shoal_edge_updater_settings(const shoal_config *config,
                                         shoal_updater_settings *ret_settings, shoal_err *err)
{
    shoal_updater_settings s = {
        .folder = shoal_config_string(config, "bundle.folder"),
        .key_path = shoal_config_string(config, "bundle.trust"),
        .family = shoal_config_string(config, "bundle.family"),
        .target = shoal_config_string(config, "cloud.target"),
        .tls = shoal_edge_cloud_tls(config),
        .poll_ms = (uint64_t)shoal_config_int(config, "bundle.poll_s") * 1000,
        .n_failures = (uint32_t)shoal_config_int(config, "bundle.trial_failures"),
        .n_answers = (uint32_t)shoal_config_int(config, "bundle.trial_answers"),
    };
    if (s.folder[0] && (!s.key_path[0] || !s.target[0])) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "bundle.folder needs %s: bundles come from the cloud, and only signed "
                             "ones are taken",
                             s.key_path[0] ? "cloud.target" : "bundle.trust");
    }
    size_t n_family = strlen(s.family);
    if (n_family < 1 || n_family > SHOAL_BUNDLE_NAME_MAX ||
        strspn(s.family, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") !=
            n_family) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "bundle.family: 1 to %d letters, digits, '.', '_' and '-' are expected",
            (int)SHOAL_BUNDLE_NAME_MAX);
    }
    if (shoal_bundle_program_parse(SHOAL_VERSION, s.program) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "the program's version is none");
    }
    *ret_settings = s;
    return SHOAL_OK;
}

shoal_status shoal_edge_redact_rules(const shoal_config *config, shoal_redact_rules **ret_rules,
                                     shoal_err *err)
{
    const shoal_redact_settings settings = {
        .kinds = {[SHOAL_REDACT_EMAIL] = shoal_config_bool(config, "redact.email"),
                  [SHOAL_REDACT_PHONE] = shoal_config_bool(config, "redact.phone"),
                  [SHOAL_REDACT_CARD] = shoal_config_bool(config, "redact.card"),
                  [SHOAL_REDACT_KEY] = shoal_config_bool(config, "redact.key"),
                  [SHOAL_REDACT_NAME] = true},
        .names = shoal_config_string(config, "redact.names"),
        .patterns = shoal_config_string(config, "redact.patterns"),
    };
    if (!shoal_config_bool(config, "redact.enabled")) {
        *ret_rules = NULL;
        return SHOAL_OK;
    }
    return shoal_redact_rules_new(&settings, ret_rules, err);
}
