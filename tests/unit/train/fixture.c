/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <string.h>

enum {
    TARGETS = 20
};

shoal_model *fixture_model(const char *variant)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    assert_int_equal(shoal_tiny_arch_gguf(variant, 3, SHOAL_TYPE_F32, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return model;
}

static float centred(uint64_t *rng)
{
    return (float)(shoal_rng_next(rng) >> 40) * 0x1p-24F - 0.5F;
}

static void make_tokens(fixture *f, const size_t *segments, size_t n_segments)
{
    uint64_t rng = 11;
    memcpy(f->segments, segments, (n_segments + 1) * sizeof *segments);
    for (size_t s = 0; s < n_segments; s++) {
        for (size_t i = segments[s]; i < segments[s + 1]; i++) {
            f->ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
            f->positions[i] = (int32_t)(i - segments[s]);
        }
    }
    f->batch = (shoal_batch){.n_tokens = segments[n_segments],
                             .ids = f->ids,
                             .positions = f->positions,
                             .n_segments = n_segments,
                             .segments = f->segments,
                             .targets = f->targets};
}

static void make_model(fixture *f, const char *variant, const size_t *exits, size_t n_exits)
{
    shoal_err err = SHOAL_ERR_INIT;
    f->model = fixture_model(variant);
    assert_int_equal(shoal_params_new(&f->model->hp, exits, n_exits, &f->params, &err), SHOAL_OK);
    assert_int_equal(shoal_params_from_model(f->params, f->model, &err), SHOAL_OK);
    assert_int_equal(shoal_net_new(f->params, f->batch.n_tokens, f->batch.n_targets, &f->net),
                     SHOAL_OK);
    f->grads = shoal_params_block(f->params);
    f->n_heads = n_exits + 1;
    size_t n = f->n_heads * f->batch.n_targets * f->model->hp.n_vocab;
    f->slopes = shoal_calloc(n, sizeof *f->slopes);
    assert_true(f->grads && f->slopes);
    uint64_t rng = 5;
    for (size_t i = 0; i < n; i++) {
        f->slopes[i] = centred(&rng);
    }
}

void fixture_init(fixture *f, const char *variant, const size_t *exits, size_t n_exits)
{
    static const size_t segments[] = {0, 37, 38, 47};
    memset(f, 0, sizeof *f);
    make_tokens(f, segments, SHOAL_COUNT(segments) - 1);
    for (size_t i = 1; i < f->batch.n_tokens && f->batch.n_targets < TARGETS; i++) {
        if (i % 3 == 1 || i > 40) {
            f->targets[f->batch.n_targets++] = i;
        }
    }
    make_model(f, variant, exits, n_exits);
}

void fixture_init_long(fixture *f, const char *variant, size_t n)
{
    const size_t segments[] = {0, n};
    memset(f, 0, sizeof *f);
    make_tokens(f, segments, 1);
    for (size_t i = 1; i < n; i += 3) {
        f->targets[f->batch.n_targets++] = i;
    }
    make_model(f, variant, (size_t[]){1}, 1);
}

void fixture_fini(fixture *f)
{
    shoal_free(f->slopes);
    shoal_free(f->grads);
    shoal_net_free(f->net);
    shoal_params_free(f->params);
    shoal_model_free(f->model);
}

static double loss_of(fixture *f, bool turn)
{
    double loss = 0;
    shoal_net_forward(f->net, f->params, &f->batch);
    size_t n = f->batch.n_targets * f->model->hp.n_vocab;
    for (size_t head = 0; head < f->n_heads; head++) {
        float *logits = shoal_net_logits(f->net, head);
        const float *slopes = f->slopes + head * n;
        for (size_t i = 0; i < n; i++) {
            loss += (double)logits[i] * (double)slopes[i];
            logits[i] = turn ? slopes[i] : logits[i];
        }
    }
    return loss;
}

double fixture_loss(fixture *f)
{
    return loss_of(f, false);
}

double fixture_backward(fixture *f)
{
    double loss = loss_of(f, true);
    memset(f->grads, 0, f->params->n_floats * sizeof *f->grads);
    shoal_net_backward(f->net, f->params, &f->batch, f->grads);
    return loss;
}

/* --- directions ------------------------------------------------------------------------------ */

/* The seed is FNV-1a of the name, plus the number. */
void fixture_direction(const shoal_param *item, unsigned number, float *ret_direction)
{
    uint64_t rng = UINT64_C(0xCBF29CE484222325);
    for (const char *c = item->name; *c; c++) {
        rng = (rng ^ (uint8_t)*c) * UINT64_C(0x100000001B3);
    }
    rng += number;
    for (size_t i = 0; i < item->n_rows * item->n_cols; i++) {
        ret_direction[i] = centred(&rng);
    }
}

double fixture_along(const fixture *f, const shoal_param *item, const float *direction,
                     double *ret_norm)
{
    const float *grads = f->grads + item->offset;
    double along = 0;
    double squares = 0;
    for (size_t i = 0; i < item->n_rows * item->n_cols; i++) {
        along += (double)grads[i] * (double)direction[i];
        squares += (double)grads[i] * (double)grads[i];
    }
    *ret_norm = sqrt(squares);
    return along;
}

static double loss_at(fixture *f, float *x, const float *saved, const float *direction, size_t n,
                      double step)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)saved[i] + step * (double)direction[i]);
    }
    return fixture_loss(f);
}

double fixture_slope(fixture *f, const shoal_param *item, const float *direction, double step)
{
    size_t n = item->n_rows * item->n_cols;
    float *x = f->params->data + item->offset;
    float *saved = shoal_calloc(n, sizeof *saved);
    assert_non_null(saved);
    memcpy(saved, x, n * sizeof *x);
    double wide = loss_at(f, x, saved, direction, n, step);
    wide -= loss_at(f, x, saved, direction, n, -step);
    double near = loss_at(f, x, saved, direction, n, step / 2);
    near -= loss_at(f, x, saved, direction, n, -step / 2);
    memcpy(x, saved, n * sizeof *x);
    shoal_free(saved);
    return (4 * near / step - wide / (2 * step)) / 3;
}

void fixture_check_slopes(fixture *f)
{
    (void)fixture_backward(f);
    for (size_t i = 0; i < f->params->n_items; i++) {
        const shoal_param *item = &f->params->items[i];
        size_t n = item->n_rows * item->n_cols;
        float *direction = shoal_calloc(n, sizeof *direction);
        assert_non_null(direction);
        fixture_direction(item, 0, direction);
        double norm = 0;
        double along = fixture_along(f, item, direction, &norm);
        double slope = fixture_slope(f, item, direction, 4e-3);
        if (!(fabs(slope - along) < 1e-2 * norm / sqrt(12) + 1e-3)) {
            fail_msg("%s %s: gradient along a direction %.7g, differences say %.7g (norm %.3g)",
                     f->model->hp.name, item->name, along, slope, norm);
        }
        shoal_free(direction);
    }
}
