/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/forge.h"

#include "common/base/mem.h"

#include <string.h>

shoal_status shoal_forge_encode_example(const shoal_tokenizer *tokenizer, const char *prompt,
                                        const char *answer, int32_t **ret_ids, size_t *ret_n,
                                        size_t *ret_n_prompt, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *question = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *reply = NULL;
    size_t n_question = 0;
    size_t n_reply = 0;
    const shoal_chat_message message = {.role = "user", .content = prompt};
    SHOAL_TRY(shoal_chat_encode(tokenizer, &message, 1, &question, &n_question, err));
    SHOAL_TRY(shoal_tokenizer_encode(tokenizer, answer, strlen(answer), (shoal_encode_flags){0},
                                     &reply, &n_reply, err));
    int32_t eos = shoal_tokenizer_eos(tokenizer);
    size_t n = n_question + n_reply + (eos >= 0 ? 1 : 0);
    int32_t *ids = shoal_calloc(n, sizeof *ids);
    if (!ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu tokens", n);
    }
    if (n_question) {
        memcpy(ids, question, n_question * sizeof *ids);
    }
    if (n_reply) {
        memcpy(ids + n_question, reply, n_reply * sizeof *ids);
    }
    if (eos >= 0) {
        ids[n - 1] = eos;
    }
    *ret_ids = ids;
    *ret_n = n;
    *ret_n_prompt = n_question;
    return SHOAL_OK;
}
