/* SPDX-License-Identifier: Apache-2.0
 *
 * Tools: from a request's list of functions to the grammar of a call, and to the words that tell
 * the model of them. A call is written as models with tools have learnt it from the open templates,
 * a JSON object between <tool_call> tags; the sampler holds it to the function's schema.
 */
#include "edge/http/api_parse_internal.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    PARAM_MAX = 64
};

static shoal_status bad_tool(shoal_api_reader *r, size_t i, const char *field, const char *what)
{
    char param[PARAM_MAX];
    (void)snprintf(param, sizeof param, "tools[%zu]%s%s", i, field[0] ? "." : "", field);
    return shoal_http_error_set(r->error, 400, param, "invalid_value", "%s: %s", param, what);
}

static bool name_ok(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t n = name ? strlen(name) : 0;
    return n >= 1 && n <= SHOAL_API_TOOL_NAME_MAX && strspn(name, letters) == n;
}

static const json_t *function_of(const shoal_api_reader *r, size_t i)
{
    return json_object_get(json_array_get(r->tools, i), "function");
}

static shoal_status read_tool(shoal_api_reader *r, size_t i, shoal_api_tool *tool)
{
    const json_t *function = function_of(r, i);
    const char *type = json_string_value(json_object_get(json_array_get(r->tools, i), "type"));
    const char *name = json_string_value(json_object_get(function, "name"));
    if (!type || strcmp(type, "function") != 0) {
        return bad_tool(r, i, "type", "must be \"function\"; other tools are not called here");
    }
    if (!name_ok(name)) {
        return bad_tool(r, i, "function.name", "must be 1 to 64 letters, digits, _ and -");
    }
    for (size_t k = 0; k < i; k++) {
        if (strcmp(r->request->tools[k].name, name) == 0) {
            return bad_tool(r, i, "function.name", "another tool has this name");
        }
    }
    (void)snprintf(tool->name, sizeof tool->name, "%s", name);
    (void)snprintf(tool->head, sizeof tool->head, "{\"name\": \"%s\", \"arguments\": ", name);
    return SHOAL_OK;
}

/* Grammar and limits say nothing that read_tool has not ruled out. */
static shoal_status build_calls(shoal_api_reader *r, size_t first, size_t n)
{
    SHOAL_CLEANUP(shoal_grammar_freep) shoal_grammar *grammar = NULL;
    shoal_grammar_case cases[SHOAL_API_TOOLS_MAX] = {{0}};
    SHOAL_TRY(shoal_grammar_new(&grammar));
    for (size_t i = 0; i < n; i++) {
        const json_t *function = function_of(r, first + i);
        char param[PARAM_MAX];
        (void)snprintf(param, sizeof param, "tools[%zu].function.parameters", first + i);
        cases[i].text = r->request->tools[first + i].head;
        SHOAL_TRY(shoal_api_build_arguments(
            r, grammar, param, json_object_get(function, "parameters"),
            json_is_true(json_object_get(function, "strict")), &cases[i].value));
    }
    uint32_t root = 0;
    shoal_status status = shoal_grammar_add_cases(grammar, cases, n, "}", &root);
    if (status == SHOAL_E_LIMIT) {
        return shoal_http_error_set(r->error, 400, "tools", "invalid_value",
                                    "tools: their schemas are too large together: send fewer");
    }
    SHOAL_TRY(status);
    shoal_grammar_set_root(grammar, root);
    r->request->grammar = SHOAL_STEAL(grammar);
    return SHOAL_OK;
}

/* tool_choice: *ret_named is the tool it names, n_tools: any. */
static shoal_status read_choice(shoal_api_reader *r, bool *ret_none, size_t *ret_named)
{
    const json_t *choice = r->tool_choice;
    const char *word = json_string_value(choice);
    shoal_api_request *q = r->request;
    *ret_none = false;
    *ret_named = q->n_tools;
    if (!choice || (word && strcmp(word, "auto") == 0)) {
        return SHOAL_OK;
    }
    if (word && strcmp(word, "none") == 0) {
        *ret_none = true;
        return SHOAL_OK;
    }
    if (word && strcmp(word, "required") == 0) {
        q->must_call = true;
        return SHOAL_OK;
    }
    const char *name =
        json_string_value(json_object_get(json_object_get(choice, "function"), "name"));
    for (size_t i = 0; name && i < q->n_tools; i++) {
        if (strcmp(q->tools[i].name, name) == 0) {
            *ret_named = i;
            q->must_call = true;
            return SHOAL_OK;
        }
    }
    return shoal_http_error_set(r->error, 400, "tool_choice", "invalid_value",
                                "tool_choice must be \"none\", \"auto\", \"required\", or "
                                "{\"type\": \"function\", \"function\": {\"name\": ...}} with the "
                                "name of one of tools");
}

static shoal_status check_company(shoal_api_reader *r)
{
    const shoal_api_request *q = r->request;
    if (q->grammar) {
        return shoal_http_error_set(r->error, 400, "response_format", "invalid_value",
                                    "response_format and tools ask for two forms at once: leave "
                                    "one of them out, or set tool_choice to \"none\"");
    }
    return SHOAL_OK;
}

shoal_status shoal_api_settle_tools(shoal_api_reader *r)
{
    size_t n = json_array_size(r->tools);
    shoal_api_request *q = r->request;
    bool none = false;
    size_t named = 0;
    if (r->tools && (!json_is_array(r->tools) || n > SHOAL_API_TOOLS_MAX)) {
        return shoal_http_error_set(r->error, 400, "tools", "invalid_value",
                                    "tools must be an array of at most %d functions",
                                    SHOAL_API_TOOLS_MAX);
    }
    q->tools = shoal_calloc(n, sizeof *q->tools);
    if (!q->tools) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(read_tool(r, i, &q->tools[i]));
    }
    q->n_tools = n;
    SHOAL_TRY(read_choice(r, &none, &named));
    if (q->must_call && n == 0) {
        return shoal_http_error_set(r->error, 400, "tool_choice", "invalid_value",
                                    "tool_choice is \"required\" and there are no tools");
    }
    if (none || n == 0) {
        q->n_tools = 0; /* the model is not told of what it may not use */
        return SHOAL_OK;
    }
    SHOAL_TRY(check_company(r));
    return named < n ? build_calls(r, named, 1) : build_calls(r, 0, n);
}

/* --- words ------------------------------------------------------------------------------------ */

static shoal_status put_json(shoal_buf *text, const json_t *value)
{
    char *dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    shoal_status status = dump ? shoal_buf_append(text, dump, strlen(dump)) : SHOAL_E_NOMEM;
    shoal_free(dump);
    return status;
}

shoal_status shoal_api_put_tools(const shoal_api_reader *r, shoal_buf *text)
{
    SHOAL_TRY(shoal_buf_appendf(text, "Functions you can call, one a line:\n<tools>\n"));
    for (size_t i = 0; i < r->request->n_tools; i++) {
        SHOAL_TRY(put_json(text, json_array_get(r->tools, i)));
        SHOAL_TRY(shoal_buf_append(text, "\n", 1));
    }
    return shoal_buf_appendf(text, "</tools>\nTo call one, answer with this alone:\n" SHOAL_API_CALL
                                   "\n{\"name\": NAME, \"arguments\": OBJECT}\n</tool_call>");
}

static shoal_status put_call(shoal_api_reader *r, size_t i, const json_t *call, shoal_buf *text)
{
    const json_t *function = json_object_get(call, "function");
    const char *name = json_string_value(json_object_get(function, "name"));
    const json_t *arguments = json_object_get(function, "arguments");
    if (!name_ok(name) || !json_is_string(arguments)) {
        return shoal_http_error_set(
            r->error, 400, "messages", "invalid_value",
            "messages[%zu].tool_calls: each must have function.name and function.arguments, the "
            "latter a string",
            i);
    }
    SHOAL_TRY(shoal_buf_appendf(text, "%s" SHOAL_API_CALL "\n{\"name\": \"%s\", \"arguments\": ",
                                text->length > 0 ? "\n" : "", name));
    SHOAL_TRY(shoal_buf_append(text, json_string_value(arguments), json_string_length(arguments)));
    return shoal_buf_appendf(text, "}\n</tool_call>");
}

shoal_status shoal_api_put_calls(shoal_api_reader *r, size_t i, const json_t *calls,
                                 shoal_buf *text)
{
    if (!json_is_array(calls)) {
        return shoal_http_error_set(r->error, 400, "messages", "invalid_value",
                                    "messages[%zu].tool_calls must be an array", i);
    }
    for (size_t k = 0; k < json_array_size(calls); k++) {
        SHOAL_TRY(put_call(r, i, json_array_get(calls, k), text));
    }
    return SHOAL_OK;
}
