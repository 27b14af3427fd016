/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/store/table.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    SLOTS_MIN = 64,
    SLOTS_MAX = 1 << 20
};

shoal_status shoal_store_table_init(shoal_store_table *table, size_t n_expected)
{
    size_t n = SLOTS_MIN;
    while (n < n_expected && n < SLOTS_MAX) {
        n *= 2;
    }
    *table = (shoal_store_table){.n_slots = n};
    table->slots = shoal_calloc(n, sizeof(*table->slots));
    return table->slots ? SHOAL_OK : SHOAL_E_NOMEM;
}

void shoal_store_table_fini(shoal_store_table *table)
{
    while (table->oldest) {
        shoal_store_table_remove(table, table->oldest);
    }
    shoal_free(table->slots);
    *table = (shoal_store_table){0};
}

/* Names are SHA-256: any bits of them are as good as a hash. */
static shoal_store_entry **slot_of(const shoal_store_table *table, const shoal_hash *name)
{
    uint64_t bits = 0;
    memcpy(&bits, name->bytes, sizeof bits);
    return &table->slots[bits & (table->n_slots - 1)];
}

shoal_store_entry *shoal_store_table_find(const shoal_store_table *table, const shoal_hash *name)
{
    shoal_store_entry *entry = *slot_of(table, name);
    while (entry && memcmp(&entry->name, name, sizeof *name) != 0) {
        entry = entry->chain;
    }
    return entry;
}

static void unlink_use(shoal_store_table *table, shoal_store_entry *entry)
{
    *(entry->older ? &entry->older->newer : &table->oldest) = entry->newer;
    *(entry->newer ? &entry->newer->older : &table->newest) = entry->older;
    entry->older = NULL;
    entry->newer = NULL;
}

static void link_newest(shoal_store_table *table, shoal_store_entry *entry)
{
    entry->older = table->newest;
    *(table->newest ? &table->newest->newer : &table->oldest) = entry;
    table->newest = entry;
}

void shoal_store_table_touch(shoal_store_table *table, shoal_store_entry *entry)
{
    unlink_use(table, entry);
    link_newest(table, entry);
}

shoal_store_entry *shoal_store_table_add(shoal_store_table *table, const shoal_hash *name,
                                         size_t bytes)
{
    shoal_store_entry *entry = shoal_calloc(1, sizeof *entry);
    if (!entry) {
        return NULL;
    }
    shoal_store_entry **slot = slot_of(table, name);
    entry->name = *name;
    entry->bytes = bytes;
    entry->chain = *slot;
    *slot = entry;
    link_newest(table, entry);
    table->n_entries++;
    table->bytes += bytes;
    return entry;
}

void shoal_store_table_remove(shoal_store_table *table, shoal_store_entry *entry)
{
    shoal_store_entry **at = slot_of(table, &entry->name);
    while (*at != entry) {
        at = &(*at)->chain;
    }
    *at = entry->chain;
    unlink_use(table, entry);
    table->n_entries--;
    table->bytes -= entry->bytes;
    shoal_free(entry);
}
