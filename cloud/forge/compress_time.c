/* SPDX-License-Identifier: Apache-2.0
 *
 * What a token takes, by a machine's profile: of every matrix its products, each a fixed time and
 * its bytes at the rate of their type, and what the profile's own model took besides, if it is this
 * one. A choice is made by these figures alone, so the same profile gives the same model.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"

#include <math.h>
#include <string.h>

shoal_status shoal_forge_compress_time_init(compress_run *run, shoal_err *err)
{
    const forge_compress_args *args = &run->args->compress;
    if (!args->profile) {
        return args->target_ms > 0
                   ? shoal_err_set(err, SHOAL_E_INVALID,
                                   "--target-ms needs --profile FILE: shoal-forge device makes one")
                   : SHOAL_OK;
    }
    if (args->target_ms > 0 && args->target_bytes > 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--target-bytes and --target-ms: one of them, plan finds what keeps "
                             "to both");
    }
    SHOAL_TRY(shoal_forge_profile_load(args->profile, &run->profile, err));
    run->rates = shoal_forge_profile_run(run->profile, (size_t)run->args->threads);
    if (!run->rates) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: nothing was measured with %ld threads: give -t the number that "
                             "device had",
                             args->profile, run->args->threads);
    }
    run->target_ms = args->target_ms;
    return SHOAL_OK;
}

/* --- products --------------------------------------------------------------------------------- */

/* Of one tensor for one step of so many columns: an embedding is looked up, not multiplied, unless
 * it is the output too; of experts each column visits some. */
static double count_products(const compress_run *run, const shoal_gguf_tensor *t, size_t n_cols)
{
    static const char embedding[] = "token_embd.weight";
    uint64_t n = t->dims[2] * t->dims[3];
    bool looked_up = t->name.length == sizeof embedding - 1 &&
                     memcmp(t->name.data, embedding, t->name.length) == 0 && !run->tied;
    if (looked_up) {
        return 0;
    }
    return n > 1 && n == run->n_experts ? (double)SHOAL_MIN(n, (uint64_t)run->n_used * n_cols)
                                        : (double)n;
}

static bool ends_with(shoal_str name, const char *end)
{
    size_t n = strlen(end);
    return name.length >= n && memcmp(name.data + name.length - n, end, n) == 0;
}

/* Products of one input are one job of the pool: the first has its fixed time. */
static bool shares_job(const compress_run *run, const shoal_gguf_tensor *t)
{
    return ends_with(t->name, ".attn_k.weight") || ends_with(t->name, ".attn_v.weight") ||
           (run->gated && ends_with(t->name, ".ffn_up.weight"));
}

shoal_status shoal_forge_compress_seconds(const compress_run *run, const forge_profile_run *rates,
                                          const shoal_gguf_tensor *t, shoal_type type,
                                          double side_bytes, size_t width_i, double *ret_seconds,
                                          shoal_err *err)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    const shoal_rate *rate = &rates->rates[type][width_i];
    const shoal_rate *side = &rates->rates[SHOAL_TYPE_Q8_0][width_i];
    double n = count_products(run, t, shoal_forge_profile_widths[width_i]);
    uint64_t n_blocks = t->dims[0] / info->block; /* of a row */
    double bytes =
        (double)n_blocks * (double)info->block_bytes * (double)t->dims[1]; /* of one matrix */
    if (!(rate->gb_s > 0) || !(side->gb_s > 0)) {
        const char *name = shoal_forge_profile_type((uint32_t)type);
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s has no rate of %s or Q8_0: run device again with this program",
                             run->args->compress.profile, name ? name : info->name);
    }
    *ret_seconds = n * (shoal_rate_seconds(rate, bytes) -
                        (shares_job(run, t) ? shoal_rate_seconds(rate, 0) : 0));
    if (side_bytes > 0) {
        *ret_seconds += shoal_rate_seconds(side, side_bytes);
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_form_seconds(const compress_run *run,
                                               const forge_profile_run *rates,
                                               const compress_job *job, size_t form_i,
                                               size_t width_i, double *ret_seconds, shoal_err *err)
{
    const forge_recipe_form *form = &job->forms[form_i];
    shoal_type type = form->keep ? job->tensor->type : shoal_forge_store_type(form);
    double side_bytes = 0;
    if (shoal_forge_store_has_sides(form)) {
        forge_recipe_form base = {.typed = true, .type = type};
        const compress_point *p = job->measured ? &job->points[form_i] : &job->made;
        side_bytes =
            fmax(0, (double)p->bytes - (double)shoal_forge_store_bytes(&base, job->n_rows, job->k));
    }
    return shoal_forge_compress_seconds(run, rates, job->tensor, type, side_bytes, width_i,
                                        ret_seconds, err);
}

/* --- a step ----------------------------------------------------------------------------------- */

/* The products of the input as it is. */
static shoal_status full_seconds(const compress_run *run, const forge_profile_run *rates,
                                 double *ret_seconds, shoal_err *err)
{
    double sum = 0;
    for (size_t i = 0; i < shoal_gguf_n_tensors(run->gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(run->gguf, i);
        double one = 0;
        if (!shoal_forge_is_matrix(t) || shoal_forge_is_scales(run->gguf, t)) {
            continue;
        }
        SHOAL_TRY(shoal_forge_compress_seconds(run, rates, t, t->type, 0, 0, &one, err));
        sum += one;
    }
    *ret_seconds = sum;
    return SHOAL_OK;
}

bool shoal_forge_compress_knows_rest(const compress_run *run, const forge_profile_run *rates)
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(&run->model, hex);
    return rates->step_ms > 0 && !run->structure && strcmp(hex, run->profile->model) == 0;
}

/* What of a step its products do not explain. Less than nothing where they cost less together than
 * each alone. */
static shoal_status rest_ms(const compress_run *run, const forge_profile_run *rates, double *ret_ms,
                            shoal_err *err)
{
    double full = 0;
    *ret_ms = 0;
    if (shoal_forge_compress_knows_rest(run, rates)) {
        SHOAL_TRY(full_seconds(run, rates, &full, err));
        *ret_ms = rates->step_ms - full * 1e3;
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_besides_ms(compress_run *run, const forge_profile_run *rates,
                                             double *ret_ms, shoal_err *err)
{
    double rest = 0;
    double fixed = 0;
    SHOAL_TRY(rest_ms(run, rates, &rest, err));
    SHOAL_TRY(shoal_forge_compress_fixed_seconds(run, rates, 0, &fixed, err));
    *ret_ms = rest + fixed * 1e3;
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_predict(compress_run *run, const forge_profile_run *rates,
                                          compress_time *ret_time, shoal_err *err)
{
    compress_time time = {.n_threads = rates->n_threads};
    double sums[FORGE_PROFILE_WIDTHS] = {0};
    SHOAL_TRY(rest_ms(run, rates, &time.rest_ms, err));
    for (size_t w = 0; w < FORGE_PROFILE_WIDTHS; w++) {
        SHOAL_TRY(shoal_forge_compress_fixed_seconds(run, rates, w, &sums[w], err));
        for (size_t i = 0; i < run->n_jobs; i++) {
            double one = 0;
            SHOAL_TRY(shoal_forge_compress_form_seconds(run, rates, &run->jobs[i],
                                                        run->jobs[i].chosen, w, &one, err));
            sums[w] += one;
        }
    }
    time.ms = fmax(0, sums[0] * 1e3 + time.rest_ms);
    time.verify_ms = fmax(0, sums[1] * 1e3 + time.rest_ms);
    *ret_time = time;
    return SHOAL_OK;
}

shoal_status shoal_forge_compress_time_step(compress_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    forge_args args = *run->args;
    args.model = run->args->output;
    SHOAL_TRY(shoal_forge_session_open(&args, 1, 1, FORGE_STEPS + 1, &s, err));
    return shoal_forge_step_ms(&s, NULL, 0, &run->measured_ms);
}
