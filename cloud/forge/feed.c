/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/feed.h"

#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/rng.h"

#include <string.h>

enum {
    DRAWS = 1 << 16,      /* examples a batch may look at */
    WINDOW_MIN = 16,      /* tokens of text that are worth a place */
    TEXT_CHUNK = 1 << 20, /* bytes of text that are encoded at a time */
    TEXT_MAX = 1 << 30
};

/* "SHTX": keeps the places in the text apart from other uses of Philox with the same key. */
#define TEXT_DOMAIN 0x53485458u
/* "SHST": likewise the choice of a split. */
#define STUDY_DOMAIN 0x53485354u

/* The memory of one batch. */
typedef struct room {
    int32_t *ids;
    int32_t *positions;
    size_t *segments;
    size_t *targets;
    int32_t *target_ids;
    float *weights;
    size_t n_tokens;
    size_t n_segments;
    size_t n_targets;
} room;

struct shoal_forge_feed {
    shoal_forge_feed_settings settings;
    uint64_t id;
    int32_t *text;
    size_t n_text;
    room *rooms; /* (n_parts) */
};

/* --- making ---------------------------------------------------------------------------------- */

static shoal_status make_room(size_t n, room *r)
{
    r->ids = shoal_calloc(n, sizeof *r->ids);
    r->positions = shoal_calloc(n, sizeof *r->positions);
    r->segments = shoal_calloc(n + 1, sizeof *r->segments);
    r->targets = shoal_calloc(n, sizeof *r->targets);
    r->target_ids = shoal_calloc(n, sizeof *r->target_ids);
    r->weights = shoal_calloc(n, sizeof *r->weights);
    bool whole = r->ids && r->positions && r->segments && r->targets && r->target_ids && r->weights;
    return whole ? SHOAL_OK : SHOAL_E_NOMEM;
}

static void free_room(room *r)
{
    shoal_free(r->ids);
    shoal_free(r->positions);
    shoal_free(r->segments);
    shoal_free(r->targets);
    shoal_free(r->target_ids);
    shoal_free(r->weights);
}

/* Bytes of the next piece of text: it ends behind a line where one ends in the second half. */
static size_t next_chunk(const shoal_buf *text, size_t at)
{
    size_t left = text->length - at;
    if (left <= TEXT_CHUNK) {
        return left;
    }
    const char *end = memrchr(text->data + at + TEXT_CHUNK / 2, '\n', TEXT_CHUNK / 2);
    return end ? (size_t)(end - (text->data + at)) + 1 : TEXT_CHUNK;
}

static shoal_status read_text(shoal_forge_feed *feed, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read(feed->settings.text, TEXT_MAX, &text, err));
    for (size_t at = 0; at < text.length;) {
        SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
        size_t n_bytes = next_chunk(&text, at);
        size_t n = 0;
        SHOAL_TRY(shoal_tokenizer_encode(feed->settings.tokenizer, text.data + at, n_bytes,
                                         (shoal_encode_flags){0}, &ids, &n, err));
        int32_t *grown = shoal_realloc(feed->text, feed->n_text + n, sizeof *grown);
        if (!grown) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for its tokens",
                                 feed->settings.text);
        }
        feed->text = grown;
        memcpy(grown + feed->n_text, ids, n * sizeof *ids);
        feed->n_text += n;
        at += n_bytes;
    }
    if (feed->n_text <= feed->settings.n_ctx) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: %zu tokens are too few: a window has up to %zu",
                             feed->settings.text, feed->n_text, feed->settings.n_ctx);
    }
    return SHOAL_OK;
}

/* A digest of what batches follow from. The catalogue is named by its first example. */
static shoal_status make_id(shoal_forge_feed *feed)
{
    const shoal_forge_feed_settings *s = &feed->settings;
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    const uint64_t numbers[] = {
        s->seed,
        s->n_tokens,
        s->n_ctx,
        feed->n_text,
        s->field ? shoal_forge_field_n_entries(s->field) : 0,
    };
    const double reals[] = {s->exponent, s->study_share, s->study_exponent, s->text_share};
    shoal_hasher_update_field(hasher, numbers, sizeof numbers);
    shoal_hasher_update_field(hasher, reals, sizeof reals);
    shoal_hasher_update_field(hasher, shoal_tokenizer_hash(s->tokenizer)->bytes, SHOAL_HASH_BYTES);
    shoal_hasher_update_field(hasher, feed->n_text ? feed->text : NULL,
                              feed->n_text * sizeof *feed->text);
    for (uint64_t i = 0; s->field && i < 16; i++) {
        forge_example e;
        shoal_forge_field_example(s->field, FORGE_SPLIT_TRAIN, s->exponent, i, &e);
        shoal_hasher_update_field(hasher, e.prompt, strlen(e.prompt));
        shoal_hasher_update_field(hasher, e.answer, strlen(e.answer));
    }
    shoal_hash hash;
    shoal_hasher_finish(hasher, &hash);
    memcpy(&feed->id, hash.bytes, sizeof feed->id);
    return SHOAL_OK;
}

shoal_status shoal_forge_feed_new(const shoal_forge_feed_settings *settings,
                                  shoal_forge_feed **ret_feed, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_feed_freep) shoal_forge_feed *feed = shoal_calloc(1, sizeof *feed);
    if (!feed) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the data");
    }
    feed->settings = *settings;
    feed->rooms = shoal_calloc(settings->n_parts, sizeof *feed->rooms);
    for (size_t i = 0; feed->rooms && i < settings->n_parts; i++) {
        if (make_room(settings->n_tokens, &feed->rooms[i]) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for batches");
        }
    }
    if (settings->text) {
        SHOAL_TRY(read_text(feed, err));
    }
    if (!feed->rooms || make_id(feed) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for batches");
    }
    *ret_feed = SHOAL_STEAL(feed);
    return SHOAL_OK;
}

void shoal_forge_feed_free(shoal_forge_feed *feed)
{
    if (!feed) {
        return;
    }
    for (size_t i = 0; feed->rooms && i < feed->settings.n_parts; i++) {
        free_room(&feed->rooms[i]);
    }
    shoal_free(feed->rooms);
    shoal_free(feed->text);
    shoal_free(feed);
}

uint64_t shoal_forge_feed_id(const shoal_forge_feed *feed)
{
    return feed->id;
}

/* --- batches --------------------------------------------------------------------------------- */

/* A segment of n + 1 ids: the last is only a target. Those from `first` on are targets. */
static void add_segment(room *r, const int32_t *ids, size_t n, size_t first)
{
    for (size_t i = 0; i < n; i++) {
        size_t at = r->n_tokens + i;
        r->ids[at] = ids[i];
        r->positions[at] = (int32_t)i;
        if (i + 1 >= first) {
            r->targets[r->n_targets] = at;
            r->target_ids[r->n_targets] = ids[i + 1];
            r->weights[r->n_targets] = 1.0F;
            r->n_targets++;
        }
    }
    r->n_tokens += n;
    r->n_segments++;
    r->segments[r->n_segments] = r->n_tokens;
}

/* The same with a first id that does not stand before the others in memory. */
static void add_window(const shoal_forge_feed *feed, room *r, size_t begin, size_t n)
{
    int32_t bos = shoal_tokenizer_bos(feed->settings.tokenizer);
    if (bos < 0) {
        add_segment(r, feed->text + begin, n, 1);
        return;
    }
    size_t at = r->n_tokens;
    add_segment(r, feed->text + begin, n, 1);
    memmove(&r->ids[at + 1], &r->ids[at], (n - 1) * sizeof *r->ids);
    r->ids[at] = bos;
    for (size_t i = 0; i < n; i++) {
        r->target_ids[r->n_targets - n + i] = feed->text[begin + i];
    }
}

/* Windows of text up to a number of tokens. */
static void fill_text(const shoal_forge_feed *feed, uint64_t number, size_t limit, room *r)
{
    const shoal_forge_feed_settings *s = &feed->settings;
    const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
    for (uint32_t draw = 0; limit - r->n_tokens >= WINDOW_MIN; draw++) {
        const uint32_t counter[4] = {(uint32_t)number, (uint32_t)(number >> 32), draw, TEXT_DOMAIN};
        uint32_t words[4];
        shoal_philox4x32_10(counter, key, words);
        size_t n = SHOAL_MIN(limit - r->n_tokens, s->n_ctx);
        uint64_t word = (uint64_t)words[0] << 32 | words[1];
        add_window(feed, r, (size_t)(word % (feed->n_text - n)), n);
    }
}

/* Whether an example is one for study. */
static bool is_study(const shoal_forge_feed_settings *s, uint64_t number, uint64_t draw)
{
    const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)number, (uint32_t)(number >> 32), (uint32_t)draw,
                                 STUDY_DOMAIN};
    uint32_t words[4];
    shoal_philox4x32_10(counter, key, words);
    return ((double)words[0] + 0.5) * 0x1p-32 < s->study_share;
}

/* Examples of the catalogue until the next does not fit. */
static shoal_status fill_examples(const shoal_forge_feed *feed, uint64_t number, room *r,
                                  shoal_err *err)
{
    const shoal_forge_feed_settings *s = &feed->settings;
    /* Seeds lie 2^48 examples apart: further than any run reads. */
    uint64_t first = (s->seed << 48) + number * DRAWS;
    bool full = false;
    for (uint64_t draw = 0; !full && draw < DRAWS; draw++) {
        SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
        forge_example e;
        size_t n = 0;
        size_t n_prompt = 0;
        bool study = is_study(s, number, draw);
        shoal_forge_field_example(s->field, study ? FORGE_SPLIT_STUDY : FORGE_SPLIT_TRAIN,
                                  study ? s->study_exponent : s->exponent, first + draw, &e);
        SHOAL_TRY(
            shoal_forge_encode_example(s->tokenizer, e.prompt, e.answer, &ids, &n, &n_prompt, err));
        full = r->n_tokens + n - 1 > s->n_tokens;
        if (!full) {
            add_segment(r, ids, n - 1, n_prompt);
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_feed_batch(void *ctx, uint64_t step, size_t part,
                                    shoal_train_batch *ret_batch)
{
    shoal_forge_feed *feed = ctx;
    const shoal_forge_feed_settings *s = &feed->settings;
    room *r = &feed->rooms[part];
    uint64_t number = step * s->n_parts + part;
    r->n_tokens = 0;
    r->n_segments = 0;
    r->n_targets = 0;
    if (feed->n_text > 0) {
        fill_text(feed, number, (size_t)(s->text_share * (double)s->n_tokens), r);
    }
    if (s->field) {
        SHOAL_TRY(fill_examples(feed, number, r, NULL));
    }
    if (r->n_targets == 0) {
        return SHOAL_E_LIMIT; /* not one example fits */
    }
    *ret_batch = (shoal_train_batch){.batch = {.n_tokens = r->n_tokens,
                                               .ids = r->ids,
                                               .positions = r->positions,
                                               .n_segments = r->n_segments,
                                               .segments = r->segments,
                                               .n_targets = r->n_targets,
                                               .targets = r->targets},
                                     .target_ids = r->target_ids,
                                     .weights = r->weights};
    return SHOAL_OK;
}
