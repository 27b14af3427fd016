/* SPDX-License-Identifier: Apache-2.0
 *
 * Adds an adapter to a model's tensors for good. The rewriting is that of convert; here is what an
 * adapter's pairs must be for it, and the sum.
 */
#include "cloud/forge/convert.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <string.h>

enum {
    COLS = 256 /* sums in flight */
};

/* What is added to the base of a matrix would be divided by its column scales, and miss the inputs
 * that the base skips. */
static shoal_status check_no_scale(const conversion *c, const shoal_gguf_tensor *t,
                                   const shoal_lora_pair *p, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    bool scaled = shoal_side_name(t->name, SHOAL_SIDE_COLUMN_SCALE, name) &&
                  shoal_gguf_find_tensor(c->gguf, name);
    bool skips = shoal_side_name(t->name, SHOAL_SIDE_THRESHOLD, name) &&
                 shoal_gguf_find_tensor(c->gguf, name);
    if (scaled || skips) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.100s.lora_a: its matrix has %s, under which a pair "
                             "cannot be merged; merge it into the model before that is %s",
                             p->base, scaled ? "column scales" : "a threshold",
                             scaled ? "compressed" : "sparsified");
    }
    return SHOAL_OK;
}

static shoal_status check_pair(const conversion *c, const shoal_lora_pair *p, shoal_err *err)
{
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(c->gguf, p->base);
    if (!t) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %.100s.lora_a: the model has no tensor %.60s", p->base,
                             p->base);
    }
    if (t->dims[1] == 1 || strcmp(p->base, "token_embd.weight") == 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.100s.lora_a: pairs for vectors and for the embedding cannot "
                             "be merged",
                             p->base);
    }
    if (t->dims[0] != p->a->dims[0] || t->dims[1] != p->b->dims[1] || t->dims[2] != 1 ||
        t->dims[3] != 1) {
        return shoal_err_set(
            err, SHOAL_E_INVALID,
            "tensor %.100s.lora_a: the pair is for %llu x %llu, the model's tensor is "
            "%llu x %llu x %llu",
            p->base, (unsigned long long)p->a->dims[0], (unsigned long long)p->b->dims[1],
            (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
            (unsigned long long)t->dims[2]);
    }
    return check_no_scale(c, t, p, err);
}

static shoal_status open_adapter(conversion *c, const char *path, float strength, shoal_err *err)
{
    SHOAL_TRY(shoal_map_open(path, &c->adapter_map, err));
    SHOAL_TRY(shoal_gguf_open(c->adapter_map.data, c->adapter_map.size, &c->adapter, err));
    SHOAL_TRY(shoal_lora_file_read(c->adapter, c->arch, strength, &c->pairs, err));
    for (size_t i = 0; i < c->pairs.n_pairs; i++) {
        SHOAL_TRY(check_pair(c, &c->pairs.pairs[i], err));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_merge_open(conversion *c, const char *text, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = NULL;
    float strength = 1;
    SHOAL_TRY(shoal_forge_parse_lora(text, &path, &strength, err));
    shoal_status status = open_adapter(c, path, strength, err);
    if (status != SHOAL_OK) {
        const char *base = strrchr(path, '/');
        shoal_err_prefix(err, "adapter %s", base ? base + 1 : path);
    }
    return status;
}

static void merge_row(const shoal_lora_pair *pair, const float *a, const float *b, float *x)
{
    size_t k = (size_t)pair->a->dims[0];
    size_t rank = (size_t)pair->a->dims[1];
    for (size_t at = 0; at < k; at += COLS) {
        double sums[COLS] = {0};
        size_t n = SHOAL_MIN(k - at, (size_t)COLS);
        for (size_t r = 0; r < rank; r++) {
            for (size_t i = 0; i < n; i++) {
                sums[i] += (double)b[r] * (double)a[r * k + at + i];
            }
        }
        for (size_t i = 0; i < n; i++) {
            x[at + i] = (float)((double)x[at + i] + (double)pair->scale * sums[i]);
        }
    }
}

void shoal_forge_merge_rows(const shoal_lora_pair *pair, const float *a, size_t row, size_t n,
                            float *x)
{
    float b[SHOAL_LORA_RANK_MAX];
    size_t rank = (size_t)pair->b->dims[0];
    const shoal_type_info *info = shoal_type_find((uint32_t)pair->b->type);
    size_t row_bytes = rank / info->block * info->block_bytes;
    for (size_t i = 0; i < n; i++) {
        shoal_weight_decode(pair->b->type, pair->b->data + (row + i) * row_bytes, rank, b);
        merge_row(pair, a, b, x + i * (size_t)pair->a->dims[0]);
    }
}

shoal_status shoal_forge_merge_lora(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->lora, "--lora FILE", err));
    return shoal_forge_convert(args, err);
}
