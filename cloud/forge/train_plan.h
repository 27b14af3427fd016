/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: from the options of `train` to everything a run needs.
 */
#ifndef SHOAL_FORGE_TRAIN_PLAN_H
#define SHOAL_FORGE_TRAIN_PLAN_H

#include "cloud/forge/feed.h"
#include "cloud/forge/forge.h"

/* Zeroed memory is an empty one. */
typedef struct forge_train_plan {
    shoal_map map;    /* of the file whose tokenizer the model has */
    shoal_gguf *gguf; /* in it */
    shoal_tokenizer *tokenizer;
    shoal_params *params;
    shoal_params *teacher;
    shoal_lora_train *lora; /* NULL: params are trained */
    shoal_map small_map;    /* of the compressed file, */
    shoal_gguf *small;      /* in it, */
    shoal_recover *recover; /* and what is trained of it; NULL: params are trained */
    forge_field *field;
    shoal_forge_feed *feed;
    shoal_trainer_settings settings; /* optim.n_steps is 0 where --minutes will say it */
} forge_train_plan;

shoal_status shoal_forge_train_plan_open(const forge_args *args, forge_train_plan *ret_plan,
                                         shoal_err *err);
void shoal_forge_train_plan_close(forge_train_plan *plan);

/* "dim=256,layers=6,..." to numbers; exits, where it names them, as the text of --exits. */
shoal_status shoal_forge_parse_shape(const char *text, size_t n_vocab, shoal_hparams *ret_hp,
                                     const char **ret_exits, shoal_err *err);

#endif
