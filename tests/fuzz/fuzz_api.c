/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the body of a completion or a chat (the first byte chooses): a refusal has a status
 * and words, an accepted request is within every limit of the engine.
 */
#include "edge/http/api_internal.h"
#include "tests/support/tiny_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static shoal_api_context context = {
    .model_id = "tiny", .mode_default = SHOAL_MODE_LOCAL, .n_tokens_default = 16, .n_room = 200};

static void make_model(void)
{
    static shoal_model *model;
    shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    if (model) {
        return;
    }
    SHOAL_ASSERT(shoal_tiny_model_gguf(1, SHOAL_TYPE_F32, &buf) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_model_new(gguf, &model, NULL) == SHOAL_OK);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    context.model = model;
    shoal_api_json_init();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    make_model();
    if (size < 1) {
        return 0;
    }
    shoal_api_request *q = NULL;
    shoal_http_error error = {0};
    shoal_api_kind kind = data[0] & 1 ? SHOAL_API_CHAT : SHOAL_API_COMPLETION;
    shoal_status status =
        shoal_api_parse(&context, kind, (const char *)data + 1, size - 1, &q, &error);
    if (status != SHOAL_OK) {
        SHOAL_ASSERT(error.status >= 400 && error.text[0] != '\0');
        shoal_buf text = {0};
        SHOAL_ASSERT(shoal_http_error_put(&error, &text) == SHOAL_OK);
        shoal_buf_fini(&text);
        return 0;
    }
    SHOAL_ASSERT(q->n_ids >= 1 && q->n_tokens_max >= 1);
    SHOAL_ASSERT(q->n_ids + q->n_tokens_max <= context.n_room);
    SHOAL_ASSERT(q->mode <= SHOAL_MODE_CLOUD && q->n_stops <= SHOAL_STOPS_MAX);
    SHOAL_ASSERT(shoal_sampling_check(&q->sampling, context.model->hp.n_vocab, NULL) == SHOAL_OK);
    for (size_t i = 0; i < q->n_ids; i++) {
        SHOAL_ASSERT(q->ids[i] >= 0 && (size_t)q->ids[i] < context.model->hp.n_vocab);
    }
    shoal_api_request_free(q);
    return 0;
}
