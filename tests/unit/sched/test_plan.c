/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan of a step: who takes part, in which order, with how many rows, and who gives way. At the
 * end a little node of numbers alone, run at random until all is done.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "cloud/sched/sched.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <string.h>

enum {
    N_MAX = 64
};

typedef struct rig {
    shoal_sched *sched;
    shoal_sched_item items[N_MAX];
    size_t n;
    shoal_sched_limits limits;
    shoal_sched_cost cost;
    shoal_sched_plan plan;
    uint64_t turn;
    uint64_t now_ms;
} rig;

static void rig_init(rig *r)
{
    memset(r, 0, sizeof(*r));
    shoal_sched_settings settings = shoal_sched_settings_default();
    settings.n_items_max = N_MAX;
    assert_int_equal(shoal_sched_new(&settings, &r->sched), SHOAL_OK);
    r->limits = (shoal_sched_limits){.n_rows_max = 64,
                                     .n_logits_max = 16,
                                     .n_prefill_max = 32,
                                     .n_drafts_max = 63,
                                     .n_pages_free = 1000,
                                     .hold_ms = 1000};
    r->now_ms = 5000;
}

/* A new item of the tenant that holds no pages and is silent. */
static shoal_sched_item *add(rig *r, const char *tenant)
{
    shoal_sched_item *item = &r->items[r->n];
    *item = (shoal_sched_item){.id = r->n,
                               .arrived_ms = r->now_ms,
                               .deadline_ms = UINT64_MAX,
                               .since_ms = r->now_ms,
                               .acceptance = 0.8,
                               .n_pages_block = 1};
    assert_int_equal(shoal_sched_join(r->sched, tenant, &item->tenant), SHOAL_OK);
    r->n++;
    return item;
}

/* One that holds n_pages of 32 rows, all full, and wants a sample. */
static shoal_sched_item *add_sample(rig *r, const char *tenant, size_t n_pages)
{
    shoal_sched_item *item = add(r, tenant);
    item->sample = true;
    item->n_pages_given = n_pages;
    return item;
}

static shoal_status step(rig *r)
{
    shoal_status status =
        shoal_sched_step(r->sched, r->items, r->n, &r->limits, &r->cost, r->now_ms, &r->plan);
    r->turn++;
    for (size_t k = 0; k < r->plan.n_picks; k++) {
        r->items[r->plan.picks[k].item_i].turn = r->turn;
    }
    return status;
}

static const shoal_sched_pick *pick_of(const rig *r, const shoal_sched_item *item)
{
    for (size_t k = 0; k < r->plan.n_picks; k++) {
        if (&r->items[r->plan.picks[k].item_i] == item) {
            return &r->plan.picks[k];
        }
    }
    return NULL;
}

static size_t rows_of(const rig *r, const shoal_sched_item *item)
{
    const shoal_sched_pick *pick = pick_of(r, item);
    return pick == NULL ? 0 : pick->n_rows;
}

static void test_no_work_is_the_end(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    assert_int_equal(step(&r), SHOAL_EOF);
    add(&r, "a");
    assert_int_equal(step(&r), SHOAL_EOF);
    assert_int_equal(r.plan.n_picks, 0);
    shoal_sched_free(r.sched);
}

static void test_samples_and_prompts_share_a_step(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *talker = add_sample(&r, "a", 1);
    shoal_sched_item *reader = add(&r, "a");
    talker->n_drafts = 4;
    reader->n_prefill = 1000;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, talker), 5);
    assert_int_equal(pick_of(&r, talker)->n_logits, 5);
    assert_int_equal(rows_of(&r, reader), 32);
    assert_int_equal(pick_of(&r, reader)->n_logits, 0);
    assert_int_equal(r.plan.n_rows, 37);
    assert_int_equal(r.plan.n_pages, 2);
    shoal_sched_free(r.sched);
}

static void test_sample_behind_a_few_rows_runs_with_them(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *item = add_sample(&r, "a", 0);
    for (size_t n = 31; n <= 33; n++) {
        item->n_prefill = n;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(r.plan.n_rows, n <= 32 ? n + 1 : 32);
        assert_int_equal(r.plan.n_logits, n <= 32 ? 1 : 0);
        assert_int_equal(r.plan.n_pages, n <= 31 ? 1 : n == 32 ? 2 : 1);
    }
    shoal_sched_free(r.sched);
}

static void test_prompts_keep_their_part_of_the_rows(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_rows_max = 16;
    r.limits.n_logits_max = 64;
    for (size_t i = 0; i < 20; i++) {
        add_sample(&r, "a", 1)->n_drafts = 10;
    }
    shoal_sched_item *reader = add(&r, "a");
    reader->n_prefill = 100;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, reader), 8);
    assert_int_equal(r.plan.n_rows, 16);
    assert_int_equal(r.plan.n_waiting, 12);
    shoal_sched_free(r.sched);
}

static void test_time_limit_shortens_the_prompts_not_the_samples(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.cost = (shoal_sched_cost){.fixed_us = 1000.0, .row_us = 1000.0};
    r.limits.time_us = 13000; /* 12 rows */
    shoal_sched_item *reader = add(&r, "a");
    reader->n_prefill = 1000;
    for (size_t i = 0; i < 4; i++) {
        add_sample(&r, "a", 1);
    }
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_samples, 4);
    assert_int_equal(rows_of(&r, reader), 8);
    r.limits.time_us = 0;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, reader), 32);
    shoal_sched_free(r.sched);
}

static void test_one_row_in_all_goes_to_the_senior(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits = (shoal_sched_limits){
        .n_rows_max = 1, .n_logits_max = 1, .n_prefill_max = 1, .n_pages_free = 10};
    shoal_sched_item *talker = add_sample(&r, "a", 1);
    shoal_sched_item *reader = add(&r, "a");
    reader->n_prefill = 2;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, talker), 1);
    talker->sample = false;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, reader), 1);
    shoal_sched_free(r.sched);
}

/* --- order ------------------------------------------------------------------------------------ */

static void test_priority_then_deadline_then_turn(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_logits_max = 4;
    shoal_sched_item *oldest = add_sample(&r, "a", 1);
    shoal_sched_item *plain = add_sample(&r, "a", 1);
    shoal_sched_item *late = add_sample(&r, "a", 1);
    shoal_sched_item *soon = add_sample(&r, "a", 1);
    shoal_sched_item *high = add_sample(&r, "a", 1);
    oldest->arrived_ms = 0; /* the most senior: in every step */
    late->deadline_ms = 9000;
    soon->deadline_ms = 8000;
    high->priority = 3;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.picks[0].item_i], oldest);
    assert_ptr_equal(&r.items[r.plan.picks[1].item_i], high);
    assert_ptr_equal(&r.items[r.plan.picks[2].item_i], soon);
    assert_ptr_equal(&r.items[r.plan.picks[3].item_i], late);
    assert_int_equal(r.plan.n_waiting, 1);
    /* Each level of waiting outweighs a deadline: nobody starves. */
    r.now_ms += 1000;
    for (size_t k = 0; k < 4; k++) {
        r.items[r.plan.picks[k].item_i].since_ms = r.now_ms;
    }
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.picks[1].item_i], high);
    assert_ptr_equal(&r.items[r.plan.picks[2].item_i], plain);
    shoal_sched_free(r.sched);
}

static void test_equals_take_turns(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_logits_max = 2;
    size_t n_steps[8] = {0};
    for (size_t i = 0; i < 8; i++) {
        add_sample(&r, "a", 1);
    }
    for (size_t s = 0; s < 70; s++) {
        assert_int_equal(step(&r), SHOAL_OK);
        for (size_t k = 0; k < r.plan.n_picks; k++) {
            n_steps[r.plan.picks[k].item_i]++;
        }
    }
    assert_int_equal(n_steps[0], 70);
    for (size_t i = 1; i < 8; i++) {
        assert_int_equal(n_steps[i], 10);
    }
    shoal_sched_free(r.sched);
}

static void test_tenants_get_equal_shares_whatever_they_ask(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_logits_max = 4;
    r.limits.n_rows_max = 4;
    /* One session of the modest, 30 of the greedy, each of the highest priority. */
    shoal_sched_item *modest = add_sample(&r, "modest", 1);
    modest->n_drafts = 3;
    for (size_t i = 0; i < 30; i++) {
        shoal_sched_item *greedy = add_sample(&r, "greedy", 1);
        greedy->priority = 7;
        greedy->n_drafts = 3;
    }
    for (size_t s = 0; s < 1000; s++) {
        assert_int_equal(step(&r), SHOAL_OK);
        assert_true(rows_of(&r, modest) >= 1);
    }
    shoal_sched_free(r.sched);
}

static void test_prompts_of_tenants_are_served_alike(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *few = add(&r, "few");
    few->n_prefill = 100000;
    few->arrived_ms = r.now_ms + 1; /* never the most senior */
    for (size_t i = 0; i < 30; i++) {
        add(&r, "many")->n_prefill = 100000;
    }
    size_t n_few = 0;
    for (size_t s = 0; s < 1001; s++) {
        assert_int_equal(step(&r), SHOAL_OK);
        n_few += rows_of(&r, few);
    }
    assert_int_equal(r.plan.n_rows, 32);
    /* The senior of the many is in every step, so it alone would take all. */
    uint64_t served_few = shoal_sched_served(r.sched, few->tenant);
    assert_int_equal(served_few, n_few);
    uint64_t served_many = shoal_sched_served(r.sched, r.items[1].tenant);
    assert_int_equal(served_few + served_many, 1001 * 32);
    shoal_sched_free(r.sched);
}

static void test_idle_tenant_saves_nothing_up(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_logits_max = 2;
    for (size_t i = 0; i < 4; i++) {
        add_sample(&r, "busy", 1);
    }
    for (size_t s = 0; s < 500; s++) {
        assert_int_equal(step(&r), SHOAL_OK);
    }
    uint64_t busy = shoal_sched_served(r.sched, r.items[0].tenant);
    shoal_sched_item *fresh = add_sample(&r, "fresh", 1);
    assert_int_equal(step(&r), SHOAL_OK);
    assert_true(shoal_sched_served(r.sched, fresh->tenant) >= busy);
    /* Nor does one that leaves and comes back under its name lose what it took. */
    uint64_t served = shoal_sched_served(r.sched, fresh->tenant);
    shoal_sched_leave(r.sched, fresh->tenant);
    size_t again = 0;
    assert_int_equal(shoal_sched_join(r.sched, "fresh", &again), SHOAL_OK);
    assert_true(shoal_sched_served(r.sched, again) >= served);
    shoal_sched_free(r.sched);
}

/* --- drafts ----------------------------------------------------------------------------------- */

static void test_drafts_shrink_as_the_batch_fills(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.cost = (shoal_sched_cost){.fixed_us = 10000.0, .row_us = 1000.0};
    r.limits.n_rows_max = 512;
    r.limits.n_logits_max = 512;
    size_t n_before = SIZE_MAX;
    double price = 0.0;
    for (size_t n = 1; n <= N_MAX; n++) {
        add_sample(&r, "a", 1)->n_drafts = 8;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(r.plan.n_samples, n);
        size_t n_drafts = r.plan.n_rows - n;
        assert_true(n_drafts / n <= n_before);
        assert_true(r.plan.price > price);
        n_before = n_drafts / n;
        price = r.plan.price;
        if (n == 1) {
            /* 0.8^d against (expected tokens) / (10 + 1 + d): the seventh no longer pays. */
            assert_int_equal(n_drafts, 6);
        }
    }
    assert_true(n_before <= 1);
    /* With drafts that are nearly always right a full batch still takes some. */
    for (size_t i = 0; i < N_MAX; i++) {
        r.items[i].acceptance = 0.999;
    }
    assert_int_equal(step(&r), SHOAL_OK);
    assert_true(r.plan.n_rows > 4 * (size_t)N_MAX);
    shoal_sched_free(r.sched);
}

/* As many as above where all that a row costs is the step's. */
static void test_drafts_pay_for_their_samples_too(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.cost = (shoal_sched_cost){.fixed_us = 10000.0, .row_us = 400.0, .logit_us = 600.0};
    add_sample(&r, "a", 1)->n_drafts = 8;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_rows, 1 + 6);
    shoal_sched_free(r.sched);
}

/* The eighth row is dear: it is left, though the line through all steps says that it pays. */
static void test_drafts_end_where_a_row_is_dear(void **state)
{
    (void)state;
    static const uint64_t ms[] = {0, 140, 150, 155, 160, 170, 180, 190, 300, 310, 320};
    rig r;
    rig_init(&r);
    shoal_sched_item *item = add_sample(&r, "a", 1);
    item->acceptance = 0.9;
    item->n_drafts = 10;
    for (size_t i = 0; i < 200; i++) {
        size_t n_rows = 1 + i % 10;
        shoal_sched_cost_observe(&r.cost, n_rows, 0, 1000 * ms[n_rows]);
    }
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_rows, 7);
    r.cost = (shoal_sched_cost){.fixed_us = r.cost.fixed_us, .row_us = r.cost.row_us};
    assert_int_equal(step(&r), SHOAL_OK);
    assert_true(r.plan.n_rows > 7);
    shoal_sched_free(r.sched);
}

/* Each draft by what is said of it, but none for more than the tenant's drafts are worth. */
static void test_drafts_are_weighed_by_what_is_said_of_each(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *item = add_sample(&r, "a", 1);
    item->n_drafts = 4;
    for (size_t i = 0; i < 200; i++) {
        size_t n_rows = 1 + i % 10;
        shoal_sched_cost_observe(&r.cost, n_rows, 0, 1000 + 200 * n_rows); /* a row: a sixth */
    }
    static const struct {
        double acceptance;
        uint8_t odds[4];
        size_t n_judged;
    } cases[] = {
        {1.0, {255, 255, 255, 255}, 4}, {1.0, {255, 255, 20, 255}, 2},
        {1.0, {20, 255, 255, 255}, 0},  {1.0, {255, 100, 250, 20}, 3},
        {1.0, {140, 140, 140, 140}, 2}, {0.55, {255, 255, 255, 255}, 2},
        {0.1, {255, 255, 255, 255}, 0}, {1.0, {0, 0, 0, 0}, 0},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        item->acceptance = cases[i].acceptance;
        item->odds = cases[i].odds;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(r.plan.n_logits, 1 + cases[i].n_judged);
    }
    /* Rows of a prompt before it make the step long, but no draft worth more. */
    static const uint8_t doubted[4] = {40, 255, 255, 255};
    item->odds = doubted;
    item->acceptance = 1.0;
    item->n_prefill = 8;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_rows, 9);
    assert_int_equal(r.plan.n_logits, 1);
    item->n_prefill = 0;
    item->odds = NULL; /* nobody says: as all of them have been */
    item->acceptance = 0.55;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_logits, 3);
    shoal_sched_free(r.sched);
}

/* A session begins as the tenant's sessions before it were, a stranger's with 4 of 5. */
static void test_a_tenant_s_drafts_are_remembered(void **state)
{
    (void)state;
    shoal_sched_settings settings = shoal_sched_settings_default();
    SHOAL_CLEANUP(shoal_sched_freep) shoal_sched *sched = NULL;
    size_t good = 0;
    size_t bad = 0;
    assert_int_equal(shoal_sched_new(&settings, &sched), SHOAL_OK);
    assert_int_equal(shoal_sched_join(sched, "good", &good), SHOAL_OK);
    assert_int_equal(shoal_sched_join(sched, "bad", &bad), SHOAL_OK);
    assert_true(fabs(shoal_sched_acceptance(sched, good, 0, 0) - 0.8) < 1e-9);
    assert_true(fabs(shoal_sched_acceptance(sched, good, 5, 5) - 0.9) < 1e-9);
    for (size_t i = 0; i < 50; i++) {
        shoal_sched_judged(sched, good, 20, 19);
        shoal_sched_judged(sched, bad, 20, 2);
    }
    shoal_sched_leave(sched, good);
    assert_int_equal(shoal_sched_join(sched, "good", &good), SHOAL_OK);
    assert_true(fabs(shoal_sched_acceptance(sched, good, 0, 0) - 0.95) < 0.01);
    assert_true(fabs(shoal_sched_acceptance(sched, bad, 0, 0) - 0.1) < 0.02);
    assert_true(shoal_sched_acceptance(sched, bad, 40, 40) > 0.85); /* what it is like itself */
    for (size_t i = 0; i < 50; i++) {
        shoal_sched_judged(sched, bad, 20, 20);
    }
    assert_true(shoal_sched_acceptance(sched, bad, 0, 0) > 0.9); /* what is past fades */
}

static void test_unknown_cost_takes_all_drafts(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *item = add_sample(&r, "a", 1);
    item->acceptance = 0.0;
    for (size_t n = 14; n <= 17; n++) {
        item->n_drafts = n;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(r.plan.n_logits, SHOAL_MIN(n + 1, (size_t)16));
    }
    r.limits.n_drafts_max = 3;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_logits, 4);
    shoal_sched_free(r.sched);
}

static void test_scarce_logits_go_to_first_drafts_first(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_logits_max = 7;
    for (size_t i = 0; i < 3; i++) {
        add_sample(&r, "a", 1)->n_drafts = 8;
    }
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, &r.items[0]), 3);
    assert_int_equal(rows_of(&r, &r.items[1]), 2);
    assert_int_equal(rows_of(&r, &r.items[2]), 2);
    shoal_sched_free(r.sched);
}

/* --- pages ------------------------------------------------------------------------------------ */

static void test_pages_at_block_limits(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_prefill_max = 64;
    r.limits.n_rows_max = 128;
    shoal_sched_item *item = add(&r, "a");
    item->n_pages_block = 3;
    item->n_rows_held = 5;
    item->n_pages_copy = 2;
    item->n_prefill = 64;
    const size_t rows[] = {0, 0, 5, 5, 5, 37, 37, 37, 64};
    for (size_t n = 0; n < SHOAL_COUNT(rows); n++) {
        r.limits.n_pages_free = n;
        assert_int_equal(step(&r), n < 2 ? SHOAL_BUSY : SHOAL_OK);
        assert_int_equal(rows_of(&r, item), rows[n]);
        assert_true(r.plan.n_pages <= n);
    }
    shoal_sched_free(r.sched);
}

static void test_cache_gives_before_anyone_is_preempted(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *taker = add_sample(&r, "a", 1);
    add(&r, "a")->n_pages_given = 5;
    r.limits.n_pages_free = 0;
    r.limits.n_pages_cached = 1;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_preempted, 0);
    assert_int_equal(r.plan.n_pages, 1);
    r.limits.n_pages_cached = 0;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_preempted, 1);
    assert_int_equal(r.plan.preempted[0], 1);
    assert_int_equal(rows_of(&r, taker), 1);
    shoal_sched_free(r.sched);
}

static void test_who_gives_way_in_order(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_pages_free = 0;
    r.limits.n_logits_max = 1;
    shoal_sched_item *silent_senior = add(&r, "a");
    silent_senior->n_pages_given = 1;
    r.now_ms += 10;
    shoal_sched_item *taker = add_sample(&r, "a", 1);
    r.now_ms += 10;
    shoal_sched_item *junior = add_sample(&r, "a", 1);
    shoal_sched_item *silent_junior = add(&r, "a");
    silent_junior->n_pages_given = 1;
    /* The youngest first, silent or not. */
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_preempted, 1);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], silent_junior);
    silent_junior->n_pages_given = 0;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], junior);
    junior->n_pages_given = 0;
    assert_int_equal(step(&r), SHOAL_BUSY);
    assert_int_equal(r.plan.n_preempted, 0);
    /* A senior that has been silent for hold_ms gives way too, and before all others. */
    junior->n_pages_given = 1;
    r.now_ms = silent_senior->since_ms + 999;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], junior);
    r.now_ms++;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], silent_senior);
    assert_int_equal(rows_of(&r, taker), 1);
    shoal_sched_free(r.sched);
}

static void test_priority_is_worth_so_much_seniority(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_pages_free = 0;
    shoal_sched_item *older = add_sample(&r, "a", 1);
    shoal_sched_item *high = add_sample(&r, "a", 1);
    high->priority = 2;
    for (uint64_t ms = 1999; ms <= 2001; ms++) {
        high->arrived_ms = older->arrived_ms + ms;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(r.plan.n_picks, 1);
        assert_int_equal(rows_of(&r, high), ms < 2000 ? 1 : 0);
        assert_int_equal(rows_of(&r, older), ms < 2000 ? 0 : 1);
    }
    shoal_sched_free(r.sched);
}

/* A newcomer of another tenant that says 7 is no senior: it neither takes pages nor is it the one
 * in every step. */
static void test_priority_takes_nothing_from_other_tenants(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_pages_free = 0;
    shoal_sched_item *modest = add_sample(&r, "modest", 1);
    r.now_ms++;
    shoal_sched_item *greedy = add_sample(&r, "greedy", 1);
    for (unsigned priority = 0; priority <= SHOAL_SCHED_PRIORITY_MAX; priority++) {
        greedy->priority = priority;
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(rows_of(&r, modest), 1);
        assert_int_equal(rows_of(&r, greedy), 0);
        assert_int_equal(r.plan.n_preempted, 1);
        assert_ptr_equal(&r.items[r.plan.preempted[0]], greedy);
    }
    /* One row in all, and nobody lacks pages: the older one is in every step. */
    r.limits.n_pages_free = 100;
    r.limits.n_rows_max = 1;
    for (size_t s = 0; s < 50; s++) {
        assert_int_equal(step(&r), SHOAL_OK);
        assert_int_equal(rows_of(&r, modest), 1);
    }
    shoal_sched_free(r.sched);
}

/* Within its tenant it gets the seat of an older item, which has its own in turn. */
static void test_priority_changes_seats_within_a_tenant(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_pages_free = 0;
    shoal_sched_item *old = add_sample(&r, "a", 1);
    r.now_ms += 10;
    shoal_sched_item *other = add_sample(&r, "b", 1);
    r.now_ms += 10;
    shoal_sched_item *young = add_sample(&r, "a", 1);
    young->priority = 1;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, young), 1); /* before other, by the arrival of old */
    assert_int_equal(r.plan.n_preempted, 1);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], old);
    /* Silent as well: old goes before other, as young would have. */
    young->sample = false;
    young->n_pages_given = 0;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, other), 1);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], old);
    /* Without it, old has its own arrival. */
    young->priority = 0;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(rows_of(&r, old), 1);
    assert_ptr_equal(&r.items[r.plan.preempted[0]], other);
    shoal_sched_free(r.sched);
}

/* Served alike, the earlier deadline goes first, then who came first, not who says 7. */
static void test_priority_does_not_decide_between_tenants_served_alike(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    shoal_sched_item *senior = add_sample(&r, "senior", 1);
    shoal_sched_item *first = add_sample(&r, "first", 1);
    shoal_sched_item *second = add_sample(&r, "second", 1);
    second->priority = 7;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.picks[0].item_i], senior);
    assert_ptr_equal(&r.items[r.plan.picks[1].item_i], first);
    assert_ptr_equal(&r.items[r.plan.picks[2].item_i], second);
    second->deadline_ms = r.now_ms + 1;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_ptr_equal(&r.items[r.plan.picks[1].item_i], second);
    shoal_sched_free(r.sched);
}

static void test_too_few_pages_preempt_nobody(void **state)
{
    (void)state;
    rig r;
    rig_init(&r);
    r.limits.n_pages_free = 1;
    shoal_sched_item *taker = add_sample(&r, "a", 1);
    taker->n_pages_block = 4;
    add(&r, "a")->n_pages_given = 2;
    assert_int_equal(step(&r), SHOAL_BUSY);
    assert_int_equal(r.plan.n_preempted, 0);
    r.items[1].n_pages_given = 3;
    assert_int_equal(step(&r), SHOAL_OK);
    assert_int_equal(r.plan.n_preempted, 1);
    shoal_sched_free(r.sched);
}

/* --- limits ----------------------------------------------------------------------------------- */

static void test_settings_and_sessions_at_their_limits(void **state)
{
    (void)state;
    shoal_sched_settings settings = shoal_sched_settings_default();
    shoal_sched *sched = NULL;
    settings.n_items_max = 0;
    assert_int_equal(shoal_sched_new(&settings, &sched), SHOAL_E_INVALID);
    settings.n_items_max = SHOAL_SCHED_ITEMS_MAX + 1;
    assert_int_equal(shoal_sched_new(&settings, &sched), SHOAL_E_INVALID);
    settings.n_items_max = 3;
    assert_int_equal(shoal_sched_new(&settings, &sched), SHOAL_OK);
    size_t tenants[3];
    for (size_t i = 0; i < 3; i++) {
        char name[8];
        snprintf(name, sizeof(name), "t%zu", i);
        assert_int_equal(shoal_sched_join(sched, name, &tenants[i]), SHOAL_OK);
    }
    size_t tenant = 0;
    assert_int_equal(shoal_sched_join(sched, "t0", &tenant), SHOAL_BUSY);
    /* Names without end: slots of those that are gone are used again. */
    for (size_t i = 0; i < 100; i++) {
        char name[SHOAL_SCHED_TENANT_BYTES + 8];
        memset(name, 'x', sizeof(name));
        snprintf(name, 8, "n%zu", i);
        name[strlen(name)] = 'x';
        name[sizeof(name) - 1] = '\0';
        shoal_sched_leave(sched, tenants[i % 3]);
        assert_int_equal(shoal_sched_join(sched, name, &tenants[i % 3]), SHOAL_OK);
        assert_true(tenants[i % 3] < 6);
        assert_true(tenants[i % 3] != tenants[(i + 1) % 3]);
        assert_true(tenants[i % 3] != tenants[(i + 2) % 3]);
    }
    shoal_sched_free(sched);
}

static void test_failing_allocations(void **state)
{
    (void)state;
    shoal_sched_settings settings = shoal_sched_settings_default();
    for (uint64_t i = 0;; i++) {
        shoal_sched *sched = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_sched_new(&settings, &sched);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i >= 7);
            shoal_sched_free(sched);
            return;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

/* --- a node of numbers ------------------------------------------------------------------------ */

/* One session: a prompt, then samples with drafts, in a pool of pages. */
typedef struct job {
    size_t n_tokens; /* in KV */
    size_t n_text;   /* prompt and what was sampled */
    size_t n_end;    /* of the text */
    size_t n_pages;
} job;

typedef struct toy {
    rig r;
    job jobs[N_MAX];
    size_t n_pages;
    size_t n_free;
    size_t n_preempted;
    uint64_t rng;
} toy;

static size_t draw(toy *t, size_t n)
{
    return (size_t)(shoal_rng_next(&t->rng) % n);
}

static void describe_job(toy *t, size_t i)
{
    const job *j = &t->jobs[i];
    shoal_sched_item *item = &t->r.items[i];
    bool done = j->n_text == j->n_end;
    item->n_prefill = done ? 0 : j->n_text - 1 - j->n_tokens;
    item->sample = !done;
    item->n_drafts =
        done ? 0 : SHOAL_MIN((size_t)shoal_rng_next(&t->rng) % 6, j->n_end - j->n_text);
    item->n_rows_held = j->n_pages * SHOAL_SCHED_BLOCK - j->n_tokens;
    item->n_pages_given = j->n_pages;
}

static void drop_pages(toy *t, size_t i)
{
    t->n_free += t->jobs[i].n_pages;
    t->jobs[i].n_pages = 0;
    t->jobs[i].n_tokens = 0;
}

/* Does what the plan says, and holds it against the limits. */
static void obey(toy *t)
{
    rig *r = &t->r;
    size_t n_rows = 0;
    size_t n_logits = 0;
    bool seen[N_MAX] = {false};
    for (size_t k = 0; k < r->plan.n_preempted; k++) {
        size_t i = r->plan.preempted[k];
        assert_false(seen[i]);
        seen[i] = true;
        assert_true(t->jobs[i].n_pages > 0);
        drop_pages(t, i);
        t->n_preempted++;
    }
    for (size_t k = 0; k < r->plan.n_picks; k++) {
        const shoal_sched_pick *pick = &r->plan.picks[k];
        job *j = &t->jobs[pick->item_i];
        shoal_sched_item *item = &r->items[pick->item_i];
        assert_false(seen[pick->item_i]);
        seen[pick->item_i] = true;
        assert_true(pick->n_rows >= 1 && pick->n_logits <= pick->n_rows);
        n_rows += pick->n_rows;
        n_logits += pick->n_logits;
        size_t n_need = (j->n_tokens + pick->n_rows + 31) / 32;
        n_need -= SHOAL_MIN(n_need, j->n_pages);
        assert_true(n_need <= t->n_free);
        t->n_free -= n_need;
        j->n_pages += n_need;
        j->n_tokens += pick->n_rows;
        if (pick->n_logits > 0) {
            assert_int_equal(pick->n_rows, item->n_prefill + pick->n_logits);
            j->n_text += 1 + draw(t, pick->n_logits);
            j->n_tokens = j->n_text - 1;
        } else {
            assert_true(pick->n_rows <= item->n_prefill);
        }
        if (j->n_text >= j->n_end) {
            j->n_text = j->n_end;
            drop_pages(t, pick->item_i);
        }
        item->since_ms = r->now_ms;
    }
    assert_true(n_rows <= r->limits.n_rows_max && n_logits <= r->limits.n_logits_max);
    assert_int_equal(n_rows, r->plan.n_rows);
    assert_int_equal(n_logits, r->plan.n_logits);
}

/* Beside a twin that is told the same but that tenants are more important, each by its own number:
 * equal input gives an equal plan, and what a tenant says of itself takes nothing from others. */
static void run_toy(uint64_t seed)
{
    static toy t;
    memset(&t, 0, sizeof(t));
    t.rng = seed;
    rig_init(&t.r);
    rig twin;
    rig_init(&twin);
    rig *r = &t.r;
    size_t n_jobs = 1 + draw(&t, 40);
    t.n_pages = 8 + draw(&t, 60);
    t.n_free = t.n_pages;
    r->limits.n_rows_max = 1 + draw(&t, 64);
    r->limits.n_logits_max = 1 + draw(&t, 16);
    r->limits.n_prefill_max = 1 + draw(&t, 64);
    unsigned more[4]; /* what the twin's tenants say beyond */
    for (size_t i = 0; i < SHOAL_COUNT(more); i++) {
        more[i] = (unsigned)draw(&t, 5);
    }
    for (size_t i = 0; i < n_jobs; i++) {
        char name[8];
        size_t tenant_i = draw(&t, SHOAL_COUNT(more));
        snprintf(name, sizeof(name), "t%zu", tenant_i);
        shoal_sched_item *item = add(r, name);
        item->priority = (unsigned)draw(&t, 4);
        twin.items[i].priority = item->priority + more[tenant_i];
        item->deadline_ms = draw(&t, 2) == 0 ? UINT64_MAX : r->now_ms + draw(&t, 10000);
        t.jobs[i].n_text = 1 + draw(&t, 150);
        t.jobs[i].n_end = t.jobs[i].n_text + 1 + draw(&t, 100);
        size_t tenant = 0;
        assert_int_equal(shoal_sched_join(twin.sched, name, &tenant), SHOAL_OK);
        assert_int_equal(tenant, item->tenant);
    }
    for (size_t s = 0;; s++) {
        for (size_t i = 0; i < n_jobs; i++) {
            describe_job(&t, i);
        }
        r->limits.n_pages_free = t.n_free;
        for (size_t i = 0; i < n_jobs; i++) {
            unsigned priority = twin.items[i].priority;
            twin.items[i] = r->items[i];
            twin.items[i].priority = priority;
        }
        shoal_sched_plan same;
        shoal_status same_status =
            shoal_sched_step(twin.sched, twin.items, r->n, &r->limits, &r->cost, r->now_ms, &same);
        shoal_status status = step(r);
        assert_int_equal(same_status, status);
        assert_int_equal(same.n_picks, r->plan.n_picks);
        assert_memory_equal(same.picks, r->plan.picks, same.n_picks * sizeof(*same.picks));
        assert_int_equal(same.n_preempted, r->plan.n_preempted);
        assert_memory_equal(same.preempted, r->plan.preempted,
                            same.n_preempted * sizeof(*same.preempted));
        if (status == SHOAL_EOF) {
            break;
        }
        assert_int_equal(status, SHOAL_OK);
        if (s > 60000) {
            fail_msg("seed %llu: no end", (unsigned long long)seed);
        }
        obey(&t);
        r->now_ms += 1 + draw(&t, 20);
        if (r->plan.n_rows > 0) {
            shoal_sched_cost_observe(&r->cost, r->plan.n_rows, r->plan.n_samples,
                                     1000 + 100 * r->plan.n_rows);
        }
    }
    for (size_t i = 0; i < n_jobs; i++) {
        assert_int_equal(t.jobs[i].n_text, t.jobs[i].n_end);
    }
    assert_int_equal(t.n_free, t.n_pages);
    shoal_sched_free(r->sched);
    shoal_sched_free(twin.sched);
}

static void test_random_nodes_end_and_are_deterministic(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        run_toy(seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_work_is_the_end),
        cmocka_unit_test(test_samples_and_prompts_share_a_step),
        cmocka_unit_test(test_sample_behind_a_few_rows_runs_with_them),
        cmocka_unit_test(test_prompts_keep_their_part_of_the_rows),
        cmocka_unit_test(test_time_limit_shortens_the_prompts_not_the_samples),
        cmocka_unit_test(test_one_row_in_all_goes_to_the_senior),
        cmocka_unit_test(test_priority_then_deadline_then_turn),
        cmocka_unit_test(test_equals_take_turns),
        cmocka_unit_test(test_tenants_get_equal_shares_whatever_they_ask),
        cmocka_unit_test(test_prompts_of_tenants_are_served_alike),
        cmocka_unit_test(test_idle_tenant_saves_nothing_up),
        cmocka_unit_test(test_drafts_shrink_as_the_batch_fills),
        cmocka_unit_test(test_drafts_pay_for_their_samples_too),
        cmocka_unit_test(test_drafts_end_where_a_row_is_dear),
        cmocka_unit_test(test_drafts_are_weighed_by_what_is_said_of_each),
        cmocka_unit_test(test_a_tenant_s_drafts_are_remembered),
        cmocka_unit_test(test_unknown_cost_takes_all_drafts),
        cmocka_unit_test(test_scarce_logits_go_to_first_drafts_first),
        cmocka_unit_test(test_pages_at_block_limits),
        cmocka_unit_test(test_cache_gives_before_anyone_is_preempted),
        cmocka_unit_test(test_who_gives_way_in_order),
        cmocka_unit_test(test_priority_is_worth_so_much_seniority),
        cmocka_unit_test(test_priority_takes_nothing_from_other_tenants),
        cmocka_unit_test(test_priority_changes_seats_within_a_tenant),
        cmocka_unit_test(test_priority_does_not_decide_between_tenants_served_alike),
        cmocka_unit_test(test_too_few_pages_preempt_nobody),
        cmocka_unit_test(test_settings_and_sessions_at_their_limits),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_random_nodes_end_and_are_deterministic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
