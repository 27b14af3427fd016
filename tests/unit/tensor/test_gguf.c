/* SPDX-License-Identifier: Apache-2.0
 *
 * What a good file says, and files at every limit.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gguf_walk.h"
#include "image.h"

#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/tensor/gguf_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void assert_open(const image *im, opened *o)
{
    image_open(im->bytes.data, im->bytes.length, o);
    assert_string_equal(o->err.text, "");
    assert_int_equal(o->status, SHOAL_OK);
}

static void test_open_good_file_says_what_was_put(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        image im;
        opened o;
        image_good(&im, version);
        assert_open(&im, &o);
        assert_int_equal(shoal_gguf_version(o.gguf), version);
        assert_int_equal(shoal_gguf_n_kv(o.gguf), GOOD_PAIRS);
        assert_int_equal(shoal_gguf_n_tensors(o.gguf), 4);
        const shoal_gguf_tensor *b = shoal_gguf_find_tensor(o.gguf, "b.weight");
        assert_ptr_equal(b, shoal_gguf_tensor_at(o.gguf, 1));
        assert_int_equal(b->type, SHOAL_TYPE_Q8_0);
        assert_int_equal(b->n_dims, 2);
        assert_int_equal(b->dims[0], 32);
        assert_int_equal(b->dims[1], 2);
        assert_int_equal(b->dims[2] * b->dims[3], 1);
        assert_int_equal(b->size_bytes, 68);
        assert_int_equal(b->offset, 64);
        assert_memory_equal(b->data, im.bytes.data + im.data + 64, 68);
        assert_null(shoal_gguf_find_tensor(o.gguf, "b.weigh"));
        assert_null(shoal_gguf_find_tensor(o.gguf, ""));
        image_close(&o);
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(gguf_walk((uint8_t *)im.bytes.data, im.bytes.length, &err), SHOAL_OK);
        image_fini(&im);
    }
}

static void test_get_integers_convert_when_they_fit(void **state)
{
    (void)state;
    image im;
    opened o;
    image_good(&im, 3);
    assert_open(&im, &o);
    const struct {
        const char *key;
        uint64_t value;
    } good[] = {{"t.u8", 200},
                {"t.u16", 60000},
                {"t.u32", 4000000000u},
                {"t.u64", UINT64_MAX},
                {"t.i32", 7}};
    for (size_t i = 0; i < SHOAL_COUNT(good); i++) {
        uint64_t value = 0;
        assert_int_equal(shoal_gguf_get_u64(o.gguf, good[i].key, &value, NULL), SHOAL_OK);
        assert_true(value == good[i].value);
    }
    const char *const bad[] = {"t.i8",   "t.i16",     "t.i64",    "t.f32",
                               "t.bool", "t.strings", "t.floats", "general.architecture"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        uint64_t value = 77;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_gguf_get_u64(o.gguf, bad[i], &value, &err), SHOAL_E_INVALID);
        assert_int_equal(value, 77);
        assert_non_null(strstr(err.text, bad[i]));
    }
    uint64_t value = 0;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_gguf_get_u64(o.gguf, "t.none", &value, &err), SHOAL_E_NOTFOUND);
    assert_string_equal(err.text, "metadata \"t.none\" is missing");
    image_close(&o);
    image_fini(&im);
}

static void test_get_numbers_texts_and_bools(void **state)
{
    (void)state;
    image im;
    opened o;
    image_good(&im, 3);
    assert_open(&im, &o);
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"t.f32", 0.25},   {"t.f64", -0.5},    {"t.i8", -3.0},
                   {"t.i16", -300.0}, {"t.i64", -0x1p63}, {"t.u64", 0x1p64}};
    for (size_t i = 0; i < SHOAL_COUNT(numbers); i++) {
        double x = 0.0;
        assert_int_equal(shoal_gguf_get_f64(o.gguf, numbers[i].key, &x, NULL), SHOAL_OK);
        assert_true(x == numbers[i].value);
    }
    double x = 0.0;
    bool flag = false;
    shoal_str text;
    assert_int_equal(shoal_gguf_get_f64(o.gguf, "t.bool", &x, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_get_bool(o.gguf, "t.bool", &flag, NULL), SHOAL_OK);
    assert_true(flag);
    assert_int_equal(shoal_gguf_get_bool(o.gguf, "t.u8", &flag, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_get_bool(o.gguf, "t", &flag, NULL), SHOAL_E_NOTFOUND);
    assert_int_equal(shoal_gguf_get_str(o.gguf, "general.architecture", &text, NULL), SHOAL_OK);
    assert_int_equal(text.length, 5);
    assert_memory_equal(text.data, "llama", 5);
    assert_int_equal(shoal_gguf_get_str(o.gguf, "t.strings", &text, NULL), SHOAL_E_INVALID);
    image_close(&o);
    image_fini(&im);
}

static void test_arrays_give_their_elements(void **state)
{
    (void)state;
    image im;
    opened o;
    image_good(&im, 3);
    assert_open(&im, &o);
    shoal_gguf_kind element = SHOAL_GGUF_U8;
    size_t n = 0;
    assert_int_equal(shoal_gguf_get_array(o.gguf, "t.strings", &element, &n, NULL), SHOAL_OK);
    assert_int_equal(element, SHOAL_GGUF_STRING);
    assert_int_equal(n, 3);
    shoal_str s = shoal_gguf_array_str(o.gguf, "t.strings", 2);
    assert_int_equal(s.length, 8);
    assert_memory_equal(s.data, "a\0\"\n\xff\xe2\x96\x81", 8);
    assert_int_equal(shoal_gguf_array_str(o.gguf, "t.strings", 1).length, 0);
    assert_int_equal(shoal_gguf_get_array(o.gguf, "t.floats", &element, &n, NULL), SHOAL_OK);
    assert_int_equal(n, 10);
    for (size_t i = 0; i < n; i++) {
        assert_true(shoal_gguf_array_f64(o.gguf, "t.floats", i) == (double)(1 << i));
    }
    assert_int_equal(shoal_gguf_array_i64(o.gguf, "t.bools", 1), 0);
    assert_int_equal(shoal_gguf_array_i64(o.gguf, "t.bools", 2), 1);
    shoal_str two[2];
    shoal_gguf_array_strs(o.gguf, "t.strings", 1, 2, two);
    assert_int_equal(two[0].length, 0);
    assert_ptr_equal(two[1].data, s.data);
    shoal_gguf_array_strs(o.gguf, "t.strings", 3, 0, two); /* nothing, at the end */
    double floats[4] = {0.0};
    shoal_gguf_array_f64s(o.gguf, "t.floats", 6, 4, floats);
    assert_true(floats[0] == 64.0 && floats[3] == 512.0);
    int64_t bools[2] = {7, 7};
    shoal_gguf_array_i64s(o.gguf, "t.bools", 1, 2, bools);
    assert_true(bools[0] == 0 && bools[1] == 1);
    shoal_str raw = shoal_gguf_array_bytes(o.gguf, "t.floats");
    assert_int_equal(raw.length, 40);
    raw = shoal_gguf_array_bytes(o.gguf, "t.strings");
    assert_ptr_equal(raw.data + raw.length, s.data + s.length); /* the last one's end */
    assert_int_equal(shoal_gguf_get_array(o.gguf, "t.empty", &element, &n, NULL), SHOAL_OK);
    assert_int_equal(n, 0);
    assert_int_equal(shoal_gguf_get_array(o.gguf, "t.u8", &element, &n, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_kind_at(o.gguf, GOOD_FLOATS, &element, &n), SHOAL_GGUF_ARRAY);
    assert_int_equal(element, SHOAL_GGUF_F32);
    image_close(&o);
    image_fini(&im);
}

/* Every width and sign of integer arrays, at their extremes. */
static void test_integer_arrays_keep_sign_and_width(void **state)
{
    (void)state;
    const struct {
        shoal_gguf_kind kind;
        size_t bytes;
        int64_t min;
        int64_t max;
    } kinds[] = {
        {SHOAL_GGUF_U8, 1, 0, UINT8_MAX},   {SHOAL_GGUF_I8, 1, INT8_MIN, INT8_MAX},
        {SHOAL_GGUF_U16, 2, 0, UINT16_MAX}, {SHOAL_GGUF_I16, 2, INT16_MIN, INT16_MAX},
        {SHOAL_GGUF_U32, 4, 0, UINT32_MAX}, {SHOAL_GGUF_I32, 4, INT32_MIN, INT32_MAX},
        {SHOAL_GGUF_U64, 8, 0, INT64_MAX},  {SHOAL_GGUF_I64, 8, INT64_MIN, INT64_MAX},
    };
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        image im;
        opened o;
        image_begin(&im, 3);
        image_array(&im, "x", kinds[i].kind, 2);
        image_put(&im, (uint64_t)kinds[i].min, kinds[i].bytes);
        image_put(&im, (uint64_t)kinds[i].max, kinds[i].bytes);
        image_end(&im);
        assert_open(&im, &o);
        assert_true(shoal_gguf_array_i64(o.gguf, "x", 0) == kinds[i].min);
        assert_true(shoal_gguf_array_i64(o.gguf, "x", 1) == kinds[i].max);
        image_close(&o);
        image_fini(&im);
    }
}

static void test_render_is_for_people_and_safe_for_terminals(void **state)
{
    (void)state;
    image im;
    opened o;
    image_good(&im, 3);
    assert_open(&im, &o);
    const struct {
        size_t i;
        const char *text;
    } want[] = {
        {GOOD_ARCHITECTURE, "\"llama\""},
        {GOOD_U8, "200"},
        {GOOD_I8, "-3"},
        {GOOD_I16, "-300"},
        {GOOD_F32, "0.25"},
        {GOOD_BOOL, "true"},
        {GOOD_U64, "18446744073709551615"},
        {GOOD_I64, "-9223372036854775808"},
        {GOOD_F64, "-0.5"},
        {GOOD_STRINGS, "[\"<unk>\", \"\", \"a\\x00\\\"\\n\\xff\xe2\x96\x81\"]"},
        {GOOD_FLOATS, "[1, 2, 4, 8, 16, 32, 64, 128, ... (10 elements)]"},
        {GOOD_BOOLS, "[true, false, true]"},
        {GOOD_EMPTY, "[]"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(want); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        assert_int_equal(shoal_gguf_render_at(o.gguf, want[i].i, &buf), SHOAL_OK);
        assert_string_equal(buf.data, want[i].text);
    }
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf small = {.limit = 3};
    assert_int_equal(shoal_gguf_render_at(o.gguf, GOOD_FLOATS, &small), SHOAL_E_LIMIT);
    image_close(&o);
    image_fini(&im);
}

static void test_siphash_matches_the_published_vector(void **state)
{
    (void)state;
    /* The paper's appendix A: key 00..0f, message 00..0e. */
    uint8_t message[15];
    for (size_t i = 0; i < sizeof(message); i++) {
        message[i] = (uint8_t)i;
    }
    const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    assert_true(shoal_siphash(key, message, sizeof(message)) == 0xa129ca6149be45e5u);
}

/* --- limits ---------------------------------------------------------------------------------- */

static shoal_status open_and_end(image *im)
{
    opened o;
    image_end(im);
    image_open(im->bytes.data, im->bytes.length, &o);
    shoal_status status = o.status;
    if (status != SHOAL_OK) {
        assert_int_not_equal(o.err.text[0], 0);
    }
    image_close(&o);
    image_fini(im);
    return status;
}

static void test_names_and_keys_at_their_limits(void **state)
{
    (void)state;
    char name[SHOAL_GGUF_KEY_MAX + 2];
    const size_t lengths[] = {SHOAL_GGUF_NAME_MAX - 1, SHOAL_GGUF_NAME_MAX, SHOAL_GGUF_NAME_MAX + 1,
                              SHOAL_GGUF_KEY_MAX - 1,  SHOAL_GGUF_KEY_MAX,  SHOAL_GGUF_KEY_MAX + 1};
    for (size_t i = 0; i < SHOAL_COUNT(lengths); i++) {
        memset(name, 'n', lengths[i]);
        name[lengths[i]] = '\0';
        image im;
        image_begin(&im, 3);
        image_tensor(&im, name, SHOAL_TYPE_F32, 1, (const uint64_t[]){1});
        assert_int_equal(open_and_end(&im),
                         lengths[i] <= SHOAL_GGUF_NAME_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
        image_begin(&im, 3);
        image_pair(&im, name, SHOAL_GGUF_U8);
        image_put(&im, 1, 1);
        assert_int_equal(open_and_end(&im),
                         lengths[i] <= SHOAL_GGUF_KEY_MAX ? SHOAL_OK : SHOAL_E_LIMIT);
    }
}

static void test_alignment_takes_powers_of_two_from_8_to_65536(void **state)
{
    (void)state;
    const struct {
        uint64_t alignment;
        shoal_status status;
    } cases[] = {{0, SHOAL_E_INVALID},
                 {1, SHOAL_E_INVALID},
                 {4, SHOAL_E_INVALID},
                 {8, SHOAL_OK},
                 {16, SHOAL_OK},
                 {24, SHOAL_E_INVALID},
                 {64, SHOAL_OK},
                 {32768, SHOAL_OK},
                 {65536, SHOAL_OK},
                 {65537, SHOAL_E_INVALID},
                 {131072, SHOAL_E_INVALID},
                 {1u << 31, SHOAL_E_INVALID}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        image im;
        image_begin(&im, 3);
        if (cases[i].status == SHOAL_OK) {
            im.alignment = cases[i].alignment;
        }
        image_pair(&im, "general.alignment", SHOAL_GGUF_U32);
        image_put(&im, cases[i].alignment, 4);
        image_tensor(&im, "a", SHOAL_TYPE_F32, 1, (const uint64_t[]){3});
        image_tensor(&im, "b", SHOAL_TYPE_F32, 1, (const uint64_t[]){3});
        assert_int_equal(open_and_end(&im), cases[i].status);
    }
}

/* Values of 16 MiB are appended whole: byte by byte would take seconds under a sanitizer. */
static shoal_status open_with_big_value(shoal_gguf_kind kind, uint64_t n)
{
    image im;
    image_begin(&im, 3);
    if (kind == SHOAL_GGUF_STRING) {
        image_pair(&im, "x", kind);
        image_put(&im, n, 8);
    } else {
        image_array(&im, "x", kind, n);
    }
    char *zeros = shoal_calloc((size_t)n, 1);
    assert_non_null(zeros);
    assert_int_equal(shoal_buf_append(&im.bytes, zeros, (size_t)n), SHOAL_OK);
    shoal_free(zeros);
    return open_and_end(&im);
}

static void test_strings_and_arrays_at_their_limits(void **state)
{
    (void)state;
    for (uint64_t d = 0; d < 3; d++) {
        shoal_status want = d < 2 ? SHOAL_OK : SHOAL_E_LIMIT;
        assert_int_equal(open_with_big_value(SHOAL_GGUF_STRING, SHOAL_GGUF_STRING_MAX - 1 + d),
                         want);
        assert_int_equal(open_with_big_value(SHOAL_GGUF_U8, SHOAL_GGUF_ARRAY_MAX - 1 + d), want);
        assert_int_equal(open_with_big_value(SHOAL_GGUF_BOOL, SHOAL_GGUF_ARRAY_MAX - 1 + d), want);
    }
}

static void test_counts_at_their_limits(void **state)
{
    (void)state;
    for (uint64_t d = 0; d < 3; d++) {
        shoal_status want = d < 2 ? SHOAL_OK : SHOAL_E_LIMIT;
        image im;
        char name[24];
        image_begin(&im, 3);
        for (uint64_t i = 0; i < SHOAL_GGUF_KV_MAX - 1 + d; i++) {
            (void)snprintf(name, sizeof(name), "k%u", (unsigned)i);
            image_pair(&im, name, SHOAL_GGUF_BOOL);
            image_put(&im, 1, 1);
        }
        assert_int_equal(open_and_end(&im), want);
        image_begin(&im, 3);
        im.alignment = 8;
        image_pair(&im, "general.alignment", SHOAL_GGUF_U32);
        image_put(&im, 8, 4);
        for (uint64_t i = 0; i < SHOAL_GGUF_TENSORS_MAX - 1 + d; i++) {
            (void)snprintf(name, sizeof(name), "t%u", (unsigned)i);
            image_tensor(&im, name, SHOAL_TYPE_F32, 1, (const uint64_t[]){1});
        }
        assert_int_equal(open_and_end(&im), want);
    }
}

static void test_open_survives_every_failing_allocation(void **state)
{
    (void)state;
    image im;
    image_good(&im, 3);
    for (uint64_t i = 0;; i++) {
        shoal_gguf *gguf = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_mem_fail_at(i);
        shoal_status status =
            shoal_gguf_open((uint8_t *)im.bytes.data, im.bytes.length, &gguf, &err);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i > 5);
            shoal_gguf_close(gguf);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_int_equal(err.code, SHOAL_E_NOMEM);
        assert_null(gguf);
    }
    image_fini(&im);
    shoal_gguf_close(NULL);
}

static void test_real_files_open_and_can_be_copied(void **state)
{
    (void)state;
    const char *const files[] = {"models/stories260K.gguf", "models/stories3M-f32.gguf",
                                 "tokenizers/ggml-vocab-gpt-2.gguf",
                                 "tokenizers/ggml-vocab-llama-spm.gguf"};
    const char *root = getenv("SHOAL_SOURCE_DIR");
    int n_seen = 0;
    for (size_t i = 0; root != NULL && i < SHOAL_COUNT(files); i++) {
        char path[1024];
        shoal_map map = {0};
        shoal_err err = SHOAL_ERR_INIT;
        (void)snprintf(path, sizeof(path), "%s/../shared/%s", root, files[i]);
        if (shoal_map_open(path, &map, NULL) == SHOAL_OK) {
            n_seen++;
            assert_int_equal(gguf_walk(map.data, map.size, &err), SHOAL_OK);
            shoal_map_close(&map);
        }
    }
    if (n_seen == 0) {
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_good_file_says_what_was_put),
        cmocka_unit_test(test_get_integers_convert_when_they_fit),
        cmocka_unit_test(test_get_numbers_texts_and_bools),
        cmocka_unit_test(test_arrays_give_their_elements),
        cmocka_unit_test(test_integer_arrays_keep_sign_and_width),
        cmocka_unit_test(test_render_is_for_people_and_safe_for_terminals),
        cmocka_unit_test(test_siphash_matches_the_published_vector),
        cmocka_unit_test(test_names_and_keys_at_their_limits),
        cmocka_unit_test(test_alignment_takes_powers_of_two_from_8_to_65536),
        cmocka_unit_test(test_strings_and_arrays_at_their_limits),
        cmocka_unit_test(test_counts_at_their_limits),
        cmocka_unit_test(test_open_survives_every_failing_allocation),
        cmocka_unit_test(test_real_files_open_and_can_be_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
