/* SPDX-License-Identifier: Apache-2.0
 *
 * `sparsify`: runs a text through a model, counts how large the inputs of every linear layer are,
 * and writes a copy whose layers take the smallest of them as 0 (TEAL, 2408.14690; thresholds by
 * share as in CATS, 2404.08763). Weights go through as bytes. The threshold of a layer is a tensor
 * beside it (common/weight/sides.h), so the copy is another model (R9).
 */
#include "cloud/forge/forge.h"

#include "cloud/forge/calibrate.h"
#include "cloud/forge/magnitudes.h"
#include "cloud/forge/windows.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/weight/pack.h"
#include "common/weight/sides.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    WINDOW_DEFAULT = 256,
    WINDOW_MAX = 4096,
    TOKENS_DEFAULT = 8192
};

#define AT(field) offsetof(forge_args, sparsify.field)

static const forge_option options[] = {
    {0, "share", 0, FORGE_OPTION_REAL, AT(share), 0.01, 0.95, "SHARE",
     "of a layer's inputs that are skipped (default 0.5)"},
    {0, "tokens", 0, FORGE_OPTION_INT, AT(tokens), 1, 1 << 24, "N",
     "tokens of the text that are read (default 8192)"},
    {0, "window", 0, FORGE_OPTION_INT, AT(window), 2, WINDOW_MAX, "N",
     "tokens that see each other (default 256, or the model's context)"},
};

const forge_own shoal_forge_sparsify_own = {
    .run = shoal_forge_sparsify,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.sparsify = {.share = 0.5, .tokens = TOKENS_DEFAULT, .window = WINDOW_DEFAULT}},
};

/* A layer that gets a threshold. */
typedef struct layer {
    const shoal_gguf_tensor *tensor;
    char name[SHOAL_GGUF_NAME_MAX + 1]; /* of the tensor beside it */
    float threshold;
} layer;

typedef struct run {
    const shoal_gguf *gguf;
    forge_windows windows;
    forge_magnitudes magnitudes;
    layer *layers;
    size_t n_layers;
    size_t n_q4;         /* of these in Q4_0 */
    double share;        /* mean of theirs */
    shoal_status status; /* of the first count that was refused */
    shoal_err *err;
} run;

static void run_close(run *r)
{
    shoal_forge_windows_fini(&r->windows);
    shoal_forge_magnitudes_fini(&r->magnitudes);
    shoal_free(r->layers);
}

/* --- counting --------------------------------------------------------------------------------- */

static void observe(void *ctx, const shoal_param *item, size_t row, size_t n_rows, bool again,
                    size_t k, size_t n, const float *x, size_t x_row)
{
    (void)n_rows;
    run *r = ctx;
    if (r->status != SHOAL_OK || row != 0 || item->kind != SHOAL_PARAM_MATRIX) {
        return;
    }
    r->status = shoal_forge_magnitudes_add(&r->magnitudes, item->name, again, k, n, x, x_row);
    if (r->status != SHOAL_OK) {
        (void)shoal_err_set(r->err, r->status, "%.100s: its inputs cannot be counted: %s",
                            item->name, shoal_status_text(r->status));
    }
}

static shoal_status run_text(run *r, const forge_args *args, const shoal_model *model)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    const shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    size_t n_ids = 0;
    size_t window = SHOAL_MIN((size_t)args->sparsify.window, model->hp.n_ctx);
    SHOAL_TRY(shoal_file_read(args->file, SHOAL_TEXT_MAX, &text, r->err));
    SHOAL_TRY(shoal_tokenizer_encode(model->tokenizer, text.data ? text.data : "", text.length,
                                     flags, &ids, &n_ids, r->err));
    n_ids = SHOAL_MIN(n_ids, (size_t)args->sparsify.tokens);
    SHOAL_TRY(shoal_forge_windows_init(&r->windows, model, window, r->err));
    shoal_net_observe(r->windows.net, observe, r);
    for (size_t at = 0; at < n_ids; at += window) {
        shoal_forge_windows_run(&r->windows, ids + at, SHOAL_MIN(window, n_ids - at));
        SHOAL_TRY(r->status);
    }
    return n_ids > 0 ? SHOAL_OK
                     : shoal_err_set(r->err, SHOAL_E_INVALID, "%s holds no token", args->file);
}

/* --- choosing --------------------------------------------------------------------------------- */

/* Stacks of experts have no tensors beside them, and latent projections are taken apart. */
static bool can_skip(const shoal_gguf_tensor *t)
{
    static const char latent[] = "_b.weight";
    size_t n = strlen(latent);
    return t->dims[2] == 1 && t->dims[3] == 1 &&
           !(t->name.length > n && memcmp(t->name.data + t->name.length - n, latent, n) == 0);
}

static shoal_status choose(run *r, double share)
{
    size_t n = shoal_forge_magnitudes_n(&r->magnitudes);
    r->layers = shoal_calloc(SHOAL_MAX(n, (size_t)1), sizeof *r->layers);
    if (!r->layers) {
        return shoal_err_set(r->err, SHOAL_E_NOMEM, "no memory for %zu layers", n);
    }
    for (size_t i = 0; i < n; i++) {
        layer *l = &r->layers[r->n_layers];
        double is = 0;
        l->tensor = shoal_gguf_find_tensor(r->gguf, shoal_forge_magnitudes_name(&r->magnitudes, i));
        l->threshold = shoal_forge_magnitudes_threshold(&r->magnitudes, i, share, &is);
        if (!l->tensor || !can_skip(l->tensor) || l->threshold <= 0 ||
            !shoal_side_name(l->tensor->name, SHOAL_SIDE_THRESHOLD, l->name)) {
            continue;
        }
        if (shoal_gguf_find_tensor(r->gguf, l->name)) {
            return shoal_err_set(r->err, SHOAL_E_INVALID,
                                 "tensor %.100s is there already: sparsify the model that this one "
                                 "was made from",
                                 l->name);
        }
        r->n_layers++;
        r->n_q4 += l->tensor->type == SHOAL_TYPE_Q4_0;
        r->share += is;
    }
    return r->n_layers > 0 ? SHOAL_OK
                           : shoal_err_set(r->err, SHOAL_E_INVALID,
                                           "the model has no linear layer whose inputs can be "
                                           "skipped");
}

/* --- writing ---------------------------------------------------------------------------------- */

static shoal_status describe(const run *r, shoal_gguf_writer *w)
{
    static const uint64_t one[1] = {1};
    for (size_t i = 0; i < shoal_gguf_n_kv(r->gguf); i++) {
        shoal_str key = shoal_gguf_key_at(r->gguf, i);
        if (!shoal_forge_calib_is_fitted(key)) {
            SHOAL_TRY(shoal_gguf_put_raw(w, key, shoal_gguf_raw_at(r->gguf, i)));
        }
    }
    SHOAL_TRY(shoal_gguf_put_str(w, SHOAL_SIDES_KEY, SHOAL_SIDES_FORMAT));
    for (size_t i = 0; i < shoal_gguf_n_tensors(r->gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(r->gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        SHOAL_TRY(shoal_gguf_put_tensor(w, name, t->type, t->dims, t->n_dims, NULL));
    }
    for (size_t i = 0; i < r->n_layers; i++) {
        SHOAL_TRY(shoal_gguf_put_tensor(w, r->layers[i].name, SHOAL_TYPE_F32, one, 1, NULL));
    }
    return SHOAL_OK;
}

static shoal_status put(const shoal_gguf_writer *w, shoal_file_out *out, const void *data,
                        uint64_t n, shoal_err *err)
{
    static const char zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    SHOAL_TRY(shoal_file_out_write(out, data, (size_t)n, err));
    return shoal_file_out_write(out, zeros, shoal_gguf_writer_padding(w, n), err);
}

static shoal_status write_model(const run *r, const char *path)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    shoal_status status = shoal_gguf_writer_new(&w);
    status = status == SHOAL_OK ? describe(r, w) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(r->err, status, "the output cannot be described: %s",
                             shoal_status_text(status));
    }
    SHOAL_TRY(shoal_gguf_writer_head(w, &head, r->err));
    SHOAL_TRY(shoal_file_out_open(path, &out, r->err));
    SHOAL_TRY(shoal_file_out_write(out, head.data, head.length, r->err));
    for (size_t i = 0; i < shoal_gguf_n_tensors(r->gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(r->gguf, i);
        SHOAL_TRY(put(w, out, t->data, t->size_bytes, r->err));
    }
    for (size_t i = 0; i < r->n_layers; i++) {
        SHOAL_TRY(put(w, out, &r->layers[i].threshold, sizeof(float), r->err));
    }
    return shoal_file_out_commit(out, r->err);
}

static void report(const run *r, bool json)
{
    double share = r->share / (double)r->n_layers;
    (void)printf(
        json ? "{\"layers\": %zu, \"share\": %.4f, \"layers_q4_0\": %zu}\n"
             : "%zu layers skip %.3f of their inputs; %zu are Q4_0 and read only the rest\n",
        r->n_layers, share, r->n_q4);
}

shoal_status shoal_forge_sparsify(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(run_close) run r = {.err = err};
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    if (shoal_pack_is_packed(gguf)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "the model is packed: sparsify the plain file, then pack");
    }
    SHOAL_TRY(shoal_model_new(gguf, &model, err));
    r.gguf = gguf;
    SHOAL_TRY(run_text(&r, args, model));
    SHOAL_TRY(choose(&r, args->sparsify.share));
    SHOAL_TRY(write_model(&r, args->output));
    report(&r, args->json);
    return SHOAL_OK;
}
