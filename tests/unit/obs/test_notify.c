/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/macros.h"
#include "common/obs/notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void test_notify_speaks_to_the_socket_alone(void **state)
{
    (void)state;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char name[64];
    int n = snprintf(name, sizeof name, "@shoal-notify-%ld", (long)getpid());
    memcpy(at.sun_path + 1, name + 1, (size_t)n - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
    assert_int_equal(bind(fd, (const struct sockaddr *)&at, length), 0);
    assert_int_equal(setenv("NOTIFY_SOCKET", name, 1), 0);
    char got[128] = {0};
    shoal_notify("READY=1");
    assert_int_equal(recv(fd, got, sizeof got - 1, 0), 7);
    assert_string_equal(got, "READY=1");
    shoal_notify_reloading();
    assert_true(recv(fd, got, sizeof got - 1, 0) > 26);
    assert_true(strncmp(got, "RELOADING=1\nMONOTONIC_USEC=", 27) == 0);
    static const char *const bad[] = {"", "x", "relative", "@", "/nowhere/at/all"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(setenv("NOTIFY_SOCKET", bad[i], 1), 0);
        shoal_notify("READY=1");
    }
    assert_int_equal(unsetenv("NOTIFY_SOCKET"), 0);
    shoal_notify("READY=1");
    assert_true(recv(fd, got, sizeof got - 1, 0) < 0);
    (void)close(fd);
    assert_int_equal(shoal_notify_watchdog_ms(), 0);
    assert_int_equal(setenv("WATCHDOG_USEC", "3000000", 1), 0);
    assert_int_equal(shoal_notify_watchdog_ms(), 1500);
    assert_int_equal(setenv("WATCHDOG_PID", "1", 1), 0);
    assert_int_equal(shoal_notify_watchdog_ms(), 0);
    assert_int_equal(unsetenv("WATCHDOG_PID") + unsetenv("WATCHDOG_USEC"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notify_speaks_to_the_socket_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
