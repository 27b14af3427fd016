/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a GGUF; what opens is walked, written anew, and its small matrices become weights
 * whose rows must say what the file says.
 */
#include "gguf_walk.h"

#include "common/base/mem.h"
#include "common/weight/weight.h"

#include <string.h>

enum {
    MATRIX_BYTES_MAX = 1 << 14,
    ROWS_MAX = 64
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    if (gguf_walk(data, size, &err) == SHOAL_OK) {
        check_weights(data, size);
    }
    return 0;
}
