/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of options drives parsing and --help of every command.
 */
#include "cloud/forge/forge.h"

#include "common/archive/archive.h"

#include "cloud/forge/field.h"

#include "common/tokenizer/train.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OWN_MAX = 48 /* options of one command alone */
};

#define AT(field) offsetof(forge_args, field)

static const forge_option rows[] = {
    {'m', "model", 'm', FORGE_OPTION_TEXT, AT(model), 0, 0, "FILE",
     "model, a GGUF file (required)"},
    {'f', "file", 'f', FORGE_OPTION_TEXT, AT(file), 0, 0, "FILE", "text file (required)"},
    {'p', "prompt", 'p', FORGE_OPTION_TEXT, AT(prompt), 0, 0, "TEXT",
     "text to continue (required)"},
    {'o', "output", 'o', FORGE_OPTION_TEXT, AT(output), 0, 0, "FILE", "file to write (required)"},
    {'T', "tokens", 0, FORGE_OPTION_TEXT, AT(tokens), 0, 0, "IDS",
     "token ids, as 1,2,3 (required)"},
    {'q', "type", 0, FORGE_OPTION_TEXT, AT(type), 0, 0, "TYPE",
     "F32, F16, BF16, FP8, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, or codes: C2_32 to "
     "C4_128, S4_32 to S4_128, N3_32 to N4_128, S8_32 to S8_128, B16_32 to "
     "B8_128 (default: as is)"},
    {'O', "output-type", 0, FORGE_OPTION_TEXT, AT(output_type), 0, 0, "TYPE",
     "type of the embedding and the output matrix (default: --type)"},
    {'Q', "type", 0, FORGE_OPTION_TEXT, AT(type), 0, 0, "TYPE",
     "tensor type of the matrices, as Q8_0 or C3_128 (default Q4_0)"},
    {'S', "shape", 0, FORGE_OPTION_TEXT, AT(shape), 0, 0, "NAME",
     "llama-1b, llama-110m, llama-draft, llama-tiny or qwen-0.5b (required)"},
    {'l', "layers", 0, FORGE_OPTION_INT, AT(layers), 1, 512, "N",
     "keep the first N layers (default: all)"},
    {'n', "tokens-out", 'n', FORGE_OPTION_INT, AT(n), 1, 1 << 20, "N",
     "tokens to generate (default 128)"},
    {'P', "prompt-tokens", 'p', FORGE_OPTION_INT, AT(p), 1, 1 << 20, "N",
     "tokens to prefill (default 512)"},
    {'c', "ctx", 0, FORGE_OPTION_INT, AT(ctx), 2, 1 << 22, "N",
     "context, tokens (default: the model's)"},
    {'b', "batch", 0, FORGE_OPTION_TEXT, AT(batch), 0, 0, "LIST",
     "decode widths, as 1,4,8 (default 1)"},
    {'d', "depth", 0, FORGE_OPTION_INT, AT(depth), 0, 1 << 20, "N",
     "tokens in the context before decoding (default 0)"},
    {'k', "kv", 0, FORGE_OPTION_TEXT, AT(kv), 0, 0, "TYPE",
     "KV form: f16, f32, q8t, q8, q4, q3, keys and values apart, as k8v4, or by layer, as q8*2,q4 "
     "(default auto: f32 for F32 models, else f16); h- before it: in Hadamard's basis, as h-q3"},
    {'W', "evict", 0, FORGE_OPTION_TEXT, AT(evict), 0, 0, "POLICY",
     "hold --budget tokens in KV: window (the first 4 and the newest), h2o (the newest half, and "
     "those with most attention), diverse (as h2o, of those that no other key stands for) or a2sf "
     "(as h2o, of lately paid attention)"},
    {'G', "budget", 0, FORGE_OPTION_INT, AT(budget), 32, 65536, "N",
     "tokens that --evict leaves, a multiple of 32"},
    {'H', "archive", 0, FORGE_OPTION_TEXT, AT(archive), 0, 0, "FILE",
     "archive KV blocks with a basis of kv-calibrate"},
    {'U', "keep", 0, FORGE_OPTION_INT, AT(keep), 0, 1 << 22, "N",
     "tokens behind the present that are not archived (default 128)"},
    {'J', "from", 0, FORGE_OPTION_INT, AT(from), 0, 1 << 22, "N",
     "judge a window's tokens from position N on (default: all)"},
    {'E', "entries", 0, FORGE_OPTION_INT, AT(entries), 1, FORGE_FIELD_ENTRIES_MAX, "N",
     "entries of the catalogue (default 20000)"},
    {'R', "split", 0, FORGE_OPTION_TEXT, AT(split), 0, 0, "NAME",
     "train, dev, test, para, comp, catalogue or study (default train)"},
    {'e', "exponent", 0, FORGE_OPTION_REAL, AT(exponent), 0, 2, "S",
     "entries are asked by rank^-S: 0, 0.25, ... 2 (default 1)"},
    {'X', "examples", 'n', FORGE_OPTION_INT, AT(n_examples), 1, 1L << 40, "N",
     "examples (default 10, or the whole catalogue)"},
    {'w', "output", 'o', FORGE_OPTION_TEXT, AT(output), 0, 0, "FILE",
     "file to write (default stdout)"},
    {'A', "text", 0, FORGE_OPTION_FLAG, AT(text), 0, 0, NULL, "prompts and answers as plain lines"},
    {'K', "catalogue", 0, FORGE_OPTION_FLAG, AT(catalogue), 0, 0, NULL, "the entries as a table"},
    {'x', "temp", 0, FORGE_OPTION_REAL, AT(temp), 0, 10, "T",
     "temperature, 0 is greedy (default 0)"},
    {'y', "top-p", 0, FORGE_OPTION_REAL, AT(top_p), 1e-6, 1, "P",
     "nucleus, 1 keeps all (default 1)"},
    {'z', "top-k", 0, FORGE_OPTION_INT, AT(top_k), 0, 1 << 20, "K",
     "most candidates, 0 keeps all (default 0)"},
    {'s', "seed", 0, FORGE_OPTION_SEED, AT(seed), 0, 0, "S",
     "of the noise, and of the catalogue where there is one (default 0)"},
    {'t', "threads", 't', FORGE_OPTION_INT, AT(threads), 1, 256, "N",
     "compute threads (default 2)"},
    {'C', "cpu-mask", 0, FORGE_OPTION_TEXT, AT(cpu_mask), 0, 0, "TIERS",
     "scalar, avx2, avx512 or native (default native)"},
    {'L', "lora", 0, FORGE_OPTION_TEXT, AT(lora), 0, 0, "FILE[=S]",
     "adapter, and how strong it is (default 1)"},
    {'M', "lora", 0, FORGE_OPTION_TEXT, AT(lora), 0, 0, "FILE[=S]",
     "adapter to merge, and how strong it is (default 1; required)"},
    {'v', "vocab", 0, FORGE_OPTION_INT, AT(vocab), SHOAL_BPE_VOCAB_MIN, SHOAL_VOCAB_MAX, "N",
     "tokens of the vocabulary (default 2048)"},
    {'g', "token-bytes", 0, FORGE_OPTION_INT, AT(token_bytes), 1, SHOAL_BPE_LENGTH_MAX, "N",
     "longest token (default 16)"},
    {'r', "min-count", 0, FORGE_OPTION_INT, AT(min_count), 1, 1 << 30, "N",
     "how often a pair must occur to become a token (default 2)"},
    {'N', "name", 0, FORGE_OPTION_TEXT, AT(name), 0, 0, "TEXT",
     "general.name of the file (default: that of the input; of a vocabulary: shoal-tokenizer)"},
    {'F', "", 0, FORGE_OPTION_FILES, 0, 0, 0, "FILE[=SHARE]...",
     "texts; shares set what part each has, whatever its size"},
    {'I', "", 0, FORGE_OPTION_FILES, 0, 0, 0, "REPORT...",
     "report.json of compress --report --text, one a size"},
    {'a', "all", 0, FORGE_OPTION_FLAG, AT(all), 0, 0, NULL, "every row, or every tensor"},
    {'D', "decode", 0, FORGE_OPTION_FLAG, AT(decode), 0, 0, NULL, "ids on stdin to text"},
    {'V', "verify", 0, FORGE_OPTION_FLAG, AT(verify), 0, 0, NULL,
     "restore a packed model's blocks and compare digests"},
    {'B', "bos", 0, FORGE_OPTION_FLAG, AT(bos), 0, 0, NULL, "put the begin token first"},
    {'j', "json", 0, FORGE_OPTION_FLAG, AT(json), 0, 0, NULL, "print JSON for programs"},
};

static const forge_own *const owns[] = {&shoal_forge_train_own,
                                        &shoal_forge_eval_own,
                                        &shoal_forge_calibrate_own,
                                        &shoal_forge_kv_calibrate_own,
                                        &shoal_forge_calibrate_weights_own,
                                        &shoal_forge_compare_passes_own,
                                        &shoal_forge_kv_plan_own,
                                        &shoal_forge_compress_own,
                                        &shoal_forge_bundle_own,
                                        &shoal_forge_bundle_check_own,
                                        &shoal_forge_recover_own,
                                        &shoal_forge_make_text_own,
                                        &shoal_forge_sparsify_own,
                                        &shoal_forge_device_own,
                                        &shoal_forge_plan_own};

/* NULL: the command has no options of its own. */
static const forge_own *own_of(const forge_command *command)
{
    for (size_t i = 0; i < SHOAL_COUNT(owns); i++) {
        if (owns[i]->run == command->run) {
            return owns[i];
        }
    }
    return NULL;
}

/* Option i of a command, NULL where the command does not have row i of the table. */
static const forge_option *option_at(const forge_command *command, size_t i)
{
    if (i < SHOAL_COUNT(rows)) {
        return strchr(command->options, rows[i].letter) ? &rows[i] : NULL;
    }
    return &own_of(command)->options[i - SHOAL_COUNT(rows)];
}

static size_t n_options(const forge_command *command)
{
    const forge_own *own = own_of(command);
    return SHOAL_COUNT(rows) + (own ? own->n_options : 0);
}

void shoal_forge_help(const forge_command *command)
{
    (void)printf("shoal-forge %s: %s\n\noptions:\n", command->name, command->summary);
    for (size_t i = 0; i < n_options(command); i++) {
        const forge_option *row = option_at(command, i);
        if (!row) {
            continue;
        }
        char left[64];
        if (row->kind == FORGE_OPTION_FILES) {
            (void)printf("      %-22s %s\n", row->value, row->help);
            continue;
        }
        (void)snprintf(left, sizeof left, "%s%c%s--%s%s%s", row->short_name ? "-" : " ",
                       row->short_name ? row->short_name : ' ', row->short_name ? ", " : "  ",
                       row->name, row->value ? " " : "", row->value ? row->value : "");
        (void)printf("  %-26s %s\n", left, row->help);
    }
    (void)printf("      %-22s %s\n", "--help", "this text");
}

static bool parse_number(const forge_option *row, const char *text, forge_args *args)
{
    char *end = NULL;
    char *field = (char *)args + row->offset;
    errno = 0;
    if (row->kind == FORGE_OPTION_REAL) {
        double value = strtod(text, &end);
        if (end == text || *end || !(value >= row->min && value <= row->max)) {
            return false;
        }
        memcpy(field, &value, sizeof value);
        return true;
    }
    if (row->kind == FORGE_OPTION_SEED) {
        long long value = (long long)strtoull(text, &end, 10);
        memcpy(field, &value, sizeof value);
        return end != text && !*end && errno == 0;
    }
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno != 0 || (double)value < row->min || (double)value > row->max) {
        return false;
    }
    memcpy(field, &value, sizeof value);
    return true;
}

static int bad_usage(const forge_command *command, const char *what, const char *value)
{
    (void)fprintf(stderr, "shoal-forge %s: %s%s; see shoal-forge %s --help\n", command->name, what,
                  value, command->name);
    return 3;
}

static int apply(const forge_command *command, const forge_option *row, const char *value,
                 forge_args *args)
{
    char *field = (char *)args + row->offset;
    if (row->kind == FORGE_OPTION_FLAG) {
        bool on = true;
        memcpy(field, &on, sizeof on);
        return 0;
    }
    if (row->kind == FORGE_OPTION_TEXT) {
        memcpy(field, &value, sizeof value);
        return 0;
    }
    if (parse_number(row, value, args)) {
        return 0;
    }
    char what[128];
    (void)snprintf(what, sizeof what, "--%s wants a number from %.10g to %.10g, not ", row->name,
                   row->min, row->max);
    return bad_usage(command, what, value);
}

/* What getopt is to know; the value of a long option is 256 and its place. */
static void list_options(const forge_command *command, struct option *longs, char *shorts)
{
    size_t n = 0;
    for (size_t i = 0; i < n_options(command); i++) {
        const forge_option *row = option_at(command, i);
        if (!row || row->kind == FORGE_OPTION_FILES) {
            continue;
        }
        longs[n].name = row->name;
        longs[n].has_arg = row->kind == FORGE_OPTION_FLAG ? no_argument : required_argument;
        longs[n].val = 256 + (int)i;
        n++;
        if (row->short_name) {
            size_t at = strlen(shorts);
            shorts[at] = row->short_name;
            shorts[at + 1] = ':';
        }
    }
    longs[n].name = "help";
    longs[n].val = 'h';
}

static bool takes_files(const forge_command *command)
{
    bool any = false;
    for (size_t i = 0; i < n_options(command); i++) {
        const forge_option *row = option_at(command, i);
        any = any || (row && row->kind == FORGE_OPTION_FILES);
    }
    return any;
}

int shoal_forge_args_parse(const forge_command *command, int argc, char **argv,
                           forge_args *ret_args)
{
    forge_args args = {.n = 128,
                       .keep = SHOAL_ARCHIVE_LAST,
                       .p = 512,
                       .threads = 2,
                       .top_p = 1.0,
                       .vocab = 2048,
                       .token_bytes = 16,
                       .min_count = 2,
                       .entries = FORGE_FIELD_ENTRIES_DEFAULT,
                       .exponent = 1.0};
    struct option longs[SHOAL_COUNT(rows) + OWN_MAX + 2];
    char shorts[2 * (SHOAL_COUNT(rows) + OWN_MAX) + 4] = ":h";
    SHOAL_ASSERT(n_options(command) <= SHOAL_COUNT(rows) + OWN_MAX);
    memset(longs, 0, sizeof longs);
    if (own_of(command)) {
        args = own_of(command)->defaults;
    }
    list_options(command, longs, shorts);
    opterr = 0;
    int c = 0;
    while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (c == 'h') {
            shoal_forge_help(command);
            return 1;
        }
        if (c == '?' || c == ':') {
            return bad_usage(command, c == ':' ? "a value is missing after " : "unknown option ",
                             argv[optind - 1]);
        }
        for (size_t i = 0; i < n_options(command); i++) {
            const forge_option *row = option_at(command, i);
            bool mine = row && (c == 256 + (int)i || c == row->short_name);
            int wrong = mine ? apply(command, row, optarg, &args) : 0;
            if (wrong) {
                return wrong;
            }
        }
    }
    if (takes_files(command)) {
        args.files = argv + optind;
        args.n_files = (size_t)(argc - optind);
    } else if (optind < argc) {
        return bad_usage(command, "too many words: ", argv[optind]);
    }
    if (!args.model && strchr(command->options, 'm')) {
        return bad_usage(command, "-m FILE is missing", "");
    }
    *ret_args = args;
    return 0;
}
