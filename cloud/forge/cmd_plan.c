/* SPDX-License-Identifier: Apache-2.0
 *
 * `plan`: from reports of what `compress` made of a model, the configuration that keeps to so much
 * memory, time and quality: a report's own, or a size between several of one recipe by the law that
 * is fitted to them (scaling.h).
 */
#include "cloud/forge/plan.h"

#include "cloud/forge/forge.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ROWS = 512 /* of a step, as bench and the daemons have at most */
};

static const double MIB = 1048576.0;

#define AT(field) offsetof(forge_args, plan.field)

static const forge_option options[] = {
    {0, "ram", 0, FORGE_OPTION_REAL, AT(ram), 1e-3, 1e9, "MIB",
     "most memory: weights, KV of --ctx tokens and the program (default: any)"},
    {0, "ms", 0, FORGE_OPTION_REAL, AT(ms), 1e-6, 1e6, "MS",
     "longest a token takes (default: any)"},
    {0, "quality", 0, FORGE_OPTION_REAL, AT(quality), 1e-6, 1, "Q",
     "least quality, exp(-divergence) from the full model: 1 is as good (default: any)"},
};

const forge_own shoal_forge_plan_own = {
    .run = shoal_forge_plan,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2},
};

/* Reports of one recipe and one KV level. */
typedef struct family {
    const plan_report *first;
    double kv_mib;
    size_t n_points;
    bool lawful;
    forge_scaling_law law;
} family;

typedef struct planning {
    const forge_args *args;
    forge_session session;
    double other_mib; /* of the program: neither weights nor KV */
    plan_report *reports;
    size_t *family_of; /* of each report */
    size_t n_reports;
    family *families;
    size_t n_families;
    forge_scaling_point *points; /* of the family that is fitted */
    forge_choice *choices;
    size_t n_choices;
} planning;

static void planning_close(planning *p)
{
    shoal_forge_session_close(&p->session);
    shoal_free(p->reports);
    shoal_free(p->family_of);
    shoal_free(p->families);
    shoal_free(p->points);
    shoal_free(p->choices);
}

static double bits_of(const planning *p, double n_bytes)
{
    return 8 * n_bytes / (double)p->session.model->n_params;
}

static double bytes_of(const planning *p, double bits)
{
    return floor(bits * (double)p->session.model->n_params / 8);
}

/* --- memory ----------------------------------------------------------------------------------- */

/* What a program with this model takes besides its weights: the peak after some steps, KV that they
 * touched included, less the model's file. */
static shoal_status measure_other(planning *p, shoal_err *err)
{
    shoal_map map = {0};
    double ms = 0;
    double peak = 0;
    SHOAL_TRY(shoal_forge_session_open(p->args, ROWS, 1, 0, &p->session, err));
    SHOAL_TRY(shoal_forge_step_ms(&p->session, NULL, 0, &ms));
    SHOAL_TRY(shoal_forge_peak_mib(&peak, err));
    SHOAL_TRY(shoal_map_open(p->args->model, &map, err));
    p->other_mib = fmax(0, peak - (double)map.size / MIB);
    shoal_map_close(&map);
    return SHOAL_OK;
}

static shoal_status find_kv_mib(const planning *p, const plan_report *report, double *ret_mib,
                                shoal_err *err)
{
    shoal_kv_type type;
    bool hadamard = false;
    if (shoal_kv_type_parse(shoal_forge_kv_type(report->kv, &hadamard), &type) != 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED, "%s: KV %s has no size that plan knows",
                             report->path, report->kv);
    }
    shoal_kv_shape shape = shoal_model_kv_shape(&p->session.model->hp, type);
    size_t n_pages = shoal_kv_pages_for(&shape, ROWS, shoal_engine_n_ctx(p->session.engine));
    *ret_mib = (double)n_pages * (double)shoal_kv_page_bytes(&shape) / MIB;
    return SHOAL_OK;
}

/* --- reports ---------------------------------------------------------------------------------- */

static bool is_of(const plan_report *a, const plan_report *b)
{
    return strcmp(a->recipe, b->recipe) == 0 && strcmp(a->kv, b->kv) == 0;
}

static shoal_status add_report(planning *p, const char *path, shoal_err *err)
{
    char hex[SHOAL_HASH_HEX];
    plan_report *r = &p->reports[p->n_reports];
    SHOAL_TRY(shoal_forge_plan_read(path, r, err));
    shoal_hash_hex(&p->session.model->hash, hex);
    if (strcmp(hex, r->model) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH, "%s is of another model than %s", path,
                             p->args->model);
    }
    size_t f = 0;
    while (f < p->n_families && !is_of(p->families[f].first, r)) {
        f++;
    }
    if (f == p->n_families) {
        SHOAL_TRY(find_kv_mib(p, r, &p->families[f].kv_mib, err));
        p->families[p->n_families++].first = r;
    }
    p->family_of[p->n_reports++] = f;
    return SHOAL_OK;
}

static shoal_status read_reports(planning *p, shoal_err *err)
{
    size_t n = p->args->n_files;
    if (n < 1 || n > PLAN_REPORTS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%zu reports: plan takes 1 to %d, which compress --report has written",
                             n, (int)PLAN_REPORTS_MAX);
    }
    p->reports = shoal_calloc(n, sizeof *p->reports);
    p->family_of = shoal_calloc(n, sizeof *p->family_of);
    p->families = shoal_calloc(n, sizeof *p->families);
    p->points = shoal_calloc(n, sizeof *p->points);
    size_t n_choices = n * (FORGE_SCALING_STEPS + 2) * FORGE_SCALING_THREADS_MAX;
    p->choices = shoal_calloc(n_choices, sizeof *p->choices);
    if (!p->reports || !p->family_of || !p->families || !p->points || !p->choices) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu reports", n);
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(add_report(p, p->args->files[i], err));
    }
    return SHOAL_OK;
}

/* A token as it was measured; with other threads as the profile has it, as wrong as it was then. 0
 * where it is not known. */
static double ms_of(const plan_report *r, size_t thread_i)
{
    for (size_t i = 0; i < r->n_runs && thread_i < r->n_runs; i++) {
        if (r->threads[i] == r->measured_threads) {
            return r->ms[thread_i] * (r->measured_ms / r->ms[i]);
        }
    }
    return 0;
}

static bool same_threads(const plan_report *a, const plan_report *b)
{
    return a->n_runs == b->n_runs && memcmp(a->threads, b->threads, sizeof a->threads) == 0;
}

/* --- choices ---------------------------------------------------------------------------------- */

static void add_choice(planning *p, forge_choice c)
{
    const family *f = &p->families[c.family];
    c.ram_mib = bytes_of(p, c.bits) / MIB + f->kv_mib + p->other_mib;
    p->choices[p->n_choices++] = c;
}

static void add_reported(planning *p, size_t report_i)
{
    const plan_report *r = &p->reports[report_i];
    for (size_t t = 0; t < SHOAL_MAX(r->n_runs, (size_t)1); t++) {
        add_choice(p, (forge_choice){.family = p->family_of[report_i],
                                     .report = report_i,
                                     .thread_i = t,
                                     .bits = bits_of(p, (double)r->n_bytes),
                                     .ms = ms_of(r, t),
                                     .quality = exp(-r->loss)});
    }
}

static void fit_family(planning *p, size_t family_i)
{
    family *f = &p->families[family_i];
    forge_scaling_point *points = p->points;
    size_t n = 0;
    for (size_t i = 0; i < p->n_reports; i++) {
        const plan_report *r = &p->reports[i];
        if (p->family_of[i] != family_i || !r->sized) {
            continue;
        }
        points[n] = (forge_scaling_point){.bits = bits_of(p, (double)r->n_bytes), .loss = r->loss};
        for (size_t t = 0; same_threads(r, f->first) && t < r->n_runs; t++) {
            points[n].ms[t] = ms_of(r, t);
        }
        n++;
    }
    f->n_points = n;
    f->lawful = shoal_forge_scaling_fit(points, n, f->first->n_runs, &f->law);
    for (size_t s = 0; f->lawful && s <= FORGE_SCALING_STEPS; s++) {
        double share = (double)s / FORGE_SCALING_STEPS;
        double bits = f->law.bits_min + share * (f->law.bits_max - f->law.bits_min);
        for (size_t t = 0; t < SHOAL_MAX(f->first->n_runs, (size_t)1); t++) {
            double ms = t < f->first->n_runs ? shoal_forge_scaling_ms(&f->law, t, bits) : 0;
            add_choice(p, (forge_choice){.family = family_i,
                                         .report = SIZE_MAX,
                                         .thread_i = t,
                                         .bits = bits,
                                         .ms = ms,
                                         .quality = exp(-shoal_forge_scaling_loss(&f->law, bits))});
        }
    }
}

/* --- what is told ----------------------------------------------------------------------------- */

static const plan_report *report_of(const planning *p, const forge_choice *c)
{
    return c->report < p->n_reports ? &p->reports[c->report] : p->families[c->family].first;
}

static size_t threads_of(const planning *p, const forge_choice *c)
{
    const plan_report *r = report_of(p, c);
    return r->n_runs > 0 ? r->threads[c->thread_i] : (size_t)p->args->threads;
}

static shoal_status put_laws(const planning *p, shoal_buf *out)
{
    bool first = true;
    SHOAL_TRY(shoal_buf_appendf(out, ",\n \"laws\": ["));
    for (size_t i = 0; i < p->n_families; i++) {
        const family *f = &p->families[i];
        if (!f->lawful) {
            continue;
        }
        SHOAL_TRY(shoal_buf_appendf(out, "%s\n  {\"recipe\": ", first ? "" : ","));
        SHOAL_TRY(shoal_forge_json_string(out, f->first->recipe, strlen(f->first->recipe)));
        SHOAL_TRY(shoal_buf_appendf(
            out,
            ", \"kv\": \"%s\", \"points\": %zu, \"log_c\": %.9g, \"gamma\": %.9g, "
            "\"spread\": %.9g, \"bits_min\": %.9g, \"bits_max\": %.9g}",
            f->first->kv, f->n_points, f->law.log_c, f->law.gamma, f->law.spread, f->law.bits_min,
            f->law.bits_max));
        first = false;
    }
    return shoal_buf_appendf(out, "]}\n");
}

static shoal_status put_json(const planning *p, const forge_choice *c, bool meets, shoal_buf *out)
{
    const plan_report *r = report_of(p, c);
    SHOAL_TRY(shoal_buf_appendf(out, "{\"meets\": %s, \"recipe\": ", meets ? "true" : "false"));
    SHOAL_TRY(shoal_forge_json_string(out, r->recipe, strlen(r->recipe)));
    SHOAL_TRY(shoal_buf_appendf(out, ", \"report\": "));
    SHOAL_TRY(c->report < p->n_reports ? shoal_forge_json_string(out, r->path, strlen(r->path))
                                       : shoal_buf_appendf(out, "null"));
    SHOAL_TRY(shoal_buf_appendf(out,
                                ", \"bits\": %.9g, \"bytes\": %.0f, \"kv\": \"%s\", \"threads\": "
                                "%zu, \"ram_mib\": %.9g, \"quality\": %.9g, \"ms\": ",
                                c->bits, bytes_of(p, c->bits), r->kv, threads_of(p, c), c->ram_mib,
                                c->quality));
    SHOAL_TRY(c->ms > 0 ? shoal_buf_appendf(out, "%.9g", c->ms) : shoal_buf_appendf(out, "null"));
    return put_laws(p, out);
}

static shoal_status put_text(const planning *p, const forge_choice *c, bool meets, shoal_buf *out)
{
    const plan_report *r = report_of(p, c);
    bool made = c->report < p->n_reports;
    SHOAL_TRY(shoal_buf_appendf(out, "%s%s at %.3f bits a weight, %.0f bytes; KV %s, %zu threads\n",
                                meets ? "" : "nothing meets all; nearest: ", r->recipe, c->bits,
                                bytes_of(p, c->bits), r->kv, threads_of(p, c)));
    SHOAL_TRY(shoal_buf_appendf(out, "  memory %.1f MiB, quality %.4f", c->ram_mib, c->quality));
    SHOAL_TRY(c->ms > 0 ? shoal_buf_appendf(out, ", %.4g ms a token", c->ms) : SHOAL_OK);
    return made
               ? shoal_buf_appendf(out, "; as %s tells\n", r->path)
               : shoal_buf_appendf(out,
                                   "; between reports, by the law\n  make it: shoal-forge compress "
                                   "-m %s -r %s -c CALIBRATION --target-bytes %.0f -t %zu --kv %s "
                                   "-o OUT\n",
                                   p->args->model, r->recipe, bytes_of(p, c->bits),
                                   threads_of(p, c), r->kv);
}

static shoal_status tell(const planning *p, const forge_limits *limits, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    bool meets = false;
    size_t best = shoal_forge_choose(p->choices, p->n_choices, limits, &meets);
    const forge_choice *c = &p->choices[best];
    double miss = shoal_forge_choice_miss(c, limits);
    SHOAL_TRY(p->args->json ? put_json(p, c, meets, &out) : put_text(p, c, meets, &out));
    SHOAL_TRY(shoal_forge_print(&out, err));
    if (!meets && isinf(miss)) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "no report tells how long a token takes: run compress with --profile");
    }
    return meets ? SHOAL_OK
                 : shoal_err_set(err, SHOAL_E_LIMIT,
                                 "nothing that these reports tell of meets the limits: the nearest "
                                 "misses one by %.3g%%",
                                 100 * miss);
}

shoal_status shoal_forge_plan(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(planning_close) planning p = {.args = args};
    const forge_limits limits = {
        .ram_mib = args->plan.ram, .ms = args->plan.ms, .quality = args->plan.quality};
    SHOAL_TRY(measure_other(&p, err));
    SHOAL_TRY(read_reports(&p, err));
    for (size_t i = 0; i < p.n_reports; i++) {
        add_reported(&p, i);
    }
    for (size_t i = 0; i < p.n_families; i++) {
        fit_family(&p, i);
    }
    return tell(&p, &limits, err);
}
