/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to jansson: questions from a file, one JSON object a line.
 */
#include "cloud/forge/eval.h"

#include "common/base/file.h"

#include <jansson.h>
#include <string.h>

static void json_cleanup(json_t **p)
{
    json_decref(*p);
}

/* A text field within the limits; fallback NULL: it must be there. */
static shoal_status field(const json_t *line, const char *key, const char *fallback,
                          const char **ret_text, shoal_err *err)
{
    const json_t *value = json_object_get(line, key);
    if (!value && fallback) {
        *ret_text = fallback;
        return SHOAL_OK;
    }
    if (!json_is_string(value)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "\"%s\" is missing or no string", key);
    }
    if (json_string_length(value) > EVAL_TEXT_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "\"%s\" has %zu bytes, more than %d", key,
                             json_string_length(value), (int)EVAL_TEXT_MAX);
    }
    *ret_text = json_string_value(value);
    return SHOAL_OK;
}

static shoal_status add_line(eval_quiz *quiz, const shoal_tokenizer *tokenizer, const char *split,
                             const char *text, size_t n, shoal_err *err)
{
    json_error_t why;
    SHOAL_CLEANUP(json_cleanup) json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    const char *kind = NULL;
    const char *prompt = NULL;
    const char *answer = NULL;
    const char *own_split = NULL;
    double weight = 1;
    if (!line) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no JSON: %s", why.text);
    }
    SHOAL_TRY(field(line, "split", "test", &own_split, err));
    SHOAL_TRY(field(line, "kind", NULL, &kind, err));
    SHOAL_TRY(field(line, "prompt", NULL, &prompt, err));
    SHOAL_TRY(field(line, "answer", NULL, &answer, err));
    const json_t *number = json_object_get(line, "weight");
    if (number) {
        weight = json_number_value(number); /* 0 when it is none */
        if (!(weight > 0 && weight < 1e300)) {
            return shoal_err_set(err, SHOAL_E_INVALID, "\"weight\" is no number above 0");
        }
        quiz->weighted = quiz->weighted || weight != 1;
    }
    return !split || strcmp(own_split, split) == 0
               ? shoal_forge_quiz_add(quiz, tokenizer, kind, prompt, answer, weight, err)
               : SHOAL_OK;
}

shoal_status shoal_forge_quiz_add_jsonl(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                        const char *path, const char *split, size_t n_max,
                                        shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read(path, EVAL_FILE_MAX, &text, err));
    const char *at = text.data ? text.data : "";
    const char *end = at + text.length;
    for (size_t line = 1; at < end && (n_max == 0 || quiz->n < n_max); line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        if (strspn(at, " \t\r") < n) {
            shoal_status status = add_line(quiz, tokenizer, split, at, n, err);
            if (status != SHOAL_OK) {
                shoal_err_prefix(err, "%s:%zu", path, line);
                return status;
            }
        }
        at += n + 1;
    }
    return SHOAL_OK;
}
