/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/exit/store.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"

#include <stdio.h>

/* Of one token far from every window's edge. */
static double kv_bytes_per_token(const shoal_hparams *hp, double element)
{
    shoal_kv_shape shape = shoal_model_kv_shape(hp, SHOAL_KV_F16);
    return (double)(shape.n_layers * shape.n_kv_heads * (shape.k_dim + shape.v_dim)) * element;
}

/* A model whose matrices are I8 was only loaded because they are FP8. */
static const char *main_type_name(const shoal_model *m)
{
    return m->main_type == SHOAL_TYPE_I8 ? "FP8" : shoal_type_find((uint32_t)m->main_type)->name;
}

/* "2, 4" between the two. */
static shoal_status append_exits(const shoal_hparams *hp, const char *before, const char *behind,
                                 shoal_buf *out)
{
    SHOAL_TRY(shoal_buf_appendf(out, "%s", before));
    for (size_t i = 0; i < hp->n_exits; i++) {
        SHOAL_TRY(shoal_buf_appendf(out, "%s%zu", i ? ", " : "", hp->exits[i]));
    }
    return shoal_buf_appendf(out, "%s", behind);
}

/* What the policies in a file were fitted to, and whether that is this model; false: there are
 * none.
 */
static shoal_status find_calibration(const shoal_gguf *gguf, const shoal_model *m, bool *ret_has,
                                     bool *ret_fits, shoal_exit_calibration *ret_calibration,
                                     shoal_err *err)
{
    shoal_hash subject;
    shoal_status status =
        shoal_exit_calibration_read(gguf, SHOAL_ESCALATE_CALIBRATION, ret_calibration, NULL);
    *ret_has = status == SHOAL_OK;
    if (status == SHOAL_E_NOTFOUND) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_exit_calibration_read(gguf, SHOAL_ESCALATE_CALIBRATION, ret_calibration, err));
    SHOAL_TRY(shoal_exit_subject(gguf, &m->hash, &subject, err));
    *ret_fits = shoal_exit_calibration_fits(ret_calibration, &subject, NULL) == SHOAL_OK;
    return SHOAL_OK;
}

static shoal_status print_calibration(const shoal_gguf *gguf, const shoal_model *m, bool json,
                                      shoal_buf *out, shoal_err *err)
{
    shoal_exit_calibration c = {0};
    bool has = false;
    bool fits = false;
    SHOAL_TRY(find_calibration(gguf, m, &has, &fits, &c, err));
    if (json) {
        return has ? shoal_buf_appendf(out,
                                       "{\"answers\": %u, \"tokens\": %u, \"risk\": %.6g, "
                                       "\"delta\": %.6g, \"fits\": %s}",
                                       c.n, c.n_tokens, (double)c.risk, (double)c.delta,
                                       fits ? "true" : "false")
                   : shoal_buf_appendf(out, "null");
    }
    return has ? shoal_buf_appendf(out,
                                   "  policies   fitted to %u answers, risk %.6g, delta %.6g%s\n",
                                   c.n, (double)c.risk, (double)c.delta,
                                   fits ? "" : ", of OTHER weights: calibrate again")
               : SHOAL_OK;
}

/* What stands beside matrices. */
typedef struct sides_count {
    size_t n_low; /* matrices with factors, */
    uint64_t rank_min;
    uint64_t rank_max;
    size_t n_singles; /* with single elements, */
    uint64_t n_elements;
    size_t n_scales; /* with column scales */
    size_t n_skip;   /* with thresholds */
    size_t n_levels; /* matrices with levels of their own */
    uint64_t bytes;
} sides_count;

static sides_count count_sides(const shoal_gguf *gguf)
{
    sides_count c = {.rank_min = UINT64_MAX};
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_side side = SHOAL_SIDES;
        shoal_str weight = {0};
        if (!shoal_side_parse(t->name, &side, &weight)) {
            continue;
        }
        const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
        c.bytes +=
            t->dims[0] / info->block * info->block_bytes * t->dims[1]; /* as in a plain file */
        if (side == SHOAL_SIDE_LOW_LEFT) {
            c.n_low++;
            c.rank_min = SHOAL_MIN(c.rank_min, t->dims[1]);
            c.rank_max = SHOAL_MAX(c.rank_max, t->dims[1]);
        } else if (side == SHOAL_SIDE_SINGLE_VALUES) {
            c.n_singles++;
            c.n_elements += t->dims[0];
        } else if (side == SHOAL_SIDE_COLUMN_SCALE) {
            c.n_scales++;
        } else if (side == SHOAL_SIDE_THRESHOLD) {
            c.n_skip++;
        } else if (side == SHOAL_SIDE_LEVELS) {
            c.n_levels++;
        }
    }
    return c;
}

static shoal_status print_sides(const shoal_gguf *gguf, bool json, shoal_buf *out)
{
    sides_count c = count_sides(gguf);
    unsigned long long low = c.n_low > 0 ? c.rank_min : 0;
    if (json) {
        return c.bytes > 0
                   ? shoal_buf_appendf(
                         out,
                         "{\"low_rank\": %zu, \"rank_min\": %llu, \"rank_max\": %llu, "
                         "\"singles\": %zu, \"single_elements\": %llu, \"column_scales\": %zu, "
                         "\"thresholds\": %zu, \"levels\": %zu, \"bytes\": %llu}",
                         c.n_low, low, (unsigned long long)c.rank_max, c.n_singles,
                         (unsigned long long)c.n_elements, c.n_scales, c.n_skip, c.n_levels,
                         (unsigned long long)c.bytes)
                   : shoal_buf_appendf(out, "null");
    }
    return c.bytes > 0
               ? shoal_buf_appendf(out,
                                   "  sides      low rank (%llu to %llu) beside %zu matrices, %llu "
                                   "single elements beside %zu, column scales beside %zu, "
                                   "thresholds beside %zu, levels beside %zu: %.2f MiB\n",
                                   low, (unsigned long long)c.rank_max, c.n_low,
                                   (unsigned long long)c.n_elements, c.n_singles, c.n_scales,
                                   c.n_skip, c.n_levels, (double)c.bytes / 1048576.0)
               : SHOAL_OK;
}

static shoal_status print_model_json(const shoal_gguf *gguf, const shoal_model *m, shoal_buf *out,
                                     shoal_err *err)
{
    const shoal_hparams *hp = &m->hp;
    char model[SHOAL_HASH_HEX];
    char tokenizer[SHOAL_HASH_HEX];
    shoal_hash_hex(&m->hash, model);
    shoal_hash_hex(shoal_tokenizer_hash(m->tokenizer), tokenizer);
    SHOAL_TRY(shoal_buf_appendf(out, "{\"name\": "));
    SHOAL_TRY(shoal_forge_json_string(out, hp->name, __builtin_strlen(hp->name)));
    SHOAL_TRY(shoal_buf_appendf(out, ", \"exits\": "));
    SHOAL_TRY(append_exits(hp, "[", "], \"calibration\": ", out));
    SHOAL_TRY(print_calibration(gguf, m, true, out, err));
    SHOAL_TRY(shoal_buf_appendf(out, ", \"sides\": "));
    SHOAL_TRY(print_sides(gguf, true, out));
    return shoal_buf_appendf(
        out,
        ", \"arch\": \"%s\", \"params\": %llu, \"file_bytes\": %llu, \"type\": \"%s\", "
        "\"n_vocab\": %zu, \"n_ctx\": %zu, \"dim\": %zu, \"n_layers\": %zu, \"n_heads\": %zu, "
        "\"n_kv_heads\": %zu, \"head_dim\": %zu, \"ffn\": %zu, \"tied\": %s, "
        "\"n_experts\": %zu, \"n_experts_used\": %zu, \"window\": %zu, \"latent_rank\": %zu, "
        "\"flops_per_token\": %.0f, \"weight_bytes_per_token\": %llu, "
        "\"kv_bytes_per_token_f16\": %.0f, \"chat_template\": \"%s\", \"packed\": %s, "
        "\"model_hash\": \"%s\", "
        "\"tokenizer_hash\": \"%s\"}\n",
        hp->arch, (unsigned long long)m->n_params, (unsigned long long)m->file_bytes,
        main_type_name(m), hp->n_vocab, hp->n_ctx, hp->dim, hp->n_layers, hp->n_heads,
        hp->n_kv_heads, hp->head_dim, hp->ffn, hp->tied ? "true" : "false", hp->moe.n_experts,
        hp->moe.n_used, hp->windows[0], hp->mla.rank, (double)shoal_model_flops_per_token(m),
        (unsigned long long)shoal_model_bytes_per_token(m), kv_bytes_per_token(hp, 2),
        shoal_chat_template_name(m->tokenizer), m->packed ? "true" : "false", model, tokenizer);
}

static shoal_status print_model(const shoal_gguf *gguf, const shoal_model *m, shoal_buf *out,
                                shoal_err *err)
{
    const shoal_hparams *hp = &m->hp;
    char model[SHOAL_HASH_HEX];
    char tokenizer[SHOAL_HASH_HEX];
    shoal_hash_hex(&m->hash, model);
    shoal_hash_hex(shoal_tokenizer_hash(m->tokenizer), tokenizer);
    SHOAL_TRY(shoal_buf_appendf(
        out,
        "%s: %s, %.2f M parameters, %.1f MiB on disk, mostly %s%s\n"
        "  shape      width %zu, %zu layers, %zu/%zu heads of %zu, "
        "feed-forward %zu, vocabulary %zu%s, context %zu\n",
        hp->name, hp->arch, (double)m->n_params / 1e6, (double)m->file_bytes / 1048576.0,
        main_type_name(m), m->packed ? ", packed" : "", hp->dim, hp->n_layers, hp->n_heads,
        hp->n_kv_heads, hp->head_dim, hp->ffn, hp->n_vocab, hp->tied ? " (tied)" : "", hp->n_ctx));
    if (hp->moe.n_experts > 0) {
        SHOAL_TRY(shoal_buf_appendf(
            out,
            "  experts    %zu of %zu for a token, feed-forward %zu, %zu shared, %zu dense layers\n",
            hp->moe.n_used, hp->moe.n_experts, hp->moe.ffn, hp->moe.ffn_shared, hp->moe.n_dense));
    }
    if (hp->windows[0] > 0 || hp->mla.rank > 0) {
        SHOAL_TRY(shoal_buf_appendf(out, "  attention  window %zu, latent rank %zu (0: none)\n",
                                    hp->windows[0], hp->mla.rank));
    }
    if (hp->n_exits > 0) {
        SHOAL_TRY(append_exits(hp, "  exits      after layers ", "\n", out));
    }
    SHOAL_TRY(print_calibration(gguf, m, false, out, err));
    SHOAL_TRY(print_sides(gguf, false, out));
    return shoal_buf_appendf(
        out,
        "  a token    %.2f MFLOP, %.2f MiB of weights read, %.1f KiB of KV at f16\n"
        "  template   %s\n  model      %s\n  tokenizer  %s\n",
        (double)shoal_model_flops_per_token(m) / 1e6,
        (double)shoal_model_bytes_per_token(m) / 1048576.0, kv_bytes_per_token(hp, 2) / 1024.0,
        shoal_chat_template_name(m->tokenizer), model, tokenizer);
}

/* Metadata and tensors as the file has them, also for files that are no complete model. */
static shoal_status print_contents(const shoal_gguf *gguf, shoal_buf *out)
{
    SHOAL_TRY(shoal_buf_appendf(out, "GGUF version %u, %zu metadata pairs, %zu tensors\n",
                                shoal_gguf_version(gguf), shoal_gguf_n_kv(gguf),
                                shoal_gguf_n_tensors(gguf)));
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        shoal_str key = shoal_gguf_key_at(gguf, i);
        SHOAL_TRY(shoal_buf_appendf(out, "  %.*s = ", (int)key.length, key.data));
        SHOAL_TRY(shoal_gguf_render_at(gguf, i, out));
        SHOAL_TRY(shoal_buf_append(out, "\n", 1));
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        SHOAL_TRY(shoal_buf_appendf(
            out, "  %-32.*s %-5s %llu x %llu  %llu bytes\n", (int)t->name.length, t->name.data,
            shoal_type_find((uint32_t)t->type)->name, (unsigned long long)t->dims[0],
            (unsigned long long)t->dims[1], (unsigned long long)t->size_bytes));
    }
    return SHOAL_OK;
}

/* The whole of a packed file against what it says of itself. */
static shoal_status verify(const shoal_gguf *gguf, shoal_err *err)
{
    if (!shoal_pack_is_packed(gguf)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--verify: the model is not packed, its hash is made at every load");
    }
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    if (shoal_pool_new(shoal_pool_n_cpus(), &pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to verify the model");
    }
    return shoal_pack_verify(gguf, pool, err);
}

shoal_status shoal_forge_inspect(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    shoal_err why = SHOAL_ERR_INIT;
    shoal_status status = shoal_model_new(gguf, &model, &why);
    if (status != SHOAL_OK && (args->json || shoal_gguf_n_tensors(gguf) > 0)) {
        return shoal_err_set(err, status, "%s", why.text);
    }
    if (args->verify) {
        SHOAL_TRY(verify(gguf, err));
    }
    if (model) {
        model->packed = shoal_pack_is_packed(gguf);
        model->file_bytes = map.size;
        SHOAL_TRY(args->json ? print_model_json(gguf, model, &out, err)
                             : print_model(gguf, model, &out, err));
    }
    if (!args->json && (args->all || !model)) {
        SHOAL_TRY(print_contents(gguf, &out));
    }
    return shoal_forge_print(&out, err);
}
