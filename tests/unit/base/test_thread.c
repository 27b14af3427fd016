/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

typedef struct seen {
    shoal_role role;
    char name[16];
    int n_open; /* signals that are not blocked */
} seen;

static void look(void *ctx)
{
    seen *s = ctx;
    s->role = shoal_thread_role();
    (void)pthread_getname_np(pthread_self(), s->name, sizeof s->name);
    sigset_t mask;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
    s->n_open = 0;
    for (int number = 1; number < 32; number++) {
        if (number != SIGKILL && number != SIGSTOP) {
            s->n_open += sigismember(&mask, number) == 0;
        }
    }
    SHOAL_ASSERT_ROLE(s->role);
}

static void test_thread_has_its_role_name_and_blocked_signals(void **state)
{
    (void)state;
    sigset_t before;
    sigset_t after;
    (void)pthread_sigmask(SIG_SETMASK, NULL, &before);
    for (shoal_role role = SHOAL_ROLE_NONE; role <= SHOAL_ROLE_IO; role++) {
        seen s = {0};
        shoal_thread *thread = NULL;
        assert_int_equal(shoal_thread_start(role, "fifteen-bytes-x", look, &s, &thread), SHOAL_OK);
        shoal_thread_join(thread);
        assert_int_equal(s.role, role);
        assert_string_equal(s.name, "fifteen-bytes-x");
        assert_int_equal(s.n_open, 0);
    }
    (void)pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int number = 1; number < 32; number++) {
        assert_int_equal(sigismember(&before, number), sigismember(&after, number));
    }
    shoal_thread_join(NULL);
}

static void test_role_of_the_main_thread_can_be_set(void **state)
{
    (void)state;
    assert_int_equal(shoal_thread_role(), SHOAL_ROLE_NONE);
    SHOAL_ASSERT_ROLE(SHOAL_ROLE_LOOP);
    shoal_thread_set_role(SHOAL_ROLE_LOOP);
    assert_int_equal(shoal_thread_role(), SHOAL_ROLE_LOOP);
    SHOAL_ASSERT_ROLE(SHOAL_ROLE_LOOP);
    shoal_thread_set_role(SHOAL_ROLE_NONE);
}

static void test_failing_allocation_gives_nomem(void **state)
{
    (void)state;
    shoal_thread *thread = NULL;
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_thread_start(SHOAL_ROLE_IO, "x", look, NULL, &thread), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(thread);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_thread_has_its_role_name_and_blocked_signals),
        cmocka_unit_test(test_role_of_the_main_thread_can_be_set),
        cmocka_unit_test(test_failing_allocation_gives_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
