/* SPDX-License-Identifier: Apache-2.0
 *
 * The families' ways of writing a conversation, as their published templates do. Two kinds of text
 * are told apart throughout: markup, which is ours and may name control tokens, and what stands in
 * messages, which is anybody's and may not. The first BOS is left to the encoder.
 */
#include "common/tokenizer/chat_internal.h"

#include "common/base/mem.h"

#include <string.h>

bool shoal_chat_is_role(const shoal_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* --- markup and contents --------------------------------------------------------------------- */

static shoal_status put(shoal_chat_writer *writer, const char *markup)
{
    return shoal_buf_append(writer->text, markup, strlen(markup));
}

static shoal_status put_token(shoal_chat_writer *writer, int32_t id)
{
    shoal_str text = shoal_tokenizer_text(writer->tokenizer, id);
    return shoal_buf_append(writer->text, text.data, text.length);
}

/* Text from a message: it is noted where it lies, so that the encoder takes it as nothing but
 * text. */
static shoal_status put_quoted(shoal_chat_writer *writer, const char *text, size_t n)
{
    if (n == 0) {
        return SHOAL_OK;
    }
    size_t begin = writer->text->length;
    if (writer->n_quotes == writer->quotes_capacity) {
        size_t capacity = writer->quotes_capacity ? writer->quotes_capacity * 2 : 16;
        shoal_quote *quotes = shoal_realloc(writer->quotes, capacity, sizeof(quotes[0]));
        if (!quotes) {
            return SHOAL_E_NOMEM;
        }
        writer->quotes = quotes;
        writer->quotes_capacity = capacity;
    }
    SHOAL_TRY(shoal_buf_append(writer->text, text, n));
    if (writer->n_quotes > 0 && writer->quotes[writer->n_quotes - 1].end == begin) {
        writer->quotes[writer->n_quotes - 1].end = begin + n;
        return SHOAL_OK;
    }
    writer->quotes[writer->n_quotes++] = (shoal_quote){.begin = begin, .end = begin + n};
    return SHOAL_OK;
}

/* Reasoning models leave the thoughts of earlier answers out. */
static const char *after_thoughts(const shoal_chat_writer *writer,
                                  const shoal_chat_message *message)
{
    static const char end[] = "</think>";
    const char *text = message->content;
    if (!writer->tokenizer->chat.drops_thoughts || !shoal_chat_is_role(message, "assistant")) {
        return text;
    }
    bool found = false;
    for (const char *at = strstr(text, end); at; at = strstr(text, end)) {
        text = at + strlen(end);
        found = true;
    }
    while (found && *text == '\n') {
        text++;
    }
    return text;
}

static shoal_status put_content(shoal_chat_writer *writer, const shoal_chat_message *message)
{
    const char *text = after_thoughts(writer, message);
    return put_quoted(writer, text, strlen(text));
}

/* The content without white space at its ends, where the published templates trim it. */
static shoal_status put_trimmed(shoal_chat_writer *writer, const shoal_chat_message *message)
{
    const char *text = after_thoughts(writer, message);
    size_t n = strlen(text);
    while (n > 0 && is_space(text[n - 1])) {
        n--;
    }
    while (n > 0 && is_space(*text)) {
        text++;
        n--;
    }
    return put_quoted(writer, text, n);
}

/* One turn: markup, the role, markup, the content, markup. */
static shoal_status put_turn(shoal_chat_writer *writer, const shoal_chat_message *message,
                             const char *before, const char *between, const char *after)
{
    SHOAL_TRY(put(writer, before));
    SHOAL_TRY(put(writer, message->role));
    SHOAL_TRY(put(writer, between));
    SHOAL_TRY(put_content(writer, message));
    return put(writer, after);
}

static shoal_status put_turns(shoal_chat_writer *writer, const char *before, const char *between,
                              const char *after)
{
    for (size_t i = 0; i < writer->n; i++) {
        SHOAL_TRY(put_turn(writer, &writer->messages[i], before, between, after));
    }
    SHOAL_TRY(put(writer, before));
    SHOAL_TRY(put(writer, "assistant"));
    return put(writer, between);
}

/* Families without a system role put its text before that of the next user message. The system
 * messages just before message i, if i is a user's. */
static size_t first_system_before(const shoal_chat_writer *writer, size_t i)
{
    while (i > 0 && shoal_chat_is_role(&writer->messages[i - 1], "system")) {
        i--;
    }
    return i;
}

static shoal_status put_systems(shoal_chat_writer *writer, size_t begin, size_t end,
                                const char *separator)
{
    for (size_t i = begin; i < end; i++) {
        if (i > begin) {
            SHOAL_TRY(put(writer, "\n\n"));
        }
        SHOAL_TRY(put_trimmed(writer, &writer->messages[i]));
    }
    return begin < end ? put(writer, separator) : SHOAL_OK;
}

/* --- families -------------------------------------------------------------------------------- */

shoal_status shoal_chat_render_none(shoal_chat_writer *writer)
{
    for (size_t i = 0; i < writer->n; i++) {
        if (i > 0) {
            SHOAL_TRY(put(writer, "\n"));
        }
        SHOAL_TRY(put_content(writer, &writer->messages[i]));
    }
    return SHOAL_OK;
}

/* Some write a system message of their own when a conversation begins without one. */
shoal_status shoal_chat_render_chatml(shoal_chat_writer *writer)
{
    shoal_str system = writer->tokenizer->chat.system;
    if (system.length > 0 && (writer->n == 0 || !shoal_chat_is_role(writer->messages, "system"))) {
        SHOAL_TRY(put(writer, "<|im_start|>system\n"));
        SHOAL_TRY(put_quoted(writer, system.data, system.length));
        SHOAL_TRY(put(writer, "<|im_end|>\n"));
    }
    return put_turns(writer, "<|im_start|>", "\n", "<|im_end|>\n");
}

shoal_status shoal_chat_render_phi4(shoal_chat_writer *writer)
{
    return put_turns(writer, "<|im_start|>", "<|im_sep|>", "<|im_end|>");
}

shoal_status shoal_chat_render_phi3(shoal_chat_writer *writer)
{
    return put_turns(writer, "<|", "|>\n", "<|end|>\n");
}

shoal_status shoal_chat_render_phi4_mini(shoal_chat_writer *writer)
{
    return put_turns(writer, "<|", "|>", "<|end|>");
}

static shoal_status put_llama3_turn(shoal_chat_writer *writer, const shoal_chat_message *message)
{
    SHOAL_TRY(put(writer, "<|start_header_id|>"));
    SHOAL_TRY(put(writer, message->role));
    SHOAL_TRY(put(writer, "<|end_header_id|>\n\n"));
    SHOAL_TRY(put_trimmed(writer, message));
    return put(writer, "<|eot_id|>");
}

static shoal_status put_llama3(shoal_chat_writer *writer, size_t first)
{
    for (size_t i = first; i < writer->n; i++) {
        SHOAL_TRY(put_llama3_turn(writer, &writer->messages[i]));
    }
    return put(writer, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

shoal_status shoal_chat_render_llama3(shoal_chat_writer *writer)
{
    return put_llama3(writer, 0);
}

/* From 3.1 on a system turn always opens with two dates; today's is the one that the template
 * falls back to when nobody says what day it is, since equal messages must give equal prompts. */
shoal_status shoal_chat_render_llama31(shoal_chat_writer *writer)
{
    size_t first = 0;
    SHOAL_TRY(put(writer, "<|start_header_id|>system<|end_header_id|>\n\n"
                          "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"));
    if (writer->n > 0 && shoal_chat_is_role(&writer->messages[0], "system")) {
        SHOAL_TRY(put_trimmed(writer, &writer->messages[0]));
        first = 1;
    }
    SHOAL_TRY(put(writer, "<|eot_id|>"));
    return put_llama3(writer, first);
}

shoal_status shoal_chat_render_zephyr(shoal_chat_writer *writer)
{
    for (size_t i = 0; i < writer->n; i++) {
        SHOAL_TRY(put_turn(writer, &writer->messages[i], "<|", "|>\n", ""));
        SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
        SHOAL_TRY(put(writer, "\n"));
    }
    return put(writer, "<|assistant|>\n");
}

shoal_status shoal_chat_render_gemma(shoal_chat_writer *writer)
{
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        if (shoal_chat_is_role(message, "system")) {
            continue;
        }
        bool user = shoal_chat_is_role(message, "user");
        SHOAL_TRY(put(writer, user ? "<start_of_turn>user\n" : "<start_of_turn>model\n"));
        if (user) {
            SHOAL_TRY(put_systems(writer, first_system_before(writer, i), i, "\n\n"));
        }
        SHOAL_TRY(put_trimmed(writer, message));
        SHOAL_TRY(put(writer, "<end_of_turn>\n"));
    }
    return put(writer, "<start_of_turn>model\n");
}

/* Later turns of Llama 2 have a BOS of their own. */
shoal_status shoal_chat_render_llama2(shoal_chat_writer *writer)
{
    bool answered = false;
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        if (shoal_chat_is_role(message, "system")) {
            continue;
        }
        if (shoal_chat_is_role(message, "assistant")) {
            SHOAL_TRY(put(writer, " "));
            SHOAL_TRY(put_trimmed(writer, message));
            SHOAL_TRY(put(writer, " "));
            SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
            answered = true;
            continue;
        }
        if (answered) {
            SHOAL_TRY(put_token(writer, writer->tokenizer->bos));
            answered = false;
        }
        size_t system = first_system_before(writer, i);
        SHOAL_TRY(put(writer, system < i ? "[INST] <<SYS>>\n" : "[INST] "));
        SHOAL_TRY(put_systems(writer, system, i, "\n<</SYS>>\n\n"));
        SHOAL_TRY(put_trimmed(writer, message));
        SHOAL_TRY(put(writer, " [/INST]"));
    }
    return SHOAL_OK;
}

/* What sets the formats of Mistral apart: spaces within the markup, and whether there is markup for
 * system messages. */
typedef struct mistral_form {
    const char *open;
    const char *close;
    const char *answer;
    const char *system; /* NULL: folded into the next user message */
} mistral_form;

static shoal_status render_mistral(shoal_chat_writer *writer, mistral_form form)
{
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        if (shoal_chat_is_role(message, "system")) {
            if (form.system) {
                SHOAL_TRY(put(writer, form.system));
                SHOAL_TRY(put_content(writer, message));
                SHOAL_TRY(put(writer, "[/SYSTEM_PROMPT]"));
            }
        } else if (shoal_chat_is_role(message, "assistant")) {
            SHOAL_TRY(put(writer, form.answer));
            SHOAL_TRY(put_content(writer, message));
            SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
        } else {
            SHOAL_TRY(put(writer, form.open));
            if (!form.system) {
                SHOAL_TRY(put_systems(writer, first_system_before(writer, i), i, "\n\n"));
            }
            SHOAL_TRY(put_content(writer, message));
            SHOAL_TRY(put(writer, form.close));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_chat_render_mistral_v1(shoal_chat_writer *writer)
{
    return render_mistral(writer, (mistral_form){"[INST] ", " [/INST]", " ", NULL});
}

shoal_status shoal_chat_render_mistral_v3(shoal_chat_writer *writer)
{
    return render_mistral(writer, (mistral_form){"[INST] ", "[/INST]", " ", NULL});
}

shoal_status shoal_chat_render_mistral_v3_tekken(shoal_chat_writer *writer)
{
    return render_mistral(writer, (mistral_form){"[INST]", "[/INST]", "", NULL});
}

shoal_status shoal_chat_render_mistral_v7(shoal_chat_writer *writer)
{
    return render_mistral(writer, (mistral_form){"[INST] ", "[/INST]", " ", "[SYSTEM_PROMPT] "});
}

shoal_status shoal_chat_render_mistral_v7_tekken(shoal_chat_writer *writer)
{
    return render_mistral(writer, (mistral_form){"[INST]", "[/INST]", "", "[SYSTEM_PROMPT]"});
}

/* DeepSeek Coder. */
shoal_status shoal_chat_render_deepseek(shoal_chat_writer *writer)
{
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        bool answer = shoal_chat_is_role(message, "assistant");
        if (!shoal_chat_is_role(message, "system")) {
            SHOAL_TRY(put(writer, answer ? "### Response:\n" : "### Instruction:\n"));
        }
        SHOAL_TRY(put_content(writer, message));
        SHOAL_TRY(put(writer, answer                                  ? "\n<|EOT|>\n"
                              : shoal_chat_is_role(message, "system") ? ""
                                                                      : "\n"));
    }
    return put(writer, "### Response:\n");
}

/* DeepSeek LLM and V2. */
shoal_status shoal_chat_render_deepseek2(shoal_chat_writer *writer)
{
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        bool answer = shoal_chat_is_role(message, "assistant");
        if (!shoal_chat_is_role(message, "system")) {
            SHOAL_TRY(put(writer, answer ? "Assistant: " : "User: "));
        }
        SHOAL_TRY(put_content(writer, message));
        if (answer) {
            SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
        } else {
            SHOAL_TRY(put(writer, "\n\n"));
        }
    }
    return put(writer, "Assistant:");
}

/* V3 and R1: all system messages stand together at the beginning, without markup. */
shoal_status shoal_chat_render_deepseek3(shoal_chat_writer *writer)
{
    bool any = false;
    for (size_t i = 0; i < writer->n; i++) {
        if (shoal_chat_is_role(&writer->messages[i], "system")) {
            SHOAL_TRY(put(writer, any ? "\n\n" : ""));
            SHOAL_TRY(put_content(writer, &writer->messages[i]));
            any = true;
        }
    }
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        if (shoal_chat_is_role(message, "user")) {
            SHOAL_TRY(put(writer, "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"));
            SHOAL_TRY(put_content(writer, message));
        } else if (shoal_chat_is_role(message, "assistant")) {
            SHOAL_TRY(put(writer, "<\xEF\xBD\x9C"
                                  "Assistant\xEF\xBD\x9C>"));
            SHOAL_TRY(put_content(writer, message));
            SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
        }
    }
    SHOAL_TRY(put(writer, "<\xEF\xBD\x9C"
                          "Assistant\xEF\xBD\x9C>"));
    return put(writer, writer->tokenizer->chat.opens_thought ? "<think>\n" : "");
}

/* Vicuna 1.1: spaces between turns, which some templates write as new lines. */
shoal_status shoal_chat_render_vicuna(shoal_chat_writer *writer)
{
    const char *separator = writer->tokenizer->chat.by_lines ? "\n" : " ";
    for (size_t i = 0; i < writer->n; i++) {
        const shoal_chat_message *message = &writer->messages[i];
        bool answer = shoal_chat_is_role(message, "assistant");
        if (!shoal_chat_is_role(message, "system")) {
            SHOAL_TRY(put(writer, answer ? "ASSISTANT: " : "USER: "));
        }
        SHOAL_TRY(put_content(writer, message));
        if (answer) {
            SHOAL_TRY(put_token(writer, writer->tokenizer->eos));
            SHOAL_TRY(put(writer, writer->tokenizer->chat.by_lines ? "\n" : ""));
        } else {
            SHOAL_TRY(put(writer, separator));
        }
    }
    return put(writer, "ASSISTANT:");
}
