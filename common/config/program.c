/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config/program.h"

#include <string.h>

static shoal_status usage(const shoal_program *program, shoal_err *err, const char *what,
                          const char *word)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "%s%.80s; see %s --help", what, word, program->name);
}

/* An option that stands alone. */
static bool find_action(const char *word, shoal_program_action *ret_action)
{
    static const struct {
        const char *name;
        shoal_program_action action;
    } rows[] = {
        {"--dump-config", SHOAL_PROGRAM_DUMP}, {"--check-config", SHOAL_PROGRAM_CHECK},
        {"--help", SHOAL_PROGRAM_HELP},        {"-h", SHOAL_PROGRAM_HELP},
        {"--version", SHOAL_PROGRAM_VERSION},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (strcmp(word, rows[i].name) == 0) {
            *ret_action = rows[i].action;
            return true;
        }
    }
    return false;
}

shoal_status shoal_program_parse(const shoal_program *program, int argc, char *const *argv,
                                 shoal_program_options *ret_options, shoal_err *err)
{
    shoal_program_options options = {.action = SHOAL_PROGRAM_RUN};
    for (int i = 1; i < argc; i++) {
        bool is_config = strcmp(argv[i], "--config") == 0;
        bool is_set = strcmp(argv[i], "--set") == 0;
        if (!is_config && !is_set) {
            if (!find_action(argv[i], &options.action)) {
                return usage(program, err, "unknown argument ", argv[i]);
            }
            continue;
        }
        if (i + 1 == argc) {
            return usage(program, err, "a value is missing after ", argv[i]);
        }
        if (is_set && options.n_sets == SHOAL_PROGRAM_SETS_MAX) {
            return usage(program, err, "more than 128 times ", argv[i]);
        }
        i++;
        if (is_config) {
            options.config_path = argv[i];
        } else {
            options.sets[options.n_sets++] = argv[i];
        }
    }
    *ret_options = options;
    return SHOAL_OK;
}

shoal_status shoal_program_load(const shoal_program *program, const shoal_program_options *options,
                                char *const *envp, shoal_config **ret_config, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = NULL;
    SHOAL_TRY(shoal_config_new(program->keys, program->n_keys, &config, err));
    if (options->config_path) {
        SHOAL_TRY(shoal_config_load_file(config, options->config_path, err));
        SHOAL_TRY(shoal_config_load_folder(config, options->config_path, err));
    }
    SHOAL_TRY(shoal_config_load_env(config, envp, err));
    for (size_t i = 0; i < options->n_sets; i++) {
        SHOAL_TRY(shoal_config_set(config, options->sets[i], err));
    }
    *ret_config = SHOAL_STEAL(config);
    return SHOAL_OK;
}

static shoal_status put_help(const shoal_program *program, const shoal_config *config,
                             shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(
        buf,
        "usage: %s [--config FILE] [--set KEY=VALUE]... [--check-config | --dump-config]\n"
        "       %s --help | --version\n\n"
        "%s\nEvery key can stand in FILE (YAML), in the files *.yaml of the folder beside it "
        "(NAME.conf.d for\nNAME.yaml; in the order of their names), in the environment "
        "(SHOAL_KV_MAX_MIB for kv.max_mib)\nor after --set; later ones win in that order. "
        "--dump-config says where each was set.\n\n",
        program->name, program->name, program->purpose));
    return shoal_config_help(config, buf);
}

shoal_status shoal_program_text(const shoal_program *program, shoal_program_action action,
                                const shoal_config *config, shoal_buf *buf)
{
    switch (action) {
    case SHOAL_PROGRAM_HELP:
        return put_help(program, config, buf);
    case SHOAL_PROGRAM_DUMP:
        return shoal_config_dump(config, buf);
    case SHOAL_PROGRAM_VERSION:
        return shoal_buf_appendf(buf, "%s %s\n", program->name, program->version);
    case SHOAL_PROGRAM_RUN:
    case SHOAL_PROGRAM_CHECK:
        break;
    }
    return SHOAL_OK;
}
