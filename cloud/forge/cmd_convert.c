/* SPDX-License-Identifier: Apache-2.0
 *
 * Rewrites a GGUF: matrices to another type, or the first layers only (an edge model cut from a
 * full one). Vectors stay as they are. Everything else in the file is carried over.
 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct conversion {
    const shoal_type_info *type; /* NULL: keep */
    size_t n_layers;             /* 0: all */
    char arch[32];
    shoal_gguf_writer *writer;
    void **owned; /* converted tensor data, borrowed by the writer until it finishes */
    size_t n_owned;
} conversion;

static void conversion_close(conversion *c)
{
    for (size_t i = 0; i < c->n_owned; i++) {
        shoal_free(c->owned[i]);
    }
    shoal_free(c->owned);
    shoal_gguf_writer_free(c->writer);
}

/* The layer a tensor belongs to, or -1. */
static long layer_of(shoal_str name)
{
    if (name.length < 5 || memcmp(name.data, "blk.", 4) != 0) {
        return -1;
    }
    long layer = 0;
    for (size_t i = 4; i < name.length && name.data[i] >= '0' && name.data[i] <= '9'; i++) {
        layer = layer * 10 + (name.data[i] - '0');
        if (layer > SHOAL_MODEL_LAYERS_MAX) {
            return -1;
        }
    }
    return layer;
}

/* The choice of experts hangs on small differences, so routers stay as they are. */
static bool is_router(shoal_str name)
{
    static const char end[] = "ffn_gate_inp.weight";
    size_t n = sizeof end - 1;
    return name.length > n && memcmp(name.data + name.length - n, end, n) == 0;
}

static shoal_status convert_tensor(conversion *c, const shoal_gguf_tensor *t, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX + 1];
    (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
    bool matrix = t->dims[1] > 1;
    bool keep = !c->type || !matrix || c->type->type == t->type || t->type == SHOAL_TYPE_I8 ||
                t->dims[0] % c->type->block != 0 || is_router(t->name);
    if (keep) {
        return shoal_gguf_put_tensor(c->writer, name, t->type, t->dims, t->n_dims, t->data);
    }
    size_t n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
    size_t bytes = n / c->type->block * c->type->block_bytes;
    SHOAL_CLEANUP(shoal_free_cleanup) float *x = shoal_calloc(n, sizeof *x);
    SHOAL_CLEANUP(shoal_free_cleanup) void *blocks = shoal_calloc(bytes, 1);
    if (!x || !blocks) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to convert tensor %s", name);
    }
    shoal_weight_decode(t->type, t->data, n, x);
    shoal_status status = shoal_weight_encode(c->type->type, x, n, blocks, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "tensor %s", name);
        return status;
    }
    SHOAL_TRY(shoal_gguf_put_tensor(c->writer, name, c->type->type, t->dims, t->n_dims, blocks));
    c->owned[c->n_owned++] = SHOAL_STEAL(blocks);
    return SHOAL_OK;
}

static shoal_status convert_all(conversion *c, const shoal_gguf *gguf, shoal_err *err)
{
    c->owned = shoal_calloc(shoal_gguf_n_tensors(gguf), sizeof *c->owned);
    if (!c->owned || shoal_gguf_writer_new(&c->writer) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the writer");
    }
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        SHOAL_TRY(
            shoal_gguf_put_raw(c->writer, shoal_gguf_key_at(gguf, i), shoal_gguf_raw_at(gguf, i)));
    }
    if (c->n_layers > 0) {
        char key[64];
        (void)snprintf(key, sizeof key, "%s.block_count", c->arch);
        SHOAL_TRY(shoal_gguf_put_u32(c->writer, key, (uint32_t)c->n_layers));
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        long layer = layer_of(t->name);
        if (c->n_layers == 0 || layer < (long)c->n_layers) {
            SHOAL_TRY(convert_tensor(c, t, err));
        }
    }
    return SHOAL_OK;
}

static shoal_status check_args(const forge_args *args, const shoal_gguf *gguf, conversion *c,
                               shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    if (args->type) {
        c->type = shoal_type_find_name(args->type);
        if (!c->type || c->type->type == SHOAL_TYPE_I8) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "--type %s: known are %s", args->type,
                                 shoal_type_names());
        }
    }
    /* A file that is no model is refused here, before anything is written. */
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_TRY(shoal_model_new(gguf, &model, err));
    c->n_layers = (size_t)args->layers;
    memcpy(c->arch, model->hp.arch, sizeof c->arch);
    if (c->n_layers > model->hp.n_layers) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "--layers %zu: the model has %zu", c->n_layers,
                             model->hp.n_layers);
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_convert(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(conversion_close) conversion c = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_gguf_open(map.data, map.size, &gguf, err));
    SHOAL_TRY(check_args(args, gguf, &c, err));
    SHOAL_TRY(convert_all(&c, gguf, err));
    SHOAL_TRY(shoal_gguf_writer_finish(c.writer, &out, err));
    SHOAL_TRY(shoal_file_write(args->output, out.data, out.length, err));
    if (args->json) {
        (void)printf("{\"bytes_in\": %zu, \"bytes_out\": %zu, \"converted\": %zu}\n", map.size,
                     out.length, c.n_owned);
    } else {
        (void)printf("%s: %.1f MiB, was %.1f MiB; %zu tensors converted\n", args->output,
                     (double)out.length / 1048576.0, (double)map.size / 1048576.0, c.n_owned);
    }
    return SHOAL_OK;
}
