/* SPDX-License-Identifier: Apache-2.0
 *
 * KV along a text. What an error in a layer's keys or values costs is measured: the same text runs
 * twice side by side, one of them with noise on the blocks behind it, and the divergence of what
 * they say of the next token, over the noise's energy, is the weight of that layer's keys or
 * values.
 */
#include "cloud/forge/kv_fit.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/kernels/math.h"

#include <math.h>
#include <stdio.h>

enum {
    BLOCK = SHOAL_KV_BLOCK,
    TEST_BLOCKS = 48 /* that judge one weight, in all windows together */
};

/* Standard deviation of the noise, of that of what it is put on. */
#define NOISE 0.2

void shoal_forge_kv_rows_fini(kv_rows *rows)
{
    shoal_free(rows->x);
    shoal_free(rows->weights);
    *rows = (kv_rows){0};
}

static shoal_status step(forge_session *s, shoal_kv_seq *other, const int32_t *ids, size_t n_logits,
                         size_t ret_logits[2])
{
    shoal_span spans[2] = {{.seq = s->seq, .ids = ids, .n_ids = BLOCK, .n_logits = n_logits},
                           {.seq = other, .ids = ids, .n_ids = BLOCK, .n_logits = n_logits}};
    SHOAL_TRY(shoal_engine_step(s->engine, spans, other ? 2 : 1));
    ret_logits[0] = spans[0].logits_i;
    ret_logits[1] = spans[1].logits_i;
    return SHOAL_OK;
}

/* A token's key turned back by its position. */
static void turn_back(const shoal_archive_plan *plan, size_t layer, size_t position, float *key)
{
    size_t pairs = plan->n_rot / 2;
    const float *freq = plan->freq + (size_t)plan->rope_of[layer] * pairs;
    for (size_t i = 0; i < pairs; i++) {
        double s = 0;
        double c = 0;
        float *a = key + plan->rot_at + (plan->halves ? i : 2 * i);
        float *b = a + (plan->halves ? pairs : 1);
        shoal_sincosd((double)freq[i] * (double)position, &s, &c);
        double x = (double)*a;
        double y = (double)*b;
        *a = (float)(x * c + y * s);
        *b = (float)(y * c - x * s);
    }
}

/* The rows of a full block. */
static void take_block(const shoal_kv_seq *seq, size_t block, const shoal_archive_plan *plan,
                       size_t n_channels, float *x)
{
    const shoal_kv_shape *shape = &plan->shape;
    for (size_t layer = 0; layer < shape->n_layers; layer++) {
        for (size_t head = 0; head < shape->n_kv_heads; head++) {
            shoal_kv_part part = shoal_kv_block_part(seq, layer, block, head);
            const float *keys = (const float *)(const void *)part.k;
            const float *values = (const float *)(const void *)part.v;
            for (size_t t = 0; t < BLOCK; t++) {
                float *to = x + t * n_channels;
                for (size_t d = 0; d < shape->k_dim; d++) {
                    to[d] = keys[d * BLOCK + t];
                }
                for (size_t d = 0; d < shape->v_dim; d++) {
                    to[shape->k_dim + d] = values[t * shape->v_dim + d];
                }
                turn_back(plan, layer, block * BLOCK + t, to);
            }
            x += shape->k_dim + shape->v_dim;
        }
    }
}

/* --- what errors cost ------------------------------------------------------------------------- */

static double log_sum(size_t n, const float *logits)
{
    double most = (double)logits[0];
    for (size_t i = 1; i < n; i++) {
        most = fmax(most, (double)logits[i]);
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += shoal_expd((double)logits[i] - most);
    }
    return most + shoal_logd(sum);
}

static double divergence(size_t n, const float *p, const float *q)
{
    double lp = log_sum(n, p);
    double lq = log_sum(n, q);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - lp;
        sum += shoal_expd(log_p) * (log_p - ((double)q[i] - lq));
    }
    return sum;
}

/* Noise on the keys, or the values, of one layer's full block; returns its energy. */
static double disturb(const shoal_kv_seq *seq, const shoal_kv_shape *shape, size_t layer,
                      size_t block, bool values, uint64_t *rng)
{
    size_t n = BLOCK * (values ? shape->v_dim : shape->k_dim);
    double energy = 0;
    for (size_t head = 0; head < shape->n_kv_heads; head++) {
        shoal_kv_part part = shoal_kv_block_part(seq, layer, block, head);
        float *x = (float *)(void *)(values ? part.v : part.k);
        double mean = 0;
        double square = 0;
        for (size_t i = 0; i < n; i++) {
            mean += (double)x[i] / (double)n;
            square += (double)x[i] * (double)x[i] / (double)n;
        }
        /* Uniform, of the standard deviation that is wanted. */
        double reach = NOISE * sqrt(fmax(square - mean * mean, 0) * 3);
        for (size_t i = 0; i < n; i++) {
            double e = reach * ((double)(shoal_rng_next(rng) >> 11) * 0x1p-52 - 1);
            x[i] = (float)((double)x[i] + e);
            energy += e * e;
        }
    }
    return energy;
}

static shoal_status weigh(forge_session *s, shoal_kv_seq *noisy, const int32_t *ids, size_t n_ids,
                          const shoal_kv_shape *shape, size_t layer, bool values,
                          double *ret_weight)
{
    size_t window = shoal_engine_n_ctx(s->engine) / BLOCK * BLOCK;
    size_t n_vocab = s->model->hp.n_vocab;
    uint64_t rng = 2 * layer + values;
    double cost = 0;
    double energy = 0;
    for (size_t at = 0; at + BLOCK <= n_ids && at < TEST_BLOCKS * BLOCK; at += BLOCK) {
        size_t logits[2] = {0, 0};
        if (at % window == 0) {
            (void)shoal_kv_seq_truncate(s->seq, 0);
            (void)shoal_kv_seq_truncate(noisy, 0);
        }
        SHOAL_TRY(step(s, noisy, ids + at, BLOCK, logits));
        for (size_t i = 0; i < BLOCK; i++) {
            cost += divergence(n_vocab, shoal_engine_logits(s->engine, logits[0] + i),
                               shoal_engine_logits(s->engine, logits[1] + i));
        }
        energy += disturb(noisy, shape, layer, at % window / BLOCK, values, &rng);
    }
    *ret_weight = energy > 0 ? fmax(cost, 1e-12) / energy : 0;
    return SHOAL_OK;
}

static shoal_status weigh_all(forge_session *s, const int32_t *ids, size_t n_ids,
                              const shoal_kv_shape *shape, double *weights, shoal_err *err)
{
    shoal_kv_seq *noisy = NULL;
    if (shoal_kv_seq_new(shoal_engine_kv(s->engine), &noisy) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a second sequence");
    }
    shoal_status status = SHOAL_OK;
    double most = 0;
    for (size_t i = 0; status == SHOAL_OK && i < 2 * shape->n_layers; i++) {
        status = weigh(s, noisy, ids, n_ids, shape, i / 2, i % 2 == 1, &weights[i]);
        most = fmax(most, weights[i]);
        (void)fprintf(stderr, "kv-calibrate: layer %zu: an error of %s costs %.3g\n", i / 2,
                      i % 2 ? "values" : "keys", weights[i]);
    }
    shoal_kv_seq_free(noisy);
    /* Nothing is quite free, and nothing is dearer than one. */
    for (size_t i = 0; i < 2 * shape->n_layers; i++) {
        weights[i] = most > 0 ? fmax(weights[i] / most, 1e-4) : 1;
    }
    return status;
}

shoal_status shoal_forge_kv_collect(forge_session *s, const int32_t *ids, size_t n_ids, bool alike,
                                    const shoal_archive_plan *plan, kv_rows *ret_rows,
                                    shoal_err *err)
{
    const shoal_kv_shape *shape = &plan->shape;
    kv_rows rows = {.n_channels = shape->n_layers * shoal_archive_layer_channels(shape)};
    size_t most = KV_FIT_BYTES_MAX / sizeof *rows.x / rows.n_channels / BLOCK * BLOCK;
    size_t n = SHOAL_MIN(n_ids / BLOCK * BLOCK, most);
    size_t window = shoal_engine_n_ctx(s->engine) / BLOCK * BLOCK;
    rows.x = shoal_calloc(n * rows.n_channels, sizeof *rows.x);
    rows.weights = shoal_calloc(2 * shape->n_layers, sizeof *rows.weights);
    shoal_status status = rows.x && rows.weights ? SHOAL_OK : SHOAL_E_NOMEM;
    for (size_t at = 0; status == SHOAL_OK && at < n; at += BLOCK) {
        size_t logits[2];
        if (at % window == 0) {
            (void)shoal_kv_seq_truncate(s->seq, 0);
        }
        status = step(s, NULL, ids + at, 0, logits);
        if (status == SHOAL_OK) {
            take_block(s->seq, at % window / BLOCK, plan, rows.n_channels,
                       rows.x + at * rows.n_channels);
        }
        if (at % (128 * BLOCK) == 0) {
            (void)fprintf(stderr, "kv-calibrate: %zu of %zu tokens\n", at, n);
        }
    }
    rows.n = n;
    for (size_t i = 0; status == SHOAL_OK && i < 2 * shape->n_layers; i++) {
        rows.weights[i] = 1;
    }
    if (status == SHOAL_OK && !alike) {
        status = weigh_all(s, ids, n_ids, shape, rows.weights, err);
    }
    if (status != SHOAL_OK) {
        shoal_forge_kv_rows_fini(&rows);
        return shoal_err_set(err, status, "KV of %zu tokens of %zu channels: %s", n,
                             rows.n_channels, shoal_status_text(status));
    }
    *ret_rows = rows;
    return SHOAL_OK;
}
