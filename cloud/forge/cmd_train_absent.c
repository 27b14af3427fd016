/* SPDX-License-Identifier: Apache-2.0
 *
 * `train` where the trainer could not be built.
 */
#include "cloud/forge/forge.h"

shoal_status shoal_forge_train(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without the trainer: train on a machine that "
                         "has OpenBLAS");
}

const forge_own shoal_forge_train_own = {
    .run = shoal_forge_train, .options = NULL, .n_options = 0, .defaults = {.threads = 2}};
