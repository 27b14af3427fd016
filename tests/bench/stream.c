/* SPDX-License-Identifier: Apache-2.0
 *
 * What becomes of a token once it is sampled, by the thread that does it: the engine thread makes
 * text of the id and looks for stop strings, the loop writes JSON for SSE beside the next step. The
 * first is what a step waits for, the second is hidden.
 */
#include "tests/bench/bench.h"

#include "common/base/mem.h"
#include "edge/http/api_internal.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N = 256 /* tokens of one run */
};

typedef struct subject {
    shoal_model *model;
    int32_t ids[N];
    shoal_buf text;
    shoal_buf chunk;
    shoal_stop *stop;
    bool stops;
    shoal_api api;
    shoal_api_deck deck;
    shoal_api_request request;
    shoal_api_call call;
    shoal_api_message *message;
} subject;

/* As edge/coop/gen.c does it for one answer. */
static void engine_part(void *context)
{
    subject *s = context;
    shoal_detok detok = {.started = true};
    shoal_buf_reset(&s->text);
    for (size_t i = 0; i < N; i++) {
        size_t before = s->text.length;
        size_t safe = 0;
        SHOAL_ASSERT(shoal_detok_push(s->model->tokenizer, &detok, s->ids[i], &s->text) ==
                     SHOAL_OK);
        if (s->stops) {
            SHOAL_ASSERT(shoal_stop_push(s->stop, s->text.data + before, s->text.length - before,
                                         &safe) == SHOAL_OK);
        }
    }
}

/* As edge/http/api_call.c does it, up to the socket. */
static void loop_part(void *context)
{
    subject *s = context;
    for (size_t i = 0; i < N; i++) {
        s->message->id = s->ids[i];
        shoal_buf_reset(&s->chunk);
        SHOAL_ASSERT(shoal_api_put_chunk(&s->chunk, s->message) == SHOAL_OK);
    }
}

static void init(subject *s)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf file = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    static const char *const stops[] = {"\n\n", "</answer>", "User:"};
    SHOAL_ASSERT(shoal_tiny_model_gguf(3, SHOAL_TYPE_F32, &file) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_open((const uint8_t *)file.data, file.length, &gguf, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_model_new(gguf, &s->model, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_stop_new(stops, SHOAL_COUNT(stops), &s->stop, NULL) == SHOAL_OK);
    for (size_t i = 0; i < N; i++) {
        s->ids[i] = (int32_t)(SHOAL_TINY_VOCAB - 1 - i % 40); /* pieces and letters */
    }
    s->deck.context.model = s->model;
    (void)memcpy(s->deck.context.model_id, "tiny", 5);
    s->request = (shoal_api_request){.kind = SHOAL_API_CHAT, .stream = true};
    s->call.api = &s->api;
    s->call.deck = &s->deck;
    s->call.kind = SHOAL_API_CHAT;
    s->call.request = &s->request;
    SHOAL_ASSERT(shoal_api_put_envelope(&s->call) == SHOAL_OK);
    s->message = shoal_calloc(1, sizeof *s->message + 8);
    SHOAL_ASSERT(s->message != NULL);
    *s->message = (shoal_api_message){.kind = SHOAL_API_TOKEN,
                                      .call = &s->call,
                                      .tier = SHOAL_TIER_EDGE,
                                      .confidence = 0.5F,
                                      .ms = 1234.56,
                                      .n_text = 4};
    (void)memcpy(s->message->text, " the", 4);
}

static void fini(subject *s)
{
    shoal_stop_free(s->stop);
    shoal_buf_fini(&s->text);
    shoal_buf_fini(&s->chunk);
    shoal_buf_fini(&s->call.envelope);
    shoal_free(s->message);
    shoal_model_free(s->model);
}

int main(int argc, char **argv)
{
    bench_settings settings = bench_settings_default();
    bench_report report = {.out = stdout};
    static subject s;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            report.json = true;
        } else if (strcmp(argv[i], "--smoke") == 0) {
            settings = bench_settings_smoke();
        } else {
            (void)fprintf(stderr, "usage: shoal-bench-stream [--smoke] [--json]\n");
            return 2;
        }
    }
    init(&s);
    bench_report_begin(&report, stdout, report.json, "-");
    const bench_subject subjects[] = {
        {.name = "engine: text", .shape = "256 tokens", .variant = "-", .run = engine_part},
        {.name = "engine: text, stops", .shape = "256 tokens", .variant = "-", .run = engine_part},
        {.name = "loop: JSON", .shape = "256 tokens", .variant = "-", .run = loop_part}};
    for (size_t i = 0; i < SHOAL_COUNT(subjects); i++) {
        bench_subject timed = subjects[i];
        timed.context = &s;
        s.stops = i == 1;
        bench_result result = bench_measure(&settings, &timed);
        bench_report_row(&report, &timed, &result);
    }
    int status = bench_report_end(&report);
    fini(&s);
    return status < 0;
}
