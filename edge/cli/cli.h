/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the `shoal` program share. Exit statuses: 0 done, 1 failed (one line on stderr
 * names the cause), 2 wrong usage. One thread, but for bench's; the signal handler only cancels.
 */
#ifndef SHOAL_CLI_CLI_H
#define SHOAL_CLI_CLI_H

#include "edge/client/shoal.h"

#include <stdbool.h>
#include <stdio.h>

enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_GO_ON = -1
};

/* --- options.c ------------------------------------------------------------------------------- */

typedef enum cli_command {
    CLI_ASK,
    CLI_CHAT,
    CLI_STATUS,
    CLI_TOP,
    CLI_BENCH,
    CLI_SESSION
} cli_command;

typedef struct cli_options {
    cli_command command;
    char **words; /* of ask's and bench's text, and of session's orders; borrowed from argv */
    int n_words;
    const char *url;     /* NULL: $SHOAL_URL or the default */
    const char *ca_file; /* NULL: $SHOAL_CA_FILE or the system's */
    const char *mode;
    const char *model;   /* NULL: the edge's */
    const char *session; /* NULL: none */
    const char *system;
    int32_t max_tokens;
    double temperature;
    double top_p;
    int32_t top_k;
    int32_t priority;
    int64_t seed;
    uint32_t timeout_ms;
    const char *stops[SHOAL_CLIENT_STOPS_MAX];
    size_t n_stops;
    const char *prompts;  /* a file; NULL: none */
    int32_t n_views;      /* of top; 0: until interrupted */
    uint32_t interval_ms; /* of top */
    int32_t n_requests;   /* of bench */
    int32_t n_concurrent;
    bool json;
    bool plain;
    bool no_color;
    bool raw;
    bool trace;
} cli_options;

/* CLI_GO_ON, or the exit status after help or a usage error has been printed. */
int cli_options_parse(int argc, char **argv, cli_options *ret_options);
/* The text of --help. */
const char *cli_help_text(void);
enum {
    CLI_MODES = 4
};
/* "local", "assist", "exact", "cloud". */
extern const char *const cli_modes[CLI_MODES];
bool cli_mode_ok(const char *mode);

/* --- answer.c -------------------------------------------------------------------------------- */

/* One token as it came, for --trace and --json; text lies in the answer's text of tokens. */
typedef struct cli_token {
    size_t text_at;
    size_t n_text;
    int32_t id;
    int tier;
    double confidence;
    uint32_t round;
    int unassisted;
    double ms;
} cli_token;

/* Bytes that grow, always followed by a NUL. */
typedef struct cli_bytes {
    char *data;
    size_t length;
    size_t capacity;
} cli_bytes;

/* False when out of memory, or past 64 MiB. */
bool cli_bytes_add(cli_bytes *bytes, const char *data, size_t n);

/* An answer while it comes and after. */
typedef struct cli_answer {
    cli_bytes text;
    cli_bytes token_text;
    cli_token *tokens;
    size_t n_tokens;
    size_t tokens_capacity;
    shoal_client_result result;
    shoal_client_error error;
} cli_answer;

bool cli_answer_add(cli_answer *answer, const shoal_client_event *event);
/* Ready for the next answer; keeps nothing. */
void cli_answer_reset(cli_answer *answer);
/* One JSON object and a line feed: text, tokens, usage, or the error. */
void cli_answer_print_json(const cli_answer *answer, int code, FILE *out);
void cli_json_string(FILE *out, const char *text, size_t n);

/* --- render.c -------------------------------------------------------------------------------- */

enum {
    CLI_WIDTH_MAX = 512
};

typedef enum cli_style {
    CLI_STYLE_PLAIN, /* text alone */
    CLI_STYLE_COLOR, /* one hue, light to deep, and an underline style for each tier; another hue
                      * for what the edge said for want of the cloud */
    CLI_STYLE_MARKS  /* a line of ~ - = ? below each line of text */
} cli_style;

typedef struct cli_render {
    FILE *out;
    cli_style style;
    bool terminal; /* control characters in the text must not reach it */
    int look;      /* of what is being printed, -1: none set */
    size_t width;
    size_t column;
    char marks[CLI_WIDTH_MAX + 1];
    bool at_line_start;
    int n_looks_told; /* by the legend */
} cli_render;

void cli_render_init(cli_render *render, FILE *out, const cli_options *options);
void cli_render_event(cli_render *render, const shoal_client_event *event);
/* Ends the text: always a line feed at its end. */
void cli_render_end(cli_render *render);
/* The legend (once, and once more with a look it had not) and the account of the answer, in styles
 * other than plain. */
void cli_render_summary(cli_render *render, const cli_answer *answer);
void cli_render_trace(const cli_answer *answer, FILE *out, bool terminal);
/* Text with its control characters made harmless. */
void cli_print_safe(FILE *out, const char *text, size_t n);
/* The same for one line, a line feed included in what is harmful, and only as much of it as fits
 * into n_cells columns; how many it took. */
size_t cli_print_cells(FILE *out, const char *text, size_t n_cells);
/* What a terminal says now, at most CLI_WIDTH_MAX columns; 80 and 0 (unknown) where it is none. */
void cli_terminal_size(int fd, size_t *ret_columns, size_t *ret_rows);
/* n cells of a tier's mark, in its colour where colours are wanted. */
void cli_render_bar(const cli_render *render, FILE *out, int tier, size_t n);

/* --- ask.c, chat.c, status.c, top.c, bench.c, session.c
 * -------------------------------------------- */

typedef struct cli_session {
    shoal_client *client;
    const cli_options *options;
    cli_render render;
    cli_answer answer;
    const char *mode;                       /* NULL: the edge's default */
    const shoal_client_options *connection; /* for further handles to the same edge */
} cli_session;

/* One answer to messages (or, for --raw, to a prompt), shown as it comes; CLI_OK or CLI_FAILED,
 * the cause then stands in session->answer.error and was printed. */
int cli_answer_to(cli_session *session, const shoal_client_message *messages, size_t n_messages,
                  const char *prompt);
/* The request that the options and the session's mode ask for, without a text. */
shoal_client_request cli_request(const cli_session *session);
/* The words with a space between, or all of standard input for "-". False after a message. */
bool cli_read_text(const cli_options *options, cli_bytes *text);
int cli_ask(cli_session *session);
int cli_chat(cli_session *session);
int cli_status(cli_session *session);
enum {
    CLI_BUNDLE_BYTES = SHOAL_CLIENT_NAME_MAX + 96
};
/* Which bundle of a fleet runs, for a person; stats->bundle is not empty. */
const char *cli_bundle_text(const shoal_client_stats *stats, char ret_text[CLI_BUNDLE_BYTES]);
int cli_top(cli_session *session);
int cli_bench(cli_session *session);
int cli_sessions(cli_session *session);

/* --- manual.c -------------------------------------------------------------------------------- */

void cli_print_manual(FILE *out);
/* CLI_OK, or CLI_USAGE for a shell that is not bash, zsh or fish. */
int cli_print_completion(const char *shell, FILE *out);

/* main.c: true once after an interrupt; asking clears it. */
bool cli_interrupted(void);
/* Monotonic. Any thread. */
double cli_now_ms(void);
/* Waits until fd can be read (-1: nothing to wait for), so many ms have passed (negative: for
 * ever) or a signal has come, one that came just before included. True: it can be read. */
bool cli_wait(int fd, int64_t ms);

#endif
