/* SPDX-License-Identifier: Apache-2.0
 *
 * Which thread does what to a token, and that nothing is lost between them: the engine thread of a
 * real engine hands out text, characters split over tokens held back until they are whole, and all
 * of it is what one decoder makes of the ids.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/mem.h"
#include "common/base/thread.h"
#include "common/base/utf8.h"
#include "edge/coop/coop.h"
#include "tests/support/tiny_model.h"

#include <pthread.h>
#include <string.h>

enum {
    TOKENS = 200
};

typedef struct stream {
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    int32_t ids[TOKENS];
    size_t n_ids;
    size_t n_empty; /* tokens that showed nothing yet */
    shoal_buf text;
    shoal_role role;
    shoal_finish finish;
    bool done;
    bool broken; /* some piece was no UTF-8 by itself */
} stream;

static void on_event(void *ctx, const shoal_coop_event *event)
{
    stream *s = ctx;
    (void)pthread_mutex_lock(&s->mutex);
    s->role = shoal_thread_role();
    if (event->kind == SHOAL_COOP_TOKEN && s->n_ids < TOKENS) {
        s->ids[s->n_ids++] = event->id;
        s->n_empty += event->n_text == 0;
        s->broken = s->broken || !shoal_utf8_valid(event->text, event->n_text);
        SHOAL_ASSERT(shoal_buf_append(&s->text, event->text, event->n_text) == SHOAL_OK);
    } else {
        s->finish = event->finish;
        s->done = true;
        (void)pthread_cond_signal(&s->ended);
    }
    (void)pthread_mutex_unlock(&s->mutex);
}

static shoal_model *tiny(void)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    shoal_model *model = NULL;
    assert_int_equal(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &file), SHOAL_OK);
    assert_int_equal(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL),
                     SHOAL_OK);
    assert_int_equal(shoal_model_new(gguf, &model, NULL), SHOAL_OK);
    return model;
}

/* Bytes of characters of two, three and four bytes far more often than anything else, so that most
 * tokens are parts of a character, and many parts of none. */
static const shoal_logit_bias biases[] = {
    {SHOAL_TINY_FIRST_BYTE + 0xC3, 9}, {SHOAL_TINY_FIRST_BYTE + 0xA9, 12},
    {SHOAL_TINY_FIRST_BYTE + 0xE2, 9}, {SHOAL_TINY_FIRST_BYTE + 0x82, 12},
    {SHOAL_TINY_FIRST_BYTE + 0xAC, 9}, {SHOAL_TINY_FIRST_BYTE + 0xF0, 9},
    {SHOAL_TINY_FIRST_BYTE + 0x9F, 9}, {SHOAL_TINY_EOS, -100}};

static void run(const shoal_model *model, uint64_t seed, const char *stop, stream *s)
{
    shoal_coop_settings settings = shoal_coop_settings_default();
    shoal_coop *coop = NULL;
    const int32_t prompt[] = {SHOAL_TINY_BOS, SHOAL_TINY_VOCAB - 1};
    shoal_sampling sampling = shoal_sampling_default();
    sampling.seed = seed;
    sampling.biases = biases;
    sampling.n_biases = SHOAL_COUNT(biases);
    const shoal_coop_request request = {.mode = SHOAL_MODE_LOCAL,
                                        .ids = prompt,
                                        .n_ids = SHOAL_COUNT(prompt),
                                        .n_tokens_max = TOKENS,
                                        .sampling = sampling,
                                        .stops = &stop,
                                        .n_stops = stop != NULL,
                                        .on_event = on_event,
                                        .ctx = s};
    uint64_t id = 0;
    *s = (stream){.done = false};
    (void)pthread_mutex_init(&s->mutex, NULL);
    (void)pthread_cond_init(&s->ended, NULL);
    settings.n_threads = 1;
    assert_int_equal(shoal_coop_new(model, &settings, NULL, &coop, NULL), SHOAL_OK);
    assert_int_equal(shoal_coop_submit(coop, &request, &id, NULL), SHOAL_OK);
    (void)pthread_mutex_lock(&s->mutex);
    while (!s->done) {
        (void)pthread_cond_wait(&s->ended, &s->mutex);
    }
    (void)pthread_mutex_unlock(&s->mutex);
    shoal_coop_stop(coop, 0);
    shoal_coop_free(coop);
}

static void test_streamed_text_is_what_one_decoder_makes_of_the_ids(void **state)
{
    (void)state;
    shoal_model *model = tiny();
    for (uint64_t seed = 1; seed <= 5; seed++) {
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf want = {0};
        shoal_detok detok = {.started = true};
        stream s;
        run(model, seed, NULL, &s);
        assert_int_equal(s.role, SHOAL_ROLE_ENGINE);
        assert_int_equal(s.finish, SHOAL_FINISH_LENGTH);
        assert_int_equal(s.n_ids, TOKENS);
        assert_false(s.broken);
        assert_true(s.n_empty > TOKENS / 10); /* characters were split */
        for (size_t i = 0; i < s.n_ids; i++) {
            assert_int_equal(shoal_detok_push(model->tokenizer, &detok, s.ids[i], &want), SHOAL_OK);
        }
        assert_int_equal(shoal_detok_finish(&detok, &want), SHOAL_OK);
        assert_int_equal(want.length, s.text.length);
        assert_memory_equal(want.data, s.text.data, want.length);
        shoal_buf_fini(&s.text);
    }
    shoal_model_free(model);
}

/* A stop string that is one character of two tokens ends the text before its first. */
static void test_stop_string_split_over_tokens_ends_the_text_before_it(void **state)
{
    (void)state;
    static const char stop[] = "\xc3\xa9";
    shoal_model *model = tiny();
    size_t n_stopped = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        stream whole;
        stream cut;
        run(model, seed, NULL, &whole);
        run(model, seed, stop, &cut);
        const char *at = memmem(whole.text.data, whole.text.length, stop, 2);
        size_t want = at ? (size_t)(at - whole.text.data) : whole.text.length;
        n_stopped += at != NULL;
        assert_int_equal(cut.text.length, want);
        assert_memory_equal(cut.text.data, whole.text.data, want);
        assert_int_equal(cut.finish, at ? SHOAL_FINISH_STOP : SHOAL_FINISH_LENGTH);
        shoal_buf_fini(&whole.text);
        shoal_buf_fini(&cut.text);
    }
    assert_true(n_stopped > 0);
    shoal_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streamed_text_is_what_one_decoder_makes_of_the_ids),
        cmocka_unit_test(test_stop_string_split_over_tokens_ends_the_text_before_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
