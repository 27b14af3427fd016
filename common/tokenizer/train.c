/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a trainer of BPE vocabularies, and the vocabulary as a file has it.
 */
#include "common/tokenizer/train.h"

#include "common/base/mem.h"
#include "common/tokenizer/train_internal.h"

#include <string.h>

/* What stands before the bytes, in the order of the ids. */
static const struct {
    const char *text;
    int32_t type;
    const char *key; /* metadata that names the id, or NULL */
} controls[SHOAL_BPE_CONTROLS] = {
    {"<s>", SHOAL_TOKEN_CONTROL, "tokenizer.ggml.bos_token_id"},
    {"</s>", SHOAL_TOKEN_CONTROL, "tokenizer.ggml.eos_token_id"},
    {"[INST]", SHOAL_TOKEN_CONTROL, NULL},
    {"[/INST]", SHOAL_TOKEN_CONTROL, NULL},
    {"<unk>", SHOAL_TOKEN_UNKNOWN, "tokenizer.ggml.unknown_token_id"},
    {"<pad>", SHOAL_TOKEN_CONTROL, "tokenizer.ggml.padding_token_id"},
};

/* Turns as [INST]question[/INST]answer</s>; a system message stands before the question. The remark
 * says what is so, and is what readers that look for marks in templates know this family by. */
static const char chat_template[] =
    "{#- No [AVAILABLE_TOOLS]: this family calls none. -#}"
    "{{- bos_token }}"
    "{%- set said = namespace(system=\"\") %}"
    "{%- for message in messages %}"
    "{%- if message[\"role\"] == \"system\" %}"
    "{%- set said.system = said.system + message[\"content\"] + \"\\n\\n\" %}"
    "{%- elif message[\"role\"] == \"user\" %}"
    "{{- \"[INST]\" + said.system + message[\"content\"] + \"[/INST]\" }}"
    "{%- set said.system = \"\" %}"
    "{%- else %}"
    "{{- message[\"content\"] + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}";

static shoal_status check_settings(const shoal_bpe_settings *settings, shoal_err *err)
{
    if (settings->n_vocab < SHOAL_BPE_VOCAB_MIN || settings->n_vocab > SHOAL_VOCAB_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a vocabulary of %zu tokens: from %d (control tokens and bytes) to %d "
                             "are possible",
                             settings->n_vocab, SHOAL_BPE_VOCAB_MIN, SHOAL_VOCAB_MAX);
    }
    if (settings->length_max < 1 || settings->length_max > SHOAL_BPE_LENGTH_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tokens of at most %zu bytes: from 1 to %d are possible",
                             settings->length_max, SHOAL_BPE_LENGTH_MAX);
    }
    if (settings->count_min < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a pair must count at least 1 to be joined, not 0");
    }
    return SHOAL_OK;
}

shoal_status shoal_bpe_trainer_new(const shoal_bpe_settings *settings,
                                   shoal_bpe_trainer **ret_trainer, shoal_err *err)
{
    SHOAL_TRY(check_settings(settings, err));
    SHOAL_CLEANUP(shoal_bpe_trainer_freep)
    shoal_bpe_trainer *trainer = shoal_calloc(1, sizeof(*trainer));
    if (!trainer) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for a trainer of vocabularies");
    }
    *trainer = (shoal_bpe_trainer){.settings = *settings,
                                   .words.bytes.limit = SHOAL_BPE_WORDS_MAX,
                                   .stats.n_vocab = SHOAL_BPE_VOCAB_MIN,
                                   .unused = SHOAL_NO_PAIR,
                                   .made = -1};
    shoal_bpe_traits traits;
    shoal_str rule = {.data = SHOAL_BPE_RULE, .length = strlen(SHOAL_BPE_RULE)};
    SHOAL_TRY(shoal_bpe_split_new(rule, &trainer->split, &traits, err));
    if (shoal_bpe_match_new(trainer->split, &trainer->match) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for a trainer of vocabularies");
    }
    *ret_trainer = SHOAL_STEAL(trainer);
    return SHOAL_OK;
}

void shoal_bpe_trainer_free(shoal_bpe_trainer *trainer)
{
    if (!trainer) {
        return;
    }
    shoal_bpe_match_free(trainer->match);
    shoal_bpe_split_free(trainer->split);
    shoal_texts_fini(&trainer->words);
    shoal_texts_fini(&trainer->tokens);
    shoal_free(trainer->counts);
    shoal_free(trainer->rules);
    shoal_free(trainer->sites);
    shoal_free(trainer->pairs);
    shoal_free(trainer->heap);
    shoal_free(trainer->fresh);
    shoal_free(trainer->by_left);
    shoal_free(trainer->by_right);
    shoal_free(trainer);
}

shoal_status shoal_bpe_trainer_learn(shoal_bpe_trainer *trainer, shoal_err *err)
{
    SHOAL_ASSERT(!trainer->learnt);
    trainer->learnt = true;
    SHOAL_TRY(shoal_bpe_learn(trainer, err));
    trainer->stats.n_vocab = SHOAL_BPE_VOCAB_MIN + trainer->n_rules;
    return SHOAL_OK;
}

shoal_bpe_stats shoal_bpe_trainer_stats(const shoal_bpe_trainer *trainer)
{
    return trainer->stats;
}

/* --- the file -------------------------------------------------------------------------------- */

/* Texts of the file's tokens and rules, one after the other, each byte as its character. */
typedef struct vocab_text {
    shoal_buf bytes;
    shoal_str *tokens;
    shoal_str *merges;
    int32_t *types;
    size_t n_tokens;
} vocab_text;

static void vocab_text_fini(vocab_text *text)
{
    shoal_buf_fini(&text->bytes);
    shoal_free(text->tokens);
    shoal_free(text->merges);
    shoal_free(text->types);
}

static shoal_status put_chars(shoal_buf *buf, shoal_str bytes)
{
    for (size_t i = 0; i < bytes.length; i++) {
        char text[2];
        size_t n = shoal_bpe_char_of_byte((uint8_t)bytes.data[i], text);
        SHOAL_TRY(shoal_buf_append(buf, text, n));
    }
    return SHOAL_OK;
}

/* Lengths first: the texts move while they grow. */
static shoal_status put_texts(const shoal_bpe_trainer *trainer, vocab_text *text)
{
    for (size_t i = 0; i < text->n_tokens; i++) {
        size_t begin = text->bytes.length;
        if (i < SHOAL_BPE_CONTROLS) {
            SHOAL_TRY(shoal_buf_append(&text->bytes, controls[i].text, strlen(controls[i].text)));
        } else {
            shoal_str bytes = shoal_texts_at(&trainer->tokens, i - SHOAL_BPE_CONTROLS);
            SHOAL_TRY(put_chars(&text->bytes, bytes));
        }
        text->tokens[i].length = text->bytes.length - begin;
        text->types[i] = i < SHOAL_BPE_CONTROLS ? controls[i].type : SHOAL_TOKEN_NORMAL;
    }
    for (size_t i = 0; i < trainer->n_rules; i++) {
        size_t begin = text->bytes.length;
        shoal_merge_rule rule = trainer->rules[i];
        SHOAL_TRY(put_chars(&text->bytes, shoal_texts_at(&trainer->tokens, (size_t)rule.left)));
        SHOAL_TRY(shoal_buf_append(&text->bytes, " ", 1));
        SHOAL_TRY(put_chars(&text->bytes, shoal_texts_at(&trainer->tokens, (size_t)rule.right)));
        text->merges[i].length = text->bytes.length - begin;
    }
    const char *at = text->bytes.data;
    for (size_t i = 0; i < text->n_tokens; i++) {
        text->tokens[i].data = at;
        at += text->tokens[i].length;
    }
    for (size_t i = 0; i < trainer->n_rules; i++) {
        text->merges[i].data = at;
        at += text->merges[i].length;
    }
    return SHOAL_OK;
}

static shoal_status put_vocab(const shoal_bpe_trainer *trainer, const vocab_text *text,
                              shoal_gguf_writer *writer)
{
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.model", "gpt2"));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.pre", SHOAL_BPE_RULE));
    SHOAL_TRY(
        shoal_gguf_put_str_array(writer, "tokenizer.ggml.tokens", text->tokens, text->n_tokens));
    SHOAL_TRY(
        shoal_gguf_put_i32_array(writer, "tokenizer.ggml.token_type", text->types, text->n_tokens));
    SHOAL_TRY(
        shoal_gguf_put_str_array(writer, "tokenizer.ggml.merges", text->merges, trainer->n_rules));
    for (uint32_t i = 0; i < SHOAL_BPE_CONTROLS; i++) {
        if (controls[i].key) {
            SHOAL_TRY(shoal_gguf_put_u32(writer, controls[i].key, i));
        }
    }
    SHOAL_TRY(shoal_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", true));
    SHOAL_TRY(shoal_gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", false));
    return shoal_gguf_put_str(writer, "tokenizer.chat_template", chat_template);
}

static shoal_status make_vocab(const shoal_bpe_trainer *trainer, shoal_gguf_writer *writer)
{
    SHOAL_CLEANUP(vocab_text_fini) vocab_text text = {.n_tokens = trainer->stats.n_vocab};
    text.tokens = shoal_calloc(text.n_tokens, sizeof(text.tokens[0]));
    text.types = shoal_calloc(text.n_tokens, sizeof(text.types[0]));
    text.merges = shoal_calloc(trainer->n_rules, sizeof(text.merges[0]));
    if (!text.tokens || !text.types || !text.merges) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(put_texts(trainer, &text));
    return put_vocab(trainer, &text, writer);
}

shoal_status shoal_bpe_trainer_write(const shoal_bpe_trainer *trainer, shoal_gguf_writer *writer,
                                     shoal_err *err)
{
    SHOAL_ASSERT(trainer->tokens.n == trainer->stats.n_vocab - SHOAL_BPE_CONTROLS);
    shoal_status status = make_vocab(trainer, writer);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "writing a vocabulary of %zu tokens: %s",
                             trainer->stats.n_vocab, shoal_status_text(status));
    }
    return SHOAL_OK;
}
