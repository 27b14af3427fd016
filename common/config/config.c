/* SPDX-License-Identifier: Apache-2.0 */
#include "common/config/config_internal.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    WHERE_MAX = 160,
    NOT_FOUND = -1
};

/* What one source says, kept apart until all of it is known to be good: a source applies whole or
 * not at all. */
typedef struct staged {
    shoal_config *config;
    const char *source;
    shoal_config_value *values; /* one per key */
    size_t *lines;              /* where each was set; 0: not set */
} staged;

static void staged_fini(staged *stage)
{
    for (size_t i = 0; stage->values && i < stage->config->n_keys; i++) {
        shoal_config_value_fini(&stage->values[i]);
    }
    shoal_free(stage->values);
    shoal_free(stage->lines);
}

static shoal_status staged_init(staged *stage, shoal_config *config, const char *source,
                                shoal_err *err)
{
    *stage = (staged){.config = config, .source = source};
    stage->values = shoal_calloc(config->n_keys, sizeof *stage->values);
    stage->lines = shoal_calloc(config->n_keys, sizeof *stage->lines);
    if (!stage->values || !stage->lines) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", source);
    }
    return SHOAL_OK;
}

static void staged_commit(staged *stage)
{
    for (size_t i = 0; i < stage->config->n_keys; i++) {
        if (stage->lines[i] > 0) {
            shoal_config_value_fini(&stage->config->values[i]);
            stage->config->values[i] = stage->values[i];
            stage->values[i] = (shoal_config_value){0};
        }
    }
}

static ptrdiff_t find_key(const shoal_config *config, const char *name, size_t n)
{
    for (size_t i = 0; i < config->n_keys; i++) {
        if (strncmp(config->keys[i].name, name, n) == 0 && config->keys[i].name[n] == '\0') {
            return (ptrdiff_t)i;
        }
    }
    return NOT_FOUND;
}

/* True when name is a section: a known key begins with "name.". */
static bool is_section(const shoal_config *config, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < config->n_keys; i++) {
        if (strncmp(config->keys[i].name, name, n) == 0 && config->keys[i].name[n] == '.') {
            return true;
        }
    }
    return false;
}

/* Edits from a to b (Levenshtein 1966), one row at a time. Both are at most
 * SHOAL_CONFIG_NAME_MAX bytes. */
static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t row[SHOAL_CONFIG_NAME_MAX + 1];
    for (size_t j = 0; j <= n_b; j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t swap = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            size_t step = SHOAL_MIN(row[j], row[j - 1]) + 1;
            row[j] = SHOAL_MIN(swap, step);
        }
    }
    return row[n_b];
}

/* The known key nearest to what was written, when it is near enough to be meant; else NULL. */
static const char *nearest_key(const shoal_config *config, const char *name, size_t n)
{
    const char *nearest = NULL;
    size_t best = n / 3 + 2;
    for (size_t i = 0; n <= SHOAL_CONFIG_NAME_MAX && i < config->n_keys; i++) {
        const char *known = config->keys[i].name;
        size_t distance = edit_distance(name, n, known, strlen(known));
        if (distance < best) {
            best = distance;
            nearest = known;
        }
    }
    if (nearest) {
        return nearest;
    }
    /* A key written without its section: `max_mib` for kv.max_mib. */
    for (size_t i = 0; i < config->n_keys; i++) {
        const char *dot = strrchr(config->keys[i].name, '.');
        if (dot && strlen(dot + 1) == n && memcmp(dot + 1, name, n) == 0) {
            return config->keys[i].name;
        }
    }
    return NULL;
}

static shoal_status refuse_unknown(const shoal_config *config, const char *where, const char *name,
                                   size_t n, shoal_err *err)
{
    char show[SHOAL_CONFIG_NAME_MAX + 1];
    size_t used = SHOAL_MIN(n, (size_t)SHOAL_CONFIG_NAME_MAX);
    for (size_t i = 0; i < used; i++) {
        show[i] = name[i] > 0x20 && name[i] < 0x7F ? name[i] : '?';
    }
    show[used] = '\0';
    const char *nearest = nearest_key(config, name, n);
    if (nearest) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: unknown key, did you mean %s?", where,
                             show, nearest);
    }
    return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: unknown key", where, show);
}

static shoal_status on_pair(void *ctx, const shoal_config_pair *pair, shoal_err *err)
{
    staged *stage = ctx;
    const shoal_config *config = stage->config;
    char where[WHERE_MAX];
    /* A long path keeps its end, which names the file, and the line. */
    size_t n_source = strlen(stage->source);
    size_t skip = n_source > WHERE_MAX - 32 ? n_source - (WHERE_MAX - 32) : 0;
    (void)snprintf(where, sizeof where, "%s:%zu", stage->source + skip, pair->line);
    size_t n = strlen(pair->key);
    ptrdiff_t at = find_key(config, pair->key, n);
    if (at == NOT_FOUND && is_section(config, pair->key)) {
        /* `kv:` with every line below commented out is an empty section. */
        return pair->plain && pair->n == 0
                   ? SHOAL_OK
                   : shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: is a section, not a value", where,
                                   pair->key);
    }
    if (at == NOT_FOUND) {
        return refuse_unknown(config, where, pair->key, n, err);
    }
    size_t i = (size_t)at;
    if (stage->lines[i] > 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: %s: already set on line %zu", where,
                             pair->key, stage->lines[i]);
    }
    SHOAL_TRY(shoal_config_value_parse(&config->keys[i], where, pair->text, pair->n,
                                       &stage->values[i], err));
    stage->lines[i] = pair->line;
    return SHOAL_OK;
}

shoal_status shoal_config_load_text(shoal_config *config, const char *source, const char *text,
                                    size_t n, shoal_err *err)
{
    SHOAL_CLEANUP(staged_fini) staged stage = {.config = config};
    SHOAL_TRY(staged_init(&stage, config, source, err));
    SHOAL_TRY(shoal_config_parse_yaml(source, text, n, on_pair, &stage, err));
    staged_commit(&stage);
    return SHOAL_OK;
}

shoal_status shoal_config_load_file(shoal_config *config, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_TRY(shoal_file_read(path, SHOAL_CONFIG_FILE_MAX, &buf, err));
    return shoal_config_load_text(config, path, buf.data, buf.length, err);
}

void shoal_config_env_name(const char *name, char ret_env[SHOAL_CONFIG_ENV_MAX])
{
    static const char prefix[] = "SHOAL_";
    size_t used = sizeof prefix - 1;
    memcpy(ret_env, prefix, used);
    for (; *name && used + 1 < SHOAL_CONFIG_ENV_MAX; name++) {
        char c = *name;
        if (c == '.') {
            c = '_';
        } else if (c >= 'a' && c <= 'z') {
            c = (char)(c - 'a' + 'A');
        }
        ret_env[used++] = c;
    }
    ret_env[used] = '\0';
}

/* The value of a variable, or NULL; the first of two, as getenv has it. */
static const char *find_env(char *const *envp, const char *name)
{
    size_t n = strlen(name);
    for (; envp && *envp; envp++) {
        if (strncmp(*envp, name, n) == 0 && (*envp)[n] == '=') {
            return *envp + n + 1;
        }
    }
    return NULL;
}

shoal_status shoal_config_load_env(shoal_config *config, char *const *envp, shoal_err *err)
{
    SHOAL_CLEANUP(staged_fini) staged stage = {.config = config};
    SHOAL_TRY(staged_init(&stage, config, "environment", err));
    for (size_t i = 0; i < config->n_keys; i++) {
        char name[SHOAL_CONFIG_ENV_MAX];
        shoal_config_env_name(config->keys[i].name, name);
        const char *text = find_env(envp, name);
        if (text) {
            char where[WHERE_MAX + 16];
            (void)snprintf(where, sizeof where, "environment %s", name);
            SHOAL_TRY(shoal_config_value_parse(&config->keys[i], where, text, strlen(text),
                                               &stage.values[i], err));
            stage.lines[i] = 1;
        }
    }
    staged_commit(&stage);
    return SHOAL_OK;
}

shoal_status shoal_config_set(shoal_config *config, const char *assignment, shoal_err *err)
{
    const char *equals = strchr(assignment, '=');
    if (!equals) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--set: expected key=value, as in kv.max_mib=64");
    }
    size_t n = (size_t)(equals - assignment);
    ptrdiff_t at = find_key(config, assignment, n);
    if (at == NOT_FOUND) {
        return refuse_unknown(config, "--set", assignment, n, err);
    }
    shoal_config_value value = {0};
    SHOAL_TRY(shoal_config_value_parse(&config->keys[at], "--set", equals + 1, strlen(equals + 1),
                                       &value, err));
    shoal_config_value_fini(&config->values[at]);
    config->values[at] = value;
    return SHOAL_OK;
}

/* Length of the longest chain of sections two names share, with its last dot; 0 for none. */
static size_t shared_section(const char *a, const char *b)
{
    size_t shared = 0;
    for (size_t i = 0; a[i] && a[i] == b[i]; i++) {
        if (a[i] == '.') {
            shared = i + 1;
        }
    }
    return shared;
}

/* Table order, but each key stands right behind those it shares the longest section with. Every
 * section stays in one piece by induction: a newcomer enters at the end of its innermost one. */
static void make_order(shoal_config *config)
{
    for (size_t i = 0; i < config->n_keys; i++) {
        size_t place = i;
        size_t best = 0;
        for (size_t j = 0; j < i; j++) {
            size_t shared =
                shared_section(config->keys[i].name, config->keys[config->order[j]].name);
            if (shared > 0 && shared >= best) {
                best = shared;
                place = j + 1;
            }
        }
        memmove(&config->order[place + 1], &config->order[place],
                (i - place) * sizeof config->order[0]);
        config->order[place] = i;
    }
}

shoal_status shoal_config_new(const shoal_config_key *keys, size_t n_keys,
                              shoal_config **ret_config, shoal_err *err)
{
    SHOAL_TRY(shoal_config_table_check(keys, n_keys, err));
    SHOAL_CLEANUP(shoal_config_freep) shoal_config *config = shoal_calloc(1, sizeof *config);
    if (!config) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "configuration: out of memory");
    }
    config->keys = keys;
    config->n_keys = n_keys;
    config->values = shoal_calloc(n_keys, sizeof *config->values);
    config->order = shoal_calloc(n_keys, sizeof *config->order);
    if (!config->values || !config->order) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "configuration: out of memory");
    }
    for (size_t i = 0; i < n_keys; i++) {
        SHOAL_TRY(shoal_config_value_parse(&keys[i], "configuration table, default",
                                           keys[i].fallback, strlen(keys[i].fallback),
                                           &config->values[i], err));
        shoal_free(config->values[i].origin);
        config->values[i].origin = NULL;
    }
    make_order(config);
    *ret_config = SHOAL_STEAL(config);
    return SHOAL_OK;
}

void shoal_config_free(shoal_config *config)
{
    if (!config) {
        return;
    }
    for (size_t i = 0; config->values && i < config->n_keys; i++) {
        shoal_config_value_fini(&config->values[i]);
    }
    shoal_free(config->values);
    shoal_free(config->order);
    shoal_free(config);
}

static const shoal_config_value *get(const shoal_config *config, const char *key,
                                     shoal_config_type type)
{
    ptrdiff_t at = find_key(config, key, strlen(key));
    SHOAL_ASSERT(at != NOT_FOUND);
    shoal_config_type has = config->keys[at].type;
    SHOAL_ASSERT(has == type || (has == SHOAL_CONFIG_CHOICE && type == SHOAL_CONFIG_STRING));
    return &config->values[at];
}

int64_t shoal_config_int(const shoal_config *config, const char *key)
{
    return get(config, key, SHOAL_CONFIG_INT)->integer;
}

double shoal_config_real(const shoal_config *config, const char *key)
{
    return get(config, key, SHOAL_CONFIG_REAL)->real;
}

bool shoal_config_bool(const shoal_config *config, const char *key)
{
    return get(config, key, SHOAL_CONFIG_BOOL)->truth;
}

const char *shoal_config_string(const shoal_config *config, const char *key)
{
    return get(config, key, SHOAL_CONFIG_STRING)->text;
}

static bool same_value(const shoal_config_key *key, const shoal_config_value *a,
                       const shoal_config_value *b)
{
    switch (key->type) {
    case SHOAL_CONFIG_INT:
        return a->integer == b->integer;
    case SHOAL_CONFIG_REAL:
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): the same bits are meant */
        return memcmp(&a->real, &b->real, sizeof a->real) == 0;
    case SHOAL_CONFIG_BOOL:
        return a->truth == b->truth;
    case SHOAL_CONFIG_STRING:
    case SHOAL_CONFIG_CHOICE:
        return strcmp(a->text, b->text) == 0;
    }
    return false;
}

const char *shoal_config_reload_conflict(const shoal_config *running, const shoal_config *next)
{
    SHOAL_ASSERT(running->keys == next->keys && running->n_keys == next->n_keys);
    for (size_t i = 0; i < running->n_keys; i++) {
        const shoal_config_key *key = &running->keys[i];
        if (!key->reload && !same_value(key, &running->values[i], &next->values[i])) {
            return key->name;
        }
    }
    return NULL;
}
