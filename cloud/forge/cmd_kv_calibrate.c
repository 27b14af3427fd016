/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes the basis with which a model's KV is archived (common/archive), from what the model
 * remembers of a text like those it will see.
 */
#include "cloud/forge/kv_fit.h"

#include "common/archive/archive.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>

enum {
    ROWS = 2 * SHOAL_KV_BLOCK,
    CHANNELS_BEST = 512, /* of a group: more pack tighter, and are slower */
    TOKENS_DEFAULT = 16384
};

#define AT(field) offsetof(forge_args, kv_calibrate.field)

static const forge_option options[] = {
    {0, "bits", 0, FORGE_OPTION_REAL, AT(bits), 0.05, 8, "B",
     "bits of an element of K and V (default 1.5)"},
    {0, "group", 0, FORGE_OPTION_INT, AT(group), 1, 512, "N",
     "layers coded together (default: as many as make about 512 channels)"},
    {0, "tokens", 0, FORGE_OPTION_INT, AT(tokens), 64, 1 << 20, "N",
     "tokens of the text that are read (default 16384)"},
    {0, "ids", 0, FORGE_OPTION_FLAG, AT(ids), 0, 0, NULL,
     "the file has token ids, as tokenize prints them, instead of text"},
    {0, "alike", 0, FORGE_OPTION_FLAG, AT(alike), 0, 0, NULL,
     "errors of all layers cost the same: sooner done, where nobody judges the answers"},
};

const forge_own shoal_forge_kv_calibrate_own = {
    .run = shoal_forge_kv_calibrate,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2, .kv_calibrate = {.bits = 1.5, .tokens = TOKENS_DEFAULT}},
};

/* All of the plan that does not depend on the text. */
static shoal_status describe(const forge_args *args, const shoal_model *model,
                             shoal_archive_plan *plan)
{
    const shoal_hparams *hp = &model->hp;
    size_t pairs = hp->rope_dim / 2;
    bool latent = hp->mla.rank > 0 && !hp->mla.expanded;
    plan->model = model->hash;
    plan->shape = shoal_model_kv_shape(hp, SHOAL_KV_F16);
    plan->n_rot = hp->rope_dim;
    plan->rot_at = latent ? hp->mla.rank : 0;
    plan->halves = hp->row->flags & SHOAL_ARCH_ROPE_HALVES;
    plan->bits = (float)args->kv_calibrate.bits;
    size_t per_layer = shoal_archive_layer_channels(&plan->shape);
    size_t best = SHOAL_MAX(CHANNELS_BEST / per_layer, (size_t)1);
    size_t together = args->kv_calibrate.group ? (size_t)args->kv_calibrate.group : best;
    together = SHOAL_MIN(together, hp->n_layers);
    plan->n_groups = (hp->n_layers + together - 1) / together;
    plan->groups = shoal_calloc(plan->n_groups, sizeof *plan->groups);
    plan->freq = shoal_calloc(SHOAL_ARCHIVE_ROPES * pairs, sizeof *plan->freq);
    plan->rope_of = shoal_calloc(hp->n_layers, sizeof *plan->rope_of);
    if (!plan->groups || !plan->freq || !plan->rope_of) {
        return SHOAL_E_NOMEM;
    }
    for (size_t g = 0; g < plan->n_groups; g++) {
        plan->groups[g].n_layers = SHOAL_MIN(together, hp->n_layers - g * together);
    }
    for (size_t i = 0; i < SHOAL_ARCHIVE_ROPES * pairs; i++) {
        const double *freq = model->rope[i / pairs].freq;
        plan->freq[i] = freq ? (float)freq[i % pairs] : 0;
    }
    for (size_t i = 0; i < hp->n_layers; i++) {
        plan->rope_of[i] = hp->windows[i] > 0 && model->rope[1].freq ? 1 : 0;
    }
    return SHOAL_OK;
}

static shoal_status write_basis(const forge_args *args, const shoal_archive_plan *plan, size_t n,
                                shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_archive_freep) shoal_archive *archive = NULL;
    SHOAL_TRY(shoal_archive_plan_write(plan, &file, err));
    /* What is written can be read: numbers past the limits are found here. */
    SHOAL_TRY(shoal_archive_open((const uint8_t *)file.data, file.length, &plan->model,
                                 &plan->shape, &archive, err));
    SHOAL_TRY(shoal_file_write(args->output, file.data, file.length, err));
    size_t n_kept = 0;
    size_t n_channels = 0;
    for (size_t g = 0; g < shoal_archive_n_groups(archive); g++) {
        n_kept += shoal_archive_group_at(archive, g).n_kept;
        n_channels += shoal_archive_group_at(archive, g).n_channels;
    }
    (void)printf(args->json ? "{\"tokens\": %zu, \"groups\": %zu, \"channels\": %zu, \"kept\": "
                              "%zu, \"bytes\": %zu}\n"
                            : "%zu tokens, %zu groups, %zu channels, %zu components kept, a basis "
                              "of %zu bytes\n",
                 n, shoal_archive_n_groups(archive), n_channels, n_kept, file.length);
    return SHOAL_OK;
}

static shoal_status fit_and_write(const forge_args *args, forge_session *s,
                                  shoal_archive_plan *plan, kv_rows *rows, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    size_t n = 0;
    if (describe(args, s->model, plan) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a basis");
    }
    const forge_kv_calibrate_args *own = &args->kv_calibrate;
    SHOAL_TRY(
        shoal_forge_read_ids(args->file, own->ids, (size_t)own->tokens, s->model, &ids, &n, err));
    SHOAL_TRY(shoal_forge_kv_collect(s, ids, n, own->alike, plan, rows, err));
    SHOAL_TRY(shoal_forge_kv_fit(rows, plan, err));
    return write_basis(args, plan, rows->n, err);
}

shoal_status shoal_forge_kv_calibrate(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    shoal_archive_plan plan = {0};
    kv_rows rows = {0};
    forge_args exact = *args;
    exact.kv = "f32";
    SHOAL_TRY(shoal_model_load(args->model, &s.model, err));
    /* Two sequences: of what errors cost. */
    shoal_engine_settings settings;
    SHOAL_TRY(shoal_forge_engine_settings(&exact, s.model, ROWS, ROWS, 0, 2, &settings, err));
    SHOAL_TRY(shoal_engine_new(s.model, &settings, &s.engine, err));
    if (shoal_kv_seq_new(shoal_engine_kv(s.engine), &s.seq) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sequence");
    }
    shoal_status status = fit_and_write(args, &s, &plan, &rows, err);
    shoal_forge_kv_rows_fini(&rows);
    shoal_forge_kv_plan_fini(&plan);
    return status;
}
