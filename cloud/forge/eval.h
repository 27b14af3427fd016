/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: asking models questions whose right answer is known, and counting.
 *
 * An answer is right when the whole of it, its end token included, is the reference. Greedy
 * decoding gives exactly that answer if and only if the argmax is right at every position of the
 * reference with the reference before it (by induction over positions), and a row's logits are the
 * same bits however it is computed (R2). So one wide pass over references decides what would take a
 * step per token, and only answers that are wrong are generated, from the first wrong token on.
 *
 * One thread calls; the engines and the judging of logits have pools.
 */
#ifndef SHOAL_FORGE_EVAL_H
#define SHOAL_FORGE_EVAL_H

#include "cloud/forge/field.h"
#include "cloud/forge/forge.h"
#include "cloud/forge/metrics.h"

enum {
    EVAL_KINDS_MAX = 32,
    EVAL_KIND_NAME_MAX = 32, /* bytes, with the NUL */
    EVAL_QUESTIONS_MAX = 1 << 20,
    EVAL_TEXT_MAX = 1 << 16, /* bytes of a prompt or an answer */
    EVAL_FILE_MAX = 1 << 28, /* bytes of a file of questions */
    EVAL_LANES_MAX = 64,     /* sequences of one step */
    EVAL_ROWS = 1024,        /* rows of one step */
    EVAL_EXTRA = 16 /* tokens a generated answer may be longer than the longest reference */
};

/* --- questions (eval_data.c, eval_jsonl.c, eval_field.c)
 * -------------------------------------------------------
 */

typedef struct eval_question {
    size_t kind;
    double weight; /* of the question among those who ask */
    size_t first;  /* into ids: the prompt, then the answer with its end token */
    size_t n_prompt;
    size_t n_answer;
    size_t said_i; /* of the answer's first position, when positions of all answers are counted */
    char *answer;  /* text, owned */
} eval_question;

/* Questions of one split, as the tokens of one tokenizer. Zeroed memory is an empty one. */
typedef struct eval_quiz {
    char name[EVAL_KIND_NAME_MAX];
    bool weighted; /* weights differ, so that a weighted figure says something new */
    char kinds[EVAL_KINDS_MAX][EVAL_KIND_NAME_MAX];
    size_t n_kinds;
    eval_question *questions;
    size_t n;
    size_t capacity;
    int32_t *ids;
    size_t n_ids;
    size_t ids_capacity;
    size_t n_said;
    size_t n_prompt_max;
    size_t n_answer_max;
} eval_quiz;

void shoal_forge_quiz_fini(eval_quiz *quiz);
/* One more question; the kind is added when it is new. SHOAL_E_LIMIT names what there is too much
 * of. */
shoal_status shoal_forge_quiz_add(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                  const char *kind, const char *prompt, const char *answer,
                                  double weight, shoal_err *err) SHOAL_MUST_CHECK;
/* Adds the lines of a JSONL file that belong to a split (NULL: to any), n_max at most (0: all):
 * objects with "kind", "prompt" and "answer", and perhaps "weight" (above 0, default 1) and "split"
 * (default "test"). Errors name the line. */
shoal_status shoal_forge_quiz_add_jsonl(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                        const char *path, const char *split, size_t n_max,
                                        shoal_err *err) SHOAL_MUST_CHECK;

/* Adds examples first to first + n - 1 of a split of the field-service assistant. Those of the
 * catalogue weigh as much as they are asked with this exponent; in other splits that decided what
 * was drawn. */
shoal_status shoal_forge_quiz_add_field(eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                        const forge_field *field, forge_split split,
                                        double exponent, uint64_t first, size_t n,
                                        shoal_err *err) SHOAL_MUST_CHECK;

/* --- a model that answers (eval_pass.c) ----------------------------------------------------------
 */

typedef struct eval_voice {
    const shoal_model *model; /* borrowed */
    shoal_engine *engine;
    size_t n_lanes;
    shoal_kv_seq *seqs[EVAL_LANES_MAX];
    size_t n_rows;
    size_t n_logits;
    shoal_pool *pool;                                /* judges logits */
    shoal_sampler *samplers[SHOAL_POOL_THREADS_MAX]; /* one a worker */
    size_t n_samplers;
} eval_voice;

/* The model is borrowed for the voice's life; n_text_max: tokens of the longest text, that is of
 * the longest prompt, of the longest answer to another and of EVAL_EXTRA more. */
shoal_status shoal_forge_voice_open(const forge_args *args, const shoal_model *model,
                                    size_t n_text_max, eval_voice *ret_voice,
                                    shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_voice_close(eval_voice *voice);
/* One step of its engine; what it does not take is an error. */
shoal_status shoal_forge_voice_step(eval_voice *voice, shoal_span *spans, size_t n,
                                    shoal_err *err) SHOAL_MUST_CHECK;

/* A text with a beginning that is given and positions that are judged. */
typedef struct eval_path {
    const int32_t *ids; /* [n_prompt + n_answer], n_prompt and n_answer at least 1 */
    size_t n_prompt;
    size_t n_answer;
    size_t said_i;
} eval_path;

/* What a model says at a position of an answer, with all before it as it stands. */
typedef struct eval_said {
    int32_t id;       /* its greedy choice */
    float confidence; /* the probability of id, as daemons compute it */
    double nll;       /* of the token that stands there */
} eval_said;

/* said[path.said_i + j] for every position j of every path. */
shoal_status shoal_forge_voice_read(eval_voice *voice, const eval_path *paths, size_t n,
                                    eval_said *said, shoal_err *err) SHOAL_MUST_CHECK;

/* eval_decode.c: generation, many texts side by side, one token a step, by one model or by two in
 * lockstep on the same text. choose hears each model's logits after the text and says the next
 * token. */
typedef int32_t eval_choose_fn(void *ctx, size_t path, const int32_t *text, size_t n_text,
                               const float *const *logits);
typedef struct eval_decoding {
    eval_voice *voices[2]; /* [1] NULL: one model */
    size_t n_new_max;      /* tokens generated for any path at most */
    eval_choose_fn *choose;
    void *ctx;
} eval_decoding;

/* Goes on after the n_prompt ids of each path until an end token, or until there are n_answer new
 * ones, which is from 1 to n_new_max: ret_ids is [n][n_new_max], ret_n_new [n]. */
shoal_status shoal_forge_decode(const eval_decoding *d, const eval_path *paths, size_t n,
                                int32_t *ret_ids, size_t *ret_n_new,
                                shoal_err *err) SHOAL_MUST_CHECK;

/* --- what one model answers (eval_answers.c) -----------------------------------------------------
 */

/* One model's answers to a quiz. Zeroed memory is none. */
typedef struct eval_answers {
    eval_said *said; /* [n_said] along the references */
    int32_t *ids;    /* [n][n_max] its own greedy answers with their end tokens */
    size_t *n_ids;
    size_t n_max;
} eval_answers;

void shoal_forge_answers_fini(eval_answers *answers);
shoal_status shoal_forge_answer(eval_voice *voice, const eval_quiz *quiz, eval_answers *ret_answers,
                                shoal_err *err) SHOAL_MUST_CHECK;
/* Whether the answer of a question is its reference. */
bool shoal_forge_is_right(const eval_quiz *quiz, const eval_answers *answers, size_t i);

/* Figures of one kind, or of all together. */
typedef struct eval_summary {
    size_t n;
    size_t n_right;
    forge_interval exact;    /* Wilson */
    forge_interval weighted; /* by the questions' weights */
    double f1;               /* mean over questions */
    double bleu;             /* of the corpus */
    size_t n_tokens;         /* of references, with end tokens */
    double accuracy;   /* share of them that is the greedy choice after the reference so far */
    double perplexity; /* over the same tokens */
} eval_summary;

/* ret_summaries: [n_kinds + 1], the last is of all. */
shoal_status shoal_forge_summarise(const eval_quiz *quiz, const shoal_tokenizer *tokenizer,
                                   const eval_answers *answers, eval_summary *ret_summaries,
                                   shoal_err *err) SHOAL_MUST_CHECK;

/* The same of a model that is left at one of its exits for every token. */
shoal_status shoal_forge_answer_exit(const forge_args *args, const shoal_model *model,
                                     size_t exit_i, size_t n_text_max, const eval_quiz *quiz,
                                     eval_answers *ret_answers, shoal_err *err) SHOAL_MUST_CHECK;

/* What answering by a lone client costs when tokens leave early (eval_leave.c). */
typedef struct eval_leaving {
    size_t n; /* questions */
    size_t n_right;
    size_t n_tokens;                             /* with end tokens */
    size_t n_by_exit[SHOAL_MODEL_EXITS_MAX + 1]; /* of them, last: the full depth */
    size_t n_layers;       /* that passes went through, prompts' and what waited included */
    size_t n_checked;      /* tokens that left and whose full depth was computed later */
    size_t n_agreed;       /* and says the same */
    uint64_t bytes_layers; /* of weights read, prompts included */
    uint64_t bytes_heads;
    double seconds;
} eval_leaving;

/* Answers one question after the other, a token a step, in the voice's first lane. rules: [n_exits]
 * with states where needed; NULL: every token has its full depth. */
shoal_status shoal_forge_answer_leaving(eval_voice *voice, const shoal_exit_rule *rules,
                                        size_t n_waiting_max, const eval_quiz *quiz,
                                        eval_leaving *ret_sum, shoal_err *err) SHOAL_MUST_CHECK;

/* --- two models (eval_mix.c, eval_accept.c) ------------------------------------------------------
 */

/* The edge writes; a token under the threshold is the full model's, on the text so far. */
typedef struct eval_mix {
    float threshold; /* on the edge's confidence; what is below it is not believed */
    size_t n;
    size_t n_right;   /* equal the reference */
    size_t n_lost;    /* the full model alone is right, the two together are not */
    size_t n_gained;  /* the other way round */
    size_t n_same;    /* equal the full model's own answer */
    size_t n_tokens;  /* with end tokens */
    size_t n_cloud;   /* of these, from the full model */
    size_t n_touched; /* answers with at least one of them */
} eval_mix;

typedef struct eval_pair {
    const eval_quiz *quiz;
    eval_voice *voices[2]; /* edge, full */
    const eval_answers *edge;
    const eval_answers *full;
} eval_pair;

/* ret_mixes: [n_kinds + 1], the last is of all. What is right, lost and gained is exact. Where the
 * text leaves the reference the two engines go on together, in n_tails_max answers at most (at
 * least 1), spread evenly: each stands for those after it, up to the next. So up to that many wrong
 * answers all is exact; with more, shares of tokens and n_same are estimates. */
shoal_status shoal_forge_mix(const eval_pair *pair, float threshold, size_t n_tails_max,
                             eval_mix *ret_mixes, shoal_err *err) SHOAL_MUST_CHECK;
/* Just above the share of positions of the references with the least confidence of the edge; 0
 * gives 0, which believes everything, and 1 gives 2, which believes nothing. work: [n_said]. */
float shoal_forge_threshold_at(const eval_quiz *quiz, const eval_answers *edge, double share,
                               float *work);
/* The least threshold at which what is lost is at most the share allowed of the answers that the
 * full model has right, with the upper end of the 95 % interval. No threshold is tried out on the
 * way: a right answer of the full model is lost below the greatest confidence with which the edge
 * is wrong in it, and nowhere else, so losses fall as thresholds rise, and the count of losses that
 * passes decides alone. SHOAL_E_INVALID when there are too few questions to show it. */
shoal_status shoal_forge_pick(const eval_pair *pair, double allowed, float *ret_threshold,
                              shoal_err *err) SHOAL_MUST_CHECK;

/* How often a draft of the edge stands, on the full model's own text. */
typedef struct eval_accepted {
    size_t n_greedy; /* tokens of the full model's greedy answers */
    size_t n_greedy_accepted;
    size_t n_coupled; /* tokens of its answers sampled at a temperature */
    size_t n_coupled_accepted;
    double tv;    /* mean total variation at the latter, at that temperature */
    double bound; /* mean of (1 - tv) / (1 + tv) */
} eval_accepted;

/* Question i is sampled with the noise of seed + i, up to n_sampled of them, spread evenly.
 * ret_accepted: [n_kinds + 1], the last is of all. */
shoal_status shoal_forge_accept(const eval_pair *pair, double temperature, uint64_t seed,
                                size_t n_sampled, eval_accepted *ret_accepted,
                                shoal_err *err) SHOAL_MUST_CHECK;

#endif
