/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/web/web_internal.h"

#include <string.h>

const shoal_web_asset *shoal_web_find(const char *path)
{
    for (size_t i = 0; i < shoal_web_n_assets; i++) {
        if (strcmp(shoal_web_assets[i].path, path) == 0) {
            return &shoal_web_assets[i];
        }
    }
    return NULL;
}
