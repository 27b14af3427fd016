/* SPDX-License-Identifier: Apache-2.0
 *
 * Many texts through an engine side by side, to hear what it says along them. A lane is a sequence
 * and the text it is busy with; a step takes from every lane what fits into its rows, and a lane
 * that is done takes the next text.
 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    KV_BYTES_MAX = 512 << 20,    /* of all lanes together, unless one alone needs more */
    LOGITS_BYTES_MAX = 64 << 20, /* of one step */
    NOBODY = -1
};

/* --- opening ------------------------------------------------------------------------------------
 */

/* Lanes by the memory of their KV, rows of logits by theirs: both need the model's shape. */
static void choose_sizes(const shoal_hparams *hp, size_t n_tokens, eval_voice *v)
{
    shoal_kv_shape shape = shoal_model_kv_shape(hp, SHOAL_KV_F32);
    size_t lane = shoal_kv_pages_for(&shape, EVAL_ROWS, n_tokens) * shoal_kv_page_bytes(&shape);
    size_t n_lanes = SHOAL_MAX((size_t)KV_BYTES_MAX / lane, (size_t)1);
    size_t n_logits =
        SHOAL_MAX((size_t)LOGITS_BYTES_MAX / (hp->n_vocab * sizeof(float)), (size_t)EVAL_LANES_MAX);
    v->n_lanes = SHOAL_MIN(n_lanes, (size_t)EVAL_LANES_MAX);
    v->n_rows = EVAL_ROWS;
    v->n_logits = SHOAL_MIN(n_logits, v->n_rows);
}

static shoal_status open_judges(const forge_args *args, eval_voice *v, shoal_err *err)
{
    size_t n = (size_t)args->threads;
    if (shoal_pool_new(n, &v->pool) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu threads", n);
    }
    while (v->n_samplers < n) {
        if (shoal_sampler_new(v->model->hp.n_vocab, shoal_engine_kernels(v->engine),
                              &v->samplers[v->n_samplers]) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge logits");
        }
        v->n_samplers++;
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_voice_open(const forge_args *args, const shoal_model *model,
                                    size_t n_text_max, eval_voice *ret_voice, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_voice_close) eval_voice v = {.model = model};
    shoal_engine_settings settings;
    size_t n_ctx = args->ctx ? SHOAL_MIN(model->hp.n_ctx, (size_t)args->ctx) : model->hp.n_ctx;
    if (n_text_max > n_ctx) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "questions and answers take up to %zu tokens, the context of %s has "
                             "%zu: leave the longest out",
                             n_text_max, model->hp.name, n_ctx);
    }
    choose_sizes(&model->hp, n_text_max, &v);
    SHOAL_TRY(shoal_forge_engine_settings(args, model, v.n_rows, v.n_logits, n_text_max, v.n_lanes,
                                          &settings, err));
    SHOAL_TRY(shoal_engine_new(model, &settings, &v.engine, err));
    for (size_t i = 0; i < v.n_lanes; i++) {
        if (shoal_kv_seq_new(shoal_engine_kv(v.engine), &v.seqs[i]) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sequences");
        }
    }
    SHOAL_TRY(open_judges(args, &v, err));
    *ret_voice = v;
    memset(&v, 0, sizeof v);
    return SHOAL_OK;
}

void shoal_forge_voice_close(eval_voice *v)
{
    for (size_t i = 0; i < v->n_lanes; i++) {
        shoal_kv_seq_free(v->seqs[i]);
    }
    for (size_t i = 0; i < v->n_samplers; i++) {
        shoal_sampler_free(v->samplers[i]);
    }
    shoal_pool_free(v->pool);
    shoal_engine_free(v->engine);
    memset(v, 0, sizeof *v);
}

/* --- reading along a text -----------------------------------------------------------------------
 */

/* Logits of the last step, and what they are asked. */
typedef struct judging {
    eval_voice *voice;
    size_t n;
    const int32_t **targets; /* [n_logits] */
    eval_said **said;        /* [n_logits] */
} judging;

static void judging_fini(judging *j)
{
    shoal_free(j->targets);
    shoal_free(j->said);
}

static void judge_part(void *ctx, size_t part, size_t worker)
{
    const judging *j = ctx;
    eval_voice *v = j->voice;
    const float *logits = shoal_engine_logits(v->engine, part);
    shoal_sampling greedy = shoal_sampling_default();
    shoal_sampled sampled;
    greedy.temperature = 0;
    shoal_sample(v->samplers[worker], &greedy, logits, NULL, 0, &sampled);
    *j->said[part] =
        (eval_said){.id = sampled.id,
                    .confidence = sampled.confidence,
                    .nll = shoal_forge_judge(logits, v->model->hp.n_vocab, *j->targets[part]).nll};
}

typedef struct reading {
    ptrdiff_t path; /* NOBODY: idle */
    size_t n_done;  /* ids that the engine has */
} reading;

/* The next piece of a lane's path into a span: as many rows as are left, and as many of those that
 * are judged as there are logits left. False: there is no room for any. */
static bool take_piece(const eval_path *path, const reading *lane, size_t n_rows, size_t n_logits,
                       shoal_span *ret_span)
{
    /* The row of id p says what it thinks of id p + 1, so the last id is never fed. */
    size_t total = path->n_prompt + path->n_answer - 1;
    size_t n = SHOAL_MIN(total - lane->n_done, n_rows);
    size_t end = lane->n_done + n;
    size_t n_judged = end < path->n_prompt ? 0 : SHOAL_MIN(n, end - (path->n_prompt - 1));
    if (n_judged > n_logits) {
        n -= n_judged - n_logits;
        n_judged = n_logits;
    }
    ret_span->ids = path->ids + lane->n_done;
    ret_span->n_ids = n;
    ret_span->n_logits = n_judged;
    return n > 0;
}

/* Fills the step and says which lane each span is of. */
static size_t fill_step(eval_voice *v, const eval_path *paths, size_t n, size_t *inout_next,
                        reading *lanes, shoal_span *spans, size_t *ret_lanes)
{
    size_t n_rows = v->n_rows;
    size_t n_logits = v->n_logits;
    size_t n_spans = 0;
    for (size_t i = 0; i < v->n_lanes; i++) {
        if (lanes[i].path == NOBODY && *inout_next < n) {
            lanes[i] = (reading){.path = (ptrdiff_t)(*inout_next)++};
            (void)shoal_kv_seq_truncate(v->seqs[i], 0);
        }
        shoal_span span = {.seq = v->seqs[i]};
        if (lanes[i].path != NOBODY &&
            take_piece(&paths[lanes[i].path], &lanes[i], n_rows, n_logits, &span)) {
            n_rows -= span.n_ids;
            n_logits -= span.n_logits;
            ret_lanes[n_spans] = i;
            spans[n_spans++] = span;
        }
    }
    return n_spans;
}

static shoal_status judging_init(judging *j, eval_voice *v, shoal_err *err)
{
    j->voice = v;
    j->targets = shoal_calloc(v->n_logits, sizeof *j->targets);
    j->said = shoal_calloc(v->n_logits, sizeof *j->said);
    return j->targets && j->said ? SHOAL_OK
                                 : shoal_err_set(err, SHOAL_E_NOMEM, "no memory to judge logits");
}

shoal_status shoal_forge_voice_step(eval_voice *v, shoal_span *spans, size_t n, shoal_err *err)
{
    shoal_status status = shoal_engine_step(v->engine, spans, n);
    return status == SHOAL_OK
               ? SHOAL_OK
               : shoal_err_set(err, status < 0 ? status : SHOAL_E_LIMIT,
                               "a step of %zu texts failed: %s", n, shoal_status_text(status));
}

shoal_status shoal_forge_voice_read(eval_voice *v, const eval_path *paths, size_t n,
                                    eval_said *said, shoal_err *err)
{
    SHOAL_CLEANUP(judging_fini) judging j = {0};
    SHOAL_TRY(judging_init(&j, v, err));
    reading lanes[EVAL_LANES_MAX];
    shoal_span spans[EVAL_LANES_MAX];
    size_t of[EVAL_LANES_MAX];
    size_t next = 0;
    for (size_t i = 0; i < EVAL_LANES_MAX; i++) {
        lanes[i] = (reading){.path = NOBODY};
    }
    for (;;) {
        size_t n_spans = fill_step(v, paths, n, &next, lanes, spans, of);
        if (n_spans == 0) {
            return SHOAL_OK;
        }
        SHOAL_TRY(shoal_forge_voice_step(v, spans, n_spans, err));
        j.n = 0;
        for (size_t i = 0; i < n_spans; i++) {
            reading *l = &lanes[of[i]];
            const eval_path *path = &paths[l->path];
            l->n_done += spans[i].n_ids;
            for (size_t k = l->n_done - spans[i].n_logits; k < l->n_done; k++) {
                j.targets[j.n] = &path->ids[k + 1];
                j.said[j.n++] = &said[path->said_i + (k + 1 - path->n_prompt)];
            }
            if (l->n_done + 1 == path->n_prompt + path->n_answer) {
                l->path = NOBODY;
            }
        }
        shoal_pool_run(v->pool, judge_part, &j, j.n);
    }
}
