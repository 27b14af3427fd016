/* SPDX-License-Identifier: Apache-2.0
 *
 * How a job is shared out: one 64-bit ticket holds the job's number, the parts not yet taken, and
 * how many of those taken went to threads of odd index. A thread takes a part by a compare-and-swap
 * that lowers what is left, and reads the job's function only after that has succeeded. A job
 * cannot end before all of its parts have, so a thread that was late and holds an old ticket can
 * neither take a part of an ended job nor read a job that is being written; and the caller never
 * waits for a thread that took nothing.
 *
 * Threads of even index take parts from the first one up, those of odd index from their share of
 * the way up, so that two threads each walk through memory of their own without a gap; who comes to
 * the end of his share takes from the other's, last part first.
 */
#include "common/base/pool.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/thread.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
#    define POOL_UNDER_TSAN 1
#elif defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define POOL_UNDER_TSAN 1
#    endif
#endif
#ifndef POOL_UNDER_TSAN
#    define POOL_UNDER_TSAN 0
#endif

/* Decoding runs a few hundred jobs a token, microseconds apart: a park and a wake for each would
 * cost more than the work. 30 us covers the gaps inside a step and is nothing between steps. */
enum {
    SPIN_NS = 30000,
    SPIN_PAUSES = 16,
    LINE_BYTES = 64,
    LINES_AT_ONCE = 8, /* fetched between two looks for news */
    RATES = 32,        /* functions whose jobs are told apart; those beyond are shared out */
    LOOK_AT = 17,      /* one of so many jobs done alone is timed: looking costs too */
    COUNT_BITS = 18,   /* of a ticket, for each count of parts; the rest is the job's number */
    PARTS_MAX = (1 << COUNT_BITS) - 1
};

/* Weight of a look at how long a job took, and how many times what was known it counts at most. */
static const double RATE_GAIN = 1.0 / 8;
static const double RATE_MOST = 2.0;

/* How long jobs of a function take. */
typedef struct pool_rate {
    shoal_pool_fn *fn;
    double op_ns; /* of one thread, an op; 0: not known */
    unsigned n_alone;
} pool_rate;

/* How far a thread that waits has fetched what it expects. */
typedef struct fetcher {
    bool odd;
    uintptr_t from;
    size_t done; /* bytes */
} fetcher;

typedef struct pool_worker {
    shoal_pool *pool;
    size_t index;
    shoal_thread *thread;
    fetcher fetcher;
} pool_worker;

struct shoal_pool {
    size_t n_threads;
    size_t *cpus; /* (n_threads) one for each thread; NULL: not pinned */
    bool caller_pinned;
    uint64_t spin_ns; /* 0 where a spinning thread would keep the working one off its CPU */
    pool_worker *workers;
    fetcher fetcher;             /* the caller's */
    pool_rate rates[RATES];      /* the caller's */
    _Atomic uintptr_t expect[2]; /* of even and odd; 0: not known */

    /* The job: written by the caller while no part is out. */
    shoal_pool_fn *fn;
    void *ctx;
    size_t first_part;
    size_t n_parts; /* from there on, at most PARTS_MAX */
    atomic_bool running;

    alignas(LINE_BYTES) atomic_uint_fast64_t ticket;
    alignas(LINE_BYTES) _Atomic uint32_t n_left; /* parts not done; the caller's futex */
    atomic_bool caller_waits;
    alignas(LINE_BYTES) _Atomic uint32_t bell; /* rung for every job; the workers' futex */
    /* Threads that sleep on the bell, or are about to, and have not been woken: one that was, but
     * has not run yet, is not woken again with each job that it misses. */
    _Atomic uint32_t n_asleep;
    atomic_bool stop;
};

/* True: a futex_wake has counted this thread. Else the word has moved on (EAGAIN), or a signal came
 * (EINTR). */
static bool futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0) == 0;
}

/* How many were woken. */
static uint32_t futex_wake(_Atomic uint32_t *word, uint32_t n)
{
    long n_woken =
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n > INT_MAX ? INT_MAX : (int)n, NULL, NULL, 0);
    return n_woken > 0 ? (uint32_t)n_woken : 0;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static size_t left_of(uint64_t ticket)
{
    return ticket & PARTS_MAX;
}

size_t shoal_pool_odd_part(const shoal_pool *pool, size_t n_parts)
{
    return n_parts * ((pool->n_threads + 1) / 2) / pool->n_threads;
}

/* The part that a ticket gives: see the top. With e and o parts taken by even and odd, e + o < n,
 * neither's order comes to what the other has had. */
static size_t part_of(const shoal_pool *pool, uint64_t ticket, bool odd)
{
    size_t n = pool->n_parts;
    size_t n_odd = ticket >> COUNT_BITS & PARTS_MAX;
    size_t n_even = n - left_of(ticket) - n_odd;
    size_t middle = shoal_pool_odd_part(pool, n);
    if (odd) {
        return n_odd < n - middle ? middle + n_odd : n - 1 - n_odd;
    }
    return n_even < middle ? n_even : n - 1 - (n_even - middle);
}

/* Runs one part of the current job, if one is left. */
static bool run_one(shoal_pool *pool, size_t worker_i)
{
    bool odd = worker_i % 2 == 1;
    uint64_t taken = odd ? ((uint64_t)1 << COUNT_BITS) - 1 : UINT64_MAX; /* one less is left */
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    do {
        if (left_of(ticket) == 0) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + taken,
                                                    memory_order_acquire, memory_order_relaxed));
    pool->fn(pool->ctx, pool->first_part + part_of(pool, ticket, odd), worker_i);
    /* Sequentially consistent against the caller's "I wait, is it done?": one of the two sees the
     * other. The pool outlives this, because freeing it joins the workers. */
    if (atomic_fetch_sub(&pool->n_left, 1) == 1 && atomic_load(&pool->caller_waits)) {
        (void)futex_wake(&pool->n_left, 1);
    }
    return true;
}

static bool has_news(shoal_pool *pool)
{
    return left_of(atomic_load(&pool->ticket)) != 0 || atomic_load(&pool->stop);
}

static bool is_done(shoal_pool *pool)
{
    return atomic_load(&pool->n_left) == 0;
}

void shoal_pool_expect(shoal_pool *pool, const void *even, const void *odd)
{
    atomic_store_explicit(&pool->expect[0], (uintptr_t)even, memory_order_relaxed);
    atomic_store_explicit(&pool->expect[1], (uintptr_t)odd, memory_order_relaxed);
}

const void *shoal_pool_expected(const shoal_pool *pool, bool odd)
{
    return (const void *)atomic_load_explicit(&pool->expect[odd], memory_order_relaxed);
}

/* Some lines of what is expected, or a pause when they have all been asked for. */
static void fetch_or_relax(shoal_pool *pool, fetcher *f)
{
    uintptr_t from = atomic_load_explicit(&pool->expect[f->odd], memory_order_relaxed);
    if (from != f->from) {
        f->from = from;
        f->done = 0;
    }
    if (from == 0 || f->done >= SHOAL_POOL_AHEAD_BYTES) {
        relax();
        return;
    }
    for (size_t i = 0; i < LINES_AT_ONCE; i++) {
        __builtin_prefetch((const void *)(from + f->done), 0, 2);
        f->done += LINE_BYTES;
    }
}

/* Waits a little for what is expected any moment; true when it came. */
static bool spin_until(shoal_pool *pool, bool (*came)(shoal_pool *), fetcher *f)
{
    if (came(pool)) {
        return true;
    }
    if (pool->spin_ns == 0) {
        return false;
    }
    const shoal_clock clock = shoal_clock_real();
    uint64_t start_ns = shoal_clock_now_ns(&clock);
    do {
        for (int i = 0; i < SPIN_PAUSES; i++) {
            fetch_or_relax(pool, f);
            if (came(pool)) {
                return true;
            }
        }
    } while (shoal_clock_now_ns(&clock) - start_ns < pool->spin_ns);
    return false;
}

/* Sleeps until the bell rings. The bell is read before "I am asleep" is said and the ticket looked
 * at once more after it: either the caller sees the sleeping thread, or the thread sees the job.
 * Who is woken is taken off by who wakes him; the kernel tells both of it. */
static void park(shoal_pool *pool)
{
    uint32_t seen = atomic_load(&pool->bell);
    (void)atomic_fetch_add(&pool->n_asleep, 1);
    if (has_news(pool) || !futex_wait(&pool->bell, seen)) {
        (void)atomic_fetch_sub(&pool->n_asleep, 1);
    }
}

static void worker_main(void *ctx)
{
    pool_worker *worker = ctx;
    shoal_pool *pool = worker->pool;
    while (!atomic_load(&pool->stop)) {
        if (run_one(pool, worker->index)) {
            continue;
        }
        if (!spin_until(pool, has_news, &worker->fetcher)) {
            park(pool);
        }
    }
}

static void ring(shoal_pool *pool, uint32_t n_wanted)
{
    (void)atomic_fetch_add(&pool->bell, 1);
    if (atomic_load(&pool->n_asleep) > 0) {
        (void)atomic_fetch_sub(&pool->n_asleep, futex_wake(&pool->bell, n_wanted));
    }
}

size_t shoal_pool_n_cpus(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        return n > 0 ? (size_t)n : 1;
    }
    int n = CPU_COUNT(&set);
    return n > 0 ? (size_t)n : 1;
}

static bool put_on(pthread_t thread, size_t cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return pthread_setaffinity_np(thread, sizeof set, &set) == 0;
}

shoal_status shoal_pool_pin(shoal_pool *pool)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return SHOAL_E_UNSUPPORTED;
    }
    if ((size_t)CPU_COUNT(&set) < pool->n_threads) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_CLEANUP(shoal_free_cleanup) size_t *cpus = shoal_calloc(pool->n_threads, sizeof *cpus);
    if (!cpus) {
        return SHOAL_E_NOMEM;
    }
    size_t cpu = 0;
    for (size_t i = 0; i < pool->n_threads; i++, cpu++) {
        while (!CPU_ISSET(cpu, &set)) {
            cpu++;
        }
        cpus[i] = cpu;
        if (i > 0 && !put_on(shoal_thread_native(pool->workers[i - 1].thread), cpu)) {
            return SHOAL_E_UNSUPPORTED;
        }
    }
    shoal_free(pool->cpus);
    pool->cpus = SHOAL_STEAL(cpus);
    pool->caller_pinned = false;
    return SHOAL_OK;
}

static shoal_status start_workers(shoal_pool *pool)
{
    for (size_t i = 1; i < pool->n_threads; i++) {
        pool_worker *worker = &pool->workers[i - 1];
        worker->pool = pool;
        worker->index = i;
        worker->fetcher.odd = i % 2 == 1;
        char name[16];
        (void)snprintf(name, sizeof name, "compute-%u", (unsigned)(i % 1000));
        SHOAL_TRY(
            shoal_thread_start(SHOAL_ROLE_COMPUTE, name, worker_main, worker, &worker->thread));
    }
    return SHOAL_OK;
}

shoal_status shoal_pool_new(size_t n_threads, shoal_pool **ret_pool)
{
    if (n_threads < 1 || n_threads > SHOAL_POOL_THREADS_MAX) {
        return SHOAL_E_INVALID;
    }
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = shoal_calloc_aligned(1, sizeof *pool);
    if (!pool) {
        return SHOAL_E_NOMEM;
    }
    pool->n_threads = n_threads;
    pool->spin_ns = n_threads > shoal_pool_n_cpus() || POOL_UNDER_TSAN ? 0 : SPIN_NS;
    pool->workers = shoal_calloc(n_threads, sizeof *pool->workers);
    if (!pool->workers) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(start_workers(pool));
    *ret_pool = SHOAL_STEAL(pool);
    return SHOAL_OK;
}

void shoal_pool_free(shoal_pool *pool)
{
    if (!pool) {
        return;
    }
    atomic_store(&pool->stop, true);
    ring(pool, UINT32_MAX);
    for (size_t i = 0; pool->workers && i + 1 < pool->n_threads; i++) {
        shoal_thread_join(pool->workers[i].thread);
    }
    shoal_free(pool->workers);
    shoal_free(pool->cpus);
    shoal_free(pool);
}

size_t shoal_pool_n_threads(const shoal_pool *pool)
{
    return pool->n_threads;
}

static void wait_done(shoal_pool *pool)
{
    if (spin_until(pool, is_done, &pool->fetcher)) {
        return;
    }
    atomic_store(&pool->caller_waits, true);
    for (uint32_t left = atomic_load(&pool->n_left); left != 0; left = atomic_load(&pool->n_left)) {
        (void)futex_wait(&pool->n_left, left);
    }
    atomic_store(&pool->caller_waits, false);
}

/* Returns how many parts the caller has done. */
static size_t share_out(shoal_pool *pool, size_t first_part, size_t n_parts, size_t n_wake)
{
    size_t n_done = 0;
    pool->first_part = first_part;
    pool->n_parts = n_parts;
    atomic_store(&pool->n_left, (uint32_t)n_parts);
    uint64_t number = (atomic_load(&pool->ticket) >> 2 * COUNT_BITS) + 1;
    atomic_store(&pool->ticket, number << 2 * COUNT_BITS | n_parts);
    ring(pool, (uint32_t)SHOAL_MIN(n_parts - 1, n_wake));
    while (run_one(pool, 0)) {
        n_done++;
    }
    return n_done;
}

static void begin(shoal_pool *pool)
{
    SHOAL_ASSERT(shoal_thread_role() != SHOAL_ROLE_LOOP);
    bool was_running = atomic_exchange(&pool->running, true);
    SHOAL_ASSERT(!was_running);
    if (pool->cpus && !pool->caller_pinned) {
        pool->caller_pinned = true;
        (void)put_on(pthread_self(), pool->cpus[0]); /* refused: it runs where it may, as before */
    }
}

static void run_alone(shoal_pool_fn *fn, void *ctx, size_t n_parts)
{
    for (size_t part_i = 0; part_i < n_parts; part_i++) {
        fn(ctx, part_i, 0);
    }
}

void shoal_pool_run(shoal_pool *pool, shoal_pool_fn *fn, void *ctx, size_t n_parts)
{
    if (n_parts == 0) {
        return;
    }
    begin(pool);
    if (pool->n_threads == 1 || n_parts == 1) {
        run_alone(fn, ctx, n_parts);
    } else {
        pool->fn = fn;
        pool->ctx = ctx;
        for (size_t at = 0; at < n_parts; at += PARTS_MAX) {
            (void)share_out(pool, at, SHOAL_MIN(n_parts - at, (size_t)PARTS_MAX), n_parts);
            wait_done(pool);
        }
    }
    atomic_store(&pool->running, false);
}

/* --- jobs whose size is known ----------------------------------------------------------------- */

/* NULL: there is no room for one more function. */
static pool_rate *rate_of(shoal_pool *pool, shoal_pool_fn *fn)
{
    for (size_t i = 0; i < RATES; i++) {
        pool_rate *rate = &pool->rates[i];
        rate->fn = rate->fn ? rate->fn : fn;
        if (rate->fn == fn) {
            return rate;
        }
    }
    return NULL;
}

/* How many threads a job has work for; what is not known is large. */
static double grains(const pool_rate *rate, size_t n_ops)
{
    return rate->op_ns > 0 ? rate->op_ns * (double)n_ops / SHOAL_POOL_GRAIN_NS : HUGE_VAL;
}

bool shoal_pool_shares(const shoal_pool *pool, shoal_pool_fn *fn, size_t n_ops)
{
    for (size_t i = 0; i < RATES && pool->rates[i].fn; i++) {
        if (pool->rates[i].fn == fn) {
            return pool->n_threads > 1 && grains(&pool->rates[i], n_ops) >= 2;
        }
    }
    return pool->n_threads > 1;
}

static uint64_t now_ns(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

/* A thread that lost its CPU within a job would make all of its kind look long: such a look counts
 * in part. */
static void learn(pool_rate *rate, double took_ns, double n_ops)
{
    double op_ns = took_ns / n_ops;
    if (rate->op_ns <= 0) {
        rate->op_ns = op_ns;
        return;
    }
    rate->op_ns += (SHOAL_MIN(op_ns, RATE_MOST * rate->op_ns) - rate->op_ns) * RATE_GAIN;
}

void shoal_pool_run_sized(shoal_pool *pool, shoal_pool_fn *fn, void *ctx, size_t n_parts,
                          size_t n_ops)
{
    pool_rate *rate = pool->n_threads > 1 ? rate_of(pool, fn) : NULL;
    if (!rate || n_parts <= 1 || n_parts > PARTS_MAX || n_ops == 0) {
        shoal_pool_run(pool, fn, ctx, n_parts);
        return;
    }
    double n_grains = grains(rate, n_ops);
    bool alone = n_grains < 2;
    bool look = !alone || rate->n_alone++ % LOOK_AT == 0;
    begin(pool);
    uint64_t start_ns = look ? now_ns() : 0;
    size_t n_done = n_parts;
    if (alone) {
        run_alone(fn, ctx, n_parts);
    } else {
        pool->fn = fn;
        pool->ctx = ctx;
        n_done = share_out(pool, 0, n_parts, (size_t)SHOAL_MIN(n_grains, (double)n_parts) - 1);
    }
    if (look && n_done > 0) { /* its own parts: when others began with theirs it does not know */
        double n_own = (double)n_ops * (double)n_done / (double)n_parts;
        learn(rate, SHOAL_MAX((double)(now_ns() - start_ns), 1.0), n_own);
    }
    if (!alone) {
        wait_done(pool);
    }
    atomic_store(&pool->running, false);
}
