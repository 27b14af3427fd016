/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge: one command per file, one table of options for all of them.
 * Exit status: 0 done; 1 the input was refused (one line on stderr names the cause); 2 usage.
 */
#ifndef SHOAL_FORGE_FORGE_H
#define SHOAL_FORGE_FORGE_H

#include "common/engine/engine.h"
#include "common/sample/sample.h"

#include <stdbool.h>

/* Of `train` alone; its options are in train_args.c. */
typedef struct forge_train_args {
    const char *tokenizer; /* a GGUF whose tokenizer a new model takes */
    const char *teacher;
    const char *checkpoint;
    const char *log;
    const char *small;  /* of recover: the compressed model */
    const char *report; /* of recover: a directory */
    const char *text;
    const char *exits;        /* "2+3": layers below each */
    const char *exit_weights; /* "0.3+0.5" */
    const char *optimiser;
    long steps;
    long parts;
    long part_tokens;
    long every; /* seconds between checkpoints */
    long warmup;
    long lora_rank;
    double lora_alpha;
    long long start_seed;
    double minutes;
    double text_share;
    double study_share;
    double study_exponent; /* negative: the exponent of the others */
    double muon_rate;
    double adam_rate;
    double weight_decay;
    double momentum;
    double beta2;
    double clip;
    double final_share;
    double alpha;
    double teacher_temp;
    const char *own_answers; /* measures of MiniLLM, as "single+mixed+norm"; NULL: off */
    double mix;
    double layer_dropout;
    bool reverse;
} forge_train_args;

/* Of `eval` alone; its options are in eval_args.c. */
typedef struct forge_eval_args {
    const char *edge;   /* a second model, which drafts */
    const char *data;   /* questions */
    const char *report; /* JSON */
    const char *plot;   /* SVG */
    const char *exit;   /* a policy; NULL: exits are not measured at work */
    long wait;          /* tokens that wait for their depth at most */
    long questions;     /* of a split; 0: not said */
    double threshold;   /* below 0: none */
    bool pick;
} forge_eval_args;

/* Of `calibrate` alone; its options are in cmd_calibrate.c. */
typedef struct forge_calibrate_args {
    const char *data;
    const char *check;
    const char *teacher;
    const char *policy;
    long resamples;
    double risk;
    double delta;
    double rate; /* below 0: not said */
} forge_calibrate_args;

/* Of `kv-calibrate` alone; its options are in cmd_kv_calibrate.c. */
typedef struct forge_kv_calibrate_args {
    double bits;
    long group; /* layers; 0: not said */
    long tokens;
    bool ids;
    bool alike;
} forge_kv_calibrate_args;

/* Of `calibrate-weights` alone; its options are in cmd_calibrate_weights.c. */
typedef struct forge_calibrate_weights_args {
    long tokens;
    long window;
    long mib;
    bool ids;
    long save_s;
} forge_calibrate_weights_args;

/* Of `compare-passes` alone; its options are in cmd_compare_passes.c. */
typedef struct forge_compare_passes_args {
    const char *moments;
    const char *output;
    const char *plot;
    long bits;
    long group;
} forge_compare_passes_args;

/* Of `kv-plan` alone; its options are in cmd_kv_plan.c. 0 where nothing was said. */
typedef struct forge_kv_plan_args {
    double down; /* these two in Mbit/s */
    double up;
    double rtt;  /* ms */
    double edge; /* these three in tokens per second */
    double cloud;
    double ids;
    double edge_token; /* these two in ms */
    double ids_token;
    double archive; /* bits */
    double check;   /* these two in MB/s */
    double transform;
    long answer;
} forge_kv_plan_args;

/* Of `make-text` alone; its options are in cmd_make_text.c. */
typedef struct forge_make_text_args {
    long tokens;
    double temp;
} forge_make_text_args;

/* Of `compress` alone; its options are in cmd_compress.c. */
typedef struct forge_compress_args {
    const char *recipe;
    const char *moments;
    const char *report; /* a directory */
    const char *text;
    const char *profile;
    const char *along; /* a text for gradients */
    long along_tokens;
    double target_ms;  /* 0: not said */
    long target_bytes; /* 0: not said */
    long tokens;
} forge_compress_args;

/* Of `bundle` and `bundle-check` alone; their options are in cmd_bundle.c and cmd_bundle_check.c.
 */
typedef struct forge_bundle_args {
    const char *family;
    const char *version;
    const char *program;
    const char *adapter;
    const char *prefix;
    const char *test;
    const char *key;
    const char *trust;
    const char *folder;
    long serial; /* 0: not said */
    long answer;
} forge_bundle_args;

/* Of `sparsify` alone; its options are in cmd_sparsify.c. */
typedef struct forge_sparsify_args {
    double share;
    long tokens;
    long window;
} forge_sparsify_args;

/* Of `device` alone; its options are in cmd_device.c. */
typedef struct forge_device_args {
    long mib;       /* of a set; 0: not said */
    long flash_mib; /* 0: the device is not measured */
    double seconds;
} forge_device_args;

/* Of `plan` alone; its options are in cmd_plan.c. 0: any. */
typedef struct forge_plan_args {
    double ram; /* MiB */
    double ms;
    double quality;
} forge_plan_args;

typedef struct forge_args {
    const char *model;
    const char *file;
    const char *prompt;
    const char *output;
    const char *tokens;
    const char *type;
    const char *output_type;
    const char *shape;
    const char *batch;
    const char *kv;
    const char *archive; /* a basis of kv-calibrate */
    const char *evict;   /* a policy; NULL: none */
    long budget;         /* of it, tokens; 0: not said */
    const char *cpu_mask;
    const char *lora; /* FILE or FILE=STRENGTH */
    const char *name;
    char **files; /* words that are no options */
    size_t n_files;
    long n;
    long p;
    long threads;
    long ctx;
    long depth;
    long from;
    long keep;
    long layers;
    long entries;
    long n_examples; /* 0: the command's own default */
    const char *split;
    double exponent;
    bool text;
    bool catalogue;
    long vocab;
    long token_bytes;
    long min_count;
    double temp;
    double top_p;
    long top_k;
    long long seed;
    bool all;
    bool json;
    bool decode;
    bool verify;
    bool bos;
    forge_train_args train;
    forge_eval_args eval;
    forge_calibrate_args calibrate;
    forge_kv_calibrate_args kv_calibrate;
    forge_calibrate_weights_args calibrate_weights;
    forge_compare_passes_args compare_passes;
    forge_kv_plan_args kv_plan;
    forge_bundle_args bundle;
    forge_compress_args compress; /* text and tokens of it are recover's too */
    forge_make_text_args make_text;
    forge_sparsify_args sparsify;
    forge_device_args device;
    forge_plan_args plan;
} forge_args;

typedef enum forge_option_kind {
    FORGE_OPTION_TEXT,
    FORGE_OPTION_INT,
    FORGE_OPTION_REAL,
    FORGE_OPTION_FLAG,
    FORGE_OPTION_FILES, /* no option: what is left over when all are read */
    FORGE_OPTION_SEED
} forge_option_kind;

typedef struct forge_option {
    char letter; /* names it in forge_command.options; 0 in a command's own rows */
    const char *name;
    char short_name; /* 0: none */
    forge_option_kind kind;
    size_t offset; /* in forge_args */
    double min;
    double max;
    const char *value;
    const char *help;
} forge_option;

typedef struct forge_command {
    const char *name;
    const char *summary;
    const char *options; /* the letters of its options, as in the table of args.c */
    shoal_status (*run)(const forge_args *args, shoal_err *err);
} forge_command;

/* Options of one command alone, and its defaults. */
typedef struct forge_own {
    shoal_status (*run)(const forge_args *args, shoal_err *err); /* names the command */
    const forge_option *options;
    size_t n_options;
    forge_args defaults;
} forge_own;
extern const forge_own shoal_forge_train_own;
extern const forge_own shoal_forge_eval_own;
extern const forge_own shoal_forge_calibrate_own;
extern const forge_own shoal_forge_kv_calibrate_own;
extern const forge_own shoal_forge_calibrate_weights_own;
extern const forge_own shoal_forge_compare_passes_own;
extern const forge_own shoal_forge_kv_plan_own;
extern const forge_own shoal_forge_compress_own;
extern const forge_own shoal_forge_bundle_own;
extern const forge_own shoal_forge_bundle_check_own;
extern const forge_own shoal_forge_recover_own;
extern const forge_own shoal_forge_make_text_own;
extern const forge_own shoal_forge_sparsify_own;
extern const forge_own shoal_forge_device_own;
extern const forge_own shoal_forge_plan_own;

/* 0: go on; otherwise the exit status plus one (help was printed, or usage was wrong). */
int shoal_forge_args_parse(const forge_command *command, int argc, char **argv,
                           forge_args *ret_args);
void shoal_forge_help(const forge_command *command);

shoal_status shoal_forge_inspect(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_tokenize(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_logits(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_generate(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_perplexity(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_convert(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_make_random(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_pack(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_merge_lora(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_train_tokenizer(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_make_data(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_calibrate(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_kv_calibrate(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_calibrate_weights(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_compare_passes(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_kv_plan(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_compress(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_bundle(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_bundle_check(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_recover(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_make_text(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_sparsify(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_plan(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_device(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_bench(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_eval(const forge_args *args, shoal_err *err);
shoal_status shoal_forge_train(const forge_args *args, shoal_err *err);

/* --- shared by commands ------------------------------------------------------------------------
 */

enum {
    FORGE_STEPS = 48 /* whose median is a speed */
};

/* A model with an engine of one sequence on it. Zeroed memory is a valid empty one. */
typedef struct forge_session {
    shoal_model *model;
    shoal_engine *engine;
    shoal_kv_seq *seq;
    shoal_lora *lora; /* NULL: none */
} forge_session;

/* n_rows: rows of a step and logits of a step. */
shoal_status shoal_forge_session_open(const forge_args *args, size_t n_rows, size_t n_logits,
                                      size_t kv_tokens, forge_session *ret_session, shoal_err *err);
void shoal_forge_session_close(forge_session *session);
/* Decodes FORGE_STEPS tokens, one a step, and tells the median step. ids (n) are taken in turn; of
 * none, some are made up. The sequence begins anew. */
shoal_status shoal_forge_step_ms(forge_session *session, const int32_t *ids, size_t n,
                                 double *ret_ms) SHOAL_MUST_CHECK;

/* What the arguments say of an engine on a model, with KV for n_seqs sequences of kv_tokens (0: of
 * the context). */
shoal_status shoal_forge_engine_settings(const forge_args *args, const shoal_model *model,
                                         size_t n_rows, size_t n_logits, size_t kv_tokens,
                                         size_t n_seqs, shoal_engine_settings *ret_settings,
                                         shoal_err *err);

/* The most memory that this program has had at once. */
shoal_status shoal_forge_peak_mib(double *ret_mib, shoal_err *err) SHOAL_MUST_CHECK;

/* A question and its answer as they are trained and judged: ids is for shoal_free, *ret_n_prompt of
 * them are the prompt's, the rest the answer's and the end token, where the vocabulary has one. */
shoal_status shoal_forge_encode_example(const shoal_tokenizer *tokenizer, const char *prompt,
                                        const char *answer, int32_t **ret_ids, size_t *ret_n,
                                        size_t *ret_n_prompt, shoal_err *err) SHOAL_MUST_CHECK;

/* The first n_max tokens, at least one, of a file of text or, between commas and blanks, of ids;
 * owned by the caller (shoal_free). */
shoal_status shoal_forge_read_ids(const char *path, bool are_ids, size_t n_max,
                                  const shoal_model *model, int32_t **ret_ids, size_t *ret_n,
                                  shoal_err *err) SHOAL_MUST_CHECK;

/* What --kv names, or an engine's kv_form: the type's name in it, and whether "h-" is before it. */
const char *shoal_forge_kv_type(const char *kv, bool *ret_hadamard);
/* "1,2,3" to ids below n_vocab; owned by the caller (shoal_free). */
shoal_status shoal_forge_parse_ids(const char *text, size_t n_vocab, int32_t **ret_ids,
                                   size_t *ret_n, shoal_err *err);
/* "FILE" or "FILE=STRENGTH", 1 by default. */
shoal_status shoal_forge_parse_lora(const char *text, char **ret_path, float *ret_strength,
                                    shoal_err *err);
shoal_status shoal_forge_need(const char *value, const char *option, shoal_err *err);
/* JSON string escaping of n bytes, with quotes. */
shoal_status shoal_forge_json_string(shoal_buf *buf, const char *text, size_t n);
/* Writes and flushes stdout; SHOAL_E_IO when it is gone. */
shoal_status shoal_forge_print(const shoal_buf *buf, shoal_err *err);

#endif
