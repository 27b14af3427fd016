/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/bench.h"

#include "common/machine/about.h"

#include <unistd.h>

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

bench_result bench_measure(const bench_settings *settings, const bench_subject *subject)
{
    return shoal_timing_measure(settings, subject->run, subject->context);
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

void bench_report_begin(bench_report *report, FILE *out, bool json, const char *variants)
{
    *report = (bench_report){.out = out, .json = json};
    char cpu[SHOAL_MACHINE_NAME_MAX];
    shoal_machine_cpu_name(cpu);
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
