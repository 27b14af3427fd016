/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler alone, over sessions that are numbers: tens of thousands of plans in a second, each
 * held against what cloud/sched/sched.h promises, counted here anew.
 */
#include "cloud/sched/sched.h"
#include "common/base/mem.h"
#include "tests/sim/draw.h"
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    QUEUE_MAX = 48,
    TENANTS_MAX = 4,
    STEPS_MAX = 400,
    BLOCK = SHOAL_SCHED_BLOCK
};

/* A session: h tokens, KV of the first n_kv of them. */
typedef struct job {
    bool here;
    shoal_sched_item item; /* what the scheduler was shown in this step */
    size_t h;
    size_t n_kv;
    size_t n_blocks;  /* it holds */
    size_t n_left;    /* tokens to sample yet */
    size_t n_span;    /* drafts it sends; 0: plain decoding */
    bool shares;      /* its next row is written to a page that another also uses */
    bool due;         /* it waits for the node, else the node for it */
    uint64_t back_ms; /* when its edge sends again */
} job;

typedef struct queue {
    sim_report *report;
    uint64_t rng;
    uint64_t now_us;
    shoal_sched_settings settings;
    shoal_sched *sched;
    shoal_sched *twin; /* told the same, must plan the same */
    shoal_sched_limits limits;
    shoal_sched_cost cost;
    size_t fixed_us;
    size_t row_us;
    size_t n_pages;
    size_t n_pages_block;
    size_t n_free;
    bool plain; /* no drafts, prompts that catch up at once, plenty of pages: order can be judged */
    job jobs[QUEUE_MAX];
    uint64_t next_id;
    uint64_t n_steps;
    shoal_sched_item items[QUEUE_MAX];
    size_t of[QUEUE_MAX]; /* job of each item */
    size_t n_items;
    size_t seats[QUEUE_MAX]; /* the item whose arrival is the seniority of each */
    bool broken;
} queue;

__attribute__((format(printf, 2, 3))) static void broken(queue *q, const char *format, ...)
{
    if (q->broken) {
        return;
    }
    q->broken = true;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(q->report->why, sizeof q->report->why, format, args);
    va_end(args);
}

static uint64_t now_ms(const queue *q)
{
    return q->now_us / 1000;
}

/* --- sessions -----------------------------------------------------------------------------------
 */

static void arrive(queue *q, job *j)
{
    uint64_t *rng = &q->rng;
    char name[16];
    size_t twin = 0;
    *j = (job){.here = true,
               .h = q->plain ? sim_draw(rng, 1, 32) : sim_draw(rng, 1, 200),
               .n_left = sim_draw(rng, 1, 40),
               .n_span = q->plain || sim_chance(rng, 2) ? 0 : sim_draw(rng, 1, 8),
               .due = true};
    j->item.id = q->next_id++;
    j->item.priority = (unsigned)sim_draw(rng, 0, SHOAL_SCHED_PRIORITY_MAX);
    j->item.arrived_ms = now_ms(q);
    j->item.since_ms = now_ms(q);
    j->item.deadline_ms = sim_chance(rng, 2) ? UINT64_MAX : now_ms(q) + sim_draw(rng, 1, 5000);
    j->item.acceptance = (double)sim_draw(rng, 0, 10) / 10;
    (void)snprintf(name, sizeof name, "tenant-%zu", sim_draw(rng, 0, TENANTS_MAX - 1));
    if (shoal_sched_join(q->sched, name, &j->item.tenant) != SHOAL_OK ||
        shoal_sched_join(q->twin, name, &twin) != SHOAL_OK || twin != j->item.tenant) {
        broken(q, "a tenant could not join");
    }
}

static void release_pages(queue *q, job *j)
{
    q->n_free += j->n_blocks * q->n_pages_block;
    j->n_blocks = 0;
    j->n_kv = 0;
    j->shares = false;
}

static void leave(queue *q, job *j)
{
    release_pages(q, j);
    shoal_sched_leave(q->sched, j->item.tenant);
    shoal_sched_leave(q->twin, j->item.tenant);
    j->here = false;
    q->report->n_sessions++;
}

/* What the scheduler is shown. */
static void show(queue *q)
{
    q->n_items = 0;
    for (size_t i = 0; i < QUEUE_MAX; i++) {
        job *j = &q->jobs[i];
        if (!j->here) {
            continue;
        }
        if (!j->due && now_ms(q) >= j->back_ms) {
            j->due = true;
            j->item.since_ms = now_ms(q);
        }
        shoal_sched_item *item = &j->item;
        item->sample = j->due;
        item->n_prefill = j->due ? j->h - 1 - j->n_kv : 0;
        item->n_drafts = j->due ? SHOAL_MIN(j->n_span, j->n_left - 1) : 0;
        item->n_rows_held = j->n_blocks * BLOCK - j->n_kv;
        item->n_pages_block = q->n_pages_block;
        item->n_pages_copy = j->shares ? q->n_pages_block : 0;
        item->n_pages_given = j->n_blocks * q->n_pages_block;
        q->of[q->n_items] = i;
        q->items[q->n_items++] = *item;
    }
    q->limits.n_pages_free = q->n_free;
}

/* --- what a plan must be ------------------------------------------------------------------------
 */

static size_t pages_of(const shoal_sched_item *item, size_t n_rows)
{
    size_t beyond = n_rows > item->n_rows_held ? n_rows - item->n_rows_held : 0;
    return item->n_pages_copy + (beyond + BLOCK - 1) / BLOCK * item->n_pages_block;
}

static bool has_work(const shoal_sched_item *item)
{
    return item->sample || item->n_prefill > 0;
}

/* Whether a comes before b of its own tenant, by arrival and priority. */
static bool claims_before(const queue *q, const shoal_sched_item *a, const shoal_sched_item *b)
{
    int64_t age = (int64_t)q->settings.age_ms;
    int64_t a_ms = (int64_t)a->arrived_ms - (int64_t)a->priority * age;
    int64_t b_ms = (int64_t)b->arrived_ms - (int64_t)b->priority * age;
    return a_ms != b_ms ? a_ms < b_ms : a->id < b->id;
}

static bool arrived_before(const shoal_sched_item *a, const shoal_sched_item *b)
{
    return a->arrived_ms != b->arrived_ms ? a->arrived_ms < b->arrived_ms : a->id < b->id;
}

/* Finds for each item the one of its tenant whose arrival counts as its own: as many came before
 * that one as have a better claim. */
static void find_seats(queue *q)
{
    size_t n_better[QUEUE_MAX] = {0};
    size_t n_before[QUEUE_MAX] = {0};
    for (size_t i = 0; i < q->n_items; i++) {
        for (size_t k = 0; k < q->n_items; k++) {
            bool own = q->items[k].tenant == q->items[i].tenant;
            n_better[i] += own && claims_before(q, &q->items[k], &q->items[i]);
            n_before[i] += own && arrived_before(&q->items[k], &q->items[i]);
        }
    }
    for (size_t i = 0; i < q->n_items; i++) {
        for (size_t k = 0; k < q->n_items; k++) {
            if (q->items[k].tenant == q->items[i].tenant && n_before[k] == n_better[i]) {
                q->seats[i] = k;
            }
        }
    }
}

static bool older(const queue *q, size_t a, size_t b)
{
    return arrived_before(&q->items[q->seats[a]], &q->items[q->seats[b]]);
}

/* The most senior with work; n_items: nobody has. */
static size_t senior_of(const queue *q)
{
    size_t senior = q->n_items;
    for (size_t i = 0; i < q->n_items; i++) {
        if (has_work(&q->items[i]) && (senior == q->n_items || older(q, i, senior))) {
            senior = i;
        }
    }
    return senior;
}

static void check_pick(queue *q, const shoal_sched_pick *pick)
{
    const shoal_sched_item *item = &q->items[pick->item_i];
    size_t n_drafts = SHOAL_MIN(item->n_drafts, q->limits.n_drafts_max);
    if (pick->n_rows == 0 || !has_work(item)) {
        broken(q, "item %" PRIu64 " without work or rows is in the step", item->id);
    }
    if (pick->n_logits == 0 ? pick->n_rows > item->n_prefill
                            : pick->n_rows != item->n_prefill + pick->n_logits ||
                                  pick->n_logits > 1 + n_drafts || !item->sample) {
        broken(q, "item %" PRIu64 ": %zu rows and %zu logits do not fit its work", item->id,
               pick->n_rows, pick->n_logits);
    }
}

/* Sums, each item once, pages within what there is. */
static void check_sums(queue *q, const shoal_sched_plan *plan, uint8_t *marks)
{
    size_t n_rows = 0;
    size_t n_logits = 0;
    size_t n_pages = 0;
    size_t n_have = q->limits.n_pages_free + q->limits.n_pages_cached;
    for (size_t k = 0; k < plan->n_preempted; k++) {
        const shoal_sched_item *item = &q->items[plan->preempted[k]];
        n_have += item->n_pages_given;
        if (marks[plan->preempted[k]]++ > 0 || item->n_pages_given == 0) {
            broken(q, "item %" PRIu64 " is preempted twice or for nothing", item->id);
        }
    }
    for (size_t k = 0; k < plan->n_picks; k++) {
        const shoal_sched_pick *pick = &plan->picks[k];
        check_pick(q, pick);
        if (marks[pick->item_i]++ > 0) {
            broken(q, "item %" PRIu64 " is twice in a step", q->items[pick->item_i].id);
        }
        n_rows += pick->n_rows;
        n_logits += pick->n_logits;
        n_pages += pages_of(&q->items[pick->item_i], pick->n_rows);
    }
    if (n_rows > q->limits.n_rows_max || n_logits > q->limits.n_logits_max || n_pages > n_have) {
        broken(q, "%zu rows, %zu logits, %zu of %zu pages are over a limit", n_rows, n_logits,
               n_pages, n_have);
    }
    if (n_rows != plan->n_rows || n_logits != plan->n_logits || n_pages != plan->n_pages) {
        broken(q, "the plan says %zu rows, %zu pages; its picks have %zu and %zu", plan->n_rows,
               plan->n_pages, n_rows, n_pages);
    }
}

/* Who is preempted is silent for long, or junior to somebody in the step. */
static void check_preempted(queue *q, const shoal_sched_plan *plan)
{
    for (size_t k = 0; k < plan->n_preempted; k++) {
        const shoal_sched_item *item = &q->items[plan->preempted[k]];
        bool fair = !has_work(item) && now_ms(q) >= item->since_ms + q->limits.hold_ms;
        for (size_t i = 0; i < plan->n_picks; i++) {
            fair = fair || older(q, plan->picks[i].item_i, plan->preempted[k]);
        }
        if (!fair) {
            broken(q, "item %" PRIu64 " lost its pages to juniors", item->id);
        }
    }
}

/* Negative: a goes first within a tenant. */
static int rank(const queue *q, const shoal_sched_item *a, const shoal_sched_item *b)
{
    uint64_t level_a = a->priority + (now_ms(q) - a->since_ms) / q->settings.age_ms;
    uint64_t level_b = b->priority + (now_ms(q) - b->since_ms) / q->settings.age_ms;
    if (level_a != level_b) {
        return level_a > level_b ? -1 : 1;
    }
    if (a->deadline_ms != b->deadline_ms) {
        return a->deadline_ms < b->deadline_ms ? -1 : 1;
    }
    return a->turn < b->turn ? -1 : a->turn > b->turn;
}

/* Where pages and kinds of work do not matter: nobody waits behind who comes after it, in its own
 * tenant by rank and between tenants by what they were served, within the cost of one pick. */
static void check_order(queue *q, const shoal_sched_plan *plan, const uint8_t *marks, size_t senior)
{
    uint64_t slack = 2 * (q->settings.catch_up_rows + 2);
    for (size_t y = 0; y < q->n_items; y++) {
        const shoal_sched_item *waits = &q->items[y];
        if (marks[y] || !has_work(waits)) {
            continue;
        }
        for (size_t k = 0; k < plan->n_picks; k++) {
            size_t x = plan->picks[k].item_i;
            const shoal_sched_item *runs = &q->items[x];
            if (x == senior || plan->picks[k].n_logits == 0) {
                continue;
            }
            if (runs->tenant == waits->tenant && rank(q, waits, runs) < 0) {
                broken(q, "item %" PRIu64 " waits behind %" PRIu64 " of its own tenant", waits->id,
                       runs->id);
            }
            if (shoal_sched_served(q->sched, runs->tenant) >
                shoal_sched_served(q->sched, waits->tenant) + slack) {
                broken(q, "tenant %zu waits and was served less than tenant %zu, which runs",
                       waits->tenant, runs->tenant);
            }
        }
    }
}

/* A waiting sample comes into a step once age has lifted it over all others, and those before it
 * have had their turn. */
static void check_waiting(queue *q, const uint8_t *marks)
{
    uint64_t step_us = q->fixed_us + q->row_us * q->limits.n_rows_max;
    uint64_t most_ms =
        (SHOAL_SCHED_PRIORITY_MAX + 2) * q->settings.age_ms + 2 * QUEUE_MAX * step_us / 1000;
    for (size_t i = 0; i < q->n_items && q->plain; i++) {
        uint64_t waited = now_ms(q) - q->items[i].since_ms;
        if (!marks[i] && q->items[i].sample && waited > most_ms) {
            broken(q, "item %" PRIu64 " has waited %" PRIu64 " ms, over %" PRIu64, q->items[i].id,
                   waited, most_ms);
        }
    }
}

static void check(queue *q, const shoal_sched_plan *plan, shoal_status status)
{
    uint8_t marks[QUEUE_MAX] = {0};
    find_seats(q);
    size_t senior = senior_of(q);
    if ((status == SHOAL_EOF) != (senior == q->n_items)) {
        broken(q, "the step says %d, and %s has work", status,
               senior == q->n_items ? "nobody" : "somebody");
        return;
    }
    check_sums(q, plan, marks);
    check_preempted(q, plan);
    if (status == SHOAL_OK && !marks[senior]) {
        broken(q, "the most senior item is not in the step");
    }
    if (status == SHOAL_OK && q->plain) {
        check_order(q, plan, marks, senior);
    }
    check_waiting(q, marks);
}

/* --- a step -------------------------------------------------------------------------------------
 */

static void sampled(queue *q, job *j, size_t n_drafts)
{
    size_t n_new = 1;
    while (n_new <= n_drafts && (double)sim_draw(&q->rng, 0, 99) < 100 * j->item.acceptance) {
        n_new++;
    }
    n_new = SHOAL_MIN(n_new, j->n_left);
    j->h += n_new;
    j->n_left -= n_new;
    j->n_kv = j->h - 1; /* rows of refused drafts are truncated */
    q->report->n_tokens += n_new;
    if (j->n_left == 0) {
        leave(q, j);
    } else if (j->n_span > 0) {
        j->due = false; /* a round trip to its edge */
        j->back_ms = now_ms(q) + sim_draw(&q->rng, 0, 60);
    }
}

static void run_plan(queue *q, const shoal_sched_plan *plan)
{
    for (size_t k = 0; k < plan->n_preempted; k++) {
        release_pages(q, &q->jobs[q->of[plan->preempted[k]]]);
        q->report->n_preempted++;
    }
    uint64_t us = q->fixed_us + q->row_us * plan->n_rows;
    shoal_sched_cost_observe(&q->cost, plan->n_rows, plan->n_samples, us);
    q->now_us += us;
    for (size_t k = 0; k < plan->n_picks; k++) {
        const shoal_sched_pick *pick = &plan->picks[k];
        job *j = &q->jobs[q->of[pick->item_i]];
        size_t n_pages = pages_of(&j->item, pick->n_rows);
        size_t n_copied = j->item.n_pages_copy; /* for one it shared and no longer has */
        q->n_free -= n_pages - n_copied;
        j->n_blocks += (n_pages - n_copied) / q->n_pages_block;
        j->shares = false;
        j->n_kv += pick->n_rows;
        j->item.turn = q->n_steps;
        j->item.since_ms = now_ms(q);
        if (pick->n_logits > 0) {
            sampled(q, j, pick->n_logits - 1);
        }
    }
}

static bool same_plan(const shoal_sched_plan *a, const shoal_sched_plan *b)
{
    if (a->n_picks != b->n_picks || a->n_preempted != b->n_preempted || a->n_pages != b->n_pages) {
        return false;
    }
    bool same = true;
    for (size_t k = 0; k < a->n_picks; k++) {
        same = same && a->picks[k].item_i == b->picks[k].item_i &&
               a->picks[k].n_rows == b->picks[k].n_rows &&
               a->picks[k].n_logits == b->picks[k].n_logits;
    }
    for (size_t k = 0; k < a->n_preempted; k++) {
        same = same && a->preempted[k] == b->preempted[k];
    }
    return same;
}

static void step(queue *q)
{
    shoal_sched_plan plan;
    shoal_sched_plan twin;
    show(q);
    q->n_steps++;
    shoal_status status =
        shoal_sched_step(q->sched, q->items, q->n_items, &q->limits, &q->cost, now_ms(q), &plan);
    shoal_status again =
        shoal_sched_step(q->twin, q->items, q->n_items, &q->limits, &q->cost, now_ms(q), &twin);
    if (status != again || !same_plan(&plan, &twin)) {
        broken(q, "equal input gave two plans");
    }
    check(q, &plan, status);
    if (status == SHOAL_OK && !q->broken) {
        run_plan(q, &plan);
    } else {
        q->now_us += 5000;
    }
}

/* --- a queue from a seed ------------------------------------------------------------------------
 */

static void draw_queue(queue *q)
{
    uint64_t *rng = &q->rng;
    q->plain = sim_chance(rng, 2);
    q->settings = (shoal_sched_settings){.n_items_max = QUEUE_MAX,
                                         .catch_up_rows = q->plain ? 64 : sim_draw(rng, 1, 64),
                                         .age_ms = sim_draw(rng, 1, 2000)};
    q->n_pages_block = sim_draw(rng, 1, 4);
    /* Room for the longest session alone, or for all. */
    size_t n_blocks =
        q->plain || sim_chance(rng, 3) ? (size_t)10 * QUEUE_MAX : sim_draw(rng, 9, 40);
    q->n_pages = n_blocks * q->n_pages_block;
    q->n_free = q->n_pages;
    size_t rows = sim_draw(rng, q->plain ? 34 : 1, 128);
    q->limits = (shoal_sched_limits){
        .n_rows_max = rows,
        .n_logits_max = q->plain ? rows : sim_draw(rng, 1, 64),
        .n_prefill_max = q->plain ? rows : sim_draw(rng, 1, rows),
        .n_drafts_max = sim_draw(rng, 1, 16),
        .time_us = q->plain || sim_chance(rng, 2) ? 0 : sim_draw(rng, 1000, 100000),
        .hold_ms = sim_draw(rng, 0, 500),
    };
    q->fixed_us = sim_draw(rng, 100, 20000);
    q->row_us = sim_draw(rng, 1, 2000);
}

bool sim_sched_run(const sim_base *base, uint64_t seed, sim_report *report)
{
    (void)base;
    queue *q = shoal_calloc(1, sizeof *q);
    if (!q) {
        (void)snprintf(report->why, sizeof report->why, "out of memory");
        return false;
    }
    q->report = report;
    q->rng = seed * 0xD1B54A32D192ED03U + 1;
    draw_queue(q);
    if (shoal_sched_new(&q->settings, &q->sched) != SHOAL_OK ||
        shoal_sched_new(&q->settings, &q->twin) != SHOAL_OK) {
        broken(q, "a scheduler could not be made");
    }
    size_t one_in = sim_draw(&q->rng, 1, 6); /* how often somebody arrives */
    for (size_t s = 0; s < STEPS_MAX && !q->broken; s++) {
        for (size_t i = 0; i < QUEUE_MAX; i++) {
            if (!q->jobs[i].here && sim_chance(&q->rng, one_in)) {
                arrive(q, &q->jobs[i]);
                break;
            }
        }
        for (size_t i = 0; i < QUEUE_MAX; i++) {
            job *j = &q->jobs[i];
            if (j->here && sim_chance(&q->rng, 400)) {
                leave(q, j); /* its edge is gone */
            } else if (j->here && j->n_blocks > 0 && q->n_free > QUEUE_MAX * q->n_pages_block) {
                j->shares = j->shares || sim_chance(&q->rng, 200);
            }
        }
        step(q);
    }
    report->n_steps += q->n_steps;
    bool good = !q->broken;
    shoal_sched_free(q->sched);
    shoal_sched_free(q->twin);
    shoal_free(q);
    return good;
}
