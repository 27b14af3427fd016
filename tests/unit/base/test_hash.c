/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/hash.h"
#include "common/base/mem.h"

#include <string.h>

static void digest_hex(shoal_hasher *hasher, char hex[SHOAL_HASH_HEX])
{
    shoal_hash hash;
    shoal_hasher_finish(hasher, &hash);
    shoal_hash_hex(&hash, hex);
}

static shoal_hasher *make(void)
{
    shoal_hasher *hasher = NULL;
    assert_int_equal(shoal_hasher_new(&hasher), SHOAL_OK);
    return hasher;
}

/* Examples of FIPS 180-4 (csrc.nist.gov, "SHA256.pdf" and "SHA2_Additional.pdf"). */
static void test_known_messages_give_known_digests(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = make();
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        char hex[SHOAL_HASH_HEX];
        shoal_hasher_update(hasher, cases[i].text, strlen(cases[i].text));
        digest_hex(hasher, hex);
        assert_string_equal(hex, cases[i].hex);
    }
}

static void test_pieces_give_the_digest_of_the_whole(void **state)
{
    (void)state;
    static unsigned char bytes[1000];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 7);
    }
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = make();
    char whole[SHOAL_HASH_HEX];
    shoal_hasher_update(hasher, bytes, sizeof bytes);
    digest_hex(hasher, whole);
    for (size_t step = 1; step < 200; step += 37) {
        char pieces[SHOAL_HASH_HEX];
        for (size_t i = 0; i < sizeof bytes; i += step) {
            shoal_hasher_update(hasher, bytes + i, SHOAL_MIN(step, sizeof bytes - i));
        }
        digest_hex(hasher, pieces);
        assert_string_equal(pieces, whole);
    }
}

static void test_hash_of_a_piece_is_that_of_an_object(void **state)
{
    (void)state;
    shoal_hasher *hasher = NULL;
    shoal_hash a;
    shoal_hash b;
    assert_int_equal(shoal_hasher_new(&hasher), SHOAL_OK);
    shoal_hasher_update(hasher, "shoal", 5);
    shoal_hasher_finish(hasher, &a);
    assert_int_equal(shoal_hash_of("shoal", 5, &b), SHOAL_OK);
    assert_memory_equal(&a, &b, sizeof a);
    shoal_hasher_finish(hasher, &a);
    assert_int_equal(shoal_hash_of("", 0, &b), SHOAL_OK);
    assert_memory_equal(&a, &b, sizeof a);
    shoal_hasher_free(hasher);
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_hash_of("", 0, &b), SHOAL_E_NOMEM);
}

static void test_fields_cannot_run_into_each_other(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = make();
    char a[SHOAL_HASH_HEX];
    char b[SHOAL_HASH_HEX];
    char c[SHOAL_HASH_HEX];
    shoal_hasher_update_field(hasher, "ab", 2);
    shoal_hasher_update_field(hasher, "c", 1);
    digest_hex(hasher, a);
    shoal_hasher_update_field(hasher, "a", 1);
    shoal_hasher_update_field(hasher, "bc", 2);
    digest_hex(hasher, b);
    assert_string_not_equal(a, b);
    static const char spelled[] = "\2\0\0\0\0\0\0\0ab\1\0\0\0\0\0\0\0c";
    shoal_hasher_update(hasher, spelled, sizeof spelled - 1);
    digest_hex(hasher, c);
    assert_string_equal(a, c);
}

static void test_failing_allocation_gives_nomem(void **state)
{
    (void)state;
    shoal_hasher *hasher = NULL;
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_hasher_new(&hasher), SHOAL_E_NOMEM);
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(hasher);
    shoal_hasher_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_messages_give_known_digests),
        cmocka_unit_test(test_pieces_give_the_digest_of_the_whole),
        cmocka_unit_test(test_hash_of_a_piece_is_that_of_an_object),
        cmocka_unit_test(test_fields_cannot_run_into_each_other),
        cmocka_unit_test(test_failing_allocation_gives_nomem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
