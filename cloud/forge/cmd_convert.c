/* SPDX-License-Identifier: Apache-2.0
 *
 * Rewrites a GGUF: matrices to another type, the first layers only (an edge model cut from a full
 * one; cut at an exit, its head becomes the output's), or an adapter added (merge-lora, which is
 * this with a pair for some tensors). Vectors stay as they are. Everything else in the file is
 * carried over. The output is written in pieces: memory holds neither model.
 */
#include "cloud/forge/convert.h"

#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

void shoal_forge_conversion_close(conversion *c)
{
    shoal_lora_file_fini(&c->pairs);
    shoal_gguf_close(c->adapter);
    shoal_map_close(&c->adapter_map);
    shoal_free(c->items);
    shoal_free(c->norms);
    shoal_gguf_writer_free(c->writer);
    shoal_pool_free(c->pool);
    shoal_file_out_close(c->out);
}

static shoal_status parse_target(const char *option, const char *name, convert_target *ret,
                                 shoal_err *err)
{
    if (!name) {
        return SHOAL_OK;
    }
    bool fp8 = strcasecmp(name, "FP8") == 0;
    const shoal_type_info *info = fp8 ? shoal_type_find(SHOAL_TYPE_I8) : shoal_type_find_name(name);
    if (!info || (info->type == SHOAL_TYPE_I8 && !fp8) || info->type == SHOAL_TYPE_I32) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s %s: known are FP8, %s and, but for I8 and I32, %s", option, name,
                             shoal_type_own_names(), shoal_type_names());
    }
    *ret = (convert_target){.info = info, .fp8 = fp8};
    return SHOAL_OK;
}

/* A file that is no model is refused here, before anything is written. */
static shoal_status check_model(conversion *c, shoal_err *err)
{
    shoal_str arch = {0};
    char key[96];
    uint64_t n_layers = 0;
    SHOAL_TRY(shoal_gguf_get_str(c->gguf, "general.architecture", &arch, err));
    if (arch.length == 0 || arch.length >= sizeof c->arch) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "general.architecture: %zu bytes, 1 to %zu are expected", arch.length,
                             sizeof c->arch - 1);
    }
    memcpy(c->arch, arch.data, arch.length);
    (void)snprintf(key, sizeof key, "%s.block_count", c->arch);
    SHOAL_TRY(shoal_gguf_get_u64(c->gguf, key, &n_layers, err));
    if (c->n_layers > n_layers) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "--layers %zu: the model has %llu", c->n_layers,
                             (unsigned long long)n_layers);
    }
    if (!shoal_gguf_find_tensor(c->gguf, "token_embd.weight")) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "tensor token_embd.weight is missing: the file is no complete model");
    }
    return SHOAL_OK;
}

static shoal_status write_all(conversion *c, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    SHOAL_TRY(shoal_gguf_writer_head(c->writer, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &c->out, err));
    SHOAL_TRY(shoal_file_out_write(c->out, head.data, head.length, err));
    c->n_bytes = head.length;
    for (size_t i = 0; i < c->n_items; i++) {
        SHOAL_TRY(shoal_forge_convert_item(c, &c->items[i], err));
    }
    return shoal_file_out_commit(c->out, err);
}

static void report(const conversion *c, const forge_args *args, size_t bytes_in)
{
    if (args->json) {
        (void)printf("{\"bytes_in\": %zu, \"bytes_out\": %llu, \"converted\": %zu, "
                     "\"fallbacks\": %zu, \"merged\": %zu}\n",
                     bytes_in, (unsigned long long)c->n_bytes, c->n_converted, c->n_q8_0 + c->n_f16,
                     c->pairs.n_pairs);
        return;
    }
    (void)printf("%s: %.1f MiB, was %.1f MiB; %zu tensors converted\n", args->output,
                 (double)c->n_bytes / 1048576.0, (double)bytes_in / 1048576.0, c->n_converted);
    if (c->pairs.n_pairs > 0) {
        (void)printf("  the adapter was added to %zu of them\n", c->pairs.n_pairs);
    }
    if (c->n_q8_0 + c->n_f16 > 0) {
        (void)printf("  %zu are Q8_0 and %zu F16 instead: their rows are no whole blocks of the "
                     "type asked for\n",
                     c->n_q8_0, c->n_f16);
    }
}

shoal_status shoal_forge_convert(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_forge_conversion_close)
    conversion c = {.name = args->name, .n_layers = (size_t)args->layers};
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_TRY(parse_target("--type", args->type, &c.type, err));
    SHOAL_TRY(parse_target("--output-type", args->output_type, &c.output_type, err));
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    c.gguf = gguf;
    SHOAL_TRY(check_model(&c, err));
    if (args->lora) {
        SHOAL_TRY(shoal_forge_merge_open(&c, args->lora, err));
    }
    if (shoal_pool_new((size_t)args->threads, &c.pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %ld threads", args->threads);
    }
    SHOAL_TRY(shoal_pack_check(gguf, c.pool, err));
    SHOAL_TRY(shoal_forge_convert_plan(&c, err));
    SHOAL_TRY(write_all(&c, args->output, err));
    report(&c, args, map.size);
    return SHOAL_OK;
}
