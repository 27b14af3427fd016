/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes nobody should send: truncated, mutated, blown up; and memory that runs out at every point.
 * The sanitizer builds are what makes this a test.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "protocol/wire/wire.h"
#include "proto_bytes.h"

enum {
    N_VOCAB = 1000,
    N_SEEDS = 6,
    MUTATIONS = 4000
};

static const int32_t some_ids[] = {1, 20, 300, 999, 5, 0};
static const uint8_t some_confidences[] = {1, 2, 3, 4, 5, 6};
static const shoal_logit_bias some_biases[] = {{3, 1.0f}, {900, -1.0f}};

static shoal_edge_msg edge_seed(size_t i)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_TOKENS};
    if (i == 0) {
        msg.kind = SHOAL_EDGE_OPEN;
        msg.body.open.protocol = 1;
        msg.body.open.sampling = shoal_sampling_default();
        msg.body.open.sampling.biases = some_biases;
        msg.body.open.sampling.n_biases = 2;
        msg.body.open.mode = SHOAL_MODE_CLOUD;
        msg.body.open.n_tokens_max = 512;
        memcpy(msg.body.open.request_id, "abc", 4);
    } else if (i == 1) {
        msg.kind = SHOAL_EDGE_CONTINUE;
        msg.body.cont = (shoal_msg_continue){.epoch = 3, .position = 300, .n_max = 100};
    } else {
        msg.body.tokens = (shoal_msg_tokens){.epoch = 9,
                                             .position = 200,
                                             .kind = (shoal_token_kind)(1 + i % 3),
                                             .ids = some_ids,
                                             .n_ids = SHOAL_COUNT(some_ids)};
    }
    return msg;
}

static shoal_cloud_msg cloud_seed(size_t i)
{
    shoal_cloud_msg msg = {.kind = (shoal_cloud_msg_kind)(1 + i)};
    switch (msg.kind) {
    case SHOAL_CLOUD_OPENED:
        memcpy(msg.body.opened.node, "node-1", 7);
        msg.cost = (shoal_msg_cost){.step_us = 2500, .row_us = 150, .price = 60};
        break;
    case SHOAL_CLOUD_VERDICT:
        msg.cost = (shoal_msg_cost){.step_us = 90000, .row_us = 900, .price = 999};
        msg.body.verdict = (shoal_msg_verdict){.epoch = 1,
                                               .accepted_to = 500,
                                               .ids = some_ids,
                                               .n_ids = 2,
                                               .confidences = some_confidences,
                                               .n_confidences = 6};
        break;
    case SHOAL_CLOUD_TOKENS:
        msg.body.tokens = (shoal_msg_tokens){.epoch = 1,
                                             .position = 400,
                                             .ids = some_ids,
                                             .n_ids = 6,
                                             .confidences = some_confidences};
        break;
    case SHOAL_CLOUD_BUSY:
        msg.body.busy_retry_after_ms = 1500;
        break;
    case SHOAL_CLOUD_FINISHED:
        msg.body.finished = (shoal_msg_finished){1, 2, 3, 4000000000u};
        break;
    case SHOAL_CLOUD_ERROR:
        msg.body.error.code = 8;
        memcpy(msg.body.error.text, "too many", 9);
        break;
    }
    return msg;
}

static void check_edge(const shoal_edge_msg *msg)
{
    if (msg->kind == SHOAL_EDGE_TOKENS) {
        const shoal_msg_tokens *t = &msg->body.tokens;
        assert_true(t->n_ids >= 1 && t->n_ids <= SHOAL_WIRE_PROMPT_MAX);
        assert_true(t->position + t->n_ids <= SHOAL_WIRE_POSITION_MAX);
        for (size_t i = 0; i < t->n_ids; i++) {
            assert_true(t->ids[i] >= 0 && t->ids[i] < N_VOCAB);
        }
    } else if (msg->kind == SHOAL_EDGE_OPEN) {
        assert_int_equal(shoal_sampling_check(&msg->body.open.sampling, N_VOCAB, NULL), SHOAL_OK);
        assert_true(strnlen(msg->body.open.request_id, 65) < 65);
    }
}

static void check_cloud(const shoal_cloud_msg *msg)
{
    if (msg->kind == SHOAL_CLOUD_VERDICT) {
        const shoal_msg_verdict *v = &msg->body.verdict;
        assert_true(v->n_ids <= SHOAL_WIRE_DRAFT_MAX && v->n_confidences <= 128);
        for (size_t i = 0; i < v->n_ids; i++) {
            assert_true(v->ids[i] >= 0 && v->ids[i] < N_VOCAB);
        }
    } else if (msg->kind == SHOAL_CLOUD_TOKENS) {
        unsigned sum = 0;
        for (size_t i = 0; i < msg->body.tokens.n_ids; i++) {
            sum += msg->body.tokens.confidences[i];
            assert_true(msg->body.tokens.ids[i] >= 0 && msg->body.tokens.ids[i] < N_VOCAB);
        }
        (void)sum;
    }
}

/* Whatever the bytes are, the answer is a valid message that encodes again, or a clear refusal. */
static void decode_both(const uint8_t *data, size_t n)
{
    /* An own copy of exactly n bytes lets ASan see one byte too many. */
    uint8_t *copy = shoal_calloc(n, 1);
    assert_non_null(copy);
    if (n > 0) {
        memcpy(copy, data, n);
    }
    shoal_buf again = {0};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_edge_msg *edge = NULL;
    shoal_status status = shoal_edge_msg_decode(copy, n, N_VOCAB, &edge, &err);
    if (status == SHOAL_OK) {
        check_edge(edge);
        assert_int_equal(shoal_edge_msg_encode(edge, &again), SHOAL_OK);
    } else {
        assert_int_equal(status, SHOAL_E_PROTOCOL);
        assert_true(err.text[0] != '\0');
    }
    shoal_edge_msg_free(edge);
    shoal_err_clear(&err);
    shoal_cloud_msg *cloud = NULL;
    status = shoal_cloud_msg_decode(copy, n, N_VOCAB, &cloud, &err);
    if (status == SHOAL_OK) {
        check_cloud(cloud);
        assert_int_equal(shoal_cloud_msg_encode(cloud, &again), SHOAL_OK);
    } else {
        assert_int_equal(status, SHOAL_E_PROTOCOL);
        assert_true(err.text[0] != '\0');
    }
    shoal_cloud_msg_free(cloud);
    shoal_describe describe;
    status = shoal_describe_decode(copy, n, &describe, NULL);
    assert_true(status == SHOAL_OK || status == SHOAL_E_PROTOCOL);
    shoal_buf_fini(&again);
    shoal_free(copy);
}

static shoal_buf encode_seed(size_t i)
{
    shoal_buf buf = {0};
    if (i < N_SEEDS) {
        shoal_edge_msg msg = edge_seed(i);
        assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
    } else {
        shoal_cloud_msg msg = cloud_seed(i - N_SEEDS);
        assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    }
    return buf;
}

static void test_truncation_at_every_byte_is_survived(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * N_SEEDS; i++) {
        shoal_buf buf = encode_seed(i);
        for (size_t n = 0; n < buf.length; n++) {
            decode_both((const uint8_t *)buf.data, n);
        }
        shoal_buf_fini(&buf);
    }
}

static void test_every_single_byte_changed_is_survived(void **state)
{
    (void)state;
    static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x12};
    for (size_t i = 0; i < 2 * N_SEEDS; i++) {
        shoal_buf buf = encode_seed(i);
        for (size_t at = 0; at < buf.length; at++) {
            char kept = buf.data[at];
            for (size_t v = 0; v < SHOAL_COUNT(values); v++) {
                buf.data[at] = (char)values[v];
                decode_both((const uint8_t *)buf.data, buf.length);
            }
            buf.data[at] = kept;
        }
        shoal_buf_fini(&buf);
    }
}

static void test_random_mutations_are_survived(void **state)
{
    (void)state;
    uint64_t rng = 20261124;
    print_message("seed %llu\n", (unsigned long long)rng);
    for (size_t round = 0; round < MUTATIONS; round++) {
        shoal_buf buf = encode_seed(round % (2 * N_SEEDS));
        size_t n_changes = 1 + shoal_rng_next(&rng) % 6;
        for (size_t i = 0; i < n_changes; i++) {
            uint64_t r = shoal_rng_next(&rng);
            size_t at = (size_t)(r >> 8) % buf.length;
            if ((r & 3) == 0) {
                buf.data[at] = (char)(r >> 40);
            } else if ((r & 3) == 1) {
                buf.data[at] = (char)(buf.data[at] ^ (1 << ((r >> 4) & 7)));
            } else if ((r & 3) == 2 && buf.length > 1) {
                memmove(buf.data + at, buf.data + at + 1, buf.length - at - 1);
                buf.length--;
            } else {
                pb_raw(&buf, buf.data + at, 1);
            }
        }
        decode_both((const uint8_t *)buf.data, buf.length);
        shoal_buf_fini(&buf);
    }
}

static void expect_refused(const shoal_buf *buf, const char *word)
{
    shoal_edge_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf->data, buf->length, N_VOCAB, &msg, &err),
        SHOAL_E_PROTOCOL);
    if (!strstr(err.text, word)) {
        fail_msg("wanted '%s' in '%s'", word, err.text);
    }
}

static void test_message_over_its_length_limit_is_refused(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    char *filler = shoal_calloc(SHOAL_WIRE_MESSAGE_MAX, 1);
    assert_non_null(filler);
    /* Close, then an unknown field that fills the message to exactly its limit. */
    pb_bytes(&buf, 5, "", 0);
    size_t head = 2 + 3; /* key of field 99 and the length */
    pb_bytes(&buf, 99, filler, SHOAL_WIRE_MESSAGE_MAX - buf.length - head);
    assert_int_equal(buf.length, SHOAL_WIRE_MESSAGE_MAX);
    shoal_edge_msg *msg = NULL;
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &msg, NULL),
        SHOAL_OK);
    shoal_edge_msg_free(msg);
    pb_raw(&buf, filler, 1);
    expect_refused(&buf, "EdgeMessage has 1048577 bytes; at most 1048576");
    shoal_free(filler);
    shoal_buf_fini(&buf);
}

/* A million bytes of unknown fields would become some 40 MB. */
static void test_message_that_would_unpack_huge_is_refused(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    while (buf.length < 1000000) {
        pb_uint(&buf, 15, 0);
    }
    expect_refused(&buf, "would unpack to more than");
    shoal_buf_fini(&buf);
}

/* Ids one by one (not packed) are legal protobuf and cost much more to parse. */
static void test_unpacked_list_of_ids_is_taken(void **state)
{
    (void)state;
    shoal_buf tokens = {0};
    pb_uint(&tokens, 3, SHOAL_TOKENS_PROMPT);
    for (size_t i = 0; i < 5000; i++) {
        pb_uint(&tokens, 4, i % N_VOCAB);
    }
    shoal_buf buf = {0};
    pb_buf(&buf, 2, &tokens);
    shoal_edge_msg *msg = NULL;
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &msg, NULL),
        SHOAL_OK);
    assert_int_equal(msg->body.tokens.n_ids, 5000);
    assert_int_equal(msg->body.tokens.ids[4999], 4999 % N_VOCAB);
    shoal_edge_msg_free(msg);
    shoal_buf_fini(&tokens);
    shoal_buf_fini(&buf);
}

/* The i-th allocation fails, for all i until one run is through. */
static void test_decode_with_failing_memory_leaves_nothing(void **state)
{
    (void)state;
    for (size_t seed = 0; seed < 2 * N_SEEDS; seed++) {
        shoal_buf buf = encode_seed(seed);
        shoal_status status = SHOAL_E_NOMEM;
        for (uint64_t i = 0; status == SHOAL_E_NOMEM; i++) {
            assert_true(i < 100);
            shoal_edge_msg *edge = NULL;
            shoal_cloud_msg *cloud = NULL;
            shoal_mem_fail_at(i);
            status = seed < N_SEEDS ? shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length,
                                                            N_VOCAB, &edge, NULL)
                                    : shoal_cloud_msg_decode((const uint8_t *)buf.data, buf.length,
                                                             N_VOCAB, &cloud, NULL);
            shoal_mem_fail_at(UINT64_MAX);
            shoal_edge_msg_free(edge);
            shoal_cloud_msg_free(cloud);
        }
        assert_int_equal(status, SHOAL_OK);
        shoal_buf_fini(&buf);
    }
}

static void test_encode_with_failing_memory_leaves_the_buffer(void **state)
{
    (void)state;
    shoal_edge_msg msg = edge_seed(0);
    shoal_status status = SHOAL_E_NOMEM;
    for (uint64_t i = 0; status == SHOAL_E_NOMEM; i++) {
        shoal_buf buf = {0};
        shoal_mem_fail_at(i);
        status = shoal_edge_msg_encode(&msg, &buf);
        shoal_mem_fail_at(UINT64_MAX);
        if (status != SHOAL_OK) {
            assert_int_equal(buf.length, 0);
        }
        shoal_buf_fini(&buf);
    }
    assert_int_equal(status, SHOAL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncation_at_every_byte_is_survived),
        cmocka_unit_test(test_every_single_byte_changed_is_survived),
        cmocka_unit_test(test_random_mutations_are_survived),
        cmocka_unit_test(test_message_over_its_length_limit_is_refused),
        cmocka_unit_test(test_message_that_would_unpack_huge_is_refused),
        cmocka_unit_test(test_unpacked_list_of_ids_is_taken),
        cmocka_unit_test(test_decode_with_failing_memory_leaves_nothing),
        cmocka_unit_test(test_encode_with_failing_memory_leaves_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
