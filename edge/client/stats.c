/* SPDX-License-Identifier: Apache-2.0
 *
 * What the edge says of itself: its status page as numbers.
 */
#include "edge/client/client_internal.h"

#include <stdlib.h>
#include <string.h>

typedef shoal_client_json_node node;

void shoal_client_stats_init(shoal_client_stats *stats, size_t size)
{
    const shoal_client_stats empty = {.size = size,
                                      .round_trip_ms = -1.0,
                                      .acceptance = -1.0,
                                      .edge_token_ms = -1.0,
                                      .cloud_step_ms = -1.0,
                                      .budget_level = -1.0};
    memset(stats, 0, size);
    memcpy(stats, &empty, size < sizeof empty ? size : sizeof empty);
}

static void take_name(const shoal_client_json *json, const node *object, const char *key,
                      char ret_name[SHOAL_CLIENT_NAME_MAX])
{
    shoal_client_copy_name(ret_name,
                           shoal_client_json_text(shoal_client_json_get(json, object, key)));
}

static uint64_t count(const shoal_client_json *json, const node *object, const char *key)
{
    return shoal_client_json_u64(shoal_client_json_get(json, object, key), 0);
}

static double measure(const shoal_client_json *json, const node *object, const char *key)
{
    return shoal_client_json_double(shoal_client_json_get(json, object, key), -1.0);
}

static int truth(const shoal_client_json *json, const node *object, const char *key)
{
    const node *value = shoal_client_json_get(json, object, key);
    return value && value->kind == SHOAL_CLIENT_JSON_TRUE;
}

static void read_now(const shoal_client_json *json, shoal_client_stats *s)
{
    const node *root = json->nodes;
    take_name(json, root, "version", s->version);
    take_name(json, root, "status", s->status);
    take_name(json, root, "mode", s->mode);
    take_name(json, shoal_client_json_get(json, root, "model"), "id", s->model);
    s->uptime_s = count(json, root, "uptime_s");
    const node *requests = shoal_client_json_get(json, root, "requests");
    s->n_active = count(json, requests, "active");
    s->n_waiting = count(json, requests, "waiting");
    s->n_open = count(json, requests, "open");
    const node *kv = shoal_client_json_get(json, root, "kv");
    s->kv_pages_used = count(json, kv, "pages_used");
    s->kv_pages = count(json, kv, "pages");
}

static void read_link(const shoal_client_json *json, shoal_client_stats *s)
{
    const node *cloud = shoal_client_json_get(json, json->nodes, "cloud");
    take_name(json, cloud, "name", s->cloud);
    take_name(json, cloud, "link", s->link);
    take_name(json, cloud, "trouble", s->trouble);
    s->link_cut = truth(json, cloud, "cut");
    s->given_up = truth(json, cloud, "given_up");
    s->round_trip_ms = measure(json, cloud, "round_trip_ms");
    const node *drafts = shoal_client_json_get(json, json->nodes, "speculation");
    s->acceptance = measure(json, drafts, "acceptance");
    s->n_draft = count(json, drafts, "draft_tokens");
    s->n_window = count(json, drafts, "window_tokens");
    s->edge_token_ms = measure(json, drafts, "edge_token_ms");
    s->cloud_step_ms = measure(json, drafts, "cloud_step_ms");
    const node *fetch = shoal_client_json_get(json, json->nodes, "fetch");
    s->fetch_quarantined = truth(json, fetch, "quarantined");
}

static void read_budgets(const shoal_client_json *json, shoal_client_stats *s)
{
    const node *assist = shoal_client_json_get(json, json->nodes, "assist");
    s->budget_level = measure(json, assist, "budget_level");
    const node *list = shoal_client_json_get(json, assist, "budgets");
    for (size_t i = 0; i < SHOAL_CLIENT_BUDGETS_MAX; i++) {
        const node *budget = shoal_client_json_at(json, list, i);
        if (!budget) {
            break;
        }
        shoal_client_budget *b = &s->budgets[s->n_budgets++];
        take_name(json, budget, "what", b->what);
        take_name(json, budget, "per", b->per);
        b->limit = count(json, budget, "limit");
        b->used = count(json, budget, "used");
        b->ends_in_s = count(json, budget, "ends_in_s");
    }
}

static void read_totals(const shoal_client_json *json, const node *totals, shoal_client_stats *s)
{
    s->n_requests = count(json, totals, "requests");
    s->n_prompt = count(json, totals, "prompt_tokens");
    const node *tiers = shoal_client_json_get(json, totals, "tokens");
    for (int t = 0; t < SHOAL_CLIENT_TIERS; t++) {
        s->n_by_tier[t] = count(json, tiers, shoal_client_tier_name(t));
    }
    s->n_unassisted = count(json, totals, "unassisted");
    s->n_drafted = count(json, totals, "drafted");
    s->n_accepted = count(json, totals, "accepted");
    s->n_rounds = count(json, totals, "rounds");
    s->n_saved = count(json, totals, "saved");
    s->n_reconnects = count(json, totals, "reconnects");
    s->bytes_up = count(json, totals, "bytes_up");
    s->bytes_down = count(json, totals, "bytes_down");
    s->packet_bytes_up = count(json, totals, "packet_bytes_up");
    s->packet_bytes_down = count(json, totals, "packet_bytes_down");
}

static void read_bundle(const shoal_client_json *json, shoal_client_stats *s)
{
    const node *bundle = shoal_client_json_get(json, json->nodes, "bundle");
    take_name(json, bundle, "family", s->bundle);
    take_name(json, bundle, "phase", s->bundle_phase);
    take_name(json, bundle, "trouble", s->bundle_trouble);
    s->bundle_serial = count(json, bundle, "serial");
    s->bundle_trial = truth(json, bundle, "trial");
}

int shoal_client_stats_read(char *text, size_t n, shoal_client_stats *s, shoal_client_error *error)
{
    shoal_client_json json = {.nodes = NULL};
    int code = shoal_client_json_parse(&json, text, n);
    if (code == SHOAL_CLIENT_OK) {
        const node *totals = shoal_client_json_get(&json, json.nodes, "totals");
        if (totals) {
            read_now(&json, s);
            read_link(&json, s);
            read_budgets(&json, s);
            read_totals(&json, totals, s);
            read_bundle(&json, s);
        } else {
            code = SHOAL_CLIENT_E_PROTOCOL;
        }
    }
    shoal_client_json_fini(&json);
    if (code == SHOAL_CLIENT_E_NOMEM) {
        return shoal_client_fail(error, code, "out of memory");
    }
    return code == SHOAL_CLIENT_OK
               ? code
               : shoal_client_fail(error, code, "the status is not that of a Shoal edge");
}

int shoal_client_stats_get(shoal_client *client, shoal_client_stats *ret_stats,
                           shoal_client_error *ret_error)
{
    if (!ret_stats || ret_stats->size < sizeof ret_stats->size) {
        shoal_client_error error = {.retry_after_s = -1};
        int code = shoal_client_fail(&error, SHOAL_CLIENT_E_INVALID,
                                     "stats has no size; call shoal_client_stats_init first");
        return shoal_client_report(&error, code, ret_error);
    }
    char *body = NULL;
    size_t n = 0;
    int status = 0;
    shoal_client_error error;
    int code = shoal_client_get(client, "/v1/shoal/status", &body, &n, &status, &error);
    if (code == SHOAL_CLIENT_OK && status != 200) {
        code = shoal_client_fail(&error, SHOAL_CLIENT_E_REFUSED,
                                 "the status was refused with HTTP %d", status);
    }
    if (code == SHOAL_CLIENT_OK) {
        shoal_client_stats stats;
        shoal_client_stats_init(&stats, sizeof stats);
        code = shoal_client_stats_read(body, n, &stats, &error);
        if (code == SHOAL_CLIENT_OK) {
            size_t size = ret_stats->size;
            memcpy(ret_stats, &stats, size < sizeof stats ? size : sizeof stats);
            ret_stats->size = size;
        }
    }
    shoal_client_text_free(body);
    return shoal_client_report(&error, code, ret_error);
}
