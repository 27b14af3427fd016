/* SPDX-License-Identifier: Apache-2.0
 *
 * The list of passes, what each asks of a form, and the search for the best form of so many bytes.
 */
#include "common/compress/compress_internal.h"

#include <math.h>
#include <string.h>

enum {
    BITS_MIN = 2,
    BITS_MAX = 8
};

typedef enum needs {
    NEEDS_LEVELS, /* 3 or 4 bits, nothing dropped, no rank */
    NEEDS_ALL,    /* quantised, nothing dropped, no rank */
    NEEDS_MASK,   /* something dropped, no rank */
    NEEDS_FOURS,  /* 2:4, no rank */
    NEEDS_RANK,   /* no values */
    NEEDS_VALUES, /* values, and perhaps rank */
} needs;

static const struct {
    const char *name;
    shoal_pass_fn *run;
    needs needs;
} passes[SHOAL_PASSES] = {
    [SHOAL_PASS_RTN] = {"rtn", shoal_pass_rtn, NEEDS_ALL},
    [SHOAL_PASS_AWQ] = {"awq", shoal_pass_awq, NEEDS_ALL},
    [SHOAL_PASS_SMOOTH] = {"smoothquant", shoal_pass_smooth, NEEDS_ALL},
    [SHOAL_PASS_CLIP] = {"clip", shoal_pass_clip, NEEDS_ALL},
    [SHOAL_PASS_CODEBOOK] = {"codebook", shoal_pass_codebook, NEEDS_LEVELS},
    [SHOAL_PASS_GPTQ] = {"gptq", shoal_pass_gptq, NEEDS_ALL},
    [SHOAL_PASS_REFINED] = {"refined", shoal_pass_refined, NEEDS_ALL},
    [SHOAL_PASS_MAGNITUDE] = {"magnitude", shoal_pass_magnitude, NEEDS_MASK},
    [SHOAL_PASS_WANDA] = {"wanda", shoal_pass_wanda, NEEDS_MASK},
    [SHOAL_PASS_SPARSEGPT] = {"sparsegpt", shoal_pass_sparsegpt, NEEDS_MASK},
    [SHOAL_PASS_SVD] = {"svd", shoal_pass_svd, NEEDS_RANK},
    [SHOAL_PASS_WHITENED_SVD] = {"whitened-svd", shoal_pass_whitened_svd, NEEDS_RANK},
    [SHOAL_PASS_TWO_FOUR] = {"2:4", shoal_pass_two_four, NEEDS_FOURS},
    [SHOAL_PASS_WRP] = {"2:4+wrp", shoal_pass_wrp, NEEDS_FOURS},
    [SHOAL_PASS_JOINT] = {"joint", shoal_pass_joint, NEEDS_VALUES},
};

const char *shoal_pass_name(shoal_pass pass)
{
    SHOAL_ASSERT((size_t)pass < SHOAL_PASSES);
    return passes[pass].name;
}

/* --- one form -------------------------------------------------------------------------------- */

static bool suits(needs need, const shoal_form *f)
{
    bool quantised = f->bits >= BITS_MIN && f->bits <= BITS_MAX;
    bool values = quantised || f->bits == SHOAL_COMPRESS_BITS_F16;
    switch (need) {
    case NEEDS_LEVELS:
        return (f->bits == 3 || f->bits == 4) && f->mask == SHOAL_MASK_ALL && f->rank == 0;
    case NEEDS_ALL:
        return quantised && f->mask == SHOAL_MASK_ALL && f->rank == 0;
    case NEEDS_MASK:
        return values && f->mask != SHOAL_MASK_ALL && f->rank == 0;
    case NEEDS_FOURS:
        return values && f->mask == SHOAL_MASK_TWO_FOUR && f->rank == 0;
    case NEEDS_RANK:
        return f->bits == 0 && f->rank > 0;
    case NEEDS_VALUES:
        return values;
    }
    return false;
}

static shoal_status check(const shoal_problem *p, shoal_pass pass, const shoal_form *f,
                          shoal_err *err)
{
    bool group = f->bits == 0 || f->bits == SHOAL_COMPRESS_BITS_F16 || f->group == 16 ||
                 f->group == 32 || f->group == 64 || f->group == SHOAL_COMPRESS_GROUP_MAX;
    if (!suits(passes[pass].needs, f) || !group) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s does not make values of %zu bits in groups of %zu, mask %d, rank "
                             "%zu",
                             passes[pass].name, f->bits, f->group, (int)f->mask, f->rank);
    }
    if (!(f->density >= 0 && f->density <= 1) || !(f->recover >= 0 && f->recover <= 0.5) ||
        f->rank > SHOAL_MIN(p->n_rows, p->n_cols)) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "density %g must be in [0, 1], what comes back %g in [0, 0.5], rank "
                             "%zu at most %zu",
                             f->density, f->recover, f->rank, SHOAL_MIN(p->n_rows, p->n_cols));
    }
    return SHOAL_OK;
}

shoal_status shoal_compress(const shoal_problem *p, shoal_pass pass, const shoal_form *form,
                            shoal_compressed **ret_compressed, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    SHOAL_ASSERT((size_t)pass < SHOAL_PASSES);
    SHOAL_TRY(check(p, pass, form, err));
    shoal_status status = shoal_compressed_new(p->n_rows, p->n_cols, form, &c);
    status = status == SHOAL_OK ? passes[pass].run(p, c) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s of a layer of %zu x %zu: %s", passes[pass].name,
                             p->n_rows, p->n_cols, shoal_status_text(status));
    }
    *ret_compressed = SHOAL_STEAL(c);
    return SHOAL_OK;
}

/* --- so many bytes --------------------------------------------------------------------------- */

typedef struct search {
    const shoal_problem *p;
    shoal_pass pass;
    uint64_t bytes;
    shoal_compressed *best;
    double best_error;
    shoal_err *err;
} search;

static uint64_t bytes_of(const search *s, const shoal_form *form)
{
    return shoal_form_bytes(s->p->n_rows, s->p->n_cols, form);
}

/* The largest rank that fits beside the values, 0 where none does. */
static size_t rank_within(const search *s, const shoal_form *form)
{
    shoal_form f = *form;
    size_t most = SHOAL_MIN(s->p->n_rows, s->p->n_cols);
    f.rank = 0;
    uint64_t values = bytes_of(s, &f);
    f.rank = 1;
    uint64_t each = bytes_of(s, &f) - values;
    return values > s->bytes ? 0 : (size_t)SHOAL_MIN((s->bytes - values) / each, (uint64_t)most);
}

static shoal_status try_form(search *s, const shoal_form *form)
{
    SHOAL_CLEANUP(shoal_compressed_freep) shoal_compressed *c = NULL;
    double error = 0;
    if (bytes_of(s, form) > s->bytes) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_compress(s->p, s->pass, form, &c, s->err));
    /* What is chosen on the way can be a few elements more than the form says. */
    if (shoal_compressed_bytes(c) > s->bytes) {
        return SHOAL_OK;
    }
    if (shoal_compressed_error(s->p, c, &error) != SHOAL_OK) {
        return shoal_err_set(s->err, SHOAL_E_NOMEM, "no memory to judge a layer");
    }
    if (!s->best || error < s->best_error) {
        shoal_compressed_free(s->best);
        s->best = SHOAL_STEAL(c);
        s->best_error = error;
    }
    return SHOAL_OK;
}

static shoal_status try_sparse(search *s)
{
    double n = (double)s->p->n_rows * (double)s->p->n_cols;
    shoal_form f = {.bits = SHOAL_COMPRESS_BITS_F16, .mask = SHOAL_MASK_BITMAP};
    uint64_t mask = bytes_of(s, &f);
    /* Each block of the walk rounds its own count up by one half at most. */
    double left = (double)s->bytes - (double)mask - 2.0 * (double)(s->p->n_cols / 128 + 1);
    f.density = fmin(left / 2 / n, 1);
    return f.density >= 0 ? try_form(s, &f) : SHOAL_OK;
}

/* Quantised values of one kind, with as much rank as fits beside them where the pass has it. */
static shoal_status try_values(search *s, const shoal_form *form)
{
    shoal_form f = *form;
    f.rank = s->pass == SHOAL_PASS_JOINT ? rank_within(s, &f) : 0;
    return try_form(s, &f);
}

/* The most bits of a kind that fit, 0 where none do. */
static size_t bits_within(const search *s, const shoal_form *form)
{
    shoal_form f = *form;
    for (f.bits = BITS_MAX; f.bits >= BITS_MIN; f.bits--) {
        if (bytes_of(s, &f) <= s->bytes) {
            return f.bits;
        }
    }
    return 0;
}

/* The most bits that fit, and one less with the more rank for it. */
static shoal_status try_kind(search *s, const shoal_form *form, bool fewer)
{
    shoal_form f = *form;
    f.bits = bits_within(s, form);
    if (f.bits == 0) {
        return SHOAL_OK;
    }
    SHOAL_TRY(try_values(s, &f));
    f.bits--;
    return fewer && f.bits >= BITS_MIN ? try_values(s, &f) : SHOAL_OK;
}

static shoal_status try_quantised(search *s)
{
    static const size_t groups[] = {32, 64, 128};
    static const double densities[] = {0.5, 0.7};
    bool wide = s->pass == SHOAL_PASS_JOINT && !shoal_problem_is_large(s->p);
    bool any = s->p->n_cols % groups[0] != 0; /* then no group divides a row */
    for (size_t g = 0; g < SHOAL_COUNT(groups); g++) {
        const shoal_form dense = {.group = groups[g]};
        if (any || s->p->n_cols % groups[g] == 0) {
            SHOAL_TRY(try_kind(s, &dense, wide && groups[g] == 64));
        }
    }
    for (size_t d = 0; wide && d < SHOAL_COUNT(densities); d++) {
        const shoal_form sparse = {.group = 64, .mask = SHOAL_MASK_BITMAP, .density = densities[d]};
        SHOAL_TRY(try_kind(s, &sparse, false));
    }
    const shoal_form fours = {.group = 64, .mask = SHOAL_MASK_TWO_FOUR};
    return wide ? try_kind(s, &fours, false) : SHOAL_OK;
}

static bool is_quantised(shoal_pass pass)
{
    return pass == SHOAL_PASS_GPTQ || pass == SHOAL_PASS_REFINED || pass == SHOAL_PASS_JOINT;
}

static shoal_status run_search(search *s)
{
    if (is_quantised(s->pass)) {
        return try_quantised(s);
    }
    if (s->pass == SHOAL_PASS_SPARSEGPT) {
        return try_sparse(s);
    }
    shoal_form f = {.bits = 0};
    f.rank = rank_within(s, &f);
    return f.rank > 0 ? try_form(s, &f) : SHOAL_OK;
}

shoal_status shoal_compress_within(const shoal_problem *p, shoal_pass pass, uint64_t bytes,
                                   shoal_compressed **ret_compressed, shoal_err *err)
{
    search s = {.p = p, .pass = pass, .bytes = bytes, .err = err};
    SHOAL_ASSERT(is_quantised(pass) || pass == SHOAL_PASS_SPARSEGPT ||
                 passes[pass].needs == NEEDS_RANK);
    shoal_status status = run_search(&s);
    if (status != SHOAL_OK) {
        shoal_compressed_free(s.best);
        return status;
    }
    if (!s.best) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s has no form of %llu bytes for %zu x %zu",
                             passes[pass].name, (unsigned long long)bytes, p->n_rows, p->n_cols);
    }
    *ret_compressed = s.best;
    return SHOAL_OK;
}
