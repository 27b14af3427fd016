/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "toy.h"

#include <math.h>
#include <string.h>

static const size_t one_exit[] = {1};

static shoal_trainer *must_make(shoal_params *params, const shoal_params *teacher,
                                const shoal_trainer_settings *s)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_trainer *trainer = NULL;
    shoal_status status = shoal_trainer_new(params, teacher, s, &trainer, &err);
    if (status != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return trainer;
}

static shoal_train_stats must_step(shoal_trainer *trainer, toy *data)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_train_stats stats;
    shoal_status status = shoal_trainer_step(trainer, toy_source, data, &stats, &err);
    if (status != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return stats;
}

/* Trains for n steps and gives the parameters. */
static shoal_params *train(size_t n, const shoal_trainer_settings *s, shoal_train_stats *ret_last)
{
    static toy data;
    memset(&data, 0, sizeof data);
    shoal_params *params = toy_params(3, one_exit, 1, 5);
    assert_non_null(params);
    SHOAL_CLEANUP(shoal_trainer_freep) shoal_trainer *trainer = must_make(params, NULL, s);
    for (size_t i = 0; i < n; i++) {
        *ret_last = must_step(trainer, &data);
    }
    assert_int_equal(shoal_trainer_step_i(trainer), n);
    return params;
}

static void test_training_lowers_the_loss_of_every_head(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    shoal_train_stats first;
    shoal_train_stats last;
    s.exit_weight[0] = 0.5F;
    s.optim.n_steps = 400;
    shoal_params_free(train(1, &s, &first));
    shoal_params_free(train(400, &s, &last));
    print_message("loss %.3f to %.3f, exit %.3f to %.3f\n", first.loss, last.loss,
                  first.exit_loss[0], last.exit_loss[0]);
    assert_true(fabs(first.loss - log(TOY_VOCAB)) < 0.5);
    assert_true(last.loss < 0.5 * first.loss);
    assert_true(last.exit_loss[0] < 0.8 * first.exit_loss[0]);
    assert_int_equal(last.n_tokens, 2 * TOY_TOKENS);
    assert_int_equal(last.n_targets, 2 * TOY_SEGMENTS * (TOY_SEGMENT - 2));
    assert_true(last.flops > 0 && last.step == 400);
}

static void test_threads_change_no_bit(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    shoal_train_stats a;
    shoal_train_stats b;
    s.n_parts = 4;
    s.exit_weight[0] = 0.5F;
    s.layer_dropout = 0.5F;
    shoal_params *one = train(6, &s, &a);
    for (size_t n = 2; n <= 5; n++) {
        s.n_threads = n;
        shoal_params *many = train(6, &s, &b);
        assert_memory_equal(one->data, many->data, one->n_floats * sizeof(float));
        assert_true(a.loss == b.loss && a.grad_norm == b.grad_norm);
        shoal_params_free(many);
    }
    shoal_params_free(one);
}

/* The same targets in one part or in two, so the same mean gradient but for rounding. */
static void test_parts_accumulate_one_gradient(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    s.optim.muon = false;
    double norm[2];
    double loss[2];
    for (size_t n = 1; n <= 2; n++) {
        toy data = {.seed = 3};
        s.n_parts = n;
        shoal_params *params = toy_params(2, NULL, 0, 5);
        shoal_trainer *trainer = must_make(params, NULL, &s);
        /* Both parts read what part 0 reads. */
        shoal_train_stats stats = must_step(trainer, &data);
        norm[n - 1] = stats.grad_norm;
        loss[n - 1] = stats.loss;
        shoal_trainer_free(trainer);
        shoal_params_free(params);
    }
    /* Other data in part 1: near, not equal. That the sum is divided by all targets shows. */
    assert_true(fabs(loss[0] - loss[1]) < 0.2);
    assert_true(norm[1] < norm[0] * 1.2 && norm[1] > norm[0] * 0.3);
}

static void test_exit_of_weight_zero_is_not_trained(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    shoal_train_stats stats;
    shoal_params *params = train(3, &s, &stats);
    shoal_params *before = toy_params(3, one_exit, 1, 5);
    const shoal_param *norm = NULL;
    for (size_t i = 0; i < params->n_items; i++) {
        norm = strstr(params->items[i].name, "exit") ? &params->items[i] : norm;
    }
    assert_non_null(norm);
    assert_memory_equal(params->data + norm->offset, before->data + norm->offset,
                        norm->n_cols * sizeof(float));
    assert_true(stats.exit_loss[0] == 0);
    shoal_params_free(params);
    shoal_params_free(before);
}

/* --- a teacher ------------------------------------------------------------------------------- */

static void test_student_that_is_its_teacher_has_nothing_to_learn(void **state)
{
    (void)state;
    for (int reverse = 0; reverse < 2; reverse++) {
        toy data = {0};
        shoal_trainer_settings s = toy_settings();
        s.distil = (shoal_distil){.alpha = 0, .temperature = 2, .reverse = reverse};
        s.optim.weight_decay = 0;
        shoal_params *teacher = toy_params(2, NULL, 0, 9);
        shoal_params *student = toy_params(2, NULL, 0, 9);
        shoal_trainer *trainer = must_make(student, teacher, &s);
        shoal_train_stats stats = must_step(trainer, &data);
        assert_true(stats.loss == 0);
        assert_true(stats.grad_norm == 0);
        assert_memory_equal(student->data, teacher->data, student->n_floats * sizeof(float));
        shoal_trainer_free(trainer);
        shoal_params_free(student);
        shoal_params_free(teacher);
    }
}

static void test_teacher_of_another_shape_is_followed_and_another_vocabulary_refused(void **state)
{
    (void)state;
    toy data = {0};
    shoal_trainer_settings s = toy_settings();
    s.distil = (shoal_distil){.alpha = 0.5F, .temperature = 1};
    s.optim.n_steps = 60;
    shoal_params *teacher = toy_params(3, NULL, 0, 9);
    shoal_params *student = toy_params(1, NULL, 0, 2);
    shoal_trainer *trainer = must_make(student, teacher, &s);
    double first = must_step(trainer, &data).loss;
    double last = 0;
    for (int i = 0; i < 59; i++) {
        last = must_step(trainer, &data).loss;
    }
    assert_true(last < first);
    shoal_trainer_free(trainer);
    shoal_err err = SHOAL_ERR_INIT;
    teacher->hp.n_vocab++;
    assert_int_equal(shoal_trainer_new(student, teacher, &s, &trainer, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "tokenizer"));
    shoal_params_free(student);
    shoal_params_free(teacher);
}

/* Loss on clean data of a model trained on data of which four targets in ten are wrong. */
static double learn_from_noise(const shoal_params *teacher, size_t n_steps)
{
    static toy data;
    shoal_trainer_settings s = toy_settings();
    s.distil = (shoal_distil){.alpha = teacher ? 0.3F : 1.0F, .temperature = 1};
    s.optim.n_steps = n_steps;
    shoal_params *student = toy_params(1, NULL, 0, 6);
    shoal_trainer *trainer = must_make(student, teacher, &s);
    data = (toy){.noise = 0.4F};
    for (size_t i = 0; i < n_steps; i++) {
        (void)must_step(trainer, &data);
    }
    shoal_trainer_free(trainer);
    s.distil.alpha = 1;
    s.optim.muon_rate = 0; /* looks and changes nothing */
    s.optim.adam_rate = 0;
    trainer = must_make(student, NULL, &s);
    data = (toy){.seed = 1000};
    double loss = must_step(trainer, &data).loss;
    shoal_trainer_free(trainer);
    shoal_params_free(student);
    return loss;
}

static void test_distilled_student_beats_one_of_labels_alone(void **state)
{
    (void)state;
    static toy data;
    shoal_trainer_settings s = toy_settings();
    s.optim.n_steps = 200;
    shoal_params *teacher = toy_params(2, NULL, 0, 5);
    shoal_trainer *trainer = must_make(teacher, NULL, &s);
    data = (toy){0};
    for (size_t i = 0; i < 200; i++) {
        (void)must_step(trainer, &data);
    }
    shoal_trainer_free(trainer);
    double labels = learn_from_noise(NULL, 200);
    double distilled = learn_from_noise(teacher, 200);
    print_message("after 200 steps: labels alone %.3f, distilled %.3f\n", labels, distilled);
    assert_true(distilled < 0.7 * labels);
    shoal_params_free(teacher);
}

/* A student that begins with wrong habits learns its teacher's from its own answers alone. */
static void learn_from_own_answers(const shoal_params *teacher, size_t n_threads, size_t n_steps,
                                   shoal_train_stats *ret_first, shoal_train_stats *ret_last,
                                   shoal_params **ret_student)
{
    static toy data;
    shoal_trainer_settings s = toy_settings();
    s.on_policy = true;
    s.n_threads = n_threads;
    s.exit_weight[0] = 0.5F;
    s.optim.n_steps = n_steps;
    s.optim.muon_rate = 0.01F;
    shoal_params *student = toy_params(2, one_exit, 1, 6);
    shoal_trainer *trainer = must_make(student, teacher, &s);
    data = (toy){0};
    for (size_t i = 0; i < n_steps; i++) {
        *ret_last = must_step(trainer, &data);
        *ret_first = i == 0 ? *ret_last : *ret_first;
    }
    shoal_trainer_free(trainer);
    *ret_student = student;
}

static void test_student_learns_from_its_own_answers(void **state)
{
    (void)state;
    static toy data;
    shoal_trainer_settings s = toy_settings();
    shoal_train_stats first;
    shoal_train_stats last;
    shoal_params *student = NULL;
    shoal_params *again = NULL;
    s.optim.n_steps = 200;
    shoal_params *teacher = toy_params(2, NULL, 0, 5);
    shoal_trainer *trainer = must_make(teacher, NULL, &s);
    data = (toy){0};
    for (size_t i = 0; i < 200; i++) {
        (void)must_step(trainer, &data);
    }
    shoal_trainer_free(trainer);
    learn_from_own_answers(teacher, 1, 250, &first, &last, &student);
    print_message("own answers: divergence per token %.3f to %.3f, exit %.3f to %.3f\n", first.loss,
                  last.loss, first.exit_loss[0], last.exit_loss[0]);
    assert_true(last.loss < 0.3 * first.loss);
    assert_true(last.exit_loss[0] < 0.3 * first.exit_loss[0]);
    assert_true(last.n_targets > 0 && last.n_tokens <= 2 * TOY_TOKENS);
    shoal_params_free(student);
    learn_from_own_answers(teacher, 1, 5, &first, &last, &student);
    learn_from_own_answers(teacher, 2, 5, &first, &last, &again);
    assert_memory_equal(student->data, again->data, student->n_floats * sizeof(float));
    shoal_params_free(student);
    shoal_params_free(again);
    shoal_params_free(teacher);
}

/* --- trouble --------------------------------------------------------------------------------- */

static void test_settings_are_checked(void **state)
{
    (void)state;
    shoal_params *params = toy_params(2, one_exit, 1, 1);
    shoal_trainer *trainer = NULL;
    shoal_trainer_settings bad[11];
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        bad[i] = toy_settings();
    }
    bad[0].n_threads = 0;
    bad[1].n_threads = SHOAL_POOL_THREADS_MAX + 1;
    bad[2].n_parts = 0;
    bad[3].n_tokens_max = 0;
    bad[4].n_targets_max = TOY_TOKENS + 1;
    bad[5].distil.alpha = 1.1F;
    bad[6].distil.temperature = 0;
    bad[7].layer_dropout = 1;
    bad[8].exit_weight[0] = -1;
    bad[9].optim.adam_rate = NAN;
    bad[10].on_policy = true; /* without a teacher */
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_trainer_new(params, NULL, &bad[i], &trainer, &err), SHOAL_E_INVALID);
        assert_true(err.text[0] != 0);
    }
    shoal_params_free(params);
}

static void test_source_that_fails_steps_nothing(void **state)
{
    (void)state;
    toy data = {.fails = SHOAL_E_IO, .fails_at = 1};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_trainer_settings s = toy_settings();
    shoal_params *params = toy_params(2, NULL, 0, 1);
    shoal_params *before = toy_params(2, NULL, 0, 1);
    shoal_trainer *trainer = must_make(params, NULL, &s);
    shoal_train_stats stats;
    (void)must_step(trainer, &data);
    memcpy(before->data, params->data, params->n_floats * sizeof(float));
    assert_int_equal(shoal_trainer_step(trainer, toy_source, &data, &stats, &err), SHOAL_E_IO);
    assert_non_null(strstr(err.text, "step 1, part 1"));
    assert_memory_equal(before->data, params->data, params->n_floats * sizeof(float));
    assert_int_equal(shoal_trainer_step_i(trainer), 1);
    data.fails = SHOAL_OK; /* and it goes on */
    (void)must_step(trainer, &data);
    shoal_trainer_free(trainer);
    shoal_params_free(params);
    shoal_params_free(before);
}

static void test_batch_limits_hold(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    shoal_params *params = toy_params(1, NULL, 0, 1);
    toy data = {0};
    size_t n_targets = TOY_SEGMENTS * (TOY_SEGMENT - 2);
    for (size_t over = 0; over < 3; over++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_train_stats stats;
        s.n_tokens_max = TOY_TOKENS + 1 - over;
        s.n_targets_max = n_targets;
        shoal_trainer *trainer = must_make(params, NULL, &s);
        shoal_status status = shoal_trainer_step(trainer, toy_source, &data, &stats, &err);
        assert_int_equal(status, over < 2 ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_trainer_free(trainer);
        s.n_tokens_max = TOY_TOKENS;
        s.n_targets_max = n_targets + 1 - over;
        trainer = must_make(params, NULL, &s);
        shoal_err_clear(&err);
        status = shoal_trainer_step(trainer, toy_source, &data, &stats, &err);
        assert_int_equal(status, over < 2 ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_trainer_free(trainer);
    }
    shoal_params_free(params);
}

static void test_numbers_that_are_not_finite_are_refused_by_step(void **state)
{
    (void)state;
    toy data = {0};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_trainer_settings s = toy_settings();
    shoal_params *params = toy_params(2, NULL, 0, 1);
    shoal_trainer *trainer = must_make(params, NULL, &s);
    shoal_train_stats stats;
    float kept = params->data[3];
    for (size_t i = 0; i < params->n_items; i++) {
        params->data[params->items[i].offset] = NAN;
    }
    assert_int_equal(shoal_trainer_step(trainer, toy_source, &data, &stats, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "step 0"));
    assert_true(params->data[3] == kept);
    assert_int_equal(shoal_trainer_step_i(trainer), 0);
    shoal_trainer_free(trainer);
    shoal_params_free(params);
}

static void test_new_fails_cleanly_without_memory(void **state)
{
    (void)state;
    shoal_trainer_settings s = toy_settings();
    shoal_params *params = toy_params(1, NULL, 0, 1);
    shoal_params *teacher = toy_params(1, NULL, 0, 2);
    s.distil.alpha = 0.5F;
    for (uint64_t n = 0;; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_trainer *trainer = NULL;
        shoal_mem_fail_at(n);
        shoal_status status = shoal_trainer_new(params, teacher, &s, &trainer, &err);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(n > 10);
            shoal_trainer_free(trainer);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_non_null(strstr(err.text, "memory"));
    }
    shoal_params_free(params);
    shoal_params_free(teacher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training_lowers_the_loss_of_every_head),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_parts_accumulate_one_gradient),
        cmocka_unit_test(test_exit_of_weight_zero_is_not_trained),
        cmocka_unit_test(test_student_that_is_its_teacher_has_nothing_to_learn),
        cmocka_unit_test(test_teacher_of_another_shape_is_followed_and_another_vocabulary_refused),
        cmocka_unit_test(test_distilled_student_beats_one_of_labels_alone),
        cmocka_unit_test(test_student_learns_from_its_own_answers),
        cmocka_unit_test(test_settings_are_checked),
        cmocka_unit_test(test_source_that_fails_steps_nothing),
        cmocka_unit_test(test_batch_limits_hold),
        cmocka_unit_test(test_numbers_that_are_not_finite_are_refused_by_step),
        cmocka_unit_test(test_new_fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
