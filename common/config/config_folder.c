/* SPDX-License-Identifier: Apache-2.0
 *
 * The folder beside a configuration: its files in the order of their names.
 */
#include "common/config/config_internal.h"

#include "common/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILE_NAME_BYTES = 256 /* NAME_MAX of Linux, and the end */
};

static const char ending[] = ".yaml";

typedef struct file_name {
    char text[FILE_NAME_BYTES];
} file_name;

typedef struct listing {
    file_name *names; /* SHOAL_CONFIG_FOLDER_FILES_MAX */
    size_t n;
} listing;

static void listing_fini(listing *list)
{
    shoal_free(list->names);
}

static void close_folder(DIR **dir)
{
    if (*dir) {
        (void)closedir(*dir);
    }
}

static shoal_status fail_errno(const char *folder, const char *what, shoal_err *err)
{
    char space[128];
    return shoal_err_set(err, errno == ENOMEM ? SHOAL_E_NOMEM : SHOAL_E_IO, "%s: cannot %s: %s",
                         folder, what, strerror_r(errno, space, sizeof space));
}

static bool ends_as_yaml(const char *name, size_t n)
{
    return n >= sizeof ending && memcmp(name + n - (sizeof ending - 1), ending, sizeof ending) == 0;
}

/* What an editor or dpkg leaves behind has another ending, or is hidden. */
static bool is_meant(const char *name)
{
    return name[0] != '.' && ends_as_yaml(name, strlen(name));
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(((const file_name *)a)->text, ((const file_name *)b)->text);
}

static shoal_status list_folder(const char *folder, listing *list, shoal_err *err)
{
    SHOAL_CLEANUP(close_folder) DIR *dir = opendir(folder);
    if (!dir) {
        return errno == ENOENT ? SHOAL_OK : fail_errno(folder, "open", err);
    }
    list->names = shoal_calloc(SHOAL_CONFIG_FOLDER_FILES_MAX, sizeof *list->names);
    if (!list->names) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", folder);
    }
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            break;
        }
        if (!is_meant(entry->d_name)) {
            continue;
        }
        if (list->n == SHOAL_CONFIG_FOLDER_FILES_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "%s: more than %d files *.yaml; put some together", folder,
                                 SHOAL_CONFIG_FOLDER_FILES_MAX);
        }
        size_t n = strlen(entry->d_name);
        if (n >= FILE_NAME_BYTES) {
            return shoal_err_set(err, SHOAL_E_LIMIT, "%s: a name is longer than %d bytes", folder,
                                 FILE_NAME_BYTES - 1);
        }
        memcpy(list->names[list->n++].text, entry->d_name, n + 1);
    }
    if (errno != 0) {
        return fail_errno(folder, "read", err);
    }
    qsort(list->names, list->n, sizeof *list->names, by_bytes);
    return SHOAL_OK;
}

shoal_status shoal_config_load_folder(shoal_config *config, const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf folder = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(listing_fini) listing list = {0};
    size_t n = strlen(path);
    size_t n_stem = ends_as_yaml(path, n) ? n - (sizeof ending - 1) : n;
    if (shoal_buf_append(&folder, path, n_stem) != SHOAL_OK ||
        shoal_buf_appendf(&folder, ".conf.d") != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    SHOAL_TRY(list_folder(folder.data, &list, err));
    for (size_t i = 0; i < list.n; i++) {
        shoal_buf_reset(&file);
        if (shoal_buf_appendf(&file, "%s/%s", folder.data, list.names[i].text) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", folder.data);
        }
        SHOAL_TRY(shoal_config_load_file(config, file.data, err));
    }
    return SHOAL_OK;
}
