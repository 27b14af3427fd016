/* SPDX-License-Identifier: Apache-2.0
 *
 * What an OpenAI-compatible engine answers, as far as we read it: chunks of a streamed completion,
 * scores of a prompt, the list of models, errors. The JSON is a stranger's: depth, size and memory
 * are bounded, every number is checked, fields that nobody knows are passed over. Pure, any thread.
 */
#ifndef SHOAL_UPSTREAM_REPLY_H
#define SHOAL_UPSTREAM_REPLY_H

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/tokenizer/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_REPLY_IDS_MAX = 1024,          /* ids of one chunk */
    SHOAL_REPLY_BYTES_MAX = 4 << 20,     /* of an answer that is not streamed */
    SHOAL_REPLY_JSON_BUDGET = 128 << 20, /* memory one answer may take while it is read */
    SHOAL_REPLY_NAME_MAX = 256
};

/* Makes JSON memory ours and bounded; once, before any thread reads a reply. */
void shoal_reply_init(void);

typedef enum shoal_reply_finish {
    SHOAL_REPLY_GOES_ON,
    SHOAL_REPLY_STOP,  /* an end token */
    SHOAL_REPLY_LENGTH /* max_tokens */
} shoal_reply_finish;

/* One chunk of a streamed completion, or a whole answer. */
typedef struct shoal_reply_chunk {
    shoal_buf text;
    bool has_ids; /* the engine told the ids of this text */
    int32_t ids[SHOAL_REPLY_IDS_MAX];
    float confidences[SHOAL_REPLY_IDS_MAX]; /* probability of each, 0: not told */
    size_t n_ids;
    shoal_reply_finish finish;
} shoal_reply_chunk;

void shoal_reply_chunk_fini(shoal_reply_chunk *chunk);
/* chunk is zeroed or was filled before. Ids are read from token_ids (vLLM), logprobs.tokens as
 * "token_id:N" (vLLM), logprobs.content[].id (llama-server) or shoal.tokens[].id (shoal-edge). A
 * chunk without choices (usage alone) is empty. SHOAL_E_PROTOCOL names what is wrong with it;
 * SHOAL_E_UNAVAILABLE: it is an error of the engine, whose words err has. */
shoal_status shoal_reply_chunk_read(const char *json, size_t n, size_t n_vocab,
                                    shoal_reply_chunk *chunk, shoal_err *err) SHOAL_MUST_CHECK;

/* How an engine tells the log-probabilities of a prompt. */
typedef enum shoal_reply_scores_kind {
    SHOAL_SCORES_NONE,
    SHOAL_SCORES_PROMPT, /* "prompt_logprobs": 1, of vLLM */
    SHOAL_SCORES_ECHO    /* "echo": true, "logprobs": 1, of OpenAI's completions */
} shoal_reply_scores_kind;

/* The likeliest token at a position of the prompt. */
typedef struct shoal_reply_score {
    bool same;        /* it is the prompt's own token there */
    int32_t id;       /* -1: the engine told a text that is no single token */
    float confidence; /* its probability */
} shoal_reply_score;

/* Reads an answer to a prompt of n_ids tokens, one token generated: the likeliest tokens at the
 * last n_scores positions of the prompt, then the generated one (in ret_scores[n_scores], never
 * `same`). ret_scores: [n_scores + 1]; n_scores below n_ids. The likeliest is the lowest id among
 * equals. */
shoal_status shoal_reply_scores_read(const char *json, size_t n, shoal_reply_scores_kind kind,
                                     const shoal_tokenizer *tokenizer, const int32_t *ids,
                                     size_t n_ids, size_t n_scores, shoal_reply_score *ret_scores,
                                     shoal_err *err) SHOAL_MUST_CHECK;

/* What GET /v1/models says of one model. */
typedef struct shoal_reply_model {
    char id[SHOAL_REPLY_NAME_MAX];
    char owner[64];   /* "vllm", "llamacpp", ..., "" */
    uint64_t n_ctx;   /* 0: not told */
    uint64_t n_vocab; /* 0: not told */
} shoal_reply_model;

/* The model named, or the first of the list when name is "". SHOAL_E_NOTFOUND names the first. */
shoal_status shoal_reply_model_read(const char *json, size_t n, const char *name,
                                    shoal_reply_model *ret_model, shoal_err *err) SHOAL_MUST_CHECK;

/* The words of an error answer, fit to be shown: at most 160 bytes, or "" when there are none. */
void shoal_reply_error_text(const char *json, size_t n, char *out, size_t n_out);

#endif
