/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions composed from parts, and their answers.
 *
 * A question is an opening, a core, and a mark or a closing. The core is one part, or two where the
 * fault is named first and the asking follows. In the para split one of the parts that have
 * held-out forms, chosen evenly, takes such a form; the others are training parts, so a miss is due
 * to that part.
 */
#include "cloud/forge/field.h"
#include "cloud/forge/field_draw.h"

#include <stdio.h>
#include <string.h>

enum {
    TEXT_MAX = 128, /* of a noun phrase, with its NUL */
    FULL_OF_100 = 76,
    CAUSE_OF_100 = 10,
    REMEDY_OF_100 = 8,
    STRANGE_OF_100 = 20, /* of refusals; the rest is split evenly */
    COMMAND_OF_COMP = 60
};

/* Shares of the kinds, in hundredths, in their order: as people ask, and of what is learnt by
 * heart. */
static const unsigned kind_shares[FORGE_KINDS] = {75, 10, 7, 8};
static const unsigned study_shares[FORGE_KINDS] = {88, 0, 5, 7};

/* A question in the making. */
typedef struct asking {
    const forge_field *field;
    forge_draw *draw;
    forge_split split;
    const char *slots[26]; /* text of $A to $Z, of which some is in the three below */
    forge_entry entry;
    char first[FORGE_ENTRY_TEXT_MAX];
    char second[FORGE_ENTRY_TEXT_MAX];
    forge_example *example;
    size_t length; /* of the prompt */
} asking;

/* --- text ------------------------------------------------------------------------------------- */

/* Appends a part with its slots filled; what does not fit is cut, and a test shows that all fits.
 */
static size_t put(const asking *a, const char *part, char *to, size_t length, size_t size)
{
    for (const char *c = part; *c; c++) {
        const char *text = c;
        size_t n = 1;
        if (*c == '$') {
            c++;
            text = a->slots[*c - 'A'];
            n = strlen(text);
        }
        n = SHOAL_MIN(n, size - 1 - length);
        memcpy(to + length, text, n);
        length += n;
    }
    to[length] = 0;
    return length;
}

static void ask(asking *a, const char *part)
{
    a->length = put(a, part, a->example->prompt, a->length, sizeof a->example->prompt);
}

static void answer(asking *a, const char *part)
{
    (void)put(a, part, a->example->answer, 0, sizeof a->example->answer);
}

static const char *pick(asking *a, const forge_parts *parts, bool held)
{
    if (held) {
        return parts->held[shoal_forge_draw_below(a->draw, parts->n_held)];
    }
    size_t total = 0;
    for (size_t i = 0; i < parts->n_train; i++) {
        total += parts->train[i].weight;
    }
    size_t at = shoal_forge_draw_below(a->draw, total);
    size_t i = 0;
    while (i + 1 < parts->n_train && at >= parts->train[i].weight) {
        at -= parts->train[i++].weight;
    }
    return parts->train[i].text;
}

/* Which of n parts is held out; n and more: none, as ever outside the para split. */
static size_t choose_held(asking *a, size_t n)
{
    return a->split == FORGE_SPLIT_PARA ? shoal_forge_draw_below(a->draw, n) : n;
}

/* How people end a line: with a mark or not. */
static void put_end(asking *a, const char *mark, bool held)
{
    const char *closing = pick(a, &shoal_forge_grammar.closings, held);
    size_t marked = shoal_forge_draw_below(a->draw, 100);
    ask(a, closing);
    if (!closing[0] && marked < 60) {
        ask(a, mark);
    }
    size_t capital = shoal_forge_draw_below(a->draw, 2);
    char *first = a->example->prompt;
    if (capital && *first >= 'a' && *first <= 'z') {
        *first = (char)(*first - 'a' + 'A');
    }
}

/* An opening, a core of one part, an end. */
static void put_simple(asking *a, const forge_parts *core, const char *mark)
{
    size_t held = choose_held(a, 3);
    ask(a, pick(a, &shoal_forge_grammar.openings, held == 1));
    ask(a, pick(a, core, held == 0));
    put_end(a, mark, held == 2);
}

/* --- faults ----------------------------------------------------------------------------------- */

/* A question about the device and the code in slots D and C. */
static void put_fault_question(asking *a, forge_intent intent)
{
    const forge_grammar *g = &shoal_forge_grammar;
    if (a->split == FORGE_SPLIT_STUDY) {
        ask(a, shoal_forge_draw_below(a->draw, 2) ? "cause $C $D" : "cause $D $C");
        return;
    }
    char noun[TEXT_MAX];
    size_t held = choose_held(a, 4);
    bool named_first = shoal_forge_draw_below(a->draw, 2) == 0;
    ask(a, pick(a, &g->openings, held == 2));
    if (named_first) {
        ask(a, pick(a, &g->subjects, held == 0));
        ask(a, pick(a, &g->asks[intent], held == 1));
    } else {
        (void)put(a, pick(a, &g->nouns, held == 0), noun, 0, sizeof noun);
        a->slots['N' - 'A'] = noun;
        ask(a, pick(a, &g->leads[intent], held == 1));
        a->slots['N' - 'A'] = NULL;
    }
    put_end(a, "?", held == 3);
}

static forge_intent draw_intent(asking *a)
{
    size_t at = shoal_forge_draw_below(a->draw, 100);
    if (a->split == FORGE_SPLIT_STUDY) {
        return FORGE_INTENT_CAUSE;
    }
    if (a->split == FORGE_SPLIT_CATALOGUE || at < FULL_OF_100) {
        return FORGE_INTENT_FULL;
    }
    at -= FULL_OF_100;
    return at < CAUSE_OF_100                   ? FORGE_INTENT_CAUSE
           : at < CAUSE_OF_100 + REMEDY_OF_100 ? FORGE_INTENT_REMEDY
                                               : FORGE_INTENT_PART;
}

/* A copy of a word with a capital, as sentences begin. */
static const char *capital(const char *word, char text[FORGE_ENTRY_TEXT_MAX])
{
    (void)snprintf(text, FORGE_ENTRY_TEXT_MAX, "%s", word);
    text[0] = (char)(text[0] - 'a' + 'A');
    return text;
}

static void make_fact(asking *a, size_t entry)
{
    /* Whatever is asked, the cause comes first: the rest follows from it. */
    static const char *const answers[FORGE_INTENTS] = {"$K $F: $V it, part $P.", "$K $F.",
                                                       "$K $F: $V it.", "$K $F: part $P."};
    forge_entry *e = &a->entry;
    shoal_forge_field_entry(a->field, entry, e);
    a->example->entry = entry;
    a->slots['D' - 'A'] = e->device;
    a->slots['C' - 'A'] = e->code;
    a->slots['K' - 'A'] = capital(e->component, a->first);
    a->slots['F' - 'A'] = e->failure;
    a->slots['V' - 'A'] = e->remedy;
    a->slots['P' - 'A'] = e->part;
    forge_intent intent = draw_intent(a);
    put_fault_question(a, intent);
    answer(a, answers[intent]);
}

/* --- commands --------------------------------------------------------------------------------- */

static int draw_step(asking *a, int lo, int hi, int step)
{
    return lo + step * (int)shoal_forge_draw_below(a->draw, (size_t)((hi - lo) / step) + 1);
}

static void make_command(asking *a)
{
    static const char *const states[2][2] = {{"off", "on"}, {"closed", "open"}};
    static const char *const verbs[2][2] = {{"off", "on"}, {"close", "open"}};
    const forge_grammar *g = &shoal_forge_grammar;
    bool held = a->split == FORGE_SPLIT_COMP;
    const forge_pairs *places = &a->field->places;
    forge_pair place = places->of[held][shoal_forge_draw_below(a->draw, places->n[held])];
    const forge_gear *gear = &g->gears[place.b];
    a->slots['R' - 'A'] = g->rooms[place.a];
    a->slots['G' - 'A'] = gear->name;
    if (gear->kind == FORGE_GEAR_LEVEL) {
        (void)snprintf(a->first, sizeof a->first, "%d",
                       draw_step(a, gear->lo, gear->hi, gear->step));
        a->slots['X' - 'A'] = a->first;
    } else {
        size_t on = shoal_forge_draw_below(a->draw, 2);
        a->slots['V' - 'A'] = verbs[gear->kind][on];
        a->slots['S' - 'A'] = states[gear->kind][on];
    }
    put_simple(a, &g->commands[gear->kind], ".");
    answer(a, gear->kind == FORGE_GEAR_LEVEL
                  ? "{\"room\":\"$R\",\"device\":\"$G\",\"value\":$X}"
                  : "{\"room\":\"$R\",\"device\":\"$G\",\"action\":\"$S\"}");
}

/* --- conversions ------------------------------------------------------------------------------ */

static int64_t convert(const forge_unit_pair *unit, int value)
{
    int64_t product = (int64_t)(value - unit->before) * unit->num;
    int64_t half = product < 0 ? -unit->den : unit->den;
    return (2 * product + half) / (2 * unit->den) + unit->after;
}

static void make_conversion(asking *a)
{
    const forge_grammar *g = &shoal_forge_grammar;
    bool held = a->split == FORGE_SPLIT_COMP;
    const forge_pairs *units = &a->field->units;
    forge_pair chosen = units->of[held][shoal_forge_draw_below(a->draw, units->n[held])];
    const forge_unit_pair *unit = &g->unit_pairs[chosen.b];
    int value = draw_step(a, unit->lo, unit->hi, unit->step);
    (void)snprintf(a->first, sizeof a->first, "%d", value);
    (void)snprintf(a->second, sizeof a->second, "%lld", (long long)convert(unit, value));
    a->slots['X' - 'A'] = a->first;
    a->slots['Y' - 'A'] = a->second;
    a->slots['U' - 'A'] = unit->from;
    a->slots['T' - 'A'] = unit->to;
    forge_part wording = {g->conversions.train[chosen.a].text, 1};
    forge_parts core = g->conversions;
    core.train = &wording;
    core.n_train = 1;
    if (a->split == FORGE_SPLIT_STUDY) {
        ask(a, "$X $U $T");
    } else {
        put_simple(a, &core, "?");
    }
    answer(a, "That is $Y $T.");
}

/* --- refusals --------------------------------------------------------------------------------- */

/* A device that is in no catalogue: an unknown family, or a number that no device has. */
static void draw_stranger(asking *a, char *ret_name)
{
    const forge_grammar *g = &shoal_forge_grammar;
    size_t most = (a->field->n_devices + a->field->n_families - 1) / a->field->n_families;
    size_t number = FORGE_NUMBER_STEP * (1 + shoal_forge_draw_below(a->draw, most));
    if (shoal_forge_draw_below(a->draw, 2) == 0) {
        (void)snprintf(ret_name, FORGE_ENTRY_TEXT_MAX, "%s %zu",
                       g->strangers[shoal_forge_draw_below(a->draw, FORGE_STRANGERS)], number);
        return;
    }
    (void)snprintf(ret_name, FORGE_ENTRY_TEXT_MAX, "%s %zu",
                   g->families[shoal_forge_draw_below(a->draw, a->field->n_families)],
                   number + FORGE_NUMBER_STEP / 2);
}

static void make_refusal(asking *a)
{
    size_t at = shoal_forge_draw_below(a->draw, 100);
    if (at < STRANGE_OF_100 && a->split != FORGE_SPLIT_STUDY) {
        put_simple(a, &shoal_forge_grammar.strange, "?");
        answer(a, "Sorry, I only know faults, commands and units.");
        return;
    }
    size_t real = shoal_forge_draw_below(a->draw, a->field->n_devices);
    const char *own = a->field->own_letters[real % a->field->n_families];
    bool stranger = at % 2 == 0;
    size_t letter = shoal_forge_draw_below(a->draw, FORGE_CODE_LETTERS - FORGE_FAMILY_LETTERS);
    unsigned digits = FORGE_DIGITS_LO + (unsigned)shoal_forge_draw_below(a->draw, FORGE_DIGITS);
    shoal_forge_code_name(own[FORGE_FAMILY_LETTERS + letter], digits, a->second);
    if (stranger) {
        draw_stranger(a, a->first);
    } else {
        shoal_forge_device_name(a->field, real, a->first);
    }
    a->slots['D' - 'A'] = a->first;
    a->slots['C' - 'A'] = a->second;
    put_fault_question(a, draw_intent(a));
    answer(a, stranger ? "There is no $D in the catalogue." : "$D has no code $C.");
}

/* --- the door --------------------------------------------------------------------------------- */

static forge_kind draw_kind(asking *a)
{
    size_t at = shoal_forge_draw_below(a->draw, 100);
    const unsigned *shares = a->split == FORGE_SPLIT_STUDY ? study_shares : kind_shares;
    if (a->split == FORGE_SPLIT_CATALOGUE) {
        return FORGE_KIND_FACT;
    }
    if (a->split == FORGE_SPLIT_COMP) {
        return at < COMMAND_OF_COMP ? FORGE_KIND_COMMAND : FORGE_KIND_CONVERT;
    }
    size_t kind = 0;
    while (at >= shares[kind]) {
        at -= shares[kind++];
    }
    return (forge_kind)kind;
}

void shoal_forge_field_example(const forge_field *field, forge_split split, double exponent,
                               uint64_t index, forge_example *ret_example)
{
    if (split == FORGE_SPLIT_CATALOGUE) {
        index %= field->n_entries;
    }
    forge_draw draw = shoal_forge_draw_begin(field->seed, split, index);
    asking a = {.field = field, .draw = &draw, .split = split, .example = ret_example};
    ret_example->kind = draw_kind(&a);
    ret_example->entry = SIZE_MAX;
    size_t entry = shoal_forge_draw_entry(field, &draw, exponent);
    if (ret_example->kind == FORGE_KIND_COMMAND) {
        make_command(&a);
    } else if (ret_example->kind == FORGE_KIND_CONVERT) {
        make_conversion(&a);
    } else if (ret_example->kind == FORGE_KIND_REFUSE) {
        make_refusal(&a);
    } else {
        make_fact(&a, split == FORGE_SPLIT_CATALOGUE ? (size_t)index : entry);
    }
}
