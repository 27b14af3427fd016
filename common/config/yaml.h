/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of YAML that this house writes: one document of nested mappings whose leaves are
 * scalars, as a stream of dotted keys with values, in the order of the file. Anchors, aliases,
 * tags, lists and second documents are refused where they begin, so nothing can expand. Keys are
 * printable ASCII without blanks; what they mean, and whether one comes twice, is the caller's to
 * say. Any thread.
 */
#ifndef SHOAL_CONFIG_YAML_H
#define SHOAL_CONFIG_YAML_H

#include "common/base/macros.h"

#include <stdbool.h>

enum {
    SHOAL_CONFIG_NAME_MAX = 128,        /* bytes of a dotted key */
    SHOAL_CONFIG_SCALAR_MAX = 4096,     /* bytes of a value as text */
    SHOAL_CONFIG_DEPTH_MAX = 8,         /* nested mappings, and parts of a dotted key */
    SHOAL_CONFIG_FILE_MAX = 1024 * 1024 /* bytes of a file */
};

/* One pair of a file. line counts from 1. plain: written without quotes. */
typedef struct shoal_config_pair {
    const char *key; /* dotted */
    const char *text;
    size_t n; /* bytes of text, which may hold a NUL */
    size_t line;
    bool plain;
} shoal_config_pair;
typedef shoal_status shoal_config_pair_fn(void *ctx, const shoal_config_pair *pair, shoal_err *err);

/* Parses n bytes and calls fn for each leaf; source is the text's name in errors, which read
 * "source:line: key: what is wrong". */
shoal_status shoal_config_parse_yaml(const char *source, const char *text, size_t n,
                                     shoal_config_pair_fn *fn, void *ctx,
                                     shoal_err *err) SHOAL_MUST_CHECK;

#endif
