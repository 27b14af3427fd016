/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <string.h>

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

/* A long segment, one of a single token, a short one; targets in all of them. */
static void make_batch(fixture *f)
{
    static const size_t segments[] = {0, 37, 38, FIXTURE_TOKENS};
    uint64_t rng = 11;
    memcpy(f->segments, segments, sizeof segments);
    for (size_t s = 0; s + 1 < SHOAL_COUNT(segments); s++) {
        for (size_t i = segments[s]; i < segments[s + 1]; i++) {
            f->ids[i] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
            f->positions[i] = (int32_t)(i - segments[s]);
        }
    }
    size_t n = 0;
    for (size_t i = 1; i < FIXTURE_TOKENS && n < FIXTURE_TARGETS; i++) {
        if (i % 3 == 1 || i > 40) {
            f->targets[n++] = i;
        }
    }
    assert_int_equal(n, FIXTURE_TARGETS);
    assert_int_equal(f->targets[n - 1], FIXTURE_TOKENS - 1);
    f->batch = (shoal_batch){.n_tokens = FIXTURE_TOKENS,
                             .ids = f->ids,
                             .positions = f->positions,
                             .n_segments = 3,
                             .segments = f->segments,
                             .n_targets = n,
                             .targets = f->targets};
}

void fixture_init(fixture *f, const char *variant, const size_t *exits, size_t n_exits)
{
    memset(f, 0, sizeof *f);
    f->model = fixture_model(variant);
    make_batch(f);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_params_new(&f->model->hp, exits, n_exits, &f->params, &err), SHOAL_OK);
    assert_int_equal(shoal_params_from_model(f->params, f->model, &err), SHOAL_OK);
    assert_int_equal(shoal_net_new(f->params, FIXTURE_TOKENS, FIXTURE_TARGETS, &f->net), SHOAL_OK);
    f->grads = shoal_params_block(f->params);
    f->n_heads = n_exits + 1;
    size_t n = f->n_heads * FIXTURE_TARGETS * f->model->hp.n_vocab;
    f->slopes = shoal_calloc(n, sizeof *f->slopes);
    assert_true(f->grads && f->slopes);
    uint64_t rng = 5;
    for (size_t i = 0; i < n; i++) {
        f->slopes[i] = (float)(shoal_rng_next(&rng) >> 40) * 0x1p-24F - 0.5F;
    }
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
    size_t n = FIXTURE_TARGETS * f->model->hp.n_vocab;
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
