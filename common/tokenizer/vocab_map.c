/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <string.h>
#include <sys/random.h>

__extension__ typedef unsigned __int128 u128;

/* A Mersenne prime: reduction is a shift and an addition. */
#define PRIME ((UINT64_C(1) << 61) - 1)

/* Texts put into the map together: enough that their cache misses overlap. */
enum {
    INSERT_BATCH = 32
};

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

/* Both halves of the whole product: every bit of either side reaches every bit of the result. */
static uint64_t fold(uint64_t a, uint64_t b)
{
    u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t load64(const char *p)
{
    uint64_t x = 0;
    memcpy(&x, p, sizeof(x));
    return x;
}

static uint32_t load32(const char *p)
{
    uint32_t x = 0;
    memcpy(&x, p, sizeof(x));
    return x;
}

/* The first and the last bytes of up to 16, which may overlap; with the length they are the text.
 */
static void load_short(const char *p, size_t n, uint64_t *ret_head, uint64_t *ret_tail)
{
    if (n >= 8) {
        *ret_head = load64(p);
        *ret_tail = load64(p + n - 8);
    } else if (n >= 4) {
        *ret_head = load32(p);
        *ret_tail = load32(p + n - 4);
    } else if (n > 0) {
        *ret_head = (uint64_t)(uint8_t)p[0] << 8 | (uint8_t)p[n / 2];
        *ret_tail = (uint8_t)p[n - 1];
    } else {
        *ret_head = 0;
        *ret_tail = 0;
    }
}

uint64_t shoal_vocab_hash_bytes(const uint64_t keys[SHOAL_VOCAB_KEYS], const char *data, size_t n)
{
    uint64_t state = keys[0] ^ n;
    while (n > 16) {
        state = fold(load64(data) ^ keys[1], load64(data + 8) ^ state) + keys[2];
        data += 16;
        n -= 16;
    }
    uint64_t head = 0;
    uint64_t tail = 0;
    load_short(data, n, &head, &tail);
    return fold(fold(head ^ keys[1], tail ^ state), keys[3]);
}

uint64_t shoal_vocab_hash(const shoal_tokenizer *tokenizer, const char *data, size_t n)
{
    if (tokenizer->kind == SHOAL_VOCAB_BPE) {
        return shoal_vocab_hash_bytes(tokenizer->map.keys, data, n);
    }
    uint64_t base = tokenizer->map.keys[0];
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++) {
        /* One more than the byte, so that leading NULs count. */
        hash = add_mod(mul_mod(hash, base), (uint64_t)(uint8_t)data[i] + 1);
    }
    return hash;
}

uint64_t shoal_vocab_hash_join(const shoal_vocab_map *map, uint64_t left, uint64_t right,
                               size_t right_length)
{
    return add_mod(mul_mod(left, map->powers[right_length]), right);
}

/* Twice: numbers that follow each other leave one product side by side, in runs that meet. */
uint64_t shoal_vocab_hash_u64(const uint64_t keys[SHOAL_VOCAB_KEYS], uint64_t x)
{
    return fold(fold(x ^ keys[0], keys[1]) ^ keys[2], keys[3]);
}

/* Residues of neighbouring texts are a lattice, which a single product would map to rows lying on
 * each other; BPE's hash has been through two already. */
static uint64_t mix(const shoal_vocab_map *map, uint64_t hash)
{
    return map->powers ? fold(fold(hash ^ map->keys[1], map->keys[2]), map->keys[3]) : hash;
}

static bool slot_has(const shoal_tokenizer *tokenizer, const shoal_vocab_slot *slot, uint32_t tag,
                     shoal_str text)
{
    return slot->tag == tag && slot->length == text.length &&
           memcmp(tokenizer->texts + slot->offset, text.data, text.length) == 0;
}

/* Walks to the text or to the free slot where it belongs. NULL past the probe limit. */
static shoal_vocab_slot *probe(const shoal_tokenizer *tokenizer, uint64_t mixed, shoal_str text)
{
    const shoal_vocab_map *map = &tokenizer->map;
    uint32_t tag = (uint32_t)(mixed >> 32);
    size_t at = (size_t)mixed & map->mask;
    for (size_t i = 0; i < SHOAL_PROBES_MAX; i++) {
        shoal_vocab_slot *slot = &map->slots[at];
        if (slot->id == 0 || slot_has(tokenizer, slot, tag, text)) {
            return slot;
        }
        at = (at + 1) & map->mask;
    }
    return NULL;
}

int32_t shoal_vocab_find(const shoal_tokenizer *tokenizer, uint64_t hash, shoal_str text)
{
    const shoal_vocab_slot *slot = probe(tokenizer, mix(&tokenizer->map, hash), text);
    return slot ? (int32_t)slot->id - 1 : -1;
}

int32_t shoal_vocab_find_plain(const shoal_tokenizer *tokenizer, const char *data, size_t n)
{
    int32_t id = shoal_vocab_find(tokenizer, shoal_vocab_hash(tokenizer, data, n),
                                  (shoal_str){.data = data, .length = n});
    return id >= 0 && shoal_vocab_is_plain(tokenizer, id) ? id : -1;
}

static shoal_vocab_slot *first_slot(const shoal_tokenizer *tokenizer, uint64_t hash)
{
    const shoal_vocab_map *map = &tokenizer->map;
    return &map->slots[(size_t)mix(map, hash) & map->mask];
}

void shoal_vocab_prefetch_slot(const shoal_tokenizer *tokenizer, uint64_t hash)
{
    __builtin_prefetch(first_slot(tokenizer, hash));
}

void shoal_vocab_prefetch_text(const shoal_tokenizer *tokenizer, uint64_t hash)
{
    __builtin_prefetch(tokenizer->texts + first_slot(tokenizer, hash)->offset);
}

/* Of tokens with one text the lowest id stays. False past the probe limit. */
static bool insert(shoal_tokenizer *tokenizer, size_t id, uint64_t hash)
{
    uint64_t mixed = mix(&tokenizer->map, hash);
    shoal_vocab_slot *slot = probe(tokenizer, mixed, shoal_vocab_text(tokenizer, id));
    if (!slot) {
        return false;
    }
    if (slot->id != 0) {
        tokenizer->map.has_duplicates = true;
        return true;
    }
    *slot = (shoal_vocab_slot){.id = (uint32_t)id + 1,
                               .tag = (uint32_t)(mixed >> 32),
                               .offset = tokenizer->tokens[id].offset,
                               .length = tokenizer->tokens[id].length};
    return true;
}

/* Those of tokens [begin, end) that plain text may become, or the others. Empty texts can never be
 * met. */
static bool insert_batch(shoal_tokenizer *tokenizer, size_t begin, size_t end, bool plain)
{
    size_t ids[INSERT_BATCH];
    uint64_t hashes[INSERT_BATCH];
    size_t n = 0;
    for (size_t id = begin; id < end; id++) {
        shoal_str text = shoal_vocab_text(tokenizer, id);
        if (text.length > 0 && shoal_vocab_is_plain(tokenizer, (int32_t)id) == plain) {
            ids[n] = id;
            hashes[n] = shoal_vocab_hash(tokenizer, text.data, text.length);
            shoal_vocab_prefetch_slot(tokenizer, hashes[n]);
            n++;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (!insert(tokenizer, ids[i], hashes[i])) {
            return false;
        }
    }
    return true;
}

/* Without entropy the keys are what address randomisation gives. */
void shoal_vocab_keys_choose(uint64_t ret_keys[SHOAL_VOCAB_KEYS])
{
    size_t size = SHOAL_VOCAB_KEYS * sizeof(ret_keys[0]);
    if (getrandom(ret_keys, size, GRND_NONBLOCK) != (ssize_t)size) {
        for (size_t i = 0; i < SHOAL_VOCAB_KEYS; i++) {
            ret_keys[i] = ((uint64_t)(uintptr_t)ret_keys + i) * UINT64_C(0x9E3779B97F4A7C15);
        }
    }
    for (size_t i = 0; i < SHOAL_VOCAB_KEYS; i++) {
        ret_keys[i] |= 1;
    }
}

static void fill_powers(shoal_tokenizer *tokenizer)
{
    shoal_vocab_map *map = &tokenizer->map;
    map->keys[0] = map->keys[0] % (PRIME - 1) + 1;
    map->powers[0] = 1;
    for (size_t i = 1; i <= tokenizer->length_max; i++) {
        map->powers[i] = mul_mod(map->powers[i - 1], map->keys[0]);
    }
}

/* False: some look-up would take too long with these keys. */
static bool fill(shoal_tokenizer *tokenizer)
{
    /* What plain text may become goes first, so that a control token of the same text does not
     * hide it. */
    for (int plain = 1; plain >= 0; plain--) {
        for (size_t id = 0; id < tokenizer->n_vocab; id += INSERT_BATCH) {
            size_t end = SHOAL_MIN(id + INSERT_BATCH, tokenizer->n_vocab);
            if (!insert_batch(tokenizer, id, end, plain == 1)) {
                return false;
            }
        }
    }
    return true;
}

shoal_status shoal_vocab_map_init(shoal_tokenizer *tokenizer, shoal_err *err)
{
    shoal_vocab_map *map = &tokenizer->map;
    bool spm = tokenizer->kind == SHOAL_VOCAB_SPM;
    size_t n = tokenizer->n_vocab;
    size_t n_slots = 16;
    while (n_slots < n + n / 2) {
        n_slots *= 2;
    }
    map->mask = n_slots - 1;
    map->slots = shoal_calloc_huge(n_slots, sizeof(map->slots[0]));
    map->powers = spm ? shoal_calloc(tokenizer->length_max + 1, sizeof(map->powers[0])) : NULL;
    if (!map->slots || (spm && !map->powers)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu token texts", n);
    }
    for (int i = 0; i < SHOAL_VOCAB_REKEYS_MAX; i++) {
        shoal_vocab_keys_choose(map->keys);
        if (spm) {
            fill_powers(tokenizer);
        }
        if (fill(tokenizer)) {
            return SHOAL_OK;
        }
        memset(map->slots, 0, n_slots * sizeof(map->slots[0]));
        map->has_duplicates = false;
    }
    return shoal_err_set(err, SHOAL_E_LIMIT,
                         "tokenizer.ggml.tokens: more than %d texts collide under each of %d keys",
                         SHOAL_PROBES_MAX, SHOAL_VOCAB_REKEYS_MAX);
}

void shoal_vocab_map_fini(shoal_vocab_map *map)
{
    shoal_free(map->slots);
    shoal_free(map->powers);
    map->slots = NULL;
    map->powers = NULL;
}
