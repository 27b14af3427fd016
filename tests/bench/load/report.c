/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/report.h"

#include <inttypes.h>
#include <math.h>

/* Milliseconds; negative numbers stand for "no sample", so that a row has numbers only. */
static double ms(load_samples *samples, double share)
{
    double value = load_samples_quantile(samples, share);
    return isnan(value) ? -1.0 : 1000 * value;
}

static double per_second(double n, double seconds)
{
    return seconds > 0 ? n / seconds : 0;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static double offered(const load_plan *plan)
{
    size_t n_at_once = plan->width > 0 ? plan->width : plan->n_sessions;
    return plan->rate > 0 ? plan->rate : (double)n_at_once;
}

static size_t n_failed(const load_result *result)
{
    return load_result_n_bad(result) - result->n_wrong;
}

static double compute_s(const load_result *result)
{
    return (double)result->node_compute_us / 1e6;
}

void load_report_header(FILE *out)
{
    (void)fputs(
        "# offered: sessions a second, or at once; goodput: tokens a second, in the window, of\n"
        "# sessions that ended whole; first: from the scheduled arrival, ms; gap: between\n"
        "# deliveries of one session, ms; token: ms a token, over sessions; refusal: to\n"
        "# RESOURCE_EXHAUSTED, ms, 99 %; late: how late we began, ms, 99 %; judged: right drafts\n"
        "# of those judged; tok/comp: tokens a second of the node's compute, prompts included;\n"
        "# own: processor seconds of this program a second. -1: no sample\n",
        out);
    (void)fprintf(out,
                  "%-12s %8s %7s %7s %7s %6s %6s %9s %8s %8s %8s %8s %8s %8s %8s %7s %6s %9s %6s\n",
                  "label", "offered", "arrived", "ok", "refused", "failed", "wrong", "goodput",
                  "first50", "first99", "gap50", "gap99", "token50", "token99", "refusal", "late",
                  "judged", "tok/comp", "own");
}

void load_report_row(FILE *out, const char *label, const load_plan *plan, load_result *result)
{
    (void)fprintf(out,
                  "%-12s %8.1f %7zu %7zu %7zu %6zu %6zu %9.1f %8.2f %8.2f %8.2f %8.2f %8.2f %8.2f "
                  "%8.2f %7.2f %6.3f %9.1f %6.3f\n",
                  label, offered(plan), result->n_arrived, result->n_ok,
                  result->n_refused + result->n_shed, n_failed(result), result->n_wrong,
                  per_second((double)result->n_tokens, result->window_s), ms(&result->first, 0.5),
                  ms(&result->first, 0.99), ms(&result->gap, 0.5), ms(&result->gap, 0.99),
                  ms(&result->token, 0.5), ms(&result->token, 0.99), ms(&result->refusal, 0.99),
                  ms(&result->late, 0.99),
                  ratio((double)result->n_accepted, (double)result->n_drafted),
                  per_second((double)result->n_tokens_ok, compute_s(result)),
                  per_second(result->own_cpu_s, result->wall_s));
    (void)fflush(out);
}

static void json_quantiles(FILE *out, const char *name, load_samples *samples)
{
    (void)fprintf(out, ",\"%s_ms\":", name);
    if (samples->n == 0) {
        (void)fputs("null", out);
        return;
    }
    (void)fprintf(out, "{\"n\":%zu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}",
                  samples->n, ms(samples, 0.5), ms(samples, 0.9), ms(samples, 0.99),
                  ms(samples, 1));
}

static void json_tenants(FILE *out, const load_plan *plan, const load_result *result)
{
    (void)fputs(",\"tenants\":[", out);
    for (size_t t = 0; t < plan->n_tenants; t++) {
        const load_tenant_result *tenant = &result->tenants[t];
        (void)fprintf(out, "%s{\"share\":%.4f,\"arrived\":%zu,\"ok\":%zu,\"tokens\":%zu}",
                      t > 0 ? "," : "", plan->shares[t], tenant->n_arrived, tenant->n_ok,
                      tenant->n_tokens);
    }
    (void)fputc(']', out);
}

void load_report_json(FILE *out, const char *label, const load_plan *plan, load_result *result)
{
    (void)fprintf(out,
                  "{\"label\":\"%s\",\"mode\":\"%s\",\"span\":%zu,\"ahead\":%zu,\"accept\":%.3f,"
                  "\"rate\":%.3f,\"sessions\":%zu",
                  label, shoal_mode_name(plan->edge.mode), plan->edge.span, plan->edge.ahead,
                  plan->edge.accept, plan->rate, plan->n_sessions);
    (void)fprintf(out,
                  ",\"arrived\":%zu,\"ok\":%zu,\"refused\":%zu,\"shed\":%zu,\"vanished\":%zu,"
                  "\"failed\":%zu,\"unfinished\":%zu,\"wrong\":%zu,\"broken\":%zu,\"cut\":%zu,"
                  "\"lost_mails\":%zu,\"open_max\":%zu",
                  result->n_arrived, result->n_ok, result->n_refused, result->n_shed,
                  result->n_vanished, n_failed(result), result->n_unfinished, result->n_wrong,
                  result->n_broken, result->n_cut, result->n_lost_mails, result->n_open_max);
    (void)fprintf(
        out,
        ",\"goodput\":%.2f,\"tokens\":%zu,\"tokens_ok\":%zu,\"window_s\":%.3f,\"wall_s\":%.3f,"
        "\"drafted\":%zu,\"accepted\":%zu,\"rounds\":%zu",
        per_second((double)result->n_tokens, result->window_s), result->n_tokens_all,
        result->n_tokens_ok, result->window_s, result->wall_s, result->n_drafted,
        result->n_accepted, result->n_rounds);
    (void)fprintf(out,
                  ",\"node_verified\":%" PRIu64 ",\"node_generated\":%" PRIu64
                  ",\"node_cached\":%" PRIu64 ",\"node_compute_s\":%.6f,\"own_cpu_s\":%.3f",
                  result->node_verified, result->node_generated, result->node_cached,
                  compute_s(result), result->own_cpu_s);
    json_quantiles(out, "first", &result->first);
    json_quantiles(out, "gap", &result->gap);
    json_quantiles(out, "token", &result->token);
    json_quantiles(out, "refusal", &result->refusal);
    json_quantiles(out, "late", &result->late);
    json_tenants(out, plan, result);
    (void)fputs("}\n", out);
    (void)fflush(out);
}

void load_report_bad(FILE *out, const load_result *result)
{
    if (load_result_n_bad(result) > 0) {
        (void)fprintf(out,
                      "%zu wrong, %zu broken, %zu unfinished, %zu failed otherwise; first: %s\n",
                      result->n_wrong, result->n_broken, result->n_unfinished,
                      n_failed(result) - result->n_broken - result->n_unfinished, result->why);
    }
}
