/* SPDX-License-Identifier: Apache-2.0
 *
 * An application with a loop of its own: a thread asks and writes what comes into a pipe, the loop
 * polls the pipe among its other descriptors, and cancels from its side when it has had enough:
 *     cc loop.c $(pkg-config --cflags --libs shoal) -pthread -o loop && ./loop "Tell me a lot" 20
 */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <pthread.h>
#include <shoal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct question {
    shoal_client *client;
    const char *text;
    int pipe[2]; /* [1] is the thread's */
    int code;    /* read after the thread has ended */
    shoal_client_error error;
} question;

/* A pipe that is full lets the stream wait, and the edge with it. */
static int send_on(void *ctx, const shoal_client_event *event)
{
    const question *q = (const question *)ctx;
    size_t done = 0;
    while (done < event->n_text) {
        ssize_t n = write(q->pipe[1], event->text + done, event->n_text - done);
        if (n < 0) {
            return -1;
        }
        done += (size_t)n;
    }
    return 0;
}

static void *ask(void *ctx)
{
    question *q = (question *)ctx;
    shoal_client_message message = {"user", NULL};
    shoal_client_request request;
    message.content = q->text;
    shoal_client_request_init(&request, sizeof request);
    request.messages = &message;
    request.n_messages = 1;
    q->code = shoal_client_chat(q->client, &request, send_on, q, NULL, &q->error);
    close(q->pipe[1]); /* the loop reads the end */
    return NULL;
}

/* Until the answer ends, or n_max bytes of it have come. */
static void turn(question *q, size_t n_max)
{
    size_t n_shown = 0;
    struct pollfd watched; /* an application watches others beside it */
    watched.fd = q->pipe[0];
    watched.events = POLLIN;
    for (;;) {
        char piece[256];
        ssize_t n = poll(&watched, 1, -1) > 0 ? read(q->pipe[0], piece, sizeof piece) : 0;
        if (n <= 0) {
            return;
        }
        fwrite(piece, 1, (size_t)n, stdout);
        n_shown += (size_t)n;
        if (n_shown >= n_max) {
            shoal_client_cancel(q->client); /* from another thread than the call's */
            n_max = (size_t)-1;
        }
    }
}

int main(int argc, char **argv)
{
    question q;
    pthread_t thread;
    q.text = argc > 1 ? argv[1] : "What can you do?";
    if (shoal_client_new(NULL, &q.client, &q.error) != SHOAL_CLIENT_OK || pipe(q.pipe) != 0 ||
        pthread_create(&thread, NULL, ask, &q) != 0) {
        fprintf(stderr, "cannot begin: %s\n", q.error.text);
        return 1;
    }
    turn(&q, argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : (size_t)-1);
    pthread_join(thread, NULL);
    close(q.pipe[0]);
    shoal_client_free(q.client);
    printf("\n%s\n", shoal_client_code_text(q.code));
    return q.code == SHOAL_CLIENT_OK || q.code == SHOAL_CLIENT_E_CANCELLED ? 0 : 1;
}
