/* SPDX-License-Identifier: Apache-2.0
 *
 * Edges, network and faults around the nodes of node.h.
 */
#include "common/base/mem.h"
#include "tests/bench/load/edge.h"
#include "tests/bench/load/events.h"
#include "tests/sim/draw.h"
#include "tests/sim/node.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    NODES_MAX = 2,
    EDGES_MAX = 28,
    STEPS_A_TOKEN = 60, /* more steps than this for each token of all sessions is no progress */
    MS = 1000000
};

static const char *const tenants[] = {"one", "two", "three"};
static const uint64_t run_ns = 3600000000000U; /* what every world must have ended by */

typedef enum event_kind {
    ARRIVE,  /* an edge opens its first stream */
    REOPEN,  /* an edge opens another, after one was lost */
    UP,      /* a message reaches the node */
    DOWN,    /* a message reaches the edge */
    END,     /* the end of a stream does */
    CUT,     /* the network loses an edge's stream */
    GONE,    /* the node hears that a stream is lost */
    HOLD,    /* an edge stops reading */
    RELEASE, /* and goes on */
    STEP,    /* a node computes */
    CRASH,
    BOOT
} event_kind;

typedef enum fate {
    RUNNING,
    DONE,
    LATE, /* its deadline passed */
    VANISHED
} fate;

typedef struct edge {
    load_edge state;
    fate fate;
    uint32_t attempt;
    sim_conn *conn; /* of this attempt, while the node has it */
    const char *tenant;
    uint64_t last_up_ns;
    uint64_t delay_ns;              /* of a message, either way, at least */
    uint64_t opened_ns;             /* of this attempt */
    size_t vanish_at;               /* tokens; SIZE_MAX: never */
    bool restless;                  /* drafts now so, now otherwise, now not at all */
    char said[SHOAL_WIRE_TEXT_MAX]; /* the last Error */
} edge;

typedef struct world {
    const sim_base *base;
    sim_report *report;
    uint64_t rng;
    uint64_t now_ns;
    load_events events;
    sim_node nodes[NODES_MAX];
    bool planned[NODES_MAX]; /* a STEP is under way */
    size_t n_nodes;
    sim_node_settings settings;
    edge edges[EDGES_MAX];
    size_t n_edges;
    size_t n_over;
    size_t n_steps;
    size_t n_steps_max;
    size_t duplicate; /* one message up in so many comes twice; 0: none */
    bool broken;
    shoal_pace pace; /* of the edges that choose their spans by it */
} world;

__attribute__((format(printf, 2, 3))) static void broken(world *w, const char *format, ...)
{
    if (w->broken) {
        return;
    }
    w->broken = true;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(w->report->why, sizeof w->report->why, format, args);
    va_end(args);
}

static void plan(world *w, load_event event)
{
    if (load_events_add(&w->events, &event) != SHOAL_OK) {
        broken(w, "out of memory");
    }
}

static void plan_at(world *w, uint64_t at_ns, event_kind kind, size_t who, uint32_t attempt)
{
    plan(w, (load_event){.at_ns = at_ns, .kind = (int)kind, .n = who, .attempt = attempt});
}

/* A node with something to do computes as soon as its last step is over. */
static void wake(world *w, sim_node *node)
{
    size_t i = (size_t)(node - w->nodes);
    if (!w->planned[i] && node->up) {
        w->planned[i] = true;
        plan_at(w, SHOAL_MAX(w->now_ns, node->now_ns), STEP, i, 0);
    }
}

/* --- messages -----------------------------------------------------------------------------------
 */

/* Bytes on their way, to or from one attempt of an edge; of END the status alone. */
typedef struct letter {
    size_t n;
    shoal_rpc_status status;
    uint8_t data[];
} letter;

static void send_letter(world *w, uint64_t at_ns, event_kind kind, size_t edge_i, uint32_t attempt,
                        const shoal_buf *buf, shoal_rpc_status status)
{
    size_t n = buf ? buf->length : 0;
    letter *l = shoal_calloc(1, sizeof *l + n);
    if (!l) {
        broken(w, "out of memory");
        return;
    }
    l->n = n;
    l->status = status;
    if (n > 0) {
        memcpy(l->data, buf->data, n);
    }
    plan(w, (load_event){.at_ns = at_ns,
                         .kind = (int)kind,
                         .n = edge_i,
                         .attempt = attempt,
                         .data = l,
                         .release = shoal_free});
}

static uint64_t delay(world *w, const edge *e)
{
    return e->delay_ns + sim_draw(&w->rng, 0, 3 * MS);
}

/* Another length of draft, or plain decoding, in the middle of it. */
static void change_mind(world *w, edge *e)
{
    load_edge_settings *s = &e->state.settings;
    s->span = sim_draw(&w->rng, 1, 9);
    s->ahead = sim_draw(&w->rng, 1, 3);
    s->plain = sim_chance(&w->rng, 3);
}

/* What the edge has to say. */
static void pump(world *w, edge *e)
{
    size_t i = (size_t)(e - w->edges);
    e->state.now_us = w->now_ns / 1000;
    if (e->restless && sim_chance(&w->rng, 3)) {
        change_mind(w, e);
    }
    while (!w->broken) {
        load_edge_step step = load_edge_next(&e->state);
        if (step == LOAD_EDGE_WAIT || step == LOAD_EDGE_CLOSED) {
            return;
        }
        char id[32];
        (void)snprintf(id, sizeof id, "edge-%zu", i);
        shoal_edge_msg msg;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        load_edge_send(&e->state, id, &msg);
        if (shoal_edge_msg_encode(&msg, &buf) != SHOAL_OK) {
            broken(w, "edge %zu could not encode its message", i);
            return;
        }
        /* A message may come twice (SPEC), but for Open and Close. */
        bool twice = w->duplicate > 0 && sim_chance(&w->rng, w->duplicate) &&
                     step != LOAD_EDGE_OPEN && step != LOAD_EDGE_CLOSE;
        for (int k = 0; k < 1 + twice; k++) {
            uint64_t at_ns = w->now_ns + delay(w, e);
            e->last_up_ns = SHOAL_MAX(at_ns, e->last_up_ns + 1);
            send_letter(w, e->last_up_ns, UP, i, e->attempt, &buf, SHOAL_RPC_OK);
        }
    }
}

/* A session's answer leaves when its node has computed it. */
static void on_answer(void *ctx, sim_conn *conn, const shoal_cloud_msg *msg,
                      shoal_rpc_status status)
{
    world *w = ctx;
    edge *e = &w->edges[conn->edge];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    uint64_t at_ns = SHOAL_MAX(conn->node->now_ns, w->now_ns) + delay(w, e);
    conn->last_down_ns = SHOAL_MAX(at_ns, conn->last_down_ns + 1);
    if (msg && shoal_cloud_msg_encode(msg, &buf) != SHOAL_OK) {
        broken(w, "a node could not encode its answer");
        return;
    }
    send_letter(w, conn->last_down_ns, msg ? DOWN : END, conn->edge, conn->attempt,
                msg ? &buf : NULL, status);
}

/* --- edges --------------------------------------------------------------------------------------
 */

static void over(world *w, edge *e, fate how)
{
    e->fate = how;
    w->n_over++;
    w->report->n_tokens += e->state.n_confirmed - e->state.item->n_prompt;
}

/* The stream is lost on the edge's side; its node hears of it later, or never if it is gone. */
static void lose_stream(world *w, edge *e)
{
    if (e->conn) {
        plan_at(w, w->now_ns + sim_draw(&w->rng, 0, 2000) * MS, GONE, (size_t)(e - w->edges),
                e->attempt);
    }
    e->conn = NULL;
    e->attempt++;
}

static void reopen_later(world *w, edge *e)
{
    w->report->n_cuts++;
    lose_stream(w, e);
    load_edge_reopen(&e->state);
    plan_at(w, w->now_ns + sim_draw(&w->rng, 1, 300) * MS, REOPEN, (size_t)(e - w->edges),
            e->attempt);
}

static void open_stream(world *w, edge *e)
{
    sim_node *node = &w->nodes[sim_draw(&w->rng, 0, w->n_nodes - 1)];
    sim_conn *conn =
        node->up ? sim_node_accept(node, e->tenant, (size_t)(e - w->edges), e->attempt) : NULL;
    e->opened_ns = w->now_ns;
    if (!conn) {
        reopen_later(w, e); /* refused, or nobody there */
        return;
    }
    node->now_ns = SHOAL_MAX(node->now_ns, w->now_ns);
    e->conn = conn;
    e->last_up_ns = w->now_ns;
    pump(w, e);
}

static void message_down(world *w, edge *e, const letter *l)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_cloud_msg *msg = NULL;
    size_t n_new = 0;
    e->state.now_us = w->now_ns / 1000;
    if (shoal_cloud_msg_decode(l->data, l->n, w->base->truths[0]->describe.n_vocab, &msg, &err) !=
        SHOAL_OK) {
        broken(w, "edge %zu cannot read an answer: %.120s", (size_t)(e - w->edges), err.text);
        return;
    }
    if (msg->kind == SHOAL_CLOUD_ERROR) {
        memcpy(e->said, msg->body.error.text, sizeof e->said);
    }
    if (load_edge_take(&e->state, msg, &n_new) != SHOAL_OK) {
        broken(w, "edge %zu, item %zu: %.160s", (size_t)(e - w->edges),
               (size_t)(e->state.item - e->state.truth->items), e->state.why);
    }
    shoal_cloud_msg_free(msg);
    if (e->state.n_confirmed >= e->vanish_at) {
        lose_stream(w, e);
        over(w, e, VANISHED);
        return;
    }
    pump(w, e);
}

static void end_of_stream(world *w, edge *e, shoal_rpc_status status)
{
    size_t i = (size_t)(e - w->edges);
    uint64_t deadline_ns = (uint64_t)e->state.settings.deadline_ms * MS;
    switch ((int)status) {
    case SHOAL_RPC_OK:
        if (!load_edge_complete(&e->state) || !e->state.finished) {
            broken(w, "edge %zu: its stream ended well after %zu of %zu tokens", i,
                   e->state.n_confirmed - e->state.item->n_prompt, e->state.item->n_out);
        }
        over(w, e, DONE);
        return;
    case SHOAL_RPC_DEADLINE_EXCEEDED:
        if (deadline_ns == 0 || w->now_ns < e->opened_ns + deadline_ns) {
            broken(w, "edge %zu: DEADLINE_EXCEEDED before its deadline", i);
        }
        over(w, e, LATE);
        return;
    case SHOAL_RPC_UNAVAILABLE:
    case SHOAL_RPC_RESOURCE_EXHAUSTED:
        reopen_later(w, e);
        return;
    default:
        broken(w, "edge %zu: its stream ended with status %d: %.120s", i, (int)status, e->said);
    }
}

/* --- nodes --------------------------------------------------------------------------------------
 */

static sim_conn *find_conn(world *w, size_t edge_i, uint32_t attempt)
{
    for (size_t n = 0; n < w->n_nodes; n++) {
        for (size_t i = 0; i < SIM_CONNS_MAX; i++) {
            sim_conn *conn = &w->nodes[n].conns[i];
            if (conn->node && conn->edge == edge_i && conn->attempt == attempt) {
                return conn;
            }
        }
    }
    return NULL;
}

/* Calls whose session has told its end are over. */
static void reap(world *w, sim_node *node)
{
    for (size_t i = 0; i < SIM_CONNS_MAX; i++) {
        sim_conn *conn = &node->conns[i];
        if (conn->node && conn->finished) {
            edge *e = &w->edges[conn->edge];
            e->conn = e->conn == conn ? NULL : e->conn;
            sim_node_drop(conn);
        }
    }
}

static void message_up(world *w, size_t edge_i, uint32_t attempt, const letter *l)
{
    sim_conn *conn = find_conn(w, edge_i, attempt);
    if (!conn) {
        return; /* the node has restarted, or given the call up */
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_edge_msg *msg = NULL;
    if (shoal_edge_msg_decode(l->data, l->n, w->base->truths[0]->describe.n_vocab, &msg, &err) !=
        SHOAL_OK) {
        broken(w, "a node cannot read a message of edge %zu: %.120s", edge_i, err.text);
        return;
    }
    sim_node *node = conn->node;
    node->now_ns = SHOAL_MAX(node->now_ns, w->now_ns);
    sim_node_push(conn, msg);
    shoal_edge_msg_free(msg);
    uint64_t deadline_ms = shoal_session_deadline_ms(conn->session);
    if (deadline_ms != UINT64_MAX) {
        plan_at(w, SHOAL_MAX(deadline_ms * MS, w->now_ns + 1), STEP, (size_t)(node - w->nodes), 1);
    }
    reap(w, node);
    wake(w, node);
}

/* attempt 1 marks a STEP that a deadline asked for, beside the node's own. */
static void step(world *w, size_t node_i, bool own)
{
    sim_node *node = &w->nodes[node_i];
    if (own) {
        w->planned[node_i] = false;
    }
    if (!node->up) {
        return;
    }
    if (!own && w->now_ns < node->now_ns) {
        plan_at(w, node->now_ns, STEP, node_i, 1);
        return;
    }
    node->now_ns = SHOAL_MAX(node->now_ns, w->now_ns);
    sim_node_tick(node);
    reap(w, node);
    w->n_steps++;
    shoal_status status = sim_node_step(node);
    const shoal_kv_pool *pool = shoal_engine_kv(node->backend.engine);
    if (shoal_kv_pool_n_free(pool) > shoal_kv_pool_n_pages(pool)) {
        broken(w, "node %zu has more free pages than pages", node_i);
    }
    reap(w, node);
    if (status == SHOAL_BUSY) {
        node->now_ns += 5 * MS; /* as node.c waits for pages held by the briefly silent */
    }
    if (status != SHOAL_EOF) {
        wake(w, node);
    }
    if (w->n_steps > w->n_steps_max) {
        broken(w, "no progress: %zu steps and %zu of %zu edges are not over", w->n_steps,
               w->n_edges - w->n_over, w->n_edges);
    }
}

static void crash(world *w, size_t node_i)
{
    sim_node *node = &w->nodes[node_i];
    if (!node->up) {
        return;
    }
    for (size_t i = 0; i < w->n_edges; i++) {
        edge *e = &w->edges[i];
        if (e->conn && e->conn->node == node) {
            e->conn = NULL;
            send_letter(w, w->now_ns + delay(w, e), END, i, e->attempt, NULL,
                        SHOAL_RPC_UNAVAILABLE);
        }
    }
    if (!sim_node_stop(node)) {
        broken(w, "node %zu: pages were lost", node_i);
    }
    w->report->n_restarts++;
    plan_at(w, w->now_ns + sim_draw(&w->rng, 1, 500) * MS, BOOT, node_i, 0);
}

static void boot(world *w, size_t node_i)
{
    sim_node *node = &w->nodes[node_i];
    shoal_err err = SHOAL_ERR_INIT;
    node->now_ns = SHOAL_MAX(node->now_ns, w->now_ns);
    node->answer = on_answer;
    node->ctx = w;
    if (sim_node_start(node, w->base, &w->settings, &err) != SHOAL_OK) {
        broken(w, "node %zu did not start: %.160s", node_i, err.text);
    }
}

/* --- events -------------------------------------------------------------------------------------
 */

static void hold(world *w, edge *e, uint32_t attempt, bool held)
{
    sim_conn *conn = e->attempt == attempt ? e->conn : NULL;
    if (conn) {
        sim_node_hold(conn, held);
        wake(w, conn->node);
    }
    if (held) {
        plan_at(w, w->now_ns + sim_draw(&w->rng, 1, 200) * MS, RELEASE, (size_t)(e - w->edges),
                attempt);
    }
}

static void happen_to_edge(world *w, const load_event *event)
{
    edge *e = &w->edges[event->n];
    bool current = e->fate == RUNNING && e->attempt == event->attempt;
    const letter *l = event->data;
    switch ((event_kind)event->kind) {
    case ARRIVE:
    case REOPEN:
        if (current) {
            open_stream(w, e);
        }
        break;
    case DOWN:
        if (current) {
            message_down(w, e, l);
        }
        break;
    case END:
        if (current) {
            e->conn = NULL;
            end_of_stream(w, e, l->status);
        }
        break;
    case CUT:
        if (e->fate == RUNNING && e->conn) {
            reopen_later(w, e);
        }
        break;
    case HOLD:
        hold(w, e, e->attempt, true);
        break;
    case RELEASE:
        hold(w, e, event->attempt, false);
        break;
    case UP:
    case GONE:
    case STEP:
    case CRASH:
    case BOOT:
        SHOAL_ASSERT(false);
    }
}

static void happen(world *w, const load_event *event)
{
    sim_conn *conn = NULL;
    switch ((event_kind)event->kind) {
    case UP:
        message_up(w, event->n, event->attempt, event->data);
        break;
    case GONE:
        conn = find_conn(w, event->n, event->attempt);
        if (conn) {
            sim_node *node = conn->node;
            sim_node_drop(conn);
            wake(w, node);
        }
        break;
    case STEP:
        step(w, event->n, event->attempt == 0);
        break;
    case CRASH:
        crash(w, event->n);
        break;
    case BOOT:
        boot(w, event->n);
        break;
    case ARRIVE:
    case REOPEN:
    case DOWN:
    case END:
    case CUT:
    case HOLD:
    case RELEASE:
        happen_to_edge(w, event);
        break;
    }
}

/* --- a world from a seed ------------------------------------------------------------------------
 */

/* Pages from what the longest session needs alone, a storm of preemption, to plenty. */
static void draw_settings(world *w)
{
    uint64_t *rng = &w->rng;
    size_t rows = sim_draw(rng, 8, 96);
    w->n_nodes = sim_draw(rng, 1, NODES_MAX);
    w->settings = (sim_node_settings){
        .n_pages = sim_chance(rng, 3) ? 64 : sim_draw(rng, 5, 20),
        .n_rows_max = rows,
        .n_logits_max = sim_draw(rng, 2, SHOAL_MIN(rows, (size_t)32)),
        .prefill_chunk = sim_draw(rng, 4, 64),
        .n_conns_max = sim_draw(rng, 2, EDGES_MAX),
        .hold_ms = sim_chance(rng, 2) ? 1000 : sim_draw(rng, 0, 50),
        .prefix_percent = (unsigned)(sim_chance(rng, 3) ? 0 : sim_draw(rng, 1, 100)),
        .step_time_us = sim_chance(rng, 2) ? 0 : sim_draw(rng, 1000, 50000),
        .fixed_ns = sim_draw(rng, 1, 20) * MS,
        .row_ns = sim_draw(rng, 20, 2000) * 1000,
    };
    w->duplicate = sim_chance(rng, 2) ? sim_draw(rng, 3, 30) : 0;
}

static void draw_edge(world *w, size_t i)
{
    uint64_t *rng = &w->rng;
    edge *e = &w->edges[i];
    const load_truth *truth = w->base->truths[sim_draw(rng, 0, SIM_TRUTHS - 1)];
    load_item *item = &truth->items[sim_draw(rng, 0, truth->settings.n_items - 1)];
    const load_edge_settings settings = {
        .mode = sim_chance(rng, 3) ? SHOAL_MODE_CLOUD : SHOAL_MODE_EXACT,
        .span = sim_draw(rng, 1, 9),
        .ahead = sim_draw(rng, 1, 3),
        .accept = (double)sim_draw(rng, 0, 10) / 10,
        .deadline_ms = sim_chance(rng, 10) ? (uint32_t)sim_draw(rng, 1, 3000) : 0,
        .priority = (uint32_t)sim_draw(rng, 0, 7),
        .pace = sim_chance(rng, 4) ? &w->pace : NULL,
        .draft_us = 1000,
    };
    e->restless = sim_chance(rng, 2);
    load_edge_init(&e->state, &settings, truth, item, shoal_rng_next(rng));
    e->tenant = tenants[sim_draw(rng, 0, SHOAL_COUNT(tenants) - 1)];
    e->delay_ns = sim_draw(rng, 0, 60) * MS;
    e->vanish_at = sim_chance(rng, 12) ? item->n_prompt + sim_draw(rng, 0, item->n_out) : SIZE_MAX;
    w->n_steps_max += STEPS_A_TOKEN * (item->n_prompt + item->n_out);
    uint64_t at_ns = sim_draw(rng, 0, 3000) * MS;
    plan_at(w, at_ns, ARRIVE, i, 0);
    if (sim_chance(rng, 5)) {
        plan_at(w, at_ns + sim_draw(rng, 1, 3000) * MS, CUT, i, 0);
    }
    if (sim_chance(rng, 8)) {
        plan_at(w, at_ns + sim_draw(rng, 1, 1000) * MS, HOLD, i, 0);
    }
}

static void draw_world(world *w)
{
    const shoal_pace_settings pace = {.n_draft = 0};
    w->n_steps_max = 2000;
    shoal_pace_init(&w->pace, &pace);
    draw_settings(w);
    w->n_edges = sim_draw(&w->rng, 1, EDGES_MAX);
    for (size_t i = 0; i < w->n_nodes; i++) {
        boot(w, i);
        for (size_t n = sim_chance(&w->rng, 3) ? sim_draw(&w->rng, 1, 3) : 0; n > 0; n--) {
            plan_at(w, sim_draw(&w->rng, 0, 6000) * MS, CRASH, i, 0);
        }
    }
    for (size_t i = 0; i < w->n_edges; i++) {
        draw_edge(w, i);
    }
}

static void run(world *w)
{
    load_event event;
    while (!w->broken && w->n_over < w->n_edges &&
           load_events_take(&w->events, UINT64_MAX, &event)) {
        w->now_ns = event.at_ns;
        happen(w, &event);
        load_event_fini(&event);
        if (w->now_ns > run_ns) {
            broken(w, "an hour has passed and %zu of %zu edges are not over",
                   w->n_edges - w->n_over, w->n_edges);
        }
    }
    if (w->n_over < w->n_edges) {
        broken(w, "nothing will happen and %zu of %zu edges are not over", w->n_edges - w->n_over,
               w->n_edges);
    }
    for (size_t i = 0; i < w->n_nodes; i++) {
        if (!sim_node_stop(&w->nodes[i])) {
            broken(w, "node %zu: pages were lost", i);
        }
    }
}

bool sim_world_run(const sim_base *base, uint64_t seed, sim_report *report)
{
    world *w = shoal_calloc(1, sizeof *w);
    if (!w) {
        (void)snprintf(report->why, sizeof report->why, "out of memory");
        return false;
    }
    w->base = base;
    w->report = report;
    w->rng = seed * 0x9E3779B97F4A7C15U + 1;
    draw_world(w);
    run(w);
    for (size_t i = 0; i < w->n_nodes; i++) {
        report->n_preempted += w->nodes[i].n_preempted;
    }
    report->n_sessions += w->n_edges;
    report->n_steps += w->n_steps;
    bool good = !w->broken;
    load_events_fini(&w->events);
    shoal_free(w);
    return good;
}
