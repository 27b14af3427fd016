/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: rows of tokens of several sequences through layers [a, b), then logits of
 * chosen rows. A row's bits depend on its sequence alone, never on the rows beside it (R2).
 * A shoal_forward is scratch memory for one engine thread; passes allocate nothing.
 */
#ifndef SHOAL_MODEL_FORWARD_H
#define SHOAL_MODEL_FORWARD_H

#include "common/kv/kv.h"
#include "common/model/lora.h"
#include "common/model/model.h"

/* One token at one position of one sequence. Rows of one sequence come in ascending position, and
 * positions are reserved in its KV (shoal_kv_seq_reserve). */
typedef struct shoal_row {
    shoal_kv_seq *seq;
    int32_t id;             /* in [0, n_vocab) */
    size_t position;        /* 0 is the first token */
    const shoal_lora *lora; /* of the sequence, of this model; NULL: none */
} shoal_row;

typedef struct shoal_forward shoal_forward;

/* model, kernels and pool are borrowed. n_ctx_max bounds positions. */
typedef struct shoal_forward_shape {
    size_t n_rows_max;
    size_t n_logits_max;
    size_t n_ctx_max;
    size_t n_loras_max;   /* different adapters among the rows of a pass; 0: rows have none */
    size_t lora_rank_max; /* of those adapters */
    size_t kv_budget;     /* shoal_kv_shape.budget of the rows' sequences */
} shoal_forward_shape;
shoal_status shoal_forward_new(const shoal_model *model, const shoal_kernels *kernels,
                               shoal_pool *pool, const shoal_forward_shape *shape,
                               shoal_forward **ret_forward) SHOAL_MUST_CHECK;
void shoal_forward_free(shoal_forward *forward);

/* Runs layers [layer_a, layer_b) on rows and writes their K and V. layer_a == 0 starts from the
 * embedding; otherwise the rows' hidden states of the previous call go on.
 *
 * wanted names, ascending, the n_wanted rows whose hidden states are of use afterwards: the others
 * leave the pass once layer_b - 1 has their K and V, and row i from then on is rows[wanted[i]].
 * NULL: all rows. */
void shoal_forward_layers(shoal_forward *forward, const shoal_row *rows, size_t n_rows,
                          size_t layer_a, size_t layer_b, const size_t *wanted, size_t n_wanted);

/* Between two calls of shoal_forward_layers: the hidden state of row i of the first, (dim), and
 * which rows the second goes on with. states[i] is (dim): a state of the first's, or one that was
 * copied from such a state before, at the same depth. Rows that are not named leave the pass. */
const float *shoal_forward_state(const shoal_forward *forward, size_t i);
void shoal_forward_go_on(shoal_forward *forward, const float *const *states, size_t n_states);

/* Logits of all rows that are left: out_norm, then the output matrix. At most n_logits_max. */
void shoal_forward_logits(shoal_forward *forward);
/* The same at exit `exit_i`, once the rows have come through layers [0, exits[exit_i]): its norm,
 * then the output matrix. The rows' hidden states stay as they are and may go on. */
void shoal_forward_exit_logits(shoal_forward *forward, size_t exit_i);
/* Either of the two for chosen rows that are left (indices, ascending; NULL: the first n_chosen),
 * with results from result_i on; those below stay. exit_i n_exits means the full depth. At most
 * n_logits_max results in all. */
void shoal_forward_logits_of(shoal_forward *forward, size_t exit_i, const size_t *chosen,
                             size_t n_chosen, size_t result_i);
/* Copies result `from` to `to`. */
void shoal_forward_logits_move(shoal_forward *forward, size_t from, size_t to);
/* Result i of logits of any kind, (n_vocab). */
const float *shoal_forward_logits_at(const shoal_forward *forward, size_t i);

/* Bytes of weights that products have read since new; of these, of the output matrix. */
uint64_t shoal_forward_bytes_read(const shoal_forward *forward);
uint64_t shoal_forward_bytes_heads(const shoal_forward *forward);

#endif
