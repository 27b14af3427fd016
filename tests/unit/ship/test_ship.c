/* SPDX-License-Identifier: Apache-2.0
 *
 * The ship with a peer in memory: its blobs hold the KV that the same model computes elsewhere, bit
 * for bit; others' models, full places, readers that stop and calls that end leave nothing behind.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/ship/ship.h"

#include "common/archive/archive.h"
#include "common/archive/plan.h"
#include "common/base/buf.h"
#include "common/base/mem.h"
#include "common/kv/kv_move.h"
#include "protocol/kvwire/kvwire.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    N_IDS = 288,
    N_ARCHIVED = (N_IDS - SHOAL_ARCHIVE_LAST) / 32,
    WAIT_S = 60
};

/* A call in memory. */
typedef struct peer {
    shoal_buf blob;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    shoal_shipment *shipment;
    size_t n_before_busy; /* parts that are taken before one says BUSY */
    size_t n_parts;
    uint32_t n_cached;
    uint32_t token_us;
    uint32_t record;
    bool broken; /* takes nothing */
    bool finished;
    bool released;
    shoal_rpc_status status;
    char text[SHOAL_WIRE_TEXT_MAX];
} peer;

static shoal_model *the_model;
static int32_t ids[N_IDS];
static char basis_path[] = "/tmp/unit_ship.XXXXXX";
static shoal_archive *the_archive; /* of that file */

/* A basis of the tiny model whose components are its channels: enough to tell archived blocks from
 * exact ones. */
static void make_basis(void)
{
    enum {
        N = SHOAL_TINY_LAYERS * SHOAL_TINY_KV_HEADS * 2 * SHOAL_TINY_DIM / SHOAL_TINY_HEADS
    };
    static float identity[N * N];
    static float mean[N];
    static float step[N];
    static int32_t table[N];
    static int32_t rope_of[SHOAL_TINY_LAYERS];
    static int32_t freqs[SHOAL_ARCHIVE_SYMBOLS];
    static float values[SHOAL_ARCHIVE_SYMBOLS];
    static float freq[2];
    uint64_t counts[SHOAL_ARCHIVE_SYMBOLS];
    for (size_t i = 0; i < N; i++) {
        identity[i * N + i] = 1;
        step[i] = 0.125F;
    }
    for (int i = 0; i < SHOAL_ARCHIVE_SYMBOLS; i++) {
        counts[i] = 1;
        values[i] = i < SHOAL_ARCHIVE_ESCAPE ? (float)(i - SHOAL_ARCHIVE_CODE_MAX) : 0;
    }
    shoal_archive_frequencies(counts, freqs);
    shoal_archive_plan_group group = {.n_layers = SHOAL_TINY_LAYERS,
                                      .n_kept = N,
                                      .mean = mean,
                                      .analysis = identity,
                                      .synthesis = identity,
                                      .step = step,
                                      .table = table};
    const shoal_archive_plan plan = {.model = the_model->hash,
                                     .shape = shoal_model_kv_shape(&the_model->hp, SHOAL_KV_F16),
                                     .freq = freq,
                                     .rope_of = rope_of,
                                     .n_groups = 1,
                                     .groups = &group,
                                     .n_tables = 1,
                                     .freqs = freqs,
                                     .values = values,
                                     .bits = 6};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    assert_int_equal(shoal_archive_plan_write(&plan, &file, NULL), SHOAL_OK);
    assert_int_equal(shoal_archive_open((const uint8_t *)file.data, file.length, &the_model->hash,
                                        &plan.shape, &the_archive, NULL),
                     SHOAL_OK);
    int fd = mkstemp(basis_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.data, file.length), file.length);
    assert_int_equal(close(fd), 0);
}

static int setup(void **state)
{
    (void)state;
    shoal_buf file = {0};
    assert_int_equal(shoal_tiny_model_gguf(5, SHOAL_TYPE_F16, &file), SHOAL_OK);
    shoal_gguf *gguf = NULL;
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &the_model, NULL), SHOAL_OK);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&file);
    for (int32_t i = 0; i < N_IDS; i++) {
        ids[i] = 3 + i * 11 % 250;
    }
    make_basis();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(basis_path);
    shoal_archive_free(the_archive);
    shoal_model_free(the_model);
    return 0;
}

static shoal_ship_settings settings_of(shoal_kv_type type, size_t n_jobs)
{
    shoal_ship_settings s = shoal_ship_settings_default();
    s.engine.n_threads = 1;
    s.engine.kv_type = (int)type;
    s.engine.kv_bytes = 4 << 20;
    s.n_jobs_max = n_jobs;
    return s;
}

static shoal_ship *ship_new(shoal_kv_type type, size_t n_jobs)
{
    const shoal_ship_settings s = settings_of(type, n_jobs);
    shoal_ship *ship = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, &err), SHOAL_OK);
    return ship;
}

static shoal_status on_send(void *ctx, const shoal_msg_kv_part *part)
{
    peer *p = ctx;
    (void)pthread_mutex_lock(&p->lock);
    bool busy = p->n_before_busy > 0 && p->n_parts + 1 >= p->n_before_busy;
    if (!p->broken) {
        assert_int_equal(shoal_buf_append(&p->blob, part->bytes, part->n_bytes), SHOAL_OK);
        p->n_cached = p->n_parts == 0 ? part->n_cached : p->n_cached;
        p->record = p->n_parts == 0 ? part->record : p->record;
        p->token_us = part->token_us;
        p->n_parts++;
    }
    (void)pthread_cond_broadcast(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
    return p->broken ? SHOAL_E_CANCELLED : busy ? SHOAL_BUSY : SHOAL_OK;
}

static void on_finish(void *ctx, shoal_rpc_status status, const char *text)
{
    peer *p = ctx;
    (void)pthread_mutex_lock(&p->lock);
    assert_false(p->finished);
    p->finished = true;
    p->status = status;
    memcpy(p->text, text, strlen(text) + 1);
    (void)pthread_cond_broadcast(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
}

static void on_release(void *ctx)
{
    peer *p = ctx;
    (void)pthread_mutex_lock(&p->lock);
    assert_false(p->released);
    p->released = true;
    (void)pthread_cond_broadcast(&p->changed);
    (void)pthread_mutex_unlock(&p->lock);
}

static void wait_for(peer *p, const bool *flag, size_t n_parts)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    (void)pthread_mutex_lock(&p->lock);
    while (!(flag ? *flag : p->n_parts >= n_parts)) {
        assert_int_equal(pthread_cond_timedwait(&p->changed, &p->lock, &until), 0);
    }
    (void)pthread_mutex_unlock(&p->lock);
}

static shoal_msg_kv_request *request_of(const shoal_ship *ship, size_t n_ids)
{
    shoal_edge_kv kv = shoal_ship_describe(ship);
    const shoal_msg_kv_request r = {.model = kv.model,
                                    .tokenizer = *shoal_tokenizer_hash(the_model->tokenizer),
                                    .form = kv.form,
                                    .ids = ids,
                                    .n_ids = n_ids};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    shoal_msg_kv_request *request = NULL;
    assert_int_equal(shoal_msg_kv_request_encode(&r, &buf), SHOAL_OK);
    assert_int_equal(shoal_msg_kv_request_decode((const uint8_t *)buf.data, buf.length,
                                                 shoal_ship_n_vocab(ship), &request, NULL),
                     SHOAL_OK);
    return request;
}

static shoal_ship *archiving_ship(size_t n_jobs)
{
    shoal_ship_settings s = settings_of(SHOAL_KV_F16, n_jobs);
    shoal_ship *ship = NULL;
    shoal_err err = SHOAL_ERR_INIT;
    s.archive_path = basis_path;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, &err), SHOAL_OK);
    return ship;
}

static shoal_msg_kv_request *request_from(const shoal_ship *ship, size_t n_ids, uint32_t record)
{
    shoal_msg_kv_request *request = request_of(ship, n_ids);
    request->record = record;
    return request;
}

static void peer_init(peer *p)
{
    *p = (peer){.n_parts = 0};
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->changed, NULL);
}

static shoal_status ask(shoal_ship *ship, peer *p, const char *tenant,
                        shoal_msg_kv_request *take_request)
{
    shoal_ship_peer table = {.send = on_send, .finish = on_finish, .release = on_release, .ctx = p};
    memcpy(table.tenant, tenant, strlen(tenant) + 1);
    shoal_status status = shoal_ship_accept(ship, &table, take_request, &p->shipment);
    if (status != SHOAL_OK) {
        shoal_msg_kv_request_free(take_request);
    }
    return status;
}

static void peer_end(peer *p)
{
    shoal_shipment_gone(p->shipment);
    wait_for(p, &p->released, 0);
    (void)pthread_cond_destroy(&p->changed);
    (void)pthread_mutex_destroy(&p->lock);
    shoal_buf_fini(&p->blob);
}

/* --- what is in a blob ------------------------------------------------------------------------ */

/* The blocks of a text as an engine with other steps and threads computes them. */
static void compute_blocks(shoal_kv_type type, size_t n_ids, shoal_buf *blocks)
{
    shoal_engine_settings es = shoal_engine_settings_default();
    es.n_threads = 2;
    es.kv_type = (int)type;
    es.kv_bytes = 4 << 20;
    es.n_rows_max = 32;
    es.n_logits_max = 1;
    shoal_engine *engine = NULL;
    shoal_kv_seq *seq = NULL;
    assert_int_equal(shoal_engine_new(the_model, &es, &engine, NULL), SHOAL_OK);
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(engine), &seq), SHOAL_OK);
    for (size_t at = 0; at < n_ids; at += 24) {
        shoal_span span = {.seq = seq, .ids = ids + at, .n_ids = SHOAL_MIN((size_t)24, n_ids - at)};
        assert_int_equal(shoal_engine_step(engine, &span, 1), SHOAL_OK);
    }
    for (size_t b = 0; b < n_ids / 32; b++) {
        size_t n = shoal_kv_block_bytes(shoal_kv_seq_shape(seq), b);
        uint8_t *bytes = shoal_calloc(n, 1);
        assert_non_null(bytes);
        assert_int_equal(shoal_kv_block_export(seq, b, bytes), SHOAL_OK);
        assert_int_equal(shoal_buf_append(blocks, bytes, n), SHOAL_OK);
        shoal_free(bytes);
    }
    shoal_kv_seq_free(seq);
    shoal_engine_free(engine);
}

/* A block as it was computed, in the bytes that the archive makes of it. */
static void check_archived(bool near, uint32_t block, const uint8_t *pages, const uint8_t *bytes,
                           size_t n)
{
    shoal_kernels kernels;
    shoal_kernels_init(&kernels, 0);
    SHOAL_CLEANUP(shoal_archive_work_freep) shoal_archive_work *work = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup)
    uint8_t *right = shoal_calloc(shoal_archive_block_bytes(the_archive), 1);
    size_t n_right = 0;
    assert_int_equal(shoal_archive_work_new(the_archive, &work), SHOAL_OK);
    assert_int_equal(shoal_archive_block_encode(the_archive, &kernels, work, block, near, pages,
                                                right, &n_right),
                     SHOAL_OK);
    assert_int_equal(n, n_right);
    assert_memory_equal(bytes, right, n);
}

/* A whole blob of that text: what it holds is compared. */
static void check_blob_of(const peer *p, shoal_kv_type type, size_t n_ids, size_t n_archived)
{
    shoal_kv_shape shape = shoal_model_kv_shape(&the_model->hp, type);
    char form[SHOAL_KV_FORM_BYTES];
    shoal_kv_form(&shape, form);
    const shoal_kvwire_expect expect = {
        .model = the_model->hash,
        .tokenizer = *shoal_tokenizer_hash(the_model->tokenizer),
        .form = form,
        .n_layers = (uint32_t)shape.n_layers,
        .first_bytes = (uint32_t)(shoal_kv_block_bytes(&shape, 0) / shape.n_layers),
        .layer_bytes = (uint32_t)(shoal_kv_block_bytes(&shape, 1) / shape.n_layers),
        .n_vocab = SHOAL_TINY_VOCAB,
        .n_tokens_max = N_IDS,
        .basis = n_archived > 0 ? shoal_archive_hash(the_archive) : NULL,
        .archived_bytes = (uint32_t)shoal_archive_block_bytes(the_archive)};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf right = {0};
    compute_blocks(type, n_ids, &right);
    shoal_kvwire_decoder *decoder = NULL;
    assert_int_equal(shoal_kvwire_decoder_new(&expect, &decoder), SHOAL_OK);
    size_t n_seen = 0;
    bool ended = false;
    for (size_t at = 0; at < p->blob.length;) {
        size_t used = 0;
        shoal_kvwire_event e;
        shoal_kvwire_decoder_put_data(decoder, (const uint8_t *)p->blob.data + at,
                                      p->blob.length - at, &used);
        at += used;
        while (shoal_kvwire_decoder_step(decoder, &e, NULL) == SHOAL_OK) {
            if (e.kind == SHOAL_KVWIRE_TOKENS) {
                assert_memory_equal(e.ids, ids + e.first, e.n * sizeof *ids);
            } else if (e.kind == SHOAL_KVWIRE_DATA && e.codec == SHOAL_KVWIRE_ARCHIVE) {
                assert_true(n_archived > 0);
                check_archived(e.block >= n_archived, e.block, (const uint8_t *)right.data + n_seen,
                               e.bytes, e.n_bytes);
                n_seen += shoal_kv_block_bytes(&shape, e.block);
            } else if (e.kind == SHOAL_KVWIRE_DATA) {
                assert_int_equal(n_archived, 0);
                assert_true(n_seen + e.n_bytes <= right.length);
                assert_memory_equal(e.bytes, right.data + n_seen, e.n_bytes);
                n_seen += e.n_bytes;
            }
            ended = e.kind == SHOAL_KVWIRE_END;
        }
    }
    assert_true(ended);
    assert_int_equal(n_seen, right.length);
    shoal_kvwire_decoder_free(decoder);
}

static void check_blob(const peer *p, shoal_kv_type type, size_t n_ids)
{
    check_blob_of(p, type, n_ids, 0);
}

static void test_shipped_blocks_are_those_computed_elsewhere(void **state)
{
    (void)state;
    static const shoal_kv_type types[] = {SHOAL_KV_F16, SHOAL_KV_F32, SHOAL_KV_K8V8, SHOAL_KV_K4V4};
    static const size_t counts[] = {32, 128, 160, N_IDS};
    for (size_t i = 0; i < SHOAL_COUNT(types); i++) {
        shoal_ship *ship = ship_new(types[i], 2);
        assert_int_equal(shoal_ship_describe(ship).token_us, 0);
        for (size_t k = 0; k < SHOAL_COUNT(counts); k++) {
            peer p;
            peer_init(&p);
            assert_int_equal(ask(ship, &p, "a", request_of(ship, counts[k])), SHOAL_OK);
            wait_for(&p, &p.finished, 0);
            assert_int_equal(p.status, SHOAL_RPC_OK);
            check_blob(&p, types[i], counts[k]);
            assert_int_equal(p.n_cached, k == 0 ? 0 : counts[k - 1]);
            assert_true(p.token_us > 0);
            peer_end(&p);
        }
        assert_true(shoal_ship_describe(ship).token_us > 0);
        assert_int_equal(shoal_ship_n_jobs(ship), 0);
        shoal_ship_free(ship);
    }
}

static void test_tenants_do_not_share_what_was_computed(void **state)
{
    (void)state;
    static const char *const tenants[] = {"a", "b", "a", "", "b"};
    static const uint32_t cached[] = {0, 0, N_IDS, 0, N_IDS};
    shoal_ship *ship = ship_new(SHOAL_KV_F16, 2);
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        peer p;
        peer_init(&p);
        assert_int_equal(ask(ship, &p, tenants[i], request_of(ship, N_IDS)), SHOAL_OK);
        wait_for(&p, &p.finished, 0);
        assert_int_equal(p.n_cached, cached[i]);
        check_blob(&p, SHOAL_KV_F16, N_IDS);
        peer_end(&p);
    }
    shoal_ship_free(ship);
}

static void test_what_is_not_shipped_here_is_refused_with_both_hashes(void **state)
{
    (void)state;
    shoal_ship *ship = ship_new(SHOAL_KV_F16, 1);
    static const char *const what[] = {"model", "tokenizer", "KV form"};
    for (size_t i = 0; i < SHOAL_COUNT(what); i++) {
        peer p;
        peer_init(&p);
        shoal_msg_kv_request *r = request_of(ship, 64);
        shoal_hash *hashes[] = {&r->model, &r->tokenizer, &r->form};
        char ours[SHOAL_HASH_HEX];
        char theirs[SHOAL_HASH_HEX];
        shoal_hash_hex(hashes[i], ours);
        hashes[i]->bytes[0] ^= 1;
        shoal_hash_hex(hashes[i], theirs);
        assert_int_equal(ask(ship, &p, "a", r), SHOAL_OK);
        wait_for(&p, &p.finished, 0);
        assert_int_equal(p.status, SHOAL_RPC_FAILED_PRECONDITION);
        ours[12] = theirs[12] = '\0';
        assert_non_null(strstr(p.text, what[i]));
        assert_non_null(strstr(p.text, ours));
        assert_non_null(strstr(p.text, theirs));
        assert_int_equal(p.n_parts, 0);
        peer_end(&p);
    }
    shoal_ship_free(ship);
}

/* Whoever asks for it: its blocks are archived, those of the last 128 tokens as near ones, and what
 * is kept for the next who asks for the same text stays exact. */
static void test_blocks_are_archived_for_who_asks_by_the_same_basis(void **state)
{
    (void)state;
    static const struct {
        size_t n_ids, n_archived;
        bool archived;
    } rows[] = {{N_IDS, 0, false}, {N_IDS, N_ARCHIVED, true},
                {N_IDS, 0, false}, {128, 0, true},
                {160, 1, true},    {192, 2, true}};
    shoal_ship *ship = archiving_ship(2);
    shoal_edge_kv kv = shoal_ship_describe(ship);
    assert_true(kv.archives && kv.archive_us >= 1);
    assert_memory_equal(&kv.basis, shoal_archive_hash(the_archive), sizeof kv.basis);
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        peer p;
        peer_init(&p);
        shoal_msg_kv_request *r = request_of(ship, rows[i].n_ids);
        r->archived = rows[i].archived;
        r->basis = kv.basis;
        assert_int_equal(ask(ship, &p, "a", r), SHOAL_OK);
        wait_for(&p, &p.finished, 0);
        assert_int_equal(p.status, SHOAL_RPC_OK);
        assert_int_equal(p.n_cached, i == 0 ? 0 : rows[i].n_ids);
        check_blob_of(&p, SHOAL_KV_F16, rows[i].n_ids, rows[i].n_archived);
        peer_end(&p);
    }
    shoal_ship_free(ship);
}

static void test_another_basis_is_refused_with_both_hashes(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) { /* of a ship with a basis, and of one without */
        shoal_ship *ship = i == 0 ? archiving_ship(1) : ship_new(SHOAL_KV_F16, 1);
        assert_int_equal(shoal_ship_describe(ship).archives, i == 0);
        char ours[SHOAL_HASH_HEX] = "nothing";
        char theirs[SHOAL_HASH_HEX];
        peer p;
        peer_init(&p);
        shoal_msg_kv_request *r = request_of(ship, N_IDS);
        r->archived = true;
        r->basis = *shoal_archive_hash(the_archive);
        if (i == 0) {
            shoal_hash_hex(&r->basis, ours);
            r->basis.bytes[0] ^= 1;
        }
        shoal_hash_hex(&r->basis, theirs);
        ours[12] = theirs[12] = '\0';
        assert_int_equal(ask(ship, &p, "a", r), SHOAL_OK);
        wait_for(&p, &p.finished, 0);
        assert_int_equal(p.status, SHOAL_RPC_FAILED_PRECONDITION);
        assert_non_null(strstr(p.text, "archive basis"));
        assert_non_null(strstr(p.text, "edge_model.archive"));
        assert_non_null(strstr(p.text, ours));
        assert_non_null(strstr(p.text, theirs));
        assert_int_equal(p.n_parts, 0);
        peer_end(&p);
        shoal_ship_free(ship);
    }
}

static void test_a_basis_that_does_not_fit_is_refused_when_the_ship_is_made(void **state)
{
    (void)state;
    const struct {
        const char *path;
        shoal_kv_type type;
        shoal_status status;
        const char *why;
    } rows[] = {{basis_path, SHOAL_KV_K8V8, SHOAL_E_UNSUPPORTED, "edge_model.kv_type f16"},
                {"/proc/self/comm", SHOAL_KV_F16, SHOAL_E_INVALID, "GGUF"},
                {"/tmp/is/not/there", SHOAL_KV_F16, SHOAL_E_NOTFOUND, "/tmp/is/not/there"}};
    for (size_t i = 0; i < SHOAL_COUNT(rows); i++) {
        shoal_ship_settings s = settings_of(rows[i].type, 1);
        shoal_ship *ship = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        s.archive_path = rows[i].path;
        assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, &err), rows[i].status);
        assert_non_null(strstr(err.text, rows[i].why));
    }
}

static void test_longer_than_the_pool_is_refused_by_name(void **state)
{
    (void)state;
    shoal_ship_settings s = settings_of(SHOAL_KV_F16, 1);
    s.engine.n_ctx = 64;
    shoal_ship *ship = NULL;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, NULL), SHOAL_OK);
    assert_int_equal(shoal_ship_describe(ship).n_tokens, 64);
    for (size_t n = 32; n <= 96; n += 32) {
        peer p;
        peer_init(&p);
        assert_int_equal(ask(ship, &p, "a", request_of(ship, n)), SHOAL_OK);
        wait_for(&p, &p.finished, 0);
        assert_int_equal(p.status, n <= 64 ? SHOAL_RPC_OK : SHOAL_RPC_FAILED_PRECONDITION);
        assert_true(n <= 64 || strstr(p.text, "edge_model.kv_max_mib"));
        peer_end(&p);
    }
    shoal_ship_free(ship);
}

static void test_places_are_bounded_for_all_and_for_one(void **state)
{
    (void)state;
    shoal_ship *ship = ship_new(SHOAL_KV_F32, 4);
    static const char *const tenants[] = {"a", "a", "a", "b", "b", "c"};
    static const shoal_status right[] = {SHOAL_OK, SHOAL_OK, SHOAL_BUSY,
                                         SHOAL_OK, SHOAL_OK, SHOAL_BUSY};
    peer peers[SHOAL_COUNT(tenants)];
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        peer_init(&peers[i]);
        peers[i].n_before_busy = 1; /* stays until it is told to go on */
        assert_int_equal(ask(ship, &peers[i], tenants[i], request_of(ship, N_IDS)), right[i]);
    }
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        if (right[i] == SHOAL_OK) {
            wait_for(&peers[i], NULL, 1);
            peer_end(&peers[i]);
        }
    }
    peer p; /* and there is place again */
    peer_init(&p);
    assert_int_equal(ask(ship, &p, "c", request_of(ship, 64)), SHOAL_OK);
    wait_for(&p, &p.finished, 0);
    assert_int_equal(p.status, SHOAL_RPC_OK);
    peer_end(&p);
    shoal_ship_free(ship);
}

/* F32 makes a blob of several parts; who does not read gets no more than it took. */
static void test_a_reader_that_stops_is_waited_for_and_others_are_served(void **state)
{
    (void)state;
    shoal_ship *ship = ship_new(SHOAL_KV_F32, 4);
    peer slow;
    peer quick;
    peer_init(&slow);
    peer_init(&quick);
    slow.n_before_busy = 1;
    assert_int_equal(ask(ship, &slow, "a", request_of(ship, N_IDS)), SHOAL_OK);
    wait_for(&slow, NULL, 1);
    assert_int_equal(ask(ship, &quick, "b", request_of(ship, N_IDS)), SHOAL_OK);
    wait_for(&quick, &quick.finished, 0);
    check_blob(&quick, SHOAL_KV_F32, N_IDS);
    assert_int_equal(slow.n_parts, 1);
    assert_false(slow.finished);
    (void)pthread_mutex_lock(&slow.lock);
    while (!slow.finished) {
        size_t n = slow.n_parts;
        (void)pthread_mutex_unlock(&slow.lock);
        shoal_shipment_drained(slow.shipment);
        (void)pthread_mutex_lock(&slow.lock);
        while (slow.n_parts == n && !slow.finished) {
            (void)pthread_cond_wait(&slow.changed, &slow.lock);
        }
    }
    (void)pthread_mutex_unlock(&slow.lock);
    assert_int_equal(slow.status, SHOAL_RPC_OK);
    assert_true(slow.n_parts > 2);
    check_blob(&slow, SHOAL_KV_F32, N_IDS);
    peer_end(&slow);
    peer_end(&quick);
    shoal_ship_free(ship);
}

static void test_calls_that_end_at_any_part_free_everything(void **state)
{
    (void)state;
    shoal_ship *ship = ship_new(SHOAL_KV_F32, 2);
    for (size_t n = 0; n < 4; n++) {
        peer p;
        peer_init(&p);
        p.n_before_busy = n;
        assert_int_equal(ask(ship, &p, "a", request_of(ship, N_IDS)), SHOAL_OK);
        wait_for(&p, NULL, n);
        peer_end(&p);
        assert_int_equal(shoal_ship_n_jobs(ship), 0);
    }
    peer broken;
    peer_init(&broken);
    broken.broken = true;
    assert_int_equal(ask(ship, &broken, "a", request_of(ship, N_IDS)), SHOAL_OK);
    wait_for(&broken, &broken.finished, 0);
    assert_int_equal(broken.status, SHOAL_RPC_CANCELLED);
    peer_end(&broken);
    shoal_ship_free(ship);
}

/* --- calls that were cut and go on ------------------------------------------------------------ */

static void archive_where_it_does(const shoal_ship *ship, shoal_msg_kv_request *r)
{
    shoal_edge_kv kv = shoal_ship_describe(ship);
    r->archived = kv.archives;
    r->basis = kv.basis;
}

/* Asks for all of it; from which byte on the whole blob it came, and that the bytes are the same.
 */
static size_t rest_from(shoal_ship *ship, const peer *whole, const char *tenant, uint32_t record,
                        uint32_t *ret_n_cached)
{
    peer p;
    peer_init(&p);
    shoal_msg_kv_request *r = request_from(ship, N_IDS, record);
    archive_where_it_does(ship, r);
    assert_int_equal(ask(ship, &p, tenant, r), SHOAL_OK);
    wait_for(&p, &p.finished, 0);
    assert_int_equal(p.status, SHOAL_RPC_OK);
    assert_int_equal(p.record, record);
    assert_true(p.blob.length <= whole->blob.length);
    size_t at = whole->blob.length - p.blob.length;
    assert_true(p.blob.length == 0 ||
                memcmp(p.blob.data, whole->blob.data + at, p.blob.length) == 0);
    *ret_n_cached = p.n_cached;
    peer_end(&p);
    return at;
}

static void whole_blob(shoal_ship *ship, peer *p)
{
    peer_init(p);
    shoal_msg_kv_request *r = request_of(ship, N_IDS);
    archive_where_it_does(ship, r);
    assert_int_equal(ask(ship, p, "w", r), SHOAL_OK);
    wait_for(p, &p->finished, 0);
    assert_int_equal(p->status, SHOAL_RPC_OK);
}

/* Every record there is, on a node that has never seen the text; and the first there is not. */
static void goes_on_at_every_record(bool archived)
{
    shoal_ship *ship = archived ? archiving_ship(4) : ship_new(SHOAL_KV_F16, 4);
    peer whole;
    whole_blob(ship, &whole);
    /* head, ids, chunks of four blocks, blocks, end */
    const uint32_t n_records = (uint32_t)(1 + 1 + (N_IDS / 32 + 3) / 4 + N_IDS / 32 + 1);
    size_t last = 0;
    for (uint32_t record = 0; record <= n_records; record++) {
        shoal_ship *other = archived ? archiving_ship(4) : ship_new(SHOAL_KV_F16, 4);
        uint32_t n_cached = 1;
        size_t at = rest_from(other, &whole, "a", record, &n_cached);
        assert_int_equal(n_cached, 0);
        assert_true(record == 0 ? at == 0 : at > last);
        assert_int_equal(at == whole.blob.length, record == n_records);
        last = at;
        shoal_ship_free(other);
    }
    peer p;
    peer_init(&p);
    shoal_msg_kv_request *r = request_from(ship, N_IDS, n_records + 1);
    archive_where_it_does(ship, r);
    assert_int_equal(ask(ship, &p, "a", r), SHOAL_OK);
    wait_for(&p, &p.finished, 0);
    assert_int_equal(p.status, SHOAL_RPC_INVALID_ARGUMENT);
    assert_non_null(strstr(p.text, "record"));
    peer_end(&p);
    peer_end(&whole);
    shoal_ship_free(ship);
}

static void test_a_blob_goes_on_at_every_record(void **state)
{
    (void)state;
    goes_on_at_every_record(false);
    goes_on_at_every_record(true);
}

/* Without a prefix cache, so that what was computed is in the leases alone. */
static shoal_ship *leasing_ship(size_t n_jobs, uint64_t lease_ms, shoal_clock clock)
{
    shoal_ship_settings s = settings_of(SHOAL_KV_F32, n_jobs);
    s.prefix_percent = 0;
    s.lease_ms = lease_ms;
    s.clock = clock;
    shoal_ship *ship = NULL;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, NULL), SHOAL_OK);
    return ship;
}

/* A call that ends when its second part has left: some steps were made by then. */
static void cut_one(shoal_ship *ship, const char *tenant, size_t n_ids)
{
    peer p;
    peer_init(&p);
    p.n_before_busy = 2;
    assert_int_equal(ask(ship, &p, tenant, request_of(ship, n_ids)), SHOAL_OK);
    wait_for(&p, NULL, 2);
    peer_end(&p);
}

static void wait_held(const shoal_ship *ship, size_t n)
{
    for (int i = 0; shoal_ship_n_held(ship) != n; i++) {
        assert_true(i < WAIT_S * 1000);
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void test_a_cut_call_is_held_for_its_tenant(void **state)
{
    (void)state;
    shoal_ship *ship = leasing_ship(4, 60000, shoal_clock_real());
    peer whole;
    whole_blob(ship, &whole);
    assert_int_equal(shoal_ship_n_held(ship), 0); /* it was not cut */
    cut_one(ship, "a", N_IDS);
    wait_held(ship, 1);
    uint32_t n_cached = 1;
    (void)rest_from(ship, &whole, "b", 3, &n_cached); /* R10 */
    assert_int_equal(n_cached, 0);
    assert_int_equal(shoal_ship_n_held(ship), 1);
    (void)rest_from(ship, &whole, "a", 3, &n_cached);
    assert_true(n_cached >= 128 && n_cached < N_IDS);
    assert_int_equal(shoal_ship_n_held(ship), 0);
    (void)rest_from(ship, &whole, "a", 3, &n_cached); /* a lease is used once */
    assert_int_equal(n_cached, 0);
    peer_end(&whole);
    shoal_ship_free(ship);
}

static void test_leases_are_bounded_for_all_and_for_one(void **state)
{
    (void)state;
    static const char *const tenants[] = {"a", "a", "a", "b", "b", "c", "d", "d", "e"};
    static const size_t held[] = {1, 2, 2, 3, 4, 4, 4, 4, 4};
    shoal_ship *ship = leasing_ship(4, 60000, shoal_clock_real());
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        /* Texts that differ: who asks for the same again has its own lease. */
        cut_one(ship, tenants[i], N_IDS - 32 * (i % 3));
        /* Held or let go before the next is taken up. */
        peer next;
        peer_init(&next);
        assert_int_equal(ask(ship, &next, "x", request_of(ship, 32)), SHOAL_OK);
        wait_for(&next, &next.finished, 0);
        peer_end(&next);
        assert_int_equal(shoal_ship_n_held(ship), held[i]);
    }
    shoal_ship_free(ship); /* with leases */
    ship = leasing_ship(4, 0, shoal_clock_real());
    cut_one(ship, "a", N_IDS);
    uint32_t n_cached = 1;
    peer whole;
    whole_blob(ship, &whole);
    (void)rest_from(ship, &whole, "a", 3, &n_cached);
    assert_int_equal(n_cached, 0);
    peer_end(&whole);
    shoal_ship_free(ship);
}

static uint64_t read_ns(void *ctx)
{
    return atomic_load((atomic_ullong *)ctx);
}

static void test_a_lease_ends_with_its_time(void **state)
{
    (void)state;
    atomic_ullong now_ns = 1000000000;
    shoal_ship *ship = leasing_ship(4, 1000, (shoal_clock){.now_ns = read_ns, .ctx = &now_ns});
    cut_one(ship, "a", N_IDS);
    wait_held(ship, 1);
    for (int i = 0; i < 2; i++) {
        atomic_store(&now_ns, 1000000000 + 999000000ULL + (unsigned)i * 1000000ULL);
        peer next; /* the thread has looked at the clock when it is served */
        peer_init(&next);
        assert_int_equal(ask(ship, &next, "x", request_of(ship, 32)), SHOAL_OK);
        wait_for(&next, &next.finished, 0);
        peer_end(&next);
        assert_int_equal(shoal_ship_n_held(ship), i == 0);
    }
    cut_one(ship, "a", N_IDS);
    wait_held(ship, 1);
    atomic_store(&now_ns, 9000000000ULL);
    wait_held(ship, 0); /* without anybody who asks */
    shoal_ship_free(ship);
}

/* The pool holds one text: who needs its pages gets those of a lease. */
static void test_a_lease_makes_place_for_others(void **state)
{
    (void)state;
    shoal_ship_settings s = settings_of(SHOAL_KV_F32, 4);
    shoal_kv_shape shape = shoal_model_kv_shape(&the_model->hp, SHOAL_KV_F32);
    s.engine.kv_bytes = (size_t)12 * shape.n_layers * shoal_kv_page_bytes(&shape);
    s.prefix_percent = 0;
    shoal_ship *ship = NULL;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, NULL), SHOAL_OK);
    cut_one(ship, "a", N_IDS);
    wait_held(ship, 1);
    peer whole;
    whole_blob(ship, &whole);
    check_blob(&whole, SHOAL_KV_F32, N_IDS);
    assert_int_equal(shoal_ship_n_held(ship), 0);
    peer_end(&whole);
    shoal_ship_free(ship);
}

/* The pool holds one long text at a time: the others wait, and none is lost. */
static void test_more_texts_than_pages_come_one_after_the_other(void **state)
{
    (void)state;
    shoal_ship_settings s = settings_of(SHOAL_KV_F16, 8);
    shoal_kv_shape shape = shoal_model_kv_shape(&the_model->hp, SHOAL_KV_F16);
    s.engine.kv_bytes = (size_t)12 * shape.n_layers * shoal_kv_page_bytes(&shape);
    shoal_ship *ship = NULL;
    assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, NULL), SHOAL_OK);
    static const char *const tenants[] = {"a", "b", "c", "d"};
    peer peers[SHOAL_COUNT(tenants)];
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        peer_init(&peers[i]);
        assert_int_equal(ask(ship, &peers[i], tenants[i], request_of(ship, N_IDS)), SHOAL_OK);
    }
    for (size_t i = 0; i < SHOAL_COUNT(tenants); i++) {
        wait_for(&peers[i], &peers[i].finished, 0);
        assert_int_equal(peers[i].status, SHOAL_RPC_OK);
        check_blob(&peers[i], SHOAL_KV_F16, N_IDS);
        peer_end(&peers[i]);
    }
    shoal_ship_free(ship);
}

static void test_settings_out_of_range_are_refused(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, SHOAL_SHIP_JOBS_MAX, SHOAL_SHIP_JOBS_MAX + 1};
    for (size_t i = 0; i < SHOAL_COUNT(counts); i++) {
        const shoal_ship_settings s = settings_of(SHOAL_KV_F16, counts[i]);
        shoal_ship *ship = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        bool fits = counts[i] >= 1 && counts[i] <= SHOAL_SHIP_JOBS_MAX;
        assert_int_equal(shoal_ship_new(the_model, &s, NULL, &ship, &err),
                         fits ? SHOAL_OK : SHOAL_E_INVALID);
        assert_true(fits || strstr(err.text, "edge_model.shipments_max"));
        shoal_ship_free(ship);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shipped_blocks_are_those_computed_elsewhere),
        cmocka_unit_test(test_tenants_do_not_share_what_was_computed),
        cmocka_unit_test(test_what_is_not_shipped_here_is_refused_with_both_hashes),
        cmocka_unit_test(test_blocks_are_archived_for_who_asks_by_the_same_basis),
        cmocka_unit_test(test_another_basis_is_refused_with_both_hashes),
        cmocka_unit_test(test_a_basis_that_does_not_fit_is_refused_when_the_ship_is_made),
        cmocka_unit_test(test_longer_than_the_pool_is_refused_by_name),
        cmocka_unit_test(test_places_are_bounded_for_all_and_for_one),
        cmocka_unit_test(test_a_reader_that_stops_is_waited_for_and_others_are_served),
        cmocka_unit_test(test_calls_that_end_at_any_part_free_everything),
        cmocka_unit_test(test_a_blob_goes_on_at_every_record),
        cmocka_unit_test(test_a_cut_call_is_held_for_its_tenant),
        cmocka_unit_test(test_leases_are_bounded_for_all_and_for_one),
        cmocka_unit_test(test_a_lease_ends_with_its_time),
        cmocka_unit_test(test_a_lease_makes_place_for_others),
        cmocka_unit_test(test_more_texts_than_pages_come_one_after_the_other),
        cmocka_unit_test(test_settings_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
