/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/fleet/updater.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/obs/log.h"
#include "edge/fleet/pull.h"
#include "edge/fleet/store.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct retired {
    struct retired *next;
    void *deck;
} retired;

struct shoal_updater {
    shoal_updater_settings settings;
    shoal_updater_hooks hooks;
    shoal_bundle_keys *keys;
    shoal_store *store; /* the thread's once it runs */
    shoal_clock clock;
    shoal_thread *thread;
    atomic_bool stop;
    uint64_t poll_at_ms;
    pthread_mutex_t lock; /* everything below */
    pthread_cond_t wake;
    retired *retired;
    uint32_t n_failed; /* in a row, of what is in use */
    uint32_t n_good;
    bool on_trial;
    bool go_back;            /* the trial has failed */
    bool trial_won;          /* to be written down */
    shoal_store_state state; /* as others see it */
    const char *phase;       /* static: "idle", "fetching", "trying" */
    char trouble[SHOAL_ERR_TEXT_MAX];
    struct {
        shoal_metric *serial;
        shoal_metric *taken;
        shoal_metric *refused;
        shoal_metric *failed;
        shoal_metric *back;
        shoal_metric *asks;
        shoal_metric *asks_failed;
        shoal_metric *bytes;
    } metrics;
};

static void lock(shoal_updater *u)
{
    (void)pthread_mutex_lock(&u->lock);
}

static void unlock(shoal_updater *u)
{
    (void)pthread_mutex_unlock(&u->lock);
}

/* --- what others see -------------------------------------------------------------------------- */

static void publish(shoal_updater *u)
{
    lock(u);
    u->state = *shoal_store_state_of(u->store);
    u->on_trial = u->state.trial > 0;
    unlock(u);
    shoal_metric_set(u->metrics.serial, (double)u->state.current);
}

static void set_phase(shoal_updater *u, const char *phase)
{
    lock(u);
    u->phase = phase;
    unlock(u);
}

/* "" : all is well. Logs what is new. */
static void set_trouble(shoal_updater *u, const char *text)
{
    lock(u);
    bool is_new = strcmp(u->trouble, text) != 0;
    (void)snprintf(u->trouble, sizeof u->trouble, "%s", text);
    unlock(u);
    if (is_new && text[0]) {
        shoal_log(SHOAL_LOG_WARN, "fleet: %s", text);
    }
}

static shoal_status put_text(shoal_buf *buf, const char *text)
{
    SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
    for (const char *at = text; *at; at++) {
        bool plain = *at >= ' ' && *at < 0x7f && *at != '"' && *at != '\\';
        SHOAL_TRY(shoal_buf_append(buf, plain ? at : "?", 1));
    }
    return shoal_buf_append(buf, "\"", 1);
}

shoal_status shoal_updater_put_status(shoal_updater *u, shoal_buf *buf)
{
    char trouble[SHOAL_ERR_TEXT_MAX];
    lock(u);
    shoal_store_state s = u->state;
    const char *phase = u->phase;
    memcpy(trouble, u->trouble, sizeof trouble);
    unlock(u);
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "{\"serial\":%" PRIu64 ",\"previous\":%" PRIu64 ",\"highest\":%" PRIu64
        ",\"failed\":%" PRIu64 ",\"trial\":%s,\"phase\":\"%s\",\"family\":",
        s.current, s.previous, s.highest, s.failed, s.trial > 0 ? "true" : "false", phase));
    SHOAL_TRY(put_text(buf, u->settings.family));
    SHOAL_TRY(shoal_buf_appendf(buf, ",\"trouble\":"));
    SHOAL_TRY(trouble[0] ? put_text(buf, trouble) : shoal_buf_appendf(buf, "null"));
    return shoal_buf_appendf(buf, "}");
}

/* --- going back ------------------------------------------------------------------------------- */

/* The one before is the current one again; none follows it. */
static shoal_status put_back(shoal_updater *u, uint64_t current, shoal_err *err)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    shoal_log(SHOAL_LOG_ERROR, "fleet: serial=%" PRIu64 " is given up, back to serial=%" PRIu64,
              next.current, current);
    next.failed = next.current;
    next.current = current;
    next.previous = 0;
    next.trial = 0;
    shoal_metric_add(u->metrics.back, 1);
    shoal_status status = shoal_store_put(u->store, &next, err);
    publish(u);
    return status;
}

static bool is_no_fault_of_bundle(shoal_status status)
{
    return status == SHOAL_E_NOMEM || status == SHOAL_E_CANCELLED || status == SHOAL_E_EXHAUSTED ||
           status == SHOAL_E_IO;
}

/* The one before runs meanwhile; the current one waits to be tried, unless a newer one does. */
static shoal_status set_aside(shoal_updater *u, shoal_err *err)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    shoal_log(SHOAL_LOG_WARN,
              "fleet: serial=%" PRIu64 " is set aside, serial=%" PRIu64 " runs meanwhile",
              next.current, next.previous);
    if (next.trying == 0) {
        next.trying = next.current;
        next.tries = 0;
    }
    next.current = next.previous;
    next.previous = 0;
    next.trial = 0;
    shoal_status status = shoal_store_put(u->store, &next, err);
    publish(u);
    return status;
}

shoal_status shoal_updater_first_failed(shoal_updater *u, const shoal_err *why, shoal_err *err)
{
    set_trouble(u, why->text);
    return is_no_fault_of_bundle(why->code)
               ? set_aside(u, err)
               : put_back(u, shoal_store_state_of(u->store)->previous, err);
}

/* A start in a trial counts until answers, or an orderly end, say that all is well. */
static shoal_status count_start(shoal_updater *u, shoal_err *err)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    if (next.current == 0 || next.trial == 0) {
        return SHOAL_OK;
    }
    if (next.trial > SHOAL_STORE_TRIES_MAX) {
        set_trouble(u, "the program ended again and again since this bundle came");
        return put_back(u, next.previous, err);
    }
    next.trial++;
    return shoal_store_put(u->store, &next, err);
}

shoal_status shoal_updater_first(shoal_updater *u, char **ret_folder, shoal_bundle **ret_bundle,
                                 shoal_err *err)
{
    *ret_folder = NULL;
    *ret_bundle = NULL;
    SHOAL_TRY(count_start(u, err));
    for (;;) {
        uint64_t serial = shoal_store_state_of(u->store)->current;
        shoal_err why = SHOAL_ERR_INIT;
        if (serial == 0) {
            return SHOAL_OK;
        }
        SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_store_bundle_path(u->store, serial);
        if (!path) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a bundle");
        }
        if (shoal_store_check(path, u->keys, serial, NULL, ret_bundle, &why) == SHOAL_OK) {
            *ret_folder = SHOAL_STEAL(path);
            return SHOAL_OK;
        }
        SHOAL_TRY(shoal_updater_first_failed(u, &why, err));
    }
}

/* A deck of a bundle that lies here, or of the installed model. */
static shoal_status prepare(shoal_updater *u, uint64_t serial, void **ret_deck, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = NULL;
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
    if (serial > 0) {
        path = shoal_store_bundle_path(u->store, serial);
        if (!path) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a bundle");
        }
        SHOAL_TRY(shoal_store_check(path, u->keys, serial, &u->stop, &bundle, err));
    }
    return u->hooks.prepare(u->hooks.ctx, path, bundle, ret_deck, err);
}

static void go_back(shoal_updater *u)
{
    void *deck = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_store_state *state = shoal_store_state_of(u->store);
    uint64_t serial = state->previous;
    lock(u);
    u->go_back = false;
    unlock(u);
    shoal_status status = prepare(u, serial, &deck, &err);
    if (status != SHOAL_OK && serial > 0) {
        set_trouble(u, err.text);
        shoal_err_clear(&err);
        serial = 0;
        status = prepare(u, 0, &deck, &err);
    }
    if (status != SHOAL_OK) {
        set_trouble(u, err.text); /* nothing else runs here: it stays */
        return;
    }
    set_trouble(u, "answers failed since this bundle came");
    if (put_back(u, serial, &err) != SHOAL_OK) {
        set_trouble(u, err.text); /* and back all the same: a restart finds the trial again */
    }
    u->hooks.use(u->hooks.ctx, deck);
    shoal_store_tidy(u->store);
}

/* --- taking one ------------------------------------------------------------------------------- */

static void give_up(shoal_updater *u, const char *why)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_log(SHOAL_LOG_ERROR, "fleet: serial=%" PRIu64 " is not taken: %s", next.trying, why);
    next.failed = next.trying;
    next.trying = 0;
    next.tries = 0;
    shoal_metric_add(u->metrics.failed, 1);
    set_trouble(u, shoal_store_put(u->store, &next, &err) == SHOAL_OK ? why : err.text);
    shoal_store_tidy(u->store);
    publish(u);
}

static shoal_status take_over(shoal_updater *u, shoal_err *err)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    next.previous = next.current;
    next.current = next.trying;
    next.trying = 0;
    next.tries = 0;
    next.trial = 1;
    return shoal_store_put(u->store, &next, err);
}

/* It is tried again when the cloud would be asked next, and the tries are what they were: the
 * program did not end of this one. Where that cannot be written down it counts all the same. */
static void postpone(shoal_updater *u, uint64_t tries, const char *why)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    set_trouble(u, why);
    next.tries = tries;
    shoal_status status = shoal_store_put(u->store, &next, NULL);
    (void)status;
}

/* What is whole here and waits to be tried. */
static void try_next(shoal_updater *u)
{
    void *deck = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_store_state next = *shoal_store_state_of(u->store);
    if (next.tries >= SHOAL_STORE_TRIES_MAX) {
        give_up(u, "the program ended each time it was tried");
        return;
    }
    next.tries++;
    set_phase(u, "trying");
    shoal_status status = shoal_store_put(u->store, &next, &err);
    if (status == SHOAL_OK) {
        status = prepare(u, next.trying, &deck, &err);
    }
    if (is_no_fault_of_bundle(status)) {
        postpone(u, next.tries - 1, err.text);
        return;
    }
    if (status != SHOAL_OK) {
        give_up(u, err.text);
        return;
    }
    if (take_over(u, &err) != SHOAL_OK) {
        set_trouble(u, err.text);
        u->hooks.retire(u->hooks.ctx, deck);
        return;
    }
    u->hooks.use(u->hooks.ctx, deck); /* first: answers of the model before are not its trial's */
    lock(u);
    u->n_failed = 0;
    u->n_good = 0;
    u->go_back = false;
    u->trial_won = false;
    unlock(u);
    publish(u);
    shoal_metric_add(u->metrics.taken, 1);
    shoal_log(SHOAL_LOG_INFO, "fleet: serial=%" PRIu64 " runs, on trial", next.trying);
    set_trouble(u, "");
    shoal_store_tidy(u->store);
}

/* --- asking ----------------------------------------------------------------------------------- */

typedef struct offer {
    shoal_buf manifest;
    shoal_buf signature;
} offer;

static void free_offer(offer *o)
{
    shoal_buf_fini(&o->manifest);
    shoal_buf_fini(&o->signature);
}

static shoal_status take_offer(void *ctx, const shoal_msg_bundle_part *part, shoal_err *err)
{
    offer *o = ctx;
    if (o->manifest.length > 0 || part->n_manifest == 0) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "the cloud offers no manifest, or two");
    }
    if (shoal_buf_append(&o->manifest, part->manifest, part->n_manifest) != SHOAL_OK ||
        shoal_buf_append(&o->signature, part->signature, part->n_signature) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a manifest");
    }
    return SHOAL_OK;
}

static shoal_status fetch_file(shoal_updater *u, shoal_pull *pull, const shoal_bundle *b, size_t i,
                               shoal_err *err)
{
    shoal_msg_bundle_request request = {.serial = b->serial, .file = (uint32_t)i};
    SHOAL_CLEANUP(shoal_free_cleanup)
    char *path = shoal_bundle_path(shoal_store_incoming(u->store), b->files[i].name);
    uint64_t n_bytes = 0;
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a bundle");
    }
    SHOAL_TRY(shoal_store_have(u->store, &b->files[i], &request.offset, err));
    (void)snprintf(request.family, sizeof request.family, "%s", b->family);
    if (request.offset > 0 && request.offset < b->files[i].n_bytes) {
        shoal_log(SHOAL_LOG_INFO, "fleet: file=%s goes on at byte=%" PRIu64, b->files[i].name,
                  request.offset);
    }
    shoal_status status = shoal_pull_file(pull, &request, path, &b->files[i], &n_bytes, err);
    shoal_metric_add(u->metrics.bytes, (double)n_bytes);
    return status;
}

static shoal_status fetch_files(shoal_updater *u, shoal_pull *pull, const shoal_bundle *b,
                                shoal_err *err)
{
    uint64_t n_missing = 0;
    for (size_t i = 0; i < b->n_files; i++) {
        uint64_t n_have = 0;
        SHOAL_TRY(shoal_store_have(u->store, &b->files[i], &n_have, err));
        n_missing += b->files[i].n_bytes - n_have;
    }
    SHOAL_TRY(shoal_store_check_room(u->store, n_missing, err));
    shoal_log(SHOAL_LOG_INFO, "fleet: fetching serial=%" PRIu64 " bytes=%" PRIu64, b->serial,
              n_missing);
    for (size_t i = 0; i < b->n_files; i++) {
        SHOAL_TRY(fetch_file(u, pull, b, i, err));
    }
    shoal_status status =
        shoal_bundle_check_files(b, shoal_store_incoming(u->store), &u->stop, err);
    if (status == SHOAL_E_INVALID) {
        shoal_metric_add(u->metrics.refused, 1);
        shoal_store_drop_incoming(u->store);
    }
    SHOAL_TRY(status);
    return shoal_store_commit(u->store, b, err);
}

/* SHOAL_OK: a new bundle waits to be tried. SHOAL_EOF: there is nothing new. */
static shoal_status ask(shoal_updater *u, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_pull_freep) shoal_pull *pull = NULL;
    SHOAL_CLEANUP(free_offer) offer o = {0};
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *b = NULL;
    shoal_msg_bundle_request request = {0};
    (void)snprintf(request.family, sizeof request.family, "%s", u->settings.family);
    SHOAL_TRY(shoal_pull_new(u->settings.target, &u->settings.tls, &u->stop, &pull, err));
    shoal_status status = shoal_pull_run(pull, &request, take_offer, &o, err);
    if (status == SHOAL_E_NOTFOUND) {
        shoal_err_clear(err);
        return SHOAL_EOF;
    }
    SHOAL_TRY(status);
    status = shoal_bundle_verify(u->keys, o.manifest.data, o.manifest.length, o.signature.data,
                                 o.signature.length, err);
    if (status == SHOAL_OK) {
        status = shoal_bundle_parse(o.manifest.data, o.manifest.length, &b, err);
    }
    if (status == SHOAL_OK && b->serial <= shoal_store_state_of(u->store)->highest) {
        return SHOAL_EOF;
    }
    if (status == SHOAL_OK) {
        status = shoal_bundle_admit(b, u->settings.family, shoal_store_state_of(u->store)->highest,
                                    u->settings.program, err);
    }
    if (status != SHOAL_OK) {
        shoal_metric_add(u->metrics.refused, 1);
        return status;
    }
    set_phase(u, "fetching");
    SHOAL_TRY(shoal_store_begin(u->store, o.manifest.data, o.manifest.length, o.signature.data,
                                o.signature.length, err));
    return fetch_files(u, pull, b, err);
}

static void look(shoal_updater *u)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_store_state_of(u->store)->trying == 0) {
        shoal_metric_add(u->metrics.asks, 1);
        shoal_status status = ask(u, &err);
        if (status == SHOAL_E_EXHAUSTED) {
            shoal_store_drop_incoming(u->store); /* gives the room back */
        }
        if (status != SHOAL_OK && status != SHOAL_EOF && status != SHOAL_E_CANCELLED) {
            shoal_metric_add(u->metrics.asks_failed, 1);
            set_trouble(u, err.text);
        }
        publish(u);
    }
    if (shoal_store_state_of(u->store)->trying != 0 && !atomic_load(&u->stop)) {
        try_next(u);
    }
    set_phase(u, "idle");
}

/* --- the thread ------------------------------------------------------------------------------- */

/* From three quarters to five quarters of the time between two looks, so that a fleet that was
 * started together does not ask together; at first anywhere within it. */
static uint64_t pause_ms(const shoal_updater *u, bool first)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t noise = ((uint64_t)now.tv_nsec * 2654435761u ^ (uint64_t)(uintptr_t)u) >> 7;
    uint64_t half = u->settings.poll_ms / 2;
    uint64_t spread = noise % ((first ? u->settings.poll_ms : half) + 1);
    return first ? spread : u->settings.poll_ms - half / 2 + spread;
}

static void retire_all(shoal_updater *u)
{
    lock(u);
    retired *all = SHOAL_STEAL(u->retired);
    unlock(u);
    while (all) {
        retired *next = all->next;
        u->hooks.retire(u->hooks.ctx, all->deck);
        shoal_free(all);
        all = next;
    }
}

static void end_trial(shoal_updater *u)
{
    shoal_store_state next = *shoal_store_state_of(u->store);
    shoal_err err = SHOAL_ERR_INIT;
    lock(u);
    u->trial_won = false;
    unlock(u);
    next.trial = 0;
    if (shoal_store_put(u->store, &next, &err) != SHOAL_OK) {
        set_trouble(u, err.text);
    } else {
        shoal_log(SHOAL_LOG_INFO, "fleet: serial=%" PRIu64 " has passed its trial", next.current);
    }
    publish(u);
}

/* Until there is something to do, or it is time to look. */
static void sleep_until(shoal_updater *u, uint64_t at_ms)
{
    uint64_t now_ms = shoal_clock_now_ms(&u->clock);
    uint64_t ms = at_ms > now_ms ? at_ms - now_ms : 0;
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    lock(u);
    while (!atomic_load(&u->stop) && !u->retired && !u->go_back && !u->trial_won &&
           pthread_cond_timedwait(&u->wake, &u->lock, &until) == 0) {
    }
    unlock(u);
}

static void updater_main(void *ctx)
{
    shoal_updater *u = ctx;
    while (!atomic_load(&u->stop)) {
        sleep_until(u, u->poll_at_ms);
        retire_all(u);
        lock(u);
        bool back = u->go_back;
        bool won = u->trial_won;
        unlock(u);
        if (back) {
            go_back(u);
        } else if (won) {
            end_trial(u);
        }
        if (!atomic_load(&u->stop) && shoal_clock_now_ms(&u->clock) >= u->poll_at_ms) {
            look(u);
            u->poll_at_ms = shoal_clock_now_ms(&u->clock) + pause_ms(u, false);
        }
    }
    retire_all(u);
}

/* --- from other threads ----------------------------------------------------------------------- */

void shoal_updater_answered(shoal_updater *u, bool failed)
{
    lock(u);
    if (u->on_trial) {
        u->n_failed = failed ? u->n_failed + 1 : 0;
        u->n_good += failed ? 0 : 1;
        u->go_back = u->n_failed >= u->settings.n_failures;
        u->trial_won = !u->go_back && u->n_good >= u->settings.n_answers;
        u->on_trial = !u->go_back && !u->trial_won;
        (void)pthread_cond_signal(&u->wake);
    }
    unlock(u);
}

shoal_status shoal_updater_retire(shoal_updater *u, void *take_deck)
{
    retired *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return SHOAL_E_NOMEM;
    }
    r->deck = take_deck;
    lock(u);
    r->next = u->retired;
    u->retired = r;
    (void)pthread_cond_signal(&u->wake);
    unlock(u);
    return SHOAL_OK;
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status make_metrics(shoal_updater *u, shoal_metrics *metrics)
{
    const struct {
        shoal_metric **slot;
        shoal_metric_def def;
    } rows[] = {
        {&u->metrics.serial,
         {"shoal_bundle_serial", "Serial of the bundle that runs; 0: the installed model.", "",
          SHOAL_METRIC_GAUGE, NULL, 0}},
        {&u->metrics.taken,
         {"shoal_bundle_changes_total", "Bundles that were fetched, by what came of them.",
          "result=\"taken\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.refused,
         {"shoal_bundle_changes_total", "Bundles that were fetched, by what came of them.",
          "result=\"refused\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.failed,
         {"shoal_bundle_changes_total", "Bundles that were fetched, by what came of them.",
          "result=\"failed\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.back,
         {"shoal_bundle_changes_total", "Bundles that were fetched, by what came of them.",
          "result=\"rolled_back\"", SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.asks,
         {"shoal_bundle_asks_total", "Times the cloud was asked for a bundle.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.asks_failed,
         {"shoal_bundle_ask_failures_total", "Of those, times it did not come to an end.", "",
          SHOAL_METRIC_COUNTER, NULL, 0}},
        {&u->metrics.bytes,
         {"shoal_bundle_bytes_total", "Bytes of bundles that came.", "", SHOAL_METRIC_COUNTER, NULL,
          0}},
    };
    for (size_t i = 0; metrics && i < SHOAL_COUNT(rows); i++) {
        SHOAL_TRY(shoal_metrics_add(metrics, &rows[i].def, rows[i].slot));
    }
    return SHOAL_OK;
}

static void init_locks(shoal_updater *u)
{
    pthread_condattr_t attr;
    int rc = pthread_mutex_init(&u->lock, NULL);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    rc = pthread_cond_init(&u->wake, &attr);
    SHOAL_ASSERT(rc == 0);
    (void)pthread_condattr_destroy(&attr);
}

shoal_status shoal_updater_new(const shoal_updater_settings *settings, shoal_metrics *metrics,
                               shoal_updater **ret_updater, shoal_err *err)
{
    bool lost = false;
    shoal_updater *u = shoal_calloc(1, sizeof *u);
    if (!u) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    init_locks(u);
    u->settings = *settings;
    u->clock = shoal_clock_real();
    u->phase = "idle";
    shoal_status status = shoal_bundle_keys_read(settings->key_path, &u->keys, err);
    if (status == SHOAL_OK) {
        status = shoal_store_open(settings->folder, &u->store, &lost, err);
    }
    if (status == SHOAL_OK && make_metrics(u, metrics) != SHOAL_OK) {
        status = shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    if (status != SHOAL_OK) {
        shoal_updater_free(u);
        return status;
    }
    if (lost) {
        set_trouble(u, "the state of the fleet could not be read and is begun anew");
    }
    publish(u);
    *ret_updater = u;
    return SHOAL_OK;
}

shoal_status shoal_updater_start(shoal_updater *u, const shoal_updater_hooks *hooks, shoal_err *err)
{
    u->hooks = *hooks;
    u->poll_at_ms = shoal_clock_now_ms(&u->clock) + pause_ms(u, true);
    publish(u);
    shoal_status status =
        shoal_thread_start(SHOAL_ROLE_IO, "shoal-updater", updater_main, u, &u->thread);
    return status == SHOAL_OK ? status : shoal_err_set(err, status, "cannot start a thread");
}

void shoal_updater_stop(shoal_updater *u)
{
    if (!u->thread) {
        return;
    }
    lock(u);
    atomic_store(&u->stop, true);
    (void)pthread_cond_signal(&u->wake);
    unlock(u);
    shoal_thread_join(u->thread);
    u->thread = NULL;
    retire_all(u);
    shoal_store_state next = *shoal_store_state_of(u->store);
    if (next.trial > 1) { /* an orderly end is none that speaks against the bundle */
        next.trial = 1;
        shoal_status status = shoal_store_put(u->store, &next, NULL);
        (void)status;
    }
}

void shoal_updater_free(shoal_updater *u)
{
    if (!u) {
        return;
    }
    shoal_updater_stop(u);
    shoal_store_free(u->store);
    shoal_bundle_keys_free(u->keys);
    (void)pthread_cond_destroy(&u->wake);
    (void)pthread_mutex_destroy(&u->lock);
    shoal_free(u);
}
