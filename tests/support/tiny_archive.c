/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/tiny_archive.h"

#include "tests/support/random.h"

#include <math.h>
#include <string.h>

enum {
    ROT = 8,
    ROT_AT = 2,
    PER_LAYER = SHOAL_TINY_ARCHIVE_HEADS * (SHOAL_TINY_ARCHIVE_K + SHOAL_TINY_ARCHIVE_V)
};

/* Gram and Schmidt, twice, which is enough. */
static void orthonormal(size_t n, uint64_t *rng, float rows[][SHOAL_TINY_ARCHIVE_CHANNELS])
{
    for (size_t r = 0; r < n; r++) {
        double v[SHOAL_TINY_ARCHIVE_CHANNELS];
        for (size_t i = 0; i < n; i++) {
            v[i] = (double)test_signed(rng);
        }
        for (size_t q = 0; q < 2 * r; q++) {
            double dot = 0;
            for (size_t i = 0; i < n; i++) {
                dot += v[i] * (double)rows[q % r][i];
            }
            for (size_t i = 0; i < n; i++) {
                v[i] -= dot * (double)rows[q % r][i];
            }
        }
        double norm = 0;
        for (size_t i = 0; i < n; i++) {
            norm += v[i] * v[i];
        }
        for (size_t i = 0; i < n; i++) {
            rows[r][i] = (float)(v[i] / sqrt(norm));
        }
    }
}

static void make_group(shoal_tiny_archive *tiny, size_t g, size_t n_layers, size_t missing,
                       float step, uint64_t *rng)
{
    size_t n = n_layers * PER_LAYER;
    float(*rows)[SHOAL_TINY_ARCHIVE_CHANNELS] = tiny->numbers[g];
    float *flat = tiny->numbers[g][n];
    shoal_archive_plan_group *group = &tiny->groups[g];
    orthonormal(n, rng, rows);
    *group = (shoal_archive_plan_group){.n_layers = n_layers, .n_kept = n - missing};
    for (size_t i = 0; i < n * n; i++) {
        flat[i] = rows[i / n][i % n];
    }
    group->analysis = flat;
    group->synthesis = flat;
    group->mean = tiny->numbers[g][2 * n];
    group->step = tiny->numbers[g][2 * n + 1];
    group->table = tiny->tables[g];
    for (size_t i = 0; i < n; i++) {
        group->mean[i] = test_signed(rng);
        group->step[i] = step;
        group->table[i] = (int32_t)(i % SHOAL_TINY_ARCHIVE_TABLES);
    }
}

void shoal_tiny_archive_init(shoal_tiny_archive *tiny, uint64_t seed, size_t missing, float step)
{
    uint64_t rng = seed;
    memset(tiny, 0, sizeof *tiny);
    tiny->plan = (shoal_archive_plan){.model = {.bytes = {7, 7}},
                                      .shape = {.n_layers = SHOAL_TINY_ARCHIVE_LAYERS,
                                                .n_kv_heads = SHOAL_TINY_ARCHIVE_HEADS,
                                                .k_dim = SHOAL_TINY_ARCHIVE_K,
                                                .v_dim = SHOAL_TINY_ARCHIVE_V,
                                                .type = SHOAL_KV_F16},
                                      .n_rot = ROT,
                                      .rot_at = ROT_AT,
                                      .halves = true,
                                      .freq = tiny->freq,
                                      .rope_of = tiny->rope_of,
                                      .n_groups = SHOAL_TINY_ARCHIVE_GROUPS,
                                      .groups = tiny->groups,
                                      .n_tables = SHOAL_TINY_ARCHIVE_TABLES,
                                      .freqs = tiny->freqs,
                                      .values = tiny->values,
                                      .bits = 2};
    for (size_t i = 0; i < SHOAL_ARCHIVE_ROPES * ROT / 2; i++) {
        tiny->freq[i] = test_unit(&rng);
    }
    tiny->rope_of[1] = 1;
    make_group(tiny, 0, 2, missing, step, &rng);
    make_group(tiny, 1, 1, missing, step, &rng);
    for (size_t t = 0; t < SHOAL_TINY_ARCHIVE_TABLES; t++) {
        uint64_t counts[SHOAL_ARCHIVE_SYMBOLS] = {0};
        for (int s = 0; t < 2 && s < SHOAL_ARCHIVE_ESCAPE; s++) {
            int code = s - SHOAL_ARCHIVE_CODE_MAX;
            int far = SHOAL_ARCHIVE_CODE_MAX - (code < 0 ? -code : code);
            counts[s] = 1U << far / (t == 0 ? 1 : 2);
            tiny->values[t * SHOAL_ARCHIVE_SYMBOLS + (size_t)s] = (float)code;
        }
        shoal_archive_frequencies(counts, tiny->freqs + t * SHOAL_ARCHIVE_SYMBOLS);
    }
}
