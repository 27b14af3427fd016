/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/cli/cli.h"

#include <stdlib.h>
#include <string.h>

enum {
    BYTES_MAX = 64 << 20,
    TOKENS_MAX = 1 << 20
};

bool cli_bytes_add(cli_bytes *bytes, const char *data, size_t n)
{
    if (n > BYTES_MAX || bytes->length > BYTES_MAX - n) {
        return false;
    }
    size_t needed = bytes->length + n + 1;
    if (needed > bytes->capacity) {
        size_t capacity = bytes->capacity < 1024 ? 1024 : bytes->capacity;
        while (capacity < needed) {
            capacity *= 2;
        }
        char *grown = realloc(bytes->data, capacity);
        if (!grown) {
            return false;
        }
        bytes->data = grown;
        bytes->capacity = capacity;
    }
    memcpy(bytes->data + bytes->length, data, n);
    bytes->length += n;
    bytes->data[bytes->length] = '\0';
    return true;
}

static bool add_token(cli_answer *answer, const shoal_client_token *token)
{
    if (answer->n_tokens == TOKENS_MAX) {
        return false;
    }
    if (answer->n_tokens == answer->tokens_capacity) {
        size_t capacity = answer->tokens_capacity ? 2 * answer->tokens_capacity : 64;
        cli_token *grown = realloc(answer->tokens, capacity * sizeof *grown);
        if (!grown) {
            return false;
        }
        answer->tokens = grown;
        answer->tokens_capacity = capacity;
    }
    cli_token copy = {.text_at = answer->token_text.length,
                      .n_text = token->n_text,
                      .id = token->id,
                      .tier = token->tier,
                      .confidence = token->confidence,
                      .round = token->round,
                      .unassisted = token->unassisted,
                      .ms = token->ms};
    if (!cli_bytes_add(&answer->token_text, token->text, token->n_text)) {
        return false;
    }
    answer->tokens[answer->n_tokens++] = copy;
    return true;
}

bool cli_answer_add(cli_answer *answer, const shoal_client_event *event)
{
    for (size_t i = 0; i < event->n_tokens; i++) {
        if (!add_token(answer, &event->tokens[i])) {
            return false;
        }
    }
    return cli_bytes_add(&answer->text, event->text, event->n_text);
}

void cli_answer_reset(cli_answer *answer)
{
    free(answer->text.data);
    free(answer->token_text.data);
    free(answer->tokens);
    memset(answer, 0, sizeof *answer);
}

void cli_json_string(FILE *out, const char *text, size_t n)
{
    (void)fputc('"', out);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            (void)fprintf(out, "\\%c", c);
        } else if (c < 0x20 || c == 0x7F) {
            (void)fprintf(out, "\\u%04x", c);
        } else {
            (void)fputc(c, out);
        }
    }
    (void)fputc('"', out);
}

static void print_named_string(FILE *out, const char *name, const char *text)
{
    (void)fprintf(out, "\"%s\":", name);
    cli_json_string(out, text, strlen(text));
}

static void print_tokens(const cli_answer *answer, FILE *out)
{
    (void)fputs(",\"tokens\":[", out);
    for (size_t i = 0; i < answer->n_tokens; i++) {
        const cli_token *t = &answer->tokens[i];
        (void)fprintf(out, "%s{\"id\":%d,\"text\":", i > 0 ? "," : "", t->id);
        cli_json_string(out, answer->token_text.data + t->text_at, t->n_text);
        (void)fprintf(out, ",\"tier\":\"%s\"", shoal_client_tier_name(t->tier));
        if (t->confidence >= 0.0) {
            (void)fprintf(out, ",\"confidence\":%.4g", t->confidence);
        }
        (void)fprintf(out, ",\"round\":%u", t->round);
        if (t->ms >= 0.0) {
            (void)fprintf(out, ",\"ms\":%.4g", t->ms);
        }
        if (t->unassisted != SHOAL_CLIENT_UNASSISTED_NOT) {
            (void)fprintf(out, ",\"unassisted\":\"%s\"",
                          shoal_client_unassisted_name(t->unassisted));
        }
        (void)fputc('}', out);
    }
    (void)fputc(']', out);
}

static void print_usage(const shoal_client_result *r, FILE *out)
{
    (void)fprintf(out,
                  ",\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,"
                  "\"tiers\":{\"exit\":%llu,\"edge\":%llu,\"cloud\":%llu},"
                  "\"unassisted\":%llu,\"drafted\":%llu,"
                  "\"accepted\":%llu,\"rounds\":%llu,\"bytes_up\":%llu,\"bytes_down\":%llu,"
                  "\"round_up_max\":%llu,\"round_down_max\":%llu",
                  (unsigned long long)r->n_prompt, (unsigned long long)r->n_generated,
                  (unsigned long long)r->n_by_tier[0], (unsigned long long)r->n_by_tier[1],
                  (unsigned long long)r->n_by_tier[2], (unsigned long long)r->n_unassisted,
                  (unsigned long long)r->n_drafted, (unsigned long long)r->n_accepted,
                  (unsigned long long)r->n_rounds, (unsigned long long)r->bytes_up,
                  (unsigned long long)r->bytes_down, (unsigned long long)r->round_up_max,
                  (unsigned long long)r->round_down_max);
    if (r->first_token_ms >= 0.0) {
        (void)fprintf(out, ",\"first_token_ms\":%.6g", r->first_token_ms);
    }
    if (r->tokens_per_s >= 0.0) {
        (void)fprintf(out, ",\"tokens_per_s\":%.6g", r->tokens_per_s);
    }
    (void)fputc('}', out);
}

void cli_answer_print_json(const cli_answer *answer, int code, FILE *out)
{
    static const char *const finishes[] = {"unknown", "stop", "length"};
    const shoal_client_result *r = &answer->result;
    (void)fputs("{\"text\":", out);
    cli_json_string(out, answer->text.data ? answer->text.data : "", answer->text.length);
    (void)fputc(',', out);
    print_named_string(out, "finish", finishes[r->finish >= 0 && r->finish <= 2 ? r->finish : 0]);
    (void)fputc(',', out);
    print_named_string(out, "id", r->id);
    (void)fputc(',', out);
    print_named_string(out, "model", r->model);
    print_tokens(answer, out);
    print_usage(r, out);
    if (code != SHOAL_CLIENT_OK) {
        (void)fputs(",\"error\":{", out);
        print_named_string(out, "code", shoal_client_code_text(code));
        (void)fputc(',', out);
        print_named_string(out, "message", answer->error.text);
        (void)fprintf(out, ",\"http_status\":%d}", answer->error.http_status);
    }
    (void)fputs("}\n", out);
}
