/* SPDX-License-Identifier: Apache-2.0
 *
 * How streams begin and end, before a server of ours, with the edge's real engine and link. A node
 * that takes a stream and says nothing: the edge waits for Opened no longer than open_ms, and opens
 * the stream again. One that has not read all of an Open is told message by message. One that ends
 * the stream with the text hears no Close. Each Open tells the request's priority. Tokens that the
 * edge says for want of the cloud are told apart.
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

typedef enum behaviour {
    SILENT, /* on the first stream, and refuses what follows */
    OLD,    /* says in Describe what its streams then do not */
    ANSWERS /* to an Open that brings all, with tokens of its own */
} behaviour;

typedef struct node {
    shoal_rpc *rpc;
    shoal_rpc_server *server;
    shoal_rpc_method methods[2];
    char target[64];
    behaviour behaviour;
    /* poller-only, read when the server is drained */
    size_t n_opened;
    size_t n_messages;
    size_t n_whole; /* Opens with a prompt */
    size_t n_of_priority[SHOAL_WIRE_PRIORITY_MAX + 1];
} node;

static void generate_open(shoal_rpc_call *call, void *ctx)
{
    node *n = ctx;
    n->n_opened++;
    shoal_rpc_call_set_user(call, n);
}

static void send_message(shoal_rpc_call *call, const shoal_cloud_msg *msg)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_ASSERT(shoal_cloud_msg_encode(msg, &buf) == SHOAL_OK);
    SHOAL_ASSERT(shoal_rpc_call_send(call, buf.data, buf.length) == SHOAL_OK);
}

static void say_opened(shoal_rpc_call *call, bool whole)
{
    send_message(call, &(shoal_cloud_msg){.kind = SHOAL_CLOUD_OPENED, .body.opened.whole = whole});
}

static void say_tokens(shoal_rpc_call *call, size_t position, size_t n)
{
    static const int32_t ids[N_TOKENS] = {3, 4, 5, 6};
    static const uint8_t shares[N_TOKENS];
    SHOAL_ASSERT(n <= N_TOKENS);
    send_message(call, &(shoal_cloud_msg){.kind = SHOAL_CLOUD_TOKENS,
                                          .body.tokens = {.position = (uint32_t)position,
                                                          .ids = ids,
                                                          .n_ids = n,
                                                          .confidences = shares}});
}

static void generate_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    node *to = user;
    shoal_edge_msg *msg = NULL;
    SHOAL_ASSERT(shoal_edge_msg_decode(data, n, model->hp.n_vocab, &msg, NULL) == SHOAL_OK);
    bool open = msg->kind == SHOAL_EDGE_OPEN;
    size_t n_prompt = open ? msg->body.open.n_prompt : 0;
    to->n_messages++;
    to->n_whole += n_prompt > 0;
    if (open) {
        to->n_of_priority[msg->body.open.priority]++;
    }
    if (open && to->behaviour != SILENT) {
        say_opened(call, to->behaviour == ANSWERS);
    }
    if (open && to->behaviour == ANSWERS) {
        SHOAL_ASSERT(msg->body.open.ends && msg->body.open.n_continue == N_TOKENS);
        say_tokens(call, n_prompt, N_TOKENS);
    }
    if (to->behaviour == SILENT ? to->n_opened > 1 : msg->kind == SHOAL_EDGE_TOKENS) {
        shoal_rpc_call_finish(call, SHOAL_RPC_INVALID_ARGUMENT, refusal);
    }
    shoal_edge_msg_free(msg);
}

static void describe_message(shoal_rpc_call *call, void *user, const uint8_t *data, size_t n)
{
    const node *to = user;
    (void)data;
    (void)n;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_describe describe = {.name = "silent",
                               .tokenizer = *shoal_tokenizer_hash(model->tokenizer),
                               .chat_template = *shoal_tokenizer_template_hash(model->tokenizer),
                               .kv_form = "f32",
                               .n_vocab = (uint32_t)model->hp.n_vocab,
                               .n_ctx = 512,
                               .protocol = SHOAL_WIRE_PROTOCOL,
                               .opens_whole = to->behaviour != SILENT};
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

static void node_up(node *n, behaviour b)
{
    *n = (node){.behaviour = b};
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
    size_t n_unassisted[SHOAL_UNASSISTED_KINDS];
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
        a->n_unassisted[event->unassisted]++;
    } else {
        for (size_t w = 0; w < SHOAL_UNASSISTED_KINDS; w++) {
            SHOAL_ASSERT(event->usage->n_unassisted[w] == a->n_unassisted[w]);
        }
        a->finish = event->finish;
        a->n_reconnects = event->usage->n_reconnects;
        a->code = event->error ? event->error->code : SHOAL_OK;
        (void)snprintf(a->text, sizeof a->text, "%s", event->error ? event->error->text : "");
        a->done = true;
        (void)pthread_cond_signal(&a->ended);
    }
    (void)pthread_mutex_unlock(&a->mutex);
}

static shoal_coop *coop_up(const char *target, uint64_t open_ms)
{
    shoal_coop_settings settings = shoal_coop_settings_default();
    shoal_coop *coop = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    settings.n_threads = 1;
    settings.cloud_target = target;
    settings.open_ms = open_ms;
    settings.reconnect_ms = DEADLINE_MS;
    settings.patience_ms = 2 * DEADLINE_MS;
    settings.route.rate = 0.99;
    if (shoal_coop_new(model, &settings, NULL, &coop, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return coop;
}

static shoal_coop_request request_of(shoal_mode mode)
{
    static const int32_t prompt[] = {SHOAL_TINY_BOS, SHOAL_TINY_VOCAB - 1};
    return (shoal_coop_request){.mode = mode,
                                .ids = prompt,
                                .n_ids = SHOAL_COUNT(prompt),
                                .n_tokens_max = N_TOKENS,
                                .sampling = shoal_sampling_default(),
                                .deadline_ms = DEADLINE_MS,
                                .n_cloud_max = SIZE_MAX,
                                .on_event = on_event};
}

static shoal_status answer_to(shoal_coop *coop, shoal_coop_request request, answer *a,
                              shoal_err *err)
{
    uint64_t id = 0;
    *a = (answer){.done = false};
    request.ctx = a;
    (void)pthread_mutex_init(&a->mutex, NULL);
    (void)pthread_cond_init(&a->ended, NULL);
    SHOAL_TRY(shoal_coop_submit(coop, &request, &id, err));
    (void)pthread_mutex_lock(&a->mutex);
    while (!a->done) {
        (void)pthread_cond_wait(&a->ended, &a->mutex);
    }
    (void)pthread_mutex_unlock(&a->mutex);
    return SHOAL_OK;
}

static shoal_status ask_ranked(shoal_coop *coop, shoal_mode mode, uint32_t priority, answer *a,
                               shoal_err *err)
{
    shoal_coop_request request = request_of(mode);
    request.priority = priority;
    return answer_to(coop, request, a, err);
}

static void ask_one(shoal_coop *coop, shoal_mode mode, answer *a)
{
    assert_int_equal(answer_to(coop, request_of(mode), a, NULL), SHOAL_OK);
}

static void ask(const node *n, shoal_mode mode, answer *a)
{
    shoal_coop *coop = coop_up(n->target, n->behaviour == SILENT ? OPEN_MS : DEADLINE_MS);
    ask_one(coop, mode, a);
    shoal_coop_free(coop);
}

static void test_silent_node_is_left_and_the_stream_opened_again(void **state)
{
    (void)state;
    static const shoal_mode modes[] = {SHOAL_MODE_EXACT, SHOAL_MODE_CLOUD};
    for (size_t i = 0; i < SHOAL_COUNT(modes); i++) {
        node n;
        answer a;
        node_up(&n, SILENT);
        ask(&n, modes[i], &a);
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
    node_up(&n, SILENT);
    ask(&n, SHOAL_MODE_ASSIST, &a);
    node_down(&n);
    assert_true(n.n_opened >= 1);
    assert_int_equal(a.code, SHOAL_OK);
    assert_int_equal(a.finish, SHOAL_FINISH_LENGTH);
    assert_int_equal(a.n_tokens, N_TOKENS);
    assert_int_equal(a.n_unassisted[SHOAL_UNASSISTED_AWAY], N_TOKENS); /* sure of none of them */
    assert_true(a.n_reconnects >= 1);
}

/* A token is marked with what it was said for want of; what the cloud said, and what nobody was to
 * be asked for, is not. */
static void test_tokens_for_want_of_the_cloud_are_marked(void **state)
{
    (void)state;
    static const struct {
        behaviour node;
        shoal_mode mode;
        size_t n_cloud_max;
        bool degrade;
        shoal_unassisted why; /* of all tokens */
    } rows[] = {
        {SILENT, SHOAL_MODE_ASSIST, 0, false, SHOAL_UNASSISTED_BUDGET},
        {SILENT, SHOAL_MODE_LOCAL, SIZE_MAX, false, SHOAL_UNASSISTED_NOT},
        {SILENT, SHOAL_MODE_EXACT, SIZE_MAX, true, SHOAL_UNASSISTED_AWAY},
        {SILENT, SHOAL_MODE_CLOUD, SIZE_MAX, true, SHOAL_UNASSISTED_AWAY},
        {ANSWERS, SHOAL_MODE_CLOUD, SIZE_MAX, true, SHOAL_UNASSISTED_NOT},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        node n;
        answer a;
        node_up(&n, rows[i].node);
        shoal_coop *coop = coop_up(n.target, n.behaviour == SILENT ? OPEN_MS : DEADLINE_MS);
        shoal_coop_request request = request_of(rows[i].mode);
        request.n_cloud_max = rows[i].n_cloud_max;
        request.degrade = rows[i].degrade;
        assert_int_equal(answer_to(coop, request, &a, NULL), SHOAL_OK);
        assert_int_equal(a.code, SHOAL_OK);
        assert_int_equal(a.n_tokens, N_TOKENS);
        assert_int_equal(a.n_unassisted[rows[i].why], N_TOKENS);
        shoal_coop_state state_now;
        shoal_coop_state_get(coop, &state_now);
        assert_int_equal(state_now.totals.n_unassisted,
                         rows[i].why == SHOAL_UNASSISTED_NOT ? 0 : N_TOKENS);
        shoal_coop_free(coop);
        node_down(&n);
    }
}

static void test_node_that_has_not_read_all_is_told_message_by_message(void **state)
{
    (void)state;
    static const shoal_mode modes[] = {SHOAL_MODE_EXACT, SHOAL_MODE_CLOUD};
    for (size_t i = 0; i < SHOAL_COUNT(modes); i++) {
        node n;
        answer a;
        node_up(&n, OLD);
        ask(&n, modes[i], &a);
        node_down(&n);
        assert_int_equal(n.n_whole, 1);
        assert_int_equal(a.code, SHOAL_E_PROTOCOL);
        assert_non_null(strstr(a.text, refusal)); /* of the prompt */
        assert_true(a.n_reconnects >= 1);
    }
}

static void test_node_that_ends_with_the_text_hears_no_close(void **state)
{
    (void)state;
    node n;
    answer a;
    node_up(&n, ANSWERS);
    shoal_coop *coop = coop_up(n.target, DEADLINE_MS);
    for (size_t i = 0; i < 2; i++) {
        ask_one(coop, SHOAL_MODE_CLOUD, &a);
        assert_int_equal(a.code, SHOAL_OK);
        assert_int_equal(a.finish, SHOAL_FINISH_LENGTH);
        assert_int_equal(a.n_tokens, N_TOKENS);
        assert_int_equal(a.n_reconnects, 0);
    }
    shoal_coop_free(coop);
    node_down(&n);
    /* A word of the first stream would have come before the second one's. */
    assert_int_equal(n.n_messages, 2);
    assert_int_equal(n.n_whole, 2);
}

/* Also of a stream that is opened again, and to a node that is told message by message. */
static void test_priority_is_told_in_each_open(void **state)
{
    (void)state;
    static const uint32_t ranks[] = {0, 1, SHOAL_WIRE_PRIORITY_MAX};
    static const behaviour behaviours[] = {SILENT, OLD, ANSWERS};
    static const shoal_mode modes[] = {SHOAL_MODE_EXACT, SHOAL_MODE_ASSIST, SHOAL_MODE_CLOUD};
    for (size_t i = 0; i < SHOAL_COUNT(ranks); i++) {
        node n;
        answer a;
        shoal_err err = SHOAL_ERR_INIT;
        node_up(&n, behaviours[i]);
        shoal_coop *coop = coop_up(n.target, n.behaviour == SILENT ? OPEN_MS : DEADLINE_MS);
        assert_int_equal(ask_ranked(coop, modes[i], ranks[i], &a, &err), SHOAL_OK);
        assert_int_equal(ask_ranked(coop, modes[i], SHOAL_WIRE_PRIORITY_MAX + 1, &a, &err),
                         SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "a priority is 0 to 7"));
        shoal_coop_free(coop);
        node_down(&n);
        assert_true(n.n_of_priority[ranks[i]] >= (n.behaviour == SILENT ? 2 : 1));
        for (size_t other = 0; other <= SHOAL_WIRE_PRIORITY_MAX; other++) {
            assert_true(other == ranks[i] || n.n_of_priority[other] == 0);
        }
    }
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
        cmocka_unit_test(test_tokens_for_want_of_the_cloud_are_marked),
        cmocka_unit_test(test_node_that_has_not_read_all_is_told_message_by_message),
        cmocka_unit_test(test_node_that_ends_with_the_text_hears_no_close),
        cmocka_unit_test(test_priority_is_told_in_each_open),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
