/* SPDX-License-Identifier: Apache-2.0
 *
 * Budgets over restarts: what was used is taken up again, whatever both clocks did meanwhile, and
 * hostile text changes nothing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/coop/spend.h"

#include "common/base/rng.h"

#include <string.h>

enum {
    HOUR = 3600000
};

#define WALL 1790000000000u

/* Used at 5000 of a clock that began at 1000: 7 tokens, 900 bytes, 11 microjoules. */
static shoal_spend used(void)
{
    shoal_spend_limits limits = {0};
    shoal_spend spend;
    limits.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR] = 100;
    limits.most[SHOAL_SPEND_BYTES][SHOAL_SPEND_MONTH] = 1u << 20;
    shoal_spend_init(&spend, &limits, 1000);
    shoal_spend_add(&spend, SHOAL_SPEND_TOKENS, 7);
    shoal_spend_add(&spend, SHOAL_SPEND_BYTES, 900);
    shoal_spend_add(&spend, SHOAL_SPEND_ENERGY, 11);
    return spend;
}

static void written(shoal_buf *text)
{
    const shoal_spend spend = used();
    assert_int_equal(shoal_spend_write(&spend, 5000, WALL, text), SHOAL_OK);
}

static shoal_status read(const shoal_buf *text, uint64_t now_ms, uint64_t wall_ms, shoal_spend *ret,
                         shoal_err *err)
{
    const shoal_spend before = used();
    shoal_spend_init(ret, &before.limits, now_ms);
    return shoal_spend_read(ret, text->data, text->length, now_ms, wall_ms, err);
}

static void test_what_was_used_outlasts_a_restart(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_spend s;
    written(&text);
    /* The machine has started again: its clock is at 20, the wall's ten minutes on. */
    assert_int_equal(read(&text, 20, WALL + HOUR / 6, &s, NULL), SHOAL_OK);
    for (size_t p = 0; p < SHOAL_SPEND_PERIODS; p++) {
        assert_int_equal(s.used[SHOAL_SPEND_TOKENS][p], 7);
        assert_int_equal(s.used[SHOAL_SPEND_BYTES][p], 900);
        assert_int_equal(s.used[SHOAL_SPEND_ENERGY][p], 11);
    }
    assert_int_equal(shoal_spend_left_ms(&s, SHOAL_SPEND_HOUR, 20), HOUR - HOUR / 6 - 4000);
    /* 4 % ahead and ten minutes and four seconds of the hour, less 7. */
    assert_int_equal(shoal_spend_tokens_left(&s, 0, 20), (size_t)(4 + 604.0 / 36 - 7));
    assert_int_equal(s.limits.most[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 100);
}

static void test_periods_end_while_nobody_runs(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_spend s;
    written(&text);
    /* Four seconds of the hour were over. */
    assert_int_equal(read(&text, 20, WALL + HOUR - 4001, &s, NULL), SHOAL_OK);
    assert_int_equal(s.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 7);
    assert_int_equal(shoal_spend_left_ms(&s, SHOAL_SPEND_HOUR, 20), 1);
    assert_int_equal(read(&text, 20, WALL + HOUR - 4000, &s, NULL), SHOAL_OK);
    assert_int_equal(s.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_HOUR], 0);
    assert_int_equal(s.used[SHOAL_SPEND_TOKENS][SHOAL_SPEND_DAY], 7);
    assert_int_equal(shoal_spend_left_ms(&s, SHOAL_SPEND_HOUR, 20), HOUR);
    /* Years later, and by a clock that was set back to 1970. */
    assert_int_equal(read(&text, 20, UINT64_MAX, &s, NULL), SHOAL_OK);
    assert_int_equal(s.used[SHOAL_SPEND_BYTES][SHOAL_SPEND_MONTH], 0);
    assert_int_equal(read(&text, 20, 0, &s, NULL), SHOAL_OK);
    assert_int_equal(s.used[SHOAL_SPEND_BYTES][SHOAL_SPEND_MONTH], 900);
    assert_int_equal(shoal_spend_left_ms(&s, SHOAL_SPEND_HOUR, 20), HOUR);
}

static void test_periods_in_step_continue_others(void **state)
{
    (void)state;
    const shoal_spend first = used();
    shoal_spend later = first;
    assert_true(shoal_spend_continues(&later, &first));
    shoal_spend_turn(&later, 1000 + 49 * (uint64_t)HOUR);
    assert_true(shoal_spend_continues(&later, &first));
    assert_false(shoal_spend_continues(&first, &later));
    shoal_spend_init(&later, &first.limits, 1001);
    assert_false(shoal_spend_continues(&later, &first));
}

static void test_text_that_is_none_changes_nothing(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const shoal_spend before = used();
    written(&text);
    for (size_t i = 0; i < 8 * text.length; i++) {
        shoal_spend s = before;
        shoal_err err = SHOAL_ERR_INIT;
        text.data[i / 8] = (char)(text.data[i / 8] ^ (1 << i % 8));
        assert_int_equal(shoal_spend_read(&s, text.data, text.length, 20, WALL, &err),
                         SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "is not known"));
        assert_memory_equal(&s, &before, sizeof s);
        text.data[i / 8] = (char)(text.data[i / 8] ^ (1 << i % 8));
    }
    for (size_t n = 0; n < text.length; n++) {
        shoal_spend s = before;
        assert_int_equal(shoal_spend_read(&s, text.data, n, 20, WALL, NULL), SHOAL_E_INVALID);
    }
    uint64_t rng = 5;
    for (size_t i = 0; i < 2000; i++) {
        char noise[600];
        shoal_spend s = before;
        for (size_t k = 0; k < sizeof noise; k++) {
            noise[k] = (char)shoal_rng_next(&rng);
        }
        memcpy(noise, text.data, i % text.length);
        assert_int_equal(shoal_spend_read(&s, noise, i % sizeof noise, 20, WALL, NULL),
                         SHOAL_E_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_used_outlasts_a_restart),
        cmocka_unit_test(test_periods_end_while_nobody_runs),
        cmocka_unit_test(test_periods_in_step_continue_others),
        cmocka_unit_test(test_text_that_is_none_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
