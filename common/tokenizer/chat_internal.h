/* SPDX-License-Identifier: Apache-2.0
 *
 * What chat.c (which template a model has) and chat_render.c (how each is written) share. Private
 * to the two.
 */
#ifndef SHOAL_TOKENIZER_CHAT_INTERNAL_H
#define SHOAL_TOKENIZER_CHAT_INTERNAL_H

#include "common/tokenizer/vocab.h"

/* A rendering under way: the text, and which parts of it are the contents of messages. */
typedef struct shoal_chat_writer {
    const shoal_tokenizer *tokenizer;
    const shoal_chat_message *messages;
    size_t n;
    shoal_buf *text;
    shoal_quote *quotes; /* in order, not empty, not touching */
    size_t n_quotes;
    size_t quotes_capacity;
} shoal_chat_writer;

struct shoal_chat_template {
    const char *name;
    const char *const *markers; /* all must occur, NULL ends the list */
    const char *const *without; /* none may occur, NULL ends the list; NULL: no such list */
    shoal_status (*render)(shoal_chat_writer *writer);
    bool folds_system; /* has no system role: its text goes before that of the next user */
};

bool shoal_chat_is_role(const shoal_chat_message *message, const char *role);

shoal_status shoal_chat_render_none(shoal_chat_writer *writer);
shoal_status shoal_chat_render_chatml(shoal_chat_writer *writer);
shoal_status shoal_chat_render_llama3(shoal_chat_writer *writer);
shoal_status shoal_chat_render_llama31(shoal_chat_writer *writer);
shoal_status shoal_chat_render_zephyr(shoal_chat_writer *writer);
shoal_status shoal_chat_render_gemma(shoal_chat_writer *writer);
shoal_status shoal_chat_render_llama2(shoal_chat_writer *writer);
shoal_status shoal_chat_render_mistral_v1(shoal_chat_writer *writer);
shoal_status shoal_chat_render_mistral_v3(shoal_chat_writer *writer);
shoal_status shoal_chat_render_mistral_v3_tekken(shoal_chat_writer *writer);
shoal_status shoal_chat_render_mistral_v7(shoal_chat_writer *writer);
shoal_status shoal_chat_render_mistral_v7_tekken(shoal_chat_writer *writer);
shoal_status shoal_chat_render_phi3(shoal_chat_writer *writer);
shoal_status shoal_chat_render_phi4(shoal_chat_writer *writer);
shoal_status shoal_chat_render_phi4_mini(shoal_chat_writer *writer);
shoal_status shoal_chat_render_deepseek(shoal_chat_writer *writer);
shoal_status shoal_chat_render_deepseek2(shoal_chat_writer *writer);
shoal_status shoal_chat_render_deepseek3(shoal_chat_writer *writer);
shoal_status shoal_chat_render_vicuna(shoal_chat_writer *writer);

#endif
