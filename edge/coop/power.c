/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/coop/power.h"

#include "common/base/mem.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct zone {
    char path[SHOAL_POWER_PATH_MAX + 1];
    uint64_t range_uj; /* the counter goes round after it; 0: it does not */
    double last;       /* microjoules, or microwatts */
} zone;

struct shoal_power {
    shoal_power_kind kind;
    bool begun; /* zones[].last is of last_ns */
    uint64_t last_ns;
    size_t n_zones;
    zone zones[SHOAL_POWER_ZONES_MAX];
};

static const char *const names[SHOAL_POWER_KINDS] = {"none", "rapl", "energy_uj", "power_uw",
                                                     "power_w"};

const char *shoal_power_kind_name(shoal_power_kind kind)
{
    SHOAL_ASSERT(kind < SHOAL_POWER_KINDS);
    return names[kind];
}

shoal_status shoal_power_kind_parse(const char *name, shoal_power_kind *ret_kind)
{
    for (size_t k = 0; k < SHOAL_POWER_KINDS; k++) {
        if (strcmp(name, names[k]) == 0) {
            *ret_kind = (shoal_power_kind)k;
            return SHOAL_OK;
        }
    }
    return SHOAL_E_NOTFOUND;
}

/* --- one file -----------------------------------------------------------------------------------
 */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
}

/* Its text, without what follows the first line's end. */
static shoal_status read_text(const char *path, char ret_text[SHOAL_POWER_TEXT_MAX + 1],
                              shoal_err *err)
{
    /* A FIFO would hold the engine. */
    SHOAL_CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return shoal_err_set(
            err, errno == ENOENT ? SHOAL_E_NOTFOUND : SHOAL_E_IO, "%s: %s%s", path, strerror(errno),
            errno == EACCES ? "; let the daemon's user read it (udev, tmpfiles.d)" : "");
    }
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: not a regular file", path);
    }
    char text[SHOAL_POWER_TEXT_MAX + 1];
    ssize_t n = read(fd, text, sizeof text);
    if (n < 0) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: %s", path, strerror(errno));
    }
    if (n > SHOAL_POWER_TEXT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: longer than %d bytes: one number is expected",
                             path, (int)SHOAL_POWER_TEXT_MAX);
    }
    text[n] = '\0';
    char *end = memchr(text, '\n', (size_t)n);
    if (end) {
        *end = '\0';
    }
    memcpy(ret_text, text, sizeof text);
    return SHOAL_OK;
}

static shoal_status read_count(const char *path, uint64_t *ret_count, shoal_err *err)
{
    char text[SHOAL_POWER_TEXT_MAX + 1];
    SHOAL_TRY(read_text(path, text, err));
    errno = 0;
    char *end = text;
    unsigned long long count = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (end == text || *end || errno) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: \"%s\" is no whole number", path, text);
    }
    *ret_count = count;
    return SHOAL_OK;
}

/* Digits, perhaps a point and more of them: what printf and echo write, in no locale. */
static shoal_status read_watts(const char *path, double *ret_watts, shoal_err *err)
{
    char text[SHOAL_POWER_TEXT_MAX + 1];
    SHOAL_TRY(read_text(path, text, err));
    double value = 0;
    double place = 1;
    bool behind = false;
    size_t n_digits = 0;
    for (const char *c = text; *c; c++) {
        if (*c == '.' && !behind) {
            behind = true;
        } else if (isdigit((unsigned char)*c)) {
            place = behind ? place / 10 : 1;
            value = behind ? value + (*c - '0') * place : value * 10 + (*c - '0');
            n_digits++;
        } else {
            n_digits = 0;
            break;
        }
    }
    if (n_digits == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: \"%s\" is no number of watts", path, text);
    }
    *ret_watts = value;
    return SHOAL_OK;
}

static shoal_status read_zone(const shoal_power *power, const zone *z, double *ret_value,
                              shoal_err *err)
{
    double value = 0;
    if (power->kind == SHOAL_POWER_W) {
        SHOAL_TRY(read_watts(z->path, &value, err));
        value *= 1e6;
    } else {
        uint64_t count = 0;
        SHOAL_TRY(read_count(z->path, &count, err));
        value = (double)count; /* of microjoules: exact up to 9 gigajoules */
    }
    bool is_power = power->kind == SHOAL_POWER_W || power->kind == SHOAL_POWER_UW;
    if (is_power && value > SHOAL_POWER_W_MAX * 1e6) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: %g W; more than %g W is taken for an error",
                             z->path, value / 1e6, SHOAL_POWER_W_MAX);
    }
    *ret_value = value;
    return SHOAL_OK;
}

/* --- opening ------------------------------------------------------------------------------------
 */

static shoal_status set_path(zone *z, const char *folder, const char *name, const char *file,
                             shoal_err *err)
{
    int n = snprintf(z->path, sizeof z->path, "%s%s%s%s%s", folder, *name ? "/" : "", name,
                     *file ? "/" : "", file);
    if (n < 0 || n > SHOAL_POWER_PATH_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%.64s...: a path longer than %d bytes", folder,
                             (int)SHOAL_POWER_PATH_MAX);
    }
    return SHOAL_OK;
}

/* "intel-rapl:0", not its parts "intel-rapl:0:1", which it has in it. */
static bool is_top_zone(const char *name)
{
    static const char prefix[] = "intel-rapl:";
    size_t n = sizeof prefix - 1;
    const char *rest = strncmp(name, prefix, n) == 0 ? name + n : "";
    return *rest && rest[strspn(rest, "0123456789")] == '\0';
}

/* A package; "psys" is the platform around it and has it in it as well. */
static shoal_status add_zone(shoal_power *power, const char *folder, const char *name,
                             shoal_err *err)
{
    char label[SHOAL_POWER_TEXT_MAX + 1];
    zone z = {0};
    SHOAL_TRY(set_path(&z, folder, name, "name", err));
    SHOAL_TRY(read_text(z.path, label, err));
    if (strncmp(label, "package", 7) != 0) {
        return SHOAL_OK;
    }
    if (power->n_zones == SHOAL_POWER_ZONES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: more than %d packages", folder,
                             (int)SHOAL_POWER_ZONES_MAX);
    }
    SHOAL_TRY(set_path(&z, folder, name, "max_energy_range_uj", err));
    SHOAL_TRY(read_count(z.path, &z.range_uj, err));
    SHOAL_TRY(set_path(&z, folder, name, "energy_uj", err));
    power->zones[power->n_zones++] = z;
    return SHOAL_OK;
}

static void close_folder(DIR **folder)
{
    if (*folder) {
        (void)closedir(*folder);
    }
}

static shoal_status find_zones(shoal_power *power, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(close_folder) DIR *folder = opendir(path);
    if (!folder) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND, "%s: %s; this machine shows no RAPL", path,
                             strerror(errno));
    }
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        if (is_top_zone(entry->d_name)) {
            SHOAL_TRY(add_zone(power, path, entry->d_name, err));
        }
    }
    if (power->n_zones == 0) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "%s: no intel-rapl:N that is a package; this machine shows no RAPL",
                             path);
    }
    return SHOAL_OK;
}

shoal_status shoal_power_open(shoal_power_kind kind, const char *path, shoal_power **ret_power,
                              shoal_err *err)
{
    SHOAL_ASSERT(kind > SHOAL_POWER_NONE && kind < SHOAL_POWER_KINDS);
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_power *power = shoal_calloc(1, sizeof *power);
    if (!power) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the energy meter");
    }
    power->kind = kind;
    if (kind == SHOAL_POWER_RAPL) {
        SHOAL_TRY(find_zones(power, path && path[0] ? path : SHOAL_POWER_RAPL_PATH, err));
    } else if (!path || !path[0]) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a file is needed for a meter of kind %s",
                             names[kind]);
    } else {
        SHOAL_TRY(set_path(&power->zones[0], path, "", "", err));
        power->n_zones = 1;
    }
    for (size_t i = 0; i < power->n_zones; i++) {
        SHOAL_TRY(read_zone(power, &power->zones[i], &power->zones[i].last, err));
    }
    *ret_power = SHOAL_STEAL(power);
    return SHOAL_OK;
}

void shoal_power_close(shoal_power *power)
{
    shoal_free(power);
}

/* --- intervals ----------------------------------------------------------------------------------
 */

void shoal_power_skip(shoal_power *power)
{
    power->begun = false;
}

/* Microjoules of one zone; negative where its counter went back. */
static double drawn(const shoal_power *power, const zone *z, double now, double s)
{
    if (power->kind == SHOAL_POWER_UW || power->kind == SHOAL_POWER_W) {
        return (z->last + now) / 2 * s;
    }
    /* The kernel's counter runs from 0 to its range, both included. */
    double round = now < z->last && z->range_uj > 0 ? (double)z->range_uj + 1 : 0;
    return now - z->last + round;
}

shoal_status shoal_power_take(shoal_power *power, uint64_t now_ns, double *ret_uj, shoal_err *err)
{
    double values[SHOAL_POWER_ZONES_MAX];
    bool begun = power->begun;
    power->begun = false;
    for (size_t i = 0; i < power->n_zones; i++) {
        SHOAL_TRY(read_zone(power, &power->zones[i], &values[i], err));
    }
    double s = (double)(now_ns - SHOAL_MIN(power->last_ns, now_ns)) / 1e9;
    double uj = 0;
    bool back = false;
    for (size_t i = 0; i < power->n_zones; i++) {
        double more = drawn(power, &power->zones[i], values[i], s);
        back = back || more < 0;
        uj += more;
        power->zones[i].last = values[i];
    }
    power->last_ns = now_ns;
    /* Counters move in jumps, so a short interval may seem to have drawn more than it can. */
    if (begun && uj > SHOAL_POWER_W_MAX * 1e6 * (s + 1)) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: %g J in %g s; more than %g W is taken for an "
                             "error",
                             power->zones[0].path, uj / 1e6, s, SHOAL_POWER_W_MAX);
    }
    power->begun = true;
    if (!begun || back) {
        return SHOAL_MORE;
    }
    *ret_uj = uj;
    return SHOAL_OK;
}
