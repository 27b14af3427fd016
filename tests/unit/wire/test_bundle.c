/* SPDX-License-Identifier: Apache-2.0
 *
 * BundleRequest and BundlePart: both ways, and at every limit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/wire/wire.h"
#include "proto_bytes.h"

#include "common/base/mem.h"

static void test_request_round_trips(void **state)
{
    (void)state;
    const shoal_msg_bundle_request rows[] = {
        {.family = ""},
        {.family = "minnow", .serial = 7, .file = 3, .offset = 123456789},
        {.serial = SHOAL_WIRE_BUNDLE_SERIAL_MAX,
         .file = SHOAL_WIRE_BUNDLE_FILES_MAX - 1,
         .offset = SHOAL_WIRE_BUNDLE_BYTES_MAX}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_msg_bundle_request back;
        assert_int_equal(shoal_msg_bundle_request_encode(&rows[i], &buf), SHOAL_OK);
        assert_int_equal(
            shoal_msg_bundle_request_decode((const uint8_t *)buf.data, buf.length, &back, NULL),
            SHOAL_OK);
        assert_string_equal(back.family, rows[i].family);
        assert_true(back.serial == rows[i].serial && back.file == rows[i].file &&
                    back.offset == rows[i].offset);
    }
}

static void test_request_limits_at_their_edges(void **state)
{
    (void)state;
    static const char name[] = "0123456789012345678901234567890123456789012345678901234567890123x";
    const struct {
        const char *family;
        uint64_t serial, file, offset;
        const char *field;
    } rows[] = {
        {name + 1, 1, 0, 0, NULL},
        {name, 1, 0, 0, "BundleRequest.family"},
        {"a b", 1, 0, 0, "BundleRequest.family"},
        {"../a", 1, 0, 0, "BundleRequest.family"},
        {"a", SHOAL_WIRE_BUNDLE_SERIAL_MAX - 1, 0, 0, NULL},
        {"a", SHOAL_WIRE_BUNDLE_SERIAL_MAX + 1, 0, 0, "BundleRequest.serial"},
        {"a", 1, SHOAL_WIRE_BUNDLE_FILES_MAX - 1, 0, NULL},
        {"a", 1, SHOAL_WIRE_BUNDLE_FILES_MAX, 0, "BundleRequest.file"},
        {"a", 1, 0, SHOAL_WIRE_BUNDLE_BYTES_MAX, NULL},
        {"a", 1, 0, SHOAL_WIRE_BUNDLE_BYTES_MAX + 1, "BundleRequest.offset"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_err err = SHOAL_ERR_INIT;
        shoal_msg_bundle_request back;
        pb_bytes(&buf, 1, rows[i].family, strlen(rows[i].family));
        pb_uint(&buf, 2, rows[i].serial);
        pb_uint(&buf, 3, rows[i].file);
        pb_uint(&buf, 4, rows[i].offset);
        shoal_status status =
            shoal_msg_bundle_request_decode((const uint8_t *)buf.data, buf.length, &back, &err);
        assert_int_equal(status, rows[i].field ? SHOAL_E_PROTOCOL : SHOAL_OK);
        assert_true(!rows[i].field || strstr(err.text, rows[i].field));
    }
}

static void test_part_round_trips_and_keeps_its_limits(void **state)
{
    (void)state;
    static const struct {
        size_t n[3]; /* bytes, manifest, signature */
        const char *field;
    } rows[] = {
        {{0, 0, 0}, NULL},
        {{SHOAL_WIRE_BUNDLE_PART_MAX, 0, 0}, NULL},
        {{SHOAL_WIRE_BUNDLE_PART_MAX + 1, 0, 0}, "BundlePart.data"},
        {{0, SHOAL_WIRE_MANIFEST_MAX, SHOAL_WIRE_SIGNATURE_MAX}, NULL},
        {{0, SHOAL_WIRE_MANIFEST_MAX + 1, 64}, "BundlePart.manifest"},
        {{0, 1, SHOAL_WIRE_SIGNATURE_MAX + 1}, "BundlePart.signature"},
        {{3, 2, 1}, NULL},
    };
    uint8_t *bytes = shoal_calloc(SHOAL_WIRE_BUNDLE_PART_MAX + 1, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i <= SHOAL_WIRE_BUNDLE_PART_MAX; i++) {
        bytes[i] = (uint8_t)(i * 31);
    }
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf ours = {0};
        SHOAL_CLEANUP(shoal_msg_bundle_part_freep) shoal_msg_bundle_part *back = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        const size_t *n = rows[i].n;
        const shoal_msg_bundle_part part = {bytes, n[0], bytes + 1, n[1], bytes + 2, n[2]};
        for (unsigned f = 0; f < 3; f++) {
            if (n[f] > 0) {
                pb_bytes(&buf, f + 1, bytes + f, n[f]);
            }
        }
        assert_int_equal(shoal_msg_bundle_part_encode(&part, &ours),
                         rows[i].field ? SHOAL_E_INVALID : SHOAL_OK);
        shoal_status status =
            shoal_msg_bundle_part_decode((const uint8_t *)buf.data, buf.length, &back, &err);
        assert_int_equal(status, rows[i].field ? SHOAL_E_PROTOCOL : SHOAL_OK);
        if (rows[i].field) {
            assert_non_null(strstr(err.text, rows[i].field));
            continue;
        }
        assert_int_equal(ours.length, buf.length);
        assert_int_equal(back->n_bytes, n[0]);
        assert_int_equal(back->n_manifest, n[1]);
        assert_int_equal(back->n_signature, n[2]);
        assert_true(n[0] == 0 || memcmp(back->bytes, bytes, n[0]) == 0);
        assert_true(n[1] == 0 || memcmp(back->manifest, bytes + 1, n[1]) == 0);
        assert_true(n[2] == 0 || memcmp(back->signature, bytes + 2, n[2]) == 0);
    }
    shoal_free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_round_trips),
        cmocka_unit_test(test_request_limits_at_their_edges),
        cmocka_unit_test(test_part_round_trips_and_keeps_its_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
