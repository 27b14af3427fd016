/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/node.h"

#include "common/base/mem.h"

/* --- the engine's time --------------------------------------------------------------------------
 */

/* Steps of the engine pass through here (the linker's --wrap), and cost virtual time. The node
 * whose step it is; one thread. */
static sim_node *stepping;

shoal_status __real_shoal_engine_step(shoal_engine *engine, shoal_span *spans, size_t n_spans);
shoal_status __wrap_shoal_engine_step(shoal_engine *engine, shoal_span *spans, size_t n_spans);

shoal_status __wrap_shoal_engine_step(shoal_engine *engine, shoal_span *spans, size_t n_spans)
{
    shoal_status status = __real_shoal_engine_step(engine, spans, n_spans);
    if (stepping && status == SHOAL_OK) {
        uint64_t n_rows = 0;
        for (size_t i = 0; i < n_spans; i++) {
            n_rows += spans[i].n_ids;
        }
        stepping->now_ns += stepping->settings.fixed_ns + n_rows * stepping->settings.row_ns;
    }
    return status;
}

/* --- life ---------------------------------------------------------------------------------------
 */

shoal_status sim_node_start(sim_node *node, const sim_base *base, const sim_node_settings *settings,
                            shoal_err *err)
{
    node->settings = *settings;
    shoal_kv_shape shape = shoal_model_kv_shape(&base->model->hp, SHOAL_KV_F32);
    shoal_engine_settings engine = shoal_engine_settings_default();
    engine.n_threads = 1;
    engine.n_ctx = base->truths[0]->describe.n_ctx;
    engine.kv_bytes = settings->n_pages * shoal_kv_page_bytes(&shape);
    engine.n_rows_max = settings->n_rows_max;
    engine.n_logits_max = settings->n_logits_max;
    const shoal_batch_settings batch = {.n_sessions_max = settings->n_conns_max,
                                        .prefill_chunk = settings->prefill_chunk,
                                        .idle_hold_ms = settings->hold_ms,
                                        .prefix_percent = settings->prefix_percent,
                                        .step_time_us = settings->step_time_us};
    SHOAL_TRY(shoal_native_new(base->model, NULL, &engine, &batch, "", &node->metrics,
                               &node->backend, err));
    node->backend.ops->describe(node->backend.ctx, &node->describe);
    node->describe.protocol = SHOAL_WIRE_PROTOCOL;
    node->up = true;
    return SHOAL_OK;
}

/* All sessions are gone, so every page is back, or the cache's. */
static bool pool_whole(const sim_node *node)
{
    const shoal_kv_pool *pool = shoal_engine_kv(node->backend.engine);
    return shoal_kv_pool_n_free(pool) + shoal_kv_pool_n_kept(pool) == shoal_kv_pool_n_pages(pool);
}

bool sim_node_stop(sim_node *node)
{
    if (!node->backend.ops) {
        return true;
    }
    for (size_t i = 0; i < SIM_CONNS_MAX; i++) {
        if (node->conns[i].node) {
            sim_node_drop(&node->conns[i]);
        }
    }
    bool whole = pool_whole(node);
    node->backend.ops->free(node->backend.ctx);
    node->backend = (shoal_backend){0};
    node->up = false;
    return whole;
}

/* --- calls --------------------------------------------------------------------------------------
 */

static void on_emit(void *ctx, const shoal_cloud_msg *msg)
{
    sim_conn *conn = ctx;
    conn->node->answer(conn->node->ctx, conn, msg, SHOAL_RPC_OK);
}

static void on_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    sim_conn *conn = ctx;
    (void)text;
    conn->finished = true;
    conn->node->answer(conn->node->ctx, conn, NULL, status);
}

static uint64_t now_ms(const sim_node *node)
{
    return node->now_ns / 1000000U;
}

sim_conn *sim_node_accept(sim_node *node, const char *tenant, size_t edge, uint32_t attempt)
{
    size_t i = 0;
    while (i < node->settings.n_conns_max && node->conns[i].node) {
        i++;
    }
    if (i == node->settings.n_conns_max) {
        return NULL;
    }
    sim_conn *conn = &node->conns[i];
    *conn = (sim_conn){.node = node, .edge = edge, .attempt = attempt};
    const shoal_session_env env = {.engine = node->backend.engine,
                                   .words = node->backend.words,
                                   .sampler = node->backend.sampler,
                                   .tokenizer = node->backend.tokenizer,
                                   .describe = &node->describe,
                                   .node = "sim",
                                   .tenant = tenant};
    const shoal_session_out out = {.emit = on_emit, .finish = on_finish, .ctx = conn};
    shoal_status status = shoal_session_new(&env, &out, now_ms(node), &conn->session);
    SHOAL_ASSERT(status == SHOAL_OK);
    status = node->backend.ops->add(node->backend.ctx, conn->session, now_ms(node));
    SHOAL_ASSERT(status == SHOAL_OK);
    return conn;
}

void sim_node_push(sim_conn *conn, const shoal_edge_msg *msg)
{
    shoal_session_push(conn->session, msg, now_ms(conn->node));
    conn->node->backend.ops->touch(conn->node->backend.ctx, conn->session, now_ms(conn->node));
}

void sim_node_hold(sim_conn *conn, bool hold)
{
    conn->node->backend.ops->hold(conn->node->backend.ctx, conn->session, hold);
}

void sim_node_drop(sim_conn *conn)
{
    sim_node *node = conn->node;
    node->n_preempted += shoal_session_stats_get(conn->session)->n_evictions;
    node->backend.ops->remove(node->backend.ctx, conn->session);
    shoal_session_free(conn->session);
    *conn = (sim_conn){0};
}

void sim_node_tick(sim_node *node)
{
    for (size_t i = 0; i < SIM_CONNS_MAX; i++) {
        if (node->conns[i].node) {
            shoal_session_tick(node->conns[i].session, now_ms(node));
        }
    }
}

static uint64_t node_now_ns(void *ctx)
{
    return ((const sim_node *)ctx)->now_ns;
}

shoal_status sim_node_step(sim_node *node)
{
    const shoal_clock clock = {.now_ns = node_now_ns, .ctx = node};
    stepping = node;
    shoal_status status = node->backend.ops->step(node->backend.ctx, &clock);
    stepping = NULL;
    return status;
}
