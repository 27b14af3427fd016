/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as an engine's answer: a stream of events, with ids and as text, in pieces; scores of a
 * prompt; a list of models. What is told is within the limits, and the same however the bytes are
 * cut.
 */
#include "cloud/upstream/upstream_internal.h"
#include "tests/support/tiny_model.h"

#include <string.h>

enum {
    N_MAX = 32,
    TOLD_MAX = 4096
};

static shoal_tokenizer *vocab;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void set_up(void)
{
    if (vocab != NULL) {
        return;
    }
    shoal_buf buf = {0};
    shoal_gguf *gguf = NULL;
    SHOAL_ASSERT(shoal_tiny_model_gguf(1, SHOAL_TYPE_F32, &buf) == SHOAL_OK);
    SHOAL_ASSERT(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, NULL) == SHOAL_OK);
    SHOAL_ASSERT(shoal_tokenizer_new(gguf, &vocab, NULL) == SHOAL_OK);
    shoal_gguf_close(gguf);
    shoal_buf_fini(&buf);
    shoal_reply_init();
}

typedef struct told {
    int32_t ids[TOLD_MAX];
    size_t n;
} told;

static shoal_status on_tokens(void *ctx, const shoal_sampled *tokens, size_t n)
{
    told *t = ctx;
    SHOAL_ASSERT(n > 0 && n <= SHOAL_UPSTREAM_EVENT_IDS);
    for (size_t i = 0; i < n; i++) {
        SHOAL_ASSERT(tokens[i].id >= 0 && (size_t)tokens[i].id < shoal_tokenizer_n_vocab(vocab));
        SHOAL_ASSERT(tokens[i].confidence >= 0.0f && tokens[i].confidence <= 1.0f);
        if (t->n < TOLD_MAX) {
            t->ids[t->n++] = tokens[i].id;
        }
    }
    return SHOAL_OK;
}

static shoal_status feed(const char *bytes, size_t n, size_t n_piece, shoal_upstream_ids ids,
                         told *t)
{
    upstream_site site = {.tokenizer = vocab, .end_id = SHOAL_TINY_EOS};
    upstream_stream stream;
    site.abilities.ids = ids;
    t->n = 0;
    SHOAL_ASSERT(shoal_upstream_stream_init(&stream, &site, N_MAX,
                                            (upstream_sink){.on_tokens = on_tokens, .ctx = t}) ==
                 SHOAL_OK);
    shoal_status status = SHOAL_OK;
    for (size_t i = 0; i < n && status == SHOAL_OK; i += n_piece) {
        status = shoal_upstream_stream_push(&stream, bytes + i, SHOAL_MIN(n_piece, n - i));
    }
    if (status == SHOAL_OK) {
        status = shoal_upstream_stream_finish(&stream);
    }
    SHOAL_ASSERT(status == SHOAL_OK || stream.error.text[0] != '\0');
    SHOAL_ASSERT(ids == SHOAL_UPSTREAM_IDS_NONE || t->n <= N_MAX + 1); /* and an end token */
    shoal_upstream_stream_fini(&stream);
    return status;
}

static void fuzz_streams(const char *bytes, size_t n)
{
    static told whole;
    static told cut;
    static const shoal_upstream_ids ways[] = {SHOAL_UPSTREAM_IDS_NONE, SHOAL_UPSTREAM_IDS_RETURN};
    for (size_t i = 0; i < SHOAL_COUNT(ways); i++) {
        shoal_status a = feed(bytes, n, SHOAL_MAX(n, (size_t)1), ways[i], &whole);
        shoal_status b = feed(bytes, n, 3, ways[i], &cut);
        SHOAL_ASSERT(a == b && whole.n == cut.n);
        SHOAL_ASSERT(memcmp(whole.ids, cut.ids, whole.n * sizeof(*whole.ids)) == 0);
    }
}

static void fuzz_scores(const char *bytes, size_t n)
{
    static const int32_t ids[] = {1, 262, 263, 264};
    static const shoal_reply_scores_kind kinds[] = {SHOAL_SCORES_PROMPT, SHOAL_SCORES_ECHO};
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        shoal_reply_score scores[SHOAL_COUNT(ids)];
        shoal_err err = SHOAL_ERR_INIT;
        if (shoal_reply_scores_read(bytes, n, kinds[i], vocab, ids, SHOAL_COUNT(ids), 3, scores,
                                    &err) != SHOAL_OK) {
            SHOAL_ASSERT(err.text[0] != '\0');
            continue;
        }
        shoal_verdict verdict;
        if (shoal_upstream_judge(vocab, ids + 1, 3, scores, &verdict, &err) == SHOAL_OK) {
            SHOAL_ASSERT(verdict.n_accepted <= 3);
            SHOAL_ASSERT(verdict.next.id >= 0 || verdict.n_accepted > 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *bytes = (const char *)data;
    set_up();
    fuzz_streams(bytes, size);
    fuzz_scores(bytes, size);
    shoal_reply_model model;
    if (shoal_reply_model_read(bytes, size, "", &model, NULL) == SHOAL_OK) {
        SHOAL_ASSERT(model.id[0] != '\0' && strlen(model.id) < sizeof(model.id));
    }
    char text[200];
    shoal_reply_error_text(bytes, size, text, sizeof(text));
    SHOAL_ASSERT(strlen(text) < 161);
    return 0;
}
