/* SPDX-License-Identifier: Apache-2.0 */
#include "toy.h"

#include "common/base/rng.h"

#include <math.h>
#include <string.h>

shoal_params *toy_params(size_t n_layers, const size_t *exits, size_t n_exits, uint64_t seed)
{
    const shoal_hparams hp = {.arch = "llama",
                              .name = "toy",
                              .row = shoal_arch_find("llama", strlen("llama")),
                              .n_vocab = TOY_VOCAB,
                              .n_ctx = 64,
                              .dim = 16,
                              .n_layers = n_layers,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .head_dim = 4,
                              .value_dim = 4,
                              .rope_dim = 4,
                              .ffn = 24,
                              .rope_base = 10000,
                              .norm_eps = 1e-5F,
                              .attn_scale = 0.5F,
                              .embed_scale = 1,
                              .tied = true,
                              .moe = {.n_groups = 1, .n_groups_used = 1}};
    shoal_params *params = NULL;
    if (shoal_params_new(&hp, exits, n_exits, &params, NULL) != SHOAL_OK) {
        return NULL;
    }
    shoal_params_start(params, seed);
    return params;
}

shoal_status toy_source(void *ctx, uint64_t step, size_t part, shoal_train_batch *ret_batch)
{
    toy *t = ctx;
    toy_room *r = &t->rooms[part];
    size_t factor = t->factor ? t->factor : 5;
    uint64_t rng = (t->seed + step) * TOY_PARTS_MAX + part;
    if (t->fails && step == t->fails_at && part == 1) {
        return t->fails;
    }
    for (size_t i = 0; i < TOY_TOKENS; i++) {
        size_t at = i % TOY_SEGMENT;
        size_t before = at > 0 ? (size_t)r->ids[i - 1] : 0;
        size_t next =
            at == 0 ? shoal_rng_next(&rng) % TOY_VOCAB : (before * factor + 7) % TOY_VOCAB;
        r->ids[i] = (int32_t)next;
        r->positions[i] = (int32_t)at;
    }
    size_t n = 0;
    for (size_t i = 0; i < TOY_TOKENS; i++) {
        if (i % TOY_SEGMENT < 1 || i % TOY_SEGMENT == TOY_SEGMENT - 1) {
            continue;
        }
        r->targets[n] = i;
        uint64_t word = shoal_rng_next(&rng);
        bool wrong = (float)(word >> 40) * 0x1p-24F < t->noise;
        r->target_ids[n] = wrong ? (int32_t)(word % TOY_VOCAB) : r->ids[i + 1];
        r->weights[n] = n % 3 == 0 ? 0.5F : 1.0F;
        n++;
    }
    for (size_t i = 0; i <= TOY_SEGMENTS; i++) {
        r->segments[i] = i * TOY_SEGMENT;
    }
    *ret_batch = (shoal_train_batch){
        .batch = {.n_tokens = t->n_tokens ? t->n_tokens : TOY_TOKENS,
                  .ids = r->ids,
                  .positions = r->positions,
                  .n_segments = TOY_SEGMENTS,
                  .segments = r->segments,
                  .n_targets = t->n_targets ? t->n_targets : n,
                  .targets = r->targets},
        .target_ids = r->target_ids,
        .weights = r->weights,
    };
    return SHOAL_OK;
}

shoal_trainer_settings toy_settings(void)
{
    shoal_trainer_settings s = shoal_trainer_settings_default();
    s.n_parts = 2;
    s.n_tokens_max = TOY_TOKENS;
    s.n_targets_max = TOY_TOKENS;
    s.optim.n_steps = 10;
    s.optim.n_warmup = 2;
    return s;
}
