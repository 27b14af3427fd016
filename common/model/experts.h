/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of experts for a row, which inference and training make alike. Pure, any thread.
 */
#ifndef SHOAL_MODEL_EXPERTS_H
#define SHOAL_MODEL_EXPERTS_H

#include "common/model/model.h"

/* scores (n_experts) of a row become probabilities in place; picked and weights (n_used) are the
 * experts it visits, ascending, with their shares. bias (n_experts) is added for the choice alone;
 * NULL: none. Sums go by ascending id, ties to the lower. */
void shoal_experts_route(const shoal_moe *moe, const float *bias, float *scores, uint16_t *picked,
                         float *weights);

#endif
