/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to PCRE2: cuts text into the pieces BPE works on. Every rule below matches at least
 * one character wherever it is tried, so a match is anchored and never searches ahead. Where a
 * published rule is a row of expressions applied one after the other, it is written here as the
 * one expression that cuts in the same places.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <string.h>

/* Unicode's White_Space, which PCRE2's \s is not quite (it also takes U+180E). For use inside a
 * class. */
#define WS "\\t-\\r\\x{85}\\p{Z}"
/* What the rule called default treats as punctuation. */
#define PUNCT "\\p{P}$+<=>^~|"

/* GPT-2 (openai/gpt-2, encoder.py). */
#define RULE_GPT2                                                                                  \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+"                         \
    "|[" WS "]+(?![^" WS "])|[" WS "]+"
/* Every digit alone, then as GPT-2; a digit has lost the space before it. */
#define RULE_DIGITS                                                                                \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+|\\p{N}| ?[^" WS "\\p{L}\\p{N}]+"                            \
    "|[" WS "]+(?![^" WS "\\p{N}])|[" WS "]+"
/* Runs of punctuation alone, then as GPT-2, then runs of numbers alone, then ASCII digits by
 * three. */
#define RULE_DEFAULT                                                                               \
    "[" PUNCT "]+| ?\\p{L}+|[0-9]{3}|(?:(?![0-9]{3})\\p{N})+| ?[^" WS "\\p{L}\\p{N}" PUNCT "]+"    \
    "|[" WS "]+(?![^" WS PUNCT "])|[" WS "]+"
/* Llama 3 (meta-llama, tokenizer.py); Qwen 2 differs in taking digits one by one. */
#define RULE_LLAMA3(digits)                                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS                \
    "\\p{L}\\p{N}]+[\\r\\n]*|[" WS "]*[\\r\\n]+|[" WS "]+(?![^" WS "])|[" WS "]+"

typedef struct rule {
    const char *names; /* each followed by a space; the first is the canonical one */
    const char *pattern;
    bool ignore_merges;
} rule;

static const rule rules[] = {
    {.names = "gpt-2 phi-2 mpt olmo ", .pattern = RULE_GPT2, .ignore_merges = false},
    {.names = "default ", .pattern = RULE_DEFAULT, .ignore_merges = false},
    {.names = "smollm starcoder refact command-r ", .pattern = RULE_DIGITS, .ignore_merges = false},
    {.names = "llama-bpe llama3 llama-v3 falcon3 ",
     .pattern = RULE_LLAMA3("\\p{N}{1,3}"),
     .ignore_merges = true},
    {.names = "qwen2 deepseek-r1-qwen ", .pattern = RULE_LLAMA3("\\p{N}"), .ignore_merges = false},
};

enum {
    MATCH_LIMIT = 64 << 20, /* backtracks of one match: twice a whole text of white space */
    DEPTH_LIMIT = 1000,     /* no rule nests */
    HEAP_LIMIT_KIB = 4096   /* no rule needs more than a few frames */
};

struct shoal_bpe_split {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *code;
};

static void *take(size_t size, void *ctx)
{
    (void)ctx;
    return shoal_calloc(1, size);
}

static void give(void *p, void *ctx)
{
    (void)ctx;
    shoal_free(p);
}

static const rule *find_rule(shoal_str name)
{
    for (size_t i = 0; i < SHOAL_COUNT(rules); i++) {
        const char *at = rules[i].names;
        while (*at) {
            size_t length = strcspn(at, " ");
            if (length == name.length && memcmp(at, name.data, length) == 0) {
                return &rules[i];
            }
            at += length + 1;
        }
    }
    return NULL;
}

static shoal_status compile(shoal_bpe_split *split, const char *pattern)
{
    int code = 0;
    PCRE2_SIZE offset = 0;
    split->memory = pcre2_general_context_create(take, give, NULL);
    if (!split->memory) {
        return SHOAL_E_NOMEM;
    }
    split->limits = pcre2_match_context_create(split->memory);
    pcre2_compile_context *context = pcre2_compile_context_create(split->memory);
    if (split->limits && context) {
        split->code =
            pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &code, &offset, context);
    }
    pcre2_compile_context_free(context);
    if (!split->code) {
        return code == 0 || code == PCRE2_ERROR_HEAP_FAILED ? SHOAL_E_NOMEM : SHOAL_E_INTERNAL;
    }
    (void)pcre2_set_match_limit(split->limits, MATCH_LIMIT);
    (void)pcre2_set_depth_limit(split->limits, DEPTH_LIMIT);
    (void)pcre2_set_heap_limit(split->limits, HEAP_LIMIT_KIB);
    return SHOAL_OK;
}

shoal_status shoal_bpe_split_new(shoal_str pre, shoal_bpe_split **ret_split, const char **ret_pre,
                                 bool *ret_ignore_merges, shoal_err *err)
{
    const rule *found = find_rule(pre);
    if (!found) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tokenizer.ggml.pre \"%.*s\" is not known: gpt-2, default, smollm, "
                             "starcoder, refact, command-r, phi-2, mpt, olmo, llama-bpe, llama3, "
                             "llama-v3, falcon3, qwen2, deepseek-r1-qwen are",
                             (int)SHOAL_MIN(pre.length, (size_t)40), pre.data);
    }
    SHOAL_CLEANUP(shoal_bpe_split_freep) shoal_bpe_split *split = shoal_calloc(1, sizeof(*split));
    shoal_status status = split ? compile(split, found->pattern) : SHOAL_E_NOMEM;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the splitting rule of tokenizer.ggml.pre: %s",
                             shoal_status_text(status));
    }
    *ret_split = SHOAL_STEAL(split);
    *ret_pre = found->names;
    *ret_ignore_merges = found->ignore_merges;
    return SHOAL_OK;
}

void shoal_bpe_split_free(shoal_bpe_split *split)
{
    if (!split) {
        return;
    }
    pcre2_code_free(split->code);
    pcre2_match_context_free(split->limits);
    pcre2_general_context_free(split->memory);
    shoal_free(split);
}

shoal_status shoal_bpe_match_new(const shoal_bpe_split *split, void **ret_match)
{
    pcre2_match_data *match = pcre2_match_data_create(1, split->memory);
    if (!match) {
        return SHOAL_E_NOMEM;
    }
    *ret_match = match;
    return SHOAL_OK;
}

void shoal_bpe_match_free(void *match)
{
    pcre2_match_data_free(match);
}

shoal_status shoal_bpe_split_next(const shoal_bpe_split *split, void *match, const char *text,
                                  size_t n, size_t offset, size_t *ret_length, shoal_err *err)
{
    /* The caller has checked the text; checking it again at every match would be quadratic. */
    int rc = pcre2_match(split->code, (PCRE2_SPTR)text, n, offset, PCRE2_NO_UTF_CHECK, match,
                         split->limits);
    if (rc < 0) {
        if (rc == PCRE2_ERROR_NOMEMORY) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory while cutting the text");
        }
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "the text cannot be cut into pieces at byte %zu (PCRE2 error %d)",
                             offset, rc);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    SHOAL_ASSERT(ends[0] == offset && ends[1] > offset && ends[1] <= n);
    *ret_length = ends[1] - offset;
    return SHOAL_OK;
}
