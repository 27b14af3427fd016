/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "image.h"

#include "common/base/mem.h"

#include <string.h>

void image_put(image *im, uint64_t x, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        char c = (char)(uint8_t)(x >> (8 * i));
        assert_int_equal(shoal_buf_append(&im->bytes, &c, 1), SHOAL_OK);
    }
}

void image_text(image *im, const char *text, size_t n)
{
    image_put(im, n, 8);
    if (n > 0) {
        assert_int_equal(shoal_buf_append(&im->bytes, text, n), SHOAL_OK);
    }
}

void image_begin(image *im, uint32_t version)
{
    *im = (image){.alignment = 32};
    assert_int_equal(shoal_buf_append(&im->bytes, "GGUF", 4), SHOAL_OK);
    image_put(im, version, 4);
    image_put(im, 0, 8);
    image_put(im, 0, 8);
}

void image_pair(image *im, const char *key, shoal_gguf_kind kind)
{
    size_t at = im->bytes.length;
    image_text(im, key, strlen(key));
    if (im->n_pairs < IMAGE_PAIRS) {
        im->pairs[im->n_pairs].key = at;
        im->pairs[im->n_pairs].kind = im->bytes.length;
        im->pairs[im->n_pairs].value = im->bytes.length + 4;
    }
    im->n_pairs++;
    image_put(im, (uint64_t)kind, 4);
}

void image_array(image *im, const char *key, shoal_gguf_kind element, uint64_t n)
{
    image_pair(im, key, SHOAL_GGUF_ARRAY);
    image_put(im, (uint64_t)element, 4);
    image_put(im, n, 8);
}

void image_tensor(image *im, const char *name, shoal_type type, uint32_t n_dims,
                  const uint64_t *dims)
{
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    size_t at[5] = {im->bytes.length};
    image_text(im, name, strlen(name));
    at[1] = im->bytes.length;
    image_put(im, n_dims, 4);
    at[2] = im->bytes.length;
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        n *= dims[i];
        image_put(im, dims[i], 8);
    }
    at[3] = im->bytes.length;
    image_put(im, (uint64_t)type, 4);
    at[4] = im->bytes.length;
    image_put(im, im->data_bytes, 8);
    if (im->n_tensors < IMAGE_TENSORS) {
        im->tensors[im->n_tensors].name = at[0];
        im->tensors[im->n_tensors].n_dims = at[1];
        im->tensors[im->n_tensors].dims = at[2];
        im->tensors[im->n_tensors].type = at[3];
        im->tensors[im->n_tensors].offset = at[4];
    }
    im->n_tensors++;
    uint64_t end = im->data_bytes + n / info->block * info->block_bytes;
    im->data_bytes = (end + im->alignment - 1) / im->alignment * im->alignment;
}

void image_end(image *im)
{
    for (size_t i = 0; i < 8; i++) {
        im->bytes.data[8 + i] = (char)(uint8_t)(im->n_tensors >> (8 * i));
        im->bytes.data[16 + i] = (char)(uint8_t)(im->n_pairs >> (8 * i));
    }
    while (im->bytes.length % im->alignment != 0) {
        image_put(im, 0, 1);
    }
    im->data = im->bytes.length;
    for (uint64_t i = 0; i < im->data_bytes; i++) {
        image_put(im, i * 7 + 1, 1);
    }
}

void image_fini(image *im)
{
    shoal_buf_fini(&im->bytes);
}

static void put_plain(image *im)
{
    image_pair(im, "general.architecture", SHOAL_GGUF_STRING);
    image_text(im, "llama", 5);
    image_pair(im, "general.alignment", SHOAL_GGUF_U32);
    image_put(im, 32, 4);
    image_pair(im, "t.u8", SHOAL_GGUF_U8);
    image_put(im, 200, 1);
    image_pair(im, "t.i8", SHOAL_GGUF_I8);
    image_put(im, (uint64_t)-3, 1);
    image_pair(im, "t.u16", SHOAL_GGUF_U16);
    image_put(im, 60000, 2);
    image_pair(im, "t.i16", SHOAL_GGUF_I16);
    image_put(im, (uint64_t)-300, 2);
    image_pair(im, "t.u32", SHOAL_GGUF_U32);
    image_put(im, 4000000000u, 4);
    image_pair(im, "t.i32", SHOAL_GGUF_I32);
    image_put(im, 7, 4);
    image_pair(im, "t.f32", SHOAL_GGUF_F32);
    image_put(im, 0x3e800000, 4); /* 0.25 */
    image_pair(im, "t.bool", SHOAL_GGUF_BOOL);
    image_put(im, 1, 1);
    image_pair(im, "t.u64", SHOAL_GGUF_U64);
    image_put(im, UINT64_MAX, 8);
    image_pair(im, "t.i64", SHOAL_GGUF_I64);
    image_put(im, (uint64_t)INT64_MIN, 8);
    image_pair(im, "t.f64", SHOAL_GGUF_F64);
    image_put(im, 0xbfe0000000000000u, 8); /* -0.5 */
}

void image_good(image *im, uint32_t version)
{
    image_begin(im, version);
    put_plain(im);
    image_array(im, "t.strings", SHOAL_GGUF_STRING, 3);
    image_text(im, "<unk>", 5);
    image_text(im, "", 0);
    image_text(im, "a\0\"\n\xff\xe2\x96\x81", 8);
    image_array(im, "t.floats", SHOAL_GGUF_F32, 10);
    for (uint64_t i = 0; i < 10; i++) {
        image_put(im, 0x3f800000 + (i << 23), 4); /* 2^i */
    }
    image_array(im, "t.bools", SHOAL_GGUF_BOOL, 3);
    image_put(im, 0x010001, 3);
    image_array(im, "t.empty", SHOAL_GGUF_I32, 0);
    image_tensor(im, "a.weight", SHOAL_TYPE_F32, 2, (const uint64_t[]){4, 3});
    image_tensor(im, "b.weight", SHOAL_TYPE_Q8_0, 2, (const uint64_t[]){32, 2});
    image_tensor(im, "c.weight", SHOAL_TYPE_F16, 4, (const uint64_t[]){2, 2, 3, 1});
    image_tensor(im, "d.weight", SHOAL_TYPE_Q4_0, 1, (const uint64_t[]){64});
    image_end(im);
}

void image_open(const void *bytes, size_t n, opened *ret_opened)
{
    *ret_opened = (opened){.err = SHOAL_ERR_INIT};
    ret_opened->bytes = shoal_calloc(n, 1);
    assert_non_null(ret_opened->bytes);
    if (n > 0) {
        memcpy(ret_opened->bytes, bytes, n);
    }
    ret_opened->status = shoal_gguf_open(ret_opened->bytes, n, &ret_opened->gguf, &ret_opened->err);
}

void image_close(opened *o)
{
    shoal_gguf_close(o->gguf);
    shoal_free(o->bytes);
    *o = (opened){.err = SHOAL_ERR_INIT};
}
