/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fixture.h"

#include "common/base/rng.h"

#include <time.h>

static void tokens_of(uint32_t text, uint32_t i, int32_t *ret_tokens)
{
    for (int32_t k = 0; k < SHOAL_BLOCK_TOKENS; k++) {
        ret_tokens[k] = (int32_t)(text * 1000 + i * 37) + k;
    }
}

shoal_block_id block_id(uint32_t text, uint32_t i)
{
    const shoal_hash model = {.bytes = {1, 2, 3}};
    int32_t tokens[SHOAL_BLOCK_TOKENS];
    shoal_hash root;
    shoal_block_id id;
    assert_int_equal(shoal_block_root(&model, "f16 test", "salt", 4, &root), SHOAL_OK);
    tokens_of(text, 0, tokens);
    assert_int_equal(shoal_block_first(&root, tokens, &id), SHOAL_OK);
    for (uint32_t k = 1; k <= i; k++) {
        shoal_block_id before = id;
        tokens_of(text, k, tokens);
        assert_int_equal(shoal_block_next(&before, tokens, &id), SHOAL_OK);
    }
    return id;
}

shoal_block *block_make(uint32_t text, uint32_t i, size_t n_payload)
{
    shoal_block *block = NULL;
    uint64_t rng = (uint64_t)text << 32 | i;
    assert_int_equal(shoal_block_new(n_payload, &block), SHOAL_OK);
    for (size_t k = 0; k < n_payload; k++) {
        shoal_block_payload(block)[k] = (uint8_t)shoal_rng_next(&rng);
    }
    return block;
}

void block_assert_right(shoal_block *block, uint32_t text, uint32_t i, size_t n_payload)
{
    shoal_block *expected = block_make(text, i, n_payload);
    assert_int_equal(shoal_block_n_payload(block), n_payload);
    assert_memory_equal(shoal_block_payload(block), shoal_block_payload(expected), n_payload);
    shoal_block_free(expected);
}

shoal_store_result *next_result(shoal_store *store)
{
    const struct timespec pause = {.tv_nsec = 200000};
    for (int i = 0; i < 100000; i++) {
        shoal_store_result *result = shoal_store_poll(store);
        if (result) {
            return result;
        }
        nanosleep(&pause, NULL);
    }
    fail_msg("no result within 20 s");
    return NULL;
}

shoal_store_result ask_get(shoal_store *store, const shoal_block_id *id, size_t n_payload,
                           bool lease)
{
    assert_int_equal(shoal_store_get(store, id, n_payload, lease, 7), SHOAL_OK);
    shoal_store_result *result = next_result(store);
    assert_int_equal(result->op, SHOAL_STORE_GET);
    assert_int_equal(result->tag, 7);
    shoal_store_result copy = *result;
    assert_true((copy.block != NULL) == (copy.status == SHOAL_OK));
    if (copy.block) {
        uint32_t text = (uint32_t)(id->tokens[0] - (int32_t)id->index * 37) / 1000;
        block_assert_right(copy.block, text, id->index, n_payload);
    }
    shoal_store_result_free(store, result);
    copy.block = NULL;
    return copy;
}

shoal_status get(shoal_store *store, uint32_t text, uint32_t i)
{
    shoal_block_id id = block_id(text, i);
    return ask_get(store, &id, PAYLOAD, false).status;
}

static shoal_status wait_simple(shoal_store *store, shoal_store_op op)
{
    shoal_store_result *result = next_result(store);
    assert_int_equal(result->op, op);
    assert_int_equal(result->tag, 9);
    assert_null(result->block);
    shoal_status status = result->status;
    shoal_store_result_free(store, result);
    return status;
}

shoal_status put_sized(shoal_store *store, uint32_t text, uint32_t i, size_t n_payload)
{
    shoal_block_id id = block_id(text, i);
    assert_int_equal(shoal_store_put(store, &id, block_make(text, i, n_payload), 9), SHOAL_OK);
    return wait_simple(store, SHOAL_STORE_PUT);
}

shoal_status put(shoal_store *store, uint32_t text, uint32_t i)
{
    return put_sized(store, text, i, PAYLOAD);
}

shoal_status evict(shoal_store *store, uint32_t text, uint32_t i)
{
    shoal_block_id id = block_id(text, i);
    assert_int_equal(shoal_store_evict(store, &id, 9), SHOAL_OK);
    return wait_simple(store, SHOAL_STORE_EVICT);
}

shoal_status release(shoal_store *store, uint32_t text, uint32_t i)
{
    shoal_block_id id = block_id(text, i);
    assert_int_equal(shoal_store_release(store, &id, 9), SHOAL_OK);
    return wait_simple(store, SHOAL_STORE_RELEASE);
}

shoal_store_stats stats_of(const shoal_store *store)
{
    shoal_store_stats stats;
    shoal_store_stats_get(store, &stats);
    return stats;
}

void check_leases(shoal_store *one, shoal_store *two, void (*elapse)(void *ctx), void *ctx)
{
    shoal_block_id id = block_id(50, 2);
    /* The first who misses makes it, the second waits. */
    shoal_store_result r = ask_get(one, &id, PAYLOAD, true);
    assert_int_equal(r.status, SHOAL_EOF);
    assert_true(r.leased);
    r = ask_get(two, &id, PAYLOAD, true);
    assert_int_equal(r.status, SHOAL_BUSY);
    assert_false(r.leased);
    assert_true(r.retry_ms >= 1);
    /* Who wants no lease is told what is there, and that is nothing. */
    r = ask_get(two, &id, PAYLOAD, false);
    assert_int_equal(r.status, SHOAL_EOF);
    assert_false(r.leased);
    /* A lease that ran out goes to the next. */
    elapse(ctx);
    r = ask_get(two, &id, PAYLOAD, true);
    assert_int_equal(r.status, SHOAL_EOF);
    assert_true(r.leased);
    /* Given up: free for all. */
    assert_int_equal(release(two, 50, 2), SHOAL_OK);
    r = ask_get(one, &id, PAYLOAD, true);
    assert_int_equal(r.status, SHOAL_EOF);
    assert_true(r.leased);
    /* Made: no lease any more, even once the block is gone. */
    assert_int_equal(put(one, 50, 2), SHOAL_OK);
    assert_int_equal(get(two, 50, 2), SHOAL_OK);
    assert_int_equal(evict(one, 50, 2), SHOAL_OK);
    r = ask_get(two, &id, PAYLOAD, true);
    assert_int_equal(r.status, SHOAL_EOF);
    assert_true(r.leased);
    assert_int_equal(release(two, 50, 2), SHOAL_OK);
}
