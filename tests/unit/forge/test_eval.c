/* SPDX-License-Identifier: Apache-2.0
 *
 * The fast ways of eval against the plain ones: whole texts fed anew for every token, one question
 * at a time, argmax by a loop. Questions are prompts of random tokens; their references are what
 * the full model really answers, where that ends soon, and for every other question something else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/depths.h"
#include "cloud/forge/eval.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum {
    N_QUESTIONS = 24
};
#else
enum {
    N_QUESTIONS = 72 /* more than there are lanes */
};
#endif

enum {
    N_KINDS = 3,
    ANSWER_MAX = 24, /* tokens of a reference */
    PROMPT_MAX = 300,
    TEXT_MAX = PROMPT_MAX + 2 * ANSWER_MAX + EVAL_EXTRA
};

static const forge_args args = {.threads = 2};
static shoal_model *models[2]; /* edge, full */
static eval_voice voices[2];
static eval_quiz quiz;
static eval_answers edge_answers;
static eval_answers full_answers;
static eval_pair pair;

/* --- the plain ways -----------------------------------------------------------------------------
 */

typedef struct plain {
    int32_t ids[TEXT_MAX];
    size_t n;
    size_t n_prompt;
} plain;

/* Logits after the whole text, fed anew in pieces of 100. */
static const float *listen(eval_voice *v, const plain *p)
{
    shoal_span span = {.seq = v->seqs[0]};
    assert_int_equal(shoal_kv_seq_truncate(v->seqs[0], 0), 0);
    for (size_t at = 0; at < p->n; at += span.n_ids) {
        span.ids = p->ids + at;
        span.n_ids = SHOAL_MIN(p->n - at, (size_t)100);
        span.n_logits = at + span.n_ids == p->n;
        assert_int_equal(shoal_engine_step(v->engine, &span, 1), SHOAL_OK);
    }
    return shoal_engine_logits(v->engine, span.logits_i);
}

static int32_t argmax(const float *logits)
{
    size_t best = 0;
    for (size_t i = 1; i < SHOAL_TINY_VOCAB; i++) {
        best = logits[i] > logits[best] ? i : best;
    }
    return (int32_t)best;
}

/* As daemons compute it. */
static float confidence(eval_voice *v, const float *logits)
{
    shoal_sampling greedy = shoal_sampling_default();
    shoal_sampled sampled;
    greedy.temperature = 0;
    shoal_sample(v->samplers[0], &greedy, logits, NULL, 0, &sampled);
    assert_int_equal(sampled.id, argmax(logits));
    return sampled.confidence;
}

static bool ended(const plain *p, size_t n_max)
{
    return p->n - p->n_prompt == n_max ||
           (p->n > p->n_prompt && p->ids[p->n - 1] == SHOAL_TINY_EOS);
}

static plain prompt_of(const eval_question *q)
{
    plain p = {.n = q->n_prompt, .n_prompt = q->n_prompt};
    memcpy(p.ids, quiz.ids + q->first, q->n_prompt * sizeof *p.ids);
    return p;
}

static void answer_plainly(eval_voice *v, plain *p, size_t n_max)
{
    while (!ended(p, n_max)) {
        p->ids[p->n] = argmax(listen(v, p));
        p->n++;
    }
}

/* --- questions ----------------------------------------------------------------------------------
 */

static void put_question(const plain *p, size_t kind)
{
    eval_question *q = &quiz.questions[quiz.n++];
    *q = (eval_question){.kind = kind,
                         .weight = 1,
                         .first = quiz.n_ids,
                         .n_prompt = p->n_prompt,
                         .n_answer = p->n - p->n_prompt,
                         .said_i = quiz.n_said,
                         .answer = shoal_strdup("an answer")};
    memcpy(quiz.ids + quiz.n_ids, p->ids, p->n * sizeof *p->ids);
    quiz.n_ids += p->n;
    quiz.n_said += q->n_answer;
    quiz.n_prompt_max = SHOAL_MAX(quiz.n_prompt_max, q->n_prompt);
    quiz.n_answer_max = SHOAL_MAX(quiz.n_answer_max, q->n_answer);
}

/* Prompts of a few tokens, now and then so long that the lanes overflow a step's rows. */
static plain random_prompt(uint64_t *rng)
{
    plain p = {.n = 1 + shoal_rng_next(rng) % 7};
    p.n = shoal_rng_next(rng) % 16 == 0 ? PROMPT_MAX - p.n : p.n;
    for (size_t i = 0; i < p.n; i++) {
        p.ids[i] = (int32_t)(3 + shoal_rng_next(rng) % (SHOAL_TINY_VOCAB - 3));
    }
    p.n_prompt = p.n;
    return p;
}

static void make_quiz(uint64_t seed)
{
    uint64_t rng = seed;
    print_message("seed %u\n", (unsigned)seed);
    quiz.n_kinds = N_KINDS;
    for (size_t k = 0; k < N_KINDS; k++) {
        quiz.kinds[k][0] = (char)('a' + k);
    }
    quiz.questions = shoal_calloc(N_QUESTIONS, sizeof *quiz.questions);
    quiz.ids = shoal_calloc(N_QUESTIONS, TEXT_MAX * sizeof *quiz.ids);
    while (quiz.n < N_QUESTIONS) {
        plain p = random_prompt(&rng);
        answer_plainly(&voices[1], &p, ANSWER_MAX);
        size_t n = p.n - p.n_prompt;
        bool soon = p.ids[p.n - 1] == SHOAL_TINY_EOS;
        if (quiz.n % 2 == 0 && !soon) {
            continue; /* a right answer has an end */
        }
        if (quiz.n % 2 == 1) {
            size_t at = p.n_prompt + shoal_rng_next(&rng) % n;
            p.ids[at] = p.ids[at] == 9 ? 10 : 9;
        }
        put_question(&p, shoal_rng_next(&rng) % N_KINDS);
    }
}

static shoal_model *make_model(const shoal_tiny_settings *s)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    assert_int_equal(shoal_tiny_model_build(s, &buf), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return model;
}

static int group_setup(void **state)
{
    (void)state;
    const shoal_tiny_settings full = {.seed = 21, .type = SHOAL_TYPE_F32};
    const shoal_tiny_settings edge = {.seed = 21,
                                      .type = SHOAL_TYPE_Q8_0,
                                      .noise_seed = 5,
                                      .noise = 0.03F,
                                      .n_layers = 2,
                                      .n_exits = 1,
                                      .exits = {1}};
    models[0] = make_model(&edge);
    models[1] = make_model(&full);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(shoal_forge_voice_open(&args, models[i], TEXT_MAX, &voices[i], NULL),
                         SHOAL_OK);
    }
    make_quiz(77);
    assert_int_equal(shoal_forge_answer(&voices[0], &quiz, &edge_answers, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_answer(&voices[1], &quiz, &full_answers, NULL), SHOAL_OK);
    pair = (eval_pair){.quiz = &quiz,
                       .voices = {&voices[0], &voices[1]},
                       .edge = &edge_answers,
                       .full = &full_answers};
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_forge_answers_fini(&edge_answers);
    shoal_forge_answers_fini(&full_answers);
    shoal_forge_quiz_fini(&quiz);
    for (size_t i = 0; i < 2; i++) {
        shoal_forge_voice_close(&voices[i]);
        shoal_model_free(models[i]);
    }
    return 0;
}

/* --- one model ----------------------------------------------------------------------------------
 */

static void check_answers(eval_voice *v, const eval_answers *answers)
{
    size_t n_right = 0;
    for (size_t i = 0; i < quiz.n; i++) {
        const eval_question *q = &quiz.questions[i];
        plain p = prompt_of(q);
        answer_plainly(v, &p, answers->n_max);
        size_t n = p.n - p.n_prompt;
        const int32_t *reference = quiz.ids + q->first + q->n_prompt;
        bool right = n >= q->n_answer &&
                     memcmp(p.ids + p.n_prompt, reference, q->n_answer * sizeof *reference) == 0;
        assert_int_equal(shoal_forge_is_right(&quiz, answers, i), right);
        n_right += right;
        /* References of right answers end where the model does, but for those cut off. */
        n = right ? q->n_answer : n;
        assert_int_equal(answers->n_ids[i], n);
        assert_memory_equal(answers->ids + i * answers->n_max, p.ids + p.n_prompt,
                            n * sizeof *reference);
    }
    print_message("%zu of %zu right\n", n_right, quiz.n);
    assert_true(n_right > 0 && n_right < quiz.n);
}

static void test_one_pass_equals_greedy_generation(void **state)
{
    (void)state;
    check_answers(&voices[1], &full_answers);
    check_answers(&voices[0], &edge_answers);
}

static void test_said_is_what_logits_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < quiz.n; i += 5) {
        const eval_question *q = &quiz.questions[i];
        plain p = prompt_of(q);
        for (size_t j = 0; j < q->n_answer; j++) {
            const eval_said *said = &edge_answers.said[q->said_i + j];
            const float *logits = listen(&voices[0], &p);
            int32_t target = quiz.ids[q->first + q->n_prompt + j];
            double sum = 0;
            for (size_t t = 0; t < SHOAL_TINY_VOCAB; t++) {
                sum += exp((double)logits[t] - (double)logits[target]);
            }
            assert_true(fabs(said->nll - log(sum)) <= 1e-9 * (1 + log(sum)));
            assert_true(said->confidence == confidence(&voices[0], logits));
            p.ids[p.n++] = target;
        }
    }
}

static void test_summary_counts_kinds_and_all(void **state)
{
    (void)state;
    eval_summary s[N_KINDS + 1];
    assert_int_equal(
        shoal_forge_summarise(&quiz, voices[1].model->tokenizer, &full_answers, s, NULL), SHOAL_OK);
    size_t n = 0;
    size_t n_right = 0;
    for (size_t k = 0; k < N_KINDS; k++) {
        n += s[k].n;
        n_right += s[k].n_right;
    }
    size_t n_tokens_right = 0;
    double nll = 0;
    for (size_t i = 0; i < quiz.n; i++) {
        const eval_question *q = &quiz.questions[i];
        for (size_t j = 0; j < q->n_answer; j++) {
            const eval_said *said = &full_answers.said[q->said_i + j];
            n_tokens_right += said->id == quiz.ids[q->first + q->n_prompt + j];
            nll += said->nll;
        }
    }
    const eval_summary *all = &s[N_KINDS];
    assert_true(n == quiz.n && all->n == n && all->n_right == n_right);
    assert_int_equal(all->n_tokens, quiz.n_said);
    assert_true(fabs(all->accuracy - (double)n_tokens_right / (double)quiz.n_said) < 1e-12);
    assert_true(fabs(log(all->perplexity) - nll / (double)quiz.n_said) < 1e-9);
    assert_true(all->exact.value == (double)n_right / (double)n);
    assert_true(fabs(all->weighted.value - all->exact.value) < 1e-12);
}

/* --- two models ---------------------------------------------------------------------------------
 */

/* Token by token, both models on the text so far. */
static void mix_plainly(float threshold, eval_mix *ret_mixes)
{
    memset(ret_mixes, 0, (N_KINDS + 1) * sizeof *ret_mixes);
    for (size_t i = 0; i < quiz.n; i++) {
        const eval_question *q = &quiz.questions[i];
        plain p = prompt_of(q);
        size_t n_cloud = 0;
        const int32_t *reference = quiz.ids + q->first + q->n_prompt;
        bool right = false;
        while (!right && !ended(&p, full_answers.n_max)) {
            const float *logits = listen(&voices[0], &p);
            int32_t id = argmax(logits);
            if (confidence(&voices[0], logits) < threshold) {
                id = argmax(listen(&voices[1], &p));
                n_cloud++;
            }
            p.ids[p.n++] = id;
            right = p.n - p.n_prompt == q->n_answer &&
                    memcmp(p.ids + p.n_prompt, reference, q->n_answer * sizeof *reference) == 0;
        }
        size_t n = p.n - p.n_prompt;
        bool full_right = shoal_forge_is_right(&quiz, &full_answers, i);
        bool same = n == full_answers.n_ids[i] &&
                    memcmp(p.ids + p.n_prompt, full_answers.ids + i * full_answers.n_max,
                           n * sizeof *reference) == 0;
        const size_t groups[] = {q->kind, N_KINDS};
        for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
            eval_mix *m = &ret_mixes[groups[g]];
            m->n++;
            m->n_right += right;
            m->n_lost += full_right && !right;
            m->n_gained += right && !full_right;
            m->n_same += same;
            m->n_tokens += n;
            m->n_cloud += n_cloud;
            m->n_touched += n_cloud > 0;
        }
    }
}

static void test_mix_equals_combined_generation(void **state)
{
    (void)state;
    const double shares[] = {0, 0.1, 0.4, 0.8, 1};
    float work[N_QUESTIONS * ANSWER_MAX];
    size_t n_last = quiz.n;
    for (size_t s = 0; s < SHOAL_COUNT(shares); s++) {
        float threshold = shoal_forge_threshold_at(&quiz, &edge_answers, shares[s], work);
        eval_mix fast[N_KINDS + 1];
        eval_mix slow[N_KINDS + 1];
        assert_int_equal(shoal_forge_mix(&pair, threshold, quiz.n, fast, NULL), SHOAL_OK);
        mix_plainly(threshold, slow);
        for (size_t k = 0; k <= N_KINDS; k++) {
            slow[k].threshold = threshold;
            assert_memory_equal(&fast[k], &slow[k], sizeof fast[k]);
        }
        const eval_mix *all = &fast[N_KINDS];
        assert_true(all->n_lost <= n_last);
        n_last = all->n_lost;
        assert_true(shares[s] > 0 || all->n_cloud == 0);
        assert_true(shares[s] < 1 || (all->n_cloud == all->n_tokens && all->n_same == all->n));
        /* With few tails told, what is decided along the reference is the same. */
        eval_mix few[N_KINDS + 1];
        assert_int_equal(shoal_forge_mix(&pair, threshold, 5, few, NULL), SHOAL_OK);
        for (size_t k = 0; k <= N_KINDS; k++) {
            assert_true(few[k].n == fast[k].n && few[k].n_right == fast[k].n_right);
            assert_true(few[k].n_lost == fast[k].n_lost && few[k].n_gained == fast[k].n_gained);
            assert_true(few[k].n_same <= few[k].n);
        }
    }
}

static void test_threshold_at_sends_the_share_asked_for(void **state)
{
    (void)state;
    float work[N_QUESTIONS * ANSWER_MAX];
    for (size_t n = 1; n < quiz.n_said; n += 17) {
        float t =
            shoal_forge_threshold_at(&quiz, &edge_answers, (double)n / (double)quiz.n_said, work);
        size_t n_below = 0;
        size_t n_ties = 0;
        for (size_t i = 0; i < quiz.n_said; i++) {
            n_below += edge_answers.said[i].confidence < t;
            n_ties += nextafterf(edge_answers.said[i].confidence, 2) == t;
        }
        assert_true(n_below >= n && n_below - n < SHOAL_MAX(n_ties, (size_t)1));
    }
}

/* Losses at the threshold are within what is allowed, and just below it they are not. */
static void test_pick_is_the_least_threshold(void **state)
{
    (void)state;
    eval_mix m[N_KINDS + 1];
    size_t n_full = 0;
    for (size_t i = 0; i < quiz.n; i++) {
        n_full += shoal_forge_is_right(&quiz, &full_answers, i);
    }
    size_t n_real = 0;
    for (size_t n_losses = 0; n_losses < n_full; n_losses += 1 + n_losses / 4) {
        double allowed = shoal_forge_wilson(n_losses, n_full).high + 1e-9;
        float threshold = -1;
        assert_int_equal(shoal_forge_pick(&pair, allowed, &threshold, NULL), SHOAL_OK);
        assert_int_equal(shoal_forge_mix(&pair, threshold, quiz.n, m, NULL), SHOAL_OK);
        assert_true(m[N_KINDS].n_lost <= n_losses);
        if (threshold > 0) {
            n_real++;
            threshold = nextafterf(threshold, -1);
            assert_int_equal(shoal_forge_mix(&pair, threshold, quiz.n, m, NULL), SHOAL_OK);
            assert_true(m[N_KINDS].n_lost > n_losses);
        }
    }
    assert_true(n_real > 0);
}

static void test_pick_refuses_what_it_cannot_show(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    float threshold = -1;
    assert_int_equal(shoal_forge_pick(&pair, 0.005, &threshold, &err), SHOAL_E_INVALID);
    assert_true(threshold == -1);
    assert_non_null(strstr(err.text, "ask more"));
}

static void test_acceptance_equals_plain_counting(void **state)
{
    (void)state;
    const double t = 0.8;
    eval_accepted fast[N_KINDS + 1];
    assert_int_equal(shoal_forge_accept(&pair, t, 1000, quiz.n, fast, NULL), SHOAL_OK);
    size_t n_greedy = 0;
    size_t n_same = 0;
    size_t n_coupled = 0;
    size_t n_agree = 0;
    for (size_t i = 0; i < quiz.n; i++) {
        plain p = prompt_of(&quiz.questions[i]);
        for (size_t j = 0; j < full_answers.n_ids[i]; j++) {
            int32_t id = full_answers.ids[i * full_answers.n_max + j];
            n_same += argmax(listen(&voices[0], &p)) == id;
            p.ids[p.n++] = id;
            n_greedy++;
        }
        p.n = p.n_prompt;
        while (!ended(&p, full_answers.n_max)) {
            shoal_sampling settings = shoal_sampling_default();
            shoal_sampled own[2];
            settings.temperature = (float)t;
            settings.seed = 1000 + i;
            for (size_t v = 0; v < 2; v++) {
                shoal_sample(voices[v].samplers[0], &settings, listen(&voices[v], &p), p.ids, p.n,
                             &own[v]);
            }
            n_agree += own[0].id == own[1].id;
            p.ids[p.n++] = own[1].id;
            n_coupled++;
        }
    }
    const eval_accepted *all = &fast[N_KINDS];
    assert_true(all->n_greedy == n_greedy && all->n_greedy_accepted == n_same);
    assert_true(all->n_coupled == n_coupled && all->n_coupled_accepted == n_agree);
    print_message("coupled %.3f, bound %.3f\n", (double)n_agree / (double)n_coupled, all->bound);
    assert_true(all->tv > 0 && all->tv < 1 && all->bound > 0 && all->bound < 1);
    /* The bound is of the expectation: some standard errors of slack. */
    assert_true((double)n_agree / (double)n_coupled > all->bound - 2 / sqrt((double)n_coupled));
}

/* --- exits --------------------------------------------------------------------------------------
 */

typedef struct heard {
    int32_t ids[8];
} heard;

static shoal_status hear(void *ctx, size_t position, size_t head, const float *logits)
{
    (void)position;
    ((heard *)ctx)->ids[head] = argmax(logits);
    return SHOAL_OK;
}

static void test_exits_answer_as_when_left_there_for_every_token(void **state)
{
    (void)state;
    forge_session session = {
        .model = models[0], .engine = voices[0].engine, .seq = voices[0].seqs[0]};
    eval_answers answers = {0};
    forge_depths *depths = NULL;
    assert_int_equal(shoal_forge_answer_exit(&args, models[0], 0, TEXT_MAX, &quiz, &answers, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_forge_depths_new(&session, 2, &depths, NULL), SHOAL_OK);
    for (size_t i = 0; i < quiz.n; i += 3) {
        plain p = prompt_of(&quiz.questions[i]);
        bool right = shoal_forge_is_right(&quiz, &answers, i);
        size_t n_max = right ? quiz.questions[i].n_answer : answers.n_max;
        while (!ended(&p, n_max)) {
            heard h;
            assert_int_equal(shoal_forge_depths_run(depths, p.ids, p.n, p.n - 1, hear, &h, NULL),
                             SHOAL_OK);
            p.ids[p.n++] = h.ids[0];
        }
        assert_int_equal(answers.n_ids[i], p.n - p.n_prompt);
        assert_memory_equal(answers.ids + i * answers.n_max, p.ids + p.n_prompt,
                            (p.n - p.n_prompt) * sizeof *p.ids);
    }
    shoal_forge_depths_free(depths);
    shoal_forge_answers_fini(&answers);
}

/* Where nothing leaves: the answers of the wide pass. */
static void test_leaving_answers_token_by_token_as_the_wide_passes_do(void **state)
{
    (void)state;
    shoal_exit_rule rule = {.on = true, .policy = {.kind = SHOAL_EXIT_FIXED, .threshold = 2}};
    eval_leaving deep;
    eval_leaving never;
    eval_leaving always;
    size_t n_right = 0;
    assert_int_equal(shoal_forge_answer_leaving(&voices[0], NULL, 4, &quiz, &deep, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_answer_leaving(&voices[0], &rule, 4, &quiz, &never, NULL),
                     SHOAL_OK);
    rule.policy.threshold = 0;
    assert_int_equal(shoal_forge_answer_leaving(&voices[0], &rule, 4, &quiz, &always, NULL),
                     SHOAL_OK);
    for (size_t i = 0; i < quiz.n; i++) {
        n_right += shoal_forge_is_right(&quiz, &edge_answers, i);
    }
    assert_int_equal(deep.n_right, n_right);
    assert_int_equal(never.n_right, n_right);
    assert_int_equal(never.n_tokens, deep.n_tokens);
    assert_int_equal(never.bytes_layers, deep.bytes_layers);
    assert_int_equal(never.n_by_exit[0] + deep.n_by_exit[0], 0);
    /* One in five has no place to wait and goes deep. */
    assert_true(always.n_by_exit[0] > always.n_by_exit[1]);
    assert_true(always.bytes_layers < deep.bytes_layers);
    assert_true(always.n_checked > 0 && always.n_agreed < always.n_checked);
    assert_int_equal(always.n_by_exit[0] + always.n_by_exit[1], always.n_tokens);
}

/* --- limits -------------------------------------------------------------------------------------
 */

static void test_failing_allocations_are_reported(void **state)
{
    (void)state;
    uint64_t n = 0;
    shoal_status status = SHOAL_E_NOMEM;
    for (; status != SHOAL_OK; n++) {
        eval_answers a = {0};
        eval_mix m[N_KINDS + 1];
        eval_accepted accepted[N_KINDS + 1];
        shoal_mem_fail_at(n);
        status = shoal_forge_answer(&voices[0], &quiz, &a, NULL);
        if (status == SHOAL_OK) {
            status = shoal_forge_mix(&pair, 0.5F, 4, m, NULL);
        }
        if (status == SHOAL_OK) {
            status = shoal_forge_accept(&pair, 0.8, 0, 2, accepted, NULL);
        }
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || status == SHOAL_E_NOMEM);
        shoal_forge_answers_fini(&a);
    }
    assert_true(n > 20);
}

static void test_a_text_longer_than_the_context_is_refused(void **state)
{
    (void)state;
    const shoal_tiny_settings s = {.seed = 1, .type = SHOAL_TYPE_F32};
    for (size_t n = SHOAL_TINY_CTX - 1; n <= SHOAL_TINY_CTX + 1; n++) {
        eval_voice v = {0};
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = make_model(&s);
        shoal_status status = shoal_forge_voice_open(&args, model, n, &v, &err);
        assert_int_equal(status, n > SHOAL_TINY_CTX ? SHOAL_E_LIMIT : SHOAL_OK);
        shoal_forge_voice_close(&v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_pass_equals_greedy_generation),
        cmocka_unit_test(test_said_is_what_logits_say),
        cmocka_unit_test(test_summary_counts_kinds_and_all),
        cmocka_unit_test(test_mix_equals_combined_generation),
        cmocka_unit_test(test_threshold_at_sends_the_share_asked_for),
        cmocka_unit_test(test_pick_is_the_least_threshold),
        cmocka_unit_test(test_pick_refuses_what_it_cannot_show),
        cmocka_unit_test(test_acceptance_equals_plain_counting),
        cmocka_unit_test(test_exits_answer_as_when_left_there_for_every_token),
        cmocka_unit_test(test_leaving_answers_token_by_token_as_the_wide_passes_do),
        cmocka_unit_test(test_failing_allocations_are_reported),
        cmocka_unit_test(test_a_text_longer_than_the_context_is_refused),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
