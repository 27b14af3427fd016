/* SPDX-License-Identifier: Apache-2.0
 *
 * The thread that owns the sockets, and calls between it and the engine thread. A call is held by
 * both and by its events; the last one frees it.
 */
#include "cloud/upstream/upstream_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/thread.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    ERROR_BODY_MAX = 64 << 10, /* of an answer that is an error; the rest is passed over */
    EVENTS_MAX = 1024,         /* of one call, not yet popped */
    LOOK_MS = 200,             /* how often silences are looked at */
    REST_MS = 60000,           /* nothing under way */
    RETRY_AFTER_S_MAX = 3600
};

struct shoal_upstream_call {
    atomic_int refs;
    shoal_upstream *up;
    void *user;
    atomic_bool dropped;
    atomic_uint n_events;
    shoal_buf body;
    int32_t *ids; /* drafts included; kept only for drafts */
    size_t n_ids;
    size_t n_drafts;
    uint64_t start_at_ms;
    /* the client's thread */
    struct shoal_upstream_call *next;
    CURL *easy;       /* NULL: not yet begun */
    long http_status; /* 0: no answer yet */
    uint64_t last_ms; /* of the last byte */
    bool silent;      /* aborted for it */
    shoal_err error;  /* why a write callback ended it */
    upstream_stream stream;
    shoal_buf answer;
    shoal_upstream_event last; /* what must not fail needs no memory */
};

struct shoal_upstream {
    upstream_site site;
    shoal_clock clock;
    CURLM *multi;
    shoal_thread *thread;
    atomic_bool stopping;
    atomic_size_t n_calls;
    void (*wake)(void *ctx);
    void *wake_ctx;
    shoal_upstream_call *calls; /* the client's thread */
    pthread_mutex_t lock;       /* what follows */
    shoal_upstream_call *incoming;
    shoal_upstream_event *head; /* oldest */
    shoal_upstream_event *tail;
};

/* --- calls and events ------------------------------------------------------------------------- */

static void call_unref(shoal_upstream_call *call)
{
    if (atomic_fetch_sub(&call->refs, 1) == 1) {
        shoal_upstream_stream_fini(&call->stream);
        shoal_buf_fini(&call->body);
        shoal_buf_fini(&call->answer);
        shoal_free(call->ids);
        shoal_free(call);
    }
}

void shoal_upstream_event_free(shoal_upstream_event *event)
{
    if (event == NULL) {
        return;
    }
    shoal_upstream_call *call = event->call;
    atomic_fetch_sub(&call->n_events, 1);
    if (event != &call->last) {
        shoal_free(event);
    }
    call_unref(call);
}

static void post(shoal_upstream_call *call, shoal_upstream_event *event)
{
    shoal_upstream *up = call->up;
    event->next = NULL;
    event->call = call;
    event->user = call->user;
    atomic_fetch_add(&call->refs, 1);
    atomic_fetch_add(&call->n_events, 1);
    (void)pthread_mutex_lock(&up->lock);
    if (up->tail != NULL) {
        up->tail->next = event;
    } else {
        up->head = event;
    }
    up->tail = event;
    (void)pthread_mutex_unlock(&up->lock);
    if (up->wake != NULL) {
        up->wake(up->wake_ctx);
    }
}

shoal_upstream_event *shoal_upstream_pop(shoal_upstream *up)
{
    for (;;) {
        (void)pthread_mutex_lock(&up->lock);
        shoal_upstream_event *event = up->head;
        if (event != NULL) {
            up->head = event->next;
            up->tail = up->head == NULL ? NULL : up->tail;
        }
        (void)pthread_mutex_unlock(&up->lock);
        if (event == NULL || !atomic_load(&event->call->dropped)) {
            return event;
        }
        shoal_upstream_event_free(event);
    }
}

/* --- ends of a call --------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void post_failed(shoal_upstream_call *call,
                                                              shoal_upstream_failure failure,
                                                              uint64_t retry_after_ms,
                                                              const char *format, ...)
{
    shoal_upstream_event *event = &call->last;
    *event = (shoal_upstream_event){
        .kind = SHOAL_UPSTREAM_FAILED, .failure = failure, .retry_after_ms = retry_after_ms};
    va_list args;
    va_start(args, format);
    (void)vsnprintf(event->text, sizeof(event->text), format, args);
    va_end(args);
    post(call, event);
}

/* What the engine's status says about trying again. */
static shoal_upstream_failure failure_of(long status)
{
    if (status == 429 || status == 503) {
        return SHOAL_UPSTREAM_FAIL_BUSY;
    }
    if (status >= 500 || status == 408) {
        return SHOAL_UPSTREAM_FAIL_LINK;
    }
    bool setup = status == 401 || status == 403 || status == 404 || status < 400;
    return setup ? SHOAL_UPSTREAM_FAIL_SETUP : SHOAL_UPSTREAM_FAIL_REQUEST;
}

static const char *remedy_of(shoal_upstream_failure failure, long status)
{
    switch (failure) {
    case SHOAL_UPSTREAM_FAIL_SETUP:
        return status == 404
                   ? "check upstream.url and upstream.model"
                   : (status < 400 ? "check upstream.url" : "check upstream.api_key_file");
    case SHOAL_UPSTREAM_FAIL_BUSY:
        return "lower upstream.connections_max, or give the engine more room";
    case SHOAL_UPSTREAM_FAIL_REQUEST:
        return "see the engine's limits";
    case SHOAL_UPSTREAM_FAIL_LINK:
    default:
        return "see the engine's log";
    }
}

static void fail_status(shoal_upstream_call *call)
{
    curl_off_t after_s = 0;
    if (curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &after_s) != CURLE_OK || after_s < 0) {
        after_s = 0;
    }
    after_s = SHOAL_MIN(after_s, (curl_off_t)RETRY_AFTER_S_MAX);
    char words[161];
    shoal_reply_error_text(call->answer.data, call->answer.length, words, sizeof(words));
    shoal_upstream_failure failure = failure_of(call->http_status);
    post_failed(call, failure, (uint64_t)after_s * 1000u, "upstream %.80s: HTTP %ld%s%.120s; %s",
                call->up->site.url, call->http_status, words[0] != '\0' ? ": " : "", words,
                remedy_of(failure, call->http_status));
}

static void fail_link(shoal_upstream_call *call, const char *why)
{
    post_failed(call, SHOAL_UPSTREAM_FAIL_LINK, 0, "upstream %.80s: %s", call->up->site.url, why);
}

/* A whole answer of status 200. */
static void take_answer(shoal_upstream_call *call)
{
    shoal_upstream_event *event = &call->last;
    if (call->n_drafts == 0) {
        if (shoal_upstream_stream_finish(&call->stream) != SHOAL_OK) {
            fail_link(call, call->stream.error.text);
            return;
        }
        *event = (shoal_upstream_event){.kind = SHOAL_UPSTREAM_END};
        post(call, event);
        return;
    }
    const upstream_site *site = &call->up->site;
    shoal_reply_score scores[SHOAL_SPEC_SPAN_MAX];
    shoal_err err = SHOAL_ERR_INIT;
    *event = (shoal_upstream_event){.kind = SHOAL_UPSTREAM_VERDICT};
    if (shoal_reply_scores_read(call->answer.data, call->answer.length, site->abilities.scores,
                                site->tokenizer, call->ids, call->n_ids, call->n_drafts, scores,
                                &err) != SHOAL_OK ||
        shoal_upstream_judge(site->tokenizer, call->ids + call->n_ids - call->n_drafts,
                             call->n_drafts, scores, &event->verdict, &err) != SHOAL_OK) {
        fail_link(call, err.text);
        return;
    }
    post(call, event);
}

static void end_call(shoal_upstream_call *call, CURLcode code)
{
    if (atomic_load(&call->dropped)) {
        return;
    }
    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->http_status);
    if (call->silent) {
        char text[96];
        (void)snprintf(text, sizeof(text), "silent for %llu ms (upstream.silence_ms)",
                       (unsigned long long)call->up->site.settings.silence_ms);
        fail_link(call, text);
    } else if (call->error.code != SHOAL_OK) {
        fail_link(call, call->error.text);
    } else if (code != CURLE_OK) {
        fail_link(call, curl_easy_strerror(code));
    } else if (call->http_status != 200) {
        fail_status(call);
    } else {
        take_answer(call);
    }
}

/* --- bytes ------------------------------------------------------------------------------------ */

static shoal_status on_tokens(void *ctx, const shoal_sampled *tokens, size_t n)
{
    shoal_upstream_call *call = ctx;
    shoal_upstream_event *event = shoal_calloc(1, sizeof(*event));
    if (event == NULL || atomic_load(&call->n_events) >= EVENTS_MAX) {
        shoal_free(event);
        return SHOAL_E_NOMEM;
    }
    event->kind = SHOAL_UPSTREAM_TOKENS;
    event->n_ids = n;
    memcpy(event->tokens, tokens, n * sizeof(*tokens));
    post(call, event);
    return SHOAL_OK;
}

static shoal_status take_bytes(shoal_upstream_call *call, const char *bytes, size_t n)
{
    if (call->http_status != 200) {
        size_t room = ERROR_BODY_MAX - SHOAL_MIN(call->answer.length, (size_t)ERROR_BODY_MAX);
        return shoal_buf_append(&call->answer, bytes, SHOAL_MIN(n, room));
    }
    if (call->n_drafts == 0) {
        shoal_status status = shoal_upstream_stream_push(&call->stream, bytes, n);
        if (status != SHOAL_OK) {
            call->error = call->stream.error;
        }
        return status;
    }
    if (n > SHOAL_REPLY_BYTES_MAX - call->answer.length) {
        return shoal_err_set(&call->error, SHOAL_E_LIMIT,
                             "an answer with log-probabilities of more than %d bytes",
                             (int)SHOAL_REPLY_BYTES_MAX);
    }
    return shoal_buf_append(&call->answer, bytes, n);
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *ctx)
{
    shoal_upstream_call *call = ctx;
    n *= size;
    if (atomic_load(&call->dropped)) {
        return 0;
    }
    call->last_ms = shoal_clock_now_ms(&call->up->clock);
    if (call->http_status == 0) {
        (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->http_status);
    }
    if (take_bytes(call, bytes, n) != SHOAL_OK) {
        if (call->error.code == SHOAL_OK) {
            (void)shoal_err_set(&call->error, SHOAL_E_NOMEM, "out of memory for an answer");
        }
        return n == 0 ? 1 : 0; /* anything but n aborts */
    }
    return n;
}

/* --- the thread ------------------------------------------------------------------------------- */

static bool begin(shoal_upstream_call *call, uint64_t now_ms)
{
    shoal_upstream *up = call->up;
    call->easy = shoal_upstream_handle(&up->site, up->site.completions);
    if (call->easy == NULL) {
        return false;
    }
    call->last_ms = now_ms;
    return curl_easy_setopt(call->easy, CURLOPT_POST, 1L) == CURLE_OK &&
           curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE,
                            (curl_off_t)call->body.length) == CURLE_OK &&
           curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body.data) == CURLE_OK &&
           curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_bytes) == CURLE_OK &&
           curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
           curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call) == CURLE_OK &&
           curl_multi_add_handle(up->multi, call->easy) == CURLM_OK;
}

/* Takes the call out of the thread's list; at points to it. */
static void forget(shoal_upstream *up, shoal_upstream_call **at)
{
    shoal_upstream_call *call = *at;
    *at = call->next;
    if (call->easy != NULL) {
        (void)curl_multi_remove_handle(up->multi, call->easy);
        curl_easy_cleanup(call->easy);
        call->easy = NULL;
    }
    atomic_fetch_sub(&up->n_calls, 1);
    call_unref(call);
    if (up->wake != NULL) {
        up->wake(up->wake_ctx); /* a place is free */
    }
}

static void take_incoming(shoal_upstream *up)
{
    (void)pthread_mutex_lock(&up->lock);
    shoal_upstream_call *list = up->incoming;
    up->incoming = NULL;
    (void)pthread_mutex_unlock(&up->lock);
    while (list != NULL) {
        shoal_upstream_call *next = list->next;
        list->next = up->calls;
        up->calls = list;
        list = next;
    }
}

/* Begins what is due, ends what was dropped or is silent. Returns how long to rest at most. */
static uint64_t look_at_calls(shoal_upstream *up, uint64_t now_ms)
{
    uint64_t rest = REST_MS;
    shoal_upstream_call **at = &up->calls;
    while (*at != NULL) {
        shoal_upstream_call *call = *at;
        if (atomic_load(&call->dropped)) {
            forget(up, at);
            continue;
        }
        if (call->easy == NULL && now_ms < call->start_at_ms) {
            rest = SHOAL_MIN(rest, call->start_at_ms - now_ms);
            at = &call->next;
            continue;
        }
        if (call->easy == NULL && !begin(call, now_ms)) {
            fail_link(call, "out of memory for a request");
            forget(up, at);
            continue;
        }
        call->silent = now_ms - SHOAL_MIN(call->last_ms, now_ms) >= up->site.settings.silence_ms;
        if (call->silent) {
            end_call(call, CURLE_OPERATION_TIMEDOUT);
            forget(up, at);
            continue;
        }
        rest = SHOAL_MIN(rest, (uint64_t)LOOK_MS);
        at = &call->next;
    }
    return rest;
}

static void take_ended(shoal_upstream *up)
{
    int n_left = 0;
    for (CURLMsg *m = NULL; (m = curl_multi_info_read(up->multi, &n_left)) != NULL;) {
        if (m->msg != CURLMSG_DONE) {
            continue;
        }
        CURLcode code = m->data.result;
        void *private = NULL;
        (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
        shoal_upstream_call **at = &up->calls;
        while (*at != NULL && *at != private) {
            at = &(*at)->next;
        }
        SHOAL_ASSERT(*at != NULL); /* each handle is of a call in the list */
        end_call(*at, code);
        forget(up, at);
    }
}

static void client_main(void *ctx)
{
    shoal_upstream *up = ctx;
    while (!atomic_load(&up->stopping)) {
        take_incoming(up);
        uint64_t rest = look_at_calls(up, shoal_clock_now_ms(&up->clock));
        int n_running = 0;
        (void)curl_multi_perform(up->multi, &n_running);
        take_ended(up);
        (void)curl_multi_poll(up->multi, NULL, 0, (int)rest, NULL);
    }
    take_incoming(up);
    while (up->calls != NULL) {
        forget(up, &up->calls);
    }
}

/* --- the engine thread ------------------------------------------------------------------------ */

enum {
    SCORE_BYTES = 128 /* of an answer for one token of a prompt, generously */
};

bool shoal_upstream_can_judge(const shoal_upstream *up, const shoal_upstream_ask *ask)
{
    return up->site.abilities.scores != SHOAL_SCORES_NONE &&
           shoal_sampling_is_greedy(ask->sampling) && ask->n_drafts < SHOAL_SPEC_SPAN_MAX &&
           ask->n_ids + ask->n_drafts <= SHOAL_REPLY_BYTES_MAX / SCORE_BYTES;
}

static shoal_status fill(shoal_upstream_call *call, const shoal_upstream_ask *ask, shoal_err *err)
{
    const upstream_site *site = &call->up->site;
    bool judge = ask->n_drafts > 0;
    shoal_sampling greedy = shoal_sampling_default();
    greedy.temperature = 0.0f;
    upstream_body body = {.ids = ask->ids,
                          .n_ids = ask->n_ids + ask->n_drafts,
                          .n_max = judge ? 1 : ask->n_max,
                          .sampling = judge ? &greedy : ask->sampling,
                          .stream = !judge,
                          .scores = judge ? site->abilities.scores : SHOAL_SCORES_NONE};
    SHOAL_TRY(shoal_upstream_body_put(site, &body, &call->body, err));
    call->n_drafts = ask->n_drafts;
    if (!judge) {
        upstream_sink sink = {.on_tokens = on_tokens, .ctx = call};
        return shoal_upstream_stream_init(&call->stream, site, ask->n_max, sink);
    }
    call->n_ids = body.n_ids;
    call->ids = shoal_calloc(body.n_ids, sizeof(*call->ids));
    if (call->ids == NULL) {
        return SHOAL_E_NOMEM;
    }
    memcpy(call->ids, ask->ids, body.n_ids * sizeof(*call->ids));
    return SHOAL_OK;
}

shoal_status shoal_upstream_start(shoal_upstream *up, const shoal_upstream_ask *ask,
                                  shoal_upstream_call **ret_call, shoal_err *err)
{
    SHOAL_ASSERT(ask->n_ids > 0 && (ask->n_drafts > 0 || ask->n_max > 0));
    if (atomic_fetch_add(&up->n_calls, 1) >= up->site.settings.n_calls_max) {
        atomic_fetch_sub(&up->n_calls, 1);
        return SHOAL_BUSY;
    }
    shoal_upstream_call *call = shoal_calloc(1, sizeof(*call));
    shoal_status status = SHOAL_E_NOMEM;
    if (call != NULL) {
        atomic_init(&call->refs, 1);
        call->up = up;
        call->user = ask->user;
        call->start_at_ms = shoal_clock_now_ms(&up->clock) + ask->delay_ms;
        status = fill(call, ask, err);
    }
    if (status != SHOAL_OK) {
        if (call != NULL) {
            call_unref(call);
        }
        atomic_fetch_sub(&up->n_calls, 1);
        return status == SHOAL_E_NOMEM
                   ? shoal_err_set(err, status, "out of memory for an upstream request")
                   : status;
    }
    atomic_fetch_add(&call->refs, 1); /* the thread's */
    (void)pthread_mutex_lock(&up->lock);
    call->next = up->incoming;
    up->incoming = call;
    (void)pthread_mutex_unlock(&up->lock);
    (void)curl_multi_wakeup(up->multi);
    *ret_call = call;
    return SHOAL_OK;
}

void shoal_upstream_drop(shoal_upstream_call *call)
{
    atomic_store(&call->dropped, true);
    (void)curl_multi_wakeup(call->up->multi);
    call_unref(call);
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status start_thread(shoal_upstream *up)
{
    up->multi = curl_multi_init();
    if (up->multi == NULL || curl_multi_setopt(up->multi, CURLMOPT_MAXCONNECTS,
                                               (long)up->site.settings.n_calls_max) != CURLM_OK) {
        return SHOAL_E_NOMEM;
    }
    return shoal_thread_start(SHOAL_ROLE_IO, "shoal-upstream", client_main, up, &up->thread);
}

shoal_status shoal_upstream_new(const shoal_upstream_settings *settings,
                                const shoal_tokenizer *tokenizer, shoal_upstream **ret_upstream,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_upstream_freep) shoal_upstream *up = shoal_calloc(1, sizeof(*up));
    if (up == NULL || pthread_mutex_init(&up->lock, NULL) != 0) {
        shoal_free(SHOAL_STEAL(up));
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the upstream client");
    }
    up->clock = shoal_clock_real();
    shoal_reply_init();
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "libcurl cannot be initialised");
    }
    SHOAL_TRY(shoal_upstream_site_init(&up->site, settings, tokenizer, err));
    SHOAL_TRY(shoal_upstream_probe(&up->site, err));
    shoal_status status = start_thread(up);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "cannot start the upstream client: %s",
                             shoal_status_text(status));
    }
    *ret_upstream = SHOAL_STEAL(up);
    return SHOAL_OK;
}

void shoal_upstream_free(shoal_upstream *up)
{
    if (up == NULL) {
        return;
    }
    if (up->thread != NULL) {
        atomic_store(&up->stopping, true);
        (void)curl_multi_wakeup(up->multi);
        shoal_thread_join(up->thread);
    }
    while (up->head != NULL) {
        shoal_upstream_event *event = up->head;
        up->head = event->next;
        shoal_upstream_event_free(event);
    }
    if (up->multi != NULL) {
        (void)curl_multi_cleanup(up->multi);
    }
    shoal_upstream_site_fini(&up->site);
    (void)pthread_mutex_destroy(&up->lock);
    shoal_free(up);
}

const shoal_upstream_abilities *shoal_upstream_abilities_get(const shoal_upstream *up)
{
    return &up->site.abilities;
}

size_t shoal_upstream_n_calls_max(const shoal_upstream *up)
{
    return up->site.settings.n_calls_max;
}

size_t shoal_upstream_n_free(const shoal_upstream *up)
{
    size_t n_max = up->site.settings.n_calls_max;
    return n_max - SHOAL_MIN(atomic_load(&up->n_calls), n_max);
}

const shoal_tokenizer *shoal_upstream_tokenizer(const shoal_upstream *up)
{
    return up->site.tokenizer;
}

const char *shoal_upstream_url(const shoal_upstream *up)
{
    return up->site.url;
}

void shoal_upstream_set_wake(shoal_upstream *up, void (*wake)(void *ctx), void *ctx)
{
    up->wake = wake;
    up->wake_ctx = ctx;
}
