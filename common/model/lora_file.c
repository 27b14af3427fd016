/* SPDX-License-Identifier: Apache-2.0
 *
 * An adapter's file as pairs of matrices: what can be known without its base.
 */
#include "common/model/lora.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char suffix_a[] = ".lora_a";
static const char suffix_b[] = ".lora_b";

#define NAME(t) (int)SHOAL_MIN((t)->name.length, (size_t)100), (t)->name.data

static bool is_text(shoal_str s, const char *text)
{
    return s.length == strlen(text) && memcmp(s.data, text, s.length) == 0;
}

static bool starts_with(shoal_str s, const char *start)
{
    size_t n = strlen(start);
    return s.length >= n && memcmp(s.data, start, n) == 0;
}

static bool ends_with(shoal_str s, const char *end)
{
    size_t n = strlen(end);
    return s.length >= n && memcmp(s.data + s.length - n, end, n) == 0;
}

static shoal_status need_text(const shoal_gguf *gguf, const char *key, const char *wanted,
                              const char *remedy, shoal_err *err)
{
    shoal_str value = {0};
    shoal_status status = shoal_gguf_get_str(gguf, key, &value, NULL);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s is missing or no text: \"%s\" is expected; %s", key,
                             wanted, remedy);
    }
    if (!is_text(value, wanted)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s is \"%.*s\", not \"%s\": %s", key,
                             (int)SHOAL_MIN(value.length, (size_t)32), value.data, wanted, remedy);
    }
    return SHOAL_OK;
}

/* A key under adapter. that changes results must be one that is computed with. */
static shoal_status check_keys(const shoal_gguf *gguf, shoal_err *err)
{
    static const char *const known[] = {"adapter.type", "adapter.lora.alpha",
                                        "adapter.lora.task_name"};
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        shoal_str key = shoal_gguf_key_at(gguf, i);
        bool found = !starts_with(key, "adapter.");
        for (size_t j = 0; !found && j < SHOAL_COUNT(known); j++) {
            found = is_text(key, known[j]);
        }
        if (!found) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "%.*s: adapters with this key are not computed",
                                 (int)SHOAL_MIN(key.length, (size_t)64), key.data);
        }
    }
    return SHOAL_OK;
}

static shoal_status read_alpha(const shoal_gguf *gguf, float strength, double *ret_alpha,
                               shoal_err *err)
{
    SHOAL_TRY(shoal_gguf_get_f64(gguf, "adapter.lora.alpha", ret_alpha, err));
    if (!isfinite(*ret_alpha) || *ret_alpha < 0 || *ret_alpha > 65536) {
        return shoal_err_set(err, SHOAL_E_INVALID, "adapter.lora.alpha: %g is not from 0 to 65536",
                             *ret_alpha);
    }
    if (!isfinite(strength) || fabsf(strength) > 1024) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a strength of %g: take a number from -1024 to 1024",
                             (double)strength);
    }
    return SHOAL_OK;
}

/* --- pairs ----------------------------------------------------------------------------------- */

static bool is_whole(shoal_type type)
{
    return type == SHOAL_TYPE_I8 || type == SHOAL_TYPE_I32;
}

static shoal_status check_shapes(const shoal_lora_pair *p, shoal_err *err)
{
    const uint64_t *a = p->a->dims;
    const uint64_t *b = p->b->dims;
    if (a[2] != 1 || a[3] != 1 || b[2] != 1 || b[3] != 1) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: adapters of stacks of experts are not computed",
                             NAME(p->a));
    }
    if (is_whole(p->a->type) || is_whole(p->b->type)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor %.*s: the pair is of type I8 or I32, which adapters have no "
                             "scales for",
                             NAME(p->a));
    }
    if (a[1] != b[0]) {
        return shoal_err_set(err, SHOAL_E_INVALID, "tensor %.*s: rank %llu, but %.*s has rank %llu",
                             NAME(p->a), (unsigned long long)a[1], NAME(p->b),
                             (unsigned long long)b[0]);
    }
    if (a[1] > SHOAL_LORA_RANK_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "tensor %.*s: rank %llu is more than %d",
                             NAME(p->a), (unsigned long long)a[1], (int)SHOAL_LORA_RANK_MAX);
    }
    return SHOAL_OK;
}

/* The name of a's partner, or of the tensor both adapt when more is empty. */
static void name_beside(const shoal_gguf_tensor *a, const char *more, char *ret_name)
{
    size_t n = a->name.length - strlen(suffix_a);
    (void)snprintf(ret_name, SHOAL_GGUF_NAME_MAX + 1, "%.*s%s", (int)n, a->name.data, more);
}

static shoal_status partner(const shoal_gguf *gguf, const shoal_gguf_tensor *t, const char *more,
                            const shoal_gguf_tensor **ret_tensor, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    name_beside(t, more, name);
    *ret_tensor = shoal_gguf_find_tensor(gguf, name);
    if (!*ret_tensor) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND, "tensor %.*s: %s, its other half, is missing",
                             NAME(t), name);
    }
    return SHOAL_OK;
}

static shoal_status read_pairs(const shoal_gguf *gguf, double alpha, float strength,
                               shoal_lora_file *file, shoal_err *err)
{
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_lora_pair *p = &file->pairs[file->n_pairs];
        if (ends_with(t->name, suffix_b)) {
            const shoal_gguf_tensor *a = NULL;
            SHOAL_TRY(partner(gguf, t, suffix_a, &a, err));
            continue;
        }
        if (!ends_with(t->name, suffix_a)) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "tensor %.*s: an adapter holds pairs of .lora_a and .lora_b only",
                                 NAME(t));
        }
        p->a = t;
        SHOAL_TRY(partner(gguf, t, suffix_b, &p->b, err));
        SHOAL_TRY(check_shapes(p, err));
        name_beside(t, "", p->base);
        double scale = alpha == 0 ? 1 : alpha / (double)t->dims[1];
        p->scale = (float)((double)strength * scale);
        file->n_pairs++;
    }
    return SHOAL_OK;
}

shoal_status shoal_lora_file_read(const shoal_gguf *gguf, const char *arch, float strength,
                                  shoal_lora_file *ret_file, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_lora_file_fini) shoal_lora_file file = {0};
    double alpha = 0;
    SHOAL_TRY(need_text(gguf, "general.type", "adapter", "this file is no adapter", err));
    SHOAL_TRY(need_text(gguf, "adapter.type", "lora", "only LoRA adapters are computed", err));
    SHOAL_TRY(need_text(gguf, "general.architecture", arch,
                        "the adapter was made for another kind of model", err));
    SHOAL_TRY(check_keys(gguf, err));
    SHOAL_TRY(read_alpha(gguf, strength, &alpha, err));
    /* One more than there can be: the next pair is looked at before it is known to be one. */
    file.pairs = shoal_calloc(shoal_gguf_n_tensors(gguf) + 1, sizeof *file.pairs);
    if (!file.pairs) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the adapter");
    }
    SHOAL_TRY(read_pairs(gguf, alpha, strength, &file, err));
    if (file.n_pairs == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the adapter holds no tensors");
    }
    *ret_file = file;
    file = (shoal_lora_file){0};
    return SHOAL_OK;
}

void shoal_lora_file_fini(shoal_lora_file *file)
{
    shoal_free(file->pairs);
    *file = (shoal_lora_file){0};
}

const shoal_lora_pair *shoal_lora_file_find(const shoal_lora_file *file, shoal_str base)
{
    for (size_t i = 0; i < file->n_pairs; i++) {
        if (is_text(base, file->pairs[i].base)) {
            return &file->pairs[i];
        }
    }
    return NULL;
}
