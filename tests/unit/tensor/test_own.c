/* SPDX-License-Identifier: Apache-2.0
 *
 * Types of our own in a GGUF: I8 to others, themselves to our reader; every lie about them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gguf_walk.h"
#include "image.h"

#include "common/base/mem.h"

#include <string.h>

enum {
    TEXTS_MAX = 4
};

/* What the two arrays say. */
typedef struct claim {
    const char *names[TEXTS_MAX];
    size_t n_names;
    const char *types[TEXTS_MAX];
    size_t n_types;
} claim;

static void put_texts(image *im, const char *key, const char *const *texts, size_t n)
{
    image_array(im, key, SHOAL_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) {
        image_text(im, texts[i], strlen(texts[i]));
    }
}

/* Tensors: "codes" I8 100 x 3 (two blocks of C3_128 a row), "f32" of 4, "odd" I8 99 x 2. */
static void open_claim(const claim *c, opened *ret_opened)
{
    image im = {0};
    image_begin(&im, 3);
    put_texts(&im, SHOAL_GGUF_OWN_NAMES, c->names, c->n_names);
    put_texts(&im, SHOAL_GGUF_OWN_TYPES, c->types, c->n_types);
    image_tensor(&im, "codes", SHOAL_TYPE_I8, 2, (const uint64_t[]){100, 3});
    image_tensor(&im, "f32", SHOAL_TYPE_F32, 1, (const uint64_t[]){4});
    image_tensor(&im, "odd", SHOAL_TYPE_I8, 2, (const uint64_t[]){99, 2});
    image_end(&im);
    image_open(im.bytes.data, im.bytes.length, ret_opened);
    image_fini(&im);
}

static void test_named_tensors_have_their_type_and_shape(void **state)
{
    (void)state;
    const claim c = {.names = {"codes"}, .n_names = 1, .types = {"C3_128"}, .n_types = 1};
    opened o;
    open_claim(&c, &o);
    assert_string_equal(o.err.text, "");
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(o.gguf, "codes");
    assert_int_equal(t->type, SHOAL_TYPE_C3_128);
    assert_int_equal(t->dims[0], 256);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->size_bytes, 300);
    assert_int_equal(shoal_gguf_find_tensor(o.gguf, "odd")->type, SHOAL_TYPE_I8);
    image_close(&o);
}

static void test_lies_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        claim claim;
        const char *word;
    } rows[] = {
        {{{"codes"}, 1, {"C3_129"}, 1}, "C3_129"},
        {{{"codes"}, 1, {"Q8_0"}, 1}, "Q8_0"},
        {{{"codes"}, 1, {"C3_128 and much more than any"}, 1}, "is not known"},
        {{{"codes"}, 1, {""}, 1}, "is not known"},
        {{{"nowhere"}, 1, {"C3_128"}, 1}, "nowhere"},
        {{{"f32"}, 1, {"C3_128"}, 1}, "f32"},
        {{{"odd"}, 1, {"C3_128"}, 1}, "whole blocks of 50"},
        {{{"codes", "codes"}, 2, {"C3_128", "C3_128"}, 2}, "named once"},
        {{{"codes"}, 1, {"C3_128", "C3_128"}, 2}, "1 entries"},
        {{{"codes"}, 1, {NULL}, 0}, "1 entries"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        opened o;
        open_claim(&rows[i].claim, &o);
        assert_null(o.gguf);
        if (!strstr(o.err.text, rows[i].word)) {
            fail_msg("\"%s\" does not say \"%s\"", o.err.text, rows[i].word);
        }
        image_close(&o);
    }
}

/* Only one of the arrays, or one that is none. */
static void test_half_of_the_metadata_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        image im = {0};
        image_begin(&im, 3);
        if (i == 0) {
            put_texts(&im, SHOAL_GGUF_OWN_NAMES, (const char *const[]){"codes"}, 1);
        } else if (i == 1) {
            put_texts(&im, SHOAL_GGUF_OWN_TYPES, (const char *const[]){"C3_128"}, 1);
        } else {
            put_texts(&im, SHOAL_GGUF_OWN_NAMES, (const char *const[]){"codes"}, 1);
            image_array(&im, SHOAL_GGUF_OWN_TYPES, SHOAL_GGUF_U8, 1);
            image_put(&im, 7, 1);
        }
        image_tensor(&im, "codes", SHOAL_TYPE_I8, 2, (const uint64_t[]){100, 3});
        image_end(&im);
        opened o;
        image_open(im.bytes.data, im.bytes.length, &o);
        assert_null(o.gguf);
        assert_non_null(strstr(o.err.text, "shoal.codes."));
        image_close(&o);
        image_fini(&im);
    }
}

/* The number itself is none of GGUF's. */
static void test_the_number_of_an_own_type_is_not_read(void **state)
{
    (void)state;
    image im = {0};
    image_begin(&im, 3);
    image_tensor(&im, "codes", SHOAL_TYPE_C3_128, 2, (const uint64_t[]){256, 3});
    image_end(&im);
    opened o;
    image_open(im.bytes.data, im.bytes.length, &o);
    assert_null(o.gguf);
    assert_int_equal(o.err.code, SHOAL_E_UNSUPPORTED);
    image_close(&o);
    image_fini(&im);
}

/* What the writer makes reads back; copies of the arrays do not get in its way. */
static void test_the_writer_says_what_is_own(void **state)
{
    (void)state;
    static const uint8_t codes[300];
    static const float numbers[4];
    shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    const claim stale = {.names = {"codes"}, .n_names = 1, .types = {"C2_32"}, .n_types = 1};
    opened old;
    open_claim(&stale, &old);
    assert_non_null(old.gguf);
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(old.gguf); i++) {
        assert_int_equal(shoal_gguf_put_raw(writer, shoal_gguf_key_at(old.gguf, i),
                                            shoal_gguf_raw_at(old.gguf, i)),
                         SHOAL_OK);
    }
    image_close(&old);
    assert_int_equal(
        shoal_gguf_put_tensor(writer, "x", SHOAL_TYPE_F32, (const uint64_t[]){4}, 1, numbers),
        SHOAL_OK);
    assert_int_equal(
        shoal_gguf_put_tensor(writer, "y", SHOAL_TYPE_S4_128, (const uint64_t[]){256, 3}, 2, codes),
        SHOAL_OK);
    /* Half a block. */
    assert_int_equal(
        shoal_gguf_put_tensor(writer, "z", SHOAL_TYPE_S4_128, (const uint64_t[]){192, 3}, 2, codes),
        SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(writer);
    opened o;
    image_open(buf.data, buf.length, &o);
    assert_string_equal(o.err.text, "");
    assert_int_equal(shoal_gguf_n_kv(o.gguf), 2);
    assert_int_equal(shoal_gguf_find_tensor(o.gguf, "x")->type, SHOAL_TYPE_F32);
    const shoal_gguf_tensor *y = shoal_gguf_find_tensor(o.gguf, "y");
    assert_int_equal(y->type, SHOAL_TYPE_S4_128);
    assert_int_equal(y->dims[0], 256);
    assert_int_equal(y->size_bytes, sizeof codes);
    image_close(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_named_tensors_have_their_type_and_shape),
        cmocka_unit_test(test_lies_are_refused_by_name),
        cmocka_unit_test(test_half_of_the_metadata_is_refused),
        cmocka_unit_test(test_the_number_of_an_own_type_is_not_read),
        cmocka_unit_test(test_the_writer_says_what_is_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
