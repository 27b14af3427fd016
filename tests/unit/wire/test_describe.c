/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/wire/wire.h"
#include "proto_bytes.h"

#include <stdio.h>

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
    d.n_adapters = SHOAL_WIRE_ADAPTERS_MAX;
    for (size_t i = 0; i < d.n_adapters; i++) {
        (void)snprintf(d.adapters[i].name, sizeof d.adapters[i].name, "%0*zu", 1 + (int)i % 64, i);
        memset(&d.adapters[i].hash, (int)(4 + i), sizeof d.adapters[i].hash);
    }
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
    assert_int_equal(back.n_adapters, SHOAL_WIRE_ADAPTERS_MAX);
    assert_memory_equal(back.adapters, d.adapters, sizeof d.adapters);
    assert_ptr_equal(shoal_describe_adapter(&back, d.adapters[63].name), &back.adapters[63]);
    assert_null(shoal_describe_adapter(&back, "another"));
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
    d = full();
    d.n_adapters = SHOAL_WIRE_ADAPTERS_MAX + 1;
    encode_refused(&d);
    d = full();
    d.adapters[5].name[0] = '\0';
    encode_refused(&d);
    d = full();
    memcpy(d.adapters[5].name, d.adapters[3].name, sizeof d.adapters[3].name);
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

/* An Adapter as field 14 of a reply that is otherwise sound. */
static void put_adapter(shoal_buf *buf, const char *name, size_t n_name, size_t n_hash)
{
    static const uint8_t zeros[40];
    shoal_buf adapter = {0};
    pb_bytes(&adapter, 1, name, n_name);
    pb_bytes(&adapter, 2, zeros, n_hash);
    pb_bytes(buf, 14, adapter.data, adapter.length);
    shoal_buf_fini(&adapter);
}

static void adapters_case(size_t n, const char *name, size_t n_name, size_t n_hash,
                          const char *word)
{
    shoal_describe d = full();
    shoal_describe back = {.n_vocab = 77};
    shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    d.n_adapters = 0;
    assert_int_equal(shoal_describe_encode(&d, &buf), SHOAL_OK);
    for (size_t i = 0; i + 1 < n; i++) {
        char other[24];
        (void)snprintf(other, sizeof other, "x%zu", i);
        put_adapter(&buf, other, strlen(other), 32);
    }
    put_adapter(&buf, name, n_name, n_hash);
    shoal_status status = shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, &err);
    assert_int_equal(status, word ? SHOAL_E_PROTOCOL : SHOAL_OK);
    assert_true(!word || strstr(err.text, word));
    assert_int_equal(back.n_adapters, word ? 0 : n);
    shoal_buf_fini(&buf);
}

static void test_adapters_of_a_reply_at_their_limits(void **state)
{
    (void)state;
    char name[66];
    memset(name, 'n', sizeof name);
    adapters_case(1, name, 1, 32, NULL);
    adapters_case(64, name, 64, 32, NULL);
    adapters_case(65, name, 64, 32, "adapters count");
    adapters_case(2, name, 65, 32, "Adapter.name");
    adapters_case(2, name, 0, 32, "Adapter.name");
    adapters_case(2, "a b", 3, 32, "Adapter.name has byte 0x20");
    adapters_case(2, "x0", 2, 32, "\"x0\" twice");
    adapters_case(2, name, 1, 31, "Adapter.hash has 31 bytes");
    adapters_case(2, name, 1, 33, "Adapter.hash has 33 bytes");
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
        cmocka_unit_test(test_adapters_of_a_reply_at_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
