/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/wire/wire.h"
#include "proto_bytes.h"

static shoal_describe full(void)
{
    shoal_describe d = {.name = "shoal-64m",
                        .kv_form = "f16",
                        .n_vocab = 32000,
                        .n_ctx = 4096,
                        .protocol = SHOAL_WIRE_PROTOCOL,
                        .backend = "upstream",
                        .verify = SHOAL_VERIFY_GREEDY,
                        .forms = true,
                        .opens_whole = true};
    memset(&d.model, 1, sizeof d.model);
    memset(&d.tokenizer, 2, sizeof d.tokenizer);
    memset(&d.chat_template, 3, sizeof d.chat_template);
    return d;
}

static void test_describe_round_trips(void **state)
{
    (void)state;
    shoal_describe d = full();
    shoal_describe back = {0};
    shoal_buf buf = {0};
    assert_int_equal(shoal_describe_encode(&d, &buf), SHOAL_OK);
    assert_int_equal(shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
                     SHOAL_OK);
    assert_string_equal(back.name, d.name);
    assert_string_equal(back.kv_form, d.kv_form);
    assert_memory_equal(&back.model, &d.model, sizeof d.model);
    assert_memory_equal(&back.tokenizer, &d.tokenizer, sizeof d.tokenizer);
    assert_memory_equal(&back.chat_template, &d.chat_template, sizeof d.chat_template);
    assert_int_equal(back.n_vocab, 32000);
    assert_int_equal(back.n_ctx, 4096);
    assert_int_equal(back.protocol, 1);
    assert_string_equal(back.backend, "upstream");
    assert_int_equal(back.verify, SHOAL_VERIFY_GREEDY);
    assert_true(back.forms);
    assert_true(back.opens_whole);
    assert_string_equal(shoal_verify_name(back.verify), "greedy");
    shoal_buf_fini(&buf);
}

static void encode_refused(const shoal_describe *d)
{
    shoal_buf buf = {0};
    assert_int_equal(shoal_describe_encode(d, &buf), SHOAL_E_INVALID);
    assert_int_equal(buf.length, 0);
    shoal_buf_fini(&buf);
}

static void test_describe_of_ours_is_checked(void **state)
{
    (void)state;
    shoal_describe d = full();
    d.n_vocab = 0;
    encode_refused(&d);
    d = full();
    d.n_ctx = SHOAL_WIRE_POSITION_MAX + 1;
    encode_refused(&d);
    d = full();
    memset(d.kv_form, 'x', sizeof d.kv_form);
    encode_refused(&d);
    d = full();
    d.name[0] = '\n';
    encode_refused(&d);
    d = full();
    d.verify = (shoal_verify)3;
    encode_refused(&d);
    d = full();
    memcpy(d.backend, "a b", 4);
    encode_refused(&d);
}

typedef struct raw_describe {
    const char *name, *kv_form, *backend;
    size_t n_name, n_kv_form, n_hash, n_backend;
    uint64_t n_vocab, n_ctx, protocol, verify;
} raw_describe;

static void raw_case(raw_describe raw, const char *word)
{
    static const uint8_t zeros[40];
    shoal_buf buf = {0};
    pb_bytes(&buf, 1, raw.name, raw.n_name);
    for (unsigned field = 2; field < 5; field++) {
        pb_bytes(&buf, field, zeros, raw.n_hash);
    }
    pb_bytes(&buf, 5, raw.kv_form, raw.n_kv_form);
    pb_uint(&buf, 6, raw.n_vocab);
    pb_uint(&buf, 7, raw.n_ctx);
    pb_uint(&buf, 8, raw.protocol);
    if (raw.backend) {
        pb_bytes(&buf, 9, raw.backend, raw.n_backend);
    }
    if (raw.verify > 0) {
        pb_uint(&buf, 10, raw.verify);
    }
    shoal_describe d = {.n_vocab = 77};
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_describe_decode((const uint8_t *)buf.data, buf.length, &d, &err);
    if (word) {
        if (status != SHOAL_E_PROTOCOL || !strstr(err.text, word)) {
            fail_msg("wanted a refusal naming '%s', got %d '%s'", word, status, err.text);
        }
        assert_int_equal(d.n_vocab, 77); /* outputs are written on success alone */
    } else {
        assert_int_equal(status, SHOAL_OK);
        assert_int_equal(d.verify, raw.verify);
        assert_false(d.forms); /* as an older node says nothing of them */
        assert_int_equal(strlen(d.backend), raw.n_backend);
    }
    shoal_buf_fini(&buf);
}

static void test_describe_fields_at_their_limits(void **state)
{
    (void)state;
    char text[257];
    memset(text, 'k', sizeof text);
    const raw_describe good = {.name = text,
                               .kv_form = text,
                               .n_name = 255,
                               .n_kv_form = 15,
                               .n_hash = 32,
                               .n_vocab = 1,
                               .n_ctx = 1,
                               .protocol = 1};
    raw_case(good, NULL);
    raw_describe raw = good;
    raw.n_name = 256;
    raw_case(raw, "DescribeReply.name has 256 bytes");
    raw = good;
    raw.n_kv_form = 16;
    raw_case(raw, "DescribeReply.kv_form has 16 bytes");
    raw.kv_form = "f 16";
    raw.n_kv_form = 4;
    raw_case(raw, "DescribeReply.kv_form has byte 0x20");
    raw = good;
    raw.n_hash = 31;
    raw_case(raw, "DescribeReply.model_hash has 31 bytes");
    raw = good;
    raw.n_vocab = 0;
    raw_case(raw, "DescribeReply.n_vocab is 0");
    raw.n_vocab = INT32_MAX;
    raw_case(raw, NULL);
    raw.n_vocab = UINT64_C(0x80000000);
    raw_case(raw, "DescribeReply.n_vocab");
    raw = good;
    raw.n_ctx = 0;
    raw_case(raw, "DescribeReply.n_ctx is 0");
    raw.n_ctx = SHOAL_WIRE_POSITION_MAX;
    raw_case(raw, NULL);
    raw.n_ctx = SHOAL_WIRE_POSITION_MAX + 1;
    raw_case(raw, "DescribeReply.n_ctx");
    raw = good;
    raw.protocol = 0;
    raw_case(raw, "DescribeReply.protocol is 0");
    raw = good; /* so an older node says it: native, and it verifies everything */
    raw.backend = text;
    raw.n_backend = 15;
    raw_case(raw, NULL);
    raw.n_backend = 16;
    raw_case(raw, "DescribeReply.backend has 16 bytes");
    raw.backend = "a\0b";
    raw.n_backend = 3;
    raw_case(raw, "DescribeReply.backend has byte 0x00");
    raw = good;
    raw.verify = SHOAL_VERIFY_NONE;
    raw_case(raw, NULL);
    raw.verify = SHOAL_VERIFY_NONE + 1;
    raw_case(raw, "DescribeReply.verify is 3");
    raw.verify = UINT64_C(0xffffffffffffffff);
    raw_case(raw, "DescribeReply.verify");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe_round_trips),
        cmocka_unit_test(test_describe_of_ours_is_checked),
        cmocka_unit_test(test_describe_fields_at_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
