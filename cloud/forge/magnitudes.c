/* SPDX-License-Identifier: Apache-2.0
 *
 * A bin is what magnitudes have in common when the last 17 bits of their float are cut off.
 */
#include "cloud/forge/magnitudes.h"

#include "common/base/mem.h"
#include "common/tensor/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    CUT = 17,
    BINS = 0x7F800000 >> CUT /* up to infinity */
};

typedef struct forge_magnitudes_input {
    uint64_t n;
    uint64_t *bins; /* (BINS) */
} forge_magnitudes_input;

typedef struct forge_magnitudes_layer {
    char name[SHOAL_GGUF_NAME_MAX + 1];
    size_t input;
} forge_magnitudes_layer;

void shoal_forge_magnitudes_fini(forge_magnitudes *m)
{
    for (size_t i = 0; i < m->n_inputs; i++) {
        shoal_free(m->inputs[i].bins);
    }
    shoal_free(m->inputs);
    shoal_free(m->layers);
    *m = (forge_magnitudes){0};
}

static shoal_status add_input(forge_magnitudes *m)
{
    forge_magnitudes_input *grown = shoal_realloc(m->inputs, m->n_inputs + 1, sizeof *grown);
    if (!grown) {
        return SHOAL_E_NOMEM;
    }
    m->inputs = grown;
    grown[m->n_inputs] = (forge_magnitudes_input){.bins = shoal_calloc(BINS, sizeof(uint64_t))};
    return grown[m->n_inputs++].bins ? SHOAL_OK : SHOAL_E_NOMEM;
}

/* The layer of a name; one that is new reads what the layer before it did, or an input of its own.
 */
static shoal_status find(forge_magnitudes *m, const char *name, bool again,
                         forge_magnitudes_layer **ret_layer)
{
    for (size_t i = 0; i < m->n_layers; i++) {
        if (strcmp(m->layers[i].name, name) == 0) {
            *ret_layer = &m->layers[i];
            return SHOAL_OK;
        }
    }
    forge_magnitudes_layer *grown = shoal_realloc(m->layers, m->n_layers + 1, sizeof *grown);
    if (!grown) {
        return SHOAL_E_NOMEM;
    }
    m->layers = grown;
    if (!again || m->n_inputs == 0) {
        SHOAL_TRY(add_input(m));
    }
    forge_magnitudes_layer *layer = &grown[m->n_layers++];
    (void)snprintf(layer->name, sizeof layer->name, "%s", name);
    layer->input = m->n_inputs - 1;
    *ret_layer = layer;
    return SHOAL_OK;
}

shoal_status shoal_forge_magnitudes_add(forge_magnitudes *m, const char *name, bool again, size_t k,
                                        size_t n, const float *x, size_t x_row)
{
    forge_magnitudes_layer *layer = NULL;
    SHOAL_TRY(find(m, name, again, &layer));
    forge_magnitudes_input *input = &m->inputs[layer->input];
    for (size_t i = 0; !again && i < n * k; i++) {
        float magnitude = fabsf(x[i / k * x_row + i % k]);
        if (!isfinite(magnitude)) {
            return SHOAL_E_INVALID;
        }
        uint32_t bits = 0;
        memcpy(&bits, &magnitude, sizeof bits);
        input->bins[bits >> CUT]++;
        input->n++;
    }
    return SHOAL_OK;
}

size_t shoal_forge_magnitudes_n(const forge_magnitudes *m)
{
    return m->n_layers;
}

const char *shoal_forge_magnitudes_name(const forge_magnitudes *m, size_t layer)
{
    return m->layers[layer].name;
}

float shoal_forge_magnitudes_threshold(const forge_magnitudes *m, size_t layer, double share,
                                       double *ret_share)
{
    const forge_magnitudes_input *input = &m->inputs[m->layers[layer].input];
    double best = 0;
    uint32_t edge = 0;
    uint64_t below = 0;
    for (uint32_t bin = 0; bin + 1 < BINS && input->n > 0; bin++) {
        below += input->bins[bin];
        double is = (double)below / (double)input->n;
        if (input->bins[bin] > 0 && fabs(is - share) < fabs(best - share)) {
            best = is;
            edge = bin + 1;
        }
    }
    float threshold = 0;
    edge <<= CUT;
    memcpy(&threshold, &edge, sizeof threshold);
    *ret_share = best;
    return threshold;
}
