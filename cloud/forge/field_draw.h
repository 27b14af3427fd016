/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the field: what it holds, and the stream of draws that one example uses.
 */
#ifndef SHOAL_FORGE_FIELD_DRAW_H
#define SHOAL_FORGE_FIELD_DRAW_H

#include "cloud/forge/field.h"
#include "cloud/forge/field_parts.h"

enum {
    FORGE_CODES = 50,        /* of a family */
    FORGE_CODE_LETTERS = 12, /* of all families */
    FORGE_FAMILY_LETTERS = 4,
    FORGE_EXPONENTS = 9, /* 0, 1/4, ... 2 */
    FORGE_DIGITS_LO = 10,
    FORGE_DIGITS = 90, /* 10 to 99 */
    FORGE_NUMBER_STEP = 10
};

/* A place in the catalogue: what is arbitrary about it. */
typedef struct forge_cell {
    uint16_t device;
    uint8_t code; /* index among the codes of the device's family */
    uint8_t component;
    uint8_t failure;
} forge_cell;

typedef struct forge_code {
    char letter;
    uint8_t digits;
} forge_code;

typedef struct forge_pair {
    uint8_t a;
    uint8_t b;
} forge_pair;

/* Compositions of two lists, those to train on and those held out. */
typedef struct forge_pairs {
    forge_pair *of[2];
    size_t n[2];
} forge_pairs;

struct forge_field {
    uint64_t seed;
    size_t n_entries;
    size_t n_devices;
    size_t n_families;
    forge_cell *cells;  /* by rank */
    double *cumulative; /* FORGE_EXPONENTS rows of n_entries: sum of weights up to */
    char own_letters[FORGE_FAMILIES][FORGE_CODE_LETTERS]; /* first the family's, then the others */
    forge_code codes[FORGE_FAMILIES][FORGE_CODES];
    char part_letters[FORGE_COMPONENTS];
    uint8_t part_digits[FORGE_FAMILIES][FORGE_COMPONENTS];
    forge_pairs places; /* room, gear */
    forge_pairs units;  /* wording, pair of units */
};

/* The draws of one example, four at a time from Philox. */
typedef struct forge_draw {
    uint32_t counter[4];
    uint32_t key[2];
    uint32_t out[4];
    unsigned used;
} forge_draw;

forge_draw shoal_forge_draw_begin(uint64_t seed, forge_split split, uint64_t index);
uint32_t shoal_forge_draw_word(forge_draw *draw);
/* Below n, n at least 1; the bias is n / 2^32. */
size_t shoal_forge_draw_below(forge_draw *draw, size_t n);
/* The rank of an entry, with probability ~ rank^-exponent. */
size_t shoal_forge_draw_entry(const forge_field *field, forge_draw *draw, double exponent);

/* "Heron 40" of a device, "E47" of a code: into FORGE_ENTRY_TEXT_MAX bytes. */
void shoal_forge_device_name(const forge_field *field, size_t device, char *ret_name);
void shoal_forge_code_name(char letter, unsigned digits, char *ret_name);

#endif
