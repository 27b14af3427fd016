/* SPDX-License-Identifier: Apache-2.0
 *
 * Adapters as the API shows them: named as models, listed beside the model they adapt.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "api_fixture.h"

#include "edge/http/api_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* A request names an adapter as its model, and is answered in that name. */
static void test_adapter_is_chosen_by_the_models_name(void **state)
{
    (void)state;
    static const shoal_adapter adapters[] = {{.name = "one"}, {.name = "two"}};
    api_fixture a;
    fake_adapters = adapters;
    fake_n_adapters = SHOAL_COUNT(adapters);
    api_start(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf r = {0};
    static const struct {
        const char *model;
        const shoal_adapter *adapter;
    } rows[] = {{"one", &adapters[0]}, {"two", &adapters[1]}, {MODEL, NULL}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        char body[128];
        (void)snprintf(body, sizeof body, "{\"prompt\":\"a\",\"model\":\"%s\"}", rows[i].model);
        shoal_buf_reset(&r);
        assert_int_equal(api_post(&a, "/v1/completions", body, &r), 200);
        assert_ptr_equal(fake_last.adapter, rows[i].adapter);
        json_t *j = api_body(&r);
        assert_string_equal(api_text_at(j, "model"), rows[i].model);
        json_decref(j);
    }
    shoal_buf_reset(&r);
    assert_int_equal(api_post(&a, "/v1/completions", "{\"prompt\":\"a\",\"model\":\"tw\"}", &r),
                     404);
    assert_non_null(strstr(r.data, "adapters that /v1/models lists"));
    shoal_buf_reset(&r);
    assert_int_equal(api_get(&a, "/v1/models", &r), 200);
    json_t *j = api_body(&r);
    assert_int_equal(json_array_size(api_at(j, "data")), 3);
    assert_string_equal(api_text_at(j, "data.2.id"), "two");
    assert_string_equal(api_text_at(j, "data.2.parent"), MODEL);
    assert_null(api_at(j, "data.0.parent"));
    json_decref(j);
    assert_int_equal(api_get(&a, "/v1/models/two", &r), 200);
    assert_int_equal(api_get(&a, "/v1/models/three", &r), 404);
    api_stop(&a);
    /* Which of two a name means must be plain. */
    static const shoal_adapter same[] = {{.name = MODEL}};
    fake_adapters = same;
    fake_n_adapters = 1;
    shoal_api_settings settings = api_test_settings();
    shoal_coop *coop = fake_coop_new();
    shoal_api *api = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_api_new(NULL, coop, api_model, NULL, &settings, &api, &err),
                     SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "model.adapters"));
    fake_coop_free(coop);
    fake_n_adapters = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapter_is_chosen_by_the_models_name),
    };
    return cmocka_run_group_tests(tests, api_make_model, api_free_model);
}
