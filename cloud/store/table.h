/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of blocks in the order of their use, with what each costs: the index of a bounded store.
 * Every operation is O(1). One thread.
 */
#ifndef SHOAL_CLOUD_STORE_TABLE_H
#define SHOAL_CLOUD_STORE_TABLE_H

#include "common/base/hash.h"

#include <stdint.h>

typedef struct shoal_store_entry shoal_store_entry;
struct shoal_store_entry {
    shoal_hash name;
    size_t bytes;
    void *data;        /* the caller's */
    uint64_t until_ms; /* the caller's */
    shoal_store_entry *chain;
    shoal_store_entry *older;
    shoal_store_entry *newer;
};

typedef struct shoal_store_table {
    shoal_store_entry **slots;
    size_t n_slots; /* a power of two */
    size_t n_entries;
    size_t bytes; /* of all entries */
    shoal_store_entry *oldest;
    shoal_store_entry *newest;
} shoal_store_table;

/* Sized for n_expected entries, any number fits. Zeroed memory is a table without slots, which only
 * fini takes. */
shoal_status shoal_store_table_init(shoal_store_table *table, size_t n_expected) SHOAL_MUST_CHECK;
/* Frees entries, not their data. */
void shoal_store_table_fini(shoal_store_table *table);

/* NULL when absent. */
shoal_store_entry *shoal_store_table_find(const shoal_store_table *table, const shoal_hash *name);
/* Makes it the newest. */
void shoal_store_table_touch(shoal_store_table *table, shoal_store_entry *entry);
/* Adds an absent name as the newest; NULL when out of memory. */
shoal_store_entry *shoal_store_table_add(shoal_store_table *table, const shoal_hash *name,
                                         size_t bytes);
/* Frees the entry. */
void shoal_store_table_remove(shoal_store_table *table, shoal_store_entry *entry);

#endif
