/* SPDX-License-Identifier: Apache-2.0 */
#include "cloud/forge/train_plan.h"

#include "common/base/mem.h"
#include "common/weight/pack.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WARMUP_SHARE = 50 /* a run's part that warms up, where nothing else is said */
};

/* --- a new model's shape --------------------------------------------------------------------- */

typedef struct shape {
    long dim;
    long layers;
    long heads;
    long kv;
    long ffn;
    long head;
    long ctx;
    long base;
    long tied;
} shape;

typedef struct shape_key {
    const char *name;
    size_t offset;
    long min;
    long max;
} shape_key;

static const shape_key shape_keys[] = {
    {"dim", offsetof(shape, dim), 2, SHOAL_MODEL_DIM_MAX},
    {"layers", offsetof(shape, layers), 1, SHOAL_MODEL_LAYERS_MAX},
    {"heads", offsetof(shape, heads), 1, SHOAL_MODEL_HEADS_MAX},
    {"kv", offsetof(shape, kv), 1, SHOAL_MODEL_HEADS_MAX},
    {"ffn", offsetof(shape, ffn), 1, SHOAL_MODEL_FFN_MAX},
    {"head", offsetof(shape, head), 2, 1024},
    {"ctx", offsetof(shape, ctx), 2, SHOAL_MODEL_CTX_MAX},
    {"base", offsetof(shape, base), 1, 100000000},
    {"tied", offsetof(shape, tied), 0, 1},
};

static shoal_status set_key(const char *text, size_t n_name, shape *s, const char **ret_end,
                            shoal_err *err)
{
    const char *value = text + n_name + 1;
    for (size_t i = 0; i < SHOAL_COUNT(shape_keys); i++) {
        const shape_key *k = &shape_keys[i];
        if (strlen(k->name) != n_name || memcmp(k->name, text, n_name) != 0) {
            continue;
        }
        char *end = NULL;
        errno = 0;
        long number = strtol(value, &end, 10);
        if (end == value || errno != 0 || (*end && *end != ',') || number < k->min ||
            number > k->max) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--shape: %s is a number from %ld to %ld, not \"%.20s\"", k->name,
                                 k->min, k->max, value);
        }
        memcpy((char *)s + k->offset, &number, sizeof number);
        *ret_end = end;
        return SHOAL_OK;
    }
    return shoal_err_set(err, SHOAL_E_INVALID,
                         "--shape: \"%.*s\" is none of dim, layers, heads, kv, ffn, head, ctx, "
                         "base, tied, exits",
                         (int)SHOAL_MIN(n_name, (size_t)40), text);
}

static shoal_status check_shape(const shape *s, shoal_err *err)
{
    if (s->dim == 0 || s->layers == 0 || s->heads == 0 || s->ffn == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--shape: dim, layers, heads and ffn must be given");
    }
    if (s->heads % s->kv != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--shape: %ld heads cannot share %ld heads of keys: kv divides heads",
                             s->heads, s->kv);
    }
    if ((s->head == 0 && s->dim % s->heads != 0) || s->head % 2 != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--shape: dim %ld over %ld heads, and head=%ld: a head has an even, "
                             "whole number of channels",
                             s->dim, s->heads, s->head);
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_parse_shape(const char *text, size_t n_vocab, shoal_hparams *ret_hp,
                                     const char **ret_exits, shoal_err *err)
{
    shape s = {.ctx = 1024, .base = 10000, .tied = 1};
    const char *exits = NULL;
    for (const char *at = text; *at;) {
        size_t n_name = strcspn(at, "=,");
        if (at[n_name] != '=') {
            return shoal_err_set(err, SHOAL_E_INVALID, "--shape: \"%.40s\" lacks a =", at);
        }
        if (n_name == strlen("exits") && memcmp(at, "exits", n_name) == 0) {
            exits = at + n_name + 1;
            at = exits + strcspn(exits, ",");
        } else {
            SHOAL_TRY(set_key(at, n_name, &s, &at, err));
        }
        at += *at == ',' ? 1 : 0;
    }
    s.kv = s.kv ? s.kv : s.heads;
    SHOAL_TRY(check_shape(&s, err));
    s.head = s.head ? s.head : s.dim / s.heads;
    if (s.head % 2 != 0 || s.head > SHOAL_HEAD_DIM_MAX) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--shape: a head of %ld channels; it has an even number, at most %d",
                             s.head, (int)SHOAL_HEAD_DIM_MAX);
    }
    shoal_hparams hp = {.arch = "llama",
                        .name = "shoal",
                        .row = shoal_arch_find("llama", strlen("llama")),
                        .n_vocab = n_vocab,
                        .n_ctx = (size_t)s.ctx,
                        .dim = (size_t)s.dim,
                        .n_layers = (size_t)s.layers,
                        .n_heads = (size_t)s.heads,
                        .n_kv_heads = (size_t)s.kv,
                        .head_dim = (size_t)s.head,
                        .value_dim = (size_t)s.head,
                        .rope_dim = (size_t)s.head,
                        .ffn = (size_t)s.ffn,
                        .rope_base = (float)s.base,
                        .norm_eps = 1e-5F,
                        .attn_scale = 1.0F / sqrtf((float)s.head),
                        .embed_scale = 1.0F,
                        .tied = s.tied != 0,
                        .moe = {.n_groups = 1, .n_groups_used = 1}};
    *ret_hp = hp;
    *ret_exits = exits;
    return SHOAL_OK;
}

/* --- lists ----------------------------------------------------------------------------------- */

/* "0.3+0.5" up to the end or a comma. */
static shoal_status parse_list(const char *text, const char *option, double *ret_values,
                               size_t *ret_n, shoal_err *err)
{
    size_t n = 0;
    for (const char *at = text; *at && *at != ','; n++) {
        char *end = NULL;
        double value = strtod(at, &end);
        if (end == at || (*end && *end != '+' && *end != ',') || !isfinite(value) ||
            n == SHOAL_TRAIN_EXITS_MAX) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "%s: \"%.20s\" is no list of up to %d numbers joined by +", option,
                                 at, SHOAL_TRAIN_EXITS_MAX);
        }
        ret_values[n] = value;
        at = *end == '+' ? end + 1 : end;
    }
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status parse_exits(const char *text, size_t n_layers, size_t *ret_exits, size_t *ret_n,
                                shoal_err *err)
{
    double values[SHOAL_TRAIN_EXITS_MAX];
    SHOAL_TRY(parse_list(text, "--exits", values, ret_n, err));
    for (size_t i = 0; i < *ret_n; i++) {
        if (!(values[i] >= 1) || !(values[i] < (double)n_layers) || values[i] != floor(values[i]) ||
            (i > 0 && values[i] <= values[i - 1])) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--exits: %g: exits are ascending numbers of layers from 1 to %zu",
                                 values[i], n_layers - 1);
        }
        ret_exits[i] = (size_t)values[i];
    }
    return SHOAL_OK;
}

/* --- models ---------------------------------------------------------------------------------- */

static shoal_status open_tokenizer(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const char *path = args->model ? args->model : args->train.tokenizer;
    if (!path || (args->model && args->shape) || (!args->model && !args->shape)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "give either --model FILE to go on from, or --shape LIST and "
                             "--tokenizer FILE to begin");
    }
    SHOAL_TRY(shoal_map_open(path, &plan->map, err));
    SHOAL_TRY(shoal_gguf_open(plan->map.data, plan->map.size, &plan->gguf, err));
    return shoal_tokenizer_new(plan->gguf, &plan->tokenizer, err);
}

/* A model's parameters, the first n_layers of it where that is not 0. */
static shoal_status params_of(const char *path, long n_layers, const char *exits,
                              shoal_params **ret_params, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *params = NULL;
    size_t at[SHOAL_TRAIN_EXITS_MAX];
    size_t n_exits = 0;
    SHOAL_TRY(shoal_model_load(path, &model, err));
    shoal_hparams hp = model->hp;
    if ((size_t)n_layers > hp.n_layers) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--layers %ld: %s has %zu", n_layers, path,
                             hp.n_layers);
    }
    hp.n_layers = n_layers > 0 ? (size_t)n_layers : hp.n_layers;
    if (exits) {
        SHOAL_TRY(parse_exits(exits, hp.n_layers, at, &n_exits, err));
    } else {
        for (; n_exits < hp.n_exits && hp.exits[n_exits] < hp.n_layers; n_exits++) {
            at[n_exits] = hp.exits[n_exits];
        }
    }
    SHOAL_TRY(shoal_params_new(&hp, at, n_exits, &params, err));
    SHOAL_TRY(shoal_params_from_model(params, model, err));
    *ret_params = SHOAL_STEAL(params);
    return SHOAL_OK;
}

static shoal_status make_params(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const char *exits = NULL;
    size_t at[SHOAL_TRAIN_EXITS_MAX];
    size_t n_exits = 0;
    if (args->train.small) {
        return params_of(args->train.small, 0, NULL, &plan->params, err);
    }
    if (args->model) {
        return params_of(args->model, args->layers, args->train.exits, &plan->params, err);
    }
    shoal_hparams hp;
    SHOAL_TRY(shoal_forge_parse_shape(args->shape, shoal_tokenizer_n_vocab(plan->tokenizer), &hp,
                                      &exits, err));
    exits = args->train.exits ? args->train.exits : exits;
    if (exits) {
        SHOAL_TRY(parse_exits(exits, hp.n_layers, at, &n_exits, err));
    }
    SHOAL_TRY(shoal_params_new(&hp, at, n_exits, &plan->params, err));
    shoal_params_start(plan->params, (uint64_t)args->train.start_seed);
    return SHOAL_OK;
}

static shoal_status open_teacher(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_tokenizer_freep) shoal_tokenizer *theirs = NULL;
    SHOAL_CLEANUP(shoal_map_close) shoal_map map = {0};
    SHOAL_CLEANUP(shoal_gguf_closep) shoal_gguf *gguf = NULL;
    const char *path = args->train.teacher;
    SHOAL_TRY(shoal_map_open(path, &map, err));
    SHOAL_TRY(shoal_gguf_open(map.data, map.size, &gguf, err));
    SHOAL_TRY(shoal_tokenizer_new(gguf, &theirs, err));
    if (memcmp(shoal_tokenizer_hash(theirs), shoal_tokenizer_hash(plan->tokenizer),
               sizeof(shoal_hash)) != 0) {
        return shoal_err_set(err, SHOAL_E_MISMATCH,
                             "%s has another tokenizer than the student: a teacher must share it",
                             path);
    }
    return params_of(path, 0, NULL, &plan->teacher, err);
}

/* --- the run --------------------------------------------------------------------------------- */

static shoal_status plan_optim(const forge_args *args, shoal_optim_settings *o, shoal_err *err)
{
    const forge_train_args *t = &args->train;
    bool muon = strcmp(t->optimiser, "muon") == 0;
    if (!muon && strcmp(t->optimiser, "adamw") != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--optimiser %s: known are muon and adamw",
                             t->optimiser);
    }
    *o = shoal_optim_settings_default();
    o->muon = muon;
    o->muon_rate = (float)t->muon_rate;
    o->adam_rate = (float)t->adam_rate;
    o->weight_decay = (float)t->weight_decay;
    o->beta2 = (float)t->beta2;
    o->momentum = (float)t->momentum;
    o->clip = (float)t->clip;
    o->final_share = (float)t->final_share;
    o->n_steps = t->steps > 0 ? (uint64_t)t->steps : 0;
    o->n_warmup = t->warmup >= 0 ? (uint64_t)t->warmup : o->n_steps / WARMUP_SHARE;
    return SHOAL_OK;
}

static shoal_status plan_exits(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    double values[SHOAL_TRAIN_EXITS_MAX];
    size_t n = 0;
    if (args->train.exit_weights) {
        SHOAL_TRY(parse_list(args->train.exit_weights, "--exit-weights", values, &n, err));
        if (n != plan->params->n_exits) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--exit-weights has %zu numbers for %zu exits", n,
                                 plan->params->n_exits);
        }
    }
    for (size_t i = 0; i < plan->params->n_exits; i++) {
        plan->settings.exit_weight[i] = n ? (float)values[i] : 0.3F;
    }
    return SHOAL_OK;
}

/* "single+norm" and the like. */
static shoal_status plan_answers(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const char *list = args->train.own_answers;
    shoal_minillm m = {.mix = (float)args->train.mix};
    if (!list) {
        return SHOAL_OK;
    }
    if (!args->train.teacher) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--own-answers needs a --teacher FILE");
    }
    for (const char *at = strcmp(list, "none") == 0 ? "" : list; *at;) {
        size_t n = strcspn(at, "+");
        bool single = n == strlen("single") && memcmp(at, "single", n) == 0;
        bool mixed = n == strlen("mixed") && memcmp(at, "mixed", n) == 0;
        bool norm = n == strlen("norm") && memcmp(at, "norm", n) == 0;
        if (!single && !mixed && !norm) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "--own-answers: \"%.20s\" is none of single, mixed, norm", at);
        }
        m.single_step = m.single_step || single;
        m.teacher_mixed = m.teacher_mixed || mixed;
        m.length_norm = m.length_norm || norm;
        at += n + (at[n] == '+' ? 1 : 0);
    }
    plan->settings.on_policy = true;
    plan->settings.minillm = m;
    plan->settings.end_id = shoal_tokenizer_eos(plan->tokenizer);
    return SHOAL_OK;
}

static shoal_status plan_settings(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const forge_train_args *t = &args->train;
    shoal_trainer_settings *s = &plan->settings;
    *s = shoal_trainer_settings_default();
    if ((t->steps > 0) == (t->minutes > 0)) {
        return shoal_err_set(err, SHOAL_E_INVALID, "give either --steps N or --minutes M");
    }
    s->n_threads = (size_t)args->threads;
    s->n_parts = t->parts > 0 ? (size_t)t->parts : (size_t)args->threads;
    s->n_tokens_max = (size_t)t->part_tokens;
    s->n_targets_max = (size_t)t->part_tokens;
    s->seed = (uint64_t)t->start_seed;
    s->layer_dropout = (float)t->layer_dropout;
    s->distil = (shoal_distil){.alpha = t->teacher ? (float)t->alpha : 1.0F,
                               .temperature = (float)t->teacher_temp,
                               .reverse = t->reverse};
    SHOAL_TRY(plan_optim(args, &s->optim, err));
    SHOAL_TRY(plan_answers(args, plan, err));
    return plan_exits(args, plan, err);
}

static shoal_status plan_feed(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const forge_train_args *t = &args->train;
    double study_exponent = t->study_exponent >= 0 ? t->study_exponent : args->exponent;
    if (!shoal_forge_exponent_valid(args->exponent) ||
        !shoal_forge_exponent_valid(study_exponent)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--exponent %g, --study-exponent %g: exponents are quarters from 0 "
                             "to 2",
                             args->exponent, study_exponent);
    }
    if (args->entries > 0) {
        SHOAL_TRY(
            shoal_forge_field_new((uint64_t)args->seed, (size_t)args->entries, &plan->field, err));
    } else if (!t->text) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "there is nothing to learn: give --entries N or --text FILE");
    }
    double share = t->text_share >= 0 ? t->text_share : 0.2;
    const shoal_forge_feed_settings settings = {
        .tokenizer = plan->tokenizer,
        .field = plan->field,
        .exponent = args->exponent,
        .study_share = t->study_share,
        .study_exponent = study_exponent,
        .text = t->text,
        .text_share = !t->text      ? 0
                      : plan->field ? share
                                    : 1,
        .seed = (uint64_t)t->start_seed,
        .n_parts = plan->settings.n_parts,
        .n_tokens = plan->settings.n_tokens_max,
        .n_ctx = SHOAL_MIN(plan->params->hp.n_ctx, (size_t)256),
    };
    SHOAL_TRY(shoal_forge_feed_new(&settings, &plan->feed, err));
    plan->settings.source_id = shoal_forge_feed_id(plan->feed);
    return SHOAL_OK;
}

static shoal_status plan_lora(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    const forge_train_args *t = &args->train;
    if (t->lora_rank == 0) {
        return SHOAL_OK;
    }
    if (!args->model) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--lora-rank needs --model FILE, the model to be adapted");
    }
    double alpha = t->lora_alpha > 0 ? t->lora_alpha : (double)t->lora_rank;
    SHOAL_TRY(shoal_lora_train_new(plan->params, (size_t)t->lora_rank, (float)alpha,
                                   (uint64_t)t->start_seed, &plan->lora, err));
    plan->settings.lora = plan->lora;
    return SHOAL_OK;
}

/* The full model is the teacher too, unless another one is. */
static shoal_status plan_recover(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_params_freep) shoal_params *full = NULL;
    const char *path = args->train.small;
    if (!path) {
        return SHOAL_OK;
    }
    SHOAL_ASSERT(args->train.teacher && args->model); /* without a model no tokenizer was found */
    if (strcmp(args->train.teacher, args->model) != 0) {
        SHOAL_TRY(params_of(args->model, 0, NULL, &full, err));
    }
    SHOAL_TRY(shoal_map_open(path, &plan->small_map, err));
    SHOAL_TRY(shoal_gguf_open(plan->small_map.data, plan->small_map.size, &plan->small, err));
    SHOAL_TRY(shoal_recover_new(plan->params, full ? full : plan->teacher, plan->small,
                                &plan->recover, err));
    plan->settings.recover = plan->recover;
    return SHOAL_OK;
}

static shoal_status open_all(const forge_args *args, forge_train_plan *plan, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_TRY(open_tokenizer(args, plan, err));
    SHOAL_TRY(make_params(args, plan, err));
    if (args->train.teacher) {
        SHOAL_TRY(open_teacher(args, plan, err));
    }
    SHOAL_TRY(plan_settings(args, plan, err));
    SHOAL_TRY(plan_lora(args, plan, err));
    SHOAL_TRY(plan_recover(args, plan, err));
    return plan_feed(args, plan, err);
}

shoal_status shoal_forge_train_plan_open(const forge_args *args, forge_train_plan *ret_plan,
                                         shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_train_plan_close) forge_train_plan plan = {0};
    SHOAL_TRY(open_all(args, &plan, err));
    *ret_plan = plan;
    plan = (forge_train_plan){0};
    return SHOAL_OK;
}

void shoal_forge_train_plan_close(forge_train_plan *plan)
{
    shoal_forge_feed_free(plan->feed);
    shoal_forge_field_free(plan->field);
    shoal_lora_train_free(plan->lora);
    shoal_recover_free(plan->recover);
    shoal_gguf_close(plan->small);
    shoal_map_close(&plan->small_map);
    shoal_params_free(plan->teacher);
    shoal_params_free(plan->params);
    shoal_tokenizer_free(plan->tokenizer);
    shoal_gguf_close(plan->gguf);
    shoal_map_close(&plan->map);
}
