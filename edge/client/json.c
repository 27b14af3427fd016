/* SPDX-License-Identifier: Apache-2.0
 *
 * A strict JSON reader over one buffer: nodes in document order, strings decoded in place (an
 * escape is never shorter than what it stands for), a fixed stack instead of recursion.
 */
#include "edge/client/client_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct parser {
    shoal_client_json *json;
    char *at;
    char *end;
    uint32_t stack[SHOAL_CLIENT_JSON_DEPTH_MAX]; /* open containers */
    size_t depth;
} parser;

static void skip_space(parser *p)
{
    while (p->at < p->end &&
           (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')) {
        p->at++;
    }
}

static int add_node(parser *p, shoal_client_json_kind kind, shoal_client_json_node **ret_node)
{
    shoal_client_json *json = p->json;
    if (json->n_nodes == SHOAL_CLIENT_JSON_NODES_MAX) {
        return SHOAL_CLIENT_E_LIMIT;
    }
    if (json->n_nodes == json->capacity) {
        size_t capacity = json->capacity ? 2 * json->capacity : 64;
        shoal_client_json_node *grown = realloc(json->nodes, capacity * sizeof *grown);
        if (!grown) {
            return SHOAL_CLIENT_E_NOMEM;
        }
        json->nodes = grown;
        json->capacity = capacity;
    }
    *ret_node = &json->nodes[json->n_nodes++];
    **ret_node = (shoal_client_json_node){
        .kind = kind, .next = (uint32_t)json->n_nodes, .text = "", .length = 0, .number = 0.0};
    return SHOAL_CLIENT_OK;
}

static bool read_hex4(parser *p, uint32_t *ret_code)
{
    if (p->end - p->at < 4) {
        return false;
    }
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
        char c = *p->at++;
        uint32_t digit = 0;
        if (c >= '0' && c <= '9') {
            digit = (uint32_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            digit = (uint32_t)((c | 0x20) - 'a' + 10);
        } else {
            return false;
        }
        code = code << 4 | digit;
    }
    *ret_code = code;
    return true;
}

static char *put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *out++ = (char)(0xE0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
        *out++ = (char)(0x80 | (code & 0x3F));
    } else {
        *out++ = (char)(0xF0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 0x3F));
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
        *out++ = (char)(0x80 | (code & 0x3F));
    }
    return out;
}

/* After "\u". A surrogate without its other half becomes U+FFFD, as browsers do. */
static bool read_unicode(parser *p, char **inout)
{
    uint32_t code = 0;
    if (!read_hex4(p, &code)) {
        return false;
    }
    if (code >= 0xD800 && code < 0xDC00 && p->end - p->at >= 6 && p->at[0] == '\\' &&
        p->at[1] == 'u') {
        char *before = p->at;
        uint32_t low = 0;
        p->at += 2;
        if (!read_hex4(p, &low)) {
            return false;
        }
        if (low >= 0xDC00 && low < 0xE000) {
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else {
            p->at = before;
        }
    }
    *inout = put_utf8(*inout, code >= 0xD800 && code < 0xE000 ? 0xFFFD : code);
    return true;
}

static bool read_escape(parser *p, char **inout)
{
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    if (p->at == p->end) {
        return false;
    }
    char c = *p->at++;
    if (c == 'u') {
        return read_unicode(p, inout);
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (!found) {
        return false;
    }
    *(*inout)++ = to[found - from];
    return true;
}

/* At the opening quote. */
static int read_string(parser *p)
{
    shoal_client_json_node *node = NULL;
    SHOAL_CLIENT_TRY(add_node(p, SHOAL_CLIENT_JSON_STRING, &node));
    char *start = ++p->at;
    char *out = start;
    for (;;) {
        if (p->at == p->end || (unsigned char)*p->at < 0x20) {
            return SHOAL_CLIENT_E_PROTOCOL;
        }
        char c = *p->at++;
        if (c == '"') {
            break;
        }
        if (c != '\\') {
            *out++ = c;
        } else if (!read_escape(p, &out)) {
            return SHOAL_CLIENT_E_PROTOCOL;
        }
    }
    *out = '\0'; /* at the closing quote or before it */
    node->text = start;
    node->length = (size_t)(out - start);
    return SHOAL_CLIENT_OK;
}

static bool is_digit(const parser *p)
{
    return p->at < p->end && *p->at >= '0' && *p->at <= '9';
}

/* Scales by powers of ten in binary64; good to an ulp or two, and not at the mercy of a locale as
 * strtod is. */
static double scale10(double x, int exponent)
{
    for (; exponent > 0 && x - x == 0.0; exponent--) {
        x *= 10.0;
    }
    for (; exponent < 0 && x != 0.0; exponent++) {
        x /= 10.0;
    }
    return x;
}

static int read_number(parser *p)
{
    shoal_client_json_node *node = NULL;
    SHOAL_CLIENT_TRY(add_node(p, SHOAL_CLIENT_JSON_NUMBER, &node));
    bool negative = *p->at == '-';
    p->at += negative;
    if (!is_digit(p) ||
        (*p->at == '0' && p->end - p->at > 1 && p->at[1] >= '0' && p->at[1] <= '9')) {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    double value = 0.0;
    int exponent = 0;
    for (; is_digit(p); p->at++) {
        value = value * 10.0 + (double)(*p->at - '0');
    }
    if (p->at < p->end && *p->at == '.') {
        p->at++;
        if (!is_digit(p)) {
            return SHOAL_CLIENT_E_PROTOCOL;
        }
        for (; is_digit(p); p->at++) {
            /* Past 15 fractional digits nothing changes but the chance to overflow. */
            if (exponent > -15) {
                value = value * 10.0 + (double)(*p->at - '0');
                exponent--;
            }
        }
    }
    if (p->at < p->end && (*p->at | 0x20) == 'e') {
        p->at++;
        bool down = p->at < p->end && *p->at == '-';
        p->at += p->at < p->end && (*p->at == '-' || *p->at == '+');
        if (!is_digit(p)) {
            return SHOAL_CLIENT_E_PROTOCOL;
        }
        int e = 0;
        for (; is_digit(p); p->at++) {
            e = e < 1000 ? e * 10 + (*p->at - '0') : e;
        }
        exponent += down ? -e : e;
    }
    value = scale10(value, exponent);
    node->number = negative ? -value : value;
    return SHOAL_CLIENT_OK;
}

static int read_word(parser *p, const char *word, shoal_client_json_kind kind)
{
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    p->at += n;
    shoal_client_json_node *node = NULL;
    return add_node(p, kind, &node);
}

static int open_container(parser *p, shoal_client_json_kind kind)
{
    if (p->depth == SHOAL_CLIENT_JSON_DEPTH_MAX) {
        return SHOAL_CLIENT_E_LIMIT;
    }
    shoal_client_json_node *node = NULL;
    SHOAL_CLIENT_TRY(add_node(p, kind, &node));
    p->at++;
    p->stack[p->depth++] = (uint32_t)(node - p->json->nodes);
    return SHOAL_CLIENT_OK;
}

static int read_value(parser *p)
{
    if (p->at == p->end) {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    switch (*p->at) {
    case '{':
        return open_container(p, SHOAL_CLIENT_JSON_OBJECT);
    case '[':
        return open_container(p, SHOAL_CLIENT_JSON_ARRAY);
    case '"':
        return read_string(p);
    case 't':
        return read_word(p, "true", SHOAL_CLIENT_JSON_TRUE);
    case 'f':
        return read_word(p, "false", SHOAL_CLIENT_JSON_FALSE);
    case 'n':
        return read_word(p, "null", SHOAL_CLIENT_JSON_NULL);
    default:
        return *p->at == '-' || is_digit(p) ? read_number(p) : SHOAL_CLIENT_E_PROTOCOL;
    }
}

/* The key and colon before an object's next value. */
static int read_key(parser *p)
{
    skip_space(p);
    if (p->at == p->end || *p->at != '"') {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    SHOAL_CLIENT_TRY(read_string(p));
    skip_space(p);
    if (p->at == p->end || *p->at != ':') {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    p->at++;
    return SHOAL_CLIENT_OK;
}

/* Inside the innermost container, before a value or the end. Closes it, or stands before the next
 * value. first: nothing has been read in it. */
static int step_container(parser *p, bool first, bool *ret_closed)
{
    uint32_t index = p->stack[p->depth - 1];
    bool object = p->json->nodes[index].kind == SHOAL_CLIENT_JSON_OBJECT;
    skip_space(p);
    if (p->at == p->end) {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    *ret_closed = *p->at == (object ? '}' : ']');
    if (*ret_closed) {
        p->at++;
        p->json->nodes[index].next = (uint32_t)p->json->n_nodes;
        p->depth--;
        return SHOAL_CLIENT_OK;
    }
    if (!first) {
        if (*p->at != ',') {
            return SHOAL_CLIENT_E_PROTOCOL;
        }
        p->at++;
    }
    if (object) {
        SHOAL_CLIENT_TRY(read_key(p));
    }
    skip_space(p);
    return SHOAL_CLIENT_OK;
}

int shoal_client_json_parse(shoal_client_json *json, char *text, size_t n)
{
    json->n_nodes = 0;
    if (!shoal_client_utf8_ok(text, n)) {
        return SHOAL_CLIENT_E_PROTOCOL;
    }
    parser p = {.json = json, .at = text, .end = text + n, .depth = 0};
    skip_space(&p);
    size_t depth = 0;
    SHOAL_CLIENT_TRY(read_value(&p));
    bool first = p.depth > depth;
    while (p.depth > 0) {
        bool closed = false;
        SHOAL_CLIENT_TRY(step_container(&p, first, &closed));
        first = false;
        if (!closed) {
            depth = p.depth;
            SHOAL_CLIENT_TRY(read_value(&p));
            first = p.depth > depth;
        }
    }
    skip_space(&p);
    return p.at == p.end ? SHOAL_CLIENT_OK : SHOAL_CLIENT_E_PROTOCOL;
}

void shoal_client_json_fini(shoal_client_json *json)
{
    free(json->nodes);
    *json = (shoal_client_json){.nodes = NULL};
}

const shoal_client_json_node *shoal_client_json_next(const shoal_client_json *json,
                                                     const shoal_client_json_node *node)
{
    return json->nodes + node->next;
}

const shoal_client_json_node *shoal_client_json_get(const shoal_client_json *json,
                                                    const shoal_client_json_node *object,
                                                    const char *key)
{
    if (!object || object->kind != SHOAL_CLIENT_JSON_OBJECT) {
        return NULL;
    }
    const shoal_client_json_node *end = shoal_client_json_next(json, object);
    size_t n = strlen(key);
    for (const shoal_client_json_node *name = object + 1; name < end;) {
        if (name->length == n && memcmp(name->text, key, n) == 0) {
            return name + 1;
        }
        name = shoal_client_json_next(json, name + 1);
    }
    return NULL;
}

const shoal_client_json_node *shoal_client_json_at(const shoal_client_json *json,
                                                   const shoal_client_json_node *array, size_t i)
{
    if (!array || array->kind != SHOAL_CLIENT_JSON_ARRAY) {
        return NULL;
    }
    const shoal_client_json_node *end = shoal_client_json_next(json, array);
    const shoal_client_json_node *node = array + 1;
    for (; node < end && i > 0; i--) {
        node = shoal_client_json_next(json, node);
    }
    return node < end ? node : NULL;
}

double shoal_client_json_double(const shoal_client_json_node *node, double fallback)
{
    return node && node->kind == SHOAL_CLIENT_JSON_NUMBER ? node->number : fallback;
}

uint64_t shoal_client_json_u64(const shoal_client_json_node *node, uint64_t fallback)
{
    double x = shoal_client_json_double(node, -1.0);
    /* Past 2^53 a double no longer counts by ones. */
    return x >= 0.0 && x <= 9007199254740992.0 ? (uint64_t)x : fallback;
}

const char *shoal_client_json_text(const shoal_client_json_node *node)
{
    return node && node->kind == SHOAL_CLIENT_JSON_STRING ? node->text : "";
}
