/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/mem.h"
#include "protocol/wire/wire.h"
#include "proto_bytes.h"

enum {
    N_VOCAB = 32000
};

static const shoal_logit_bias two_biases[] = {{.id = 7, .bias = -2.5f}, {.id = 31999, .bias = 100}};

static shoal_edge_msg full_open(void)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN};
    shoal_msg_open *open = &msg.body.open;
    open->protocol = SHOAL_WIRE_PROTOCOL;
    for (size_t i = 0; i < SHOAL_HASH_BYTES; i++) {
        open->model.bytes[i] = (uint8_t)i;
        open->tokenizer.bytes[i] = (uint8_t)(i + 100);
        open->chat_template.bytes[i] = (uint8_t)(255 - i);
    }
    open->sampling = (shoal_sampling){
        .temperature = 0.7f,
        .top_p = 0.9f,
        .min_p = 0.05f,
        .top_k = 40,
        .repetition_penalty = 1.1f,
        .presence_penalty = -0.5f,
        .frequency_penalty = 0.25f,
        .penalty_window = 128,
        .seed = UINT64_C(0xfedcba9876543210),
        .biases = two_biases,
        .n_biases = 2,
    };
    open->mode = SHOAL_MODE_EXACT;
    open->deadline_ms = 30000;
    open->priority = 7;
    open->n_tokens_max = 4096;
    memcpy(open->request_id, "req-1._A", 9);
    open->has_adapter = true;
    memset(&open->adapter, 77, sizeof open->adapter);
    return msg;
}

static shoal_edge_msg *round_trip(const shoal_edge_msg *msg)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_edge_msg_encode(msg, &buf), SHOAL_OK);
    shoal_edge_msg *back = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &back, &err),
        SHOAL_OK);
    assert_int_equal(err.code, SHOAL_OK);
    shoal_buf_fini(&buf);
    return back;
}

/* Decoding must fail with SHOAL_E_PROTOCOL and a text that holds word. Consumes buf. */
static void expect_refused(shoal_buf *buf, const char *word)
{
    shoal_edge_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_edge_msg_decode((const uint8_t *)buf->data, buf->length, N_VOCAB, &msg, &err);
    if (status != SHOAL_E_PROTOCOL || err.code != SHOAL_E_PROTOCOL || !strstr(err.text, word)) {
        fail_msg("wanted a refusal naming '%s', got %d '%s'", word, status, err.text);
    }
    assert_null(msg);
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf->data, buf->length, N_VOCAB, &msg, NULL),
        SHOAL_E_PROTOCOL);
    shoal_buf_fini(buf);
}

static void expect_taken(shoal_buf *buf)
{
    shoal_edge_msg *msg = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_edge_msg_decode((const uint8_t *)buf->data, buf->length, N_VOCAB, &msg, &err);
    if (status != SHOAL_OK) {
        fail_msg("wanted a message, got '%s'", err.text);
    }
    shoal_edge_msg_free(msg);
    shoal_buf_fini(buf);
}

/* --- round trips ------------------------------------------------------------------------------ */

static void test_open_with_every_field_round_trips(void **state)
{
    (void)state;
    shoal_edge_msg msg = full_open();
    shoal_edge_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_EDGE_OPEN);
    const shoal_msg_open *a = &msg.body.open;
    const shoal_msg_open *b = &back->body.open;
    assert_int_equal(b->protocol, 1);
    assert_memory_equal(&a->model, &b->model, 3 * sizeof(shoal_hash));
    assert_true(a->sampling.temperature == b->sampling.temperature);
    assert_true(a->sampling.top_p == b->sampling.top_p && a->sampling.min_p == b->sampling.min_p);
    assert_true(b->has_adapter);
    assert_memory_equal(&a->adapter, &b->adapter, sizeof a->adapter);
    assert_int_equal(b->sampling.top_k, 40);
    assert_true(a->sampling.repetition_penalty == b->sampling.repetition_penalty);
    assert_true(a->sampling.presence_penalty == b->sampling.presence_penalty);
    assert_true(a->sampling.frequency_penalty == b->sampling.frequency_penalty);
    assert_int_equal(b->sampling.penalty_window, 128);
    assert_true(b->sampling.seed == UINT64_C(0xfedcba9876543210));
    assert_int_equal(b->sampling.n_biases, 2);
    assert_int_equal(b->sampling.biases[1].id, 31999);
    assert_true(b->sampling.biases[0].bias == -2.5f && b->sampling.biases[1].bias == 100.0f);
    assert_int_equal(b->mode, SHOAL_MODE_EXACT);
    assert_int_equal(b->deadline_ms, 30000);
    assert_int_equal(b->priority, 7);
    assert_int_equal(b->n_tokens_max, 4096);
    assert_string_equal(b->request_id, "req-1._A");
    shoal_edge_msg_free(back);
}

static void test_form_round_trips_up_to_its_limits(void **state)
{
    (void)state;
    static uint8_t grammar[SHOAL_WIRE_FORM_MAX + 1];
    memset(grammar, 7, sizeof grammar);
    shoal_edge_msg msg = full_open();
    shoal_msg_form *form = &msg.body.open.form;
    msg.body.open.protocol = SHOAL_WIRE_PROTOCOL_FORM;
    form->grammar = grammar;
    form->position = 3;
    memcpy(form->opening, "<tool_call>", 12);
    for (size_t n = SHOAL_WIRE_FORM_MAX - 1; n <= SHOAL_WIRE_FORM_MAX; n++) {
        form->n_grammar = n;
        shoal_edge_msg *back = round_trip(&msg);
        assert_int_equal(back->body.open.protocol, 2);
        assert_int_equal(back->body.open.form.n_grammar, n);
        assert_memory_equal(back->body.open.form.grammar, grammar, n);
        assert_string_equal(back->body.open.form.opening, "<tool_call>");
        assert_int_equal(back->body.open.form.position, 3);
        assert_int_equal(back->body.open.sampling.n_biases, 2);
        shoal_edge_msg_free(back);
    }
    shoal_buf buf = {0};
    form->n_grammar = SHOAL_WIRE_FORM_MAX + 1;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    form->n_grammar = 1;
    form->position = 0;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    form->position = 3;
    form->opening[0] = '\n';
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    shoal_buf_fini(&buf);
}

static void test_open_brings_a_text_up_to_its_limits(void **state)
{
    (void)state;
    static int32_t ids[SHOAL_WIRE_PROMPT_MAX + 1];
    static const uint8_t grammar[3] = {1, 2, 3};
    uint8_t shares[SHOAL_WIRE_DRAFT_MAX];
    for (size_t i = 0; i < SHOAL_COUNT(shares); i++) {
        shares[i] = (uint8_t)(255 - i);
    }
    shoal_edge_msg msg = full_open();
    shoal_msg_open *open = &msg.body.open;
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        ids[i] = (int32_t)((i * 7919) % N_VOCAB);
    }
    ids[0] = N_VOCAB - 1;
    open->form = (shoal_msg_form){.grammar = grammar, .n_grammar = 3, .position = 3};
    open->prompt = ids;
    open->drafts = ids + 1;
    open->ends = true;
    static const size_t n_prompts[] = {1, SHOAL_WIRE_PROMPT_MAX - 1, SHOAL_WIRE_PROMPT_MAX};
    static const size_t n_drafts[] = {0, SHOAL_WIRE_DRAFT_MAX - 1, SHOAL_WIRE_DRAFT_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(n_prompts); i++) {
        open->n_prompt = n_prompts[i];
        open->n_drafts = n_drafts[i];
        open->confidences = i == 1 ? NULL : shares;
        open->n_continue = SHOAL_WIRE_POSITION_MAX - (uint32_t)n_prompts[i];
        shoal_edge_msg *back = round_trip(&msg);
        const shoal_msg_open *b = &back->body.open;
        assert_int_equal(b->n_prompt, n_prompts[i]);
        assert_memory_equal(b->prompt, ids, n_prompts[i] * sizeof *ids);
        assert_int_equal(b->n_drafts, n_drafts[i]);
        if (b->n_drafts > 0) {
            assert_memory_equal(b->drafts, ids + 1, n_drafts[i] * sizeof *ids);
        }
        assert_int_equal(b->confidences != NULL, i == 2);
        if (b->confidences) {
            assert_memory_equal(b->confidences, shares, n_drafts[i]);
        }
        assert_int_equal(b->n_continue, open->n_continue);
        assert_true(b->ends);
        assert_int_equal(b->sampling.biases[1].id, 31999);
        assert_memory_equal(b->form.grammar, grammar, 3);
        assert_int_equal(shoal_edge_msg_n_ids(back), n_prompts[i] + n_drafts[i]);
        shoal_edge_msg_free(back);
    }
}

static void test_open_of_a_text_past_its_limits_is_not_encoded(void **state)
{
    (void)state;
    static int32_t ids[SHOAL_WIRE_PROMPT_MAX + 1];
    shoal_buf buf = {0};
    shoal_edge_msg msg = full_open();
    shoal_msg_open *open = &msg.body.open;
    open->prompt = ids;
    open->drafts = ids;
    open->n_prompt = SHOAL_WIRE_PROMPT_MAX + 1;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    open->n_prompt = 9;
    open->n_drafts = SHOAL_WIRE_DRAFT_MAX + 1;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    open->n_drafts = 0;
    open->n_continue = SHOAL_WIRE_POSITION_MAX - 8;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    open->n_prompt = 0; /* and nothing of it without a prompt */
    open->n_continue = 1;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    open->n_continue = 0;
    open->n_drafts = 1;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    open->n_drafts = 0;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
    shoal_buf_fini(&buf);
}

static void test_open_of_a_text_beside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    static const int32_t good[] = {N_VOCAB - 1};
    static const int32_t bad[] = {N_VOCAB};
    for (size_t i = 0; i < 3; i++) {
        shoal_edge_msg msg = full_open();
        shoal_buf buf = {0};
        msg.body.open.prompt = i == 1 ? bad : good;
        msg.body.open.drafts = i == 2 ? bad : good;
        msg.body.open.n_prompt = 1;
        msg.body.open.n_drafts = 1;
        assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
        if (i == 0) {
            expect_taken(&buf);
        } else {
            expect_refused(&buf, i == 1 ? "Open.prompt[0]" : "Open.drafts[0]");
        }
    }
}

static void test_open_of_confidences_that_are_not_of_its_drafts_is_refused(void **state)
{
    (void)state;
    static const int32_t ids[3] = {1, 2, 3};
    static const uint8_t shares[4] = {255, 254, 1, 0};
    for (size_t n = 0; n <= 4; n++) {
        shoal_edge_msg msg = full_open();
        shoal_buf buf = {0};
        shoal_buf more = {0};
        msg.body.open.prompt = ids;
        msg.body.open.n_prompt = 1;
        msg.body.open.drafts = ids;
        msg.body.open.n_drafts = 3;
        assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
        const uint8_t *inner = (const uint8_t *)buf.data + 1; /* behind the tag and the length */
        for (bool long_form = true; long_form; inner++) {
            long_form = (*inner & 0x80) != 0;
        }
        pb_raw(&more, inner, buf.length - (size_t)(inner - (const uint8_t *)buf.data));
        pb_bytes(&more, 16, shares, n);
        shoal_buf_fini(&buf);
        pb_buf(&buf, 1, &more);
        shoal_buf_fini(&more);
        if (n == 0 || n == 3) {
            expect_taken(&buf);
        } else {
            expect_refused(&buf, "Open.confidences count");
        }
    }
}

static void test_share_is_a_probability_in_255ths(void **state)
{
    (void)state;
    assert_int_equal(shoal_wire_share(0.0f), 0);
    assert_int_equal(shoal_wire_share(-1.0f), 0);
    assert_int_equal(shoal_wire_share((float)NAN), 0);
    assert_int_equal(shoal_wire_share(0.5f / 255.0f - 1e-5f), 0);
    assert_int_equal(shoal_wire_share(0.5f / 255.0f + 1e-5f), 1);
    assert_int_equal(shoal_wire_share(254.5f / 255.0f - 1e-5f), 254);
    assert_int_equal(shoal_wire_share(254.5f / 255.0f + 1e-5f), 255);
    assert_int_equal(shoal_wire_share(1.0f), 255);
    assert_int_equal(shoal_wire_share(2.0f), 255);
}

static void test_open_of_defaults_round_trips(void **state)
{
    (void)state;
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN};
    msg.body.open.protocol = 1;
    msg.body.open.sampling = shoal_sampling_default();
    msg.body.open.mode = SHOAL_MODE_ASSIST;
    msg.body.open.n_tokens_max = 1;
    shoal_edge_msg *back = round_trip(&msg);
    assert_null(back->body.open.sampling.biases);
    assert_int_equal(back->body.open.sampling.n_biases, 0);
    assert_string_equal(back->body.open.request_id, "");
    assert_int_equal(back->body.open.form.n_grammar, 0);
    assert_int_equal(shoal_edge_msg_n_ids(back), 0);
    assert_null(back->body.open.prompt);
    assert_false(back->body.open.ends);
    shoal_edge_msg_free(back);
}

static void test_open_with_most_biases_round_trips(void **state)
{
    (void)state;
    static shoal_logit_bias biases[SHOAL_BIAS_MAX + 1];
    for (size_t i = 0; i < SHOAL_COUNT(biases); i++) {
        biases[i] = (shoal_logit_bias){.id = (int32_t)i, .bias = (float)i / 64.0f};
    }
    shoal_edge_msg msg = full_open();
    msg.body.open.sampling.biases = biases;
    msg.body.open.sampling.n_biases = SHOAL_BIAS_MAX;
    shoal_edge_msg *back = round_trip(&msg);
    assert_int_equal(back->body.open.sampling.n_biases, SHOAL_BIAS_MAX);
    assert_memory_equal(back->body.open.sampling.biases, biases, SHOAL_BIAS_MAX * sizeof *biases);
    shoal_edge_msg_free(back);
    msg.body.open.sampling.n_biases = SHOAL_BIAS_MAX + 1;
    shoal_buf buf = {0};
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_E_INVALID);
    assert_int_equal(buf.length, 0);
    shoal_buf_fini(&buf);
}

static void check_tokens_trip(shoal_token_kind kind, size_t n, uint32_t epoch, uint32_t position)
{
    int32_t *ids = shoal_calloc(n, sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)((i * 7919) % N_VOCAB);
    }
    ids[n - 1] = N_VOCAB - 1;
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_TOKENS};
    msg.body.tokens = (shoal_msg_tokens){
        .epoch = epoch, .position = position, .kind = kind, .ids = ids, .n_ids = n};
    shoal_edge_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_EDGE_TOKENS);
    assert_int_equal(back->body.tokens.kind, kind);
    assert_int_equal(back->body.tokens.epoch, epoch);
    assert_int_equal(back->body.tokens.position, position);
    assert_int_equal(back->body.tokens.n_ids, n);
    assert_memory_equal(back->body.tokens.ids, ids, n * sizeof *ids);
    assert_null(back->body.tokens.confidences);
    shoal_edge_msg_free(back);
    shoal_free(ids);
}

static void test_tokens_of_every_kind_round_trip(void **state)
{
    (void)state;
    check_tokens_trip(SHOAL_TOKENS_PROMPT, 1, 0, 0);
    check_tokens_trip(SHOAL_TOKENS_PROMPT, SHOAL_WIRE_PROMPT_MAX, 0, 0);
    check_tokens_trip(SHOAL_TOKENS_TRUSTED, SHOAL_WIRE_PROMPT_MAX - 1, 1, 1);
    check_tokens_trip(SHOAL_TOKENS_DRAFT, 1, SHOAL_WIRE_EPOCH_MAX, SHOAL_WIRE_POSITION_MAX - 1);
    check_tokens_trip(SHOAL_TOKENS_DRAFT, SHOAL_WIRE_DRAFT_MAX, 3, 77);
}

static void test_continue_cancel_close_round_trip(void **state)
{
    (void)state;
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_CONTINUE};
    msg.body.cont = (shoal_msg_continue){.epoch = 5, .position = 100, .n_max = 16};
    shoal_edge_msg *back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_EDGE_CONTINUE);
    assert_memory_equal(&back->body.cont, &msg.body.cont, sizeof msg.body.cont);
    shoal_edge_msg_free(back);
    msg.kind = SHOAL_EDGE_CANCEL;
    back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_EDGE_CANCEL);
    shoal_edge_msg_free(back);
    msg.kind = SHOAL_EDGE_CLOSE;
    back = round_trip(&msg);
    assert_int_equal(back->kind, SHOAL_EDGE_CLOSE);
    shoal_edge_msg_free(back);
}

/* --- the byte budget of a round --------------------------------------------------------------- */

static void test_draft_of_16_ids_stays_within_the_round_budget(void **state)
{
    (void)state;
    int32_t ids[SHOAL_WIRE_DRAFT_MAX];
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        ids[i] = 262143; /* the largest vocabularies of today: three bytes each */
    }
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_TOKENS};
    msg.body.tokens = (shoal_msg_tokens){
        .epoch = 1 << 20, .position = 1 << 20, .kind = SHOAL_TOKENS_DRAFT, .ids = ids, .n_ids = 16};
    shoal_buf buf = {0};
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
    print_message("a draft of 16 ids: %zu bytes\n", buf.length);
    assert_in_range(buf.length, 48, 80);
    shoal_buf_reset(&buf);
    msg.body.tokens.n_ids = 48;
    assert_int_equal(shoal_edge_msg_encode(&msg, &buf), SHOAL_OK);
    assert_in_range(buf.length, 144, SHOAL_WIRE_ROUND_BYTES);
    shoal_buf_fini(&buf);
}

/* --- our own mistakes ------------------------------------------------------------------------- */

static void expect_not_encoded(const shoal_edge_msg *msg)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_buf_append(&buf, "kept", 4), SHOAL_OK);
    assert_int_equal(shoal_edge_msg_encode(msg, &buf), SHOAL_E_INVALID);
    assert_string_equal(buf.data, "kept");
    shoal_buf_fini(&buf);
}

static void test_encode_refuses_what_a_peer_would_refuse(void **state)
{
    (void)state;
    static int32_t ids[SHOAL_WIRE_PROMPT_MAX + 1];
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_TOKENS};
    msg.body.tokens = (shoal_msg_tokens){.kind = SHOAL_TOKENS_PROMPT, .ids = ids};
    expect_not_encoded(&msg);
    msg.body.tokens.n_ids = SHOAL_WIRE_PROMPT_MAX + 1;
    expect_not_encoded(&msg);
    msg.body.tokens.n_ids = SHOAL_WIRE_DRAFT_MAX + 1;
    msg.body.tokens.kind = SHOAL_TOKENS_DRAFT;
    expect_not_encoded(&msg);
    msg.body.tokens.n_ids = 1;
    msg.body.tokens.kind = (shoal_token_kind)4;
    expect_not_encoded(&msg);
    msg.body.tokens.kind = SHOAL_TOKENS_DRAFT;
    ids[0] = -1;
    expect_not_encoded(&msg);
    ids[0] = 0;
    msg.kind = (shoal_edge_msg_kind)9;
    expect_not_encoded(&msg);
    msg = full_open();
    msg.body.open.mode = SHOAL_MODE_LOCAL;
    expect_not_encoded(&msg);
    msg = full_open();
    msg.body.open.sampling.top_p = NAN;
    expect_not_encoded(&msg);
    msg = full_open();
    memset(msg.body.open.request_id, 'a', sizeof msg.body.open.request_id);
    expect_not_encoded(&msg);
}

static void test_encode_over_the_buffer_limit_leaves_the_buffer(void **state)
{
    (void)state;
    shoal_edge_msg msg = full_open();
    for (size_t limit = 5; limit < 240; limit++) {
        shoal_buf buf = {.limit = limit};
        assert_int_equal(shoal_buf_append(&buf, "kept", 4), SHOAL_OK);
        shoal_status status = shoal_edge_msg_encode(&msg, &buf);
        if (status == SHOAL_OK) {
            shoal_buf_fini(&buf);
            return;
        }
        assert_int_equal(status, SHOAL_E_LIMIT);
        assert_string_equal(buf.data, "kept");
        assert_int_equal(buf.length, 4);
        shoal_buf_fini(&buf);
    }
    fail_msg("an Open of two biases takes over 236 bytes");
}

/* --- every field at its limits, by hand ------------------------------------------------------- */

/* An Open in raw numbers, so that each can be wrong alone. */
typedef struct raw_open {
    uint64_t protocol, mode, deadline_ms, priority, n_tokens_max;
    size_t model_bytes, tokenizer_bytes, template_bytes, adapter_bytes;
    const char *request_id;
    size_t n_request_id;
    bool no_sampling;
    float temperature, top_p;
    uint64_t penalty_window;
    size_t n_bias_ids, n_biases;
    uint64_t bias_id;
} raw_open;

static raw_open good_open(void)
{
    return (raw_open){.protocol = 1,
                      .mode = 1,
                      .n_tokens_max = 100,
                      .model_bytes = 32,
                      .tokenizer_bytes = 32,
                      .template_bytes = 32,
                      .request_id = "",
                      .temperature = 1.0f,
                      .top_p = 1.0f,
                      .penalty_window = 64};
}

static shoal_buf build_open(const raw_open *raw)
{
    static const uint8_t zeros[64];
    shoal_buf sampling = {0};
    pb_float(&sampling, 1, raw->temperature);
    pb_float(&sampling, 2, raw->top_p);
    pb_float(&sampling, 5, 1.0f);
    pb_uint(&sampling, 8, raw->penalty_window);
    if (raw->n_bias_ids > 0) {
        pb_ids(&sampling, 10, raw->n_bias_ids, raw->bias_id);
    }
    for (size_t i = 0; i < raw->n_biases; i++) {
        pb_float(&sampling, 11, 1.0f);
    }
    shoal_buf open = {0};
    pb_uint(&open, 1, raw->protocol);
    pb_bytes(&open, 2, zeros, raw->model_bytes);
    pb_bytes(&open, 3, zeros, raw->tokenizer_bytes);
    pb_bytes(&open, 4, zeros, raw->template_bytes);
    if (!raw->no_sampling) {
        pb_buf(&open, 5, &sampling);
    }
    pb_uint(&open, 6, raw->mode);
    pb_uint(&open, 7, raw->deadline_ms);
    pb_uint(&open, 8, raw->priority);
    pb_uint(&open, 9, raw->n_tokens_max);
    pb_bytes(&open, 10, raw->request_id, raw->n_request_id);
    if (raw->adapter_bytes > 0) {
        pb_bytes(&open, 17, zeros, raw->adapter_bytes);
    }
    shoal_buf envelope = {0};
    pb_buf(&envelope, 1, &open);
    shoal_buf_fini(&open);
    shoal_buf_fini(&sampling);
    return envelope;
}

static void open_taken(raw_open raw)
{
    shoal_buf buf = build_open(&raw);
    expect_taken(&buf);
}

static void open_refused(raw_open raw, const char *word)
{
    shoal_buf buf = build_open(&raw);
    expect_refused(&buf, word);
}

#define WITH(field, value) ((raw = good_open()), (raw.field = (value)), raw)

static void test_open_numbers_at_their_limits(void **state)
{
    (void)state;
    raw_open raw;
    open_taken(good_open());
    open_refused(WITH(protocol, 0), "Open.protocol");
    open_taken(WITH(protocol, 2));
    open_taken(WITH(protocol, UINT32_MAX));
    open_refused(WITH(mode, 0), "Open.mode is 0");
    open_taken(WITH(mode, 3));
    open_refused(WITH(mode, 4), "Open.mode is 4");
    open_refused(WITH(mode, UINT64_MAX), "Open.mode");
    open_taken(WITH(deadline_ms, 1));
    open_taken(WITH(deadline_ms, UINT32_MAX));
    open_taken(WITH(priority, 1));
    open_taken(WITH(priority, 7));
    open_refused(WITH(priority, 8), "Open.priority is 8");
    open_refused(WITH(n_tokens_max, 0), "Open.n_tokens_max");
    open_taken(WITH(n_tokens_max, 1));
    open_taken(WITH(n_tokens_max, SHOAL_WIRE_POSITION_MAX));
    open_refused(WITH(n_tokens_max, SHOAL_WIRE_POSITION_MAX + 1), "Open.n_tokens_max is 16777217");
}

static void test_open_hash_of_other_length_is_refused(void **state)
{
    (void)state;
    raw_open raw;
    const size_t wrong[] = {0, 1, 31, 33, 64};
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        open_refused(WITH(model_bytes, wrong[i]), "Open.model_hash");
        open_refused(WITH(tokenizer_bytes, wrong[i]), "Open.tokenizer_hash");
        open_refused(WITH(template_bytes, wrong[i]), "Open.template_hash");
        if (wrong[i] > 0) {
            open_refused(WITH(adapter_bytes, wrong[i]), "Open.adapter");
        }
    }
    open_taken(WITH(adapter_bytes, 32));
}

static void test_open_request_id_holds_word_bytes_only(void **state)
{
    (void)state;
    char id[65];
    memset(id, 'z', sizeof id);
    raw_open raw = good_open();
    raw.request_id = id;
    raw.n_request_id = 1;
    open_taken(raw);
    raw.n_request_id = 64;
    open_taken(raw);
    raw.n_request_id = 65;
    open_refused(raw, "Open.request_id has 65 bytes; at most 64");
    raw.n_request_id = 10;
    for (unsigned c = 0; c < 256; c++) {
        id[4] = (char)c;
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '.' || c == '_' || c == '-';
        if (word) {
            open_taken(raw);
        } else {
            open_refused(raw, "Open.request_id has byte");
        }
    }
}

static void test_open_sampling_is_checked(void **state)
{
    (void)state;
    raw_open raw;
    open_refused(WITH(no_sampling, true), "Open.sampling is missing");
    open_refused(WITH(temperature, NAN), "Open.sampling: temperature");
    open_refused(WITH(temperature, INFINITY), "Open.sampling: temperature");
    open_refused(WITH(temperature, -1.0f), "Open.sampling: temperature");
    open_refused(WITH(top_p, 0.0f), "Open.sampling: top_p");
    open_taken(WITH(penalty_window, SHOAL_PENALTY_WINDOW_MAX));
    open_refused(WITH(penalty_window, SHOAL_PENALTY_WINDOW_MAX + 1), "penalty_window");
    raw = good_open();
    raw.n_bias_ids = 1;
    open_refused(raw, "bias_ids has 1 entries and biases 0");
    raw.n_biases = 1;
    raw.bias_id = N_VOCAB - 1;
    open_taken(raw);
    raw.bias_id = N_VOCAB;
    open_refused(raw, "Sampling.bias_ids[0] is 32000");
    raw.bias_id = UINT32_MAX;
    open_refused(raw, "Sampling.bias_ids[0]");
    raw.bias_id = 5;
    raw.n_bias_ids = raw.n_biases = 2;
    open_refused(raw, "twice");
    raw.n_bias_ids = raw.n_biases = SHOAL_BIAS_MAX + 1;
    open_refused(raw, "biases count is 1025");
}

static shoal_buf build_tokens(uint64_t epoch, uint64_t position, uint64_t kind, size_t n,
                              uint64_t id)
{
    shoal_buf tokens = {0};
    pb_uint(&tokens, 1, epoch);
    pb_uint(&tokens, 2, position);
    pb_uint(&tokens, 3, kind);
    pb_ids(&tokens, 4, n, id);
    shoal_buf envelope = {0};
    pb_buf(&envelope, 2, &tokens);
    shoal_buf_fini(&tokens);
    return envelope;
}

static void tokens_refused(uint64_t epoch, uint64_t position, uint64_t kind, size_t n, uint64_t id,
                           const char *word)
{
    shoal_buf buf = build_tokens(epoch, position, kind, n, id);
    expect_refused(&buf, word);
}

static void tokens_taken(uint64_t epoch, uint64_t position, uint64_t kind, size_t n, uint64_t id)
{
    shoal_buf buf = build_tokens(epoch, position, kind, n, id);
    expect_taken(&buf);
}

static void test_tokens_fields_at_their_limits(void **state)
{
    (void)state;
    tokens_refused(0, 0, 0, 1, 0, "Tokens.kind is 0");
    tokens_refused(0, 0, 4, 1, 0, "Tokens.kind is 4");
    tokens_refused(0, 0, UINT64_MAX, 1, 0, "Tokens.kind");
    tokens_taken(SHOAL_WIRE_EPOCH_MAX, 0, 3, 1, 0);
    tokens_refused((uint64_t)SHOAL_WIRE_EPOCH_MAX + 1, 0, 3, 1, 0, "Tokens.epoch");
    tokens_refused(0, 0, 1, 0, 0, "Tokens.ids count is 0");
    tokens_taken(0, 0, 1, SHOAL_WIRE_PROMPT_MAX, 0);
    tokens_refused(0, 0, 1, SHOAL_WIRE_PROMPT_MAX + 1, 0, "Tokens.ids count is 131073");
    tokens_refused(0, 0, 2, SHOAL_WIRE_PROMPT_MAX + 1, 0, "Tokens.ids count");
    tokens_taken(0, 0, 3, SHOAL_WIRE_DRAFT_MAX, 0);
    tokens_refused(0, 0, 3, SHOAL_WIRE_DRAFT_MAX + 1, 0, "Tokens.ids count is 65");
    tokens_taken(0, SHOAL_WIRE_POSITION_MAX - 2, 3, 2, 0);
    tokens_refused(0, SHOAL_WIRE_POSITION_MAX - 1, 3, 2, 0, "Tokens begins at position 16777215");
    tokens_refused(0, UINT32_MAX, 3, 2, 0, "Tokens begins at position 4294967295");
    tokens_taken(0, 0, 3, 2, N_VOCAB - 1);
    tokens_refused(0, 0, 3, 2, N_VOCAB, "Tokens.ids[0] is 32000; it must be below");
    tokens_refused(0, 0, 3, 2, UINT32_MAX, "Tokens.ids[0]");
    tokens_refused(0, 0, 3, 2, UINT32_C(0x80000000), "Tokens.ids[0]");
}

static void continue_case(uint64_t epoch, uint64_t position, uint64_t n_max, const char *word)
{
    shoal_buf cont = {0};
    pb_uint(&cont, 1, epoch);
    pb_uint(&cont, 2, position);
    pb_uint(&cont, 3, n_max);
    shoal_buf envelope = {0};
    pb_buf(&envelope, 3, &cont);
    shoal_buf_fini(&cont);
    if (word) {
        expect_refused(&envelope, word);
    } else {
        expect_taken(&envelope);
    }
}

static void test_continue_fields_at_their_limits(void **state)
{
    (void)state;
    continue_case(0, 0, 0, "Continue.n_max is 0");
    continue_case(0, 0, 1, NULL);
    continue_case(SHOAL_WIRE_EPOCH_MAX, 0, SHOAL_WIRE_POSITION_MAX, NULL);
    continue_case((uint64_t)SHOAL_WIRE_EPOCH_MAX + 1, 0, 1, "Continue.epoch");
    continue_case(0, 0, SHOAL_WIRE_POSITION_MAX + 1, "Continue.n_max");
    continue_case(0, 1, SHOAL_WIRE_POSITION_MAX, "Continue begins at position 1");
    continue_case(0, SHOAL_WIRE_POSITION_MAX - 1, 1, NULL);
    continue_case(0, SHOAL_WIRE_POSITION_MAX, 1, "Continue begins");
}

static void test_vocabulary_bounds_ids_at_every_size(void **state)
{
    (void)state;
    for (size_t n_vocab = 0; n_vocab < 4; n_vocab++) {
        shoal_buf buf = build_tokens(0, 0, 1, 3, 2);
        shoal_edge_msg *msg = NULL;
        shoal_status status =
            shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length, n_vocab, &msg, NULL);
        assert_int_equal(status, n_vocab > 2 ? SHOAL_OK : SHOAL_E_PROTOCOL);
        shoal_edge_msg_free(msg);
        shoal_buf_fini(&buf);
    }
}

static void test_body_missing_or_unknown_is_refused(void **state)
{
    (void)state;
    shoal_buf empty = {0};
    expect_refused(&empty, "EdgeMessage.body is missing");
    shoal_buf unknown = {0};
    pb_bytes(&unknown, 15, "x", 1);
    expect_refused(&unknown, "EdgeMessage.body is missing");
}

/* Fields a later version may add are passed over. */
static void test_unknown_field_beside_a_body_is_ignored(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    pb_uint(&buf, 99, 12345);
    pb_bytes(&buf, 4, "", 0);
    expect_taken(&buf);
}

/* The last body wins, as protobuf says; the first leaves nothing behind. */
static void test_two_bodies_give_the_last(void **state)
{
    (void)state;
    shoal_buf buf = build_tokens(0, 0, 1, 3, 2);
    pb_bytes(&buf, 5, "", 0);
    shoal_edge_msg *msg = NULL;
    assert_int_equal(
        shoal_edge_msg_decode((const uint8_t *)buf.data, buf.length, N_VOCAB, &msg, NULL),
        SHOAL_OK);
    assert_int_equal(msg->kind, SHOAL_EDGE_CLOSE);
    shoal_edge_msg_free(msg);
    shoal_buf_fini(&buf);
}

static void test_mode_names_round_trip(void **state)
{
    (void)state;
    for (unsigned i = SHOAL_MODE_LOCAL; i <= SHOAL_MODE_CLOUD; i++) {
        shoal_mode back = SHOAL_MODE_LOCAL;
        assert_int_equal(shoal_mode_parse(shoal_mode_name((shoal_mode)i), &back), SHOAL_OK);
        assert_int_equal(back, i);
    }
    assert_string_equal(shoal_mode_name((shoal_mode)4), "unknown");
    shoal_mode mode = SHOAL_MODE_CLOUD;
    assert_int_equal(shoal_mode_parse("Exact", &mode), SHOAL_E_INVALID);
    assert_int_equal(shoal_mode_parse("", &mode), SHOAL_E_INVALID);
    assert_int_equal(mode, SHOAL_MODE_CLOUD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_with_every_field_round_trips),
        cmocka_unit_test(test_form_round_trips_up_to_its_limits),
        cmocka_unit_test(test_open_brings_a_text_up_to_its_limits),
        cmocka_unit_test(test_open_of_a_text_past_its_limits_is_not_encoded),
        cmocka_unit_test(test_open_of_a_text_beside_the_vocabulary_is_refused),
        cmocka_unit_test(test_open_of_confidences_that_are_not_of_its_drafts_is_refused),
        cmocka_unit_test(test_share_is_a_probability_in_255ths),
        cmocka_unit_test(test_open_of_defaults_round_trips),
        cmocka_unit_test(test_open_with_most_biases_round_trips),
        cmocka_unit_test(test_tokens_of_every_kind_round_trip),
        cmocka_unit_test(test_continue_cancel_close_round_trip),
        cmocka_unit_test(test_draft_of_16_ids_stays_within_the_round_budget),
        cmocka_unit_test(test_encode_refuses_what_a_peer_would_refuse),
        cmocka_unit_test(test_encode_over_the_buffer_limit_leaves_the_buffer),
        cmocka_unit_test(test_open_numbers_at_their_limits),
        cmocka_unit_test(test_open_hash_of_other_length_is_refused),
        cmocka_unit_test(test_open_request_id_holds_word_bytes_only),
        cmocka_unit_test(test_open_sampling_is_checked),
        cmocka_unit_test(test_tokens_fields_at_their_limits),
        cmocka_unit_test(test_continue_fields_at_their_limits),
        cmocka_unit_test(test_vocabulary_bounds_ids_at_every_size),
        cmocka_unit_test(test_body_missing_or_unknown_is_refused),
        cmocka_unit_test(test_unknown_field_beside_a_body_is_ignored),
        cmocka_unit_test(test_two_bodies_give_the_last),
        cmocka_unit_test(test_mode_names_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
