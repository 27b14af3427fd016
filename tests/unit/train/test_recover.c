/* SPDX-License-Identifier: Apache-2.0
 *
 * Compressed models in training: what is trained is what is stored, gradients, resume, refusals.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/weight/sides.h"
#include "common/weight/weight.h"
#include "tests/support/tiny_arch.h"
#include "toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char variant[] = "mistral";
static const size_t one_exit[] = {1};
static char folder[64];
static char path[96];

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-recover-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/out", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(folder);
}

/* --- a compressed model in memory --------------------------------------------------------------
 */

typedef struct small {
    shoal_buf file;
    shoal_gguf *gguf;
    shoal_params *full;
    shoal_params *params; /* as the file says */
    shoal_recover *recover;
    shoal_pool *pool;
} small;

/* The parameters that a file holds. */
static shoal_params *params_of(const shoal_gguf *gguf)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_model *model = NULL;
    shoal_params *params = NULL;
    if (shoal_model_new(gguf, &model, &err) != SHOAL_OK ||
        shoal_params_new(&model->hp, model->hp.exits, model->hp.n_exits, &params, &err) !=
            SHOAL_OK ||
        shoal_params_from_model(params, model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_model_free(model);
    return params;
}

/* What is to be put beside a file's tensors. */
typedef struct additions {
    shoal_type type;   /* of its matrices */
    bool exit;         /* one, and a threshold */
    bool column_scale; /* of one matrix */
} additions;

static shoal_status put_additions(shoal_gguf_writer *w, const additions *more)
{
    static float norm[64];
    static uint16_t ones[64];
    static const int32_t layers[] = {1};
    const uint64_t dims[1] = {64};
    for (size_t i = 0; i < SHOAL_COUNT(norm); i++) {
        norm[i] = 1.0F + 0.01F * (float)i;
        ones[i] = 0x3C00;
    }
    if (more->exit) {
        SHOAL_TRY(shoal_gguf_put_i32_array(w, SHOAL_EXIT_LAYERS_KEY, layers, 1));
        SHOAL_TRY(shoal_gguf_put_f32_array(w, SHOAL_EXIT_NORM_KEY, norm, 64));
        SHOAL_TRY(shoal_gguf_put_str(w, "shoal.escalate.policy.fixed", "threshold=0.5"));
    }
    if (more->column_scale) {
        SHOAL_TRY(shoal_gguf_put_str(w, SHOAL_SIDES_KEY, SHOAL_SIDES_FORMAT));
        SHOAL_TRY(shoal_gguf_put_tensor(w, "blk.0.attn_q.weight_column_scale", SHOAL_TYPE_F16, dims,
                                        1, ones));
    }
    return SHOAL_OK;
}

/* An F32 file again, its matrices in another type. */
static void compress(const shoal_gguf *full, const additions *more, shoal_buf *ret_file)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    uint8_t *blocks[64] = {NULL};
    size_t n = shoal_gguf_n_tensors(full);
    assert_true(n <= SHOAL_COUNT(blocks));
    assert_int_equal(shoal_gguf_writer_new(&w), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(full); i++) {
        shoal_str key = shoal_gguf_key_at(full, i);
        assert_int_equal(shoal_gguf_put_raw(w, key, shoal_gguf_raw_at(full, i)), SHOAL_OK);
    }
    for (size_t i = 0; i < n; i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(full, i);
        shoal_type type = t->n_dims == 1 ? SHOAL_TYPE_F32 : more->type;
        size_t n_elements = (size_t)(t->size_bytes / sizeof(float));
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        blocks[i] = shoal_calloc(n_elements, sizeof(float));
        assert_int_equal(shoal_weight_encode(type, (const float *)(const void *)t->data, n_elements,
                                             blocks[i], NULL),
                         SHOAL_OK);
        assert_int_equal(shoal_gguf_put_tensor(w, name, type, t->dims, t->n_dims, blocks[i]),
                         SHOAL_OK);
    }
    assert_int_equal(put_additions(w, more), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_finish(w, ret_file, NULL), SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        shoal_free(blocks[i]);
    }
}

static void open_files(small *s, const additions *more)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf full = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    memset(s, 0, sizeof *s);
    assert_int_equal(shoal_tiny_arch_gguf(variant, 3, SHOAL_TYPE_F32, &full), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)full.data, full.length, &gguf, NULL),
                     SHOAL_OK);
    compress(gguf, more, &s->file);
    assert_int_equal(shoal_gguf_open((const uint8_t *)s->file.data, s->file.length, &s->gguf, NULL),
                     SHOAL_OK);
    s->full = params_of(gguf);
    s->params = params_of(s->gguf);
    assert_int_equal(shoal_pool_new(2, &s->pool), SHOAL_OK);
}

static void open_small(small *s, shoal_type type, bool exits)
{
    shoal_err err = SHOAL_ERR_INIT;
    open_files(s, &(additions){.type = type, .exit = exits});
    if (shoal_recover_new(s->params, s->full, s->gguf, &s->recover, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void close_small(small *s)
{
    shoal_recover_free(s->recover);
    shoal_params_free(s->params);
    shoal_params_free(s->full);
    shoal_pool_free(s->pool);
    shoal_gguf_close(s->gguf);
    shoal_buf_fini(&s->file);
}

static float number(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-23F - 1.0F;
}

/* Moves every number, some beyond their range. */
static void move(shoal_params *numbers, float by, uint64_t seed)
{
    for (size_t i = 0; i < numbers->n_items; i++) {
        const shoal_param *p = &numbers->items[i];
        for (size_t k = 0; k < p->n_rows * p->n_cols; k++) {
            numbers->data[p->offset + k] += by * number(&seed);
        }
    }
}

/* --- what is trained is what is stored ----------------------------------------------------------
 */

static const shoal_type code_types[] = {SHOAL_TYPE_C2_32, SHOAL_TYPE_C3_32, SHOAL_TYPE_Q4_0,
                                        SHOAL_TYPE_Q8_0, SHOAL_TYPE_S4_32};
static const float units[] = {0.5F, 1.0F, 2.0F, 31.875F, 1.875F}; /* codes that one of u is */

static void test_codes_begin_as_they_are_stored(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(code_types); i++) {
        small s;
        open_small(&s, code_types[i], false);
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *before = params_of(s.gguf);
        shoal_recover_round(s.recover, s.pool);
        assert_memory_equal(s.params->data, before->data, before->n_floats * sizeof(float));
        close_small(&s);
    }
}

/* A pass chooses codes that are not the nearest: here the full model's numbers have moved by codes.
 * Steps of less than a quarter of a cell undo none of that. */
static void test_first_steps_leave_what_a_pass_chose(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(code_types); i++) {
        small s;
        shoal_err err = SHOAL_ERR_INIT;
        open_files(&s, &(additions){.type = code_types[i]});
        move(s.full, 0.5F, i);
        if (shoal_recover_new(s.params, s.full, s.gguf, &s.recover, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *before = params_of(s.gguf);
        shoal_params *numbers = shoal_recover_params(s.recover);
        const shoal_param *p = shoal_params_find(numbers, "blk.0.attn_q.weight");
        const shoal_param *w = shoal_params_find(s.params, "blk.0.attn_q.weight");
        for (int way = -1; way <= 1; way += 2) {
            for (size_t k = 0; k < p->n_rows * p->n_cols; k++) {
                numbers->data[p->offset + k] += (float)way * 0.24F / units[i];
            }
            shoal_recover_round(s.recover, s.pool);
            assert_memory_equal(s.params->data + w->offset, before->data + w->offset,
                                w->n_rows * w->n_cols * sizeof(float));
            for (size_t k = 0; k < p->n_rows * p->n_cols; k++) {
                numbers->data[p->offset + k] -= (float)way * 0.24F / units[i];
            }
        }
        close_small(&s);
    }
}

/* A model that is loaded from the file has the bits that the last pass was made with. */
static void assert_stored(small *s)
{
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_recover_round(s->recover, s->pool);
    if (shoal_recover_write(s->recover, path, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *stored = params_of(gguf);
    assert_int_equal(shoal_gguf_n_tensors(gguf), shoal_gguf_n_tensors(s->gguf));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        assert_int_equal(shoal_gguf_tensor_at(gguf, i)->type,
                         shoal_gguf_tensor_at(s->gguf, i)->type);
    }
    assert_int_equal(stored->n_floats, s->params->n_floats);
    assert_memory_equal(stored->data, s->params->data, stored->n_floats * sizeof(float));
}

static void test_what_is_trained_is_what_is_stored(void **state)
{
    (void)state;
    static const shoal_type types[] = {SHOAL_TYPE_C2_32, SHOAL_TYPE_C3_32, SHOAL_TYPE_Q4_0,
                                       SHOAL_TYPE_Q8_0,  SHOAL_TYPE_S4_32, SHOAL_TYPE_F32,
                                       SHOAL_TYPE_F16,   SHOAL_TYPE_Q5_0,  SHOAL_TYPE_IQ4_NL};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        small s;
        open_small(&s, types[i], i % 2 == 0);
        move(shoal_recover_params(s.recover), 1.0F, i);
        assert_stored(&s);
        move(shoal_recover_params(s.recover), 30.0F, i); /* to the edges of ranges */
        assert_stored(&s);
        close_small(&s);
    }
}

static void test_exits_are_written_and_thresholds_left_out(void **state)
{
    (void)state;
    small s;
    open_small(&s, SHOAL_TYPE_C3_32, true);
    move(shoal_recover_params(s.recover), 1.0F, 1);
    assert_stored(&s); /* the exit's norm among all others */
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_str value;
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_get_str(gguf, "shoal.escalate.policy.fixed", &value, NULL),
                     SHOAL_E_NOTFOUND);
    assert_int_equal(s.params->n_exits, 1);
    close_small(&s);
}

/* --- gradients ----------------------------------------------------------------------------------
 */

/* sum g w of the stored values. */
static double objective(small *s, const float *g)
{
    double sum = 0;
    shoal_recover_round(s->recover, s->pool);
    for (size_t i = 0; i < s->params->n_floats; i++) {
        sum += (double)g[i] * (double)s->params->data[i];
    }
    return sum;
}

/* By finite differences; f16 and the exponential are not linear, hence the wide step. */
static void check_number(small *s, const float *g, const float *grads, size_t at, double share)
{
    float *x = shoal_recover_params(s->recover)->data + at;
    float before = *x;
    *x = before + 0.5F;
    double high = objective(s, g);
    *x = before - 0.5F;
    double low = objective(s, g);
    *x = before;
    double wants = high - low;
    if (fabs(wants - (double)grads[at]) > share * fabs(wants) + 1e-4) {
        fail_msg("number %zu: %g, by differences %g", at, (double)grads[at], wants);
    }
}

static void test_gradients_equal_differences(void **state)
{
    (void)state;
    /* Scales of codes; vectors always; matrices of F32, where nothing is rounded. */
    static const shoal_type types[] = {SHOAL_TYPE_C3_32, SHOAL_TYPE_F32};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        small s;
        open_small(&s, types[i], true);
        shoal_params *numbers = shoal_recover_params(s.recover);
        SHOAL_CLEANUP(shoal_free_cleanup) float *g = shoal_params_block(s.params);
        SHOAL_CLEANUP(shoal_free_cleanup) float *grads = shoal_params_block(numbers);
        uint64_t rng = 5;
        for (size_t j = 0; j < s.params->n_floats; j++) {
            g[j] = number(&rng);
        }
        shoal_recover_round(s.recover, s.pool);
        shoal_recover_project(s.recover, g, grads, s.pool);
        size_t n_checked = 0;
        for (size_t j = 0; j < numbers->n_items; j++) {
            const shoal_param *p = &numbers->items[j];
            bool scale = strstr(p->name, ".scale") != NULL;
            if (scale || p->n_rows == 1 || types[i] == SHOAL_TYPE_F32) {
                check_number(&s, g, grads, p->offset, scale ? 0.02 : 1e-3);
                check_number(&s, g, grads, p->offset + p->n_rows * p->n_cols - 1,
                             scale ? 0.02 : 1e-3);
                n_checked++;
            }
        }
        assert_true(n_checked > 10);
        close_small(&s);
    }
}

/* A code moves by one when its number moves by 1 / unit: over so much the straight line through the
 * steps is exact. */
static void test_straight_through_is_the_slope_over_a_code(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(code_types); i++) {
        small s;
        open_small(&s, code_types[i], false);
        shoal_params *numbers = shoal_recover_params(s.recover);
        const shoal_param *p = shoal_params_find(numbers, "blk.0.attn_q.weight");
        const shoal_param *w = shoal_params_find(s.params, "blk.0.attn_q.weight");
        SHOAL_CLEANUP(shoal_free_cleanup) float *g = shoal_params_block(s.params);
        SHOAL_CLEANUP(shoal_free_cleanup) float *grads = shoal_params_block(numbers);
        shoal_recover_round(s.recover, s.pool);
        size_t n_checked = 0;
        for (size_t at = 0; at < 64; at++) {
            float *u = numbers->data + p->offset + at;
            float before = *u;
            g[w->offset + at] = 3;
            shoal_recover_project(s.recover, g, grads, s.pool);
            float value = s.params->data[w->offset + at];
            float slope = 0;
            for (float way = -1; way <= 1 && slope == 0; way += 2) { /* one may be the last code */
                *u = before + way / units[i];
                shoal_recover_round(s.recover, s.pool);
                slope = (s.params->data[w->offset + at] - value) * 3 * units[i] * way;
            }
            assert_float_equal(grads[p->offset + at], slope, 1e-3F * fabsf(slope) + 1e-7F);
            n_checked += slope != 0; /* half, where two of four are kept */
            *u = before;
            g[w->offset + at] = 0;
            shoal_recover_round(s.recover, s.pool);
        }
        assert_true(n_checked >= 16);
        close_small(&s);
    }
}

/* --- runs ---------------------------------------------------------------------------------------
 */

typedef struct run {
    small s;
    shoal_trainer *trainer;
    toy data;
    double first_loss;
    double last_loss;
} run;

static void begin(run *r, shoal_type type, size_t n_threads, uint64_t n_steps)
{
    shoal_err err = SHOAL_ERR_INIT;
    memset(r, 0, sizeof *r);
    open_small(&r->s, type, true);
    shoal_trainer_settings settings = toy_settings();
    settings.n_threads = n_threads;
    settings.recover = r->s.recover;
    settings.distil = (shoal_distil){.alpha = 0, .temperature = 1};
    settings.optim.muon = false;
    settings.optim.adam_rate = 0.02F;
    settings.optim.n_steps = n_steps;
    settings.exit_weight[0] = 0.3F;
    if (shoal_trainer_new(r->s.params, r->s.full, &settings, &r->trainer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void steps(run *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_train_stats stats;
        if (shoal_trainer_step(r->trainer, toy_source, &r->data, &stats, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        r->first_loss = stats.step == 1 ? stats.loss : r->first_loss;
        r->last_loss = stats.loss;
    }
}

static void end(run *r)
{
    shoal_trainer_free(r->trainer);
    close_small(&r->s);
}

static void test_recovery_lessens_the_divergence(void **state)
{
    (void)state;
    static const shoal_type types[] = {SHOAL_TYPE_C2_32, SHOAL_TYPE_C3_32, SHOAL_TYPE_S4_32};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        run r;
        begin(&r, types[i], 2, 60);
        steps(&r, 60);
        if (!(r.last_loss < 0.6 * r.first_loss)) {
            fail_msg("type %d: from %g to %g", (int)types[i], r.first_loss, r.last_loss);
        }
        assert_stored(&r.s);
        end(&r);
    }
}

static void test_resumed_run_equals_the_unbroken_one(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    run whole;
    run first;
    run second;
    begin(&whole, SHOAL_TYPE_C3_32, 1, 10);
    steps(&whole, 10);
    begin(&first, SHOAL_TYPE_C3_32, 1, 10);
    steps(&first, 5);
    assert_int_equal(shoal_trainer_save(first.trainer, path, &err), SHOAL_OK);
    end(&first);
    begin(&second, SHOAL_TYPE_C3_32, 2, 10);
    if (shoal_trainer_load(second.trainer, path, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    steps(&second, 5);
    assert_true(whole.last_loss == second.last_loss);
    assert_stored(&whole.s);
    assert_stored(&second.s);
    assert_memory_equal(whole.s.params->data, second.s.params->data,
                        whole.s.params->n_floats * sizeof(float));
    end(&second);
    end(&whole);
    /* Another compressed model is another run. */
    begin(&first, SHOAL_TYPE_C3_32, 1, 10);
    assert_int_equal(shoal_trainer_save(first.trainer, path, &err), SHOAL_OK);
    end(&first);
    begin(&second, SHOAL_TYPE_C2_32, 1, 10);
    assert_int_equal(shoal_trainer_load(second.trainer, path, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "recovery from"));
    end(&second);
}

/* --- refusals -----------------------------------------------------------------------------------
 */

static void test_sides_and_strangers_are_refused(void **state)
{
    (void)state;
    small s;
    open_small(&s, SHOAL_TYPE_C3_32, false);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_recover *recover = NULL;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *other = toy_params(2, one_exit, 1, 3);
    assert_int_equal(shoal_recover_new(s.params, other, s.gguf, &recover, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "was made from"));
    assert_int_equal(shoal_recover_new(other, s.full, s.gguf, &recover, &err), SHOAL_E_UNSUPPORTED);
    close_small(&s);
    shoal_err_clear(&err);
    open_files(&s, &(additions){.type = SHOAL_TYPE_C3_32, .column_scale = true});
    assert_int_equal(shoal_recover_new(s.params, s.full, s.gguf, &recover, &err),
                     SHOAL_E_UNSUPPORTED);
    if (!strstr(err.text, "blk.0.attn_q.weight: has low rank")) {
        fail_msg("%s", err.text);
    }
    assert_null(recover);
    close_small(&s);
}

static void test_new_failing_allocations(void **state)
{
    (void)state;
    small s;
    open_small(&s, SHOAL_TYPE_S4_32, true);
    shoal_status status = SHOAL_E_NOMEM;
    for (uint64_t n = 0; status != SHOAL_OK; n++) {
        shoal_recover *recover = NULL;
        shoal_mem_fail_at(n);
        status = shoal_recover_new(s.params, s.full, s.gguf, &recover, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK ? recover != NULL : status == SHOAL_E_NOMEM);
        shoal_recover_free(recover);
    }
    close_small(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes_begin_as_they_are_stored),
        cmocka_unit_test(test_first_steps_leave_what_a_pass_chose),
        cmocka_unit_test(test_what_is_trained_is_what_is_stored),
        cmocka_unit_test(test_exits_are_written_and_thresholds_left_out),
        cmocka_unit_test(test_gradients_equal_differences),
        cmocka_unit_test(test_straight_through_is_the_slope_over_a_code),
        cmocka_unit_test(test_recovery_lessens_the_divergence),
        cmocka_unit_test(test_resumed_run_equals_the_unbroken_one),
        cmocka_unit_test(test_sides_and_strangers_are_refused),
        cmocka_unit_test(test_new_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
