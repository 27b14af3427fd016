/* SPDX-License-Identifier: Apache-2.0
 *
 * The page at "/", and the switch that cuts the link to the cloud.
 */
#include "edge/http/api_parse_internal.h"

#include "edge/web/web.h"

enum {
    SWITCH_BYTES_MAX = 256 /* of the body of a switch */
};

/* Own files and own endpoints, nothing else: even a text that became markup could load nothing. */
static const char page_headers[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'\r\n"
    "Referrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\nCache-Control: no-cache\r\n";

void shoal_api_answer_page(shoal_api *api, shoal_http_exchange *exchange)
{
    (void)api;
    const shoal_web_asset *asset = shoal_web_find(shoal_http_path(exchange));
    if (!asset) {
        shoal_http_error error = {0};
        (void)shoal_http_error_set(&error, 404, NULL, "not_found",
                                   "the page has no file %.100s; it begins at /",
                                   shoal_http_path(exchange));
        shoal_http_fail(exchange, &error);
        return;
    }
    shoal_http_respond(exchange, 200, asset->type, page_headers, asset->data, asset->n);
}

/* {"cut": true} or {"cut": false}, and nothing else. */
static bool read_switch(const shoal_buf *body, bool *ret_cut)
{
    if (body->length == 0 || body->length > SWITCH_BYTES_MAX) {
        return false;
    }
    json_error_t why = {0};
    shoal_status memory = SHOAL_OK;
    json_t *root = shoal_api_load(body->data, body->length, &why, &memory);
    const json_t *cut = json_object_get(root, "cut");
    bool ok = json_is_boolean(cut) && json_object_size(root) == 1;
    *ret_cut = json_is_true(cut);
    json_decref(root);
    return ok;
}

static void answer_state(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_coop_state state = {0};
    shoal_coop_state_get(api->deck->coop, &state);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = {0};
    if (shoal_buf_appendf(&body, "{\"cut\":%s}", state.link_cut ? "true" : "false") != SHOAL_OK) {
        shoal_http_error error = {0};
        (void)shoal_http_error_set(&error, 503, NULL, "out_of_memory", "no memory for the answer");
        shoal_http_fail(exchange, &error);
        return;
    }
    shoal_http_respond(exchange, 200, "application/json", "Cache-Control: no-store\r\n", body.data,
                       body.length);
}

void shoal_api_answer_link(shoal_api *api, shoal_http_exchange *exchange)
{
    shoal_http_error error = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf body = shoal_http_take_body(exchange);
    bool cut = false;
    if (!api->settings.link_switch) {
        (void)shoal_http_error_set(&error, 403, NULL, "link_switch_off",
                                   "this edge has no link switch: it would cut the cloud for every "
                                   "client. Start it with api.link_switch: true to have one");
    } else if (!api->api_key && !shoal_http_peer_is_local(exchange)) {
        (void)shoal_http_error_set(&error, 403, NULL, "not_local",
                                   "without a key the link is switched from this machine alone: "
                                   "set api.key");
    } else if (!read_switch(&body, &cut)) {
        (void)shoal_http_error_set(&error, 400, "cut", "invalid_value",
                                   "the body must be {\"cut\": true} or {\"cut\": false}");
    }
    if (error.status != 0) {
        shoal_http_fail(exchange, &error);
        return;
    }
    shoal_coop_cut_link(api->deck->coop, cut);
    answer_state(api, exchange);
}
