/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line that every daemon has: --config FILE, --set KEY=VALUE, --check-config,
 * --dump-config, --help, --version. It parses and loads; printing and exit are the program's own.
 */
#ifndef SHOAL_CONFIG_PROGRAM_H
#define SHOAL_CONFIG_PROGRAM_H

#include "common/config/config.h"

enum {
    SHOAL_PROGRAM_SETS_MAX = 128 /* times --set */
};

typedef struct shoal_program {
    const char *name;    /* "shoal-edge" */
    const char *version; /* "0.1.0" */
    const char *purpose; /* what it does: a sentence for --help, its lines folded */
    const shoal_config_key *keys;
    size_t n_keys;
} shoal_program;

typedef enum shoal_program_action {
    SHOAL_PROGRAM_RUN,
    SHOAL_PROGRAM_DUMP,
    SHOAL_PROGRAM_CHECK,
    SHOAL_PROGRAM_HELP,
    SHOAL_PROGRAM_VERSION
} shoal_program_action;

/* Points into argv. */
typedef struct shoal_program_options {
    shoal_program_action action;
    const char *config_path; /* NULL: none */
    const char *sets[SHOAL_PROGRAM_SETS_MAX];
    size_t n_sets;
} shoal_program_options;

/* SHOAL_E_INVALID is a usage error; its text ends with where to read more. */
shoal_status shoal_program_parse(const shoal_program *program, int argc, char *const *argv,
                                 shoal_program_options *ret_options,
                                 shoal_err *err) SHOAL_MUST_CHECK;
/* Defaults, file, folder beside it, environment (envp), --set: later ones win. */
shoal_status shoal_program_load(const shoal_program *program, const shoal_program_options *options,
                                char *const *envp, shoal_config **ret_config,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* What DUMP, HELP or VERSION print; nothing for the others. */
shoal_status shoal_program_text(const shoal_program *program, shoal_program_action action,
                                const shoal_config *config, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
