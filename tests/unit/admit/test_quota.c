/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/admit/quota.h"
#include "common/base/buf.h"

#include <string.h>

static const shoal_admit_quota fallback = {
    .n_sessions = 3, .tokens_per_s = 100, .tokens_burst = 50, .kv_bytes = 7 << 20};

static shoal_admit_quotas *make(const char *overrides)
{
    shoal_admit_quotas *quotas = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_admit_quotas_new(&fallback, overrides, &quotas, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return quotas;
}

static void refused(const char *overrides, shoal_status want, const char *word)
{
    shoal_admit_quotas *quotas = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_admit_quotas_new(&fallback, overrides, &quotas, &err), want);
    assert_null(quotas);
    if (strstr(err.text, word) == NULL || strstr(err.text, "tenants.overrides") == NULL) {
        fail_msg("\"%s\" does not name %s", err.text, word);
    }
}

static void test_who_is_not_named_gets_the_default(void **state)
{
    (void)state;
    static const char *const texts[] = {"", " ; \n;;", "# nobody sessions=1\n", "other sessions=9"};
    for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
        SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *quotas = make(texts[i]);
        const shoal_admit_quota *q = shoal_admit_quotas_find(quotas, "nobody");
        assert_memory_equal(q, &fallback, sizeof(*q));
        assert_memory_equal(shoal_admit_quotas_find(quotas, ""), &fallback, sizeof(*q));
    }
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *quotas = make(NULL);
    assert_int_equal(shoal_admit_quotas_find(quotas, "x")->n_sessions, 3);
}

static void test_whole_name_beats_the_longest_beginning(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_admit_quotas_freep)
    shoal_admit_quotas *quotas = make("spiffe://s/* sessions=8 tokens_per_s=500; * kv_mib=2\n"
                                      "\tspiffe://s/7/*  tokens_burst=9\r\n"
                                      "spiffe://s/7/a sessions=0");
    const shoal_admit_quota *q = shoal_admit_quotas_find(quotas, "spiffe://s/1");
    assert_int_equal(q->n_sessions, 8);
    assert_int_equal(q->tokens_per_s, 500);
    assert_int_equal(q->tokens_burst, 50); /* not named: the default's */
    assert_int_equal(q->kv_bytes, 7 << 20);
    assert_int_equal(shoal_admit_quotas_find(quotas, "spiffe://s/7/b")->tokens_burst, 9);
    assert_int_equal(shoal_admit_quotas_find(quotas, "spiffe://s/7/a")->n_sessions, 0);
    assert_int_equal(shoal_admit_quotas_find(quotas, "spiffe://s/7/a")->tokens_burst, 50);
    assert_int_equal(shoal_admit_quotas_find(quotas, "else")->kv_bytes, 2 << 20);
    assert_int_equal(shoal_admit_quotas_find(quotas, "")->kv_bytes, 2 << 20);
}

static void test_what_is_wrong_is_named(void **state)
{
    (void)state;
    refused("gw-1 session=3", SHOAL_E_INVALID, "session=3");
    refused("gw-1 sessions", SHOAL_E_INVALID, "gw-1");
    refused("gw-1 sessions=", SHOAL_E_INVALID, "sessions");
    refused("gw-1 sessions=-1", SHOAL_E_INVALID, "sessions");
    refused("gw-1 sessions=65537", SHOAL_E_INVALID, "65536");
    refused("gw-1 kv_mib=99999999999999999999999", SHOAL_E_INVALID, "kv_mib");
    refused("gw-1 tokens_per_s=1e3", SHOAL_E_INVALID, "tokens_per_s");
    refused("a sessions=1; b; a kv_mib=1", SHOAL_E_INVALID, "\"a\" stands twice");
    refused("a* ; a*", SHOAL_E_INVALID, "\"a*\" stands twice");
}

static void test_names_and_entries_have_a_limit(void **state)
{
    (void)state;
    char name[SHOAL_ADMIT_TENANT_BYTES + 1];
    memset(name, 'n', sizeof(name));
    name[SHOAL_ADMIT_TENANT_BYTES - 1] = '\0';
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *longest = make(name);
    assert_non_null(shoal_admit_quotas_find(longest, name));
    name[SHOAL_ADMIT_TENANT_BYTES - 1] = 'n';
    name[SHOAL_ADMIT_TENANT_BYTES] = '\0';
    refused(name, SHOAL_E_LIMIT, "127");
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    for (int i = 0; i < SHOAL_ADMIT_OVERRIDES_MAX; i++) {
        assert_int_equal(shoal_buf_appendf(&text, "t%d sessions=%d;", i, i % 50 + 1), SHOAL_OK);
    }
    SHOAL_CLEANUP(shoal_admit_quotas_freep) shoal_admit_quotas *full = make(text.data);
    assert_int_equal(shoal_admit_quotas_find(full, "t1023")->n_sessions, 1023 % 50 + 1);
    assert_int_equal(shoal_buf_appendf(&text, "more"), SHOAL_OK);
    refused(text.data, SHOAL_E_LIMIT, "1024");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_is_not_named_gets_the_default),
        cmocka_unit_test(test_whole_name_beats_the_longest_beginning),
        cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_names_and_entries_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
