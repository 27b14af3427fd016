/* SPDX-License-Identifier: Apache-2.0
 *
 * System prompts that are everybody's, from files that the operator names in prefix.public. Read at
 * start; errors name the key, the file and the remedy. Any thread.
 */
#ifndef SHOAL_CLOUD_SERVER_PUBLIC_H
#define SHOAL_CLOUD_SERVER_PUBLIC_H

#include "common/base/macros.h"
#include "common/tokenizer/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

enum {
    SHOAL_PUBLIC_MAX = 1 << 20,  /* bytes of a public text */
    SHOAL_PUBLIC_FILES_MAX = 256 /* in one list */
};

/* What a file of the list is read for; stops at the first failure. ids are borrowed. */
typedef struct shoal_public_sink {
    shoal_status (*take)(void *ctx, const int32_t *ids, size_t n_ids);
    void *ctx;
} shoal_public_sink;

/* The tokens that every chat with this system prompt begins with, by the model's template: what two
 * chats with it have in common whose users say different things. ids is for shoal_free. */
shoal_status shoal_public_encode(const shoal_tokenizer *tokenizer, const char *text,
                                 int32_t **ret_ids, size_t *ret_n, shoal_err *err) SHOAL_MUST_CHECK;
/* Gives sink the tokens of each file of the list, paths divided by ';'. SHOAL_E_INVALID: a text of
 * fewer than n_min tokens. */
shoal_status shoal_public_read(const shoal_tokenizer *tokenizer, const char *paths, size_t n_min,
                               const shoal_public_sink *sink, shoal_err *err) SHOAL_MUST_CHECK;

#endif
