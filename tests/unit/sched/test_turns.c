/* SPDX-License-Identifier: Apache-2.0
 *
 * Places that come free one by one, where another engine plans the steps: between tenants in turn,
 * whoever came first and whatever they say.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/sched/sched.h"

#include <stdbool.h>

enum {
    N_GREEDY = 10,
    MODEST = N_GREEDY,
    URGENT,
    SILENT,
    N_ITEMS,
    N_DUE = SILENT
};

static const uint64_t NOW_MS = 5000;

/* Ten items of one tenant that came first and say 7, two of another, of which the second is the
 * more urgent, and a third tenant's that has no work. */
static shoal_sched *make(shoal_sched_item *items)
{
    shoal_sched_settings settings = shoal_sched_settings_default();
    shoal_sched *sched = NULL;
    settings.n_items_max = N_ITEMS;
    assert_int_equal(shoal_sched_new(&settings, &sched), SHOAL_OK);
    for (size_t i = 0; i < N_ITEMS; i++) {
        const char *tenant = i < N_GREEDY ? "greedy" : i == SILENT ? "silent" : "modest";
        items[i] = (shoal_sched_item){.id = i,
                                      .priority = i < N_GREEDY ? 7 : i == URGENT,
                                      .arrived_ms = i,
                                      .deadline_ms = UINT64_MAX,
                                      .since_ms = NOW_MS,
                                      .sample = i != SILENT};
        assert_int_equal(shoal_sched_join(sched, tenant, &items[i].tenant), SHOAL_OK);
    }
    return sched;
}

static size_t turns(shoal_sched *sched, const shoal_sched_item *items, size_t n_max,
                    const shoal_sched_pick **ret_picks)
{
    return shoal_sched_turns(sched, items, N_ITEMS, n_max, NOW_MS, ret_picks);
}

static void test_places_go_round_the_tenants(void **state)
{
    (void)state;
    static const size_t wanted[] = {0, URGENT, 1, MODEST, 2, 3, 4, 5, 6, 7, 8, 9};
    shoal_sched_item items[N_ITEMS];
    const shoal_sched_pick *picks = NULL;
    SHOAL_CLEANUP(shoal_sched_freep) shoal_sched *sched = make(items);
    assert_int_equal(turns(sched, items, 0, &picks), 0);
    for (size_t k = 0; k < N_DUE; k++) {
        assert_int_equal(turns(sched, items, 1, &picks), 1);
        assert_int_equal(picks[0].item_i, wanted[k]);
        assert_int_equal(picks[0].n_rows, 1);
        assert_int_equal(picks[0].n_logits, 1);
        items[picks[0].item_i].sample = false;
    }
    assert_int_equal(turns(sched, items, 1, &picks), 0);
    assert_int_equal(shoal_sched_served(sched, items[0].tenant), 2 * N_GREEDY);
}

/* Several at once, as many as there are or one more or less, come in the same order. */
static void test_several_places_come_in_the_same_order(void **state)
{
    (void)state;
    static const size_t wanted[] = {0, URGENT, 1, MODEST, 2, 3, 4, 5, 6, 7, 8, 9};
    for (size_t n_max = N_DUE - 1; n_max <= N_DUE + 1; n_max++) {
        shoal_sched_item items[N_ITEMS];
        const shoal_sched_pick *picks = NULL;
        SHOAL_CLEANUP(shoal_sched_freep) shoal_sched *sched = make(items);
        size_t n = SHOAL_MIN(n_max, (size_t)N_DUE);
        assert_int_equal(turns(sched, items, n_max, &picks), n);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(picks[k].item_i, wanted[k]);
        }
    }
}

/* What a tenant was served besides counts: the other one is before it until it has had as much. */
static void test_what_was_served_besides_counts(void **state)
{
    (void)state;
    shoal_sched_item items[N_ITEMS];
    const shoal_sched_pick *picks = NULL;
    for (uint64_t n = 0; n <= 5; n++) {
        SHOAL_CLEANUP(shoal_sched_freep) shoal_sched *sched = make(items);
        shoal_sched_charge(sched, items[0].tenant, n);
        assert_int_equal(shoal_sched_served(sched, items[0].tenant), n);
        assert_int_equal(turns(sched, items, 3, &picks), 3);
        /* Both of modest's first when greedy had more than one of them counts. */
        assert_int_equal(picks[0].item_i, n == 0 ? 0 : URGENT);
        assert_int_equal(picks[1].item_i, n == 0 ? (size_t)URGENT : n <= 2 ? 0 : (size_t)MODEST);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places_go_round_the_tenants),
        cmocka_unit_test(test_several_places_come_in_the_same_order),
        cmocka_unit_test(test_what_was_served_besides_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
