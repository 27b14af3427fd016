/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/obs/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char caught[8192];

/* Runs one log call with stderr in a temporary file and returns what was written. */
static const char *catch_log(shoal_log_level level, const char *text)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    shoal_log(level, "%s", text);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    ssize_t n = pread(fileno(file), caught, sizeof caught - 1, 0);
    (void)fclose(file);
    assert_true(n >= 0);
    caught[n] = '\0';
    return caught;
}

static void reset(void)
{
    shoal_log_set_level(SHOAL_LOG_INFO);
    shoal_log_set_program(NULL);
    shoal_log_set_journald(false);
}

static void test_line_has_level_program_and_priority(void **state)
{
    (void)state;
    reset();
    assert_string_equal(catch_log(SHOAL_LOG_INFO, "ready port=1"), "info ready port=1\n");
    shoal_log_set_program("shoal-edge");
    assert_string_equal(catch_log(SHOAL_LOG_WARN, "x"), "shoal-edge: warn x\n");
    shoal_log_set_journald(true);
    assert_string_equal(catch_log(SHOAL_LOG_ERROR, "x"), "<3>shoal-edge: error x\n");
    assert_string_equal(catch_log(SHOAL_LOG_INFO, "x"), "<6>shoal-edge: info x\n");
    reset();
}

static void test_levels_below_the_set_one_are_silent(void **state)
{
    (void)state;
    reset();
    for (int lowest = SHOAL_LOG_DEBUG; lowest <= SHOAL_LOG_ERROR; lowest++) {
        shoal_log_set_level((shoal_log_level)lowest);
        for (int level = SHOAL_LOG_DEBUG; level <= SHOAL_LOG_ERROR; level++) {
            bool spoke = catch_log((shoal_log_level)level, "x")[0] != '\0';
            assert_int_equal(spoke, level >= lowest);
        }
    }
    reset();
}

static void test_values_cannot_start_a_line(void **state)
{
    (void)state;
    reset();
    assert_string_equal(catch_log(SHOAL_LOG_INFO, "a\nerror forged\r\x1B[31m\x7F"),
                        "info a\\x0Aerror forged\\x0D\\x1B[31m\\x7F\n");
    assert_string_equal(catch_log(SHOAL_LOG_INFO, "\xC2\x9B"
                                                  "31m \xC3\xBC \x9B \xE2\x82"),
                        "info \\xC2\\x9B31m \xC3\xBC \\x9B \\xE2\\x82\n");
}

static void test_long_line_is_cut_with_a_mark_and_ends_in_newline(void **state)
{
    (void)state;
    reset();
    static char text[6000];
    for (size_t n = 2000; n < 5000; n += 61) {
        memset(text, 'x', n);
        text[n] = '\0';
        const char *line = catch_log(SHOAL_LOG_INFO, text);
        size_t length = strlen(line);
        assert_true(length < 4096);
        assert_int_equal(line[length - 1], '\n');
        bool cut = n > 2047;
        assert_int_equal(strcmp(line + length - 4, "...\n") == 0, cut);
    }
    /* Escapes make four of one, so this is cut by the line's own limit. */
    memset(text, 1, 1500);
    text[1500] = '\0';
    const char *line = catch_log(SHOAL_LOG_INFO, text);
    assert_true(strlen(line) < 3072 + 1);
    assert_string_equal(line + strlen(line) - 8, "\\x01...\n");
}

static void test_escape_stops_at_whole_units(void **state)
{
    (void)state;
    char out[16];
    assert_string_equal(shoal_log_escape("ab\n", out, 16), "ab\\x0A");
    assert_string_equal(shoal_log_escape("ab\n", out, 7), "ab\\x0A");
    assert_string_equal(shoal_log_escape("ab\n", out, 6), "ab");
    assert_string_equal(shoal_log_escape("a\xC3\xBC", out, 3), "a");
    assert_string_equal(shoal_log_escape("a\xC3\xBC", out, 4), "a\xC3\xBC");
    assert_string_equal(shoal_log_escape("abc", out, 1), "");
    assert_string_equal(shoal_log_escape("abc", out, 0), "");
    assert_string_equal(shoal_log_escape("a\\x0A", out, 16), "a\\x0A");
}

static void test_level_names_parse_and_others_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; i < SHOAL_COUNT(names); i++) {
        shoal_log_level level = SHOAL_LOG_ERROR;
        assert_int_equal(shoal_log_level_parse(names[i], &level), SHOAL_OK);
        assert_int_equal(level, i);
    }
    shoal_log_level level = SHOAL_LOG_WARN;
    assert_int_equal(shoal_log_level_parse("Info", &level), SHOAL_E_INVALID);
    assert_int_equal(shoal_log_level_parse("", &level), SHOAL_E_INVALID);
    assert_int_equal(level, SHOAL_LOG_WARN);
}

/* Whoever reads the log stands still: who logs does not. What waits comes whole and in order, and
 * what found no room is told of. */
static void test_a_reader_that_stands_still_stops_nobody(void **state)
{
    (void)state;
    reset();
    enum {
        LINES = 5000,
        TEXT_BYTES = 1 << 20
    };
    int ends[2];
    int saved = dup(STDERR_FILENO);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_true(saved >= 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    (void)close(ends[1]);
    shoal_log_start();
    for (int i = 0; i < LINES; i++) {
        shoal_log(SHOAL_LOG_INFO, "line=%d %0100d", i, 0);
    }
    char *text = calloc(TEXT_BYTES, 1);
    assert_non_null(text);
    size_t n = 0;
    while (!strstr(text, "lines of the log were lost n=")) {
        ssize_t got = read(ends[0], text + n, TEXT_BYTES - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    shoal_log(SHOAL_LOG_INFO, "last");
    shoal_log_stop();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    ssize_t rest = read(ends[0], text + n, TEXT_BYTES - 1 - n);
    assert_true(rest > 0);
    int n_seen = 0;
    int last = -1;
    const char *at = text;
    for (int i = 0; sscanf(at, "info line=%d", &i) == 1; n_seen++) {
        assert_true(i > last);
        last = i;
        at = strchr(at, '\n');
        assert_non_null(at);
        at++;
    }
    int n_lost = 0;
    assert_int_equal(sscanf(at, "warn lines of the log were lost n=%d:", &n_lost), 1);
    assert_int_equal(n_seen + n_lost, LINES);
    assert_true(n_seen > 500 && n_lost > 500);
    at = strchr(at, '\n');
    assert_non_null(at);
    assert_string_equal(at + 1, "info last\n");
    assert_string_equal(catch_log(SHOAL_LOG_INFO, "x"), "info x\n"); /* as before */
    (void)close(ends[0]);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_has_level_program_and_priority),
        cmocka_unit_test(test_levels_below_the_set_one_are_silent),
        cmocka_unit_test(test_values_cannot_start_a_line),
        cmocka_unit_test(test_long_line_is_cut_with_a_mark_and_ends_in_newline),
        cmocka_unit_test(test_escape_stops_at_whole_units),
        cmocka_unit_test(test_a_reader_that_stands_still_stops_nobody),
        cmocka_unit_test(test_level_names_parse_and_others_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
