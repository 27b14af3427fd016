/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions and answers: what is held out stays out, and every answer is right and the only one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cloud/forge/field.h"
#include "cloud/forge/field_parts.h"
#include "common/base/mem.h"

enum {
    N_ENTRIES = 2000,
    N_DRAWS = 30000,
    N_PER_SPLIT = 40000,
    N_WORDS_MAX = 2000
};

static const forge_grammar *const g = &shoal_forge_grammar;
static forge_field *field;

static int group_setup(void **state)
{
    (void)state;
    return shoal_forge_field_new(11, N_ENTRIES, &field, NULL) == SHOAL_OK ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    shoal_forge_field_free(field);
    return 0;
}

static forge_example draw(forge_split split, uint64_t index)
{
    forge_example e;
    shoal_forge_field_example(field, split, 0.5, index, &e);
    return e;
}

/* --- parts, found in texts -------------------------------------------------------------------- */

static const char *match(const char *part, const char *text);

static const char *match_word(const char *word, const char *rest, const char *text)
{
    size_t n = strlen(word);
    return strncasecmp(word, text, n) == 0 ? match(rest, text + n) : NULL;
}

static const char *skip_digits(const char *text)
{
    while (isdigit((unsigned char)*text)) {
        text++;
    }
    return text;
}

/* A slot is filled by what can stand there and nothing else, so that "gate in" is no room. */
static const char *match_slot(char slot, const char *rest, const char *text)
{
    const char *end = NULL;
    switch (slot) {
    case 'D':
        if (!isupper((unsigned char)*text)) {
            return NULL;
        }
        end = text + strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
        return *end == ' ' && isdigit((unsigned char)end[1]) ? match(rest, skip_digits(end + 1))
                                                             : NULL;
    case 'C':
        return isupper((unsigned char)text[0]) && skip_digits(text + 1) == text + 3
                   ? match(rest, text + 3)
                   : NULL;
    case 'X':
        return isdigit((unsigned char)*text) ? match(rest, skip_digits(text)) : NULL;
    case 'N':
        for (size_t i = 0; !end && i < g->nouns.n_train + g->nouns.n_held; i++) {
            const char *noun =
                i < g->nouns.n_train ? g->nouns.train[i].text : g->nouns.held[i - g->nouns.n_train];
            const char *after = match(noun, text);
            end = after ? match(rest, after) : NULL;
        }
        return end;
    case 'R':
        for (size_t i = 0; !end && i < FORGE_ROOMS; i++) {
            end = match_word(g->rooms[i], rest, text);
        }
        return end;
    case 'G':
        for (size_t i = 0; !end && i < FORGE_GEARS; i++) {
            end = match_word(g->gears[i].name, rest, text);
        }
        return end;
    case 'V': {
        const char *const verbs[] = {"on", "off", "open", "close"};
        for (size_t i = 0; !end && i < SHOAL_COUNT(verbs); i++) {
            end = match_word(verbs[i], rest, text);
        }
        return end;
    }
    default: /* U and T */
        for (size_t i = 0; !end && i < FORGE_UNIT_PAIRS; i++) {
            end = match_word(g->unit_pairs[i].from, rest, text);
        }
        return end;
    }
}

/* Where the part, at the begin of text, ends; NULL: it is not there. */
static const char *match(const char *part, const char *text)
{
    while (*part && *part != '$') {
        if (tolower((unsigned char)*part++) != tolower((unsigned char)*text++)) {
            return NULL;
        }
    }
    return *part ? match_slot(part[1], part + 2, text) : text;
}

static bool holds(const char *text, const char *part)
{
    for (; *text; text++) {
        if (match(part, text)) {
            return true;
        }
    }
    return false;
}

static const forge_parts *all_parts(size_t i)
{
    const forge_parts *const single[] = {&g->openings, &g->closings, &g->subjects,
                                         &g->nouns,    &g->strange,  &g->conversions};
    const size_t n = SHOAL_COUNT(single);
    if (i < n) {
        return single[i];
    }
    i -= n;
    if (i < FORGE_INTENTS) {
        return &g->asks[i];
    }
    i -= FORGE_INTENTS;
    if (i < FORGE_INTENTS) {
        return &g->leads[i];
    }
    i -= FORGE_INTENTS;
    return i < FORGE_GEAR_KINDS ? &g->commands[i] : NULL;
}

static const char *held_part_in(const char *text)
{
    const forge_parts *parts = NULL;
    for (size_t i = 0; (parts = all_parts(i)) != NULL; i++) {
        for (size_t k = 0; k < parts->n_held; k++) {
            if (holds(text, parts->held[k])) {
                return parts->held[k];
            }
        }
    }
    return NULL;
}

static void test_held_out_parts_are_in_para_and_nowhere_else(void **state)
{
    (void)state;
    for (unsigned split = 0; split < FORGE_SPLITS; split++) {
        for (uint64_t i = 0; i < N_DRAWS / 2; i++) {
            forge_example e = draw((forge_split)split, i);
            const char *part = held_part_in(e.prompt);
            if ((part != NULL) != (split == FORGE_SPLIT_PARA)) {
                fail_msg("split %u: \"%s\" has %s", split, e.prompt,
                         part ? part : "no held-out part");
            }
        }
    }
}

static void test_every_part_is_drawn(void **state)
{
    (void)state;
    const forge_parts *parts = NULL;
    for (size_t i = 0; (parts = all_parts(i)) != NULL; i++) {
        for (size_t k = 0; k < parts->n_train + parts->n_held; k++) {
            bool held = k >= parts->n_train;
            const char *part = held ? parts->held[k - parts->n_train] : parts->train[k].text;
            bool found = !part[0];
            for (uint64_t at = 0; !found && at < N_DRAWS; at++) {
                forge_example e = draw(held ? FORGE_SPLIT_PARA : FORGE_SPLIT_TRAIN, at);
                found = holds(e.prompt, part);
            }
            if (!found) {
                fail_msg("\"%s\" is never drawn", part);
            }
        }
    }
}

/* --- words ------------------------------------------------------------------------------------ */

typedef struct words {
    char text[N_WORDS_MAX][FORGE_ENTRY_TEXT_MAX];
    size_t n;
} words;

static bool has_word(const words *w, const char *word)
{
    for (size_t i = 0; i < w->n; i++) {
        if (strcmp(w->text[i], word) == 0) {
            return true;
        }
    }
    return false;
}

/* The next word of lower-case letters; false at the end. Slots are no words. */
static bool next_word(const char **text, char word[FORGE_ENTRY_TEXT_MAX])
{
    size_t n = 0;
    const char *c = *text;
    while (*c && !isalpha((unsigned char)*c)) {
        c += *c == '$' ? 2 : 1;
    }
    while (isalpha((unsigned char)*c) && n + 1 < FORGE_ENTRY_TEXT_MAX) {
        word[n++] = (char)tolower((unsigned char)*c++);
    }
    word[n] = 0;
    *text = c;
    return n > 0;
}

static void test_words_of_held_out_parts_are_trained(void **state)
{
    (void)state;
    static words trained;
    char word[FORGE_ENTRY_TEXT_MAX];
    const forge_parts *parts = NULL;
    trained.n = 0;
    for (uint64_t i = 0; i < N_DRAWS; i++) {
        forge_example e = draw(FORGE_SPLIT_TRAIN, i);
        for (const char *text = e.prompt; next_word(&text, word);) {
            if (!has_word(&trained, word)) {
                assert_true(trained.n < N_WORDS_MAX);
                memcpy(trained.text[trained.n++], word, sizeof word);
            }
        }
    }
    for (size_t i = 0; (parts = all_parts(i)) != NULL; i++) {
        for (size_t k = 0; k < parts->n_held; k++) {
            for (const char *text = parts->held[k]; next_word(&text, word);) {
                if (!has_word(&trained, word)) {
                    fail_msg("\"%s\" of \"%s\" is never trained", word, parts->held[k]);
                }
            }
        }
    }
}

static void test_each_kind_has_thirty_wordings_and_more(void **state)
{
    (void)state;
    size_t around = g->openings.n_train * g->closings.n_train;
    for (size_t i = 0; i < FORGE_INTENTS; i++) {
        size_t n =
            g->subjects.n_train * g->asks[i].n_train + g->nouns.n_train * g->leads[i].n_train;
        assert_true(n >= 30);
        assert_true(g->asks[i].n_held >= 3 && g->leads[i].n_held >= 3);
    }
    for (size_t i = 0; i < FORGE_GEAR_KINDS; i++) {
        assert_true(around * g->commands[i].n_train >= 30 && g->commands[i].n_held >= 3);
    }
    assert_true(around * g->conversions.n_train >= 30 && g->conversions.n_held >= 3);
}

/* --- compositions ----------------------------------------------------------------------------- */

static void command_of(const forge_example *e, size_t *ret_room, size_t *ret_gear)
{
    char room[FORGE_ENTRY_TEXT_MAX];
    char gear[FORGE_ENTRY_TEXT_MAX];
    char value[FORGE_ENTRY_TEXT_MAX];
    size_t r = 0;
    size_t d = 0;
    assert_int_equal(sscanf(e->answer, "{\"room\":\"%31[a-z]\",\"device\":\"%31[a-z]\",%31[^}]}",
                            room, gear, value),
                     3);
    while (r < FORGE_ROOMS && strcmp(g->rooms[r], room) != 0) {
        r++;
    }
    while (d < FORGE_GEARS && strcmp(g->gears[d].name, gear) != 0) {
        d++;
    }
    assert_true(r < FORGE_ROOMS && d < FORGE_GEARS);
    assert_true(holds(e->prompt, room) && holds(e->prompt, gear));
    const char *const said[] = {"on", "off", "open", "close"};
    const char *const done[] = {"\"action\":\"on\"", "\"action\":\"off\"", "\"action\":\"open\"",
                                "\"action\":\"closed\""};
    size_t n_right = 0;
    for (size_t i = 0; i < SHOAL_COUNT(done); i++) {
        n_right += strcmp(value, done[i]) == 0 && holds(e->prompt, said[i]);
    }
    if (n_right == 0) {
        int number = 0;
        char text[FORGE_ENTRY_TEXT_MAX];
        assert_int_equal(sscanf(value, "\"value\":%d", &number), 1);
        (void)snprintf(text, sizeof text, " %d", number);
        assert_non_null(strstr(e->prompt, text));
        assert_in_range(number, g->gears[d].lo, g->gears[d].hi);
    }
    *ret_room = r;
    *ret_gear = d;
}

/* The training wording and the pair of units of a conversion: the longest that is there. */
static void conversion_of(const forge_example *e, size_t *ret_wording, size_t *ret_pair)
{
    size_t longest = 0;
    for (size_t w = 0; w < g->conversions.n_train; w++) {
        for (size_t p = 0; p < FORGE_UNIT_PAIRS; p++) {
            char part[FORGE_EXAMPLE_TEXT_MAX];
            size_t n = 0;
            for (const char *c = g->conversions.train[w].text; *c; c++) {
                const char *unit = *c != '$'     ? NULL
                                   : c[1] == 'U' ? g->unit_pairs[p].from
                                   : c[1] == 'T' ? g->unit_pairs[p].to
                                                 : NULL;
                c += unit ? 1 : 0;
                n += (size_t)snprintf(part + n, sizeof part - n, unit ? "%s" : "%.1s",
                                      unit ? unit : c);
            }
            if (n > longest && holds(e->prompt, part)) {
                longest = n;
                *ret_wording = w;
                *ret_pair = p;
            }
        }
    }
    if (longest == 0) {
        fail_msg("\"%s\" has no training wording", e->prompt);
    }
}

static void test_held_out_compositions_are_in_comp_and_nowhere_else(void **state)
{
    (void)state;
    static bool places[2][FORGE_ROOMS][FORGE_GEARS];
    static bool units[2][16][FORGE_UNIT_PAIRS];
    const forge_split splits[] = {FORGE_SPLIT_TRAIN, FORGE_SPLIT_DEV, FORGE_SPLIT_TEST,
                                  FORGE_SPLIT_COMP};
    memset(places, 0, sizeof places);
    memset(units, 0, sizeof units);
    assert_true(g->conversions.n_train <= 16);
    for (size_t s = 0; s < SHOAL_COUNT(splits); s++) {
        bool comp = splits[s] == FORGE_SPLIT_COMP;
        for (uint64_t i = 0; i < N_DRAWS; i++) {
            forge_example e = draw(splits[s], i);
            size_t a = 0;
            size_t b = 0;
            if (e.kind == FORGE_KIND_COMMAND) {
                command_of(&e, &a, &b);
                places[comp][a][b] = true;
            } else if (e.kind == FORGE_KIND_CONVERT) {
                conversion_of(&e, &a, &b);
                units[comp][a][b] = true;
            } else {
                assert_false(comp);
            }
        }
    }
    size_t n_places[2] = {0};
    size_t n_units[2] = {0};
    for (size_t a = 0; a < FORGE_ROOMS; a++) {
        for (size_t b = 0; b < FORGE_GEARS; b++) {
            assert_true(places[0][a][b] != places[1][a][b]);
            n_places[places[1][a][b]]++;
        }
    }
    for (size_t a = 0; a < g->conversions.n_train; a++) {
        for (size_t b = 0; b < FORGE_UNIT_PAIRS; b++) {
            assert_true(units[0][a][b] != units[1][a][b]);
            n_units[units[1][a][b]]++;
        }
    }
    assert_int_equal(n_places[1], FORGE_ROOMS * FORGE_GEARS / 6);
    assert_in_range(n_units[1], 20, 30);
}

/* --- answers ---------------------------------------------------------------------------------- */

static void test_conversions_are_right(void **state)
{
    (void)state;
    const struct {
        const char *from;
        const char *to;
        double factor;
    } rules[] = {{"bar", "psi", 14.503774},          {"m", "ft", 1 / 0.3048},
                 {"kg", "lb", 1 / 0.45359237},       {"miles", "km", 1.609344},
                 {"gallons", "litres", 3.785411784}, {"hp", "kW", 0.74569987}};
    size_t n = 0;
    for (uint64_t i = 0; i < N_DRAWS; i++) {
        forge_example e = draw(i % 2 ? FORGE_SPLIT_COMP : FORGE_SPLIT_PARA, i);
        if (e.kind != FORGE_KIND_CONVERT) {
            continue;
        }
        double value = 0;
        double got = 0;
        char from[FORGE_ENTRY_TEXT_MAX];
        char to[FORGE_ENTRY_TEXT_MAX];
        const char *number = strpbrk(e.prompt, "0123456789");
        assert_non_null(number);
        assert_int_equal(sscanf(number, "%lf %31[A-Za-z]", &value, from), 2);
        assert_int_equal(sscanf(e.answer, "That is %lf %31[A-Za-z].", &got, to), 2);
        double wanted = (double)NAN;
        if (strcmp(from, "C") == 0 && strcmp(to, "F") == 0) {
            wanted = 1.8 * value + 32;
        } else if (strcmp(from, "F") == 0 && strcmp(to, "C") == 0) {
            wanted = (value - 32) / 1.8;
        }
        for (size_t k = 0; k < SHOAL_COUNT(rules); k++) {
            if (strcmp(from, rules[k].from) == 0 && strcmp(to, rules[k].to) == 0) {
                wanted = value * rules[k].factor;
            } else if (strcmp(from, rules[k].to) == 0 && strcmp(to, rules[k].from) == 0) {
                wanted = value / rules[k].factor;
            }
        }
        if (!(fabs(got - wanted) <= 0.5 + 1e-9)) {
            fail_msg("%s: %s", e.prompt, e.answer);
        }
        n++;
    }
    assert_true(n > 5000);
}

static void test_refusals_name_what_the_catalogue_lacks(void **state)
{
    (void)state;
    size_t n[3] = {0};
    for (uint64_t i = 0; i < N_DRAWS / 2; i++) {
        forge_example e = draw(FORGE_SPLIT_TRAIN, i);
        char family[FORGE_ENTRY_TEXT_MAX];
        char device[2 * FORGE_ENTRY_TEXT_MAX];
        char code[FORGE_ENTRY_TEXT_MAX] = "";
        unsigned number = 0;
        bool real_device = false;
        if (e.kind != FORGE_KIND_REFUSE) {
            continue;
        }
        if (strncmp(e.answer, "Sorry", 5) == 0) {
            assert_null(strpbrk(e.prompt, "0123456789"));
            n[0]++;
            continue;
        }
        bool no_device =
            sscanf(e.answer, "There is no %31[A-Za-z] %u in the catalogue.", family, &number) == 2;
        if (!no_device) {
            assert_int_equal(
                sscanf(e.answer, "%31[A-Za-z] %u has no code %31[A-Z0-9].", family, &number, code),
                3);
            assert_non_null(strstr(e.prompt, code));
        }
        (void)snprintf(device, sizeof device, "%s %u", family, number);
        assert_non_null(strstr(e.prompt, device));
        for (size_t k = 0; k < N_ENTRIES; k++) {
            forge_entry entry;
            shoal_forge_field_entry(field, k, &entry);
            real_device = real_device || strcmp(entry.device, device) == 0;
            bool same_family = strncmp(entry.device, family, strlen(family)) == 0;
            /* A code's letter tells: no code of the family begins with it. */
            assert_false(!no_device && same_family && entry.code[0] == code[0]);
        }
        assert_true(real_device != no_device);
        n[no_device ? 1 : 2]++;
    }
    assert_true(n[0] > 100 && n[1] > 300 && n[2] > 300);
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Questions that differ by capitals and the mark at the end only have one answer too. */
static void test_a_question_has_one_answer(void **state)
{
    (void)state;
    const size_t n = (size_t)FORGE_SPLITS * N_PER_SPLIT;
    char **lines = shoal_calloc(n, sizeof *lines);
    assert_non_null(lines);
    for (size_t i = 0; i < n; i++) {
        forge_example e = draw((forge_split)(i / N_PER_SPLIT), i % N_PER_SPLIT);
        char line[2 * FORGE_EXAMPLE_TEXT_MAX];
        size_t length = strlen(e.prompt);
        length -= strchr("?.", e.prompt[length - 1]) != NULL;
        for (size_t k = 0; k < length; k++) {
            e.prompt[k] = (char)tolower((unsigned char)e.prompt[k]);
        }
        (void)snprintf(line, sizeof line, "%.*s\t%s", (int)length, e.prompt, e.answer);
        lines[i] = shoal_strdup(line);
        assert_non_null(lines[i]);
    }
    qsort(lines, n, sizeof *lines, compare_lines);
    for (size_t i = 0; i + 1 < n; i++) {
        size_t prompt = strcspn(lines[i], "\t") + 1;
        if (strncmp(lines[i], lines[i + 1], prompt) == 0 && strcmp(lines[i], lines[i + 1]) != 0) {
            fail_msg("%s, but also %s", lines[i], lines[i + 1] + prompt);
        }
    }
    for (size_t i = 0; i < n; i++) {
        shoal_free(lines[i]);
    }
    shoal_free(lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_held_out_parts_are_in_para_and_nowhere_else),
        cmocka_unit_test(test_every_part_is_drawn),
        cmocka_unit_test(test_words_of_held_out_parts_are_trained),
        cmocka_unit_test(test_each_kind_has_thirty_wordings_and_more),
        cmocka_unit_test(test_held_out_compositions_are_in_comp_and_nowhere_else),
        cmocka_unit_test(test_conversions_are_right),
        cmocka_unit_test(test_refusals_name_what_the_catalogue_lacks),
        cmocka_unit_test(test_a_question_has_one_answer),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
