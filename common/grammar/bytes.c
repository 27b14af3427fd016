/* SPDX-License-Identifier: Apache-2.0
 *
 * A grammar as bytes, for a peer that is to hold a text to it.
 *
 *   format (1) | n nodes | each node: kind, then what the kind has | root
 *
 * Numbers are unsigned, 7 bits a byte, the low ones first (LEB128, at most 5 bytes); a text is its
 * length and its bytes, without NUL. The nodes every grammar begins with (any value, and its parts)
 * are not written. A node refers to nodes before it, so who reads builds as who wrote has built.
 */
#include "common/grammar/grammar_internal.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    FORMAT = 1,
    NUMBER_BYTES = 5
};

/* --- writing ---------------------------------------------------------------------------------- */

static shoal_status put_number(shoal_buf *bytes, uint32_t x)
{
    uint8_t out[NUMBER_BYTES];
    size_t n = 0;
    for (; x >= 0x80; x >>= 7) {
        out[n++] = (uint8_t)(x | 0x80);
    }
    out[n++] = (uint8_t)x;
    return shoal_buf_append(bytes, out, n);
}

static shoal_status put_text(shoal_buf *bytes, const char *text, uint32_t n)
{
    SHOAL_TRY(put_number(bytes, n));
    return shoal_buf_append(bytes, text, n);
}

static shoal_status put_choices(shoal_buf *bytes, const shoal_grammar_node *node)
{
    shoal_grammar_kind kind = node->kind;
    SHOAL_TRY(put_number(bytes, (uint32_t)node->n_choices));
    for (size_t i = 0; i < node->n_choices; i++) {
        const shoal_grammar_choice *c = &node->choices[i];
        if (kind != SHOAL_GRAMMAR_UNION) {
            SHOAL_TRY(put_text(bytes, c->text, c->n_text));
        }
        if (kind != SHOAL_GRAMMAR_TEXTS) {
            SHOAL_TRY(put_number(bytes, c->node));
        }
        if (kind == SHOAL_GRAMMAR_OBJECT) {
            SHOAL_TRY(put_number(bytes, c->required));
        }
    }
    return SHOAL_OK;
}

static shoal_status put_node(shoal_buf *bytes, const shoal_grammar_node *node)
{
    SHOAL_TRY(put_number(bytes, (uint32_t)node->kind));
    switch (node->kind) {
    case SHOAL_GRAMMAR_NUMBER:
    case SHOAL_GRAMMAR_INTEGER:
        return SHOAL_OK;
    case SHOAL_GRAMMAR_ARRAY:
        SHOAL_TRY(put_number(bytes, node->item));
        SHOAL_TRY(put_number(bytes, node->n_min));
        return put_number(bytes, node->n_max);
    case SHOAL_GRAMMAR_STRING:
        SHOAL_TRY(put_number(bytes, node->n_min));
        return put_number(bytes, node->n_max);
    case SHOAL_GRAMMAR_MAP:
        return put_number(bytes, node->item);
    case SHOAL_GRAMMAR_CASES:
        SHOAL_TRY(put_text(bytes, node->tail, node->n_tail));
        return put_choices(bytes, node);
    case SHOAL_GRAMMAR_TEXTS:
    case SHOAL_GRAMMAR_OBJECT:
    case SHOAL_GRAMMAR_UNION:
        break;
    }
    return put_choices(bytes, node);
}

shoal_status shoal_grammar_encode(const shoal_grammar *grammar, shoal_buf *bytes)
{
    SHOAL_TRY(put_number(bytes, FORMAT));
    SHOAL_TRY(put_number(bytes, (uint32_t)(grammar->n_nodes - SHOAL_GRAMMAR_OWN_NODES)));
    for (size_t i = SHOAL_GRAMMAR_OWN_NODES; i < grammar->n_nodes; i++) {
        SHOAL_TRY(put_node(bytes, &grammar->nodes[i]));
    }
    return put_number(bytes, grammar->root);
}

shoal_status shoal_grammar_put_texts(const shoal_grammar *grammar, shoal_buf *text)
{
    for (size_t i = SHOAL_GRAMMAR_OWN_NODES; i < grammar->n_nodes; i++) {
        const shoal_grammar_node *node = &grammar->nodes[i];
        for (size_t k = 0; node->kind != SHOAL_GRAMMAR_UNION && k < node->n_choices; k++) {
            SHOAL_TRY(shoal_buf_append(text, node->choices[k].text, node->choices[k].n_text));
            SHOAL_TRY(shoal_buf_append(text, "\n", 1));
        }
    }
    return SHOAL_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct reader {
    const uint8_t *data;
    size_t n;
    size_t at;
    shoal_err *err;
    shoal_grammar *grammar;
    /* Of the node being read. */
    char *texts[SHOAL_GRAMMAR_CHOICES_MAX]; /* owned */
    uint32_t nodes[SHOAL_GRAMMAR_CHOICES_MAX];
    bool required[SHOAL_GRAMMAR_CHOICES_MAX];
    size_t n_choices;
    char *tail; /* owned */
} reader;

static shoal_status broken(const reader *r, const char *what)
{
    return shoal_err_set(r->err, SHOAL_E_PROTOCOL, "byte %zu of a form: %s", r->at, what);
}

static shoal_status get_number(reader *r, uint32_t *ret_x)
{
    uint64_t x = 0;
    for (size_t i = 0; i < NUMBER_BYTES; i++) {
        if (r->at >= r->n) {
            return broken(r, "it ends within a number");
        }
        uint8_t byte = r->data[r->at++];
        x |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *ret_x = (uint32_t)x;
            return x <= UINT32_MAX ? SHOAL_OK : broken(r, "a number is above 32 bits");
        }
    }
    return broken(r, "a number has more than 5 bytes");
}

static shoal_status get_text(reader *r, char **ret_text)
{
    uint32_t n = 0;
    SHOAL_TRY(get_number(r, &n));
    if (n < 1 || n > SHOAL_GRAMMAR_TEXT_MAX || n > r->n - r->at) {
        return broken(r, "a text has no byte, more than 1024, or more than there are");
    }
    if (memchr(r->data + r->at, 0, n)) {
        return broken(r, "a text has a NUL");
    }
    *ret_text = shoal_strndup((const char *)r->data + r->at, n);
    r->at += n;
    return *ret_text ? SHOAL_OK : SHOAL_E_NOMEM;
}

static void forget_node(reader *r)
{
    for (size_t i = 0; i < SHOAL_GRAMMAR_CHOICES_MAX; i++) {
        shoal_free(SHOAL_STEAL(r->texts[i]));
    }
    shoal_free(SHOAL_STEAL(r->tail));
    r->n_choices = 0;
}

static shoal_status get_choices(reader *r, shoal_grammar_kind kind)
{
    uint32_t n = 0;
    SHOAL_TRY(get_number(r, &n));
    if (n > SHOAL_GRAMMAR_CHOICES_MAX) {
        return broken(r, "a node has more than 64 choices");
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t required = 0;
        if (kind != SHOAL_GRAMMAR_UNION) {
            SHOAL_TRY(get_text(r, &r->texts[i]));
        }
        if (kind != SHOAL_GRAMMAR_TEXTS) {
            SHOAL_TRY(get_number(r, &r->nodes[i]));
        }
        if (kind == SHOAL_GRAMMAR_OBJECT) {
            SHOAL_TRY(get_number(r, &required));
        }
        if (required > 1) {
            return broken(r, "whether a member is required must be 0 or 1");
        }
        r->required[i] = required == 1;
    }
    r->n_choices = n;
    return SHOAL_OK;
}

static shoal_status add_object(reader *r, uint32_t *ret_node)
{
    shoal_grammar_member members[SHOAL_GRAMMAR_CHOICES_MAX];
    for (size_t i = 0; i < r->n_choices; i++) {
        members[i] = (shoal_grammar_member){
            .name = r->texts[i], .value = r->nodes[i], .required = r->required[i]};
    }
    return shoal_grammar_add_object(r->grammar, members, r->n_choices, ret_node);
}

static shoal_status add_cases(reader *r, uint32_t *ret_node)
{
    shoal_grammar_case cases[SHOAL_GRAMMAR_CHOICES_MAX];
    for (size_t i = 0; i < r->n_choices; i++) {
        cases[i] = (shoal_grammar_case){.text = r->texts[i], .value = r->nodes[i]};
    }
    return shoal_grammar_add_cases(r->grammar, cases, r->n_choices, r->tail, ret_node);
}

/* The node's numbers and texts, then the function that builds it. */
static shoal_status get_node(reader *r)
{
    uint32_t kind = 0;
    uint32_t item = 0;
    uint32_t n_min = 0;
    uint32_t n_max = 0;
    uint32_t node = 0;
    SHOAL_TRY(get_number(r, &kind));
    switch (kind) {
    case SHOAL_GRAMMAR_NUMBER:
    case SHOAL_GRAMMAR_INTEGER:
        return shoal_grammar_add_number(r->grammar, kind == SHOAL_GRAMMAR_INTEGER, &node);
    case SHOAL_GRAMMAR_STRING:
        SHOAL_TRY(get_number(r, &n_min));
        SHOAL_TRY(get_number(r, &n_max));
        return shoal_grammar_add_string(r->grammar, n_min, n_max, &node);
    case SHOAL_GRAMMAR_ARRAY:
        SHOAL_TRY(get_number(r, &item));
        SHOAL_TRY(get_number(r, &n_min));
        SHOAL_TRY(get_number(r, &n_max));
        return shoal_grammar_add_array(r->grammar, item, n_min, n_max, &node);
    case SHOAL_GRAMMAR_MAP:
        SHOAL_TRY(get_number(r, &item));
        return shoal_grammar_add_map(r->grammar, item, &node);
    case SHOAL_GRAMMAR_TEXTS:
        SHOAL_TRY(get_choices(r, SHOAL_GRAMMAR_TEXTS));
        return shoal_grammar_add_texts(r->grammar, (const char *const *)r->texts, r->n_choices,
                                       &node);
    case SHOAL_GRAMMAR_OBJECT:
        SHOAL_TRY(get_choices(r, SHOAL_GRAMMAR_OBJECT));
        return add_object(r, &node);
    case SHOAL_GRAMMAR_UNION:
        SHOAL_TRY(get_choices(r, SHOAL_GRAMMAR_UNION));
        return shoal_grammar_add_union(r->grammar, r->nodes, r->n_choices, &node);
    case SHOAL_GRAMMAR_CASES:
        SHOAL_TRY(get_text(r, &r->tail));
        SHOAL_TRY(get_choices(r, SHOAL_GRAMMAR_CASES));
        return add_cases(r, &node);
    default:
        return broken(r, "a node's kind is not known");
    }
}

static shoal_status read_grammar(reader *r)
{
    uint32_t format = 0;
    uint32_t n = 0;
    uint32_t root = 0;
    SHOAL_TRY(get_number(r, &format));
    if (format != FORMAT) {
        return broken(r, "its format is not 1");
    }
    SHOAL_TRY(get_number(r, &n));
    if (n > SHOAL_GRAMMAR_NODES_MAX - SHOAL_GRAMMAR_OWN_NODES) {
        return broken(r, "it has more than 1018 nodes");
    }
    for (uint32_t i = 0; i < n; i++) {
        shoal_status status = get_node(r);
        forget_node(r);
        if (status == SHOAL_E_INVALID || status == SHOAL_E_LIMIT || status == SHOAL_E_UNSUPPORTED) {
            return broken(r, "a node that cannot be built: one that is not there, an empty list, a "
                             "limit, or choices that begin alike");
        }
        SHOAL_TRY(status);
    }
    SHOAL_TRY(get_number(r, &root));
    if (root >= r->grammar->n_nodes) {
        return broken(r, "its root is not there");
    }
    shoal_grammar_set_root(r->grammar, root);
    return r->at == r->n ? SHOAL_OK : broken(r, "bytes follow its end");
}

shoal_status shoal_grammar_decode(const uint8_t *data, size_t n, shoal_grammar **ret_grammar,
                                  shoal_err *err)
{
    reader r = {.data = data, .n = n, .err = err};
    SHOAL_TRY(shoal_grammar_new(&r.grammar));
    shoal_status status = read_grammar(&r);
    if (status != SHOAL_OK) {
        shoal_grammar_free(r.grammar);
        return status;
    }
    *ret_grammar = r.grammar;
    return SHOAL_OK;
}
