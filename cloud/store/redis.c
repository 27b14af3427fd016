/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks in a Redis or Valkey that nodes share, through hiredis without its blocking calls: sockets
 * are non-blocking here and every wait has an end. The requests of a batch travel in one pipeline.
 *
 *     shoal:kv:1:<name>      a block, with a life that each reading renews
 *     shoal:lease:1:<name>   who makes it, with a life of lease_ms
 *
 * What fits no reply of ours, or is longer than what we asked for, ends the connection. After a
 * failure the server is left alone for a time that doubles, with jitter, and everything is a miss.
 */
#include "cloud/store/store_internal.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <arpa/inet.h>
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

enum {
    BACKOFF_MS_FIRST = 100,
    BACKOFF_MS_MOST = 10000,
    SILENCES_MAX = 16, /* one batch takes at most so many timeouts in all */
    KEY_BYTES = sizeof "shoal:lease:1:" + SHOAL_HASH_HEX,
    OWNER_BYTES = 33,
    HOST_MAX = 256,
    ARGS_MAX = 6,
    SMALL_REPLIES_BYTES = 64 << 10
};

typedef struct redis {
    store_backend backend; /* first */
    store_counters *counters;
    shoal_clock clock;
    char *address;
    char *user;
    char *password;
    uint32_t timeout_ms;
    uint32_t lease_ms;
    char ttl_ms[24];
    char lease_text[24];
    char owner[OWNER_BYTES];
    redisContext *c; /* NULL: not connected */
    redisReplyObjectFunctions functions;
    uint64_t down_until_ms;
    uint32_t backoff_ms;
    uint64_t rng;
} redis;

/* --- connection ------------------------------------------------------------------------------- */

static void *refuse_array(const redisReadTask *task, int n)
{
    (void)task;
    (void)n;
    return NULL; /* we ask nothing that is answered by one; hiredis ends the connection */
}

static void drop(redis *r)
{
    if (r->c) {
        redisFree(r->c);
        r->c = NULL;
    }
}

static void fail(redis *r)
{
    drop(r);
    shoal_store_count(r->counters, STORE_COUNT_errors, 1);
    uint64_t jitter = shoal_rng_next(&r->rng) % (r->backoff_ms / 2 + 1);
    r->down_until_ms = shoal_clock_now_ms(&r->clock) + r->backoff_ms / 2 + jitter;
    r->backoff_ms = SHOAL_MIN(r->backoff_ms * 2, (uint32_t)BACKOFF_MS_MOST);
}

/* The end of a batch's time, by the real clock: sockets know no other. */
typedef struct patience {
    shoal_clock clock;
    uint64_t end_ms;
    uint32_t silence_ms;
} patience;

/* Waits for events on the socket; false when they do not come in time. */
static bool wait_for(const redis *r, short events, const patience *p)
{
    for (;;) {
        uint64_t now_ms = shoal_clock_now_ms(&p->clock);
        if (now_ms >= p->end_ms) {
            return false;
        }
        struct pollfd fd = {.fd = r->c->fd, .events = events};
        int n = poll(&fd, 1, (int)SHOAL_MIN(p->end_ms - now_ms, (uint64_t)p->silence_ms));
        if (n > 0) {
            return true;
        }
        if (n == 0 || errno != EINTR) {
            return false;
        }
    }
}

static bool flush(redis *r, const patience *p)
{
    int done = 0;
    for (;;) {
        if (redisBufferWrite(r->c, &done) != REDIS_OK) {
            return false;
        }
        if (done) {
            return true;
        }
        if (!wait_for(r, POLLOUT, p)) {
            return false;
        }
    }
}

/* The next reply, owned by the caller; NULL when the connection is of no more use. limit: bytes
 * that all replies still due may have. */
static redisReply *next_reply(redis *r, size_t limit, const patience *p)
{
    for (;;) {
        void *reply = NULL;
        if (redisGetReplyFromReader(r->c, &reply) != REDIS_OK) {
            return NULL;
        }
        if (reply) {
            return reply;
        }
        if (r->c->reader->len - r->c->reader->pos > limit || !wait_for(r, POLLIN, p) ||
            redisBufferRead(r->c) != REDIS_OK) {
            return NULL;
        }
    }
}

static bool append(redis *r, size_t n, const char *const *args, const size_t *lengths)
{
    const char *copy[ARGS_MAX];
    size_t sizes[ARGS_MAX];
    SHOAL_ASSERT(n <= ARGS_MAX);
    for (size_t i = 0; i < n; i++) {
        copy[i] = args[i];
        sizes[i] = lengths ? lengths[i] : strlen(args[i]);
    }
    return redisAppendCommandArgv(r->c, (int)n, copy, sizes) == REDIS_OK;
}

static bool is_ok(const redisReply *reply)
{
    return reply && reply->type == REDIS_REPLY_STATUS;
}

static bool login(redis *r, const patience *p)
{
    if (!r->password) {
        return true;
    }
    const char *const with_user[] = {"AUTH", r->user, r->password};
    const char *const without[] = {"AUTH", r->password};
    if (!(r->user ? append(r, 3, with_user, NULL) : append(r, 2, without, NULL)) || !flush(r, p)) {
        return false;
    }
    redisReply *reply = next_reply(r, SMALL_REPLIES_BYTES, p);
    bool ok = is_ok(reply);
    if (reply) {
        freeReplyObject(reply);
    }
    return ok;
}

static redisContext *start_connecting(const redis *r)
{
    if (strchr(r->address, '/')) {
        return redisConnectUnixNonBlock(r->address);
    }
    char host[HOST_MAX];
    const char *colon = strrchr(r->address, ':');
    bool bracketed = r->address[0] == '[' && colon[-1] == ']';
    size_t n = (size_t)(colon - r->address) - (bracketed ? 2 : 0);
    memcpy(host, r->address + bracketed, n);
    host[n] = '\0';
    return redisConnectNonBlock(host, (int)strtol(colon + 1, NULL, 10));
}

static bool connected(const redis *r)
{
    int number = 0;
    socklen_t n = sizeof number;
    return getsockopt(r->c->fd, SOL_SOCKET, SO_ERROR, &number, &n) == 0 && number == 0;
}

/* True when the server can be asked. */
static bool up(redis *r, const patience *p)
{
    if (r->c) {
        return true;
    }
    if (shoal_clock_now_ms(&r->clock) < r->down_until_ms) {
        return false;
    }
    r->c = start_connecting(r);
    if (!r->c || r->c->err) {
        fail(r);
        return false;
    }
    r->functions = *r->c->reader->fn;
    r->functions.createArray = refuse_array;
    r->c->reader->fn = &r->functions;
    if (!wait_for(r, POLLOUT, p) || !connected(r) || !login(r, p)) {
        fail(r);
        return false;
    }
    return true;
}

/* --- commands --------------------------------------------------------------------------------- */

static void key_of(const char *prefix, const store_job *job, char ret_key[KEY_BYTES])
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(&job->id.name, hex);
    (void)snprintf(ret_key, KEY_BYTES, "%s%s", prefix, hex);
}

static void block_key(const store_job *job, char ret_key[KEY_BYTES])
{
    key_of("shoal:kv:1:", job, ret_key);
}

static void lease_key(const store_job *job, char ret_key[KEY_BYTES])
{
    key_of("shoal:lease:1:", job, ret_key);
}

/* A lease that has passed to another is the other's. */
static const char release_script[] =
    "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end return 0";

static bool ask_release(redis *r, const store_job *job)
{
    char key[KEY_BYTES];
    lease_key(job, key);
    const char *const args[] = {"EVAL", release_script, "1", key, r->owner};
    return append(r, 5, args, NULL);
}

/* One byte more than a block has, so that a longer one shows without being sent. */
static bool ask_get(redis *r, const store_job *job)
{
    char key[KEY_BYTES];
    char last[24];
    block_key(job, key);
    (void)snprintf(last, sizeof last, "%zu", job->n_bytes);
    const char *const get[] = {"GETRANGE", key, "0", last};
    const char *const live[] = {"PEXPIRE", key, r->ttl_ms};
    return append(r, 4, get, NULL) && append(r, 3, live, NULL);
}

static bool ask_put(redis *r, const store_job *job)
{
    char key[KEY_BYTES];
    block_key(job, key);
    const char *const args[] = {"SET", key, (const char *)shoal_block_bytes(job->result.block),
                                "PX", r->ttl_ms};
    const size_t lengths[] = {3, strlen(key), job->n_bytes, 2, strlen(r->ttl_ms)};
    return append(r, 5, args, lengths) && ask_release(r, job);
}

static bool ask_evict(redis *r, const store_job *job)
{
    char key[KEY_BYTES];
    block_key(job, key);
    const char *const args[] = {"DEL", key};
    return append(r, 2, args, NULL);
}

static size_t n_replies(const store_job *job)
{
    return job->result.op == SHOAL_STORE_GET || job->result.op == SHOAL_STORE_PUT ? 2 : 1;
}

static bool ask(redis *r, const store_job *job)
{
    switch (job->result.op) {
    case SHOAL_STORE_GET:
        return ask_get(r, job);
    case SHOAL_STORE_PUT:
        return ask_put(r, job);
    case SHOAL_STORE_EVICT:
        return ask_evict(r, job);
    case SHOAL_STORE_RELEASE:
        break;
    }
    return ask_release(r, job);
}

/* The first reply of a job; false: the server does not do what we need of it. */
static bool take_first(redis *r, store_job *job, const redisReply *reply)
{
    if (reply->type == REDIS_REPLY_ERROR) {
        /* Out of memory, read only, still loading: this request is not done, the connection stands.
         */
        shoal_store_count(r->counters, STORE_COUNT_errors, 1);
        job->result.status = SHOAL_EOF;
        return true;
    }
    if (job->result.op == SHOAL_STORE_PUT) {
        return reply->type == REDIS_REPLY_STATUS;
    }
    if (job->result.op != SHOAL_STORE_GET) {
        return reply->type == REDIS_REPLY_INTEGER;
    }
    if (reply->type != REDIS_REPLY_STRING) {
        return false;
    }
    size_t n = (size_t)reply->len;
    if (n == 0) {
        job->result.status = SHOAL_EOF;
    } else if (n != job->n_bytes) {
        job->result.status = SHOAL_E_INVALID;
    } else if (shoal_block_copy(reply->str, n, &job->result.block) != SHOAL_OK) {
        job->result.status = SHOAL_EOF;
    } else {
        job->result.status = SHOAL_OK;
    }
    return true;
}

/* Sends the questions of all jobs and takes the answers in order. Jobs from *ret_done on have none
 * when false. */
static bool exchange(redis *r, store_job *const *jobs, size_t n, const patience *p,
                     size_t *ret_done)
{
    size_t due = SMALL_REPLIES_BYTES;
    for (size_t i = 0; i < n; i++) {
        if (!ask(r, jobs[i])) {
            return false;
        }
        due += jobs[i]->result.op == SHOAL_STORE_GET ? jobs[i]->n_bytes + 64 : 0;
    }
    if (!flush(r, p)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < n_replies(jobs[i]); k++) {
            redisReply *reply = next_reply(r, due, p);
            bool ok = reply && (k > 0 || take_first(r, jobs[i], reply));
            if (reply) {
                freeReplyObject(reply);
            }
            if (!ok) {
                return false;
            }
        }
        *ret_done = i + 1;
    }
    return true;
}

/* --- leases ----------------------------------------------------------------------------------- */

static bool wants_lease(const store_job *job)
{
    return job->result.op == SHOAL_STORE_GET && job->lease && job->result.status == SHOAL_EOF;
}

/* The lease of each miss: taken, or for how long another has it. */
static bool take_leases(redis *r, store_job *const *jobs, size_t n, const patience *p)
{
    char key[KEY_BYTES];
    for (size_t i = 0; i < n; i++) {
        if (wants_lease(jobs[i])) {
            lease_key(jobs[i], key);
            const char *const set[] = {"SET", key, r->owner, "NX", "PX", r->lease_text};
            const char *const left[] = {"PTTL", key};
            if (!append(r, 6, set, NULL) || !append(r, 2, left, NULL)) {
                return false;
            }
        }
    }
    if (!flush(r, p)) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        if (!wants_lease(jobs[i])) {
            continue;
        }
        redisReply *set = next_reply(r, SMALL_REPLIES_BYTES, p);
        redisReply *left = set ? next_reply(r, SMALL_REPLIES_BYTES, p) : NULL;
        bool ok = left != NULL;
        if (ok && set->type == REDIS_REPLY_STATUS) {
            jobs[i]->result.leased = true;
        } else if (ok && set->type == REDIS_REPLY_NIL && left->type == REDIS_REPLY_INTEGER) {
            long long ms = left->integer;
            jobs[i]->result.status = SHOAL_BUSY;
            jobs[i]->result.retry_ms = ms < 1 || ms > r->lease_ms ? 1 : (uint32_t)ms;
        }
        if (set) {
            freeReplyObject(set);
        }
        if (left) {
            freeReplyObject(left);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

static void run(store_backend *self, store_job *const *jobs, size_t n)
{
    redis *r = (redis *)self;
    const shoal_clock clock = shoal_clock_real();
    const patience p = {.clock = clock,
                        .end_ms =
                            shoal_clock_now_ms(&clock) + (uint64_t)SILENCES_MAX * r->timeout_ms,
                        .silence_ms = r->timeout_ms};
    size_t n_done = 0;
    if (up(r, &p)) {
        if (exchange(r, jobs, n, &p, &n_done) && take_leases(r, jobs, n, &p)) {
            r->backoff_ms = BACKOFF_MS_FIRST;
        } else {
            fail(r);
        }
    }
    for (size_t i = n_done; i < n; i++) {
        jobs[i]->result.status = SHOAL_EOF;
        shoal_block_free(jobs[i]->result.op == SHOAL_STORE_GET ? SHOAL_STEAL(jobs[i]->result.block)
                                                               : NULL);
    }
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
    struct in6_addr six;
    if (inet_pton(AF_INET6, host, &six) == 1) {
        return IN6_IS_ADDR_LOOPBACK(&six);
    }
    struct in_addr four;
    return (inet_pton(AF_INET, host, &four) == 1 && strncmp(host, "127.", 4) == 0) ||
           strcmp(host, "localhost") == 0;
}

static shoal_status check_address(const shoal_store_settings *s, shoal_err *err)
{
    const char *address = s->address ? s->address : "";
    if (strchr(address, '/')) {
        return SHOAL_OK;
    }
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    char *end = NULL;
    long port = colon ? strtol(colon + 1, &end, 10) : 0;
    if (n == 0 || n >= HOST_MAX || port < 1 || port > 65535 || *end != '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV store: '%.100s' is no address of a Redis: give host:port, "
                             "[v6]:port or the path of a Unix socket",
                             address);
    }
    char host[HOST_MAX];
    bool bracketed = address[0] == '[' && n > 2 && address[n - 1] == ']';
    (void)snprintf(host, sizeof host, "%.*s", (int)(bracketed ? n - 2 : n), address + bracketed);
    if (!s->plaintext && !is_loopback(host)) {
        return shoal_err_set(err, SHOAL_E_AUTH,
                             "KV store: '%.100s' is not this machine, and Redis is spoken without "
                             "TLS: allow it for a network you trust, or go through a tunnel",
                             host);
    }
    return SHOAL_OK;
}

static void close_redis(store_backend *self)
{
    redis *r = (redis *)self;
    drop(r);
    shoal_free(r->address);
    shoal_free(r->user);
    shoal_free(r->password);
    shoal_free(r);
}

static bool copy_text(const char *text, char **ret_copy)
{
    *ret_copy = text ? shoal_strdup(text) : NULL;
    return !text || *ret_copy;
}

static bool fill(redis *r, const shoal_store_settings *s)
{
    uint8_t random[(OWNER_BYTES - 1) / 2];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        return false;
    }
    for (size_t i = 0; i < sizeof random; i++) {
        (void)snprintf(r->owner + 2 * i, 3, "%02x", (unsigned)random[i]);
    }
    memcpy(&r->rng, random, sizeof r->rng);
    (void)snprintf(r->ttl_ms, sizeof r->ttl_ms, "%llu", 1000ull * s->ttl_s);
    (void)snprintf(r->lease_text, sizeof r->lease_text, "%u", s->lease_ms);
    return copy_text(s->address, &r->address) && copy_text(s->user, &r->user) &&
           copy_text(s->password, &r->password);
}

shoal_status shoal_store_redis_open(const shoal_store_settings *settings, store_counters *counters,
                                    store_backend **ret_backend, shoal_err *err)
{
    SHOAL_TRY(check_address(settings, err));
    redis *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    r->backend = (store_backend){.run = run, .close = close_redis};
    r->counters = counters;
    r->clock = settings->clock;
    r->timeout_ms = settings->timeout_ms;
    r->lease_ms = settings->lease_ms;
    r->backoff_ms = BACKOFF_MS_FIRST;
    if (!fill(r, settings)) {
        close_redis(&r->backend);
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    *ret_backend = &r->backend;
    return SHOAL_OK;
}
