/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotation tables (Su et al., 2104.09864) and their scalings: linear, YaRN (2309.00071), and
 * factors for each pair as Llama 3.1 and LongRoPE (2402.13753) store them. Everything follows from
 * the file alone: neither the engine's context nor a sequence's length changes a table, so a
 * session gives the same tokens on any node (R3).
 */
#include "common/model/model_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

/* How positions are stretched. */
typedef struct scaling {
    double factor; /* 1: not at all */
    bool yarn;
    size_t n_ctx_original;
    double beta_fast; /* turns over the original context above which a pair is left alone */
    double beta_slow; /* and below which it is stretched in full */
    double log_multiplier;
    double magnitude;
    bool must_have_factors;
    bool has_factors;
    double factors[SHOAL_HEAD_DIM_MAX / 2]; /* (rope_dim / 2) */
} scaling;

static bool is(shoal_str text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.data, word, text.length) == 0;
}

static shoal_status read_kind(const shoal_keys *keys, const shoal_hparams *hp, scaling *s)
{
    double legacy = 0;
    shoal_str kind;
    SHOAL_TRY(shoal_keys_real(keys, "rope.scaling.factor", 0, 1e6, &s->factor));
    SHOAL_TRY(shoal_keys_real(keys, "rope.scale_linear", 0, 1e6, &legacy));
    SHOAL_TRY(shoal_keys_str(keys, "rope.scaling.type", &kind));
    if (s->factor == 0) {
        s->factor = legacy > 0 ? legacy : 1;
    }
    if (s->factor < 1e-3) {
        return shoal_err_set(keys->err, SHOAL_E_LIMIT,
                             "%s.rope.scaling.factor: %g is outside 0.001 to 1000000", hp->arch,
                             s->factor);
    }
    if (is(kind, "none")) {
        s->factor = 1;
    } else if (is(kind, "yarn")) {
        s->yarn = true;
    } else if (is(kind, "longrope") && (hp->row->flags & SHOAL_ARCH_LONGROPE)) {
        s->factor = 1; /* the tensors say everything */
        s->must_have_factors = true;
    } else if (kind.length > 0 && !is(kind, "linear")) {
        return shoal_err_set(
            keys->err, SHOAL_E_UNSUPPORTED,
            "%s.rope.scaling.type: \"%.*s\" is not supported; known: none, linear, "
            "yarn%s",
            hp->arch, (int)SHOAL_MIN(kind.length, (size_t)40), kind.data,
            hp->row->flags & SHOAL_ARCH_LONGROPE ? ", longrope" : "");
    }
    return SHOAL_OK;
}

static shoal_status read_scaling(const shoal_keys *keys, const shoal_hparams *hp, scaling *s)
{
    *s = (scaling){.n_ctx_original = hp->n_ctx, .beta_fast = 32, .beta_slow = 1, .magnitude = 1};
    SHOAL_TRY(read_kind(keys, hp, s));
    SHOAL_TRY(shoal_keys_count(keys, "rope.scaling.original_context_length", 1, SHOAL_MODEL_CTX_MAX,
                               &s->n_ctx_original));
    SHOAL_TRY(shoal_keys_real(keys, "rope.scaling.yarn_beta_fast", 1e-3, 1e6, &s->beta_fast));
    SHOAL_TRY(shoal_keys_real(keys, "rope.scaling.yarn_beta_slow", 1e-3, 1e6, &s->beta_slow));
    SHOAL_TRY(shoal_keys_real(keys, "rope.scaling.yarn_log_multiplier", 0, 10, &s->log_multiplier));
    double attn_factor = 0;
    SHOAL_TRY(shoal_keys_real(keys, "rope.scaling.attn_factor", 0, 1e3, &attn_factor));
    s->magnitude = attn_factor > 0 ? attn_factor : 1;
    /* YaRN raises the scores with the log of the factor: all of them where the file gives a
     * multiplier (DeepSeek), else by the rotated channels of both sides. */
    if (s->yarn && s->factor > 1 && s->log_multiplier == 0) {
        s->magnitude *= 1 + 0.1 * shoal_logd(s->factor);
    }
    return SHOAL_OK;
}

/* The pair that makes `turns` turns over the original context. */
static double pair_of_turns(const scaling *s, size_t rope_dim, double base, double turns)
{
    const double two_pi = 6.283185307179586;
    return (double)rope_dim * shoal_logd((double)s->n_ctx_original / (turns * two_pi)) /
           (2 * shoal_logd(base));
}

/* How much of the stretched angle pair i takes: 0 for fast pairs, 1 for slow ones. */
static double stretch_of(const scaling *s, size_t rope_dim, double base, size_t i)
{
    if (!s->yarn) {
        return 1;
    }
    double low = floor(pair_of_turns(s, rope_dim, base, s->beta_fast));
    double high = ceil(pair_of_turns(s, rope_dim, base, s->beta_slow));
    low = low > 0 ? low : 0;
    high = high < (double)rope_dim - 1 ? high : (double)rope_dim - 1;
    double width = high - low > 0.001 ? high - low : 0.001;
    double ramp = ((double)i - low) / width;
    return ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
}

/* Pair i turns by base^(-2i / rope_dim) per position, divided by its factor, and mixed with the
 * same stretched over the longer context. */
static shoal_status make_table(shoal_rope *rope, size_t rope_dim, double base, const scaling *s,
                               shoal_err *err)
{
    rope->magnitude = s->magnitude;
    rope->freq = shoal_calloc(rope_dim / 2, sizeof *rope->freq);
    if (!rope->freq) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the rotation table");
    }
    double log_base = shoal_logd(base);
    for (size_t i = 0; i < rope_dim / 2; i++) {
        double freq = shoal_expd(-log_base * (double)(2 * i) / (double)rope_dim);
        if (s->has_factors) {
            freq /= s->factors[i];
        }
        double stretch = s->factor == 1 ? 0 : stretch_of(s, rope_dim, base, i);
        rope->freq[i] = freq / s->factor * stretch + freq * (1 - stretch);
    }
    return SHOAL_OK;
}

/* A tensor of one factor for each pair: F32 and positive. */
static shoal_status read_factors(const shoal_gguf *gguf, const char *name, size_t n, scaling *s,
                                 shoal_err *err)
{
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, name);
    if (!t) {
        return SHOAL_OK;
    }
    if (t->type != SHOAL_TYPE_F32 || t->size_bytes != n * sizeof(float)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %s: %zu F32 numbers are expected, one for each rotated pair",
                             name, n);
    }
    for (size_t i = 0; i < n; i++) {
        float factor = 0;
        memcpy(&factor, t->data + i * sizeof factor, sizeof factor);
        if (!(factor >= 1e-3F && factor <= 1e6F)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tensor %s: element %zu is %g, outside 0.001 to 1000000", name, i,
                                 (double)factor);
        }
        s->factors[i] = (double)factor;
    }
    s->has_factors = true;
    return SHOAL_OK;
}

/* Llama 3.1's factors, or LongRoPE's: the long ones when the model was made for more than its
 * original context, for every length of text. */
static shoal_status choose_factors(const shoal_hparams *hp, const shoal_gguf *gguf, bool *used,
                                   scaling *s, shoal_err *err)
{
    static const char *const names[] = {"rope_freqs.weight", "rope_factors_long.weight",
                                        "rope_factors_short.weight"};
    bool long_rope = hp->row->flags & SHOAL_ARCH_LONGROPE;
    size_t first = long_rope ? 1 : 0;
    size_t chosen = !long_rope ? 0 : hp->n_ctx > s->n_ctx_original ? 1 : 2;
    bool any = false;
    for (size_t i = first; i < (long_rope ? SHOAL_COUNT(names) : 1); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, names[i]);
        if (t) {
            used[t - shoal_gguf_tensor_at(gguf, 0)] = true;
            any = true;
            /* Also those that are not chosen: a broken file is refused, not half read. */
            SHOAL_TRY(read_factors(gguf, names[i], hp->rope_dim / 2, s, err));
        }
    }
    s->has_factors = false;
    SHOAL_TRY(read_factors(gguf, names[chosen], hp->rope_dim / 2, s, err));
    if (long_rope && !s->has_factors && (any || s->must_have_factors)) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor %s is missing: a context of %zu over an original one of %zu "
                             "asks for it",
                             names[chosen], hp->n_ctx, s->n_ctx_original);
    }
    return SHOAL_OK;
}

shoal_status shoal_rope_read(shoal_model *model, const shoal_gguf *gguf, bool *used, shoal_err *err)
{
    shoal_hparams *hp = &model->hp;
    shoal_keys keys = {.gguf = gguf, .arch = hp->row, .err = err};
    scaling s;
    SHOAL_TRY(read_scaling(&keys, hp, &s));
    SHOAL_TRY(choose_factors(hp, gguf, used, &s, err));
    SHOAL_TRY(make_table(&model->rope[0], hp->rope_dim, (double)hp->rope_base, &s, err));
    if (s.yarn && s.factor > 1 && s.log_multiplier > 0) {
        double raise = 1 + s.log_multiplier * shoal_logd(s.factor);
        hp->attn_scale = (float)((double)hp->attn_scale * raise * raise);
    }
    /* Layers with a window see near tokens alone: where they have their own base, nothing about
     * them is stretched. */
    double local = (double)hp->row->window_base;
    SHOAL_TRY(shoal_keys_real(&keys, "rope.freq_base_swa", 1, 1e12, &local));
    if (local == 0) {
        return SHOAL_OK;
    }
    scaling plain = {.factor = 1, .magnitude = 1};
    return make_table(&model->rope[1], hp->rope_dim, local, &plain, err);
}
