/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    KEY_MAX = 96
};

/* arch + suffix, for example "llama.block_count". */
static void key_of(const shoal_hparams *hp, const char *suffix, char key[KEY_MAX])
{
    (void)snprintf(key, KEY_MAX, "%s.%s", hp->arch, suffix);
}

/* A count within [min, max]; absent gives fallback, or an error when fallback is 0. */
static shoal_status get_count(const shoal_gguf *gguf, const shoal_hparams *hp, const char *suffix,
                              size_t max, size_t fallback, size_t *ret_value, shoal_err *err)
{
    char key[KEY_MAX];
    key_of(hp, suffix, key);
    uint64_t value = 0;
    shoal_status status = shoal_gguf_get_u64(gguf, key, &value, fallback ? NULL : err);
    if (status == SHOAL_E_NOTFOUND && fallback) {
        *ret_value = fallback;
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s: an integer is expected", key);
    }
    if (value < 1 || value > max) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: %llu is outside 1 to %zu", key,
                             (unsigned long long)value, max);
    }
    *ret_value = (size_t)value;
    return SHOAL_OK;
}

static shoal_status get_real(const shoal_gguf *gguf, const shoal_hparams *hp, const char *suffix,
                             double min, double max, float *inout_value, shoal_err *err)
{
    char key[KEY_MAX];
    key_of(hp, suffix, key);
    double value = 0;
    shoal_status status = shoal_gguf_get_f64(gguf, key, &value, NULL);
    if (status == SHOAL_E_NOTFOUND && *inout_value > 0) {
        return SHOAL_OK;
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s: a number is expected", key);
    }
    if (!(value >= min && value <= max)) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: %g is outside %g to %g", key, value, min,
                             max);
    }
    *inout_value = (float)value;
    return SHOAL_OK;
}

static shoal_status get_arch(const shoal_gguf *gguf, shoal_hparams *hp, shoal_err *err)
{
    shoal_str arch;
    SHOAL_TRY(shoal_gguf_get_str(gguf, "general.architecture", &arch, err));
    if (arch.length != 5 || memcmp(arch.data, "llama", 5) != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "general.architecture: \"%.*s\" is not supported; known: llama",
                             (int)SHOAL_MIN(arch.length, 40), arch.data);
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

/* Relations between the numbers, once each is in its own range. */
static shoal_status check_relations(const shoal_hparams *hp, shoal_err *err)
{
    if (hp->n_heads % hp->n_kv_heads != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s.attention.head_count_kv: %zu does not divide head_count %zu",
                             hp->arch, hp->n_kv_heads, hp->n_heads);
    }
    if (hp->head_dim % 2 != 0 || hp->rope_dim % 2 != 0 || hp->rope_dim > hp->head_dim) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s.rope.dimension_count: %zu must be even and at most the head "
                             "width %zu, which must be even too",
                             hp->arch, hp->rope_dim, hp->head_dim);
    }
    return SHOAL_OK;
}

/* RoPE scaling changes every angle: refuse what is not computed rather than ignore it. */
static shoal_status refuse_scaling(const shoal_gguf *gguf, const shoal_hparams *hp, shoal_err *err)
{
    char key[KEY_MAX];
    key_of(hp, "rope.scaling.type", key);
    shoal_str kind;
    if (shoal_gguf_get_str(gguf, key, &kind, NULL) == SHOAL_OK && kind.length > 0 &&
        !(kind.length == 4 && memcmp(kind.data, "none", 4) == 0)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s: \"%.*s\" is not supported; known: none",
                             key, (int)SHOAL_MIN(kind.length, 40), kind.data);
    }
    if (shoal_gguf_find_tensor(gguf, "rope_freqs.weight")) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tensor rope_freqs.weight: scaled rotary positions are not supported");
    }
    key_of(hp, "expert_count", key);
    uint64_t experts = 0;
    if (shoal_gguf_get_u64(gguf, key, &experts, NULL) == SHOAL_OK && experts > 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s: mixtures of experts are not supported",
                             key);
    }
    return SHOAL_OK;
}

shoal_status shoal_hparams_read(const shoal_gguf *gguf, shoal_hparams *ret_hp, shoal_err *err)
{
    shoal_hparams hp = {.rope_base = 10000.0F, .norm_eps = 0};
    SHOAL_TRY(get_arch(gguf, &hp, err));
    SHOAL_TRY(refuse_scaling(gguf, &hp, err));
    SHOAL_TRY(get_count(gguf, &hp, "embedding_length", SHOAL_MODEL_DIM_MAX, 0, &hp.dim, err));
    SHOAL_TRY(get_count(gguf, &hp, "block_count", SHOAL_MODEL_LAYERS_MAX, 0, &hp.n_layers, err));
    SHOAL_TRY(get_count(gguf, &hp, "context_length", SHOAL_MODEL_CTX_MAX, 0, &hp.n_ctx, err));
    SHOAL_TRY(get_count(gguf, &hp, "feed_forward_length", SHOAL_MODEL_FFN_MAX, 0, &hp.ffn, err));
    SHOAL_TRY(
        get_count(gguf, &hp, "attention.head_count", SHOAL_MODEL_HEADS_MAX, 0, &hp.n_heads, err));
    SHOAL_TRY(get_count(gguf, &hp, "attention.head_count_kv", SHOAL_MODEL_HEADS_MAX, hp.n_heads,
                        &hp.n_kv_heads, err));
    size_t head_dim = hp.dim / hp.n_heads;
    if (head_dim < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s.attention.head_count: %zu heads do not fit a width of %zu",
                             hp.arch, hp.n_heads, hp.dim);
    }
    SHOAL_TRY(get_count(gguf, &hp, "attention.key_length", SHOAL_HEAD_DIM_MAX,
                        SHOAL_MIN(head_dim, (size_t)SHOAL_HEAD_DIM_MAX + 1), &hp.head_dim, err));
    SHOAL_TRY(get_count(gguf, &hp, "rope.dimension_count", SHOAL_HEAD_DIM_MAX, hp.head_dim,
                        &hp.rope_dim, err));
    SHOAL_TRY(get_real(gguf, &hp, "rope.freq_base", 1, 1e12, &hp.rope_base, err));
    SHOAL_TRY(get_real(gguf, &hp, "attention.layer_norm_rms_epsilon", 0, 1, &hp.norm_eps, err));
    if (hp.head_dim > SHOAL_HEAD_DIM_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: a head width of %zu is over %d", hp.arch,
                             hp.head_dim, (int)SHOAL_HEAD_DIM_MAX);
    }
    SHOAL_TRY(check_relations(&hp, err));
    *ret_hp = hp;
    return SHOAL_OK;
}
