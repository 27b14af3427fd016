/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/metrics.h"

#include "common/kernels/math.h"

#include <math.h>

/* The 97.5 % point of the normal distribution. */
#define Z95 1.959963984540054

forge_interval shoal_forge_wilson(size_t n_right, size_t n)
{
    if (n == 0) {
        return (forge_interval){.value = 0, .low = 0, .high = 1};
    }
    double count = (double)n;
    double p = (double)n_right / count;
    double z2 = Z95 * Z95;
    double middle = p + z2 / (2 * count);
    double half = Z95 * sqrt(p * (1 - p) / count + z2 / (4 * count * count));
    double scale = 1 + z2 / count;
    /* At the ends the two terms are equal but for rounding. */
    return (forge_interval){.value = p,
                            .low = n_right == 0 ? 0 : (middle - half) / scale,
                            .high = n_right == n ? 1 : (middle + half) / scale};
}

forge_interval shoal_forge_weighted_mean(const double *values, const double *weights, size_t n)
{
    double sum = 0;
    double weight = 0;
    size_t n_used = 0;
    for (size_t i = 0; i < n; i++) {
        sum += weights[i] * values[i];
        weight += weights[i];
        n_used += weights[i] > 0;
    }
    double mean = n_used ? sum / weight : 0;
    if (n_used < 2) {
        return (forge_interval){.value = mean, .low = -HUGE_VAL, .high = HUGE_VAL};
    }
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        double d = weights[i] * (values[i] - mean);
        squares += d * d;
    }
    double count = (double)n_used;
    double half = Z95 * sqrt(count / (count - 1) * squares) / weight;
    return (forge_interval){.value = mean, .low = mean - half, .high = mean + half};
}

double shoal_forge_coupling_bound(double tv)
{
    return (1 - tv) / (1 + tv);
}

static size_t find_max(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > logits[best] || isnan(logits[best])) {
            best = i;
        }
    }
    return best;
}

forge_judged shoal_forge_judge(const float *logits, size_t n, int32_t target)
{
    size_t best = find_max(logits, n);
    double max = (double)logits[best];
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += shoal_expd((double)logits[i] - max);
    }
    return (forge_judged){.argmax = (int32_t)best,
                          .nll = max + shoal_logd(sum) - (double)logits[target],
                          .top = 1 / sum};
}

/* softmax(logits / temperature) to ret_p. */
static void softmax(const float *logits, size_t n, double temperature, double *ret_p)
{
    double max = (double)logits[find_max(logits, n)];
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        ret_p[i] = shoal_expd(((double)logits[i] - max) / temperature);
        sum += ret_p[i];
    }
    for (size_t i = 0; i < n; i++) {
        ret_p[i] /= sum;
    }
}

double shoal_forge_total_variation(const float *a, const float *b, size_t n, double temperature,
                                   double *work)
{
    double distance = 0;
    softmax(a, n, temperature, work);
    softmax(b, n, temperature, work + n);
    for (size_t i = 0; i < n; i++) {
        distance += fabs(work[i] - work[n + i]);
    }
    return distance / 2;
}

double shoal_forge_perplexity_of(double nll_sum, size_t n)
{
    return n ? shoal_expd(nll_sum / (double)n) : 0;
}
