/* SPDX-License-Identifier: Apache-2.0
 *
 * What engines answer, in the forms of several of them, and in forms that none should have.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "vocab.h"

#include "cloud/upstream/upstream_internal.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

static shoal_tokenizer *vocab;

static int setup(void **state)
{
    (void)state;
    shoal_reply_init();
    vocab = vocab_family();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    shoal_tokenizer_free(vocab);
    return 0;
}

/* --- chunks ----------------------------------------------------------------------------------- */

static void chunk_case(const char *json, const char *text, size_t n_ids, int32_t last,
                       float confidence, shoal_reply_finish finish)
{
    static shoal_reply_chunk chunk;
    shoal_err err = SHOAL_ERR_INIT;
    if (shoal_reply_chunk_read(json, strlen(json), 1000, &chunk, &err) != SHOAL_OK) {
        fail_msg("%s: %s", json, err.text);
    }
    assert_int_equal(chunk.text.length, strlen(text));
    assert_memory_equal(chunk.text.length > 0 ? chunk.text.data : "", text, strlen(text));
    assert_int_equal(chunk.has_ids, n_ids > 0);
    assert_int_equal(chunk.n_ids, n_ids);
    if (n_ids > 0) {
        assert_int_equal(chunk.ids[n_ids - 1], last);
        assert_true(chunk.confidences[n_ids - 1] > confidence - 1e-4f &&
                    chunk.confidences[n_ids - 1] < confidence + 1e-4f);
    }
    assert_int_equal(chunk.finish, finish);
    shoal_reply_chunk_fini(&chunk);
}

static void test_chunks_of_every_engine_are_read(void **state)
{
    (void)state;
    chunk_case("{\"choices\":[{\"text\":\" hi\",\"logprobs\":null,\"finish_reason\":null}]}", " hi",
               0, 0, 0, SHOAL_REPLY_GOES_ON);
    chunk_case("{\"choices\":[{\"text\":\" hi\",\"token_ids\":[7,8],\"finish_reason\":\"stop\"}]}",
               " hi", 2, 8, 0, SHOAL_REPLY_STOP);
    chunk_case("{\"choices\":[{\"text\":\" hi\",\"logprobs\":{\"tokens\":[\"token_id:9\"],"
               "\"token_logprobs\":[-0.6931472]},\"finish_reason\":\"length\"}]}",
               " hi", 1, 9, 0.5f, SHOAL_REPLY_LENGTH);
    chunk_case("{\"choices\":[{\"text\":\"x\",\"logprobs\":{\"content\":[{\"id\":5,\"token\":\"x\","
               "\"logprob\":-1.3862944,\"top_logprobs\":[]}]}}]}",
               "x", 1, 5, 0.25f, SHOAL_REPLY_GOES_ON);
    chunk_case(
        "{\"choices\":[{\"text\":\"\",\"finish_reason\":null}],\"shoal\":{\"tokens\":[{\"id\":"
        "11,\"text\":\"\",\"confidence\":0.75}]}}",
        "", 1, 11, 0.75f, SHOAL_REPLY_GOES_ON);
    chunk_case("{\"choices\":[],\"usage\":{\"prompt_tokens\":3}}", "", 0, 0, 0,
               SHOAL_REPLY_GOES_ON);
    chunk_case(
        "{\"choices\":[{\"text\":null,\"logprobs\":{\"tokens\":[\"plain\"]}}],\"more\":[[]]}", "",
        0, 0, 0, SHOAL_REPLY_GOES_ON);
}

static void chunk_refused(const char *json, shoal_status status, const char *word)
{
    static shoal_reply_chunk chunk;
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status got = shoal_reply_chunk_read(json, strlen(json), 1000, &chunk, &err);
    if (got != status || strstr(err.text, word) == NULL) {
        fail_msg("%s: wanted %d naming '%s', got %d '%s'", json, status, word, got, err.text);
    }
    shoal_reply_chunk_fini(&chunk);
}

static void test_chunks_that_are_none_are_refused(void **state)
{
    (void)state;
    chunk_refused("", SHOAL_E_PROTOCOL, "no JSON");
    chunk_refused("{", SHOAL_E_PROTOCOL, "no JSON");
    chunk_refused("\xff\xfe", SHOAL_E_PROTOCOL, "no JSON");
    chunk_refused("[]", SHOAL_E_PROTOCOL, "no JSON object");
    chunk_refused("{}", SHOAL_E_PROTOCOL, "choices");
    chunk_refused("{\"choices\":{}}", SHOAL_E_PROTOCOL, "choices");
    chunk_refused("{\"choices\":[{\"text\":5}]}", SHOAL_E_PROTOCOL, "text is no string");
    chunk_refused("{\"choices\":[{\"finish_reason\":\"weird\"}]}", SHOAL_E_PROTOCOL, "neither");
    chunk_refused("{\"choices\":[{\"finish_reason\":7}]}", SHOAL_E_PROTOCOL, "neither");
    static const char *const ids[] = {"-1", "1000", "1.5", "\"7\"", "null", "99999999999999999999"};
    for (size_t i = 0; i < SHOAL_COUNT(ids); i++) {
        char json[128];
        (void)snprintf(json, sizeof(json), "{\"choices\":[{\"token_ids\":[%s]}]}", ids[i]);
        shoal_err err = SHOAL_ERR_INIT;
        static shoal_reply_chunk chunk;
        assert_int_equal(shoal_reply_chunk_read(json, strlen(json), 1000, &chunk, &err),
                         SHOAL_E_PROTOCOL);
        shoal_reply_chunk_fini(&chunk);
    }
    chunk_case("{\"choices\":[{\"text\":\"\",\"token_ids\":[999]}]}", "", 1, 999, 0,
               SHOAL_REPLY_GOES_ON);
    chunk_refused("{\"choices\":[{\"logprobs\":{\"tokens\":[\"token_id:1000\"]}}]}",
                  SHOAL_E_PROTOCOL, "no id below 1000");
    chunk_refused("{\"choices\":[{\"logprobs\":{\"tokens\":[\"token_id:7\",\"token_id:x\"]}}]}",
                  SHOAL_E_PROTOCOL, "token 1");
    chunk_refused("{\"error\":{\"message\":\"too long\\nprompt\"}}", SHOAL_E_UNAVAILABLE,
                  "too long?prompt");
    chunk_refused("{\"error\":\"plain words\"}", SHOAL_E_UNAVAILABLE, "plain words");
    chunk_refused("{\"object\":\"error\",\"message\":\"old form\"}", SHOAL_E_UNAVAILABLE,
                  "old form");
}

static void many_ids(size_t n, shoal_status status)
{
    static shoal_reply_chunk chunk;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf json = {0};
    assert_int_equal(shoal_buf_appendf(&json, "{\"choices\":[{\"token_ids\":[1"), SHOAL_OK);
    for (size_t i = 1; i < n; i++) {
        assert_int_equal(shoal_buf_appendf(&json, ",1"), SHOAL_OK);
    }
    assert_int_equal(shoal_buf_appendf(&json, "]}]}"), SHOAL_OK);
    assert_int_equal(shoal_reply_chunk_read(json.data, json.length, 1000, &chunk, NULL), status);
    shoal_reply_chunk_fini(&chunk);
}

static void test_chunk_takes_a_bounded_number_of_ids(void **state)
{
    (void)state;
    many_ids(SHOAL_REPLY_IDS_MAX - 1, SHOAL_OK);
    many_ids(SHOAL_REPLY_IDS_MAX, SHOAL_OK);
    many_ids(SHOAL_REPLY_IDS_MAX + 1, SHOAL_E_PROTOCOL);
}

/* --- streams ---------------------------------------------------------------------------------- */

typedef struct told {
    int32_t ids[256];
    size_t n;
} told;

static shoal_status on_tokens(void *ctx, const shoal_sampled *tokens, size_t n)
{
    told *t = ctx;
    assert_true(n > 0 && n <= SHOAL_UPSTREAM_EVENT_IDS && t->n + n <= SHOAL_COUNT(t->ids));
    for (size_t i = 0; i < n; i++) {
        t->ids[t->n++] = tokens[i].id;
    }
    return SHOAL_OK;
}

/* Feeds bytes in pieces of n_piece; the status of the first failure or of the end. */
static shoal_status feed(const char *bytes, size_t n_piece, shoal_upstream_ids ids, size_t n_max,
                         told *ret_told, shoal_err *err)
{
    upstream_site site = {.tokenizer = vocab, .end_id = shoal_retoken_end_id(vocab)};
    upstream_stream stream;
    site.abilities.ids = ids;
    *ret_told = (told){.n = 0};
    upstream_sink sink = {.on_tokens = on_tokens, .ctx = ret_told};
    assert_int_equal(shoal_upstream_stream_init(&stream, &site, n_max, sink), SHOAL_OK);
    shoal_status status = SHOAL_OK;
    size_t n = strlen(bytes);
    for (size_t i = 0; i < n && status == SHOAL_OK; i += n_piece) {
        status = shoal_upstream_stream_push(&stream, bytes + i, SHOAL_MIN(n_piece, n - i));
    }
    if (status == SHOAL_OK) {
        status = shoal_upstream_stream_finish(&stream);
    }
    if (err != NULL) {
        *err = stream.error;
    }
    shoal_upstream_stream_fini(&stream);
    return status;
}

#define CHUNK(fields) "data: {\"choices\":[{" fields "}]}\n\n"

static void test_stream_of_ids_in_any_pieces_tells_them_once(void **state)
{
    (void)state;
    static const char bytes[] = ": hello\n\n" CHUNK("\"text\":\"a\",\"token_ids\":[10]")
        CHUNK("\"text\":\"\",\"token_ids\":[11,12]") CHUNK(
            "\"text\":\"b\",\"token_ids\":[13],\"finish_reason\":\"length\"") "data: [DONE]\n\n"
                                                                              "data: after\n\n";
    for (size_t n_piece = 1; n_piece < sizeof(bytes); n_piece += 5) {
        told t;
        assert_int_equal(feed(bytes, n_piece, SHOAL_UPSTREAM_IDS_RETURN, 4, &t, NULL), SHOAL_OK);
        assert_int_equal(t.n, 4);
        assert_int_equal(t.ids[0], 10);
        assert_int_equal(t.ids[3], 13);
    }
}

static void test_stream_that_stops_ends_in_an_end_token(void **state)
{
    (void)state;
    int32_t end = shoal_retoken_end_id(vocab);
    told t;
    static const char bytes[] = CHUNK("\"text\":\"a\",\"token_ids\":[10]")
        CHUNK("\"text\":\"\",\"finish_reason\":\"stop\"");
    assert_int_equal(feed(bytes, 9, SHOAL_UPSTREAM_IDS_RETURN, 4, &t, NULL), SHOAL_OK);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.ids[1], end);
    /* An engine that tells the end token itself is not told twice. */
    char own[256];
    (void)snprintf(own, sizeof(own),
                   CHUNK("\"text\":\"a\",\"token_ids\":[10,%d,11],\"finish_reason\":\"stop\""),
                   (int)end);
    assert_int_equal(feed(own, 9, SHOAL_UPSTREAM_IDS_RETURN, 4, &t, NULL), SHOAL_OK);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.ids[1], end);
}

/* The probe asks whether an engine tells ids: the end of an answer alone is none. */
static void test_ids_of_the_engine_are_told_from_our_own(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n_told;
        size_t n_ids;
    } cases[] = {
        {CHUNK("\"text\":\"\",\"finish_reason\":\"stop\""), 1, 0},
        {CHUNK("\"text\":\"a\",\"token_ids\":[10],\"finish_reason\":\"stop\""), 2, 1},
        {CHUNK("\"text\":\"a\",\"token_ids\":[10,11],\"finish_reason\":\"length\""), 2, 2},
    };
    for (size_t i = 0; i < SHOAL_COUNT(cases); i++) {
        told t = {.n = 0};
        upstream_stream stream;
        upstream_site site = {.tokenizer = vocab, .end_id = shoal_retoken_end_id(vocab)};
        upstream_sink sink = {.on_tokens = on_tokens, .ctx = &t};
        site.abilities.ids = SHOAL_UPSTREAM_IDS_PLAIN;
        assert_int_equal(shoal_upstream_stream_init(&stream, &site, 4, sink), SHOAL_OK);
        assert_int_equal(
            shoal_upstream_stream_push(&stream, cases[i].bytes, strlen(cases[i].bytes)), SHOAL_OK);
        assert_int_equal(stream.n_told, cases[i].n_told);
        assert_int_equal(stream.n_ids, cases[i].n_ids);
        shoal_upstream_stream_fini(&stream);
    }
}

static void test_stream_of_text_becomes_ids_of_that_text(void **state)
{
    (void)state;
    static const char bytes[] = CHUNK("\"text\":\" The sta\"") CHUNK("\"text\":\"tion shows H\"")
        CHUNK("\"text\":\"40.\\n\\n\"") CHUNK("\"text\":\"Ask é\",\"finish_reason\":\"stop\"");
    for (size_t n_piece = 1; n_piece < sizeof(bytes); n_piece += 7) {
        told t;
        SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
        shoal_detok detok = {.started = true};
        assert_int_equal(feed(bytes, n_piece, SHOAL_UPSTREAM_IDS_NONE, 40, &t, NULL), SHOAL_OK);
        assert_int_equal(t.ids[t.n - 1], shoal_retoken_end_id(vocab));
        for (size_t i = 0; i < t.n; i++) {
            assert_int_equal(shoal_detok_push(vocab, &detok, t.ids[i], &out), SHOAL_OK);
        }
        assert_string_equal(out.data, " The station shows H40.\n\nAsk é");
    }
}

static void stream_refused(const char *bytes, shoal_upstream_ids ids, const char *word)
{
    for (size_t n_piece = 1; n_piece < 64; n_piece += 21) {
        told t;
        shoal_err err = SHOAL_ERR_INIT;
        shoal_status status = feed(bytes, n_piece, ids, 2, &t, &err);
        if (status >= 0 || strstr(err.text, word) == NULL) {
            fail_msg("wanted a failure naming '%s', got %d '%s'", word, status, err.text);
        }
    }
}

static void test_stream_that_breaks_its_word_is_refused(void **state)
{
    (void)state;
    stream_refused("", SHOAL_UPSTREAM_IDS_RETURN, "cut after 0");
    stream_refused("<html>no engine here</html>\n\n", SHOAL_UPSTREAM_IDS_NONE, "cut after 0");
    stream_refused(CHUNK("\"text\":\"a\",\"token_ids\":[10]"), SHOAL_UPSTREAM_IDS_RETURN,
                   "cut after 1");
    stream_refused(CHUNK("\"text\":\"a\",\"token_ids\":[10,11,12]"), SHOAL_UPSTREAM_IDS_RETURN,
                   "more tokens than max_tokens (2)");
    stream_refused(CHUNK("\"text\":\"a\""), SHOAL_UPSTREAM_IDS_RETURN, "without the token ids");
    stream_refused(CHUNK("\"text\":\"\",\"finish_reason\":\"stop\"") CHUNK("\"text\":\"more\""),
                   SHOAL_UPSTREAM_IDS_NONE, "after the end");
    stream_refused("data: nonsense\n\n", SHOAL_UPSTREAM_IDS_NONE, "no JSON");
    stream_refused("event: error\ndata: {\"error\":{\"message\":\"out of blocks\"}}\n\n",
                   SHOAL_UPSTREAM_IDS_NONE, "out of blocks");
    stream_refused("event: error\ndata: ?\n\n", SHOAL_UPSTREAM_IDS_NONE, "without words");
}

/* --- scores ----------------------------------------------------------------------------------- */

static const int32_t prompt[] = {20, 21, 22, 23, 24};

static shoal_status read_scores(const char *json, shoal_reply_scores_kind kind, size_t n_scores,
                                shoal_reply_score *scores, shoal_err *err)
{
    return shoal_reply_scores_read(json, strlen(json), kind, vocab, prompt, SHOAL_COUNT(prompt),
                                   n_scores, scores, err);
}

#define PROMPT_LIST                                                                                \
    "\"prompt_logprobs\":[null,{\"21\":{\"logprob\":-0.1,\"rank\":1}},"                            \
    "{\"22\":{\"logprob\":-2.0,\"rank\":3},\"30\":{\"logprob\":-0.6931472,\"rank\":1}},"           \
    "{\"23\":{\"logprob\":-0.5,\"rank\":1},\"40\":{\"logprob\":-0.5,\"rank\":1}},"                 \
    "{\"24\":{\"logprob\":-0.5},\"7\":{\"logprob\":-0.5}}]"

static void test_prompt_logprobs_name_the_likeliest(void **state)
{
    (void)state;
    shoal_reply_score scores[8];
    static const char json[] =
        "{\"choices\":[{\"text\":\"x\",\"token_ids\":[50],\"finish_reason\":\"length\"," PROMPT_LIST
        "}]}";
    assert_int_equal(read_scores(json, SHOAL_SCORES_PROMPT, 4, scores, NULL), SHOAL_OK);
    assert_true(scores[0].same && scores[0].id == 21);
    assert_true(!scores[1].same && scores[1].id == 30);
    assert_true(scores[1].confidence > 0.4999f && scores[1].confidence < 0.5001f);
    assert_true(scores[2].same);                       /* equal, and the lower id */
    assert_true(!scores[3].same && scores[3].id == 7); /* equal, and the higher id */
    assert_true(!scores[4].same && scores[4].id == 50);
    shoal_verdict verdict;
    assert_int_equal(shoal_upstream_judge(vocab, prompt + 1, 4, scores, &verdict, NULL), SHOAL_OK);
    assert_int_equal(verdict.n_accepted, 1);
    assert_int_equal(verdict.next.id, 30);
}

static void test_echo_names_the_likeliest(void **state)
{
    (void)state;
    shoal_reply_score scores[8];
    static const char json[] =
        "{\"choices\":[{\"text\":\"...\",\"finish_reason\":\"length\",\"logprobs\":{"
        "\"tokens\":[\"token_id:20\",\"token_id:21\",\"token_id:22\",\"token_id:23\","
        "\"token_id:24\",\"token_id:50\"],"
        "\"token_logprobs\":[null,-0.1,-2.0,-0.1,-0.1,-0.2],\"top_logprobs\":[null,"
        "{\"token_id:21\":-0.1},{\"token_id:30\":-0.5,\"token_id:22\":-2.0},{\"token_id:23\":-0.1},"
        "{\"token_id:24\":-0.1},{\"token_id:50\":-0.2}]}}]}";
    assert_int_equal(read_scores(json, SHOAL_SCORES_ECHO, 4, scores, NULL), SHOAL_OK);
    assert_true(scores[0].same && scores[2].same && scores[3].same);
    assert_true(!scores[1].same && scores[1].id == 30);
    assert_int_equal(scores[4].id, 50);
    shoal_verdict verdict;
    assert_int_equal(shoal_upstream_judge(vocab, prompt + 3, 2, scores + 2, &verdict, NULL),
                     SHOAL_OK);
    assert_int_equal(verdict.n_accepted, 2);
    assert_int_equal(verdict.next.id, 50);
}

static void scores_refused(const char *json, shoal_reply_scores_kind kind, const char *word)
{
    shoal_reply_score scores[8];
    shoal_err err = SHOAL_ERR_INIT;
    shoal_status status = read_scores(json, kind, 2, scores, &err);
    if (status >= 0 || strstr(err.text, word) == NULL) {
        fail_msg("wanted a refusal naming '%s', got %d '%s'", word, status, err.text);
    }
}

#define SCORED(fields) "{\"choices\":[{\"text\":\"\",\"token_ids\":[5]," fields "}]}"

static void test_scores_that_do_not_fit_the_prompt_are_refused(void **state)
{
    (void)state;
    scores_refused(SCORED("\"x\":1"), SHOAL_SCORES_PROMPT, "0 entries for a prompt of 5");
    scores_refused(SCORED("\"prompt_logprobs\":[null,{},{},{}]"), SHOAL_SCORES_PROMPT, "4 entries");
    scores_refused(SCORED("\"prompt_logprobs\":[null,{},{},{},{}]"), SHOAL_SCORES_PROMPT,
                   "prompt_logprobs[3] does not have");
    scores_refused(SCORED("\"prompt_logprobs\":[null,{},{},{\"9\":{\"logprob\":-1}},{}]"),
                   SHOAL_SCORES_PROMPT, "another tokenizer");
    scores_refused(SCORED("\"prompt_logprobs\":[null,{},{},{\"23\":{\"logprob\":\"x\"}},{}]"),
                   SHOAL_SCORES_PROMPT, "no token id");
    scores_refused(SCORED("\"prompt_logprobs\":[null,{},{},5,{}]"), SHOAL_SCORES_PROMPT, "[3]");
    scores_refused(SCORED("\"logprobs\":null"), SHOAL_SCORES_ECHO, "0 tokens");
    scores_refused(SCORED("\"logprobs\":{\"tokens\":[1,2,3,4,5,6],\"token_logprobs\":[1,2,3,4,5,6],"
                          "\"top_logprobs\":[1,2,3,4,5]}"),
                   SHOAL_SCORES_ECHO, "5 top_logprobs");
    scores_refused(SCORED("\"logprobs\":{\"tokens\":[1,2,3,4,5,6],\"token_logprobs\":[1,2,3,4,5,6],"
                          "\"top_logprobs\":[1,2,3,4,5,6]}"),
                   SHOAL_SCORES_ECHO, "logprobs.tokens[3]");
    scores_refused("{\"error\":{\"message\":\"no\"}}", SHOAL_SCORES_ECHO, "the engine says: no");
}

static void test_judge_stops_at_an_end_token_and_wants_an_id(void **state)
{
    (void)state;
    int32_t end = shoal_retoken_end_id(vocab);
    const int32_t drafts[] = {20, end, 21};
    const shoal_reply_score scores[] = {
        {.same = true, .id = 20}, {.same = true, .id = end}, {.same = true, .id = 21}, {.id = -1}};
    shoal_verdict verdict;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_upstream_judge(vocab, drafts, 3, scores, &verdict, &err), SHOAL_OK);
    assert_int_equal(verdict.n_accepted, 2);
    assert_int_equal(verdict.next.id, -1);
    assert_int_equal(shoal_upstream_judge(vocab, drafts + 2, 1, scores + 2, &verdict, &err),
                     SHOAL_E_PROTOCOL);
    assert_non_null(strstr(err.text, "upstream.verify"));
}

/* --- models ----------------------------------------------------------------------------------- */

static void test_models_are_found_by_name(void **state)
{
    (void)state;
    static const char json[] =
        "{\"data\":[{\"id\":\"a\",\"owned_by\":\"vllm\",\"max_model_len\":4096},"
        "{\"id\":\"b\",\"owned_by\":\"llamacpp\",\"meta\":{\"n_vocab\":300,\"n_ctx_train\":9}}]}";
    shoal_reply_model m;
    shoal_err err = SHOAL_ERR_INIT;
    assert_int_equal(shoal_reply_model_read(json, strlen(json), "", &m, &err), SHOAL_OK);
    assert_string_equal(m.id, "a");
    assert_string_equal(m.owner, "vllm");
    assert_int_equal(m.n_ctx, 4096);
    assert_int_equal(shoal_reply_model_read(json, strlen(json), "b", &m, &err), SHOAL_OK);
    assert_int_equal(m.n_vocab, 300);
    assert_int_equal(m.n_ctx, 0);
    assert_int_equal(shoal_reply_model_read(json, strlen(json), "c", &m, &err), SHOAL_E_NOTFOUND);
    assert_non_null(strstr(err.text, "no model \"c\"; its first is \"a\""));
    static const char *const bad[] = {"",
                                      "[]",
                                      "{\"data\":5}",
                                      "{\"data\":[]}",
                                      "{\"data\":[{}]}",
                                      "{\"data\":[{\"id\":\"\"}]}",
                                      "{\"data\":[{\"id\":\"a\\nb\"}]}"};
    for (size_t i = 0; i < SHOAL_COUNT(bad); i++) {
        assert_int_equal(shoal_reply_model_read(bad[i], strlen(bad[i]), "", &m, &err),
                         SHOAL_E_PROTOCOL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_of_every_engine_are_read),
        cmocka_unit_test(test_chunks_that_are_none_are_refused),
        cmocka_unit_test(test_chunk_takes_a_bounded_number_of_ids),
        cmocka_unit_test(test_stream_of_ids_in_any_pieces_tells_them_once),
        cmocka_unit_test(test_stream_that_stops_ends_in_an_end_token),
        cmocka_unit_test(test_ids_of_the_engine_are_told_from_our_own),
        cmocka_unit_test(test_stream_of_text_becomes_ids_of_that_text),
        cmocka_unit_test(test_stream_that_breaks_its_word_is_refused),
        cmocka_unit_test(test_prompt_logprobs_name_the_likeliest),
        cmocka_unit_test(test_echo_names_the_likeliest),
        cmocka_unit_test(test_scores_that_do_not_fit_the_prompt_are_refused),
        cmocka_unit_test(test_judge_stops_at_an_end_token_and_wants_an_id),
        cmocka_unit_test(test_models_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
