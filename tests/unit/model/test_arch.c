/* SPDX-License-Identifier: Apache-2.0
 *
 * Architectures: hostile numbers under every key, tensors too many and too few, the router, what a
 * token reads, and the two forms of latent attention.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "common/weight/pack.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    N = 40
};

/* A change to a file under way: one pair more or other, one tensor more, less or overwritten. */
typedef struct change {
    const char *key; /* NULL: none */
    char kind;       /* 'u', 'f', 'b', 's' */
    double value;
    const char *text;
    const char *drop; /* tensor left out */
    const char *add;  /* F32 vector of 16 ones put in */
    const char *fill; /* tensor whose bytes from fill_from on become fill_byte */
    double fill_from; /* as a share of its bytes */
    int fill_byte;
} change;

typedef struct file {
    shoal_buf buf;
    shoal_gguf *gguf;
} file;

static void file_close(file *f)
{
    shoal_gguf_close(f->gguf);
    shoal_buf_fini(&f->buf);
}

static void open_plain(const char *variant, file *ret)
{
    memset(ret, 0, sizeof *ret);
    assert_int_equal(shoal_tiny_arch_gguf(variant, 5, SHOAL_TYPE_F32, &ret->buf), SHOAL_OK);
    assert_int_equal(
        shoal_gguf_open((const uint8_t *)ret->buf.data, ret->buf.length, &ret->gguf, NULL),
        SHOAL_OK);
}

static bool named(const shoal_gguf_tensor *t, const char *name)
{
    return name && strlen(name) == t->name.length &&
           memcmp(t->name.data, name, t->name.length) == 0;
}

static void copy_tensors(const shoal_gguf *gguf, const change *c, shoal_gguf_writer *w,
                         uint8_t **ret_filled)
{
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        const uint8_t *data = t->data;
        if (named(t, c->drop)) {
            continue;
        }
        if (named(t, c->fill)) {
            size_t from = (size_t)(c->fill_from * (double)t->size_bytes + 0.5);
            *ret_filled = shoal_calloc(t->size_bytes, 1);
            memcpy(*ret_filled, t->data, t->size_bytes);
            memset(*ret_filled + from, c->fill_byte, t->size_bytes - from);
            data = *ret_filled;
        }
        assert_int_equal(shoal_gguf_put_tensor(w, name, t->type, t->dims, t->n_dims, data),
                         SHOAL_OK);
    }
}

static void put_change(const change *c, shoal_gguf_writer *w)
{
    switch (c->key ? c->kind : 0) {
    case 'u':
        assert_int_equal(shoal_gguf_put_u32(w, c->key, (uint32_t)c->value), SHOAL_OK);
        break;
    case 'f':
        assert_int_equal(shoal_gguf_put_f32(w, c->key, (float)c->value), SHOAL_OK);
        break;
    case 'b':
        assert_int_equal(shoal_gguf_put_bool(w, c->key, c->value != 0), SHOAL_OK);
        break;
    case 's':
        assert_int_equal(shoal_gguf_put_str(w, c->key, c->text), SHOAL_OK);
        break;
    default:
        break;
    }
}

static void open_changed(const file *from, const change *c, file *ret)
{
    static const float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const uint64_t sixteen = 16;
    shoal_gguf_writer *w = NULL;
    uint8_t *filled = NULL;
    memset(ret, 0, sizeof *ret);
    assert_int_equal(shoal_gguf_writer_new(&w), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(from->gguf); i++) {
        assert_int_equal(shoal_gguf_put_raw(w, shoal_gguf_key_at(from->gguf, i),
                                            shoal_gguf_raw_at(from->gguf, i)),
                         SHOAL_OK);
    }
    put_change(c, w);
    copy_tensors(from->gguf, c, w, &filled);
    if (c->add) {
        assert_int_equal(shoal_gguf_put_tensor(w, c->add, SHOAL_TYPE_F32, &sixteen, 1, ones),
                         SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_writer_finish(w, &ret->buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(w);
    shoal_free(filled);
    assert_int_equal(
        shoal_gguf_open((const uint8_t *)ret->buf.data, ret->buf.length, &ret->gguf, NULL),
        SHOAL_OK);
}

static shoal_model *load_changed(const char *variant, const change *c, shoal_err *err)
{
    file plain;
    file changed;
    shoal_model *model = NULL;
    open_plain(variant, &plain);
    open_changed(&plain, c, &changed);
    shoal_status status = shoal_model_new(changed.gguf, &model, err);
    assert_true((status == SHOAL_OK) == (model != NULL));
    file_close(&plain);
    file_close(&changed);
    return model;
}

static void refuse(const char *variant, const change *c, const char *word)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_model *model = load_changed(variant, c, &err);
    if (model) {
        fail_msg("%s: %s %g was accepted", variant, c->key ? c->key : word, c->value);
    }
    if (!strstr(err.text, word)) {
        fail_msg("%s: the error does not name %s: %s", variant, word, err.text);
    }
}

static const struct {
    const char *variant;
    change c;
    const char *word;
} hostile_numbers[] = {
    {"mistral", {.key = "llama.attention.sliding_window", .kind = 'u', .value = 1e9}, "window"},
    {"gemma2", {.key = "gemma2.attention.sliding_window", .kind = 'u', .value = 0}, "window"},
    {"gemma3", {.key = "gemma3.attention.sliding_window", .kind = 'f', .value = 9}, "window"},
    {"gemma3",
     {.key = "gemma3.attention.sliding_window_pattern", .kind = 'u', .value = 1e6},
     "pattern"},
    {"gemma2", {.key = "gemma2.attn_logit_softcapping", .kind = 'f', .value = -1}, "softcap"},
    {"gemma2",
     {.key = "gemma2.final_logit_softcapping", .kind = 'f', .value = (double)NAN},
     "softcap"},
    {"qwen2", {.key = "qwen2.final_logit_softcapping", .kind = 'f', .value = 30}, "softcap"},
    {"qwen2", {.key = "qwen2.attention.sliding_window", .kind = 'u', .value = 30}, "window"},
    {"qwen2", {.key = "qwen2.attention.scale", .kind = 'f', .value = -1}, "scale"},
    {"llama3", {.key = "llama.logit_scale", .kind = 'f', .value = 0.5}, "llama.logit_scale"},
    {"llama3", {.key = "llama.rope.freq_base", .kind = 'f', .value = 0.5}, "freq_base"},
    {"llama-linear", {.key = "llama.rope.scaling.factor", .kind = 'f', .value = 1e-9}, "factor"},
    {"llama-linear",
     {.key = "llama.rope.scaling.factor", .kind = 'f', .value = (double)INFINITY},
     "factor"},
    {"llama-linear",
     {.key = "llama.rope.scaling.type", .kind = 's', .text = "longrope"},
     "longrope"},
    {"llama-linear", {.key = "llama.rope.scaling.type", .kind = 'u', .value = 1}, "type"},
    {"llama-yarn",
     {.key = "llama.rope.scaling.original_context_length", .kind = 'u', .value = 0},
     "original_context"},
    {"llama-yarn",
     {.key = "llama.rope.scaling.yarn_ext_factor", .kind = 'f', .value = 0.5},
     "yarn_ext_factor"},
    {"llama-yarn",
     {.key = "llama.rope.scaling.yarn_log_multiplier", .kind = 'f', .value = 0.1},
     "yarn_log_multiplier"},
    {"llama-yarn",
     {.key = "llama.rope.scaling.yarn_beta_fast", .kind = 'f', .value = 0},
     "beta_fast"},
    {"phi3-long",
     {.key = "phi3.rope.scaling.attn_factor", .kind = 'f', .value = -2},
     "attn_factor"},
    {"mixtral", {.key = "llama.expert_count", .kind = 'u', .value = 1025}, "expert_count"},
    {"mixtral", {.key = "llama.expert_count", .kind = 'u', .value = 3}, "ffn_gate_inp"},
    {"mixtral", {.key = "llama.expert_count", .kind = 'u', .value = 0}, "ffn_gate.weight"},
    {"mixtral", {.key = "llama.expert_used_count", .kind = 'u', .value = 0}, "expert_used"},
    {"mixtral", {.key = "llama.expert_used_count", .kind = 'u', .value = 5}, "expert_used"},
    {"mixtral", {.key = "llama.expert_gating_func", .kind = 'u', .value = 3}, "gating"},
    {"mixtral", {.key = "llama.expert_weights_norm", .kind = 'u', .value = 1}, "norm"},
    {"mixtral", {.key = "llama.expert_shared_count", .kind = 'u', .value = 1}, "shared"},
    {"qwen2moe",
     {.key = "qwen2moe.expert_feed_forward_length", .kind = 'u', .value = 0},
     "expert_feed"},
    {"qwen2moe",
     {.key = "qwen2moe.expert_shared_feed_forward_length", .kind = 'u', .value = 4e9},
     "expert_shared"},
    {"qwen3moe", {.key = "qwen3moe.expert_count", .kind = 'u', .value = 0}, "expert_count"},
    {"deepseek2",
     {.key = "deepseek2.attention.kv_lora_rank", .kind = 'u', .value = 0},
     "kv_lora_rank"},
    {"deepseek2",
     {.key = "deepseek2.attention.kv_lora_rank", .kind = 'u', .value = 33},
     "kv_lora_rank"},
    {"deepseek2",
     {.key = "deepseek2.attention.kv_lora_rank", .kind = 'u', .value = 16384},
     "kv_lora_rank"},
    {"deepseek2", {.key = "deepseek2.attention.q_lora_rank", .kind = 'u', .value = 16}, "attn_q_a"},
    {"deepseek2", {.key = "deepseek2.attention.q_lora_rank", .kind = 'u', .value = 0}, "attn_q"},
    {"deepseek2",
     {.key = "deepseek2.attention.key_length_mla", .kind = 'u', .value = 8},
     "dimension_count"},
    {"deepseek2",
     {.key = "deepseek2.attention.key_length_mla", .kind = 'u', .value = 100000},
     "key_length"},
    {"deepseek2",
     {.key = "deepseek2.attention.value_length_mla", .kind = 'u', .value = 577},
     "value_length"},
    {"deepseek2",
     {.key = "deepseek2.attention.value_length_mla", .kind = 'u', .value = 18},
     "attn_v_b"},
    {"deepseek2",
     {.key = "deepseek2.leading_dense_block_count", .kind = 'u', .value = 4},
     "leading_dense"},
    {"deepseek2",
     {.key = "deepseek2.leading_dense_block_count", .kind = 'u', .value = 2},
     "blk.1."},
    {"deepseek2", {.key = "deepseek2.expert_group_count", .kind = 'u', .value = 3}, "group"},
    {"deepseek2", {.key = "deepseek2.expert_group_count", .kind = 'u', .value = 9}, "group"},
    {"deepseek2", {.key = "deepseek2.expert_group_used_count", .kind = 'u', .value = 5}, "group"},
    {"deepseek2", {.key = "deepseek2.expert_group_used_count", .kind = 'u', .value = 1}, "group"},
    {"deepseek2",
     {.key = "deepseek2.expert_weights_scale", .kind = 'f', .value = -1},
     "weights_scale"},
    {"deepseek2",
     {.key = "deepseek2.nextn_predict_layers", .kind = 'u', .value = 1},
     "nextn_predict"},
};

static void test_hostile_numbers_are_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < SHOAL_COUNT(hostile_numbers); i++) {
        refuse(hostile_numbers[i].variant, &hostile_numbers[i].c, hostile_numbers[i].word);
    }
}

static void test_tensors_too_many_or_too_few_are_refused_by_name(void **state)
{
    (void)state;
    refuse("qwen3", &(change){.add = "blk.0.attn_q.bias"}, "blk.0.attn_q.bias");
    refuse("phi3", &(change){.add = "rope_freqs.weight"}, "rope_freqs.weight");
    refuse("mixtral", &(change){.add = "blk.2.ffn_norm.weight"}, "blk.2.ffn_norm.weight");
    refuse("qwen2", &(change){.drop = "blk.1.attn_v.bias"}, "blk.1.attn_v.bias");
    refuse("qwen3", &(change){.drop = "blk.0.attn_k_norm.weight"}, "attn_k_norm");
    refuse("gemma2", &(change){.drop = "blk.0.post_ffw_norm.weight"}, "post_ffw_norm");
    refuse("phi3", &(change){.drop = "blk.0.attn_qkv.weight"}, "attn_qkv");
    refuse("phi3-long", &(change){.drop = "rope_factors_long.weight"}, "rope_factors_long");
    refuse("phi3", &(change){.key = "phi3.rope.scaling.type", .kind = 's', .text = "longrope"},
           "rope_factors");
    refuse("deepseek2", &(change){.drop = "blk.2.attn_v_b.weight"}, "attn_v_b");
    refuse("deepseek2", &(change){.drop = "blk.2.ffn_up_exps.weight"}, "ffn_up_exps");
    refuse("deepseek2-lite", &(change){.drop = "blk.2.attn_kv_b.weight"}, "attn_k");
    refuse("llama3", &(change){.fill = "rope_freqs.weight", .fill_byte = 0}, "rope_freqs");
    refuse("llama3", &(change){.fill = "rope_freqs.weight", .fill_byte = 0xFF}, "rope_freqs");
    refuse("deepseek2",
           &(change){.fill = "blk.1.ffn_down_exps.weight", .fill_from = 0.9, .fill_byte = 0xFF},
           "ffn_down_exps");
}

static void test_unknown_architecture_lists_the_known_ones(void **state)
{
    (void)state;
    change c = {.key = "general.architecture", .kind = 's', .text = "mamba"};
    refuse("llama3", &c, "mamba");
    refuse("llama3", &c,
           "llama, qwen2, qwen3, qwen2moe, qwen3moe, gemma2, gemma3, phi3, deepseek2");
}

/* --- results --------------------------------------------------------------------------------- */

static shoal_engine *engine_of(const shoal_model *model)
{
    shoal_engine_settings s = shoal_engine_settings_default();
    s.kv_type = SHOAL_KV_F32;
    s.n_ctx = 256;
    shoal_engine *engine = NULL;
    assert_int_equal(shoal_engine_new(model, &s, &engine, NULL), SHOAL_OK);
    return engine;
}

static void last_logits(const shoal_model *model, float ret_logits[SHOAL_TINY_VOCAB])
{
    int32_t ids[N];
    for (int32_t i = 0; i < N; i++) {
        ids[i] = (i * 37 + 11) % SHOAL_TINY_VOCAB;
    }
    shoal_engine *engine = engine_of(model);
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    shoal_span span = {.seq = seq, .ids = ids, .n_ids = N, .n_logits = 1};
    assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    memcpy(ret_logits, shoal_engine_logits(engine, span.logits_i),
           SHOAL_TINY_VOCAB * sizeof *ret_logits);
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}

static void test_absorbed_and_expanded_latent_attention_agree(void **state)
{
    (void)state;
    static const char *const variants[] = {"deepseek2", "deepseek2-lite"};
    for (size_t i = 0; i < SHOAL_COUNT(variants); i++) {
        file f;
        shoal_model *absorbed = NULL;
        shoal_model *expanded = NULL;
        float a[SHOAL_TINY_VOCAB];
        float b[SHOAL_TINY_VOCAB];
        open_plain(variants[i], &f);
        assert_int_equal(shoal_model_new(f.gguf, &absorbed, NULL), SHOAL_OK);
        assert_int_equal(shoal_model_new_expanded(f.gguf, &expanded, NULL), SHOAL_OK);
        assert_memory_not_equal(&absorbed->hash, &expanded->hash, sizeof absorbed->hash);
        last_logits(absorbed, a);
        last_logits(expanded, b);
        double error = 0;
        double norm = 0;
        for (size_t j = 0; j < SHOAL_TINY_VOCAB; j++) {
            error += ((double)a[j] - (double)b[j]) * ((double)a[j] - (double)b[j]);
            norm += (double)a[j] * (double)a[j];
        }
        print_message("%s: absorbed and expanded differ by %.1e (budget 1e-4)\n", variants[i],
                      sqrt(error / norm));
        assert_true(sqrt(error / norm) <= 1e-4);
        shoal_model_free(absorbed);
        shoal_model_free(expanded);
        file_close(&f);
    }
    file f;
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    open_plain("qwen2", &f);
    assert_true(shoal_model_new_expanded(f.gguf, &model, &err) < 0);
    assert_non_null(strstr(err.text, "qwen2"));
    file_close(&f);
}

/* A file being written into memory at a multiple of 64 bytes. */
typedef struct packed_file {
    uint8_t *data;
    size_t n;
    size_t room;
} packed_file;

static shoal_status take_bytes(void *ctx, const void *data, size_t n, shoal_err *err)
{
    packed_file *f = ctx;
    if (n > f->room - f->n) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "no room");
    }
    memcpy(f->data + f->n, data, n);
    f->n += n;
    return SHOAL_OK;
}

/* Fused tensors, stacks whose matrices end inside a panel and latents that are taken apart are the
 * same weights from a packed file. */
static void test_packed_files_of_every_architecture_are_the_same_model(void **state)
{
    (void)state;
    const shoal_type types[] = {SHOAL_TYPE_F32, SHOAL_TYPE_Q8_0};
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(2, &pool), SHOAL_OK);
    for (size_t i = 0; i < shoal_tiny_archs_n * SHOAL_COUNT(types); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        const char *variant = shoal_tiny_archs[i / SHOAL_COUNT(types)];
        shoal_type type = types[i % SHOAL_COUNT(types)];
        assert_int_equal(shoal_tiny_arch_gguf(variant, 5, type, &buf), SHOAL_OK);
        packed_file packed = {.room = 4 * buf.length + 65536};
        packed.data = shoal_calloc_aligned(packed.room, 1);
        assert_non_null(packed.data);
        shoal_gguf *files[2] = {NULL, NULL};
        shoal_model *models[2] = {NULL, NULL};
        float rows[2][SHOAL_TINY_VOCAB];
        size_t n_packed = 0;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &files[0], &err),
                         SHOAL_OK);
        assert_int_equal(shoal_pack_write(files[0], pool, take_bytes, &packed, &n_packed, &err),
                         SHOAL_OK);
        assert_true(n_packed > 4);
        assert_int_equal(shoal_pack_open(packed.data, packed.n, &files[1], &err), SHOAL_OK);
        for (size_t m = 0; m < 2; m++) {
            assert_int_equal(shoal_model_new(files[m], &models[m], &err), SHOAL_OK);
            last_logits(models[m], rows[m]);
        }
        assert_memory_equal(&models[0]->hash, &models[1]->hash, sizeof models[0]->hash);
        assert_int_equal(models[0]->main_type, models[1]->main_type);
        if (memcmp(rows[0], rows[1], sizeof rows[0]) != 0) {
            fail_msg("%s: logits of the packed file differ", variant);
        }
        for (size_t m = 0; m < 2; m++) {
            shoal_model_free(models[m]);
            shoal_gguf_close(files[m]);
        }
        shoal_free(packed.data);
    }
    shoal_pool_free(pool);
}

/* DeepSeek-V2: 60 layers, 128 heads of 128 + 64 and 128, a latent of 512 + 64. */
static void test_latent_cache_is_a_fraction_of_every_heads_keys_and_values(void **state)
{
    (void)state;
    shoal_hparams hp = {.n_layers = 60,
                        .n_heads = 128,
                        .n_kv_heads = 1,
                        .head_dim = 192,
                        .value_dim = 128,
                        .rope_dim = 64,
                        .mla = {.rank = 512, .plain = 128}};
    shoal_kv_shape latent = shoal_model_kv_shape(&hp, SHOAL_KV_F16);
    assert_int_equal(latent.k_dim, 576);
    assert_int_equal(latent.v_dim, 512);
    size_t latent_bytes = shoal_kv_page_bytes(&latent) * shoal_kv_pages_for(&latent, 1, 4096);
    hp.mla.expanded = true;
    hp.n_kv_heads = 128;
    shoal_kv_shape full = shoal_model_kv_shape(&hp, SHOAL_KV_F16);
    size_t full_bytes = shoal_kv_page_bytes(&full) * shoal_kv_pages_for(&full, 1, 4096);
    double share = (double)latent_bytes / (double)full_bytes;
    print_message("latent cache: %.2f %% of every head's keys and values\n", 100 * share);
    assert_true(share <= 0.067);
}

static void test_one_token_reads_shared_weights_and_its_experts_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < shoal_tiny_archs_n; i++) {
        file f;
        shoal_model *model = NULL;
        open_plain(shoal_tiny_archs[i], &f);
        assert_int_equal(shoal_model_new(f.gguf, &model, NULL), SHOAL_OK);
        uint64_t expert_bytes = 0;
        uint64_t all_bytes = 0;
        for (size_t t = 0; t < shoal_gguf_n_tensors(f.gguf); t++) {
            const shoal_gguf_tensor *tensor = shoal_gguf_tensor_at(f.gguf, t);
            bool embed = named(tensor, "token_embd.weight") && !model->hp.tied;
            bool experts = tensor->dims[2] > 1 && tensor->dims[2] == model->hp.moe.n_experts;
            /* Panels are padded to whole 16 rows. */
            uint64_t rows = (tensor->dims[1] + 15) / 16 * 16;
            uint64_t bytes = tensor->dims[0] * rows * tensor->dims[2] * sizeof(float);
            all_bytes += tensor->dims[1] > 1 && !embed ? bytes : 0;
            expert_bytes += experts ? bytes : 0;
        }
        double share = model->hp.moe.n_experts > 0
                           ? (double)model->hp.moe.n_used / (double)model->hp.moe.n_experts
                           : 1;
        double want = (double)(all_bytes - expert_bytes) + share * (double)expert_bytes;
        shoal_engine *engine = engine_of(model);
        shoal_kv_seq *seq = NULL;
        assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
        int32_t id = 40;
        shoal_span span = {.seq = seq, .ids = &id, .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        uint64_t read = shoal_engine_bytes_read(engine);
        assert_int_equal(read, shoal_model_bytes_per_token(model));
        if (fabs((double)read - want) > 0.01 * want) {
            fail_msg("%s: %.0f bytes read, %.0f expected", shoal_tiny_archs[i], (double)read, want);
        }
        shoal_kv_seq_free(seq);
        shoal_engine_free(engine);
        shoal_model_free(model);
        file_close(&f);
    }
}

/* A router of zeros gives every expert the same score: the lowest ids are taken, so the others'
 * weights change nothing, and the lowest ones' do. */
static void test_router_ties_go_to_the_lower_ids(void **state)
{
    (void)state;
    file plain;
    file tied;
    open_plain("qwen3moe", &plain);
    open_changed(&plain, &(change){.fill = "blk.1.ffn_gate_inp.weight"}, &tied);
    shoal_model *model = NULL;
    float before[SHOAL_TINY_VOCAB];
    float after[SHOAL_TINY_VOCAB];
    assert_int_equal(shoal_model_new(tied.gguf, &model, NULL), SHOAL_OK);
    size_t n = model->hp.moe.n_experts;
    size_t used = model->hp.moe.n_used;
    last_logits(model, before);
    shoal_model_free(model);
    for (size_t keep = used - 1; keep <= used; keep++) {
        file other;
        change c = {.fill = "blk.1.ffn_down_exps.weight", .fill_from = (double)keep / (double)n};
        open_changed(&tied, &c, &other);
        assert_int_equal(shoal_model_new(other.gguf, &model, NULL), SHOAL_OK);
        last_logits(model, after);
        assert_int_equal(memcmp(before, after, sizeof before) == 0, keep == used);
        shoal_model_free(model);
        file_close(&other);
    }
    file_close(&plain);
    file_close(&tied);
}

static void test_hash_follows_every_number_that_changes_results(void **state)
{
    (void)state;
    static const struct {
        const char *variant;
        change c;
    } cases[] = {
        {"mistral", {.key = "llama.attention.sliding_window", .kind = 'u', .value = 21}},
        {"llama-yarn", {.key = "llama.rope.scaling.factor", .kind = 'f', .value = 9}},
        {"llama-yarn", {.key = "llama.rope.scaling.type", .kind = 's', .text = "linear"}},
        {"mixtral", {.key = "llama.expert_used_count", .kind = 'u', .value = 1}},
        {"mixtral", {.key = "llama.expert_weights_norm", .kind = 'b', .value = 0}},
        {"gemma2", {.key = "gemma2.attn_logit_softcapping", .kind = 'f', .value = 3}},
        {"gemma2", {.key = "gemma2.final_logit_softcapping", .kind = 'f', .value = 0}},
        {"gemma3", {.key = "gemma3.rope.freq_base_swa", .kind = 'f', .value = 20000}},
        {"gemma3", {.key = "gemma3.attention.sliding_window_pattern", .kind = 'u', .value = 3}},
        {"deepseek2", {.key = "deepseek2.expert_weights_scale", .kind = 'f', .value = 2}},
        {"deepseek2", {.key = "deepseek2.expert_gating_func", .kind = 'u', .value = 1}},
        {"deepseek2-lite",
         {.key = "deepseek2.rope.scaling.yarn_log_multiplier", .kind = 'f', .value = 0.1}},
        {"phi3-long", {.key = "phi3.rope.scaling.attn_factor", .kind = 'f', .value = 1.5}},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        change none = {0};
        shoal_model *a = load_changed(cases[i].variant, &none, NULL);
        shoal_model *b = load_changed(cases[i].variant, &cases[i].c, &err);
        if (!a || !b) {
            fail_msg("%s: %s", cases[i].c.key, err.text);
        }
        assert_memory_not_equal(&a->hash, &b->hash, sizeof a->hash);
        float x[SHOAL_TINY_VOCAB];
        float y[SHOAL_TINY_VOCAB];
        last_logits(a, x);
        last_logits(b, y);
        if (memcmp(x, y, sizeof x) == 0) {
            fail_msg("%s changes no logits", cases[i].c.key);
        }
        shoal_model_free(a);
        shoal_model_free(b);
    }
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    static const char *const variants[] = {"deepseek2", "deepseek2-lite", "phi3-long"};
    for (size_t v = 0; v < SHOAL_COUNT(variants); v++) {
        file f;
        open_plain(variants[v], &f);
        bool done = false;
        for (uint64_t i = 0; !done && i < 5000; i += i < 1000 ? 1 : 7) {
            shoal_model *model = NULL;
            shoal_engine *engine = NULL;
            shoal_engine_settings s = shoal_engine_settings_default();
            s.n_ctx = 64;
            s.n_rows_max = 8;
            s.n_logits_max = 2;
            shoal_mem_fail_at(i);
            shoal_status status = shoal_model_new(f.gguf, &model, NULL);
            if (status == SHOAL_OK) {
                status = shoal_engine_new(model, &s, &engine, NULL);
            }
            shoal_mem_fail_at(UINT64_MAX);
            done = status == SHOAL_OK;
            assert_true(done || status < 0);
            shoal_engine_free(engine);
            shoal_model_free(model);
        }
        assert_true(done);
        file_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_numbers_are_refused_by_name),
        cmocka_unit_test(test_tensors_too_many_or_too_few_are_refused_by_name),
        cmocka_unit_test(test_unknown_architecture_lists_the_known_ones),
        cmocka_unit_test(test_absorbed_and_expanded_latent_attention_agree),
        cmocka_unit_test(test_packed_files_of_every_architecture_are_the_same_model),
        cmocka_unit_test(test_latent_cache_is_a_fraction_of_every_heads_keys_and_values),
        cmocka_unit_test(test_one_token_reads_shared_weights_and_its_experts_alone),
        cmocka_unit_test(test_router_ties_go_to_the_lower_ids),
        cmocka_unit_test(test_hash_follows_every_number_that_changes_results),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
