/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/sched/sched_internal.h"

#include <stdlib.h>
#include <string.h>

static const size_t NO_ITEM = SIZE_MAX;

/* A plan in the making. */
typedef struct planner {
    shoal_sched *sched;
    const shoal_sched_item *items;
    size_t n_items;
    const shoal_sched_limits *limits;
    const shoal_sched_cost *cost;
    uint64_t now_ms;
    size_t n_pages; /* that can be had without taking any from an item */
    shoal_sched_plan plan;
} planner;

/* --- order ------------------------------------------------------------------------------------ */

static bool works(const shoal_sched_item *item)
{
    return item->sample || item->n_prefill > 0;
}

static sched_class class_of(const planner *p, const shoal_sched_item *item)
{
    size_t n_rows = SHOAL_MIN(p->sched->settings.catch_up_rows, p->limits->n_prefill_max);
    return item->sample && item->n_prefill <= n_rows ? SCHED_SAMPLE : SCHED_PREFILL;
}

static uint64_t waited_ms(const planner *p, const shoal_sched_item *item)
{
    return p->now_ms - SHOAL_MIN(item->since_ms, p->now_ms);
}

static int compare_ids(const shoal_sched_item *a, const shoal_sched_item *b)
{
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Negative when a goes before b, of one class; 0 only for the same item. Priorities of different
 * tenants are not compared. */
static int compare_rank(const planner *p, const shoal_sched_item *a, const shoal_sched_item *b)
{
    uint64_t age_ms = p->sched->settings.age_ms;
    bool own = a->tenant == b->tenant;
    uint64_t level_a = (own ? a->priority : 0) + waited_ms(p, a) / age_ms;
    uint64_t level_b = (own ? b->priority : 0) + waited_ms(p, b) / age_ms;
    if (level_a != level_b) {
        return level_a > level_b ? -1 : 1;
    }
    if (a->deadline_ms != b->deadline_ms) {
        return a->deadline_ms < b->deadline_ms ? -1 : 1;
    }
    if (class_of(p, a) == SCHED_SAMPLE && a->turn != b->turn) {
        return a->turn < b->turn ? -1 : 1;
    }
    return compare_ids(a, b);
}

static int compare_places(const void *left, const void *right, void *ctx)
{
    const planner *p = ctx;
    const shoal_sched_item *a = &p->items[*(const size_t *)left];
    const shoal_sched_item *b = &p->items[*(const size_t *)right];
    int class_a = (int)class_of(p, a);
    int class_b = (int)class_of(p, b);
    if (class_a != class_b) {
        return class_a - class_b;
    }
    if (a->tenant != b->tenant) {
        return a->tenant < b->tenant ? -1 : 1;
    }
    return compare_rank(p, a, b);
}

/* Items of a tenant side by side, in the order of their arrival. */
static int compare_arrivals(const void *left, const void *right, void *ctx)
{
    const planner *p = ctx;
    const shoal_sched_item *a = &p->items[*(const size_t *)left];
    const shoal_sched_item *b = &p->items[*(const size_t *)right];
    if (a->tenant != b->tenant) {
        return a->tenant < b->tenant ? -1 : 1;
    }
    if (a->arrived_ms != b->arrived_ms) {
        return a->arrived_ms < b->arrived_ms ? -1 : 1;
    }
    return compare_ids(a, b);
}

/* The same, where each level of priority makes it age_ms earlier. */
static int compare_claims(const void *left, const void *right, void *ctx)
{
    const planner *p = ctx;
    const shoal_sched_item *a = &p->items[*(const size_t *)left];
    const shoal_sched_item *b = &p->items[*(const size_t *)right];
    if (a->tenant != b->tenant) {
        return a->tenant < b->tenant ? -1 : 1;
    }
    /* Compared by sums: what is subtracted on one side is added on the other. */
    uint64_t a_ms = a->arrived_ms + b->priority * p->sched->settings.age_ms;
    uint64_t b_ms = b->arrived_ms + a->priority * p->sched->settings.age_ms;
    if (a_ms != b_ms) {
        return a_ms < b_ms ? -1 : 1;
    }
    return compare_ids(a, b);
}

/* Gives the arrivals of each tenant's items to those items in the order of their claims. Silent
 * items have seats as well: else seniority would change with every round trip to an edge. */
static void seat(planner *p)
{
    shoal_sched *sched = p->sched;
    bool equal = true;
    for (size_t i = 0; i < p->n_items; i++) {
        sched->seats[i] = i;
        sched->order[i] = i;
        sched->arrivals[i] = i;
        equal = equal && p->items[i].priority == p->items[0].priority;
    }
    if (equal) {
        return;
    }
    qsort_r(sched->order, p->n_items, sizeof(*sched->order), compare_claims, p);
    qsort_r(sched->arrivals, p->n_items, sizeof(*sched->arrivals), compare_arrivals, p);
    for (size_t k = 0; k < p->n_items; k++) {
        sched->seats[sched->order[k]] = sched->arrivals[k];
    }
}

/* Whether item a keeps its pages against b: by the arrivals whose seats they have. */
static bool is_senior(const planner *p, size_t a, size_t b)
{
    const shoal_sched_item *seat_a = &p->items[p->sched->seats[a]];
    const shoal_sched_item *seat_b = &p->items[p->sched->seats[b]];
    return seat_a->arrived_ms != seat_b->arrived_ms ? seat_a->arrived_ms < seat_b->arrived_ms
                                                    : seat_a->id < seat_b->id;
}

/* Sorts the items with work into the tenants' queues; who had none in the last step starts level
 * with the least served. Returns how many there are, and the most senior one. */
static size_t queue_up(planner *p, size_t *ret_senior)
{
    shoal_sched *sched = p->sched;
    size_t n = 0;
    *ret_senior = NO_ITEM;
    seat(p);
    for (size_t t = 0; t < sched->n_tenants; t++) {
        sched->tenants[t].works = false;
    }
    for (size_t i = 0; i < p->n_items; i++) {
        sched->marks[i] = SCHED_FREE;
        if (!works(&p->items[i])) {
            continue;
        }
        if (n == 0 || is_senior(p, i, *ret_senior)) {
            *ret_senior = i;
        }
        SHOAL_ASSERT(p->items[i].tenant < sched->n_tenants);
        sched->tenants[p->items[i].tenant].works = true;
        sched->order[n++] = i;
    }
    qsort_r(sched->order, n, sizeof(*sched->order), compare_places, p);
    sched->n_working = 0;
    for (size_t t = 0; t < sched->n_tenants; t++) {
        sched_tenant *tenant = &sched->tenants[t];
        if (tenant->works) {
            sched->working[sched->n_working++] = t;
            tenant->served =
                tenant->active ? tenant->served : SHOAL_MAX(tenant->served, sched->floor);
        }
        tenant->active = tenant->works;
        memset(tenant->head, 0, sizeof(tenant->head));
        memset(tenant->end, 0, sizeof(tenant->end));
    }
    for (size_t at = 0; at < n; at++) {
        const shoal_sched_item *item = &p->items[sched->order[at]];
        sched_tenant *tenant = &sched->tenants[item->tenant];
        sched_class c = class_of(p, item);
        tenant->head[c] = tenant->end[c] == 0 ? at : tenant->head[c];
        tenant->end[c] = at + 1;
    }
    return n;
}

/* The first item of the least served tenant that has one of this class left; between equals the
 * items decide. NO_ITEM: none is left. */
static size_t next_item(const planner *p, sched_class c)
{
    const shoal_sched *sched = p->sched;
    sched_tenant *best = NULL;
    for (size_t i = 0; i < sched->n_working; i++) {
        sched_tenant *tenant = &sched->tenants[sched->working[i]];
        if (tenant->head[c] == tenant->end[c]) {
            continue;
        }
        if (best == NULL || tenant->served < best->served ||
            (tenant->served == best->served &&
             compare_rank(p, &p->items[sched->order[tenant->head[c]]],
                          &p->items[sched->order[best->head[c]]]) < 0)) {
            best = tenant;
        }
    }
    return best == NULL ? NO_ITEM : sched->order[best->head[c]++];
}

/* --- pages ------------------------------------------------------------------------------------ */

static size_t pages_for(const shoal_sched_item *item, size_t n_rows)
{
    size_t beyond = n_rows - SHOAL_MIN(n_rows, item->n_rows_held);
    size_t n_blocks = (beyond + SHOAL_SCHED_BLOCK - 1) / SHOAL_SCHED_BLOCK;
    return n_rows == 0 ? 0 : item->n_pages_copy + n_blocks * item->n_pages_block;
}

/* Rows, n_rows at most, that need no more than the pages there are. */
static size_t rows_within(const planner *p, const shoal_sched_item *item, size_t n_rows)
{
    if (pages_for(item, n_rows) <= p->n_pages) {
        return n_rows;
    }
    if (item->n_pages_copy > p->n_pages) {
        return 0;
    }
    size_t n_blocks = (p->n_pages - item->n_pages_copy) / item->n_pages_block;
    return SHOAL_MIN(n_rows, item->n_rows_held + n_blocks * SHOAL_SCHED_BLOCK);
}

static bool is_stale(const planner *p, const shoal_sched_item *item)
{
    return !works(item) && waited_ms(p, item) >= p->limits->hold_ms;
}

/* Whether taker may take the pages of item i, or its part in shared ones. */
static bool gives_way(const planner *p, size_t i, size_t taker, bool shared)
{
    const shoal_sched_item *item = &p->items[i];
    bool gives = shared ? item->n_pages_held > item->n_pages_given : item->n_pages_given > 0;
    return i != taker && p->sched->marks[i] == SCHED_FREE && gives &&
           (is_stale(p, item) || is_senior(p, taker, i));
}

/* Whether item a loses its pages before b. */
static bool goes_first(const planner *p, size_t a, size_t b)
{
    uint64_t since_a_ms = p->items[a].since_ms;
    uint64_t since_b_ms = p->items[b].since_ms;
    bool stale = is_stale(p, &p->items[a]);
    if (stale != is_stale(p, &p->items[b])) {
        return stale;
    }
    if (stale && since_a_ms != since_b_ms) {
        return since_a_ms < since_b_ms;
    }
    return is_senior(p, b, a);
}

static size_t find_victim(const planner *p, size_t taker, bool shared)
{
    size_t victim = NO_ITEM;
    for (size_t i = 0; i < p->n_items; i++) {
        if (gives_way(p, i, taker, shared) && (victim == NO_ITEM || goes_first(p, i, victim))) {
            victim = i;
        }
    }
    return victim;
}

/* Makes n_pages available to taker, if need be by preempting others; or changes nothing. */
static bool find_pages(planner *p, size_t taker, size_t n_pages)
{
    size_t n_can = p->n_pages;
    for (size_t i = 0; i < p->n_items && n_can < n_pages; i++) {
        n_can += gives_way(p, i, taker, false) ? p->items[i].n_pages_given : 0;
    }
    if (n_can < n_pages) {
        return false;
    }
    while (p->n_pages < n_pages) {
        size_t victim = find_victim(p, taker, false);
        SHOAL_ASSERT(victim != NO_ITEM);
        p->sched->marks[victim] = SCHED_PREEMPTED;
        p->sched->preempted[p->plan.n_preempted++] = victim;
        p->n_pages += p->items[victim].n_pages_given;
    }
    return true;
}

/* Rows of the item, n_rows at most, for which there are pages. A sample is worth taking others'
 * pages for all of its rows, a prompt only for the next block. */
static size_t fit(planner *p, size_t i, size_t n_rows, bool sample)
{
    const shoal_sched_item *item = &p->items[i];
    if (sample && find_pages(p, i, pages_for(item, n_rows))) {
        return n_rows;
    }
    size_t n_fit = rows_within(p, item, n_rows);
    if (n_fit > 0) {
        return n_fit;
    }
    size_t least = item->n_rows_held > 0 ? item->n_rows_held : (size_t)SHOAL_SCHED_BLOCK;
    least = SHOAL_MIN(n_rows, least);
    return find_pages(p, i, pages_for(item, least)) ? least : 0;
}

/* --- rows ------------------------------------------------------------------------------------- */

/* Rows and logits that the samples, or the prompts, may still take. */
typedef struct budget {
    size_t n_rows;
    size_t n_logits;
} budget;

static void charge(planner *p, const shoal_sched_item *item, size_t n_rows, size_t n_logits)
{
    p->sched->tenants[item->tenant].served += n_rows + n_logits;
    p->plan.n_rows += n_rows;
    p->plan.n_logits += n_logits;
}

/* Takes the item into the step when it has room. Whoever was preempted in this step waits. */
static void take(planner *p, size_t i, budget *left)
{
    const shoal_sched_item *item = &p->items[i];
    sched_mark *mark = &p->sched->marks[i];
    bool sample = class_of(p, item) == SCHED_SAMPLE;
    size_t n_wanted = sample ? item->n_prefill + 1 : item->n_prefill;
    size_t n_rows = SHOAL_MIN(n_wanted, left->n_rows);
    if (*mark != SCHED_FREE || n_rows == 0) {
        return;
    }
    n_rows = fit(p, i, n_rows, sample);
    if (n_rows == 0) {
        return;
    }
    size_t n_logits = sample && n_rows == n_wanted ? 1 : 0;
    size_t n_pages = pages_for(item, n_rows);
    *mark = SCHED_PICKED;
    p->sched->picks[p->plan.n_picks++] =
        (shoal_sched_pick){.item_i = i, .n_rows = n_rows, .n_logits = n_logits};
    p->n_pages -= n_pages;
    p->plan.n_pages += n_pages;
    p->plan.n_samples += n_logits;
    left->n_rows -= n_rows;
    left->n_logits -= n_logits;
    charge(p, item, n_rows, n_logits);
}

/* More rows of the prompt that was picked first. */
static void widen(planner *p, shoal_sched_pick *pick, budget *left)
{
    const shoal_sched_item *item = &p->items[pick->item_i];
    size_t n_rows = SHOAL_MIN(item->n_prefill, pick->n_rows + left->n_rows);
    size_t n_had = pages_for(item, pick->n_rows);
    p->n_pages += n_had;
    n_rows = rows_within(p, item, n_rows);
    size_t n_pages = pages_for(item, n_rows);
    p->n_pages -= n_pages;
    p->plan.n_pages += n_pages - n_had;
    left->n_rows -= n_rows - pick->n_rows;
    charge(p, item, n_rows - pick->n_rows, 0);
    pick->n_rows = n_rows;
}

/* One more draft for a pick, if it has one and there is room. */
static bool extend(planner *p, shoal_sched_pick *pick, budget *left)
{
    const shoal_sched_item *item = &p->items[pick->item_i];
    size_t n_pages = pages_for(item, pick->n_rows + 1) - pages_for(item, pick->n_rows);
    if (n_pages > p->n_pages) {
        return false;
    }
    pick->n_rows++;
    pick->n_logits++;
    p->n_pages -= n_pages;
    p->plan.n_pages += n_pages;
    left->n_rows--;
    left->n_logits--;
    charge(p, item, 1, 1);
    return true;
}

/* Who says that all his drafts are sure is believed as far as his drafts have stood. */
static double odds_of(const shoal_sched_item *item, size_t draft_i)
{
    double said = item->odds != NULL ? (double)item->odds[draft_i] / 255.0 : 1.0;
    return SHOAL_MIN(said, item->acceptance);
}

/* Drafts, first those behind nothing but a sample, then those behind one draft, and so on. The
 * d-th stands with probability acceptance^d, or less by what is said of each; it takes part when
 * that is no less than what its time would give elsewhere in this step: so the expected tokens for
 * the time grow with each. n_prompt rows are to come and count as what they are, one token each.
 * Rows that a sample catches up with give no token and make the step long: beside them any draft
 * would be worth its row, so none takes part that costs more than its token would by itself. */
static void choose_drafts(planner *p, size_t n_prompt, budget *left)
{
    double n_samples = (double)p->plan.n_samples;
    double session_us = shoal_sched_cost_session_us(p->cost);
    double value = n_samples + (double)n_prompt;
    double token_us = p->plan.n_samples > 0
                          ? shoal_sched_cost_us(p->cost, p->plan.n_samples) / n_samples +
                                session_us + p->cost->logit_us
                          : 0.0;
    bool more = true;
    for (size_t depth = 1; more && depth <= p->limits->n_drafts_max; depth++) {
        more = false;
        for (size_t k = 0; k < p->plan.n_picks && left->n_rows > 0 && left->n_logits > 0; k++) {
            shoal_sched_pick *pick = &p->sched->picks[k];
            const shoal_sched_item *item = &p->items[pick->item_i];
            if (pick->n_logits != depth || item->n_drafts < depth) {
                continue;
            }
            double gain = 1.0;
            for (size_t d = 0; d < depth; d++) {
                gain *= odds_of(item, d);
            }
            size_t n_rows = p->plan.n_rows + n_prompt;
            double draft_us = shoal_sched_cost_more_us(p->cost, n_rows, 1) + p->cost->logit_us;
            double step_us = shoal_sched_cost_us(p->cost, n_rows) +
                             p->cost->logit_us * (double)p->plan.n_logits + session_us * n_samples;
            bool worth = gain * token_us >= draft_us && gain * step_us >= value * draft_us;
            if (worth && extend(p, pick, left)) {
                value += gain;
                more = true;
            }
        }
    }
}

/* Prompt rows that wait, up to n_max, and sessions whose sample is due. */
static size_t count_prompt_rows(const planner *p, size_t n_max, size_t *ret_n_samples)
{
    size_t n = 0;
    *ret_n_samples = 0;
    for (size_t i = 0; i < p->n_items; i++) {
        const shoal_sched_item *item = &p->items[i];
        *ret_n_samples += item->sample;
        if (works(item) && class_of(p, item) == SCHED_PREFILL) {
            n = SHOAL_MIN(n_max, n + SHOAL_MIN(item->n_prefill, n_max));
        }
    }
    return n;
}

static void choose(planner *p, size_t senior)
{
    const shoal_sched_limits *limits = p->limits;
    size_t n_cap = shoal_sched_cost_rows(p->cost, limits->time_us, limits->n_rows_max);
    size_t n_samples = 0;
    size_t half = SHOAL_MAX(n_cap / 2, (size_t)1);
    size_t n_prompt = count_prompt_rows(p, SHOAL_MIN(limits->n_prefill_max, half), &n_samples);
    budget prompts = {.n_rows = n_prompt};
    budget samples = {.n_rows = n_cap - n_prompt, .n_logits = limits->n_logits_max};
    bool sample = class_of(p, &p->items[senior]) == SCHED_SAMPLE;
    if (sample && samples.n_rows == 0) {
        samples.n_rows = 1; /* one row in all: it is the senior's */
        prompts.n_rows = 0;
        n_prompt = 0;
    }
    take(p, senior, sample ? &samples : &prompts);
    while (samples.n_rows > 0 && samples.n_logits > 0) {
        size_t i = next_item(p, SCHED_SAMPLE);
        if (i == NO_ITEM) {
            break;
        }
        take(p, i, &samples);
    }
    choose_drafts(p, n_prompt, &samples);
    /* What the samples left is the prompts', up to a chunk. */
    size_t n_more = SHOAL_MIN(samples.n_rows, limits->n_prefill_max - n_prompt);
    prompts.n_rows += n_more;
    if (p->plan.n_picks > 0 && p->sched->picks[0].n_logits == 0) {
        widen(p, &p->sched->picks[0], &prompts);
    }
    while (prompts.n_rows > 0) {
        size_t i = next_item(p, SCHED_PREFILL);
        if (i == NO_ITEM) {
            break;
        }
        take(p, i, &prompts);
    }
    p->plan.price = shoal_sched_cost_price(p->cost, SHOAL_MAX(n_samples, (size_t)1));
}

/* The least served of those with work has had so much. */
static void raise_floor(shoal_sched *sched)
{
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < sched->n_working; i++) {
        least = SHOAL_MIN(least, sched->tenants[sched->working[i]].served);
    }
    sched->floor = sched->n_working > 0 ? SHOAL_MAX(sched->floor, least) : sched->floor;
}

shoal_status shoal_sched_step(shoal_sched *sched, const shoal_sched_item *items, size_t n_items,
                              const shoal_sched_limits *limits, const shoal_sched_cost *cost,
                              uint64_t now_ms, shoal_sched_plan *ret_plan)
{
    SHOAL_ASSERT(n_items <= sched->settings.n_items_max && limits->n_rows_max >= 1 &&
                 limits->n_logits_max >= 1 && limits->n_prefill_max >= 1);
    planner p = {.sched = sched,
                 .items = items,
                 .n_items = n_items,
                 .limits = limits,
                 .cost = cost,
                 .now_ms = now_ms,
                 .n_pages = limits->n_pages_free + limits->n_pages_cached};
    size_t senior = NO_ITEM;
    size_t n_working = queue_up(&p, &senior);
    if (n_working > 0) {
        choose(&p, senior);
    }
    if (n_working > 0 && p.plan.n_picks == 0) {
        /* The pages are held by several items each: one of them less, and so on. */
        size_t victim = find_victim(&p, senior, true);
        if (victim != NO_ITEM) {
            sched->preempted[p.plan.n_preempted++] = victim;
        }
    }
    raise_floor(sched);
    p.plan.picks = sched->picks;
    p.plan.preempted = sched->preempted;
    p.plan.n_waiting = n_working - p.plan.n_picks;
    *ret_plan = p.plan;
    if (n_working == 0) {
        return SHOAL_EOF;
    }
    return p.plan.n_picks > 0 ? SHOAL_OK : SHOAL_BUSY;
}

size_t shoal_sched_turns(shoal_sched *sched, const shoal_sched_item *items, size_t n_items,
                         size_t n_max, uint64_t now_ms, const shoal_sched_pick **ret_picks)
{
    SHOAL_ASSERT(n_items <= sched->settings.n_items_max);
    const shoal_sched_limits limits = {.n_prefill_max = 1};
    planner p = {
        .sched = sched, .items = items, .n_items = n_items, .limits = &limits, .now_ms = now_ms};
    size_t senior = NO_ITEM;
    (void)queue_up(&p, &senior); /* no step, so nobody has to be in it */
    size_t i = NO_ITEM;
    while (p.plan.n_picks < n_max && (i = next_item(&p, SCHED_SAMPLE)) != NO_ITEM) {
        sched->picks[p.plan.n_picks++] =
            (shoal_sched_pick){.item_i = i, .n_rows = 1, .n_logits = 1};
        charge(&p, &items[i], 1, 1);
    }
    raise_floor(sched);
    *ret_picks = sched->picks;
    return p.plan.n_picks;
}
