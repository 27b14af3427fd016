/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/forge.h"

#include "common/base/mem.h"

#include <stdio.h>
#include <string.h>

enum {
    CHUNK = 256
};

typedef struct generation {
    forge_session s;
    shoal_sampler *sampler;
    shoal_sampling sampling;
    int32_t *tokens; /* prompt, then generated */
    size_t n_prompt;
    size_t n_tokens;
    shoal_buf text;
} generation;

static void generation_close(generation *g)
{
    shoal_sampler_free(g->sampler);
    shoal_forge_session_close(&g->s);
    shoal_free(g->tokens);
    shoal_buf_fini(&g->text);
}

static shoal_status open_generation(const forge_args *args, generation *g, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_session_open(args, CHUNK, 1, 0, &g->s, err));
    const shoal_tokenizer *tokenizer = g->s.model->tokenizer;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    shoal_encode_flags flags = {.add_bos = true, .parse_special = true};
    SHOAL_TRY(shoal_tokenizer_encode(tokenizer, args->prompt, strlen(args->prompt), flags, &ids,
                                     &g->n_prompt, err));
    size_t n_ctx = shoal_engine_n_ctx(g->s.engine);
    if (g->n_prompt == 0 || g->n_prompt + (size_t)args->n > n_ctx) {
        return shoal_err_set(err, SHOAL_E_LIMIT,
                             "%zu prompt tokens and %ld to generate: the context takes 1 to %zu",
                             g->n_prompt, args->n, n_ctx);
    }
    g->tokens = shoal_calloc(g->n_prompt + (size_t)args->n, sizeof *g->tokens);
    if (!g->tokens || shoal_sampler_new(g->s.model->hp.n_vocab, shoal_engine_kernels(g->s.engine),
                                        &g->sampler) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the tokens");
    }
    memcpy(g->tokens, ids, g->n_prompt * sizeof *ids);
    g->n_tokens = g->n_prompt;
    g->sampling = shoal_sampling_default();
    g->sampling.temperature = (float)args->temp;
    g->sampling.top_p = (float)args->top_p;
    g->sampling.top_k = (uint32_t)args->top_k;
    g->sampling.seed = (uint64_t)args->seed;
    return shoal_sampling_check(&g->sampling, g->s.model->hp.n_vocab, err);
}

/* Runs what the KV does not have yet and samples the next token. */
static shoal_status next_token(generation *g, int32_t *ret_id)
{
    for (;;) {
        size_t done = shoal_kv_seq_length(g->s.seq);
        size_t n = SHOAL_MIN(g->n_tokens - done, (size_t)CHUNK);
        bool last = done + n == g->n_tokens;
        shoal_span span = {.seq = g->s.seq,
                           .ids = g->tokens + done,
                           .n_ids = n,
                           .n_logits = last,
                           .lora = g->s.lora};
        SHOAL_TRY(shoal_engine_step(g->s.engine, &span, 1));
        if (last) {
            shoal_sampled sampled;
            shoal_sample(g->sampler, &g->sampling, shoal_engine_logits(g->s.engine, span.logits_i),
                         g->tokens, g->n_tokens, &sampled);
            *ret_id = sampled.id;
            return SHOAL_OK;
        }
    }
}

static shoal_status print_json(const generation *g, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf out = {0};
    SHOAL_TRY(shoal_buf_appendf(&out, "{\"prompt_tokens\": %zu, \"ids\": [", g->n_prompt));
    for (size_t i = g->n_prompt; i < g->n_tokens; i++) {
        SHOAL_TRY(shoal_buf_appendf(&out, "%s%d", i > g->n_prompt ? ", " : "", (int)g->tokens[i]));
    }
    SHOAL_TRY(shoal_buf_appendf(&out, "], \"text\": "));
    SHOAL_TRY(shoal_forge_json_string(&out, g->text.data ? g->text.data : "", g->text.length));
    SHOAL_TRY(shoal_buf_appendf(&out, "}\n"));
    return shoal_forge_print(&out, err);
}

shoal_status shoal_forge_generate(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->prompt, "-p TEXT", err));
    SHOAL_CLEANUP(generation_close) generation g = {0};
    SHOAL_TRY(open_generation(args, &g, err));
    /* The answer goes on where the prompt ended, so its leading space is part of it. */
    shoal_detok detok = {.started = true};
    for (long i = 0; i < args->n; i++) {
        int32_t id = 0;
        SHOAL_TRY(next_token(&g, &id));
        g.tokens[g.n_tokens++] = id;
        if (shoal_tokenizer_is_end(g.s.model->tokenizer, id)) {
            break;
        }
        size_t before = g.text.length;
        SHOAL_TRY(shoal_detok_push(g.s.model->tokenizer, &detok, id, &g.text));
        if (!args->json && g.text.length > before) {
            (void)fwrite(g.text.data + before, 1, g.text.length - before, stdout);
            (void)fflush(stdout);
        }
    }
    SHOAL_TRY(shoal_detok_finish(&detok, &g.text));
    if (args->json) {
        return print_json(&g, err);
    }
    (void)printf("\n");
    return SHOAL_OK;
}
