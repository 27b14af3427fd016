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
#include <string.h>

/* The numbers of a variant. */
static shoal_hparams hparams_of(const char *variant)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_err err = {0};
    assert_int_equal(shoal_tiny_arch_gguf(variant, 3, SHOAL_TYPE_F32, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, &err),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, &err), SHOAL_OK);
    return model->hp;
}

static void test_new_table_is_packed_and_aligned(void **state)
{
    (void)state;
    for (size_t i = 0; i < shoal_tiny_archs_n; i++) {
        shoal_hparams hp = hparams_of(shoal_tiny_archs[i]);
        if (hp.mla.rank > 0) {
            continue;
        }
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

static void test_new_latent_attention_is_refused_by_name(void **state)
{
    (void)state;
    shoal_hparams hp = hparams_of("deepseek2");
    shoal_params *p = NULL;
    shoal_err err = {0};
    assert_int_equal(shoal_params_new(&hp, NULL, 0, &p, &err), SHOAL_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "deepseek2"));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_table_is_packed_and_aligned),
        cmocka_unit_test(test_new_latent_attention_is_refused_by_name),
        cmocka_unit_test(test_new_exits_at_limits),
        cmocka_unit_test(test_start_is_normal_and_a_function_of_the_seed),
        cmocka_unit_test(test_new_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
