/* SPDX-License-Identifier: Apache-2.0
 *
 * Every limit one below, at and one above it, on a clock that the test moves.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/admit/admit.h"

#include <stdio.h>
#include <string.h>

enum {
    N_SESSIONS = 4,
    N_TOKENS = 1000,
    KV_TOKEN = 1 << 10
};

static uint64_t now_ms;
static const shoal_admit_load idle;

static shoal_admit *make(const shoal_admit_quota *quota, const char *overrides, uint64_t wait_max)
{
    shoal_admit_settings settings = {.n_sessions_max = N_SESSIONS,
                                     .n_tokens_max = N_TOKENS,
                                     .kv_bytes_token = KV_TOKEN,
                                     .wait_max_ms = wait_max};
    shoal_admit_quotas *quotas = NULL;
    shoal_admit *admit = NULL;
    assert_int_equal(shoal_admit_quotas_new(quota, overrides, &quotas, NULL), SHOAL_OK);
    assert_int_equal(shoal_admit_new(&settings, quotas, &admit), SHOAL_OK);
    now_ms = 1000000;
    return admit;
}

static shoal_admit_answer ask(shoal_admit *admit, const char *tenant, uint32_t n_tokens,
                              shoal_admit_ticket *ticket)
{
    shoal_admit_request request = {.tenant = tenant, .n_tokens_max = n_tokens};
    return shoal_admit_open(admit, &request, &idle, now_ms, ticket);
}

static void expect(const shoal_admit_answer *answer, shoal_admit_reason reason, const char *word)
{
    if (answer->reason != reason || strstr(answer->text, word) == NULL) {
        fail_msg("wanted %s with \"%s\", got %s: %s", shoal_admit_reason_name(reason), word,
                 shoal_admit_reason_name(answer->reason), answer->text);
    }
    assert_true((answer->reason == SHOAL_ADMIT_OK) == (answer->text[0] == '\0'));
}

static void test_what_never_fits_is_refused_for_good(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.kv_bytes = 512 * KV_TOKEN};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "big kv_mib=1024", 0);
    shoal_admit_ticket ticket = {0};
    shoal_admit_answer a = ask(admit, "big", N_TOKENS, &ticket);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &ticket, now_ms);
    a = ask(admit, "big", N_TOKENS + 1, &ticket);
    expect(&a, SHOAL_ADMIT_NEVER_FITS, "1001");
    assert_int_equal(a.retry_after_ms, 0);
    a = ask(admit, "big", UINT32_MAX, &ticket);
    expect(&a, SHOAL_ADMIT_NEVER_FITS, "at most 1000");
    a = ask(admit, "small", 512, &ticket);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &ticket, now_ms);
    a = ask(admit, "small", 513, &ticket);
    expect(&a, SHOAL_ADMIT_NEVER_QUOTA, "kv_mib");
    assert_int_equal(a.retry_after_ms, 0);
    assert_int_equal(shoal_admit_n_sessions(admit), 0);
}

static void test_places_of_node_and_tenant_are_counted(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.n_sessions = 2};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "free sessions=0", 0);
    shoal_admit_ticket tickets[N_SESSIONS + 1] = {0};
    for (size_t i = 0; i < 2; i++) {
        shoal_admit_answer a = ask(admit, "a", 10, &tickets[i]);
        expect(&a, SHOAL_ADMIT_OK, "");
    }
    shoal_admit_answer a = ask(admit, "a", 10, &tickets[2]);
    expect(&a, SHOAL_ADMIT_TENANT_SESSIONS, "all 2 sessions of this tenant");
    assert_int_equal(a.retry_after_ms, 1000); /* nothing has ended yet */
    for (size_t i = 2; i < N_SESSIONS; i++) {
        a = ask(admit, "free", 10, &tickets[i]);
        expect(&a, SHOAL_ADMIT_OK, "");
    }
    a = ask(admit, "b", 10, &tickets[N_SESSIONS]);
    expect(&a, SHOAL_ADMIT_SESSIONS, "sessions.max");
    /* Sessions that last 8 s, four of them: one ends every two. */
    now_ms += 8000;
    shoal_admit_close(admit, &tickets[0], now_ms);
    a = ask(admit, "b", 10, &tickets[N_SESSIONS]);
    expect(&a, SHOAL_ADMIT_OK, "");
    a = ask(admit, "a", 10, &tickets[0]);
    expect(&a, SHOAL_ADMIT_SESSIONS, "");
    assert_int_equal(a.retry_after_ms, 2000);
    for (size_t i = 0; i <= N_SESSIONS; i++) {
        shoal_admit_close(admit, &tickets[i], now_ms);
    }
    assert_int_equal(shoal_admit_n_sessions(admit), 0);
    shoal_admit_close(admit, &tickets[1], now_ms); /* none: ignored */
    assert_int_equal(shoal_admit_n_sessions(admit), 0);
}

static void test_kv_of_a_tenant_is_the_sum_of_its_sessions(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.kv_bytes = 600 * KV_TOKEN};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "", 0);
    shoal_admit_ticket one = {0};
    shoal_admit_ticket two = {0};
    shoal_admit_answer a = ask(admit, "a", 400, &one);
    expect(&a, SHOAL_ADMIT_OK, "");
    a = ask(admit, "a", 201, &two);
    expect(&a, SHOAL_ADMIT_TENANT_KV, "tenants.kv_mib");
    assert_true(a.retry_after_ms >= SHOAL_ADMIT_RETRY_MS_MIN);
    a = ask(admit, "a", 200, &two);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &one, now_ms);
    a = ask(admit, "a", 400, &one);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &one, now_ms);
    shoal_admit_close(admit, &two, now_ms);
}

static void test_bucket_fills_at_its_rate_and_debts_are_paid(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.tokens_per_s = 100, .tokens_burst = 50};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "", 0);
    shoal_admit_ticket ticket = {0};
    shoal_admit_answer a = ask(admit, "a", 900, &ticket);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_charge(admit, &ticket, 49, now_ms);
    shoal_admit_ticket second = {0};
    a = ask(admit, "a", 10, &second);
    expect(&a, SHOAL_ADMIT_OK, ""); /* one token is left */
    shoal_admit_close(admit, &second, now_ms);
    shoal_admit_charge(admit, &ticket, 1, now_ms);
    a = ask(admit, "a", 10, &second);
    expect(&a, SHOAL_ADMIT_TENANT_TOKENS, "100 tokens per second");
    assert_int_equal(a.retry_after_ms, SHOAL_ADMIT_RETRY_MS_MIN);
    shoal_admit_charge(admit, &ticket, 300, now_ms); /* a debt of 300: three seconds */
    a = ask(admit, "a", 10, &second);
    assert_in_range(a.retry_after_ms, 3000, 3010);
    now_ms += 3000;
    a = ask(admit, "a", 10, &second);
    expect(&a, SHOAL_ADMIT_TENANT_TOKENS, "");
    now_ms += 10;
    a = ask(admit, "a", 10, &second);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &second, now_ms);
    /* A long pause fills no more than the bucket; another tenant has its own. */
    now_ms += 3600000;
    shoal_admit_charge(admit, &ticket, 50, now_ms);
    a = ask(admit, "a", 10, &second);
    expect(&a, SHOAL_ADMIT_TENANT_TOKENS, "");
    a = ask(admit, "b", 10, &second);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &second, now_ms);
    shoal_admit_close(admit, &ticket, now_ms);
}

/* Whatever is asked, over a minute no more than rate and bucket, and one session's overdraft. */
static void test_rate_holds_over_time(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.tokens_per_s = 200, .tokens_burst = 400};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "", 0);
    uint64_t n_served = 0;
    for (size_t i = 0; i < 60000; i += 10, now_ms += 10) {
        shoal_admit_ticket ticket = {0};
        shoal_admit_answer a = ask(admit, "greedy", 150, &ticket);
        if (a.reason == SHOAL_ADMIT_OK) {
            shoal_admit_charge(admit, &ticket, 150, now_ms);
            shoal_admit_close(admit, &ticket, now_ms);
            n_served += 150;
        }
    }
    assert_in_range(n_served, 200 * 60, 200 * 60 + 400 + 150);
}

static void test_wait_is_predicted_from_what_steps_cost(void **state)
{
    (void)state;
    /* 1000 rows in steps of 100: ten steps of 10 ms and five decoding rows of 1 ms beside, and
     * 1000 rows of 1 ms. */
    shoal_admit_load load = {.n_rows_waiting = 1000,
                             .n_rows_step = 100,
                             .n_decoding = 5,
                             .fixed_us = 10000,
                             .row_us = 1000};
    assert_int_equal(shoal_admit_wait_ms(&load), 10 * (10 + 5) + 1000);
    load.n_rows_waiting = 0;
    assert_int_equal(shoal_admit_wait_ms(&load), 0);
    load.n_rows_waiting = 1;
    assert_int_equal(shoal_admit_wait_ms(&load), 16);
    load.n_rows_step = 0;
    assert_int_equal(shoal_admit_wait_ms(&load), 0);
    load.n_rows_step = 1;
    load.fixed_us = 0;
    load.row_us = 0;
    assert_int_equal(shoal_admit_wait_ms(&load), 0);
    load.fixed_us = 1e300;
    assert_true(shoal_admit_wait_ms(&load) >= 1000000);
}

static void test_wait_past_the_deadline_is_refused_with_a_time(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&(shoal_admit_quota){0}, "", 2000);
    /* Two seconds of work. */
    shoal_admit_load load = {.n_rows_waiting = 2000, .n_rows_step = 2000, .row_us = 1000};
    shoal_admit_ticket ticket = {0};
    const struct {
        uint32_t deadline_ms;
        uint64_t n_rows;
        shoal_admit_reason reason;
        uint64_t retry_ms;
    } rows[] = {
        {2000, 2000, SHOAL_ADMIT_OK, 0},      {1999, 2000, SHOAL_ADMIT_WAIT, 100},
        {500, 2000, SHOAL_ADMIT_WAIT, 1500},  {2001, 2000, SHOAL_ADMIT_OK, 0},
        {0, 2000, SHOAL_ADMIT_OK, 0},         {0, 2001, SHOAL_ADMIT_WAIT, 100},
        {60000, 2001, SHOAL_ADMIT_WAIT, 100}, {0, 9000000, SHOAL_ADMIT_WAIT, 60000},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_admit_request request = {
            .tenant = "a", .n_tokens_max = 10, .deadline_ms = rows[i].deadline_ms};
        load.n_rows_waiting = rows[i].n_rows;
        shoal_admit_answer a = shoal_admit_open(admit, &request, &load, now_ms, &ticket);
        expect(&a, rows[i].reason, "");
        assert_int_equal(a.retry_after_ms, rows[i].retry_ms);
        shoal_admit_close(admit, &ticket, now_ms);
    }
    /* An idle node takes anyone, so that a wrong prediction can be put right. */
    load.n_rows_waiting = 0;
    load.fixed_us = 1e9;
    shoal_admit_request hasty = {.tenant = "a", .n_tokens_max = 10, .deadline_ms = 1};
    shoal_admit_answer a = shoal_admit_open(admit, &hasty, &load, now_ms, &ticket);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &ticket, now_ms);
}

static void test_new_quotas_hold_from_the_next_session_on(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&(shoal_admit_quota){0}, "", 0);
    shoal_admit_ticket tickets[3] = {0};
    for (size_t i = 0; i < 2; i++) {
        shoal_admit_answer a = ask(admit, "a", 100, &tickets[i]);
        expect(&a, SHOAL_ADMIT_OK, "");
    }
    shoal_admit_quota tight = {.n_sessions = 1, .kv_bytes = 100 * KV_TOKEN, .tokens_per_s = 10};
    shoal_admit_quotas *quotas = NULL;
    assert_int_equal(shoal_admit_quotas_new(&tight, "", &quotas, NULL), SHOAL_OK);
    shoal_admit_configure(admit, 0, quotas);
    shoal_admit_answer a = ask(admit, "a", 10, &tickets[2]);
    expect(&a, SHOAL_ADMIT_TENANT_SESSIONS, "");
    shoal_admit_close(admit, &tickets[0], now_ms);
    a = ask(admit, "a", 10, &tickets[2]);
    expect(&a, SHOAL_ADMIT_TENANT_SESSIONS, "");
    shoal_admit_close(admit, &tickets[1], now_ms);
    a = ask(admit, "a", 100, &tickets[2]);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_charge(admit, &tickets[2], 100, now_ms); /* ten seconds' worth: empty now */
    shoal_admit_close(admit, &tickets[2], now_ms);
    a = ask(admit, "a", 10, &tickets[2]);
    expect(&a, SHOAL_ADMIT_TENANT_TOKENS, "");
}

/* More tenants than slots: the books stay right, and who has sessions is never forgotten. */
static void test_tenants_without_end_keep_the_table_bounded(void **state)
{
    (void)state;
    const shoal_admit_quota quota = {.n_sessions = 1};
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&quota, "", 0);
    shoal_admit_ticket kept = {0};
    shoal_admit_answer a = ask(admit, "keeps a session", 10, &kept);
    expect(&a, SHOAL_ADMIT_OK, "");
    for (size_t i = 0; i < 2000; i++, now_ms++) {
        char name[32];
        snprintf(name, sizeof(name), "passes by %zu", i);
        shoal_admit_ticket ticket = {0};
        a = ask(admit, name, 10, &ticket);
        expect(&a, SHOAL_ADMIT_OK, "");
        shoal_admit_close(admit, &ticket, now_ms);
    }
    shoal_admit_ticket more = {0};
    a = ask(admit, "keeps a session", 10, &more);
    expect(&a, SHOAL_ADMIT_TENANT_SESSIONS, "");
    char name[2 * SHOAL_ADMIT_TENANT_BYTES];
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    a = ask(admit, name, 10, &more);
    expect(&a, SHOAL_ADMIT_OK, "");
    shoal_admit_close(admit, &more, now_ms);
    shoal_admit_close(admit, &kept, now_ms);
    assert_int_equal(shoal_admit_n_sessions(admit), 0);
}

static void test_settings_have_bounds(void **state)
{
    (void)state;
    shoal_admit *admit = NULL;
    shoal_admit_settings settings = {0};
    assert_int_equal(shoal_admit_new(&settings, NULL, &admit), SHOAL_E_INVALID);
    settings.n_sessions_max = SHOAL_ADMIT_SESSIONS_MAX + 1;
    assert_int_equal(shoal_admit_new(&settings, NULL, &admit), SHOAL_E_INVALID);
    assert_null(admit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_never_fits_is_refused_for_good),
        cmocka_unit_test(test_places_of_node_and_tenant_are_counted),
        cmocka_unit_test(test_kv_of_a_tenant_is_the_sum_of_its_sessions),
        cmocka_unit_test(test_bucket_fills_at_its_rate_and_debts_are_paid),
        cmocka_unit_test(test_rate_holds_over_time),
        cmocka_unit_test(test_wait_is_predicted_from_what_steps_cost),
        cmocka_unit_test(test_wait_past_the_deadline_is_refused_with_a_time),
        cmocka_unit_test(test_new_quotas_hold_from_the_next_session_on),
        cmocka_unit_test(test_tenants_without_end_keep_the_table_bounded),
        cmocka_unit_test(test_settings_have_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
