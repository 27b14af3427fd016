/* SPDX-License-Identifier: Apache-2.0
 *
 * A packed model whose weights go to huge pages while it is used: no logits change, and it may be
 * freed at any moment.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/file.h"
#include "common/engine/engine.h"
#include "common/weight/pack.h"
#include "tests/support/tiny_model.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HUGE = 2 << 20,
    N_IDS = 5,
    N_STEPS = 20
};

static char folder[256];
static char path[300];

static shoal_status take_bytes(void *ctx, const void *data, size_t n, shoal_err *err)
{
    return shoal_file_out_write(ctx, data, n, err);
}

/* A packed file of some 25 MiB: a dozen huge pages. */
static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/shoal-huge-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/packed.gguf", folder);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_pool_freep) shoal_pool *pool = NULL;
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    const shoal_tiny_settings settings = {
        .seed = 3, .type = SHOAL_TYPE_F32, .n_layers = 16, .wide = true};
    size_t n_packed = 0;
    bool ok = shoal_tiny_model_build(&settings, &buf) == SHOAL_OK &&
              shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL) == SHOAL_OK &&
              shoal_pool_new(1, &pool) == SHOAL_OK &&
              shoal_file_out_open(path, &out, NULL) == SHOAL_OK &&
              shoal_pack_write(gguf, pool, take_bytes, out, &n_packed, NULL) == SHOAL_OK &&
              shoal_file_out_commit(out, NULL) == SHOAL_OK;
    return ok ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    return rmdir(folder);
}

static shoal_model *load(void)
{
    shoal_model *model = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_model_load(path, &model, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_true(model->packed && model->map.size > 8 * (size_t)HUGE);
    return model;
}

static void logits_of(const shoal_model *model, float ret[N_STEPS][SHOAL_TINY_VOCAB])
{
    shoal_engine_settings settings = shoal_engine_settings_default();
    settings.kv_bytes = 4 << 20;
    settings.n_threads = 1;
    shoal_engine *engine = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_engine_new(model, &settings, &engine, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    for (int32_t i = 0; i < N_STEPS; i++) {
        int32_t ids[N_IDS];
        for (int32_t k = 0; k < N_IDS; k++) {
            ids[k] = (i * 37 + k * 11) % SHOAL_TINY_VOCAB;
        }
        shoal_span span = {.seq = seq, .ids = ids, .n_ids = N_IDS, .n_logits = 1};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
        memcpy(ret[i], shoal_engine_logits(engine, span.logits_i), sizeof ret[i]);
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}

static void test_steps_go_on_while_weights_move(void **state)
{
    (void)state;
    static float mapped[N_STEPS][SHOAL_TINY_VOCAB];
    static float moving[N_STEPS][SHOAL_TINY_VOCAB];
    static float moved[N_STEPS][SHOAL_TINY_VOCAB];
    shoal_model *model = load();
    logits_of(model, mapped);
    shoal_model_start_huge_pages(model);
    logits_of(model, moving);
    shoal_model_wait_huge_pages(model);
    logits_of(model, moved);
    shoal_model_free(model);
    assert_memory_equal(moving, mapped, sizeof mapped);
    assert_memory_equal(moved, mapped, sizeof mapped);
}

/* What the file holds now is no longer what the model reads. */
static void test_weights_have_left_the_file(void **state)
{
    (void)state;
    if (access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK) != 0) {
        skip();
    }
    shoal_model *model = load();
    shoal_model_start_huge_pages(model);
    shoal_model_wait_huge_pages(model);
    size_t head = (size_t)(-(uintptr_t)model->map.data % HUGE);
    size_t end = head + (model->map.size - head) / HUGE * HUGE;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (size_t at = head; at < end; at += HUGE / 2) {
        uint8_t before = model->map.data[at];
        uint8_t other = (uint8_t)(before + 1);
        assert_int_equal(pwrite(fd, &other, 1, (off_t)at), 1);
        assert_int_equal(model->map.data[at], before);
        assert_int_equal(pwrite(fd, &before, 1, (off_t)at), 1);
    }
    assert_int_equal(close(fd), 0);
    shoal_model_free(model);
}

static void test_a_model_may_go_at_any_moment(void **state)
{
    (void)state;
    for (useconds_t us = 0; us < 20000; us = us * 2 + 1) {
        shoal_model *model = load();
        shoal_model_start_huge_pages(model);
        (void)usleep(us);
        shoal_model_free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_go_on_while_weights_move),
        cmocka_unit_test(test_weights_have_left_the_file),
        cmocka_unit_test(test_a_model_may_go_at_any_moment),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
