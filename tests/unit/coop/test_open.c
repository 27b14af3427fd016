/* SPDX-License-Identifier: Apache-2.0
 *
 * A node that takes a stream and says nothing: the edge waits for Opened no longer than open_ms,
 * and opens the stream again. Behind the edge's real engine and link stands a server of ours.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "edge/coop/coop.h"
#include "protocol/rpc/rpc.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    N_TOKENS = 4,
    OPEN_MS = 50,
    DEADLINE_MS = 30000 /* of a request, so that an edge that waits for ever fails the test */
};

static shoal_model *model;
static const char refusal[] = "the second stream is heard";

/* --- the node ----------------------------------------------------------------------------------
 */

typedef struct node {
    shoal_rpc *rpc;
    shoal_rpc_server *server;
    shoal_rpc_method methods[2];
    char target[64];
    size_t n_opened; /* poller-only, read when the server is drained */
} node;

static void generate_open(shoal_rpc_call *call, void *ctx)
{
    node *n = ctx;
    n->n_opened++;
    shoal_rpc_call_set_user(call, n);
}

/* The first stream hears nothing. */
static void generate_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)data;
    (void)n;
    if (((const node *)user)->n_opened > 1) {
        shoal_rpc_call_finish(call, SHOAL_RPC_INVALID_ARGUMENT, refusal);
    }
}

static void describe_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    (void)user;
    (void)data;
    (void)n;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_describe describe = {.name = "silent",
                               .tokenizer = *shoal_tokenizer_hash(model->tokenizer),
                               .chat_template = *shoal_tokenizer_template_hash(model->tokenizer),
                               .kv_form = "f32",
                               .n_vocab = (uint32_t)model->hp.n_vocab,
                               .n_ctx = 512,
                               .protocol = SHOAL_WIRE_PROTOCOL};
    SHOAL_ASSERT(shoal_describe_encode(&describe, &buf) == SHOAL_OK);
    SHOAL_ASSERT(shoal_rpc_call_send(call, buf.data, buf.length) == SHOAL_OK);
    shoal_rpc_call_finish(call, SHOAL_RPC_OK, "");
}

static void on_close(shoal_rpc_call *call, void *user, shoal_rpc_status status, const char *details)
{
    (void)call;
    (void)user;
    (void)status;
    (void)details;
}

static const shoal_rpc_handlers generate_handlers = {
    .on_open = generate_open, .on_message = generate_message, .on_close = on_close};
static const shoal_rpc_handlers describe_handlers = {.on_message = describe_message,
                                                     .on_close = on_close};

static void node_up(node *n)
{
    *n = (node){.n_opened = 0};
    shoal_rpc_limits limits = shoal_rpc_limits_default();
    int port = 0;
    n->methods[0] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Generate", .handlers = &generate_handlers, .ctx = n};
    n->methods[1] = (shoal_rpc_method){
        .path = "/shoal.v1.Cloud/Describe", .handlers = &describe_handlers, .ctx = n};
    assert_int_equal(shoal_rpc_new(&limits, &n->rpc, NULL), SHOAL_OK);
    assert_int_equal(shoal_rpc_server_new(n->rpc, "127.0.0.1:0", NULL, n->methods,
                                          SHOAL_COUNT(n->methods), &n->server, &port, NULL),
                     SHOAL_OK);
    (void)snprintf(n->target, sizeof n->target, "127.0.0.1:%d", port);
}

static void node_down(node *n)
{
    shoal_rpc_server_free(n->server);
    shoal_rpc_free(n->rpc);
}

/* --- the edge ----------------------------------------------------------------------------------
 */

typedef struct answer {
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool done;
    size_t n_tokens;
    size_t n_reconnects;
    shoal_finish finish;
    shoal_status code;
    char text[SHOAL_ERR_TEXT_MAX];
} answer;

static void on_event(void *ctx, const shoal_coop_event *event)
{
    answer *a = ctx;
    (void)pthread_mutex_lock(&a->mutex);
    if (event->kind == SHOAL_COOP_TOKEN) {
        a->n_tokens++;
    } else {
        a->finish = event->finish;
        a->n_reconnects = event->usage->n_reconnects;
        a->code = event->error ? event->error->code : SHOAL_OK;
        (void)snprintf(a->text, sizeof a->text, "%s", event->error ? event->error->text : "");
        a->done = true;
        (void)pthread_cond_signal(&a->ended);
    }
    (void)pthread_mutex_unlock(&a->mutex);
}

static void ask(const char *target, shoal_mode mode, answer *a)
{
    shoal_coop_settings settings = shoal_coop_settings_default();
    shoal_coop *coop = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    const int32_t prompt[] = {SHOAL_TINY_BOS, SHOAL_TINY_VOCAB - 1};
    const shoal_coop_request request = {.mode = mode,
                                        .ids = prompt,
                                        .n_ids = SHOAL_COUNT(prompt),
                                        .n_tokens_max = N_TOKENS,
                                        .sampling = shoal_sampling_default(),
                                        .deadline_ms = DEADLINE_MS,
                                        .n_cloud_max = SIZE_MAX,
                                        .on_event = on_event,
                                        .ctx = a};
    uint64_t id = 0;
    *a = (answer){.done = false};
    (void)pthread_mutex_init(&a->mutex, NULL);
    (void)pthread_cond_init(&a->ended, NULL);
    settings.n_threads = 1;
    settings.cloud_target = target;
    settings.open_ms = OPEN_MS;
    settings.reconnect_ms = DEADLINE_MS;
    settings.patience_ms = 2 * DEADLINE_MS;
    settings.route.rate = 0.99;
    if (shoal_coop_new(model, &settings, NULL, &coop, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_coop_submit(coop, &request, &id, NULL), SHOAL_OK);
    (void)pthread_mutex_lock(&a->mutex);
    while (!a->done) {
        (void)pthread_cond_wait(&a->ended, &a->mutex);
    }
    (void)pthread_mutex_unlock(&a->mutex);
    shoal_coop_free(coop);
}

static void test_silent_node_is_left_and_the_stream_opened_again(void **state)
{
    (void)state;
    static const shoal_mode modes[] = {SHOAL_MODE_EXACT, SHOAL_MODE_CLOUD};
    for (size_t i = 0; i < SHOAL_COUNT(modes); i++) {
        node n;
        answer a;
        node_up(&n);
        ask(n.target, modes[i], &a);
        node_down(&n);
        assert_true(n.n_opened >= 2); /* on a slow machine the second may come late as well */
        assert_int_equal(a.code, SHOAL_E_PROTOCOL);
        assert_non_null(strstr(a.text, refusal));
        assert_true(a.n_reconnects >= 1);
        assert_int_equal(a.n_tokens, 0);
    }
}

static void test_assist_goes_on_without_a_silent_node(void **state)
{
    (void)state;
    node n;
    answer a;
    node_up(&n);
    ask(n.target, SHOAL_MODE_ASSIST, &a);
    node_down(&n);
    assert_true(n.n_opened >= 1);
    assert_int_equal(a.code, SHOAL_OK);
    assert_int_equal(a.finish, SHOAL_FINISH_LENGTH);
    assert_int_equal(a.n_tokens, N_TOKENS);
    assert_true(a.n_reconnects >= 1);
}

static int setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_model_free(model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_silent_node_is_left_and_the_stream_opened_again),
        cmocka_unit_test(test_assist_goes_on_without_a_silent_node),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
