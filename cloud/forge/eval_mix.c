/* SPDX-License-Identifier: Apache-2.0
 *
 * The edge writes, the full model takes over single tokens. While the text is the reference, what
 * both say of it decides; where it leaves the reference, both engines go on over the real text.
 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Answers that left the reference, and how some of them went on. */
typedef struct strays {
    const eval_pair *pair;
    float threshold;
    eval_path *paths; /* prompt, what has been written, the token that left the reference */
    size_t *of;       /* question of each */
    size_t *n_cloud;  /* tokens of the full model up to there */
    int32_t *texts;
    size_t n;
    eval_path *told; /* [n_told] paths of those that went on */
    int32_t *tails;  /* [n_told][n_max] what was written after that */
    size_t *n_tails;
    size_t *n_tail_cloud;
    size_t n_told;
} strays;

static void strays_fini(strays *s)
{
    shoal_free(s->paths);
    shoal_free(s->of);
    shoal_free(s->n_cloud);
    shoal_free(s->texts);
    shoal_free(s->told);
    shoal_free(s->tails);
    shoal_free(s->n_tails);
    shoal_free(s->n_tail_cloud);
}

static shoal_status strays_init(strays *s, size_t n_tails_max, shoal_err *err)
{
    const eval_quiz *quiz = s->pair->quiz;
    size_t n_told = SHOAL_MIN(n_tails_max, quiz->n);
    s->paths = shoal_calloc(quiz->n, sizeof *s->paths);
    s->of = shoal_calloc(quiz->n, sizeof *s->of);
    s->n_cloud = shoal_calloc(quiz->n, sizeof *s->n_cloud);
    s->texts = shoal_calloc(quiz->n, (quiz->n_prompt_max + quiz->n_answer_max) * sizeof *s->texts);
    s->told = shoal_calloc(n_told, sizeof *s->told);
    s->tails = shoal_calloc(n_told, s->pair->full->n_max * sizeof *s->tails);
    s->n_tails = shoal_calloc(n_told, sizeof *s->n_tails);
    s->n_tail_cloud = shoal_calloc(n_told, sizeof *s->n_tail_cloud);
    return s->paths && s->of && s->n_cloud && s->texts && s->told && s->tails && s->n_tails &&
                   s->n_tail_cloud
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answers", quiz->n);
}

static shoal_sampled greedy(const eval_voice *voice, const float *logits)
{
    shoal_sampling settings = shoal_sampling_default();
    shoal_sampled sampled;
    settings.temperature = 0;
    shoal_sample(voice->samplers[0], &settings, logits, NULL, 0, &sampled);
    return sampled;
}

static int32_t choose_mixed(void *ctx, size_t path, const int32_t *text, size_t n_text,
                            const float *const *logits)
{
    (void)text;
    (void)n_text;
    strays *s = ctx;
    shoal_sampled edge = greedy(s->pair->voices[0], logits[0]);
    if (!(edge.confidence < s->threshold)) {
        return edge.id;
    }
    s->n_tail_cloud[path]++;
    return greedy(s->pair->voices[1], logits[1]).id;
}

/* What has been counted of an answer. */
typedef struct written {
    bool right;
    bool same;
    size_t n_tokens;
    size_t n_cloud;
} written;

static void count(const eval_pair *pair, size_t i, const written *w, eval_mix *mixes)
{
    bool full_right = shoal_forge_is_right(pair->quiz, pair->full, i);
    const size_t groups[] = {pair->quiz->questions[i].kind, pair->quiz->n_kinds};
    for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
        eval_mix *m = &mixes[groups[g]];
        m->n++;
        m->n_right += w->right;
        m->n_lost += full_right && !w->right;
        m->n_gained += w->right && !full_right;
        m->n_same += w->same;
        m->n_tokens += w->n_tokens;
        m->n_cloud += w->n_cloud;
        m->n_touched += w->n_cloud > 0;
    }
}

/* Whether a text, in two pieces, is the full model's own answer. */
static bool is_same(const eval_pair *pair, size_t i, const int32_t *a, size_t n_a, const int32_t *b,
                    size_t n_b)
{
    const int32_t *own = pair->full->ids + i * pair->full->n_max;
    return pair->full->n_ids[i] == n_a + n_b && memcmp(own, a, n_a * sizeof *a) == 0 &&
           (n_b == 0 || memcmp(own + n_a, b, n_b * sizeof *b) == 0);
}

/* Writes along the reference; an answer that leaves it, and does not end there, joins the strays.
 */
static void write_along(strays *s, size_t i, eval_mix *mixes)
{
    const eval_pair *pair = s->pair;
    const eval_question *q = &pair->quiz->questions[i];
    const int32_t *ids = pair->quiz->ids + q->first;
    const int32_t *reference = ids + q->n_prompt;
    written w = {0};
    int32_t id = 0;
    do {
        const eval_said *edge = &pair->edge->said[q->said_i + w.n_tokens];
        bool cloud = edge->confidence < s->threshold;
        id = cloud ? pair->full->said[q->said_i + w.n_tokens].id : edge->id;
        w.n_cloud += cloud;
        w.n_tokens++;
    } while (id == reference[w.n_tokens - 1] && w.n_tokens < q->n_answer);
    w.right = id == reference[w.n_tokens - 1];
    int32_t *text = s->texts + s->n * (pair->quiz->n_prompt_max + pair->quiz->n_answer_max);
    memcpy(text, ids, (q->n_prompt + w.n_tokens) * sizeof *text);
    text[q->n_prompt + w.n_tokens - 1] = id;
    if (w.right || shoal_tokenizer_is_end(pair->voices[1]->model->tokenizer, id)) {
        w.same = is_same(pair, i, text + q->n_prompt, w.n_tokens, NULL, 0);
        count(pair, i, &w, mixes);
        return;
    }
    s->paths[s->n] = (eval_path){.ids = text,
                                 .n_prompt = q->n_prompt + w.n_tokens,
                                 .n_answer = pair->full->n_max - w.n_tokens};
    s->n_cloud[s->n] = w.n_cloud;
    s->of[s->n++] = i;
}

/* Lets n_told of the strays, spread evenly, be written to their ends. */
static shoal_status tell(strays *s, size_t n_tails_max, shoal_err *err)
{
    const eval_pair *pair = s->pair;
    eval_decoding d = {.voices = {pair->voices[0], pair->voices[1]},
                       .n_new_max = pair->full->n_max,
                       .choose = choose_mixed,
                       .ctx = s};
    s->n_told = SHOAL_MIN(n_tails_max, s->n);
    for (size_t k = 0; k < s->n_told; k++) {
        s->told[k] = s->paths[k * s->n / s->n_told];
    }
    return shoal_forge_decode(&d, s->told, s->n_told, s->tails, s->n_tails, err);
}

/* Whether a stray that was told is the full model's own answer. */
static bool is_told_same(const strays *s, size_t told)
{
    size_t i = s->of[told * s->n / s->n_told];
    size_t n_prompt = s->pair->quiz->questions[i].n_prompt;
    return is_same(s->pair, i, s->told[told].ids + n_prompt, s->told[told].n_prompt - n_prompt,
                   s->tails + told * s->pair->full->n_max, s->n_tails[told]);
}

shoal_status shoal_forge_mix(const eval_pair *pair, float threshold, size_t n_tails_max,
                             eval_mix *ret_mixes, shoal_err *err)
{
    SHOAL_ASSERT(n_tails_max > 0);
    SHOAL_CLEANUP(strays_fini) strays s = {.pair = pair, .threshold = threshold};
    eval_mix mixes[EVAL_KINDS_MAX + 1] = {0};
    SHOAL_TRY(strays_init(&s, n_tails_max, err));
    for (size_t i = 0; i < pair->quiz->n; i++) {
        write_along(&s, i, mixes);
    }
    SHOAL_TRY(tell(&s, n_tails_max, err));
    for (size_t k = 0, told = 0; k < s.n; k++) {
        while (told + 1 < s.n_told && (told + 1) * s.n / s.n_told <= k) {
            told++; /* the last one that is not after k */
        }
        size_t n_before = s.paths[k].n_prompt - pair->quiz->questions[s.of[k]].n_prompt;
        const written w = {.same = is_told_same(&s, told),
                           .n_tokens = n_before + s.n_tails[told],
                           .n_cloud = s.n_cloud[k] + s.n_tail_cloud[told]};
        count(pair, s.of[k], &w, mixes);
    }
    for (size_t k = 0; k <= pair->quiz->n_kinds; k++) {
        mixes[k].threshold = threshold;
        ret_mixes[k] = mixes[k];
    }
    return SHOAL_OK;
}

/* --- thresholds ---------------------------------------------------------------------------------
 */

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

float shoal_forge_threshold_at(const eval_quiz *quiz, const eval_answers *edge, double share,
                               float *work)
{
    size_t n = quiz->n_said;
    size_t n_below = (size_t)(share * (double)n + 0.5);
    if (n_below == 0) {
        return 0;
    }
    if (n_below >= n) {
        return 2;
    }
    for (size_t i = 0; i < n; i++) {
        work[i] = edge->said[i].confidence;
    }
    qsort(work, n, sizeof *work, ascending);
    return nextafterf(work[n_below - 1], 2.0F);
}

/* The greatest confidence with which the edge is wrong along the reference, or -1. */
static float trap(const eval_pair *pair, size_t i)
{
    const eval_question *q = &pair->quiz->questions[i];
    const int32_t *reference = pair->quiz->ids + q->first + q->n_prompt;
    float worst = -1;
    for (size_t j = 0; j < q->n_answer; j++) {
        const eval_said *said = &pair->edge->said[q->said_i + j];
        if (said->id != reference[j] && said->confidence > worst) {
            worst = said->confidence;
        }
    }
    return worst;
}

shoal_status shoal_forge_pick(const eval_pair *pair, double allowed, float *ret_threshold,
                              shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) float *traps = shoal_calloc(pair->quiz->n, sizeof *traps);
    size_t n = 0;
    if (!traps) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to choose a threshold");
    }
    for (size_t i = 0; i < pair->quiz->n; i++) {
        if (shoal_forge_is_right(pair->quiz, pair->full, i)) {
            traps[n++] = trap(pair, i);
        }
    }
    if (!(shoal_forge_wilson(0, n).high <= allowed)) {
        size_t n_least = n;
        while (!(shoal_forge_wilson(0, n_least).high <= allowed)) {
            n_least += 1 + n_least / 1000;
        }
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--pick: the full model is right in %zu answers of %s, fewer than the "
                             "%zu or so that can show a loss of at most %.3g %%: ask more",
                             n, pair->quiz->name, n_least, 100 * allowed);
    }
    size_t n_losses = 0;
    while (n_losses < n && shoal_forge_wilson(n_losses + 1, n).high <= allowed) {
        n_losses++;
    }
    qsort(traps, n, sizeof *traps, ascending);
    float greatest = n_losses < n ? traps[n - 1 - n_losses] : -1;
    *ret_threshold = greatest < 0 ? 0 : nextafterf(greatest, 2.0F);
    return SHOAL_OK;
}
