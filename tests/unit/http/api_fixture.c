/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "tests/support/tiny_model.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

shoal_model *api_model;

int api_make_model(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_gguf *gguf = NULL;
    if (shoal_tiny_model_gguf(7, SHOAL_TYPE_F32, &buf) != SHOAL_OK ||
        shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, &err) != SHOAL_OK ||
        shoal_model_new(gguf, &api_model, &err) != SHOAL_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    shoal_gguf_close(gguf);
    return 0;
}

int api_free_model(void **state)
{
    (void)state;
    shoal_model_free(api_model);
    return 0;
}

static void drain_api(void *ctx)
{
    api_fixture *a = ctx;
    shoal_api_drain(a->api);
    shoal_http_server_drain(a->f.server);
}

shoal_api_settings api_test_settings(void)
{
    shoal_api_settings s = shoal_api_settings_default();
    s.model_id = MODEL;
    s.cancel_on_gone = true; /* a client that leaves is seen at once */
    return s;
}

void api_start_with(api_fixture *a, const shoal_api_settings *settings,
                    const shoal_http_settings *http)
{
    shoal_err err = SHOAL_ERR_INIT;
    *a = (api_fixture){0};
    a->coop = fake_coop_new();
    http_fixture_loop(&a->f);
    assert_int_equal(shoal_metrics_new(&a->f.metrics), SHOAL_OK);
    assert_int_equal(
        shoal_api_new(a->f.loop, a->coop, api_model, a->f.metrics, settings, &a->api, &err),
        SHOAL_OK);
    assert_int_equal(shoal_wake_new(a->f.loop, drain_api, a, &a->drain), SHOAL_OK);
    const shoal_http_handler handler = shoal_api_handler(a->api);
    http_fixture_start(&a->f, http, &handler);
}

void api_start(api_fixture *a)
{
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    api_start_with(a, &s, &h);
}

void api_stop(api_fixture *a)
{
    http_fixture_stop_loop(&a->f);
    shoal_http_server_free(a->f.server);
    a->f.server = NULL;
    fake_coop_free(a->coop);
    shoal_api_free(a->api);
    shoal_wake_free(a->drain);
    http_fixture_free(&a->f);
}

int api_post(api_fixture *a, const char *path, const char *body, shoal_buf *answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(shoal_buf_appendf(&q,
                                       "POST %s HTTP/1.1\r\nHost: localhost\r\n"
                                       "Content-Type: application/json\r\nConnection: close\r\n"
                                       "Content-Length: %zu\r\n\r\n%s",
                                       path, strlen(body), body),
                     SHOAL_OK);
    return http_ask(&a->f, q.data, answer);
}

int api_get(api_fixture *a, const char *path, shoal_buf *answer)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf q = {0};
    assert_int_equal(shoal_buf_appendf(&q,
                                       "GET %s HTTP/1.1\r\nHost: localhost\r\n"
                                       "Connection: close\r\n\r\n",
                                       path),
                     SHOAL_OK);
    return http_ask(&a->f, q.data, answer);
}

/* The test's own JSON needs no budget of a parse. */
json_t *api_load(const char *text)
{
    json_error_t why;
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!json) {
        fail_msg("%s in %s", why.text, text);
    }
    return json;
}

json_t *api_body(const shoal_buf *answer)
{
    const char *body = strstr(answer->data, "\r\n\r\n");
    assert_non_null(body);
    return api_load(body + 4);
}

json_t *api_at(json_t *json, const char *path)
{
    char part[64];
    while (json && *path) {
        size_t n = strcspn(path, ".");
        (void)snprintf(part, sizeof part, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)strtol(part, NULL, 10))
                                   : json_object_get(json, part);
        path += n + (path[n] == '.');
    }
    return json;
}

const char *api_text_at(json_t *json, const char *path)
{
    const char *text = json_string_value(api_at(json, path));
    return text ? text : "";
}
