/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/arena.h"
#include "common/base/mem.h"

#include <string.h>

#if defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define UNDER_ASAN 1
#    endif
#elif defined(__SANITIZE_ADDRESS__)
#    define UNDER_ASAN 1
#endif
#ifdef UNDER_ASAN
#    include <sanitizer/asan_interface.h>
#endif

static shoal_arena *make(size_t size)
{
    shoal_arena *arena = NULL;
    assert_int_equal(shoal_arena_new(size, &arena), SHOAL_OK);
    assert_int_equal(shoal_arena_size(arena), size);
    assert_int_equal(shoal_arena_used(arena), 0);
    return arena;
}

static void test_take_gives_zeroed_aligned_pieces_apart(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(4096);
    unsigned char *before = NULL;
    for (size_t n = 0; n < 30; n++) {
        unsigned char *piece = shoal_arena_take(arena, n, 3);
        assert_non_null(piece);
        assert_int_equal((uintptr_t)piece % 64, 0);
        assert_true(piece != before);
        for (size_t i = 0; i < n * 3; i++) {
            assert_int_equal(piece[i], 0);
            piece[i] = 0xFF;
        }
        before = piece;
    }
}

static void test_take_at_the_size_fits_and_past_it_does_not(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 63, 64, 65, 1000};
    for (size_t i = 0; i < SHOAL_COUNT(sizes); i++) {
        SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(sizes[i]);
        assert_null(shoal_arena_take(arena, sizes[i] + 1, 1));
        assert_int_equal(shoal_arena_used(arena), 0);
        assert_non_null(shoal_arena_take(arena, sizes[i], 1));
        assert_int_equal(shoal_arena_used(arena), sizes[i]);
        assert_null(shoal_arena_take(arena, 1, 1));
        assert_null(shoal_arena_take(arena, 0, 1));
    }
}

static void test_take_with_an_overflowing_product_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(256);
    assert_null(shoal_arena_take(arena, SIZE_MAX / 2 + 1, 2));
    assert_null(shoal_arena_take(arena, SIZE_MAX, 1));
    assert_int_equal(shoal_arena_used(arena), 0);
}

static void test_empty_arena_gives_nothing(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(0);
    assert_null(shoal_arena_take(arena, 0, 1));
    assert_null(shoal_arena_take(arena, 1, 1));
}

static void test_reset_gives_the_same_space_zeroed(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(128);
    for (int round = 0; round < 3; round++) {
        unsigned char *piece = shoal_arena_take(arena, 100, 1);
        assert_non_null(piece);
        for (size_t i = 0; i < 100; i++) {
            assert_int_equal(piece[i], 0);
        }
        memset(piece, 0xA5, 100);
        shoal_arena_reset(arena);
        assert_int_equal(shoal_arena_used(arena), 0);
    }
}

static void test_freed_space_is_poisoned_under_asan(void **state)
{
    (void)state;
#ifdef UNDER_ASAN
    SHOAL_CLEANUP(shoal_arena_freep) shoal_arena *arena = make(256);
    unsigned char *piece = shoal_arena_take(arena, 10, 1);
    assert_false(__asan_address_is_poisoned(piece + 9));
    assert_true(__asan_address_is_poisoned(piece + 10));
    shoal_arena_reset(arena);
    assert_true(__asan_address_is_poisoned(piece));
#else
    skip();
#endif
}

static void test_failing_allocations_give_nomem(void **state)
{
    (void)state;
    shoal_arena *arena = NULL;
    uint64_t i = 0;
    for (;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = shoal_arena_new(64, &arena);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(arena);
    }
    assert_int_equal(i, 2);
    shoal_arena_free(arena);
    assert_int_equal(shoal_arena_new(SIZE_MAX, &arena), SHOAL_E_NOMEM);
    shoal_arena_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_gives_zeroed_aligned_pieces_apart),
        cmocka_unit_test(test_take_at_the_size_fits_and_past_it_does_not),
        cmocka_unit_test(test_take_with_an_overflowing_product_is_refused),
        cmocka_unit_test(test_empty_arena_gives_nothing),
        cmocka_unit_test(test_reset_gives_the_same_space_zeroed),
        cmocka_unit_test(test_freed_space_is_poisoned_under_asan),
        cmocka_unit_test(test_failing_allocations_give_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
