/* SPDX-License-Identifier: Apache-2.0
 *
 * In place of eval_jsonl.c where there is no jansson (a cross build).
 */
#include "cloud/forge/eval.h"

shoal_status shoal_forge_quiz_add_jsonl(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                        const char *path, const char *split, size_t n_max,
                                        shoal_err *err)
{
    (void)quiz;
    (void)tokenizer;
    (void)split;
    (void)n_max;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "%s: this build reads no JSON (it has no jansson): ask the generator, as "
                         "field:dev",
                         path);
}
