/* SPDX-License-Identifier: Apache-2.0
 *
 * What changes logits (bias, penalties) and what removes candidates (top-k, top-p, min-p).
 *
 * Every function here is pure in (logits, history, parameters): the edge's draft and the cloud's
 * verification run the same code on the same values and must keep the same candidates (R1). The
 * order of candidates is total, (logit descending, id ascending), so "the best k" is one set, and
 * every sum is taken in one order.
 *
 * All three removing filters keep a prefix of that order, so the result is the shortest of the
 * three prefixes; nothing needs to be sorted beyond it.
 */
#include "common/sample/sample_internal.h"

#include "common/kernels/math.h"

#include <float.h>
#include <math.h>

void shoal_filter_allowed(shoal_sampler *sampler, const shoal_sampling *sampling)
{
    for (size_t i = 0; sampling->allowed && i < sampler->n_vocab; i++) {
        if (!(sampling->allowed[i / 32] >> (i % 32) & 1)) {
            sampler->work[i] = -INFINITY;
        }
    }
}

void shoal_filter_bias(shoal_sampler *sampler, const shoal_sampling *sampling)
{
    for (size_t i = 0; i < sampling->n_biases; i++) {
        int32_t id = sampling->biases[i].id;
        if (id >= 0 && (size_t)id < sampler->n_vocab) {
            sampler->work[id] += sampling->biases[i].bias;
        }
    }
}

/* The repetition penalty of Keskar et al., "CTRL" (2019), section 4.1, made symmetric for
 * negative logits as everyone does; then OpenAI's additive pair. */
static float penalised(const shoal_sampling *sampling, float logit, uint16_t count)
{
    float x = logit;
    x = x > 0.0f ? x / sampling->repetition_penalty : x * sampling->repetition_penalty;
    x -= sampling->frequency_penalty * (float)count;
    x -= sampling->presence_penalty;
    return x > FLT_MAX ? FLT_MAX : x;
}

void shoal_filter_penalties(shoal_sampler *sampler, const shoal_sampling *sampling,
                            const int32_t *history, size_t n_history)
{
    size_t window = SHOAL_MIN(sampling->penalty_window, (uint32_t)SHOAL_PENALTY_WINDOW_MAX);
    size_t n = SHOAL_MIN(window, n_history);
    bool off = sampling->repetition_penalty == 1.0f && sampling->presence_penalty == 0.0f &&
               sampling->frequency_penalty == 0.0f;
    if (off || n == 0) {
        return;
    }
    const int32_t *tail = history + (n_history - n);
    for (size_t i = 0; i < n; i++) {
        if (tail[i] >= 0 && (size_t)tail[i] < sampler->n_vocab) {
            sampler->counts[tail[i]]++;
        }
    }
    /* The second walk applies each distinct id once and leaves the table zero behind it. */
    for (size_t i = 0; i < n; i++) {
        int32_t id = tail[i];
        if (id >= 0 && (size_t)id < sampler->n_vocab && sampler->counts[id] != 0) {
            sampler->work[id] = penalised(sampling, sampler->work[id], sampler->counts[id]);
            sampler->counts[id] = 0;
        }
    }
}

/* True when a stands before b in the order of candidates. */
static bool before(shoal_candidate a, shoal_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Restores the heap below i. The root of a worst-first heap is the candidate that stands last,
 * that of a best-first heap the one that stands first. */
static void sift_down(shoal_candidate *heap, size_t n, size_t i, bool best_first)
{
    shoal_candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && before(heap[child + 1], heap[child]) == best_first) {
            child++;
        }
        if (before(heap[child], moving) != best_first) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heapify(shoal_candidate *heap, size_t n, bool best_first)
{
    for (size_t i = n / 2; i-- > 0;) {
        sift_down(heap, n, i, best_first);
    }
}

/* Moves the root to the end; the heap is one shorter. */
static void pop_to_end(shoal_candidate *heap, size_t n, bool best_first)
{
    shoal_candidate root = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = root;
    sift_down(heap, n - 1, 0, best_first);
}

/* The best k into candidates[0..k), as a worst-first heap: most of the vocabulary costs one
 * comparison with the root. */
static void select_top_k(shoal_sampler *sampler, size_t k)
{
    shoal_candidate *heap = sampler->candidates;
    for (size_t i = 0; i < k; i++) {
        heap[i] = (shoal_candidate){.logit = sampler->work[i], .id = (int32_t)i};
    }
    heapify(heap, k, false);
    for (size_t i = k; i < sampler->n_vocab; i++) {
        /* Ids ascend, so an equal logit stands behind everything already in. */
        if (sampler->work[i] > heap[0].logit) {
            heap[0] = (shoal_candidate){.logit = sampler->work[i], .id = (int32_t)i};
            sift_down(heap, k, 0, false);
        }
    }
}

/* Every candidate whose scaled logit is at least floor_z, in the order of ids. */
static size_t gather(shoal_sampler *sampler, float max, float inv_t, float floor_z)
{
    size_t n = 0;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        if ((sampler->work[i] - max) * inv_t >= floor_z) {
            sampler->candidates[n++] =
                (shoal_candidate){.logit = sampler->work[i], .id = (int32_t)i};
        }
    }
    return n;
}

/* Top-p among the best k: sorts them, sums in that order, returns how many to keep. */
static size_t nucleus_of_sorted(shoal_sampler *sampler, size_t k, float top_p, float max,
                                float inv_t)
{
    shoal_candidate *sorted = sampler->candidates;
    for (size_t n = k; n > 1; n--) {
        pop_to_end(sorted, n, false);
    }
    double sum = 0.0;
    for (size_t i = 0; i < k; i++) {
        sum += (double)shoal_expf((sorted[i].logit - max) * inv_t);
    }
    double wanted = (double)top_p * sum;
    double have = 0.0;
    for (size_t i = 0; i < k; i++) {
        have += (double)shoal_expf((sorted[i].logit - max) * inv_t);
        if (have >= wanted) {
            return i + 1;
        }
    }
    return k;
}

/* Top-p over the whole vocabulary, without sorting it: candidates below (1 - p) * sum / (2 V)
 * cannot be needed, since all of them together hold less than half of what may be missing. The
 * others form a heap that is emptied until p is reached. */
static size_t nucleus_of_all(shoal_sampler *sampler, float top_p, float max, float inv_t,
                             const shoal_candidate **ret_kept)
{
    float sum = sampler->kernels.sum_exp(sampler->n_vocab, sampler->work, max, inv_t);
    float tiny = 0.5f * (1.0f - top_p) * sum / (float)sampler->n_vocab;
    size_t n = gather(sampler, max, inv_t, shoal_logf(tiny));
    shoal_candidate *heap = sampler->candidates;
    heapify(heap, n, true);
    double wanted = (double)top_p * (double)sum;
    double have = 0.0;
    size_t left = n;
    while (left > 0 && have < wanted) {
        have += (double)shoal_expf((heap[0].logit - max) * inv_t);
        pop_to_end(heap, left, true);
        left--;
    }
    *ret_kept = heap + left;
    return n - left;
}

bool shoal_filter_is_on(const shoal_sampler *sampler, const shoal_sampling *sampling)
{
    return (sampling->top_k != 0 && sampling->top_k < sampler->n_vocab) || sampling->top_p < 1.0f ||
           sampling->min_p > 0.0f;
}

size_t shoal_filter_select(shoal_sampler *sampler, const shoal_sampling *sampling, float max,
                           float inv_t, const shoal_candidate **ret_kept)
{
    bool top_k = sampling->top_k != 0 && sampling->top_k < sampler->n_vocab;
    bool top_p = sampling->top_p < 1.0f;
    /* min-p keeps p >= min_p * p_max (Nguyen et al., "Min-p sampling", 2024), and p / p_max is
     * exp(z) with z <= 0, so the test needs neither sum nor exponential. */
    float floor_z = -INFINITY;
    if (sampling->min_p > 0.0f) {
        floor_z = shoal_logf(SHOAL_MAX(sampling->min_p, FLT_MIN)); /* defined for normal numbers */
    }
    *ret_kept = sampler->candidates;
    size_t n = 0;
    if (top_k) {
        n = sampling->top_k;
        select_top_k(sampler, n);
        if (top_p) {
            n = nucleus_of_sorted(sampler, n, sampling->top_p, max, inv_t);
        }
    } else if (top_p) {
        n = nucleus_of_all(sampler, sampling->top_p, max, inv_t, ret_kept);
    } else {
        n = gather(sampler, max, inv_t, floor_z);
    }
    /* The list is compacted in place: it lies inside the sampler's own array. */
    shoal_candidate *kept = sampler->candidates + (*ret_kept - sampler->candidates);
    size_t n_kept = 0;
    for (size_t i = 0; i < n; i++) {
        if ((kept[i].logit - max) * inv_t >= floor_z) {
            kept[n_kept++] = kept[i];
        }
    }
    return n_kept;
}
