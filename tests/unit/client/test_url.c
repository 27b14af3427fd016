/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "edge/client/client_internal.h"

static void test_url_good_ones_are_taken_apart(void **state)
{
    (void)state;
    const struct {
        const char *url, *host, *port, *prefix, *authority;
    } cases[] = {
        {"http://127.0.0.1:8088", "127.0.0.1", "8088", "", "127.0.0.1:8088"},
        {"HTTP://edge.example/", "edge.example", "80", "", "edge.example"},
        {"http://[::1]:65535/a/b//", "::1", "65535", "/a/b", "[::1]:65535"},
        {"http://h_1-x:1/a%20~b.c", "h_1-x", "1", "/a%20~b.c", "h_1-x:1"},
        {"http://[fe80::1.2.3.4]", "fe80::1.2.3.4", "80", "", "[fe80::1.2.3.4]"},
        {"https://edge.example", "edge.example", "443", "", "edge.example"},
        {"HTTPS://[::1]:8443/a", "::1", "8443", "/a", "[::1]:8443"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shoal_client_url_parts parts;
        shoal_client_error error = {.code = 0};
        assert_int_equal(shoal_client_url_parse(cases[i].url, &parts, &error), SHOAL_CLIENT_OK);
        assert_false(parts.is_unix);
        assert_int_equal(parts.is_tls, (cases[i].url[4] | 0x20) == 's');
        assert_string_equal(parts.host, cases[i].host);
        assert_string_equal(parts.port, cases[i].port);
        assert_string_equal(parts.prefix, cases[i].prefix);
        assert_string_equal(parts.authority, cases[i].authority);
    }
    shoal_client_url_parts parts;
    shoal_client_error error = {.code = 0};
    assert_int_equal(shoal_client_url_parse("unix:/run/shoal/edge.sock", &parts, &error),
                     SHOAL_CLIENT_OK);
    assert_true(parts.is_unix);
    assert_string_equal(parts.path, "/run/shoal/edge.sock");
}

static void test_url_bad_ones_are_refused(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "",
        "127.0.0.1:8088",
        "ftp://x",
        "httpss://x",
        "https://",
        "https://h:0",
        "http://",
        "http://:80",
        "http:///x",
        "http://h:",
        "http://h:0",
        "http://h:65536",
        "http://h:123456",
        "http://h:8o",
        "http://h:-1",
        "http://user:pw@h",
        "http://user@h",
        "http://h h",
        "http://h\r\nX: y",
        "http://h/a\r\nX: y",
        "http://h/a b",
        "http://h/?q",
        "http://h/#f",
        "http://[::1",
        "http://[::1]x",
        "http://[::1]:",
        "http://[]:80",
        "http://h\xC3\xA9",
        "unix:",
        "unix:relative",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        shoal_client_url_parts parts;
        shoal_client_error error = {.code = 0};
        assert_int_equal(shoal_client_url_parse(cases[i], &parts, &error), SHOAL_CLIENT_E_INVALID);
        assert_non_null(strstr(error.text, "http://host:port"));
    }
}

static int parse_length(const char *head, size_t n)
{
    char url[SHOAL_CLIENT_URL_MAX + 8];
    assert_true(n < sizeof url);
    memset(url, 'x', n);
    memcpy(url, head, strlen(head));
    url[n] = '\0';
    shoal_client_url_parts parts;
    shoal_client_error error = {.code = 0};
    return shoal_client_url_parse(url, &parts, &error);
}

static void test_url_limits_of_its_parts(void **state)
{
    (void)state;
    /* Host: at most 255 bytes. */
    assert_int_equal(parse_length("http://", 7 + 254), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("http://", 7 + 255), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("http://", 7 + 256), SHOAL_CLIENT_E_INVALID);
    /* Prefix: at most 255 bytes with its slash. */
    assert_int_equal(parse_length("http://h/", 8 + 254), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("http://h/", 8 + 255), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("http://h/", 8 + 256), SHOAL_CLIENT_E_INVALID);
    /* Socket path: 107 bytes and a NUL. */
    assert_int_equal(parse_length("unix:/", 5 + 106), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("unix:/", 5 + 107), SHOAL_CLIENT_OK);
    assert_int_equal(parse_length("unix:/", 5 + 108), SHOAL_CLIENT_E_INVALID);
    assert_int_equal(parse_length("unix:/", SHOAL_CLIENT_URL_MAX), SHOAL_CLIENT_E_INVALID);
    assert_int_equal(parse_length("unix:/", SHOAL_CLIENT_URL_MAX + 1), SHOAL_CLIENT_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_url_good_ones_are_taken_apart),
        cmocka_unit_test(test_url_bad_ones_are_refused),
        cmocka_unit_test(test_url_limits_of_its_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
