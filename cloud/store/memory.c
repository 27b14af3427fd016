/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks in this process's memory.
 */
#include "cloud/store/store_internal.h"

#include "common/base/mem.h"

enum {
    OVERHEAD_BYTES = 256 /* of an entry and a block's struct */
};

typedef struct memory {
    store_backend backend; /* first */
    store_counters *counters;
    size_t bytes_max;
    shoal_store_table table; /* data: shoal_block */
    store_leases leases;
} memory;

static void forget(memory *m, shoal_store_entry *entry)
{
    shoal_block_free(entry->data);
    shoal_store_table_remove(&m->table, entry);
}

static void get(memory *m, store_job *job)
{
    shoal_store_entry *entry = shoal_store_table_find(&m->table, &job->id.name);
    if (!entry) {
        shoal_store_leases_miss(&m->leases, job);
        return;
    }
    shoal_store_table_touch(&m->table, entry);
    if (shoal_block_n_bytes(entry->data) != job->n_bytes) {
        job->result.status = SHOAL_E_INVALID;
        return;
    }
    shoal_status status =
        shoal_block_copy(shoal_block_bytes(entry->data), job->n_bytes, &job->result.block);
    job->result.status = status == SHOAL_OK ? SHOAL_OK : SHOAL_EOF;
}

static void put(memory *m, store_job *job)
{
    shoal_store_entry *entry = shoal_store_table_find(&m->table, &job->id.name);
    if (entry) {
        forget(m, entry);
    }
    size_t bytes = job->n_bytes + OVERHEAD_BYTES;
    bool fits = bytes <= m->bytes_max;
    while (fits && m->table.oldest && m->table.bytes + bytes > m->bytes_max) {
        forget(m, m->table.oldest);
        shoal_store_count(m->counters, STORE_COUNT_evicted, 1);
    }
    entry = fits ? shoal_store_table_add(&m->table, &job->id.name, bytes) : NULL;
    job->result.status = entry ? SHOAL_OK : SHOAL_EOF;
    if (entry) {
        entry->data = SHOAL_STEAL(job->result.block);
    }
    shoal_store_leases_end(&m->leases, &job->id.name);
}

static void run(store_backend *self, store_job *const *jobs, size_t n)
{
    memory *m = (memory *)self;
    for (size_t i = 0; i < n; i++) {
        store_job *job = jobs[i];
        shoal_store_entry *entry = NULL;
        switch (job->result.op) {
        case SHOAL_STORE_GET:
            get(m, job);
            break;
        case SHOAL_STORE_PUT:
            put(m, job);
            break;
        case SHOAL_STORE_EVICT:
            entry = shoal_store_table_find(&m->table, &job->id.name);
            if (entry) {
                forget(m, entry);
            }
            break;
        case SHOAL_STORE_RELEASE:
            shoal_store_leases_end(&m->leases, &job->id.name);
            break;
        }
    }
}

static void close_memory(store_backend *self)
{
    memory *m = (memory *)self;
    while (m->table.oldest) {
        forget(m, m->table.oldest);
    }
    shoal_store_table_fini(&m->table);
    shoal_store_leases_fini(&m->leases);
    shoal_free(m);
}

shoal_status shoal_store_memory_open(const shoal_store_settings *settings, store_counters *counters,
                                     store_backend **ret_backend, shoal_err *err)
{
    memory *m = shoal_calloc(1, sizeof *m);
    if (!m) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    m->backend = (store_backend){.run = run, .close = close_memory};
    m->counters = counters;
    m->bytes_max = settings->bytes_max;
    if (shoal_store_table_init(&m->table, settings->bytes_max >> 14) != SHOAL_OK ||
        shoal_store_leases_init(&m->leases, settings) != SHOAL_OK) {
        close_memory(&m->backend);
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    *ret_backend = &m->backend;
    return SHOAL_OK;
}
