/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/http/head.h"
#include "protocol/http/json_out.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const shoal_http_head_limits limits = {.bytes_max = 200, .url_max = 20, .headers_max = 3};

/* Whole and byte by byte must agree; gives the status, 0 for DONE, -1 for MORE. */
static int scan(const char *text, size_t n, size_t *ret_used)
{
    int results[2] = {-1, -1};
    size_t used[2] = {0, 0};
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        shoal_http_head head = {0};
        for (size_t i = 0; i < n;) {
            size_t step = bytewise ? 1 : n;
            size_t some = 0;
            int status = 0;
            const char *why = NULL;
            shoal_http_head_result r =
                shoal_http_head_push(&head, &limits, text + i, step, &some, &status, &why);
            i += some;
            used[bytewise] = i;
            if (r == SHOAL_HTTP_HEAD_DONE) {
                results[bytewise] = 0;
                break;
            }
            if (r == SHOAL_HTTP_HEAD_REFUSED) {
                assert_non_null(why);
                results[bytewise] = status;
                break;
            }
        }
    }
    assert_int_equal(results[0], results[1]);
    assert_int_equal(used[0], used[1]);
    *ret_used = used[0];
    return results[0];
}

static int scan_text(const char *text)
{
    size_t used = 0;
    return scan(text, strlen(text), &used);
}

static void test_head_good_forms_pass(void **state)
{
    (void)state;
    assert_int_equal(scan_text("GET / HTTP/1.1\r\n\r\n"), 0);
    assert_int_equal(scan_text("GET /a?b=c HTTP/1.1\r\nHost: x\r\nA:\tb\r\nC:\r\n\r\n"), 0);
    assert_int_equal(scan_text("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 0);
    assert_int_equal(scan_text("GET / HTTP/1.1\r\nHost: caf\xc3\xa9\r\n\r\n"), 0);
    size_t used = 0;
    assert_int_equal(scan("GET / HTTP/1.1\r\n\r\nGET ", 22, &used), 0);
    assert_int_equal(used, 18);
    assert_int_equal(scan_text("GET / HTTP/1.1\r\nHost: x\r\n"), -1);
}

static void test_head_lenient_forms_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "GET / HTTP/1.1\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\n\r\n",
        "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\t: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n first: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\rY: z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\x01\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nH(st: x\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        "\nGET / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "\r\rGET / HTTP/1.1\r\n\r\n",
        " GET / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "GET / HTTP/1.1\r\n\rX",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (scan_text(bad[i]) != 400) {
            fail_msg("row %zu gave %d", i, scan_text(bad[i]));
        }
    }
    size_t used = 0;
    assert_int_equal(scan("GET / HTTP/1.1\r\nA: \0b\r\n\r\n", 26, &used), 400);
    assert_int_equal(scan("G\0T / HTTP/1.1\r\n\r\n", 18, &used), 400);
}

static void test_head_limits_hold_exactly(void **state)
{
    (void)state;
    char text[400];
    for (int d = -1; d <= 1; d++) {
        (void)snprintf(text, sizeof text, "GET /%.*s HTTP/1.1\r\n\r\n", 19 + d,
                       "aaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        assert_int_equal(scan_text(text), d > 0 ? 414 : 0);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf many = {0};
        assert_int_equal(shoal_buf_appendf(&many, "GET / HTTP/1.1\r\n"), SHOAL_OK);
        for (int i = 0; i < 3 + d; i++) {
            assert_int_equal(shoal_buf_appendf(&many, "A: b\r\n"), SHOAL_OK);
        }
        assert_int_equal(shoal_buf_appendf(&many, "\r\n"), SHOAL_OK);
        assert_int_equal(scan_text(many.data), d > 0 ? 431 : 0);
        char pad[200];
        memset(pad, 'x', sizeof pad);
        int fixed = (int)strlen("GET / HTTP/1.1\r\nA: \r\n\r\n");
        (void)snprintf(text, sizeof text, "GET / HTTP/1.1\r\nA: %.*s\r\n\r\n", 200 - fixed + d,
                       pad);
        assert_int_equal(scan_text(text), d > 0 ? 431 : 0);
    }
    memset(text, 'G', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(scan_text(text), 501);
}

static void test_host_names_are_matched_whole(void **state)
{
    (void)state;
    const char *names = "localhost,127.0.0.1,::1,Edge.local";
    static const char *const good[] = {"localhost", "LOCALHOST:8088", "127.0.0.1:1",  "[::1]:8088",
                                       "[::1]",     "edge.local",     "EDGE.LOCAL:80"};
    static const char *const bad[] = {"",
                                      "evil.example",
                                      "localhost.evil.example",
                                      "localhos",
                                      "127.0.0.10",
                                      "localhost:",
                                      "localhost:x",
                                      "localhost:123456",
                                      "[::1",
                                      "[::1]x",
                                      "::1",
                                      "a@localhost",
                                      "localhost/x",
                                      "10.0.0.1:8088",
                                      ":80"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(shoal_http_host_ok(good[i], names, false));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(shoal_http_host_ok(bad[i], names, false));
    }
    assert_true(shoal_http_host_ok("10.0.0.1:8088", names, true));
    assert_true(shoal_http_host_ok("[fe80::1]:8088", names, true));
    assert_false(shoal_http_host_ok("evil.example", names, true));
}

static void test_json_strings_are_always_valid(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_json_put_string(&buf, "a\"\\\n\x01\xff\xc3\xa9\x7f", 9), SHOAL_OK);
    assert_string_equal(buf.data, "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa9\\u007f\"");
    shoal_buf_reset(&buf);
    assert_int_equal(shoal_json_put_real(&buf, (double)NAN, 4), SHOAL_OK);
    assert_int_equal(shoal_json_put_real(&buf, 0.125, 4), SHOAL_OK);
    assert_int_equal(shoal_json_put_text(&buf, NULL), SHOAL_OK);
    assert_string_equal(buf.data, "null0.125null");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_good_forms_pass),
        cmocka_unit_test(test_head_lenient_forms_are_refused),
        cmocka_unit_test(test_head_limits_hold_exactly),
        cmocka_unit_test(test_host_names_are_matched_whole),
        cmocka_unit_test(test_json_strings_are_always_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
