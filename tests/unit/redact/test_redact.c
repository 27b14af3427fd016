/* SPDX-License-Identifier: Apache-2.0
 *
 * What is taken for private and what is not, limits, and the way back in pieces of any size.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/redact/redact_internal.h"

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

static void redact(shoal_redact_map *map, const char *text, shoal_buf *out)
{
    shoal_buf_reset(out);
    shoal_redact_reserve(map, text, strlen(text));
    assert_int_equal(shoal_redact_text(map, text, strlen(text), out), SHOAL_OK);
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
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        redact(map, rows[i].text, &out);
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
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        redact(map, text, &out);
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
    assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
    redact(map, "a@b.co c@d.org", &out);
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

static shoal_status try_patterns(const char *patterns, shoal_redact_rules **ret_rules,
                                 shoal_err *err)
{
    const shoal_redact_settings settings = {
        .kinds = {true, true, true, true, true}, .names = "ann", .patterns = patterns};
    return shoal_redact_rules_new(&settings, ret_rules, err);
}

static void test_patterns_of_the_operators_own_are_taken(void **state)
{
    (void)state;
    static const struct {
        const char *patterns;
        const char *text;
        const char *redacted; /* NULL: the text itself */
    } rows[] = {
        {"CUSTOMER=CU-[0-9]{6}", "CU-123456, CU-123456; CU-654321.",
         "[CUSTOMER_1], [CUSTOMER_1]; [CUSTOMER_2]."},
        {"CUSTOMER=CU-[0-9]{6}", "xCU-123456 CU-1234567 CU-12345 cu-123456 CU-123456x", NULL},
        {" A=a{2,3}b? ;; B1=\\d\\w\\s\\;[^a-c\\]]; ", "aa aaab aaaa a 1_ ;d 1_ ;a 1_ ;]",
         "[A_1] [A_2] aaaa a [B1_1] 1_ ;a 1_ ;]"},
        {"A=x.z;B=[.]", "xyz x z x\nz .", "[A_1] [A_2] x\nz [B_1]"},
        {"A=[]x-]{1,2}", "x] ] - x x]]", "[A_1] [A_2] [A_3] [A_4] [A_1][A_2]"},
        {"A=a?b?c?d", "d ad abcd bcd abc", "[A_1] [A_2] [A_3] [A_4] abc"},
        /* The longest of all, and among equals the operator's. */
        {"A=[a-z]{2}", "sk-abcdefghijkl0123456789 xy", "[KEY_1] [A_1]"},
        {"A=[a-z]{1,9}@b\\.co;B=[a-z]{1,9}", "x@b.co ann anna", "[A_1] [B_1] [B_2]"},
        {"A=ab;B=abc?;C=ab", "ab abc", "[A_1] [B_1]"},
        /* Placeholders that stand there already, of these too. */
        {"A=x\\d", "[A_4] x1 [A_x] [B_7] x2", "[A_4] [A_5] [A_x] [B_7] [A_6]"},
        /* No half of a character, on either side. */
        {"A=.{1,2}", "\xC3\xA9", "[A_1]"},
        {"A=.", "\xC3\xA9", NULL},
        {"A=[^x]\xA9", "\xC3\xA9 \xC3\xA9\xC3\xA9", "[A_1] [A_1][A_1]"},
        {"STREET=\xC3\x84"
         "ckerweg [0-9]{1,3}",
         "\xC3\x84"
         "ckerweg 12!",
         "[STREET_1]!"},
        {"A=[ -~]{1,40}", "all of it, ann@b.co too", "[A_1]"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_redact_rules *rules = NULL;
        shoal_redact_map *map = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        if (try_patterns(rows[i].patterns, &rules, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        redact(map, rows[i].text, &out);
        const char *wanted = rows[i].redacted ? rows[i].redacted : rows[i].text;
        if (strcmp(out.data, wanted) != 0) {
            fail_msg("%s in %s: %s, not %s", rows[i].patterns, rows[i].text, out.data, wanted);
        }
        for (size_t n = 1; n < 40; n++) {
            check_back(map, &out, n, rows[i].text);
        }
        shoal_redact_map_free(map);
        shoal_redact_rules_free(rules);
    }
}

/* One way after another: the longest end of a whole word, 0: none. */
static size_t find_slowly(const redact_pattern *p, size_t place, const char *text, size_t at,
                          size_t n)
{
    if (place == p->n) {
        char next = at < n ? text[at] : ' ';
        return shoal_redact_is_word(next) || ((unsigned char)next & 0xC0) == 0x80 ? 0 : at;
    }
    uint64_t bit = UINT64_C(1) << place;
    size_t without = (p->optional & bit) != 0 ? find_slowly(p, place + 1, text, at, n) : 0;
    bool stands = at < n && (p->accepts[(unsigned char)text[at]] & bit) != 0;
    size_t with = stands ? find_slowly(p, place + 1, text, at + 1, n) : 0;
    return SHOAL_MAX(with, without);
}

static void test_random_patterns_match_as_one_way_after_another_does(void **state)
{
    (void)state;
    static const char *const places[] = {"a", "b", "-", "[ab]", ".", "\\w", "[^a]", "\xC3\xA9"};
    static const char *const times[] = {"", "", "?", "{0,2}", "{1,2}", "{2}"};
    static const char *const parts[] = {"a", "b", "-", "aa", "\xC3\xA9", " "};
    size_t n_found = 0;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        uint64_t rng = seed;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf pattern = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
        for (size_t k = 1 + shoal_rng_next(&rng) % 6; k > 0; k--) {
            const char *place = places[shoal_rng_next(&rng) % SHOAL_COUNT(places)];
            const char *often = times[shoal_rng_next(&rng) % SHOAL_COUNT(times)];
            assert_int_equal(shoal_buf_appendf(&pattern, "%s%s", place, often), SHOAL_OK);
        }
        for (size_t k = 1 + shoal_rng_next(&rng) % 8; k > 0; k--) {
            const char *part = parts[shoal_rng_next(&rng) % SHOAL_COUNT(parts)];
            assert_int_equal(shoal_buf_append(&text, part, strlen(part)), SHOAL_OK);
        }
        redact_pattern p = {.label = "A"};
        if (shoal_redact_pattern_read(&p, pattern.data, pattern.length, NULL) != SHOAL_OK) {
            continue; /* all of it may be left out */
        }
        size_t found = shoal_redact_pattern_find(&p, text.data, text.length);
        size_t wanted = find_slowly(&p, 0, text.data, 0, text.length);
        if (found != wanted) {
            fail_msg("seed %llu: %s in %s: %zu, not %zu", (unsigned long long)seed, pattern.data,
                     text.data, found, wanted);
        }
        n_found += found > 0;
    }
    assert_in_range(n_found, 1000, 19000);
}

static void test_bad_patterns_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *patterns;
        const char *why;
    } rows[] = {
        {"x", "a name and ="},
        {"=x", "a name and ="},
        {"a=x", "a name and ="},
        {"1A=x", "a name and ="},
        {"A_B=x", "a name and ="},
        {"NAME=x", "a name and ="},
        {"A=x;A=y", "a name and ="},
        {"ABCDEFGHIJKLMNOPQ=x", "at most 16 capitals"},
        {"A=", "at least must stand"},
        {"A=x?y{0,3}", "at least must stand"},
        {"A=x*", "{1,20}"},
        {"A=x+", "{1,20}"},
        {"A=(x)", "no groups"},
        {"A=x|y", "no groups"},
        {"A=^x$", "no groups"},
        {"A=x??", "no groups"},
        {"A={3}", "no groups"},
        {"A=x]", "no groups"},
        {"A=x{", "a count"},
        {"A=x{}", "a count"},
        {"A=x{0}", "a count"},
        {"A=x{3,2}", "a count"},
        {"A=x{1,}", "a count"},
        {"A=x{1000}", "a count"},
        {"A=x{1,2", "a count"},
        {"A=[x", "not closed"},
        {"A=[]", "not closed"},
        {"A=[z-a]", "backwards"},
        {"A=[[:digit:]]", "between brackets"},
        {"A=[\xC3\xA9]", "between brackets"},
        {"A=\xC3\xA9?", "beyond ASCII"},
        {"A=\xC3\xA9{2}", "beyond ASCII"},
        {"A=\\b", "a backslash"},
        {"A=x\\", "a backslash"},
        {"A=x{64}", "longer than 63"},
        {"A=x{40}y{24}", "longer than 63"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_redact_rules *rules = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_not_equal(try_patterns(rows[i].patterns, &rules, &err), SHOAL_OK);
        if (!strstr(err.text, rows[i].why) || !strstr(err.text, "redact.patterns: ")) {
            fail_msg("%s: %s, not %s", rows[i].patterns, err.text, rows[i].why);
        }
    }
    static const char eight[] = "A=x{63};B=x;C=x;D=x;E=x;F=x;G=x;ABCDEFGHIJKLMNOP=x";
    char nine[sizeof eight + 8];
    shoal_redact_rules *rules = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    (void)snprintf(nine, sizeof nine, "%s;I=x", eight);
    assert_int_equal(try_patterns(nine, &rules, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "at most 8 patterns"));
    for (uint64_t i = 0;; i++) {
        shoal_mem_fail_at(i);
        shoal_status status = try_patterns(eight, &rules, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_true(i < 100);
    }
    shoal_redact_rules_free(rules);
}

/* Patterns and a text that would keep an engine which tries one way after another busy for ever: 63
 * places of which any may be left out, and an end that does not come. */
static void test_no_pattern_makes_a_text_dear(void **state)
{
    (void)state;
    enum {
        N = 256 << 10
    };
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf patterns = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    for (char name = 'A'; name < 'A' + SHOAL_REDACT_PATTERNS_MAX; name++) {
        assert_int_equal(shoal_buf_appendf(&patterns, "%c=", name), SHOAL_OK);
        for (int i = 0; i < 31; i++) {
            assert_int_equal(shoal_buf_appendf(&patterns, "-?-{0,1}"), SHOAL_OK);
        }
        assert_int_equal(shoal_buf_appendf(&patterns, "!;"), SHOAL_OK);
    }
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(shoal_buf_append(&text, "-", 1), SHOAL_OK);
    }
    shoal_redact_rules *rules = NULL;
    shoal_redact_map *map = NULL;
    shoal_clock clock = shoal_clock_real();
    assert_int_equal(try_patterns(patterns.data, &rules, NULL), SHOAL_OK);
    assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
    uint64_t start_ms = shoal_clock_now_ms(&clock);
    assert_int_equal(shoal_redact_text(map, text.data, text.length, &out), SHOAL_OK);
    print_message("%llu ms for 256 KiB\n",
                  (unsigned long long)(shoal_clock_now_ms(&clock) - start_ms));
    assert_string_equal(out.data, text.data);
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
    shoal_redact_rules *rules = NULL;
    const shoal_redact_settings settings = {.kinds = {true, true, true, true, true},
                                            .names = "ann,word",
                                            .patterns = "A=0[0-9]{2}.{1,9}; EMAIL1=[[-]{1,3}"};
    assert_int_equal(shoal_redact_rules_new(&settings, &rules, NULL), SHOAL_OK);
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        uint64_t rng = seed;
        shoal_buf texts[3] = {{0}};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_redact_map *map = NULL;
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        for (size_t i = 0; i < 3; i++) {
            put_random(&texts[i], &rng);
            shoal_redact_reserve(map, texts[i].data, texts[i].length);
        }
        for (size_t i = 0; i < 3; i++) {
            shoal_buf_reset(&out);
            assert_int_equal(shoal_redact_text(map, texts[i].data, texts[i].length, &out),
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
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        assert_int_equal(shoal_redact_text(map, text.data, text.length, &out),
                         n <= SHOAL_REDACT_WORDS_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_redact_map_free(map);
    }
    for (size_t n = 0; n < 3; n++) {
        static const char *const texts[] = {"[EMAIL_999999998] a@b.co", "[EMAIL_999999999] a@b.co",
                                            "[EMAIL_1000000000] a@b.co"};
        shoal_buf_reset(&out);
        assert_int_equal(shoal_redact_map_new(rules, &map), SHOAL_OK);
        shoal_redact_reserve(map, texts[n], strlen(texts[n]));
        assert_int_equal(shoal_redact_text(map, texts[n], strlen(texts[n]), &out),
                         n == 1 ? SHOAL_E_LIMIT : SHOAL_OK);
        shoal_redact_map_free(map);
    }
    static const char words[] = "a@b.co 030/12345678 Ann";
    for (uint64_t i = 0;; i++) {
        shoal_buf_fini(&out);
        map = NULL;
        shoal_mem_fail_at(i);
        shoal_status status = shoal_redact_map_new(rules, &map);
        if (status == SHOAL_OK) {
            status = shoal_redact_text(map, words, sizeof words - 1, &out);
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
        cmocka_unit_test(test_patterns_of_the_operators_own_are_taken),
        cmocka_unit_test(test_random_patterns_match_as_one_way_after_another_does),
        cmocka_unit_test(test_bad_patterns_are_named),
        cmocka_unit_test(test_no_pattern_makes_a_text_dear),
        cmocka_unit_test(test_random_texts_come_back_in_random_pieces),
        cmocka_unit_test(test_limits_are_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
