/* SPDX-License-Identifier: Apache-2.0
 *
 * Log-probabilities of a prompt, and the list of models.
 */
#include "cloud/upstream/reply_internal.h"

#include "cloud/upstream/retoken.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- prompt_logprobs -------------------------------------------------------------------------- */

/* {"id": {"logprob": x, ...}, ...}: the likeliest, the lowest id among equals. */
static shoal_status best_of_ids(const json_t *entry, size_t n_vocab, int32_t own, size_t position,
                                shoal_reply_score *ret_score, shoal_err *err)
{
    double best = -HUGE_VAL;
    int32_t best_id = -1;
    bool has_own = false;
    json_t *object = (json_t *)(uintptr_t)entry; /* jansson iterates over mutable objects only */
    for (void *it = json_object_iter(object); it != NULL; it = json_object_iter_next(object, it)) {
        int32_t id = -1;
        const json_t *value = json_object_iter_value(it);
        const json_t *logprob = json_is_object(value) ? json_object_get(value, "logprob") : value;
        if (!shoal_reply_parse_id(json_object_iter_key(it), n_vocab, &id) ||
            !json_is_number(logprob)) {
            return shoal_err_set(err, SHOAL_E_PROTOCOL,
                                 "prompt_logprobs[%zu] has an entry that is no token id below %zu "
                                 "with its logprob",
                                 position, n_vocab);
        }
        double x = json_number_value(logprob);
        has_own = has_own || id == own;
        if (best_id < 0 || x > best || (!(x < best) && id < best_id)) {
            best = x;
            best_id = id;
        }
    }
    if (!has_own) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "prompt_logprobs[%zu] does not have the prompt's own token: another "
                             "tokenizer?",
                             position);
    }
    *ret_score = (shoal_reply_score){
        .same = best_id == own, .id = best_id, .confidence = shoal_reply_probability(best)};
    return SHOAL_OK;
}

/* The token generated behind the prompt: its id, or a text that is a single token. */
static shoal_status read_generated(const char *json, size_t n, const shoal_tokenizer *tokenizer,
                                   shoal_reply_score *ret_score, shoal_err *err)
{
    shoal_reply_chunk *chunk = shoal_calloc(1, sizeof(*chunk));
    if (chunk == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for an answer");
    }
    size_t n_vocab = shoal_tokenizer_n_vocab(tokenizer);
    shoal_status status = shoal_reply_chunk_read(json, n, n_vocab, chunk, err);
    *ret_score = (shoal_reply_score){.id = -1};
    if (status == SHOAL_OK && chunk->has_ids) {
        /* Of an echo the prompt's ids may come first. */
        ret_score->id = chunk->ids[chunk->n_ids - 1];
        ret_score->confidence = chunk->confidences[chunk->n_ids - 1];
    } else if (status == SHOAL_OK && chunk->finish == SHOAL_REPLY_STOP) {
        ret_score->id = shoal_retoken_end_id(tokenizer);
    } else if (status == SHOAL_OK) {
        ret_score->id = shoal_retoken_single_id(tokenizer, chunk->text.data, chunk->text.length);
    }
    shoal_reply_chunk_fini(chunk);
    shoal_free(chunk);
    return status;
}

static shoal_status read_prompt_kind(const json_t *choice, const shoal_tokenizer *tokenizer,
                                     const int32_t *ids, size_t n_ids, size_t n_scores,
                                     shoal_reply_score *scores, shoal_err *err)
{
    const json_t *list = json_object_get(choice, "prompt_logprobs");
    if (json_array_size(list) != n_ids) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "prompt_logprobs has %zu entries for a prompt of %zu tokens",
                             json_array_size(list), n_ids);
    }
    size_t n_vocab = shoal_tokenizer_n_vocab(tokenizer);
    for (size_t i = 0; i < n_scores; i++) {
        size_t at = n_ids - n_scores + i;
        SHOAL_TRY(best_of_ids(json_array_get(list, at), n_vocab, ids[at], at, &scores[i], err));
    }
    return SHOAL_OK;
}

/* --- echo ------------------------------------------------------------------------------------- */

static int32_t id_of_text(const shoal_tokenizer *tokenizer, const char *text, size_t n)
{
    int32_t id = -1;
    if (shoal_reply_parse_prefixed_id(text, shoal_tokenizer_n_vocab(tokenizer), &id)) {
        return id;
    }
    return shoal_retoken_single_id(tokenizer, text, n);
}

/* tokens[at] must be the prompt's own; top_logprobs[at] is {"text": logprob}. */
static shoal_status best_of_texts(const json_t *token, const json_t *top, const json_t *logprob,
                                  const shoal_tokenizer *tokenizer, int32_t own, size_t position,
                                  shoal_reply_score *ret_score, shoal_err *err)
{
    const char *text = json_string_value(token);
    if (text == NULL || id_of_text(tokenizer, text, json_string_length(token)) != own) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "logprobs.tokens[%zu] is not the prompt's own token: another "
                             "tokenizer, or one whose texts name no single id",
                             position);
    }
    double best = -HUGE_VAL;
    const char *best_text = NULL;
    json_t *object = (json_t *)(uintptr_t)top;
    for (void *it = json_object_iter(object); it != NULL; it = json_object_iter_next(object, it)) {
        const json_t *value = json_object_iter_value(it);
        if (json_is_number(value) && (best_text == NULL || json_number_value(value) > best)) {
            best = json_number_value(value);
            best_text = json_object_iter_key(it);
        }
    }
    if (best_text == NULL || !json_is_number(logprob)) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "logprobs.top_logprobs[%zu] has no number for any token", position);
    }
    /* An engine may list the likeliest without the prompt's own token, or with it. */
    bool same = strcmp(best_text, text) == 0;
    *ret_score =
        (shoal_reply_score){.same = same,
                            .id = same ? own : id_of_text(tokenizer, best_text, strlen(best_text)),
                            .confidence = shoal_reply_probability(best)};
    return SHOAL_OK;
}

static shoal_status read_echo_kind(const json_t *choice, const shoal_tokenizer *tokenizer,
                                   const int32_t *ids, size_t n_ids, size_t n_scores,
                                   shoal_reply_score *scores, shoal_err *err)
{
    const json_t *logprobs = json_object_get(choice, "logprobs");
    const json_t *tokens = json_object_get(logprobs, "tokens");
    const json_t *own = json_object_get(logprobs, "token_logprobs");
    const json_t *top = json_object_get(logprobs, "top_logprobs");
    size_t n = json_array_size(tokens);
    if (n != n_ids + 1 || json_array_size(own) != n || json_array_size(top) != n) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "logprobs has %zu tokens, %zu token_logprobs and %zu top_logprobs for "
                             "a prompt of %zu tokens and one more",
                             n, json_array_size(own), json_array_size(top), n_ids);
    }
    for (size_t i = 0; i < n_scores; i++) {
        size_t at = n_ids - n_scores + i;
        SHOAL_TRY(best_of_texts(json_array_get(tokens, at), json_array_get(top, at),
                                json_array_get(own, at), tokenizer, ids[at], at, &scores[i], err));
    }
    return SHOAL_OK;
}

shoal_status shoal_reply_scores_read(const char *json, size_t n, shoal_reply_scores_kind kind,
                                     const shoal_tokenizer *tokenizer, const int32_t *ids,
                                     size_t n_ids, size_t n_scores, shoal_reply_score *ret_scores,
                                     shoal_err *err)
{
    SHOAL_ASSERT(n_scores < n_ids);
    SHOAL_TRY(read_generated(json, n, tokenizer, &ret_scores[n_scores], err));
    SHOAL_CLEANUP(shoal_reply_free_json) json_t *root = shoal_reply_load(json, n, err);
    if (root == NULL) {
        return SHOAL_E_PROTOCOL;
    }
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    return kind == SHOAL_SCORES_PROMPT
               ? read_prompt_kind(choice, tokenizer, ids, n_ids, n_scores, ret_scores, err)
               : read_echo_kind(choice, tokenizer, ids, n_ids, n_scores, ret_scores, err);
}

/* --- models ----------------------------------------------------------------------------------- */

static uint64_t count_of(const json_t *value)
{
    json_int_t x = json_integer_value(value);
    return json_is_integer(value) && x > 0 ? (uint64_t)x : 0;
}

shoal_status shoal_reply_model_read(const char *json, size_t n, const char *name,
                                    shoal_reply_model *ret_model, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_reply_free_json) json_t *root = shoal_reply_load(json, n, err);
    if (root == NULL) {
        return SHOAL_E_PROTOCOL;
    }
    const json_t *list = json_object_get(root, "data");
    const char *first = json_string_value(json_object_get(json_array_get(list, 0), "id"));
    if (first == NULL) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "the list of models has no model with an id");
    }
    const json_t *model = NULL;
    for (size_t i = 0; model == NULL && i < json_array_size(list); i++) {
        const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
        if (id != NULL && (name[0] == '\0' || strcmp(id, name) == 0)) {
            model = json_array_get(list, i);
        }
    }
    char clean[64];
    shoal_reply_copy_clean(clean, sizeof(clean), first);
    if (model == NULL) {
        return shoal_err_set(err, SHOAL_E_NOTFOUND,
                             "it has no model \"%.100s\"; its first is \"%s\"", name, clean);
    }
    const char *id = json_string_value(json_object_get(model, "id"));
    char same[SHOAL_REPLY_NAME_MAX];
    shoal_reply_copy_clean(same, sizeof(same), id);
    if (id[0] == '\0' || strcmp(same, id) != 0) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "a model's id has %zu bytes; 1 to %d without control characters and "
                             "quotes are taken",
                             strlen(id), SHOAL_REPLY_NAME_MAX - 1);
    }
    const json_t *meta = json_object_get(model, "meta");
    const char *owner = json_string_value(json_object_get(model, "owned_by"));
    shoal_reply_model m = {.n_ctx = count_of(json_object_get(model, "max_model_len")),
                           .n_vocab = count_of(json_object_get(meta, "n_vocab"))};
    if (m.n_ctx == 0) {
        m.n_ctx = count_of(json_object_get(meta, "n_ctx"));
    }
    (void)snprintf(m.id, sizeof(m.id), "%s", id);
    shoal_reply_copy_clean(m.owner, sizeof(m.owner), owner != NULL ? owner : "");
    *ret_model = m;
    return SHOAL_OK;
}
