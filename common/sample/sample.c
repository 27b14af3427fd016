/* SPDX-License-Identifier: Apache-2.0
 *
 * The sampler: clean the logits, measure confidence, change and filter, then let the noise decide.
 */
#include "common/sample/sample_internal.h"

#include "common/base/mem.h"
#include "common/kernels/math.h"

#include <float.h>
#include <math.h>

/* A temperature below this acts as this: its reciprocal must stay finite, and at 1e-6 a logit
 * that is smaller in the seventh digit already cannot win. */
#define TEMPERATURE_MIN 1e-6f

shoal_status shoal_sampler_new(size_t n_vocab, const shoal_kernels *kernels,
                               shoal_sampler **ret_sampler)
{
    if (n_vocab == 0) {
        return SHOAL_E_INVALID;
    }
    if (n_vocab > INT32_MAX) {
        return SHOAL_E_LIMIT;
    }
    shoal_sampler *sampler = shoal_calloc(1, sizeof *sampler);
    if (!sampler) {
        return SHOAL_E_NOMEM;
    }
    sampler->n_vocab = n_vocab;
    sampler->kernels = *kernels;
    sampler->draws = shoal_draws_of(kernels->tier);
    sampler->work = shoal_calloc_aligned(n_vocab, sizeof *sampler->work);
    sampler->candidates = shoal_calloc_aligned(n_vocab, sizeof *sampler->candidates);
    sampler->counts = shoal_calloc_aligned(n_vocab, sizeof *sampler->counts);
    if (!sampler->work || !sampler->candidates || !sampler->counts) {
        shoal_sampler_free(sampler);
        return SHOAL_E_NOMEM;
    }
    *ret_sampler = sampler;
    return SHOAL_OK;
}

void shoal_sampler_free(shoal_sampler *sampler)
{
    if (!sampler) {
        return;
    }
    shoal_free(sampler->work);
    shoal_free(sampler->candidates);
    shoal_free(sampler->counts);
    shoal_free(sampler);
}

/* The softmax at T = 1 of the cleaned raw logits, as far as confidence needs it. */
typedef struct raw_softmax {
    float max; /* -inf: no token has a probability */
    float sum; /* of exp(logit - max) */
    float top_gap;
} raw_softmax;

/* Measures sampler->work, which is as before when this returns. */
static raw_softmax measure(shoal_sampler *sampler)
{
    raw_softmax raw = {.max = -INFINITY, .sum = 1.0f, .top_gap = 0.0f};
    size_t n = sampler->n_vocab;
    size_t top = sampler->kernels.argmax(n, sampler->work, &raw.max);
    if (raw.max < -FLT_MAX) {
        return raw;
    }
    raw.sum = sampler->kernels.sum_exp(n, sampler->work, raw.max, 1.0f);
    float second = -INFINITY;
    sampler->work[top] = -INFINITY;
    sampler->kernels.argmax(n, sampler->work, &second);
    sampler->work[top] = raw.max;
    raw.top_gap = (1.0f - shoal_expf(second - raw.max)) / raw.sum;
    return raw;
}

static float probability(const raw_softmax *raw, float logit)
{
    if (raw->max < -FLT_MAX) {
        return 0.0f;
    }
    float p = shoal_expf(logit - raw->max) / raw->sum;
    return p < 1.0f ? p : 1.0f;
}

/* The best score so far. */
typedef struct winner {
    float score;
    int32_t id;
} winner;

static void consider(winner *best, float z, uint32_t word, int32_t id)
{
    /* Adding is monotonic, so a bound on g bounds the rounded score as well: skipping below the
     * best, never at it, cannot change who wins. */
    if (z + shoal_noise_bound(word) < best->score) {
        return;
    }
    float score = z + shoal_noise_gumbel(word);
    if (score > best->score || (score == best->score && id < best->id)) {
        *best = (winner){.score = score, .id = id};
    }
}

/* Of the n tokens from first on, 4 at most. */
static void draw_block(const float *work, const shoal_noise *noise, size_t first, size_t n,
                       const shoal_draw *draw, winner *best)
{
    uint32_t words[4];
    shoal_noise_block(noise, (uint32_t)(first / 4), words);
    for (size_t i = 0; i < n; i++) {
        consider(best, (work[first + i] - draw->max) * draw->inv_t, words[i], (int32_t)(first + i));
    }
}

/* Gumbel-max over every token. Starting from the largest logit makes the bound strict at once, so
 * that the tail of the vocabulary costs a comparison, and the rest noise that is made in groups and
 * its bound. */
static int32_t draw_all(const shoal_sampler *sampler, const shoal_noise *noise, float max,
                        float inv_t, int32_t top)
{
    uint32_t words[SHOAL_NOISE_GROUP];
    shoal_noise_block(noise, (uint32_t)top / 4, words);
    winner best = {.score = shoal_noise_gumbel(words[(uint32_t)top % 4]), .id = top};
    shoal_draw draw = {.max = max, .inv_t = inv_t};
    const float *work = sampler->work;
    size_t first = 0;
    for (; first + SHOAL_NOISE_GROUP <= sampler->n_vocab; first += SHOAL_NOISE_GROUP) {
        draw.least = best.score;
        if (!sampler->draws->group(noise, (uint32_t)(first / 4), work + first, &draw, words)) {
            continue;
        }
        for (size_t i = 0; i < SHOAL_NOISE_GROUP; i++) {
            consider(&best, (work[first + i] - max) * inv_t, words[i], (int32_t)(first + i));
        }
    }
    for (; first < sampler->n_vocab; first += 4) {
        size_t n = SHOAL_MIN(sampler->n_vocab - first, (size_t)4);
        draw_block(work, noise, first, n, &draw, &best);
    }
    return best.id;
}

/* Gumbel-max over a list, which may come in any order. */
static int32_t draw_kept(const shoal_noise *noise, const shoal_candidate *kept, size_t n, float max,
                         float inv_t)
{
    winner best = {.score = -INFINITY, .id = INT32_MAX};
    for (size_t i = 0; i < n; i++) {
        float z = (kept[i].logit - max) * inv_t;
        if (z + SHOAL_NOISE_MAX < best.score) {
            continue;
        }
        uint32_t words[4];
        shoal_noise_block(noise, (uint32_t)kept[i].id / 4, words);
        consider(&best, z, words[(uint32_t)kept[i].id % 4], kept[i].id);
    }
    return best.id;
}

void shoal_sample(shoal_sampler *sampler, const shoal_sampling *sampling, const float *logits,
                  const int32_t *history, size_t n_history, shoal_sampled *ret_sampled)
{
    sampler->draws->clean(sampler->n_vocab, logits, sampler->work);
    raw_softmax raw = measure(sampler);
    shoal_filter_allowed(sampler, sampling);
    shoal_filter_bias(sampler, sampling);
    shoal_filter_penalties(sampler, sampling, history, n_history);

    float max = -INFINITY;
    int32_t id = (int32_t)sampler->kernels.argmax(sampler->n_vocab, sampler->work, &max);
    /* With nothing but -inf there is no choice to make, and no difference to take. */
    if (sampling->temperature > 0.0f && max >= -FLT_MAX) {
        float t = SHOAL_MAX(sampling->temperature, TEMPERATURE_MIN);
        float inv_t = 1.0f / t;
        shoal_noise noise = shoal_noise_at(sampling->seed, n_history);
        if (shoal_filter_is_on(sampler, sampling)) {
            const shoal_candidate *kept = NULL;
            size_t n = shoal_filter_select(sampler, sampling, max, inv_t, &kept);
            id = draw_kept(&noise, kept, n, max, inv_t);
        } else {
            id = draw_all(sampler, &noise, max, inv_t, id);
        }
    }
    float logit = 0.0f;
    sampler->draws->clean(1, logits + id, &logit);
    ret_sampled->id = id;
    ret_sampled->confidence = probability(&raw, logit);
    ret_sampled->top_gap = raw.top_gap;
}
