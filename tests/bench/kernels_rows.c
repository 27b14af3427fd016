/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows, attention, and KV that is sealed and opened again.
 */
#include "tests/bench/kernels.h"

#include <string.h>

enum {
    N_ROW = 4096,     /* elements of a row operation: a hidden state */
    N_VOCAB = 131072, /* elements of a reduction over the vocabulary */
    N_TOKENS = 2048,
    N_BLOCKS = N_TOKENS / SHOAL_KV_BLOCK,
    DIM_MAX = 128
};

/* --- rows ------------------------------------------------------------------------------------- */

typedef struct row_operands {
    const float *x;
    const float *w;
    float *y;
    int8_t *q;
    shoal_act_block *acts;
    uint16_t *blocks; /* K, then V */
} row_operands;

static void run_quantize(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->quantize_q8(N_ROW, o->x, o->q, o->acts);
}

static void run_rmsnorm(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rmsnorm(N_ROW, o->x, o->w, 1e-5F, o->y);
}

/* Cosine and sine of an angle, so that turning again and again keeps the length. */
static void run_rope(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rope(N_ROW / DIM_MAX, DIM_MAX, DIM_MAX, o->w, o->w + DIM_MAX / 2, o->y);
}

static void run_swiglu(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->swiglu(N_ROW, o->x, o->w, o->y);
}

static void run_rope_halves(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->rope_halves(N_ROW / DIM_MAX, DIM_MAX, DIM_MAX, o->w, o->w + DIM_MAX / 2, o->y);
}

static void run_hadamard(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->hadamard(N_ROW / DIM_MAX, DIM_MAX, o->y);
}

static void run_geglu(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->geglu(N_ROW, o->x, o->w, o->y);
}

static void run_add_scaled(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->add_scaled(N_ROW, 0.5F, o->x, o->y);
}

static void run_softcap(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->softcap(N_ROW, 30.0F, o->y);
}

static void run_add(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->add(N_ROW, o->x, o->y);
}

static void run_argmax(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    size_t at = j->kernels->argmax(N_VOCAB, o->x, o->y);
    o->y[1] = (float)at;
}

static void run_sum_exp(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    o->y[0] = j->kernels->sum_exp(N_VOCAB, o->x, 1.0F, 0.8F);
}

static void run_store_f32(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->kv_store_f32(DIM_MAX, DIM_MAX, o->x, o->w, 5, o->y,
                             o->y + DIM_MAX * SHOAL_KV_BLOCK);
}

static void run_store_q8(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    uint8_t *block = (uint8_t *)o->blocks;
    j->kernels->kv_store_q8(DIM_MAX, DIM_MAX, o->x, o->w, 5, block,
                            block + SHOAL_KV_Q8_SCALES + DIM_MAX * SHOAL_KV_BLOCK);
}

static void run_store_f16(void *context)
{
    const bench_job *j = context;
    const row_operands *o = j->operands;
    j->kernels->kv_store_f16(DIM_MAX, DIM_MAX, o->x, o->w, 5, o->blocks,
                             o->blocks + DIM_MAX * SHOAL_KV_BLOCK);
}

void bench_rows(bench *b)
{
    enum {
        N_BLOCK = 2 * DIM_MAX * SHOAL_KV_BLOCK
    };
    float *x = bench_random_row(b, N_VOCAB);
    float *w = bench_random_row(b, N_ROW);
    row_operands o = {
        .x = x,
        .w = w,
        .y = bench_random_row(b, N_BLOCK),
        .q = bench_allocate(N_ROW, 1),
        .acts = bench_allocate(N_ROW / SHOAL_QBLOCK, sizeof(shoal_act_block)),
        .blocks = bench_allocate(N_BLOCK, sizeof(uint16_t)),
    };
    float *turn = bench_random_row(b, DIM_MAX);
    for (size_t i = 0; i < DIM_MAX / 2; i++) {
        turn[i] = 0.6F;
        turn[i + DIM_MAX / 2] = 0.8F;
    }
    row_operands rope = o;
    rope.w = turn;
    size_t store = (size_t)DIM_MAX * 2;
    const bench_work works[] = {
        {"quantize_q8", "4096", N_ROW * 5, N_ROW * 3, run_quantize, &o, o.q, N_ROW},
        {"rmsnorm", "4096", N_ROW * 12, N_ROW * 4, run_rmsnorm, &o, o.y, N_ROW * 4},
        {"rope", "32 heads of 128", N_ROW * 8, N_ROW * 3, run_rope, &rope, o.y, N_ROW * 4},
        {"rope_halves", "32 heads of 128", N_ROW * 8, N_ROW * 3, run_rope_halves, &rope, o.y,
         N_ROW * 4},
        {"hadamard", "32 heads of 128", N_ROW * 8, N_ROW * 8, run_hadamard, &o, o.y, N_ROW * 4},
        {"geglu", "4096", N_ROW * 12, N_ROW * 26, run_geglu, &o, o.y, N_ROW * 4},
        {"add_scaled", "4096", N_ROW * 12, N_ROW * 2, run_add_scaled, &o, o.y, N_ROW * 4},
        {"softcap", "4096", N_ROW * 8, N_ROW * 34, run_softcap, &o, o.y, N_ROW * 4},
        {"swiglu", "4096", N_ROW * 12, N_ROW * 22, run_swiglu, &o, o.y, N_ROW * 4},
        {"add", "4096", N_ROW * 12, N_ROW, run_add, &o, o.y, N_ROW * 4},
        {"argmax", "131072", N_VOCAB * 4, N_VOCAB, run_argmax, &o, o.y, 8},
        {"sum_exp", "131072", N_VOCAB * 4, N_VOCAB * 22, run_sum_exp, &o, o.y, 4},
        {"kv_store_f32", "128", store * 8, 0, run_store_f32, &o, o.y, N_BLOCK * 4},
        {"kv_store_f16", "128", store * 6, 0, run_store_f16, &o, o.blocks, N_BLOCK * 2},
        {"kv_store_q8", "128", store * 5, 0, run_store_q8, &o, o.blocks, N_BLOCK * 2},
    };
    for (size_t i = 0; i < sizeof works / sizeof works[0]; i++) {
        if (bench_wants(b, works[i].slot)) {
            bench_all_tiers(b, &works[i]);
        }
    }
    shoal_free(x);
    shoal_free(w);
    shoal_free(o.y);
    shoal_free(o.q);
    shoal_free(o.acts);
    shoal_free(o.blocks);
    shoal_free(turn);
}

/* --- attention -------------------------------------------------------------------------------- */

/* The blocks of so many KV heads or layers, each of them attended in turn. */
typedef struct attends {
    size_t slot; /* offset of the kernel */
    shoal_attend a;
    size_t n_sets;
    const void **k_blocks; /* [n_sets][N_BLOCKS] */
    const void **v_blocks;
} attends;

typedef void attend_fn(const shoal_attend *a);

static void run_attends(void *context)
{
    const bench_job *j = context;
    const attends *s = j->operands;
    attend_fn *attend = NULL;
    memcpy(&attend, (const char *)j->kernels + s->slot, sizeof attend);
    shoal_attend a = s->a;
    for (size_t i = 0; i < s->n_sets; i++) {
        a.k_blocks = s->k_blocks + i * N_BLOCKS;
        a.v_blocks = s->v_blocks + i * N_BLOCKS;
        attend(&a);
    }
}

/* One stored form. */
typedef struct stored {
    const char *slot;
    size_t element; /* bytes */
    size_t scales;  /* bytes in front of a block */
    size_t store;   /* offsets of the kernels */
    size_t attend;
    bool sealed; /* afterwards, all but the first and the last block */
    shoal_kv_level level;
} stored;

static const stored forms[] = {
    {"attend_f32", 4, 0, offsetof(shoal_kernels, kv_store_f32), offsetof(shoal_kernels, attend_f32),
     false, 0},
    {"attend_f16", 2, 0, offsetof(shoal_kernels, kv_store_f16), offsetof(shoal_kernels, attend_f16),
     false, 0},
    {"attend_q8", 1, SHOAL_KV_Q8_SCALES, offsetof(shoal_kernels, kv_store_q8),
     offsetof(shoal_kernels, attend_q8), false, 0},
    {"attend_sealed_q8", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q8},
    {"attend_sealed_q4", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q4},
    {"attend_sealed_q3", 2, 0, offsetof(shoal_kernels, kv_store_f16),
     offsetof(shoal_kernels, attend_sealed), true, SHOAL_KV_LEVEL_Q3},
};

/* Seals the blocks where they are. Returns the bytes that attention reads. */
static uint64_t seal_blocks(bench *b, const stored *f, size_t dim, size_t block, uint8_t *keys,
                            uint8_t *values)
{
    uint16_t *x = bench_allocate(dim * SHOAL_KV_BLOCK, sizeof *x);
    for (size_t i = 1; i + 1 < N_BLOCKS; i++) {
        memcpy(x, keys + i * block, dim * SHOAL_KV_BLOCK * sizeof *x);
        b->scalar.kv_seal(f->level, dim, SHOAL_KV_BLOCK, x, keys + i * block);
        memcpy(x, values + i * block, dim * SHOAL_KV_BLOCK * sizeof *x);
        b->scalar.kv_seal(f->level, SHOAL_KV_BLOCK, dim, x, values + i * block);
    }
    shoal_free(x);
    size_t sealed = shoal_kv_sealed_bytes(f->level, dim, SHOAL_KV_BLOCK) +
                    shoal_kv_sealed_bytes(f->level, SHOAL_KV_BLOCK, dim);
    return (N_BLOCKS - 2) * (uint64_t)sealed + 4 * (uint64_t)block;
}

typedef void store_fn(size_t k_dim, size_t v_dim, const float *k, const float *v, size_t slot,
                      void *kblock, void *vblock);

/* Fills one set of blocks. Returns the bytes that attention reads of them. */
static uint64_t fill_set(bench *b, const stored *f, size_t head_dim, size_t block, uint8_t *keys,
                         uint8_t *values)
{
    float *row = bench_random_row(b, 2 * head_dim);
    store_fn *store = NULL;
    memcpy(&store, (const char *)&b->scalar + f->store, sizeof store);
    for (size_t t = 0; t < N_TOKENS; t++) {
        size_t at = t / SHOAL_KV_BLOCK * block;
        row[t % head_dim] += 0.125F;
        store(head_dim, head_dim, row, row + head_dim, t % SHOAL_KV_BLOCK, keys + at, values + at);
    }
    shoal_free(row);
    return f->sealed ? seal_blocks(b, f, head_dim, block, keys, values)
                     : 2 * N_BLOCKS * (uint64_t)block;
}

/* Copies of one set of blocks, each block right behind the one before, as pools have
 * them: the first and the last of `block` bytes, the others of `bytes`. */
static uint8_t *copy_sets(const uint8_t *blocks, size_t block, size_t bytes, size_t n_sets,
                          const void **ret_blocks)
{
    uint8_t *sets = bench_allocate(n_sets, 2 * block + (N_BLOCKS - 2) * bytes);
    for (size_t i = 0, to = 0; i < n_sets * N_BLOCKS; i++) {
        size_t at = i % N_BLOCKS;
        size_t n = at == 0 || at + 1 == N_BLOCKS ? block : bytes;
        ret_blocks[i] = memcpy(sets + to, blocks + at * block, n);
        to += n;
    }
    return sets;
}

static void bench_attention(bench *b, const stored *f, size_t n_sets, size_t n_rows, size_t n_heads,
                            size_t head_dim)
{
    if (!bench_wants(b, f->slot)) {
        return;
    }
    size_t block = f->scales + head_dim * SHOAL_KV_BLOCK * f->element;
    uint8_t *keys = bench_allocate(N_BLOCKS, block);
    uint8_t *values = bench_allocate(N_BLOCKS, block);
    const void **pointers = bench_allocate(2 * n_sets * N_BLOCKS, sizeof *pointers);
    uint64_t n_bytes = n_sets * fill_set(b, f, head_dim, block, keys, values);
    size_t k_bytes = f->sealed ? shoal_kv_sealed_bytes(f->level, head_dim, SHOAL_KV_BLOCK) : block;
    size_t v_bytes = f->sealed ? shoal_kv_sealed_bytes(f->level, SHOAL_KV_BLOCK, head_dim) : block;
    uint8_t *k_sets = copy_sets(keys, block, k_bytes, n_sets, pointers);
    uint8_t *v_sets = copy_sets(values, block, v_bytes, n_sets, pointers + n_sets * N_BLOCKS);
    shoal_free(keys);
    shoal_free(values);
    size_t n_lines = n_rows * n_heads;
    float *q = bench_random_row(b, n_lines * head_dim);
    float *out = bench_random_row(b, n_lines * head_dim);
    attends s = {.slot = f->attend,
                 .a = {.n_rows = n_rows,
                       .n_heads = n_heads,
                       .k_dim = head_dim,
                       .v_dim = head_dim,
                       .n_tokens = N_TOKENS - n_rows + 1,
                       .scale = 0.0883883F,
                       .q = q,
                       .q_stride = n_heads * head_dim,
                       .out = out,
                       .out_stride = n_heads * head_dim,
                       .sealed_from = 1,
                       .sealed_to = N_BLOCKS - 1,
                       .k_level = f->level,
                       .v_level = f->level},
                 .n_sets = n_sets,
                 .k_blocks = pointers,
                 .v_blocks = pointers + n_sets * N_BLOCKS};
    char shape[64];
    snprintf(shape, sizeof shape, "%zu x %zu heads of %zu, %d tokens%s", n_rows, n_heads, head_dim,
             N_TOKENS, n_sets > 1 ? ", cold" : "");
    bench_work w = {
        f->slot,     shape, n_bytes, 4 * (uint64_t)(n_sets * n_lines * head_dim * N_TOKENS),
        run_attends, &s,    out,     n_lines * head_dim * sizeof *out};
    bench_all_tiers(b, &w);
    shoal_free(k_sets);
    shoal_free(v_sets);
    shoal_free(pointers);
    shoal_free(q);
    shoal_free(out);
}

/* --- sealing ---------------------------------------------------------------------------------- */

typedef struct codec {
    shoal_kv_level level;
    uint16_t *x;    /* K and V of N_SEALED blocks, [2][32 * DIM_MAX] each */
    uint8_t *block; /* sealed, each at a multiple of bytes */
    size_t bytes;
} codec;

enum {
    N_SEALED = 64, /* blocks: 1 MiB of f16 */
    N_ELEMENTS = DIM_MAX * SHOAL_KV_BLOCK
};

static void run_seal(void *context)
{
    const bench_job *j = context;
    const codec *c = j->operands;
    for (size_t i = 0; i < N_SEALED; i++) {
        const uint16_t *x = c->x + 2 * i * N_ELEMENTS;
        uint8_t *block = c->block + 2 * i * c->bytes;
        j->kernels->kv_seal(c->level, DIM_MAX, SHOAL_KV_BLOCK, x, block);
        j->kernels->kv_seal(c->level, SHOAL_KV_BLOCK, DIM_MAX, x + N_ELEMENTS, block + c->bytes);
    }
}

static void run_unseal(void *context)
{
    const bench_job *j = context;
    const codec *c = j->operands;
    for (size_t i = 0; i < N_SEALED; i++) {
        uint16_t *x = c->x + 2 * i * N_ELEMENTS;
        const uint8_t *block = c->block + 2 * i * c->bytes;
        j->kernels->kv_unseal(c->level, DIM_MAX, SHOAL_KV_BLOCK, block, x);
        j->kernels->kv_unseal(c->level, SHOAL_KV_BLOCK, DIM_MAX, block + c->bytes, x + N_ELEMENTS);
    }
}

/* GB/s is of f16. */
void bench_seals(bench *b)
{
    static const char *const slots[][2] = {{"kv_seal_q8", "kv_unseal_q8"},
                                           {"kv_seal_q4", "kv_unseal_q4"},
                                           {"kv_seal_q3", "kv_unseal_q3"}};
    for (size_t level = 0; level < SHOAL_KV_LEVELS; level++) {
        codec c = {.level = (shoal_kv_level)level};
        c.bytes = shoal_kv_sealed_bytes(c.level, DIM_MAX, SHOAL_KV_BLOCK);
        c.x = bench_allocate(2 * N_SEALED * N_ELEMENTS, sizeof *c.x);
        c.block = bench_allocate(2 * N_SEALED, c.bytes);
        for (size_t i = 0; i < 2 * N_SEALED * N_ELEMENTS; i++) {
            c.x[i] = (uint16_t)(0x3000 + shoal_rng_next(&b->rng) % 0x0C00);
        }
        run_seal(&(bench_job){&b->scalar, &c}); /* what is opened */
        const bench_work works[] = {
            {slots[level][0], "64 blocks of 128", 4 * (uint64_t)N_SEALED * N_ELEMENTS, 0, run_seal,
             &c, c.block, 2 * N_SEALED * c.bytes},
            {slots[level][1], "64 blocks of 128", 4 * (uint64_t)N_SEALED * N_ELEMENTS, 0,
             run_unseal, &c, c.x, 2 * N_SEALED * N_ELEMENTS * sizeof *c.x},
        };
        for (size_t i = 0; i < SHOAL_COUNT(works); i++) {
            if (bench_wants(b, works[i].slot)) {
                bench_all_tiers(b, &works[i]);
            }
        }
        shoal_free(c.x);
        shoal_free(c.block);
    }
}

/* Decoding with a group, one head alone, and eight rows of a prompt, with blocks in the second
 * cache; then the group with the blocks of many layers, which no cache holds. */
void bench_attentions(bench *b)
{
    size_t n_cold = b->matrix_bytes / (2 * N_TOKENS * DIM_MAX * sizeof(uint16_t));
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        bench_attention(b, &forms[i], 1, 1, 4, 64);
        bench_attention(b, &forms[i], 1, 1, 4, DIM_MAX);
        bench_attention(b, &forms[i], 1, 1, 1, DIM_MAX);
        bench_attention(b, &forms[i], 1, 8, 4, 64);
        bench_attention(b, &forms[i], n_cold > 1 ? n_cold : 2, 1, 4, DIM_MAX);
    }
}
