/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/load/truth.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    FIRST_ID = 3, /* prompts keep clear of unknown, begin and end where vocabularies put them */
    HEAD_MAX = 512
};

static size_t draw(uint64_t *rng, load_range range)
{
    return range.low + (size_t)(shoal_rng_next(rng) % (range.high - range.low + 1));
}

static int32_t draw_id(uint64_t *rng, const shoal_describe *describe)
{
    return (int32_t)(FIRST_ID + shoal_rng_next(rng) % (describe->n_vocab - FIRST_ID));
}

static shoal_status check(const load_truth_settings *s, const shoal_describe *d, shoal_err *err)
{
    if (d->n_vocab <= FIRST_ID) {
        return shoal_err_set(err, SHOAL_E_INVALID, "a vocabulary of %" PRIu32 " ids is too small",
                             d->n_vocab);
    }
    if (s->prompt.high + s->out.high > d->n_ctx) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%zu prompt and %zu answer tokens are more than the model's context "
                             "of %" PRIu32,
                             s->prompt.high, s->out.high, d->n_ctx);
    }
    if (s->n_shared > s->prompt.low) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%zu shared tokens are more than the shortest prompt of %zu",
                             s->n_shared, s->prompt.low);
    }
    for (size_t i = 0; i < s->n_banned; i++) {
        if (s->banned[i] < 0 || (uint32_t)s->banned[i] >= d->n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "banned id %" PRId32 " is not below %" PRIu32, s->banned[i],
                                 d->n_vocab);
        }
    }
    return SHOAL_OK;
}

shoal_status load_truth_new(const load_truth_settings *settings, const shoal_describe *describe,
                            load_truth **ret_truth, shoal_err *err)
{
    SHOAL_TRY(check(settings, describe, err));
    SHOAL_CLEANUP(load_truth_freep) load_truth *truth = shoal_calloc(1, sizeof *truth);
    if (truth) {
        truth->settings = *settings;
        truth->describe = *describe;
        truth->items = shoal_calloc(settings->n_items, sizeof *truth->items);
    }
    if (!truth || !truth->items) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu prompts", settings->n_items);
    }
    for (size_t i = 0; i < settings->n_banned; i++) {
        truth->biases[i] = (shoal_logit_bias){.id = settings->banned[i], .bias = -100};
    }
    for (size_t i = 0; i < settings->n_items; i++) {
        load_item *item = &truth->items[i];
        uint64_t shared = settings->seed; /* begins every prompt alike */
        uint64_t own = settings->seed ^ (i + 1) * 0xD1B54A32D192ED03U;
        item->seed = shoal_rng_next(&own);
        item->n_prompt = draw(&own, settings->prompt);
        item->n_out_max = draw(&own, settings->out);
        item->ids = shoal_calloc(item->n_prompt + item->n_out_max, sizeof *item->ids);
        if (!item->ids) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for prompt %zu", i);
        }
        for (size_t k = 0; k < item->n_prompt; k++) {
            item->ids[k] = draw_id(k < settings->n_shared ? &shared : &own, describe);
        }
    }
    *ret_truth = SHOAL_STEAL(truth);
    return SHOAL_OK;
}

void load_truth_free(load_truth *truth)
{
    if (!truth) {
        return;
    }
    for (size_t i = 0; truth->items && i < truth->settings.n_items; i++) {
        shoal_free(truth->items[i].ids);
    }
    shoal_free(truth->items);
    shoal_free(truth);
}

shoal_sampling load_truth_sampling(const load_truth *truth, const load_item *item)
{
    shoal_sampling sampling = shoal_sampling_default();
    sampling.temperature = truth->settings.temperature;
    sampling.seed = item->seed;
    sampling.biases = truth->biases;
    sampling.n_biases = truth->settings.n_banned;
    return sampling;
}

/* --- the file: a line about what was asked, then a line an item: how many ids, and the ids -------
 */

static void head_of(const load_truth *truth, char head[HEAD_MAX])
{
    const load_truth_settings *s = &truth->settings;
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(&truth->describe.model, hex);
    int n = snprintf(head, HEAD_MAX,
                     "shoal-load 1 model=%s kv=%s items=%zu prompt=%zu..%zu shared=%zu "
                     "out=%zu..%zu temperature=%.9g seed=%" PRIu64 " banned=",
                     hex, truth->describe.kv_form, s->n_items, s->prompt.low, s->prompt.high,
                     s->n_shared, s->out.low, s->out.high, (double)s->temperature, s->seed);
    for (size_t i = 0; i < s->n_banned && n > 0 && n < HEAD_MAX; i++) {
        n += snprintf(head + n, HEAD_MAX - (size_t)n, "%" PRId32 ",", s->banned[i]);
    }
}

static bool read_number(FILE *file, long long low, long long high, long long *ret_value)
{
    return fscanf(file, "%lld", ret_value) == 1 && *ret_value >= low && *ret_value <= high;
}

static bool read_item(FILE *file, load_item *item, long long n_vocab)
{
    long long n = 0;
    if (!read_number(file, 1, (long long)item->n_out_max, &n)) {
        return false;
    }
    for (long long k = 0; k < n; k++) {
        long long id = 0;
        if (!read_number(file, 0, n_vocab - 1, &id)) {
            return false;
        }
        item->ids[item->n_prompt + (size_t)k] = (int32_t)id;
    }
    item->n_out = (size_t)n;
    return true;
}

static shoal_status read_all(load_truth *truth, FILE *file, const char *path, shoal_err *err)
{
    char head[HEAD_MAX];
    char line[HEAD_MAX + 2];
    head_of(truth, head);
    if (!fgets(line, sizeof line, file)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s is empty; remove it", path);
    }
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, head) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s was recorded from another model or with other settings; remove it "
                             "or name another file",
                             path);
    }
    for (size_t i = 0; i < truth->settings.n_items; i++) {
        if (!read_item(file, &truth->items[i], truth->describe.n_vocab)) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s:%zu: no recorded answer; remove the file", path, i + 2);
        }
    }
    return SHOAL_OK;
}

shoal_status load_truth_read(load_truth *truth, const char *path, shoal_err *err)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        return shoal_err_set(err, errno == ENOENT ? SHOAL_E_NOTFOUND : SHOAL_E_IO, "%s: %s", path,
                             strerror(errno));
    }
    shoal_status status = read_all(truth, file, path, err);
    (void)fclose(file);
    return status;
}

shoal_status load_truth_write(const load_truth *truth, const char *path, shoal_err *err)
{
    FILE *file = fopen(path, "w");
    if (!file) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: %s", path, strerror(errno));
    }
    char head[HEAD_MAX];
    head_of(truth, head);
    (void)fprintf(file, "%s\n", head);
    for (size_t i = 0; i < truth->settings.n_items; i++) {
        const load_item *item = &truth->items[i];
        (void)fprintf(file, "%zu", item->n_out);
        for (size_t k = 0; k < item->n_out; k++) {
            (void)fprintf(file, " %" PRId32, item->ids[item->n_prompt + k]);
        }
        (void)fputc('\n', file);
    }
    bool bad = ferror(file) != 0;
    bad = fclose(file) != 0 || bad;
    return bad ? shoal_err_set(err, SHOAL_E_IO, "%s could not be written whole", path) : SHOAL_OK;
}
