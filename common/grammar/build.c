/* SPDX-License-Identifier: Apache-2.0
 *
 * Building a grammar, node by node.
 */
#include "common/grammar/grammar_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    FIRST_NODES = 16
};
_Static_assert(SHOAL_GRAMMAR_NODES_MAX % FIRST_NODES == 0, "doubling ends at the limit");

static void free_choices(shoal_grammar_node *node)
{
    for (size_t i = 0; i < node->n_choices; i++) {
        shoal_free(node->choices[i].text);
    }
    shoal_free(node->choices);
    shoal_free(node->tail);
}

void shoal_grammar_free(shoal_grammar *grammar)
{
    if (!grammar) {
        return;
    }
    for (size_t i = 0; grammar->nodes && i < grammar->n_nodes; i++) {
        free_choices(&grammar->nodes[i]);
    }
    shoal_free(grammar->nodes);
    shoal_free(grammar);
}

/* A cloud holds a grammar for each of many sessions, and most are small. */
static shoal_status make_room(shoal_grammar *grammar)
{
    if (grammar->n_nodes < grammar->capacity) {
        return SHOAL_OK;
    }
    size_t capacity = SHOAL_MAX(grammar->capacity * 2, (size_t)FIRST_NODES);
    if (capacity > SHOAL_GRAMMAR_NODES_MAX) {
        return SHOAL_E_LIMIT;
    }
    shoal_grammar_node *nodes = shoal_realloc(grammar->nodes, capacity, sizeof *nodes);
    if (!nodes) {
        return SHOAL_E_NOMEM;
    }
    grammar->nodes = nodes;
    grammar->capacity = capacity;
    return SHOAL_OK;
}

/* Takes node's choices, also when it fails. */
static shoal_status add(shoal_grammar *grammar, shoal_grammar_node node, uint32_t *ret_node)
{
    shoal_status status = make_room(grammar);
    if (status != SHOAL_OK) {
        free_choices(&node);
        return status;
    }
    *ret_node = (uint32_t)grammar->n_nodes;
    grammar->nodes[grammar->n_nodes++] = node;
    return SHOAL_OK;
}

static shoal_status make_choices(size_t n, shoal_grammar_node *node)
{
    if (n < 1 || n > SHOAL_GRAMMAR_CHOICES_MAX) {
        return n < 1 ? SHOAL_E_INVALID : SHOAL_E_LIMIT;
    }
    node->choices = shoal_calloc(n, sizeof *node->choices);
    if (!node->choices) {
        return SHOAL_E_NOMEM;
    }
    node->n_choices = n;
    return SHOAL_OK;
}

static shoal_status copy_text(const char *text, shoal_grammar_choice *choice)
{
    size_t n = strlen(text);
    if (n < 1 || n > SHOAL_GRAMMAR_TEXT_MAX) {
        return n < 1 ? SHOAL_E_INVALID : SHOAL_E_LIMIT;
    }
    choice->text = shoal_strdup(text);
    choice->n_text = (uint32_t)n;
    return choice->text ? SHOAL_OK : SHOAL_E_NOMEM;
}

shoal_status shoal_grammar_add_string(shoal_grammar *grammar, uint32_t n_min, uint32_t n_max,
                                      uint32_t *ret_node)
{
    if (n_min > n_max) {
        return SHOAL_E_INVALID;
    }
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_STRING, .n_min = n_min, .n_max = n_max};
    return add(grammar, node, ret_node);
}

shoal_status shoal_grammar_add_number(shoal_grammar *grammar, bool integer, uint32_t *ret_node)
{
    shoal_grammar_node node = {.kind = integer ? SHOAL_GRAMMAR_INTEGER : SHOAL_GRAMMAR_NUMBER};
    return add(grammar, node, ret_node);
}

shoal_status shoal_grammar_add_texts(shoal_grammar *grammar, const char *const *texts, size_t n,
                                     uint32_t *ret_node)
{
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_TEXTS};
    SHOAL_TRY(make_choices(n, &node));
    shoal_status status = SHOAL_OK;
    for (size_t i = 0; i < n && status == SHOAL_OK; i++) {
        status = copy_text(texts[i], &node.choices[i]);
    }
    if (status != SHOAL_OK) {
        free_choices(&node);
        return status;
    }
    return add(grammar, node, ret_node);
}

shoal_status shoal_grammar_add_array(shoal_grammar *grammar, uint32_t item, uint32_t n_min,
                                     uint32_t n_max, uint32_t *ret_node)
{
    if (item >= grammar->n_nodes || n_min > n_max) {
        return SHOAL_E_INVALID;
    }
    shoal_grammar_node node = {
        .kind = SHOAL_GRAMMAR_ARRAY, .item = item, .n_min = n_min, .n_max = n_max};
    return add(grammar, node, ret_node);
}

shoal_status shoal_grammar_add_object(shoal_grammar *grammar, const shoal_grammar_member *members,
                                      size_t n, uint32_t *ret_node)
{
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_OBJECT};
    shoal_status status = n > 0 ? make_choices(n, &node) : SHOAL_OK;
    for (size_t i = 0; i < n && status == SHOAL_OK; i++) {
        node.choices[i].node = members[i].value;
        node.choices[i].required = members[i].required;
        status = members[i].value < grammar->n_nodes ? copy_text(members[i].name, &node.choices[i])
                                                     : SHOAL_E_INVALID;
    }
    if (status != SHOAL_OK) {
        free_choices(&node);
        return status;
    }
    return add(grammar, node, ret_node);
}

shoal_status shoal_grammar_add_map(shoal_grammar *grammar, uint32_t value, uint32_t *ret_node)
{
    if (value >= grammar->n_nodes) {
        return SHOAL_E_INVALID;
    }
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_MAP, .item = value};
    return add(grammar, node, ret_node);
}

static bool one_begins_another(const shoal_grammar_node *node)
{
    for (size_t i = 0; i < node->n_choices; i++) {
        for (size_t k = 0; k < node->n_choices; k++) {
            const shoal_grammar_choice *a = &node->choices[i];
            const shoal_grammar_choice *b = &node->choices[k];
            if (i != k && a->n_text <= b->n_text && memcmp(a->text, b->text, a->n_text) == 0) {
                return true;
            }
        }
    }
    return false;
}

shoal_status shoal_grammar_add_cases(shoal_grammar *grammar, const shoal_grammar_case *cases,
                                     size_t n, const char *tail, uint32_t *ret_node)
{
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_CASES, .n_tail = (uint32_t)strlen(tail)};
    if (node.n_tail < 1 || node.n_tail > SHOAL_GRAMMAR_TEXT_MAX) {
        return node.n_tail < 1 ? SHOAL_E_INVALID : SHOAL_E_LIMIT;
    }
    SHOAL_TRY(make_choices(n, &node));
    node.tail = shoal_strdup(tail);
    shoal_status status = node.tail ? SHOAL_OK : SHOAL_E_NOMEM;
    for (size_t i = 0; i < n && status == SHOAL_OK; i++) {
        node.choices[i].node = cases[i].value;
        status = cases[i].value < grammar->n_nodes ? copy_text(cases[i].text, &node.choices[i])
                                                   : SHOAL_E_INVALID;
    }
    if (status == SHOAL_OK && one_begins_another(&node)) {
        status = SHOAL_E_UNSUPPORTED;
    }
    if (status != SHOAL_OK) {
        free_choices(&node);
        return status;
    }
    return add(grammar, node, ret_node);
}

/* --- what a value may begin with -------------------------------------------------------------- */

static bool begins(const shoal_grammar_node *node, char byte)
{
    switch (node->kind) {
    case SHOAL_GRAMMAR_STRING:
        return byte == '"';
    case SHOAL_GRAMMAR_NUMBER:
    case SHOAL_GRAMMAR_INTEGER:
        return byte == '-' || (byte >= '0' && byte <= '9');
    case SHOAL_GRAMMAR_ARRAY:
        return byte == '[';
    case SHOAL_GRAMMAR_OBJECT:
    case SHOAL_GRAMMAR_MAP:
        return byte == '{';
    case SHOAL_GRAMMAR_TEXTS:
    case SHOAL_GRAMMAR_CASES:
        for (size_t i = 0; i < node->n_choices; i++) {
            if (node->choices[i].text[0] == byte) {
                return true;
            }
        }
        return false;
    case SHOAL_GRAMMAR_UNION:
        return false;
    }
    return false;
}

/* Parts of a union are no unions themselves: adding one has laid them flat. */
const shoal_grammar_node *shoal_grammar_resolve(const shoal_grammar *grammar, uint32_t node,
                                                char byte)
{
    const shoal_grammar_node *n = &grammar->nodes[node];
    if (n->kind != SHOAL_GRAMMAR_UNION) {
        return begins(n, byte) ? n : NULL;
    }
    for (size_t i = 0; i < n->n_choices; i++) {
        const shoal_grammar_node *part = &grammar->nodes[n->choices[i].node];
        if (begins(part, byte)) {
            return part;
        }
    }
    return NULL;
}

static bool overlap(const shoal_grammar *grammar, uint32_t a, uint32_t b)
{
    for (int byte = 0x20; byte < 0x7f; byte++) {
        if (begins(&grammar->nodes[a], (char)byte) && begins(&grammar->nodes[b], (char)byte)) {
            return true;
        }
    }
    return false;
}

shoal_status shoal_grammar_add_union(shoal_grammar *grammar, const uint32_t *parts, size_t n,
                                     uint32_t *ret_node)
{
    uint32_t flat[SHOAL_GRAMMAR_CHOICES_MAX];
    size_t n_flat = 0;
    for (size_t i = 0; i < n; i++) {
        if (parts[i] >= grammar->n_nodes) {
            return SHOAL_E_INVALID;
        }
        const shoal_grammar_node *part = &grammar->nodes[parts[i]];
        size_t m = part->kind == SHOAL_GRAMMAR_UNION ? part->n_choices : 1;
        if (m > SHOAL_GRAMMAR_CHOICES_MAX - n_flat) {
            return SHOAL_E_LIMIT;
        }
        for (size_t k = 0; k < m; k++) {
            flat[n_flat++] = part->kind == SHOAL_GRAMMAR_UNION ? part->choices[k].node : parts[i];
        }
    }
    for (size_t i = 0; i < n_flat; i++) {
        for (size_t k = i + 1; k < n_flat; k++) {
            if (overlap(grammar, flat[i], flat[k])) {
                return SHOAL_E_UNSUPPORTED;
            }
        }
    }
    shoal_grammar_node node = {.kind = SHOAL_GRAMMAR_UNION};
    SHOAL_TRY(make_choices(n_flat, &node));
    for (size_t i = 0; i < n_flat; i++) {
        node.choices[i].node = flat[i];
    }
    return add(grammar, node, ret_node);
}

void shoal_grammar_set_root(shoal_grammar *grammar, uint32_t node)
{
    SHOAL_ASSERT(node < grammar->n_nodes);
    grammar->root = node;
}

/* Node 0 is any value: a union whose arrays and objects hold node 0 again. */
static shoal_status add_any(shoal_grammar *grammar)
{
    static const char *const words[] = {"true", "false", "null"};
    uint32_t parts[5];
    shoal_grammar_node any = {.kind = SHOAL_GRAMMAR_UNION};
    uint32_t node = 0;
    SHOAL_TRY(make_choices(SHOAL_COUNT(parts), &any));
    SHOAL_TRY(add(grammar, any, &node));
    SHOAL_ASSERT(node == SHOAL_GRAMMAR_ANY);
    SHOAL_TRY(shoal_grammar_add_string(grammar, 0, UINT32_MAX, &parts[0]));
    SHOAL_TRY(shoal_grammar_add_number(grammar, false, &parts[1]));
    SHOAL_TRY(shoal_grammar_add_texts(grammar, words, SHOAL_COUNT(words), &parts[2]));
    SHOAL_TRY(shoal_grammar_add_array(grammar, node, 0, UINT32_MAX, &parts[3]));
    SHOAL_TRY(shoal_grammar_add_map(grammar, node, &parts[4]));
    for (size_t i = 0; i < SHOAL_COUNT(parts); i++) {
        grammar->nodes[node].choices[i].node = parts[i];
    }
    grammar->key = parts[0];
    SHOAL_ASSERT(grammar->n_nodes == SHOAL_GRAMMAR_OWN_NODES);
    return SHOAL_OK;
}

shoal_status shoal_grammar_new(shoal_grammar **ret_grammar)
{
    shoal_grammar *grammar = shoal_calloc(1, sizeof *grammar);
    if (!grammar) {
        return SHOAL_E_NOMEM;
    }
    shoal_status status = add_any(grammar);
    if (status != SHOAL_OK) {
        shoal_grammar_free(grammar);
        return status;
    }
    *ret_grammar = grammar;
    return SHOAL_OK;
}
