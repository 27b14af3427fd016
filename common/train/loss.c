/* SPDX-License-Identifier: Apache-2.0
 *
 * A row is read twice: once for the sums behind its value, once to become its gradient. The
 * exponentials are computed both times, which is cheaper than a place to keep them. Sums run in 16
 * lanes that are added by a fixed tree, so that the row's bits do not depend on the width of the
 * registers; the same lines are compiled once for every tier of the processor.
 */
#include "common/train/loss.h"

#include "common/kernels/math.h"

#include <string.h>

enum {
    LANES = 16
};

#define LOSS_INLINE static inline __attribute__((always_inline))

/* Sixteen lanes in whatever registers the tier has. They go by address between functions: by value
 * their passing would differ between tiers. */
typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(LANES * sizeof(int32_t))));

/* What a row needs of its two distributions. */
typedef struct row {
    size_t n;
    const float *teacher;
    float *logits;
    float inv_t;
    float max;        /* of logits */
    float max_t;      /* of the teacher's */
    double sum_plain; /* of exp(logit - max) */
    double sum;       /* of exp((logit - max) / t) */
    double sum_t;     /* of the teacher's */
    double ratio;     /* log ratios of unnormalised weights, weighed by one side's exponentials */
    /* Coefficients of the gradient. */
    float c_plain; /* of exp(logit - max) */
    float c_own;   /* of the student's exponential at t */
    float c_teach; /* of the teacher's */
    float shift;   /* of the log ratio, reverse */
} row;

/* Which losses a row has; constant where rows are read, so that no lane asks. */
enum {
    HAS_CE = 1,  /* cross-entropy: the sum at temperature one */
    HAS_KD = 2,  /* a teacher */
    REVERSE = 4, /* the student weighs the log ratios */
    KINDS = 8
};

LOSS_INLINE void load(const float *x, vec *to)
{
    memcpy(to, x, sizeof *to);
}

/* Lanes n and up repeat lane 0, which a maximum does not notice. */
LOSS_INLINE void load_some(const float *x, size_t n, vec *to)
{
    float lanes[LANES];
    for (size_t j = 0; j < LANES; j++) {
        lanes[j] = x[j < n ? j : 0];
    }
    memcpy(to, lanes, sizeof lanes);
}

LOSS_INLINE void choose(const ivec *mask, const vec *yes, const vec *no, vec *to)
{
    ivec a;
    ivec b;
    memcpy(&a, yes, sizeof a);
    memcpy(&b, no, sizeof b);
    a = (a & *mask) | (b & ~*mask);
    memcpy(to, &a, sizeof a);
}

/* e^x for x at most 0: as shoal_expf, but for products that are rounded before they are added, and
 * for a floor in place of zero, which no sum notices. NaN stays NaN. */
LOSS_INLINE void exp_lanes(const vec *of, vec *to)
{
    vec least = (vec){0} - 87.0F;
    vec x = *of;
    ivec low = x < least;
    choose(&low, &least, of, &x);
    vec shifted = x * 0x1.715476p+0F + 0x1.8p+23F;
    vec n = shifted - 0x1.8p+23F;
    vec r = x - n * 0x1.62e400p-1F;
    r = r - n * 0x1.7f7d1cp-20F;
    vec p = r * 0x1.6850e4p-10F + 0x1.123bccp-7F;
    p = p * r + 0x1.555b98p-5F;
    p = p * r + 0x1.55548ep-3F;
    p = p * r + 0x1.fffff8p-2F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    ivec bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - (0x4B400000 - 127)) << 23;
    vec scale;
    memcpy(&scale, &bits, sizeof scale);
    *to = p * scale;
}

LOSS_INLINE double add_lanes(const vec *of)
{
    float lanes[LANES];
    double sums[LANES];
    memcpy(lanes, of, sizeof lanes);
    for (size_t j = 0; j < LANES; j++) {
        sums[j] = (double)lanes[j];
    }
    for (size_t half = LANES / 2; half > 0; half /= 2) {
        for (size_t j = 0; j < half; j++) {
            sums[j] += sums[j + half];
        }
    }
    return sums[0];
}

LOSS_INLINE float row_max(size_t n, const float *x)
{
    vec max;
    vec next;
    load_some(x, SHOAL_MIN(n, (size_t)LANES), &max);
    size_t i = LANES;
    for (; i + LANES <= n; i += LANES) {
        load(x + i, &next);
        ivec more = next > max;
        choose(&more, &next, &max, &max);
    }
    if (i < n) {
        load_some(x + i, n - i, &next);
        ivec more = next > max;
        choose(&more, &next, &max, &max);
    }
    float lanes[LANES];
    memcpy(lanes, &max, sizeof lanes);
    for (size_t j = 1; j < LANES; j++) {
        lanes[0] = lanes[j] > lanes[0] ? lanes[j] : lanes[0];
    }
    return lanes[0];
}

typedef struct sums {
    vec plain;
    vec own;
    vec teach;
    vec ratio;
} sums;

/* Sixteen elements more; mask clears those beyond the row. */
LOSS_INLINE void add_block(const row *r, int kind, const vec *x, const vec *theirs,
                           const ivec *mask, sums *to)
{
    const vec zero = {0};
    vec d = *x - r->max;
    vec e;
    if (kind & HAS_CE) {
        exp_lanes(&d, &e);
        choose(mask, &e, &zero, &e);
        to->plain += e;
    }
    if (kind & HAS_KD) {
        vec own = d * r->inv_t;
        vec other = (*theirs - r->max_t) * r->inv_t;
        vec e_other;
        exp_lanes(&own, &e);
        exp_lanes(&other, &e_other);
        choose(mask, &e, &zero, &e);
        choose(mask, &e_other, &zero, &e_other);
        to->own += e;
        to->teach += e_other;
        to->ratio += kind & REVERSE ? e * (own - other) : e_other * (other - own);
    }
}

LOSS_INLINE void row_sums(row *r, int kind)
{
    const row k = *r; /* nothing that is written can be part of it */
    const ivec all = (ivec){0} - 1;
    sums to = {{0}, {0}, {0}, {0}};
    vec x = {0};
    vec theirs = {0};
    size_t i = 0;
    for (; i + LANES <= k.n; i += LANES) {
        load(k.logits + i, &x);
        if (kind & HAS_KD) {
            load(k.teacher + i, &theirs);
        }
        add_block(&k, kind, &x, &theirs, &all, &to);
    }
    if (i < k.n) {
        int32_t mask[LANES];
        for (size_t j = 0; j < LANES; j++) {
            mask[j] = i + j < k.n ? -1 : 0;
        }
        ivec some;
        memcpy(&some, mask, sizeof some);
        load_some(k.logits + i, k.n - i, &x);
        if (kind & HAS_KD) {
            load_some(k.teacher + i, k.n - i, &theirs);
        }
        add_block(&k, kind, &x, &theirs, &some, &to);
    }
    r->sum_plain = add_lanes(&to.plain);
    r->sum = add_lanes(&to.own);
    r->sum_t = add_lanes(&to.teach);
    r->ratio = add_lanes(&to.ratio);
}

LOSS_INLINE void block_gradient(const row *r, int kind, const vec *x, const vec *theirs, vec *to)
{
    vec d = *x - r->max;
    vec g = {0};
    vec e;
    if (kind & HAS_CE) {
        exp_lanes(&d, &e);
        g = e * r->c_plain;
    }
    if (kind & HAS_KD) {
        vec own = d * r->inv_t;
        vec other = (*theirs - r->max_t) * r->inv_t;
        exp_lanes(&own, &e);
        if (kind & REVERSE) {
            g += e * r->c_own * (own - other + r->shift);
        } else {
            g += e * r->c_own;
            exp_lanes(&other, &e);
            g -= e * r->c_teach;
        }
    }
    *to = g;
}

LOSS_INLINE void row_gradient(const row *r, int kind)
{
    const row k = *r;
    vec x = {0};
    vec theirs = {0};
    vec g;
    size_t i = 0;
    for (; i + LANES <= k.n; i += LANES) {
        load(k.logits + i, &x);
        if (kind & HAS_KD) {
            load(k.teacher + i, &theirs);
        }
        block_gradient(&k, kind, &x, &theirs, &g);
        memcpy(k.logits + i, &g, sizeof g);
    }
    if (i < k.n) {
        load_some(k.logits + i, k.n - i, &x);
        if (kind & HAS_KD) {
            load_some(k.teacher + i, k.n - i, &theirs);
        }
        block_gradient(&k, kind, &x, &theirs, &g);
        memcpy(k.logits + i, &g, (k.n - i) * sizeof(float));
    }
}

/* --- tiers ----------------------------------------------------------------------------------- */

/* The two passes of one kind in the instructions of one tier. */
#define LOSS_KIND(name, attributes, kind)                                                          \
    attributes static void name##_sums_##kind(row *r)                                              \
    {                                                                                              \
        r->max = row_max(r->n, r->logits);                                                         \
        r->max_t = (kind)&HAS_KD ? row_max(r->n, r->teacher) : 0;                                  \
        row_sums(r, kind);                                                                         \
    }                                                                                              \
    attributes static void name##_gradient_##kind(const row *r)                                    \
    {                                                                                              \
        row_gradient(r, kind);                                                                     \
    }

typedef struct passes {
    void (*sums)(row *r);
    void (*gradient)(const row *r);
} passes;

/* 1: cross-entropy; 2 and 6: forward and reverse distillation; 3 and 7: with cross-entropy. */
#define LOSS_TIER(name, attributes)                                                                \
    LOSS_KIND(name, attributes, 1)                                                                 \
    LOSS_KIND(name, attributes, 2)                                                                 \
    LOSS_KIND(name, attributes, 3)                                                                 \
    LOSS_KIND(name, attributes, 6)                                                                 \
    LOSS_KIND(name, attributes, 7)                                                                 \
    static const passes name##_passes[KINDS] = {                                                   \
        [1] = {name##_sums_1, name##_gradient_1}, [2] = {name##_sums_2, name##_gradient_2},        \
        [3] = {name##_sums_3, name##_gradient_3}, [6] = {name##_sums_6, name##_gradient_6},        \
        [7] = {name##_sums_7, name##_gradient_7},                                                  \
    };

LOSS_TIER(plain, )
#if defined(__x86_64__)
LOSS_TIER(avx2, __attribute__((target("avx2"))))
LOSS_TIER(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

static passes choose_passes(int kind)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return avx512_passes[kind];
    }
    if (__builtin_cpu_supports("avx2")) {
        return avx2_passes[kind];
    }
#endif
    return plain_passes[kind];
}

/* --- losses ---------------------------------------------------------------------------------- */

/* The value of a row whose sums are there; leaves the coefficients of its gradient. Shares are of
 * cross-entropy and of distillation, the row's weight in both. */
static double finish_row(row *r, int kind, float t, int32_t target, double share_ce,
                         double share_kd)
{
    double loss = 0;
    if (kind & HAS_CE) {
        loss +=
            share_ce * (shoal_logd(r->sum_plain) - ((double)r->logits[target] - (double)r->max));
        r->c_plain = (float)(share_ce / r->sum_plain);
    }
    if (kind & HAS_KD) {
        double logs = shoal_logd(r->sum) - shoal_logd(r->sum_t);
        double kl = kind & REVERSE ? r->ratio / r->sum - logs : r->ratio / r->sum_t + logs;
        loss += share_kd * (double)t * (double)t * kl;
        /* d KL / d logit = (p - q) / t, or p (log p/q - KL) / t; times t squared. */
        r->c_own = (float)(share_kd * (double)t / r->sum);
        r->c_teach = (float)(share_kd * (double)t / r->sum_t);
        r->shift = (float)(-logs - kl);
    }
    return loss;
}

double shoal_loss_distil(size_t n, size_t n_vocab, const shoal_distil *distil,
                         const int32_t *targets, const float *teacher, const float *weights,
                         float *logits)
{
    bool has_ce = distil->alpha > 0;
    bool has_kd = distil->alpha < 1;
    SHOAL_ASSERT(n_vocab > 0 && distil->temperature > 0);
    SHOAL_ASSERT((!has_kd || teacher) && (!has_ce || targets));
    int kind =
        (has_ce ? HAS_CE : 0) | (has_kd ? HAS_KD : 0) | (has_kd && distil->reverse ? REVERSE : 0);
    const passes run = choose_passes(kind);
    double loss = 0;
    for (size_t i = 0; i < n; i++) {
        float *x = logits + i * n_vocab;
        if (weights[i] == 0) {
            memset(x, 0, n_vocab * sizeof *x);
            continue;
        }
        row r = {.n = n_vocab,
                 .teacher = has_kd ? teacher + i * n_vocab : NULL,
                 .logits = x,
                 .inv_t = 1.0F / distil->temperature};
        int32_t target = has_ce ? targets[i] : 0;
        SHOAL_ASSERT(target >= 0 && (size_t)target < n_vocab);
        double share_ce = (double)distil->alpha * (double)weights[i];
        double share_kd = (1.0 - (double)distil->alpha) * (double)weights[i];
        run.sums(&r);
        loss += finish_row(&r, kind, distil->temperature, target, share_ce, share_kd);
        run.gradient(&r);
        if (has_ce) {
            x[target] -= (float)share_ce;
        }
    }
    return loss;
}

double shoal_loss_cross_entropy(size_t n, size_t n_vocab, const int32_t *targets,
                                const float *weights, float *logits)
{
    const shoal_distil distil = {.alpha = 1, .temperature = 1};
    return shoal_loss_distil(n, n_vocab, &distil, targets, NULL, weights, logits);
}

double shoal_loss_reverse_kl(size_t n, size_t n_vocab, const float *teacher, float t,
                             const float *weights, float *logits)
{
    const shoal_distil distil = {.temperature = t, .reverse = true};
    return shoal_loss_distil(n, n_vocab, &distil, NULL, teacher, weights, logits);
}
