/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/upstream/retoken.h"

#include "common/base/mem.h"

#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

size_t shoal_retoken_ready(const char *text, size_t n_text)
{
    size_t end = n_text;
    while (end > 0 && !is_space(text[end - 1])) {
        end--;
    }
    while (end > 0 && is_space(text[end - 1])) {
        end--;
    }
    return end == 0 && n_text > SHOAL_RETOKEN_HELD_MAX ? n_text : end;
}

/* Whether ids, as the continuation of a text or as its beginning, decode to exactly text. */
static shoal_status decodes_to(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n_ids,
                               bool started, shoal_str text, bool *ret_same)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    shoal_detok detok = {.started = started};
    for (size_t i = 0; i < n_ids; i++) {
        SHOAL_TRY(shoal_detok_push(tokenizer, &detok, ids[i], &out));
        if (out.length > text.length) {
            *ret_same = false;
            return SHOAL_OK;
        }
    }
    SHOAL_TRY(shoal_detok_finish(&detok, &out));
    *ret_same = out.length == text.length &&
                (text.length == 0 || memcmp(out.data, text.data, text.length) == 0);
    return SHOAL_OK;
}

/* Encodes anchor + text and cuts the ids of the anchor off, if they are whole. SHOAL_EOF: this
 * anchor does not serve. */
static shoal_status encode_behind(const shoal_tokenizer *tokenizer, const char *anchor,
                                  shoal_str text, int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    enum {
        ANCHOR_IDS_MAX = 4
    };
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
    size_t n_anchor = strlen(anchor);
    SHOAL_TRY(shoal_buf_append(&whole, anchor, n_anchor));
    SHOAL_TRY(shoal_buf_append(&whole, text.data, text.length));
    int32_t *ids = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_tokenizer_encode(tokenizer, whole.data, whole.length,
                                     (shoal_encode_flags){.add_bos = false}, &ids, &n, err));
    shoal_status status = SHOAL_EOF;
    for (size_t k = 0; k <= SHOAL_MIN(n, (size_t)ANCHOR_IDS_MAX) && status == SHOAL_EOF; k++) {
        bool head = false;
        bool tail = false;
        shoal_status checked =
            decodes_to(tokenizer, ids, k, false, (shoal_str){anchor, n_anchor}, &head);
        if (checked == SHOAL_OK && head) {
            checked = decodes_to(tokenizer, ids + k, n - k, true, text, &tail);
        }
        if (checked != SHOAL_OK) {
            status = checked;
        } else if (head && tail) {
            memmove(ids, ids + k, (n - k) * sizeof(*ids));
            *ret_ids = SHOAL_STEAL(ids);
            *ret_n = n - k;
            status = SHOAL_OK;
        }
    }
    shoal_free(ids);
    return status;
}

shoal_status shoal_retoken_encode(const shoal_tokenizer *tokenizer, const char *text, size_t n,
                                  int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    /* A vocabulary that puts a space before every text says so by itself: its ids for "word" read
     * " word". So a space of ours is left to it, and where there is none the text hides behind
     * something that does not grow into it. */
    static const char *const anchors[] = {"\n", "a", ".", "\n\n"};
    shoal_str str = {text, n};
    shoal_status status = encode_behind(tokenizer, "", str, ret_ids, ret_n, err);
    if (status == SHOAL_EOF && n > 1 && text[0] == ' ') {
        int32_t *ids = NULL;
        size_t n_ids = 0;
        bool same = false;
        SHOAL_TRY(shoal_tokenizer_encode(
            tokenizer, text + 1, n - 1, (shoal_encode_flags){.add_bos = false}, &ids, &n_ids, err));
        status = decodes_to(tokenizer, ids, n_ids, true, str, &same);
        if (status == SHOAL_OK && same) {
            *ret_ids = ids;
            *ret_n = n_ids;
            return SHOAL_OK;
        }
        shoal_free(ids);
        status = status == SHOAL_OK ? SHOAL_EOF : status;
    }
    for (size_t i = 0; i < SHOAL_COUNT(anchors) && status == SHOAL_EOF; i++) {
        status = encode_behind(tokenizer, anchors[i], str, ret_ids, ret_n, err);
    }
    return status == SHOAL_EOF
               ? shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                               "the vocabulary has no ids for a text of %zu bytes as it came", n)
               : status;
}

shoal_status shoal_retoken_prompt(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                  shoal_buf *buf, shoal_err *err)
{
    shoal_detok detok = {0};
    size_t i = 0;
    if (n > 0 && ids[0] == shoal_tokenizer_bos(tokenizer) && shoal_tokenizer_adds_bos(tokenizer)) {
        i = 1;
    }
    for (; i < n; i++) {
        size_t before = buf->length;
        uint8_t pending = detok.n_pending;
        SHOAL_TRY(shoal_detok_push(tokenizer, &detok, ids[i], buf));
        if (buf->length == before && detok.n_pending == pending && !detok.started) {
            shoal_str name = shoal_tokenizer_text(tokenizer, ids[i]);
            SHOAL_TRY(shoal_buf_append(buf, name.data, name.length));
        }
    }
    if (detok.n_pending > 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "the prompt of %zu tokens ends within a character, and the upstream "
                             "takes text alone; use an engine that takes token ids",
                             n);
    }
    return SHOAL_OK;
}

int32_t shoal_retoken_single_id(const shoal_tokenizer *tokenizer, const char *text, size_t n)
{
    int32_t *ids = NULL;
    size_t n_ids = 0;
    if (n == 0 || shoal_retoken_encode(tokenizer, text, n, &ids, &n_ids, NULL) != SHOAL_OK) {
        return -1;
    }
    int32_t id = n_ids == 1 ? ids[0] : -1;
    shoal_free(ids);
    return id;
}

int32_t shoal_retoken_end_id(const shoal_tokenizer *tokenizer)
{
    int32_t eos = shoal_tokenizer_eos(tokenizer);
    if (eos >= 0 && shoal_tokenizer_is_end(tokenizer, eos)) {
        return eos;
    }
    for (size_t i = 0; i < shoal_tokenizer_n_vocab(tokenizer); i++) {
        if (shoal_tokenizer_is_end(tokenizer, (int32_t)i)) {
            return (int32_t)i;
        }
    }
    return -1;
}
