/* SPDX-License-Identifier: Apache-2.0
 *
 * model.adapters: what is read of it, and what is refused in words.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/model/adapters.h"
#include "tests/support/tiny_lora.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    char folder[64];
    char path[96];      /* an adapter of rank 4 */
    char with_mark[96]; /* the same under a name with '=' in it */
    shoal_buf bytes;
    shoal_model *model;
} f;

static int setup(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf adapter = {0};
    const shoal_tiny_lora make = {.seed = 3, .rank = 4, .alpha = 8, .type = SHOAL_TYPE_F32};
    (void)snprintf(f.folder, sizeof f.folder, "/tmp/shoal-adapters-XXXXXX");
    assert_non_null(mkdtemp(f.folder));
    (void)snprintf(f.path, sizeof f.path, "%s/a.gguf", f.folder);
    (void)snprintf(f.with_mark, sizeof f.with_mark, "%s/a=b.gguf", f.folder);
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &f.bytes), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)f.bytes.data, f.bytes.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &f.model, NULL), SHOAL_OK);
    assert_int_equal(shoal_tiny_lora_gguf(gguf, &make, &adapter), SHOAL_OK);
    assert_int_equal(shoal_file_write(f.path, adapter.data, adapter.length, NULL), SHOAL_OK);
    assert_int_equal(link(f.path, f.with_mark), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_model_free(f.model);
    shoal_buf_fini(&f.bytes);
    (void)unlink(f.path);
    (void)unlink(f.with_mark);
    (void)rmdir(f.folder);
    return 0;
}

static shoal_status load(const char *text, shoal_adapters *ret, shoal_err *err)
{
    return shoal_adapters_load(text, f.model, ret, err);
}

static void test_adapters_are_read_in_order(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    shoal_adapters a = {.n = 0};
    assert_int_equal(load("", &a, NULL), SHOAL_OK);
    assert_int_equal(a.n, 0);
    assert_int_equal(shoal_buf_appendf(&text, " one=%s , two.2=%s=0.5,three=%s,four=%s=2", f.path,
                                       f.path, f.with_mark, f.with_mark),
                     SHOAL_OK);
    assert_int_equal(load(text.data, &a, NULL), SHOAL_OK);
    assert_int_equal(a.n, 4);
    assert_string_equal(a.list[0].name, "one");
    assert_string_equal(a.list[1].name, "two.2");
    assert_string_equal(a.list[3].name, "four");
    const shoal_hash one = shoal_lora_hash(a.list[0].lora);
    const shoal_hash two = shoal_lora_hash(a.list[1].lora);
    const shoal_hash three = shoal_lora_hash(a.list[2].lora);
    assert_memory_not_equal(&one, &two, sizeof one); /* its strength is another */
    assert_memory_equal(&one, &three, sizeof one);
    shoal_adapters_fini(&a);
}

static void test_adapters_are_refused_with_what_is_wrong(void **state)
{
    (void)state;
    const struct {
        const char *text; /* @: the file */
        const char *why;
        shoal_status code;
    } rows[] = {
        {"one", "NAME=FILE", SHOAL_E_INVALID},
        {"=@", "NAME is", SHOAL_E_INVALID},
        {"a b=@", "NAME is", SHOAL_E_INVALID},
        {"one=@,one=@", "the name is taken", SHOAL_E_INVALID},
        {"one=@,", NULL, SHOAL_OK},
        {"one=@,,two=@", "NAME is", SHOAL_E_INVALID},
        {"one=", "no file", SHOAL_E_INVALID},
        {"one=@=nan", "a strength of ", SHOAL_E_INVALID},
        {"one=@=inf", "a strength of inf", SHOAL_E_INVALID},
        {"one=/nonexistent.gguf", "/nonexistent.gguf", SHOAL_E_NOTFOUND},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
        shoal_adapters a = {.n = 0};
        shoal_err err = SHOAL_ERR_INIT;
        for (const char *c = rows[i].text; *c != '\0'; c++) {
            const char *part = *c == '@' ? f.path : c;
            assert_int_equal(shoal_buf_append(&text, part, *c == '@' ? strlen(part) : 1), SHOAL_OK);
        }
        assert_int_equal(load(text.data, &a, &err), rows[i].code);
        assert_true(!rows[i].why || strstr(err.text, rows[i].why));
        assert_int_equal(a.n, rows[i].code == SHOAL_OK);
        shoal_adapters_fini(&a);
    }
}

static void test_adapters_are_bounded(void **state)
{
    (void)state;
    for (size_t n = SHOAL_ADAPTERS_MAX; n <= SHOAL_ADAPTERS_MAX + 1; n++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
        shoal_adapters a = {.n = 0};
        shoal_err err = SHOAL_ERR_INIT;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(shoal_buf_appendf(&text, "%sa%zu=%s", i > 0 ? "," : "", i, f.path),
                             SHOAL_OK);
        }
        assert_int_equal(load(text.data, &a, &err),
                         n > SHOAL_ADAPTERS_MAX ? SHOAL_E_LIMIT : SHOAL_OK);
        assert_int_equal(a.n, n > SHOAL_ADAPTERS_MAX ? 0 : n);
        shoal_adapters_fini(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapters_are_read_in_order),
        cmocka_unit_test(test_adapters_are_refused_with_what_is_wrong),
        cmocka_unit_test(test_adapters_are_bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
