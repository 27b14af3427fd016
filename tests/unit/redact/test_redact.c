/* SPDX-License-Identifier: Apache-2.0
 *
 * What is taken for private and what is not, limits, and the way back in pieces of any size.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/redact/redact.h"

#include <stdio.h>
#include <string.h>

static shoal_redact_rules *make_rules(const char *names)
{
    const shoal_redact_settings settings = {.kinds = {true, true, true, true, true},
                                            .names = names};
    shoal_redact_rules *rules = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_redact_rules_new(&settings, &rules, &err), SHOAL_OK);
    return rules;
}

static void redact(const shoal_redact_rules *rules, shoal_redact_map *map, const char *text,
                   shoal_buf *out)
{
    shoal_buf_reset(out);
    shoal_redact_reserve(map, text, strlen(text));
    assert_int_equal(shoal_redact_text(rules, map, text, strlen(text), out), SHOAL_OK);
}

/* text comes back from out in pieces of n bytes. */
static void check_back(const shoal_redact_map *map, const shoal_buf *out, size_t n,
                       const char *text)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf back = {0};
    shoal_redact_restorer r = {0};
    for (size_t i = 0; i < out->length; i += n) {
        size_t m = SHOAL_MIN(n, out->length - i);
        assert_int_equal(shoal_redact_restore(map, &r, out->data + i, m, &back), SHOAL_OK);
    }
    assert_int_equal(shoal_redact_restore_end(&r, &back), SHOAL_OK);
    assert_string_equal(back.data ? back.data : "", text);
}

static void test_what_looks_private_is_taken(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *redacted; /* NULL: the text itself */
    } rows[] = {
        {"", NULL},
        {"Write to ann.lee+work@mail.example.org.", "Write to [EMAIL_1]."},
        {"<a@b.co>,a@b.co", "<[EMAIL_1]>,[EMAIL_1]"},
        {"a@b.co and c@d.org and A@b.co", "[EMAIL_1] and [EMAIL_2] and [EMAIL_3]"},
        {"a@b, @b.co, a@.co, a@b.c, 5@7.5", NULL},
        {"Call +49 30 123456-78 or (212) 555-0123", "Call [PHONE_1] or [PHONE_2]"},
        {"030/12345678, 212-555-0123, 0049 (0)30 123456.", "[PHONE_1], [PHONE_2], [PHONE_3]."},
        {"On 2024-01-02 at 12:30, 192.168.100.200, part 1234567890, E47, 0.5, v1.2.3", NULL},
        {"pay 4111 1111 1111 1111 or 5500-0000-0000-0004!", "pay [CARD_1] or [CARD_2]!"},
        {"4111111111111112 4111111111111111", "4111111111111112 [CARD_1]"},
        {"41111111111111111111111", NULL},
        {"4111111111111111 5500000000000004 123", "[CARD_1] [CARD_2] 123"},
        {"030/12345678 030/87654321 +4930123456", "[PHONE_1] [PHONE_2] [PHONE_3]"},
        {"key sk-abcdefghijkl0123456789, AKIAIOSFODNN7EXAMPLE", "key [KEY_1], [KEY_2]"},
        {"0123456789abcdef0123456789abcdef", "[KEY_1]"},
        {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl ok", "[KEY_1] ok"},
        {"sk-short1 a-very-long-word-that-is-no-key-at-all-but-words", NULL},
        {"Ann Lee met ann and Annabel, LEE too", "[NAME_1] met [NAME_2] and Annabel, LEE too"},
        {"Zo\xC3\xAB and zo\xC3\xAB", "[NAME_1] and [NAME_2]"},
        {"\xC3\xA9"
         "ann annn\xC3\xA9 ann\xC3\xA9",
         NULL},
        /* "Telephone ..., address ..." as Chinese has it, without a blank. */
        {"\xE7\x94\xB5\xE8\xAF\x9D"
         "030/12345678\xEF\xBC\x8C\xE5\x9C\xB0\xE5\x9D\x80"
         "a@b.co\xE3\x80\x82",
         "\xE7\x94\xB5\xE8\xAF\x9D[PHONE_1]\xEF\xBC\x8C\xE5\x9C\xB0\xE5\x9D\x80"
         "[EMAIL_1]\xE3\x80\x82"},
        {"[EMAIL_1] is not a@b.co", "[EMAIL_1] is not [EMAIL_2]"},
        {"[EMAIL_999999] [EMAIL_1000000] a@b.co", "[EMAIL_999999] [EMAIL_1000000] [EMAIL_1000001]"},
        {"[NAME_7] [NAME_x] [NAME_] [CARD_99999999] Ann", "[NAME_7] [NAME_x] [NAME_] "
                                                          "[CARD_99999999] [NAME_8]"},
    };
    shoal_redact_rules *rules = make_rules("Ann Lee, ann ,Zo\xC3\xAB");
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_redact_map *map = NULL;
        assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
        redact(rules, map, rows[i].text, &out);
        const char *wanted = rows[i].redacted ? rows[i].redacted : rows[i].text;
        if (strcmp(out.data, wanted) != 0) {
            fail_msg("%s: %s, not %s", rows[i].text, out.data, wanted);
        }
        for (size_t n = 1; n < 30; n++) {
            check_back(map, &out, n, rows[i].text);
        }
        shoal_redact_map_free(map);
    }
    shoal_redact_rules_free(rules);
}

static void test_each_kind_can_be_left_alone(void **state)
{
    (void)state;
    static const char text[] = "a@b.co 030/12345678 4111111111111111 sk-abcdefghijkl0123456789 Ann";
    static const char *const labels[] = {"[EMAIL_1]", "[PHONE_1]", "[CARD_1]", "[KEY_1]",
                                         "[NAME_1]"};
    for (size_t kind = 0; kind < SHOAL_REDACT_KINDS; kind++) {
        shoal_redact_settings settings = {.names = "ann"};
        settings.kinds[kind] = true;
        shoal_redact_rules *rules = NULL;
        shoal_redact_map *map = NULL;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        assert_int_equal(shoal_redact_rules_new(&settings, &rules, NULL), SHOAL_OK);
        assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
        redact(rules, map, text, &out);
        assert_int_equal(shoal_redact_map_n(map), 1);
        assert_non_null(strstr(out.data, labels[kind]));
        shoal_redact_map_free(map);
        shoal_redact_rules_free(rules);
    }
}

/* What a model writes: placeholders of this conversation, of none, broken ones, brackets. */
static void test_only_whole_placeholders_come_back(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *restored;
    } rows[] = {
        {"[EMAIL_1][EMAIL_2]", "a@b.coc@d.org"},
        {"[[EMAIL_1]]", "[a@b.co]"},
        {"[EMA[EMAIL_2]IL_1]", "[EMAc@d.orgIL_1]"},
        {"[EMAIL_3] [email_1] [EMAIL_11] [EMAIL_1", "[EMAIL_3] [email_1] [EMAIL_11] [EMAIL_1"},
        {"[", "["},
        {"[[[[", "[[[["},
        {"[EMAIL_1] \xC3\xA9 ]", "a@b.co \xC3\xA9 ]"},
    };
    shoal_redact_rules *rules = make_rules(NULL);
    shoal_redact_map *map = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
    redact(rules, map, "a@b.co c@d.org", &out);
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_buf_reset(&out);
        assert_int_equal(shoal_buf_append(&out, rows[i].text, strlen(rows[i].text)), SHOAL_OK);
        for (size_t n = 1; n < 24; n++) {
            check_back(map, &out, n, rows[i].restored);
        }
    }
    shoal_redact_map_free(map);
    shoal_redact_rules_free(rules);
}

static void put_random(shoal_buf *text, uint64_t *rng)
{
    static const char *const parts[] = {"a@b.co",   "Ann",
                                        " ",        "[",
                                        "]",        "[EMAIL_1",
                                        "_2]",      "030",
                                        "/123456",  "4111111111111111",
                                        "+4930",    "-",
                                        "word",     "\xC3\xA9",
                                        "[NAME_1]", "sk-a1b2c3d4e5f6g7h8",
                                        ", "};
    for (size_t k = shoal_rng_next(rng) % 30; k > 0; k--) {
        const char *part = parts[shoal_rng_next(rng) % SHOAL_COUNT(parts)];
        assert_int_equal(shoal_buf_append(text, part, strlen(part)), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_append(text, "", 0), SHOAL_OK);
}

static void test_random_texts_come_back_in_random_pieces(void **state)
{
    (void)state;
    shoal_redact_rules *rules = make_rules("ann,word");
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        uint64_t rng = seed;
        shoal_buf texts[3] = {{0}};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_redact_map *map = NULL;
        assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
        for (size_t i = 0; i < 3; i++) {
            put_random(&texts[i], &rng);
            shoal_redact_reserve(map, texts[i].data, texts[i].length);
        }
        for (size_t i = 0; i < 3; i++) {
            shoal_buf_reset(&out);
            assert_int_equal(shoal_redact_text(rules, map, texts[i].data, texts[i].length, &out),
                             SHOAL_OK);
            check_back(map, &out, 1 + shoal_rng_next(&rng) % 12, texts[i].data);
            check_back(map, &out, 1, texts[i].data);
        }
        shoal_redact_map_free(map);
        for (size_t i = 0; i < 3; i++) {
            shoal_buf_fini(&texts[i]);
        }
    }
    shoal_redact_rules_free(rules);
}

static void test_limits_are_refusals(void **state)
{
    (void)state;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_redact_rules *rules = NULL;
    shoal_redact_map *map = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    for (size_t n = SHOAL_REDACT_NAME_BYTES_MAX; n <= SHOAL_REDACT_NAME_BYTES_MAX + 1; n++) {
        char name[SHOAL_REDACT_NAME_BYTES_MAX + 2];
        memset(name, 'x', n);
        name[n] = '\0';
        const shoal_redact_settings settings = {.names = name};
        bool ok = shoal_redact_rules_new(&settings, &rules, &err) == SHOAL_OK;
        assert_int_equal(ok, n <= SHOAL_REDACT_NAME_BYTES_MAX);
        if (ok) {
            shoal_redact_rules_free(rules);
        }
    }
    assert_non_null(strstr(err.text, "redact.names"));
    rules = make_rules(NULL);
    for (size_t n = SHOAL_REDACT_WORDS_MAX - 1; n <= SHOAL_REDACT_WORDS_MAX + 1; n++) {
        shoal_buf_reset(&text);
        shoal_buf_reset(&out);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(shoal_buf_appendf(&text, "u%zu@b.co ", i), SHOAL_OK);
        }
        assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
        assert_int_equal(shoal_redact_text(rules, map, text.data, text.length, &out),
                         n <= SHOAL_REDACT_WORDS_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_redact_map_free(map);
    }
    for (size_t n = 0; n < 3; n++) {
        static const char *const texts[] = {"[EMAIL_999999998] a@b.co", "[EMAIL_999999999] a@b.co",
                                            "[EMAIL_1000000000] a@b.co"};
        shoal_buf_reset(&out);
        assert_int_equal(shoal_redact_map_new(&map), SHOAL_OK);
        shoal_redact_reserve(map, texts[n], strlen(texts[n]));
        assert_int_equal(shoal_redact_text(rules, map, texts[n], strlen(texts[n]), &out),
                         n == 1 ? SHOAL_E_LIMIT : SHOAL_OK);
        shoal_redact_map_free(map);
    }
    static const char words[] = "a@b.co 030/12345678 Ann";
    for (uint64_t i = 0;; i++) {
        shoal_buf_fini(&out);
        map = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_redact_map_new(&map);
        if (status == SHOAL_OK) {
            status = shoal_redact_text(rules, map, words, sizeof words - 1, &out);
        }
        shoal_mem_fail_at(UINT64_MAX);
        shoal_redact_map_free(map);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_true(i < 100);
    }
    shoal_redact_rules_free(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_looks_private_is_taken),
        cmocka_unit_test(test_each_kind_can_be_left_alone),
        cmocka_unit_test(test_only_whole_placeholders_come_back),
        cmocka_unit_test(test_random_texts_come_back_in_random_pieces),
        cmocka_unit_test(test_limits_are_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
