/* SPDX-License-Identifier: Apache-2.0
 *
 * Structured pruning of every architecture: what is left answers as the same model with the weights
 * of what is gone set to 0.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/compress_structure.h"
#include "cloud/forge/windows.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "tests/support/random.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TOKENS = 48,
    TEXT = 300
};

static char folder[64];
static char model_path[96];
static char text_path[96];
static char moments_path[96];

static void must(shoal_status status, const shoal_err *err)
{
    if (status != SHOAL_OK) {
        fail_msg("status %d: %s", status, err->text);
    }
}

static int make_folder(void **state)
{
    (void)state;
    char text[TEXT + 1];
    uint64_t rng = 5;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-structure-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(model_path, sizeof model_path, "%s/model.gguf", folder);
    (void)snprintf(text_path, sizeof text_path, "%s/text", folder);
    (void)snprintf(moments_path, sizeof moments_path, "%s/moments", folder);
    for (size_t i = 0; i < TEXT; i++) {
        text[i] = (char)('a' + shoal_rng_next(&rng) % 26);
    }
    return shoal_file_write(text_path, text, TEXT, NULL) == SHOAL_OK ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(model_path);
    (void)unlink(text_path);
    (void)unlink(moments_path);
    return rmdir(folder);
}

/* --- a run ------------------------------------------------------------------------------------ */

typedef struct fixture {
    shoal_buf file;
    shoal_gguf *gguf; /* of file; the run has its own */
    shoal_model *model;
    forge_args args;
    compress_run run;
} fixture;

static void fixture_fini(fixture *f)
{
    shoal_moments_free(f->run.moments);
    shoal_gguf_close(f->run.gguf);
    shoal_forge_structure_free(f->run.structure);
    shoal_forge_recipe_free(f->run.recipe);
    shoal_pool_free(f->run.pool);
    shoal_model_free(f->model);
    shoal_gguf_close(f->gguf);
    shoal_buf_fini(&f->file);
}

static void fixture_init(fixture *f, const char *arch, shoal_type type)
{
    shoal_err err = SHOAL_ERR_INIT;
    memset(f, 0, sizeof *f);
    must(arch ? shoal_tiny_arch_gguf(arch, 3, type, &f->file)
              : shoal_tiny_model_gguf(3, type, &f->file),
         &err);
    must(shoal_file_write(model_path, f->file.data, f->file.length, &err), &err);
    must(shoal_gguf_open((const uint8_t *)f->file.data, f->file.length, &f->gguf, &err), &err);
    must(shoal_gguf_open((const uint8_t *)f->file.data, f->file.length, &f->run.gguf, &err), &err);
    must(shoal_model_new(f->gguf, &f->model, &err), &err);
    forge_args args = shoal_forge_calibrate_weights_own.defaults;
    args.model = model_path;
    args.file = text_path;
    args.output = moments_path;
    args.json = true;
    must(shoal_forge_calibrate_weights(&args, &err), &err);
    must(shoal_moments_open(moments_path, &f->model->hash, &f->run.moments, &err), &err);
    must(shoal_pool_new(2, &f->run.pool), &err);
    f->args = shoal_forge_compress_own.defaults;
    f->args.compress.along = text_path;
    f->run.args = &f->args;
}

static shoal_status prune(fixture *f, const char *recipe, shoal_err *err)
{
    must(shoal_forge_recipe_parse("r", recipe, strlen(recipe), &f->run.recipe, err), err);
    return shoal_forge_structure_run(&f->run, f->model, err);
}

/* Logits of every position of a text; of the model that a GGUF is. */
static void logits_of(const shoal_gguf *gguf, float *ret_logits)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_forge_windows_fini) forge_windows w = {0};
    shoal_err err = SHOAL_ERR_INIT;
    int32_t ids[TOKENS];
    uint64_t rng = 8;
    for (size_t i = 0; i < TOKENS; i++) {
        ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
    }
    must(shoal_model_new(gguf, &model, &err), &err);
    must(shoal_forge_windows_init(&w, model, TOKENS, &err), &err);
    shoal_forge_windows_run(&w, ids, TOKENS);
    memcpy(ret_logits, shoal_net_logits(w.net, 0),
           (size_t)TOKENS * SHOAL_TINY_VOCAB * sizeof *ret_logits);
}

/* A matrix of the model as it lies in the file, of which f->gguf is a view. */
static float *matrix_of(const fixture *f, const char *name, size_t *ret_k)
{
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(f->gguf, name);
    assert_non_null(t);
    assert_int_equal(t->type, SHOAL_TYPE_F32);
    *ret_k = (size_t)t->dims[0];
    return (float *)(void *)(f->file.data + ((const char *)t->data - f->file.data));
}

/* --- the model with zeros --------------------------------------------------------------------- */

/* Columns of a matrix that reads units: those of the refit where there is one, zeros where gone. */
static void write_columns(const fixture *f, size_t layer, const char *suffix, const float *fitted,
                          const bool *gone, size_t width)
{
    char name[64];
    size_t k = 0;
    (void)snprintf(name, sizeof name, "blk.%zu.%s", layer, suffix);
    float *w = matrix_of(f, name, &k);
    for (size_t i = 0; i < k * f->model->hp.dim; i++) {
        w[i] = gone[i % k / width] ? 0 : fitted ? fitted[i] : w[i];
    }
}

/* So that not what is small goes, but what is not used. */
static void enlarge_rows(const fixture *f, size_t layer, const char *suffix, const bool *which)
{
    char name[64];
    (void)snprintf(name, sizeof name, "blk.%zu.%s", layer, suffix);
    size_t k = 0;
    float *w = matrix_of(f, name, &k);
    for (size_t i = 0; i < k * f->model->hp.ffn; i++) {
        w[i] *= which[i / k] ? 8 : 1;
    }
}

static void expect_same_answers(fixture *f)
{
    static float left[TOKENS * SHOAL_TINY_VOCAB];
    static float zeroed[TOKENS * SHOAL_TINY_VOCAB];
    const compress_structure *s = f->run.structure;
    for (size_t i = 0; i < s->hp.n_layers; i++) {
        const compress_structure_layer *l = &s->layers[i];
        write_columns(f, i, "ffn_down.weight", l->down, l->neurons, 1);
        write_columns(f, i, "attn_output.weight", l->output, l->queries, s->hp.value_dim);
    }
    logits_of(f->run.gguf, left);
    logits_of(f->gguf, zeroed);
    for (size_t i = 0; i < SHOAL_COUNT(left); i++) {
        assert_true(fabsf(left[i] - zeroed[i]) <= 2e-4F * (1 + fabsf(zeroed[i])));
    }
}

static size_t count_of(const bool *gone, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += gone[i];
    }
    return sum;
}

/* Moments fit what is left, so that a rule can take every matrix. */
static void expect_moments_fit(const fixture *f)
{
    for (size_t i = 0; i < shoal_moments_n_layers(f->run.moments); i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(f->run.moments, i);
        const shoal_gguf_tensor *t = shoal_gguf_find_tensor(f->run.gguf, l->name);
        if (t) { /* those of fused tensors have names of their own */
            assert_int_equal(shoal_moments_input_at(f->run.moments, l->input).k, t->dims[0]);
            assert_true(l->row + l->n_rows <= t->dims[1]);
        }
    }
}

static void expect_left(const fixture *f)
{
    const compress_structure *s = f->run.structure;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_model_new(f->run.gguf, &model, &err), &err);
    const shoal_hparams hp = model->hp;
    assert_memory_equal(&model->hash, &s->hash, sizeof s->hash);
    assert_int_equal(hp.ffn, s->ffn);
    assert_int_equal(hp.n_heads, s->n_heads);
    assert_int_equal(hp.n_kv_heads, s->n_kv_heads);
    assert_int_equal(hp.head_dim, s->hp.head_dim);
    assert_int_equal(hp.value_dim, s->hp.value_dim);
    assert_true(fabsf(hp.attn_scale - s->hp.attn_scale) <= 0);
    for (size_t i = 0; i < hp.n_layers; i++) {
        assert_int_equal(count_of(s->layers[i].neurons, s->hp.ffn), s->hp.ffn - hp.ffn);
        assert_int_equal(count_of(s->layers[i].queries, s->hp.n_heads), s->hp.n_heads - hp.n_heads);
    }
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_what_is_left_answers_as_with_zeros(void **state)
{
    (void)state;
    static const char *const kinds[] = {
        "structure: {neurons: 0.3, groups: 0.5, refit: false}\n",
        "structure: {neurons: 0.3, queries: 0.5, refit: false, by: gradient}\n",
        "structure: {neurons: 0.5, groups: 0.5, multiple: 1}\n",
        "structure: {neurons: 0.7, queries: 0.5, by: gradient}\n",
        "structure: {groups: 0.5}\n",
    };
    size_t n_run = 0;
    for (size_t a = 0; a < shoal_tiny_archs_n; a++) {
        for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
            SHOAL_CLEANUP(fixture_fini) fixture f;
            shoal_err err = SHOAL_ERR_INIT;
            fixture_init(&f, shoal_tiny_archs[a], SHOAL_TYPE_F32);
            const shoal_hparams *hp = &f.model->hp;
            size_t n_readers = hp->n_heads / hp->n_kv_heads;
            bool other = hp->moe.n_experts > 0 || hp->mla.rank > 0;
            bool none = k % 2 == 0 ? hp->n_kv_heads == 1 : n_readers == 1;
            shoal_status status = prune(&f, kinds[k], &err);
            if (other || none) {
                bool dense_heads = hp->moe.n_experts > 0 && hp->mla.rank == 0 && k == 4 && !none;
                shoal_status want = other ? SHOAL_E_UNSUPPORTED : SHOAL_E_INVALID;
                assert_int_equal(status, dense_heads ? SHOAL_OK : want);
                continue;
            }
            must(status, &err);
            expect_left(&f);
            expect_moments_fit(&f);
            expect_same_answers(&f);
            n_run++;
        }
    }
    print_message("%zu models\n", n_run);
    assert_true(n_run >= 30);
}

/* Of quantised matrices rows stay what they were; columns are whole blocks, or it is said. */
static void test_quantised_matrices_keep_their_type(void **state)
{
    (void)state;
    SHOAL_CLEANUP(fixture_fini) fixture f;
    shoal_err err = SHOAL_ERR_INIT;
    fixture_init(&f, NULL, SHOAL_TYPE_Q8_0);
    must(prune(&f, "structure: {neurons: 0.25, queries: 0.5, refit: false}\n", &err), &err);
    expect_left(&f);
    const compress_structure *s = f.run.structure;
    assert_int_equal(s->ffn, 96);
    const shoal_gguf_tensor *from = shoal_gguf_find_tensor(f.gguf, "blk.1.ffn_up.weight");
    const shoal_gguf_tensor *to = shoal_gguf_find_tensor(f.run.gguf, "blk.1.ffn_up.weight");
    size_t row_bytes = (size_t)(to->size_bytes / to->dims[1]);
    size_t row = 0;
    for (size_t i = 0; i < s->hp.ffn; i++) {
        if (!s->layers[1].neurons[i]) {
            assert_memory_equal(to->data + row++ * row_bytes, from->data + i * row_bytes,
                                row_bytes);
        }
    }
    assert_int_equal(row, 96);
    assert_int_equal(shoal_gguf_find_tensor(f.run.gguf, "blk.1.ffn_down.weight")->type,
                     SHOAL_TYPE_Q8_0);
    SHOAL_CLEANUP(fixture_fini) fixture odd;
    fixture_init(&odd, NULL, SHOAL_TYPE_Q8_0);
    assert_int_equal(prune(&odd, "structure: {neurons: 0.3, multiple: 1}\n", &err),
                     SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "structure.multiple"));
    assert_non_null(strstr(err.text, "ffn_down"));
}

/* A neuron whose columns of down are 0 has no gradient and no output: all ways take it first. */
static void test_neurons_that_nothing_reads_go_first(void **state)
{
    (void)state;
    static const char *const kinds[] = {
        "structure: {neurons: 0.25, refit: false}\n",
        "structure: {neurons: 0.25}\n",
        "structure: {neurons: 0.25, by: gradient, refit: false}\n",
    };
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        SHOAL_CLEANUP(fixture_fini) fixture f;
        shoal_err err = SHOAL_ERR_INIT;
        bool unused[SHOAL_TINY_FFN] = {false};
        uint64_t rng = 77;
        for (size_t n = 0; n < SHOAL_TINY_FFN / 4;) {
            size_t i = shoal_rng_next(&rng) % SHOAL_TINY_FFN;
            n += !unused[i];
            unused[i] = true;
        }
        fixture_init(&f, NULL, SHOAL_TYPE_F32);
        for (size_t layer = 0; layer < SHOAL_TINY_LAYERS; layer++) {
            write_columns(&f, layer, "ffn_down.weight", NULL, unused, 1);
            enlarge_rows(&f, layer, "ffn_up.weight", unused);
        }
        shoal_model_free(f.model); /* it has read the weights of before */
        f.model = NULL;
        must(shoal_model_new(f.gguf, &f.model, &err), &err);
        must(prune(&f, kinds[k], &err), &err);
        for (size_t layer = 0; layer < SHOAL_TINY_LAYERS; layer++) {
            assert_memory_equal(f.run.structure->layers[layer].neurons, unused, sizeof unused);
            assert_true(f.run.structure->layers[layer].ffn_error < 1e-9);
        }
    }
}

/* -log p of the text's tokens, each after those of its window of 256 before it. */
static double loss_of(const fixture *f)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_forge_windows_fini) forge_windows w = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    const shoal_encode_flags flags = {.add_bos = true};
    shoal_err err = SHOAL_ERR_INIT;
    size_t n = 0;
    double sum = 0;
    must(shoal_model_new(f->gguf, &model, &err), &err);
    must(shoal_file_read(text_path, SIZE_MAX, &text, &err), &err);
    must(shoal_tokenizer_encode(model->tokenizer, text.data, text.length, flags, &ids, &n, &err),
         &err);
    must(shoal_forge_windows_init(&w, model, 256, &err), &err);
    assert_true(n > 270);
    for (size_t at = 0; at < n; at += 256) {
        size_t n_here = SHOAL_MIN(n - at, (size_t)256);
        shoal_forge_windows_run(&w, ids + at, n_here);
        const float *logits = shoal_net_logits(w.net, 0);
        for (size_t i = 0; i < n_here && at + i + 1 < n; i++) {
            double total = 0;
            for (size_t j = 0; j < SHOAL_TINY_VOCAB; j++) {
                total += exp((double)logits[i * SHOAL_TINY_VOCAB + j]);
            }
            sum += log(total) - (double)logits[i * SHOAL_TINY_VOCAB + (size_t)ids[at + i + 1]];
        }
    }
    return sum;
}

/* A neuron of three weights: its importance is the sum of what small changes of each do to the
 * loss, as differences say it. */
static void test_importance_is_what_the_loss_hangs_on(void **state)
{
    (void)state;
    enum {
        NEURON = 37
    };
    const double step = 0.02;
    SHOAL_CLEANUP(fixture_fini) fixture f;
    shoal_err err = SHOAL_ERR_INIT;
    size_t dim = 0;
    size_t ffn = 0;
    fixture_init(&f, NULL, SHOAL_TYPE_F32);
    float *gate = matrix_of(&f, "blk.1.ffn_gate.weight", &dim);
    float *up = matrix_of(&f, "blk.1.ffn_up.weight", &dim);
    float *down = matrix_of(&f, "blk.1.ffn_down.weight", &ffn);
    for (size_t i = 0; i < dim; i++) {
        gate[NEURON * dim + i] = i == 5 ? 1.5F : 0;
        up[NEURON * dim + i] = i == 9 ? 1.5F : 0;
        down[i * ffn + NEURON] = i == 21 ? 1.5F : 0;
    }
    float *const weights[] = {gate + NEURON * dim + 5, up + NEURON * dim + 9,
                              down + (size_t)21 * ffn + NEURON};
    double want = 0;
    for (size_t i = 0; i < SHOAL_COUNT(weights); i++) {
        float was = *weights[i];
        *weights[i] = was * (float)(1 + step);
        double more = loss_of(&f);
        *weights[i] = was * (float)(1 - step);
        double less = loss_of(&f);
        *weights[i] = was;
        want += fabs(more - less) / (2 * step);
    }
    SHOAL_CLEANUP(shoal_free_cleanup)
    double *importance = shoal_calloc(SHOAL_TINY_LAYERS * shoal_forge_structure_units(&f.model->hp),
                                      sizeof *importance);
    shoal_model_free(f.model);
    f.model = NULL;
    must(shoal_model_new(f.gguf, &f.model, &err), &err);
    must(shoal_forge_structure_gradient(&f.args, f.model, importance, &err), &err);
    double got = importance[shoal_forge_structure_units(&f.model->hp) + NEURON];
    print_message("by differences %.4f, by gradients %.4f\n", want, got);
    assert_true(want > 0.5 && fabs(got - want) < 0.02 * want);
}

static void test_shares_of_none_or_all_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *recipe;
        const char *words;
        size_t ffn;
    } rows[] = {
        {"structure: {neurons: 0.124}\n", "structure.neurons", 0},
        {"structure: {neurons: 0.126}\n", "", 96},
        {"structure: {neurons: 0.95}\n", "", 32},
        {"structure: {neurons: 0.003, multiple: 1}\n", "structure.neurons", 0},
        {"structure: {neurons: 0.005, multiple: 1}\n", "", 127},
        {"structure: {groups: 0.2}\n", "structure.groups", 0},
        {"structure: {queries: 0.2}\n", "structure.queries", 0},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(fixture_fini) fixture f;
        shoal_err err = SHOAL_ERR_INIT;
        fixture_init(&f, NULL, SHOAL_TYPE_F32);
        shoal_status status = prune(&f, rows[i].recipe, &err);
        assert_int_equal(status, rows[i].ffn ? SHOAL_OK : SHOAL_E_INVALID);
        assert_true(rows[i].ffn || strstr(err.text, rows[i].words) != NULL);
        assert_true(!rows[i].ffn || f.run.structure->ffn == rows[i].ffn);
    }
}

static void test_memory_that_fails_is_told(void **state)
{
    (void)state;
    size_t n_failed = 0;
    for (uint64_t at = 0;; at += 1 + at / 8) {
        SHOAL_CLEANUP(fixture_fini) fixture f;
        shoal_err err = SHOAL_ERR_INIT;
        static const char recipe[] = "structure: {neurons: 0.25, groups: 0.5, by: gradient}\n";
        fixture_init(&f, NULL, SHOAL_TYPE_F32);
        must(shoal_forge_recipe_parse("r", recipe, strlen(recipe), &f.run.recipe, &err), &err);
        shoal_mem_fail_at(at);
        shoal_status status = shoal_forge_structure_run(&f.run, f.model, &err);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        n_failed++;
    }
    assert_true(n_failed >= 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_left_answers_as_with_zeros),
        cmocka_unit_test(test_quantised_matrices_keep_their_type),
        cmocka_unit_test(test_neurons_that_nothing_reads_go_first),
        cmocka_unit_test(test_importance_is_what_the_loss_hangs_on),
        cmocka_unit_test(test_shares_of_none_or_all_are_refused),
        cmocka_unit_test(test_memory_that_fails_is_told),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
