/* SPDX-License-Identifier: Apache-2.0
 *
 * Adapters in the engine: a merged model and an adapted one agree, every sequence of a batch has
 * its own adapter and the same bits as alone, and a step allocates nothing.
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
#include "tests/support/tiny_lora.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    N = 40,
    N_LORAS = 3,
    WIDTH_MAX = 33,
    ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    INSTRUMENTED = 1
};
#else
enum {
    INSTRUMENTED = 0
};
#endif

static const shoal_tiny_lora makes[N_LORAS] = {
    {.seed = 101, .rank = 8, .alpha = 16, .type = SHOAL_TYPE_F32},
    {.seed = 102, .rank = 1, .alpha = 1, .type = SHOAL_TYPE_F16},
    {.seed = 103, .rank = 32, .alpha = 24, .type = SHOAL_TYPE_Q8_0},
};

typedef struct file {
    shoal_buf buf;
    shoal_gguf *gguf;
} file;

static int32_t ids[N];
/* [N_LORAS] is that of no adapter: one token at a time, one thread, scalar. */
static float expected[N_LORAS + 1][N][SHOAL_TINY_VOCAB];

static void fill_ids(void)
{
    uint64_t rng = 43;
    for (size_t i = 0; i < N; i++) {
        ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
    }
}

static void file_open(file *f)
{
    assert_int_equal(shoal_gguf_open((const uint8_t *)f->buf.data, f->buf.length, &f->gguf, NULL),
                     SHOAL_OK);
}

static void file_close(file *f)
{
    shoal_gguf_close(f->gguf);
    shoal_buf_fini(&f->buf);
    *f = (file){0};
}

/* A variant of tiny_arch.h, or the tiny model when NULL. */
static void open_base(const char *variant, shoal_type type, file *f)
{
    assert_int_equal(variant ? shoal_tiny_arch_gguf(variant, 11, type, &f->buf)
                             : shoal_tiny_model_gguf(11, type, &f->buf),
                     SHOAL_OK);
    file_open(f);
}

static shoal_model *load_model(const file *f)
{
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_model_new(f->gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

static shoal_lora *load_lora(const shoal_model *model, const file *f, float strength)
{
    shoal_lora *lora = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_lora_new(model, f->gguf, strength, &lora, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return lora;
}

static shoal_lora *make_lora(const shoal_model *model, const file *base, size_t i)
{
    file f = {0};
    assert_int_equal(shoal_tiny_lora_gguf(base->gguf, &makes[i], &f.buf), SHOAL_OK);
    file_open(&f);
    shoal_lora *lora = load_lora(model, &f, 1);
    file_close(&f);
    return lora;
}

static shoal_engine *make(const shoal_model *model, size_t n_threads, uint32_t mask, size_t n_loras)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = n_threads;
    s.cpu_mask = mask;
    s.n_ctx = 64;
    s.kv_bytes = (size_t)32 << 20;
    s.n_rows_max = 256;
    s.n_logits_max = 128;
    s.n_loras_max = n_loras;
    s.lora_rank_max = 32;
    shoal_engine *engine = NULL;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_OK);
    return engine;
}

static shoal_kv_seq *sequence(shoal_engine *engine)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    return seq;
}

static void compute_alone(shoal_engine *engine, const shoal_lora *lora,
                          float ret_logits[N][SHOAL_TINY_VOCAB])
{
    shoal_kv_seq *seq = sequence(engine);
    for (size_t i = 0; i < N; i++) {
        shoal_span span = {.seq = seq, .ids = &ids[i], .n_ids = 1, .n_logits = 1, .lora = lora};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        memcpy(ret_logits[i], shoal_engine_logits(engine, span.logits_i), ROW_BYTES);
    }
    shoal_kv_seq_free(seq);
}

/* The largest difference, relative to the largest logit. */
static double difference(float a[N][SHOAL_TINY_VOCAB], float b[N][SHOAL_TINY_VOCAB])
{
    double most = 0;
    double largest = 0;
    for (size_t i = 0; i < N; i++) {
        for (size_t v = 0; v < SHOAL_TINY_VOCAB; v++) {
            most = fmax(most, fabs((double)a[i][v] - (double)b[i][v]));
            largest = fmax(largest, fabs((double)a[i][v]));
        }
    }
    return most / largest;
}

/* --- merged against unmerged ------------------------------------------------------------------ */

static void check_merged(const char *variant, double strength)
{
    file base = {0};
    file adapter = {0};
    file sum = {0};
    open_base(variant, SHOAL_TYPE_F32, &base);
    assert_int_equal(shoal_tiny_lora_gguf(base.gguf, &makes[0], &adapter.buf), SHOAL_OK);
    file_open(&adapter);
    assert_int_equal(shoal_tiny_lora_merge(base.gguf, adapter.gguf, strength, &sum.buf), SHOAL_OK);
    file_open(&sum);
    shoal_model *model = load_model(&base);
    shoal_model *merged = load_model(&sum);
    shoal_lora *lora = load_lora(model, &adapter, (float)strength);
    shoal_engine *engine = make(model, 1, SHOAL_CPU_AVX2, 1);
    shoal_engine *other = make(merged, 1, SHOAL_CPU_AVX2, 0);
    compute_alone(engine, lora, expected[0]);
    compute_alone(engine, NULL, expected[1]);
    compute_alone(other, NULL, expected[2]);
    double off = difference(expected[2], expected[0]);
    if (!(off <= 1e-5)) {
        fail_msg("%s: merged and unmerged differ by %g", variant ? variant : "tiny", off);
    }
    if (!(difference(expected[1], expected[0]) > 0.01)) {
        fail_msg("%s: the adapter changes next to nothing", variant ? variant : "tiny");
    }
    shoal_engine_free(engine);
    shoal_engine_free(other);
    shoal_lora_free(lora);
    shoal_model_free(model);
    shoal_model_free(merged);
    file_close(&base);
    file_close(&adapter);
    file_close(&sum);
}

static void test_merged_and_unmerged_agree_for_every_architecture(void **state)
{
    (void)state;
    fill_ids();
    check_merged(NULL, 1);
    check_merged(NULL, -0.5);
    for (size_t a = 0; a < shoal_tiny_archs_n; a++) {
        check_merged(shoal_tiny_archs[a], 1);
    }
}

/* --- many in one batch ------------------------------------------------------------------------ */

typedef struct family {
    file base;
    shoal_model *model;
    shoal_lora *loras[N_LORAS + 1]; /* the last is NULL: no adapter */
} family;

static void family_open(const char *variant, shoal_type type, family *f)
{
    memset(f, 0, sizeof *f);
    open_base(variant, type, &f->base);
    f->model = load_model(&f->base);
    for (size_t i = 0; i < N_LORAS; i++) {
        f->loras[i] = make_lora(f->model, &f->base, i);
    }
}

static void family_close(family *f)
{
    for (size_t i = 0; i < N_LORAS; i++) {
        shoal_lora_free(f->loras[i]);
    }
    shoal_model_free(f->model);
    file_close(&f->base);
}

static void compute_expected(const family *f)
{
    shoal_engine *engine = make(f->model, 1, 0, 1);
    shoal_engine *plain = make(f->model, 1, 0, 0);
    for (size_t i = 0; i < N_LORAS; i++) {
        compute_alone(engine, f->loras[i], expected[i]);
    }
    compute_alone(plain, NULL, expected[N_LORAS]);
    shoal_engine_free(engine);
    shoal_engine_free(plain);
}

static void check_row(const shoal_engine *engine, size_t logits_i, size_t which, size_t position,
                      const char *what)
{
    if (memcmp(shoal_engine_logits(engine, logits_i), expected[which][position], ROW_BYTES) != 0) {
        fail_msg("%s: adapter %zu: the logits at position %zu differ", what, which, position);
    }
}

/* One sequence of each kind, all in one step, in chunks of `chunk`; the order turns every step. */
static void check_chunks(const family *f, shoal_engine *engine, size_t chunk, const char *what)
{
    shoal_kv_seq *seqs[N_LORAS + 1];
    shoal_span spans[N_LORAS + 1];
    for (size_t i = 0; i <= N_LORAS; i++) {
        seqs[i] = sequence(engine);
    }
    for (size_t at = 0; at < N; at += chunk) {
        size_t n = SHOAL_MIN(chunk, N - at);
        size_t n_logits = SHOAL_MIN(n, (size_t)32);
        for (size_t i = 0; i <= N_LORAS; i++) {
            size_t which = (i + at) % (N_LORAS + 1);
            spans[i] = (shoal_span){.seq = seqs[which],
                                    .ids = ids + at,
                                    .n_ids = n,
                                    .n_logits = n_logits,
                                    .lora = f->loras[which]};
        }
        assert_int_equal(shoal_engine_step(engine, spans, N_LORAS + 1), SHOAL_OK);
        for (size_t i = 0; i <= N_LORAS; i++) {
            for (size_t j = 0; j < n_logits; j++) {
                check_row(engine, spans[i].logits_i + j, (i + at) % (N_LORAS + 1),
                          at + n - n_logits + j, what);
            }
        }
    }
    for (size_t i = 0; i <= N_LORAS; i++) {
        shoal_kv_seq_free(seqs[i]);
    }
}

/* `width` sequences at different depths, of all kinds, decode one token each. */
static void check_width(const family *f, shoal_engine *engine, size_t width, const char *what)
{
    shoal_kv_seq *seqs[WIDTH_MAX];
    shoal_span spans[WIDTH_MAX];
    for (size_t i = 0; i < width; i++) {
        size_t depth = 1 + i * 2 % (N - 1);
        const shoal_lora *lora = f->loras[i * i % 7 % (N_LORAS + 1)];
        seqs[i] = sequence(engine);
        shoal_span span = {.seq = seqs[i], .ids = ids, .n_ids = depth, .lora = lora};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        spans[i] = (shoal_span){
            .seq = seqs[i], .ids = ids + depth, .n_ids = 1, .n_logits = 1, .lora = lora};
    }
    assert_int_equal(shoal_engine_step(engine, spans, width), SHOAL_OK);
    for (size_t i = 0; i < width; i++) {
        check_row(engine, spans[i].logits_i, i * i % 7 % (N_LORAS + 1), 1 + i * 2 % (N - 1), what);
        shoal_kv_seq_free(seqs[i]);
    }
}

static void check_family(const char *variant, shoal_type type)
{
    static const uint32_t masks[] = {0, SHOAL_CPU_AVX2, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512};
    static const size_t widths[] = {1, 2, 3, 5, 8, WIDTH_MAX};
    static const size_t chunks[] = {1, 3, 17, N};
    family f;
    family_open(variant, type, &f);
    compute_expected(&f);
    for (size_t m = INSTRUMENTED; m < SHOAL_COUNT(masks); m++) {
        char what[96];
        size_t threads = m == 1 ? 4 : 1 + m;
        (void)snprintf(what, sizeof what, "%s %s, mask %u, %zu threads", variant ? variant : "tiny",
                       shoal_type_find((uint32_t)type)->name, masks[m], threads);
        shoal_engine *engine = make(f.model, threads, masks[m], N_LORAS);
        for (size_t c = 0; c < SHOAL_COUNT(chunks); c++) {
            check_chunks(&f, engine, chunks[c], what);
        }
        for (size_t w = 0; w < SHOAL_COUNT(widths); w++) {
            check_width(&f, engine, widths[w], what);
        }
        shoal_engine_free(engine);
    }
    family_close(&f);
}

static void test_batch_of_many_adapters_gives_each_the_bits_it_has_alone(void **state)
{
    (void)state;
    fill_ids();
    static const char *const variants[] = {NULL,      "phi3",      "gemma2",        "qwen2moe",
                                           "mixtral", "deepseek2", "deepseek2-lite"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        check_family(variants[v], v % 2 ? SHOAL_TYPE_Q8_0 : SHOAL_TYPE_F32);
    }
    check_family(NULL, SHOAL_TYPE_Q4_0);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_step_over_the_adapters_there_is_room_for_is_refused(void **state)
{
    (void)state;
    fill_ids();
    family f;
    family_open(NULL, SHOAL_TYPE_F32, &f);
    for (size_t n_max = 0; n_max <= N_LORAS; n_max++) {
        shoal_engine *engine = make(f.model, 1, SHOAL_CPU_AVX2, n_max);
        for (size_t n = 1; n <= N_LORAS; n++) {
            shoal_kv_seq *seqs[2 * N_LORAS];
            shoal_span spans[2 * N_LORAS];
            for (size_t i = 0; i < 2 * n; i++) {
                seqs[i] = sequence(engine);
                spans[i] =
                    (shoal_span){.seq = seqs[i], .ids = ids, .n_ids = 1, .lora = f.loras[i % n]};
            }
            assert_int_equal(shoal_engine_step(engine, spans, 2 * n),
                             n <= n_max ? SHOAL_OK : SHOAL_E_LIMIT);
            for (size_t i = 0; i < 2 * n; i++) {
                assert_int_equal(shoal_kv_seq_length(seqs[i]), n <= n_max ? 1 : 0);
                shoal_kv_seq_free(seqs[i]);
            }
        }
        shoal_engine_free(engine);
    }
    family_close(&f);
}

static void test_adapter_of_a_rank_over_the_limit_is_refused(void **state)
{
    (void)state;
    fill_ids();
    family f;
    family_open(NULL, SHOAL_TYPE_F32, &f);
    assert_int_equal(shoal_lora_rank(f.loras[0]), 8);
    for (size_t rank = 7; rank <= 9; rank++) {
        shoal_engine_settings s = shoal_engine_settings_default();
        shoal_engine *engine = NULL;
        s.n_loras_max = 1;
        s.lora_rank_max = rank;
        assert_int_equal(shoal_engine_new(f.model, &s, &engine, NULL), SHOAL_OK);
        shoal_kv_seq *seq = sequence(engine);
        shoal_span span = {.seq = seq, .ids = ids, .n_ids = 1, .lora = f.loras[0]};
        assert_int_equal(shoal_engine_step(engine, &span, 1), rank < 8 ? SHOAL_E_LIMIT : SHOAL_OK);
        shoal_kv_seq_free(seq);
        shoal_engine_free(engine);
    }
    family_close(&f);
}

static void test_new_with_bad_adapter_limits_names_them(void **state)
{
    (void)state;
    static const struct {
        size_t n_loras;
        size_t rank;
        shoal_status status;
    } cases[] = {{SHOAL_ENGINE_LORAS_MAX, 1, SHOAL_OK},
                 {SHOAL_ENGINE_LORAS_MAX + 1, 1, SHOAL_E_INVALID},
                 {1, 0, SHOAL_E_INVALID},
                 {1, SHOAL_LORA_RANK_MAX, SHOAL_OK},
                 {1, SHOAL_LORA_RANK_MAX + 1, SHOAL_E_INVALID}};
    file base = {0};
    open_base(NULL, SHOAL_TYPE_F32, &base);
    shoal_model *model = load_model(&base);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_engine_settings s = shoal_engine_settings_default();
        shoal_engine *engine = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        s.n_loras_max = cases[i].n_loras;
        s.lora_rank_max = cases[i].rank;
        assert_int_equal(shoal_engine_new(model, &s, &engine, &err), cases[i].status);
        assert_true((strstr(err.text, "adapters of rank") != NULL) == (cases[i].status != 0));
        shoal_engine_free(engine);
    }
    shoal_model_free(model);
    file_close(&base);
}

static void test_step_with_adapters_allocates_nothing(void **state)
{
    (void)state;
    fill_ids();
    static const char *const variants[] = {NULL, "phi3", "deepseek2", "qwen2moe"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        family f;
        family_open(variants[v], SHOAL_TYPE_F32, &f);
        shoal_engine *engine = make(f.model, 2, SHOAL_CPU_AVX2, N_LORAS);
        shoal_kv_seq *seqs[N_LORAS + 1];
        for (size_t i = 0; i <= N_LORAS; i++) {
            seqs[i] = sequence(engine);
        }
        uint64_t before = 0;
        for (size_t at = 0; at + 3 <= N; at += 3) {
            shoal_span spans[N_LORAS + 1];
            for (size_t i = 0; i <= N_LORAS; i++) {
                spans[i] = (shoal_span){
                    .seq = seqs[i], .ids = ids + at, .n_ids = 3, .n_logits = 1, .lora = f.loras[i]};
            }
            assert_int_equal(shoal_engine_step(engine, spans, N_LORAS + 1), SHOAL_OK);
            before = at == 0 ? shoal_mem_count() : before;
        }
        assert_int_equal(shoal_mem_count() - before, 0);
        for (size_t i = 0; i <= N_LORAS; i++) {
            shoal_kv_seq_free(seqs[i]);
        }
        shoal_engine_free(engine);
        family_close(&f);
    }
}

static void test_failing_allocations_in_new_with_adapters_leak_nothing(void **state)
{
    (void)state;
    file base = {0};
    open_base(NULL, SHOAL_TYPE_F32, &base);
    shoal_model *model = load_model(&base);
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_loras_max = 2;
    for (uint64_t i = 0; i < 200; i++) {
        shoal_engine *engine = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_engine_new(model, &s, &engine, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_engine_free(engine);
        if (status == SHOAL_OK) {
            assert_true(i > 15);
            shoal_model_free(model);
            file_close(&base);
            return;
        }
    }
    fail_msg("an engine takes more than 200 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merged_and_unmerged_agree_for_every_architecture),
        cmocka_unit_test(test_batch_of_many_adapters_gives_each_the_bits_it_has_alone),
        cmocka_unit_test(test_step_over_the_adapters_there_is_room_for_is_refused),
        cmocka_unit_test(test_adapter_of_a_rank_over_the_limit_is_refused),
        cmocka_unit_test(test_new_with_bad_adapter_limits_names_them),
        cmocka_unit_test(test_step_with_adapters_allocates_nothing),
        cmocka_unit_test(test_failing_allocations_in_new_with_adapters_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
