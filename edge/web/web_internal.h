/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to edge/web: the table that embed.cmake writes.
 */
#ifndef SHOAL_WEB_WEB_INTERNAL_H
#define SHOAL_WEB_WEB_INTERNAL_H

#include "edge/web/web.h"

extern const shoal_web_asset shoal_web_assets[];
extern const size_t shoal_web_n_assets;

#endif
