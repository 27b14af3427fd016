/* SPDX-License-Identifier: Apache-2.0
 *
 * One stream to the cloud, seen from the rpc poller: bytes are checked and become mails.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

void shoal_link_unref(link *l)
{
    if (l && atomic_fetch_sub(&l->refs, 1) == 1) {
        if (l->call) {
            shoal_rpc_call_unref(l->call);
        }
        shoal_mail_free(l->last);
        shoal_free(l);
    }
}

static void post_closed(link *l, shoal_rpc_status status, const char *text)
{
    mail *m = SHOAL_STEAL(l->last);
    atomic_fetch_add(&l->refs, 1);
    atomic_fetch_add(&l->n_mails, 1);
    m->from = l;
    m->status = status;
    (void)snprintf(m->text, sizeof m->text, "%s", text ? text : "");
    shoal_mailbox_push(&l->coop->box, m);
}

static void on_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    link *l = user;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_cloud_msg *message = NULL;
    mail *m = NULL;
    shoal_status status = shoal_cloud_msg_decode(data, n, l->n_vocab, &message, &err);
    if (status == SHOAL_OK && atomic_load(&l->n_mails) < COOP_LINK_MAILS_MAX) {
        m = shoal_mail_new(MAIL_MESSAGE);
    }
    if (!m) {
        /* A peer that breaks the protocol or floods us loses the stream; the session resumes on a
         * new one from what is confirmed. */
        shoal_cloud_msg_free(message);
        shoal_rpc_call_cancel(call);
        return;
    }
    atomic_fetch_add(&l->refs, 1);
    atomic_fetch_add(&l->n_mails, 1);
    m->from = l;
    m->message = message;
    m->n_bytes = n + COOP_FRAME_BYTES;
    shoal_mailbox_push(&l->coop->box, m);
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    link *l = user;
    shoal_coop *coop = l->coop;
    post_closed(l, status, details);
    shoal_link_unref(l);
    atomic_fetch_sub(&coop->n_calls, 1); /* last: coop may be freed from here on */
}

static const shoal_rpc_handlers stream_handlers = {
    .on_message = on_message,
    .on_close = on_close,
};

shoal_status shoal_link_open(shoal_coop *coop, link **ret_link)
{
    if (!coop->channel) {
        return SHOAL_E_UNAVAILABLE;
    }
    link *l = shoal_calloc(1, sizeof *l);
    mail *last = l ? shoal_mail_new(MAIL_CLOSED) : NULL;
    if (!last) {
        shoal_free(l);
        return SHOAL_E_NOMEM;
    }
    l->last = last;
    atomic_init(&l->refs, 2); /* the engine's and the callbacks' */
    l->coop = coop;
    l->n_vocab = coop->model->hp.n_vocab;
    atomic_fetch_add(&coop->n_calls, 1);
    shoal_status status = shoal_rpc_call_open_held(coop->channel, "/shoal.v1.Cloud/Generate",
                                                   &stream_handlers, l, 0, false, &l->call);
    if (status != SHOAL_OK) {
        atomic_fetch_sub(&coop->n_calls, 1);
        shoal_mail_free(last);
        shoal_free(l);
        return status;
    }
    *ret_link = l;
    return SHOAL_OK;
}

shoal_status shoal_link_send(link *l, const shoal_edge_msg *msg, uint64_t *inout_bytes,
                             size_t *ret_bytes)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    SHOAL_TRY(shoal_edge_msg_encode(msg, &buf));
    shoal_status status = shoal_rpc_call_send(l->call, buf.data, buf.length);
    if (status == SHOAL_BUSY) {
        status = SHOAL_OK; /* what one generation may have in flight is bounded by its window */
    }
    if (status == SHOAL_OK) {
        *inout_bytes += buf.length + COOP_FRAME_BYTES;
        *ret_bytes = buf.length + COOP_FRAME_BYTES;
    }
    return status;
}

void shoal_link_drop(link *take_link)
{
    shoal_rpc_call_cancel(take_link->call);
    shoal_link_unref(take_link);
}

void shoal_link_goodbye(link *take_link, bool ends)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_CLOSE};
    uint64_t bytes = 0;
    size_t n = 0;
    if (!ends && shoal_link_send(take_link, &msg, &bytes, &n) != SHOAL_OK) {
        shoal_link_drop(take_link);
        return;
    }
    if (!ends) {
        shoal_rpc_call_half_close(take_link->call);
    }
    shoal_coop *coop = take_link->coop;
    take_link->close_by_ms = shoal_clock_now_ms(&coop->clock) + COOP_GOODBYE_MS;
    take_link->next_closing = coop->closing;
    coop->closing = take_link;
}

void shoal_link_sweep(shoal_coop *coop, uint64_t now_ms, bool all)
{
    link **at = &coop->closing;
    while (*at) {
        link *l = *at;
        if (all || now_ms >= l->close_by_ms) {
            *at = l->next_closing;
            shoal_link_drop(l);
        } else {
            at = &l->next_closing;
        }
    }
}

void shoal_link_closed(shoal_coop *coop, const link *l)
{
    for (link **at = &coop->closing; *at; at = &(*at)->next_closing) {
        if (*at == l) {
            link *gone = *at;
            *at = gone->next_closing;
            shoal_link_unref(gone);
            return;
        }
    }
}

/* --- Describe --------------------------------------------------------------------------------- */

typedef struct describe_call {
    shoal_coop *coop;
    mail *mail; /* made with the call */
    bool answered;
    char text[SHOAL_WIRE_TEXT_MAX];
} describe_call;

static void describe_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    describe_call *d = user;
    shoal_err err = SHOAL_ERR_INIT;
    d->answered = shoal_describe_decode(data, n, d->mail->described, &err) == SHOAL_OK;
    if (!d->answered) {
        memcpy(d->text, err.text, sizeof d->text);
    }
}

static void describe_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                           const char *details)
{
    (void)call;
    describe_call *d = user;
    mail *m = d->mail;
    m->status = d->answered ? SHOAL_RPC_OK : (status == SHOAL_RPC_OK ? SHOAL_RPC_INTERNAL : status);
    (void)snprintf(m->text, sizeof m->text, "%s", d->text[0] ? d->text : (details ? details : ""));
    shoal_mailbox_push(&d->coop->box, m);
    atomic_fetch_sub(&d->coop->n_calls, 1);
    shoal_free(d);
}

static const shoal_rpc_handlers describe_handlers = {
    .on_message = describe_message,
    .on_close = describe_close,
};

void shoal_coop_describe_start(shoal_coop *coop)
{
    describe_call *d = shoal_calloc(1, sizeof *d);
    mail *m = d ? shoal_mail_new(MAIL_DESCRIBED) : NULL;
    if (m) {
        m->described = shoal_calloc(1, sizeof *m->described);
    }
    if (!m || !m->described) {
        shoal_mail_free(m);
        shoal_free(d);
        return;
    }
    d->coop = coop;
    d->mail = m;
    shoal_rpc_call *call = NULL;
    atomic_fetch_add(&coop->n_calls, 1);
    if (shoal_rpc_call_open(coop->channel, "/shoal.v1.Cloud/Describe", &describe_handlers, d, 2000,
                            false, &call) != SHOAL_OK) {
        atomic_fetch_sub(&coop->n_calls, 1);
        shoal_mail_free(m);
        shoal_free(d);
        return;
    }
    coop->describe_call = call;
    coop->describe_sent_ns = shoal_clock_now_ns(&coop->clock);
    /* An empty DescribeRequest is zero bytes. The call may be over already: then it says so. */
    if (shoal_rpc_call_send(call, "", 0) == SHOAL_OK) {
        shoal_rpc_call_half_close(call);
    }
}

void shoal_coop_describe_end(shoal_coop *coop)
{
    if (coop->describe_call) {
        shoal_rpc_call_cancel(coop->describe_call);
        shoal_rpc_call_unref(SHOAL_STEAL(coop->describe_call));
    }
}
