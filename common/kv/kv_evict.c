/* SPDX-License-Identifier: Apache-2.0
 *
 * KV that is evicted: a head's tokens have slots, the first ones in order of position, then each
 * the slot of the one it replaces, layer by layer and head by head. Slots fill whole pages, so no
 * page is ever half empty and a sequence of any length takes those of the budget.
 *
 * A row evicts, stores, attends and books what attention it paid before the next row of its
 * sequence does, in prompts as in decoding, so what is held follows from the text and not from
 * chunks (R2); the price is that rows of a prompt do not share what they read.
 *
 * What cannot be: sealed types keep 32 tokens together, a window is a ring, q8t has its scales in
 * the way of shares; the pool refuses them, and the engine latent attention, whose keys have no
 * heads. Nothing goes back past an eviction, nor at all where refused tokens would have paid
 * attention: the text is fed again from its tokens (R3). A block does not hold 32 tokens in order,
 * so none is shared, kept or moved; the forms (shoal_kv_form, and the engine's) name policy and
 * budget, so blocks of other KV are not taken for these.
 */
#include "common/kv/kv_internal.h"

bool shoal_kv_evicts(const shoal_kv_seq *seq)
{
    return seq->pool->shape.evict;
}

size_t shoal_kv_n_held(const shoal_kv_seq *seq, size_t n_tokens)
{
    return shoal_kv_held_of(&seq->pool->shape, n_tokens);
}

/* The slot of a position, whose token it is from now on. */
static size_t take_slot(shoal_kv_seq *seq, size_t head_i, size_t position)
{
    const shoal_kv_shape *shape = &seq->pool->shape;
    uint32_t *positions = seq->held_positions + head_i * shape->budget;
    float *mass = seq->held_mass ? seq->held_mass + head_i * shape->budget : NULL;
    size_t slot = position;
    if (position >= shape->budget) {
        const shoal_kv_held held = {.n = shape->budget, .positions = positions, .mass = mass};
        slot = shape->evict->victim(&held, position);
        SHOAL_ASSERT(slot < shape->budget);
    }
    positions[slot] = (uint32_t)position;
    if (mass) {
        mass[slot] = 0;
    }
    return slot;
}

void shoal_kv_attend_evicting(const shoal_kernels *kernels, shoal_kv_seq *seq, size_t layer,
                              size_t kv_head, size_t position, const float *k, const float *v,
                              const void **k_blocks, const void **v_blocks, float *shares,
                              shoal_attend *a)
{
    const shoal_kv_shape *shape = &seq->pool->shape;
    size_t head_i = layer * shape->n_kv_heads + kv_head;
    size_t n = shoal_kv_n_held(seq, position + 1);
    SHOAL_ASSERT(shape->evict && a->n_rows == 1);
    shoal_kv_store_slot(kernels, seq, layer, kv_head, take_slot(seq, head_i, position), k, v);
    shoal_kv_blocks(seq, layer, kv_head, 0, n, k_blocks, v_blocks);
    a->n_tokens = n;
    a->window = 0;
    a->k_blocks = k_blocks;
    a->v_blocks = v_blocks;
    a->shares = seq->held_mass ? shares : NULL;
    a->shares_stride = shape->budget;
    shoal_kv_attend(kernels, seq, 0, a);
    float *mass = seq->held_mass ? seq->held_mass + head_i * shape->budget : NULL;
    for (size_t head = 0; mass && head < a->n_heads; head++) {
        for (size_t i = 0; i < n; i++) {
            mass[i] = mass[i] + shares[head * shape->budget + i];
        }
    }
}
