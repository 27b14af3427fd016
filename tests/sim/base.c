/* SPDX-License-Identifier: Apache-2.0
 *
 * The model, the prompts, and the answers alone.
 */
#include "common/base/mem.h"
#include "common/engine/engine.h"
#include "tests/sim/sim.h"
#include "tests/support/tiny_model.h"

enum {
    N_ITEMS = 48,
    N_CTX = 256,
    ALONE_PAGES = 64
};

static shoal_status make_model(shoal_model **ret_model, shoal_err *err)
{
    const shoal_tiny_settings settings = {.seed = 42, .type = SHOAL_TYPE_F32, .n_layers = 1};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf buf = {0};
    SHOAL_TRY(shoal_tiny_model_build(&settings, &buf));
    shoal_gguf *gguf = NULL;
    SHOAL_TRY(shoal_gguf_open((const uint8_t *)buf.data, buf.length, &gguf, err));
    shoal_status status = shoal_model_new(gguf, ret_model, err);
    shoal_gguf_close(gguf);
    return status;
}

/* Plain decoding of one item in an engine where nothing else runs. */
static shoal_status answer(shoal_engine *engine, shoal_sampler *sampler, const load_truth *truth,
                           load_item *item)
{
    const shoal_tokenizer *tokenizer = shoal_engine_model(engine)->tokenizer;
    shoal_sampling sampling = load_truth_sampling(truth, item);
    shoal_kv_seq *seq = NULL;
    SHOAL_TRY(shoal_kv_seq_new(shoal_engine_kv(engine), &seq));
    shoal_status status = SHOAL_OK;
    size_t n = item->n_prompt;
    for (bool ended = false; !ended && n < item->n_prompt + item->n_out_max;) {
        size_t length = shoal_kv_seq_length(seq);
        shoal_span span = {
            .seq = seq, .ids = item->ids + length, .n_ids = n - length, .n_logits = 1};
        status = shoal_engine_step(engine, &span, 1);
        if (status != SHOAL_OK) {
            break;
        }
        shoal_sampled sampled;
        shoal_sample(sampler, &sampling, shoal_engine_logits(engine, span.logits_i), item->ids, n,
                     &sampled);
        item->ids[n++] = sampled.id;
        ended = shoal_tokenizer_is_end(tokenizer, sampled.id);
    }
    item->n_out = n - item->n_prompt;
    shoal_kv_seq_free(seq);
    return status;
}

static shoal_status answer_all(const shoal_model *model, load_truth *const *truths, shoal_err *err)
{
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32);
    shoal_engine_settings settings = shoal_engine_settings_default();
    settings.n_threads = 1;
    settings.n_ctx = N_CTX;
    settings.kv_bytes = ALONE_PAGES * shape.n_layers * shoal_kv_page_bytes(&shape);
    SHOAL_CLEANUP(shoal_engine_freep) shoal_engine *engine = NULL;
    SHOAL_TRY(shoal_engine_new(model, &settings, &engine, err));
    shoal_sampler *sampler = NULL;
    SHOAL_TRY(shoal_sampler_new(model->hp.n_vocab, shoal_engine_kernels(engine), &sampler));
    shoal_status status = SHOAL_OK;
    for (size_t t = 0; t < SIM_TRUTHS; t++) {
        for (size_t i = 0; i < N_ITEMS && status == SHOAL_OK; i++) {
            status = answer(engine, sampler, truths[t], &truths[t]->items[i]);
        }
    }
    shoal_sampler_free(sampler);
    return status;
}

shoal_status sim_base_init(sim_base *base, shoal_err *err)
{
    /* Prompts that share more than a page, and short ones that share nothing. */
    static const load_truth_settings kinds[SIM_TRUTHS] = {
        {.n_items = N_ITEMS, .prompt = {36, 110}, .n_shared = 35, .out = {1, 40}, .seed = 1},
        {.n_items = N_ITEMS, .prompt = {1, 40}, .out = {1, 40}, .temperature = 1, .seed = 2},
    };
    *base = (sim_base){0};
    SHOAL_TRY(make_model(&base->model, err));
    const shoal_describe describe = {
        .model = base->model->hash,
        .tokenizer = *shoal_tokenizer_hash(base->model->tokenizer),
        .chat_template = *shoal_tokenizer_template_hash(base->model->tokenizer),
        .n_vocab = (uint32_t)base->model->hp.n_vocab,
        .n_ctx = N_CTX,
        .protocol = SHOAL_WIRE_PROTOCOL,
    };
    for (size_t t = 0; t < SIM_TRUTHS; t++) {
        SHOAL_TRY(load_truth_new(&kinds[t], &describe, &base->truths[t], err));
    }
    return answer_all(base->model, base->truths, err);
}

void sim_base_fini(sim_base *base)
{
    for (size_t t = 0; t < SIM_TRUTHS; t++) {
        load_truth_free(base->truths[t]);
    }
    shoal_model_free(base->model);
}
