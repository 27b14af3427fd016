/* SPDX-License-Identifier: Apache-2.0
 *
 * Sealed KV in the engine: the logits of a row are those of one token at a time, by the scalar
 * tier, on one thread, bit for bit (R2), however the text came: in chunks that end anywhere in a
 * block or fill several, beside others, on any tier and number of threads, after drafts that were
 * refused, and after going back into blocks that were sealed already.
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
#include "tests/support/tiny_engine.h"

#include <string.h>

enum {
    N = 170, /* five blocks of KV, and ten tokens */
    N_SEQS = 5,
    ROWS_MAX = 200
};

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    ARCHS_STEP = 5,
    STEPS = 20
};
#else
enum {
    ARCHS_STEP = 1,
    STEPS = 24
};
#endif

static const shoal_kv_type types[] = {SHOAL_KV_K4V4, SHOAL_KV_K8V8, SHOAL_KV_K3V3,
                                      SHOAL_KV_K8V4, SHOAL_KV_K4V8, SHOAL_KV_K3V8,
                                      SHOAL_KV_K8V3, SHOAL_KV_K4V3, SHOAL_KV_K3V4};

static int32_t ids[N];
static float expected[N][SHOAL_TINY_VOCAB];

static shoal_engine_settings settings_of(shoal_kv_type kv, uint32_t mask, size_t n_threads)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = n_threads;
    s.cpu_mask = mask;
    s.n_ctx = N + 40;
    s.kv_bytes = (size_t)32 << 20;
    s.kv_type = (int)kv;
    s.n_rows_max = ROWS_MAX;
    s.n_logits_max = ROWS_MAX;
    return s;
}

static shoal_engine *engine_of(const shoal_model *model, shoal_kv_type kv, uint32_t mask,
                               size_t n_threads)
{
    const shoal_engine_settings s = settings_of(kv, mask, n_threads);
    return shoal_tiny_engine_new(model, &s);
}

static void one_by_one(const shoal_model *model, shoal_kv_type kv, float (*ret)[SHOAL_TINY_VOCAB])
{
    shoal_tiny_engine_one_by_one(model, settings_of(kv, 0, 1), ids, N, ret);
}

/* One run of random steps. */
typedef struct run {
    const char *what;
    shoal_engine *engine;
    shoal_kv_type kv;
    uint64_t rng;
    shoal_kv_seq *seqs[N_SEQS];
    int32_t fed[N_SEQS][ROWS_MAX];
    size_t n_right[N_SEQS]; /* of what is fed, tokens of the text; drafts follow */
    size_t n_back;          /* cuts so far that left what they were to leave */
} run;

static size_t draw(run *r, size_t n)
{
    return (size_t)(shoal_rng_next(&r->rng) % n);
}

static void check_row(const run *r, size_t logits_i, size_t position)
{
    if (memcmp(shoal_engine_logits(r->engine, logits_i), expected[position],
               SHOAL_TINY_ROW_BYTES) != 0) {
        fail_msg("%s, KV %s: the logits at position %zu differ", r->what, shoal_kv_type_name(r->kv),
                 position);
    }
}

/* Some of the text, then perhaps drafts that are not of it. */
static shoal_span span_of(run *r, size_t i, size_t n_most)
{
    static const size_t sizes[] = {1, 1, 2, 8, 31, 32, 33, 63, 64, 65, 97, 130};
    size_t at = shoal_kv_seq_length(r->seqs[i]);
    size_t n = sizes[draw(r, SHOAL_COUNT(sizes))];
    n = SHOAL_MIN(n, SHOAL_MIN(N - at, n_most));
    memcpy(r->fed[i], ids + at, n * sizeof *ids);
    r->n_right[i] = n;
    for (size_t more = draw(r, 3) == 0 ? draw(r, 33) : 0; more > 0 && n < n_most; more--) {
        r->fed[i][n++] = (int32_t)draw(r, SHOAL_TINY_VOCAB);
    }
    return (shoal_span){.seq = r->seqs[i], .ids = r->fed[i], .n_ids = n, .n_logits = n};
}

/* Refused drafts go; now and then more goes, as far back as anybody may want. */
static void cut(run *r, size_t i, size_t right)
{
    size_t length = shoal_kv_seq_length(r->seqs[i]);
    size_t to = right;
    if (right == N || draw(r, 6) == 0) {
        size_t back = draw(r, 35);
        to = draw(r, 2) ? draw(r, right + 1) : right - SHOAL_MIN(right, back);
    }
    size_t left = shoal_kv_seq_truncate(r->seqs[i], to);
    assert_true(left <= to);
    r->n_back += left == to && to < length;
}

static void random_step(run *r)
{
    shoal_span spans[N_SEQS];
    size_t of[N_SEQS];
    size_t n = 0;
    size_t n_rows = 0;
    for (size_t i = 0; i < N_SEQS; i++) {
        if (draw(r, 4) > 0 && n_rows < ROWS_MAX) {
            spans[n] = span_of(r, i, ROWS_MAX - n_rows);
            n_rows += spans[n].n_ids;
            of[n] = i;
            n += spans[n].n_ids > 0;
        }
    }
    if (n == 0) {
        return;
    }
    assert_int_equal(shoal_engine_step(r->engine, spans, n), SHOAL_OK);
    for (size_t s = 0; s < n; s++) {
        size_t at = shoal_kv_seq_length(spans[s].seq) - spans[s].n_ids;
        for (size_t row = 0; row < r->n_right[of[s]]; row++) {
            check_row(r, spans[s].logits_i + row, at + row);
        }
    }
    for (size_t s = 0; s < n; s++) {
        size_t at = shoal_kv_seq_length(spans[s].seq) - spans[s].n_ids;
        cut(r, of[s], at + r->n_right[of[s]]);
    }
}

static void random_run(const shoal_model *model, const char *what, shoal_kv_type kv, uint32_t mask,
                       size_t n_threads, uint64_t seed)
{
    run *r = shoal_calloc(1, sizeof *r);
    assert_non_null(r);
    r->what = what;
    r->kv = kv;
    r->rng = seed;
    r->engine = engine_of(model, kv, mask, n_threads);
    for (size_t i = 0; i < N_SEQS; i++) {
        assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(r->engine), &r->seqs[i]), SHOAL_OK);
    }
    for (size_t i = 0; i < STEPS; i++) {
        random_step(r);
    }
    assert_true(r->n_back > 0);
    for (size_t i = 0; i < N_SEQS; i++) {
        shoal_kv_seq_free(r->seqs[i]);
    }
    shoal_engine_free(r->engine);
    shoal_free(r);
}

static void test_sealed_levels_give_one_baseline_bits_however_computed(void **state)
{
    (void)state;
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    shoal_tiny_engine_ids(ids, N);
    for (size_t a = 0; a < shoal_tiny_archs_n; a += ARCHS_STEP) {
        shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[a]);
        shoal_kv_type kv = types[a / ARCHS_STEP % SHOAL_COUNT(types)];
        one_by_one(model, kv, expected);
        /* The baseline is scalar; other tiers, where there are some, run beside it. */
        for (size_t m = n_masks > 1 ? 1 : 0; m < n_masks; m++) {
            random_run(model, shoal_tiny_archs[a], kv, masks[m], 1 + (a + m) % 4, 100 * a + m);
        }
        shoal_model_free(model);
    }
}

/* A block is read as f16 by rows of its own and as codes by later ones; the first always as f16. */
static void test_sealed_bits_begin_with_the_first_row_past_the_second_block(void **state)
{
    (void)state;
    static float plain[N][SHOAL_TINY_VOCAB];
    shoal_tiny_engine_ids(ids, N);
    shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[0]);
    one_by_one(model, SHOAL_KV_F16, plain);
    for (size_t i = 0; i < 3; i++) {
        one_by_one(model, types[i], expected);
        assert_memory_equal(expected, plain, 64 * (size_t)SHOAL_TINY_ROW_BYTES);
        for (size_t p = 64; p < N; p++) {
            assert_memory_not_equal(expected[p], plain[p], SHOAL_TINY_ROW_BYTES);
        }
    }
    shoal_model_free(model);
}

/* Drafts over a border, all refused: nothing of the text is computed again. */
static void test_sealed_drafts_of_a_block_are_taken_back_without_recomputing(void **state)
{
    (void)state;
    shoal_tiny_engine_ids(ids, N);
    shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[0]);
    one_by_one(model, SHOAL_KV_K4V4, expected);
    shoal_engine *engine = engine_of(model, SHOAL_KV_K4V4, UINT32_MAX, 2);
    run r = {.what = "drafts", .engine = engine, .kv = SHOAL_KV_K4V4};
    static const size_t at[] = {31, 32, 33, 63, 64, 65, 95, 96, 97};
    for (size_t i = 0; i < SHOAL_COUNT(at); i++) {
        shoal_kv_seq *seq = NULL;
        const int32_t wrong[32] = {0};
        assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
        shoal_span text = {.seq = seq, .ids = ids, .n_ids = at[i]};
        shoal_span drafts = {.seq = seq, .ids = wrong, .n_ids = 32};
        shoal_span rest = {.seq = seq, .ids = ids + at[i], .n_ids = 66, .n_logits = 66};
        assert_int_equal(shoal_engine_step(engine, &text, 1), SHOAL_OK);
        for (size_t again = 0; again < 3; again++) {
            assert_int_equal(shoal_engine_step(engine, &drafts, 1), SHOAL_OK);
            assert_int_equal(shoal_kv_seq_truncate(seq, at[i]), at[i]);
        }
        assert_int_equal(shoal_engine_step(engine, &rest, 1), SHOAL_OK);
        for (size_t row = 0; row < 66; row++) {
            check_row(&r, rest.logits_i + row, at[i] + row);
        }
        /* Further back than that, the block begins anew. */
        assert_int_equal(shoal_kv_seq_truncate(seq, 40), 32);
        shoal_kv_seq_free(seq);
    }
    shoal_engine_free(engine);
    shoal_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sealed_levels_give_one_baseline_bits_however_computed),
        cmocka_unit_test(test_sealed_bits_begin_with_the_first_row_past_the_second_block),
        cmocka_unit_test(test_sealed_drafts_of_a_block_are_taken_back_without_recomputing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
