/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/crc32c.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "protocol/kvwire/kvwire.h"

#include <stdbool.h>
#include <string.h>

enum {
    LAYERS = 3,
    BLOCKS = 4,
    TOKENS = BLOCKS * SHOAL_KVWIRE_BLOCK + 5,
    FIRST = 24, /* bytes of block 0 in one layer */
    OTHER = 10,
    KV = LAYERS * (FIRST + (BLOCKS - 1) * OTHER),
    CHUNK = 20, /* bytes of a chunk's head */
    AT_HEAD_CRC = 156,
    BLOB_MAX = 1 << 16
};

static const char form[] = "f16 of a test";
static const shoal_kvwire_salt no_salt = {.n = 0};
static int32_t ids[SHOAL_KVWIRE_TOKENS_MAX / 512];

static uint8_t byte_of(uint32_t block, uint32_t layer, size_t i)
{
    return (uint8_t)(block * 37u + layer * 101u + i * 7u + 1u);
}

static size_t bytes_of(uint32_t block)
{
    return block == 0 ? FIRST : OTHER;
}

static shoal_status read_block(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                               uint8_t *ret_bytes)
{
    size_t *n_left = ctx; /* reads until one fails */
    if (n_left && (*n_left)-- == 0) {
        return SHOAL_E_IO;
    }
    for (uint32_t l = layer; l < layer + n_layers; l++) {
        for (size_t i = 0; i < bytes_of(block); i++) {
            *ret_bytes++ = byte_of(block, l, i);
        }
    }
    return SHOAL_OK;
}

static shoal_kvwire_about about_of(uint32_t n_tokens, uint32_t n_blocks)
{
    shoal_kvwire_about about = {.model = {.bytes = {1}},
                                .tokenizer = {.bytes = {2}},
                                .n_tokens = n_tokens,
                                .n_blocks = n_blocks,
                                .n_layers = LAYERS,
                                .first_bytes = FIRST,
                                .layer_bytes = OTHER};
    assert_int_equal(shoal_kvwire_form(form, &about.form), SHOAL_OK);
    return about;
}

static shoal_kvwire_expect expect_of(void)
{
    return (shoal_kvwire_expect){.model = {.bytes = {1}},
                                 .tokenizer = {.bytes = {2}},
                                 .form = form,
                                 .n_layers = LAYERS,
                                 .first_bytes = FIRST,
                                 .layer_bytes = OTHER,
                                 .n_vocab = 1000,
                                 .n_tokens_max = SHOAL_KVWIRE_TOKENS_MAX};
}

static shoal_kvwire_encoder *encoder_of(shoal_kvwire_about about, uint32_t layers, uint32_t blocks,
                                        shoal_kvwire_salt salt)
{
    const shoal_kvwire_source source = {
        .ids = ids, .read = read_block, .chunk_layers = layers, .chunk_blocks = blocks};
    shoal_kvwire_encoder *encoder = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_kvwire_encoder_new(&about, &source, salt, &encoder, &err), SHOAL_OK);
    return encoder;
}

/* All that comes from now on, in pieces. */
static size_t read_all(shoal_kvwire_encoder *encoder, size_t piece, uint8_t *ret_blob)
{
    size_t n_all = 0;
    size_t n = piece;
    while (n == piece) {
        assert_true(n_all + piece <= BLOB_MAX);
        assert_int_equal(shoal_kvwire_encoder_read(encoder, ret_blob + n_all, piece, &n), SHOAL_OK);
        n_all += n;
    }
    assert_int_equal(shoal_kvwire_encoder_read(encoder, ret_blob, 1, &n), SHOAL_OK);
    assert_int_equal(n, 0);
    return n_all;
}

static size_t blob_of(uint32_t layers, uint32_t blocks, shoal_kvwire_salt salt, uint8_t *ret_blob)
{
    shoal_kvwire_encoder *encoder = encoder_of(about_of(TOKENS, BLOCKS), layers, blocks, salt);
    size_t n = read_all(encoder, 64, ret_blob);
    shoal_kvwire_encoder_free(encoder);
    return n;
}

/* What came of a blob. */
typedef struct taken {
    uint32_t n_ids;
    size_t n_bytes; /* of KV */
    uint32_t n_events;
    uint32_t last_layer;
    bool ended;
} taken;

static void take_event(const shoal_kvwire_event *event, taken *t)
{
    t->n_events++;
    assert_false(t->ended);
    if (event->kind == SHOAL_KVWIRE_TOKENS) {
        assert_int_equal(event->first, t->n_ids);
        assert_memory_equal(event->ids, ids + event->first, event->n * sizeof *ids);
        t->n_ids += event->n;
    } else if (event->kind == SHOAL_KVWIRE_DATA) {
        size_t one = bytes_of(event->block);
        assert_int_equal(event->codec, SHOAL_KVWIRE_PLAIN);
        assert_int_equal(event->n_bytes, event->n_layers * one);
        for (size_t i = 0; i < event->n_bytes; i++) {
            assert_int_equal(event->bytes[i],
                             byte_of(event->block, event->layer + (uint32_t)(i / one), i % one));
        }
        t->n_bytes += event->n_bytes;
        t->last_layer = event->layer;
    }
    t->ended = event->kind == SHOAL_KVWIRE_END;
}

/* Gives n bytes in pieces and takes what comes of them. */
static shoal_status feed(shoal_kvwire_decoder *decoder, const uint8_t *bytes, size_t n,
                         size_t piece, taken *t, shoal_err *err)
{
    shoal_status status = SHOAL_MORE;
    for (size_t at = 0; status == SHOAL_MORE && at < n;) {
        size_t used = 0;
        shoal_kvwire_event event;
        shoal_kvwire_decoder_put_data(decoder, bytes + at, SHOAL_MIN(piece, n - at), &used);
        at += used;
        while ((status = shoal_kvwire_decoder_step(decoder, &event, err)) == SHOAL_OK) {
            take_event(&event, t);
        }
        assert_true(used > 0 || status != SHOAL_MORE);
    }
    return status;
}

/* The outcome of a whole blob: SHOAL_OK, or why it is refused, in words. */
static shoal_status decode(const shoal_kvwire_expect *expect, const uint8_t *blob, size_t n,
                           size_t piece, taken *ret_taken, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_kvwire_decoder_freep) shoal_kvwire_decoder *decoder = NULL;
    *ret_taken = (taken){.n_ids = 0};
    SHOAL_TRY(shoal_kvwire_decoder_new(expect, &decoder));
    shoal_status status = feed(decoder, blob, n, piece, ret_taken, err);
    if (status == SHOAL_MORE) {
        status = shoal_kvwire_decoder_finish(decoder, err);
    }
    assert_true(status == SHOAL_OK ? ret_taken->ended : err->text[0] != '\0');
    return status;
}

static void test_any_chunks_in_any_pieces_give_what_was_put_in(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    const shoal_kvwire_expect expect = expect_of();
    for (uint32_t layers = 1; layers <= LAYERS + 1; layers++) {
        for (uint32_t blocks = 1; blocks <= BLOCKS + 1; blocks++) {
            size_t n = blob_of(layers, blocks, no_salt, blob);
            for (size_t piece = 1; piece <= n; piece += 1 + piece * 3) {
                taken t;
                shoal_err err = SHOAL_ERR_INIT;
                assert_int_equal(decode(&expect, blob, n, piece, &t, &err), SHOAL_OK);
                assert_int_equal(t.n_ids, TOKENS);
                assert_int_equal(t.n_bytes, KV);
                assert_int_equal(t.last_layer, (LAYERS - 1) / layers * layers);
            }
        }
    }
}

static void test_one_byte_per_read_gives_the_same_blob(void **state)
{
    (void)state;
    static uint8_t whole[BLOB_MAX];
    static uint8_t bytes[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, whole);
    shoal_kvwire_encoder *encoder = encoder_of(about_of(TOKENS, BLOCKS), 2, 3, no_salt);
    assert_int_equal(read_all(encoder, 1, bytes), n);
    bytes[0] = whole[0]; /* read_all asks for a byte behind the end */
    assert_memory_equal(bytes, whole, n);
    shoal_kvwire_encoder_free(encoder);
}

static void test_a_text_of_many_ids_or_of_no_block_is_whole(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    const uint32_t lengths[] = {1, 31, 4095, 4096, 4097, 8192, 8193};
    for (size_t i = 0; i < SHOAL_COUNT(lengths); i++) {
        shoal_kvwire_encoder *encoder = encoder_of(about_of(lengths[i], 0), 1, 1, no_salt);
        size_t n = read_all(encoder, 1000, blob);
        shoal_kvwire_encoder_free(encoder);
        taken t;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_kvwire_expect expect = expect_of();
        expect.n_tokens_max = lengths[i];
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_OK);
        assert_int_equal(t.n_ids, lengths[i]);
        expect.n_tokens_max--;
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_E_LIMIT);
    }
}

static void test_a_block_is_there_before_the_rest_has_come(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(1, BLOCKS, no_salt, blob);
    shoal_kvwire_expect expect = expect_of();
    shoal_kvwire_decoder *decoder = NULL;
    assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_OK);
    taken t = {.n_ids = 0};
    shoal_err err = SHOAL_ERR_INIT;
    size_t at = 0;
    while (t.n_bytes < KV / LAYERS) {
        assert_true(at < n);
        assert_int_equal(feed(decoder, blob + at, 1, 1, &t, &err), SHOAL_MORE);
        at++;
    }
    assert_int_equal(t.last_layer, 0); /* all of layer 0, nothing of the others */
    assert_true(n - at > (size_t)KV / LAYERS * (LAYERS - 1));
    assert_int_equal(shoal_kvwire_decoder_finish(decoder, &err), SHOAL_E_INVALID);
    shoal_kvwire_decoder_free(decoder);
}

static void test_a_cut_link_goes_on_at_every_record(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    static uint8_t rest[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    const shoal_kvwire_expect expect = expect_of();
    for (size_t cut = 0; cut <= n; cut++) {
        shoal_kvwire_decoder *decoder = NULL;
        assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_OK);
        taken t = {.n_ids = 0};
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(feed(decoder, blob, cut, cut + 1, &t, &err), SHOAL_MORE);
        uint64_t at = 0;
        uint64_t record = shoal_kvwire_decoder_resume(decoder, &at);
        shoal_kvwire_encoder *encoder = encoder_of(about_of(TOKENS, BLOCKS), 2, 3, no_salt);
        assert_int_equal(shoal_kvwire_encoder_seek(encoder, record), SHOAL_OK);
        size_t n_rest = read_all(encoder, n + 1, rest);
        assert_int_equal(at + n_rest, n);
        assert_true(at <= cut);
        rest[0] = blob[at];
        assert_memory_equal(rest, blob + at, n_rest);
        assert_int_equal(feed(decoder, rest, n_rest, n, &t, &err), SHOAL_MORE);
        assert_int_equal(shoal_kvwire_decoder_finish(decoder, &err), SHOAL_OK);
        assert_int_equal(t.n_bytes, KV);
        shoal_kvwire_encoder_free(encoder);
        shoal_kvwire_decoder_free(decoder);
    }
}

static void test_seeking_past_the_end_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    shoal_kvwire_encoder *encoder = encoder_of(about_of(TOKENS, BLOCKS), LAYERS, BLOCKS, no_salt);
    size_t n = read_all(encoder, 10, blob);
    /* the head, ids, a chunk, its blocks, the end */
    uint64_t n_records = 1 + 1 + 1 + BLOCKS + 1;
    assert_int_equal(shoal_kvwire_encoder_seek(encoder, n_records), SHOAL_OK);
    assert_int_equal(read_all(encoder, 10, blob), 0);
    assert_int_equal(shoal_kvwire_encoder_seek(encoder, n_records + 1), SHOAL_E_LIMIT);
    assert_int_equal(shoal_kvwire_encoder_seek(encoder, 0), SHOAL_OK);
    assert_int_equal(read_all(encoder, 10, blob), n);
    shoal_kvwire_encoder_free(encoder);
}

static void test_a_changed_bit_anywhere_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    const shoal_kvwire_expect expect = expect_of();
    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            taken t;
            shoal_err err = SHOAL_ERR_INIT;
            blob[i] = (uint8_t)(blob[i] ^ 1u << bit);
            assert_true(decode(&expect, blob, n, n, &t, &err) < 0);
            assert_false(t.ended);
            blob[i] = (uint8_t)(blob[i] ^ 1u << bit);
        }
    }
}

static void test_every_other_length_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    const shoal_kvwire_expect expect = expect_of();
    taken t;
    for (size_t cut = 0; cut < n; cut++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(decode(&expect, blob, cut, cut + 1, &t, &err), SHOAL_E_INVALID);
        assert_non_null(strstr(err.text, "missing"));
    }
    shoal_err err = SHOAL_ERR_INIT;
    blob[n] = 0;
    assert_int_equal(decode(&expect, blob, n + 1, n + 1, &t, &err), SHOAL_E_INVALID);
    assert_non_null(strstr(err.text, "follow"));
}

static void test_records_of_another_blob_are_refused_at_the_end(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    static uint8_t other[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    ids[3] ^= 1;
    assert_int_equal(blob_of(2, 3, no_salt, other), n);
    ids[3] ^= 1;
    /* The ids of one before the KV of the other: every checksum is right. */
    size_t n_ids = 160 + 12 + 4 * TOKENS;
    memcpy(blob, other, n_ids);
    ids[3] ^= 1;
    taken t;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_kvwire_expect expect = expect_of();
    assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_E_MISMATCH);
    ids[3] ^= 1;
    assert_non_null(strstr(err.text, "content hash"));
    assert_int_equal(t.n_bytes, KV); /* whoever committed before the end would have been wrong */
    assert_false(t.ended);
}

/* A blob of one chunk a layer with a number changed and the checksum over it put right, as whoever
 * means harm would. */
static void refuse_forged(size_t at, uint32_t value, size_t crc_at, const char *why)
{
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(1, BLOCKS, no_salt, blob);
    shoal_le_put_u32(blob + at, value);
    if (crc_at == AT_HEAD_CRC) {
        shoal_le_put_u32(blob + crc_at, shoal_crc32c(0, blob, AT_HEAD_CRC));
    } else {
        uint32_t crc = shoal_crc32c(0, blob + crc_at - 8, 8);
        shoal_le_put_u32(blob + crc_at, shoal_crc32c(crc, blob + crc_at + 4, CHUNK));
    }
    taken t;
    shoal_err err = SHOAL_ERR_INIT;
    const shoal_kvwire_expect expect = expect_of();
    assert_int_not_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_OK);
    if (!strstr(err.text, why)) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    }
}

static void test_forged_numbers_are_refused_where_they_stand(void **state)
{
    (void)state;
    const size_t first = AT_HEAD_CRC + 4 + 12 + 4 * TOKENS; /* a record begins: the first chunk */
    const size_t second = first + 12 + CHUNK + BLOCKS * 12 + FIRST + (BLOCKS - 1) * OTHER;
    refuse_forged(AT_HEAD_CRC - 4, 1, AT_HEAD_CRC, "is not 0");
    refuse_forged(first + 12, 1, first + 8, "does not follow");
    refuse_forged(first + 16, 0, first + 8, "blocks that are not there");
    refuse_forged(first + 16, BLOCKS + 1, first + 8, "blocks that are not there");
    refuse_forged(first + 20, 1, first + 8, "does not follow");
    refuse_forged(first + 24, 0, first + 8, "layers that are not there");
    refuse_forged(first + 24, LAYERS + 1, first + 8, "layers that are not there");
    refuse_forged(first + 28, 7, first + 8, "codec 7");
    refuse_forged(second + 16, BLOCKS - 1, second + 8, "blocks that are not there");
}

static void test_another_identity_is_refused_naming_both(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    taken t;
    for (int what = 0; what < 3; what++) {
        shoal_kvwire_expect expect = expect_of();
        shoal_err err = SHOAL_ERR_INIT;
        char ours[SHOAL_HASH_HEX];
        char theirs[SHOAL_HASH_HEX];
        shoal_hash form_hash;
        expect.model.bytes[31] ^= what == 0;
        expect.tokenizer.bytes[31] ^= what == 1;
        expect.form = what == 2 ? "q8 of a test" : form;
        assert_int_equal(shoal_kvwire_form(form, &form_hash), SHOAL_OK);
        const shoal_kvwire_about about = about_of(TOKENS, BLOCKS);
        const shoal_hash *blobs[] = {&about.model, &about.tokenizer, &about.form};
        assert_int_equal(shoal_kvwire_form(expect.form, &form_hash), SHOAL_OK);
        const shoal_hash *expected[] = {&expect.model, &expect.tokenizer, &form_hash};
        shoal_hash_hex(blobs[what], theirs);
        shoal_hash_hex(expected[what], ours);
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_E_MISMATCH);
        assert_int_equal(t.n_events, 0);
        assert_non_null(strstr(err.text, ours));
        assert_non_null(strstr(err.text, theirs));
    }
}

static void test_another_shape_or_vocabulary_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    taken t;
    for (int what = 0; what < 4; what++) {
        shoal_kvwire_expect expect = expect_of();
        shoal_err err = SHOAL_ERR_INIT;
        expect.n_layers += what == 0;
        expect.first_bytes += what == 1;
        expect.layer_bytes += what == 2;
        expect.n_vocab = what == 3 ? TOKENS - 1 : expect.n_vocab;
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_E_INVALID);
    }
}

static void test_who_does_not_know_the_salt_is_refused(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    char salt[SHOAL_KVWIRE_SALT_MAX + 1];
    memset(salt, 's', sizeof salt);
    const size_t lengths[] = {1, SHOAL_KVWIRE_SALT_MAX};
    taken t;
    for (size_t i = 0; i < SHOAL_COUNT(lengths); i++) {
        shoal_kvwire_expect expect = expect_of();
        shoal_err err = SHOAL_ERR_INIT;
        expect.salt = (shoal_kvwire_salt){.bytes = salt, .n = lengths[i]};
        size_t n = blob_of(2, 3, expect.salt, blob);
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_OK);
        expect.salt.n--;
        assert_int_equal(decode(&expect, blob, n, n, &t, &err), SHOAL_E_MISMATCH);
        assert_false(t.ended);
    }
    shoal_kvwire_expect expect = expect_of();
    shoal_kvwire_decoder *decoder = NULL;
    expect.salt = (shoal_kvwire_salt){.bytes = salt, .n = sizeof salt};
    assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_E_LIMIT);
}

static void test_limits_of_what_is_sent_are_kept(void **state)
{
    (void)state;
    const shoal_kvwire_about good = about_of(TOKENS, BLOCKS);
    shoal_kvwire_about bad[6] = {good, good, good, good, good, good};
    bad[0].n_tokens = 0;
    bad[1].n_tokens = BLOCKS * SHOAL_KVWIRE_BLOCK - 1;
    bad[2].n_layers = 0;
    bad[3].n_layers = SHOAL_KVWIRE_LAYERS_MAX + 1;
    bad[4].first_bytes = 0;
    bad[5].layer_bytes = SHOAL_KVWIRE_RECORD_MAX + 1;
    shoal_kvwire_source source = {
        .ids = ids, .read = read_block, .chunk_layers = 1, .chunk_blocks = 1};
    shoal_kvwire_encoder *encoder = NULL;
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        shoal_err err = SHOAL_ERR_INIT;
        assert_int_equal(shoal_kvwire_encoder_new(&bad[i], &source, no_salt, &encoder, &err),
                         SHOAL_E_INVALID);
        assert_true(err.text[0] != '\0');
    }
    shoal_kvwire_about large = good;
    large.layer_bytes = SHOAL_KVWIRE_RECORD_MAX / 2 + 1;
    source.chunk_layers = 2;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_kvwire_encoder_new(&large, &source, no_salt, &encoder, &err),
                     SHOAL_E_LIMIT);
    source.chunk_layers = 0;
    shoal_err_clear(&err);
    assert_int_equal(shoal_kvwire_encoder_new(&good, &source, no_salt, &encoder, &err),
                     SHOAL_E_INVALID);
}

static void test_a_source_that_fails_fails_the_encoder(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n_left = 2;
    const shoal_kvwire_about about = about_of(TOKENS, BLOCKS);
    const shoal_kvwire_source source = {
        .ids = ids, .ctx = &n_left, .read = read_block, .chunk_layers = 3, .chunk_blocks = 2};
    shoal_kvwire_encoder *encoder = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    size_t n = 0;
    assert_int_equal(shoal_kvwire_encoder_new(&about, &source, no_salt, &encoder, &err), SHOAL_OK);
    assert_int_equal(shoal_kvwire_encoder_read(encoder, blob, sizeof blob, &n), SHOAL_E_IO);
    assert_int_equal(shoal_kvwire_encoder_read(encoder, blob, sizeof blob, &n), SHOAL_E_IO);
    assert_int_equal(shoal_kvwire_encoder_seek(encoder, 0), SHOAL_E_IO);
    shoal_kvwire_encoder_free(encoder);
}

/* Blocks that come one at a time: the bytes are those of one that was there at once. */
typedef struct slow_source {
    uint32_t n_there;
    size_t n_asked;
} slow_source;

static shoal_status read_slow(void *ctx, uint32_t block, uint32_t layer, uint32_t n_layers,
                              uint8_t *ret_bytes)
{
    slow_source *s = ctx;
    s->n_asked++;
    return block < s->n_there ? read_block(NULL, block, layer, n_layers, ret_bytes) : SHOAL_BUSY;
}

static void test_a_block_that_is_not_there_yet_is_waited_for(void **state)
{
    (void)state;
    static const size_t pieces[] = {1, 7, 100, BLOB_MAX};
    static uint8_t whole[BLOB_MAX];
    static uint8_t blob[BLOB_MAX];
    size_t n_whole = blob_of(2, 2, no_salt, whole);
    for (size_t i = 0; i < SHOAL_COUNT(pieces); i++) {
        slow_source slow = {.n_there = 0};
        const shoal_kvwire_about about = about_of(TOKENS, BLOCKS);
        const shoal_kvwire_source source = {
            .ids = ids, .ctx = &slow, .read = read_slow, .chunk_layers = 2, .chunk_blocks = 2};
        shoal_kvwire_encoder *encoder = NULL;
        assert_int_equal(shoal_kvwire_encoder_new(&about, &source, no_salt, &encoder, NULL),
                         SHOAL_OK);
        size_t n_all = 0;
        size_t n_waits = 0;
        for (;;) {
            size_t n = 0;
            shoal_status status = shoal_kvwire_encoder_read(
                encoder, blob + n_all, SHOAL_MIN(pieces[i], BLOB_MAX - n_all), &n);
            n_all += n;
            if (status == SHOAL_BUSY) {
                n_waits++;
                slow.n_there += n_waits % 2 == 0; /* each is asked for in vain twice */
                continue;
            }
            assert_int_equal(status, SHOAL_OK);
            if (n < pieces[i]) {
                break;
            }
        }
        assert_int_equal(n_waits, 2 * BLOCKS);
        assert_int_equal(n_all, n_whole);
        assert_memory_equal(blob, whole, n_whole);
        shoal_kvwire_encoder_free(encoder);
    }
}

/* To every record, while the blocks before it come one at a time: what follows is what followed. */
static void test_a_seek_waits_for_the_blocks_before_it(void **state)
{
    (void)state;
    static uint8_t whole[BLOB_MAX];
    static uint8_t blob[BLOB_MAX];
    size_t n_whole = blob_of(2, 2, no_salt, whole);
    const shoal_kvwire_about about = about_of(TOKENS, BLOCKS);
    for (uint64_t record = 0;; record++) {
        slow_source slow = {.n_there = 0};
        const shoal_kvwire_source source = {
            .ids = ids, .ctx = &slow, .read = read_slow, .chunk_layers = 2, .chunk_blocks = 2};
        shoal_kvwire_encoder *encoder = NULL;
        assert_int_equal(shoal_kvwire_encoder_new(&about, &source, no_salt, &encoder, NULL),
                         SHOAL_OK);
        uint64_t n_records = shoal_kvwire_encoder_records(encoder);
        size_t n_waits = 0;
        shoal_status status = SHOAL_OK;
        while ((status = shoal_kvwire_encoder_seek(encoder, record)) == SHOAL_BUSY) {
            n_waits++;
            slow.n_there += n_waits % 2 == 0;
        }
        assert_int_equal(status, record <= n_records ? SHOAL_OK : SHOAL_E_LIMIT);
        if (status != SHOAL_OK) {
            assert_int_equal(record, n_records + 1);
            shoal_kvwire_encoder_free(encoder);
            break;
        }
        /* Nothing is read before it is there, and no more than is needed. */
        assert_int_equal(n_waits, 2 * (size_t)slow.n_there);
        slow.n_there = BLOCKS;
        size_t n_rest = read_all(encoder, BLOB_MAX, blob);
        assert_true(n_rest <= n_whole && (record < n_records) == (n_rest > 0));
        blob[n_rest] = 0; /* so that it is initialized at the end too */
        assert_memory_equal(blob, whole + n_whole - n_rest, n_rest);
        shoal_kvwire_encoder_free(encoder);
    }
}

static void test_every_failing_allocation_is_survived(void **state)
{
    (void)state;
    static uint8_t blob[BLOB_MAX];
    size_t n = blob_of(2, 3, no_salt, blob);
    const shoal_kvwire_expect expect = expect_of();
    const shoal_kvwire_about about = about_of(TOKENS, BLOCKS);
    const shoal_kvwire_source source = {
        .ids = ids, .read = read_block, .chunk_layers = 3, .chunk_blocks = 2};
    bool failed = true;
    for (uint64_t at = 0; failed; at++) {
        taken t = {.n_ids = 0};
        shoal_err err = SHOAL_ERR_INIT;
        shoal_kvwire_encoder *encoder = NULL;
        shoal_mem_fail_at(at);
        shoal_status out = shoal_kvwire_encoder_new(&about, &source, no_salt, &encoder, &err);
        shoal_kvwire_encoder_free(encoder);
        shoal_status in = out;
        if (out == SHOAL_OK) {
            SHOAL_CLEANUP(shoal_kvwire_decoder_freep) shoal_kvwire_decoder *decoder = NULL;
            in = shoal_kvwire_decoder_new(&expect, &decoder);
            if (in == SHOAL_OK) {
                assert_int_equal(feed(decoder, blob, n, n, &t, &err), SHOAL_MORE);
            }
        }
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(in == SHOAL_OK || in == SHOAL_E_NOMEM);
        failed = in != SHOAL_OK;
    }
}

int main(void)
{
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        ids[i] = (int32_t)(i % 997);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_chunks_in_any_pieces_give_what_was_put_in),
        cmocka_unit_test(test_one_byte_per_read_gives_the_same_blob),
        cmocka_unit_test(test_a_text_of_many_ids_or_of_no_block_is_whole),
        cmocka_unit_test(test_a_block_is_there_before_the_rest_has_come),
        cmocka_unit_test(test_a_cut_link_goes_on_at_every_record),
        cmocka_unit_test(test_seeking_past_the_end_is_refused),
        cmocka_unit_test(test_a_seek_waits_for_the_blocks_before_it),
        cmocka_unit_test(test_a_changed_bit_anywhere_is_refused),
        cmocka_unit_test(test_every_other_length_is_refused),
        cmocka_unit_test(test_records_of_another_blob_are_refused_at_the_end),
        cmocka_unit_test(test_forged_numbers_are_refused_where_they_stand),
        cmocka_unit_test(test_another_identity_is_refused_naming_both),
        cmocka_unit_test(test_another_shape_or_vocabulary_is_refused),
        cmocka_unit_test(test_who_does_not_know_the_salt_is_refused),
        cmocka_unit_test(test_limits_of_what_is_sent_are_kept),
        cmocka_unit_test(test_a_source_that_fails_fails_the_encoder),
        cmocka_unit_test(test_a_block_that_is_not_there_yet_is_waited_for),
        cmocka_unit_test(test_every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
