/* SPDX-License-Identifier: Apache-2.0
 *
 * A session out of one pool and into another by way of a blob: the same blocks, whatever form they
 * have, and nothing at all where a byte is wrong, one is missing or memory runs out.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/le.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "edge/session/blob.h"
#include "written.h"

#include <string.h>

enum {
    N_LAYERS = 2,
    N_CTX = 320,
    SLACK = 64,
    N_PAGES = 64,
    N_IDS = 70, /* two blocks and a part of a third */
    N_VOCAB = 300
};

static const size_t windows[N_LAYERS] = {0, 20};
static shoal_kernels the_kernels;
static int32_t ids[N_CTX];

static int setup(void **state)
{
    (void)state;
    shoal_kernels_init(&the_kernels, 0);
    for (int32_t i = 0; i < N_CTX; i++) {
        ids[i] = i * 7 % N_VOCAB;
    }
    return 0;
}

static shoal_kv_pool *pool_new(shoal_kv_type type, bool windowed)
{
    const shoal_kv_shape shape = {.n_layers = N_LAYERS,
                                  .n_kv_heads = 2,
                                  .k_dim = 4,
                                  .v_dim = 6,
                                  .type = type,
                                  .windows = windowed ? windows : NULL};
    shoal_kv_pool *pool = NULL;
    assert_int_equal(shoal_kv_pool_new(&shape, N_PAGES, N_CTX, SLACK, &pool, NULL), SHOAL_OK);
    return pool;
}

static shoal_session_identity identity_of(const shoal_kv_pool *pool)
{
    const shoal_kv_shape *shape = shoal_kv_pool_shape(pool);
    shoal_session_identity id = {.model.bytes = {1},
                                 .tokenizer.bytes = {2},
                                 .n_layers = N_LAYERS,
                                 .first_bytes = (uint32_t)shoal_kv_block_bytes(shape, 0) / N_LAYERS,
                                 .layer_bytes = (uint32_t)shoal_kv_block_bytes(shape, 1) / N_LAYERS,
                                 .n_vocab = N_VOCAB,
                                 .n_tokens_max = N_CTX};
    shoal_kv_form(shape, id.form);
    return id;
}

/* A kept text of n tokens, whose KV follows from layer and position. */
static shoal_kept kept_new(shoal_kv_pool *pool, size_t n)
{
    shoal_kept kept = {.name = "s", .ids = ids, .n_ids = n};
    assert_int_equal(shoal_kv_seq_new(pool, &kept.seq), SHOAL_OK);
    for (size_t from = 0; from < n; from += SHOAL_MIN(n - from, (size_t)SHOAL_KV_BLOCK)) {
        size_t to = from + SHOAL_MIN(n - from, (size_t)SHOAL_KV_BLOCK);
        assert_int_equal(shoal_kv_seq_reserve(kept.seq, to), SHOAL_OK);
        for (size_t layer = 0; layer < N_LAYERS; layer++) {
            shoal_kv_open(kept.seq, layer, from);
            for (size_t p = from; p < to; p++) {
                uint64_t rng = p * N_LAYERS + layer;
                float kv[20];
                for (size_t i = 0; i < SHOAL_COUNT(kv); i++) {
                    kv[i] = (float)(shoal_rng_next(&rng) % 2000) / 1000.0F - 1.0F;
                }
                shoal_kv_store(&the_kernels, kept.seq, layer, p, kv, kv + 8);
            }
            for (size_t p = from; p < to; p++) {
                if (shoal_kv_fills(kept.seq, p)) {
                    shoal_kv_seal(&the_kernels, kept.seq, layer, p);
                }
            }
        }
        shoal_kv_seq_advance(kept.seq, to);
    }
    return kept;
}

/* The blob of a kept text, read in pieces of n bytes. */
static shoal_status make_blob(const shoal_session_identity *id, const shoal_kept *kept, size_t n,
                              shoal_buf *buf)
{
    SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
    SHOAL_TRY(shoal_session_copy_out(kept, &copy, NULL));
    return written_blob(id, SHOAL_STEAL(copy), n, buf);
}

static shoal_status take_blob(const shoal_session_identity *id, const shoal_buf *blob,
                              shoal_kv_seq *seq, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
    SHOAL_TRY(shoal_session_read(id, (const uint8_t *)blob->data, blob->length, &copy, err));
    assert_memory_equal(copy->ids, ids, copy->n_ids * sizeof *ids);
    return shoal_session_copy_in(copy, seq, err);
}

static void assert_same_blocks(const shoal_kv_seq *a, const shoal_kv_seq *b, size_t n_blocks)
{
    uint8_t bytes[2][6144];
    for (size_t i = 0; i < n_blocks; i++) {
        size_t n = shoal_kv_block_bytes(shoal_kv_seq_shape(a), i);
        assert_true(n <= sizeof bytes[0]);
        assert_int_equal(shoal_kv_block_export(a, i, bytes[0]), SHOAL_OK);
        assert_int_equal(shoal_kv_block_export(b, i, bytes[1]), SHOAL_OK);
        assert_memory_equal(bytes[0], bytes[1], n);
    }
}

static void test_session_comes_whole_in_every_form(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 31, 32, 33, N_IDS};
    static const size_t pieces[] = {1, 13, 4096};
    for (int type = 0; type < SHOAL_KV_TYPES; type++) {
        shoal_kv_pool *pool = pool_new((shoal_kv_type)type, false);
        shoal_kv_pool *other = pool_new((shoal_kv_type)type, false);
        shoal_session_identity id = identity_of(pool);
        for (size_t i = 0; i < SHOAL_COUNT(lengths); i++) {
            SHOAL_CLEANUP(shoal_buf_fini) shoal_buf first = {0};
            shoal_kept kept = kept_new(pool, lengths[i]);
            assert_int_equal(make_blob(&id, &kept, 1000, &first), SHOAL_OK);
            for (size_t j = 0; j < SHOAL_COUNT(pieces); j++) {
                SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
                assert_int_equal(make_blob(&id, &kept, pieces[j], &blob), SHOAL_OK);
                assert_int_equal(blob.length, first.length);
                assert_memory_equal(blob.data, first.data, first.length);
            }
            shoal_kv_seq *seq = NULL;
            assert_int_equal(shoal_kv_seq_new(other, &seq), SHOAL_OK);
            assert_int_equal(take_blob(&id, &first, seq, NULL), SHOAL_OK);
            assert_int_equal(shoal_kv_seq_length(seq), lengths[i] / 32 * 32);
            assert_same_blocks(kept.seq, seq, lengths[i] / 32);
            shoal_kv_seq_free(seq);
            shoal_kv_seq_free(kept.seq);
        }
        shoal_kv_pool_free(pool);
        shoal_kv_pool_free(other);
    }
}

/* A sequence that has the first blocks takes the others, by a reader that gets pieces of any size.
 */
static void test_pieces_of_any_size_fill_what_is_lacking(void **state)
{
    (void)state;
    static const size_t pieces[] = {1, 13, 4096};
    static const shoal_kv_type types[] = {SHOAL_KV_F16, SHOAL_KV_K8V8, SHOAL_KV_K4V4};
    enum {
        N = 192
    };
    for (size_t i = 0; i < SHOAL_COUNT(pieces) * SHOAL_COUNT(types); i++) {
        size_t piece = pieces[i % SHOAL_COUNT(pieces)];
        shoal_kv_pool *pool = pool_new(types[i / SHOAL_COUNT(pieces)], false);
        shoal_kv_pool *other = pool_new(types[i / SHOAL_COUNT(pieces)], false);
        shoal_session_identity id = identity_of(pool);
        shoal_kept kept = kept_new(pool, N);
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
        assert_int_equal(make_blob(&id, &kept, 4096, &blob), SHOAL_OK);
        SHOAL_CLEANUP(shoal_session_reader_freep) shoal_session_reader *reader = NULL;
        SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
        assert_int_equal(shoal_session_reader_new(&id, SIZE_MAX, &reader), SHOAL_OK);
        for (size_t at = 0; at < blob.length; at += piece) {
            assert_int_equal(shoal_session_reader_finish(reader, &copy, NULL), SHOAL_E_INVALID);
            assert_int_equal(shoal_session_reader_put(reader, (const uint8_t *)blob.data + at,
                                                      SHOAL_MIN(piece, blob.length - at), NULL),
                             SHOAL_OK);
        }
        assert_int_equal(shoal_session_reader_finish(reader, &copy, NULL), SHOAL_OK);
        assert_int_equal(copy->n_ids, N);
        for (size_t had = 0; had <= N; had += 32) {
            shoal_kept some = kept_new(other, SHOAL_MAX(had, (size_t)1));
            size_t n = shoal_kv_seq_truncate(some.seq, had);
            assert_int_equal(n, had);
            assert_int_equal(shoal_session_copy_in(copy, some.seq, NULL), SHOAL_OK);
            assert_int_equal(shoal_kv_seq_length(some.seq), N);
            assert_same_blocks(kept.seq, some.seq, N / 32);
            shoal_kv_seq_free(some.seq);
        }
        shoal_kv_seq_free(kept.seq);
        shoal_kv_pool_free(pool);
        shoal_kv_pool_free(other);
    }
}

/* Cut at any byte: it goes on at the record that was not whole, and is whole after the last. */
static void test_a_reader_that_was_cut_goes_on_at_the_record(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_K8V8, false);
    shoal_session_identity id = identity_of(pool);
    shoal_kept kept = kept_new(pool, N_IDS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, &kept, 4096, &blob), SHOAL_OK);
    const uint8_t *bytes = (const uint8_t *)blob.data;
    size_t starts[16] = {0, 160}; /* of records: head, then kind, length, CRC and payload */
    size_t n_starts = 1;
    for (size_t at = 160; at < blob.length; at += 12 + shoal_le_u32(bytes + at + 4)) {
        assert_true(n_starts < SHOAL_COUNT(starts) - 1);
        starts[n_starts++] = at;
    }
    starts[n_starts] = blob.length;
    for (size_t cut = 0; cut <= blob.length; cut++) {
        SHOAL_CLEANUP(shoal_session_reader_freep) shoal_session_reader *reader = NULL;
        SHOAL_CLEANUP(shoal_session_copy_freep) shoal_session_copy *copy = NULL;
        uint64_t record = UINT64_MAX;
        assert_int_equal(shoal_session_reader_new(&id, SIZE_MAX, &reader), SHOAL_OK);
        assert_int_equal(shoal_session_reader_put(reader, bytes, cut, NULL), SHOAL_OK);
        assert_int_equal(shoal_session_reader_is_whole(reader), cut == blob.length);
        assert_int_equal(shoal_session_reader_resume(reader, &record), SHOAL_OK);
        assert_true(record <= n_starts && starts[record] <= cut);
        assert_true(record == n_starts || starts[record + 1] > cut);
        size_t at = starts[record];
        assert_int_equal(shoal_session_reader_put(reader, bytes + at, blob.length - at, NULL),
                         SHOAL_OK);
        assert_true(shoal_session_reader_is_whole(reader));
        assert_int_equal(shoal_session_reader_finish(reader, &copy, NULL), SHOAL_OK);
        assert_memory_equal(copy->ids, ids, N_IDS * sizeof *ids);
    }
    /* What failed does not go on. */
    SHOAL_CLEANUP(shoal_session_reader_freep) shoal_session_reader *reader = NULL;
    uint64_t record = 0;
    blob.data[200] ^= 1;
    assert_int_equal(shoal_session_reader_new(&id, SIZE_MAX, &reader), SHOAL_OK);
    assert_int_equal(shoal_session_reader_put(reader, bytes, blob.length, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_session_reader_resume(reader, &record), SHOAL_E_INVALID);
    assert_false(shoal_session_reader_is_whole(reader));
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

static void test_any_wrong_byte_and_any_cut_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_K4V4, false);
    shoal_session_identity id = identity_of(pool);
    shoal_kept kept = kept_new(pool, N_IDS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, &kept, 4096, &blob), SHOAL_OK);
    shoal_session_copy *copy = NULL;
    const uint8_t *bytes = (const uint8_t *)blob.data;
    for (size_t i = 0; i < blob.length; i++) {
        shoal_err err = SHOAL_ERR_INIT;
        blob.data[i] = (char)(blob.data[i] ^ (1 << i % 8));
        shoal_status status = shoal_session_read(&id, bytes, blob.length, &copy, &err);
        assert_true(status < 0 && err.code == status && err.text[0] != '\0');
        blob.data[i] = (char)(blob.data[i] ^ (1 << i % 8));
        shoal_err cut = SHOAL_ERR_INIT;
        assert_int_equal(shoal_session_read(&id, bytes, i, &copy, &cut), SHOAL_E_INVALID);
        assert_int_equal(cut.code, SHOAL_E_INVALID);
    }
    assert_int_equal(shoal_buf_append(&blob, "", 1), SHOAL_OK);
    bytes = (const uint8_t *)blob.data;
    assert_int_equal(shoal_session_read(&id, bytes, blob.length, &copy, NULL), SHOAL_E_INVALID);
    assert_int_equal(shoal_session_read(&id, bytes, blob.length - 1, &copy, NULL), SHOAL_OK);
    shoal_session_copy_free(copy);
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

/* A blob in messages of which one is lost, comes twice, changes places with the next or loses its
 * second half: nothing is given out, and the reader that had the same messages whole has it all. */
static void test_messages_lost_doubled_or_out_of_turn_are_refused(void **state)
{
    (void)state;
    enum {
        PART = 500
    };
    static const char *const faults[] = {"drop", "repeat", "swap", "cut", "none"};
    shoal_kv_pool *pool = pool_new(SHOAL_KV_K4V4, false);
    shoal_session_identity id = identity_of(pool);
    shoal_kept kept = kept_new(pool, N_IDS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, &kept, 4096, &blob), SHOAL_OK);
    const uint8_t *bytes = (const uint8_t *)blob.data;
    size_t n_parts = (blob.length + PART - 1) / PART;
    assert_true(n_parts > 6);
    for (size_t i = 0; i < SHOAL_COUNT(faults) * n_parts; i++) {
        const char *fault = faults[i % SHOAL_COUNT(faults)];
        size_t at = i / SHOAL_COUNT(faults);
        size_t turns[2 * PART];
        size_t n_turns = 0;
        for (size_t part = 0; part < n_parts; part++) {
            bool here = part == at;
            turns[n_turns] = part;
            n_turns += here && strcmp(fault, "drop") == 0 ? 0 : 1;
            if (here && strcmp(fault, "repeat") == 0) {
                turns[n_turns++] = part;
            }
        }
        bool swaps = strcmp(fault, "swap") == 0 && at + 1 < n_parts;
        if (swaps) {
            turns[at] = at + 1;
            turns[at + 1] = at;
        }
        shoal_session_reader *reader = NULL;
        shoal_session_copy *copy = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = shoal_session_reader_new(&id, SIZE_MAX, &reader);
        for (size_t t = 0; t < n_turns && status == SHOAL_OK; t++) {
            size_t n = SHOAL_MIN(blob.length - turns[t] * PART, (size_t)PART);
            n = turns[t] == at && strcmp(fault, "cut") == 0 ? n / 2 : n;
            status = shoal_session_reader_put(reader, bytes + turns[t] * PART, n, &err);
        }
        status = status == SHOAL_OK ? shoal_session_reader_finish(reader, &copy, &err) : status;
        if (strcmp(fault, "none") == 0 || (strcmp(fault, "swap") == 0 && !swaps)) {
            assert_int_equal(status, SHOAL_OK);
            assert_memory_equal(copy->ids, ids, N_IDS * sizeof *ids);
        } else {
            assert_true(status < 0 && err.text[0] != '\0');
            assert_null(copy);
        }
        shoal_session_copy_free(copy);
        shoal_session_reader_free(reader);
    }
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

/* What an identity differs in is named, with both hashes. */
static void test_another_identity_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F16, false);
    const shoal_session_identity id = identity_of(pool);
    shoal_kept kept = kept_new(pool, N_IDS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
    assert_int_equal(make_blob(&id, &kept, 4096, &blob), SHOAL_OK);
    const struct {
        const char *what;
        shoal_status code;
    } rows[] = {
        {"model", SHOAL_E_MISMATCH},   {"tokenizer", SHOAL_E_MISMATCH},
        {"KV form", SHOAL_E_MISMATCH}, {"", SHOAL_E_MISMATCH},         /* the secret */
        {"tokens", SHOAL_E_LIMIT},     {"KV form", SHOAL_E_MISMATCH}}; /* in Hadamard's basis */
    shoal_kv_shape hadamard = *shoal_kv_pool_shape(pool);
    hadamard.hadamard = true;
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_session_identity other = id;
        shoal_session_copy *copy = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        other.model.bytes[3] ^= i == 0;
        other.tokenizer.bytes[3] ^= i == 1;
        other.form[0] = i == 2 ? 'x' : other.form[0];
        other.has_secret = i == 3;
        other.n_tokens_max = i == 4 ? N_IDS - 1 : N_CTX;
        if (i == 5) {
            shoal_kv_form(&hadamard, other.form);
        }
        assert_int_equal(
            shoal_session_read(&other, (const uint8_t *)blob.data, blob.length, &copy, &err),
            rows[i].code);
        assert_non_null(strstr(err.text, rows[i].what));
        assert_null(copy);
    }
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

static void test_blob_without_all_full_blocks_is_refused(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F16, false);
    shoal_session_identity id = identity_of(pool);
    const shoal_kvwire_source source = {.ids = ids, .chunk_layers = 1, .chunk_blocks = 1};
    shoal_kvwire_about about = {.model = id.model,
                                .tokenizer = id.tokenizer,
                                .n_tokens = N_IDS,
                                .n_blocks = 0,
                                .n_layers = id.n_layers,
                                .first_bytes = id.first_bytes,
                                .layer_bytes = id.layer_bytes};
    assert_int_equal(shoal_kvwire_form(id.form, &about.form), SHOAL_OK);
    SHOAL_CLEANUP(shoal_kvwire_encoder_freep) shoal_kvwire_encoder *encoder = NULL;
    assert_int_equal(
        shoal_kvwire_encoder_new(&about, &source, (shoal_kvwire_salt){.n = 0}, &encoder, NULL),
        SHOAL_OK);
    uint8_t bytes[1024];
    size_t n = 0;
    assert_int_equal(shoal_kvwire_encoder_read(encoder, bytes, sizeof bytes, &n), SHOAL_OK);
    assert_true(n < sizeof bytes); /* all of it */
    shoal_session_copy *copy = NULL;
    assert_int_equal(shoal_session_read(&id, bytes, n, &copy, NULL), SHOAL_E_INVALID);
    shoal_kv_pool_free(pool);
}

static void test_ring_that_went_round_is_not_saved(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F16, true);
    shoal_session_copy *copy = NULL;
    /* A ring of 4 blocks: the window and the slack, and one more. */
    shoal_kept kept = kept_new(pool, 128);
    assert_int_equal(shoal_session_copy_out(&kept, &copy, NULL), SHOAL_OK);
    shoal_session_copy_free(copy);
    shoal_kv_seq_free(kept.seq);
    kept = kept_new(pool, 129);
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_session_copy_out(&kept, &copy, &err), SHOAL_E_LIMIT);
    assert_non_null(strstr(err.text, "windowed layers no longer have tokens 0 to 31"));
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

static void test_numbers_that_are_none_do_not_come_in(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_F16, false);
    shoal_kept kept = kept_new(pool, N_IDS);
    shoal_session_copy *copy = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_session_copy_out(&kept, &copy, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(pool, &seq), SHOAL_OK);
    memset(copy->blocks + shoal_kv_block_bytes(shoal_kv_pool_shape(pool), 0), 0xFF, 2);
    assert_int_equal(shoal_session_copy_in(copy, seq, NULL), SHOAL_E_INVALID);
    shoal_session_copy_free(copy);
    shoal_kv_seq_free(seq);
    shoal_kv_seq_free(kept.seq);
    shoal_kv_pool_free(pool);
}

static void test_failing_memory_leaves_nothing_behind(void **state)
{
    (void)state;
    shoal_kv_pool *pool = pool_new(SHOAL_KV_K8V8, false);
    shoal_session_identity id = identity_of(pool);
    shoal_kept kept = kept_new(pool, N_IDS);
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf whole = {0};
    assert_int_equal(make_blob(&id, &kept, 4096, &whole), SHOAL_OK);
    size_t n_failed = 0;
    for (uint64_t i = 0; i < 64; i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf blob = {0};
        shoal_session_copy *copy = NULL;
        shoal_mem_fail_at(i);
        shoal_status made = make_blob(&id, &kept, 4096, &blob);
        shoal_mem_fail_at(i);
        shoal_status read =
            shoal_session_read(&id, (const uint8_t *)whole.data, whole.length, &copy, NULL);
        shoal_mem_fail_at(UINT64_MAX);
        assert_true(made == SHOAL_OK || made == SHOAL_E_NOMEM);
        assert_true(read == SHOAL_OK || read == SHOAL_E_NOMEM);
        n_failed += (made != SHOAL_OK) + (size_t)(read != SHOAL_OK);
        shoal_session_copy_free(copy);
    }
    assert_true(n_failed >= 10);
    shoal_kv_seq_free(kept.seq);
    assert_int_equal(shoal_kv_pool_n_free(pool), N_PAGES);
    shoal_kv_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_session_comes_whole_in_every_form),
        cmocka_unit_test(test_pieces_of_any_size_fill_what_is_lacking),
        cmocka_unit_test(test_a_reader_that_was_cut_goes_on_at_the_record),
        cmocka_unit_test(test_any_wrong_byte_and_any_cut_is_refused),
        cmocka_unit_test(test_messages_lost_doubled_or_out_of_turn_are_refused),
        cmocka_unit_test(test_another_identity_is_refused),
        cmocka_unit_test(test_blob_without_all_full_blocks_is_refused),
        cmocka_unit_test(test_ring_that_went_round_is_not_saved),
        cmocka_unit_test(test_numbers_that_are_none_do_not_come_in),
        cmocka_unit_test(test_failing_memory_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
