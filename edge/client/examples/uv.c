/* SPDX-License-Identifier: Apache-2.0
 *
 * An application on libuv: a worker of its pool asks, text comes to the loop by an async handle,
 * and the loop, which goes on with everything else meanwhile, cancels when it has had enough:
 *     cc uv.c $(pkg-config --cflags --libs shoal libuv) -o uv && ./uv "Tell me a lot" 20
 * Each call takes a worker while it lasts: UV_THREADPOOL_SIZE, 4 unless set, is how many can.
 */
#define _POSIX_C_SOURCE 200809L /* libuv's header wants it */
#include <shoal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

typedef struct question {
    shoal_client *client;
    const char *text;
    uv_work_t work;
    uv_async_t more;
    uv_timer_t tick; /* stands for what else the loop does */
    unsigned n_ticks;
    size_t n_shown;
    size_t n_max; /* cancel behind so many bytes */
    int code;     /* of the call, once it has ended */
    shoal_client_error error;
    uv_mutex_t lock; /* what follows is shared */
    uv_cond_t room;
    char piece[1024];
    size_t n_piece;
} question;

/* --- on a worker ------------------------------------------------------------------------------ */

/* While the loop has not taken what is there, the stream waits, and the edge with it. */
static int send_on(void *ctx, const shoal_client_event *event)
{
    question *q = (question *)ctx;
    size_t done = 0;
    while (done < event->n_text) {
        size_t n;
        uv_mutex_lock(&q->lock);
        while (q->n_piece == sizeof q->piece) {
            uv_cond_wait(&q->room, &q->lock);
        }
        n = sizeof q->piece - q->n_piece;
        n = event->n_text - done < n ? event->n_text - done : n;
        memcpy(q->piece + q->n_piece, event->text + done, n);
        q->n_piece += n;
        uv_mutex_unlock(&q->lock);
        uv_async_send(&q->more); /* the one call of libuv that any thread may make */
        done += n;
    }
    return 0;
}

static void ask(uv_work_t *work)
{
    question *q = (question *)work->data;
    shoal_client_message message = {"user", NULL};
    shoal_client_request request;
    message.content = q->text;
    shoal_client_request_init(&request, sizeof request);
    request.messages = &message;
    request.n_messages = 1;
    q->code = shoal_client_chat(q->client, &request, send_on, q, NULL, &q->error);
}

/* --- on the loop ------------------------------------------------------------------------------ */

static void show(uv_async_t *handle)
{
    question *q = (question *)handle->data;
    uv_mutex_lock(&q->lock);
    fwrite(q->piece, 1, q->n_piece, stdout);
    q->n_shown += q->n_piece;
    q->n_piece = 0;
    uv_cond_signal(&q->room);
    uv_mutex_unlock(&q->lock);
    if (q->n_shown >= q->n_max) {
        shoal_client_cancel(q->client); /* never blocks */
        q->n_max = (size_t)-1;
    }
}

static void count(uv_timer_t *handle)
{
    ((question *)handle->data)->n_ticks++;
}

static void finish(uv_work_t *work, int status)
{
    question *q = (question *)work->data;
    (void)status; /* nobody calls uv_cancel */
    show(&q->more);
    uv_close((uv_handle_t *)&q->more, NULL);
    uv_close((uv_handle_t *)&q->tick, NULL);
}

int main(int argc, char **argv)
{
    static question q;
    uv_loop_t *loop = uv_default_loop();
    q.text = argc > 1 ? argv[1] : "What can you do?";
    q.n_max = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : (size_t)-1;
    q.work.data = q.more.data = q.tick.data = &q;
    if (shoal_client_new(NULL, &q.client, &q.error) != SHOAL_CLIENT_OK) {
        fprintf(stderr, "%s\n", q.error.text);
        return 1;
    }
    if (uv_mutex_init(&q.lock) != 0 || uv_cond_init(&q.room) != 0 ||
        uv_async_init(loop, &q.more, show) != 0 || uv_timer_init(loop, &q.tick) != 0 ||
        uv_timer_start(&q.tick, count, 1, 1) != 0 ||
        uv_queue_work(loop, &q.work, ask, finish) != 0) {
        fprintf(stderr, "cannot begin\n");
        return 1;
    }
    uv_run(loop, UV_RUN_DEFAULT); /* until the handles are closed */
    uv_loop_close(loop);
    uv_cond_destroy(&q.room);
    uv_mutex_destroy(&q.lock);
    shoal_client_free(q.client);
    printf("\n%s, the loop turned %u times meanwhile\n", shoal_client_code_text(q.code), q.n_ticks);
    if (q.code != SHOAL_CLIENT_OK && q.code != SHOAL_CLIENT_E_CANCELLED) {
        fprintf(stderr, "%s\n", q.error.text);
        return 1;
    }
    return 0;
}
