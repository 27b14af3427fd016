/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/pool.h"
#include "common/base/thread.h"

#include <stdatomic.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    N_MAX = 5000
};

typedef struct job {
    unsigned counts[N_MAX]; /* a part owns its own: plain, so that TSan sees any sharing */
    atomic_bool in_use[SHOAL_POOL_THREADS_MAX];
    atomic_bool wrong;
    size_t n_threads;
} job;

static void run_part(void *ctx, size_t part_i, size_t worker_i)
{
    job *j = ctx;
    if (worker_i >= j->n_threads || atomic_exchange(&j->in_use[worker_i], true)) {
        atomic_store(&j->wrong, true);
    }
    j->counts[part_i]++;
    atomic_store(&j->in_use[worker_i], false);
}

static shoal_pool *make(size_t n_threads)
{
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(n_threads, &pool), SHOAL_OK);
    assert_int_equal(shoal_pool_n_threads(pool), n_threads);
    return pool;
}

static void test_number_of_threads_outside_its_range_is_refused(void **state)
{
    (void)state;
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(0, &pool), SHOAL_E_INVALID);
    assert_int_equal(shoal_pool_new(SHOAL_POOL_THREADS_MAX + 1, &pool), SHOAL_E_INVALID);
    assert_null(pool);
    shoal_pool_free(NULL);
}

typedef struct places {
    int cpus[SHOAL_POOL_THREADS_MAX];
    atomic_size_t n_here;
    size_t n;
} places;

/* One part of as many as threads: it waits for the others, so that every thread has one. */
static void note_cpu(void *ctx, size_t part_i, size_t worker_i)
{
    (void)part_i;
    places *p = ctx;
    (void)atomic_fetch_add(&p->n_here, 1);
    while (atomic_load(&p->n_here) < p->n) {
        (void)sched_yield();
    }
    p->cpus[worker_i] = sched_getcpu();
}

/* Runs in a process of its own: the caller is pinned for good. */
static void test_pinned_threads_have_a_cpu_each(void **state)
{
    (void)state;
    size_t n = shoal_pool_n_cpus();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bool good = true;
        if (n < SHOAL_POOL_THREADS_MAX) {
            shoal_pool *pool = make(n + 1);
            good = shoal_pool_pin(pool) == SHOAL_E_LIMIT;
            shoal_pool_free(pool);
        }
        n = SHOAL_MIN(n, (size_t)SHOAL_POOL_THREADS_MAX);
        shoal_pool *pool = make(n);
        good = good && shoal_pool_pin(pool) == SHOAL_OK && shoal_pool_pin(pool) == SHOAL_OK;
        places p = {.n = n};
        shoal_pool_run(pool, note_cpu, &p, n);
        for (size_t a = 0; a < n; a++) {
            for (size_t b = 0; b < a; b++) {
                good = good && p.cpus[a] != p.cpus[b];
            }
        }
        shoal_pool_free(pool);
        _exit(good ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_most_threads_start_and_end(void **state)
{
    (void)state;
    static job j;
    j = (job){.n_threads = SHOAL_POOL_THREADS_MAX};
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(SHOAL_POOL_THREADS_MAX);
    shoal_pool_run(pool, run_part, &j, N_MAX);
    for (size_t i = 0; i < N_MAX; i++) {
        assert_int_equal(j.counts[i], 1);
    }
    assert_false(atomic_load(&j.wrong));
}

static void test_every_part_runs_exactly_once(void **state)
{
    (void)state;
    static const size_t parts[] = {0, 1, 2, 3, 7, 64, 1000, N_MAX};
    static const size_t threads[] = {1, 2, 3, 8};
    static job j;
    for (size_t t = 0; t < SHOAL_COUNT(threads); t++) {
        SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(threads[t]);
        for (size_t p = 0; p < SHOAL_COUNT(parts); p++) {
            j = (job){.n_threads = threads[t]};
            shoal_pool_run(pool, run_part, &j, parts[p]);
            for (size_t i = 0; i < N_MAX; i++) {
                assert_int_equal(j.counts[i], i < parts[p]);
            }
            assert_false(atomic_load(&j.wrong));
        }
    }
}

/* Jobs follow each other at once: a late worker of one must never run a part of the next. The
 * context changes every time and the old one is overwritten. */
typedef struct walk {
    size_t n_parts;
    size_t n_threads;
    size_t next[2]; /* part that even and odd threads should come to */
    bool turned[2]; /* whether they are in the other's share */
    bool strayed;
    _Atomic uint32_t lock;
    unsigned slow; /* every so many parts take longer; 0: none */
} walk;

static void take_step(void *ctx, size_t part_i, size_t worker_i)
{
    walk *w = ctx;
    size_t side = worker_i % 2;
    for (uint32_t free = 0; !atomic_compare_exchange_weak(&w->lock, &free, 1); free = 0) {
        (void)sched_yield();
    }
    size_t middle = w->n_parts * ((w->n_threads + 1) / 2) / w->n_threads;
    size_t end = side ? w->n_parts : middle;
    if (!w->turned[side] && w->next[side] == end) {
        w->turned[side] = true;
        w->next[side] = (side ? middle : w->n_parts) - 1;
    }
    w->strayed = w->strayed || part_i != w->next[side];
    w->next[side] += w->turned[side] ? SIZE_MAX : 1;
    atomic_store(&w->lock, 0);
    for (volatile unsigned i = 0; w->slow && part_i % w->slow == 0 && i < 3000; i = i + 1) {
    }
}

/* Two threads each walk through their share without a gap, then through the other's from its end:
 * what one reads next is where it is. */
static void test_two_threads_have_a_share_each(void **state)
{
    (void)state;
    shoal_pool *pool = make(2);
    for (size_t n = 2; n < 70; n++) {
        for (unsigned slow = 0; slow < 5; slow++) {
            walk w = {.n_parts = n, .n_threads = 2, .next = {0, (n - n % 2) / 2}, .slow = slow};
            shoal_pool_run(pool, take_step, &w, n);
            assert_false(w.strayed);
        }
    }
    shoal_pool_free(pool);
}

static void test_odd_threads_begin_where_the_share_of_the_even_ends(void **state)
{
    (void)state;
    static const struct {
        size_t n_threads, n_parts, odd_part;
    } rows[] = {{1, 7, 7}, {1, 0, 0}, {2, 0, 0}, {2, 7, 3}, {2, 8, 4}, {3, 9, 6}, {4, 9, 4}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_pool *pool = make(rows[i].n_threads);
        assert_int_equal(shoal_pool_odd_part(pool, rows[i].n_parts), rows[i].odd_part);
        shoal_pool_free(pool);
    }
}

/* A hint may name anything: memory that is gone, or none that ever was. */
static void test_what_is_expected_may_be_anywhere(void **state)
{
    (void)state;
    static const uintptr_t at[] = {0, 1, 4096, UINTPTR_MAX - 100, UINTPTR_MAX / 2};
    static job j;
    shoal_pool *pool = make(3);
    assert_null(shoal_pool_expected(pool, false));
    for (size_t i = 0; i < 20 * SHOAL_COUNT(at); i++) {
        const void *even = (const void *)at[i % SHOAL_COUNT(at)];
        const void *odd = (const void *)at[(i + 1) % SHOAL_COUNT(at)];
        shoal_pool_expect(pool, even, odd);
        assert_ptr_equal(shoal_pool_expected(pool, false), even);
        assert_ptr_equal(shoal_pool_expected(pool, true), odd);
        j = (job){.n_threads = 3};
        shoal_pool_run(pool, run_part, &j, 50);
    }
    shoal_pool_free(pool);
}

static void count_part(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    ((uint8_t *)ctx)[part_i]++;
}

static void test_more_parts_than_a_ticket_counts_run_once_each(void **state)
{
    (void)state;
    enum {
        TICKET_MAX = (1 << 18) - 1
    };
    static const size_t ns[] = {TICKET_MAX - 1, TICKET_MAX, TICKET_MAX + 1, 2 * TICKET_MAX + 1};
    shoal_pool *pool = make(3);
    for (size_t i = 0; i < SHOAL_COUNT(ns); i++) {
        uint8_t *counts = shoal_calloc(ns[i], 1);
        assert_non_null(counts);
        shoal_pool_run(pool, count_part, counts, ns[i]);
        for (size_t part = 0; part < ns[i]; part++) {
            if (counts[part] != 1) {
                fail_msg("part %zu of %zu ran %u times", part, ns[i], counts[part]);
            }
        }
        shoal_free(counts);
    }
    shoal_pool_free(pool);
}

static void test_many_jobs_in_a_row_stay_apart(void **state)
{
    (void)state;
    static job two[2];
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(4);
    for (size_t round = 0; round < 3000; round++) {
        job *j = &two[round % 2];
        size_t n_parts = 1 + round % 9;
        *j = (job){.n_threads = 4};
        shoal_pool_run(pool, run_part, j, n_parts);
        for (size_t i = 0; i < 10; i++) {
            assert_int_equal(j->counts[i], i < n_parts);
        }
        assert_false(atomic_load(&j->wrong));
    }
}

/* Long enough apart for every worker to park. */
static void test_parked_workers_wake_for_the_next_job(void **state)
{
    (void)state;
    static job j;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(3);
    for (int round = 0; round < 20; round++) {
        struct timespec pause = {.tv_sec = 0, .tv_nsec = 1000000};
        (void)nanosleep(&pause, NULL);
        j = (job){.n_threads = 3};
        shoal_pool_run(pool, run_part, &j, 50);
        for (size_t i = 0; i < 50; i++) {
            assert_int_equal(j.counts[i], 1);
        }
    }
}

/* A part that lasts while the caller has nothing left: the caller parks and is woken. */
static void run_slow(void *ctx, size_t part_i, size_t worker_i)
{
    if (worker_i > 0) {
        struct timespec pause = {.tv_sec = 0, .tv_nsec = 2000000};
        (void)nanosleep(&pause, NULL);
    }
    run_part(ctx, part_i, worker_i);
}

static void test_caller_waits_for_slow_parts(void **state)
{
    (void)state;
    static job j;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(3);
    for (int round = 0; round < 20; round++) {
        j = (job){.n_threads = 3};
        shoal_pool_run(pool, run_slow, &j, 40);
        for (size_t i = 0; i < 40; i++) {
            assert_int_equal(j.counts[i], 1);
        }
    }
}

/* --- jobs whose size is known ----------------------------------------------------------------- */

typedef struct sized {
    unsigned counts[40];
    atomic_size_t n_by_others;
    long sleep_ns; /* of every part; 0: none */
} sized;

static void run_sized_part(void *ctx, size_t part_i, size_t worker_i)
{
    sized *s = ctx;
    if (worker_i > 0) {
        (void)atomic_fetch_add(&s->n_by_others, 1);
    }
    if (s->sleep_ns > 0) {
        struct timespec pause = {.tv_sec = 0, .tv_nsec = s->sleep_ns};
        (void)nanosleep(&pause, NULL);
    }
    s->counts[part_i]++; /* last: who does not wait for it finds it missing */
}

static void run_other_part(void *ctx, size_t part_i, size_t worker_i)
{
    run_sized_part(ctx, part_i, worker_i);
}

/* Runs one job; returns how many parts other threads than the caller did. */
static size_t run_fn(shoal_pool *pool, shoal_pool_fn *fn, size_t n_parts, size_t n_ops,
                     long sleep_ns)
{
    static sized s;
    s = (sized){.sleep_ns = sleep_ns};
    shoal_pool_run_sized(pool, fn, &s, n_parts, n_ops);
    for (size_t i = 0; i < SHOAL_COUNT(s.counts); i++) {
        assert_int_equal(s.counts[i], i < n_parts);
    }
    return atomic_load(&s.n_by_others);
}

static size_t run_sized(shoal_pool *pool, size_t n_parts, size_t n_ops, long sleep_ns)
{
    return run_fn(pool, run_sized_part, n_parts, n_ops, sleep_ns);
}

enum {
    JOBS_MAX = 100000, /* a machine that is busy may make small jobs look long for a while */
    SMALL = 10,        /* ops */
    PART_NS = 1000000  /* of a long one */
};

/* Until it has been found out that the job is small. */
static void learn_small(shoal_pool *pool)
{
    for (size_t i = 0; i < JOBS_MAX && shoal_pool_shares(pool, run_sized_part, SMALL); i++) {
        (void)run_sized(pool, 8, SMALL, 0);
    }
    assert_false(shoal_pool_shares(pool, run_sized_part, SMALL));
}

static void test_small_jobs_are_the_callers(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(3);
    assert_true(shoal_pool_shares(pool, run_sized_part, SMALL)); /* nothing is known yet */
    for (size_t i = 0; i < 20; i++) {
        learn_small(pool);
        /* Long enough for others to come, were they let. */
        assert_int_equal(run_sized(pool, 8, SMALL, PART_NS), 0);
    }
    /* What was found out is of this function alone. */
    assert_true(shoal_pool_shares(pool, run_other_part, SMALL));
    size_t n_by_others = 0;
    for (size_t i = 0; i < 50 && n_by_others == 0; i++) {
        n_by_others = run_fn(pool, run_other_part, 8, SMALL, PART_NS);
    }
    assert_true(n_by_others > 0);
}

static void test_large_jobs_are_shared_once_they_are_known(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(2);
    (void)run_sized(pool, 8, SMALL, PART_NS);
    size_t n_by_others = 0;
    for (size_t i = 0; i < 1000 && n_by_others == 0; i++) {
        assert_true(shoal_pool_shares(pool, run_sized_part, SMALL));
        n_by_others = run_sized(pool, 8, SMALL, PART_NS);
    }
    assert_true(n_by_others > 0);
}

/* One that says it is larger is shared out, and one that only takes longer is found out. */
static void test_jobs_that_grow_are_shared_again(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(2);
    learn_small(pool);
    assert_true(shoal_pool_shares(pool, run_sized_part, SIZE_MAX / 2));
    size_t n_by_others = 0;
    for (size_t i = 0; i < 1000 && n_by_others == 0; i++) {
        n_by_others = run_sized(pool, 8, SIZE_MAX / 2, PART_NS);
    }
    assert_true(n_by_others > 0);
    learn_small(pool);
    for (size_t i = 0; i < 5000 && !shoal_pool_shares(pool, run_sized_part, SMALL); i++) {
        (void)run_sized(pool, 2, SMALL, PART_NS / 10);
    }
    assert_true(shoal_pool_shares(pool, run_sized_part, SMALL));
}

static void test_every_part_of_a_sized_job_runs_once(void **state)
{
    (void)state;
    static const size_t ops[] = {0, 1, 1000, SIZE_MAX};
    for (size_t n_threads = 1; n_threads <= 3; n_threads++) {
        SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(n_threads);
        for (size_t round = 0; round < 200; round++) {
            size_t n_by_others = run_sized(pool, round % 41, ops[round % SHOAL_COUNT(ops)], 0);
            assert_true(n_threads > 1 || n_by_others == 0);
        }
        assert_true(n_threads > 1 || !shoal_pool_shares(pool, run_sized_part, SIZE_MAX));
    }
}

/* More functions than the pool tells apart: each still runs. */
#define FN(n)                                                                                      \
    static void part_##n(void *ctx, size_t part_i, size_t worker_i)                                \
    {                                                                                              \
        (void)worker_i;                                                                            \
        ((unsigned(*)[4])ctx)[n][part_i]++;                                                        \
    }
#define FNS(X)                                                                                     \
    X(0)                                                                                           \
    X(1)                                                                                           \
    X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16) X(17) X(18)  \
        X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31) X(32) X(33)
#define FN_NAME(n) part_##n,
FNS(FN)

static void test_more_functions_than_are_told_apart(void **state)
{
    (void)state;
    static shoal_pool_fn *const fns[] = {FNS(FN_NAME)};
    static unsigned counts[SHOAL_COUNT(fns)][4];
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(2);
    for (unsigned round = 1; round <= 3; round++) {
        for (size_t i = 0; i < SHOAL_COUNT(fns); i++) {
            shoal_pool_run_sized(pool, fns[i], counts, 4, 1);
            for (size_t part = 0; part < 4; part++) {
                assert_int_equal(counts[i][part], round);
            }
        }
    }
    assert_true(shoal_pool_shares(pool, fns[33], 0));
}

static void note_role(void *ctx, size_t part_i, size_t worker_i)
{
    (void)part_i;
    shoal_role expected = worker_i == 0 ? SHOAL_ROLE_NONE : SHOAL_ROLE_COMPUTE;
    if (shoal_thread_role() != expected) {
        atomic_store((atomic_bool *)ctx, true);
    }
}

static void test_workers_have_the_compute_role(void **state)
{
    (void)state;
    atomic_bool wrong = false;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(3);
    shoal_pool_run(pool, note_role, &wrong, 500);
    assert_false(atomic_load(&wrong));
}

static void test_run_allocates_nothing(void **state)
{
    (void)state;
    static job j;
    j = (job){.n_threads = 2};
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = make(2);
    uint64_t before = shoal_mem_count();
    shoal_pool_run(pool, run_part, &j, 100);
    shoal_pool_run_sized(pool, run_part, &j, 100, 100);
    assert_int_equal(shoal_mem_count(), before);
}

static void test_failing_allocations_stop_what_was_started(void **state)
{
    (void)state;
    shoal_pool *pool = NULL;
    uint64_t i = 0;
    for (;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = shoal_pool_new(4, &pool);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_null(pool);
    }
    assert_int_equal(i, 5); /* the pool, its table, three threads */
    shoal_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_number_of_threads_outside_its_range_is_refused),
        cmocka_unit_test(
            test_pinned_threads_have_a_cpu_each), /* first: no thread is left to fork beside */
        cmocka_unit_test(test_most_threads_start_and_end),
        cmocka_unit_test(test_every_part_runs_exactly_once),
        cmocka_unit_test(test_two_threads_have_a_share_each),
        cmocka_unit_test(test_odd_threads_begin_where_the_share_of_the_even_ends),
        cmocka_unit_test(test_what_is_expected_may_be_anywhere),
        cmocka_unit_test(test_more_parts_than_a_ticket_counts_run_once_each),
        cmocka_unit_test(test_many_jobs_in_a_row_stay_apart),
        cmocka_unit_test(test_parked_workers_wake_for_the_next_job),
        cmocka_unit_test(test_caller_waits_for_slow_parts),
        cmocka_unit_test(test_small_jobs_are_the_callers),
        cmocka_unit_test(test_large_jobs_are_shared_once_they_are_known),
        cmocka_unit_test(test_jobs_that_grow_are_shared_again),
        cmocka_unit_test(test_every_part_of_a_sized_job_runs_once),
        cmocka_unit_test(test_more_functions_than_are_told_apart),
        cmocka_unit_test(test_workers_have_the_compute_role),
        cmocka_unit_test(test_run_allocates_nothing),
        cmocka_unit_test(test_failing_allocations_stop_what_was_started),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
