/* SPDX-License-Identifier: Apache-2.0 */
#include "common/engine/depth.h"

#include "common/base/mem.h"

struct shoal_depth {
    size_t dim;
    size_t n_exits;
    size_t n_waiting_max;
    size_t filled[SHOAL_MODEL_EXITS_MAX + 1]; /* never ascending */
    float *states; /* (n_waiting_max, dim), of position p in row p % n_waiting_max */
};

shoal_status shoal_depth_new(const shoal_model *model, size_t n_waiting_max,
                             shoal_depth **ret_depth)
{
    if (model->hp.n_exits == 0) {
        return SHOAL_E_UNSUPPORTED;
    }
    if (n_waiting_max < 1 || n_waiting_max > SHOAL_DEPTH_WAITING_MAX) {
        return SHOAL_E_LIMIT;
    }
    SHOAL_CLEANUP(shoal_depth_freep) shoal_depth *depth = shoal_calloc(1, sizeof *depth);
    if (!depth) {
        return SHOAL_E_NOMEM;
    }
    depth->dim = model->hp.dim;
    depth->n_exits = model->hp.n_exits;
    depth->n_waiting_max = n_waiting_max;
    depth->states = shoal_calloc_aligned(n_waiting_max * depth->dim, sizeof *depth->states);
    if (!depth->states) {
        return SHOAL_E_NOMEM;
    }
    *ret_depth = SHOAL_STEAL(depth);
    return SHOAL_OK;
}

void shoal_depth_free(shoal_depth *depth)
{
    if (!depth) {
        return;
    }
    shoal_free(depth->states);
    shoal_free(depth);
}

size_t shoal_depth_n_waiting(const shoal_kv_seq *seq)
{
    return shoal_kv_seq_length(seq) - shoal_kv_seq_whole(seq);
}

size_t shoal_depth_n_waiting_max(const shoal_depth *depth)
{
    return depth->n_waiting_max;
}

void shoal_depth_follow(shoal_depth *depth, const shoal_kv_seq *seq)
{
    size_t length = shoal_kv_seq_length(seq);
    size_t whole = shoal_kv_seq_whole(seq);
    for (size_t i = 0; i <= depth->n_exits; i++) {
        /* Whole positions may have come from elsewhere: a kept block, another sequence. */
        depth->filled[i] = SHOAL_MAX(SHOAL_MIN(depth->filled[i], length), whole);
    }
    depth->filled[0] = length;
    SHOAL_ASSERT(depth->filled[depth->n_exits] == whole);
}

size_t shoal_depth_filled(const shoal_depth *depth, size_t exit_i)
{
    SHOAL_ASSERT(exit_i <= depth->n_exits);
    return depth->filled[exit_i];
}

void shoal_depth_fill(shoal_depth *depth, size_t exit_i, size_t end)
{
    SHOAL_ASSERT(exit_i <= depth->n_exits);
    for (size_t i = 0; i <= exit_i; i++) {
        depth->filled[i] = end;
    }
}

float *shoal_depth_state(shoal_depth *depth, size_t position)
{
    return depth->states + position % depth->n_waiting_max * depth->dim;
}
