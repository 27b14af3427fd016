/* SPDX-License-Identifier: Apache-2.0
 *
 * Following a text: one stack, one byte at a time.
 */
#include "common/grammar/grammar_internal.h"

typedef enum phase {
    BEGIN,  /* a value is to come */
    OPEN,   /* after '[' or '{' */
    AFTER,  /* a value inside has ended */
    NEXT,   /* after ',' in an object */
    NAME,   /* inside the name of a known member */
    COLON,  /* a name has ended */
    IN,     /* inside a string, or a text of a list */
    ESCAPE, /* after a backslash */
    HEX,    /* after \u */
    MINUS,  /* the phases of a number */
    ZERO,
    DIGITS,
    POINT,
    FRACTION,
    E,
    E_SIGN,
    EXPONENT
} phase;

typedef enum result {
    REFUSED,
    TAKEN,
    AGAIN /* the value ended before this byte, which belongs to what holds it */
} result;

static shoal_grammar_frame *top(shoal_grammar_state *state)
{
    return &state->frames[state->depth - 1];
}

static result enter(shoal_grammar_state *state, uint32_t node)
{
    if (state->depth >= SHOAL_GRAMMAR_DEPTH_MAX) {
        return REFUSED;
    }
    state->frames[state->depth++] = (shoal_grammar_frame){.node = node, .phase = BEGIN};
    return TAKEN;
}

static result leave(shoal_grammar_state *state)
{
    state->depth--;
    return TAKEN;
}

static result leave_before(shoal_grammar_state *state)
{
    state->depth--;
    return AGAIN;
}

void shoal_grammar_start(const shoal_grammar *grammar, shoal_grammar_state *ret_state)
{
    *ret_state = (shoal_grammar_state){0};
    (void)enter(ret_state, grammar->root);
}

/* --- texts out of a list, and names ----------------------------------------------------------- */

/* Those of mask whose byte number `at` is byte. */
static uint64_t narrow(const shoal_grammar_node *node, uint64_t mask, uint32_t at, char byte)
{
    uint64_t left = 0;
    for (size_t i = 0; i < node->n_choices; i++) {
        const shoal_grammar_choice *c = &node->choices[i];
        if ((mask >> i & 1) && at < c->n_text && c->text[at] == byte) {
            left |= UINT64_C(1) << i;
        }
    }
    return left;
}

/* Those of mask that have exactly n bytes; *ret_longer: whether others have more. */
static uint64_t whole(const shoal_grammar_node *node, uint64_t mask, uint32_t n, bool *ret_longer)
{
    uint64_t found = 0;
    *ret_longer = false;
    for (size_t i = 0; i < node->n_choices; i++) {
        if (mask >> i & 1) {
            found |= node->choices[i].n_text == n ? UINT64_C(1) << i : 0;
            *ret_longer = *ret_longer || node->choices[i].n_text > n;
        }
    }
    return found;
}

static result take_text(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    bool longer = false;
    uint64_t left = narrow(node, f->mask, f->at, byte);
    if (left == 0) {
        return whole(node, f->mask, f->at, &longer) ? leave_before(state) : REFUSED;
    }
    f->mask = left;
    f->at++;
    return whole(node, left, f->at, &longer) && !longer ? leave(state) : TAKEN;
}

/* The text that chooses a value, then the value, then the tail. */
static result take_case(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    if (f->phase == AFTER) {
        bool right = byte == node->tail[f->at];
        f->at++;
        return !right ? REFUSED : f->at == node->n_tail ? leave(state) : TAKEN;
    }
    bool longer = false;
    f->mask = narrow(node, f->mask, f->at, byte);
    f->at++;
    uint64_t found = whole(node, f->mask, f->at, &longer);
    if (found == 0) {
        return f->mask != 0 ? TAKEN : REFUSED;
    }
    f->phase = AFTER;
    f->at = 0;
    return enter(state, node->choices[__builtin_ctzll(found)].node);
}

/* --- strings and numbers ---------------------------------------------------------------------- */

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hex(char byte)
{
    char low = (char)(byte | 0x20);
    return is_digit(byte) || (low >= 'a' && low <= 'f');
}

/* Halves of surrogate pairs stay out: \ud800 to \udfff. */
static result take_hex(shoal_grammar_frame *f, char byte)
{
    bool half = f->at == 1 && f->mask == 1 && byte >= '8';
    if (!is_hex(byte) || half) {
        return REFUSED;
    }
    f->mask = f->at == 0 && (byte | 0x20) == 'd';
    f->at++;
    if (f->at == 4) {
        f->phase = IN;
    }
    return TAKEN;
}

static result take_string(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    static const char escapes[] = "\"\\/bfnrtu";
    shoal_grammar_frame *f = top(state);
    if (f->phase == HEX) {
        return take_hex(f, byte);
    }
    if (f->phase == ESCAPE) {
        bool known = false;
        for (size_t i = 0; i + 1 < sizeof escapes; i++) {
            known = known || escapes[i] == byte;
        }
        f->phase = byte == 'u' ? HEX : IN;
        f->at = 0;
        f->mask = 0;
        return known ? TAKEN : REFUSED;
    }
    unsigned char u = (unsigned char)byte;
    if (byte == '"') {
        return f->count >= node->n_min ? leave(state) : REFUSED;
    }
    bool first = u < 0x80 || u >= 0xc0; /* of a character */
    if (u < 0x20 || (first && f->count >= node->n_max)) {
        return REFUSED;
    }
    f->count += first && f->count < UINT32_MAX;
    f->phase = byte == '\\' ? ESCAPE : IN;
    return TAKEN;
}

/* Where a number goes from phase with byte; BEGIN: nowhere. */
static phase number_step(phase from, char byte, bool integer)
{
    bool digit = is_digit(byte);
    switch (from) {
    case BEGIN:
        return byte == '-' ? MINUS : byte == '0' ? ZERO : digit ? DIGITS : BEGIN;
    case MINUS:
        return byte == '0' ? ZERO : digit ? DIGITS : BEGIN;
    case ZERO:
    case DIGITS:
        if (from == DIGITS && digit) {
            return DIGITS;
        }
        return integer ? BEGIN : byte == '.' ? POINT : (byte | 0x20) == 'e' ? E : BEGIN;
    case POINT:
        return digit ? FRACTION : BEGIN;
    case FRACTION:
        return digit ? FRACTION : (byte | 0x20) == 'e' ? E : BEGIN;
    case E:
        return byte == '+' || byte == '-' ? E_SIGN : digit ? EXPONENT : BEGIN;
    case E_SIGN:
    case EXPONENT:
        /* Two digits: 1e99 is a number everywhere, 1e999 is not. */
        return digit ? EXPONENT : BEGIN;
    case OPEN:
    case AFTER:
    case NEXT:
    case NAME:
    case COLON:
    case IN:
    case ESCAPE:
    case HEX:
        break;
    }
    return BEGIN;
}

static bool number_whole(phase at)
{
    return at == ZERO || at == DIGITS || at == FRACTION || at == EXPONENT;
}

static result take_number(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    phase next = number_step((phase)f->phase, byte, node->kind == SHOAL_GRAMMAR_INTEGER);
    f->count = next == EXPONENT ? f->count + 1 : 0;
    if (next == BEGIN) {
        return number_whole((phase)f->phase) ? leave_before(state) : REFUSED;
    }
    f->at++;
    if (f->at > SHOAL_GRAMMAR_DIGITS_MAX || f->count > 2) {
        return REFUSED;
    }
    f->phase = (uint8_t)next;
    return TAKEN;
}

/* --- arrays and objects ----------------------------------------------------------------------- */

static result take_array(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    if (byte == ']') {
        return f->count >= node->n_min ? leave(state) : REFUSED;
    }
    if (f->count >= node->n_max || (f->phase == AFTER && byte != ',')) {
        return REFUSED;
    }
    bool comma = f->phase == AFTER;
    f->phase = AFTER;
    f->count += f->count < UINT32_MAX;
    result entered = enter(state, node->item);
    return entered == TAKEN && !comma ? AGAIN : entered; /* without a comma this byte begins it */
}

static result take_map(const shoal_grammar *grammar, shoal_grammar_state *state,
                       const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    if (f->phase == COLON) {
        f->phase = AFTER;
        return byte == ':' ? enter(state, node->item) : REFUSED;
    }
    if (byte == '}') {
        return f->phase != NEXT ? leave(state) : REFUSED;
    }
    if (f->phase == AFTER) {
        f->phase = NEXT;
        return byte == ',' ? TAKEN : REFUSED;
    }
    f->phase = COLON;
    return byte == '"' && enter(state, grammar->key) == TAKEN ? AGAIN : REFUSED;
}

/* The members that may come next: up to the first one that must. 0: none is left. */
static uint64_t members_from(const shoal_grammar_node *node, uint32_t first, bool *ret_must)
{
    uint64_t mask = 0;
    *ret_must = false;
    for (size_t i = first; i < node->n_choices && !*ret_must; i++) {
        mask |= UINT64_C(1) << i;
        *ret_must = node->choices[i].required;
    }
    return mask;
}

static result take_name(shoal_grammar_frame *f, const shoal_grammar_node *node, char byte)
{
    bool longer = false;
    f->mask = narrow(node, f->mask, f->at, byte);
    f->at++;
    uint64_t found = whole(node, f->mask, f->at, &longer);
    if (found != 0) { /* names end in a quote, so none begins another */
        f->count = (uint32_t)__builtin_ctzll(found);
        f->phase = COLON;
    }
    return f->mask != 0 ? TAKEN : REFUSED;
}

static result take_object(shoal_grammar_state *state, const shoal_grammar_node *node, char byte)
{
    shoal_grammar_frame *f = top(state);
    if (f->phase == NAME) {
        return take_name(f, node, byte);
    }
    if (f->phase == COLON) {
        f->phase = AFTER;
        uint32_t value = node->choices[f->count++].node;
        return byte == ':' ? enter(state, value) : REFUSED;
    }
    bool must = false;
    uint64_t left = members_from(node, f->count, &must);
    if (byte == '}') {
        return f->phase != NEXT && !must ? leave(state) : REFUSED;
    }
    if (f->phase == AFTER) {
        f->phase = NEXT;
        return byte == ',' && left != 0 ? TAKEN : REFUSED;
    }
    f->phase = NAME;
    f->mask = left;
    f->at = 0;
    return take_name(f, node, byte);
}

/* --- one byte --------------------------------------------------------------------------------- */

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

/* Where JSON allows blanks and there is something to come: not inside a word, a number or a name.
 */
static bool blank_ok(const shoal_grammar *grammar, const shoal_grammar_state *state)
{
    const shoal_grammar_frame *f = &state->frames[state->depth - 1];
    shoal_grammar_kind kind = grammar->nodes[f->node].kind;
    bool inside =
        kind == SHOAL_GRAMMAR_ARRAY || kind == SHOAL_GRAMMAR_OBJECT || kind == SHOAL_GRAMMAR_MAP;
    return f->phase == BEGIN ||
           (inside && (f->phase == OPEN || f->phase == AFTER || f->phase == NEXT));
}

static result begin(const shoal_grammar *grammar, shoal_grammar_state *state, char byte)
{
    shoal_grammar_frame *f = top(state);
    const shoal_grammar_node *node = shoal_grammar_resolve(grammar, f->node, byte);
    if (!node) {
        return REFUSED;
    }
    f->node = (uint32_t)(node - grammar->nodes);
    switch (node->kind) {
    case SHOAL_GRAMMAR_STRING:
        f->phase = IN;
        return TAKEN;
    case SHOAL_GRAMMAR_ARRAY:
    case SHOAL_GRAMMAR_OBJECT:
    case SHOAL_GRAMMAR_MAP:
        f->phase = OPEN;
        return TAKEN;
    case SHOAL_GRAMMAR_NUMBER:
    case SHOAL_GRAMMAR_INTEGER:
        return take_number(state, node, byte);
    case SHOAL_GRAMMAR_TEXTS:
        f->phase = IN;
        f->mask = UINT64_MAX;
        return take_text(state, node, byte);
    case SHOAL_GRAMMAR_CASES:
        f->phase = IN;
        f->mask = UINT64_MAX;
        return take_case(state, node, byte);
    case SHOAL_GRAMMAR_UNION:
        break;
    }
    return REFUSED;
}

static result take(const shoal_grammar *grammar, shoal_grammar_state *state, char byte)
{
    if (is_blank(byte) && blank_ok(grammar, state)) {
        return ++state->n_blanks <= SHOAL_GRAMMAR_BLANKS_MAX ? TAKEN : REFUSED;
    }
    const shoal_grammar_frame *f = top(state);
    const shoal_grammar_node *node = &grammar->nodes[f->node];
    if (f->phase == BEGIN) {
        return begin(grammar, state, byte);
    }
    switch (node->kind) {
    case SHOAL_GRAMMAR_STRING:
        return take_string(state, node, byte);
    case SHOAL_GRAMMAR_NUMBER:
    case SHOAL_GRAMMAR_INTEGER:
        return take_number(state, node, byte);
    case SHOAL_GRAMMAR_TEXTS:
        return take_text(state, node, byte);
    case SHOAL_GRAMMAR_ARRAY:
        return take_array(state, node, byte);
    case SHOAL_GRAMMAR_OBJECT:
        return take_object(state, node, byte);
    case SHOAL_GRAMMAR_MAP:
        return take_map(grammar, state, node, byte);
    case SHOAL_GRAMMAR_CASES:
        return take_case(state, node, byte);
    case SHOAL_GRAMMAR_UNION:
        break;
    }
    return REFUSED;
}

bool shoal_grammar_push(const shoal_grammar *grammar, shoal_grammar_state *state, const char *data,
                        size_t n)
{
    for (size_t i = 0; i < n; i++) {
        result r = AGAIN;
        while (r == AGAIN) {
            if (state->depth == 0) {
                return false; /* the value is whole: nothing may follow it */
            }
            uint32_t n_blanks = state->n_blanks;
            r = take(grammar, state, data[i]);
            if (r != REFUSED && state->n_blanks == n_blanks) {
                state->n_blanks = 0;
            }
        }
        if (r == REFUSED) {
            return false;
        }
    }
    return true;
}

bool shoal_grammar_may_end(const shoal_grammar *grammar, const shoal_grammar_state *state)
{
    if (state->depth != 1) {
        return state->depth == 0;
    }
    const shoal_grammar_frame *f = &state->frames[0];
    const shoal_grammar_node *node = &grammar->nodes[f->node];
    bool longer = false;
    if (node->kind == SHOAL_GRAMMAR_TEXTS) {
        return f->phase == IN && whole(node, f->mask, f->at, &longer) != 0;
    }
    bool number = node->kind == SHOAL_GRAMMAR_NUMBER || node->kind == SHOAL_GRAMMAR_INTEGER;
    return number && number_whole((phase)f->phase);
}
