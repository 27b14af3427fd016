/* SPDX-License-Identifier: Apache-2.0
 *
 * `make-text`: what a model writes when nobody says anything, text behind text. It is the data that
 * a compressed model is calibrated and recovered with where there is none of its training (LLM-QAT,
 * 2305.17888). LANES texts grow side by side, so weights are read once for all of them; text i has
 * noise of its own and its bytes depend on the seed and i alone (R2).
 */
#include "cloud/forge/forge.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    LANES = 32,
    TELL_MS = 10000
};

/* A text that grows. */
typedef struct lane {
    shoal_kv_seq *seq;
    int32_t *ids; /* (n_ctx) */
    size_t n_ids;
    size_t n_done; /* of these the KV has */
    uint64_t text_i;
} lane;

/* One that is finished; it may hold any byte. */
typedef struct written {
    char *data;
    size_t length;
} written;

typedef struct making {
    const forge_args *args;
    forge_session s;
    shoal_sampler *sampler;
    lane lanes[LANES];
    size_t n_ctx;
    int32_t *start; /* every text begins so */
    size_t n_start;
    uint64_t n_texts; /* begun */
    size_t n_tokens;  /* of finished texts */
    written *texts;   /* (n_room), by their number; data NULL: not finished */
    size_t n_room;
} making;

static void making_close(making *m)
{
    for (size_t i = 0; i < LANES; i++) {
        shoal_kv_seq_free(m->lanes[i].seq);
        shoal_free(m->lanes[i].ids);
    }
    for (size_t i = 0; i < m->n_room; i++) {
        shoal_free(m->texts[i].data);
    }
    shoal_free(m->texts);
    shoal_free(m->start);
    shoal_sampler_free(m->sampler);
    shoal_forge_session_close(&m->s);
}

static shoal_status open_lanes(making *m, shoal_err *err)
{
    shoal_engine_settings settings;
    SHOAL_TRY(shoal_model_load(m->args->model, &m->s.model, err));
    SHOAL_TRY(
        shoal_forge_engine_settings(m->args, m->s.model, LANES, LANES, 0, LANES, &settings, err));
    SHOAL_TRY(shoal_engine_new(m->s.model, &settings, &m->s.engine, err));
    m->n_ctx = shoal_engine_n_ctx(m->s.engine);
    for (size_t i = 0; i < LANES; i++) {
        m->lanes[i].ids = shoal_calloc(m->n_ctx, sizeof *m->lanes[i].ids);
        if (!m->lanes[i].ids ||
            shoal_kv_seq_new(shoal_engine_kv(m->s.engine), &m->lanes[i].seq) != SHOAL_OK) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %d texts", LANES);
        }
    }
    if (shoal_sampler_new(m->s.model->hp.n_vocab, shoal_engine_kernels(m->s.engine), &m->sampler) !=
        SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sampler");
    }
    const char *prompt = m->args->prompt ? m->args->prompt : "";
    const shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    SHOAL_TRY(shoal_tokenizer_encode(m->s.model->tokenizer, prompt, strlen(prompt), flags,
                                     &m->start, &m->n_start, err));
    if (m->n_start == 0 || m->n_start >= m->n_ctx) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "texts begin with %zu tokens; give a --prompt of 1 to %zu", m->n_start,
                             m->n_ctx - 1);
    }
    return SHOAL_OK;
}

static void begin_text(making *m, lane *l)
{
    memcpy(l->ids, m->start, m->n_start * sizeof *l->ids);
    l->n_ids = m->n_start;
    l->n_done = 0;
    l->text_i = m->n_texts++;
    (void)shoal_kv_seq_truncate(l->seq, 0);
}

static shoal_status keep_text(making *m, const lane *l, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const shoal_tokenizer *tokenizer = m->s.model->tokenizer;
    shoal_detok detok = {0};
    shoal_status status = SHOAL_OK;
    for (size_t i = 0; i < l->n_ids && status == SHOAL_OK; i++) {
        if (l->ids[i] != shoal_tokenizer_bos(tokenizer) &&
            !shoal_tokenizer_is_end(tokenizer, l->ids[i])) {
            status = shoal_detok_push(tokenizer, &detok, l->ids[i], &text);
        }
    }
    status = status == SHOAL_OK ? shoal_detok_finish(&detok, &text) : status;
    size_t room = SHOAL_MAX(m->n_room, (size_t)l->text_i + 1 + LANES);
    written *grown = room > m->n_room ? shoal_realloc(m->texts, room, sizeof *grown) : m->texts;
    if (status != SHOAL_OK || !grown) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu texts", room);
    }
    memset(grown + m->n_room, 0, (room - m->n_room) * sizeof *grown);
    m->texts = grown;
    m->n_room = room;
    written *to = &m->texts[l->text_i];
    to->data = shoal_calloc(text.length + 1, 1);
    if (!to->data) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a text");
    }
    memcpy(to->data, text.data ? text.data : "", text.length);
    to->length = text.length;
    m->n_tokens += l->n_ids - m->n_start;
    return SHOAL_OK;
}

/* A token for every lane; those that are full or at their end begin again. */
static shoal_status step(making *m, shoal_err *err)
{
    shoal_span spans[LANES];
    for (size_t i = 0; i < LANES; i++) {
        lane *l = &m->lanes[i];
        spans[i] = (shoal_span){.seq = l->seq,
                                .ids = l->ids + l->n_done,
                                .n_ids = 1,
                                .n_logits = l->n_done + 1 == l->n_ids};
        l->n_done++;
    }
    SHOAL_TRY(shoal_engine_step(m->s.engine, spans, LANES));
    for (size_t i = 0; i < LANES; i++) {
        lane *l = &m->lanes[i];
        if (spans[i].n_logits == 0) {
            continue;
        }
        shoal_sampling sampling = shoal_sampling_default();
        shoal_sampled sampled;
        sampling.temperature = (float)m->args->make_text.temp;
        sampling.seed = ((uint64_t)m->args->seed << 32) + l->text_i;
        shoal_sample(m->sampler, &sampling, shoal_engine_logits(m->s.engine, spans[i].logits_i),
                     l->ids, l->n_ids, &sampled);
        bool ends = shoal_tokenizer_is_end(m->s.model->tokenizer, sampled.id);
        if (!ends) {
            l->ids[l->n_ids++] = sampled.id;
        }
        if (ends || l->n_ids == m->n_ctx) {
            SHOAL_TRY(keep_text(m, l, err));
            begin_text(m, l);
        }
    }
    return SHOAL_OK;
}

static shoal_status write_texts(const making *m, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    SHOAL_TRY(shoal_file_out_open(m->args->output, &out, err));
    for (size_t i = 0; i < m->n_room; i++) {
        if (m->texts[i].data) {
            SHOAL_TRY(shoal_file_out_write(out, m->texts[i].data, m->texts[i].length, err));
            SHOAL_TRY(shoal_file_out_write(out, "\n", 1, err));
        }
    }
    return shoal_file_out_commit(out, err);
}

static void tell(const making *m, uint64_t begin_ms, uint64_t now_ms)
{
    double seconds = (double)(now_ms - begin_ms) * 1e-3;
    double left =
        m->n_tokens ? seconds * ((double)m->args->make_text.tokens / (double)m->n_tokens - 1) : 0;
    (void)fprintf(stderr, "%zu of %ld tokens  %.0f tok/s  %.0fs left\n", m->n_tokens,
                  m->args->make_text.tokens, (double)m->n_tokens / (seconds + 1e-9),
                  left > 0 ? left : 0);
}

shoal_status shoal_forge_make_text(const forge_args *args, shoal_err *err)
{
    SHOAL_CLEANUP(making_close) making m = {.args = args};
    const shoal_clock clock = shoal_clock_real();
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_TRY(open_lanes(&m, err));
    for (size_t i = 0; i < LANES; i++) {
        begin_text(&m, &m.lanes[i]);
    }
    uint64_t begin_ms = shoal_clock_now_ms(&clock);
    uint64_t told_ms = begin_ms;
    while (m.n_tokens < (size_t)args->make_text.tokens) {
        SHOAL_TRY(step(&m, err));
        uint64_t now_ms = shoal_clock_now_ms(&clock);
        if (now_ms - told_ms >= TELL_MS) {
            tell(&m, begin_ms, now_ms);
            told_ms = now_ms;
        }
    }
    SHOAL_TRY(write_texts(&m, err));
    double seconds = (double)(shoal_clock_now_ms(&clock) - begin_ms) * 1e-3;
    (void)printf(args->json ? "{\"tokens\": %zu, \"seconds\": %.3f}\n" : "%zu tokens in %.1f s\n",
                 m.n_tokens, seconds);
    return SHOAL_OK;
}

static const forge_option options[] = {
    {0, "prompt", 'p', FORGE_OPTION_TEXT, offsetof(forge_args, prompt), 0, 0, "TEXT",
     "every text begins so (default: the begin token alone)"},
    {0, "tokens", 'n', FORGE_OPTION_INT, offsetof(forge_args, make_text.tokens), 1, 1 << 28, "N",
     "tokens of whole texts, at least (default 100000)"},
    {0, "temp", 0, FORGE_OPTION_REAL, offsetof(forge_args, make_text.temp), 0, 10, "T",
     "temperature (default 1)"},
};

const forge_own shoal_forge_make_text_own = {
    .run = shoal_forge_make_text,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.threads = 2, .make_text = {.tokens = 100000, .temp = 1}}};
