/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/adapters.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/name.h"

#include <string.h>

static const char key[] = "model.adapters";

static shoal_status refuse(const char *item, size_t n, const char *why, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "%s: \"%.*s\": %s; it is NAME=FILE or NAME=FILE=STRENGTH, several "
                         "separated by commas",
                         key, (int)SHOAL_MIN(n, (size_t)100), item, why);
}

static shoal_status load_one(const char *item, size_t n, const shoal_model *model,
                             shoal_adapters *a, shoal_err *err)
{
    const char *mark = memchr(item, '=', n);
    size_t n_name = mark ? (size_t)(mark - item) : n;
    double strength = 0;
    bool numbered = false;
    if (!mark || !shoal_name_ok(item, n_name, SHOAL_ADAPTER_NAME_MAX)) {
        return refuse(item, n, "NAME is 1 to 64 letters, digits, '.', '_' and '-'", err);
    }
    if (a->n == SHOAL_ADAPTERS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: at most %d adapters", key,
                             (int)SHOAL_ADAPTERS_MAX);
    }
    shoal_adapter *adapter = &a->list[a->n];
    memcpy(adapter->name, item, n_name);
    adapter->name[n_name] = '\0';
    for (size_t i = 0; i < a->n; i++) {
        if (strcmp(a->list[i].name, adapter->name) == 0) {
            return refuse(item, n, "the name is taken", err);
        }
    }
    SHOAL_CLEANUP(shoal_free_cleanup) char *text = shoal_strndup(mark + 1, n - n_name - 1);
    SHOAL_CLEANUP(shoal_free_cleanup) char *file = NULL;
    if (!text) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for an adapter's path");
    }
    SHOAL_TRY(shoal_path_numbered(text, &file, &strength, &numbered, err));
    if (file[0] == '\0') {
        return refuse(item, n, "no file", err);
    }
    SHOAL_TRY(shoal_lora_load(model, file, numbered ? (float)strength : 1, &adapter->lora, err));
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

size_t shoal_adapters_rank_max(const shoal_adapter *list, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        most = SHOAL_MAX(most, shoal_lora_rank(list[i].lora));
    }
    return most;
}
