/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands share: a model with one sequence, lists of ids, output.
 */
#include "cloud/forge/forge.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

shoal_status shoal_forge_need(const char *value, const char *option, shoal_err *err)
{
    return value ? SHOAL_OK : shoal_err_set(err, SHOAL_E_INVALID, "%s is missing", option);
}

const char *shoal_forge_kv_type(const char *kv, bool *ret_hadamard)
{
    *ret_hadamard = strncmp(kv, "h-", 2) == 0;
    return *ret_hadamard ? kv + 2 : kv;
}

/* With a comma or a star it is levels by layer. */
static shoal_status parse_kv(const char *text, shoal_engine_settings *s, shoal_err *err)
{
    shoal_kv_type type = SHOAL_KV_F32;
    const char *name = shoal_forge_kv_type(text ? text : "auto", &s->kv_hadamard);
    s->kv_type = -1;
    if (strpbrk(name, ",*")) {
        s->kv_levels = name;
    } else if (shoal_kv_type_parse(name, &type) == 0) {
        s->kv_type = (int)type;
    } else if (strcmp(name, "auto") != 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--kv %s: known are auto, f16, f32, q8t, q8, q4, q3, keys and values "
                             "apart, as k8v4, and sealed ones by layer, as q8*2,q4; in Hadamard's "
                             "basis each with h- before it, as h-q3",
                             text);
    }
    return SHOAL_OK;
}

static shoal_status parse_evict(const forge_args *args, shoal_engine_settings *settings,
                                shoal_err *err)
{
    if (!args->evict != !args->budget) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--evict and --budget go together");
    }
    settings->kv_evict = args->evict ? shoal_kv_evict_find(args->evict) : NULL;
    settings->kv_budget = (size_t)args->budget;
    if (args->evict && !settings->kv_evict) {
        return shoal_err_set(err, SHOAL_E_INVALID, "--evict %s: known are %s", args->evict,
                             shoal_kv_evict_names());
    }
    return SHOAL_OK;
}

shoal_status shoal_forge_parse_lora(const char *text, char **ret_path, float *ret_strength,
                                    shoal_err *err)
{
    double strength = 0;
    bool numbered = false;
    SHOAL_TRY(shoal_path_numbered(text, ret_path, &strength, &numbered, err));
    *ret_strength = numbered ? (float)strength : 1;
    return SHOAL_OK;
}

/* The adapter of all sequences, and room for it in a step. */
static shoal_status open_lora(const forge_args *args, forge_session *s,
                              shoal_engine_settings *settings, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_free_cleanup) char *path = NULL;
    float strength = 1;
    if (!args->lora) {
        return SHOAL_OK;
    }
    SHOAL_TRY(shoal_forge_parse_lora(args->lora, &path, &strength, err));
    SHOAL_TRY(shoal_lora_load(s->model, path, strength, &s->lora, err));
    settings->n_loras_max = 1;
    settings->lora_rank_max = shoal_lora_rank(s->lora);
    return SHOAL_OK;
}

shoal_status shoal_forge_engine_settings(const forge_args *args, const shoal_model *model,
                                         size_t n_rows, size_t n_logits, size_t kv_tokens,
                                         size_t n_seqs, shoal_engine_settings *ret_settings,
                                         shoal_err *err)
{
    shoal_engine_settings settings = shoal_engine_settings_default();
    settings.n_threads = (size_t)args->threads;
    settings.n_rows_max = n_rows;
    settings.n_logits_max = n_logits;
    settings.n_ctx = (size_t)args->ctx;
    SHOAL_TRY(parse_kv(args->kv, &settings, err));
    SHOAL_TRY(parse_evict(args, &settings, err));
    if (args->cpu_mask && shoal_cpu_mask_parse(args->cpu_mask, &settings.cpu_mask) < 0) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "--cpu-mask %s: known are scalar, avx2, avx512, native",
                             args->cpu_mask);
    }
    size_t n_ctx = settings.n_ctx ? settings.n_ctx : model->hp.n_ctx;
    size_t n_tokens = kv_tokens ? kv_tokens : n_ctx;
    shoal_kv_shape shape = shoal_model_kv_shape(&model->hp, SHOAL_KV_F32);
    size_t n_pages = shoal_kv_pages_for(&shape, n_rows, n_tokens + SHOAL_KV_BLOCK);
    size_t one = n_pages * shoal_kv_page_bytes(&shape);
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_kv_type *types = NULL;
    if (settings.kv_levels) {
        types = shoal_calloc(shape.n_layers, sizeof *types);
        SHOAL_TRY(types ? shoal_kv_types_parse(settings.kv_levels, shape.n_layers, types, err)
                        : shoal_err_set(err, SHOAL_E_NOMEM, "no memory for KV levels"));
    }
    if (types || settings.kv_type >= 0) { /* sealed blocks have open ones beside them */
        shape =
            shoal_model_kv_shape(&model->hp, types ? types[0] : (shoal_kv_type)settings.kv_type);
        shape.types = types;
        n_pages = shoal_kv_pages_for(&shape, n_rows, n_tokens + SHOAL_KV_BLOCK);
        one = SHOAL_MAX(one, n_pages * shoal_kv_page_bytes(&shape));
    }
    settings.kv_bytes = n_seqs * one;
    *ret_settings = settings;
    return SHOAL_OK;
}

shoal_status shoal_forge_session_open(const forge_args *args, size_t n_rows, size_t n_logits,
                                      size_t kv_tokens, forge_session *ret_session, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_forge_session_close) forge_session s = {0};
    shoal_engine_settings settings;
    SHOAL_TRY(shoal_model_load(args->model, &s.model, err));
    SHOAL_TRY(
        shoal_forge_engine_settings(args, s.model, n_rows, n_logits, kv_tokens, 1, &settings, err));
    SHOAL_TRY(open_lora(args, &s, &settings, err));
    SHOAL_TRY(shoal_engine_new(s.model, &settings, &s.engine, err));
    if (shoal_kv_seq_new(shoal_engine_kv(s.engine), &s.seq) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for the sequence");
    }
    *ret_session = s;
    memset(&s, 0, sizeof s);
    return SHOAL_OK;
}

void shoal_forge_session_close(forge_session *session)
{
    shoal_kv_seq_free(session->seq);
    shoal_engine_free(session->engine);
    shoal_lora_free(session->lora);
    shoal_model_free(session->model);
    memset(session, 0, sizeof *session);
}

/* Of this program alone: what getrusage gives begins with that of the one that forked. */
shoal_status shoal_forge_peak_mib(double *ret_mib, shoal_err *err)
{
    static const char label[] = "VmHWM:";
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf text = {0};
    SHOAL_TRY(shoal_file_read("/proc/self/status", 1 << 16, &text, err));
    const char *at = strstr(text.data, label);
    *ret_mib = at ? strtod(at + sizeof label - 1, NULL) / 1024.0 : 0;
    return SHOAL_OK;
}

static int compare_times(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;
    return (*x > *y) - (*x < *y);
}

shoal_status shoal_forge_step_ms(forge_session *session, const int32_t *ids, size_t n,
                                 double *ret_ms)
{
    const shoal_clock clock = shoal_clock_real();
    uint64_t times[FORGE_STEPS] = {0};
    size_t n_steps = SHOAL_MIN(shoal_engine_n_ctx(session->engine), (size_t)FORGE_STEPS);
    (void)shoal_kv_seq_truncate(session->seq, 0);
    for (size_t i = 0; i < n_steps; i++) {
        int32_t id = n > 0 ? ids[i % n] : (int32_t)(i * 7919 % session->model->hp.n_vocab);
        shoal_span span = {.seq = session->seq, .ids = &id, .n_ids = 1, .n_logits = 1};
        uint64_t begin = shoal_clock_now_ns(&clock);
        SHOAL_TRY(shoal_engine_step(session->engine, &span, 1));
        times[i] = shoal_clock_now_ns(&clock) - begin;
    }
    qsort(times, n_steps, sizeof *times, compare_times);
    *ret_ms = (double)SHOAL_MAX(times[n_steps / 2], (uint64_t)1) * 1e-6;
    return SHOAL_OK;
}

shoal_status shoal_forge_parse_ids(const char *text, size_t n_vocab, int32_t **ret_ids,
                                   size_t *ret_n, shoal_err *err)
{
    size_t room = 1;
    for (const char *c = text; *c; c++) {
        room += *c == ',' || *c == ' ' || *c == '\n';
    }
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *ids = shoal_calloc(room, sizeof *ids);
    if (!ids) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu ids", room);
    }
    size_t n = 0;
    const char *at = text + strspn(text, ", \t\r\n");
    while (*at) {
        char *end = NULL;
        errno = 0;
        long value = strtol(at, &end, 10);
        if (end == at || errno != 0 || value < 0 || (size_t)value >= n_vocab) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "token %zu (\"%.20s\") is no id from 0 to %zu", n, at,
                                 n_vocab - 1);
        }
        ids[n++] = (int32_t)value;
        at = end + strspn(end, ", \t\r\n");
        if (at == end && *at) {
            return shoal_err_set(err, SHOAL_E_INVALID, "after token %zu: \"%.20s\" is not a comma",
                                 n, at);
        }
    }
    if (n == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "the list of token ids is empty");
    }
    *ret_ids = SHOAL_STEAL(ids);
    *ret_n = n;
    return SHOAL_OK;
}

shoal_status shoal_forge_json_string(shoal_buf *buf, const char *text, size_t n)
{
    SHOAL_TRY(shoal_buf_append(buf, "\"", 1));
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\%c", c));
        } else if (c < 0x20) {
            SHOAL_TRY(shoal_buf_appendf(buf, "\\u%04x", c));
        } else {
            SHOAL_TRY(shoal_buf_append(buf, &text[i], 1));
        }
    }
    return shoal_buf_append(buf, "\"", 1);
}

shoal_status shoal_forge_print(const shoal_buf *buf, shoal_err *err)
{
    size_t n = buf->length ? fwrite(buf->data, 1, buf->length, stdout) : 0;
    if (n != buf->length || fflush(stdout) != 0) {
        return shoal_err_set(err, SHOAL_E_IO, "cannot write to the standard output");
    }
    return SHOAL_OK;
}
