/* SPDX-License-Identifier: Apache-2.0
 *
 * Exit heads through convert. A head is a norm before the shared output matrix, so a model cut
 * after an exit's layers with that norm as its output norm answers as the exit did, bit for bit.
 * Thresholds were fitted to the weights of the file they are in: other weights go without.
 */
#include "cloud/forge/convert.h"

#include "common/base/mem.h"

#include <string.h>

static bool starts_with(shoal_str key, const char *prefix)
{
    size_t n = strlen(prefix);
    return key.length >= n && memcmp(key.data, prefix, n) == 0;
}

/* Sound exits of the file: the model they belong to was checked, but by other eyes. */
static shoal_status read_exits(const conversion *c, size_t *ret_n, size_t *ret_dim, shoal_err *err)
{
    shoal_gguf_kind layers = SHOAL_GGUF_I32;
    shoal_gguf_kind norm = SHOAL_GGUF_F32;
    size_t n = 0;
    size_t n_norm = 0;
    shoal_status status = shoal_gguf_get_array(c->gguf, SHOAL_EXIT_LAYERS_KEY, &layers, &n, NULL);
    if (status == SHOAL_E_NOTFOUND) {
        *ret_n = 0;
        return SHOAL_OK;
    }
    const shoal_gguf_tensor *out = shoal_gguf_find_tensor(c->gguf, "output_norm.weight");
    if (status != SHOAL_OK || layers != SHOAL_GGUF_I32 || n > SHOAL_MODEL_EXITS_MAX || !out ||
        shoal_gguf_get_array(c->gguf, SHOAL_EXIT_NORM_KEY, &norm, &n_norm, NULL) != SHOAL_OK ||
        norm != SHOAL_GGUF_F32 || n_norm != n * out->dims[0]) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: at most %d i32 are expected, and %s with as many f32 for each as "
                             "the output norm has",
                             SHOAL_EXIT_LAYERS_KEY, (int)SHOAL_MODEL_EXITS_MAX,
                             SHOAL_EXIT_NORM_KEY);
    }
    *ret_n = n;
    *ret_dim = (size_t)out->dims[0];
    return SHOAL_OK;
}

static shoal_status read_norms(conversion *c, size_t n, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) double *wide = shoal_calloc(n, sizeof *wide);
    c->norms = shoal_calloc_aligned(n, sizeof *c->norms);
    if (!wide || !c->norms) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the norms of exits");
    }
    shoal_gguf_array_f64s(c->gguf, SHOAL_EXIT_NORM_KEY, 0, n, wide);
    for (size_t i = 0; i < n; i++) {
        c->norms[i] = (float)wide[i];
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_exits_plan(conversion *c, shoal_err *err)
{
    size_t n = 0;
    size_t dim = 0;
    SHOAL_TRY(read_exits(c, &n, &dim, err));
    if (n == 0 || c->n_layers == 0) {
        return SHOAL_OK;
    }
    SHOAL_TRY(read_norms(c, n * dim, err));
    for (size_t i = 0; i < n; i++) {
        int64_t layers = shoal_gguf_array_i64(c->gguf, SHOAL_EXIT_LAYERS_KEY, i);
        if (layers < (int64_t)c->n_layers) {
            c->n_exits = i + 1;
        } else if (layers == (int64_t)c->n_layers) {
            c->exit_norm = (shoal_gguf_tensor){.type = SHOAL_TYPE_F32,
                                               .n_dims = 1,
                                               .dims = {dim, 1, 1, 1},
                                               .data = (const uint8_t *)(c->norms + i * dim),
                                               .size_bytes = dim * sizeof *c->norms};
        }
    }
    return SHOAL_OK;
}

bool shoal_forge_exits_drop(const conversion *c, shoal_str key)
{
    static const char *const heads[] = {SHOAL_EXIT_LAYERS_KEY, SHOAL_EXIT_NORM_KEY};
    static const char *const fitted[] = {"shoal.exit.policy.", "shoal.exit.calibration.",
                                         "shoal.escalate."};
    for (size_t i = 0; c->n_layers > 0 && i < SHOAL_COUNT(heads); i++) {
        if (key.length == strlen(heads[i]) && starts_with(key, heads[i])) {
            return true;
        }
    }
    for (size_t i = 0; (c->n_layers > 0 || c->n_converted > 0) && i < SHOAL_COUNT(fitted); i++) {
        if (starts_with(key, fitted[i])) {
            return true;
        }
    }
    return false;
}

shoal_status shoal_forge_exits_put(conversion *c)
{
    int32_t layers[SHOAL_MODEL_EXITS_MAX];
    size_t n = c->n_exits;
    if (n == 0) {
        return SHOAL_OK;
    }
    for (size_t i = 0; i < n; i++) {
        layers[i] = (int32_t)shoal_gguf_array_i64(c->gguf, SHOAL_EXIT_LAYERS_KEY, i);
    }
    const shoal_gguf_tensor *out = shoal_gguf_find_tensor(c->gguf, "output_norm.weight");
    SHOAL_TRY(shoal_gguf_put_i32_array(c->writer, SHOAL_EXIT_LAYERS_KEY, layers, n));
    return shoal_gguf_put_f32_array(c->writer, SHOAL_EXIT_NORM_KEY, c->norms, n * out->dims[0]);
}
