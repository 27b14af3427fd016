/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/progress.h"

#include "common/base/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/shoal-progress-XXXXXX";

static int make_path(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static void run(uint64_t begin, uint64_t n_steps, uint64_t end)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_forge_progress p;
    if (shoal_forge_progress_open(NULL, path, 1, begin, n_steps, &p, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    for (uint64_t i = begin; i < end; i++) {
        const shoal_train_stats stats = {.step = i + 1,
                                         .n_tokens = 100,
                                         .n_targets = 40,
                                         .loss = (double)begin + 0.5,
                                         .exit_loss = {0.25},
                                         .grad_norm = 2,
                                         .flops = 1000};
        shoal_forge_progress_step(&p, &stats);
    }
    shoal_forge_progress_close(&p);
}

/* Losses of the rows, which must be steps 1, 2, 3, ... */
static size_t read_losses(double *losses, size_t most)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf csv = {0};
    assert_int_equal(shoal_file_read(path, SIZE_MAX, &csv, NULL), SHOAL_OK);
    const char *head = "step,seconds,tokens,targets,loss,exit_0,gradient_norm,operations\n";
    assert_int_equal(strncmp(csv.data, head, strlen(head)), 0);
    size_t n = 0;
    double before = -1;
    for (const char *at = csv.data + strlen(head); *at; at = strchr(at, '\n') + 1) {
        unsigned long long step = 0;
        double seconds = 0;
        assert_true(n < most);
        assert_int_equal(
            sscanf(at, "%llu,%lf,100,40,%lf,0.250000,2,1000", &step, &seconds, &losses[n]), 3);
        n++;
        assert_int_equal(step, n);
        assert_true(seconds >= before);
        before = seconds;
    }
    return n;
}

static void test_rows_of_a_resumed_run_stand_once(void **state)
{
    (void)state;
    double losses[16];
    run(0, 10, 5);
    assert_int_equal(read_losses(losses, 16), 5);
    run(3, 10, 8); /* the checkpoint was of step 3 */
    assert_int_equal(read_losses(losses, 16), 8);
    assert_true(losses[2] == 0.5 && losses[3] == 3.5 && losses[7] == 3.5);
    /* A line cut short by a crash goes, too. */
    FILE *file = fopen(path, "ae");
    assert_non_null(file);
    (void)fprintf(file, "9,0.1");
    assert_int_equal(fclose(file), 0);
    run(8, 10, 10);
    assert_int_equal(read_losses(losses, 16), 10);
    run(0, 10, 2); /* another run */
    assert_int_equal(read_losses(losses, 16), 2);
}

static void test_lines_are_drawn_at_the_end(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n = 0;
    FILE *to = open_memstream(&text, &n);
    assert_non_null(to);
    shoal_forge_progress p;
    assert_int_equal(shoal_forge_progress_open(to, NULL, 2, 0, 3, &p, NULL), SHOAL_OK);
    assert_false(p.terminal);
    for (uint64_t i = 0; i < 3; i++) {
        const shoal_train_stats stats = {
            .step = i + 1, .n_tokens = 10, .loss = (double)i, .exit_loss = {1, 2}};
        shoal_forge_progress_step(&p, &stats);
    }
    shoal_forge_progress_close(&p);
    assert_int_equal(fclose(to), 0);
    /* One line for three steps: the mean of their losses. */
    assert_non_null(strstr(text, "step 3/3  loss 1.0000  exits 1.0000 2.0000  "));
    assert_non_null(strstr(text, "0s left\n"));
    free(text);
}

static void test_file_that_cannot_be_made_is_named(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_forge_progress p;
    assert_int_equal(shoal_forge_progress_open(NULL, "/nowhere/x.csv", 0, 0, 1, &p, &err),
                     SHOAL_E_IO);
    assert_non_null(strstr(err.text, "/nowhere/x.csv"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_a_resumed_run_stand_once),
        cmocka_unit_test(test_lines_are_drawn_at_the_end),
        cmocka_unit_test(test_file_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, make_path, remove_path);
}
