/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/fleet/store.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    STATE_MAX = 4096,   /* bytes of its text */
    SPARE = 8 << 20,    /* bytes that are left free on the flash */
    ENTRIES_MAX = 65536 /* of a folder that is looked through */
};

struct shoal_store {
    char *folder;
    char *incoming;
    char *bundles;
    char *state_path;
    shoal_store_state state;
};

#define FIELDS(X) X(current) X(previous) X(highest) X(trying) X(tries) X(trial) X(failed)

/* --- the state as text ------------------------------------------------------------------------ */

static shoal_status print_state(const shoal_store_state *s, shoal_buf *buf)
{
    SHOAL_TRY(shoal_buf_appendf(buf, "shoal-fleet 1\n"));
#define X(name) SHOAL_TRY(shoal_buf_appendf(buf, #name " %" PRIu64 "\n", s->name));
    FIELDS(X)
#undef X
    return SHOAL_OK;
}

/* Exactly what print_state writes. */
static bool parse_state(const shoal_buf *text, shoal_store_state *ret_state)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    shoal_store_state s = {0};
    int used = 0;
    if (sscanf(text->data,
               "shoal-fleet 1\ncurrent %" SCNu64 "\nprevious %" SCNu64 "\nhighest %" SCNu64
               "\ntrying %" SCNu64 "\ntries %" SCNu64 "\ntrial %" SCNu64 "\nfailed %" SCNu64 "\n%n",
               &s.current, &s.previous, &s.highest, &s.trying, &s.tries, &s.trial, &s.failed,
               &used) != 7 ||
        print_state(&s, &again) != SHOAL_OK || again.length != text->length ||
        memcmp(again.data, text->data, again.length) != 0) {
        return false;
    }
    *ret_state = s;
    return true;
}

/* --- folders ---------------------------------------------------------------------------------- */

static shoal_status fail_errno(const char *path, const char *what, shoal_err *err)
{
    int number = errno;
    char space[128];
    const char *reason = strerror_r(number, space, sizeof space);
    return shoal_err_set(err, number == ENOSPC || number == EDQUOT ? SHOAL_E_EXHAUSTED : SHOAL_E_IO,
                         "%.160s: cannot %s: %.60s", path, what, reason);
}

static shoal_status make_folder(const char *path, shoal_err *err)
{
    if (mkdir(path, 0755) != 0 && errno != EEXIST) {
        return fail_errno(path, "make this folder", err);
    }
    return SHOAL_OK;
}

static shoal_status sync_folder(const char *path, shoal_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    bool fine = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);
    shoal_status status = fine ? SHOAL_OK : fail_errno(path, "sync", err);
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

/* A folder of plain files. What cannot be removed stays; the next one who needs the place says. */
static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry = NULL;
    for (size_t i = 0; dir && i < ENTRIES_MAX && (entry = readdir(dir)) != NULL; i++) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir) {
        (void)closedir(dir);
    }
    (void)rmdir(path);
}

/* A serial as a name has it; 0: it is none. */
static uint64_t serial_of(const char *name)
{
    char again[24];
    uint64_t serial = strtoull(name, NULL, 10);
    (void)snprintf(again, sizeof again, "%" PRIu64, serial);
    return strcmp(again, name) == 0 && serial <= SHOAL_BUNDLE_SERIAL_MAX ? serial : 0;
}

static void each_bundle(const shoal_store *store,
                        void (*fn)(const shoal_store *store, uint64_t serial, void *ctx), void *ctx)
{
    DIR *dir = opendir(store->bundles);
    struct dirent *entry = NULL;
    for (size_t i = 0; dir && i < ENTRIES_MAX && (entry = readdir(dir)) != NULL; i++) {
        uint64_t serial = serial_of(entry->d_name);
        if (serial > 0) {
            fn(store, serial, ctx);
        }
    }
    if (dir) {
        (void)closedir(dir);
    }
}

static void note_highest(const shoal_store *store, uint64_t serial, void *ctx)
{
    (void)store;
    uint64_t *highest = ctx;
    *highest = SHOAL_MAX(*highest, serial);
}

char *shoal_store_bundle_path(const shoal_store *store, uint64_t serial)
{
    char name[24];
    (void)snprintf(name, sizeof name, "%" PRIu64, serial);
    return shoal_bundle_path(store->bundles, name);
}

/* --- life ------------------------------------------------------------------------------------- */

static shoal_status read_state(shoal_store *store, bool *ret_lost, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_err none = SHOAL_ERR_INIT;
    shoal_status status = shoal_file_read(store->state_path, STATE_MAX, &text, &none);
    if (status == SHOAL_OK && parse_state(&text, &store->state)) {
        return SHOAL_OK;
    }
    if (status == SHOAL_E_NOMEM) {
        return shoal_err_set(err, status, "no memory for the state of the fleet");
    }
    *ret_lost = status != SHOAL_E_NOTFOUND;
    each_bundle(store, note_highest, &store->state.highest);
    return SHOAL_OK;
}

shoal_status shoal_store_open(const char *folder, shoal_store **ret_store, bool *ret_lost,
                              shoal_err *err)
{
    bool lost = false;
    SHOAL_CLEANUP(shoal_store_freep) shoal_store *store = shoal_calloc(1, sizeof *store);
    if (store) {
        store->folder = shoal_strdup(folder);
        store->incoming = shoal_bundle_path(folder, "incoming");
        store->bundles = shoal_bundle_path(folder, "bundles");
        store->state_path = shoal_bundle_path(folder, "state");
    }
    if (!store || !store->folder || !store->incoming || !store->bundles || !store->state_path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the state of the fleet");
    }
    SHOAL_TRY(make_folder(store->folder, err));
    SHOAL_TRY(make_folder(store->bundles, err));
    SHOAL_TRY(read_state(store, &lost, err));
    if (ret_lost) {
        *ret_lost = lost;
    }
    *ret_store = SHOAL_STEAL(store);
    return SHOAL_OK;
}

void shoal_store_free(shoal_store *store)
{
    if (!store) {
        return;
    }
    shoal_free(store->folder);
    shoal_free(store->incoming);
    shoal_free(store->bundles);
    shoal_free(store->state_path);
    shoal_free(store);
}

const shoal_store_state *shoal_store_state_of(const shoal_store *store)
{
    return &store->state;
}

const char *shoal_store_incoming(const shoal_store *store)
{
    return store->incoming;
}

shoal_status shoal_store_put(shoal_store *store, const shoal_store_state *state, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    if (print_state(state, &text) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the state of the fleet");
    }
    SHOAL_TRY(shoal_file_write(store->state_path, text.data, text.length, err));
    store->state = *state;
    return SHOAL_OK;
}

/* --- bundles ---------------------------------------------------------------------------------- */

shoal_status shoal_store_check(const char *path, const shoal_bundle_keys *keys, uint64_t serial,
                               const atomic_bool *stop, shoal_bundle **ret_bundle, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *bundle = NULL;
    SHOAL_TRY(shoal_bundle_open(path, keys, NULL, NULL, &bundle, err));
    if (bundle->serial != serial) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%.160s: the manifest has serial %" PRIu64 ", the folder another",
                             path, bundle->serial);
    }
    SHOAL_TRY(shoal_bundle_check_files(bundle, path, stop, err));
    *ret_bundle = SHOAL_STEAL(bundle);
    return SHOAL_OK;
}

static shoal_status write_part(const char *folder, const char *name, const void *data, size_t n,
                               shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, name);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the state of the fleet");
    }
    return shoal_file_write(path, data, n, err);
}

static bool same(const shoal_buf *a, const void *b, size_t n)
{
    return a->length == n && memcmp(a->data, b, n) == 0;
}

shoal_status shoal_store_begin(shoal_store *store, const void *manifest, size_t n_manifest,
                               const void *signature, size_t n_signature, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf raw = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf sig = {0};
    SHOAL_CLEANUP(shoal_bundle_freep) shoal_bundle *there = NULL;
    if (shoal_bundle_open(store->incoming, NULL, &raw, &sig, &there, NULL) == SHOAL_OK &&
        same(&raw, manifest, n_manifest) && same(&sig, signature, n_signature)) {
        return SHOAL_OK;
    }
    remove_folder(store->incoming);
    SHOAL_TRY(make_folder(store->incoming, err));
    SHOAL_TRY(write_part(store->incoming, SHOAL_BUNDLE_SIGNATURE, signature, n_signature, err));
    return write_part(store->incoming, SHOAL_BUNDLE_MANIFEST, manifest, n_manifest, err);
}

shoal_status shoal_store_have(const shoal_store *store, const shoal_bundle_file *file,
                              uint64_t *ret_n, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(store->incoming, file->name);
    struct stat st;
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the state of the fleet");
    }
    bool there = lstat(path, &st) == 0;
    bool fine = there && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= file->n_bytes;
    if (there && !fine && unlink(path) != 0) {
        return fail_errno(path, "remove", err);
    }
    *ret_n = fine ? (uint64_t)st.st_size : 0;
    return SHOAL_OK;
}

shoal_status shoal_store_check_room(const shoal_store *store, uint64_t n, shoal_err *err)
{
    struct statvfs vfs;
    if (statvfs(store->folder, &vfs) != 0) {
        return fail_errno(store->folder, "ask for the room of", err);
    }
    uint64_t free_bytes = (uint64_t)vfs.f_bavail * (uint64_t)vfs.f_frsize;
    if (n > free_bytes || free_bytes - n < SPARE) {
        return shoal_err_set(err, SHOAL_E_EXHAUSTED,
                             "%.100s: the bundle takes %" PRIu64 " MiB more and %" PRIu64
                             " MiB are free: make room",
                             store->folder, (n >> 20) + 1, free_bytes >> 20);
    }
    return SHOAL_OK;
}

shoal_status shoal_store_commit(shoal_store *store, const shoal_bundle *bundle, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_store_bundle_path(store, bundle->serial);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the state of the fleet");
    }
    SHOAL_TRY(sync_folder(store->incoming, err));
    remove_folder(path);
    if (rename(store->incoming, path) != 0) {
        return fail_errno(path, "rename into", err);
    }
    SHOAL_TRY(sync_folder(store->bundles, err));
    SHOAL_TRY(sync_folder(store->folder, err));
    shoal_store_state next = store->state;
    next.highest = SHOAL_MAX(next.highest, bundle->serial);
    next.trying = bundle->serial;
    next.tries = 0;
    return shoal_store_put(store, &next, err);
}

void shoal_store_drop_incoming(shoal_store *store)
{
    remove_folder(store->incoming);
}

static void remove_other(const shoal_store *store, uint64_t serial, void *ctx)
{
    (void)ctx;
    const shoal_store_state *s = &store->state;
    if (serial != s->current && serial != s->previous && serial != s->trying) {
        SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_store_bundle_path(store, serial);
        if (path) {
            remove_folder(path);
        }
    }
}

void shoal_store_tidy(shoal_store *store)
{
    each_bundle(store, remove_other, NULL);
}
