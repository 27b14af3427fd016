/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/ship/ship.h"

#include "cloud/prefix/prefix.h"
#include "common/archive/archive.h"
#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/kv/kv_move.h"
#include "protocol/kvwire/kvwire.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    CHUNK_ROWS = 128,      /* tokens of one step */
    CHUNK_BLOCKS = 4,      /* of a blob's chunk: part of the protocol, as records have numbers */
    PART_BYTES = 64 << 10, /* of a blob in one message */
    SEEK_BLOCKS = 16,      /* read again in one turn */
    LEASE_CHECK_MS = 500
};

/* Written by others under the ship's lock: drained, gone. The rest is the thread's. */
struct shoal_shipment {
    shoal_ship *ship;
    shoal_ship_peer peer;
    shoal_msg_kv_request *request;
    uint64_t number; /* in order of arrival */
    bool blocked;    /* under the lock: the peer does not read */
    bool gone;       /* under the lock */
    bool finished;   /* finish was called: only gone is waited for */
    bool begun;
    bool sought;       /* the encoder stands at the record that was asked for */
    size_t n_may_read; /* blocks, in this turn */
    uint64_t until_ms; /* of one that is held */
    shoal_kv_seq *seq;
    size_t n_pages; /* promised to it */
    size_t n_cached;
    shoal_prefix_owner owner;
    bool owned;
    bool told;        /* n_cached left with the first part */
    uint64_t n_sent;  /* bytes of the blob */
    uint64_t n_parts; /* that left */
    shoal_kvwire_encoder *encoder;
};

struct shoal_ship {
    const shoal_model *model;
    shoal_ship_settings settings;
    shoal_engine *engine;
    shoal_prefix *prefix; /* NULL: none */
    shoal_hash form;
    size_t n_tokens_max;
    size_t n_pages_promised;
    shoal_shipment *held[SHOAL_SHIP_JOBS_MAX]; /* [n_held], cut ones, oldest first */
    _Atomic size_t n_held;                     /* written by the thread */
    uint8_t *part;                             /* [PART_BYTES] */
    shoal_archive *archive;                    /* NULL: nothing is archived; these two with it */
    shoal_archive_work *work;
    uint8_t *pages; /* a block of all layers that is to be archived */
    shoal_thread *thread;
    _Atomic double token_us;   /* smoothed; 0: not yet measured */
    _Atomic double archive_us; /* smoothed, of an archived token; 0: not yet measured */
    struct {
        shoal_metric *sent;
        shoal_metric *refused;
        shoal_metric *cut;
        shoal_metric *running;
        shoal_metric *held;
        shoal_metric *resumed_held;
        shoal_metric *resumed_again;
        shoal_metric *tokens_computed;
        shoal_metric *tokens_cached;
        shoal_metric *tokens_archived;
        shoal_metric *bytes;
    } metrics;

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    bool stopping;
    bool poked; /* something changed that the thread has not looked at */
    uint64_t n_accepted;
    size_t n_jobs;
    shoal_shipment *jobs[SHOAL_SHIP_JOBS_MAX]; /* [n_jobs], in order of arrival */
};

shoal_ship_settings shoal_ship_settings_default(void)
{
    return (shoal_ship_settings){.engine = shoal_engine_settings_default(),
                                 .n_jobs_max = 8,
                                 .lease_ms = 10000,
                                 .prefix_percent = 50,
                                 .clock = shoal_clock_real()};
}

static void lock(shoal_ship *ship)
{
    (void)pthread_mutex_lock(&ship->lock);
}

static void unlock(shoal_ship *ship)
{
    (void)pthread_mutex_unlock(&ship->lock);
}

/* Under the lock. */
static void poke(shoal_ship *ship)
{
    ship->poked = true;
    (void)pthread_cond_signal(&ship->wake);
}

/* --- any thread ------------------------------------------------------------------------------- */

static uint32_t told_us(const _Atomic double *measured)
{
    double us = atomic_load(measured);
    us = us > 0 ? SHOAL_MAX(us, 1.0) : 0;
    return (uint32_t)SHOAL_MIN(us, (double)SHOAL_WIRE_COST_US_MAX);
}

/* Known the better the more is measured. */
static void learn(_Atomic double *known, double us)
{
    double before = atomic_load(known);
    atomic_store(known, before > 0 ? before + (us - before) / 8 : us);
}

shoal_edge_kv shoal_ship_describe(const shoal_ship *ship)
{
    shoal_edge_kv kv = {.model = ship->model->hash,
                        .form = ship->form,
                        .n_tokens = (uint32_t)ship->n_tokens_max,
                        .token_us = told_us(&ship->token_us)};
    if (ship->archive) {
        kv.archives = true;
        kv.basis = *shoal_archive_hash(ship->archive);
        kv.archive_us = told_us(&ship->archive_us);
    }
    return kv;
}

size_t shoal_ship_n_vocab(const shoal_ship *ship)
{
    return ship->model->hp.n_vocab;
}

size_t shoal_ship_n_jobs(shoal_ship *ship)
{
    lock(ship);
    size_t n = ship->n_jobs;
    unlock(ship);
    return n;
}

size_t shoal_ship_n_held(const shoal_ship *ship)
{
    return atomic_load(&ship->n_held);
}

/* Under the lock. */
static bool has_place(const shoal_ship *ship, const char *tenant)
{
    size_t n_own = 0;
    for (size_t i = 0; i < ship->n_jobs; i++) {
        n_own += strcmp(ship->jobs[i]->peer.tenant, tenant) == 0;
    }
    size_t n_max = ship->settings.n_jobs_max;
    return ship->n_jobs < n_max && n_own < SHOAL_MAX(n_max / 2, (size_t)1);
}

shoal_status shoal_ship_accept(shoal_ship *ship, const shoal_ship_peer *peer,
                               shoal_msg_kv_request *take_request, shoal_shipment **ret_shipment)
{
    shoal_shipment *s = shoal_calloc(1, sizeof(*s));
    if (s == NULL) {
        return SHOAL_E_NOMEM;
    }
    s->ship = ship;
    s->peer = *peer;
    s->peer.tenant[sizeof(s->peer.tenant) - 1] = '\0';
    s->request = take_request;
    lock(ship);
    bool placed = !ship->stopping && has_place(ship, s->peer.tenant);
    if (placed) {
        s->number = ship->n_accepted++;
        ship->jobs[ship->n_jobs++] = s;
        poke(ship);
    }
    unlock(ship);
    if (!placed) {
        shoal_metric_add(ship->metrics.refused, 1);
        shoal_free(s);
        return SHOAL_BUSY;
    }
    *ret_shipment = s;
    return SHOAL_OK;
}

void shoal_shipment_drained(shoal_shipment *shipment)
{
    shoal_ship *ship = shipment->ship;
    lock(ship);
    shipment->blocked = false;
    poke(ship);
    unlock(ship);
}

void shoal_shipment_gone(shoal_shipment *shipment)
{
    shoal_ship *ship = shipment->ship;
    lock(ship);
    shipment->gone = true;
    poke(ship);
    unlock(ship);
}

/* --- the thread: what cut calls had ----------------------------------------------------------- */

/* What it held is free again; it stays until its call is gone. */
static void let_go(shoal_shipment *s)
{
    shoal_kvwire_encoder_free(SHOAL_STEAL(s->encoder));
    shoal_kv_seq_free(SHOAL_STEAL(s->seq));
    shoal_msg_kv_request_free(SHOAL_STEAL(s->request));
    s->ship->n_pages_promised -= s->n_pages;
    s->n_pages = 0;
}

static shoal_shipment *take_held(shoal_ship *ship, size_t i)
{
    shoal_shipment *s = ship->held[i];
    size_t n = atomic_load(&ship->n_held) - 1;
    memmove(ship->held + i, ship->held + i + 1, (n - i) * sizeof(s));
    atomic_store(&ship->n_held, n);
    shoal_metric_set(ship->metrics.held, (double)n);
    return s;
}

/* The oldest of that tenant, NULL: of any. False: there is none. */
static bool end_lease(shoal_ship *ship, const char *tenant)
{
    for (size_t i = 0; i < atomic_load(&ship->n_held); i++) {
        if (tenant == NULL || strcmp(ship->held[i]->peer.tenant, tenant) == 0) {
            shoal_shipment *s = take_held(ship, i);
            let_go(s);
            shoal_free(s);
            return true;
        }
    }
    return false;
}

static void end_leases(shoal_ship *ship)
{
    uint64_t now_ms = shoal_clock_now_ms(&ship->settings.clock);
    while (atomic_load(&ship->n_held) > 0 && ship->held[0]->until_ms <= now_ms) {
        (void)end_lease(ship, NULL);
    }
}

/* Its call is gone and its peer released. As many are held as may be shipped, and of one tenant. */
static void hold(shoal_shipment *s)
{
    shoal_ship *ship = s->ship;
    size_t n_max = ship->settings.n_jobs_max;
    size_t n_own = 0;
    for (size_t i = 0; i < atomic_load(&ship->n_held); i++) {
        n_own += strcmp(ship->held[i]->peer.tenant, s->peer.tenant) == 0;
    }
    if (n_own >= SHOAL_MAX(n_max / 2, (size_t)1)) {
        (void)end_lease(ship, s->peer.tenant);
    } else if (atomic_load(&ship->n_held) >= n_max) {
        (void)end_lease(ship, NULL);
    }
    shoal_kvwire_encoder_free(SHOAL_STEAL(s->encoder));
    s->until_ms = shoal_clock_now_ms(&ship->settings.clock) + ship->settings.lease_ms;
    size_t n = atomic_load(&ship->n_held);
    ship->held[n] = s;
    atomic_store(&ship->n_held, n + 1);
    shoal_metric_set(ship->metrics.held, (double)(n + 1));
}

/* Takes over the KV and the pages of the same tenant's same text. */
static bool take_over(shoal_shipment *s)
{
    shoal_ship *ship = s->ship;
    for (size_t i = 0; i < atomic_load(&ship->n_held); i++) {
        const shoal_shipment *h = ship->held[i];
        if (strcmp(h->peer.tenant, s->peer.tenant) == 0 && h->request->n_ids == s->request->n_ids &&
            memcmp(h->request->ids, s->request->ids, h->request->n_ids * sizeof(int32_t)) == 0) {
            shoal_shipment *old = take_held(ship, i);
            s->seq = SHOAL_STEAL(old->seq);
            s->n_pages = old->n_pages;
            old->n_pages = 0;
            let_go(old);
            shoal_free(old);
            return true;
        }
    }
    return false;
}

/* --- the thread: one shipment ----------------------------------------------------------------- */

static void finish(shoal_shipment *s, shoal_rpc_status status, const char *text)
{
    shoal_ship *ship = s->ship;
    s->finished = true;
    let_go(s);
    shoal_metric_add(status == SHOAL_RPC_OK                    ? ship->metrics.sent
                     : status == SHOAL_RPC_FAILED_PRECONDITION ? ship->metrics.refused
                                                               : ship->metrics.cut,
                     1);
    s->peer.finish(s->peer.ctx, status, text);
}

/* R9: both hashes are said. */
static void refuse_hash(shoal_shipment *s, const char *what, const shoal_hash *ours,
                        const shoal_hash *theirs, const char *remedy)
{
    char our_hex[SHOAL_HASH_HEX] = "nothing";
    char their_hex[SHOAL_HASH_HEX];
    char text[SHOAL_WIRE_TEXT_MAX];
    if (ours != NULL) {
        shoal_hash_hex(ours, our_hex);
    }
    shoal_hash_hex(theirs, their_hex);
    (void)snprintf(text, sizeof(text),
                   "KV of %s %.12s is asked for, this node ships that of %.12s (%s)", what,
                   their_hex, our_hex, remedy);
    finish(s, SHOAL_RPC_FAILED_PRECONDITION, text);
}

static bool refuse_other(shoal_shipment *s)
{
    static const char settings[] = "edge_model.path, edge_model.kv_type, edge_model.kv_hadamard";
    const shoal_ship *ship = s->ship;
    const shoal_hash *basis = ship->archive ? shoal_archive_hash(ship->archive) : NULL;
    const struct {
        const char *what;
        const shoal_hash *ours;
        const shoal_hash *theirs;
    } pairs[] = {
        {"model", &ship->model->hash, &s->request->model},
        {"tokenizer", shoal_tokenizer_hash(ship->model->tokenizer), &s->request->tokenizer},
        {"KV form", &ship->form, &s->request->form},
    };
    for (size_t i = 0; i < SHOAL_COUNT(pairs); i++) {
        if (memcmp(pairs[i].ours, pairs[i].theirs, sizeof(shoal_hash)) != 0) {
            refuse_hash(s, pairs[i].what, pairs[i].ours, pairs[i].theirs, settings);
            return true;
        }
    }
    if (s->request->archived &&
        (basis == NULL || memcmp(basis, &s->request->basis, sizeof(*basis)) != 0)) {
        refuse_hash(s, "archive basis", basis, &s->request->basis, "edge_model.archive");
        return true;
    }
    return false;
}

/* A block that is computed, all layers of it. */
static shoal_status read_block(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                               uint8_t *ret_bytes)
{
    shoal_shipment *s = ctx;
    (void)layer;
    (void)n_layers;
    if (s->n_may_read == 0 || ((size_t)block + 1) * BLOCK > shoal_kv_seq_length(s->seq)) {
        return SHOAL_BUSY;
    }
    s->n_may_read--;
    return shoal_kv_block_export(s->seq, block, ret_bytes);
}

/* The same, archived. */
static shoal_status read_archived(void *ctx, uint32_t block, uint8_t *ret_bytes, size_t *ret_n)
{
    shoal_shipment *s = ctx;
    shoal_ship *ship = s->ship;
    SHOAL_TRY(read_block(s, block, 0, 0, ship->pages));
    uint64_t start_ns = shoal_clock_now_ns(&ship->settings.clock);
    bool near = block >= shoal_archive_n_blocks(s->request->n_ids);
    SHOAL_TRY(shoal_archive_block_encode(ship->archive, shoal_engine_kernels(ship->engine),
                                         ship->work, block, near, ship->pages, ret_bytes, ret_n));
    double us = (double)(shoal_clock_now_ns(&ship->settings.clock) - start_ns) / 1e3;
    if (!near) {
        learn(&ship->archive_us, us / BLOCK);
    }
    shoal_metric_add(ship->metrics.tokens_archived, BLOCK);
    return SHOAL_OK;
}

static shoal_status make_encoder(shoal_shipment *s)
{
    const shoal_ship *ship = s->ship;
    const shoal_kv_shape *shape = shoal_kv_seq_shape(s->seq);
    size_t n_layers = shoal_kv_form_layers(shape);
    shoal_kvwire_about about = {
        .model = ship->model->hash,
        .tokenizer = *shoal_tokenizer_hash(ship->model->tokenizer),
        .form = ship->form,
        .n_tokens = (uint32_t)s->request->n_ids,
        .n_blocks = (uint32_t)(s->request->n_ids / BLOCK),
        .n_layers = (uint32_t)n_layers,
        .first_bytes = (uint32_t)(shoal_kv_block_bytes(shape, 0) / n_layers),
        .layer_bytes = (uint32_t)(shoal_kv_block_bytes(shape, 1) / n_layers)};
    if (s->request->archived && shoal_archive_n_blocks(s->request->n_ids) > 0) {
        about.n_archived = about.n_blocks;
    }
    if (about.n_archived > 0) {
        about.archived_bytes = (uint32_t)shoal_archive_block_bytes(ship->archive);
        about.basis = *shoal_archive_hash(ship->archive);
    }
    const shoal_kvwire_source source = {.ids = s->request->ids,
                                        .ctx = s,
                                        .read = read_block,
                                        .read_archived = read_archived,
                                        .chunk_layers = about.n_layers,
                                        .chunk_blocks = CHUNK_BLOCKS};
    /* Who it is for is the affair of the call's TLS, so there is no salt. */
    return shoal_kvwire_encoder_new(&about, &source, (shoal_kvwire_salt){.n = 0}, &s->encoder,
                                    NULL);
}

static bool evict(shoal_ship *ship)
{
    return ship->prefix != NULL && shoal_prefix_evict(ship->prefix);
}

/* For all of its text. Leases end where they are in the way. False: those before it have them. */
static bool promise_pages(shoal_shipment *s)
{
    shoal_ship *ship = s->ship;
    shoal_kv_pool *pool = shoal_engine_kv(ship->engine);
    size_t n_pages = shoal_kv_pool_pages_for(pool, s->request->n_ids);
    while (n_pages > shoal_kv_pool_n_pages(pool) - ship->n_pages_promised) {
        if (!end_lease(ship, NULL)) {
            return false;
        }
    }
    s->n_pages = n_pages;
    ship->n_pages_promised += n_pages;
    return true;
}

static void refuse_record(shoal_shipment *s)
{
    char text[SHOAL_WIRE_TEXT_MAX];
    (void)snprintf(text, sizeof(text),
                   "record %u of a blob is asked for, it has %llu: ask from its head, record 0",
                   s->request->record,
                   (unsigned long long)shoal_kvwire_encoder_records(s->encoder));
    finish(s, SHOAL_RPC_INVALID_ARGUMENT, text);
}

/* With pages for all of its text. False: they are promised to those before it. */
static bool begin(shoal_shipment *s)
{
    shoal_ship *ship = s->ship;
    shoal_kv_pool *pool = shoal_engine_kv(ship->engine);
    if (refuse_other(s)) {
        return true;
    }
    if (s->request->n_ids > ship->n_tokens_max) {
        char text[SHOAL_WIRE_TEXT_MAX];
        (void)snprintf(text, sizeof(text),
                       "KV of %zu tokens is asked for, this node ships %zu at most "
                       "(edge_model.kv_max_mib)",
                       s->request->n_ids, ship->n_tokens_max);
        finish(s, SHOAL_RPC_FAILED_PRECONDITION, text);
        return true;
    }
    bool was_held = take_over(s);
    if (!was_held && !promise_pages(s)) {
        return false;
    }
    shoal_status status = was_held ? SHOAL_OK : shoal_kv_seq_new(pool, &s->seq);
    status = status == SHOAL_OK ? make_encoder(s) : status;
    if (status != SHOAL_OK) {
        finish(s, SHOAL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory; compute it yourself");
        return true;
    }
    s->begun = true;
    s->owned = ship->prefix != NULL &&
               shoal_prefix_owner_of(ship->prefix, s->peer.tenant, NULL, &s->owner) == SHOAL_OK;
    if (s->owned && !was_held) {
        (void)shoal_prefix_take(ship->prefix, &s->owner, s->request->ids, s->request->n_ids,
                                s->seq);
    }
    s->n_cached = shoal_kv_seq_length(s->seq);
    shoal_metric_add(ship->metrics.tokens_cached, (double)s->n_cached);
    if (s->request->record > 0) {
        shoal_metric_add(was_held ? ship->metrics.resumed_held : ship->metrics.resumed_again, 1);
        if (s->request->record > shoal_kvwire_encoder_records(s->encoder)) {
            refuse_record(s);
        }
    }
    return true;
}

/* One step over its next tokens. */
static void compute(shoal_shipment *s)
{
    shoal_ship *ship = s->ship;
    size_t length = shoal_kv_seq_length(s->seq);
    shoal_span span = {.seq = s->seq,
                       .ids = s->request->ids + length,
                       .n_ids = SHOAL_MIN(s->request->n_ids - length, (size_t)CHUNK_ROWS)};
    uint64_t start_ns = shoal_clock_now_ns(&ship->settings.clock);
    shoal_status status = SHOAL_OK;
    while ((status = shoal_engine_step(ship->engine, &span, 1)) == SHOAL_BUSY && evict(ship)) {
    }
    if (status != SHOAL_OK) {
        finish(s, SHOAL_RPC_RESOURCE_EXHAUSTED, "no KV for this text now; compute it yourself");
        return;
    }
    double us = (double)(shoal_clock_now_ns(&ship->settings.clock) - start_ns) / 1e3;
    learn(&ship->token_us, us / (double)span.n_ids);
    shoal_metric_add(ship->metrics.tokens_computed, (double)span.n_ids);
    if (s->owned) {
        shoal_prefix_publish(ship->prefix, &s->owner, s->request->ids, s->seq);
    }
}

/* False: the peer takes no more, and the shipment is over. */
static bool hand_over(shoal_shipment *s, const shoal_msg_kv_part *part)
{
    shoal_ship *ship = s->ship;
    lock(ship);
    s->blocked = true; /* before a drain can say otherwise */
    unlock(ship);
    shoal_status status = s->peer.send(s->peer.ctx, part);
    if (status == SHOAL_OK) {
        lock(ship);
        s->blocked = false;
        unlock(ship);
    } else if (status != SHOAL_BUSY) {
        finish(s, SHOAL_RPC_CANCELLED, "the blob could not be sent");
        return false;
    }
    shoal_metric_add(ship->metrics.bytes, (double)part->n_bytes);
    return true;
}

static void send_part(shoal_shipment *s, size_t n, bool last)
{
    shoal_ship *ship = s->ship;
    shoal_msg_kv_part part = {.bytes = ship->part,
                              .n_bytes = n,
                              .n_cached = s->told ? 0 : (uint32_t)s->n_cached,
                              .token_us = last ? shoal_ship_describe(ship).token_us : 0,
                              .record = s->told ? 0 : s->request->record};
    uint64_t flip = ship->settings.fault_flip_at;
    if (flip > s->n_sent && flip <= s->n_sent + n) {
        ship->part[flip - s->n_sent - 1] ^= 1;
    }
    s->n_sent += n;
    s->told = true;
    shoal_ship_fault fault =
        ++s->n_parts == ship->settings.fault_part ? ship->settings.fault : SHOAL_SHIP_FAULT_NONE;
    part.n_bytes = fault == SHOAL_SHIP_FAULT_CUT ? n / 2 : n;
    size_t n_times = fault == SHOAL_SHIP_FAULT_DROP ? 0 : fault == SHOAL_SHIP_FAULT_REPEAT ? 2 : 1;
    for (size_t i = 0; i < n_times; i++) {
        if (!hand_over(s, &part)) {
            return;
        }
    }
    if (fault == SHOAL_SHIP_FAULT_LOSE) {
        finish(s, SHOAL_RPC_UNAVAILABLE, "lost, as fault.ship says");
    } else if (last || fault == SHOAL_SHIP_FAULT_END) {
        finish(s, SHOAL_RPC_OK, "");
    }
}

/* To the record that was asked for: SHOAL_BUSY, and in this turn there is no more to read. */
static shoal_status seek(shoal_shipment *s)
{
    if (s->sought) {
        return SHOAL_OK;
    }
    s->n_may_read = SEEK_BLOCKS;
    shoal_status status = shoal_kvwire_encoder_seek(s->encoder, s->request->record);
    s->sought = status == SHOAL_OK;
    return status;
}

/* The next piece of its blob, or the next step where that is not there yet. */
static void advance(shoal_shipment *s)
{
    size_t n = 0;
    shoal_status status = seek(s);
    if (status == SHOAL_BUSY && s->n_may_read == 0) {
        return;
    }
    if (status == SHOAL_OK) {
        s->n_may_read = SIZE_MAX; /* a part is bounded by itself */
        status = shoal_kvwire_encoder_read(s->encoder, s->ship->part, PART_BYTES, &n);
    }
    if (status == SHOAL_BUSY) {
        if (n > 0) {
            send_part(s, n, false);
        }
        if (!s->finished) {
            compute(s);
        }
    } else if (status == SHOAL_OK) {
        send_part(s, n, n < PART_BYTES);
    } else {
        finish(s, SHOAL_RPC_INTERNAL, "the KV of this text holds what is no number");
    }
}

/* --- the thread: all of them ------------------------------------------------------------------ */

/* Under the lock: takes out one whose call is gone. */
static shoal_shipment *take_gone(shoal_ship *ship)
{
    for (size_t i = 0; i < ship->n_jobs; i++) {
        shoal_shipment *s = ship->jobs[i];
        if (s->gone) {
            ship->n_jobs--;
            memmove(ship->jobs + i, ship->jobs + i + 1, (ship->n_jobs - i) * sizeof(s));
            return s;
        }
    }
    return NULL;
}

static void end_gone(shoal_ship *ship)
{
    for (;;) {
        lock(ship);
        shoal_shipment *s = take_gone(ship);
        shoal_metric_set(ship->metrics.running, (double)ship->n_jobs);
        unlock(ship);
        if (s == NULL) {
            return;
        }
        if (!s->finished) {
            shoal_metric_add(ship->metrics.cut, 1);
        }
        s->peer.release(s->peer.ctx);
        lock(ship);
        bool keep = ship->settings.lease_ms > 0 && !ship->stopping;
        unlock(ship);
        if (keep && s->begun && !s->finished) {
            hold(s);
        } else {
            let_go(s);
            shoal_free(s);
        }
    }
}

/* The next that can get on, after the one that did last: each gets a piece or a step in turn. */
static shoal_shipment *pick(shoal_ship *ship, uint64_t after)
{
    shoal_shipment *first = NULL;
    shoal_shipment *next = NULL;
    lock(ship);
    for (size_t i = 0; i < ship->n_jobs; i++) {
        shoal_shipment *s = ship->jobs[i];
        if (s->finished || s->blocked || s->gone) {
            continue;
        }
        first = first == NULL ? s : first;
        next = next == NULL && s->number > after ? s : next;
    }
    unlock(ship);
    return next != NULL ? next : first;
}

/* False: nothing can get on but by what others do. */
static bool turn(shoal_ship *ship, uint64_t *inout_after)
{
    for (size_t i = 0; i < SHOAL_SHIP_JOBS_MAX; i++) {
        shoal_shipment *s = pick(ship, *inout_after);
        if (s == NULL) {
            return false;
        }
        *inout_after = s->number;
        if (s->begun) {
            advance(s);
            return true;
        }
        if (begin(s)) {
            return true;
        }
    }
    return false;
}

/* Under the lock, for a while where leases are to end. True: that is over. */
static bool wait_for_others(shoal_ship *ship)
{
    if (atomic_load(&ship->n_held) == 0) {
        (void)pthread_cond_wait(&ship->wake, &ship->lock);
        return false;
    }
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LEASE_CHECK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    return pthread_cond_timedwait(&ship->wake, &ship->lock, &until) == ETIMEDOUT;
}

static void ship_main(void *ctx)
{
    shoal_ship *ship = ctx;
    uint64_t after = UINT64_MAX;
    for (;;) {
        lock(ship);
        ship->poked = false; /* before anything is looked at, so that nothing is missed */
        unlock(ship);
        end_gone(ship);
        end_leases(ship);
        bool worked = turn(ship, &after);
        lock(ship);
        bool ended = ship->stopping && ship->n_jobs == 0;
        while (!worked && !ship->poked && !ended) {
            bool timed = wait_for_others(ship);
            ended = ship->stopping && ship->n_jobs == 0;
            worked = timed; /* a lease may be over */
        }
        unlock(ship);
        if (ended) {
            while (end_lease(ship, NULL)) {
            }
            return;
        }
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status make_metrics(shoal_ship *ship, shoal_metrics *registry, shoal_err *err)
{
    static const char shipments[] = "Prompts whose KV was asked for, by how that ended.";
    static const char tokens[] = "Tokens of those prompts.";
    static const char resumed[] = "Cut shipments that went on, by whether their KV was still held.";
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&ship->metrics.sent,
         {"shoal_ship_requests_total", shipments, "result=\"sent\"", SHOAL_METRIC_COUNTER, NULL,
          0}},
        {&ship->metrics.refused,
         {"shoal_ship_requests_total", shipments, "result=\"refused\"", SHOAL_METRIC_COUNTER, NULL,
          0}},
        {&ship->metrics.cut,
         {"shoal_ship_requests_total", shipments, "result=\"cut\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.running,
         {"shoal_ship_running", "Shipments under way.", "", SHOAL_METRIC_GAUGE, NULL, 0}},
        {&ship->metrics.held,
         {"shoal_ship_held", "Cut shipments whose KV is kept for who asks again.", "",
          SHOAL_METRIC_GAUGE, NULL, 0}},
        {&ship->metrics.resumed_held,
         {"shoal_ship_resumed_total", resumed, "kv=\"held\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.resumed_again,
         {"shoal_ship_resumed_total", resumed, "kv=\"again\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.tokens_computed,
         {"shoal_ship_tokens_total", tokens, "source=\"computed\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.tokens_cached,
         {"shoal_ship_tokens_total", tokens, "source=\"cached\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.tokens_archived,
         {"shoal_ship_archived_tokens_total", "Tokens whose KV was archived for its way.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&ship->metrics.bytes,
         {"shoal_ship_bytes_total", "Bytes of KV blobs sent.", "", SHOAL_METRIC_COUNTER, NULL, 0}},
    };
    for (size_t i = 0; registry != NULL && i < SHOAL_COUNT(rows); i++) {
        if (shoal_metrics_add(registry, &rows[i].def, rows[i].slot) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for metrics");
        }
    }
    return SHOAL_OK;
}

static shoal_status make_prefix(shoal_ship *ship)
{
    shoal_kv_pool *pool = shoal_engine_kv(ship->engine);
    size_t n_pages = shoal_kv_pool_n_pages(pool) * ship->settings.prefix_percent / 100;
    size_t n_blocks = n_pages / SHOAL_MAX(shoal_kv_pool_block_entries(pool), (size_t)1);
    if (n_blocks == 0) {
        return SHOAL_OK;
    }
    const shoal_prefix_settings settings = {
        .model = ship->model->hash,
        .n_blocks_max = SHOAL_MIN(n_blocks, (size_t)SHOAL_PREFIX_BLOCKS_MAX),
        .secret = shoal_clock_now_ns(&ship->settings.clock)};
    return shoal_prefix_new(pool, &settings, &ship->prefix);
}

static shoal_status open_archive(shoal_ship *ship, shoal_err *err)
{
    const char *path = ship->settings.archive_path;
    const shoal_kv_shape *shape = shoal_kv_pool_shape(shoal_engine_kv(ship->engine));
    if (path == NULL) {
        return SHOAL_OK;
    }
    if (shape->type != SHOAL_KV_F16) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "edge_model.archive: what is archived is KV in f16, not %s: set "
                             "edge_model.kv_type f16 or leave edge_model.archive empty",
                             shoal_kv_type_name(shape->type));
    }
    SHOAL_TRY(shoal_archive_read(path, &ship->model->hash, shape, &ship->archive, err));
    double encode_us = 0;
    double decode_us = 0;
    ship->pages = shoal_calloc_aligned(shoal_kv_block_bytes(shape, 0), 1);
    shoal_status status = ship->pages == NULL ? SHOAL_E_NOMEM : SHOAL_OK;
    status = status == SHOAL_OK ? shoal_archive_work_new(ship->archive, &ship->work) : status;
    status = status == SHOAL_OK
                 ? shoal_archive_measure(ship->archive, shoal_engine_kernels(ship->engine),
                                         &ship->settings.clock, &encode_us, &decode_us)
                 : status;
    learn(&ship->archive_us, encode_us);
    return status == SHOAL_OK ? SHOAL_OK
                              : shoal_err_set(err, status, "no memory for edge_model.archive");
}

static shoal_status build(shoal_ship *ship, shoal_metrics *registry, shoal_err *err)
{
    const shoal_ship_settings *settings = &ship->settings;
    if (settings->n_jobs_max < 1 || settings->n_jobs_max > SHOAL_SHIP_JOBS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "edge_model.shipments_max is %zu, not in 1..%d",
                             settings->n_jobs_max, (int)SHOAL_SHIP_JOBS_MAX);
    }
    shoal_engine_settings es = settings->engine;
    es.n_rows_max = CHUNK_ROWS;
    es.n_logits_max = 1;
    SHOAL_TRY(shoal_engine_new(ship->model, &es, &ship->engine, err));
    const shoal_kv_pool *pool = shoal_engine_kv(ship->engine);
    const shoal_kv_shape *shape = shoal_kv_pool_shape(pool);
    for (size_t i = 0; shape->windows != NULL && i < shape->n_layers; i++) {
        if (shape->windows[i] > 0) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "edge_model.path: layer %zu sees the last %zu tokens alone, so a "
                                 "text's first KV is gone before its last is there; leave "
                                 "edge_model.path empty for this model",
                                 i, shape->windows[i]);
        }
    }
    size_t n_most = SHOAL_MIN(shoal_kv_pool_tokens_max(pool), (size_t)SHOAL_WIRE_PROMPT_MAX);
    ship->n_tokens_max = n_most / BLOCK * BLOCK;
    if (ship->n_tokens_max == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "edge_model.kv_max_mib holds no block of 32 tokens: raise it");
    }
    SHOAL_TRY(open_archive(ship, err));
    char form[SHOAL_KV_FORM_BYTES];
    shoal_kv_form(shape, form);
    shoal_status status = shoal_kvwire_form(form, &ship->form);
    ship->part = shoal_calloc(PART_BYTES, 1);
    status = status == SHOAL_OK && ship->part == NULL ? SHOAL_E_NOMEM : status;
    status = status == SHOAL_OK ? make_prefix(ship) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "out of memory for the edges' model");
    }
    SHOAL_TRY(make_metrics(ship, registry, err));
    status = shoal_thread_start(SHOAL_ROLE_ENGINE, "shoal-ship", ship_main, ship, &ship->thread);
    return status == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, status, "cannot start the thread of the edges' model");
}

shoal_status shoal_ship_new(const shoal_model *model, const shoal_ship_settings *settings,
                            shoal_metrics *registry, shoal_ship **ret_ship, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_ship_freep) shoal_ship *ship = shoal_calloc(1, sizeof(*ship));
    if (ship == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the edges' model");
    }
    int rc = pthread_mutex_init(&ship->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    rc = pthread_cond_init(&ship->wake, NULL);
    SHOAL_ASSERT(rc == 0);
    ship->model = model;
    ship->settings = *settings;
    SHOAL_TRY(build(ship, registry, err));
    *ret_ship = SHOAL_STEAL(ship);
    return SHOAL_OK;
}

void shoal_ship_free(shoal_ship *ship)
{
    if (ship == NULL) {
        return;
    }
    if (ship->thread != NULL) {
        lock(ship);
        ship->stopping = true;
        poke(ship);
        unlock(ship);
        shoal_thread_join(ship->thread);
    }
    SHOAL_ASSERT(ship->n_jobs == 0);
    shoal_prefix_free(ship->prefix);
    shoal_engine_free(ship->engine);
    shoal_free(ship->part);
    shoal_free(ship->pages);
    shoal_archive_work_free(ship->work);
    shoal_archive_free(ship->archive);
    (void)pthread_cond_destroy(&ship->wake);
    (void)pthread_mutex_destroy(&ship->lock);
    shoal_free(ship);
}
