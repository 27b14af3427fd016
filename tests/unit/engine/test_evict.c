/* SPDX-License-Identifier: Apache-2.0
 *
 * Evicted KV in the engine: the logits of a row are those of one token at a time, by the scalar
 * tier, on one thread, bit for bit (R2), however the text came; with a budget for all of the text
 * they are those of an engine that evicts nothing; a long text takes the budget's pages.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "tests/support/tiny_engine.h"

#include <stdio.h>
#include <string.h>

enum {
    N = 170,
    N_SEQS = 3,
    ROWS_MAX = 200
};

/* Instrumented builds look for races and overruns, not for bits. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    STEPS = 6
};
#else
enum {
    STEPS = 24
};
#endif

static int32_t ids[N];
static float expected[N][SHOAL_TINY_VOCAB];

static shoal_engine_settings settings_of(const char *policy, size_t budget)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_ctx = N;
    s.kv_bytes = (size_t)8 << 20;
    s.kv_type = SHOAL_KV_F16;
    s.kv_evict = policy ? shoal_kv_evict_find(policy) : NULL;
    s.kv_budget = budget;
    s.n_rows_max = ROWS_MAX;
    s.n_logits_max = ROWS_MAX;
    return s;
}

/* Several sequences of the text at different depths, in chunks that end anywhere, with logits of
 * some last rows wanted; what is done begins again. */
static void random_run(const shoal_model *model, const shoal_engine_settings *s, const char *what,
                       uint64_t rng)
{
    static const size_t sizes[] = {1, 1, 2, 8, 31, 32, 33, 64, 65, 97};
    shoal_engine *engine = shoal_tiny_engine_new(model, s);
    shoal_kv_seq *seqs[N_SEQS];
    for (size_t i = 0; i < N_SEQS; i++) {
        seqs[i] = shoal_tiny_engine_seq(engine);
    }
    for (size_t step = 0; step < STEPS; step++) {
        shoal_span spans[N_SEQS];
        size_t n = 0;
        size_t n_rows = 0;
        for (size_t i = 0; i < N_SEQS; i++) {
            size_t at = shoal_kv_seq_length(seqs[i]);
            if (at == N || shoal_rng_next(&rng) % 16 == 0) {
                at = shoal_kv_seq_truncate(seqs[i], 0);
            }
            size_t n_ids = sizes[shoal_rng_next(&rng) % SHOAL_COUNT(sizes)];
            n_ids = SHOAL_MIN(n_ids, SHOAL_MIN(N - at, ROWS_MAX - n_rows));
            if (n_ids == 0 || shoal_rng_next(&rng) % 4 == 0) {
                continue;
            }
            spans[n++] = (shoal_span){.seq = seqs[i],
                                      .ids = ids + at,
                                      .n_ids = n_ids,
                                      .n_logits = shoal_rng_next(&rng) % (n_ids + 1)};
            n_rows += n_ids;
        }
        if (n == 0) {
            continue;
        }
        assert_int_equal(shoal_engine_step(engine, spans, n), SHOAL_OK);
        for (size_t i = 0; i < n; i++) {
            size_t at = shoal_kv_seq_length(spans[i].seq) - spans[i].n_logits;
            for (size_t j = 0; j < spans[i].n_logits; j++) {
                if (memcmp(shoal_engine_logits(engine, spans[i].logits_i + j), expected[at + j],
                           SHOAL_TINY_ROW_BYTES) != 0) {
                    fail_msg("%s, %s, mask %x, %zu threads: the logits at position %zu differ",
                             what, shoal_engine_kv_form(engine), s->cpu_mask, s->n_threads, at + j);
                }
            }
        }
    }
    for (size_t i = 0; i < N_SEQS; i++) {
        shoal_kv_seq_free(seqs[i]);
    }
    shoal_engine_free(engine);
}

static void test_evicted_bits_are_the_same_however_computed(void **state)
{
    (void)state;
    static const char *const variants[] = {"llama3", "qwen2", "qwen3moe"};
    static const char *const policies[] = {"window", "h2o", "diverse", "a2sf"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        shoal_model *model = shoal_tiny_engine_model(variants[v]);
        for (size_t p = 0; p < SHOAL_COUNT(policies); p++) {
            shoal_engine_settings s = settings_of(policies[p], v % 2 ? 32 : 64);
            s.kv_hadamard = v == 2;
            shoal_tiny_engine_one_by_one(model, s, ids, N, expected);
            for (size_t i = 0; i < 4; i++) {
                s.n_threads = 1 + i % 3;
                s.cpu_mask = i == 0 ? 0 : i == 1 ? SHOAL_CPU_AVX2 : UINT32_MAX;
                random_run(model, &s, variants[v], 100 * v + 10 * p + i);
            }
        }
        shoal_model_free(model);
    }
}

/* Attention is what it was but for rounding, and so is what a head gives up by it. */
static void test_hadamard_kv_gives_up_the_same_tokens(void **state)
{
    (void)state;
    static float other[N][SHOAL_TINY_VOCAB];
    static const char *const policies[] = {"window", "h2o", "diverse", "a2sf"};
    shoal_model *model = shoal_tiny_engine_model("llama3");
    for (size_t p = 0; p < SHOAL_COUNT(policies); p++) {
        shoal_engine_settings s = settings_of(policies[p], 32);
        s.kv_type = SHOAL_KV_F32;
        shoal_tiny_engine_one_by_one(model, s, ids, N, expected);
        s.kv_hadamard = true;
        shoal_tiny_engine_one_by_one(model, s, ids, N, other);
        assert_memory_not_equal(other, expected, sizeof other);
        for (size_t i = 0; i < (size_t)N * SHOAL_TINY_VOCAB; i++) {
            float a = expected[i / SHOAL_TINY_VOCAB][i % SHOAL_TINY_VOCAB];
            float b = other[i / SHOAL_TINY_VOCAB][i % SHOAL_TINY_VOCAB];
            assert_true(a - b < 1e-4F && b - a < 1e-4F);
        }
    }
    shoal_model_free(model);
}

/* As far as the budget goes nothing changes; behind it something does. */
static void test_bits_within_the_budget_are_those_of_all_tokens(void **state)
{
    (void)state;
    static float evicted[N][SHOAL_TINY_VOCAB];
    shoal_model *model = shoal_tiny_engine_model("llama3");
    static const char *const policies[] = {"window", "h2o", "diverse", "a2sf"};
    shoal_tiny_engine_one_by_one(model, settings_of(NULL, 0), ids, N, expected);
    for (size_t p = 0; p < SHOAL_COUNT(policies); p++) {
        const size_t budgets[] = {64, 192};
        for (size_t b = 0; b < SHOAL_COUNT(budgets); b++) {
            shoal_tiny_engine_one_by_one(model, settings_of(policies[p], budgets[b]), ids, N,
                                         evicted);
            size_t n_same = SHOAL_MIN(budgets[b], (size_t)N);
            assert_memory_equal(evicted, expected, n_same * SHOAL_TINY_ROW_BYTES);
            if (n_same < N) {
                assert_memory_not_equal(evicted[n_same], expected[n_same], SHOAL_TINY_ROW_BYTES);
            }
        }
    }
    shoal_model_free(model);
}

static size_t pages_of_the_text(const shoal_model *model, const shoal_engine_settings *s)
{
    shoal_engine *engine = shoal_tiny_engine_new(model, s);
    shoal_kv_pool *pool = shoal_engine_kv(engine);
    shoal_kv_seq *seq = shoal_tiny_engine_seq(engine);
    shoal_span span = {.seq = seq, .ids = ids, .n_ids = N, .n_logits = 1};
    assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    size_t n = shoal_kv_pool_n_pages(pool) - shoal_kv_pool_n_free(pool);
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
    return n;
}

static void test_a_long_prompt_takes_the_pages_of_the_budget(void **state)
{
    (void)state;
    shoal_model *model = shoal_tiny_engine_model("llama3");
    shoal_engine_settings all = settings_of(NULL, 0);
    shoal_engine_settings some = settings_of("h2o", 32);
    size_t n_all = pages_of_the_text(model, &all);
    assert_int_equal(n_all, model->hp.n_layers * 6); /* 170 tokens */
    assert_int_equal(pages_of_the_text(model, &some), model->hp.n_layers);
    shoal_model_free(model);
}

static void test_step_allocates_nothing(void **state)
{
    (void)state;
    shoal_model *model = shoal_tiny_engine_model("llama3");
    shoal_engine_settings s = settings_of("diverse", 32);
    shoal_engine *engine = shoal_tiny_engine_new(model, &s);
    shoal_kv_seq *seq = shoal_tiny_engine_seq(engine);
    shoal_mem_fail_at(0);
    for (size_t at = 0; at < N; at += 10) {
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = 10, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    }
    shoal_mem_fail_at(UINT64_MAX);
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
    shoal_model_free(model);
}

static void test_forms_differ_where_kv_does(void **state)
{
    (void)state;
    shoal_model *model = shoal_tiny_engine_model("llama3");
    const struct {
        const char *policy;
        size_t budget;
        const char *form; /* of "form-" a number follows */
        bool hadamard;
    } rows[] = {{NULL, 0, "f16", false},
                {"h2o", 96, "f16-h2o96", false},
                {"h2o", 32, "f16-h2o32", false},
                {"h2o", 65536, "h-f16-h2o65536", true},
                {"window", 65536, "f16-window65536", false},
                {"window", 65536, "form-", true},
                {"diverse", 1024, "f16-diverse1024", false},
                {"diverse", 10240, "form-", false},
                {"diverse", 10272, "form-", false}};
    char forms[SHOAL_COUNT(rows)][32];
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_engine_settings s = settings_of(rows[i].policy, rows[i].budget);
        s.kv_hadamard = rows[i].hadamard;
        shoal_engine *engine = shoal_tiny_engine_new(model, &s);
        (void)snprintf(forms[i], sizeof forms[i], "%s", shoal_engine_kv_form(engine));
        bool is_number = strcmp(rows[i].form, "form-") == 0;
        assert_int_equal(strlen(forms[i]), is_number ? 13 : strlen(rows[i].form));
        assert_int_equal(strncmp(forms[i], rows[i].form, strlen(rows[i].form)), 0);
        for (size_t j = 0; j < i; j++) {
            assert_string_not_equal(forms[i], forms[j]);
        }
        shoal_engine_free(engine);
    }
    shoal_model_free(model);
}

static void test_models_that_cannot_evict_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *variant;
        const char *why;
    } rows[] = {{"deepseek2", "latent attention (MLA)"}, {"gemma2", "layers that have a window"}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_model *model = shoal_tiny_engine_model(rows[i].variant);
        shoal_engine_settings s = settings_of("window", 32);
        shoal_engine *engine = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_engine_new(model, &s, &engine, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, rows[i].why));
        shoal_model_free(model);
    }
}

int main(void)
{
    shoal_tiny_engine_ids(ids, N);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evicted_bits_are_the_same_however_computed),
        cmocka_unit_test(test_hadamard_kv_gives_up_the_same_tokens),
        cmocka_unit_test(test_bits_within_the_budget_are_those_of_all_tokens),
        cmocka_unit_test(test_a_long_prompt_takes_the_pages_of_the_budget),
        cmocka_unit_test(test_step_allocates_nothing),
        cmocka_unit_test(test_forms_differ_where_kv_does),
        cmocka_unit_test(test_models_that_cannot_evict_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
