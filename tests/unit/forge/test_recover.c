/* SPDX-License-Identifier: Apache-2.0
 *
 * A model writes texts, is rounded to 2 bits, and learns along its texts to answer as before: the
 * commands one behind the other.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/forge.h"
#include "cloud/forge/loss_plot.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    STEPS = 12
};

static char folder[64];
static char model[96];
static char text[96];
static char small[96];
static char teacher[96];
static char out[96];
static char report[96];

static void must(shoal_status status, const shoal_err *err)
{
    if (status != SHOAL_OK) {
        fail_msg("status %d: %s", status, err->text);
    }
}

static int make_model(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    shoal_err err = SHOAL_ERR_INIT;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-recover-XXXXXX");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(model, sizeof model, "%s/model.gguf", folder);
    (void)snprintf(text, sizeof text, "%s/text", folder);
    (void)snprintf(small, sizeof small, "%s/small.gguf", folder);
    (void)snprintf(teacher, sizeof teacher, "%s/teacher.gguf", folder);
    (void)snprintf(out, sizeof out, "%s/out.gguf", folder);
    (void)snprintf(report, sizeof report, "%s/report", folder);
    must(shoal_tiny_model_gguf(7, SHOAL_TYPE_F32, &file), &err);
    must(shoal_file_write(model, file.data, file.length, &err), &err);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"model.gguf",       "text",
                                        "small.gguf",       "out.gguf",
                                        "teacher.gguf",     "report/loss.csv",
                                        "report/loss.json", "report/loss.svg",
                                        "run.ckpt"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        char path[160];
        (void)snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(report);
    return rmdir(folder);
}

static forge_args text_args(long threads)
{
    forge_args args = shoal_forge_make_text_own.defaults;
    args.model = model;
    args.output = text;
    args.threads = threads;
    args.seed = 3;
    args.make_text.tokens = 1500;
    return args;
}

static void test_text_is_a_function_of_the_seed(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf one = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf two = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf three = {0};
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = text_args(1);
    must(shoal_forge_make_text(&args, &err), &err);
    must(shoal_file_read(text, SIZE_MAX, &one, &err), &err);
    args.seed = 4;
    must(shoal_forge_make_text(&args, &err), &err);
    must(shoal_file_read(text, SIZE_MAX, &two, &err), &err);
    assert_false(one.length == two.length && memcmp(one.data, two.data, one.length) == 0);
    args = text_args(2);
    must(shoal_forge_make_text(&args, &err), &err);
    must(shoal_file_read(text, SIZE_MAX, &three, &err), &err);
    assert_int_equal(one.length, three.length);
    assert_memory_equal(one.data, three.data, one.length);
}

static void test_recovery_by_commands(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf json = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf svg = {0};
    const forge_args convert = {
        .model = model, .output = small, .type = "C2_32", .threads = 1, .output_type = "C3_32"};
    must(shoal_forge_convert(&convert, &err), &err);
    forge_args args = shoal_forge_recover_own.defaults;
    args.model = model;
    args.output = out;
    args.threads = 1;
    args.train.small = small;
    args.train.text = text;
    args.train.steps = STEPS;
    args.train.part_tokens = 256;
    args.train.adam_rate = 0.03; /* for so few steps */
    args.train.report = report;
    args.compress.text = text;
    args.compress.tokens = 200;
    must(shoal_forge_recover(&args, &err), &err);
    struct stat before;
    struct stat after;
    assert_int_equal(stat(small, &before), 0);
    assert_int_equal(stat(out, &after), 0);
    assert_int_equal(before.st_size, after.st_size);
    char path[160];
    (void)snprintf(path, sizeof path, "%s/loss.json", report);
    must(shoal_file_read(path, SIZE_MAX, &json, &err), &err);
    double divergence[2] = {0};
    const char *at[2] = {strstr(json.data, "\"before\""), strstr(json.data, "\"after\"")};
    for (size_t i = 0; i < 2; i++) {
        assert_non_null(at[i]);
        at[i] = strstr(at[i], "\"divergence\": ");
        assert_non_null(at[i]);
        divergence[i] = strtod(at[i] + strlen("\"divergence\": "), NULL);
    }
    if (!(divergence[1] < 0.8 * divergence[0])) {
        fail_msg("the divergence went from %g to %g", divergence[0], divergence[1]);
    }
    assert_non_null(strstr(json.data, "[12, "));
    (void)snprintf(path, sizeof path, "%s/loss.svg", report);
    must(shoal_file_read(path, SIZE_MAX, &svg, &err), &err);
    assert_non_null(strstr(svg.data, "</svg>"));
}

static double loss_of_a_step(const forge_args *args)
{
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf csv = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) forge_loss *rows = NULL;
    char path[160];
    size_t n = 0;
    must(shoal_forge_recover(args, &err), &err);
    (void)snprintf(path, sizeof path, "%s/loss.csv", report);
    must(shoal_file_read(path, SIZE_MAX, &csv, &err), &err);
    assert_int_equal(shoal_forge_loss_rows(csv.data, csv.length, &rows, &n), SHOAL_OK);
    assert_int_equal(n, 1);
    return rows[0].loss;
}

/* One of another depth, which could not be what codes begin from. */
static void test_another_model_may_teach(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    const shoal_tiny_settings deeper = {.seed = 8, .n_layers = 3};
    must(shoal_tiny_model_build(&deeper, &file), &err);
    must(shoal_file_write(teacher, file.data, file.length, &err), &err);
    forge_args args = shoal_forge_recover_own.defaults;
    args.model = model;
    args.output = out;
    args.threads = 1;
    args.train.small = model; /* equal to the full one */
    args.train.text = text;
    args.train.steps = 1;
    args.train.part_tokens = 64;
    args.train.report = report;
    assert_true(loss_of_a_step(&args) < 1e-6);
    args.train.teacher = teacher;
    assert_true(loss_of_a_step(&args) > 0.01);
    args.train.small = teacher; /* has a layer that -m lacks, whoever teaches */
    shoal_status status = shoal_forge_recover(&args, &err);
    if (status != SHOAL_E_MISMATCH || !strstr(err.text, "was made from")) {
        fail_msg("status %d: %s", status, err.text);
    }
}

static void test_refusals_name_the_remedy(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    forge_args args = shoal_forge_recover_own.defaults;
    args.model = model;
    args.output = out;
    args.train.steps = 1;
    assert_int_equal(shoal_forge_recover(&args, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "--small"));
    shoal_err_clear(&err);
    args.train.small = small;
    assert_int_equal(shoal_forge_recover(&args, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "nothing to learn"));
}

static void test_rows_of_a_csv(void **state)
{
    (void)state;
    static const char csv[] = "step,seconds,tokens,targets,loss,gradient_norm,operations\n"
                              "1,0.5,10,9,2.5,1,2\n2,0.6,10,9,1.25,1,2\n3,0.7,10,9,1.";
    forge_loss *rows = NULL;
    size_t n = 0;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf json = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf svg = {0};
    assert_int_equal(shoal_forge_loss_rows(csv, strlen(csv), &rows, &n), SHOAL_OK);
    assert_int_equal(n, 2);
    assert_int_equal(shoal_forge_loss_json(rows, n, &json), SHOAL_OK);
    assert_string_equal(json.data, "[[1, 2.500000], [2, 1.250000]]");
    rows[1].loss = 0; /* cannot be drawn on this axis */
    assert_int_equal(shoal_forge_loss_plot("a", rows, n, &svg), SHOAL_OK);
    assert_null(strstr(svg.data, "inf"));
    assert_null(strstr(svg.data, "nan"));
    shoal_free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_a_function_of_the_seed),
        cmocka_unit_test(test_recovery_by_commands),
        cmocka_unit_test(test_another_model_may_teach),
        cmocka_unit_test(test_refusals_name_the_remedy),
        cmocka_unit_test(test_rows_of_a_csv),
    };
    return cmocka_run_group_tests(tests, make_model, remove_folder);
}
