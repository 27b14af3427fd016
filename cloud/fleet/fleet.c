/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/fleet/fleet.h"

#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/obs/log.h"
#include "protocol/wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 64 << 10, /* of one turn: what a cut transfer loses at most */
    ASK_MS = 10000,         /* for the first message of a call */
    TAKE_MS = 60000,        /* for a reader to take what is queued for it */
    SWEEP_MS = 1000
};

typedef enum call_state {
    CALL_SILENT, /* has asked nothing yet */
    CALL_READY,  /* in the queue: the thread has something to do for it */
    CALL_WORKED, /* the thread is at it */
    CALL_PARKED, /* waits until its reader has taken something */
    CALL_OVER
} call_state;

typedef struct call {
    shoal_fleet *fleet;
    shoal_rpc_call *rpc;
    char identity[SHOAL_ROLLOUT_IDENTITY_MAX + 1];
    struct call *next, *prev; /* of all calls */
    struct call *queued;      /* the next in the queue */
    call_state state;
    bool drained; /* while the thread was at it */
    bool closed;  /* gRPC has: freed when the thread is not at it */
    uint64_t since_ms;
    shoal_msg_bundle_request request;
    /* the thread's */
    int fd; /* -1: not opened yet */
    uint64_t at;
    uint64_t end;
} call;

struct shoal_fleet {
    size_t n_calls_max;
    shoal_clock clock;
    shoal_thread *thread;
    uint8_t *piece; /* the thread's */
    atomic_bool serving;
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    shoal_catalogue *catalogue;
    call *calls;
    size_t n_calls;
    call *head; /* of the queue, oldest first */
    call *tail;
    bool stopping;
    uint64_t swept_ms;
    struct {
        shoal_metric *bundles;
        shoal_metric *open;
        shoal_metric *offers;
        shoal_metric *nothing;
        shoal_metric *refused;
        shoal_metric *files;
        shoal_metric *bytes;
    } metrics;
};

static void lock(shoal_fleet *fleet)
{
    (void)pthread_mutex_lock(&fleet->lock);
}

static void unlock(shoal_fleet *fleet)
{
    (void)pthread_mutex_unlock(&fleet->lock);
}

/* --- under the lock --------------------------------------------------------------------------- */

static void enqueue(call *c)
{
    shoal_fleet *fleet = c->fleet;
    c->state = CALL_READY;
    c->queued = NULL;
    if (fleet->tail != NULL) {
        fleet->tail->queued = c;
    } else {
        fleet->head = c;
    }
    fleet->tail = c;
    (void)pthread_cond_signal(&fleet->wake);
}

static size_t n_of(const shoal_fleet *fleet, const char *identity)
{
    size_t n = 0;
    for (const call *c = fleet->calls; c != NULL; c = c->next) {
        n += strcmp(c->identity, identity) == 0;
    }
    return n;
}

static void remove_call(call *c)
{
    shoal_fleet *fleet = c->fleet;
    if (c->prev != NULL) {
        c->prev->next = c->next;
    } else {
        fleet->calls = c->next;
    }
    if (c->next != NULL) {
        c->next->prev = c->prev;
    }
    fleet->n_calls--;
    shoal_metric_set(fleet->metrics.open, (double)fleet->n_calls);
}

/* Out of the list and, by then, of the queue. */
static void free_call(call *c)
{
    if (c->fd >= 0) {
        (void)close(c->fd);
    }
    shoal_rpc_call_unref(c->rpc);
    shoal_free(c);
}

/* --- the poller's side ------------------------------------------------------------------------ */

static void on_open(shoal_rpc_call *rpc, void *ctx)
{
    shoal_fleet *fleet = ctx;
    shoal_rpc_call_set_user(rpc, NULL);
    call *c = shoal_calloc(1, sizeof *c);
    if (c == NULL) {
        shoal_rpc_call_finish(rpc, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    c->fleet = fleet;
    c->rpc = rpc;
    c->fd = -1;
    c->since_ms = shoal_clock_now_ms(&fleet->clock);
    if (!shoal_rpc_call_peer(rpc, c->identity, sizeof c->identity)) {
        c->identity[0] = '\0';
    }
    lock(fleet);
    size_t n_own_max = SHOAL_MAX(fleet->n_calls_max / 2, (size_t)1);
    bool full = fleet->n_calls >= fleet->n_calls_max || n_of(fleet, c->identity) >= n_own_max;
    if (!full) {
        c->next = fleet->calls;
        if (c->next != NULL) {
            c->next->prev = c;
        }
        fleet->calls = c;
        fleet->n_calls++;
        shoal_metric_set(fleet->metrics.open, (double)fleet->n_calls);
    }
    unlock(fleet);
    if (full) {
        shoal_free(c);
        shoal_rpc_call_finish(rpc, SHOAL_RPC_RESOURCE_EXHAUSTED,
                              "as many bundles are sent as may be (fleet.calls_max); ask later");
        return;
    }
    shoal_rpc_call_ref(rpc);
    shoal_rpc_call_set_user(rpc, c);
}

static void on_message(shoal_rpc_call *rpc, void *user, const uint8_t *data, size_t n)
{
    call *c = user;
    shoal_err err = SHOAL_ERR_INIT;
    if (c == NULL) {
        return;
    }
    shoal_msg_bundle_request request;
    shoal_status status = shoal_msg_bundle_request_decode(data, n, &request, &err);
    bool serving = atomic_load(&c->fleet->serving);
    lock(c->fleet);
    bool first = c->state == CALL_SILENT;
    if (first && status == SHOAL_OK && serving) {
        c->request = request;
        enqueue(c);
    } else if (first) {
        c->state = CALL_OVER;
    }
    unlock(c->fleet);
    if (first && status != SHOAL_OK) {
        shoal_rpc_call_finish(rpc,
                              status == SHOAL_E_NOMEM ? SHOAL_RPC_RESOURCE_EXHAUSTED
                                                      : SHOAL_RPC_INVALID_ARGUMENT,
                              err.text);
    } else if (first && !serving) {
        shoal_rpc_call_finish(rpc, SHOAL_RPC_UNAVAILABLE, "this node is not serving; ask another");
    }
}

static void on_half_close(shoal_rpc_call *rpc, void *user)
{
    call *c = user;
    if (c == NULL) {
        return;
    }
    lock(c->fleet);
    bool silent = c->state == CALL_SILENT;
    c->state = silent ? CALL_OVER : c->state;
    unlock(c->fleet);
    if (silent) {
        shoal_rpc_call_finish(rpc, SHOAL_RPC_INVALID_ARGUMENT,
                              "FetchBundle takes one message, this call sent none");
    }
}

static void on_drain(shoal_rpc_call *rpc, void *user)
{
    (void)rpc;
    call *c = user;
    if (c == NULL) {
        return;
    }
    lock(c->fleet);
    if (c->state == CALL_PARKED) {
        enqueue(c);
    } else if (c->state == CALL_WORKED) {
        c->drained = true;
    }
    unlock(c->fleet);
}

static void on_close(shoal_rpc_call *rpc, void *user, shoal_rpc_status status, const char *details)
{
    (void)rpc;
    (void)status;
    (void)details;
    call *c = user;
    if (c == NULL) {
        return;
    }
    shoal_fleet *fleet = c->fleet;
    lock(fleet);
    remove_call(c);
    c->closed = true;
    bool held = c->state == CALL_READY || c->state == CALL_WORKED; /* the thread frees it */
    unlock(fleet);
    if (!held) {
        free_call(c);
    }
}

static const shoal_rpc_handlers handlers = {.on_open = on_open,
                                            .on_message = on_message,
                                            .on_half_close = on_half_close,
                                            .on_drain = on_drain,
                                            .on_close = on_close};

shoal_rpc_method shoal_fleet_method(shoal_fleet *fleet)
{
    return (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/FetchBundle", .handlers = &handlers, .ctx = fleet};
}

/* --- the thread's side ------------------------------------------------------------------------ */

/* SHOAL_OK and SHOAL_BUSY as shoal_rpc_call_send. */
static shoal_status send_part(call *c, const shoal_msg_bundle_part *part)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = SHOAL_WIRE_MESSAGE_MAX};
    SHOAL_TRY(shoal_msg_bundle_part_encode(part, &buf));
    return shoal_rpc_call_send(c->rpc, buf.data, buf.length);
}

static call_state finish(call *c, shoal_rpc_status status, const char *text)
{
    shoal_rpc_call_finish(c->rpc, status, text);
    return CALL_OVER;
}

static call_state refuse(call *c, shoal_rpc_status status, const char *text)
{
    shoal_metric_add(c->fleet->metrics.refused, 1);
    return finish(c, status, text);
}

static call_state offer(call *c, const shoal_fleet_entry *entry)
{
    if (entry == NULL) {
        shoal_metric_add(c->fleet->metrics.nothing, 1);
        return finish(c, SHOAL_RPC_NOT_FOUND, "there is no bundle for this device");
    }
    const shoal_msg_bundle_part part = {.manifest = (const uint8_t *)entry->manifest.data,
                                        .n_manifest = entry->manifest.length,
                                        .signature = (const uint8_t *)entry->signature.data,
                                        .n_signature = entry->signature.length};
    shoal_status status = send_part(c, &part);
    if (status != SHOAL_OK && status != SHOAL_BUSY) {
        return refuse(c, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
    shoal_metric_add(c->fleet->metrics.offers, 1);
    return finish(c, SHOAL_RPC_OK, "");
}

/* CALL_WORKED: opened, with pieces to be sent. */
static call_state open_file(call *c, const shoal_fleet_entry *entry)
{
    char text[160];
    if (entry == NULL) {
        return refuse(c, SHOAL_RPC_PERMISSION_DENIED,
                      "this bundle is not, or no longer, for this device; ask which is");
    }
    if (c->request.file >= entry->bundle->n_files) {
        return refuse(c, SHOAL_RPC_INVALID_ARGUMENT, "BundleRequest.file: the bundle has fewer");
    }
    const shoal_bundle_file *f = &entry->bundle->files[c->request.file];
    if (c->request.offset > f->n_bytes) {
        return refuse(c, SHOAL_RPC_INVALID_ARGUMENT,
                      "BundleRequest.offset: beyond the end of the file");
    }
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(entry->path, f->name);
    c->fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK) : -1;
    struct stat st;
    if (c->fd < 0 || fstat(c->fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size != f->n_bytes) {
        (void)snprintf(text, sizeof text, "file %s of the bundle has changed on this node",
                       f->name);
        shoal_log(SHOAL_LOG_ERROR,
                  "fleet: file=%s of serial=%" PRIu64 " is not as it was listed; "
                  "send SIGHUP after a folder was changed",
                  f->name, entry->bundle->serial);
        return refuse(c, SHOAL_RPC_UNAVAILABLE, text);
    }
    c->at = c->request.offset;
    c->end = f->n_bytes;
    return CALL_WORKED;
}

/* The first turn of a call. */
static call_state begin(call *c)
{
    shoal_fleet *fleet = c->fleet;
    lock(fleet);
    SHOAL_CLEANUP(shoal_catalogue_unrefp)
    shoal_catalogue *catalogue = shoal_catalogue_ref(fleet->catalogue);
    unlock(fleet);
    const shoal_fleet_entry *entry =
        shoal_catalogue_find(catalogue, c->request.family, c->request.serial, c->identity);
    return c->request.serial == 0 ? offer(c, entry) : open_file(c, entry);
}

/* One piece. CALL_READY: another turn; CALL_PARKED: its reader is behind. */
static call_state send_piece(call *c)
{
    shoal_fleet *fleet = c->fleet;
    size_t n_want = (size_t)SHOAL_MIN(c->end - c->at, (uint64_t)PIECE_BYTES);
    if (n_want == 0) {
        shoal_metric_add(fleet->metrics.files, 1);
        return finish(c, SHOAL_RPC_OK, "");
    }
    ssize_t n = pread(c->fd, fleet->piece, n_want, (off_t)c->at);
    if (n < 0 && errno == EINTR) {
        return CALL_READY;
    }
    if (n <= 0) {
        return refuse(c, SHOAL_RPC_UNAVAILABLE, "this node cannot read its bundle");
    }
    const shoal_msg_bundle_part part = {.bytes = fleet->piece, .n_bytes = (size_t)n};
    shoal_status status = send_part(c, &part);
    if (status != SHOAL_OK && status != SHOAL_BUSY) {
        return finish(c, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
    c->at += (uint64_t)n;
    shoal_metric_add(fleet->metrics.bytes, (double)n);
    return status == SHOAL_BUSY ? CALL_PARKED : CALL_READY;
}

/* Under the lock; frees calls that closed meanwhile. */
static void settle(call *c, call_state next)
{
    shoal_fleet *fleet = c->fleet;
    if (c->closed) {
        free_call(c);
        return;
    }
    c->since_ms = shoal_clock_now_ms(&fleet->clock);
    if (next == CALL_READY || (next == CALL_PARKED && c->drained)) {
        enqueue(c);
    } else {
        c->state = next;
    }
}

static void work(call *c)
{
    call_state next = CALL_WORKED;
    if (c->fd < 0) {
        next = begin(c);
    }
    if (next == CALL_WORKED) {
        next = send_piece(c);
    }
    lock(c->fleet);
    settle(c, next);
}

/* Under the lock. Ends who says nothing, or takes nothing: finish calls nobody back here. */
static void sweep(shoal_fleet *fleet)
{
    uint64_t now_ms = shoal_clock_now_ms(&fleet->clock);
    if (now_ms - fleet->swept_ms < SWEEP_MS) {
        return;
    }
    fleet->swept_ms = now_ms;
    for (call *c = fleet->calls; c != NULL; c = c->next) {
        uint64_t ms = now_ms - SHOAL_MIN(c->since_ms, now_ms);
        if (c->state == CALL_SILENT && ms >= ASK_MS) {
            c->state = CALL_OVER;
            shoal_rpc_call_finish(c->rpc, SHOAL_RPC_DEADLINE_EXCEEDED,
                                  "the call has not said what it wants within 10 s");
        } else if (c->state == CALL_PARKED && ms >= TAKE_MS) {
            c->state = CALL_OVER;
            shoal_rpc_call_cancel(c->rpc);
        }
    }
}

static void wait_a_while(shoal_fleet *fleet)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SWEEP_MS / 1000;
    (void)pthread_cond_timedwait(&fleet->wake, &fleet->lock, &until);
}

static void fleet_main(void *ctx)
{
    shoal_fleet *fleet = ctx;
    lock(fleet);
    while (!fleet->stopping || fleet->head != NULL) {
        call *c = fleet->head;
        sweep(fleet);
        if (c == NULL) {
            wait_a_while(fleet);
            continue;
        }
        fleet->head = c->queued;
        fleet->tail = fleet->head != NULL ? fleet->tail : NULL;
        if (c->closed) {
            free_call(c);
            continue;
        }
        c->state = CALL_WORKED;
        c->drained = false;
        unlock(fleet);
        work(c); /* comes back with the lock */
    }
    unlock(fleet);
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status make_metrics(shoal_fleet *fleet, shoal_metrics *registry)
{
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&fleet->metrics.bundles,
         {"shoal_fleet_bundles", "Bundles that the rollout names.", "", SHOAL_METRIC_GAUGE, NULL,
          0}},
        {&fleet->metrics.open,
         {"shoal_fleet_calls", "Calls of edges about bundles that are open.", "",
          SHOAL_METRIC_GAUGE, NULL, 0}},
        {&fleet->metrics.offers,
         {"shoal_fleet_answers_total", "What edges that asked for a bundle were told.",
          "result=\"offered\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&fleet->metrics.nothing,
         {"shoal_fleet_answers_total", "What edges that asked for a bundle were told.",
          "result=\"none\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&fleet->metrics.refused,
         {"shoal_fleet_answers_total", "What edges that asked for a bundle were told.",
          "result=\"refused\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&fleet->metrics.files,
         {"shoal_fleet_files_sent_total", "Files of bundles that were sent to their end.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&fleet->metrics.bytes,
         {"shoal_fleet_sent_bytes_total", "Bytes of bundles that were sent.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
    };
    for (size_t i = 0; registry != NULL && i < SHOAL_COUNT(rows); i++) {
        SHOAL_TRY(shoal_metrics_add(registry, &rows[i].def, rows[i].slot));
    }
    return SHOAL_OK;
}

static void init_locks(shoal_fleet *fleet)
{
    pthread_condattr_t attr;
    int rc = pthread_mutex_init(&fleet->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&fleet->wake, &attr);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_destroy(&attr);
}

shoal_status shoal_fleet_new(const shoal_fleet_settings *settings, shoal_metrics *registry,
                             shoal_fleet **ret_fleet, shoal_err *err)
{
    if (settings->n_calls_max < 1 || settings->n_calls_max > SHOAL_FLEET_CALLS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "fleet calls: %zu is outside 1 to %d",
                             settings->n_calls_max, (int)SHOAL_FLEET_CALLS_MAX);
    }
    SHOAL_CLEANUP(shoal_catalogue_unrefp) shoal_catalogue *catalogue = NULL;
    SHOAL_TRY(shoal_catalogue_read(settings->folder, &catalogue, err));
    shoal_fleet *made = shoal_calloc(1, sizeof *made);
    if (made == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    init_locks(made);
    SHOAL_CLEANUP(shoal_fleet_freep) shoal_fleet *fleet = made;
    fleet->catalogue = SHOAL_STEAL(catalogue);
    fleet->n_calls_max = settings->n_calls_max;
    fleet->clock = shoal_clock_real();
    fleet->piece = shoal_calloc(PIECE_BYTES, 1);
    if (fleet->piece == NULL || make_metrics(fleet, registry) != SHOAL_OK ||
        shoal_thread_start(SHOAL_ROLE_IO, "shoal-fleet", fleet_main, fleet, &fleet->thread) !=
            SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    shoal_metric_set(fleet->metrics.bundles, (double)fleet->catalogue->n_entries);
    *ret_fleet = SHOAL_STEAL(fleet);
    return SHOAL_OK;
}

void shoal_fleet_use(shoal_fleet *fleet, shoal_catalogue *take_catalogue)
{
    lock(fleet);
    shoal_catalogue *last = fleet->catalogue;
    fleet->catalogue = take_catalogue;
    unlock(fleet);
    shoal_metric_set(fleet->metrics.bundles, (double)take_catalogue->n_entries);
    shoal_catalogue_unref(last);
}

void shoal_fleet_set_serving(shoal_fleet *fleet, bool serving)
{
    atomic_store(&fleet->serving, serving);
}

size_t shoal_fleet_n_bundles(shoal_fleet *fleet)
{
    lock(fleet);
    size_t n = fleet->catalogue->n_entries;
    unlock(fleet);
    return n;
}

void shoal_fleet_free(shoal_fleet *fleet)
{
    if (fleet == NULL) {
        return;
    }
    lock(fleet);
    fleet->stopping = true;
    (void)pthread_cond_signal(&fleet->wake);
    unlock(fleet);
    shoal_thread_join(fleet->thread);
    shoal_catalogue_unref(fleet->catalogue);
    (void)pthread_cond_destroy(&fleet->wake);
    (void)pthread_mutex_destroy(&fleet->lock);
    shoal_free(fleet->piece);
    shoal_free(fleet);
}
