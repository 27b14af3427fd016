/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/store/block.h"
#include "common/base/crc32c.h"
#include "common/base/mem.h"

#include <stdbool.h>
#include <string.h>

enum {
    PAYLOAD = 100
};

static shoal_hash root_of(uint8_t model_byte, const char *form, const char *salt)
{
    const shoal_hash model = {.bytes = {model_byte}};
    shoal_hash root;
    assert_int_equal(shoal_block_root(&model, form, salt, strlen(salt), &root), SHOAL_OK);
    return root;
}

static void tokens_from(int32_t first, int32_t tokens[SHOAL_BLOCK_TOKENS])
{
    for (int32_t i = 0; i < SHOAL_BLOCK_TOKENS; i++) {
        tokens[i] = first + i;
    }
}

static shoal_block_id first_of(const shoal_hash *root, int32_t token)
{
    int32_t tokens[SHOAL_BLOCK_TOKENS];
    shoal_block_id id;
    tokens_from(token, tokens);
    assert_int_equal(shoal_block_first(root, tokens, &id), SHOAL_OK);
    return id;
}

static shoal_block *sealed(const shoal_block_id *id)
{
    shoal_block *block = NULL;
    assert_int_equal(shoal_block_new(PAYLOAD, &block), SHOAL_OK);
    for (size_t i = 0; i < PAYLOAD; i++) {
        shoal_block_payload(block)[i] = (uint8_t)(i * 7);
    }
    shoal_block_seal(block, id);
    return block;
}

static bool differ(const shoal_hash *a, const shoal_hash *b)
{
    return memcmp(a, b, sizeof *a) != 0;
}

static void test_names_follow_from_model_form_salt_and_all_tokens(void **state)
{
    (void)state;
    shoal_hash root = root_of(1, "f16", "a");
    shoal_hash others[] = {root_of(2, "f16", "a"), root_of(1, "f32", "a"), root_of(1, "f16", "b"),
                           root_of(1, "f16", ""), root_of(1, "f1", "6a")};
    for (size_t i = 0; i < SHOAL_COUNT(others); i++) {
        assert_true(differ(&root, &others[i]));
        shoal_block_id here = first_of(&root, 5);
        shoal_block_id there = first_of(&others[i], 5);
        assert_true(differ(&here.name, &there.name));
    }
    int32_t tokens[SHOAL_BLOCK_TOKENS];
    tokens_from(100, tokens);
    shoal_block_id a = first_of(&root, 5);
    shoal_block_id b = first_of(&root, 6);
    shoal_block_id after_a;
    shoal_block_id after_b;
    shoal_block_id again;
    assert_int_equal(shoal_block_next(&a, tokens, &after_a), SHOAL_OK);
    assert_int_equal(shoal_block_next(&b, tokens, &after_b), SHOAL_OK);
    assert_true(differ(&after_a.name, &after_b.name)); /* the tokens before count */
    assert_int_equal(after_a.index, 1);
    assert_int_equal(shoal_block_next(&a, tokens, &again), SHOAL_OK);
    assert_memory_equal(&again, &after_a, sizeof again);
    for (size_t i = 0; i < SHOAL_BLOCK_TOKENS; i++) {
        tokens[i]++;
        assert_int_equal(shoal_block_next(&a, tokens, &again), SHOAL_OK);
        assert_true(differ(&again.name, &after_a.name));
        tokens[i]--;
    }
}

static void test_limits_of_names_are_kept(void **state)
{
    (void)state;
    const shoal_hash model = {.bytes = {1}};
    shoal_hash root;
    char salt[SHOAL_BLOCK_SALT_MAX + 1];
    char form[SHOAL_BLOCK_FORM_MAX + 2];
    memset(salt, 's', sizeof salt);
    memset(form, 'f', sizeof form);
    form[SHOAL_BLOCK_FORM_MAX + 1] = '\0';
    assert_int_equal(shoal_block_root(&model, "f", salt, SHOAL_BLOCK_SALT_MAX, &root), SHOAL_OK);
    assert_int_equal(shoal_block_root(&model, "f", salt, SHOAL_BLOCK_SALT_MAX + 1, &root),
                     SHOAL_E_LIMIT);
    assert_int_equal(shoal_block_root(&model, form, salt, 1, &root), SHOAL_E_LIMIT);
    form[SHOAL_BLOCK_FORM_MAX] = '\0';
    assert_int_equal(shoal_block_root(&model, form, salt, 1, &root), SHOAL_OK);
    shoal_block_id id = first_of(&root, 0);
    shoal_block_id next;
    id.index = SHOAL_BLOCK_INDEX_MAX - 1;
    assert_int_equal(shoal_block_next(&id, id.tokens, &next), SHOAL_OK);
    assert_int_equal(next.index, SHOAL_BLOCK_INDEX_MAX);
    assert_int_equal(shoal_block_next(&next, id.tokens, &id), SHOAL_E_LIMIT);
    shoal_block *block = NULL;
    assert_int_equal(shoal_block_new(0, &block), SHOAL_E_LIMIT);
    assert_int_equal(shoal_block_new((size_t)SHOAL_BLOCK_PAYLOAD_MAX + 1, &block), SHOAL_E_LIMIT);
    assert_int_equal(shoal_block_copy("", SHOAL_BLOCK_HEADER_BYTES, &block), SHOAL_E_LIMIT);
    assert_int_equal(shoal_block_new(1, &block), SHOAL_OK);
    shoal_block_free(block);
}

static void test_sealed_block_is_itself_and_no_other(void **state)
{
    (void)state;
    shoal_hash root = root_of(1, "f16", "a");
    shoal_block_id id = first_of(&root, 5);
    shoal_block *block = sealed(&id);
    shoal_block_id read;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(
        shoal_block_parse(shoal_block_bytes(block), shoal_block_n_bytes(block), &read, &err),
        SHOAL_OK);
    assert_memory_equal(&read, &id, sizeof id);
    assert_int_equal(shoal_block_check(block, &id, &err), SHOAL_OK);
    for (int i = 0; i < 4; i++) {
        shoal_block_id other = id;
        other.root.bytes[0] ^= i == 0;
        other.name.bytes[31] ^= i == 1;
        other.index += i == 2;
        other.tokens[31] += i == 3;
        shoal_err_clear(&err);
        assert_int_equal(shoal_block_check(block, &other, &err), SHOAL_E_MISMATCH);
        assert_true(err.text[0] != '\0');
    }
    shoal_block_free(block);
}

static void test_every_flipped_bit_and_every_cut_is_refused(void **state)
{
    (void)state;
    shoal_hash root = root_of(1, "f16", "a");
    shoal_block_id id = first_of(&root, 5);
    shoal_block *block = sealed(&id);
    shoal_block_id read;
    uint8_t *bytes = shoal_block_bytes_mut(block);
    size_t n = shoal_block_n_bytes(block);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        shoal_err err = SHOAL_ERR_INIT;
        assert_true(shoal_block_parse(bytes, n, &read, &err) < 0);
        assert_true(err.text[0] != '\0');
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    for (size_t cut = 0; cut < n; cut++) {
        /* A piece of its own, so that a sanitizer sees any byte past the cut. */
        uint8_t *piece = shoal_calloc(cut, 1);
        assert_non_null(piece);
        memcpy(piece, bytes, cut);
        assert_int_equal(shoal_block_parse(piece, cut, &read, NULL), SHOAL_E_INVALID);
        shoal_free(piece);
    }
    shoal_block_free(block);
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

/* Fields that lie under a right checksum. */
static void test_hostile_fields_are_refused_by_name(void **state)
{
    (void)state;
    const struct {
        size_t at;
        uint32_t value;
        shoal_status status;
        const char *word;
    } cases[] = {
        {8, 0, SHOAL_E_UNSUPPORTED, "version"},
        {8, SHOAL_BLOCK_VERSION + 1, SHOAL_E_UNSUPPORTED, "version"},
        {12, 255, SHOAL_E_INVALID, "header bytes"},
        {16, PAYLOAD - 1, SHOAL_E_INVALID, "payload bytes"},
        {16, PAYLOAD + 1, SHOAL_E_INVALID, "payload bytes"},
        {20, 1, SHOAL_E_INVALID, "payload bytes"},
        {24, SHOAL_BLOCK_INDEX_MAX + 1u, SHOAL_E_INVALID, "index"},
        {24, UINT32_MAX, SHOAL_E_INVALID, "index"},
        {28, 0, SHOAL_E_INVALID, "payload"},
        {224, 1, SHOAL_E_INVALID, "not zero"},
        {248, 1u << 31, SHOAL_E_INVALID, "not zero"},
    };
    shoal_hash root = root_of(1, "f16", "a");
    shoal_block_id id = first_of(&root, 5);
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        shoal_block *block = sealed(&id);
        uint8_t *bytes = shoal_block_bytes_mut(block);
        put_u32(bytes + cases[i].at, cases[i].value);
        put_u32(bytes + 252, shoal_crc32c(0, bytes, 252));
        shoal_err err = SHOAL_ERR_INIT;
        shoal_block_id read;
        assert_int_equal(shoal_block_parse(bytes, shoal_block_n_bytes(block), &read, &err),
                         cases[i].status);
        assert_non_null(strstr(err.text, cases[i].word));
        shoal_block_free(block);
    }
}

static void test_failing_allocations_leave_nothing(void **state)
{
    (void)state;
    shoal_hash root = root_of(1, "f16", "a");
    shoal_block_id id;
    int32_t tokens[SHOAL_BLOCK_TOKENS] = {0};
    shoal_block *block = NULL;
    shoal_mem_fail_at(0);
    assert_int_equal(shoal_block_first(&root, tokens, &id), SHOAL_E_NOMEM);
    for (uint64_t i = 0; i < 2; i++) {
        shoal_mem_fail_at(i);
        assert_int_equal(shoal_block_new(PAYLOAD, &block), SHOAL_E_NOMEM);
    }
    shoal_mem_fail_at(UINT64_MAX);
    assert_null(block);
    shoal_block_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_follow_from_model_form_salt_and_all_tokens),
        cmocka_unit_test(test_limits_of_names_are_kept),
        cmocka_unit_test(test_sealed_block_is_itself_and_no_other),
        cmocka_unit_test(test_every_flipped_bit_and_every_cut_is_refused),
        cmocka_unit_test(test_hostile_fields_are_refused_by_name),
        cmocka_unit_test(test_failing_allocations_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
