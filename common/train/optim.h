/* SPDX-License-Identifier: Apache-2.0
 *
 * Optimisers over one block of parameters: Muon for matrices, AdamW for the rest; or AdamW for all.
 * Muon's update is scaled by sqrt(max(1, rows / cols)) (muon.h), so its rate is in units of the
 * weights' spectral norm, not of their size.
 */
#ifndef SHOAL_TRAIN_OPTIM_H
#define SHOAL_TRAIN_OPTIM_H

#include "common/base/pool.h"
#include "common/train/params.h"

typedef struct shoal_optim_settings {
    bool muon;          /* for SHOAL_PARAM_MATRIX; else AdamW for everything */
    float muon_rate;    /* peak step of Muon */
    float adam_rate;    /* peak step of AdamW */
    float weight_decay; /* decoupled (Loshchilov and Hutter, 1711.05101), of matrices */
    float beta1;        /* of AdamW */
    float beta2;
    float momentum;    /* of Muon, Nesterov */
    float clip;        /* gradients are scaled down to this global norm; 0: never */
    uint64_t n_warmup; /* steps of linear warm-up */
    uint64_t n_steps;  /* of the whole run */
    float final_share; /* of the peak rates at the last step of the cosine */
} shoal_optim_settings;
shoal_optim_settings shoal_optim_settings_default(void);

/* Share of the peak rate at step i of the run, in [0, 1]: warm-up, then a cosine. */
float shoal_optim_schedule(const shoal_optim_settings *settings, uint64_t step);

/* What a step does in which order, and its scratch memory. */
typedef struct shoal_optim_plan shoal_optim_plan;

typedef struct shoal_optim {
    shoal_optim_settings settings;
    uint64_t step; /* steps done */
    float *first;  /* moments, blocks of the layout; Muon uses the first alone */
    float *second;
    shoal_optim_plan *plan;
} shoal_optim;

/* For parameters of this layout; which are frozen is looked at here. params is borrowed. */
shoal_status shoal_optim_new(const shoal_params *params, const shoal_optim_settings *settings,
                             shoal_optim **ret_optim) SHOAL_MUST_CHECK;
void shoal_optim_free(shoal_optim *optim);
SHOAL_DEFINE_CLEANUP(shoal_optim, shoal_optim_free)

/* One step from gradients (clipped in place). Same bits for any number of threads of pool.
 * ret_norm: the global norm before clipping. Gradients that are not finite change nothing and give
 * SHOAL_E_INVALID. SHOAL_E_NOMEM at the first step with so many threads changes nothing either. */
shoal_status shoal_optim_step(shoal_optim *optim, shoal_params *params, float *grads,
                              shoal_pool *pool, double *ret_norm) SHOAL_MUST_CHECK;

#endif
