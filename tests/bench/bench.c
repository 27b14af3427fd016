/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE_MAX_BYTES = 256
};

bench_settings bench_settings_default(void)
{
    return (bench_settings){
        .warmup_s = 0.05,
        .total_s = 0.5,
        .batch_s = 0.002,
        .n_repeats_min = 5,
        .n_repeats_max = 200,
    };
}

bench_settings bench_settings_smoke(void)
{
    return (bench_settings){.n_repeats_min = 1, .n_repeats_max = 1};
}

/* --- measuring --------------------------------------------------------------------------------
 */

static double thread_seconds(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double seconds_of(const bench_subject *subject, size_t n_runs)
{
    double start = thread_seconds();
    for (size_t i = 0; i < n_runs; i++) {
        subject->run(subject->context);
    }
    return thread_seconds() - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which a share of the sorted samples lies, between neighbours by proportion. */
static double quantile(const double *sorted, size_t n, double share)
{
    double at = share * (double)(n - 1);
    size_t low = (size_t)at;
    size_t high = low + 1 < n ? low + 1 : low;
    return sorted[low] + (at - (double)low) * (sorted[high] - sorted[low]);
}

bench_result bench_measure(const bench_settings *settings, const bench_subject *subject)
{
    double once = seconds_of(subject, 1);
    for (double spent = once; spent < settings->warmup_s; spent += once) {
        once = seconds_of(subject, 1);
    }
    double wanted = once > 0 ? settings->batch_s / once : 1e6;
    size_t n_runs = wanted < 1 ? 1 : wanted > 1e6 ? 1000000 : (size_t)wanted;
    double samples[BENCH_REPEATS_MAX];
    size_t most =
        settings->n_repeats_max < BENCH_REPEATS_MAX ? settings->n_repeats_max : BENCH_REPEATS_MAX;
    size_t n = 0;
    for (double spent = 0; n < most && (n < settings->n_repeats_min || spent < settings->total_s);
         n++) {
        double batch = seconds_of(subject, n_runs);
        samples[n] = batch / (double)n_runs;
        spent += batch;
    }
    qsort(samples, n, sizeof samples[0], by_value);
    return (bench_result){
        .median_s = quantile(samples, n, 0.5),
        .p10_s = quantile(samples, n, 0.1),
        .p90_s = quantile(samples, n, 0.9),
        .n_repeats = n,
        .n_runs = n_runs,
    };
}

/* --- reporting --------------------------------------------------------------------------------
 */

static void write_json_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            fputc('\\', out);
            fputc(c, out);
        } else if (c < 0x20) {
            fprintf(out, "\\u%04x", c);
        } else {
            fputc(c, out);
        }
    }
    fputc('"', out);
}

/* The processor's name as Linux knows it, "unknown" elsewhere. */
static void read_cpu_name(char name[LINE_MAX_BYTES])
{
    snprintf(name, LINE_MAX_BYTES, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    if (!file) {
        return;
    }
    char line[LINE_MAX_BYTES];
    while (fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon && colon[1] == ' ') {
            line[strcspn(line, "\n")] = '\0';
            snprintf(name, LINE_MAX_BYTES, "%s", colon + 2);
            break;
        }
    }
    fclose(file);
}

void bench_report_begin(bench_report *report, FILE *out, bool json, const char *variants)
{
    *report = (bench_report){.out = out, .json = json};
    char cpu[LINE_MAX_BYTES];
    read_cpu_name(cpu);
    long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!json) {
        fprintf(out, "machine: %s, %ld cpus; %s; tiers: %s\n", cpu, n_cpus, __VERSION__, variants);
        fprintf(out, "%-14s %-30s %-8s %11s %8s %8s %9s\n", "name", "shape", "tier", "median us",
                "spread", "GB/s", "GFLOP/s");
        return;
    }
    fputs("{\"machine\":{\"cpu\":", out);
    write_json_string(out, cpu);
    fprintf(out, ",\"n_cpus\":%ld,\"compiler\":", n_cpus);
    write_json_string(out, __VERSION__);
    fputs(",\"tiers\":", out);
    write_json_string(out, variants);
    fputs("},\"results\":[", out);
}

void bench_report_row(bench_report *report, const bench_subject *subject,
                      const bench_result *result)
{
    FILE *out = report->out;
    double median = result->median_s > 0 ? result->median_s : 1e-9;
    double gb_per_s = (double)subject->bytes / median * 1e-9;
    double gflop_per_s = (double)subject->flops / median * 1e-9;
    bool first = report->n_rows++ == 0;
    if (!report->json) {
        double spread = (result->p90_s - result->p10_s) / median * 100;
        fprintf(out, "%-14s %-30s %-8s %11.2f %7.1f%% %8.2f %9.2f\n", subject->name, subject->shape,
                subject->variant, median * 1e6, spread, gb_per_s, gflop_per_s);
        fflush(out);
        return;
    }
    fputs(first ? "\n{\"name\":" : ",\n{\"name\":", out);
    write_json_string(out, subject->name);
    fputs(",\"shape\":", out);
    write_json_string(out, subject->shape);
    fputs(",\"tier\":", out);
    write_json_string(out, subject->variant);
    fprintf(out,
            ",\"median_s\":%.9g,\"p10_s\":%.9g,\"p90_s\":%.9g,\"n_repeats\":%zu,\"n_runs\":%zu",
            result->median_s, result->p10_s, result->p90_s, result->n_repeats, result->n_runs);
    fprintf(out, ",\"bytes\":%llu,\"flops\":%llu,\"gb_per_s\":%.4g,\"gflop_per_s\":%.4g}",
            (unsigned long long)subject->bytes, (unsigned long long)subject->flops, gb_per_s,
            gflop_per_s);
}

int bench_report_end(bench_report *report)
{
    if (report->json) {
        fputs("\n]}\n", report->out);
    }
    return fflush(report->out) == 0 && !ferror(report->out) ? 0 : -1;
}
