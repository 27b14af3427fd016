/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json_memory.h"
#include "common/base/macros.h"
#include "common/base/mem.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    GROWTH_MIN = 32,     /* the text of a token begins with 16 bytes and doubles */
    SPARE_PER_BYTE = 8,  /* all doublings take 4; strings and arrays of such sizes less than 3 */
    SPARE_LEAST = 1 << 9 /* for a text of a few bytes */
};

static _Thread_local struct {
    bool on;
    shoal_status failed; /* SHOAL_OK: all was to be had */
    size_t budget_left;
    char *spare;
    size_t n_spare;
    size_t spare_used;
} parse;

static void *from_spare(size_t n)
{
    bool growth = n >= GROWTH_MIN && (n & (n - 1)) == 0;
    if (!growth || n > parse.n_spare - parse.spare_used) {
        return NULL;
    }
    void *p = parse.spare + parse.spare_used; /* 32 bytes at least: aligned as malloc's */
    parse.spare_used += n;
    return p;
}

void *shoal_json_allocate(size_t n)
{
    if (!parse.on) {
        return shoal_calloc(1, n);
    }
    if (parse.failed == SHOAL_OK && n > parse.budget_left) {
        parse.failed = SHOAL_E_LIMIT;
    }
    if (parse.failed == SHOAL_OK) {
        parse.budget_left -= n;
        void *p = shoal_calloc(1, n);
        if (p) {
            return p;
        }
        parse.failed = SHOAL_E_NOMEM;
    }
    return from_spare(n);
}

void shoal_json_free(void *p)
{
    uintptr_t at = (uintptr_t)p - (uintptr_t)parse.spare;
    if (parse.spare && at < parse.n_spare) {
        return;
    }
    shoal_free(p);
}

shoal_status shoal_json_memory_begin(size_t n, size_t budget_bytes)
{
    SHOAL_ASSERT(!parse.on && n <= UINT32_MAX);
    size_t n_spare = SPARE_PER_BYTE * n + SPARE_LEAST;
    char *spare = shoal_calloc(n_spare, 1);
    if (!spare) {
        return SHOAL_E_NOMEM;
    }
    parse.on = true;
    parse.failed = SHOAL_OK;
    parse.budget_left = budget_bytes;
    parse.spare = spare;
    parse.n_spare = n_spare;
    parse.spare_used = 0;
    return SHOAL_OK;
}

shoal_status shoal_json_memory_judge(void)
{
    SHOAL_ASSERT(parse.on);
    return parse.failed;
}

void shoal_json_memory_end(void)
{
    SHOAL_ASSERT(parse.on);
    parse.on = false;
    shoal_free(parse.spare);
    parse.spare = NULL;
    parse.n_spare = 0;
}
