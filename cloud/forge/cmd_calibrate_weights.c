/* SPDX-License-Identifier: Apache-2.0
 *
 * `calibrate-weights`: runs a text through a model and keeps the second moments of what every
 * linear layer is fed (common/compress). Memory is the model in F32, the moments, and one window:
 * it does not grow with the text's tokens. What there is so far is saved beside the output every
 * now and then, and the same command goes on from it.
 */
#include "cloud/forge/forge.h"

#include "cloud/forge/windows.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/compress/moments.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WINDOW_DEFAULT = 256,
    WINDOW_MAX = 4096,
    TOKENS_DEFAULT = 32768,
    MIB_DEFAULT = 8192,
    SAVE_S_DEFAULT = 30,
    SAVE_SHARE = 20, /* of the time, at most one part is spent on saving */
    SHOW_TERMINAL_MS = 200,
    SHOW_MS = 10000
};

#define AT(field) offsetof(forge_args, calibrate_weights.field)

static const forge_option options[] = {
    {0, "ids", 0, FORGE_OPTION_FLAG, AT(ids), 0, 0, NULL,
     "the file has token ids, as tokenize prints them, instead of text"},
    {0, "tokens", 0, FORGE_OPTION_INT, AT(tokens), 1, 1 << 24, "N",
     "tokens of the file that are read (default 32768)"},
    {0, "window", 0, FORGE_OPTION_INT, AT(window), 2, WINDOW_MAX, "N",
     "tokens that see each other (default 256, or the model's context)"},
    {0, "memory", 0, FORGE_OPTION_INT, AT(mib), 1, 1 << 20, "MIB",
     "most memory for the moments, in MiB (default 8192)"},
    {0, "save-every", 0, FORGE_OPTION_INT, AT(save_s), 0, 86400, "S",
     "seconds between states that a run after an interruption goes on from (default 30)"},
};

const forge_own shoal_forge_calibrate_weights_own = {
    .run = shoal_forge_calibrate_weights,
    .options = options,
    .n_options = SHOAL_COUNT(options),
    .defaults = {.calibrate_weights = {.tokens = TOKENS_DEFAULT,
                                       .window = WINDOW_DEFAULT,
                                       .mib = MIB_DEFAULT,
                                       .save_s = SAVE_S_DEFAULT}},
};

/* --- what is read ---------------------------------------------------------------------------- */

/* Ids between commas and blanks; all of the file must be ids. */
static shoal_status parse_ids(const char *text, size_t n_vocab, size_t n_max, int32_t **ret_ids,
                              size_t *ret_n, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = shoal_calloc(n_max, sizeof *ids);
    size_t n = 0;
    if (!ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu ids", n_max);
    }
    for (const char *at = text; n < n_max; n++) {
        at += strspn(at, ", \t\r\n");
        if (*at == 0) {
            break;
        }
        char *end = NULL;
        errno = 0;
        long id = strtol(at, &end, 10);
        if (end == at || errno != 0 || id < 0 || (size_t)id >= n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "id %zu of the file is \"%.12s\": ids are numbers below %zu", n,
                                 at, n_vocab);
        }
        ids[n] = (int32_t)id;
        at = end;
    }
    *ret_ids = SHOAL_STEAL(ids);
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_forge_read_ids(const char *path, bool are_ids, size_t n_max,
                                  const shoal_model *model, int32_t **ret_ids, size_t *ret_n,
                                  shoal_err *err)
{
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    const shoal_encode_flags flags = {.add_bos = true, .parse_special = false};
    SHOAL_TRY(shoal_file_read(path, SHOAL_TEXT_MAX, &text, err));
    const char *data = text.data ? text.data : "";
    if (are_ids) {
        SHOAL_TRY(parse_ids(data, model->hp.n_vocab, n_max, ret_ids, ret_n, err));
    } else {
        SHOAL_TRY(shoal_tokenizer_encode(model->tokenizer, data, text.length, flags, ret_ids, ret_n,
                                         err));
    }
    *ret_n = SHOAL_MIN(*ret_n, n_max);
    return *ret_n > 0 ? SHOAL_OK : shoal_err_set(err, SHOAL_E_INVALID, "%s holds no token", path);
}

/* --- the run --------------------------------------------------------------------------------- */

typedef struct run {
    forge_windows windows;
    shoal_moments *moments;
    char *part;       /* path of the state so far */
    shoal_hash id;    /* of what is run */
    uint32_t begun;   /* tokens that were done when this process began */
    uint64_t save_ms; /* when the next state is due */
    uint64_t begin_ms;
    uint64_t shown_ms;
    shoal_status status; /* of the first addition that was refused */
    shoal_err *err;
} run;

static void run_close(run *r)
{
    shoal_forge_windows_fini(&r->windows);
    shoal_moments_free(r->moments);
    shoal_free(r->part);
}

static uint64_t now_ms(void)
{
    const shoal_clock clock = shoal_clock_real();
    return shoal_clock_now_ms(&clock);
}

static void observe(void *ctx, const shoal_param *item, size_t row, size_t n_rows, bool again,
                    size_t k, size_t n, const float *x, size_t x_row)
{
    run *r = ctx;
    if (r->status == SHOAL_OK && item->kind == SHOAL_PARAM_MATRIX) {
        r->status =
            shoal_moments_add(r->moments, item->name, row, n_rows, again, k, n, x, x_row, r->err);
    }
}

static void show(run *r, size_t done, size_t n)
{
    uint64_t now = now_ms();
    bool terminal = isatty(STDERR_FILENO) == 1;
    uint64_t wait_ms = terminal ? SHOW_TERMINAL_MS : SHOW_MS;
    if (now - r->shown_ms < wait_ms && done < n) {
        return;
    }
    r->shown_ms = now;
    double seconds = (double)(now - r->begin_ms) * 1e-3;
    double each = seconds / (double)(done - r->begun);
    (void)fprintf(stderr, "%scalibrate-weights: %zu of %zu tokens, %.0f s left%s",
                  terminal ? "\r" : "", done, n, each * (double)(n - done),
                  terminal ? "\033[K" : "\n");
    if (terminal && done == n) {
        (void)fputc('\n', stderr);
    }
}

/* What must be the same for a run to go on where another ended. */
static shoal_status identify(run *r, const int32_t *ids, size_t n_ids, size_t window)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    const uint64_t numbers[2] = {n_ids, window};
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update(hasher, numbers, sizeof numbers);
    shoal_hasher_update(hasher, ids, n_ids * sizeof *ids);
    shoal_hasher_finish(hasher, &r->id);
    return SHOAL_OK;
}

/* The state that an earlier run has left, if it is one of the same; else nothing. */
static shoal_status begin_moments(run *r, const shoal_model *model, uint64_t limit_bytes)
{
    shoal_err why = SHOAL_ERR_INIT;
    if (access(r->part, F_OK) == 0) {
        shoal_status status = shoal_moments_resume(r->part, &model->hash, &r->id, limit_bytes,
                                                   &r->moments, &r->begun, &why);
        if (status == SHOAL_OK) {
            (void)fprintf(stderr, "calibrate-weights: goes on behind %u tokens\n", r->begun);
            return SHOAL_OK;
        }
        (void)fprintf(stderr, "calibrate-weights: begins anew: %s\n", why.text);
    }
    return shoal_moments_new(&model->hash, limit_bytes, &r->moments);
}

static shoal_status run_new(run *r, const forge_args *args, const shoal_model *model,
                            const int32_t *ids, size_t n_ids, size_t window)
{
    SHOAL_TRY(shoal_forge_windows_init(&r->windows, model, window, r->err));
    size_t n_path = strlen(args->output) + sizeof ".part";
    r->part = shoal_calloc(n_path, 1);
    if (r->part) {
        (void)snprintf(r->part, n_path, "%s.part", args->output);
    }
    if (!r->part || identify(r, ids, n_ids, window) != SHOAL_OK ||
        begin_moments(r, model, (uint64_t)args->calibrate_weights.mib << 20) != SHOAL_OK) {
        return shoal_err_set(r->err, SHOAL_E_NOMEM, "no memory for the moments");
    }
    shoal_net_observe(r->windows.net, observe, r);
    return SHOAL_OK;
}

/* A large state takes long to write, and is written the less often. */
static shoal_status save(run *r, size_t done, uint64_t every_ms)
{
    uint64_t begin = now_ms();
    if (begin < r->save_ms) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_moments_save(r->moments, &r->id, (uint32_t)done, r->part, r->err));
    uint64_t end = now_ms();
    r->save_ms = end + SHOAL_MAX(every_ms, SAVE_SHARE * (end - begin));
    return SHOAL_OK;
}

static shoal_status run_text(run *r, const int32_t *ids, size_t n_ids, size_t window,
                             uint64_t every_ms)
{
    r->begin_ms = now_ms();
    r->shown_ms = r->begin_ms;
    r->save_ms = r->begin_ms + every_ms;
    for (size_t at = r->begun; at < n_ids; at += window) {
        size_t n = SHOAL_MIN(window, n_ids - at);
        shoal_forge_windows_run(&r->windows, ids + at, n);
        SHOAL_TRY(r->status);
        show(r, at + n, n_ids);
        SHOAL_TRY(save(r, at + n, every_ms));
    }
    return SHOAL_OK;
}

static void report(const forge_args *args, const shoal_moments *m, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < shoal_moments_n_inputs(m); i++) {
        uint64_t k = shoal_moments_input_at(m, i).k;
        bytes += (k * k + k) * sizeof(float);
    }
    (void)printf(args->json ? "{\"tokens\": %zu, \"layers\": %zu, \"inputs\": %zu, \"bytes\": "
                              "%" PRIu64 "}\n"
                            : "%zu tokens, %zu layers with %zu inputs, %" PRIu64
                              " bytes of moments\n",
                 n, shoal_moments_n_layers(m), shoal_moments_n_inputs(m), bytes);
}

shoal_status shoal_forge_calibrate_weights(const forge_args *args, shoal_err *err)
{
    SHOAL_TRY(shoal_forge_need(args->file, "-f FILE", err));
    SHOAL_TRY(shoal_forge_need(args->output, "-o FILE", err));
    SHOAL_CLEANUP(shoal_model_freep) shoal_model *model = NULL;
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = NULL;
    SHOAL_CLEANUP(run_close) run r = {.err = err};
    size_t n = 0;
    SHOAL_TRY(shoal_model_load(args->model, &model, err));
    SHOAL_TRY(shoal_forge_read_ids(args->file, args->calibrate_weights.ids,
                                   (size_t)args->calibrate_weights.tokens, model, &ids, &n, err));
    size_t window = SHOAL_MIN((size_t)args->calibrate_weights.window, model->hp.n_ctx);
    SHOAL_TRY(run_new(&r, args, model, ids, n, window));
    SHOAL_TRY(run_text(&r, ids, n, window, 1000 * (uint64_t)args->calibrate_weights.save_s));
    SHOAL_TRY(shoal_moments_write(r.moments, args->output, err));
    (void)unlink(r.part);
    report(args, r.moments, n);
    return SHOAL_OK;
}
