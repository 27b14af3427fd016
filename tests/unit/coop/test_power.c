/* SPDX-License-Identifier: Apache-2.0
 *
 * Meters of energy, in files that the test writes.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "edge/coop/power.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t second = 1000000000u;

static char folder[] = "/tmp/shoal-power-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    char command[64];
    (void)snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *path_of(const char *name)
{
    static char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(path_of(name), "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static shoal_power *open_ok(shoal_power_kind kind, const char *name)
{
    shoal_power *power = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_power_open(kind, path_of(name), &power, &err);
    if (status != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    return power;
}

static void take(shoal_power *power, uint64_t now_ns, double wanted)
{
    double uj = -1;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_power_take(power, now_ns, &uj, &err);
    if (status != SHOAL_OK) {
        fail_msg("%d: %s", (int)status, err.text);
    }
    assert_true(uj > wanted - 1e-3 && uj < wanted + 1e-3);
}

static void begin(shoal_power *power, uint64_t now_ns)
{
    double uj = -1;
    assert_int_equal(shoal_power_take(power, now_ns, &uj, NULL), SHOAL_MORE);
    assert_true(uj < 0); /* written on success alone */
}

static void refuse(shoal_power *power, uint64_t now_ns, shoal_status wanted, const char *word)
{
    double uj = -1;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_power_take(power, now_ns, &uj, &err), wanted);
    assert_non_null(strstr(err.text, word));
    assert_non_null(strstr(err.text, folder));
    assert_true(uj < 0);
}

static void refuse_open(shoal_power_kind kind, const char *name, shoal_status wanted,
                        const char *word)
{
    shoal_power *power = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_power_open(kind, path_of(name), &power, &err), wanted);
    assert_null(power);
    assert_non_null(strstr(err.text, word));
}

static void add_zone(const char *zone, const char *label, const char *range, const char *uj)
{
    char name[64];
    assert_int_equal(mkdir(path_of(zone), 0700), 0);
    (void)snprintf(name, sizeof name, "%s/name", zone);
    put(name, label);
    (void)snprintf(name, sizeof name, "%s/max_energy_range_uj", zone);
    put(name, range);
    (void)snprintf(name, sizeof name, "%s/energy_uj", zone);
    put(name, uj);
}

static void test_names_are_what_they_parse_to(void **state)
{
    (void)state;
    shoal_power_kind kind = SHOAL_POWER_KINDS;
    for (size_t k = 0; k < SHOAL_POWER_KINDS; k++) {
        assert_int_equal(shoal_power_kind_parse(shoal_power_kind_name((shoal_power_kind)k), &kind),
                         SHOAL_OK);
        assert_int_equal(kind, k);
    }
    assert_int_equal(shoal_power_kind_parse("volts", &kind), SHOAL_E_NOTFOUND);
}

static void test_counter_gives_differences(void **state)
{
    (void)state;
    put("energy", "1000\n");
    shoal_power *power = open_ok(SHOAL_POWER_ENERGY_UJ, "energy");
    begin(power, second);
    take(power, 2 * second, 0);
    put("energy", "1500"); /* without a newline */
    take(power, 3 * second, 500);
    put("energy", "1501\n");
    take(power, 3 * second, 1); /* no time at all */
    shoal_power_skip(power);
    put("energy", "90000\n");
    begin(power, 4 * second);
    put("energy", "90007\n");
    take(power, 5 * second, 7);
    shoal_power_close(power);
}

static void test_counter_that_goes_back_begins_anew(void **state)
{
    (void)state;
    put("energy", "1000\n");
    shoal_power *power = open_ok(SHOAL_POWER_ENERGY_UJ, "energy");
    begin(power, second);
    put("energy", "999\n");
    begin(power, 2 * second);
    put("energy", "1009\n");
    take(power, 3 * second, 10);
    shoal_power_close(power);
}

static void test_packages_are_added_and_go_round(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path_of("rapl"), 0700), 0);
    refuse_open(SHOAL_POWER_RAPL, "rapl", SHOAL_E_NOTFOUND, "no RAPL");
    refuse_open(SHOAL_POWER_RAPL, "no such", SHOAL_E_NOTFOUND, "no RAPL");
    add_zone("rapl/intel-rapl:0", "package-0\n", "999\n", "990\n");
    add_zone("rapl/intel-rapl:1", "package-1\n", "4999\n", "10\n");
    add_zone("rapl/intel-rapl:2", "psys\n", "999\n", "garbage");        /* all of it, again */
    add_zone("rapl/intel-rapl:0:0", "core\n", "999\n", "garbage");      /* a part, again */
    add_zone("rapl/intel-rapl-mmio:0", "package-0\n", "999\n", "text"); /* the same, again */
    add_zone("rapl/intel-rapl:", "package-0\n", "999\n", "text");
    shoal_power *power = open_ok(SHOAL_POWER_RAPL, "rapl");
    begin(power, second);
    put("rapl/intel-rapl:0/energy_uj", "999\n"); /* the range itself is a value */
    take(power, 2 * second, 9);
    put("rapl/intel-rapl:0/energy_uj", "0\n");
    take(power, 3 * second, 1);
    put("rapl/intel-rapl:0/energy_uj", "998\n");
    put("rapl/intel-rapl:1/energy_uj", "110\n");
    take(power, 4 * second, 998 + 100);
    put("rapl/intel-rapl:0/energy_uj", "5\n");
    put("rapl/intel-rapl:1/energy_uj", "9\n");
    take(power, 5 * second, 7 + 4899);
    assert_int_equal(unlink(path_of("rapl/intel-rapl:1/energy_uj")), 0);
    refuse(power, 6 * second, SHOAL_E_NOTFOUND, "intel-rapl:1/energy_uj");
    put("rapl/intel-rapl:1/energy_uj", "20\n");
    begin(power, 7 * second);
    take(power, 8 * second, 0);
    shoal_power_close(power);
    for (size_t i = 2; i <= SHOAL_POWER_ZONES_MAX; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "rapl/intel-rapl:%zu", 100 + i);
        add_zone(name, "package-9\n", "10\n", "0\n");
        if (i < SHOAL_POWER_ZONES_MAX) {
            shoal_power_close(open_ok(SHOAL_POWER_RAPL, "rapl"));
        }
    }
    refuse_open(SHOAL_POWER_RAPL, "rapl", SHOAL_E_LIMIT, "more than 16 packages");
}

static void test_power_is_taken_as_the_mean_of_both_ends(void **state)
{
    (void)state;
    put("uw", "2000000\n");
    put("w", "2.5\n");
    shoal_power *uw = open_ok(SHOAL_POWER_UW, "uw");
    shoal_power *w = open_ok(SHOAL_POWER_W, "w");
    begin(uw, second);
    begin(w, second);
    take(uw, 2 * second, 2e6);
    take(w, 2 * second, 2.5e6);
    put("uw", "4000000\n");
    put("w", "0\n");
    take(uw, 2 * second + second / 2, 1.5e6);
    take(w, 2 * second + second / 2, 0.625e6);
    put("w", ".125");
    take(w, 0, 0); /* of a time that went back */
    shoal_power_close(uw);
    shoal_power_close(w);
}

static void test_vanished_file_is_told_and_comes_back(void **state)
{
    (void)state;
    put("w", "3\n");
    shoal_power *power = open_ok(SHOAL_POWER_W, "w");
    begin(power, second);
    assert_int_equal(unlink(path_of("w")), 0);
    refuse(power, 2 * second, SHOAL_E_NOTFOUND, "No such file");
    refuse(power, 3 * second, SHOAL_E_NOTFOUND, "No such file");
    put("w", "5\n");
    begin(power, 4 * second); /* of the time without it nothing is known */
    take(power, 5 * second, 5e6);
    shoal_power_close(power);
    refuse_open(SHOAL_POWER_W, "gone", SHOAL_E_NOTFOUND, "No such file");
}

static void test_garbage_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const counts[] = {"",    "\n",  " 5",   "-5",
                                         "+5",  "5 ",  "0x10", "5\r\n",
                                         "1.5", "1e6", "five", "18446744073709551616"}; /* 2^64 */
    static const char *const watts[] = {"",    "\n",  ".",   "-1",  "1,5",  "1.5.2",
                                        "nan", "inf", "1e3", "3 W", "0x1p3"};
    put("n", "5\n");
    shoal_power *count = open_ok(SHOAL_POWER_ENERGY_UJ, "n");
    shoal_power *watt = open_ok(SHOAL_POWER_W, "n");
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        put("n", counts[i]);
        refuse(count, second, SHOAL_E_INVALID, "is no whole number");
        refuse_open(SHOAL_POWER_ENERGY_UJ, "n", SHOAL_E_INVALID, "is no whole number");
    }
    for (size_t i = 0; i < SHOAL_COUNT(watts); i++) {
        put("n", watts[i]);
        refuse(watt, second, SHOAL_E_INVALID, "is no number of watts");
    }
    shoal_power_close(count);
    shoal_power_close(watt);
    /* What would hold the engine, or has no end, is no meter. */
    assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
    refuse_open(SHOAL_POWER_W, "fifo", SHOAL_E_INVALID, "not a regular file");
    refuse_open(SHOAL_POWER_W, "", SHOAL_E_INVALID, "not a regular file");
    shoal_power *power = NULL;
    assert_int_equal(shoal_power_open(SHOAL_POWER_W, "/dev/zero", &power, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_power_open(SHOAL_POWER_W, "", &power, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_power_open(SHOAL_POWER_UW, NULL, &power, NULL), SHOAL_E_INVALID);
}

/* "000...07\n" of n bytes. */
static void put_long(const char *name, size_t n)
{
    char text[64] = {0};
    memset(text, '0', n);
    text[n - 2] = '7';
    text[n - 1] = '\n';
    put(name, text);
}

static void test_limits_are_exact(void **state)
{
    (void)state;
    put_long("long", SHOAL_POWER_TEXT_MAX - 1);
    shoal_power *power = open_ok(SHOAL_POWER_ENERGY_UJ, "long");
    begin(power, second);
    put_long("long", SHOAL_POWER_TEXT_MAX);
    take(power, 2 * second, 0);
    put_long("long", SHOAL_POWER_TEXT_MAX + 1);
    refuse(power, 3 * second, SHOAL_E_LIMIT, "longer than 31 bytes");
    /* A second of jumps, and the interval, at the most that is believed. */
    put("long", "0\n");
    begin(power, 4 * second);
    put("long", "19999999999\n");
    take(power, 5 * second, 19999999999.0);
    put("long", "39999999999\n");
    take(power, 6 * second, 20000000000.0);
    put("long", "60000000000\n");
    refuse(power, 7 * second, SHOAL_E_LIMIT, "more than 10000 W");
    begin(power, 8 * second);
    shoal_power_close(power);
    static const char *const most[] = {"9999999999", "10000000000", "10000000001"};
    put("uw", "0");
    power = open_ok(SHOAL_POWER_UW, "uw");
    for (size_t i = 0; i < SHOAL_COUNT(most); i++) {
        double uj = 0;
        put("uw", most[i]);
        assert_int_equal(shoal_power_take(power, second, &uj, NULL) >= 0, i < 2);
    }
    shoal_power_close(power);
    char path[SHOAL_POWER_PATH_MAX + 2];
    for (size_t n = SHOAL_POWER_PATH_MAX - 1; n <= SHOAL_POWER_PATH_MAX + 1; n++) {
        int used = snprintf(path, sizeof path, "%s/", folder);
        memset(path + used, '/', n - (size_t)used);
        memcpy(path + n - 2, "uw", 3);
        put("uw", "1");
        bool fits = n <= SHOAL_POWER_PATH_MAX;
        assert_int_equal(shoal_power_open(SHOAL_POWER_UW, path, &power, NULL),
                         fits ? SHOAL_OK : SHOAL_E_LIMIT);
        shoal_power_close(fits ? power : NULL);
    }
}

static void test_memory_that_fails_is_told(void **state)
{
    (void)state;
    put("w", "3\n");
    shoal_power *power = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_mem_fail_at(0);
    shoal_status status = shoal_power_open(SHOAL_POWER_W, path_of("w"), &power, &err);
    shoal_mem_fail_at(UINT64_MAX);
    assert_int_equal(status, SHOAL_E_NOMEM);
    assert_null(power);
    shoal_power_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_what_they_parse_to),
        cmocka_unit_test(test_counter_gives_differences),
        cmocka_unit_test(test_counter_that_goes_back_begins_anew),
        cmocka_unit_test(test_packages_are_added_and_go_round),
        cmocka_unit_test(test_power_is_taken_as_the_mean_of_both_ends),
        cmocka_unit_test(test_vanished_file_is_told_and_comes_back),
        cmocka_unit_test(test_garbage_is_refused_by_name),
        cmocka_unit_test(test_limits_are_exact),
        cmocka_unit_test(test_memory_that_fails_is_told),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
