/* SPDX-License-Identifier: Apache-2.0
 *
 * calibrate-weights on a tiny model: every linear layer is there, and the first layer's input is
 * what embedding and norm make of the text.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/forge.h"
#include "common/base/file.h"
#include "common/compress/moments.h"
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    N = 23,
    WINDOW = 10 /* not a divisor of N */
};

static char path[] = "/tmp/shoal-test-weights-XXXXXX";
static char ids_path[64];
static char out_path[64];
static int32_t ids[N];

static int group_setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    int fd = mkstemp(path);
    (void)snprintf(ids_path, sizeof ids_path, "%s.ids", path);
    (void)snprintf(out_path, sizeof out_path, "%s.moments", path);
    if (fd < 0 || close(fd) != 0 || shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &buf) != SHOAL_OK ||
        shoal_file_write(path, buf.data, buf.length, NULL) != SHOAL_OK) {
        return -1;
    }
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    (void)unlink(ids_path);
    (void)unlink(out_path);
    return unlink(path);
}

static shoal_status run(const char *text, long n, shoal_err *err)
{
    const forge_args args = {
        .model = path,
        .file = ids_path,
        .output = out_path,
        .calibrate_weights = {.tokens = n, .window = WINDOW, .mib = 16, .ids = true}};
    assert_int_equal(shoal_file_write(ids_path, text, strlen(text), NULL), SHOAL_OK);
    return shoal_forge_calibrate_weights(&args, err);
}

static void expect_layer(const shoal_moments *m, size_t layer, const char *suffix, size_t n_rows,
                         size_t k)
{
    char name[64];
    (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, suffix);
    for (size_t i = 0; i < shoal_moments_n_layers(m); i++) {
        const shoal_moments_layer *l = shoal_moments_layer_at(m, i);
        if (strcmp(l->name, name) == 0) {
            shoal_moments_input in = shoal_moments_input_at(m, l->input);
            assert_int_equal(l->row, 0);
            assert_int_equal(l->n_rows, n_rows);
            assert_int_equal(in.k, k);
            assert_int_equal(in.n, N);
            return;
        }
    }
    fail_msg("%s has no moments", name);
}

/* Sums over the tokens of norm(embedding), as the first layer's q, k and v read it. */
static void check_first(const shoal_model *model, shoal_moments_input in)
{
    static double sums[SHOAL_TINY_DIM * SHOAL_TINY_DIM];
    memset(sums, 0, sizeof sums);
    for (size_t t = 0; t < N; t++) {
        float x[SHOAL_TINY_DIM];
        double square = 0;
        shoal_weight_row(model->embed, (size_t)ids[t], x);
        for (size_t i = 0; i < SHOAL_TINY_DIM; i++) {
            square += (double)x[i] * (double)x[i] / SHOAL_TINY_DIM;
        }
        double scale = 1 / sqrt(square + (double)model->hp.norm_eps);
        for (size_t i = 0; i < SHOAL_TINY_DIM; i++) {
            x[i] = (float)((double)x[i] * scale * (double)model->layers[0].attn_norm[i]);
        }
        for (size_t i = 0; i < SHOAL_TINY_DIM * SHOAL_TINY_DIM; i++) {
            sums[i] += (double)x[i / SHOAL_TINY_DIM] * (double)x[i % SHOAL_TINY_DIM];
        }
    }
    for (size_t i = 0; i < SHOAL_TINY_DIM * SHOAL_TINY_DIM; i++) {
        assert_true(fabs(sums[i] - (double)in.moment[i]) < 1e-3 * (1 + fabs(sums[i])));
    }
}

static void test_every_layer_has_the_moments_of_its_input(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    char text[16 * N] = {0};
    for (size_t i = 0; i < N; i++) {
        ids[i] = (int32_t)((37 * i + 5) % SHOAL_TINY_VOCAB);
        (void)snprintf(text + strlen(text), 16, "%d%s", (int)ids[i], i % 2 ? ", " : "\n");
    }
    assert_int_equal(run(text, 1000, NULL), SHOAL_OK);
    assert_int_equal(shoal_model_load(path, &model, NULL), SHOAL_OK);
    assert_int_equal(shoal_moments_open(out_path, &model->hash, &m, NULL), SHOAL_OK);
    assert_int_equal(shoal_moments_n_layers(m), 7 * SHOAL_TINY_LAYERS);
    size_t kv = SHOAL_TINY_DIM / SHOAL_TINY_HEADS * SHOAL_TINY_KV_HEADS;
    for (size_t i = 0; i < SHOAL_TINY_LAYERS; i++) {
        expect_layer(m, i, "attn_q", SHOAL_TINY_DIM, SHOAL_TINY_DIM);
        expect_layer(m, i, "attn_k", kv, SHOAL_TINY_DIM);
        expect_layer(m, i, "attn_v", kv, SHOAL_TINY_DIM);
        expect_layer(m, i, "attn_output", SHOAL_TINY_DIM, SHOAL_TINY_DIM);
        expect_layer(m, i, "ffn_gate", SHOAL_TINY_FFN, SHOAL_TINY_DIM);
        expect_layer(m, i, "ffn_up", SHOAL_TINY_FFN, SHOAL_TINY_DIM);
        expect_layer(m, i, "ffn_down", SHOAL_TINY_DIM, SHOAL_TINY_FFN);
    }
    assert_string_equal(shoal_moments_layer_at(m, 0)->name, "blk.0.attn_q.weight");
    check_first(model, shoal_moments_input_at(m, shoal_moments_layer_at(m, 0)->input));
}

static void test_ids_that_are_none_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"1 2 x", "1,-2", "1 300",
                                      "",      " ,\n", "1 99999999999999999999"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(run(bad[i], 1000, &err), SHOAL_E_INVALID);
        assert_int_not_equal(err.text[0], 0);
    }
    assert_int_equal(run("299 0", 1000, NULL), SHOAL_OK);
    assert_int_equal(run("5 6 not read", 2, NULL), SHOAL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_layer_has_the_moments_of_its_input),
        cmocka_unit_test(test_ids_that_are_none_are_refused),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
