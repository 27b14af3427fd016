/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's address, key and certificates, as every request needs them.
 */
#include "cloud/upstream/upstream_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

shoal_upstream_settings shoal_upstream_settings_default(void)
{
    return (shoal_upstream_settings){.url = "",
                                     .model = "",
                                     .api_key_file = "",
                                     .ca_file = "",
                                     .n_calls_max = 64,
                                     .connect_ms = 5000,
                                     .silence_ms = 120000,
                                     .start_ms = 30000,
                                     .verify = true};
}

/* --- address ---------------------------------------------------------------------------------- */

static bool has_part(CURLU *u, CURLUPart part)
{
    char *text = NULL;
    bool has = curl_url_get(u, part, &text, 0) == CURLUE_OK;
    curl_free(text);
    return has;
}

static bool is_http(CURLU *u)
{
    char *scheme = NULL;
    bool http = curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    curl_free(scheme);
    return http;
}

static shoal_status check_url(const char *url, shoal_err *err)
{
    if (url[0] == '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "upstream.url is empty; give the engine's address, such as "
                             "http://127.0.0.1:8000");
    }
    CURLU *u = curl_url();
    if (u == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for upstream.url");
    }
    shoal_status status = SHOAL_OK;
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK || !is_http(u)) {
        status = shoal_err_set(err, SHOAL_E_INVALID,
                               "upstream.url \"%.100s\" is no http:// or https:// address", url);
    } else if (has_part(u, CURLUPART_USER) || has_part(u, CURLUPART_PASSWORD) ||
               has_part(u, CURLUPART_QUERY) || has_part(u, CURLUPART_FRAGMENT)) {
        /* The address stands in errors and logs, so nothing secret may stand in it. */
        status =
            shoal_err_set(err, SHOAL_E_INVALID,
                          "upstream.url has a user, a password, a query or a fragment; put the "
                          "key into upstream.api_key_file");
    }
    curl_url_cleanup(u);
    return status;
}

static char *join(const char *a, const char *b)
{
    size_t n = strlen(a) + strlen(b) + 1;
    char *text = shoal_calloc(1, n);
    if (text != NULL) {
        (void)snprintf(text, n, "%s%s", a, b);
    }
    return text;
}

static shoal_status copy_texts(upstream_site *site, const shoal_upstream_settings *settings)
{
    site->url = shoal_strdup(settings->url);
    site->model = shoal_strdup(settings->model);
    site->ca_file = shoal_strdup(settings->ca_file);
    if (site->url == NULL || site->model == NULL || site->ca_file == NULL) {
        return SHOAL_E_NOMEM;
    }
    size_t n = strlen(site->url);
    while (n > 0 && site->url[n - 1] == '/') {
        site->url[--n] = '\0';
    }
    if (n > 3 && strcmp(site->url + n - 3, "/v1") == 0) {
        site->url[n - 3] = '\0';
    }
    site->completions = join(site->url, "/v1/completions");
    site->models = join(site->url, "/v1/models");
    return site->completions != NULL && site->models != NULL ? SHOAL_OK : SHOAL_E_NOMEM;
}

/* --- key -------------------------------------------------------------------------------------- */

static shoal_status add_header(upstream_site *site, const char *line)
{
    struct curl_slist *longer = curl_slist_append(site->headers, line);
    if (longer == NULL) {
        return SHOAL_E_NOMEM;
    }
    site->headers = longer;
    return SHOAL_OK;
}

static shoal_status make_headers(upstream_site *site, const char *key_file, shoal_err *err)
{
    SHOAL_TRY(add_header(site, "Content-Type: application/json"));
    SHOAL_TRY(add_header(site, "Expect:"));
    if (key_file[0] == '\0') {
        return SHOAL_OK;
    }
    char key[SHOAL_SECRET_MAX + 1];
    char line[SHOAL_SECRET_MAX + 32];
    shoal_status status = shoal_file_read_secret("upstream.api_key_file", key_file, key, err);
    if (status == SHOAL_OK) {
        (void)snprintf(line, sizeof(line), "Authorization: Bearer %s", key);
        status = add_header(site, line);
    }
    explicit_bzero(key, sizeof(key));
    explicit_bzero(line, sizeof(line));
    return status;
}

/* --- life ------------------------------------------------------------------------------------- */

shoal_status shoal_upstream_site_init(upstream_site *site, const shoal_upstream_settings *settings,
                                      const shoal_tokenizer *tokenizer, shoal_err *err)
{
    *site = (upstream_site){.settings = *settings, .tokenizer = tokenizer};
    site->end_id = shoal_retoken_end_id(tokenizer);
    SHOAL_TRY(check_url(settings->url, err));
    if (settings->n_calls_max < 1 || settings->n_calls_max > SHOAL_UPSTREAM_CALLS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "upstream.connections_max is %zu, not in 1..%d",
                             settings->n_calls_max, (int)SHOAL_UPSTREAM_CALLS_MAX);
    }
    shoal_status status = copy_texts(site, settings);
    if (status == SHOAL_OK) {
        status = make_headers(site, settings->api_key_file, err);
    }
    if (status == SHOAL_E_NOMEM) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the upstream's settings");
    }
    return status;
}

void shoal_upstream_site_fini(upstream_site *site)
{
    for (struct curl_slist *h = site->headers; h != NULL; h = h->next) {
        explicit_bzero(h->data, strlen(h->data));
    }
    curl_slist_free_all(site->headers);
    shoal_free(site->url);
    shoal_free(site->completions);
    shoal_free(site->models);
    shoal_free(site->model);
    shoal_free(site->ca_file);
    *site = (upstream_site){0};
}

CURL *shoal_upstream_handle(const upstream_site *site, const char *url)
{
    CURL *easy = curl_easy_init();
    if (easy == NULL) {
        return NULL;
    }
    /* Engines stand in the same cluster: a proxy of the environment is not for them. */
    bool good =
        curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)site->settings.connect_ms) ==
            CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, site->headers) == CURLE_OK;
    if (good && site->ca_file[0] != '\0') {
        good = curl_easy_setopt(easy, CURLOPT_CAINFO, site->ca_file) == CURLE_OK;
    }
    if (!good) {
        curl_easy_cleanup(easy);
        return NULL;
    }
    return easy;
}
