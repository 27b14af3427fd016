/* SPDX-License-Identifier: Apache-2.0
 *
 * One spoiled field per file. Each must be refused with its own words: the classes are those of
 * the published faults of GGUF readers (wrapping counts, lengths, products; offsets past the end).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "gguf_walk.h"
#include "image.h"

#include "common/base/mem.h"
#include "common/base/rng.h"

#include <stdio.h>
#include <string.h>

typedef enum place {
    AT_MAGIC,
    AT_VERSION,
    AT_N_TENSORS,
    AT_N_PAIRS,
    AT_KEY_LENGTH, /* of pair i */
    AT_KEY,
    AT_KIND,
    AT_VALUE,
    AT_ELEMENT, /* of an array: kind, length, first element */
    AT_LENGTH,
    AT_FIRST,
    AT_NAME_LENGTH, /* of tensor i */
    AT_NAME,
    AT_N_DIMS,
    AT_DIM_0,
    AT_DIM_1,
    AT_TYPE,
    AT_OFFSET
} place;

static size_t position(const image *im, place at, size_t i)
{
    switch (at) {
    case AT_MAGIC:
        return 0;
    case AT_VERSION:
        return 4;
    case AT_N_TENSORS:
        return 8;
    case AT_N_PAIRS:
        return 16;
    case AT_KEY_LENGTH:
        return im->pairs[i].key;
    case AT_KEY:
        return im->pairs[i].key + 8;
    case AT_KIND:
        return im->pairs[i].kind;
    case AT_VALUE:
    case AT_ELEMENT:
        return im->pairs[i].value;
    case AT_LENGTH:
        return im->pairs[i].value + 4;
    case AT_FIRST:
        return im->pairs[i].value + 12;
    case AT_NAME_LENGTH:
        return im->tensors[i].name;
    case AT_NAME:
        return im->tensors[i].name + 8;
    case AT_N_DIMS:
        return im->tensors[i].n_dims;
    case AT_DIM_0:
        return im->tensors[i].dims;
    case AT_DIM_1:
        return im->tensors[i].dims + 8;
    case AT_TYPE:
        return im->tensors[i].type;
    case AT_OFFSET:
        return im->tensors[i].offset;
    }
    fail();
    return 0;
}

/* status SHOAL_OK stands for any refusal. */
static bool refused(const char *bytes, size_t n, shoal_status status, const char *word,
                    const char *what)
{
    opened o;
    image_open(bytes, n, &o);
    bool ok = o.status < 0 && (status == SHOAL_OK || o.status == status) &&
              strstr(o.err.text, word) != NULL && o.err.text[0] != '\0' && o.gguf == NULL;
    if (!ok) {
        print_message("%s: status %d, \"%s\" (wanted %d and \"%s\")\n", what, o.status, o.err.text,
                      status, word);
    }
    image_close(&o);
    return ok;
}

typedef struct spoil {
    place at;
    size_t i;
    size_t bytes;
    uint64_t value;
    shoal_status status;
    const char *word;
} spoil;

#define INVALID     SHOAL_E_INVALID
#define LIMIT       SHOAL_E_LIMIT
#define UNSUPPORTED SHOAL_E_UNSUPPORTED
#define ANY         SHOAL_OK /* reading derails: refused, for whatever it runs into */
#define MAX         UINT64_MAX
#define BIT(n)      ((uint64_t)1 << (n))

static const spoil spoils[] = {
    {AT_MAGIC, 0, 4, 0, INVALID, "not a GGUF file"},
    {AT_MAGIC, 0, 4, 0x66756767, INVALID, "begins with \"gguf\""},
    {AT_MAGIC, 0, 4, 0x47475546, UNSUPPORTED, "big-endian"},
    {AT_MAGIC, 0, 4, 0x67676d6c, UNSUPPORTED, "older than GGUF"},
    {AT_MAGIC, 0, 4, 0x67676a74, UNSUPPORTED, "older than GGUF"},
    {AT_MAGIC, 0, 4, 0x67676d66, UNSUPPORTED, "older than GGUF"},
    {AT_VERSION, 0, 4, 0, UNSUPPORTED, "version 0"},
    {AT_VERSION, 0, 4, 1, UNSUPPORTED, "version 1 is not supported, only 2 and 3"},
    {AT_VERSION, 0, 4, 4, UNSUPPORTED, "version 4"},
    {AT_VERSION, 0, 4, 0x01000000, UNSUPPORTED, "big-endian"},
    {AT_VERSION, 0, 4, 0x02000000, UNSUPPORTED, "big-endian"},
    {AT_VERSION, 0, 4, 0x03000000, UNSUPPORTED, "big-endian"},
    {AT_VERSION, 0, 4, UINT32_MAX, UNSUPPORTED, "version 4294967295"},
    {AT_N_TENSORS, 0, 8, MAX, LIMIT, "the number of tensors is 18446744073709551615"},
    {AT_N_TENSORS, 0, 8, BIT(63), LIMIT, "at most 65536"},
    {AT_N_TENSORS, 0, 8, BIT(58), LIMIT, "at most 65536"}, /* wraps times 64 */
    {AT_N_TENSORS, 0, 8, BIT(32), LIMIT, "at most 65536"},
    {AT_N_TENSORS, 0, 8, 65537, LIMIT, "at most 65536"},
    {AT_N_TENSORS, 0, 8, 65536, INVALID, "cut short or its header lies"},
    {AT_N_TENSORS, 0, 8, 5, ANY, ""},
    {AT_N_TENSORS, 0, 8, 3, ANY, ""},
    {AT_N_TENSORS, 0, 8, 0, INVALID, "bytes follow the last tensor"},
    {AT_N_PAIRS, 0, 8, MAX, LIMIT, "the number of metadata pairs"},
    {AT_N_PAIRS, 0, 8, BIT(63), LIMIT, "at most 65536"},
    {AT_N_PAIRS, 0, 8, BIT(60), LIMIT, "at most 65536"},
    {AT_N_PAIRS, 0, 8, BIT(32), LIMIT, "at most 65536"},
    {AT_N_PAIRS, 0, 8, 65537, LIMIT, "at most 65536"},
    {AT_N_PAIRS, 0, 8, 65536, INVALID, "cut short or its header lies"},
    {AT_N_PAIRS, 0, 8, GOOD_PAIRS + 1, ANY, ""},
    {AT_N_PAIRS, 0, 8, GOOD_PAIRS - 1, ANY, ""},
    {AT_N_PAIRS, 0, 8, 0, ANY, ""},
    {AT_KEY_LENGTH, 0, 8, MAX, LIMIT, "a metadata key at offset 24"},
    {AT_KEY_LENGTH, 0, 8, MAX - 7, LIMIT, "at most 1024"},
    {AT_KEY_LENGTH, 0, 8, MAX - 24, LIMIT, "at most 1024"},
    {AT_KEY_LENGTH, 0, 8, BIT(63), LIMIT, "at most 1024"},
    {AT_KEY_LENGTH, 0, 8, BIT(32), LIMIT, "at most 1024"},
    {AT_KEY_LENGTH, 0, 8, 1025, LIMIT, "at most 1024"},
    {AT_KEY_LENGTH, 0, 8, 0, INVALID, "is empty"},
    {AT_KEY_LENGTH, GOOD_EMPTY, 8, 1024, INVALID, "cut short"},
    {AT_KEY, 0, 1, 0, INVALID, "control character"},
    {AT_KEY, 0, 1, '\n', INVALID, "control character"},
    {AT_KEY, 0, 1, 0x1b, INVALID, "control character"},
    {AT_KEY, 0, 1, 0x7f, INVALID, "control character"},
    {AT_KEY, 0, 1, 0xff, INVALID, "\"?eneral"},
    {AT_KEY, 0, 1, 0xc0, INVALID, "not UTF-8"},
    {AT_KEY, GOOD_I8, 4, 0x38752e74, INVALID, "metadata \"t.u8\" is there twice"},
    {AT_KIND, 0, 4, 13, INVALID, "kind of the value is 13"},
    {AT_KIND, 0, 4, BIT(31), INVALID, "is 2147483648"},
    {AT_KIND, 0, 4, UINT32_MAX, INVALID, "metadata \"general.architecture\""},
    {AT_KIND, GOOD_BOOL, 4, SHOAL_GGUF_ARRAY, INVALID, "metadata \"t.bool\""},
    {AT_KIND, GOOD_U8, 4, SHOAL_GGUF_STRING, ANY, "metadata \"t.u8\""},
    {AT_VALUE, 0, 8, MAX, LIMIT, "the string at offset"},
    {AT_VALUE, 0, 8, MAX - 7, LIMIT, "at most 16777216"},
    {AT_VALUE, 0, 8, BIT(63), LIMIT, "at most 16777216"},
    {AT_VALUE, 0, 8, BIT(32) + 5, LIMIT, "at most 16777216"},
    {AT_VALUE, 0, 8, BIT(24) + 1, LIMIT, "at most 16777216"},
    {AT_VALUE, 0, 8, BIT(24), INVALID, "cut short"},
    {AT_VALUE, 0, 8, 4, ANY, ""},
    {AT_VALUE, 0, 8, 6, ANY, ""},
    {AT_VALUE, GOOD_BOOL, 1, 2, INVALID, "a bool is 2"},
    {AT_VALUE, GOOD_BOOL, 1, 255, INVALID, "metadata \"t.bool\""},
    {AT_FIRST, GOOD_BOOLS, 1, 3, INVALID, "a bool is 3"},
    {AT_VALUE, GOOD_ALIGNMENT, 4, 0, INVALID, "general.alignment is 0"},
    {AT_VALUE, GOOD_ALIGNMENT, 4, 33, INVALID, "power of two"},
    {AT_VALUE, GOOD_ALIGNMENT, 4, BIT(31), INVALID, "power of two"},
    {AT_KIND, GOOD_ALIGNMENT, 4, SHOAL_GGUF_F32, INVALID, "an integer is needed"},
    {AT_VALUE, GOOD_ALIGNMENT, 4, 64, INVALID, "alignment 64"},
    {AT_ELEMENT, GOOD_FLOATS, 4, SHOAL_GGUF_ARRAY, UNSUPPORTED, "an array of arrays"},
    {AT_ELEMENT, GOOD_FLOATS, 4, 13, INVALID, "array's elements is 13"},
    {AT_ELEMENT, GOOD_FLOATS, 4, UINT32_MAX, INVALID, "metadata \"t.floats\""},
    {AT_ELEMENT, GOOD_FLOATS, 4, SHOAL_GGUF_STRING, LIMIT, "a string of the array"},
    {AT_LENGTH, GOOD_FLOATS, 8, MAX, LIMIT, "the length of the array"},
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(63), LIMIT, "at most 16777216"},
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(62) + 1, LIMIT, "at most 16777216"}, /* times 4 wraps to 4 */
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(61), LIMIT, "at most 16777216"},
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(32), LIMIT, "at most 16777216"},
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(24) + 1, LIMIT, "at most 16777216"},
    {AT_LENGTH, GOOD_FLOATS, 8, BIT(24), INVALID, "cut short: the value needs 67108864"},
    {AT_LENGTH, GOOD_STRINGS, 8, BIT(61) + 1, LIMIT, "at most 16777216"},
    {AT_LENGTH, GOOD_STRINGS, 8, BIT(24), INVALID, "cut short: an array of strings"},
    {AT_LENGTH, GOOD_STRINGS, 8, 40, LIMIT, "a string of the array"},
    {AT_FIRST, GOOD_STRINGS, 8, MAX, LIMIT, "a string of the array"},
    {AT_FIRST, GOOD_STRINGS, 8, MAX - 7, LIMIT, "at most 16777216"},
    {AT_FIRST, GOOD_STRINGS, 8, BIT(20), INVALID, "cut short: a string of the array"},
    {AT_NAME_LENGTH, 0, 8, MAX, LIMIT, "a tensor name"},
    {AT_NAME_LENGTH, 0, 8, MAX - 7, LIMIT, "at most 128"},
    {AT_NAME_LENGTH, 0, 8, BIT(63), LIMIT, "at most 128"},
    {AT_NAME_LENGTH, 0, 8, BIT(32), LIMIT, "at most 128"},
    {AT_NAME_LENGTH, 0, 8, 129, LIMIT, "at most 128"},
    {AT_NAME_LENGTH, 0, 8, 0, INVALID, "is empty"},
    {AT_NAME, 0, 1, 0, INVALID, "control character"},
    {AT_NAME, 0, 1, '\r', INVALID, "control character"},
    {AT_NAME, 0, 1, 0xfe, INVALID, "not UTF-8"},
    {AT_NAME, 1, 1, 'a', INVALID, "tensor \"a.weight\" is there twice"},
    {AT_N_DIMS, 0, 4, 0, LIMIT, "0 dimensions, 1 to 4"},
    {AT_N_DIMS, 0, 4, 5, LIMIT, "5 dimensions"},
    {AT_N_DIMS, 0, 4, BIT(31), LIMIT, "2147483648 dimensions"},
    {AT_N_DIMS, 0, 4, UINT32_MAX, LIMIT, "tensor \"a.weight\""},
    {AT_N_DIMS, 0, 4, 1, ANY, ""},
    {AT_DIM_0, 0, 8, 0, INVALID, "dimension 0 is 0"},
    {AT_DIM_1, 0, 8, 0, INVALID, "dimension 1 is 0"},
    {AT_DIM_0, 0, 8, MAX, INVALID, "overflows"},
    {AT_DIM_0, 0, 8, BIT(63), INVALID, "overflows"},
    {AT_DIM_0, 0, 8, BIT(61), INVALID, "overflows"},     /* the bytes wrap, the elements do not */
    {AT_DIM_1, 0, 8, BIT(62) + 1, INVALID, "overflows"}, /* times 4 elements wraps to 4 */
    {AT_DIM_0, 0, 8, BIT(40), INVALID, "lie outside"},
    {AT_DIM_1, 3, 8, 4, ANY, ""}, /* d has one dimension: this is its type field */
    {AT_DIM_1, 0, 8, 5, INVALID, "overlap"},
    {AT_DIM_1, 1, 8, 1000, INVALID, "tensor \"b.weight\": 34000 bytes at offset 64 lie outside"},
    {AT_DIM_0, 1, 8, 33, INVALID, "not a multiple of 32 as Q8_0"},
    {AT_DIM_0, 3, 8, 16, INVALID, "not a multiple of 32 as Q4_0"},
    {AT_TYPE, 0, 4, 4, UNSUPPORTED, "tensor type 4 is not supported"},
    {AT_TYPE, 0, 4, 9, UNSUPPORTED, "only F32, F16, BF16, Q8_0, Q4_0, "},
    {AT_TYPE, 0, 4, SHOAL_TYPE_Q4_K, INVALID, "not a multiple of 256 as Q4_K"},
    {AT_TYPE, 0, 4, 27, UNSUPPORTED, "tensor type 27"},
    {AT_TYPE, 0, 4, 31, UNSUPPORTED, "tensor type 31"},
    {AT_TYPE, 0, 4, BIT(31), UNSUPPORTED, "tensor type 2147483648"},
    {AT_TYPE, 0, 4, UINT32_MAX, UNSUPPORTED, "tensor \"a.weight\""},
    {AT_TYPE, 0, 4, SHOAL_TYPE_Q8_0, INVALID, "not a multiple of 32"},
    {AT_TYPE, 1, 4, SHOAL_TYPE_F16, INVALID, "overlap"},
    {AT_OFFSET, 3, 8, 1, INVALID, "offset 1 is not a multiple of the alignment 32"},
    {AT_OFFSET, 3, 8, 16, INVALID, "not a multiple"},
    {AT_OFFSET, 3, 8, MAX, INVALID, "not a multiple"},
    {AT_OFFSET, 3, 8, MAX - 31, INVALID, "lie outside"}, /* plus the size wraps */
    {AT_OFFSET, 3, 8, BIT(63), INVALID, "lie outside"},
    {AT_OFFSET, 3, 8, BIT(32), INVALID, "lie outside"},
    {AT_OFFSET, 3, 8, 224, INVALID, "lie outside"},
    {AT_OFFSET, 3, 8, 0, INVALID, "tensors \"a.weight\" and \"d.weight\" overlap at offset 0"},
    {AT_OFFSET, 2, 8, 32, INVALID, "overlap"},
};

static void test_one_spoiled_field_is_refused_by_its_name(void **state)
{
    (void)state;
    image im;
    size_t n_wrong = 0;
    image_good(&im, 3);
    assert_true(SHOAL_COUNT(spoils) >= 100);
    for (size_t s = 0; s < SHOAL_COUNT(spoils); s++) {
        size_t at = position(&im, spoils[s].at, spoils[s].i);
        char what[48];
        char saved[8];
        memcpy(saved, im.bytes.data + at, sizeof(saved));
        for (size_t i = 0; i < spoils[s].bytes; i++) {
            im.bytes.data[at + i] = (char)(uint8_t)(spoils[s].value >> (8 * i));
        }
        (void)snprintf(what, sizeof(what), "row %zu", s);
        n_wrong += !refused(im.bytes.data, im.bytes.length, spoils[s].status, spoils[s].word, what);
        memcpy(im.bytes.data + at, saved, sizeof(saved));
    }
    image_fini(&im);
    assert_int_equal(n_wrong, 0);
}

static void test_file_cut_at_every_byte_is_refused(void **state)
{
    (void)state;
    image im;
    image_good(&im, 2);
    /* What follows the last tensor's bytes is padding that a writer may leave out. */
    size_t needed = im.data + 64 + 96 + 32 + 36;
    for (size_t n = 0; n < needed; n++) {
        char what[32];
        (void)snprintf(what, sizeof(what), "%zu bytes", n);
        assert_true(refused(im.bytes.data, n, INVALID, "cut short", what));
    }
    for (size_t n = needed; n <= im.bytes.length; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(gguf_walk((uint8_t *)im.bytes.data, n, &err), SHOAL_OK);
    }
    image_fini(&im);
}

static void test_bytes_after_the_last_tensor_are_refused(void **state)
{
    (void)state;
    image im;
    image_begin(&im, 3);
    image_tensor(&im, "a", SHOAL_TYPE_F32, 1, (const uint64_t[]){8});
    image_end(&im);
    for (size_t extra = 0; extra < 64; extra++) {
        opened o;
        image_open(im.bytes.data, im.bytes.length, &o);
        assert_int_equal(o.status, extra < 32 ? SHOAL_OK : SHOAL_E_INVALID);
        image_close(&o);
        image_put(&im, 'x', 1);
    }
    image_fini(&im);
}

static void test_tensors_may_lie_in_any_order_but_not_over_each_other(void **state)
{
    (void)state;
    image im;
    image_begin(&im, 3);
    for (size_t i = 0; i < 3; i++) {
        const char *const names[] = {"a", "b", "c"};
        image_tensor(&im, names[i], SHOAL_TYPE_F32, 1, (const uint64_t[]){8});
    }
    image_end(&im);
    const struct {
        uint8_t offsets[3];
        shoal_status status;
    } cases[] = {{{0, 32, 64}, SHOAL_OK},       {{64, 32, 0}, SHOAL_OK},
                 {{32, 64, 0}, SHOAL_OK},       {{32, 64, 32}, SHOAL_E_INVALID},
                 {{0, 64, 0}, SHOAL_E_INVALID}, {{64, 64, 64}, SHOAL_E_INVALID}};
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        opened o;
        for (size_t t = 0; t < 3; t++) {
            im.bytes.data[im.tensors[t].offset] = (char)cases[i].offsets[t];
        }
        image_open(im.bytes.data, im.bytes.length, &o);
        assert_int_equal(o.status, cases[i].status);
        image_close(&o);
    }
    image_fini(&im);
}

static void test_error_may_be_null_and_first_error_stays(void **state)
{
    (void)state;
    shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_gguf_open((const uint8_t *)"GGUF", 4, &gguf, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_gguf_open(NULL, 0, &gguf, NULL), SHOAL_E_INVALID);
    assert_null(gguf);
}

static void test_random_damage_never_breaks_an_invariant(void **state)
{
    (void)state;
    enum {
        ROUNDS = 20000
    };
    uint64_t rng = 20260301;
    print_message("seed %llu\n", (unsigned long long)rng);
    image im;
    image_good(&im, 3);
    size_t n = im.bytes.length;
    uint8_t *copy = shoal_calloc(n, 1);
    assert_non_null(copy);
    size_t n_opened = 0;
    for (size_t round = 0; round < ROUNDS; round++) {
        memcpy(copy, im.bytes.data, n);
        uint64_t n_hits = 1 + shoal_rng_next(&rng) % 4;
        for (uint64_t i = 0; i < n_hits; i++) {
            copy[shoal_rng_next(&rng) % n] = (uint8_t)shoal_rng_next(&rng);
        }
        shoal_err err = SHOAL_ERR_INIT;
        n_opened += gguf_walk(copy, n, &err) == SHOAL_OK;
    }
    /* Both sides of the fence were seen. */
    assert_true(n_opened > ROUNDS / 100 && n_opened < ROUNDS);
    shoal_free(copy);
    image_fini(&im);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_spoiled_field_is_refused_by_its_name),
        cmocka_unit_test(test_file_cut_at_every_byte_is_refused),
        cmocka_unit_test(test_bytes_after_the_last_tensor_are_refused),
        cmocka_unit_test(test_tensors_may_lie_in_any_order_but_not_over_each_other),
        cmocka_unit_test(test_error_may_be_null_and_first_error_stays),
        cmocka_unit_test(test_random_damage_never_breaks_an_invariant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
