/* SPDX-License-Identifier: Apache-2.0
 *
 * `train`: runs the trainer over the feed until the schedule ends or a signal comes. Whatever ends
 * it, the last checkpoint and the model so far are on disk, and the same command goes on.
 */
#include "cloud/forge/progress.h"
#include "cloud/forge/train_plan.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum {
    TRIAL_STEPS_MIN = 3,
    TRIAL_MS = 4000, /* --minutes measures for so long */
    WARMUP_SHARE = 50
};

/* A signal handler can reach nothing else. */
static volatile sig_atomic_t stop_wanted;

static void on_signal(int number)
{
    (void)number;
    stop_wanted = 1;
}

static void catch_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART | (int)SA_RESETHAND; /* the second one ends the process */
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
}

static uint64_t now_ms(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

/* --- how many steps are so many minutes ------------------------------------------------------ */

/* Milliseconds of a step, from a trial that leaves the parameters as they were. */
static shoal_status time_step(forge_train_plan *plan, double *ret_ms, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_trainer_freep) shoal_trainer *trainer = NULL;
    shoal_params *stepped = plan->lora      ? shoal_lora_train_params(plan->lora)
                            : plan->recover ? shoal_recover_params(plan->recover)
                                            : plan->params;
    SHOAL_CLEANUP(shoal_free_cleanup) float *before = shoal_params_block(stepped);
    size_t n_bytes = stepped->n_floats * sizeof *before;
    if (!before) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the trial");
    }
    memcpy(before, stepped->data, n_bytes);
    SHOAL_TRY(shoal_trainer_new(plan->params, plan->teacher, &plan->settings, &trainer, err));
    uint64_t begin_ms = 0;
    uint64_t spent_ms = 0;
    size_t n = 0;
    shoal_status status = SHOAL_OK;
    while (status == SHOAL_OK && !stop_wanted && (n <= TRIAL_STEPS_MIN || spent_ms < TRIAL_MS)) {
        shoal_train_stats stats;
        status = shoal_trainer_step(trainer, shoal_forge_feed_batch, plan->feed, &stats, err);
        /* The first step touches all memory for the first time, so it is not counted. */
        begin_ms = n == 0 ? now_ms() : begin_ms;
        spent_ms = now_ms() - begin_ms;
        n++;
    }
    memcpy(stepped->data, before, n_bytes);
    *ret_ms = n > 1 ? fmax((double)spent_ms, 1.0) / (double)(n - 1) : 1.0;
    return status;
}

static shoal_status choose_steps(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    double ms = 0;
    shoal_optim_settings *o = &plan->settings.optim;
    SHOAL_TRY(time_step(plan, &ms, err));
    o->n_steps = (uint64_t)fmax(1.0, args->train.minutes * 60000.0 / ms);
    if (args->train.warmup < 0) {
        o->n_warmup = o->n_steps / WARMUP_SHARE;
    }
    return SHOAL_OK;
}

/* --- the run --------------------------------------------------------------------------------- */

typedef struct run {
    const forge_args *args;
    forge_train_plan plan;
    shoal_trainer *trainer;
    shoal_forge_progress progress;
    uint64_t n_tokens;
    double last_loss;
} run;

static void run_close(run *r)
{
    shoal_forge_progress_close(&r->progress);
    shoal_trainer_free(r->trainer);
    shoal_forge_train_plan_close(&r->plan);
}

static shoal_status save(run *r, shoal_err *err)
{
    if (r->args->train.checkpoint) {
        SHOAL_TRY(shoal_trainer_save(r->trainer, r->args->train.checkpoint, err));
    }
    if (r->plan.lora) {
        return shoal_lora_train_write(r->plan.lora, r->args->output, err);
    }
    if (r->plan.recover) {
        return shoal_recover_write(r->plan.recover, r->args->output, err);
    }
    return shoal_params_write(r->plan.params, r->plan.gguf, r->args->output, err);
}

static shoal_status begin(run *r, shoal_err *err)
{
    const forge_args *args = r->args;
    const char *checkpoint = args->train.checkpoint;
    bool resumes = checkpoint && access(checkpoint, F_OK) == 0;
    SHOAL_TRY(shoal_forge_train_plan_open(args, &r->plan, err));
    if (r->plan.settings.optim.n_steps == 0 && !resumes) {
        SHOAL_TRY(choose_steps(args, &r->plan, err));
    }
    SHOAL_TRY(
        shoal_trainer_new(r->plan.params, r->plan.teacher, &r->plan.settings, &r->trainer, err));
    if (resumes) {
        SHOAL_TRY(shoal_trainer_load(r->trainer, checkpoint, err));
        (void)fprintf(stderr, "going on from %s at step %llu of %llu\n", checkpoint,
                      (unsigned long long)shoal_trainer_step_i(r->trainer),
                      (unsigned long long)shoal_trainer_n_steps(r->trainer));
    }
    const shoal_params *params = r->plan.params;
    (void)fprintf(stderr, "%.2f M numbers, %zu layers, %zu exits, %llu steps of %zu x %zu tokens\n",
                  (double)params->n_floats * 1e-6, params->hp.n_layers, params->n_exits,
                  (unsigned long long)shoal_trainer_n_steps(r->trainer), r->plan.settings.n_parts,
                  r->plan.settings.n_tokens_max);
    return shoal_forge_progress_open(stderr, args->train.log, params->n_exits,
                                     shoal_trainer_step_i(r->trainer),
                                     shoal_trainer_n_steps(r->trainer), &r->progress, err);
}

static shoal_status run_steps(run *r, shoal_err *err)
{
    uint64_t saved_ms = now_ms();
    uint64_t every_ms = (uint64_t)r->args->train.every * 1000;
    while (!stop_wanted && shoal_trainer_step_i(r->trainer) < shoal_trainer_n_steps(r->trainer)) {
        shoal_train_stats stats;
        SHOAL_TRY(
            shoal_trainer_step(r->trainer, shoal_forge_feed_batch, r->plan.feed, &stats, err));
        shoal_forge_progress_step(&r->progress, &stats);
        r->n_tokens += stats.n_tokens;
        r->last_loss = stats.loss;
        if (r->args->train.checkpoint && now_ms() - saved_ms >= every_ms) {
            SHOAL_TRY(save(r, err));
            saved_ms = now_ms();
        }
    }
    return save(r, err);
}

static void report(run *r)
{
    uint64_t step = shoal_trainer_step_i(r->trainer);
    uint64_t n_steps = shoal_trainer_n_steps(r->trainer);
    double seconds = shoal_forge_progress_seconds(&r->progress);
    double speed = (double)r->n_tokens / fmax(seconds, 1e-9);
    shoal_forge_progress_close(&r->progress);
    if (r->args->json) {
        (void)printf("{\"step\": %llu, \"steps\": %llu, \"tokens\": %llu, \"seconds\": %.3f, "
                     "\"tokens_per_second\": %.1f, \"loss\": %.6f}\n",
                     (unsigned long long)step, (unsigned long long)n_steps,
                     (unsigned long long)r->n_tokens, seconds, speed, r->last_loss);
        return;
    }
    (void)printf("%s: step %llu of %llu, %llu tokens in %.1f s (%.0f tok/s), loss %.4f\n",
                 r->args->output, (unsigned long long)step, (unsigned long long)n_steps,
                 (unsigned long long)r->n_tokens, seconds, speed, r->last_loss);
}

/* A script must not take a run that was stopped for one that is done. */
static shoal_status check_done(const run *r, shoal_err *err)
{
    uint64_t step = shoal_trainer_step_i(r->trainer);
    const char *checkpoint = r->args->train.checkpoint;
    if (step >= shoal_trainer_n_steps(r->trainer)) {
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_CANCELLED, "stopped after %llu of %llu steps; %s%s",
                         (unsigned long long)step,
                         (unsigned long long)shoal_trainer_n_steps(r->trainer),
                         checkpoint ? "the same command goes on from "
                                    : "without --checkpoint FILE a run cannot go on",
                         checkpoint ? checkpoint : "");
}

shoal_status shoal_forge_train(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(run_close) run r = {.args = args};
    stop_wanted = 0;
    catch_signals();
    SHOAL_TRY(begin(&r, err));
    SHOAL_TRY(run_steps(&r, err));
    report(&r);
    return check_done(&r, err);
}
