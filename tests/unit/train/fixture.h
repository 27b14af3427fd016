/* SPDX-License-Identifier: Apache-2.0
 *
 * A tiny model of any variant, its parameters and a batch of three segments, for the tests of the
 * passes.
 */
#ifndef SHOAL_TESTS_TRAIN_FIXTURE_H
#define SHOAL_TESTS_TRAIN_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/train/net.h"

enum {
    FIXTURE_TOKENS = 37 + 1 + 9,
    FIXTURE_TARGETS = 20
};

typedef struct fixture {
    shoal_model *model;
    shoal_params *params;
    shoal_net *net;
    float *grads;
    shoal_batch batch;
    int32_t ids[FIXTURE_TOKENS];
    int32_t positions[FIXTURE_TOKENS];
    size_t segments[4];
    size_t targets[FIXTURE_TARGETS];
    float *slopes; /* (n_heads, n_targets, n_vocab) gradients of the loss by logits */
    size_t n_heads;
} fixture;

shoal_model *fixture_model(const char *variant);
/* Exits at the layers given. */
void fixture_init(fixture *f, const char *variant, const size_t *exits, size_t n_exits);
void fixture_fini(fixture *f);

/* The loss of the tests is linear in the logits: the sum of slopes times logits over all heads. */
double fixture_loss(fixture *f);
/* Its gradients in f->grads, which are zeroed first. The loss is the result. */
double fixture_backward(fixture *f);

#endif
