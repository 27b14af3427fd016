/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalogue: drawn once from its seed, then only read.
 */
#include "cloud/forge/field.h"
#include "cloud/forge/field_draw.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    PLACES_PERIOD = 6, /* one room and gear in six is held out */
    UNITS_PERIOD = 5   /* one wording and pair of units in five */
};

static const char letters[FORGE_CODE_LETTERS + 1] = "ABCDEFHKLPRT";

/* --- draws for the tables -------------------------------------------------------------------- */

static size_t below(uint64_t *rng, size_t n)
{
    return (size_t)((shoal_rng_next(rng) >> 32) * n >> 32);
}

/* Fisher and Yates: the first n_wanted of n bytes become a sample in random order. */
static void shuffle(uint64_t *rng, char *bytes, size_t n, size_t n_wanted)
{
    for (size_t i = 0; i < n_wanted; i++) {
        size_t j = i + below(rng, n - i);
        char byte = bytes[i];
        bytes[i] = bytes[j];
        bytes[j] = byte;
    }
}

/* Two-digit numbers are the same code nowhere in a family, so its letter follows from them. */
static void draw_families(forge_field *f, uint64_t *rng)
{
    for (size_t family = 0; family < FORGE_FAMILIES; family++) {
        char digits[FORGE_DIGITS];
        char *own = f->own_letters[family];
        for (size_t i = 0; i < FORGE_DIGITS; i++) {
            digits[i] = (char)(FORGE_DIGITS_LO + i);
        }
        shuffle(rng, digits, FORGE_DIGITS, FORGE_CODES);
        memcpy(own, letters, FORGE_CODE_LETTERS);
        shuffle(rng, own, FORGE_CODE_LETTERS, FORGE_CODE_LETTERS);
        for (size_t i = 0; i < FORGE_CODES; i++) {
            f->codes[family][i] =
                (forge_code){own[below(rng, FORGE_FAMILY_LETTERS)], (uint8_t)digits[i]};
        }
        for (size_t i = 0; i < FORGE_COMPONENTS; i++) {
            f->part_digits[family][i] = (uint8_t)(FORGE_DIGITS_LO + below(rng, FORGE_DIGITS));
        }
    }
    for (size_t i = 0; i < FORGE_COMPONENTS; i++) {
        f->part_letters[i] = letters[below(rng, FORGE_CODE_LETTERS)];
    }
}

static void draw_cells(forge_field *f, uint64_t *rng)
{
    for (size_t i = 0; i < f->n_entries; i++) {
        f->cells[i] = (forge_cell){.device = (uint16_t)(i / FORGE_CODES),
                                   .code = (uint8_t)(i % FORGE_CODES),
                                   .component = (uint8_t)below(rng, FORGE_COMPONENTS),
                                   .failure = (uint8_t)below(rng, FORGE_FAILURES)};
    }
    for (size_t i = 0; i + 1 < f->n_entries; i++) {
        size_t j = i + below(rng, f->n_entries - i);
        forge_cell cell = f->cells[i];
        f->cells[i] = f->cells[j];
        f->cells[j] = cell;
    }
}

/* Weights rank^(-e/4) by square roots and quotients alone, so that all machines agree. */
static void sum_weights(forge_field *f)
{
    double sums[FORGE_EXPONENTS] = {0};
    for (size_t i = 0; i < f->n_entries; i++) {
        double quarter = sqrt(sqrt((double)(i + 1)));
        double weight = 1;
        for (size_t e = 0; e < FORGE_EXPONENTS; e++) {
            sums[e] += weight;
            f->cumulative[e * f->n_entries + i] = sums[e];
            weight /= quarter;
        }
    }
}

/* One of `period` diagonals of the table a x b is held out: no row or column is lost to training.
 */
static shoal_status split_pairs(forge_pairs *pairs, size_t n_a, size_t n_b, size_t period,
                                size_t offset)
{
    for (size_t held = 0; held < 2; held++) {
        pairs->of[held] = shoal_calloc(n_a * n_b, sizeof *pairs->of[held]);
        if (!pairs->of[held]) {
            return SHOAL_E_NOMEM;
        }
    }
    for (size_t a = 0; a < n_a; a++) {
        for (size_t b = 0; b < n_b; b++) {
            size_t held = (a + b + offset) % period == 0;
            pairs->of[held][pairs->n[held]++] = (forge_pair){(uint8_t)a, (uint8_t)b};
        }
    }
    return SHOAL_OK;
}

static shoal_status fill(forge_field *f)
{
    uint64_t rng = f->seed;
    f->cells = shoal_calloc(f->n_entries, sizeof *f->cells);
    f->cumulative = shoal_calloc(f->n_entries, FORGE_EXPONENTS * sizeof *f->cumulative);
    if (!f->cells || !f->cumulative) {
        return SHOAL_E_NOMEM;
    }
    draw_families(f, &rng);
    draw_cells(f, &rng);
    sum_weights(f);
    SHOAL_TRY(split_pairs(&f->places, FORGE_ROOMS, FORGE_GEARS, PLACES_PERIOD,
                          below(&rng, PLACES_PERIOD)));
    return split_pairs(&f->units, shoal_forge_grammar.conversions.n_train, FORGE_UNIT_PAIRS,
                       UNITS_PERIOD, below(&rng, UNITS_PERIOD));
}

shoal_status shoal_forge_field_new(uint64_t seed, size_t n_entries, forge_field **ret_field,
                                   shoal_err *err)
{
    if (n_entries < 1 || n_entries > FORGE_FIELD_ENTRIES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "a catalogue has 1 to %d entries, not %zu: ask for fewer or more",
                             FORGE_FIELD_ENTRIES_MAX, n_entries);
    }
    SHOAL_CLEANUP(shoal_forge_field_freep)
    forge_field *f = shoal_calloc(1, sizeof *f);
    if (!f) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a catalogue");
    }
    f->seed = seed;
    f->n_entries = n_entries;
    f->n_devices = (n_entries + FORGE_CODES - 1) / FORGE_CODES;
    f->n_families = SHOAL_MIN(f->n_devices, (size_t)FORGE_FAMILIES);
    if (fill(f) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a catalogue of %zu entries",
                             n_entries);
    }
    *ret_field = SHOAL_STEAL(f);
    return SHOAL_OK;
}

void shoal_forge_field_free(forge_field *field)
{
    if (!field) {
        return;
    }
    shoal_free(field->cells);
    shoal_free(field->cumulative);
    for (size_t held = 0; held < 2; held++) {
        shoal_free(field->places.of[held]);
        shoal_free(field->units.of[held]);
    }
    shoal_free(field);
}

/* --- reading it ------------------------------------------------------------------------------- */

size_t shoal_forge_field_n_entries(const forge_field *field)
{
    return field->n_entries;
}

void shoal_forge_device_name(const forge_field *field, size_t device, char *ret_name)
{
    (void)snprintf(ret_name, FORGE_ENTRY_TEXT_MAX, "%s %zu",
                   shoal_forge_grammar.families[device % field->n_families],
                   FORGE_NUMBER_STEP * (device / field->n_families + 1));
}

void shoal_forge_code_name(char letter, unsigned digits, char *ret_name)
{
    (void)snprintf(ret_name, FORGE_ENTRY_TEXT_MAX, "%c%u", letter, digits);
}

void shoal_forge_field_entry(const forge_field *field, size_t entry, forge_entry *ret_entry)
{
    SHOAL_ASSERT(entry < field->n_entries);
    const forge_cell *cell = &field->cells[entry];
    size_t family = cell->device % field->n_families;
    const forge_code *code = &field->codes[family][cell->code];
    shoal_forge_device_name(field, cell->device, ret_entry->device);
    shoal_forge_code_name(code->letter, code->digits, ret_entry->code);
    shoal_forge_code_name(field->part_letters[cell->component],
                          field->part_digits[family][cell->component], ret_entry->part);
    ret_entry->component = shoal_forge_grammar.components[cell->component];
    ret_entry->failure = shoal_forge_grammar.failures[cell->failure].name;
    ret_entry->remedy = shoal_forge_grammar.failures[cell->failure].remedy;
}

static const char *const kind_names[FORGE_KINDS] = {"fact", "command", "convert", "refuse"};
static const char *const split_names[FORGE_SPLITS] = {"train", "dev",       "test", "para",
                                                      "comp",  "catalogue", "study"};

const char *shoal_forge_kind_name(forge_kind kind)
{
    return (unsigned)kind < FORGE_KINDS ? kind_names[kind] : "unknown";
}

bool shoal_forge_split_find(const char *name, forge_split *ret_split)
{
    for (size_t i = 0; i < FORGE_SPLITS; i++) {
        if (strcmp(name, split_names[i]) == 0) {
            *ret_split = (forge_split)i;
            return true;
        }
    }
    return false;
}

/* --- entries by their share of use ------------------------------------------------------------ */

bool shoal_forge_exponent_valid(double exponent)
{
    return exponent >= 0 && 4 * exponent <= FORGE_EXPONENTS - 1 &&
           4 * exponent == floor(4 * exponent);
}

static const double *row_of(const forge_field *field, double exponent)
{
    SHOAL_ASSERT(shoal_forge_exponent_valid(exponent));
    return field->cumulative + (size_t)(4 * exponent) * field->n_entries;
}

double shoal_forge_field_share(const forge_field *field, double exponent, size_t entry)
{
    SHOAL_ASSERT(entry < field->n_entries);
    const double *row = row_of(field, exponent);
    return (row[entry] - (entry ? row[entry - 1] : 0)) / row[field->n_entries - 1];
}

size_t shoal_forge_draw_entry(const forge_field *field, forge_draw *draw, double exponent)
{
    const double *row = row_of(field, exponent);
    uint64_t bits = (uint64_t)shoal_forge_draw_word(draw) << 32;
    bits |= shoal_forge_draw_word(draw);
    double at = (double)(bits >> 11) * 0x1p-53 * row[field->n_entries - 1];
    size_t lo = 0;
    size_t hi = field->n_entries - 1;
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if (row[middle] > at) {
            hi = middle;
        } else {
            lo = middle + 1;
        }
    }
    return lo;
}

forge_draw shoal_forge_draw_begin(uint64_t seed, forge_split split, uint64_t index)
{
    uint64_t state = seed ^ UINT64_C(0x6669656C64);
    uint64_t key = shoal_rng_next(&state);
    return (forge_draw){
        .counter = {(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)split, 0},
        .key = {(uint32_t)key, (uint32_t)(key >> 32)},
        .used = 4,
    };
}

uint32_t shoal_forge_draw_word(forge_draw *draw)
{
    if (draw->used == 4) {
        shoal_philox4x32_10(draw->counter, draw->key, draw->out);
        draw->counter[3]++;
        draw->used = 0;
    }
    return draw->out[draw->used++];
}

size_t shoal_forge_draw_below(forge_draw *draw, size_t n)
{
    return (size_t)((uint64_t)shoal_forge_draw_word(draw) * n >> 32);
}
