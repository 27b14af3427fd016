/* SPDX-License-Identifier: Apache-2.0
 *
 * What a tokenizer costs on vocabularies of real size: opening the file's metadata, building the
 * tokenizer, encoding. The vocabularies are made here of random words, with the counts of Llama 3
 * (128k tokens, 280k rules), GPT-2 and Llama 2.
 */
#include "tests/bench/bench.h"

#include "common/base/mem.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SET_SLOTS = 1 << 19, /* more than twice the largest vocabulary */
    WORD_MAX = 24,       /* bytes of a made-up token */
    TEXT_BYTES = 1 << 16
};

/* A vocabulary under construction. */
typedef struct maker {
    shoal_str *tokens;
    size_t n_tokens;
    size_t first_part; /* words are made of tokens from here on */
    shoal_str *merges;
    size_t n_merges;
    size_t merges_max;
    uint32_t *set; /* id + 1 by text; open addressing */
    char *arena;
    size_t arena_used;
    uint64_t random;
} maker;

static uint64_t next_random(maker *m)
{
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * UINT64_C(2685821657736338717);
}

static shoal_str keep(maker *m, const char *text, size_t n)
{
    char *at = m->arena + m->arena_used;
    memcpy(at, text, n);
    m->arena_used += n;
    return (shoal_str){.data = at, .length = n};
}

static uint32_t *slot_of(const maker *m, const char *text, size_t n)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (uint8_t)text[i]) * UINT64_C(1099511628211);
    }
    for (size_t i = hash % SET_SLOTS;; i = (i + 1) % SET_SLOTS) {
        uint32_t id = m->set[i];
        if (id == 0 ||
            (m->tokens[id - 1].length == n && memcmp(m->tokens[id - 1].data, text, n) == 0)) {
            return &m->set[i];
        }
    }
}

static void add_token(maker *m, const char *text, size_t n)
{
    m->tokens[m->n_tokens] = keep(m, text, n);
    *slot_of(m, text, n) = (uint32_t)++m->n_tokens;
}

static void add_rule(maker *m, const char *text, size_t left, size_t n)
{
    if (m->n_merges == m->merges_max) {
        return;
    }
    char rule[WORD_MAX + 1];
    memcpy(rule, text, left);
    rule[left] = ' ';
    memcpy(rule + left + 1, text + left, n - left);
    m->merges[m->n_merges++] = keep(m, rule, n + 1);
}

/* A new token of two older ones, with a rule for each way to make it, as converters write them. */
static void add_word(maker *m)
{
    char text[WORD_MAX];
    size_t n = 0;
    do {
        size_t parts = m->n_tokens - m->first_part;
        size_t pool = next_random(m) % 2 ? parts : SHOAL_MIN(parts, (size_t)4000);
        const shoal_str *of = m->tokens + m->first_part;
        shoal_str left = of[next_random(m) % pool];
        shoal_str right = of[next_random(m) % SHOAL_MIN(parts, (size_t)600)];
        n = left.length + right.length;
        if (n <= WORD_MAX) {
            memcpy(text, left.data, left.length);
            memcpy(text + left.length, right.data, right.length);
        }
    } while (n > WORD_MAX || *slot_of(m, text, n) != 0);
    for (size_t left = 1; left < n; left++) {
        if (*slot_of(m, text, left) != 0 && *slot_of(m, text + left, n - left) != 0) {
            add_rule(m, text, left, n);
        }
    }
    add_token(m, text, n);
}

/* The texts of the bytes come first; SPM's are no part of words, so letters follow there. */
static void make_words(maker *m, bool spm, size_t n_tokens)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        size_t n = 6;
        if (spm) {
            (void)snprintf(text, sizeof text, "<0x%02X>", byte);
        } else {
            n = shoal_bpe_char_of_byte((uint8_t)byte, text);
        }
        add_token(m, text, n);
    }
    m->first_part = spm ? m->n_tokens : 0;
    for (char c = 'a'; spm && c <= 'z'; c++) {
        add_token(m, &c, 1);
    }
    if (spm) {
        add_token(m, "\xE2\x96\x81", 3);
    }
    while (m->n_tokens < n_tokens) {
        add_word(m);
    }
}

static shoal_status write_file(const maker *m, bool spm, shoal_buf *bytes)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *types = shoal_calloc(m->n_tokens, sizeof types[0]);
    SHOAL_CLEANUP(shoal_free_cleanup) float *scores = shoal_calloc(m->n_tokens, sizeof scores[0]);
    if (!types || !scores) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < m->n_tokens; i++) {
        types[i] = spm && i < 256 ? SHOAL_TOKEN_BYTE : SHOAL_TOKEN_NORMAL;
        scores[i] = -(float)i;
    }
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.model", spm ? "llama" : "gpt2"));
    SHOAL_TRY(shoal_gguf_put_str(writer, "tokenizer.ggml.pre", "llama-bpe"));
    SHOAL_TRY(shoal_gguf_put_str_array(writer, "tokenizer.ggml.tokens", m->tokens, m->n_tokens));
    SHOAL_TRY(shoal_gguf_put_i32_array(writer, "tokenizer.ggml.token_type", types, m->n_tokens));
    if (spm) {
        SHOAL_TRY(shoal_gguf_put_f32_array(writer, "tokenizer.ggml.scores", scores, m->n_tokens));
    } else {
        SHOAL_TRY(
            shoal_gguf_put_str_array(writer, "tokenizer.ggml.merges", m->merges, m->n_merges));
    }
    return shoal_gguf_writer_finish(writer, bytes, NULL);
}

static shoal_status make_file(bool spm, size_t n_tokens, size_t n_merges, shoal_buf *bytes)
{
    maker m = {.merges_max = spm ? 0 : n_merges, .random = 1};
    m.tokens = shoal_calloc(n_tokens + 300, sizeof m.tokens[0]);
    m.merges = shoal_calloc(n_merges, sizeof m.merges[0]);
    m.set = shoal_calloc(SET_SLOTS, sizeof m.set[0]);
    m.arena = shoal_calloc(n_tokens + n_merges + 300, WORD_MAX + 1);
    shoal_status status = SHOAL_E_NOMEM;
    if (m.tokens && m.merges && m.set && m.arena) {
        make_words(&m, spm, n_tokens);
        status = write_file(&m, spm, bytes);
    }
    shoal_free(m.tokens);
    shoal_free(m.merges);
    shoal_free(m.set);
    shoal_free(m.arena);
    return status;
}

/* --- what is measured ------------------------------------------------------------------------ */

typedef struct work {
    const shoal_buf *bytes;
    const shoal_gguf *gguf;
    const shoal_tokenizer *tokenizer;
    const char *text;
    size_t n_text;
} work;

static void must(shoal_status status, const shoal_err *err)
{
    if (status != SHOAL_OK) {
        (void)fprintf(stderr, "shoal-bench-tokenizer: %s\n", err->text);
        exit(1);
    }
}

static void run_open(void *context)
{
    const work *w = context;
    shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_gguf_open((const uint8_t *)w->bytes->data, w->bytes->length, &gguf, &err), &err);
    shoal_gguf_close(gguf);
}

static void run_new(void *context)
{
    const work *w = context;
    shoal_tokenizer *tokenizer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    must(shoal_tokenizer_new(w->gguf, &tokenizer, &err), &err);
    shoal_tokenizer_free(tokenizer);
}

static void run_encode(void *context)
{
    const work *w = context;
    int32_t *ids = NULL;
    size_t n = 0;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
    must(shoal_tokenizer_encode(w->tokenizer, w->text, w->n_text, flags, &ids, &n, &err), &err);
    shoal_free(ids);
}

static void fill_text(char *text, size_t n)
{
    static const char words[] = "the quick brown fox jumps over 12 lazy dogs, and it is fine.\n";
    maker m = {.random = 7};
    for (size_t i = 0; i < n; i++) {
        uint64_t r = next_random(&m);
        text[i] = r % 8 ? words[i % (sizeof words - 1)] : (char)('a' + (r >> 8) % 26);
    }
}

static void measure(bench_report *report, const bench_settings *settings, const char *name,
                    const char *shape, bench_fn *run, work *w, uint64_t bytes)
{
    bench_subject subject = {.name = name,
                             .shape = shape,
                             .variant = "-",
                             .bytes = bytes,
                             .flops = 0,
                             .run = run,
                             .context = w};
    bench_result result = bench_measure(settings, &subject);
    bench_report_row(report, &subject, &result);
}

static void measure_vocabulary(bench_report *report, const bench_settings *settings,
                               const char *shape, bool spm, size_t n_tokens, size_t n_merges)
{
    static char text[TEXT_BYTES];
    shoal_buf bytes = {.data = NULL};
    shoal_gguf *gguf = NULL;
    shoal_tokenizer *tokenizer = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    must(make_file(spm, n_tokens, n_merges, &bytes), &err);
    must(shoal_gguf_open((const uint8_t *)bytes.data, bytes.length, &gguf, &err), &err);
    must(shoal_tokenizer_new(gguf, &tokenizer, &err), &err);
    fill_text(text, sizeof text);
    work w = {
        .bytes = &bytes, .gguf = gguf, .tokenizer = tokenizer, .text = text, .n_text = sizeof text};
    measure(report, settings, "gguf_open", shape, run_open, &w, bytes.length);
    measure(report, settings, "tokenizer_new", shape, run_new, &w, bytes.length);
    measure(report, settings, "encode", shape, run_encode, &w, sizeof text);
    shoal_tokenizer_free(tokenizer);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&bytes);
}

int main(int argc, char **argv)
{
    bench_settings settings = bench_settings_default();
    bench_report report = {.out = stdout};
    bool smoke = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            report.json = true;
        } else if (strcmp(argv[i], "--smoke") == 0) {
            smoke = true;
            settings = bench_settings_smoke();
        } else {
            (void)fprintf(stderr, "usage: shoal-bench-tokenizer [--smoke] [--json]\n");
            return 2;
        }
    }
    size_t part = smoke ? 50 : 1;
    bench_report_begin(&report, stdout, report.json, "-");
    measure_vocabulary(&report, &settings, "bpe 128k", false, 128000 / part, 280147 / part);
    measure_vocabulary(&report, &settings, "bpe 50k", false, 50257 / part, 50000 / part);
    measure_vocabulary(&report, &settings, "spm 256k", true, 256000 / part, 0);
    measure_vocabulary(&report, &settings, "spm 32k", true, 32000 / part, 0);
    return bench_report_end(&report) < 0;
}
