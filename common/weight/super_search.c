/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoding a super-block: each sub-block finds its best real scale (and floor) alone; the largest
 * of them fix d and dmin; then integers are chosen for every sub-block against the f16 numbers that
 * will stand in the file, and d and dmin are fitted once more to what came out. The best of these
 * rounds is kept.
 */
#include "common/weight/search_internal.h"
#include "common/weight/super_internal.h"

#include <math.h>
#include <string.h>

enum {
    N = SHOAL_SUPER,
    SUBS = SHOAL_SUPER_SUBS,
    ROUNDS = 3
};

/* One super-block being encoded. Sub-blocks count by their own size here. */
typedef struct work {
    const shoal_super_kind *kind;
    const float *x;
    double w[N];
    double s[SUBS]; /* real scales and floors */
    double m[SUBS];
    int high; /* the largest code */
    size_t n_subs;
} work;

static double half_of(double v, uint16_t *ret_half)
{
    *ret_half = shoal_f32_to_f16((float)v);
    return (double)shoal_f16_to_f32(*ret_half);
}

static double clamp(double v, double low, double high)
{
    return shoal_search_round(v, low, high);
}

/* A choice of integers for a sub-block. */
typedef struct pick {
    double error;
    int sc;
    int mn;
} pick;

/* Takes sc and mn for sub-block i if they are in range and better than what was found. */
static void consider(const work *k, size_t i, double d, double dmin, int sc, int mn, pick *best)
{
    const shoal_super_kind *t = k->kind;
    if (sc < t->sc_low || sc > t->sc_high || mn < 0 || mn > t->sc_high) {
        return;
    }
    size_t n = (size_t)t->sub;
    double error = shoal_search_error(k->x + i * n, k->w + i * n, n, d * sc, dmin * mn, -t->zero,
                                      k->high - t->zero);
    if (error < best->error) {
        *best = (pick){error, sc, mn};
    }
}

/* The best integers near the real scale and floor: the scale first, then the floor. */
static pick choose(const work *k, size_t i, double d, double dmin)
{
    const shoal_super_kind *t = k->kind;
    int sc = d != 0 ? (int)clamp(k->s[i] / d, t->sc_low, t->sc_high) : 0;
    int mn = dmin != 0 ? (int)clamp(k->m[i] / dmin, 0, t->sc_high) : 0;
    pick best = {(double)INFINITY, sc, mn};
    for (int step = 0; step <= 2; step++) {
        consider(k, i, d, dmin, step == 0 ? sc : sc + 2 * step - 3, mn, &best);
    }
    for (int step = -1; t->dmin_at != 0 && step <= 1; step += 2) {
        consider(k, i, d, dmin, best.sc, mn + step, &best);
    }
    return best;
}

/* Codes of the whole super-block for the numbers in s. */
static void fill_codes(const work *k, shoal_super *s)
{
    double d = (double)shoal_f16_to_f32(s->d);
    double dmin = (double)shoal_f16_to_f32(s->dmin);
    int zero = k->kind->zero;
    for (size_t i = 0; i < N; i++) {
        double scale = d * s->sc[i / 16];
        double inv = scale != 0 ? 1 / scale : 0;
        double v = ((double)k->x[i] + dmin * s->mn[i / 16]) * inv;
        s->code[i] = (uint8_t)((int)shoal_search_round(v, -zero, k->high - zero) + zero);
    }
}

/* Integers and codes under a given d and dmin; the super-block's error. */
static double settle(const work *k, double d, double dmin, shoal_super *ret)
{
    double error = 0;
    size_t copies = SUBS / k->n_subs;
    memset(ret, 0, sizeof *ret);
    d = half_of(d, &ret->d);
    dmin = half_of(dmin, &ret->dmin);
    for (size_t i = 0; i < k->n_subs; i++) {
        pick best = choose(k, i, d, dmin);
        error += best.error;
        for (size_t j = 0; j < copies; j++) {
            ret->sc[i * copies + j] = (int8_t)best.sc;
            ret->mn[i * copies + j] = (uint8_t)best.mn;
        }
    }
    fill_codes(k, ret);
    return error;
}

/* Least squares of x ~ d * a - dmin * b over the super-block, a = sc * code, b = mn. */
static void refit(const work *k, const shoal_super *s, double *d, double *dmin)
{
    double aa = 0;
    double ab = 0;
    double bb = 0;
    double ax = 0;
    double bx = 0;
    for (size_t i = 0; i < N; i++) {
        double a = s->sc[i / 16] * ((int)s->code[i] - k->kind->zero);
        double b = s->mn[i / 16];
        aa += k->w[i] * a * a;
        ab += k->w[i] * a * b;
        bb += k->w[i] * b * b;
        ax += k->w[i] * a * (double)k->x[i];
        bx += k->w[i] * b * (double)k->x[i];
    }
    double det = aa * bb - ab * ab;
    if (k->kind->dmin_at != 0 && det > 0) {
        *d = (ax * bb - bx * ab) / det;
        *dmin = (ax * ab - bx * aa) / det;
    } else if (aa > 0) {
        *d = ax / aa;
    }
}

/* The d that puts the extreme scale on the end of its range. */
static double first_d(const work *k)
{
    double extreme = 0;
    for (size_t i = 0; i < k->n_subs; i++) {
        extreme = fabs(k->s[i]) > fabs(extreme) ? k->s[i] : extreme;
    }
    int end = k->kind->sc_low < 0 ? k->kind->sc_low : k->kind->sc_high;
    return extreme / end;
}

static double first_dmin(const work *k)
{
    double most = 0;
    for (size_t i = 0; i < k->n_subs; i++) {
        most = k->m[i] > most ? k->m[i] : most;
    }
    return most / k->kind->sc_high;
}

static void search_subs(work *k)
{
    size_t n = (size_t)k->kind->sub;
    for (size_t i = 0; i < k->n_subs; i++) {
        const float *x = k->x + i * n;
        shoal_search_weights(x, n, k->w + i * n);
        if (k->kind->dmin_at != 0) {
            shoal_search_affine(x, k->w + i * n, n, k->high, &k->s[i], &k->m[i]);
        } else {
            int zero = k->kind->zero;
            k->s[i] = shoal_search_scale(x, k->w + i * n, n, -zero, k->high - zero);
        }
    }
}

void shoal_super_search(const shoal_super_kind *kind, const float *x, shoal_super *ret)
{
    work k = {
        .kind = kind, .x = x, .high = (1 << kind->bits) - 1, .n_subs = (size_t)(N / kind->sub)};
    search_subs(&k);
    double d = first_d(&k);
    double dmin = first_dmin(&k);
    double best = settle(&k, d, dmin, ret);
    for (int round = 0; best > 0 && round < ROUNDS; round++) {
        shoal_super s;
        refit(&k, ret, &d, &dmin);
        if (dmin < 0) {
            break;
        }
        double error = settle(&k, d, dmin, &s);
        if (!(error < best)) {
            break;
        }
        bool little = error > 0.99 * best;
        best = error;
        *ret = s;
        if (little) {
            break;
        }
    }
}
