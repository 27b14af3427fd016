/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/eval.h"

shoal_status shoal_forge_quiz_add_field(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                        const forge_field *field, forge_split split,
                                        double exponent, uint64_t first, size_t n, shoal_err *err)
{
    bool census = split == FORGE_SPLIT_CATALOGUE;
    for (size_t i = 0; i < n; i++) {
        forge_example example;
        shoal_forge_field_example(field, split, exponent, first + i, &example);
        double weight = census ? shoal_forge_field_share(field, exponent, example.entry) : 1;
        SHOAL_TRY(shoal_forge_quiz_add(quiz, tokenizer, shoal_forge_kind_name(example.kind),
                                       example.prompt, example.answer, weight, err));
    }
    quiz->weighted = quiz->weighted || census;
    return SHOAL_OK;
}
