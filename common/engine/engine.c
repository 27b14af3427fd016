/* SPDX-License-Identifier: Apache-2.0 */
#include "common/engine/engine.h"

#include "common/base/mem.h"
#include "common/model/forward.h"

struct shoal_engine {
    const shoal_model *model;
    shoal_engine_settings settings; /* resolved: no zero or negative defaults left */
    shoal_kernels kernels;
    shoal_pool *pool;
    shoal_kv_pool *kv;
    shoal_forward *forward;
    shoal_row *rows;          /* (n_rows_max) */
    size_t *logits_rows;      /* (n_logits_max) row of each wanted logits */
    const shoal_lora **loras; /* (n_loras_max) of the step under way */
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
    if (s->kv_type > SHOAL_KV_Q8) {
        return shoal_err_set(err, SHOAL_E_INVALID, "KV type %d is not one of %d to %d", s->kv_type,
                             (int)SHOAL_KV_F32, (int)SHOAL_KV_Q8);
    }
    if (s->kv_type < 0) {
        s->kv_type = model->main_type == SHOAL_TYPE_F32 ? SHOAL_KV_F32 : SHOAL_KV_F16;
    }
    return SHOAL_OK;
}

static shoal_status make_kv(shoal_engine *engine, shoal_err *err)
{
    const shoal_engine_settings *s = &engine->settings;
    shoal_kv_shape shape = shoal_model_kv_shape(&engine->model->hp, (shoal_kv_type)s->kv_type);
    size_t page = shoal_kv_page_bytes(&shape);
    size_t n_pages = s->kv_bytes / page;
    size_t n_least = shoal_kv_pages_for(&shape, s->n_rows_max, 1);
    if (n_pages < n_least) {
        return shoal_err_set(
            err, SHOAL_E_LIMIT,
            "a KV pool of %zu KiB does not hold 32 tokens: this model needs %zu KiB for them",
            s->kv_bytes >> 10, (n_least * page + 1023) >> 10);
    }
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
    };
    engine->rows = shoal_calloc(shape.n_rows_max, sizeof *engine->rows);
    engine->logits_rows = shoal_calloc(shape.n_logits_max, sizeof *engine->logits_rows);
    engine->loras = shoal_calloc(shape.n_loras_max, sizeof *engine->loras);
    if (!engine->rows || !engine->logits_rows || !engine->loras ||
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
    return shoal_kv_type_name((shoal_kv_type)engine->settings.kv_type);
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

shoal_status shoal_engine_step(shoal_engine *engine, shoal_span *spans, size_t n_spans)
{
    size_t n_rows = 0;
    size_t n_logits = 0;
    for (size_t i = 0; i < n_spans; i++) {
        SHOAL_ASSERT(spans[i].n_ids >= 1 && spans[i].n_logits <= spans[i].n_ids);
        n_rows += spans[i].n_ids;
        n_logits += spans[i].n_logits;
    }
    if (n_rows > engine->settings.n_rows_max || n_logits > engine->settings.n_logits_max) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_TRY(check_loras(engine, spans, n_spans));
    SHOAL_TRY(reserve_all(spans, n_spans));

    n_rows = 0;
    n_logits = 0;
    for (size_t i = 0; i < n_spans; i++) {
        shoal_span *span = &spans[i];
        span->logits_i = n_logits;
        size_t start = shoal_kv_seq_length(span->seq);
        for (size_t j = 0; j < span->n_ids; j++) {
            if (j + span->n_logits >= span->n_ids) {
                engine->logits_rows[n_logits++] = n_rows;
            }
            engine->rows[n_rows++] = (shoal_row){
                .seq = span->seq, .id = span->ids[j], .position = start + j, .lora = span->lora};
        }
    }
    shoal_forward_layers(engine->forward, engine->rows, n_rows, 0, engine->model->hp.n_layers,
                         engine->logits_rows, n_logits);
    shoal_forward_logits(engine->forward);
    for (size_t i = 0; i < n_spans; i++) {
        shoal_kv_seq_advance(spans[i].seq, shoal_kv_seq_length(spans[i].seq) + spans[i].n_ids);
    }
    return SHOAL_OK;
}

uint64_t shoal_engine_bytes_read(const shoal_engine *engine)
{
    return shoal_forward_bytes_read(engine->forward);
}

const float *shoal_engine_logits(const shoal_engine *engine, size_t i)
{
    return shoal_forward_logits_at(engine->forward, i);
}
