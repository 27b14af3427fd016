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

bool shoal_bpe_is_as_written(shoal_str text)
{
    for (size_t i = 0; i < text.length; i++) {
        if ((uint8_t)text.data[i] >= 0x80 || !is_itself((uint8_t)text.data[i])) {
            return false;
        }
    }
    return true;
}

int shoal_bpe_byte_of_text(shoal_str text)
{
    uint8_t first = (uint8_t)text.data[0];
    if (text.length == 1) {
        return first < 0x80 ? shoal_bpe_byte_of_char(first) : -1;
    }
    shoal_utf8_part part = shoal_utf8_next(text.data, text.length);
    if (text.length != 2 || part.state != SHOAL_UTF8_VALID || part.length != 2) {
        return -1;
    }
    return shoal_bpe_byte_of_char((uint32_t)(first & 0x1F) << 6 | ((uint8_t)text.data[1] & 0x3F));
}

static size_t merge_slot(const shoal_tokenizer *tokenizer, uint64_t pair)
{
    return (size_t)shoal_vocab_hash_u64(tokenizer->merges_keys, pair) & tokenizer->merges_mask;
}

/* Walks to the rule or to the free slot where it belongs. NULL past the probe limit. */
static shoal_merge_slot *merge_probe(const shoal_tokenizer *tokenizer, uint64_t pair)
{
    size_t slot = merge_slot(tokenizer, pair);
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

/* A rule cut in two, with the hashes of its sides, and then with what it says. */
typedef struct merge_rule {
    shoal_str left;
    shoal_str right;
    uint64_t left_hash;
    uint64_t right_hash;
    uint64_t pair;
    int32_t id;
} merge_rule;

/* Rules looked up together: enough that their cache misses overlap. */
enum {
    MERGE_BATCH = 64
};

/* Reading the rules. */
typedef struct merge_reader {
    shoal_tokenizer *tokenizer;
    char *joined;    /* room for the longest text */
    int32_t last_id; /* what the rule before this one makes */
    shoal_err *err;
} merge_reader;

static shoal_status read_merge(const merge_reader *reader, size_t i, shoal_str text,
                               merge_rule *ret_rule)
{
    const shoal_tokenizer *tokenizer = reader->tokenizer;
    const char *space = text.length < 3 ? NULL : memchr(text.data + 1, ' ', text.length - 2);
    if (!space) {
        return shoal_err_set(reader->err, SHOAL_E_INVALID,
                             "%s[%zu]: not two texts with a space between them", merges_key, i);
    }
    shoal_str left = {.data = text.data, .length = (size_t)(space - text.data)};
    shoal_str right = {.data = space + 1, .length = text.length - left.length - 1};
    if (left.length + right.length > tokenizer->length_max) {
        return shoal_err_set(reader->err, SHOAL_E_INVALID, "%s[%zu]: what it makes is not a token",
                             merges_key, i);
    }
    *ret_rule = (merge_rule){.left = left,
                             .right = right,
                             .left_hash = shoal_vocab_hash(tokenizer, left.data, left.length),
                             .right_hash = shoal_vocab_hash(tokenizer, right.data, right.length)};
    return SHOAL_OK;
}

static bool makes(const shoal_tokenizer *tokenizer, const merge_rule *rule, int32_t id)
{
    if (id < 0 || (size_t)id >= tokenizer->n_vocab) {
        return false;
    }
    shoal_str text = shoal_vocab_text(tokenizer, (size_t)id);
    size_t left = rule->left.length;
    return text.length == left + rule->right.length &&
           memcmp(text.data, rule->left.data, left) == 0 &&
           memcmp(text.data + left, rule->right.data, rule->right.length) == 0;
}

/* Vocabularies are written in the order of their rules, so what a rule makes is nearly always the
 * token of the rule before or the one after that; only the rest is looked up. */
static int32_t find_made(const merge_reader *reader, const merge_rule *rule)
{
    const shoal_tokenizer *tokenizer = reader->tokenizer;
    if (!tokenizer->map.has_duplicates) {
        for (int32_t id = reader->last_id; id <= reader->last_id + 1; id++) {
            if (makes(tokenizer, rule, id)) {
                return id;
            }
        }
    }
    size_t left = rule->left.length;
    shoal_str joined = {.data = reader->joined, .length = left + rule->right.length};
    memcpy(reader->joined, rule->left.data, left);
    memcpy(reader->joined + left, rule->right.data, rule->right.length);
    return shoal_vocab_find(tokenizer, shoal_vocab_hash(tokenizer, joined.data, joined.length),
                            joined);
}

static shoal_status resolve(merge_reader *reader, size_t i, merge_rule *rule)
{
    const shoal_tokenizer *tokenizer = reader->tokenizer;
    int32_t left = shoal_vocab_find(tokenizer, rule->left_hash, rule->left);
    int32_t right = shoal_vocab_find(tokenizer, rule->right_hash, rule->right);
    rule->id = find_made(reader, rule);
    if (left < 0 || right < 0 || rule->id < 0) {
        return shoal_err_set(reader->err, SHOAL_E_INVALID, "%s[%zu]: %s is not a token", merges_key,
                             i,
                             left < 0    ? "its left side"
                             : right < 0 ? "its right side"
                                         : "what it makes");
    }
    reader->last_id = rule->id;
    rule->pair = pair_of_ids(left, right);
    __builtin_prefetch(&tokenizer->merges[merge_slot(tokenizer, rule->pair)]);
    return SHOAL_OK;
}

/* SHOAL_EOF: some look-up would take too long with these keys. */
static shoal_status add_merge(const merge_reader *reader, size_t i, const merge_rule *rule)
{
    if (!shoal_vocab_is_plain(reader->tokenizer, rule->id)) {
        return SHOAL_OK; /* plain text must never become a control token */
    }
    shoal_merge_slot *slot = merge_probe(reader->tokenizer, rule->pair);
    if (!slot) {
        return SHOAL_EOF;
    }
    if (slot->rank == 0) {
        *slot = (shoal_merge_slot){.pair = rule->pair, .rank = (uint32_t)i + 1, .id = rule->id};
    }
    return SHOAL_OK;
}

/* Rules [begin, begin + n). */
static shoal_status add_batch(merge_reader *reader, const shoal_gguf *gguf, size_t begin, size_t n)
{
    merge_rule batch[MERGE_BATCH];
    shoal_str texts[MERGE_BATCH];
    shoal_gguf_array_strs(gguf, merges_key, begin, n, texts);
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(read_merge(reader, begin + i, texts[i], &batch[i]));
        shoal_vocab_prefetch_slot(reader->tokenizer, batch[i].left_hash);
        shoal_vocab_prefetch_slot(reader->tokenizer, batch[i].right_hash);
    }
    for (size_t i = 0; i < n; i++) {
        shoal_vocab_prefetch_text(reader->tokenizer, batch[i].left_hash);
        shoal_vocab_prefetch_text(reader->tokenizer, batch[i].right_hash);
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(resolve(reader, begin + i, &batch[i]));
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(add_merge(reader, begin + i, &batch[i]));
    }
    return SHOAL_OK;
}

static shoal_status add_all(merge_reader *reader, const shoal_gguf *gguf, size_t n)
{
    reader->last_id = 0;
    for (size_t i = 0; i < n; i += MERGE_BATCH) {
        SHOAL_TRY(add_batch(reader, gguf, i, SHOAL_MIN(n - i, (size_t)MERGE_BATCH)));
    }
    return SHOAL_OK;
}

static shoal_status check_merges(const shoal_gguf *gguf, size_t *ret_n, shoal_err *err)
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
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status load_merges(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                                shoal_hasher *hasher, shoal_err *err)
{
    size_t n = 0;
    SHOAL_TRY(check_merges(gguf, &n, err));
    size_t n_slots = 16;
    while (n_slots < n + n / 2) {
        n_slots *= 2;
    }
    tokenizer->merges_mask = n_slots - 1;
    tokenizer->merges = shoal_calloc_huge(n_slots, sizeof(tokenizer->merges[0]));
    SHOAL_CLEANUP(shoal_free_cleanup) char *joined = shoal_calloc(tokenizer->length_max + 1, 1);
    if (!tokenizer->merges || !joined) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu merge rules", n);
    }
    merge_reader reader = {.tokenizer = tokenizer, .joined = joined, .err = err};
    shoal_status status = SHOAL_EOF;
    for (int i = 0; i < SHOAL_VOCAB_REKEYS_MAX && status == SHOAL_EOF; i++) {
        if (i > 0) {
            memset(tokenizer->merges, 0, n_slots * sizeof(tokenizer->merges[0]));
        }
        shoal_vocab_keys_choose(tokenizer->merges_keys);
        status = add_all(&reader, gguf, n);
    }
    if (status == SHOAL_EOF) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: more than %d rules collide under each of %d keys", merges_key,
                             SHOAL_PROBES_MAX, SHOAL_VOCAB_REKEYS_MAX);
    }
    SHOAL_TRY(status);
    /* In one go: a call for each of some 300000 rules would cost more than hashing them. */
    shoal_str bytes = shoal_gguf_array_bytes(gguf, merges_key);
    shoal_hasher_update_field(hasher, bytes.data, bytes.length);
    return SHOAL_OK;
}

shoal_status shoal_bpe_load_rule(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    shoal_str pre = {.data = "default", .length = 7};
    shoal_status status = shoal_gguf_get_str(gguf, "tokenizer.ggml.pre", &pre, NULL);
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        return shoal_gguf_get_str(gguf, "tokenizer.ggml.pre", &pre, err);
    }
    return shoal_bpe_split_new(pre, &tokenizer->split, &tokenizer->traits, err);
}

shoal_status shoal_bpe_init(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                            shoal_hasher *hasher, shoal_err *err)
{
    SHOAL_TRY(load_merges(tokenizer, gguf, hasher, err));
    shoal_hasher_update_field(hasher, tokenizer->traits.name.data, tokenizer->traits.name.length);
    return SHOAL_OK;
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
    return shoal_vocab_find_plain(tokenizer, text, length);
}

/* A shoal_bpe_piece_fn whose context is a shoal_encoder. */
static shoal_status encode_piece(void *ctx, shoal_str piece, bool loose)
{
    shoal_encoder *encoder = ctx;
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    if (!loose && tokenizer->traits.ignore_merges) {
        int32_t id = whole_piece(tokenizer, piece.data, piece.length);
        if (id >= 0) {
            return shoal_encoder_push_id(encoder, id);
        }
    }
    encoder->n_symbols = 0;
    for (size_t i = 0; i < piece.length; i++) {
        int32_t id = shoal_vocab_byte(tokenizer, (uint8_t)piece.data[i]);
        shoal_symbol symbol = {.length = 1, .id = id};
        SHOAL_TRY(loose ? shoal_encoder_push_id(encoder, id)
                        : shoal_encoder_push_symbol(encoder, symbol));
    }
    SHOAL_TRY(shoal_encoder_merge(encoder));
    for (size_t i = 0; i < encoder->n_symbols; i++) {
        SHOAL_TRY(shoal_encoder_push_id(encoder, encoder->symbols[i].id));
    }
    return SHOAL_OK;
}

/* text is valid UTF-8. */
static shoal_status walk_valid(const shoal_bpe_walk *walk, shoal_str text, shoal_err *err)
{
    for (size_t at = 0; at < text.length;) {
        size_t length = 0;
        SHOAL_TRY(shoal_bpe_split_next(walk->split, walk->match, text, at, &length, err));
        for (size_t done = 0; done < length;) {
            size_t part = SHOAL_MIN(length - done, (size_t)SHOAL_SEGMENT_MAX);
            shoal_str piece = {.data = text.data + at + done, .length = part};
            SHOAL_TRY(walk->piece(walk->ctx, piece, false));
            done += part;
        }
        at += length;
    }
    return SHOAL_OK;
}

shoal_status shoal_bpe_walk_text(const shoal_bpe_walk *walk, shoal_str text, shoal_err *err)
{
    size_t valid_from = 0;
    for (size_t at = 0; at < text.length;) {
        shoal_utf8_part part = shoal_utf8_next(text.data + at, text.length - at);
        if (part.state == SHOAL_UTF8_VALID) {
            at += part.length;
            continue;
        }
        shoal_str valid = {.data = text.data + valid_from, .length = at - valid_from};
        shoal_str loose = {.data = text.data + at, .length = part.length};
        SHOAL_TRY(walk_valid(walk, valid, err));
        SHOAL_TRY(walk->piece(walk->ctx, loose, true));
        at += part.length;
        valid_from = at;
    }
    shoal_str rest = {.data = text.data + valid_from, .length = text.length - valid_from};
    return walk_valid(walk, rest, err);
}

shoal_status shoal_bpe_encode(shoal_encoder *encoder, const char *text, size_t n, shoal_err *err)
{
    if (!encoder->match) {
        SHOAL_TRY(shoal_bpe_match_new(encoder->tokenizer->split, &encoder->match));
    }
    shoal_bpe_walk walk = {.split = encoder->tokenizer->split,
                           .match = encoder->match,
                           .piece = encode_piece,
                           .ctx = encoder};
    return shoal_bpe_walk_text(&walk, (shoal_str){.data = text, .length = n}, err);
}
