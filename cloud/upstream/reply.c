/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/upstream/reply_internal.h"

#include "cloud/upstream/retoken.h"
#include "common/base/json_memory.h"
#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- JSON memory ------------------------------------------------------------------------------ */

void shoal_reply_init(void)
{
    json_set_alloc_funcs(shoal_json_allocate, shoal_json_free);
}

void shoal_reply_free_json(json_t **json)
{
    json_decref(*json);
}

/* NULL: not JSON, or over the budget; err says where. */
json_t *shoal_reply_load(const char *text, size_t n, shoal_err *err)
{
    json_error_t why = {0};
    json_t *root = NULL;
    if (shoal_json_memory_begin(n, SHOAL_REPLY_JSON_BUDGET) == SHOAL_OK) {
        root = n > 0 ? json_loadb(text, n, JSON_ALLOW_NUL, &why) : NULL;
        if (shoal_json_memory_judge() != SHOAL_OK) {
            json_decref(root);
            root = NULL;
        }
        shoal_json_memory_end();
    }
    if (root == NULL) {
        /* The parser's own words may hold a piece of the text: they are left out. */
        (void)shoal_err_set(err, SHOAL_E_PROTOCOL,
                            "%zu bytes are no JSON, or need more than %d MiB: line %d, column %d",
                            n, SHOAL_REPLY_JSON_BUDGET >> 20, why.line, why.column);
    }
    return root;
}

/* --- small pieces ----------------------------------------------------------------------------- */

void shoal_reply_copy_clean(char *out, size_t n_out, const char *text)
{
    size_t n = 0;
    for (; text[n] != '\0' && n + 1 < n_out; n++) {
        unsigned char c = (unsigned char)text[n];
        out[n] = c < 0x20 || c == 0x7f || c == '"' ? '?' : (char)c;
    }
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) {
        n--; /* not within a character */
    }
    out[n] = '\0';
}

/* {"error": {"message": ...}} or {"error": "..."} or, of older vLLM, {"object": "error", ...}. */
static const char *error_message(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const char *object = json_string_value(json_object_get(root, "object"));
    if (object != NULL && strcmp(object, "error") == 0) {
        error = root;
    }
    if (json_is_string(error)) {
        return json_string_value(error);
    }
    if (!json_is_object(error)) {
        return NULL;
    }
    const char *text = json_string_value(json_object_get(error, "message"));
    return text != NULL ? text : "no message";
}

void shoal_reply_error_text(const char *json, size_t n, char *out, size_t n_out)
{
    out[0] = '\0';
    SHOAL_CLEANUP(shoal_reply_free_json) json_t *root = shoal_reply_load(json, n, NULL);
    const char *text = root != NULL ? error_message(root) : NULL;
    if (text != NULL) {
        shoal_reply_copy_clean(out, SHOAL_MIN(n_out, (size_t)161), text);
    }
}

static bool is_id(const json_t *value, size_t n_vocab, int32_t *ret_id)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || (uint64_t)id >= n_vocab) {
        return false;
    }
    *ret_id = (int32_t)id;
    return true;
}

/* Digits alone, below n_vocab. */
bool shoal_reply_parse_id(const char *text, size_t n_vocab, int32_t *ret_id)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 9 || text[n] != '\0') {
        return false;
    }
    int32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        id = id * 10 + (text[i] - '0');
    }
    *ret_id = id;
    return (size_t)id < n_vocab;
}

static const char id_prefix[] = "token_id:";

bool shoal_reply_parse_prefixed_id(const char *text, size_t n_vocab, int32_t *ret_id)
{
    size_t n = sizeof(id_prefix) - 1;
    return text != NULL && strncmp(text, id_prefix, n) == 0 &&
           shoal_reply_parse_id(text + n, n_vocab, ret_id);
}

float shoal_reply_probability(double logprob)
{
    return logprob <= 0.0 ? (float)exp(logprob) : 0.0f;
}

static float probability_of(const json_t *logprob)
{
    return json_is_number(logprob) ? shoal_reply_probability(json_number_value(logprob)) : 0.0f;
}

static const json_t *first_choice(const json_t *root)
{
    return json_array_get(json_object_get(root, "choices"), 0);
}

/* --- chunks ----------------------------------------------------------------------------------- */

void shoal_reply_chunk_fini(shoal_reply_chunk *chunk)
{
    shoal_buf_fini(&chunk->text);
}

/* Where ids may stand: the lists, and how an entry tells its id and its probability. */
typedef struct id_source {
    const json_t *list;
    const json_t *logprobs; /* a list beside it, or NULL */
    const char *id_field;   /* of an entry that is an object; NULL: the entry itself */
    bool prefixed;          /* the entry is a text "token_id:N" */
} id_source;

static id_source find_ids(const json_t *root, const json_t *choice)
{
    const json_t *logprobs = json_object_get(choice, "logprobs");
    const json_t *beside = json_object_get(logprobs, "token_logprobs");
    const json_t *list = json_object_get(choice, "token_ids");
    if (json_is_array(list)) {
        bool fits = json_array_size(beside) == json_array_size(list);
        return (id_source){.list = list, .logprobs = fits ? beside : NULL};
    }
    list = json_object_get(logprobs, "tokens");
    const char *text = json_string_value(json_array_get(list, 0));
    if (text != NULL && strncmp(text, id_prefix, sizeof(id_prefix) - 1) == 0) {
        return (id_source){.list = list, .logprobs = beside, .prefixed = true};
    }
    list = json_object_get(logprobs, "content");
    if (json_is_object(json_array_get(list, 0)) &&
        json_object_get(json_array_get(list, 0), "id") != NULL) {
        return (id_source){.list = list, .id_field = "id"};
    }
    list = json_object_get(json_object_get(root, "shoal"), "tokens");
    return (id_source){.list = json_is_array(list) ? list : NULL, .id_field = "id"};
}

static float confidence_at(const id_source *source, const json_t *entry, size_t i)
{
    if (source->logprobs != NULL) {
        return probability_of(json_array_get(source->logprobs, i));
    }
    const json_t *own = json_object_get(entry, "confidence");
    double x = json_number_value(own);
    if (json_is_number(own)) {
        return x >= 0.0 && x <= 1.0 ? (float)x : 0.0f;
    }
    return probability_of(json_object_get(entry, "logprob"));
}

static shoal_status read_ids(const id_source *source, size_t n_vocab, shoal_reply_chunk *chunk,
                             shoal_err *err)
{
    size_t n = json_array_size(source->list);
    if (n > SHOAL_REPLY_IDS_MAX) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "a chunk of %zu tokens; at most %d", n,
                             SHOAL_REPLY_IDS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *entry = json_array_get(source->list, i);
        const json_t *id =
            source->id_field != NULL ? json_object_get(entry, source->id_field) : entry;
        bool good = source->prefixed ? shoal_reply_parse_prefixed_id(json_string_value(id), n_vocab,
                                                                     &chunk->ids[i])
                                     : is_id(id, n_vocab, &chunk->ids[i]);
        if (!good) {
            return shoal_err_set(err, SHOAL_E_PROTOCOL,
                                 "token %zu of a chunk is no id below %zu: another tokenizer?", i,
                                 n_vocab);
        }
        chunk->confidences[i] = confidence_at(source, entry, i);
    }
    chunk->n_ids = n;
    chunk->has_ids = n > 0;
    return SHOAL_OK;
}

static shoal_status read_finish(const json_t *choice, shoal_reply_chunk *chunk, shoal_err *err)
{
    const json_t *reason = json_object_get(choice, "finish_reason");
    if (reason == NULL || json_is_null(reason)) {
        return SHOAL_OK;
    }
    const char *text = json_string_value(reason);
    if (text != NULL && strcmp(text, "length") == 0) {
        chunk->finish = SHOAL_REPLY_LENGTH;
    } else if (text != NULL && (strcmp(text, "stop") == 0 || strcmp(text, "eos") == 0)) {
        chunk->finish = SHOAL_REPLY_STOP;
    } else {
        return shoal_err_set(err, SHOAL_E_PROTOCOL,
                             "the engine ended a completion neither by \"stop\" nor by \"length\"");
    }
    return SHOAL_OK;
}

static shoal_status check_error(const json_t *root, shoal_err *err)
{
    if (!json_is_object(root)) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "the answer is no JSON object");
    }
    const char *text = error_message(root);
    if (text == NULL) {
        return SHOAL_OK;
    }
    char clean[161];
    shoal_reply_copy_clean(clean, sizeof(clean), text);
    return shoal_err_set(err, SHOAL_E_UNAVAILABLE, "the engine says: %s", clean);
}

shoal_status shoal_reply_chunk_read(const char *json, size_t n, size_t n_vocab,
                                    shoal_reply_chunk *chunk, shoal_err *err)
{
    shoal_buf_reset(&chunk->text);
    chunk->has_ids = false;
    chunk->n_ids = 0;
    chunk->finish = SHOAL_REPLY_GOES_ON;
    SHOAL_CLEANUP(shoal_reply_free_json) json_t *root = shoal_reply_load(json, n, err);
    if (root == NULL) {
        return SHOAL_E_PROTOCOL;
    }
    SHOAL_TRY(check_error(root, err));
    const json_t *choices = json_object_get(root, "choices");
    if (!json_is_array(choices)) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "a chunk has no list of choices");
    }
    const json_t *choice = first_choice(root);
    if (choice == NULL) {
        return SHOAL_OK;
    }
    const json_t *text = json_object_get(choice, "text");
    if (text != NULL && !json_is_null(text) && !json_is_string(text)) {
        return shoal_err_set(err, SHOAL_E_PROTOCOL, "choices[0].text is no string");
    }
    SHOAL_TRY(read_finish(choice, chunk, err));
    if (json_is_string(text)) {
        SHOAL_TRY(
            shoal_buf_append(&chunk->text, json_string_value(text), json_string_length(text)));
    }
    id_source source = find_ids(root, choice);
    return source.list != NULL ? read_ids(&source, n_vocab, chunk, err) : SHOAL_OK;
}
