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
    N_PAGES = 100,
    KV_TOKEN = 1 << 10
};

static uint64_t now_ms;
static const shoal_admit_load idle;

static shoal_admit *make(const shoal_admit_quota *quota, const char *overrides, uint64_t wait_max)
{
    shoal_admit_settings settings = {.n_sessions_max = N_SESSIONS,
                                     .n_tokens_max = N_TOKENS,
                                     .kv_bytes_token = KV_TOKEN,
                                     .n_pages = N_PAGES,
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

/* 40 sessions decode, 16 in a step: three steps of these, then it is the new one's turn, two full
 * rounds later. */
static void test_wait_counts_the_samples_of_a_step(void **state)
{
    (void)state;
    shoal_admit_load load = {.n_rows_waiting = 300,
                             .n_rows_step = 100,
                             .n_decoding = 40,
                             .n_samples_step = 16,
                             .fixed_us = 10000,
                             .row_us = 1000,
                             .sample_us = 500};
    assert_int_equal(shoal_admit_wait_ms(&load), (3 + 2) * (10 + 16 + 8) + 300);
    const struct {
        size_t n_decoding;
        uint64_t wait_ms;
    } rows[] = {{15, 3 * 10 + 3 * 15 * 3 / 2 + 300},
                {16, 4 * (10 + 16 + 8) + 300},
                {17, 4 * (10 + 16 + 8) + 300},
                {31, 4 * (10 + 16 + 8) + 300},
                {32, 5 * (10 + 16 + 8) + 300}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        load.n_decoding = rows[i].n_decoding;
        assert_int_equal(shoal_admit_wait_ms(&load), rows[i].wait_ms);
    }
}

/* --- pages ------------------------------------------------------------------------------------ */

/* Steps of 10 ms, and nothing waits for rows. */
static const shoal_admit_load paced = {.n_rows_step = 100, .fixed_us = 10000};

/* All n_answer tokens are answers: nobody knows the prompt. */
static shoal_admit_answer ask_pages(shoal_admit *admit, const shoal_admit_load *load,
                                    size_t n_pages, uint32_t n_answer, uint32_t deadline_ms,
                                    shoal_admit_ticket *ticket)
{
    shoal_admit_request request = {
        .tenant = "a", .n_tokens_max = n_answer, .deadline_ms = deadline_ms, .n_pages = n_pages};
    return shoal_admit_open(admit, &request, load, now_ms, ticket);
}

static void test_pages_are_waited_for_past_the_last_one(void **state)
{
    (void)state;
    const struct {
        size_t n_pages;
        size_t n_shared;
        uint32_t deadline_ms;
        uint64_t wait_ms;
        shoal_admit_reason reason;
        uint64_t retry_ms;
    } rows[] = {
        {19, 0, 1, 0, SHOAL_ADMIT_OK, 0},
        {20, 0, 1, 0, SHOAL_ADMIT_OK, 0},
        {21, 0, 1, 500, SHOAL_ADMIT_KV, 499}, /* one of the two has to end */
        {21, 1, 1, 0, SHOAL_ADMIT_OK, 0},     /* they share a page */
        {22, 1, 1, 500, SHOAL_ADMIT_KV, 499},
        {21, 0, 499, 500, SHOAL_ADMIT_KV, 100},
        {21, 0, 500, 500, SHOAL_ADMIT_OK, 0},
        {21, 0, 501, 500, SHOAL_ADMIT_OK, 0},
        {60, 0, 0, 500, SHOAL_ADMIT_OK, 0},
        {61, 0, 0, 1500, SHOAL_ADMIT_KV, 500}, /* both have to */
        {100, 0, 0, 1500, SHOAL_ADMIT_KV, 500},
        {100, 80, 1, 0, SHOAL_ADMIT_OK, 0},
        {100, 81, 1, 0, SHOAL_ADMIT_OK, 0},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_admit_freep)
        shoal_admit *admit = make(&(shoal_admit_quota){0}, "", 1000);
        shoal_admit_ticket two[2] = {0};
        shoal_admit_ticket ticket = {0};
        /* Two that take 100 steps of 10 ms each if they say all they may. */
        for (size_t k = 0; k < 2; k++) {
            shoal_admit_answer a = ask_pages(admit, &paced, 40, 100, 0, &two[k]);
            expect(&a, SHOAL_ADMIT_OK, "");
        }
        shoal_admit_load load = paced;
        load.n_pages_shared = rows[i].n_shared;
        shoal_admit_answer a =
            ask_pages(admit, &load, rows[i].n_pages, 100, rows[i].deadline_ms, &ticket);
        expect(&a, rows[i].reason, rows[i].reason == SHOAL_ADMIT_OK ? "" : "kv.max_mib");
        assert_int_equal(a.wait_ms, rows[i].wait_ms);
        assert_int_equal(a.retry_after_ms, rows[i].retry_ms);
        shoal_admit_close(admit, &ticket, now_ms);
        /* What comes free is there at once. */
        shoal_admit_close(admit, &two[0], now_ms);
        a = ask_pages(admit, &paced, 60, 100, 1, &two[0]);
        expect(&a, SHOAL_ADMIT_OK, "");
        shoal_admit_close(admit, &two[0], now_ms);
        shoal_admit_close(admit, &two[1], now_ms);
    }
}

/* What sessions take is learnt from those that end, and from those that do not. */
static void test_wait_for_pages_follows_how_long_they_are_held(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&(shoal_admit_quota){0}, "", 0);
    shoal_admit_ticket held = {0};
    shoal_admit_answer a = ask_pages(admit, &idle, 100, 1000, 1, &held);
    expect(&a, SHOAL_ADMIT_OK, ""); /* an idle node takes anyone */
    /* Nobody knows what a step takes: nothing is predicted until time has passed. */
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, 1, now_ms), 0);
    now_ms += 3000;
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, 1, now_ms), 3000);
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, SIZE_MAX, now_ms), 3000);
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, 0, now_ms), 0);
    now_ms += 1000;
    shoal_admit_close(admit, &held, now_ms);
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, 100, now_ms), 0);
    assert_int_equal(shoal_admit_wait_all_ms(admit, &idle, SIZE_MAX, now_ms), 0);
    /* From now on they last 500 ms, whatever they might say: it is soon known. */
    for (size_t i = 0; i < 20; i++) {
        a = ask_pages(admit, &paced, 100, 1000, 1, &held);
        expect(&a, SHOAL_ADMIT_OK, "");
        now_ms += 500;
        shoal_admit_close(admit, &held, now_ms);
    }
    a = ask_pages(admit, &idle, 100, 1000, 1, &held);
    assert_in_range(shoal_admit_wait_all_ms(admit, &idle, 1, now_ms), 240, 260);
    /* Of many that hold little, few have to end. */
    shoal_admit_close(admit, &held, now_ms);
    shoal_admit_ticket four[4] = {0};
    for (size_t i = 0; i < 4; i++) {
        a = ask_pages(admit, &idle, 25, 1000, 1, &four[i]);
        expect(&a, SHOAL_ADMIT_OK, "");
    }
    uint64_t one = shoal_admit_wait_all_ms(admit, &idle, 25, now_ms);
    uint64_t two = shoal_admit_wait_all_ms(admit, &idle, 26, now_ms);
    uint64_t all = shoal_admit_wait_all_ms(admit, &idle, 100, now_ms);
    assert_in_range(two, one * 7 / 3 - 3, one * 7 / 3 + 3); /* 1/4 + 1/3 to 1/4 */
    assert_in_range(all, one * 25 / 3 - 9, one * 25 / 3 + 9);
    for (size_t i = 0; i < 4; i++) {
        shoal_admit_close(admit, &four[i], now_ms);
    }
}

/* A prompt is not made token by token: what is known of it does not count as an answer. */
static void test_prompts_are_no_answers(void **state)
{
    (void)state;
    const uint32_t prompts[] = {0, 900, 999, 1000, 1001, UINT32_MAX};
    const uint64_t waits[] = {10000, 1000, 10, 0, 0, 0};
    for (size_t i = 0; i < SHOAL_COUNT(prompts); i++) {
        SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = make(&(shoal_admit_quota){0}, "", 0);
        shoal_admit_request request = {
            .tenant = "a", .n_tokens_max = 1000, .n_prompt = prompts[i], .n_pages = 100};
        shoal_admit_ticket ticket = {0};
        shoal_admit_answer a = shoal_admit_open(admit, &request, &paced, now_ms, &ticket);
        expect(&a, SHOAL_ADMIT_OK, "");
        assert_int_equal(shoal_admit_wait_all_ms(admit, &paced, 1, now_ms), waits[i]);
        shoal_admit_close(admit, &ticket, now_ms);
    }
}

static void test_without_a_pool_no_page_is_waited_for(void **state)
{
    (void)state;
    shoal_admit_settings settings = {.n_sessions_max = 2, .n_tokens_max = N_TOKENS};
    shoal_admit_quotas *quotas = NULL;
    SHOAL_CLEANUP(shoal_admit_freep) shoal_admit *admit = NULL;
    assert_int_equal(shoal_admit_quotas_new(&(shoal_admit_quota){0}, "", &quotas, NULL), SHOAL_OK);
    assert_int_equal(shoal_admit_new(&settings, quotas, &admit), SHOAL_OK);
    shoal_admit_ticket two[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        shoal_admit_answer a = ask_pages(admit, &paced, 0, 1000, 1, &two[i]);
        expect(&a, SHOAL_ADMIT_OK, "");
        now_ms += 10000;
    }
    for (size_t i = 0; i < 2; i++) {
        shoal_admit_close(admit, &two[i], now_ms);
    }
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
        cmocka_unit_test(test_wait_counts_the_samples_of_a_step),
        cmocka_unit_test(test_pages_are_waited_for_past_the_last_one),
        cmocka_unit_test(test_wait_for_pages_follows_how_long_they_are_held),
        cmocka_unit_test(test_prompts_are_no_answers),
        cmocka_unit_test(test_without_a_pool_no_page_is_waited_for),
        cmocka_unit_test(test_wait_past_the_deadline_is_refused_with_a_time),
        cmocka_unit_test(test_new_quotas_hold_from_the_next_session_on),
        cmocka_unit_test(test_tenants_without_end_keep_the_table_bounded),
        cmocka_unit_test(test_settings_have_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
