/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/base/mem.h"
#include "toy.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[64];
static char path[96];
static const size_t one_exit[] = {1};

static int make_folder(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-checkpoint-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/run.ckpt", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    char tmp[128];
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    (void)unlink(tmp);
    (void)unlink(path);
    return rmdir(folder);
}

/* A run in memory. */
typedef struct run {
    shoal_params *params;
    shoal_trainer *trainer;
    toy data;
} run;

static shoal_trainer_settings settings_of_runs(void)
{
    shoal_trainer_settings s = toy_settings();
    s.exit_weight[0] = 0.5F;
    s.layer_dropout = 0.4F;
    return s;
}

static void begin(run *r, size_t n_layers, const shoal_trainer_settings *s)
{
    shoal_err err = SHOAL_ERR_INIT;
    memset(r, 0, sizeof *r);
    r->params = toy_params(n_layers, one_exit, 1, 5);
    assert_non_null(r->params);
    if (shoal_trainer_new(r->params, NULL, s, &r->trainer, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void end(run *r)
{
    shoal_trainer_free(r->trainer);
    shoal_params_free(r->params);
}

static void steps(run *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_train_stats stats;
        if (shoal_trainer_step(r->trainer, toy_source, &r->data, &stats, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
    }
}

static void must_save(const run *r)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_trainer_save(r->trainer, path, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

static void must_load(const run *r)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_trainer_load(r->trainer, path, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
}

/* What a checkpoint holds is what decides the rest of a run: two equal files, two equal runs. */
static void assert_same(const run *a, const run *b)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf one = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf two = {0};
    must_save(a);
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &one, NULL), SHOAL_OK);
    must_save(b);
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &two, NULL), SHOAL_OK);
    assert_int_equal(one.length, two.length);
    assert_memory_equal(one.data, two.data, one.length);
    assert_memory_equal(a->params->data, b->params->data, a->params->n_floats * sizeof(float));
}

/* --- resume ---------------------------------------------------------------------------------- */

static void test_resumed_run_equals_the_unbroken_one(void **state)
{
    (void)state;
    for (int muon = 0; muon < 2; muon++) {
        shoal_trainer_settings s = settings_of_runs();
        s.optim.muon = muon;
        run whole;
        run first;
        run second;
        begin(&whole, 3, &s);
        steps(&whole, 10);
        begin(&first, 3, &s);
        steps(&first, 5);
        must_save(&first);
        end(&first);
        s.n_threads = 2; /* nor does the number of threads matter */
        begin(&second, 3, &s);
        must_load(&second);
        assert_int_equal(shoal_trainer_step_i(second.trainer), 5);
        steps(&second, 5);
        assert_same(&whole, &second);
        end(&whole);
        end(&second);
    }
}

static void test_length_of_the_run_is_the_checkpoints_when_none_is_given(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    run b;
    begin(&a, 2, &s);
    steps(&a, 3);
    must_save(&a);
    s.optim.n_steps = 0;
    s.optim.n_warmup = 0;
    begin(&b, 2, &s);
    must_load(&b);
    assert_int_equal(shoal_trainer_n_steps(b.trainer), 10);
    steps(&a, 4);
    steps(&b, 4);
    assert_same(&a, &b);
    end(&a);
    end(&b);
}

/* --- killed while saving --------------------------------------------------------------------- */

/* The same file under its temporary name, cut short: what a kill between write and rename leaves.
 */
static void test_leftover_of_a_killed_save_is_no_harm(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    run b;
    begin(&a, 2, &s);
    begin(&b, 2, &s);
    steps(&a, 2);
    must_save(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &bytes, NULL), SHOAL_OK);
    char tmp[128];
    (void)snprintf(tmp, sizeof tmp, "%s.tmp", path);
    FILE *file = fopen(tmp, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes.data, 1, bytes.length / 2, file), bytes.length / 2);
    assert_int_equal(fclose(file), 0);
    must_load(&b);
    steps(&a, 1);
    steps(&b, 1);
    assert_same(&a, &b); /* saves over the leftover, too */
    end(&a);
    end(&b);
}

/* A process saves one checkpoint after the other and is killed at any moment: what is at path is
 * whole, every time. */
static void test_kill_at_any_moment_leaves_a_whole_checkpoint(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    begin(&a, 2, &s);
    must_save(&a);
    for (long i = 0; i < 40; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            for (;;) {
                if (shoal_trainer_save(a.trainer, path, NULL) != SHOAL_OK) {
                    _exit(1);
                }
            }
        }
        const struct timespec wait = {.tv_nsec = 200000 + i * 137000};
        (void)nanosleep(&wait, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        int how = 0;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        must_load(&a);
    }
    end(&a);
}

/* --- what is refused ------------------------------------------------------------------------- */

static void refuse(run *r, shoal_status want, const char *word)
{
    shoal_err err = SHOAL_ERR_INIT;
    size_t n_bytes = r->params->n_floats * sizeof(float);
    SHOAL_CLEANUP(shoal_free_cleanup) float *before = shoal_params_block(r->params);
    assert_non_null(before);
    memcpy(before, r->params->data, n_bytes);
    uint64_t step = shoal_trainer_step_i(r->trainer);
    shoal_status status = shoal_trainer_load(r->trainer, path, &err);
    if (status != want || !strstr(err.text, word)) {
        fail_msg("status %d, \"%s\", not %d with \"%s\"", status, err.text, want, word);
    }
    assert_memory_equal(before, r->params->data, n_bytes);
    assert_int_equal(shoal_trainer_step_i(r->trainer), step);
}

static void test_other_shapes_and_settings_are_refused_by_name(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    run b;
    begin(&a, 2, &s);
    must_save(&a);
    begin(&b, 3, &s);
    refuse(&b, SHOAL_E_MISMATCH, "layers 2");
    end(&b);
    static const char *const words[] = {"parts 2",   "dropout seed", "data",          "muon rate",
                                        "adam rate", "weight decay", "beta2",         "momentum",
                                        "clip",      "alpha",        "layer dropout", "exit after",
                                        "10 steps",  "optimiser"};
    for (size_t i = 0; i < SHOAL_COUNT(words); i++) {
        shoal_trainer_settings t = s;
        t.n_parts += i == 0;
        t.seed += i == 1;
        t.source_id += i == 2;
        t.optim.muon_rate *= i == 3 ? 2 : 1;
        t.optim.adam_rate *= i == 4 ? 2 : 1;
        t.optim.weight_decay *= i == 5 ? 2 : 1;
        t.optim.beta2 *= i == 6 ? 0.5F : 1;
        t.optim.momentum *= i == 7 ? 0.5F : 1;
        t.optim.clip *= i == 8 ? 2 : 1;
        t.layer_dropout *= i == 10 ? 0.5F : 1;
        t.exit_weight[0] *= i == 11 ? 2 : 1;
        t.optim.n_steps += i == 12;
        t.optim.muon = i != 13;
        shoal_params *teacher = toy_params(1, NULL, 0, 1);
        t.distil.alpha = i == 9 ? 0.5F : 1;
        shoal_err err = SHOAL_ERR_INIT;
        memset(&b, 0, sizeof b);
        b.params = toy_params(2, one_exit, 1, 5);
        assert_int_equal(shoal_trainer_new(b.params, teacher, &t, &b.trainer, &err), SHOAL_OK);
        refuse(&b, SHOAL_E_MISMATCH, words[i]);
        end(&b);
        shoal_params_free(teacher);
    }
    end(&a);
}

static void write_bytes(const char *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static void test_truncated_and_damaged_files_are_refused(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    begin(&a, 2, &s);
    steps(&a, 1);
    must_save(&a);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf bytes = {0};
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &bytes, NULL), SHOAL_OK);
    /* Every length of the head and of the end; between them lie only numbers. */
    for (size_t n = 0; n < bytes.length; n += n < 4096 || n + 300 > bytes.length ? 1 : 251) {
        shoal_err err = SHOAL_ERR_INIT;
        write_bytes(bytes.data, n);
        shoal_status status = shoal_trainer_load(a.trainer, path, &err);
        if (status == SHOAL_OK || !strstr(err.text, "cut short")) {
            fail_msg("%zu of %zu bytes: status %d, \"%s\"", n, bytes.length, status, err.text);
        }
    }
    /* One bit of any byte. */
    for (size_t at = 0; at < bytes.length; at += at < 4096 || at + 300 > bytes.length ? 1 : 997) {
        char kept = bytes.data[at];
        bytes.data[at] = (char)(kept ^ (1 << at % 8));
        write_bytes(bytes.data, bytes.length);
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = shoal_trainer_load(a.trainer, path, &err);
        assert_true(status < 0 && err.text[0]);
        bytes.data[at] = kept;
    }
    /* One byte too many, and the file as it was. */
    assert_int_equal(shoal_buf_append(&bytes, "x", 1), SHOAL_OK);
    write_bytes(bytes.data, bytes.length);
    refuse(&a, SHOAL_E_INVALID, "damaged");
    write_bytes(bytes.data, bytes.length - 1);
    must_load(&a);
    end(&a);
}

static void test_files_that_cannot_be_read_or_written_are_named(void **state)
{
    (void)state;
    shoal_trainer_settings s = settings_of_runs();
    run a;
    begin(&a, 2, &s);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_trainer_load(a.trainer, "/nowhere/x", &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/x"));
    shoal_err_clear(&err);
    assert_int_equal(shoal_trainer_save(a.trainer, "/nowhere/x", &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, "/nowhere/x"));
    must_save(&a);
    for (uint64_t n = 0; n < 3; n++) {
        shoal_mem_fail_at(n);
        shoal_status status = shoal_trainer_save(a.trainer, path, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_int_equal(status, SHOAL_E_NOMEM);
        must_load(&a); /* the old one is still there */
    }
    end(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumed_run_equals_the_unbroken_one),
        cmocka_unit_test(test_length_of_the_run_is_the_checkpoints_when_none_is_given),
        cmocka_unit_test(test_leftover_of_a_killed_save_is_no_harm),
        cmocka_unit_test(test_kill_at_any_moment_leaves_a_whole_checkpoint),
        cmocka_unit_test(test_other_shapes_and_settings_are_refused_by_name),
        cmocka_unit_test(test_truncated_and_damaged_files_are_refused),
        cmocka_unit_test(test_files_that_cannot_be_read_or_written_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
