/* SPDX-License-Identifier: Apache-2.0
 *
 * Ids to text as a stream, and the step through UTF-8 under it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"
#include "common/tokenizer/utf8.h"

#include <string.h>

enum {
    FIRST_BYTE = 3
}; /* id of byte 0 in the SPM fixture */

static void test_utf8_next_takes_exactly_the_code_points(void **state)
{
    (void)state;
    /* Every code point and every surrogate, encoded by the plain rule. */
    for (uint32_t c = 0; c <= 0x110000; c++) {
        char bytes[4];
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (size_t i = n; i-- > 1;) {
            bytes[i] = (char)(0x80 | (c >> (6 * (n - 1 - i)) & 0x3F));
        }
        static const uint8_t marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
        bytes[0] = (char)(marks[n] | c >> (6 * (n - 1)));
        bool valid = c <= 0x10FFFF && (c < 0xD800 || c > 0xDFFF);
        shoal_utf8_part part = shoal_utf8_next(bytes, n);
        assert_int_equal(part.state == SHOAL_UTF8_VALID, valid);
        assert_int_equal(part.length, valid ? n : 1);
        for (size_t cut = 1; valid && cut < n; cut++) {
            part = shoal_utf8_next(bytes, cut);
            assert_int_equal(part.state, SHOAL_UTF8_UNFINISHED);
            assert_int_equal(part.length, cut);
        }
    }
}

static void test_utf8_next_overlong_is_invalid(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } cases[] = {{"\xC0\x80", 1},
                 {"\xC1\xBF", 1},
                 {"\xE0\x9F\xBF", 1},
                 {"\xF0\x8F\xBF\xBF", 1},
                 {"\xF4\x90\x80\x80", 1},
                 {"\xF5\x80\x80\x80", 1},
                 {"\x80", 1},
                 {"\xE2\x82 ", 2},
                 {"\xF0\x9F\x98 ", 3}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_utf8_part part = shoal_utf8_next(cases[i].bytes, strlen(cases[i].bytes));
        assert_int_equal(part.state, SHOAL_UTF8_INVALID);
        assert_int_equal(part.length, cases[i].length);
    }
}

static void test_detok_byte_by_byte_gives_whole_characters(void **state)
{
    (void)state;
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
    static const size_t lengths[] = {1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};
    fixture f;
    fixture_init_spm(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    shoal_detok detok = {.n_pending = 0};
    shoal_buf buf = {.data = NULL};
    for (size_t i = 0; i < strlen(text); i++) {
        int32_t id = FIRST_BYTE + (uint8_t)text[i];
        assert_int_equal(shoal_detok_push(tokenizer, &detok, id, &buf), 0);
        assert_int_equal(buf.length, lengths[i]);
    }
    assert_int_equal(shoal_detok_finish(&detok, &buf), 0);
    assert_string_equal(buf.data, text);
    shoal_buf_fini(&buf);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_detok_random_bytes_match_one_shot(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    uint64_t seed = 5;
    for (size_t round = 0; round < 2000; round++) {
        char bytes[16];
        int32_t ids[16];
        size_t n = fixture_random(&seed) % sizeof(bytes);
        for (size_t i = 0; i < n; i++) {
            /* Mostly bytes that begin or continue something. */
            static const uint8_t likely[] = {0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98,
                                             0x80, 0xC3, 0xED, 0xA0, 'a',  0xF4};
            bytes[i] = (char)likely[fixture_random(&seed) % sizeof(likely)];
            ids[i] = FIRST_BYTE + (uint8_t)bytes[i];
        }
        shoal_buf got = {.data = NULL};
        shoal_buf want = {.data = NULL};
        fixture_decode(tokenizer, ids, n, &got);
        fixture_lossy(bytes, n, &want);
        assert_int_equal(got.length, want.length);
        if (n > 0) {
            assert_memory_equal(got.data, want.data, want.length);
        }
        shoal_buf_fini(&got);
        shoal_buf_fini(&want);
    }
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void decode_is(const shoal_tokenizer *tokenizer, bool started, const int32_t *ids, size_t n,
                      const char *want)
{
    shoal_detok detok = {.n_pending = 0, .started = started};
    shoal_buf buf = {.data = NULL};
    assert_int_equal(shoal_buf_append(&buf, "", 0), 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(shoal_detok_push(tokenizer, &detok, ids[i], &buf), 0);
    }
    assert_int_equal(shoal_detok_finish(&detok, &buf), 0);
    assert_string_equal(buf.data, want);
    shoal_buf_fini(&buf);
}

static void test_detok_leading_space_goes_only_at_the_start(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    int32_t user = fixture_add(&f, "<tool>", 6, 0, 4);
    int32_t hello = fixture_id(&f, "\xE2\x96\x81hello");
    int32_t two = fixture_id(&f, "\xE2\x96\x81\xE2\x96\x81");
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    decode_is(tokenizer, false, (int32_t[]){1, hello, hello}, 3, "hello hello");
    decode_is(tokenizer, true, (int32_t[]){hello, hello}, 2, " hello hello");
    decode_is(tokenizer, false, (int32_t[]){two, hello}, 2, "  hello");
    decode_is(tokenizer, false, (int32_t[]){hello, user, hello, 2}, 4, "hello<tool>hello");
    decode_is(tokenizer, false, (int32_t[]){hello, 0}, 2, "hello\xEF\xBF\xBD");
    shoal_tokenizer_free(tokenizer);
    f.add_space_prefix = 0;
    tokenizer = fixture_load_ok(&f);
    decode_is(tokenizer, false, (int32_t[]){hello}, 1, " hello");
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_detok_bpe_odd_characters_stand_for_themselves(void **state)
{
    (void)state;
    fixture f;
    fixture_init_bpe(&f);
    int32_t euro = fixture_add(&f, "\xE2\x82\xAC\xC4\xA0", 5, 0, 1);
    int32_t broken = fixture_add(&f, "\xE2\x82", 2, 0, 1);
    int32_t empty = fixture_add(&f, "", 0, 0, 1);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    decode_is(tokenizer, false, (int32_t[]){euro, empty, 'a'}, 3, "\xE2\x82\xAC a");
    decode_is(tokenizer, false, (int32_t[]){broken, 'a'}, 2,
              "\xEF\xBF\xBD"
              "a");
    decode_is(tokenizer, false, (int32_t[]){broken}, 1, "\xEF\xBF\xBD");
    decode_is(tokenizer, false, (int32_t[]){(int32_t)f.eos, 'a'}, 2, "a");
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_detok_longest_token_fits_the_stated_bound(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    char *text = shoal_calloc(SHOAL_TOKEN_TEXT_MAX, 1);
    assert_non_null(text);
    memset(text, 0xFF, SHOAL_TOKEN_TEXT_MAX);
    int32_t id = fixture_add(&f, text, SHOAL_TOKEN_TEXT_MAX, 0, 1);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    shoal_detok detok = {.n_pending = 0};
    shoal_buf buf = {.data = NULL, .limit = SHOAL_DETOK_OUT_MAX};
    assert_int_equal(shoal_detok_push(tokenizer, &detok, FIRST_BYTE + 0xF0, &buf), 0);
    assert_int_equal(shoal_detok_push(tokenizer, &detok, id, &buf), 0);
    assert_int_equal(buf.length, 3 * (SHOAL_TOKEN_TEXT_MAX + 1));
    shoal_buf_fini(&buf);
    shoal_free(text);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_detok_bad_id_is_refused(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    const int32_t bad[] = {-1, INT32_MIN, INT32_MAX, (int32_t)f.n_tokens};
    shoal_detok detok = {.n_pending = 0};
    shoal_buf buf = {.data = NULL};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(shoal_detok_push(tokenizer, &detok, bad[i], &buf), SHOAL_E_INVALID);
        assert_int_equal(shoal_tokenizer_text(tokenizer, bad[i]).length, 0);
        assert_false(shoal_tokenizer_is_end(tokenizer, bad[i]));
    }
    assert_int_equal(buf.length, 0);
    assert_int_equal(shoal_tokenizer_text(tokenizer, 1).length, 3);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

static void test_detok_full_buffer_changes_nothing(void **state)
{
    (void)state;
    fixture f;
    fixture_init_spm(&f);
    shoal_tokenizer *tokenizer = fixture_load_ok(&f);
    int32_t hello = fixture_id(&f, "\xE2\x96\x81hello");
    /* Room for the replacement of the pending byte, not for the word. */
    shoal_buf buf = {.data = NULL, .limit = 5};
    shoal_detok detok = {.n_pending = 0};
    assert_int_equal(shoal_detok_push(tokenizer, &detok, FIRST_BYTE + 0xE2, &buf), 0);
    shoal_detok before = detok;
    assert_int_equal(shoal_detok_push(tokenizer, &detok, hello, &buf), SHOAL_E_LIMIT);
    assert_memory_equal(&detok, &before, sizeof(detok));
    assert_int_equal(buf.length, 0);
    buf.limit = 0;
    for (uint64_t i = 0;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = shoal_detok_push(tokenizer, &detok, hello, &buf);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_memory_equal(&detok, &before, sizeof(detok));
        assert_int_equal(buf.length, 0);
    }
    assert_string_equal(buf.data, "\xEF\xBF\xBD hello");
    shoal_buf_fini(&buf);
    shoal_tokenizer_free(tokenizer);
    fixture_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_next_takes_exactly_the_code_points),
        cmocka_unit_test(test_utf8_next_overlong_is_invalid),
        cmocka_unit_test(test_detok_byte_by_byte_gives_whole_characters),
        cmocka_unit_test(test_detok_random_bytes_match_one_shot),
        cmocka_unit_test(test_detok_leading_space_goes_only_at_the_start),
        cmocka_unit_test(test_detok_bpe_odd_characters_stand_for_themselves),
        cmocka_unit_test(test_detok_longest_token_fits_the_stated_bound),
        cmocka_unit_test(test_detok_bad_id_is_refused),
        cmocka_unit_test(test_detok_full_buffer_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
