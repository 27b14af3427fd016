/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/server/config_keys.h"

#include <string.h>

static shoal_config *new_config(void)
{
    shoal_config *config = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_config_new(shoal_cloud_config_keys, shoal_cloud_n_config_keys, &config, &err) !=
        SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return config;
}

static void test_defaults_become_settings(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = new_config();
    shoal_cloud_settings s;
    assert_int_equal(shoal_cloud_settings_from(config, &s, NULL), SHOAL_OK);
    assert_string_equal(s.service.address, "127.0.0.1:7443");
    assert_null(s.service.tls.ca);
    assert_int_equal(s.node.engine.kv_bytes, (size_t)1024 << 20);
    assert_int_equal(s.node.engine.kv_type, -1);
    assert_false(s.node.engine.kv_hadamard || s.ship.engine.kv_hadamard);
    assert_int_equal(s.node.n_sessions_max, 256);
    assert_int_equal(s.rpc.calls_max, 256 + 8 + 64 + 64 + SHOAL_NODE_ENDED_MAX);
    assert_int_equal(s.drain_grace_ms, 30000);
}

static void test_dump_loads_back(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = new_config();
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *again = new_config();
    shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_config_set(config, "kv.type=f16", &err), SHOAL_OK);
    assert_int_equal(shoal_config_set(config, "kv.hadamard=true", &err), SHOAL_OK);
    assert_int_equal(shoal_config_dump(config, &buf), SHOAL_OK);
    if (shoal_config_load_text(again, "dump", buf.data, buf.length, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_cloud_settings s;
    assert_int_equal(shoal_cloud_settings_from(again, &s, NULL), SHOAL_OK);
    assert_int_equal(s.node.engine.kv_type, SHOAL_KV_F16);
    assert_true(s.node.engine.kv_hadamard && !s.ship.engine.kv_hadamard);
    assert_int_equal(shoal_config_set(again, "edge_model.kv_hadamard=true", &err), SHOAL_OK);
    assert_int_equal(shoal_cloud_settings_from(again, &s, NULL), SHOAL_OK);
    assert_true(s.ship.engine.kv_hadamard);
    shoal_buf_fini(&buf);
}

static void refused(const char *first, const char *second, const char *text)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = new_config();
    shoal_err err = SHOAL_ERR_INIT;
    shoal_cloud_settings s;
    assert_int_equal(shoal_config_set(config, first, &err), SHOAL_OK);
    if (second != NULL) {
        assert_int_equal(shoal_config_set(config, second, &err), SHOAL_OK);
    }
    assert_int_equal(shoal_cloud_settings_from(config, &s, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, text));
}

static void test_contradictions_name_their_keys(void **state)
{
    (void)state;
    refused("tls.ca=a.pem", NULL, "tls.key");
    refused("tls.ca=a.pem", "tls.cert=b.pem", "tls.key");
    refused("step.rows_max=16", "step.logits_max=17", "step.logits_max");
    refused("cpu.mask=z80", NULL, "cpu.mask");
    refused("store.kind=redis", NULL, "store.address");
    refused("store.kind=disk", NULL, "store.folder");
    refused("store.kind=memory", "backend=upstream", "store.kind");
    refused("prefix.public=a.txt", "prefix.percent=0", "prefix.percent");
    refused("prefix.public=a.txt", "backend=upstream", "prefix.public");
}

static void test_store_comes_from_its_keys(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = new_config();
    static const char *const sets[] = {
        "store.kind=redis",      "store.address=/run/redis", "store.user=u",
        "store.folder=f",        "store.password_file=p",    "store.secret_file=s",
        "store.max_mib=2",       "store.inflight_mib=3",     "store.ttl_s=4",
        "store.timeout_ms=5",    "store.lease_ms=6",         "store.wait_ms=7",
        "store.plaintext=true",  "store.always=true",        "prefix.public=a;b",
        "model.huge_pages=false"};
    shoal_cloud_settings s;
    assert_int_equal(shoal_cloud_settings_from(config, &s, NULL), SHOAL_OK);
    assert_false(s.is_shared || s.store.plaintext || s.node.store_always);
    assert_true(s.huge_pages && s.store_password_file == NULL && s.store_secret_file == NULL);
    assert_string_equal(s.node.public_files, "");
    for (size_t i = 0; i < SHOAL_COUNT(sets); i++) {
        assert_int_equal(shoal_config_set(config, sets[i], NULL), SHOAL_OK);
    }
    assert_int_equal(shoal_cloud_settings_from(config, &s, NULL), SHOAL_OK);
    assert_true(s.is_shared && s.store.plaintext && s.node.store_always && !s.huge_pages);
    assert_int_equal(s.store.kind, SHOAL_STORE_REDIS);
    assert_string_equal(s.store.address, "/run/redis");
    assert_string_equal(s.store.user, "u");
    assert_string_equal(s.store.folder, "f");
    assert_string_equal(s.store_password_file, "p");
    assert_string_equal(s.store_secret_file, "s");
    assert_string_equal(s.node.public_files, "a;b");
    assert_int_equal(s.store.bytes_max, 2 << 20);
    assert_int_equal(s.store.inflight_bytes_max, 3 << 20);
    assert_true(s.store.ttl_s == 4 && s.store.timeout_ms == 5 && s.store.lease_ms == 6);
    assert_int_equal(s.node.store_wait_ms, 7);
}

static void test_quotas_come_from_their_keys(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = new_config();
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *none = NULL;
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *some = NULL;
    assert_int_equal(shoal_cloud_quotas_from(config, &none, NULL), SHOAL_OK);
    const shoal_admit_quota *q = shoal_admit_quotas_find(none, "a");
    assert_true(q->n_sessions == 0 && q->tokens_per_s == 0 && q->tokens_burst == 0);
    assert_int_equal(q->kv_bytes, 0);
    static const char *const sets[] = {"tenants.sessions_max=2", "tenants.tokens_per_s=3",
                                       "tenants.tokens_burst=4", "tenants.kv_mib=5",
                                       "tenants.overrides=b sessions=9"};
    for (size_t i = 0; i < SHOAL_COUNT(sets); i++) {
        assert_int_equal(shoal_config_set(config, sets[i], NULL), SHOAL_OK);
    }
    assert_int_equal(shoal_cloud_quotas_from(config, &some, NULL), SHOAL_OK);
    q = shoal_admit_quotas_find(some, "a");
    assert_true(q->n_sessions == 2 && q->tokens_per_s == 3 && q->tokens_burst == 4);
    assert_int_equal(q->kv_bytes, 5 << 20);
    q = shoal_admit_quotas_find(some, "b");
    assert_true(q->n_sessions == 9 && q->tokens_per_s == 3);
    assert_int_equal(shoal_config_set(config, "tenants.overrides=b session=9", NULL), SHOAL_OK);
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *bad = NULL;
    assert_int_equal(shoal_cloud_quotas_from(config, &bad, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "session=9"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_become_settings),
        cmocka_unit_test(test_dump_loads_back),
        cmocka_unit_test(test_contradictions_name_their_keys),
        cmocka_unit_test(test_store_comes_from_its_keys),
        cmocka_unit_test(test_quotas_come_from_their_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
