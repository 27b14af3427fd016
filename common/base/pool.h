/* SPDX-License-Identifier: Apache-2.0
 *
 * The compute pool: a fixed set of threads that run the parts of one job at a time. The caller
 * takes part and returns when every part is done. How parts fall on threads is not fixed, so a
 * part must own its outputs alone; then results do not depend on the number of threads (R2). Two
 * threads mostly each have a run of neighbours, in ascending order: parts may be cut so that the
 * next one is what memory has ready.
 * Workers spin briefly after a job, then park. One job at a time: the engine thread owns the pool.
 *
 * A job is shared out only where that is worth it. To hand one over costs two threads some
 * microseconds each, and a thread that sleeps must be woken; the products of a small model take
 * less. So who knows how large a job is says it, the pool learns how long jobs of its function take
 * for their size, and what takes less than two grains the caller does alone. Who does a part
 * changes nothing of what it computes (R2).
 */
#ifndef SHOAL_BASE_POOL_H
#define SHOAL_BASE_POOL_H

#include "common/base/macros.h"

#include <stdbool.h>

enum {
    SHOAL_POOL_THREADS_MAX = 256
};

typedef struct shoal_pool shoal_pool;

/* part_i in [0, n_parts); worker_i in [0, n_threads) names the thread, for scratch memory. */
typedef void shoal_pool_fn(void *ctx, size_t part_i, size_t worker_i);

/* n_threads counts the caller: 1 makes no thread.
 * SHOAL_E_INVALID outside [1, SHOAL_POOL_THREADS_MAX]; SHOAL_E_NOMEM when threads cannot start. */
shoal_status shoal_pool_new(size_t n_threads, shoal_pool **ret_pool) SHOAL_MUST_CHECK;
void shoal_pool_free(shoal_pool *pool);
SHOAL_DEFINE_CLEANUP(shoal_pool, shoal_pool_free)

/* CPUs this process may run on; 1 when that cannot be learnt. */
size_t shoal_pool_n_cpus(void);
size_t shoal_pool_n_threads(const shoal_pool *pool);

/* Keeps each thread on a CPU of its own from now on: worker i on the i-th this process may run on,
 * the caller of shoal_pool_run, which must stay the same thread, on the first. Not done unless
 * asked: on a quiet machine the scheduler leaves threads where they are, and where others work a
 * pinned thread waits for its CPU while another stands idle. SHOAL_E_LIMIT when there are more
 * threads than CPUs, SHOAL_E_UNSUPPORTED when the kernel refuses; then nothing is promised. */
shoal_status shoal_pool_pin(shoal_pool *pool) SHOAL_MUST_CHECK;

/* Runs fn for every part, on as many threads as there are; allocates nothing. n_parts = 0 returns
 * at once. */
void shoal_pool_run(shoal_pool *pool, shoal_pool_fn *fn, void *ctx, size_t n_parts);

/* The same for a job whose time is about proportional to n_ops, in a unit of fn's own: on the
 * caller alone while it has less than two grains, and no more threads are woken than have a grain
 * each. A grain is some times what a thread that spins costs when it takes part: 3 us on a machine
 * of 2026, the lines of memory that change caches included. */
enum {
    SHOAL_POOL_GRAIN_NS = 6000
};
void shoal_pool_run_sized(shoal_pool *pool, shoal_pool_fn *fn, void *ctx, size_t n_parts,
                          size_t n_ops);
/* Whether such a job would be shared out now, if it has more parts than one. */
bool shoal_pool_shares(const shoal_pool *pool, shoal_pool_fn *fn, size_t n_ops);

/* The part that threads of odd index begin with in a job of n_parts; those of even index begin with
 * part 0. n_parts where one thread does all. */
size_t shoal_pool_odd_part(const shoal_pool *pool, size_t n_parts);

/* Where threads of even index, and of odd, will begin to read in a job to come; NULL: not known.
 * From now on a thread that has nothing to do but wait fetches the first SHOAL_POOL_AHEAD_BYTES
 * there into its cache, so that memory does not rest while the parts of a job end and the next one
 * is got ready. A hint: nothing is read, and what lies there may be gone. Called by the caller of
 * shoal_pool_run, between jobs. */
enum {
    SHOAL_POOL_AHEAD_BYTES = 128 << 10
};
void shoal_pool_expect(shoal_pool *pool, const void *even, const void *odd);
/* What was said last. */
const void *shoal_pool_expected(const shoal_pool *pool, bool odd);

#endif
