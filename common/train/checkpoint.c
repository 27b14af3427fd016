/* SPDX-License-Identifier: Apache-2.0
 *
 * A checkpoint: a text that names everything a resumed run must share with the one that was
 * interrupted, where it was, then the blocks of parameters and moments, then a digest of all of it.
 *
 *   "SHOALCKP" | u32 version | u32 bytes of text | text | u64 step, steps, warm-up steps |
 *   u64 floats of a block | 3 blocks of f32 | SHA-256 of everything before
 *
 * The text has a line per setting and per parameter. Comparing texts line by line tells a person
 * what differs, and nothing has to be parsed. Numbers are written in hexadecimal, so that equal
 * texts mean equal bits. The file is for the machine that wrote it: byte order is not converted.
 */
#include "common/train/trainer_internal.h"

#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

#include <string.h>

enum {
    VERSION = 1,
    TEXT_MAX = 1 << 20,
    BLOCKS = 3,
    LINE_SHOWN = 90 /* characters of a line in an error */
};

static const char magic[8] = {'S', 'H', 'O', 'A', 'L', 'C', 'K', 'P'};

typedef struct head {
    char magic[8];
    uint32_t version;
    uint32_t text_bytes;
} head;

typedef struct numbers {
    uint64_t step;
    uint64_t n_steps; /* of the run's schedule */
    uint64_t n_warmup;
    uint64_t n_floats;
} numbers;

static shoal_status describe_run(const shoal_trainer *t, shoal_buf *buf)
{
    const shoal_trainer_settings *s = &t->settings;
    const shoal_optim_settings *o = &s->optim;
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "parts %zu\ndropout seed %llu\ndata %016llx\noptimiser %s\n"
                                "muon rate %a\nadam rate %a\nweight decay %a\nbeta1 %a\n"
                                "beta2 %a\nmomentum %a\nclip %a\nfinal share %a\n",
                                s->n_parts, (unsigned long long)s->seed,
                                (unsigned long long)s->source_id, o->muon ? "muon" : "adamw",
                                (double)o->muon_rate, (double)o->adam_rate, (double)o->weight_decay,
                                (double)o->beta1, (double)o->beta2, (double)o->momentum,
                                (double)o->clip, (double)o->final_share));
    SHOAL_TRY(shoal_buf_appendf(buf, "alpha %a\ntemperature %a\ndivergence %s\nlayer dropout %a\n",
                                (double)s->distil.alpha, (double)s->distil.temperature,
                                s->distil.reverse ? "reverse" : "forward",
                                (double)s->layer_dropout));
    if (s->on_policy) {
        SHOAL_TRY(shoal_buf_appendf(
            buf, "own answers:%s%s%s mix %a end %d\n", s->minillm.single_step ? " single" : "",
            s->minillm.teacher_mixed ? " mixed" : "", s->minillm.length_norm ? " norm" : "",
            (double)s->minillm.mix, (int)s->end_id));
    }
    for (size_t i = 0; i < t->params->n_exits; i++) {
        SHOAL_TRY(shoal_buf_appendf(buf, "exit after layer %zu weight %a\n", t->params->exits[i],
                                    (double)s->exit_weight[i]));
    }
    return SHOAL_OK;
}

/* Everything that decides what the next steps compute, but for the numbers themselves. */
static shoal_status describe(const shoal_trainer *t, shoal_buf *buf)
{
    const shoal_params *p = t->stepped;
    const shoal_hparams *hp = &p->hp;
    SHOAL_TRY(shoal_buf_appendf(buf,
                                "architecture %s\nvocabulary %zu\nlayers %zu\nheads %zu of %zu, "
                                "%zu for keys\nrope base %a\nnorm epsilon %a\n",
                                hp->arch, hp->n_vocab, hp->n_layers, hp->n_heads, hp->head_dim,
                                hp->n_kv_heads, (double)hp->rope_base, (double)hp->norm_eps));
    for (size_t i = 0; i < p->n_items; i++) {
        const shoal_param *item = &p->items[i];
        SHOAL_TRY(shoal_buf_appendf(buf, "%s %zu x %zu%s\n", item->name, item->n_rows, item->n_cols,
                                    item->frozen ? " frozen" : ""));
    }
    if (t->settings.lora) {
        char hex[SHOAL_HASH_HEX];
        shoal_hash_hex(shoal_lora_train_base(t->settings.lora), hex);
        SHOAL_TRY(shoal_buf_appendf(buf, "adapter of %s alpha %a\n", hex,
                                    (double)shoal_lora_train_alpha(t->settings.lora)));
    }
    if (t->settings.recover) {
        char hex[SHOAL_HASH_HEX];
        shoal_hash_hex(shoal_recover_begin(t->settings.recover), hex);
        SHOAL_TRY(shoal_buf_appendf(buf, "recovery from %s\n", hex));
    }
    return describe_run(t, buf);
}

/* --- out ------------------------------------------------------------------------------------- */

typedef struct sink {
    shoal_file_out *out;
    shoal_hasher *hasher;
} sink;

static void sink_close(sink *s)
{
    shoal_file_out_close(s->out);
    shoal_hasher_free(s->hasher);
}

static shoal_status put(sink *s, const void *data, size_t n, shoal_err *err)
{
    shoal_hasher_update(s->hasher, data, n);
    return shoal_file_out_write(s->out, data, n, err);
}

shoal_status shoal_trainer_save(const shoal_trainer *trainer, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = TEXT_MAX};
    SHOAL_CLEANUP(sink_close) sink s = {0};
    size_t block_bytes = trainer->stepped->n_floats * sizeof(float);
    if (describe(trainer, &text) != SHOAL_OK || shoal_hasher_new(&s.hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for the checkpoint", path);
    }
    head h = {.version = VERSION, .text_bytes = (uint32_t)text.length};
    memcpy(h.magic, magic, sizeof magic);
    numbers n = {.step = trainer->optim->step,
                 .n_steps = trainer->optim->settings.n_steps,
                 .n_warmup = trainer->optim->settings.n_warmup,
                 .n_floats = trainer->stepped->n_floats};
    SHOAL_TRY(shoal_file_out_open(path, &s.out, err));
    SHOAL_TRY(put(&s, &h, sizeof h, err));
    SHOAL_TRY(put(&s, text.data, text.length, err));
    SHOAL_TRY(put(&s, &n, sizeof n, err));
    SHOAL_TRY(put(&s, trainer->stepped->data, block_bytes, err));
    SHOAL_TRY(put(&s, trainer->optim->first, block_bytes, err));
    SHOAL_TRY(put(&s, trainer->optim->second, block_bytes, err));
    shoal_hash hash;
    shoal_hasher_finish(s.hasher, &hash);
    SHOAL_TRY(shoal_file_out_write(s.out, hash.bytes, sizeof hash.bytes, err));
    return shoal_file_out_commit(s.out, err);
}

/* --- in -------------------------------------------------------------------------------------- */

static size_t line_end(const char *text, size_t n, size_t at)
{
    const char *end = memchr(text + at, '\n', n - at);
    return end ? (size_t)(end - text) : n;
}

/* Finds the first line that differs and says both. */
static shoal_status compare_texts(const char *path, const char *theirs, size_t n_theirs,
                                  const shoal_buf *ours, shoal_err *err)
{
    if (n_theirs == ours->length && memcmp(theirs, ours->data, n_theirs) == 0) {
        return SHOAL_OK;
    }
    size_t a = 0;
    size_t b = 0;
    while (a < n_theirs && b < ours->length) {
        size_t end_a = line_end(theirs, n_theirs, a);
        size_t end_b = line_end(ours->data, ours->length, b);
        if (end_a - a != end_b - b || memcmp(theirs + a, ours->data + b, end_a - a) != 0) {
            break;
        }
        a = end_a + 1;
        b = end_b + 1;
    }
    int n_a = a < n_theirs ? (int)(line_end(theirs, n_theirs, a) - a) : 0;
    int n_b = b < ours->length ? (int)(line_end(ours->data, ours->length, b) - b) : 0;
    return shoal_err_set(err, SHOAL_E_MISMATCH,
                         "%s is of another run: \"%.*s\" there, \"%.*s\" here", path,
                         SHOAL_MIN(n_a, (int)LINE_SHOWN), n_a ? theirs + a : "",
                         SHOAL_MIN(n_b, (int)LINE_SHOWN), n_b ? ours->data + b : "");
}

static shoal_status fail_short(const char *path, size_t has, size_t wants, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "%s: a checkpoint cut short, %zu of %zu bytes: take an older one", path,
                         has, wants);
}

static shoal_status check_hash(const char *path, const shoal_map *map, shoal_err *err)
{
    shoal_hash hash;
    size_t n = map->size - sizeof hash.bytes;
    if (shoal_hash_of(map->data, n, &hash) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for its digest", path);
    }
    if (memcmp(hash.bytes, map->data + n, sizeof hash.bytes) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: a damaged checkpoint, its digest is another: take an older one",
                             path);
    }
    return SHOAL_OK;
}

/* A trainer that was not told how long its run is learns it from the checkpoint. */
static shoal_status take_length(shoal_trainer *t, const char *path, const numbers *n,
                                shoal_err *err)
{
    shoal_optim_settings *o = &t->optim->settings;
    if (o->n_steps != 0 && (o->n_steps != n->n_steps || o->n_warmup != n->n_warmup)) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s is of another run: %llu steps, %llu of warm-up there, %llu and "
                             "%llu here",
                             path, (unsigned long long)n->n_steps, (unsigned long long)n->n_warmup,
                             (unsigned long long)o->n_steps, (unsigned long long)o->n_warmup);
    }
    o->n_steps = n->n_steps;
    o->n_warmup = n->n_warmup;
    return SHOAL_OK;
}

/* Takes what the bytes hold, or nothing of it. */
static shoal_status load_map(shoal_trainer *t, const char *path, const shoal_map *map,
                             shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = TEXT_MAX};
    head h;
    numbers n;
    size_t least = sizeof h + sizeof n + sizeof(shoal_hash);
    if (map->size < least) {
        return fail_short(path, map->size, least, err);
    }
    memcpy(&h, map->data, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: not a checkpoint", path);
    }
    if (h.version != VERSION || h.text_bytes > TEXT_MAX) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "%s: a checkpoint of version %u; this program reads version %d", path,
                             h.version, VERSION);
    }
    if (map->size < least + h.text_bytes) {
        return fail_short(path, map->size, least + h.text_bytes, err);
    }
    if (describe(t, &text) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory to read it", path);
    }
    const char *theirs = (const char *)map->data + sizeof h;
    SHOAL_TRY(compare_texts(path, theirs, h.text_bytes, &text, err));
    memcpy(&n, theirs + h.text_bytes, sizeof n);
    size_t block_bytes = t->stepped->n_floats * sizeof(float);
    size_t wants = least + h.text_bytes + BLOCKS * block_bytes;
    if (n.n_floats != t->stepped->n_floats || map->size > wants) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: a damaged checkpoint, %zu bytes, not %zu",
                             path, map->size, wants);
    }
    if (map->size < wants) {
        return fail_short(path, map->size, wants, err);
    }
    SHOAL_TRY(check_hash(path, map, err));
    SHOAL_TRY(take_length(t, path, &n, err));
    const uint8_t *blocks = (const uint8_t *)theirs + h.text_bytes + sizeof n;
    memcpy(t->stepped->data, blocks, block_bytes);
    memcpy(t->optim->first, blocks + block_bytes, block_bytes);
    memcpy(t->optim->second, blocks + 2 * block_bytes, block_bytes);
    t->optim->step = n.step;
    return SHOAL_OK;
}

shoal_status shoal_trainer_load(shoal_trainer *trainer, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_TRY(shoal_map_open(path, &map, err));
    return load_map(trainer, path, &map, err);
}
