/* SPDX-License-Identifier: Apache-2.0 */
#include "common/archive/plan.h"

#include "common/base/checked.h"
#include "common/base/mem.h"

#include <stdbool.h>
#include <string.h>

shoal_status shoal_archive_allocate(size_t n, size_t n_choices, const uint32_t *rates,
                                    const double *harms, size_t budget, uint8_t *ret_choices)
{
    size_t width = 0;
    size_t cells = 0;
    if (!shoal_add_size(budget, 1, &width) || !shoal_mul_size(n, width, &cells)) {
        return SHOAL_E_NOMEM;
    }
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *took = shoal_calloc(cells, 1);
    SHOAL_CLEANUP(shoal_free_cleanup) double *best = shoal_calloc(width, sizeof *best);
    SHOAL_CLEANUP(shoal_free_cleanup) double *next = shoal_calloc(width, sizeof *next);
    if (!took || !best || !next) {
        return SHOAL_E_NOMEM;
    }
    /* best[u]: the least harm of the things so far with at most u units. */
    for (size_t i = 0; i < n; i++) {
        uint8_t *row = took + i * width;
        for (size_t u = 0; u < width; u++) {
            next[u] = best[u] + harms[i * n_choices];
        }
        for (size_t c = 1; c < n_choices; c++) {
            size_t rate = rates[i * n_choices + c];
            double harm = harms[i * n_choices + c];
            for (size_t u = rate; u < width; u++) {
                double sum = best[u - rate] + harm;
                if (sum < next[u]) {
                    next[u] = sum;
                    row[u] = (uint8_t)c;
                }
            }
        }
        memcpy(best, next, width * sizeof *best);
    }
    size_t left = budget;
    for (size_t i = n; i-- > 0;) {
        ret_choices[i] = took[i * width + left];
        left -= ret_choices[i] ? rates[i * n_choices + ret_choices[i]] : 0;
    }
    return SHOAL_OK;
}

void shoal_archive_frequencies(const uint64_t *counts, int32_t *ret_freqs)
{
    uint64_t total = 2;
    for (size_t s = 0; s < SHOAL_ARCHIVE_SYMBOLS; s++) {
        total += counts[s];
    }
    int32_t sum = 0;
    size_t most = SHOAL_ARCHIVE_ESCAPE;
    for (size_t s = 0; s < SHOAL_ARCHIVE_SYMBOLS; s++) {
        /* The code 0 too, so that no symbol has all. */
        bool sure = s == SHOAL_ARCHIVE_ESCAPE || s == SHOAL_ARCHIVE_CODE_MAX;
        uint64_t count = counts[s] + (sure ? 1 : 0);
        int32_t part = (int32_t)((double)count / (double)total * SHOAL_ARCHIVE_TOTAL);
        ret_freqs[s] = count > 0 ? SHOAL_MAX(part, 1) : 0;
        sum += ret_freqs[s];
        most = ret_freqs[s] > ret_freqs[most] ? s : most;
    }
    /* At most one unit for each symbol is too much, or too little: the most frequent bears it. It
     * has at least a 64th of all where units are missing. */
    ret_freqs[most] += SHOAL_ARCHIVE_TOTAL - sum;
}
