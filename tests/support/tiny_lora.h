/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded random LoRA adapters for a model in memory, and the model they are merged into by a
 * second, plain implementation in double. Pure, any thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_LORA_H
#define SHOAL_TESTS_SUPPORT_TINY_LORA_H

#include "common/base/buf.h"
#include "common/tensor/gguf.h"

#include <stdint.h>

typedef struct shoal_tiny_lora {
    uint64_t seed;
    uint32_t rank;
    float alpha;
    shoal_type type; /* of matrices whose rows are whole blocks of it, else F32 */
} shoal_tiny_lora;

/* Appends an adapter of every linear layer of base that can be adapted as it runs. */
shoal_status shoal_tiny_lora_gguf(const shoal_gguf *base, const shoal_tiny_lora *settings,
                                  shoal_buf *buf) SHOAL_MUST_CHECK;
/* Appends base with an F32 adapter added to its tensors, which must be F32 as well. */
shoal_status shoal_tiny_lora_merge(const shoal_gguf *base, const shoal_gguf *adapter,
                                   double strength, shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
