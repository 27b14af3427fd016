/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-bench-kernels: every slot of every tier of this machine, first compared with scalar bit by
 * bit, then timed. Matrices are taken once larger than the caches (what decoding meets) and once
 * inside them (what the arithmetic can do).
 */
#include "tests/bench/kernels.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    MIB_DEFAULT = 96,
    MIB_MAX = 4096
};

bool bench_wants(const bench *b, const char *slot)
{
    return !b->slot || strstr(slot, b->slot);
}

void *bench_allocate(size_t n, size_t size)
{
    void *p = shoal_calloc_huge(n, size);
    if (!p) {
        fprintf(stderr, "shoal-bench-kernels: no memory for %zu bytes, see --mib\n", n * size);
        exit(2);
    }
    return p;
}

float *bench_random_row(bench *b, size_t n)
{
    float *x = bench_allocate(n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)(shoal_rng_next(&b->rng) >> 11) * 0x1p-52 - 1.0);
    }
    return x;
}

/* Runs the work once in both tiers from the same start and compares every byte. */
static bool is_same(const bench *b, const bench_work *w, const shoal_kernels *tier)
{
    uint8_t *start = bench_allocate(w->out_bytes, 1);
    uint8_t *expected = bench_allocate(w->out_bytes, 1);
    memcpy(start, w->out, w->out_bytes);
    w->run(&(bench_job){&b->scalar, w->operands});
    memcpy(expected, w->out, w->out_bytes);
    memcpy(w->out, start, w->out_bytes);
    w->run(&(bench_job){tier, w->operands});
    bool same = memcmp(expected, w->out, w->out_bytes) == 0;
    memcpy(w->out, start, w->out_bytes);
    shoal_free(start);
    shoal_free(expected);
    return same;
}

double bench_time_tier(bench *b, const bench_work *w, const shoal_kernels *tier)
{
    bench_subject subject = {
        .name = w->slot,
        .shape = w->shape,
        .variant = tier->tier,
        .bytes = w->bytes,
        .flops = w->flops,
        .run = w->run,
        .context = &(bench_job){tier, w->operands},
    };
    bench_result result = bench_measure(&b->settings, &subject);
    bench_report_row(&b->report, &subject, &result);
    return result.median_s;
}

void bench_check_tier(bench *b, const bench_work *w, const shoal_kernels *tier)
{
    if (!is_same(b, w, tier)) {
        fprintf(stderr, "shoal-bench-kernels: %s of %s, %s: bits differ from scalar\n", w->slot,
                tier->tier, w->shape);
        b->n_different++;
    }
}

void bench_all_tiers(bench *b, const bench_work *w)
{
    for (size_t i = 0; i < b->n_tiers; i++) {
        bench_check_tier(b, w, &b->tiers[i]);
        (void)bench_time_tier(b, w, &b->tiers[i]);
    }
}

/* --- the program ------------------------------------------------------------------------------ */

static void add_tier(bench *b, uint32_t mask, char *names, size_t size)
{
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, mask);
    size_t length = strlen(names);
    snprintf(names + length, size - length, "%s%s", length ? " " : "", kernels.tier);
    if (!b->tier || strcmp(b->tier, kernels.tier) == 0) {
        b->tiers[b->n_tiers++] = kernels;
    }
}

/* A whole number of MiB within bounds, 0 for anything else. */
static size_t parse_mib(const char *text)
{
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    return errno || end == text || *end || text[0] == '-' || value > MIB_MAX ? 0 : value;
}

static int usage(FILE *out)
{
    fprintf(
        out,
        "usage: shoal-bench-kernels [--json] [--smoke] [--slot TEXT] [--tier NAME] [--mib N]\n"
        "  --json       one JSON object instead of a table\n"
        "  --smoke      one run of everything on small matrices: proves that it works\n"
        "  --slot TEXT  only slots whose name holds TEXT (gemm, attend_f16)\n"
        "  --tier NAME  only this tier (scalar, avx2, avx512, neon, neon-dotprod, neon-i8mm)\n"
        "  --mib N      size of the large matrices, 1 to %d MiB (%d); more than the last cache\n"
        "Exit status: 0; 1 when a tier's bits differ from scalar; 2 for anything else.\n",
        MIB_MAX, MIB_DEFAULT);
    return out == stdout ? 0 : 2;
}

static int run_all(bench *b, bool json)
{
    char names[64] = "";
    shoal_kernels_init(&b->scalar, 0);
    add_tier(b, 0, names, sizeof names);
    if (shoal_cpu_detect() & SHOAL_CPU_AVX2) {
        add_tier(b, SHOAL_CPU_AVX2, names, sizeof names);
    }
    if (shoal_cpu_detect() & SHOAL_CPU_AVX512) {
        add_tier(b, SHOAL_CPU_AVX2 | SHOAL_CPU_AVX512, names, sizeof names);
    }
    static const uint32_t neon[] = {SHOAL_CPU_NEON, SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD,
                                    SHOAL_CPU_NEON | SHOAL_CPU_DOTPROD | SHOAL_CPU_I8MM};
    for (size_t i = 0; i < sizeof neon / sizeof neon[0]; i++) {
        if ((shoal_cpu_detect() & neon[i]) == neon[i]) {
            add_tier(b, neon[i], names, sizeof names);
        }
    }
    if (b->n_tiers == 0) {
        fprintf(stderr, "shoal-bench-kernels: no tier %s here, there are: %s\n", b->tier, names);
        return 2;
    }
    bench_report_begin(&b->report, stdout, json, names);
    bench_products(b);
    bench_firing(b);
    bench_bitmaps(b);
    bench_sides(b);
    bench_whole(b);
    bench_attentions(b);
    bench_seals(b);
    bench_rows(b);
    if (bench_report_end(&b->report) < 0) {
        return 2;
    }
    return b->n_different ? 1 : 0;
}

int main(int argc, char **argv)
{
    static bench b;
    b.settings = bench_settings_default();
    b.matrix_bytes = (size_t)MIB_DEFAULT << 20;
    b.rng = 20261124;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--smoke") == 0) {
            b.settings = bench_settings_smoke();
            b.matrix_bytes = BENCH_CACHED_BYTES;
        } else if (strcmp(argv[i], "--slot") == 0 && has_value) {
            b.slot = argv[++i];
        } else if (strcmp(argv[i], "--tier") == 0 && has_value) {
            b.tier = argv[++i];
        } else if (strcmp(argv[i], "--mib") == 0 && has_value) {
            b.matrix_bytes = parse_mib(argv[++i]) << 20;
        } else if (strcmp(argv[i], "--help") == 0) {
            return usage(stdout);
        } else {
            return usage(stderr);
        }
    }
    return b.matrix_bytes == 0 ? usage(stderr) : run_all(&b, json);
}
