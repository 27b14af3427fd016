/* SPDX-License-Identifier: Apache-2.0
 *
 * What the load generator is made of: its statistics against known values, its recordings, and the
 * synthetic edge against a cloud in miniature that follows protocol/SPEC.md, or does not.
 */
#include "common/base/mem.h"
#include "tests/bench/load/events.h"
#include "tests/bench/load/options.h"
#include "tests/bench/load/timing.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* --- statistics ---------------------------------------------------------------------------------
 */

/* cmocka's is for floats. */
static void assert_near(double value, double wanted, double most)
{
    if (!(fabs(value - wanted) <= most)) {
        fail_msg("%.9g is not %.9g", value, wanted);
    }
}

static void add(load_samples *samples, size_t n, const double *values)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(load_samples_add(samples, values[i]), SHOAL_OK);
    }
}

static void test_quantile_between_samples_interpolates(void **state)
{
    (void)state;
    load_samples s = {0};
    assert_true(isnan(load_samples_quantile(&s, 0.5)));
    add(&s, 4, (const double[]){4, 1, 3, 2});
    assert_near(load_samples_quantile(&s, 0), 1, 1e-12);
    assert_near(load_samples_quantile(&s, 0.5), 2.5, 1e-12);
    assert_near(load_samples_quantile(&s, 1), 4, 1e-12);
    load_samples_fini(&s);
}

static void test_poisson_gaps_have_mean_and_spread_of_the_rate(void **state)
{
    (void)state;
    enum {
        N = 100000
    };
    uint64_t rng = 7;
    double sum = 0;
    double squares = 0;
    for (size_t i = 0; i < N; i++) {
        double gap = load_poisson_gap(&rng, 50);
        assert_true(gap >= 0);
        sum += gap;
        squares += gap * gap;
    }
    assert_near(sum / N, 0.02, 0.0004);
    assert_near(squares / N, 2 * 0.02 * 0.02, 0.00004);
}

/* u counted pair by pair by hand, p from the formula in another program; all 3003 ways to deal the
 * 14 values give 0.0253 (exactly, not by the normal distribution). */
static void test_mann_whitney_equals_reference(void **state)
{
    (void)state;
    load_samples a = {0};
    load_samples b = {0};
    load_rank_test test;
    assert_int_equal(load_mann_whitney(&a, &b, &test), SHOAL_E_INVALID);
    add(&a, 8, (const double[]){1.1, 2.2, 3.3, 4.4, 5.5, 6.6, 7.7, 8.8});
    add(&b, 6, (const double[]){5.5, 6.1, 9.9, 10.5, 8.8, 12.0});
    assert_int_equal(load_mann_whitney(&a, &b, &test), SHOAL_OK);
    assert_near(test.u, 7.0, 1e-12);
    assert_near(test.p, 0.0327742485, 1e-6);
    load_rank_test back;
    assert_int_equal(load_mann_whitney(&b, &a, &back), SHOAL_OK);
    assert_near(back.p, test.p, 1e-12);
    assert_near(back.share + test.share, 1, 1e-12);
    load_samples_fini(&a);
    load_samples_fini(&b);
}

static void test_mann_whitney_of_equal_values_finds_nothing(void **state)
{
    (void)state;
    load_samples a = {0};
    load_samples b = {0};
    load_rank_test test;
    add(&a, 4, (const double[]){3, 3, 3, 3});
    add(&b, 3, (const double[]){3, 3, 3});
    assert_int_equal(load_mann_whitney(&a, &b, &test), SHOAL_OK);
    assert_near(test.p, 1, 1e-12);
    load_samples_fini(&a);
    load_samples_fini(&b);
}

static void test_events_come_by_time_then_by_order(void **state)
{
    (void)state;
    load_events events = {0};
    uint64_t rng = 3;
    for (uint32_t i = 0; i < 1000; i++) {
        load_event event = {.at_ns = (uint64_t)(load_uniform(&rng) * 50), .attempt = i};
        assert_int_equal(load_events_add(&events, &event), SHOAL_OK);
    }
    load_event last = {0};
    load_event event;
    size_t n = 0;
    assert_false(load_events_next(&events) > 50);
    for (; load_events_take(&events, 49, &event); n++) {
        assert_true(event.at_ns > last.at_ns ||
                    (event.at_ns == last.at_ns && (n == 0 || event.order > last.order)));
        last = event;
    }
    assert_int_equal(n, 1000);
    assert_int_equal(load_events_next(&events), UINT64_MAX);
    load_events_fini(&events);
}

/* --- recordings ---------------------------------------------------------------------------------
 */

static load_truth *truth_new(size_t n_items, size_t n_out)
{
    const load_truth_settings settings = {.n_items = n_items,
                                          .prompt = {4, 9},
                                          .n_shared = 3,
                                          .out = {n_out, n_out},
                                          .temperature = 1,
                                          .seed = 11};
    const shoal_describe describe = {.n_vocab = 50, .n_ctx = 512, .kv_form = "f16"};
    load_truth *truth = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load_truth_new(&settings, &describe, &truth, &err), SHOAL_OK);
    return truth;
}

static void record(load_truth *truth)
{
    for (size_t i = 0; i < truth->settings.n_items; i++) {
        load_item *item = &truth->items[i];
        item->n_out = item->n_out_max;
        for (size_t k = 0; k < item->n_out; k++) {
            item->ids[item->n_prompt + k] = (int32_t)((7 * i + 13 * k) % 50);
        }
    }
}

static void test_prompts_share_their_beginning_and_no_more(void **state)
{
    (void)state;
    load_truth *truth = truth_new(20, 8);
    for (size_t i = 1; i < 20; i++) {
        const load_item *a = &truth->items[0];
        const load_item *b = &truth->items[i];
        assert_memory_equal(a->ids, b->ids, 3 * sizeof *a->ids);
        assert_memory_not_equal(a->ids + 3, b->ids + 3, sizeof *a->ids);
        assert_true(a->seed != b->seed);
    }
    load_truth_free(truth);
}

/* Beyond the first line, short of the last. */
static long n_bytes_half(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[1024];
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    long head = ftell(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long all = ftell(file);
    assert_int_equal(fclose(file), 0);
    return (head + all) / 2;
}

static void test_recording_that_is_read_back_is_the_same(void **state)
{
    (void)state;
    char path[64];
    (void)snprintf(path, sizeof path, "load-truth-%d.txt", (int)getpid());
    load_truth *truth = truth_new(5, 8);
    load_truth *again = truth_new(5, 8);
    load_truth *other = truth_new(5, 9);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(load_truth_read(again, path, &err), SHOAL_E_NOTFOUND);
    record(truth);
    assert_int_equal(load_truth_write(truth, path, &err), SHOAL_OK);
    assert_int_equal(load_truth_read(again, path, &err), SHOAL_OK);
    for (size_t i = 0; i < 5; i++) {
        const load_item *a = &truth->items[i];
        assert_int_equal(a->n_out, again->items[i].n_out);
        assert_memory_equal(a->ids, again->items[i].ids, (a->n_prompt + 8) * sizeof *a->ids);
    }
    assert_int_equal(load_truth_read(other, path, &err), SHOAL_E_MISMATCH);
    assert_int_equal(truncate(path, (off_t)n_bytes_half(path)), 0);
    assert_int_equal(load_truth_read(again, path, &err), SHOAL_E_INVALID);
    assert_int_equal(unlink(path), 0);
    load_truth_free(truth);
    load_truth_free(again);
    load_truth_free(other);
}

/* --- the edge -----------------------------------------------------------------------------------
 */

typedef struct cloud {
    const load_item *item;
    uint32_t epoch;
    size_t n_h;
    size_t n_judged;
    size_t n_right;
    bool closed;
} cloud;

/* Judges one span whole, as section 4 says; false: nothing is answered. */
static bool judge(cloud *c, const shoal_msg_tokens *t, int32_t *own, shoal_cloud_msg *ret_msg)
{
    size_t end = c->item->n_prompt + c->item->n_out;
    if (t->epoch < c->epoch) {
        return false;
    }
    assert_int_equal(t->epoch, c->epoch);
    assert_int_equal(t->position, c->n_h);
    size_t n = 0;
    while (n < t->n_ids && t->ids[n] == c->item->ids[c->n_h + n]) {
        n++;
    }
    c->n_judged += SHOAL_MIN(n + 1, t->n_ids);
    c->n_right += n;
    c->n_h += n;
    *ret_msg = (shoal_cloud_msg){.kind = SHOAL_CLOUD_VERDICT,
                                 .body.verdict = {.accepted_to = (uint32_t)c->n_h, .ids = own}};
    c->epoch += n < t->n_ids;
    ret_msg->body.verdict.epoch = c->epoch;
    /* A bonus only where no draft waits behind: this cloud judges all that was sent so far. */
    if (c->n_h < end && n < t->n_ids) {
        *own = c->item->ids[c->n_h++];
        ret_msg->body.verdict.n_ids = 1;
    }
    return true;
}

/* Runs the edge to its end; at most `lag` messages wait before the cloud looks at them. */
static void play(load_edge *edge, cloud *c, size_t lag)
{
    enum {
        QUEUE = 64
    };
    static struct {
        shoal_msg_tokens tokens;
        int32_t ids[SHOAL_WIRE_DRAFT_MAX];
    } queue[QUEUE];
    size_t head = 0;
    size_t tail = 0;
    for (size_t turn = 0; !c->closed; turn++) {
        assert_true(turn < 10000);
        load_edge_step step = load_edge_next(edge);
        if (step != LOAD_EDGE_WAIT) {
            shoal_edge_msg msg;
            load_edge_send(edge, "t", &msg);
            c->closed = msg.kind == SHOAL_EDGE_CLOSE;
            if (step == LOAD_EDGE_PROMPT) {
                c->n_h = msg.body.tokens.position + msg.body.tokens.n_ids;
            } else if (step == LOAD_EDGE_DRAFT) {
                queue[tail % QUEUE].tokens = msg.body.tokens;
                memcpy(queue[tail % QUEUE].ids, msg.body.tokens.ids,
                       msg.body.tokens.n_ids * sizeof(int32_t));
                queue[tail % QUEUE].tokens.ids = queue[tail % QUEUE].ids;
                tail++;
            }
            if (step != LOAD_EDGE_DRAFT || tail - head < lag) {
                continue;
            }
        }
        shoal_cloud_msg answer;
        int32_t own = 0;
        size_t n_new = 0;
        assert_true(head < tail);
        if (judge(c, &queue[head++ % QUEUE].tokens, &own, &answer)) {
            assert_int_equal(load_edge_take(edge, &answer, &n_new), SHOAL_OK);
        }
    }
}

static void test_edge_drafts_as_often_right_as_asked(void **state)
{
    (void)state;
    const double accepts[] = {0, 0.5, 0.8, 1};
    load_truth *truth = truth_new(40, 200);
    record(truth);
    for (size_t ahead = 1; ahead <= 3; ahead++) {
        for (size_t a = 0; a < SHOAL_COUNT(accepts); a++) {
            size_t n_judged = 0;
            size_t n_right = 0;
            for (size_t i = 0; i < 40; i++) {
                load_edge_settings s = {
                    .mode = SHOAL_MODE_EXACT, .span = 5, .ahead = ahead, .accept = accepts[a]};
                load_edge edge;
                cloud c = {.item = &truth->items[i]};
                load_edge_init(&edge, &s, truth, &truth->items[i], 100 * i);
                play(&edge, &c, ahead);
                assert_true(load_edge_complete(&edge));
                assert_int_equal(edge.counts.n_drafted, c.n_judged);
                assert_int_equal(edge.counts.n_accepted, c.n_right);
                n_judged += c.n_judged;
                n_right += c.n_right;
            }
            assert_near((double)n_right / (double)n_judged, accepts[a], 0.02);
        }
    }
    load_truth_free(truth);
}

static shoal_status answer(load_edge *edge, shoal_msg_verdict verdict)
{
    const shoal_cloud_msg msg = {.kind = SHOAL_CLOUD_VERDICT, .body.verdict = verdict};
    size_t n_new = 0;
    return load_edge_take(edge, &msg, &n_new);
}

static void begin(load_edge *edge, load_truth *truth, double accept)
{
    const load_edge_settings s = {
        .mode = SHOAL_MODE_EXACT, .span = 4, .ahead = 1, .accept = accept};
    shoal_edge_msg msg;
    load_edge_init(edge, &s, truth, &truth->items[0], 1);
    for (size_t i = 0; i < 3; i++) {
        load_edge_send(edge, "t", &msg);
    }
    assert_int_equal(load_edge_next(edge), LOAD_EDGE_WAIT);
}

static void test_edge_finds_every_wrong_answer(void **state)
{
    (void)state;
    load_truth *truth = truth_new(1, 8);
    record(truth);
    load_edge edge;
    uint32_t at = (uint32_t)truth->items[0].n_prompt;
    const int32_t *right = &truth->items[0].ids[at];
    const int32_t no = (right[0] + 1) % 50;

    begin(&edge, truth, 0); /* a wrong draft that is accepted */
    assert_int_equal(answer(&edge, (shoal_msg_verdict){.accepted_to = at + 1}), SHOAL_E_MISMATCH);
    begin(&edge, truth, 0); /* a wrong correction */
    assert_int_equal(
        answer(&edge, (shoal_msg_verdict){.epoch = 1, .accepted_to = at, .ids = &no, .n_ids = 1}),
        SHOAL_E_MISMATCH);
    begin(&edge, truth, 1); /* more than was sent */
    assert_int_equal(answer(&edge, (shoal_msg_verdict){.accepted_to = at + 5}), SHOAL_E_PROTOCOL);
    begin(&edge, truth, 1); /* a gap */
    const shoal_cloud_msg gap = {.kind = SHOAL_CLOUD_TOKENS,
                                 .body.tokens = {.position = at + 2, .ids = right, .n_ids = 1}};
    size_t n_new = 0;
    assert_int_equal(load_edge_take(&edge, &gap, &n_new), SHOAL_E_PROTOCOL);
    begin(&edge, truth, 1); /* the same again is harmless */
    assert_int_equal(answer(&edge, (shoal_msg_verdict){.accepted_to = at + 4}), SHOAL_OK);
    assert_int_equal(
        answer(&edge, (shoal_msg_verdict){.accepted_to = at, .ids = right, .n_ids = 4}), SHOAL_OK);
    assert_int_equal(edge.n_confirmed, at + 4);
    load_truth_free(truth);
}

static void test_edge_that_reopens_sends_what_is_confirmed(void **state)
{
    (void)state;
    load_truth *truth = truth_new(1, 8);
    record(truth);
    load_edge edge;
    uint32_t at = (uint32_t)truth->items[0].n_prompt;
    begin(&edge, truth, 1);
    assert_int_equal(answer(&edge, (shoal_msg_verdict){.accepted_to = at + 4}), SHOAL_OK);
    load_edge_reopen(&edge);
    shoal_edge_msg msg;
    load_edge_send(&edge, "t", &msg);
    assert_int_equal(msg.kind, SHOAL_EDGE_OPEN);
    load_edge_send(&edge, "t", &msg);
    assert_int_equal(msg.body.tokens.n_ids, at + 4);
    load_edge_send(&edge, "t", &msg);
    assert_int_equal(msg.body.tokens.position, at + 4);
    assert_int_equal(msg.body.tokens.n_ids, 4);
    load_truth_free(truth);
}

/* --- the command line ---------------------------------------------------------------------------
 */

enum {
    ARGS_MAX = 16
};

/* getopt may move the words. */
static shoal_status parse(load_options *o, shoal_err *err, size_t argc, const char *const *argv)
{
    static char words[ARGS_MAX][32];
    char *moved[ARGS_MAX + 1] = {NULL};
    assert_true(argc <= ARGS_MAX);
    for (size_t i = 0; i < argc; i++) {
        (void)snprintf(words[i], sizeof words[i], "%s", argv[i]);
        moved[i] = words[i];
    }
    *err = (shoal_err)SHOAL_ERR_INIT;
    return load_options_parse((int)argc, moved, o, err);
}

#define PARSE(o, err, ...)                                                                         \
    parse(o, err, SHOAL_COUNT(((const char *[]){"load", __VA_ARGS__})),                            \
          ((const char *[]){"load", __VA_ARGS__}))

static void test_options_with_bounds_are_held_to_them(void **state)
{
    (void)state;
    load_options o;
    shoal_err err;
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1,2.5", "--prompt", "8..16",
                           "--accept", "1", "--span", "64"),
                     SHOAL_OK);
    assert_int_equal(o.n_points, 2);
    assert_int_equal(o.truth.prompt.high, 16);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1", "--span", "65"),
                     SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "--span 65"));
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1", "--prompt", "9..8"),
                     SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1", "--at-once", "2"),
                     SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1,,2"), SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--at-once", "2,4", "--times", "65536"),
                     SHOAL_OK);
    assert_int_equal(o.times, 65536);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--at-once", "2,4", "--times", "65537"),
                     SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "--times"));
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1", "--times", "2"),
                     SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--rate", "1", "--ca", "x"),
                     SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1"), SHOAL_E_INVALID);
    assert_int_equal(PARSE(&o, &err, "--target", "h:1", "--timing", "10"), SHOAL_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantile_between_samples_interpolates),
        cmocka_unit_test(test_poisson_gaps_have_mean_and_spread_of_the_rate),
        cmocka_unit_test(test_mann_whitney_equals_reference),
        cmocka_unit_test(test_mann_whitney_of_equal_values_finds_nothing),
        cmocka_unit_test(test_events_come_by_time_then_by_order),
        cmocka_unit_test(test_prompts_share_their_beginning_and_no_more),
        cmocka_unit_test(test_recording_that_is_read_back_is_the_same),
        cmocka_unit_test(test_edge_drafts_as_often_right_as_asked),
        cmocka_unit_test(test_edge_finds_every_wrong_answer),
        cmocka_unit_test(test_edge_that_reopens_sends_what_is_confirmed),
        cmocka_unit_test(test_options_with_bounds_are_held_to_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
