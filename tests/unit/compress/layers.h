/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded layers as transformers have them: inputs that are correlated, with some channels far
 * larger than others; weights with a few directions and a few elements that stand out.
 */
#ifndef SHOAL_TESTS_UNIT_COMPRESS_LAYERS_H
#define SHOAL_TESTS_UNIT_COMPRESS_LAYERS_H

#include "common/base/mem.h"
#include "common/compress/compress.h"
#include "tests/support/random.h"

#include <math.h>

typedef struct test_layer {
    size_t n_rows;
    size_t n_cols;
    float *w;
    float *h;
} test_layer;

/* About normal: a sum of uniform numbers. */
static inline double test_normal(uint64_t *rng)
{
    double sum = 0;
    for (size_t i = 0; i < 12; i++) {
        sum += (double)test_unit(rng);
    }
    return sum - 6;
}

/* Inputs are n_factors common causes with weights that fall, plus noise of their own. */
static inline void test_layer_moments(test_layer *l, size_t n_factors, double noise, uint64_t *rng)
{
    size_t k = l->n_cols;
    double *mix = shoal_calloc(k * n_factors, sizeof *mix);
    double *size = shoal_calloc(k, sizeof *size);
    double *x = shoal_calloc(k, sizeof *x);
    double *sum = shoal_calloc(k * k, sizeof *sum);
    for (size_t i = 0; i < k * n_factors; i++) {
        mix[i] = test_normal(rng) / (double)(1 + i % n_factors);
    }
    for (size_t i = 0; i < k; i++) {
        size[i] = exp(0.5 * test_normal(rng)) * (shoal_rng_next(rng) % 32 == 0 ? 8 : 1);
    }
    for (size_t t = 0; t < 4 * k; t++) {
        double cause[64];
        for (size_t f = 0; f < n_factors; f++) {
            cause[f] = test_normal(rng);
        }
        for (size_t i = 0; i < k; i++) {
            x[i] = noise * test_normal(rng);
            for (size_t f = 0; f < n_factors; f++) {
                x[i] += mix[i * n_factors + f] * cause[f];
            }
            x[i] *= size[i];
        }
        for (size_t i = 0; i < k * k; i++) {
            sum[i] += x[i / k] * x[i % k];
        }
    }
    for (size_t i = 0; i < k * k; i++) {
        l->h[i] = (float)sum[i];
    }
    shoal_free(mix);
    shoal_free(size);
    shoal_free(x);
    shoal_free(sum);
}

static inline void test_layer_init(test_layer *l, size_t n_rows, size_t n_cols, uint64_t seed)
{
    uint64_t rng = seed;
    l->n_rows = n_rows;
    l->n_cols = n_cols;
    l->w = shoal_calloc(n_rows * n_cols, sizeof *l->w);
    l->h = shoal_calloc(n_cols * n_cols, sizeof *l->h);
    for (size_t i = 0; i < n_rows * n_cols; i++) {
        double far = shoal_rng_next(&rng) % 64 == 0 ? 4 : 1;
        l->w[i] = (float)(0.05 * far * test_normal(&rng));
    }
    test_layer_moments(l, 16, 0.3, &rng);
}

static inline void test_layer_fini(test_layer *l)
{
    shoal_free(l->w);
    shoal_free(l->h);
}

#endif
