/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a file of settings, as a variable of the environment and as what --set is given: no
 * crash; a refusal has words that name its source, and changes nothing; what is taken lies within
 * the table's bounds, and its dump loads back to the same values.
 */
#include "common/base/mem.h"
#include "common/base/utf8.h"
#include "common/config/config.h"
#include "common/config/yaml.h"
#include "tests/support/config_table.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char source[] = "fuzz.yaml";

/* What the parser says of a file, pair by pair. */
typedef struct walk {
    size_t line;
    size_t n_lines_max;
} walk;

static shoal_status on_pair(void *ctx, const shoal_config_pair *pair, shoal_err *err)
{
    walk *w = ctx;
    (void)err;
    size_t n = strlen(pair->key);
    SHOAL_ASSERT(n > 0 && n <= SHOAL_CONFIG_NAME_MAX);
    for (size_t i = 0; i < n; i++) {
        SHOAL_ASSERT(pair->key[i] > 0x20 && pair->key[i] < 0x7F);
    }
    SHOAL_ASSERT(pair->n <= SHOAL_CONFIG_SCALAR_MAX && pair->text);
    SHOAL_ASSERT(pair->line >= w->line && pair->line >= 1 && pair->line <= w->n_lines_max);
    w->line = pair->line;
    return SHOAL_OK;
}

static shoal_config *make(void)
{
    shoal_config *config = NULL;
    SHOAL_ASSERT(shoal_config_new(sample_keys, N_SAMPLE_KEYS, &config, NULL) == SHOAL_OK);
    return config;
}

static void check_bounds(const shoal_config *config)
{
    for (size_t i = 0; i < N_SAMPLE_KEYS; i++) {
        const shoal_config_key *key = &sample_keys[i];
        if (key->type == SHOAL_CONFIG_INT) {
            double value = (double)shoal_config_int(config, key->name);
            SHOAL_ASSERT(value >= key->min && value <= key->max);
        } else if (key->type == SHOAL_CONFIG_REAL) {
            double value = shoal_config_real(config, key->name);
            SHOAL_ASSERT(value >= key->min && value <= key->max);
        } else if (key->type == SHOAL_CONFIG_STRING) {
            const char *text = shoal_config_string(config, key->name);
            size_t n = strlen(text);
            SHOAL_ASSERT(shoal_utf8_valid(text, n) && (double)n >= key->min);
            SHOAL_ASSERT(n <= (key->max > 0 ? (size_t)key->max : (size_t)SHOAL_CONFIG_SCALAR_MAX));
        }
    }
}

static void check_same(const shoal_config *a, const shoal_config *b)
{
    for (size_t i = 0; i < N_SAMPLE_KEYS; i++) {
        const char *name = sample_keys[i].name;
        double real[2];
        switch (sample_keys[i].type) {
        case SHOAL_CONFIG_INT:
            SHOAL_ASSERT(shoal_config_int(a, name) == shoal_config_int(b, name));
            break;
        case SHOAL_CONFIG_REAL:
            real[0] = shoal_config_real(a, name);
            real[1] = shoal_config_real(b, name);
            SHOAL_ASSERT(memcmp(&real[0], &real[1], sizeof real[0]) == 0);
            break;
        case SHOAL_CONFIG_BOOL:
            SHOAL_ASSERT(shoal_config_bool(a, name) == shoal_config_bool(b, name));
            break;
        case SHOAL_CONFIG_STRING:
        case SHOAL_CONFIG_CHOICE:
            SHOAL_ASSERT(strcmp(shoal_config_string(a, name), shoal_config_string(b, name)) == 0);
            break;
        }
    }
}

/* config has taken or refused something; untouched has all at its defaults. */
static void judge(const shoal_config *config, const shoal_config *untouched, shoal_status status,
                  const shoal_err *err, const char *begin)
{
    if (status != SHOAL_OK) {
        SHOAL_ASSERT(status == SHOAL_E_INVALID && strncmp(err->text, begin, strlen(begin)) == 0);
        SHOAL_ASSERT(err->text[strlen(begin)] != '\0');
        check_same(config, untouched);
        return;
    }
    check_bounds(config);
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *back = make();
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf dump = {0};
    SHOAL_ASSERT(shoal_config_dump(config, &dump) == SHOAL_OK);
    SHOAL_ASSERT(shoal_config_load_text(back, "dump", dump.data, dump.length, NULL) == SHOAL_OK);
    check_same(config, back);
}

static void fuzz_file(const char *text, size_t n, const shoal_config *untouched)
{
    walk w = {.n_lines_max = n + 1};
    shoal_err walked = SHOAL_ERR_INIT;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status parsed = shoal_config_parse_yaml(source, text, n, on_pair, &w, &walked);
    SHOAL_ASSERT(parsed == SHOAL_OK || strncmp(walked.text, source, sizeof source - 1) == 0);
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_status status = shoal_config_load_text(config, source, text, n, &err);
    SHOAL_ASSERT(parsed == SHOAL_OK || status != SHOAL_OK);
    judge(config, untouched, status, &err, source);
}

static void fuzz_line(char *text, const shoal_config *untouched)
{
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = make();
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_config_set(config, text, &err);
    judge(config, untouched, status, &err, "--set: ");

    SHOAL_CLEANUP(shoal_config_freep) shoal_config *other = make();
    char *const envp[] = {text, NULL};
    shoal_err_clear(&err);
    status = shoal_config_load_env(other, envp, &err);
    judge(other, untouched, status, &err, "environment SHOAL_");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static shoal_config *untouched;
    if (!untouched) {
        untouched = make();
    }
    fuzz_file((const char *)data, size, untouched);
    if (size > 0 && memchr(data, '=', size)) {
        SHOAL_CLEANUP(shoal_free_cleanup) char *line = shoal_strndup((const char *)data, size);
        SHOAL_ASSERT(line);
        fuzz_line(line, untouched);
    }
    return 0;
}
