/* SPDX-License-Identifier: Apache-2.0
 *
 * A seeded random llama-like model as a GGUF in memory, for tests that need a real engine and no
 * file. The vocabulary (SPM, 300 tokens) does not depend on the seed, so that two seeds make an
 * edge and a cloud model that share a tokenizer. Pure, any thread.
 */
#ifndef SHOAL_TESTS_SUPPORT_TINY_MODEL_H
#define SHOAL_TESTS_SUPPORT_TINY_MODEL_H

#include "common/base/buf.h"
#include "common/tensor/type.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SHOAL_TINY_VOCAB = 300, /* <unk> <s> </s>, 256 bytes, space, a..z, 14 pieces */
    SHOAL_TINY_CTX = 1024,
    SHOAL_TINY_DIM = 64,
    SHOAL_TINY_LAYERS = 2,
    SHOAL_TINY_HEADS = 4,
    SHOAL_TINY_KV_HEADS = 2,
    SHOAL_TINY_FFN = 128,
    SHOAL_TINY_DIM_WIDE = 256, /* also its feed-forward: rows that every type has blocks for */
    SHOAL_TINY_BOS = 1,
    SHOAL_TINY_EOS = 2,
    SHOAL_TINY_FIRST_BYTE = 3 /* id of byte 0 */
};

/* What differs from the defaults below; zeroed fields mean the default. */
typedef struct shoal_tiny_settings {
    uint64_t seed;
    shoal_type type;      /* of the matrices: F32, F16, BF16, Q8_0 or Q4_0; norms stay F32 */
    uint32_t n_layers;    /* 0: SHOAL_TINY_LAYERS, at most 16 */
    bool wide;            /* SHOAL_TINY_DIM_WIDE instead of SHOAL_TINY_DIM and SHOAL_TINY_FFN */
    uint64_t noise_seed;  /* 0: none; else every matrix gets noise from this seed on top */
    float noise;          /* standard deviation of it, relative to the matrix's own */
    const char *template; /* tokenizer.chat_template, NULL: none */
    uint32_t n_exits;     /* exit heads with random norms, at most 8; they change nothing else */
    int32_t exits[8];     /* layers below each, written as they are */
} shoal_tiny_settings;

/* Appends a whole GGUF file to buf. */
shoal_status shoal_tiny_model_gguf(uint64_t seed, shoal_type type, shoal_buf *buf) SHOAL_MUST_CHECK;
/* The same with more choice: a model of the same seed with some noise is a plausible draft model
 * for the one without. SHOAL_E_INVALID for a type or layer count outside the list. */
shoal_status shoal_tiny_model_build(const shoal_tiny_settings *settings,
                                    shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
