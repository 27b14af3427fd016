/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-bench-engine: whole models on this machine. Memory and processor of a virtual machine
 * change within seconds, so every figure of a model and the machine's peaks take turns of a tenth
 * of a second within a round; shares and ratios are formed inside a round and their medians
 * reported.
 */
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "common/machine/peak.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH_MAX = 32,
    ROUNDS_MAX = 64,
    MODES_MAX = 16,
    TURNS = 10,  /* of a round, in each of which every mode but prefill has its slice of time */
    CONTEXT = 16 /* tokens of a sequence before "depth 0" is measured */
};

typedef struct options {
    size_t n_threads;
    size_t n_rounds;
    size_t prefill;
    size_t depth;
    double round_s;   /* a mode repeats its step for this long in a round */
    const char *json; /* file that gets a JSON object a model, a line each; NULL: none */
    bool rows;        /* no header: a part of a longer run */
    uint32_t cpu_mask;
} options;

typedef enum what {
    PREFILL, /* `prefill` tokens of one sequence at once, one logits row */
    BATCH,   /* one token each of n sequences */
    VERIFY,  /* n tokens of one sequence, n logits rows */
    DEEP     /* one token of a sequence of `depth` tokens */
} what;

/* One way to step, measured in every round. */
typedef struct mode {
    const char *name;
    what what;
    size_t n;
    size_t engine; /* index */
    double took_s; /* in the present round */
    size_t n_steps;
    double step_s[ROUNDS_MAX]; /* seconds of a step */
} mode;

typedef struct bench {
    const options *options;
    const char *path;
    shoal_model *model;
    shoal_engine *engines[2]; /* KV as the model likes it, KV q8 */
    shoal_kv_seq *seqs[WIDTH_MAX];
    shoal_kv_seq *deep[2];
    int32_t *ids;
    mode modes[MODES_MAX];
    size_t n_modes;
    shoal_peak *peak;
    double read[ROUNDS_MAX]; /* GB/s */
    double int8[ROUNDS_MAX]; /* Gop/s */
    double floats[ROUNDS_MAX];
    double load_s;
} bench;

static double seconds(void)
{
    const shoal_clock clock = shoal_clock_real();
    return (double)shoal_clock_now_ns(&clock) / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, size_t n)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* --- set-up ------------------------------------------------------------------------------------
 */

static shoal_status open_engine(bench *b, size_t i, int kv_type, shoal_err *err)
{
    const options *o = b->options;
    shoal_engine_settings s = shoal_engine_settings_default();
    s.n_threads = o->n_threads;
    s.cpu_mask = o->cpu_mask;
    s.kv_type = kv_type;
    s.n_ctx = SHOAL_MIN(b->model->hp.n_ctx, SHOAL_MAX(o->prefill, o->depth) + 64);
    s.n_logits_max = WIDTH_MAX;
    s.n_rows_max = 512;
    s.kv_bytes = (size_t)3 << 30; /* reserved, not touched */
    return shoal_engine_new(b->model, &s, &b->engines[i], err);
}

/* Appends n tokens in chunks, no logits. */
static shoal_status feed(bench *b, size_t engine, shoal_kv_seq *seq, size_t n, bool logits)
{
    size_t chunk = shoal_engine_n_rows_max(b->engines[engine]);
    for (size_t at = 0; at < n; at += chunk) {
        shoal_span span = {.seq = seq, .ids = b->ids + at, .n_ids = SHOAL_MIN(chunk, n - at)};
        span.n_logits = logits && at + span.n_ids == n;
        SHOAL_TRY(shoal_engine_step(b->engines[engine], &span, 1));
    }
    return SHOAL_OK;
}

static void add_mode(bench *b, const char *name, what kind, size_t n, size_t engine)
{
    SHOAL_ASSERT(b->n_modes < MODES_MAX);
    b->modes[b->n_modes++] = (mode){.name = name, .what = kind, .n = n, .engine = engine};
}

static void add_modes(bench *b)
{
    add_mode(b, "decode", BATCH, 1, 0);
    add_mode(b, "width 2", BATCH, 2, 0);
    add_mode(b, "width 4", BATCH, 4, 0);
    add_mode(b, "width 8", BATCH, 8, 0);
    add_mode(b, "width 16", BATCH, 16, 0);
    add_mode(b, "width 32", BATCH, 32, 0);
    add_mode(b, "verify 5", VERIFY, 5, 0);
    add_mode(b, "deep, f16 KV", DEEP, 1, 0);
    add_mode(b, "deep, q8 KV", DEEP, 1, 1);
    add_mode(b, "prefill", PREFILL, b->options->prefill, 0);
}

static shoal_status prepare(bench *b, shoal_err *err)
{
    double start = seconds();
    SHOAL_TRY(shoal_model_load(b->path, &b->model, err));
    shoal_model_start_huge_pages(b->model); /* as the daemons do, which do not wait for it */
    shoal_model_wait_huge_pages(b->model);
    b->load_s = seconds() - start;
    SHOAL_TRY(open_engine(b, 0, SHOAL_KV_F16, err));
    SHOAL_TRY(open_engine(b, 1, SHOAL_KV_Q8T, err));
    size_t n_ids = SHOAL_MAX(b->options->prefill, b->options->depth) + 1;
    b->ids = shoal_calloc(n_ids, sizeof *b->ids);
    if (!b->ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu tokens", n_ids);
    }
    for (size_t i = 0; i < n_ids; i++) {
        b->ids[i] = (int32_t)(i * 7919 % b->model->hp.n_vocab);
    }
    for (size_t i = 0; i < WIDTH_MAX; i++) {
        SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(b->engines[0]), &b->seqs[i]));
        SHOAL_TRY(feed(b, 0, b->seqs[i], CONTEXT, false));
    }
    for (size_t e = 0; e < 2; e++) {
        SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(b->engines[e]), &b->deep[e]));
        SHOAL_TRY(feed(b, e, b->deep[e], b->options->depth, false));
    }
    add_modes(b);
    return SHOAL_OK;
}

static void bench_close(bench *b)
{
    for (size_t i = 0; i < WIDTH_MAX; i++) {
        shoal_kv_seq_free(b->seqs[i]);
    }
    for (size_t e = 0; e < 2; e++) {
        shoal_kv_seq_free(b->deep[e]);
        shoal_engine_free(b->engines[e]);
    }
    shoal_model_free(b->model);
    shoal_free(b->ids);
}

/* --- measuring ---------------------------------------------------------------------------------
 */

/* One step, after which every sequence is as long as before. */
static shoal_status step(bench *b, const mode *m)
{
    shoal_span spans[WIDTH_MAX] = {{0}};
    size_t n_spans = m->what == BATCH ? m->n : 1;
    if (m->what == PREFILL) {
        (void)shoal_kv_seq_truncate(b->seqs[0], 0);
        SHOAL_TRY(feed(b, 0, b->seqs[0], m->n, true));
        (void)shoal_kv_seq_truncate(b->seqs[0], CONTEXT);
        return SHOAL_OK;
    }
    for (size_t i = 0; i < n_spans; i++) {
        size_t n = m->what == VERIFY ? m->n : 1;
        shoal_kv_seq *seq = m->what == DEEP ? b->deep[m->engine] : b->seqs[i];
        spans[i] = (shoal_span){.seq = seq, .ids = b->ids + i, .n_ids = n, .n_logits = n};
    }
    SHOAL_TRY(shoal_engine_step(b->engines[m->engine], spans, n_spans));
    for (size_t i = 0; i < n_spans; i++) {
        size_t length = m->what == DEEP ? b->options->depth : CONTEXT;
        (void)shoal_kv_seq_truncate(spans[i].seq, length);
    }
    return SHOAL_OK;
}

static shoal_status measure(bench *b, mode *m, double slice_s)
{
    double start = seconds();
    double took = 0;
    do {
        SHOAL_TRY(step(b, m));
        m->n_steps++;
        took = seconds() - start;
    } while (took < slice_s);
    m->took_s += took;
    return SHOAL_OK;
}

/* Every mode but prefill, one step of which may take longer than all slices. */
static shoal_status run_turn(bench *b, double *inout_read)
{
    for (size_t i = 0; i < b->n_modes; i++) {
        if (i < 2) {
            /* Before and after the step whose share of the bandwidth is told. */
            *inout_read += shoal_peak_read(b->peak) / (2 * TURNS);
        }
        if (b->modes[i].what != PREFILL) {
            SHOAL_TRY(measure(b, &b->modes[i], b->options->round_s / TURNS));
        }
    }
    return SHOAL_OK;
}

static shoal_status run_round(bench *b, size_t round)
{
    double read = 0;
    for (size_t i = 0; i < b->n_modes; i++) {
        b->modes[i].took_s = 0;
        b->modes[i].n_steps = 0;
    }
    for (size_t turn = 0; turn < TURNS; turn++) {
        SHOAL_TRY(run_turn(b, &read));
    }
    for (size_t i = 0; i < b->n_modes; i++) {
        if (b->modes[i].what == PREFILL) {
            SHOAL_TRY(measure(b, &b->modes[i], b->options->round_s));
        }
        b->modes[i].step_s[round] = b->modes[i].took_s / (double)b->modes[i].n_steps;
    }
    b->read[round] = read;
    b->int8[round] = shoal_peak_int8(b->peak);
    b->floats[round] = shoal_peak_float(b->peak);
    return SHOAL_OK;
}

/* The first round warms up and is overwritten. */
static shoal_status run_rounds(bench *b)
{
    SHOAL_TRY(run_round(b, 0));
    for (size_t round = 0; round < b->options->n_rounds; round++) {
        SHOAL_TRY(run_round(b, round));
    }
    return SHOAL_OK;
}

/* --- the report --------------------------------------------------------------------------------
 */

/* Tokens of a step. */
static double tokens_of(const mode *m)
{
    return (double)m->n;
}

/* Multiplications and additions of a token in the layers; the logits of one row are beside them. */
static double ops_per_token(const bench *b)
{
    const shoal_hparams *hp = &b->model->hp;
    double embed = (double)hp->n_vocab * (double)hp->dim;
    return 2 * ((double)b->model->n_params - (hp->tied ? 1 : 2) * embed);
}

/* How often m's tokens come per token of the first mode, round by round. */
static double ratio_of(const bench *b, const mode *m)
{
    double ratios[ROUNDS_MAX];
    for (size_t r = 0; r < b->options->n_rounds; r++) {
        ratios[r] = b->modes[0].step_s[r] / m->step_s[r] * tokens_of(m);
    }
    return median(ratios, b->options->n_rounds);
}

static double rate_of(const bench *b, const mode *m)
{
    return tokens_of(m) / median(m->step_s, b->options->n_rounds);
}

static bool is_float(const bench *b)
{
    shoal_type t = b->model->main_type;
    return t == SHOAL_TYPE_F32 || t == SHOAL_TYPE_F16 || t == SHOAL_TYPE_BF16;
}

/* Share of the measured bandwidth that a decoding step reads weights with. */
static double read_share(const bench *b)
{
    double bytes = (double)shoal_model_bytes_per_token(b->model);
    double shares[ROUNDS_MAX];
    for (size_t r = 0; r < b->options->n_rounds; r++) {
        shares[r] = bytes / 1e9 / b->modes[0].step_s[r] / b->read[r];
    }
    return median(shares, b->options->n_rounds);
}

/* Share of the arithmetic peak that prefill's layers do. */
static double ops_share(const bench *b, const mode *m)
{
    double shares[ROUNDS_MAX];
    for (size_t r = 0; r < b->options->n_rounds; r++) {
        double peak = is_float(b) ? b->floats[r] : b->int8[r];
        double rate = ops_per_token(b) * tokens_of(m) / 1e9 / m->step_s[r];
        shares[r] = peak > 0 ? rate / peak : 0;
    }
    return median(shares, b->options->n_rounds);
}

/* One row a model, numbers only between the first two columns and the end: a plot reads it too. */
static void print_header(const options *o)
{
    printf(
        "# %zu threads; prefill %zu, deep: %zu tokens before. Tokens a second, but: memory: GB/s "
        "that\n"
        "# the machine gave, measured beside it; read: the share of them that decoding read "
        "weights with;\n"
        "# ops: share of the arithmetic peak measured beside it; verify: plain steps that a step "
        "over 5\n"
        "# tokens costs; deep: rate against no depth.\n",
        o->n_threads, o->prefill, o->depth);
    printf("%-12s %-6s %8s %6s %5s %7s %7s %7s %7s %7s %6s %8s %7s %8s %5s\n", "model", "type",
           "decode", "memory", "read", "width2", "width4", "width8", "width16", "width32", "verify",
           "deep_f16", "deep_q8", "prefill", "ops");
}

/* A matrix of bytes with scales of tiles beside it (E4M3) is stored as I8. */
static const char *type_name(const bench *b)
{
    shoal_type type = b->model->main_type;
    return type == SHOAL_TYPE_I8 ? "FP8" : shoal_type_find((uint32_t)type)->name;
}

static void print_row(const bench *b)
{
    char name[16];
    size_t n = 0;
    for (const char *c = b->model->hp.name; *c && n + 1 < sizeof name; c++) {
        if (strncmp(c, "random ", 7) == 0) {
            c += 7;
        }
        name[n++] = *c == ' ' ? '-' : *c;
    }
    name[n] = '\0';
    const mode *m = b->modes;
    printf("%-12s %-6s %8.1f %6.1f %5.2f %7.1f %7.1f %7.1f %7.1f %7.1f %6.2f %8.2f %7.2f %8.1f "
           "%5.2f\n",
           name, type_name(b), rate_of(b, &m[0]),
           median(b->read, b->options->n_rounds), read_share(b), rate_of(b, &m[1]),
           rate_of(b, &m[2]), rate_of(b, &m[3]), rate_of(b, &m[4]), rate_of(b, &m[5]),
           tokens_of(&m[6]) / ratio_of(b, &m[6]), ratio_of(b, &m[7]), ratio_of(b, &m[8]),
           rate_of(b, &m[9]), ops_share(b, &m[9]));
}

static void print_json(const bench *b, FILE *out)
{
    size_t n = b->options->n_rounds;
    fprintf(out,
            "{\"model\": \"%s\", \"type\": \"%s\", \"tier\": \"%s\", \"threads\": %zu, "
            "\"bytes_per_token\": %.0f, \"load_s\": %.3f, \"read_gb_s\": %.2f, "
            "\"int8_gop_s\": %.1f, \"float_gop_s\": %.1f, \"read_share\": %.3f, "
            "\"prefill\": %zu, \"depth\": %zu, \"modes\": {",
            b->model->hp.name, type_name(b),
            shoal_engine_kernels(b->engines[0])->tier, b->options->n_threads,
            (double)shoal_model_bytes_per_token(b->model), b->load_s, median(b->read, n),
            median(b->int8, n), median(b->floats, n), read_share(b), b->options->prefill,
            b->options->depth);
    for (size_t i = 0; i < b->n_modes; i++) {
        const mode *m = &b->modes[i];
        fprintf(out, "%s\"%s\": {\"tok_s\": %.2f, \"of_plain\": %.3f%s", i ? ", " : "", m->name,
                rate_of(b, m), ratio_of(b, m), m->what == PREFILL ? "" : "}");
        if (m->what == PREFILL) {
            fprintf(out, ", \"ops_share\": %.3f}", ops_share(b, m));
        }
    }
    fprintf(out, "}}\n");
}

/* 0, or -1 when the file cannot be written. */
static int append_json(const bench *b)
{
    FILE *out = fopen(b->options->json, "a");
    if (!out) {
        return -1;
    }
    print_json(b, out);
    return fclose(out);
}

static int run_model(const options *o, const char *path, shoal_peak *peak)
{
    static bench b;
    b = (bench){.options = o, .path = path, .peak = peak};
    shoal_err err = {0};
    shoal_status status = prepare(&b, &err);
    if (status == SHOAL_OK) {
        status = run_rounds(&b);
    }
    if (status != SHOAL_OK) {
        fprintf(stderr, "shoal-bench-engine: %s: %s\n", path,
                err.text[0] ? err.text : shoal_status_text(status));
    } else {
        print_row(&b);
        if (o->json && append_json(&b) != 0) {
            fprintf(stderr, "shoal-bench-engine: cannot write %s: %s\n", o->json, strerror(errno));
            status = SHOAL_E_IO;
        }
    }
    (void)fflush(stdout);
    bench_close(&b);
    return status == SHOAL_OK ? 0 : 1;
}

/* --- options -----------------------------------------------------------------------------------
 */

static void usage(FILE *out)
{
    fprintf(out,
            "usage: shoal-bench-engine [options] MODEL.gguf...\n"
            "  --json FILE   also append a JSON object a model, a line each\n"
            "  --threads N   compute threads (2)\n"
            "  --rounds N    rounds of all figures, 1 to %d (5)\n"
            "  --prefill N   tokens of a prefill (512)\n"
            "  --depth N     tokens before the deep figures (2048)\n"
            "  --cpu-mask M  scalar, avx2, native, ... (native)\n"
            "  --rows        without the header\n"
            "  --smoke       one short round: proves that it works\n"
            "Exit status: 0; 1 when a model could not be measured; 2 for usage.\n",
            (int)ROUNDS_MAX);
}

static bool take_number(const char *text, size_t max, size_t *ret)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = text ? strtoul(text, &end, 10) : 0;
    if (!text || errno || *end || value < 1 || value > max) {
        return false;
    }
    *ret = value;
    return true;
}

/* The index of the first model, or -1. */
static int parse(int argc, char **argv, options *o)
{
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool ok = true;
        if (strcmp(argv[i], "--smoke") == 0) {
            o->n_rounds = 1;
            o->prefill = 16;
            o->depth = 40;
            o->round_s = 0.001;
            continue;
        }
        if (strcmp(argv[i], "--rows") == 0) {
            o->rows = true;
            continue;
        }
        if (strcmp(argv[i], "--json") == 0) {
            o->json = value;
            ok = value;
        } else if (strcmp(argv[i], "--threads") == 0) {
            ok = take_number(value, SHOAL_POOL_THREADS_MAX, &o->n_threads);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            ok = take_number(value, ROUNDS_MAX, &o->n_rounds);
        } else if (strcmp(argv[i], "--prefill") == 0) {
            ok = take_number(value, 1 << 20, &o->prefill);
        } else if (strcmp(argv[i], "--depth") == 0) {
            ok = take_number(value, 1 << 20, &o->depth);
        } else if (strcmp(argv[i], "--cpu-mask") == 0) {
            ok = value && shoal_cpu_mask_parse(value, &o->cpu_mask) == 0;
        } else {
            ok = false;
        }
        if (!ok) {
            return -1;
        }
        i++;
    }
    return i < argc ? i : -1;
}

int main(int argc, char **argv)
{
    options o = {.n_threads = 2,
                 .n_rounds = 5,
                 .prefill = 512,
                 .depth = 2048,
                 .round_s = 1.0,
                 .cpu_mask = shoal_cpu_detect()};
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        usage(stdout);
        return 0;
    }
    int first = parse(argc, argv, &o);
    if (first < 0) {
        usage(stderr);
        return 2;
    }
    shoal_pool *pool = NULL;
    shoal_peak *peak = NULL;
    if (shoal_pool_new(o.n_threads, &pool) == SHOAL_OK) {
        peak = shoal_peak_new(pool);
    }
    if (!peak) {
        fprintf(stderr, "shoal-bench-engine: no memory to measure the machine's peaks\n");
        shoal_pool_free(pool);
        return 1;
    }
    int failed = 0;
    if (!o.rows) {
        print_header(&o);
    }
    for (int i = first; i < argc; i++) {
        failed |= run_model(&o, argv[i], peak);
    }
    shoal_peak_free(peak);
    shoal_pool_free(pool);
    return failed;
}
