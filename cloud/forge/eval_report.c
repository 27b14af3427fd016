/* SPDX-License-Identifier: Apache-2.0
 *
 * The table for people, and the points of the plot.
 */
#include "cloud/forge/eval_report.h"

#include "cloud/forge/plot.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

/* One hue from light to deep, the same as the tiers have in the client. */
static const char edge_look[] = "\x1b[38;5;75m";
static const char full_look[] = "\x1b[38;5;33m";
static const char both_look[] = "\x1b[38;5;117m";
static const char strong[] = "\x1b[1m";
static const char off[] = "\x1b[0m";

void shoal_forge_report_fini(eval_report *report)
{
    for (size_t i = 0; i < report->n_splits; i++) {
        shoal_forge_quiz_fini(&report->splits[i].quiz);
    }
    shoal_free(report->splits);
    shoal_free(report->exits);
    memset(report, 0, sizeof *report);
}

static const char *group_name(const eval_quiz *quiz, size_t k)
{
    return k == quiz->n_kinds ? "all" : quiz->kinds[k];
}

static double ratio(size_t a, size_t b)
{
    return b ? (double)a / (double)b : 0;
}

/* The part of the full model's exact match on the same questions. */
static double of_full(const eval_mix *m)
{
    return ratio(m->n_right, m->n_right + m->n_lost - m->n_gained);
}

/* A word in a look, padded to seven columns. */
static shoal_status put_model(const char *word, const char *look, bool color, shoal_buf *buf)
{
    return shoal_buf_appendf(buf, "  %s%-7s%s", color ? look : "", word, color ? off : "");
}

static shoal_status put_interval(const forge_interval *x, shoal_buf *buf)
{
    char bounds[40];
    (void)snprintf(bounds, sizeof bounds, "(%.1f to %.1f)", 100 * x->low, 100 * x->high);
    return shoal_buf_appendf(buf, "  %5.1f %% %-16s", 100 * x->value, bounds);
}

static shoal_status put_summary(const eval_quiz *quiz, const eval_summary *s, shoal_buf *buf)
{
    SHOAL_TRY(put_interval(&s->exact, buf));
    if (quiz->weighted) {
        SHOAL_TRY(shoal_buf_appendf(buf, " %5.1f +- %4.1f", 100 * s->weighted.value,
                                    s->n > 1 ? 50 * (s->weighted.high - s->weighted.low) : 100));
    }
    return shoal_buf_appendf(buf, " %7.1f %6.1f %8.2f %10.4f\n", 100 * s->f1, 100 * s->bleu,
                             100 * s->accuracy, s->perplexity);
}

static shoal_status put_mix(const eval_mix *m, shoal_buf *buf)
{
    forge_interval exact = shoal_forge_wilson(m->n_right, m->n);
    SHOAL_TRY(put_interval(&exact, buf));
    return shoal_buf_appendf(buf,
                             "  with %.1f %% of tokens from the cloud, in %.1f %% of answers\n",
                             100 * ratio(m->n_cloud, m->n_tokens), 100 * ratio(m->n_touched, m->n));
}

static shoal_status put_exact(const eval_report *r, const eval_figures *f, bool color,
                              shoal_buf *buf)
{
    const eval_quiz *quiz = &f->quiz;
    SHOAL_TRY(shoal_buf_appendf(buf, "%s%s%s: %zu questions, %zu tokens of answers\n",
                                color ? strong : "", quiz->name, color ? off : "", quiz->n,
                                quiz->n_said));
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "  %-10s %7s  model    exact match (95 %%)     %s%7s %6s %8s "
                                "%10s\n",
                                "kind", "n", quiz->weighted ? " by weight    " : "", "F1", "BLEU",
                                "tokens", "perplexity"));
    for (size_t k = 0; k <= quiz->n_kinds; k++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "  %-10s %7zu", group_name(quiz, k), f->full[k].n));
        SHOAL_TRY(put_model("full", full_look, color, buf));
        SHOAL_TRY(put_summary(quiz, &f->full[k], buf));
        if (!r->edge) {
            continue;
        }
        SHOAL_TRY(shoal_buf_appendf(buf, "%20s", ""));
        SHOAL_TRY(put_model("edge", edge_look, color, buf));
        SHOAL_TRY(put_summary(quiz, &f->edge[k], buf));
        if (r->has_threshold) {
            SHOAL_TRY(shoal_buf_appendf(buf, "%20s", ""));
            SHOAL_TRY(put_model("both", both_look, color, buf));
            SHOAL_TRY(put_mix(&f->chosen[k], buf));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_chosen(const eval_report *r, const eval_figures *f, shoal_buf *buf)
{
    const eval_mix *m = &f->chosen[f->quiz.n_kinds];
    return shoal_buf_appendf(
        buf,
        "  threshold %.6g: %.2f %% of the full model's exact match (%zu lost, %zu gained), %.1f %% "
        "of answers are its own,\n  %.2f %% of tokens from the cloud, %.1f %% of answers touched\n",
        (double)r->threshold, 100 * ratio(m->n_right, f->full[f->quiz.n_kinds].n_right), m->n_lost,
        m->n_gained, 100 * ratio(m->n_same, m->n), 100 * ratio(m->n_cloud, m->n_tokens),
        100 * ratio(m->n_touched, m->n));
}

static shoal_status put_curve(const eval_figures *f, shoal_buf *buf)
{
    SHOAL_TRY(
        shoal_buf_appendf(buf, "  threshold  cloud tokens  touched  exact match  of full's\n"));
    for (size_t i = 0; i < f->n_curve; i++) {
        const eval_mix *m = &f->curve[i];
        SHOAL_TRY(shoal_buf_appendf(buf, "  %9.5f %11.2f %% %6.1f %% %10.2f %% %7.2f %%\n",
                                    (double)m->threshold, 100 * ratio(m->n_cloud, m->n_tokens),
                                    100 * ratio(m->n_touched, m->n), 100 * ratio(m->n_right, m->n),
                                    100 * of_full(m)));
    }
    return SHOAL_OK;
}

static shoal_status put_accepted(const eval_report *r, const eval_figures *f, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "  drafts accepted on the full model's own text\n"
                                "  %-10s  greedy (tokens)    coupled, T = %.2g (tokens)   bound  "
                                "total variation\n",
                                "kind", r->temperature));
    for (size_t k = 0; k <= f->quiz.n_kinds; k++) {
        const eval_accepted *a = &f->accepted[k];
        SHOAL_TRY(shoal_buf_appendf(
            buf, "  %-10s  %5.1f %% %9zu  %17.1f %% %9zu %8.1f %% %10.4f\n",
            group_name(&f->quiz, k), 100 * ratio(a->n_greedy_accepted, a->n_greedy), a->n_greedy,
            100 * ratio(a->n_coupled_accepted, a->n_coupled), a->n_coupled, 100 * a->bound, a->tv));
    }
    return SHOAL_OK;
}

static shoal_status put_exits(const eval_report *r, bool color, shoal_buf *buf)
{
    const eval_quiz *quiz = &r->splits[r->exits_split].quiz;
    for (size_t e = 0; e < r->n_exits; e++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s%s%s: the %s model left after %zu layers\n",
                                    color ? strong : "", quiz->name, color ? off : "",
                                    r->edge ? "edge" : "full", r->exits[e].n_layers));
        for (size_t k = 0; k <= quiz->n_kinds; k++) {
            const eval_summary *s = &r->exits[e].of[k];
            SHOAL_TRY(shoal_buf_appendf(buf, "  %-10s %7zu", group_name(quiz, k), s->n));
            SHOAL_TRY(put_model("exit", both_look, color, buf));
            SHOAL_TRY(put_summary(quiz, s, buf));
        }
    }
    return SHOAL_OK;
}

/* Kilobytes of weights for each token of the answers. */
static double kb_per_token(uint64_t bytes, const eval_leaving *l)
{
    return l->n_tokens ? (double)bytes / (double)l->n_tokens / 1e3 : 0;
}

static shoal_status put_cost(const char *name, const eval_leaving *l, shoal_buf *buf)
{
    forge_interval exact = shoal_forge_wilson(l->n_right, l->n);
    SHOAL_TRY(shoal_buf_appendf(buf, "  %-14s", name));
    SHOAL_TRY(put_interval(&exact, buf));
    return shoal_buf_appendf(buf, " %8.3f %11.1f %11.1f %11.0f\n", ratio(l->n_layers, l->n_tokens),
                             kb_per_token(l->bytes_layers, l), kb_per_token(l->bytes_heads, l),
                             (double)l->n_tokens / l->seconds);
}

/* Real exits in the real engine, one client, prompts included. */
static shoal_status put_leaving(const eval_report *r, shoal_buf *buf)
{
    const eval_leaving *l = &r->leaving;
    const shoal_model *model = r->edge ? r->edge : r->full;
    double less =
        1 - kb_per_token(l->bytes_layers, l) / kb_per_token(r->deep.bytes_layers, &r->deep);
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "\n%s: tokens of the %s model leave by %s, %zu wait at most\n"
        "  %-14s  exact match (95 %%)        layers  layers, KB    heads, KB    tokens/s\n",
        r->splits[r->exits_split].quiz.name, r->edge ? "edge" : "full", r->exit, r->n_wait, ""));
    SHOAL_TRY(put_cost("none leaves", &r->deep, buf));
    SHOAL_TRY(put_cost("they leave", l, buf));
    SHOAL_TRY(shoal_buf_appendf(buf, "  %.1f %% less of layers' weights read a token; left after",
                                100 * less));
    for (size_t i = 0; i <= model->hp.n_exits; i++) {
        size_t layers = i < model->hp.n_exits ? model->hp.exits[i] : model->hp.n_layers;
        SHOAL_TRY(shoal_buf_appendf(buf, "%s %zu: %.1f %%", i ? "," : "", layers,
                                    100 * ratio(l->n_by_exit[i], l->n_tokens)));
    }
    return shoal_buf_appendf(buf, "; of %zu looked at again in full %.2f %% stand\n", l->n_checked,
                             100 * ratio(l->n_agreed, l->n_checked));
}

shoal_status shoal_forge_report_table(const eval_report *r, bool color, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "full  %s, %.2f M parameters\n", r->full->hp.name,
                                (double)r->full->n_params / 1e6));
    if (r->edge) {
        SHOAL_TRY(shoal_buf_appendf(buf, "edge  %s, %.2f M parameters\n", r->edge->hp.name,
                                    (double)r->edge->n_params / 1e6));
    }
    if (r->picked) {
        SHOAL_TRY(shoal_buf_appendf(buf, "threshold %.6g, chosen on %zu questions of dev\n",
                                    (double)r->threshold, r->n_dev));
    }
    for (size_t i = 0; i < r->n_splits; i++) {
        const eval_figures *f = &r->splits[i];
        SHOAL_TRY(shoal_buf_appendf(buf, "\n"));
        SHOAL_TRY(put_exact(r, f, color, buf));
        if (r->edge) {
            SHOAL_TRY(r->has_threshold ? put_chosen(r, f, buf) : SHOAL_OK);
            SHOAL_TRY(put_curve(f, buf));
            SHOAL_TRY(put_accepted(r, f, buf));
        }
    }
    SHOAL_TRY(r->n_exits ? shoal_buf_appendf(buf, "\n") : SHOAL_OK);
    SHOAL_TRY(put_exits(r, color, buf));
    SHOAL_TRY(r->exit ? put_leaving(r, buf) : SHOAL_OK);
    return shoal_buf_appendf(buf, "\n%.1f s\n", r->seconds);
}

/* --- the plot -----------------------------------------------------------------------------------
 */

shoal_status shoal_forge_report_plot(const eval_report *r, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_free_cleanup)
    forge_plot_point *points = shoal_calloc(EVAL_SPLITS_MAX, EVAL_CURVE_MAX * sizeof *points);
    forge_plot_curve curves[EVAL_SPLITS_MAX] = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf title = {0};
    if (!points) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < r->n_splits; i++) {
        const eval_figures *f = &r->splits[i];
        const eval_mix *m = &f->chosen[f->quiz.n_kinds];
        forge_plot_point *at = points + i * EVAL_CURVE_MAX;
        for (size_t j = 0; j < f->n_curve; j++) {
            at[j].x = ratio(f->curve[j].n_cloud, f->curve[j].n_tokens);
            at[j].y = ratio(f->curve[j].n_right, f->curve[j].n);
        }
        curves[i] = (forge_plot_curve){
            .name = f->quiz.name,
            .points = at,
            .n = f->n_curve,
            .full = f->full[f->quiz.n_kinds].exact.value,
            .has_chosen = r->has_threshold,
            .chosen = {.x = ratio(m->n_cloud, m->n_tokens), .y = ratio(m->n_right, m->n)}};
    }
    SHOAL_TRY(
        shoal_buf_appendf(&title, "%s with help from %s", r->edge->hp.name, r->full->hp.name));
    return shoal_forge_plot(title.data, curves, r->n_splits, buf);
}
