/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal: the command line of libshoal. Parses, wires, runs, unwinds.
 */
#include "edge/cli/cli.h"

#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

/* What the signal handler needs: set before the handler is installed, never changed after. */
static shoal_client *running;
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
    shoal_client_cancel(running);
}

bool cli_interrupted(void)
{
    bool was = interrupted != 0;
    interrupted = 0;
    return was;
}

double cli_now_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

bool cli_wait(int fd, int64_t ms)
{
    /* Blocked while looking, so that a signal cannot come between the look and the wait. */
    sigset_t watched;
    sigset_t before;
    (void)sigemptyset(&watched);
    (void)sigaddset(&watched, SIGINT);
    (void)sigaddset(&watched, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &watched, &before);
    int n_ready = 0;
    if (interrupted == 0) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
        n_ready = ppoll(&ready, fd >= 0 ? 1 : 0, ms < 0 ? NULL : &time, &before);
    }
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return n_ready > 0;
}

/* A window that changed its size only ends a wait. */
static void on_resize(int number)
{
    (void)number;
}

/* Without SA_RESTART: Ctrl-C at the prompt ends the read. */
static void handle_interrupts(shoal_client *client)
{
    running = client;
    struct sigaction action = {.sa_handler = on_interrupt};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_resize;
    action.sa_flags = SA_RESTART;
    (void)sigaction(SIGWINCH, &action, NULL);
}

static int run(cli_session *session)
{
    switch (session->options->command) {
    case CLI_ASK:
        return cli_ask(session);
    case CLI_CHAT:
        return cli_chat(session);
    case CLI_TOP:
        return cli_top(session);
    case CLI_BENCH:
        return cli_bench(session);
    case CLI_SESSION:
        return cli_sessions(session);
    case CLI_STATUS:
    default:
        return cli_status(session);
    }
}

int main(int argc, char **argv)
{
    /* Character widths only: numbers keep their points. */
    (void)setlocale(LC_CTYPE, "");
    cli_options options;
    int status = cli_options_parse(argc, argv, &options);
    if (status != CLI_GO_ON) {
        return status;
    }
    shoal_client_options connection;
    shoal_client_options_init(&connection, sizeof connection);
    connection.url = options.url;
    connection.ca_file = options.ca_file;
    connection.api_key = getenv("SHOAL_API_KEY");
    if (options.command == CLI_STATUS || options.command == CLI_TOP) {
        connection.idle_timeout_ms = 10000;
    }
    shoal_client_error error;
    cli_session session = {.options = &options, .mode = options.mode, .connection = &connection};
    if (shoal_client_new(&connection, &session.client, &error) != SHOAL_CLIENT_OK) {
        (void)fprintf(stderr, "shoal: %s\n", error.text);
        return options.url || options.ca_file ? CLI_USAGE : CLI_FAILED;
    }
    cli_render_init(&session.render, stdout, &options);
    handle_interrupts(session.client);
    status = run(&session);
    cli_answer_reset(&session.answer);
    if (fflush(stdout) != 0 && status == CLI_OK) {
        (void)fprintf(stderr, "shoal: the answer could not be written\n");
        status = CLI_FAILED;
    }
    /* The handler may still come: take it away before what it uses goes. */
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    shoal_client_free(session.client);
    return status;
}
