/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to cloud/upstream: pieces of reading an answer's JSON.
 */
#ifndef SHOAL_UPSTREAM_REPLY_INTERNAL_H
#define SHOAL_UPSTREAM_REPLY_INTERNAL_H

#include "cloud/upstream/reply.h"

#include <jansson.h>

/* Within the budget; NULL sets err. */
json_t *shoal_reply_load(const char *text, size_t n, shoal_err *err);
void shoal_reply_free_json(json_t **json);

/* Digits alone, below n_vocab; the same behind "token_id:". */
bool shoal_reply_parse_id(const char *text, size_t n_vocab, int32_t *ret_id);
bool shoal_reply_parse_prefixed_id(const char *text, size_t n_vocab, int32_t *ret_id);

/* exp of a logprob, 0 for one above 0 or NaN. */
float shoal_reply_probability(double logprob);

/* What may be shown to a person, cut at a whole character. */
void shoal_reply_copy_clean(char *out, size_t n_out, const char *text);

#endif
