/* SPDX-License-Identifier: Apache-2.0
 *
 * What the edge keeps of texts: listed, saved to files, loaded from them, dropped. A file appears
 * under its name when all of it is there.
 */
#include "edge/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    FILE_MAX = 1 << 30 /* bytes of a session that is loaded; the edge's own limit is far below */
};

static int failed(const shoal_client_error *error)
{
    (void)fprintf(stderr, "shoal: %s", error->text);
    if (error->retry_after_s >= 0) {
        (void)fprintf(stderr, " (try again in %d s)", error->retry_after_s);
    }
    (void)fputc('\n', stderr);
    return CLI_FAILED;
}

static int file_failed(const char *path, const char *what)
{
    (void)fprintf(stderr, "shoal: %s %s: %s\n", path, what, strerror(errno));
    return CLI_FAILED;
}

/* --- list ------------------------------------------------------------------------------------- */

typedef struct listing {
    bool json;
    size_t n;
} listing;

static int on_session(void *ctx, const shoal_client_session *session)
{
    listing *l = ctx;
    if (l->json) {
        (void)fputs(l->n > 0 ? "," : "", stdout);
        (void)fputs("{\"name\":", stdout);
        cli_json_string(stdout, session->name, strlen(session->name));
        (void)printf(",\"tokens\":%llu,\"kv_bytes\":%llu}", (unsigned long long)session->n_tokens,
                     (unsigned long long)session->kv_bytes);
    } else {
        cli_print_safe(stdout, session->name, strlen(session->name));
        (void)printf("   %llu tokens   %llu KiB\n", (unsigned long long)session->n_tokens,
                     (unsigned long long)(session->kv_bytes >> 10));
    }
    l->n++;
    return 0;
}

static int list(cli_session *session)
{
    shoal_client_error error;
    listing l = {.json = session->options->json};
    (void)fputs(l.json ? "{\"sessions\":[" : "", stdout);
    if (shoal_client_session_list(session->client, on_session, &l, &error) != SHOAL_CLIENT_OK) {
        return failed(&error);
    }
    (void)fputs(l.json ? "]}\n" : "", stdout);
    return CLI_OK;
}

/* --- save and load ---------------------------------------------------------------------------- */

static int on_bytes(void *ctx, const void *bytes, size_t n)
{
    return fwrite(bytes, 1, n, ctx) == n ? 0 : 1;
}

static int save_to(cli_session *session, const char *name, const char *path, const char *part)
{
    shoal_client_error error;
    FILE *file = fopen(part, "wbe");
    if (!file) {
        return file_failed(part, "cannot be written");
    }
    int code = shoal_client_session_save(session->client, name, on_bytes, file, &error);
    bool wrong = ferror(file) != 0;
    bool synced = !wrong && fflush(file) == 0 && fsync(fileno(file)) == 0;
    bool written = fclose(file) == 0 && synced;
    if (code != SHOAL_CLIENT_OK && !wrong) {
        return failed(&error);
    }
    return written && rename(part, path) == 0 ? CLI_OK : file_failed(path, "cannot be written");
}

static int save(cli_session *session, const char *name, const char *path)
{
    size_t n = strlen(path) + sizeof ".part";
    char *part = malloc(n);
    if (!part) {
        (void)fprintf(stderr, "shoal: out of memory\n");
        return CLI_FAILED;
    }
    (void)snprintf(part, n, "%s.part", path);
    int status = save_to(session, name, path, part);
    if (status != CLI_OK) {
        (void)unlink(part);
    }
    free(part);
    return status;
}

/* All of a file. False after a message. */
static bool read_file(const char *path, char **ret_bytes, size_t *ret_n)
{
    FILE *file = fopen(path, "rbe");
    if (!file) {
        (void)file_failed(path, "cannot be read");
        return false;
    }
    off_t size = fseeko(file, 0, SEEK_END) == 0 ? ftello(file) : -1;
    bool small = size >= 0 && size <= FILE_MAX;
    char *bytes = small ? malloc((size_t)size + 1) : NULL;
    bool whole = bytes && fseeko(file, 0, SEEK_SET) == 0 &&
                 fread(bytes, 1, (size_t)size, file) == (size_t)size;
    (void)fclose(file);
    if (!whole) {
        free(bytes);
        (void)fprintf(stderr, "shoal: %s %s\n", path,
                      size > FILE_MAX ? "is too long to be a session" : "cannot be read as a file");
        return false;
    }
    *ret_bytes = bytes;
    *ret_n = (size_t)size;
    return true;
}

static int load(cli_session *session, const char *name, const char *path)
{
    shoal_client_error error;
    char *bytes = NULL;
    size_t n = 0;
    if (!read_file(path, &bytes, &n)) {
        return CLI_FAILED;
    }
    int code = shoal_client_session_load(session->client, name, bytes, n, &error);
    free(bytes);
    return code == SHOAL_CLIENT_OK ? CLI_OK : failed(&error);
}

int cli_sessions(cli_session *session)
{
    char **words = session->options->words;
    shoal_client_error error;
    if (strcmp(words[0], "list") == 0) {
        return list(session);
    }
    if (strcmp(words[0], "save") == 0) {
        return save(session, words[1], words[2]);
    }
    if (strcmp(words[0], "load") == 0) {
        return load(session, words[1], words[2]);
    }
    return shoal_client_session_drop(session->client, words[1], &error) == SHOAL_CLIENT_OK
               ? CLI_OK
               : failed(&error);
}
