/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs of sessions whose blocks are archived: what comes back of them is what the archive level
 * makes of them, of the newest what its near form does, and hostile units are refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/tensor/type.h"
#include "edge/session/blob.h"
#include "written.h"
#include "tests/support/random.h"
#include "tests/support/tiny_archive.h"

#include <string.h>

enum {
    T = SHOAL_KV_BLOCK,
    LAYERS = SHOAL_TINY_ARCHIVE_LAYERS,
    LAYER = SHOAL_TINY_ARCHIVE_HEADS * (SHOAL_TINY_ARCHIVE_K + SHOAL_TINY_ARCHIVE_V) * T * 2,
    BLOCK = LAYERS * LAYER,
    N_IDS_MAX = 330,
    N_VOCAB = 300,
    UNIT_MAX = 1 << 15,
    HEAD = 192,
    RECORD = 12,
    CHUNK = 20
};

static struct {
    shoal_tiny_archive tiny;
    shoal_kernels kernels;
    shoal_archive *archive;
    shoal_archive *other; /* another basis of the same shape */
    int32_t ids[N_IDS_MAX];
    uint8_t blocks[N_IDS_MAX / T * BLOCK];
} f;

static shoal_archive *open_tiny(uint64_t seed)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    shoal_archive *archive = NULL;
    shoal_tiny_archive_init(&f.tiny, seed, 4, 0.25f);
    assert_int_equal(shoal_archive_plan_write(&f.tiny.plan, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_archive_open((const uint8_t *)file.data, file.length, &f.tiny.plan.model,
                                        &f.tiny.plan.shape, &archive, NULL),
                     SHOAL_OK);
    return archive;
}

static int setup(void **state)
{
    (void)state;
    f.archive = open_tiny(3);
    f.other = open_tiny(4);
    shoal_kernels_init(&f.kernels, 0);
    uint64_t rng = 11;
    for (size_t i = 0; i < sizeof f.blocks; i += 2) {
        uint16_t h = shoal_f32_to_f16(2 * test_signed(&rng));
        memcpy(f.blocks + i, &h, sizeof h);
    }
    for (int32_t i = 0; i < N_IDS_MAX; i++) {
        f.ids[i] = i * 7 % N_VOCAB;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_archive_free(f.archive);
    shoal_archive_free(f.other);
    return 0;
}

static shoal_session_identity identity_of(const shoal_archive *archive, bool archives)
{
    shoal_session_identity id = {.model.bytes = {1},
                                 .tokenizer.bytes = {2},
                                 .form = "f16 of a test",
                                 .n_layers = LAYERS,
                                 .first_bytes = LAYER,
                                 .layer_bytes = LAYER,
                                 .n_vocab = N_VOCAB,
                                 .n_tokens_max = N_IDS_MAX,
                                 .archive = archive,
                                 .kernels = &f.kernels,
                                 .archives = archives};
    return id;
}

static shoal_session_copy *copy_of(size_t n_ids)
{
    shoal_session_copy *copy = shoal_calloc(1, sizeof *copy);
    if (!copy) {
        return NULL;
    }
    copy->n_ids = n_ids;
    copy->ids = shoal_calloc(n_ids, sizeof *copy->ids);
    copy->blocks = shoal_calloc(n_ids / T * BLOCK, 1);
    if (!copy->ids || !copy->blocks) {
        shoal_session_copy_free(copy);
        return NULL;
    }
    memcpy(copy->ids, f.ids, n_ids * sizeof *copy->ids);
    memcpy(copy->blocks, f.blocks, n_ids / T * BLOCK);
    return copy;
}

static shoal_status make_blob(const shoal_session_identity *id, size_t n_ids, size_t piece,
                              shoal_buf *blob)
{
    shoal_session_copy *copy = copy_of(n_ids);
    return copy ? written_blob(id, copy, piece, blob) : SHOAL_E_NOMEM;
}

/* What the archive level makes of a block. */
static void coded(size_t block, bool near, uint8_t *ret_pages)
{
    static uint8_t unit[UNIT_MAX];
    SHOAL_CLEANUP(shoal_archive_work_freep) shoal_archive_work *work = NULL;
    assert_int_equal(shoal_archive_work_new(f.archive, &work), SHOAL_OK);
    const uint8_t *pages = f.blocks + block * BLOCK;
    for (size_t g = 0; g < shoal_archive_n_groups(f.archive); g++) {
        shoal_archive_group group = shoal_archive_group_at(f.archive, g);
        size_t n = shoal_archive_near_bytes(f.archive, g);
        size_t position = block * T;
        assert_true(group.unit_bytes <= UNIT_MAX && n <= UNIT_MAX);
        assert_int_equal(
            near ? shoal_archive_near_encode(f.archive, &f.kernels, work, g, position, pages, unit)
                 : shoal_archive_encode(f.archive, &f.kernels, work, g, position, pages, unit, &n),
            SHOAL_OK);
        assert_int_equal(near ? shoal_archive_near_decode(f.archive, &f.kernels, work, g, position,
                                                          unit, n, ret_pages, NULL)
                              : shoal_archive_decode(f.archive, &f.kernels, work, g, position, unit,
                                                     n, ret_pages, NULL),
                         SHOAL_OK);
        pages += group.page_bytes;
        ret_pages += group.page_bytes;
    }
}

static void test_old_blocks_are_archived_and_new_ones_are_near(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 127, 128, 159, 160, 161, 191, 192, N_IDS_MAX};
    static const size_t pieces[] = {1, 4096};
    static uint8_t pages[BLOCK];
    const shoal_session_identity id = identity_of(f.archive, true);
    const shoal_session_identity exact = identity_of(NULL, false);
    for (size_t i = 0; i < SHOAL_COUNT(lengths) * SHOAL_COUNT(pieces); i++) {
        size_t n_ids = lengths[i / SHOAL_COUNT(pieces)];
        size_t n_archived = n_ids < 160 ? 0 : (n_ids - 128) / T;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf plain = {0};
        SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(make_blob(&id, n_ids, pieces[i % SHOAL_COUNT(pieces)], &blob), SHOAL_OK);
        assert_int_equal(make_blob(&exact, n_ids, 4096, &plain), SHOAL_OK);
        const uint8_t *bytes = (const uint8_t *)blob.data;
        assert_int_equal(shoal_session_read(&id, bytes, blob.length, &copy, &err), SHOAL_OK);
        assert_int_equal(copy->n_ids, n_ids);
        assert_memory_equal(copy->ids, f.ids, n_ids * sizeof *f.ids);
        for (size_t b = 0; b < n_ids / T; b++) {
            const uint8_t *right = f.blocks + b * BLOCK;
            if (n_archived > 0) {
                coded(b, b >= n_archived, pages);
                assert_memory_not_equal(pages, right, BLOCK); /* it is not exact, and says so */
                right = pages;
            }
            assert_memory_equal(copy->blocks + b * BLOCK, right, BLOCK);
        }
        assert_int_equal(shoal_le_u32(bytes + 8), n_archived > 0 ? 2 : 1);
        assert_true(n_archived > 0 ? blob.length < plain.length : blob.length == plain.length);
        /* Who was not told to take what is not exact does not, and who was takes both. */
        shoal_session_copy_free(SHOAL_STEAL(copy));
        assert_int_equal(shoal_session_read(&exact, bytes, blob.length, &copy, &err),
                         n_archived > 0 ? SHOAL_E_MISMATCH : SHOAL_OK);
        assert_true(n_archived == 0 || strstr(err.text, "kv.archive"));
        shoal_session_copy_free(SHOAL_STEAL(copy));
        assert_int_equal(
            shoal_session_read(&id, (const uint8_t *)plain.data, plain.length, &copy, NULL),
            SHOAL_OK);
        assert_memory_equal(copy->blocks, f.blocks, n_ids / T * BLOCK);
    }
}

static void test_exact_is_written_where_nobody_chose_otherwise(void **state)
{
    (void)state;
    const shoal_session_identity takes = identity_of(f.archive, false);
    const shoal_session_identity exact = identity_of(NULL, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf a = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf b = {0};
    assert_int_equal(make_blob(&takes, N_IDS_MAX, 4096, &a), SHOAL_OK);
    assert_int_equal(make_blob(&exact, N_IDS_MAX, 4096, &b), SHOAL_OK);
    assert_int_equal(shoal_le_u32((const uint8_t *)a.data + 8), 1);
    assert_int_equal(a.length, b.length);
    assert_memory_equal(a.data, b.data, a.length);
}

/* Read from an archived blob and written again, it never passes for what was computed. */
static void test_what_came_archived_is_never_written_as_exact(void **state)
{
    (void)state;
    const shoal_session_identity takes = identity_of(f.archive, false);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    shoal_session_copy *copy = copy_of(160);
    assert_non_null(copy);
    copy->n_archived = 160 / T;
    assert_int_equal(written_blob(&takes, copy, 4096, &blob), SHOAL_OK);
    assert_int_equal(shoal_le_u32((const uint8_t *)blob.data + 8), 2);
    /* Cut to a text that has nothing to archive, or where there is no basis: it stays here. */
    for (int i = 0; i < 2; i++) {
        const shoal_session_identity id = identity_of(i == 0 ? f.archive : NULL, true);
        shoal_session_writer *writer = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        copy = copy_of(i == 0 ? 159 : 160);
        assert_non_null(copy);
        copy->n_archived = copy->n_ids / T;
        assert_int_equal(shoal_session_writer_new(&id, copy, &writer, &err), SHOAL_E_UNSUPPORTED);
        assert_non_null(strstr(err.text, "came archived"));
        shoal_session_copy_free(copy);
    }
}

static void test_another_basis_is_refused_naming_both(void **state)
{
    (void)state;
    const shoal_session_identity id = identity_of(f.archive, true);
    const shoal_session_identity other = identity_of(f.other, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    shoal_session_copy *copy = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    char hex[SHOAL_HASH_HEX];
    assert_int_equal(make_blob(&id, 200, 4096, &blob), SHOAL_OK);
    assert_int_equal(
        shoal_session_read(&other, (const uint8_t *)blob.data, blob.length, &copy, &err),
        SHOAL_E_MISMATCH);
    shoal_hash_hex(shoal_archive_hash(f.archive), hex);
    assert_non_null(strstr(err.text, hex));
    shoal_hash_hex(shoal_archive_hash(f.other), hex);
    assert_non_null(strstr(err.text, hex));
}

static void test_any_wrong_byte_and_any_cut_is_refused(void **state)
{
    (void)state;
    const shoal_session_identity id = identity_of(f.archive, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, 170, 4096, &blob), SHOAL_OK);
    shoal_session_copy *copy = NULL;
    for (size_t i = 0; i < blob.length; i += i < 3000 ? 1 : 37) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_err cut = SHOAL_ERR_INIT;
        const uint8_t *bytes = (const uint8_t *)blob.data;
        blob.data[i] = (char)(blob.data[i] ^ (1 << i % 8));
        assert_true(shoal_session_read(&id, bytes, blob.length, &copy, &err) < 0);
        assert_true(err.text[0] != '\0');
        blob.data[i] = (char)(blob.data[i] ^ (1 << i % 8));
        assert_int_equal(shoal_session_read(&id, bytes, i, &copy, &cut), SHOAL_E_INVALID);
        assert_null(copy);
    }
}

/* The first archived block with its record's checksum put right, as whoever means harm would. */
static void refuse_unit(size_t at, uint32_t value, int more, const char *why)
{
    const shoal_session_identity id = identity_of(f.archive, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf forged = {0};
    assert_int_equal(make_blob(&id, 170, 4096, &blob), SHOAL_OK);
    size_t record = HEAD + RECORD + 4 * 170 + RECORD + CHUNK;
    size_t n = shoal_le_u32((const uint8_t *)blob.data + record + 4);
    size_t end = record + RECORD + n;
    assert_int_equal(shoal_buf_append(&forged, blob.data, end), SHOAL_OK);
    assert_int_equal(shoal_buf_append(&forged, "\0\0\0", (size_t)more), SHOAL_OK);
    assert_int_equal(shoal_buf_append(&forged, blob.data + end, blob.length - end), SHOAL_OK);
    uint8_t *r = (uint8_t *)forged.data + record;
    n += (size_t)more;
    shoal_le_put_u32(r + 4, (uint32_t)n);
    if (more == 0) {
        shoal_le_put_u32(r + RECORD + at, value);
    }
    shoal_le_put_u32(r + 8, shoal_crc32c(shoal_crc32c(0, r, 8), r + RECORD, n));
    shoal_session_copy *copy = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_true(shoal_session_read(&id, (const uint8_t *)forged.data, forged.length, &copy, &err) <
                0);
    assert_null(copy);
    if (!strstr(err.text, why)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    }
}

static void test_hostile_units_are_refused(void **state)
{
    (void)state;
    refuse_unit(0, UINT32_MAX, 0, "its unit ends behind them");
    refuse_unit(0, 1 << 20, 0, "its unit ends behind them");
    refuse_unit(0, 0, 0, "");
    refuse_unit(4, 0, 0, ""); /* the unit's own head */
    refuse_unit(0, 0, 1, "bytes follow its last group");
    refuse_unit(0, 0, 3, "bytes follow its last group");
}

/* Another number of archived blocks than all: the head alone is refused. */
static void test_a_part_of_the_blocks_is_refused_by_the_head(void **state)
{
    (void)state;
    const shoal_session_identity id = identity_of(f.archive, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, 170, 4096, &blob), SHOAL_OK);
    uint8_t *h = (uint8_t *)blob.data;
    shoal_session_copy *copy = NULL;
    assert_int_equal(shoal_le_u32(h + 132), 5);
    for (uint32_t n = 1; n <= 4; n++) {
        shoal_err err = SHOAL_ERR_INIT;
        shoal_le_put_u32(h + 132, n);
        shoal_le_put_u32(h + HEAD - 4, shoal_crc32c(0, h, HEAD - 4));
        assert_int_equal(shoal_session_read(&id, h, blob.length, &copy, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "archived blocks"));
    }
}

/* The block's record again, with its units in the form of the older ones: R4, nothing of the newest
 * tokens is coarser than the form says, whatever a sender makes. */
static void test_a_newest_block_in_the_archived_form_is_refused(void **state)
{
    (void)state;
    static uint8_t block[2 * UNIT_MAX];
    const shoal_session_identity id = identity_of(f.archive, true);
    SHOAL_CLEANUP(shoal_archive_work_freep) shoal_archive_work *work = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf forged = {0};
    assert_int_equal(shoal_archive_work_new(f.archive, &work), SHOAL_OK);
    assert_int_equal(make_blob(&id, 170, 4096, &blob), SHOAL_OK);
    const uint8_t *bytes = (const uint8_t *)blob.data;
    size_t record = HEAD + RECORD + 4 * 170 + RECORD + CHUNK;
    for (size_t b = 0; b < 2; b++) { /* block 0 is archived, block 1 of five is near */
        size_t n = 0;
        size_t n_old = shoal_le_u32(bytes + record + 4);
        assert_true(shoal_archive_block_bytes(f.archive) <= sizeof block - RECORD);
        assert_int_equal(shoal_archive_block_encode(f.archive, &f.kernels, work, b, b == 0,
                                                    f.blocks + b * BLOCK, block + RECORD, &n),
                         SHOAL_OK);
        shoal_le_put_u32(block, 3);
        shoal_le_put_u32(block + 4, (uint32_t)n);
        shoal_le_put_u32(block + 8, shoal_crc32c(shoal_crc32c(0, block, 8), block + RECORD, n));
        shoal_buf_fini(&forged);
        forged = (shoal_buf){0};
        size_t end = record + RECORD + n_old;
        assert_int_equal(shoal_buf_append(&forged, blob.data, record), SHOAL_OK);
        assert_int_equal(shoal_buf_append(&forged, block, RECORD + n), SHOAL_OK);
        assert_int_equal(shoal_buf_append(&forged, blob.data + end, blob.length - end), SHOAL_OK);
        shoal_session_copy *copy = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(
            shoal_session_read(&id, (const uint8_t *)forged.data, forged.length, &copy, &err),
            SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "archived KV"));
        record = end;
    }
}

static void test_failing_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    const shoal_session_identity id = identity_of(f.archive, true);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, 200, 4096, &blob), SHOAL_OK);
    size_t n_failed = 0;
    for (uint64_t i = 0; i < 64; i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf again = {0};
        SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
        shoal_mem_fail_at(i);
        shoal_status made = make_blob(&id, 200, 4096, &again);
        shoal_mem_fail_at(i);
        shoal_status read =
            shoal_session_read(&id, (const uint8_t *)blob.data, blob.length, &copy, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(made == SHOAL_OK || made == SHOAL_E_NOMEM);
        assert_true(read == SHOAL_OK ? copy != NULL : read == SHOAL_E_NOMEM && !copy);
        n_failed += (made != SHOAL_OK) + (size_t)(read != SHOAL_OK);
    }
    assert_true(n_failed >= 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_blocks_are_archived_and_new_ones_are_near),
        cmocka_unit_test(test_exact_is_written_where_nobody_chose_otherwise),
        cmocka_unit_test(test_what_came_archived_is_never_written_as_exact),
        cmocka_unit_test(test_another_basis_is_refused_naming_both),
        cmocka_unit_test(test_any_wrong_byte_and_any_cut_is_refused),
        cmocka_unit_test(test_hostile_units_are_refused),
        cmocka_unit_test(test_a_part_of_the_blocks_is_refused_by_the_head),
        cmocka_unit_test(test_a_newest_block_in_the_archived_form_is_refused),
        cmocka_unit_test(test_failing_memory_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
