/* SPDX-License-Identifier: Apache-2.0
 *
 * Perplexity over windows of --ctx tokens, each begun anew: exp of the mean negative log likelihood
 * of every token but a window's first. Sums are in double. With --archive a block of 32 tokens
 * becomes what its code keeps as soon as --keep tokens lie behind it, and before that what is kept
 * of the newest. With --evict a head holds
 * --budget tokens; what that takes is counted in the pool.
 */
#include "cloud/forge/forge.h"
#include "cloud/forge/metrics.h"

#include "common/kv/kv_move.h"
#include "common/archive/archive.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    CHUNK = 64
};

/* What --archive says. */
typedef struct archiving {
    shoal_kernels kernels;
    shoal_archive *archive; /* NULL: nothing */
    shoal_archive_work *work;
    uint8_t *pages; /* of the largest group */
    uint8_t *unit;
    uint8_t *exact; /* [n_exact][block_bytes] of blocks that are near, by their number */
    size_t n_exact;
    size_t block_bytes;
    size_t keep;
    uint64_t n_bytes; /* of units, and of f16 that went into them */
    uint64_t n_bytes_f16;
} archiving;

static void archiving_fini(archiving *s)
{
    shoal_archive_free(s->archive);
    shoal_archive_work_free(s->work);
    shoal_free(s->pages);
    shoal_free(s->unit);
    shoal_free(s->exact);
}

static shoal_status open_archive(const char *path, const forge_session *session, archiving *s,
                                 shoal_err *err)
{
    size_t page_bytes = 0;
    size_t unit_bytes = 0;
    SHOAL_TRY(shoal_archive_read(path, &session->model->hash, shoal_kv_seq_shape(session->seq),
                                 &s->archive, err));
    for (size_t g = 0; g < shoal_archive_n_groups(s->archive); g++) {
        shoal_archive_group group = shoal_archive_group_at(s->archive, g);
        page_bytes = SHOAL_MAX(page_bytes, group.page_bytes);
        unit_bytes = SHOAL_MAX(unit_bytes, group.unit_bytes);
        unit_bytes = SHOAL_MAX(unit_bytes, shoal_archive_near_bytes(s->archive, g));
        s->block_bytes += group.page_bytes;
    }
    s->n_exact = s->keep / SHOAL_KV_BLOCK;
    s->exact = shoal_calloc(SHOAL_MAX(s->n_exact, (size_t)1), s->block_bytes);
    s->pages = shoal_calloc_aligned(page_bytes, 1);
    s->unit = shoal_calloc(unit_bytes, 1);
    if (!s->pages || !s->unit || !s->exact ||
        shoal_archive_work_new(s->archive, &s->work) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the archive");
    }
    shoal_kernels_init(&s->kernels, UINT32_MAX);
    return SHOAL_OK;
}

/* The blocks of a group's layers into s->pages, or what s->pages has into them. */
static void copy_group(const archiving *s, const shoal_kv_seq *seq,
                       const shoal_archive_group *group, size_t block, bool back)
{
    const shoal_kv_shape *shape = shoal_kv_seq_shape(seq);
    size_t bytes[2];
    uint8_t *at = s->pages;
    shoal_kv_part_bytes(shape, group->first_layer, block, &bytes[0], &bytes[1]);
    for (size_t i = 0; i < group->n_layers * shape->n_kv_heads; i++) {
        shoal_kv_part part = shoal_kv_block_part(seq, group->first_layer + i / shape->n_kv_heads,
                                                 block, i % shape->n_kv_heads);
        uint8_t *const sides[2] = {part.k, part.v};
        for (size_t side = 0; side < 2; side++) {
            memcpy(back ? sides[side] : at, back ? at : sides[side], bytes[side]);
            at += bytes[side];
        }
    }
}

/* A block that is full is near first, where any is. */
static shoal_status near_block(archiving *s, const shoal_kv_seq *seq, size_t block)
{
    size_t position = block * SHOAL_KV_BLOCK;
    uint8_t *exact = s->n_exact ? s->exact + block % s->n_exact * s->block_bytes : NULL;
    for (size_t g = 0; exact && g < shoal_archive_n_groups(s->archive); g++) {
        shoal_archive_group group = shoal_archive_group_at(s->archive, g);
        copy_group(s, seq, &group, block, false);
        memcpy(exact, s->pages, group.page_bytes);
        exact += group.page_bytes;
        SHOAL_TRY(shoal_archive_near_encode(s->archive, &s->kernels, s->work, g, position, s->pages,
                                            s->unit));
        SHOAL_TRY(shoal_archive_near_decode(s->archive, &s->kernels, s->work, g, position, s->unit,
                                            shoal_archive_near_bytes(s->archive, g), s->pages,
                                            NULL));
        copy_group(s, seq, &group, block, true);
    }
    return SHOAL_OK;
}

/* A block becomes what archiving keeps of it, of what it was before it was near. */
static shoal_status archive_block(archiving *s, const shoal_kv_seq *seq, size_t block)
{
    if (!shoal_kv_seq_has_block(seq, block)) {
        return SHOAL_OK; /* a layer's window has gone past it */
    }
    const uint8_t *exact = s->n_exact ? s->exact + block % s->n_exact * s->block_bytes : NULL;
    for (size_t g = 0; g < shoal_archive_n_groups(s->archive); g++) {
        shoal_archive_group group = shoal_archive_group_at(s->archive, g);
        size_t n = 0;
        copy_group(s, seq, &group, block, false);
        if (exact) {
            memcpy(s->pages, exact, group.page_bytes);
            exact += group.page_bytes;
        }
        SHOAL_TRY(shoal_archive_encode(s->archive, &s->kernels, s->work, g, block * SHOAL_KV_BLOCK,
                                       s->pages, s->unit, &n));
        SHOAL_TRY(shoal_archive_decode(s->archive, &s->kernels, s->work, g, block * SHOAL_KV_BLOCK,
                                       s->unit, n, s->pages, NULL));
        copy_group(s, seq, &group, block, true);
        s->n_bytes += n;
        s->n_bytes_f16 += group.page_bytes;
    }
    return SHOAL_OK;
}

/* Bits of an element of K and V in a block behind the first, on average; of archived blocks alone.
 */
static double kv_bits(const archiving *s, const shoal_kv_shape *shape)
{
    if (s->archive) {
        return s->n_bytes_f16 ? 16 * (double)s->n_bytes / (double)s->n_bytes_f16 : 16;
    }
    size_t n_elements = SHOAL_KV_BLOCK * (shape->k_dim + shape->v_dim);
    double n_blocks = (double)(shape->n_layers * shape->n_kv_heads);
    return 8 * (double)shoal_kv_block_bytes(shape, 1) / (n_blocks * (double)n_elements);
}

/* Sums over windows. */
typedef struct tally {
    double nll;
    size_t n;        /* tokens judged */
    size_t kv_bytes; /* of pages that were taken at once, at most */
} tally;

static void count_kv(const forge_session *s, tally *sums)
{
    const shoal_kv_pool *pool = shoal_engine_kv(s->engine);
    size_t n_pages = shoal_kv_pool_n_pages(pool) - shoal_kv_pool_n_free(pool);
    size_t bytes = n_pages * shoal_kv_page_bytes(shoal_kv_pool_shape(pool));
    sums->kv_bytes = SHOAL_MAX(sums->kv_bytes, bytes);
}

/* One window. */
static shoal_status window(forge_session *s, archiving *lossy, size_t from, const int32_t *ids,
                           size_t n, tally *sums)
{
    size_t chunk = lossy->archive ? SHOAL_KV_BLOCK : CHUNK;
    (void)shoal_kv_seq_truncate(s->seq, 0);
    for (size_t at = 0; at + 1 < n; at += chunk) {
        size_t n_now = SHOAL_MIN(n - 1 - at, chunk);
        shoal_span span = {
            .seq = s->seq, .ids = ids + at, .n_ids = n_now, .n_logits = n_now, .lora = s->lora};
        SHOAL_TRY(shoal_engine_step(s->engine, &span, 1));
        for (size_t i = at < from ? SHOAL_MIN(from - at, n_now) : 0; i < n_now; i++) {
            const float *logits = shoal_engine_logits(s->engine, span.logits_i + i);
            sums->nll += shoal_forge_judge(logits, s->model->hp.n_vocab, ids[at + i + 1]).nll;
            sums->n++;
        }
        count_kv(s, sums);
        if (lossy->archive && n_now == SHOAL_KV_BLOCK && at >= lossy->keep) {
            SHOAL_TRY(archive_block(lossy, s->seq, (at - lossy->keep) / SHOAL_KV_BLOCK));
        }
        if (lossy->archive && n_now == SHOAL_KV_BLOCK) {
            SHOAL_TRY(near_block(lossy, s->seq, at / SHOAL_KV_BLOCK));
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_perplexity(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    SHOAL_CLEANUP(archiving_fini) archiving lossy = {0};
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_forge_session_open(args, CHUNK, CHUNK, 0, &s, err));
    SHOAL_TRY(shoal_file_read(args->file, SHOAL_TEXT_MAX, &text, err));
    shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    SHOAL_TRY(shoal_tokenizer_encode(s.model->tokenizer, text.data ? text.data : "", text.length,
                                     flags, &ids, &n, err));
    const shoal_kv_shape *shape = shoal_kv_seq_shape(s.seq);
    if (args->archive && shape->type != SHOAL_KV_F16) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--archive needs --kv f16, this is %s",
                             shoal_kv_type_name(shape->type));
    }
    if (args->archive && args->evict) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--archive and --evict: evicted tokens have no blocks, take one");
    }
    if (args->archive) {
        /* Whole blocks stay, so that each is archived when one is full. */
        lossy.keep = ((size_t)args->keep + SHOAL_KV_BLOCK - 1) / SHOAL_KV_BLOCK * SHOAL_KV_BLOCK;
        SHOAL_TRY(open_archive(args->archive, &s, &lossy, err));
    }
    size_t n_ctx = shoal_engine_n_ctx(s.engine);
    tally sums = {0};
    for (size_t at = 0; at + 1 < n; at += n_ctx) {
        SHOAL_TRY(
            window(&s, &lossy, (size_t)args->from, ids + at, SHOAL_MIN(n - at, n_ctx), &sums));
    }
    if (sums.n == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: at least two tokens are needed",
                             args->file);
    }
    double ppl = shoal_forge_perplexity_of(sums.nll, sums.n);
    (void)printf(args->json ? "{\"ppl\": %.8g, \"tokens\": %zu, \"kv_bits\": %.4g, "
                              "\"kv_bytes\": %zu}\n"
                            : "perplexity %.6g over %zu tokens, KV of %.4g bits in %zu bytes\n",
                 ppl, sums.n, kv_bits(&lossy, shape), sums.kv_bytes);
    return SHOAL_OK;
}
