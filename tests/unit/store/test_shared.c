/* SPDX-License-Identifier: Apache-2.0
 *
 * A prefix that one engine computed and put into a Redis is taken by another without computing it,
 * and what it answers then are the same bits. With a model's path as argument it does the same with
 * that model; either way it says what both ways cost: `unit_store_shared MODEL.gguf`.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "cloud/store/store.h"
#include "server.h"

#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/engine/engine.h"
#include "common/kv/kv_move.h"
#include "tests/support/tiny_arch.h"
#include "tests/support/tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    SKIPPED = 77, /* as tests/unit/store/CMakeLists.txt says */
    N_TOKENS_MAX = 1000,
    BLOCK = SHOAL_BLOCK_TOKENS,
    N_BLOCKS_MAX = N_TOKENS_MAX / BLOCK,
    N_ROWS = 64
};

static redis_server server;
static const char *model_path; /* NULL: small ones made here */

/* One node: an engine, its sequence, its end of the store. */
typedef struct node {
    shoal_engine *engine;
    shoal_kv_seq *seq;
    shoal_store *store;
    const shoal_kv_shape *shape; /* of the engine's pool */
    size_t n_rows;               /* computed */
    uint64_t spent_ns;
} node;

static uint64_t now_ns(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ns(&clock);
}

static void node_init(node *n, const shoal_model *model, int kv_type)
{
    shoal_engine_settings es = shoal_engine_settings_default();
    shoal_store_settings ss = shoal_store_settings_default();
    shoal_err err = SHOAL_ERR_INIT;
    memset(n, 0, sizeof *n);
    es.n_threads = 1;
    es.kv_type = kv_type;
    es.n_rows_max = N_ROWS;
    ss.kind = SHOAL_STORE_REDIS;
    ss.address = server.socket;
    ss.timeout_ms = 20000;
    if (shoal_engine_new(model, &es, &n->engine, &err) != SHOAL_OK ||
        shoal_store_open(&ss, NULL, &n->store, &err) != SHOAL_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(shoal_kv_seq_new(shoal_engine_kv(n->engine), &n->seq), SHOAL_OK);
    n->shape = shoal_kv_pool_shape(shoal_engine_kv(n->engine));
}

static void node_fini(node *n)
{
    shoal_store_close(n->store);
    shoal_kv_seq_free(n->seq);
    shoal_engine_free(n->engine);
}

/* Computes up to n_to tokens; the last row's logits are wanted. */
static void compute(node *n, const int32_t *ids, size_t n_to)
{
    size_t from = shoal_kv_seq_length(n->seq);
    shoal_span span = {.seq = n->seq, .ids = ids + from, .n_ids = n_to - from, .n_logits = 1};
    uint64_t before = now_ns();
    assert_int_equal(shoal_engine_step(n->engine, &span, 1), SHOAL_OK);
    n->spent_ns += now_ns() - before;
    n->n_rows += span.n_ids;
}

static shoal_store_result *next_result(shoal_store *store)
{
    const struct timespec pause = {.tv_nsec = 100000};
    for (int i = 0; i < 600000; i++) {
        shoal_store_result *result = shoal_store_poll(store);
        if (result) {
            return result;
        }
        nanosleep(&pause, NULL);
    }
    fail_msg("no result within a minute");
    return NULL;
}

static void publish(node *n, const shoal_block_id *id)
{
    shoal_block *block = NULL;
    assert_int_equal(shoal_block_new(shoal_kv_block_bytes(n->shape, id->index), &block), SHOAL_OK);
    assert_int_equal(shoal_kv_block_export(n->seq, id->index, shoal_block_payload(block)),
                     SHOAL_OK);
    assert_int_equal(shoal_store_put(n->store, id, block, 0), SHOAL_OK);
    shoal_store_result *result = next_result(n->store);
    assert_int_equal(result->status, SHOAL_OK);
    shoal_store_result_free(n->store, result);
}

/* Asks for all blocks at once and takes them in as they come. */
static void fetch(node *n, const shoal_block_id *block_ids, size_t n_blocks)
{
    uint64_t before = now_ns();
    for (size_t i = 0; i < n_blocks; i++) {
        size_t n_bytes = shoal_kv_block_bytes(n->shape, i);
        assert_int_equal(shoal_store_get(n->store, &block_ids[i], n_bytes, true, i), SHOAL_OK);
    }
    for (size_t i = 0; i < n_blocks; i++) {
        shoal_store_result *result = next_result(n->store);
        assert_int_equal(result->tag, i);
        assert_int_equal(result->status, SHOAL_OK);
        assert_int_equal(shoal_kv_block_import(n->seq, shoal_block_payload(result->block),
                                               shoal_block_n_payload(result->block)),
                         SHOAL_OK);
        shoal_store_result_free(n->store, result);
    }
    n->spent_ns += now_ns() - before;
}

static void name_blocks(const shoal_model *model, const node *n, const int32_t *ids,
                        size_t n_blocks, shoal_block_id *ret_ids)
{
    char form[SHOAL_KV_FORM_BYTES];
    shoal_hash root;
    shoal_kv_form(shoal_kv_pool_shape(shoal_engine_kv(n->engine)), form);
    assert_int_equal(shoal_block_root(&model->hash, form, "tenant", 6, &root), SHOAL_OK);
    for (size_t i = 0; i < n_blocks; i++) {
        assert_int_equal(i == 0 ? shoal_block_first(&root, ids, &ret_ids[0])
                                : shoal_block_next(&ret_ids[i - 1], ids + i * BLOCK, &ret_ids[i]),
                         SHOAL_OK);
    }
}

static void check_model(const shoal_model *model, const char *name, int kv_type)
{
    static int32_t ids[N_TOKENS_MAX];
    static shoal_block_id block_ids[N_BLOCKS_MAX];
    uint64_t rng = 5;
    node one;
    node two;
    node_init(&one, model, kv_type);
    node_init(&two, model, kv_type);
    size_t n_tokens = SHOAL_MIN(shoal_engine_n_ctx(one.engine), (size_t)N_TOKENS_MAX);
    size_t n_blocks = (n_tokens - 1) / BLOCK; /* the last token is computed for its logits */
    for (size_t i = 0; i < n_tokens; i++) {
        ids[i] = (int32_t)(shoal_rng_next(&rng) % model->hp.n_vocab);
    }
    name_blocks(model, &one, ids, n_blocks, block_ids);
    for (size_t i = 0; i < n_blocks; i++) {
        compute(&one, ids, (i + 1) * BLOCK);
        publish(&one, &block_ids[i]);
    }
    uint64_t computed_ns = one.spent_ns;
    compute(&one, ids, n_tokens);
    fetch(&two, block_ids, n_blocks);
    uint64_t fetched_ns = two.spent_ns;
    compute(&two, ids, n_tokens);
    assert_int_equal(one.n_rows, n_tokens);
    assert_int_equal(two.n_rows, n_tokens - n_blocks * BLOCK);
    assert_memory_equal(shoal_engine_logits(one.engine, 0), shoal_engine_logits(two.engine, 0),
                        model->hp.n_vocab * sizeof(float));
    printf("%s %s: %zu tokens, at most %zu KiB; computed in %.1f ms, fetched in %.1f ms\n", name,
           shoal_engine_kv_form(one.engine), n_blocks * BLOCK,
           shoal_kv_block_bytes(one.shape, 0) * n_blocks >> 10, (double)computed_ns / 1e6,
           (double)fetched_ns / 1e6);
    node_fini(&one);
    node_fini(&two);
}

static void test_fetched_prefix_gives_the_bits_of_a_computed_one(void **state)
{
    (void)state;
    static const char *const variants[] = {"llama-yarn", "gemma2", "deepseek2"};
    for (size_t i = 0; !model_path && i < SHOAL_COUNT(variants); i++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
        SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
        SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
        assert_int_equal(shoal_tiny_arch_gguf(variants[i], 11, SHOAL_TYPE_F32, &file), SHOAL_OK);
        assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                         SHOAL_OK);
        assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
        static const shoal_kv_type types[] = {SHOAL_KV_F32, SHOAL_KV_F16, SHOAL_KV_Q8T,
                                              SHOAL_KV_K8V8, SHOAL_KV_K4V4};
        for (size_t type = 0; type < SHOAL_COUNT(types); type++) {
            check_model(model, variants[i], (int)types[type]);
        }
    }
    const char *path = model_path;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    char family[512];
    const char *source = getenv("SHOAL_SOURCE_DIR");
    if (!path && source) {
        (void)snprintf(family, sizeof family, "%s/deploy/models/minnow/minnow-full.gguf", source);
        path = family;
    }
#endif
    if (path) {
        SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
        shoal_err err = SHOAL_ERR_INIT;
        if (shoal_model_load(path, &model, &err) != SHOAL_OK) {
            fail_msg("%s", err.text);
        }
        check_model(model, strrchr(path, '/') ? strrchr(path, '/') + 1 : path, -1);
    }
}

static int start(void **state)
{
    (void)state;
    redis_server_init(&server);
    redis_server_start(&server, NULL, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    redis_server_fini(&server);
    return 0;
}

int main(int argc, char **argv)
{
    if (!redis_available()) {
        printf("SKIPPED: no Redis server here (Debian package redis-tools)\n");
        return SKIPPED;
    }
    model_path = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fetched_prefix_gives_the_bits_of_a_computed_one),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
