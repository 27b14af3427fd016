/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs whose first blocks are archived: each has a length of its own, and the head says which they
 * are and by which basis. What a block's bytes mean is not known here.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "protocol/kvwire/kvwire.h"

#include <stdbool.h>
#include <string.h>

enum {
    LAYERS = 3,
    BLOCKS = 4,
    TOKENS = BLOCKS * SHOAL_KVWIRE_BLOCK + 5,
    LAYER = 10,   /* bytes of a block in one layer */
    ARCHIVED = 9, /* of one that is archived, at most */
    HEAD = 192,
    AT_N_ARCHIVED = 132,
    AT_ZERO = 168,
    AT_CRC = 188,
    RECORD = 12,
    CHUNK = 20,
    FIRST_CHUNK = HEAD + RECORD + 4 * TOKENS,
    BLOB_MAX = 2048
};

static const char form[] = "f16 of a test";
static int32_t ids[TOKENS];

/* As many as the block's number says, up to the most. */
static size_t archived_bytes(uint32_t block)
{
    return block == 1 ? ARCHIVED : 1 + block;
}

static shoal_status read_plain(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                               uint8_t *ret_bytes)
{
    (void)ctx;
    memset(ret_bytes, (int)(100 + block * 7 + layer), (size_t)n_layers * LAYER);
    return SHOAL_OK;
}

static shoal_status read_archived(void *ctx, uint32_t block, uint8_t *ret_bytes, size_t *ret_n)
{
    (void)ctx;
    *ret_n = archived_bytes(block);
    memset(ret_bytes, (int)(1 + block), *ret_n);
    return SHOAL_OK;
}

static shoal_kvwire_encoder *encoder_of(uint32_t n_archived, uint32_t layers, uint32_t blocks)
{
    shoal_kvwire_about about = {.n_tokens = TOKENS,
                                .n_blocks = BLOCKS,
                                .n_layers = LAYERS,
                                .first_bytes = LAYER,
                                .layer_bytes = LAYER,
                                .n_archived = n_archived,
                                .archived_bytes = n_archived > 0 ? ARCHIVED : 0,
                                .basis = {.bytes = {9}}};
    assert_int_equal(shoal_kvwire_form(form, &about.form), SHOAL_OK);
    const shoal_kvwire_source source = {.ids = ids,
                                        .read = read_plain,
                                        .read_archived = read_archived,
                                        .chunk_layers = layers,
                                        .chunk_blocks = blocks};
    shoal_kvwire_encoder *encoder = NULL;
    assert_int_equal(
        shoal_kvwire_encoder_new(&about, &source, (shoal_kvwire_salt){.n = 0}, &encoder, NULL),
        SHOAL_OK);
    return encoder;
}

static size_t blob_of(uint32_t n_archived, uint32_t layers, uint32_t blocks, uint8_t *ret_blob)
{
    shoal_kvwire_encoder *encoder = encoder_of(n_archived, layers, blocks);
    size_t n = 0;
    assert_int_equal(shoal_kvwire_encoder_read(encoder, ret_blob, BLOB_MAX, &n), SHOAL_OK);
    assert_true(n < BLOB_MAX);
    shoal_kvwire_encoder_free(encoder);
    return n;
}

static const shoal_hash the_basis = {.bytes = {9}};

static shoal_kvwire_expect expect_of(void)
{
    return (shoal_kvwire_expect){.form = form,
                                 .n_layers = LAYERS,
                                 .first_bytes = LAYER,
                                 .layer_bytes = LAYER,
                                 .n_vocab = 10,
                                 .n_tokens_max = TOKENS,
                                 .basis = &the_basis,
                                 .archived_bytes = ARCHIVED};
}

/* What came. */
typedef struct taken {
    uint32_t n_archived;
    uint32_t n_plain; /* by layer */
    bool ended;
} taken;

static shoal_status feed(shoal_kvwire_decoder *decoder, const uint8_t *bytes, size_t n, taken *t,
                         shoal_err *err)
{
    shoal_status status = SHOAL_MORE;
    for (size_t at = 0; status == SHOAL_MORE && at < n;) {
        size_t used = 0;
        shoal_kvwire_event e;
        shoal_kvwire_decoder_put_data(decoder, bytes + at, n - at, &used);
        at += used;
        while ((status = shoal_kvwire_decoder_step(decoder, &e, err)) == SHOAL_OK) {
            t->ended = e.kind == SHOAL_KVWIRE_END;
            if (e.kind == SHOAL_KVWIRE_DATA && e.codec == SHOAL_KVWIRE_ARCHIVE) {
                assert_int_equal(e.block, t->n_archived++);
                assert_int_equal(e.n_bytes, archived_bytes(e.block));
                assert_int_equal(e.bytes[e.n_bytes - 1], 1 + e.block);
                assert_int_equal(e.layer, 0);
                assert_int_equal(e.n_layers, LAYERS);
            } else if (e.kind == SHOAL_KVWIRE_DATA) {
                assert_int_equal(e.bytes[0], 100 + e.block * 7 + e.layer);
                assert_int_equal(e.n_bytes, e.n_layers * (size_t)LAYER);
                t->n_plain += e.n_layers;
            }
        }
    }
    return status;
}

static shoal_status decode(const shoal_kvwire_expect *expect, const uint8_t *blob, size_t n,
                           taken *ret_taken, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_kvwire_decoder_freep) shoal_kvwire_decoder *decoder = NULL;
    *ret_taken = (taken){.n_plain = 0};
    SHOAL_TRY(shoal_kvwire_decoder_new(expect, &decoder));
    shoal_status status = feed(decoder, blob, n, ret_taken, err);
    return status == SHOAL_MORE ? shoal_kvwire_decoder_finish(decoder, err) : status;
}

static void test_any_number_of_archived_blocks_comes_in_any_chunks(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    for (uint32_t n_archived = 0; n_archived <= BLOCKS; n_archived++) {
        for (uint32_t shape = 0; shape < LAYERS * BLOCKS; shape++) {
            size_t n = blob_of(n_archived, 1 + shape % LAYERS, 1 + shape / LAYERS, blob);
            taken t;
            shoal_err err = SHOAL_ERR_INIT;
            shoal_kvwire_expect expect = expect_of();
            assert_int_equal(shoal_le_u32(blob + 8), n_archived > 0 ? 2 : 1);
            assert_int_equal(decode(&expect, blob, n, &t, &err), SHOAL_OK);
            assert_true(t.ended);
            assert_int_equal(t.n_archived, n_archived);
            assert_int_equal(t.n_plain, LAYERS * (BLOCKS - n_archived));
            /* Who has no basis takes what is exact alone. */
            expect.basis = NULL;
            assert_int_equal(decode(&expect, blob, n, &t, &err),
                             n_archived > 0 ? SHOAL_E_MISMATCH : SHOAL_OK);
            assert_true(n_archived == 0 || strstr(err.text, "kv.archive"));
        }
    }
}

static void test_another_basis_is_refused_naming_both(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, LAYERS, 2, blob);
    shoal_hash other = the_basis;
    other.bytes[31] ^= 1;
    shoal_kvwire_expect expect = expect_of();
    expect.basis = &other;
    taken t;
    shoal_err err = SHOAL_ERR_INIT;
    char ours[SHOAL_HASH_HEX];
    char theirs[SHOAL_HASH_HEX];
    shoal_hash_hex(&other, ours);
    shoal_hash_hex(&the_basis, theirs);
    assert_int_equal(decode(&expect, blob, n, &t, &err), SHOAL_E_MISMATCH);
    assert_non_null(strstr(err.text, ours));
    assert_non_null(strstr(err.text, theirs));
}

static void test_a_cut_link_goes_on_at_every_record(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    static uint8_t rest[BLOB_MAX];
    size_t n = blob_of(3, 2, 2, blob);
    const shoal_kvwire_expect expect = expect_of();
    for (size_t cut = 0; cut <= n; cut++) {
        SHOAL_CLEANUP(shoal_kvwire_decoder_freep) shoal_kvwire_decoder *decoder = NULL;
        SHOAL_CLEANUP(shoal_kvwire_encoder_freep)
        shoal_kvwire_encoder *encoder = encoder_of(3, 2, 2);
        taken t = {.n_plain = 0};
        shoal_err err = SHOAL_ERR_INIT;
        uint64_t at = 0;
        size_t n_rest = 0;
        assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_OK);
        assert_int_equal(feed(decoder, blob, cut, &t, &err), SHOAL_MORE);
        uint64_t record = shoal_kvwire_decoder_resume(decoder, &at);
        assert_int_equal(shoal_kvwire_encoder_seek(encoder, record), SHOAL_OK);
        assert_int_equal(shoal_kvwire_encoder_read(encoder, rest, BLOB_MAX, &n_rest), SHOAL_OK);
        assert_int_equal(at + n_rest, n);
        assert_memory_equal(rest, blob + at, n_rest);
        assert_int_equal(feed(decoder, rest, n_rest, &t, &err), SHOAL_MORE);
        assert_int_equal(shoal_kvwire_decoder_finish(decoder, &err), SHOAL_OK);
        assert_int_equal(t.n_archived, 3);
        assert_int_equal(t.n_plain, LAYERS);
        assert_int_equal(shoal_kvwire_encoder_seek(encoder, shoal_kvwire_encoder_records(encoder)),
                         SHOAL_OK);
        assert_int_equal(
            shoal_kvwire_encoder_seek(encoder, shoal_kvwire_encoder_records(encoder) + 1),
            SHOAL_E_LIMIT);
    }
}

static void test_a_changed_bit_or_a_cut_anywhere_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, LAYERS, 2, blob);
    const shoal_kvwire_expect expect = expect_of();
    taken t;
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            shoal_err err = SHOAL_ERR_INIT;
            blob[i] ^= (uint8_t)(1 << bit);
            assert_int_not_equal(decode(&expect, blob, n, &t, &err), SHOAL_OK);
            assert_true(err.text[0] != '\0');
            blob[i] ^= (uint8_t)(1 << bit);
        }
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_not_equal(decode(&expect, blob, i, &t, &err), SHOAL_OK);
    }
}

/* A number changed and the checksum over it put right, as whoever means harm would. */
static void forge(size_t at, uint32_t value, size_t crc_at, const char *why)
{
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, LAYERS, 2, blob);
    shoal_le_put_u32(blob + at, value);
    if (crc_at == AT_CRC) {
        shoal_le_put_u32(blob + crc_at, shoal_crc32c(0, blob, AT_CRC));
    } else {
        uint32_t crc = shoal_crc32c(0, blob + crc_at - 8, 8);
        shoal_le_put_u32(blob + crc_at, shoal_crc32c(crc, blob + crc_at + 4, CHUNK));
    }
    taken t;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_kvwire_expect expect = expect_of();
    assert_int_not_equal(decode(&expect, blob, n, &t, &err), SHOAL_OK);
    if (!strstr(err.text, why)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    }
}

static void test_forged_numbers_are_refused_where_they_stand(void **state)
{
    (void)state;
    const size_t block = FIRST_CHUNK + RECORD + CHUNK; /* the first archived one */
    const size_t second = block + 2 * RECORD + 1 + ARCHIVED;
    forge(AT_ZERO, 1, AT_CRC, "is not 0");
    forge(12, 160, AT_CRC, "160 bytes");
    forge(AT_N_ARCHIVED, 0, AT_CRC, "archived blocks: 0");
    forge(AT_N_ARCHIVED, 1, AT_CRC, "blocks that are not there"); /* the chunk has two */
    forge(AT_N_ARCHIVED, BLOCKS, AT_CRC, "coded otherwise");
    forge(AT_N_ARCHIVED, BLOCKS + 1, AT_CRC, "archived blocks");
    forge(FIRST_CHUNK + RECORD + 16, 0, FIRST_CHUNK + 8, "coded otherwise");
    forge(FIRST_CHUNK + RECORD + 16, 2, FIRST_CHUNK + 8, "codec 2");
    forge(FIRST_CHUNK + RECORD + 12, LAYERS - 1, FIRST_CHUNK + 8, "layers that are not there");
    forge(second + RECORD + 16, 1, second + 8, "coded otherwise");
    forge(block + 4, 0, FIRST_CHUNK + 8, "another length");
    forge(block + 4, ARCHIVED + 1, FIRST_CHUNK + 8, "another length");
}

static void test_what_cannot_be_sent_is_refused(void **state)
{
    (void)state;
    const struct {
        uint32_t n_archived, archived_bytes;
        bool reads;
    } rows[] = {{BLOCKS + 1, ARCHIVED, true},
                {1, 0, true},
                {1, SHOAL_KVWIRE_RECORD_MAX + 1, true},
                {1, ARCHIVED, false}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        const shoal_kvwire_about about = {.n_tokens = TOKENS,
                                          .n_blocks = BLOCKS,
                                          .n_layers = LAYERS,
                                          .first_bytes = LAYER,
                                          .layer_bytes = LAYER,
                                          .n_archived = rows[i].n_archived,
                                          .archived_bytes = rows[i].archived_bytes};
        const shoal_kvwire_source source = {.ids = ids,
                                            .read = read_plain,
                                            .read_archived = rows[i].reads ? read_archived : NULL,
                                            .chunk_layers = 1,
                                            .chunk_blocks = 1};
        shoal_kvwire_encoder *encoder = NULL;
        assert_int_equal(
            shoal_kvwire_encoder_new(&about, &source, (shoal_kvwire_salt){.n = 0}, &encoder, NULL),
            SHOAL_E_INVALID);
    }
    shoal_kvwire_expect expect = expect_of();
    shoal_kvwire_decoder *decoder = NULL;
    expect.archived_bytes = 0;
    assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_archived_blocks_comes_in_any_chunks),
        cmocka_unit_test(test_another_basis_is_refused_naming_both),
        cmocka_unit_test(test_a_cut_link_goes_on_at_every_record),
        cmocka_unit_test(test_a_changed_bit_or_a_cut_anywhere_is_refused),
        cmocka_unit_test(test_forged_numbers_are_refused_where_they_stand),
        cmocka_unit_test(test_what_cannot_be_sent_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
