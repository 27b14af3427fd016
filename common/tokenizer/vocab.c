/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the token table, its scores and types and the special ids from the metadata of a GGUF,
 * and refuses what does not fit together.
 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

static const char tokens_key[] = "tokenizer.ggml.tokens";
static const char scores_key[] = "tokenizer.ggml.scores";
static const char types_key[] = "tokenizer.ggml.token_type";

enum {
    READ_BATCH = 256 /* elements of an array read at once: each call looks its key up */
};

shoal_status shoal_vocab_array(const shoal_gguf *gguf, const char *key,
                               shoal_gguf_kind *ret_element, size_t *ret_n, bool *ret_present,
                               shoal_err *err)
{
    shoal_status status = shoal_gguf_get_array(gguf, key, ret_element, ret_n, NULL);
    *ret_present = status == SHOAL_OK;
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    return status == SHOAL_OK ? SHOAL_OK : shoal_gguf_get_array(gguf, key, ret_element, ret_n, err);
}

static shoal_status load_texts(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_STRING;
    size_t n = 0;
    bool present = false;
    SHOAL_TRY(shoal_vocab_array(gguf, tokens_key, &element, &n, &present, err));
    if (!present || element != SHOAL_GGUF_STRING || n == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s must be an array of at least one string",
                             tokens_key);
    }
    if (n > SHOAL_VOCAB_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s has %zu tokens, at most %d", tokens_key, n,
                             SHOAL_VOCAB_MAX);
    }
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_str *texts = shoal_calloc(n, sizeof(texts[0]));
    if (!texts) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu tokens", n);
    }
    shoal_gguf_array_strs(gguf, tokens_key, 0, n, texts);
    size_t total = 0;
    for (size_t id = 0; id < n; id++) {
        size_t length = texts[id].length;
        if (length > SHOAL_TOKEN_TEXT_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "%s[%zu] has %zu bytes, at most %d",
                                 tokens_key, id, length, SHOAL_TOKEN_TEXT_MAX);
        }
        tokenizer->length_max = SHOAL_MAX(tokenizer->length_max, length);
        total += length;
    }
    if (total > SHOAL_VOCAB_BYTES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s has %zu bytes of text, at most %d", tokens_key,
                             total, SHOAL_VOCAB_BYTES_MAX);
    }
    tokenizer->tokens = shoal_calloc(n, sizeof(tokenizer->tokens[0]));
    tokenizer->texts = shoal_calloc(total + 1, 1);
    if (!tokenizer->tokens || !tokenizer->texts) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu tokens", n);
    }
    tokenizer->n_vocab = n;
    for (size_t id = 0; id < n; id++) {
        shoal_str text = texts[id];
        tokenizer->tokens[id] = (shoal_token){.offset = (uint32_t)tokenizer->texts_length,
                                              .length = (uint32_t)text.length,
                                              .score = 0,
                                              .type = SHOAL_TOKEN_NORMAL};
        if (text.length > 0) {
            memcpy(tokenizer->texts + tokenizer->texts_length, text.data, text.length);
        }
        tokenizer->texts_length += text.length;
    }
    return SHOAL_OK;
}

static shoal_status check_length(const shoal_tokenizer *tokenizer, const char *key, size_t n,
                                 shoal_err *err)
{
    if (n != tokenizer->n_vocab) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s has %zu elements for %zu tokens", key, n,
                             tokenizer->n_vocab);
    }
    return SHOAL_OK;
}

static shoal_status load_scores(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_F32;
    size_t n = 0;
    bool present = false;
    SHOAL_TRY(shoal_vocab_array(gguf, scores_key, &element, &n, &present, err));
    if (!present && tokenizer->kind == SHOAL_VOCAB_BPE) {
        return SHOAL_OK; /* ranks decide there */
    }
    if (!present || (element != SHOAL_GGUF_F32 && element != SHOAL_GGUF_F64)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s must be an array of floats", scores_key);
    }
    SHOAL_TRY(check_length(tokenizer, scores_key, n, err));
    double scores[READ_BATCH];
    for (size_t id = 0; id < n; id++) {
        if (id % READ_BATCH == 0) {
            size_t n_batch = SHOAL_MIN(n - id, (size_t)READ_BATCH);
            shoal_gguf_array_f64s(gguf, scores_key, id, n_batch, scores);
        }
        double score = scores[id % READ_BATCH];
        if (isnan(score)) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s[%zu] is not a number", scores_key, id);
        }
        tokenizer->tokens[id].score = (float)score;
    }
    return SHOAL_OK;
}

static bool is_integer(shoal_gguf_kind kind)
{
    return kind <= SHOAL_GGUF_I32 || kind == SHOAL_GGUF_U64 || kind == SHOAL_GGUF_I64;
}

static shoal_status load_types(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                               bool *ret_present, shoal_err *err)
{
    shoal_gguf_kind element = SHOAL_GGUF_I32;
    size_t n = 0;
    SHOAL_TRY(shoal_vocab_array(gguf, types_key, &element, &n, ret_present, err));
    if (!*ret_present) {
        return SHOAL_OK;
    }
    if (!is_integer(element)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s must be an array of integers", types_key);
    }
    SHOAL_TRY(check_length(tokenizer, types_key, n, err));
    int64_t types[READ_BATCH];
    for (size_t id = 0; id < n; id++) {
        if (id % READ_BATCH == 0) {
            size_t n_batch = SHOAL_MIN(n - id, (size_t)READ_BATCH);
            shoal_gguf_array_i64s(gguf, types_key, id, n_batch, types);
        }
        int64_t type = types[id % READ_BATCH];
        if (type < 0 || type > SHOAL_TOKEN_BYTE) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s[%zu] is %lld, known are 1 (normal) to 6 (byte)", types_key, id,
                                 (long long)type);
        }
        /* 0 is "undefined" in the format's list; converters mean normal by it. */
        tokenizer->tokens[id].type = type == 0 ? SHOAL_TOKEN_NORMAL : (uint32_t)type;
    }
    return SHOAL_OK;
}

/* Absent and 2^32 - 1, which converters write for "none", give -1. */
static shoal_status load_id(const shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                            const char *key, int32_t *ret_id, shoal_err *err)
{
    uint64_t id = 0;
    shoal_status status = shoal_gguf_get_u64(gguf, key, &id, NULL);
    if (status == SHOAL_E_NOTFOUND || (status == SHOAL_OK && id == UINT32_MAX)) {
        *ret_id = -1;
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_gguf_get_u64(gguf, key, &id, err);
    }
    if (id >= tokenizer->n_vocab) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s is %llu, but there are %zu tokens", key,
                             (unsigned long long)id, tokenizer->n_vocab);
    }
    *ret_id = (int32_t)id;
    return SHOAL_OK;
}

static shoal_status load_bool(const shoal_gguf *gguf, const char *key, bool *value, shoal_err *err)
{
    bool read = false;
    shoal_status status = shoal_gguf_get_bool(gguf, key, &read, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_gguf_get_bool(gguf, key, &read, err);
    }
    *value = read;
    return SHOAL_OK;
}

static void add_end(shoal_tokenizer *tokenizer, int32_t id)
{
    if (id >= 0 && tokenizer->n_end_ids < SHOAL_END_TOKENS_MAX) {
        tokenizer->end_ids[tokenizer->n_end_ids++] = id;
    }
}

/* Models end a turn with tokens that no metadata key names; their texts are conventions. */
static void find_ends(shoal_tokenizer *tokenizer)
{
    static const char *const texts[] = {"<|eot_id|>", "<|im_end|>",      "<|end|>",
                                        "<|eom_id|>", "<end_of_turn>",   "<|endoftext|>",
                                        "<|eot|>",    "<|end_of_text|>", "<|end_of_turn|>"};
    add_end(tokenizer, tokenizer->eos);
    add_end(tokenizer, tokenizer->eot);
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        uint32_t type = tokenizer->tokens[id].type;
        if (type != SHOAL_TOKEN_CONTROL && type != SHOAL_TOKEN_USER) {
            continue;
        }
        shoal_str text = shoal_vocab_text(tokenizer, id);
        for (size_t i = 0; i < SHOAL_COUNT(texts); i++) {
            if (strlen(texts[i]) == text.length && memcmp(texts[i], text.data, text.length) == 0) {
                add_end(tokenizer, (int32_t)id);
            }
        }
    }
}

/* A file without types still says which tokens are special, by its special ids and texts. */
static void guess_types(shoal_tokenizer *tokenizer)
{
    for (size_t id = 0; id < tokenizer->n_vocab && tokenizer->kind == SHOAL_VOCAB_SPM; id++) {
        if (shoal_spm_byte_of_text(shoal_vocab_text(tokenizer, id)) >= 0) {
            tokenizer->tokens[id].type = SHOAL_TOKEN_BYTE;
        }
    }
    const int32_t controls[] = {tokenizer->bos, tokenizer->eos, tokenizer->eot};
    for (size_t i = 0; i < SHOAL_COUNT(controls); i++) {
        if (controls[i] >= 0) {
            tokenizer->tokens[controls[i]].type = SHOAL_TOKEN_CONTROL;
        }
    }
    if (tokenizer->unknown >= 0) {
        tokenizer->tokens[tokenizer->unknown].type = SHOAL_TOKEN_UNKNOWN;
    }
}

static shoal_status load_ids(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    int32_t eom = -1;
    SHOAL_TRY(load_id(tokenizer, gguf, "tokenizer.ggml.bos_token_id", &tokenizer->bos, err));
    SHOAL_TRY(load_id(tokenizer, gguf, "tokenizer.ggml.eos_token_id", &tokenizer->eos, err));
    SHOAL_TRY(load_id(tokenizer, gguf, "tokenizer.ggml.eot_token_id", &tokenizer->eot, err));
    SHOAL_TRY(load_id(tokenizer, gguf, "tokenizer.ggml.eom_token_id", &eom, err));
    SHOAL_TRY(
        load_id(tokenizer, gguf, "tokenizer.ggml.unknown_token_id", &tokenizer->unknown, err));
    add_end(tokenizer, eom);
    return SHOAL_OK;
}

static shoal_status load_kind(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    shoal_str model = {.data = "", .length = 0};
    SHOAL_TRY(shoal_gguf_get_str(gguf, "tokenizer.ggml.model", &model, err));
    if (model.length == 5 && memcmp(model.data, "llama", 5) == 0) {
        tokenizer->kind = SHOAL_VOCAB_SPM;
    } else if (model.length == 4 && memcmp(model.data, "gpt2", 4) == 0) {
        tokenizer->kind = SHOAL_VOCAB_BPE;
    } else {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tokenizer.ggml.model \"%.*s\" is not known: \"llama\" (SPM) and "
                             "\"gpt2\" (byte-level BPE) are",
                             (int)SHOAL_MIN(model.length, (size_t)40), model.data);
    }
    return SHOAL_OK;
}

static shoal_status load_spm_flags(shoal_tokenizer *tokenizer, const shoal_gguf *gguf,
                                   shoal_err *err)
{
    static const char squeeze_key[] = "tokenizer.ggml.remove_extra_whitespaces";
    bool squeeze = false;
    SHOAL_TRY(load_bool(gguf, squeeze_key, &squeeze, err));
    if (squeeze) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s is true: texts would lose spaces, which no model of a supported "
                             "family wants; set it to false if the file is mistaken",
                             squeeze_key);
    }
    return load_bool(gguf, "tokenizer.ggml.add_space_prefix", &tokenizer->add_space_prefix, err);
}

shoal_status shoal_vocab_load(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    bool has_types = false;
    SHOAL_TRY(load_kind(tokenizer, gguf, err));
    if (tokenizer->kind == SHOAL_VOCAB_BPE) {
        SHOAL_TRY(shoal_bpe_load_rule(tokenizer, gguf, err));
    }
    SHOAL_TRY(load_texts(tokenizer, gguf, err));
    SHOAL_TRY(load_scores(tokenizer, gguf, err));
    SHOAL_TRY(load_types(tokenizer, gguf, &has_types, err));
    SHOAL_TRY(load_ids(tokenizer, gguf, err));
    if (!has_types) {
        guess_types(tokenizer);
    }
    if (tokenizer->unknown < 0) {
        for (size_t id = 0; id < tokenizer->n_vocab && tokenizer->unknown < 0; id++) {
            if (tokenizer->tokens[id].type == SHOAL_TOKEN_UNKNOWN) {
                tokenizer->unknown = (int32_t)id;
            }
        }
    }
    find_ends(tokenizer);
    tokenizer->add_bos = tokenizer->kind == SHOAL_VOCAB_SPM || tokenizer->traits.add_bos;
    tokenizer->add_space_prefix = tokenizer->kind == SHOAL_VOCAB_SPM;
    SHOAL_TRY(load_bool(gguf, "tokenizer.ggml.add_bos_token", &tokenizer->add_bos, err));
    SHOAL_TRY(load_bool(gguf, "tokenizer.ggml.add_eos_token", &tokenizer->add_eos, err));
    return tokenizer->kind == SHOAL_VOCAB_SPM ? load_spm_flags(tokenizer, gguf, err) : SHOAL_OK;
}
