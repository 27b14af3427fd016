/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases within one process.
 */
#include "cloud/store/store_internal.h"

shoal_status shoal_store_leases_init(store_leases *leases, const shoal_store_settings *settings)
{
    leases->clock = settings->clock;
    leases->lease_ms = settings->lease_ms;
    return shoal_store_table_init(&leases->table, SHOAL_STORE_LEASES_MAX);
}

void shoal_store_leases_fini(store_leases *leases)
{
    shoal_store_table_fini(&leases->table);
}

void shoal_store_leases_miss(store_leases *leases, store_job *job)
{
    shoal_store_table *table = &leases->table;
    job->result.status = SHOAL_EOF;
    if (!job->lease) {
        return;
    }
    uint64_t now_ms = shoal_clock_now_ms(&leases->clock);
    shoal_store_entry *entry = shoal_store_table_find(table, &job->id.name);
    if (entry && entry->until_ms > now_ms) {
        job->result.status = SHOAL_BUSY;
        job->result.retry_ms = (uint32_t)(entry->until_ms - now_ms);
        return;
    }
    if (!entry) {
        entry = shoal_store_table_add(table, &job->id.name, 0);
    } else {
        shoal_store_table_touch(table, entry);
    }
    if (!entry) {
        return; /* out of memory: whoever misses computes without a lease */
    }
    entry->until_ms = now_ms + leases->lease_ms;
    job->result.leased = true;
    if (table->n_entries > SHOAL_STORE_LEASES_MAX) {
        shoal_store_table_remove(table, table->oldest);
    }
}

void shoal_store_leases_end(store_leases *leases, const shoal_hash *name)
{
    shoal_store_entry *entry = shoal_store_table_find(&leases->table, name);
    if (entry) {
        shoal_store_table_remove(&leases->table, entry);
    }
}
