/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gguf_walk.h"
#include "image.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

static const float numbers[8] = {1.0f, -2.0f, 0.5f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f};
static const uint8_t blocks[68] = {1, 2, 3};

static shoal_str str(const char *text)
{
    return (shoal_str){text, strlen(text)};
}

/* One of everything. */
static shoal_status put_all(shoal_gguf_writer *writer)
{
    const shoal_str texts[] = {{"<unk>", 5}, {"", 0}, {"a\0b", 3}};
    const int32_t ints[] = {INT32_MIN, -1, 0, INT32_MAX};
    SHOAL_TRY(shoal_gguf_put_str(writer, "general.architecture", "llama"));
    SHOAL_TRY(shoal_gguf_put_u32(writer, "n", UINT32_MAX));
    SHOAL_TRY(shoal_gguf_put_f32(writer, "eps", 1e-5f));
    SHOAL_TRY(shoal_gguf_put_bool(writer, "yes", true));
    SHOAL_TRY(shoal_gguf_put_bool(writer, "no", false));
    SHOAL_TRY(shoal_gguf_put_str_array(writer, "texts", texts, SHOAL_COUNT(texts)));
    SHOAL_TRY(shoal_gguf_put_f32_array(writer, "floats", numbers, SHOAL_COUNT(numbers)));
    SHOAL_TRY(shoal_gguf_put_i32_array(writer, "ints", ints, SHOAL_COUNT(ints)));
    SHOAL_TRY(shoal_gguf_put_i32_array(writer, "none", ints, 0));
    SHOAL_TRY(
        shoal_gguf_put_tensor(writer, "a", SHOAL_TYPE_F32, (const uint64_t[]){4, 2}, 2, numbers));
    return shoal_gguf_put_tensor(writer, "b", SHOAL_TYPE_Q8_0, (const uint64_t[]){32, 2}, 2,
                                 blocks);
}

static void test_finish_reads_back_as_it_was_put(void **state)
{
    (void)state;
    shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(put_all(writer), SHOAL_OK);
    /* Appended behind what is there, aligned to its own beginning. */
    assert_int_equal(shoal_buf_append(&buf, "front", 5), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(writer);
    opened o;
    image_open(buf.data + 5, buf.length - 5, &o);
    assert_string_equal(o.err.text, "");
    assert_int_equal(shoal_gguf_version(o.gguf), 3);
    uint64_t n = 0;
    double eps = 0.0;
    bool flag = true;
    assert_int_equal(shoal_gguf_get_u64(o.gguf, "n", &n, NULL), SHOAL_OK);
    assert_int_equal(n, UINT32_MAX);
    assert_int_equal(shoal_gguf_get_f64(o.gguf, "eps", &eps, NULL), SHOAL_OK);
    assert_true(eps == (double)1e-5f);
    assert_int_equal(shoal_gguf_get_bool(o.gguf, "no", &flag, NULL), SHOAL_OK);
    assert_false(flag);
    assert_int_equal(shoal_gguf_get_bool(o.gguf, "yes", &flag, NULL), SHOAL_OK);
    assert_true(flag);
    shoal_str text = shoal_gguf_array_str(o.gguf, "texts", 2);
    assert_int_equal(text.length, 3);
    assert_memory_equal(text.data, "a\0b", 3);
    assert_true(shoal_gguf_array_f64(o.gguf, "floats", 1) == -2.0);
    assert_int_equal(shoal_gguf_array_i64(o.gguf, "ints", 0), INT32_MIN);
    assert_int_equal(shoal_gguf_array_i64(o.gguf, "ints", 3), INT32_MAX);
    const shoal_gguf_tensor *a = shoal_gguf_find_tensor(o.gguf, "a");
    const shoal_gguf_tensor *b = shoal_gguf_find_tensor(o.gguf, "b");
    assert_memory_equal(a->data, numbers, sizeof(numbers));
    assert_memory_equal(b->data, blocks, sizeof(blocks));
    assert_int_equal(b->offset % 32, 0);
    image_close(&o);
}

static void test_put_same_key_again_replaces_it(void **state)
{
    (void)state;
    shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_str(writer, "x", "first"), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_u32(writer, "y", 1), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_u32(writer, "x", 2), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(writer);
    opened o;
    uint64_t x = 0;
    image_open(buf.data, buf.length, &o);
    assert_int_equal(o.status, SHOAL_OK);
    assert_int_equal(shoal_gguf_n_kv(o.gguf), 2);
    assert_int_equal(shoal_gguf_get_u64(o.gguf, "x", &x, NULL), SHOAL_OK);
    assert_int_equal(x, 2);
    image_close(&o);
}

static void test_put_raw_keeps_every_byte_but_not_the_alignment(void **state)
{
    (void)state;
    image im;
    opened o;
    image_good(&im, 3);
    image_open(im.bytes.data, im.bytes.length, &o);
    assert_int_equal(o.status, SHOAL_OK);
    shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(o.gguf); i++) {
        assert_int_equal(
            shoal_gguf_put_raw(writer, shoal_gguf_key_at(o.gguf, i), shoal_gguf_raw_at(o.gguf, i)),
            SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    shoal_gguf_writer_free(writer);
    opened copy;
    image_open(buf.data, buf.length, &copy);
    assert_int_equal(copy.status, SHOAL_OK);
    assert_int_equal(shoal_gguf_n_kv(copy.gguf), GOOD_PAIRS - 1);
    for (size_t i = 0; i < GOOD_PAIRS - 1; i++) {
        shoal_str got = shoal_gguf_raw_at(copy.gguf, i);
        shoal_str want = shoal_gguf_raw_at(o.gguf, i < GOOD_ALIGNMENT ? i : i + 1);
        assert_int_equal(got.length, want.length);
        assert_memory_equal(got.data, want.data, want.length);
    }
    image_close(&copy);
    image_close(&o);
    image_fini(&im);
}

static void test_put_what_a_reader_would_refuse_is_refused(void **state)
{
    (void)state;
    shoal_gguf_writer *writer = NULL;
    const uint64_t dims[5] = {32, 1, 1, 1, 1};
    char key[SHOAL_GGUF_KEY_MAX + 2];
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    memset(key, 'k', sizeof(key));
    key[SHOAL_GGUF_KEY_MAX + 1] = '\0';
    assert_int_equal(shoal_gguf_put_u32(writer, key, 1), SHOAL_E_LIMIT);
    key[SHOAL_GGUF_KEY_MAX] = '\0';
    assert_int_equal(shoal_gguf_put_u32(writer, key, 1), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_u32(writer, "", 1), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_u32(writer, "a\nb", 1), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_u32(writer, "\xff", 1), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_raw(writer, str("k"), str("k")), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_raw(writer, str("k"), (shoal_str){"\1\0\0\0\0\0\0\0j\0", 10}),
                     SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_f32_array(writer, "x", numbers, SHOAL_GGUF_ARRAY_MAX + 1),
                     SHOAL_E_LIMIT);
    key[SHOAL_GGUF_NAME_MAX + 1] = '\0';
    assert_int_equal(shoal_gguf_put_tensor(writer, key, SHOAL_TYPE_F32, dims, 1, blocks),
                     SHOAL_E_LIMIT);
    key[SHOAL_GGUF_NAME_MAX] = '\0';
    assert_int_equal(shoal_gguf_put_tensor(writer, key, SHOAL_TYPE_Q4_0, dims, 4, blocks),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_put_tensor(writer, key, SHOAL_TYPE_Q4_0, dims, 4, blocks),
                     SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_tensor(writer, "", SHOAL_TYPE_F32, dims, 1, blocks),
                     SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_tensor(writer, "t", SHOAL_TYPE_F32, dims, 0, blocks),
                     SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_put_tensor(writer, "t", SHOAL_TYPE_F32, dims, 5, blocks),
                     SHOAL_E_LIMIT);
    assert_int_equal(shoal_gguf_put_tensor(writer, "t", (shoal_type)4, dims, 1, blocks),
                     SHOAL_E_INVALID);
    const uint64_t bad[][2] = {{0, 1}, {32, 0}, {33, 1}, {UINT64_MAX, 32}, {1ull << 62, 4}};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(shoal_gguf_put_tensor(writer, "t", SHOAL_TYPE_Q8_0, bad[i], 2, blocks),
                         SHOAL_E_INVALID);
    }
    shoal_gguf_writer_free(writer);
}

static void test_finish_into_a_full_buffer_leaves_it_as_it_was(void **state)
{
    (void)state;
    shoal_gguf_writer *writer = NULL;
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(put_all(writer), SHOAL_OK);
    for (size_t limit = 5; limit < 600; limit += 7) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {.limit = limit};
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_buf_append(&buf, "front", 5), SHOAL_OK);
        shoal_status status = shoal_gguf_writer_finish(writer, &buf, &err);
        if (status != SHOAL_OK) {
            assert_int_equal(status, SHOAL_E_LIMIT);
            assert_int_equal(err.code, SHOAL_E_LIMIT);
            assert_string_equal(buf.data, "front");
            assert_int_equal(buf.length, 5);
        }
    }
    shoal_gguf_writer_free(writer);
}

static shoal_status write_all(shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_TRY(shoal_gguf_writer_new(&writer));
    SHOAL_TRY(put_all(writer));
    /* More than the first capacity of every table. */
    for (unsigned i = 0; i < 40; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "extra.%u", i);
        SHOAL_TRY(shoal_gguf_put_u32(writer, name, i));
        SHOAL_TRY(
            shoal_gguf_put_tensor(writer, name, SHOAL_TYPE_F32, (const uint64_t[]){8}, 1, numbers));
    }
    return shoal_gguf_writer_finish(writer, buf, NULL);
}

static void test_writing_survives_every_failing_allocation(void **state)
{
    (void)state;
    for (uint64_t i = 0;; i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
        shoal_mem_fail_at(i);
        shoal_status status = write_all(&buf);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            shoal_err err = SHOAL_ERR_INIT;
            assert_true(i > 100);
            assert_int_equal(gguf_walk((uint8_t *)buf.data, buf.length, &err), SHOAL_OK);
            break;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
        assert_int_equal(buf.length, 0);
    }
    shoal_gguf_writer_free(NULL);
}

/* The head with the tensors put after it by hand is the file that finish makes. */
static void test_head_and_tensors_by_hand_make_the_same_file(void **state)
{
    (void)state;
    const uint32_t alignments[] = {32, 64, 4096, SHOAL_GGUF_ALIGNMENT_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(alignments); i++) {
        SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf parts = {0};
        assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
        assert_int_equal(put_all(writer), SHOAL_OK);
        assert_int_equal(shoal_gguf_writer_align(writer, alignments[i]), SHOAL_OK);
        assert_int_equal(shoal_gguf_writer_finish(writer, &whole, NULL), SHOAL_OK);
        assert_int_equal(shoal_gguf_writer_head(writer, &parts, NULL), SHOAL_OK);
        const struct {
            const void *data;
            size_t n;
        } tensors[] = {{numbers, sizeof numbers}, {blocks, sizeof blocks}};
        for (size_t t = 0; t < SHOAL_COUNT(tensors); t++) {
            assert_int_equal(shoal_buf_append(&parts, tensors[t].data, tensors[t].n), SHOAL_OK);
            for (size_t n = shoal_gguf_writer_padding(writer, tensors[t].n); n > 0; n--) {
                assert_int_equal(shoal_buf_append(&parts, "\0", 1), SHOAL_OK);
            }
        }
        assert_int_equal(parts.length, whole.length);
        assert_memory_equal(parts.data, whole.data, whole.length);
        opened o;
        image_open(whole.data, whole.length, &o);
        assert_string_equal(o.err.text, "");
        for (size_t t = 0; t < SHOAL_COUNT(tensors); t++) {
            const shoal_gguf_tensor *tensor = shoal_gguf_tensor_at(o.gguf, t);
            assert_int_equal(tensor->offset % alignments[i], 0);
            assert_memory_equal(tensor->data, tensors[t].data, tensors[t].n);
        }
        image_close(&o);
    }
}

static void test_alignment_and_missing_bytes_are_refused(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    const uint32_t wrong[] = {0, 16, 31, 33, 48, 2 * SHOAL_GGUF_ALIGNMENT_MAX};
    for (size_t i = 0; i < SHOAL_COUNT(wrong); i++) {
        assert_int_equal(shoal_gguf_writer_align(writer, wrong[i]), SHOAL_E_INVALID);
    }
    assert_int_equal(
        shoal_gguf_put_tensor(writer, "a", SHOAL_TYPE_F32, (const uint64_t[]){4}, 1, NULL),
        SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_E_INVALID);
    assert_int_equal(buf.length, 0);
    assert_int_equal(shoal_gguf_writer_head(writer, &buf, NULL), SHOAL_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finish_reads_back_as_it_was_put),
        cmocka_unit_test(test_put_same_key_again_replaces_it),
        cmocka_unit_test(test_put_raw_keeps_every_byte_but_not_the_alignment),
        cmocka_unit_test(test_put_what_a_reader_would_refuse_is_refused),
        cmocka_unit_test(test_finish_into_a_full_buffer_leaves_it_as_it_was),
        cmocka_unit_test(test_head_and_tensors_by_hand_make_the_same_file),
        cmocka_unit_test(test_alignment_and_missing_bytes_are_refused),
        cmocka_unit_test(test_writing_survives_every_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
