/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of parameters: names, shapes and places; the start; exits; to a file and back.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/train/params.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct source {
    shoal_buf file;
    shoal_gguf *gguf;
    shoal_model *model;
} source;

static void source_init(source *s, const char *variant, shoal_type type)
{
    memset(s, 0, sizeof *s);
    assert_int_equal(shoal_tiny_arch_gguf(variant, 3, type, &s->file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)s->file.data, s->file.length, &s->gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(s->gguf, &s->model, NULL), SHOAL_OK);
}

static void source_fini(source *s)
{
    shoal_model_free(s->model);
    shoal_gguf_close(s->gguf);
    shoal_buf_fini(&s->file);
}

/* The numbers of a variant. */
static shoal_hparams hparams_of(const char *variant)
{
    source s;
    source_init(&s, variant, SHOAL_TYPE_F32);
    shoal_hparams hp = s.model->hp;
    source_fini(&s);
    return hp;
}

static void test_new_table_is_packed_and_aligned(void **state)
{
    (void)state;
    for (size_t i = 0; i < shoal_tiny_archs_n; i++) {
        shoal_hparams hp = hparams_of(shoal_tiny_archs[i]);
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = NULL;
        assert_int_equal(shoal_params_new(&hp, NULL, 0, &p, NULL), SHOAL_OK);
        size_t end = 0;
        for (size_t j = 0; j < p->n_items; j++) {
            const shoal_param *item = &p->items[j];
            assert_int_equal(item->offset % 16, 0);
            assert_true(item->offset >= end && item->offset < end + 16);
            end = item->offset + item->n_rows * item->n_cols;
            assert_ptr_equal(shoal_params_find(p, item->name), item);
        }
        assert_true(end <= p->n_floats && p->n_floats < end + 16);
        assert_int_equal((uintptr_t)p->data % 64, 0);
        assert_null(shoal_params_find(p, "blk.0.attn_q"));
    }
}

static void test_new_exits_at_limits(void **state)
{
    (void)state;
    shoal_hparams hp = hparams_of("gemma3");
    const struct {
        size_t n;
        size_t exits[9];
        shoal_status status;
    } cases[] = {
        {1, {1}, SHOAL_OK},
        {1, {6}, SHOAL_OK},
        {6, {1, 2, 3, 4, 5, 6}, SHOAL_OK},
        {1, {0}, SHOAL_E_INVALID},
        {1, {7}, SHOAL_E_INVALID},
        {2, {3, 3}, SHOAL_E_INVALID},
        {2, {3, 2}, SHOAL_E_INVALID},
        {9, {1, 2, 3, 4, 5, 6, 7, 8, 9}, SHOAL_E_LIMIT},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = NULL;
        assert_int_equal(shoal_params_new(&hp, cases[i].exits, cases[i].n, &p, NULL),
                         cases[i].status);
        if (p) {
            assert_int_equal(p->n_exits, cases[i].n);
            assert_non_null(shoal_params_find(p, "output_norm.weight"));
        }
    }
}

static void test_start_is_normal_and_a_function_of_the_seed(void **state)
{
    (void)state;
    shoal_hparams hp = hparams_of("mistral");
    size_t exit = 1;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *a = NULL;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *b = NULL;
    assert_int_equal(shoal_params_new(&hp, &exit, 1, &a, NULL), SHOAL_OK);
    assert_int_equal(shoal_params_new(&hp, &exit, 1, &b, NULL), SHOAL_OK);
    shoal_params_start(a, 7);
    shoal_params_start(b, 7);
    assert_memory_equal(a->data, b->data, a->n_floats * sizeof *a->data);
    shoal_params_start(b, 8);
    assert_memory_not_equal(a->data, b->data, a->n_floats * sizeof *a->data);
    for (size_t i = 0; i < a->n_items; i++) {
        const shoal_param *item = &a->items[i];
        size_t n = item->n_rows * item->n_cols;
        double sum = 0;
        double squares = 0;
        for (size_t j = 0; j < n; j++) {
            double x = (double)a->data[item->offset + j];
            sum += x;
            squares += x * x;
        }
        if (item->kind == SHOAL_PARAM_VECTOR) {
            assert_true(sum == (double)n && squares == (double)n);
            continue;
        }
        bool into = strstr(item->name, "attn_output") || strstr(item->name, "ffn_down");
        double deviation = 0.02 / (into ? 2.0 : 1.0); /* sqrt(2 * 2 layers) */
        assert_true(fabs(sqrt(squares / (double)n) / deviation - 1) < 4 / sqrt(2.0 * (double)n));
        assert_true(fabs(sum / (double)n) < 4 * deviation / sqrt((double)n));
    }
}

static void test_new_failing_allocations(void **state)
{
    (void)state;
    shoal_hparams hp = hparams_of("gemma3");
    for (uint64_t n = 0;; n++) {
        shoal_params *p = NULL;
        shoal_mem_fail_at(n);
        shoal_status status = shoal_params_new(&hp, NULL, 0, &p, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(n >= 5);
            shoal_params_free(p);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

/* --- from models and to files ---------------------------------------------------------------- */

static char folder[] = "/tmp/shoal-train-params-XXXXXX";
static char path[64];

static int make_folder(void **state)
{
    (void)state;
    int n = mkdtemp(folder) ? snprintf(path, sizeof path, "%s/out.gguf", folder) : -1;
    return n > 0 ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)remove(path);
    return rmdir(folder);
}

/* Scaled rotation is not written; everything else is. */
static bool written(const char *variant)
{
    static const char *const scaled[] = {"llama-linear", "llama3",    "llama-yarn",
                                         "gemma3",       "phi3-long", "deepseek2-lite"};
    for (size_t i = 0; i < SHOAL_COUNT(scaled); i++) {
        if (strcmp(variant, scaled[i]) == 0) {
            return false;
        }
    }
    return true;
}

static shoal_params *params_of(const source *s, const size_t *exits, size_t n_exits)
{
    shoal_params *p = NULL;
    assert_int_equal(shoal_params_new(&s->model->hp, exits, n_exits, &p, NULL), SHOAL_OK);
    assert_int_equal(shoal_params_from_model(p, s->model, NULL), SHOAL_OK);
    return p;
}

/* A file of our own reads back as the model it came from: the hash is over every number and every
 * tensor, in the order of the file. */
static void test_write_reads_back(void **state)
{
    (void)state;
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        if (!written(shoal_tiny_archs[v])) {
            continue;
        }
        source s;
        shoal_err err = SHOAL_ERR_INIT;
        source_init(&s, shoal_tiny_archs[v], SHOAL_TYPE_F32);
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = params_of(&s, (size_t[]){1}, 1);
        float *norm = p->data + shoal_params_find(p, "shoal.exit.1.norm")->offset;
        norm[3] = 7;
        SHOAL_CLEANUP(shoal_model_freep) shoal_model *back = NULL;
        assert_int_equal(shoal_params_write(p, s.gguf, path, &err), SHOAL_OK);
        if (shoal_model_load(path, &back, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        shoal_hparams hp = s.model->hp;
        hp.n_exits = 1;
        hp.exits[0] = 1;
        assert_memory_equal(&back->hp, &hp, sizeof hp);
        assert_memory_equal(back->exit_norm, norm, hp.dim * sizeof *norm);
        assert_int_equal(back->n_params, s.model->n_params);
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *q = NULL;
        assert_int_equal(shoal_params_new(&back->hp, (size_t[]){1}, 1, &q, NULL), SHOAL_OK);
        assert_int_equal(shoal_params_from_model(q, back, NULL), SHOAL_OK);
        assert_false(q->rope_scaled);
        assert_memory_equal(q->data, p->data, p->n_floats * sizeof *p->data);
        source_fini(&s);
    }
}

static void test_write_scaled_rotation_is_refused(void **state)
{
    (void)state;
    source s;
    shoal_err err = SHOAL_ERR_INIT;
    source_init(&s, "llama-yarn", SHOAL_TYPE_F32);
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = params_of(&s, NULL, 0);
    assert_true(p->rope_scaled);
    assert_int_equal(shoal_params_write(p, s.gguf, path, &err), SHOAL_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "rope.scaling"));
    source_fini(&s);
}

static void test_write_to_no_folder_names_the_path(void **state)
{
    (void)state;
    source s;
    shoal_err err = SHOAL_ERR_INIT;
    source_init(&s, "mistral", SHOAL_TYPE_F32);
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = params_of(&s, NULL, 0);
    assert_true(shoal_params_write(p, s.gguf, "/nonexistent/x.gguf", &err) < 0);
    assert_non_null(strstr(err.text, "/nonexistent/x.gguf"));
    source_fini(&s);
}

/* After each failure there is no file, or (when only its folder could not be synced) a whole one.
 */
static void test_write_failing_allocations(void **state)
{
    (void)state;
    source s;
    source_init(&s, "qwen3", SHOAL_TYPE_F32);
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = params_of(&s, (size_t[]){1}, 1);
    shoal_status status = SHOAL_E_NOMEM;
    uint64_t n = 0;
    for (; status != SHOAL_OK; n++) {
        (void)remove(path);
        shoal_mem_fail_at(n);
        status = shoal_params_write(p, s.gguf, path, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        if (access(path, F_OK) == 0) {
            SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
            assert_int_equal(shoal_model_load(path, &model, NULL), SHOAL_OK);
        }
    }
    assert_true(n > 10);
    source_fini(&s);
}

/* A row of a parameter equals that of the weight, whatever it is stored as. */
static void test_from_model_decodes_any_type(void **state)
{
    (void)state;
    static const shoal_type types[] = {SHOAL_TYPE_F16, SHOAL_TYPE_BF16, SHOAL_TYPE_Q8_0,
                                       SHOAL_TYPE_Q4_0};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        source s;
        source_init(&s, "qwen2", types[i]);
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = params_of(&s, NULL, 0);
        const shoal_param *item = shoal_params_find(p, "blk.1.ffn_up.weight");
        float row[64];
        for (size_t r = 0; r < item->n_rows; r++) {
            shoal_weight_row(s.model->layers[1].up, r, row);
            assert_memory_equal(p->data + item->offset + r * item->n_cols, row, sizeof row);
        }
        source_fini(&s);
    }
}

/* The lower layers of a deeper model: its exit of that depth lends its norm to the output. */
static void test_from_model_of_more_layers(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    const shoal_tiny_settings settings = {
        .seed = 5, .type = SHOAL_TYPE_F32, .n_layers = 6, .n_exits = 2, .exits = {2, 4}};
    assert_int_equal(shoal_tiny_model_build(&settings, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    size_t bytes = model->hp.dim * sizeof(float);
    for (size_t n_layers = 3; n_layers <= 6; n_layers++) {
        shoal_hparams hp = model->hp;
        hp.n_layers = n_layers;
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = NULL;
        assert_int_equal(shoal_params_new(&hp, (size_t[]){1, 2}, 2, &p, NULL), SHOAL_OK);
        assert_int_equal(shoal_params_from_model(p, model, NULL), SHOAL_OK);
        const float *norms[] = {model->exit_norm, model->exit_norm + hp.dim, model->out_norm};
        const float *of_output = n_layers == 4 ? norms[1] : norms[2];
        const float *output = p->data + shoal_params_find(p, "output_norm.weight")->offset;
        const float *exit_1 = p->data + shoal_params_find(p, "shoal.exit.1.norm")->offset;
        const float *exit_2 = p->data + shoal_params_find(p, "shoal.exit.2.norm")->offset;
        assert_memory_equal(output, of_output, bytes);
        assert_memory_equal(exit_1, norms[2], bytes); /* the model has none at that depth */
        assert_memory_equal(exit_2, norms[0], bytes);
    }
}

static void test_from_model_other_shapes_are_refused_by_name(void **state)
{
    (void)state;
    source s;
    source_init(&s, "mistral", SHOAL_TYPE_F32);
    const shoal_hparams hp = s.model->hp;
    static shoal_hparams wrong[5]; /* too large for the stack */
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        wrong[i] = hp;
    }
    static const char *const names[] = {"width", "vocabulary", "feed-forward", "tied", "layers"};
    wrong[0].dim = 32;
    wrong[1].n_vocab = hp.n_vocab - 1;
    wrong[2].ffn = hp.ffn + 1;
    wrong[3].tied = !hp.tied;
    wrong[4].n_layers = hp.n_layers + 1;
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = NULL;
        assert_int_equal(shoal_params_new(&wrong[i], NULL, 0, &p, NULL), SHOAL_OK);
        assert_int_equal(shoal_params_from_model(p, s.model, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, names[i]));
    }
    source other;
    shoal_err err = SHOAL_ERR_INIT;
    source_init(&other, "qwen2", SHOAL_TYPE_F32);
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *p = NULL;
    assert_int_equal(shoal_params_new(&hp, NULL, 0, &p, NULL), SHOAL_OK);
    assert_int_equal(shoal_params_from_model(p, other.model, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "qwen2"));
    source_fini(&other);
    source_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_table_is_packed_and_aligned),
        cmocka_unit_test(test_new_exits_at_limits),
        cmocka_unit_test(test_start_is_normal_and_a_function_of_the_seed),
        cmocka_unit_test(test_new_failing_allocations),
        cmocka_unit_test(test_write_reads_back),
        cmocka_unit_test(test_write_scaled_rotation_is_refused),
        cmocka_unit_test(test_write_to_no_folder_names_the_path),
        cmocka_unit_test(test_write_failing_allocations),
        cmocka_unit_test(test_from_model_decodes_any_type),
        cmocka_unit_test(test_from_model_of_more_layers),
        cmocka_unit_test(test_from_model_other_shapes_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
