/* SPDX-License-Identifier: Apache-2.0
 *
 * Deferred depth: whatever leaves early, whenever what waits is computed, and however sequences are
 * cut, forked and batched in between, the logits of every depth and the KV of every layer are the
 * bits of a run in which no token leaves.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "common/kv/kv_move.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_lora.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <string.h>

enum {
    N = 160, /* five blocks of KV */
    N_SEQS = 3,
    HEADS_MAX = SHOAL_MODEL_EXITS_MAX + 1,
    ROWS_MAX = 96,
    LOGITS_MAX = 82, /* all that waits, and one */
    ROW_BYTES = SHOAL_TINY_VOCAB * (int)sizeof(float)
};

#if defined(__SANITIZE_THREAD__)
enum {
    ARCHS_STEP = 5,
    RUNS = 1
};
#elif defined(__SANITIZE_ADDRESS__)
enum {
    ARCHS_STEP = 2,
    RUNS = 1
};
#else
enum {
    ARCHS_STEP = 1,
    RUNS = 4
};
#endif

static int32_t ids[N_SEQS][N];
static float expected[N_SEQS][HEADS_MAX][N][SHOAL_TINY_VOCAB]; /* at every exit, then in full */

/* --- models ---------------------------------------------------------------------------------- */

/* A model without exits, and a copy of its numbers on the same weights that has some. */
typedef struct subject {
    shoal_model *base;
    shoal_model *left; /* borrows all it points to */
    shoal_lora *lora;  /* of left; NULL: none */
    float *norms;
} subject;

static shoal_model *copy_of(const shoal_model *model)
{
    shoal_model *copy = shoal_calloc(1, sizeof *copy);
    assert_non_null(copy);
    *copy = *model;
    return copy;
}

static void subject_init(subject *s, const char *variant, shoal_type type, bool adapted)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_tiny_settings deep = {.seed = 11, .type = type, .n_layers = 5};
    memset(s, 0, sizeof *s);
    assert_int_equal(variant ? shoal_tiny_arch_gguf(variant, 5, type, &file)
                             : shoal_tiny_model_build(&deep, &file),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    if (shoal_model_new(gguf, &s->base, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    s->left = copy_of(s->base);
    shoal_hparams *hp = &s->left->hp;
    for (size_t layers = 1; layers < hp->n_layers && hp->n_exits < 3; layers += hp->n_exits) {
        hp->exits[hp->n_exits++] = layers;
    }
    size_t n = hp->n_exits * hp->dim;
    s->norms = shoal_calloc_aligned(n, sizeof *s->norms);
    assert_non_null(s->norms);
    for (size_t i = 0; i < n; i++) {
        s->norms[i] = 0.9F + 0.002F * (float)(i % 97);
    }
    s->left->exit_norm = s->norms;
    if (adapted) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf adapter = {0};
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *parts = NULL;
        const shoal_tiny_lora make = {.seed = 3, .rank = 4, .alpha = 8, .type = SHOAL_TYPE_F32};
        assert_int_equal(shoal_tiny_lora_gguf(gguf, &make, &adapter), SHOAL_OK);
        assert_int_equal(
            shoal_gguf_open((const uint8_t *)adapter.data, adapter.length, &parts, NULL), SHOAL_OK);
        assert_int_equal(shoal_lora_new(s->left, parts, 1, &s->lora, &err), SHOAL_OK);
    }
}

static void subject_fini(subject *s)
{
    shoal_lora_free(s->lora);
    shoal_free(s->left);
    shoal_free(s->norms);
    shoal_model_free(s->base);
}

/* The first text has none, so that a batch has rows with it and without. */
static const shoal_lora *lora_of(const subject *s, size_t text)
{
    return text > 0 ? s->lora : NULL;
}

static shoal_engine *engine_of(const shoal_model *model, shoal_kv_type kv, size_t n_threads)
{
    shoal_engine_settings es = shoal_engine_settings_default();
    shoal_engine *engine = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    es.n_threads = n_threads;
    es.n_ctx = N;
    es.kv_bytes = (size_t)16 << 20;
    es.kv_type = (int)kv;
    es.n_rows_max = ROWS_MAX;
    es.n_logits_max = LOGITS_MAX;
    es.n_loras_max = 1;
    if (shoal_engine_new(model, &es, &engine, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return engine;
}

static shoal_kv_seq *sequence(shoal_engine *engine)
{
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    return seq;
}

static void fill_ids(void)
{
    uint64_t rng = 19;
    for (size_t i = 0; i < N_SEQS; i++) {
        for (size_t j = 0; j < N; j++) {
            ids[i][j] = (int32_t)(shoal_rng_next(&rng) % SHOAL_TINY_VOCAB);
        }
    }
}

/* Whole text in steps of 32: the sequence is left in place. */
static void run_text(shoal_engine *engine, size_t s, const shoal_lora *lora, shoal_kv_seq *seq,
                     float (*ret)[SHOAL_TINY_VOCAB])
{
    for (size_t at = 0; at < N; at += 32) {
        shoal_span span = {
            .seq = seq, .ids = &ids[s][at], .n_ids = 32, .n_logits = 32, .lora = lora};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        for (size_t i = 0; ret && i < 32; i++) {
            memcpy(ret[at + i], shoal_engine_logits(engine, span.logits_i + i), ROW_BYTES);
        }
    }
}

/* A model cut after an exit's layers says what is right at the exit. */
static void compute_expected(const subject *who, shoal_kv_type kv)
{
    const shoal_hparams *hp = &who->left->hp;
    for (size_t head = 0; head <= hp->n_exits; head++) {
        if (who->lora && head < hp->n_exits) {
            continue; /* an adapter is of one model, not of its beginning */
        }
        shoal_model *cut = copy_of(who->base);
        if (head < hp->n_exits) {
            cut->hp.n_layers = hp->exits[head];
            cut->out_norm = who->norms + head * hp->dim;
        }
        shoal_engine *engine = engine_of(who->lora ? who->left : cut, kv, 1);
        for (size_t s = 0; s < N_SEQS; s++) {
            shoal_kv_seq *seq = sequence(engine);
            run_text(engine, s, lora_of(who, s), seq, expected[s][head]);
            shoal_kv_seq_free(seq);
        }
        shoal_engine_free(engine);
        shoal_free(cut);
    }
}

/* --- random runs ----------------------------------------------------------------------------- */

typedef struct lane {
    shoal_kv_seq *seq;
    shoal_depth *depth; /* NULL: never leaves */
    size_t text;
    size_t wrong_from; /* tokens from here on are not the text's */
    int32_t wrong[N];  /* the text with them */
    size_t n_fed;      /* of the step under way */
} lane;

typedef struct run {
    const subject *who;
    shoal_engine *engine;
    shoal_kv_type kv;
    uint64_t rng;
    uint64_t seed;
    lane lanes[N_SEQS];
    shoal_exit_rule rules[N_SEQS][SHOAL_MODEL_EXITS_MAX];
    shoal_exit_state states[N_SEQS];
    size_t n_left;
    size_t n_checked;
} run;

static size_t draw(run *r, size_t n)
{
    return (size_t)(shoal_rng_next(&r->rng) % n);
}

/* A policy of any kind: most let some rows go, some all, some none. */
static shoal_exit_rule draw_rule(run *r, size_t s)
{
    float u = (float)draw(r, 1000) / 1000.0F;
    shoal_exit_rule rule = {.on = draw(r, 8) > 0};
    shoal_exit_policy *p = &rule.policy;
    p->kind = (shoal_exit_kind)draw(r, SHOAL_EXIT_KINDS);
    p->threshold = u * 0.02F;
    switch (p->kind) {
    case SHOAL_EXIT_ENTROPY:
        p->threshold = 5.0F + u;
        break;
    case SHOAL_EXIT_LINEAR:
        p->threshold = 0.5F;
        p->bias = u - 0.5F;
        p->w_top = 5;
        break;
    case SHOAL_EXIT_PERCENTILE:
        p->rate = u;
        p->window = 16;
        rule.state = &r->states[s];
        break;
    case SHOAL_EXIT_RISK:
        p->risk = 0.01F;
        p->delta = 0.05F;
        break;
    case SHOAL_EXIT_FIXED:
    case SHOAL_EXIT_MARGIN:
    case SHOAL_EXIT_KINDS:
        break;
    }
    assert_int_equal(shoal_exit_policy_check(p, NULL), SHOAL_OK);
    return rule;
}

/* Appends a span of some tokens of the text, or of wrong ones, or of none when something waits. */
static void draw_span(run *r, size_t s, shoal_span *ret)
{
    static const size_t sizes[] = {1, 1, 1, 1, 1, 2, 3, 5, 17};
    lane *l = &r->lanes[s];
    size_t length = shoal_kv_seq_length(l->seq);
    size_t n_waiting = shoal_depth_n_waiting(l->seq);
    size_t size = sizes[draw(r, SHOAL_COUNT(sizes))];
    l->n_fed = SHOAL_MIN(size, N - length);
    if (n_waiting > 0 && (l->n_fed == 0 || draw(r, 12) == 0)) {
        l->n_fed = 0;
    }
    bool wrong = draw(r, 6) == 0 && l->wrong_from == N;
    for (size_t i = 0; i < l->n_fed; i++) {
        l->wrong[length + i] =
            wrong ? (ids[l->text][length + i] + 1 + (int32_t)draw(r, 9)) % SHOAL_TINY_VOCAB
                  : ids[l->text][length + i];
    }
    if (wrong && l->n_fed > 0) {
        l->wrong_from = length;
    }
    for (size_t e = 0; e < r->who->left->hp.n_exits; e++) {
        r->rules[s][e] = draw_rule(r, s);
    }
    *ret = (shoal_span){.seq = l->seq,
                        .ids = l->wrong + length,
                        .n_ids = l->n_fed,
                        .n_logits = l->n_fed == 0 ? 0 : draw(r, 5) > 0,
                        .lora = lora_of(r->who, l->text),
                        .depth = l->depth,
                        .rules = l->depth && draw(r, 5) > 0 ? r->rules[s] : NULL,
                        .check = l->depth && draw(r, 2)};
}

static void check_row(const run *r, size_t logits_i, const lane *l, size_t head, size_t position)
{
    if (position >= l->wrong_from || (r->who->lora && head < r->who->left->hp.n_exits)) {
        return; /* not the text, or not known */
    }
    if (memcmp(shoal_engine_logits(r->engine, logits_i), expected[l->text][head][position],
               ROW_BYTES) != 0) {
        fail_msg("%s, KV %s, seed %llu: position %zu differs at head %zu", r->who->left->hp.arch,
                 shoal_kv_type_name(r->kv), (unsigned long long)r->seed, position, head);
    }
}

static void check_span(run *r, const lane *l, const shoal_span *span)
{
    const shoal_hparams *hp = &r->who->left->hp;
    size_t end = shoal_kv_seq_length(l->seq);
    size_t head = 0;
    while (head < hp->n_exits && hp->exits[head] != span->n_layers) {
        head++;
    }
    bool left = head < hp->n_exits;
    assert_true(left || span->n_layers == hp->n_layers);
    assert_true(!left || (span->rules && span->n_logits == 1 && span->n_checks == 0));
    assert_true(left || shoal_depth_n_waiting(l->seq) == 0);
    assert_true(!l->depth || shoal_depth_n_waiting(l->seq) <= shoal_depth_n_waiting_max(l->depth));
    if (span->n_logits > 0) {
        check_row(r, span->logits_i, l, head, end - 1);
    }
    for (size_t i = 0; i < span->n_checks; i++) {
        check_row(r, span->checks_i + i, l, hp->n_exits, span->check_from + i);
    }
    r->n_left += left;
    r->n_checked += span->n_checks;
}

static void cut(lane *l, size_t n)
{
    n = shoal_kv_seq_truncate(l->seq, n);
    if (n <= l->wrong_from) {
        l->wrong_from = N;
    }
}

/* Goes on in a fork of what every layer has; more than that cannot be forked. */
static void fork_lane(run *r, lane *l)
{
    shoal_kv_seq *fork = NULL;
    size_t whole = shoal_kv_seq_whole(l->seq);
    if (whole < shoal_kv_seq_length(l->seq)) {
        assert_int_equal(shoal_kv_seq_fork(l->seq, whole + 1, &fork), SHOAL_E_LIMIT);
    }
    size_t n = draw(r, 2) ? whole : draw(r, whole + 1);
    if (shoal_kv_seq_fork(l->seq, n, &fork) != SHOAL_OK) {
        return; /* below what a ring still has */
    }
    if (draw(r, 2)) { /* the old one goes on a little over shared pages */
        shoal_span span;
        lane old = *l;
        draw_span(r, (size_t)(l - r->lanes), &span);
        if (span.n_ids + shoal_depth_n_waiting(span.seq) > 0) {
            assert_int_equal(shoal_engine_step(r->engine, &span, 1), SHOAL_OK);
        }
        l->wrong_from = old.wrong_from;
    }
    shoal_kv_seq_free(l->seq);
    l->seq = fork;
    if (shoal_kv_seq_length(fork) <= l->wrong_from) {
        l->wrong_from = N;
    }
}

static void one_step(run *r)
{
    shoal_span spans[N_SEQS];
    size_t of[N_SEQS];
    size_t n = 0;
    size_t n_rows = 0;
    for (size_t s = 0; s < N_SEQS; s++) {
        lane *l = &r->lanes[s];
        size_t length = shoal_kv_seq_length(l->seq);
        size_t n_cut = 0;
        switch (draw(r, 12)) {
        case 0:
            n_cut = draw(r, 8);
            cut(l, length - SHOAL_MIN(length, n_cut));
            break;
        case 1:
            fork_lane(r, l);
            break;
        default:
            break;
        }
        if (l->wrong_from < N && draw(r, 3) == 0) {
            cut(l, l->wrong_from);
        }
        if (draw(r, 4) == 0) {
            continue;
        }
        draw_span(r, s, &spans[n]);
        size_t n_own = spans[n].n_ids + shoal_depth_n_waiting(l->seq);
        if (n_own > 0 && n_rows + n_own <= LOGITS_MAX) {
            n_rows += n_own;
            of[n++] = s;
        }
    }
    if (n == 0) {
        return;
    }
    assert_int_equal(shoal_engine_step(r->engine, spans, n), SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        check_span(r, &r->lanes[of[i]], &spans[i]);
    }
}

/* The pages of every layer against those of a run in which nothing left. */
static void check_kv(const run *r, const lane *l)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(l->seq);
    shoal_engine *engine = engine_of(r->who->left, r->kv, 1);
    shoal_kv_seq *seq = sequence(engine);
    run_text(engine, l->text, lora_of(r->who, l->text), seq, NULL);
    assert_int_equal(shoal_kv_seq_whole(l->seq), N);
    for (size_t block = 0; block < N / SHOAL_KV_BLOCK; block++) {
        if (!shoal_kv_seq_has_block(l->seq, block) || !shoal_kv_seq_has_block(seq, block)) {
            continue;
        }
        size_t n_bytes = shoal_kv_block_bytes(shape, block);
        uint8_t *bytes = shoal_calloc(2 * n_bytes, 1);
        assert_non_null(bytes);
        assert_int_equal(shoal_kv_block_export(l->seq, block, bytes), SHOAL_OK);
        assert_int_equal(shoal_kv_block_export(seq, block, bytes + n_bytes), SHOAL_OK);
        if (memcmp(bytes, bytes + n_bytes, n_bytes) != 0) {
            fail_msg("%s, KV %s, seed %llu: block %zu differs", r->who->left->hp.arch,
                     shoal_kv_type_name(r->kv), (unsigned long long)r->seed, block);
        }
        shoal_free(bytes);
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}

/* The text to its end, and nothing waits. */
static void finish_lane(run *r, lane *l)
{
    if (l->wrong_from < N) {
        cut(l, l->wrong_from);
    }
    size_t length = shoal_kv_seq_length(l->seq);
    size_t n_waiting = shoal_depth_n_waiting(l->seq);
    shoal_span span = {.seq = l->seq,
                       .ids = &ids[l->text][length],
                       .n_ids = SHOAL_MIN(N - length, ROWS_MAX - n_waiting),
                       .lora = lora_of(r->who, l->text),
                       .depth = l->depth};
    if (span.n_ids + n_waiting > 0) {
        assert_int_equal(shoal_engine_step(r->engine, &span, 1), SHOAL_OK);
    }
    if (shoal_kv_seq_length(l->seq) < N) {
        finish_lane(r, l);
    }
}

static void random_run(const subject *who, shoal_kv_type kv, uint64_t seed, size_t *inout_left,
                       size_t *inout_checked)
{
    static const size_t waits[] = {1, 2, 8, SHOAL_DEPTH_WAITING_MAX};
    run *r = shoal_calloc(1, sizeof *r);
    assert_non_null(r);
    r->who = who;
    r->kv = kv;
    r->seed = seed;
    r->rng = seed;
    r->engine = engine_of(who->left, kv, 1 + draw(r, 3));
    for (size_t s = 0; s < N_SEQS; s++) {
        lane *l = &r->lanes[s];
        l->seq = sequence(r->engine);
        l->text = s;
        l->wrong_from = N;
        if (s > 0 || draw(r, 2)) {
            assert_int_equal(
                shoal_depth_new(who->left, waits[draw(r, SHOAL_COUNT(waits))], &l->depth),
                SHOAL_OK);
        }
    }
    for (size_t i = 0; i < 120; i++) {
        one_step(r);
    }
    for (size_t s = 0; s < N_SEQS; s++) {
        finish_lane(r, &r->lanes[s]);
        check_kv(r, &r->lanes[s]);
        shoal_kv_seq_free(r->lanes[s].seq);
        shoal_depth_free(r->lanes[s].depth);
    }
    *inout_left += r->n_left;
    *inout_checked += r->n_checked;
    shoal_engine_free(r->engine);
    shoal_free(r);
}

static const shoal_kv_type kvs[] = {SHOAL_KV_F32,  SHOAL_KV_K8V8, SHOAL_KV_F16,
                                    SHOAL_KV_K4V4, SHOAL_KV_Q8T,  SHOAL_KV_K3V8};

static void run_subject(const char *variant, shoal_type type, bool adapted, uint64_t seed)
{
    subject who;
    size_t n_left = 0;
    size_t n_checked = 0;
    subject_init(&who, variant, type, adapted);
    for (size_t i = 0; i < RUNS; i++) {
        shoal_kv_type kv = kvs[(seed + i) % SHOAL_COUNT(kvs)];
        if (i == 0 || RUNS > 1) {
            compute_expected(&who, kv);
        }
        random_run(&who, kv, seed * 1000 + i, &n_left, &n_checked);
    }
    assert_true(n_left > 0 && n_checked > 0);
    subject_fini(&who);
}

static void test_depth_random_exits_cuts_and_forks_leave_the_bits_alone(void **state)
{
    (void)state;
    fill_ids();
    run_subject(NULL, SHOAL_TYPE_F32, false, 1);
    run_subject(NULL, SHOAL_TYPE_Q8_0, false, 2);
    run_subject(NULL, SHOAL_TYPE_Q4_0, true, 3);
}

static void test_depth_every_architecture_keeps_its_bits(void **state)
{
    (void)state;
    fill_ids();
    for (size_t a = 0; a < shoal_tiny_archs_n; a += ARCHS_STEP) {
        run_subject(shoal_tiny_archs[a], a % 2 == 0 ? SHOAL_TYPE_F32 : SHOAL_TYPE_Q8_0, false,
                    10 + a);
    }
}

/* --- limits ---------------------------------------------------------------------------------- */

static const shoal_exit_rule at_once[] = {
    {.on = true, .policy = {.kind = SHOAL_EXIT_FIXED, .threshold = 0}},
    {.on = true, .policy = {.kind = SHOAL_EXIT_FIXED, .threshold = 0}},
    {.on = true, .policy = {.kind = SHOAL_EXIT_FIXED, .threshold = 0}},
};

/* One sequence whose tokens leave as soon as they may. */
typedef struct lone {
    subject who;
    shoal_engine *engine;
    shoal_kv_seq *seq;
    shoal_depth *depth;
} lone;

static void lone_init(lone *l, size_t n_waiting_max)
{
    fill_ids();
    memset(l, 0, sizeof *l);
    subject_init(&l->who, NULL, SHOAL_TYPE_F32, false);
    l->engine = engine_of(l->who.left, SHOAL_KV_F32, 2);
    l->seq = sequence(l->engine);
    assert_int_equal(shoal_depth_new(l->who.left, n_waiting_max, &l->depth), SHOAL_OK);
}

static void lone_fini(lone *l)
{
    shoal_kv_seq_free(l->seq);
    shoal_depth_free(l->depth);
    shoal_engine_free(l->engine);
    subject_fini(&l->who);
}

/* The next n tokens of the text. */
static shoal_span lone_span(const lone *l, size_t n)
{
    return (shoal_span){.seq = l->seq,
                        .ids = &ids[0][shoal_kv_seq_length(l->seq)],
                        .n_ids = n,
                        .n_logits = 1,
                        .depth = l->depth,
                        .rules = at_once,
                        .check = true};
}

static shoal_span lone_step(lone *l, size_t n)
{
    shoal_span span = lone_span(l, n);
    assert_int_equal(shoal_engine_step(l->engine, &span, 1), SHOAL_OK);
    return span;
}

static void test_depth_waiting_is_bounded_and_the_next_goes_deep(void **state)
{
    (void)state;
    for (size_t n_max = 1; n_max <= 4; n_max++) {
        lone l;
        lone_init(&l, n_max);
        for (size_t i = 0; i < 3 * (n_max + 1); i++) {
            shoal_span span = lone_step(&l, 1);
            bool full = i % (n_max + 1) == n_max;
            assert_int_equal(span.n_layers, full ? l.who.left->hp.n_layers : 1);
            assert_int_equal(span.n_checks, full ? n_max : 0);
            assert_int_equal(shoal_depth_n_waiting(l.seq), full ? 0 : i % (n_max + 1) + 1);
        }
        lone_fini(&l);
    }
}

/* A span of several tokens leaves as one where there is place for all, and not with one more. */
static void test_depth_span_leaves_whole_or_not_at_all(void **state)
{
    (void)state;
    lone l;
    lone_init(&l, 8);
    for (size_t n = 7; n <= 9; n++) {
        shoal_span span = lone_step(&l, n);
        assert_int_equal(shoal_depth_n_waiting(l.seq), n <= 8 ? n : 0);
        assert_int_equal(span.n_layers, n <= 8 ? 1 : l.who.left->hp.n_layers);
        assert_int_equal(shoal_kv_seq_truncate(l.seq, 0), 0);
    }
    lone_fini(&l);
}

/* Pages that are shared and lack nothing but depth are copied before they get it. */
static void test_depth_need_counts_the_pages_that_wait(void **state)
{
    (void)state;
    lone l;
    shoal_kv_seq *fork = NULL;
    lone_init(&l, 48);
    shoal_span span = lone_span(&l, 20);
    span.depth = NULL; /* as long as nothing waits it may be left out, and is up to date later */
    span.check = false;
    assert_int_equal(shoal_engine_step(l.engine, &span, 1), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_fork(l.seq, 20, &fork), SHOAL_OK);
    size_t n_layers = l.who.left->hp.n_layers;
    assert_int_equal(shoal_kv_seq_need(l.seq).n_pages_copy, n_layers);
    assert_int_equal(shoal_kv_seq_need(fork).n_pages_copy, n_layers);
    (void)lone_step(&l, 20);
    assert_int_equal(shoal_kv_seq_whole(l.seq), 20);
    assert_int_equal(shoal_kv_seq_need(l.seq).n_pages_copy, 0);
    shoal_kv_seq_free(fork);
    assert_int_equal(shoal_kv_seq_fork(l.seq, 20, &fork), SHOAL_OK);
    assert_false(shoal_kv_seq_has_block(l.seq, 0)); /* which is full, but waits */
    assert_int_equal(shoal_kv_seq_need(l.seq).n_pages_copy, n_layers);
    shoal_kv_seq_free(fork);
    lone_fini(&l);
}

static void test_depth_step_over_its_limits_changes_nothing(void **state)
{
    (void)state;
    lone l;
    lone_init(&l, 16);
    shoal_kv_seq *other = sequence(l.engine);
    (void)lone_step(&l, 16);
    assert_int_equal(shoal_depth_n_waiting(l.seq), 16);
    /* Rows that wait count. */
    shoal_span both[2] = {lone_span(&l, 1),
                          {.seq = other, .ids = ids[1], .n_ids = ROWS_MAX - 16, .n_logits = 1}};
    both[0].check = false;
    assert_int_equal(shoal_engine_step(l.engine, both, 2), SHOAL_E_LIMIT);
    /* So do their checks: 16, one of its own, and one more than there is room for. */
    both[0].check = true;
    both[1].n_ids = LOGITS_MAX - 16;
    both[1].n_logits = LOGITS_MAX - 16;
    assert_int_equal(shoal_engine_step(l.engine, both, 2), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kv_seq_length(l.seq), 16);
    assert_int_equal(shoal_kv_seq_whole(l.seq), 0);
    assert_int_equal(shoal_kv_seq_length(other), 0);
    both[1].n_logits--;
    assert_int_equal(shoal_engine_step(l.engine, both, 2), SHOAL_OK);
    assert_int_equal(both[0].n_checks, 16);
    assert_int_equal(shoal_depth_n_waiting(l.seq), 0);
    shoal_kv_seq_free(other);
    lone_fini(&l);
}

/* Layers that are not run are not read; those that wait are read once for all. */
static void test_depth_weights_are_read_once_for_all_that_wait(void **state)
{
    (void)state;
    lone l;
    lone_init(&l, 4);
    uint64_t layers[5];
    for (size_t i = 0; i < 5; i++) {
        uint64_t before = shoal_engine_bytes_read(l.engine) - shoal_engine_bytes_heads(l.engine);
        (void)lone_step(&l, 1);
        layers[i] = shoal_engine_bytes_read(l.engine) - shoal_engine_bytes_heads(l.engine) - before;
    }
    for (size_t i = 1; i < 4; i++) {
        assert_int_equal(layers[i], layers[0]);
    }
    assert_true(layers[0] > 0);
    assert_int_equal(layers[4], layers[0] * l.who.left->hp.n_layers);
    lone_fini(&l);
}

static void test_depth_new_refuses_what_it_cannot_hold(void **state)
{
    (void)state;
    subject who;
    shoal_depth *depth = NULL;
    subject_init(&who, NULL, SHOAL_TYPE_F32, false);
    assert_int_equal(shoal_depth_new(who.base, 1, &depth), SHOAL_E_UNSUPPORTED);
    assert_int_equal(shoal_depth_new(who.left, 0, &depth), SHOAL_E_LIMIT);
    assert_int_equal(shoal_depth_new(who.left, SHOAL_DEPTH_WAITING_MAX + 1, &depth), SHOAL_E_LIMIT);
    for (uint64_t at = 0; at < 2; at++) {
        shoal_mem_fail_at(at);
        assert_int_equal(shoal_depth_new(who.left, 4, &depth), SHOAL_E_NOMEM);
    }
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(depth);
    assert_int_equal(shoal_depth_new(who.left, SHOAL_DEPTH_WAITING_MAX, &depth), SHOAL_OK);
    assert_int_equal(shoal_depth_n_waiting_max(depth), SHOAL_DEPTH_WAITING_MAX);
    shoal_depth_free(depth);
    subject_fini(&who);
}

static void test_depth_step_allocates_nothing(void **state)
{
    (void)state;
    lone l;
    lone_init(&l, 3);
    uint64_t n_before = shoal_mem_count();
    for (size_t i = 0; i < 12; i++) {
        (void)lone_step(&l, 1);
    }
    assert_int_equal(shoal_mem_count(), n_before);
    lone_fini(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_depth_random_exits_cuts_and_forks_leave_the_bits_alone),
        cmocka_unit_test(test_depth_every_architecture_keeps_its_bits),
        cmocka_unit_test(test_depth_waiting_is_bounded_and_the_next_goes_deep),
        cmocka_unit_test(test_depth_span_leaves_whole_or_not_at_all),
        cmocka_unit_test(test_depth_need_counts_the_pages_that_wait),
        cmocka_unit_test(test_depth_step_over_its_limits_changes_nothing),
        cmocka_unit_test(test_depth_weights_are_read_once_for_all_that_wait),
        cmocka_unit_test(test_depth_new_refuses_what_it_cannot_hold),
        cmocka_unit_test(test_depth_step_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
