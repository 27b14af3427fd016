/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation: lines in, answers out, history in memory and nowhere else.
 */
#include "edge/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HISTORY_MAX = 256 /* messages kept; the oldest exchange goes first */
};

typedef struct history {
    shoal_client_message messages[HISTORY_MAX];
    char *contents[HISTORY_MAX]; /* what messages[i].content borrows */
    size_t n;
    size_t n_fixed; /* 1 with a system message, which stays */
} history;

static void history_cut(history *h, size_t keep)
{
    while (h->n > keep) {
        h->n--;
        free(h->contents[h->n]);
    }
}

static bool history_add(history *h, const char *role, const char *content)
{
    if (h->n == HISTORY_MAX) {
        for (size_t i = h->n_fixed; i < h->n_fixed + 2; i++) {
            free(h->contents[i]);
        }
        h->n -= 2;
        for (size_t i = h->n_fixed; i < h->n; i++) {
            h->messages[i] = h->messages[i + 2];
            h->contents[i] = h->contents[i + 2];
        }
    }
    char *copy = strdup(content);
    if (!copy) {
        (void)fprintf(stderr, "shoal: out of memory\n");
        return false;
    }
    h->contents[h->n] = copy;
    h->messages[h->n++] = (shoal_client_message){.role = role, .content = copy};
    return true;
}

static const char commands[] = "  /mode local|assist|exact|cloud   who may write from now on\n"
                               "  /clear                           forget the conversation\n"
                               "  /quit                            leave (so does Ctrl-D)\n"
                               "  Ctrl-C                           ends an answer\n";

/* A line that starts with a slash. False: leave. */
static bool obey(cli_session *session, history *h, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) {
        return false;
    }
    if (strcmp(line, "/clear") == 0) {
        history_cut(h, h->n_fixed);
        return true;
    }
    if (strcmp(line, "/help") == 0) {
        (void)fputs(commands, stdout);
        return true;
    }
    if (strcmp(line, "/mode") == 0) {
        (void)printf("mode: %s\n", session->mode ? session->mode : "the edge's default");
        return true;
    }
    if (strncmp(line, "/mode ", 6) == 0) {
        for (size_t i = 0; i < CLI_MODES; i++) {
            if (strcmp(line + 6, cli_modes[i]) == 0) {
                session->mode = cli_modes[i];
                (void)printf("mode: %s\n", cli_modes[i]);
                return true;
            }
        }
    }
    (void)fprintf(stderr, "shoal: unknown command; there are\n%s", commands);
    return true;
}

/* One exchange. What failed is taken back out of the history, so that the next question does not
 * follow an unanswered one. */
static int exchange(cli_session *session, history *h, const char *line)
{
    if (!history_add(h, "user", line)) {
        return CLI_FAILED;
    }
    int status = cli_answer_to(session, h->messages, h->n, NULL);
    const cli_bytes *text = &session->answer.text;
    if (status != CLI_OK || !history_add(h, "assistant", text->data ? text->data : "")) {
        history_cut(h, h->n - 1);
        return CLI_FAILED;
    }
    return CLI_OK;
}

/* The next line without its line feed, or NULL at the end or at Ctrl-C. */
static const char *read_line(char **line, size_t *capacity, bool ask)
{
    if (ask) {
        (void)fputs("\n> ", stdout);
        (void)fflush(stdout);
    }
    errno = 0;
    ssize_t n = getline(line, capacity, stdin);
    if (n < 0) {
        if (ask) {
            (void)fputc('\n', stdout);
        }
        return NULL;
    }
    while (n > 0 && ((*line)[n - 1] == '\n' || (*line)[n - 1] == '\r')) {
        (*line)[--n] = '\0';
    }
    return *line;
}

int cli_chat(cli_session *session)
{
    bool person = isatty(STDIN_FILENO) == 1;
    history h = {.n = 0};
    if (session->options->system) {
        if (!history_add(&h, "system", session->options->system)) {
            return CLI_FAILED;
        }
        h.n_fixed = 1;
    }
    if (person) {
        (void)printf("%s · /help lists the commands\n", shoal_client_url(session->client));
    }
    int status = CLI_OK;
    char *line = NULL;
    size_t capacity = 0;
    const char *text = NULL;
    while ((text = read_line(&line, &capacity, person)) != NULL) {
        if (text[0] == '/') {
            if (!obey(session, &h, text)) {
                break;
            }
        } else if (text[0]) {
            status = exchange(session, &h, text);
            /* A person reads the cause and goes on; a script must not. */
            if (status != CLI_OK && !person) {
                break;
            }
            (void)cli_interrupted();
        }
    }
    if (person) {
        status = CLI_OK;
    }
    free(line);
    history_cut(&h, 0);
    return status;
}
