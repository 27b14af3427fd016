/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer_input.h"

#include "common/base/mem.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/utf8.h"
#include "common/tokenizer/vocab.h"

#include <string.h>

enum {
    FLAG_NO_BYTES = 1,  /* leave the byte tokens out */
    FLAG_NO_TYPES = 2,  /* leave the types out */
    FLAG_PREFIX = 4,    /* add_space_prefix */
    FLAG_SPECIAL = 8,   /* parse_special */
    FLAG_UNKNOWN = 16,  /* name an unknown token */
    FLAG_TEMPLATE = 32, /* a chat template */
    TOKENS_MAX = 64,
    MERGES_MAX = 64,
    VOCAB_MAX = 258 + TOKENS_MAX
};

typedef struct input {
    const uint8_t *data;
    size_t size;
} input;

static uint8_t take(input *in)
{
    if (in->size == 0) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static shoal_str take_text(input *in)
{
    size_t wanted = take(in) % 32;
    size_t n = SHOAL_MIN(wanted, in->size);
    shoal_str text = {.data = (const char *)in->data, .length = n};
    in->data += n;
    in->size -= n;
    return text;
}

/* The vocabulary; texts of its own making lie in the arrays. */
typedef struct vocab {
    uint8_t flags;
    shoal_str texts[VOCAB_MAX];
    float scores[VOCAB_MAX];
    int32_t types[VOCAB_MAX];
    size_t n;
    shoal_str merges[MERGES_MAX];
    size_t n_merges;
    char byte_texts[256][8];
    char merge_texts[MERGES_MAX][80];
} vocab;

static void add(vocab *v, shoal_str text, float score, int32_t type)
{
    v->texts[v->n] = text;
    v->scores[v->n] = score;
    v->types[v->n] = type;
    v->n++;
}

static void add_bytes(vocab *v, bool spm)
{
    for (size_t byte = 0; byte < 256; byte++) {
        static const char digits[] = "0123456789ABCDEF";
        char *text = v->byte_texts[byte];
        size_t n = 6;
        if (spm) {
            memcpy(text, "<0x00>", 6);
            text[3] = digits[byte / 16];
            text[4] = digits[byte % 16];
        } else {
            n = shoal_bpe_char_of_byte((uint8_t)byte, text);
        }
        add(v, (shoal_str){.data = text, .length = n}, 0, spm ? 6 : 1);
    }
    /* A space of its own, so that spaces do not become the bytes of U+2581. */
    add(v, (shoal_str){.data = spm ? "\xE2\x96\x81" : "", .length = spm ? 3 : 0}, 0, 1);
}

static void read_vocab(input *in, bool spm, vocab *v)
{
    v->flags = take(in);
    if (!(v->flags & FLAG_NO_BYTES)) {
        add_bytes(v, spm);
    }
    size_t n = take(in) % (TOKENS_MAX + 1);
    for (size_t i = 0; i < n; i++) {
        int32_t type = take(in) % 8;
        float score = (float)(take(in) % 16) - 8.0f;
        add(v, take_text(in), score, type);
    }
    n = take(in) % (MERGES_MAX + 1);
    for (size_t i = 0; i < n && v->n > 0; i++) {
        /* A byte names one of the first or, from 128 on, one of the last tokens. */
        char *text = v->merge_texts[i];
        size_t length = 0;
        for (size_t side = 0; side < 2; side++) {
            size_t pick = take(in);
            size_t id = pick < 128 ? pick % v->n : v->n - 1 - (pick - 128) % v->n;
            shoal_str token = v->texts[id];
            if (token.length > 0) {
                memcpy(text + length, token.data, token.length);
            }
            length += token.length;
            text[length++] = ' ';
        }
        v->merges[v->n_merges++] = (shoal_str){.data = text, .length = length - 1};
    }
}

static shoal_status write_file(const char *model, const vocab *v, shoal_buf *bytes)
{
    static const char *const rules[] = {"gpt-2", "default", "smollm", "llama-bpe", "qwen2"};
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.model", model));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.pre", rules[(v->flags >> 5) % 5]));
    SHOAL_TRY(shoal_gguf_put_str_array(writer, "tokenizer.ggml.tokens", v->texts, v->n));
    SHOAL_TRY(shoal_gguf_put_f32_array(writer, "tokenizer.ggml.scores", v->scores, v->n));
    SHOAL_TRY(shoal_gguf_put_str_array(writer, "tokenizer.ggml.merges", v->merges, v->n_merges));
    if (!(v->flags & FLAG_NO_TYPES)) {
        SHOAL_TRY(shoal_gguf_put_i32_array(writer, "tokenizer.ggml.token_type", v->types, v->n));
    }
    if (v->flags & FLAG_UNKNOWN) {
        SHOAL_TRY(shoal_gguf_put_u32(writer, "tokenizer.ggml.unknown_token_id", 0));
    }
    if (v->flags & FLAG_TEMPLATE) {
        SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.chat_template", "<start_of_turn>"));
    }
    SHOAL_TRY(shoal_gguf_put_bool(writer, "tokenizer.ggml.add_space_prefix",
                                  (v->flags & FLAG_PREFIX) != 0));
    return shoal_gguf_writer_finish(writer, bytes, NULL);
}

/* The text with every longest ill-formed run replaced. */
static shoal_status lossy(const char *text, size_t n, shoal_buf *buf)
{
    for (size_t at = 0; at < n;) {
        shoal_utf8_part part = shoal_utf8_next(text + at, n - at);
        bool valid = part.state == SHOAL_UTF8_VALID;
        SHOAL_TRY(
            shoal_buf_append(buf, valid ? text + at : "\xEF\xBF\xBD", valid ? part.length : 3));
        at += part.length;
    }
    return SHOAL_OK;
}

static shoal_status decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n,
                           shoal_buf *buf)
{
    shoal_detok state = {.n_pending = 0};
    for (size_t i = 0; i < n; i++) {
        SHOAL_ASSERT(ids[i] >= 0 && (size_t)ids[i] < shoal_tokenizer_n_vocab(tokenizer));
        SHOAL_TRY(shoal_detok_push(tokenizer, &state, ids[i], buf));
    }
    return shoal_detok_finish(&state, buf);
}

static void run(const shoal_tokenizer *tokenizer, const vocab *v, const char *text, size_t n)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    shoal_buf got = {.data = NULL};
    shoal_buf want = {.data = NULL};
    shoal_encode_flags flags = {.add_bos = true, .parse_special = (v->flags & FLAG_SPECIAL) != 0};
    SHOAL_ASSERT(shoal_tokenizer_encode(tokenizer, text, n, flags, &ids, &n_ids, NULL) == SHOAL_OK);
    /* One unit of text can become no more ids than it has bytes, with a space before each
     * special token. */
    SHOAL_ASSERT(n_ids <= 4 * n + 4);
    SHOAL_ASSERT(decode(tokenizer, ids, n_ids, &got) == SHOAL_OK);
    SHOAL_ASSERT(lossy(got.data, got.length, &want) == SHOAL_OK);
    SHOAL_ASSERT(want.length == got.length); /* what comes out is UTF-8 */
    bool whole = !(v->flags & (FLAG_NO_BYTES | FLAG_NO_TYPES | FLAG_UNKNOWN | FLAG_SPECIAL));
    if (whole && (n == 0 || !memmem(text, n, "\xE2\x96\x81", 3))) {
        shoal_buf_reset(&want);
        SHOAL_ASSERT(lossy(text, n, &want) == SHOAL_OK);
        SHOAL_ASSERT(want.length == got.length);
        SHOAL_ASSERT(got.length == 0 || memcmp(want.data, got.data, got.length) == 0);
    }
    shoal_free(ids);
    shoal_buf_fini(&got);
    shoal_buf_fini(&want);
}

void fuzz_tokenizer(const char *model, const uint8_t *data, size_t size)
{
    input in = {.data = data, .size = size};
    vocab *v = shoal_calloc(1, sizeof(*v));
    shoal_buf bytes = {.data = NULL};
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_ASSERT(v);
    read_vocab(&in, strcmp(model, "llama") == 0, v);
    if (write_file(model, v, &bytes) == SHOAL_OK &&
        shoal_gguf_open((const uint8_t *)bytes.data, bytes.length, &gguf, NULL) == SHOAL_OK) {
        if (shoal_tokenizer_new(gguf, &tokenizer, &err) == SHOAL_OK) {
            run(tokenizer, v, (const char *)in.data, in.size);
        } else {
            SHOAL_ASSERT(err.code != SHOAL_OK && strstr(err.text, "tokenizer."));
        }
    }
    shoal_tokenizer_free(tokenizer);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&bytes);
    shoal_free(v);
}
