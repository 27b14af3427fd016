/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: the object, and how a text becomes a value. Not for other
 * folders.
 */
#ifndef SHOAL_CONFIG_CONFIG_INTERNAL_H
#define SHOAL_CONFIG_CONFIG_INTERNAL_H

#include "common/config/config.h"
#include "common/config/yaml.h"

enum {
    SHOAL_CONFIG_KEYS_MAX = 512
};

typedef struct shoal_config_value {
    int64_t integer;
    double real;
    bool truth;
    char *text;   /* STRING and CHOICE: owned */
    char *origin; /* where it was set, "edge.yaml:14": owned; NULL: the default */
} shoal_config_value;

struct shoal_config {
    const shoal_config_key *keys; /* borrowed */
    size_t n_keys;
    shoal_config_value *values; /* one per key */
    size_t *order;              /* keys with those of one section next to each other */
};

/* Turns n bytes of text into a value within the key's bounds, set at where. Errors read
 * "where: key: what is wrong". */
shoal_status shoal_config_value_parse(const shoal_config_key *key, const char *where,
                                      const char *text, size_t n, shoal_config_value *ret_value,
                                      shoal_err *err) SHOAL_MUST_CHECK;
void shoal_config_value_fini(shoal_config_value *value);

/* True when text (n bytes) is one of "a|b|c". */
bool shoal_config_choice_ok(const char *choices, const char *text, size_t n);

/* Checks a table and its defaults: names, bounds, words, clashes. */
shoal_status shoal_config_table_check(const shoal_config_key *keys, size_t n_keys,
                                      shoal_err *err) SHOAL_MUST_CHECK;

/* Most bytes a STRING key takes. */
size_t shoal_config_string_max(const shoal_config_key *key);

/* "SHOAL_KV_MAX_MIB" for "kv.max_mib"; name is at most SHOAL_CONFIG_NAME_MAX bytes. */
enum {
    SHOAL_CONFIG_ENV_MAX = SHOAL_CONFIG_NAME_MAX + 8
};
void shoal_config_env_name(const char *name, char ret_env[SHOAL_CONFIG_ENV_MAX]);

/* A double in the shortest of two forms that reads back the same. */
enum {
    SHOAL_CONFIG_NUMBER_MAX = 32
};
const char *shoal_config_number(double value, char out[SHOAL_CONFIG_NUMBER_MAX]);

#endif
