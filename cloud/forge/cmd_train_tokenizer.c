/* SPDX-License-Identifier: Apache-2.0
 *
 * Learns a vocabulary from text files and writes it as a GGUF without tensors. Shares set how much
 * each file says, whatever its size: counts are integers, so a file of the smallest weight per byte
 * counts SCALE times and the others in proportion.
 */
#include "cloud/forge/forge.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/tokenizer/train.h"

#include <math.h>
#include <stdio.h>

enum {
    SCALE = 1024
};

/* One input. Zeroed memory is a valid empty one. */
typedef struct source {
    char *path;
    bool has_share;
    double share;
    shoal_map text;
    uint64_t weight;
} source;

typedef struct sources {
    source *list;
    size_t n;
    bool shared; /* every file has a share; otherwise none has */
} sources;

static void sources_close(sources *s)
{
    for (size_t i = 0; i < s->n; i++) {
        shoal_map_close(&s->list[i].text);
        shoal_free(s->list[i].path);
    }
    shoal_free(s->list);
}

static shoal_status open_sources(const forge_args *args, sources *s, shoal_err *err)
{
    if (args->n_files == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "text to learn from is missing: FILE[=SHARE]...");
    }
    s->list = shoal_calloc(args->n_files, sizeof s->list[0]);
    if (!s->list) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu files", args->n_files);
    }
    s->n = args->n_files;
    for (size_t i = 0; i < s->n; i++) {
        source *from = &s->list[i];
        const char *word = args->files[i];
        SHOAL_TRY(shoal_path_numbered(word, &from->path, &from->share, &from->has_share, err));
        if (from->has_share && !(from->share > 0 && isfinite(from->share))) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: a share is a number above 0", word);
        }
        if (from->has_share != s->list[0].has_share) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s: give a share to every file or to none (then every byte "
                                 "counts the same)",
                                 word);
        }
        SHOAL_TRY(shoal_map_open(from->path, &from->text, err));
    }
    s->shared = s->list[0].has_share;
    return SHOAL_OK;
}

/* What an occurrence in each file counts. */
static shoal_status weigh(sources *s, shoal_err *err)
{
    double lowest = HUGE_VAL;
    for (size_t i = 0; i < s->n; i++) {
        source *from = &s->list[i];
        if (s->shared && from->text.size == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID, "%s: an empty file cannot have a share",
                                 from->path);
        }
        from->share /= (double)SHOAL_MAX(from->text.size, (size_t)1);
        lowest = SHOAL_MIN(lowest, from->share);
    }
    for (size_t i = 0; i < s->n; i++) {
        source *from = &s->list[i];
        double weight = s->shared ? round(from->share / lowest * SCALE) : 1;
        if (!(weight <= SHOAL_BPE_WEIGHT_MAX)) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "%s: its share makes a byte count %.3g times what another file's "
                                 "does, at most %d: make the shares or the sizes more alike",
                                 from->path, from->share / lowest, SHOAL_BPE_WEIGHT_MAX / SCALE);
        }
        from->weight = (uint64_t)weight;
    }
    return SHOAL_OK;
}

static shoal_status learn(const sources *s, shoal_bpe_trainer *trainer, shoal_err *err)
{
    for (size_t i = 0; i < s->n; i++) {
        const source *from = &s->list[i];
        shoal_str text = {.data = (const char *)from->text.data, .length = from->text.size};
        shoal_err why = SHOAL_ERR_INIT;
        shoal_status status = shoal_bpe_trainer_add(trainer, text, from->weight, &why);
        if (status != SHOAL_OK) {
            return shoal_err_set(err, status, "%s: %s", from->path, why.text);
        }
        shoal_map_forget(from->text.data, from->text.size);
    }
    return shoal_bpe_trainer_learn(trainer, err);
}

static shoal_status write_file(const forge_args *args, const shoal_bpe_trainer *trainer,
                               shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    const char *name = args->name ? args->name : "shoal-tokenizer";
    if (shoal_gguf_writer_new(&writer) != SHOAL_OK ||
        shoal_gguf_put_str(writer, "general.architecture", "llama") != SHOAL_OK ||
        shoal_gguf_put_str(writer, "general.type", "vocab") != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the writer");
    }
    shoal_status status = shoal_gguf_put_str(writer, "general.name", name);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "--name: %s", shoal_status_text(status));
    }
    SHOAL_TRY(shoal_bpe_trainer_write(trainer, writer, err));
    SHOAL_TRY(shoal_gguf_writer_finish(writer, &out, err));
    return shoal_file_write(args->output, out.data, out.length, err);
}

static void report(const forge_args *args, const shoal_bpe_stats *stats, uint64_t scale)
{
    double per_token = stats->n_tokens > 0 ? (double)stats->n_bytes / (double)stats->n_tokens : 0;
    double last = (double)stats->last_count / (double)scale;
    if (args->json) {
        (void)printf("{\"vocab\": %zu, \"wanted\": %ld, \"words\": %zu, \"bytes_per_token\": %.6g, "
                     "\"last_count\": %.6g}\n",
                     stats->n_vocab, args->vocab, stats->n_words, per_token, last);
        return;
    }
    (void)printf("%s: %zu tokens from %zu distinct words, %.3f bytes per token of these texts, the "
                 "last pair counted %.6g\n",
                 args->output, stats->n_vocab, stats->n_words, per_token, last);
    if (stats->n_vocab < (size_t)args->vocab) {
        (void)printf("  fewer than the %ld wanted: no pair was left that counts %ld and makes a "
                     "token of at most %ld bytes\n",
                     args->vocab, args->min_count, args->token_bytes);
    }
}

shoal_status shoal_forge_train_tokenizer(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_CLEANUP(sources_close) sources s = {0};
    SHOAL_CLEANUP(shoal_bpe_trainer_freep) shoal_bpe_trainer *trainer = NULL;
    SHOAL_TRY(open_sources(args, &s, err));
    SHOAL_TRY(weigh(&s, err));
    uint64_t scale = s.shared ? SCALE : 1;
    shoal_bpe_settings settings = {.n_vocab = (size_t)args->vocab,
                                   .length_max = (size_t)args->token_bytes,
                                   .count_min = (uint64_t)args->min_count * scale};
    SHOAL_TRY(shoal_bpe_trainer_new(&settings, &trainer, err));
    SHOAL_TRY(learn(&s, trainer, err));
    SHOAL_TRY(write_file(args, trainer, err));
    shoal_bpe_stats stats = shoal_bpe_trainer_stats(trainer);
    report(args, &stats, scale);
    return SHOAL_OK;
}
