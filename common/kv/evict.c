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

/* A mass that is no number counts as none. */
static float mass_of(const shoal_kv_held *held, size_t i)
{
    return held->mass[i] > 0 ? held->mass[i] : 0;
}

static bool is_lighter(const shoal_kv_held *held, size_t a, size_t b)
{
    float mass_a = mass_of(held, a);
    float mass_b = mass_of(held, b);
    return mass_a < mass_b || (mass_a == mass_b && held->positions[a] < held->positions[b]);
}

/* The lightest tokens that are not of the newest half, at most n_max of them, the lightest first.
 */
static size_t find_lightest(const shoal_kv_held *held, size_t position, size_t n_max,
                            size_t *ret_tokens)
{
    size_t recent = position + 1 - held->n / 2; /* and later ones stay */
    size_t n = 0;
    for (size_t i = 0; i < held->n; i++) {
        if (held->positions[i] >= recent ||
            (n == n_max && !is_lighter(held, i, ret_tokens[n - 1]))) {
            continue;
        }
        size_t at = n < n_max ? n++ : n - 1;
        for (; at > 0 && is_lighter(held, i, ret_tokens[at - 1]); at--) {
            ret_tokens[at] = ret_tokens[at - 1];
        }
        ret_tokens[at] = i;
    }
    SHOAL_ASSERT(n > 0);
    return n;
}

/* Sums of shares only grow, so a token's mass is what the paper calls its score: the function of a
 * set is their sum, and leaving out the least of one more than the budget is the greedy choice. */
static size_t h2o_victim(const shoal_kv_held *held, size_t position)
{
    size_t victim = 0;
    (void)find_lightest(held, position, 1, &victim);
    return victim;
}

static size_t diverse_victim(const shoal_kv_held *held, size_t position)
{
    size_t tokens[SHOAL_KV_LIGHTEST];
    float nearest[SHOAL_KV_LIGHTEST];
    size_t n = find_lightest(held, position, SHOAL_KV_LIGHTEST, tokens);
    held->nearest(held->ctx, tokens, n, nearest);
    size_t victim = 0;
    float least = 0;
    for (size_t i = 0; i < n; i++) {
        float loss = mass_of(held, tokens[i]) * (1 - nearest[i]);
        if (i == 0 || loss < least) { /* of several the lightest, then the earliest */
            victim = tokens[i];
            least = loss;
        }
    }
    return victim;
}

static const shoal_kv_evict_policy policies[] = {
    {.name = "window", .by_mass = false, .victim = window_victim},
    {.name = "h2o", .by_mass = true, .kept = 1, .victim = h2o_victim},
    {.name = "diverse", .by_mass = true, .by_keys = true, .kept = 1, .victim = diverse_victim},
    {.name = "a2sf", .by_mass = true, .kept = 31.0F / 32, .victim = h2o_victim},
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
    return "window, h2o, diverse, a2sf";
}
