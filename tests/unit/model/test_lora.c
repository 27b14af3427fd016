/* SPDX-License-Identifier: Apache-2.0
 *
 * Adapter files: what is refused and by what words, ranks, fused tensors, identity, failing
 * allocations, damaged bytes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/lora.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_lora.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TENSORS_MAX = 4,
    KV_DIM = SHOAL_TINY_DIM / SHOAL_TINY_HEADS * SHOAL_TINY_KV_HEADS
};

typedef struct spec {
    const char *name;
    uint64_t dims[3]; /* of 0: 1 */
} spec;

/* A file of a few tensors; what is NULL or zero is as it should be. */
typedef struct recipe {
    const char *variant; /* of the base */
    const char *type;
    const char *kind;
    const char *arch;
    const char *without; /* a key left out */
    const char *extra;   /* a key more */
    float alpha;         /* 0: 4 */
    float strength;      /* 0: 1 */
    float fill;          /* 0: a half */
    spec tensors[TENSORS_MAX];
    shoal_status status;
    const char *says;
} recipe;

typedef struct file {
    shoal_buf buf;
    shoal_gguf *gguf;
    float *data;
} file;

static void file_open(file *f)
{
    assert_int_equal(shoal_gguf_open((const uint8_t *)f->buf.data, f->buf.length, &f->gguf, NULL),
                     SHOAL_OK);
}

static void file_close(file *f)
{
    shoal_gguf_close(f->gguf);
    shoal_buf_fini(&f->buf);
    shoal_free(f->data);
    *f = (file){0};
}

static shoal_model *load_model(const char *variant, file *ret_base)
{
    shoal_model *model = NULL;
    memset(ret_base, 0, sizeof *ret_base);
    assert_int_equal(variant ? shoal_tiny_arch_gguf(variant, 3, SHOAL_TYPE_F32, &ret_base->buf)
                             : shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &ret_base->buf),
                     SHOAL_OK);
    file_open(ret_base);
    assert_int_equal(shoal_model_new(ret_base->gguf, &model, NULL), SHOAL_OK);
    return model;
}

static void put_text(const recipe *r, shoal_gguf_writer *w, const char *key, const char *value)
{
    if (!r->without || strcmp(r->without, key) != 0) {
        assert_int_equal(shoal_gguf_put_str(w, key, value), SHOAL_OK);
    }
}

static void cook(const recipe *r, file *ret)
{
    shoal_gguf_writer *w = NULL;
    size_t n = (size_t)1 << 20;
    memset(ret, 0, sizeof *ret);
    ret->data = shoal_calloc(n, sizeof *ret->data);
    for (size_t i = 0; i < n; i++) {
        ret->data[i] = r->fill != 0 ? r->fill : 0.5F;
    }
    assert_int_equal(shoal_gguf_writer_new(&w), SHOAL_OK);
    put_text(r, w, "general.type", r->type ? r->type : "adapter");
    put_text(r, w, "adapter.type", r->kind ? r->kind : "lora");
    put_text(r, w, "general.architecture", r->arch ? r->arch : "llama");
    if (!r->without || strcmp(r->without, "adapter.lora.alpha") != 0) {
        assert_int_equal(shoal_gguf_put_f32(w, "adapter.lora.alpha", r->alpha != 0 ? r->alpha : 4),
                         SHOAL_OK);
    }
    if (r->extra) {
        assert_int_equal(shoal_gguf_put_u32(w, r->extra, 1), SHOAL_OK);
    }
    for (size_t i = 0; i < TENSORS_MAX && r->tensors[i].name; i++) {
        uint64_t dims[3];
        for (size_t d = 0; d < 3; d++) {
            dims[d] = SHOAL_MAX(r->tensors[i].dims[d], (uint64_t)1);
        }
        assert_true(dims[0] * dims[1] * dims[2] <= n);
        assert_int_equal(shoal_gguf_put_tensor(w, r->tensors[i].name, SHOAL_TYPE_F32, dims,
                                               dims[2] > 1 ? 3 : 2, ret->data),
                         SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_writer_finish(w, &ret->buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(w);
    file_open(ret);
}

static void check(const recipe *r)
{
    file base;
    file f;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_lora *lora = NULL;
    shoal_model *model = load_model(r->variant, &base);
    cook(r, &f);
    shoal_status status =
        shoal_lora_new(model, f.gguf, r->strength != 0 ? r->strength : 1, &lora, &err);
    if (status != r->status || (r->says && !strstr(err.text, r->says))) {
        fail_msg("status %d (%s), expected %d (%s)", (int)status, err.text, (int)r->status,
                 r->says ? r->says : "");
    }
    assert_true((lora != NULL) == (status == SHOAL_OK));
    shoal_lora_free(lora);
    file_close(&f);
    shoal_model_free(model);
    file_close(&base);
}

#define Q_A                                                                                        \
    {                                                                                              \
        "blk.0.attn_q.weight.lora_a",                                                              \
        {                                                                                          \
            SHOAL_TINY_DIM, 2                                                                      \
        }                                                                                          \
    }
#define Q_B                                                                                        \
    {                                                                                              \
        "blk.0.attn_q.weight.lora_b",                                                              \
        {                                                                                          \
            2, SHOAL_TINY_DIM                                                                      \
        }                                                                                          \
    }

static void test_files_that_are_no_adapter_of_the_model_are_refused_by_name(void **state)
{
    (void)state;
    static const recipe recipes[] = {
        {.tensors = {Q_A, Q_B}},
        {.tensors = {Q_B, Q_A}},
        {.type = "model", .status = SHOAL_E_UNSUPPORTED, .says = "this file is no adapter"},
        {.without = "general.type", .status = SHOAL_E_NOTFOUND, .says = "general.type is missing"},
        {.kind = "ia3", .status = SHOAL_E_UNSUPPORTED, .says = "only LoRA"},
        {.without = "adapter.type", .status = SHOAL_E_NOTFOUND, .says = "adapter.type is missing"},
        {.arch = "qwen2", .status = SHOAL_E_UNSUPPORTED, .says = "another kind of model"},
        {.arch = "llama2", .status = SHOAL_E_UNSUPPORTED, .says = "\"llama2\""},
        {.without = "adapter.lora.alpha", .status = SHOAL_E_NOTFOUND, .says = "adapter.lora.alpha"},
        {.extra = "adapter.alora.invocation_tokens",
         .status = SHOAL_E_UNSUPPORTED,
         .says = "adapter.alora.invocation_tokens"},
        {.extra = "general.note", .tensors = {Q_A, Q_B}},
        {.status = SHOAL_E_INVALID, .says = "holds no tensors"},
        {.alpha = -1, .status = SHOAL_E_INVALID, .says = "-1 is not from 0"},
        {.alpha = 65536, .tensors = {Q_A, Q_B}},
        {.alpha = 65537, .status = SHOAL_E_INVALID, .says = "65537 is not"},
        {.alpha = NAN, .status = SHOAL_E_INVALID, .says = "nan is not"},
        {.alpha = INFINITY, .status = SHOAL_E_INVALID, .says = "inf is not"},
        {.strength = 1024, .tensors = {Q_A, Q_B}},
        {.strength = 1025, .status = SHOAL_E_INVALID, .says = "strength of 1025"},
        {.strength = NAN, .status = SHOAL_E_INVALID, .says = "strength of nan"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(recipes); i++) {
        check(&recipes[i]);
    }
}

static void test_tensors_that_fit_no_layer_are_refused_by_name(void **state)
{
    (void)state;
    static const recipe recipes[] = {
        {.tensors = {Q_A}, .status = SHOAL_E_NOTFOUND, .says = "attn_q.weight.lora_b, its other"},
        {.tensors = {Q_B}, .status = SHOAL_E_NOTFOUND, .says = "attn_q.weight.lora_a, its other"},
        {.tensors = {Q_A, Q_B, {"blk.0.attn_norm.weight", {SHOAL_TINY_DIM}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "tensor blk.0.attn_norm.weight: an adapter holds"},
        {.tensors = {Q_A, {"blk.0.attn_q.weight.lora_b", {3, SHOAL_TINY_DIM}}},
         .status = SHOAL_E_INVALID,
         .says = "rank 2, but blk.0.attn_q.weight.lora_b has rank 3"},
        {.tensors = {{"blk.0.attn_q.weight.lora_a", {SHOAL_TINY_DIM - 1, 2}}, Q_B},
         .status = SHOAL_E_INVALID,
         .says = "the pair is for 63 x 64, the model's tensor is 64 x 64"},
        {.tensors = {Q_A, {"blk.0.attn_q.weight.lora_b", {2, SHOAL_TINY_DIM + 1}}},
         .status = SHOAL_E_INVALID,
         .says = "the pair is for 64 x 65"},
        {.tensors = {{"blk.1.attn_v.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"blk.1.attn_v.weight.lora_b", {1, KV_DIM}}}},
        {.tensors = {{"blk.2.attn_v.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"blk.2.attn_v.weight.lora_b", {1, KV_DIM}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer blk.2.attn_v.weight"},
        {.tensors = {{"blk.00.attn_v.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"blk.00.attn_v.weight.lora_b", {1, KV_DIM}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer blk.00.attn_v.weight"},
        {.tensors = {{"blk.99999999999999999999.attn_v.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"blk.99999999999999999999.attn_v.weight.lora_b", {1, KV_DIM}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer"},
        {.tensors = {{"blk..lora_a", {4, 1}}, {"blk..lora_b", {1, 4}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer"},
        {.tensors = {{".lora_a", {4, 1}}, {".lora_b", {1, 4}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer"},
        {.tensors = {{"token_embd.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"token_embd.weight.lora_b", {1, SHOAL_TINY_VOCAB}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer token_embd.weight"},
        {.tensors = {{"output.weight.lora_a", {SHOAL_TINY_DIM, 1}},
                     {"output.weight.lora_b", {1, SHOAL_TINY_VOCAB}}}},
        {.tensors = {Q_A, Q_B}, .fill = NAN, .status = SHOAL_E_INVALID, .says = "not finite"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(recipes); i++) {
        check(&recipes[i]);
    }
}

static void test_tensors_of_other_architectures_are_known_or_refused(void **state)
{
    (void)state;
    static const recipe recipes[] = {
        {.variant = "llama3",
         .tensors = {{"output.weight.lora_a", {64, 1}},
                     {"output.weight.lora_b", {1, SHOAL_TINY_VOCAB}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer output.weight"},
        {.variant = "mixtral",
         .tensors = {{"blk.0.ffn_gate_exps.weight.lora_a", {64, 2, 4}},
                     {"blk.0.ffn_gate_exps.weight.lora_b", {2, 96, 4}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "blk.0.ffn_gate_exps.weight.lora_a: adapters of stacks of experts"},
        {.variant = "mixtral",
         .tensors = {{"blk.0.ffn_up.weight.lora_a", {64, 2}},
                     {"blk.0.ffn_up.weight.lora_b", {2, 96}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer blk.0.ffn_up.weight"},
        {.variant = "phi3",
         .arch = "phi3",
         .tensors = {{"blk.0.attn_q.weight.lora_a", {64, 2}},
                     {"blk.0.attn_q.weight.lora_b", {2, 64}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer blk.0.attn_q.weight"},
        {.variant = "phi3",
         .arch = "phi3",
         .tensors = {{"blk.0.ffn_up.weight.lora_a", {64, 2}},
                     {"blk.0.ffn_up.weight.lora_b", {2, 192}},
                     {"blk.0.attn_qkv.weight.lora_a", {64, 3}},
                     {"blk.0.attn_qkv.weight.lora_b", {3, 128}}}},
        {.variant = "deepseek2",
         .arch = "deepseek2",
         .tensors = {{"blk.0.attn_kv_b.weight.lora_a", {32, 2}},
                     {"blk.0.attn_kv_b.weight.lora_b", {2, 128}}},
         .status = SHOAL_E_UNSUPPORTED,
         .says = "no linear layer blk.0.attn_kv_b.weight"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(recipes); i++) {
        check(&recipes[i]);
    }
}

static void test_rank_up_to_its_limit_is_taken(void **state)
{
    (void)state;
    for (uint64_t rank = SHOAL_LORA_RANK_MAX - 1; rank <= SHOAL_LORA_RANK_MAX + 1; rank++) {
        bool over = rank > SHOAL_LORA_RANK_MAX;
        check(&(recipe){.tensors = {{"blk.0.attn_q.weight.lora_a", {SHOAL_TINY_DIM, rank}},
                                    {"blk.0.attn_q.weight.lora_b", {rank, SHOAL_TINY_DIM}}},
                        .status = over ? SHOAL_E_LIMIT : SHOAL_OK,
                        .says = over ? "rank 1025 is more than 1024" : NULL});
    }
}

static shoal_lora *open_lora(const shoal_model *model, const recipe *r, float strength)
{
    file f;
    shoal_lora *lora = NULL;
    cook(r, &f);
    assert_int_equal(shoal_lora_new(model, f.gguf, strength, &lora, NULL), SHOAL_OK);
    file_close(&f);
    return lora;
}

static void test_parts_name_the_weights_they_adapt(void **state)
{
    (void)state;
    file base;
    shoal_model *model = load_model(NULL, &base);
    shoal_lora *lora = open_lora(model, &(recipe){.tensors = {Q_A, Q_B}, .alpha = 3}, 2);
    const shoal_lora_part *part = shoal_lora_find(lora, model->layers[0].q);
    assert_non_null(part);
    assert_true(part->scale == 3.0F);
    assert_int_equal(shoal_weight_n_rows(part->a), 2);
    assert_int_equal(shoal_weight_k(part->b), 2);
    assert_null(shoal_lora_find(lora, model->layers[1].q));
    assert_null(shoal_lora_find(lora, model->layers[0].k));
    assert_int_equal(shoal_lora_n_pairs(lora), 1);
    assert_int_equal(shoal_lora_rank(lora), 2);
    assert_ptr_equal(shoal_lora_model(lora), model);
    shoal_lora_free(lora);
    shoal_model_free(model);
    file_close(&base);
}

static void test_hash_differs_where_results_may(void **state)
{
    (void)state;
    file base;
    shoal_model *model = load_model(NULL, &base);
    static const recipe first = {.tensors = {Q_A, Q_B}};
    static const recipe others[] = {
        {.tensors = {Q_A, Q_B}, .alpha = 5},
        {.tensors = {Q_A, Q_B}, .fill = 0.25F},
        {.tensors = {{"blk.1.attn_q.weight.lora_a", {SHOAL_TINY_DIM, 2}},
                     {"blk.1.attn_q.weight.lora_b", {2, SHOAL_TINY_DIM}}}},
    };
    shoal_lora *lora = open_lora(model, &first, 1);
    shoal_lora *same = open_lora(model, &first, 1);
    shoal_lora *stronger = open_lora(model, &first, 2);
    shoal_hash hash = shoal_lora_hash(lora);
    shoal_hash again = shoal_lora_hash(same);
    shoal_hash strong = shoal_lora_hash(stronger);
    assert_memory_equal(&hash, &again, sizeof hash);
    assert_memory_not_equal(&hash, &strong, sizeof hash);
    for (size_t i = 0; i < SHOAL_COUNT(others); i++) {
        shoal_lora *other = open_lora(model, &others[i], 1);
        shoal_hash its = shoal_lora_hash(other);
        assert_memory_not_equal(&hash, &its, sizeof hash);
        shoal_lora_free(other);
    }
    shoal_lora_free(lora);
    shoal_lora_free(same);
    shoal_lora_free(stronger);
    shoal_model_free(model);
    file_close(&base);
}

static void make_whole(const file *base, file *ret)
{
    const shoal_tiny_lora settings = {.seed = 9, .rank = 3, .alpha = 6, .type = SHOAL_TYPE_F32};
    memset(ret, 0, sizeof *ret);
    assert_int_equal(shoal_tiny_lora_gguf(base->gguf, &settings, &ret->buf), SHOAL_OK);
}

static void test_failing_allocations_in_load_leak_nothing(void **state)
{
    (void)state;
    static const char *const variants[] = {NULL, "phi3"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        file base;
        file f;
        shoal_model *model = load_model(variants[v], &base);
        shoal_status status = SHOAL_E_NOMEM;
        uint64_t i = 0;
        make_whole(&base, &f);
        file_open(&f);
        for (; status != SHOAL_OK && i < 1000; i++) {
            shoal_lora *lora = NULL;
            shoal_mem_fail_at(i);
            status = shoal_lora_new(model, f.gguf, 1, &lora, NULL);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            shoal_lora_free(lora);
        }
        assert_true(i > 20 && i < 1000);
        file_close(&f);
        shoal_model_free(model);
        file_close(&base);
    }
}

/* Whatever one byte becomes, the file is refused or it is an adapter. */
static void test_damaged_files_are_refused_or_read(void **state)
{
    (void)state;
    file base;
    file f;
    shoal_model *model = load_model(NULL, &base);
    uint64_t rng = 17;
    make_whole(&base, &f);
    char path[] = "/tmp/shoal-test-lora-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    for (size_t i = 0; i < 400; i++) {
        shoal_lora *lora = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        size_t at = (size_t)(shoal_rng_next(&rng) % SHOAL_MIN(f.buf.length, (size_t)6000));
        size_t n = i % 2 ? f.buf.length : at;
        char was = f.buf.data[at];
        f.buf.data[at] = (char)(was ^ (char)(1 << i / 2 % 8));
        assert_int_equal(shoal_file_write(path, f.buf.data, n, NULL), SHOAL_OK);
        shoal_status status = shoal_lora_load(model, path, 1, &lora, &err);
        assert_true(status == SHOAL_OK || strstr(err.text, "adapter shoal-test-lora-"));
        assert_true(i % 2 || status != SHOAL_OK);
        shoal_lora_free(lora);
        f.buf.data[at] = was;
    }
    (void)unlink(path);
    file_close(&f);
    shoal_model_free(model);
    file_close(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_that_are_no_adapter_of_the_model_are_refused_by_name),
        cmocka_unit_test(test_tensors_that_fit_no_layer_are_refused_by_name),
        cmocka_unit_test(test_tensors_of_other_architectures_are_known_or_refused),
        cmocka_unit_test(test_rank_up_to_its_limit_is_taken),
        cmocka_unit_test(test_parts_name_the_weights_they_adapt),
        cmocka_unit_test(test_hash_differs_where_results_may),
        cmocka_unit_test(test_failing_allocations_in_load_leak_nothing),
        cmocka_unit_test(test_damaged_files_are_refused_or_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
