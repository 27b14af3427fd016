/* SPDX-License-Identifier: Apache-2.0
 *
 * What is kept of sessions: names, the last used first, bounds in number and pages, and no page
 * lost, whatever fails.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "edge/session/keep.h"

#include <stdio.h>
#include <string.h>

enum {
    N_LAYERS = 3,
    N_CTX = 320,
    SLACK = 40,
    N_PAGES = 60,
    N_IDS = 40 /* two blocks: six pages */
};

static const size_t windows[N_LAYERS] = {0, 50, 20};
static int32_t ids[N_CTX];

static shoal_kv_pool *pool_new(bool windowed)
{
    const shoal_kv_shape shape = {.n_layers = N_LAYERS,
                                  .n_kv_heads = 1,
                                  .k_dim = 4,
                                  .v_dim = 4,
                                  .type = SHOAL_KV_F16,
                                  .windows = windowed ? windows : NULL};
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, N_PAGES, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    for (int32_t i = 0; i < N_CTX; i++) {
        ids[i] = i * 3 + 1;
    }
    return pool;
}

/* A sequence of n tokens; what they hold does not matter here. */
static shoal_kv_seq *seq_new(shoal_kv_pool *pool, size_t n)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    for (size_t at = 0; at < n; at += SHOAL_MIN(n - at, (size_t)SLACK)) {
        size_t to = at + SHOAL_MIN(n - at, (size_t)SLACK);
        assert_int_equal(shoal_kv_seq_reserve(seq, to), SHOAL_OK);
        shoal_kv_seq_advance(seq, to);
    }
    return seq;
}

static const shoal_kept_kind exact = {.lossy = false};

static shoal_keep *keep_new(size_t n_max, size_t n_pages_max)
{
    shoal_keep *keep = NULL;
    assert_int_equal(shoal_keep_new(n_max, n_pages_max, &keep), SHOAL_OK);
    return keep;
}

static void put(shoal_keep *keep, shoal_kv_pool *pool, const char *name, size_t n)
{
    assert_int_equal(shoal_keep_put(keep, name, ids, n, exact, seq_new(pool, n)), SHOAL_OK);
}

/* The names, the last used first. */
static void assert_names(const shoal_keep *keep, const char *names)
{
    char text[256] = "";
    for (size_t i = 0; i < shoal_keep_n(keep); i++) {
        size_t n = strlen(text);
        (void)snprintf(text + n, sizeof text - n, "%s ", shoal_keep_at(keep, i)->name);
    }
    assert_string_equal(text, names);
}

/* What one adapter computed is nothing for another, nor for none; it goes, since it is the name's.
 */
static void test_take_by_another_adapter_gives_nothing(void **state)
{
    (void)state;
    static const char a[2] = "ab"; /* stand for adapters, which are compared alone */
    const struct shoal_lora *const loras[] = {NULL, (const void *)&a[0], (const void *)&a[1]};
    shoal_kv_pool *pool = pool_new(false);
    shoal_keep *keep = keep_new(4, N_PAGES);
    for (size_t i = 0; i < 9; i++) {
        bool lossy = true;
        const shoal_kept_kind kind = {.lora = loras[i / 3]};
        assert_int_equal(shoal_keep_put(keep, "a", ids, 20, kind, seq_new(pool, 20)), SHOAL_OK);
        shoal_kv_seq *seq = shoal_keep_take(keep, "a", ids, 20, loras[i % 3], &lossy);
        assert_int_equal(seq != NULL, i / 3 == i % 3);
        assert_int_equal(shoal_keep_n(keep), 0);
        shoal_kv_seq_free(seq);
        assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    }
    shoal_keep_free(keep);
    shoal_kv_pool_free(pool);
}

static void test_name_of_plain_characters_is_one(void **state)
{
    (void)state;
    char name[SHOAL_SESSION_NAME_MAX + 2];
    memset(name, 'a', sizeof name);
    assert_true(shoal_session_name_ok(name, SHOAL_SESSION_NAME_MAX));
    assert_false(shoal_session_name_ok(name, SHOAL_SESSION_NAME_MAX + 1));
    assert_false(shoal_session_name_ok("", 0));
    assert_true(shoal_session_name_ok("Pump-7_x.9", 10));
    for (int c = 0; c < 256; c++) {
        const char one = (char)c;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '.' || c == '_' || c == '-';
        assert_int_equal(shoal_session_name_ok(&one, 1), plain);
    }
}

static void test_take_gives_the_common_start_once(void **state)
{
    (void)state;
    bool lossy = true;
    shoal_kv_pool *pool = pool_new(false);
    shoal_keep *keep = keep_new(4, N_PAGES);
    put(keep, pool, "a", N_IDS);
    int32_t other[N_IDS + 1];
    memcpy(other, ids, sizeof other);
    other[33] = -1;
    assert_null(shoal_keep_take(keep, "b", ids, N_IDS, NULL, &lossy));
    shoal_kv_seq *seq = shoal_keep_take(keep, "a", other, N_IDS + 1, NULL, &lossy);
    assert_int_equal(shoal_kv_seq_length(seq), 33);
    assert_false(lossy);
    assert_int_equal(shoal_keep_n(keep), 0);
    assert_int_equal(shoal_keep_n_pages(keep), 0);
    assert_null(shoal_keep_take(keep, "a", other, N_IDS, NULL, &lossy));
    shoal_kv_seq_free(seq);
    /* No more than asked for, and all of it. */
    put(keep, pool, "a", N_IDS);
    seq = shoal_keep_take(keep, "a", ids, N_IDS - 1, NULL, &lossy);
    assert_int_equal(shoal_kv_seq_length(seq), N_IDS - 1);
    assert_int_equal(
        shoal_keep_put(keep, "a", ids, N_IDS - 1, (shoal_kept_kind){.lossy = true}, seq), SHOAL_OK);
    assert_true(shoal_keep_find(keep, "a")->kind.lossy);
    seq = shoal_keep_take(keep, "a", ids, N_IDS, NULL, &lossy);
    assert_true(lossy); /* whatever is left of it */
    assert_int_equal(shoal_kv_seq_length(seq), N_IDS - 1);
    shoal_kv_seq_free(seq);
    /* Nothing in common. */
    put(keep, pool, "a", N_IDS);
    assert_null(shoal_keep_take(keep, "a", ids + 1, N_IDS, NULL, &lossy));
    put(keep, pool, "a", N_IDS);
    assert_null(shoal_keep_take(keep, "a", ids, 0, NULL, &lossy));
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_keep_free(keep);
    shoal_kv_pool_free(pool);
}

static void test_ring_that_went_round_is_taken_near_its_end_alone(void **state)
{
    (void)state;
    bool lossy = true;
    shoal_kv_pool *pool = pool_new(true);
    shoal_keep *keep = keep_new(4, N_PAGES);
    put(keep, pool, "a", 300);
    shoal_kv_seq *seq = shoal_keep_take(keep, "a", ids, 290, NULL, &lossy);
    assert_non_null(seq);
    assert_int_equal(shoal_kv_seq_length(seq), 290);
    shoal_kv_seq_free(seq);
    put(keep, pool, "a", 300);
    assert_null(shoal_keep_take(keep, "a", ids, 100, NULL, &lossy));
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_keep_free(keep);
    shoal_kv_pool_free(pool);
}

static void test_longest_unused_goes_first(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false);
    shoal_keep *keep = keep_new(3, N_PAGES);
    put(keep, pool, "a", N_IDS);
    put(keep, pool, "b", N_IDS);
    put(keep, pool, "c", N_IDS);
    assert_names(keep, "c b a ");
    assert_int_equal(shoal_keep_find(keep, "a")->n_ids, N_IDS);
    assert_null(shoal_keep_find(keep, "d"));
    assert_names(keep, "a c b ");
    put(keep, pool, "c", 20); /* in its own place */
    assert_names(keep, "c a b ");
    assert_int_equal(shoal_keep_n_pages(keep), 15);
    put(keep, pool, "d", N_IDS);
    assert_names(keep, "d c a ");
    assert_true(shoal_keep_drop(keep, "c"));
    assert_false(shoal_keep_drop(keep, "c"));
    assert_true(shoal_keep_drop_oldest(keep));
    assert_names(keep, "d ");
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES - 6);
    assert_true(shoal_keep_drop_oldest(keep));
    assert_false(shoal_keep_drop_oldest(keep));
    shoal_keep_free(keep);
    shoal_kv_pool_free(pool);
}

static void test_pages_are_bounded_at_the_limit_and_one_below(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false);
    shoal_keep *keep = keep_new(8, 12);
    put(keep, pool, "a", N_IDS);
    put(keep, pool, "b", N_IDS);
    assert_names(keep, "b a "); /* twelve pages */
    put(keep, pool, "c", 20);   /* three more */
    assert_names(keep, "c b ");
    put(keep, pool, "d", 20);
    assert_names(keep, "d c b ");
    put(keep, pool, "e", 128); /* twelve alone */
    assert_names(keep, "e ");
    shoal_kv_seq *seq = seq_new(pool, 129);
    assert_int_equal(shoal_keep_put(keep, "f", ids, 129, exact, seq), SHOAL_E_LIMIT);
    assert_names(keep, "e ");
    shoal_kv_seq_free(seq);
    shoal_keep_free(keep);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_keep *none = NULL;
    assert_int_equal(shoal_keep_new(0, 12, &none), SHOAL_E_LIMIT);
    assert_int_equal(shoal_keep_new(SHOAL_SESSIONS_MAX + 1, 12, &none), SHOAL_E_LIMIT);
    shoal_kv_pool_free(pool);
}

static void test_failed_put_changes_nothing(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(false);
    shoal_keep *keep = NULL;
    for (uint64_t i = 0; i < 2; i++) {
        shoal_mem_fail_at(i);
        assert_int_equal(shoal_keep_new(2, N_PAGES, &keep), SHOAL_E_NOMEM);
    }
    shoal_mem_fail_at(UINT64_MAX);
    keep = keep_new(2, N_PAGES);
    put(keep, pool, "a", N_IDS);
    put(keep, pool, "b", N_IDS);
    shoal_kv_seq *seq = seq_new(pool, 20);
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_keep_put(keep, "a", ids, 20, exact, seq), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_int_equal(shoal_keep_put(keep, "a b", ids, 20, exact, seq), SHOAL_E_INVALID);
    assert_names(keep, "b a ");
    assert_int_equal(shoal_keep_find(keep, "a")->n_ids, N_IDS);
    assert_int_equal(shoal_keep_put(keep, "a", ids, 20, exact, seq), SHOAL_OK);
    shoal_keep_free(keep);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_kv_pool_free(pool);
}

/* Random moves: counts agree with the pool after each. */
static void test_random_moves_lose_no_page(void **state)
{
    (void)state;
    bool lossy = true;
    for (int windowed = 0; windowed < 2; windowed++) {
        shoal_kv_pool *pool = pool_new(windowed == 1);
        shoal_keep *keep = keep_new(4, 40);
        uint64_t rng = 11 + (uint64_t)windowed;
        print_message("seed %llu\n", (unsigned long long)rng);
        for (size_t i = 0; i < 2000; i++) {
            uint64_t x = shoal_rng_next(&rng);
            char name[2] = {(char)('a' + x % 6), '\0'};
            size_t n = 1 + (x >> 8) % 300;
            if ((x >> 32) % 3 > 0) {
                shoal_kv_seq *seq = shoal_keep_take(keep, name, ids, n, NULL, &lossy);
                shoal_kv_seq_free(seq);
            }
            size_t need = shoal_kv_pool_pages_for(pool, n);
            while (shoal_kv_pool_n_free(pool) < need) {
                assert_true(shoal_keep_drop_oldest(keep));
            }
            shoal_kv_seq *seq = seq_new(pool, n);
            if (shoal_keep_put(keep, name, ids, n, exact, seq) != SHOAL_OK) {
                assert_true(need > 40);
                shoal_kv_seq_free(seq);
            }
            assert_true(shoal_keep_n(keep) <= 4 && shoal_keep_n_pages(keep) <= 40);
            assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES - shoal_keep_n_pages(keep));
        }
        shoal_keep_free(keep);
        assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
        shoal_kv_pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_name_of_plain_characters_is_one),
        cmocka_unit_test(test_take_gives_the_common_start_once),
        cmocka_unit_test(test_take_by_another_adapter_gives_nothing),
        cmocka_unit_test(test_ring_that_went_round_is_taken_near_its_end_alone),
        cmocka_unit_test(test_longest_unused_goes_first),
        cmocka_unit_test(test_pages_are_bounded_at_the_limit_and_one_below),
        cmocka_unit_test(test_failed_put_changes_nothing),
        cmocka_unit_test(test_random_moves_lose_no_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
