/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs: the matrices that rules take, each with the linear layers that its rows are and with the
 * forms of its rule that a file can hold.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"
#include "common/weight/sides.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void shoal_forge_compress_jobs_fini(compress_run *run)
{
    for (size_t i = 0; i < run->n_jobs; i++) {
        shoal_free(run->jobs[i].parts);
        shoal_free(run->jobs[i].forms);
        shoal_free(run->jobs[i].points);
    }
    shoal_free(run->jobs);
    run->jobs = NULL;
    run->n_jobs = 0;
}

/* --- parts ------------------------------------------------------------------------------------ */

static bool is_of(const shoal_moments_layer *l, const shoal_gguf_tensor *t)
{
    return strlen(l->name) == t->name.length && memcmp(l->name, t->name.data, t->name.length) == 0;
}

static int compare_parts(const void *a, const void *b)
{
    const compress_part *x = a;
    const compress_part *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

/* Rows that no layer of the moments has, in pieces that a pass can take. */
static void fill_gap(compress_job *job, size_t row, size_t end)
{
    while (row < end) {
        size_t n = SHOAL_MIN(end - row, (size_t)SHOAL_COMPRESS_SIDE_MAX);
        job->parts[job->n_parts++] = (compress_part){.row = row, .n_rows = n};
        job->calibrated = false;
        row += n;
    }
}

static shoal_status find_layers(const compress_run *run, compress_job *job, compress_part *found,
                                size_t *ret_n, shoal_err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < shoal_moments_n_layers(run->moments); i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(run->moments, i);
        if (!is_of(l, job->tensor)) {
            continue;
        }
        shoal_moments_input in = shoal_moments_input_at(run->moments, l->input);
        if (in.k != job->k || l->row > job->n_rows || l->n_rows > job->n_rows - l->row) {
            return shoal_err_set(err, SHOAL_E_MISMATCH,
                                 "the moments have rows %zu to %zu of %zu elements of it: run "
                                 "calibrate-weights with this model",
                                 l->row, l->row + l->n_rows, in.k);
        }
        found[n++] =
            (compress_part){.row = l->row, .n_rows = l->n_rows, .moment = in.moment, .max = in.max};
    }
    qsort(found, n, sizeof *found, compare_parts);
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status find_parts(const compress_run *run, compress_job *job, shoal_err *err)
{
    size_t n = 0;
    size_t n_max = shoal_moments_n_layers(run->moments);
    SHOAL_CLEANUP(shoal_free_cleanup) compress_part *found = shoal_calloc(n_max, sizeof *found);
    job->parts =
        shoal_calloc(2 * n_max + 1 + job->n_rows / SHOAL_COMPRESS_SIDE_MAX, sizeof *job->parts);
    if (!found || !job->parts) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for its parts");
    }
    SHOAL_TRY(find_layers(run, job, found, &n, err));
    size_t row = 0;
    job->calibrated = true;
    for (size_t i = 0; i < n; i++) {
        if (found[i].row < row) {
            return shoal_err_set(err, SHOAL_E_INVALID, "two layers of the moments share row %zu",
                                 found[i].row);
        }
        fill_gap(job, row, found[i].row);
        job->parts[job->n_parts++] = found[i];
        row = found[i].row + found[i].n_rows;
    }
    fill_gap(job, row, job->n_rows);
    return SHOAL_OK;
}

/* --- forms ------------------------------------------------------------------------------------ */

/* The rank that the job's bytes leave room for, 0 where there is none. */
static size_t rank_that_fits(const compress_job *job, const forge_recipe_form *form)
{
    forge_recipe_form f = *form;
    size_t most = SHOAL_MIN(SHOAL_MIN(job->n_rows, job->k), (size_t)SHOAL_SIDES_RANK_MAX);
    f.form.rank = 0;
    uint64_t values = f.form.bits > 0 ? shoal_forge_store_bytes(&f, job->n_rows, job->k) : 0;
    f.form.rank = 1;
    uint64_t one = shoal_forge_store_bytes(&f, job->n_rows, job->k);
    return values >= job->limit || one <= values
               ? 0
               : (size_t)SHOAL_MIN((job->limit - values) / (one - values), (uint64_t)most);
}

/* NULL: the form can be made of this job, as *form then says. */
static const char *resolve(const compress_job *job, forge_recipe_form *form)
{
    if (form->fill) {
        form->form.rank = 1;
    }
    bool single = job->n_parts == 1 && job->tensor->dims[2] == 1 && job->tensor->dims[3] == 1;
    const char *reason = shoal_forge_store_reason(form, job->k, single);
    if (!reason && form->fill) {
        form->form.rank = rank_that_fits(job, form);
        return form->form.rank > 0 ? NULL : "its bytes leave no room for a rank";
    }
    if (!reason && !form->keep && !form->typed &&
        form->form.rank > SHOAL_MIN(job->n_rows, job->k)) {
        return "the rank is larger than the matrix";
    }
    return reason;
}

static shoal_status find_forms(compress_job *job, shoal_err *err)
{
    const forge_recipe_rule *r = job->rule;
    const char *reason = "";
    char label[COMPRESS_LABEL_MAX] = "";
    job->forms = shoal_calloc(r->n_forms, sizeof *job->forms);
    job->points = shoal_calloc(r->n_forms, sizeof *job->points);
    if (!job->forms || !job->points) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for its forms");
    }
    for (size_t i = 0; i < r->n_forms; i++) {
        forge_recipe_form form = r->forms[i];
        const char *no = resolve(job, &form);
        if (!no) {
            job->forms[job->n_forms++] = form;
        } else if (!*label) {
            reason = no;
            shoal_forge_recipe_describe(&r->forms[i], label, sizeof label);
        }
    }
    return job->n_forms > 0
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_UNSUPPORTED, "rule %s: %s cannot be stored: %s",
                               r->name, label, reason);
}

/* --- jobs ------------------------------------------------------------------------------------- */

/* A pass would see the base alone. */
static shoal_status refuse_sides(const compress_run *run, const shoal_gguf_tensor *t,
                                 shoal_err *err)
{
    shoal_side_tensors sides;
    SHOAL_TRY(shoal_sides_find(run->gguf, t, &sides, err));
    for (size_t i = 0; i < SHOAL_SIDES; i++) {
        if (sides.of[i]) {
            return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                                 "it is compressed already, with parts beside it: compress the "
                                 "model that this one was made from");
        }
    }
    return SHOAL_OK;
}

static shoal_status plan_job(const compress_run *run, compress_job *job, shoal_err *err)
{
    const shoal_gguf_tensor *t = job->tensor;
    const forge_recipe_rule *r = job->rule;
    job->k = (size_t)t->dims[0];
    job->n_rows = (size_t)(t->dims[1] * t->dims[2] * t->dims[3]);
    double bytes = (double)job->n_rows * (double)job->k * r->within_bits / 8;
    job->limit = r->within_bits > 0    ? (uint64_t)bytes
                 : r->within_bytes > 0 ? r->within_bytes
                                       : UINT64_MAX;
    if (job->k > SHOAL_COMPRESS_SIDE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "rows of %zu elements, a pass takes %d at most",
                             job->k, SHOAL_COMPRESS_SIDE_MAX);
    }
    if (t->type == SHOAL_TYPE_I8) {
        SHOAL_TRY(shoal_fp8_scales(run->gguf, t, &job->scales, err));
    }
    SHOAL_TRY(refuse_sides(run, t, err));
    SHOAL_TRY(find_parts(run, job, err));
    SHOAL_TRY(find_forms(job, err));
    if (job->n_forms > 1 && job->limit == UINT64_MAX && run->target_bytes == 0 &&
        !(run->target_ms > 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "rule %s has %zu forms for it and nothing to choose by: give the rule "
                             "within_bits, or the command --target-bytes or --target-ms",
                             r->name, job->n_forms);
    }
    return SHOAL_OK;
}

static shoal_status check_rules(const compress_run *run, shoal_err *err)
{
    for (size_t r = 0; r < run->recipe->n_rules; r++) {
        const forge_recipe_rule *rule = &run->recipe->rules[r];
        bool used = false;
        for (size_t i = 0; i < run->n_jobs; i++) {
            used = used || run->jobs[i].rule == rule;
        }
        if (!used) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "rule %s (line %zu) takes no matrix of this model, or earlier "
                                 "rules have taken them: inspect --all lists their names",
                                 rule->name, rule->line);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_plan(compress_run *run, shoal_err *err)
{
    size_t n = shoal_gguf_n_tensors(run->gguf);
    run->jobs = shoal_calloc(n, sizeof *run->jobs);
    if (!run->jobs) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(run->gguf, i);
        const forge_recipe_rule *rule = shoal_forge_recipe_find(run->recipe, t->name);
        if (!rule || !shoal_forge_is_matrix(t) || shoal_forge_is_scales(run->gguf, t)) {
            continue;
        }
        compress_job *job = &run->jobs[run->n_jobs++];
        job->tensor = t;
        job->rule = rule;
        shoal_status status = plan_job(run, job, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "%.*s", (int)t->name.length, t->name.data);
            return status;
        }
    }
    return check_rules(run, err);
}
