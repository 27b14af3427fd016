/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/rollout.h"

#include "common/base/mem.h"

#include <string.h>

/* One prompt and what has been answered. */
typedef struct answer {
    const int32_t *prompt;
    size_t n_prompt;
    int32_t *ids; /* in the rollout's memory */
    size_t n;
    size_t n_max;
    bool done;
} answer;

struct shoal_rollout {
    size_t n_answers;
    answer *answers; /* (n_tokens_max) */
    int32_t *drawn;  /* (n_tokens_max) ids of all answers */
    double *scratch; /* (2 n_tokens_max) */
    /* The batch being run. */
    shoal_batch batch;
    int32_t *ids;
    int32_t *positions;
    size_t *segments;
    size_t *targets;
    const float *teacher; /* logits of the last loss */
};

shoal_status shoal_rollout_new(size_t n_tokens_max, shoal_rollout **ret_rollout)
{
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *r = shoal_calloc(1, sizeof *r);
    if (!r) {
        return SHOAL_E_NOMEM;
    }
    r->answers = shoal_calloc(n_tokens_max, sizeof *r->answers);
    r->drawn = shoal_calloc(n_tokens_max, sizeof *r->drawn);
    r->scratch = shoal_calloc(n_tokens_max, 2 * sizeof *r->scratch);
    r->ids = shoal_calloc(n_tokens_max, sizeof *r->ids);
    r->positions = shoal_calloc(n_tokens_max, sizeof *r->positions);
    r->segments = shoal_calloc(n_tokens_max + 1, sizeof *r->segments);
    r->targets = shoal_calloc(n_tokens_max, sizeof *r->targets);
    if (!r->answers || !r->drawn || !r->scratch || !r->ids || !r->positions || !r->segments ||
        !r->targets) {
        return SHOAL_E_NOMEM;
    }
    *ret_rollout = SHOAL_STEAL(r);
    return SHOAL_OK;
}

void shoal_rollout_free(shoal_rollout *rollout)
{
    if (!rollout) {
        return;
    }
    shoal_free(rollout->answers);
    shoal_free(rollout->drawn);
    shoal_free(rollout->scratch);
    shoal_free(rollout->ids);
    shoal_free(rollout->positions);
    shoal_free(rollout->segments);
    shoal_free(rollout->targets);
    shoal_free(rollout);
}

/* --- batches --------------------------------------------------------------------------------- */

static void begin_batch(shoal_rollout *r)
{
    r->batch = (shoal_batch){
        .ids = r->ids, .positions = r->positions, .segments = r->segments, .targets = r->targets};
}

/* Prompt and the first n tokens of the answer as a segment, targets from token `first` of it on. */
static void add_segment(shoal_rollout *r, const answer *a, size_t n, size_t first)
{
    shoal_batch *b = &r->batch;
    size_t begin = b->n_tokens;
    memcpy(r->ids + begin, a->prompt, a->n_prompt * sizeof *r->ids);
    memcpy(r->ids + begin + a->n_prompt, a->ids, n * sizeof *r->ids);
    for (size_t i = 0; i < a->n_prompt + n; i++) {
        r->positions[begin + i] = (int32_t)i;
        if (i >= first) {
            r->targets[b->n_targets++] = begin + i;
        }
    }
    b->n_tokens += a->n_prompt + n;
    b->n_segments++;
    r->segments[b->n_segments] = b->n_tokens;
}

/* --- drawing --------------------------------------------------------------------------------- */

static void find_prompts(shoal_rollout *r, const shoal_batch *prompts)
{
    size_t t = 0;
    int32_t *drawn = r->drawn;
    r->n_answers = 0;
    for (size_t s = 0; s < prompts->n_segments; s++) {
        size_t begin = prompts->segments[s];
        size_t end = prompts->segments[s + 1];
        if (t == prompts->n_targets || prompts->targets[t] >= end) {
            continue; /* nothing is asked here */
        }
        size_t first = prompts->targets[t];
        r->answers[r->n_answers++] = (answer){.prompt = prompts->ids + begin,
                                              .n_prompt = first - begin + 1,
                                              .ids = drawn,
                                              .n_max = end - first};
        drawn += end - first;
        while (t < prompts->n_targets && prompts->targets[t] < end) {
            t++;
        }
    }
}

/* A batch of the answers that go on, with the token after each as the only target. */
static void add_unfinished(shoal_rollout *r)
{
    begin_batch(r);
    for (size_t i = 0; i < r->n_answers; i++) {
        const answer *a = &r->answers[i];
        if (!a->done) {
            add_segment(r, a, a->n, a->n_prompt + a->n - 1);
        }
    }
}

/* Logits of both over the batch. */
static void run_both(const shoal_rollout *r, const shoal_rollout_models *m, float **ret_student,
                     const float **ret_teacher)
{
    shoal_net_forward(m->teacher_net, m->teacher, &r->batch);
    *ret_teacher = shoal_net_logits(m->teacher_net, m->teacher->n_exits);
    shoal_net_forward(m->student_net, m->student, &r->batch);
    *ret_student = shoal_net_logits(m->student_net, m->student->n_exits);
}

void shoal_rollout_draw(shoal_rollout *rollout, const shoal_minillm *settings,
                        const shoal_rollout_models *models, const shoal_batch *prompts,
                        int32_t end_id, uint64_t seed, uint64_t number)
{
    shoal_rollout *r = rollout;
    size_t n_vocab = models->student->hp.n_vocab;
    find_prompts(r, prompts);
    for (size_t round = 0;; round++) {
        float *student = NULL;
        const float *teacher = NULL;
        add_unfinished(r);
        if (r->batch.n_segments == 0) {
            return;
        }
        run_both(r, models, &student, &teacher);
        size_t row = 0;
        for (size_t i = 0; i < r->n_answers; i++) {
            answer *a = &r->answers[i];
            if (a->done) {
                continue;
            }
            /* Batches lie 2^34 draws apart, their answers 2^17, which is more than they are long.
             */
            uint64_t position = (number << 34) + ((uint64_t)i << 17) + round;
            int32_t id = shoal_minillm_sample(settings, n_vocab, student + row * n_vocab,
                                              teacher + row * n_vocab, seed, position);
            a->ids[a->n++] = id;
            a->done = id == end_id || a->n == a->n_max;
            row++;
        }
    }
}

double shoal_rollout_loss(shoal_rollout *rollout, const shoal_minillm *settings,
                          const shoal_rollout_models *models)
{
    shoal_rollout *r = rollout;
    size_t n_vocab = models->student->hp.n_vocab;
    float *student = NULL;
    const float *teacher = NULL;
    double loss = 0;
    begin_batch(r);
    for (size_t i = 0; i < r->n_answers; i++) {
        const answer *a = &r->answers[i];
        add_segment(r, a, a->n - 1, a->n_prompt - 1);
    }
    run_both(r, models, &student, &teacher);
    r->teacher = teacher;
    size_t row = 0;
    for (size_t i = 0; i < r->n_answers; i++) {
        const answer *a = &r->answers[i];
        loss += shoal_minillm_loss(settings, a->n, n_vocab, a->ids, teacher + row * n_vocab,
                                   student + row * n_vocab, r->scratch);
        row += a->n;
    }
    return loss;
}

const shoal_batch *shoal_rollout_batch(const shoal_rollout *rollout)
{
    return &rollout->batch;
}

const float *shoal_rollout_teacher_logits(const shoal_rollout *rollout)
{
    return rollout->teacher;
}

size_t shoal_rollout_n_answers(const shoal_rollout *rollout)
{
    return rollout->n_answers;
}
