/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/metrics.h"

#include <string.h>

static const double first_token_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1,  0.25, 0.5,
                                            1.0,   2.5,  5.0,   10.0, 30.0, 60.0};
static const double next_token_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                           0.1,   0.25,   0.5,   1.0,  2.5};
static const double step_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                     0.05,   0.1,   0.25,   0.5,   1.0,  2.5};
static const double row_bounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};

#define REQUESTS(code) "shoal_requests_total", "Generations ended, by outcome.", "code=\"" code "\""
#define TOKENS(kind)                                                                               \
    "shoal_tokens_total", "Tokens, by what was done with them.", "kind=\"" kind "\",place=\"cloud\""
#define REFUSED(reason)                                                                            \
    "shoal_admission_refused_total", "Sessions refused before they began, by reason.",             \
        "reason=\"" reason "\""
#define FETCHES(result)                                                                            \
    "shoal_store_fetches_total",                                                                   \
        "Texts whose blocks the KV store was to be asked for, by result.", "result=\"" result "\""
#define HISTOGRAM(bounds) SHOAL_METRIC_HISTOGRAM, bounds, SHOAL_COUNT(bounds)
#define COUNTER           SHOAL_METRIC_COUNTER, NULL, 0
#define GAUGE             SHOAL_METRIC_GAUGE, NULL, 0

shoal_status shoal_cloud_metrics_init(shoal_metrics *registry, shoal_cloud_metrics *ret_metrics)
{
    memset(ret_metrics, 0, sizeof(*ret_metrics));
    if (registry == NULL) {
        return SHOAL_OK;
    }
    shoal_cloud_metrics *m = ret_metrics;
    const struct {
        shoal_metric **metric;
        shoal_metric_def def;
    } rows[] = {
        {&m->requests_ok, {REQUESTS("ok"), COUNTER}},
        {&m->requests_invalid, {REQUESTS("invalid_argument"), COUNTER}},
        {&m->requests_mismatch, {REQUESTS("failed_precondition"), COUNTER}},
        {&m->requests_exhausted, {REQUESTS("resource_exhausted"), COUNTER}},
        {&m->requests_deadline, {REQUESTS("deadline_exceeded"), COUNTER}},
        {&m->requests_cancelled, {REQUESTS("cancelled"), COUNTER}},
        {&m->requests_other, {REQUESTS("other"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_NEVER_FITS], {REFUSED("never_fits"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_NEVER_QUOTA], {REFUSED("never_quota"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_SESSIONS], {REFUSED("sessions"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_TENANT_SESSIONS], {REFUSED("tenant_sessions"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_TENANT_KV], {REFUSED("tenant_kv"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_TENANT_TOKENS], {REFUSED("tenant_tokens"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_WAIT], {REFUSED("wait"), COUNTER}},
        {&m->refused[SHOAL_ADMIT_KV], {REFUSED("kv"), COUNTER}},
        {&m->wait_seconds,
         {"shoal_admission_wait_seconds", "Predicted wait of a new session for its first token.",
          "", GAUGE}},
        {&m->running, {"shoal_requests_running", "Calls that are open.", "", GAUGE}},
        {&m->waiting,
         {"shoal_requests_waiting", "Sessions whose work found no place in the last step.", "",
          GAUGE}},
        {&m->first_token,
         {"shoal_time_to_first_token_seconds", "From open to the first token or verdict.", "",
          HISTOGRAM(first_token_bounds)}},
        {&m->next_token,
         {"shoal_time_per_output_token_seconds",
          "Of a generation, for each token after the first answer, the edge's time included.", "",
          HISTOGRAM(next_token_bounds)}},
        {&m->tokens_prompt, {TOKENS("prompt"), COUNTER}},
        {&m->tokens_generated, {TOKENS("generated"), COUNTER}},
        {&m->tokens_verified, {TOKENS("verified"), COUNTER}},
        {&m->tokens_accepted, {TOKENS("accepted"), COUNTER}},
        {&m->tokens_cached, {TOKENS("cached"), COUNTER}},
        {&m->kv_usage, {"shoal_kv_cache_usage_ratio", "Share of KV pages in use.", "", GAUGE}},
        {&m->prefix_tokens,
         {"shoal_prefix_hit_tokens_total", "Tokens whose KV came from the prefix cache.", "",
          COUNTER}},
        {&m->prefix_evictions,
         {"shoal_prefix_evictions_total", "Cached blocks of 32 tokens given up for pages.", "",
          COUNTER}},
        {&m->prefix_blocks,
         {"shoal_prefix_blocks", "Blocks of 32 tokens in the prefix cache.", "", GAUGE}},
        {&m->store_tokens,
         {"shoal_store_hit_tokens_total", "Tokens whose KV came from the KV store.", "", COUNTER}},
        {&m->store_hit, {FETCHES("hit"), COUNTER}},
        {&m->store_miss, {FETCHES("miss"), COUNTER}},
        {&m->store_late, {FETCHES("late"), COUNTER}},
        {&m->store_full, {FETCHES("full"), COUNTER}},
        {&m->store_dear, {FETCHES("dear"), COUNTER}},
        {&m->kv_evictions,
         {"shoal_kv_evictions_total", "Sessions whose KV was dropped for another.", "", COUNTER}},
        {&m->steps, {"shoal_engine_steps_total", "Engine steps run.", "", COUNTER}},
        {&m->step_seconds,
         {"shoal_engine_step_seconds", "Time of one engine step.", "", HISTOGRAM(step_bounds)}},
        {&m->step_rows,
         {"shoal_engine_step_rows", "Tokens computed in one engine step.", "",
          HISTOGRAM(row_bounds)}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_TRY(shoal_metrics_add(registry, &rows[i].def, rows[i].metric));
    }
    return SHOAL_OK;
}
