/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine can do is asked, not guessed from its name: small requests about a fixed text, and
 * what comes back must fit our tokenizer. Runs before the client's thread, and blocks.
 */
#include "cloud/upstream/upstream_internal.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    PROBE_TOKENS = 2,
    PROBE_PAUSE_MS = 250,
    PROBE_TEXT_IDS_MAX = 64
};

static const char probe_text[] = "Once upon a time there was a little";

typedef struct probe {
    upstream_site *site;
    shoal_buf answer;
    long http_status;
    int32_t *ids; /* of the text, BOS first where there is one */
    size_t n_ids;
} probe;

/* --- one request ------------------------------------------------------------------------------ */

static size_t keep_bytes(char *bytes, size_t size, size_t n, void *ctx)
{
    shoal_buf *answer = ctx;
    n *= size;
    return shoal_buf_append(answer, bytes, n) == SHOAL_OK ? n : 0;
}

static bool gives_up(const upstream_site *site)
{
    return site->settings.give_up != NULL && site->settings.give_up(site->settings.give_up_ctx);
}

/* Called once a second also while nothing comes. */
static int on_progress(void *ctx, curl_off_t down_all, curl_off_t down, curl_off_t up_all,
                       curl_off_t up)
{
    (void)down_all;
    (void)down;
    (void)up_all;
    (void)up;
    return gives_up(ctx) ? 1 : 0;
}

static shoal_status cancelled(const upstream_site *site, shoal_err *err)
{
    return shoal_err_set(err, SHOAL_E_CANCELLED, "upstream %.80s: given up before it was up",
                         site->url);
}

/* GET without a body. SHOAL_E_UNAVAILABLE: no answer at all. */
static shoal_status fetch(probe *p, const char *url, const shoal_buf *body, shoal_err *err)
{
    CURL *easy = shoal_upstream_handle(p->site, url);
    if (easy == NULL) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "out of memory for a request");
    }
    shoal_buf_reset(&p->answer);
    bool good =
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep_bytes) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, &p->answer) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_XFERINFODATA, p->site) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)p->site->settings.silence_ms) == CURLE_OK;
    if (good && body != NULL) {
        good = curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->length) ==
                   CURLE_OK &&
               curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body->data) == CURLE_OK;
    }
    CURLcode code = good ? curl_easy_perform(easy) : CURLE_OUT_OF_MEMORY;
    (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &p->http_status);
    curl_easy_cleanup(easy);
    if (code == CURLE_ABORTED_BY_CALLBACK) {
        return cancelled(p->site, err);
    }
    return code == CURLE_OK ? SHOAL_OK
                            : shoal_err_set(err, SHOAL_E_UNAVAILABLE, "upstream %.80s: %s",
                                            p->site->url, curl_easy_strerror(code));
}

static shoal_status refused(const probe *p, const char *what, shoal_err *err)
{
    char words[161];
    shoal_reply_error_text(p->answer.data, p->answer.length, words, sizeof(words));
    const char *remedy = "";
    if (p->http_status == 401 || p->http_status == 403) {
        remedy = "; check upstream.api_key_file";
    } else if (p->http_status == 404) {
        remedy = "; check upstream.url and upstream.model";
    }
    return shoal_err_set(err, SHOAL_E_UNAVAILABLE, "upstream %.80s: %s: HTTP %ld%s%.100s%s",
                         p->site->url, what, p->http_status, words[0] != '\0' ? ": " : "", words,
                         remedy);
}

/* --- model ------------------------------------------------------------------------------------ */

static bool not_up_yet(const probe *p, shoal_status status)
{
    return status == SHOAL_E_UNAVAILABLE ||
           (status == SHOAL_OK && (p->http_status >= 500 || p->http_status == 429));
}

/* The list of models is also the sign of life. */
static shoal_status ask_model(probe *p, shoal_err *err)
{
    upstream_site *site = p->site;
    shoal_clock clock = shoal_clock_real();
    uint64_t end_ms = shoal_clock_now_ms(&clock) + site->settings.start_ms;
    shoal_status status = fetch(p, site->models, NULL, err);
    while (not_up_yet(p, status) && shoal_clock_now_ms(&clock) < end_ms) {
        (void)nanosleep(&(struct timespec){.tv_nsec = PROBE_PAUSE_MS * 1000000L}, NULL);
        shoal_err_clear(err);
        status = gives_up(site) ? cancelled(site, err) : fetch(p, site->models, NULL, err);
    }
    if (status == SHOAL_E_CANCELLED) {
        return status;
    }
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "not up within upstream.start_ms (%llu)",
                         (unsigned long long)site->settings.start_ms);
        return status;
    }
    if (p->http_status == 404 && site->model[0] != '\0') {
        /* An engine without a list: the name is taken on trust. */
        (void)snprintf(site->abilities.model.id, sizeof(site->abilities.model.id), "%s",
                       site->model);
        return SHOAL_OK;
    }
    if (p->http_status != 200) {
        return refused(p, "the list of models", err);
    }
    status = shoal_reply_model_read(p->answer.data, p->answer.length, site->model,
                                    &site->abilities.model, err);
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "upstream %.80s", site->url);
        return status;
    }
    uint64_t n_vocab = site->abilities.model.n_vocab;
    if (n_vocab != 0 && n_vocab != shoal_tokenizer_n_vocab(site->tokenizer)) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "upstream %.80s has %llu tokens, the tokenizer here %zu; give the "
                             "engine's own vocabulary with upstream.tokenizer",
                             site->url, (unsigned long long)n_vocab,
                             shoal_tokenizer_n_vocab(site->tokenizer));
    }
    return SHOAL_OK;
}

/* --- abilities -------------------------------------------------------------------------------- */

static shoal_status post(probe *p, bool stream, shoal_reply_scores_kind scores, shoal_err *err)
{
    shoal_sampling greedy = shoal_sampling_default();
    greedy.temperature = 0.0f;
    upstream_body body = {.ids = p->ids,
                          .n_ids = p->n_ids,
                          .n_max = stream ? PROBE_TOKENS : 1,
                          .sampling = &greedy,
                          .stream = stream,
                          .scores = scores};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_upstream_body_put(p->site, &body, &text, err));
    return fetch(p, p->site->completions, &text, err);
}

static shoal_status ignore_tokens(void *ctx, const shoal_sampled *tokens, size_t n)
{
    (void)ctx;
    (void)tokens;
    (void)n;
    return SHOAL_OK;
}

/* The answer as a stream of the kind that site->abilities say; ret_n: ids that the engine told. */
static shoal_status read_stream(probe *p, size_t *ret_n, shoal_err *err)
{
    upstream_stream stream;
    shoal_status status = shoal_upstream_stream_init(&stream, p->site, PROBE_TOKENS,
                                                     (upstream_sink){.on_tokens = ignore_tokens});
    if (status == SHOAL_OK) {
        status = shoal_upstream_stream_push(&stream, p->answer.data, p->answer.length);
    }
    if (status == SHOAL_OK) {
        status = shoal_upstream_stream_finish(&stream);
    }
    if (status != SHOAL_OK) {
        (void)shoal_err_set(err, status, "upstream %.80s: %s", p->site->url, stream.error.text);
    }
    *ret_n = stream.n_ids;
    shoal_upstream_stream_fini(&stream);
    return status;
}

/* Ids as a prompt, else text; a plain completion must work in any case. */
static shoal_status ask_prompt(probe *p, shoal_err *err)
{
    shoal_upstream_abilities *a = &p->site->abilities;
    for (int i = 0; i < 2; i++) {
        a->token_prompts = i == 0;
        SHOAL_TRY(post(p, true, SHOAL_SCORES_NONE, err));
        if (p->http_status == 200) {
            return SHOAL_OK;
        }
        if (p->http_status != 400 && p->http_status != 422) {
            break;
        }
    }
    return refused(p, "a completion", err);
}

/* The first way of asking for ids that gives some. An engine may refuse any of them. */
static shoal_status ask_ids(probe *p, shoal_err *err)
{
    shoal_upstream_abilities *a = &p->site->abilities;
    for (int way = SHOAL_UPSTREAM_IDS_PLAIN; way <= SHOAL_UPSTREAM_IDS_LOGPROBS; way++) {
        a->ids = (shoal_upstream_ids)way;
        SHOAL_TRY(post(p, true, SHOAL_SCORES_NONE, err));
        size_t n = 0;
        if (p->http_status == 200 && read_stream(p, &n, NULL) == SHOAL_OK && n > 0) {
            return SHOAL_OK;
        }
    }
    /* Text alone, then: it must at least be a stream. */
    a->ids = SHOAL_UPSTREAM_IDS_NONE;
    size_t n = 0;
    SHOAL_TRY(post(p, true, SHOAL_SCORES_NONE, err));
    return p->http_status == 200 ? read_stream(p, &n, err) : refused(p, "a completion", err);
}

static shoal_status ask_scores(probe *p, shoal_err *err)
{
    static const shoal_reply_scores_kind kinds[] = {SHOAL_SCORES_PROMPT, SHOAL_SCORES_ECHO};
    const upstream_site *site = p->site;
    shoal_reply_score scores[PROBE_TEXT_IDS_MAX];
    for (size_t i = 0; i < SHOAL_COUNT(kinds); i++) {
        SHOAL_TRY(post(p, false, kinds[i], err));
        if (p->http_status == 200 &&
            shoal_reply_scores_read(p->answer.data, p->answer.length, kinds[i], site->tokenizer,
                                    p->ids, p->n_ids, p->n_ids - 1, scores, NULL) == SHOAL_OK) {
            p->site->abilities.scores = kinds[i];
            return SHOAL_OK;
        }
    }
    return SHOAL_OK;
}

shoal_status shoal_upstream_probe(upstream_site *site, shoal_err *err)
{
    probe p = {.site = site, .answer = {.limit = SHOAL_REPLY_BYTES_MAX}};
    shoal_status status = ask_model(&p, err);
    if (status == SHOAL_OK) {
        status =
            shoal_tokenizer_encode(site->tokenizer, probe_text, sizeof(probe_text) - 1,
                                   (shoal_encode_flags){.add_bos = true}, &p.ids, &p.n_ids, err);
    }
    if (status == SHOAL_OK && (p.n_ids < 2 || p.n_ids > PROBE_TEXT_IDS_MAX)) {
        status = shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                               "the tokenizer makes %zu tokens of \"%s\"; 2 to %d are expected",
                               p.n_ids, probe_text, (int)PROBE_TEXT_IDS_MAX);
    }
    if (status == SHOAL_OK) {
        status = ask_prompt(&p, err);
    }
    if (status == SHOAL_OK) {
        status = ask_ids(&p, err);
    }
    if (status == SHOAL_OK && site->settings.verify && site->abilities.token_prompts) {
        status = ask_scores(&p, err);
    }
    shoal_buf_fini(&p.answer);
    shoal_free(p.ids);
    return status;
}
