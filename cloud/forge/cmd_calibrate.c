/* SPDX-License-Identifier: Apache-2.0
 *
 * Fits the exit policies of a model, and those of its full depth that decide when the cloud is
 * asked, to answers that are known, and writes a copy of the file that carries them. With --check
 * every policy is also judged on answers it has not seen, and with --resamples the promise of
 * Learn-then-Test itself is: how often it is broken over many draws of calibration data.
 */
#include "cloud/forge/calibrate.h"
#include "cloud/forge/depths.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/weight/pack.h"

#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(forge_args, calibrate.field)

static const forge_option options[] = {
    {0, "data", 0, FORGE_OPTION_TEXT, AT(data), 0, 0, "DATA",
     "answers to fit to: FILE.jsonl or field:split=dev,n=1000 (required)"},
    {0, "check", 0, FORGE_OPTION_TEXT, AT(check), 0, 0, "DATA",
     "other answers, to judge what was fitted"},
    {0, "teacher", 0, FORGE_OPTION_TEXT, AT(teacher), 0, 0, "FILE",
     "the model that is asked next (default: the answers themselves)"},
    {0, "risk", 0, FORGE_OPTION_REAL, AT(risk), 1e-6, 0.5, "R",
     "share of tokens that may leave and differ from the next tier (default 0.01)"},
    {0, "delta", 0, FORGE_OPTION_REAL, AT(delta), 1e-6, 0.5, "D",
     "probability that the risk does not hold (default 0.05)"},
    {0, "rate", 0, FORGE_OPTION_REAL, AT(rate), 0, 1, "R",
     "share of tokens that the percentile lets leave (default: as the fixed threshold)"},
    {0, "policy", 0, FORGE_OPTION_TEXT, AT(policy), 0, 0, "KINDS",
     "all, or some of fixed,margin,entropy,linear,percentile,risk (default all)"},
    {0, "resamples", 0, FORGE_OPTION_INT, AT(resamples), 1, 100000, "N",
     "draws of calibration data, to count how often the risk is exceeded on --check"},
};

const forge_own shoal_forge_calibrate_own = {
    .run = shoal_forge_calibrate,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2, .calibrate = {.risk = 0.01, .delta = 0.05, .rate = -1}},
};

/* One row of the table. */
typedef struct calib_line {
    size_t head;
    shoal_exit_policy policy;
    shoal_exit_outcome fitted;
    shoal_exit_outcome checked;
} calib_line;

typedef struct calibration_run {
    const forge_args *args;
    shoal_exit_fit fit;
    bool kinds[SHOAL_EXIT_KINDS];
    shoal_map map;
    shoal_gguf *gguf;
    forge_session edge;
    forge_session teacher;
    eval_quiz quiz;
    eval_quiz check_quiz;
    calib_rows rows;
    calib_rows check;
    calib_result result;
    calib_line lines[CALIB_HEADS_MAX * SHOAL_EXIT_KINDS];
    size_t n_lines;
    double exceeded[CALIB_HEADS_MAX]; /* share of resamples */
} calibration_run;

static void run_close(calibration_run *run)
{
    shoal_forge_calib_fini(&run->rows);
    shoal_forge_calib_fini(&run->check);
    shoal_forge_quiz_fini(&run->quiz);
    shoal_forge_quiz_fini(&run->check_quiz);
    shoal_forge_session_close(&run->edge);
    shoal_forge_session_close(&run->teacher);
    shoal_gguf_close(run->gguf);
    shoal_map_close(&run->map);
}

/* "all", or names with commas between them. */
static shoal_status parse_kinds(const char *text, bool kinds[SHOAL_EXIT_KINDS], shoal_err *err)
{
    if (!text || strcmp(text, "all") == 0) {
        for (size_t i = 0; i < SHOAL_EXIT_KINDS; i++) {
            kinds[i] = true;
        }
        return SHOAL_OK;
    }
    for (const char *at = text; at;) {
        char name[16];
        size_t n = strcspn(at, ",");
        shoal_exit_kind kind = SHOAL_EXIT_KINDS;
        (void)snprintf(name, sizeof name, "%.*s", (int)SHOAL_MIN(n, sizeof name - 1), at);
        if (shoal_exit_kind_parse(name, &kind) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--policy %.40s: known are all, fixed, margin, entropy, linear, "
                                 "percentile and risk",
                                 at);
        }
        kinds[kind] = true;
        at = at[n] == ',' ? at + n + 1 : NULL;
    }
    return SHOAL_OK;
}

static shoal_status open_models(calibration_run *run, shoal_err *err)
{
    const forge_args *args = run->args;
    SHOAL_TRY(shoal_map_open(args->model, &run->map, err));
    SHOAL_TRY(shoal_pack_open(run->map.data, run->map.size, &run->gguf, err));
    if (shoal_pack_is_packed(run->gguf)) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s is packed: calibrate the plain file, then pack it; policies are "
                             "carried over",
                             args->model);
    }
    SHOAL_TRY(
        shoal_forge_session_open(args, FORGE_DEPTHS_ROWS, FORGE_DEPTHS_ROWS, 0, &run->edge, err));
    if (!args->calibrate.teacher) {
        return SHOAL_OK;
    }
    forge_args other = *args;
    other.model = args->calibrate.teacher;
    SHOAL_TRY(shoal_forge_session_open(&other, FORGE_DEPTHS_ROWS, FORGE_DEPTHS_ROWS, 0,
                                       &run->teacher, err));
    if (memcmp(shoal_tokenizer_hash(run->edge.model->tokenizer),
               shoal_tokenizer_hash(run->teacher.model->tokenizer), sizeof(shoal_hash)) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "--teacher %s: its tokenizer is another one than the model's",
                             args->calibrate.teacher);
    }
    return SHOAL_OK;
}

static shoal_status load_rows(const calibration_run *run, const char *data, eval_quiz *quiz,
                              calib_rows *rows, shoal_err *err)
{
    const forge_args *args = run->args;
    SHOAL_TRY(shoal_forge_calib_questions(data, run->edge.model->tokenizer,
                                          (uint64_t)run->args->seed, quiz, err));
    return shoal_forge_calib_collect(&run->edge, args->calibrate.teacher ? &run->teacher : NULL,
                                     quiz, (size_t)args->threads, rows, err);
}

/* One classifier for all exits together, their depths being a feature; the full depth, whose next
 * tier is another model, has its own. */
static void fit_weights(const calib_rows *rows, shoal_exit_policy *ret_exits,
                        shoal_exit_policy *ret_full)
{
    size_t n_exits = rows->n_heads - 1;
    const shoal_exit_samples exits = {rows->rows, n_exits * rows->n, rows->n_groups};
    const shoal_exit_samples full = shoal_forge_calib_head(rows, n_exits);
    shoal_exit_fit_logistic(&exits, ret_exits);
    shoal_exit_fit_logistic(&full, ret_full);
}

/* Greater risks for the full depth, whose requests choose among them. */
static void fit_risks(calibration_run *run)
{
    static const double all[] = {0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07,
                                 0.1,   0.15,  0.2,  0.25, 0.3,  0.4,  0.5};
    shoal_exit_risks *r = &run->result.risks;
    shoal_exit_samples full = shoal_forge_calib_head(&run->rows, run->rows.n_heads - 1);
    for (size_t i = 0; i < SHOAL_COUNT(all) && r->n < SHOAL_EXIT_RISKS_MAX; i++) {
        if (all[i] > run->fit.risk) {
            float threshold = shoal_exit_fit_risk(&full, all[i], run->fit.delta);
            r->risk[r->n] = (float)all[i];
            /* More may be borne, so no less may be kept. */
            r->threshold[r->n] =
                r->n > 0 ? SHOAL_MIN(threshold, r->threshold[r->n - 1]) : threshold;
            r->n++;
        }
    }
}

static shoal_status fit_all(calibration_run *run, shoal_err *err)
{
    shoal_exit_policy exits = {0};
    shoal_exit_policy full = {0};
    fit_weights(&run->rows, &exits, &full);
    for (size_t head = 0; head < run->rows.n_heads; head++) {
        shoal_exit_samples samples = shoal_forge_calib_head(&run->rows, head);
        for (size_t kind = 0; kind < SHOAL_EXIT_KINDS; kind++) {
            if (!run->kinds[kind]) {
                continue;
            }
            shoal_exit_policy p = {0};
            if (kind == SHOAL_EXIT_LINEAR) {
                p = head + 1 == run->rows.n_heads ? full : exits;
            }
            SHOAL_TRY(shoal_exit_fit_policy(&samples, &run->fit, (shoal_exit_kind)kind, &p, err));
            run->result.sets[head].has[kind] = true;
            run->result.sets[head].policies[kind] = p;
            calib_line *line = &run->lines[run->n_lines++];
            *line = (calib_line){.head = head, .policy = p};
            line->fitted = shoal_exit_try(&samples, &p);
            if (run->check.n > 0) {
                shoal_exit_samples unseen = shoal_forge_calib_head(&run->check, head);
                line->checked = shoal_exit_try(&unseen, &p);
            }
        }
    }
    if (run->kinds[SHOAL_EXIT_RISK]) {
        fit_risks(run);
    }
    run->result.calibration = (shoal_exit_calibration){.data = run->rows.hash,
                                                       .n = (uint32_t)run->rows.n_groups,
                                                       .n_tokens = (uint32_t)run->rows.n,
                                                       .risk = (float)run->fit.risk,
                                                       .delta = (float)run->fit.delta};
    return shoal_exit_subject(run->gguf, &run->edge.model->hash, &run->result.calibration.subject,
                              err);
}

/* --- the promise itself ---------------------------------------------------------------------- */

/* Draws n answers with replacement: their rows, regrouped. */
static size_t draw(const shoal_exit_samples *from, const size_t *first, size_t n, uint64_t *rng,
                   shoal_exit_sample *ret_rows)
{
    size_t n_rows = 0;
    for (size_t g = 0; g < n; g++) {
        size_t from_g = (size_t)(shoal_rng_next(rng) % from->n_groups);
        for (size_t i = first[from_g]; i < first[from_g + 1]; i++) {
            ret_rows[n_rows] = from->rows[i];
            ret_rows[n_rows++].group = (uint32_t)g;
        }
    }
    return n_rows;
}

/* Share of resamples whose threshold breaks the risk on the answers that were set apart. */
static shoal_status resample(const calibration_run *run, size_t head, double *ret_exceeded,
                             shoal_err *err)
{
    shoal_exit_samples from = shoal_forge_calib_head(&run->rows, head);
    shoal_exit_samples unseen = shoal_forge_calib_head(&run->check, head);
    size_t n_resamples = (size_t)run->args->calibrate.resamples;
    size_t n_most = 0;
    SHOAL_CLEANUP(shoal_free_cleanup)
    size_t *first = shoal_calloc(from.n_groups + 1, sizeof *first);
    for (size_t i = 0; first && i < from.n; i++) {
        first[from.rows[i].group + 1] = i + 1;
    }
    for (size_t g = 0; first && g < from.n_groups; g++) {
        n_most = SHOAL_MAX(n_most, first[g + 1] - first[g]);
    }
    SHOAL_CLEANUP(shoal_free_cleanup)
    shoal_exit_sample *rows = shoal_calloc(n_most * from.n_groups, sizeof *rows);
    if (!first || !rows) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to resample %zu answers",
                             from.n_groups);
    }
    uint64_t rng = (uint64_t)run->args->seed;
    size_t n_exceeded = 0;
    for (size_t r = 0; r < n_resamples; r++) {
        shoal_exit_samples drawn = {rows, 0, from.n_groups};
        drawn.n = draw(&from, first, from.n_groups, &rng, rows);
        const shoal_exit_policy p = {
            .kind = SHOAL_EXIT_RISK,
            .threshold = shoal_exit_fit_risk(&drawn, run->fit.risk, run->fit.delta)};
        n_exceeded += shoal_exit_try(&unseen, &p).risk > run->fit.risk ? 1 : 0;
    }
    *ret_exceeded = (double)n_exceeded / (double)n_resamples;
    return SHOAL_OK;
}

/* --- what is said ---------------------------------------------------------------------------- */

/* What a threshold of a greater risk lets go, on the answers that were set apart where there are
 * some. */
typedef struct risk_seen {
    double left;
    double risk;
} risk_seen;

static risk_seen see_risk(const calibration_run *run, size_t i)
{
    const calib_rows *rows = run->check.n > 0 ? &run->check : &run->rows;
    const shoal_exit_samples full = shoal_forge_calib_head(rows, rows->n_heads - 1);
    const shoal_exit_policy p = {.kind = SHOAL_EXIT_RISK,
                                 .threshold = run->result.risks.threshold[i]};
    const shoal_exit_outcome o = shoal_exit_try(&full, &p);
    return (risk_seen){.left = o.left, .risk = o.risk};
}

static shoal_status put_json(const calibration_run *run, shoal_buf *out)
{
    const shoal_hparams *hp = &run->edge.model->hp;
    char hash[SHOAL_HASH_HEX];
    shoal_hash_hex(&run->rows.hash, hash);
    SHOAL_TRY(shoal_buf_appendf(out,
                                "{\"answers\": %zu, \"tokens\": %zu, \"data_hash\": \"%s\", "
                                "\"checked_answers\": %zu, \"policies\": [",
                                run->rows.n_groups, run->rows.n, hash, run->check.n_groups));
    for (size_t i = 0; i < run->n_lines; i++) {
        const calib_line *l = &run->lines[i];
        char text[SHOAL_EXIT_TEXT_MAX];
        shoal_exit_policy_print(&l->policy, text);
        SHOAL_TRY(shoal_buf_appendf(
            out,
            "%s\n{\"layers\": %zu, \"policy\": \"%s\", \"left\": %.6f, \"disagreed\": %.6f, "
            "\"risk\": %.6f",
            i ? "," : "", l->head < hp->n_exits ? hp->exits[l->head] : hp->n_layers, text,
            l->fitted.left, l->fitted.disagreed, l->fitted.risk));
        if (run->check.n > 0) {
            SHOAL_TRY(shoal_buf_appendf(
                out,
                ", \"checked_left\": %.6f, \"checked_disagreed\": %.6f, \"checked_risk\": %.6f",
                l->checked.left, l->checked.disagreed, l->checked.risk));
        }
        SHOAL_TRY(shoal_buf_appendf(out, "}"));
    }
    SHOAL_TRY(shoal_buf_appendf(out, "], \"risks\": ["));
    for (size_t i = 0; i < run->result.risks.n; i++) {
        const risk_seen seen = see_risk(run, i);
        SHOAL_TRY(shoal_buf_appendf(out,
                                    "%s\n{\"risk\": %g, \"threshold\": %.9g, \"left\": %.6f, "
                                    "\"checked_risk\": %.6f}",
                                    i ? "," : "", (double)run->result.risks.risk[i],
                                    (double)run->result.risks.threshold[i], seen.left, seen.risk));
    }
    SHOAL_TRY(shoal_buf_appendf(out, "], \"exceeded\": ["));
    for (size_t i = 0; run->args->calibrate.resamples > 0 && i < run->rows.n_heads; i++) {
        SHOAL_TRY(shoal_buf_appendf(out, "%s%.4f", i ? ", " : "", run->exceeded[i]));
    }
    return shoal_buf_appendf(out, "]}\n");
}

static shoal_status put_line(const calibration_run *run, const calib_line *l, shoal_buf *out)
{
    char text[SHOAL_EXIT_TEXT_MAX];
    shoal_exit_policy_print(&l->policy, text);
    SHOAL_TRY(shoal_buf_appendf(out, "  %6.2f%% %8.3f%% %8.3f%%", 100 * l->fitted.left,
                                100 * l->fitted.disagreed, 100 * l->fitted.risk));
    if (run->check.n > 0) {
        SHOAL_TRY(shoal_buf_appendf(out, "  %6.2f%% %8.3f%% %8.3f%%", 100 * l->checked.left,
                                    100 * l->checked.disagreed, 100 * l->checked.risk));
    }
    return shoal_buf_appendf(out, "  %s\n", text);
}

static shoal_status put_table(const calibration_run *run, shoal_buf *out)
{
    const shoal_hparams *hp = &run->edge.model->hp;
    bool checked = run->check.n > 0;
    SHOAL_TRY(shoal_buf_appendf(
        out, "%zu answers, %zu tokens%s; of all tokens\n  %7s %9s %9s%s  policy\n",
        run->rows.n_groups, run->rows.n, checked ? ", then as many columns on unseen answers" : "",
        "leaves", "differs", "risk", checked ? "   leaves   differs      risk" : ""));
    for (size_t i = 0; i < run->n_lines; i++) {
        const calib_line *l = &run->lines[i];
        if (i == 0 || l->head != run->lines[i - 1].head) {
            bool exit = l->head < hp->n_exits;
            SHOAL_TRY(shoal_buf_appendf(
                out, exit ? "exit after %zu of %zu layers\n" : "full depth, %zu of %zu layers\n",
                exit ? hp->exits[l->head] : hp->n_layers, hp->n_layers));
        }
        SHOAL_TRY(put_line(run, l, out));
    }
    for (size_t i = 0; i < run->result.risks.n; i++) {
        const risk_seen seen = see_risk(run, i);
        SHOAL_TRY(shoal_buf_appendf(out, "  a risk of %g keeps %6.2f%%, of which %.3f%% differ\n",
                                    (double)run->result.risks.risk[i], 100 * seen.left,
                                    100 * seen.risk));
    }
    for (size_t i = 0; run->args->calibrate.resamples > 0 && i < run->rows.n_heads; i++) {
        SHOAL_TRY(shoal_buf_appendf(
            out, "after %zu layers: a risk of %g was exceeded in %.1f%% of %ld resamples\n",
            i < hp->n_exits ? hp->exits[i] : hp->n_layers, run->fit.risk, 100 * run->exceeded[i],
            run->args->calibrate.resamples));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_calibrate(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(run_close) calibration_run run = {.args = args};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    run.fit = (shoal_exit_fit){
        .risk = args->calibrate.risk, .delta = args->calibrate.delta, .rate = args->calibrate.rate};
    SHOAL_TRY(shoal_forge_need(args->calibrate.data, "--data DATA", err));
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    if (args->calibrate.resamples > 0) {
        SHOAL_TRY(shoal_forge_need(args->calibrate.check, "--check DATA (for --resamples)", err));
    }
    SHOAL_TRY(parse_kinds(args->calibrate.policy, run.kinds, err));
    SHOAL_TRY(open_models(&run, err));
    SHOAL_TRY(load_rows(&run, args->calibrate.data, &run.quiz, &run.rows, err));
    if (args->calibrate.check) {
        SHOAL_TRY(load_rows(&run, args->calibrate.check, &run.check_quiz, &run.check, err));
    }
    SHOAL_TRY(fit_all(&run, err));
    for (size_t head = 0; args->calibrate.resamples > 0 && head < run.rows.n_heads; head++) {
        SHOAL_TRY(resample(&run, head, &run.exceeded[head], err));
    }
    SHOAL_TRY(
        shoal_forge_calib_write(run.gguf, &run.edge.model->hp, &run.result, args->output, err));
    SHOAL_TRY(args->json ? put_json(&run, &out) : put_table(&run, &out));
    return shoal_forge_print(&out, err);
}
