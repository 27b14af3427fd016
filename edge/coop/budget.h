/* SPDX-License-Identifier: Apache-2.0
 *
 * How many retries may reach the cloud: a token bucket over all generations of this edge, so that a
 * cloud in trouble hears no more of us than it can bear (the aim of gRPC's proposal A6, with a
 * place in line instead of a refusal). Pure: time comes in. One thread, the caller's memory.
 */
#ifndef SHOAL_COOP_BUDGET_H
#define SHOAL_COOP_BUDGET_H

#include <stdint.h>

typedef struct shoal_budget {
    double burst; /* retries at once after a pause, at least 1 */
    double per_s; /* and from then on, above 0 */
    double level; /* below 0: those who wait in line */
    uint64_t at_ms;
} shoal_budget;

/* Full. */
void shoal_budget_init(shoal_budget *budget, double burst, double per_s, uint64_t now_ms);
/* One retry is charged. Returns for how many ms it must wait, 0: none; its place is its own. */
uint64_t shoal_budget_take(shoal_budget *budget, uint64_t now_ms);
/* A retry that was charged and will not be made. */
void shoal_budget_give_back(shoal_budget *budget);

#endif
