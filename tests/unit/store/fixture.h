/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the store share: blocks of a made-up text, and requests that wait for their
 * results.
 */
#ifndef SHOAL_TESTS_UNIT_STORE_FIXTURE_H
#define SHOAL_TESTS_UNIT_STORE_FIXTURE_H

#include "cloud/store/store.h"

enum {
    PAYLOAD = 1000
};

/* Block i of the text numbered text; its bytes follow from both. */
shoal_block_id block_id(uint32_t text, uint32_t i);
shoal_block *block_make(uint32_t text, uint32_t i, size_t n_payload);
void block_assert_right(shoal_block *block, uint32_t text, uint32_t i, size_t n_payload);

/* The next result; fails the test after 20 s. Freed by the caller. */
shoal_store_result *next_result(shoal_store *store);
/* Asks and waits. A block that comes is held against what it must be, and freed. */
shoal_store_result ask_get(shoal_store *store, const shoal_block_id *id, size_t n_payload,
                           bool lease);
shoal_status get(shoal_store *store, uint32_t text, uint32_t i);
shoal_status put(shoal_store *store, uint32_t text, uint32_t i);
shoal_status put_sized(shoal_store *store, uint32_t text, uint32_t i, size_t n_payload);
shoal_status evict(shoal_store *store, uint32_t text, uint32_t i);
shoal_status release(shoal_store *store, uint32_t text, uint32_t i);
shoal_store_stats stats_of(const shoal_store *store);

/* The lease rules, the same for every kind; elapse lets a lease of lease_ms run out. two may be the
 * same store as one. */
void check_leases(shoal_store *one, shoal_store *two, void (*elapse)(void *ctx), void *ctx);

#endif
