/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/server/public.h"

#include "common/base/file.h"
#include "common/base/mem.h"

#include <string.h>

static shoal_status encode_chat(const shoal_tokenizer *tokenizer, const char *system,
                                const char *user, int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    const shoal_chat_message messages[] = {{.role = "system", .content = system},
                                           {.role = "user", .content = user}};
    return shoal_chat_encode(tokenizer, messages, SHOAL_COUNT(messages), ret_ids, ret_n, err);
}

shoal_status shoal_public_encode(const shoal_tokenizer *tokenizer, const char *text,
                                 int32_t **ret_ids, size_t *ret_n, shoal_err *err)
{
    int32_t *one = NULL;
    int32_t *two = NULL;
    size_t n_one = 0;
    size_t n_two = 0;
    shoal_status status = encode_chat(tokenizer, text, "a", &one, &n_one, err);
    if (status == SHOAL_OK) {
        status = encode_chat(tokenizer, text, "0", &two, &n_two, err);
    }
    if (status == SHOAL_OK) {
        size_t n = 0;
        while (n < n_one && n < n_two && one[n] == two[n]) {
            n++;
        }
        *ret_ids = SHOAL_STEAL(one);
        *ret_n = n;
    }
    shoal_free(one);
    shoal_free(two);
    return status;
}

static shoal_status read_one(const shoal_tokenizer *tokenizer, const char *path, size_t n_min,
                             const shoal_public_sink *sink, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {.limit = SHOAL_PUBLIC_MAX};
    SHOAL_TRY(shoal_file_read(path, SHOAL_PUBLIC_MAX, &text, err));
    /* Editors end a file with a line end; a prompt in a request has none. */
    while (text.length > 0 &&
           (text.data[text.length - 1] == '\n' || text.data[text.length - 1] == '\r')) {
        text.data[--text.length] = '\0';
    }
    if (text.length == 0 || strlen(text.data) != text.length) {
        return shoal_err_set(err, SHOAL_E_INVALID, "%.200s: empty, or with a NUL byte in it", path);
    }
    int32_t *ids = NULL;
    size_t n_ids = 0;
    SHOAL_TRY(shoal_public_encode(tokenizer, text.data, &ids, &n_ids, err));
    shoal_status status = SHOAL_OK;
    if (n_ids < n_min) {
        status = shoal_err_set(err, SHOAL_E_INVALID,
                               "%.200s: %zu tokens; blocks of %zu are shared, so it shares nothing",
                               path, n_ids, n_min);
    } else {
        status = sink->take(sink->ctx, ids, n_ids);
        if (status != SHOAL_OK) {
            (void)shoal_err_set(err, status,
                                "%.200s: %zu tokens, more than the prefix cache holds; raise "
                                "prefix.percent or kv.max_mib",
                                path, n_ids);
        }
    }
    shoal_free(ids);
    return status;
}

shoal_status shoal_public_read(const shoal_tokenizer *tokenizer, const char *paths, size_t n_min,
                               const shoal_public_sink *sink, shoal_err *err)
{
    size_t n_files = 0;
    for (const char *at = paths; *at != '\0'; n_files++) {
        char path[4096];
        size_t n = strcspn(at, ";");
        if (n >= sizeof(path) || n_files == SHOAL_PUBLIC_FILES_MAX) {
            return shoal_err_set(err, SHOAL_E_LIMIT,
                                 "prefix.public: at most %d files with paths of %zu bytes",
                                 (int)SHOAL_PUBLIC_FILES_MAX, sizeof(path) - 1);
        }
        memcpy(path, at, n);
        path[n] = '\0';
        at += n + (at[n] == ';' ? 1 : 0);
        shoal_status status = n == 0 ? SHOAL_OK : read_one(tokenizer, path, n_min, sink, err);
        if (status != SHOAL_OK) {
            shoal_err_prefix(err, "prefix.public");
            return status;
        }
    }
    return SHOAL_OK;
}
