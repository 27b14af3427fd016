/* SPDX-License-Identifier: Apache-2.0
 *
 * Rewrites a model with its matrices in panels, as products read them (common/weight/pack.h): such
 * a file is mapped and used in place, so it loads at once and is in memory once. The model is the
 * same one, hash included.
 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/weight/pack.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What was written must be the model that was read. */
static shoal_status check_output(const char *path, const shoal_hash *want, uint64_t *ret_bytes,
                                 shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    shoal_status status = shoal_model_load(path, &model, err);
    if (status == SHOAL_OK && memcmp(&model->hash, want, sizeof *want) != 0) {
        status = shoal_err_set(err, SHOAL_E_INVALID,
                               "%s: what was written is another model; is the disk sound?", path);
    }
    if (status != SHOAL_OK) {
        (void)unlink(path);
        return status;
    }
    *ret_bytes = model->file_bytes;
    return SHOAL_OK;
}

static shoal_status put(void *ctx, const void *data, size_t n, shoal_err *err)
{
    return shoal_file_out_write(ctx, data, n, err);
}

static shoal_status write_packed(const shoal_gguf *gguf, const forge_args *args,
                                 size_t *ret_n_packed, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    shoal_status status = shoal_pool_new((size_t)args->threads, &pool);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "cannot start %ld threads", args->threads);
    }
    SHOAL_TRY(shoal_file_out_open(args->output, &out, err));
    SHOAL_TRY(shoal_pack_write(gguf, pool, put, out, ret_n_packed, err));
    return shoal_file_out_commit(out, err);
}

/* A file that is no model is refused here, before anything is written. */
static shoal_status read_hash(const shoal_gguf *gguf, shoal_hash *ret_hash, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_TRY(shoal_model_new(gguf, &model, err));
    *ret_hash = model->hash;
    return SHOAL_OK;
}

shoal_status shoal_forge_pack(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_hash hash;
    size_t n_packed = 0;
    uint64_t bytes = 0;
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_TRY(shoal_map_open(args->model, &map, err));
    SHOAL_TRY(shoal_pack_open(map.data, map.size, &gguf, err));
    shoal_gguf_set_mapped(gguf);
    SHOAL_TRY(read_hash(gguf, &hash, err));
    SHOAL_TRY(write_packed(gguf, args, &n_packed, err));
    SHOAL_TRY(check_output(args->output, &hash, &bytes, err));
    if (args->json) {
        (void)printf("{\"bytes_in\": %zu, \"bytes_out\": %llu, \"packed\": %zu}\n", map.size,
                     (unsigned long long)bytes, n_packed);
    } else {
        (void)printf("%s: %.1f MiB, was %.1f MiB; %zu matrices packed\n", args->output,
                     (double)bytes / 1048576.0, (double)map.size / 1048576.0, n_packed);
    }
    return SHOAL_OK;
}
