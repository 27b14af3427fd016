/* SPDX-License-Identifier: Apache-2.0
 *
 * Bundles as folders.
 */
#include "protocol/bundle/bundle.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PIECE_BYTES = 256 << 10
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        (void)close(*fd);
    }
}

char *shoal_bundle_path(const char *folder, const char *name)
{
    size_t n = strlen(folder);
    size_t n_name = strlen(name);
    char *path = shoal_calloc(n + n_name + 2, 1);
    if (path) {
        memcpy(path, folder, n);
        path[n] = '/';
        memcpy(path + n + 1, name, n_name);
    }
    return path;
}

static shoal_status fail_errno(const char *path, const char *what, shoal_err *err)
{
    int number = errno;
    char space[128];
    const char *reason = strerror_r(number, space, sizeof space);
    return shoal_err_set(err, number == ENOENT ? SHOAL_E_NOTFOUND : SHOAL_E_IO,
                         "%.160s: cannot %s: %.60s", path, what, reason);
}

static shoal_status hash_all(int fd, const char *path, const atomic_bool *stop,
                             shoal_hasher *hasher, uint64_t *ret_n_bytes, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *piece = shoal_calloc(PIECE_BYTES, 1);
    if (!piece) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    uint64_t total = 0;
    for (;;) {
        ssize_t n = read(fd, piece, PIECE_BYTES);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_errno(path, "read", err);
        }
        if (n == 0) {
            break;
        }
        if (stop && atomic_load(stop)) {
            return shoal_err_set(err, SHOAL_E_CANCELLED, "%s: stopped", path);
        }
        shoal_hasher_update(hasher, piece, (size_t)n);
        total += (uint64_t)n;
    }
    *ret_n_bytes = total;
    return SHOAL_OK;
}

shoal_status shoal_bundle_measure(const char *path, const atomic_bool *stop, uint64_t *ret_n_bytes,
                                  shoal_hash *ret_hash, shoal_err *err)
{
    SHOAL_CLEANUP(close_fd)
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return fail_errno(path, "open", err);
    }
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%.200s: not a regular file", path);
    }
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    if (shoal_hasher_new(&hasher) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", path);
    }
    SHOAL_TRY(hash_all(fd, path, stop, hasher, ret_n_bytes, err));
    shoal_hasher_finish(hasher, ret_hash);
    return SHOAL_OK;
}

static shoal_status read_part(const char *folder, const char *name, size_t limit, shoal_buf *buf,
                              shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, name);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", folder);
    }
    return shoal_file_read(path, limit, buf, err);
}

shoal_status shoal_bundle_open(const char *folder, const shoal_bundle_keys *keys, shoal_buf *raw,
                               shoal_buf *signature, shoal_bundle **ret_bundle, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf own_raw = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf own_signature = {0};
    raw = raw ? raw : &own_raw;
    signature = signature ? signature : &own_signature;
    SHOAL_TRY(read_part(folder, SHOAL_BUNDLE_MANIFEST, SHOAL_BUNDLE_MANIFEST_MAX, raw, err));
    if (keys || signature != &own_signature) {
        SHOAL_TRY(read_part(folder, SHOAL_BUNDLE_SIGNATURE, SHOAL_BUNDLE_SIGNATURE_BYTES, signature,
                            err));
    }
    if (keys) {
        SHOAL_TRY(shoal_bundle_verify(keys, raw->data, raw->length, signature->data,
                                      signature->length, err));
    }
    shoal_status status = shoal_bundle_parse(raw->data, raw->length, ret_bundle, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%.120s", folder);
    }
    return status;
}

static shoal_status check_one(const shoal_bundle_file *f, const char *folder,
                              const atomic_bool *stop, shoal_err *err)
{
    uint64_t n_bytes = 0;
    shoal_hash hash;
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = shoal_bundle_path(folder, f->name);
    if (!path) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory", folder);
    }
    SHOAL_TRY(shoal_bundle_measure(path, stop, &n_bytes, &hash, err));
    if (n_bytes != f->n_bytes) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "file %s has %" PRIu64 " bytes and the manifest says %" PRIu64,
                             f->name, n_bytes, f->n_bytes);
    }
    if (memcmp(&hash, &f->hash, sizeof hash) != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "file %s is not what was signed: its SHA-256 differs", f->name);
    }
    return SHOAL_OK;
}

shoal_status shoal_bundle_check_files(const shoal_bundle *bundle, const char *folder,
                                      const atomic_bool *stop, shoal_err *err)
{
    for (size_t i = 0; i < bundle->n_files; i++) {
        SHOAL_TRY(check_one(&bundle->files[i], folder, stop, err));
    }
    return SHOAL_OK;
}
