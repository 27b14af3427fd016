/* SPDX-License-Identifier: Apache-2.0
 *
 * eval: asks one model, or a full and an edge model, questions whose answer is known.
 */
#include "cloud/forge/eval_report.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/engine/rules.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    FIELD_QUESTIONS = 4000,  /* of a split, but the catalogue, unless -n says otherwise */
    CURVE_TAILS = 128,       /* wrong answers written to their ends for a point of the curve */
    CHOSEN_TAILS = 2000,     /* the same at the threshold */
    SAMPLED_QUESTIONS = 1000 /* for the acceptance of sampled drafts */
};

/* Coupled sampling is measured at this temperature. */
#define TEMPERATURE 0.8
/* --pick: at most this share of what the full model has right may be lost. */
#define LOSS_MAX 0.005

/* Splits in the order of the report; dev, on which thresholds are chosen, is not in it. */
static const char *const split_names[] = {"test", "para", "comp", "catalogue"};

/* Shares of positions that the points of a curve send to the cloud. */
static const double curve_shares[] = {0,    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1,
                                      0.12, 0.15,  0.2,  0.25, 0.3,  0.4,  0.5,  0.75, 1};

static const char field_prefix[] = "field:";

typedef struct eval_run {
    const forge_args *args;
    forge_field *field;     /* NULL: questions come from a file */
    shoal_model *models[2]; /* edge (NULL: none), full */
    size_t n_text_max;
    eval_voice voices[2];
    eval_quiz dev;
    eval_report report;
} eval_run;

static void run_close(eval_run *run)
{
    shoal_forge_report_fini(&run->report);
    shoal_forge_quiz_fini(&run->dev);
    shoal_forge_field_free(run->field);
    for (size_t i = 0; i < 2; i++) {
        shoal_forge_voice_close(&run->voices[i]);
        shoal_model_free(run->models[i]);
    }
}

/* --- opening ------------------------------------------------------------------------------------
 */

static shoal_status load_models(eval_run *run, shoal_err *err)
{
    SHOAL_TRY(shoal_model_load(run->args->model, &run->models[1], err));
    run->report.full = run->models[1];
    if (!run->args->eval.edge) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_model_load(run->args->eval.edge, &run->models[0], err));
    run->report.edge = run->models[0];
    if (memcmp(shoal_tokenizer_hash(run->models[0]->tokenizer),
               shoal_tokenizer_hash(run->models[1]->tokenizer), sizeof(shoal_hash)) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s and %s have different tokenizers: they cannot write one text",
                             run->args->eval.edge, run->args->model);
    }
    return SHOAL_OK;
}

/* Whether a split is asked for: "field" and files mean all of them. */
static bool is_wanted(const char *data, const char *name)
{
    if (strncmp(data, field_prefix, sizeof field_prefix - 1) != 0) {
        return true;
    }
    size_t length = strlen(name);
    for (const char *at = data + sizeof field_prefix - 1; *at; at += strspn(at, ",")) {
        size_t n = strcspn(at, ",");
        if (n == length && memcmp(at, name, n) == 0) {
            return true;
        }
        at += n;
    }
    return false;
}

/* What follows "field:" are names of splits. */
static shoal_status check_splits(const char *data, shoal_err *err)
{
    for (const char *at = data + sizeof field_prefix - 1; *at; at += strspn(at, ",")) {
        size_t n = strcspn(at, ",");
        bool known = false;
        for (size_t i = 0; i < SHOAL_COUNT(split_names); i++) {
            known = known || (strlen(split_names[i]) == n && memcmp(at, split_names[i], n) == 0);
        }
        if (!known) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--data %.80s: \"%.*s\" is none of test, para, comp, catalogue",
                                 data, (int)SHOAL_MIN(n, (size_t)40), at);
        }
        at += n;
    }
    return SHOAL_OK;
}

static shoal_status load_split(const eval_run *run, const char *name, eval_quiz *quiz,
                               shoal_err *err)
{
    const forge_args *args = run->args;
    const shoal_tokenizer *tokenizer = run->report.full->tokenizer;
    size_t n = (size_t)args->eval.questions;
    forge_split split = FORGE_SPLIT_TEST;
    (void)snprintf(quiz->name, sizeof quiz->name, "%s", name);
    if (!run->field) {
        return shoal_forge_quiz_add_jsonl(quiz, tokenizer, args->eval.data, name, n, err);
    }
    if (!shoal_forge_split_find(name, &split)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the field has no split %s", name);
    }
    size_t n_entries = shoal_forge_field_n_entries(run->field);
    if (split == FORGE_SPLIT_CATALOGUE) {
        n = n ? SHOAL_MIN(n, n_entries) : n_entries;
    }
    return shoal_forge_quiz_add_field(quiz, tokenizer, run->field, split, args->exponent, 0,
                                      n ? n : (size_t)FIELD_QUESTIONS, err);
}

static shoal_status open_field(eval_run *run, shoal_err *err)
{
    const forge_args *args = run->args;
    if (!shoal_forge_exponent_valid(args->exponent)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--exponent %.6g: quarters from 0 to 2 have a table", args->exponent);
    }
    return shoal_forge_field_new((uint64_t)args->seed, (size_t)args->entries, &run->field, err);
}

static shoal_status load_questions(eval_run *run, shoal_err *err)
{
    eval_report *r = &run->report;
    const char *data = run->args->eval.data;
    if (strcmp(data, "field") == 0) {
        SHOAL_TRY(open_field(run, err));
    } else if (strncmp(data, field_prefix, sizeof field_prefix - 1) == 0) {
        SHOAL_TRY(check_splits(data, err));
        SHOAL_TRY(open_field(run, err));
    }
    r->splits = shoal_calloc(EVAL_SPLITS_MAX, sizeof *r->splits);
    if (!r->splits) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the questions");
    }
    for (size_t i = 0; i < SHOAL_COUNT(split_names); i++) {
        if (is_wanted(data, split_names[i])) {
            /* Counted before it is filled, so that what a failure leaves is freed. */
            eval_quiz *quiz = &r->splits[r->n_splits++].quiz;
            SHOAL_TRY(load_split(run, split_names[i], quiz, err));
            r->n_splits -= quiz->n == 0;
        }
    }
    if (run->args->eval.pick) {
        SHOAL_TRY(load_split(run, "dev", &run->dev, err));
    }
    if (r->n_splits == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: no question to judge by in it", data);
    }
    return SHOAL_OK;
}

static shoal_status open_voices(eval_run *run, shoal_err *err)
{
    size_t n_prompt = run->dev.n_prompt_max;
    size_t n_answer = run->dev.n_answer_max;
    for (size_t i = 0; i < run->report.n_splits; i++) {
        n_prompt = SHOAL_MAX(n_prompt, run->report.splits[i].quiz.n_prompt_max);
        n_answer = SHOAL_MAX(n_answer, run->report.splits[i].quiz.n_answer_max);
    }
    run->n_text_max = n_prompt + n_answer + EVAL_EXTRA;
    for (size_t i = 0; i < 2; i++) {
        if (run->models[i]) {
            SHOAL_TRY(shoal_forge_voice_open(run->args, run->models[i], run->n_text_max,
                                             &run->voices[i], err));
        }
    }
    return SHOAL_OK;
}

/* --- asking -------------------------------------------------------------------------------------
 */

/* Both models' answers to one quiz. */
typedef struct both {
    eval_answers edge;
    eval_answers full;
} both;

static void both_fini(both *b)
{
    shoal_forge_answers_fini(&b->edge);
    shoal_forge_answers_fini(&b->full);
}

static shoal_status ask(eval_run *run, const eval_quiz *quiz, both *ret_answers, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_answer(&run->voices[1], quiz, &ret_answers->full, err));
    return run->report.edge ? shoal_forge_answer(&run->voices[0], quiz, &ret_answers->edge, err)
                            : SHOAL_OK;
}

static eval_pair make_pair(eval_run *run, const eval_quiz *quiz, const both *answers)
{
    return (eval_pair){.quiz = quiz,
                       .voices = {&run->voices[0], &run->voices[1]},
                       .edge = &answers->edge,
                       .full = &answers->full};
}

static shoal_status choose_threshold(eval_run *run, shoal_err *err)
{
    eval_report *r = &run->report;
    r->has_threshold = run->args->eval.pick || run->args->eval.threshold >= 0;
    r->threshold = (float)run->args->eval.threshold;
    if (!run->args->eval.pick) {
        return SHOAL_OK;
    }
    SHOAL_CLEANUP(both_fini) both answers = {0};
    SHOAL_TRY(ask(run, &run->dev, &answers, err));
    eval_pair pair = make_pair(run, &run->dev, &answers);
    r->picked = true;
    r->n_dev = run->dev.n;
    return shoal_forge_pick(&pair, LOSS_MAX, &r->threshold, err);
}

static shoal_status draw_curve(const eval_pair *pair, eval_figures *f, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) float *work = shoal_calloc(pair->quiz->n_said, sizeof *work);
    eval_mix mixes[EVAL_GROUPS];
    if (!work) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the curve");
    }
    for (size_t i = 0; i < SHOAL_COUNT(curve_shares); i++) {
        float threshold = shoal_forge_threshold_at(pair->quiz, pair->edge, curve_shares[i], work);
        /* Small quizzes have the same threshold for several shares. */
        if (f->n_curve && threshold == f->curve[f->n_curve - 1].threshold) {
            continue;
        }
        SHOAL_TRY(shoal_forge_mix(pair, threshold, CURVE_TAILS, mixes, err));
        f->curve[f->n_curve++] = mixes[pair->quiz->n_kinds];
    }
    return SHOAL_OK;
}

static shoal_status judge_split(eval_run *run, eval_figures *f, shoal_err *err)
{
    const eval_report *r = &run->report;
    const shoal_tokenizer *tokenizer = r->full->tokenizer;
    SHOAL_CLEANUP(both_fini) both answers = {0};
    SHOAL_TRY(ask(run, &f->quiz, &answers, err));
    SHOAL_TRY(shoal_forge_summarise(&f->quiz, tokenizer, &answers.full, f->full, err));
    if (!r->edge) {
        return SHOAL_OK;
    }
    eval_pair pair = make_pair(run, &f->quiz, &answers);
    SHOAL_TRY(shoal_forge_summarise(&f->quiz, tokenizer, &answers.edge, f->edge, err));
    if (r->has_threshold) {
        SHOAL_TRY(shoal_forge_mix(&pair, r->threshold, CHOSEN_TAILS, f->chosen, err));
    }
    SHOAL_TRY(draw_curve(&pair, f, err));
    return shoal_forge_accept(&pair, TEMPERATURE, (uint64_t)run->args->seed, SAMPLED_QUESTIONS,
                              f->accepted, err);
}

/* Of the split that comes first. */
static shoal_status judge_exits(eval_run *run, shoal_err *err)
{
    eval_report *r = &run->report;
    const shoal_model *model = r->edge ? r->edge : r->full;
    const eval_quiz *quiz = &r->splits[r->exits_split].quiz;
    r->exits = shoal_calloc(model->hp.n_exits, sizeof *r->exits);
    if (!r->exits) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the exits");
    }
    for (; r->n_exits < model->hp.n_exits; r->n_exits++) {
        SHOAL_CLEANUP(shoal_forge_answers_fini) eval_answers answers = {0};
        eval_exit *e = &r->exits[r->n_exits];
        e->n_layers = model->hp.exits[r->n_exits];
        SHOAL_TRY(shoal_forge_answer_exit(run->args, model, r->n_exits, run->n_text_max, quiz,
                                          &answers, err));
        SHOAL_TRY(shoal_forge_summarise(quiz, model->tokenizer, &answers, e->of, err));
    }
    return SHOAL_OK;
}

/* The same model and questions, a token a step: without exits, and with tokens that leave. */
static shoal_status try_exit(eval_run *run, shoal_err *err)
{
    eval_report *r = &run->report;
    const forge_eval_args *args = &run->args->eval;
    eval_voice *voice = &run->voices[r->edge ? 0 : 1];
    const eval_quiz *quiz = &r->splits[r->exits_split].quiz;
    shoal_exit_fitted fitted;
    shoal_exit_rule rules[SHOAL_MODEL_EXITS_MAX];
    size_t n_exits = voice->model->hp.n_exits;
    SHOAL_TRY(shoal_exit_fitted_load(r->edge ? args->edge : run->args->model, voice->model, &fitted,
                                     err));
    SHOAL_TRY(shoal_exit_rules_choose(&fitted, args->exit, (float)NAN, rules, err));
    SHOAL_CLEANUP(shoal_free_cleanup)
    shoal_exit_state *states = shoal_calloc(n_exits, sizeof *states);
    if (!states) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for exit policies");
    }
    for (size_t i = 0; i < n_exits; i++) {
        rules[i].state = &states[i];
    }
    r->exit = args->exit;
    r->n_wait = (size_t)args->wait;
    SHOAL_TRY(shoal_forge_answer_leaving(voice, NULL, r->n_wait, quiz, &r->deep, err));
    return shoal_forge_answer_leaving(voice, rules, r->n_wait, quiz, &r->leaving, err);
}

/* --- the command --------------------------------------------------------------------------------
 */

static shoal_status write_file(const char *path, shoal_status made, const shoal_buf *buf,
                               shoal_err *err)
{
    if (made != SHOAL_OK) {
        return shoal_err_set(err, made, "%s: %s", path, shoal_status_text(made));
    }
    return shoal_file_write(path, buf->data, buf->length, err);
}

static shoal_status put_out(const eval_run *run, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf json = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf plot = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf table = {0};
    const forge_args *args = run->args;
    if (args->eval.report) {
        SHOAL_TRY(write_file(args->eval.report, shoal_forge_report_json(&run->report, &json), &json,
                             err));
    }
    if (args->eval.plot) {
        SHOAL_TRY(
            write_file(args->eval.plot, shoal_forge_report_plot(&run->report, &plot), &plot, err));
    }
    if (args->json) {
        shoal_buf_reset(&json);
        SHOAL_TRY(shoal_forge_report_json(&run->report, &json));
        return shoal_forge_print(&json, err);
    }
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    bool color = isatty(STDOUT_FILENO) == 1 && !(no_color && no_color[0]) && term && term[0] &&
                 strcmp(term, "dumb") != 0;
    SHOAL_TRY(shoal_forge_report_table(&run->report, color, &table));
    return shoal_forge_print(&table, err);
}

static shoal_status check_args(const forge_args *args, shoal_err *err)
{
    if (!args->eval.edge && (args->eval.pick || args->eval.plot || args->eval.threshold >= 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--pick, --threshold and --plot are about two models: --edge FILE is "
                             "missing");
    }
    if (args->eval.pick && args->eval.threshold >= 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--threshold is given, so there is none to --pick: leave one out");
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_eval(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(check_args(args, err));
    SHOAL_CLEANUP(run_close) eval_run run = {.args = args};
    shoal_clock clock = shoal_clock_real();
    uint64_t start = shoal_clock_now_ns(&clock);
    run.report.temperature = TEMPERATURE;
    run.report.seed = (unsigned long long)args->seed;
    SHOAL_TRY(load_models(&run, err));
    SHOAL_TRY(load_questions(&run, err));
    SHOAL_TRY(open_voices(&run, err));
    SHOAL_TRY(choose_threshold(&run, err));
    for (size_t i = 0; i < run.report.n_splits; i++) {
        SHOAL_TRY(judge_split(&run, &run.report.splits[i], err));
    }
    SHOAL_TRY(judge_exits(&run, err));
    SHOAL_TRY(args->eval.exit ? try_exit(&run, err) : SHOAL_OK);
    run.report.seconds = (double)(shoal_clock_now_ns(&clock) - start) / 1e9;
    return put_out(&run, err);
}
