/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/budget.h"

#include "common/base/macros.h"

#include <math.h>

void shoal_budget_init(shoal_budget *budget, double burst, double per_s, uint64_t now_ms)
{
    *budget = (shoal_budget){.burst = burst, .per_s = per_s, .level = burst, .at_ms = now_ms};
}

uint64_t shoal_budget_take(shoal_budget *budget, uint64_t now_ms)
{
    if (now_ms > budget->at_ms) {
        double filled = budget->level + (double)(now_ms - budget->at_ms) * budget->per_s / 1000.0;
        budget->level = SHOAL_MIN(filled, budget->burst);
        budget->at_ms = now_ms;
    }
    budget->level -= 1.0;
    return budget->level >= 0 ? 0 : (uint64_t)ceil(-budget->level * 1000.0 / budget->per_s);
}

void shoal_budget_give_back(shoal_budget *budget)
{
    budget->level = SHOAL_MIN(budget->level + 1.0, budget->burst);
}
