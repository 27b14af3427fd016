/* SPDX-License-Identifier: Apache-2.0
 *
 * A Redis of the test's own, on a Unix socket in a folder of its own, and a peer that answers
 * whatever a test wants to be answered.
 */
#ifndef SHOAL_TESTS_UNIT_STORE_SERVER_H
#define SHOAL_TESTS_UNIT_STORE_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* False where Debian's redis-tools is not installed. */
bool redis_available(void);

typedef struct redis_server {
    char folder[64];
    char socket[128];
    pid_t pid; /* 0: not running */
} redis_server;

void redis_server_init(redis_server *s);
/* option and value: one more setting, or NULL. Returns when it answers. */
void redis_server_start(redis_server *s, const char *option, const char *value);
void redis_server_kill(redis_server *s);
void redis_server_fini(redis_server *s);
/* Runs a script on the server and returns its number, -1 for anything else. */
long long redis_server_eval(const redis_server *s, const char *script, const char *key);
/* CONFIG SET. */
void redis_server_set(const redis_server *s, const char *option, const char *value);

/* Listens on a Unix socket; each connection is sent bytes at once, n_times over, then held open
 * until the other side closes it, or closed at once. */
typedef struct odd_peer odd_peer;
odd_peer *odd_peer_start(const char *socket, const char *bytes, size_t n, size_t n_times,
                         bool close_at_once);
void odd_peer_stop(odd_peer *peer);

#endif
