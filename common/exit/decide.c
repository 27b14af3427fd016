/* SPDX-License-Identifier: Apache-2.0 */
#include "common/exit/exit.h"

#include "common/kernels/math.h"

#include <math.h>
#include <string.h>

enum {
    LEFT = 1 << 15,
    LOW_BUCKETS = 128,  /* for top below one half, of equal width */
    PER_OCTAVE_LOG = 4, /* above it, 16 for each halving of 1 - top, 24 times */
    MANTISSA_BITS = 23,
    EXPONENT_HALF = 126 /* biased exponent of numbers in [0.5, 1) */
};

float shoal_exit_score(const shoal_exit_policy *p, const shoal_exit_features *f)
{
    if (!f->sound) {
        return (float)NAN;
    }
    switch (p->kind) {
    case SHOAL_EXIT_MARGIN:
        return f->gap;
    case SHOAL_EXIT_ENTROPY:
        return -f->entropy;
    case SHOAL_EXIT_LINEAR: {
        float x = p->bias + p->w_top * f->top + p->w_gap * f->gap + p->w_depth * f->depth;
        return 1.0F / (1.0F + shoal_expf(-x));
    }
    case SHOAL_EXIT_FIXED:
    case SHOAL_EXIT_PERCENTILE:
    case SHOAL_EXIT_RISK:
    case SHOAL_EXIT_KINDS:
        break;
    }
    return f->top;
}

/* Ascending with top, finest where confident rows crowd, without a logarithm. */
static uint16_t bucket_of(const shoal_exit_features *f)
{
    if (!f->sound || !(f->top > 0)) {
        return 0;
    }
    if (f->top < 0.5F) {
        return (uint16_t)(f->top * (2 * LOW_BUCKETS));
    }
    float rest = 1.0F - f->top;
    uint32_t bits = 0;
    memcpy(&bits, &rest, sizeof bits);
    uint32_t half = (EXPONENT_HALF << PER_OCTAVE_LOG);
    uint32_t step = bits >> (MANTISSA_BITS - PER_OCTAVE_LOG);
    uint32_t above = half >= step ? half - step : 0; /* halvings of 1 - top, in 16ths */
    uint32_t most = SHOAL_EXIT_BUCKETS - LOW_BUCKETS - 1;
    return (uint16_t)(LOW_BUCKETS + SHOAL_MIN(above, most));
}

/* The upper `rate` of the window. Rows of the bucket where that share ends leave by turns, so many
 * that the share of the window that left comes back to the rate. */
static bool in_upper(const shoal_exit_policy *p, const shoal_exit_state *s, uint16_t bucket)
{
    float wanted = p->rate * (float)(s->n + 1); /* the row itself is one of them */
    float above = 0;
    for (uint32_t b = bucket + 1U; b < SHOAL_EXIT_BUCKETS; b++) {
        above += (float)s->counts[b];
    }
    /* What left too often of late is taken off, so that a drift does not carry the share along. */
    wanted += p->rate * (float)s->n - (float)s->n_left;
    if (above + (float)s->counts[bucket] + 1 <= wanted) {
        return true;
    }
    return above < wanted && (float)s->n_left < p->rate * (float)(s->n + 1);
}

static void remember(const shoal_exit_policy *p, shoal_exit_state *s, uint16_t bucket, bool left)
{
    if (s->n == p->window) {
        uint16_t old = s->rows[s->at];
        s->counts[old & (LEFT - 1)]--;
        s->n_left -= (old & LEFT) ? 1 : 0;
        s->n--;
    }
    s->rows[s->at] = (uint16_t)(bucket | (left ? LEFT : 0));
    s->at = (s->at + 1) % p->window;
    s->counts[bucket]++;
    s->n_left += left ? 1 : 0;
    s->n++;
}

static bool decide_percentile(const shoal_exit_policy *p, shoal_exit_state *s,
                              const shoal_exit_features *f)
{
    SHOAL_ASSERT(s != NULL && p->window >= SHOAL_EXIT_WINDOW_MIN &&
                 p->window <= SHOAL_EXIT_WINDOW_MAX);
    uint16_t bucket = bucket_of(f);
    bool started = s->n >= SHOAL_EXIT_WINDOW_MIN;
    bool leaves = f->sound && (started ? in_upper(p, s, bucket) : f->top >= p->threshold);
    remember(p, s, bucket, leaves);
    return leaves;
}

bool shoal_exit_decide(const shoal_exit_policy *p, shoal_exit_state *state,
                       const shoal_exit_features *f)
{
    if (p->kind == SHOAL_EXIT_PERCENTILE) {
        return decide_percentile(p, state, f);
    }
    float threshold = p->kind == SHOAL_EXIT_ENTROPY ? -p->threshold : p->threshold;
    return shoal_exit_score(p, f) >= threshold; /* false for NaN */
}

float shoal_exit_threshold_of(const shoal_exit_risks *risks, const shoal_exit_policy *policy,
                              float risk)
{
    float threshold = policy->threshold;
    for (size_t i = 0; i < risks->n && risks->risk[i] <= risk; i++) {
        threshold = risks->threshold[i];
    }
    return threshold;
}
