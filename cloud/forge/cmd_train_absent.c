/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands here where OpenBLAS is not to be had: `train`, `kv-calibrate`,
 * `calibrate-weights`, `compare-passes`, `compress`, `recover`,
 * `sparsify`, `plan`.
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

shoal_status shoal_forge_kv_calibrate(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: calibrate on a machine that "
                         "has it; the basis serves every machine");
}

const forge_own shoal_forge_kv_calibrate_own = {
    .run = shoal_forge_kv_calibrate, .options = NULL, .n_options = 0, .defaults = {.threads = 2}};

shoal_status shoal_forge_calibrate_weights(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: calibrate on a machine that "
                         "has it; the moments serve every machine");
}

const forge_own shoal_forge_calibrate_weights_own = {
    .run = shoal_forge_calibrate_weights, .options = NULL, .n_options = 0};

shoal_status shoal_forge_compare_passes(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: compare on a machine that "
                         "has it");
}

const forge_own shoal_forge_compare_passes_own = {
    .run = shoal_forge_compare_passes, .options = NULL, .n_options = 0};

shoal_status shoal_forge_compress(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: compress on a machine that "
                         "has it; the model serves every machine");
}

const forge_own shoal_forge_compress_own = {
    .run = shoal_forge_compress, .options = NULL, .n_options = 0, .defaults = {.threads = 2}};

shoal_status shoal_forge_recover(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: recover on a machine that "
                         "has it; the model serves every machine");
}

const forge_own shoal_forge_recover_own = {
    .run = shoal_forge_recover, .options = NULL, .n_options = 0, .defaults = {.threads = 2}};

shoal_status shoal_forge_sparsify(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without OpenBLAS: sparsify on a machine that "
                         "has it; the model serves every machine");
}

const forge_own shoal_forge_sparsify_own = {
    .run = shoal_forge_sparsify, .options = NULL, .n_options = 0};

shoal_status shoal_forge_plan(const forge_args *args, shoal_err *err)
{
    (void)args;
    return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                         "this shoal-forge was built without what compresses: plan on a machine "
                         "that has it");
}

const forge_own shoal_forge_plan_own = {.run = shoal_forge_plan, .options = NULL, .n_options = 0};
