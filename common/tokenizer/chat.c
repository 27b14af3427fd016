/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates. A model's template is a program in a language of its own; running it would let
 * a file compute without end (HARDENING of other runtimes shows loops and recursion). Here it is
 * only recognised, by texts that its family must contain, and rendered by code of ours.
 */
#include "common/tokenizer/vocab.h"

#include <string.h>

static const char template_key[] = "tokenizer.chat_template";
static const char known[] = "none, chatml, llama2, llama3, zephyr, gemma, mistral";

/* A rendering under way. */
typedef struct rendering {
    const shoal_tokenizer *tokenizer;
    const shoal_chat_message *messages;
    size_t n;
    shoal_buf *buf;
} rendering;

struct shoal_chat_template {
    const char *name;
    const char *const *markers; /* all must occur, NULL ends the list */
    const char *without;        /* must not occur; NULL: nothing */
    shoal_status (*render)(const rendering *turn);
};

static shoal_status put(const rendering *turn, const char *text)
{
    return shoal_buf_append(turn->buf, text, strlen(text));
}

static shoal_status put_token(const rendering *turn, int32_t id)
{
    shoal_str text = shoal_tokenizer_text(turn->tokenizer, id);
    return shoal_buf_append(turn->buf, text.data, text.length);
}

static bool is_role(const shoal_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The content without white space at its ends, as the published templates write it. */
static shoal_status put_trimmed(const rendering *turn, const char *text)
{
    size_t n = strlen(text);
    while (n > 0 && is_space(text[n - 1])) {
        n--;
    }
    while (n > 0 && is_space(*text)) {
        text++;
        n--;
    }
    return shoal_buf_append(turn->buf, text, n);
}

static shoal_status render_none(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        if (i > 0) {
            SHOAL_TRY(put(turn, "\n"));
        }
        SHOAL_TRY(put(turn, turn->messages[i].content));
    }
    return SHOAL_OK;
}

static shoal_status render_chatml(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        SHOAL_TRY(put(turn, "<|im_start|>"));
        SHOAL_TRY(put(turn, turn->messages[i].role));
        SHOAL_TRY(put(turn, "\n"));
        SHOAL_TRY(put(turn, turn->messages[i].content));
        SHOAL_TRY(put(turn, "<|im_end|>\n"));
    }
    return put(turn, "<|im_start|>assistant\n");
}

static shoal_status render_llama3(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        SHOAL_TRY(put(turn, "<|start_header_id|>"));
        SHOAL_TRY(put(turn, turn->messages[i].role));
        SHOAL_TRY(put(turn, "<|end_header_id|>\n\n"));
        SHOAL_TRY(put_trimmed(turn, turn->messages[i].content));
        SHOAL_TRY(put(turn, "<|eot_id|>"));
    }
    return put(turn, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static shoal_status render_zephyr(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        SHOAL_TRY(put(turn, "<|"));
        SHOAL_TRY(put(turn, turn->messages[i].role));
        SHOAL_TRY(put(turn, "|>\n"));
        SHOAL_TRY(put(turn, turn->messages[i].content));
        SHOAL_TRY(put_token(turn, turn->tokenizer->eos));
        SHOAL_TRY(put(turn, "\n"));
    }
    return put(turn, "<|assistant|>\n");
}

/* Families without a system role put its text before that of the next user message. The system
 * messages just before message i, if i is a user's. */
static size_t first_system_before(const rendering *turn, size_t i)
{
    while (i > 0 && is_role(&turn->messages[i - 1], "system")) {
        i--;
    }
    return i;
}

static shoal_status put_systems(const rendering *turn, size_t begin, size_t end,
                                const char *separator)
{
    for (size_t i = begin; i < end; i++) {
        if (i > begin) {
            SHOAL_TRY(put(turn, "\n\n"));
        }
        SHOAL_TRY(put_trimmed(turn, turn->messages[i].content));
    }
    return begin < end ? put(turn, separator) : SHOAL_OK;
}

static shoal_status render_gemma(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        const shoal_chat_message *message = &turn->messages[i];
        if (is_role(message, "system")) {
            continue;
        }
        bool user = is_role(message, "user");
        SHOAL_TRY(put(turn, user ? "<start_of_turn>user\n" : "<start_of_turn>model\n"));
        if (user) {
            SHOAL_TRY(put_systems(turn, first_system_before(turn, i), i, "\n\n"));
        }
        SHOAL_TRY(put_trimmed(turn, message->content));
        SHOAL_TRY(put(turn, "<end_of_turn>\n"));
    }
    return put(turn, "<start_of_turn>model\n");
}

/* The first BOS is left to the encoder (add_bos); later turns of Llama 2 have one of their own. */
static shoal_status render_llama2(const rendering *turn)
{
    bool answered = false;
    for (size_t i = 0; i < turn->n; i++) {
        const shoal_chat_message *message = &turn->messages[i];
        if (is_role(message, "system")) {
            continue;
        }
        if (is_role(message, "assistant")) {
            SHOAL_TRY(put(turn, " "));
            SHOAL_TRY(put_trimmed(turn, message->content));
            SHOAL_TRY(put(turn, " "));
            SHOAL_TRY(put_token(turn, turn->tokenizer->eos));
            answered = true;
            continue;
        }
        if (answered) {
            SHOAL_TRY(put_token(turn, turn->tokenizer->bos));
            answered = false;
        }
        size_t system = first_system_before(turn, i);
        SHOAL_TRY(put(turn, system < i ? "[INST] <<SYS>>\n" : "[INST] "));
        SHOAL_TRY(put_systems(turn, system, i, "\n<</SYS>>\n\n"));
        SHOAL_TRY(put_trimmed(turn, message->content));
        SHOAL_TRY(put(turn, " [/INST]"));
    }
    return SHOAL_OK;
}

static shoal_status render_mistral(const rendering *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        const shoal_chat_message *message = &turn->messages[i];
        if (is_role(message, "system")) {
            continue;
        }
        if (is_role(message, "assistant")) {
            SHOAL_TRY(put(turn, " "));
            SHOAL_TRY(put_trimmed(turn, message->content));
            SHOAL_TRY(put_token(turn, turn->tokenizer->eos));
            continue;
        }
        SHOAL_TRY(put(turn, "[INST] "));
        SHOAL_TRY(put_systems(turn, first_system_before(turn, i), i, "\n\n"));
        SHOAL_TRY(put(turn, message->content));
        SHOAL_TRY(put(turn, " [/INST]"));
    }
    return SHOAL_OK;
}

static const char *const chatml_markers[] = {"<|im_start|>", NULL};
static const char *const llama3_markers[] = {"<|start_header_id|>", "<|end_header_id|>", NULL};
static const char *const gemma_markers[] = {"<start_of_turn>", NULL};
static const char *const zephyr_markers[] = {"<|user|>", "<|assistant|>", "eos_token", NULL};
static const char *const llama2_markers[] = {"[INST]", "<<SYS>>", NULL};
static const char *const mistral_markers[] = {"[INST]", "eos_token", NULL};

static const shoal_chat_template none = {
    .name = "none", .markers = NULL, .without = NULL, .render = render_none};

/* Tried in this order; the first whose markers fit is taken. */
static const shoal_chat_template templates[] = {
    {.name = "chatml", .markers = chatml_markers, .without = NULL, .render = render_chatml},
    {.name = "llama3", .markers = llama3_markers, .without = NULL, .render = render_llama3},
    {.name = "gemma", .markers = gemma_markers, .without = NULL, .render = render_gemma},
    /* Phi 3 has the same roles but ends a turn with <|end|>. */
    {.name = "zephyr", .markers = zephyr_markers, .without = "<|end|>", .render = render_zephyr},
    {.name = "llama2", .markers = llama2_markers, .without = NULL, .render = render_llama2},
    /* Later Mistral formats write system prompts between tokens of their own. */
    {.name = "mistral",
     .markers = mistral_markers,
     .without = "[SYSTEM_PROMPT]",
     .render = render_mistral},
};

static bool contains(shoal_str text, const char *marker)
{
    return memmem(text.data, text.length, marker, strlen(marker)) != NULL;
}

static bool fits(const shoal_chat_template *candidate, shoal_str text)
{
    for (const char *const *marker = candidate->markers; *marker; marker++) {
        if (!contains(text, *marker)) {
            return false;
        }
    }
    return !candidate->without || !contains(text, candidate->without);
}

shoal_status shoal_chat_load(shoal_tokenizer *tokenizer, const shoal_gguf *gguf, shoal_err *err)
{
    shoal_str text = {.data = "", .length = 0};
    shoal_status status = shoal_gguf_get_str(gguf, template_key, &text, NULL);
    if (status != SHOAL_OK && status != SHOAL_E_NOTFOUND) {
        return shoal_gguf_get_str(gguf, template_key, &text, err);
    }
    if (text.length > SHOAL_CHAT_TEMPLATE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s has %zu bytes, at most %d", template_key,
                             text.length, SHOAL_CHAT_TEMPLATE_MAX);
    }
    tokenizer->chat = text.length == 0 ? &none : NULL;
    for (size_t i = 0; i < SHOAL_COUNT(templates) && !tokenizer->chat; i++) {
        if (fits(&templates[i], text)) {
            tokenizer->chat = &templates[i];
        }
    }
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    status = shoal_hasher_new(&hasher);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the hash of %s: %s", template_key,
                             shoal_status_text(status));
    }
    shoal_hasher_update(hasher, text.data, text.length);
    shoal_hasher_finish(hasher, &tokenizer->template_hash);
    return SHOAL_OK;
}

static shoal_status check_messages(const shoal_chat_message *messages, size_t n, shoal_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const shoal_chat_message *message = &messages[i];
        if (!message->role || !message->content) {
            return shoal_err_set(err, SHOAL_E_INVALID, "messages[%zu] lacks its %s", i,
                                 message->role ? "content" : "role");
        }
        if (!is_role(message, "system") && !is_role(message, "user") &&
            !is_role(message, "assistant")) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "messages[%zu].role \"%.40s\" is not one of system, user, "
                                 "assistant",
                                 i, message->role);
        }
    }
    return SHOAL_OK;
}

/* A system message that no user message follows would be lost by families without that role. */
static shoal_status check_systems(const shoal_tokenizer *tokenizer,
                                  const shoal_chat_message *messages, size_t n, shoal_err *err)
{
    const shoal_chat_template *chat = tokenizer->chat;
    if (chat->render != render_gemma && chat->render != render_llama2 &&
        chat->render != render_mistral) {
        return SHOAL_OK;
    }
    for (size_t i = 0; i < n; i++) {
        size_t next = i + 1;
        while (next < n && is_role(&messages[next], "system")) {
            next++;
        }
        if (is_role(&messages[i], "system") && (next == n || !is_role(&messages[next], "user"))) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "messages[%zu]: chat template %s needs a user message after a "
                                 "system message",
                                 i, chat->name);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_chat_render(const shoal_tokenizer *tokenizer, const shoal_chat_message *messages,
                               size_t n, shoal_buf *buf, shoal_err *err)
{
    if (!tokenizer->chat) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s of this model is not one Shoal knows (%s); send a plain prompt "
                             "instead of messages",
                             template_key, known);
    }
    SHOAL_TRY(check_messages(messages, n, err));
    SHOAL_TRY(check_systems(tokenizer, messages, n, err));
    rendering turn = {.tokenizer = tokenizer, .messages = messages, .n = n, .buf = buf};
    size_t length = buf->length;
    shoal_status status = tokenizer->chat->render(&turn);
    if (status != SHOAL_OK) {
        buf->length = length;
        if (buf->data) {
            buf->data[length] = '\0';
        }
        return shoal_err_set(err, status, "rendering %zu messages with template %s: %s", n,
                             tokenizer->chat->name, shoal_status_text(status));
    }
    return SHOAL_OK;
}

const char *shoal_chat_template_name(const shoal_tokenizer *tokenizer)
{
    return tokenizer->chat ? tokenizer->chat->name : "unsupported";
}
