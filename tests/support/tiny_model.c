/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_internal.h"

#include "common/base/mem.h"
#include "common/tensor/gguf.h"
#include "tests/support/random.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    LAYERS_MAX = 16
};

/* Sentencepiece writes a space as U+2581. */
#define SPACE "\xe2\x96\x81"
static const char *const pieces[] = {SPACE "t", "he",  SPACE "the", "in",       "er",
                                     SPACE "a", "on",  "th",        SPACE "th", "ing",
                                     "nd",      "and", SPACE "and", SPACE "s"};

/* Half-precision scale and 32 signed bytes, scale = amax / 127. */
static void encode_q8_0(const float *x, uint8_t *block)
{
    float amax = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
    }
    uint16_t half = shoal_f32_to_f16(amax / 127.0f);
    float d = shoal_f16_to_f32(half);
    memcpy(block, &half, sizeof(half));
    for (size_t i = 0; i < 32; i++) {
        float q = d > 0.0f ? rintf(x[i] / d) : 0.0f;
        int8_t code = (int8_t)fminf(127.0f, fmaxf(-127.0f, q));
        memcpy(block + 2 + i, &code, 1);
    }
}

/* Half-precision scale and 32 nibbles of value + 8, element i low and i + 16 high. */
static void encode_q4_0(const float *x, uint8_t *block)
{
    float amax = 0.0f;
    for (size_t i = 0; i < 32; i++) {
        amax = fmaxf(amax, fabsf(x[i]));
    }
    uint16_t half = shoal_f32_to_f16(amax / 7.0f);
    float d = shoal_f16_to_f32(half);
    memcpy(block, &half, sizeof(half));
    unsigned codes[32];
    for (size_t i = 0; i < 32; i++) {
        float q = d > 0.0f ? rintf(x[i] / d) : 0.0f;
        codes[i] = (unsigned)(fminf(7.0f, fmaxf(-8.0f, q)) + 8.0f);
    }
    for (size_t i = 0; i < 16; i++) {
        block[2 + i] = (uint8_t)(codes[i] | codes[i + 16] << 4);
    }
}

static void encode(shoal_type type, const float *x, size_t n, uint8_t *out)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    for (size_t i = 0; i < n; i += info->block) {
        uint8_t *block = out + i / info->block * info->block_bytes;
        if (type == SHOAL_TYPE_Q8_0) {
            encode_q8_0(x + i, block);
        } else if (type == SHOAL_TYPE_Q4_0) {
            encode_q4_0(x + i, block);
        } else if (type == SHOAL_TYPE_F32) {
            memcpy(block, x + i, sizeof(float));
        } else {
            uint16_t half =
                type == SHOAL_TYPE_F16 ? shoal_f32_to_f16(x[i]) : shoal_f32_to_bf16(x[i]);
            memcpy(block, &half, sizeof(half));
        }
    }
}

shoal_status shoal_tiny_put_matrices(tiny *t, const char *name, uint64_t k, uint64_t n_rows,
                                     uint64_t n, float gain)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    shoal_type type = k % info->block == 0 ? t->type : SHOAL_TYPE_F32;
    info = shoal_type_find((uint32_t)type);
    size_t count = (size_t)(k * n_rows * n);
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc(count, sizeof(*x));
    uint8_t *data = shoal_calloc(count / info->block, info->block_bytes);
    if (x == NULL || data == NULL || t->n_data == TINY_TENSORS_MAX) {
        shoal_free(data);
        return SHOAL_E_NOMEM;
    }
    t->data[t->n_data++] = data;
    /* sqrt(3) makes the uniform's deviation one. */
    float scale = gain * sqrtf(3.0f / (float)k);
    for (size_t i = 0; i < count; i++) {
        x[i] = scale * test_signed(&t->rng);
        if (t->noise_rng != 0) {
            x[i] += scale * t->noise * test_signed(&t->noise_rng);
        }
    }
    encode(type, x, count, data);
    const uint64_t dims[3] = {k, n_rows, n};
    return shoal_gguf_put_tensor(t->writer, name, type, dims, n > 1 ? 3 : 2, data);
}

shoal_status shoal_tiny_put_vector(tiny *t, const char *name, uint64_t n, float mean, float spread)
{
    float *data = shoal_calloc(n, sizeof(*data));
    if (data == NULL || t->n_data == TINY_TENSORS_MAX) {
        shoal_free(data);
        return SHOAL_E_NOMEM;
    }
    t->data[t->n_data++] = data;
    for (size_t i = 0; i < n; i++) {
        data[i] = mean + spread * test_signed(&t->rng);
    }
    return shoal_gguf_put_tensor(t->writer, name, SHOAL_TYPE_F32, &n, 1, data);
}

/* Widths of one model. */
typedef struct shape {
    uint32_t n_layers;
    uint32_t dim;
    uint32_t ffn;
} shape;

static shoal_status put_norm(tiny *t, const char *name, const shape *s)
{
    return shoal_tiny_put_vector(t, name, s->dim, 1.0f, 0.25f);
}

static shoal_status put_layer(tiny *t, uint32_t layer, const shape *s)
{
    const uint64_t dim = s->dim;
    const uint64_t kv_dim = dim / SHOAL_TINY_HEADS * SHOAL_TINY_KV_HEADS;
    const struct {
        const char *name;
        uint64_t k;
        uint64_t n_rows;
        float gain;
    } matrices[] = {
        {"attn_q", dim, dim, 2.0f},      {"attn_k", dim, kv_dim, 1.0f},
        {"attn_v", dim, kv_dim, 1.0f},   {"attn_output", dim, dim, 1.0f},
        {"ffn_gate", dim, s->ffn, 1.0f}, {"ffn_up", dim, s->ffn, 1.0f},
        {"ffn_down", s->ffn, dim, 1.0f},
    };
    char name[64];
    snprintf(name, sizeof(name), "blk.%u.attn_norm.weight", layer);
    SHOAL_TRY(put_norm(t, name, s));
    snprintf(name, sizeof(name), "blk.%u.ffn_norm.weight", layer);
    SHOAL_TRY(put_norm(t, name, s));
    for (size_t i = 0; i < SHOAL_COUNT(matrices); i++) {
        snprintf(name, sizeof(name), "blk.%u.%s.weight", layer, matrices[i].name);
        SHOAL_TRY(shoal_tiny_put_matrices(t, name, matrices[i].k, matrices[i].n_rows, 1,
                                          matrices[i].gain));
    }
    return SHOAL_OK;
}

static shoal_status put_hparams(tiny *t, const shape *s)
{
    const struct {
        const char *key;
        uint32_t value;
    } pairs[] = {
        {"llama.context_length", SHOAL_TINY_CTX},
        {"llama.embedding_length", s->dim},
        {"llama.block_count", s->n_layers},
        {"llama.feed_forward_length", s->ffn},
        {"llama.attention.head_count", SHOAL_TINY_HEADS},
        {"llama.attention.head_count_kv", SHOAL_TINY_KV_HEADS},
        {"llama.rope.dimension_count", s->dim / SHOAL_TINY_HEADS},
        {"llama.vocab_size", SHOAL_TINY_VOCAB},
    };
    SHOAL_TRY(shoal_gguf_put_str(t->writer, "general.architecture", "llama"));
    SHOAL_TRY(shoal_gguf_put_str(t->writer, "general.name", "tiny"));
    for (size_t i = 0; i < SHOAL_COUNT(pairs); i++) {
        SHOAL_TRY(shoal_gguf_put_u32(t->writer, pairs[i].key, pairs[i].value));
    }
    SHOAL_TRY(shoal_gguf_put_f32(t->writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f));
    return shoal_gguf_put_f32(t->writer, "llama.rope.freq_base", 10000.0f);
}

/* Sentencepiece's own layout: three specials, the 256 byte tokens, then pieces with scores. */
shoal_status shoal_tiny_put_vocabulary(tiny *t, const char *template)
{
    char texts[SHOAL_TINY_VOCAB][16];
    shoal_str tokens[SHOAL_TINY_VOCAB];
    float scores[SHOAL_TINY_VOCAB];
    int32_t types[SHOAL_TINY_VOCAB];
    const char *const specials[] = {"<unk>", "<s>", "</s>"};
    const int32_t special_types[] = {2, 3, 3}; /* unknown, control, control */
    for (size_t i = 0; i < SHOAL_TINY_VOCAB; i++) {
        char *text = texts[i];
        scores[i] = 0.0f;
        if (i < 3) {
            snprintf(text, sizeof(texts[i]), "%s", specials[i]);
            types[i] = special_types[i];
        } else if (i < 259) {
            snprintf(text, sizeof(texts[i]), "<0x%02X>", (unsigned)(i - 3));
            types[i] = 6; /* byte */
        } else {
            if (i == 259) {
                snprintf(text, sizeof(texts[i]), SPACE);
            } else if (i < 286) {
                snprintf(text, sizeof(texts[i]), "%c", (int)('a' + (i - 260)));
            } else {
                snprintf(text, sizeof(texts[i]), "%s", pieces[i - 286]);
            }
            types[i] = 1; /* normal */
            scores[i] = -(float)(i - 258);
            if (i >= 286) {
                scores[i] = -(float)(i - 285) / 16.0f;
            }
        }
        tokens[i] = (shoal_str){text, strlen(text)};
    }
    SHOAL_TRY(shoal_gguf_put_str(t->writer, "tokenizer.ggml.model", "llama"));
    SHOAL_TRY(shoal_gguf_put_bool(t->writer, "tokenizer.ggml.add_bos_token", true));
    SHOAL_TRY(
        shoal_gguf_put_str_array(t->writer, "tokenizer.ggml.tokens", tokens, SHOAL_TINY_VOCAB));
    SHOAL_TRY(
        shoal_gguf_put_f32_array(t->writer, "tokenizer.ggml.scores", scores, SHOAL_TINY_VOCAB));
    SHOAL_TRY(
        shoal_gguf_put_i32_array(t->writer, "tokenizer.ggml.token_type", types, SHOAL_TINY_VOCAB));
    const struct {
        const char *key;
        uint32_t value;
    } ids[] = {{"tokenizer.ggml.bos_token_id", SHOAL_TINY_BOS},
               {"tokenizer.ggml.eos_token_id", SHOAL_TINY_EOS},
               {"tokenizer.ggml.unknown_token_id", 0}};
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        SHOAL_TRY(shoal_gguf_put_u32(t->writer, ids[i].key, ids[i].value));
    }
    if (template != NULL) {
        SHOAL_TRY(shoal_gguf_put_str(t->writer, "tokenizer.chat_template", template));
    }
    return SHOAL_OK;
}

static shoal_status put_all(tiny *t, const shape *s, const char *template)
{
    SHOAL_TRY(put_hparams(t, s));
    SHOAL_TRY(shoal_tiny_put_vocabulary(t, template));
    SHOAL_TRY(shoal_tiny_put_matrices(t, "token_embd.weight", s->dim, SHOAL_TINY_VOCAB, 1, 8.0f));
    SHOAL_TRY(put_norm(t, "output_norm.weight", s));
    /* A gain of three gives logits whose best candidates hold a few tenths of the mass: neither a
     * constant nor a uniform draw. */
    SHOAL_TRY(shoal_tiny_put_matrices(t, "output.weight", s->dim, SHOAL_TINY_VOCAB, 1, 3.0f));
    for (uint32_t i = 0; i < s->n_layers; i++) {
        SHOAL_TRY(put_layer(t, i, s));
    }
    return SHOAL_OK;
}

/* Their randomness is their own, so that a model with exits has the tensors of one without. */
static shoal_status put_exits(tiny *t, const shape *s, const shoal_tiny_settings *settings)
{
    float norms[8 * SHOAL_TINY_DIM_WIDE];
    uint64_t rng = settings->seed + 1;
    size_t n = settings->n_exits * (size_t)s->dim;
    for (size_t i = 0; i < n; i++) {
        norms[i] = 1.0f + 0.25f * test_signed(&rng);
    }
    SHOAL_TRY(shoal_gguf_put_i32_array(t->writer, "shoal.exit.layers", settings->exits,
                                       settings->n_exits));
    return shoal_gguf_put_f32_array(t->writer, "shoal.exit.norm", norms, n);
}

shoal_status shoal_tiny_finish(tiny *t, shoal_status status, shoal_buf *buf)
{
    if (status == SHOAL_OK) {
        status = shoal_gguf_writer_finish(t->writer, buf, NULL);
    }
    shoal_gguf_writer_free(t->writer);
    for (size_t i = 0; i < t->n_data; i++) {
        shoal_free(t->data[i]);
    }
    return status;
}

shoal_status shoal_tiny_model_build(const shoal_tiny_settings *settings, shoal_buf *buf)
{
    const shape s = {
        .n_layers = settings->n_layers == 0 ? SHOAL_TINY_LAYERS : settings->n_layers,
        .dim = settings->wide ? SHOAL_TINY_DIM_WIDE : SHOAL_TINY_DIM,
        .ffn = settings->wide ? SHOAL_TINY_DIM_WIDE : SHOAL_TINY_FFN,
    };
    if (s.n_layers > LAYERS_MAX || settings->n_exits > 8 ||
        shoal_type_find((uint32_t)settings->type) == NULL) {
        return SHOAL_E_INVALID;
    }
    tiny t = {.type = settings->type,
              .rng = settings->seed,
              .noise_rng = settings->noise_seed,
              .noise = settings->noise};
    shoal_status status = shoal_gguf_writer_new(&t.writer);
    if (status == SHOAL_OK) {
        status = put_all(&t, &s, settings->template);
    }
    if (status == SHOAL_OK && settings->n_exits > 0) {
        status = put_exits(&t, &s, settings);
    }
    return shoal_tiny_finish(&t, status, buf);
}

shoal_status shoal_tiny_model_gguf(uint64_t seed, shoal_type type, shoal_buf *buf)
{
    return shoal_tiny_model_build(&(shoal_tiny_settings){.seed = seed, .type = type}, buf);
}
