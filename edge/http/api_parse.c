/* SPDX-License-Identifier: Apache-2.0
 *
 * A body becomes a request: JSON, fields, chat template, token ids. Pure but for memory, so that
 * small bodies are read on the loop and large ones by the worker.
 */
#include "edge/http/api_parse_internal.h"

#include "common/base/json_memory.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* --- JSON memory ------------------------------------------------------------------------------ */

void shoal_api_json_init(void)
{
    json_set_alloc_funcs(shoal_json_allocate, shoal_json_free);
}

json_t *shoal_api_load(const char *text, size_t n, json_error_t *why, shoal_status *ret_status)
{
    *ret_status = shoal_json_memory_begin(n, SHOAL_API_JSON_BUDGET);
    if (*ret_status != SHOAL_OK) {
        return NULL;
    }
    json_t *root = n > 0 ? json_loadb(text, n, JSON_REJECT_DUPLICATES, why) : NULL;
    *ret_status = shoal_json_memory_judge();
    if (*ret_status != SHOAL_OK) {
        json_decref(root);
        root = NULL;
    }
    shoal_json_memory_end();
    return root;
}

static void free_json(json_t **json)
{
    json_decref(*json);
}

/* --- what must not leave ---------------------------------------------------------------------- */

static bool hides(const shoal_api_reader *r)
{
    return r->context->redact && r->request->mode != SHOAL_MODE_LOCAL;
}

static shoal_status hide_one(shoal_api_reader *r, char **inout_text)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_status status =
        shoal_redact_text(r->request->redacted, *inout_text, strlen(*inout_text), &text);
    if (status == SHOAL_E_LIMIT) {
        return shoal_http_error_set(
            r->error, 400, r->request->kind == SHOAL_API_CHAT ? "messages" : "prompt",
            "invalid_value",
            "the text has more than %d different words or %d KiB to hold back (redact.*), or the "
            "last placeholder of a kind: shorten it, or use mode \"local\", which holds back none "
            "since nothing leaves",
            SHOAL_REDACT_WORDS_MAX, SHOAL_REDACT_BYTES_MAX >> 10);
    }
    SHOAL_TRY(status);
    shoal_free(*inout_text);
    *inout_text = SHOAL_STEAL(text.data);
    return SHOAL_OK;
}

/* The texts of a prompt, where they will leave the device. */
static shoal_status hide(shoal_api_reader *r, char **texts, size_t n)
{
    if (!hides(r)) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_redact_map_new(r->context->redact, &r->request->redacted));
    for (size_t i = 0; i < n; i++) {
        shoal_redact_reserve(r->request->redacted, texts[i], strlen(texts[i]));
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_TRY(hide_one(r, &texts[i]));
    }
    if (shoal_redact_map_n(r->request->redacted) == 0) {
        shoal_redact_map_free(r->request->redacted);
        r->request->redacted = NULL;
    }
    return SHOAL_OK;
}

/* --- prompt ----------------------------------------------------------------------------------- */

/* What the tokenizer refuses is the request's fault, but for want of memory. */
static shoal_status judge(shoal_api_reader *r, shoal_status status, const char *param,
                          const shoal_err *err)
{
    if (status == SHOAL_OK || status == SHOAL_E_NOMEM) {
        return status;
    }
    shoal_http_error_from(r->error, err, param);
    return SHOAL_E_INVALID;
}

static shoal_status encode(shoal_api_reader *r, const char *text, size_t n)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    shoal_status status = shoal_tokenizer_encode(r->context->model->tokenizer, text, n, flags,
                                                 &r->request->ids, &r->request->n_ids, &err);
    return judge(r, status, "prompt", &err);
}

static shoal_status encode_prompt(shoal_api_reader *r, const json_t *prompt)
{
    char *text = shoal_strdup(json_string_value(prompt));
    shoal_status status = text ? hide(r, &text, 1) : SHOAL_E_NOMEM;
    if (status == SHOAL_OK) {
        status = encode(r, text, strlen(text));
    }
    shoal_free(text);
    return status;
}

static shoal_status copy_ids(shoal_api_reader *r, const json_t *array)
{
    if (hides(r)) {
        return shoal_http_error_set(
            r->error, 400, "prompt", "unsupported_value",
            "prompt: private words are held back here (redact.*), and token "
            "ids cannot be searched for them: send text, or use mode "
            "\"local\"");
    }
    size_t n = json_array_size(array);
    size_t n_vocab = r->context->model->hp.n_vocab;
    r->request->ids = shoal_calloc(n, sizeof *r->request->ids);
    if (!r->request->ids) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || (uint64_t)id >= n_vocab) {
            return shoal_http_error_set(r->error, 400, "prompt", "invalid_value",
                                        "prompt: entry %zu must be a token id from 0 to %zu", i,
                                        n_vocab - 1);
        }
        r->request->ids[i] = (int32_t)id;
    }
    r->request->n_ids = n;
    return SHOAL_OK;
}

/* A string, an array of one string, token ids, or an array of one array of them. */
static shoal_status take_prompt(shoal_api_reader *r)
{
    const json_t *p = r->prompt;
    if (!p) {
        return shoal_http_error_set(r->error, 400, "prompt", "missing_required_parameter",
                                    "prompt is missing: give a string or an array of token ids");
    }
    if (json_is_array(p) && json_array_size(p) >= 1) {
        const json_t *first = json_array_get(p, 0);
        if (json_is_integer(first)) {
            return copy_ids(r, p);
        }
        if (json_array_size(p) > 1) {
            return shoal_http_error_set(r->error, 400, "prompt", "unsupported_value",
                                        "prompt: one prompt per request; send the others alone");
        }
        p = first;
    }
    if (json_is_array(p) && json_array_size(p) >= 1) {
        return copy_ids(r, p);
    }
    if (!json_is_string(p)) {
        return shoal_http_error_set(r->error, 400, "prompt", "invalid_value",
                                    "prompt must be a string, an array of one string, or an array "
                                    "of token ids");
    }
    return encode_prompt(r, p);
}

/* --- messages --------------------------------------------------------------------------------- */

static shoal_status bad_message(shoal_api_reader *r, size_t i, const char *field, const char *what)
{
    char param[64];
    (void)snprintf(param, sizeof param, "messages[%zu]%s%s", i, field[0] ? "." : "", field);
    return shoal_http_error_set(r->error, 400, param, "invalid_value", "%s: %s", param, what);
}

static shoal_status take_role(shoal_api_reader *r, size_t i, const json_t *value,
                              const char **ret_role)
{
    static const char *const known[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"},
                                           {"tool", "user"}};
    const char *role = json_string_value(value);
    for (size_t k = 0; role && k < SHOAL_COUNT(known); k++) {
        if (strcmp(role, known[k][0]) == 0) {
            *ret_role = known[k][1];
            return SHOAL_OK;
        }
    }
    return bad_message(r, i, "role", "must be system, developer, user, assistant or tool");
}

/* Parts mean the same as their texts in a row. */
static shoal_status join_parts(shoal_api_reader *r, size_t i, const json_t *parts,
                               char **ret_content)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_buf_append(&text, "", 0));
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *part = json_array_get(parts, k);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *words = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(words)) {
            return bad_message(r, i, "content",
                               "each part must be {\"type\": \"text\", \"text\": \"...\"}");
        }
        SHOAL_TRY(shoal_buf_append(&text, json_string_value(words), json_string_length(words)));
    }
    *ret_content = SHOAL_STEAL(text.data);
    return SHOAL_OK;
}

static shoal_status take_content(shoal_api_reader *r, size_t i, const json_t *value,
                                 char **ret_content)
{
    if (json_is_array(value) && json_array_size(value) >= 1) {
        return join_parts(r, i, value, ret_content);
    }
    if (!json_is_string(value)) {
        return bad_message(r, i, "content", "must be a string or an array of text parts");
    }
    *ret_content = shoal_strdup(json_string_value(value));
    return *ret_content ? SHOAL_OK : SHOAL_E_NOMEM;
}

/* What a function gave, as the templates with tools write it. */
static shoal_status wrap_result(char **inout_content)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_buf_appendf(&text, "<tool_response>\n%s\n</tool_response>", *inout_content));
    shoal_free(*inout_content);
    *inout_content = SHOAL_STEAL(text.data);
    return SHOAL_OK;
}

/* The content of an answer with calls may be null; the calls stand behind it. */
static shoal_status take_answer(shoal_api_reader *r, size_t i, const json_t *message,
                                char **ret_content)
{
    const json_t *content = json_object_get(message, "content");
    const json_t *calls = json_object_get(message, "tool_calls");
    bool some = calls && !json_is_null(calls);
    if (!some) {
        return take_content(r, i, content, ret_content);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_buf_append(&text, "", 0));
    if (content && !json_is_null(content)) {
        SHOAL_TRY(take_content(r, i, content, ret_content));
        SHOAL_TRY(shoal_buf_append(&text, *ret_content, strlen(*ret_content)));
        shoal_free(*ret_content);
        *ret_content = NULL;
    }
    SHOAL_TRY(shoal_api_put_calls(r, i, calls, &text));
    *ret_content = SHOAL_STEAL(text.data);
    return SHOAL_OK;
}

static shoal_status take_message(shoal_api_reader *r, size_t i, const json_t *m,
                                 shoal_chat_message *message, char **ret_content)
{
    const char *role = json_string_value(json_object_get(m, "role"));
    SHOAL_TRY(take_role(r, i, json_object_get(m, "role"), &message->role));
    if (strcmp(message->role, "assistant") == 0) {
        SHOAL_TRY(take_answer(r, i, m, ret_content));
    } else {
        SHOAL_TRY(take_content(r, i, json_object_get(m, "content"), ret_content));
    }
    if (strcmp(role, "tool") == 0) {
        SHOAL_TRY(wrap_result(ret_content));
    }
    return SHOAL_OK;
}

/* Whole messages come back from clients with everything an answer may have: what is empty says
 * nothing, what is not would be lost. */
static shoal_status check_extras(shoal_api_reader *r, size_t i, const json_t *message)
{
    static const char *const harmless[] = {"role",        "content",    "name",        "refusal",
                                           "annotations", "tool_calls", "tool_call_id"};
    json_t *object = (json_t *)(uintptr_t)message;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const json_t *v = json_object_iter_value(it);
        bool empty = json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0);
        bool known = empty;
        for (size_t k = 0; k < SHOAL_COUNT(harmless); k++) {
            known = known || strcmp(json_object_iter_key(it), harmless[k]) == 0;
        }
        if (!known) {
            return bad_message(r, i, "",
                               "only role, content, name, tool_calls and tool_call_id are "
                               "understood");
        }
    }
    return SHOAL_OK;
}

/* The model is told of its tools at the end of the first system message, or by one of its own. */
static shoal_status tell_tools(shoal_api_reader *r, shoal_chat_message **inout_first,
                               size_t *inout_n, char **ret_words)
{
    shoal_chat_message *first = *inout_first;
    bool has_system = strcmp(first[1].role, "system") == 0;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf words = {0};
    if (has_system) {
        SHOAL_TRY(shoal_buf_appendf(&words, "%s\n\n", first[1].content));
    }
    SHOAL_TRY(shoal_api_put_tools(r, &words));
    *ret_words = SHOAL_STEAL(words.data);
    first[has_system ? 1 : 0] = (shoal_chat_message){.role = "system", .content = *ret_words};
    *inout_first += has_system ? 1 : 0;
    *inout_n += has_system ? 0 : 1;
    return SHOAL_OK;
}

/* messages and contents: [n + 1]; the first is for the words about tools. */
static shoal_status fill_messages(shoal_api_reader *r, shoal_chat_message *messages,
                                  char **contents, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(r->messages, i);
        if (!json_is_object(m)) {
            return bad_message(r, i, "", "must be an object with role and content");
        }
        SHOAL_TRY(check_extras(r, i, m));
        SHOAL_TRY(take_message(r, i, m, &messages[i + 1], &contents[i + 1]));
    }
    SHOAL_TRY(hide(r, contents + 1, n));
    for (size_t i = 1; i <= n; i++) {
        messages[i].content = contents[i];
    }
    shoal_chat_message *first = messages;
    if (r->request->n_tools > 0) {
        SHOAL_TRY(tell_tools(r, &first, &n, &contents[0]));
    } else {
        first++;
    }
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_chat_encode(r->context->model->tokenizer, first, n,
                                            &r->request->ids, &r->request->n_ids, &err);
    return judge(r, status, "messages", &err);
}

static shoal_status take_messages(shoal_api_reader *r)
{
    if (!r->messages) {
        return shoal_http_error_set(r->error, 400, "messages", "missing_required_parameter",
                                    "messages is missing: give an array of role and content");
    }
    size_t n = json_array_size(r->messages);
    if (!json_is_array(r->messages) || n < 1 || n > SHOAL_API_MESSAGES_MAX) {
        return shoal_http_error_set(r->error, 400, "messages", "invalid_value",
                                    "messages must be an array of 1 to %d messages",
                                    SHOAL_API_MESSAGES_MAX);
    }
    shoal_chat_message *messages = shoal_calloc(n + 1, sizeof *messages);
    char **contents = shoal_calloc(n + 1, sizeof *contents);
    shoal_status status = SHOAL_E_NOMEM;
    if (messages && contents) {
        status = fill_messages(r, messages, contents, n);
    }
    for (size_t i = 0; contents && i < n + 1; i++) {
        shoal_free(contents[i]);
    }
    shoal_free(contents);
    shoal_free(messages);
    return status;
}

/* --- the whole -------------------------------------------------------------------------------- */

const shoal_adapter *shoal_api_find_adapter(const shoal_api_context *context, const char *name)
{
    for (size_t i = 0; i < context->n_adapters; i++) {
        if (strcmp(name, context->adapters[i].name) == 0) {
            return &context->adapters[i];
        }
    }
    return NULL;
}

shoal_status shoal_api_no_model(const shoal_api_context *context, const char *name,
                                shoal_http_error *error)
{
    return shoal_http_error_set(
        error, 404, "model", "model_not_found",
        "there is no model \"%.100s\" here; this edge serves \"%s\"%s", name, context->model_id,
        context->n_adapters > 0 ? " and the adapters that /v1/models lists" : "");
}

static shoal_status check_model(shoal_api_reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    if (!model || json_is_null(model)) {
        return SHOAL_OK;
    }
    const char *name = json_string_value(model);
    if (!name) {
        return shoal_http_error_set(r->error, 400, "model", "invalid_value",
                                    "model must be a string");
    }
    if (strcmp(name, r->context->model_id) == 0) {
        return SHOAL_OK;
    }
    r->request->adapter = shoal_api_find_adapter(r->context, name);
    return r->request->adapter ? SHOAL_OK : shoal_api_no_model(r->context, name, r->error);
}

/* A form leaves the device as it is: with a placeholder in it the answer would be another one. */
static shoal_status check_form_hides(shoal_api_reader *r)
{
    const char *param = r->request->n_tools > 0 ? "tools" : "response_format";
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf hidden = {0};
    if (!hides(r) || !r->request->grammar) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_grammar_put_texts(r->request->grammar, &text));
    if (r->request->n_tools > 0) {
        SHOAL_TRY(shoal_api_put_tools(r, &text)); /* with what they say of themselves */
    }
    shoal_redact_map *found = NULL;
    SHOAL_TRY(shoal_redact_map_new(r->context->redact, &found));
    shoal_status status =
        shoal_redact_text(found, text.data ? text.data : "", text.length, &hidden);
    size_t n = shoal_redact_map_n(found);
    shoal_redact_map_free(found);
    if (n > 0 || status == SHOAL_E_LIMIT) {
        return shoal_http_error_set(
            r->error, 400, param, "unsupported_value",
            "%s: it has words that are held back here (redact.*), and would leave the device: take "
            "them out, or use mode \"local\"",
            param);
    }
    return status;
}

/* What may only be judged once all fields are known. */
static shoal_status settle(shoal_api_reader *r)
{
    shoal_api_request *q = r->request;
    if (r->stream_options && !q->stream) {
        return shoal_http_error_set(r->error, 400, "stream_options", "invalid_value",
                                    "stream_options may only be given with \"stream\": true");
    }
    if (q->stream && q->echo) {
        return shoal_http_error_set(r->error, 400, "echo", "unsupported_parameter",
                                    "echo comes with a whole answer: leave stream out");
    }
    if (q->n_tops > 0 && !q->tell_logprobs) {
        return shoal_http_error_set(r->error, 400, "top_logprobs", "invalid_value",
                                    "top_logprobs may only be given with \"logprobs\": true");
    }
    if (r->local_only && r->has_mode && q->mode != SHOAL_MODE_LOCAL) {
        return shoal_http_error_set(r->error, 400, "shoal.local_only", "invalid_value",
                                    "shoal.local_only contradicts shoal.mode \"%s\"",
                                    shoal_mode_name(q->mode));
    }
    if (r->local_only) {
        q->mode = SHOAL_MODE_LOCAL;
    }
    if (q->tell_logprobs && q->mode != SHOAL_MODE_LOCAL) {
        return shoal_http_error_set(
            r->error, 400, "logprobs", "unsupported_value",
            "logprobs: the edge knows those of its own model alone, and mode \"%s\" was %s: add "
            "\"shoal\": {\"mode\": \"local\"}",
            shoal_mode_name(q->mode), r->has_mode ? "asked for" : "the default");
    }
    if (q->mode != SHOAL_MODE_ASSIST && (q->n_cloud_max != SIZE_MAX || q->risk > 0)) {
        const char *field = q->risk > 0 ? "shoal.risk" : "shoal.max_cloud_tokens";
        return shoal_http_error_set(r->error, 400, field, "invalid_value",
                                    "%s is of mode \"assist\", and mode \"%s\" was %s", field,
                                    shoal_mode_name(q->mode),
                                    r->has_mode || r->local_only ? "asked for" : "the default");
    }
    if (q->mode == SHOAL_MODE_LOCAL && r->has_priority) {
        return shoal_http_error_set(r->error, 400, "shoal.priority", "invalid_value",
                                    "shoal.priority orders work in the cloud, and mode \"local\", "
                                    "which was %s, asks it for none: leave it out",
                                    r->has_mode || r->local_only ? "asked for" : "the default");
    }
    SHOAL_TRY(shoal_api_settle_tools(r));
    SHOAL_TRY(check_form_hides(r));
    if (!r->has_seed) {
        if (getrandom(&q->sampling.seed, sizeof q->sampling.seed, 0) !=
            (ssize_t)sizeof q->sampling.seed) {
            return shoal_http_error_set(r->error, 503, NULL, "unavailable",
                                        "no random numbers: give a seed");
        }
        q->sampling.seed >>= 1;
    }
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_sampling_check(&q->sampling, r->context->model->hp.n_vocab, &err) != SHOAL_OK) {
        shoal_http_error_from(r->error, &err, NULL);
        return SHOAL_E_INVALID;
    }
    return SHOAL_OK;
}

static shoal_status fit(shoal_api_reader *r)
{
    shoal_api_request *q = r->request;
    const char *param = q->kind == SHOAL_API_CHAT ? "messages" : "prompt";
    const shoal_api_context *c = r->context;
    if (q->n_ids == 0) {
        return shoal_http_error_set(r->error, 400, param, "invalid_value",
                                    "%s has no tokens: there is nothing to continue", param);
    }
    if (q->n_ids >= c->n_room) {
        return shoal_http_error_set(r->error, 400, param, "context_length_exceeded",
                                    "This prompt has %zu tokens; %s takes %zu, answer included. "
                                    "Shorten it.",
                                    q->n_ids, c->model_id, c->n_room);
    }
    size_t room = c->n_room - q->n_ids;
    if (r->n_max > room) {
        return shoal_http_error_set(r->error, 400, r->n_field, "context_length_exceeded",
                                    "This prompt has %zu tokens and %s asks for %zu more; %s takes "
                                    "%zu in all. Ask for at most %zu, or shorten the prompt.",
                                    q->n_ids, r->n_field, r->n_max, c->model_id, c->n_room, room);
    }
    size_t usual = q->kind == SHOAL_API_CHAT ? c->n_tokens_default : 16; /* OpenAI's 16 */
    q->n_tokens_max = r->n_max > 0 ? r->n_max : SHOAL_MIN(usual, room);
    return SHOAL_OK;
}

static shoal_status read_root(shoal_api_reader *r, const json_t *root)
{
    if (!json_is_object(root)) {
        return shoal_http_error_set(r->error, 400, NULL, "invalid_json",
                                    "the body must be a JSON object");
    }
    SHOAL_TRY(check_model(r, root));
    SHOAL_TRY(shoal_api_read_fields(r, root));
    SHOAL_TRY(settle(r));
    SHOAL_TRY(r->request->kind == SHOAL_API_CHAT ? take_messages(r) : take_prompt(r));
    return fit(r);
}

/* memory: what the parser's was judged to be. */
static shoal_status refuse_json(shoal_http_error *error, size_t n, const json_error_t *why,
                                shoal_status memory)
{
    if (n == 0) {
        return shoal_http_error_set(error, 400, NULL, "invalid_json",
                                    "the body is empty; a JSON object is expected");
    }
    if (memory == SHOAL_E_LIMIT) {
        return shoal_http_error_set(error, 413, NULL, "body_too_large",
                                    "the body has too many JSON values: %d MiB of memory are not "
                                    "enough for it",
                                    SHOAL_API_JSON_BUDGET >> 20);
    }
    if (memory == SHOAL_E_NOMEM) { /* of which jansson says nothing */
        return shoal_http_error_set(error, 503, NULL, "out_of_memory", "no memory for a request");
    }
    return shoal_http_error_set(error, 400, NULL, "invalid_json",
                                "the body is not valid JSON: line %d, column %d: %s", why->line,
                                why->column, why->text);
}

shoal_status shoal_api_parse(const shoal_api_context *context, shoal_api_kind kind,
                             const char *body, size_t n, shoal_api_request **ret_request,
                             shoal_http_error *error)
{
    json_error_t why = {0};
    shoal_status memory = SHOAL_OK;
    SHOAL_CLEANUP(free_json) json_t *root = shoal_api_load(body, n, &why, &memory);
    if (!root) {
        return refuse_json(error, n, &why, memory);
    }
    shoal_api_request *q = shoal_calloc(1, sizeof *q);
    if (!q) {
        return shoal_http_error_set(error, 503, NULL, "out_of_memory", "no memory for a request");
    }
    q->kind = kind;
    q->mode = context->mode_default;
    q->cancel_on_gone = context->cancel_on_gone;
    q->priority = context->priority;
    q->n_cloud_max = SIZE_MAX;
    q->sampling = shoal_sampling_default();
    shoal_api_reader reader = {.context = context, .request = q, .error = error};
    shoal_status status = read_root(&reader, root);
    if (status != SHOAL_OK) {
        shoal_api_request_free(q);
        if (error->status == 0) {
            return shoal_http_error_set(error, 503, NULL, "out_of_memory",
                                        "no memory for a request");
        }
        return SHOAL_E_INVALID;
    }
    *ret_request = q;
    return SHOAL_OK;
}

void shoal_api_request_free(shoal_api_request *request)
{
    if (!request) {
        return;
    }
    for (size_t i = 0; i < request->n_stops; i++) {
        shoal_free(request->stops[i]);
    }
    shoal_grammar_free(request->grammar);
    shoal_redact_map_free(request->redacted);
    shoal_free(request->tools);
    shoal_free(request->biases);
    shoal_free(request->ids);
    shoal_free(request);
}
