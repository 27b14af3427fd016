/* SPDX-License-Identifier: Apache-2.0
 *
 * KvRequest, KvPart and EdgeKv: both ways, at every limit, and what no encoder of ours would say.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/wire/wire.h"
#include "proto_bytes.h"

#include "common/base/mem.h"

enum {
    N_VOCAB = 1000
};

static void test_request_round_trips(void **state)
{
    (void)state;
    static const size_t counts[] = {32, 64, 1024, SHOAL_WIRE_PROMPT_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        int32_t *ids = shoal_calloc(counts[i], sizeof *ids);
        assert_non_null(ids);
        for (size_t k = 0; k < counts[i]; k++) {
            ids[k] = (int32_t)(k * 7 % N_VOCAB);
        }
        shoal_msg_kv_request r = {.ids = ids,
                                  .n_ids = counts[i],
                                  .record = (uint32_t)(counts[i] - 32),
                                  .archived = i % 2 == 1,
                                  .request_id = "req-1"};
        memset(&r.model, 1, sizeof r.model);
        memset(&r.tokenizer, 2, sizeof r.tokenizer);
        memset(&r.form, 3, sizeof r.form);
        memset(&r.basis, r.archived ? 4 : 0, sizeof r.basis);
        shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_msg_kv_request_freep) shoal_msg_kv_request *back = NULL;
        assert_int_equal(shoal_msg_kv_request_encode(&r, &buf), SHOAL_OK);
        assert_int_equal(shoal_msg_kv_request_decode((const uint8_t *)buf.data, buf.length, N_VOCAB,
                                                     &back, NULL),
                         SHOAL_OK);
        assert_int_equal(back->n_ids, counts[i]);
        assert_int_equal(back->record, counts[i] - 32);
        assert_memory_equal(back->ids, ids, counts[i] * sizeof *ids);
        assert_memory_equal(&back->model, &r.model, sizeof r.model);
        assert_memory_equal(&back->tokenizer, &r.tokenizer, sizeof r.tokenizer);
        assert_memory_equal(&back->form, &r.form, sizeof r.form);
        assert_int_equal(back->archived, r.archived);
        assert_memory_equal(&back->basis, &r.basis, sizeof r.basis);
        assert_string_equal(back->request_id, "req-1");
        shoal_buf_fini(&buf);
        shoal_free(ids);
    }
}

/* A request as bytes, with what is asked for. */
static void put_request(shoal_buf *buf, size_t n_hash, size_t n_ids, uint64_t id, const char *name)
{
    uint8_t hash[64] = {1};
    for (unsigned field = 1; field <= 3; field++) {
        pb_bytes(buf, field, hash, field == 3 ? n_hash : 32);
    }
    pb_ids(buf, 4, n_ids, id);
    pb_bytes(buf, 5, name, strlen(name));
}

static void test_request_limits_at_their_edges(void **state)
{
    (void)state;
    static const char long_name[] =
        "0123456789012345678901234567890123456789012345678901234567890123x";
    const struct {
        size_t n_hash, n_ids;
        uint64_t id;
        const char *name, *field;
    } rows[] = {{32, 32, 999, "a", NULL},
                {32, 32, 0, long_name + 1, NULL},
                {32, 32, 1000, "a", "KvRequest.ids"},
                {32, 32, UINT32_MAX, "a", "KvRequest.ids"},
                {32, 0, 1, "a", "KvRequest.ids count"},
                {32, 31, 1, "a", "KvRequest.ids count"},
                {32, 33, 1, "a", "modulo 32"},
                {32, SHOAL_WIRE_PROMPT_MAX, 1, "a", NULL},
                {32, SHOAL_WIRE_PROMPT_MAX + 32, 1, "a", "KvRequest.ids count"},
                {31, 32, 1, "a", "KvRequest.form_hash"},
                {33, 32, 1, "a", "KvRequest.form_hash"},
                {0, 32, 1, "a", "KvRequest.form_hash"},
                {32, 32, 1, long_name, "KvRequest.request_id"},
                {32, 32, 1, "a b", "KvRequest.request_id"}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_buf buf = {0};
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_msg_kv_request_freep) shoal_msg_kv_request *back = NULL;
        put_request(&buf, rows[i].n_hash, rows[i].n_ids, rows[i].id, rows[i].name);
        shoal_status status = shoal_msg_kv_request_decode((const uint8_t *)buf.data, buf.length,
                                                          N_VOCAB, &back, &err);
        assert_int_equal(status, rows[i].field ? SHOAL_E_PROTOCOL : SHOAL_OK);
        if (rows[i].field) {
            assert_non_null(strstr(err.text, rows[i].field));
            assert_null(back);
        }
        shoal_buf_fini(&buf);
    }
}

static void test_a_basis_is_a_whole_hash_or_none(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 31, 32, 33};
    const uint8_t hash[33] = {9};
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        bool fits = counts[i] == 0 || counts[i] == 32;
        shoal_buf buf = {0};
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_msg_kv_request_freep) shoal_msg_kv_request *back = NULL;
        put_request(&buf, 32, 32, 1, "a");
        pb_bytes(&buf, 7, hash, counts[i]);
        assert_int_equal(shoal_msg_kv_request_decode((const uint8_t *)buf.data, buf.length, N_VOCAB,
                                                     &back, &err),
                         fits ? SHOAL_OK : SHOAL_E_PROTOCOL);
        assert_true(fits ? back->archived == (counts[i] == 32)
                         : strstr(err.text, "KvRequest.basis_hash") != NULL);
        if (fits && counts[i] == 32) {
            assert_memory_equal(&back->basis, hash, 32);
        }
        shoal_buf_fini(&buf);
    }
}

static void test_a_record_has_a_limit(void **state)
{
    (void)state;
    int32_t ids[32] = {0};
    for (uint32_t i = 0; i < 3; i++) {
        const uint32_t record = SHOAL_WIRE_KV_RECORD_MAX - 1 + i;
        shoal_buf buf = {0};
        shoal_err err = SHOAL_ERR_INIT;
        SHOAL_CLEANUP(shoal_msg_kv_request_freep) shoal_msg_kv_request *back = NULL;
        const shoal_msg_kv_request r = {.ids = ids, .n_ids = 32, .record = record};
        assert_int_equal(shoal_msg_kv_request_encode(&r, &buf), i < 2 ? SHOAL_OK : SHOAL_E_INVALID);
        shoal_buf_fini(&buf);
        put_request(&buf, 32, 32, 1, "a");
        pb_uint(&buf, 6, record);
        assert_int_equal(shoal_msg_kv_request_decode((const uint8_t *)buf.data, buf.length, N_VOCAB,
                                                     &back, &err),
                         i < 2 ? SHOAL_OK : SHOAL_E_PROTOCOL);
        assert_true(i < 2 ? back->record == record : strstr(err.text, "KvRequest.record") != NULL);
        shoal_buf_fini(&buf);
    }
}

static void test_requests_of_ours_are_checked(void **state)
{
    (void)state;
    int32_t ids[64] = {0};
    const struct {
        size_t n;
        int32_t id;
    } rows[] = {{0, 0}, {31, 0}, {33, 0}, {32, -1}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_buf buf = {0};
        ids[5] = rows[i].id;
        const shoal_msg_kv_request r = {.ids = ids, .n_ids = rows[i].n};
        assert_int_equal(shoal_msg_kv_request_encode(&r, &buf), SHOAL_E_INVALID);
        assert_int_equal(buf.length, 0);
        shoal_buf_fini(&buf);
    }
}

static void test_part_round_trips_and_keeps_its_limits(void **state)
{
    (void)state;
    uint8_t *bytes = shoal_calloc(SHOAL_WIRE_KV_PART_MAX + 1, 1);
    assert_non_null(bytes);
    static const size_t counts[] = {0, 1, 65536, SHOAL_WIRE_KV_PART_MAX,
                                    SHOAL_WIRE_KV_PART_MAX + 1};
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_msg_kv_part_freep) shoal_msg_kv_part *back = NULL;
        memset(bytes, (int)i + 1, counts[i]);
        const shoal_msg_kv_part p = {
            .bytes = bytes, .n_bytes = counts[i], .n_cached = 96, .token_us = 7, .record = 5};
        bool fits = counts[i] <= SHOAL_WIRE_KV_PART_MAX;
        assert_int_equal(shoal_msg_kv_part_encode(&p, &buf), fits ? SHOAL_OK : SHOAL_E_INVALID);
        if (!fits) {
            pb_bytes(&buf, 1, bytes, counts[i]);
        }
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(
            shoal_msg_kv_part_decode((const uint8_t *)buf.data, buf.length, &back, &err),
            fits ? SHOAL_OK : SHOAL_E_PROTOCOL);
        if (fits) {
            assert_int_equal(back->n_bytes, counts[i]);
            assert_int_equal(back->n_cached, 96);
            assert_int_equal(back->token_us, 7);
            assert_int_equal(back->record, 5);
            assert_true(counts[i] == 0 || memcmp(back->bytes, bytes, counts[i]) == 0);
        } else {
            assert_non_null(strstr(err.text, "KvPart.data"));
        }
        shoal_buf_fini(&buf);
    }
    shoal_free(bytes);
    const struct {
        unsigned field;
        uint64_t most;
    } rows[] = {
        {2, SHOAL_WIRE_POSITION_MAX}, {3, SHOAL_WIRE_COST_US_MAX}, {4, SHOAL_WIRE_KV_RECORD_MAX}};
    for (size_t i = 0; i < 2 * SHOAL_COUNT(rows); i++) {
        shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_msg_kv_part_freep) shoal_msg_kv_part *back = NULL;
        pb_uint(&buf, rows[i / 2].field, rows[i / 2].most + i % 2);
        assert_int_equal(
            shoal_msg_kv_part_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
            i % 2 ? SHOAL_E_PROTOCOL : SHOAL_OK);
        shoal_buf_fini(&buf);
    }
}

static shoal_describe describe_of(uint32_t n_tokens, uint32_t token_us)
{
    shoal_describe d = {.name = "m", .kv_form = "f16", .n_vocab = 300, .n_ctx = 64, .protocol = 1};
    memset(&d.edge_kv.model, 5, sizeof d.edge_kv.model);
    memset(&d.edge_kv.form, 6, sizeof d.edge_kv.form);
    d.edge_kv.n_tokens = n_tokens;
    d.edge_kv.token_us = token_us;
    return d;
}

static void test_describe_tells_what_is_shipped_or_nothing(void **state)
{
    (void)state;
    const struct {
        uint32_t n_tokens, token_us;
        shoal_status status;
    } rows[] = {{0, 0, SHOAL_OK},
                {32, 0, SHOAL_OK},
                {31, 0, SHOAL_E_INVALID},
                {SHOAL_WIRE_POSITION_MAX, SHOAL_WIRE_COST_US_MAX, SHOAL_OK},
                {SHOAL_WIRE_POSITION_MAX + 1, 0, SHOAL_E_INVALID},
                {32, (uint32_t)SHOAL_WIRE_COST_US_MAX + 1, SHOAL_E_INVALID}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_describe d = describe_of(rows[i].n_tokens, rows[i].token_us);
        shoal_describe back = {0};
        shoal_buf buf = {0};
        assert_int_equal(shoal_describe_encode(&d, &buf), rows[i].status);
        if (rows[i].status == SHOAL_OK) {
            assert_int_equal(
                shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
                SHOAL_OK);
            shoal_edge_kv none = {.n_tokens = 0};
            shoal_edge_kv right = rows[i].n_tokens > 0 ? d.edge_kv : none;
            assert_memory_equal(&back.edge_kv, &right, sizeof right);
        }
        shoal_buf_fini(&buf);
    }
}

static void test_describe_tells_the_basis_and_its_speed_or_neither(void **state)
{
    (void)state;
    const struct {
        uint32_t us;
        bool archives, fits;
    } rows[] = {{0, false, true},
                {0, true, true},
                {1, true, true},
                {SHOAL_WIRE_COST_US_MAX, true, true},
                {(uint32_t)SHOAL_WIRE_COST_US_MAX + 1, true, false}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_describe d = describe_of(64, 5);
        shoal_describe back = {0};
        shoal_buf buf = {0};
        d.edge_kv.archives = rows[i].archives;
        d.edge_kv.archive_us = rows[i].us;
        memset(&d.edge_kv.basis, rows[i].archives ? 7 : 0, sizeof d.edge_kv.basis);
        assert_int_equal(shoal_describe_encode(&d, &buf),
                         rows[i].fits ? SHOAL_OK : SHOAL_E_INVALID);
        if (rows[i].fits) {
            assert_int_equal(
                shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
                SHOAL_OK);
            assert_int_equal(back.edge_kv.archives, rows[i].archives);
            assert_int_equal(back.edge_kv.archive_us, rows[i].us);
            assert_memory_equal(&back.edge_kv.basis, &d.edge_kv.basis, sizeof d.edge_kv.basis);
        }
        shoal_buf_fini(&buf);
    }
}

/* Of a peer: half a basis, or a speed without one. */
static void test_a_basis_half_told_is_refused(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 31, 32, 33};
    const uint8_t hash[33] = {1};
    shoal_describe d = describe_of(0, 0);
    for (size_t i = 0; i < 2 * SHOAL_COUNT(counts); i++) {
        size_t n = counts[i / 2];
        bool speed = i % 2 == 1;
        bool fits = n == 32 || (n == 0 && !speed);
        shoal_buf buf = {0};
        shoal_buf kv = {0};
        shoal_describe back = {0};
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_describe_encode(&d, &buf), SHOAL_OK);
        pb_bytes(&kv, 1, hash, 32);
        pb_bytes(&kv, 2, hash, 32);
        pb_uint(&kv, 3, 64);
        pb_bytes(&kv, 5, hash, n);
        if (speed) {
            pb_uint(&kv, 6, 3);
        }
        pb_buf(&buf, 11, &kv);
        assert_int_equal(shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, &err),
                         fits ? SHOAL_OK : SHOAL_E_PROTOCOL);
        assert_true(fits || strstr(err.text, n == 0 ? "EdgeKv.archive_us" : "EdgeKv.basis_hash"));
        shoal_buf_fini(&kv);
        shoal_buf_fini(&buf);
    }
}

/* Of a peer: an EdgeKv without a hash, or without tokens, is no EdgeKv. */
static void test_describe_half_told_is_refused(void **state)
{
    (void)state;
    shoal_describe d = describe_of(0, 0);
    const uint8_t hash[32] = {1};
    for (int lacks = 0; lacks < 4; lacks++) {
        shoal_buf buf = {0};
        shoal_buf kv = {0};
        shoal_describe back = {0};
        assert_int_equal(shoal_describe_encode(&d, &buf), SHOAL_OK);
        pb_bytes(&kv, 1, hash, lacks == 1 ? 31 : 32);
        pb_bytes(&kv, 2, hash, lacks == 2 ? 0 : 32);
        pb_uint(&kv, 3, lacks == 3 ? 0 : 64);
        pb_buf(&buf, 11, &kv);
        assert_int_equal(shoal_describe_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
                         lacks ? SHOAL_E_PROTOCOL : SHOAL_OK);
        shoal_buf_fini(&kv);
        shoal_buf_fini(&buf);
    }
}

/* Every cut of a message is refused or is a shorter message, and never more than that. */
static void test_cut_messages_do_no_harm(void **state)
{
    (void)state;
    shoal_buf buf = {0};
    put_request(&buf, 32, 32, 7, "req");
    for (size_t n = 0; n < buf.length; n++) {
        SHOAL_CLEANUP(shoal_msg_kv_request_freep) shoal_msg_kv_request *request = NULL;
        SHOAL_CLEANUP(shoal_msg_kv_part_freep) shoal_msg_kv_part *part = NULL;
        uint8_t *exact = shoal_calloc(n, 1); /* so that a byte too far is seen */
        assert_non_null(exact);
        memcpy(exact, buf.data, n);
        shoal_status status = shoal_msg_kv_request_decode(exact, n, N_VOCAB, &request, NULL);
        assert_true((status == SHOAL_OK) == (request != NULL));
        status = shoal_msg_kv_part_decode(exact, n, &part, NULL);
        assert_true((status == SHOAL_OK) == (part != NULL));
        shoal_free(exact);
    }
    shoal_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_round_trips),
        cmocka_unit_test(test_request_limits_at_their_edges),
        cmocka_unit_test(test_a_basis_is_a_whole_hash_or_none),
        cmocka_unit_test(test_a_record_has_a_limit),
        cmocka_unit_test(test_requests_of_ours_are_checked),
        cmocka_unit_test(test_part_round_trips_and_keeps_its_limits),
        cmocka_unit_test(test_describe_tells_what_is_shipped_or_nothing),
        cmocka_unit_test(test_describe_tells_the_basis_and_its_speed_or_neither),
        cmocka_unit_test(test_a_basis_half_told_is_refused),
        cmocka_unit_test(test_describe_half_told_is_refused),
        cmocka_unit_test(test_cut_messages_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
