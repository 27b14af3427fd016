/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to shoal-forge compress: a run over all matrices that a recipe takes. Each is a job with
 * the forms it may have. compress_plan.c makes jobs, compress_layer.c runs one, compress_store.c
 * turns what a pass made into tensors of a file, compress_work.c keeps what is finished for a run
 * that goes on, compress_time.c says by a profile how long a token takes, compress_write.c puts the
 * file together, compress_judge.c compares the models,
 * compress_report.c and compress_page.c tell.
 *
 * Jobs run on the threads of a pool, one on each; a job owns all it writes. The output does not
 * depend on how many there are.
 */
#ifndef SHOAL_FORGE_COMPRESS_H
#define SHOAL_FORGE_COMPRESS_H

#include "cloud/forge/convert.h"
#include "cloud/forge/profile.h"
#include "cloud/forge/recipe.h"

#include "common/compress/allocate.h"
#include "common/compress/moments.h"

#include <pthread.h>

enum {
    COMPRESS_TENSORS_MAX = 8, /* of one matrix in a file */
    COMPRESS_LABEL_MAX = 96
};

/* --- tensors of a file ------------------------------------------------------------------------ */

typedef struct compress_tensor {
    char name[SHOAL_GGUF_NAME_MAX + 1];
    shoal_type type;
    uint32_t n_dims;
    uint64_t dims[SHOAL_GGUF_DIMS_MAX];
    uint8_t *data;
    size_t n_bytes;
} compress_tensor;

/* All tensors of one matrix. Zeroed memory is none. */
typedef struct compress_stored {
    compress_tensor tensors[COMPRESS_TENSORS_MAX];
    size_t n;
} compress_stored;

void shoal_forge_stored_fini(compress_stored *stored);
/* Of all tensors; and with their descriptions and padding in the file. */
uint64_t shoal_forge_stored_bytes(const compress_stored *stored);
uint64_t shoal_forge_stored_file_bytes(const compress_stored *stored);

/* NULL where a matrix of rows of k elements can be stored in this form; else why not, as words
 * behind "cannot be stored: ". single: it is one linear layer. */
const char *shoal_forge_store_reason(const forge_recipe_form *form, size_t k, bool single);
/* Whether something stands beside the values (common/weight/sides.h). */
bool shoal_forge_store_has_sides(const forge_recipe_form *form);
/* The type of the base tensor of a form that shoal_forge_store_reason takes and that is no keep. */
shoal_type shoal_forge_store_type(const forge_recipe_form *form);
/* Bytes of a form that shoal_forge_store_reason takes, but for single elements, whose number is
 * only known when they are chosen. */
uint64_t shoal_forge_store_bytes(const forge_recipe_form *form, size_t n_rows, size_t k);
/* The base tensor of a matrix, zeroed, for rows to be put. */
shoal_status shoal_forge_store_begin(const forge_recipe_form *form, const shoal_gguf_tensor *tensor,
                                     compress_stored *stored, shoal_err *err) SHOAL_MUST_CHECK;
/* Rows [row, row + n_rows of it) of the matrix. Sides are tensors of their own. */
shoal_status shoal_forge_store_put(const shoal_compressed *compressed,
                                   const shoal_gguf_tensor *tensor, size_t row,
                                   compress_stored *stored, shoal_err *err) SHOAL_MUST_CHECK;
/* The same rows of a type's own rounding, x [n_rows][k]. */
shoal_status shoal_forge_store_encode(const float *x, size_t row, size_t n_rows, size_t k,
                                      compress_stored *stored, shoal_err *err) SHOAL_MUST_CHECK;

/* --- jobs ------------------------------------------------------------------------------------- */

/* Rows of a matrix that are one linear layer. */
typedef struct compress_part {
    size_t row;
    size_t n_rows;
    const float *moment; /* [k][k] of its input, borrowed; NULL: the text did not reach it */
    const float *max;    /* [k] its largest magnitudes, likewise */
} compress_part;

/* What a form makes of a job. */
typedef struct compress_point {
    uint64_t bytes;      /* of the tensors' data */
    uint64_t file_bytes; /* and what else they take in the file */
    double error;        /* of the output, as a share of it */
} compress_point;

typedef struct compress_job {
    const shoal_gguf_tensor *tensor;
    const shoal_gguf_tensor *scales; /* of an FP8 matrix, else NULL */
    const forge_recipe_rule *rule;
    size_t n_rows; /* of all its matrices */
    size_t k;
    compress_part *parts; /* ascending, together all rows */
    size_t n_parts;
    bool calibrated;          /* every part has a moment */
    forge_recipe_form *forms; /* that can be stored */
    size_t n_forms;
    uint64_t limit;         /* bytes that its rule allows; UINT64_MAX: any */
    compress_point *points; /* (n_forms); measured where there is a choice */
    bool measured;
    size_t chosen;
    compress_point made; /* of the chosen form */
    shoal_status status;
    shoal_err err;
} compress_job;

/* A token by a profile, with one number of threads. */
typedef struct compress_time {
    size_t n_threads;
    double ms;        /* decoded alone */
    double verify_ms; /* a step over five columns */
    double rest_ms;   /* in both: what no product explains; 0 where it is not known */
} compress_time;

typedef struct compress_structure compress_structure;

/* What a program's user asked for, and where it stands. */
typedef struct compress_run {
    const forge_args *args;
    forge_recipe *recipe;
    shoal_map map;
    shoal_gguf *gguf; /* of the input, or what structure has left of it */
    shoal_hash model; /* content hash of the input */
    shoal_moments *moments;
    compress_structure *structure;  /* NULL: the recipe leaves every group */
    uint64_t target_bytes;          /* of the whole file; 0: not said */
    double target_ms;               /* of a token; 0: not said */
    forge_profile *profile;         /* NULL: none was given */
    const forge_profile_run *rates; /* of it, for args->threads */
    size_t n_experts;               /* these four of the input */
    size_t n_used;
    bool tied;
    bool gated;
    double measured_ms; /* of a token of the output, where there is a profile */
    compress_job *jobs;
    size_t n_jobs;
    char key[SHOAL_HASH_HEX]; /* of everything that the result depends on */
    char *dir;                /* of finished work */
    shoal_pool *pool;
    shoal_allocation allocation;
    uint64_t n_bytes; /* of the output */
    double seconds;
    size_t n_resumed; /* jobs that an earlier run had made */
    /* progress, under the lock */
    pthread_mutex_t lock;
    double cost_done;
    double cost_all;
    size_t n_done;
    uint64_t begin_ms;
    uint64_t shown_ms;
    double cost_begun_with;
} compress_run;

/* --- structured pruning (compress_structure.h) -------------------------------------------------
 */

/* Takes out of the input what the recipe says: sets run->structure, and run->gguf and run->moments
 * are of what is left. The model is that of the input. */
shoal_status shoal_forge_structure_run(compress_run *run, const shoal_model *model,
                                       shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_structure_free(compress_structure *structure);

/* --- planning ----------------------------------------------------------------------------------
 */

/* Every matrix that a rule takes, with the forms it may have. */
shoal_status shoal_forge_compress_plan(compress_run *run, shoal_err *err) SHOAL_MUST_CHECK;
void shoal_forge_compress_jobs_fini(compress_run *run);

/* Bytes and errors of all forms of a job. */
shoal_status shoal_forge_compress_measure(compress_job *job, shoal_err *err) SHOAL_MUST_CHECK;
/* The tensors of its chosen form. */
shoal_status shoal_forge_compress_make(compress_job *job, compress_stored *stored,
                                       shoal_err *err) SHOAL_MUST_CHECK;

/* --- time (compress_time.c) ------------------------------------------------------------------- */

/* Reads --profile, where one was given, and finds the run of args->threads. */
shoal_status shoal_forge_compress_time_init(compress_run *run, shoal_err *err) SHOAL_MUST_CHECK;
/* Seconds of the products of a step with a tensor's matrices, if they were of a type, with so many
 * bytes of sides; width_i is a place in shoal_forge_profile_widths. */
shoal_status shoal_forge_compress_seconds(const compress_run *run, const forge_profile_run *rates,
                                          const shoal_gguf_tensor *t, shoal_type type,
                                          double side_bytes, size_t width_i, double *ret_seconds,
                                          shoal_err *err) SHOAL_MUST_CHECK;
/* The same of a job in one of its forms, which was measured or is made. */
shoal_status shoal_forge_compress_form_seconds(const compress_run *run,
                                               const forge_profile_run *rates,
                                               const compress_job *job, size_t form_i,
                                               size_t width_i, double *ret_seconds,
                                               shoal_err *err) SHOAL_MUST_CHECK;
/* Whether the profile timed a step of this very input. */
bool shoal_forge_compress_knows_rest(const compress_run *run, const forge_profile_run *rates);
/* Of a token what no job has a part in: products that no rule takes, and the rest. */
shoal_status shoal_forge_compress_besides_ms(compress_run *run, const forge_profile_run *rates,
                                             double *ret_ms, shoal_err *err) SHOAL_MUST_CHECK;
/* All of it, in the forms that are chosen. */
shoal_status shoal_forge_compress_predict(compress_run *run, const forge_profile_run *rates,
                                          compress_time *ret_time, shoal_err *err) SHOAL_MUST_CHECK;
/* Decodes with the output and sets measured_ms. */
shoal_status shoal_forge_compress_time_step(compress_run *run, shoal_err *err) SHOAL_MUST_CHECK;

/* --- finished work (compress_work.c) ---------------------------------------------------------- */

/* Makes the directory beside the output, or takes up what an interrupted run of the same input,
 * moments and recipe left there. SHOAL_E_MISMATCH where it is of another run. */
shoal_status shoal_forge_work_open(compress_run *run, shoal_err *err) SHOAL_MUST_CHECK;
/* What is missing, damaged or of another run is not there: false. */
bool shoal_forge_work_find_points(const compress_run *run, compress_job *job);
shoal_status shoal_forge_work_put_points(const compress_run *run, const compress_job *job,
                                         shoal_err *err) SHOAL_MUST_CHECK;
bool shoal_forge_work_find_layer(const compress_run *run, compress_job *job,
                                 compress_stored *ret_stored);
shoal_status shoal_forge_work_put_layer(const compress_run *run, const compress_job *job,
                                        const compress_stored *stored,
                                        shoal_err *err) SHOAL_MUST_CHECK;
/* Removes the files of this run and then the directory, if nothing else is in it. */
void shoal_forge_work_remove(const compress_run *run);

/* --- the file (compress_write.c) -------------------------------------------------------------- */

/* Bytes of the output but for the jobs' tensors. */
shoal_status shoal_forge_compress_fixed_bytes(compress_run *run, uint64_t *ret_bytes,
                                              shoal_err *err) SHOAL_MUST_CHECK;
/* Seconds of the products of a step that no job has a part in. */
shoal_status shoal_forge_compress_fixed_seconds(compress_run *run, const forge_profile_run *rates,
                                                size_t width_i, double *ret_seconds,
                                                shoal_err *err) SHOAL_MUST_CHECK;
shoal_status shoal_forge_compress_write(compress_run *run, const char *path,
                                        shoal_err *err) SHOAL_MUST_CHECK;

/* --- comparing (compress_judge.c) ------------------------------------------------------------- */

/* Two models along one text. */
typedef struct compress_verdict {
    size_t n_tokens; /* judged */
    double ppl_full;
    double ppl;
    double agreement;  /* share of positions where both have the same most likely token */
    double acceptance; /* what samples with shared noise agree on at least, at temperature 1 */
    double divergence; /* KL(full || compressed), mean, nats */
    double full_tok_s; /* decoding, one sequence */
    double tok_s;
    uint64_t full_bytes_per_token;
    uint64_t bytes_per_token;
    char kv[32];     /* of the compressed model; the full one has its own */
    double peak_mib; /* of this program with both models loaded */
} compress_verdict;

shoal_status shoal_forge_compress_judge(const forge_args *args, const char *compressed,
                                        compress_verdict *ret_verdict,
                                        shoal_err *err) SHOAL_MUST_CHECK;

/* --- telling ---------------------------------------------------------------------------------- */

/* verdict NULL: the models were not compared. */
shoal_status shoal_forge_compress_json(compress_run *run, const compress_verdict *verdict,
                                       shoal_buf *buf) SHOAL_MUST_CHECK;
/* One page that needs nothing else: a table, and the layers as SVG. */
shoal_status shoal_forge_compress_page(compress_run *run, const compress_verdict *verdict,
                                       shoal_buf *buf) SHOAL_MUST_CHECK;

#endif
