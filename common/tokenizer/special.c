/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds the texts of control and user-defined tokens in plain text: a tree over bytes, built
 * breadth first from the sorted texts, so that the children of a node lie side by side.
 */
#include "common/tokenizer/vocab.h"

#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* A text on its way into the tree. */
typedef struct entry {
    shoal_str text;
    int32_t id;
} entry;

/* Entries [begin, end) share the bytes up to the node. */
typedef struct range {
    uint32_t begin;
    uint32_t end;
} range;

static int compare(const void *left, const void *right)
{
    const entry *a = left;
    const entry *b = right;
    int order = memcmp(a->text.data, b->text.data, SHOAL_MIN(a->text.length, b->text.length));
    if (order != 0) {
        return order;
    }
    if (a->text.length != b->text.length) {
        return a->text.length < b->text.length ? -1 : 1;
    }
    return a->id < b->id ? -1 : 1;
}

static bool is_special(const shoal_tokenizer *tokenizer, size_t id)
{
    uint32_t type = tokenizer->tokens[id].type;
    return (type == SHOAL_TOKEN_CONTROL || type == SHOAL_TOKEN_USER ||
            type == SHOAL_TOKEN_MARKUP) &&
           tokenizer->tokens[id].length > 0;
}

static shoal_status measure(const shoal_tokenizer *tokenizer, size_t *ret_n, size_t *ret_bytes,
                            shoal_err *err)
{
    size_t n = 0;
    size_t bytes = 0;
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        if (!is_special(tokenizer, id)) {
            continue;
        }
        size_t length = tokenizer->tokens[id].length;
        if (length > SHOAL_SPECIAL_TEXT_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "tokenizer.ggml.tokens[%zu]: a control or user-defined token of "
                                 "%zu bytes, at most %d",
                                 id, length, SHOAL_SPECIAL_TEXT_MAX);
        }
        n++;
        bytes += length;
    }
    if (bytes > SHOAL_SPECIAL_BYTES_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "tokenizer.ggml.tokens: control and user-defined tokens have %zu "
                             "bytes of text, at most %d",
                             bytes, SHOAL_SPECIAL_BYTES_MAX);
    }
    *ret_n = n;
    *ret_bytes = bytes;
    return SHOAL_OK;
}

/* Appends the children of node i, whose entries have depth bytes in common. */
static void add_children(shoal_special *special, const entry *entries, range *ranges, size_t i,
                         size_t depth)
{
    range of = ranges[i];
    special->nodes[i].first_child = (uint32_t)special->n_nodes;
    while (of.begin < of.end && entries[of.begin].text.length == depth) {
        if (special->nodes[i].id < 0) {
            special->nodes[i].id = entries[of.begin].id; /* of equal texts the lowest id */
        }
        of.begin++;
    }
    while (of.begin < of.end) {
        uint32_t end = of.begin;
        char byte = entries[of.begin].text.data[depth];
        while (end < of.end && entries[end].text.data[depth] == byte) {
            end++;
        }
        special->nodes[special->n_nodes] = (shoal_special_node){
            .first_child = 0, .n_children = 0, .id = -1, .byte = (uint8_t)byte};
        ranges[special->n_nodes] = (range){.begin = of.begin, .end = end};
        special->n_nodes++;
        special->nodes[i].n_children++;
        of.begin = end;
    }
}

static void build(shoal_special *special, const entry *entries, size_t n, range *ranges)
{
    special->nodes[0] =
        (shoal_special_node){.first_child = 0, .n_children = 0, .id = -1, .byte = 0};
    ranges[0] = (range){.begin = 0, .end = (uint32_t)n};
    special->n_nodes = 1;
    /* Nodes of one depth are neighbours: level_end is where the next depth begins. */
    size_t depth = 0;
    size_t level_end = 1;
    for (size_t i = 0; i < special->n_nodes; i++) {
        if (i == level_end) {
            depth++;
            level_end = special->n_nodes;
        }
        add_children(special, entries, ranges, i, depth);
    }
    const shoal_special_node *root = &special->nodes[0];
    for (uint32_t i = 0; i < root->n_children; i++) {
        special->roots[special->nodes[root->first_child + i].byte] = root->first_child + i;
    }
}

shoal_status shoal_special_init(shoal_tokenizer *tokenizer, shoal_err *err)
{
    size_t n = 0;
    size_t bytes = 0;
    SHOAL_TRY(measure(tokenizer, &n, &bytes, err));
    if (n == 0) {
        return SHOAL_OK;
    }
    SHOAL_CLEANUP(shoal_free_cleanup) entry *entries = shoal_calloc(n, sizeof(entries[0]));
    SHOAL_CLEANUP(shoal_free_cleanup) range *ranges = shoal_calloc(bytes + 1, sizeof(ranges[0]));
    shoal_special *special = &tokenizer->special;
    special->nodes = shoal_calloc(bytes + 1, sizeof(special->nodes[0]));
    if (!entries || !ranges || !special->nodes) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for %zu special tokens", n);
    }
    size_t i = 0;
    for (size_t id = 0; id < tokenizer->n_vocab; id++) {
        if (is_special(tokenizer, id)) {
            entries[i++] = (entry){.text = shoal_vocab_text(tokenizer, id), .id = (int32_t)id};
            special->has_user |= tokenizer->tokens[id].type != SHOAL_TOKEN_CONTROL;
        }
    }
    qsort(entries, n, sizeof(entries[0]), compare);
    build(special, entries, n, ranges);
    return SHOAL_OK;
}

void shoal_special_fini(shoal_special *special)
{
    shoal_free(special->nodes);
    special->nodes = NULL;
}

static uint32_t find_child(const shoal_special *special, uint32_t node, uint8_t byte)
{
    uint32_t low = special->nodes[node].first_child;
    uint32_t high = low + special->nodes[node].n_children;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (special->nodes[middle].byte == byte) {
            return middle;
        }
        if (special->nodes[middle].byte < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return 0;
}

static bool is_wanted(const shoal_tokenizer *tokenizer, int32_t id, shoal_special_want want)
{
    switch (tokenizer->tokens[id].type) {
    case SHOAL_TOKEN_CONTROL:
        return want.control;
    case SHOAL_TOKEN_MARKUP:
        return want.markup;
    default:
        return true;
    }
}

int32_t shoal_special_match(const shoal_tokenizer *tokenizer, const char *p, size_t n,
                            shoal_special_want want, size_t *ret_length)
{
    const shoal_special *special = &tokenizer->special;
    int32_t best = -1;
    uint32_t node = special->roots[(uint8_t)p[0]];
    for (size_t length = 1; node != 0; length++) {
        int32_t id = special->nodes[node].id;
        if (id >= 0 && is_wanted(tokenizer, id, want)) {
            best = id;
            *ret_length = length;
        }
        if (length == n) {
            break;
        }
        node = find_child(special, node, (uint8_t)p[length]);
    }
    return best;
}
