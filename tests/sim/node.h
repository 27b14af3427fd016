/* SPDX-License-Identifier: Apache-2.0
 *
 * One cloud node of a simulation: what cloud/server/node.c does with sessions and back end, without
 * its thread, its inbox and gRPC. Its own clock runs ahead of the world's while a step is computed.
 */
#ifndef SHOAL_TESTS_SIM_NODE_H
#define SHOAL_TESTS_SIM_NODE_H

#include "cloud/server/native.h"
#include "cloud/server/session.h"
#include "tests/sim/sim.h"

enum {
    SIM_CONNS_MAX = 64
};

typedef struct sim_node_settings {
    size_t n_pages; /* of the KV pool */
    size_t n_rows_max;
    size_t n_logits_max;
    size_t prefill_chunk;
    size_t n_conns_max; /* at most SIM_CONNS_MAX */
    uint64_t hold_ms;
    unsigned prefix_percent; /* of the pages, for the prefix cache */
    uint64_t step_time_us;   /* 0: no limit */
    uint64_t fixed_ns;       /* what a step takes: this and so much a row */
    uint64_t row_ns;
} sim_node_settings;

typedef struct sim_node sim_node;

/* One call. */
typedef struct sim_conn {
    sim_node *node; /* NULL: free */
    shoal_session *session;
    bool finished; /* the session has told its end */
    size_t edge;   /* whose, and which of its attempts */
    uint32_t attempt;
    uint64_t last_down_ns; /* answers keep their order */
} sim_conn;

struct sim_node {
    sim_node_settings settings;
    shoal_backend backend;       /* native */
    shoal_cloud_metrics metrics; /* counts nothing */
    shoal_describe describe;
    uint64_t now_ns;
    bool up;
    sim_conn conns[SIM_CONNS_MAX];
    size_t n_preempted;
    /* Where answers go: msg NULL is the end of the call, with status. */
    void (*answer)(void *ctx, sim_conn *conn, const shoal_cloud_msg *msg, shoal_rpc_status status);
    void *ctx;
};

/* Starts with nothing in memory: what a restart is, too. answer and ctx are set by the caller. */
shoal_status sim_node_start(sim_node *node, const sim_base *base, const sim_node_settings *settings,
                            shoal_err *err) SHOAL_MUST_CHECK;
/* Ends as by kill -9: nobody is told. False when pages are missing from the pool afterwards. */
bool sim_node_stop(sim_node *node);

/* NULL: the node has no place. tenant outlives the call. */
sim_conn *sim_node_accept(sim_node *node, const char *tenant, size_t edge, uint32_t attempt);
void sim_node_push(sim_conn *conn, const shoal_edge_msg *msg);
void sim_node_hold(sim_conn *conn, bool hold);
/* The call is over: its edge is gone, or has been told the end. */
void sim_node_drop(sim_conn *conn);
/* Ends sessions whose time is over; to be called at a session's deadline. */
void sim_node_tick(sim_node *node);
/* One step; moves the node's clock. SHOAL_EOF and SHOAL_BUSY as the back end's. */
shoal_status sim_node_step(sim_node *node) SHOAL_MUST_CHECK;

#endif
