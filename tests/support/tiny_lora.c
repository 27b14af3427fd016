/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_lora.h"

#include "tests/support/tiny_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

/* What has no product of its own as the model runs: the embedding, stacks of experts, and the
 * projections that latent attention absorbs. */
static bool is_adapted(const char *name, const shoal_gguf_tensor *t)
{
    static const char *const others[] = {"token_embd", "_exps.", "attn_kv_b."};
    const char *dot = strrchr(name, '.');
    bool matrix = t->dims[1] > 1 && t->dims[2] == 1 && dot && strcmp(dot, ".weight") == 0;
    for (size_t i = 0; i < SHOAL_COUNT(others); i++) {
        matrix = matrix && !strstr(name, others[i]);
    }
    return matrix;
}

static void name_of(const shoal_gguf_tensor *t, char name[SHOAL_GGUF_NAME_MAX + 1])
{
    (void)snprintf(name, SHOAL_GGUF_NAME_MAX + 1, "%.*s", (int)t->name.length, t->name.data);
}

static shoal_status put_pairs(tiny *t, const shoal_gguf *base, uint32_t rank)
{
    for (size_t i = 0; i < shoal_gguf_n_tensors(base); i++) {
        const shoal_gguf_tensor *from = shoal_gguf_tensor_at(base, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        char half[SHOAL_GGUF_NAME_MAX + 16];
        name_of(from, name);
        if (!is_adapted(name, from)) {
            continue;
        }
        (void)snprintf(half, sizeof half, "%s.lora_a", name);
        SHOAL_TRY(shoal_tiny_put_matrices(t, half, from->dims[0], rank, 1, 1.0f));
        (void)snprintf(half, sizeof half, "%s.lora_b", name);
        SHOAL_TRY(shoal_tiny_put_matrices(t, half, rank, from->dims[1], 1, 0.5f));
    }
    return SHOAL_OK;
}

shoal_status shoal_tiny_lora_gguf(const shoal_gguf *base, const shoal_tiny_lora *settings,
                                  shoal_buf *buf)
{
    tiny t = {.type = settings->type, .rng = settings->seed};
    char arch[32] = "";
    shoal_str text = {0};
    SHOAL_TRY(shoal_gguf_get_str(base, "general.architecture", &text, NULL));
    (void)snprintf(arch, sizeof arch, "%.*s", (int)text.length, text.data);
    SHOAL_TRY(shoal_gguf_writer_new(&t.writer));
    shoal_status status = shoal_gguf_put_str(t.writer, "general.type", "adapter");
    if (status == SHOAL_OK) {
        status = shoal_gguf_put_str(t.writer, "adapter.type", "lora");
    }
    if (status == SHOAL_OK) {
        status = shoal_gguf_put_str(t.writer, "general.architecture", arch);
    }
    if (status == SHOAL_OK) {
        status = shoal_gguf_put_f32(t.writer, "adapter.lora.alpha", settings->alpha);
    }
    if (status == SHOAL_OK) {
        status = put_pairs(&t, base, settings->rank);
    }
    return shoal_tiny_finish(&t, status, buf);
}

/* --- merging --------------------------------------------------------------------------------- */

static float element(const shoal_gguf_tensor *t, uint64_t row, uint64_t col)
{
    float x = 0;
    memcpy(&x, t->data + (row * t->dims[0] + col) * sizeof x, sizeof x);
    return x;
}

/* W + strength * alpha / rank * B A. */
static void merge(const shoal_gguf_tensor *w, const shoal_gguf_tensor *a,
                  const shoal_gguf_tensor *b, double scale, float *ret_x)
{
    for (uint64_t row = 0; row < w->dims[1]; row++) {
        for (uint64_t col = 0; col < w->dims[0]; col++) {
            double sum = 0;
            for (uint64_t r = 0; r < a->dims[1]; r++) {
                sum += (double)element(b, row, r) * (double)element(a, r, col);
            }
            *ret_x++ = (float)((double)element(w, row, col) + scale * sum);
        }
    }
}

static shoal_status put_tensor(tiny *t, const shoal_gguf_tensor *w, const shoal_gguf *adapter,
                               double factor)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    char half[SHOAL_GGUF_NAME_MAX + 16];
    name_of(w, name);
    (void)snprintf(half, sizeof half, "%s.lora_a", name);
    const shoal_gguf_tensor *a = shoal_gguf_find_tensor(adapter, half);
    (void)snprintf(half, sizeof half, "%s.lora_b", name);
    const shoal_gguf_tensor *b = shoal_gguf_find_tensor(adapter, half);
    if (!a || !b) {
        return shoal_gguf_put_tensor(t->writer, name, w->type, w->dims, w->n_dims, w->data);
    }
    float *x = shoal_calloc(w->size_bytes, 1);
    if (!x || t->n_data == TINY_TENSORS_MAX || w->type != SHOAL_TYPE_F32 ||
        a->type != SHOAL_TYPE_F32 || b->type != SHOAL_TYPE_F32) {
        shoal_free(x);
        return SHOAL_E_INVALID;
    }
    t->data[t->n_data++] = x;
    merge(w, a, b, factor / (double)a->dims[1], x);
    return shoal_gguf_put_tensor(t->writer, name, w->type, w->dims, w->n_dims, x);
}

static shoal_status put_merged(tiny *t, const shoal_gguf *base, const shoal_gguf *adapter,
                               double strength)
{
    double alpha = 0;
    SHOAL_TRY(shoal_gguf_get_f64(adapter, "adapter.lora.alpha", &alpha, NULL));
    for (size_t i = 0; i < shoal_gguf_n_kv(base); i++) {
        SHOAL_TRY(
            shoal_gguf_put_raw(t->writer, shoal_gguf_key_at(base, i), shoal_gguf_raw_at(base, i)));
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(base); i++) {
        SHOAL_TRY(put_tensor(t, shoal_gguf_tensor_at(base, i), adapter, strength * alpha));
    }
    return SHOAL_OK;
}

shoal_status shoal_tiny_lora_merge(const shoal_gguf *base, const shoal_gguf *adapter,
                                   double strength, shoal_buf *buf)
{
    tiny t = {0};
    SHOAL_TRY(shoal_gguf_writer_new(&t.writer));
    return shoal_tiny_finish(&t, put_merged(&t, base, adapter, strength), buf);
}
