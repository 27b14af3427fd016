/* SPDX-License-Identifier: Apache-2.0 */
#include "common/kv/evict.h"

#include "common/base/macros.h"

#include <string.h>

static size_t window_victim(const shoal_kv_held *held, size_t position)
{
    size_t oldest = position;
    size_t victim = 0;
    for (size_t i = 0; i < held->n; i++) {
        if (held->positions[i] >= SHOAL_KV_SINKS && held->positions[i] < oldest) {
            oldest = held->positions[i];
            victim = i;
        }
    }
    return victim;
}

/* Sums of shares only grow, so a token's mass is what the paper calls its score: the function of a
 * set is their sum, and leaving out the least of one more than the budget is the greedy choice. */
static size_t h2o_victim(const shoal_kv_held *held, size_t position)
{
    size_t recent = position + 1 - held->n / 2; /* and later ones stay */
    size_t victim = held->n;
    float least = 0;
    for (size_t i = 0; i < held->n; i++) {
        float mass = held->mass[i] > 0 ? held->mass[i] : 0;
        if (held->positions[i] >= recent) {
            continue;
        }
        if (victim == held->n || mass < least ||
            (mass == least && held->positions[i] < held->positions[victim])) {
            victim = i;
            least = mass;
        }
    }
    SHOAL_ASSERT(victim < held->n);
    return victim;
}

static const shoal_kv_evict_policy policies[] = {
    {.name = "window", .by_mass = false, .victim = window_victim},
    {.name = "h2o", .by_mass = true, .victim = h2o_victim},
};

const shoal_kv_evict_policy *shoal_kv_evict_find(const char *name)
{
    for (size_t i = 0; i < SHOAL_COUNT(policies); i++) {
        if (strcmp(policies[i].name, name) == 0) {
            return &policies[i];
        }
    }
    return NULL;
}

const char *shoal_kv_evict_names(void)
{
    return "window, h2o";
}
