/* SPDX-License-Identifier: Apache-2.0
 *
 * `compress`: puts the matrices of a model through the passes of common/compress as a recipe says,
 * layer by layer, and writes the model that they make. What is finished is kept in a directory
 * beside the output until the end, so that a run that was cut off goes on where it stood.
 */
#include "cloud/forge/compress_structure.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BAR = 20,
    SHOW_TERMINAL_MS = 200,
    SHOW_MS = 10000,
    TOKENS_DEFAULT = 4096,
    ALONG_DEFAULT = 8192
};

static const double SECONDS_MAX = 1e6; /* of one product: what nanoseconds are counted up to */

#define AT(field) offsetof(forge_args, compress.field)

static const forge_option options[] = {
    {0, "recipe", 'r', FORGE_OPTION_TEXT, AT(recipe), 0, 0, "FILE",
     "what is to become of which matrix, YAML (required)"},
    {0, "calibration", 'c', FORGE_OPTION_TEXT, AT(moments), 0, 0, "FILE",
     "what calibrate-weights has made of this model (required)"},
    {0, "target-bytes", 0, FORGE_OPTION_INT, AT(target_bytes), 1, 1L << 46, "N",
     "most bytes of the file: forms are chosen for the least sum of errors"},
    {0, "target-ms", 0, FORGE_OPTION_REAL, AT(target_ms), 1e-6, 1e6, "MS",
     "longest that a token may take by --profile: forms are chosen for the least sum of errors"},
    {0, "profile", 0, FORGE_OPTION_TEXT, AT(profile), 0, 0, "FILE",
     "what device has made of this machine: tells how long a token takes"},
    {0, "along", 0, FORGE_OPTION_TEXT, AT(along), 0, 0, "FILE",
     "a text along which gradients are taken, for a structure that goes by gradient"},
    {0, "along-tokens", 0, FORGE_OPTION_INT, AT(along_tokens), 2, 1 << 24, "N",
     "tokens of it at most (default 8192)"},
    {0, "report", 0, FORGE_OPTION_TEXT, AT(report), 0, 0, "DIR",
     "write report.json and report.html there"},
    {0, "text", 0, FORGE_OPTION_TEXT, AT(text), 0, 0, "FILE",
     "a text along which both models are compared, for the report"},
    {0, "tokens", 0, FORGE_OPTION_INT, AT(tokens), 2, 1 << 24, "N",
     "tokens of the text that are judged (default 4096)"},
};

const forge_own shoal_forge_compress_own = {
    .run = shoal_forge_compress,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2,
                 .compress = {.tokens = TOKENS_DEFAULT, .along_tokens = ALONG_DEFAULT}},
};

/* --- progress --------------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

/* How much longer a pass takes than one product with the moments, about. */
static double effort(const forge_recipe_form *form)
{
    if (form->keep) {
        return 0;
    }
    if (form->typed) {
        return 1;
    }
    bool tries = form->pass == SHOAL_PASS_JOINT || form->pass == SHOAL_PASS_AWQ ||
                 form->pass == SHOAL_PASS_SMOOTH;
    return tries ? 30 : 3;
}

static double cost_of(const compress_job *job, const forge_recipe_form *form)
{
    double k = (double)job->k;
    return effort(form) * k * k * ((double)job->n_rows + k / 3);
}

static double cost_of_all(const compress_job *job)
{
    double sum = 0;
    for (size_t i = 0; i < job->n_forms; i++) {
        sum += cost_of(job, &job->forms[i]);
    }
    return sum;
}

static void draw(const compress_run *run, const char *what, bool terminal, double seconds)
{
    double share = run->cost_all > 0 ? run->cost_done / run->cost_all : 1;
    double fresh = run->cost_done - run->cost_begun_with;
    char bar[BAR + 1] = "";
    for (size_t i = 0; i < BAR; i++) {
        bar[i] = (double)i < share * BAR ? '=' : '.';
    }
    (void)fprintf(stderr, "%scompress: %s%s%s%s %zu of %zu matrices", terminal ? "\r" : "",
                  terminal ? "[" : "", terminal ? bar : "", terminal ? "] " : "", what, run->n_done,
                  run->n_jobs);
    if (fresh > 0) {
        (void)fprintf(stderr, ", %.0f s left", seconds / fresh * (run->cost_all - run->cost_done));
    }
    (void)fprintf(stderr, "%s", terminal ? "\033[K" : "\n");
}

/* A job has been done, now or by an earlier run. */
static void show(compress_run *run, const char *what, double cost, bool fresh)
{
    (void)pthread_mutex_lock(&run->lock);
    uint64_t now = now_ms();
    bool terminal = isatty(STDERR_FILENO) == 1;
    run->n_done++;
    run->cost_done += cost;
    run->cost_begun_with += fresh ? 0 : cost;
    bool last = run->n_done == run->n_jobs;
    if (now - run->shown_ms >= (uint64_t)(terminal ? SHOW_TERMINAL_MS : SHOW_MS) || last) {
        run->shown_ms = now;
        draw(run, what, terminal, (double)(now - run->begin_ms) * 1e-3);
        if (terminal && last) {
            (void)fputc('\n', stderr);
        }
    }
    (void)pthread_mutex_unlock(&run->lock);
}

static void begin_stage(compress_run *run)
{
    run->cost_done = 0;
    run->cost_all = 0;
    run->cost_begun_with = 0;
    run->n_done = 0;
    run->begin_ms = now_ms();
    run->shown_ms = run->begin_ms;
}

/* --- stages ----------------------------------------------------------------------------------- */

/* The first error in the order of jobs; which job ran into it first does not matter. */
static shoal_status first_error(const compress_run *run, shoal_err *err)
{
    for (size_t i = 0; i < run->n_jobs; i++) {
        const compress_job *job = &run->jobs[i];
        if (job->status != SHOAL_OK) {
            return shoal_err_set(err, job->status, "%.*s: %s", (int)job->tensor->name.length,
                                 job->tensor->name.data,
                                 job->err.text[0] ? job->err.text : shoal_status_text(job->status));
        }
    }
    return SHOAL_OK;
}

static bool has_choice(const compress_run *run, const compress_job *job)
{
    return job->n_forms > 1 || run->target_bytes > 0 || run->target_ms > 0 ||
           job->limit != UINT64_MAX;
}

static void measure_part(void *ctx, size_t part_i, size_t worker_i)
{
    compress_run *run = ctx;
    compress_job *job = &run->jobs[part_i];
    (void)worker_i;
    if (!has_choice(run, job)) {
        show(run, "measured", 0, false);
        return;
    }
    bool found = shoal_forge_work_find_points(run, job);
    if (!found) {
        job->status = shoal_forge_compress_measure(job, &job->err);
        if (job->status == SHOAL_OK) {
            job->status = shoal_forge_work_put_points(run, job, &job->err);
        }
    }
    show(run, "measured", cost_of_all(job), !found);
}

static shoal_status measure(compress_run *run, shoal_err *err)
{
    bool any = false;
    begin_stage(run);
    for (size_t i = 0; i < run->n_jobs; i++) {
        bool choice = has_choice(run, &run->jobs[i]);
        any = any || choice;
        run->cost_all += choice ? cost_of_all(&run->jobs[i]) : 0;
    }
    if (any) {
        shoal_pool_run(run->pool, measure_part, run, run->n_jobs);
    }
    return first_error(run, err);
}

static void make_part(void *ctx, size_t part_i, size_t worker_i)
{
    compress_run *run = ctx;
    compress_job *job = &run->jobs[part_i];
    SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
    (void)worker_i;
    bool keep = job->forms[job->chosen].keep;
    bool found = !keep && shoal_forge_work_find_layer(run, job, &stored);
    if (!found) {
        job->status = shoal_forge_compress_make(job, &stored, &job->err);
        if (job->status == SHOAL_OK && !keep) {
            job->status = shoal_forge_work_put_layer(run, job, &stored, &job->err);
        }
    }
    (void)pthread_mutex_lock(&run->lock);
    run->n_resumed += found ? 1 : 0;
    (void)pthread_mutex_unlock(&run->lock);
    show(run, "made", cost_of(job, &job->forms[job->chosen]), !found);
}

static shoal_status make(compress_run *run, shoal_err *err)
{
    begin_stage(run);
    for (size_t i = 0; i < run->n_jobs; i++) {
        run->cost_all += cost_of(&run->jobs[i], &run->jobs[i].forms[run->jobs[i].chosen]);
    }
    shoal_pool_run(run->pool, make_part, run, run->n_jobs);
    return first_error(run, err);
}

/* --- choosing --------------------------------------------------------------------------------- */

/* The form of least error that the rule allows. */
static shoal_status choose_best(compress_job *job, shoal_err *err)
{
    size_t best = SIZE_MAX;
    size_t least = 0;
    for (size_t i = 0; i < job->n_forms; i++) {
        const compress_point *p = &job->points[i];
        const compress_point *b = &job->points[best == SIZE_MAX ? i : best];
        bool better = best == SIZE_MAX || p->error < b->error ||
                      (p->error <= b->error && p->bytes < b->bytes);
        best = p->bytes <= job->limit && better ? i : best;
        least = p->bytes < job->points[least].bytes ? i : least;
    }
    if (best == SIZE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%.*s: no form of rule %s has %llu bytes or less, the smallest has "
                             "%llu: raise its within_...",
                             (int)job->tensor->name.length, job->tensor->name.data, job->rule->name,
                             (unsigned long long)job->limit,
                             (unsigned long long)job->points[least].bytes);
    }
    job->chosen = best;
    return SHOAL_OK;
}

/* Points that each rule allows, and where they stand among all forms of the job. */
typedef struct allocating {
    shoal_allocate_layer *layers;
    shoal_allocate_point *points; /* (n_jobs, FORGE_RECIPE_FORMS_MAX) */
    size_t *forms;                /* as points */
    size_t *choices;
    uint64_t least; /* of all layers together, in bytes or nanoseconds */
} allocating;

static void allocating_fini(allocating *a)
{
    shoal_free(a->layers);
    shoal_free(a->points);
    shoal_free(a->forms);
    shoal_free(a->choices);
}

/* What a form takes of the budget: bytes of the file, or nanoseconds of a token. */
static shoal_status price_of(const compress_run *run, const compress_job *job, size_t form_i,
                             uint64_t *ret_price, shoal_err *err)
{
    double seconds = 0;
    if (run->target_bytes > 0) {
        *ret_price = job->points[form_i].file_bytes;
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_forge_compress_form_seconds(run, run->rates, job, form_i, 0, &seconds, err));
    *ret_price = (uint64_t)ceil(fmin(seconds, SECONDS_MAX) * 1e9);
    return SHOAL_OK;
}

static shoal_status list_points(compress_run *run, allocating *a, shoal_err *err)
{
    for (size_t i = 0; i < run->n_jobs; i++) {
        compress_job *job = &run->jobs[i];
        size_t at = i * FORGE_RECIPE_FORMS_MAX;
        size_t n = 0;
        uint64_t least = UINT64_MAX;
        SHOAL_TRY(choose_best(job, err)); /* at least one form is allowed */
        for (size_t f = 0; f < job->n_forms; f++) {
            uint64_t price = 0;
            if (job->points[f].bytes > job->limit) {
                continue;
            }
            SHOAL_TRY(price_of(run, job, f, &price, err));
            a->points[at + n] =
                (shoal_allocate_point){.bytes = price, .error = job->points[f].error};
            a->forms[at + n++] = f;
            least = SHOAL_MIN(least, price);
        }
        a->least += least;
        a->layers[i] = (shoal_allocate_layer){
            .points = a->points + at, .n_points = n, .weight = job->rule->sensitivity};
    }
    return SHOAL_OK;
}

static shoal_status find_budget(compress_run *run, const allocating *a, uint64_t *ret_budget,
                                shoal_err *err)
{
    uint64_t fixed = 0;
    double besides = 0;
    if (run->target_bytes > 0) {
        SHOAL_TRY(shoal_forge_compress_fixed_bytes(run, &fixed, err));
        if (run->target_bytes < fixed || run->target_bytes - fixed < a->least) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "--target-bytes %llu, of which %llu are what no rule takes: the "
                                 "smallest forms take %llu",
                                 (unsigned long long)run->target_bytes, (unsigned long long)fixed,
                                 (unsigned long long)a->least);
        }
        *ret_budget = run->target_bytes - fixed;
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_forge_compress_besides_ms(run, run->rates, &besides, err));
    double budget = floor((run->target_ms - besides) * 1e6);
    if (budget < (double)a->least) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "--target-ms %g, of which %.4g are what no rule takes: the fastest "
                             "forms take %.4g",
                             run->target_ms, besides, (double)a->least * 1e-6);
    }
    *ret_budget = (uint64_t)fmin(budget, SECONDS_MAX * 1e9);
    return SHOAL_OK;
}

static shoal_status allocate(compress_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(allocating_fini) allocating a = {0};
    size_t n = run->n_jobs * FORGE_RECIPE_FORMS_MAX;
    uint64_t budget = 0;
    a.layers = shoal_calloc(run->n_jobs, sizeof *a.layers);
    a.points = shoal_calloc(n, sizeof *a.points);
    a.forms = shoal_calloc(n, sizeof *a.forms);
    a.choices = shoal_calloc(run->n_jobs, sizeof *a.choices);
    if (!a.layers || !a.points || !a.forms || !a.choices) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the forms of %zu layers",
                             run->n_jobs);
    }
    SHOAL_TRY(list_points(run, &a, err));
    SHOAL_TRY(find_budget(run, &a, &budget, err));
    SHOAL_TRY(shoal_allocate(a.layers, run->n_jobs, budget, a.choices, &run->allocation, err));
    for (size_t i = 0; i < run->n_jobs; i++) {
        run->jobs[i].chosen = a.forms[i * FORGE_RECIPE_FORMS_MAX + a.choices[i]];
    }
    return SHOAL_OK;
}

static shoal_status choose(compress_run *run, shoal_err *err)
{
    if (run->target_bytes > 0 || run->target_ms > 0) {
        return allocate(run, err);
    }
    for (size_t i = 0; i < run->n_jobs; i++) {
        if (has_choice(run, &run->jobs[i])) {
            SHOAL_TRY(choose_best(&run->jobs[i], err));
        }
    }
    return SHOAL_OK;
}

/* --- the run ---------------------------------------------------------------------------------- */

static void run_close(compress_run *run)
{
    shoal_forge_compress_jobs_fini(run);
    shoal_forge_recipe_free(run->recipe);
    shoal_moments_free(run->moments);
    shoal_gguf_close(run->gguf);
    shoal_forge_structure_free(run->structure);
    shoal_map_close(&run->map);
    shoal_pool_free(run->pool);
    shoal_free(run->dir);
    shoal_free(run->profile);
    (void)pthread_mutex_destroy(&run->lock);
}

/* That the input is a model is seen by loading it, for the hash that the moments name. */
static shoal_status open_input(compress_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_TRY(shoal_model_load(run->args->model, &model, err));
    run->model = model->hash;
    run->n_experts = model->hp.moe.n_experts;
    run->n_used = model->hp.moe.n_used;
    run->tied = model->hp.tied;
    SHOAL_TRY(shoal_map_open(run->args->model, &run->map, err));
    SHOAL_TRY(shoal_pack_open(run->map.data, run->map.size, &run->gguf, err));
    shoal_gguf_set_mapped(run->gguf);
    run->gated = shoal_gguf_find_tensor(run->gguf, "blk.0.ffn_gate.weight");
    SHOAL_TRY(shoal_moments_open(run->args->compress.moments, &run->model, &run->moments, err));
    SHOAL_TRY(shoal_pack_check(run->gguf, run->pool, err));
    return shoal_forge_recipe_prunes(run->recipe) ? shoal_forge_structure_run(run, model, err)
                                                  : SHOAL_OK;
}

/* Everything that points and layers depend on. A target is not in it: it chooses among them. */
static shoal_status make_key(compress_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    shoal_hash hash;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a digest");
    }
    shoal_hasher_update_field(hasher, "shoal-compress-2", 16);
    shoal_hasher_update_field(hasher, SHOAL_VERSION, strlen(SHOAL_VERSION)); /* how it computes */
    shoal_hasher_update_field(hasher, &run->model, sizeof run->model);
    shoal_hasher_update_field(hasher, &run->recipe->hash, sizeof run->recipe->hash);
    if (run->structure) { /* with gradients it depends on a text */
        shoal_hasher_update_field(hasher, &run->structure->hash, sizeof run->structure->hash);
    }
    for (size_t i = 0; i < shoal_moments_n_layers(run->moments); i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(run->moments, i);
        shoal_hasher_update_field(hasher, l->name, strlen(l->name));
        shoal_hasher_update_field(hasher, &l->row, sizeof l->row);
        shoal_hasher_update_field(hasher, &l->input, sizeof l->input);
    }
    for (size_t i = 0; i < shoal_moments_n_inputs(run->moments); i++) {
        shoal_moments_input in = shoal_moments_input_at(run->moments, i);
        shoal_hasher_update_field(hasher, in.moment, in.k * in.k * sizeof *in.moment);
        shoal_hasher_update_field(hasher, in.max, in.k * sizeof *in.max);
    }
    shoal_hasher_finish(hasher, &hash);
    shoal_hash_hex(&hash, run->key);
    return SHOAL_OK;
}

static shoal_status open_run(compress_run *run, shoal_err *err)
{
    static const char ending[] = ".work";
    const forge_args *args = run->args;
    size_t n = strlen(args->output) + sizeof ending;
    run->target_bytes = (uint64_t)args->compress.target_bytes;
    run->dir = shoal_calloc(n, 1);
    if (!run->dir || shoal_pool_new((size_t)args->threads, &run->pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %ld threads", args->threads);
    }
    (void)snprintf(run->dir, n, "%s%s", args->output, ending);
    SHOAL_TRY(shoal_forge_compress_time_init(run, err));
    SHOAL_TRY(shoal_forge_recipe_load(args->compress.recipe, &run->recipe, err));
    SHOAL_TRY(open_input(run, err));
    SHOAL_TRY(shoal_forge_compress_plan(run, err));
    SHOAL_TRY(make_key(run, err));
    return shoal_forge_work_open(run, err);
}

/* --- what is told ----------------------------------------------------------------------------- */

static shoal_status write_report(compress_run *run, const compress_verdict *verdict,
                                 const char *dir, shoal_err *err)
{
    static const struct {
        const char *name;
        shoal_status (*write)(compress_run *, const compress_verdict *, shoal_buf *);
    } files[] = {{"report.json", shoal_forge_compress_json},
                 {"report.html", shoal_forge_compress_page}};
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) {
        char space[128];
        return shoal_err_set(err, SHOAL_E_IO, "%s: %s", dir,
                             strerror_r(errno, space, sizeof space));
    }
    for (size_t i = 0; i < SHOAL_COUNT(files); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf path = {0};
        if (files[i].write(run, verdict, &text) != SHOAL_OK ||
            shoal_buf_appendf(&path, "%s/%s", dir, files[i].name) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the report");
        }
        SHOAL_TRY(shoal_file_write(path.data, text.data, text.length, err));
    }
    return SHOAL_OK;
}

static shoal_status print(compress_run *run, const compress_verdict *verdict, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    if (run->args->json) {
        SHOAL_TRY(shoal_forge_compress_json(run, verdict, &out));
        return shoal_forge_print(&out, err);
    }
    double mib = 1048576.0;
    SHOAL_TRY(shoal_buf_appendf(
        &out, "%s: %.2f MiB, was %.2f MiB; %zu matrices by the recipe, in %.0f s\n",
        run->args->output, (double)run->n_bytes / mib, (double)run->map.size / mib, run->n_jobs,
        run->seconds));
    if (run->structure) {
        const compress_structure *s = run->structure;
        SHOAL_TRY(shoal_buf_appendf(&out,
                                    "  each layer has %zu of %zu neurons, %zu of %zu heads, %zu of "
                                    "%zu KV heads\n",
                                    s->ffn, s->hp.ffn, s->n_heads, s->hp.n_heads, s->n_kv_heads,
                                    s->hp.n_kv_heads));
    }
    if (run->n_resumed > 0) {
        SHOAL_TRY(shoal_buf_appendf(&out, "  %zu of them had been made by an earlier run\n",
                                    run->n_resumed));
    }
    if (run->profile) {
        compress_time time;
        SHOAL_TRY(shoal_forge_compress_predict(run, run->rates, &time, err));
        SHOAL_TRY(shoal_buf_appendf(&out, "  a token: %.4g ms by the profile, %.4g ms measured\n",
                                    time.ms, run->measured_ms));
    }
    if (verdict) {
        SHOAL_TRY(shoal_buf_appendf(&out,
                                    "  perplexity %.6g, of the full model %.6g; same next token at "
                                    "%.2f%% of %zu positions\n",
                                    verdict->ppl, verdict->ppl_full, 100 * verdict->agreement,
                                    verdict->n_tokens));
    }
    return shoal_forge_print(&out, err);
}

static shoal_status tell(compress_run *run, shoal_err *err)
{
    const forge_args *args = run->args;
    compress_verdict verdict = {0};
    if (args->compress.text) {
        SHOAL_TRY(shoal_forge_compress_judge(args, args->output, &verdict, err));
    }
    SHOAL_TRY(run->profile ? shoal_forge_compress_time_step(run, err) : SHOAL_OK);
    const compress_verdict *known = args->compress.text ? &verdict : NULL;
    if (args->compress.report) {
        SHOAL_TRY(write_report(run, known, args->compress.report, err));
    }
    return print(run, known, err);
}

shoal_status shoal_forge_compress(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->compress.recipe, "-r FILE", err));
    SHOAL_TRY(shoal_forge_need(args->compress.moments, "-c FILE", err));
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_CLEANUP(run_close)
    compress_run run = {.args = args, .lock = PTHREAD_MUTEX_INITIALIZER};
    uint64_t begin = now_ms();
    SHOAL_TRY(open_run(&run, err));
    SHOAL_TRY(measure(&run, err));
    SHOAL_TRY(choose(&run, err));
    SHOAL_TRY(make(&run, err));
    SHOAL_TRY(shoal_forge_compress_write(&run, args->output, err));
    run.seconds = (double)(now_ms() - begin) * 1e-3;
    SHOAL_TRY(tell(&run, err));
    shoal_forge_work_remove(&run);
    return SHOAL_OK;
}
