/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a fuzz entry point over files, and over the files of folders: what a fuzz target is without
 * Clang. Every input lies in memory of exactly its size, so that AddressSanitizer sees a step too
 * far. Fails when there was nothing to run.
 */
#include "common/base/file.h"
#include "common/base/mem.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    INPUT_MAX = 64 << 20,
    PATH_BYTES = 4096
};

static bool replay_file(const char *path)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_file_read(path, INPUT_MAX, &buf, &err) != SHOAL_OK) {
        fprintf(stderr, "replay: %s\n", err.text);
        return false;
    }
    SHOAL_CLEANUP(shoal_free_cleanup) uint8_t *exact = shoal_calloc(buf.length, 1);
    if (exact == NULL) {
        fprintf(stderr, "replay: %s: out of memory\n", path);
        return false;
    }
    if (buf.length > 0) {
        memcpy(exact, buf.data, buf.length);
    }
    (void)LLVMFuzzerTestOneInput(exact, buf.length);
    return true;
}

/* The number of files run; negative when one could not be read. */
static int replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        return -1;
    }
    if (!S_ISDIR(st.st_mode)) {
        return replay_file(path) ? 1 : -1;
    }
    DIR *dir = opendir(path);
    if (dir == NULL) {
        perror(path);
        return -1;
    }
    int n = 0;
    for (const struct dirent *entry = readdir(dir); entry != NULL && n >= 0; entry = readdir(dir)) {
        char file[PATH_BYTES];
        int length = snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        bool fits = length > 0 && (size_t)length < sizeof(file);
        if (entry->d_name[0] != '.') {
            n = fits && replay_file(file) ? n + 1 : -1;
        }
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        int here = replay(argv[i]);
        if (here < 0) {
            return 1;
        }
        n += here;
    }
    printf("%d inputs\n", n);
    return n > 0 ? 0 : 1;
}
