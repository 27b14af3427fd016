/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "protocol/rpc/rpc_internal.h"

#include <stdio.h>
#include <string.h>

static const shoal_rpc_tls named = {"ca", "cert", "key", "shoal-cloud"};
static const shoal_rpc_tls nameless = {"ca", "cert", "key", NULL};

static void listen_case(const char *address, bool plaintext, shoal_status want)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_rpc_address_listen(address, plaintext, &err);
    if (status != want) {
        fail_msg("'%s' gave %d '%s'", address, status, err.text);
    }
}

static void test_listen_addresses(void **state)
{
    (void)state;
    listen_case("127.0.0.1:0", true, SHOAL_OK);
    listen_case("127.9.9.9:65535", true, SHOAL_OK);
    listen_case("localhost:7443", true, SHOAL_OK);
    listen_case("[::1]:7443", true, SHOAL_OK);
    listen_case("0.0.0.0:7443", false, SHOAL_OK);
    listen_case("[::]:7443", false, SHOAL_OK);
    listen_case("0.0.0.0:7443", true, SHOAL_E_AUTH);
    listen_case("[::]:7443", true, SHOAL_E_AUTH);
    listen_case("10.0.0.1:7443", true, SHOAL_E_AUTH);
    listen_case("localhost.example:7443", true, SHOAL_E_AUTH);
    listen_case("127.0.0.1.example:7443", true, SHOAL_E_AUTH);
    static const char *const bad[] = {"",
                                      ":",
                                      ":7443",
                                      "127.0.0.1",
                                      "127.0.0.1:",
                                      "127.0.0.1:65536",
                                      "127.0.0.1:100000",
                                      "127.0.0.1:-1",
                                      "127.0.0.1:7x",
                                      "::1:7443",
                                      "[::1:7443",
                                      "[]:7443",
                                      "[nine]:7443",
                                      "unix:/tmp/socket",
                                      "xds:///node:1",
                                      "a b:1",
                                      "http://node:1"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        listen_case(bad[i], true, SHOAL_E_INVALID);
        listen_case(bad[i], false, SHOAL_E_INVALID);
    }
}

static void test_host_at_its_length_limit(void **state)
{
    (void)state;
    char address[300];
    memset(address, 'h', sizeof address);
    memcpy(address + 255, ":1", 3);
    listen_case(address, false, SHOAL_OK);
    memcpy(address + 255, "h:1", 4);
    listen_case(address, false, SHOAL_E_INVALID);
}

static void target_case(const char *target, const shoal_rpc_tls *tls, shoal_status want,
                        const char *words)
{
    char out[SHOAL_RPC_TARGET_MAX] = "";
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status =
        shoal_rpc_address_target(target, tls, shoal_rpc_tls_absent(tls), out, &err);
    if (status != want || (words && strcmp(out, words) != 0)) {
        fail_msg("'%s' gave %d '%s' '%s'", target, status, out, err.text);
    }
}

static void test_targets(void **state)
{
    (void)state;
    target_case("127.0.0.1:7443", NULL, SHOAL_OK, "ipv4:127.0.0.1:7443");
    target_case("[::1]:7443", NULL, SHOAL_OK, "ipv6:[::1]:7443");
    target_case("localhost:7443", NULL, SHOAL_OK, "dns:///localhost:7443");
    target_case("cloud.example:7443", &nameless, SHOAL_OK, "dns:///cloud.example:7443");
    target_case("cloud.example:7443", NULL, SHOAL_E_AUTH, NULL);
    target_case("127.0.0.1:0", NULL, SHOAL_E_INVALID, NULL);
    target_case("127.0.0.1:1,127.0.0.2:2", NULL, SHOAL_OK, "ipv4:127.0.0.1:1,127.0.0.2:2");
    target_case("127.0.0.1:1,10.0.0.2:2", NULL, SHOAL_E_AUTH, NULL);
    target_case("127.0.0.1:1,[::1]:2", NULL, SHOAL_E_INVALID, NULL);
    target_case("a:1,b:2", &named, SHOAL_E_INVALID, NULL);
    target_case("10.0.0.1:1,10.0.0.2:2", &named, SHOAL_OK, "ipv4:10.0.0.1:1,10.0.0.2:2");
    target_case("10.0.0.1:1,10.0.0.2:2", &nameless, SHOAL_E_INVALID, NULL);
    target_case("127.0.0.1:1,", NULL, SHOAL_E_INVALID, NULL);
    target_case(",127.0.0.1:1", NULL, SHOAL_E_INVALID, NULL);
    target_case("", NULL, SHOAL_E_INVALID, NULL);
}

static void test_list_at_its_limit(void **state)
{
    (void)state;
    char list[2000] = "";
    size_t n = 0;
    for (size_t i = 0; i < SHOAL_RPC_ADDRESSES_MAX; i++) {
        n += (size_t)snprintf(list + n, sizeof list - n, "%s127.0.0.1:%zu", i ? "," : "", i + 1);
    }
    target_case(list, NULL, SHOAL_OK, NULL);
    (void)snprintf(list + n, sizeof list - n, ",127.0.0.1:9");
    target_case(list, NULL, SHOAL_E_LIMIT, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listen_addresses),
        cmocka_unit_test(test_host_at_its_length_limit),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_list_at_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
