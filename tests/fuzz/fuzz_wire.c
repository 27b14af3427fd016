/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoders of protocol/wire on any bytes: no crash, no leak, and what is taken encodes to
 * bytes that decode to the same encoding again.
 */
#include "common/grammar/grammar.h"
#include "protocol/wire/wire.h"

#include <string.h>

enum {
    N_VOCAB = 1000
};

static void check_same(const shoal_buf *a, const shoal_buf *b)
{
    SHOAL_ASSERT(a->length == b->length);
    SHOAL_ASSERT(a->length == 0 || memcmp(a->data, b->data, a->length) == 0);
}

/* The grammar of a form: refused in words, or one that comes back from its own bytes. */
static void fuzz_form(const shoal_msg_form *form)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_grammar *grammar = NULL;
    if (shoal_grammar_decode(form->grammar, form->n_grammar, &grammar, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    shoal_grammar *again = NULL;
    shoal_buf once = {0};
    shoal_buf twice = {0};
    SHOAL_ASSERT(shoal_grammar_encode(grammar, &once) == SHOAL_OK);
    SHOAL_ASSERT(shoal_grammar_decode((const uint8_t *)once.data, once.length, &again, NULL) ==
                 SHOAL_OK);
    SHOAL_ASSERT(shoal_grammar_encode(again, &twice) == SHOAL_OK);
    check_same(&once, &twice);
    shoal_grammar_free(grammar);
    shoal_grammar_free(again);
    shoal_buf_fini(&once);
    shoal_buf_fini(&twice);
}

static void fuzz_edge(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_edge_msg *msg = NULL;
    if (shoal_edge_msg_decode(data, size, N_VOCAB, &msg, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    shoal_buf once = {0};
    shoal_buf twice = {0};
    shoal_edge_msg *again = NULL;
    SHOAL_ASSERT(shoal_edge_msg_encode(msg, &once) == SHOAL_OK);
    SHOAL_ASSERT(shoal_edge_msg_decode((const uint8_t *)once.data, once.length, N_VOCAB, &again,
                                       NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_edge_msg_encode(again, &twice) == SHOAL_OK);
    check_same(&once, &twice);
    if (msg->kind == SHOAL_EDGE_OPEN && msg->body.open.form.n_grammar > 0) {
        fuzz_form(&msg->body.open.form);
    }
    shoal_edge_msg_free(msg);
    shoal_edge_msg_free(again);
    shoal_buf_fini(&once);
    shoal_buf_fini(&twice);
}

static void fuzz_cloud(const uint8_t *data, size_t size)
{
    shoal_err err = SHOAL_ERR_INIT;
    shoal_cloud_msg *msg = NULL;
    if (shoal_cloud_msg_decode(data, size, N_VOCAB, &msg, &err) != SHOAL_OK) {
        SHOAL_ASSERT(err.text[0] != '\0');
        return;
    }
    shoal_buf once = {0};
    shoal_buf twice = {0};
    shoal_cloud_msg *again = NULL;
    SHOAL_ASSERT(shoal_cloud_msg_encode(msg, &once) == SHOAL_OK);
    SHOAL_ASSERT(shoal_cloud_msg_decode((const uint8_t *)once.data, once.length, N_VOCAB, &again,
                                        NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_cloud_msg_encode(again, &twice) == SHOAL_OK);
    check_same(&once, &twice);
    shoal_cloud_msg_free(msg);
    shoal_cloud_msg_free(again);
    shoal_buf_fini(&once);
    shoal_buf_fini(&twice);
}

static void fuzz_describe(const uint8_t *data, size_t size)
{
    shoal_describe describe;
    shoal_buf once = {0};
    if (shoal_describe_decode(data, size, &describe, NULL) == SHOAL_OK) {
        SHOAL_ASSERT(shoal_describe_encode(&describe, &once) == SHOAL_OK);
    }
    shoal_buf_fini(&once);
}

static void fuzz_kv(const uint8_t *data, size_t size)
{
    shoal_buf once = {0};
    shoal_msg_kv_request *request = NULL;
    shoal_msg_kv_part *part = NULL;
    if (shoal_msg_kv_request_decode(data, size, N_VOCAB, &request, NULL) == SHOAL_OK) {
        SHOAL_ASSERT(shoal_msg_kv_request_encode(request, &once) == SHOAL_OK);
    }
    if (shoal_msg_kv_part_decode(data, size, &part, NULL) == SHOAL_OK) {
        SHOAL_ASSERT(shoal_msg_kv_part_encode(part, &once) == SHOAL_OK);
    }
    shoal_msg_kv_request_free(request);
    shoal_msg_kv_part_free(part);
    shoal_buf_fini(&once);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_edge(data, size);
    fuzz_cloud(data, size);
    fuzz_describe(data, size);
    fuzz_kv(data, size);
    return 0;
}
