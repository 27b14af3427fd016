/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model_internal.h"

#include <math.h>
#include <string.h>

enum {
    GATING_SOFTMAX = 1,
    GATING_SIGMOID = 2,
    NAMES_MAX = 256
};

static bool has(const shoal_keys *keys, uint32_t flag)
{
    return (keys->arch->flags & flag) != 0;
}

static shoal_status get_arch(const shoal_gguf *gguf, shoal_hparams *hp, shoal_err *err)
{
    shoal_str arch;
    SHOAL_TRY(shoal_gguf_get_str(gguf, "general.architecture", &arch, err));
    hp->row = shoal_arch_find(arch.data, arch.length);
    if (!hp->row) {
        char names[NAMES_MAX];
        shoal_arch_names(names, sizeof names);
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "general.architecture: \"%.*s\" is not supported; known: %s",
                             (int)SHOAL_MIN(arch.length, (size_t)40), arch.data, names);
    }
    memcpy(hp->arch, arch.data, arch.length);
    shoal_str name = {.data = "unnamed", .length = 7};
    shoal_str given;
    if (shoal_gguf_get_str(gguf, "general.name", &given, NULL) == SHOAL_OK && given.length > 0) {
        name = given;
    }
    size_t n = SHOAL_MIN(name.length, sizeof hp->name - 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name.data[i];
        hp->name[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    return SHOAL_OK;
}

/* Width, depth, and what every architecture states. */
static shoal_status read_shape(const shoal_keys *keys, shoal_hparams *hp)
{
    SHOAL_TRY(shoal_keys_need(keys, "embedding_length", SHOAL_MODEL_DIM_MAX, &hp->dim));
    SHOAL_TRY(shoal_keys_need(keys, "block_count", SHOAL_MODEL_LAYERS_MAX, &hp->n_layers));
    SHOAL_TRY(shoal_keys_need(keys, "context_length", SHOAL_MODEL_CTX_MAX, &hp->n_ctx));
    SHOAL_TRY(shoal_keys_need(keys, "attention.head_count", SHOAL_MODEL_HEADS_MAX, &hp->n_heads));
    hp->n_kv_heads = hp->n_heads;
    SHOAL_TRY(shoal_keys_count(keys, "attention.head_count_kv", 1, SHOAL_MODEL_HEADS_MAX,
                               &hp->n_kv_heads));
    double eps = (double)NAN;
    SHOAL_TRY(shoal_keys_real(keys, "attention.layer_norm_rms_epsilon", 0, 1, &eps));
    if (isnan(eps)) {
        return shoal_err_set(keys->err, SHOAL_E_NOTFOUND,
                             "%s.attention.layer_norm_rms_epsilon is missing: a number is expected",
                             hp->arch);
    }
    double base = 10000;
    SHOAL_TRY(shoal_keys_real(keys, "rope.freq_base", 1, 1e12, &base));
    hp->norm_eps = (float)eps;
    hp->rope_base = (float)base;
    if (hp->n_heads % hp->n_kv_heads != 0) {
        return shoal_err_set(keys->err, SHOAL_E_INVALID,
                             "%s.attention.head_count_kv: %zu does not divide head_count %zu",
                             hp->arch, hp->n_kv_heads, hp->n_heads);
    }
    return SHOAL_OK;
}

/* Widths of a head. */
static shoal_status read_heads(const shoal_keys *keys, shoal_hparams *hp)
{
    hp->head_dim = hp->dim / hp->n_heads;
    SHOAL_TRY(
        shoal_keys_count(keys, "attention.key_length", 1, SHOAL_MODEL_LATENT_MAX, &hp->head_dim));
    SHOAL_TRY(shoal_keys_count(keys, "attention.key_length_mla", 1, SHOAL_MODEL_LATENT_MAX,
                               &hp->head_dim));
    if (hp->head_dim < 1 || hp->head_dim > SHOAL_HEAD_DIM_MAX) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT,
                             "%s.attention.key_length: a head width of %zu is outside 1 to %d "
                             "(width %zu, %zu heads)",
                             hp->arch, hp->head_dim, (int)SHOAL_HEAD_DIM_MAX, hp->dim, hp->n_heads);
    }
    hp->value_dim = hp->head_dim;
    SHOAL_TRY(
        shoal_keys_count(keys, "attention.value_length", 1, SHOAL_HEAD_DIM_MAX, &hp->value_dim));
    SHOAL_TRY(shoal_keys_count(keys, "attention.value_length_mla", 1, SHOAL_HEAD_DIM_MAX,
                               &hp->value_dim));
    hp->rope_dim = hp->head_dim;
    SHOAL_TRY(shoal_keys_count(keys, "rope.dimension_count", 1, SHOAL_HEAD_DIM_MAX, &hp->rope_dim));
    if (hp->head_dim % 2 != 0 || hp->rope_dim % 2 != 0 || hp->rope_dim > hp->head_dim ||
        hp->value_dim % 2 != 0) {
        return shoal_err_set(keys->err, SHOAL_E_INVALID,
                             "%s.rope.dimension_count: %zu must be even and at most the head "
                             "width %zu, which must be even too, and so must be the values' %zu",
                             hp->arch, hp->rope_dim, hp->head_dim, hp->value_dim);
    }
    return SHOAL_OK;
}

/* Ranks of latent attention, and what the cache then holds. */
static shoal_status read_latent(const shoal_keys *keys, bool expanded, shoal_hparams *hp)
{
    if (!has(keys, SHOAL_ARCH_MLA)) {
        if (expanded) {
            return shoal_err_set(keys->err, SHOAL_E_UNSUPPORTED,
                                 "%s has no latent attention to expand", hp->arch);
        }
        return SHOAL_OK;
    }
    shoal_mla *mla = &hp->mla;
    SHOAL_TRY(shoal_keys_need(keys, "attention.kv_lora_rank", SHOAL_MODEL_LATENT_MAX, &mla->rank));
    SHOAL_TRY(
        shoal_keys_count(keys, "attention.q_lora_rank", 0, SHOAL_MODEL_LATENT_MAX, &mla->q_rank));
    if (hp->rope_dim >= hp->head_dim || mla->rank % 2 != 0) {
        return shoal_err_set(keys->err, SHOAL_E_INVALID,
                             "%s.rope.dimension_count: %zu must leave channels of a head of %zu, "
                             "and kv_lora_rank %zu must be even",
                             hp->arch, hp->rope_dim, hp->head_dim, mla->rank);
    }
    if (!expanded && mla->rank + hp->rope_dim > SHOAL_HEAD_DIM_MAX) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT,
                             "%s.attention.kv_lora_rank: %zu with %zu rotated channels is over %d",
                             hp->arch, mla->rank, hp->rope_dim, (int)SHOAL_HEAD_DIM_MAX);
    }
    mla->plain = hp->head_dim - hp->rope_dim;
    mla->expanded = expanded;
    /* Files made for the absorbed form state one head, older ones as many as queries have. */
    hp->n_kv_heads = expanded ? hp->n_heads : 1;
    return SHOAL_OK;
}

/* Scale and cap of the scores, cap of the logits, scale of the embeddings. */
static shoal_status read_scales(const shoal_keys *keys, shoal_hparams *hp)
{
    size_t width = hp->n_layers == hp->row->wide_layers ? hp->dim / hp->n_heads : hp->head_dim;
    double scale = 0;
    double attn_cap = (double)hp->row->attn_softcap;
    double final_cap = (double)hp->row->final_softcap;
    SHOAL_TRY(shoal_keys_real(keys, "attention.scale", 0, 1e3, &scale));
    SHOAL_TRY(shoal_keys_real(keys, "attn_logit_softcapping", 0, 1e6, &attn_cap));
    SHOAL_TRY(shoal_keys_real(keys, "final_logit_softcapping", 0, 1e6, &final_cap));
    hp->attn_scale = scale > 0 ? (float)scale : 1.0F / sqrtf((float)width);
    hp->attn_softcap = (float)attn_cap;
    hp->final_softcap = (float)final_cap;
    hp->embed_scale = has(keys, SHOAL_ARCH_EMBED_SCALE) ? sqrtf((float)hp->dim) : 1.0F;
    return SHOAL_OK;
}

/* Of every `period` layers the last sees all, the others the window; period 0: none sees all. */
static shoal_status read_windows(const shoal_keys *keys, shoal_hparams *hp)
{
    size_t window = hp->row->window;
    size_t period = hp->row->window_period;
    SHOAL_TRY(shoal_keys_count(keys, "attention.sliding_window", 0, SHOAL_MODEL_CTX_MAX, &window));
    SHOAL_TRY(shoal_keys_count(keys, "attention.sliding_window_pattern", 0, SHOAL_MODEL_LAYERS_MAX,
                               &period));
    if (hp->row->window_period > 0 && window == 0) {
        return shoal_err_set(keys->err, SHOAL_E_INVALID,
                             "%s.attention.sliding_window: missing or 0; this architecture has "
                             "layers with a window",
                             hp->arch);
    }
    for (size_t i = 0; i < hp->n_layers; i++) {
        hp->windows[i] = period > 0 && i % period == period - 1 ? 0 : window;
    }
    return SHOAL_OK;
}

static shoal_status read_gating(const shoal_keys *keys, shoal_moe *moe)
{
    size_t gating = GATING_SOFTMAX;
    double scale = 0;
    moe->norm_weights = has(keys, SHOAL_ARCH_EXPERTS_NORM);
    SHOAL_TRY(
        shoal_keys_count(keys, "expert_gating_func", GATING_SOFTMAX, GATING_SIGMOID, &gating));
    SHOAL_TRY(shoal_keys_bool(keys, "expert_weights_norm", &moe->norm_weights));
    SHOAL_TRY(shoal_keys_real(keys, "expert_weights_scale", 0, 1e6, &scale));
    moe->sigmoid = gating == GATING_SIGMOID;
    moe->scale = scale > 0 ? (float)scale : 1.0F;
    return SHOAL_OK;
}

static shoal_status read_groups(const shoal_keys *keys, shoal_moe *moe)
{
    size_t most = moe->n_experts;
    moe->n_groups = 1;
    SHOAL_TRY(shoal_keys_count(keys, "expert_group_count", 0, most, &moe->n_groups));
    moe->n_groups = SHOAL_MAX(moe->n_groups, (size_t)1);
    moe->n_groups_used = moe->n_groups;
    SHOAL_TRY(shoal_keys_count(keys, "expert_group_used_count", 0, most, &moe->n_groups_used));
    moe->n_groups_used = moe->n_groups_used ? moe->n_groups_used : moe->n_groups;
    if (moe->n_experts % moe->n_groups != 0 || moe->n_groups_used > moe->n_groups ||
        moe->n_experts / moe->n_groups * moe->n_groups_used < moe->n_used) {
        return shoal_err_set(keys->err, SHOAL_E_INVALID,
                             "%s.expert_group_count: %zu groups, %zu of them used, do not fit %zu "
                             "experts of which %zu are used",
                             keys->arch->name, moe->n_groups, moe->n_groups_used, moe->n_experts,
                             moe->n_used);
    }
    return SHOAL_OK;
}

static shoal_status read_experts(const shoal_keys *keys, shoal_hparams *hp)
{
    shoal_moe *moe = &hp->moe;
    size_t n_shared = 0;
    SHOAL_TRY(shoal_keys_count(keys, "expert_count", 0, SHOAL_MODEL_EXPERTS_MAX, &moe->n_experts));
    if (moe->n_experts == 0) {
        if (has(keys, SHOAL_ARCH_EXPERTS)) {
            return shoal_err_set(keys->err, SHOAL_E_INVALID,
                                 "%s.expert_count: missing or 0 in a mixture of experts", hp->arch);
        }
        return SHOAL_OK;
    }
    size_t most = SHOAL_MIN(moe->n_experts, (size_t)SHOAL_MODEL_EXPERTS_USED_MAX);
    SHOAL_TRY(shoal_keys_need(keys, "expert_used_count", most, &moe->n_used));
    moe->ffn = hp->ffn;
    SHOAL_TRY(
        shoal_keys_count(keys, "expert_feed_forward_length", 1, SHOAL_MODEL_FFN_MAX, &moe->ffn));
    SHOAL_TRY(shoal_keys_count(keys, "expert_shared_count", 0, SHOAL_MODEL_EXPERTS_MAX, &n_shared));
    moe->ffn_shared = moe->ffn * n_shared;
    SHOAL_TRY(shoal_keys_count(keys, "expert_shared_feed_forward_length", 0, SHOAL_MODEL_FFN_MAX,
                               &moe->ffn_shared));
    SHOAL_TRY(shoal_keys_count(keys, "leading_dense_block_count", 0, hp->n_layers, &moe->n_dense));
    if (moe->ffn < 1 || moe->ffn_shared > SHOAL_MODEL_FFN_MAX) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT,
                             "%s.expert_feed_forward_length: experts of %zu, %zu shared, are "
                             "outside 1 to %d",
                             hp->arch, moe->ffn, n_shared, (int)SHOAL_MODEL_FFN_MAX);
    }
    SHOAL_TRY(read_gating(keys, moe));
    return read_groups(keys, moe);
}

/* The dense width may be absent where no layer is dense. */
static shoal_status read_ffn(const shoal_keys *keys, shoal_hparams *hp)
{
    SHOAL_TRY(shoal_keys_count(keys, "feed_forward_length", has(keys, SHOAL_ARCH_EXPERTS) ? 0 : 1,
                               SHOAL_MODEL_FFN_MAX, &hp->ffn));
    SHOAL_TRY(read_experts(keys, hp));
    bool dense = hp->moe.n_experts == 0 || hp->moe.n_dense > 0;
    if (dense && hp->ffn == 0) {
        return shoal_err_set(keys->err, SHOAL_E_NOTFOUND,
                             "%s.feed_forward_length is missing: an integer is expected", hp->arch);
    }
    return SHOAL_OK;
}

shoal_status shoal_hparams_read(const shoal_gguf *gguf, bool expanded, shoal_hparams *ret_hp,
                                shoal_err *err)
{
    memset(ret_hp, 0, sizeof *ret_hp);
    SHOAL_TRY(get_arch(gguf, ret_hp, err));
    shoal_keys keys = {.gguf = gguf, .arch = ret_hp->row, .err = err};
    SHOAL_TRY(shoal_keys_check_all(&keys));
    SHOAL_TRY(read_shape(&keys, ret_hp));
    SHOAL_TRY(read_heads(&keys, ret_hp));
    SHOAL_TRY(read_latent(&keys, expanded, ret_hp));
    SHOAL_TRY(read_scales(&keys, ret_hp));
    SHOAL_TRY(read_windows(&keys, ret_hp));
    SHOAL_TRY(read_ffn(&keys, ret_hp));
    return shoal_exits_read_layers(gguf, ret_hp, err);
}
