/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/link.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/queue.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    QUEUE_MAX = 1 << 17
};

struct load_link {
    shoal_rpc *rpc;
    shoal_rpc_channel *channels[LOAD_TENANTS_MAX];
    size_t n_channels;
    shoal_queue *queue;
    int wake_fd;
    atomic_bool asleep; /* or about to be, and will look into the queue before it is */
    atomic_size_t n_lost;
};

struct load_stream {
    load_link *link;
    shoal_rpc_call *call;
    size_t n_vocab;
    void *user;
};

static void wake(void *ctx)
{
    load_link *link = ctx;
    uint64_t one = 1;
    if (atomic_exchange(&link->asleep, false)) {
        ssize_t n = write(link->wake_fd, &one, sizeof one);
        (void)n; /* full means that it is awake anyhow */
    }
}

static shoal_status open_channels(load_link *link, const load_link_settings *s, shoal_err *err)
{
    size_t n = s->ca ? s->n_tenants : 1;
    for (size_t i = 0; i < n; i++) {
        shoal_rpc_tls tls = {.ca = s->ca,
                             .cert = s->ca ? s->certs[i] : NULL,
                             .key = s->ca ? s->keys[i] : NULL,
                             .name_override = s->ca ? s->name_override : NULL};
        SHOAL_TRY(shoal_rpc_channel_new(link->rpc, s->target, s->ca ? &tls : NULL, NULL, NULL,
                                        &link->channels[i], err));
        link->n_channels++;
    }
    return SHOAL_OK;
}

shoal_status load_link_new(const load_link_settings *settings, load_link **ret_link, shoal_err *err)
{
    SHOAL_CLEANUP(load_link_freep) load_link *link = shoal_calloc(1, sizeof *link);
    if (!link) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the link");
    }
    link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (link->wake_fd < 0) {
        return shoal_err_set(err, SHOAL_E_IO, "eventfd failed");
    }
    SHOAL_TRY(shoal_queue_new(QUEUE_MAX, &link->queue));
    shoal_queue_set_wake(link->queue, wake, link);
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    SHOAL_TRY(shoal_rpc_new(&limits, &link->rpc, err));
    SHOAL_TRY(open_channels(link, settings, err));
    *ret_link = SHOAL_STEAL(link);
    return SHOAL_OK;
}

void load_link_free(load_link *link)
{
    if (!link) {
        return;
    }
    for (size_t i = 0; i < link->n_channels; i++) {
        shoal_rpc_channel_free(link->channels[i]);
    }
    if (link->rpc) {
        shoal_rpc_free(link->rpc);
    }
    if (link->queue) {
        shoal_queue_free(link->queue);
    }
    if (link->wake_fd >= 0) {
        (void)close(link->wake_fd);
    }
    shoal_free(link);
}

/* --- what arrives, on the poller ----------------------------------------------------------------
 */

static void post(load_stream *stream, load_mail_kind kind, shoal_cloud_msg *take_msg,
                 shoal_rpc_status status, const char *text)
{
    const shoal_clock clock = shoal_clock_real();
    load_mail *mail = shoal_calloc(1, sizeof *mail);
    if (!mail) {
        atomic_fetch_add(&stream->link->n_lost, 1);
        shoal_cloud_msg_free(take_msg);
        return;
    }
    mail->kind = kind;
    mail->stream = stream;
    mail->at_ns = shoal_clock_now_ns(&clock);
    mail->msg = take_msg;
    mail->status = status;
    (void)snprintf(mail->text, sizeof mail->text, "%s", text ? text : "");
    if (shoal_queue_push(stream->link->queue, mail) != SHOAL_OK) {
        atomic_fetch_add(&stream->link->n_lost, 1);
        load_mail_free(mail);
    }
}

static void on_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    load_stream *stream = user;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_cloud_msg *msg = NULL;
    if (shoal_cloud_msg_decode(data, n, stream->n_vocab, &msg, &err) != SHOAL_OK) {
        post(stream, LOAD_MAIL_BROKEN, NULL, SHOAL_RPC_OK, err.text);
        shoal_rpc_call_cancel(call);
        return;
    }
    post(stream, LOAD_MAIL_MESSAGE, msg, SHOAL_RPC_OK, "");
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    post(user, LOAD_MAIL_END, NULL, status, details);
}

static const shoal_rpc_handlers handlers = {.on_message = on_message, .on_close = on_close};

load_mail *load_link_wait(load_link *link, uint64_t wake_ns)
{
    const shoal_clock clock = shoal_clock_real();
    for (;;) {
        load_mail *mail = shoal_queue_pop(link->queue);
        uint64_t now_ns = shoal_clock_now_ns(&clock);
        if (!mail && now_ns < wake_ns) {
            atomic_store(&link->asleep, true);
            mail = shoal_queue_pop(link->queue);
        }
        if (mail || now_ns >= wake_ns) {
            atomic_store(&link->asleep, false);
            return mail;
        }
        struct pollfd fd = {.fd = link->wake_fd, .events = POLLIN};
        uint64_t left_ns = wake_ns - now_ns;
        struct timespec left = {.tv_sec = (time_t)SHOAL_MIN(left_ns / 1000000000U, 3600U),
                                .tv_nsec = (long)(left_ns % 1000000000U)};
        if (ppoll(&fd, 1, &left, NULL) > 0) {
            uint64_t count = 0;
            ssize_t n = read(link->wake_fd, &count, sizeof count);
            (void)n;
        }
    }
}

void load_mail_free(load_mail *mail)
{
    if (mail) {
        shoal_cloud_msg_free(mail->msg);
        shoal_free(mail);
    }
}

size_t load_link_n_lost(const load_link *link)
{
    return atomic_load(&link->n_lost);
}

/* --- streams ------------------------------------------------------------------------------------
 */

shoal_status load_stream_open(load_link *link, size_t tenant, size_t n_vocab, void *user,
                              load_stream **ret_stream)
{
    load_stream *stream = shoal_calloc(1, sizeof *stream);
    if (!stream) {
        return SHOAL_E_NOMEM;
    }
    *stream = (load_stream){.link = link, .n_vocab = n_vocab, .user = user};
    shoal_status status =
        shoal_rpc_call_open(link->channels[tenant % link->n_channels], "/shoal.v1.Cloud/Generate",
                            &handlers, stream, 0, true, &stream->call);
    if (status != SHOAL_OK) {
        shoal_free(stream);
        return status;
    }
    *ret_stream = stream;
    return SHOAL_OK;
}

void load_stream_free(load_stream *stream)
{
    if (stream) {
        shoal_rpc_call_unref(stream->call);
        shoal_free(stream);
    }
}

void *load_stream_user(const load_stream *stream)
{
    return stream->user;
}

shoal_status load_stream_send(load_stream *stream, const void *data, size_t n)
{
    shoal_status status = shoal_rpc_call_send(stream->call, data, n);
    return status == SHOAL_BUSY ? SHOAL_OK : status;
}

void load_stream_half_close(load_stream *stream)
{
    shoal_rpc_call_half_close(stream->call);
}

void load_stream_cancel(load_stream *stream)
{
    shoal_rpc_call_cancel(stream->call);
}

/* --- Describe -----------------------------------------------------------------------------------
 */

/* Waits in the calling thread; on_close is the last that touches it. */
typedef struct question {
    shoal_queue *done; /* gets the question itself */
    shoal_describe describe;
    shoal_status status;
    shoal_err err;
} question;

static void answer_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    question *q = user;
    q->status = shoal_describe_decode(data, n, &q->describe, &q->err);
}

static void answer_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                         const char *details)
{
    (void)call;
    question *q = user;
    if (status != SHOAL_RPC_OK) {
        q->status = shoal_err_set(&q->err, SHOAL_E_UNAVAILABLE, "Describe ended with status %d: %s",
                                  (int)status, details ? details : "");
    }
    shoal_status pushed = shoal_queue_push(q->done, q);
    SHOAL_ASSERT(pushed == SHOAL_OK);
}

shoal_status load_link_describe(load_link *link, uint64_t timeout_ms, shoal_describe *ret_describe,
                                shoal_err *err)
{
    static const shoal_rpc_handlers answers = {.on_message = answer_message,
                                               .on_close = answer_close};
    question q = {.status = SHOAL_E_UNAVAILABLE, .err = SHOAL_ERR_INIT};
    shoal_rpc_call *call = NULL;
    SHOAL_TRY(shoal_queue_new(1, &q.done));
    shoal_status status = shoal_rpc_call_open(link->channels[0], "/shoal.v1.Cloud/Describe",
                                              &answers, &q, timeout_ms, true, &call);
    if (status == SHOAL_OK) {
        /* An empty DescribeRequest is zero bytes. */
        if (shoal_rpc_call_send(call, "", 0) == SHOAL_OK) {
            shoal_rpc_call_half_close(call);
        }
        (void)shoal_queue_pop_wait(q.done, UINT64_MAX);
        shoal_rpc_call_unref(call);
        status = q.status;
    }
    shoal_queue_free(q.done);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%.200s",
                             q.err.text[0] ? q.err.text : shoal_status_text(status));
    }
    *ret_describe = q.describe;
    return SHOAL_OK;
}
