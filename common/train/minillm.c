/* SPDX-License-Identifier: Apache-2.0
 *
 * With r_t = log p(y_t) - log q(y_t) and R_t = r_t + r_{t+1} + ..., the gradient of KL(q || p) is
 * the mean over answers of -sum_t (R_t - 1) grad log q(y_t) (section 2.2 of the source). Taking r_t
 * out of R_t and replacing its share by its expectation over the vocabulary leaves
 *   sum_t grad KL(q_t || p_t) - sum_t R_{t+1} grad log q(y_t)   (section 2.3, single step);
 * under mixed sampling each position is weighed by w_t = q(y_t) / (a p(y_t) + (1 - a) q(y_t)).
 */
#include "common/train/minillm.h"

#include "common/base/rng.h"
#include "common/kernels/math.h"

#include <math.h>

/* "SHML": keeps these draws apart from other uses of Philox with the same key. */
#define SAMPLE_DOMAIN 0x53484D4Cu

shoal_minillm shoal_minillm_default(void)
{
    return (shoal_minillm){
        .single_step = true, .teacher_mixed = true, .length_norm = true, .mix = 0.2F};
}

/* What is subtracted from a logit to make it a log probability. */
static double log_sum(size_t n, const float *x)
{
    float max = x[0];
    for (size_t i = 1; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += shoal_expd((double)x[i] - (double)max);
    }
    return (double)max + shoal_logd(sum);
}

static double share_of_teacher(const shoal_minillm *settings)
{
    return settings->teacher_mixed ? (double)settings->mix : 0;
}

int32_t shoal_minillm_sample(const shoal_minillm *settings, size_t n_vocab, const float *student,
                             const float *teacher, uint64_t seed, uint64_t position)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, SAMPLE_DOMAIN};
    uint32_t words[4];
    shoal_philox4x32_10(counter, key, words);
    double u = ((double)words[0] + 0.5) * 0x1p-32;
    double mix = share_of_teacher(settings);
    double q_sum = log_sum(n_vocab, student);
    double p_sum = mix > 0 ? log_sum(n_vocab, teacher) : 0;
    double sum = 0;
    int32_t last = 0;
    for (size_t i = 0; i < n_vocab; i++) {
        double share = (1 - mix) * shoal_expd((double)student[i] - q_sum);
        share += mix > 0 ? mix * shoal_expd((double)teacher[i] - p_sum) : 0;
        sum += share;
        last = share > 0 ? (int32_t)i : last; /* where rounding leaves u above the last sum */
        if (u < sum) {
            return (int32_t)i;
        }
    }
    return last;
}

/* A row becomes w (own grad KL(q || p) - after grad log q(y)). */
static void row_gradient(size_t n, int32_t id, double weight, bool own, double after,
                         const float *teacher, double p_sum, double q_sum, float *x)
{
    double kl = 0;
    for (size_t i = 0; i < n && own; i++) {
        double log_q = (double)x[i] - q_sum;
        kl += shoal_expd(log_q) * (log_q - ((double)teacher[i] - p_sum));
    }
    for (size_t i = 0; i < n; i++) {
        double log_q = (double)x[i] - q_sum;
        double q = shoal_expd(log_q);
        double g = after * q;
        if (own) {
            g += q * (log_q - ((double)teacher[i] - p_sum) - kl);
        }
        g -= i == (size_t)id ? after : 0;
        x[i] = (float)(weight * g);
    }
}

double shoal_minillm_loss(const shoal_minillm *settings, size_t n, size_t n_vocab,
                          const int32_t *ids, const float *teacher, float *logits, double *scratch)
{
    double *ratio = scratch; /* r_t */
    double *weight = scratch + n;
    double mix = share_of_teacher(settings);
    double total = 0;
    for (size_t t = 0; t < n; t++) {
        SHOAL_ASSERT(ids[t] >= 0 && (size_t)ids[t] < n_vocab);
        size_t at = t * n_vocab + (size_t)ids[t];
        double log_q = (double)logits[at] - log_sum(n_vocab, logits + t * n_vocab);
        double log_p = (double)teacher[at] - log_sum(n_vocab, teacher + t * n_vocab);
        ratio[t] = log_p - log_q;
        /* q / (a p + (1 - a) q), by the ratio, which does not overflow where q is small. */
        weight[t] = 1 / (1 - mix + mix * shoal_expd(ratio[t] < 700 ? ratio[t] : 700));
        total -= ratio[t];
    }
    double after = 0; /* R_{t+1} */
    for (size_t t = n; t-- > 0;) {
        float *row = logits + t * n_vocab;
        const float *theirs = teacher + t * n_vocab;
        size_t n_after = n - t - 1;
        double sum = settings->single_step ? after : after + ratio[t];
        size_t n_sum = settings->single_step ? n_after : n_after + 1;
        double reward = settings->length_norm && n_sum > 0 ? sum / (double)n_sum : sum;
        reward -= settings->single_step ? 0 : 1;
        after += ratio[t];
        row_gradient(n_vocab, ids[t], weight[t], settings->single_step, reward, theirs,
                     log_sum(n_vocab, theirs), log_sum(n_vocab, row), row);
    }
    return settings->length_norm && n > 0 ? total / (double)n : total;
}
