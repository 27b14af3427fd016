/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a row of logits may leave: be taken at the depth it was computed at, or go deeper, to
 * the next exit, the full depth or the cloud. One interface for every policy. What is measured of a
 * row is measured once; deciding is a comparison. Policies are plain values; a state is one
 * thread's. Nothing here allocates.
 */
#ifndef SHOAL_EXIT_EXIT_H
#define SHOAL_EXIT_EXIT_H

#include "common/base/macros.h"
#include "common/kernels/kernels.h"

#include <stdbool.h>
#include <stdint.h>

/* --- what is measured ------------------------------------------------------------------------ */

typedef struct shoal_exit_features {
    int32_t id;    /* the most probable token, the lowest id of several */
    bool sound;    /* false: a logit is NaN or the best is not finite; such a row never leaves */
    float top;     /* its probability, softmax at T = 1 of the raw logits, in [0, 1] */
    float gap;     /* its probability minus the second's */
    float entropy; /* nats; NaN when it was not asked for */
    float depth;   /* layers below, as a share of all */
} shoal_exit_features;

/* top and gap cost about three sweeps over the row; entropy costs an exponential more for every
 * logit. The bits do not depend on the kernels' tier. */
void shoal_exit_measure(const shoal_kernels *kernels, const float *logits, size_t n_vocab,
                        float depth, bool entropy, shoal_exit_features *ret_features);

/* --- policies -------------------------------------------------------------------------------- */

typedef enum shoal_exit_kind {
    SHOAL_EXIT_FIXED,      /* top >= threshold */
    SHOAL_EXIT_MARGIN,     /* gap >= threshold */
    SHOAL_EXIT_ENTROPY,    /* entropy <= threshold */
    SHOAL_EXIT_LINEAR,     /* sigmoid(bias + w_top top + w_gap gap + w_depth depth) >= threshold:
                            * the features of AdaInfer (Fan et al., 2403.02181), logistic */
    SHOAL_EXIT_PERCENTILE, /* top is in the upper `rate` of the last `window` rows */
    SHOAL_EXIT_RISK,       /* top >= threshold, which holds `risk` with confidence 1 - delta by
                            * Learn-then-Test (Angelopoulos et al., 2110.01052) */
    SHOAL_EXIT_KINDS
} shoal_exit_kind;

enum {
    SHOAL_EXIT_WINDOW_MIN = 16,
    SHOAL_EXIT_WINDOW_MAX = 1024,
    SHOAL_EXIT_TEXT_MAX = 160 /* bytes of a policy's text, its NUL included */
};

/* No probability reaches it: a policy with this threshold never leaves. */
#define SHOAL_EXIT_NEVER         2.0F
#define SHOAL_EXIT_NEVER_ENTROPY (-1.0F)

/* Fields a kind does not use are 0. */
typedef struct shoal_exit_policy {
    shoal_exit_kind kind;
    float threshold; /* of PERCENTILE: that of top for the first SHOAL_EXIT_WINDOW_MIN rows */
    float bias;
    float w_top;
    float w_gap;
    float w_depth;
    float rate;  /* share of rows that leaves, in [0, 1] */
    float risk;  /* share of rows that leaves and differs from the next tier, at most */
    float delta; /* probability that calibration was too lucky and the risk is exceeded */
    uint32_t window;
} shoal_exit_policy;

enum {
    SHOAL_EXIT_RISKS_MAX = 16
};

/* Thresholds of RISK for several risks, ascending; each holds by itself with the confidence that it
 * was fitted with, not all of them together. */
typedef struct shoal_exit_risks {
    size_t n;
    float risk[SHOAL_EXIT_RISKS_MAX];      /* above 0, below 1 */
    float threshold[SHOAL_EXIT_RISKS_MAX]; /* not rising */
} shoal_exit_risks;

/* Of the greatest risk that is at most this one; none: that of the policy, whose risk is less. */
float shoal_exit_threshold_of(const shoal_exit_risks *risks, const shoal_exit_policy *policy,
                              float risk);

/* "fixed", "margin", "entropy", "linear", "percentile", "risk". */
const char *shoal_exit_kind_name(shoal_exit_kind kind);
shoal_status shoal_exit_kind_parse(const char *name, shoal_exit_kind *ret_kind) SHOAL_MUST_CHECK;

/* "kind:key=value,...", for example "percentile:threshold=0.9,rate=0.6,window=512". Every number
 * comes back as it was. The text fits SHOAL_EXIT_TEXT_MAX. */
void shoal_exit_policy_print(const shoal_exit_policy *policy, char ret_text[SHOAL_EXIT_TEXT_MAX]);
/* Keys that are left out have their defaults, where they have one. Errors name key and range. */
shoal_status shoal_exit_policy_parse(const char *text, shoal_exit_policy *ret_policy,
                                     shoal_err *err) SHOAL_MUST_CHECK;
/* SHOAL_E_LIMIT names the first number that is out of its range or not finite. */
shoal_status shoal_exit_policy_check(const shoal_exit_policy *policy,
                                     shoal_err *err) SHOAL_MUST_CHECK;

/* --- deciding -------------------------------------------------------------------------------- */

enum {
    SHOAL_EXIT_BUCKETS = 512
};

/* What PERCENTILE remembers: the last rows as buckets of top, and which of them left. Zeroed memory
 * is a start. Other kinds need none. */
typedef struct shoal_exit_state {
    uint16_t rows[SHOAL_EXIT_WINDOW_MAX]; /* a ring: bucket, and bit 15 when it left */
    uint16_t counts[SHOAL_EXIT_BUCKETS];
    uint32_t n; /* rows in the window */
    uint32_t at;
    uint32_t n_left;
} shoal_exit_state;

/* true: leave. state may be NULL for kinds without memory. The policy has been checked. */
bool shoal_exit_decide(const shoal_exit_policy *policy, shoal_exit_state *state,
                       const shoal_exit_features *features);

/* The number that the policy compares, larger for surer rows; NaN for rows that never leave. */
float shoal_exit_score(const shoal_exit_policy *policy, const shoal_exit_features *features);

#endif
