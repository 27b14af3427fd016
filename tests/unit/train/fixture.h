/* SPDX-License-Identifier: Apache-2.0
 *
 * A tiny model of any variant, its parameters and a batch of some segments, for the tests of the
 * passes. Numbers are those that tests/golden/gradients.py draws.
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
    FIXTURE_TOKENS_MAX = 200,
    FIXTURE_SEGMENTS_MAX = 4
};

typedef struct fixture {
    shoal_model *model;
    shoal_params *params;
    shoal_net *net;
    float *grads;
    shoal_batch batch;
    int32_t ids[FIXTURE_TOKENS_MAX];
    int32_t positions[FIXTURE_TOKENS_MAX];
    size_t segments[FIXTURE_SEGMENTS_MAX + 1];
    size_t targets[FIXTURE_TOKENS_MAX];
    float *slopes; /* (n_heads, n_targets, n_vocab) gradients of the loss by logits */
    size_t n_heads;
} fixture;

shoal_model *fixture_model(const char *variant);
/* Segments of 37, 1 and 9 tokens, of which 20 are targets; exits after the layers given. */
void fixture_init(fixture *f, const char *variant, const size_t *exits, size_t n_exits);
/* One segment of n tokens, of which every third is a target; one exit after layer 1. */
void fixture_init_long(fixture *f, const char *variant, size_t n);
void fixture_fini(fixture *f);

/* The loss of the tests is linear in the logits: the sum of slopes times logits over all heads. */
double fixture_loss(fixture *f);
/* Its gradients in f->grads, which are zeroed first. The loss is the result. */
double fixture_backward(fixture *f);

/* A direction within one parameter, uniform in [-1/2, 1/2): (n_rows, n_cols). */
void fixture_direction(const shoal_param *item, unsigned number, float *ret_direction);
/* The gradient of an item along a direction, and its norm. */
double fixture_along(const fixture *f, const shoal_param *item, const float *direction,
                     double *ret_norm);
/* The slope of the loss along a direction by Richardson's extrapolation of central differences. */
double fixture_slope(fixture *f, const shoal_param *item, const float *direction, double step);
/* Holds the gradients of every item to such slopes, within what binary32 leaves of them. */
void fixture_check_slopes(fixture *f);

#endif
