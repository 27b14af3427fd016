/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/fleet/catalogue.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static shoal_status check_sizes(const shoal_fleet_entry *e, shoal_err *err)
{
    for (size_t i = 0; i < e->bundle->n_files; i++) {
        const shoal_bundle_file *f = &e->bundle->files[i];
        SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(e->path, f->name);
        struct stat st;
        if (!path) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
        }
        if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->n_bytes) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%.160s: a file of %" PRIu64 " bytes is expected; copy bundles "
                                 "whole before rollout names them",
                                 path, f->n_bytes);
        }
    }
    return SHOAL_OK;
}

static shoal_status read_entry(const char *folder, const char *name, shoal_fleet_entry *e,
                               shoal_err *err)
{
    e->path = shoal_bundle_path(folder, name);
    e->name = e->path ? e->path + strlen(folder) + 1 : NULL;
    if (!e->path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    SHOAL_TRY(shoal_bundle_open(e->path, NULL, &e->manifest, &e->signature, &e->bundle, err));
    if (e->signature.length != SHOAL_BUNDLE_SIGNATURE_BYTES) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%.160s/%s: %d bytes are expected", e->path,
                             SHOAL_BUNDLE_SIGNATURE, (int)SHOAL_BUNDLE_SIGNATURE_BYTES);
    }
    return check_sizes(e, err);
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = ((const shoal_fleet_entry *)a)->bundle->serial;
    uint64_t y = ((const shoal_fleet_entry *)b)->bundle->serial;
    return x < y ? 1 : x > y ? -1 : 0;
}

static bool is_known(const shoal_catalogue *c, const char *name)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        SHOAL_ASSERT(c->entries[i].name);
        if (strcmp(c->entries[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

static shoal_status check_serials(const shoal_catalogue *c, shoal_err *err)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        for (size_t k = 0; k < i; k++) {
            const shoal_bundle *a = c->entries[i].bundle;
            const shoal_bundle *b = c->entries[k].bundle;
            if (a->serial == b->serial && strcmp(a->family, b->family) == 0) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "%.80s and %.80s are both serial %" PRIu64 " of family %s",
                                     c->entries[k].name, c->entries[i].name, a->serial, a->family);
            }
        }
    }
    return SHOAL_OK;
}

static shoal_status read_all(const char *folder, shoal_catalogue *c, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, SHOAL_FLEET_ROLLOUT);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    SHOAL_TRY(shoal_file_read(path, SHOAL_ROLLOUT_TEXT_MAX, &text, err));
    shoal_status status = shoal_rollout_parse(text.data, text.length, &c->rollout, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%.100s", folder);
        return status;
    }
    c->entries = shoal_calloc(c->rollout->n_lines, sizeof *c->entries);
    if (!c->entries) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    for (size_t i = 0; i < c->rollout->n_lines; i++) {
        const char *name = c->rollout->lines[i].folder;
        if (!is_known(c, name)) {
            SHOAL_TRY(read_entry(folder, name, &c->entries[c->n_entries++], err));
        }
    }
    SHOAL_TRY(check_serials(c, err));
    qsort(c->entries, c->n_entries, sizeof *c->entries, newest_first);
    return SHOAL_OK;
}

shoal_status shoal_catalogue_read(const char *folder, shoal_catalogue **ret_catalogue,
                                  shoal_err *err)
{
    SHOAL_CLEANUP(shoal_catalogue_unrefp) shoal_catalogue *c = shoal_calloc(1, sizeof *c);
    if (!c) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the fleet");
    }
    atomic_init(&c->refs, 1);
    SHOAL_TRY(read_all(folder, c, err));
    *ret_catalogue = SHOAL_STEAL(c);
    return SHOAL_OK;
}

shoal_catalogue *shoal_catalogue_ref(shoal_catalogue *catalogue)
{
    atomic_fetch_add(&catalogue->refs, 1);
    return catalogue;
}

void shoal_catalogue_unref(shoal_catalogue *catalogue)
{
    if (!catalogue || atomic_fetch_sub(&catalogue->refs, 1) > 1) {
        return;
    }
    for (size_t i = 0; i < catalogue->n_entries; i++) {
        shoal_fleet_entry *e = &catalogue->entries[i];
        shoal_bundle_free(e->bundle);
        shoal_buf_fini(&e->manifest);
        shoal_buf_fini(&e->signature);
        shoal_free(e->path);
    }
    shoal_free(catalogue->entries);
    shoal_rollout_free(catalogue->rollout);
    shoal_free(catalogue);
}

const shoal_fleet_entry *shoal_catalogue_find(const shoal_catalogue *catalogue, const char *family,
                                              uint64_t serial, const char *identity)
{
    for (size_t i = 0; i < catalogue->n_entries; i++) {
        const shoal_fleet_entry *e = &catalogue->entries[i];
        bool is_family = !family[0] || strcmp(family, e->bundle->family) == 0;
        bool is_serial = serial == 0 || serial == e->bundle->serial;
        if (is_family && is_serial &&
            shoal_rollout_has(catalogue->rollout, e->name, e->bundle->serial, identity)) {
            return e;
        }
    }
    return NULL;
}
