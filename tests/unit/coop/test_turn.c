/* SPDX-License-Identifier: Apache-2.0
 *
 * What a watchdog asks: the engine thread's turn grows while it hangs, here in a callback that does
 * not return, and is nothing while it waits.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/buf.h"
#include "edge/coop/coop.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <time.h>

enum {
    N_TOKENS = 4,
    HANG_MS = 20,
    PATIENCE_MS = 20000 /* then the test fails */
};

typedef struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    bool open;
    bool done;
} gate;

/* The first token waits for the gate. */
static void on_event(void *ctx, const shoal_coop_event *event)
{
    gate *g = ctx;
    (void)pthread_mutex_lock(&g->mutex);
    while (!g->open) {
        (void)pthread_cond_wait(&g->moved, &g->mutex);
    }
    g->done = event->kind != SHOAL_COOP_TOKEN;
    (void)pthread_cond_broadcast(&g->moved);
    (void)pthread_mutex_unlock(&g->mutex);
}

static bool turn_is(const shoal_coop *coop, bool hangs)
{
    uint64_t turn_ms = shoal_coop_turn_ms(coop);
    return hangs ? turn_ms >= HANG_MS : turn_ms == 0;
}

static void wait_for_turn(const shoal_coop *coop, bool hangs)
{
    for (int i = 0; i < PATIENCE_MS && !turn_is(coop, hangs); i++) {
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_true(turn_is(coop, hangs));
}

static void test_turn_grows_while_the_engine_hangs_and_only_then(void **state)
{
    (void)state;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    shoal_coop *coop = NULL;
    shoal_coop_settings settings = shoal_coop_settings_default();
    gate g = {.mutex = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};
    const int32_t prompt[] = {SHOAL_TINY_BOS, SHOAL_TINY_VOCAB - 1};
    const shoal_coop_request request = {.mode = SHOAL_MODE_LOCAL,
                                        .ids = prompt,
                                        .n_ids = SHOAL_COUNT(prompt),
                                        .n_tokens_max = N_TOKENS,
                                        .sampling = shoal_sampling_default(),
                                        .on_event = on_event,
                                        .ctx = &g};
    uint64_t id = 0;
    settings.n_threads = 1;
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    assert_int_equal(shoal_coop_new(model, &settings, NULL, &coop, NULL), SHOAL_OK);
    wait_for_turn(coop, false);
    assert_int_equal(shoal_coop_submit(coop, &request, &id, NULL), SHOAL_OK);
    wait_for_turn(coop, true);
    (void)pthread_mutex_lock(&g.mutex);
    g.open = true;
    (void)pthread_cond_broadcast(&g.moved);
    while (!g.done) {
        (void)pthread_cond_wait(&g.moved, &g.mutex);
    }
    (void)pthread_mutex_unlock(&g.mutex);
    wait_for_turn(coop, false);
    shoal_coop_free(coop);
    shoal_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turn_grows_while_the_engine_hangs_and_only_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
