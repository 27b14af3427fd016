/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

/* --- greedy: the edge along the full model's own answers ----------------------------------------
 */

static void count_greedy(const eval_pair *pair, size_t i, const eval_said *said,
                         eval_accepted *accepted)
{
    const int32_t *own = pair->full->ids + i * pair->full->n_max;
    const size_t groups[] = {pair->quiz->questions[i].kind, pair->quiz->n_kinds};
    for (size_t j = 0; j < pair->full->n_ids[i]; j++) {
        for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
            accepted[groups[g]].n_greedy++;
            accepted[groups[g]].n_greedy_accepted += said[j].id == own[j];
        }
    }
}

/* The prompts with the answers of the full model that are not the references. */
typedef struct own_paths {
    eval_path *paths;
    size_t *of;
    int32_t *texts;
    eval_said *said;
    size_t n;
    size_t n_said;
} own_paths;

static void own_paths_fini(own_paths *o)
{
    shoal_free(o->paths);
    shoal_free(o->of);
    shoal_free(o->texts);
    shoal_free(o->said);
}

static shoal_status own_paths_init(const eval_pair *pair, own_paths *o, shoal_err *err)
{
    const eval_quiz *quiz = pair->quiz;
    size_t n_max = pair->full->n_max;
    o->paths = shoal_calloc(quiz->n, sizeof *o->paths);
    o->of = shoal_calloc(quiz->n, sizeof *o->of);
    o->texts = shoal_calloc(quiz->n, (quiz->n_prompt_max + n_max) * sizeof *o->texts);
    o->said = shoal_calloc(quiz->n, n_max * sizeof *o->said);
    if (!o->paths || !o->of || !o->texts || !o->said) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answers", quiz->n);
    }
    for (size_t i = 0; i < quiz->n; i++) {
        const eval_question *q = &quiz->questions[i];
        size_t n = pair->full->n_ids[i];
        if (shoal_forge_is_right(quiz, pair->full, i)) {
            continue;
        }
        int32_t *text = o->texts + o->n * (quiz->n_prompt_max + n_max);
        memcpy(text, quiz->ids + q->first, q->n_prompt * sizeof *text);
        memcpy(text + q->n_prompt, pair->full->ids + i * n_max, n * sizeof *text);
        o->paths[o->n] =
            (eval_path){.ids = text, .n_prompt = q->n_prompt, .n_answer = n, .said_i = o->n_said};
        o->of[o->n++] = i;
        o->n_said += n;
    }
    return SHOAL_OK;
}

static shoal_status accept_greedy(const eval_pair *pair, eval_accepted *accepted, shoal_err *err)
{
    SHOAL_CLEANUP(own_paths_fini) own_paths o = {0};
    SHOAL_TRY(own_paths_init(pair, &o, err));
    SHOAL_TRY(shoal_forge_voice_read(pair->voices[0], o.paths, o.n, o.said, err));
    for (size_t i = 0; i < pair->quiz->n; i++) {
        if (shoal_forge_is_right(pair->quiz, pair->full, i)) {
            count_greedy(pair, i, &pair->edge->said[pair->quiz->questions[i].said_i], accepted);
        }
    }
    for (size_t k = 0; k < o.n; k++) {
        count_greedy(pair, o.of[k], &o.said[o.paths[k].said_i], accepted);
    }
    return SHOAL_OK;
}

/* --- coupled: both sample with the same noise, on the text of the full model --------------------
 */

typedef struct coupled {
    const eval_pair *pair;
    double temperature;
    uint64_t seed;
    size_t *of; /* question of each path */
    eval_accepted *accepted;
    double *work; /* [2 * n_vocab] */
} coupled;

static int32_t choose_coupled(void *ctx, size_t path, const int32_t *text, size_t n_text,
                              const float *const *logits)
{
    const coupled *c = ctx;
    shoal_sampling settings = shoal_sampling_default();
    shoal_sampled edge;
    shoal_sampled full;
    settings.temperature = (float)c->temperature;
    settings.seed = c->seed + c->of[path];
    shoal_sample(c->pair->voices[0]->samplers[0], &settings, logits[0], text, n_text, &edge);
    shoal_sample(c->pair->voices[1]->samplers[0], &settings, logits[1], text, n_text, &full);
    size_t n_vocab = c->pair->voices[1]->model->hp.n_vocab;
    double tv = shoal_forge_total_variation(logits[0], logits[1], n_vocab, c->temperature, c->work);
    const size_t groups[] = {c->pair->quiz->questions[c->of[path]].kind, c->pair->quiz->n_kinds};
    for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
        eval_accepted *a = &c->accepted[groups[g]];
        a->n_coupled++;
        a->n_coupled_accepted += edge.id == full.id;
        a->tv += tv;
        a->bound += shoal_forge_coupling_bound(tv);
    }
    return full.id;
}

typedef struct room {
    eval_path *paths;
    size_t *of;
    int32_t *ids;
    size_t *n_ids;
    double *work;
} room;

static void room_fini(room *r)
{
    shoal_free(r->paths);
    shoal_free(r->of);
    shoal_free(r->ids);
    shoal_free(r->n_ids);
    shoal_free(r->work);
}

static shoal_status accept_coupled(const eval_pair *pair, double temperature, uint64_t seed,
                                   size_t n, eval_accepted *accepted, shoal_err *err)
{
    SHOAL_CLEANUP(room_fini) room r = {0};
    const eval_quiz *quiz = pair->quiz;
    size_t n_max = pair->full->n_max;
    r.paths = shoal_calloc(n, sizeof *r.paths);
    r.of = shoal_calloc(n, sizeof *r.of);
    r.ids = shoal_calloc(n, n_max * sizeof *r.ids);
    r.n_ids = shoal_calloc(n, sizeof *r.n_ids);
    r.work = shoal_calloc(pair->voices[1]->model->hp.n_vocab, 2 * sizeof *r.work);
    if (!r.paths || !r.of || !r.ids || !r.n_ids || !r.work) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answers", n);
    }
    for (size_t k = 0; k < n; k++) {
        size_t i = k * quiz->n / n;
        r.of[k] = i;
        r.paths[k] = (eval_path){.ids = quiz->ids + quiz->questions[i].first,
                                 .n_prompt = quiz->questions[i].n_prompt,
                                 .n_answer = n_max};
    }
    coupled c = {.pair = pair,
                 .temperature = temperature,
                 .seed = seed,
                 .of = r.of,
                 .accepted = accepted,
                 .work = r.work};
    eval_decoding d = {.voices = {pair->voices[0], pair->voices[1]},
                       .n_new_max = n_max,
                       .choose = choose_coupled,
                       .ctx = &c};
    return shoal_forge_decode(&d, r.paths, n, r.ids, r.n_ids, err);
}

shoal_status shoal_forge_accept(const eval_pair *pair, double temperature, uint64_t seed,
                                size_t n_sampled, eval_accepted *ret_accepted, shoal_err *err)
{
    eval_accepted accepted[EVAL_KINDS_MAX + 1] = {0};
    SHOAL_TRY(accept_greedy(pair, accepted, err));
    SHOAL_TRY(accept_coupled(pair, temperature, seed, SHOAL_MIN(n_sampled, pair->quiz->n), accepted,
                             err));
    for (size_t k = 0; k <= pair->quiz->n_kinds; k++) {
        double n = (double)SHOAL_MAX(accepted[k].n_coupled, (size_t)1);
        accepted[k].tv /= n;
        accepted[k].bound /= n;
        ret_accepted[k] = accepted[k];
    }
    return SHOAL_OK;
}
