/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids back to text, as a stream: whatever the cut of tokens, only whole characters come out, and
 * each longest beginning of a character that cannot be finished becomes one U+FFFD (the practice
 * of the Unicode standard, section 3.9).
 */
#include "common/tokenizer/vocab.h"

#include "common/tokenizer/utf8.h"

#include <string.h>

static const char replacement[] = "\xEF\xBF\xBD";

/* Sends one byte through the decoder. */
static shoal_status push_byte(shoal_detok *state, char byte, shoal_buf *buf)
{
    SHOAL_ASSERT(state->n_pending < sizeof(state->pending));
    state->pending[state->n_pending++] = (uint8_t)byte;
    while (state->n_pending > 0) {
        char bytes[sizeof(state->pending)];
        memcpy(bytes, state->pending, sizeof(bytes));
        shoal_utf8_part part = shoal_utf8_next(bytes, state->n_pending);
        if (part.state == SHOAL_UTF8_UNFINISHED) {
            return SHOAL_OK;
        }
        if (part.state == SHOAL_UTF8_VALID) {
            SHOAL_TRY(shoal_buf_append(buf, bytes, part.length));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, replacement, 3));
        }
        state->n_pending = (uint8_t)(state->n_pending - part.length);
        memmove(state->pending, state->pending + part.length, state->n_pending);
    }
    return SHOAL_OK;
}

static shoal_status push_bytes(shoal_detok *state, const char *p, size_t n, shoal_buf *buf)
{
    for (size_t at = 0; at < n;) {
        /* Whole characters go out as one run; only what is odd goes byte by byte. */
        size_t run = 0;
        while (state->n_pending == 0 && at + run < n) {
            shoal_utf8_part part = shoal_utf8_next(p + at + run, n - at - run);
            if (part.state != SHOAL_UTF8_VALID) {
                break;
            }
            run += part.length;
        }
        if (run > 0) {
            SHOAL_TRY(shoal_buf_append(buf, p + at, run));
            at += run;
            continue;
        }
        SHOAL_TRY(push_byte(state, p[at], buf));
        at++;
    }
    return SHOAL_OK;
}

static shoal_status push_spm(const shoal_tokenizer *tokenizer, shoal_detok *state, shoal_str text,
                             shoal_buf *buf)
{
    static const char mark[] = "\xE2\x96\x81"; /* U+2581 */
    size_t at = 0;
    if (!state->started && tokenizer->add_space_prefix && text.length >= 3 &&
        memcmp(text.data, mark, 3) == 0) {
        at = 3;
    }
    if (text.length > 0) {
        state->started = true;
    }
    while (at < text.length) {
        const char *next = memmem(text.data + at, text.length - at, mark, 3);
        size_t plain = next ? (size_t)(next - text.data) - at : text.length - at;
        SHOAL_TRY(push_bytes(state, text.data + at, plain, buf));
        at += plain;
        if (next) {
            SHOAL_TRY(push_bytes(state, " ", 1, buf));
            at += 3;
        }
    }
    return SHOAL_OK;
}

/* A character that stands for no byte (only a damaged vocabulary has one) stands for itself. */
static shoal_status push_bpe(shoal_detok *state, shoal_str text, shoal_buf *buf)
{
    char bytes[256];
    size_t n_bytes = 0;
    for (size_t at = 0; at < text.length;) {
        shoal_utf8_part part = shoal_utf8_next(text.data + at, text.length - at);
        int byte =
            shoal_bpe_byte_of_text((shoal_str){.data = text.data + at, .length = part.length});
        if (n_bytes + 4 > sizeof(bytes)) {
            SHOAL_TRY(push_bytes(state, bytes, n_bytes, buf));
            n_bytes = 0;
        }
        if (byte >= 0) {
            bytes[n_bytes++] = (char)byte;
        } else {
            memcpy(bytes + n_bytes, text.data + at, part.length);
            n_bytes += part.length;
        }
        at += part.length;
    }
    return push_bytes(state, bytes, n_bytes, buf);
}

static shoal_status push(const shoal_tokenizer *tokenizer, shoal_detok *state, int32_t id,
                         shoal_buf *buf)
{
    shoal_str text = shoal_vocab_text(tokenizer, (size_t)id);
    switch (tokenizer->tokens[id].type) {
    case SHOAL_TOKEN_CONTROL:
        /* The encoder puts a space before the text that follows; it goes again here. */
        state->started = false;
        return SHOAL_OK;
    case SHOAL_TOKEN_USER:
    case SHOAL_TOKEN_MARKUP:
        SHOAL_TRY(push_bytes(state, text.data, text.length, buf));
        state->started = false;
        return SHOAL_OK;
    case SHOAL_TOKEN_UNKNOWN:
        state->started = true;
        return push_bytes(state, replacement, 3, buf);
    default:
        break;
    }
    if (tokenizer->kind == SHOAL_VOCAB_BPE) {
        state->started = true;
        return push_bpe(state, text, buf);
    }
    if (tokenizer->tokens[id].type == SHOAL_TOKEN_BYTE) {
        int byte = shoal_spm_byte_of_text(text);
        if (byte >= 0) {
            char one = (char)(uint8_t)byte;
            state->started = true;
            return push_bytes(state, &one, 1, buf);
        }
    }
    return push_spm(tokenizer, state, text, buf);
}

shoal_status shoal_detok_push(const shoal_tokenizer *tokenizer, shoal_detok *state, int32_t id,
                              shoal_buf *buf)
{
    if (id < 0 || (size_t)id >= tokenizer->n_vocab) {
        return SHOAL_E_INVALID;
    }
    /* On failure the text and the state are as before. */
    shoal_detok next = *state;
    size_t length = buf->length;
    shoal_status status = push(tokenizer, &next, id, buf);
    if (status != SHOAL_OK) {
        buf->length = length;
        if (buf->data) {
            buf->data[length] = '\0';
        }
        return status;
    }
    *state = next;
    return SHOAL_OK;
}

shoal_status shoal_detok_finish(shoal_detok *state, shoal_buf *buf)
{
    if (state->n_pending > 0) {
        SHOAL_TRY(shoal_buf_append(buf, replacement, 3));
        state->n_pending = 0;
    }
    return SHOAL_OK;
}
