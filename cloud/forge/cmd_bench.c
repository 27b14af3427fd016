/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of one model on this machine, as rates and as the share of the memory bandwidth measured in
 * the same run. Each figure is the median of several repeats after a warm-up.
 */
#include "cloud/forge/forge.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/machine/peak.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REPEATS = 3,
    CHUNK = 512, /* rows of one prefill step */
    WIDTHS_MAX = 16
};

typedef struct bench {
    const forge_args *args;
    shoal_model *model;
    shoal_engine *engine;
    shoal_lora *lora;
    shoal_kv_seq *seqs[256];
    size_t n_seqs;
    size_t widths[WIDTHS_MAX];
    size_t n_widths;
    size_t width_max;
    int32_t *ids;
    shoal_clock clock;
    double load_s;
    double first_token_s;
    double prefill_tok_s;
    double decode_tok_s[WIDTHS_MAX];
    double bandwidth_gb_s;
    double rss_mib; /* peak, before the bandwidth test takes its block */
} bench;

static void bench_close(bench *b)
{
    for (size_t i = 0; i < b->n_seqs; i++) {
        shoal_kv_seq_free(b->seqs[i]);
    }
    shoal_engine_free(b->engine);
    shoal_lora_free(b->lora);
    shoal_model_free(b->model);
    shoal_free(b->ids);
}

static double seconds(const bench *b)
{
    return (double)shoal_clock_now_ns(&b->clock) / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* --- memory bandwidth ---------------------------------------------------------------------------
 */

static shoal_status measure_bandwidth(bench *b, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    SHOAL_CLEANUP(shoal_peak_freep) shoal_peak *peak = NULL;
    if (shoal_pool_new((size_t)b->args->threads, &pool) == SHOAL_OK) {
        peak = shoal_peak_new(pool);
    }
    if (!peak) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to measure the bandwidth");
    }
    double rates[REPEATS];
    for (size_t r = 0; r < REPEATS; r++) {
        rates[r] = shoal_peak_read(peak);
    }
    b->bandwidth_gb_s = median(rates, REPEATS);
    return SHOAL_OK;
}

/* --- the model ----------------------------------------------------------------------------------
 */

static shoal_status parse_widths(bench *b, shoal_err *err)
{
    const char *at = b->args->batch ? b->args->batch : "1";
    while (*at) {
        char *end = NULL;
        long value = strtol(at, &end, 10);
        if (end == at || value < 1 || value > (long)SHOAL_COUNT(b->seqs) ||
            b->n_widths == WIDTHS_MAX || (*end && *end != ',')) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--batch %s: up to %d widths from 1 to %zu, as 1,4,8",
                                 b->args->batch, (int)WIDTHS_MAX, SHOAL_COUNT(b->seqs));
        }
        b->widths[b->n_widths++] = (size_t)value;
        b->width_max = SHOAL_MAX(b->width_max, (size_t)value);
        at = *end ? end + 1 : end;
    }
    return SHOAL_OK;
}

static shoal_status open_bench(bench *b, shoal_err *err)
{
    const forge_args *args = b->args;
    SHOAL_TRY(parse_widths(b, err));
    double start = seconds(b);
    size_t n_tokens = SHOAL_MAX((size_t)args->p, (size_t)args->depth + (size_t)args->n);
    size_t n_rows = SHOAL_MAX((size_t)CHUNK, b->width_max);
    /* The KV must hold the widest batch. */
    forge_session s = {0};
    SHOAL_TRY(shoal_forge_session_open(args, n_rows, b->width_max,
                                       (n_tokens + 2 * SHOAL_KV_BLOCK) * b->width_max, &s, err));
    b->model = s.model;
    b->engine = s.engine;
    b->lora = s.lora;
    b->seqs[b->n_seqs++] = s.seq;
    if (n_tokens > b->model->hp.n_ctx) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%zu tokens are more than the model's context of %zu: lower -p, -n or "
                             "--depth",
                             n_tokens, b->model->hp.n_ctx);
    }
    while (b->n_seqs < b->width_max) {
        SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(b->engine), &b->seqs[b->n_seqs]));
        b->n_seqs++;
    }
    b->load_s = seconds(b) - start;
    b->ids = shoal_calloc(n_tokens + 1, sizeof *b->ids);
    if (!b->ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the tokens");
    }
    for (size_t i = 0; i <= n_tokens; i++) {
        b->ids[i] = (int32_t)(i * 7919 % b->model->hp.n_vocab);
    }
    return SHOAL_OK;
}

/* Appends n tokens to sequence i in chunks; the last one's logits are computed. */
static shoal_status feed(bench *b, size_t i, size_t n)
{
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t n_now = SHOAL_MIN(n - at, (size_t)CHUNK);
        shoal_span span = {.seq = b->seqs[i], .ids = b->ids + at, .n_ids = n_now, .lora = b->lora};
        span.n_logits = at + n_now == n;
        SHOAL_TRY(shoal_engine_step(b->engine, &span, 1));
    }
    return SHOAL_OK;
}

static shoal_status measure_prefill(bench *b)
{
    double rates[REPEATS];
    for (size_t r = 0; r <= REPEATS; r++) {
        (void)shoal_kv_seq_truncate(b->seqs[0], 0);
        double start = seconds(b);
        SHOAL_TRY(feed(b, 0, (size_t)b->args->p));
        double took = seconds(b) - start;
        if (r == 0) {
            b->first_token_s = b->load_s + took; /* the warm-up is the cold start */
        } else {
            rates[r - 1] = (double)b->args->p / took;
        }
    }
    b->prefill_tok_s = median(rates, REPEATS);
    return SHOAL_OK;
}

/* n steps of `width` sequences, each at args->depth. */
static shoal_status decode(bench *b, size_t width, size_t n, double *ret_tok_s)
{
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_span *spans = shoal_calloc(width, sizeof *spans);
    if (!spans) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < width; i++) {
        (void)shoal_kv_seq_truncate(b->seqs[i], 0);
        SHOAL_TRY(feed(b, i, (size_t)b->args->depth));
    }
    double start = seconds(b);
    for (size_t t = 0; t < n; t++) {
        for (size_t i = 0; i < width; i++) {
            spans[i] = (shoal_span){
                .seq = b->seqs[i], .ids = b->ids + t, .n_ids = 1, .n_logits = 1, .lora = b->lora};
        }
        SHOAL_TRY(shoal_engine_step(b->engine, spans, width));
    }
    *ret_tok_s = (double)(n * width) / (seconds(b) - start);
    return SHOAL_OK;
}

static shoal_status measure_decode(bench *b, size_t width_i)
{
    double rates[REPEATS];
    double warm = 0;
    SHOAL_TRY(decode(b, b->widths[width_i], SHOAL_MIN((size_t)b->args->n, (size_t)8), &warm));
    for (size_t r = 0; r < REPEATS; r++) {
        SHOAL_TRY(decode(b, b->widths[width_i], (size_t)b->args->n, &rates[r]));
    }
    b->decode_tok_s[width_i] = median(rates, REPEATS);
    return SHOAL_OK;
}

/* --- the report ---------------------------------------------------------------------------------
 */

static double single_rate(const bench *b)
{
    for (size_t i = 0; i < b->n_widths; i++) {
        if (b->widths[i] == 1) {
            return b->decode_tok_s[i];
        }
    }
    return b->decode_tok_s[0] / (double)b->widths[0];
}

/* Sequences of 1024 tokens, sharing nothing, that a pool of 1 GiB holds. */
static size_t sessions_per_gib(const bench *b)
{
    const shoal_kv_pool *pool = shoal_engine_kv(b->engine);
    size_t n_pages = ((size_t)1 << 30) / shoal_kv_page_bytes(shoal_kv_pool_shape(pool));
    size_t n_rows = shoal_engine_n_rows_max(b->engine);
    return n_pages / shoal_kv_pages_for(shoal_kv_pool_shape(pool), n_rows, 1024);
}

static shoal_status print_bench(const bench *b, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    double weight_bytes = (double)shoal_model_bytes_per_token(b->model);
    double rate = single_rate(b);
    double read_gb_s = rate * weight_bytes / 1e9;
    const char *tier = shoal_engine_kernels(b->engine)->tier;
    if (b->args->json) {
        SHOAL_TRY(shoal_buf_appendf(
            &out,
            "{\"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, \"weight_bytes_per_token\": %.0f, "
            "\"read_gb_s\": %.3f, \"bandwidth_gb_s\": %.3f, \"batch\": [",
            b->prefill_tok_s, rate, weight_bytes, read_gb_s, b->bandwidth_gb_s));
        for (size_t i = 0; i < b->n_widths; i++) {
            SHOAL_TRY(shoal_buf_appendf(&out, "%s{\"width\": %zu, \"tok_s\": %.2f}", i ? ", " : "",
                                        b->widths[i], b->decode_tok_s[i]));
        }
        SHOAL_TRY(shoal_buf_appendf(
            &out,
            "], \"rss_mib\": %.1f, \"load_s\": %.4f, \"first_token_s\": %.4f, "
            "\"tier\": \"%s\", \"kv\": \"%s\", \"sessions_gib\": %zu, \"threads\": %ld}\n",
            b->rss_mib, b->load_s, b->first_token_s, tier, shoal_engine_kv_form(b->engine),
            sessions_per_gib(b), b->args->threads));
        return shoal_forge_print(&out, err);
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "%s  %s, %ld threads, KV %s\n", b->model->hp.name, tier,
                                b->args->threads, shoal_engine_kv_form(b->engine)));
    SHOAL_TRY(shoal_buf_appendf(&out,
                                "  prefill %4ld     %10.1f tok/s\n"
                                "  decode at %4ld   %10.1f tok/s   %.2f MB a token, %.1f GB/s = "
                                "%.0f%% of %.1f GB/s measured\n",
                                b->args->p, b->prefill_tok_s, b->args->depth, rate,
                                weight_bytes / 1e6, read_gb_s, 100 * read_gb_s / b->bandwidth_gb_s,
                                b->bandwidth_gb_s));
    for (size_t i = 0; i < b->n_widths; i++) {
        SHOAL_TRY(shoal_buf_appendf(&out, "  width %3zu        %10.1f tok/s   %.2fx one\n",
                                    b->widths[i], b->decode_tok_s[i], b->decode_tok_s[i] / rate));
    }
    SHOAL_TRY(shoal_buf_appendf(&out,
                                "  first token      %10.3f s       load %.3f s, and prefill %ld\n"
                                "  resident         %10.1f MiB     peak\n"
                                "  KV of 1 GiB      %10zu sessions of 1024 tokens\n",
                                b->first_token_s, b->load_s, b->args->p, b->rss_mib,
                                sessions_per_gib(b)));
    return shoal_forge_print(&out, err);
}

shoal_status shoal_forge_bench(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(bench_close) bench b = {.args = args, .clock = shoal_clock_real()};
    SHOAL_TRY(open_bench(&b, err));
    SHOAL_TRY(measure_prefill(&b));
    for (size_t i = 0; i < b.n_widths; i++) {
        SHOAL_TRY(measure_decode(&b, i));
    }
    SHOAL_TRY(shoal_forge_peak_mib(&b.rss_mib, err));
    SHOAL_TRY(measure_bandwidth(&b, err));
    return print_bench(&b, err);
}
