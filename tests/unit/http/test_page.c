/* SPDX-License-Identifier: Apache-2.0
 *
 * The page's files and the switch that cuts the link.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include <jansson.h>
#include <stdatomic.h>
#include <string.h>

static void test_page_is_whole_and_loads_nothing_foreign(void **state)
{
    (void)state;
    api_fixture a;
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.api_key = "sesame";
    api_start_with(&a, &s, &h);
    static const char *const files[][2] = {{"/", "Content-Type: text/html; charset=utf-8\r\n"},
                                           {"/page/style.css", "text/css"},
                                           {"/page/main.js", "text/javascript"},
                                           {"/page/edge.js", "text/javascript"},
                                           {"/page/charts.js", "text/javascript"},
                                           {"/page/icon.svg", "image/svg+xml"}};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    for (size_t i = 0; i < SHOAL_COUNT(files); i++) {
        assert_int_equal(api_get(&a, files[i][0], &r),
                         200); /* without the key: nothing in it is secret */
        assert_non_null(strstr(r.data, files[i][1]));
        assert_non_null(strstr(r.data, "Content-Security-Policy: default-src 'none'; "));
        const char *body = strstr(r.data, "\r\n\r\n") + 4;
        assert_non_null(strstr(body, "SPDX-License-Identifier"));
        assert_null(strstr(body, "https://"));
        assert_null(strstr(body, "innerHTML"));
    }
    assert_int_equal(api_get(&a, "/page/", &r), 401);
    assert_int_equal(api_get(&a, "/page/none.js", &r), 404);
    assert_int_equal(api_get(&a, "/page/../etc/passwd", &r), 404);
    assert_int_equal(api_post(&a, "/", "{}", &r), 405);
    api_stop(&a);
}

static void test_link_switch_wants_its_setting_and_a_clear_word(void **state)
{
    (void)state;
    api_fixture a;
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    assert_int_equal(api_post(&a, "/v1/shoal/link", "{\"cut\":true}", &r), 403);
    assert_non_null(strstr(r.data, "api.link_switch"));
    assert_false(atomic_load(&fake_link_cut));
    api_stop(&a);
    shoal_api_settings s = api_test_settings();
    shoal_http_settings h = http_fixture_settings();
    s.link_switch = true;
    api_start_with(&a, &s, &h);
    static const char *const bad[] = {
        "", "{}", "[true]", "{\"cut\":1}", "{\"cut\":true", "\"cut\"", "{\"cut\":true,\"x\":1}"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(api_post(&a, "/v1/shoal/link", bad[i], &r), 400);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf long_body = {0};
    assert_int_equal(shoal_buf_appendf(&long_body, "{\"cut\":true%*s}", 256, ""), SHOAL_OK);
    assert_int_equal(api_post(&a, "/v1/shoal/link", long_body.data, &r), 400);
    assert_false(atomic_load(&fake_link_cut));
    assert_int_equal(api_post(&a, "/v1/shoal/link", "{\"cut\":true}", &r), 200);
    assert_non_null(strstr(r.data, "{\"cut\":true}"));
    assert_true(atomic_load(&fake_link_cut));
    assert_int_equal(api_get(&a, "/v1/shoal/status", &r), 200);
    json_t *j = api_body(&r);
    assert_true(json_is_true(api_at(j, "cloud.switch")));
    assert_true(json_is_true(api_at(j, "cloud.cut")));
    json_decref(j);
    assert_int_equal(api_post(&a, "/v1/shoal/link", " {\"cut\": false} ", &r), 200);
    assert_false(atomic_load(&fake_link_cut));
    assert_int_equal(api_get(&a, "/v1/shoal/link", &r), 405);
    api_stop(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_is_whole_and_loads_nothing_foreign),
        cmocka_unit_test(test_link_switch_wants_its_setting_and_a_clear_word),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
