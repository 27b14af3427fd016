/* SPDX-License-Identifier: Apache-2.0
 *
 * Learning the merges. A site is in the list of the pair it begins and in no other, so a merge
 * walks over exactly the places that it changes, and all merges together cost O(n log n) for n
 * bytes of distinct words. A pair gets its sites in the one pass that makes the later of its sides:
 * from then on it only loses some. So its count in the heap is never too low; what is too high goes
 * back with the count it has (lazy deletion), and a pair that counts too little is forgotten at
 * once.
 */
#include "common/tokenizer/train_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    BYTES = 256,
    PAIRS_FIRST = 1024
};

static size_t length_of(const shoal_bpe_trainer *trainer, int32_t id)
{
    return trainer->tokens.begins[id + 1] - trainer->tokens.begins[id];
}

static uint32_t site_after(const shoal_bpe_trainer *trainer, uint32_t i)
{
    return i + (uint32_t)length_of(trainer, trainer->sites[i].id);
}

/* --- the heap of candidates ------------------------------------------------------------------ */

/* Of equals the lower pair comes first, so that the result does not depend on any order of work. */
static bool comes_before(const shoal_candidate *a, const shoal_candidate *b)
{
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

/* A pair is in the heap at most once, so there is room. */
static void heap_push(shoal_bpe_trainer *trainer, shoal_candidate candidate)
{
    SHOAL_ASSERT(trainer->n_heap < trainer->pairs_capacity);
    shoal_candidate *heap = trainer->heap;
    size_t i = trainer->n_heap++;
    while (i > 0 && comes_before(&candidate, &heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = candidate;
}

static shoal_candidate heap_pop(shoal_bpe_trainer *trainer)
{
    shoal_candidate *heap = trainer->heap;
    shoal_candidate top = heap[0];
    shoal_candidate last = heap[--trainer->n_heap];
    size_t n = trainer->n_heap;
    size_t i = 0;
    for (size_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && comes_before(&heap[child + 1], &heap[child])) {
            child++;
        }
        if (!comes_before(&heap[child], &last)) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* --- pairs and their sites ------------------------------------------------------------------- */

static shoal_status grow_array(void **array, size_t n, size_t size)
{
    void *grown = shoal_realloc(*array, n, size);
    if (!grown) {
        return SHOAL_E_NOMEM;
    }
    *array = grown;
    return SHOAL_OK;
}

static shoal_status grow_pairs(shoal_bpe_trainer *trainer)
{
    size_t capacity = trainer->pairs_capacity ? trainer->pairs_capacity * 2 : PAIRS_FIRST;
    void *pairs = trainer->pairs;
    void *heap = trainer->heap;
    void *fresh = trainer->fresh;
    shoal_status status = grow_array(&pairs, capacity, sizeof(trainer->pairs[0]));
    trainer->pairs = pairs;
    if (status == SHOAL_OK) {
        status = grow_array(&heap, capacity, sizeof(trainer->heap[0]));
        trainer->heap = heap;
    }
    if (status == SHOAL_OK) {
        status = grow_array(&fresh, capacity, sizeof(trainer->fresh[0]));
        trainer->fresh = fresh;
    }
    if (status == SHOAL_OK) {
        trainer->pairs_capacity = capacity;
    }
    return status;
}

static shoal_status new_pair(shoal_bpe_trainer *trainer, int32_t left, int32_t right,
                             uint32_t *ret_pair)
{
    uint32_t pair = trainer->unused;
    if (pair != SHOAL_NO_PAIR) {
        trainer->unused = trainer->pairs[pair].oldest;
    } else {
        if (trainer->n_pairs == trainer->pairs_capacity) {
            SHOAL_TRY(grow_pairs(trainer));
        }
        pair = (uint32_t)trainer->n_pairs++;
    }
    trainer->pairs[pair] = (shoal_bpe_pair_list){
        .left = left, .right = right, .oldest = SHOAL_NO_SITE, .newest = SHOAL_NO_SITE};
    trainer->fresh[trainer->n_fresh++] = pair;
    *ret_pair = pair;
    return SHOAL_OK;
}

/* Where the number of a fresh pair is kept. */
static uint32_t *fresh_slot(shoal_bpe_trainer *trainer, int32_t left, int32_t right)
{
    if (trainer->made < 0) {
        return &trainer->by_left[(size_t)left * BYTES + (size_t)right];
    }
    return right == trainer->made ? &trainer->by_left[left] : &trainer->by_right[right];
}

static void unlink_site(shoal_bpe_trainer *trainer, uint32_t i)
{
    shoal_site *site = &trainer->sites[i];
    if (site->pair == SHOAL_NO_PAIR) {
        return;
    }
    shoal_bpe_pair_list *pair = &trainer->pairs[site->pair];
    *(site->older == SHOAL_NO_SITE ? &pair->oldest : &trainer->sites[site->older].newer) =
        site->newer;
    *(site->newer == SHOAL_NO_SITE ? &pair->newest : &trainer->sites[site->newer].older) =
        site->older;
    pair->count -= trainer->counts[site->word];
    site->pair = SHOAL_NO_PAIR;
}

/* The symbol at site i and its right neighbour are a pair now, unless they may not merge. */
static shoal_status link_site(shoal_bpe_trainer *trainer, uint32_t i)
{
    shoal_site *site = &trainer->sites[i];
    if (site->id < 0) {
        return SHOAL_OK;
    }
    int32_t right = trainer->sites[site_after(trainer, i)].id;
    if (right < 0 ||
        length_of(trainer, site->id) + length_of(trainer, right) > trainer->settings.length_max) {
        return SHOAL_OK;
    }
    uint32_t *slot = fresh_slot(trainer, site->id, right);
    if (*slot == SHOAL_NO_PAIR) {
        SHOAL_TRY(new_pair(trainer, site->id, right, slot));
    }
    shoal_bpe_pair_list *pair = &trainer->pairs[*slot];
    site->pair = *slot;
    site->older = pair->newest;
    site->newer = SHOAL_NO_SITE;
    *(pair->newest == SHOAL_NO_SITE ? &pair->oldest : &trainer->sites[pair->newest].newer) = i;
    pair->newest = i;
    pair->count += trainer->counts[site->word];
    return SHOAL_OK;
}

/* The pair will not merge. */
static void forget_pair(shoal_bpe_trainer *trainer, uint32_t pair)
{
    for (uint32_t i = trainer->pairs[pair].oldest; i != SHOAL_NO_SITE;) {
        trainer->sites[i].pair = SHOAL_NO_PAIR;
        i = trainer->sites[i].newer;
    }
    trainer->pairs[pair].oldest = trainer->unused;
    trainer->unused = pair;
}

static void offer(shoal_bpe_trainer *trainer, uint32_t i)
{
    const shoal_bpe_pair_list *pair = &trainer->pairs[i];
    if (pair->count < trainer->settings.count_min) {
        forget_pair(trainer, i);
        return;
    }
    heap_push(trainer, (shoal_candidate){.count = pair->count,
                                         .key = (uint64_t)pair->left << 32 | (uint64_t)pair->right,
                                         .pair = i});
}

/* Fresh pairs have all their sites: what counts enough may merge. */
static void settle(shoal_bpe_trainer *trainer)
{
    for (size_t i = 0; i < trainer->n_fresh; i++) {
        const shoal_bpe_pair_list *pair = &trainer->pairs[trainer->fresh[i]];
        *fresh_slot(trainer, pair->left, pair->right) = SHOAL_NO_PAIR;
    }
    for (size_t i = 0; i < trainer->n_fresh; i++) {
        offer(trainer, trainer->fresh[i]);
    }
    trainer->n_fresh = 0;
}

/* --- learning -------------------------------------------------------------------------------- */

/* Every byte of every word is a symbol, with a boundary before and behind each word. */
static shoal_status lay_out(shoal_bpe_trainer *trainer)
{
    const shoal_texts *words = &trainer->words;
    trainer->n_sites = words->bytes.length + words->n + 1;
    trainer->sites = shoal_calloc(trainer->n_sites, sizeof(trainer->sites[0]));
    if (!trainer->sites) {
        return SHOAL_E_NOMEM;
    }
    uint32_t at = 0;
    trainer->sites[at] = (shoal_site){.id = -1, .pair = SHOAL_NO_PAIR};
    for (size_t word = 0; word < words->n; word++) {
        shoal_str text = shoal_texts_at(words, word);
        for (size_t i = 0; i <= text.length; i++) {
            int32_t id = i < text.length ? (uint8_t)text.data[i] : -1;
            trainer->sites[at + 1] =
                (shoal_site){.id = id, .before = at, .pair = SHOAL_NO_PAIR, .word = (uint32_t)word};
            at++;
        }
    }
    for (uint32_t i = 0; i < trainer->n_sites; i++) {
        SHOAL_TRY(link_site(trainer, i));
    }
    settle(trainer);
    return SHOAL_OK;
}

static shoal_status prepare(shoal_bpe_trainer *trainer)
{
    size_t n_vocab = trainer->settings.n_vocab;
    size_t n_table = SHOAL_MAX(n_vocab, (size_t)BYTES * BYTES);
    trainer->by_left = shoal_calloc(n_table, sizeof(trainer->by_left[0]));
    trainer->by_right = shoal_calloc(n_vocab, sizeof(trainer->by_right[0]));
    trainer->rules = shoal_calloc(n_vocab, sizeof(trainer->rules[0]));
    if (!trainer->by_left || !trainer->by_right || !trainer->rules) {
        return SHOAL_E_NOMEM;
    }
    memset(trainer->by_left, 0xFF, n_table * sizeof(trainer->by_left[0]));
    memset(trainer->by_right, 0xFF, n_vocab * sizeof(trainer->by_right[0]));
    for (unsigned byte = 0; byte < BYTES; byte++) {
        char c = (char)byte;
        size_t id = 0;
        bool is_new = false;
        SHOAL_TRY(
            shoal_texts_put(&trainer->tokens, (shoal_str){.data = &c, .length = 1}, &id, &is_new));
        SHOAL_ASSERT(is_new && id == byte);
    }
    return lay_out(trainer);
}

/* The token that a pair makes; *ret_new false: another pair makes it already. */
static shoal_status make_token(shoal_bpe_trainer *trainer, shoal_merge_rule rule, bool *ret_new)
{
    char text[SHOAL_BPE_LENGTH_MAX];
    shoal_str left = shoal_texts_at(&trainer->tokens, (size_t)rule.left);
    shoal_str right = shoal_texts_at(&trainer->tokens, (size_t)rule.right);
    memcpy(text, left.data, left.length);
    memcpy(text + left.length, right.data, right.length);
    shoal_str joined = {.data = text, .length = left.length + right.length};
    size_t id = 0;
    SHOAL_TRY(shoal_texts_put(&trainer->tokens, joined, &id, ret_new));
    if (*ret_new) {
        trainer->made = (int32_t)id;
        trainer->rules[trainer->n_rules++] = rule;
    }
    return SHOAL_OK;
}

/* Wherever the pair occurs, from left to right, its symbols become the token just made. */
static shoal_status merge(shoal_bpe_trainer *trainer, uint32_t pair)
{
    while (trainer->pairs[pair].oldest != SHOAL_NO_SITE) {
        uint32_t left = trainer->pairs[pair].oldest;
        uint32_t right = site_after(trainer, left);
        uint32_t after = site_after(trainer, right);
        uint32_t before = trainer->sites[left].before;
        unlink_site(trainer, before);
        unlink_site(trainer, left);
        unlink_site(trainer, right);
        trainer->sites[left].id = trainer->made;
        trainer->sites[right].id = -1;
        trainer->sites[after].before = left;
        trainer->stats.n_tokens -= trainer->counts[trainer->sites[left].word];
        SHOAL_TRY(link_site(trainer, before));
        SHOAL_TRY(link_site(trainer, left));
    }
    forget_pair(trainer, pair);
    return SHOAL_OK;
}

shoal_status shoal_bpe_learn(shoal_bpe_trainer *trainer, shoal_err *err)
{
    size_t n_rules_max = trainer->settings.n_vocab - SHOAL_BPE_VOCAB_MIN;
    shoal_status status = prepare(trainer);
    while (status == SHOAL_OK && trainer->n_heap > 0 && trainer->n_rules < n_rules_max) {
        shoal_candidate best = heap_pop(trainer);
        const shoal_bpe_pair_list *pair = &trainer->pairs[best.pair];
        if (pair->count < best.count) {
            offer(trainer, best.pair);
            continue;
        }
        shoal_merge_rule rule = {.left = pair->left, .right = pair->right};
        bool is_new = false;
        status = make_token(trainer, rule, &is_new);
        if (status == SHOAL_OK && is_new) {
            trainer->stats.last_count = best.count;
            status = merge(trainer, best.pair);
            settle(trainer);
        } else if (status == SHOAL_OK) {
            forget_pair(trainer, best.pair);
        }
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "learning from %zu words of %zu bytes: %s",
                             trainer->words.n, trainer->words.bytes.length,
                             shoal_status_text(status));
    }
    return SHOAL_OK;
}
