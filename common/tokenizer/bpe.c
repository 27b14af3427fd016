/* SPDX-License-Identifier: Apache-2.0
 *
 * Byte-level BPE as GPT-2 does it (Radford et al., 2019, encoder.py): a regular expression cuts
 * the text into pieces, each byte of a piece is a symbol, and symbols merge by the rank of the
 * rule that joins them. Token texts write every byte as a printable character.
 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"
#include "common/tokenizer/utf8.h"

#include <string.h>

static const char merges_key[] = "tokenizer.ggml.merges";

/* Bytes that stand for themselves; the other 68 are U+0100 onwards, in order. */
static bool is_itself(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* How many bytes below this one are not themselves. */
static unsigned n_shifted_below(unsigned byte)
{
    if (byte <= 33) {
        return byte;
    }
    if (byte <= 126) {
        return 33;
    }
    return byte <= 161 ? 33 + byte - 127 : 67;
}

size_t shoal_bpe_char_of_byte(uint8_t byte, char ret_char[2])
{
    unsigned code_point = is_itself(byte) ? byte : 256 + n_shifted_below(byte);
    if (code_point < 0x80) {
        ret_char[0] = (char)code_point;
        return 1;
    }
    ret_char[0] = (char)(0xC0 | code_point >> 6);
    ret_char[1] = (char)(0x80 | (code_point & 0x3F));
    return 2;
}

int shoal_bpe_byte_of_char(uint32_t code_point)
{
    if (code_point < 256) {
        return is_itself(code_point) ? (int)code_point : -1;
    }
    uint32_t shifted = code_point - 256;
    if (shifted < 33) {
        return (int)shifted;
    }
    if (shifted < 67) {
        return (int)(shifted - 33 + 127);
    }
    return shifted == 67 ? 173 : -1;
}

static uint64_t merge_hash(uint64_t pair)
{
    uint64_t x = pair * UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 32;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    return x >> 29;
}

/* Walks to the rule or to the free slot where it belongs. NULL past the probe limit. */
static shoal_merge_slot *merge_probe(const shoal_tokenizer *tokenizer, uint64_t pair)
{
    size_t slot = (size_t)merge_hash(pair) & tokenizer->merges_mask;
    for (size_t i = 0; i < SHOAL_PROBES_MAX; i++) {
        shoal_merge_slot *found = &tokenizer->merges[slot];
        if (found->rank == 0 || found->pair == pair) {
            return found;
        }
        slot = (slot + 1) & tokenizer->merges_mask;
    }
    return NULL;
}

static uint64_t pair_of_ids(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

bool shoal_bpe_pair(const shoal_tokenizer *tokenizer, int32_t left, int32_t right,
                    uint32_t *ret_priority, int32_t *ret_id)
{
    const shoal_merge_slot *slot = merge_probe(tokenizer, pair_of_ids(left, right));
    if (!slot || slot->rank == 0) {
        return false;
    }
    *ret_priority = slot->rank - 1;
    *ret_id = slot->id;
    return true;
}

/* A rule cut in two, with the hashes of its left side, right side and whole. */
typedef struct merge_rule {
    shoal_str left;
    shoal_str right;
    uint64_t hashes[3];
} merge_rule;

/* Rules looked up together: enough that their cache misses overlap. */
enum {
    MERGE_BATCH = 32
};

static shoal_status read_merge(const shoal_tokenizer *tokenizer, size_t i, shoal_str text,
                               merge_rule *ret_rule, shoal_err *err)
{
    const char *space = text.length < 3 ? NULL : memchr(text.data + 1, ' ', text.length - 2);
    if (!space) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s[%zu]: not two texts with a space between them", merges_key, i);
    }
    shoal_str left = {.data = text.data, .length = (size_t)(space - text.data)};
    shoal_str right = {.data = space + 1, .length = text.length - left.length - 1};
    if (left.length + right.length > tokenizer->length_max) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s[%zu]: what it makes is not a token",
                             merges_key, i);
    }
    uint64_t left_hash = shoal_vocab_hash(left.data, left.length);
    uint64_t right_hash = shoal_vocab_hash(right.data, right.length);
    *ret_rule = (merge_rule){
        .left = left,
        .right = right,
        .hashes = {left_hash, right_hash,
                   shoal_vocab_hash_join(&tokenizer->map, left_hash, right_hash, right.length)}};
    return SHOAL_OK;
}

static shoal_status add_merge(shoal_tokenizer *tokenizer, size_t i, const merge_rule *rule,
                              shoal_err *err)
{
    shoal_str none = {.data = "", .length = 0};
    int32_t left = shoal_vocab_find(tokenizer, rule->hashes[0], rule->left, none);
    int32_t right = shoal_vocab_find(tokenizer, rule->hashes[1], rule->right, none);
    int32_t id = shoal_vocab_find(tokenizer, rule->hashes[2], rule->left, rule->right);
    if (left < 0 || right < 0 || id < 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s[%zu]: %s is not a token", merges_key, i,
                             left < 0    ? "its left side"
                             : right < 0 ? "its right side"
                                         : "what it makes");
    }
    if (!shoal_vocab_is_plain(tokenizer, id)) {
        return SHOAL_OK; /* plain text must never become a control token */
    }
    shoal_merge_slot *slot = merge_probe(tokenizer, pair_of_ids(left, right));
    if (!slot) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s[%zu]: more than %d rules collide; the file is damaged or crafted",
                             merges_key, i, SHOAL_PROBES_MAX);
    }
    if (slot->rank == 0) {
        *slot =
            (shoal_merge_slot){.pair = pair_of_ids(left, right), .rank = (uint32_t)i + 1, .id = id};
    }
    return SHOAL_OK;
}

/* Rules [begin, begin + n). */
static shoal_status add_batch(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, size_t begin,
                              size_t n, shoal_hasher *hasher, shoal_err *err)
{
    merge_rule batch[MERGE_BATCH];
    for (size_t i = 0; i < n; i++) {
        shoal_str text = shoal_gguf_array_str(gguf, merges_key, begin + i);
        shoal_hasher_update_field(hasher, text.data, text.length);
        SHOAL_TRY(read_merge(tokenizer, begin + i, text, &batch[i], err));
        shoal_vocab_prefetch(tokenizer, batch[i].hashes, SHOAL_COUNT(batch[i].hashes), 0);
    }
    for (int depth = 1; depth < 3; depth++) {
        for (size_t i = 0; i < n; i++) {
            shoal_vocab_prefetch(tokenizer, batch[i].hashes, SHOAL_COUNT(batch[i].hashes), depth);
        }
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(add_merge(tokenizer, begin + i, &batch[i], err));
    }
    return SHOAL_OK;
}

static shoal_status load_merges(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                                shoal_hasher *hasher, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_STRING;
    size_t n = 0;
    bool present = false;
    SHOAL_TRY(shoal_vocab_array(gguf, merges_key, &element, &n, &present, err));
    if (!present) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s is missing: \"gpt2\" needs it", merges_key);
    }
    if (element != SHOAL_GGUF_STRING) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s is not an array of strings", merges_key);
    }
    if (n > SHOAL_MERGES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s has %zu rules, at most %d", merges_key, n,
                             SHOAL_MERGES_MAX);
    }
    size_t n_slots = 16;
    while (n_slots < 2 * n) {
        n_slots *= 2;
    }
    tokenizer->merges_mask = n_slots - 1;
    tokenizer->merges = shoal_calloc(n_slots, sizeof(tokenizer->merges[0]));
    if (!tokenizer->merges) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu merge rules", n);
    }
    for (size_t i = 0; i < n; i += MERGE_BATCH) {
        size_t n_batch = SHOAL_MIN(n - i, (size_t)MERGE_BATCH);
        SHOAL_TRY(add_batch(tokenizer, gguf, i, n_batch, hasher, err));
    }
    return SHOAL_OK;
}

shoal_status shoal_bpe_init(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                            shoal_hasher *hasher, shoal_err *err)
{
    shoal_str pre = {.data = "default", .length = 7};
    shoal_status status = shoal_gguf_get_str(gguf, "tokenizer.ggml.pre", &pre, NULL);
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        return shoal_gguf_get_str(gguf, "tokenizer.ggml.pre", &pre, err);
    }
    SHOAL_TRY(shoal_bpe_split_new(pre, &tokenizer->split, &tokenizer->pre,
                                  &tokenizer->ignore_merges, err));
    return load_merges(tokenizer, gguf, hasher, err);
}

/* The token whose text is the whole piece, or -1. */
static int32_t whole_piece(const shoal_tokenizer *tokenizer, const char *piece, size_t n)
{
    char text[512];
    size_t length = 0;
    if (n > sizeof(text) / 2) {
        return -1; /* no vocabulary has words of this length; the merges make them if one does */
    }
    for (size_t i = 0; i < n; i++) {
        length += shoal_bpe_char_of_byte((uint8_t)piece[i], text + length);
    }
    if (length > tokenizer->length_max) {
        return -1;
    }
    int32_t id = shoal_vocab_find(tokenizer, shoal_vocab_hash(text, length),
                                  (shoal_str){.data = text, .length = length},
                                  (shoal_str){.data = "", .length = 0});
    return id >= 0 && shoal_vocab_is_plain(tokenizer, id) ? id : -1;
}

static shoal_status encode_piece(shoal_encoder *encoder, const char *piece, size_t n)
{
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->ignore_merges) {
        int32_t id = whole_piece(tokenizer, piece, n);
        if (id >= 0) {
            return shoal_encoder_push_id(encoder, id);
        }
    }
    encoder->n_symbols = 0;
    for (size_t i = 0; i < n; i++) {
        shoal_symbol symbol = {.length = 1, .id = shoal_vocab_byte(tokenizer, (uint8_t)piece[i])};
        SHOAL_TRY(shoal_encoder_push_symbol(encoder, symbol));
    }
    SHOAL_TRY(shoal_encoder_merge(encoder));
    for (size_t i = 0; i < encoder->n_symbols; i++) {
        SHOAL_TRY(shoal_encoder_push_id(encoder, encoder->symbols[i].id));
    }
    return SHOAL_OK;
}

/* text is valid UTF-8. */
static shoal_status encode_valid(shoal_encoder *encoder, const char *text, size_t n, shoal_err *err)
{
    for (size_t at = 0; at < n;) {
        size_t length = 0;
        SHOAL_TRY(shoal_bpe_split_next(encoder->tokenizer->split, encoder->match, text, n, at,
                                       &length, err));
        for (size_t done = 0; done < length;) {
            size_t part = SHOAL_MIN(length - done, (size_t)SHOAL_SEGMENT_MAX);
            SHOAL_TRY(encode_piece(encoder, text + at + done, part));
            done += part;
        }
        at += length;
    }
    return SHOAL_OK;
}

shoal_status shoal_bpe_encode(shoal_encoder *encoder, const char *text, size_t n, shoal_err *err)
{
    if (!encoder->match) {
        SHOAL_TRY(shoal_bpe_match_new(encoder->tokenizer->split, &encoder->match));
    }
    size_t valid_from = 0;
    for (size_t at = 0; at < n;) {
        shoal_utf8_part part = shoal_utf8_next(text + at, n - at);
        if (part.state == SHOAL_UTF8_VALID) {
            at += part.length;
            continue;
        }
        SHOAL_TRY(encode_valid(encoder, text + valid_from, at - valid_from, err));
        for (size_t i = 0; i < part.length; i++) {
            int32_t id = shoal_vocab_byte(encoder->tokenizer, (uint8_t)text[at + i]);
            SHOAL_TRY(shoal_encoder_push_id(encoder, id));
        }
        at += part.length;
        valid_from = at;
    }
    return encode_valid(encoder, text + valid_from, n - valid_from, err);
}
