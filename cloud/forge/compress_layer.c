/* SPDX-License-Identifier: Apache-2.0
 *
 * One job: its rows as floats, what forms make of them, and the tensors of the chosen one. Memory
 * is that of one linear layer and of its output.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"

#include <string.h>

/* A layer of a job, in doubles inside of problem. */
typedef struct layer {
    const compress_part *part;
    float *x; /* (n_rows, k) */
    shoal_problem *problem;
} layer;

static void layer_fini(layer *l)
{
    shoal_free(l->x);
    shoal_problem_free(l->problem);
}

/* --- rows ------------------------------------------------------------------------------------- */

static shoal_status read_packed(const compress_job *job, size_t row, size_t n, float *x,
                                shoal_err *err)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)job->tensor->type);
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *blocks = shoal_calloc(n, job->k / info->block * info->block_bytes);
    if (!blocks) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", n);
    }
    SHOAL_TRY(shoal_weight_blocks(job->tensor, row, n, blocks, err));
    shoal_weight_decode(job->tensor->type, blocks, n * job->k, x);
    return SHOAL_OK;
}

/* Tiles begin anew with every matrix of a tensor of several. */
static shoal_status read_fp8(const compress_job *job, size_t row, size_t n, float *x,
                             shoal_err *err)
{
    size_t rows = (size_t)job->tensor->dims[1];
    size_t tiles = (size_t)shoal_forge_tiles(job->k);
    SHOAL_CLEANUP(shoal_free_cleanup) float *scales = shoal_calloc(tiles, sizeof *scales);
    if (!scales) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu scales", tiles);
    }
    for (size_t r = row; r < row + n; r++) {
        size_t band = r / rows * (size_t)shoal_forge_tiles(rows) + r % rows / SHOAL_FP8_TILE;
        memcpy(scales, job->scales->data + band * tiles * sizeof *scales, tiles * sizeof *scales);
        shoal_fp8_decode(job->tensor->data + r * job->k, scales, job->k, x + (r - row) * job->k);
    }
    return SHOAL_OK;
}

static shoal_status read_rows(const compress_job *job, size_t row, size_t n, float *x,
                              shoal_err *err)
{
    const shoal_gguf_tensor *t = job->tensor;
    if (t->packed) {
        return read_packed(job, row, n, x, err);
    }
    if (job->scales) {
        return read_fp8(job, row, n, x, err);
    }
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t row_bytes = job->k / info->block * info->block_bytes;
    shoal_weight_decode(t->type, t->data + row * row_bytes, n * job->k, x);
    return SHOAL_OK;
}

static shoal_status layer_init(layer *l, const compress_job *job, const compress_part *part,
                               shoal_err *err)
{
    l->part = part;
    l->x = shoal_calloc(part->n_rows * job->k, sizeof *l->x);
    if (!l->x) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", part->n_rows);
    }
    SHOAL_TRY(read_rows(job, part->row, part->n_rows, l->x, err));
    SHOAL_TRY(shoal_problem_new(part->n_rows, job->k, l->x, part->moment, &l->problem, err));
    return part->max ? shoal_problem_set_largest(l->problem, part->max, err) : SHOAL_OK;
}

/* --- forms ------------------------------------------------------------------------------------ */

/* Rows in the rounding of a type, and what that costs. */
static shoal_status encode(const compress_job *job, const layer *l, compress_stored *stored,
                           double *ret_error, shoal_err *err)
{
    const compress_part *part = l->part;
    const compress_tensor *t = &stored->tensors[0];
    const shoal_type_info *info = shoal_type_find((uint32_t)t->type);
    size_t row_bytes = job->k / info->block * info->block_bytes;
    SHOAL_CLEANUP(shoal_free_cleanup)
    float *y = shoal_calloc(part->n_rows * job->k, sizeof *y);
    if (!y) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu rows", part->n_rows);
    }
    SHOAL_TRY(shoal_forge_store_encode(l->x, part->row, part->n_rows, job->k, stored, err));
    shoal_weight_decode(t->type, t->data + part->row * row_bytes, part->n_rows * job->k, y);
    return shoal_problem_error(l->problem, y, ret_error) == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge a layer");
}

/* Puts one layer in one form into the tensors that store_begin made. */
static shoal_status run_form(const compress_job *job, const layer *l, const forge_recipe_form *form,
                             compress_stored *stored, double *ret_error, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    if (form->typed) {
        return encode(job, l, stored, ret_error, err);
    }
    SHOAL_TRY(shoal_compress(l->problem, form->pass, &form->form, &c, err));
    if (shoal_compressed_error(l->problem, c, ret_error) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge a layer");
    }
    return shoal_forge_store_put(c, job->tensor, l->part->row, stored, err);
}

static void keep(const compress_job *job, compress_point *point)
{
    const compress_stored as_is = {
        .n = 1,
        .tensors = {{.n_dims = job->tensor->n_dims, .n_bytes = (size_t)job->tensor->size_bytes}}};
    const shoal_type_info *info = shoal_type_find((uint32_t)job->tensor->type);
    uint64_t blocks = (uint64_t)job->n_rows * (job->k / info->block);
    uint64_t bytes = blocks * info->block_bytes; /* what a packed file's panels are made of */
    uint64_t scales = job->scales ? job->scales->size_bytes : 0;
    point->bytes = bytes + scales;
    point->file_bytes = point->bytes + shoal_forge_stored_file_bytes(&as_is) -
                        job->tensor->size_bytes + job->tensor->name.length +
                        (scales ? 128 + job->tensor->name.length : 0);
    point->error = 0;
}

shoal_status shoal_forge_compress_measure(compress_job *job, shoal_err *err)
{
    double energy = 0;
    for (size_t i = 0; i < job->n_forms; i++) {
        job->points[i] = (compress_point){0};
    }
    for (size_t p = 0; p < job->n_parts; p++) {
        SHOAL_CLEANUP(layer_fini) layer l = {0};
        SHOAL_TRY(layer_init(&l, job, &job->parts[p], err));
        energy += shoal_problem_energy(l.problem);
        for (size_t i = 0; i < job->n_forms; i++) {
            SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
            compress_point *point = &job->points[i];
            double error = 0;
            if (job->forms[i].keep) {
                keep(job, point);
                continue;
            }
            SHOAL_TRY(shoal_forge_store_begin(&job->forms[i], job->tensor, &stored, err));
            SHOAL_TRY(run_form(job, &l, &job->forms[i], &stored, &error, err));
            point->error += error * shoal_problem_energy(l.problem);
            point->bytes = shoal_forge_stored_bytes(&stored);
            point->file_bytes = shoal_forge_stored_file_bytes(&stored);
        }
    }
    for (size_t i = 0; i < job->n_forms; i++) {
        job->points[i].error = energy > 0 ? job->points[i].error / energy : 0;
    }
    job->measured = true;
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_make(compress_job *job, compress_stored *stored, shoal_err *err)
{
    const forge_recipe_form *form = &job->forms[job->chosen];
    double sum = 0;
    double energy = 0;
    if (form->keep) {
        keep(job, &job->made);
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_forge_store_begin(form, job->tensor, stored, err));
    for (size_t p = 0; p < job->n_parts; p++) {
        SHOAL_CLEANUP(layer_fini) layer l = {0};
        double error = 0;
        SHOAL_TRY(layer_init(&l, job, &job->parts[p], err));
        SHOAL_TRY(run_form(job, &l, form, stored, &error, err));
        sum += error * shoal_problem_energy(l.problem);
        energy += shoal_problem_energy(l.problem);
    }
    job->made = (compress_point){.bytes = shoal_forge_stored_bytes(stored),
                                 .file_bytes = shoal_forge_stored_file_bytes(stored),
                                 .error = energy > 0 ? sum / energy : 0};
    return SHOAL_OK;
}
