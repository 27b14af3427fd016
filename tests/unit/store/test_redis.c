/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"
#include "server.h"

#include "common/base/mem.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum {
    SKIPPED = 77 /* as tests/unit/store/CMakeLists.txt says */
};

static redis_server server;

static int start(void **state)
{
    (void)state;
    redis_server_init(&server);
    redis_server_start(&server, NULL, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    redis_server_fini(&server);
    return 0;
}

static shoal_store_settings settings_here(void)
{
    shoal_store_settings s = shoal_store_settings_default();
    s.kind = SHOAL_STORE_REDIS;
    s.address = server.socket;
    s.timeout_ms = 5000; /* machines are slow under sanitizers; a test of silence asks for less */
    return s;
}

static shoal_store *open_store(const shoal_store_settings *settings)
{
    shoal_store *store = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_store_open(settings, NULL, &store, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return store;
}

static void key_of(uint32_t text, uint32_t i, char ret_key[128])
{
    char hex[SHOAL_HASH_HEX];
    shoal_block_id id = block_id(text, i);
    shoal_hash_hex(&id.name, hex);
    (void)snprintf(ret_key, 128, "shoal:kv:1:%s", hex);
}

static long long on_block(uint32_t text, uint32_t i, const char *script)
{
    char key[128];
    key_of(text, i, key);
    return redis_server_eval(&server, script, key);
}

static const char exists[] = "return redis.call('exists',KEYS[1])";

static void test_two_nodes_share_what_one_put(void **state)
{
    (void)state;
    shoal_store_settings s = settings_here();
    s.ttl_s = 1000;
    shoal_store *one = open_store(&s);
    shoal_store *two = open_store(&s);
    assert_int_equal(get(two, 1, 3), SHOAL_EOF);
    assert_int_equal(put(one, 1, 3), SHOAL_OK);
    assert_int_equal(get(two, 1, 3), SHOAL_OK);
    assert_int_equal(get(two, 1, 2), SHOAL_EOF);
    /* Its life is bounded, and reading renews it. */
    long long left = on_block(1, 3, "redis.call('pexpire',KEYS[1],60000) return 1");
    assert_int_equal(left, 1);
    assert_int_equal(get(two, 1, 3), SHOAL_OK);
    left = on_block(1, 3, "return redis.call('pttl',KEYS[1])");
    assert_true(left > 60000 && left <= 1000000);
    assert_int_equal(evict(two, 1, 3), SHOAL_OK);
    assert_int_equal(get(one, 1, 3), SHOAL_EOF);
    assert_int_equal(stats_of(one).n_errors + stats_of(two).n_errors, 0);
    shoal_store_close(one);
    shoal_store_close(two);
}

static void let_leases_end(void *ctx)
{
    (void)ctx;
    const char end[] = "for _,k in ipairs(redis.call('keys','shoal:lease:1:*')) do "
                       "redis.call('pexpire',k,1) end return 1";
    const char count[] = "return #redis.call('keys','shoal:lease:1:*')";
    assert_int_equal(redis_server_eval(&server, end, "k"), 1);
    while (redis_server_eval(&server, count, "k") > 0) {
    }
}

static void test_leases_hold_between_nodes(void **state)
{
    (void)state;
    shoal_store_settings s = settings_here();
    s.lease_ms = 600000;
    shoal_store *one = open_store(&s);
    shoal_store *two = open_store(&s);
    check_leases(one, two, let_leases_end, NULL);
    /* A lease that passed to another is not ours to end, by release or by put. */
    shoal_block_id id = block_id(60, 0);
    assert_true(ask_get(one, &id, PAYLOAD, true).leased);
    let_leases_end(NULL);
    assert_true(ask_get(two, &id, PAYLOAD, true).leased);
    assert_int_equal(release(one, 60, 0), SHOAL_OK);
    assert_int_equal(ask_get(one, &id, PAYLOAD, true).status, SHOAL_BUSY);
    assert_int_equal(put(one, 60, 0), SHOAL_OK);
    assert_int_equal(evict(one, 60, 0), SHOAL_OK);
    assert_int_equal(ask_get(one, &id, PAYLOAD, true).status, SHOAL_BUSY);
    shoal_store_close(one);
    shoal_store_close(two);
}

static void test_pipeline_keeps_the_order(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    shoal_store_settings s = settings_here();
    shoal_store *store = open_store(&s);
    for (uint32_t i = 0; i < N; i++) {
        shoal_block_id id = block_id(100 + i % 50, i / 50);
        assert_int_equal(shoal_store_put(store, &id, block_make(100 + i % 50, i / 50, PAYLOAD), i),
                         SHOAL_OK);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, i % 2, N + i), SHOAL_OK);
    }
    for (uint32_t i = 0; i < 2 * N; i++) {
        shoal_store_result *result = next_result(store);
        uint32_t at = i / 2;
        assert_int_equal(result->status, SHOAL_OK);
        assert_int_equal(result->tag, i % 2 ? N + at : at);
        if (i % 2) {
            block_assert_right(result->block, 100 + at % 50, at / 50, PAYLOAD);
        }
        shoal_store_result_free(store, result);
    }
    assert_int_equal(stats_of(store).n_errors, 0);
    shoal_store_close(store);
}

static void test_broken_and_strange_values_are_refused_and_removed(void **state)
{
    (void)state;
    const char *const spoil[] = {
        "redis.call('setrange',KEYS[1],40,'x') return 1",
        "redis.call('setrange',KEYS[1],900,'xyz') return 1",
        "redis.call('set',KEYS[1],string.sub(redis.call('get',KEYS[1]),1,700)) return 1",
        "redis.call('append',KEYS[1],'x') return 1",
        "redis.call('set',KEYS[1],'x') return 1",
        "redis.call('set',KEYS[1],string.rep('x',1000000)) return 1",
    };
    shoal_store_settings s = settings_here();
    shoal_store *store = open_store(&s);
    for (size_t i = 0; i < SHOAL_COUNT(spoil); i++) {
        assert_int_equal(put(store, 3, 0), SHOAL_OK);
        assert_int_equal(on_block(3, 0, spoil[i]), 1);
        assert_int_equal(get(store, 3, 0), SHOAL_EOF);
        assert_int_equal(on_block(3, 0, exists), 0);
        assert_int_equal(stats_of(store).n_refused, i + 1);
    }
    /* Another's sound block. */
    char mine[128];
    char others[128];
    char script[256];
    key_of(3, 0, mine);
    key_of(4, 0, others);
    (void)snprintf(script, sizeof script,
                   "redis.call('set',KEYS[1],redis.call('get','%s')) return 1", others);
    assert_int_equal(put(store, 4, 0), SHOAL_OK);
    assert_int_equal(redis_server_eval(&server, script, mine), 1);
    assert_int_equal(get(store, 3, 0), SHOAL_EOF);
    assert_int_equal(on_block(3, 0, exists), 0);
    assert_int_equal(stats_of(store).n_refused, SHOAL_COUNT(spoil) + 1);
    /* Not a string: an error of that request, the connection stands. */
    assert_int_equal(on_block(5, 0, "redis.call('lpush',KEYS[1],'x') return 1"), 1);
    assert_int_equal(get(store, 5, 0), SHOAL_EOF);
    assert_int_equal(stats_of(store).n_errors, 1);
    assert_int_equal(get(store, 4, 0), SHOAL_OK);
    shoal_store_close(store);
}

/* Bad blocks in a row, and the server is left alone; one sound block between them, and it is not.
 */
static void test_server_of_bad_blocks_is_left_alone_for_a_while(void **state)
{
    (void)state;
    uint64_t now_ns = 1000000000;
    shoal_store_settings s = settings_here();
    s.clock = shoal_clock_virtual(&now_ns);
    shoal_store *store = open_store(&s);
    assert_int_equal(put(store, 9, 0), SHOAL_OK);
    for (uint32_t n = SHOAL_STORE_BAD_MAX - 1; n <= SHOAL_STORE_BAD_MAX; n++) {
        uint64_t n_before = stats_of(store).n_refused;
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(put(store, 10, i), SHOAL_OK);
            assert_int_equal(on_block(10, i, "redis.call('setrange',KEYS[1],900,'xyz') return 1"),
                             1);
        }
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(get(store, 10, i), SHOAL_EOF);
        }
        assert_int_equal(stats_of(store).n_refused, n_before + n);
        assert_int_equal(get(store, 9, 0), n < SHOAL_STORE_BAD_MAX ? SHOAL_OK : SHOAL_EOF);
    }
    now_ns += (uint64_t)(SHOAL_STORE_QUARANTINE_MS - 1) * 1000000;
    assert_int_equal(get(store, 9, 0), SHOAL_EOF);
    assert_int_equal(put(store, 11, 0), SHOAL_EOF);
    assert_int_equal(on_block(11, 0, exists), 0);
    now_ns += 1000000;
    assert_int_equal(get(store, 9, 0), SHOAL_OK);
    assert_int_equal(put(store, 11, 0), SHOAL_OK);
    assert_int_equal(on_block(11, 0, exists), 1);
    shoal_store_close(store);
}

/* Until the store reaches its server again; its patience is bounded, so is ours. */
static void wait_until_put(shoal_store *store, uint32_t text)
{
    for (int i = 0; put(store, text, 0) != SHOAL_OK; i++) {
        assert_true(i < 1000000);
    }
}

static void test_server_killed_and_back_costs_misses(void **state)
{
    (void)state;
    shoal_store_settings s = settings_here();
    shoal_store *store = open_store(&s);
    for (int round = 0; round < 3; round++) {
        wait_until_put(store, 7);
        assert_int_equal(get(store, 7, 0), SHOAL_OK);
        shoal_block_id id = block_id(7, 0);
        /* Killed while a pipeline is on its way. */
        for (uint64_t i = 0; i < 100; i++) {
            assert_int_equal(shoal_store_get(store, &id, PAYLOAD, true, i), SHOAL_OK);
            if (i == 50) {
                redis_server_kill(&server);
            }
        }
        for (uint64_t i = 0; i < 100; i++) {
            shoal_store_result *result = next_result(store);
            assert_int_equal(result->tag, i);
            assert_true(result->status == SHOAL_OK || result->status == SHOAL_EOF);
            shoal_store_result_free(store, result);
        }
        assert_int_equal(get(store, 7, 0), SHOAL_EOF);
        assert_int_equal(put(store, 7, 0), SHOAL_EOF);
        assert_true(stats_of(store).n_errors > 0);
        redis_server_start(&server, NULL, NULL);
    }
    wait_until_put(store, 7);
    assert_int_equal(get(store, 7, 0), SHOAL_OK);
    shoal_store_close(store);
}

static void test_silent_server_is_given_up(void **state)
{
    (void)state;
    uint64_t now_ns = 1000000000;
    shoal_store_settings s = settings_here();
    s.timeout_ms = 150;
    s.clock = shoal_clock_virtual(&now_ns);
    shoal_store *store = open_store(&s);
    wait_until_put(store, 8);
    assert_int_equal(kill(server.pid, SIGSTOP), 0);
    assert_int_equal(get(store, 8, 0), SHOAL_EOF);
    uint64_t n_errors = stats_of(store).n_errors;
    assert_true(n_errors >= 1);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(get(store, 8, 0), SHOAL_EOF); /* at once: not tried again yet */
    }
    assert_int_equal(stats_of(store).n_errors, n_errors);
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    now_ns += 20000000000u; /* past any pause */
    for (int i = 0; get(store, 8, 0) != SHOAL_OK; i++) {
        now_ns += 20000000000u;
        assert_true(i < 1000);
    }
    shoal_store_close(store);
}

static void test_password_is_needed_and_given(void **state)
{
    (void)state;
    redis_server_kill(&server);
    redis_server_start(&server, "--requirepass", "secret");
    const struct {
        const char *user;
        const char *password;
        shoal_status status;
    } cases[] = {{NULL, NULL, SHOAL_EOF},
                 {NULL, "wrong", SHOAL_EOF},
                 {NULL, "secret", SHOAL_OK},
                 {"nobody", "secret", SHOAL_EOF},
                 {"default", "secret", SHOAL_OK}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_store_settings s = settings_here();
        s.user = cases[i].user;
        s.password = cases[i].password;
        shoal_store *store = open_store(&s);
        assert_int_equal(put(store, 9, 0), cases[i].status);
        assert_int_equal(get(store, 9, 0), cases[i].status);
        assert_int_equal(stats_of(store).n_errors > 0, cases[i].status != SHOAL_OK);
        shoal_store_close(store);
    }
    redis_server_kill(&server);
    redis_server_start(&server, NULL, NULL);
}

static void test_full_server_drops_and_serves_on(void **state)
{
    (void)state;
    shoal_store_settings s = settings_here();
    shoal_store *store = open_store(&s);
    assert_int_equal(put(store, 10, 0), SHOAL_OK);
    redis_server_set(&server, "maxmemory", "1");
    assert_int_equal(put(store, 11, 0), SHOAL_EOF);
    assert_int_equal(stats_of(store).n_dropped, 1);
    assert_int_equal(get(store, 10, 0), SHOAL_OK);
    redis_server_kill(&server);
    redis_server_start(&server, NULL, NULL);
    shoal_store_close(store);
}

static void test_hostile_server_costs_misses(void **state)
{
    (void)state;
    static char flood[64 << 10];
    memset(flood, 'x', sizeof flood);
    memcpy(flood, "$2000000000\r\n", 13);
    const struct {
        const char *bytes;
        size_t n;
        size_t n_times;
        bool close_at_once;
    } cases[] = {
        {flood, sizeof flood, 1u << 20, false},
        {"$2000000000\r\nabc", 16, 1, false},
        {"*1000000\r\n", 10, 1, false},
        {"*1\r\n", 4, 100000, false},
        {":12\r\n", 5, 4, false},
        {"+OK\r\n", 5, 4, false},
        {"$-1\r\n", 5, 4, false},
        {"$3\r\nabc\r\n$3\r\nabc\r\n", 18, 1, false},
        {"\0\0\0\0\r\n", 6, 3, false},
        {"-ERR\r\n", 6, 1, true},
        {"", 0, 0, true},
        {"", 0, 0, false},
    };
    char socket[160];
    (void)snprintf(socket, sizeof socket, "%s/odd", server.folder);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        odd_peer *peer = odd_peer_start(socket, cases[i].bytes, cases[i].n, cases[i].n_times,
                                        cases[i].close_at_once);
        uint64_t now_ns = 1000000000;
        shoal_store_settings s = settings_here();
        s.address = socket;
        s.timeout_ms = 60;
        s.clock = shoal_clock_virtual(&now_ns);
        shoal_store *store = open_store(&s);
        for (int again = 0; again < 2; again++) {
            shoal_block_id id = block_id(12, 0);
            shoal_store_result r = ask_get(store, &id, PAYLOAD, true);
            assert_int_equal(r.status, SHOAL_EOF);
            assert_false(r.leased);
            now_ns += 60000000000u;
        }
        assert_true(stats_of(store).n_errors + stats_of(store).n_refused >= 2);
        shoal_store_close(store);
        odd_peer_stop(peer);
    }
    (void)unlink(socket);
}

static void test_addresses_are_checked(void **state)
{
    (void)state;
    const struct {
        const char *address;
        bool plaintext;
        shoal_status status;
    } cases[] = {
        {NULL, false, SHOAL_E_INVALID},
        {"", false, SHOAL_E_INVALID},
        {"localhost", false, SHOAL_E_INVALID},
        {"localhost:", false, SHOAL_E_INVALID},
        {":6379", false, SHOAL_E_INVALID},
        {"localhost:0", false, SHOAL_E_INVALID},
        {"localhost:65536", false, SHOAL_E_INVALID},
        {"localhost:12x", false, SHOAL_E_INVALID},
        {"localhost:1", false, SHOAL_OK},
        {"127.0.0.1:1", false, SHOAL_OK},
        {"[::1]:1", false, SHOAL_OK},
        {"10.0.0.1:1", false, SHOAL_E_AUTH},
        {"[2001:db8::1]:1", false, SHOAL_E_AUTH},
        {"127.evil.example:1", false, SHOAL_E_AUTH},
        {"10.0.0.1:1", true, SHOAL_OK},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_store_settings s = settings_here();
        shoal_store *store = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        s.address = cases[i].address;
        s.plaintext = cases[i].plaintext;
        assert_int_equal(shoal_store_open(&s, NULL, &store, &err), cases[i].status);
        assert_true((err.text[0] != '\0') == (cases[i].status != SHOAL_OK));
        shoal_store_close(store);
    }
}

static void test_failing_allocations_cost_misses_and_no_more(void **state)
{
    (void)state;
    shoal_store_settings s = settings_here();
    s.password = NULL;
    shoal_store *store = NULL;
    shoal_status status = SHOAL_E_NOMEM;
    for (uint64_t i = 0; status != SHOAL_OK; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(i);
        status = shoal_store_open(&s, NULL, &store, &err);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(status == SHOAL_OK || err.text[0] != '\0');
    }
    assert_int_equal(put(store, 13, 0), SHOAL_OK);
    shoal_block_id id = block_id(13, 0);
    for (uint64_t i = 0; i < 5; i++) {
        shoal_mem_fail_at(i);
        status = shoal_store_get(store, &id, PAYLOAD, false, 1);
        shoal_store_result *result = status == SHOAL_OK ? next_result(store) : NULL;
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(!result || result->status == SHOAL_OK || result->status == SHOAL_EOF);
        shoal_store_result_free(store, result);
    }
    assert_int_equal(get(store, 13, 0), SHOAL_OK);
    assert_int_equal(stats_of(store).n_errors, 0);
    shoal_store_close(store);
}

int main(void)
{
    if (!redis_available()) {
        printf("SKIPPED: no Redis server here (Debian package redis-tools)\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_nodes_share_what_one_put),
        cmocka_unit_test(test_leases_hold_between_nodes),
        cmocka_unit_test(test_pipeline_keeps_the_order),
        cmocka_unit_test(test_broken_and_strange_values_are_refused_and_removed),
        cmocka_unit_test(test_server_of_bad_blocks_is_left_alone_for_a_while),
        cmocka_unit_test(test_server_killed_and_back_costs_misses),
        cmocka_unit_test(test_silent_server_is_given_up),
        cmocka_unit_test(test_password_is_needed_and_given),
        cmocka_unit_test(test_full_server_drops_and_serves_on),
        cmocka_unit_test(test_hostile_server_costs_misses),
        cmocka_unit_test(test_addresses_are_checked),
        cmocka_unit_test(test_failing_allocations_cost_misses_and_no_more),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
