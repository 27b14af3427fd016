/* SPDX-License-Identifier: Apache-2.0
 *
 * One generation of the edge without its loop and link: drafts and rollbacks. What is drafted after
 * a rollback does not depend on how much of the KV survived it (R3).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/rng.h"
#include "edge/coop/coop_internal.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N_PROMPT = 20,
    N_DEEP = 300, /* drafted up to here before a deep rollback */
    N_ROUNDS = 6
};

static shoal_model *model;
static uint64_t now_ns = 1000000000u;

static int setup(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_tiny_arch_gguf("gemma3", 5, SHOAL_TYPE_F32, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_model_free(model);
    return 0;
}

static void on_event(void *ctx, const shoal_coop_event *event)
{
    (void)ctx;
    assert_int_equal(event->kind, SHOAL_COOP_TOKEN);
}

/* n_rows_max is also the slack of the rings. */
static void coop_init(shoal_coop *coop, size_t n_rows_max)
{
    memset(coop, 0, sizeof *coop);
    coop->model = model;
    coop->settings = shoal_coop_settings_default();
    coop->clock = shoal_clock_virtual(&now_ns);
    shoal_engine_settings es = shoal_engine_settings_default();
    es.n_threads = 1;
    es.n_ctx = 512;
    es.n_rows_max = n_rows_max;
    assert_int_equal(shoal_engine_new(model, &es, &coop->engine, NULL), SHOAL_OK);
    assert_int_equal(
        shoal_sampler_new(model->hp.n_vocab, shoal_engine_kernels(coop->engine), &coop->sampler),
        SHOAL_OK);
}

static void coop_fini(shoal_coop *coop)
{
    shoal_sampler_free(coop->sampler);
    shoal_engine_free(coop->engine);
}

static gen *gen_new(shoal_coop *coop)
{
    int32_t prompt[N_PROMPT] = {SHOAL_TINY_BOS};
    for (size_t i = 1; i < N_PROMPT; i++) {
        prompt[i] = (int32_t)(SHOAL_TINY_FIRST_BYTE + 7 * i);
    }
    shoal_coop_request request = {.mode = SHOAL_MODE_EXACT,
                                  .ids = prompt,
                                  .n_ids = N_PROMPT,
                                  .n_tokens_max = N_DEEP,
                                  .sampling = shoal_sampling_default(),
                                  .on_event = on_event};
    request.sampling.temperature = 1.0F;
    request.sampling.seed = 3;
    gen *g = NULL;
    assert_int_equal(shoal_gen_new(coop, &request, &g, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(coop->engine), &g->seq), SHOAL_OK);
    return g;
}

/* Returns the number of steps that only fed known tokens. */
static size_t draft_to(shoal_coop *coop, gen *g, size_t n_tokens)
{
    size_t n_fed = 0;
    while (g->n_tokens < n_tokens) {
        shoal_span span;
        assert_true(shoal_gen_span(coop, g, &span));
        assert_int_equal(shoal_engine_step(coop->engine, &span, 1), SHOAL_OK);
        if (span.n_logits == 0) {
            n_fed++;
            continue;
        }
        shoal_sampled sampled;
        shoal_sample(coop->sampler, &g->sampling, shoal_engine_logits(coop->engine, span.logits_i),
                     g->tokens, g->n_tokens, &sampled);
        shoal_gen_take_sample(coop, g, &sampled);
    }
    return n_fed;
}

/* Puts a token that was not drafted where confirmation has come to. */
static void refuse(shoal_coop *coop, gen *g)
{
    int32_t id = g->tokens[g->n_confirmed] == 'a' ? 'b' : 'a';
    assert_false(shoal_gen_take_cloud(coop, g, id, 0.5F, 1));
    assert_int_equal(g->n_tokens, g->n_confirmed);
}

static void test_rollback_deeper_than_a_ring_gives_the_same_drafts(void **state)
{
    (void)state;
    /* A window of 12: with a slack of 512 the ring holds more than the text, with 128 it holds 192
     * tokens. */
    static shoal_coop roomy; /* large */
    static shoal_coop tight;
    coop_init(&roomy, 512);
    coop_init(&tight, COOP_PREFILL_CHUNK);
    gen *a = gen_new(&roomy);
    gen *b = gen_new(&tight);
    for (size_t round = 0; round < N_ROUNDS; round++) {
        bool deep = round % 2 == 0;
        size_t to = deep ? N_DEEP : a->n_confirmed + COOP_WINDOW_MAX;
        draft_to(&roomy, a, to);
        draft_to(&tight, b, to);
        assert_memory_equal(a->tokens, b->tokens, to * sizeof *a->tokens);
        size_t position = a->n_confirmed;
        refuse(&roomy, a);
        refuse(&tight, b);
        assert_int_equal(shoal_kv_seq_length(a->seq), position);
        assert_int_equal(shoal_kv_seq_length(b->seq), deep ? 0 : position);
    }
    draft_to(&roomy, a, N_DEEP);
    draft_to(&tight, b, N_DEEP);
    assert_memory_equal(a->tokens, b->tokens, N_DEEP * sizeof *a->tokens);
    shoal_gen_free(a);
    shoal_gen_free(b);
    coop_fini(&roomy);
    coop_fini(&tight);
}

/* A text longer than a step's share is fed again in pieces, and only the last one is asked for. */
static void test_long_text_forgotten_is_fed_in_pieces(void **state)
{
    (void)state;
    static shoal_coop coop; /* large */
    coop_init(&coop, COOP_PREFILL_CHUNK);
    gen *g = gen_new(&coop);
    assert_int_equal(draft_to(&coop, g, N_DEEP), 0);
    int32_t next = 0;
    assert_int_equal(draft_to(&coop, g, N_DEEP + 1), 0);
    next = g->tokens[N_DEEP];
    g->n_tokens = N_DEEP;
    assert_int_equal(shoal_kv_seq_truncate(g->seq, 0), 0);
    assert_int_equal(draft_to(&coop, g, N_DEEP + 1), (N_DEEP - 1) / COOP_PREFILL_CHUNK);
    assert_int_equal(g->tokens[N_DEEP], next);
    shoal_gen_free(g);
    coop_fini(&coop);
}

/* A peer may say what it likes: of the prompt no more can have been found than there is. */
static void test_found_tokens_are_at_most_the_prompt(void **state)
{
    (void)state;
    static shoal_coop coop; /* large */
    static const uint32_t told[] = {3, 0, N_PROMPT, N_PROMPT + 1, SHOAL_WIRE_POSITION_MAX};
    static const size_t known[] = {3, 3, N_PROMPT, N_PROMPT, N_PROMPT};
    coop_init(&coop, COOP_PREFILL_CHUNK);
    gen *g = gen_new(&coop);
    for (size_t i = 0; i < SHOAL_COUNT(told); i++) {
        const shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_TOKENS, .n_cached = told[i]};
        shoal_uplink_message(&coop, g, &msg, 1);
        assert_int_equal(g->usage.n_cached, known[i]);
    }
    shoal_gen_free(g);
    coop_fini(&coop);
}

static void test_likeliest_tokens_come_in_order(void **state)
{
    (void)state;
    enum {
        N_VOCAB = 50
    };
    uint64_t rng = 11;
    for (size_t round = 0; round < 200; round++) {
        float logits[N_VOCAB];
        shoal_coop_top tops[SHOAL_COOP_TOPS_MAX];
        size_t n = 1 + round % SHOAL_COOP_TOPS_MAX;
        for (size_t i = 0; i < N_VOCAB; i++) {
            logits[i] = (float)(shoal_rng_next(&rng) % 16); /* with equals among them */
        }
        shoal_gen_top(logits, N_VOCAB, -0.5, tops, n);
        for (size_t k = 0; k < n; k++) {
            /* as many stand before it as its place says */
            size_t n_before = 0;
            for (size_t i = 0; i < N_VOCAB; i++) {
                float mine = logits[tops[k].id];
                n_before += logits[i] > mine || (logits[i] == mine && (int32_t)i < tops[k].id);
            }
            assert_int_equal(n_before, k);
            assert_true((double)tops[k].logprob ==
                        (double)logits[tops[k].id] - (double)logits[tops[0].id] - 0.5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found_tokens_are_at_most_the_prompt),
        cmocka_unit_test(test_likeliest_tokens_come_in_order),
        cmocka_unit_test(test_rollback_deeper_than_a_ring_gives_the_same_drafts),
        cmocka_unit_test(test_long_text_forgotten_is_fed_in_pieces),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
