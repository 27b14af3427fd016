/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_coop.h"

#include "common/base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    GENERATIONS_MAX = 512
};

typedef struct generation {
    uint64_t id;
    fake_script script;
    size_t n;
    size_t n_prompt;
    shoal_coop_score *scores;
    shoal_coop_top *tops;
    size_t n_tops;
    void (*on_event)(void *ctx, const shoal_coop_event *event);
    void *ctx;
    atomic_bool cancelled;
    pthread_t thread;
} generation;

/* The one session that the fake keeps. */
typedef struct fake_session {
    char name[SHOAL_SESSION_NAME_MAX + 1];
    shoal_session_copy *copy;
} fake_session;

struct shoal_coop {
    pthread_mutex_t mutex;
    fake_session session;
    generation *all[GENERATIONS_MAX];
    size_t n;
};

fake_script fake_next;
const shoal_session_identity fake_identity = {.model.bytes = {1},
                                              .tokenizer.bytes = {2},
                                              .form = "a form",
                                              .n_layers = 2,
                                              .first_bytes = 64,
                                              .layer_bytes = 32,
                                              .n_vocab = 300,
                                              .n_tokens_max = 1 << 20};
shoal_status fake_session_code;
atomic_size_t fake_n_cancelled;
atomic_size_t fake_n_submitted;
atomic_bool fake_link_cut;
const shoal_adapter *fake_adapters;
size_t fake_n_adapters;
atomic_size_t fake_n_grammars;
shoal_coop_request fake_last;
int32_t fake_last_ids[64];
char fake_last_stops[4][64];
shoal_logit_bias fake_last_bias;
char fake_last_session[SHOAL_SESSION_NAME_MAX + 1];

shoal_session_copy *fake_copy(size_t n_ids)
{
    size_t n_blocks = n_ids / SHOAL_KV_BLOCK;
    size_t n_bytes = n_blocks * 64 + 64;
    shoal_session_copy *copy = shoal_calloc(1, sizeof *copy);
    SHOAL_ASSERT(copy != NULL);
    copy->n_ids = n_ids;
    copy->ids = shoal_calloc(n_ids, sizeof *copy->ids);
    copy->blocks = shoal_calloc(n_bytes, 1);
    SHOAL_ASSERT(copy->ids && copy->blocks);
    for (size_t i = 0; i < n_ids; i++) {
        copy->ids[i] = (int32_t)(i * 7 % 300);
    }
    for (size_t i = 0; i < n_bytes; i++) {
        copy->blocks[i] = (uint8_t)(i * 31 + 5);
    }
    return copy;
}

const char *shoal_tier_name(shoal_tier tier)
{
    static const char *const names[SHOAL_TIERS] = {"exit", "edge", "cloud"};
    return names[tier];
}

const char *shoal_unassisted_name(shoal_unassisted why)
{
    static const char *const names[SHOAL_UNASSISTED_KINDS] = {"", "away", "budget"};
    return names[why];
}

static void say_end(generation *g, size_t n_said, bool failed, shoal_finish finish)
{
    shoal_usage usage = {.n_prompt = g->n_prompt,
                         .n_cached = g->n_prompt - 1,
                         .n_kept = 3,
                         .n_fed = 2,
                         .n_generated = n_said,
                         .n_by_tier = {[SHOAL_TIER_EDGE] = n_said},
                         .n_unassisted = {n_said > 0},
                         .n_drafted = 7,
                         .n_accepted = 5,
                         .n_rounds = 2,
                         .bytes_up = 61,
                         .bytes_down = 48,
                         .round_up_max = 31,
                         .round_down_max = 24,
                         .first_token_ms = 4,
                         .total_ms = 4 + (double)n_said};
    usage.n_unassisted[g->script.unassisted] += n_said - (n_said > 0);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_coop_event event = {.kind = SHOAL_COOP_DONE,
                              .request = g->id,
                              .finish = finish,
                              .usage = &usage,
                              .error = &err};
    if (failed) {
        event.kind = SHOAL_COOP_ERROR;
        (void)shoal_err_set(&err, g->script.fail_code, "the script says so");
    }
    g->on_event(g->ctx, &event);
}

static void score(generation *g, size_t i)
{
    if (!g->scores) {
        return;
    }
    g->scores[g->n_prompt + i] = (shoal_coop_score){
        .id = (int32_t)(100 + i), .top_id = 90, .logprob = -0.5F, .top_logprob = -0.25F};
    for (size_t k = 0; k < g->n_tops; k++) {
        g->tops[(g->n_prompt + i) * g->n_tops + k] =
            (shoal_coop_top){.id = (int32_t)(90 + k), .logprob = -0.25F * (float)(k + 1)};
    }
}

static void speak(generation *g)
{
    const char *text = g->script.text ? g->script.text : "w";
    for (size_t i = 0; i < g->n; i++) {
        if (g->script.pause_us > 0) {
            struct timespec pause = {.tv_sec = g->script.pause_us / 1000000,
                                     .tv_nsec = (long)(g->script.pause_us % 1000000) * 1000};
            (void)nanosleep(&pause, NULL);
        }
        if (atomic_load(&g->cancelled)) {
            atomic_fetch_add(&fake_n_cancelled, 1);
            say_end(g, i, false, SHOAL_FINISH_CANCELLED);
            return;
        }
        if (i == g->script.fail_at) {
            say_end(g, i, true, SHOAL_FINISH_STOP);
            return;
        }
        score(g, i);
        shoal_coop_event event = {.kind = SHOAL_COOP_TOKEN,
                                  .request = g->id,
                                  .id = (int32_t)(100 + i),
                                  .tier = SHOAL_TIER_EDGE,
                                  .unassisted = i > 0 ? g->script.unassisted : 0,
                                  .confidence = 0.93F,
                                  .round = 3,
                                  .text = text,
                                  .n_text = strlen(text)};
        g->on_event(g->ctx, &event);
    }
    say_end(g, g->n, false, SHOAL_FINISH_LENGTH);
}

static void *run(void *ctx)
{
    speak(ctx);
    return NULL;
}

shoal_status shoal_coop_submit(shoal_coop *coop, const shoal_coop_request *request,
                               uint64_t *ret_id, shoal_err *err)
{
    if (fake_next.submit_code != SHOAL_OK) {
        return shoal_err_set(err, fake_next.submit_code, "the script says so");
    }
    generation *g = shoal_calloc(1, sizeof *g);
    if (!g) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory");
    }
    fake_last = *request;
    for (size_t i = 0; i < request->n_ids && i < 64; i++) {
        fake_last_ids[i] = request->ids[i];
    }
    for (size_t i = 0; i < request->n_stops && i < 4; i++) {
        (void)snprintf(fake_last_stops[i], sizeof fake_last_stops[i], "%s", request->stops[i]);
    }
    (void)snprintf(fake_last_session, sizeof fake_last_session, "%s",
                   request->session ? request->session : "");
    if (request->sampling.n_biases > 0) {
        fake_last_bias = request->sampling.biases[0];
    }
    g->script = fake_next;
    g->n = SHOAL_MIN(g->script.n_tokens, request->n_tokens_max);
    g->n_prompt = request->n_ids;
    g->scores = request->scores;
    g->tops = request->tops;
    g->n_tops = request->n_tops;
    g->on_event = request->on_event;
    g->ctx = request->ctx;
    (void)pthread_mutex_lock(&coop->mutex);
    SHOAL_ASSERT(coop->n < GENERATIONS_MAX);
    g->id = coop->n + 1;
    coop->all[coop->n++] = g;
    (void)pthread_mutex_unlock(&coop->mutex);
    *ret_id = g->id;
    if (request->take_grammar) {
        atomic_fetch_add(&fake_n_grammars, 1);
        shoal_grammar_free(request->take_grammar);
    }
    atomic_fetch_add(&fake_n_submitted, 1);
    if (g->script.inside) {
        speak(g);
    } else {
        int rc = pthread_create(&g->thread, NULL, run, g);
        SHOAL_ASSERT(rc == 0);
    }
    return SHOAL_OK;
}

shoal_status shoal_coop_check_session(const shoal_coop *coop, const char *session, shoal_mode mode,
                                      shoal_err *err)
{
    (void)coop;
    if (mode == SHOAL_MODE_CLOUD) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "a session in mode cloud");
    }
    return shoal_session_name_ok(session, strlen(session))
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_INVALID, "no name");
}

const shoal_session_identity *shoal_coop_session_identity(const shoal_coop *coop)
{
    (void)coop;
    return &fake_identity;
}

shoal_status shoal_coop_session(shoal_coop *coop, const shoal_session_order *order, shoal_err *err)
{
    if (fake_session_code != SHOAL_OK) {
        return shoal_err_set(err, fake_session_code, "the script says so");
    }
    shoal_err failure = SHOAL_ERR_INIT;
    shoal_session_info info = {.n_bytes = 4096};
    shoal_session_done done = {.error = &failure, .list = &info, .n_list = 1};
    fake_session *s = &coop->session;
    if (order->act == SHOAL_SESSION_LOAD) {
        shoal_session_copy_free(s->copy);
        s->copy = order->take_copy;
        (void)snprintf(s->name, sizeof s->name, "%s", order->name);
    }
    bool all = order->act == SHOAL_SESSION_LIST;
    bool known = s->copy && (all || strcmp(s->name, order->name) == 0);
    if (known) {
        info.n_tokens = s->copy->n_ids;
        memcpy(info.name, s->name, sizeof info.name);
    } else {
        done.n_list = 0;
    }
    if (!known && !all) {
        (void)shoal_err_set(&failure, SHOAL_E_NOTFOUND, "no session %s", order->name);
    }
    if (known && order->act == SHOAL_SESSION_SAVE) {
        done.copy = fake_copy(s->copy->n_ids);
    }
    if (known && order->act == SHOAL_SESSION_DROP) {
        shoal_session_copy_free(s->copy);
        s->copy = NULL;
    }
    order->on_done(order->ctx, &done);
    shoal_session_copy_free(done.copy);
    return SHOAL_OK;
}

void shoal_coop_cancel(shoal_coop *coop, uint64_t id)
{
    (void)pthread_mutex_lock(&coop->mutex);
    if (id >= 1 && id <= coop->n) {
        atomic_store(&coop->all[id - 1]->cancelled, true);
    }
    (void)pthread_mutex_unlock(&coop->mutex);
}

void shoal_coop_state_get(shoal_coop *coop, shoal_coop_state *ret_state)
{
    (void)coop;
    *ret_state = (shoal_coop_state){.cloud_configured = true,
                                    .link = SHOAL_RPC_LINK_READY,
                                    .cloud_described = true,
                                    .kv_pages = 64,
                                    .kv_tokens_max = 2048,
                                    .link_cut = atomic_load(&fake_link_cut),
                                    .round_trip_ms = 41.256,
                                    .speculation = {.n_draft = 6,
                                                    .n_window = 18,
                                                    .acceptance = 0.8125,
                                                    .edge_token_ms = 1.2345,
                                                    .price = 0.25},
                                    .totals = {.n_by_tier = {[SHOAL_TIER_EDGE] = 9},
                                               .n_unassisted = 2,
                                               .n_rounds = 3,
                                               .n_cloud_steps = 4,
                                               .bytes_up = 61},
                                    .cloud = {.name = "big", .n_vocab = 300, .n_ctx = 4096}};
}

void shoal_coop_cut_link(shoal_coop *coop, bool cut)
{
    (void)coop;
    atomic_store(&fake_link_cut, cut);
}

const shoal_adapter *shoal_coop_adapters(const shoal_coop *coop, size_t *ret_n)
{
    (void)coop;
    *ret_n = fake_n_adapters;
    return fake_adapters;
}

size_t shoal_coop_n_ctx(const shoal_coop *coop)
{
    (void)coop;
    return fake_next.n_ctx ? fake_next.n_ctx : 1000;
}

shoal_coop *fake_coop_new(void)
{
    shoal_coop *coop = shoal_calloc(1, sizeof *coop);
    SHOAL_ASSERT(coop != NULL);
    (void)pthread_mutex_init(&coop->mutex, NULL);
    fake_next = (fake_script){.n_tokens = 5, .fail_at = SIZE_MAX};
    fake_session_code = SHOAL_OK;
    atomic_store(&fake_n_cancelled, 0);
    atomic_store(&fake_n_submitted, 0);
    atomic_store(&fake_link_cut, false);
    atomic_store(&fake_n_grammars, 0);
    return coop;
}

void fake_coop_free(shoal_coop *coop)
{
    for (size_t i = 0; i < coop->n; i++) {
        atomic_store(&coop->all[i]->cancelled, true); /* nobody waits for the rest */
        if (!coop->all[i]->script.inside) {
            (void)pthread_join(coop->all[i]->thread, NULL);
        }
        shoal_free(coop->all[i]);
    }
    (void)pthread_mutex_destroy(&coop->mutex);
    shoal_session_copy_free(coop->session.copy);
    shoal_free(coop);
}
