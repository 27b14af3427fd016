/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/arch.h"

#include <stdio.h>
#include <string.h>

/* The line breaks of a row: what its blocks look like, what its attention sees, its experts. */
static const shoal_arch archs[] = {
    /* Llama and Mistral (2302.13971, 2310.06825); Mixtral (2401.04088) is this with experts. */
    {.name = "llama",
     .flags = SHOAL_ARCH_BIAS_MAYBE | SHOAL_ARCH_WINDOW | SHOAL_ARCH_EXPERTS_MAYBE |
              SHOAL_ARCH_EXPERTS_NORM},
    /* Qwen2 (2407.10671), Qwen3 (2505.09388) and their mixtures. */
    {.name = "qwen2", .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_BIAS},
    {.name = "qwen3", .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_QK_NORM},
    {.name = "qwen2moe",
     .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_BIAS | SHOAL_ARCH_EXPERTS | SHOAL_ARCH_SHARED |
              SHOAL_ARCH_SHARED_SIGMOID},
    {.name = "qwen3moe",
     .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_QK_NORM | SHOAL_ARCH_EXPERTS |
              SHOAL_ARCH_EXPERTS_NORM},
    /* Gemma 2 (2408.00118) and 3 (2503.19786). */
    {.name = "gemma2",
     .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_GELU | SHOAL_ARCH_POST_NORMS |
              SHOAL_ARCH_EMBED_SCALE | SHOAL_ARCH_SOFTCAP | SHOAL_ARCH_WINDOW,
     .attn_softcap = 50,
     .final_softcap = 30,
     .window = 4096,
     .window_period = 2,
     .wide_layers = 46},
    {.name = "gemma3",
     .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_GELU | SHOAL_ARCH_POST_NORMS |
              SHOAL_ARCH_EMBED_SCALE | SHOAL_ARCH_QK_NORM | SHOAL_ARCH_SOFTCAP | SHOAL_ARCH_WINDOW,
     .window_period = 6,
     .window_base = 10000,
     .wide_layers = 62},
    /* Phi-3 (2404.14219), with the rotation factors of 2402.13753. */
    {.name = "phi3",
     .flags = SHOAL_ARCH_ROPE_HALVES | SHOAL_ARCH_FUSED | SHOAL_ARCH_WINDOW | SHOAL_ARCH_LONGROPE},
    /* DeepSeek-V2 and V3 (2405.04434, 2412.19437). */
    {.name = "deepseek2", .flags = SHOAL_ARCH_MLA | SHOAL_ARCH_EXPERTS | SHOAL_ARCH_SHARED},
};

/* Keys after "<arch>.", and the flags of which one must be set for the key to mean something. */
enum {
    ANY = 0,
    ROUTED = SHOAL_ARCH_EXPERTS | SHOAL_ARCH_EXPERTS_MAYBE
};
static const struct {
    const char *suffix;
    uint32_t flags;
} keys[] = {
    {"attention.head_count", ANY},
    {"attention.head_count_kv", ANY},
    {"attention.key_length", ANY},
    {"attention.key_length_mla", SHOAL_ARCH_MLA},
    {"attention.kv_lora_rank", SHOAL_ARCH_MLA},
    {"attention.layer_norm_rms_epsilon", ANY},
    {"attention.q_lora_rank", SHOAL_ARCH_MLA},
    {"attention.scale", ANY},
    {"attention.sliding_window", SHOAL_ARCH_WINDOW},
    {"attention.sliding_window_pattern", SHOAL_ARCH_WINDOW},
    {"attention.value_length", ANY},
    {"attention.value_length_mla", SHOAL_ARCH_MLA},
    {"attn_logit_softcapping", SHOAL_ARCH_SOFTCAP},
    {"block_count", ANY},
    {"context_length", ANY},
    {"embedding_length", ANY},
    {"expert_count", ROUTED},
    {"expert_feed_forward_length", ROUTED},
    {"expert_gating_func", ROUTED},
    {"expert_group_count", SHOAL_ARCH_MLA},
    {"expert_group_used_count", SHOAL_ARCH_MLA},
    {"expert_shared_count", SHOAL_ARCH_SHARED},
    {"expert_shared_feed_forward_length", SHOAL_ARCH_SHARED},
    {"expert_used_count", ROUTED},
    {"expert_weights_norm", ROUTED},
    {"expert_weights_scale", ROUTED},
    {"feed_forward_length", ANY},
    {"final_logit_softcapping", SHOAL_ARCH_SOFTCAP},
    {"leading_dense_block_count", SHOAL_ARCH_MLA},
    {"rope.dimension_count", ANY},
    {"rope.freq_base", ANY},
    {"rope.freq_base_swa", SHOAL_ARCH_WINDOW},
    {"rope.scale_linear", ANY},
    {"rope.scaling.attn_factor", ANY},
    {"rope.scaling.factor", ANY},
    {"rope.scaling.finetuned", ANY}, /* says how the model was made, not what to compute */
    {"rope.scaling.original_context_length", ANY},
    {"rope.scaling.type", ANY},
    {"rope.scaling.yarn_beta_fast", ANY},
    {"rope.scaling.yarn_beta_slow", ANY},
    {"rope.scaling.yarn_log_multiplier", SHOAL_ARCH_MLA},
    {"tensor_data_layout", ANY}, /* "Meta AI original pth": which is the order we expect */
    {"vocab_size", ANY},         /* the tokenizer counts its own */
};

const shoal_arch *shoal_arch_find(const char *name, size_t length)
{
    for (size_t i = 0; i < SHOAL_COUNT(archs); i++) {
        if (strlen(archs[i].name) == length && memcmp(archs[i].name, name, length) == 0) {
            return &archs[i];
        }
    }
    return NULL;
}

void shoal_arch_names(char *ret_text, size_t capacity)
{
    size_t at = 0;
    ret_text[0] = '\0';
    for (size_t i = 0; i < SHOAL_COUNT(archs) && at < capacity; i++) {
        int n = snprintf(ret_text + at, capacity - at, "%s%s", i ? ", " : "", archs[i].name);
        at += (size_t)n;
    }
}

bool shoal_arch_knows_key(const shoal_arch *arch, const char *suffix, size_t length)
{
    for (size_t i = 0; i < SHOAL_COUNT(keys); i++) {
        if (strlen(keys[i].suffix) == length && memcmp(keys[i].suffix, suffix, length) == 0) {
            return keys[i].flags == ANY || (keys[i].flags & arch->flags) != 0;
        }
    }
    return false;
}
