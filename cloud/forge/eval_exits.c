/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model answers when it is left at one of its exits for every token.
 */
#include "cloud/forge/depths.h"
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

typedef struct listener {
    eval_voice *voice;
    forge_depths *depths;
    size_t n_exits;
    const eval_quiz *quiz;
    const eval_question *question;
    eval_answers *answers; /* [n_exits] */
    size_t head;           /* of the answers under way */
    int32_t next;          /* its greedy choice */
} listener;

static shoal_sampled choose(const listener *l, const float *logits)
{
    shoal_sampling settings = shoal_sampling_default();
    shoal_sampled sampled;
    settings.temperature = 0;
    shoal_sample(l->voice->samplers[0], &settings, logits, NULL, 0, &sampled);
    return sampled;
}

static shoal_status hear_reference(void *ctx, size_t position, size_t head, const float *logits)
{
    const listener *l = ctx;
    const eval_question *q = l->question;
    if (head >= l->n_exits) {
        return SHOAL_OK;
    }
    shoal_sampled sampled = choose(l, logits);
    int32_t target = l->quiz->ids[q->first + position + 1];
    size_t n_vocab = l->voice->session.model->hp.n_vocab;
    l->answers[head].said[q->said_i + position + 1 - q->n_prompt] =
        (eval_said){.id = sampled.id,
                    .confidence = sampled.confidence,
                    .nll = shoal_forge_judge(logits, n_vocab, target).nll};
    return SHOAL_OK;
}

static shoal_status hear_last(void *ctx, size_t position, size_t head, const float *logits)
{
    listener *l = ctx;
    (void)position;
    if (head == l->head) {
        l->next = choose(l, logits).id;
    }
    return SHOAL_OK;
}

/* Token by token, the whole text each time: texts are short. */
static shoal_status complete_at_exit(void *ctx, const eval_path *paths, size_t n, size_t n_new_max,
                                     int32_t *ret_ids, size_t *ret_n_new, shoal_err *err)
{
    listener *l = ctx;
    const shoal_tokenizer *tokenizer = l->voice->session.model->tokenizer;
    size_t room = l->quiz->n_prompt_max + l->quiz->n_answer_max + n_new_max;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *text = shoal_calloc(room, sizeof *text);
    if (!text) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an answer");
    }
    for (size_t i = 0; i < n; i++) {
        size_t n_text = paths[i].n_prompt;
        size_t n_new = 0;
        memcpy(text, paths[i].ids, n_text * sizeof *text);
        do {
            SHOAL_TRY(
                shoal_forge_depths_run(l->depths, text, n_text, n_text - 1, hear_last, l, err));
            text[n_text++] = l->next;
            ret_ids[i * n_new_max + n_new++] = l->next;
        } while (n_new < paths[i].n_answer && !shoal_tokenizer_is_end(tokenizer, l->next));
        ret_n_new[i] = n_new;
    }
    return SHOAL_OK;
}

static shoal_status answer(listener *l, shoal_err *err)
{
    const eval_quiz *quiz = l->quiz;
    for (size_t e = 0; e < l->n_exits; e++) {
        SHOAL_TRY(shoal_forge_answers_init(quiz, &l->answers[e], err));
    }
    for (size_t i = 0; i < quiz->n; i++) {
        const eval_question *q = &quiz->questions[i];
        l->question = q;
        SHOAL_TRY(shoal_forge_depths_run(l->depths, quiz->ids + q->first,
                                         q->n_prompt + q->n_answer - 1, q->n_prompt - 1,
                                         hear_reference, l, err));
    }
    for (l->head = 0; l->head < l->n_exits; l->head++) {
        SHOAL_TRY(shoal_forge_answers_finish(quiz, l->voice->session.model->tokenizer,
                                             complete_at_exit, l, &l->answers[l->head], err));
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_answer_exits(eval_voice *voice, size_t n_threads, const eval_quiz *quiz,
                                      eval_answers *ret_answers, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_depths_freep) forge_depths *depths = NULL;
    SHOAL_TRY(shoal_forge_depths_new(&voice->session, n_threads, &depths, err));
    listener l = {.voice = voice,
                  .depths = depths,
                  .n_exits = shoal_forge_depths_n_heads(depths) - 1,
                  .quiz = quiz,
                  .answers = ret_answers};
    shoal_status status = answer(&l, err);
    for (size_t e = 0; e < l.n_exits && status != SHOAL_OK; e++) {
        shoal_forge_answers_fini(&ret_answers[e]);
    }
    return status;
}
