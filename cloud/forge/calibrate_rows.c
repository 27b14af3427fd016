/* SPDX-License-Identifier: Apache-2.0
 *
 * Every answer is run along its reference, so that all depths and the teacher are asked about the
 * same text at every position.
 */
#include "cloud/forge/calibrate.h"
#include "cloud/forge/depths.h"

#include "common/base/mem.h"

#include <string.h>

typedef struct collector {
    const forge_session *edge;
    forge_depths *depths;
    calib_rows *rows;
    size_t first; /* row of the answer under way */
    size_t n_prompt;
} collector;

static shoal_status hear(void *ctx, size_t position, size_t head, const float *logits)
{
    collector *c = ctx;
    size_t row = c->first + position + 1 - c->n_prompt;
    shoal_exit_measure(shoal_engine_kernels(c->edge->engine), logits, c->edge->model->hp.n_vocab,
                       shoal_forge_depths_share(c->depths, head), true,
                       &c->rows->rows[head * c->rows->n + row].features);
    return SHOAL_OK;
}

/* The teacher's greedy choice at every position of an answer. */
static shoal_status teach(const forge_session *teacher, const int32_t *ids, size_t n_prompt,
                          size_t n_answer, int32_t *ret_next, shoal_err *err)
{
    const shoal_kernels *kernels = shoal_engine_kernels(teacher->engine);
    size_t n = n_prompt + n_answer - 1;
    (void)shoal_kv_seq_truncate(teacher->seq, 0);
    for (size_t at = 0; at < n;) {
        size_t end = at + 1 < n_prompt ? n_prompt - 1 : n;
        size_t n_now = SHOAL_MIN(end - at, (size_t)FORGE_DEPTHS_ROWS);
        bool asked = at + 1 >= n_prompt;
        shoal_span span = {
            .seq = teacher->seq, .ids = ids + at, .n_ids = n_now, .n_logits = asked ? n_now : 0};
        shoal_status status = shoal_engine_step(teacher->engine, &span, 1);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status < 0 ? status : SHOAL_E_EXHAUSTED,
                                 "the teacher's step at token %zu of %zu: %s", at, n,
                                 shoal_status_text(status));
        }
        for (size_t i = 0; i < span.n_logits; i++) {
            float max = 0;
            ret_next[at + i + 1 - n_prompt] = (int32_t)kernels->argmax(
                teacher->model->hp.n_vocab, shoal_engine_logits(teacher->engine, span.logits_i + i),
                &max);
        }
        at += n_now;
    }
    return SHOAL_OK;
}

static shoal_status collect_answer(collector *c, const forge_session *teacher,
                                   const eval_quiz *quiz, size_t i, shoal_err *err)
{
    const eval_question *q = &quiz->questions[i];
    const int32_t *ids = quiz->ids + q->first;
    calib_rows *rows = c->rows;
    c->n_prompt = q->n_prompt;
    SHOAL_TRY(shoal_forge_depths_run(c->depths, ids, q->n_prompt + q->n_answer - 1, q->n_prompt - 1,
                                     hear, c, err));
    if (teacher) {
        SHOAL_TRY(teach(teacher, ids, q->n_prompt, q->n_answer, rows->next + c->first, err));
    } else {
        memcpy(rows->next + c->first, ids + q->n_prompt, q->n_answer * sizeof *rows->next);
    }
    shoal_exit_sample *full = rows->rows + (rows->n_heads - 1) * rows->n;
    for (size_t j = c->first; j < c->first + q->n_answer; j++) {
        for (size_t head = 0; head < rows->n_heads; head++) {
            shoal_exit_sample *row = &rows->rows[head * rows->n + j];
            int32_t judge = row == &full[j] ? rows->next[j] : full[j].features.id;
            row->agrees = row->features.id == judge;
            row->group = (uint32_t)i;
        }
    }
    c->first += q->n_answer;
    return SHOAL_OK;
}

/* Of everything the fits depend on beside the model. */
static shoal_status hash_rows(const eval_quiz *quiz, calib_rows *rows, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to hash the data");
    }
    for (size_t i = 0; i < quiz->n; i++) {
        const eval_question *q = &quiz->questions[i];
        const uint64_t sizes[2] = {q->n_prompt, q->n_answer};
        shoal_hasher_update_field(hasher, sizes, sizeof sizes);
        shoal_hasher_update_field(hasher, quiz->ids + q->first,
                                  (q->n_prompt + q->n_answer) * sizeof *quiz->ids);
    }
    shoal_hasher_update_field(hasher, rows->next, rows->n * sizeof *rows->next);
    shoal_hasher_finish(hasher, &rows->hash);
    return SHOAL_OK;
}

static shoal_status collect(const forge_session *edge, const forge_session *teacher,
                            const eval_quiz *quiz, size_t n_threads, calib_rows *rows,
                            shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_depths_freep) forge_depths *depths = NULL;
    SHOAL_TRY(shoal_forge_depths_new(edge, n_threads, &depths, err));
    collector c = {.edge = edge, .depths = depths, .rows = rows};
    for (size_t i = 0; i < quiz->n; i++) {
        rows->n += quiz->questions[i].n_answer;
    }
    rows->n_heads = shoal_forge_depths_n_heads(depths);
    rows->n_groups = quiz->n;
    rows->rows = shoal_calloc(rows->n_heads * rows->n, sizeof *rows->rows);
    rows->next = shoal_calloc(rows->n, sizeof *rows->next);
    if (!rows->rows || !rows->next) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu answer tokens at %zu depths",
                             rows->n, rows->n_heads);
    }
    for (size_t i = 0; i < quiz->n; i++) {
        shoal_status status = collect_answer(&c, teacher, quiz, i, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "question %zu", i + 1);
            return status;
        }
    }
    return hash_rows(quiz, rows, err);
}

shoal_status shoal_forge_calib_collect(const forge_session *edge, const forge_session *teacher,
                                       const eval_quiz *quiz, size_t n_threads,
                                       calib_rows *ret_rows, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_calib_fini) calib_rows rows = {0};
    SHOAL_TRY(collect(edge, teacher, quiz, n_threads, &rows, err));
    *ret_rows = rows;
    memset(&rows, 0, sizeof rows);
    return SHOAL_OK;
}

void shoal_forge_calib_fini(calib_rows *rows)
{
    shoal_free(rows->rows);
    shoal_free(rows->next);
    memset(rows, 0, sizeof *rows);
}

shoal_exit_samples shoal_forge_calib_head(const calib_rows *rows, size_t head)
{
    return (shoal_exit_samples){rows->rows + head * rows->n, rows->n, rows->n_groups};
}
