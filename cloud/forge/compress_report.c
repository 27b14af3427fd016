/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run has made, as JSON: the whole, each matrix, and what both models say of a text.
 */
#include "cloud/forge/compress_structure.h"

#include <inttypes.h>
#include <string.h>

static shoal_status put_layer(const compress_job *job, shoal_buf *buf)
{
    char form[COMPRESS_LABEL_MAX];
    double weights = (double)job->n_rows * (double)job->k;
    shoal_forge_recipe_describe(&job->forms[job->chosen], form, sizeof form);
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"name\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, job->tensor->name.data, job->tensor->name.length));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"rule\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, job->rule->name, strlen(job->rule->name)));
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        ", \"rows\": %zu, \"columns\": %zu, \"form\": \"%s\", \"bytes\": %" PRIu64
        ", \"bits\": %.4f, \"error\": %.6g, \"calibrated\": %s, \"forms\": [",
        job->n_rows, job->k, form, job->made.bytes, 8 * (double)job->made.bytes / weights,
        job->made.error, job->calibrated ? "true" : "false"));
    for (size_t i = 0; job->measured && i < job->n_forms; i++) {
        shoal_forge_recipe_describe(&job->forms[i], form, sizeof form);
        SHOAL_TRY(
            shoal_buf_appendf(buf, "%s{\"form\": \"%s\", \"bytes\": %" PRIu64 ", \"error\": %.6g}",
                              i ? ", " : "", form, job->points[i].bytes, job->points[i].error));
    }
    return shoal_buf_appendf(buf, "]}");
}

static shoal_status put_verdict(const compress_verdict *v, shoal_buf *buf)
{
    return shoal_buf_appendf(
        buf,
        ",\n \"text\": {\"tokens\": %zu, \"perplexity\": %.8g, \"full_perplexity\": %.8g, "
        "\"same_next\": %.6f, \"acceptance\": %.6f, \"divergence\": %.6g, \"tok_s\": %.2f, "
        "\"full_tok_s\": %.2f, \"bytes_per_token\": %" PRIu64 ", \"full_bytes_per_token\": %" PRIu64
        ", \"peak_mib\": %.1f, \"kv\": \"%s\"}",
        v->n_tokens, v->ppl, v->ppl_full, v->agreement, v->acceptance, v->divergence, v->tok_s,
        v->full_tok_s, v->bytes_per_token, v->full_bytes_per_token, v->peak_mib, v->kv);
}

static shoal_status put_target(const compress_run *run, shoal_buf *buf)
{
    if (run->target_bytes > 0) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\n \"target_bytes\": %" PRIu64, run->target_bytes));
    } else if (run->target_ms > 0) {
        SHOAL_TRY(shoal_buf_appendf(buf, ",\n \"target_ms\": %.9g", run->target_ms));
    } else {
        return SHOAL_OK;
    }
    return shoal_buf_appendf(buf, ", \"error_sum\": %.6g, \"least_sum\": %s", run->allocation.error,
                             run->allocation.exact ? "true" : "false");
}

static shoal_status put_structure(const compress_run *run, shoal_buf *buf)
{
    const compress_structure *s = run->structure;
    const forge_recipe_structure *r = &run->recipe->structure;
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        ",\n \"structure\": {\"neurons\": %zu, \"of_neurons\": %zu, \"heads\": %zu, "
        "\"of_heads\": %zu, \"kv_heads\": %zu, \"of_kv_heads\": %zu, \"by\": \"%s\", "
        "\"refit\": %s, \"layers\": [",
        s->ffn, s->hp.ffn, s->n_heads, s->hp.n_heads, s->n_kv_heads, s->hp.n_kv_heads,
        r->gradient ? "gradient" : "output", r->refit ? "true" : "false"));
    for (size_t i = 0; i < s->hp.n_layers; i++) {
        SHOAL_TRY(
            shoal_buf_appendf(buf, "%s{\"feed_forward_error\": %.6g, \"attention_error\": %.6g}",
                              i ? ", " : "", s->layers[i].ffn_error, s->layers[i].attention_error));
    }
    return shoal_buf_appendf(buf, "]}");
}

/* A token by every run of the profile, and as it was. */
static shoal_status put_time(compress_run *run, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf,
                                ",\n \"time\": {\"threads\": %zu, \"measured_ms\": %.6g, "
                                "\"runs\": [",
                                run->rates->n_threads, run->measured_ms));
    for (size_t i = 0; i < run->profile->n_runs; i++) {
        const forge_profile_run *rates = &run->profile->runs[i];
        compress_time time;
        SHOAL_TRY(shoal_forge_compress_predict(run, rates, &time, NULL));
        SHOAL_TRY(shoal_buf_appendf(buf,
                                    "%s{\"threads\": %zu, \"predicted_ms\": %.9g, "
                                    "\"verify_ms\": %.9g, \"rest_ms\": ",
                                    i ? ", " : "", time.n_threads, time.ms, time.verify_ms));
        SHOAL_TRY(shoal_forge_compress_knows_rest(run, rates)
                      ? shoal_buf_appendf(buf, "%.9g}", time.rest_ms)
                      : shoal_buf_appendf(buf, "null}"));
    }
    return shoal_buf_appendf(buf, "]}");
}

shoal_status shoal_forge_compress_json(compress_run *run, const compress_verdict *verdict,
                                       shoal_buf *buf)
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(&run->model, hex);
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "{\"model\": \"%s\", \"bytes_in\": %zu, \"bytes_out\": %" PRIu64
                                ", \"seconds\": %.3f, \"resumed\": %zu",
                                hex, run->map.size, run->n_bytes, run->seconds, run->n_resumed));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"recipe\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, run->args->compress.recipe,
                                      strlen(run->args->compress.recipe)));
    SHOAL_TRY(run->structure ? put_structure(run, buf) : SHOAL_OK);
    SHOAL_TRY(put_target(run, buf));
    SHOAL_TRY(run->profile ? put_time(run, buf) : SHOAL_OK);
    if (verdict) {
        SHOAL_TRY(put_verdict(verdict, buf));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, ",\n \"layers\": ["));
    for (size_t i = 0; i < run->n_jobs; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s\n  ", i ? "," : ""));
        SHOAL_TRY(put_layer(&run->jobs[i], buf));
    }
    return shoal_buf_appendf(buf, "]}\n");
}
