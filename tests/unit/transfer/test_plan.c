/* SPDX-License-Identifier: Apache-2.0
 *
 * The break-even planner against a simulator over a grid of links, lengths and devices, its limits,
 * and figures that are nonsense.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "flow.h"

#include "common/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of a model of 0.5 billion weights (24 layers, 2 KV heads of 64): f16, 8 and 4 bits, archived. */
static const shoal_transfer_level half_b[] = {
    {12288, 1, 1}, {6528, 2, 1}, {3456, 2, 1}, {1150, 30, 30}};
/* Of one of 8 billion (32 layers, 8 KV heads of 128). */
static const shoal_transfer_level eight_b[] = {
    {131072, 8, 8}, {69632, 16, 8}, {36864, 16, 8}, {12200, 300, 300}};

typedef struct device {
    double here_tokens_s; /* of a prompt */
    double here_token_us;
    double peer_tokens_s;
    double ids_tokens_s;
    double ids_token_us;
    const shoal_transfer_level *levels;
} device;

static const device devices[] = {
    {16.6, 96000, 4000, 2500, 20000, half_b}, /* a weak box */
    {60, 40000, 4000, 2500, 20000, half_b},
    {250, 12000, 4000, 1500, 30000, half_b},
    {1000, 5000, 4000, 1500, 30000, half_b},
    {4000, 2000, 4000, 1500, 30000, half_b}, /* as fast as the peer */
    {5, 400000, 3000, 800, 25000, eight_b},
    {40, 90000, 3000, 800, 25000, eight_b},
    {400, 40000, 3000, 800, 25000, eight_b},
};
static const double megabits[] = {0.1, 0.3, 1, 3, 10, 20, 50, 100, 300, 1000};
static const double round_trips_ms[] = {1, 10, 50, 300};
static const size_t lengths[] = {1, 33, 65, 100, 200, 400, 1000, 3000};
static const size_t answers[] = {1, 32, 200};

typedef struct tally {
    size_t n;
    size_t n_equal;
    size_t n_by_way[3];
    double worst_ids; /* chosen over ids-only, where ids may be taken */
    double worst;     /* chosen over the best */
} tally;

/* f: what is so; measured: what the planner is told. */
static void judge(const shoal_transfer_figures *f, const shoal_transfer_figures *measured,
                  const shoal_transfer_request *r, tally *t)
{
    shoal_transfer_choice c;
    assert_int_equal(shoal_transfer_choose(measured, r, &c), SHOAL_OK);
    double ids = r->may_ids ? flow_ids(f, r) : HUGE_VAL;
    double best = ids;
    shoal_transfer_way way = SHOAL_TRANSFER_IDS;
    size_t level = 0;
    double local = flow_local(f, r);
    if (local < best) {
        best = local;
        way = SHOAL_TRANSFER_LOCAL;
    }
    double chosen = c.way == SHOAL_TRANSFER_IDS ? ids : local;
    for (size_t i = 0; i < r->n_levels && c.n_moved > 0; i++) {
        double us = flow_kv(f, r, &r->levels[i]);
        if (us < best) {
            best = us;
            way = SHOAL_TRANSFER_KV;
            level = i;
        }
        if (c.way == SHOAL_TRANSFER_KV && i == c.level) {
            chosen = us;
        }
    }
    t->n++;
    t->n_equal += c.way == way && (way != SHOAL_TRANSFER_KV || c.level == level);
    t->n_by_way[c.way]++;
    t->worst = fmax(t->worst, chosen / best);
    t->worst_ids = r->may_ids ? fmax(t->worst_ids, chosen / ids) : t->worst_ids;
}

static shoal_transfer_figures figures_of(const device *d, double megabit, double round_trip_ms)
{
    return (shoal_transfer_figures){.up_bytes_s = megabit * 125e3 / 4,
                                    .down_bytes_s = megabit * 125e3,
                                    .round_trip_us = round_trip_ms * 1e3,
                                    .here_prefill_us = 1e6 / d->here_tokens_s,
                                    .here_token_us = d->here_token_us,
                                    .peer_wait_us = 2000,
                                    .peer_prefill_us = 1e6 / d->peer_tokens_s,
                                    .ids_prefill_us = 1e6 / d->ids_tokens_s,
                                    .ids_token_us = d->ids_token_us};
}

/* Each figure off by up to error of itself. */
static shoal_transfer_figures measure(const shoal_transfer_figures *f, double error, uint64_t *rng)
{
    shoal_transfer_figures m = *f;
    double *const all[] = {&m.up_bytes_s,      &m.down_bytes_s,   &m.round_trip_us,
                           &m.here_prefill_us, &m.here_token_us,  &m.peer_wait_us,
                           &m.peer_prefill_us, &m.ids_prefill_us, &m.ids_token_us};
    for (size_t i = 0; i < SHOAL_COUNT(all); i++) {
        double u = (double)(shoal_rng_next(rng) >> 11) * 0x1p-53;
        *all[i] *= 1 + error * (2 * u - 1);
    }
    return m;
}

static void sweep(bool may_ids, size_t n_levels, bool cached, double error, tally *t)
{
    uint64_t rng = 7;
    for (size_t d = 0; d < SHOAL_COUNT(devices); d++) {
        for (size_t m = 0; m < SHOAL_COUNT(megabits); m++) {
            for (size_t i = 0; i < SHOAL_COUNT(round_trips_ms); i++) {
                for (size_t k = 0; k < SHOAL_COUNT(lengths) * SHOAL_COUNT(answers); k++) {
                    const shoal_transfer_figures f =
                        figures_of(&devices[d], megabits[m], round_trips_ms[i]);
                    size_t n = lengths[k / SHOAL_COUNT(answers)];
                    const shoal_transfer_request r = {.n_tokens = n,
                                                      .n_peer = cached ? n / 2 : 0,
                                                      .n_answer = answers[k % SHOAL_COUNT(answers)],
                                                      .may_ids = may_ids,
                                                      .may_local = true,
                                                      .levels = devices[d].levels,
                                                      .n_levels = n_levels};
                    const shoal_transfer_figures told = measure(&f, error, &rng);
                    judge(&f, &told, &r, t);
                }
            }
        }
    }
    (void)printf("%zu points: ids %zu, kv %zu, local %zu; equal %.2f %%, worst against the best "
                 "%.4f, against ids %.4f\n",
                 t->n, t->n_by_way[SHOAL_TRANSFER_IDS], t->n_by_way[SHOAL_TRANSFER_KV],
                 t->n_by_way[SHOAL_TRANSFER_LOCAL], 100.0 * (double)t->n_equal / (double)t->n,
                 t->worst, t->worst_ids);
}

static void test_choose_grid_equals_brute_force(void **state)
{
    (void)state;
    for (size_t which = 0; which < 4; which++) {
        tally t = {0};
        sweep(which & 1, which & 2 ? 4 : 1, which == 3, 0, &t);
        assert_true((double)t.n_equal >= 0.95 * (double)t.n);
        assert_true(t.worst_ids <= 1.03);
        assert_true(t.worst <= 1.15); /* of prompts of one token, where a packet's head counts */
        /* A grid on which one way always wins would prove nothing. */
        assert_true(t.n_by_way[SHOAL_TRANSFER_KV] > t.n / 25);
        assert_true(t.n_by_way[SHOAL_TRANSFER_LOCAL] > t.n / 20);
        assert_true(!(which & 1) || t.n_by_way[SHOAL_TRANSFER_IDS] > t.n / 20);
    }
}

static void test_choose_measured_roughly_is_mostly_right(void **state)
{
    (void)state;
    tally t = {0};
    sweep(true, 4, false, 0.05, &t);
    assert_true((double)t.n_equal >= 0.95 * (double)t.n);
    assert_true(t.worst_ids <= 1.12);
}

static shoal_transfer_figures some_figures(void)
{
    return figures_of(&devices[0], 20, 30);
}

static shoal_transfer_request some_request(void)
{
    return (shoal_transfer_request){.n_tokens = 1000,
                                    .n_answer = 1,
                                    .may_ids = true,
                                    .may_local = true,
                                    .levels = half_b,
                                    .n_levels = 4};
}

static shoal_transfer_choice choose(const shoal_transfer_figures *f,
                                    const shoal_transfer_request *r)
{
    shoal_transfer_choice c;
    assert_int_equal(shoal_transfer_choose(f, r, &c), SHOAL_OK);
    shoal_transfer_choice again;
    assert_int_equal(shoal_transfer_choose(f, r, &again), SHOAL_OK);
    assert_memory_equal(&c.way, &again.way, sizeof c.way);
    assert_true(c.level == again.level && !isnan(c.ids_us) && !isnan(c.kv_us) &&
                !isnan(c.local_us));
    return c;
}

static void test_choose_known_case_times_as_by_hand(void **state)
{
    (void)state;
    const shoal_transfer_level level = {1000, 10, 20};
    const shoal_transfer_figures f = {.up_bytes_s = 3e6,
                                      .down_bytes_s = 1.005e6,
                                      .round_trip_us = 40000,
                                      .here_prefill_us = 2000,
                                      .here_token_us = 1000,
                                      .peer_wait_us = 500,
                                      .peer_prefill_us = 90,
                                      .ids_prefill_us = 300,
                                      .ids_token_us = 7000,
                                      .peer_chunk = 32};
    const shoal_transfer_request r = {.n_tokens = 100,
                                      .n_answer = 3,
                                      .may_ids = true,
                                      .may_local = true,
                                      .levels = &level,
                                      .n_levels = 1};
    shoal_transfer_choice c = choose(&f, &r);
    /* 450 bytes up at 3 MB/s are 150 us. */
    assert_true(fabs(c.ids_us - (40000 + 150 + 100 * 300 + 2 * 7000)) < 1e-6);
    assert_true(fabs(c.local_us - (100 * 2000 + 2 * 1000)) < 1e-6);
    /* Three blocks: the first is made in 3200 us, each takes 32000 on the link and 640 to decode;
     * the link is the slowest stage. Four tokens stay. */
    assert_int_equal(c.n_moved, 96);
    assert_true(fabs(c.kv_us - (40000 + 150 + 500 + 3200 + 3 * 32000 + 640 + 4 * 2000 + 2 * 1000)) <
                1e-6);
    assert_int_equal(c.way, SHOAL_TRANSFER_IDS);
}

static void test_choose_what_is_here_is_not_fetched(void **state)
{
    (void)state;
    shoal_transfer_figures f = some_figures();
    shoal_transfer_request r = some_request();
    r.may_ids = false;
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_KV);
    r.n_here = 991; /* one token of the last block is missing */
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_LOCAL);
    assert_true(isfinite(choose(&f, &r).kv_us));
    r.n_here = 992;
    assert_true(!isfinite(choose(&f, &r).kv_us));
    r.n_here = 5000; /* more than there is */
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_LOCAL);
    assert_true(choose(&f, &r).local_us == f.here_prefill_us);
}

/* Of a mixed text the sum of all its tokens is what both levels' tokens take. */
static void test_a_mixed_level_takes_what_its_tokens_take(void **state)
{
    (void)state;
    const shoal_transfer_level plain = {12288, 0, 3};
    const shoal_transfer_level other = {1024, 40, 25};
    for (size_t n_other = 0; n_other <= 992; n_other += 32) {
        shoal_transfer_level mix = shoal_transfer_mix(&plain, &other, 992, n_other);
        double share = (double)n_other / 992;
        assert_true(fabs(mix.bytes_token * 992 -
                         (12288.0 * (992 - (double)n_other) + 1024.0 * (double)n_other)) < 1e-3);
        assert_true(fabs(mix.encode_us - 40 * share) < 1e-9);
        assert_true(fabs(mix.decode_us - (3 + 22 * share)) < 1e-9);
    }
    /* Where the link is the slowest stage the smaller is chosen, where coding is, the other. */
    shoal_transfer_figures f = some_figures();
    shoal_transfer_request r = some_request();
    const shoal_transfer_level levels[] = {plain, shoal_transfer_mix(&plain, &other, 992, 864)};
    r.levels = levels;
    r.n_levels = 2;
    f.down_bytes_s = 2.5e6;
    assert_int_equal(choose(&f, &r).level, 1);
    f.down_bytes_s = 1e10;
    f.peer_prefill_us = 1;
    assert_int_equal(choose(&f, &r).level, 0);
}

static void test_rest_takes_as_long_as_what_came(void **state)
{
    (void)state;
    assert_true(fabs(shoal_transfer_rest_us(250, 1000, 60) - 180) < 1e-9);
    assert_true(fabs(shoal_transfer_rest_us(999, 1000, 999) - 1) < 1e-9);
    assert_true(shoal_transfer_rest_us(1000, 1000, 60) == 0);
    assert_true(shoal_transfer_rest_us(1001, 1000, 60) == 0); /* more than was planned */
    assert_true(shoal_transfer_rest_us(0, 1000, 60) == HUGE_VAL);
    assert_true(shoal_transfer_rest_us((double)NAN, 1000, 60) == HUGE_VAL);
}

static void test_choose_limits_at_their_edges(void **state)
{
    (void)state;
    shoal_transfer_figures f = some_figures();
    shoal_transfer_choice c;
    const struct {
        size_t n_tokens, n_answer, n_levels;
        shoal_status status;
    } rows[] = {{0, 1, 1, SHOAL_E_LIMIT},
                {1, 0, 1, SHOAL_E_LIMIT},
                {1, 1, 0, SHOAL_OK},
                {1, 1, SHOAL_TRANSFER_LEVELS_MAX, SHOAL_OK},
                {1, 1, SHOAL_TRANSFER_LEVELS_MAX + 1, SHOAL_E_LIMIT},
                {SHOAL_TRANSFER_TOKENS_MAX - 1, 1, 1, SHOAL_OK},
                {SHOAL_TRANSFER_TOKENS_MAX, SHOAL_TRANSFER_TOKENS_MAX, 1, SHOAL_OK},
                {SHOAL_TRANSFER_TOKENS_MAX + 1, 1, 1, SHOAL_E_LIMIT},
                {1, SHOAL_TRANSFER_TOKENS_MAX + 1, 1, SHOAL_E_LIMIT},
                {SIZE_MAX, SIZE_MAX, SIZE_MAX, SHOAL_E_LIMIT}};
    shoal_transfer_level levels[SHOAL_TRANSFER_LEVELS_MAX];
    for (size_t i = 0; i < SHOAL_COUNT(levels); i++) {
        levels[i] = half_b[i % 4];
    }
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        const shoal_transfer_request r = {.n_tokens = rows[i].n_tokens,
                                          .n_answer = rows[i].n_answer,
                                          .n_here = SIZE_MAX * (i & 1),
                                          .n_peer = SIZE_MAX * (i & 1),
                                          .may_local = true,
                                          .levels = levels,
                                          .n_levels = rows[i].n_levels};
        assert_int_equal(shoal_transfer_choose(&f, &r, &c), rows[i].status);
    }
    assert_int_equal(shoal_transfer_n_moved(0), 0);
    assert_int_equal(shoal_transfer_n_moved(32), 0);
    assert_int_equal(shoal_transfer_n_moved(33), 32);
    assert_int_equal(shoal_transfer_n_moved(64), 32);
    assert_int_equal(shoal_transfer_n_moved(65), 64);
}

/* Every figure in turn is nonsense: the ways that need it are out, the choice is another. */
static void test_choose_nonsense_makes_its_way_impossible(void **state)
{
    (void)state;
    static const double bad[] = {(double)NAN, -(double)NAN, -1, HUGE_VAL, -HUGE_VAL, 1e300, -1e300};
    enum {
        IDS = 1,
        KV = 2,
        LOCAL = 4
    };
    const struct {
        size_t at;
        int needs;
        bool zero_too;
    } rows[] = {
        {offsetof(shoal_transfer_figures, up_bytes_s), IDS | KV, true},
        {offsetof(shoal_transfer_figures, down_bytes_s), KV, true},
        {offsetof(shoal_transfer_figures, round_trip_us), IDS | KV, false},
        {offsetof(shoal_transfer_figures, here_prefill_us), KV | LOCAL, false},
        {offsetof(shoal_transfer_figures, here_token_us), KV | LOCAL, false},
        {offsetof(shoal_transfer_figures, peer_wait_us), KV, false},
        {offsetof(shoal_transfer_figures, peer_prefill_us), KV, false},
        {offsetof(shoal_transfer_figures, ids_prefill_us), IDS, false},
        {offsetof(shoal_transfer_figures, ids_token_us), IDS, false},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        for (size_t k = 0; k < SHOAL_COUNT(bad) + rows[i].zero_too; k++) {
            double value = k < SHOAL_COUNT(bad) ? bad[k] : 0;
            shoal_transfer_figures f = some_figures();
            shoal_transfer_request r = some_request();
            r.n_answer = 2;
            memcpy((char *)&f + rows[i].at, &value, sizeof value);
            shoal_transfer_choice c = choose(&f, &r);
            assert_int_equal(isfinite(c.ids_us) != 0, !(rows[i].needs & IDS));
            assert_int_equal(isfinite(c.kv_us) != 0, !(rows[i].needs & KV));
            assert_int_equal(isfinite(c.local_us) != 0, !(rows[i].needs & LOCAL));
            assert_true(rows[i].needs == (KV | LOCAL) || rows[i].needs != (1 << (int)c.way));
        }
    }
}

static void test_choose_levels_of_nonsense_are_passed_over(void **state)
{
    (void)state;
    const shoal_transfer_level levels[] = {
        {0, 0, 0},    {(double)NAN, 0, 0},   {-1, 0, 0},  {HUGE_VAL, 0, 0},
        {100, -1, 0}, {100, 0, (double)NAN}, {3456, 2, 1}};
    shoal_transfer_figures f = some_figures();
    shoal_transfer_request r = some_request();
    r.levels = levels;
    r.n_levels = SHOAL_COUNT(levels);
    r.may_ids = false;
    shoal_transfer_choice c = choose(&f, &r);
    assert_int_equal(c.way, SHOAL_TRANSFER_KV);
    assert_int_equal(c.level, SHOAL_COUNT(levels) - 1);
    r.n_levels--;
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_LOCAL);
}

static void test_choose_nothing_known_computes_here(void **state)
{
    (void)state;
    shoal_transfer_figures f;
    memset(&f, 0xff, sizeof f); /* every double a NaN */
    shoal_transfer_request r = some_request();
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_LOCAL);
    r.may_local = false;
    assert_int_equal(choose(&f, &r).way, SHOAL_TRANSFER_IDS);
}

/* Any bits at all: an answer, no NaN, and no way that is worse than one it could have taken. */
static void test_choose_any_bits_choose_the_least(void **state)
{
    (void)state;
    uint64_t seed = 20261129;
    (void)printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < 20000; i++) {
        shoal_transfer_figures f = some_figures();
        shoal_transfer_request r = some_request();
        uint64_t words[sizeof f / sizeof(uint64_t)];
        for (size_t k = 0; k < SHOAL_COUNT(words); k++) {
            words[k] = shoal_rng_next(&seed);
        }
        size_t n = 1 + shoal_rng_next(&seed) % SHOAL_COUNT(words);
        memcpy(&f, words, n * sizeof *words);
        f.peer_chunk = SHOAL_MAX(f.peer_chunk % 4096, (size_t)1);
        r.n_tokens = 1 + shoal_rng_next(&seed) % 5000;
        r.n_here = shoal_rng_next(&seed) % 6000;
        r.n_peer = shoal_rng_next(&seed) % 6000;
        shoal_transfer_choice c = choose(&f, &r);
        const double times[] = {c.ids_us, c.kv_us, c.local_us};
        for (size_t k = 0; k < 3; k++) {
            assert_true(times[c.way] <= times[k] || !isfinite(times[k]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose_grid_equals_brute_force),
        cmocka_unit_test(test_choose_measured_roughly_is_mostly_right),
        cmocka_unit_test(test_choose_known_case_times_as_by_hand),
        cmocka_unit_test(test_choose_what_is_here_is_not_fetched),
        cmocka_unit_test(test_a_mixed_level_takes_what_its_tokens_take),
        cmocka_unit_test(test_rest_takes_as_long_as_what_came),
        cmocka_unit_test(test_choose_limits_at_their_edges),
        cmocka_unit_test(test_choose_nonsense_makes_its_way_impossible),
        cmocka_unit_test(test_choose_levels_of_nonsense_are_passed_over),
        cmocka_unit_test(test_choose_nothing_known_computes_here),
        cmocka_unit_test(test_choose_any_bits_choose_the_least),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
