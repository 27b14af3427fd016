/* SPDX-License-Identifier: Apache-2.0
 *
 * What learning a vocabulary needs of texts: each distinct piece once, and how often it occurs.
 */
#include "common/tokenizer/train_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    TEXTS_FIRST = 256,
    /* The splitter takes a long text in parts of about so many bytes. */
    PART_BYTES = 1 << 20
};

void shoal_texts_fini(shoal_texts *texts)
{
    shoal_buf_fini(&texts->bytes);
    shoal_free(texts->begins);
    shoal_free(texts->slots);
    memset(texts, 0, sizeof(*texts));
}

shoal_str shoal_texts_at(const shoal_texts *texts, size_t i)
{
    return (shoal_str){.data = texts->bytes.data + texts->begins[i],
                       .length = texts->begins[i + 1] - texts->begins[i]};
}

/* The slot of a text, or the free one where it belongs. */
static uint32_t *find_slot(const shoal_texts *texts, shoal_str text)
{
    size_t slot = (size_t)shoal_vocab_hash_bytes(texts->keys, text.data, text.length) & texts->mask;
    for (;;) {
        uint32_t *found = &texts->slots[slot];
        if (*found == 0) {
            return found;
        }
        shoal_str there = shoal_texts_at(texts, *found - 1);
        if (there.length == text.length && memcmp(there.data, text.data, text.length) == 0) {
            return found;
        }
        slot = (slot + 1) & texts->mask;
    }
}

static shoal_status grow(shoal_texts *texts)
{
    size_t capacity = texts->capacity ? texts->capacity * 2 : TEXTS_FIRST;
    uint32_t *begins = shoal_realloc(texts->begins, capacity + 1, sizeof(begins[0]));
    if (!begins) {
        return SHOAL_E_NOMEM;
    }
    texts->begins = begins;
    uint32_t *slots = shoal_calloc(capacity * 2, sizeof(slots[0]));
    if (!slots) {
        return SHOAL_E_NOMEM;
    }
    if (texts->capacity == 0) {
        begins[0] = 0;
        shoal_vocab_keys_choose(texts->keys);
    }
    shoal_free(texts->slots);
    texts->slots = slots;
    texts->mask = capacity * 2 - 1;
    texts->capacity = capacity;
    for (size_t i = 0; i < texts->n; i++) {
        *find_slot(texts, shoal_texts_at(texts, i)) = (uint32_t)i + 1;
    }
    return SHOAL_OK;
}

shoal_status shoal_texts_put(shoal_texts *texts, shoal_str text, size_t *ret_i, bool *ret_new)
{
    if (texts->n == texts->capacity) {
        SHOAL_TRY(grow(texts));
    }
    uint32_t *slot = find_slot(texts, text);
    bool is_new = *slot == 0;
    if (is_new) {
        shoal_status status = shoal_buf_append(&texts->bytes, text.data, text.length);
        if (status != SHOAL_OK) {
            return status == SHOAL_E_LIMIT ? SHOAL_BUSY : status;
        }
        texts->begins[++texts->n] = (uint32_t)texts->bytes.length;
        *slot = (uint32_t)texts->n;
    }
    *ret_i = *slot - 1;
    *ret_new = is_new;
    return SHOAL_OK;
}

/* --- counting -------------------------------------------------------------------------------- */

/* A shoal_bpe_piece_fn whose context is a trainer. */
static shoal_status count_piece(void *ctx, shoal_str piece, bool loose)
{
    shoal_bpe_trainer *trainer = ctx;
    trainer->stats.n_bytes += trainer->weight * piece.length;
    trainer->stats.n_tokens += trainer->weight * piece.length;
    if (loose) {
        return SHOAL_OK; /* never merged, so nothing is to be learnt from it */
    }
    if (trainer->words.n == trainer->counts_capacity) {
        size_t capacity = trainer->counts_capacity ? trainer->counts_capacity * 2 : TEXTS_FIRST;
        uint64_t *counts = shoal_realloc(trainer->counts, capacity, sizeof(counts[0]));
        if (!counts) {
            return SHOAL_E_NOMEM;
        }
        trainer->counts = counts;
        trainer->counts_capacity = capacity;
    }
    size_t word = 0;
    bool is_new = false;
    SHOAL_TRY(shoal_texts_put(&trainer->words, piece, &word, &is_new));
    trainer->counts[word] = (is_new ? 0 : trainer->counts[word]) + trainer->weight;
    trainer->stats.n_words = trainer->words.n;
    return SHOAL_OK;
}

/* How many bytes of the text the splitter takes next. GPT-2's rule has no piece with white space
 * behind what is none, and looks back nowhere, so a cut between the two changes no piece. A text
 * without such a place within a part is cut where the part ends, which may divide one piece. */
static size_t part_of(shoal_str text)
{
    if (text.length <= PART_BYTES) {
        return text.length;
    }
    for (size_t cut = PART_BYTES; cut > 0; cut--) {
        char before = text.data[cut - 1];
        char after = text.data[cut];
        if (before > ' ' && before <= '~' && (after == ' ' || after == '\n')) {
            return cut;
        }
    }
    return PART_BYTES;
}

static shoal_status refuse_size(const shoal_bpe_trainer *trainer, shoal_str text, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_LIMIT,
                         "a text of %zu bytes beside %zu bytes, at most %d together: leave some "
                         "out, a vocabulary hardly changes with more",
                         text.length, trainer->text_bytes, SHOAL_BPE_TEXT_MAX);
}

shoal_status shoal_bpe_trainer_add(shoal_bpe_trainer *trainer, shoal_str text, uint64_t weight,
                                   shoal_err *err)
{
    SHOAL_ASSERT(!trainer->learnt);
    if (weight == 0 || weight > SHOAL_BPE_WEIGHT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "a text counts %llu times, but 1 to %d is allowed",
                             (unsigned long long)weight, SHOAL_BPE_WEIGHT_MAX);
    }
    if (text.length > SHOAL_BPE_TEXT_MAX - trainer->text_bytes) {
        return refuse_size(trainer, text, err);
    }
    trainer->text_bytes += text.length;
    trainer->weight = weight;
    shoal_bpe_walk walk = {
        .split = trainer->split, .match = trainer->match, .piece = count_piece, .ctx = trainer};
    while (text.length > 0) {
        shoal_str part = {.data = text.data, .length = part_of(text)};
        shoal_status status = shoal_bpe_walk_text(&walk, part, err);
        if (status == SHOAL_BUSY) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "the texts have more than %d bytes of distinct words: give fewer "
                                 "texts, or leave out what is not language",
                                 SHOAL_BPE_WORDS_MAX);
        }
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "counting the words of a text: %s",
                                 shoal_status_text(status));
        }
        text.data += part.length;
        text.length -= part.length;
    }
    return SHOAL_OK;
}
