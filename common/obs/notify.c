/* SPDX-License-Identifier: Apache-2.0 */
#include "common/obs/notify.h"

#include "common/base/clock.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A manager that cannot be told changes nothing for those we serve, so failures are not reported.
 */
void shoal_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof to.sun_path || (path[0] != '/' && path[0] != '@')) {
        return;
    }
    memcpy(to.sun_path, path, n);
    if (to.sun_path[0] == '@') {
        to.sun_path[0] = '\0'; /* the abstract name space */
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return;
    }
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to, length);
    (void)close(fd);
}

void shoal_notify_reloading(void)
{
    char text[64];
    shoal_clock clock = shoal_clock_real();
    (void)snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%llu",
                   (unsigned long long)(shoal_clock_now_ns(&clock) / 1000u));
    shoal_notify(text);
}

uint64_t shoal_notify_watchdog_ms(void)
{
    const char *text = getenv("WATCHDOG_USEC");
    const char *pid = getenv("WATCHDOG_PID");
    if (!text || (pid && strtol(pid, NULL, 10) != (long)getpid())) {
        return 0;
    }
    unsigned long long us = strtoull(text, NULL, 10);
    return us >= 2000 && us < (unsigned long long)INT64_MAX ? (uint64_t)(us / 2000u) : 0;
}
