/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions: what an answer leaves of its KV is kept under the session's name, and the next request
 * of that name takes up what of it its prompt begins with. Requests under way come first: what is
 * kept has only the pages that nobody was promised.
 */
#include "edge/coop/coop_internal.h"

static size_t n_pages_free(const shoal_coop *coop)
{
    return shoal_kv_pool_n_pages(shoal_engine_kv(coop->engine)) - coop->n_pages_promised;
}

/* Drops kept sessions until n_pages are nobody's. */
static void make_room(shoal_coop *coop, size_t n_pages)
{
    while (coop->keep && shoal_keep_n_pages(coop->keep) > n_pages_free(coop) - n_pages &&
           shoal_keep_drop_oldest(coop->keep)) {
    }
}

/* Pages beyond those that a sequence of its length takes by itself: of a ring that has gone round.
 * They only become fewer as it grows. */
static size_t n_pages_more(const shoal_coop *coop, const shoal_kv_seq *seq)
{
    size_t held = shoal_kv_seq_need(seq).n_pages_held;
    size_t alone = shoal_kv_pool_pages_for(shoal_engine_kv(coop->engine), shoal_kv_seq_length(seq));
    return held - SHOAL_MIN(held, alone);
}

/* Its KV as far as its prompt begins with what was kept. The rows behind which something is looked
 * at are computed again. */
static shoal_kv_seq *take_kept(shoal_coop *coop, const gen *g)
{
    if (!coop->keep || !g->session[0] || g->score_prompt) {
        return NULL;
    }
    size_t n_again = shoal_assist_prompt_rows(coop, g, g->n_prompt);
    return shoal_keep_take(coop->keep, g->session, g->tokens, g->n_prompt - n_again);
}

shoal_status shoal_session_begin(shoal_coop *coop, gen *g, size_t n_pages)
{
    shoal_kv_seq *seq = take_kept(coop, g);
    size_t n_more = seq ? n_pages_more(coop, seq) : 0;
    if (n_more > n_pages_free(coop) - n_pages) {
        shoal_kv_seq_free(seq);
        seq = NULL;
        n_more = 0;
    }
    make_room(coop, n_pages + n_more);
    if (!seq) {
        SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(coop->engine), &seq));
    }
    g->seq = seq;
    g->n_pages = n_pages + n_more;
    g->usage.n_kept = shoal_kv_seq_length(seq);
    coop->n_pages_promised += g->n_pages;
    shoal_metric_add(coop->metrics.kept_tokens, (double)g->usage.n_kept);
    return SHOAL_OK;
}

void shoal_session_end(shoal_coop *coop, gen *g)
{
    coop->n_pages_promised -= g->n_pages;
    g->n_pages = 0;
    if (!coop->keep || !g->session[0] || !g->seq) {
        return;
    }
    /* Tokens that left early lack layers, drafts may be wrong. */
    size_t n = shoal_kv_seq_truncate(g->seq, SHOAL_MIN(shoal_kv_seq_whole(g->seq), g->n_confirmed));
    if (n > 0 && shoal_keep_put(coop->keep, g->session, g->tokens, n, g->seq) == SHOAL_OK) {
        g->seq = NULL;
    }
}
