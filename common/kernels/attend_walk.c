/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk of attention through the blocks, in plain C. Up to 48 lines go together, so what a block
 * costs to load and widen is shared by the group of heads and by the rows of a prompt. Read
 * walk_part first.
 */
#include "common/kernels/attend_walk.h"

#include "common/base/macros.h"
#include "common/kernels/attend_share.h"

#include <math.h>
#include <string.h>

enum {
    TOKENS = SHOAL_KV_BLOCK,
    LINES = 48 /* lines that walk through the blocks together */
};

/* Rows and heads that walk together. */
typedef struct part {
    size_t row, n_rows;
    size_t head, n_heads;
} part;

typedef void add_fn(const shoal_attend_span *span, shoal_attend_line *lines, size_t n);

/* Lines that see different tokens of a block share those they all see, and go on alone; where they
 * do not even begin together, each goes alone. */
static void add_some(shoal_attend_span span, shoal_attend_line *lines, size_t n, add_fn *add)
{
    span.t0 = lines[0].t0;
    span.t1 = lines[0].t1;
    bool together = true;
    for (size_t l = 1; l < n; l++) {
        together = together && lines[l].t0 == span.t0;
        span.t1 = lines[l].t1 < span.t1 ? lines[l].t1 : span.t1;
    }
    if (together) {
        add(&span, lines, n);
        span.correct = false;
        span.t0 = span.t1;
    }
    for (size_t l = 0; l < n; l++) {
        span.t0 = together ? span.t0 : lines[l].t0;
        span.t1 = lines[l].t1;
        if (span.t0 < span.t1) {
            add(&span, &lines[l], 1);
        }
    }
}

/* Tiles of nearly equal size. */
static void attend_block(const shoal_attend_step *s, shoal_attend_line *lines, size_t n,
                         const shoal_attend_form *form)
{
    size_t n_tiles = (n + form->tile - 1) / form->tile;
    add_fn *add = s->sealed ? form->add_sealed : form->add;
    size_t head = s->sealed ? shoal_kv_head_bytes(TOKENS) : form->scales;
    shoal_attend_span span = {.v = s->v + head,
                              .next = s->next_v + (s->sealed ? head : 0),
                              .level = s->a->v_level,
                              .v_dim = s->a->v_dim,
                              .t1 = TOKENS,
                              .correct = true};
    for (size_t i = 0; i < n_tiles; i++) {
        size_t at = n * i / n_tiles;
        size_t n_l = n * (i + 1) / n_tiles - at;
        (s->sealed ? form->weigh_sealed : form->weigh)(s, lines + at, n_l);
        if (s->all) {
            add(&span, lines + at, n_l);
        } else {
            add_some(span, lines + at, n_l, add);
        }
    }
}

static size_t first_of(const shoal_attend *a, size_t row)
{
    size_t end = a->n_tokens + row;
    return a->window > 0 && end > a->window ? end - a->window : 0;
}

static void begin_lines(const shoal_attend *a, const part *p, shoal_attend_line *lines)
{
    for (size_t i = 0; i < p->n_rows * p->n_heads; i++) {
        size_t row = p->row + i / p->n_heads;
        size_t head = p->head + i % p->n_heads;
        lines[i].q = a->q + row * a->q_stride + head * a->k_dim;
        lines[i].out = a->out + row * a->out_stride + head * a->v_dim;
        lines[i].max = -INFINITY;
        lines[i].sum = 0;
        lines[i].begun = false;
        memset(lines[i].out, 0, a->v_dim * sizeof(float));
    }
}

/* The lines that see something of the block; rows see ever later tokens, so they are neighbours. */
static size_t lines_of_block(const shoal_attend *a, const part *p, size_t block,
                             shoal_attend_line *lines, size_t *ret_n)
{
    size_t at = block * TOKENS;
    size_t from = p->n_rows;
    size_t to = 0;
    for (size_t r = 0; r < p->n_rows; r++) {
        size_t first = first_of(a, p->row + r);
        size_t end = a->n_tokens + p->row + r;
        if (end <= at || first >= at + TOKENS) {
            continue;
        }
        from = r < from ? r : from;
        to = r + 1;
        for (size_t i = r * p->n_heads; i < (r + 1) * p->n_heads; i++) {
            lines[i].t0 = (uint8_t)(first > at ? first - at : 0);
            lines[i].t1 = (uint8_t)(end - at < TOKENS ? end - at : TOKENS);
        }
    }
    *ret_n = (to - from) * p->n_heads;
    return from * p->n_heads;
}

/* The next lines of what comes behind attention. */
static void fetch_ahead(const shoal_attend *a, size_t *inout_done)
{
    size_t end = SHOAL_MIN(a->ahead_bytes, *inout_done + SHOAL_ATTEND_AHEAD);
    for (; *inout_done < end; *inout_done += SHOAL_ATTEND_CACHE_LINE) {
        __builtin_prefetch((const char *)a->ahead + *inout_done, 0, 2);
    }
}

static void walk_part(const shoal_attend *a, const part *p, const shoal_attend_form *form)
{
    shoal_attend_line lines[LINES];
    size_t n_lines = p->n_rows * p->n_heads;
    begin_lines(a, p, lines);
    size_t end = (a->n_tokens + p->row + p->n_rows - 1 + TOKENS - 1) / TOKENS;
    size_t seen_by_all = first_of(a, p->row + p->n_rows - 1);
    size_t n_ahead = 0;
    for (size_t b = first_of(a, p->row) / TOKENS; b < end; b++) {
        size_t next = b + 1 < end ? b + 1 : b;
        fetch_ahead(a, &n_ahead);
        shoal_attend_step s = {.a = a,
                               .k = a->k_blocks[b],
                               .v = a->v_blocks[b],
                               .next_k = a->k_blocks[next],
                               .next_v = a->v_blocks[next],
                               .sealed =
                                   form->add_sealed && b >= a->sealed_from && b < a->sealed_to};
        s.all = b * TOKENS >= seen_by_all && (b + 1) * TOKENS <= a->n_tokens + p->row;
        size_t n = n_lines;
        size_t from = s.all ? 0 : lines_of_block(a, p, b, lines, &n);
        attend_block(&s, lines + from, n, form);
        size_t at = b * TOKENS;
        size_t n_t = a->n_tokens - at < TOKENS ? a->n_tokens - at : TOKENS;
        for (size_t l = 0; a->shares && l < n_lines; l++) {
            shoal_attend_share(a, p->head + l, at, n_t, lines[l].correction, lines[l].weights);
        }
    }
    for (size_t i = 0; i < n_lines; i++) {
        for (size_t d = 0; d < a->v_dim; d++) {
            lines[i].out[d] = lines[i].out[d] / lines[i].sum;
        }
        if (a->shares) {
            shoal_attend_share_end(a, p->head + i, lines[i].sum);
        }
    }
}

/* Whole rows where their heads fit, else some heads of one row. */
void shoal_attend_walk(const shoal_attend *a, const shoal_attend_form *form)
{
    size_t most_heads = a->n_heads < LINES ? a->n_heads : LINES;
    size_t most_rows = LINES / most_heads;
    part p;
    for (p.row = 0; p.row < a->n_rows; p.row += p.n_rows) {
        size_t left = a->n_rows - p.row;
        p.n_rows = left < most_rows ? left : most_rows;
        for (p.head = 0; p.head < a->n_heads; p.head += p.n_heads) {
            left = a->n_heads - p.head;
            p.n_heads = left < most_heads ? left : most_heads;
            walk_part(a, &p, form);
        }
    }
}
