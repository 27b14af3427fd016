/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter to libyaml's event parser. Only what a configuration needs passes: one document of
 * nested mappings whose leaves are scalars. Anchors, aliases, tags and sequences are refused when
 * they begin, so nothing can expand.
 */
#include "common/config/config_internal.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

enum {
    PATH_MAX_BYTES = SHOAL_CONFIG_NAME_MAX,
    LIBYAML_LINE_BASE = 1
};

typedef struct yaml_walk {
    const char *source;
    const char *text;
    size_t n;
    shoal_config_pair_fn *fn;
    void *ctx;
    char path[PATH_MAX_BYTES + 1];              /* dotted; complete while wants_value */
    size_t lengths[SHOAL_CONFIG_DEPTH_MAX + 1]; /* of path, before each level's key */
    size_t depth;                               /* open mappings */
    bool wants_value;
    bool done; /* the document has ended */
} yaml_walk;

static void delete_event(yaml_event_t *event)
{
    yaml_event_delete(event);
}

static void delete_parser(yaml_parser_t *parser)
{
    yaml_parser_delete(parser);
}

static shoal_status refuse(const yaml_walk *walk, const yaml_event_t *event, const char *what,
                           shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_INVALID, "%s:%zu: %s%s%s", walk->source,
                         event->start_mark.line + LIBYAML_LINE_BASE, walk->path,
                         walk->path[0] ? ": " : "", what);
}

/* Appends a mapping's key to the path. Bytes outside printable ASCII cannot be in any known key
 * and must not reach an error message as they are. */
static shoal_status enter_key(yaml_walk *walk, const yaml_event_t *event, shoal_err *err)
{
    const unsigned char *key = event->data.scalar.value;
    size_t n = event->data.scalar.length;
    if (n == 0) {
        return refuse(walk, event, "a key is empty", err);
    }
    for (size_t i = 0; i < n; i++) {
        if (key[i] <= 0x20 || key[i] > 0x7E) {
            return refuse(walk, event, "a key has characters other than letters, digits, _ and .",
                          err);
        }
    }
    size_t length = walk->lengths[walk->depth];
    size_t dot = length > 0;
    if (n + dot > PATH_MAX_BYTES - length) {
        return refuse(walk, event, "a key is longer than 128 bytes with its sections", err);
    }
    if (dot) {
        walk->path[length] = '.';
    }
    memcpy(walk->path + length + dot, key, n);
    walk->path[length + dot + n] = '\0';
    walk->wants_value = true;
    return SHOAL_OK;
}

static void leave_key(yaml_walk *walk)
{
    walk->path[walk->lengths[walk->depth]] = '\0';
    walk->wants_value = false;
}

static shoal_status on_scalar(yaml_walk *walk, const yaml_event_t *event, shoal_err *err)
{
    if (event->data.scalar.anchor) {
        return refuse(walk, event, "anchors are not supported", err);
    }
    if (event->data.scalar.tag) {
        return refuse(walk, event, "tags are not supported", err);
    }
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (walk->depth == 0) {
        /* A file of comments alone may have one empty value as its document. */
        return plain && event->data.scalar.length == 0
                   ? SHOAL_OK
                   : refuse(walk, event, "expected 'key: value' lines", err);
    }
    if (!walk->wants_value) {
        return enter_key(walk, event, err);
    }
    if (event->data.scalar.length > SHOAL_CONFIG_SCALAR_MAX) {
        return refuse(walk, event, "a value is longer than 4096 bytes", err);
    }
    const shoal_config_pair pair = {
        .key = walk->path,
        .text = (const char *)event->data.scalar.value,
        .n = event->data.scalar.length,
        .line = event->start_mark.line + LIBYAML_LINE_BASE,
        .plain = plain,
    };
    SHOAL_TRY(walk->fn(walk->ctx, &pair, err));
    leave_key(walk);
    return SHOAL_OK;
}

static shoal_status on_mapping_start(yaml_walk *walk, const yaml_event_t *event, shoal_err *err)
{
    if (event->data.mapping_start.anchor) {
        return refuse(walk, event, "anchors are not supported", err);
    }
    if (event->data.mapping_start.tag) {
        return refuse(walk, event, "tags are not supported", err);
    }
    if (walk->depth > 0 && !walk->wants_value) {
        return refuse(walk, event, "a section cannot be a key", err);
    }
    if (walk->depth == SHOAL_CONFIG_DEPTH_MAX) {
        return refuse(walk, event, "sections are nested deeper than 8", err);
    }
    walk->depth++;
    walk->lengths[walk->depth] = strlen(walk->path);
    walk->wants_value = false;
    return SHOAL_OK;
}

static void on_mapping_end(yaml_walk *walk)
{
    walk->depth--;
    if (walk->depth > 0) {
        leave_key(walk);
    }
}

static shoal_status on_event(yaml_walk *walk, const yaml_event_t *event, shoal_err *err)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return on_scalar(walk, event, err);
    case YAML_MAPPING_START_EVENT:
        return on_mapping_start(walk, event, err);
    case YAML_MAPPING_END_EVENT:
        on_mapping_end(walk);
        return SHOAL_OK;
    case YAML_SEQUENCE_START_EVENT:
        return refuse(walk, event, "lists are not supported, expected one value", err);
    case YAML_ALIAS_EVENT:
        return refuse(walk, event, "aliases are not supported", err);
    case YAML_DOCUMENT_START_EVENT:
        return walk->done ? refuse(walk, event, "a second document, expected one", err) : SHOAL_OK;
    case YAML_DOCUMENT_END_EVENT:
        walk->done = true;
        return SHOAL_OK;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        return SHOAL_OK;
    }
    return SHOAL_OK;
}

/* libyaml gives a line for its scanner and parser, and a byte offset for its reader. */
static shoal_status parser_error(const yaml_walk *walk, const yaml_parser_t *parser, shoal_err *err)
{
    if (parser->error == YAML_MEMORY_ERROR) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", walk->source);
    }
    size_t line = parser->problem_mark.line + LIBYAML_LINE_BASE;
    if (parser->error == YAML_READER_ERROR) {
        line = LIBYAML_LINE_BASE;
        for (size_t i = 0; i < walk->n && i < parser->problem_offset; i++) {
            line += walk->text[i] == '\n';
        }
    }
    return shoal_err_set(err, SHOAL_E_INVALID, "%s:%zu: not valid YAML: %s", walk->source, line,
                         parser->problem ? parser->problem : "unknown problem");
}

shoal_status shoal_config_parse_yaml(const char *source, const char *text, size_t n,
                                     shoal_config_pair_fn *fn, void *ctx, shoal_err *err)
{
    static const char bom[] = "\xEF\xBB\xBF";
    if (n > SHOAL_CONFIG_FILE_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "%s: longer than the limit of %d bytes", source,
                             SHOAL_CONFIG_FILE_MAX);
    }
    if (n >= 3 && memcmp(text, bom, 3) == 0) {
        text += 3;
        n -= 3;
    }
    yaml_walk walk = {.source = source, .text = text, .n = n, .fn = fn, .ctx = ctx};
    SHOAL_CLEANUP(delete_parser) yaml_parser_t parser = {0};
    if (!yaml_parser_initialize(&parser)) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", source);
    }
    /* The encoding is fixed: a guess would let UTF-16 in, which nothing else here reads. */
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    for (;;) {
        SHOAL_CLEANUP(delete_event) yaml_event_t event = {0};
        if (!yaml_parser_parse(&parser, &event)) {
            return parser_error(&walk, &parser, err);
        }
        if (event.type == YAML_STREAM_END_EVENT) {
            return SHOAL_OK;
        }
        SHOAL_TRY(on_event(&walk, &event, err));
    }
}
