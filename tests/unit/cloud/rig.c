/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "rig.h"

#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <string.h>

static shoal_model *model_new(const char *variant, uint64_t seed)
{
    shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(variant ? shoal_tiny_arch_gguf(variant, seed, SHOAL_TYPE_F32, &buf)
                             : shoal_tiny_model_gguf(seed, SHOAL_TYPE_F32, &buf),
                     SHOAL_OK);
    /* Tensors must lie aligned; a buffer from the heap is aligned for any type. */
    if (shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, &err) != SHOAL_OK ||
        shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    return model;
}

shoal_model *rig_model_new(uint64_t seed)
{
    return model_new(NULL, seed);
}

static void describe(rig *r)
{
    r->describe = shoal_calloc(1, sizeof(*r->describe));
    assert_non_null(r->describe);
    shoal_describe *d = r->describe;
    d->model = r->model->hash;
    d->tokenizer = *shoal_tokenizer_hash(r->model->tokenizer);
    d->chat_template = *shoal_tokenizer_template_hash(r->model->tokenizer);
    d->n_vocab = (uint32_t)r->model->hp.n_vocab;
    d->n_ctx = (uint32_t)shoal_engine_n_ctx(r->engine);
    d->protocol = SHOAL_WIRE_PROTOCOL;
}

void rig_init(rig *r, const rig_settings *settings)
{
    memset(r, 0, sizeof(*r));
    r->model = model_new(settings->variant, settings->seed);
    const shoal_hparams *hp = &r->model->hp;
    shoal_kv_shape shape = shoal_model_kv_shape(hp, SHOAL_KV_F32);
    size_t n_pages = settings->n_pages == 0 ? 512 : settings->n_pages;
    shoal_engine_settings es = shoal_engine_settings_default();
    es.n_threads = settings->n_threads == 0 ? 1 : settings->n_threads;
    es.n_ctx = RIG_TEXT_MAX;
    if (settings->kv != 0) {
        es.kv_type = (int)settings->kv;
    }
    es.kv_bytes = n_pages * shape.n_layers * shoal_kv_page_bytes(&shape);
    es.n_rows_max = settings->n_rows_max == 0 ? 64 : settings->n_rows_max;
    es.n_logits_max = settings->n_logits_max == 0 ? 16 : settings->n_logits_max;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_engine_new(r->model, &es, &r->engine, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_sampler_new(hp->n_vocab, shoal_engine_kernels(r->engine), &r->sampler),
                     SHOAL_OK);
    assert_int_equal(shoal_form_words_new(r->model->tokenizer, hp->n_vocab, &r->words), SHOAL_OK);
    r->tenant = "";
    shoal_batch_settings bs = {.prefix_percent = settings->prefix_percent,
                               .n_sessions_max = 64,
                               .prefill_chunk =
                                   settings->prefill_chunk == 0 ? 8 : settings->prefill_chunk,
                               .idle_hold_ms = 1000,
                               .timing = settings->timing,
                               .step_time_us = settings->step_time_us,
                               .store = settings->store,
                               .store_secret = {{settings->store_secret}},
                               .store_wait_ms = 250};
    assert_int_equal(shoal_batch_new(r->engine, &bs, &r->metrics, &r->batch), SHOAL_OK);
    describe(r);
    r->now_ns = 1000000000u;
    r->clock = shoal_clock_virtual(&r->now_ns);
}

void rig_fini(rig *r)
{
    shoal_batch_free(r->batch);
    shoal_form_words_free(r->words);
    shoal_sampler_free(r->sampler);
    shoal_engine_free(r->engine);
    shoal_model_free(r->model);
    shoal_free(r->describe);
}

void rig_prompt(uint64_t seed, int32_t *text, size_t n)
{
    text[0] = SHOAL_TINY_BOS;
    for (size_t i = 1; i < n; i++) {
        text[i] = (int32_t)(3 + shoal_rng_next(&seed) % (SHOAL_TINY_VOCAB - 3));
    }
}

size_t rig_decode(rig *r, const shoal_sampling *sampling, int32_t *text, size_t n_prompt,
                  size_t n_max)
{
    return rig_decode_form(r, NULL, sampling, text, n_prompt, n_max);
}

size_t rig_decode_form(rig *r, const shoal_form *form, const shoal_sampling *sampling,
                       int32_t *text, size_t n_prompt, size_t n_max)
{
    uint32_t allowed[SHOAL_TINY_VOCAB / 32 + 1];
    shoal_sampling held = *sampling;
    shoal_form_state at;
    if (form) {
        assert_true(r->model->hp.n_vocab <= SHOAL_TINY_VOCAB);
        shoal_form_start(form, &at);
    }
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(r->engine), &seq), SHOAL_OK);
    size_t n = n_prompt;
    while (n < n_max) {
        size_t length = shoal_kv_seq_length(seq);
        size_t n_rows = SHOAL_MIN(n - length, shoal_engine_n_rows_max(r->engine));
        shoal_span span = {.seq = seq, .ids = text + length, .n_ids = n_rows, .n_logits = 1};
        assert_int_equal(shoal_engine_step(r->engine, &span, 1), SHOAL_OK);
        if (length + n_rows < n) {
            continue;
        }
        shoal_sampled sampled;
        if (form) {
            size_t n_allowed = shoal_form_allow(form, r->words, &at, allowed);
            assert_true(n_allowed > 0);
            held.allowed = n_allowed == SHOAL_FORM_ALL ? NULL : allowed;
        }
        shoal_sample(r->sampler, &held, shoal_engine_logits(r->engine, span.logits_i), text, n,
                     &sampled);
        text[n++] = sampled.id;
        assert_true(!form || shoal_form_push(form, r->words, &at, sampled.id));
        if (shoal_tokenizer_is_end(r->model->tokenizer, sampled.id)) {
            break;
        }
    }
    shoal_kv_seq_free(seq);
    return n;
}

/* --- the edge --------------------------------------------------------------------------------- */

/* H from position on is ids: what was sent beyond and contradicts it is void. */
static void learn(edge *e, size_t position, const int32_t *ids, size_t n)
{
    assert_true(position <= e->n_sent || position <= e->n_confirmed);
    assert_true(position + n <= RIG_TEXT_MAX);
    for (size_t i = 0; i < n; i++) {
        if (position + i < e->n_confirmed) {
            /* What was confirmed once must never change. */
            assert_int_equal(e->text[position + i], ids[i]);
        } else if (position + i < e->n_sent && e->text[position + i] != ids[i]) {
            e->n_sent = position + i;
            e->rolled_back = true;
        }
        e->text[position + i] = ids[i];
    }
    e->n_confirmed = SHOAL_MAX(e->n_confirmed, position + n);
    e->n_sent = SHOAL_MAX(e->n_sent, e->n_confirmed);
}

static void on_verdict(edge *e, const shoal_msg_verdict *verdict)
{
    e->n_verdicts++;
    e->n_told += verdict->n_ids;
    if (e->careless) {
        e->epoch = SHOAL_MAX(e->epoch, verdict->epoch);
        return;
    }
    assert_true(verdict->n_confidences >= verdict->n_ids);
    assert_true(verdict->accepted_to <= e->n_sent);
    if (verdict->epoch > e->epoch) {
        e->epoch = verdict->epoch;
        e->n_sent = SHOAL_MAX((size_t)verdict->accepted_to, e->n_confirmed);
        e->rolled_back = true;
    }
    e->n_confirmed = SHOAL_MAX(e->n_confirmed, (size_t)verdict->accepted_to);
    learn(e, verdict->accepted_to, verdict->ids, verdict->n_ids);
    size_t from = verdict->accepted_to + verdict->n_ids - verdict->n_confidences;
    for (size_t i = 0; i < verdict->n_confidences; i++) {
        e->shares[from + i] = verdict->confidences[i];
    }
}

static void on_emit(void *ctx, const shoal_cloud_msg *msg)
{
    edge *e = ctx;
    assert_false(e->done);
    e->n_messages++;
    if (msg->cost.step_us > 0) {
        e->cost = msg->cost;
        e->n_costs++;
    }
    if (msg->n_cached > 0) {
        e->n_cached = msg->n_cached;
        e->n_cached_told++;
    }
    switch (msg->kind) {
    case SHOAL_CLOUD_OPENED:
        assert_string_equal(msg->body.opened.node, "node-a");
        e->opened = true;
        e->whole = msg->body.opened.whole;
        break;
    case SHOAL_CLOUD_VERDICT:
        on_verdict(e, &msg->body.verdict);
        break;
    case SHOAL_CLOUD_TOKENS:
        assert_true(msg->body.tokens.n_ids > 0);
        e->epoch = SHOAL_MAX(e->epoch, msg->body.tokens.epoch);
        if (e->careless) {
            break;
        }
        learn(e, msg->body.tokens.position, msg->body.tokens.ids, msg->body.tokens.n_ids);
        memcpy(e->shares + msg->body.tokens.position, msg->body.tokens.confidences,
               msg->body.tokens.n_ids);
        break;
    case SHOAL_CLOUD_FINISHED:
        e->has_finished_message = true;
        e->finished = msg->body.finished;
        break;
    case SHOAL_CLOUD_ERROR:
        e->has_error = true;
        memcpy(e->error, msg->body.error.text, sizeof(e->error));
        break;
    case SHOAL_CLOUD_BUSY:
        assert_true(msg->body.busy_retry_after_ms > 0);
        break;
    default:
        fail_msg("unexpected message kind %d", (int)msg->kind);
    }
}

static void on_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    edge *e = ctx;
    assert_false(e->done);
    e->done = true;
    e->status = status;
    assert_string_equal(text, status == SHOAL_RPC_OK ? "" : e->error);
}

void edge_expect_text(const edge *e, const int32_t *truth, size_t n)
{
    assert_int_equal(e->n_confirmed, n);
    for (size_t i = 0; i < n; i++) {
        if (e->text[i] != truth[i]) {
            fail_msg("token %zu is %d, plain decode gives %d", i, (int)e->text[i], (int)truth[i]);
        }
    }
}

void edge_init(edge *e, rig *r)
{
    memset(e, 0, sizeof(*e));
    e->rig = r;
    shoal_session_env env = {.engine = r->engine,
                             .sampler = r->sampler,
                             .words = r->words,
                             .tokenizer = r->model->tokenizer,
                             .describe = r->describe,
                             .tenant = r->tenant,
                             .node = "node-a"};
    shoal_session_out out = {.emit = on_emit, .finish = on_finish, .ctx = e};
    assert_int_equal(shoal_session_new(&env, &out, r->now_ns / 1000000u, &e->session), SHOAL_OK);
    assert_int_equal(shoal_batch_add(r->batch, e->session, r->now_ns / 1000000u), SHOAL_OK);
}

void edge_fini(edge *e)
{
    shoal_batch_remove(e->rig->batch, e->session);
    shoal_session_free(e->session);
    e->session = NULL;
}

static void push(edge *e, const shoal_edge_msg *msg)
{
    uint64_t now_ms = e->rig->now_ns / 1000000u;
    shoal_batch_touch(e->rig->batch, e->session, now_ms);
    shoal_session_push(e->session, msg, now_ms);
}

shoal_msg_open edge_open_message(const rig *r, const shoal_sampling *sampling, size_t n_max)
{
    return (shoal_msg_open){.protocol = SHOAL_WIRE_PROTOCOL,
                            .model = r->describe->model,
                            .tokenizer = r->describe->tokenizer,
                            .chat_template = r->describe->chat_template,
                            .sampling = *sampling,
                            .mode = SHOAL_MODE_EXACT,
                            .n_tokens_max = (uint32_t)n_max,
                            .request_id = "test"};
}

void edge_open(edge *e, const shoal_sampling *sampling, size_t n_max)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_OPEN,
                          .body.open = edge_open_message(e->rig, sampling, n_max)};
    msg.body.open.form = e->form;
    msg.body.open.protocol = e->form.n_grammar > 0 ? SHOAL_WIRE_PROTOCOL_FORM : SHOAL_WIRE_PROTOCOL;
    push(e, &msg);
}

void edge_tokens(edge *e, shoal_token_kind kind, size_t position, const int32_t *ids, size_t n)
{
    shoal_edge_msg msg = {.kind = SHOAL_EDGE_TOKENS,
                          .body.tokens = {.epoch = e->epoch,
                                          .position = (uint32_t)position,
                                          .kind = kind,
                                          .ids = ids,
                                          .n_ids = n}};
    push(e, &msg);
}

void edge_prompt(edge *e, const int32_t *ids, size_t n)
{
    memcpy(e->text, ids, n * sizeof(*ids));
    e->n_confirmed = SHOAL_MAX(e->n_confirmed, n);
    e->n_sent = SHOAL_MAX(e->n_sent, n);
    edge_tokens(e, SHOAL_TOKENS_PROMPT, 0, ids, n);
}

void edge_draft(edge *e, const int32_t *ids, size_t n)
{
    size_t position = e->n_sent;
    memcpy(e->text + position, ids, n * sizeof(*ids));
    e->n_sent += n;
    edge_tokens(e, SHOAL_TOKENS_DRAFT, position, ids, n);
}

void edge_continue(edge *e, size_t position, size_t n_max)
{
    shoal_edge_msg msg = {
        .kind = SHOAL_EDGE_CONTINUE,
        .body.cont = {.epoch = e->epoch, .position = (uint32_t)position, .n_max = (uint32_t)n_max}};
    push(e, &msg);
}

void edge_simple(edge *e, shoal_edge_msg_kind kind)
{
    shoal_edge_msg msg = {.kind = kind};
    push(e, &msg);
}

size_t rig_settle(rig *r)
{
    for (size_t n = 0; n < 100000; n++) {
        shoal_status status = shoal_batch_step(r->batch, &r->clock);
        if (status == SHOAL_EOF) {
            return n;
        }
        r->now_ns += status == SHOAL_BUSY ? 100000000u : 1000000u;
    }
    fail_msg("no rest after 100000 steps");
    return 0;
}
