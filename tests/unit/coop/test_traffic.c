/* SPDX-License-Identifier: Apache-2.0
 *
 * What connections have carried, against what was sent over sockets of the test's own: headers
 * among it, other ports not, a descriptor that became another's not, no byte twice.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "edge/coop/traffic.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEADER = 40, /* of IPv4 and TCP, without options */
    OPTIONS = 12 /* timestamps */
};

typedef struct listener {
    int fd;
    int family;
    uint16_t port;
    char target[32];
} listener;

typedef struct pair {
    int near; /* the one that connected */
    int far;
} pair;

static bool listen_on(int family, listener *ret)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr *address =
        family == AF_INET6 ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t n = family == AF_INET6 ? sizeof six : sizeof four;
    ret->family = family;
    ret->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (ret->fd < 0) {
        return false;
    }
    if (bind(ret->fd, address, n) != 0 || listen(ret->fd, 64) != 0 ||
        getsockname(ret->fd, address, &n) != 0) {
        (void)close(ret->fd);
        return false;
    }
    ret->port = ntohs(family == AF_INET6 ? six.sin6_port : four.sin_port);
    (void)snprintf(ret->target, sizeof ret->target,
                   family == AF_INET6 ? "[::1]:%u" : "127.0.0.1:%u", ret->port);
    return true;
}

static pair connect_to(const listener *l)
{
    struct sockaddr_in6 six = {
        .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(l->port)};
    struct sockaddr_in four = {
        .sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(l->port)};
    bool is_six = l->family == AF_INET6;
    pair p = {.near = socket(l->family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    assert_true(p.near >= 0);
    assert_int_equal(connect(p.near, is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four,
                             is_six ? sizeof six : sizeof four),
                     0);
    p.far = accept(l->fd, NULL, NULL);
    assert_true(p.far >= 0);
    return p;
}

static void pass(int from, int to, size_t n)
{
    char bytes[4096] = {0};
    assert_true(n <= sizeof bytes);
    assert_int_equal(write(from, bytes, n), (ssize_t)n);
    for (size_t done = 0; done < n;) {
        ssize_t got = read(to, bytes, n - done);
        assert_true(got > 0);
        done += (size_t)got;
    }
}

static shoal_traffic *traffic_to(const char *target)
{
    shoal_traffic *traffic = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_traffic_new(target, &traffic, &err);
    if (status == SHOAL_E_UNSUPPORTED) {
        print_message("%s\n", err.text);
        skip();
    }
    assert_int_equal(status, SHOAL_OK);
    return traffic;
}

/* What is beside n bytes of data is whole headers, at least n_least of them. */
static void beside_are_headers(uint64_t taken, uint64_t n, uint64_t ip_more, uint64_t n_least)
{
    assert_true(taken > n);
    uint64_t with = HEADER + ip_more + OPTIONS;
    uint64_t without = HEADER + ip_more;
    assert_true((taken - n) % with == 0 || (taken - n) % without == 0);
    assert_true((taken - n) / without >= n_least);
}

static void test_bytes_and_headers_are_counted_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        int family = i == 0 ? AF_INET : AF_INET6;
        listener l = {0};
        uint64_t up = 0;
        uint64_t down = 0;
        if (!listen_on(family, &l)) {
            assert_int_equal(family, AF_INET6); /* a machine without it */
            continue;
        }
        uint64_t more = family == AF_INET6 ? 20 : 0;
        shoal_traffic *traffic = traffic_to(l.target);
        shoal_traffic_take(traffic, 0, &up, &down);
        assert_int_equal(up + down, 0);
        pair p = connect_to(&l);
        pass(p.near, p.far, 3000);
        pass(p.far, p.near, 1000);
        /* Not looked for again within the second, and nothing is lost by that. */
        shoal_traffic_take(traffic, SHOAL_TRAFFIC_RESCAN_MS - 1, &up, &down);
        assert_int_equal(up + down, 0);
        shoal_traffic_take(traffic, SHOAL_TRAFFIC_RESCAN_MS, &up, &down);
        beside_are_headers(up, 3000, more, 3);   /* SYN, its acknowledgement's, data */
        beside_are_headers(down, 1000, more, 2); /* SYN, data */
        shoal_traffic_take(traffic, SHOAL_TRAFFIC_RESCAN_MS + 1, &up, &down);
        assert_true(up % (HEADER + more + OPTIONS) == 0 || up % (HEADER + more) == 0);
        assert_true(up <= 2 * (HEADER + more + OPTIONS)); /* a late acknowledgement at most */
        pass(p.near, p.far, 7);
        shoal_traffic_take(traffic, SHOAL_TRAFFIC_RESCAN_MS + 2, &up, &down);
        beside_are_headers(up, 7, more, 1);
        shoal_traffic_free(traffic);
        (void)close(p.near);
        (void)close(p.far);
        (void)close(l.fd);
    }
}

static void test_what_is_of_others_is_not_counted(void **state)
{
    (void)state;
    listener l = {0};
    listener other = {0};
    uint64_t up = 0;
    uint64_t down = 0;
    assert_true(listen_on(AF_INET, &l) && listen_on(AF_INET, &other));
    shoal_traffic *traffic = traffic_to(l.target);
    pair p = connect_to(&other);
    pass(p.near, p.far, 1000);
    shoal_traffic_take(traffic, 0, &up, &down);
    assert_int_equal(up + down, 0);
    /* A descriptor that was ours becomes one to another port. */
    pair q = connect_to(&l);
    pass(q.near, q.far, 100);
    shoal_traffic_take(traffic, 1000, &up, &down);
    assert_true(up > 100 && down > 0);
    assert_int_equal(dup2(p.near, q.near), q.near);
    pass(q.near, p.far, 4000);
    shoal_traffic_take(traffic, 1001, &up, &down);
    assert_int_equal(up + down, 0);
    /* And one to ours again: as much as it carries, from its own beginning. */
    (void)close(q.near);
    (void)close(q.far);
    q = connect_to(&l);
    pass(q.near, q.far, 50);
    shoal_traffic_take(traffic, 3000, &up, &down);
    beside_are_headers(up, 50, 0, 3);
    shoal_traffic_free(traffic);
    const int fds[] = {p.near, p.far, q.near, q.far, l.fd, other.fd};
    for (size_t i = 0; i < SHOAL_COUNT(fds); i++) {
        (void)close(fds[i]);
    }
}

static void test_all_of_a_list_and_no_more_than_are_followed(void **state)
{
    enum {
        MORE = SHOAL_TRAFFIC_CONNECTIONS_MAX + 2
    };
    static pair pairs[MORE];
    (void)state;
    listener a = {0};
    listener b = {0};
    char target[80];
    uint64_t up = 0;
    uint64_t down = 0;
    assert_true(listen_on(AF_INET, &a) && listen_on(AF_INET, &b));
    (void)snprintf(target, sizeof target, "%s,%s", a.target, b.target);
    shoal_traffic *traffic = traffic_to(target);
    for (size_t i = 0; i < MORE; i++) {
        pairs[i] = connect_to(i % 2 == 0 ? &a : &b);
    }
    shoal_traffic_take(traffic, 0, &up, &down);
    uint64_t opened = up;
    for (size_t i = 0; i < MORE; i++) {
        pass(pairs[i].near, pairs[i].far, 10);
    }
    shoal_traffic_take(traffic, 1, &up, &down);
    uint64_t data = up / SHOAL_TRAFFIC_CONNECTIONS_MAX;
    assert_true(up % SHOAL_TRAFFIC_CONNECTIONS_MAX == 0 && data >= 10 + HEADER);
    assert_true(opened >= (uint64_t)SHOAL_TRAFFIC_CONNECTIONS_MAX * 2 * HEADER);
    /* Places that become free are taken by those that had none. */
    (void)close(pairs[0].near);
    (void)close(pairs[1].near);
    shoal_traffic_take(traffic, 2, &up, &down);
    shoal_traffic_take(traffic, 2000, &up, &down);
    beside_are_headers(up, 20, 0, 6);
    shoal_traffic_free(traffic);
    for (size_t i = 0; i < MORE; i++) {
        if (i > 1) {
            (void)close(pairs[i].near);
        }
        (void)close(pairs[i].far);
    }
    (void)close(a.fd);
    (void)close(b.fd);
}

static void *take_often(void *arg)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t up = 0;
        uint64_t down = 0;
        shoal_traffic_take(arg, i, &up, &down);
        sum += up;
    }
    return (void *)(uintptr_t)sum;
}

static void test_takers_of_several_threads_share_what_there_is(void **state)
{
    (void)state;
    listener l = {0};
    assert_true(listen_on(AF_INET, &l));
    shoal_traffic *traffic = traffic_to(l.target);
    pair p = connect_to(&l);
    pthread_t threads[3];
    for (size_t i = 0; i < SHOAL_COUNT(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, take_often, traffic), 0);
    }
    for (size_t i = 0; i < 100; i++) {
        pass(p.near, p.far, 100);
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < SHOAL_COUNT(threads); i++) {
        void *taken = NULL;
        assert_int_equal(pthread_join(threads[i], &taken), 0);
        sum += (uintptr_t)taken;
    }
    uint64_t up = 0;
    uint64_t down = 0;
    shoal_traffic_take(traffic, 4000, &up, &down);
    beside_are_headers(sum + up, 10000, 0, 102);
    shoal_traffic_free(traffic);
    (void)close(p.near);
    (void)close(p.far);
    (void)close(l.fd);
}

static void test_no_target_is_refused(void **state)
{
    (void)state;
    shoal_traffic *traffic = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_traffic_new("nowhere", &traffic, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "'nowhere'"));
    assert_null(traffic);
    shoal_traffic_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_and_headers_are_counted_once),
        cmocka_unit_test(test_what_is_of_others_is_not_counted),
        cmocka_unit_test(test_all_of_a_list_and_no_more_than_are_followed),
        cmocka_unit_test(test_takers_of_several_threads_share_what_there_is),
        cmocka_unit_test(test_no_target_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
