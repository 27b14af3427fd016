/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as texts to learn a vocabulary from. What is learnt must load, and the texts must
 * encode to exactly as many tokens as learning ended with and come back from them.
 */
#include "common/base/mem.h"
#include "common/tokenizer/tokenizer.h"
#include "common/tokenizer/train.h"

#include <string.h>

enum {
    HEAD = 6,
    TEXT_MAX = 1 << 16
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static shoal_tokenizer *tokenizer_of(const shoal_bpe_trainer *trainer)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    shoal_tokenizer *tokenizer = NULL;
    SHOAL_ASSERT(shoal_gguf_writer_new(&writer) == SHOAL_OK);
    SHOAL_ASSERT(shoal_bpe_trainer_write(trainer, writer, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_writer_finish(writer, &file, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_tokenizer_new(gguf, &tokenizer, NULL) == SHOAL_OK);
    return tokenizer;
}

/* Tokens of a text; every id is plain, so none is a control token. */
static size_t n_tokens(const shoal_tokenizer *tokenizer, shoal_str text)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    shoal_encode_flags flags = {.add_bos = false, .parse_special = false};
    SHOAL_ASSERT(shoal_tokenizer_encode(tokenizer, text.data, text.length, flags, &ids, &n, NULL) ==
                 SHOAL_OK);
    for (size_t i = 0; i < n; i++) {
        SHOAL_ASSERT(ids[i] >= SHOAL_BPE_CONTROLS &&
                     (size_t)ids[i] < shoal_tokenizer_n_vocab(tokenizer));
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD || size > TEXT_MAX) {
        return 0;
    }
    shoal_bpe_settings settings = {.n_vocab = SHOAL_BPE_VOCAB_MIN + (size_t)data[0] * 4,
                                   .length_max = 1 + (size_t)data[1] % 40,
                                   .count_min = 1 + (uint64_t)data[2] % 8};
    uint64_t weights[2] = {1 + (uint64_t)data[3] % 4, 1 + (uint64_t)data[4] % 4};
    size_t n = size - HEAD;
    size_t cut = n * data[5] / 255;
    const char *bytes = (const char *)data + HEAD;
    shoal_str texts[2] = {{.data = bytes, .length = cut}, {.data = bytes + cut, .length = n - cut}};
    SHOAL_CLEANUP(shoal_bpe_trainer_freep) shoal_bpe_trainer *trainer = NULL;
    SHOAL_ASSERT(shoal_bpe_trainer_new(&settings, &trainer, NULL) == SHOAL_OK);
    for (size_t i = 0; i < 2; i++) {
        SHOAL_ASSERT(shoal_bpe_trainer_add(trainer, texts[i], weights[i], NULL) == SHOAL_OK);
    }
    SHOAL_ASSERT(shoal_bpe_trainer_learn(trainer, NULL) == SHOAL_OK);
    shoal_bpe_stats stats = shoal_bpe_trainer_stats(trainer);
    SHOAL_CLEANUP(shoal_tokenizer_freep) shoal_tokenizer *tokenizer = tokenizer_of(trainer);
    SHOAL_ASSERT(stats.n_vocab == shoal_tokenizer_n_vocab(tokenizer));
    SHOAL_ASSERT(stats.n_vocab <= settings.n_vocab);
    SHOAL_ASSERT(stats.n_bytes == weights[0] * texts[0].length + weights[1] * texts[1].length);
    SHOAL_ASSERT(stats.n_tokens == weights[0] * n_tokens(tokenizer, texts[0]) +
                                       weights[1] * n_tokens(tokenizer, texts[1]));
    return 0;
}
