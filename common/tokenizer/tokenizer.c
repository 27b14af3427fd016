/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a tokenizer and of one encode call.
 */
#include "common/tokenizer/tokenizer.h"

#include "common/base/mem.h"
#include "common/tokenizer/vocab.h"

#include <string.h>

static void spm_bytes(shoal_tokenizer *tokenizer)
{
    for (size_t id = tokenizer->n_vocab; id-- > 0;) {
        if (tokenizer->tokens[id].type == SHOAL_TOKEN_BYTE) {
            int byte = shoal_spm_byte_of_text(shoal_vocab_text(tokenizer, id));
            if (byte >= 0) {
                tokenizer->byte_ids[byte] = (int32_t)id;
            }
        }
    }
}

static void bpe_bytes(shoal_tokenizer *tokenizer)
{
    for (size_t id = tokenizer->n_vocab; id-- > 0;) {
        shoal_str text = shoal_vocab_text(tokenizer, id);
        if (text.length == 0 || text.length > 2 || !shoal_vocab_is_plain(tokenizer, (int32_t)id)) {
            continue;
        }
        int byte = shoal_bpe_byte_of_text(text);
        if (byte >= 0) {
            tokenizer->byte_ids[byte] = (int32_t)id;
        }
    }
}

static shoal_status init_bytes(shoal_tokenizer *tokenizer, shoal_err *err)
{
    for (size_t byte = 0; byte < 256; byte++) {
        tokenizer->byte_ids[byte] = -1;
    }
    if (tokenizer->kind == SHOAL_VOCAB_SPM) {
        spm_bytes(tokenizer);
    } else {
        bpe_bytes(tokenizer);
    }
    for (size_t byte = 0; byte < 256; byte++) {
        if (tokenizer->byte_ids[byte] < 0 && tokenizer->unknown < 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tokenizer.ggml.tokens has none for byte 0x%02zX, and there is "
                                 "no tokenizer.ggml.unknown_token_id to stand for it",
                                 byte);
        }
    }
    return SHOAL_OK;
}

int32_t shoal_vocab_byte(const shoal_tokenizer *tokenizer, uint8_t byte)
{
    int32_t id = tokenizer->byte_ids[byte];
    return id >= 0 ? id : tokenizer->unknown;
}

/* What decides the ids of a text and the text of ids, nothing else; the merges of BPE follow as
 * they are read. Little-endian, as every machine Shoal runs on. */
static void hash_vocab(const shoal_tokenizer *tokenizer, shoal_hasher *hasher)
{
    static const char domain[] = "shoal tokenizer 1";
    const int32_t special[] = {(int32_t)tokenizer->kind, tokenizer->bos,
                               tokenizer->eos,           tokenizer->eot,
                               tokenizer->unknown,       tokenizer->add_bos,
                               tokenizer->add_eos,       tokenizer->add_space_prefix};
    shoal_hasher_update_field(hasher, domain, sizeof(domain));
    shoal_hasher_update_field(hasher, special, sizeof(special));
    shoal_hasher_update_field(hasher, tokenizer->tokens,
                              tokenizer->n_vocab * sizeof(tokenizer->tokens[0]));
    shoal_hasher_update_field(hasher, tokenizer->texts, tokenizer->texts_length);
}

/* Texts that are to be encoded have spaces where SPM's tokens have U+2581, so a user-defined token
 * with one cannot be looked for; it is reached by merging, as a normal one. */
static void settle_user_tokens(shoal_tokenizer *tokenizer)
{
    for (size_t id = 0; id < tokenizer->n_vocab && tokenizer->kind == SHOAL_VOCAB_SPM; id++) {
        shoal_str text = shoal_vocab_text(tokenizer, id);
        if (tokenizer->tokens[id].type == SHOAL_TOKEN_USER && text.length >= 3 &&
            memmem(text.data, text.length, "\xE2\x96\x81", 3) != NULL) {
            tokenizer->tokens[id].type = SHOAL_TOKEN_NORMAL;
        }
    }
}

static shoal_status load(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_hasher *hasher,
                         shoal_err *err)
{
    SHOAL_TRY(shoal_vocab_load(tokenizer, gguf, err));
    hash_vocab(tokenizer, hasher);
    settle_user_tokens(tokenizer);
    shoal_chat_guard(tokenizer);
    SHOAL_TRY(shoal_vocab_map_init(tokenizer, err));
    SHOAL_TRY(init_bytes(tokenizer, err));
    SHOAL_TRY(shoal_special_init(tokenizer, err));
    if (tokenizer->kind == SHOAL_VOCAB_SPM) {
        SHOAL_TRY(shoal_spm_init(tokenizer, err));
    } else {
        SHOAL_TRY(shoal_bpe_init(tokenizer, gguf, hasher, err));
    }
    shoal_hasher_finish(hasher, &tokenizer->hash);
    return shoal_chat_load(tokenizer, gguf, err);
}

shoal_status shoal_tokenizer_new(const shoal_gguf *gguf, shoal_tokenizer **ret_tokenizer,
                                 shoal_err *err)
{
    SHOAL_CLEANUP(shoal_tokenizer_freep)
    shoal_tokenizer *tokenizer = shoal_calloc(1, sizeof(*tokenizer));
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (!tokenizer) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for a tokenizer");
    }
    shoal_status status = shoal_hasher_new(&hasher);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the hash of the tokenizer: %s",
                             shoal_status_text(status));
    }
    SHOAL_TRY(load(tokenizer, gguf, hasher, err));
    *ret_tokenizer = SHOAL_STEAL(tokenizer);
    return SHOAL_OK;
}

void shoal_tokenizer_free(shoal_tokenizer *tokenizer)
{
    if (!tokenizer) {
        return;
    }
    shoal_chat_fini(&tokenizer->chat);
    shoal_vocab_map_fini(&tokenizer->map);
    shoal_special_fini(&tokenizer->special);
    shoal_bpe_split_free(tokenizer->split);
    shoal_free(tokenizer->merges);
    shoal_free(tokenizer->neighbours);
    shoal_free(tokenizer->tokens);
    shoal_free(tokenizer->texts);
    shoal_free(tokenizer);
}

size_t shoal_tokenizer_n_vocab(const shoal_tokenizer *tokenizer)
{
    return tokenizer->n_vocab;
}

int32_t shoal_tokenizer_bos(const shoal_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t shoal_tokenizer_eos(const shoal_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

bool shoal_tokenizer_adds_bos(const shoal_tokenizer *tokenizer)
{
    return tokenizer->add_bos && tokenizer->bos >= 0;
}

bool shoal_tokenizer_adds_eos(const shoal_tokenizer *tokenizer)
{
    return tokenizer->add_eos && tokenizer->eos >= 0;
}

bool shoal_tokenizer_is_end(const shoal_tokenizer *tokenizer, int32_t id)
{
    for (size_t i = 0; i < tokenizer->n_end_ids; i++) {
        if (tokenizer->end_ids[i] == id) {
            return true;
        }
    }
    return false;
}

const shoal_hash *shoal_tokenizer_hash(const shoal_tokenizer *tokenizer)
{
    return &tokenizer->hash;
}

const shoal_hash *shoal_tokenizer_template_hash(const shoal_tokenizer *tokenizer)
{
    return &tokenizer->template_hash;
}

shoal_str shoal_tokenizer_text(const shoal_tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || (size_t)id >= tokenizer->n_vocab) {
        return (shoal_str){.data = "", .length = 0};
    }
    return shoal_vocab_text(tokenizer, (size_t)id);
}

static void encoder_fini(shoal_encoder *encoder)
{
    shoal_free(encoder->ids);
    shoal_free(encoder->symbols);
    shoal_free(encoder->heap);
    shoal_free(encoder->text);
    shoal_bpe_match_free(encoder->match);
}

/* Text between special tokens. */
static shoal_status encode_plain(shoal_encoder *encoder, const char *text, size_t n, shoal_err *err)
{
    if (n == 0) {
        return SHOAL_OK;
    }
    if (encoder->tokenizer->kind == SHOAL_VOCAB_SPM) {
        /* Every stretch of plain text gets the space, as the reference converters' runtime does:
         * it begins the text or follows a special token. */
        return shoal_spm_encode(encoder, text, n, encoder->tokenizer->add_space_prefix);
    }
    return shoal_bpe_encode(encoder, text, n, err);
}

/* Text that is all quoted or all not: special tokens cut it, and what is between them joins the
 * plain text that *plain_from begins. */
static shoal_status encode_region(shoal_encoder *encoder, shoal_str text, size_t begin, size_t end,
                                  shoal_special_want want, size_t *plain_from, shoal_err *err)
{
    const shoal_tokenizer *tokenizer = encoder->tokenizer;
    for (size_t at = begin; at < end;) {
        size_t length = 0;
        int32_t id = shoal_special_match(tokenizer, text.data + at, end - at, want, &length);
        if (id < 0) {
            at++;
            continue;
        }
        SHOAL_TRY(encode_plain(encoder, text.data + *plain_from, at - *plain_from, err));
        SHOAL_TRY(shoal_encoder_push_id(encoder, id));
        at += length;
        *plain_from = at;
    }
    return SHOAL_OK;
}

static shoal_status encode_all(shoal_encoder *encoder, const shoal_quoted_text *quoted,
                               shoal_special_want want, shoal_err *err)
{
    const shoal_special *special = &encoder->tokenizer->special;
    const shoal_special_want nothing = {.control = false, .markup = false};
    shoal_str text = quoted->text;
    if (quoted->bos) {
        SHOAL_TRY(shoal_encoder_push_id(encoder, encoder->tokenizer->bos));
    }
    size_t plain_from = 0;
    if (special->nodes && (want.control || special->has_user)) {
        size_t at = 0;
        for (size_t i = 0; i < quoted->n_quotes; i++) {
            shoal_quote quote = quoted->quotes[i];
            SHOAL_TRY(encode_region(encoder, text, at, quote.begin, want, &plain_from, err));
            SHOAL_TRY(
                encode_region(encoder, text, quote.begin, quote.end, nothing, &plain_from, err));
            at = quote.end;
        }
        SHOAL_TRY(encode_region(encoder, text, at, text.length, want, &plain_from, err));
    }
    return encode_plain(encoder, text.data + plain_from, text.length - plain_from, err);
}

static shoal_status encode(const shoal_tokenizer *tokenizer, const shoal_quoted_text *quoted,
                           shoal_special_want want, bool eos, int32_t **ret_ids, size_t *ret_n,
                           shoal_err *err)
{
    size_t n = quoted->text.length;
    if (n > SHOAL_TEXT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "a text of %zu bytes, at most %d", n,
                             SHOAL_TEXT_MAX);
    }
    SHOAL_CLEANUP(encoder_fini) shoal_encoder encoder = {.tokenizer = tokenizer};
    shoal_status status = encode_all(&encoder, quoted, want, err);
    if (status == SHOAL_OK && eos) {
        status = shoal_encoder_push_id(&encoder, tokenizer->eos);
    }
    if (status == SHOAL_OK && !encoder.ids) {
        encoder.ids = shoal_calloc(1, sizeof(encoder.ids[0]));
        status = encoder.ids ? SHOAL_OK : SHOAL_E_NOMEM;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "encoding a text of %zu bytes: %s", n,
                             shoal_status_text(status));
    }
    *ret_n = encoder.n_ids;
    *ret_ids = SHOAL_STEAL(encoder.ids);
    return SHOAL_OK;
}

shoal_status shoal_encode_quoted(const shoal_tokenizer *tokenizer, const shoal_quoted_text *text,
                                 int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    const shoal_special_want all = {.control = true, .markup = true};
    return encode(tokenizer, text, all, false, ret_ids, ret_n, err);
}

shoal_status shoal_tokenizer_encode(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                                    shoal_encode_flags flags, int32_t **ret_ids, size_t *ret_n,
                                    shoal_err *err)
{
    shoal_quoted_text whole = {.text = {.data = text, .length = n},
                               .bos = flags.add_bos && shoal_tokenizer_adds_bos(tokenizer)};
    shoal_special_want want = {.control = flags.parse_special, .markup = true};
    bool eos = flags.add_eos && shoal_tokenizer_adds_eos(tokenizer);
    return encode(tokenizer, &whole, want, eos, ret_ids, ret_n, err);
}
