/* SPDX-License-Identifier: Apache-2.0
 *
 * The rows that calibration is made of, and the copy it is put into.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/calibrate.h"
#include "cloud/forge/depths.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/shoal-test-calibrate-XXXXXX";
static char copy_path[64];
static forge_session edge;
static forge_session teacher;
static eval_quiz quiz;

static shoal_status open_session(uint64_t seed, forge_session *ret_session)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    const shoal_tiny_settings s = {
        .seed = seed, .type = SHOAL_TYPE_Q8_0, .n_layers = 4, .n_exits = 2, .exits = {1, 3}};
    SHOAL_TRY(shoal_tiny_model_build(&s, &buf));
    SHOAL_TRY(shoal_file_write(path, buf.data, buf.length, NULL));
    const forge_args args = {.model = path, .threads = 1};
    return shoal_forge_session_open(&args, FORGE_DEPTHS_ROWS, FORGE_DEPTHS_ROWS, 0, ret_session,
                                    NULL);
}

static int group_setup(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    (void)snprintf(copy_path, sizeof copy_path, "%s.copy", path);
    if (fd < 0 || close(fd) != 0 || open_session(9, &teacher) != SHOAL_OK ||
        open_session(8, &edge) != SHOAL_OK) {
        return -1;
    }
    /* Longer than the rows that go together, an empty answer, a prompt of one token. */
    char longer[600] = {0};
    for (size_t i = 0; i + 8 < sizeof longer; i += 4) {
        memcpy(longer + i, i % 8 ? "the " : "and ", 4);
    }
    static const char *const pairs[][2] = {
        {"the thing", "and then"}, {"a", ""}, {"", "on the sand"}};
    for (size_t i = 0; i < SHOAL_COUNT(pairs); i++) {
        if (shoal_forge_quiz_add(&quiz, edge.model->tokenizer, "k", pairs[i][0], pairs[i][1], 1,
                                 NULL) != SHOAL_OK) {
            return -1;
        }
    }
    return shoal_forge_quiz_add(&quiz, edge.model->tokenizer, "k", longer, longer, 1, NULL);
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_forge_quiz_fini(&quiz);
    shoal_forge_session_close(&edge);
    shoal_forge_session_close(&teacher);
    (void)unlink(copy_path);
    return unlink(path);
}

/* The greedy choice of a session after the first n ids of a question, token by token. */
static int32_t greedy(const forge_session *s, const eval_question *q, size_t n)
{
    float max = 0;
    const float *logits = NULL;
    (void)shoal_kv_seq_truncate(s->seq, 0);
    for (size_t i = 0; i < n; i++) {
        shoal_span span = {
            .seq = s->seq, .ids = quiz.ids + q->first + i, .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(s->engine, &span, 1), SHOAL_OK);
        logits = shoal_engine_logits(s->engine, span.logits_i);
    }
    return (int32_t)shoal_engine_kernels(s->engine)->argmax(s->model->hp.n_vocab, logits, &max);
}

static void check_rows(const calib_rows *rows, bool taught)
{
    size_t at = 0;
    assert_int_equal(rows->n_heads, 3);
    assert_int_equal(rows->n_groups, quiz.n);
    for (size_t i = 0; i < quiz.n; i++) {
        const eval_question *q = &quiz.questions[i];
        for (size_t j = 0; j < q->n_answer; j++, at++) {
            /* Of the long answer the ends suffice. */
            bool looked_at = j < 3 || j + 3 > q->n_answer;
            const shoal_exit_sample *full = &rows->rows[2 * rows->n + at];
            for (size_t head = 0; head < 3; head++) {
                const shoal_exit_sample *row = &rows->rows[head * rows->n + at];
                int32_t judge = head == 2 ? rows->next[at] : full->features.id;
                assert_int_equal(row->group, i);
                assert_true(row->features.sound && row->features.entropy >= 0);
                assert_true(row->agrees == (row->features.id == judge));
                assert_true(row->features.depth == (head == 2 ? 1.0F : head ? 0.75F : 0.25F));
            }
            if (looked_at) {
                assert_int_equal(full->features.id, greedy(&edge, q, q->n_prompt + j));
                assert_int_equal(rows->next[at], taught ? greedy(&teacher, q, q->n_prompt + j)
                                                        : quiz.ids[q->first + q->n_prompt + j]);
            }
        }
    }
    assert_int_equal(at, rows->n);
}

static void test_rows_are_what_the_models_say(void **state)
{
    (void)state;
    calib_rows rows;
    calib_rows taught;
    assert_int_equal(shoal_forge_calib_collect(&edge, NULL, &quiz, 2, &rows, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_calib_collect(&edge, &teacher, &quiz, 1, &taught, NULL), SHOAL_OK);
    check_rows(&rows, false);
    check_rows(&taught, true);
    assert_memory_not_equal(&rows.hash, &taught.hash, sizeof rows.hash);
    shoal_forge_calib_fini(&rows);
    shoal_forge_calib_fini(&taught);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2000; i++) {
        calib_rows rows;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_forge_calib_collect(&edge, &teacher, &quiz, 1, &rows, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i > 10);
            shoal_forge_calib_fini(&rows);
            return;
        }
        assert_true(status < 0);
    }
    fail_msg("more than 2000 allocations");
}

static calib_result made(void)
{
    calib_result r = {.calibration = {.n = 4, .n_tokens = 9, .risk = 0.01F, .delta = 0.05F}};
    for (size_t i = 0; i < 3; i++) {
        r.sets[i].has[SHOAL_EXIT_FIXED] = true;
        r.sets[i].policies[SHOAL_EXIT_FIXED] =
            (shoal_exit_policy){.kind = SHOAL_EXIT_FIXED, .threshold = 0.25F * (float)(i + 1)};
    }
    return r;
}

static void test_copy_has_the_policies_and_the_very_tensors(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_map_close) shoal_map copy_map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *copy = NULL;
    const calib_result want = made();
    const shoal_hparams *hp = &edge.model->hp;
    assert_int_equal(shoal_map_open(path, &map, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_open(map.data, map.size, &gguf, NULL), SHOAL_OK);
    for (uint64_t i = 0; i < 10000; i++) { /* every allocation fails once, then none */
        shoal_mem_fail_at(i);
        shoal_status status = shoal_forge_calib_write(gguf, hp, &want, copy_path, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_true(status < 0);
    }
    assert_int_equal(shoal_map_open(copy_path, &copy_map, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_open(copy_map.data, copy_map.size, &copy, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_n_tensors(copy), shoal_gguf_n_tensors(gguf));
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *a = shoal_gguf_tensor_at(gguf, i);
        const shoal_gguf_tensor *b = shoal_gguf_tensor_at(copy, i);
        assert_int_equal(a->size_bytes, b->size_bytes);
        assert_memory_equal(a->data, b->data, (size_t)a->size_bytes);
    }
    static const char *const prefixes[] = {"shoal.exit.policy.1", "shoal.exit.policy.3",
                                           SHOAL_ESCALATE_POLICY};
    for (size_t i = 0; i < SHOAL_COUNT(prefixes); i++) {
        shoal_exit_set set;
        assert_int_equal(shoal_exit_set_read(copy, prefixes[i], &set, NULL), SHOAL_OK);
        assert_memory_equal(&set, &want.sets[i], sizeof set);
    }
    shoal_exit_calibration c;
    assert_int_equal(shoal_exit_calibration_read(copy, SHOAL_EXIT_CALIBRATION, &c, NULL), SHOAL_OK);
    assert_int_equal(c.n, 4);
    assert_int_equal(shoal_exit_calibration_read(copy, SHOAL_ESCALATE_CALIBRATION, &c, NULL),
                     SHOAL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_what_the_models_say),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
        cmocka_unit_test(test_copy_has_the_policies_and_the_very_tensors),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
