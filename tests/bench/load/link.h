/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams to the node: one channel a tenant, and one bounded queue through which everything that
 * arrives reaches the one thread that runs the load. What arrives carries the time at which it did.
 * The functions are for that thread.
 */
#ifndef SHOAL_TESTS_BENCH_LOAD_LINK_H
#define SHOAL_TESTS_BENCH_LOAD_LINK_H

#include "protocol/rpc/rpc.h"
#include "protocol/wire/wire.h"

#include <stdbool.h>

enum {
    LOAD_TENANTS_MAX = 64
};

typedef struct load_link_settings {
    const char *target; /* as shoal_rpc_channel_new */
    const char *ca;     /* NULL: plaintext, one tenant */
    const char *certs[LOAD_TENANTS_MAX];
    const char *keys[LOAD_TENANTS_MAX];
    size_t n_tenants; /* certificates; at least 1 with ca */
    const char *name_override;
} load_link_settings;

typedef struct load_link load_link;
typedef struct load_stream load_stream;

typedef enum load_mail_kind {
    LOAD_MAIL_MESSAGE,
    LOAD_MAIL_BROKEN, /* bytes that are no message; the stream is cancelled, its end follows */
    LOAD_MAIL_END     /* of the stream, its last mail */
} load_mail_kind;

typedef struct load_mail {
    load_mail_kind kind;
    load_stream *stream;
    uint64_t at_ns;          /* when the poller had it */
    shoal_cloud_msg *msg;    /* of MESSAGE */
    shoal_rpc_status status; /* of END */
    char text[SHOAL_ERR_TEXT_MAX];
} load_mail;

shoal_status load_link_new(const load_link_settings *settings, load_link **ret_link,
                           shoal_err *err) SHOAL_MUST_CHECK;
/* Every stream has ended and its end was taken. */
void load_link_free(load_link *link);
SHOAL_DEFINE_CLEANUP(load_link, load_link_free)

/* Asks the node what it serves; waits for the connection up to timeout_ms. */
shoal_status load_link_describe(load_link *link, uint64_t timeout_ms, shoal_describe *ret_describe,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* user comes back through load_stream_user. The stream lives until its end was taken from the queue
 * and load_stream_free was called. */
shoal_status load_stream_open(load_link *link, size_t tenant, size_t n_vocab, void *user,
                              load_stream **ret_stream) SHOAL_MUST_CHECK;
void load_stream_free(load_stream *stream);
void *load_stream_user(const load_stream *stream);
shoal_status load_stream_send(load_stream *stream, const void *data, size_t n) SHOAL_MUST_CHECK;
void load_stream_half_close(load_stream *stream);
void load_stream_cancel(load_stream *stream);

/* The oldest mail, or NULL when none came until wake_ns on the real clock (0: do not wait). */
load_mail *load_link_wait(load_link *link, uint64_t wake_ns);
void load_mail_free(load_mail *mail);
/* Mails that found the queue full or no memory: the figures are worthless then. */
size_t load_link_n_lost(const load_link *link);

#endif
