/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/tensor/gguf_internal.h"

#include <string.h>
#include <sys/random.h>

enum {
    SLOTS_FIRST = 16
};

static uint64_t rotate(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

uint64_t shoal_siphash(const uint64_t key[2], const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du,
                     key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m = shoal_le_u64(p + i);
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)n << 56;
    for (size_t i = whole; i < n; i++) {
        last |= (uint64_t)p[i] << (8 * (i - whole));
    }
    v[3] ^= last;
    sip_round(v);
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The slot that holds name, or the free one where it would go. The table is at most half full,
 * so the walk ends. */
static shoal_name_slot *slot_of(const shoal_names *names, shoal_str name, uint64_t hash)
{
    size_t mask = names->n_slots - 1;
    for (size_t i = (size_t)hash & mask;; i = (i + 1) & mask) {
        shoal_name_slot *slot = &names->slots[i];
        if (slot->number_plus_one == 0 || (slot->hash == hash && slot->name.length == name.length &&
                                           memcmp(slot->name.data, name.data, name.length) == 0)) {
            return slot;
        }
    }
}

static shoal_status grow(shoal_names *names)
{
    shoal_names bigger = *names;
    if (names->n_slots == 0) {
        /* Without entropy the key is what address randomisation gives. */
        if (getrandom(bigger.key, sizeof(bigger.key), GRND_NONBLOCK) !=
            (ssize_t)sizeof(bigger.key)) {
            bigger.key[0] = (uint64_t)(uintptr_t)names;
            bigger.key[1] = (uint64_t)(uintptr_t)&grow;
        }
    }
    bigger.n_slots = names->n_slots == 0 ? SLOTS_FIRST : names->n_slots * 2;
    bigger.slots = shoal_calloc(bigger.n_slots, sizeof(*bigger.slots));
    if (bigger.slots == NULL) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < names->n_slots; i++) {
        const shoal_name_slot *slot = &names->slots[i];
        if (slot->number_plus_one != 0) {
            *slot_of(&bigger, slot->name, slot->hash) = *slot;
        }
    }
    shoal_free(names->slots);
    *names = bigger;
    return SHOAL_OK;
}

shoal_status shoal_names_put(shoal_names *names, shoal_str name, size_t number)
{
    if (2 * (names->n_used + 1) > names->n_slots) {
        SHOAL_TRY(grow(names));
    }
    uint64_t hash = shoal_siphash(names->key, name.data, name.length);
    shoal_name_slot *slot = slot_of(names, name, hash);
    if (slot->number_plus_one != 0) {
        return SHOAL_BUSY;
    }
    *slot = (shoal_name_slot){.hash = hash, .name = name, .number_plus_one = number + 1};
    names->n_used++;
    return SHOAL_OK;
}

bool shoal_names_find(const shoal_names *names, shoal_str name, size_t *ret_number)
{
    if (names->n_slots == 0) {
        return false;
    }
    uint64_t hash = shoal_siphash(names->key, name.data, name.length);
    const shoal_name_slot *slot = slot_of(names, name, hash);
    if (slot->number_plus_one == 0) {
        return false;
    }
    *ret_number = slot->number_plus_one - 1;
    return true;
}

void shoal_names_fini(shoal_names *names)
{
    shoal_free(names->slots);
    *names = (shoal_names){0};
}

const char *shoal_gguf_shown(shoal_str name, char text[SHOAL_GGUF_SHOWN])
{
    size_t n = SHOAL_MIN(name.length, (size_t)SHOAL_GGUF_SHOWN - 4);
    for (size_t i = 0; i < n; i++) {
        char c = name.data[i];
        text[i] = (char)(c >= ' ' && c <= '~' ? c : '?');
    }
    memcpy(text + n, n < name.length ? "..." : "\0\0\0", 4);
    return text;
}

bool shoal_gguf_name_ok(shoal_str name)
{
    for (size_t i = 0; i < name.length; i++) {
        unsigned char c = (unsigned char)name.data[i];
        if (c < 0x20 || c == 0x7f) {
            return false;
        }
    }
    return shoal_utf8_valid(name.data, name.length);
}
