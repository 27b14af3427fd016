/* SPDX-License-Identifier: Apache-2.0
 *
 * Early exits of a generation: which rules it has, where its tokens left, and whether the full
 * depth, computed later with the tokens that went deeper, agrees.
 */
#include "edge/coop/coop_internal.h"

#include "common/base/mem.h"
#include "common/engine/rules.h"

shoal_status shoal_coop_check_exit(const shoal_coop *coop, const char *policy, float threshold,
                                   shoal_err *err)
{
    shoal_exit_rule rules[SHOAL_MODEL_EXITS_MAX];
    if (shoal_exit_rules_choose(&coop->settings.exits, policy, threshold, rules, err) != SHOAL_OK) {
        if (err) {
            err->code = SHOAL_E_INVALID;
        }
        return SHOAL_E_INVALID;
    }
    return SHOAL_OK;
}

shoal_status shoal_leave_init(const shoal_coop *coop, gen *g, const char *policy, float threshold,
                              shoal_err *err)
{
    size_t n_exits = coop->model->hp.n_exits;
    if (n_exits == 0 || g->mode == SHOAL_MODE_CLOUD || g->scores) {
        return SHOAL_OK; /* log-probabilities are of the full depth */
    }
    SHOAL_TRY(shoal_exit_rules_choose(&coop->settings.exits, policy, threshold, g->exits, err));
    if (!shoal_exit_rules_any(g->exits, n_exits)) {
        return SHOAL_OK;
    }
    g->exit_states = shoal_calloc(n_exits, sizeof *g->exit_states);
    g->has_left = shoal_calloc(g->capacity, sizeof *g->has_left);
    if (!g->exit_states || !g->has_left ||
        shoal_depth_new(coop->model, coop->settings.n_exit_waiting, &g->depth) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for tokens that leave early");
    }
    for (size_t i = 0; i < n_exits; i++) {
        g->exits[i].state = &g->exit_states[i];
    }
    return SHOAL_OK;
}

void shoal_leave_fini(gen *g)
{
    shoal_depth_free(g->depth);
    shoal_free(g->exit_states);
    shoal_free(g->has_left);
}

void shoal_leave_span(const gen *g, size_t n_checks_free, shoal_span *span)
{
    if (!g->depth) {
        return;
    }
    size_t n_waiting = shoal_depth_n_waiting(g->seq);
    span->depth = g->depth;
    /* Whether the row behind a prompt might leave would follow from how much of the prompt is fed
     * with it, so from chunks and from what was kept: the first token has its full depth. */
    bool behind_prompt = span->ids + span->n_ids <= g->tokens + g->n_prompt;
    span->rules = behind_prompt ? NULL : g->exits;
    /* What a grammar allowed back then is not known any more. */
    span->check = !g->form && n_waiting <= n_checks_free;
}

/* Whether the full depth would have said what was said at the exit, by the same noise. */
static bool agrees(shoal_coop *coop, const gen *g, const shoal_span *span, size_t check_i)
{
    size_t position = span->check_from + check_i + 1;
    shoal_sampled sampled;
    shoal_sample(coop->sampler, &g->sampling,
                 shoal_engine_logits(coop->engine, span->checks_i + check_i), g->tokens, position,
                 &sampled);
    return sampled.id == g->tokens[position];
}

void shoal_leave_count(shoal_coop *coop, gen *g, const shoal_span *span)
{
    g->usage.n_steps += span->n_logits > 0;
    g->usage.n_layers += span->n_logits > 0 ? span->n_layers : 0;
    if (!g->depth) {
        return;
    }
    for (size_t i = 0; i < span->n_checks; i++) {
        size_t position = span->check_from + i + 1;
        if (position < g->n_tokens && g->has_left[position]) {
            g->usage.n_exit_checked++;
            g->usage.n_exit_agreed += agrees(coop, g, span, i);
        }
    }
    if (span->n_logits > 0) {
        g->has_left[g->n_tokens] = span->n_layers < coop->model->hp.n_layers;
    }
}

shoal_tier shoal_leave_tier(gen *g, size_t position, shoal_tier tier)
{
    if (!g->depth) {
        return tier;
    }
    if (tier == SHOAL_TIER_CLOUD) {
        g->has_left[position] = false;
    }
    return tier == SHOAL_TIER_EDGE && g->has_left[position] ? SHOAL_TIER_EXIT : tier;
}
