/* SPDX-License-Identifier: Apache-2.0
 *
 * Server and clients in one process over a real connection: what a test peer cannot show, the
 * bytes, the statuses and what happens when one side goes away.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "cloud/server/service.h"
#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/obs/log.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    N_CLIENTS = 16,
    N_TEXT = 60,
    N_PROMPT = 9,
    N_INBOX = 512,
    N_SESSIONS = 17
};

static rig shared;
static uint64_t service_now_ns = 1000000000; /* moved by tests while nothing is open */
static shoal_rpc *rpc;
static shoal_node *node;
static shoal_service *service;
static shoal_rpc_channel *channel;

/* One call as a client sees it: messages in order, then the status. */
typedef struct client {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    shoal_cloud_msg *messages[N_INBOX];
    size_t n_messages;
    size_t n_read;
    bool described; /* into told */
    bool closed;
    shoal_rpc_status status;
    char details[SHOAL_WIRE_TEXT_MAX];
    shoal_rpc_call *call;
    uint64_t i;
} client;

static void on_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    client *c = user;
    shoal_cloud_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_cloud_msg_decode(data, n, SHOAL_TINY_VOCAB, &msg, &err);
    pthread_mutex_lock(&c->lock);
    if (status != SHOAL_OK || c->n_messages == N_INBOX) {
        snprintf(c->details, sizeof(c->details), "bad message: %.200s", err.text);
        shoal_cloud_msg_free(msg);
    } else {
        c->messages[c->n_messages++] = msg;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static shoal_describe told; /* of the one call that asks, under its lock */

static void on_describe(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)call;
    client *c = user;
    pthread_mutex_lock(&c->lock);
    c->described = shoal_describe_decode(data, n, &told, NULL) == SHOAL_OK;
    pthread_mutex_unlock(&c->lock);
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    client *c = user;
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    c->status = status;
    snprintf(c->details, sizeof(c->details), "%s", details == NULL ? "" : details);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static const shoal_rpc_handlers generate_handlers = {.on_message = on_message,
                                                     .on_close = on_close};
static const shoal_rpc_handlers describe_handlers = {.on_message = on_describe,
                                                     .on_close = on_close};

static void client_init(client *c, const char *path, const shoal_rpc_handlers *handlers)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    assert_int_equal(shoal_rpc_call_open(channel, path, handlers, c, 0, true, &c->call), SHOAL_OK);
}

static void wait_closed(client *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->closed) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Ends the call if it is still open. */
static void client_fini(client *c)
{
    shoal_rpc_call_cancel(c->call);
    wait_closed(c);
    shoal_rpc_call_unref(c->call);
    for (size_t i = 0; i < c->n_messages; i++) {
        shoal_cloud_msg_free(c->messages[i]);
    }
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
}

/* The next message, or NULL when the call ended. Stays owned by the client. */
static const shoal_cloud_msg *next_message(client *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->n_read == c->n_messages && !c->closed) {
        pthread_cond_wait(&c->changed, &c->lock);
    }
    const shoal_cloud_msg *msg = c->n_read < c->n_messages ? c->messages[c->n_read++] : NULL;
    pthread_mutex_unlock(&c->lock);
    return msg;
}

static void send_message(client *c, const shoal_edge_msg *msg)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_edge_msg_encode(msg, &buf), SHOAL_OK);
    shoal_status status = shoal_rpc_call_send(c->call, buf.data, buf.length);
    assert_true(status == SHOAL_OK || status == SHOAL_BUSY || status == SHOAL_E_CANCELLED);
    shoal_buf_fini(&buf);
}

static void send_open(client *c, const shoal_sampling *sampling)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, sampling, N_TEXT)};
    send_message(c, &msg);
}

static void send_tokens(client *c, uint32_t epoch, shoal_token_kind kind, size_t position,
                        const int32_t *ids, size_t n)
{
    shoal_edge_msg msg = {
        .kind = SHOAL_EDGE_TOKENS,
        .body.tokens = {
            .epoch = epoch, .position = (uint32_t)position, .kind = kind, .ids = ids, .n_ids = n}};
    send_message(c, &msg);
}

static void send_simple(client *c, shoal_edge_msg_kind kind)
{
    send_message(c, &(shoal_edge_msg){.kind = kind});
}

static void make_prompt(uint64_t i, int32_t *ids)
{
    for (size_t k = 0; k < N_PROMPT; k++) {
        ids[k] = (int32_t)(3 + (i * 13 + k * 5) % (SHOAL_TINY_VOCAB - 3));
    }
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_describe_tells_the_model(void **state)
{
    (void)state;
    client c;
    client_init(&c, "/shoal.v1.Cloud/Describe", &describe_handlers);
    assert_int_equal(shoal_rpc_call_send(c.call, "", 0), SHOAL_OK);
    shoal_rpc_call_half_close(c.call);
    wait_closed(&c);
    assert_int_equal(c.status, SHOAL_RPC_OK);
    assert_true(c.described);
    assert_memory_equal(&told.model, &shared.model->hash, sizeof(shoal_hash));
    assert_int_equal(told.n_vocab, SHOAL_TINY_VOCAB);
    assert_int_equal(told.protocol, SHOAL_WIRE_PROTOCOL);
    assert_string_equal(told.name, "test model");
    client_fini(&c);
    client_init(&c, "/shoal.v1.Cloud/Describe", &describe_handlers);
    shoal_rpc_call_half_close(c.call);
    wait_closed(&c);
    assert_int_equal(c.status, SHOAL_RPC_INVALID_ARGUMENT);
    client_fini(&c);
}

static void test_open_mismatch_is_refused(void **state)
{
    (void)state;
    client c;
    client_init(&c, "/shoal.v1.Cloud/Generate", &generate_handlers);
    shoal_sampling sampling = shoal_sampling_default();
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, &sampling, N_TEXT)};
    memset(msg.body.open.model.bytes, 0xcd, SHOAL_HASH_BYTES);
    send_message(&c, &msg);
    const shoal_cloud_msg *answer = next_message(&c);
    assert_non_null(answer);
    assert_int_equal(answer->kind, SHOAL_CLOUD_ERROR);
    assert_int_equal(answer->body.error.code, SHOAL_RPC_FAILED_PRECONDITION);
    assert_non_null(strstr(answer->body.error.text, "cdcdcdcdcdcd"));
    wait_closed(&c);
    assert_int_equal(c.status, SHOAL_RPC_FAILED_PRECONDITION);
    assert_non_null(strstr(c.details, "model mismatch"));
    client_fini(&c);
}

static void test_bytes_that_are_no_message_end_the_call(void **state)
{
    (void)state;
    const uint8_t garbage[] = {0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3};
    client c;
    client_init(&c, "/shoal.v1.Cloud/Generate", &generate_handlers);
    assert_int_equal(shoal_rpc_call_send(c.call, garbage, sizeof(garbage)), SHOAL_OK);
    wait_closed(&c);
    assert_int_equal(c.status, SHOAL_RPC_INVALID_ARGUMENT);
    client_fini(&c);
}

/* Drafts the truth with every seventh id wrong, two spans in flight, until the text is whole. */
static void speculate(client *c, const int32_t *truth, size_t n)
{
    int32_t text[N_TEXT + 1];
    uint32_t epoch = 0;
    size_t n_confirmed = N_PROMPT;
    size_t n_sent = N_PROMPT;
    memcpy(text, truth, N_PROMPT * sizeof(*text));
    while (n_confirmed < n) {
        for (size_t span = 0; span < 2 && n_sent < n; span++) {
            size_t n_ids = SHOAL_MIN((size_t)5, n - n_sent);
            for (size_t k = n_sent; k < n_sent + n_ids; k++) {
                text[k] = (k + c->i) % 7 == 0 ? (truth[k] + 1) % SHOAL_TINY_VOCAB : truth[k];
            }
            send_tokens(c, epoch, SHOAL_TOKENS_DRAFT, n_sent, text + n_sent, n_ids);
            n_sent += n_ids;
        }
        const shoal_cloud_msg *msg = next_message(c);
        if (msg == NULL || msg->kind != SHOAL_CLOUD_VERDICT) {
            fail_msg("no verdict: %s", c->details);
            return;
        }
        const shoal_msg_verdict *v = &msg->body.verdict;
        bool void_drafts = v->epoch > epoch;
        epoch = SHOAL_MAX(epoch, v->epoch);
        n_confirmed = SHOAL_MAX(n_confirmed, (size_t)v->accepted_to);
        for (size_t k = 0; k < v->n_ids; k++) {
            size_t position = v->accepted_to + k;
            bool wrong =
                position >= n_confirmed && position < n_sent && text[position] != v->ids[k];
            if (wrong && !void_drafts) {
                void_drafts = true;
                epoch++;
            }
            if (position >= n_confirmed) {
                text[position] = v->ids[k];
                n_confirmed = position + 1;
            }
        }
        n_sent = void_drafts ? n_confirmed : SHOAL_MAX(n_sent, n_confirmed);
    }
    assert_memory_equal(text, truth, n * sizeof(*text));
}

typedef struct run {
    client client;
    pthread_t thread;
    int32_t truth[N_TEXT];
    size_t n_truth;
    shoal_sampling sampling;
} run;

static void *run_main(void *ctx)
{
    run *r = ctx;
    client *c = &r->client;
    send_open(c, &r->sampling);
    send_tokens(c, 0, SHOAL_TOKENS_PROMPT, 0, r->truth, N_PROMPT);
    const shoal_cloud_msg *msg = next_message(c);
    assert_true(msg != NULL && msg->kind == SHOAL_CLOUD_OPENED);
    speculate(c, r->truth, r->n_truth);
    send_simple(c, SHOAL_EDGE_CLOSE);
    do {
        msg = next_message(c);
    } while (msg != NULL && msg->kind != SHOAL_CLOUD_FINISHED);
    assert_non_null(msg);
    assert_int_equal(msg->body.finished.n_prompt, N_PROMPT);
    wait_closed(c);
    return NULL;
}

static void test_concurrent_sessions_equal_alone(void **state)
{
    (void)state;
    static run runs[N_CLIENTS];
    for (size_t i = 0; i < N_CLIENTS; i++) {
        run *r = &runs[i];
        r->sampling = shoal_sampling_default();
        r->sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
        r->sampling.seed = i;
        make_prompt(i, r->truth);
        r->n_truth = rig_decode(&shared, &r->sampling, r->truth, N_PROMPT, N_TEXT);
    }
    for (size_t i = 0; i < N_CLIENTS; i++) {
        client_init(&runs[i].client, "/shoal.v1.Cloud/Generate", &generate_handlers);
        runs[i].client.i = i;
        assert_int_equal(pthread_create(&runs[i].thread, NULL, run_main, &runs[i]), 0);
    }
    for (size_t i = 0; i < N_CLIENTS; i++) {
        pthread_join(runs[i].thread, NULL);
        assert_int_equal(runs[i].client.status, SHOAL_RPC_OK);
        client_fini(&runs[i].client);
    }
}

/* Sessions end on the engine thread, a moment after the call. */
static void wait_empty(void)
{
    while (shoal_node_n_conns(node) > 0) {
    }
}

static void test_client_that_vanishes_frees_its_session(void **state)
{
    (void)state;
    wait_empty();
    shoal_sampling sampling = shoal_sampling_default();
    int32_t prompt[N_PROMPT];
    make_prompt(3, prompt);
    client c;
    client_init(&c, "/shoal.v1.Cloud/Generate", &generate_handlers);
    send_open(&c, &sampling);
    send_tokens(&c, 0, SHOAL_TOKENS_PROMPT, 0, prompt, N_PROMPT);
    assert_non_null(next_message(&c));
    assert_int_equal(shoal_node_n_conns(node), 1);
    shoal_rpc_call_cancel(c.call);
    wait_empty();
    client_fini(&c);
}

static void test_sessions_past_the_limit_are_told_to_wait(void **state)
{
    (void)state;
    wait_empty();
    static client clients[N_SESSIONS + 1];
    shoal_sampling sampling = shoal_sampling_default();
    for (size_t i = 0; i < N_SESSIONS; i++) {
        client_init(&clients[i], "/shoal.v1.Cloud/Generate", &generate_handlers);
        send_open(&clients[i], &sampling);
        const shoal_cloud_msg *msg = next_message(&clients[i]);
        assert_true(msg != NULL && msg->kind == SHOAL_CLOUD_OPENED);
    }
    client *last = &clients[N_SESSIONS];
    client_init(last, "/shoal.v1.Cloud/Generate", &generate_handlers);
    send_open(last, &sampling);
    const shoal_cloud_msg *msg = next_message(last);
    assert_true(msg != NULL && msg->kind == SHOAL_CLOUD_BUSY);
    assert_true(msg->body.busy_retry_after_ms > 0);
    wait_closed(last);
    assert_int_equal(last->status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    for (size_t i = 0; i <= N_SESSIONS; i++) {
        client_fini(&clients[i]);
    }
}

static void set_quotas(const shoal_admit_quota *quota)
{
    shoal_admit_quotas *quotas = NULL;
    assert_int_equal(shoal_admit_quotas_new(quota, "", &quotas, NULL), SHOAL_OK);
    assert_int_equal(shoal_service_configure(service, &(shoal_rpc_tls){0}, 0, quotas, NULL),
                     SHOAL_OK);
}

/* Opens with room for n tokens; what the first answer is, 0: the call ended without one. */
static int try_open_until(client *c, uint32_t n_tokens_max, uint32_t deadline_ms)
{
    client_init(c, "/shoal.v1.Cloud/Generate", &generate_handlers);
    shoal_sampling sampling = shoal_sampling_default();
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(&shared, &sampling, n_tokens_max)};
    msg.body.open.deadline_ms = deadline_ms;
    send_message(c, &msg);
    const shoal_cloud_msg *answer = next_message(c);
    return answer == NULL ? 0 : (int)answer->kind;
}

static int try_open(client *c, uint32_t n_tokens_max)
{
    return try_open_until(c, n_tokens_max, 0);
}

static void test_what_never_fits_gets_no_time_to_come_back(void **state)
{
    (void)state;
    client c;
    assert_int_equal(try_open(&c, 1 << 20), SHOAL_CLOUD_ERROR);
    wait_closed(&c);
    assert_int_equal(c.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(c.details, "context.max"));
    client_fini(&c);
}

/* Sessions of a quarter of the pool each, that say nothing: the fifth is refused while they stay,
 * not when its deadline has passed, for the service's clock stands still. */
static void test_pool_that_is_promised_refuses_at_once(void **state)
{
    (void)state;
    wait_empty();
    shoal_node_limits limits = shoal_node_limits_get(node);
    size_t n_quarter = shoal_node_pages_for(node, SHOAL_TINY_CTX);
    assert_int_equal(limits.n_pages, 4 * n_quarter);
    static client four[4];
    static client fifth;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(try_open(&four[i], SHOAL_TINY_CTX), SHOAL_CLOUD_OPENED);
    }
    /* None of them has ended in ten minutes; what is left fits exactly, whatever the deadline. */
    service_now_ns += UINT64_C(600000) * 1000000;
    assert_int_equal(try_open_until(&four[3], SHOAL_TINY_CTX, 30000), SHOAL_CLOUD_OPENED);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(try_open_until(&fifth, 1, 10000), SHOAL_CLOUD_BUSY);
        assert_true(fifth.messages[0]->body.busy_retry_after_ms >= 100);
        wait_closed(&fifth);
        assert_int_equal(fifth.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
        assert_non_null(strstr(fifth.details, "kv.max_mib"));
        assert_non_null(strstr(fifth.details, "open.deadline_ms is 10000 ms"));
        client_fini(&fifth);
    }
    /* Who has the time is taken: its page is there by then. */
    assert_int_equal(try_open_until(&fifth, 1, 3600000), SHOAL_CLOUD_OPENED);
    client_fini(&fifth);
    send_simple(&four[0], SHOAL_EDGE_CLOSE);
    wait_closed(&four[0]);
    client_fini(&four[0]);
    assert_int_equal(try_open_until(&four[0], 1, 10000), SHOAL_CLOUD_OPENED);
    for (size_t i = 0; i < 4; i++) {
        client_fini(&four[i]);
    }
    wait_empty();
}

/* Behind a long prompt that is computed just then, nobody who has a millisecond begins. How long
 * the prompt takes is the machine's affair, so it is tried until one came in time. */
static void test_wait_past_a_short_deadline_is_refused(void **state)
{
    (void)state;
    enum {
        N_LONG = 1000,
        N_TRIES = 500
    };
    static int32_t prompt[N_LONG];
    bool refused = false;
    for (size_t i = 0; i < N_TRIES && !refused; i++) {
        wait_empty();
        client reader;
        client hasty;
        assert_int_equal(try_open(&reader, SHOAL_TINY_CTX), SHOAL_CLOUD_OPENED);
        rig_prompt(1000 + i, prompt, N_LONG); /* each another one: none is found */
        send_tokens(&reader, 0, SHOAL_TOKENS_PROMPT, 0, prompt, N_LONG);
        refused = try_open_until(&hasty, 1, 1) == SHOAL_CLOUD_BUSY;
        if (refused) {
            wait_closed(&hasty);
            assert_int_equal(hasty.status, SHOAL_RPC_RESOURCE_EXHAUSTED);
            assert_non_null(strstr(hasty.details, "the first token would come after"));
            assert_non_null(strstr(hasty.details, "open.deadline_ms is 1 ms"));
        }
        client_fini(&hasty);
        client_fini(&reader);
    }
    assert_true(refused);
    wait_empty();
}

static void test_tenant_over_its_quota_is_told_when(void **state)
{
    (void)state;
    wait_empty();
    set_quotas(&(shoal_admit_quota){.n_sessions = 2});
    client clients[3];
    assert_int_equal(try_open(&clients[0], N_TEXT), SHOAL_CLOUD_OPENED);
    assert_int_equal(try_open(&clients[1], N_TEXT), SHOAL_CLOUD_OPENED);
    assert_int_equal(try_open(&clients[2], N_TEXT), SHOAL_CLOUD_BUSY);
    assert_true(clients[2].messages[0]->body.busy_retry_after_ms >= SHOAL_ADMIT_RETRY_MS_MIN);
    wait_closed(&clients[2]);
    assert_int_equal(clients[2].n_messages, 1); /* the status says the rest */
    assert_non_null(strstr(clients[2].details, "tenants.sessions_max"));
    set_quotas(&(shoal_admit_quota){0});
    client_fini(&clients[2]);
    assert_int_equal(try_open(&clients[2], N_TEXT), SHOAL_CLOUD_OPENED);
    for (size_t i = 0; i < 3; i++) {
        client_fini(&clients[i]);
    }
    wait_empty();
}

/* Tokens in and out are charged: a prompt of nine empties a bucket of nine. */
static void test_tokens_are_charged_to_the_tenant(void **state)
{
    (void)state;
    wait_empty();
    set_quotas(&(shoal_admit_quota){.tokens_per_s = 1, .tokens_burst = N_PROMPT});
    int32_t prompt[N_PROMPT];
    make_prompt(3, prompt);
    client one;
    client two;
    assert_int_equal(try_open(&one, N_TEXT), SHOAL_CLOUD_OPENED);
    send_tokens(&one, 0, SHOAL_TOKENS_PROMPT, 0, prompt, N_PROMPT);
    shoal_edge_msg cont = {.kind = SHOAL_EDGE_CONTINUE,
                           .body.cont = {.position = N_PROMPT, .n_max = 2}};
    send_message(&one, &cont);
    const shoal_cloud_msg *msg = next_message(&one);
    assert_true(msg != NULL && msg->kind == SHOAL_CLOUD_TOKENS);
    assert_int_equal(try_open(&two, N_TEXT), SHOAL_CLOUD_BUSY);
    wait_closed(&two);
    assert_non_null(strstr(two.details, "tenants.tokens_per_s"));
    set_quotas(&(shoal_admit_quota){0});
    client_fini(&one);
    client_fini(&two);
    wait_empty();
}

/* The clock stands still until then: nobody is ended early. */
static void test_call_that_says_nothing_is_ended(void **state)
{
    (void)state;
    wait_empty();
    client silent;
    client open;
    client_init(&silent, "/shoal.v1.Cloud/Generate", &generate_handlers);
    assert_int_equal(try_open(&open, N_TEXT), SHOAL_CLOUD_OPENED); /* silent has come before it */
    shoal_service_sweep(service);
    assert_false(silent.closed);
    service_now_ns += UINT64_C(10000) * 1000000;
    shoal_service_sweep(service);
    wait_closed(&silent);
    assert_int_equal(silent.status, SHOAL_RPC_DEADLINE_EXCEEDED);
    assert_non_null(strstr(silent.details, "10 s"));
    assert_false(open.closed);
    client_fini(&silent);
    client_fini(&open);
    wait_empty();
}

/* Last: the service is gone after it. */
static void test_drain_cancels_what_stays_and_refuses_new_calls(void **state)
{
    (void)state;
    client c;
    client_init(&c, "/shoal.v1.Cloud/Generate", &generate_handlers);
    shoal_sampling sampling = shoal_sampling_default();
    send_open(&c, &sampling);
    assert_non_null(next_message(&c));
    shoal_service_drain(service, 50);
    wait_closed(&c);
    assert_true(c.status != SHOAL_RPC_OK);
    wait_empty();
    client_fini(&c);
}

static int setup(void **state)
{
    (void)state;
    shoal_log_set_level(SHOAL_LOG_ERROR);
    rig_init(&shared, &(rig_settings){.seed = 7});
    shoal_node_settings settings = shoal_node_settings_default();
    settings.engine.n_threads = 1;
    settings.engine.kv_bytes = 2 << 20; /* four sessions of SHOAL_TINY_CTX tokens */
    settings.engine.n_rows_max = 64;
    settings.engine.n_logits_max = 32;
    settings.n_sessions_max = N_SESSIONS;
    settings.model_name = "test model";
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    shoal_service_settings address = {.address = "127.0.0.1:0",
                                      .clock = shoal_clock_virtual(&service_now_ns)};
    shoal_err err = SHOAL_ERR_INIT;
    char target[32];
    int port = 0;
    if (shoal_rpc_new(&limits, &rpc, &err) != SHOAL_OK ||
        shoal_node_new(shared.model, &settings, NULL, &node, &err) != SHOAL_OK ||
        shoal_service_new(rpc, node, &address, &service, &port, &err) != SHOAL_OK) {
        fprintf(stderr, "setup: %s\n", err.text);
        return -1;
    }
    shoal_service_set_serving(service, true);
    snprintf(target, sizeof(target), "127.0.0.1:%d", port);
    return shoal_rpc_channel_new(rpc, target, NULL, NULL, NULL, &channel, &err);
}

static int teardown(void **state)
{
    (void)state;
    shoal_rpc_channel_free(channel);
    shoal_service_free(service);
    shoal_node_free(node);
    shoal_rpc_free(rpc);
    rig_fini(&shared);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe_tells_the_model),
        cmocka_unit_test(test_open_mismatch_is_refused),
        cmocka_unit_test(test_bytes_that_are_no_message_end_the_call),
        cmocka_unit_test(test_concurrent_sessions_equal_alone),
        cmocka_unit_test(test_client_that_vanishes_frees_its_session),
        cmocka_unit_test(test_sessions_past_the_limit_are_told_to_wait),
        cmocka_unit_test(test_what_never_fits_gets_no_time_to_come_back),
        cmocka_unit_test(test_pool_that_is_promised_refuses_at_once),
        cmocka_unit_test(test_wait_past_a_short_deadline_is_refused),
        cmocka_unit_test(test_tenant_over_its_quota_is_told_when),
        cmocka_unit_test(test_tokens_are_charged_to_the_tenant),
        cmocka_unit_test(test_call_that_says_nothing_is_ended),
        cmocka_unit_test(test_drain_cancels_what_stays_and_refuses_new_calls),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
