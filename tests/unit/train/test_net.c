/* SPDX-License-Identifier: Apache-2.0
 *
 * The passes: forward as common/model has it, backward as differences of the forward pass say.
 */
#include "fixture.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/model/forward.h"
#include "tests/support/tiny_arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- forward --------------------------------------------------------------------------------- */

/* Logits of every token of one segment, by the forward pass that inference has. */
static void reference(const fixture *f, size_t segment, float *ret_logits)
{
    const shoal_hparams *hp = &f->model->hp;
    size_t first = f->segments[segment];
    size_t n = f->segments[segment + 1] - first;
    shoal_kernels kernels;
    shoal_pool *pool = NULL;
    shoal_kv_pool *kv = NULL;
    shoal_kv_seq *seq = NULL;
    shoal_forward *forward = NULL;
    shoal_row rows[FIXTURE_TOKENS_MAX];
    shoal_kernels_init(&kernels, UINT32_MAX);
    assert_int_equal(shoal_pool_new(1, &pool), SHOAL_OK);
    shoal_kv_shape shape = shoal_model_kv_shape(hp, SHOAL_KV_F32);
    size_t n_pages = shoal_kv_pages_for(&shape, FIXTURE_TOKENS_MAX, FIXTURE_TOKENS_MAX);
    assert_int_equal(
        shoal_kv_pool_new(&shape, n_pages, 2 * SHOAL_KV_BLOCK, FIXTURE_TOKENS_MAX, &kv, NULL),
        SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(kv, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, n), SHOAL_OK);
    const shoal_forward_shape s = {.n_rows_max = FIXTURE_TOKENS_MAX,
                                   .n_logits_max = FIXTURE_TOKENS_MAX,
                                   .n_ctx_max = 2 * SHOAL_KV_BLOCK};
    assert_int_equal(shoal_forward_new(f->model, &kernels, pool, &s, &forward), SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        rows[i] = (shoal_row){.seq = seq, .id = f->ids[first + i], .position = i};
    }
    shoal_forward_layers(forward, rows, n, 0, hp->n_layers, NULL, 0);
    shoal_forward_logits(forward);
    memcpy(ret_logits + first * hp->n_vocab, shoal_forward_logits_at(forward, 0),
           n * hp->n_vocab * sizeof *ret_logits);
    shoal_forward_free(forward);
    shoal_kv_seq_free(seq);
    shoal_kv_pool_free(kv);
    shoal_pool_free(pool);
}

static void test_forward_equals_that_of_inference(void **state)
{
    (void)state;
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        fixture f;
        fixture_init(&f, shoal_tiny_archs[v], NULL, 0);
        size_t n_vocab = f.model->hp.n_vocab;
        float *wanted = shoal_calloc(f.batch.n_tokens * n_vocab, sizeof *wanted);
        assert_non_null(wanted);
        for (size_t s = 0; s < f.batch.n_segments; s++) {
            reference(&f, s, wanted);
        }
        shoal_net_forward(f.net, f.params, &f.batch);
        const float *logits = shoal_net_logits(f.net, 0);
        double worst = 0;
        double largest = 0;
        for (size_t i = 0; i < f.batch.n_targets * n_vocab; i++) {
            double want = (double)wanted[f.targets[i / n_vocab] * n_vocab + i % n_vocab];
            worst = fmax(worst, fabs((double)logits[i] - want));
            largest = fmax(largest, fabs(want));
        }
        print_message("%-14s off by at most %.2g of %.2g\n", shoal_tiny_archs[v], worst, largest);
        assert_true(worst < 1e-5 * fmax(largest, 1));
        shoal_free(wanted);
        fixture_fini(&f);
    }
}

/* --- backward -------------------------------------------------------------------------------- */

/* More rows than a block of scores has, with and without a window. */
static void test_backward_long_segment_equals_differences(void **state)
{
    (void)state;
    static const char *const variants[] = {"mistral", "llama3", "gemma2"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        fixture f;
        fixture_init_long(&f, variants[v], 150);
        fixture_check_slopes(&f);
        fixture_fini(&f);
    }
}

static double norm_of(const fixture *f, const char *name)
{
    const shoal_param *item = shoal_params_find(f->params, name);
    double squares = 0;
    assert_non_null(item);
    for (size_t i = 0; i < item->n_rows * item->n_cols; i++) {
        double x = (double)f->grads[item->offset + i];
        squares += x * x;
    }
    return sqrt(squares);
}

/* Whichever layers run, the last of them is the compact one, and exits may stand above it. */
static void test_skipped_layers_get_no_gradient(void **state)
{
    (void)state;
    for (uint64_t skip = 0; skip < 16; skip++) {
        fixture f;
        fixture_init(&f, "gemma2", (size_t[]){1, 3}, 2);
        shoal_net_skip(f.net, &skip);
        fixture_check_slopes(&f);
        for (size_t layer = 0; layer < 4; layer++) {
            char name[SHOAL_TRAIN_NAME_MAX];
            (void)snprintf(name, sizeof name, "blk.%zu.ffn_down.weight", layer);
            assert_int_equal(norm_of(&f, name) == 0, skip >> layer & 1);
        }
        fixture_fini(&f);
    }
}

static void test_skip_null_undoes_it(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, "mistral", NULL, 0);
    double before = fixture_loss(&f);
    uint64_t skip = 1;
    shoal_net_skip(f.net, &skip);
    assert_true(fixture_loss(&f) != before);
    shoal_net_skip(f.net, NULL);
    assert_true(fixture_loss(&f) == before);
    fixture_fini(&f);
}

static void freeze(fixture *f, const char *prefix)
{
    for (size_t i = 0; i < f->params->n_items; i++) {
        shoal_param *item = &f->params->items[i];
        item->frozen = strncmp(item->name, prefix, strlen(prefix)) == 0;
    }
}

/* Within the rounding of products that are no longer joined with what is frozen. */
static void assert_near(const shoal_param *item, const float *x, const float *y)
{
    for (size_t i = item->offset; i < item->offset + item->n_rows * item->n_cols; i++) {
        if (!(fabs((double)x[i] - (double)y[i]) < 1e-5 * (1 + fabs((double)y[i])))) {
            fail_msg("%s: %.9g and %.9g", item->name, (double)x[i], (double)y[i]);
        }
    }
}

static void test_frozen_parameters_change_no_other_gradient(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"token_embd", "blk.0.",       "blk.",
                                           "blk.1.attn", "blk.0.attn_k", "shoal."};
    static const char *const variants[] = {"qwen2", "phi3", "qwen2moe", "qwen3"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        fixture f;
        fixture_init(&f, variants[v], (size_t[]){1}, 1);
        (void)fixture_backward(&f);
        float *whole = shoal_params_block(f.params);
        assert_non_null(whole);
        memcpy(whole, f.grads, f.params->n_floats * sizeof *whole);
        for (size_t p = 0; p < SHOAL_COUNT(prefixes); p++) {
            freeze(&f, prefixes[p]);
            (void)fixture_backward(&f);
            for (size_t i = 0; i < f.params->n_items; i++) {
                const shoal_param *item = &f.params->items[i];
                if (item->frozen) {
                    assert_true(norm_of(&f, item->name) == 0);
                } else {
                    assert_near(item, f.grads, whole);
                }
            }
        }
        shoal_free(whole);
        fixture_fini(&f);
    }
}

/* Everything below a layer frozen: the pass ends there. */
static void test_frozen_bottom_leaves_the_top(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, "qwen3", (size_t[]){1}, 1);
    (void)fixture_backward(&f);
    double top = norm_of(&f, "blk.1.ffn_up.weight");
    double exit = norm_of(&f, "shoal.exit.1.norm");
    for (size_t i = 0; i < f.params->n_items; i++) {
        shoal_param *item = &f.params->items[i];
        item->frozen =
            strncmp(item->name, "blk.0.", 6) == 0 || strcmp(item->name, "token_embd.weight") == 0;
    }
    uint64_t flops = shoal_net_flops(f.net);
    (void)fixture_backward(&f);
    uint64_t part = shoal_net_flops(f.net) - flops;
    assert_true(norm_of(&f, "blk.1.ffn_up.weight") == top);
    assert_true(norm_of(&f, "shoal.exit.1.norm") == exit);
    assert_true(norm_of(&f, "blk.0.ffn_up.weight") == 0);
    assert_true(part < flops);
    fixture_fini(&f);
}

/* --- batches --------------------------------------------------------------------------------- */

static void test_segments_do_not_see_each_other(void **state)
{
    (void)state;
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        fixture f;
        fixture_init(&f, shoal_tiny_archs[v], (size_t[]){1}, 1);
        size_t n_vocab = f.model->hp.n_vocab;
        float *before = shoal_calloc(f.batch.n_targets * n_vocab, sizeof *before);
        assert_non_null(before);
        size_t first = 0; /* target beyond segment 0 */
        while (f.targets[first] < f.segments[1]) {
            first++;
        }
        shoal_net_forward(f.net, f.params, &f.batch);
        memcpy(before, shoal_net_logits(f.net, 1), f.batch.n_targets * n_vocab * sizeof *before);
        for (size_t i = 0; i < f.segments[1]; i++) {
            f.ids[i] = (f.ids[i] + 7) % (int32_t)n_vocab;
        }
        shoal_net_forward(f.net, f.params, &f.batch);
        const float *after = shoal_net_logits(f.net, 1);
        assert_memory_not_equal(after, before, first * n_vocab * sizeof *after);
        for (size_t i = first * n_vocab; i < f.batch.n_targets * n_vocab; i++) {
            /* Rows of one product: the library may sum them in another order, nothing else. */
            assert_true(fabs((double)after[i] - (double)before[i]) < 1e-4);
        }
        shoal_free(before);
        fixture_fini(&f);
    }
}

/* The gradient of a batch is the sum of those of its segments. */
static void test_backward_adds_up_over_batches(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, "qwen3", NULL, 0);
    (void)fixture_backward(&f);
    float *whole = shoal_params_block(f.params);
    assert_non_null(whole);
    memcpy(whole, f.grads, f.params->n_floats * sizeof *whole);
    memset(f.grads, 0, f.params->n_floats * sizeof *whole);
    shoal_batch all = f.batch;
    size_t n_vocab = f.model->hp.n_vocab;
    size_t done = 0;
    for (size_t s = 0; s < all.n_segments; s++) {
        size_t begin = f.segments[s];
        size_t segments[] = {0, f.segments[s + 1] - begin};
        size_t targets[FIXTURE_TOKENS_MAX];
        size_t n = 0;
        while (done + n < all.n_targets && f.targets[done + n] < f.segments[s + 1]) {
            targets[n] = f.targets[done + n] - begin;
            n++;
        }
        shoal_batch one = {.n_tokens = segments[1],
                           .ids = f.ids + begin,
                           .positions = f.positions + begin,
                           .n_segments = 1,
                           .segments = segments,
                           .n_targets = n,
                           .targets = targets};
        shoal_net_forward(f.net, f.params, &one);
        memcpy(shoal_net_logits(f.net, 0), f.slopes + done * n_vocab, n * n_vocab * sizeof(float));
        shoal_net_backward(f.net, f.params, &one, f.grads);
        done += n;
    }
    assert_int_equal(done, all.n_targets);
    for (size_t i = 0; i < f.params->n_floats; i++) {
        assert_true(fabs((double)whole[i] - (double)f.grads[i]) <
                    1e-4 * (1 + fabs((double)whole[i])));
    }
    shoal_free(whole);
    fixture_fini(&f);
}

static void test_no_targets_no_gradient(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, "mixtral", (size_t[]){1}, 1);
    f.batch.n_targets = 0;
    (void)fixture_backward(&f);
    for (size_t i = 0; i < f.params->n_items; i++) {
        assert_true(norm_of(&f, f.params->items[i].name) == 0);
    }
    f.batch.n_tokens = 0;
    f.batch.n_segments = 0;
    (void)fixture_backward(&f);
    fixture_fini(&f);
}

/* A head that is not asked for gives no gradient and costs nothing. */
static void test_head_not_asked_costs_nothing(void **state)
{
    (void)state;
    fixture f;
    fixture_init(&f, "llama3", (size_t[]){1}, 1);
    size_t n = f.batch.n_targets * f.model->hp.n_vocab;
    uint64_t product = 2 * (uint64_t)n * f.model->hp.dim;
    (void)fixture_backward(&f);
    uint64_t both = shoal_net_flops(f.net);
    shoal_net_forward(f.net, f.params, &f.batch);
    memcpy(shoal_net_logits(f.net, 1), f.slopes + n, n * sizeof(float));
    memset(f.grads, 0, f.params->n_floats * sizeof *f.grads);
    shoal_net_backward(f.net, f.params, &f.batch, f.grads);
    assert_int_equal(2 * both - shoal_net_flops(f.net), 3 * product);
    assert_true(norm_of(&f, "shoal.exit.1.norm") == 0);
    assert_true(norm_of(&f, "output_norm.weight") > 0);
    fixture_fini(&f);
}

/* The same pass again has the same bits, also in another net and with weights of another block. */
static void test_passes_repeat_their_bits(void **state)
{
    (void)state;
    fixture f;
    fixture g;
    fixture_init(&f, "qwen3moe", (size_t[]){1}, 1);
    fixture_init(&g, "qwen3moe", (size_t[]){1}, 1);
    double loss = fixture_backward(&f);
    assert_true(fixture_backward(&g) == loss);
    assert_memory_equal(f.grads, g.grads, f.params->n_floats * sizeof *f.grads);
    assert_true(fixture_backward(&g) == loss);
    assert_memory_equal(f.grads, g.grads, f.params->n_floats * sizeof *f.grads);
    shoal_params_start(g.params, 9);
    assert_true(fixture_loss(&g) != loss);
    shoal_net_forward(g.net, f.params, &g.batch);
    const float *theirs = shoal_net_logits(g.net, 1);
    shoal_net_forward(f.net, f.params, &f.batch);
    const float *ours = shoal_net_logits(f.net, 1);
    assert_memory_equal(ours, theirs, f.batch.n_targets * f.model->hp.n_vocab * sizeof *ours);
    fixture_fini(&f);
    fixture_fini(&g);
}

static void test_new_failing_allocations(void **state)
{
    (void)state;
    static const char *const variants[] = {"gemma3", "qwen2moe"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        fixture f;
        fixture_init(&f, variants[v], NULL, 0);
        shoal_status status = SHOAL_E_NOMEM;
        uint64_t n = 0;
        for (; status != SHOAL_OK; n++) {
            shoal_net *net = NULL;
            shoal_mem_fail_at(n);
            status = shoal_net_new(f.params, 8, 8, &net);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
            shoal_net_free(net);
        }
        assert_true(n > 30);
        fixture_fini(&f);
    }
}

static void test_new_absurd_sizes_are_refused(void **state)
{
    (void)state;
    fixture f;
    shoal_net *net = NULL;
    fixture_init(&f, "mistral", NULL, 0);
    assert_int_equal(shoal_net_new(f.params, SIZE_MAX / 8, 8, &net), SHOAL_E_NOMEM);
    assert_int_equal(shoal_net_new(f.params, 8, SIZE_MAX / 8, &net), SHOAL_E_NOMEM);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_equals_that_of_inference),
        cmocka_unit_test(test_backward_long_segment_equals_differences),
        cmocka_unit_test(test_skipped_layers_get_no_gradient),
        cmocka_unit_test(test_skip_null_undoes_it),
        cmocka_unit_test(test_frozen_parameters_change_no_other_gradient),
        cmocka_unit_test(test_frozen_bottom_leaves_the_top),
        cmocka_unit_test(test_segments_do_not_see_each_other),
        cmocka_unit_test(test_backward_adds_up_over_batches),
        cmocka_unit_test(test_no_targets_no_gradient),
        cmocka_unit_test(test_head_not_asked_costs_nothing),
        cmocka_unit_test(test_passes_repeat_their_bits),
        cmocka_unit_test(test_new_failing_allocations),
        cmocka_unit_test(test_new_absurd_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
