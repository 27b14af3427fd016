/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/random_vocab.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    BYTES = 256,
    LETTERS = 26,
    LENGTH_MAX = 4,
    TEXT_BYTES = 48, /* of the longest control token, with its NUL */
    RULE_BYTES = 16  /* of the longest merge rule, with its NUL */
};

/* Zeroed memory is a valid empty one. */
typedef struct vocab_tables {
    char (*texts)[TEXT_BYTES];
    char (*rules)[RULE_BYTES];
    shoal_str *tokens;
    shoal_str *merges;
    int32_t *types;
    size_t n_merges;
} vocab_tables;

static void tables_fini(vocab_tables *t)
{
    shoal_free(t->texts);
    shoal_free(t->rules);
    shoal_free(t->tokens);
    shoal_free(t->merges);
    shoal_free(t->types);
}

/* UTF-8 of a code point below 0x800. */
static size_t put_char(char *to, unsigned code_point)
{
    if (code_point < 0x80) {
        to[0] = (char)code_point;
        return 1;
    }
    to[0] = (char)(0xC0 | code_point >> 6);
    to[1] = (char)(0x80 | (code_point & 0x3F));
    return 2;
}

/* GPT-2's printable characters for bytes: what prints stands for itself, the rest are U+0100
 * onwards, in order (Radford et al., 2019, encoder.py). */
static void put_byte_texts(vocab_tables *t)
{
    unsigned shifted = 0;
    for (unsigned byte = 0; byte < BYTES; byte++) {
        bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
        (void)put_char(t->texts[byte], itself ? byte : BYTES + shifted);
        shifted += itself ? 0 : 1;
    }
}

/* String `number` of `length` symbols; each symbol's text, NUL-terminated. The first is one of 27:
 * a letter, or the space that begins a word. */
static void symbols_of(size_t number, size_t length, char ret_symbols[LENGTH_MAX][4])
{
    memset(ret_symbols, 0, LENGTH_MAX * sizeof ret_symbols[0]);
    for (size_t i = length; i-- > 1;) {
        ret_symbols[i][0] = (char)('a' + number % LETTERS);
        number /= LETTERS;
    }
    (void)put_char(ret_symbols[0], number == LETTERS ? 0x120 : 'a' + (unsigned)number);
}

/* One token and its merge rules: its first n symbols with the rest. Both sides are shorter strings,
 * so they are tokens already. */
static void put_string(vocab_tables *t, size_t id, size_t number, size_t length, size_t splits_max)
{
    char symbols[LENGTH_MAX][4];
    symbols_of(number, length, symbols);
    (void)snprintf(t->texts[id], TEXT_BYTES, "%s%s%s%s", symbols[0], symbols[1], symbols[2],
                   symbols[3]);
    for (size_t left = 1; left < length && left <= splits_max; left++) {
        char *rule = t->rules[t->n_merges++];
        size_t at = 0;
        for (size_t i = 0; i < length; i++) {
            at += (size_t)snprintf(rule + at, RULE_BYTES - at, "%s%s", i == left ? " " : "",
                                   symbols[i]);
        }
    }
}

static void put_strings(vocab_tables *t, const forge_vocab *vocab)
{
    size_t id = BYTES;
    size_t end = vocab->n_tokens - vocab->n_special;
    size_t n_strings = LETTERS + 1;
    for (size_t length = 2; length <= LENGTH_MAX; length++) {
        n_strings *= LETTERS;
        for (size_t i = 0; i < n_strings && id < end; i++) {
            put_string(t, id++, i, length, vocab->splits_max);
        }
    }
    static const char *const named[] = {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"};
    for (size_t i = 0; id < vocab->n_tokens; i++, id++) {
        t->types[id] = 3; /* control */
        if (i < SHOAL_COUNT(named)) {
            (void)snprintf(t->texts[id], TEXT_BYTES, "%s", named[i]);
        } else {
            (void)snprintf(t->texts[id], TEXT_BYTES, "<|reserved_special_token_%zu|>", i);
        }
    }
}

static shoal_status put_ids(shoal_gguf_writer *writer, const forge_vocab *vocab)
{
    uint32_t first = (uint32_t)(vocab->n_tokens - vocab->n_special);
    SHOAL_TRY(shoal_gguf_put_u32(writer, "tokenizer.ggml.bos_token_id", first));
    SHOAL_TRY(shoal_gguf_put_u32(writer, "tokenizer.ggml.eos_token_id", first + 1));
    SHOAL_TRY(shoal_gguf_put_u32(writer, "tokenizer.ggml.eot_token_id", first + 2));
    return shoal_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", true);
}

static shoal_status put_tables(shoal_gguf_writer *writer, const vocab_tables *t,
                               const forge_vocab *vocab)
{
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.model", "gpt2"));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.pre", vocab->pre));
    SHOAL_TRY(put_ids(writer, vocab));
    SHOAL_TRY(
        shoal_gguf_put_str_array(writer, "tokenizer.ggml.tokens", t->tokens, vocab->n_tokens));
    SHOAL_TRY(
        shoal_gguf_put_i32_array(writer, "tokenizer.ggml.token_type", t->types, vocab->n_tokens));
    return shoal_gguf_put_str_array(writer, "tokenizer.ggml.merges", t->merges, t->n_merges);
}

shoal_status shoal_forge_put_vocab(shoal_gguf_writer *writer, const forge_vocab *vocab,
                                   shoal_err *err)
{
    SHOAL_ASSERT(vocab->n_tokens >= BYTES + vocab->n_special && vocab->n_special >= 3 &&
                 vocab->n_tokens <= SHOAL_FORGE_VOCAB_MAX);
    size_t n = vocab->n_tokens;
    SHOAL_CLEANUP(tables_fini)
    vocab_tables t = {
        .texts = shoal_calloc(n, sizeof *t.texts),
        .rules = shoal_calloc(n * (LENGTH_MAX - 1), sizeof *t.rules),
        .tokens = shoal_calloc(n, sizeof *t.tokens),
        .merges = shoal_calloc(n * (LENGTH_MAX - 1), sizeof *t.merges),
        .types = shoal_calloc(n, sizeof *t.types),
    };
    if (!t.texts || !t.rules || !t.tokens || !t.merges || !t.types) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a vocabulary of %zu tokens", n);
    }
    for (size_t i = 0; i < n; i++) {
        t.types[i] = 1; /* normal */
    }
    put_byte_texts(&t);
    put_strings(&t, vocab);
    for (size_t i = 0; i < n; i++) {
        t.tokens[i] = (shoal_str){t.texts[i], strlen(t.texts[i])};
    }
    for (size_t i = 0; i < t.n_merges; i++) {
        t.merges[i] = (shoal_str){t.rules[i], strlen(t.rules[i])};
    }
    shoal_status status = put_tables(writer, &t, vocab);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "writing a vocabulary of %zu tokens: %s", n,
                             shoal_status_text(status));
    }
    return SHOAL_OK;
}
