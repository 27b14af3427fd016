/* SPDX-License-Identifier: Apache-2.0
 *
 * shoal-forge: the offline workshop. Parses, runs one command, reports.
 */
#include "cloud/forge/forge.h"

#include <stdio.h>
#include <string.h>

static const forge_command commands[] = {
    {"inspect", "what a model file holds: numbers, hashes, metadata, tensors", "maVj",
     shoal_forge_inspect},
    {"tokenize", "text on stdin to ids on one line, or back with --decode", "mDBj",
     shoal_forge_tokenize},
    {"logits", "logits after a list of token ids", "mLTajtcCk", shoal_forge_logits},
    {"generate", "continue a text", "mLpnxyzsjtcCkWG", shoal_forge_generate},
    {"perplexity", "perplexity of a text file", "mLfcjtCkHUJWG", shoal_forge_perplexity},
    {"convert", "rewrite a model in another tensor type, or keep its first layers", "moqOltjN",
     shoal_forge_convert},
    {"merge-lora", "write a model with an adapter added to its tensors", "mMoqOtj",
     shoal_forge_merge_lora},
    {"pack", "rewrite a model as it lies in memory, so that it loads at once", "motj",
     shoal_forge_pack},
    {"make-random", "write a model of a real shape with random weights, to measure speed", "SQosj",
     shoal_forge_make_random},
    {"train-tokenizer", "learn a byte-level BPE vocabulary from texts: FILE[=SHARE]...", "FovgrNj",
     shoal_forge_train_tokenizer},
    {"make-data", "examples of the field-service assistant, or its catalogue", "sEReXwAK",
     shoal_forge_make_data},
    {"calibrate", "fit when tokens leave early, and when the cloud is asked, to known answers",
     "mosjtcCk", shoal_forge_calibrate},
    {"kv-calibrate", "make the basis with which KV of a model is archived, from a text", "mfotjcC",
     shoal_forge_kv_calibrate},
    {"kv-plan", "whether an edge should fetch a prompt's KV or compute it, by prompt length", "mj",
     shoal_forge_kv_plan},
    {"calibrate-weights", "second moments of what every linear layer is fed along a text", "mfoj",
     shoal_forge_calibrate_weights},
    {"compare-passes", "what each way to compress makes of every linear layer, at equal bytes",
     "mj", shoal_forge_compare_passes},
    {"compress", "make a model smaller by a recipe: passes, types, or a size for all", "motjCk",
     shoal_forge_compress},
    {"plan", "which of a model's small forms keeps to so much memory, time and quality", "mtcCjI",
     shoal_forge_plan},
    {"bundle", "a folder with a model for a fleet of edges: files, manifest, signature", "mj",
     shoal_forge_bundle},
    {"bundle-check", "whether a bundle is signed, whole, and answers as it should", "j",
     shoal_forge_bundle_check},
    {"recover", "train a compressed model to answer as the full one: codes, scales, norms", "mostj",
     shoal_forge_recover},
    {"make-text", "texts that a model writes itself, many side by side, to learn from", "mostjC",
     shoal_forge_make_text},
    {"sparsify", "let every linear layer skip the smallest of its inputs, by a text", "mfoj",
     shoal_forge_sparsify},
    {"device", "what this machine can do, as a profile for compress: rates of every kind of weight",
     "wtC", shoal_forge_device},
    {"bench", "tokens per second, bytes per token and the share of memory bandwidth",
     "mLPnbdktjCWG", shoal_forge_bench},
    {"eval", "ask questions whose answers are known: exact match, F1, BLEU, what the cloud adds",
     "mEestjcCk", shoal_forge_eval},
    {"train", "make a model learn: a new one, or one that is there", "lotj", shoal_forge_train},
};

static void usage(FILE *to)
{
    (void)fprintf(to, "shoal-forge: the offline workshop of Shoal\n\n"
                      "usage: shoal-forge COMMAND [options]\n"
                      "       shoal-forge COMMAND --help\n\ncommands:\n");
    for (size_t i = 0; i < SHOAL_COUNT(commands); i++) {
        (void)fprintf(to, "  %-17s %s\n", commands[i].name, commands[i].summary);
    }
    (void)fprintf(
        to, "\nexit status: 0 done, 1 refused input (stderr says why), 2 usage, 3 stopped by a "
            "signal\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < SHOAL_COUNT(commands); i++) {
        if (strcmp(argv[1], commands[i].name) != 0) {
            continue;
        }
        forge_args args;
        int ended = shoal_forge_args_parse(&commands[i], argc - 1, argv + 1, &args);
        if (ended != 0) {
            return ended - 1;
        }
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = commands[i].run(&args, &err);
        if (status == SHOAL_OK) {
            return 0;
        }
        (void)fprintf(stderr, "shoal-forge: %s\n",
                      err.text[0] ? err.text : shoal_status_text(status));
        return status == SHOAL_E_CANCELLED ? 3 : 1;
    }
    (void)fprintf(stderr, "shoal-forge: there is no command \"%s\"; see shoal-forge --help\n",
                  argv[1]);
    return 2;
}
