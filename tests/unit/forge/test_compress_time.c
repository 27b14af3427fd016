/* SPDX-License-Identifier: Apache-2.0
 *
 * What a matrix takes by a profile: by hand, for matrices, stacks of experts, embeddings and sides.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/compress.h"

#include <math.h>
#include <string.h>

enum {
    K = 256,
    ROWS = 512
};

static forge_profile_run rates;
static forge_args args = {.compress = {.profile = "box.json"}};

static int group_setup(void **state)
{
    (void)state;
    for (size_t w = 0; w < FORGE_PROFILE_WIDTHS; w++) {
        rates.rates[SHOAL_TYPE_Q4_0][w] = (shoal_rate){.fixed_us = 2, .gb_s = 10};
        rates.rates[SHOAL_TYPE_Q8_0][w] = (shoal_rate){.fixed_us = 3, .gb_s = 15};
    }
    return 0;
}

static shoal_gguf_tensor tensor_of(const char *name, uint64_t rows, uint64_t n)
{
    return (shoal_gguf_tensor){.name = {.data = name, .length = strlen(name)},
                               .type = SHOAL_TYPE_Q4_0,
                               .n_dims = 3,
                               .dims = {K, rows, n, 1}};
}

/* Nanoseconds. */
static double price(const compress_run *run, const shoal_gguf_tensor *t, shoal_type type,
                    double side_bytes, size_t width_i)
{
    double seconds = -1;
    assert_int_equal(
        shoal_forge_compress_seconds(run, &rates, t, type, side_bytes, width_i, &seconds, NULL),
        SHOAL_OK);
    return seconds * 1e9;
}

static void expect_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * want)) {
        fail_msg("%.9g, not %.9g", got, want);
    }
}

static void test_a_product_is_its_bytes_and_a_fixed_time(void **state)
{
    (void)state;
    const compress_run run = {.args = &args};
    const double q4 = K / 32.0 * 18 * ROWS;
    shoal_gguf_tensor t = tensor_of("blk.0.ffn_down.weight", ROWS, 1);
    expect_near(price(&run, &t, SHOAL_TYPE_Q4_0, 0, 0), 2000 + q4 / 10);
    expect_near(price(&run, &t, SHOAL_TYPE_Q8_0, 0, 1), 3000 + q4 / 18 * 34 / 15);
    /* factors are a product more, in 8 bits */
    expect_near(price(&run, &t, SHOAL_TYPE_Q4_0, 3400, 0), 2000 + q4 / 10 + 3000 + 3400 / 15.0);
    double before = 0;
    for (uint64_t rows = 16; rows <= 4096; rows += 16) {
        t.dims[1] = rows;
        double now = price(&run, &t, SHOAL_TYPE_Q4_0, 0, 0);
        assert_true(now > before);
        before = now;
    }
}

static void test_experts_are_read_as_they_are_visited(void **state)
{
    (void)state;
    const compress_run run = {.args = &args, .n_experts = 8, .n_used = 2};
    const shoal_gguf_tensor one = tensor_of("blk.0.ffn_down.weight", ROWS, 1);
    const shoal_gguf_tensor experts = tensor_of("blk.0.ffn_up_exps.weight", ROWS, 8);
    const shoal_gguf_tensor heads = tensor_of("blk.0.attn_k_b.weight", ROWS, 4);
    double single = price(&run, &one, SHOAL_TYPE_Q4_0, 0, 0);
    expect_near(price(&run, &experts, SHOAL_TYPE_Q4_0, 0, 0), 2 * single);
    expect_near(price(&run, &experts, SHOAL_TYPE_Q4_0, 0, 1), 8 * single); /* of five tokens all */
    expect_near(price(&run, &heads, SHOAL_TYPE_Q4_0, 0, 0), 4 * single);
}

static void test_products_of_one_input_are_one_job(void **state)
{
    (void)state;
    const compress_run gated = {.args = &args, .gated = true};
    const compress_run plain = {.args = &args};
    const shoal_gguf_tensor q = tensor_of("blk.0.attn_q.weight", ROWS, 1);
    const shoal_gguf_tensor k = tensor_of("blk.0.attn_k.weight", ROWS, 1);
    const shoal_gguf_tensor v = tensor_of("blk.11.attn_v.weight", ROWS, 1);
    const shoal_gguf_tensor up = tensor_of("blk.0.ffn_up.weight", ROWS, 1);
    double first = price(&gated, &q, SHOAL_TYPE_Q4_0, 0, 0);
    expect_near(price(&gated, &k, SHOAL_TYPE_Q4_0, 0, 0), first - 2000);
    expect_near(price(&gated, &v, SHOAL_TYPE_Q4_0, 0, 0), first - 2000);
    expect_near(price(&gated, &up, SHOAL_TYPE_Q4_0, 0, 0), first - 2000);
    expect_near(price(&plain, &up, SHOAL_TYPE_Q4_0, 0, 0), first); /* behind no gate: its own */
}

static void test_an_embedding_counts_where_it_is_the_output(void **state)
{
    (void)state;
    const shoal_gguf_tensor embed = tensor_of("token_embd.weight", ROWS, 1);
    const compress_run apart = {.args = &args};
    const compress_run tied = {.args = &args, .tied = true};
    assert_true(!(price(&apart, &embed, SHOAL_TYPE_Q4_0, 0, 0) > 0));
    assert_true(price(&tied, &embed, SHOAL_TYPE_Q4_0, 0, 0) > 0);
}

static void test_a_type_without_a_rate_is_named(void **state)
{
    (void)state;
    const compress_run run = {.args = &args};
    const shoal_gguf_tensor t = tensor_of("blk.0.ffn_down.weight", ROWS, 1);
    shoal_err err = SHOAL_ERR_INIT;
    double seconds = 0;
    assert_int_equal(
        shoal_forge_compress_seconds(&run, &rates, &t, SHOAL_TYPE_Q4_K, 0, 0, &seconds, &err),
        SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "Q4_K"));
    assert_non_null(strstr(err.text, "box.json"));
}

static void test_sides_cost_what_they_add(void **state)
{
    (void)state;
    const compress_run run = {.args = &args};
    const shoal_gguf_tensor t = tensor_of("blk.0.ffn_down.weight", ROWS, 1);
    forge_recipe_form forms[2] = {
        {.pass = SHOAL_PASS_GPTQ, .form = {.bits = 4, .group = 32, .density = 1}},
        {.pass = SHOAL_PASS_JOINT, .form = {.bits = 4, .group = 32, .density = 1, .rank = 8}}};
    compress_point points[2] = {{.bytes = shoal_forge_store_bytes(&forms[0], ROWS, K)},
                                {.bytes = shoal_forge_store_bytes(&forms[1], ROWS, K)}};
    const compress_job job = {.tensor = &t,
                              .n_rows = ROWS,
                              .k = K,
                              .forms = forms,
                              .n_forms = 2,
                              .points = points,
                              .measured = true};
    double seconds[2] = {0};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(
            shoal_forge_compress_form_seconds(&run, &rates, &job, i, 0, &seconds[i], NULL),
            SHOAL_OK);
    }
    double factors = 8.0 * (ROWS / 32.0 + K / 32.0) * 34;
    expect_near((seconds[1] - seconds[0]) * 1e9, 3000 + factors / 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_product_is_its_bytes_and_a_fixed_time),
        cmocka_unit_test(test_experts_are_read_as_they_are_visited),
        cmocka_unit_test(test_products_of_one_input_are_one_job),
        cmocka_unit_test(test_an_embedding_counts_where_it_is_the_output),
        cmocka_unit_test(test_a_type_without_a_rate_is_named),
        cmocka_unit_test(test_sides_cost_what_they_add),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
