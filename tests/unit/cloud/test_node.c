/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine thread with peers that are tables in this file: calls come and go from many threads,
 * readers are slow, floods are held back, ends are told once.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "cloud/server/node.h"
#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/obs/log.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
    N_CALLS = 16,
    N_TOKENS = 40,
    N_PROMPT = 6
};

static rig shared;
static atomic_ullong clock_ns = 1000000000;

static uint64_t read_clock(void *ctx)
{
    (void)ctx;
    return atomic_load(&clock_ns);
}

typedef struct caller {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t text[N_TOKENS];
    size_t n_text;
    size_t n_messages;
    size_t n_finished;
    size_t n_released;
    size_t n_cancelled;
    size_t n_paused;
    size_t n_resumed;
    bool closed_gate; /* send waits: the engine thread stands still */
    bool full;        /* send says SHOAL_BUSY */
    bool broken;      /* send fails */
    shoal_rpc_status status;
    shoal_conn *conn;
    shoal_node *node;
    size_t i;
} caller;

static void changed(caller *c)
{
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static shoal_status on_send(void *ctx, const shoal_cloud_msg *msg)
{
    caller *c = ctx;
    pthread_mutex_lock(&c->lock);
    while (c->closed_gate) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    c->n_messages++;
    if (msg->kind == SHOAL_CLOUD_TOKENS) {
        for (size_t i = 0; i < msg->body.tokens.n_ids; i++) {
            c->text[msg->body.tokens.position + i] = msg->body.tokens.ids[i];
        }
        c->n_text = msg->body.tokens.position + msg->body.tokens.n_ids;
    }
    shoal_status status = c->full ? SHOAL_BUSY : SHOAL_OK;
    if (c->broken) {
        status = SHOAL_E_NOMEM;
    }
    changed(c);
    return status;
}

static void on_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    caller *c = ctx;
    (void)text;
    pthread_mutex_lock(&c->lock);
    c->n_finished++;
    c->status = status;
    changed(c);
}

static void count(caller *c, size_t *counter)
{
    pthread_mutex_lock(&c->lock);
    (*counter)++;
    changed(c);
}

static void on_cancel(void *ctx)
{
    caller *c = ctx;
    count(c, &c->n_cancelled);
}

static void on_pause(void *ctx)
{
    caller *c = ctx;
    count(c, &c->n_paused);
}

static void on_resume(void *ctx)
{
    caller *c = ctx;
    count(c, &c->n_resumed);
}

static void on_release(void *ctx)
{
    caller *c = ctx;
    count(c, &c->n_released);
}

static void wait_for(caller *c, const size_t *counter, size_t n)
{
    pthread_mutex_lock(&c->lock);
    while (*counter < n) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

static size_t read_count(caller *c, const size_t *counter)
{
    pthread_mutex_lock(&c->lock);
    size_t n = *counter;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void set(caller *c, bool *flag, bool value)
{
    pthread_mutex_lock(&c->lock);
    *flag = value;
    changed(c);
}

static shoal_status caller_init(caller *c, shoal_node *node)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->node = node;
    shoal_peer peer = {.send = on_send,
                       .finish = on_finish,
                       .cancel = on_cancel,
                       .pause = on_pause,
                       .resume = on_resume,
                       .release = on_release,
                       .ctx = c,
                       .identity = "spiffe://site-7/gw-3"};
    return shoal_node_accept(node, &peer, &c->conn);
}

static void caller_fini(caller *c)
{
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
}

/* An owned message as the decoder makes them: one block with its ids behind it. */
static shoal_edge_msg *message(shoal_edge_msg_kind kind, const int32_t *ids, size_t n)
{
    shoal_edge_msg *msg = shoal_calloc(1, sizeof(*msg) + n * sizeof(*ids));
    assert_non_null(msg);
    msg->kind = kind;
    if (n > 0) {
        int32_t *copy = (int32_t *)(msg + 1);
        memcpy(copy, ids, n * sizeof(*ids));
        msg->body.tokens = (shoal_msg_tokens){.kind = SHOAL_TOKENS_PROMPT, .ids = copy, .n_ids = n};
    }
    return msg;
}

static void push_open(caller *c, const shoal_sampling *sampling)
{
    shoal_edge_msg *msg = message(SHOAL_EDGE_OPEN, NULL, 0);
    msg->body.open = edge_open_message(&shared, sampling, N_TOKENS);
    const shoal_describe *d = shoal_node_describe(c->node);
    msg->body.open.model = d->model;
    assert_int_equal(shoal_conn_push(c->conn, msg, 100), SHOAL_OK);
}

static void push_generate(caller *c, const int32_t *prompt)
{
    assert_int_equal(shoal_conn_push(c->conn, message(SHOAL_EDGE_TOKENS, prompt, N_PROMPT), 40),
                     SHOAL_OK);
    shoal_edge_msg *msg = message(SHOAL_EDGE_CONTINUE, NULL, 0);
    msg->body.cont = (shoal_msg_continue){.position = N_PROMPT, .n_max = N_TOKENS};
    assert_int_equal(shoal_conn_push(c->conn, msg, 10), SHOAL_OK);
}

static shoal_node *node_new(size_t n_sessions_max)
{
    shoal_node_settings settings = shoal_node_settings_default();
    settings.engine.n_threads = 1;
    settings.engine.kv_bytes = 4 << 20;
    settings.engine.n_rows_max = 64;
    settings.engine.n_logits_max = 16;
    settings.n_sessions_max = n_sessions_max;
    settings.idle_ms = 60000;
    settings.clock = (shoal_clock){.now_ns = read_clock, .ctx = NULL};
    shoal_node *node = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_node_new(shared.model, &settings, NULL, &node, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return node;
}

static void make_prompt(size_t i, int32_t *ids)
{
    for (size_t k = 0; k < N_PROMPT; k++) {
        ids[k] = (int32_t)(3 + (i * 31 + k * 7) % (SHOAL_TINY_VOCAB - 3));
    }
}

static void *generate(void *ctx)
{
    caller *c = ctx;
    shoal_sampling sampling = shoal_sampling_default();
    sampling.seed = c->i;
    int32_t prompt[N_PROMPT];
    make_prompt(c->i, prompt);
    push_open(c, &sampling);
    push_generate(c, prompt);
    shoal_conn_half_close(c->conn);
    wait_for(c, &c->n_finished, 1);
    shoal_conn_gone(c->conn, true);
    wait_for(c, &c->n_released, 1);
    return NULL;
}

static void test_calls_from_many_threads_equal_alone(void **state)
{
    (void)state;
    static caller callers[N_CALLS];
    pthread_t threads[N_CALLS];
    shoal_node *node = node_new(N_CALLS);
    for (size_t i = 0; i < N_CALLS; i++) {
        assert_int_equal(caller_init(&callers[i], node), SHOAL_OK);
        callers[i].i = i;
        assert_int_equal(pthread_create(&threads[i], NULL, generate, &callers[i]), 0);
    }
    for (size_t i = 0; i < N_CALLS; i++) {
        pthread_join(threads[i], NULL);
        int32_t truth[N_TOKENS];
        make_prompt(i, truth);
        shoal_sampling sampling = shoal_sampling_default();
        sampling.seed = i;
        size_t n = rig_decode(&shared, &sampling, truth, N_PROMPT, N_TOKENS);
        assert_int_equal(callers[i].status, SHOAL_RPC_OK);
        assert_int_equal(callers[i].n_text, n);
        assert_memory_equal(callers[i].text + N_PROMPT, truth + N_PROMPT,
                            (n - N_PROMPT) * sizeof(int32_t));
        caller_fini(&callers[i]);
    }
    shoal_node_free(node);
}

static void test_accept_past_limit_is_busy_until_one_goes(void **state)
{
    (void)state;
    static caller callers[3];
    shoal_node *node = node_new(2);
    assert_int_equal(caller_init(&callers[0], node), SHOAL_OK);
    assert_int_equal(caller_init(&callers[1], node), SHOAL_OK);
    assert_int_equal(shoal_node_n_conns(node), 2);
    assert_int_equal(caller_init(&callers[2], node), SHOAL_BUSY);
    caller_fini(&callers[2]);
    shoal_conn_gone(callers[0].conn, true);
    wait_for(&callers[0], &callers[0].n_released, 1);
    /* The place is free a moment after release. */
    while (shoal_node_n_conns(node) == 2) {
    }
    assert_int_equal(caller_init(&callers[2], node), SHOAL_OK);
    shoal_node_free(node);
    assert_int_equal(callers[1].status, SHOAL_RPC_UNAVAILABLE);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(callers[i].n_released, 1);
        caller_fini(&callers[i]);
    }
}

/* Who has heard the end of a session finds its place free, though the call is not gone yet; of such
 * calls there are so many and no more. */
static void test_place_is_free_once_the_end_is_told(void **state)
{
    (void)state;
    enum {
        N = SHOAL_NODE_ENDED_MAX + 1
    };
    static caller callers[N + 2];
    shoal_node *node = node_new(1);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(caller_init(&callers[i], node), SHOAL_OK);
        assert_int_equal(caller_init(&callers[N], node), SHOAL_BUSY); /* it has not ended */
        caller_fini(&callers[N]);
        shoal_conn_fail(callers[i].conn, SHOAL_RPC_INVALID_ARGUMENT, "no message");
        wait_for(&callers[i], &callers[i].n_messages, 1);
    }
    assert_int_equal(shoal_node_n_conns(node), N);
    assert_int_equal(caller_init(&callers[N], node), SHOAL_BUSY); /* it has, but too many linger */
    caller_fini(&callers[N]);
    shoal_conn_gone(callers[N - 1].conn, true);
    while (shoal_node_n_conns(node) == N) {
    }
    assert_int_equal(caller_init(&callers[N], node), SHOAL_OK);
    shoal_conn_gone(callers[N].conn, false); /* gone without an end */
    while (shoal_node_n_conns(node) == N) {
    }
    assert_int_equal(caller_init(&callers[N + 1], node), SHOAL_OK);
    shoal_node_free(node);
    for (size_t i = 0; i < N + 2; i++) {
        assert_int_equal(callers[i].n_released, 1);
        caller_fini(&callers[i]);
    }
}

static void test_slow_reader_stops_its_own_generation_only(void **state)
{
    (void)state;
    static caller slow;
    static caller quick;
    shoal_node *node = node_new(4);
    assert_int_equal(caller_init(&slow, node), SHOAL_OK);
    assert_int_equal(caller_init(&quick, node), SHOAL_OK);
    slow.full = true;
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    int32_t prompt[N_PROMPT];
    make_prompt(1, prompt);
    push_open(&slow, &sampling);
    push_generate(&slow, prompt);
    wait_for(&slow, &slow.n_messages, 1);
    push_open(&quick, &sampling);
    push_generate(&quick, prompt);
    shoal_conn_half_close(quick.conn);
    wait_for(&quick, &quick.n_finished, 1);
    /* Opened was refused further room, so not one token followed. */
    assert_int_equal(read_count(&slow, &slow.n_messages), 1);
    set(&slow, &slow.full, false);
    shoal_conn_drained(slow.conn);
    shoal_conn_half_close(slow.conn);
    wait_for(&slow, &slow.n_finished, 1);
    assert_memory_equal(slow.text, quick.text, sizeof(slow.text));
    shoal_conn_gone(slow.conn, true);
    shoal_conn_gone(quick.conn, true);
    shoal_node_free(node);
    caller_fini(&slow);
    caller_fini(&quick);
}

static void test_flood_is_paused_then_refused_and_resumed(void **state)
{
    (void)state;
    static caller c;
    shoal_node *node = node_new(1);
    assert_int_equal(caller_init(&c, node), SHOAL_OK);
    c.closed_gate = true;
    shoal_sampling sampling = shoal_sampling_default();
    push_open(&c, &sampling);
    /* The engine thread now waits in send, or will: the open message stays counted until it
     * returns. */
    size_t n = 1;
    while (n < SHOAL_NODE_QUEUED_MAX) {
        assert_int_equal(shoal_conn_push(c.conn, message(SHOAL_EDGE_CANCEL, NULL, 0), 2), SHOAL_OK);
        n++;
        assert_int_equal(read_count(&c, &c.n_paused) > 0, n >= SHOAL_NODE_QUEUED_HIGH);
    }
    assert_int_equal(shoal_conn_push(c.conn, message(SHOAL_EDGE_CANCEL, NULL, 0), 2),
                     SHOAL_E_EXHAUSTED);
    shoal_conn_fail(c.conn, SHOAL_RPC_RESOURCE_EXHAUSTED, "too many");
    shoal_conn_fail(c.conn, SHOAL_RPC_INTERNAL, "a second one does not count");
    assert_int_equal(read_count(&c, &c.n_resumed), 0);
    set(&c, &c.closed_gate, false);
    wait_for(&c, &c.n_resumed, 1);
    wait_for(&c, &c.n_finished, 1);
    assert_int_equal(c.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    shoal_conn_gone(c.conn, true);
    shoal_node_free(node);
    assert_int_equal(c.n_finished, 1);
    assert_int_equal(c.n_released, 1);
    caller_fini(&c);
}

static void test_stream_with_a_hole_is_cancelled(void **state)
{
    (void)state;
    static caller c;
    shoal_node *node = node_new(1);
    assert_int_equal(caller_init(&c, node), SHOAL_OK);
    c.broken = true;
    shoal_sampling sampling = shoal_sampling_default();
    push_open(&c, &sampling);
    wait_for(&c, &c.n_cancelled, 1);
    shoal_conn_gone(c.conn, true);
    shoal_node_free(node);
    assert_int_equal(c.n_cancelled, 1);
    caller_fini(&c);
}

static void test_silence_ends_the_call_and_then_cancels(void **state)
{
    (void)state;
    static caller c;
    shoal_node *node = node_new(1);
    assert_int_equal(caller_init(&c, node), SHOAL_OK);
    shoal_sampling sampling = shoal_sampling_default();
    push_open(&c, &sampling);
    wait_for(&c, &c.n_messages, 1);
    atomic_fetch_add(&clock_ns, 59000000000ull);
    shoal_conn_drained(c.conn);
    shoal_conn_drained(c.conn);
    assert_int_equal(read_count(&c, &c.n_finished), 0);
    atomic_fetch_add(&clock_ns, 1000000000ull);
    shoal_conn_drained(c.conn);
    wait_for(&c, &c.n_finished, 1);
    assert_int_equal(c.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    assert_int_equal(read_count(&c, &c.n_cancelled), 0);
    /* A peer that does not even take its end is cut off. */
    atomic_fetch_add(&clock_ns, 60000000000ull);
    shoal_conn_drained(c.conn);
    wait_for(&c, &c.n_cancelled, 1);
    shoal_conn_gone(c.conn, true);
    shoal_node_free(node);
    caller_fini(&c);
}

static void test_outcomes_are_counted_by_code(void **state)
{
    (void)state;
    static caller kept;
    static caller cut;
    shoal_metrics *registry = NULL;
    shoal_buf buf = {0};
    shoal_node *node = NULL;
    shoal_node_settings settings = shoal_node_settings_default();
    settings.engine.n_threads = 1;
    settings.engine.kv_bytes = 4 << 20;
    settings.n_sessions_max = 2;
    assert_int_equal(shoal_metrics_new(&registry), SHOAL_OK);
    assert_int_equal(shoal_node_new(shared.model, &settings, registry, &node, NULL), SHOAL_OK);
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = 0.0f;
    int32_t prompt[N_PROMPT];
    make_prompt(1, prompt);
    assert_int_equal(caller_init(&kept, node), SHOAL_OK);
    push_open(&kept, &sampling);
    push_generate(&kept, prompt);
    shoal_conn_half_close(kept.conn);
    wait_for(&kept, &kept.n_finished, 1);
    shoal_conn_gone(kept.conn, true);
    /* A broken connection looks half-closed before it is gone: that is no good end. */
    assert_int_equal(caller_init(&cut, node), SHOAL_OK);
    shoal_conn_half_close(cut.conn);
    shoal_conn_gone(cut.conn, false);
    wait_for(&cut, &cut.n_released, 1);
    shoal_node_free(node);
    assert_int_equal(shoal_metrics_render(registry, &buf), SHOAL_OK);
    assert_non_null(strstr(buf.data, "shoal_requests_total{code=\"ok\"} 1\n"));
    assert_non_null(strstr(buf.data, "shoal_requests_total{code=\"cancelled\"} 1\n"));
    assert_non_null(strstr(buf.data, "shoal_tokens_total{kind=\"prompt\",place=\"cloud\"} 6\n"));
    assert_non_null(strstr(buf.data, "shoal_time_to_first_token_seconds_count 1\n"));
    assert_non_null(strstr(buf.data, "shoal_time_per_output_token_seconds_count 1\n"));
    assert_non_null(strstr(buf.data, "shoal_tokens_total{kind=\"cached\",place=\"cloud\"} 0\n"));
    assert_non_null(strstr(buf.data, "shoal_requests_running 0\n"));
    shoal_buf_fini(&buf);
    shoal_metrics_free(registry);
    caller_fini(&kept);
    caller_fini(&cut);
}

static void test_node_new_out_of_memory_leaks_nothing(void **state)
{
    (void)state;
    shoal_node_settings settings = shoal_node_settings_default();
    settings.engine.n_threads = 1;
    settings.engine.kv_bytes = 1 << 20;
    settings.engine.n_rows_max = 16;
    settings.engine.n_logits_max = 4;
    settings.n_sessions_max = 2;
    for (uint64_t i = 0;; i++) {
        shoal_node *node = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_node_new(shared.model, &settings, NULL, &node, &err);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            shoal_node_free(node);
            assert_true(i > 5);
            return;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

static void test_node_settings_out_of_range_are_refused(void **state)
{
    (void)state;
    shoal_node_settings settings = shoal_node_settings_default();
    shoal_node *node = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    settings.n_sessions_max = 0;
    assert_int_equal(shoal_node_new(shared.model, &settings, NULL, &node, &err), SHOAL_E_INVALID);
    shoal_err_clear(&err);
    settings.n_sessions_max = SHOAL_NODE_SESSIONS_MAX + 1;
    assert_int_equal(shoal_node_new(shared.model, &settings, NULL, &node, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "sessions.max"));
}

static int setup(void **state)
{
    (void)state;
    shoal_log_set_level(SHOAL_LOG_ERROR);
    rig_init(&shared, &(rig_settings){.seed = 7});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_fini(&shared);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_from_many_threads_equal_alone),
        cmocka_unit_test(test_accept_past_limit_is_busy_until_one_goes),
        cmocka_unit_test(test_place_is_free_once_the_end_is_told),
        cmocka_unit_test(test_slow_reader_stops_its_own_generation_only),
        cmocka_unit_test(test_flood_is_paused_then_refused_and_resumed),
        cmocka_unit_test(test_stream_with_a_hole_is_cancelled),
        cmocka_unit_test(test_silence_ends_the_call_and_then_cancels),
        cmocka_unit_test(test_outcomes_are_counted_by_code),
        cmocka_unit_test(test_node_new_out_of_memory_leaks_nothing),
        cmocka_unit_test(test_node_settings_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
