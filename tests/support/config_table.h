/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of settings that unit tests and the fuzz target share: one row of every type, sections
 * two deep and not next to each other. Test-only; one thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_CONFIG_TABLE_H
#define SHOAL_TESTS_SUPPORT_CONFIG_TABLE_H

#include "common/config/config.h"

static const shoal_config_key sample_keys[] = {
    {.name = "kv.max_mib",
     .type = SHOAL_CONFIG_INT,
     .fallback = "512",
     .min = 16,
     .max = 1024,
     .help = "Memory for keys and values, in MiB"},
    {.name = "http.listen",
     .type = SHOAL_CONFIG_STRING,
     .fallback = "127.0.0.1:8080",
     .min = 1,
     .max = 64,
     .help = "Address and port of the HTTP service."},
    {.name = "kv.level",
     .type = SHOAL_CONFIG_CHOICE,
     .fallback = "f16",
     .choices = "f16|q8|q4",
     .help =
         "Form in which keys and values are kept, which decides how much of a long conversation "
         "fits into memory and how exact attention over it is."},
    {.name = "link.draft.risk",
     .type = SHOAL_CONFIG_REAL,
     .fallback = "0.05",
     .min = 0,
     .max = 1,
     .reload = true,
     .help = "Risk that a drafted token differs, as a share."},
    {.name = "link.enabled",
     .type = SHOAL_CONFIG_BOOL,
     .fallback = "yes",
     .reload = true,
     .help = "Whether the cloud may be asked at all."},
    {.name = "motto",
     .type = SHOAL_CONFIG_STRING,
     .fallback = "",
     .help = "A text shown on the page."},
    {.name = "offset",
     .type = SHOAL_CONFIG_INT,
     .fallback = "-3",
     .min = -9007199254740992.0,
     .max = 9007199254740992.0,
     .help = "A number of any sign."},
};

enum {
    N_SAMPLE_KEYS = sizeof sample_keys / sizeof sample_keys[0]
};

#endif
