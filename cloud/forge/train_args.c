/* SPDX-License-Identifier: Apache-2.0
 *
 * The options of `train`. Rates and shares that were not given are chosen in train_plan.c.
 */
#include "cloud/forge/field.h"
#include "cloud/forge/forge.h"

#define AT(field) offsetof(forge_args, field)
#define TEXT(name, field, value, help)                                                             \
    {                                                                                              \
        0, name, 0, FORGE_OPTION_TEXT, AT(field), 0, 0, value, help                                \
    }
#define INT(name, field, min, max, value, help)                                                    \
    {                                                                                              \
        0, name, 0, FORGE_OPTION_INT, AT(field), min, max, value, help                             \
    }
#define REAL(name, field, min, max, value, help)                                                   \
    {                                                                                              \
        0, name, 0, FORGE_OPTION_REAL, AT(field), min, max, value, help                            \
    }
#define SEED(name, field, value, help)                                                             \
    {                                                                                              \
        0, name, 0, FORGE_OPTION_SEED, AT(field), 0, 0, value, help                                \
    }
#define FLAG(name, field, help)                                                                    \
    {                                                                                              \
        0, name, 0, FORGE_OPTION_FLAG, AT(field), 0, 0, NULL, help                                 \
    }

static const forge_option options[] = {
    TEXT("shape", shape, "LIST",
         "a new model: dim=256,layers=6,heads=8,kv=4,ffn=768[,exits=2+3][,head=32][,ctx=1024]"
         "[,base=10000][,tied=1]"),
    TEXT("tokenizer", train.tokenizer, "FILE", "a GGUF whose tokenizer the new model takes"),
    TEXT("model", model, "FILE", "go on from this model; --layers N keeps its first N layers"),
    TEXT("exits", train.exits, "LIST", "layers below each early exit, as 2+3"),
    TEXT("exit-weights", train.exit_weights, "LIST",
         "of the exits' losses beside the output's 1, as 0.3+0.5 (default 0.3 each)"),
    REAL("layer-dropout", train.layer_dropout, 0, 0.9, "P",
         "chance that the last layer is left out, less below (default 0)"),
    SEED("seed", seed, "S", "of the catalogue (default 0)"),
    INT("entries", entries, 0, FORGE_FIELD_ENTRIES_MAX, "N",
        "entries of the catalogue, 0: none, text alone (default 20000)"),
    REAL("exponent", exponent, 0, 2, "E", "entries are asked about as rank^-E (default 1)"),
    REAL("study-share", train.study_share, 0, 1, "P",
         "of the examples, in the shortest wording: facts for few tokens (default 0)"),
    REAL("study-exponent", train.study_exponent, 0, 2, "E",
         "the exponent of those (default: that of the others)"),
    TEXT("text", train.text, "FILE", "plain text to learn beside the catalogue"),
    REAL("text-share", train.text_share, 0, 1, "P",
         "of the tokens, from --text (default 0.2; 1 without entries)"),
    SEED("start-seed", train.start_seed, "S",
         "of a new model's weights, of layer dropout and of the order of the data (default 0)"),
    INT("steps", train.steps, 1, 1000000000, "N", "length of the run and of its schedule"),
    REAL("minutes", train.minutes, 0.01, 100000, "M",
         "the same in time: a short trial says how many steps that is"),
    INT("parts", train.parts, 1, 256, "N", "batches of a step (default: one per thread)"),
    INT("part-tokens", train.part_tokens, 16, 1 << 17, "N", "tokens of a batch (default 1024)"),
    TEXT("optimiser", train.optimiser, "NAME", "muon or adamw (default muon)"),
    REAL("muon-rate", train.muon_rate, 0, 1, "R", "peak rate of Muon (default 0.02)"),
    REAL("adam-rate", train.adam_rate, 0, 1, "R", "peak rate of AdamW (default 0.003)"),
    REAL("weight-decay", train.weight_decay, 0, 1, "D", "of matrices (default 0.01)"),
    REAL("momentum", train.momentum, 0, 0.9999, "M", "of Muon (default 0.95)"),
    REAL("beta2", train.beta2, 0, 0.99999, "B", "of AdamW (default 0.95)"),
    REAL("clip", train.clip, 0, 1e6, "N", "largest norm of a gradient, 0: any (default 1)"),
    INT("warmup", train.warmup, 0, 1000000, "N", "steps (default: a fiftieth of the run)"),
    REAL("final-share", train.final_share, 0, 1, "P",
         "of the peak rates, at the last step (default 0.05)"),
    TEXT("teacher", train.teacher, "FILE", "distil this model of the same tokenizer"),
    REAL("alpha", train.alpha, 0, 1, "A",
         "share of the true answers in the loss, the rest is the teacher's (default 0.3)"),
    REAL("temp", train.teacher_temp, 0.05, 20, "T",
         "temperature of both in distillation (default 1)"),
    FLAG("reverse", train.reverse, "distil by KL(student || teacher), not KL(teacher || student)"),
    TEXT("own-answers", train.own_answers, "LIST",
         "distil on answers that the student gives itself: none, or some of single, mixed and "
         "norm joined by +"),
    REAL("mix", train.mix, 0, 0.99, "P", "of the teacher in the answers of mixed (default 0.2)"),
    INT("lora-rank", train.lora_rank, 0, SHOAL_LORA_RANK_MAX, "R",
        "train an adapter of this rank and write that to -o (default 0: the model itself)"),
    REAL("lora-alpha", train.lora_alpha, 1e-3, 1e6, "A",
         "its products are scaled by A / R (default: R)"),
    TEXT("checkpoint", train.checkpoint, "FILE",
         "saved on the way and when stopped; a run that finds it goes on from it"),
    INT("every", train.every, 1, 1000000, "S",
        "seconds between checkpoints, each with the model so far in -o (default 300)"),
    TEXT("log", train.log, "FILE", "a line of CSV per step"),
};

const forge_own shoal_forge_train_own = {
    .run = shoal_forge_train,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    /* Below zero: not given. */
    .defaults = {.threads = 2,
                 .entries = FORGE_FIELD_ENTRIES_DEFAULT,
                 .exponent = 1,
                 .train = {.optimiser = "muon",
                           .steps = -1,
                           .parts = -1,
                           .part_tokens = 1024,
                           .every = 300,
                           .warmup = -1,
                           .minutes = -1,
                           .text_share = -1,
                           .study_exponent = -1,
                           .muon_rate = 0.02,
                           .adam_rate = 3e-3,
                           .weight_decay = 0.01,
                           .momentum = 0.95,
                           .beta2 = 0.95,
                           .clip = 1,
                           .lora_alpha = -1,
                           .final_share = 0.05,
                           .alpha = 0.3,

                           .teacher_temp = 1,
                           .mix = 0.2}},
};
