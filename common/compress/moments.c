/* SPDX-License-Identifier: Apache-2.0 */
#include "common/compress/moments_internal.h"

#include "common/base/mem.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

/* --- life ------------------------------------------------------------------------------------ */

shoal_status shoal_moments_new(const shoal_hash *model, uint64_t limit_bytes,
                               shoal_moments **ret_moments)
{
    shoal_moments *m = shoal_calloc(1, sizeof *m);
    if (!m) {
        return SHOAL_E_NOMEM;
    }
    openblas_set_num_threads(1); /* the bits of a sum do not depend on the machine's load */
    m->model = *model;
    m->limit_bytes = limit_bytes;
    m->last = SIZE_MAX;
    *ret_moments = m;
    return SHOAL_OK;
}

void shoal_moments_free(shoal_moments *m)
{
    if (!m) {
        return;
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        shoal_free(m->inputs[i].own);
        shoal_free(m->inputs[i].own_max);
    }
    shoal_free(m->inputs);
    shoal_free(m->layers);
    shoal_gguf_close(m->gguf);
    shoal_map_close(&m->map);
    shoal_free(m);
}

size_t shoal_moments_n_layers(const shoal_moments *m)
{
    return m->n_layers;
}

const shoal_moments_layer *shoal_moments_layer_at(const shoal_moments *m, size_t i)
{
    SHOAL_ASSERT(i < m->n_layers);
    return &m->layers[i];
}

size_t shoal_moments_n_inputs(const shoal_moments *m)
{
    return m->n_inputs;
}

shoal_moments_input shoal_moments_input_at(const shoal_moments *m, size_t i)
{
    SHOAL_ASSERT(i < m->n_inputs);
    const moments_input *in = &m->inputs[i];
    return (shoal_moments_input){.k = in->k, .n = in->n, .moment = in->moment, .max = in->max};
}

/* --- collecting ------------------------------------------------------------------------------ */

shoal_status shoal_moments_grow(shoal_moments *m)
{
    if (m->n_layers == m->n_layers_max) {
        size_t n = SHOAL_MAX(2 * m->n_layers_max, (size_t)64);
        shoal_moments_layer *layers = shoal_realloc(m->layers, n, sizeof *layers);
        if (!layers) {
            return SHOAL_E_NOMEM;
        }
        m->layers = layers;
        m->n_layers_max = n;
    }
    if (m->n_inputs == m->n_inputs_max) {
        size_t n = SHOAL_MAX(2 * m->n_inputs_max, (size_t)64);
        moments_input *inputs = shoal_realloc(m->inputs, n, sizeof *inputs);
        if (!inputs) {
            return SHOAL_E_NOMEM;
        }
        m->inputs = inputs;
        m->n_inputs_max = n;
    }
    return SHOAL_OK;
}

/* SIZE_MAX: not there. Passes ask in the order of the pass before, so the next is looked at first.
 */
static size_t find(const shoal_moments *m, const char *name, size_t row)
{
    size_t begin = m->last == SIZE_MAX ? 0 : m->last + 1;
    for (size_t i = 0; i < m->n_layers; i++) {
        size_t at = (begin + i) % m->n_layers;
        if (m->layers[at].row == row && strcmp(m->layers[at].name, name) == 0) {
            return at;
        }
    }
    return SIZE_MAX;
}

static shoal_status new_input(shoal_moments *m, const char *name, size_t k, shoal_err *err)
{
    uint64_t bytes = ((uint64_t)k * k + k) * sizeof(float);
    if (bytes > m->limit_bytes - m->n_bytes) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: moments of %zu elements take %llu MiB, and %llu of %llu MiB are "
                             "used: allow more",
                             name, k, (unsigned long long)(bytes >> 20),
                             (unsigned long long)(m->n_bytes >> 20),
                             (unsigned long long)(m->limit_bytes >> 20));
    }
    float *moment = shoal_calloc_aligned(k * k, sizeof *moment);
    float *max = shoal_calloc(k, sizeof *max);
    if (!moment || !max) {
        shoal_free(moment);
        shoal_free(max);
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory for moments of %zu elements", name,
                             k);
    }
    m->n_bytes += bytes;
    m->inputs[m->n_inputs++] =
        (moments_input){.k = k, .own = moment, .own_max = max, .moment = moment, .max = max};
    return SHOAL_OK;
}

static shoal_status new_layer(shoal_moments *m, const char *name, size_t row, size_t n_rows,
                              bool again, size_t k, size_t *ret_layer, shoal_err *err)
{
    if (m->n_layers >= SHOAL_MOMENTS_LAYERS_MAX || k < 1 || k > SHOAL_MOMENTS_WIDTH_MAX ||
        strlen(name) >= SHOAL_GGUF_NAME_MAX) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%s: moments are kept for %d layers of 1 to %d elements", name,
                             SHOAL_MOMENTS_LAYERS_MAX, SHOAL_MOMENTS_WIDTH_MAX);
    }
    if (shoal_moments_grow(m) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a list of layers");
    }
    size_t input = again ? m->layers[m->last].input : m->n_inputs;
    if (!again) {
        SHOAL_TRY(new_input(m, name, k, err));
    }
    shoal_moments_layer *layer = &m->layers[m->n_layers];
    memset(layer, 0, sizeof *layer);
    memcpy(layer->name, name, strlen(name));
    layer->row = row;
    layer->n_rows = n_rows;
    layer->input = input;
    *ret_layer = m->n_layers++;
    return SHOAL_OK;
}

shoal_status shoal_moments_add(shoal_moments *m, const char *name, size_t row, size_t n_rows,
                               bool again, size_t k, size_t n, const float *x, size_t stride,
                               shoal_err *err)
{
    SHOAL_ASSERT(!m->finished && !m->gguf && stride >= k && (!again || m->last < m->n_layers));
    size_t layer = m->n_layers > 0 ? find(m, name, row) : SIZE_MAX;
    if (layer == SIZE_MAX) {
        SHOAL_TRY(new_layer(m, name, row, n_rows, again, k, &layer, err));
    }
    m->last = layer;
    moments_input *in = &m->inputs[m->layers[layer].input];
    SHOAL_ASSERT(in->k == k && m->layers[layer].n_rows == n_rows);
    if (again || n == 0) {
        return SHOAL_OK;
    }
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (blasint)k, (blasint)n, 1, x,
                (blasint)stride, 1, in->own, (blasint)k);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < k; j++) {
            in->own_max[j] = fmaxf(in->own_max[j], fabsf(x[i * stride + j]));
        }
    }
    in->n += n;
    return SHOAL_OK;
}

/* --- cutting --------------------------------------------------------------------------------- */

static shoal_status cut_input(moments_input *in, const size_t *cols, size_t n)
{
    float *moment = shoal_calloc_aligned(n * n, sizeof *moment);
    float *max = shoal_calloc(n, sizeof *max);
    if (!moment || !max) {
        shoal_free(moment);
        shoal_free(max);
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        SHOAL_ASSERT(cols[i] < in->k && (i == 0 || cols[i] > cols[i - 1]));
        max[i] = in->max[cols[i]];
        for (size_t j = 0; j < n; j++) {
            moment[i * n + j] = in->moment[cols[i] * in->k + cols[j]];
        }
    }
    shoal_free(in->own);
    shoal_free(in->own_max);
    *in = (moments_input){
        .k = n, .n = in->n, .own = moment, .own_max = max, .moment = moment, .max = max};
    return SHOAL_OK;
}

shoal_status shoal_moments_cut(shoal_moments *m, size_t layer_i, size_t row, size_t n_rows,
                               const size_t *cols, size_t n_cols)
{
    SHOAL_ASSERT(layer_i < m->n_layers && (!cols || n_cols > 0));
    shoal_moments_layer *layer = &m->layers[layer_i];
    if (cols) {
        SHOAL_TRY(cut_input(&m->inputs[layer->input], cols, n_cols));
    }
    layer->row = row;
    layer->n_rows = n_rows;
    return SHOAL_OK;
}
