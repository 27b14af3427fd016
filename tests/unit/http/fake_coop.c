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

struct shoal_coop {
    pthread_mutex_t mutex;
    generation *all[GENERATIONS_MAX];
    size_t n;
};

fake_script fake_next;
atomic_size_t fake_n_cancelled;
atomic_size_t fake_n_submitted;
atomic_bool fake_link_cut;
atomic_size_t fake_n_grammars;
shoal_coop_request fake_last;
int32_t fake_last_ids[64];
char fake_last_stops[4][64];
shoal_logit_bias fake_last_bias;
char fake_last_session[SHOAL_SESSION_NAME_MAX + 1];

const char *shoal_tier_name(shoal_tier tier)
{
    static const char *const names[SHOAL_TIERS] = {"exit", "edge", "cloud"};
    return names[tier];
}

static void say_end(generation *g, size_t n_said, bool failed, shoal_finish finish)
{
    shoal_usage usage = {.n_prompt = g->n_prompt,
                         .n_cached = g->n_prompt - 1,
                         .n_kept = 3,
                         .n_fed = 2,
                         .n_generated = n_said,
                         .n_by_tier = {[SHOAL_TIER_EDGE] = n_said},
                         .n_drafted = 7,
                         .n_accepted = 5,
                         .n_rounds = 2,
                         .bytes_up = 61,
                         .bytes_down = 48,
                         .round_up_max = 31,
                         .round_down_max = 24,
                         .first_token_ms = 4,
                         .total_ms = 4 + (double)n_said};
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
    (void)session;
    return mode == SHOAL_MODE_CLOUD
               ? shoal_err_set(err, SHOAL_E_UNSUPPORTED, "a session in mode cloud")
               : SHOAL_OK;
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
    shoal_free(coop);
}
