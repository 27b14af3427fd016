/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: one model, one KV pool, one compute pool, one step function over spans of several
 * sequences. A step's logits for a row are the same bits whatever else is in the batch (R2). Owned
 * by one engine thread; a step allocates nothing.
 */
#ifndef SHOAL_ENGINE_ENGINE_H
#define SHOAL_ENGINE_ENGINE_H

#include "common/engine/depth.h"
#include "common/kv/kv.h"
#include "common/model/lora.h"
#include "common/model/model.h"

enum {
    SHOAL_ENGINE_LORAS_MAX = 256
};

typedef struct shoal_engine_settings {
    size_t n_threads;      /* 1..SHOAL_POOL_THREADS_MAX; default 2 */
    bool pin_threads;      /* each on a CPU of its own (shoal_pool_pin); default false */
    uint32_t cpu_mask;     /* shoal_cpu_tier bits allowed; default all */
    size_t n_ctx;          /* tokens per sequence at most; 0: the model's */
    size_t kv_bytes;       /* size of the KV pool; default 256 MiB */
    int kv_type;           /* shoal_kv_type; -1: f32 when the model is F32, else f16 */
    const char *kv_levels; /* sealed types by layer (shoal_kv_types_parse), instead of kv_type;
                            * borrowed for the making; default NULL: none */
    const shoal_kv_evict_policy *kv_evict; /* default NULL: nothing is evicted */
    size_t kv_budget;     /* tokens of a sequence that are held, where there is a policy */
    bool kv_hadamard;     /* shoal_kv_shape.hadamard; default false */
    size_t n_rows_max;    /* tokens of one step, default 512 */
    size_t n_logits_max;  /* logits rows of one step, default 64 */
    size_t n_loras_max;   /* different adapters in one step, 0..SHOAL_ENGINE_LORAS_MAX; default 0 */
    size_t lora_rank_max; /* of an adapter, 1..SHOAL_LORA_RANK_MAX; default 64 */
} shoal_engine_settings;
shoal_engine_settings shoal_engine_settings_default(void);

typedef struct shoal_engine shoal_engine;

/* model is borrowed for the engine's life. */
shoal_status shoal_engine_new(const shoal_model *model, const shoal_engine_settings *settings,
                              shoal_engine **ret_engine, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_engine_free(shoal_engine *engine);
SHOAL_DEFINE_CLEANUP(shoal_engine, shoal_engine_free)

const shoal_model *shoal_engine_model(const shoal_engine *engine);
const shoal_kernels *shoal_engine_kernels(const shoal_engine *engine);
shoal_kv_pool *shoal_engine_kv(shoal_engine *engine);
size_t shoal_engine_n_ctx(const shoal_engine *engine);
size_t shoal_engine_n_rows_max(const shoal_engine *engine);
size_t shoal_engine_n_logits_max(const shoal_engine *engine);
/* shoal_kv_type_name, "h-" before it where heads are multiplied by Hadamard matrices, and "-h2o96"
 * behind it where KV is evicted to 96 tokens: engines that hold different KV have different forms.
 * Where layers differ, "mixed-" and a number of that; "form-" and one where it is longer than 15
 * characters. */
const char *shoal_engine_kv_form(const shoal_engine *engine);

/* Sequences are shoal_kv_seq of the engine's pool: make them with shoal_kv_seq_new. */

/* Tokens to append to one sequence, starting at its current length. */
typedef struct shoal_span {
    shoal_kv_seq *seq;
    const int32_t *ids;     /* each in [0, n_vocab): the caller has checked */
    size_t n_ids;           /* at least 1; 0 with a depth: what waits is computed, nothing else */
    size_t n_logits;        /* logits wanted for the last n_logits ids, 0..n_ids */
    size_t logits_i;        /* out: index of the first of them for shoal_engine_logits */
    const shoal_lora *lora; /* adapter of the engine's model, the same for a sequence's whole life
                             * (its KV is made with it); NULL: none */

    /* Deferred depth. The sequence's own, in every step while something of it waits; NULL: all rows
     * go through all layers now. */
    shoal_depth *depth;
    /* (n_exits) when the span may leave; NULL: never. Its last row decides, the others leave with
     * it. Spans with n_logits other than 1, or with no place to wait, go through all layers. */
    const shoal_exit_rule *rules;
    bool check;        /* full-depth logits of waiting rows too, where they are computed */
    size_t n_layers;   /* out: layers the rows came through; the logits are of that depth */
    size_t n_checks;   /* out: rows that waited whose full-depth logits there are */
    size_t checks_i;   /* out: index of the first of them */
    size_t check_from; /* out: its position: they speak of the token at the next, and so on */
} shoal_span;

/* Runs all spans (each of another sequence) and advances their lengths. SHOAL_BUSY: the pool lacks
 * pages, nothing changed; SHOAL_E_LIMIT: over n_rows_max or n_logits_max (waiting rows and their
 * checks count as they might be computed), n_ctx, n_loras_max or lora_rank_max, nothing changed. */
shoal_status shoal_engine_step(shoal_engine *engine, shoal_span *spans,
                               size_t n_spans) SHOAL_MUST_CHECK;

/* Row i of the last step, [n_vocab], valid until the next step. */
const float *shoal_engine_logits(const shoal_engine *engine, size_t i);

/* Bytes of weights all steps so far have read; of these, of the output matrix. */
uint64_t shoal_engine_bytes_read(const shoal_engine *engine);
uint64_t shoal_engine_bytes_heads(const shoal_engine *engine);

#endif
