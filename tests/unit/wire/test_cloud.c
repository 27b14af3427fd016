/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/wire/wire.h"
#include "proto_bytes.h"

enum {
    N_VOCAB = 32000
};

static shoal_cloud_msg *round_trip(const shoal_cloud_msg *msg)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_cloud_msg_encode(msg, &buf), SHOAL_OK);
    shoal_cloud_msg *back = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_cloud_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &back, &err);
    if (status != SHOAL_OK) {
        fail_msg("not decoded: %s", err.text);
    }
    shoal_buf_fini(&buf);
    return back;
}

/* Wraps body under its field, decodes it and wants a refusal that holds word, or none for NULL.
 * Consumes body. */
static void body_case(unsigned field, shoal_buf *body, const char *word)
{
    shoal_buf buf = {0};
    pb_buf(&buf, field, body);
    shoal_buf_fini(body);
    shoal_cloud_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_cloud_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &msg, &err);
    if (word && (status != SHOAL_E_PROTOCOL || !strstr(err.text, word))) {
        fail_msg("wanted a refusal naming '%s', got %d '%s'", word, status, err.text);
    }
    if (!word && status != SHOAL_OK) {
        fail_msg("wanted a message, got '%s'", err.text);
    }
    shoal_cloud_msg_free(msg);
    shoal_buf_fini(&buf);
}

static void test_opened_round_trips(void **state)
{
    (void)state;
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_OPENED};
    memcpy(msg.body.opened.node, "cloud-\xc3\xa9", 9);
    shoal_cloud_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_CLOUD_OPENED);
    assert_string_equal(back->body.opened.node, "cloud-\xc3\xa9");
    assert_false(back->body.opened.whole);
    shoal_cloud_msg_free(back);
    msg.body.opened.whole = true;
    memset(msg.body.opened.node, 'n', SHOAL_WIRE_TEXT_MAX - 1);
    back = round_trip(&msg);
    assert_int_equal(strlen(back->body.opened.node), SHOAL_WIRE_TEXT_MAX - 1);
    assert_true(back->body.opened.whole);
    shoal_cloud_msg_free(back);
}

static void check_verdict_trip(size_t n_ids, size_t n_confidences)
{
    int32_t ids[SHOAL_WIRE_DRAFT_MAX] = {0};
    uint8_t confidences[2 * SHOAL_WIRE_DRAFT_MAX] = {0};
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        ids[i] = (int32_t)(N_VOCAB - 1 - i);
        confidences[i] = (uint8_t)(i * 3);
    }
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_VERDICT};
    msg.body.verdict = (shoal_msg_verdict){.epoch = 4,
                                           .accepted_to = 1000,
                                           .ids = ids,
                                           .n_ids = n_ids,
                                           .confidences = confidences,
                                           .n_confidences = n_confidences};
    shoal_cloud_msg *back = round_trip(&msg);
    const shoal_msg_verdict *verdict = &back->body.verdict;
    assert_int_equal(back->kind, SHOAL_CLOUD_VERDICT);
    assert_int_equal(verdict->epoch, 4);
    assert_int_equal(verdict->accepted_to, 1000);
    assert_int_equal(verdict->n_ids, n_ids);
    assert_int_equal(verdict->n_confidences, n_confidences);
    if (n_ids > 0) {
        assert_memory_equal(verdict->ids, ids, n_ids * sizeof *ids);
    }
    if (n_confidences > 0) {
        assert_memory_equal(verdict->confidences, confidences, n_confidences);
    }
    shoal_cloud_msg_free(back);
}

static void test_verdict_of_every_shape_round_trips(void **state)
{
    (void)state;
    check_verdict_trip(0, 0);
    check_verdict_trip(0, 1);
    check_verdict_trip(0, SHOAL_WIRE_DRAFT_MAX);
    check_verdict_trip(1, 0);
    check_verdict_trip(1, 1);
    check_verdict_trip(1, SHOAL_WIRE_DRAFT_MAX + 1);
    check_verdict_trip(SHOAL_WIRE_DRAFT_MAX, SHOAL_WIRE_DRAFT_MAX);
    check_verdict_trip(SHOAL_WIRE_DRAFT_MAX, 2 * SHOAL_WIRE_DRAFT_MAX);
}

static void test_verdict_stays_within_the_round_budget(void **state)
{
    (void)state;
    int32_t id = 262143;
    uint8_t confidences[SHOAL_WIRE_DRAFT_MAX + 1] = {255};
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_VERDICT};
    msg.body.verdict = (shoal_msg_verdict){.epoch = 1 << 20,
                                           .accepted_to = 1 << 20,
                                           .ids = &id,
                                           .n_ids = 1,
                                           .confidences = confidences,
                                           .n_confidences = 17};
    shoal_buf buf = {0};
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    print_message("the verdict of a draft of 16 ids: %zu bytes\n", buf.length);
    assert_in_range(buf.length, 1, 50);
    shoal_buf_reset(&buf);
    msg.body.verdict.n_confidences = SHOAL_WIRE_DRAFT_MAX + 1;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    assert_in_range(buf.length, 1, SHOAL_WIRE_ROUND_BYTES);
    shoal_buf_fini(&buf);
}

static void test_tokens_round_trip(void **state)
{
    (void)state;
    const int32_t ids[] = {0, 1, N_VOCAB - 1};
    const uint8_t confidences[] = {0, 127, 255};
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_TOKENS};
    msg.body.tokens = (shoal_msg_tokens){
        .epoch = 2, .position = 50, .ids = ids, .n_ids = 3, .confidences = confidences};
    shoal_cloud_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_CLOUD_TOKENS);
    assert_int_equal(back->body.tokens.epoch, 2);
    assert_int_equal(back->body.tokens.position, 50);
    assert_int_equal(back->body.tokens.n_ids, 3);
    assert_memory_equal(back->body.tokens.ids, ids, sizeof ids);
    assert_memory_equal(back->body.tokens.confidences, confidences, sizeof confidences);
    shoal_cloud_msg_free(back);
    shoal_buf buf = {0};
    msg.body.tokens.confidences = NULL;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    shoal_buf_fini(&buf);
}

static void test_busy_and_finished_round_trip(void **state)
{
    (void)state;
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_BUSY};
    msg.body.busy_retry_after_ms = UINT32_MAX;
    shoal_cloud_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_CLOUD_BUSY);
    assert_int_equal(back->body.busy_retry_after_ms, UINT32_MAX);
    shoal_cloud_msg_free(back);
    msg.kind = SHOAL_CLOUD_FINISHED;
    msg.body.finished = (shoal_msg_finished){
        .n_prompt = 1, .n_generated = 2, .n_verified = 3, .compute_us = UINT64_MAX};
    back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_CLOUD_FINISHED);
    assert_memory_equal(&back->body.finished, &msg.body.finished, sizeof msg.body.finished);
    shoal_cloud_msg_free(back);
}

/* An error text that quotes a peer or was cut inside a character still reaches the other side. */
static void test_error_text_is_cleaned_when_sent(void **state)
{
    (void)state;
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_ERROR};
    msg.body.error.code = 16;
    memcpy(msg.body.error.text, "a\nb\x01 \xc3\xa9 \xff \xe2\x82", 13);
    shoal_cloud_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_CLOUD_ERROR);
    assert_int_equal(back->body.error.code, 16);
    assert_string_equal(back->body.error.text, "a?b? \xc3\xa9 ? ??");
    shoal_cloud_msg_free(back);
    memset(msg.body.error.text, '\t', SHOAL_WIRE_TEXT_MAX - 1);
    back = round_trip(&msg);
    assert_int_equal(strlen(back->body.error.text), SHOAL_WIRE_TEXT_MAX - 1);
    shoal_cloud_msg_free(back);
}

static const shoal_msg_cost dear = {.step_us = SHOAL_WIRE_COST_US_MAX,
                                    .row_us = SHOAL_WIRE_COST_US_MAX,
                                    .price = SHOAL_WIRE_PRICE_ONE};

/* With the three kinds that carry it; not told is not told on the other side. */
static void test_cost_round_trips(void **state)
{
    (void)state;
    const int32_t id = 7;
    const uint8_t confidence = 99;
    shoal_cloud_msg msgs[3] = {
        {.kind = SHOAL_CLOUD_OPENED}, {.kind = SHOAL_CLOUD_VERDICT}, {.kind = SHOAL_CLOUD_TOKENS}};
    msgs[2].body.tokens = (shoal_msg_tokens){.ids = &id, .n_ids = 1, .confidences = &confidence};
    const shoal_msg_cost costs[] = {{0}, {.step_us = 1}, {3000, 200, 62}, dear};
    for (size_t i = 0; i < SHOAL_COUNT(msgs); i++) {
        for (size_t k = 0; k < SHOAL_COUNT(costs); k++) {
            msgs[i].cost = costs[k];
            shoal_cloud_msg *back = round_trip(&msgs[i]);
            assert_int_equal(back->kind, msgs[i].kind);
            assert_memory_equal(&back->cost, &costs[k], sizeof costs[k]);
            shoal_cloud_msg_free(back);
        }
    }
}

static void test_cost_fits_the_round_budget(void **state)
{
    (void)state;
    uint8_t confidences[SHOAL_WIRE_DRAFT_MAX + 1] = {255};
    int32_t id = N_VOCAB - 1;
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_VERDICT};
    msg.body.verdict = (shoal_msg_verdict){.epoch = 1 << 20,
                                           .accepted_to = 1 << 20,
                                           .ids = &id,
                                           .n_ids = 1,
                                           .confidences = confidences,
                                           .n_confidences = SHOAL_COUNT(confidences)};
    shoal_buf buf = {0};
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    size_t n_without = buf.length;
    shoal_buf_reset(&buf);
    msg.cost = (shoal_msg_cost){.step_us = 2000000, .row_us = 2000000, .price = 1000};
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    assert_int_equal(buf.length - n_without, 13); /* as SPEC.md, section 8 says */
    size_t n_with = buf.length;
    shoal_buf_reset(&buf);
    msg.n_cached = (1 << 21) - 1;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_OK);
    assert_int_equal(buf.length - n_with, 4); /* likewise */
    assert_in_range(buf.length, 1, SHOAL_WIRE_ROUND_BYTES);
    shoal_buf_fini(&buf);
}

static void cost_case(uint64_t step_us, uint64_t row_us, uint64_t price, const char *word)
{
    static const unsigned fields[] = {3, 5, 5};
    for (unsigned i = 0; i < SHOAL_COUNT(fields); i++) {
        shoal_buf cost = {0};
        shoal_buf body = {0};
        pb_uint(&cost, 1, step_us);
        pb_uint(&cost, 2, row_us);
        pb_uint(&cost, 3, price);
        if (i == 2) {
            pb_ids(&body, 3, 1, 1);
            pb_bytes(&body, 4, "c", 1);
        }
        pb_buf(&body, fields[i], &cost);
        shoal_buf_fini(&cost);
        body_case(i + 1, &body, word);
    }
}

static void test_cost_fields_at_their_limits(void **state)
{
    (void)state;
    uint64_t most = SHOAL_WIRE_COST_US_MAX;
    cost_case(0, 0, 0, "Cost.step_us is 0");
    cost_case(1, 0, 0, NULL);
    cost_case(most, most, 1000, NULL);
    cost_case(most + 1, 0, 0, "Cost.step_us");
    cost_case(1, most + 1, 0, "Cost.row_us");
    cost_case(1, 0, 1001, "Cost.price is 1001");
    cost_case(UINT32_MAX, UINT32_MAX, UINT32_MAX, "Cost.step_us");
    shoal_buf buf = {0};
    shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_OPENED, .cost = dear};
    msg.cost.price++;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    shoal_buf_fini(&buf);
}

/* With the two kinds that carry it. */
static void test_cached_round_trips_and_is_a_position(void **state)
{
    (void)state;
    const int32_t id = 7;
    const uint8_t confidence = 99;
    shoal_cloud_msg msgs[2] = {{.kind = SHOAL_CLOUD_VERDICT}, {.kind = SHOAL_CLOUD_TOKENS}};
    msgs[1].body.tokens = (shoal_msg_tokens){.ids = &id, .n_ids = 1, .confidences = &confidence};
    static const char *const words[] = {"Verdict.n_cached", "CloudTokens.n_cached"};
    for (size_t i = 0; i < SHOAL_COUNT(msgs); i++) {
        for (uint32_t n = SHOAL_WIRE_POSITION_MAX - 1; n <= SHOAL_WIRE_POSITION_MAX + 1; n++) {
            bool fits = n <= SHOAL_WIRE_POSITION_MAX;
            shoal_buf buf = {0};
            msgs[i].n_cached = n;
            assert_int_equal(shoal_cloud_msg_encode(&msgs[i], &buf),
                             fits ? SHOAL_OK : SHOAL_E_INVALID);
            shoal_buf_reset(&buf);
            if (i == 1) {
                pb_ids(&buf, 3, 1, 1);
                pb_bytes(&buf, 4, "c", 1);
            }
            pb_uint(&buf, 6, n);
            body_case((unsigned)i + 2, &buf, fits ? NULL : words[i]);
        }
        msgs[i].n_cached = SHOAL_WIRE_POSITION_MAX;
        shoal_cloud_msg *back = round_trip(&msgs[i]);
        assert_int_equal(back->n_cached, SHOAL_WIRE_POSITION_MAX);
        shoal_cloud_msg_free(back);
    }
}

static void opened_case(const char *node, size_t n_node, const char *word)
{
    shoal_buf body = {0};
    pb_bytes(&body, 2, node, n_node);
    body_case(1, &body, word);
}

static void test_opened_fields_at_their_limits(void **state)
{
    (void)state;
    char long_name[256];
    memset(long_name, 'n', sizeof long_name);
    opened_case("", 0, NULL);
    opened_case("n", 1, NULL);
    opened_case(long_name, 255, NULL);
    opened_case(long_name, 256, "Opened.node has 256 bytes; at most 255");
}

static void test_text_takes_printable_utf8_only(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        bool good;
    } cases[] = {
        {"plain text", 10, true},
        {"a\0b", 3, false},
        {"a\nb", 3, false},
        {"\x1b[31m", 5, false},
        {"\x7f", 1, false},
        {"\xc2\x9f", 2, false},
        {"\xc2\xa0", 2, true},
        {"\xc0\x80", 2, false},
        {"\xe0\x9f\xbf", 3, false},
        {"\xe0\xa0\x80", 3, true},
        {"\xed\x9f\xbf", 3, true},
        {"\xed\xa0\x80", 3, false},
        {"\xf0\x8f\xbf\xbf", 4, false},
        {"\xf0\x90\x80\x80", 4, true},
        {"\xf4\x8f\xbf\xbf", 4, true},
        {"\xf4\x90\x80\x80", 4, false},
        {"\xe2\x82", 2, false},
        {"\x80", 1, false},
        {"\xff", 1, false},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        opened_case(cases[i].text, cases[i].n, cases[i].good ? NULL : "Opened.node has byte");
    }
}

static void verdict_case(uint64_t epoch, uint64_t accepted_to, size_t n_ids, uint64_t id,
                         size_t n_confidences, const char *word)
{
    static const uint8_t zeros[256];
    shoal_buf body = {0};
    pb_uint(&body, 1, epoch);
    pb_uint(&body, 2, accepted_to);
    pb_ids(&body, 3, n_ids, id);
    pb_bytes(&body, 4, zeros, n_confidences);
    body_case(2, &body, word);
}

static void test_verdict_fields_at_their_limits(void **state)
{
    (void)state;
    verdict_case(0, 0, 0, 0, 0, NULL);
    verdict_case(SHOAL_WIRE_EPOCH_MAX, 1, 1, 1, 1, NULL);
    verdict_case((uint64_t)SHOAL_WIRE_EPOCH_MAX + 1, 1, 1, 1, 1, "Verdict.epoch");
    verdict_case(0, SHOAL_WIRE_POSITION_MAX, 0, 0, 0, NULL);
    verdict_case(0, SHOAL_WIRE_POSITION_MAX - 1, 1, 0, 0, NULL);
    verdict_case(0, SHOAL_WIRE_POSITION_MAX, 1, 0, 0, "Verdict begins at position 16777216");
    verdict_case(0, UINT32_MAX, 1, 0, 0, "Verdict begins");
    verdict_case(0, 0, 64, N_VOCAB - 1, 128, NULL);
    verdict_case(0, 0, 65, 0, 65, "Verdict.ids count is 65");
    verdict_case(0, 0, 64, 0, 129, "Verdict.confidences count is 129");
    verdict_case(0, 0, 2, 0, 1, "Verdict.confidences count is 1");
    verdict_case(0, 0, 1, N_VOCAB, 1, "Verdict.ids[0] is 32000");
    verdict_case(0, 0, 1, UINT32_MAX, 1, "Verdict.ids[0]");
}

static void tokens_case(uint64_t epoch, uint64_t position, size_t n_ids, uint64_t id,
                        size_t n_confidences, const char *word)
{
    static uint8_t zeros[SHOAL_WIRE_PROMPT_MAX + 1];
    shoal_buf body = {0};
    pb_uint(&body, 1, epoch);
    pb_uint(&body, 2, position);
    pb_ids(&body, 3, n_ids, id);
    pb_bytes(&body, 4, zeros, n_confidences);
    body_case(3, &body, word);
}

static void test_tokens_fields_at_their_limits(void **state)
{
    (void)state;
    tokens_case(0, 0, 0, 0, 0, "CloudTokens.ids count is 0");
    tokens_case(SHOAL_WIRE_EPOCH_MAX, 0, 1, N_VOCAB - 1, 1, NULL);
    tokens_case((uint64_t)SHOAL_WIRE_EPOCH_MAX + 1, 0, 1, 0, 1, "CloudTokens.epoch");
    tokens_case(0, 0, SHOAL_WIRE_PROMPT_MAX, 0, SHOAL_WIRE_PROMPT_MAX, NULL);
    tokens_case(0, 0, SHOAL_WIRE_PROMPT_MAX + 1, 0, SHOAL_WIRE_PROMPT_MAX + 1, "ids count");
    tokens_case(0, SHOAL_WIRE_POSITION_MAX - 1, 1, 0, 1, NULL);
    tokens_case(0, SHOAL_WIRE_POSITION_MAX, 1, 0, 1, "CloudTokens begins");
    tokens_case(0, 0, 2, 0, 1, "CloudTokens.confidences count is 1");
    tokens_case(0, 0, 2, 0, 3, "CloudTokens.confidences count is 3");
    tokens_case(0, 0, 1, N_VOCAB, 1, "CloudTokens.ids[0]");
}

static void error_case(uint64_t code, const char *text, size_t n, const char *word)
{
    shoal_buf body = {0};
    pb_uint(&body, 1, code);
    pb_bytes(&body, 2, text, n);
    body_case(6, &body, word);
}

static void test_error_fields_at_their_limits(void **state)
{
    (void)state;
    char long_text[256];
    memset(long_text, 't', sizeof long_text);
    error_case(0, "x", 1, "Error.code is 0");
    error_case(1, "", 0, NULL);
    error_case(16, long_text, 255, NULL);
    error_case(17, "x", 1, "Error.code is 17");
    error_case(UINT64_MAX, "x", 1, "Error.code");
    error_case(1, long_text, 256, "Error.text has 256 bytes");
    error_case(1, "a\rb", 3, "Error.text has byte 0x0d at 1");
}

static void test_body_missing_is_refused(void **state)
{
    (void)state;
    shoal_cloud_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_cloud_msg_decode(NULL, 0, N_VOCAB, &msg, &err), SHOAL_E_PROTOCOL);
    assert_non_null(strstr(err.text, "CloudMessage.body is missing"));
}

static void test_encode_refuses_our_mistakes(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    shoal_cloud_msg msg = {.kind = (shoal_cloud_msg_kind)7};
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    msg.kind = SHOAL_CLOUD_ERROR;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    int32_t ids[SHOAL_WIRE_DRAFT_MAX + 1] = {0};
    msg.kind = SHOAL_CLOUD_VERDICT;
    msg.body.verdict = (shoal_msg_verdict){.ids = ids, .n_ids = SHOAL_WIRE_DRAFT_MAX + 1};
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    ids[0] = -5;
    msg.body.verdict.n_ids = 1;
    assert_int_equal(shoal_cloud_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    assert_int_equal(buf.length, 0);
    shoal_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opened_round_trips),
        cmocka_unit_test(test_verdict_of_every_shape_round_trips),
        cmocka_unit_test(test_verdict_stays_within_the_round_budget),
        cmocka_unit_test(test_tokens_round_trip),
        cmocka_unit_test(test_busy_and_finished_round_trip),
        cmocka_unit_test(test_error_text_is_cleaned_when_sent),
        cmocka_unit_test(test_cost_round_trips),
        cmocka_unit_test(test_cost_fits_the_round_budget),
        cmocka_unit_test(test_cost_fields_at_their_limits),
        cmocka_unit_test(test_cached_round_trips_and_is_a_position),
        cmocka_unit_test(test_opened_fields_at_their_limits),
        cmocka_unit_test(test_text_takes_printable_utf8_only),
        cmocka_unit_test(test_verdict_fields_at_their_limits),
        cmocka_unit_test(test_tokens_fields_at_their_limits),
        cmocka_unit_test(test_error_fields_at_their_limits),
        cmocka_unit_test(test_body_missing_is_refused),
        cmocka_unit_test(test_encode_refuses_our_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
