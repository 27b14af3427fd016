/* SPDX-License-Identifier: Apache-2.0
 *
 * Where questions come from: a file of them, or the field-service assistant's generator.
 */
#include "cloud/forge/calibrate.h"
#include "cloud/forge/field.h"

#include <stdlib.h>
#include <string.h>

typedef struct field_spec {
    forge_split split;
    uint64_t first;
    uint64_t n;
    uint64_t seed;
    uint64_t entries;
    double exponent;
} field_spec;

static shoal_status bad_spec(const char *at, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "--data field: \"%.40s\": keys are split=dev|test|..., n, first, seed, "
                         "entries (whole numbers) and exponent (0, 0.25, ... 2), with commas "
                         "between them",
                         at);
}

static bool parse_count(const char *text, const char *end, uint64_t *ret_count)
{
    char *stop = NULL;
    unsigned long long value = strtoull(text, &stop, 10);
    *ret_count = value;
    return text < end && *text >= '0' && *text <= '9' && stop == end;
}

static bool parse_split(const char *text, size_t n, field_spec *spec)
{
    char name[16] = {0};
    memcpy(name, text, SHOAL_MIN(n, sizeof name - 1));
    return n < sizeof name && shoal_forge_split_find(name, &spec->split);
}

/* One "key=value" of n bytes; a word alone is a split. */
static shoal_status parse_pair(const char *at, size_t n, field_spec *spec, shoal_err *err)
{
    const char *end = at + n;
    const char *sign = memchr(at, '=', n);
    size_t length = sign ? (size_t)(sign - at) : 0;
    if (!sign) {
        return parse_split(at, n, spec) ? SHOAL_OK : bad_spec(at, err);
    }
    const struct {
        const char *key;
        uint64_t *slot;
    } counts[] = {{"first", &spec->first},
                  {"n", &spec->n},
                  {"seed", &spec->seed},
                  {"entries", &spec->entries}};
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        if (length == strlen(counts[i].key) && memcmp(at, counts[i].key, length) == 0) {
            return parse_count(sign + 1, end, counts[i].slot) ? SHOAL_OK : bad_spec(at, err);
        }
    }
    if (length == strlen("exponent") && memcmp(at, "exponent", length) == 0) {
        char *stop = NULL;
        spec->exponent = strtod(sign + 1, &stop);
        bool valid = stop == end && shoal_forge_exponent_valid(spec->exponent);
        return valid ? SHOAL_OK : bad_spec(at, err);
    }
    if (length == strlen("split") && memcmp(at, "split", length) == 0) {
        bool valid = parse_split(sign + 1, (size_t)(end - sign - 1), spec);
        return valid ? SHOAL_OK : bad_spec(at, err);
    }
    return bad_spec(at, err);
}

static shoal_status add_field(eval_quiz *quiz, const shoal_tokenizer *tokenizer, const char *text,
                              uint64_t seed, shoal_err *err)
{
    field_spec spec = {.split = FORGE_SPLIT_DEV,
                       .n = 1000,
                       .seed = seed,
                       .entries = FORGE_FIELD_ENTRIES_DEFAULT,
                       .exponent = 1};
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ",");
        SHOAL_TRY(parse_pair(at, n, &spec, err));
        at += n + (at[n] == ',' ? 1 : 0);
    }
    if (spec.n < 1 || spec.n > EVAL_QUESTIONS_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "--data field: n=%llu is outside 1 to %d",
                             (unsigned long long)spec.n, (int)EVAL_QUESTIONS_MAX);
    }
    SHOAL_CLEANUP(shoal_forge_field_freep) forge_field *field = NULL;
    SHOAL_TRY(shoal_forge_field_new(spec.seed, (size_t)spec.entries, &field, err));
    return shoal_forge_quiz_add_field(quiz, tokenizer, field, spec.split, spec.exponent, spec.first,
                                      (size_t)spec.n, err);
}

shoal_status shoal_forge_calib_questions(const char *data, const shoal_tokenizer *tokenizer,
                                         uint64_t seed, eval_quiz *quiz, shoal_err *err)
{
    static const char field[] = "field:";
    if (strncmp(data, field, sizeof field - 1) == 0) {
        return add_field(quiz, tokenizer, data + sizeof field - 1, seed, err);
    }
    SHOAL_TRY(shoal_forge_quiz_add_jsonl(quiz, tokenizer, data, NULL, 0, err));
    if (quiz->n == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%s: the file has no questions", data);
    }
    return SHOAL_OK;
}
