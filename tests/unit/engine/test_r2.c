/* SPDX-License-Identifier: Apache-2.0
 *
 * R2 over everything that may not matter: the logits of a row are those of one token at a time, by
 * the scalar tier, on one thread, from the plain file, bit for bit. A baseline is a model and a
 * form of the KV; beside it vary the CPU tier, the threads, the batch, the chunks of a prompt, and
 * whether the file was packed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "common/weight/pack.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_engine.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_sides.h"

#include <stdio.h>
#include <string.h>

enum {
    N = 48, /* a page of KV and a half */
    WIDTH_MAX = 33,
    THREADS_MAX = 8,
    KV_FORMS = 3,
    ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

/* Instrumented builds look for overruns and races, not for bits: fewer of everything. Races do not
 * depend on the type of a tensor, and looking for them is the slowest. Under emulation every fifth
 * type and every sixth architecture, with all sides, in fewer ways: half a minute. */
#if defined(SHOAL_TEST_SLOW)
enum {
    THREADS_STEP = 7,
    WIDTHS_STEP = 32,
    TYPES_STEP = 5,
    ARCHS_STEP = 6
};
#elif defined(__SANITIZE_THREAD__)
enum {
    THREADS_STEP = 7,
    WIDTHS_STEP = 16,
    TYPES_STEP = 4,
    ARCHS_STEP = 4
};
#elif defined(__SANITIZE_ADDRESS__)
enum {
    THREADS_STEP = 7,
    WIDTHS_STEP = 16,
    TYPES_STEP = 1,
    ARCHS_STEP = 1
};
#else
enum {
    THREADS_STEP = 1,
    WIDTHS_STEP = 4,
    TYPES_STEP = 1,
    ARCHS_STEP = 1
};
#endif

/* I8 stands for FP8, which has no type of its own. */
static const shoal_type types[] = {
    SHOAL_TYPE_F32,   SHOAL_TYPE_F16,    SHOAL_TYPE_BF16,   SHOAL_TYPE_Q8_0,   SHOAL_TYPE_Q4_0,
    SHOAL_TYPE_Q4_1,  SHOAL_TYPE_Q5_0,   SHOAL_TYPE_Q5_1,   SHOAL_TYPE_Q2_K,   SHOAL_TYPE_Q3_K,
    SHOAL_TYPE_Q4_K,  SHOAL_TYPE_Q5_K,   SHOAL_TYPE_Q6_K,   SHOAL_TYPE_IQ4_NL, SHOAL_TYPE_I8,
    SHOAL_TYPE_C2_64, SHOAL_TYPE_C3_128, SHOAL_TYPE_C4_64,  SHOAL_TYPE_S4_128, SHOAL_TYPE_N3_64,
    SHOAL_TYPE_N4_64, SHOAL_TYPE_S8_64,  SHOAL_TYPE_B16_64, SHOAL_TYPE_B8_64};
static const size_t chunks[THREADS_MAX] = {1, 3, 7, 16, 31, 32, 33, N};
static const char *const kv_names[KV_FORMS] = {"f32", "f16", "q8t"};

static int32_t ids[N];
static float expected[KV_FORMS][N][SHOAL_TINY_VOCAB];

/* --- models ---------------------------------------------------------------------------------- */

/* A model twice: from the plain file and from the packed one, which lies in packed. */
typedef struct subject {
    const char *name;
    shoal_model *models[2];
    uint8_t *packed;
    size_t n_packed;
    size_t capacity;
} subject;

static shoal_status sink(void *ctx, const void *data, size_t n, shoal_err *err)
{
    subject *s = ctx;
    if (n > s->capacity - s->n_packed) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the image is full");
    }
    memcpy(s->packed + s->n_packed, data, n);
    s->n_packed += n;
    return SHOAL_OK;
}

static shoal_model *model_of(const shoal_gguf *gguf)
{
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_model_new(gguf, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return model;
}

static void subject_init(subject *s, const char *name, const shoal_buf *file)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *plain = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *packed = NULL;
    size_t n_packed = 0;
    *s = (subject){.name = name, .capacity = 2 * file->length + (1 << 20)};
    s->packed = shoal_calloc_aligned(s->capacity, 1);
    assert_non_null(s->packed);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file->data, file->length, &plain, NULL),
                     SHOAL_OK);
    s->models[0] = model_of(plain);
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(1, &pool), SHOAL_OK);
    assert_int_equal(shoal_pack_write(plain, pool, sink, s, &n_packed, NULL), SHOAL_OK);
    shoal_pool_free(pool);
    assert_true(n_packed > 0);
    assert_int_equal(shoal_pack_open(s->packed, s->n_packed, &packed, NULL), SHOAL_OK);
    s->models[1] = model_of(packed);
    assert_true(shoal_pack_is_packed(packed));
    assert_memory_equal(&s->models[0]->hash, &s->models[1]->hash, sizeof(shoal_hash));
}

static void subject_fini(subject *s)
{
    shoal_model_free(s->models[0]);
    shoal_model_free(s->models[1]);
    shoal_free(s->packed);
}

/* What the writer borrows until the file is finished. */
typedef struct rewrite {
    shoal_gguf_writer *writer;
    void *owned[64];
    size_t n_owned;
} rewrite;

static void *own(rewrite *w, size_t n, size_t size)
{
    void *data = shoal_calloc(n, size);
    assert_non_null(data);
    assert_true(w->n_owned < SHOAL_COUNT(w->owned));
    w->owned[w->n_owned++] = data;
    return data;
}

/* The F32 matrix t in another type. */
static void put_matrix(rewrite *w, const shoal_gguf_tensor *t, const char *name, shoal_type type)
{
    size_t k = (size_t)t->dims[0];
    size_t n_rows = (size_t)t->dims[1];
    const float *x = (const float *)(const void *)t->data;
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    uint8_t *blocks = own(w, n_rows * k / info->block, info->block_bytes);
    if (type != SHOAL_TYPE_I8) {
        assert_int_equal(shoal_weight_encode(type, x, n_rows * k, blocks, NULL), SHOAL_OK);
    } else {
        const uint64_t tiles[2] = {(k + 127) / 128, (n_rows + 127) / 128};
        float *scales = own(w, (size_t)(tiles[0] * tiles[1]), sizeof(*scales));
        char scale_name[SHOAL_GGUF_NAME_MAX + 1];
        for (size_t row = 0; row < n_rows; row += 128) {
            assert_int_equal(shoal_fp8_encode(x + row * k, SHOAL_MIN(n_rows - row, (size_t)128), k,
                                              blocks + row * k, scales + row / 128 * tiles[0]),
                             SHOAL_OK);
        }
        assert_true(shoal_fp8_scale_name(t->name, scale_name));
        assert_int_equal(
            shoal_gguf_put_tensor(w->writer, scale_name, SHOAL_TYPE_F32, tiles, 2, scales),
            SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_put_tensor(w->writer, name, type, t->dims, 2, blocks), SHOAL_OK);
}

static void build(shoal_type type, shoal_buf *ret_file)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf f32 = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    rewrite w = {0};
    const shoal_tiny_settings settings = {.seed = 11, .n_layers = 1, .wide = true};
    assert_int_equal(shoal_tiny_model_build(&settings, &f32), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)f32.data, f32.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_new(&w.writer), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        assert_int_equal(
            shoal_gguf_put_raw(w.writer, shoal_gguf_key_at(gguf, i), shoal_gguf_raw_at(gguf, i)),
            SHOAL_OK);
    }
    if (type == SHOAL_TYPE_I8) {
        assert_int_equal(shoal_gguf_put_str(w.writer, SHOAL_FP8_KEY, SHOAL_FP8_FORMAT), SHOAL_OK);
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof(name), "%.*s", (int)t->name.length, t->name.data);
        if (t->n_dims == 2) {
            put_matrix(&w, t, name, type);
        } else {
            assert_int_equal(shoal_gguf_put_tensor(w.writer, name, t->type, t->dims, 1, t->data),
                             SHOAL_OK);
        }
    }
    assert_int_equal(shoal_gguf_writer_finish(w.writer, ret_file, NULL), SHOAL_OK);
    shoal_gguf_writer_free(w.writer);
    for (size_t i = 0; i < w.n_owned; i++) {
        shoal_free(w.owned[i]);
    }
}

/* --- runs ------------------------------------------------------------------------------------ */

/* One way of computing. */
typedef struct way {
    const subject *who;
    uint32_t mask;
    size_t n_threads;
    size_t kv; /* shoal_kv_type */
    bool packed;
} way;

static shoal_engine *engine_of(const way *w)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = w->n_threads;
    s.cpu_mask = w->mask;
    s.n_ctx = 64;
    s.kv_bytes = (size_t)32 << 20;
    s.kv_type = (int)w->kv;
    s.n_rows_max = 192;
    s.n_logits_max = 64;
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_engine_new(w->who->models[w->packed], &s, &engine, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_string_equal(shoal_engine_kv_form(engine), kv_names[w->kv]);
    return engine;
}

static shoal_kv_seq *sequence(shoal_engine *engine)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    return seq;
}

static void compute_expected(const subject *who)
{
    for (size_t kv = 0; kv < KV_FORMS; kv++) {
        const way w = {.who = who, .n_threads = 1, .kv = kv};
        shoal_engine *engine = engine_of(&w);
        shoal_kv_seq *seq = sequence(engine);
        for (size_t i = 0; i < N; i++) {
            shoal_span span = {.seq = seq, .ids = &ids[i], .n_ids = 1, .n_logits = 1};
            assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
            memcpy(expected[kv][i], shoal_engine_logits(engine, span.logits_i), ROW_BYTES);
        }
        shoal_kv_seq_free(seq);
        shoal_engine_free(engine);
    }
}

static void check_row(const shoal_engine *engine, size_t logits_i, size_t position, const way *w,
                      const char *what, size_t n)
{
    if (memcmp(shoal_engine_logits(engine, logits_i), expected[w->kv][position], ROW_BYTES) != 0) {
        fail_msg("%s, mask %u, %zu threads, %s KV, %s, %s %zu: the logits at position %zu differ",
                 w->who->name, w->mask, w->n_threads, kv_names[w->kv],
                 w->packed ? "packed" : "plain", what, n, position);
    }
}

/* Every row of the text, fed in chunks. */
static void check_chunks(shoal_engine *engine, const way *w, size_t chunk)
{
    shoal_kv_seq *seq = sequence(engine);
    for (size_t at = 0; at < N; at += chunk) {
        size_t n = SHOAL_MIN(chunk, N - at);
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = n, .n_logits = n};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        for (size_t i = 0; i < n; i++) {
            check_row(engine, span.logits_i + i, at + i, w, "chunks of", chunk);
        }
    }
    shoal_kv_seq_free(seq);
}

/* One step of `width` sequences, from the one at `first` on: they feed one token each, but those
 * that are empty feed a prompt of a length of their own every eighth time. */
static void check_step(shoal_engine *engine, const way *w, shoal_kv_seq **seqs, size_t first,
                       size_t width)
{
    static const size_t prompts[] = {3, 17, 32, 40};
    shoal_span spans[WIDTH_MAX];
    for (size_t i = 0; i < width; i++) {
        shoal_kv_seq *seq = seqs[(first + i) % WIDTH_MAX];
        size_t at = shoal_kv_seq_length(seq);
        size_t n = at == 0 && i % 8 == 7 ? prompts[i / 8] : 1;
        spans[i] = (shoal_span){.seq = seq, .ids = ids + at, .n_ids = n, .n_logits = 1};
    }
    assert_int_equal(shoal_engine_step(engine, spans, width), SHOAL_OK);
    for (size_t i = 0; i < width; i++) {
        size_t position = shoal_kv_seq_length(spans[i].seq) - 1;
        check_row(engine, spans[i].logits_i, position, w, "a width of", width);
        if (position + 1 == N) {
            assert_int_equal(shoal_kv_seq_truncate(spans[i].seq, N / 2), SHOAL_OK);
        }
    }
}

/* Widths first, first + step, ... over sequences that grow apart. */
static void check_widths(shoal_engine *engine, const way *w, size_t first, size_t step)
{
    shoal_kv_seq *seqs[WIDTH_MAX];
    for (size_t i = 0; i < WIDTH_MAX; i++) {
        seqs[i] = sequence(engine);
    }
    for (size_t width = first; width <= WIDTH_MAX; width += step) {
        check_step(engine, w, seqs, width * 5 % WIDTH_MAX, width);
    }
    for (size_t i = 0; i < WIDTH_MAX; i++) {
        shoal_kv_seq_free(seqs[i]);
    }
}

/* Every type with every tier and every number of threads, and in each of these runs one chunking,
 * a quarter of the widths, one form of the KV and one of the files, turned so that every two of
 * all of these meet: a type and a tier see all eight chunkings, all widths (twice), all KV forms
 * and both files; threads see all widths, chunkings and KV forms over the types. */
static void test_every_type_gives_one_baseline_bits_however_computed(void **state)
{
    (void)state;
    shoal_tiny_engine_ids(ids, N);
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    for (size_t t = 0; t < SHOAL_COUNT(types); t += TYPES_STEP) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
        subject who;
        build(types[t], &file);
        subject_init(&who, shoal_type_find((uint32_t)types[t])->name, &file);
        compute_expected(&who);
        for (size_t m = 0; m < n_masks; m++) {
            for (size_t threads = 1; threads <= THREADS_MAX; threads += THREADS_STEP) {
                const way w = {.who = &who,
                               .mask = masks[m],
                               .n_threads = threads,
                               .kv = (threads + t) % KV_FORMS,
                               .packed = (threads + m) % 2 == 1};
                shoal_engine *engine = engine_of(&w);
                check_chunks(engine, &w, chunks[(threads + t + m) % THREADS_MAX]);
                check_widths(engine, &w, 1 + (threads + t) % WIDTHS_STEP, WIDTHS_STEP);
                shoal_engine_free(engine);
            }
        }
        subject_fini(&who);
    }
}

/* Windows, experts, latents, in every form of the KV, from both files. */
static void test_every_architecture_gives_one_baseline_bits_in_every_kv(void **state)
{
    (void)state;
    shoal_tiny_engine_ids(ids, N);
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    for (size_t a = 0; a < shoal_tiny_archs_n; a += ARCHS_STEP) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
        subject who;
        shoal_type type = a % 2 == 0 ? SHOAL_TYPE_Q4_0 : SHOAL_TYPE_Q8_0;
        assert_int_equal(shoal_tiny_arch_gguf(shoal_tiny_archs[a], 5, type, &file), SHOAL_OK);
        subject_init(&who, shoal_tiny_archs[a], &file);
        compute_expected(&who);
        for (size_t i = 0; i < n_masks * KV_FORMS; i++) {
            const way w = {.who = &who,
                           .mask = masks[i / KV_FORMS],
                           .n_threads = 1 + (i + a) % THREADS_MAX,
                           .kv = i % KV_FORMS,
                           .packed = (i + a + i / KV_FORMS) % 2 == 1};
            shoal_engine *engine = engine_of(&w);
            check_chunks(engine, &w, chunks[(i + a) % THREADS_MAX]);
            check_widths(engine, &w, 1 + (i + a) % 8, 2 * WIDTHS_STEP);
            shoal_engine_free(engine);
        }
        subject_fini(&who);
    }
}

/* What stands beside matrices, over bases that read codes and floats. Factors need rows of whole
 * blocks and parts of fused tensors at whole panels, so not every architecture can have them; one
 * with fused tensors and one with experts can. */
static void build_sides(size_t i, shoal_buf *ret_file)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf base = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    static const shoal_type bases[] = {SHOAL_TYPE_Q4_0, SHOAL_TYPE_F16, SHOAL_TYPE_Q4_K,
                                       SHOAL_TYPE_I8};
    if (i < SHOAL_COUNT(bases)) {
        build(bases[i], &base);
    } else {
        const char *variant = i == SHOAL_COUNT(bases) ? "phi3" : "qwen2moe";
        assert_int_equal(shoal_tiny_arch_gguf(variant, 5, SHOAL_TYPE_Q8_0, &base), SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_open((const uint8_t *)base.data, base.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_tiny_sides_gguf(gguf, 5, 0, ret_file), SHOAL_OK);
}

static void test_every_side_gives_one_baseline_bits_however_computed(void **state)
{
    (void)state;
    static const char *const names[] = {"Q4_0 with sides", "F16 with sides",
                                        "Q4_K with sides", "FP8 with sides",
                                        "phi3 with sides", "qwen2moe with sides"};
    shoal_tiny_engine_ids(ids, N);
    uint32_t masks[SHOAL_TINY_MASKS_MAX];
    size_t n_masks = shoal_tiny_engine_masks(masks);
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
        subject who;
        build_sides(i, &file);
        subject_init(&who, names[i], &file);
        assert_true(who.models[0]->needs.rank > 0);
        compute_expected(&who);
        for (size_t m = 0; m < n_masks; m++) {
            for (size_t threads = 1; threads <= THREADS_MAX; threads += 7) {
                const way w = {.who = &who,
                               .mask = masks[m],
                               .n_threads = threads,
                               .kv = (m + i) % KV_FORMS,
                               .packed = (threads + m) % 2 == 1};
                shoal_engine *engine = engine_of(&w);
                check_chunks(engine, &w, chunks[(threads + i + m) % THREADS_MAX]);
                check_widths(engine, &w, 1 + (m + i) % WIDTHS_STEP, 2 * WIDTHS_STEP);
                shoal_engine_free(engine);
            }
        }
        subject_fini(&who);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_gives_one_baseline_bits_however_computed),
        cmocka_unit_test(test_every_architecture_gives_one_baseline_bits_in_every_kv),
        cmocka_unit_test(test_every_side_gives_one_baseline_bits_however_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
