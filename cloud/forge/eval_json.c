/* SPDX-License-Identifier: Apache-2.0
 *
 * The report for programs. Shares are in [0, 1]; a number that is not finite is null.
 */
#include "cloud/forge/eval_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* "key": value, with a comma before it unless it is the first of its object. */
static shoal_status number(shoal_buf *buf, const char *key, double value)
{
    const char *comma = buf->length && buf->data[buf->length - 1] == '{' ? "" : ", ";
    return isfinite(value) ? shoal_buf_appendf(buf, "%s\"%s\": %.9g", comma, key, value)
                           : shoal_buf_appendf(buf, "%s\"%s\": null", comma, key);
}

static shoal_status count(shoal_buf *buf, const char *key, size_t value)
{
    const char *comma = buf->length && buf->data[buf->length - 1] == '{' ? "" : ", ";
    return shoal_buf_appendf(buf, "%s\"%s\": %zu", comma, key, value);
}

static shoal_status interval(shoal_buf *buf, const char *key, const forge_interval *x)
{
    char bounds[40];
    SHOAL_TRY(number(buf, key, x->value));
    (void)snprintf(bounds, sizeof bounds, "%s_low", key);
    SHOAL_TRY(number(buf, bounds, x->low));
    (void)snprintf(bounds, sizeof bounds, "%s_high", key);
    return number(buf, bounds, x->high);
}

static double share(size_t a, size_t b)
{
    return b ? (double)a / (double)b : 0;
}

static shoal_status summary(shoal_buf *buf, const char *key, const eval_summary *s, bool weighted)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"%s\": {", key));
    SHOAL_TRY(count(buf, "n", s->n));
    SHOAL_TRY(count(buf, "n_right", s->n_right));
    SHOAL_TRY(interval(buf, "exact", &s->exact));
    if (weighted) {
        SHOAL_TRY(interval(buf, "weighted", &s->weighted));
    }
    SHOAL_TRY(number(buf, "f1", s->f1));
    SHOAL_TRY(number(buf, "bleu", s->bleu));
    SHOAL_TRY(count(buf, "n_tokens", s->n_tokens));
    SHOAL_TRY(number(buf, "accuracy", s->accuracy));
    SHOAL_TRY(number(buf, "perplexity", s->perplexity));
    return shoal_buf_append(buf, "}", 1);
}

/* The members of a mix, into an object that is open. */
static shoal_status mix(shoal_buf *buf, const eval_mix *m)
{
    forge_interval exact = shoal_forge_wilson(m->n_right, m->n);
    SHOAL_TRY(number(buf, "threshold", (double)m->threshold));
    SHOAL_TRY(count(buf, "n", m->n));
    SHOAL_TRY(count(buf, "n_right", m->n_right));
    SHOAL_TRY(interval(buf, "exact", &exact));
    SHOAL_TRY(number(buf, "of_full", share(m->n_right, m->n_right + m->n_lost - m->n_gained)));
    SHOAL_TRY(count(buf, "n_lost", m->n_lost));
    SHOAL_TRY(count(buf, "n_gained", m->n_gained));
    SHOAL_TRY(number(buf, "same", share(m->n_same, m->n)));
    SHOAL_TRY(count(buf, "n_tokens", m->n_tokens));
    SHOAL_TRY(number(buf, "cloud_share", share(m->n_cloud, m->n_tokens)));
    return number(buf, "touched", share(m->n_touched, m->n));
}

static shoal_status accepted(shoal_buf *buf, const eval_accepted *a)
{
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"accepted\": {"));
    SHOAL_TRY(number(buf, "greedy", share(a->n_greedy_accepted, a->n_greedy)));
    SHOAL_TRY(count(buf, "n_greedy", a->n_greedy));
    SHOAL_TRY(number(buf, "coupled", share(a->n_coupled_accepted, a->n_coupled)));
    SHOAL_TRY(count(buf, "n_coupled", a->n_coupled));
    SHOAL_TRY(number(buf, "bound", a->bound));
    SHOAL_TRY(number(buf, "total_variation", a->tv));
    return shoal_buf_append(buf, "}", 1);
}

static shoal_status group_head(shoal_buf *buf, const eval_quiz *quiz, size_t k)
{
    const char *name = k == quiz->n_kinds ? "all" : quiz->kinds[k];
    SHOAL_TRY(shoal_buf_appendf(buf, "%s{\"kind\": ", k ? ", " : ""));
    return shoal_forge_json_string(buf, name, strlen(name));
}

static shoal_status split(shoal_buf *buf, const eval_report *r, const eval_figures *f)
{
    const eval_quiz *quiz = &f->quiz;
    SHOAL_TRY(shoal_buf_appendf(buf, "{\"name\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, quiz->name, strlen(quiz->name)));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"kinds\": ["));
    for (size_t k = 0; k <= quiz->n_kinds; k++) {
        SHOAL_TRY(group_head(buf, quiz, k));
        SHOAL_TRY(summary(buf, "full", &f->full[k], quiz->weighted));
        if (r->edge) {
            SHOAL_TRY(summary(buf, "edge", &f->edge[k], quiz->weighted));
            SHOAL_TRY(accepted(buf, &f->accepted[k]));
        }
        if (r->has_threshold) {
            SHOAL_TRY(shoal_buf_appendf(buf, ", \"both\": {"));
            SHOAL_TRY(mix(buf, &f->chosen[k]));
            SHOAL_TRY(shoal_buf_append(buf, "}", 1));
        }
        SHOAL_TRY(shoal_buf_append(buf, "}", 1));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "], \"curve\": ["));
    for (size_t i = 0; i < f->n_curve; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s{", i ? ", " : ""));
        SHOAL_TRY(mix(buf, &f->curve[i]));
        SHOAL_TRY(shoal_buf_append(buf, "}", 1));
    }
    return shoal_buf_append(buf, "]}", 2);
}

static shoal_status exits(shoal_buf *buf, const eval_report *r)
{
    const eval_quiz *quiz = &r->splits[r->exits_split].quiz;
    for (size_t e = 0; e < r->n_exits; e++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s{\"n_layers\": %zu, \"split\": ", e ? ", " : "",
                                    r->exits[e].n_layers));
        SHOAL_TRY(shoal_forge_json_string(buf, quiz->name, strlen(quiz->name)));
        SHOAL_TRY(shoal_buf_appendf(buf, ", \"kinds\": ["));
        for (size_t k = 0; k <= quiz->n_kinds; k++) {
            SHOAL_TRY(group_head(buf, quiz, k));
            SHOAL_TRY(summary(buf, "exit", &r->exits[e].of[k], quiz->weighted));
            SHOAL_TRY(shoal_buf_append(buf, "}", 1));
        }
        SHOAL_TRY(shoal_buf_append(buf, "]}", 2));
    }
    return SHOAL_OK;
}

static shoal_status cost(shoal_buf *buf, const char *key, const eval_leaving *l, size_t n_exits)
{
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        ", \"%s\": {\"n\": %zu, \"n_right\": %zu, \"n_tokens\": %zu, \"n_layers\": %zu, "
        "\"n_checked\": %zu, \"n_agreed\": %zu, \"layer_bytes\": %llu, \"head_bytes\": %llu, "
        "\"seconds\": %.4f, \"n_by_exit\": [",
        key, l->n, l->n_right, l->n_tokens, l->n_layers, l->n_checked, l->n_agreed,
        (unsigned long long)l->bytes_layers, (unsigned long long)l->bytes_heads, l->seconds));
    for (size_t i = 0; i <= n_exits; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "%s%zu", i ? ", " : "", l->n_by_exit[i]));
    }
    return shoal_buf_append(buf, "]}", 2);
}

static shoal_status leaving(shoal_buf *buf, const eval_report *r)
{
    size_t n_exits = (r->edge ? r->edge : r->full)->hp.n_exits;
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"leaving\": {\"policy\": "));
    SHOAL_TRY(shoal_forge_json_string(buf, r->exit, strlen(r->exit)));
    SHOAL_TRY(shoal_buf_appendf(buf, ", \"wait\": %zu", r->n_wait));
    SHOAL_TRY(cost(buf, "none_leaves", &r->deep, n_exits));
    SHOAL_TRY(cost(buf, "they_leave", &r->leaving, n_exits));
    return shoal_buf_append(buf, "}", 1);
}

static shoal_status model(shoal_buf *buf, const char *key, const shoal_model *m)
{
    char hash[SHOAL_HASH_HEX];
    shoal_hash_hex(&m->hash, hash);
    SHOAL_TRY(shoal_buf_appendf(buf, "\"%s\": {\"name\": ", key));
    SHOAL_TRY(shoal_forge_json_string(buf, m->hp.name, strlen(m->hp.name)));
    return shoal_buf_appendf(buf, ", \"model_hash\": \"%s\"}, ", hash);
}

shoal_status shoal_forge_report_json(const eval_report *r, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_append(buf, "{", 1));
    SHOAL_TRY(model(buf, "full", r->full));
    if (r->edge) {
        SHOAL_TRY(model(buf, "edge", r->edge));
    }
    if (r->has_threshold) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"threshold\": %.9g, ", (double)r->threshold));
    }
    if (r->picked) {
        SHOAL_TRY(shoal_buf_appendf(buf, "\"n_dev\": %zu, ", r->n_dev));
    }
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "\"temperature\": %.9g, \"seed\": %llu, \"seconds\": %.3f, "
                                "\"splits\": [",
                                r->temperature, r->seed, r->seconds));
    for (size_t i = 0; i < r->n_splits; i++) {
        SHOAL_TRY(i ? shoal_buf_append(buf, ", ", 2) : SHOAL_OK);
        SHOAL_TRY(split(buf, r, &r->splits[i]));
    }
    SHOAL_TRY(shoal_buf_appendf(buf, "], \"exits\": ["));
    SHOAL_TRY(exits(buf, r));
    SHOAL_TRY(shoal_buf_append(buf, "]", 1));
    SHOAL_TRY(r->exit ? leaving(buf, r) : SHOAL_OK);
    return shoal_buf_appendf(buf, "}\n");
}
