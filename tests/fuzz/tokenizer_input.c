/* SPDX-License-Identifier: Apache-2.0
 *
 * An input is: flags, rule, template, tokens, merge rules, and the rest is the text. A vocabulary
 * of all 256 bytes would cost ten times what everything else does, so it holds the bytes that the
 * text needs and an unknown token for the others; one rule in 16 gets all of them.
 */
#include "tokenizer_input.h"

#include "common/base/mem.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/utf8.h"
#include "common/tokenizer/vocab.h"

#include <stdio.h>
#include <string.h>

enum {
    FLAG_NO_BYTES = 1, /* leave the byte tokens out */
    FLAG_NO_TYPES = 2, /* leave the types out */
    FLAG_PREFIX = 4,   /* add_space_prefix */
    FLAG_SPECIAL = 8,  /* parse_special */
    FLAG_UNKNOWN = 16, /* name an unknown token */
    FLAG_BOS = 32,     /* add_bos_token, add_eos_token */
    FLAGS_AGAIN = 192, /* both: a second tokenizer must agree, whose tables have other keys */
    TOKENS_MAX = 32,
    MERGES_MAX = 32,
    TEXT_MAX = 512,
    INPUT_MAX = 2048,
    VOCAB_MAX = 258 + TOKENS_MAX
};

/* What a template may say beside its family's markers, a bit of its pick each. */
static const char *const sayings[] = {"bos_token", "split('</think>')",
                                      "<\xEF\xBD\234Assistant\xEF\xBD\x9C><think>+ '\n'"};

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

/* What a file is written from. The texts of bytes and merges lie in the arrays at the end. */
typedef struct vocab {
    bool spm;
    uint8_t flags;
    uint8_t rule;
    uint8_t chat_template;
    shoal_str texts[VOCAB_MAX];
    float scores[VOCAB_MAX];
    int32_t types[VOCAB_MAX];
    size_t n;
    shoal_str merges[MERGES_MAX];
    uint8_t picks[MERGES_MAX][2];
    size_t n_merges;
    shoal_str text;
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

static void add_byte(vocab *v, uint8_t byte)
{
    static const char digits[] = "0123456789ABCDEF";
    char *text = v->byte_texts[byte];
    size_t n = 6;
    if (v->spm) {
        memcpy(text, "<0x00>", 6);
        text[3] = digits[byte / 16];
        text[4] = digits[byte % 16];
    } else {
        n = shoal_bpe_char_of_byte(byte, text);
    }
    add(v, (shoal_str){.data = text, .length = n}, 0,
        v->spm ? SHOAL_TOKEN_BYTE : SHOAL_TOKEN_NORMAL);
}

static void add_bytes(vocab *v)
{
    bool needed[256] = {false};
    for (size_t i = 0; i < v->text.length; i++) {
        needed[(uint8_t)v->text.data[i]] = true;
    }
    bool all = v->rule >= 240;
    for (size_t byte = 0; byte < 256; byte++) {
        if (all || needed[byte]) {
            add_byte(v, (uint8_t)byte);
        }
    }
    /* A space of its own, so that spaces do not become the bytes of U+2581. */
    if (v->spm) {
        add(v, (shoal_str){.data = "\xE2\x96\x81", .length = 3}, 0, SHOAL_TOKEN_NORMAL);
    }
    if (!all && !(v->flags & FLAG_UNKNOWN)) {
        add(v, (shoal_str){.data = "", .length = 0}, 0, SHOAL_TOKEN_UNKNOWN);
    }
}

/* The rule "left right" of two tokens: a byte names one of the first or, from 128 on, one of the
 * last. */
static void add_merge(vocab *v, const uint8_t picks[2])
{
    char *text = v->merge_texts[v->n_merges];
    size_t length = 0;
    for (size_t side = 0; side < 2; side++) {
        size_t pick = picks[side];
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

static void read_vocab(input *in, vocab *v)
{
    shoal_str texts[TOKENS_MAX];
    float scores[TOKENS_MAX];
    int32_t types[TOKENS_MAX];
    uint8_t picks[MERGES_MAX][2];
    v->flags = take(in);
    v->rule = take(in);
    v->chat_template = take(in);
    size_t n_tokens = take(in) % (TOKENS_MAX + 1);
    for (size_t i = 0; i < n_tokens; i++) {
        types[i] = take(in) % 8;
        scores[i] = (float)(take(in) % 16) - 8.0f;
        texts[i] = take_text(in);
    }
    size_t n_merges = take(in) % (MERGES_MAX + 1);
    for (size_t i = 0; i < n_merges; i++) {
        picks[i][0] = take(in);
        picks[i][1] = take(in);
    }
    size_t n_text = SHOAL_MIN(in->size, (size_t)TEXT_MAX);
    v->text = (shoal_str){.data = (const char *)in->data, .length = n_text};
    if (!(v->flags & FLAG_NO_BYTES)) {
        add_bytes(v);
    }
    for (size_t i = 0; i < n_tokens; i++) {
        add(v, texts[i], scores[i], types[i]);
    }
    for (size_t i = 0; i < n_merges && v->n > 0; i++) {
        add_merge(v, picks[i]);
    }
}

/* --- the file --------------------------------------------------------------------------------- */

/* Written here rather than by shoal_gguf_writer, which costs as much as reading and using it. */
typedef struct file {
    uint8_t bytes[1 << 16];
    size_t n;
    uint64_t n_pairs;
} file;

static void put_bytes(file *f, const void *p, size_t n)
{
    SHOAL_ASSERT(n <= sizeof(f->bytes) - f->n);
    if (n > 0) {
        memcpy(f->bytes + f->n, p, n);
    }
    f->n += n;
}

static void put_u32(file *f, uint32_t x)
{
    put_bytes(f, &x, sizeof(x));
}

static void put_u64(file *f, uint64_t x)
{
    put_bytes(f, &x, sizeof(x));
}

static void put_text(file *f, const char *text, size_t n)
{
    put_u64(f, n);
    put_bytes(f, text, n);
}

static void put_key(file *f, const char *key, uint32_t kind)
{
    put_text(f, key, strlen(key));
    put_u32(f, kind);
    f->n_pairs++;
}

static void put_str(file *f, const char *key, const char *text)
{
    put_key(f, key, SHOAL_GGUF_STRING);
    put_text(f, text, strlen(text));
}

/* Every rule there is, by every name that files have for it. */
static void put_rule(file *f, size_t pick)
{
    size_t rule = pick % shoal_bpe_n_rules();
    shoal_str name = shoal_bpe_rule_name(rule, pick / shoal_bpe_n_rules());
    if (name.length == 0) {
        name = shoal_bpe_rule_name(rule, 0);
    }
    put_key(f, "tokenizer.ggml.pre", SHOAL_GGUF_STRING);
    put_text(f, name.data, name.length);
}

static void put_flag(file *f, const char *key, bool value)
{
    uint8_t byte = value ? 1 : 0;
    put_key(f, key, SHOAL_GGUF_BOOL);
    put_bytes(f, &byte, 1);
}

static void put_id(file *f, const char *key, uint32_t id)
{
    put_key(f, key, SHOAL_GGUF_U32);
    put_u32(f, id);
}

static void put_array(file *f, const char *key, uint32_t element, size_t n)
{
    put_key(f, key, SHOAL_GGUF_ARRAY);
    put_u32(f, element);
    put_u64(f, n);
}

static void put_texts(file *f, const char *key, const shoal_str *texts, size_t n)
{
    put_array(f, key, SHOAL_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        put_text(f, texts[i].data, texts[i].length);
    }
}

/* Every family there is by its markers alone, and behind them no template, one of no family, and
 * one with a system message of its own. */
static void put_template(file *f, size_t pick)
{
    char text[512] = "";
    size_t n = 0;
    size_t n_families = 0;
    while (shoal_chat_markers(n_families)) {
        n_families++;
    }
    size_t family = pick % (n_families + 3);
    const char *const *marker = shoal_chat_markers(family);
    for (; marker && *marker; marker++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s\n", *marker);
    }
    for (size_t i = 0; i < SHOAL_COUNT(sayings) && family < n_families; i++) {
        bool says = pick / (n_families + 3) >> i & 1;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", says ? sayings[i] : "");
    }
    SHOAL_ASSERT(n < sizeof(text));
    if (family == n_families) {
        return;
    }
    if (family > n_families) {
        put_str(f, "tokenizer.chat_template",
                family == n_families + 1 ? "no such thing"
                                         : "bos_token <|im_start|>system\nbe<|im_end|>");
        return;
    }
    put_str(f, "tokenizer.chat_template", text);
}

static void write_file(const vocab *v, file *f)
{
    f->n = 0;
    f->n_pairs = 0;
    put_bytes(f, "GGUF\x03\0\0\0", 8);
    put_u64(f, 0); /* tensors */
    put_u64(f, 0); /* pairs, known at the end */
    put_str(f, "tokenizer.ggml.model", v->spm ? "llama" : "gpt2");
    put_texts(f, "tokenizer.ggml.tokens", v->texts, v->n);
    if (v->spm) {
        put_array(f, "tokenizer.ggml.scores", SHOAL_GGUF_F32, v->n);
        put_bytes(f, v->scores, v->n * sizeof(v->scores[0]));
        put_flag(f, "tokenizer.ggml.add_space_prefix", (v->flags & FLAG_PREFIX) != 0);
    } else {
        put_rule(f, v->rule);
        put_texts(f, "tokenizer.ggml.merges", v->merges, v->n_merges);
    }
    if (!(v->flags & FLAG_NO_TYPES)) {
        put_array(f, "tokenizer.ggml.token_type", SHOAL_GGUF_I32, v->n);
        put_bytes(f, v->types, v->n * sizeof(v->types[0]));
    }
    if (v->flags & FLAG_UNKNOWN) {
        put_id(f, "tokenizer.ggml.unknown_token_id", 0);
    }
    if (v->flags & FLAG_BOS) {
        put_flag(f, "tokenizer.ggml.add_bos_token", true);
        put_flag(f, "tokenizer.ggml.add_eos_token", true);
        put_id(f, "tokenizer.ggml.bos_token_id", 1);
        put_id(f, "tokenizer.ggml.eos_token_id", 2);
    }
    put_template(f, v->chat_template);
    memcpy(f->bytes + 16, &f->n_pairs, sizeof(f->n_pairs));
}

/* --- what must hold -------------------------------------------------------------------------- */

/* The text with every longest ill-formed run replaced. */
static void lossy(const char *text, size_t n, shoal_buf *buf)
{
    for (size_t at = 0; at < n;) {
        shoal_utf8_part part = shoal_utf8_next(text + at, n - at);
        bool valid = part.state == SHOAL_UTF8_VALID;
        SHOAL_ASSERT(shoal_buf_append(buf, valid ? text + at : "\xEF\xBF\xBD",
                                      valid ? part.length : 3) == SHOAL_OK);
        at += part.length;
    }
}

static bool same(const shoal_buf *a, const shoal_buf *b)
{
    return a->length == b->length && (a->length == 0 || memcmp(a->data, b->data, a->length) == 0);
}

/* Each push gives whole characters only. */
static void decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n, shoal_buf *buf)
{
    shoal_detok state = {.n_pending = 0};
    for (size_t i = 0; i <= n; i++) {
        size_t before = buf->length;
        if (i < n) {
            SHOAL_ASSERT(ids[i] >= 0 && (size_t)ids[i] < shoal_tokenizer_n_vocab(tokenizer));
            SHOAL_ASSERT(shoal_detok_push(tokenizer, &state, ids[i], buf) == SHOAL_OK);
        } else {
            SHOAL_ASSERT(shoal_detok_finish(&state, buf) == SHOAL_OK);
        }
        for (size_t at = before; at < buf->length;) {
            shoal_utf8_part part = shoal_utf8_next(buf->data + at, buf->length - at);
            SHOAL_ASSERT(part.state == SHOAL_UTF8_VALID);
            at += part.length;
        }
    }
}

static bool covers(const shoal_tokenizer *tokenizer, shoal_str text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (tokenizer->byte_ids[(uint8_t)text.data[i]] < 0) {
            return false;
        }
    }
    return true;
}

/* The text's bytes, one token each, must stream out as the text. */
static void check_bytes(const shoal_tokenizer *tokenizer, shoal_str text, const shoal_buf *want)
{
    int32_t ids[TEXT_MAX];
    shoal_buf got = {.data = NULL};
    for (size_t i = 0; i < text.length; i++) {
        ids[i] = tokenizer->byte_ids[(uint8_t)text.data[i]];
    }
    decode(tokenizer, ids, text.length, &got);
    SHOAL_ASSERT(same(&got, want));
    shoal_buf_fini(&got);
}

static void check_text(const shoal_tokenizer *tokenizer, const vocab *v, int32_t **ret_ids,
                       size_t *ret_n)
{
    shoal_str text = v->text;
    shoal_buf got = {.data = NULL};
    bool special = (v->flags & FLAG_SPECIAL) != 0;
    shoal_encode_flags flags = {.add_bos = true, .add_eos = true, .parse_special = special};
    SHOAL_ASSERT(shoal_tokenizer_encode(tokenizer, text.data, text.length, flags, ret_ids, ret_n,
                                        NULL) == SHOAL_OK);
    /* One unit of text can become no more ids than it has bytes, with a space before each
     * special token. */
    SHOAL_ASSERT(*ret_n <= 4 * text.length + 5);
    decode(tokenizer, *ret_ids, *ret_n, &got);
    bool mark = text.length > 0 && memmem(text.data, text.length, "\xE2\x96\x81", 3) != NULL;
    if (!special && !mark && covers(tokenizer, text) && !(v->flags & (FLAG_NO_BYTES | FLAG_BOS))) {
        shoal_buf want = {.data = NULL};
        lossy(text.data, text.length, &want);
        SHOAL_ASSERT(same(&got, &want));
        check_bytes(tokenizer, text, &want);
        shoal_buf_fini(&want);
    }
    shoal_buf_fini(&got);
}

/* The control and markup ids of a conversation with this content. */
static size_t markup_ids(const shoal_tokenizer *tokenizer, const char *content, int32_t *ret_markup,
                         size_t max)
{
    const shoal_chat_message messages[] = {{"user", content}};
    int32_t *ids = NULL;
    size_t n = 0;
    size_t n_markup = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_chat_encode(tokenizer, messages, 1, &ids, &n, &err);
    SHOAL_ASSERT(status == SHOAL_OK || (status == SHOAL_E_UNSUPPORTED && err.text[0] != '\0'));
    for (size_t i = 0; i < n; i++) {
        uint32_t type = tokenizer->tokens[ids[i]].type;
        /* A file may name a control token to stand for what it has no token for. */
        if (ids[i] != tokenizer->unknown &&
            (type == SHOAL_TOKEN_CONTROL || type == SHOAL_TOKEN_MARKUP)) {
            SHOAL_ASSERT(n_markup < max);
            ret_markup[n_markup++] = ids[i];
        }
    }
    shoal_free(ids);
    return n_markup;
}

/* Whatever a message says, the markup is that of a harmless one. */
static void check_chat(const shoal_tokenizer *tokenizer, shoal_str text)
{
    char content[TEXT_MAX + 1];
    int32_t want[256];
    int32_t got[256];
    size_t n = strnlen(text.data, text.length);
    memcpy(content, text.data, n);
    content[n] = '\0';
    /* With nothing between them two parts of the markup are one, which may hold other tokens. */
    if (strspn(content, " \t\n\v\f\r") == n) {
        return;
    }
    size_t n_want = markup_ids(tokenizer, "x", want, SHOAL_COUNT(want));
    size_t n_got = markup_ids(tokenizer, content, got, SHOAL_COUNT(got));
    SHOAL_ASSERT(n_got == n_want && memcmp(got, want, n_want * sizeof(want[0])) == 0);
}

static void check_again(const shoal_gguf *gguf, const shoal_tokenizer *tokenizer, const vocab *v,
                        const int32_t *ids, size_t n)
{
    shoal_tokenizer *again = NULL;
    int32_t *ids_again = NULL;
    size_t n_again = 0;
    SHOAL_ASSERT(shoal_tokenizer_new(gguf, &again, NULL) == SHOAL_OK);
    SHOAL_ASSERT(memcmp(shoal_tokenizer_hash(again), shoal_tokenizer_hash(tokenizer),
                        sizeof(shoal_hash)) == 0);
    check_text(again, v, &ids_again, &n_again);
    SHOAL_ASSERT(n_again == n && memcmp(ids_again, ids, n * sizeof(ids[0])) == 0);
    shoal_free(ids_again);
    shoal_tokenizer_free(again);
}

int fuzz_tokenizer(bool spm, const uint8_t *data, size_t size)
{
    static vocab v;
    static file f;
    if (size > INPUT_MAX) {
        return -1; /* not worth keeping */
    }
    input in = {.data = data, .size = size};
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    v.spm = spm;
    v.n = 0;
    v.n_merges = 0;
    read_vocab(&in, &v);
    write_file(&v, &f);
    SHOAL_ASSERT(shoal_gguf_open(f.bytes, f.n, &gguf, NULL) == SHOAL_OK);
    if (shoal_tokenizer_new(gguf, &tokenizer, &err) == SHOAL_OK) {
        int32_t *ids = NULL;
        size_t n_ids = 0;
        check_text(tokenizer, &v, &ids, &n_ids);
        check_chat(tokenizer, v.text);
        if ((v.flags & FLAGS_AGAIN) == FLAGS_AGAIN) {
            check_again(gguf, tokenizer, &v, ids, n_ids);
        }
        shoal_free(ids);
    } else {
        SHOAL_ASSERT(err.code != SHOAL_OK && strstr(err.text, "tokenizer."));
    }
    shoal_tokenizer_free(tokenizer);
    shoal_gguf_close(gguf);
    return 0;
}
