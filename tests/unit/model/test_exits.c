/* SPDX-License-Identifier: Apache-2.0
 *
 * Exit heads: what a file may say of them, and that an exit answers as the model cut there.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/model/forward.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <string.h>

enum {
    N_LAYERS = 9, /* one more than there may be exits */
    N_IDS = 11
};

static shoal_buf file; /* N_LAYERS layers, no exits */

static int group_setup(void **state)
{
    (void)state;
    const shoal_tiny_settings s = {.seed = 5, .type = SHOAL_TYPE_F32, .n_layers = N_LAYERS};
    return shoal_tiny_model_build(&s, &file) == SHOAL_OK ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_buf_fini(&file);
    return 0;
}

/* What a file says of its exits; NULL: not the key. */
typedef struct exits {
    const int32_t *layers;
    size_t n_layers;
    const float *norm;
    size_t n_norm;
    bool layers_f32; /* of another kind */
    bool norm_i32;
    bool scalar; /* no arrays at all */
} exits;

static shoal_status put_exits(shoal_gguf_writer *w, const exits *e)
{
    if (e->scalar) {
        SHOAL_TRY(shoal_gguf_put_u32(w, SHOAL_EXIT_LAYERS_KEY, 1));
    } else if (e->layers_f32) {
        SHOAL_TRY(shoal_gguf_put_f32_array(w, SHOAL_EXIT_LAYERS_KEY, e->norm, e->n_layers));
    } else if (e->layers) {
        SHOAL_TRY(shoal_gguf_put_i32_array(w, SHOAL_EXIT_LAYERS_KEY, e->layers, e->n_layers));
    }
    if (e->norm_i32) {
        static const int32_t zeros[SHOAL_TINY_DIM];
        return shoal_gguf_put_i32_array(w, SHOAL_EXIT_NORM_KEY, zeros, e->n_norm);
    }
    return e->norm ? shoal_gguf_put_f32_array(w, SHOAL_EXIT_NORM_KEY, e->norm, e->n_norm)
                   : SHOAL_OK;
}

static shoal_status write_file(const shoal_gguf *from, const exits *e, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    SHOAL_TRY(shoal_gguf_writer_new(&w));
    for (size_t i = 0; i < shoal_gguf_n_kv(from); i++) {
        SHOAL_TRY(shoal_gguf_put_raw(w, shoal_gguf_key_at(from, i), shoal_gguf_raw_at(from, i)));
    }
    SHOAL_TRY(put_exits(w, e));
    for (size_t i = 0; i < shoal_gguf_n_tensors(from); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(from, i);
        char name[SHOAL_GGUF_NAME_MAX + 1] = {0};
        memcpy(name, t->name.data, t->name.length);
        SHOAL_TRY(shoal_gguf_put_tensor(w, name, t->type, t->dims, t->n_dims, t->data));
    }
    return shoal_gguf_writer_finish(w, buf, NULL);
}

static shoal_status load(const exits *e, shoal_model **ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *from = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)file.data, file.length, &from, err));
    SHOAL_TRY(write_file(from, e, &buf));
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, err));
    return shoal_model_new(gguf, ret_model, err);
}

static void ones(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = 1.0F + 0.001F * (float)(i % 97);
    }
}

static void refuse(const exits *e, const char *named)
{
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = load(e, &model, &err);
    if (status >= 0 || model) {
        fail_msg("exits were accepted that \"%s\" should refuse", named);
    }
    if (!strstr(err.text, named)) {
        fail_msg("\"%s\" does not name %s", err.text, named);
    }
}

static void test_load_exits_at_their_limits_are_read(void **state)
{
    (void)state;
    static float norm[SHOAL_MODEL_EXITS_MAX * SHOAL_TINY_DIM];
    const int32_t layers[] = {1, 2, 3, 4, 5, 6, 7, 8};
    ones(norm, SHOAL_COUNT(norm));
    for (size_t n = 1; n <= SHOAL_MODEL_EXITS_MAX; n += SHOAL_MODEL_EXITS_MAX - 1) {
        shoal_model *model = NULL;
        const exits e = {layers, n, norm, n * SHOAL_TINY_DIM, false, false, false};
        assert_int_equal(load(&e, &model, NULL), SHOAL_OK);
        assert_int_equal(model->hp.n_exits, n);
        assert_int_equal(model->hp.exits[n - 1], layers[n - 1]);
        assert_memory_equal(model->exit_norm, norm, n * SHOAL_TINY_DIM * sizeof *norm);
        shoal_model_free(model);
    }
    shoal_model *model = NULL;
    const exits last = {(int32_t[]){N_LAYERS - 1}, 1, norm, SHOAL_TINY_DIM, false, false, false};
    assert_int_equal(load(&last, &model, NULL), SHOAL_OK);
    assert_int_equal(model->hp.exits[0], N_LAYERS - 1);
    shoal_model_free(model);
}

static void test_load_hostile_depths_are_refused(void **state)
{
    (void)state;
    static float norm[(SHOAL_MODEL_EXITS_MAX + 1) * SHOAL_TINY_DIM];
    ones(norm, SHOAL_COUNT(norm));
    static const int32_t bad[][2] = {{0, 2}, {-1, 2},        {2, 2},         {3, 2},
                                     {2, 9}, {2, INT32_MAX}, {INT32_MIN, 2}, {9, 10}};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        const exits e = {bad[i], 2, norm, 2 * SHOAL_TINY_DIM, false, false, false};
        refuse(&e, SHOAL_EXIT_LAYERS_KEY);
    }
    const int32_t many[] = {1, 2, 3, 4, 5, 6, 7, 8, 8};
    refuse(&(exits){many, 9, norm, SHOAL_COUNT(norm), false, false, false}, "1 to 8");
    refuse(&(exits){many, 0, norm, 0, false, false, false}, "1 to 8");
    refuse(&(exits){many, 1, norm, SHOAL_TINY_DIM, true, false, false}, SHOAL_EXIT_LAYERS_KEY);
    refuse(&(exits){NULL, 0, NULL, 0, false, false, true}, SHOAL_EXIT_LAYERS_KEY);
}

static void test_load_hostile_norms_are_refused(void **state)
{
    (void)state;
    static float norm[3 * SHOAL_TINY_DIM];
    const int32_t layers[] = {2, 4};
    const size_t n = (size_t)2 * SHOAL_TINY_DIM;
    ones(norm, SHOAL_COUNT(norm));
    refuse(&(exits){layers, 2, norm, n - 1, false, false, false}, SHOAL_EXIT_NORM_KEY);
    refuse(&(exits){layers, 2, norm, n + 1, false, false, false}, SHOAL_EXIT_NORM_KEY);
    refuse(&(exits){layers, 2, norm, 0, false, false, false}, SHOAL_EXIT_NORM_KEY);
    refuse(&(exits){layers, 2, NULL, 0, false, false, false}, SHOAL_EXIT_NORM_KEY);
    refuse(&(exits){layers, 1, NULL, SHOAL_TINY_DIM, false, true, false}, SHOAL_EXIT_NORM_KEY);
    refuse(&(exits){NULL, 0, norm, n, false, false, false}, SHOAL_EXIT_NORM_KEY);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        norm[n - 1] = bad[i];
        refuse(&(exits){layers, 2, norm, n, false, false, false}, "not finite");
    }
}

/* --- what they compute ----------------------------------------------------------------------- */

static const int32_t ids[N_IDS] = {1, 262, 270, 7, 280, 290, 261, 265, 299, 100, 263};

typedef struct bench {
    shoal_kernels kernels;
    shoal_pool *pool;
    shoal_kv_pool *kv;
    shoal_kv_seq *seq;
    shoal_forward *forward;
    shoal_row rows[N_IDS];
} bench;

static void bench_init(bench *b, const shoal_model *model)
{
    memset(b, 0, sizeof *b);
    shoal_kernels_init(&b->kernels, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512);
    assert_int_equal(shoal_pool_new(1, &b->pool), SHOAL_OK);
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32);
    assert_int_equal(shoal_kv_pool_new(&shape, shoal_kv_pages_for(&shape, N_IDS, N_IDS),
                                       SHOAL_KV_BLOCK, N_IDS, &b->kv, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(b->kv, &b->seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(b->seq, N_IDS), SHOAL_OK);
    const shoal_forward_shape s = {
        .n_rows_max = N_IDS, .n_logits_max = N_IDS, .n_ctx_max = SHOAL_KV_BLOCK};
    assert_int_equal(shoal_forward_new(model, &b->kernels, b->pool, &s, &b->forward), SHOAL_OK);
    for (size_t i = 0; i < N_IDS; i++) {
        b->rows[i] = (shoal_row){.seq = b->seq, .id = ids[i], .position = i};
    }
}

static void bench_fini(bench *b)
{
    shoal_forward_free(b->forward);
    shoal_kv_seq_free(b->seq);
    shoal_kv_pool_free(b->kv);
    shoal_pool_free(b->pool);
}

static shoal_model *model_with_exits(shoal_type type)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    const shoal_tiny_settings s = {
        .seed = 5, .type = type, .n_layers = N_LAYERS, .n_exits = 2, .exits = {2, 5}};
    assert_int_equal(shoal_tiny_model_build(&s, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return model;
}

static void check_against_cuts(const shoal_model *model)
{
    bench b;
    const size_t row = SHOAL_TINY_VOCAB * sizeof(float);
    bench_init(&b, model);
    size_t from = 0;
    for (size_t e = 0; e <= model->hp.n_exits; e++) {
        bool last = e == model->hp.n_exits;
        size_t to = last ? model->hp.n_layers : model->hp.exits[e];
        shoal_forward_layers(b.forward, b.rows, N_IDS, from, to, NULL, 0);
        last ? shoal_forward_logits(b.forward) : shoal_forward_exit_logits(b.forward, e);
        from = to;

        /* The same model as if it ended there. */
        shoal_model cut = *model;
        cut.hp.n_layers = to;
        cut.out_norm = last ? model->out_norm : model->exit_norm + e * model->hp.dim;
        bench c;
        bench_init(&c, &cut);
        shoal_forward_layers(c.forward, c.rows, N_IDS, 0, to, NULL, 0);
        shoal_forward_logits(c.forward);
        assert_memory_equal(shoal_forward_logits_at(b.forward, 0),
                            shoal_forward_logits_at(c.forward, 0), N_IDS * row);
        bench_fini(&c);
    }
    bench_fini(&b);
}

static void test_exit_logits_equal_those_of_the_cut_model(void **state)
{
    (void)state;
    static const shoal_type types[] = {SHOAL_TYPE_F32, SHOAL_TYPE_F16, SHOAL_TYPE_Q8_0,
                                       SHOAL_TYPE_Q4_0};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        shoal_model *model = model_with_exits(types[i]);
        check_against_cuts(model);
        shoal_model_free(model);
    }
}

/* Rows that are not wanted leave before the exit's logits, and the others go on deeper. */
static void test_rows_that_stay_go_on_past_an_exit(void **state)
{
    (void)state;
    shoal_model *model = model_with_exits(SHOAL_TYPE_F32);
    const size_t wanted[] = {3, N_IDS - 1};
    const size_t row = SHOAL_TINY_VOCAB * sizeof(float);
    bench all;
    bench some;
    bench_init(&all, model);
    bench_init(&some, model);
    shoal_forward_layers(all.forward, all.rows, N_IDS, 0, 2, NULL, 0);
    shoal_forward_exit_logits(all.forward, 0);
    shoal_forward_layers(some.forward, some.rows, N_IDS, 0, 2, wanted, SHOAL_COUNT(wanted));
    shoal_forward_exit_logits(some.forward, 0);
    for (size_t i = 0; i < SHOAL_COUNT(wanted); i++) {
        assert_memory_equal(shoal_forward_logits_at(all.forward, wanted[i]),
                            shoal_forward_logits_at(some.forward, i), row);
    }
    bench_fini(&all);
    bench_fini(&some);
    shoal_model_free(model);
}

static void test_exits_are_not_in_the_hash(void **state)
{
    (void)state;
    shoal_model *with = model_with_exits(SHOAL_TYPE_F32);
    shoal_model *without = NULL;
    assert_int_equal(load(&(exits){0}, &without, NULL), SHOAL_OK);
    assert_int_equal(with->hp.n_exits, 2);
    assert_int_equal(without->hp.n_exits, 0);
    assert_null(without->exit_norm);
    assert_memory_equal(&with->hash, &without->hash, sizeof with->hash);
    shoal_model_free(with);
    shoal_model_free(without);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    static float norm[SHOAL_TINY_DIM];
    ones(norm, SHOAL_COUNT(norm));
    const exits e = {(int32_t[]){4}, 1, norm, SHOAL_TINY_DIM, false, false, false};
    for (uint64_t i = 0; i < 40000; i += 7) {
        shoal_model *model = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = load(&e, &model, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_model_free(model);
        if (status == SHOAL_OK) {
            return;
        }
        assert_true(status < 0);
    }
    fail_msg("loading takes more than 40000 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_load_exits_at_their_limits_are_read),
        cmocka_unit_test(test_load_hostile_depths_are_refused),
        cmocka_unit_test(test_load_hostile_norms_are_refused),
        cmocka_unit_test(test_exit_logits_equal_those_of_the_cut_model),
        cmocka_unit_test(test_rows_that_stay_go_on_past_an_exit),
        cmocka_unit_test(test_exits_are_not_in_the_hash),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
