/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_tokenizer(true, data, size);
}
