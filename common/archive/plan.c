/* SPDX-License-Identifier: Apache-2.0 */
#include "common/archive/archive_internal.h"

#include "common/kv/kv_move.h"
#include "common/tensor/gguf.h"

#include <stdio.h>

static shoal_status put_floats(shoal_gguf_writer *w, size_t group, const char *name, size_t n_rows,
                               size_t n, const float *data)
{
    char full[SHOAL_GGUF_NAME_MAX];
    uint64_t dims[2] = {n, n_rows};
    (void)snprintf(full, sizeof full, "group.%zu.%s", group, name);
    return shoal_gguf_put_tensor(w, full, SHOAL_TYPE_F32, dims, n_rows > 1 ? 2 : 1, data);
}

static shoal_status put_group(shoal_gguf_writer *w, const shoal_archive_plan *plan, size_t group)
{
    const shoal_archive_plan_group *g = &plan->groups[group];
    size_t n_channels = g->n_layers * shoal_archive_layer_channels(&plan->shape);
    char key[SHOAL_GGUF_NAME_MAX];
    (void)snprintf(key, sizeof key, "shoal.archive.group.%zu.tables", group);
    SHOAL_TRY(shoal_gguf_put_i32_array(w, key, g->table, g->n_kept));
    SHOAL_TRY(put_floats(w, group, "mean", 1, n_channels, g->mean));
    SHOAL_TRY(put_floats(w, group, "step", 1, g->n_kept, g->step));
    SHOAL_TRY(put_floats(w, group, "analysis", g->n_kept, n_channels, g->analysis));
    return put_floats(w, group, "synthesis", g->n_kept, n_channels, g->synthesis);
}

static shoal_status put_all(shoal_gguf_writer *w, const shoal_archive_plan *plan)
{
    char hex[SHOAL_HASH_HEX];
    char form[SHOAL_KV_FORM_BYTES];
    shoal_kv_shape shape = plan->shape;
    int32_t layers[SHOAL_ARCHIVE_GROUPS_MAX];
    const int32_t rotated[3] = {(int32_t)plan->n_rot, (int32_t)plan->rot_at, plan->halves};
    shape.type = SHOAL_KV_F16;
    shoal_kv_form(&shape, form);
    shoal_hash_hex(&plan->model, hex);
    for (size_t g = 0; g < plan->n_groups; g++) {
        layers[g] = (int32_t)plan->groups[g].n_layers;
    }
    SHOAL_TRY(shoal_gguf_put_str(w, "general.architecture", ARCHIVE_ARCHITECTURE));
    SHOAL_TRY(shoal_gguf_put_u32(w, "shoal.archive.version", ARCHIVE_VERSION));
    SHOAL_TRY(shoal_gguf_put_str(w, "shoal.archive.model", hex));
    SHOAL_TRY(shoal_gguf_put_str(w, "shoal.archive.form", form));
    SHOAL_TRY(shoal_gguf_put_f32(w, "shoal.archive.bits", plan->bits));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.archive.layers", layers, plan->n_groups));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.archive.rotated", rotated, 3));
    SHOAL_TRY(
        shoal_gguf_put_i32_array(w, "shoal.archive.ropes", plan->rope_of, plan->shape.n_layers));
    SHOAL_TRY(shoal_gguf_put_f32_array(w, "shoal.archive.freq", plan->freq,
                                       SHOAL_ARCHIVE_ROPES * plan->n_rot / 2));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.archive.frequencies", plan->freqs,
                                       plan->n_tables * SHOAL_ARCHIVE_SYMBOLS));
    SHOAL_TRY(shoal_gguf_put_f32_array(w, "shoal.archive.values", plan->values,
                                       plan->n_tables * SHOAL_ARCHIVE_SYMBOLS));
    for (size_t g = 0; g < plan->n_groups; g++) {
        SHOAL_TRY(put_group(w, plan, g));
    }
    return SHOAL_OK;
}

shoal_status shoal_archive_plan_write(const shoal_archive_plan *plan, shoal_buf *buf,
                                      shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    SHOAL_ASSERT(plan->n_groups <= SHOAL_ARCHIVE_GROUPS_MAX);
    SHOAL_TRY(shoal_gguf_writer_new(&w));
    SHOAL_TRY(put_all(w, plan));
    return shoal_gguf_writer_finish(w, buf, err);
}
