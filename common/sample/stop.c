/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop strings over a stream: one Knuth-Morris-Pratt automaton per string, so that the state
 * after any byte is "how many bytes of this string the text now ends with". The longest of these
 * is exactly what must be held back, whatever the pieces were. Sixteen short automata beat one
 * Aho-Corasick machine here: no construction over 4,096 states, and two loads per byte each.
 */
#include "common/sample/sample.h"

#include "common/base/mem.h"

#include <string.h>

typedef struct automaton {
    char text[SHOAL_STOP_BYTES_MAX];
    uint16_t fallback[SHOAL_STOP_BYTES_MAX]; /* longest proper border of text[0..i] */
    size_t length;
    size_t matched; /* the text so far ends with text[0..matched) */
} automaton;

struct shoal_stop {
    size_t n_pushed;
    size_t n_safe;
    size_t n_automata;
    shoal_status outcome; /* SHOAL_EOF once a stop string was seen */
    automaton automata[];
};

static void build(automaton *a, const char *text, size_t length)
{
    memcpy(a->text, text, length);
    a->length = length;
    size_t border = 0;
    for (size_t i = 1; i < length; i++) {
        while (border > 0 && text[i] != text[border]) {
            border = a->fallback[border - 1];
        }
        if (text[i] == text[border]) {
            border++;
        }
        a->fallback[i] = (uint16_t)border;
    }
}

/* Advances by one byte; never called at a full match. */
static void step(automaton *a, char byte)
{
    while (a->matched > 0 && a->text[a->matched] != byte) {
        a->matched = a->fallback[a->matched - 1];
    }
    if (a->text[a->matched] == byte) {
        a->matched++;
    }
}

shoal_status shoal_stop_new(const char *const *stops, size_t n, shoal_stop **ret_stop,
                            shoal_err *err)
{
    if (n > SHOAL_STOPS_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID, "stop has %zu strings; at most %d", n,
                             (int)SHOAL_STOPS_MAX);
    }
    for (size_t i = 0; i < n; i++) {
        size_t length = stops[i] ? strnlen(stops[i], SHOAL_STOP_BYTES_MAX + 1) : 0;
        if (length == 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "stop[%zu] is empty; it would end every text at once", i);
        }
        if (length > SHOAL_STOP_BYTES_MAX) {
            return shoal_err_set(err, SHOAL_E_INVALID, "stop[%zu] is longer than %d bytes", i,
                                 (int)SHOAL_STOP_BYTES_MAX);
        }
    }
    shoal_stop *stop = shoal_calloc(1, sizeof *stop + n * sizeof stop->automata[0]);
    if (!stop) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu stop strings", n);
    }
    stop->n_automata = n;
    stop->outcome = SHOAL_OK;
    for (size_t i = 0; i < n; i++) {
        build(&stop->automata[i], stops[i], strnlen(stops[i], SHOAL_STOP_BYTES_MAX));
    }
    *ret_stop = stop;
    return SHOAL_OK;
}

void shoal_stop_free(shoal_stop *stop)
{
    shoal_free(stop);
}

/* Feeds one byte to all. Sets the outcome when a string is complete: of several that end on this
 * byte the longest counts, so that nothing of it was shown. */
static void push_byte(shoal_stop *stop, char byte)
{
    size_t complete = 0;
    size_t held = 0;
    for (size_t i = 0; i < stop->n_automata; i++) {
        automaton *a = &stop->automata[i];
        step(a, byte);
        held = SHOAL_MAX(held, a->matched);
        if (a->matched == a->length) {
            complete = SHOAL_MAX(complete, a->length);
        }
    }
    stop->n_pushed++;
    if (complete > 0) {
        stop->outcome = SHOAL_EOF;
        held = complete;
    }
    stop->n_safe = stop->n_pushed - held;
}

shoal_status shoal_stop_push(shoal_stop *stop, const char *text, size_t n, size_t *ret_safe)
{
    for (size_t i = 0; i < n && stop->outcome == SHOAL_OK; i++) {
        push_byte(stop, text[i]);
    }
    *ret_safe = stop->n_safe;
    return stop->outcome;
}
