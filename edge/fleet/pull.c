/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/fleet/pull.h"

#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WAIT_MS = 100,      /* between two looks at stop */
    SILENCE_MS = 60000, /* without a part, the connection's making included */
};

/* One call: a slot for a part between the poller and who waits. While it is full the call does not
 * read. */
typedef struct slot {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    shoal_msg_bundle_part *part;
    bool closed;
    bool bad; /* what came is no part: text says why */
    shoal_rpc_status status;
    char text[SHOAL_WIRE_TEXT_MAX];
} slot;

struct shoal_pull {
    const atomic_bool *stop;
    shoal_rpc *rpc;
    shoal_rpc_channel *channel;
};

shoal_status shoal_pull_new(const char *target, const shoal_rpc_tls *tls, const atomic_bool *stop,
                            shoal_pull **ret_pull, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_pull_freep) shoal_pull *pull = shoal_calloc(1, sizeof *pull);
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    if (!pull) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to ask for a bundle");
    }
    pull->stop = stop;
    SHOAL_TRY(shoal_rpc_new(&limits, &pull->rpc, err));
    SHOAL_TRY(shoal_rpc_channel_new(pull->rpc, target, tls, NULL, NULL, &pull->channel, err));
    *ret_pull = SHOAL_STEAL(pull);
    return SHOAL_OK;
}

void shoal_pull_free(shoal_pull *pull)
{
    if (!pull) {
        return;
    }
    if (pull->channel) {
        shoal_rpc_channel_free(pull->channel);
    }
    if (pull->rpc) {
        shoal_rpc_free(pull->rpc);
    }
    shoal_free(pull);
}

/* --- the poller's side ------------------------------------------------------------------------ */

static void on_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    slot *s = user;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_msg_bundle_part *part = NULL;
    /* Before the part can be seen: who takes it resumes the call, and must not be the first to. */
    shoal_rpc_call_pause(call);
    shoal_status status = shoal_msg_bundle_part_decode(data, n, &part, &err);
    (void)pthread_mutex_lock(&s->lock);
    if (status == SHOAL_OK && !s->part && !s->bad) {
        s->part = SHOAL_STEAL(part);
    } else if (!s->bad) {
        s->bad = true;
        (void)snprintf(s->text, sizeof s->text, "%s", err.text);
    }
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
    shoal_msg_bundle_part_free(part);
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    slot *s = user;
    (void)pthread_mutex_lock(&s->lock);
    s->closed = true;
    s->status = status;
    if (!s->text[0]) {
        (void)snprintf(s->text, sizeof s->text, "%s",
                       details && details[0] ? details : shoal_rpc_status_name(status));
    }
    (void)pthread_cond_signal(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

static const shoal_rpc_handlers handlers = {.on_message = on_message, .on_close = on_close};

/* --- who waits -------------------------------------------------------------------------------- */

static void init_slot(slot *s)
{
    pthread_condattr_t attr;
    int rc = pthread_mutex_init(&s->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&s->changed, &attr);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_destroy(&attr);
}

/* Under the lock. */
static void wait_a_while(slot *s)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WAIT_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    (void)pthread_cond_timedwait(&s->changed, &s->lock, &until);
}

/* The next part, or the end: SHOAL_EOF. */
static shoal_status next_part(const shoal_pull *pull, slot *s, shoal_msg_bundle_part **ret_part,
                              shoal_err *err)
{
    shoal_status status = SHOAL_OK;
    int waited_ms = 0;
    (void)pthread_mutex_lock(&s->lock);
    while (status == SHOAL_OK && !s->part && !s->closed && !s->bad) {
        wait_a_while(s);
        waited_ms += WAIT_MS;
        if (atomic_load(pull->stop)) {
            status = shoal_err_set(err, SHOAL_E_CANCELLED, "stopped");
        } else if (waited_ms >= SILENCE_MS) {
            status = shoal_err_set(err, SHOAL_E_DEADLINE, "the cloud has sent nothing for %d s",
                                   SILENCE_MS / 1000);
        }
    }
    if (status == SHOAL_OK && s->bad) {
        status = shoal_err_set(err, SHOAL_E_PROTOCOL, "%s", s->text);
    } else if (status == SHOAL_OK && s->part) {
        *ret_part = SHOAL_STEAL(s->part);
    } else if (status == SHOAL_OK) {
        status = SHOAL_EOF;
    }
    (void)pthread_mutex_unlock(&s->lock);
    return status;
}

static shoal_status end_status(const slot *s, shoal_err *err)
{
    static const struct {
        shoal_rpc_status from;
        shoal_status to;
    } rows[] = {
        {SHOAL_RPC_NOT_FOUND, SHOAL_E_NOTFOUND},
        {SHOAL_RPC_PERMISSION_DENIED, SHOAL_E_AUTH},
        {SHOAL_RPC_UNIMPLEMENTED, SHOAL_E_UNSUPPORTED},
        {SHOAL_RPC_INVALID_ARGUMENT, SHOAL_E_PROTOCOL},
    };
    if (s->status == SHOAL_RPC_OK) {
        return SHOAL_OK;
    }
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (rows[i].from == s->status) {
            return shoal_err_set(err, rows[i].to, "the cloud says: %.200s", s->text);
        }
    }
    return shoal_err_set(err, SHOAL_E_UNAVAILABLE, "the cloud says: %.200s", s->text);
}

static shoal_status send_request(shoal_rpc_call *call, const shoal_msg_bundle_request *request,
                                 shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_status status = shoal_msg_bundle_request_encode(request, &buf);
    if (status == SHOAL_OK) {
        status = shoal_rpc_call_send(call, buf.data, buf.length);
    }
    if (status != SHOAL_OK && status != SHOAL_BUSY && status != SHOAL_E_CANCELLED) {
        return shoal_err_set(err, status, "cannot ask for a bundle: %s", shoal_status_text(status));
    }
    shoal_rpc_call_half_close(call); /* of a call that is over, its close says why */
    return SHOAL_OK;
}

/* Waits for the poller's last call-back: the slot lies on a stack. */
static void close_call(shoal_rpc_call *call, slot *s)
{
    shoal_rpc_call_cancel(call);
    (void)pthread_mutex_lock(&s->lock);
    while (!s->closed) {
        (void)pthread_cond_wait(&s->changed, &s->lock);
    }
    (void)pthread_mutex_unlock(&s->lock);
    shoal_rpc_call_unref(call);
    shoal_msg_bundle_part_free(s->part);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
}

shoal_status shoal_pull_run(shoal_pull *pull, const shoal_msg_bundle_request *request,
                            shoal_status (*fn)(void *ctx, const shoal_msg_bundle_part *part,
                                               shoal_err *err),
                            void *ctx, shoal_err *err)
{
    slot s = {0};
    shoal_rpc_call *call = NULL;
    init_slot(&s);
    shoal_status status = shoal_rpc_call_open(pull->channel, "/shoal.v1.Cloud/FetchBundle",
                                              &handlers, &s, 0, true, &call);
    if (status != SHOAL_OK) {
        (void)pthread_cond_destroy(&s.changed);
        (void)pthread_mutex_destroy(&s.lock);
        return shoal_err_set(err, status, "cannot ask for a bundle: %s", shoal_status_text(status));
    }
    status = send_request(call, request, err);
    while (status == SHOAL_OK) {
        SHOAL_CLEANUP(shoal_msg_bundle_part_freep) shoal_msg_bundle_part *part = NULL;
        status = next_part(pull, &s, &part, err);
        if (status == SHOAL_OK) {
            status = fn(ctx, part, err);
            shoal_rpc_call_resume(call);
        }
    }
    if (status == SHOAL_EOF) {
        status = end_status(&s, err);
    }
    close_call(call, &s);
    return status;
}

/* --- files ------------------------------------------------------------------------------------ */

typedef struct appending {
    int fd;
    const char *path;
    uint64_t left;
    uint64_t *n_bytes;
} appending;

static shoal_status fail_write(const char *path, const char *what, shoal_err *err)
{
    int number = errno;
    char space[128];
    const char *reason = strerror_r(number, space, sizeof space);
    return shoal_err_set(err, number == ENOSPC || number == EDQUOT ? SHOAL_E_EXHAUSTED : SHOAL_E_IO,
                         "%.160s: cannot %s: %.60s", path, what, reason);
}

static shoal_status append_part(void *ctx, const shoal_msg_bundle_part *part, shoal_err *err)
{
    appending *a = ctx;
    if (part->n_bytes > a->left) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "the cloud sends more than the file has");
    }
    for (size_t at = 0; at < part->n_bytes;) {
        ssize_t n = write(a->fd, part->bytes + at, part->n_bytes - at);
        if (n < 0 && errno != EINTR) {
            return fail_write(a->path, "write", err);
        }
        at += n > 0 ? (size_t)n : 0;
    }
    a->left -= part->n_bytes;
    if (a->n_bytes) {
        *a->n_bytes += part->n_bytes;
    }
    return SHOAL_OK;
}

shoal_status shoal_pull_file(shoal_pull *pull, const shoal_msg_bundle_request *request,
                             const char *path, const shoal_bundle_file *file, uint64_t *inout_bytes,
                             shoal_err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0) {
        return fail_write(path, "open", err);
    }
    appending a = {
        .fd = fd, .path = path, .left = file->n_bytes - request->offset, .n_bytes = inout_bytes};
    shoal_status status = SHOAL_OK;
    if (a.left > 0) {
        status = shoal_pull_run(pull, request, append_part, &a, err);
    }
    if (fsync(fd) != 0 && status == SHOAL_OK) {
        status = fail_write(path, "sync", err);
    }
    (void)close(fd);
    if (status == SHOAL_OK && a.left > 0) {
        status = shoal_err_set(err, SHOAL_E_UNAVAILABLE,
                               "the cloud has ended file %s %" PRIu64 " bytes early", file->name,
                               a.left);
    }
    return status;
}
