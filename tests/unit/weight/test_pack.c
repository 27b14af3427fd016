/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed files: every type there and back, the same file from any number of threads, and what is
 * refused: metadata that lies, damage anywhere, a digest that is not the blocks'.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "every_type.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/weight/pack_internal.h"
#include "tests/support/random.h"

#include <stdio.h>
#include <string.h>

enum {
    K = 512,
    N_ROWS = 37, /* two whole panels and a ragged one */
    FP8_ROWS = 130,
    FP8_K = 200,
    TENSORS_MAX = SHOAL_COUNT(types) + 6
};

/* A file in memory at a multiple of 64 bytes. */
typedef struct image {
    uint8_t *data;
    size_t n;
    size_t capacity;
} image;

static void image_fini(image *im)
{
    shoal_free(im->data);
}

static shoal_status append(void *ctx, const void *data, size_t n, shoal_err *err)
{
    image *im = ctx;
    if (n > im->capacity - im->n) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "the image is full");
    }
    memcpy(im->data + im->n, data, n);
    im->n += n;
    return SHOAL_OK;
}

static image image_new(size_t capacity)
{
    image im = {.data = shoal_calloc_aligned(capacity, 1), .capacity = capacity};
    assert_non_null(im.data);
    return im;
}

/* Adds n values as one tensor of the type. */
static void put(shoal_gguf_writer *writer, void **owned, const char *name, shoal_type type,
                const uint64_t *dims, uint32_t n_dims, uint64_t *rng)
{
    size_t n = 1;
    for (uint32_t d = 0; d < n_dims; d++) {
        n *= (size_t)dims[d];
    }
    const shoal_type_info *info = shoal_type_find((uint32_t)type);
    float *x = shoal_calloc(n, sizeof *x);
    *owned = shoal_calloc(n / info->block, info->block_bytes);
    assert_true(x && *owned);
    for (size_t i = 0; i < n; i++) {
        x[i] = test_signed(rng);
    }
    assert_int_equal(shoal_weight_encode(type, x, n, *owned, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_tensor(writer, name, type, dims, n_dims, *owned), SHOAL_OK);
    shoal_free(x);
}

static void put_fp8(shoal_gguf_writer *writer, void **owned, uint64_t *rng)
{
    float *x = shoal_calloc(FP8_ROWS * FP8_K, sizeof *x);
    uint8_t *codes = shoal_calloc(FP8_ROWS, FP8_K);
    float *scales = shoal_calloc(4, sizeof *scales);
    assert_true(x && codes && scales);
    for (size_t i = 0; i < (size_t)FP8_ROWS * FP8_K; i++) {
        x[i] = test_signed(rng);
    }
    assert_int_equal(shoal_fp8_encode(x, 128, FP8_K, codes, scales), SHOAL_OK);
    assert_int_equal(shoal_fp8_encode(x + 128 * FP8_K, 2, FP8_K, codes + 128 * FP8_K, scales + 2),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_put_str(writer, SHOAL_FP8_KEY, SHOAL_FP8_FORMAT), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_tensor(writer, "f.weight", SHOAL_TYPE_I8,
                                           (const uint64_t[]){FP8_K, FP8_ROWS}, 2, codes),
                     SHOAL_OK);
    assert_int_equal(shoal_gguf_put_tensor(writer, "f.weight_scale", SHOAL_TYPE_F32,
                                           (const uint64_t[]){2, 2}, 2, scales),
                     SHOAL_OK);
    owned[0] = codes;
    owned[1] = scales;
    shoal_free(x);
}

/* One matrix of every type, a stack whose matrices end inside a panel, and what is not packed. */
static image plain_image(void)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    void *owned[TENSORS_MAX] = {0};
    size_t n = 0;
    uint64_t rng = 7;
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(shoal_gguf_put_str(writer, "general.name", "packed"), SHOAL_OK);
    put(writer, &owned[n++], "norm.weight", SHOAL_TYPE_F32, (const uint64_t[]){K}, 1, &rng);
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        put(writer, &owned[n++], shoal_type_find((uint32_t)types[i])->name, types[i],
            (const uint64_t[]){K, N_ROWS}, 2, &rng);
    }
    put(writer, &owned[n++], "stack", SHOAL_TYPE_Q4_0, (const uint64_t[]){64, 5, 3}, 3, &rng);
    put(writer, &owned[n++], "row", SHOAL_TYPE_F16, (const uint64_t[]){K, 1}, 2, &rng);
    put_fp8(writer, &owned[n], &rng);
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    image im = image_new(buf.length);
    assert_int_equal(append(&im, buf.data, buf.length, NULL), SHOAL_OK);
    for (size_t i = 0; i < SHOAL_COUNT(owned); i++) {
        shoal_free(owned[i]);
    }
    return im;
}

static shoal_gguf *open_image(const image *im)
{
    shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = shoal_pack_open(im->data, im->n, &gguf, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, SHOAL_OK);
    return gguf;
}

static shoal_pool *pool_of(size_t n)
{
    shoal_pool *pool = NULL;
    assert_int_equal(shoal_pool_new(n, &pool), SHOAL_OK);
    return pool;
}

static image packed_image(const image *plain, shoal_pool *pool)
{
    shoal_gguf *gguf = open_image(plain);
    shoal_err err = SHOAL_ERR_INIT;
    image im = image_new(4 * plain->n + 65536);
    size_t n_packed = 0;
    assert_int_equal(shoal_pack_write(gguf, pool, append, &im, &n_packed, &err), SHOAL_OK);
    assert_string_equal(err.text, "");
    assert_int_equal(n_packed, SHOAL_COUNT(types) + 2);
    shoal_gguf_close(gguf);
    return im;
}

/* What every test here works on. */
typedef struct rig {
    shoal_pool *pool;
    image plain;
    image packed;
} rig;

static int setup(void **state)
{
    rig *r = shoal_calloc(1, sizeof *r);
    assert_non_null(r);
    r->pool = pool_of(2);
    r->plain = plain_image();
    r->packed = packed_image(&r->plain, r->pool);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    rig *r = *state;
    shoal_pool_free(r->pool);
    image_fini(&r->plain);
    image_fini(&r->packed);
    shoal_free(r);
    return 0;
}

static bool is_matrix(const shoal_gguf_tensor *t)
{
    return t->dims[1] > 1 &&
           !(t->name.length == 14 && memcmp(t->name.data, "f.weight_scale", 14) == 0);
}

/* --- there and back -------------------------------------------------------------------------- */

static void test_packed_file_holds_the_same_model(void **state)
{
    rig *r = *state;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *plain = open_image(&r->plain);
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *packed = open_image(&r->packed);
    assert_false(shoal_pack_is_packed(plain));
    assert_true(shoal_pack_is_packed(packed));
    assert_int_equal(shoal_pack_check(packed, r->pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_pack_verify(packed, r->pool, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_n_tensors(packed), shoal_gguf_n_tensors(plain));
    for (size_t i = 0; i < shoal_gguf_n_tensors(plain); i++) {
        const shoal_gguf_tensor *a = shoal_gguf_tensor_at(plain, i);
        const shoal_gguf_tensor *b = shoal_gguf_tensor_at(packed, i);
        assert_int_equal(b->packed, is_matrix(a));
        assert_int_equal(a->type, b->type);
        assert_int_equal(a->n_dims, b->n_dims);
        assert_memory_equal(a->dims, b->dims, sizeof a->dims);
        shoal_hash ha;
        shoal_hash hb;
        assert_int_equal(shoal_pack_digest(plain, a, r->pool, &ha, NULL), SHOAL_OK);
        assert_int_equal(shoal_pack_digest(packed, b, r->pool, &hb, NULL), SHOAL_OK);
        assert_memory_equal(&ha, &hb, sizeof ha);
        if (!b->packed) {
            assert_memory_equal(a->data, b->data, a->size_bytes);
        }
    }
}

/* Panels of rows [row, row + n) are the same bytes from either file, wherever the rows begin. */
static void test_weights_of_both_files_are_the_same_panels(void **state)
{
    rig *r = *state;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *plain = open_image(&r->plain);
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *packed = open_image(&r->packed);
    for (size_t i = 0; i < shoal_gguf_n_tensors(plain); i++) {
        const shoal_gguf_tensor *a = shoal_gguf_tensor_at(plain, i);
        const shoal_gguf_tensor *b = shoal_gguf_tensor_at(packed, i);
        if (!is_matrix(a)) {
            continue;
        }
        size_t n_rows = (size_t)(a->dims[1] * a->dims[2]);
        const size_t ranges[][2] = {{0, n_rows}, {0, 5}, {5, 5}, {1, n_rows - 1}, {14, 1}};
        for (size_t j = 0; j < SHOAL_COUNT(ranges); j++) {
            size_t row = ranges[j][0];
            size_t n = ranges[j][1];
            shoal_weight *wa = NULL;
            shoal_weight *wb = NULL;
            assert_int_equal(shoal_weight_load(plain, a, row, n, r->pool, &wa, NULL), SHOAL_OK);
            assert_int_equal(shoal_weight_load(packed, b, row, n, r->pool, &wb, NULL), SHOAL_OK);
            assert_int_equal(shoal_weight_bytes(wa), shoal_weight_bytes(wb));
            if (row != 0 || n == n_rows) {
                size_t na = 0;
                size_t nb = 0;
                const void *pa = shoal_weight_panels(wa, &na);
                const void *pb = shoal_weight_panels(wb, &nb);
                assert_int_equal(na, nb);
                assert_memory_equal(pa, pb, na);
            }
            size_t k = shoal_weight_k(wa);
            uint8_t *blocks = shoal_calloc(2 * n * k, sizeof(float));
            size_t bytes = (size_t)a->size_bytes / n_rows * n;
            assert_non_null(blocks);
            assert_int_equal(shoal_weight_blocks(a, row, n, blocks, NULL), SHOAL_OK);
            assert_int_equal(shoal_weight_blocks(b, row, n, blocks + bytes, NULL), SHOAL_OK);
            assert_memory_equal(blocks, a->data + a->size_bytes / n_rows * row, bytes);
            assert_memory_equal(blocks, blocks + bytes, bytes);
            shoal_free(blocks);
            shoal_weight_free(wa);
            shoal_weight_free(wb);
        }
    }
}

static void test_file_is_the_same_for_any_number_of_threads(void **state)
{
    rig *r = *state;
    for (size_t n = 1; n <= 5; n += 2) {
        shoal_pool *pool = pool_of(n);
        image im = packed_image(&r->plain, pool);
        assert_int_equal(im.n, r->packed.n);
        assert_memory_equal(im.data, r->packed.data, im.n);
        image_fini(&im);
        shoal_pool_free(pool);
    }
}

static void test_packing_a_packed_file_is_refused(void **state)
{
    rig *r = *state;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *packed = open_image(&r->packed);
    image im = image_new(64);
    size_t n = 0;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_pack_write(packed, r->pool, append, &im, &n, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "packed already"));
    image_fini(&im);
}

/* --- metadata that lies ---------------------------------------------------------------------- */

typedef struct lie {
    const char *key; /* this pair is left out, and put otherwise unless `omit` */
    bool omit;
    int32_t version;
    shoal_gguf_kind kind;
    size_t n_less; /* elements fewer than there should be */
    size_t at;     /* element that is another */
    int32_t number;
    const char *text;
    shoal_type type;  /* of tensor 1 */
    const char *want; /* in the error */
} lie;

static void put_lie(shoal_gguf_writer *writer, const shoal_gguf *gguf, const lie *l)
{
    shoal_gguf_kind element = SHOAL_GGUF_I32;
    size_t n = 0;
    if (strcmp(l->key, SHOAL_PACK_VERSION_KEY) == 0) {
        assert_int_equal(shoal_gguf_put_u32(writer, l->key, (uint32_t)l->version), SHOAL_OK);
        return;
    }
    assert_int_equal(shoal_gguf_get_array(gguf, l->key, &element, &n, NULL), SHOAL_OK);
    n -= l->n_less;
    int32_t ints[3 * TENSORS_MAX];
    float floats[3 * TENSORS_MAX] = {0};
    shoal_str texts[3 * TENSORS_MAX];
    for (size_t i = 0; i < n; i++) {
        if (element == SHOAL_GGUF_I32) {
            int64_t value = shoal_gguf_array_i64(gguf, l->key, i);
            ints[i] = i == l->at ? l->number : (int32_t)value;
        } else {
            texts[i] = shoal_gguf_array_str(gguf, l->key, i);
            texts[i] = l->text && i == l->at ? (shoal_str){l->text, strlen(l->text)} : texts[i];
        }
    }
    if (l->kind == SHOAL_GGUF_F32) {
        assert_int_equal(shoal_gguf_put_f32_array(writer, l->key, floats, n), SHOAL_OK);
    } else if (element == SHOAL_GGUF_I32) {
        assert_int_equal(shoal_gguf_put_i32_array(writer, l->key, ints, n), SHOAL_OK);
    } else {
        assert_int_equal(shoal_gguf_put_str_array(writer, l->key, texts, n), SHOAL_OK);
    }
}

/* The packed file written again with one thing changed. */
static image lying_image(const image *packed, const lie *l)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *writer = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    assert_int_equal(shoal_gguf_open(packed->data, packed->n, &gguf, NULL), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_new(&writer), SHOAL_OK);
    assert_int_equal(shoal_gguf_writer_align(writer, SHOAL_PACK_ALIGN), SHOAL_OK);
    for (size_t i = 0; i < shoal_gguf_n_kv(gguf); i++) {
        shoal_str key = shoal_gguf_key_at(gguf, i);
        bool mine =
            l->key && strlen(l->key) == key.length && memcmp(l->key, key.data, key.length) == 0;
        if (!mine) {
            assert_int_equal(shoal_gguf_put_raw(writer, key, shoal_gguf_raw_at(gguf, i)), SHOAL_OK);
        } else if (!l->omit) {
            put_lie(writer, gguf, l);
        }
    }
    for (size_t i = 0; i < shoal_gguf_n_tensors(gguf); i++) {
        const shoal_gguf_tensor *t = shoal_gguf_tensor_at(gguf, i);
        char name[SHOAL_GGUF_NAME_MAX + 1];
        uint64_t dims[4] = {t->dims[0], t->dims[1], t->dims[2], t->dims[3]};
        shoal_type type = t->type;
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.length, t->name.data);
        if (i == 1 && l->type != SHOAL_TYPE_F32) {
            type = l->type;
            dims[0] /= 2; /* F16 of the same bytes */
        }
        assert_int_equal(shoal_gguf_put_tensor(writer, name, type, dims, t->n_dims, t->data),
                         SHOAL_OK);
    }
    assert_int_equal(shoal_gguf_writer_finish(writer, &buf, NULL), SHOAL_OK);
    image im = image_new(buf.length);
    assert_int_equal(append(&im, buf.data, buf.length, NULL), SHOAL_OK);
    return im;
}

static void test_metadata_that_lies_is_refused(void **state)
{
    rig *r = *state;
    static const char upper[] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    static const char longer[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const lie lies[] = {
        {.key = SHOAL_PACK_VERSION_KEY, .version = 0, .want = "shoal.pack.version is 0"},
        {.key = SHOAL_PACK_VERSION_KEY, .version = 2, .want = "shoal.pack.version is 2"},
        {.key = SHOAL_PACK_TYPES, .omit = true, .want = "shoal.pack.types"},
        {.key = SHOAL_PACK_DIMS_KEY, .omit = true, .want = "shoal.pack.dims"},
        {.key = SHOAL_PACK_DIGESTS, .omit = true, .want = "shoal.pack.digests"},
        {.key = SHOAL_PACK_SUMS, .omit = true, .want = "shoal.pack.sums"},
        {.key = SHOAL_PACK_TYPES, .kind = SHOAL_GGUF_F32, .want = "elements of i32"},
        {.key = SHOAL_PACK_SUMS, .kind = SHOAL_GGUF_F32, .want = "elements of strings"},
        {.key = SHOAL_PACK_TYPES, .n_less = 1, .at = 1, .want = "elements of i32"},
        {.key = SHOAL_PACK_DIMS_KEY, .n_less = 1, .at = 1, .number = 1, .want = "elements of i32"},
        {.key = SHOAL_PACK_DIGESTS, .n_less = 1, .want = "elements of strings"},
        {.key = SHOAL_PACK_TYPES, .at = 1, .number = 999, .want = "not known"},
        {.key = SHOAL_PACK_TYPES, .at = 1, .number = -2, .want = "not known"},
        {.key = SHOAL_PACK_TYPES, .at = 1, .number = SHOAL_TYPE_F16, .want = "of I8 are expected"},
        {.key = SHOAL_PACK_TYPES, .at = 0, .number = SHOAL_TYPE_F32, .want = "no matrix"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 3, .number = 0, .want = "less than 1"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 3, .number = K + 1, .want = "of I8 are expected"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 4, .number = N_ROWS + 16, .want = "of I8 are expected"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 4, .number = INT32_MAX, .want = "of I8 are expected"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 4, .number = 1, .want = "no matrix"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 5, .number = INT32_MAX, .want = "of I8 are expected"},
        {.key = SHOAL_PACK_DIMS_KEY, .at = 12, .number = K - 1, .want = "whole blocks"},
        {.key = SHOAL_PACK_DIGESTS, .at = 1, .text = "", .want = "hexadecimal"},
        {.key = SHOAL_PACK_DIGESTS, .at = 1, .text = upper, .want = "hexadecimal"},
        {.key = SHOAL_PACK_SUMS, .at = 1, .text = longer, .want = "hexadecimal"},
        {.type = SHOAL_TYPE_F16, .want = "of I8 are expected"},
    };
    for (size_t i = 0; i < SHOAL_COUNT(lies); i++) {
        image im = lying_image(&r->packed, &lies[i]);
        shoal_gguf *gguf = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(shoal_pack_open(im.data, im.n, &gguf, &err) < 0);
        assert_null(gguf);
        if (!strstr(err.text, lies[i].want)) {
            fail_msg("lie %zu: \"%s\" does not say \"%s\"", i, err.text, lies[i].want);
        }
        image_fini(&im);
    }
}

/* The same bytes at an address that no product may read from. */
static void test_misplaced_panels_are_refused(void **state)
{
    rig *r = *state;
    image im = image_new(r->packed.n + 64);
    shoal_gguf *gguf = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    memcpy(im.data + 32, r->packed.data, r->packed.n);
    assert_int_equal(shoal_pack_open(im.data + 32, r->packed.n, &gguf, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "multiple of 64"));
    image_fini(&im);
}

static void test_cut_files_are_refused(void **state)
{
    rig *r = *state;
    for (size_t n = 0; n < r->packed.n; n += n < 4096 ? 1 : 997) {
        shoal_gguf *gguf = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = shoal_pack_open(r->packed.data, n, &gguf, &err);
        assert_true(status < 0 && !gguf && err.text[0]);
    }
}

/* --- damage ---------------------------------------------------------------------------------- */

static void expect_damage(rig *r,
                          shoal_status (*check)(const shoal_gguf *, shoal_pool *, shoal_err *),
                          const char *want)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = open_image(&r->packed);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(check(gguf, r->pool, &err), SHOAL_E_INVALID);
    if (!strstr(err.text, want)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, want);
    }
}

static uint8_t *panels_of(rig *r, const char *name, size_t *ret_n)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = open_image(&r->packed);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, name);
    assert_true(t && t->packed);
    *ret_n = (size_t)t->size_bytes;
    return r->packed.data + (t->data - r->packed.data);
}

static void test_scales_out_of_range_are_found(void **state)
{
    rig *r = *state;
    static const struct {
        const char *tensor;
        size_t at; /* byte of the tensor */
        uint8_t value;
    } cases[] = {
        /* the high byte of an f16 d of the last row, then of the floor, in the first block */
        {"Q8_0", 31, 0x7C},
        {"Q4_0", 31, 0xFC},
        {"IQ4_NL", 31, 0x7E},
        {"Q5_0", 31, 0x7C},
        {"Q4_1", 63, 0x7C},
        {"Q5_1", 63, 0xFC},
        {"Q2_K", 63, 0x7C},
        {"Q3_K", 31, 0x7C},
        {"Q4_K", 63, 0x7C},
        {"Q5_K", 31, 0x7C},
        {"Q6_K", 31, 0x7C},
        {"F16", 1, 0x7C},
        /* the first and last small scale of a sub-block, and of the last sub-block */
        {"Q4_K", 64, 64},
        {"Q4_K", 95, 0xFF},
        {"Q4_K", 64 + 7 * 288 + 31, 64},
        {"Q5_K", 64, 64},
        {"Q5_K", 64 + 7 * 352 + 31, 0x80},
        {"Q3_K", 32, 32},
        {"Q3_K", 32 + 7 * 224 + 31, 0xDF},
        {"f.weight", 64, 0x7F},
        {"f.weight", 64 + 128 * 16 - 1, 0xFF},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        size_t n = 0;
        uint8_t *p = panels_of(r, cases[i].tensor, &n);
        uint8_t was = p[cases[i].at];
        p[cases[i].at] = cases[i].value;
        expect_damage(r, shoal_pack_check, "scale is not finite or out of its range");
        p[cases[i].at] = was;
    }
    size_t n = 0;
    uint8_t *floats[] = {panels_of(r, "F32", &n), panels_of(r, "BF16", &n),
                         panels_of(r, "f.weight", &n)};
    const size_t widths[] = {4, 2, 4};
    for (size_t i = 0; i < SHOAL_COUNT(floats); i++) {
        uint8_t *end = floats[i] + widths[i];
        const uint8_t was[2] = {end[-2], end[-1]};
        end[-2] = 0x80;
        end[-1] = 0x7F;
        expect_damage(r, shoal_pack_check, "scale is not finite or out of its range");
        memcpy(end - 2, was, 2);
    }
}

static void test_any_flipped_bit_is_found(void **state)
{
    rig *r = *state;
    uint64_t rng = 11;
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        size_t n = 0;
        uint8_t *p = panels_of(r, shoal_type_find((uint32_t)types[i])->name, &n);
        for (size_t j = 0; j < 16; j++) {
            size_t at = j == 0 ? 0 : j == 1 ? n - 1 : (size_t)(shoal_rng_next(&rng) % n);
            uint8_t bit = (uint8_t)(1u << shoal_rng_next(&rng) % 8);
            p[at] ^= bit;
            expect_damage(r, shoal_pack_check, "the file is damaged");
            p[at] ^= bit;
        }
    }
}

/* Writes sums anew, as somebody would who changes a model on purpose. */
static void forge_sum(rig *r, const char *name)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = open_image(&r->packed);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(gguf, name);
    shoal_hash sum;
    char hex[SHOAL_HASH_HEX];
    assert_int_equal(shoal_pack_sum(gguf, t, r->pool, &sum, NULL), SHOAL_OK);
    shoal_hash_hex(&sum, hex);
    size_t i = (size_t)(t - shoal_gguf_tensor_at(gguf, 0));
    shoal_str text = shoal_gguf_array_str(gguf, SHOAL_PACK_SUMS, i);
    memcpy(r->packed.data + ((const uint8_t *)text.data - r->packed.data), hex, text.length);
}

static void test_verify_finds_what_sums_were_made_to_hide(void **state)
{
    rig *r = *state;
    size_t n = 0;
    uint8_t *p = panels_of(r, "Q4_0", &n);
    const struct {
        size_t at;
        const char *want;
    } cases[] = {
        {40, "another digest"},      /* a code of the first row */
        {n - 1, "not those of its"}, /* a code of a row that is not there */
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        p[cases[i].at] ^= 1;
        expect_damage(r, shoal_pack_check, "another sum");
        forge_sum(r, "Q4_0");
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = open_image(&r->packed);
        assert_int_equal(shoal_pack_check(gguf, r->pool, NULL), SHOAL_OK);
        expect_damage(r, shoal_pack_verify, cases[i].want);
        p[cases[i].at] ^= 1;
        forge_sum(r, "Q4_0");
    }
    p = panels_of(r, "f.weight", &n);
    p[0] ^= 1; /* a scale, which no block holds */
    forge_sum(r, "f.weight");
    expect_damage(r, shoal_pack_verify, "not those of its");
    p[0] ^= 1;
    forge_sum(r, "f.weight");
}

/* --- memory ---------------------------------------------------------------------------------- */

static shoal_status whole_life(rig *r)
{
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *plain = NULL;
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *packed = NULL;
    image im = {.data = r->plain.data, .capacity = 0};
    size_t n = 0;
    SHOAL_TRY(shoal_pack_open(r->plain.data, r->plain.n, &plain, NULL));
    shoal_status status = shoal_pack_write(plain, r->pool, append, &im, &n, NULL);
    if (status != SHOAL_E_LIMIT) {
        return status; /* the head does not fit: every allocation before the first byte was made */
    }
    SHOAL_TRY(shoal_pack_open(r->packed.data, r->packed.n, &packed, NULL));
    SHOAL_TRY(shoal_pack_check(packed, r->pool, NULL));
    return shoal_pack_verify(packed, r->pool, NULL);
}

static void test_every_failing_allocation_is_survived(void **state)
{
    rig *r = *state;
    for (uint64_t i = 0;; i += 1 + i / 16) {
        shoal_mem_fail_at(i);
        shoal_status status = whole_life(r);
        shoal_mem_fail_at(UINT64_MAX);
        if (status == SHOAL_OK) {
            assert_true(i > 100);
            return;
        }
        assert_int_equal(status, SHOAL_E_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_file_holds_the_same_model),
        cmocka_unit_test(test_weights_of_both_files_are_the_same_panels),
        cmocka_unit_test(test_file_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(test_packing_a_packed_file_is_refused),
        cmocka_unit_test(test_metadata_that_lies_is_refused),
        cmocka_unit_test(test_misplaced_panels_are_refused),
        cmocka_unit_test(test_cut_files_are_refused),
        cmocka_unit_test(test_scales_out_of_range_are_found),
        cmocka_unit_test(test_any_flipped_bit_is_found),
        cmocka_unit_test(test_verify_finds_what_sums_were_made_to_hide),
        cmocka_unit_test(test_every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
