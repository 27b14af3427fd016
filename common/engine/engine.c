/* SPDX-License-Identifier: Apache-2.0 */
#include "common/engine/engine.h"

#include "common/base/crc32c.h"
#include "common/base/mem.h"
#include "common/model/forward.h"

#include <stdio.h>
#include <string.h>

/* How far a span has come within a step. */
typedef struct course {
    size_t end;   /* its length after the step */
    size_t from;  /* first position of its rows in the segment under way */
    size_t row_i; /* of these rows, the first in the pass */
    bool on;      /* has not left */
} course;

struct shoal_engine {
    const shoal_model *model;
    shoal_engine_settings settings; /* resolved: no zero or negative defaults left */
    shoal_kernels kernels;
    shoal_pool *pool;
    shoal_kv_pool *kv;
    shoal_forward *forward;
    shoal_row *rows;          /* (n_rows_max) */
    size_t *logits_rows;      /* (n_logits_max) row of each wanted logits */
    const float **states;     /* (n_rows_max) hidden states that go on */
    course *courses;          /* (n_rows_max) of the step's spans */
    const shoal_lora **loras; /* (n_loras_max) of the step under way */
    char kv_form[16];
};

shoal_engine_settings shoal_engine_settings_default(void)
{
    return (shoal_engine_settings){
        .n_threads = 2,
        .cpu_mask = SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512,
        .n_ctx = 0,
        .kv_bytes = (size_t)256 << 20,
        .kv_type = -1,
        .n_rows_max = 512,
        .n_logits_max = 64,
        .n_loras_max = 0,
        .lora_rank_max = 64,
    };
}

static shoal_status resolve(shoal_engine *engine, shoal_err *err)
{
    shoal_engine_settings *s = &engine->settings;
    const shoal_model *model = engine->model;
    if (s->n_ctx == 0) {
        s->n_ctx = model->hp.n_ctx;
    }
    if (s->n_ctx > model->hp.n_ctx) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a context of %zu tokens is more than the model was made for (%zu)",
                             s->n_ctx, model->hp.n_ctx);
    }
    if (s->n_rows_max < 1 || s->n_rows_max > 65536 || s->n_logits_max < 1 ||
        s->n_logits_max > s->n_rows_max) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a step of %zu rows with %zu logits: take 1 to 65536 rows, and at "
                             "most as many logits",
                             s->n_rows_max, s->n_logits_max);
    }
    if (s->n_loras_max > SHOAL_ENGINE_LORAS_MAX || s->lora_rank_max < 1 ||
        s->lora_rank_max > SHOAL_LORA_RANK_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%zu adapters of rank %zu in a step: take 0 to %d, of rank 1 to %d",
                             s->n_loras_max, s->lora_rank_max, (int)SHOAL_ENGINE_LORAS_MAX,
                             (int)SHOAL_LORA_RANK_MAX);
    }
    if (s->kv_type >= SHOAL_KV_TYPES) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV type %d is not one of %d to %d", s->kv_type,
                             (int)SHOAL_KV_F32, SHOAL_KV_TYPES - 1);
    }
    if (s->kv_type < 0) {
        s->kv_type = model->main_type == SHOAL_TYPE_F32 ? SHOAL_KV_F32 : SHOAL_KV_F16;
    }
    if (s->kv_evict && model->hp.mla.rank > 0) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "KV of a model with latent attention (MLA) cannot be evicted (%s): run "
            "it without",
            s->kv_evict->name);
    }
    if (s->kv_hadamard && model->hp.mla.rank > 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "KV of a model with latent attention (MLA) has no heads that could be "
                             "multiplied by Hadamard matrices: run it without");
    }
    return SHOAL_OK;
}

/* What people are told. */
static void name_form(shoal_engine *engine, const shoal_kv_shape *shape)
{
    char types[SHOAL_KV_TYPES_BYTES] = "";
    char words[SHOAL_KV_TYPES_BYTES + 32];
    char evict[24] = "";
    (void)shoal_kv_types_text(shape, types); /* what has no room the pool refuses */
    if (shape->evict) {
        (void)snprintf(evict, sizeof evict, "-%s%zu", shape->evict->name, shape->budget);
    }
    (void)snprintf(words, sizeof words, "%s%s%s", shape->hadamard ? "h-" : "", types, evict);
    if (shape->types || strlen(words) >= sizeof engine->kv_form) {
        (void)snprintf(engine->kv_form, sizeof engine->kv_form, "%s-%08x",
                       shape->types ? "mixed" : "form", shoal_crc32c(0, words, strlen(words)));
    } else {
        memcpy(engine->kv_form, words, strlen(words) + 1);
    }
}

static shoal_status make_kv(shoal_engine *engine, shoal_err *err)
{
    const shoal_engine_settings *s = &engine->settings;
    shoal_kv_shape shape = shoal_model_kv_shape(&engine->model->hp, (shoal_kv_type)s->kv_type);
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_kv_type *types = NULL;
    if (s->kv_levels && s->kv_levels[0]) {
        types = shoal_calloc(shape.n_layers, sizeof *types);
        if (!types) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the KV levels of layers");
        }
        SHOAL_TRY(shoal_kv_types_parse(s->kv_levels, shape.n_layers, types, err));
        shape.types = types;
        shape.type = types[0];
    }
    shape.evict = s->kv_evict;
    shape.budget = s->kv_budget;
    shape.hadamard = s->kv_hadamard;
    size_t page = shoal_kv_page_bytes(&shape);
    size_t n_pages = s->kv_bytes / page;
    size_t n_least = shoal_kv_pages_for(&shape, s->n_rows_max, 1);
    if (n_pages < n_least) {
        return shoal_err_set(
            err, SHOAL_E_LIMIT,
            "a KV pool of %zu KiB does not hold 32 tokens: this model needs %zu KiB for them",
            s->kv_bytes >> 10, (n_least * page + 1023) >> 10);
    }
    name_form(engine, &shape);
    /* The rows of one step are all stored before any attends. */
    return shoal_kv_pool_new(&shape, SHOAL_MIN(n_pages, (size_t)1 << 24), s->n_ctx, s->n_rows_max,
                             &engine->kv, err);
}

shoal_status shoal_engine_new(const shoal_model *model, const shoal_engine_settings *settings,
                              shoal_engine **ret_engine, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_engine_freep) shoal_engine *engine = shoal_calloc(1, sizeof *engine);
    if (!engine) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the engine");
    }
    engine->model = model;
    engine->settings = *settings;
    SHOAL_TRY(resolve(engine, err));
    shoal_kernels_init(&engine->kernels, engine->settings.cpu_mask);
    shoal_status status = shoal_pool_new(engine->settings.n_threads, &engine->pool);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "cannot start %zu compute threads: take 1 to %d",
                             engine->settings.n_threads, (int)SHOAL_POOL_THREADS_MAX);
    }
    status = engine->settings.pin_threads ? shoal_pool_pin(engine->pool) : SHOAL_OK;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status,
                             "cannot keep %zu compute threads on CPUs of their own, of %zu that "
                             "this process may use: take fewer threads, or do not pin",
                             engine->settings.n_threads, shoal_pool_n_cpus());
    }
    SHOAL_TRY(make_kv(engine, err));
    shoal_forward_shape shape = {
        .n_rows_max = engine->settings.n_rows_max,
        .n_logits_max = engine->settings.n_logits_max,
        .n_ctx_max = engine->settings.n_ctx,
        .n_loras_max = engine->settings.n_loras_max,
        .lora_rank_max = engine->settings.lora_rank_max,
        .kv_budget = engine->settings.kv_budget,
    };
    engine->rows = shoal_calloc(shape.n_rows_max, sizeof *engine->rows);
    engine->logits_rows = shoal_calloc(shape.n_logits_max, sizeof *engine->logits_rows);
    engine->loras = shoal_calloc(shape.n_loras_max, sizeof *engine->loras);
    engine->states = shoal_calloc(shape.n_rows_max, sizeof *engine->states);
    engine->courses = shoal_calloc(shape.n_rows_max, sizeof *engine->courses);
    if (!engine->rows || !engine->logits_rows || !engine->loras || !engine->states ||
        !engine->courses ||
        shoal_forward_new(model, &engine->kernels, engine->pool, &shape, &engine->forward) !=
            SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM,
                             "no memory for a step of %zu rows and %zu logits: take fewer",
                             shape.n_rows_max, shape.n_logits_max);
    }
    *ret_engine = SHOAL_STEAL(engine);
    return SHOAL_OK;
}

void shoal_engine_free(shoal_engine *engine)
{
    if (!engine) {
        return;
    }
    shoal_forward_free(engine->forward);
    shoal_kv_pool_free(engine->kv);
    shoal_pool_free(engine->pool);
    shoal_free(engine->rows);
    shoal_free(engine->logits_rows);
    shoal_free(engine->loras);
    shoal_free(engine->states);
    shoal_free(engine->courses);
    shoal_free(engine);
}

const shoal_model *shoal_engine_model(const shoal_engine *engine)
{
    return engine->model;
}

const shoal_kernels *shoal_engine_kernels(const shoal_engine *engine)
{
    return &engine->kernels;
}

shoal_kv_pool *shoal_engine_kv(shoal_engine *engine)
{
    return engine->kv;
}

size_t shoal_engine_n_ctx(const shoal_engine *engine)
{
    return engine->settings.n_ctx;
}

size_t shoal_engine_n_rows_max(const shoal_engine *engine)
{
    return engine->settings.n_rows_max;
}

size_t shoal_engine_n_logits_max(const shoal_engine *engine)
{
    return engine->settings.n_logits_max;
}

const char *shoal_engine_kv_form(const shoal_engine *engine)
{
    return engine->kv_form;
}

/* Adapters must be few enough, and of a rank there is scratch for. */
static shoal_status check_loras(shoal_engine *engine, const shoal_span *spans, size_t n_spans)
{
    size_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        const shoal_lora *lora = spans[i].lora;
        size_t at = 0;
        if (!lora) {
            continue;
        }
        SHOAL_ASSERT(shoal_lora_model(lora) == engine->model);
        while (at < n && engine->loras[at] != lora) {
            at++;
        }
        if (at == engine->settings.n_loras_max ||
            shoal_lora_rank(lora) > engine->settings.lora_rank_max) {
            return SHOAL_E_LIMIT;
        }
        engine->loras[at] = lora;
        n = SHOAL_MAX(n, at + 1);
    }
    return SHOAL_OK;
}

/* Reserves pages for every span, or for none. */
static shoal_status reserve_all(shoal_span *spans, size_t n_spans)
{
    for (size_t i = 0; i < n_spans; i++) {
        shoal_kv_seq *seq = spans[i].seq;
        shoal_status status = shoal_kv_seq_reserve(seq, shoal_kv_seq_length(seq) + spans[i].n_ids);
        if (status != SHOAL_OK) {
            for (size_t j = 0; j < i; j++) {
                (void)shoal_kv_seq_truncate(spans[j].seq, shoal_kv_seq_length(spans[j].seq));
            }
            return status;
        }
    }
    return SHOAL_OK;
}

/* What a span's rows and logits come to when nothing of it leaves. */
static shoal_status check_sizes(const shoal_engine *engine, const shoal_span *spans, size_t n_spans)
{
    size_t n_rows = 0;
    size_t n_logits = 0;
    for (size_t i = 0; i < n_spans; i++) {
        const shoal_span *span = &spans[i];
        size_t n_waiting = shoal_depth_n_waiting(span->seq);
        SHOAL_ASSERT(span->n_ids + n_waiting >= 1 && span->n_logits <= span->n_ids);
        SHOAL_ASSERT(span->depth || (n_waiting == 0 && span->n_ids >= 1));
        n_rows += span->n_ids + n_waiting;
        n_logits += span->n_logits + (span->check ? n_waiting : 0);
    }
    return n_rows > engine->settings.n_rows_max || n_logits > engine->settings.n_logits_max
               ? SHOAL_E_LIMIT
               : SHOAL_OK;
}

/* Layers below exit `exit_i`; n_exits: all. Exits cut the layers into segments. */
static size_t layers_below(const shoal_engine *engine, size_t exit_i)
{
    const shoal_hparams *hp = &engine->model->hp;
    return exit_i < hp->n_exits ? hp->exits[exit_i] : hp->n_layers;
}

/* First position that has not gone through the layers below an exit. */
static size_t filled(const shoal_span *span, size_t exit_i)
{
    return span->depth ? shoal_depth_filled(span->depth, exit_i) : shoal_kv_seq_length(span->seq);
}

static void begin_courses(shoal_engine *engine, shoal_span *spans, size_t n_spans)
{
    for (size_t i = 0; i < n_spans; i++) {
        shoal_span *span = &spans[i];
        size_t length = shoal_kv_seq_length(span->seq);
        if (span->depth) {
            shoal_depth_follow(span->depth, span->seq);
        }
        engine->courses[i] =
            (course){.end = length + span->n_ids, .from = length, .row_i = 0, .on = true};
        span->n_layers = engine->model->hp.n_layers;
        span->n_checks = 0;
        span->checks_i = 0;
        span->check_from = shoal_kv_seq_whole(span->seq);
    }
}

/* The rows of a segment: of every span that has not left, those that waited here, then those that
 * came through the segment before. */
static size_t gather_rows(shoal_engine *engine, const shoal_span *spans, size_t n_spans,
                          size_t segment, bool begins)
{
    size_t n_rows = 0;
    for (size_t i = 0; i < n_spans; i++) {
        const shoal_span *span = &spans[i];
        course *c = &engine->courses[i];
        if (!c->on) {
            continue;
        }
        course before = *c;
        c->from = filled(span, segment);
        c->row_i = n_rows;
        for (size_t p = c->from; p < c->end; p++) {
            shoal_row row = {.seq = span->seq, .position = p, .lora = span->lora};
            if (begins) {
                row.id = span->ids[p - shoal_kv_seq_length(span->seq)];
            } else if (p < before.from) {
                engine->states[n_rows] = shoal_depth_state(span->depth, p);
            } else {
                engine->states[n_rows] =
                    shoal_forward_state(engine->forward, before.row_i + p - before.from);
            }
            engine->rows[n_rows++] = row;
        }
    }
    return n_rows;
}

/* The rows of the last segment whose logits are wanted: checks of a span first. Says where each
 * span will find them behind n_left results. */
static size_t gather_wanted(shoal_engine *engine, shoal_span *spans, size_t n_spans, size_t n_left)
{
    size_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        shoal_span *span = &spans[i];
        const course *c = &engine->courses[i];
        if (!c->on) {
            continue;
        }
        span->n_checks = span->check ? c->end - span->n_ids - c->from : 0;
        span->checks_i = n_left + n;
        for (size_t j = 0; j < span->n_checks; j++) {
            engine->logits_rows[n++] = c->row_i + j;
        }
        span->logits_i = n_left + n;
        size_t first = c->row_i + (c->end - c->from) - span->n_logits;
        for (size_t j = 0; j < span->n_logits; j++) {
            engine->logits_rows[n++] = first + j;
        }
    }
    return n;
}

static bool may_leave(const shoal_span *span, const course *c, size_t exit_i)
{
    return c->on && span->rules && span->rules[exit_i].on && span->depth && span->n_logits == 1 &&
           c->end - shoal_kv_seq_whole(span->seq) <= shoal_depth_n_waiting_max(span->depth);
}

/* The span's rows wait here; its logits are result logits_i. */
static void leave(shoal_engine *engine, shoal_span *span, course *c, size_t exit_i, size_t logits_i)
{
    size_t dim = engine->model->hp.dim;
    for (size_t p = c->from; p < c->end; p++) {
        memcpy(shoal_depth_state(span->depth, p),
               shoal_forward_state(engine->forward, c->row_i + p - c->from), dim * sizeof(float));
    }
    shoal_depth_fill(span->depth, exit_i, c->end);
    span->n_layers = layers_below(engine, exit_i);
    span->logits_i = logits_i;
    c->on = false;
}

/* Asks every span that may leave at this exit; those that do have their logits among the first
 * n_left results. Returns how many have left by now. */
static size_t ask_exit(shoal_engine *engine, shoal_span *spans, size_t n_spans, size_t exit_i,
                       size_t n_left)
{
    size_t n = 0;
    for (size_t i = 0; i < n_spans; i++) {
        const course *c = &engine->courses[i];
        if (may_leave(&spans[i], c, exit_i)) {
            engine->logits_rows[n++] = c->row_i + (c->end - c->from) - 1;
        }
    }
    shoal_forward_logits_of(engine->forward, exit_i, engine->logits_rows, n, n_left);
    float share = (float)layers_below(engine, exit_i) / (float)engine->model->hp.n_layers;
    size_t asked_i = n_left;
    for (size_t i = 0; i < n_spans; i++) {
        course *c = &engine->courses[i];
        if (!may_leave(&spans[i], c, exit_i)) {
            continue;
        }
        const shoal_exit_rule *rule = &spans[i].rules[exit_i];
        shoal_exit_features features;
        shoal_exit_measure(&engine->kernels, shoal_forward_logits_at(engine->forward, asked_i),
                           engine->model->hp.n_vocab, share,
                           rule->policy.kind == SHOAL_EXIT_ENTROPY, &features);
        if (shoal_exit_decide(&rule->policy, rule->state, &features)) {
            shoal_forward_logits_move(engine->forward, asked_i, n_left);
            leave(engine, &spans[i], c, exit_i, n_left++);
        }
        asked_i++;
    }
    return n_left;
}

/* Everything that has not left goes through [layer_a, layers_below(segment)). */
static size_t run_segment(shoal_engine *engine, shoal_span *spans, size_t n_spans, size_t segment,
                          size_t layer_a, size_t n_left)
{
    bool last = segment == engine->model->hp.n_exits;
    size_t n_rows = gather_rows(engine, spans, n_spans, segment, layer_a == 0);
    if (n_rows == 0) {
        return n_left;
    }
    if (layer_a > 0) {
        shoal_forward_go_on(engine->forward, engine->states, n_rows);
    }
    size_t n_wanted = last ? gather_wanted(engine, spans, n_spans, n_left) : 0;
    shoal_forward_layers(engine->forward, engine->rows, n_rows, layer_a,
                         layers_below(engine, segment), last ? engine->logits_rows : NULL,
                         n_wanted);
    if (!last) {
        return ask_exit(engine, spans, n_spans, segment, n_left);
    }
    shoal_forward_logits_of(engine->forward, segment, NULL, n_wanted, n_left);
    return n_left;
}

shoal_status shoal_engine_step(shoal_engine *engine, shoal_span *spans, size_t n_spans)
{
    size_t n_exits = engine->model->hp.n_exits;
    bool deep = true; /* nobody stops on the way */
    SHOAL_TRY(check_sizes(engine, spans, n_spans));
    SHOAL_TRY(check_loras(engine, spans, n_spans));
    SHOAL_TRY(reserve_all(spans, n_spans));
    for (size_t i = 0; i < n_spans; i++) {
        deep = deep && !spans[i].depth;
    }
    begin_courses(engine, spans, n_spans);
    size_t layer_a = 0;
    size_t n_left = 0;
    for (size_t segment = deep ? n_exits : 0; segment <= n_exits; segment++) {
        n_left = run_segment(engine, spans, n_spans, segment, layer_a, n_left);
        layer_a = layers_below(engine, segment);
    }
    for (size_t i = 0; i < n_spans; i++) {
        shoal_span *span = &spans[i];
        size_t end = engine->courses[i].end;
        if (!span->depth) {
            shoal_kv_seq_advance(span->seq, end);
            continue;
        }
        if (engine->courses[i].on) {
            shoal_depth_fill(span->depth, n_exits, end);
        }
        shoal_kv_seq_advance_part(span->seq, end, filled(span, n_exits));
    }
    return SHOAL_OK;
}

uint64_t shoal_engine_bytes_read(const shoal_engine *engine)
{
    return shoal_forward_bytes_read(engine->forward);
}

uint64_t shoal_engine_bytes_heads(const shoal_engine *engine)
{
    return shoal_forward_bytes_heads(engine->forward);
}

const float *shoal_engine_logits(const shoal_engine *engine, size_t i)
{
    return shoal_forward_logits_at(engine->forward, i);
}
