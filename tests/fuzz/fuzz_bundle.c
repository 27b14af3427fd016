/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a manifest, and as a rollout: no crash, a refusal has words, and a manifest that is
 * taken prints as the same bytes.
 */
#include "cloud/fleet/rollout.h"
#include "protocol/bundle/bundle.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_manifest(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    if (shoal_bundle_parse(data, size, &bundle, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    SHOAL_ASSERT(shoal_bundle_print(bundle, &again, NULL) == SHOAL_OK);
    SHOAL_ASSERT(again.length == size && memcmp(again.data, data, size) == 0);
    for (size_t i = 0; i < bundle->n_files; i++) {
        SHOAL_ASSERT(!strchr(bundle->files[i].name, '/') && bundle->files[i].name[0] != '.');
    }
}

static void fuzz_rollout(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    SHOAL_CLEANUP(shoal_rollout_freep) shoal_rollout *rollout = NULL;
    if (shoal_rollout_parse((const char *)data, size, &rollout, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < rollout->n_lines; i++) {
        SHOAL_ASSERT(rollout->lines[i].share <= SHOAL_ROLLOUT_ALL);
        SHOAL_ASSERT(!strchr(rollout->lines[i].folder, '/'));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_manifest(data, size);
    fuzz_rollout(data, size);
    return 0;
}
