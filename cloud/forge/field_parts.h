/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the field: its words, and the parts that questions are composed of. A part is text
 * with slots: $D device, $C code, $N a noun phrase of both; $R room, $G what is in it, $V a verb or
 * state, $X a number, $U its unit, $T the unit wanted. Held-out parts are drawn in the para split
 * and nowhere else; each of their words occurs in some training part, because a word that was never
 * trained says nothing about wording. Static tables.
 */
#ifndef SHOAL_FORGE_FIELD_PARTS_H
#define SHOAL_FORGE_FIELD_PARTS_H

#include <stddef.h>
#include <stdint.h>

typedef struct forge_part {
    const char *text;
    unsigned weight;
} forge_part;

/* Training parts with their weights, and held-out parts, all alike. */
typedef struct forge_parts {
    const forge_part *train;
    size_t n_train;
    const char *const *held;
    size_t n_held; /* 0: the slot never carries the held-out part */
} forge_parts;

/* What a question about a fault asks for. */
typedef enum forge_intent {
    FORGE_INTENT_FULL,
    FORGE_INTENT_CAUSE,
    FORGE_INTENT_REMEDY,
    FORGE_INTENT_PART,
    FORGE_INTENTS
} forge_intent;

/* How a command's object names what is set. */
typedef enum forge_gear_kind {
    FORGE_GEAR_SWITCH, /* on or off */
    FORGE_GEAR_DOOR,   /* open or closed */
    FORGE_GEAR_LEVEL,  /* a number */
    FORGE_GEAR_KINDS
} forge_gear_kind;

typedef struct forge_gear {
    const char *name;
    forge_gear_kind kind;
    int lo; /* of a level, with hi and step */
    int hi;
    int step;
} forge_gear;

typedef struct forge_failure {
    const char *name;
    const char *remedy; /* a verb */
} forge_failure;

/* to = (from - before) * num / den + after, rounded half away from zero. */
typedef struct forge_unit_pair {
    const char *from;
    const char *to;
    int lo; /* values asked for: lo, lo + step, ... hi */
    int hi;
    int step;
    int before;
    int64_t num;
    int64_t den;
    int after;
} forge_unit_pair;

enum {
    FORGE_COMPONENTS = 32,
    FORGE_FAILURES = 16,
    FORGE_FAMILIES = 25,
    FORGE_STRANGERS = 24, /* families that no catalogue has */
    FORGE_ROOMS = 24,
    FORGE_GEARS = 15,
    FORGE_UNIT_PAIRS = 14
};

typedef struct forge_grammar {
    const char *components[FORGE_COMPONENTS];
    forge_failure failures[FORGE_FAILURES];
    const char *families[FORGE_FAMILIES];
    const char *strangers[FORGE_STRANGERS];
    const char *rooms[FORGE_ROOMS];
    forge_gear gears[FORGE_GEARS];
    forge_unit_pair unit_pairs[FORGE_UNIT_PAIRS];
    forge_parts openings;
    forge_parts closings;
    forge_parts subjects;             /* of a question that names the fault first ... */
    forge_parts asks[FORGE_INTENTS];  /* ... and then asks */
    forge_parts nouns;                /* of a question that asks and names in one */
    forge_parts leads[FORGE_INTENTS]; /* that question, with $N */
    forge_parts commands[FORGE_GEAR_KINDS];
    forge_parts conversions;
    forge_parts strange; /* questions of other fields */
} forge_grammar;

extern const forge_grammar shoal_forge_grammar;

#endif
