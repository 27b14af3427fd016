/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <string.h>

__extension__ typedef unsigned __int128 u128;

/* A Mersenne prime: reduction is a shift and an addition. */
#define PRIME ((UINT64_C(1) << 61) - 1)
/* Any odd residue without structure does: the fraction of the golden ratio, reduced. */
#define BASE (UINT64_C(0x1E3779B97F4A7C15) % PRIME)

static uint64_t mul_mod(uint64_t a, uint64_t b)
{
    u128 product = (u128)a * b;
    uint64_t sum = ((uint64_t)product & PRIME) + (uint64_t)(product >> 61);
    return sum >= PRIME ? sum - PRIME : sum;
}

static uint64_t add_mod(uint64_t a, uint64_t b)
{
    uint64_t sum = a + b;
    return sum >= PRIME ? sum - PRIME : sum;
}

uint64_t shoal_vocab_hash(const char *data, size_t n)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++) {
        /* One more than the byte, so that leading NULs count. */
        hash = add_mod(mul_mod(hash, BASE), (uint64_t)(uint8_t)data[i] + 1);
    }
    return hash;
}

uint64_t shoal_vocab_hash_join(const shoal_vocab_map *map, uint64_t left, uint64_t right,
                               size_t right_length)
{
    return add_mod(mul_mod(left, map->powers[right_length]), right);
}

/* Spreads the residue over all bits (the finalizer of MurmurHash3, public domain). */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xFF51AFD7ED558CCD);
    x ^= x >> 33;
    x *= UINT64_C(0xC4CEB9FE1A85EC53);
    x ^= x >> 33;
    return x;
}

static bool text_is(shoal_str text, shoal_str a, shoal_str b)
{
    return text.length == a.length + b.length && memcmp(text.data, a.data, a.length) == 0 &&
           (b.length == 0 || memcmp(text.data + a.length, b.data, b.length) == 0);
}

/* Walks to the text or to the free slot where it belongs. SIZE_MAX past the probe limit. */
static size_t probe(const shoal_tokenizer *tokenizer, uint64_t mixed, shoal_str a, shoal_str b)
{
    const shoal_vocab_map *map = &tokenizer->map;
    uint32_t tag = (uint32_t)(mixed >> 32);
    size_t slot = (size_t)mixed & map->mask;
    for (size_t i = 0; i < SHOAL_PROBES_MAX; i++) {
        shoal_vocab_slot at = map->slots[slot];
        if (at.id == 0 ||
            (at.tag == tag && text_is(shoal_vocab_text(tokenizer, at.id - 1), a, b))) {
            return slot;
        }
        slot = (slot + 1) & map->mask;
    }
    return SIZE_MAX;
}

int32_t shoal_vocab_find(const shoal_tokenizer *tokenizer, uint64_t hash, shoal_str a, shoal_str b)
{
    size_t slot = probe(tokenizer, mix(hash), a, b);
    return slot == SIZE_MAX ? -1 : (int32_t)tokenizer->map.slots[slot].id - 1;
}

void shoal_vocab_prefetch(const shoal_tokenizer *tokenizer, const uint64_t *hashes, size_t n,
                          int depth)
{
    for (size_t i = 0; i < n; i++) {
        const shoal_vocab_slot *slot =
            &tokenizer->map.slots[(size_t)mix(hashes[i]) & tokenizer->map.mask];
        if (depth == 0) {
            __builtin_prefetch(slot);
        } else if (slot->id != 0) {
            const shoal_token *token = &tokenizer->tokens[slot->id - 1];
            if (depth == 1) {
                __builtin_prefetch(token);
            } else {
                __builtin_prefetch(tokenizer->texts + token->offset);
            }
        }
    }
}

/* Of tokens with one text the lowest id stays. Empty texts can never be met. */
static shoal_status insert(shoal_tokenizer *tokenizer, size_t id, shoal_err *err)
{
    shoal_str text = shoal_vocab_text(tokenizer, id);
    if (text.length == 0) {
        return SHOAL_OK;
    }
    uint64_t mixed = mix(shoal_vocab_hash(text.data, text.length));
    size_t slot = probe(tokenizer, mixed, text, (shoal_str){.data = "", .length = 0});
    if (slot == SIZE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tokenizer.ggml.tokens[%zu]: more than %d texts collide; the file is "
                             "damaged or crafted",
                             id, SHOAL_PROBES_MAX);
    }
    if (tokenizer->map.slots[slot].id == 0) {
        tokenizer->map.slots[slot] =
            (shoal_vocab_slot){.id = (uint32_t)id + 1, .tag = (uint32_t)(mixed >> 32)};
    }
    return SHOAL_OK;
}

shoal_status shoal_vocab_map_init(shoal_tokenizer *tokenizer, shoal_err *err)
{
    shoal_vocab_map *map = &tokenizer->map;
    size_t n_slots = 16;
    while (n_slots < 2 * tokenizer->n_vocab) {
        n_slots *= 2;
    }
    map->mask = n_slots - 1;
    map->slots = shoal_calloc(n_slots, sizeof(map->slots[0]));
    map->powers = shoal_calloc(tokenizer->length_max + 1, sizeof(map->powers[0]));
    if (!map->slots || !map->powers) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu token texts",
                             tokenizer->n_vocab);
    }
    map->powers[0] = 1;
    for (size_t i = 1; i <= tokenizer->length_max; i++) {
        map->powers[i] = mul_mod(map->powers[i - 1], BASE);
    }
    /* What plain text may become goes first, so that a control token of the same text does not
     * hide it. */
    for (int plain = 1; plain >= 0; plain--) {
        for (size_t id = 0; id < tokenizer->n_vocab; id++) {
            if (shoal_vocab_is_plain(tokenizer, (int32_t)id) == (plain == 1)) {
                SHOAL_TRY(insert(tokenizer, id, err));
            }
        }
    }
    return SHOAL_OK;
}

void shoal_vocab_map_fini(shoal_vocab_map *map)
{
    shoal_free(map->slots);
    shoal_free(map->powers);
    *map = (shoal_vocab_map){.slots = NULL, .powers = NULL, .mask = 0};
}
