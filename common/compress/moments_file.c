/* SPDX-License-Identifier: Apache-2.0
 *
 * Moments as a file. Tensors "input.<i>.moment" and "input.<i>.max" are F32; layers are arrays.
 */
#include "common/compress/moments_internal.h"

#include "common/base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    PIECE = 1 << 20 /* bytes written at a time */
};

/* |H_ij| <= sqrt(H_ii H_jj), but for what rounding does to sums in floats. */
#define CAUCHY_SLACK 1.001

shoal_status shoal_moments_digest(const shoal_moments *m, shoal_hash *ret_digest)
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update_field(hasher, m->model.bytes, sizeof m->model.bytes);
    for (size_t i = 0; i < m->n_layers; i++) {
        const shoal_moments_layer *l = &m->layers[i];
        const uint64_t numbers[3] = {l->row, l->n_rows, l->input};
        shoal_hasher_update_field(hasher, l->name, strlen(l->name));
        shoal_hasher_update(hasher, numbers, sizeof numbers);
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        const moments_input *in = &m->inputs[i];
        const uint64_t numbers[2] = {in->k, in->n};
        shoal_hasher_update(hasher, numbers, sizeof numbers);
        shoal_hasher_update(hasher, in->moment, in->k * in->k * sizeof *in->moment);
        shoal_hasher_update(hasher, in->max, in->k * sizeof *in->max);
    }
    shoal_hasher_finish(hasher, ret_digest);
    return SHOAL_OK;
}

/* --- checks ---------------------------------------------------------------------------------- */

static shoal_status check_input(const moments_input *in, size_t i, shoal_err *err)
{
    for (size_t r = 0; r < in->k; r++) {
        const float *row = in->moment + r * in->k;
        if (!isfinite(in->max[r]) || in->max[r] < 0 || !isfinite(row[r]) || row[r] < 0) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "input %zu: element %zu has a second moment or a maximum that is "
                                 "negative or not finite",
                                 i, r);
        }
        for (size_t c = 0; c < r; c++) {
            double most = sqrt((double)row[r] * (double)in->moment[c * in->k + c]);
            if (!(fabs((double)row[c]) <= CAUCHY_SLACK * most + 1e-30) ||
                row[c] != in->moment[c * in->k + r]) {
                return shoal_err_set(err, SHOAL_E_INVALID,
                                     "input %zu: elements %zu and %zu are no second moments of "
                                     "anything",
                                     i, r, c);
            }
        }
    }
    return SHOAL_OK;
}

/* --- writing --------------------------------------------------------------------------------- */

static void mirror(moments_input *in)
{
    for (size_t r = 0; r < in->k; r++) {
        for (size_t c = 0; c < r; c++) {
            in->own[c * in->k + r] = in->own[r * in->k + c];
        }
    }
}

static shoal_status put_layers(const shoal_moments *m, shoal_gguf_writer *w)
{
    size_t n = SHOAL_MAX(m->n_layers, m->n_inputs);
    SHOAL_CLEANUP(shoal_free_cleanup) shoal_str *names = shoal_calloc(n, sizeof *names);
    SHOAL_CLEANUP(shoal_free_cleanup) int32_t *numbers = shoal_calloc(4 * n, sizeof *numbers);
    if (!names || !numbers) {
        return SHOAL_E_NOMEM;
    }
    for (size_t i = 0; i < m->n_layers; i++) {
        const shoal_moments_layer *l = &m->layers[i];
        names[i] = (shoal_str){.data = l->name, .length = strlen(l->name)};
        numbers[i] = (int32_t)l->row;
        numbers[n + i] = (int32_t)l->n_rows;
        numbers[2 * n + i] = (int32_t)l->input;
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        numbers[3 * n + i] = (int32_t)m->inputs[i].n;
    }
    SHOAL_TRY(shoal_gguf_put_str_array(w, "shoal.moments.names", names, m->n_layers));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.moments.rows", numbers, m->n_layers));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.moments.n_rows", numbers + n, m->n_layers));
    SHOAL_TRY(shoal_gguf_put_i32_array(w, "shoal.moments.inputs", numbers + 2 * n, m->n_layers));
    return shoal_gguf_put_i32_array(w, "shoal.moments.tokens", numbers + 3 * n, m->n_inputs);
}

/* Of a run and how far it is. */
static shoal_status state_of(const shoal_hash *run, uint64_t done, char ret_hex[SHOAL_HASH_HEX])
{
    SHOAL_CLEANUP(shoal_hasher_freep) shoal_hasher *hasher = NULL;
    shoal_hash state;
    SHOAL_TRY(shoal_hasher_new(&hasher));
    shoal_hasher_update(hasher, run->bytes, sizeof run->bytes);
    shoal_hasher_update(hasher, &done, sizeof done);
    shoal_hasher_finish(hasher, &state);
    shoal_hash_hex(&state, ret_hex);
    return SHOAL_OK;
}

/* run NULL: it is finished. */
static shoal_status put_head(const shoal_moments *m, const shoal_hash *run, uint32_t done,
                             shoal_gguf_writer *w)
{
    char hex[SHOAL_HASH_HEX];
    shoal_hash digest;
    SHOAL_TRY(shoal_moments_digest(m, &digest));
    SHOAL_TRY(shoal_gguf_put_str(w, "general.architecture", MOMENTS_ARCHITECTURE));
    SHOAL_TRY(shoal_gguf_put_u32(w, "shoal.moments.version", MOMENTS_VERSION));
    shoal_hash_hex(&m->model, hex);
    SHOAL_TRY(shoal_gguf_put_str(w, "shoal.moments.model", hex));
    shoal_hash_hex(&digest, hex);
    SHOAL_TRY(shoal_gguf_put_str(w, "shoal.moments.digest", hex));
    if (run) {
        SHOAL_TRY(state_of(run, done, hex));
        SHOAL_TRY(shoal_gguf_put_u32(w, "shoal.moments.done", done));
        SHOAL_TRY(shoal_gguf_put_str(w, "shoal.moments.state", hex));
    }
    SHOAL_TRY(put_layers(m, w));
    for (size_t i = 0; i < m->n_inputs; i++) {
        char name[SHOAL_GGUF_NAME_MAX];
        uint64_t dims[2] = {m->inputs[i].k, m->inputs[i].k};
        (void)snprintf(name, sizeof name, "input.%zu.moment", i);
        SHOAL_TRY(shoal_gguf_put_tensor(w, name, SHOAL_TYPE_F32, dims, 2, NULL));
        (void)snprintf(name, sizeof name, "input.%zu.max", i);
        SHOAL_TRY(shoal_gguf_put_tensor(w, name, SHOAL_TYPE_F32, dims, 1, NULL));
    }
    return SHOAL_OK;
}

static shoal_status write_tensor(shoal_file_out *out, const shoal_gguf_writer *w, const float *x,
                                 uint64_t n, shoal_err *err)
{
    static const uint8_t zeros[SHOAL_GGUF_ALIGNMENT_MAX];
    const uint8_t *data = (const uint8_t *)x;
    uint64_t n_bytes = n * sizeof *x;
    for (uint64_t at = 0; at < n_bytes; at += PIECE) {
        SHOAL_TRY(shoal_file_out_write(out, data + at,
                                       (size_t)SHOAL_MIN(n_bytes - at, (uint64_t)PIECE), err));
    }
    return shoal_file_out_write(out, zeros, shoal_gguf_writer_padding(w, n_bytes), err);
}

static shoal_status write_file(shoal_moments *m, const shoal_hash *run, uint32_t done,
                               const char *path, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_gguf_writer_freep) shoal_gguf_writer *w = NULL;
    SHOAL_CLEANUP(shoal_buf_fini) shoal_buf head = {0};
    SHOAL_CLEANUP(shoal_file_out_closep) shoal_file_out *out = NULL;
    if (m->n_layers == 0) {
        return shoal_err_set(err, SHOAL_E_INVALID, "no layer has seen a token: give a longer text");
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        mirror(&m->inputs[i]);
        SHOAL_TRY(check_input(&m->inputs[i], i, err));
    }
    shoal_status status = shoal_gguf_writer_new(&w);
    status = status == SHOAL_OK ? put_head(m, run, done, w) : status;
    if (status != SHOAL_OK) {
        return shoal_err_set(err, status, "%s: no memory to write moments", path);
    }
    SHOAL_TRY(shoal_gguf_writer_head(w, &head, err));
    SHOAL_TRY(shoal_file_out_open(path, &out, err));
    SHOAL_TRY(shoal_file_out_write(out, head.data, head.length, err));
    for (size_t i = 0; i < m->n_inputs; i++) {
        const moments_input *in = &m->inputs[i];
        SHOAL_TRY(write_tensor(out, w, in->moment, (uint64_t)in->k * in->k, err));
        SHOAL_TRY(write_tensor(out, w, in->max, in->k, err));
    }
    return shoal_file_out_commit(out, err);
}

shoal_status shoal_moments_write(shoal_moments *m, const char *path, shoal_err *err)
{
    m->finished = true;
    return write_file(m, NULL, 0, path, err);
}

shoal_status shoal_moments_save(shoal_moments *m, const shoal_hash *run, uint32_t done,
                                const char *path, shoal_err *err)
{
    return write_file(m, run, done, path, err);
}

/* --- reading --------------------------------------------------------------------------------- */

static bool is_text(shoal_str s, const char *text)
{
    return s.length == strlen(text) && memcmp(s.data, text, s.length) == 0;
}

static shoal_status check_head(const shoal_gguf *g, const shoal_hash *model, shoal_err *err)
{
    shoal_str text;
    uint64_t version = 0;
    char hex[SHOAL_HASH_HEX];
    SHOAL_TRY(shoal_gguf_get_str(g, "general.architecture", &text, err));
    if (!is_text(text, MOMENTS_ARCHITECTURE)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "this is a GGUF of something else: calibrate-weights makes moments");
    }
    SHOAL_TRY(shoal_gguf_get_u64(g, "shoal.moments.version", &version, err));
    if (version != MOMENTS_VERSION) {
        return shoal_err_set(err, SHOAL_E_UNSUPPORTED,
                             "moments of version %llu, this program reads %d: make them anew",
                             (unsigned long long)version, MOMENTS_VERSION);
    }
    SHOAL_TRY(shoal_gguf_get_str(g, "shoal.moments.model", &text, err));
    shoal_hash_hex(model, hex);
    return is_text(text, hex) ? SHOAL_OK
                              : shoal_err_set(err, SHOAL_E_MISMATCH,
                                              "the moments are of another model: run "
                                              "calibrate-weights with this one");
}

static shoal_status check_array(const shoal_gguf *g, const char *key, shoal_gguf_kind want,
                                size_t max, size_t *inout_n, shoal_err *err)
{
    shoal_gguf_kind kind = SHOAL_GGUF_U8;
    size_t n = 0;
    SHOAL_TRY(shoal_gguf_get_array(g, key, &kind, &n, err));
    if (kind != want || n < 1 || n > max || (*inout_n > 0 && n != *inout_n)) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "%s: an array of %zu that does not fit the others", key, n);
    }
    *inout_n = n;
    return SHOAL_OK;
}

static shoal_status read_layers(shoal_moments *m, size_t n_inputs, size_t *ret_n, shoal_err *err)
{
    size_t n = 0;
    const size_t max = SHOAL_MOMENTS_LAYERS_MAX;
    SHOAL_TRY(check_array(m->gguf, "shoal.moments.names", SHOAL_GGUF_STRING, max, &n, err));
    SHOAL_TRY(check_array(m->gguf, "shoal.moments.rows", SHOAL_GGUF_I32, max, &n, err));
    SHOAL_TRY(check_array(m->gguf, "shoal.moments.n_rows", SHOAL_GGUF_I32, max, &n, err));
    SHOAL_TRY(check_array(m->gguf, "shoal.moments.inputs", SHOAL_GGUF_I32, max, &n, err));
    m->layers = shoal_calloc(n, sizeof *m->layers);
    if (!m->layers) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu layers", n);
    }
    for (size_t i = 0; i < n; i++) {
        shoal_str name = shoal_gguf_array_str(m->gguf, "shoal.moments.names", i);
        int64_t row = shoal_gguf_array_i64(m->gguf, "shoal.moments.rows", i);
        int64_t n_rows = shoal_gguf_array_i64(m->gguf, "shoal.moments.n_rows", i);
        int64_t input = shoal_gguf_array_i64(m->gguf, "shoal.moments.inputs", i);
        if (name.length < 1 || name.length >= SHOAL_GGUF_NAME_MAX || row < 0 || n_rows < 1 ||
            input < 0 || (uint64_t)input >= n_inputs || memchr(name.data, 0, name.length) != NULL) {
            return shoal_err_set(err, SHOAL_E_INVALID,
                                 "layer %zu of the moments has a name, rows or an input that "
                                 "cannot be",
                                 i);
        }
        memcpy(m->layers[i].name, name.data, name.length);
        m->layers[i].row = (size_t)row;
        m->layers[i].n_rows = (size_t)n_rows;
        m->layers[i].input = (size_t)input;
    }
    *ret_n = n;
    return SHOAL_OK;
}

static shoal_status find_floats(const shoal_gguf *g, size_t i, const char *what, size_t n_rows,
                                size_t *inout_k, const float **ret_x, shoal_err *err)
{
    char name[SHOAL_GGUF_NAME_MAX];
    (void)snprintf(name, sizeof name, "input.%zu.%s", i, what);
    const shoal_gguf_tensor *t = shoal_gguf_find_tensor(g, name);
    uint64_t k = t ? t->dims[0] : 0;
    bool fits = t && t->type == SHOAL_TYPE_F32 && k >= 1 && k <= SHOAL_MOMENTS_WIDTH_MAX &&
                t->dims[1] == (n_rows ? n_rows : k) && t->dims[2] == 1 && t->dims[3] == 1 &&
                (*inout_k == 0 || k == *inout_k) && (uintptr_t)t->data % sizeof(float) == 0;
    if (!fits) {
        return shoal_err_set(err, SHOAL_E_INVALID,
                             "tensor %s is missing, or no F32 of the shape it must have", name);
    }
    *inout_k = (size_t)k;
    *ret_x = (const float *)(const void *)t->data;
    return SHOAL_OK;
}

static shoal_status read_inputs(shoal_moments *m, size_t n, shoal_err *err)
{
    m->inputs = shoal_calloc(n, sizeof *m->inputs);
    if (!m->inputs) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for %zu inputs", n);
    }
    m->n_inputs = n;
    for (size_t i = 0; i < n; i++) {
        moments_input *in = &m->inputs[i];
        int64_t tokens = shoal_gguf_array_i64(m->gguf, "shoal.moments.tokens", i);
        if (tokens < 1) {
            return shoal_err_set(err, SHOAL_E_INVALID, "input %zu was seen for no token", i);
        }
        in->n = (uint64_t)tokens;
        SHOAL_TRY(find_floats(m->gguf, i, "moment", 0, &in->k, &in->moment, err));
        SHOAL_TRY(find_floats(m->gguf, i, "max", 1, &in->k, &in->max, err));
        SHOAL_TRY(check_input(in, i, err));
    }
    return SHOAL_OK;
}

static shoal_status read_all(shoal_moments *m, shoal_err *err)
{
    size_t n_inputs = 0;
    SHOAL_TRY(check_head(m->gguf, &m->model, err));
    SHOAL_TRY(check_array(m->gguf, "shoal.moments.tokens", SHOAL_GGUF_I32, SHOAL_MOMENTS_LAYERS_MAX,
                          &n_inputs, err));
    SHOAL_TRY(read_layers(m, n_inputs, &m->n_layers, err));
    SHOAL_TRY(read_inputs(m, n_inputs, err));
    shoal_hash digest;
    char hex[SHOAL_HASH_HEX];
    shoal_str text;
    if (shoal_moments_digest(m, &digest) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a digest");
    }
    shoal_hash_hex(&digest, hex);
    SHOAL_TRY(shoal_gguf_get_str(m->gguf, "shoal.moments.digest", &text, err));
    return is_text(text, hex) ? SHOAL_OK
                              : shoal_err_set(err, SHOAL_E_INVALID,
                                              "the moments are damaged, their digest is another: "
                                              "make them anew");
}

shoal_status shoal_moments_open(const char *path, const shoal_hash *model,
                                shoal_moments **ret_moments, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    if (shoal_moments_new(model, 0, &m) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "%s: no memory", path);
    }
    SHOAL_TRY(shoal_map_open(path, &m->map, err));
    shoal_status status = shoal_gguf_open(m->map.data, m->map.size, &m->gguf, err);
    status = status == SHOAL_OK ? read_all(m, err) : status;
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", path);
        return status;
    }
    *ret_moments = SHOAL_STEAL(m);
    return SHOAL_OK;
}

/* --- going on -------------------------------------------------------------------------------- */

static shoal_status check_state(const shoal_gguf *g, const shoal_hash *run, uint64_t *ret_done,
                                shoal_err *err)
{
    shoal_str text;
    char hex[SHOAL_HASH_HEX];
    SHOAL_TRY(shoal_gguf_get_u64(g, "shoal.moments.done", ret_done, err));
    SHOAL_TRY(shoal_gguf_get_str(g, "shoal.moments.state", &text, err));
    if (state_of(run, *ret_done, hex) != SHOAL_OK) {
        return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for a digest");
    }
    return is_text(text, hex) && *ret_done <= UINT32_MAX
               ? SHOAL_OK
               : shoal_err_set(err, SHOAL_E_MISMATCH,
                               "this was begun with another text or other settings");
}

/* What was mapped becomes memory that can be added to. */
static shoal_status own_inputs(shoal_moments *m, uint64_t limit_bytes, shoal_err *err)
{
    for (size_t i = 0; i < m->n_inputs; i++) {
        moments_input *in = &m->inputs[i];
        m->n_bytes += ((uint64_t)in->k * in->k + in->k) * sizeof(float);
    }
    if (m->n_bytes > limit_bytes) {
        return shoal_err_set(
            err, SHOAL_E_LIMIT, "moments of %llu MiB, and %llu MiB are allowed: allow more",
            (unsigned long long)(m->n_bytes >> 20), (unsigned long long)(limit_bytes >> 20));
    }
    for (size_t i = 0; i < m->n_inputs; i++) {
        moments_input *in = &m->inputs[i];
        in->own = shoal_calloc_aligned(in->k * in->k, sizeof *in->own);
        in->own_max = shoal_calloc(in->k, sizeof *in->own_max);
        if (!in->own || !in->own_max) {
            return shoal_err_set(err, SHOAL_E_NOMEM, "no memory for moments of %zu elements",
                                 in->k);
        }
        memcpy(in->own, in->moment, in->k * in->k * sizeof *in->own);
        memcpy(in->own_max, in->max, in->k * sizeof *in->own_max);
        in->moment = in->own;
        in->max = in->own_max;
    }
    m->limit_bytes = limit_bytes;
    m->n_layers_max = m->n_layers;
    m->n_inputs_max = m->n_inputs;
    return SHOAL_OK;
}

shoal_status shoal_moments_resume(const char *path, const shoal_hash *model, const shoal_hash *run,
                                  uint64_t limit_bytes, shoal_moments **ret_moments,
                                  uint32_t *ret_done, shoal_err *err)
{
    SHOAL_CLEANUP(shoal_moments_freep) shoal_moments *m = NULL;
    uint64_t done = 0;
    SHOAL_TRY(shoal_moments_open(path, model, &m, err));
    shoal_status status = check_state(m->gguf, run, &done, err);
    status = status == SHOAL_OK ? own_inputs(m, limit_bytes, err) : status;
    if (status != SHOAL_OK) {
        shoal_err_prefix(err, "%s", path);
        return status;
    }
    shoal_gguf_close(m->gguf);
    shoal_map_close(&m->map);
    m->gguf = NULL;
    *ret_moments = SHOAL_STEAL(m);
    *ret_done = (uint32_t)done;
    return SHOAL_OK;
}
