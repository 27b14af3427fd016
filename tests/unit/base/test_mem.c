/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <pthread.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/base/mem.h"

#include <string.h>

static void test_calloc_zeroes_and_gives_a_pointer_for_nothing(void **state)
{
    (void)state;
    for (size_t n = 0; n < 200; n += 13) {
        unsigned char *p = shoal_calloc(n, 1);
        unsigned char *q = shoal_calloc_aligned(n, 1);
        assert_non_null(p);
        assert_non_null(q);
        assert_int_equal((uintptr_t)q % 64, 0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(p[i] | q[i], 0);
        }
        shoal_free(p);
        shoal_free(q);
    }
}

/* Memory that was used and freed before comes back zeroed too, whatever way zeroes are made. */
static void test_large_blocks_come_zeroed_and_aligned(void **state)
{
    (void)state;
    const size_t edges[] = {(256 << 10), (2 << 20), (5 << 20)};
    for (size_t i = 0; i < 3 * SHOAL_COUNT(edges); i++) {
        size_t n = edges[i / 3] + i % 3 - 1;
        for (int huge = 0; huge < 2; huge++) {
            for (int again = 0; again < 2; again++) {
                unsigned char *p = huge ? shoal_calloc_huge(n, 1) : shoal_calloc_aligned(n, 1);
                assert_non_null(p);
                assert_int_equal((uintptr_t)p % 64, 0);
                unsigned sum = 0;
                for (size_t j = 0; j < n; j++) {
                    sum |= p[j];
                }
                assert_int_equal(sum, 0);
                memset(p, 0xA5, n);
                shoal_free(p);
            }
        }
    }
    volatile size_t half = SIZE_MAX / 2 + 1;
    assert_null(shoal_calloc_huge(half, 2));
    shoal_mem_fail_at(0);
    assert_null(shoal_calloc_huge(3 << 20, 1));
}

static void test_overflowing_products_are_refused(void **state)
{
    (void)state;
    /* Held in a variable, so that the compiler does not judge the size itself. */
    volatile size_t half = SIZE_MAX / 2 + 1;
    assert_null(shoal_calloc_aligned(half, 2));
    assert_null(shoal_calloc_aligned(SIZE_MAX - (half - half), 1));
    char *p = shoal_calloc(1, 8);
    assert_null(shoal_realloc(p, half, 2));
    shoal_free(p);
}

static void test_realloc_keeps_the_old_bytes(void **state)
{
    (void)state;
    char *p = shoal_strdup("shoal");
    assert_non_null(p);
    char *q = shoal_realloc(p, 1000, 1);
    assert_non_null(q);
    assert_string_equal(q, "shoal");
    shoal_free(q);
}

static void test_strndup_stops_at_the_count_or_the_end(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_free_cleanup) char *a = shoal_strndup("shoal", 3);
    SHOAL_CLEANUP(shoal_free_cleanup) char *b = shoal_strndup("shoal", 99);
    SHOAL_CLEANUP(shoal_free_cleanup) char *c = shoal_strndup("", 0);
    assert_string_equal(a, "sho");
    assert_string_equal(b, "shoal");
    assert_string_equal(c, "");
}

static void test_fail_at_fails_the_nth_once(void **state)
{
    (void)state;
    uint64_t before = shoal_mem_count();
    shoal_mem_fail_at(2);
    void *a = shoal_calloc(1, 1);
    void *b = shoal_calloc_aligned(1, 1);
    void *c = shoal_calloc(1, 1);
    void *d = shoal_calloc(1, 1);
    shoal_mem_fail_at(UINT64_MAX);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    assert_int_equal(shoal_mem_count() - before, 4);
    shoal_free(a);
    shoal_free(b);
    shoal_free(d);
    shoal_free(NULL);
}

static void *allocate_four(void *arg)
{
    size_t *n = arg;
    for (size_t i = 0; i < 4; i++) {
        void *p = shoal_calloc(1, 1);
        *n += p != NULL;
        shoal_free(p);
    }
    return NULL;
}

/* What another thread allocates is neither counted down nor failed. */
static void test_fail_here_at_fails_the_nth_of_its_thread(void **state)
{
    (void)state;
    pthread_t thread;
    size_t n_theirs = 0;
    shoal_mem_fail_here_at(1);
    void *a = shoal_calloc(1, 1);
    assert_int_equal(pthread_create(&thread, NULL, allocate_four, &n_theirs), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    void *b = shoal_calloc(1, 1);
    void *c = shoal_calloc(1, 1);
    assert_non_null(a);
    assert_int_equal(n_theirs, 4);
    assert_null(b);
    assert_non_null(c);
    shoal_free(a);
    shoal_free(c);
    shoal_mem_fail_here_at(0);
    shoal_mem_fail_here_at(UINT64_MAX);
    c = shoal_calloc(1, 1);
    assert_non_null(c);
    shoal_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calloc_zeroes_and_gives_a_pointer_for_nothing),
        cmocka_unit_test(test_large_blocks_come_zeroed_and_aligned),
        cmocka_unit_test(test_overflowing_products_are_refused),
        cmocka_unit_test(test_realloc_keeps_the_old_bytes),
        cmocka_unit_test(test_strndup_stops_at_the_count_or_the_end),
        cmocka_unit_test(test_fail_at_fails_the_nth_once),
        cmocka_unit_test(test_fail_here_at_fails_the_nth_of_its_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
