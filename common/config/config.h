/* SPDX-License-Identifier: Apache-2.0
 *
 * Configuration from one table: each row is a key with type, bounds, default and help, and the
 * table drives the file (YAML, nested keys flatten to dotted ones), the files of the folder beside
 * it, the environment (SHOAL_KV_MAX_MIB for kv.max_mib), `--set key=value`, `--dump-config`,
 * `--check-config` and `--help`. Later sources win in that order. Errors name source, line, key,
 * value and bounds. Immutable after load.
 */
#ifndef SHOAL_CONFIG_CONFIG_H
#define SHOAL_CONFIG_CONFIG_H

#include "common/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_CONFIG_FOLDER_FILES_MAX = 64 /* files of the folder beside a configuration */
};

typedef enum shoal_config_type {
    SHOAL_CONFIG_INT,    /* min <= value <= max */
    SHOAL_CONFIG_REAL,   /* min <= value <= max */
    SHOAL_CONFIG_BOOL,   /* true, false, on, off, yes, no */
    SHOAL_CONFIG_STRING, /* at most max bytes (0: 4096) */
    SHOAL_CONFIG_CHOICE  /* one of choices, "a|b|c" */
} shoal_config_type;

typedef struct shoal_config_key {
    const char *name; /* "kv.max_mib" */
    shoal_config_type type;
    const char *fallback; /* default, as text */
    double min;
    double max;
    const char *choices; /* for CHOICE, else NULL */
    bool reload;         /* may change on SIGHUP */
    const char *help;    /* one sentence, with the unit */
} shoal_config_key;

typedef struct shoal_config shoal_config;

/* A configuration at its defaults. keys is borrowed for the object's life (static). */
shoal_status shoal_config_new(const shoal_config_key *keys, size_t n_keys,
                              shoal_config **ret_config, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_config_free(shoal_config *config);
SHOAL_DEFINE_CLEANUP(shoal_config, shoal_config_free)

/* YAML text; source is its name in errors ("/etc/shoal/edge.yaml"). At most 1 MiB, depth 8. */
shoal_status shoal_config_load_text(shoal_config *config, const char *source, const char *text,
                                    size_t n, shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_config_load_file(shoal_config *config, const char *path,
                                    shoal_err *err) SHOAL_MUST_CHECK;
/* The folder beside the configuration at path: "/etc/shoal/edge.conf.d" for
 * "/etc/shoal/edge.yaml". Its files *.yaml, in the order of their names' bytes; a later one wins.
 * Hidden files and other endings are passed over; no such folder is no error. What failed may have
 * applied the files before it. */
shoal_status shoal_config_load_folder(shoal_config *config, const char *path,
                                      shoal_err *err) SHOAL_MUST_CHECK;
/* SHOAL_* variables from envp (NULL-terminated "NAME=value"); names that are no key are ignored. */
shoal_status shoal_config_load_env(shoal_config *config, char *const *envp,
                                   shoal_err *err) SHOAL_MUST_CHECK;
/* "key=value" of --set. */
shoal_status shoal_config_set(shoal_config *config, const char *assignment,
                              shoal_err *err) SHOAL_MUST_CHECK;

/* The key must exist with that type: asserts otherwise. */
int64_t shoal_config_int(const shoal_config *config, const char *key);
double shoal_config_real(const shoal_config *config, const char *key);
bool shoal_config_bool(const shoal_config *config, const char *key);
const char *shoal_config_string(const shoal_config *config, const char *key); /* STRING, CHOICE */

/* Name of the first key that differs although it may not change while running, or NULL: what a
 * SIGHUP must refuse. Both were made from one table. */
const char *shoal_config_reload_conflict(const shoal_config *running, const shoal_config *next);

/* YAML of every key with its value and, as comments, help, bounds, default and, behind a value that
 * a source has set, that source with its line. Loads back. */
shoal_status shoal_config_dump(const shoal_config *config, shoal_buf *buf) SHOAL_MUST_CHECK;
/* The same table as a help text for a terminal, 80 to 100 columns. */
shoal_status shoal_config_help(const shoal_config *config, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
