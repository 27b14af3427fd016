/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "peer.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    PATIENCE_S = 20
};

void peer_init(peer *p)
{
    memset(p, 0, sizeof *p);
    assert_int_equal(pthread_mutex_init(&p->lock, NULL), 0);
    assert_int_equal(pthread_cond_init(&p->changed, NULL), 0);
}

void peer_fini(peer *p)
{
    shoal_rpc_call_unref(p->call);
    assert_int_equal(pthread_cond_destroy(&p->changed), 0);
    assert_int_equal(pthread_mutex_destroy(&p->lock), 0);
}

void peer_wait(peer *p, const size_t *counter, size_t n)
{
    struct timespec until;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &until), 0);
    until.tv_sec += PATIENCE_S;
    int rc = 0;
    pthread_mutex_lock(&p->lock);
    while (*counter < n && rc == 0) {
        rc = pthread_cond_timedwait(&p->changed, &p->lock, &until);
    }
    size_t seen = *counter;
    pthread_mutex_unlock(&p->lock);
    if (seen < n) {
        fail_msg("waited %d s for %zu events and saw %zu", (int)PATIENCE_S, n, seen);
    }
}

size_t peer_read(peer *p, const size_t *counter)
{
    pthread_mutex_lock(&p->lock);
    size_t n = *counter;
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* --- handlers --------------------------------------------------------------------------------- */

/* One more of something; the counter lies in p. */
static void count(peer *p, size_t *counter)
{
    pthread_mutex_lock(&p->lock);
    p->late = p->late || (p->n_closes > 0 && !p->call);
    *counter += 1;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void see_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    peer *p = user;
    pthread_mutex_lock(&p->lock);
    p->n_bytes += n;
    p->last_n = n;
    memcpy(p->last, data, n < sizeof p->last ? n : sizeof p->last);
    pthread_mutex_unlock(&p->lock);
    count(p, &p->n_messages);
}

static void see_drain(shoal_rpc_call *call, void *user)
{
    (void)call;
    peer *p = user;
    count(p, &p->n_drains);
}

static void see_half_close(shoal_rpc_call *call, void *user)
{
    (void)call;
    peer *p = user;
    count(p, &p->n_half_closes);
}

static void see_close(shoal_rpc_call *call, void *user, shoal_rpc_status status,
                      const char *details)
{
    peer *p = user;
    pthread_mutex_lock(&p->lock);
    p->status = status;
    (void)snprintf(p->details, sizeof p->details, "%s", details);
    if (!p->call) {
        p->authenticated = shoal_rpc_call_peer(call, p->identity, sizeof p->identity);
    }
    p->n_closes++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void open_host(shoal_rpc_call *call, void *ctx)
{
    peer *p = ctx;
    shoal_rpc_call_set_user(call, p);
    shoal_rpc_call_ref(call);
    pthread_mutex_lock(&p->lock);
    shoal_rpc_call *before = p->call;
    p->call = call;
    p->authenticated = shoal_rpc_call_peer(call, p->identity, sizeof p->identity);
    pthread_mutex_unlock(&p->lock);
    shoal_rpc_call_unref(before);
    count(p, &p->n_opened);
}

static void echo_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    shoal_status status = shoal_rpc_call_send(call, data, n);
    if (status == SHOAL_BUSY) {
        shoal_rpc_call_pause(call);
    }
    see_message(call, user, data, n);
}

static void echo_drain(shoal_rpc_call *call, void *user)
{
    shoal_rpc_call_resume(call);
    see_drain(call, user);
}

static void echo_half_close(shoal_rpc_call *call, void *user)
{
    shoal_rpc_call_finish(call, SHOAL_RPC_OK, "");
    see_half_close(call, user);
}

const shoal_rpc_handlers peer_client_handlers = {
    .on_message = see_message, .on_drain = see_drain, .on_close = see_close};
const shoal_rpc_handlers peer_server_handlers = {.on_open = open_host,
                                                 .on_message = see_message,
                                                 .on_half_close = see_half_close,
                                                 .on_drain = see_drain,
                                                 .on_close = see_close};
const shoal_rpc_handlers peer_echo_handlers = {.on_open = open_host,
                                               .on_message = echo_message,
                                               .on_half_close = echo_half_close,
                                               .on_drain = echo_drain,
                                               .on_close = see_close};

/* --- stand ------------------------------------------------------------------------------------ */

void stand_up(stand *s, const shoal_rpc_limits *limits, const shoal_rpc_tls *server_tls,
              const shoal_rpc_tls *client_tls)
{
    memset(s, 0, sizeof *s);
    peer_init(&s->client);
    peer_init(&s->host);
    shoal_rpc_limits defaults = shoal_rpc_limits_default();
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_rpc_new(limits ? limits : &defaults, &s->rpc, &err) != SHOAL_OK) {
        fail_msg("runtime: %s", err.text);
    }
    s->methods[0] = (shoal_rpc_method){"/test.T/Host", &peer_server_handlers, &s->host};
    s->methods[1] = (shoal_rpc_method){"/test.T/Echo", &peer_echo_handlers, &s->host};
    if (shoal_rpc_server_new(s->rpc, "127.0.0.1:0", server_tls, s->methods, 2, &s->server, &s->port,
                             &err) != SHOAL_OK) {
        fail_msg("server: %s", err.text);
    }
    assert_true(s->port > 0);
    (void)snprintf(s->target, sizeof s->target, "127.0.0.1:%d", s->port);
    if (shoal_rpc_channel_new(s->rpc, s->target, client_tls, NULL, NULL, &s->channel, &err) !=
        SHOAL_OK) {
        fail_msg("channel: %s", err.text);
    }
}

void stand_down(stand *s)
{
    shoal_rpc_channel_free(s->channel);
    shoal_rpc_server_free(s->server);
    shoal_rpc_free(s->rpc);
    assert_false(s->client.late);
    assert_false(s->host.late);
    peer_fini(&s->client);
    peer_fini(&s->host);
}

shoal_rpc_call *stand_call(stand *s, const char *path, uint64_t deadline_ms)
{
    shoal_rpc_call *call = NULL;
    assert_int_equal(shoal_rpc_call_open(s->channel, path, &peer_client_handlers, &s->client,
                                         deadline_ms, true, &call),
                     SHOAL_OK);
    return call;
}

void stand_close(stand *s, shoal_rpc_call *call)
{
    peer_wait(&s->client, &s->client.n_closes, 1);
    shoal_rpc_call_unref(call);
}

void stand_release(stand *s)
{
    pthread_mutex_lock(&s->host.lock);
    shoal_rpc_call *call = s->host.call;
    s->host.call = NULL;
    pthread_mutex_unlock(&s->host.lock);
    shoal_rpc_call_unref(call);
}
