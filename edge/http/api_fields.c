/* SPDX-License-Identifier: Apache-2.0
 *
 * One table of every field a request may have. What is not in it is refused by name, and what this
 * edge cannot do is refused too, unless it is set to what would happen anyway: silence would let a
 * caller believe it was done.
 */
#include "edge/http/api_parse_internal.h"

#include "common/base/mem.h"

#include <limits.h>
#include <math.h>
#include <string.h>

typedef shoal_status read_fn(shoal_api_reader *r, const char *name, const json_t *value);

static shoal_status bad(shoal_api_reader *r, const char *name, const char *what)
{
    return shoal_http_error_set(r->error, 400, name, "invalid_value", "%s: %s", name, what);
}

static shoal_status unsupported(shoal_api_reader *r, const char *name, const char *what)
{
    return shoal_http_error_set(r->error, 400, name, "unsupported_parameter", "%s: %s", name, what);
}

/* --- numbers ---------------------------------------------------------------------------------- */

static shoal_status read_real(shoal_api_reader *r, const char *name, const json_t *value,
                              double min, double max, float *ret_real)
{
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= min && x <= max)) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s must be a number from %g to %g", name, min, max);
    }
    *ret_real = (float)x;
    return SHOAL_OK;
}

static shoal_status read_int(shoal_api_reader *r, const char *name, const json_t *value,
                             json_int_t min, json_int_t max, json_int_t *ret_int)
{
    json_int_t x = json_integer_value(value);
    if (!json_is_integer(value) || x < min || x > max) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s must be a whole number from %lld to %lld", name,
                                    (long long)min, (long long)max);
    }
    *ret_int = x;
    return SHOAL_OK;
}

static shoal_status read_sampling(shoal_api_reader *r, const char *name, const json_t *value)
{
    shoal_sampling *s = &r->request->sampling;
    const struct {
        const char *name;
        float *slot;
        double min;
        double max;
    } rows[] = {
        {"temperature", &s->temperature, 0, 2},
        {"top_p", &s->top_p, 0, 1},
        {"min_p", &s->min_p, 0, 1},
        {"repetition_penalty", &s->repetition_penalty, 0.1, 10},
        {"presence_penalty", &s->presence_penalty, -2, 2},
        {"frequency_penalty", &s->frequency_penalty, -2, 2},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        if (strcmp(rows[i].name, name) == 0) {
            SHOAL_TRY(read_real(r, name, value, rows[i].min, rows[i].max, rows[i].slot));
        }
    }
    if (!(s->top_p > 0.0F)) {
        return bad(r, name, "0 would keep no token at all; use temperature 0 for the likeliest");
    }
    if (!(s->min_p < 1.0F)) {
        return bad(r, name, "must be below 1");
    }
    return SHOAL_OK;
}

static shoal_status read_top_k(shoal_api_reader *r, const char *name, const json_t *value)
{
    json_int_t k = 0;
    SHOAL_TRY(read_int(r, name, value, 0, INT32_MAX, &k));
    r->request->sampling.top_k = (uint32_t)k;
    return SHOAL_OK;
}

static shoal_status read_seed(shoal_api_reader *r, const char *name, const json_t *value)
{
    json_int_t seed = 0;
    SHOAL_TRY(read_int(r, name, value, LLONG_MIN, LLONG_MAX, &seed));
    r->request->sampling.seed = (uint64_t)seed;
    r->has_seed = true;
    return SHOAL_OK;
}

static shoal_status read_max_tokens(shoal_api_reader *r, const char *name, const json_t *value)
{
    json_int_t n = 0;
    SHOAL_TRY(read_int(r, name, value, 1, INT32_MAX, &n));
    if (r->n_max > 0 && r->n_max != (size_t)n) {
        return bad(r, name, "max_tokens and max_completion_tokens contradict each other");
    }
    r->n_max = (size_t)n;
    r->n_field = name;
    return SHOAL_OK;
}

/* --- switches --------------------------------------------------------------------------------- */

static shoal_status read_bool(shoal_api_reader *r, const char *name, const json_t *value,
                              bool *ret_bool)
{
    if (!json_is_boolean(value)) {
        return bad(r, name, "must be true or false");
    }
    *ret_bool = json_is_true(value);
    return SHOAL_OK;
}

static shoal_status read_echo(shoal_api_reader *r, const char *name, const json_t *value)
{
    return read_bool(r, name, value, &r->request->echo);
}

static shoal_status read_logprobs(shoal_api_reader *r, const char *name, const json_t *value)
{
    json_int_t n = 0;
    SHOAL_TRY(read_int(r, name, value, 0, 5, &n)); /* OpenAI's 5 */
    r->request->tell_logprobs = true;              /* 0 wants those of the tokens alone */
    r->request->n_tops = SHOAL_MIN((size_t)n, r->context->model->hp.n_vocab);
    return SHOAL_OK;
}

static shoal_status read_chat_logprobs(shoal_api_reader *r, const char *name, const json_t *value)
{
    return read_bool(r, name, value, &r->request->tell_logprobs);
}

static shoal_status read_top_logprobs(shoal_api_reader *r, const char *name, const json_t *value)
{
    json_int_t n = 0;
    SHOAL_TRY(read_int(r, name, value, 0, SHOAL_COOP_TOPS_MAX, &n));
    r->request->n_tops = SHOAL_MIN((size_t)n, r->context->model->hp.n_vocab);
    return SHOAL_OK;
}

static shoal_status read_names(shoal_api_reader *r, const char *name, const json_t *value)
{
    return read_bool(r, name, value, &r->request->tell_names);
}

static shoal_status read_stream(shoal_api_reader *r, const char *name, const json_t *value)
{
    return read_bool(r, name, value, &r->request->stream);
}

static shoal_status read_stream_options(shoal_api_reader *r, const char *name, const json_t *value)
{
    if (!json_is_object(value)) {
        return bad(r, name, "must be an object");
    }
    r->stream_options = value;
    json_t *object = json_object_get(value, "include_usage");
    if (object && !json_is_null(object)) {
        SHOAL_TRY(read_bool(r, "stream_options.include_usage", object, &r->request->include_usage));
    }
    size_t n_known =
        (size_t)(object != NULL) + (size_t)(json_object_get(value, "include_obfuscation") != NULL);
    if (json_object_size(value) != n_known) {
        return unsupported(r, name, "the only option is include_usage");
    }
    return SHOAL_OK;
}

static shoal_status read_mode(shoal_api_reader *r, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || shoal_mode_parse(text, &r->request->mode) != SHOAL_OK) {
        return bad(r, "shoal.mode", "must be \"local\", \"assist\", \"exact\" or \"cloud\"");
    }
    r->has_mode = true;
    return SHOAL_OK;
}

static shoal_status read_on_disconnect(shoal_api_reader *r, const json_t *value)
{
    const char *text = json_string_value(value);
    bool cancel = text && strcmp(text, "cancel") == 0;
    if (!cancel && !(text && strcmp(text, "continue") == 0)) {
        return bad(r, "shoal.on_disconnect", "must be \"continue\" or \"cancel\"");
    }
    r->request->cancel_on_gone = cancel;
    return SHOAL_OK;
}

static shoal_status read_session(shoal_api_reader *r, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || !shoal_session_name_ok(text, json_string_length(value))) {
        return bad(r, "shoal.session",
                   "must be a name of 1 to 64 letters, digits, '.', '_' and '-'");
    }
    (void)snprintf(r->request->session, sizeof r->request->session, "%s", text);
    return SHOAL_OK;
}

/* "risk", or {"policy": "fixed", "threshold": 0.98}; whether the model can is asked later. */
static shoal_status read_exit(shoal_api_reader *r, const json_t *value)
{
    const json_t *policy = json_is_object(value) ? json_object_get(value, "policy") : value;
    const json_t *threshold = json_is_object(value) ? json_object_get(value, "threshold") : NULL;
    size_t n_known = 1 + (threshold != NULL);
    if (json_is_object(value) && json_object_size(value) > n_known) {
        return unsupported(r, "shoal.exit", "the known keys are policy and threshold");
    }
    if (!json_is_string(policy) || json_string_length(policy) == 0 ||
        json_string_length(policy) >= SHOAL_EXIT_TEXT_MAX) {
        return bad(r, "shoal.exit", "must be a policy's name, or an object with a policy");
    }
    r->request->exit_threshold = (float)NAN;
    if (threshold && !json_is_null(threshold)) {
        SHOAL_TRY(
            read_real(r, "shoal.exit.threshold", threshold, -64, 64, &r->request->exit_threshold));
    }
    memcpy(r->request->exit_policy, json_string_value(policy), json_string_length(policy) + 1);
    return SHOAL_OK;
}

static shoal_status read_shoal(shoal_api_reader *r, const char *name, const json_t *value)
{
    if (!json_is_object(value)) {
        return bad(r, name, "must be an object");
    }
    void *it = NULL;
    for (it = json_object_iter((json_t *)(uintptr_t)value); it;
         it = json_object_iter_next((json_t *)(uintptr_t)value, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        if (json_is_null(v)) {
            continue;
        }
        if (strcmp(key, "mode") == 0) {
            SHOAL_TRY(read_mode(r, v));
        } else if (strcmp(key, "degrade") == 0) {
            SHOAL_TRY(read_bool(r, "shoal.degrade", v, &r->request->degrade));
        } else if (strcmp(key, "reconnect_ms") == 0) {
            json_int_t ms = 0;
            SHOAL_TRY(read_int(r, "shoal.reconnect_ms", v, 1, 3600000, &ms));
            r->request->reconnect_ms = (uint64_t)ms;
        } else if (strcmp(key, "deadline_ms") == 0) {
            json_int_t ms = 0;
            SHOAL_TRY(read_int(r, "shoal.deadline_ms", v, 1, 86400000, &ms));
            r->request->deadline_ms = (uint64_t)ms;
        } else if (strcmp(key, "priority") == 0) {
            json_int_t n = 0;
            SHOAL_TRY(read_int(r, "shoal.priority", v, 0, SHOAL_WIRE_PRIORITY_MAX, &n));
            r->request->priority = (uint32_t)n;
            r->has_priority = n > 0;
        } else if (strcmp(key, "max_cloud_tokens") == 0) {
            json_int_t n = 0;
            SHOAL_TRY(read_int(r, "shoal.max_cloud_tokens", v, 0, INT32_MAX, &n));
            r->request->n_cloud_max = (size_t)n;
        } else if (strcmp(key, "risk") == 0) {
            float risk = 0;
            SHOAL_TRY(read_real(r, "shoal.risk", v, 1e-6, 0.5, &risk));
            r->request->risk = (double)risk;
        } else if (strcmp(key, "session") == 0) {
            SHOAL_TRY(read_session(r, v));
        } else if (strcmp(key, "exit") == 0) {
            SHOAL_TRY(read_exit(r, v));
        } else if (strcmp(key, "local_only") == 0) {
            SHOAL_TRY(read_bool(r, "shoal.local_only", v, &r->local_only));
        } else if (strcmp(key, "on_disconnect") == 0) {
            SHOAL_TRY(read_on_disconnect(r, v));
        } else if (strcmp(key, "tokens") == 0) {
            SHOAL_TRY(read_bool(r, "shoal.tokens", v, &r->request->tell_tokens));
        } else {
            return unsupported(r, name,
                               "the known keys are mode, degrade, reconnect_ms, deadline_ms, "
                               "priority, max_cloud_tokens, risk, exit, session, local_only, "
                               "on_disconnect and tokens");
        }
    }
    return SHOAL_OK;
}

/* --- lists ------------------------------------------------------------------------------------ */

static shoal_status add_stop(shoal_api_reader *r, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    if (!text || n == 0 || n > SHOAL_STOP_BYTES_MAX) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s: each stop must be a string of 1 to %d bytes", name,
                                    SHOAL_STOP_BYTES_MAX);
    }
    char *copy = shoal_strdup(text);
    if (!copy) {
        return SHOAL_E_NOMEM;
    }
    r->request->stops[r->request->n_stops++] = copy;
    return SHOAL_OK;
}

static shoal_status read_stop(shoal_api_reader *r, const char *name, const json_t *value)
{
    if (json_is_string(value)) {
        return add_stop(r, name, value);
    }
    if (!json_is_array(value) || json_array_size(value) > SHOAL_STOPS_MAX) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s must be a string or an array of at most %d strings", name,
                                    SHOAL_STOPS_MAX);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        SHOAL_TRY(add_stop(r, name, json_array_get(value, i)));
    }
    return SHOAL_OK;
}

/* A token id written as the key of an object: digits, no leading zero, so that no two keys mean
 * one id. */
static bool parse_id(const char *text, size_t n_vocab, int32_t *ret_id)
{
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 9 || text[n] != '\0' || (text[0] == '0' && n > 1)) {
        return false;
    }
    int32_t id = 0;
    for (size_t i = 0; i < n; i++) {
        id = id * 10 + (text[i] - '0');
    }
    *ret_id = id;
    return (size_t)id < n_vocab;
}

static shoal_status read_bias(shoal_api_reader *r, const char *name, const json_t *value)
{
    size_t n = json_object_size(value);
    if (!json_is_object(value) || n > SHOAL_BIAS_MAX) {
        return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                    "%s must be an object of at most %d token ids", name,
                                    SHOAL_BIAS_MAX);
    }
    shoal_api_request *q = r->request;
    q->biases = shoal_calloc(n, sizeof *q->biases);
    if (!q->biases) {
        return SHOAL_E_NOMEM;
    }
    size_t n_vocab = r->context->model->hp.n_vocab;
    json_t *object = (json_t *)(uintptr_t)value; /* jansson iterates over mutable objects only */
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        shoal_logit_bias *b = &q->biases[q->sampling.n_biases];
        if (!parse_id(json_object_iter_key(it), n_vocab, &b->id)) {
            return shoal_http_error_set(r->error, 400, name, "invalid_value",
                                        "%s: each key must be a token id from 0 to %zu", name,
                                        n_vocab - 1);
        }
        SHOAL_TRY(read_real(r, name, json_object_iter_value(it), -100, 100, &b->bias));
        q->sampling.n_biases++;
    }
    q->sampling.biases = q->biases;
    return SHOAL_OK;
}

static shoal_status read_prompt(shoal_api_reader *r, const char *name, const json_t *value)
{
    (void)name;
    r->prompt = value;
    return SHOAL_OK;
}

static shoal_status read_tools(shoal_api_reader *r, const char *name, const json_t *value)
{
    (void)name;
    r->tools = value;
    return SHOAL_OK;
}

static shoal_status read_tool_choice(shoal_api_reader *r, const char *name, const json_t *value)
{
    (void)name;
    r->tool_choice = value;
    return SHOAL_OK;
}

static shoal_status read_messages(shoal_api_reader *r, const char *name, const json_t *value)
{
    (void)name;
    r->messages = value;
    return SHOAL_OK;
}

/* --- what does not change the answer, or must not -------------------------------------------- */

static shoal_status ignore(shoal_api_reader *r, const char *name, const json_t *value)
{
    (void)r;
    (void)name;
    (void)value;
    return SHOAL_OK;
}

static shoal_status only_one(shoal_api_reader *r, const char *name, const json_t *value)
{
    if (json_is_integer(value) && json_integer_value(value) == 1) {
        return SHOAL_OK;
    }
    return unsupported(r, name, "this edge gives one answer per request; leave it out or set 1");
}

static shoal_status only_off(shoal_api_reader *r, const char *name, const json_t *value)
{
    bool off = json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
               (json_is_string(value) && json_string_length(value) == 0);
    return off ? SHOAL_OK : unsupported(r, name, "not supported by this edge; leave it out");
}

static shoal_status only_none(shoal_api_reader *r, const char *name, const json_t *value)
{
    const char *text = json_string_value(value);
    if (text && (strcmp(text, "none") == 0 || strcmp(text, "auto") == 0)) {
        return SHOAL_OK;
    }
    return unsupported(r, name, "functions are called by tools and tool_choice here");
}

static shoal_status only_text(shoal_api_reader *r, const char *name, const json_t *value)
{
    const json_t *type = json_is_array(value) && json_array_size(value) == 1
                             ? json_array_get(value, 0)
                             : json_object_get(value, "type");
    const char *text = json_string_value(type);
    if (text && strcmp(text, "text") == 0) {
        return SHOAL_OK;
    }
    return unsupported(r, name, "this edge answers in plain text only");
}

enum {
    C = SHOAL_API_COMPLETION,
    M = SHOAL_API_CHAT
};

static const struct {
    const char *name;
    int kinds;
    read_fn *read;
} fields[] = {
    {"model", C | M, ignore}, /* checked before all others */
    {"prompt", C, read_prompt},
    {"messages", M, read_messages},
    {"stream", C | M, read_stream},
    {"stream_options", C | M, read_stream_options},
    {"max_tokens", C | M, read_max_tokens},
    {"max_completion_tokens", M, read_max_tokens},
    {"temperature", C | M, read_sampling},
    {"top_p", C | M, read_sampling},
    {"min_p", C | M, read_sampling},
    {"top_k", C | M, read_top_k},
    {"repetition_penalty", C | M, read_sampling},
    {"presence_penalty", C | M, read_sampling},
    {"frequency_penalty", C | M, read_sampling},
    {"logit_bias", C | M, read_bias},
    {"seed", C | M, read_seed},
    {"stop", C | M, read_stop},
    {"shoal", C | M, read_shoal},
    {"user", C | M, ignore},
    {"metadata", C | M, ignore},
    {"service_tier", C | M, ignore},
    {"safety_identifier", C | M, ignore},
    {"prompt_cache_key", C | M, ignore},
    {"parallel_tool_calls", M, ignore}, /* allows several calls; there is one at most */
    {"n", C | M, only_one},
    {"best_of", C, only_one},
    {"echo", C, read_echo},
    {"return_tokens_as_token_ids", C, read_names},
    {"suffix", C, only_off},
    {"logprobs", C, read_logprobs},
    {"logprobs", M, read_chat_logprobs},
    {"top_logprobs", M, read_top_logprobs},
    {"store", M, only_off},
    {"tools", M, read_tools},
    {"functions", M, only_off},
    {"tool_choice", M, read_tool_choice},
    {"function_call", M, only_none},
    {"response_format", C | M, shoal_api_read_format},
    {"modalities", M, only_text},
};

static shoal_status read_field(shoal_api_reader *r, const char *name, const json_t *value)
{
    for (size_t i = 0; i < SHOAL_COUNT(fields); i++) {
        if ((fields[i].kinds & (int)r->request->kind) && strcmp(fields[i].name, name) == 0) {
            /* Clients send null for what was left out. */
            return json_is_null(value) ? SHOAL_OK : fields[i].read(r, name, value);
        }
    }
    return shoal_http_error_set(r->error, 400, name, "unknown_parameter",
                                "\"%.60s\" is not a field this edge knows for this route", name);
}

shoal_status shoal_api_read_fields(shoal_api_reader *reader, const json_t *root)
{
    json_t *object = (json_t *)(uintptr_t)root;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        SHOAL_TRY(read_field(reader, json_object_iter_key(it), json_object_iter_value(it)));
    }
    return SHOAL_OK;
}
