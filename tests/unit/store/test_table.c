/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/store/table.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <stdbool.h>
#include <stdio.h>

enum {
    N_NAMES = 300 /* far more than slots, so that chains are long */
};

static shoal_hash name_of(uint32_t i)
{
    /* Every eighth shares its slot with others. */
    return (shoal_hash){
        .bytes = {(uint8_t)(i % 8), 0, 0, 0, 0, 0, 0, 0, (uint8_t)i, (uint8_t)(i >> 8)}};
}

/* The table against a plain list kept in the order of use. */
static void test_random_operations_match_a_list(void **state)
{
    (void)state;
    const uint64_t seed = 20261128;
    printf("seed %llu\n", (unsigned long long)seed);
    uint64_t rng = seed;
    shoal_store_table table;
    uint32_t list[N_NAMES];
    size_t n = 0;
    assert_int_equal(shoal_store_table_init(&table, 0), SHOAL_OK);
    for (int round = 0; round < 20000; round++) {
        uint32_t i = (uint32_t)(shoal_rng_next(&rng) % N_NAMES);
        shoal_hash name = name_of(i);
        size_t at = 0;
        while (at < n && list[at] != i) {
            at++;
        }
        shoal_store_entry *entry = shoal_store_table_find(&table, &name);
        assert_true((entry != NULL) == (at < n));
        bool remove = entry && shoal_rng_next(&rng) % 2;
        if (entry) {
            for (; at + 1 < n; at++) {
                list[at] = list[at + 1];
            }
            n--;
        }
        if (remove) {
            shoal_store_table_remove(&table, entry);
        } else {
            if (entry) {
                shoal_store_table_touch(&table, entry);
            } else {
                assert_non_null(shoal_store_table_add(&table, &name, i + 1));
            }
            list[n++] = i;
        }
        size_t bytes = 0;
        const shoal_store_entry *e = table.oldest;
        for (size_t k = 0; round % 100 == 0 && k < n; k++, e = e->newer) {
            shoal_hash expected = name_of(list[k]);
            assert_memory_equal(&e->name, &expected, sizeof expected);
            bytes += list[k] + 1;
        }
        assert_int_equal(table.n_entries, n);
        if (round % 100 == 0) {
            assert_int_equal(table.bytes, bytes);
        }
    }
    shoal_store_table_fini(&table);
}

static void test_failing_allocations_change_nothing(void **state)
{
    (void)state;
    shoal_store_table table = {0};
    shoal_store_table_fini(&table);
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_store_table_init(&table, 10), SHOAL_E_NOMEM);
    shoal_store_table_fini(&table);
    assert_int_equal(shoal_store_table_init(&table, 10), SHOAL_OK);
    shoal_hash name = name_of(1);
    shoal_mem_fail_at(0);
    assert_null(shoal_store_table_add(&table, &name, 5));
    shoal_mem_fail_at(UINT64_MAX);
    assert_int_equal(table.n_entries, 0);
    assert_int_equal(table.bytes, 0);
    assert_null(table.oldest);
    shoal_store_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations_match_a_list),
        cmocka_unit_test(test_failing_allocations_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
