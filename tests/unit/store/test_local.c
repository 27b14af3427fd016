/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/mem.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MEMORY_COST = SHOAL_BLOCK_HEADER_BYTES + PAYLOAD + 256,
    DISK_COST = 2 * 4096
};

static char folder[64];

static void wipe(void)
{
    DIR *dir = opendir(folder);
    for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        (void)unlink(path);
    }
    if (dir) {
        (void)closedir(dir);
    }
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/shoal-store-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    wipe();
    return rmdir(folder);
}

static shoal_store_settings settings_for(shoal_store_kind kind, size_t n_blocks)
{
    shoal_store_settings s = shoal_store_settings_default();
    s.kind = kind;
    s.folder = folder;
    s.bytes_max = n_blocks * (kind == SHOAL_STORE_DISK ? (size_t)DISK_COST : (size_t)MEMORY_COST);
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

static const shoal_store_kind kinds[] = {SHOAL_STORE_MEMORY, SHOAL_STORE_DISK};

static void test_put_is_got_and_evict_forgets(void **state)
{
    (void)state;
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        wipe();
        shoal_store_settings s = settings_for(kinds[k], 8);
        shoal_store *store = open_store(&s);
        assert_int_equal(get(store, 1, 0), SHOAL_EOF);
        assert_int_equal(put(store, 1, 0), SHOAL_OK);
        assert_int_equal(put(store, 1, 1), SHOAL_OK);
        assert_int_equal(put(store, 1, 1), SHOAL_OK); /* twice is once */
        assert_int_equal(get(store, 1, 0), SHOAL_OK);
        assert_int_equal(get(store, 1, 1), SHOAL_OK);
        assert_int_equal(get(store, 2, 1), SHOAL_EOF);
        assert_int_equal(evict(store, 1, 0), SHOAL_OK);
        assert_int_equal(evict(store, 1, 0), SHOAL_OK);
        assert_int_equal(get(store, 1, 0), SHOAL_EOF);
        shoal_store_stats stats = stats_of(store);
        assert_int_equal(stats.n_hits, 2);
        assert_int_equal(stats.n_misses, 3);
        assert_int_equal(stats.n_puts, 3);
        assert_int_equal(stats.bytes_in, 2 * (SHOAL_BLOCK_HEADER_BYTES + PAYLOAD));
        shoal_store_close(store);
    }
}

static void test_bound_is_kept_and_the_least_used_gives_way(void **state)
{
    (void)state;
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        wipe();
        shoal_store_settings s = settings_for(kinds[k], 3);
        shoal_store *store = open_store(&s);
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(put(store, i, 0), SHOAL_OK);
        }
        assert_int_equal(stats_of(store).n_evicted, 0);
        assert_int_equal(get(store, 0, 0), SHOAL_OK); /* 1 is now the least used */
        assert_int_equal(put(store, 3, 0), SHOAL_OK);
        assert_int_equal(stats_of(store).n_evicted, 1);
        assert_int_equal(get(store, 1, 0), SHOAL_EOF);
        assert_int_equal(get(store, 0, 0), SHOAL_OK);
        assert_int_equal(get(store, 2, 0), SHOAL_OK);
        assert_int_equal(get(store, 3, 0), SHOAL_OK);
        shoal_store_close(store);
        /* A block that never fits is dropped, and drives nothing out. */
        wipe();
        s.bytes_max--;
        store = open_store(&s);
        assert_int_equal(put(store, 0, 0), SHOAL_OK);
        assert_int_equal(put_sized(store, 1, 0, 4 * DISK_COST), SHOAL_EOF);
        assert_int_equal(put(store, 2, 0), SHOAL_OK);
        assert_int_equal(put(store, 3, 0), SHOAL_OK); /* one byte less than three */
        assert_int_equal(stats_of(store).n_evicted, 1);
        assert_int_equal(stats_of(store).n_dropped, 1);
        shoal_store_close(store);
    }
}

static void test_inflight_is_bounded(void **state)
{
    (void)state;
    shoal_store_settings s = settings_for(SHOAL_STORE_MEMORY, 8);
    shoal_block_id id = block_id(1, 0);
    s.n_inflight_max = 2;
    shoal_store *store = open_store(&s);
    assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 1), SHOAL_OK);
    assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 2), SHOAL_OK);
    assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 3), SHOAL_BUSY);
    assert_int_equal(shoal_store_put(store, &id, block_make(1, 0, PAYLOAD), 3), SHOAL_BUSY);
    assert_int_equal(stats_of(store).n_dropped, 1);
    for (uint64_t tag = 1; tag <= 2; tag++) {
        shoal_store_result *result = next_result(store);
        assert_int_equal(result->tag, tag);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 3), SHOAL_BUSY);
        shoal_store_result_free(store, result);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 3), SHOAL_OK);
    }
    shoal_store_close(store);
    /* Bytes, at one below, at and above the limit. */
    for (size_t more = 0; more < 3; more++) {
        s = settings_for(SHOAL_STORE_MEMORY, 8);
        s.inflight_bytes_max = 2 * (SHOAL_BLOCK_HEADER_BYTES + PAYLOAD) + more - 1;
        store = open_store(&s);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 1), SHOAL_OK);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 2),
                         more > 0 ? SHOAL_OK : SHOAL_BUSY);
        assert_int_equal(shoal_store_get(store, &id, 0, false, 2), SHOAL_E_LIMIT);
        assert_int_equal(shoal_store_release(store, &id, 3), SHOAL_OK);
        shoal_store_close(store);
    }
}

static void advance(void *ctx)
{
    *(uint64_t *)ctx += 1999999999u; /* one before the end: still held */
    *(uint64_t *)ctx += 1;
}

static void test_leases_hold_until_made_given_up_or_over(void **state)
{
    (void)state;
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        wipe();
        uint64_t now_ns = 1000000000;
        shoal_store_settings s = settings_for(kinds[k], 8);
        s.clock = shoal_clock_virtual(&now_ns);
        s.lease_ms = 2000;
        shoal_store *store = open_store(&s);
        check_leases(store, store, advance, &now_ns);
        shoal_block_id id = block_id(9, 0);
        assert_true(ask_get(store, &id, PAYLOAD, true).leased);
        now_ns += 1999000000u;
        shoal_store_result r = ask_get(store, &id, PAYLOAD, true);
        assert_int_equal(r.status, SHOAL_BUSY);
        assert_int_equal(r.retry_ms, 1);
        shoal_store_close(store);
    }
}

static void test_leases_are_bounded(void **state)
{
    (void)state;
    shoal_store_settings s = settings_for(SHOAL_STORE_MEMORY, 8);
    s.lease_ms = 600000;
    shoal_store *store = open_store(&s);
    shoal_block_id id = block_id(1, 0);
    for (uint32_t i = 0; i <= SHOAL_STORE_LEASES_MAX; i++) {
        memcpy(id.name.bytes + 8, &i, sizeof i);
        assert_true(ask_get(store, &id, PAYLOAD, true).leased);
    }
    assert_int_equal(ask_get(store, &id, PAYLOAD, true).status, SHOAL_BUSY);
    uint32_t first = 0;
    memcpy(id.name.bytes + 8, &first, sizeof first);
    assert_true(ask_get(store, &id, PAYLOAD, true).leased); /* the oldest gave way */
    shoal_store_close(store);
}

/* --- disk ------------------------------------------------------------------------------------- */

static void path_of(uint32_t text, char *ret_path, size_t n)
{
    char hex[SHOAL_HASH_HEX];
    shoal_block_id id = block_id(text, 0);
    shoal_hash_hex(&id.name, hex);
    (void)snprintf(ret_path, n, "%s/%s.kv", folder, hex);
}

static void set_age(uint32_t text, time_t seconds)
{
    char path[256];
    path_of(text, path, sizeof path);
    struct timespec times[2] = {{.tv_sec = 2000000000 - seconds}, {.tv_sec = 2000000000 - seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_disk_survives_a_restart_with_its_order_of_use(void **state)
{
    (void)state;
    wipe();
    shoal_store_settings s = settings_for(SHOAL_STORE_DISK, 4);
    shoal_store *store = open_store(&s);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(put(store, i, 0), SHOAL_OK);
    }
    shoal_store_close(store);
    set_age(0, 10);
    set_age(1, 40);
    set_age(2, 30);
    set_age(3, 20);
    char stray[256];
    (void)snprintf(stray, sizeof stray, "%s/notes.txt", folder);
    FILE *f = fopen(stray, "w");
    assert_non_null(f);
    assert_int_equal(fclose(f), 0);
    s.bytes_max = 3 * (size_t)DISK_COST; /* the room is less now */
    store = open_store(&s);
    assert_int_equal(stats_of(store).n_evicted, 1);
    assert_int_equal(get(store, 1, 0), SHOAL_EOF);
    assert_int_equal(put(store, 5, 0), SHOAL_OK);
    assert_int_equal(get(store, 2, 0), SHOAL_EOF);
    assert_int_equal(get(store, 3, 0), SHOAL_OK);
    assert_int_equal(get(store, 0, 0), SHOAL_OK);
    assert_int_equal(get(store, 5, 0), SHOAL_OK);
    assert_int_equal(access(stray, F_OK), 0); /* not ours, not touched */
    shoal_store_close(store);
}

static void spoil(uint32_t text, off_t at, off_t length)
{
    char path[256];
    path_of(text, path, sizeof path);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    uint8_t byte = 0;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    if (length >= 0) {
        assert_int_equal(ftruncate(fd, length), 0);
    }
    assert_int_equal(close(fd), 0);
}

static void test_torn_flipped_or_swapped_file_is_refused_and_removed(void **state)
{
    (void)state;
    wipe();
    shoal_store_settings s = settings_for(SHOAL_STORE_DISK, 16);
    shoal_store *store = open_store(&s);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(put(store, i, 0), SHOAL_OK);
    }
    shoal_store_close(store);
    spoil(0, 40, -1);                                    /* header */
    spoil(1, SHOAL_BLOCK_HEADER_BYTES + 500, -1);        /* payload */
    spoil(2, 0, SHOAL_BLOCK_HEADER_BYTES + 500);         /* torn */
    spoil(3, 0, 0);                                      /* empty */
    spoil(4, 0, SHOAL_BLOCK_HEADER_BYTES + PAYLOAD + 1); /* longer */
    char from[256];
    char to[256];
    path_of(5, from, sizeof from);
    path_of(6, to, sizeof to);
    assert_int_equal(rename(from, to), 0); /* a sound block under another's name */
    path_of(7, from, sizeof from);
    assert_int_equal(unlink(from), 0);
    assert_int_equal(symlink("/etc/passwd", from), 0);
    store = open_store(&s);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(get(store, i, 0), SHOAL_EOF);
        char path[256];
        struct stat st;
        path_of(i, path, sizeof path);
        assert_true(i == 7 || lstat(path, &st) != 0); /* a link was never ours */
    }
    assert_int_equal(stats_of(store).n_refused, 6);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(put(store, i, 0), SHOAL_OK);
        assert_int_equal(get(store, i, 0), SHOAL_OK);
    }
    shoal_store_close(store);
}

static void test_disk_without_room_drops_and_serves_on(void **state)
{
    (void)state;
    wipe();
    shoal_store_settings s = settings_for(SHOAL_STORE_DISK, 8);
    shoal_store *store = open_store(&s);
    assert_int_equal(put(store, 0, 0), SHOAL_OK);
    char part[256];
    (void)snprintf(part, sizeof part, "%s/part.tmp", folder);
    assert_int_equal(mkdir(part, 0700), 0); /* nothing can be written beside it */
    assert_int_equal(put(store, 1, 0), SHOAL_EOF);
    assert_int_equal(stats_of(store).n_errors, 1);
    assert_int_equal(stats_of(store).n_dropped, 1);
    assert_int_equal(get(store, 1, 0), SHOAL_EOF);
    assert_int_equal(get(store, 0, 0), SHOAL_OK);
    assert_int_equal(rmdir(part), 0);
    assert_int_equal(put(store, 1, 0), SHOAL_OK);
    assert_int_equal(get(store, 1, 0), SHOAL_OK);
    shoal_store_close(store);
}

static void test_folder_is_of_one_process_and_must_be_usable(void **state)
{
    (void)state;
    wipe();
    shoal_store_settings s = settings_for(SHOAL_STORE_DISK, 8);
    shoal_store *store = open_store(&s);
    shoal_store *second = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_store_open(&s, NULL, &second, &err), SHOAL_E_UNAVAILABLE);
    assert_non_null(strstr(err.text, "another process"));
    shoal_store_close(store);
    const char *const bad[] = {"", NULL, "/proc/no/such", "/dev/null"};
    const shoal_status expected[] = {SHOAL_E_INVALID, SHOAL_E_INVALID, SHOAL_E_IO, SHOAL_E_IO};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        s.folder = bad[i];
        shoal_err_clear(&err);
        assert_int_equal(shoal_store_open(&s, NULL, &second, &err), expected[i]);
        assert_true(err.text[0] != '\0');
    }
}

/* --- everything ------------------------------------------------------------------------------- */

static void test_settings_out_of_range_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        shoal_store_settings s = settings_for(SHOAL_STORE_MEMORY, 8);
        shoal_store *store = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        s.n_inflight_max = i == 0 ? 0 : (i == 1 ? SHOAL_STORE_INFLIGHT_MAX + 1 : 1);
        s.lease_ms = i == 2 ? 0 : (i == 3 ? 600001 : 1);
        s.timeout_ms = i == 4 ? 0 : 1;
        s.ttl_s = i == 5 ? 0 : 1;
        assert_int_equal(shoal_store_open(&s, NULL, &store, &err), SHOAL_E_INVALID);
        assert_true(err.text[0] != '\0');
    }
    shoal_store_kind kind;
    assert_int_equal(shoal_store_kind_parse("disk", &kind), 0);
    assert_int_equal(kind, SHOAL_STORE_DISK);
    assert_true(shoal_store_kind_parse("tape", &kind) < 0);
}

static void test_failing_allocations_cost_misses_and_no_more(void **state)
{
    (void)state;
    for (size_t k = 0; k < SHOAL_COUNT(kinds); k++) {
        wipe();
        shoal_store_settings s = settings_for(kinds[k], 8);
        shoal_store *store = NULL;
        shoal_status status = SHOAL_E_NOMEM;
        /* While opening. */
        for (uint64_t i = 0; status != SHOAL_OK; i++) {
            shoal_err err = SHOAL_ERR_INIT;
            shoal_mem_fail_at(i);
            status = shoal_store_open(&s, NULL, &store, &err);
            shoal_mem_fail_at(UINT64_MAX);
            assert_true(status == SHOAL_OK || err.text[0] != '\0');
        }
        /* While working: the io thread's allocations fail as well as ours. */
        for (uint64_t i = 0; i < 12; i++) {
            shoal_block_id id = block_id((uint32_t)i, 0);
            shoal_block *block = block_make((uint32_t)i, 0, PAYLOAD);
            shoal_mem_fail_at(i % 4);
            bool taken = shoal_store_put(store, &id, block, 1) == SHOAL_OK;
            taken = shoal_store_get(store, &id, PAYLOAD, true, 2) == SHOAL_OK && taken;
            shoal_store_result *first = next_result(store);
            shoal_store_result *second = taken ? next_result(store) : NULL;
            shoal_mem_fail_at(UINT64_MAX);
            shoal_store_result_free(store, first);
            shoal_store_result_free(store, second);
        }
        assert_int_equal(put(store, 100, 0), SHOAL_OK);
        assert_int_equal(get(store, 100, 0), SHOAL_OK);
        shoal_store_close(store);
    }
}

static void count_wake(void *ctx)
{
    atomic_fetch_add((atomic_int *)ctx, 1);
}

static void test_each_result_wakes_and_metrics_agree_with_counts(void **state)
{
    (void)state;
    atomic_int n_wakes = 0;
    shoal_store_settings s = settings_for(SHOAL_STORE_MEMORY, 8);
    s.wake = count_wake;
    s.wake_ctx = &n_wakes;
    shoal_metrics *registry = NULL;
    assert_int_equal(shoal_metrics_new(&registry), SHOAL_OK);
    shoal_store *store = NULL;
    assert_int_equal(shoal_store_open(&s, registry, &store, NULL), SHOAL_OK);
    assert_int_equal(get(store, 1, 0), SHOAL_EOF);
    assert_int_equal(put(store, 1, 0), SHOAL_OK);
    assert_int_equal(get(store, 1, 0), SHOAL_OK);
    shoal_store_close(store); /* joins: all wakes have been */
    assert_int_equal(atomic_load(&n_wakes), 3);
    shoal_buf text = {0};
    assert_int_equal(shoal_metrics_render(registry, &text), SHOAL_OK);
    assert_non_null(strstr(text.data, "shoal_store_gets_total{result=\"hit\"} 1"));
    assert_non_null(strstr(text.data, "shoal_store_gets_total{result=\"miss\"} 1"));
    assert_non_null(strstr(text.data, "shoal_store_puts_total{result=\"kept\"} 1"));
    shoal_buf_fini(&text);
    shoal_metrics_free(registry);
}

static void test_close_writes_what_was_put(void **state)
{
    (void)state;
    wipe();
    shoal_store_settings s = settings_for(SHOAL_STORE_DISK, 64);
    shoal_store *store = open_store(&s);
    for (uint32_t i = 0; i < 40; i++) {
        shoal_block_id id = block_id(i, 0);
        assert_int_equal(shoal_store_put(store, &id, block_make(i, 0, PAYLOAD), 1), SHOAL_OK);
        assert_int_equal(shoal_store_get(store, &id, PAYLOAD, false, 1), SHOAL_OK);
    }
    shoal_store_close(store);
    store = open_store(&s);
    for (uint32_t i = 0; i < 40; i++) {
        assert_int_equal(get(store, i, 0), SHOAL_OK);
    }
    shoal_store_close(store);
    shoal_store_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_is_got_and_evict_forgets),
        cmocka_unit_test(test_bound_is_kept_and_the_least_used_gives_way),
        cmocka_unit_test(test_inflight_is_bounded),
        cmocka_unit_test(test_leases_hold_until_made_given_up_or_over),
        cmocka_unit_test(test_leases_are_bounded),
        cmocka_unit_test(test_disk_survives_a_restart_with_its_order_of_use),
        cmocka_unit_test(test_torn_flipped_or_swapped_file_is_refused_and_removed),
        cmocka_unit_test(test_disk_without_room_drops_and_serves_on),
        cmocka_unit_test(test_folder_is_of_one_process_and_must_be_usable),
        cmocka_unit_test(test_settings_out_of_range_are_refused),
        cmocka_unit_test(test_failing_allocations_cost_misses_and_no_more),
        cmocka_unit_test(test_each_result_wakes_and_metrics_agree_with_counts),
        cmocka_unit_test(test_close_writes_what_was_put),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
