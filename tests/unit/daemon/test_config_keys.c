/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/daemon/config_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static shoal_config *make(void)
{
    shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_config_new(shoal_edge_config_keys, shoal_edge_n_config_keys, &config, &err) !=
        SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return config;
}

static void set(shoal_config *config, const char *assignment)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_config_set(config, assignment, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void test_table_defaults_are_valid_and_dump_loads_back(void **state)
{
    (void)state;
    shoal_config *config = make();
    set(config, "model.threads=3");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf dump = {0};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_config_dump(config, &dump), SHOAL_OK);
    shoal_config *again = make();
    assert_int_equal(shoal_config_load_text(again, "dump", dump.data, dump.length, &err), SHOAL_OK);
    assert_int_equal(shoal_config_int(again, "model.threads"), 3);
    shoal_config_free(again);
    shoal_config_free(config);
}

static void test_settings_reach_the_parts(void **state)
{
    (void)state;
    shoal_config *config = make();
    shoal_coop_settings coop;
    shoal_err err = SHOAL_ERR_INIT;
    set(config, "kv.max_mib=7");
    set(config, "coop.draft_tokens=9");
    set(config, "coop.window_tokens=4"); /* a window holds at least one draft */
    set(config, "kv.type=f16");
    set(config, "kv.hadamard=true");
    set(config, "http.body_max_kib=100");
    set(config, "coop.open_ms=321");
    set(config, "assist.rate=0.25");
    set(config, "assist.span_tokens=3");
    set(config, "assist.risk=0.125");
    set(config, "assist.patience_ms=777");
    set(config, "assist.prompt_entropy=1.5");
    set(config, "budget.cloud_tokens_per_day=70");
    set(config, "budget.uplink_kib_per_month=5");
    set(config, "budget.energy_j_per_month=7");
    set(config, "energy.meter=power_uw");
    set(config, "energy.path=/meter");
    set(config, "energy.idle_w=1.5");
    set(config, "energy.radio_nj_per_byte=250");
    set(config, "model.path=some/where/minnow.gguf");
    assert_int_equal(shoal_edge_coop_settings(config, &coop, &err), SHOAL_OK);
    assert_int_equal(coop.kv_bytes_max, 7 << 20);
    assert_true(coop.kv_hadamard);
    assert_int_equal(coop.n_draft, 9);
    assert_int_equal(coop.n_window, 9);
    assert_int_equal(coop.open_ms, 321);
    assert_true(coop.route.rate > 0.249 && coop.route.rate < 0.251);
    assert_int_equal(coop.route.n_span_max, 3);
    assert_true(coop.route.risk == 0.125 && coop.route.prompt_entropy == 1.5);
    assert_int_equal(coop.patience_ms, 777);
    assert_int_equal(coop.spend.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_DAY], 70);
    assert_int_equal(coop.spend.most[SHOAL_SPEND_BYTES][SHOAL_SPEND_MONTH], 5 << 10);
    assert_int_equal(coop.spend.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 0);
    assert_true(coop.spend.most[SHOAL_SPEND_ENERGY][SHOAL_SPEND_MONTH] == 7000000u);
    assert_int_equal(coop.power_kind, SHOAL_POWER_UW);
    assert_string_equal(coop.power_path, "/meter");
    assert_true(coop.energy.idle_w == 1.5 && coop.energy.radio_nj == 250);
    set(config, "coop.draft_tokens=0"); /* chosen, as by default */
    set(config, "coop.window_tokens=0");
    set(config, "coop.plain_gain=20");
    set(config, "coop.spare_share=0.25");
    assert_int_equal(shoal_edge_coop_settings(config, &coop, &err), SHOAL_OK);
    assert_int_equal(coop.n_draft, 0);
    assert_int_equal(coop.n_window, 0);
    assert_true(coop.plain_gain == 20.0);
    assert_true(coop.spare_share == 0.25);
    assert_int_equal(shoal_edge_http_settings(config).body_bytes_max, 100 << 10);
    shoal_model model = {.hp = {.name = "named"}};
    char name[128];
    assert_string_equal(shoal_edge_api_settings(config, &model, false, name).model_id, "named");
    model.hp.name[0] = '\0';
    assert_string_equal(shoal_edge_api_settings(config, &model, false, name).model_id, "minnow");
    for (int calibrated = 0; calibrated < 2; calibrated++) {
        assert_int_equal(shoal_edge_api_settings(config, &model, calibrated, name).mode_default,
                         SHOAL_MODE_LOCAL);
    }
    set(config, "cloud.target=127.0.0.1:7443");
    assert_int_equal(shoal_edge_api_settings(config, &model, false, name).mode_default,
                     SHOAL_MODE_EXACT);
    assert_int_equal(shoal_edge_api_settings(config, &model, true, name).mode_default,
                     SHOAL_MODE_ASSIST);
    set(config, "mode.default=cloud");
    assert_int_equal(shoal_edge_api_settings(config, &model, true, name).mode_default,
                     SHOAL_MODE_CLOUD);
    assert_int_equal(shoal_edge_api_settings(config, &model, true, name).priority, 0);
    set(config, "requests.priority=7");
    assert_int_equal(shoal_edge_api_settings(config, &model, true, name).priority, 7);
    set(config, "model.name=mine");
    assert_string_equal(shoal_edge_api_settings(config, &model, false, name).model_id, "mine");
    shoal_config_free(config);
}

static void test_bad_hash_and_mask_name_the_key(void **state)
{
    (void)state;
    shoal_coop_settings coop;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_config *config = make();
    set(config, "cloud.model_hash=abc");
    assert_int_equal(shoal_edge_coop_settings(config, &coop, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "cloud.model_hash"));
    set(config, "cloud.model_hash="
                "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00Fe");
    shoal_err_clear(&err);
    assert_int_equal(shoal_edge_coop_settings(config, &coop, &err), SHOAL_OK);
    assert_int_equal(coop.model_pin.bytes[1], 0xff);
    assert_int_equal(coop.model_pin.bytes[31], 0xfe);
    set(config, "cpu.mask=abacus");
    assert_int_equal(shoal_edge_coop_settings(config, &coop, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "cpu.mask"));
    shoal_config_free(config);
}

static void test_exposure_needs_a_key_beyond_loopback(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        bool inside;
    } rows[] = {{"127.0.0.1:1", true},
                {"127.1.2.3:1", true},
                {"[::1]:1", true},
                {"localhost:1", true},
                {"", true},
                {"0.0.0.0:1", false},
                {"[::]:1", false},
                {"10.0.0.1:1", false},
                {"localhost.example:1", false}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_config *config = make();
        shoal_err err = SHOAL_ERR_INIT;
        char text[64];
        (void)snprintf(text, sizeof text, "listen.address=%s", rows[i].address);
        set(config, text);
        assert_int_equal(shoal_edge_check_exposure(config, &err) == SHOAL_OK, rows[i].inside);
        set(config, i % 2 ? "api.anonymous=true" : "api.key=k");
        assert_int_equal(shoal_edge_check_exposure(config, &err), SHOAL_OK);
        shoal_config_free(config);
    }
}

static void test_origins_are_checked_before_anything_listens(void **state)
{
    (void)state;
    static const struct {
        const char *origins;
        const char *says; /* NULL: fine */
    } rows[] = {{"", NULL},
                {"*", NULL},
                {"https://a.example,http://localhost:3000 , http://[::1]:8080", NULL},
                {"a.example", "a.example"},
                {"https://", "https://"},
                {"https://a.example/page", "without a path"},
                {"https://a.example, *", "\"*\""},
                {"https://user@a.example", "user@"}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_config *config = make();
        shoal_err err = SHOAL_ERR_INIT;
        char text[128];
        (void)snprintf(text, sizeof text, "api.cors_origins=%s", rows[i].origins);
        set(config, text);
        shoal_status status = shoal_edge_check_exposure(config, &err);
        assert_int_equal(status == SHOAL_OK, rows[i].says == NULL);
        assert_true(!rows[i].says || strstr(err.text, rows[i].says));
        set(config, "api.key=k");
        shoal_err_clear(&err);
        bool any = strcmp(rows[i].origins, "*") == 0;
        assert_int_equal(shoal_edge_check_exposure(config, &err) == SHOAL_OK,
                         !any && rows[i].says == NULL);
        shoal_config_free(config);
    }
}

static void test_bundles_need_a_key_a_cloud_and_a_family(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *trust, *target, *family, *named;
    } rows[] = {
        {"", "", "", "edge", NULL},
        {"a", "k.pem", "localhost:1", "minnow-2.b", NULL},
        {"a", "", "localhost:1", "edge", "bundle.trust"},
        {"a", "k.pem", "", "edge", "cloud.target"},
        {"a", "k.pem", "localhost:1", "", "bundle.family"},
        {"a", "k.pem", "localhost:1", "a/b", "bundle.family"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_config *config = make();
        shoal_updater_settings s;
        shoal_err err = SHOAL_ERR_INIT;
        char text[128];
        (void)snprintf(text, sizeof text, "bundle.folder=%s", rows[i].folder);
        set(config, text);
        (void)snprintf(text, sizeof text, "bundle.trust=%s", rows[i].trust);
        set(config, text);
        (void)snprintf(text, sizeof text, "cloud.target=%s", rows[i].target);
        set(config, text);
        (void)snprintf(text, sizeof text, "bundle.family=%s", rows[i].family);
        set(config, text);
        assert_int_equal(shoal_edge_updater_settings(config, &s, &err),
                         rows[i].named ? SHOAL_E_INVALID : SHOAL_OK);
        assert_true(!rows[i].named || strstr(err.text, rows[i].named));
        shoal_config_free(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_defaults_are_valid_and_dump_loads_back),
        cmocka_unit_test(test_settings_reach_the_parts),
        cmocka_unit_test(test_bad_hash_and_mask_name_the_key),
        cmocka_unit_test(test_exposure_needs_a_key_beyond_loopback),
        cmocka_unit_test(test_bundles_need_a_key_a_cloud_and_a_family),
        cmocka_unit_test(test_origins_are_checked_before_anything_listens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
