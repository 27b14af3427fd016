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

#include <math.h>
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

/* By layer, instead of one type; NULL: of one type. */
static const char *levels;
/* In Hadamard's basis. */
static bool hadamard;

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
    s.kv_levels = levels;
    s.kv_hadamard = hadamard;
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

/* Each layer with a type of its own: as random, as wide and on every processor as one type. */
static void test_levels_by_layer_give_one_baseline_bits_however_computed(void **state)
{
    (void)state;
    static const char *const words[] = {"q8,q4", "q3,k8v4", "k4v8,q3", "q4,q8"};
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    shoal_tiny_engine_ids(ids, N);
    for (size_t a = 0; a < SHOAL_MIN(shoal_tiny_archs_n, SHOAL_COUNT(words)); a++) {
        shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[a]);
        levels = words[a];
        one_by_one(model, SHOAL_KV_F16, expected);
        for (size_t m = 0; m < n_masks; m++) {
            random_run(model, levels, SHOAL_KV_F16, masks[m], 1 + (a + m) % 4, 100 * a + m);
        }
        shoal_engine *engine = engine_of(model, SHOAL_KV_F16, 0, 1);
        assert_int_equal(strncmp(shoal_engine_kv_form(engine), "mixed-", 6), 0);
        shoal_engine_free(engine);
        levels = NULL;
        shoal_model_free(model);
    }
}

/* In Hadamard's basis too, whatever the form: latent attention has no heads to multiply. */
static void test_hadamard_kv_gives_one_baseline_bits_however_computed(void **state)
{
    (void)state;
    static const shoal_kv_type forms[] = {SHOAL_KV_K4V4, SHOAL_KV_F16, SHOAL_KV_K8V3, SHOAL_KV_K3V8,
                                          SHOAL_KV_Q8T};
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    shoal_tiny_engine_ids(ids, N);
    hadamard = true;
    for (size_t a = 0; a < shoal_tiny_archs_n; a += 2 + ARCHS_STEP) {
        shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[a]);
        shoal_kv_type kv = forms[a % SHOAL_COUNT(forms)];
        if (model->hp.mla.rank == 0) {
            one_by_one(model, kv, expected);
            for (size_t m = n_masks > 1 ? 1 : 0; m < n_masks; m++) {
                random_run(model, shoal_tiny_archs[a], kv, masks[m], 1 + (a + m) % 4, 300 * a + m);
            }
        }
        shoal_model_free(model);
    }
    hadamard = false;
}

static double distance(float (*a)[SHOAL_TINY_VOCAB], float (*b)[SHOAL_TINY_VOCAB])
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)N * SHOAL_TINY_VOCAB; i++) {
        double d = (double)a[i / SHOAL_TINY_VOCAB][i % SHOAL_TINY_VOCAB] -
                   (double)b[i / SHOAL_TINY_VOCAB][i % SHOAL_TINY_VOCAB];
        sum += d * d;
    }
    return sum;
}

/* How far sealed logits are from those of f16, as part of their length. */
static double part_lost(const shoal_model *model, shoal_kv_type kv, bool in_hadamard,
                        float (*whole)[SHOAL_TINY_VOCAB], float (*ret)[SHOAL_TINY_VOCAB])
{
    static float none[N][SHOAL_TINY_VOCAB];
    hadamard = in_hadamard;
    one_by_one(model, kv, ret);
    hadamard = false;
    return sqrt(distance(ret, whole) / distance(none, whole));
}

/* The basis alone changes rounding and nothing else: of f32 and of f16 that much. What rounding to
 * codes costs there is of the size it has without, on weights that have no outliers. */
static void test_hadamard_kv_is_near_kv_without(void **state)
{
    (void)state;
    static const struct {
        shoal_kv_type type;
        double most;  /* part of the logits' length */
        double times; /* of what the type costs without, 0: it costs nothing */
    } rows[] = {{SHOAL_KV_F32, 2e-6, 0},
                {SHOAL_KV_F16, 2e-3, 0},
                {SHOAL_KV_K8V8, 0.02, 2},
                {SHOAL_KV_K4V4, 0.3, 2},
                {SHOAL_KV_K3V3, 0.6, 2}};
    static float whole[N][SHOAL_TINY_VOCAB];
    static float other[N][SHOAL_TINY_VOCAB];
    static const char *const variants[] = {"llama3", "qwen3"};
    shoal_tiny_engine_ids(ids, N);
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        shoal_model *model = shoal_tiny_engine_model(variants[v]);
        one_by_one(model, SHOAL_KV_F32, whole);
        for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
            double plain = part_lost(model, rows[i].type, false, whole, expected);
            double turned = part_lost(model, rows[i].type, true, whole, other);
            if (!(turned < rows[i].most) || (rows[i].times > 0 && turned > rows[i].times * plain)) {
                fail_msg("%s, KV %s: %g of the logits lost in Hadamard's basis, %g without",
                         variants[v], shoal_kv_type_name(rows[i].type), turned, plain);
            }
            assert_memory_not_equal(other, expected, sizeof other);
        }
        shoal_model_free(model);
    }
}

static void test_hadamard_kv_has_a_form_of_its_own_and_its_limits(void **state)
{
    (void)state;
    static const struct {
        const char *variant, *levels, *form;
        shoal_kv_type kv;
    } rows[] = {{"llama3", NULL, "h-f16", SHOAL_KV_F16},
                {"llama3", NULL, "h-k4v3", SHOAL_KV_K4V3},
                {"llama3", "q8*1,q4", "mixed-", SHOAL_KV_F16}};
    hadamard = true;
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_model *model = shoal_tiny_engine_model(rows[i].variant);
        levels = rows[i].levels;
        shoal_engine *engine = engine_of(model, rows[i].kv, 0, 1);
        hadamard = false;
        shoal_engine *without = engine_of(model, rows[i].kv, 0, 1);
        hadamard = true;
        assert_int_equal(strncmp(shoal_engine_kv_form(engine), rows[i].form, strlen(rows[i].form)),
                         0);
        assert_string_not_equal(shoal_engine_kv_form(engine), shoal_engine_kv_form(without));
        shoal_engine_free(engine);
        shoal_engine_free(without);
        shoal_model_free(model);
    }
    levels = NULL;
    shoal_model *latent = shoal_tiny_engine_model("deepseek2");
    shoal_engine_settings s = settings_of(SHOAL_KV_F16, 0, 1);
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_engine_new(latent, &s, &engine, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "latent attention (MLA)"));
    hadamard = false;
    shoal_model_free(latent);
}

/* And each layer's own type is what it reads: with equal types the bits are those of one type, with
 * another type in any one layer they are not, but nearer to f16 where that has more bits. */
static void test_each_layer_reads_its_own_level(void **state)
{
    (void)state;
    static float other[N][SHOAL_TINY_VOCAB];
    static float f16[N][SHOAL_TINY_VOCAB];
    shoal_model *model = shoal_tiny_engine_model(shoal_tiny_archs[0]);
    shoal_tiny_engine_ids(ids, N);
    one_by_one(model, SHOAL_KV_F16, f16);
    one_by_one(model, SHOAL_KV_K4V4, expected);
    levels = "q4*1,q4";
    one_by_one(model, SHOAL_KV_F16, other);
    assert_memory_equal(other, expected, sizeof other);
    for (size_t i = 0; i < 2; i++) {
        levels = i == 0 ? "q8*1,q4" : "q4*1,q8";
        one_by_one(model, SHOAL_KV_F16, other);
        assert_memory_not_equal(other, expected, sizeof other);
        assert_true(distance(other, f16) < distance(expected, f16));
    }
    levels = "q8*1000";
    shoal_engine_settings s = settings_of(SHOAL_KV_F16, 0, 1);
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_engine_new(model, &s, &engine, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "q8*1000"));
    levels = NULL;
    shoal_model_free(model);
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
        cmocka_unit_test(test_levels_by_layer_give_one_baseline_bits_however_computed),
        cmocka_unit_test(test_each_layer_reads_its_own_level),
        cmocka_unit_test(test_hadamard_kv_gives_one_baseline_bits_however_computed),
        cmocka_unit_test(test_hadamard_kv_is_near_kv_without),
        cmocka_unit_test(test_hadamard_kv_has_a_form_of_its_own_and_its_limits),
        cmocka_unit_test(test_sealed_levels_give_one_baseline_bits_however_computed),
        cmocka_unit_test(test_sealed_bits_begin_with_the_first_row_past_the_second_block),
        cmocka_unit_test(test_sealed_drafts_of_a_block_are_taken_back_without_recomputing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
