/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates. A model's template is a program in a language of its own; running it would let
 * a file compute without end (HARDENING of other runtimes shows loops and recursion). Here it is
 * only recognised, by texts that its family must contain, and rendered by code of ours.
 */
#include "common/tokenizer/chat_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

static const char template_key[] = "tokenizer.chat_template";

enum {
    SYSTEM_MAX = 2048 /* bytes of a template's own system message */
};

/* --- the closed set -------------------------------------------------------------------------- */

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define DS_USER   "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"
#define DS_ASSISTANT                                                                               \
    "<\xEF\xBD\x9C"                                                                                \
    "Assistant\xEF\xBD\x9C>"

static const shoal_chat_template none = {
    .name = "none", .markers = NULL, .without = NULL, .render = shoal_chat_render_none};

/* Tried in this order; the first whose markers fit is taken. Templates stand in files with line
 * breaks as they are or as "\n", so no marker contains one. */
static const shoal_chat_template templates[] = {
    {.name = "phi-4",
     .markers = LIST("<|im_start|>", "<|im_sep|>"),
     .render = shoal_chat_render_phi4},
    {.name = "chatml", .markers = LIST("<|im_start|>"), .render = shoal_chat_render_chatml},
    {.name = "llama3.1",
     .markers = LIST("<|start_header_id|>", "<|end_header_id|>", "Cutting Knowledge Date: "),
     .render = shoal_chat_render_llama31},
    {.name = "llama3",
     .markers = LIST("<|start_header_id|>", "<|end_header_id|>"),
     .render = shoal_chat_render_llama3},
    {.name = "gemma",
     .markers = LIST("<start_of_turn>"),
     .render = shoal_chat_render_gemma,
     .folds_system = true},
    {.name = "deepseek-v3",
     .markers = LIST(DS_USER, DS_ASSISTANT),
     .render = shoal_chat_render_deepseek3},
    {.name = "phi-4-mini",
     .markers = LIST("<|assistant|>", "<|end|>", "<|tool|>"),
     .render = shoal_chat_render_phi4_mini},
    {.name = "phi-3",
     .markers = LIST("<|assistant|>", "<|end|>"),
     .render = shoal_chat_render_phi3},
    {.name = "zephyr",
     .markers = LIST("<|user|>", "<|assistant|>", "eos_token"),
     .render = shoal_chat_render_zephyr},
    {.name = "mistral-v7",
     .markers = LIST("[INST]", "[SYSTEM_PROMPT] "),
     .render = shoal_chat_render_mistral_v7},
    {.name = "mistral-v7-tekken",
     .markers = LIST("[INST]", "[SYSTEM_PROMPT]"),
     .render = shoal_chat_render_mistral_v7_tekken},
    {.name = "llama2",
     .markers = LIST("[INST]", "<<SYS>>"),
     .render = shoal_chat_render_llama2,
     .folds_system = true},
    {.name = "mistral-v1",
     .markers = LIST("[INST] ", " [/INST]", "eos_token"),
     .render = shoal_chat_render_mistral_v1,
     .folds_system = true},
    {.name = "mistral-v3",
     .markers = LIST("[INST] ", "[/INST]", "eos_token"),
     .render = shoal_chat_render_mistral_v3,
     .folds_system = true},
    {.name = "mistral-v3-tekken",
     .markers = LIST("[INST]", "[/INST]", "eos_token"),
     .render = shoal_chat_render_mistral_v3_tekken,
     .folds_system = true},
    {.name = "deepseek",
     .markers = LIST("### Instruction:", "### Response:", "<|EOT|>"),
     .render = shoal_chat_render_deepseek},
    {.name = "vicuna",
     .markers = LIST("USER: ", "ASSISTANT:"),
     .without = LIST("SYSTEM: "),
     .render = shoal_chat_render_vicuna},
    {.name = "deepseek-v2",
     .markers = LIST("User: ", "Assistant: ", "eos_token"),
     .render = shoal_chat_render_deepseek2},
};

/* Texts of the markup above that vocabularies have as tokens of their own. */
static const char *const markup[] = {"<|im_start|>",
                                     "<|im_end|>",
                                     "<|im_sep|>",
                                     "<|begin_of_text|>",
                                     "<|end_of_text|>",
                                     "<|start_header_id|>",
                                     "<|end_header_id|>",
                                     "<|eot_id|>",
                                     "<|eom_id|>",
                                     "<start_of_turn>",
                                     "<end_of_turn>",
                                     "<|system|>",
                                     "<|user|>",
                                     "<|assistant|>",
                                     "<|end|>",
                                     "<|tool|>",
                                     "<|/tool|>",
                                     "[INST]",
                                     "[/INST]",
                                     "[SYSTEM_PROMPT]",
                                     "[/SYSTEM_PROMPT]",
                                     "<<SYS>>",
                                     "<</SYS>>",
                                     DS_USER,
                                     DS_ASSISTANT,
                                     "<|EOT|>",
                                     "<|endoftext|>",
                                     "<s>",
                                     "</s>"};

const char *const *shoal_chat_markers(size_t i)
{
    return i < SHOAL_COUNT(templates) ? templates[i].markers : NULL;
}

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
    for (const char *const *marker = candidate->without; marker && *marker; marker++) {
        if (contains(text, *marker)) {
            return false;
        }
    }
    return true;
}

void shoal_chat_guard(shoal_tokenizer *tokenizer)
{
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        if (tokenizer->tokens[id].type != SHOAL_TOKEN_USER) {
            continue;
        }
        shoal_str text = shoal_vocab_text(tokenizer, id);
        bool found = shoal_tokenizer_is_end(tokenizer, (int32_t)id);
        for (size_t i = 0; i < SHOAL_COUNT(markup) && !found; i++) {
            found =
                strlen(markup[i]) == text.length && memcmp(markup[i], text.data, text.length) == 0;
        }
        if (found) {
            tokenizer->tokens[id].type = SHOAL_TOKEN_MARKUP;
        }
    }
}

/* --- recognising ----------------------------------------------------------------------------- */

/* The literal text at the beginning of p up to end, if it is that: nothing of the template's
 * language may occur in it. Line breaks come out as such. False when there is none. */
static bool take_literal(shoal_str p, const char *end, char *ret_text, size_t *ret_n)
{
    const char *stop = memmem(p.data, p.length, end, strlen(end));
    size_t length = stop ? (size_t)(stop - p.data) : 0;
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        char c = p.data[i];
        if (n == SYSTEM_MAX || c == '\0' || strchr("{}'\"+", c)) {
            return false;
        }
        if (c == '\\') {
            i++;
            if (i == length || p.data[i] != 'n') {
                return false;
            }
            c = '\n';
        }
        ret_text[n++] = c;
    }
    *ret_n = n;
    return n > 0;
}

/* Qwen and SmolLM begin a conversation that has no system message with one of theirs, which stands
 * in the template between its markup. */
static shoal_status find_system(shoal_tokenizer *tokenizer, shoal_str text)
{
    static const char open[] = "<|im_start|>system";
    char system[SYSTEM_MAX];
    size_t n = 0;
    for (;;) {
        const char *at = memmem(text.data, text.length, open, strlen(open));
        if (!at) {
            return SHOAL_OK;
        }
        text.length -= (size_t)(at - text.data) + strlen(open);
        text.data = at + strlen(open);
        size_t line = text.length >= 1 && text.data[0] == '\n'               ? 1
                      : text.length >= 2 && memcmp(text.data, "\\n", 2) == 0 ? 2
                                                                             : 0;
        shoal_str rest = {.data = text.data + line, .length = text.length - line};
        if (line > 0 && take_literal(rest, "<|im_end|>", system, &n)) {
            break;
        }
    }
    char *copy = shoal_strndup(system, n);
    if (!copy) {
        return SHOAL_E_NOMEM;
    }
    tokenizer->chat.system = (shoal_str){.data = copy, .length = n};
    return SHOAL_OK;
}

static shoal_status read_template(shoal_tokenizer *tokenizer, shoal_str text)
{
    shoal_chat *chat = &tokenizer->chat;
    chat->family = text.length == 0 ? &none : NULL;
    for (size_t i = 0; i < SHOAL_COUNT(templates) && !chat->family; i++) {
        if (fits(&templates[i], text)) {
            chat->family = &templates[i];
        }
    }
    shoal_str bos = shoal_tokenizer_text(tokenizer, tokenizer->bos);
    chat->writes_bos =
        contains(text, "bos_token") ||
        (bos.length > 0 && memmem(text.data, text.length, bos.data, bos.length) != NULL);
    chat->drops_thoughts =
        contains(text, "split('</think>'") || contains(text, "split(\"</think>\"");
    chat->opens_thought = contains(text, DS_ASSISTANT "<think>");
    chat->by_lines = contains(text, "+ '\n'") || contains(text, "+ '\\n'");
    if (chat->family && chat->family->render == shoal_chat_render_chatml) {
        return find_system(tokenizer, text);
    }
    return SHOAL_OK;
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
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    status = read_template(tokenizer, text);
    if (status == SHOAL_OK) {
        status = shoal_hasher_new(&hasher);
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "reading %s: %s", template_key,
                             shoal_status_text(status));
    }
    shoal_hasher_update(hasher, text.data, text.length);
    shoal_hasher_finish(hasher, &tokenizer->template_hash);
    return SHOAL_OK;
}

void shoal_chat_fini(shoal_chat *chat)
{
    if (chat->system.length > 0) {
        shoal_free((void *)(uintptr_t)chat->system.data);
    }
}

/* --- rendering ------------------------------------------------------------------------------- */

static shoal_status check_messages(const shoal_chat_message *messages, size_t n, shoal_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const shoal_chat_message *message = &messages[i];
        if (!message->role || !message->content) {
            return shoal_err_set(err, SHOAL_E_INVALID, "messages[%zu] lacks its %s", i,
                                 message->role ? "content" : "role");
        }
        if (!shoal_chat_is_role(message, "system") && !shoal_chat_is_role(message, "user") &&
            !shoal_chat_is_role(message, "assistant")) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "messages[%zu].role \"%.40s\" is not one of system, user, "
                                 "assistant",
                                 i, message->role);
        }
    }
    return SHOAL_OK;
}

/* A system message that no user message follows would be lost by families without that role. */
static shoal_status check_systems(const shoal_chat_template *family,
                                  const shoal_chat_message *messages, size_t n, shoal_err *err)
{
    for (size_t i = 0; i < n && family->folds_system; i++) {
        size_t next = i + 1;
        while (next < n && shoal_chat_is_role(&messages[next], "system")) {
            next++;
        }
        if (shoal_chat_is_role(&messages[i], "system") &&
            (next == n || !shoal_chat_is_role(&messages[next], "user"))) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "messages[%zu]: chat template %s needs a user message after a "
                                 "system message",
                                 i, family->name);
        }
    }
    return SHOAL_OK;
}

/* The list is long, so the words around it are few: an error's text has an end. */
static shoal_status refuse_template(shoal_err *err)
{
    char known[SHOAL_ERR_TEXT_MAX] = "none";
    size_t at = strlen(known);
    for (size_t i = 0; i < SHOAL_COUNT(templates); i++) {
        int n = snprintf(known + at, sizeof(known) - at, ", %s", templates[i].name);
        at = SHOAL_MIN(at + (size_t)n, sizeof(known) - 1);
    }
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s is not among %s; send a prompt",
                         template_key, known);
}

/* Into an empty or a caller's buffer, which is as before when this fails. */
static shoal_status render(shoal_chat_writer *writer, shoal_err *err)
{
    const shoal_chat_template *family = writer->tokenizer->chat.family;
    if (!family) {
        return refuse_template(err);
    }
    SHOAL_TRY(check_messages(writer->messages, writer->n, err));
    SHOAL_TRY(check_systems(family, writer->messages, writer->n, err));
    size_t length = writer->text->length;
    shoal_status status = family->render(writer);
    if (status != SHOAL_OK) {
        writer->text->length = length;
        if (writer->text->data) {
            writer->text->data[length] = '\0';
        }
        return shoal_err_set(err, status, "rendering %zu messages with template %s: %s", writer->n,
                             family->name, shoal_status_text(status));
    }
    return SHOAL_OK;
}

static void writer_fini(shoal_chat_writer *writer)
{
    shoal_free(writer->quotes);
}

shoal_status shoal_chat_render(const shoal_tokenizer *tokenizer, const shoal_chat_message *messages,
                               size_t n, shoal_buf *buf, shoal_err *err)
{
    SHOAL_CLEANUP(writer_fini)
    shoal_chat_writer writer = {.tokenizer = tokenizer, .messages = messages, .n = n, .text = buf};
    return render(&writer, err);
}

/* BOS comes first where the vocabulary or the template wants it, once. */
static bool wants_bos(const shoal_chat_writer *writer)
{
    const shoal_tokenizer *tokenizer = writer->tokenizer;
    if (tokenizer->bos < 0 || (!tokenizer->add_bos && !tokenizer->chat.writes_bos)) {
        return false;
    }
    shoal_str bos = shoal_vocab_text(tokenizer, (size_t)tokenizer->bos);
    size_t n_markup = writer->n_quotes > 0 ? writer->quotes[0].begin : writer->text->length;
    return bos.length == 0 || n_markup < bos.length ||
           memcmp(writer->text->data, bos.data, bos.length) != 0;
}

shoal_status shoal_chat_encode(const shoal_tokenizer *tokenizer, const shoal_chat_message *messages,
                               size_t n, int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = SHOAL_TEXT_MAX};
    SHOAL_CLEANUP(writer_fini)
    shoal_chat_writer writer = {
        .tokenizer = tokenizer, .messages = messages, .n = n, .text = &text};
    SHOAL_TRY(render(&writer, err));
    shoal_quoted_text quoted = {.text = {.data = text.data ? text.data : "", .length = text.length},
                                .quotes = writer.quotes,
                                .n_quotes = writer.n_quotes,
                                .bos = wants_bos(&writer)};
    return shoal_encode_quoted(tokenizer, &quoted, ret_ids, ret_n, err);
}

const char *shoal_chat_template_name(const shoal_tokenizer *tokenizer)
{
    return tokenizer->chat.family ? tokenizer->chat.family->name : "unsupported";
}
