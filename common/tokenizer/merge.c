/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy merging of neighbours, the heart of both SPM and BPE: of all pairs that may merge, the
 * most urgent one does, the leftmost among equals, until none is left. A short row is scanned; a
 * long one keeps its pairs in a binary heap over a linked list, so n symbols cost O(n log n).
 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    SCAN_MAX = 24 /* symbols up to which scanning beats the heap (measured on English text) */
};
static const uint32_t NO_SYMBOL = UINT32_MAX;
static const uint64_t NO_PAIR = UINT64_MAX;

/* Makes room for one more element of size bytes in *array. */
static shoal_status reserve(void **array, size_t n, size_t *capacity, size_t size)
{
    if (n < *capacity) {
        return SHOAL_OK;
    }
    size_t more = *capacity ? *capacity * 2 : 64;
    void *grown = shoal_realloc(*array, more, size);
    if (!grown) {
        return SHOAL_E_NOMEM;
    }
    *array = grown;
    *capacity = more;
    return SHOAL_OK;
}

shoal_status shoal_encoder_push_id(shoal_encoder *encoder, int32_t id)
{
    void *ids = encoder->ids;
    SHOAL_TRY(reserve(&ids, encoder->n_ids, &encoder->ids_capacity, sizeof(encoder->ids[0])));
    encoder->ids = ids;
    encoder->ids[encoder->n_ids++] = id;
    return SHOAL_OK;
}

shoal_status shoal_encoder_push_symbol(shoal_encoder *encoder, shoal_symbol symbol)
{
    void *symbols = encoder->symbols;
    SHOAL_TRY(reserve(&symbols, encoder->n_symbols, &encoder->symbols_capacity,
                      sizeof(encoder->symbols[0])));
    encoder->symbols = symbols;
    encoder->symbols[encoder->n_symbols++] = symbol;
    return SHOAL_OK;
}

static shoal_pair pair_of(const shoal_encoder *encoder, uint32_t left, uint32_t right)
{
    const shoal_symbol *a = &encoder->symbols[left];
    const shoal_symbol *b = &encoder->symbols[right];
    uint32_t priority = 0;
    int32_t id = -1;
    bool found = encoder->tokenizer->kind == SHOAL_VOCAB_SPM
                     ? shoal_spm_pair(encoder, a, b, &priority, &id)
                     : shoal_bpe_pair(encoder->tokenizer, a->id, b->id, &priority, &id);
    return (shoal_pair){.key = found ? (uint64_t)priority << 32 | left : NO_PAIR,
                        .length = a->length + b->length,
                        .id = id};
}

/* Left takes in its right neighbour and becomes token id. */
static void absorb(const shoal_encoder *encoder, shoal_symbol *left, const shoal_symbol *right,
                   int32_t id)
{
    if (encoder->tokenizer->kind == SHOAL_VOCAB_SPM) {
        left->hash =
            shoal_vocab_hash_join(&encoder->tokenizer->map, left->hash, right->hash, right->length);
    }
    left->length += right->length;
    left->id = id;
}

/* The short way. pairs[i] is that of symbols i and i + 1, always up to date. */
static void merge_scan(shoal_encoder *encoder)
{
    shoal_symbol *symbols = encoder->symbols;
    shoal_pair pairs[SCAN_MAX];
    size_t n = encoder->n_symbols;
    for (size_t i = 0; i + 1 < n; i++) {
        pairs[i] = pair_of(encoder, (uint32_t)i, (uint32_t)i + 1);
    }
    while (n > 1) {
        size_t best = 0;
        uint64_t best_key = NO_PAIR;
        for (size_t i = 0; i + 1 < n; i++) {
            /* Places shift as symbols go, so only the priority of the key is compared; the
             * first of equals is the leftmost. */
            uint64_t key = pairs[i].key >> 32;
            if (pairs[i].key != NO_PAIR && key < best_key) {
                best = i;
                best_key = key;
            }
        }
        if (best_key == NO_PAIR) {
            break;
        }
        absorb(encoder, &symbols[best], &symbols[best + 1], pairs[best].id);
        memmove(&symbols[best + 1], &symbols[best + 2], (n - best - 2) * sizeof(symbols[0]));
        n--;
        if (best + 1 < n) {
            memmove(&pairs[best + 1], &pairs[best + 2], (n - best - 2) * sizeof(pairs[0]));
            pairs[best] = pair_of(encoder, (uint32_t)best, (uint32_t)best + 1);
        }
        if (best > 0) {
            pairs[best - 1] = pair_of(encoder, (uint32_t)best - 1, (uint32_t)best);
        }
    }
    encoder->n_symbols = n;
}

static shoal_status heap_push(shoal_encoder *encoder, shoal_pair pair)
{
    void *heap = encoder->heap;
    SHOAL_TRY(reserve(&heap, encoder->n_heap, &encoder->heap_capacity, sizeof(encoder->heap[0])));
    encoder->heap = heap;
    size_t i = encoder->n_heap++;
    while (i > 0 && encoder->heap[(i - 1) / 2].key > pair.key) {
        encoder->heap[i] = encoder->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    encoder->heap[i] = pair;
    return SHOAL_OK;
}

static shoal_pair heap_pop(shoal_encoder *encoder)
{
    shoal_pair *heap = encoder->heap;
    shoal_pair top = heap[0];
    shoal_pair last = heap[--encoder->n_heap];
    size_t n = encoder->n_heap;
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && heap[child + 1].key < heap[child].key) {
            child++;
        }
        if (heap[child].key >= last.key) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    if (n > 0) {
        heap[i] = last;
    }
    return top;
}

static shoal_status consider(shoal_encoder *encoder, uint32_t left, uint32_t right)
{
    if (left == NO_SYMBOL || right == NO_SYMBOL) {
        return SHOAL_OK;
    }
    shoal_pair pair = pair_of(encoder, left, right);
    return pair.key == NO_PAIR ? SHOAL_OK : heap_push(encoder, pair);
}

/* Symbols keep their places while they merge; what is alive moves to the front at the end. */
static void compact(shoal_encoder *encoder)
{
    size_t n = 0;
    for (uint32_t i = 0; i != NO_SYMBOL; i = encoder->symbols[i].next) {
        uint32_t next = encoder->symbols[i].next;
        encoder->symbols[n] = encoder->symbols[i];
        /* The copy may stand where i was, so its link must stay. */
        encoder->symbols[i].next = next;
        n++;
    }
    encoder->n_symbols = n;
}

static shoal_status merge_heap(shoal_encoder *encoder)
{
    shoal_symbol *symbols = encoder->symbols;
    uint32_t n = (uint32_t)encoder->n_symbols;
    encoder->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].prev = i == 0 ? NO_SYMBOL : i - 1;
        symbols[i].next = i + 1 == n ? NO_SYMBOL : i + 1;
        SHOAL_TRY(consider(encoder, i, symbols[i].next));
    }
    while (encoder->n_heap > 0) {
        shoal_pair pair = heap_pop(encoder);
        uint32_t left_i = (uint32_t)(pair.key & UINT32_MAX);
        shoal_symbol *left = &symbols[left_i];
        /* An entry is stale when either side has changed since. Lengths only grow, so an equal
         * sum of two living neighbours means that neither has. */
        if (left->length == 0 || left->next == NO_SYMBOL ||
            left->length + symbols[left->next].length != pair.length) {
            continue;
        }
        shoal_symbol *right = &symbols[left->next];
        absorb(encoder, left, right, pair.id);
        right->length = 0;
        left->next = right->next;
        if (left->next != NO_SYMBOL) {
            symbols[left->next].prev = left_i;
        }
        SHOAL_TRY(consider(encoder, left->prev, left_i));
        SHOAL_TRY(consider(encoder, left_i, left->next));
    }
    compact(encoder);
    return SHOAL_OK;
}

shoal_status shoal_encoder_merge(shoal_encoder *encoder)
{
    SHOAL_ASSERT(encoder->n_symbols <= SHOAL_SEGMENT_MAX);
    if (encoder->n_symbols <= 1) {
        return SHOAL_OK;
    }
    if (encoder->n_symbols <= SCAN_MAX) {
        merge_scan(encoder);
        return SHOAL_OK;
    }
    return merge_heap(encoder);
}
