/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_arch.h"

#include "tests/support/tiny_internal.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <string.h>

enum {
    DIM = 64,
    FFN = 96,
    N_HEADS = 4,
    BIAS = 1,
    QK_NORM = 2,
    POST_NORMS = 4,
    FUSED = 8,
    TIED = 16,
    ROPE_FREQS = 32,    /* one tensor of factors */
    ROPE_FACTORS = 64,  /* a long and a short one */
    SPLIT_LATENT = 128, /* attn_k_b and attn_v_b, not attn_kv_b */
    CHOICE_BIAS = 256,
    KEYS_MAX = 8
};

typedef struct key {
    const char *suffix; /* after "<arch>." */
    char kind;          /* 'u', 'f', 'b' or 's' */
    double value;
    const char *text;
} key;

typedef struct variant {
    const char *name;
    const char *arch;
    unsigned flags;
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t rope_dim;
    uint32_t n_experts; /* 0: dense */
    uint32_t n_used;    /* experts of a token */
    uint32_t n_dense;   /* leading layers without experts */
    uint32_t ffn;       /* of an expert */
    uint32_t shared;    /* hidden width of the shared expert */
    uint32_t rank;      /* of the latent; 0: none */
    uint32_t q_rank;
    uint32_t value_dim; /* with a latent */
    key keys[KEYS_MAX]; /* beside those that follow from the numbers above */
} variant;

static const variant variants[] = {
    {.name = "llama-linear",
     .arch = "llama",
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"rope.scaling.type", 's', 0, "linear"}, {"rope.scaling.factor", 'f', 4, NULL}}},
    {.name = "llama3",
     .arch = "llama",
     .flags = ROPE_FREQS | TIED,
     .n_layers = 2,
     .n_kv_heads = 1,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"rope.freq_base", 'f', 500000, NULL}}},
    {.name = "llama-yarn",
     .arch = "llama",
     .n_layers = 2,
     .n_kv_heads = 4,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"rope.scaling.type", 's', 0, "yarn"},
              {"rope.scaling.factor", 'f', 8, NULL},
              {"rope.scaling.original_context_length", 'u', 128, NULL}}},
    {.name = "mistral",
     .arch = "llama",
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"attention.sliding_window", 'u', 20, NULL}}},
    {.name = "mixtral",
     .arch = "llama",
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 16,
     .rope_dim = 16,
     .n_experts = 4,
     .n_used = 2,
     .ffn = FFN},
    {.name = "qwen2",
     .arch = "qwen2",
     .flags = BIAS | TIED,
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"rope.freq_base", 'f', 1000000, NULL}}},
    {.name = "qwen3",
     .arch = "qwen3",
     .flags = QK_NORM,
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 32,
     .rope_dim = 32},
    {.name = "qwen2moe",
     .arch = "qwen2moe",
     .flags = BIAS,
     .n_layers = 2,
     .n_kv_heads = 4,
     .head_dim = 16,
     .rope_dim = 16,
     .n_experts = 6,
     .n_used = 3,
     .ffn = 32,
     .shared = 64},
    {.name = "qwen3moe",
     .arch = "qwen3moe",
     .flags = QK_NORM,
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 32,
     .rope_dim = 32,
     .n_experts = 8,
     .n_used = 2,
     .ffn = 32},
    {.name = "gemma2",
     .arch = "gemma2",
     .flags = POST_NORMS | TIED,
     .n_layers = 4,
     .n_kv_heads = 2,
     .head_dim = 32,
     .rope_dim = 32,
     .keys = {{"attention.sliding_window", 'u', 16, NULL},
              {"attn_logit_softcapping", 'f', 2, NULL},
              {"final_logit_softcapping", 'f', 6, NULL}}},
    {.name = "gemma3",
     .arch = "gemma3",
     .flags = POST_NORMS | QK_NORM | TIED,
     .n_layers = 7,
     .n_kv_heads = 1,
     .head_dim = 32,
     .rope_dim = 32,
     .keys = {{"attention.sliding_window", 'u', 12, NULL},
              {"rope.freq_base", 'f', 1000000, NULL},
              {"rope.scaling.type", 's', 0, "linear"},
              {"rope.scaling.factor", 'f', 8, NULL}}},
    {.name = "phi3",
     .arch = "phi3",
     .flags = FUSED,
     .n_layers = 2,
     .n_kv_heads = 2,
     .head_dim = 16,
     .rope_dim = 12,
     .keys = {{"attention.sliding_window", 'u', 24, NULL}}},
    {.name = "phi3-long",
     .arch = "phi3",
     .flags = FUSED | ROPE_FACTORS,
     .n_layers = 2,
     .n_kv_heads = 4,
     .head_dim = 16,
     .rope_dim = 16,
     .keys = {{"rope.scaling.original_context_length", 'u', 64, NULL},
              {"rope.scaling.attn_factor", 'f', 1.25, NULL}}},
    {.name = "deepseek2-lite",
     .arch = "deepseek2",
     .n_layers = 3,
     .n_kv_heads = 4,
     .head_dim = 24,
     .rope_dim = 8,
     .n_experts = 6,
     .n_used = 2,
     .n_dense = 1,
     .ffn = 32,
     .shared = 64,
     .rank = 32,
     .value_dim = 16,
     .keys = {{"expert_weights_scale", 'f', 1.5, NULL},
              {"rope.scaling.type", 's', 0, "yarn"},
              {"rope.scaling.factor", 'f', 16, NULL},
              {"rope.scaling.original_context_length", 'u', 64, NULL},
              {"rope.scaling.yarn_log_multiplier", 'f', 0.0707, NULL}}},
    {.name = "deepseek2",
     .arch = "deepseek2",
     .flags = SPLIT_LATENT | CHOICE_BIAS,
     .n_layers = 3,
     .n_kv_heads = 1,
     .head_dim = 24,
     .rope_dim = 8,
     .n_experts = 8,
     .n_used = 3,
     .n_dense = 1,
     .ffn = 32,
     .shared = 32,
     .rank = 32,
     .q_rank = 32,
     .value_dim = 16,
     .keys = {{"expert_gating_func", 'u', 2, NULL},
              {"expert_weights_norm", 'b', 1, NULL},
              {"expert_weights_scale", 'f', 2.5, NULL},
              {"expert_group_count", 'u', 4, NULL},
              {"expert_group_used_count", 'u', 2, NULL}}},
};

const char *const shoal_tiny_archs[] = {"llama-linear", "llama3",         "llama-yarn", "mistral",
                                        "mixtral",      "qwen2",          "qwen3",      "qwen2moe",
                                        "qwen3moe",     "gemma2",         "gemma3",     "phi3",
                                        "phi3-long",    "deepseek2-lite", "deepseek2"};
const size_t shoal_tiny_archs_n = SHOAL_COUNT(shoal_tiny_archs);

/* --- metadata -------------------------------------------------------------------------------- */

static shoal_status put_key(tiny *t, const variant *v, const key *k)
{
    char name[96];
    snprintf(name, sizeof(name), "%s.%s", v->arch, k->suffix);
    switch (k->kind) {
    case 'u':
        return shoal_gguf_put_u32(t->writer, name, (uint32_t)k->value);
    case 'b':
        return shoal_gguf_put_bool(t->writer, name, k->value != 0);
    case 's':
        return shoal_gguf_put_str(t->writer, name, k->text);
    default:
        return shoal_gguf_put_f32(t->writer, name, (float)k->value);
    }
}

static uint32_t value_dim(const variant *v)
{
    return v->rank > 0 ? v->value_dim : v->head_dim;
}

static shoal_status put_hparams(tiny *t, const variant *v)
{
    bool heads = v->head_dim != DIM / N_HEADS; /* files name their sizes only where they must */
    bool split = v->flags & SPLIT_LATENT;
    bool experts = v->n_experts > 0;
    bool shared = v->shared > 0;
    bool latent = v->rank > 0;
    const struct {
        bool wanted;
        key key;
    } keys[] = {
        {true, {"context_length", 'u', SHOAL_TINY_CTX, NULL}},
        {true, {"embedding_length", 'u', DIM, NULL}},
        {true, {"block_count", 'u', v->n_layers, NULL}},
        {true, {"feed_forward_length", 'u', FFN, NULL}},
        {true, {"attention.head_count", 'u', N_HEADS, NULL}},
        {true, {"attention.head_count_kv", 'u', v->n_kv_heads, NULL}},
        {true, {"rope.dimension_count", 'u', v->rope_dim, NULL}},
        {true, {"attention.layer_norm_rms_epsilon", 'f', 1e-5, NULL}},
        {heads && !split, {"attention.key_length", 'u', v->head_dim, NULL}},
        {heads && !split, {"attention.value_length", 'u', value_dim(v), NULL}},
        {heads && split, {"attention.key_length_mla", 'u', v->head_dim, NULL}},
        {heads && split, {"attention.value_length_mla", 'u', value_dim(v), NULL}},
        {latent, {"attention.kv_lora_rank", 'u', v->rank, NULL}},
        {v->q_rank > 0, {"attention.q_lora_rank", 'u', v->q_rank, NULL}},
        {experts, {"expert_count", 'u', v->n_experts, NULL}},
        {experts, {"expert_used_count", 'u', v->n_used, NULL}},
        {experts && v->ffn != FFN, {"expert_feed_forward_length", 'u', v->ffn, NULL}},
        {shared && latent, {"expert_shared_count", 'u', v->shared / SHOAL_MAX(v->ffn, 1U), NULL}},
        {shared && !latent, {"expert_shared_feed_forward_length", 'u', v->shared, NULL}},
        {v->n_dense > 0, {"leading_dense_block_count", 'u', v->n_dense, NULL}},
    };
    SHOAL_TRY(shoal_gguf_put_str(t->writer, "general.architecture", v->arch));
    SHOAL_TRY(shoal_gguf_put_str(t->writer, "general.name", v->name));
    for (size_t i = 0; i < SHOAL_COUNT(keys); i++) {
        if (keys[i].wanted) {
            SHOAL_TRY(put_key(t, v, &keys[i].key));
        }
    }
    for (size_t i = 0; i < KEYS_MAX && v->keys[i].suffix != NULL; i++) {
        SHOAL_TRY(put_key(t, v, &v->keys[i]));
    }
    return SHOAL_OK;
}

/* --- tensors --------------------------------------------------------------------------------- */

/* One row of a list: a matrix, a stack of them, or (k == 0) a vector. */
typedef struct item {
    bool wanted;
    const char *suffix;
    uint64_t k;
    uint64_t n_rows;
    uint64_t n;
    float gain; /* of a vector: its mean */
} item;

static shoal_status put_items(tiny *t, uint32_t layer, const item *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char name[96];
        snprintf(name, sizeof(name), "blk.%u.%s", layer, items[i].suffix);
        if (items[i].wanted && items[i].k == 0) {
            SHOAL_TRY(shoal_tiny_put_vector(t, name, items[i].n_rows, items[i].gain, 0.25f));
        } else if (items[i].wanted) {
            SHOAL_TRY(shoal_tiny_put_matrices(t, name, items[i].k, items[i].n_rows, items[i].n,
                                              items[i].gain));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_attention(tiny *t, const variant *v, uint32_t layer)
{
    bool latent = v->rank > 0;
    bool fused = v->flags & FUSED;
    bool split = v->flags & SPLIT_LATENT;
    uint64_t q = (uint64_t)N_HEADS * v->head_dim;
    uint64_t kv = v->n_kv_heads * v->head_dim;
    uint64_t value = value_dim(v);
    uint64_t plain = v->head_dim - v->rope_dim;
    const item items[] = {
        {true, "attn_norm.weight", 0, DIM, 1, 1},
        {v->flags & POST_NORMS, "post_attention_norm.weight", 0, DIM, 1, 1},
        {fused, "attn_qkv.weight", DIM, q + 2 * kv, 1, 1.5f},
        {!fused && v->q_rank == 0, "attn_q.weight", DIM, q, 1, 2},
        {!fused && !latent, "attn_k.weight", DIM, kv, 1, 1},
        {!fused && !latent, "attn_v.weight", DIM, kv, 1, 1},
        {v->flags & BIAS, "attn_q.bias", 0, q, 1, 0.1f},
        {v->flags & BIAS, "attn_k.bias", 0, kv, 1, -0.1f},
        {v->flags & BIAS, "attn_v.bias", 0, kv, 1, 0.2f},
        {v->flags & QK_NORM, "attn_q_norm.weight", 0, v->head_dim, 1, 1.5f},
        {v->flags & QK_NORM, "attn_k_norm.weight", 0, v->head_dim, 1, 1},
        {v->q_rank > 0, "attn_q_a.weight", DIM, v->q_rank, 1, 1},
        {v->q_rank > 0, "attn_q_a_norm.weight", 0, v->q_rank, 1, 1},
        {v->q_rank > 0, "attn_q_b.weight", v->q_rank, q, 1, 2},
        {latent, "attn_kv_a_mqa.weight", DIM, v->rank + v->rope_dim, 1, 1},
        {latent, "attn_kv_a_norm.weight", 0, v->rank, 1, 1},
        {latent && !split, "attn_kv_b.weight", v->rank, N_HEADS * (plain + value), 1, 1},
        {latent && split, "attn_k_b.weight", plain, v->rank, N_HEADS, 1},
        {latent && split, "attn_v_b.weight", v->rank, value, N_HEADS, 1},
        {true, "attn_output.weight", N_HEADS * value, DIM, 1, 1},
    };
    return put_items(t, layer, items, SHOAL_COUNT(items));
}

static shoal_status put_ffn(tiny *t, const variant *v, uint32_t layer)
{
    bool dense = v->n_experts == 0 || layer < v->n_dense;
    bool fused = v->flags & FUSED;
    bool shared = !dense && v->shared > 0;
    bool weighed = shared && strcmp(v->arch, "qwen2moe") == 0;
    const item items[] = {
        {true, "ffn_norm.weight", 0, DIM, 1, 1},
        {v->flags & POST_NORMS, "post_ffw_norm.weight", 0, DIM, 1, 1},
        {dense && !fused, "ffn_gate.weight", DIM, FFN, 1, 1},
        {dense, "ffn_up.weight", DIM, fused ? 2 * FFN : FFN, 1, 1},
        {dense, "ffn_down.weight", FFN, DIM, 1, 1},
        {!dense, "ffn_gate_exps.weight", DIM, v->ffn, v->n_experts, 1},
        {!dense, "ffn_up_exps.weight", DIM, v->ffn, v->n_experts, 1},
        {!dense, "ffn_down_exps.weight", v->ffn, DIM, v->n_experts, 1},
        {!dense && (v->flags & CHOICE_BIAS), "exp_probs_b.bias", 0, v->n_experts, 1, 0},
        {weighed, "ffn_gate_inp_shexp.weight", 0, DIM, 1, 0},
        {shared, "ffn_gate_shexp.weight", DIM, v->shared, 1, 1},
        {shared, "ffn_up_shexp.weight", DIM, v->shared, 1, 1},
        {shared, "ffn_down_shexp.weight", v->shared, DIM, 1, 1},
    };
    SHOAL_TRY(put_items(t, layer, items, SHOAL_COUNT(items)));
    if (dense) {
        return SHOAL_OK;
    }
    /* Files keep the router in F32. */
    const item router = {true, "ffn_gate_inp.weight", DIM, v->n_experts, 1, 1};
    shoal_type type = t->type;
    t->type = SHOAL_TYPE_F32;
    shoal_status status = put_items(t, layer, &router, 1);
    t->type = type;
    return status;
}

static shoal_status put_all(tiny *t, const variant *v)
{
    SHOAL_TRY(put_hparams(t, v));
    SHOAL_TRY(shoal_tiny_put_vocabulary(t, NULL));
    /* Gemma multiplies embeddings by sqrt(dim) itself. */
    float gain = strncmp(v->arch, "gemma", 5) == 0 ? 1.0f : 8.0f;
    SHOAL_TRY(shoal_tiny_put_matrices(t, "token_embd.weight", DIM, SHOAL_TINY_VOCAB, 1, gain));
    SHOAL_TRY(shoal_tiny_put_vector(t, "output_norm.weight", DIM, 1.0f, 0.25f));
    if (!(v->flags & TIED)) {
        SHOAL_TRY(shoal_tiny_put_matrices(t, "output.weight", DIM, SHOAL_TINY_VOCAB, 1, 3.0f));
    }
    if (v->flags & ROPE_FREQS) {
        SHOAL_TRY(shoal_tiny_put_vector(t, "rope_freqs.weight", v->rope_dim / 2, 4.5f, 3.5f));
    }
    if (v->flags & ROPE_FACTORS) {
        SHOAL_TRY(
            shoal_tiny_put_vector(t, "rope_factors_long.weight", v->rope_dim / 2, 10.0f, 9.0f));
        SHOAL_TRY(
            shoal_tiny_put_vector(t, "rope_factors_short.weight", v->rope_dim / 2, 1.2f, 0.2f));
    }
    for (uint32_t i = 0; i < v->n_layers; i++) {
        SHOAL_TRY(put_attention(t, v, i));
        SHOAL_TRY(put_ffn(t, v, i));
    }
    return SHOAL_OK;
}

shoal_status shoal_tiny_arch_gguf(const char *name, uint64_t seed, shoal_type type, shoal_buf *buf)
{
    for (size_t i = 0; i < SHOAL_COUNT(variants); i++) {
        if (strcmp(variants[i].name, name) == 0) {
            tiny t = {.type = type, .rng = seed};
            shoal_status status = shoal_gguf_writer_new(&t.writer);
            if (status == SHOAL_OK) {
                status = put_all(&t, &variants[i]);
            }
            return shoal_tiny_finish(&t, status, buf);
        }
    }
    return SHOAL_E_NOTFOUND;
}
