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

#include "common/tensor/type.h"

#include <math.h>

enum {
    BLOCK = SHOAL_KV_BLOCK
};

/* The keys that one head holds. */
typedef struct head_keys {
    shoal_kv_type type; /* f32 or f16 */
    size_t n;           /* tokens: full blocks */
    size_t dim;
    const void *const *blocks; /* [n / BLOCK], each [dim][BLOCK] */
} head_keys;

bool shoal_kv_evicts(const shoal_kv_seq *seq)
{
    return seq->pool->shape.evict;
}

size_t shoal_kv_n_held(const shoal_kv_seq *seq, size_t n_tokens)
{
    return shoal_kv_held_of(&seq->pool->shape, n_tokens);
}

static float key_element(const head_keys *keys, size_t token, size_t channel)
{
    const void *block = keys->blocks[token / BLOCK];
    size_t i = channel * BLOCK + token % BLOCK;
    return keys->type == SHOAL_KV_F32 ? ((const float *)block)[i]
                                      : shoal_f16_to_f32(((const uint16_t *)block)[i]);
}

/* Of a block the squares of all its keys' lengths, and their products with some tokens' keys. The
 * order of sums is that of channels, so every build has the same bits. */
static void block_products(const head_keys *keys, size_t block, const size_t *tokens,
                           size_t n_tokens, float ret_squares[BLOCK],
                           float ret_products[SHOAL_KV_LIGHTEST][BLOCK])
{
    for (size_t lane = 0; lane < BLOCK; lane++) {
        ret_squares[lane] = 0;
        for (size_t i = 0; i < n_tokens; i++) {
            ret_products[i][lane] = 0;
        }
    }
    for (size_t c = 0; c < keys->dim; c++) {
        float row[BLOCK];
        for (size_t lane = 0; lane < BLOCK; lane++) {
            row[lane] = key_element(keys, block * BLOCK + lane, c);
            ret_squares[lane] += row[lane] * row[lane];
        }
        for (size_t i = 0; i < n_tokens; i++) {
            float x = key_element(keys, tokens[i], c);
            for (size_t lane = 0; lane < BLOCK; lane++) {
                ret_products[i][lane] += x * row[lane];
            }
        }
    }
}

/* The held tokens' nearest, see evict.h. */
static void find_nearest(const void *ctx, const size_t *tokens, size_t n_tokens, float *ret_nearest)
{
    const head_keys *keys = ctx;
    float own[SHOAL_KV_LIGHTEST];
    for (size_t i = 0; i < n_tokens; i++) {
        own[i] = 0;
        ret_nearest[i] = 0;
        for (size_t c = 0; c < keys->dim; c++) {
            float x = key_element(keys, tokens[i], c);
            own[i] += x * x;
        }
    }
    for (size_t b = 0; b < keys->n / BLOCK; b++) {
        float squares[BLOCK];
        float products[SHOAL_KV_LIGHTEST][BLOCK];
        block_products(keys, b, tokens, n_tokens, squares, products);
        for (size_t i = 0; i < n_tokens * BLOCK; i++) {
            size_t t = i / BLOCK;
            size_t lane = i % BLOCK;
            float cosine = products[t][lane] / (sqrtf(own[t]) * sqrtf(squares[lane]));
            if (b * BLOCK + lane != tokens[t] && cosine > ret_nearest[t]) {
                ret_nearest[t] = cosine < 1 ? cosine : 1; /* what is no number is not greater */
            }
        }
    }
}

/* The slot of a position, whose token it is from now on. k_blocks has place for the blocks of all
 * that is held. */
static size_t take_slot(shoal_kv_seq *seq, size_t layer, size_t kv_head, size_t position,
                        const void **k_blocks, const void **v_blocks)
{
    const shoal_kv_shape *shape = &seq->pool->shape;
    size_t head_i = layer * shape->n_kv_heads + kv_head;
    uint32_t *positions = seq->held_positions + head_i * shape->budget;
    float *mass = seq->held_mass ? seq->held_mass + head_i * shape->budget : NULL;
    size_t slot = position;
    if (position >= shape->budget) {
        const head_keys keys = {
            .type = shape->type, .n = shape->budget, .dim = shape->k_dim, .blocks = k_blocks};
        shoal_kv_held held = {.n = shape->budget, .positions = positions, .mass = mass};
        if (shape->evict->by_keys) {
            shoal_kv_blocks(seq, layer, kv_head, 0, shape->budget, k_blocks, v_blocks);
            held.nearest = find_nearest;
            held.ctx = &keys;
        }
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
    size_t slot = take_slot(seq, layer, kv_head, position, k_blocks, v_blocks);
    shoal_kv_store_slot(kernels, seq, layer, kv_head, slot, k, v);
    shoal_kv_blocks(seq, layer, kv_head, 0, n, k_blocks, v_blocks);
    a->n_tokens = n;
    a->window = 0;
    a->k_blocks = k_blocks;
    a->v_blocks = v_blocks;
    a->shares = seq->held_mass ? shares : NULL;
    a->shares_stride = shape->budget;
    shoal_kv_attend(kernels, seq, layer, 0, a);
    float *mass = seq->held_mass ? seq->held_mass + head_i * shape->budget : NULL;
    for (size_t head = 0; mass && head < a->n_heads; head++) {
        for (size_t i = 0; i < n; i++) {
            float kept = head == 0 ? mass[i] * shape->evict->kept : mass[i];
            mass[i] = kept + shares[head * shape->budget + i];
        }
    }
}
