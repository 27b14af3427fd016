/* SPDX-License-Identifier: Apache-2.0
 *
 * What is finished, in a directory beside the output: KEY holds the digest of everything that the
 * result depends on, N.points what was measured of job N, N.layer its tensors as a small GGUF.
 * Files are written whole or not at all; each carries the key and a digest of its own, and what
 * does not fit is made anew.
 */
#include "cloud/forge/compress.h"

#include "common/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PATH_MAX_BYTES = 4096,
    POINTS_MAX = 64 * FORGE_RECIPE_FORMS_MAX + 256, /* bytes of a file of points */
    KEY_MAX = 256
};

#define KEY_FILE   "KEY"
#define KEY_KEY    "shoal.compress.key"
#define FORM_KEY   "shoal.compress.form"
#define ERROR_KEY  "shoal.compress.error"
#define DIGEST_KEY "shoal.compress.digest"

/* --- names ------------------------------------------------------------------------------------ */

static shoal_status path_of(const compress_run *run, const char *name,
                            char ret_path[PATH_MAX_BYTES], shoal_err *err)
{
    int n = snprintf(ret_path, PATH_MAX_BYTES, "%s/%s", run->dir, name);
    return n > 0 && n < PATH_MAX_BYTES - 8
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_LIMIT, "%s: the path is too long", run->dir);
}

static shoal_status job_path(const compress_run *run, const compress_job *job, const char *ending,
                             char ret_path[PATH_MAX_BYTES], shoal_err *err)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%05zu.%s", (size_t)(job - run->jobs), ending);
    return path_of(run, name, ret_path, err);
}

static shoal_status refuse_errno(const char *path, shoal_err *err)
{
    char space[128];
    return shoal_err_set(err, SHOAL_E_IO, "%s: %s", path, strerror_r(errno, space, sizeof space));
}

shoal_status shoal_forge_work_open(compress_run *run, shoal_err *err)
{
    char path[PATH_MAX_BYTES];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf key = {0};
    SHOAL_TRY(path_of(run, KEY_FILE, path, err));
    if (mkdir(run->dir, 0777) != 0 && errno != EEXIST) {
        return refuse_errno(run->dir, err);
    }
    if (access(path, F_OK) != 0) {
        return shoal_file_write(path, run->key, strlen(run->key), err);
    }
    SHOAL_TRY(shoal_file_read(path, KEY_MAX, &key, err));
    if (key.length != strlen(run->key) || memcmp(key.data, run->key, key.length) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s holds work of a run with another input, calibration or recipe: "
                             "finish that one, or remove the directory",
                             run->dir);
    }
    return SHOAL_OK;
}

/* N.points, N.layer, and what a write that was cut off left of them. */
static bool is_ours(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    const char *rest = name + digits;
    return strcmp(name, KEY_FILE) == 0 || strcmp(name, KEY_FILE ".tmp") == 0 ||
           (digits == 5 && (strcmp(rest, ".points") == 0 || strcmp(rest, ".layer") == 0 ||
                            strcmp(rest, ".points.tmp") == 0 || strcmp(rest, ".layer.tmp") == 0));
}

void shoal_forge_work_remove(const compress_run *run)
{
    char path[PATH_MAX_BYTES];
    DIR *dir = opendir(run->dir);
    if (!dir) {
        return;
    }
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        if (is_ours(e->d_name) && path_of(run, e->d_name, path, NULL) == SHOAL_OK) {
            (void)unlink(path);
        }
    }
    (void)closedir(dir);
    (void)rmdir(run->dir);
}

/* --- points ----------------------------------------------------------------------------------- */

static shoal_status points_text(const compress_run *run, const compress_job *job, shoal_buf *text)
{
    shoal_hash hash;
    char hex[SHOAL_HASH_HEX];
    SHOAL_TRY(shoal_buf_appendf(text, "points 1 %s %zu\n", run->key, job->n_forms));
    for (size_t i = 0; i < job->n_forms; i++) {
        SHOAL_TRY(shoal_buf_appendf(text, "%" PRIu64 " %" PRIu64 " %a\n", job->points[i].bytes,
                                    job->points[i].file_bytes, job->points[i].error));
    }
    SHOAL_TRY(shoal_hash_of(text->data, text->length, &hash));
    shoal_hash_hex(&hash, hex);
    return shoal_buf_appendf(text, "%s\n", hex);
}

shoal_status shoal_forge_work_put_points(const compress_run *run, const compress_job *job,
                                         shoal_err *err)
{
    char path[PATH_MAX_BYTES];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(job_path(run, job, "points", path, err));
    if (points_text(run, job, &text) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", path);
    }
    return shoal_file_write(path, text.data, text.length, err);
}

/* What is read is believed when writing it again gives the same text. */
bool shoal_forge_work_find_points(const compress_run *run, compress_job *job)
{
    char path[PATH_MAX_BYTES];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
    if (job_path(run, job, "points", path, NULL) != SHOAL_OK || access(path, F_OK) != 0 ||
        shoal_file_read(path, POINTS_MAX, &text, NULL) != SHOAL_OK || text.length == 0) {
        return false;
    }
    const char *line = strchr(text.data, '\n');
    for (size_t i = 0; line && i < job->n_forms; i++) {
        compress_point *p = &job->points[i];
        if (sscanf(line + 1, "%" SCNu64 " %" SCNu64 " %la", &p->bytes, &p->file_bytes, &p->error) !=
                3 ||
            !isfinite(p->error) || p->error < 0) {
            return false;
        }
        line = strchr(line + 1, '\n');
    }
    job->measured = points_text(run, job, &again) == SHOAL_OK && again.length == text.length &&
                    memcmp(again.data, text.data, text.length) == 0;
    return job->measured;
}

/* --- layers ----------------------------------------------------------------------------------- */

static shoal_status digest_of(const compress_run *run, const compress_job *job, const char *error,
                              const compress_stored *stored, char ret_hex[SHOAL_HASH_HEX])
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    shoal_hash hash;
    char text[64];
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, run->key, strlen(run->key));
    int n = snprintf(text, sizeof text, "%zu %s", job->chosen, error);
    shoal_hasher_update_field(hasher, text, (size_t)n);
    for (size_t i = 0; i < stored->n; i++) {
        const compress_tensor *t = &stored->tensors[i];
        n = snprintf(text, sizeof text, "%d %" PRIu64 " %" PRIu64 " %" PRIu64, (int)t->type,
                     t->dims[0], t->dims[1], t->dims[2]);
        shoal_hasher_update_field(hasher, t->name, strlen(t->name));
        shoal_hasher_update_field(hasher, text, (size_t)n);
        shoal_hasher_update_field(hasher, t->data, t->n_bytes);
    }
    shoal_hasher_finish(hasher, &hash);
    shoal_hash_hex(&hash, ret_hex);
    return SHOAL_OK;
}

static shoal_status layer_file(const compress_run *run, const compress_job *job,
                               const compress_stored *stored, shoal_buf *buf, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    char digest[SHOAL_HASH_HEX];
    char error[64];
    (void)snprintf(error, sizeof error, "%a", job->made.error);
    SHOAL_TRY(digest_of(run, job, error, stored, digest));
    SHOAL_TRY(shoal_gguf_writer_new(&w));
    SHOAL_TRY(shoal_gguf_put_str(w, "general.architecture", "shoal-compress-layer"));
    SHOAL_TRY(shoal_gguf_put_str(w, KEY_KEY, run->key));
    SHOAL_TRY(shoal_gguf_put_u32(w, FORM_KEY, (uint32_t)job->chosen));
    SHOAL_TRY(shoal_gguf_put_str(w, ERROR_KEY, error));
    SHOAL_TRY(shoal_gguf_put_str(w, DIGEST_KEY, digest));
    for (size_t i = 0; i < stored->n; i++) {
        const compress_tensor *t = &stored->tensors[i];
        SHOAL_TRY(shoal_gguf_put_tensor(w, t->name, t->type, t->dims, t->n_dims, t->data));
    }
    return shoal_gguf_writer_finish(w, buf, err);
}

shoal_status shoal_forge_work_put_layer(const compress_run *run, const compress_job *job,
                                        const compress_stored *stored, shoal_err *err)
{
    char path[PATH_MAX_BYTES];
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_TRY(job_path(run, job, "layer", path, err));
    shoal_status status = layer_file(run, job, stored, &file, err);
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s: %s", path, shoal_status_text(status));
    }
    return shoal_file_write(path, file.data, file.length, err);
}

static bool is_text(const shoal_gguf *g, const char *key, const char *text)
{
    shoal_str found;
    return shoal_gguf_get_str(g, key, &found, NULL) == SHOAL_OK && found.length == strlen(text) &&
           memcmp(found.data, text, found.length) == 0;
}

static shoal_status copy_tensor(const shoal_gguf_tensor *from, compress_tensor *to)
{
    (void)snprintf(to->name, sizeof to->name, "%.*s", (int)from->name.length, from->name.data);
    to->type = from->type;
    to->n_dims = from->n_dims;
    memcpy(to->dims, from->dims, sizeof to->dims);
    to->n_bytes = (size_t)from->size_bytes;
    to->data = shoal_calloc(to->n_bytes, 1);
    if (!to->data) {
        return SHOAL_E_NOMEM;
    }
    memcpy(to->data, from->data, to->n_bytes);
    return SHOAL_OK;
}

/* A layer of this run in this form, or an error. */
static shoal_status read_layer(const compress_run *run, compress_job *job, const shoal_gguf *g,
                               compress_stored *stored)
{
    char digest[SHOAL_HASH_HEX];
    char error[64];
    shoal_str text;
    uint64_t form = 0;
    SHOAL_TRY(shoal_gguf_get_u64(g, FORM_KEY, &form, NULL));
    SHOAL_TRY(shoal_gguf_get_str(g, ERROR_KEY, &text, NULL));
    if (!is_text(g, KEY_KEY, run->key) || form != job->chosen || text.length >= sizeof error ||
        shoal_gguf_n_tensors(g) > COMPRESS_TENSORS_MAX) {
        return SHOAL_E_MISMATCH;
    }
    (void)snprintf(error, sizeof error, "%.*s", (int)text.length, text.data);
    for (size_t i = 0; i < shoal_gguf_n_tensors(g); i++) {
        stored->n = i + 1;
        SHOAL_TRY(copy_tensor(shoal_gguf_tensor_at(g, i), &stored->tensors[i]));
    }
    SHOAL_TRY(digest_of(run, job, error, stored, digest));
    if (!is_text(g, DIGEST_KEY, digest)) {
        return SHOAL_E_INVALID;
    }
    job->made = (compress_point){.bytes = shoal_forge_stored_bytes(stored),
                                 .file_bytes = shoal_forge_stored_file_bytes(stored),
                                 .error = strtod(error, NULL)};
    return SHOAL_OK;
}

bool shoal_forge_work_find_layer(const compress_run *run, compress_job *job,
                                 compress_stored *ret_stored)
{
    char path[PATH_MAX_BYTES];
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *g = NULL;
    SHOAL_CLEANUP(shoal_forge_stored_fini) compress_stored stored = {0};
    if (job_path(run, job, "layer", path, NULL) != SHOAL_OK || access(path, F_OK) != 0 ||
        shoal_map_open(path, &map, NULL) != SHOAL_OK ||
        shoal_gguf_open(map.data, map.size, &g, NULL) != SHOAL_OK ||
        read_layer(run, job, g, &stored) != SHOAL_OK) {
        return false;
    }
    *ret_stored = stored;
    memset(&stored, 0, sizeof stored);
    return true;
}
