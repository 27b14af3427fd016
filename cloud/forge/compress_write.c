/* SPDX-License-Identifier: Apache-2.0
 *
 * The output: what the rewriting of convert does with tensors that no rule takes, and finished
 * layers for the others, in the order of the input. One layer is in memory at a time.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <string.h>

enum {
    SLACK = 384 /* pairs for a main type, own types and sides, and the end's alignment */
};

static bool is_named(const shoal_gguf_tensor *t, const char *name)
{
    return t->name.length == strlen(name) && memcmp(t->name.data, name, t->name.length) == 0;
}

/* The job of a tensor, or NULL. Jobs are in the order of tensors. */
static compress_job *job_of(const compress_run *run, const shoal_gguf_tensor *t, size_t *inout_next)
{
    if (*inout_next < run->n_jobs && run->jobs[*inout_next].tensor == t) {
        return &run->jobs[(*inout_next)++];
    }
    return NULL;
}

static shoal_status plan_item(const compress_run *run, conversion *c, const shoal_gguf_tensor *t,
                              const compress_job *job, shoal_err *err)
{
    const forge_recipe_form *form = is_named(t, "token_embd.weight") ? &run->recipe->embedding
                                    : is_named(t, "output.weight")   ? &run->recipe->output
                                                                     : &run->recipe->rest;
    convert_target to = {0};
    if (!job && form->typed) {
        to.info = shoal_type_find((uint32_t)form->type);
    }
    return shoal_forge_convert_to(c, t, to, &c->items[c->n_items++], err);
}

/* The type of most bytes, by which other programs name the file. */
static const shoal_type_info *main_type(const compress_run *run, const conversion *c)
{
    uint64_t bytes[SHOAL_TYPES_END] = {0};
    size_t best = 0;
    size_t next = 0;
    for (size_t i = 0; i < c->n_items; i++) {
        const convert_item *item = &c->items[i];
        const compress_job *job = job_of(run, item->from, &next);
        const shoal_type_info *info = item->to.info;
        if (job && !job->forms[job->chosen].keep) {
            continue;
        }
        uint64_t n = item->from->dims[0] / info->block * info->block_bytes * item->from->dims[1] *
                     item->from->dims[2];
        size_t at = (size_t)info->type;
        bytes[at] += n;
        best = bytes[at] > bytes[best] ? at : best;
    }
    return shoal_type_find((uint32_t)best);
}

/* Everything but the jobs' own tensors. */
static shoal_status begin(compress_run *run, conversion *c, shoal_err *err)
{
    size_t n = shoal_gguf_n_tensors(run->gguf);
    size_t next = 0;
    c->gguf = run->gguf;
    c->items = shoal_calloc(n, sizeof *c->items);
    if (!c->items || shoal_gguf_writer_new(&c->writer) != SHOAL_OK ||
        shoal_pool_new(1, &c->pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the writer");
    }
    SHOAL_TRY(shoal_forge_exits_plan(c, err));
    for (size_t i = 0; i < n; i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(run->gguf, i);
        if (!shoal_forge_is_scales(run->gguf, t)) {
            SHOAL_TRY(plan_item(run, c, t, job_of(run, t, &next), err));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_metadata(const compress_run *run, conversion *c)
{
    char hex[SHOAL_HASH_HEX];
    c->type.info = main_type(run, c);
    SHOAL_TRY(shoal_forge_convert_metadata(c));
    for (size_t i = 0; i < run->n_jobs; i++) {
        if (shoal_forge_store_has_sides(&run->jobs[i].forms[run->jobs[i].chosen])) {
            SHOAL_TRY(shoal_gguf_put_str(c->writer, SHOAL_SIDES_KEY, SHOAL_SIDES_FORMAT));
            break;
        }
    }
    shoal_hash_hex(&run->model, hex);
    SHOAL_TRY(shoal_gguf_put_str(c->writer, "shoal.compress.model", hex));
    shoal_hash_hex(&run->recipe->hash, hex);
    return shoal_gguf_put_str(c->writer, "shoal.compress.recipe", hex);
}

static uint64_t item_bytes(const conversion *c, const convert_item *item)
{
    const shoal_gguf_tensor *t = item->from;
    const shoal_type_info *info = item->to.info;
    uint64_t n_matrices = t->dims[2] * t->dims[3];
    uint64_t bytes = t->dims[0] / info->block * info->block_bytes * t->dims[1] * n_matrices;
    bytes += shoal_gguf_writer_padding(c->writer, bytes);
    if (item->to.fp8) {
        uint64_t scales = shoal_forge_tiles(t->dims[0]) * shoal_forge_tiles(t->dims[1]) *
                          n_matrices * sizeof(float);
        bytes += scales + shoal_gguf_writer_padding(c->writer, scales);
    }
    return bytes;
}

shoal_status shoal_forge_compress_fixed_bytes(compress_run *run, uint64_t *ret_bytes,
                                              shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_conversion_close) conversion c = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    uint64_t bytes = SLACK;
    size_t next = 0;
    SHOAL_TRY(begin(run, &c, err));
    shoal_status status = put_metadata(run, &c);
    for (size_t i = 0; status == SHOAL_OK && i < c.n_items; i++) {
        if (!job_of(run, c.items[i].from, &next)) {
            status = shoal_forge_convert_declare(&c, &c.items[i], err);
            bytes += item_bytes(&c, &c.items[i]);
        }
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the output cannot be described: %s",
                             shoal_status_text(status));
    }
    SHOAL_TRY(shoal_gguf_writer_head(c.writer, &head, err));
    *ret_bytes = bytes + head.length;
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_fixed_seconds(compress_run *run, const forge_profile_run *rates,
                                                size_t width_i, double *ret_seconds, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_conversion_close) conversion c = {0};
    double sum = 0;
    size_t next = 0;
    SHOAL_TRY(begin(run, &c, err));
    for (size_t i = 0; i < c.n_items; i++) {
        const convert_item *item = &c.items[i];
        double one = 0;
        if (job_of(run, item->from, &next) || !shoal_forge_is_matrix(item->from)) {
            continue;
        }
        shoal_type type = item->to.fp8 ? SHOAL_TYPE_I8 : item->to.info->type;
        SHOAL_TRY(
            shoal_forge_compress_seconds(run, rates, item->from, type, 0, width_i, &one, err));
        sum += one;
    }
    *ret_seconds = sum;
    return SHOAL_OK;
}

/* --- layers ----------------------------------------------------------------------------------- */

static shoal_status find(const compress_run *run, compress_job *job, compress_stored *stored,
                         shoal_err *err)
{
    return shoal_forge_work_find_layer(run, job, stored)
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_IO,
                               "%s: the finished layer of %.*s is gone or damaged: run the command "
                               "again",
                               run->dir, (int)job->tensor->name.length, job->tensor->name.data);
}

static shoal_status declare_job(const compress_run *run, conversion *c, compress_job *job,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
    SHOAL_TRY(find(run, job, &stored, err));
    for (size_t i = 0; i < stored.n; i++) {
        const compress_tensor *t = &stored.tensors[i];
        SHOAL_TRY(shoal_gguf_put_tensor(c->writer, t->name, t->type, t->dims, t->n_dims, NULL));
    }
    return SHOAL_OK;
}

static shoal_status write_job(const compress_run *run, conversion *c, compress_job *job,
                              shoal_err *err)
{
    static const uint8_t zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
    SHOAL_TRY(find(run, job, &stored, err));
    for (size_t i = 0; i < stored.n; i++) {
        const compress_tensor *t = &stored.tensors[i];
        size_t padding = shoal_gguf_writer_padding(c->writer, t->n_bytes);
        SHOAL_TRY(shoal_file_out_write(c->out, t->data, t->n_bytes, err));
        SHOAL_TRY(shoal_file_out_write(c->out, zeros, padding, err));
        c->n_bytes += t->n_bytes + padding;
    }
    return SHOAL_OK;
}

static bool as_is(const compress_job *job)
{
    return !job || job->forms[job->chosen].keep;
}

static shoal_status describe(compress_run *run, conversion *c, shoal_err *err)
{
    size_t next = 0;
    shoal_status status = put_metadata(run, c);
    for (size_t i = 0; status == SHOAL_OK && i < c->n_items; i++) {
        compress_job *job = job_of(run, c->items[i].from, &next);
        status = as_is(job) ? shoal_forge_convert_declare(c, &c->items[i], err)
                            : declare_job(run, c, job, err);
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the output cannot be described: %s",
                             shoal_status_text(status));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_write(compress_run *run, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_conversion_close) conversion c = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    size_t next = 0;
    SHOAL_TRY(begin(run, &c, err));
    SHOAL_TRY(describe(run, &c, err));
    SHOAL_TRY(shoal_gguf_writer_head(c.writer, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &c.out, err));
    SHOAL_TRY(shoal_file_out_write(c.out, head.data, head.length, err));
    c.n_bytes = head.length;
    for (size_t i = 0; i < c.n_items; i++) {
        compress_job *job = job_of(run, c.items[i].from, &next);
        SHOAL_TRY(as_is(job) ? shoal_forge_convert_item(&c, &c.items[i], err)
                             : write_job(run, &c, job, err));
    }
    if (run->target_bytes > 0 && c.n_bytes > run->target_bytes) {
        return shoal_err_set(err, SHOAL_E_INTERNAL, "%llu bytes were made, not %llu",
                             (unsigned long long)c.n_bytes, (unsigned long long)run->target_bytes);
    }
    SHOAL_TRY(shoal_file_out_commit(c.out, err));
    run->n_bytes = c.n_bytes;
    return SHOAL_OK;
}
