/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pass has made, stored and read back by the engine's own codecs: the same numbers, bit for
 * bit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/compress.h"
#include "common/base/mem.h"
#include "common/weight/codes.h"
#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    ROWS = 37,
    COLS = 192
};

static const shoal_gguf_tensor tensor = {.name = {.data = "blk.0.attn_q.weight", .length = 19},
                                         .type = SHOAL_TYPE_F32,
                                         .n_dims = 2,
                                         .dims = {COLS, ROWS, 1, 1}};

static float w[ROWS * COLS];
static float h[COLS * COLS];

static int group_setup(void **state)
{
    uint64_t rng = 3;
    (void)state;
    for (size_t i = 0; i < ROWS * COLS; i++) {
        w[i] = test_signed(&rng) * test_unit(&rng);
    }
    for (size_t t = 0; t < COLS; t++) {
        float x[COLS];
        for (size_t i = 0; i < COLS; i++) {
            x[i] = test_signed(&rng) + (i > 0 ? x[i - 1] / 2 : 0);
        }
        for (size_t i = 5; i < COLS; i += 48) {
            x[i] *= 30; /* an outlier, which scales of columns are for */
        }
        for (size_t i = 0; i < COLS * COLS; i++) {
            h[i] += x[i / COLS] * x[i % COLS];
        }
    }
    return 0;
}

static void expect_exact(const shoal_problem *p, const forge_recipe_form *form)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
    static double want[ROWS * COLS];
    static float got[ROWS * COLS];
    assert_null(shoal_forge_store_reason(form, COLS, true));
    assert_int_equal(shoal_compress(p, form->pass, &form->form, &c, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_store_begin(form, &tensor, &stored, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_store_put(c, &tensor, 0, &stored, NULL), SHOAL_OK);
    const compress_tensor *t = &stored.tensors[0];
    assert_int_equal(stored.n, 1);
    assert_int_equal(t->n_bytes, shoal_forge_store_bytes(form, ROWS, COLS));
    assert_int_equal(shoal_forge_stored_bytes(&stored), t->n_bytes);
    assert_string_equal(t->name, "blk.0.attn_q.weight");
    shoal_weight_decode(t->type, t->data, ROWS * COLS, got);
    shoal_compressed_expand(c, want);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        /* a code times a scale is exact in either; compare as numbers, 0 and -0 are one */
        assert_true(!((double)got[i] < want[i]) && !((double)got[i] > want[i]));
    }
}

static void test_stored_codes_are_those_of_the_pass(void **state)
{
    (void)state;
    static const struct {
        size_t bits;
        size_t group;
    } kinds[] = {{2, 32}, {2, 64}, {3, 32}, {3, 64}, {4, 32}, {4, 64}, {5, 32}, {8, 32}};
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(ROWS, COLS, w, h, &p, NULL), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        const forge_recipe_form gptq = {
            .pass = SHOAL_PASS_GPTQ,
            .form = {.bits = kinds[i].bits, .group = kinds[i].group, .density = 1}};
        forge_recipe_form other = gptq;
        other.pass = i % 2 ? SHOAL_PASS_RTN : SHOAL_PASS_REFINED;
        expect_exact(p, &gptq);
        expect_exact(p, &other);
    }
    const forge_recipe_form fours = {
        .pass = SHOAL_PASS_TWO_FOUR,
        .form = {.bits = 4, .group = 64, .mask = SHOAL_MASK_TWO_FOUR, .density = 1}};
    expect_exact(p, &fours);
    static const struct {
        shoal_pass pass;
        shoal_form form;
    } masked[] = {
        {SHOAL_PASS_TWO_FOUR, {.bits = 8, .group = 64, .mask = SHOAL_MASK_TWO_FOUR}},
        {SHOAL_PASS_WANDA, {.bits = 4, .group = 32, .mask = SHOAL_MASK_HALF}},
        {SHOAL_PASS_SPARSEGPT, {.bits = 4, .group = 64, .mask = SHOAL_MASK_HALF}},
        {SHOAL_PASS_JOINT, {.bits = 4, .group = 64, .mask = SHOAL_MASK_QUARTER}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(masked); i++) {
        const forge_recipe_form f = {.pass = masked[i].pass, .form = masked[i].form};
        expect_exact(p, &f);
    }
    const forge_recipe_form half = {.pass = SHOAL_PASS_JOINT,
                                    .form = {.bits = SHOAL_COMPRESS_BITS_F16, .density = 1}};
    expect_exact(p, &half);
}

/* The base with levels of its own. */
static void with_levels(const compress_tensor *base, const compress_tensor *levels, double *ret_w)
{
    int low = 0;
    int high = 0;
    size_t group = shoal_type_find((uint32_t)base->type)->block;
    shoal_codes_range(base->type, &low, &high);
    assert_int_equal(levels->type, SHOAL_TYPE_I8);
    assert_int_equal(levels->n_bytes, high - low + 1);
    for (size_t row = 0; row < ROWS; row++) {
        int8_t codes[COLS];
        uint16_t scales[COLS / 32];
        shoal_codes_unpack(base->type, base->data + row * base->n_bytes / ROWS, COLS, codes, scales,
                           NULL);
        for (size_t i = 0; i < COLS; i++) {
            double level = (double)(int8_t)levels->data[codes[i] - low];
            ret_w[row * COLS + i] = (double)shoal_f16_to_f32(scales[i / group]) * level;
        }
    }
}

/* What the tensors of a form add up to, in doubles. */
static void add_up(const compress_stored *stored, double *ret_w)
{
    static float x[ROWS * COLS];
    const compress_tensor *t = &stored->tensors[0];
    shoal_weight_decode(t->type, t->data, ROWS * COLS, x);
    for (size_t i = 0; i < ROWS * COLS; i++) {
        ret_w[i] = (double)x[i];
    }
    const compress_tensor *left = NULL;
    for (size_t s = 1; s < stored->n; s++) {
        t = &stored->tensors[s];
        if (strcmp(t->name, "blk.0.attn_q.weight_column_scale") == 0) {
            assert_int_equal(t->dims[0], COLS);
            for (size_t i = 0; i < ROWS * COLS; i++) {
                const uint8_t *half = t->data + 2 * (i % COLS);
                ret_w[i] /= (double)shoal_f16_to_f32((uint16_t)(half[0] | half[1] << 8));
            }
        } else if (strcmp(t->name, "blk.0.attn_q.weight_levels") == 0) {
            with_levels(&stored->tensors[0], t, ret_w);
        } else if (strcmp(t->name, "blk.0.attn_q.weight_low_left") == 0) {
            left = t;
        } else if (strcmp(t->name, "blk.0.attn_q.weight_low_right") == 0) {
            size_t stride = (ROWS + 31) / 32 * 32;
            assert_non_null(left);
            for (size_t r = 0; r < t->dims[1]; r++) {
                float l[64];
                float right[COLS];
                shoal_weight_decode(left->type, left->data + r * stride / 32 * 34, stride, l);
                shoal_weight_decode(t->type, t->data + r * COLS / 32 * 34, COLS, right);
                for (size_t i = 0; i < ROWS * COLS; i++) {
                    ret_w[i] += (double)l[i / COLS] * (double)right[i % COLS];
                }
            }
        } else {
            fail_msg("%s is not expected", t->name);
        }
    }
}

static void test_what_stands_beside_adds_up_to_the_pass(void **state)
{
    (void)state;
    static double want[ROWS * COLS];
    static double got[ROWS * COLS];
    const forge_recipe_form forms[] = {
        {.pass = SHOAL_PASS_JOINT, .form = {.bits = 3, .group = 64, .density = 1, .rank = 5}},
        {.pass = SHOAL_PASS_AWQ, .form = {.bits = 4, .group = 32, .density = 1}},
        {.pass = SHOAL_PASS_SMOOTH, .form = {.bits = 8, .group = 32, .density = 1}},
        {.pass = SHOAL_PASS_CODEBOOK, .form = {.bits = 4, .group = 32, .density = 1}},
        {.pass = SHOAL_PASS_CODEBOOK, .form = {.bits = 3, .group = 64, .density = 1}},
        {.pass = SHOAL_PASS_JOINT,
         .form = {.bits = 4, .group = 32, .mask = SHOAL_MASK_TWO_FOUR, .density = 1, .rank = 1}}};
    SHOAL_CLEANUP(shoal_problem_freep) shoal_problem *p = NULL;
    assert_int_equal(shoal_problem_new(ROWS, COLS, w, h, &p, NULL), SHOAL_OK);
    for (size_t f = 0; f < SHOAL_COUNT(forms); f++) {
        SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
        SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
        assert_null(shoal_forge_store_reason(&forms[f], COLS, true));
        assert_non_null(shoal_forge_store_reason(&forms[f], COLS, false));
        assert_true(shoal_forge_store_has_sides(&forms[f]));
        assert_int_equal(shoal_compress(p, forms[f].pass, &forms[f].form, &c, NULL), SHOAL_OK);
        assert_int_equal(shoal_forge_store_begin(&forms[f], &tensor, &stored, NULL), SHOAL_OK);
        assert_int_equal(shoal_forge_store_put(c, &tensor, 0, &stored, NULL), SHOAL_OK);
        assert_int_equal(shoal_forge_stored_bytes(&stored),
                         shoal_forge_store_bytes(&forms[f], ROWS, COLS));
        assert_true(stored.n > 1);
        add_up(&stored, got);
        shoal_compressed_expand(c, want);
        for (size_t i = 0; i < ROWS * COLS; i++) {
            assert_true(fabs(got[i] - want[i]) < 1e-6);
        }
    }
}

static void test_what_no_format_holds_has_a_reason(void **state)
{
    (void)state;
    const forge_recipe_form odd = {.pass = SHOAL_PASS_RTN, .form = {.bits = 7, .group = 32}};
    const forge_recipe_form q4_k = {.typed = true, .type = SHOAL_TYPE_Q4_K};
    const forge_recipe_form keep = {.keep = true};
    const forge_recipe_form wide = {.pass = SHOAL_PASS_RTN, .form = {.bits = 3, .group = 128}};
    const forge_recipe_form bitmap = {
        .pass = SHOAL_PASS_WANDA,
        .form = {.bits = 4, .group = 32, .mask = SHOAL_MASK_BITMAP, .density = 0.5}};
    assert_non_null(shoal_forge_store_reason(&odd, COLS, true));
    assert_non_null(shoal_forge_store_reason(&wide, COLS, true)); /* 192 is no multiple of 128 */
    assert_non_null(shoal_forge_store_reason(&bitmap, COLS, true));
    assert_non_null(shoal_forge_store_reason(&q4_k, COLS, true)); /* 192 is no multiple of 256 */
    assert_null(shoal_forge_store_reason(&q4_k, 256, true));
    assert_null(shoal_forge_store_reason(&keep, 7, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stored_codes_are_those_of_the_pass),
        cmocka_unit_test(test_what_stands_beside_adds_up_to_the_pass),
        cmocka_unit_test(test_what_no_format_holds_has_a_reason),
    };
    return cmocka_run_group_tests(tests, group_setup, NULL);
}
