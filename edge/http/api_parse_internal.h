/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to edge/http: reading a body's JSON, shared by api_parse.c and api_fields.c.
 */
#ifndef SHOAL_HTTP_API_PARSE_INTERNAL_H
#define SHOAL_HTTP_API_PARSE_INTERNAL_H

#include "edge/http/api_internal.h"

#include <jansson.h>

typedef struct shoal_api_reader {
    const shoal_api_context *context;
    shoal_api_request *request;
    shoal_http_error *error;
    const json_t *prompt;
    const json_t *messages;
    const json_t *stream_options;
    const json_t *tools;
    const json_t *tool_choice;
    size_t n_max;        /* max_tokens, 0: not given */
    const char *n_field; /* which field said so */
    bool has_mode;
    bool has_priority; /* above the lowest */
    bool local_only;
    bool has_seed;
} shoal_api_reader;

/* A text from outside as JSON, within SHOAL_API_JSON_BUDGET of memory. NULL: ret_status says
 * whether it was the budget or the memory, else the text is at fault and why says where. */
json_t *shoal_api_load(const char *text, size_t n, json_error_t *why, shoal_status *ret_status);

/* Every field of the root object, by the table of what is known. */
shoal_status shoal_api_read_fields(shoal_api_reader *reader, const json_t *root) SHOAL_MUST_CHECK;
/* api_schema.c: response_format. */
shoal_status shoal_api_read_format(shoal_api_reader *reader, const char *name,
                                   const json_t *value) SHOAL_MUST_CHECK;
/* The schema of a function's arguments, NULL: it has none. strict: what the grammar cannot hold is
 * refused; else it is left to the model. param is how errors name it. */
shoal_status shoal_api_build_arguments(shoal_api_reader *reader, shoal_grammar *grammar,
                                       const char *param, const json_t *schema, bool strict,
                                       uint32_t *ret_node) SHOAL_MUST_CHECK;

/* api_tools.c: tools and tool_choice, once every field is read. */
shoal_status shoal_api_settle_tools(shoal_api_reader *reader) SHOAL_MUST_CHECK;
/* What the model is told of them. */
shoal_status shoal_api_put_tools(const shoal_api_reader *reader, shoal_buf *text) SHOAL_MUST_CHECK;
/* The calls of message i, which the assistant made before, as it wrote them. */
shoal_status shoal_api_put_calls(shoal_api_reader *reader, size_t i, const json_t *calls,
                                 shoal_buf *text) SHOAL_MUST_CHECK;

#endif
