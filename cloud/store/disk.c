/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks as files of one folder, "<name in hex>.kv", each written beside its place and renamed. The
 * order of use survives a restart in the files' times. Nothing is synced: a power cut may leave a
 * torn file, which its checksums betray. The folder is this process's alone, held by a lock on
 * "lock".
 */
#include "cloud/store/store_internal.h"

#include "common/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    UNIT_BYTES = 4096, /* what a file takes is counted in these, one more for its name */
    NAME_HEX = 64,
    FILE_NAME_BYTES = NAME_HEX + sizeof ".kv"
};

typedef struct disk {
    store_backend backend; /* first */
    store_counters *counters;
    size_t bytes_max;
    int folder; /* descriptor */
    int lock;
    shoal_store_table table;
    store_leases leases;
} disk;

static size_t cost_of(size_t n_bytes)
{
    return (n_bytes / UNIT_BYTES + 2) * UNIT_BYTES;
}

static void file_name(const shoal_hash *name, const char *suffix, char ret_name[FILE_NAME_BYTES])
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash_hex(name, hex);
    (void)snprintf(ret_name, FILE_NAME_BYTES, "%s%s", hex, suffix);
}

static void forget(disk *d, shoal_store_entry *entry)
{
    char name[FILE_NAME_BYTES];
    file_name(&entry->name, ".kv", name);
    (void)unlinkat(d->folder, name, 0);
    shoal_store_table_remove(&d->table, entry);
}

static void make_room(disk *d, size_t bytes)
{
    while (d->table.oldest && d->table.bytes + bytes > d->bytes_max) {
        forget(d, d->table.oldest);
        shoal_store_count(d->counters, STORE_COUNT_evicted, 1);
    }
}

/* --- reading ---------------------------------------------------------------------------------- */

/* All n bytes and no more. SHOAL_E_INVALID: the file has another size; SHOAL_EOF: it cannot be
 * read. */
static shoal_status read_exactly(disk *d, int fd, shoal_block *block)
{
    struct stat st;
    size_t n = shoal_block_n_bytes(block);
    uint8_t *bytes = shoal_block_bytes_mut(block);
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size != n) {
        return SHOAL_E_INVALID;
    }
    for (size_t at = 0; at < n;) {
        ssize_t got = pread(fd, bytes + at, n - at, (off_t)at);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            shoal_store_count(d->counters, STORE_COUNT_errors, 1);
            return SHOAL_EOF;
        }
        at += (size_t)got;
    }
    return SHOAL_OK;
}

static shoal_status read_block(disk *d, const shoal_store_entry *entry, size_t n_bytes,
                               shoal_block **ret_block)
{
    char name[FILE_NAME_BYTES];
    SHOAL_CLEANUP(shoal_block_freep) shoal_block *block = NULL;
    if (shoal_block_new(n_bytes - SHOAL_BLOCK_HEADER_BYTES, &block) != SHOAL_OK) {
        return SHOAL_EOF;
    }
    file_name(&entry->name, ".kv", name);
    int fd = openat(d->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        shoal_store_count(d->counters, STORE_COUNT_errors, 1);
        return errno == ENOENT || errno == ELOOP ? SHOAL_E_INVALID : SHOAL_EOF;
    }
    shoal_status status = read_exactly(d, fd, block);
    if (status == SHOAL_OK) {
        (void)futimens(fd, NULL); /* the order of use; where it fails, a restart forgets this use */
        *ret_block = SHOAL_STEAL(block);
    }
    (void)close(fd);
    return status;
}

static void get(disk *d, store_job *job)
{
    shoal_store_entry *entry = shoal_store_table_find(&d->table, &job->id.name);
    if (!entry) {
        shoal_store_leases_miss(&d->leases, job);
        return;
    }
    shoal_store_table_touch(&d->table, entry);
    job->result.status = read_block(d, entry, job->n_bytes, &job->result.block);
}

/* --- writing ---------------------------------------------------------------------------------- */

static bool write_all(int fd, const uint8_t *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        bytes += done;
        n -= (size_t)done;
    }
    return true;
}

static bool write_block(const disk *d, const shoal_hash *name, const shoal_block *block)
{
    char to[FILE_NAME_BYTES];
    static const char part[] = "part.tmp"; /* one writer, so one name */
    file_name(name, ".kv", to);
    (void)unlinkat(d->folder, part, 0);
    int fd = openat(d->folder, part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return false;
    }
    bool ok = write_all(fd, shoal_block_bytes(block), shoal_block_n_bytes(block));
    ok = close(fd) == 0 && ok;
    if (!ok || renameat(d->folder, part, d->folder, to) != 0) {
        (void)unlinkat(d->folder, part, 0);
        return false;
    }
    return true;
}

static shoal_status put_block(disk *d, const store_job *job)
{
    size_t bytes = cost_of(job->n_bytes);
    if (bytes > d->bytes_max) {
        return SHOAL_EOF;
    }
    shoal_store_entry *entry = shoal_store_table_find(&d->table, &job->id.name);
    if (entry) {
        forget(d, entry);
    }
    make_room(d, bytes);
    entry = shoal_store_table_add(&d->table, &job->id.name, bytes);
    if (!entry) {
        return SHOAL_EOF;
    }
    if (!write_block(d, &job->id.name, job->result.block)) {
        shoal_store_table_remove(&d->table, entry);
        shoal_store_count(d->counters, STORE_COUNT_errors, 1);
        return SHOAL_EOF;
    }
    return SHOAL_OK;
}

static void run(store_backend *self, store_job *const *jobs, size_t n)
{
    disk *d = (disk *)self;
    for (size_t i = 0; i < n; i++) {
        store_job *job = jobs[i];
        shoal_store_entry *entry = NULL;
        switch (job->result.op) {
        case SHOAL_STORE_GET:
            get(d, job);
            break;
        case SHOAL_STORE_PUT:
            job->result.status = put_block(d, job);
            shoal_store_leases_end(&d->leases, &job->id.name);
            break;
        case SHOAL_STORE_EVICT:
            entry = shoal_store_table_find(&d->table, &job->id.name);
            if (entry) {
                forget(d, entry);
            }
            break;
        case SHOAL_STORE_RELEASE:
            shoal_store_leases_end(&d->leases, &job->id.name);
            break;
        }
    }
}

/* --- opening ---------------------------------------------------------------------------------- */

typedef struct found_file {
    shoal_hash name;
    size_t n_bytes;
    struct timespec used;
} found_file;

static int digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_file_name(const char *text, shoal_hash *ret_name)
{
    if (strlen(text) != FILE_NAME_BYTES - 1 || strcmp(text + NAME_HEX, ".kv") != 0) {
        return false;
    }
    for (size_t i = 0; i < SHOAL_HASH_BYTES; i++) {
        int high = digit(text[2 * i]);
        int low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        ret_name->bytes[i] = (uint8_t)(high * 16 + low);
    }
    return true;
}

static int by_use(const void *a, const void *b)
{
    const struct timespec *x = &((const found_file *)a)->used;
    const struct timespec *y = &((const found_file *)b)->used;
    if (x->tv_sec != y->tv_sec) {
        return x->tv_sec < y->tv_sec ? -1 : 1;
    }
    return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

typedef struct found_files {
    found_file *items;
    size_t n;
    size_t capacity;
} found_files;

/* False when out of memory. */
static bool note_file(found_files *files, const found_file *file)
{
    if (files->n == files->capacity) {
        size_t capacity = SHOAL_MAX(files->capacity * 2, (size_t)256);
        found_file *items = shoal_realloc(files->items, capacity, sizeof *items);
        if (!items) {
            return false;
        }
        files->items = items;
        files->capacity = capacity;
    }
    files->items[files->n++] = *file;
    return true;
}

static bool list_folder(const disk *d, DIR *dir, found_files *files)
{
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
        found_file file;
        struct stat st;
        if (!parse_file_name(e->d_name, &file.name) ||
            fstatat(d->folder, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) {
            continue; /* not ours */
        }
        file.n_bytes = (size_t)st.st_size;
        file.used = st.st_mtim;
        if (!note_file(files, &file)) {
            return false;
        }
    }
    return true;
}

/* What an earlier process left, oldest use first. */
static shoal_status take_stock(disk *d, const char *path, shoal_err *err)
{
    int fd = openat(d->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0) {
            (void)close(fd);
        }
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot list: %s", path, strerror(errno));
    }
    found_files files = {0};
    bool ok = list_folder(d, dir, &files);
    (void)closedir(dir);
    if (files.n > 0) {
        qsort(files.items, files.n, sizeof *files.items, by_use);
    }
    for (size_t i = 0; ok && i < files.n; i++) {
        ok = shoal_store_table_add(&d->table, &files.items[i].name,
                                   cost_of(files.items[i].n_bytes)) != NULL;
    }
    shoal_free(files.items);
    if (!ok) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: out of memory for the list of blocks", path);
    }
    make_room(d, 0);
    return SHOAL_OK;
}

static shoal_status open_folder(disk *d, const char *path, shoal_err *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot make the folder of the KV store: %s",
                             path, strerror(errno));
    }
    d->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->folder < 0) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot open the folder of the KV store: %s",
                             path, strerror(errno));
    }
    d->lock = openat(d->folder, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock < 0) {
        return shoal_err_set(err, SHOAL_E_IO, "%s: cannot make the KV store's lock: %s", path,
                             strerror(errno));
    }
    if (flock(d->lock, LOCK_EX | LOCK_NB) != 0) {
        return shoal_err_set(err, SHOAL_E_UNAVAILABLE,
                             "%s: another process uses this KV store: give each node a folder of "
                             "its own, or share through Redis",
                             path);
    }
    return SHOAL_OK;
}

static void close_disk(store_backend *self)
{
    disk *d = (disk *)self;
    shoal_store_table_fini(&d->table);
    shoal_store_leases_fini(&d->leases);
    if (d->lock >= 0) {
        (void)close(d->lock);
    }
    if (d->folder >= 0) {
        (void)close(d->folder);
    }
    shoal_free(d);
}

static shoal_status fill(disk *d, const shoal_store_settings *settings, shoal_err *err)
{
    if (shoal_store_table_init(&d->table, settings->bytes_max >> 14) != SHOAL_OK ||
        shoal_store_leases_init(&d->leases, settings) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    SHOAL_TRY(open_folder(d, settings->folder, err));
    return take_stock(d, settings->folder, err);
}

shoal_status shoal_store_disk_open(const shoal_store_settings *settings, store_counters *counters,
                                   store_backend **ret_backend, shoal_err *err)
{
    if (!settings->folder || settings->folder[0] == '\0') {
        return shoal_err_set(err, SHOAL_E_INVALID, "a KV store on disk needs a folder");
    }
    disk *d = shoal_calloc(1, sizeof *d);
    if (!d) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "KV store: out of memory");
    }
    d->backend = (store_backend){.run = run, .close = close_disk};
    d->counters = counters;
    d->bytes_max = settings->bytes_max;
    d->folder = -1;
    d->lock = -1;
    shoal_status status = fill(d, settings, err);
    if (status != SHOAL_OK) {
        close_disk(&d->backend);
        return status;
    }
    *ret_backend = &d->backend;
    return SHOAL_OK;
}
