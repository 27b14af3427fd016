/* SPDX-License-Identifier: Apache-2.0
 *
 * `recover`: the run of `train` on the numbers behind a compressed model (common/train/recover.h),
 * taught by the full one; then its loss as a picture, and both models along a text before and
 * after.
 */
#include "cloud/forge/compress.h"
#include "cloud/forge/field.h"
#include "cloud/forge/loss_plot.h"

#include "common/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    PATH_MAX_BYTES = 4096,
    CSV_MAX = 1 << 30
};

typedef struct paths {
    char csv[PATH_MAX_BYTES];
    char json[PATH_MAX_BYTES];
    char svg[PATH_MAX_BYTES];
} paths;

static shoal_status make_paths(const char *dir, paths *ret, shoal_err *err)
{
    char space[128];
    if (strlen(dir) + sizeof "/loss.json" > PATH_MAX_BYTES) {
        return shoal_err_set(err, SHOAL_E_LIMIT, "--report: a path of more than %d bytes",
                             PATH_MAX_BYTES);
    }
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) {
        return shoal_err_set(err, SHOAL_E_IO, "--report %s: cannot be made: %s", dir,
                             strerror_r(errno, space, sizeof space));
    }
    (void)snprintf(ret->csv, sizeof ret->csv, "%s/loss.csv", dir);
    (void)snprintf(ret->json, sizeof ret->json, "%s/loss.json", dir);
    (void)snprintf(ret->svg, sizeof ret->svg, "%s/loss.svg", dir);
    return SHOAL_OK;
}

static shoal_status put_verdict(const char *name, const compress_verdict *v, shoal_buf *buf)
{
    return shoal_buf_appendf(buf,
                             ",\n \"%s\": {\"tokens\": %zu, \"perplexity\": %.8g, "
                             "\"full_perplexity\": %.8g, \"same_next\": %.6f, \"acceptance\": "
                             "%.6f, \"divergence\": %.6g}",
                             name, v->n_tokens, v->ppl, v->ppl_full, v->agreement, v->acceptance,
                             v->divergence);
}

static void print_verdict(const char *name, const compress_verdict *v)
{
    (void)printf("%-7s perplexity %.4f (full %.4f, %+.2f%%), same next %.2f%%, coupled %.4f, "
                 "divergence %.4f\n",
                 name, v->ppl, v->ppl_full, 100 * (v->ppl / v->ppl_full - 1), 100 * v->agreement,
                 v->acceptance, v->divergence);
}

static shoal_status write_report(const paths *p, const compress_verdict verdicts[2], bool judged,
                                 shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf csv = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf json = {0};
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf svg = {0};
    SHOAL_CLEANUP(shoal_free_cleanup) forge_loss *rows = NULL;
    size_t n = 0;
    SHOAL_TRY(shoal_file_read(p->csv, CSV_MAX, &csv, err));
    shoal_status status = shoal_forge_loss_rows(csv.data ? csv.data : "", csv.length, &rows, &n);
    status = status == SHOAL_OK ? shoal_buf_appendf(&json, "{\"loss\": ") : status;
    status = status == SHOAL_OK ? shoal_forge_loss_json(rows, n, &json) : status;
    if (judged) {
        status = status == SHOAL_OK ? put_verdict("before", &verdicts[0], &json) : status;
        status = status == SHOAL_OK ? put_verdict("after", &verdicts[1], &json) : status;
    }
    status = status == SHOAL_OK ? shoal_buf_appendf(&json, "}\n") : status;
    status = status == SHOAL_OK
                 ? shoal_forge_loss_plot("divergence from the full model, nats a token, by step",
                                         rows, n, &svg)
                 : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "no memory for the report");
    }
    SHOAL_TRY(shoal_file_write(p->json, json.data, json.length, err));
    return shoal_file_write(p->svg, svg.data, svg.length, err);
}

shoal_status shoal_forge_recover(const forge_args *args, shoal_err *err)
{
    forge_args run = *args;
    paths p;
    compress_verdict verdicts[2];
    memset(&p, 0, sizeof p);
    memset(verdicts, 0, sizeof verdicts);
    bool judged = args->compress.text != NULL;
    SHOAL_TRY(shoal_forge_need(args->train.small, "--small FILE", err));
    run.train.teacher = args->train.teacher ? args->train.teacher : args->model;
    if (args->train.report) {
        SHOAL_TRY(make_paths(args->train.report, &p, err));
        run.train.log = p.csv;
    }
    SHOAL_TRY(shoal_forge_train(&run, err));
    if (judged) {
        SHOAL_TRY(shoal_forge_compress_judge(args, args->train.small, &verdicts[0], err));
        SHOAL_TRY(shoal_forge_compress_judge(args, args->output, &verdicts[1], err));
    }
    if (judged && !args->json) {
        print_verdict("before:", &verdicts[0]);
        print_verdict("after:", &verdicts[1]);
    }
    return args->train.report ? write_report(&p, verdicts, judged, err) : SHOAL_OK;
}

#define AT(field) offsetof(forge_args, field)

static const forge_option options[] = {
    {0, "small", 0, FORGE_OPTION_TEXT, AT(train.small), 0, 0, "FILE",
     "the compressed model, made from -m by compress or convert (required)"},
    {0, "teacher", 0, FORGE_OPTION_TEXT, AT(train.teacher), 0, 0, "FILE",
     "whose answers are learnt, of the same tokenizer (default: -m)"},
    {0, "text", 0, FORGE_OPTION_TEXT, AT(train.text), 0, 0, "FILE",
     "plain text to learn along, as make-text writes it"},
    {0, "text-share", 0, FORGE_OPTION_REAL, AT(train.text_share), 0, 1, "P",
     "of the tokens, from --text (default 0.2; 1 without entries)"},
    {0, "entries", 0, FORGE_OPTION_INT, AT(entries), 0, FORGE_FIELD_ENTRIES_MAX, "N",
     "entries of the family's catalogue, whose questions are learnt along (default 0: none)"},
    {0, "exponent", 0, FORGE_OPTION_REAL, AT(exponent), 0, 2, "E",
     "entries are asked about as rank^-E (default 1)"},
    {0, "study-share", 0, FORGE_OPTION_REAL, AT(train.study_share), 0, 1, "P",
     "of the examples, in the shortest wording (default 0)"},
    {0, "study-exponent", 0, FORGE_OPTION_REAL, AT(train.study_exponent), 0, 2, "E",
     "the exponent of those (default: that of the others)"},
    {0, "exit-weights", 0, FORGE_OPTION_TEXT, AT(train.exit_weights), 0, 0, "LIST",
     "of the exits' losses beside the output's 1, as 0.3+0.5 (default 0.3 each)"},
    {0, "start-seed", 0, FORGE_OPTION_SEED, AT(train.start_seed), 0, 0, "S",
     "of the order of the data (default 0)"},
    {0, "steps", 0, FORGE_OPTION_INT, AT(train.steps), 1, 1000000000, "N",
     "length of the run and of its schedule"},
    {0, "minutes", 0, FORGE_OPTION_REAL, AT(train.minutes), 0.01, 100000, "M",
     "the same in time: a short trial says how many steps that is"},
    {0, "parts", 0, FORGE_OPTION_INT, AT(train.parts), 1, 256, "N",
     "batches of a step (default: one per thread)"},
    {0, "part-tokens", 0, FORGE_OPTION_INT, AT(train.part_tokens), 16, 1 << 17, "N",
     "tokens of a batch (default 1024)"},
    {0, "rate", 0, FORGE_OPTION_REAL, AT(train.adam_rate), 0, 1, "R",
     "peak rate of AdamW, in eighths of the range of codes (default 0.012)"},
    {0, "beta2", 0, FORGE_OPTION_REAL, AT(train.beta2), 0, 0.99999, "B", "of AdamW (default 0.98)"},
    {0, "clip", 0, FORGE_OPTION_REAL, AT(train.clip), 0, 1e6, "N",
     "largest norm of a gradient, 0: any (default 1)"},
    {0, "warmup", 0, FORGE_OPTION_INT, AT(train.warmup), 0, 1000000, "N",
     "steps (default: a fiftieth of the run)"},
    {0, "final-share", 0, FORGE_OPTION_REAL, AT(train.final_share), 0, 1, "P",
     "of the peak rate, at the last step (default 0.02)"},
    {0, "alpha", 0, FORGE_OPTION_REAL, AT(train.alpha), 0, 1, "A",
     "share of the text's own tokens in the loss, the rest is the full model's (default 0)"},
    {0, "temp", 0, FORGE_OPTION_REAL, AT(train.teacher_temp), 0.05, 20, "T",
     "temperature of both models (default 1)"},
    {0, "reverse", 0, FORGE_OPTION_FLAG, AT(train.reverse), 0, 0, NULL,
     "learn by KL(small || full), not KL(full || small)"},
    {0, "checkpoint", 0, FORGE_OPTION_TEXT, AT(train.checkpoint), 0, 0, "FILE",
     "saved on the way and when stopped; a run that finds it goes on from it"},
    {0, "every", 0, FORGE_OPTION_INT, AT(train.every), 1, 1000000, "S",
     "seconds between checkpoints, each with the model so far in -o (default 300)"},
    {0, "report", 0, FORGE_OPTION_TEXT, AT(train.report), 0, 0, "DIR",
     "loss.csv, loss.json and loss.svg: the loss of every step"},
    {0, "judge", 0, FORGE_OPTION_TEXT, AT(compress.text), 0, 0, "FILE",
     "compare with the full model along this text, before and after"},
    {0, "judge-tokens", 0, FORGE_OPTION_INT, AT(compress.tokens), 2, 1 << 24, "N",
     "tokens of it at most (default 2000)"},
};

const forge_own shoal_forge_recover_own = {
    .run = shoal_forge_recover,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    /* Below zero: not given. */
    .defaults = {.threads = 2,
                 .exponent = 1,
                 .compress = {.tokens = 2000},
                 .train = {.optimiser = "adamw",
                           .steps = -1,
                           .parts = -1,
                           .part_tokens = 1024,
                           .every = 300,
                           .warmup = -1,
                           .minutes = -1,
                           .text_share = -1,
                           .study_exponent = -1,
                           .adam_rate = 0.012,
                           .beta2 = 0.98,
                           .clip = 1,
                           .final_share = 0.02,
                           .teacher_temp = 1}},
};
