/* SPDX-License-Identifier: Apache-2.0
 *
 * One call, either side. Threads change its state under its lock and start batches there; events
 * come back on the poller, which alone calls the user (shoal_rpc_call_step). Sending: a queue of
 * messages, one SEND_MESSAGE in flight, headers with the first and the end with the last.
 * Receiving: one RECV_MESSAGE in flight, and none while paused or while a message waits, so that
 * HTTP/2 flow control holds the peer. The order of delivery is drain, message, half-close, close:
 * a paused reader never delays the drain of its own sending side. What is sent from a callback
 * waits for its end, so that it shares its writes; once a server's call is to be finished nothing
 * more is read.
 */
#include "common/base/mem.h"
#include "protocol/rpc/rpc_internal.h"

#include <grpc/byte_buffer_reader.h>

#include <string.h>

/* A message of a few bytes costs more than its bytes: the bound counts that too. */
enum {
    MESSAGE_OVERHEAD = 64
};

struct shoal_rpc_out {
    shoal_rpc_out *next;
    size_t n;
    uint8_t data[];
};

typedef enum step {
    STEP_NONE,
    STEP_DRAIN,
    STEP_MESSAGE,
    STEP_HALF_CLOSE,
    STEP_CLOSE
} step;

static void lock(shoal_rpc_call *call)
{
    (void)pthread_mutex_lock(&call->lock);
}

static void unlock(shoal_rpc_call *call)
{
    (void)pthread_mutex_unlock(&call->lock);
}

/* gRPC refuses a batch only for a mistake of the state machine. */
static void start_batch(shoal_rpc_call *call, const grpc_op *ops, size_t n, shoal_rpc_tag *tag)
{
    SHOAL_RPC_RELEASE(tag);
    grpc_call_error error = grpc_call_start_batch(call->grpc, ops, n, tag, NULL);
    SHOAL_ASSERT(error == GRPC_CALL_OK);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void free_out(void *p)
{
    SHOAL_RPC_ACQUIRE(p);
    shoal_free(p);
}

static void drop_queue(shoal_rpc_call *call)
{
    while (call->head) {
        shoal_rpc_out *out = call->head;
        call->head = out->next;
        shoal_free(out);
    }
    call->tail = NULL;
    call->queued_bytes = call->sending_bytes;
}

/* Takes the first message of the queue into call->sending, without a copy. */
static void take_head(shoal_rpc_call *call)
{
    shoal_rpc_out *out = call->head;
    call->head = out->next;
    if (!call->head) {
        call->tail = NULL;
    }
    call->sending_bytes = out->n + MESSAGE_OVERHEAD;
    SHOAL_RPC_RELEASE(out);
    grpc_slice slice = grpc_slice_new_with_user_data(out->data, out->n, free_out, out);
    call->sending = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
}

static size_t add_last_op(shoal_rpc_call *call, grpc_op *op)
{
    if (!call->last_asked || call->last_sent || call->head) {
        return 0;
    }
    if (call->server) {
        op->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        op->data.send_status_from_server.status = (grpc_status_code)call->finish_status;
        op->data.send_status_from_server.status_details = &call->finish_details;
    } else {
        op->op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
    }
    call->last_sent = true;
    return 1;
}

/* Starts the next batch of the sending side, if one is due. Under the lock. */
static void pump_send(shoal_rpc_call *call)
{
    if (call->send_active || call->in_callback || !call->grpc || call->send_broken ||
        call->cancelled || call->ended) {
        return;
    }
    grpc_op ops[3];
    memset(ops, 0, sizeof ops);
    size_t n = 0;
    bool work = call->head || (call->last_asked && !call->last_sent);
    if (!call->headers_sent && (work || !(call->server || call->held))) {
        ops[n].op = GRPC_OP_SEND_INITIAL_METADATA;
        if (!call->server) {
            ops[n].flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY_EXPLICITLY_SET;
            ops[n].flags |= call->wait_for_ready ? GRPC_INITIAL_METADATA_WAIT_FOR_READY : 0u;
        }
        call->headers_sent = true;
        n++;
    }
    if (call->head) {
        take_head(call);
        ops[n].op = GRPC_OP_SEND_MESSAGE;
        /* Headers that are not written complete never, so their message is not held back. */
        ops[n].flags = call->head && n == 0 ? GRPC_WRITE_BUFFER_HINT : 0;
        ops[n].data.send_message.send_message = call->sending;
        n++;
    }
    n += add_last_op(call, &ops[n]);
    if (n > 0) {
        call->send_active = true;
        start_batch(call, ops, n, &call->send_tag);
    }
}

/* --- receiving -------------------------------------------------------------------------------- */

/* Nobody wants what is still to come: we cancelled, the server's call is over or will be, or the
 * client's broke off while its reader paused. */
static bool discards(const shoal_rpc_call *call)
{
    bool broken = call->status == GRPC_STATUS_CANCELLED ||
                  call->status == GRPC_STATUS_DEADLINE_EXCEEDED ||
                  call->status == GRPC_STATUS_UNAVAILABLE;
    return call->cancelled || (call->server && call->last_asked) ||
           (call->ended && (call->server || (call->paused && broken)));
}

/* Asks for the next message, if one is wanted. Under the lock. */
static void arm_recv(shoal_rpc_call *call)
{
    if (call->recv_active || call->recv_ended || call->inbox || call->paused || !call->grpc ||
        discards(call)) {
        return;
    }
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    size_t n = 0;
    /* A message of the server is held back until its headers were asked for. */
    if (!call->server && !call->headers_asked) {
        ops[n].op = GRPC_OP_RECV_INITIAL_METADATA;
        ops[n].data.recv_initial_metadata.recv_initial_metadata = &call->headers;
        call->headers_asked = true;
        n++;
    }
    ops[n].op = GRPC_OP_RECV_MESSAGE;
    ops[n].data.recv_message.recv_message = &call->receiving;
    n++;
    call->recv_active = true;
    start_batch(call, ops, n, &call->recv_tag);
}

/* An empty batch completes at once: the way from any thread to the poller. Under the lock. */
static void wake_poller(shoal_rpc_call *call)
{
    if (!call->wake_active && call->grpc) {
        call->wake_active = true;
        start_batch(call, NULL, 0, &call->wake_tag);
    }
}

/* Hands out one message; the bytes are borrowed from gRPC when they lie in one piece. */
static void deliver_message(shoal_rpc_call *call, grpc_byte_buffer *message)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, message)) {
        shoal_rpc_call_cancel(call);
        return;
    }
    grpc_slice *piece = NULL;
    if (message->data.raw.slice_buffer.count == 1 &&
        grpc_byte_buffer_reader_peek(&reader, &piece)) {
        call->handlers->on_message(call, call->user, GRPC_SLICE_START_PTR(*piece),
                                   GRPC_SLICE_LENGTH(*piece));
    } else {
        grpc_slice whole = grpc_byte_buffer_reader_readall(&reader);
        call->handlers->on_message(call, call->user, GRPC_SLICE_START_PTR(whole),
                                   GRPC_SLICE_LENGTH(whole));
        grpc_slice_unref(whole);
    }
    grpc_byte_buffer_reader_destroy(&reader);
}

/* --- the end ---------------------------------------------------------------------------------- */

static bool can_close(const shoal_rpc_call *call)
{
    return call->ended && !call->send_active && !call->recv_active && !call->wake_active &&
           !call->inbox && (call->server || call->recv_ended || discards(call));
}

/* Details come from the peer: cut, and without control bytes. */
static void copy_details(const grpc_slice *from, char ret_details[SHOAL_RPC_DETAILS_MAX])
{
    size_t n = SHOAL_MIN(GRPC_SLICE_LENGTH(*from), (size_t)SHOAL_RPC_DETAILS_MAX - 1);
    const uint8_t *bytes = GRPC_SLICE_START_PTR(*from);
    for (size_t i = 0; i < n; i++) {
        bool control = bytes[i] < 0x20 || bytes[i] == 0x7f;
        ret_details[i] = control ? '?' : (char)bytes[i];
    }
    ret_details[n] = '\0';
}

/* What belongs to gRPC goes with the call, not with the last reference: that may come later than
 * the runtime's end. */
static void free_parts(shoal_rpc_call *call)
{
    grpc_metadata_array_destroy(&call->headers);
    grpc_metadata_array_destroy(&call->trailers);
    grpc_slice_unref(call->details);
    grpc_slice_unref(call->finish_details);
}

/* The last step, on the poller; no batch is in flight and, as grpc is the call's no more, none can
 * start. */
static void close_call(shoal_rpc_call *call, grpc_call *grpc)
{
    lock(call);
    drop_queue(call);
    unlock(call);
    char details[SHOAL_RPC_DETAILS_MAX] = "";
    shoal_rpc_status status = (shoal_rpc_status)call->status;
    shoal_rpc_server *server = call->server;
    if (server) {
        bool as_asked = call->last_sent && !call->send_broken && !call->peer_cancelled;
        status = as_asked ? SHOAL_RPC_OK : SHOAL_RPC_CANCELLED;
    } else {
        copy_details(&call->details, details);
        shoal_rpc_conn_drop(call->conn);
    }
    call->handlers->on_close(call, call->user, status, details);
    free_parts(call);
    grpc_call_unref(grpc);
    shoal_rpc *rpc = call->rpc;
    bool counted = call->counted;
    shoal_rpc_call_unref(call);
    if (server) {
        shoal_rpc_server_forget(server, counted);
    }
    (void)pthread_mutex_lock(&rpc->lock);
    rpc->n_calls--;
    (void)pthread_cond_broadcast(&rpc->changed);
    (void)pthread_mutex_unlock(&rpc->lock);
}

/* --- the machine ------------------------------------------------------------------------------ */

/* What the user is to hear next; starts whatever batches are due. Under the lock. */
static step next_step(shoal_rpc_call *call, grpc_byte_buffer **ret_message)
{
    if (call->closed) {
        return STEP_NONE;
    }
    call->in_callback = false;
    pump_send(call);
    if (call->inbox && discards(call)) {
        grpc_byte_buffer_destroy(SHOAL_STEAL(call->inbox));
    }
    if (call->drain_due && !call->ended && !call->cancelled) {
        call->drain_due = false;
        return STEP_DRAIN;
    }
    if (call->inbox && !call->paused) {
        *ret_message = SHOAL_STEAL(call->inbox);
        return STEP_MESSAGE;
    }
    arm_recv(call);
    if (call->server && call->recv_ended && !call->half_close_told && !call->ended &&
        !call->cancelled) {
        call->half_close_told = true;
        return STEP_HALF_CLOSE;
    }
    if (can_close(call)) {
        call->closed = true;
        return STEP_CLOSE;
    }
    return STEP_NONE;
}

/* Delivers everything that is due. On the poller alone, so that callbacks are never concurrent. */
static void run_steps(shoal_rpc_call *call)
{
    for (;;) {
        grpc_byte_buffer *message = NULL;
        lock(call);
        step next = next_step(call, &message);
        call->in_callback = next != STEP_NONE && next != STEP_CLOSE;
        /* Under the lock that saw nothing in flight: else a cancel from another thread could still
         * start a batch, whose event would find the call freed. */
        grpc_call *grpc = next == STEP_CLOSE ? SHOAL_STEAL(call->grpc) : NULL;
        unlock(call);
        switch (next) {
        case STEP_NONE:
            return;
        case STEP_DRAIN:
            if (call->handlers->on_drain) {
                call->handlers->on_drain(call, call->user);
            }
            break;
        case STEP_MESSAGE:
            deliver_message(call, message);
            grpc_byte_buffer_destroy(message);
            break;
        case STEP_HALF_CLOSE:
            if (call->handlers->on_half_close) {
                call->handlers->on_half_close(call, call->user);
            }
            break;
        case STEP_CLOSE:
            close_call(call, grpc);
            return;
        }
    }
}

static void on_sent(shoal_rpc_tag *tag, bool ok)
{
    shoal_rpc_call *call = SHOAL_RPC_OWNER(tag, shoal_rpc_call, send_tag);
    lock(call);
    call->send_active = false;
    if (call->sending) {
        grpc_byte_buffer_destroy(SHOAL_STEAL(call->sending));
    }
    call->queued_bytes -= call->sending_bytes;
    call->sending_bytes = 0;
    if (!ok) {
        call->send_broken = true;
        drop_queue(call);
    } else if (call->full && call->queued_bytes <= call->rpc->limits.send_low) {
        call->full = false;
        call->drain_due = true;
    }
    unlock(call);
    run_steps(call);
}

static void on_received(shoal_rpc_tag *tag, bool ok)
{
    shoal_rpc_call *call = SHOAL_RPC_OWNER(tag, shoal_rpc_call, recv_tag);
    lock(call);
    call->recv_active = false;
    grpc_byte_buffer *message = SHOAL_STEAL(call->receiving);
    if (!call->server && !call->peer_known) {
        call->peer_known = true;
        call->authenticated = shoal_rpc_tls_identity(call->grpc, call->identity);
    }
    if (!ok || !message) {
        call->recv_ended = true;
        /* A receive that failed (a message over the limit) is no half-close: the end follows. */
        call->half_close_told = call->half_close_told || !ok;
        if (message) {
            grpc_byte_buffer_destroy(message);
        }
    } else if (message->data.raw.compression != GRPC_COMPRESS_NONE) {
        /* Never agreed on: its true size is unknown. */
        grpc_byte_buffer_destroy(message);
        call->cancelled = true;
        (void)grpc_call_cancel(call->grpc, NULL);
    } else {
        call->inbox = message;
    }
    unlock(call);
    run_steps(call);
}

static void on_end(shoal_rpc_tag *tag, bool ok)
{
    (void)ok;
    shoal_rpc_call *call = SHOAL_RPC_OWNER(tag, shoal_rpc_call, end_tag);
    lock(call);
    call->ended = true;
    unlock(call);
    run_steps(call);
}

static void on_wake(shoal_rpc_tag *tag, bool ok)
{
    (void)ok;
    shoal_rpc_call *call = SHOAL_RPC_OWNER(tag, shoal_rpc_call, wake_tag);
    lock(call);
    call->wake_active = false;
    unlock(call);
    run_steps(call);
}

shoal_rpc_call *shoal_rpc_call_make(shoal_rpc *rpc, const shoal_rpc_handlers *handlers, void *user,
                                    grpc_call *take_grpc)
{
    shoal_rpc_call *call = shoal_calloc(1, sizeof *call);
    if (!call) {
        return NULL;
    }
    atomic_init(&call->refs, 1);
    call->rpc = rpc;
    call->handlers = handlers;
    call->user = user;
    call->grpc = take_grpc;
    call->send_tag.fn = on_sent;
    call->recv_tag.fn = on_received;
    call->end_tag.fn = on_end;
    call->wake_tag.fn = on_wake;
    call->details = grpc_empty_slice();
    call->finish_details = grpc_empty_slice();
    grpc_metadata_array_init(&call->headers);
    grpc_metadata_array_init(&call->trailers);
    int rc = pthread_mutex_init(&call->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_mutex_lock(&rpc->lock);
    rpc->n_calls++;
    (void)pthread_mutex_unlock(&rpc->lock);
    return call;
}

void shoal_rpc_call_start(shoal_rpc_call *call, void *open_ctx)
{
    grpc_op end;
    memset(&end, 0, sizeof end);
    if (call->server) {
        end.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
        end.data.recv_close_on_server.cancelled = &call->peer_cancelled;
    } else {
        end.op = GRPC_OP_RECV_STATUS_ON_CLIENT;
        end.data.recv_status_on_client.trailing_metadata = &call->trailers;
        end.data.recv_status_on_client.status = &call->status;
        end.data.recv_status_on_client.status_details = &call->details;
    }
    lock(call);
    start_batch(call, &end, 1, &call->end_tag);
    if (!call->server) {
        pump_send(call);
        arm_recv(call);
        unlock(call);
        return;
    }
    unlock(call);
    /* On the poller: no event of this call can be handled before this returns. */
    if (call->handlers->on_open) {
        call->handlers->on_open(call, open_ctx);
    } else {
        call->user = open_ctx;
    }
    run_steps(call);
}

/* --- the user's side -------------------------------------------------------------------------- */

void shoal_rpc_call_set_user(shoal_rpc_call *call, void *user)
{
    call->user = user;
}

void *shoal_rpc_call_user(const shoal_rpc_call *call)
{
    return call->user;
}

void shoal_rpc_call_ref(shoal_rpc_call *call)
{
    atomic_fetch_add(&call->refs, 1);
}

void shoal_rpc_call_unref(shoal_rpc_call *call)
{
    if (call && atomic_fetch_sub(&call->refs, 1) == 1) {
        (void)pthread_mutex_destroy(&call->lock);
        shoal_free(call);
    }
}

/* Under the lock: takes out, or says why not. */
static shoal_status queue_message(shoal_rpc_call *call, shoal_rpc_out *out)
{
    const shoal_rpc_limits *limits = &call->rpc->limits;
    if (!call->grpc || call->last_asked || call->cancelled || call->ended || call->send_broken) {
        return SHOAL_E_CANCELLED;
    }
    size_t cost = out->n + MESSAGE_OVERHEAD;
    if (call->queued_bytes > 2 * limits->send_high) {
        return SHOAL_E_EXHAUSTED;
    }
    if (call->tail) {
        call->tail->next = out;
    } else {
        call->head = out;
    }
    call->tail = out;
    call->queued_bytes += cost;
    call->full = call->full || call->queued_bytes > limits->send_high;
    pump_send(call);
    return call->full ? SHOAL_BUSY : SHOAL_OK;
}

shoal_status shoal_rpc_call_send(shoal_rpc_call *call, const void *data, size_t n)
{
    if (n > call->rpc->limits.message_max) {
        return SHOAL_E_LIMIT;
    }
    shoal_rpc_out *out = shoal_calloc(1, sizeof *out + n);
    if (!out) {
        return SHOAL_E_NOMEM;
    }
    out->n = n;
    if (n > 0) {
        memcpy(out->data, data, n);
    }
    lock(call);
    shoal_status status = queue_message(call, out);
    unlock(call);
    if (status < 0) {
        shoal_free(out);
    }
    return status;
}

void shoal_rpc_call_half_close(shoal_rpc_call *call)
{
    SHOAL_ASSERT(!call->server);
    lock(call);
    call->last_asked = true;
    pump_send(call);
    unlock(call);
}

void shoal_rpc_call_finish(shoal_rpc_call *call, shoal_rpc_status status, const char *details)
{
    SHOAL_ASSERT(call->server);
    lock(call);
    if (!call->last_asked && call->grpc) {
        const char *text = details ? details : "";
        grpc_slice_unref(call->finish_details);
        call->finish_details =
            grpc_slice_from_copied_buffer(text, strnlen(text, SHOAL_RPC_DETAILS_MAX - 1));
        call->finish_status = status;
        call->last_asked = true;
        pump_send(call);
    }
    unlock(call);
}

void shoal_rpc_call_cancel(shoal_rpc_call *call)
{
    lock(call);
    if (call->grpc && !call->cancelled) {
        call->cancelled = true;
        (void)grpc_call_cancel(call->grpc, NULL);
        /* A call that has ended and waits for its paused reader gets no other event. */
        wake_poller(call);
    }
    unlock(call);
}

void shoal_rpc_call_pause(shoal_rpc_call *call)
{
    lock(call);
    call->paused = true;
    unlock(call);
}

void shoal_rpc_call_resume(shoal_rpc_call *call)
{
    lock(call);
    call->paused = false;
    if (call->inbox) {
        wake_poller(call);
    } else {
        arm_recv(call);
    }
    unlock(call);
}

bool shoal_rpc_call_peer(const shoal_rpc_call *call, char *ret_identity, size_t n)
{
    shoal_rpc_call *locked = (shoal_rpc_call *)(uintptr_t)call;
    lock(locked);
    bool fits = strlen(call->identity) < n;
    bool authenticated = call->authenticated && fits;
    if (n > 0) {
        const char *identity = fits ? call->identity : "";
        memcpy(ret_identity, identity, strlen(identity) + 1);
    }
    unlock(locked);
    return authenticated;
}
