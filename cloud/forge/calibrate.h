/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge calibrate: what a model says at every depth along known answers, and the
 * fitted policies put into a copy of its file.
 */
#ifndef SHOAL_FORGE_CALIBRATE_H
#define SHOAL_FORGE_CALIBRATE_H

#include "cloud/forge/eval.h"
#include "common/exit/fit.h"
#include "common/exit/store.h"

enum {
    CALIB_HEADS_MAX = SHOAL_MODEL_EXITS_MAX + 1
};

/* Questions of "FILE.jsonl", every line, or of "field:KEY=VALUE,...": keys split (dev), n (1000),
 * first (0), seed (the argument), entries (20000), exponent (1), their defaults in brackets. */
shoal_status shoal_forge_calib_questions(const char *data, const shoal_tokenizer *tokenizer,
                                         uint64_t seed, eval_quiz *quiz,
                                         shoal_err *err) SHOAL_MUST_CHECK;

/* The rows of a quiz, head by head: exits in ascending depth, then the full depth. An exit's row
 * agrees when the full depth says the same, the full depth's when the teacher does, or without one
 * the reference. Groups are questions. Zeroed memory is none. */
typedef struct calib_rows {
    size_t n_heads;
    size_t n; /* rows of each head */
    size_t n_groups;
    shoal_exit_sample *rows; /* (n_heads, n) */
    int32_t *next;           /* (n) what comes after the full depth says: teacher or reference */
    shoal_hash hash;         /* of the questions' ids and of next */
} calib_rows;

/* teacher NULL: references. Both sessions were opened for FORGE_DEPTHS_ROWS rows and logits. */
shoal_status shoal_forge_calib_collect(const forge_session *edge, const forge_session *teacher,
                                       const eval_quiz *quiz, size_t n_threads,
                                       calib_rows *ret_rows, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_calib_fini(calib_rows *rows);
shoal_exit_samples shoal_forge_calib_head(const calib_rows *rows, size_t head);

/* What was fitted: one set for each head. */
typedef struct calib_result {
    shoal_exit_set sets[CALIB_HEADS_MAX];
    shoal_exit_risks risks; /* of the full depth, greater than its policy's */
    shoal_exit_calibration calibration;
} calib_result;

/* Whether a pair of metadata was fitted to a model's weights, and is nothing to another's. */
bool shoal_forge_calib_is_fitted(shoal_str key);

/* A copy of a plain file with these policies instead of any it has. */
shoal_status shoal_forge_calib_write(const shoal_gguf *gguf, const shoal_hparams *hp,
                                     const calib_result *result, const char *path,
                                     shoal_err *err) SHOAL_MUST_CHECK;

#endif
