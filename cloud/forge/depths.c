/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/depths.h"

#include "common/base/mem.h"
#include "common/model/forward.h"

struct forge_depths {
    const forge_session *session;
    const shoal_hparams *hp;
    shoal_pool *pool;
    shoal_forward *forward;
    shoal_row rows[FORGE_DEPTHS_ROWS];
};

shoal_status shoal_forge_depths_new(const forge_session *session, size_t n_threads,
                                    forge_depths **ret_depths, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_depths_freep) forge_depths *d = shoal_calloc(1, sizeof *d);
    if (!d) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a pass through all depths");
    }
    d->session = session;
    d->hp = &session->model->hp;
    SHOAL_ASSERT(shoal_engine_n_rows_max(session->engine) >= FORGE_DEPTHS_ROWS);
    shoal_status status = shoal_pool_new(n_threads, &d->pool);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "cannot start %zu compute threads: take 1 to %d",
                             n_threads, (int)SHOAL_POOL_THREADS_MAX);
    }
    shoal_forward_shape shape = {
        .n_rows_max = FORGE_DEPTHS_ROWS,
        .n_logits_max = FORGE_DEPTHS_ROWS,
        .n_ctx_max = shoal_engine_n_ctx(session->engine),
        .n_loras_max = session->lora ? 1 : 0,
        .lora_rank_max = session->lora ? shoal_lora_rank(session->lora) : 1,
    };
    if (shoal_forward_new(session->model, shoal_engine_kernels(session->engine), d->pool, &shape,
                          &d->forward) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows of logits",
                             shape.n_logits_max);
    }
    *ret_depths = SHOAL_STEAL(d);
    return SHOAL_OK;
}

void shoal_forge_depths_free(forge_depths *depths)
{
    if (!depths) {
        return;
    }
    shoal_forward_free(depths->forward);
    shoal_pool_free(depths->pool);
    shoal_free(depths);
}

size_t shoal_forge_depths_n_heads(const forge_depths *depths)
{
    return depths->hp->n_exits + 1;
}

static size_t layers_of(const forge_depths *d, size_t head)
{
    SHOAL_ASSERT(head <= d->hp->n_exits);
    return head < d->hp->n_exits ? d->hp->exits[head] : d->hp->n_layers;
}

float shoal_forge_depths_share(const forge_depths *depths, size_t head)
{
    return (float)layers_of(depths, head) / (float)depths->hp->n_layers;
}

/* Rows [position, position + n) through all layers; fn NULL: for their keys and values alone. */
static shoal_status run_chunk(forge_depths *d, size_t position, size_t n, forge_depths_fn *fn,
                              void *ctx)
{
    size_t from = 0;
    for (size_t head = 0; head <= d->hp->n_exits; head++) {
        size_t to = layers_of(d, head);
        bool last = head == d->hp->n_exits;
        const size_t none = 0;
        shoal_forward_layers(d->forward, d->rows, n, from, to, last && !fn ? &none : NULL, 0);
        from = to;
        if (!fn) {
            continue;
        }
        if (last) {
            shoal_forward_logits(d->forward);
        } else {
            shoal_forward_exit_logits(d->forward, head);
        }
        for (size_t i = 0; i < n; i++) {
            SHOAL_TRY(fn(ctx, position + i, head, shoal_forward_logits_at(d->forward, i)));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_depths_run(forge_depths *d, const int32_t *ids, size_t n,
                                    size_t first_position, forge_depths_fn *fn, void *ctx,
                                    shoal_err *err)
{
    shoal_kv_seq *seq = d->session->seq;
    if (n > shoal_engine_n_ctx(d->session->engine)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%zu tokens are more than the context of %zu", n,
                             shoal_engine_n_ctx(d->session->engine));
    }
    (void)shoal_kv_seq_truncate(seq, 0);
    for (size_t at = 0; at < n;) {
        bool heard = at >= first_position;
        size_t n_now =
            SHOAL_MIN((heard ? n : SHOAL_MIN(n, first_position)) - at, (size_t)FORGE_DEPTHS_ROWS);
        if (shoal_kv_seq_reserve(seq, at + n_now) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no pages for %zu tokens", at + n_now);
        }
        for (size_t i = 0; i < n_now; i++) {
            d->rows[i] = (shoal_row){
                .seq = seq, .id = ids[at + i], .position = at + i, .lora = d->session->lora};
        }
        shoal_status status = run_chunk(d, at, n_now, heard ? fn : NULL, ctx);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "at token %zu: %s", at, shoal_status_text(status));
        }
        shoal_kv_seq_advance(seq, at + n_now);
        at += n_now;
    }
    return SHOAL_OK;
}
