/* SPDX-License-Identifier: Apache-2.0
 *
 * R2 on the engine: the logits of a row are the same bits for any batch width, batch-mates,
 * chunking, threads and CPU tier.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <string.h>

enum {
    N = 70,
    WIDTH_MAX = 33,
    ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

/* Instrumented builds look for races and overruns, not for bits: every type once, fewer widths. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    INSTRUMENTED = 1
};
#else
enum {
    INSTRUMENTED = 0
};
#endif

static const shoal_type types[] = {SHOAL_TYPE_F32, SHOAL_TYPE_F16, SHOAL_TYPE_BF16, SHOAL_TYPE_Q8_0,
                                   SHOAL_TYPE_Q4_0};

static int32_t ids[N];
static float expected[N][SHOAL_TINY_VOCAB]; /* one token at a time, one thread, scalar */

/* A variant of tiny_arch.h, or the tiny model when NULL. */
static shoal_model *load_variant(const char *variant, uint64_t seed, shoal_type type)
{
    shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(variant ? shoal_tiny_arch_gguf(variant, seed, type, &buf)
                             : shoal_tiny_model_gguf(seed, type, &buf),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, &err), SHOAL_OK);
    if (shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    return model;
}

static shoal_model *load(uint64_t seed, shoal_type type)
{
    return load_variant(NULL, seed, type);
}

static shoal_engine *make_for(const shoal_model *model, size_t n_threads, uint32_t mask,
                              size_t n_rows_max)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = n_threads;
    s.cpu_mask = mask;
    s.n_ctx = 128;
    s.kv_bytes = (size_t)32 << 20;
    s.n_rows_max = n_rows_max;
    s.n_logits_max = n_rows_max / 2;
    shoal_engine *engine = NULL;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_OK);
    return engine;
}

static shoal_engine *make(const shoal_model *model, size_t n_threads, uint32_t mask)
{
    return make_for(model, n_threads, mask, 256);
}

static void fill_ids(void)
{
    uint64_t rng = 42;
    for (size_t i = 0; i < N; i++) {
        ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
    }
}

static shoal_kv_seq *sequence(shoal_engine *engine)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    return seq;
}

static void compute_expected(const shoal_model *model)
{
    shoal_engine *engine = make(model, 1, 0);
    shoal_kv_seq *seq = sequence(engine);
    for (size_t i = 0; i < N; i++) {
        shoal_span span = {.seq = seq, .ids = &ids[i], .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        memcpy(expected[i], shoal_engine_logits(engine, span.logits_i), ROW_BYTES);
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}

static void check_row(const shoal_engine *engine, size_t logits_i, size_t position,
                      const char *what)
{
    if (memcmp(shoal_engine_logits(engine, logits_i), expected[position], ROW_BYTES) != 0) {
        fail_msg("%s: the logits at position %zu differ", what, position);
    }
}

/* Every row of the text, fed in chunks of `chunk`. */
static void check_chunks(shoal_engine *engine, size_t chunk, const char *what)
{
    shoal_kv_seq *seq = sequence(engine);
    for (size_t at = 0; at < N; at += chunk) {
        size_t n = SHOAL_MIN(chunk, N - at);
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = n, .n_logits = n};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        for (size_t i = 0; i < n; i++) {
            check_row(engine, span.logits_i + i, at + i, what);
        }
    }
    shoal_kv_seq_free(seq);
}

/* `width` sequences, all at different depths, decode one token each in one step. */
static void check_width(shoal_engine *engine, size_t width, const char *what)
{
    shoal_kv_seq *seqs[WIDTH_MAX];
    shoal_span spans[WIDTH_MAX];
    for (size_t i = 0; i < width; i++) {
        size_t depth = 1 + i * 2 % (N - 1);
        seqs[i] = sequence(engine);
        shoal_span span = {.seq = seqs[i], .ids = ids, .n_ids = depth, .n_logits = 0};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        spans[i] = (shoal_span){.seq = seqs[i], .ids = ids + depth, .n_ids = 1, .n_logits = 1};
    }
    assert_int_equal(shoal_engine_step(engine, spans, width), SHOAL_OK);
    for (size_t i = 0; i < width; i++) {
        check_row(engine, spans[i].logits_i, 1 + i * 2 % (N - 1), what);
        shoal_kv_seq_free(seqs[i]);
    }
}

static void test_r2_logits_are_the_same_bits_however_computed(void **state)
{
    (void)state;
    fill_ids();
    const uint32_t masks[] = {0, SHOAL_CPU_AVX2, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512};
    static const size_t chunks[] = {1, 2, 7, 31, 32, 33, 64, N};
    for (size_t t = 0; t < SHOAL_COUNT(types); t++) {
        shoal_model *model = load(11, types[t]);
        compute_expected(model);
        for (size_t m = 0; m < SHOAL_COUNT(masks); m++) {
            for (size_t threads = 1; threads <= 4; threads += INSTRUMENTED ? 3 : 1) {
                char what[96];
                (void)snprintf(what, sizeof what, "%s, mask %u, %zu threads",
                               shoal_type_find((uint32_t)types[t])->name, masks[m], threads);
                shoal_engine *engine = make(model, threads, masks[m]);
                for (size_t c = threads - 1; c < SHOAL_COUNT(chunks);
                     c += INSTRUMENTED ? 4 : threads) {
                    check_chunks(engine, chunks[c], what);
                }
                for (size_t width = threads; width <= WIDTH_MAX; width += INSTRUMENTED ? 16 : 4) {
                    check_width(engine, width, what);
                }
                shoal_engine_free(engine);
            }
        }
        shoal_model_free(model);
    }
}

/* Windows, experts, latents: nothing a row does depends on the rows beside it. Steps of few rows
 * keep short rings, which turn before the text ends. */
static void test_r2_holds_for_every_architecture(void **state)
{
    (void)state;
    fill_ids();
    const uint32_t masks[] = {0, SHOAL_CPU_AVX2, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512};
    static const shoal_type some_types[] = {SHOAL_TYPE_F32, SHOAL_TYPE_Q8_0};
    for (size_t a = 0; a < shoal_tiny_archs_n; a++) {
        for (size_t t = 0; t < (INSTRUMENTED ? 1 : SHOAL_COUNT(some_types)); t++) {
            shoal_model *model = load_variant(shoal_tiny_archs[a], 11, some_types[t]);
            compute_expected(model);
            for (size_t m = 0; m < SHOAL_COUNT(masks); m++) {
                char what[96];
                size_t threads = 1 + (a + m) % 3;
                (void)snprintf(what, sizeof what, "%s %s, mask %u, %zu threads",
                               shoal_tiny_archs[a], shoal_type_find((uint32_t)some_types[t])->name,
                               masks[m], threads);
                shoal_engine *engine = make(model, threads, masks[m]);
                check_chunks(engine, 1 + (a + m) % 5, what);
                check_chunks(engine, 33, what);
                check_chunks(engine, N, what);
                check_width(engine, 2 + a % 4, what);
                check_width(engine, WIDTH_MAX, what);
                shoal_engine_free(engine);
                engine = make_for(model, threads, masks[m], 8);
                check_chunks(engine, 4, what);
                shoal_engine_free(engine);
            }
            shoal_model_free(model);
        }
    }
}

/* A step that wants few rows drops the others in the last layer, which may cost no bit. */
static void test_wanted_rows_are_the_same_bits_whatever_else_is_wanted(void **state)
{
    (void)state;
    fill_ids();
    static const char *const variants[] = {NULL, "gemma3", "deepseek2", "qwen2moe"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        shoal_model *model = load_variant(variants[v], 17, SHOAL_TYPE_F32);
        compute_expected(model);
        shoal_engine *engine = make(model, 2, SHOAL_CPU_AVX2);
        for (size_t n_logits = 0; n_logits <= 9; n_logits += 3) {
            shoal_kv_seq *a = sequence(engine);
            shoal_kv_seq *b = sequence(engine);
            shoal_span spans[] = {{.seq = a, .ids = ids, .n_ids = 20, .n_logits = n_logits},
                                  {.seq = b, .ids = ids, .n_ids = 50, .n_logits = 1}};
            assert_int_equal(shoal_engine_step(engine, spans, 2), SHOAL_OK);
            for (size_t i = 0; i < n_logits; i++) {
                check_row(engine, spans[0].logits_i + i, 20 - n_logits + i, "wanted rows");
            }
            check_row(engine, spans[1].logits_i, 49, "wanted rows");
            shoal_span next = {.seq = a, .ids = ids + 20, .n_ids = 1, .n_logits = 1};
            assert_int_equal(shoal_engine_step(engine, &next, 1), SHOAL_OK);
            check_row(engine, next.logits_i, 20, "after unwanted rows");
            shoal_kv_seq_free(a);
            shoal_kv_seq_free(b);
        }
        shoal_engine_free(engine);
        shoal_model_free(model);
    }
}

static void test_truncate_then_replay_gives_the_same_bits(void **state)
{
    (void)state;
    fill_ids();
    shoal_model *model = load(12, SHOAL_TYPE_Q8_0);
    compute_expected(model);
    shoal_engine *engine = make(model, 2, SHOAL_CPU_AVX2);
    shoal_kv_seq *seq = sequence(engine);
    uint64_t rng = 5;
    int32_t wrong[8];
    for (size_t at = 0; at + 8 <= N; at += 3) {
        (void)shoal_kv_seq_truncate(seq, at);
        for (size_t i = 0; i < 8; i++) {
            wrong[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
        }
        shoal_span draft = {.seq = seq, .ids = wrong, .n_ids = 8, .n_logits = 8};
        assert_int_equal(shoal_engine_step(engine, &draft, 1), SHOAL_OK);
        (void)shoal_kv_seq_truncate(seq, at);
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = 3, .n_logits = 3};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        for (size_t i = 0; i < 3; i++) {
            check_row(engine, span.logits_i + i, at + i, "after a rollback");
        }
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
    shoal_model_free(model);
}

/* Feeds ids from the sequence's length to N, a slack of tokens at a time. */
static void feed_and_check(shoal_engine *engine, shoal_kv_seq *seq, size_t slack, const char *what)
{
    for (size_t at = shoal_kv_seq_length(seq); at < N;) {
        size_t n = SHOAL_MIN(slack, N - at);
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = n, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        at += n;
        check_row(engine, span.logits_i, at - 1, what);
    }
}

/* A window of 12 and a slack of 8 make a ring of two blocks: 70 tokens have overwritten what
 * lengths below 32 + 11 see. */
static void test_truncate_below_what_a_ring_kept_starts_over_with_the_same_bits(void **state)
{
    (void)state;
    enum {
        SLACK = 8,
        FLOOR = 43
    };
    fill_ids();
    shoal_model *model = load_variant("gemma3", 12, SHOAL_TYPE_F32);
    compute_expected(model);
    shoal_engine *engine = make_for(model, 2, SHOAL_CPU_AVX2, SLACK);
    for (size_t to = FLOOR - 1; to <= FLOOR + 1; to++) {
        shoal_kv_seq *seq = sequence(engine);
        feed_and_check(engine, seq, SLACK, "round the ring");
        assert_int_equal(shoal_kv_seq_floor(seq), FLOOR);
        assert_int_equal(shoal_kv_seq_truncate(seq, to), to < FLOOR ? 0 : to);
        feed_and_check(engine, seq, SLACK, "after a deep rollback");
        shoal_kv_seq_free(seq);
    }
    shoal_engine_free(engine);
    shoal_model_free(model);
}

static void check_no_allocation(const char *variant)
{
    shoal_model *model = load_variant(variant, 13, SHOAL_TYPE_Q4_0);
    shoal_engine *engine = make(model, 2, SHOAL_CPU_AVX2);
    shoal_kv_seq *seq = sequence(engine);
    shoal_span warm = {.seq = seq, .ids = ids, .n_ids = 4, .n_logits = 1};
    assert_int_equal(shoal_engine_step(engine, &warm, 1), SHOAL_OK);
    uint64_t before = shoal_mem_count();
    for (size_t i = 4; i < N; i++) {
        shoal_span span = {.seq = seq, .ids = &ids[i], .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    }
    assert_int_equal(shoal_mem_count() - before, 0);
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
    shoal_model_free(model);
}

static void test_step_after_warm_up_allocates_nothing(void **state)
{
    (void)state;
    fill_ids();
    static const char *const variants[] = {NULL, "gemma2", "qwen2moe", "deepseek2"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        check_no_allocation(variants[v]);
    }
}

static void test_step_over_its_limits_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    fill_ids();
    shoal_model *model = load(14, SHOAL_TYPE_F32);
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_ctx = 64;
    s.n_rows_max = 32;
    s.n_logits_max = 2;
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32);
    s.kv_bytes = 2 * shape.n_layers * shoal_kv_page_bytes(&shape);
    shoal_engine *engine = NULL;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_OK);
    shoal_kv_seq *a = sequence(engine);
    shoal_kv_seq *b = sequence(engine);
    shoal_kv_seq *c = sequence(engine);
    shoal_span span = {.seq = a, .ids = ids, .n_ids = 33, .n_logits = 0};
    assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_E_LIMIT);
    span.n_ids = 3;
    span.n_logits = 3;
    assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_E_LIMIT);
    shoal_span three[] = {{.seq = a, .ids = ids, .n_ids = 1, .n_logits = 0},
                          {.seq = b, .ids = ids, .n_ids = 1, .n_logits = 0},
                          {.seq = c, .ids = ids, .n_ids = 1, .n_logits = 0}};
    assert_int_equal(shoal_engine_step(engine, three, 3), SHOAL_BUSY);
    assert_int_equal(shoal_kv_pool_n_free(shoal_engine_kv(engine)), 2 * shape.n_layers);
    assert_int_equal(shoal_engine_step(engine, three, 2), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_length(a), 1);
    assert_int_equal(shoal_kv_seq_length(c), 0);
    shoal_kv_seq_free(a);
    shoal_kv_seq_free(b);
    shoal_kv_seq_free(c);
    shoal_engine_free(engine);
    shoal_model_free(model);
}

static void test_new_with_bad_settings_names_the_limit(void **state)
{
    (void)state;
    shoal_model *model = load(15, SHOAL_TYPE_F32);
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_ctx = SHOAL_TINY_CTX + 1;
    assert_int_equal(shoal_engine_new(model, &s, &engine, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "1025"));
    s = shoal_engine_settings_default();
    s.kv_bytes = 100;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_E_LIMIT);
    s = shoal_engine_settings_default();
    s.n_threads = 0;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_E_INVALID);
    assert_null(engine);
    shoal_model_free(model);
}

static void test_failing_allocations_in_new_leak_nothing(void **state)
{
    (void)state;
    shoal_model *model = load(16, SHOAL_TYPE_F32);
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = 2;
    for (uint64_t i = 0; i < 200; i++) {
        shoal_engine *engine = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_engine_new(model, &s, &engine, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_engine_free(engine);
        if (status == SHOAL_OK) {
            assert_true(i > 10);
            shoal_model_free(model);
            return;
        }
    }
    fail_msg("an engine takes more than 200 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_r2_logits_are_the_same_bits_however_computed),
        cmocka_unit_test(test_r2_holds_for_every_architecture),
        cmocka_unit_test(test_wanted_rows_are_the_same_bits_whatever_else_is_wanted),
        cmocka_unit_test(test_truncate_then_replay_gives_the_same_bits),
        cmocka_unit_test(test_truncate_below_what_a_ring_kept_starts_over_with_the_same_bits),
        cmocka_unit_test(test_step_after_warm_up_allocates_nothing),
        cmocka_unit_test(test_step_over_its_limits_is_refused_and_changes_nothing),
        cmocka_unit_test(test_new_with_bad_settings_names_the_limit),
        cmocka_unit_test(test_failing_allocations_in_new_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
