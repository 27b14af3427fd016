/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/admit/quota.h"

#include "common/base/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct override {
    char name[SHOAL_ADMIT_TENANT_BYTES]; /* without its '*' */
    size_t n_name;
    bool prefix;
    shoal_admit_quota quota;
} override;

struct shoal_admit_quotas {
    shoal_admit_quota fallback;
    size_t n_overrides;
    override *overrides;
};

/* --- reading ---------------------------------------------------------------------------------- */

static const char spaces[] = " \t\r";

/* The next word before end, or an empty one. */
static const char *next_word(const char **at, const char *end, size_t *ret_n)
{
    const char *p = *at;
    while (p < end && strchr(spaces, *p) != NULL) {
        p++;
    }
    const char *begin = p;
    while (p < end && strchr(spaces, *p) == NULL) {
        p++;
    }
    *ret_n = (size_t)(p - begin);
    *at = p;
    return begin;
}

static bool read_number(const char *text, size_t n, uint64_t max, uint64_t *ret_x)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        x = x * 10 + (uint64_t)(text[i] - '0');
        if (x > max) {
            return false;
        }
    }
    *ret_x = x;
    return n > 0;
}

static shoal_status read_value(override *o, const char *word, size_t n, shoal_err *err)
{
    static const struct {
        const char *key;
        uint64_t max;
    } keys[] = {{"sessions", 65536},
                {"tokens_per_s", 100000000},
                {"tokens_burst", 1000000000},
                {"kv_mib", 1 << 20}};
    const char *equal = memchr(word, '=', n);
    size_t n_key = equal == NULL ? n : (size_t)(equal - word);
    uint64_t x = 0;
    for (size_t k = 0; k < SHOAL_COUNT(keys) && equal != NULL; k++) {
        if (strlen(keys[k].key) != n_key || memcmp(keys[k].key, word, n_key) != 0) {
            continue;
        }
        if (!read_number(equal + 1, n - n_key - 1, keys[k].max, &x)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "tenants.overrides: %s of \"%s\" is not a number from 0 to %llu",
                                 keys[k].key, o->name, (unsigned long long)keys[k].max);
        }
        switch (k) {
        case 0:
            o->quota.n_sessions = (uint32_t)x;
            break;
        case 1:
            o->quota.tokens_per_s = (uint32_t)x;
            break;
        case 2:
            o->quota.tokens_burst = (uint32_t)x;
            break;
        default:
            o->quota.kv_bytes = x << 20;
            break;
        }
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "tenants.overrides: \"%.*s\" of \"%s\" is not sessions=, tokens_per_s=, "
                         "tokens_burst= or kv_mib=",
                         (int)SHOAL_MIN(n, (size_t)64), word, o->name);
}

static shoal_status read_entry(shoal_admit_quotas *quotas, const char *at, const char *end,
                               shoal_err *err)
{
    size_t n = 0;
    const char *name = next_word(&at, end, &n);
    if (n == 0 || name[0] == '#') {
        return SHOAL_OK;
    }
    bool prefix = name[n - 1] == '*';
    if (n - prefix >= SHOAL_ADMIT_TENANT_BYTES) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tenants.overrides: the name \"%.32s...\" has %zu bytes, at most %d",
                             name, n, SHOAL_ADMIT_TENANT_BYTES - 1);
    }
    if (quotas->n_overrides == SHOAL_ADMIT_OVERRIDES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "tenants.overrides: more than %d entries",
                             SHOAL_ADMIT_OVERRIDES_MAX);
    }
    override *o = &quotas->overrides[quotas->n_overrides];
    *o = (override){.n_name = n - prefix, .prefix = prefix, .quota = quotas->fallback};
    memcpy(o->name, name, o->n_name);
    for (size_t i = 0; i < quotas->n_overrides; i++) {
        const override *other = &quotas->overrides[i];
        if (other->prefix == prefix && strcmp(other->name, o->name) == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID, "tenants.overrides: \"%s%s\" stands twice",
                                 o->name, prefix ? "*" : "");
        }
    }
    for (;;) {
        const char *word = next_word(&at, end, &n);
        if (n == 0) {
            break;
        }
        SHOAL_TRY(read_value(o, word, n, err));
    }
    quotas->n_overrides++;
    return SHOAL_OK;
}

static size_t count_entries(const char *text)
{
    size_t n = 1;
    for (; *text != '\0'; text++) {
        n += *text == ';' || *text == '\n';
    }
    return SHOAL_MIN(n, (size_t)SHOAL_ADMIT_OVERRIDES_MAX);
}

shoal_status shoal_admit_quotas_new(const shoal_admit_quota *fallback, const char *overrides,
                                    shoal_admit_quotas **ret_quotas, shoal_err *err)
{
    const char *text = overrides == NULL ? "" : overrides;
    SHOAL_CLEANUP(shoal_admit_quotas_freep)
    shoal_admit_quotas *quotas = shoal_calloc(1, sizeof(*quotas));
    if (quotas != NULL) {
        quotas->fallback = *fallback;
        quotas->overrides = shoal_calloc(count_entries(text), sizeof(override));
    }
    if (quotas == NULL || quotas->overrides == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for the quotas of tenants");
    }
    while (*text != '\0') {
        size_t n = strcspn(text, ";\n");
        SHOAL_TRY(read_entry(quotas, text, text + n, err));
        text += n;
        text += *text != '\0';
    }
    *ret_quotas = SHOAL_STEAL(quotas);
    return SHOAL_OK;
}

void shoal_admit_quotas_free(shoal_admit_quotas *quotas)
{
    if (quotas != NULL) {
        shoal_free(quotas->overrides);
        shoal_free(quotas);
    }
}

/* --- looking up ------------------------------------------------------------------------------- */

const shoal_admit_quota *shoal_admit_quotas_find(const shoal_admit_quotas *quotas,
                                                 const char *tenant)
{
    const override *best = NULL;
    for (size_t i = 0; i < quotas->n_overrides; i++) {
        const override *o = &quotas->overrides[i];
        if (!o->prefix && strcmp(o->name, tenant) == 0) {
            return &o->quota;
        }
        if (o->prefix && strncmp(o->name, tenant, o->n_name) == 0 &&
            (best == NULL || o->n_name > best->n_name)) {
            best = o;
        }
    }
    return best == NULL ? &quotas->fallback : &best->quota;
}
