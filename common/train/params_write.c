/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters to a GGUF. Keys are those that common/model reads; a number that the architecture
 * implies is not written.
 */
#include "common/train/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY_MAX = 96
};

typedef struct writing {
    const shoal_params *params;
    shoal_gguf_writer *writer;
} writing;

static bool has(const writing *w, uint32_t flag)
{
    return (w->params->hp.row->flags & flag) != 0;
}

static shoal_status put_count(const writing *w, const char *suffix, size_t value)
{
    char key[KEY_MAX];
    (void)snprintf(key, sizeof key, "%s.%s", w->params->hp.arch, suffix);
    return shoal_gguf_put_u32(w->writer, key, (uint32_t)value);
}

static shoal_status put_real(const writing *w, const char *suffix, float value)
{
    char key[KEY_MAX];
    (void)snprintf(key, sizeof key, "%s.%s", w->params->hp.arch, suffix);
    return shoal_gguf_put_f32(w->writer, key, value);
}

/* --- keys ------------------------------------------------------------------------------------ */

/* What says how the source's tensors are stored is not true of ours. */
static bool wanted_key(shoal_str key)
{
    static const char *const storage[] = {"general.alignment", "general.file_type",
                                          "general.quantization_version"};
    for (size_t i = 0; i < SHOAL_COUNT(storage); i++) {
        if (key.length == strlen(storage[i]) && memcmp(key.data, storage[i], key.length) == 0) {
            return false;
        }
    }
    return (key.length > 8 && memcmp(key.data, "general.", 8) == 0) ||
           (key.length > 10 && memcmp(key.data, "tokenizer.", 10) == 0);
}

static shoal_status put_copied(const writing *w, const shoal_gguf *tokenizer)
{
    for (size_t i = 0; i < shoal_gguf_n_kv(tokenizer); i++) {
        shoal_str key = shoal_gguf_key_at(tokenizer, i);
        if (wanted_key(key)) {
            SHOAL_TRY(shoal_gguf_put_raw(w->writer, key, shoal_gguf_raw_at(tokenizer, i)));
        }
    }
    SHOAL_TRY(shoal_gguf_put_str(w->writer, "general.architecture", w->params->hp.arch));
    return w->params->hp.name[0] != '\0'
               ? shoal_gguf_put_str(w->writer, "general.name", w->params->hp.name)
               : SHOAL_OK;
}

static shoal_status put_shape(const writing *w)
{
    const shoal_hparams *hp = &w->params->hp;
    SHOAL_TRY(put_count(w, "context_length", hp->n_ctx));
    SHOAL_TRY(put_count(w, "embedding_length", hp->dim));
    SHOAL_TRY(put_count(w, "block_count", hp->n_layers));
    if (hp->ffn > 0) {
        SHOAL_TRY(put_count(w, "feed_forward_length", hp->ffn));
    }
    SHOAL_TRY(put_count(w, "attention.head_count", hp->n_heads));
    SHOAL_TRY(put_count(w, "attention.head_count_kv", hp->n_kv_heads));
    SHOAL_TRY(put_count(w, "attention.key_length", hp->head_dim));
    SHOAL_TRY(put_count(w, "attention.value_length", hp->value_dim));
    if (hp->mla.rank > 0) {
        SHOAL_TRY(put_count(w, "attention.kv_lora_rank", hp->mla.rank));
        SHOAL_TRY(put_count(w, "attention.q_lora_rank", hp->mla.q_rank));
    }
    SHOAL_TRY(put_count(w, "rope.dimension_count", hp->rope_dim));
    SHOAL_TRY(put_real(w, "rope.freq_base", hp->rope_base));
    SHOAL_TRY(put_real(w, "attention.layer_norm_rms_epsilon", hp->norm_eps));
    size_t width = hp->n_layers == hp->row->wide_layers ? hp->dim / hp->n_heads : hp->head_dim;
    if (hp->attn_scale != 1.0F / sqrtf((float)width)) {
        SHOAL_TRY(put_real(w, "attention.scale", hp->attn_scale));
    }
    if (has(w, SHOAL_ARCH_SOFTCAP)) {
        SHOAL_TRY(put_real(w, "attn_logit_softcapping", hp->attn_softcap));
        SHOAL_TRY(put_real(w, "final_logit_softcapping", hp->final_softcap));
    }
    return SHOAL_OK;
}

static bool windows_are(const shoal_hparams *hp, size_t window, size_t period)
{
    for (size_t i = 0; i < hp->n_layers; i++) {
        if (hp->windows[i] != (period > 0 && i % period == period - 1 ? 0 : window)) {
            return false;
        }
    }
    return true;
}

/* One window in all layers but every period-th, as the reader makes them. */
static shoal_status put_windows(const writing *w, shoal_err *err)
{
    const shoal_hparams *hp = &w->params->hp;
    size_t window = 0;
    for (size_t i = 0; i < hp->n_layers; i++) {
        window = SHOAL_MAX(window, hp->windows[i]);
    }
    if (window == 0 && !hp->row->window_period) {
        return SHOAL_OK;
    }
    SHOAL_TRY(put_count(w, "attention.sliding_window", window));
    if (windows_are(hp, window, hp->row->window_period)) {
        return SHOAL_OK;
    }
    for (size_t period = 0; period <= hp->n_layers; period++) {
        if (windows_are(hp, window, period)) {
            return put_count(w, "attention.sliding_window_pattern", period);
        }
    }
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "the windows of the layers follow no period that a GGUF can state");
}

static shoal_status put_experts(const writing *w)
{
    const shoal_moe *moe = &w->params->hp.moe;
    char key[KEY_MAX];
    if (moe->n_experts == 0) {
        return SHOAL_OK;
    }
    SHOAL_TRY(put_count(w, "expert_count", moe->n_experts));
    SHOAL_TRY(put_count(w, "expert_used_count", moe->n_used));
    SHOAL_TRY(put_count(w, "expert_feed_forward_length", moe->ffn));
    if (moe->ffn_shared > 0) {
        SHOAL_TRY(put_count(w, "expert_shared_feed_forward_length", moe->ffn_shared));
    }
    if (has(w, SHOAL_ARCH_MLA)) {
        SHOAL_TRY(put_count(w, "leading_dense_block_count", moe->n_dense));
        SHOAL_TRY(put_count(w, "expert_group_count", moe->n_groups));
        SHOAL_TRY(put_count(w, "expert_group_used_count", moe->n_groups_used));
    }
    SHOAL_TRY(put_count(w, "expert_gating_func", moe->sigmoid ? 2 : 1));
    SHOAL_TRY(put_real(w, "expert_weights_scale", moe->scale));
    (void)snprintf(key, sizeof key, "%s.expert_weights_norm", w->params->hp.arch);
    return shoal_gguf_put_bool(w->writer, key, moe->norm_weights);
}

/* --- exits ----------------------------------------------------------------------------------- */

static shoal_status put_exits(const writing *w)
{
    const shoal_params *p = w->params;
    int32_t layers[SHOAL_TRAIN_EXITS_MAX];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf norms = {0};
    if (p->n_exits == 0) {
        return SHOAL_OK;
    }
    for (size_t i = 0; i < p->n_exits; i++) {
        char name[SHOAL_TRAIN_NAME_MAX];
        (void)snprintf(name, sizeof name, "shoal.exit.%zu.norm", p->exits[i]);
        layers[i] = (int32_t)p->exits[i];
        const float *norm = p->data + shoal_params_find(p, name)->offset;
        SHOAL_TRY(shoal_buf_append(&norms, norm, p->hp.dim * sizeof *norm));
    }
    SHOAL_TRY(shoal_gguf_put_i32_array(w->writer, SHOAL_EXIT_LAYERS_KEY, layers, p->n_exits));
    return shoal_gguf_put_f32_array(w->writer, SHOAL_EXIT_NORM_KEY,
                                    (const float *)(const void *)norms.data,
                                    p->n_exits * p->hp.dim);
}

/* --- tensors --------------------------------------------------------------------------------- */

static bool is_tensor(const shoal_param *item)
{
    return strncmp(item->name, "shoal.", 6) != 0;
}

static shoal_status put_tensors(const writing *w)
{
    for (size_t i = 0; i < w->params->n_items; i++) {
        const shoal_param *item = &w->params->items[i];
        const uint64_t dims[] = {item->n_cols, item->n_rows / item->n_stacked, item->n_stacked};
        uint32_t n_dims = item->n_stacked > 1 ? 3 : item->kind == SHOAL_PARAM_VECTOR ? 1 : 2;
        if (is_tensor(item)) {
            SHOAL_TRY(
                shoal_gguf_put_tensor(w->writer, item->name, SHOAL_TYPE_F32, dims, n_dims, NULL));
        }
    }
    return SHOAL_OK;
}

static shoal_status write_tensors(const writing *w, shoal_file_out *out, shoal_err *err)
{
    static const uint8_t zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    for (size_t i = 0; i < w->params->n_items; i++) {
        const shoal_param *item = &w->params->items[i];
        size_t n = item->n_rows * item->n_cols * sizeof(float);
        if (is_tensor(item)) {
            SHOAL_TRY(shoal_file_out_write(out, w->params->data + item->offset, n, err));
            SHOAL_TRY(
                shoal_file_out_write(out, zeros, shoal_gguf_writer_padding(w->writer, n), err));
        }
    }
    return SHOAL_OK;
}

/* --- the file -------------------------------------------------------------------------------- */

static shoal_status put_all(const writing *w, const shoal_gguf *tokenizer, shoal_err *err)
{
    SHOAL_TRY(put_copied(w, tokenizer));
    SHOAL_TRY(put_shape(w));
    SHOAL_TRY(put_windows(w, err));
    SHOAL_TRY(put_experts(w));
    SHOAL_TRY(put_exits(w));
    return put_tensors(w);
}

shoal_status shoal_params_write(const shoal_params *params, const shoal_gguf *tokenizer,
                                const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    if (params->rope_scaled) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s: the rotation comes from a model that scales it, which is not "
                             "written; train a model without rope.scaling",
                             path);
    }
    if (shoal_gguf_writer_new(&writer) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory to write", path);
    }
    writing w = {.params = params, .writer = writer};
    shoal_status status = put_all(&w, tokenizer, err);
    if (status == SHOAL_E_NOMEM) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for the metadata", path);
    }
    SHOAL_TRY(status);
    SHOAL_TRY(shoal_gguf_writer_head(writer, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &out, err));
    SHOAL_TRY(shoal_file_out_write(out, head.data, head.length, err));
    SHOAL_TRY(write_tensors(&w, out, err));
    return shoal_file_out_commit(out, err);
}
