/* SPDX-License-Identifier: Apache-2.0
 *
 * System prompts of prefix.public: which tokens are everybody's, and which files are refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/server/public.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char prompt[] = "You help people who repair pumps. Answer in one sentence.";

static shoal_model *model; /* of the family: its vocabulary has a template */
static char folder[] = "/tmp/shoal-public-XXXXXX";
static char path[64];

static int setup(void **state)
{
    (void)state;
    const char *root = getenv("SHOAL_SOURCE_DIR");
    char file[512];
    (void)snprintf(file, sizeof(file), "%s/deploy/models/minnow/minnow-edge.gguf",
                   root != NULL ? root : ".");
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    (void)snprintf(path, sizeof(path), "%s/prompt", folder);
    return shoal_model_load(file, &model, NULL) == SHOAL_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    shoal_model_free(model);
    (void)unlink(path);
    return rmdir(folder);
}

static void put(const char *text, size_t n)
{
    assert_int_equal(shoal_file_write(path, text, n, NULL), SHOAL_OK);
}

/* What was taken of a list. */
typedef struct taken {
    size_t n;
    int32_t ids[256]; /* of the last */
    size_t n_ids;
    shoal_status answer;
} taken;

static shoal_status take(void *ctx, const int32_t *ids, size_t n_ids)
{
    taken *t = ctx;
    assert_in_range(n_ids, 1, SHOAL_COUNT(t->ids));
    memcpy(t->ids, ids, n_ids * sizeof(*ids));
    t->n_ids = n_ids;
    t->n++;
    return t->answer;
}

static shoal_status read_list(const char *paths, size_t n_min, taken *t, shoal_err *err)
{
    const shoal_public_sink sink = {.take = take, .ctx = t};
    return shoal_public_read(model->tokenizer, paths, n_min, &sink, err);
}

static void refused(const char *paths, size_t n_min, taken *t, shoal_status status,
                    const char *word)
{
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(read_list(paths, n_min, t, &err), status);
    assert_non_null(strstr(err.text, "prefix.public"));
    if (strstr(err.text, word) == NULL) {
        fail_msg("\"%s\" does not say %s", err.text, word);
    }
    shoal_err_clear(&err);
}

static void test_every_chat_with_the_prompt_begins_with_its_tokens(void **state)
{
    (void)state;
    static const char *const users[] = {"What does H40 mean?", "a", "0", "apple", " ", "\n\n"};
    int32_t *ids = NULL;
    size_t n = 0;
    assert_int_equal(shoal_public_encode(model->tokenizer, prompt, &ids, &n, NULL), SHOAL_OK);
    size_t n_least = SIZE_MAX;
    for (size_t i = 0; i < SHOAL_COUNT(users); i++) {
        const shoal_chat_message chat[] = {{.role = "system", .content = prompt},
                                           {.role = "user", .content = users[i]}};
        int32_t *all = NULL;
        size_t n_all = 0;
        assert_int_equal(shoal_chat_encode(model->tokenizer, chat, 2, &all, &n_all, NULL),
                         SHOAL_OK);
        size_t n_same = 0;
        while (n_same < n && n_same < n_all && all[n_same] == ids[n_same]) {
            n_same++;
        }
        n_least = i < 3 ? SHOAL_MIN(n_least, n_same) : n_least;
        assert_true(n_same > 10 && n_same + 1 >= n && n < n_all);
        shoal_free(all);
    }
    assert_int_equal(n_least, n);
    shoal_free(ids);
}

static void test_list_gives_each_file_without_its_last_line_ends(void **state)
{
    (void)state;
    taken t = {.answer = SHOAL_OK};
    char list[256];
    int32_t *ids = NULL;
    size_t n = 0;
    char text[sizeof(prompt) + 8];
    (void)snprintf(text, sizeof(text), "%s\r\n\n", prompt);
    put(text, strlen(text));
    assert_int_equal(shoal_public_encode(model->tokenizer, prompt, &ids, &n, NULL), SHOAL_OK);
    (void)snprintf(list, sizeof(list), "%s;;%s;", path, path);
    assert_int_equal(read_list(list, n, &t, NULL), SHOAL_OK);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_ids, n);
    assert_memory_equal(t.ids, ids, n * sizeof(*ids));
    assert_int_equal(read_list("", n, &t, NULL), SHOAL_OK);
    assert_int_equal(t.n, 2);
    /* Fewer tokens than a block share nothing. */
    refused(list, n + 1, &t, SHOAL_E_INVALID, "shares nothing");
    assert_int_equal(t.n, 2);
    /* What the cache does not hold ends the list. */
    t.answer = SHOAL_BUSY;
    refused(list, n, &t, SHOAL_BUSY, "prefix.percent");
    assert_int_equal(t.n, 3);
    shoal_free(ids);
}

static void test_what_is_no_prompt_is_refused_by_its_path(void **state)
{
    (void)state;
    taken t = {.answer = SHOAL_OK};
    refused("/nowhere/prompt", 1, &t, SHOAL_E_NOTFOUND, "/nowhere/prompt");
    put("", 0);
    refused(path, 1, &t, SHOAL_E_INVALID, path);
    put("\n\r\n", 3);
    refused(path, 1, &t, SHOAL_E_INVALID, path);
    put("a\0b", 3);
    refused(path, 1, &t, SHOAL_E_INVALID, "NUL");
    char *wide = shoal_calloc(SHOAL_PUBLIC_MAX + 1, 1);
    assert_non_null(wide);
    memset(wide, '\n', SHOAL_PUBLIC_MAX + 1);
    memcpy(wide, prompt, strlen(prompt));
    put(wide, SHOAL_PUBLIC_MAX + 1);
    refused(path, 1, &t, SHOAL_E_LIMIT, path);
    assert_int_equal(t.n, 0);
    put(wide, SHOAL_PUBLIC_MAX);
    assert_int_equal(read_list(path, 1, &t, NULL), SHOAL_OK);
    assert_int_equal(t.n, 1);
    shoal_free(wide);
}

static void test_list_is_bounded(void **state)
{
    (void)state;
    taken t = {.answer = SHOAL_OK};
    char list[8192];
    put(prompt, strlen(prompt));
    /* Places of a list count, empty ones too. */
    for (size_t n = SHOAL_PUBLIC_FILES_MAX - 1; n <= SHOAL_PUBLIC_FILES_MAX + 1; n++) {
        memset(list, ';', n - 1);
        (void)snprintf(list + n - 1, sizeof(list) - n + 1, "%s", path);
        t.n = 0;
        if (n <= SHOAL_PUBLIC_FILES_MAX) {
            assert_int_equal(read_list(list, 1, &t, NULL), SHOAL_OK);
            assert_int_equal(t.n, 1);
        } else {
            refused(list, 1, &t, SHOAL_E_LIMIT, "256 files");
            assert_int_equal(t.n, 0);
        }
    }
    memset(list, '/', sizeof(list));
    list[4095] = '\0';
    refused(list, 1, &t, SHOAL_E_IO, "/"); /* a folder, by a name as long as may be */
    list[4095] = '/';
    list[4096] = '\0';
    refused(list, 1, &t, SHOAL_E_LIMIT, "4095 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chat_with_the_prompt_begins_with_its_tokens),
        cmocka_unit_test(test_list_gives_each_file_without_its_last_line_ends),
        cmocka_unit_test(test_what_is_no_prompt_is_refused_by_its_path),
        cmocka_unit_test(test_list_is_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
