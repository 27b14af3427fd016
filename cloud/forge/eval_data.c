/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

void shoal_forge_quiz_fini(eval_quiz *quiz)
{
    for (size_t i = 0; i < quiz->n; i++) {
        shoal_free(quiz->questions[i].answer);
    }
    shoal_free(quiz->questions);
    shoal_free(quiz->ids);
    memset(quiz, 0, sizeof *quiz);
}

static shoal_status find_kind(eval_quiz *quiz, const char *name, size_t *ret_kind, shoal_err *err)
{
    for (size_t i = 0; i < quiz->n_kinds; i++) {
        if (strcmp(quiz->kinds[i], name) == 0) {
            *ret_kind = i;
            return SHOAL_OK;
        }
    }
    size_t length = strlen(name);
    if (length == 0 || length >= EVAL_KIND_NAME_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "kind \"%.40s\": names have 1 to %d bytes", name,
                             EVAL_KIND_NAME_MAX - 1);
    }
    if (quiz->n_kinds == EVAL_KINDS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "kind \"%s\" is one more than %d", name,
                             (int)EVAL_KINDS_MAX);
    }
    memcpy(quiz->kinds[quiz->n_kinds], name, length + 1);
    *ret_kind = quiz->n_kinds++;
    return SHOAL_OK;
}

static shoal_status reserve(eval_quiz *quiz, size_t n_more_ids, shoal_err *err)
{
    if (quiz->n == EVAL_QUESTIONS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "more than %d questions: limit them with -n",
                             (int)EVAL_QUESTIONS_MAX);
    }
    if (quiz->n == quiz->capacity) {
        size_t capacity = quiz->capacity ? 2 * quiz->capacity : 256;
        eval_question *questions = shoal_realloc(quiz->questions, capacity, sizeof *questions);
        if (!questions) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the questions");
        }
        quiz->questions = questions;
        quiz->capacity = capacity;
    }
    if (quiz->n_ids + n_more_ids > quiz->ids_capacity) {
        size_t capacity = SHOAL_MAX(2 * quiz->ids_capacity, quiz->n_ids + n_more_ids);
        int32_t *ids = shoal_realloc(quiz->ids, capacity, sizeof *ids);
        if (!ids) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the questions' tokens");
        }
        quiz->ids = ids;
        quiz->ids_capacity = capacity;
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_quiz_add(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                  const char *kind, const char *prompt, const char *answer,
                                  double weight, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    eval_question q = {.weight = weight};
    size_t n = 0;
    if (shoal_tokenizer_eos(tokenizer) < 0) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "the model has no end token: no answer of it ever ends");
    }
    SHOAL_TRY(shoal_forge_encode_example(tokenizer, prompt, answer, &ids, &n, &q.n_prompt, err));
    if (q.n_prompt == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the prompt has no tokens");
    }
    SHOAL_TRY(reserve(quiz, n, err));
    SHOAL_TRY(find_kind(quiz, kind, &q.kind, err));
    q.answer = shoal_strdup(answer);
    if (!q.answer) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an answer");
    }
    q.n_answer = n - q.n_prompt;
    q.first = quiz->n_ids;
    q.said_i = quiz->n_said;
    memcpy(quiz->ids + q.first, ids, n * sizeof *ids);
    quiz->n_ids += q.n_prompt + q.n_answer;
    quiz->n_said += q.n_answer;
    quiz->n_answer_max = SHOAL_MAX(quiz->n_answer_max, q.n_answer);
    quiz->n_prompt_max = SHOAL_MAX(quiz->n_prompt_max, q.n_prompt);
    quiz->questions[quiz->n++] = q;
    return SHOAL_OK;
}
