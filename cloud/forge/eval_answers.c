/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

void shoal_forge_answers_fini(eval_answers *answers)
{
    shoal_free(answers->said);
    shoal_free(answers->ids);
    shoal_free(answers->n_ids);
    memset(answers, 0, sizeof *answers);
}

/* --- answering ----------------------------------------------------------------------------------
 */

/* Positions of the reference at which all before it is the greedy choice, itself included. */
static size_t right_prefix(const eval_quiz *quiz, const eval_answers *answers, size_t i)
{
    const eval_question *q = &quiz->questions[i];
    const int32_t *reference = quiz->ids + q->first + q->n_prompt;
    size_t n = 0;
    while (n < q->n_answer && answers->said[q->said_i + n].id == reference[n]) {
        n++;
    }
    return n;
}

bool shoal_forge_is_right(const eval_quiz *quiz, const eval_answers *answers, size_t i)
{
    return right_prefix(quiz, answers, i) == quiz->questions[i].n_answer;
}

static int32_t choose_greedily(void *ctx, size_t path, const int32_t *text, size_t n_text,
                               const float *const *logits)
{
    const eval_voice *voice = ctx;
    (void)path;
    shoal_sampling settings = shoal_sampling_default();
    shoal_sampled sampled;
    settings.temperature = 0;
    shoal_sample(voice->samplers[0], &settings, logits[0], text, n_text, &sampled);
    return sampled.id;
}

/* Wrong answers under way: each has the right prefix and the first wrong token. */
typedef struct wrong {
    eval_path *paths;
    size_t *of; /* question of each */
    int32_t *texts;
    int32_t *ids;
    size_t *n_ids;
    size_t n;
} wrong;

static void wrong_fini(wrong *w)
{
    shoal_free(w->paths);
    shoal_free(w->of);
    shoal_free(w->texts);
    shoal_free(w->ids);
    shoal_free(w->n_ids);
}

static shoal_status wrong_init(wrong *w, size_t n, size_t n_text_max, size_t n_max, shoal_err *err)
{
    w->paths = shoal_calloc(n, sizeof *w->paths);
    w->of = shoal_calloc(n, sizeof *w->of);
    w->texts = shoal_calloc(n * n_text_max, sizeof *w->texts);
    w->ids = shoal_calloc(n * n_max, sizeof *w->ids);
    w->n_ids = shoal_calloc(n, sizeof *w->n_ids);
    return w->paths && w->of && w->texts && w->ids && w->n_ids
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answers", n);
}

/* Writes what is known of each answer; wrong ones that do not end there go into w. */
static void begin_answers(const eval_quiz *quiz, const shoal_tokenizer *tokenizer, eval_answers *a,
                          wrong *w)
{
    for (size_t i = 0; i < quiz->n; i++) {
        const eval_question *q = &quiz->questions[i];
        const int32_t *ids = quiz->ids + q->first;
        int32_t *out = a->ids + i * a->n_max;
        size_t n = right_prefix(quiz, a, i);
        memcpy(out, ids + q->n_prompt, n * sizeof *out);
        if (n == q->n_answer) {
            a->n_ids[i] = n;
            continue;
        }
        out[n] = a->said[q->said_i + n].id;
        a->n_ids[i] = ++n;
        if (!shoal_tokenizer_is_end(tokenizer, out[n - 1])) {
            int32_t *text = w->texts + w->n * (quiz->n_prompt_max + quiz->n_answer_max);
            memcpy(text, ids, q->n_prompt * sizeof *text);
            memcpy(text + q->n_prompt, out, n * sizeof *text);
            w->paths[w->n] =
                (eval_path){.ids = text, .n_prompt = q->n_prompt + n, .n_answer = a->n_max - n};
            w->of[w->n++] = i;
        }
    }
}

static shoal_status finish_answers(eval_voice *voice, const eval_quiz *quiz, eval_answers *answers,
                                   shoal_err *err)
{
    SHOAL_CLEANUP(wrong_fini) wrong w = {0};
    size_t n_max = answers->n_max;
    SHOAL_TRY(wrong_init(&w, quiz->n, quiz->n_prompt_max + quiz->n_answer_max, n_max, err));
    begin_answers(quiz, voice->model->tokenizer, answers, &w);
    eval_decoding d = {
        .voices = {voice, NULL}, .n_new_max = n_max, .choose = choose_greedily, .ctx = voice};
    SHOAL_TRY(shoal_forge_decode(&d, w.paths, w.n, w.ids, w.n_ids, err));
    for (size_t k = 0; k < w.n; k++) {
        size_t i = w.of[k];
        int32_t *end = answers->ids + i * n_max + answers->n_ids[i];
        memcpy(end, w.ids + k * n_max, w.n_ids[k] * sizeof *end);
        answers->n_ids[i] += w.n_ids[k];
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_answer(eval_voice *voice, const eval_quiz *quiz, eval_answers *ret_answers,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_answers_fini) eval_answers a = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) eval_path *paths = shoal_calloc(quiz->n, sizeof *paths);
    a.n_max = quiz->n_answer_max + EVAL_EXTRA;
    a.said = shoal_calloc(quiz->n_said, sizeof *a.said);
    a.ids = shoal_calloc(quiz->n, a.n_max * sizeof *a.ids);
    a.n_ids = shoal_calloc(quiz->n, sizeof *a.n_ids);
    if (!paths || !a.said || !a.ids || !a.n_ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answers", quiz->n);
    }
    for (size_t i = 0; i < quiz->n; i++) {
        const eval_question *q = &quiz->questions[i];
        paths[i] = (eval_path){.ids = quiz->ids + q->first,
                               .n_prompt = q->n_prompt,
                               .n_answer = q->n_answer,
                               .said_i = q->said_i};
    }
    SHOAL_TRY(shoal_forge_voice_read(voice, paths, quiz->n, a.said, err));
    SHOAL_TRY(finish_answers(voice, quiz, &a, err));
    *ret_answers = a;
    memset(&a, 0, sizeof a);
    return SHOAL_OK;
}
