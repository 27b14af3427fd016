/* SPDX-License-Identifier: Apache-2.0
 *
 * response_format becomes a grammar. A subset of JSON Schema (draft 2020-12): type, properties,
 * required, additionalProperties, items, minItems, maxItems, minLength, maxLength, enum, const,
 * anyOf whose parts begin differently, and $ref into $defs. A keyword that says nothing about the
 * form is passed over; any other is refused by name, since ignoring it would break a promise.
 */
#include "edge/http/api_parse_internal.h"

#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 24, /* of a schema; less than a text may be deep */
    BOUND_MAX = 1000000
};

typedef struct builder {
    shoal_api_reader *r;
    shoal_grammar *grammar;
    const json_t *root;
    const char *param; /* what errors name */
    bool lenient;      /* what is not supported is left to the model */
    int depth;
} builder;

static shoal_status build(builder *b, const json_t *schema, uint32_t *ret_node);

static shoal_status refuse(builder *b, const char *what)
{
    return shoal_http_error_set(b->r->error, 400, b->param, "unsupported_value", "%s: %.160s",
                                b->param, what);
}

static shoal_status refuse_key(builder *b, const char *key)
{
    return shoal_http_error_set(
        b->r->error, 400, b->param, "unsupported_value",
        "%s: the schema's \"%.40s\" is not supported here; known are type, "
        "properties, required, additionalProperties, items, minItems, maxItems, minLength, "
        "maxLength, enum, const, anyOf, $ref, $defs",
        b->param, key);
}

/* What the grammar refuses: its limits. */
static shoal_status judge(builder *b, shoal_status status)
{
    if (status == SHOAL_OK || status == SHOAL_E_NOMEM || b->r->error->status != 0) {
        return status;
    }
    return refuse(b, status == SHOAL_E_UNSUPPORTED
                         ? "the parts of anyOf must begin differently (an object, a string, a "
                           "number ...), since the first byte chooses"
                     : status == SHOAL_E_LIMIT
                         ? "the schema is too large: at most 1024 values, 64 members or choices "
                           "each, 1024 bytes a name"
                         : "the schema contradicts itself");
}

/* Keywords that are read, or say nothing about the form of a text. */
static bool known_key(const char *key)
{
    static const char *const known[] = {
        "type",        "properties", "required",    "additionalProperties",
        "items",       "minItems",   "maxItems",    "minLength",
        "maxLength",   "enum",       "const",       "anyOf",
        "$ref",        "$defs",      "definitions", "title",
        "description", "default",    "examples",    "$schema",
        "$id",         "$comment",   "readOnly",    "writeOnly",
        "deprecated",  "strict"};
    for (size_t i = 0; i < SHOAL_COUNT(known); i++) {
        if (strcmp(known[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* Bounds that every number of the grammar keeps (it has at most 15 digits) say nothing new. */
static bool idle_bound(const char *key, const json_t *value)
{
    double x = json_number_value(value);
    return json_is_number(value) && ((strcmp(key, "minimum") == 0 && x <= -1e15) ||
                                     (strcmp(key, "maximum") == 0 && x >= 1e15));
}

static shoal_status check_keys(builder *b, const json_t *schema)
{
    json_t *object = (json_t *)(uintptr_t)schema;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *key = json_object_iter_key(it);
        if (!b->lenient && !known_key(key) && !idle_bound(key, json_object_iter_value(it))) {
            return refuse_key(b, key);
        }
    }
    return SHOAL_OK;
}

static shoal_status read_bound(builder *b, const json_t *schema, const char *key, uint32_t usual,
                               uint32_t *ret_bound)
{
    const json_t *value = json_object_get(schema, key);
    json_int_t n = json_integer_value(value);
    *ret_bound = usual;
    if (!value) {
        return SHOAL_OK;
    }
    if (!json_is_integer(value) || n < 0 || n > BOUND_MAX) {
        return refuse(b, "a bound of the schema must be a whole number from 0 to 1000000");
    }
    *ret_bound = (uint32_t)n;
    return SHOAL_OK;
}

/* --- lists of values -------------------------------------------------------------------------- */

static shoal_status build_texts(builder *b, const json_t *const *values, size_t n,
                                uint32_t *ret_node)
{
    char *texts[SHOAL_GRAMMAR_CHOICES_MAX] = {NULL};
    if (n < 1 || n > SHOAL_GRAMMAR_CHOICES_MAX) {
        return refuse(b, "an enum must have 1 to 64 values");
    }
    shoal_status status = SHOAL_OK;
    for (size_t i = 0; i < n && status == SHOAL_OK; i++) {
        if (json_is_object(values[i]) || json_is_array(values[i])) {
            status = refuse(b, "the values of enum and const must be strings, numbers, booleans or "
                               "null");
        } else {
            texts[i] = json_dumps(values[i], JSON_ENCODE_ANY | JSON_COMPACT);
            status = texts[i] ? SHOAL_OK : SHOAL_E_NOMEM;
        }
    }
    if (status == SHOAL_OK) {
        status = shoal_grammar_add_texts(b->grammar, (const char *const *)texts, n, ret_node);
    }
    for (size_t i = 0; i < n; i++) {
        shoal_free(texts[i]);
    }
    return judge(b, status);
}

static shoal_status build_enum(builder *b, const json_t *list, uint32_t *ret_node)
{
    const json_t *values[SHOAL_GRAMMAR_CHOICES_MAX];
    size_t n = json_array_size(list);
    for (size_t i = 0; i < SHOAL_MIN(n, SHOAL_COUNT(values)); i++) {
        values[i] = json_array_get(list, i);
    }
    return build_texts(b, values, n, ret_node);
}

/* --- objects and arrays ----------------------------------------------------------------------- */

static bool is_required(const json_t *required, const char *name)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *text = json_string_value(json_array_get(required, i));
        if (text && strcmp(text, name) == 0) {
            return true;
        }
    }
    return false;
}

static shoal_status build_map(builder *b, const json_t *additional, uint32_t *ret_node)
{
    uint32_t value = SHOAL_GRAMMAR_ANY;
    if (json_is_object(additional)) {
        SHOAL_TRY(build(b, additional, &value));
    }
    return judge(b, shoal_grammar_add_map(b->grammar, value, ret_node));
}

static shoal_status fill_members(builder *b, const json_t *properties, const json_t *required,
                                 shoal_grammar_member *members, char **names)
{
    json_t *object = (json_t *)(uintptr_t)properties;
    size_t n = 0;
    size_t n_required = 0;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it), n++) {
        json_t *key = json_string(json_object_iter_key(it));
        names[n] = key ? json_dumps(key, JSON_ENCODE_ANY) : NULL;
        json_decref(key);
        if (!names[n]) {
            return SHOAL_E_NOMEM;
        }
        members[n].name = names[n];
        members[n].required = is_required(required, json_object_iter_key(it));
        n_required += members[n].required;
        SHOAL_TRY(build(b, json_object_iter_value(it), &members[n].value));
    }
    if (n_required != json_array_size(required)) {
        return refuse(b, "required must name members that properties has, each once");
    }
    return SHOAL_OK;
}

static shoal_status build_object(builder *b, const json_t *schema, uint32_t *ret_node)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    const json_t *additional = json_object_get(schema, "additionalProperties");
    size_t n = json_object_size(properties);
    if ((properties && !json_is_object(properties)) || (required && !json_is_array(required))) {
        return refuse(b, "properties must be an object and required an array");
    }
    if (n == 0 && json_array_size(required) == 0 && !json_is_false(additional)) {
        return build_map(b, additional, ret_node);
    }
    if (json_is_object(additional)) {
        return refuse(b, "properties beside a schema of additionalProperties are not supported");
    }
    if (n > SHOAL_GRAMMAR_CHOICES_MAX) {
        return judge(b, SHOAL_E_LIMIT);
    }
    shoal_grammar_member members[SHOAL_GRAMMAR_CHOICES_MAX] = {{0}};
    char *names[SHOAL_GRAMMAR_CHOICES_MAX] = {NULL};
    shoal_status status = fill_members(b, properties, required, members, names);
    if (status == SHOAL_OK) {
        status = shoal_grammar_add_object(b->grammar, members, n, ret_node);
    }
    for (size_t i = 0; i < n; i++) {
        shoal_free(names[i]);
    }
    return judge(b, status);
}

static shoal_status build_array(builder *b, const json_t *schema, uint32_t *ret_node)
{
    const json_t *items = json_object_get(schema, "items");
    uint32_t item = SHOAL_GRAMMAR_ANY;
    uint32_t n_min = 0;
    uint32_t n_max = 0;
    SHOAL_TRY(read_bound(b, schema, "minItems", 0, &n_min));
    SHOAL_TRY(read_bound(b, schema, "maxItems", UINT32_MAX, &n_max));
    if (items) {
        SHOAL_TRY(build(b, items, &item));
    }
    return judge(b, shoal_grammar_add_array(b->grammar, item, n_min, n_max, ret_node));
}

/* --- types ------------------------------------------------------------------------------------ */

static shoal_status build_type(builder *b, const json_t *schema, const char *type,
                               uint32_t *ret_node)
{
    static const char *const booleans[] = {"true", "false"};
    static const char *const null[] = {"null"};
    if (strcmp(type, "object") == 0) {
        return build_object(b, schema, ret_node);
    }
    if (strcmp(type, "array") == 0) {
        return build_array(b, schema, ret_node);
    }
    if (strcmp(type, "string") == 0) {
        uint32_t n_min = 0;
        uint32_t n_max = 0;
        SHOAL_TRY(read_bound(b, schema, "minLength", 0, &n_min));
        SHOAL_TRY(read_bound(b, schema, "maxLength", UINT32_MAX, &n_max));
        return judge(b, shoal_grammar_add_string(b->grammar, n_min, n_max, ret_node));
    }
    if (strcmp(type, "number") == 0 || strcmp(type, "integer") == 0) {
        return judge(b, shoal_grammar_add_number(b->grammar, type[0] == 'i', ret_node));
    }
    if (strcmp(type, "boolean") == 0) {
        return judge(b, shoal_grammar_add_texts(b->grammar, booleans, 2, ret_node));
    }
    if (strcmp(type, "null") == 0) {
        return judge(b, shoal_grammar_add_texts(b->grammar, null, 1, ret_node));
    }
    return refuse(b, "type must be object, array, string, number, integer, boolean or null");
}

/* Parts of a union: the schemas of anyOf, or one schema read as each of its types. */
static shoal_status build_union(builder *b, const json_t *schema, const json_t *parts,
                                bool are_types, uint32_t *ret_node)
{
    uint32_t nodes[SHOAL_GRAMMAR_CHOICES_MAX];
    size_t n = json_array_size(parts);
    if (n < 1 || n > SHOAL_COUNT(nodes)) {
        return refuse(b, "anyOf and a list of types must have 1 to 64 parts");
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *part = json_array_get(parts, i);
        const char *type = json_string_value(part);
        if (are_types && !type) {
            return refuse(b, "a list of types must hold strings");
        }
        SHOAL_TRY(are_types ? build_type(b, schema, type, &nodes[i]) : build(b, part, &nodes[i]));
    }
    return judge(b, shoal_grammar_add_union(b->grammar, nodes, n, ret_node));
}

static shoal_status build_ref(builder *b, const char *ref, uint32_t *ret_node)
{
    static const char *const folders[] = {"$defs", "definitions"};
    for (size_t i = 0; i < SHOAL_COUNT(folders); i++) {
        size_t n = strlen(folders[i]);
        if (strncmp(ref, "#/", 2) == 0 && strncmp(ref + 2, folders[i], n) == 0 &&
            ref[2 + n] == '/') {
            const json_t *found =
                json_object_get(json_object_get(b->root, folders[i]), ref + 3 + n);
            if (found) {
                return build(b, found, ret_node);
            }
        }
    }
    return refuse(b, "$ref must name an entry of $defs, as \"#/$defs/name\"");
}

static shoal_status build_inside(builder *b, const json_t *schema, uint32_t *ret_node)
{
    const json_t *type = json_object_get(schema, "type");
    const json_t *ref = json_object_get(schema, "$ref");
    const json_t *one = json_object_get(schema, "const");
    const json_t *list = json_object_get(schema, "enum");
    const json_t *any = json_object_get(schema, "anyOf");
    SHOAL_TRY(check_keys(b, schema));
    if (ref) {
        return build_ref(b, json_is_string(ref) ? json_string_value(ref) : "", ret_node);
    }
    if (one) {
        return build_texts(b, &one, 1, ret_node);
    }
    if (list) {
        return build_enum(b, list, ret_node);
    }
    if (any) {
        return build_union(b, schema, any, false, ret_node);
    }
    if (json_is_array(type)) {
        return build_union(b, schema, type, true, ret_node);
    }
    if (json_is_string(type)) {
        return build_type(b, schema, json_string_value(type), ret_node);
    }
    if (json_object_get(schema, "properties")) {
        return build_object(b, schema, ret_node);
    }
    if (json_object_size(schema) == 0) {
        *ret_node = SHOAL_GRAMMAR_ANY;
        return SHOAL_OK;
    }
    return refuse(b, "each schema must have a type, enum, const, anyOf or $ref");
}

static shoal_status build(builder *b, const json_t *schema, uint32_t *ret_node)
{
    if (json_is_true(schema)) {
        *ret_node = SHOAL_GRAMMAR_ANY;
        return SHOAL_OK;
    }
    if (!json_is_object(schema)) {
        return refuse(b, "a schema must be an object");
    }
    if (b->depth >= DEPTH_MAX) {
        return refuse(b, "the schema is more than 24 values deep, or calls itself");
    }
    b->depth++;
    shoal_status status = build_inside(b, schema, ret_node);
    b->depth--;
    if (status != SHOAL_OK && b->lenient && b->r->error->status != 0) {
        *b->r->error = (shoal_http_error){0};
        *ret_node = SHOAL_GRAMMAR_ANY;
        return SHOAL_OK;
    }
    return status;
}

/* --- response_format -------------------------------------------------------------------------- */

static shoal_status build_root(builder *b, const json_t *format, const char *type)
{
    uint32_t root = SHOAL_GRAMMAR_ANY;
    if (strcmp(type, "json_object") == 0) {
        SHOAL_TRY(judge(b, shoal_grammar_add_map(b->grammar, SHOAL_GRAMMAR_ANY, &root)));
    } else {
        b->root = json_object_get(json_object_get(format, "json_schema"), "schema");
        if (!b->root) {
            return refuse(b, "json_schema.schema is missing");
        }
        SHOAL_TRY(build(b, b->root, &root));
    }
    shoal_grammar_set_root(b->grammar, root);
    return SHOAL_OK;
}

shoal_status shoal_api_read_format(shoal_api_reader *r, const char *name, const json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type && strcmp(type, "text") == 0) {
        return SHOAL_OK;
    }
    if (!type || (strcmp(type, "json_object") != 0 && strcmp(type, "json_schema") != 0)) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s: type must be \"text\", \"json_object\" or \"json_schema\"",
                                    name);
    }
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *grammar = NULL;
    SHOAL_TRY(shoal_grammar_new(&grammar));
    builder b = {.r = r, .grammar = grammar, .param = "response_format"};
    SHOAL_TRY(build_root(&b, value, type));
    r->request->grammar = SHOAL_STEAL(grammar);
    return SHOAL_OK;
}

/* --- tools ------------------------------------------------------------------------------------ */

shoal_status shoal_api_build_arguments(shoal_api_reader *r, shoal_grammar *grammar,
                                       const char *param, const json_t *schema, bool strict,
                                       uint32_t *ret_node)
{
    builder b = {.r = r, .grammar = grammar, .root = schema, .param = param, .lenient = !strict};
    const char *type = json_string_value(json_object_get(schema, "type"));
    if (!schema || json_is_null(schema) ||
        (json_is_object(schema) && json_object_size(schema) == 0)) {
        return judge(&b, shoal_grammar_add_object(grammar, NULL, 0, ret_node));
    }
    if (type ? strcmp(type, "object") != 0 : !json_object_get(schema, "properties")) {
        return refuse(&b, "must be a schema of type object");
    }
    b.depth = 1;
    shoal_status status = build_inside(&b, schema, ret_node);
    if (status != SHOAL_OK && b.lenient && r->error->status != 0) {
        *r->error = (shoal_http_error){0};
        return judge(&b, shoal_grammar_add_map(grammar, SHOAL_GRAMMAR_ANY, ret_node));
    }
    return status;
}
