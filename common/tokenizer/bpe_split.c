/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to PCRE2: cuts text into the pieces BPE works on. A rule is a row of expressions, as
 * published with the vocabularies: the first cuts the text into its matches and what is between
 * them, the next cuts each of those pieces again, and so on. Most rules have one expression, which
 * matches at least one character wherever it is tried. An expression sees the piece that it cuts
 * and nothing around it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

/* Unicode's White_Space, which PCRE2's \s is not quite (it also takes U+180E). For use inside a
 * class. */
#define WS "\\t-\\r\\x{85}\\p{Z}"
/* What the rule called default treats as punctuation. */
#define PUNCT "\\p{P}$+<=>^~|"
/* Letters with an upper and a lower case, as DeepSeek LLM lists them. */
#define CASED                                                                                      \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}"                 \
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}-\\x{377}\\x{37B}-\\x{37D}"        \
    "\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}"                  \
    "\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}"                       \
    "\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"                 \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}"                 \
    "\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}"        \
    "\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}"         \
    "\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"                 \
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                  \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}"        \
    "\\x{214E}\\x{2183}-\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}"        \
    "\\x{2CF2}-\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}"                 \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}"                 \
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"               \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}"         \
    "\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
/* Its punctuation, ASCII's and East Asia's. */
#define CJK_PUNCT                                                                                  \
    "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
/* What DeepSeek LLM and Coder take for East Asian, which is most of the plane from U+0800 on. */
#define EAST "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"

/* GPT-2 (openai/gpt-2, encoder.py). */
#define RULE_GPT2                                                                                  \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+"                         \
    "|[" WS "]+(?![^" WS "])|[" WS "]+"
/* Runs of punctuation alone, then as GPT-2, then runs of numbers alone, then ASCII digits by three,
 * in one expression that cuts in the same places. */
#define RULE_DEFAULT                                                                               \
    "[" PUNCT "]+| ?\\p{L}+|[0-9]{3}|(?:(?![0-9]{3})\\p{N})++| ?[^" WS "\\p{L}\\p{N}" PUNCT "]+"   \
    "|[" WS "]+(?![^" WS PUNCT "])|[" WS "]+"
/* What the rules below end with. */
#define TAIL(after) " ?[^" WS "\\p{L}\\p{N}]+[\\r\\n" after "]*|[" WS "]*[\\r\\n]+" SPACES
#define SPACES      "|[" WS "]+(?![^" WS "])|[" WS "]+"
/* Llama 3 (meta-llama, tokenizer.py); Qwen 2 differs in taking digits one by one. */
#define RULE_LLAMA3(digits)                                                                        \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "|" TAIL("")
/* GPT-4o (openai/tiktoken, o200k_base): a change from lower to upper case begins a word. Tekken
 * knows no contractions and takes digits one by one. */
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define RULE_CASES(ending, digits)                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" ending "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER       \
    "]+[" LOWER "]*" ending "|" digits "|" TAIL("/")
/* DeepSeek V3 (tokenizer.json), the last of its three expressions. */
#define RULE_DEEPSEEK3                                                                             \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                        \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|[" WS "]*[\\r\\n]+" SPACES

enum {
    PASSES_MAX = 6
};

typedef struct rule {
    const char *names;                /* each followed by a space; the first is the canonical one */
    const char *patterns[PASSES_MAX]; /* NULL: no more */
    bool ignore_merges;
    bool add_bos; /* unless the file says otherwise */
} rule;

static const rule rules[] = {
    {.names = "gpt-2 phi-2 mpt olmo ", .patterns = {RULE_GPT2}},
    {.names = "default ", .patterns = {RULE_DEFAULT}},
    {.names = "smollm starcoder refact command-r ", .patterns = {"\\p{N}", RULE_GPT2}},
    {.names = "llama-bpe llama3 llama-v3 falcon3 ",
     .patterns = {RULE_LLAMA3("\\p{N}{1,3}")},
     .ignore_merges = true,
     .add_bos = true},
    {.names = "dbrx ", .patterns = {RULE_LLAMA3("\\p{N}{1,3}")}},
    {.names = "qwen2 deepseek-r1-qwen ", .patterns = {RULE_LLAMA3("\\p{N}")}},
    {.names = "gpt-4o llama4 ",
     .patterns = {RULE_CASES("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}")}},
    {.names = "tekken ",
     .patterns = {RULE_CASES("", "\\p{N}")},
     .ignore_merges = true,
     .add_bos = true},
    /* Every expression is searched for, so white space at the end is only tried where a run of it
     * begins: else a long run elsewhere would be walked from each of its characters. */
    {.names = "deepseek-llm ",
     .patterns = {"[\\r\\n]", "[" WS "]?[" CASED "]+", "[" WS "]?[" CJK_PUNCT "]+",
                  "(?<![" WS "])[" WS "]++$", EAST, "\\p{N}+"}},
    {.names = "deepseek-coder ",
     .patterns = {"[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", EAST, "\\p{N}"}},
    {.names = "deepseek-v3 ",
     .patterns = {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+", RULE_DEEPSEEK3}},
};

enum {
    MATCH_LIMIT = 64 << 20, /* backtracks of one match: twice a whole text of white space */
    DEPTH_LIMIT = 1000,     /* no rule nests */
    HEAP_LIMIT_KIB = 4096   /* no rule needs more than a few frames */
};

struct shoal_bpe_split {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *codes[PASSES_MAX];
    size_t n_codes;
};

/* The piece of each expression that the next piece of the text lies in. */
struct shoal_bpe_match {
    pcre2_match_data *data;
    size_t begin[PASSES_MAX];
    size_t end[PASSES_MAX];
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

size_t shoal_bpe_n_rules(void)
{
    return SHOAL_COUNT(rules);
}

shoal_str shoal_bpe_rule_name(size_t rule_i, size_t i)
{
    const char *at = rules[rule_i].names;
    for (; i > 0 && *at; i--) {
        at += strcspn(at, " ") + 1;
    }
    return (shoal_str){.data = at, .length = strcspn(at, " ")};
}

static shoal_status compile(shoal_bpe_split *split, const rule *from)
{
    split->memory = pcre2_general_context_create(take, give, NULL);
    if (!split->memory) {
        return SHOAL_E_NOMEM;
    }
    split->limits = pcre2_match_context_create(split->memory);
    pcre2_compile_context *context = pcre2_compile_context_create(split->memory);
    shoal_status status = split->limits && context ? SHOAL_OK : SHOAL_E_NOMEM;
    while (status == SHOAL_OK && split->n_codes < PASSES_MAX && from->patterns[split->n_codes]) {
        int code = 0;
        PCRE2_SIZE offset = 0;
        pcre2_code *compiled =
            pcre2_compile((PCRE2_SPTR)from->patterns[split->n_codes], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP, &code, &offset, context);
        if (!compiled) {
            status = code == PCRE2_ERROR_HEAP_FAILED ? SHOAL_E_NOMEM : SHOAL_E_INTERNAL;
        } else {
            split->codes[split->n_codes++] = compiled;
        }
    }
    pcre2_compile_context_free(context);
    if (status == SHOAL_OK) {
        (void)pcre2_set_match_limit(split->limits, MATCH_LIMIT);
        (void)pcre2_set_depth_limit(split->limits, DEPTH_LIMIT);
        (void)pcre2_set_heap_limit(split->limits, HEAP_LIMIT_KIB);
    }
    return status;
}

/* All names, with commas. */
static void list_rules(char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (size_t i = 0; i < SHOAL_COUNT(rules); i++) {
        for (const char *name = rules[i].names; *name; name++) {
            if (at + 3 < size) {
                bool end = *name == ' ';
                bool last = end && name[1] == '\0' && i + 1 == SHOAL_COUNT(rules);
                at += (size_t)snprintf(text + at, size - at, "%c%s", end && !last ? ',' : *name,
                                       end && !last ? " " : "");
            }
        }
    }
}

shoal_status shoal_bpe_split_new(shoal_str pre, shoal_bpe_split **ret_split,
                                 shoal_bpe_traits *ret_traits, shoal_err *err)
{
    const rule *found = find_rule(pre);
    if (!found) {
        char known[SHOAL_ERR_TEXT_MAX];
        list_rules(known, sizeof(known));
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "tokenizer.ggml.pre \"%.*s\" is not known: %sare",
                             (int)SHOAL_MIN(pre.length, (size_t)24), pre.data, known);
    }
    SHOAL_CLEANUP(shoal_bpe_split_freep) shoal_bpe_split *split = shoal_calloc(1, sizeof(*split));
    shoal_status status = split ? compile(split, found) : SHOAL_E_NOMEM;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "the splitting rule of tokenizer.ggml.pre: %s",
                             shoal_status_text(status));
    }
    *ret_split = SHOAL_STEAL(split);
    shoal_str name = {.data = found->names, .length = strcspn(found->names, " ")};
    *ret_traits = (shoal_bpe_traits){
        .name = name, .ignore_merges = found->ignore_merges, .add_bos = found->add_bos};
    return SHOAL_OK;
}

void shoal_bpe_split_free(shoal_bpe_split *split)
{
    if (!split) {
        return;
    }
    for (size_t i = 0; i < split->n_codes; i++) {
        pcre2_code_free(split->codes[i]);
    }
    pcre2_match_context_free(split->limits);
    pcre2_general_context_free(split->memory);
    shoal_free(split);
}

shoal_status shoal_bpe_match_new(const shoal_bpe_split *split, shoal_bpe_match **ret_match)
{
    shoal_bpe_match *match = shoal_calloc(1, sizeof(*match));
    pcre2_match_data *data = match ? pcre2_match_data_create(1, split->memory) : NULL;
    if (!data) {
        shoal_free(match);
        return SHOAL_E_NOMEM;
    }
    match->data = data;
    *ret_match = match;
    return SHOAL_OK;
}

void shoal_bpe_match_free(shoal_bpe_match *match)
{
    if (match) {
        pcre2_match_data_free(match->data);
        shoal_free(match);
    }
}

/* The end of what code cuts off at offset of the n bytes at text: a match, or all up to the next
 * match. */
static shoal_status cut(const shoal_bpe_split *split, const pcre2_code *code,
                        pcre2_match_data *data, shoal_str text, size_t offset, size_t *ret_end,
                        shoal_err *err)
{
    /* The caller has checked the text; checking it again at every match would be quadratic. */
    int rc = pcre2_match(code, (PCRE2_SPTR)text.data, text.length, offset, PCRE2_NO_UTF_CHECK, data,
                         split->limits);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *ret_end = text.length;
        return SHOAL_OK;
    }
    if (rc < 0) {
        if (rc == PCRE2_ERROR_NOMEMORY) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory while cutting the text");
        }
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "the text cannot be cut into pieces at byte %zu (PCRE2 error %d)",
                             offset, rc);
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(data);
    SHOAL_ASSERT(ends[0] >= offset && ends[1] > ends[0] && ends[1] <= text.length);
    *ret_end = ends[0] > offset ? ends[0] : ends[1];
    return SHOAL_OK;
}

shoal_status shoal_bpe_split_next(const shoal_bpe_split *split, shoal_bpe_match *match,
                                  shoal_str text, size_t offset, size_t *ret_length, shoal_err *err)
{
    if (offset == 0) {
        memset(match->end, 0, sizeof(match->end));
    }
    size_t begin = 0;
    size_t end = text.length;
    for (size_t i = 0; i < split->n_codes; i++) {
        if (match->end[i] <= offset) {
            size_t cut_at = 0;
            shoal_str piece = {.data = text.data + begin, .length = end - begin};
            SHOAL_TRY(
                cut(split, split->codes[i], match->data, piece, offset - begin, &cut_at, err));
            match->begin[i] = offset;
            match->end[i] = begin + cut_at;
        }
        begin = match->begin[i];
        end = match->end[i];
    }
    *ret_length = end - offset;
    return SHOAL_OK;
}
