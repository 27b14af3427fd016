/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/daemon/adapters.h"

#include "common/base/mem.h"
#include "edge/session/keep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char key[] = "model.adapters";

static shoal_status refuse(const char *item, size_t n, const char *why, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "%s: \"%.*s\": %s; it is NAME=FILE or NAME=FILE=STRENGTH, several "
                         "separated by commas",
                         key, (int)SHOAL_MIN(n, (size_t)100), item, why);
}

/* The last '=' of a file's part is its strength's when a number follows it to the end. */
static bool split_strength(char *file, float *ret_strength)
{
    char *mark = strrchr(file, '=');
    char *end = NULL;
    if (!mark) {
        return true;
    }
    float strength = strtof(mark + 1, &end);
    if (end == mark + 1 || *end != '\0') {
        return true; /* of the file's name */
    }
    *mark = '\0';
    *ret_strength = strength;
    return isfinite(strength);
}

static shoal_status load_one(const char *item, size_t n, const shoal_model *model,
                             shoal_adapters *a, shoal_err *err)
{
    const char *mark = memchr(item, '=', n);
    size_t n_name = mark ? (size_t)(mark - item) : n;
    float strength = 1;
    if (!mark || !shoal_session_name_ok(item, n_name)) {
        return refuse(item, n, "NAME is 1 to 64 letters, digits, '.', '_' and '-'", err);
    }
    if (a->n == SHOAL_COOP_ADAPTERS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: at most %d adapters", key,
                             (int)SHOAL_COOP_ADAPTERS_MAX);
    }
    shoal_coop_adapter *adapter = &a->list[a->n];
    memcpy(adapter->name, item, n_name);
    adapter->name[n_name] = '\0';
    for (size_t i = 0; i < a->n; i++) {
        if (strcmp(a->list[i].name, adapter->name) == 0) {
            return refuse(item, n, "the name is taken", err);
        }
    }
    SHOAL_CLEANUP(shoal_free_cleanup) char *file = shoal_calloc(n - n_name, 1);
    if (!file) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an adapter's path");
    }
    memcpy(file, mark + 1, n - n_name - 1);
    if (!split_strength(file, &strength) || file[0] == '\0') {
        return refuse(item, n, "no file, or a strength that is no number", err);
    }
    SHOAL_TRY(shoal_lora_load(model, file, strength, &adapter->lora, err));
    a->n++;
    return SHOAL_OK;
}

shoal_status shoal_adapters_load(const char *text, const shoal_model *model,
                                 shoal_adapters *ret_adapters, shoal_err *err)
{
    shoal_adapters a = {.n = 0};
    shoal_status status = SHOAL_OK;
    while (status == SHOAL_OK && *text != '\0') {
        size_t n = strcspn(text, ",");
        const char *next = text + n + (text[n] == ',');
        while (n > 0 && *text == ' ') {
            text++;
            n--;
        }
        while (n > 0 && text[n - 1] == ' ') {
            n--;
        }
        status = load_one(text, n, model, &a, err);
        text = next;
    }
    if (status != SHOAL_OK) {
        shoal_adapters_fini(&a);
        return status;
    }
    *ret_adapters = a;
    return SHOAL_OK;
}

void shoal_adapters_fini(shoal_adapters *adapters)
{
    for (size_t i = 0; i < adapters->n; i++) {
        shoal_lora_free(adapters->list[i].lora);
    }
    *adapters = (shoal_adapters){.n = 0};
}
