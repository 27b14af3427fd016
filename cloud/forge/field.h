/* SPDX-License-Identifier: Apache-2.0
 *
 * The field-service assistant: a seeded catalogue of faults and questions about it, the data of the
 * model family. An entry is a device and a fault code with what is broken, how, what to do and
 * which part to take. Component and failure are drawn apart from device and code, so they can only
 * be known, never derived; everything else of an answer is a rule. Entries are asked in proportion
 * to rank^-exponent, as faults are in life, so a small model knows the head and a large one the
 * tail.
 *
 * This makes texts. It knows nothing of tokens, but its words suit the split of GPT-2, where a word
 * and a whole number are one piece each, with the space before them.
 *
 * A field is immutable after new: any thread may draw examples. Nothing depends on the machine: the
 * generator is Philox, and the only real numbers are quotients and square roots, which IEEE 754
 * rounds in one way.
 */
#ifndef SHOAL_FORGE_FIELD_H
#define SHOAL_FORGE_FIELD_H

#include "common/base/err.h"
#include "common/base/macros.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum forge_kind {
    FORGE_KIND_FACT,    /* of a fault: cause, remedy and part, or one of them */
    FORGE_KIND_COMMAND, /* what to switch, as a JSON object */
    FORGE_KIND_CONVERT, /* a whole number in another unit */
    FORGE_KIND_REFUSE,  /* what the catalogue lacks */
    FORGE_KINDS
} forge_kind;

typedef enum forge_split {
    FORGE_SPLIT_TRAIN,     /* training parts and compositions only */
    FORGE_SPLIT_DEV,       /* same parts, other draws: thresholds are chosen here */
    FORGE_SPLIT_TEST,      /* same parts, other draws: figures are judged here */
    FORGE_SPLIT_PARA,      /* one part of the wording is held out from training */
    FORGE_SPLIT_COMP,      /* held-out compositions: room and device, unit and wording */
    FORGE_SPLIT_CATALOGUE, /* every entry once, index = entry, asked for all of its answer */
    FORGE_SPLIT_STUDY,     /* for training: what is learnt by heart, causes, conversions and what
                              there is not, in the shortest wording: a long tail for few tokens */
    FORGE_SPLITS
} forge_split;

enum {
    FORGE_EXAMPLE_TEXT_MAX = 512, /* with its NUL; prompts and answers are far shorter */
    FORGE_ENTRY_TEXT_MAX = 32,
    FORGE_FIELD_ENTRIES_MAX = 60000,
    FORGE_FIELD_ENTRIES_DEFAULT = 20000
};

typedef struct forge_example {
    forge_kind kind;
    size_t entry; /* rank in the catalogue, 0 most asked; SIZE_MAX: none */
    char prompt[FORGE_EXAMPLE_TEXT_MAX];
    char answer[FORGE_EXAMPLE_TEXT_MAX];
} forge_example;

/* One line of the catalogue. */
typedef struct forge_entry {
    char device[FORGE_ENTRY_TEXT_MAX];
    char code[FORGE_ENTRY_TEXT_MAX];
    char part[FORGE_ENTRY_TEXT_MAX];
    const char *component; /* static, as are the next two */
    const char *failure;
    const char *remedy;
} forge_entry;

typedef struct forge_field forge_field;

/* n_entries from 1 to FORGE_FIELD_ENTRIES_MAX: else SHOAL_E_LIMIT. */
shoal_status shoal_forge_field_new(uint64_t seed, size_t n_entries, forge_field **ret_field,
                                   shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_field_free(forge_field *field);
SHOAL_DEFINE_CLEANUP(forge_field, shoal_forge_field_free)

size_t shoal_forge_field_n_entries(const forge_field *field);
/* entry below n_entries. */
void shoal_forge_field_entry(const forge_field *field, size_t entry, forge_entry *ret_entry);

const char *shoal_forge_kind_name(forge_kind kind);
/* False for a name that is no split's. */
bool shoal_forge_split_find(const char *name, forge_split *ret_split);

/* Exponents are quarters from 0 to 2: others have no table. */
bool shoal_forge_exponent_valid(double exponent);
/* Probability of an entry where a fact is asked: rank^-exponent / sum over ranks, ranks from 1. */
double shoal_forge_field_share(const forge_field *field, double exponent, size_t entry);

/* Example `index` of a split: a pure function of (field, split, exponent, index). The exponent must
 * be valid. In the catalogue split the index counts modulo n_entries. */
void shoal_forge_field_example(const forge_field *field, forge_split split, double exponent,
                               uint64_t index, forge_example *ret_example);

#endif
