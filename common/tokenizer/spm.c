/* SPDX-License-Identifier: Apache-2.0
 *
 * SPM: characters merge by the score of what they become (the BPE of sentencepiece; Kudo and
 * Richardson, "SentencePiece", 2018), spaces are written as U+2581, and a character without a
 * token falls back to its bytes.
 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"
#include "common/tokenizer/utf8.h"

#include <string.h>

static const char space_mark[3] = "\xE2\x96\x81"; /* U+2581 */
enum {
    NEIGHBOURS_BITS_MAX = 1 << 20
};

int shoal_spm_byte_of_text(shoal_str text)
{
    static const char digits[] = "0123456789ABCDEF0123456789abcdef";
    if (text.length != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') {
        return -1;
    }
    int value = 0;
    for (size_t i = 3; i < 5; i++) {
        const char *digit = text.data[i] ? strchr(digits, text.data[i]) : NULL;
        if (!digit) {
            return -1;
        }
        value = value * 16 + (int)((digit - digits) % 16);
    }
    return value;
}

/* The bytes of a character as one number. */
static uint32_t char_key(const char *p, size_t n)
{
    uint32_t key = 0;
    for (size_t i = 0; i < n; i++) {
        key = key << 8 | (uint8_t)p[i];
    }
    return key;
}

static uint64_t neighbours_bit(const shoal_tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    uint64_t x = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 29;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    return (x >> 32) & tokenizer->neighbours_mask;
}

/* False only when no token contains the two characters side by side: then no merge ever crosses
 * between them, and the text can be cut there without changing the result. */
static bool may_be_neighbours(const shoal_tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    uint64_t bit = neighbours_bit(tokenizer, left, right);
    return (tokenizer->neighbours[bit / 64] >> (bit % 64) & 1) != 0;
}

/* A character, or one byte of what is none: the unit both texts and tokens are made of. */
static size_t unit_length(const char *p, size_t n)
{
    shoal_utf8_part part = shoal_utf8_next(p, n);
    return part.state == SHOAL_UTF8_VALID ? part.length : 1;
}

shoal_status shoal_spm_init(shoal_tokenizer *tokenizer, shoal_err *err)
{
    uint64_t n_bits = 1024;
    while (n_bits < 4 * (uint64_t)tokenizer->texts_length && n_bits < NEIGHBOURS_BITS_MAX) {
        n_bits *= 2;
    }
    tokenizer->neighbours_mask = n_bits - 1;
    tokenizer->neighbours = shoal_calloc(n_bits / 64, sizeof(tokenizer->neighbours[0]));
    if (!tokenizer->neighbours) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the neighbours of characters");
    }
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        if (!shoal_vocab_is_plain(tokenizer, (int32_t)id)) {
            continue;
        }
        shoal_str text = shoal_vocab_text(tokenizer, id);
        uint32_t left = 0;
        for (size_t at = 0; at < text.length;) {
            size_t n = unit_length(text.data + at, text.length - at);
            uint32_t right = char_key(text.data + at, n);
            if (at > 0) {
                uint64_t bit = neighbours_bit(tokenizer, left, right);
                tokenizer->neighbours[bit / 64] |= UINT64_C(1) << (bit % 64);
            }
            left = right;
            at += n;
        }
    }
    return SHOAL_OK;
}

/* Floats in descending order as unsigned numbers in ascending order; NaN is refused at load. */
static uint32_t priority_of_score(float score)
{
    float normal = score + 0.0f; /* -0 becomes 0 */
    uint32_t bits = 0;
    memcpy(&bits, &normal, sizeof(bits));
    uint32_t ascending = bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
    return ~ascending;
}

bool shoal_spm_pair(const shoal_encoder *encoder, const shoal_symbol *left,
                    const shoal_symbol *right, uint32_t *ret_priority, int32_t *ret_id)
{
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    size_t length = (size_t)left->length + right->length;
    if (length > tokenizer->length_max) {
        return false;
    }
    uint64_t hash = shoal_vocab_hash_join(&tokenizer->map, left->hash, right->hash, right->length);
    int32_t id = shoal_vocab_find(
        tokenizer, hash, (shoal_str){.data = encoder->text + left->begin, .length = length});
    if (id < 0 || !shoal_vocab_is_plain(tokenizer, id)) {
        return false;
    }
    *ret_priority = priority_of_score(tokenizer->tokens[id].score);
    *ret_id = id;
    return true;
}

/* A character without a token becomes its bytes when each has a token, else the unknown token. */
static shoal_status emit_unknown(shoal_encoder *encoder, const char *p, size_t n)
{
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    for (size_t i = 0; i < n; i++) {
        if (tokenizer->byte_ids[(uint8_t)p[i]] < 0) {
            return shoal_encoder_push_id(encoder, tokenizer->unknown);
        }
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_encoder_push_id(encoder, tokenizer->byte_ids[(uint8_t)p[i]]));
    }
    return SHOAL_OK;
}

static shoal_status flush(shoal_encoder *encoder)
{
    SHOAL_TRY(shoal_encoder_merge(encoder));
    for (size_t i = 0; i < encoder->n_symbols; i++) {
        const shoal_symbol *symbol = &encoder->symbols[i];
        if (symbol->id >= 0) {
            SHOAL_TRY(shoal_encoder_push_id(encoder, symbol->id));
        } else {
            SHOAL_TRY(emit_unknown(encoder, encoder->text + symbol->begin, symbol->length));
        }
    }
    encoder->n_symbols = 0;
    encoder->text_length = 0;
    return SHOAL_OK;
}

static shoal_status append(shoal_encoder *encoder, const char *p, size_t n)
{
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    uint32_t key = char_key(p, n);
    if (encoder->n_symbols > 0 && (encoder->n_symbols == SHOAL_SEGMENT_MAX ||
                                   !may_be_neighbours(tokenizer, encoder->last_char, key))) {
        SHOAL_TRY(flush(encoder));
    }
    encoder->last_char = key;
    if (encoder->text_capacity - encoder->text_length < n) {
        size_t capacity = encoder->text_capacity ? encoder->text_capacity * 2 : 256;
        char *text = shoal_realloc(encoder->text, capacity, 1);
        if (!text) {
            return SHOAL_E_NOMEM;
        }
        encoder->text = text;
        encoder->text_capacity = capacity;
    }
    memcpy(encoder->text + encoder->text_length, p, n);
    shoal_symbol symbol = {.hash = shoal_vocab_hash(tokenizer, p, n),
                           .begin = (uint32_t)encoder->text_length,
                           .length = (uint32_t)n};
    symbol.id = shoal_vocab_find(tokenizer, symbol.hash, (shoal_str){.data = p, .length = n});
    if (symbol.id >= 0 && !shoal_vocab_is_plain(tokenizer, symbol.id)) {
        symbol.id = -1;
    }
    encoder->text_length += n;
    return shoal_encoder_push_symbol(encoder, symbol);
}

shoal_status shoal_spm_encode(shoal_encoder *encoder, const char *text, size_t n, bool space_prefix)
{
    if (space_prefix) {
        SHOAL_TRY(append(encoder, space_mark, sizeof(space_mark)));
    }
    for (size_t at = 0; at < n;) {
        if (text[at] == ' ') {
            SHOAL_TRY(append(encoder, space_mark, sizeof(space_mark)));
            at++;
            continue;
        }
        size_t length = unit_length(text + at, n - at);
        SHOAL_TRY(append(encoder, text + at, length));
        at += length;
    }
    return flush(encoder);
}
