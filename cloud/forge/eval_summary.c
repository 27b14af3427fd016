/* SPDX-License-Identifier: Apache-2.0
 *
 * Figures of one model's answers, for each kind and for all of them.
 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

/* Sums of one kind while the answers are gone through. */
typedef struct sums {
    double f1;
    double nll;
    size_t n_tokens_right;
    forge_bleu bleu;
} sums;

/* Text of an answer, without what ends it. */
static shoal_status decode(const shoal_tokenizer *tokenizer, const int32_t *ids, size_t n,
                           shoal_buf *text)
{
    shoal_detok detok = {0};
    shoal_buf_reset(text);
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(shoal_detok_push(tokenizer, &detok, ids[i], text));
    }
    SHOAL_TRY(shoal_detok_finish(&detok, text));
    return shoal_buf_append(text, "", 0);
}

/* Adds one answer to the sums of its kind or of all. */
static shoal_status add(const eval_quiz *quiz, const eval_answers *answers, size_t i,
                        const char *text, sums *s, eval_summary *summary)
{
    const eval_question *q = &quiz->questions[i];
    const int32_t *reference = quiz->ids + q->first + q->n_prompt;
    double f1 = 0;
    SHOAL_TRY(shoal_forge_token_f1(q->answer, text, &f1));
    SHOAL_TRY(shoal_forge_bleu_add(&s->bleu, q->answer, text));
    s->f1 += f1;
    for (size_t j = 0; j < q->n_answer; j++) {
        const eval_said *said = &answers->said[q->said_i + j];
        s->nll += said->nll;
        s->n_tokens_right += said->id == reference[j];
    }
    summary->n++;
    summary->n_right += shoal_forge_is_right(quiz, answers, i);
    summary->n_tokens += q->n_answer;
    return SHOAL_OK;
}

/* The share right by weight, of one kind or of all (kind == n_kinds). */
static forge_interval weighted(const eval_quiz *quiz, const eval_answers *answers, size_t kind,
                               double *values, double *weights)
{
    size_t n = 0;
    for (size_t i = 0; i < quiz->n; i++) {
        if (kind == quiz->n_kinds || kind == quiz->questions[i].kind) {
            values[n] = shoal_forge_is_right(quiz, answers, i);
            weights[n++] = quiz->questions[i].weight;
        }
    }
    return shoal_forge_weighted_mean(values, weights, n);
}

shoal_status shoal_forge_summarise(const eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                   const eval_answers *answers, eval_summary *ret_summaries,
                                   shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) double *values = shoal_calloc(quiz->n, 2 * sizeof *values);
    sums all[EVAL_KINDS_MAX + 1] = {0};
    eval_summary summaries[EVAL_KINDS_MAX + 1] = {0};
    shoal_status status = values ? SHOAL_OK : SHOAL_E_NOMEM;
    for (size_t i = 0; i < quiz->n && status == SHOAL_OK; i++) {
        size_t kind = quiz->questions[i].kind;
        status = decode(tokenizer, answers->ids + i * answers->n_max, answers->n_ids[i], &text);
        const size_t groups[] = {kind, quiz->n_kinds};
        for (size_t g = 0; g < SHOAL_COUNT(groups) && status == SHOAL_OK; g++) {
            size_t k = groups[g];
            status = add(quiz, answers, i, text.data, &all[k], &summaries[k]);
        }
    }
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "answers cannot be compared: %s",
                             shoal_status_text(status));
    }
    for (size_t k = 0; k <= quiz->n_kinds; k++) {
        eval_summary *s = &summaries[k];
        size_t n_tokens = SHOAL_MAX(s->n_tokens, (size_t)1);
        s->exact = shoal_forge_wilson(s->n_right, s->n);
        s->weighted = weighted(quiz, answers, k, values, values + quiz->n);
        s->f1 = s->n ? all[k].f1 / (double)s->n : 0;
        s->bleu = shoal_forge_bleu_score(&all[k].bleu);
        s->accuracy = (double)all[k].n_tokens_right / (double)n_tokens;
        s->perplexity = shoal_forge_perplexity_of(all[k].nll, s->n_tokens);
        ret_summaries[k] = *s;
    }
    return SHOAL_OK;
}
