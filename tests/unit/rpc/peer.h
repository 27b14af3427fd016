/* SPDX-License-Identifier: Apache-2.0
 *
 * Both ends of a call for the tests: what happened on it, under one lock, and waiting for it to
 * happen. Locked by itself.
 */
#ifndef SHOAL_TESTS_RPC_PEER_H
#define SHOAL_TESTS_RPC_PEER_H

#include "protocol/rpc/rpc.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* What one side of a call has seen. */
typedef struct peer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t n_opened;
    size_t n_messages;
    size_t n_bytes;
    size_t n_half_closes;
    size_t n_drains;
    size_t n_closes;
    bool late; /* something was called after on_close */
    shoal_rpc_status status;
    char details[256];
    char identity[256];
    bool authenticated;
    uint8_t last[64]; /* head of the last message */
    size_t last_n;
    shoal_rpc_call *call; /* server: a reference of the last call opened */
} peer;

void peer_init(peer *p);
void peer_fini(peer *p);
/* Waits until *counter is at least n; the test fails after 20 s. */
void peer_wait(peer *p, const size_t *counter, size_t n);
size_t peer_read(peer *p, const size_t *counter);

/* Counts and remembers; user is the peer. */
extern const shoal_rpc_handlers peer_client_handlers;
/* ctx is the peer. Counts and remembers; the test acts through peer->call. */
extern const shoal_rpc_handlers peer_server_handlers;
/* Sends every message back and finishes OK at the half-close. */
extern const shoal_rpc_handlers peer_echo_handlers;

typedef struct stand {
    shoal_rpc *rpc;
    shoal_rpc_server *server;
    shoal_rpc_channel *channel;
    int port;
    char target[64];
    peer client; /* for single calls */
    peer host;   /* behind /test.T/Host and /test.T/Echo */
    shoal_rpc_method methods[2];
} stand;

/* A runtime, a server on a free port and a channel to it. limits and tls may be NULL. */
void stand_up(stand *s, const shoal_rpc_limits *limits, const shoal_rpc_tls *server_tls,
              const shoal_rpc_tls *client_tls);
void stand_down(stand *s);
/* Opens a call of s->client on path. */
shoal_rpc_call *stand_call(stand *s, const char *path, uint64_t deadline_ms);
/* Ends the user's side of a call: waits for on_close and drops the reference. */
void stand_close(stand *s, shoal_rpc_call *call);
/* Drops the host's reference to the call it holds. */
void stand_release(stand *s);

#endif
