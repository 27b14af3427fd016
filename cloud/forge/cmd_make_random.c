/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a model of a real shape with random weights, for measuring speed: quality is nil, every
 * byte read and every product is that of the real model. Weights are tiles drawn at random from a
 * small pool of encoded normal noise, scaled so that hidden states and logits stay finite and of
 * ordinary size. Nothing of the model is held in memory.
 */
#include "cloud/forge/forge.h"
#include "cloud/forge/random_vocab.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    TILES = 1024,    /* of one pool: 10 bits of the generator choose one */
    TILE_MIN = 32,   /* elements; a type's block when that is larger */
    POOLS_MAX = 16,  /* a shape has few different row lengths and types */
    CHUNK = 1 << 20, /* bytes of one write */
    LAYER_TENSORS = 12
};

typedef struct random_shape {
    const char *name;
    const char *arch;
    const char *title;
    forge_vocab vocab;
    uint32_t dim;
    uint32_t n_layers;
    uint32_t ffn;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t n_ctx;
    float rope_base;
    bool qkv_bias;
} random_shape;

static const random_shape shapes[] = {
    {"llama-1b",
     "llama",
     "random 1B",
     {128256, 256, 3, "llama-bpe"},
     2048,
     16,
     8192,
     32,
     8,
     131072,
     500000,
     false},
    {"llama-110m",
     "llama",
     "random 110M",
     {32000, 3, 3, "llama-bpe"},
     768,
     12,
     2048,
     12,
     12,
     4096,
     10000,
     false},
    {"llama-draft",
     "llama",
     "random draft",
     {128256, 256, 3, "llama-bpe"},
     512,
     4,
     1536,
     8,
     2,
     131072,
     500000,
     false},
    {"llama-tiny",
     "llama",
     "random tiny",
     {512, 3, 3, "llama-bpe"},
     256,
     1,
     512,
     4,
     2,
     1024,
     10000,
     false},
    {"qwen-0.5b",
     "qwen2",
     "random 0.5B",
     {151936, 293, 1, "qwen2"},
     896,
     24,
     4864,
     14,
     2,
     32768,
     1000000,
     true},
};

/* A tensor to be written. */
typedef struct plan {
    char name[64];
    uint64_t dims[2]; /* row length, rows (1 for a vector) */
    const shoal_type_info *type;
    float mean;
    float deviation;
} plan;

/* Encoded noise of one type and scale. */
typedef struct tile_pool {
    const shoal_type_info *type;
    float mean;
    float deviation;
    size_t tile_bytes;
    uint8_t *tiles;
} tile_pool;

typedef struct maker {
    const random_shape *shape;
    const shoal_type_info *type;
    uint64_t rng;
    plan *plans;
    size_t n_plans;
    size_t n_fallbacks; /* tensors whose rows are no whole blocks of the type */
    tile_pool pools[POOLS_MAX];
    size_t n_pools;
    uint8_t *chunk;
    shoal_gguf_writer *writer;
    shoal_file_out *out;
    uint64_t n_params;
    uint64_t n_bytes;
} maker;

static void maker_close(maker *m)
{
    for (size_t i = 0; i < m->n_pools; i++) {
        shoal_free(m->pools[i].tiles);
    }
    shoal_free(m->plans);
    shoal_free(m->chunk);
    shoal_gguf_writer_free(m->writer);
    shoal_file_out_close(m->out);
}

/* --- what the file holds --------------------------------------------------------------------- */

static plan *add(maker *m, long layer, const char *name, const char *part, uint64_t k,
                 uint64_t rows)
{
    plan *p = &m->plans[m->n_plans++];
    if (layer < 0) {
        (void)snprintf(p->name, sizeof p->name, "%s.%s", name, part);
    } else {
        (void)snprintf(p->name, sizeof p->name, "blk.%ld.%s.%s", layer, name, part);
    }
    p->dims[0] = k;
    p->dims[1] = rows;
    p->type = shoal_type_find(SHOAL_TYPE_F32);
    m->n_params += k * rows;
    return p;
}

/* Products with a deviation of 1 / sqrt(k) keep the size of what they are given. */
static void add_matrix(maker *m, long layer, const char *name, uint64_t k, uint64_t rows,
                       float gain)
{
    plan *p = add(m, layer, name, "weight", k, rows);
    p->type = m->type;
    if (k % m->type->block != 0) {
        p->type = shoal_type_find(SHOAL_TYPE_Q8_0);
        m->n_fallbacks++;
    }
    p->deviation = gain / sqrtf((float)k);
}

static void add_norm(maker *m, long layer, const char *name)
{
    plan *p = add(m, layer, name, "weight", m->shape->dim, 1);
    p->mean = 1.0F;
    p->deviation = 0.1F;
}

static void add_bias(maker *m, long layer, const char *name, uint64_t width)
{
    add(m, layer, name, "bias", width, 1)->deviation = 0.1F;
}

static void add_layer(maker *m, long layer)
{
    const random_shape *s = m->shape;
    uint64_t kv = (uint64_t)s->dim / s->n_heads * s->n_kv_heads;
    add_norm(m, layer, "attn_norm");
    add_norm(m, layer, "ffn_norm");
    add_matrix(m, layer, "attn_q", s->dim, s->dim, 1.0F);
    add_matrix(m, layer, "attn_k", s->dim, kv, 1.0F);
    add_matrix(m, layer, "attn_v", s->dim, kv, 1.0F);
    add_matrix(m, layer, "attn_output", s->dim, s->dim, 1.0F);
    add_matrix(m, layer, "ffn_gate", s->dim, s->ffn, 1.0F);
    add_matrix(m, layer, "ffn_up", s->dim, s->ffn, 1.0F);
    add_matrix(m, layer, "ffn_down", s->ffn, s->dim, 1.0F);
    if (s->qkv_bias) {
        add_bias(m, layer, "attn_q", s->dim);
        add_bias(m, layer, "attn_k", kv);
        add_bias(m, layer, "attn_v", kv);
    }
}

static shoal_status plan_tensors(maker *m, shoal_err *err)
{
    m->plans = shoal_calloc(2 + m->shape->n_layers * LAYER_TENSORS, sizeof *m->plans);
    if (!m->plans) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the list of tensors");
    }
    /* Tied: with a gain of 3 the logits of a normed row have a deviation of 3, so the best
     * candidates hold some tenths of the mass. */
    add_matrix(m, -1, "token_embd", m->shape->dim, m->shape->vocab.n_tokens, 3.0F);
    add_norm(m, -1, "output_norm");
    for (uint32_t i = 0; i < m->shape->n_layers; i++) {
        add_layer(m, i);
    }
    for (size_t i = 0; i < m->n_plans; i++) {
        const plan *p = &m->plans[i];
        SHOAL_TRY(shoal_gguf_put_tensor(m->writer, p->name, p->type->type, p->dims,
                                        p->dims[1] > 1 ? 2 : 1, NULL));
    }
    return SHOAL_OK;
}

static shoal_status put_number(maker *m, const char *suffix, uint32_t value)
{
    char key[96];
    (void)snprintf(key, sizeof key, "%s.%s", m->shape->arch, suffix);
    return shoal_gguf_put_u32(m->writer, key, value);
}

static shoal_status put_real(maker *m, const char *suffix, float value)
{
    char key[96];
    (void)snprintf(key, sizeof key, "%s.%s", m->shape->arch, suffix);
    return shoal_gguf_put_f32(m->writer, key, value);
}

static shoal_status put_metadata(maker *m, shoal_err *err)
{
    const random_shape *s = m->shape;
    SHOAL_TRY(shoal_gguf_put_str(m->writer, "general.architecture", s->arch));
    SHOAL_TRY(shoal_gguf_put_str(m->writer, "general.name", s->title));
    SHOAL_TRY(put_number(m, "context_length", s->n_ctx));
    SHOAL_TRY(put_number(m, "embedding_length", s->dim));
    SHOAL_TRY(put_number(m, "block_count", s->n_layers));
    SHOAL_TRY(put_number(m, "feed_forward_length", s->ffn));
    SHOAL_TRY(put_number(m, "attention.head_count", s->n_heads));
    SHOAL_TRY(put_number(m, "attention.head_count_kv", s->n_kv_heads));
    SHOAL_TRY(put_real(m, "rope.freq_base", s->rope_base));
    SHOAL_TRY(put_real(m, "attention.layer_norm_rms_epsilon", 1e-5F));
    return shoal_forge_put_vocab(m->writer, &s->vocab, err);
}

/* --- noise ----------------------------------------------------------------------------------- */

/* Near to normal: the sum of four uniforms, of deviation 1. */
static float noise(uint64_t *rng)
{
    uint64_t bits = shoal_rng_next(rng);
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += (float)(bits >> (16 * i) & 0xFFFF) / 65536.0F - 0.5F;
    }
    return sum * sqrtf(3.0F);
}

static shoal_status make_pool(maker *m, const plan *p, tile_pool *ret_pool, shoal_err *err)
{
    size_t tile = SHOAL_MAX((size_t)p->type->block, (size_t)TILE_MIN);
    size_t tile_bytes = tile / p->type->block * p->type->block_bytes;
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc(TILES * tile, sizeof *x);
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *tiles = shoal_calloc(TILES, tile_bytes);
    if (!x || !tiles) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for random weights");
    }
    for (size_t i = 0; i < TILES * tile; i++) {
        x[i] = p->mean + p->deviation * noise(&m->rng);
    }
    SHOAL_TRY(shoal_weight_encode(p->type->type, x, TILES * tile, tiles, err));
    *ret_pool = (tile_pool){.type = p->type,
                            .mean = p->mean,
                            .deviation = p->deviation,
                            .tile_bytes = tile_bytes,
                            .tiles = SHOAL_STEAL(tiles)};
    return SHOAL_OK;
}

static shoal_status find_pool(maker *m, const plan *p, const tile_pool **ret_pool, shoal_err *err)
{
    for (size_t i = 0; i < m->n_pools; i++) {
        const tile_pool *pool = &m->pools[i];
        if (pool->type == p->type && pool->mean == p->mean && pool->deviation == p->deviation) {
            *ret_pool = pool;
            return SHOAL_OK;
        }
    }
    SHOAL_ASSERT(m->n_pools < POOLS_MAX);
    SHOAL_TRY(make_pool(m, p, &m->pools[m->n_pools], err));
    *ret_pool = &m->pools[m->n_pools++];
    return SHOAL_OK;
}

static shoal_status put_out(maker *m, size_t n, shoal_err *err)
{
    m->n_bytes += n;
    return shoal_file_out_write(m->out, m->chunk, n, err);
}

static shoal_status write_tensor(maker *m, const plan *p, shoal_err *err)
{
    const tile_pool *pool = NULL;
    SHOAL_TRY(find_pool(m, p, &pool, err));
    uint64_t size = p->dims[0] * p->dims[1] / p->type->block * p->type->block_bytes;
    SHOAL_ASSERT(size % pool->tile_bytes == 0);
    size_t used = 0;
    uint64_t bits = 0;
    for (uint64_t i = 0; i < size / pool->tile_bytes; i++) {
        bits = i % 6 == 0 ? shoal_rng_next(&m->rng) : bits >> 10;
        if (used + pool->tile_bytes > CHUNK) {
            SHOAL_TRY(put_out(m, used, err));
            used = 0;
        }
        memcpy(m->chunk + used, pool->tiles + bits % TILES * pool->tile_bytes, pool->tile_bytes);
        used += pool->tile_bytes;
    }
    SHOAL_TRY(put_out(m, used, err));
    size_t padding = shoal_gguf_writer_padding(m->writer, size);
    memset(m->chunk, 0, padding);
    return put_out(m, padding, err);
}

/* --- the command ----------------------------------------------------------------------------- */

static shoal_status choose(maker *m, const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_TRY(shoal_forge_need(args->shape, "--shape NAME", err));
    for (size_t i = 0; i < SHOAL_COUNT(shapes); i++) {
        if (strcmp(shapes[i].name, args->shape) == 0) {
            m->shape = &shapes[i];
        }
    }
    if (!m->shape) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "--shape %s: known are llama-1b, llama-110m, llama-draft, llama-tiny, qwen-0.5b",
            args->shape);
    }
    m->type = shoal_type_find_name(args->type ? args->type : "Q4_0");
    if (!m->type) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "--type %s: known are %s and %s", args->type,
                             shoal_type_own_names(), shoal_type_names());
    }
    m->rng = (uint64_t)args->seed * 0x9E3779B97F4A7C15u + 1;
    return SHOAL_OK;
}

static shoal_status make(maker *m, const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    SHOAL_TRY(choose(m, args, err));
    m->chunk = shoal_calloc(CHUNK, 1);
    if (!m->chunk || shoal_gguf_writer_new(&m->writer) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the writer");
    }
    SHOAL_TRY(put_metadata(m, err));
    SHOAL_TRY(plan_tensors(m, err));
    SHOAL_TRY(shoal_gguf_writer_head(m->writer, &head, err));
    SHOAL_TRY(shoal_file_out_open(args->output, &m->out, err));
    SHOAL_TRY(shoal_file_out_write(m->out, head.data, head.length, err));
    m->n_bytes = head.length;
    for (size_t i = 0; i < m->n_plans; i++) {
        SHOAL_TRY(write_tensor(m, &m->plans[i], err));
    }
    return shoal_file_out_commit(m->out, err);
}

shoal_status shoal_forge_make_random(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(maker_close) maker m = {0};
    SHOAL_TRY(make(&m, args, err));
    if (args->json) {
        (void)printf("{\"shape\": \"%s\", \"type\": \"%s\", \"params\": %llu, \"bytes\": %llu, "
                     "\"tensors\": %zu, \"fallbacks\": %zu}\n",
                     m.shape->name, m.type->name, (unsigned long long)m.n_params,
                     (unsigned long long)m.n_bytes, m.n_plans, m.n_fallbacks);
        return SHOAL_OK;
    }
    (void)printf("%s: %s, %.1f M parameters, %s, %.1f MiB\n", args->output, m.shape->name,
                 (double)m.n_params / 1e6, m.type->name, (double)m.n_bytes / 1048576.0);
    if (m.n_fallbacks > 0) {
        (void)printf("  %zu tensors are Q8_0: their rows are no whole blocks of %u as %s needs\n",
                     m.n_fallbacks, m.type->block, m.type->name);
    }
    return SHOAL_OK;
}
