/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/exit/store.h"

#include <stdio.h>
#include <string.h>

typedef shoal_status filler(shoal_gguf_writer *writer, const void *ctx);

/* A file with what fill puts into it. */
static shoal_gguf *file_with(filler *fill, const void *ctx, shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_gguf_writer_new(&w), SHOAL_OK);
    assert_int_equal(fill(w, ctx), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_finish(w, buf, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)buf->data, buf->length, &gguf, NULL),
                     SHOAL_OK);
    return gguf;
}

static const shoal_exit_set full = {
    .has = {true, true, true, true, true, true},
    .policies = {{.kind = SHOAL_EXIT_FIXED, .threshold = 0.7F},
                 {.kind = SHOAL_EXIT_MARGIN, .threshold = 0.3F},
                 {.kind = SHOAL_EXIT_ENTROPY, .threshold = 0.1F},
                 {.kind = SHOAL_EXIT_LINEAR, .threshold = 0.9F, .bias = -3, .w_top = 5, .w_gap = 1},
                 {.kind = SHOAL_EXIT_PERCENTILE, .threshold = 0.7F, .rate = 0.6F, .window = 512},
                 {.kind = SHOAL_EXIT_RISK, .threshold = 0.8F, .risk = 0.01F, .delta = 0.05F}}};

static shoal_status put_sets(shoal_gguf_writer *w, const void *ctx)
{
    char prefix[SHOAL_EXIT_PREFIX_MAX];
    shoal_exit_set some = {0};
    (void)ctx;
    shoal_exit_prefix(12, prefix);
    assert_string_equal(prefix, "shoal.exit.policy.12");
    SHOAL_TRY(shoal_exit_set_put(w, prefix, &full));
    some.has[SHOAL_EXIT_RISK] = true;
    some.policies[SHOAL_EXIT_RISK] = full.policies[SHOAL_EXIT_RISK];
    return shoal_exit_set_put(w, SHOAL_ESCALATE_POLICY, &some);
}

static void test_sets_come_back(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_sets, NULL, &buf);
    shoal_exit_set set;
    assert_int_equal(shoal_exit_set_read(gguf, "shoal.exit.policy.12", &set, NULL), SHOAL_OK);
    assert_memory_equal(&set, &full, sizeof set);
    assert_int_equal(shoal_exit_set_read(gguf, SHOAL_ESCALATE_POLICY, &set, NULL), SHOAL_OK);
    assert_true(set.has[SHOAL_EXIT_RISK] && !set.has[SHOAL_EXIT_FIXED]);
    assert_int_equal(shoal_exit_set_read(gguf, "shoal.exit.policy.1", &set, NULL), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_EXIT_KINDS; i++) {
        assert_false(set.has[i]);
    }
    shoal_str text = {0};
    assert_int_equal(shoal_gguf_get_str(gguf, "shoal.exit.policy.12.risk", &text, NULL), SHOAL_OK);
    assert_memory_equal(text.data, "risk:threshold=0.8", 18);
}

typedef struct pair {
    const char *key;
    const char *value; /* NULL: a number instead */
} pair;

static shoal_status put_pair(shoal_gguf_writer *w, const void *ctx)
{
    const pair *p = ctx;
    return p->value ? shoal_gguf_put_str(w, p->key, p->value) : shoal_gguf_put_u32(w, p->key, 7);
}

static void test_hostile_policies_are_refused_by_key(void **state)
{
    (void)state;
    char longer[SHOAL_EXIT_TEXT_MAX + 1];
    memset(longer, '1', sizeof longer - 1);
    memcpy(longer, "fixed:threshold=0.", 18);
    longer[SHOAL_EXIT_TEXT_MAX] = 0;
    const pair bad[] = {{"shoal.exit.policy.3.fixed", ""},
                        {"shoal.exit.policy.3.fixed", "fixed"},
                        {"shoal.exit.policy.3.fixed", "fixed:threshold=nan"},
                        {"shoal.exit.policy.3.fixed", "fixed:threshold=1e999"},
                        {"shoal.exit.policy.3.fixed", "margin:threshold=0.5"},
                        {"shoal.exit.policy.3.fixed", longer},
                        {"shoal.exit.policy.3.fixed", NULL},
                        {"shoal.exit.policy.3.percentile", "percentile:rate=0.5,window=4294967296"},
                        {"shoal.exit.policy.3.percentile", "percentile:rate=0.5,window=0"}};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_pair, &bad[i], &buf);
        shoal_exit_set set;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(shoal_exit_set_read(gguf, "shoal.exit.policy.3", &set, &err) < 0);
        assert_non_null(strstr(err.text, bad[i].key));
    }
    /* A policy that no program of this age knows is nobody's concern. */
    const pair newer = {"shoal.exit.policy.3.oracle", "oracle:depth=9"};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_pair, &newer, &buf);
    shoal_exit_set set;
    assert_int_equal(shoal_exit_set_read(gguf, "shoal.exit.policy.3", &set, NULL), SHOAL_OK);
}

static shoal_status put_risks(shoal_gguf_writer *w, const void *ctx)
{
    return shoal_exit_risks_put(w, SHOAL_ESCALATE_POLICY, ctx);
}

static void test_risks_come_back_and_others_are_refused(void **state)
{
    (void)state;
    shoal_exit_risks most = {.n = SHOAL_EXIT_RISKS_MAX};
    for (size_t i = 0; i < most.n; i++) {
        most.risk[i] = (float)(i + 1) / 17;
        most.threshold[i] = SHOAL_EXIT_NEVER - (float)(i + 1) / 9;
    }
    for (size_t n = 0; n <= most.n; n += most.n / 2) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_exit_risks some = most;
        shoal_exit_risks back = {.n = 7};
        some.n = n;
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_risks, &some, &buf);
        assert_int_equal(shoal_exit_risks_read(gguf, SHOAL_ESCALATE_POLICY, &back, NULL), SHOAL_OK);
        assert_int_equal(back.n, n);
        assert_memory_equal(back.risk, most.risk, n * sizeof *back.risk);
        assert_memory_equal(back.threshold, most.threshold, n * sizeof *back.threshold);
    }
    static const char *const bad[] = {
        "",
        ",",
        "0.1",
        "0.1=",
        "=0.5",
        "0.1=0.5,",
        "0.1=0.5,,0.2=0.4",
        "0.1=0.5;0.2=0.4",
        "0=0.5",
        "1=0.5",
        "-0.1=0.5",
        "nan=0.5",
        "0.1=nan",
        "0.1=-0.1",
        "0.1=2.1",
        "0.1=0.5,0.1=0.4",
        "0.1=0.5,0.05=0.4",
        "0.1=0.5,0.2=0.6",
        "0.01=1,0.02=1,0.03=1,0.04=1,0.05=1,0.06=1,0.07=1,0.08=1,0.09=1,0.1=1,0.11=1,0.12=1,"
        "0.13=1,0.14=1,0.15=1,0.16=1,0.17=1",
        NULL};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        const pair p = {"shoal.escalate.policy.risks", bad[i]};
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_pair, &p, &buf);
        shoal_exit_risks back;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_exit_risks_read(gguf, SHOAL_ESCALATE_POLICY, &back, &err),
                         SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, p.key));
    }
}

/* A NUL inside a text would hide what is behind it. */
static shoal_status put_nul(shoal_gguf_writer *w, const void *ctx)
{
    static const char key[] = "shoal.exit.policy.3.fixed";
    static const char text[] = "fixed:threshold=1\0,threshold=0";
    uint64_t n_key = sizeof key - 1;
    uint64_t n_text = sizeof text - 1;
    uint32_t kind = SHOAL_GGUF_STRING;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    (void)ctx;
    SHOAL_TRY(shoal_buf_append(&raw, &n_key, sizeof n_key));
    SHOAL_TRY(shoal_buf_append(&raw, key, n_key));
    SHOAL_TRY(shoal_buf_append(&raw, &kind, sizeof kind));
    SHOAL_TRY(shoal_buf_append(&raw, &n_text, sizeof n_text));
    SHOAL_TRY(shoal_buf_append(&raw, text, n_text));
    return shoal_gguf_put_raw(w, (shoal_str){key, n_key}, (shoal_str){raw.data, raw.length});
}

static void test_a_nul_in_a_policy_is_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_nul, NULL, &buf);
    shoal_exit_set set;
    assert_true(shoal_exit_set_read(gguf, "shoal.exit.policy.3", &set, NULL) < 0);
}

/* --- calibration ----------------------------------------------------------------------------- */

static shoal_exit_calibration made(void)
{
    shoal_exit_calibration c = {.n = 1000, .n_tokens = 17123, .risk = 0.01F, .delta = 0.05F};
    for (size_t i = 0; i < SHOAL_HASH_BYTES; i++) {
        c.data.bytes[i] = (uint8_t)(i * 37);
        c.subject.bytes[i] = (uint8_t)(255 - i);
    }
    return c;
}

static shoal_status put_calibration(shoal_gguf_writer *w, const void *ctx)
{
    const shoal_exit_calibration c = made();
    SHOAL_TRY(shoal_exit_calibration_put(w, SHOAL_EXIT_CALIBRATION, &c));
    return ctx ? put_pair(w, ctx) : SHOAL_OK;
}

static void test_calibration_comes_back(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = file_with(put_calibration, NULL, &buf);
    const shoal_exit_calibration want = made();
    shoal_exit_calibration c;
    memset(&c, 0, sizeof c);
    assert_int_equal(shoal_exit_calibration_read(gguf, SHOAL_EXIT_CALIBRATION, &c, NULL), SHOAL_OK);
    assert_memory_equal(&c, &want, sizeof c);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_exit_calibration_read(gguf, SHOAL_ESCALATE_CALIBRATION, &c, &err),
                     SHOAL_E_NOTFOUND);
    assert_true(err.code == SHOAL_OK && err.text[0] == '\0');
}

static void test_hostile_calibrations_are_refused_by_key(void **state)
{
    (void)state;
    static const pair bad[] = {{"shoal.exit.calibration.hash", NULL},
                               {"shoal.exit.calibration.hash", "00"},
                               {"shoal.exit.calibration.model",
                                "g000000000000000000000000000000000000000000000000000000000000000"},
                               {"shoal.exit.calibration.n", "many"},
                               {"shoal.exit.calibration.tokens", ""},
                               {"shoal.exit.calibration.risk", NULL}, /* 7 */
                               {"shoal.exit.calibration.delta", "0.05"}};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_gguf_closep)
        shoal_gguf *gguf = file_with(put_calibration, &bad[i], &buf);
        shoal_exit_calibration c;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_exit_calibration_read(gguf, SHOAL_EXIT_CALIBRATION, &c, &err),
                         SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, bad[i].key));
    }
}

static shoal_status put_exits(shoal_gguf_writer *w, const void *ctx)
{
    const float *norm = ctx;
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.exit.layers", (int32_t[]){2}, 1));
    return shoal_gguf_put_f32_array(w, "shoal.exit.norm", norm, 4);
}

static void test_subject_follows_model_and_exits(void **state)
{
    (void)state;
    static const float norms[2][4] = {{1, 1, 1, 1}, {1, 1, 1, 1.0000001F}};
    shoal_hash models[2] = {{{1}}, {{2}}};
    shoal_hash seen[4];
    for (size_t i = 0; i < 4; i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_gguf_closep)
        shoal_gguf *gguf = file_with(put_exits, norms[i % 2], &buf);
        assert_int_equal(shoal_exit_subject(gguf, &models[i / 2], &seen[i], NULL), SHOAL_OK);
        for (size_t j = 0; j < i; j++) {
            assert_memory_not_equal(&seen[i], &seen[j], sizeof seen[i]);
        }
    }
    shoal_exit_calibration c = {.subject = seen[0]};
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_exit_calibration_fits(&c, &seen[0], NULL), SHOAL_OK);
    assert_int_equal(shoal_exit_calibration_fits(&c, &seen[1], &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, "shoal-forge calibrate"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets_come_back),
        cmocka_unit_test(test_hostile_policies_are_refused_by_key),
        cmocka_unit_test(test_risks_come_back_and_others_are_refused),
        cmocka_unit_test(test_a_nul_in_a_policy_is_refused),
        cmocka_unit_test(test_calibration_comes_back),
        cmocka_unit_test(test_hostile_calibrations_are_refused_by_key),
        cmocka_unit_test(test_subject_follows_model_and_exits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
