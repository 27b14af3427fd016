/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static int on_event(void *ctx, const shoal_client_event *event)
{
    cli_session *session = ctx;
    if (!cli_answer_add(&session->answer, event)) {
        (void)snprintf(session->answer.error.text, sizeof session->answer.error.text,
                       "the answer does not fit into memory");
        return 1;
    }
    if (!session->options->json) {
        cli_render_event(&session->render, event);
    }
    return 0;
}

shoal_client_request cli_request(const cli_session *session)
{
    const cli_options *o = session->options;
    shoal_client_request request;
    shoal_client_request_init(&request, sizeof request);
    request.mode = session->mode;
    request.model = o->model;
    request.session = o->session;
    request.max_tokens = o->max_tokens;
    request.temperature = o->temperature;
    request.top_p = o->top_p;
    request.top_k = o->top_k;
    request.seed = o->seed;
    request.priority = o->priority;
    request.stop = o->stops;
    request.n_stop = o->n_stops;
    request.timeout_ms = o->timeout_ms;
    return request;
}

int cli_answer_to(cli_session *session, const shoal_client_message *messages, size_t n_messages,
                  const char *prompt)
{
    cli_answer *answer = &session->answer;
    cli_answer_reset(answer);
    shoal_client_result_init(&answer->result, sizeof answer->result);
    shoal_client_request request = cli_request(session);
    request.prompt = prompt;
    request.messages = messages;
    request.n_messages = n_messages;
    shoal_client_error error;
    int code = prompt ? shoal_client_complete(session->client, &request, on_event, session,
                                              &answer->result, &error)
                      : shoal_client_chat(session->client, &request, on_event, session,
                                          &answer->result, &error);
    bool own_cause = answer->error.text[0] != '\0';
    if (!own_cause) {
        answer->error = error;
    }
    if (session->options->json) {
        cli_answer_print_json(answer, code, stdout);
    } else {
        cli_render_end(&session->render);
    }
    if (session->options->trace && !session->options->json) {
        bool terminal = session->render.style != CLI_STYLE_PLAIN;
        cli_render_trace(answer, terminal ? stdout : stderr, terminal);
    }
    if (code == SHOAL_CLIENT_OK) {
        cli_render_summary(&session->render, answer);
    } else {
        (void)fprintf(stderr, "shoal: %s", answer->error.text);
        if (error.retry_after_s >= 0) {
            (void)fprintf(stderr, " (try again in %d s)", error.retry_after_s);
        }
        (void)fputc('\n', stderr);
    }
    return code == SHOAL_CLIENT_OK ? CLI_OK : CLI_FAILED;
}

static bool gather_text(const cli_options *o, cli_bytes *text)
{
    if (o->n_words == 1 && strcmp(o->words[0], "-") == 0) {
        char piece[4096];
        size_t n = 0;
        while ((n = fread(piece, 1, sizeof piece, stdin)) > 0) {
            if (!cli_bytes_add(text, piece, n)) {
                return false;
            }
        }
        return !ferror(stdin) && cli_bytes_add(text, "", 0) && strlen(text->data) == text->length;
    }
    for (int i = 0; i < o->n_words; i++) {
        if ((i > 0 && !cli_bytes_add(text, " ", 1)) ||
            !cli_bytes_add(text, o->words[i], strlen(o->words[i]))) {
            return false;
        }
    }
    return true;
}

bool cli_read_text(const cli_options *options, cli_bytes *text)
{
    if (!gather_text(options, text)) {
        (void)fprintf(stderr, "shoal: the text could not be read, has NUL bytes or is too long\n");
        return false;
    }
    if (text->length == 0) {
        (void)fprintf(stderr, "shoal: the text is empty\n");
        return false;
    }
    return true;
}

int cli_ask(cli_session *session)
{
    const cli_options *o = session->options;
    cli_bytes text = {.data = NULL};
    int status = CLI_FAILED;
    if (cli_read_text(o, &text)) {
        const shoal_client_message messages[2] = {
            {.role = "system", .content = o->system ? o->system : ""},
            {.role = "user", .content = text.data}};
        size_t skip = o->system ? 0 : 1;
        status = cli_answer_to(session, messages + skip, 2 - skip, o->raw ? text.data : NULL);
    }
    free(text.data);
    return status;
}
