/* SPDX-License-Identifier: Apache-2.0
 *
 * A step: every part computes the sum of its gradients, unscaled, into a block of its own; the
 * blocks are added in the order of the parts and divided by the weight of all targets, which is
 * known only then; one step of the optimiser. A net is scratch memory, so it belongs to a thread.
 */
#include "common/train/trainer_internal.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

enum {
    PIECE = 65536 /* floats that are added by one thread at a time */
};

/* "SHLD": keeps layer dropout apart from other uses of Philox with the same key. */
#define DROPOUT_DOMAIN 0x53484C44u

shoal_trainer_settings shoal_trainer_settings_default(void)
{
    return (shoal_trainer_settings){.n_threads = 1,
                                    .n_parts = 1,
                                    .n_tokens_max = 1024,
                                    .n_targets_max = 1024,
                                    .optim = shoal_optim_settings_default(),
                                    .distil = {.alpha = 1, .temperature = 1},
                                    .minillm = shoal_minillm_default(),
                                    .end_id = -1};
}

/* --- what must hold -------------------------------------------------------------------------- */

static bool is_share(float x)
{
    return x >= 0 && x < 1;
}

static shoal_status check_optim(const shoal_optim_settings *o, shoal_err *err)
{
    const float amounts[] = {o->muon_rate, o->adam_rate, o->weight_decay, o->clip};
    bool good = is_share(o->beta1) && is_share(o->beta2) && is_share(o->momentum) &&
                o->final_share >= 0 && o->final_share <= 1;
    for (size_t i = 0; i < SHOAL_COUNT(amounts); i++) {
        good = good && amounts[i] >= 0 && isfinite(amounts[i]);
    }
    if (!good) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "the optimiser wants finite rates, decay and clip of at least 0, and "
                             "betas, momentum and final share below 1");
    }
    return SHOAL_OK;
}

static shoal_status check_settings(const shoal_params *params, const shoal_params *teacher,
                                   const shoal_trainer_settings *s, shoal_err *err)
{
    if (s->n_threads < 1 || s->n_threads > SHOAL_POOL_THREADS_MAX || s->n_parts < 1) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "training wants 1 to %d threads and a part, not %zu and %zu",
                             SHOAL_POOL_THREADS_MAX, s->n_threads, s->n_parts);
    }
    if (s->lora && s->recover) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "an adapter and a compressed model are not trained together");
    }
    if (s->n_tokens_max < 1 || s->n_targets_max < 1 || s->n_targets_max > s->n_tokens_max) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a batch of %zu tokens cannot have %zu targets: give it from one to "
                             "all of its tokens",
                             s->n_tokens_max, s->n_targets_max);
    }
    if (!(s->distil.alpha >= 0 && s->distil.alpha <= 1) || !(s->distil.temperature > 0) ||
        !isfinite(s->distil.temperature)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "distillation wants alpha in [0, 1] and a temperature above 0, not "
                             "%g and %g",
                             (double)s->distil.alpha, (double)s->distil.temperature);
    }
    if (!(s->layer_dropout >= 0 && s->layer_dropout < 1)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "layer dropout is in [0, 1), not %g",
                             (double)s->layer_dropout);
    }
    if (s->on_policy &&
        (!teacher || s->n_targets_max != s->n_tokens_max || !is_share(s->minillm.mix))) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "a student that answers itself needs a teacher, as many targets as "
                             "tokens (%zu, not %zu) and a mix in [0, 1), not %g",
                             s->n_tokens_max, s->n_targets_max, (double)s->minillm.mix);
    }
    SHOAL_TRY(check_optim(&s->optim, err));
    for (size_t i = 0; i < params->n_exits; i++) {
        if (!(s->exit_weight[i] >= 0) || !isfinite(s->exit_weight[i])) {
            return shoal_err_set(err, SHOAL_E_INVALID, "exit %zu cannot have the weight %g", i,
                                 (double)s->exit_weight[i]);
        }
    }
    if (teacher && teacher->hp.n_vocab != params->hp.n_vocab) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "the teacher has %zu tokens, the student %zu: they must share a "
                             "tokenizer",
                             teacher->hp.n_vocab, params->hp.n_vocab);
    }
    return SHOAL_OK;
}

static shoal_status check_batch(const shoal_trainer *t, const shoal_train_batch *b, shoal_err *err)
{
    const shoal_trainer_settings *s = &t->settings;
    if (b->batch.n_tokens < 1 || b->batch.n_tokens > s->n_tokens_max || b->batch.n_targets < 1 ||
        b->batch.n_targets > s->n_targets_max) {
        return shoal_err_set(
            err, SHOAL_E_LIMIT, "a batch of %zu tokens and %zu targets; the limits are %zu and %zu",
            b->batch.n_tokens, b->batch.n_targets, s->n_tokens_max, s->n_targets_max);
    }
    return SHOAL_OK;
}

/* --- life ------------------------------------------------------------------------------------ */

static shoal_status make_worker(const shoal_trainer *t, shoal_train_worker *worker)
{
    const shoal_trainer_settings *s = &t->settings;
    SHOAL_TRY(shoal_net_new(t->params, s->n_tokens_max, s->n_targets_max, &worker->net));
    if (t->teacher) {
        SHOAL_TRY(shoal_net_new(t->teacher, s->n_tokens_max, s->n_targets_max, &worker->teacher));
    }
    if (s->on_policy) {
        SHOAL_TRY(shoal_rollout_new(s->n_tokens_max, &worker->rollout));
    }
    worker->weights = shoal_calloc(s->n_targets_max, sizeof *worker->weights);
    return worker->weights ? SHOAL_OK : SHOAL_E_NOMEM;
}

static shoal_status make_all(shoal_trainer *t)
{
    const shoal_trainer_settings *s = &t->settings;
    t->workers = shoal_calloc(s->n_threads, sizeof *t->workers);
    t->parts = shoal_calloc(s->n_parts, sizeof *t->parts);
    if (!t->workers || !t->parts) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_TRY(shoal_optim_new(t->stepped, &s->optim, &t->optim));
    SHOAL_TRY(shoal_pool_new(s->n_threads, &t->pool));
    for (size_t i = 0; i < s->n_threads; i++) {
        SHOAL_TRY(make_worker(t, &t->workers[i]));
    }
    for (size_t i = 0; i < s->n_parts; i++) {
        t->parts[i].grads = shoal_params_block(t->params);
        if (!t->parts[i].grads) {
            return SHOAL_E_NOMEM;
        }
    }
    if (t->stepped != t->params) {
        t->behind_grads = shoal_params_block(t->stepped);
        return t->behind_grads ? SHOAL_OK : SHOAL_E_NOMEM;
    }
    return SHOAL_OK;
}

shoal_status shoal_trainer_new(shoal_params *params, const shoal_params *teacher,
                               const shoal_trainer_settings *settings, shoal_trainer **ret_trainer,
                               shoal_err *err)
{
    SHOAL_TRY(check_settings(params, teacher, settings, err));
    SHOAL_CLEANUP(shoal_trainer_freep) shoal_trainer *t = shoal_calloc(1, sizeof *t);
    if (!t) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the trainer");
    }
    t->params = params;
    t->stepped = settings->lora      ? shoal_lora_train_params(settings->lora)
                 : settings->recover ? shoal_recover_params(settings->recover)
                                     : params;
    t->settings = *settings;
    if (!teacher) {
        t->settings.distil.alpha = 1;
    }
    if (t->settings.distil.alpha < 1 || settings->on_policy) {
        t->teacher = teacher;
    }
    /* Threads beyond the parts would need a net each and have nothing to do with it. */
    t->settings.n_threads = SHOAL_MIN(t->settings.n_threads, t->settings.n_parts);
    shoal_status status = make_all(t);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status,
                             "no memory to train %zu numbers in %zu parts of %zu tokens: use "
                             "fewer parts, threads or tokens",
                             params->n_floats, settings->n_parts, settings->n_tokens_max);
    }
    *ret_trainer = SHOAL_STEAL(t);
    return SHOAL_OK;
}

void shoal_trainer_free(shoal_trainer *trainer)
{
    if (!trainer) {
        return;
    }
    shoal_pool_free(trainer->pool);
    for (size_t i = 0; trainer->workers && i < trainer->settings.n_threads; i++) {
        shoal_net_free(trainer->workers[i].net);
        shoal_net_free(trainer->workers[i].teacher);
        shoal_rollout_free(trainer->workers[i].rollout);
        shoal_free(trainer->workers[i].weights);
    }
    for (size_t i = 0; trainer->parts && i < trainer->settings.n_parts; i++) {
        shoal_free(trainer->parts[i].grads);
    }
    shoal_optim_free(trainer->optim);
    shoal_free(trainer->behind_grads);
    shoal_free(trainer->workers);
    shoal_free(trainer->parts);
    shoal_free(trainer);
}

uint64_t shoal_trainer_step_i(const shoal_trainer *trainer)
{
    return trainer->optim->step;
}

uint64_t shoal_trainer_n_steps(const shoal_trainer *trainer)
{
    return trainer->optim->settings.n_steps;
}

/* --- a part ---------------------------------------------------------------------------------- */

/* Which layers this part of this step leaves out. */
static void choose_layers(const shoal_trainer *t, size_t part_i,
                          uint64_t skip[SHOAL_TRAIN_SKIP_WORDS])
{
    const shoal_trainer_settings *s = &t->settings;
    size_t n_layers = t->params->hp.n_layers;
    uint64_t step = t->optim->step;
    const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
    memset(skip, 0, SHOAL_TRAIN_SKIP_WORDS * sizeof *skip);
    for (size_t l = 1; l < n_layers && s->layer_dropout > 0; l++) {
        double depth = (double)l / (double)(n_layers - 1);
        double share = (double)s->layer_dropout * (shoal_expd(depth * 0.69314718055994531) - 1.0);
        const uint32_t counter[4] = {(uint32_t)step, (uint32_t)part_i, (uint32_t)l,
                                     DROPOUT_DOMAIN ^ (uint32_t)(step >> 32)};
        uint32_t words[4];
        shoal_philox4x32_10(counter, key, words);
        if (((double)words[0] + 0.5) * 0x1p-32 < share) {
            skip[l / 64] |= (uint64_t)1 << (l % 64);
        }
    }
}

/* The loss of one head; its logits are a gradient afterwards. */
static double head_loss(const shoal_trainer *t, shoal_train_worker *w, const shoal_train_batch *b,
                        size_t head, float share, const float *teacher)
{
    size_t n = b->batch.n_targets;
    const float *weights = b->weights;
    if (share != 1.0F) {
        for (size_t i = 0; i < n; i++) {
            w->weights[i] = b->weights[i] * share;
        }
        weights = w->weights;
    }
    float *logits = shoal_net_logits(w->net, head);
    double loss = shoal_loss_distil(n, t->params->hp.n_vocab, &t->settings.distil, b->target_ids,
                                    teacher, weights, logits);
    return loss / (double)share;
}

/* Targets that are given: the source's tokens follow. */
static void compute_given(const shoal_trainer *t, shoal_train_worker *w, const shoal_train_batch *b,
                          shoal_train_part *part)
{
    size_t n_exits = t->params->n_exits;
    const float *teacher = NULL;
    if (t->teacher) {
        shoal_net_forward(w->teacher, t->teacher, &b->batch);
        teacher = shoal_net_logits(w->teacher, t->teacher->n_exits);
    }
    shoal_net_forward(w->net, t->params, &b->batch);
    for (size_t head = 0; head <= n_exits; head++) {
        float share = head == n_exits ? 1.0F : t->settings.exit_weight[head];
        part->loss[head] = share > 0 ? head_loss(t, w, b, head, share, teacher) : 0;
    }
    shoal_net_backward(w->net, t->params, &b->batch, part->grads);
    part->weight = 0;
    for (size_t i = 0; i < b->batch.n_targets; i++) {
        part->weight += (double)b->weights[i];
    }
    part->n_tokens = b->batch.n_tokens;
    part->n_targets = b->batch.n_targets;
}

/* The student answers. Its exits follow the teacher token by token on the same answers; a token of
 * theirs weighs as much as makes one of an answer. */
static void compute_answers(const shoal_trainer *t, shoal_train_worker *w,
                            const shoal_train_batch *b, size_t part_i, shoal_train_part *part)
{
    const shoal_trainer_settings *s = &t->settings;
    size_t n_exits = t->params->n_exits;
    const shoal_rollout_models models = {.student_net = w->net,
                                         .student = t->params,
                                         .teacher_net = w->teacher,
                                         .teacher = t->teacher};
    shoal_rollout_draw(w->rollout, &s->minillm, &models, &b->batch, s->end_id, s->seed,
                       t->optim->step * s->n_parts + part_i);
    part->loss[n_exits] = shoal_rollout_loss(w->rollout, &s->minillm, &models);
    const shoal_batch *batch = shoal_rollout_batch(w->rollout);
    size_t n_answers = shoal_rollout_n_answers(w->rollout);
    for (size_t head = 0; head < n_exits; head++) {
        float share = s->exit_weight[head];
        part->loss[head] = 0;
        for (size_t i = 0; i < batch->n_targets && share > 0; i++) {
            w->weights[i] = share * (float)n_answers / (float)batch->n_targets;
        }
        if (share > 0) {
            part->loss[head] = shoal_loss_reverse_kl(batch->n_targets, t->params->hp.n_vocab,
                                                     shoal_rollout_teacher_logits(w->rollout), 1.0F,
                                                     w->weights, shoal_net_logits(w->net, head)) /
                               (double)share;
        }
    }
    shoal_net_backward(w->net, t->params, batch, part->grads);
    part->weight = (double)n_answers;
    part->n_tokens = batch->n_tokens;
    part->n_targets = batch->n_targets;
}

static uint64_t flops_of(const shoal_train_worker *w)
{
    return shoal_net_flops(w->net) + (w->teacher ? shoal_net_flops(w->teacher) : 0);
}

static void compute_part(const shoal_trainer *t, shoal_train_worker *w, const shoal_train_batch *b,
                         size_t part_i, shoal_train_part *part)
{
    uint64_t skip[SHOAL_TRAIN_SKIP_WORDS];
    uint64_t before = flops_of(w);
    choose_layers(t, part_i, skip);
    shoal_net_skip(w->net, t->settings.layer_dropout > 0 ? skip : NULL);
    memset(part->grads, 0, t->params->n_floats * sizeof *part->grads);
    if (t->settings.on_policy) {
        compute_answers(t, w, b, part_i, part);
    } else {
        compute_given(t, w, b, part);
    }
    part->flops = flops_of(w) - before;
}

static void run_part(void *ctx, size_t part_i, size_t worker_i)
{
    shoal_trainer *t = ctx;
    shoal_train_part *part = &t->parts[part_i];
    shoal_train_batch b = {0};
    shoal_err_clear(&part->err);
    part->status = t->source(t->source_ctx, t->optim->step, part_i, &b);
    if (part->status == SHOAL_OK) {
        part->status = check_batch(t, &b, &part->err);
    }
    if (part->status == SHOAL_OK) {
        compute_part(t, &t->workers[worker_i], &b, part_i, part);
    }
}

/* --- the step -------------------------------------------------------------------------------- */

static void add_piece(void *ctx, size_t part_i, size_t worker_i)
{
    (void)worker_i;
    shoal_trainer *t = ctx;
    size_t begin = part_i * PIECE;
    size_t end = SHOAL_MIN(begin + PIECE, t->params->n_floats);
    float *sum = t->parts[0].grads;
    for (size_t p = 1; p < t->settings.n_parts; p++) {
        const float *more = t->parts[p].grads;
        for (size_t i = begin; i < end; i++) {
            sum[i] += more[i];
        }
    }
    for (size_t i = begin; i < end; i++) {
        sum[i] *= t->scale;
    }
}

static shoal_status first_failure(shoal_trainer *t, shoal_err *err)
{
    for (size_t p = 0; p < t->settings.n_parts; p++) {
        const shoal_train_part *part = &t->parts[p];
        if (part->status != SHOAL_OK) {
            return shoal_err_set(
                err, part->status, "step %llu, part %zu: %s", (unsigned long long)t->optim->step, p,
                part->err.text[0] ? part->err.text : shoal_status_text(part->status));
        }
    }
    return SHOAL_OK;
}

/* Sums over the parts; the weight of all targets is left in *ret_weight. */
static shoal_train_stats sum_up(const shoal_trainer *t, double *ret_weight)
{
    shoal_train_stats stats = {0};
    size_t n_exits = t->params->n_exits;
    double weight = 0;
    for (size_t p = 0; p < t->settings.n_parts; p++) {
        const shoal_train_part *part = &t->parts[p];
        weight += part->weight;
        stats.loss += part->loss[n_exits];
        for (size_t i = 0; i < n_exits; i++) {
            stats.exit_loss[i] += part->loss[i];
        }
        stats.n_tokens += part->n_tokens;
        stats.n_targets += part->n_targets;
        stats.flops += part->flops;
    }
    stats.loss /= weight;
    for (size_t i = 0; i < n_exits; i++) {
        stats.exit_loss[i] /= weight;
    }
    *ret_weight = weight;
    return stats;
}

/* One step of the optimiser from the sum of all gradients. */
static shoal_status step_optim(shoal_trainer *t, shoal_train_stats *stats, shoal_err *err)
{
    float *grads = t->parts[0].grads;
    if (t->settings.lora) {
        shoal_lora_train_project(t->settings.lora, grads, t->behind_grads, t->pool);
        grads = t->behind_grads;
    } else if (t->settings.recover) {
        shoal_recover_project(t->settings.recover, grads, t->behind_grads, t->pool);
        grads = t->behind_grads;
    }
    shoal_status status = shoal_optim_step(t->optim, t->stepped, grads, t->pool, &stats->grad_norm);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status,
                             status == SHOAL_E_INVALID
                                 ? "step %llu: the gradients are not finite (loss %g): begin "
                                   "again with lower rates"
                                 : "step %llu: no memory for the optimiser (loss %g)",
                             (unsigned long long)t->optim->step, stats->loss);
    }
    stats->step = t->optim->step;
    return SHOAL_OK;
}

shoal_status shoal_trainer_step(shoal_trainer *trainer, shoal_train_source *source, void *ctx,
                                shoal_train_stats *ret_stats, shoal_err *err)
{
    shoal_trainer *t = trainer;
    t->source = source;
    t->source_ctx = ctx;
    if (t->settings.lora) {
        shoal_lora_train_merge(t->settings.lora, t->pool);
    } else if (t->settings.recover) {
        shoal_recover_round(t->settings.recover, t->pool);
    }
    shoal_pool_run(t->pool, run_part, t, t->settings.n_parts);
    SHOAL_TRY(first_failure(t, err));
    double weight = 0;
    shoal_train_stats stats = sum_up(t, &weight);
    if (!(weight > 0) || !isfinite(stats.loss)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "step %llu: the loss is %g over targets of weight %g: begin again "
                             "with lower rates",
                             (unsigned long long)t->optim->step, stats.loss, weight);
    }
    t->scale = (float)(1.0 / weight);
    shoal_pool_run(t->pool, add_piece, t, (t->params->n_floats + PIECE - 1) / PIECE);
    SHOAL_TRY(step_optim(t, &stats, err));
    *ret_stats = stats;
    return SHOAL_OK;
}
