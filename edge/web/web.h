/* SPDX-License-Identifier: Apache-2.0
 *
 * The page of the edge: its files, embedded in the program. Pure data, any thread.
 */
#ifndef SHOAL_WEB_WEB_H
#define SHOAL_WEB_WEB_H

#include <stddef.h>

typedef struct shoal_web_asset {
    const char *path; /* as requested: "/", "/page/style.css" */
    const char *type; /* Content-Type */
    const void *data; /* [n], static */
    size_t n;
} shoal_web_asset;

/* NULL when there is no such file. */
const shoal_web_asset *shoal_web_find(const char *path);

#endif
