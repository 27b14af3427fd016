/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-bench-archive: encoding and decoding units of archived KV, per second of one thread, in
 * bytes of f16. Bases are made up: components are rotations of pairs of channels, and what they
 * keep falls off as it does in models, so that codes take the bits that are named.
 */
#include "common/archive/archive.h"
#include "common/archive/plan.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/tensor/type.h"
#include "tests/bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    LAYERS = 2,
    HEADS = 2,
    TABLE_FIRST = 6,
    TABLES = 14
};

typedef struct subject {
    shoal_archive *archive;
    shoal_archive_work *work;
    shoal_kernels kernels;
    uint8_t *pages;
    uint8_t *unit;
    size_t n;
    bool ok;
} subject;

static double normal(uint64_t *rng)
{
    double sum = -6;
    for (size_t i = 0; i < 12; i++) {
        sum += (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
    }
    return sum;
}

/* Deviation of component c of n, in steps: from 16 down, below a fifth nothing is kept. */
static double deviation(size_t c, size_t n)
{
    return 16 * exp2(-(double)c / (double)n * 13);
}

/* Tables for normal codes whose deviation is 2^((t - TABLE_FIRST) / 2) steps. */
static void make_tables(shoal_archive_plan *plan)
{
    for (size_t t = 0; t < TABLES; t++) {
        uint64_t counts[SHOAL_ARCHIVE_SYMBOLS] = {0};
        uint64_t rng = t;
        double width = exp2(((double)t - TABLE_FIRST) / 2);
        for (size_t i = 0; i < 20000; i++) {
            long code = lround(normal(&rng) * width);
            bool small = code >= -SHOAL_ARCHIVE_CODE_MAX && code <= SHOAL_ARCHIVE_CODE_MAX;
            counts[small ? code + SHOAL_ARCHIVE_CODE_MAX : SHOAL_ARCHIVE_ESCAPE]++;
        }
        shoal_archive_frequencies(counts, plan->freqs + t * SHOAL_ARCHIVE_SYMBOLS);
        for (size_t s = 0; s < SHOAL_ARCHIVE_ESCAPE; s++) {
            plan->values[t * SHOAL_ARCHIVE_SYMBOLS + s] = (float)s - SHOAL_ARCHIVE_CODE_MAX;
        }
    }
}

/* Of two layers with two heads of head_dim. */
static shoal_status make(size_t head_dim, subject *ret)
{
    size_t n = (size_t)LAYERS * HEADS * 2 * head_dim;
    size_t n_kept = 0;
    while (n_kept < n && deviation(n_kept, n) > 0.2) {
        n_kept++;
    }
    shoal_archive_plan_group group = {.n_layers = LAYERS, .n_kept = n_kept};
    int32_t rope_of[LAYERS] = {0};
    shoal_archive_plan plan = {.shape = {.n_layers = LAYERS,
                                         .n_kv_heads = HEADS,
                                         .k_dim = head_dim,
                                         .v_dim = head_dim,
                                         .type = SHOAL_KV_F16},
                               .n_rot = head_dim,
                               .rope_of = rope_of,
                               .n_groups = 1,
                               .groups = &group,
                               .n_tables = TABLES};
    SHOAL_CLEANUP(shoal_free_cleanup) float *numbers = shoal_calloc(n * n + 2 * n, sizeof *numbers);
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *table = shoal_calloc(n, sizeof *table);
    SHOAL_CLEANUP(shoal_free_cleanup) float *freq = shoal_calloc(head_dim, sizeof *freq);
    SHOAL_CLEANUP(shoal_free_cleanup)
    int32_t *freqs = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *freqs);
    SHOAL_CLEANUP(shoal_free_cleanup)
    float *values = shoal_calloc((size_t)TABLES * SHOAL_ARCHIVE_SYMBOLS, sizeof *values);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    if (!numbers || !table || !freq || !freqs || !values) {
        return SHOAL_E_NOMEM;
    }
    plan.freq = freq;
    plan.freqs = freqs;
    plan.values = values;
    group.analysis = numbers;
    group.synthesis = numbers;
    group.mean = numbers + n * n;
    group.step = group.mean + n;
    group.table = table;
    for (size_t c = 0; c < n_kept; c++) {
        double place = round(2 * log2(deviation(c, n))) + TABLE_FIRST;
        numbers[c * n + c] = 0.6F;
        numbers[c * n + (c ^ 1)] = c % 2 ? -0.8F : 0.8F;
        table[c] = (int32_t)fmin(fmax(place, 0), TABLES - 1);
        group.step[c] = 0.1F;
    }
    make_tables(&plan);
    SHOAL_TRY(shoal_archive_plan_write(&plan, &file, NULL));
    SHOAL_TRY(shoal_archive_open((const uint8_t *)file.data, file.length, &plan.model, &plan.shape,
                                 &ret->archive, NULL));
    SHOAL_TRY(shoal_archive_work_new(ret->archive, &ret->work));
    shoal_archive_group info = shoal_archive_group_at(ret->archive, 0);
    ret->pages = shoal_calloc_aligned(info.page_bytes, 1);
    ret->unit = shoal_calloc(info.unit_bytes, 1);
    if (!ret->pages || !ret->unit) {
        return SHOAL_E_NOMEM;
    }
    /* Keys lie channel by channel, values token by token. */
    uint64_t rng = 9;
    size_t per_head = 2 * head_dim * SHOAL_KV_BLOCK;
    for (size_t i = 0; i < n * SHOAL_KV_BLOCK; i++) {
        size_t in = i % per_head;
        size_t d = in < per_head / 2 ? in / SHOAL_KV_BLOCK : head_dim + in % head_dim;
        double width = deviation(i / per_head * 2 * head_dim + d, n) * 0.1;
        uint16_t half = shoal_f32_to_f16((float)(normal(&rng) * width));
        memcpy(ret->pages + 2 * i, &half, 2);
    }
    return SHOAL_OK;
}

static void run_encode(void *context)
{
    subject *s = context;
    s->ok = s->ok && shoal_archive_encode(s->archive, &s->kernels, s->work, 0, 64, s->pages,
                                          s->unit, &s->n) == SHOAL_OK;
}

static void run_decode(void *context)
{
    subject *s = context;
    s->ok = s->ok && shoal_archive_decode(s->archive, &s->kernels, s->work, 0, 64, s->unit, s->n,
                                          s->pages, NULL) == SHOAL_OK;
}

static bool bench(const bench_settings *settings, bench_report *report, size_t head_dim,
                  uint32_t mask)
{
    subject s = {.ok = true};
    shoal_kernels_init(&s.kernels, mask);
    if (make(head_dim, &s) == SHOAL_OK) {
        shoal_archive_group info = shoal_archive_group_at(s.archive, 0);
        char shape[64];
        run_encode(&s);
        (void)snprintf(shape, sizeof shape, "%zu of %zu, %.2f bits", info.n_kept, info.n_channels,
                       16 * (double)s.n / (double)info.page_bytes);
        bench_subject subjects[2] = {{.name = "archive_encode", .run = run_encode},
                                     {.name = "archive_decode", .run = run_decode}};
        for (size_t i = 0; i < 2; i++) {
            subjects[i].shape = shape;
            subjects[i].variant = s.kernels.tier;
            subjects[i].bytes = info.page_bytes;
            subjects[i].flops = 2 * (uint64_t)info.n_kept * info.n_channels * SHOAL_KV_BLOCK;
            subjects[i].context = &s;
            bench_result result = bench_measure(settings, &subjects[i]);
            bench_report_row(report, &subjects[i], &result);
        }
    } else {
        s.ok = false;
    }
    shoal_archive_free(s.archive);
    shoal_archive_work_free(s.work);
    shoal_free(s.pages);
    shoal_free(s.unit);
    return s.ok;
}

int main(int argc, char **argv)
{
    bool smoke = false;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        smoke = smoke || strcmp(argv[i], "--smoke") == 0;
        json = json || strcmp(argv[i], "--json") == 0;
        if (strcmp(argv[i], "--smoke") != 0 && strcmp(argv[i], "--json") != 0) {
            (void)fprintf(stderr, "usage: shoal-bench-archive [--smoke] [--json]\n");
            return 2;
        }
    }
    static const uint32_t masks[] = {SHOAL_CPU_AVX2, UINT32_MAX};
    static const size_t head_dims[] = {32, 64, 128};
    bench_settings settings = smoke ? bench_settings_smoke() : bench_settings_default();
    bench_report report = {0};
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, UINT32_MAX);
    bench_report_begin(&report, stdout, json, kernels.tier);
    bool ok = true;
    for (size_t i = 0; i < SHOAL_COUNT(head_dims) * SHOAL_COUNT(masks); i++) {
        ok = bench(&settings, &report, head_dims[i / 2], masks[i % 2]) && ok;
    }
    return bench_report_end(&report) == 0 && ok ? 0 : 1;
}
