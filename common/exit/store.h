/* SPDX-License-Identifier: Apache-2.0
 *
 * Fitted policies in a model's metadata, as their text: "<prefix>.<kind>" = "kind:key=value,...".
 * Prefixes: shoal.exit.policy.<layers> for an exit, shoal.escalate.policy for the full depth, where
 * staying means asking the cloud. Beside them stands what they were fitted to.
 */
#ifndef SHOAL_EXIT_STORE_H
#define SHOAL_EXIT_STORE_H

#include "common/base/hash.h"
#include "common/exit/exit.h"
#include "common/tensor/gguf.h"

enum {
    SHOAL_EXIT_PREFIX_MAX = 64
};

#define SHOAL_EXIT_CALIBRATION     "shoal.exit.calibration"
#define SHOAL_ESCALATE_POLICY      "shoal.escalate.policy"
#define SHOAL_ESCALATE_CALIBRATION "shoal.escalate.calibration"

/* The prefix of the exit after as many layers. */
void shoal_exit_prefix(size_t layers, char ret_prefix[SHOAL_EXIT_PREFIX_MAX]);

typedef struct shoal_exit_set {
    bool has[SHOAL_EXIT_KINDS];
    shoal_exit_policy policies[SHOAL_EXIT_KINDS];
} shoal_exit_set;

/* Policies of the kinds this program knows; none is no error. A text that is no sound policy of its
 * key's kind is refused by key. */
shoal_status shoal_exit_set_read(const shoal_gguf *gguf, const char *prefix,
                                 shoal_exit_set *ret_set, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_exit_set_put(shoal_gguf_writer *writer, const char *prefix,
                                const shoal_exit_set *set) SHOAL_MUST_CHECK;

/* "<prefix>.risks" = "risk=threshold,...". None is no error: n is 0. Others than sound ones, in
 * order, are refused by key. */
shoal_status shoal_exit_risks_read(const shoal_gguf *gguf, const char *prefix,
                                   shoal_exit_risks *ret_risks, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_exit_risks_put(shoal_gguf_writer *writer, const char *prefix,
                                  const shoal_exit_risks *risks) SHOAL_MUST_CHECK;

/* Keys: .hash .model (hexadecimal), .n .tokens (u32), .risk .delta (f32). */
typedef struct shoal_exit_calibration {
    shoal_hash data;    /* of the rows: ids of every answer, and what the next tier said */
    shoal_hash subject; /* shoal_exit_subject of the model the numbers hold for */
    uint32_t n;         /* answers */
    uint32_t n_tokens;
    float risk;
    float delta;
} shoal_exit_calibration;

/* SHOAL_E_NOTFOUND when there is none: err is as it was, for what fails later. */
shoal_status shoal_exit_calibration_read(const shoal_gguf *gguf, const char *prefix,
                                         shoal_exit_calibration *ret_calibration,
                                         shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_exit_calibration_put(shoal_gguf_writer *writer, const char *prefix,
                                        const shoal_exit_calibration *c) SHOAL_MUST_CHECK;

/* What thresholds depend on: the model's own hash, and its exit heads, which that hash leaves out.
 */
shoal_status shoal_exit_subject(const shoal_gguf *gguf, const shoal_hash *model,
                                shoal_hash *ret_subject, shoal_err *err) SHOAL_MUST_CHECK;
/* SHOAL_E_MISMATCH when the weights are not those the policies were fitted to. */
shoal_status shoal_exit_calibration_fits(const shoal_exit_calibration *calibration,
                                         const shoal_hash *subject,
                                         shoal_err *err) SHOAL_MUST_CHECK;

#endif
