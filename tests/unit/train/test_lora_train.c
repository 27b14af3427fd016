/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    RANK = 3
};

static shoal_lora_train *must_make(shoal_params *params, float alpha)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_lora_train *lora = NULL;
    if (shoal_lora_train_new(params, RANK, alpha, 4, &lora, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return lora;
}

static float number(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-23F - 1.0F;
}

static void randomise(shoal_params *factors, uint64_t seed)
{
    for (size_t i = 0; i < factors->n_items; i++) {
        const shoal_param *p = &factors->items[i];
        for (size_t k = 0; k < p->n_rows * p->n_cols; k++) {
            factors->data[p->offset + k] = number(&seed);
        }
    }
}

static void test_model_begins_as_it_was(void **state)
{
    (void)state;
    shoal_params *params = toy_params(2, NULL, 0, 1);
    shoal_params *before = toy_params(2, NULL, 0, 1);
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    shoal_lora_train *lora = must_make(params, 6);
    shoal_lora_train_merge(lora, pool);
    assert_memory_equal(params->data, before->data, params->n_floats * sizeof(float));
    /* Seven matrices a layer have factors, and they alone want gradients. */
    assert_int_equal(shoal_lora_train_params(lora)->n_items, 2 * 2 * 7);
    for (size_t i = 0; i < params->n_items; i++) {
        assert_true(params->items[i].frozen == (params->items[i].kind != SHOAL_PARAM_MATRIX));
    }
    shoal_lora_train_free(lora);
    shoal_pool_free(pool);
    shoal_params_free(params);
    shoal_params_free(before);
}

static void test_sum_is_base_plus_scaled_product(void **state)
{
    (void)state;
    shoal_params *params = toy_params(1, NULL, 0, 1);
    shoal_params *before = toy_params(1, NULL, 0, 1);
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    shoal_lora_train *lora = must_make(params, 6); /* scale 2 */
    shoal_params *f = shoal_lora_train_params(lora);
    randomise(f, 9);
    shoal_lora_train_merge(lora, pool);
    shoal_lora_train_merge(lora, pool); /* and does not add up */
    for (size_t i = 0; i < f->n_items; i += 2) {
        const shoal_param *a = &f->items[i];
        const shoal_param *b = &f->items[i + 1];
        char name[SHOAL_TRAIN_NAME_MAX];
        (void)snprintf(name, sizeof name, "%.*s", (int)(strlen(a->name) - strlen(".lora_a")),
                       a->name);
        const shoal_param *w = shoal_params_find(params, name);
        assert_non_null(w);
        for (size_t k = 0; k < w->n_rows * w->n_cols; k++) {
            double want = (double)before->data[w->offset + k];
            for (size_t r = 0; r < RANK; r++) {
                want += 2 * (double)f->data[b->offset + k / w->n_cols * RANK + r] *
                        (double)f->data[a->offset + r * w->n_cols + k % w->n_cols];
            }
            assert_true(fabs(want - (double)params->data[w->offset + k]) < 1e-5);
        }
    }
    shoal_lora_train_free(lora);
    shoal_pool_free(pool);
    shoal_params_free(params);
    shoal_params_free(before);
}

/* Of the linear function sum(G * W), whose gradient by W is G. */
static void test_projected_gradient_equals_finite_differences(void **state)
{
    (void)state;
    shoal_params *params = toy_params(1, NULL, 0, 1);
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    shoal_lora_train *lora = must_make(params, 1.5F);
    shoal_params *f = shoal_lora_train_params(lora);
    float *g = shoal_params_block(params);
    float *got = shoal_params_block(f);
    assert_true(g && got);
    randomise(f, 5);
    uint64_t rng = 6;
    for (size_t i = 0; i < params->n_floats; i++) {
        g[i] = number(&rng);
    }
    shoal_lora_train_project(lora, g, got, pool);
    for (size_t i = 0; i < f->n_items; i++) {
        const shoal_param *p = &f->items[i];
        for (size_t k = 0; k < p->n_rows * p->n_cols; k += 5) {
            double value[2];
            float *x = &f->data[p->offset + k];
            float kept = *x;
            for (int side = 0; side < 2; side++) {
                *x = kept + (side ? 0.5F : -0.5F);
                shoal_lora_train_merge(lora, pool);
                value[side] = 0;
                for (size_t j = 0; j < params->n_floats; j++) {
                    value[side] += (double)g[j] * (double)params->data[j];
                }
            }
            *x = kept;
            double want = value[1] - value[0];
            double have = (double)got[p->offset + k];
            if (fabs(want - have) > 2e-4 * fmax(1, fabs(want))) {
                fail_msg("%s[%zu]: %g, not %g", p->name, k, have, want);
            }
        }
    }
    shoal_free(g);
    shoal_free(got);
    shoal_lora_train_free(lora);
    shoal_pool_free(pool);
    shoal_params_free(params);
}

static void train(shoal_params *params, shoal_lora_train *lora, toy *data, size_t n,
                  double *ret_first, double *ret_last)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_trainer_settings s = toy_settings();
    SHOAL_CLEANUP(shoal_trainer_freep) shoal_trainer *trainer = NULL;
    s.lora = lora;
    s.optim.n_steps = n;
    s.optim.adam_rate = 0.02F;
    assert_int_equal(shoal_trainer_new(params, NULL, &s, &trainer, &err), SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        shoal_train_stats stats;
        if (shoal_trainer_step(trainer, toy_source, data, &stats, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        *ret_first = i == 0 ? stats.loss : *ret_first;
        *ret_last = stats.loss;
    }
}

/* A model of one walk is taught another, its own numbers untouched. */
static void test_adapter_learns_what_its_base_does_not_know(void **state)
{
    (void)state;
    static toy data;
    double first = 0;
    double last = 0;
    shoal_params *params = toy_params(2, NULL, 0, 1);
    float *before = shoal_params_block(params);
    assert_non_null(before);
    data = (toy){.factor = 5};
    train(params, NULL, &data, 100, &first, &last);
    assert_true(last < 0.3);
    memcpy(before, params->data, params->n_floats * sizeof(float));
    shoal_lora_train *lora = must_make(params, 6);
    data = (toy){.factor = 3};
    train(params, lora, &data, 200, &first, &last);
    print_message("loss %.3f to %.3f with rank %d\n", first, last, RANK);
    assert_true(last < 0.2 * first);
    for (size_t i = 0; i < params->n_items; i++) {
        const shoal_param *p = &params->items[i];
        int same = memcmp(params->data + p->offset, before + p->offset,
                          p->n_rows * p->n_cols * sizeof(float)) == 0;
        assert_int_equal(same, p->kind != SHOAL_PARAM_MATRIX);
    }
    shoal_free(before);
    shoal_lora_train_free(lora);
    shoal_params_free(params);
}

static void test_written_adapter_is_read_as_one(void **state)
{
    (void)state;
    char path[] = "/tmp/shoal-lora-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    shoal_err err = SHOAL_ERR_INIT;
    shoal_params *params = toy_params(2, NULL, 0, 1);
    shoal_lora_train *lora = must_make(params, 6);
    shoal_params *f = shoal_lora_train_params(lora);
    randomise(f, 11);
    if (shoal_lora_train_write(lora, path, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    shoal_map map;
    shoal_gguf *gguf = NULL;
    shoal_lora_file file = {0};
    assert_int_equal(shoal_map_open(path, &map, &err), SHOAL_OK);
    assert_int_equal(shoal_gguf_open(map.data, map.size, &gguf, &err), SHOAL_OK);
    if (shoal_lora_file_read(gguf, "llama", 1, &file, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(file.n_pairs, 14);
    for (size_t i = 0; i < file.n_pairs; i++) {
        char name[SHOAL_GGUF_NAME_MAX + 8];
        assert_true(file.pairs[i].scale == 2.0F);
        (void)snprintf(name, sizeof name, "%s.lora_b", file.pairs[i].base);
        const shoal_param *b = shoal_params_find(f, name);
        assert_non_null(b);
        assert_memory_equal(file.pairs[i].b->data, f->data + b->offset,
                            b->n_rows * b->n_cols * sizeof(float));
    }
    shoal_lora_file_fini(&file);
    shoal_gguf_close(gguf);
    shoal_map_close(&map);
    (void)unlink(path);
    shoal_lora_train_free(lora);
    shoal_params_free(params);
}

static void test_ranks_and_memory_have_limits(void **state)
{
    (void)state;
    static const size_t ranks[] = {0, 1, SHOAL_LORA_RANK_MAX, SHOAL_LORA_RANK_MAX + 1};
    shoal_params *params = toy_params(1, NULL, 0, 1);
    for (size_t i = 0; i < SHOAL_COUNT(ranks); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_lora_train *lora = NULL;
        shoal_status status = shoal_lora_train_new(params, ranks[i], 1, 0, &lora, &err);
        assert_int_equal(status, i == 0 || i == 3 ? SHOAL_E_INVALID : SHOAL_OK);
        shoal_lora_train_free(lora);
    }
    shoal_lora_train *lora = NULL;
    assert_int_equal(shoal_lora_train_new(params, 1, 0, 0, &lora, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_lora_train_new(params, 1, NAN, 0, &lora, NULL), SHOAL_E_INVALID);
    for (uint64_t n = 0;; n++) {
        shoal_mem_fail_at(n);
        shoal_status status = shoal_lora_train_new(params, 2, 1, 0, &lora, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(n >= 5);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
    shoal_lora_train_free(lora);
    shoal_params_free(params);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_begins_as_it_was),
        cmocka_unit_test(test_sum_is_base_plus_scaled_product),
        cmocka_unit_test(test_projected_gradient_equals_finite_differences),
        cmocka_unit_test(test_adapter_learns_what_its_base_does_not_know),
        cmocka_unit_test(test_written_adapter_is_read_as_one),
        cmocka_unit_test(test_ranks_and_memory_have_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
