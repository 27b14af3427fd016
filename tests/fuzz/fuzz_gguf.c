/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a GGUF; what opens is walked, written anew, and its small matrices become weights
 * whose rows must say what the file says. The same bytes as a packed file.
 */
#include "gguf_walk.h"

#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <string.h>

enum {
    MATRIX_BYTES_MAX = 1 << 14,
    ROWS_MAX = 64,
    K_MAX = 2048
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_rows(const shoal_weight *weight, const shoal_gguf_tensor *t)
{
    size_t k = shoal_weight_k(weight);
    size_t row_bytes = (size_t)(t->size_bytes / t->dims[1]);
    SHOAL_CLEANUP(shoal_free_cleanup) float *want = shoal_calloc(k, sizeof(*want));
    SHOAL_CLEANUP(shoal_free_cleanup) float *got = shoal_calloc(k, sizeof(*got));
    SHOAL_ASSERT(want != NULL && got != NULL);
    for (size_t r = 0; r < SHOAL_MIN(shoal_weight_n_rows(weight), (size_t)ROWS_MAX); r++) {
        shoal_weight_decode(t->type, t->data + r * row_bytes, k, want);
        shoal_weight_row(weight, r, got);
        SHOAL_ASSERT(memcmp(want, got, k * sizeof(*want)) == 0);
    }
}

static void check_weights(const uint8_t *data, size_t size)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    if (shoal_gguf_open(data, size, &gguf, NULL) != SHOAL_OK) {
        return;
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_err err = SHOAL_ERR_INIT;
        shoal_weight *weight = NULL;
        if (t->size_bytes > MATRIX_BYTES_MAX) {
            continue;
        }
        if (shoal_weight_new(t, &weight, &err) == SHOAL_OK) {
            check_rows(weight, t);
            shoal_weight_free(weight);
        } else {
            SHOAL_ASSERT(err.text[0] != '\0');
        }
    }
}

/* A packed file that opens has panels of the sizes its shapes ask for: every row can be read. One
 * that is sound and verified gives the rows that its own blocks give. */
static void check_packed(const uint8_t *data, size_t size)
{
    static shoal_pool *pool; /* one thread */
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *copy = shoal_calloc_aligned(size, 1);
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_ASSERT(copy && (pool || shoal_pool_new(1, &pool) == SHOAL_OK));
    memcpy(copy, data, size);
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_pack_open(copy, size, &gguf, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    if (!shoal_pack_is_packed(gguf)) {
        return;
    }
    bool sound = shoal_pack_check(gguf, pool, NULL) == SHOAL_OK;
    bool verified = sound && shoal_pack_verify(gguf, pool, NULL) == SHOAL_OK;
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        shoal_weight *weight = NULL;
        size_t n_rows = (size_t)(t->dims[1] * t->dims[2]);
        if (!t->packed || t->dims[0] > K_MAX ||
            shoal_weight_load(gguf, t, 0, n_rows, pool, &weight, NULL) != SHOAL_OK) {
            continue;
        }
        float row[K_MAX];
        for (size_t r = 0; r < n_rows; r++) {
            shoal_weight_row(weight, r, row);
        }
        shoal_weight_free(weight);
        SHOAL_ASSERT(!verified ||
                     shoal_weight_load(gguf, t, 1, n_rows - 1, pool, &weight, NULL) == SHOAL_OK);
        if (verified) {
            shoal_weight_free(weight);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (gguf_walk(data, size, &err) == SHOAL_OK) {
        check_weights(data, size);
        check_packed(data, size);
    }
    return 0;
}
