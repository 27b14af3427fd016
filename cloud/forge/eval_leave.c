/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions answered one after the other, token by token, as a daemon would for one client: the
 * real engine, with tokens that leave at exits and what waits computed later, or with none leaving.
 */
#include "cloud/forge/eval.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <string.h>

/* One run over a quiz. */
typedef struct leaving {
    eval_voice *voice;
    shoal_depth *depth;
    const shoal_exit_rule *rules; /* NULL: nothing leaves */
    int32_t *text;                /* the prompt and what was said */
    size_t n_text;
    size_t n_prompt;
    eval_leaving *sum;
} leaving;

/* The likeliest token of a row of logits. */
static int32_t greedy(const leaving *l, size_t logits_i)
{
    shoal_sampling sampling = shoal_sampling_default();
    shoal_sampled sampled;
    sampling.temperature = 0;
    shoal_sample(l->voice->samplers[0], &sampling, shoal_engine_logits(l->voice->engine, logits_i),
                 l->text, l->n_text, &sampled);
    return sampled.id;
}

static void count_checks(const leaving *l, const shoal_span *span)
{
    for (size_t i = 0; i < span->n_checks; i++) {
        size_t position = span->check_from + i + 1;
        if (position >= l->n_prompt && position < l->n_text) { /* nobody said the prompt */
            l->sum->n_checked++;
            l->sum->n_agreed += greedy(l, span->checks_i + i) == l->text[position];
        }
    }
}

static size_t exit_of(const shoal_hparams *hp, size_t n_layers)
{
    size_t i = 0;
    while (i < hp->n_exits && hp->exits[i] != n_layers) {
        i++;
    }
    return i;
}

/* Says one token after the text; ids before n_fed are in the sequence already. */
static shoal_status say(leaving *l, size_t *inout_fed, shoal_err *err)
{
    const shoal_hparams *hp = &l->voice->model->hp;
    while (*inout_fed < l->n_text) {
        size_t n = SHOAL_MIN(l->n_text - *inout_fed, l->voice->n_rows);
        bool last = *inout_fed + n == l->n_text;
        shoal_span span = {.seq = l->voice->seqs[0],
                           .ids = l->text + *inout_fed,
                           .n_ids = n,
                           .n_logits = last,
                           .depth = l->depth,
                           .rules = l->rules,
                           .check = true};
        SHOAL_TRY(shoal_forge_voice_step(l->voice, &span, 1, err));
        count_checks(l, &span);
        *inout_fed += n;
        l->sum->n_layers += span.n_layers;
        if (last) {
            l->sum->n_by_exit[exit_of(hp, span.n_layers)]++;
            l->text[l->n_text] = greedy(l, span.logits_i);
        }
    }
    l->n_text++;
    l->sum->n_tokens++;
    return SHOAL_OK;
}

static shoal_status answer(leaving *l, const eval_quiz *quiz, size_t i, shoal_err *err)
{
    const eval_question *q = &quiz->questions[i];
    const int32_t *ids = quiz->ids + q->first;
    size_t n_end = q->n_prompt + quiz->n_answer_max + EVAL_EXTRA;
    size_t n_fed = 0;
    (void)shoal_kv_seq_truncate(l->voice->seqs[0], 0);
    memcpy(l->text, ids, q->n_prompt * sizeof *ids);
    l->n_text = q->n_prompt;
    l->n_prompt = q->n_prompt;
    do {
        SHOAL_TRY(say(l, &n_fed, err));
    } while (l->n_text < n_end &&
             !shoal_tokenizer_is_end(l->voice->model->tokenizer, l->text[l->n_text - 1]));
    size_t n_right = q->n_prompt + q->n_answer;
    l->sum->n++;
    l->sum->n_right += l->n_text == n_right && memcmp(l->text, ids, n_right * sizeof *ids) == 0;
    return SHOAL_OK;
}

shoal_status shoal_forge_answer_leaving(eval_voice *voice, const shoal_exit_rule *rules,
                                        size_t n_waiting_max, const eval_quiz *quiz,
                                        eval_leaving *ret_sum, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_depth_freep) shoal_depth *depth = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup)
    int32_t *text =
        shoal_calloc(quiz->n_prompt_max + quiz->n_answer_max + EVAL_EXTRA + 1, sizeof *text);
    eval_leaving sum = {0};
    shoal_clock clock = shoal_clock_real();
    uint64_t bytes = shoal_engine_bytes_read(voice->engine);
    uint64_t heads = shoal_engine_bytes_heads(voice->engine);
    uint64_t start = shoal_clock_now_ns(&clock);
    if (!text || (rules && shoal_depth_new(voice->model, n_waiting_max, &depth) != SHOAL_OK)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tokens that wait");
    }
    leaving l = {.voice = voice, .depth = depth, .rules = rules, .text = text, .sum = &sum};
    for (size_t i = 0; i < quiz->n; i++) {
        SHOAL_TRY(answer(&l, quiz, i, err));
    }
    /* The sequence's last tokens wait for ever: whoever comes next begins anew. */
    (void)shoal_kv_seq_truncate(voice->seqs[0], 0);
    sum.seconds = (double)(shoal_clock_now_ns(&clock) - start) / 1e9;
    sum.bytes_heads = shoal_engine_bytes_heads(voice->engine) - heads;
    sum.bytes_layers = shoal_engine_bytes_read(voice->engine) - bytes - sum.bytes_heads;
    *ret_sum = sum;
    return SHOAL_OK;
}
