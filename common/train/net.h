/* SPDX-License-Identifier: Apache-2.0
 *
 * Forward and backward over packed rows: the same computation as common/model/forward.h in plain
 * floats, with what the backward pass needs kept. A shoal_net is the scratch memory of one thread;
 * passes allocate nothing. Products go to OpenBLAS on the calling thread, so results do not depend
 * on how many nets run beside it.
 */
#ifndef SHOAL_TRAIN_NET_H
#define SHOAL_TRAIN_NET_H

#include "common/train/params.h"

/* Tokens of several examples, one behind the other. */
typedef struct shoal_batch {
    size_t n_tokens;
    const int32_t *ids;       /* (n_tokens) in [0, n_vocab) */
    const int32_t *positions; /* (n_tokens) */
    size_t n_segments;
    const size_t *segments; /* (n_segments + 1) ascending from 0 to n_tokens: a token attends to the
                             * tokens of its segment up to itself; a window counts them back */
    size_t n_targets;
    const size_t *targets; /* (n_targets) tokens whose logits are wanted, each once, ascending */
} shoal_batch;

typedef struct shoal_net shoal_net;

/* Scratch for batches of at most these sizes. */
shoal_status shoal_net_new(const shoal_params *params, size_t n_tokens_max, size_t n_targets_max,
                           shoal_net **ret_net) SHOAL_MUST_CHECK;
void shoal_net_free(shoal_net *net);
SHOAL_DEFINE_CLEANUP(shoal_net, shoal_net_free)

/* Layers left out of the passes that follow (layer dropout): bit i of skip[i / 64]. NULL: none. */
void shoal_net_skip(shoal_net *net, const uint64_t *skip);

/* Runs the batch. params must have the layout the net was made for and may be another block of it
 * (`data`), so that one net serves a teacher's and a student's weights of one shape. The batch is
 * looked at until the backward pass, or the last head that is asked for. */
void shoal_net_forward(shoal_net *net, const shoal_params *params, const shoal_batch *batch);

/* Heads: 0 .. n_exits - 1 are the exits, n_exits is the output. Logits (n_targets, n_vocab) of the
 * last forward; the caller turns them into gradients of the loss in place before the backward pass.
 * Computing a head's logits is done here, on demand; a head never asked for costs nothing and gives
 * no gradient. */
float *shoal_net_logits(shoal_net *net, size_t head);

/* Adds the gradients of all heads asked for since the forward pass to `grads` (a block of the
 * layout). Frozen parameters get none. params and batch are those of the forward pass, which can
 * be gone back through once: what it kept is used up. */
void shoal_net_backward(shoal_net *net, const shoal_params *params, const shoal_batch *batch,
                        float *grads);

/* Told of the input of every product of the passes that follow, before it is made: n rows of x,
 * [n][x_row] of k used elements, go through rows [row, row + n_rows) of params->items[item]. again:
 * x is that of the call before, where several parts read it. Must not touch the net. */
typedef void shoal_net_observe_fn(void *ctx, const shoal_param *item, size_t row, size_t n_rows,
                                  bool again, size_t k, size_t n, const float *x, size_t x_row);
/* fn NULL: nobody. */
void shoal_net_observe(shoal_net *net, shoal_net_observe_fn *fn, void *ctx);

/* Multiply-adds of products since new, counted as two operations each. */
uint64_t shoal_net_flops(const shoal_net *net);

#endif
