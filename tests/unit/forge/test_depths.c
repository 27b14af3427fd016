/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/forge/depths.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    N_IDS = 3 * FORGE_DEPTHS_ROWS + 5,
    N_HEADS = 3
};

static char path[] = "/tmp/shoal-test-depths-XXXXXX";
static forge_session session;
static int32_t ids[SHOAL_TINY_CTX + 1];

static int group_setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    const shoal_tiny_settings s = {
        .seed = 8, .type = SHOAL_TYPE_Q8_0, .n_layers = 4, .n_exits = 2, .exits = {1, 3}};
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0 || shoal_tiny_model_build(&s, &buf) != SHOAL_OK ||
        shoal_file_write(path, buf.data, buf.length, NULL) != SHOAL_OK) {
        return -1;
    }
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        ids[i] = (int32_t)((i * 131 + 7) % SHOAL_TINY_VOCAB);
    }
    const forge_args args = {.model = path, .threads = 1};
    return shoal_forge_session_open(&args, FORGE_DEPTHS_ROWS, FORGE_DEPTHS_ROWS, 0, &session,
                                    NULL) == SHOAL_OK
               ? 0
               : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_forge_session_close(&session);
    return unlink(path);
}

typedef struct heard {
    size_t first; /* position of the first row */
    size_t n[N_HEADS];
    float (*rows)[N_HEADS][SHOAL_TINY_VOCAB]; /* (N_IDS) by position */
    size_t n_until;                           /* calls that go well; the next one ends the run */
} heard;

static shoal_status hear(void *ctx, size_t position, size_t head, const float *logits)
{
    heard *h = ctx;
    assert_true(head < N_HEADS);
    assert_int_equal(position, h->first + h->n[head]);
    assert_true(head == 0 || h->n[head] < h->n[head - 1]);
    h->n[head]++;
    if (h->n_until-- == 0) {
        return SHOAL_E_CANCELLED;
    }
    memcpy(h->rows[position][head], logits, sizeof h->rows[0][0]);
    return SHOAL_OK;
}

static heard run(size_t n, size_t first, shoal_status want)
{
    forge_depths *depths = NULL;
    heard h = {.first = first, .n_until = SIZE_MAX};
    h.rows = shoal_calloc(N_IDS, sizeof *h.rows);
    assert_non_null(h.rows);
    assert_int_equal(shoal_forge_depths_new(&session, 2, &depths, NULL), SHOAL_OK);
    assert_int_equal(shoal_forge_depths_n_heads(depths), N_HEADS);
    assert_true(shoal_forge_depths_share(depths, 0) == 0.25F);
    assert_true(shoal_forge_depths_share(depths, 2) == 1.0F);
    assert_int_equal(shoal_forge_depths_run(depths, ids, n, first, hear, &h, NULL), want);
    shoal_forge_depths_free(depths);
    return h;
}

static void test_full_depth_equals_the_engine(void **state)
{
    (void)state;
    heard h = run(N_IDS, 0, SHOAL_OK);
    (void)shoal_kv_seq_truncate(session.seq, 0);
    for (size_t i = 0; i < N_IDS; i++) {
        shoal_span span = {.seq = session.seq, .ids = ids + i, .n_ids = 1, .n_logits = 1};
        assert_int_equal(shoal_engine_step(session.engine, &span, 1), SHOAL_OK);
        assert_memory_equal(shoal_engine_logits(session.engine, span.logits_i),
                            h.rows[i][N_HEADS - 1], sizeof h.rows[0][0]);
    }
    for (size_t head = 0; head < N_HEADS; head++) {
        assert_int_equal(h.n[head], N_IDS);
    }
    shoal_free(h.rows);
}

static void test_first_position_changes_no_bit(void **state)
{
    (void)state;
    static const size_t firsts[] = {1, FORGE_DEPTHS_ROWS - 1, FORGE_DEPTHS_ROWS,
                                    FORGE_DEPTHS_ROWS + 1, N_IDS - 1};
    heard all = run(N_IDS, 0, SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(firsts); i++) {
        heard h = run(N_IDS, firsts[i], SHOAL_OK);
        assert_int_equal(h.n[0], N_IDS - firsts[i]);
        assert_memory_equal(h.rows[firsts[i]], all.rows[firsts[i]],
                            (N_IDS - firsts[i]) * sizeof *h.rows);
        shoal_free(h.rows);
    }
    heard none = run(N_IDS, N_IDS, SHOAL_OK);
    assert_int_equal(none.n[0], 0);
    shoal_free(none.rows);
    shoal_free(all.rows);
}

static void test_context_is_the_limit(void **state)
{
    (void)state;
    heard h = run(SHOAL_TINY_CTX, SHOAL_TINY_CTX, SHOAL_OK);
    shoal_free(h.rows);
    h = run(SHOAL_TINY_CTX + 1, SHOAL_TINY_CTX, SHOAL_E_LIMIT);
    shoal_free(h.rows);
}

static void test_a_refusal_ends_the_run_and_the_next_one_is_sound(void **state)
{
    (void)state;
    forge_depths *depths = NULL;
    heard all = run(N_IDS, 0, SHOAL_OK);
    heard h = {.n_until = FORGE_DEPTHS_ROWS + 3};
    h.rows = shoal_calloc(N_IDS, sizeof *h.rows);
    assert_int_equal(shoal_forge_depths_new(&session, 1, &depths, NULL), SHOAL_OK);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_forge_depths_run(depths, ids, N_IDS, 0, hear, &h, &err),
                     SHOAL_E_CANCELLED);
    assert_true(strlen(err.text) > 0);
    memset(h.n, 0, sizeof h.n);
    h.n_until = SIZE_MAX;
    assert_int_equal(shoal_forge_depths_run(depths, ids, N_IDS, 0, hear, &h, NULL), SHOAL_OK);
    assert_memory_equal(h.rows, all.rows, N_IDS * sizeof *h.rows);
    shoal_forge_depths_free(depths);
    shoal_free(h.rows);
    shoal_free(all.rows);
}

static void test_failing_allocations_leak_nothing(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        forge_depths *depths = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_forge_depths_new(&session, 1, &depths, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        shoal_forge_depths_free(depths);
        if (status == SHOAL_OK) {
            assert_true(i > 10);
            return;
        }
        assert_null(depths);
    }
    fail_msg("more than 1000 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_depth_equals_the_engine),
        cmocka_unit_test(test_first_position_changes_no_bit),
        cmocka_unit_test(test_context_is_the_limit),
        cmocka_unit_test(test_a_refusal_ends_the_run_and_the_next_one_is_sound),
        cmocka_unit_test(test_failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
