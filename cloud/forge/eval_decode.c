/* SPDX-License-Identifier: Apache-2.0
 *
 * Many texts that grow side by side, by one model or by two in lockstep.
 */
#include "cloud/forge/eval.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    NOBODY = -1
};

/* A text that grows. */
typedef struct growing {
    ptrdiff_t path; /* NOBODY: idle */
    int32_t *ids;   /* [n_ids_max] */
    size_t n_ids;
    size_t n_done;
} growing;

typedef struct writer {
    const eval_decoding *d;
    const eval_path *paths;
    size_t n_paths;
    size_t next;
    size_t n_voices;
    size_t n_lanes;
    size_t n_rows;
    int32_t *ids; /* of all lanes */
    growing lanes[EVAL_LANES_MAX];
    int32_t *out;
    size_t *n_out;
} writer;

static shoal_status writer_init(writer *w, shoal_err *err)
{
    const eval_decoding *d = w->d;
    size_t n_prompt_max = 0;
    for (size_t i = 0; i < w->n_paths; i++) {
        n_prompt_max = SHOAL_MAX(n_prompt_max, w->paths[i].n_prompt);
    }
    w->n_voices = d->voices[1] ? 2 : 1;
    w->n_lanes = d->voices[0]->n_lanes;
    w->n_rows = d->voices[0]->n_rows;
    if (d->voices[1]) {
        w->n_lanes = SHOAL_MIN(w->n_lanes, d->voices[1]->n_lanes);
        w->n_rows = SHOAL_MIN(w->n_rows, d->voices[1]->n_rows);
    }
    size_t room = n_prompt_max + d->n_new_max;
    w->ids = shoal_calloc(w->n_lanes * room, sizeof *w->ids);
    if (!w->ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the answers");
    }
    for (size_t i = 0; i < w->n_lanes; i++) {
        w->lanes[i] = (growing){.path = NOBODY, .ids = w->ids + i * room};
    }
    return SHOAL_OK;
}

static void start_text(writer *w, size_t lane_i)
{
    growing *lane = &w->lanes[lane_i];
    const eval_path *path = &w->paths[w->next];
    lane->path = (ptrdiff_t)w->next++;
    lane->n_ids = path->n_prompt;
    lane->n_done = 0;
    memcpy(lane->ids, path->ids, path->n_prompt * sizeof *lane->ids);
    for (size_t i = 0; i < w->n_voices; i++) {
        (void)shoal_kv_seq_truncate(w->d->voices[i]->seqs[lane_i], 0);
    }
}

/* The same rows for every voice; of lanes that then have their whole text, logits. */
static size_t fill_writing(writer *w, shoal_span spans[2][EVAL_LANES_MAX], size_t *ret_lanes)
{
    size_t n_rows = w->n_rows;
    size_t n_spans = 0;
    for (size_t i = 0; i < w->n_lanes && n_rows > 0; i++) {
        growing *lane = &w->lanes[i];
        if (lane->path == NOBODY && w->next < w->n_paths) {
            start_text(w, i);
        }
        if (lane->path == NOBODY) {
            continue;
        }
        size_t n = SHOAL_MIN(lane->n_ids - lane->n_done, n_rows);
        for (size_t j = 0; j < w->n_voices; j++) {
            spans[j][n_spans] = (shoal_span){.seq = w->d->voices[j]->seqs[i],
                                             .ids = lane->ids + lane->n_done,
                                             .n_ids = n,
                                             .n_logits = lane->n_done + n == lane->n_ids};
        }
        lane->n_done += n;
        n_rows -= n;
        ret_lanes[n_spans++] = i;
    }
    return n_spans;
}

/* The next token of a lane that has logits. */
static void grow(writer *w, growing *lane, const float *const *logits)
{
    size_t path = (size_t)lane->path;
    size_t n_new = lane->n_ids - w->paths[path].n_prompt;
    int32_t id = w->d->choose(w->d->ctx, path, lane->ids, lane->n_ids, logits);
    lane->ids[lane->n_ids++] = id;
    w->out[path * w->d->n_new_max + n_new] = id;
    w->n_out[path] = ++n_new;
    if (n_new == w->paths[path].n_answer ||
        shoal_tokenizer_is_end(w->d->voices[0]->model->tokenizer, id)) {
        lane->path = NOBODY;
    }
}

static void writer_fini(writer *w)
{
    shoal_free(w->ids);
}

shoal_status shoal_forge_decode(const eval_decoding *d, const eval_path *paths, size_t n,
                                int32_t *ret_ids, size_t *ret_n_new, shoal_err *err)
{
    SHOAL_CLEANUP(writer_fini)
    writer w = {.d = d, .paths = paths, .n_paths = n, .out = ret_ids, .n_out = ret_n_new};
    SHOAL_TRY(writer_init(&w, err));
    shoal_span spans[2][EVAL_LANES_MAX];
    size_t of[EVAL_LANES_MAX];
    for (;;) {
        size_t n_spans = fill_writing(&w, spans, of);
        if (n_spans == 0) {
            return SHOAL_OK;
        }
        for (size_t j = 0; j < w.n_voices; j++) {
            SHOAL_TRY(shoal_forge_voice_step(d->voices[j], spans[j], n_spans, err));
        }
        for (size_t i = 0; i < n_spans; i++) {
            const float *logits[2] = {NULL, NULL};
            for (size_t j = 0; j < w.n_voices && spans[0][i].n_logits; j++) {
                logits[j] = shoal_engine_logits(d->voices[j]->engine, spans[j][i].logits_i);
            }
            if (logits[0]) {
                grow(&w, &w.lanes[of[i]], logits);
            }
        }
    }
}
