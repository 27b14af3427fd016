/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/native.h"

#include "cloud/server/public.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

_Static_assert((int)SHOAL_ADAPTERS_MAX == (int)SHOAL_WIRE_ADAPTERS_MAX &&
                   (int)SHOAL_ADAPTER_NAME_MAX == (int)SHOAL_WIRE_NAME_MAX,
               "Describe has room for every adapter");

typedef struct native {
    shoal_engine *engine;
    shoal_sampler *sampler;
    shoal_form_words *words;
    shoal_batch *batch;
    const shoal_adapters *adapters; /* NULL: none */
} native;

static void native_free(void *ctx)
{
    native *n = ctx;
    if (n != NULL) {
        shoal_batch_free(n->batch);
        shoal_sampler_free(n->sampler);
        shoal_form_words_free(n->words);
        shoal_engine_free(n->engine);
        shoal_free(n);
    }
}

static void native_describe(const void *ctx, shoal_describe *ret_describe)
{
    const native *n = ctx;
    const shoal_model *model = shoal_engine_model(n->engine);
    shoal_describe *d = ret_describe;
    size_t n_ctx = shoal_kv_pool_tokens_max(shoal_engine_kv(n->engine));
    snprintf(d->name, sizeof(d->name), "%s", model->hp.name);
    snprintf(d->kv_form, sizeof(d->kv_form), "%s", shoal_engine_kv_form(n->engine));
    d->model = model->hash;
    d->tokenizer = *shoal_tokenizer_hash(model->tokenizer);
    d->chat_template = *shoal_tokenizer_template_hash(model->tokenizer);
    d->n_vocab = (uint32_t)model->hp.n_vocab;
    d->n_ctx = (uint32_t)SHOAL_MIN(n_ctx, (size_t)SHOAL_WIRE_POSITION_MAX);
    d->verify = SHOAL_VERIFY_ALL;
    d->forms = true;
    for (size_t i = 0; n->adapters != NULL && i < n->adapters->n; i++) {
        const shoal_adapter *adapter = &n->adapters->list[i];
        shoal_wire_adapter *told = &d->adapters[d->n_adapters++];
        memcpy(told->name, adapter->name, sizeof(told->name));
        told->hash = shoal_lora_hash(adapter->lora);
    }
}

static shoal_status native_add(void *ctx, shoal_session *session, uint64_t now_ms)
{
    native *n = ctx;
    return shoal_batch_add(n->batch, session, now_ms);
}

static void native_remove(void *ctx, shoal_session *session)
{
    native *n = ctx;
    shoal_batch_remove(n->batch, session);
}

static void native_touch(void *ctx, const shoal_session *session, uint64_t now_ms)
{
    native *n = ctx;
    shoal_batch_touch(n->batch, session, now_ms);
}

static void native_hold(void *ctx, const shoal_session *session, bool hold)
{
    native *n = ctx;
    shoal_batch_hold(n->batch, session, hold);
}

static void native_look(void *ctx, const shoal_clock *clock)
{
    native *n = ctx;
    shoal_batch_look(n->batch, clock);
}

static double native_found(const void *ctx)
{
    const native *n = ctx;
    return shoal_batch_found(n->batch);
}

static shoal_status native_step(void *ctx, const shoal_clock *clock)
{
    native *n = ctx;
    return shoal_batch_step(n->batch, clock);
}

static void native_load(const void *ctx, shoal_admit_load *io_load)
{
    const native *n = ctx;
    shoal_batch_load(n->batch, io_load);
}

static const shoal_backend_ops native_ops = {.name = "native",
                                             .describe = native_describe,
                                             .add = native_add,
                                             .remove = native_remove,
                                             .touch = native_touch,
                                             .hold = native_hold,
                                             .look = native_look,
                                             .step = native_step,
                                             .load = native_load,
                                             .found = native_found,
                                             .free = native_free};

static shoal_status add_public(void *ctx, const int32_t *ids, size_t n_ids)
{
    return shoal_batch_add_public(ctx, ids, n_ids);
}

static shoal_status make_engine(native *n, const shoal_model *model,
                                const shoal_engine_settings *settings, shoal_err *err)
{
    shoal_engine_settings with = *settings;
    if (n->adapters != NULL && n->adapters->n > 0) {
        with.n_loras_max = n->adapters->n;
        with.lora_rank_max = shoal_adapters_rank_max(n->adapters->list, n->adapters->n);
    }
    return shoal_engine_new(model, &with, &n->engine, err);
}

shoal_status shoal_native_new(const shoal_model *model, const shoal_adapters *adapters,
                              const shoal_engine_settings *engine,
                              const shoal_batch_settings *batch, const char *public_files,
                              const shoal_cloud_metrics *metrics, shoal_backend *ret_backend,
                              shoal_err *err)
{
    native *n = shoal_calloc(1, sizeof(*n));
    if (n == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the engine");
    }
    n->adapters = adapters;
    shoal_status status = make_engine(n, model, engine, err);
    if (status == SHOAL_OK) {
        status = shoal_sampler_new(model->hp.n_vocab, shoal_engine_kernels(n->engine), &n->sampler);
        if (status == SHOAL_OK) {
            /* At once: made when the first form comes, it would hold up everybody's step. */
            status = shoal_form_words_new(model->tokenizer, model->hp.n_vocab, &n->words);
        }
        if (status == SHOAL_OK) {
            status = shoal_batch_new(n->engine, batch, metrics, &n->batch);
        }
        if (status != SHOAL_OK) {
            (void)shoal_err_set(err, status, "cannot set up %zu sessions: %s; lower sessions.max",
                                batch->n_sessions_max, shoal_status_text(status));
        }
    }
    if (status == SHOAL_OK) {
        const shoal_public_sink sink = {.take = add_public, .ctx = n->batch};
        status = shoal_public_read(model->tokenizer, public_files, SHOAL_PREFIX_BLOCK, &sink, err);
    }
    if (status != SHOAL_OK) {
        native_free(n);
        return status;
    }
    *ret_backend = (shoal_backend){.ops = &native_ops,
                                   .ctx = n,
                                   .engine = n->engine,
                                   .sampler = n->sampler,
                                   .words = n->words,
                                   .adapters = adapters};
    return SHOAL_OK;
}
