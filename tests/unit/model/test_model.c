/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/model/model.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <string.h>

static shoal_buf file;

static int setup(void **state)
{
    (void)state;
    shoal_buf_reset(&file);
    return shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &file) == SHOAL_OK ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_buf_fini(&file);
    return 0;
}

static shoal_status load(shoal_model **ret_model, shoal_err *err)
{
    shoal_gguf *gguf = NULL;
    shoal_status status = shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, err);
    if (status == SHOAL_OK) {
        status = shoal_model_new(gguf, ret_model, err);
        shoal_gguf_close(gguf);
    }
    return status;
}

/* The bytes of the u32 or f32 value of a key, in the file. */
static char *value_of(const char *key)
{
    size_t n = strlen(key);
    for (size_t i = 8; i + n + 8 < file.length; i++) {
        if (memcmp(file.data + i, key, n) == 0 && (uint8_t)file.data[i - 8] == n) {
            return file.data + i + n + 4;
        }
    }
    fail_msg("%s is not in the file", key);
    return NULL;
}

static void refuse_u32(const char *key, uint32_t value)
{
    assert_int_equal(setup(NULL), 0);
    memcpy(value_of(key), &value, sizeof value);
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = load(&model, &err);
    if (status >= 0 || model) {
        fail_msg("%s = %u was accepted", key, value);
    }
    assert_true(strlen(err.text) > 10);
}

static void test_load_tiny_model_reads_every_number(void **state)
{
    (void)state;
    shoal_model *model = NULL;
    assert_int_equal(load(&model, NULL), SHOAL_OK);
    assert_int_equal(model->hp.dim, SHOAL_TINY_DIM);
    assert_int_equal(model->hp.n_layers, SHOAL_TINY_LAYERS);
    assert_int_equal(model->hp.n_heads, SHOAL_TINY_HEADS);
    assert_int_equal(model->hp.n_kv_heads, SHOAL_TINY_KV_HEADS);
    assert_int_equal(model->hp.ffn, SHOAL_TINY_FFN);
    assert_int_equal(model->hp.n_vocab, SHOAL_TINY_VOCAB);
    assert_int_equal(model->hp.n_ctx, SHOAL_TINY_CTX);
    assert_int_equal(model->main_type, SHOAL_TYPE_F32);
    assert_true(shoal_model_bytes_per_token(model) > 100000);
    shoal_model_free(model);
}

static void test_load_hostile_numbers_are_refused(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1u << 31, UINT32_MAX, 1000003};
    static const char *const keys[] = {"llama.block_count", "llama.embedding_length",
                                       "llama.attention.head_count", "llama.feed_forward_length"};
    for (size_t k = 0; k < SHOAL_COUNT(keys); k++) {
        for (size_t v = 0; v < SHOAL_COUNT(bad); v++) {
            refuse_u32(keys[k], bad[v]);
        }
    }
    refuse_u32("llama.attention.head_count_kv", 3); /* does not divide the heads */
    refuse_u32("llama.attention.head_count_kv", 0);
    refuse_u32("llama.block_count", SHOAL_TINY_LAYERS + 1);
    refuse_u32("llama.context_length", 0);
    refuse_u32("llama.rope.dimension_count", 7);
    refuse_u32("llama.rope.dimension_count", 18);
}

static void test_load_hostile_epsilon_is_refused(void **state)
{
    (void)state;
    const float bad[] = {NAN, -1.0F, INFINITY, 2.0F};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(setup(NULL), 0);
        memcpy(value_of("llama.attention.layer_norm_rms_epsilon"), &bad[i], sizeof bad[i]);
        shoal_model *model = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(load(&model, &err) < 0);
        assert_null(model);
    }
}

/* A matrix element that is not finite would make every answer silent nonsense. */
static void test_load_not_finite_weight_is_refused(void **state)
{
    (void)state;
    const float bad = NAN;
    memcpy(file.data + file.length - 512, &bad, sizeof bad);
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_true(load(&model, &err) < 0);
    assert_null(model);
}

static void test_hash_changes_with_any_weight_byte(void **state)
{
    (void)state;
    shoal_model *a = NULL;
    shoal_model *b = NULL;
    assert_int_equal(load(&a, NULL), SHOAL_OK);
    file.data[file.length - 512] ^= 1; /* the low mantissa bit of one weight */
    assert_int_equal(load(&b, NULL), SHOAL_OK);
    assert_memory_not_equal(&a->hash, &b->hash, sizeof a->hash);
    assert_memory_equal(shoal_tokenizer_hash(a->tokenizer), shoal_tokenizer_hash(b->tokenizer),
                        sizeof(shoal_hash));
    shoal_model_free(a);
    shoal_model_free(b);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        shoal_model *model = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = load(&model, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_model_free(model);
        if (status == SHOAL_OK) {
            assert_true(i > 20);
            return;
        }
        assert_true(status < 0);
    }
    fail_msg("loading takes more than 20000 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_load_tiny_model_reads_every_number, setup),
        cmocka_unit_test(test_load_hostile_numbers_are_refused),
        cmocka_unit_test(test_load_hostile_epsilon_is_refused),
        cmocka_unit_test_setup(test_load_not_finite_weight_is_refused, setup),
        cmocka_unit_test_setup(test_hash_changes_with_any_weight_byte, setup),
        cmocka_unit_test_setup(test_failing_allocations_leak_nothing, setup),
    };
    return cmocka_run_group_tests(tests, NULL, group_teardown);
}
