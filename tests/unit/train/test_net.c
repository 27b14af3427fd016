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

/* Variants that are trained. */
static bool trained(const char *variant)
{
    return strncmp(variant, "deepseek2", 9) != 0 && strcmp(variant, "mixtral") &&
           !strstr(variant, "moe");
}

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
    shoal_row rows[FIXTURE_TOKENS];
    shoal_kernels_init(&kernels, UINT32_MAX);
    assert_int_equal(shoal_pool_new(1, &pool), SHOAL_OK);
    shoal_kv_shape shape = shoal_model_kv_shape(hp, SHOAL_KV_F32);
    size_t n_pages = shoal_kv_pages_for(&shape, FIXTURE_TOKENS, FIXTURE_TOKENS);
    assert_int_equal(
        shoal_kv_pool_new(&shape, n_pages, 2 * SHOAL_KV_BLOCK, FIXTURE_TOKENS, &kv, NULL),
        SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(kv, &seq), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_reserve(seq, n), SHOAL_OK);
    const shoal_forward_shape s = {.n_rows_max = FIXTURE_TOKENS,
                                   .n_logits_max = FIXTURE_TOKENS,
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
        if (!trained(shoal_tiny_archs[v])) {
            continue;
        }
        fixture f;
        fixture_init(&f, shoal_tiny_archs[v], NULL, 0);
        size_t n_vocab = f.model->hp.n_vocab;
        float *wanted = shoal_calloc(FIXTURE_TOKENS * n_vocab, sizeof *wanted);
        assert_non_null(wanted);
        for (size_t s = 0; s < f.batch.n_segments; s++) {
            reference(&f, s, wanted);
        }
        shoal_net_forward(f.net, f.params, &f.batch);
        const float *logits = shoal_net_logits(f.net, 0);
        double worst = 0;
        double largest = 0;
        for (size_t i = 0; i < FIXTURE_TARGETS * n_vocab; i++) {
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

/* A random direction within one parameter; 0 elsewhere. */
static void direction_of(const shoal_param *item, uint64_t seed, float *ret_direction)
{
    for (size_t i = 0; i < item->n_rows * item->n_cols; i++) {
        ret_direction[i] = (float)(shoal_rng_next(&seed) >> 40) * 0x1p-23F - 1.0F;
    }
}

/* The loss with x at + step * direction. */
static double loss_at(fixture *f, float *x, const float *saved, const float *direction, size_t n,
                      double step)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)saved[i] + step * (double)direction[i]);
    }
    return fixture_loss(f);
}

/* Slope along a direction by Richardson's extrapolation of central differences. */
static double slope_along(fixture *f, const shoal_param *item, const float *direction, double step)
{
    size_t n = item->n_rows * item->n_cols;
    float *x = f->params->data + item->offset;
    float *saved = shoal_calloc(n, sizeof *saved);
    assert_non_null(saved);
    memcpy(saved, x, n * sizeof *x);
    double wide =
        loss_at(f, x, saved, direction, n, step) - loss_at(f, x, saved, direction, n, -step);
    double near = loss_at(f, x, saved, direction, n, step / 2) -
                  loss_at(f, x, saved, direction, n, -step / 2);
    memcpy(x, saved, n * sizeof *x);
    shoal_free(saved);
    return (4 * near / step - wide / (2 * step)) / 3;
}

static void check_item(fixture *f, const shoal_param *item, double scale)
{
    size_t n = item->n_rows * item->n_cols;
    float *direction = shoal_calloc(n, sizeof *direction);
    assert_non_null(direction);
    direction_of(item, (uint64_t)item->offset + 1, direction);
    double norm = 0;
    double along = 0;
    for (size_t i = 0; i < n; i++) {
        along += (double)f->grads[item->offset + i] * (double)direction[i];
        norm += (double)f->grads[item->offset + i] * (double)f->grads[item->offset + i];
    }
    double slope = slope_along(f, item, direction, scale);
    double room = 1e-2 * sqrt(norm / 3);
    if (!(fabs(slope - along) < room) || !(norm > 0)) {
        fail_msg("%s %s: gradient along a direction %.7g, differences say %.7g (norm %.3g)",
                 f->model->hp.name, item->name, along, slope, sqrt(norm));
    }
    shoal_free(direction);
}

static void test_backward_equals_differences(void **state)
{
    (void)state;
    for (size_t v = 0; v < shoal_tiny_archs_n; v++) {
        if (!trained(shoal_tiny_archs[v])) {
            continue;
        }
        fixture f;
        fixture_init(&f, shoal_tiny_archs[v], (size_t[]){1}, 1);
        (void)fixture_backward(&f);
        for (size_t i = 0; i < f.params->n_items; i++) {
            check_item(&f, &f.params->items[i], 2e-3);
        }
        fixture_fini(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_equals_that_of_inference),
        cmocka_unit_test(test_backward_equals_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
